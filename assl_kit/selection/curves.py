"""Budgets by learning curves: the next record goes to the group whose curve rises most."""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from assl_kit.errors import DataError, ParameterError

CURVE_COLUMNS = ("a", "b", "c")
_EXPONENTS = np.geomspace(0.05, 2, 60)
OBJECTIVES = ("groups", "records")


def fit_curves(points: pd.DataFrame) -> pd.DataFrame:
    """Fit score = a − b · n^−c to the measured scores of each group, by least squares with b ≥ 0.

    Parameters
    ----------
    points : DataFrame
        ``group``, ``n`` (records that were learnt from, ≥ 1) and ``score`` (greater is better), one row a measurement;
        `assl_kit` measures them with cheap learners, and any others will do.

    Returns
    -------
    DataFrame
        Index: the groups, sorted. ``a`` (where the curve ends), ``b``, ``c``, and ``error`` (root mean square). Of a
        group with fewer than three different n nothing can be fitted: it gets the medians of the others, and an error
        of NaN.

    Raises
    ------
    DataError
        If a column is missing, a number is not finite, n is below 1, or no group can be fitted.

    Notes
    -----
    Ours. For each of 60 exponents c from 0.05 to 2 the best a and b have a closed form; the best of the 60 is taken.

    Examples
    --------
    >>> n = np.array([25, 100, 400, 1600])
    >>> points = pd.DataFrame({"group": "qa", "n": n, "score": 0.8 - 2 * n**-0.5})
    >>> fit_curves(points).round(1).loc["qa", ["a", "b", "c"]].tolist()
    [0.8, 2.0, 0.5]
    """
    points = pd.DataFrame(points)
    if missing := [name for name in ("group", "n", "score") if name not in points]:
        raise DataError(f"the points have no column {missing[0]!r}", hint="Give group, n and score.")
    numbers = points[["n", "score"]].to_numpy(np.float64)
    if not np.isfinite(numbers).all() or (numbers[:, 0] < 1).any():
        raise DataError("a point of a learning curve is not finite, or n is below 1")
    fitted = {}
    for name, group in points.groupby("group", sort=True):
        n, score = group[["n", "score"]].to_numpy(np.float64).T
        fitted[name] = _fit(n, score) if len(np.unique(n)) >= 3 else [np.nan] * 4
    curves = pd.DataFrame.from_dict(fitted, orient="index", columns=[*CURVE_COLUMNS, "error"]).rename_axis("group")
    known = curves.dropna()
    if known.empty:
        raise DataError("no group has scores at three sizes, so there is no curve", hint="Use budget='power'.")
    curves[list(CURVE_COLUMNS)] = curves[list(CURVE_COLUMNS)].fillna(known[list(CURVE_COLUMNS)].median())
    return curves


def _fit(n: np.ndarray, score: np.ndarray) -> list[float]:
    x = n[None, :] ** -_EXPONENTS[:, None]
    centred, rest = x - x.mean(axis=1, keepdims=True), score - score.mean()
    b = np.maximum(-(centred * rest).sum(axis=1) / np.square(centred).sum(axis=1), 0)
    a = score.mean() + b * x.mean(axis=1)
    error = np.sqrt(np.square(a[:, None] - b[:, None] * x - score).mean(axis=1))
    best = int(np.argmin(np.round(error, 12)))
    return [a[best], b[best], _EXPONENTS[best], error[best]]


def curve_budgets(
    curves: ArrayLike, sizes: ArrayLike, n_select: int, *, weights: ArrayLike | None = None
) -> np.ndarray:
    """Give each record in turn to the group whose weighted curve rises most by it, until there are n.

    The curves are concave, so the sum of the weighted scores is the greatest that any division of n gives.

    Parameters
    ----------
    curves : array-like of shape (k, 3)
        a, b ≥ 0 and c > 0 of each group, as `fit_curves` gives them. a says where a curve ends, and does not matter.
    sizes : array-like of shape (k,), int
        The most that each group can take.
    n_select : int
        At most the sum of sizes.
    weights : array-like of shape (k,), optional
        ≥ 0. Default: all the same, so the mean over groups is maximised.

    Returns
    -------
    ndarray of shape (k,), int64
        Sums to ``n_select``. Every group of a weight above 0 gets one before any gets two. Where no curve rises any
        more, and among equal gains, the group that has the smaller share of its size is served first, then the earlier.

    Raises
    ------
    ParameterError
        If the shapes differ, a number is out of range, or ``n_select`` is more than can be given.

    Examples
    --------
    >>> curve_budgets([(1, 2, 0.5), (1, 2, 0.5), (1, 0, 1)], [100, 100, 100], 11).tolist()
    [5, 5, 1]
    >>> curve_budgets([(1, 2, 0.5), (1, 1, 0.5)], [100, 4], 20).tolist()
    [16, 4]
    """
    sizes = np.asarray(sizes)
    k = len(sizes)
    curves = np.asarray(curves, dtype=np.float64)
    if curves.shape != (k, 3) or not np.isfinite(curves).all() or (curves[:, 1] < 0).any() or (curves[:, 2] <= 0).any():
        raise ParameterError(f"curves must be finite (a, b ≥ 0, c > 0) of each of {k} groups")
    weights = np.ones(k) if weights is None else np.asarray(weights, dtype=np.float64)
    if weights.shape != (k,) or not (np.isfinite(weights) & (weights >= 0)).all():
        raise ParameterError(f"weights must be one number of at least 0 for each of {k} groups")
    if n_select > sizes.sum():
        raise ParameterError(f"n_select is {n_select}, but at most {sizes.sum()} can be given", hint="Ask for fewer.")
    budgets, height = np.zeros(k, np.int64), (weights * curves[:, 1]).tolist()
    exponent, known = (-curves[:, 2]).tolist(), weights.tolist()

    def entry(i: int, have: int) -> tuple[float, float, int]:
        if not have:  # before its first record a curve has no height: each group is tried once, the weightiest first
            return (-np.inf if known[i] else 0.0, -known[i], i)
        return (-height[i] * (have ** exponent[i] - (have + 1) ** exponent[i]), have / int(sizes[i]), i)

    heap = [entry(i, 0) for i in range(k) if sizes[i]]
    heapq.heapify(heap)
    for _ in range(int(n_select)):
        i = heap[0][2]
        budgets[i] += 1
        if budgets[i] < sizes[i]:
            heapq.heapreplace(heap, entry(i, int(budgets[i])))
        else:
            heapq.heappop(heap)
    return budgets


def objective_weights(objective: str | Mapping[Any, float], sizes: pd.Series) -> np.ndarray:
    """Weights of groups: 1 each (``"groups"``), their share of the records (``"records"``), or those that are given.

    Parameters
    ----------
    objective : {"groups", "records"} or mapping of group to number
        A mapping names every group, and no other.
    sizes : Series
        Records of each group.

    Returns
    -------
    ndarray of shape (k,)

    Raises
    ------
    ParameterError

    Examples
    --------
    >>> objective_weights("records", pd.Series({"qa": 1, "sentiment": 3})).tolist()
    [0.25, 0.75]
    """
    if isinstance(objective, Mapping):
        weights = {str(name): value for name, value in objective.items()}
        names = [str(name) for name in sizes.index]
        if wrong := sorted(set(weights) ^ set(names)):
            raise ParameterError(f"objective and groups differ in {wrong[0]!r}", hint=f"Groups: {', '.join(names)}.")
        return np.array([weights[name] for name in names], dtype=np.float64)
    if objective not in OBJECTIVES:
        raise ParameterError(f"objective is {objective!r}", hint="Use 'groups', 'records', or a weight for each group.")
    if objective == "groups":
        return np.ones(len(sizes))
    return sizes.to_numpy(np.float64) / max(sizes.sum(), 1)
