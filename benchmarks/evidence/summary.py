"""From answers to records: measures with intervals, differences between arms, routing, affinity, stability."""

from __future__ import annotations

import itertools
import time
from functools import partial

import numpy as np
import pandas as pd
from joblib import Parallel, delayed
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

from assl_kit.common.files import read_json
from assl_kit.evaluation.affinity import affinity_vs_distance, task_affinity
from assl_kit.evaluation.intervals import evaluate, pooled_difference
from assl_kit.evaluation.metrics import metric_of, score_answers
from assl_kit.evaluation.routing import home_experts, regret_table, routing_table
from assl_kit.evaluation.stability import jaccard
from assl_kit.experts.router import CentroidRouter, expert_centroids
from assl_kit.space.cluster_quality import cluster_task_agreement, task_centroids
from assl_kit.space.clusters import SemanticKMeans

from .arms import read_answers
from .data import ENCODERS
from .study import VARIANTS, Study

CHOSEN, PAPER, ROUTED = "default 10 %", "paper 10 %", "experts by cluster"
STEPS = "steps of all data"
#: Differences that answer the paper's claims: experiment, arm, against.
DIFFERENCES = (
    [("selection", CHOSEN, other) for other in (
        "all data, 1 epoch", "all data, 4 epochs", "random 10 %", "balanced random 10 %", PAPER, "k-means medoids 10 %",
        "k-center 10 %", "base", "majority or lead", "random 20 %", "random 30 %")]
    + [("selection", f"default {p} %", f"random {p} %") for p in (1, 3, 5, 20, 30)]
    + [("selection", f"default 10 %, {STEPS}", other) for other in (
        f"random 10 %, {STEPS}", f"balanced random 10 %, {STEPS}", "all data, 1 epoch")]
    + [("selection", "balanced random 10 %", "random 10 %")]
    + [("selection", PAPER, other) for other in (
        "all data, 1 epoch", "random 10 %", "stage 1 alone 10 %", "stage 2 alone 10 %")]
    + [("selection", f"paper {p} %", f"random {p} %") for p in (1, 3, 5, 20, 30)]
    + [("experts", ROUTED, other) for other in (
        "all data, 1 epoch", "all data, 4 epochs", CHOSEN, "experts by task label", "experts by random split",
        "uniform merge", "two nearest merged", "Arrow", "base")]
    + [("experts", "experts by cluster, all data", "all data, 1 epoch")]
    + [("A-DBSCAN", PAPER, name) for name in VARIANTS]
    + [("encoder", ROUTED, f"experts by cluster, {name}") for name in ENCODERS[1:]]
)  # fmt: skip
_BOOTSTRAPS = 5
_FIELDS = ("experiment", "data", "base", "arm", "task", "metric", "value", "seed", "n_train", "device", "seconds")


def records_of_spaces(studies: list[Study], jobs: int = 1) -> list[dict]:
    """Records for which nothing is trained: where questions go, how far a selection stays the same."""
    tasks = [(study, name) for study in studies for name in (*ENCODERS, *VARIANTS, "paper", "random choice")]
    parts = Parallel(n_jobs=jobs)(delayed(_stability)(study, name) for study, name in tasks)
    return list(itertools.chain(*map(_routing, studies), *parts))


def records_of_arms(studies: list[Study]) -> list[dict]:
    """Records that come from training: of the arms answered so far, and the affinity if measured.

    ``seed`` is None where seeds are pooled.
    """
    answers = [read_answers(study) for study in studies]
    parts = [
        _arms(study, of_study) + _affinity(study) + _regret(study, of_study)
        for study, of_study in zip(studies, answers, strict=True)
    ]
    return [*itertools.chain(*parts), *_differences(studies, answers)]


def record(
    study: Study,
    experiment: str,
    arm: str,
    task: str,
    metric: str,
    value: float,
    *,
    seed=True,
    n_train=None,
    seconds=None,
    **more,
) -> dict:
    values = (
        experiment,
        study.label,
        study.base,
        arm,
        task,
        metric,
        _number(value),
        study.seed if seed else None,
        n_train,
        study.device,
        seconds,
    )
    return dict(zip(_FIELDS, values, strict=True)) | {key: _number(item) for key, item in more.items()}


def _number(value):
    if isinstance(value, float | np.floating):
        return round(float(value), 4) if np.isfinite(value) else None
    return value


def measures(rows: pd.DataFrame) -> dict[str, str] | None:
    """The measure of each task where the data set has its own."""
    known = rows.dropna(subset=["measure"])
    return dict(zip(known["task"], known["measure"], strict=True)) or None


def _arms(study: Study, answers: dict[str, dict]) -> list[dict]:
    records = []
    for arm, entry in answers.items():
        if arm.startswith("single "):
            continue
        experiment = "selection"
        if arm.startswith("experts") or arm in {"uniform merge", "two nearest merged", "Arrow"}:
            experiment = "encoder" if any(arm.endswith(f", {name}") for name in ENCODERS) else "experts"
        elif arm in VARIANTS:
            experiment = "A-DBSCAN"
        known = study.questions["id"].isin(list(entry["answers"]))
        rows = study.questions[known]
        for split in ("test", "exam"):
            part = rows[rows["split"] == split].reset_index(drop=True)
            if not len(part):
                continue
            metrics = {"exam": "accuracy"} if split == "exam" else measures(part)
            table = evaluate(part, [entry["answers"][i] for i in part["id"]], arm=arm, metrics=metrics)
            for row in table.itertuples():
                if split == "test" or row.task != "mean":
                    records.append(
                        record(
                            study,
                            experiment,
                            arm,
                            row.task,
                            row.metric,
                            row.value,
                            low=row.low,
                            high=row.high,
                            n=row.n,
                            n_train=entry["n_train"],
                            seconds=entry["seconds"],
                        )
                    )
    return records


def _differences(studies: list[Study], answers: list[dict]) -> list[dict]:
    records = []
    for experiment, arm, against in DIFFERENCES:
        if not all(arm in known and against in known for known in answers):
            continue
        for split in ("test", "exam"):
            frames, ours, theirs = [], [], []
            for study, known in zip(studies, answers, strict=True):
                a, b = known[arm]["answers"], known[against]["answers"]
                rows = study.part(split)
                rows = rows[rows["id"].isin(a.keys() & b.keys())].reset_index(drop=True)
                frames.append(rows)
                ours.append([a[i] for i in rows["id"]])
                theirs.append([b[i] for i in rows["id"]])
            if not len(frames[0]):
                continue
            metrics = {"exam": "accuracy"} if split == "exam" else measures(frames[0])
            for row in pooled_difference(frames, ours, theirs, metrics=metrics).itertuples():
                if split == "test" or row.task != "mean":
                    records.append(
                        record(
                            studies[0],
                            experiment,
                            arm,
                            row.task,
                            f"difference in {row.metric}",
                            row.difference,
                            seed=False,
                            against=against,
                            low=row.low,
                            high=row.high,
                            n=row.n,
                            seeds=len(studies),
                            n_train=answers[0][arm]["n_train"],
                        )
                    )
    return records


# routing -------------------------------------------------------------------------------------------------------------
def _routing(study: Study) -> list[dict]:
    """How often questions reach the home of their task, per encoder and set of questions."""
    records, train, test = [], study.part("train"), study.part("test")
    for encoder in study.encoders:
        start, space, clusters = time.perf_counter(), study.space(encoder), study.clusters(encoder)
        agreement = cluster_task_agreement(clusters, train["task"])
        for metric in ("nmi", "purity"):
            records.append(record(study, "encoder", encoder, "all", f"cluster {metric}", agreement[metric]))
        chosen = study.choose(encoder=encoder)
        centroids = expert_centroids(space["train"][chosen.indices], chosen.table["cluster"], chosen.repeats)
        router, home = CentroidRouter(centroids), home_experts(train["task"], clusters)
        rest = np.setdiff1d(np.arange(len(train)), chosen.indices)
        is_test = study.questions["split"].eq("test").to_numpy()
        sets = {
            "wordings and inputs never seen": (space["questions"][is_test], test["task"]),
            "inputs alone, never seen": (space["inputs"], test["task"]),
            "training questions not chosen": (space["train"][rest], train["task"].iloc[rest]),
        }
        for name, (rows, tasks) in sets.items():
            routing = routing_table(tasks, router.route(rows).experts, home)
            for task, share in routing.home_share.items():
                records.append(
                    record(
                        study,
                        "routing",
                        encoder,
                        task,
                        f"home share: {name}",
                        share,
                        n=len(rows),
                        seconds=round(time.perf_counter() - start, 1),
                    )
                )
            records.append(record(study, "routing", encoder, "all", f"nmi: {name}", routing.nmi, n=len(rows)))
    return records


def _regret(study: Study, answers: dict[str, dict]) -> list[dict]:
    """Routed, each single expert, the best single one of each task, and the oracle of each question."""
    singles = [name for name in answers if name.startswith("single ")]
    if not singles:
        return []
    rows = study.questions[study.questions["id"].isin(list(answers[singles[0]]["answers"]))]
    rows = rows[rows["split"] == "test"].reset_index(drop=True)
    measure_of = measures(rows) or {}
    metric = {
        task: measure_of.get(task) or metric_of(task, list(part["output"])) for task, part in rows.groupby("task")
    }

    def scores(entry) -> np.ndarray:
        texts = [entry["answers"][i] for i in rows["id"]]
        answered = zip(rows["task"], rows["output"], texts, strict=True)
        return np.array([score_answers([right], [text], metric[task])[0] for task, right, text in answered])

    every = np.column_stack([scores(answers[name]) for name in singles])
    records = []
    for name, column in zip(singles, every.T, strict=True):
        means = pd.Series(column).groupby(rows["task"]).mean()
        records += [
            record(study, "experts", name, task, f"score ({metric[task]})", value, n=len(rows))
            for task, value in means.items()
        ]
        records.append(record(study, "experts", name, "mean", "score", means.mean(), n=len(rows)))
    for row in regret_table(scores(answers[ROUTED]), every, rows["task"]).itertuples():
        values = {
            "routed": row.routed,
            "best single expert": row.best,
            "regret": row.regret,
            "oracle": row.oracle,
            "oracle gap": row.oracle_gap,
        }
        records += [record(study, "regret", ROUTED, row.task, name, value, n=row.n) for name, value in values.items()]
    return records


# affinity ------------------------------------------------------------------------------------------------------------
def _affinity(study: Study) -> list[dict]:
    """Affinity of each pair of tasks, and its rank correlation with distance; interval over held-out questions."""
    file = study.work / "affinity.json"
    if not file.is_file():
        return []
    value = read_json(file)
    tasks, held = value["tasks"], np.array(value["held"])
    before, after = np.array(value["before"]), np.array(value["after"])

    def matrix(rows: np.ndarray) -> pd.DataFrame:
        of_task = [rows[held[rows] == task] for task in tasks]
        return task_affinity(
            [before[part].mean() for part in of_task],
            [[line[part].mean() for part in of_task] for line in after],
            tasks,
        )

    affinity, records = matrix(np.arange(len(held))), []
    for a, b in itertools.product(tasks, tasks):
        records.append(
            record(
                study,
                "affinity",
                f"trained on {a}",
                b,
                "relative fall of the loss",
                affinity.loc[a, b],
                n_train=value["n_train"],
                seconds=value["seconds"],
            )
        )
    rng = np.random.default_rng(study.seed)
    places = [np.flatnonzero(held == task) for task in tasks]
    resampled = [matrix(np.concatenate([rng.choice(p, len(p)) for p in places])) for _ in range(200)]
    train = study.part("train")
    for encoder in study.encoders:
        names, centroids = task_centroids(study.space(encoder)["train"], train["task"])
        centres = centroids[[names.index(task) for task in tasks]]
        distance = np.sqrt(np.maximum(2 - 2 * centres @ centres.T, 0))
        test = affinity_vs_distance(affinity, distance)
        draws = [affinity_vs_distance(drawn, distance, n_permutations=1).rho for drawn in resampled]
        low, high = np.quantile(draws, [0.025, 0.975])
        records.append(
            record(
                study,
                "affinity",
                encoder,
                "all",
                "rank correlation with distance",
                test.rho,
                low=low,
                high=high,
                p_value=test.p_value,
                n=test.n_pairs,
                n_train=value["n_train"],
            )
        )
    return records


# stability -----------------------------------------------------------------------------------------------------------
def _stability(study: Study, name: str) -> list[dict]:
    """How far a selection stays when nine tenths of the data are drawn, or k-means starts elsewhere."""
    encoder = name if name in ENCODERS else ENCODERS[0]
    experiment = "encoder" if name in ENCODERS else "A-DBSCAN"
    if encoder not in study.encoders:
        return []
    start, X = time.perf_counter(), study.space(encoder)["train"]
    n, clusters = len(X), study.clusters(encoder)
    rng = np.random.default_rng([study.seed, 7])
    draws = [np.sort(rng.permutation(n)[: round(0.9 * n)]) for _ in range(_BOOTSTRAPS)]
    values = {}
    if name == "random choice":
        size = round(0.1 * n)
        picks = [rng.permutation(n)[:size] for _ in range(_BOOTSTRAPS + 1)]
        values["jaccard: nine tenths drawn"] = np.mean([jaccard(picks[0], other) for other in picks[1:]])
        return [record(study, experiment, name, "all", metric, value) for metric, value in values.items()]
    choose = study.choose if name in ENCODERS else partial(study.choose_as_paper, **VARIANTS.get(name, {}))
    whole = choose(encoder=encoder).indices
    same, anew, ari = [], [], []
    for number, rows in enumerate(draws):
        kept = np.intersect1d(whole, rows)
        fixed = choose(encoder=encoder, rows=rows, clusters=clusters[rows]).indices
        same.append(jaccard(rows[fixed], kept))
        other = SemanticKMeans(n_clusters=6, random_state=100 + number).fit(X[rows]).labels_
        ari.append(adjusted_rand_score(other, clusters[rows]))
        refit = choose(encoder=encoder, rows=rows, clusters=other).indices
        anew.append(jaccard(rows[refit], kept))
    values["jaccard: nine tenths drawn, same clusters"] = np.mean(same)
    values["jaccard: nine tenths drawn"] = np.mean(anew)
    starts = [SemanticKMeans(n_clusters=6, random_state=100 + i).fit(X).labels_ for i in range(5)]
    pairs = list(itertools.combinations(starts, 2))
    if name in ENCODERS:
        values["ari: clusters of nine tenths drawn"] = np.mean(ari)
        values["ari: clusters over k-means seeds"] = np.mean([adjusted_rand_score(a, b) for a, b in pairs])
        values["nmi: clusters with the default encoder's"] = normalized_mutual_info_score(clusters, study.clusters())
    if name in VARIANTS:
        values["jaccard: with the paper's preset"] = jaccard(whole, study.choose_as_paper().indices)
    elif name != ENCODERS[0]:
        values["jaccard: with the default selection"] = jaccard(whole, study.choose().indices)
    else:
        other = [study.choose(clusters=labels).indices for labels in starts]
        values["jaccard: selection over k-means seeds"] = np.mean([jaccard(whole, rows) for rows in other])
    seconds = round(time.perf_counter() - start, 1)
    return [record(study, experiment, name, "all", metric, value, seconds=seconds) for metric, value in values.items()]
