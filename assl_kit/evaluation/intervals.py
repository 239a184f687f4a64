"""Measures of an arm's answers with bootstrap intervals, and differences of arms. The measures are in `metrics`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from assl_kit.common.checks import as_texts, whole
from assl_kit.common.names import apart_from_totals, by_number
from assl_kit.errors import ParameterError

from .metrics import f1_of, item_counts, macro_f1, metric_of, score_answers

_BLOCK_CELLS = 4_000_000  # counts of draws that are in memory at once


def _check_answers(records: pd.DataFrame, predictions: Sequence[str], n_bootstrap: int) -> list[str]:
    predictions = as_texts(predictions, "predictions")
    if len(records) == 0:
        raise ParameterError("there is no record to evaluate", hint="Give the test records.")
    if len(records) != len(predictions):
        what = f"{len(records)} records but {len(predictions)} predictions"
        raise ParameterError(what, hint="Give one prediction for each record, in the same order.")
    whole("n_bootstrap", n_bootstrap, 1)
    return predictions


def _statistics(references: list[str], predictions: list[str], metric: str) -> np.ndarray:
    """(n, m) numbers of each example whose sums make the metric: tp, fp, fn for "f1", else score and one."""
    if metric == "f1":
        return item_counts(references, predictions)
    scores = score_answers(references, predictions, metric)
    return np.column_stack([scores, np.ones(len(scores))])


def _value(sums: np.ndarray, metric: str) -> np.ndarray:
    """The metric of sums of `_statistics`."""
    return f1_of(sums) if metric == "f1" else sums[..., 0] / sums[..., 1]


def _resampled_sums(statistics: np.ndarray, n_bootstrap: int, rng: np.random.Generator) -> np.ndarray:
    """(n_bootstrap, m) sums over rows drawn with replacement, by blocks of multinomial counts.

    How often each row is drawn says all: a product with the counts is much quicker than drawing rows.
    """
    n = len(statistics)
    block = max(1, _BLOCK_CELLS // n)
    parts = [
        rng.multinomial(n, np.full(n, 1 / n), size=min(block, n_bootstrap - start)) @ statistics
        for start in range(0, n_bootstrap, block)
    ]
    return np.concatenate(parts)


def _tasks(records: pd.DataFrame) -> list[tuple[str, np.ndarray]]:
    """Each task and its rows, in alphabetical order, numbers as numbers; none is called as the mean is."""
    names = apart_from_totals(records["task"]).reset_index(drop=True)
    return sorted(names.groupby(names).indices.items(), key=lambda item: by_number(item[0]))


def _interval(values: np.ndarray, level: float) -> tuple[float, float]:
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def evaluate(
    records: pd.DataFrame,
    predictions: Sequence[str],
    *,
    arm: str = "answers",
    n_bootstrap: int = 1000,
    seed: int = 0,
    level: float = 0.95,
    metrics: Mapping[str, str] | None = None,
) -> pd.DataFrame:
    """Measure the answers of one arm, task by task, with bootstrap intervals.

    Parameters
    ----------
    records : DataFrame, n rows
        Test records; ``task`` and ``output`` are used. A task called "mean" is "mean (task)" in the table.
    predictions : sequence of n str
        The answers, in the order of ``records``.
    arm : str
        A name for who answered.
    n_bootstrap : int
        Draws with replacement, within each task. The same seed draws the same rows for every arm.
    seed : int
        Fixes the draws.
    level : float
        Coverage of the interval (percentiles of the draws).
    metrics : mapping, optional
        Measures of tasks that shall not be those of `metric_of`.

    Returns
    -------
    DataFrame
        Columns ``arm, task, metric, n, value, low, high, macro_f1``: a row for each task in alphabetical order, then
        ``task="mean"``, the mean over tasks. ``macro_f1`` is NaN but for tasks measured by accuracy. "f1" is micro:
        the items of all examples are counted together.

    Raises
    ------
    ParameterError
        No records, another number of predictions, or a bad ``n_bootstrap``.
    DataError
        A prediction is not text.

    References
    ----------
    Bootstrap percentiles: Efron and Tibshirani 1993, chapter 13. The choice of measures is ours.

    Examples
    --------
    >>> records = pd.DataFrame({"task": ["sentiment"] * 4, "output": ["涨", "跌", "涨", "涨"]})
    >>> evaluate(records, ["涨", "跌", "涨", "跌"], arm="base")[["task", "n", "value"]].values.tolist()
    [['sentiment', 4, 0.75], ['mean', 4, 0.75]]
    """
    predictions = _check_answers(records, predictions, n_bootstrap)
    outputs, rows, draws = records["output"].tolist(), [], []
    for number, (task, index) in enumerate(_tasks(records)):
        right, answered = [outputs[i] for i in index], [predictions[i] for i in index]
        metric = (metrics or {}).get(records["task"].iloc[index[0]]) or metric_of(task, right)
        statistics = _statistics(right, answered, metric)
        sums = _resampled_sums(statistics, int(n_bootstrap), np.random.default_rng([seed, number]))
        draws.append(_value(sums, metric))
        label_f1 = macro_f1(right, answered) if metric == "accuracy" else np.nan
        value = float(_value(statistics.sum(axis=0), metric))
        rows.append((arm, task, metric, len(index), value, *_interval(draws[-1], level), label_f1))
    mean = float(np.mean([row[4] for row in rows]))
    rows.append((arm, "mean", "mean", len(records), mean, *_interval(np.mean(draws, axis=0), level), np.nan))
    return pd.DataFrame(rows, columns=["arm", "task", "metric", "n", "value", "low", "high", "macro_f1"])


def paired_difference(
    records: pd.DataFrame,
    predictions_a: Sequence[str],
    predictions_b: Sequence[str],
    *,
    n_bootstrap: int = 1000,
    seed: int = 0,
    level: float = 0.95,
    metrics: Mapping[str, str] | None = None,
) -> pd.DataFrame:
    """How much arm a is better than arm b on the same records, with a paired bootstrap interval.

    Returns
    -------
    DataFrame
        Columns ``task, metric, n, a, b, difference, low, high, inside_interval``; the last row is "mean".
        ``inside_interval`` is True where the interval of the difference contains 0: these records do not tell the
        arms apart.

    Raises
    ------
    ParameterError, DataError
        As `evaluate`.

    Examples
    --------
    >>> records = pd.DataFrame({"task": ["sentiment"] * 20, "output": ["涨"] * 20})
    >>> table = paired_difference(records, ["涨"] * 20, ["跌"] * 18 + ["涨"] * 2)
    >>> [(float(row.difference), bool(row.inside_interval)) for row in table.itertuples()]
    [(0.9, False), (0.9, False)]
    """
    return pooled_difference(
        [records], [predictions_a], [predictions_b], n_bootstrap=n_bootstrap, seed=seed, level=level, metrics=metrics
    )


def pooled_difference(
    records: Sequence[pd.DataFrame],
    predictions_a: Sequence[Sequence[str]],
    predictions_b: Sequence[Sequence[str]],
    *,
    n_bootstrap: int = 1000,
    seed: int = 0,
    level: float = 0.95,
    metrics: Mapping[str, str] | None = None,
) -> pd.DataFrame:
    """`paired_difference` over several runs, each with another seed: the mean of the runs' differences.

    Parameters
    ----------
    records, predictions_a, predictions_b : sequences of one length
        What `paired_difference` takes, one of each for a run. Runs may differ in records, not in tasks.
    n_bootstrap, seed, level, metrics
        As `paired_difference`.

    Returns
    -------
    DataFrame
        As `paired_difference`. The interval is that of a bootstrap in two stages: runs with replacement, then the
        questions of each drawn run. So it holds the chance of training and selection as well as that of the questions,
        as far as so few runs can show it.

    Raises
    ------
    ParameterError, DataError
        As `paired_difference`; also if there is no run, or the runs have other tasks.

    References
    ----------
    Two-stage bootstrap: Davison and Hinkley 1997, section 3.8.

    Examples
    --------
    >>> run = pd.DataFrame({"task": ["sentiment"] * 20, "output": ["涨"] * 20})
    >>> table = pooled_difference([run, run], [["涨"] * 20] * 2, [["跌"] * 18 + ["涨"] * 2] * 2)
    >>> float(table["difference"].iloc[-1]), bool(table["inside_interval"].iloc[-1])
    (0.9, False)
    """
    if not len(records) or not len(records) == len(predictions_a) == len(predictions_b):
        raise ParameterError(f"{len(records)} runs, but {len(predictions_a)} and {len(predictions_b)} sets of answers")
    seeds = [[seed, number] for number in range(len(records))] if len(records) > 1 else [[seed]]
    runs = [
        _paired_draws(frame, a, b, n_bootstrap, seeds_of_run, metrics)
        for frame, a, b, seeds_of_run in zip(records, predictions_a, predictions_b, seeds, strict=True)
    ]
    tasks = [row[0] for row in runs[0][0]]
    if any([row[0] for row in rows] != tasks for rows, _ in runs):
        raise ParameterError("the runs have different tasks", hint="Give runs on the same tasks.")
    drawn = np.random.default_rng([seed, len(runs)]).integers(len(runs), size=(int(n_bootstrap), len(runs)))
    every = np.array([draws_of_run for _, draws_of_run in runs])  # (runs, tasks, draws)
    # The j-th drawn run takes draw (b + j), so that one run drawn twice has two sets of questions.
    place = (np.arange(int(n_bootstrap))[:, None] + np.arange(len(runs))) % int(n_bootstrap)
    draws = [every[drawn, task, place].mean(axis=1) for task in range(len(tasks))]
    rows = []
    for task in range(len(tasks)):
        parts = [rows_of_run[task] for rows_of_run, _ in runs]
        means = np.mean([part[3:] for part in parts], axis=0).tolist()
        rows.append([*parts[0][:2], sum(part[2] for part in parts), *means])
    return _difference_table(rows, draws, level)


def _paired_draws(
    records: pd.DataFrame,
    predictions_a: Sequence[str],
    predictions_b: Sequence[str],
    n_bootstrap: int,
    seeds: list[int],
    metrics: Mapping[str, str] | None,
) -> tuple[list[list], list[np.ndarray]]:
    """For each task ``[task, metric, n, a, b, a − b]``, and its (n_bootstrap,) drawn differences."""
    both = [_check_answers(records, answers, n_bootstrap) for answers in (predictions_a, predictions_b)]
    outputs, rows, draws = records["output"].tolist(), [], []
    for number, (task, index) in enumerate(_tasks(records)):
        right = [outputs[i] for i in index]
        metric = (metrics or {}).get(records["task"].iloc[index[0]]) or metric_of(task, right)
        parts = [_statistics(right, [answers[i] for i in index], metric) for answers in both]
        width = parts[0].shape[1]
        sums = _resampled_sums(np.hstack(parts), int(n_bootstrap), np.random.default_rng([*seeds, number]))
        draws.append(_value(sums[:, :width], metric) - _value(sums[:, width:], metric))
        a, b = (float(_value(part.sum(axis=0), metric)) for part in parts)
        rows.append([task, metric, len(index), a, b, a - b])
    return rows, draws


def _difference_table(rows: list[list], draws: list[np.ndarray], level: float) -> pd.DataFrame:
    """A row for each task and one of their mean, each with the interval of its draws."""
    n, (a, b) = sum(row[2] for row in rows), (float(np.mean([row[column] for row in rows])) for column in (3, 4))
    rows = [[*row, *_interval(drawn, level)] for row, drawn in zip(rows, draws, strict=True)]
    rows.append(["mean", "mean", n, a, b, a - b, *_interval(np.mean(draws, axis=0), level)])
    table = pd.DataFrame(rows, columns=["task", "metric", "n", "a", "b", "difference", "low", "high"])
    return table.assign(inside_interval=(table["low"] <= 0) & (table["high"] >= 0))
