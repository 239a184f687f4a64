"""Does the referee rank selections as a language model does? Rank correlation over the arms measured on an H100.

    python -m benchmarks.referee DATA SCORES [--draws 5] [--out FILE]

DATA: a folder with the records of CFLEB as JSON lines with a ``source``. SCORES: the language model's scores of every
arm and question (``cfleb-40k-h100.json``). The arms are chosen anew, from a pool of 40,000 drawn for each draw, with
the encoder, clusters and stages of this package; the model score, which would need a model, is replaced by the
referee's own cross-validated loss, so that "hardest first" is an approximation. About ten minutes on one core.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import spearmanr

from assl_kit.common.files import write_json
from assl_kit.data.loading import load_records
from assl_kit.data.records import prompts
from assl_kit.evaluation.baselines import random_rows
from assl_kit.evaluation.judge import Judge
from assl_kit.evaluation.learners import learner_for, ridge_values
from assl_kit.evaluation.metrics import normalise_answer, score_answers
from assl_kit.evaluation.referee import referee
from assl_kit.model.ranks import rank_within
from assl_kit.selection.budgets import cluster_budgets
from assl_kit.selection.redistribute import Redistributor
from assl_kit.space.clusters import SemanticKMeans
from assl_kit.space.encoder import encode, load_encoder
from benchmarks.machine import RESULTS

N_TRAIN, N_SELECT, K, LONGEST_INPUT = 40_000, 4_000, 6, 300
SOURCES = ("finfe", "finna", "finnl", "finnsp", "finqa", "finre")
#: As the language model's answers were measured.
METRICS = {
    "sentiment": "accuracy",
    "classification": "f1",
    "relation_extraction": "f1",
    "negative_news": "f1",
    "summarization": "rouge_l",
    "qa": "char_f1",
}
#: Arms of SCORES, and the arms here that are chosen in the same way; of several the mean is taken.
SAME = {
    "all": ("all-t0",),
    "the default, hardest first": ("chosen-t0",),
    "no score, no repeats": ("noscore-t0",),
    "stage 1 alone": ("stage1_b0-t0",),
    "budgets by root of size": ("task.5_random-t0",),
    "equal budgets": ("task0_random-t0",),
    "random": ("random0-t0", "random1-t0"),
}
MEANS = ("mean", "mean without smallest")


def cfleb(folder: str) -> pd.DataFrame:
    """CFLEB's six sources with inputs of at most 300 characters; FinNA's dev and a part of FinQA's train."""
    files = sorted(Path(folder).glob("*.jsonl*"))
    records = pd.concat([load_records(str(file), format="jsonl") for file in files], ignore_index=True)
    records = records[records["source"].isin(SOURCES) & (records["input"].str.len() <= LONGEST_INPUT)]
    split = [_split(*row) for row in records[["source", "split", "input"]].to_numpy()]
    records = records.assign(split=split)
    return records[records["split"] != "dev"].reset_index(drop=True)


def _split(source: str, split: str, text: str) -> str:
    if source == "finna":
        return "train" if split == "dev" else split
    if source == "finqa":  # by context, so that none is on both sides
        return "test" if hashlib.sha256(text.split("材料：")[-1].encode()).digest()[0] < 51 else "train"
    return split


def hardness(judge: Judge, rows: np.ndarray, seed: int) -> np.ndarray:
    """Two-fold cross-validated loss of each row: −log of the right label's value, or of the answer's score, ≥ .01."""
    loss = np.zeros(len(judge.train))
    for group in judge.groups:
        of_group = rows[np.isin(rows, judge.group_rows[group])]
        fold = np.random.default_rng(seed).permutation(len(of_group)) % 2
        for part in (0, 1):
            learn, held = of_group[fold != part], of_group[fold == part]
            kind, learner = learner_for(judge.train.iloc[learn], judge.train.iloc[held])
            right, ones = list(judge.train["output"].iloc[held]), np.ones(len(learn), int)
            if kind == "labels" and not learner.combined:
                values = ridge_values(learner.train, learner.targets.astype(float), ones, learner.held)
                place = {name: k for k, name in enumerate(learner.names)}
                at = [place.get(normalise_answer(text), -1) for text in right]
                value = np.where(np.array(at) >= 0, values[np.arange(len(at)), at], 0.0)
            else:
                value = score_answers(right, learner.answers(np.arange(len(learn)), ones), judge.metrics[group])
            loss[held] = -np.log(np.clip(value, 0.01, 1.0))
    return loss


def choose(judge: Judge, X: np.ndarray, rows: np.ndarray, draw: int) -> dict[str, np.ndarray]:
    """The ids that each way chooses from one pool."""
    ids, x = judge.train["id"].to_numpy()[rows], X[rows]
    clusters = SemanticKMeans(n_clusters=K, random_state=draw).fit(x).labels_
    stages = Redistributor()
    pool = stages.pool(x, clusters, N_SELECT, ids=ids)
    hard = rank_within(hardness(judge, rows, draw)[rows][pool["row"]], pool["cluster"])
    default = stages.select(x, clusters, pool, N_SELECT, scores=hard, ids=ids)
    plain = Redistributor(weights=(0.5, 0, 0.5), repeat_share=0, max_repeat=1).fit_select(
        x, clusters, N_SELECT, ids=ids
    )
    first = Redistributor(pool_factor=1, flattening=0, repeat_share=0, max_repeat=1).pool(
        x, clusters, N_SELECT, ids=ids
    )
    tasks, names = judge.train["task"].to_numpy()[rows], judge.groups
    sizes = [int((tasks == task).sum()) for task in names]
    return {
        "the default, hardest first": np.repeat(ids[default.indices], default.repeats),
        "no score, no repeats": ids[plain.indices],
        "stage 1 alone": ids[first["row"].to_numpy()],
        "budgets by root of size": _by_task(ids, tasks, names, cluster_budgets(sizes, N_SELECT, 0.5), draw),
        "equal budgets": _by_task(ids, tasks, names, cluster_budgets(sizes, N_SELECT, 0.0), draw),
    }


def _by_task(ids, tasks, names, budgets, draw: int) -> np.ndarray:
    rng = np.random.default_rng([7, draw])
    return np.concatenate([rng.permutation(ids[tasks == task])[:n] for task, n in zip(names, budgets, strict=True)])


def agreement(
    ours: pd.DataFrame, scores: dict, smallest: str, *, n_bootstrap: int = 1000, seed: int = 0
) -> pd.DataFrame:
    """Spearman's correlation over the arms, by task and for the means, with the doubt of the model's own questions.

    Parameters
    ----------
    ours : DataFrame
        Arms by tasks and means, as `RefereeResult.pivot` gives it.
    scores : dict
        The language model's: ``task`` of every question, and each arm's scores of them.

    Returns
    -------
    DataFrame
        ``task, arms, spearman, low, high, without_all``: the interval is that of a bootstrap over the model's
        questions; the last column leaves out the arm of all data, which every method puts first.
    """
    tasks, arms = np.array(scores["task"]), list(SAME)
    model = np.array([np.mean([scores[name] for name in SAME[arm]], axis=0) for arm in arms])
    groups = [task for task in ours.columns if task not in MEANS]
    rng, drawn = np.random.default_rng(seed), {}
    for task in groups:
        values = model[:, tasks == task]
        picked = rng.integers(values.shape[1], size=(n_bootstrap, values.shape[1]))
        drawn[task] = values.mean(axis=1), values[:, picked].mean(axis=2)
    rows = []
    for task in ours.columns:
        parts = [task] if task in groups else [g for g in groups if task == "mean" or g != smallest]
        value, draws = (np.mean([drawn[part][k] for part in parts], axis=0) for k in (0, 1))
        by_referee = ours.loc[arms, task].to_numpy()
        correlations = [spearmanr(by_referee, draws[:, b])[0] for b in range(n_bootstrap)]
        low, high = np.nanquantile(correlations, [0.025, 0.975])
        rows.append(
            (task, len(arms), spearmanr(by_referee, value)[0], low, high, spearmanr(by_referee[1:], value[1:])[0])
        )
    return pd.DataFrame(rows, columns=["task", "arms", "spearman", "low", "high", "without_all"])


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.referee", description=__doc__.splitlines()[0])
    parser.add_argument("data")
    parser.add_argument("scores")
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--out", type=Path, default=RESULTS / "referee.json")
    options = parser.parse_args()
    records = cfleb(options.data)
    start = time.perf_counter()
    judge = Judge(records, metrics=METRICS)
    seconds = {"prepare": time.perf_counter() - start}
    texts = prompts(judge.train)
    X = encode(load_encoder("fit", texts=texts), texts)
    pools = [np.sort(random_rows(len(judge.train), N_TRAIN, seed=draw)) for draw in range(options.draws)]
    chosen = [choose(judge, X, rows, draw) for draw, rows in enumerate(pools)]
    start = time.perf_counter()
    ids = judge.train["id"].to_numpy()
    arms = {name: [one[name] for one in chosen] for name in chosen[0]}
    result = referee(judge, arms, n_draws=options.draws, pools=[ids[rows] for rows in pools], progress=True)
    seconds["referee"] = time.perf_counter() - start
    ours = result.pivot()
    whole = {group: values.mean() for group, values in judge.scores(ids).items()}
    rest = [value for group, value in whole.items() if group != result.about["smallest"]]
    ours.loc["all"] = whole | {MEANS[0]: np.mean(list(whole.values())), MEANS[1]: np.mean(rest)}
    scores = json.loads(Path(options.scores).read_text(encoding="utf-8"))["scores"]
    agreed = agreement(ours, scores, result.about["smallest"])
    print(ours.round(3).to_string(), agreed.round(3).to_string(index=False), seconds, sep="\n\n")
    value = result.as_dict() | {"all": ours.loc["all"].to_dict(), "agreement": agreed.to_dict("records")}
    write_json(options.out, value | {"seconds": {name: round(s, 1) for name, s in seconds.items()}})


if __name__ == "__main__":
    main()
