"""Builder of the metrics (notebook 08): every arm's scores, the routed experts against each, routing and regret."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from assl_kit.common.files import write_json
from assl_kit.data.splits import sample_by_task, training_pool

from .build_data import evaluation_records
from .parameters import Parameters
from .parents import Parents
from .workspace import Workspace


def build_metrics(ws: Workspace, parents: Parents, p: Parameters, path: Path) -> None:
    """The scores of every arm, the differences to the routed experts, the routing, the regret."""
    from assl_kit.evaluation.intervals import evaluate, paired_difference
    from assl_kit.evaluation.metrics import baseline_answers, metric_of, score_answers
    from assl_kit.evaluation.routing import home_experts, regret_table, routing_table
    from assl_kit.space.cluster_quality import cluster_task_agreement, cluster_task_table

    records, selection = parents["records"], parents["selection"]
    train, test = training_pool(records), evaluation_records(records, p)
    comparison, routed = parents["comparison"], parents["answers"]
    answers = {"majority / lead": baseline_answers(train, test)}
    for arm in comparison["arm"].unique():
        if not arm.startswith("expert-"):
            answers[arm] = _in_order(test, comparison[comparison["arm"] == arm])
    answers[ROUTED] = _in_order(test, routed)
    table = pd.concat([evaluate(test, text, arm=arm, seed=p.seed) for arm, text in answers.items()])

    differences = []
    for arm in answers:
        if arm != ROUTED:
            found = paired_difference(test, answers[ROUTED], answers[arm], seed=p.seed).iloc[-1]
            differences.append({"arm": ROUTED, "against": arm} | found[["difference", "low", "high"]].to_dict())
            differences[-1]["inside"] = bool(found["inside_interval"])

    clusters = train.merge(parents["clusters"], on="id")
    labels, tasks = clusters["cluster"].to_numpy(), clusters["task"].to_numpy()
    counts = cluster_task_table(labels, tasks)
    route = test[["id", "task"]].merge(routed, on="id")
    routing = routing_table(route["task"], route["expert"], home_experts(tasks, labels))
    shares = routing.home_share.drop("all")

    regret = []
    if p.regret_per_task:
        sample = sample_by_task(test, p.regret_per_task, p.seed)
        metric = {task: metric_of(task, list(rows["output"])) for task, rows in test.groupby("task")}

        def scores(rows):
            parts = zip(sample["task"], sample["output"], _in_order(sample, rows), strict=True)
            return np.array([score_answers([right], [said], metric[task])[0] for task, right, said in parts])

        every = [scores(rows) for _, rows in comparison[comparison["arm"].str.startswith("expert-")].groupby("arm")]
        regret = regret_table(scores(routed), np.column_stack(every), sample["task"]).to_dict("records")

    kept = train.merge(selection, on="id", how="left")
    result = {
        "table": table.astype(object).where(table.notna(), None).to_dict("records"),
        "differences": differences,
        "routing": {
            "accuracy": float(routing.home_share["all"]),
            "nmi": routing.nmi,
            "by_task": [{"task": task, "home_share": float(share)} for task, share in shares.items()],
        },
        "clusters": cluster_task_agreement(labels, tasks)
        | {"table": {str(c): {t: int(n) for t, n in row.items()} for c, row in counts.iterrows()}},
        "regret": regret,
        "kept": {f"by_{column}": _kept(kept, column) for column in ("source", "task")},
        "corpus": {
            "records": len(records),
            "train": len(train),
            "test": len(test),
            "chosen": int(kept["copies"].sum()),
        },
    }
    write_json(path, result)


ROUTED = "chosen tenth, routed experts"


def _in_order(records: pd.DataFrame, answers: pd.DataFrame) -> list[str]:
    return (
        records[["id"]].merge(answers[["id", "answer"]], on="id", how="left", validate="one_to_one")["answer"].tolist()
    )


def _kept(kept: pd.DataFrame, column: str) -> list[dict]:
    """Records of each source (or task) there are, how many different ones were kept, and with copies."""
    groups = kept.groupby(column)
    table = groups.agg(available=("id", "size"), kept=("copies", "count"), copies=("copies", "sum")).astype(int)
    return table.sort_values("available", ascending=False, kind="stable").reset_index().to_dict("records")
