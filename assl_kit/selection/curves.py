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
OBJECTIVES = ("groups", "records")


def curve_budgets(
    curves: ArrayLike, sizes: ArrayLike, n_select: int, *, weights: ArrayLike | None = None
) -> np.ndarray:
    """Give each record in turn to the group whose weighted curve rises most by it, until there are n.

    The curves are concave, so the sum of the weighted scores is the greatest that any division of n gives.

    Parameters
    ----------
    curves : array-like of shape (k, 3)
        a, b ≥ 0 and c > 0 of each group: score = a − b · n^−c. a says where a curve ends, and does not matter.
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


def curves_of(curves: pd.DataFrame | None, names: pd.Index) -> np.ndarray:
    """``a``, ``b``, ``c`` of each group, in the order of ``names``: shape (groups, 3), float64.

    Raises
    ------
    ParameterError
        There are no curves, or a group has none.
    DataError
        A column is missing.

    Examples
    --------
    >>> curves_of(pd.DataFrame({"a": [0.9], "b": [1.0], "c": [0.5]}, index=["qa"]), pd.Index(["qa"])).tolist()
    [[0.9, 1.0, 0.5]]
    """
    if curves is None:
        raise ParameterError("budget='curve' needs curves", hint="Give the learning curve of each group, or 'power'.")
    curves = pd.DataFrame(curves)
    if missing := [name for name in CURVE_COLUMNS if name not in curves]:
        raise DataError(f"the curves have no column {missing[0]!r}", hint="Give a, b and c by group.")
    curves = curves.set_axis(curves.index.astype(str))
    if missing := [name for name in names if name not in curves.index]:
        raise ParameterError(f"the group {missing[0]!r} has no learning curve", hint="Measure it, or use 'power'.")
    return curves.loc[list(names), list(CURVE_COLUMNS)].to_numpy(np.float64)


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
