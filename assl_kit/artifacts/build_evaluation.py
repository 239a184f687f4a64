"""Builders of what is measured: learning curves (notebook 04), the referee's verdict (05), the metrics (08)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from assl_kit.common.files import write_json
from assl_kit.common.names import by_number
from assl_kit.data.groups import with_groups
from assl_kit.data.splits import sample_by_task, training_pool
from assl_kit.errors import DataError

from .build_data import evaluation_records
from .parameters import Parameters
from .parents import Parents
from .workspace import Workspace

CHOSEN = "chosen"
"""The arm of the chosen records, in the referee's tables."""
ROUTED = "chosen tenth, routed experts"
"""The arm of the routed experts, in the metrics and in figures."""


def wants_curves(p: Parameters) -> bool:
    """Whether budgets ask for learning curves."""
    return p.budget == "curve" and p.selection != "literal"


def build_curves(ws: Workspace, parents: Parents, p: Parameters, path: Path) -> None:
    """The learning curve of each group, measured within the training records; none if budgets do not ask for them."""
    from assl_kit.evaluation.judge import hold_out
    from assl_kit.evaluation.referee import learning_curves

    if not wants_curves(p):
        write_json(path, {"curves": []})
        return
    train = with_groups(training_pool(parents["records"]), by=p.groups)
    measured = learning_curves(hold_out(train.assign(split="train"), by="group", seed=p.seed), by="group", seed=p.seed)
    curves = pd.DataFrame([curve.as_dict() for curve in measured]).set_index("group")
    # A group too small to be measured, or whose answers no cheap learner can learn, rises as the middle one does.
    curves = curves.reindex(sorted(train["group"].unique(), key=by_number))
    unknown = curves["b"].isna()
    for name in ("a", "b", "c"):
        curves.loc[unknown, name] = curves[name].median()
    rows = curves[["a", "b", "c"]].assign(measured=~unknown).reset_index(names="group").to_dict("records")
    write_json(path, {"curves": rows})


def build_referee(ws: Workspace, parents: Parents, p: Parameters, path: Path) -> None:
    """The chosen records against random ones of the same number, by cheap learners; and each group's learning curve."""
    from assl_kit.evaluation.referee import referee

    if not p.referee_draws:
        write_json(path, {"skipped": "referee_draws is 0"})
        return
    records, selection = with_groups(parents["records"], by=p.groups), parents["selection"]
    chosen = selection["id"].repeat(selection["copies"]).tolist()
    try:
        verdict = referee(records, {CHOSEN: chosen}, by="group", n_draws=p.referee_draws, curves=True, seed=p.seed)
    except DataError as error:  # unlabelled data, or too few questions: the run goes on without
        write_json(path, {"skipped": str(error)})
        return
    write_json(path, verdict.as_dict())


def build_metrics(ws: Workspace, parents: Parents, p: Parameters, path: Path) -> None:
    """The scores of every arm, the differences to the routed experts, the routing, the regret."""
    from assl_kit.evaluation.intervals import evaluate
    from assl_kit.evaluation.metrics import baseline_answers
    from assl_kit.evaluation.routing import home_experts, routing_table
    from assl_kit.space.cluster_quality import cluster_task_agreement, cluster_task_table

    records, selection, routed = parents["records"], parents["selection"], parents["answers"]
    train, test = training_pool(records), evaluation_records(records, p)
    clusters = train[["id", "task"]].merge(parents["clusters"], on="id")
    labels, tasks = clusters["cluster"].to_numpy(), clusters["task"].to_numpy()
    arms = parents["comparison"].groupby("arm", sort=False)

    answers = {"majority / lead": baseline_answers(train, test)}
    answers |= {str(arm): _in_order(test, rows) for arm, rows in arms}
    answers[ROUTED] = _in_order(test, routed)
    table = pd.concat([evaluate(test, texts, arm=arm, seed=p.seed) for arm, texts in answers.items()])

    route = test[["id", "task"]].merge(routed, on="id")
    home = home_experts(tasks.tolist(), labels.tolist())
    routing = routing_table(route["task"].tolist(), route["expert"].tolist(), home)
    shares = routing.home_share.drop("all")
    counts = cluster_task_table(labels, tasks)
    by_cluster = {str(cluster): {task: int(n) for task, n in row.items()} for cluster, row in counts.iterrows()}
    kept = train[["id", "source", "task"]].merge(selection[["id", "copies"]], on="id", how="left")
    result = {
        "table": table.astype(object).where(table.notna(), None).to_dict("records"),
        "differences": _differences(test, answers, p.seed),
        "routing": {
            "accuracy": float(routing.home_share["all"]),
            "nmi": routing.nmi,
            "by_task": [{"task": task, "home_share": float(share)} for task, share in shares.items()],
        },
        "clusters": cluster_task_agreement(labels, tasks) | {"table": by_cluster},
        "regret": _regret(test, routed, parents["cross"], p),
        "kept": {f"by_{column}": _kept(kept, column) for column in ("source", "task")},
        "corpus": {
            "records": len(records),
            "train": len(train),
            "test": len(test),
            "chosen": int(kept["copies"].sum()),
        },
    }
    write_json(path, result)


def _differences(test: pd.DataFrame, answers: dict[str, list[str]], seed: int) -> list[dict]:
    """What the routed experts have over each other arm, in the mean over tasks, with its interval."""
    from assl_kit.evaluation.intervals import paired_difference

    rows = []
    for arm in answers:
        if arm == ROUTED:
            continue
        mean = paired_difference(test, answers[ROUTED], answers[arm], seed=seed).iloc[-1]
        row = {"arm": ROUTED, "against": arm} | mean[["difference", "low", "high"]].to_dict()
        rows.append(row | {"inside": bool(mean["inside_interval"])})
    return rows


def _regret(test: pd.DataFrame, routed: pd.DataFrame, cross: pd.DataFrame, p: Parameters) -> list[dict]:
    """What routing loses against the best single expert of each task, on the questions that every expert answered."""
    from assl_kit.evaluation.metrics import metric_of, score_answers
    from assl_kit.evaluation.routing import regret_table

    if not p.regret_per_task:
        return []
    sample = sample_by_task(test, p.regret_per_task, p.seed)
    metric = {task: metric_of(str(task), list(rows["output"])) for task, rows in test.groupby("task")}

    def scores(rows: pd.DataFrame) -> np.ndarray:
        parts = zip(sample["task"], sample["output"], _in_order(sample, rows), strict=True)
        return np.array([score_answers([right], [answer], metric[task])[0] for task, right, answer in parts])

    single = cross[cross["arm"] != "base"].groupby("arm", sort=False)  # one for each cluster, in their order
    by_expert = np.column_stack([scores(rows) for _, rows in single])
    return regret_table(scores(routed), by_expert, sample["task"].tolist()).to_dict("records")


def _in_order(records: pd.DataFrame, answers: pd.DataFrame) -> list[str]:
    """The answers to some records, in the order of these."""
    table = records[["id"]].merge(answers[["id", "answer"]], on="id", how="left", validate="one_to_one")
    return table["answer"].tolist()


def _kept(kept: pd.DataFrame, column: str) -> list[dict]:
    """Records of each source (or task) there are, how many different ones were kept, and with copies."""
    groups = kept.groupby(column)
    table = groups.agg(available=("id", "size"), kept=("copies", "count"), copies=("copies", "sum")).astype(int)
    return table.sort_values("available", ascending=False, kind="stable").reset_index().to_dict("records")
