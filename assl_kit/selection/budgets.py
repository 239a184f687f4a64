"""Budgets: a number divided among clusters, exactly."""

from __future__ import annotations

import math
from numbers import Integral, Real
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from assl_kit.errors import ParameterError

from .curves import curve_budgets


def cluster_budgets(
    sizes: ArrayLike, n_select: int, power: float = 1.0, *, capacities: ArrayLike | None = None
) -> np.ndarray:
    """Divide a number among clusters, proportionally to ``size ** power``, by largest remainder.

    Parameters
    ----------
    sizes : array-like of shape (k,), int
    n_select : int
        At most the sum of the capacities.
    power : float, default 1.0
        τ ≥ 0: 1 is proportional, less raises small clusters, 0 gives all the same.
    capacities : array-like of shape (k,), int, optional
        The most each cluster can give; default ``sizes``. What a full cluster cannot give goes to the others.

    Returns
    -------
    ndarray of shape (k,), int64
        Sums to ``n_select`` exactly. Equal remainders go to the earlier cluster.

    Raises
    ------
    ParameterError
        If ``n_select`` is more than can be given, or a parameter is out of range.

    Notes
    -----
    Ours: the paper does not say how the tenth is divided.

    Examples
    --------
    >>> cluster_budgets([700, 200, 100], 10).tolist()
    [7, 2, 1]
    >>> cluster_budgets([700, 200, 1], 10, power=0).tolist()
    [5, 4, 1]
    """
    sizes = np.asarray(sizes)
    caps = sizes if capacities is None else np.asarray(capacities)
    for name, values in (("sizes", sizes), ("capacities", caps)):
        if values.ndim != 1 or values.dtype.kind not in "iu" or (values < 0).any() or values.shape != sizes.shape:
            raise ParameterError(f"{name} are not one whole number of at least 0 for each cluster")
    if isinstance(n_select, bool) or not isinstance(n_select, Integral) or n_select < 0:
        raise ParameterError(f"n_select is {n_select!r}", hint="Give a whole number of at least 0.")
    if isinstance(power, bool) or not isinstance(power, Real) or not 0 <= power < math.inf:
        raise ParameterError(f"budget_power is {power!r}", hint="Give a number of at least 0.")
    caps = np.where(sizes > 0, caps, 0).astype(np.int64)
    if n_select > caps.sum():
        raise ParameterError(
            f"n_select is {n_select}, but at most {caps.sum()} can be given",
            hint="Ask for fewer, give more records, or raise max_repeat.",
        )
    scale = sizes / max(sizes.max(initial=1), 1)
    wish = np.where(sizes > 0, scale ** float(power), 0.0)
    full = caps == 0
    while True:
        total = wish[~full].sum()
        share = np.where(full, caps, wish * ((n_select - caps[full].sum()) / total if total > 0 else 0.0))
        over = ~full & (share > caps)
        if not over.any():
            break
        full |= over
    budgets = np.floor(share + 1e-9).astype(np.int64)
    order = np.lexsort((np.arange(len(sizes)), -(share - budgets)))
    order = order[budgets[order] < caps[order]]
    budgets[order[: int(n_select) - budgets.sum()]] += 1
    return budgets


def cell_budgets(
    group_of: ArrayLike,
    sizes: ArrayLike,
    n_select: int,
    power: float,
    capacities: ArrayLike,
    *,
    floor: bool = False,
    curves: ArrayLike | None = None,
    distinct: ArrayLike | None = None,
    weights: ArrayLike | None = None,
) -> np.ndarray:
    """Two levels: divide a number among groups, then each group's share among its cells, by their sizes.

    Parameters
    ----------
    group_of : array-like of shape (k,), int
        The group of each cell, from 0; every group has a cell.
    sizes, capacities : array-like of shape (k,), int
        Records of each cell, and the most it can give, copies counted.
    n_select : int
        At most the sum of the capacities.
    power : float
        τ ≥ 0 of groups, as in `cluster_budgets`. Cells of a group are served proportionally to their sizes.
    floor : bool, default=False
        Give every group at least one, as far as n_select goes.
    curves : array-like of shape (groups, 3), optional
        Divide by `curve_budgets` instead of by size. Curves tell nothing of copies, so groups get at
        most their ``distinct`` (default: sizes) records by them; what is wanted beyond all records follows by size.
    weights : array-like of shape (groups,), optional
        Of the groups, for curves.

    Returns
    -------
    ndarray of shape (k,), int64
        Sums to ``n_select`` exactly.

    Raises
    ------
    ParameterError
        As `cluster_budgets` and `curve_budgets`.

    Examples
    --------
    >>> cell_budgets([0, 0, 1], [600, 200, 200], 80, 0, [600, 200, 200]).tolist()
    [30, 10, 40]
    """
    group_of, sizes, caps = np.asarray(group_of), np.asarray(sizes), np.asarray(capacities)
    k = int(group_of.max(initial=-1)) + 1

    def total(values: ArrayLike) -> np.ndarray:
        return np.bincount(group_of, values, minlength=k).astype(np.int64)

    if curves is None:
        wanted = cluster_budgets(total(sizes), n_select, power, capacities=total(caps))
    else:
        once = total(np.minimum(sizes if distinct is None else distinct, caps))
        by_curve = curve_budgets(curves, once, min(n_select, once.sum()), weights=weights)
        rest = n_select - int(by_curve.sum())
        wanted = by_curve + cluster_budgets(total(sizes), rest, 1.0, capacities=total(caps) - by_curve)
    if floor:
        for group in np.flatnonzero((wanted == 0) & (total(caps) > 0)):
            richest = int(np.argmax(wanted))
            if wanted[richest] < 2:
                break
            wanted[richest] -= 1
            wanted[group] = 1
    return divided(wanted, group_of, sizes, caps)


def possible_budgets(
    group_of: ArrayLike, sizes: np.ndarray, n_select: int, power: float, usable: np.ndarray, able: np.ndarray,
    *, extra: int, **options: Any,
) -> np.ndarray:  # fmt: skip
    """`cell_budgets` by size or curve alone; only what a cell cannot give goes to others, of its group first.

    Parameters
    ----------
    group_of, sizes, n_select, power, **options
        As `cell_budgets`.
    usable, able : ndarray of shape (k,), int
        Records of each cell that can be given, and those of them that can be repeated.
    extra : int
        How often one can be repeated.

    Returns
    -------
    ndarray of shape (k,), int64

    Examples
    --------
    >>> sizes = np.array([60, 40])
    >>> possible_budgets([0, 0], sizes, 50, 1.0, np.array([20, 40]), np.array([20, 40]), extra=0).tolist()
    [20, 30]
    """
    most, once = sizes * (1 + extra), sizes
    while True:
        budgets = cell_budgets(group_of, sizes, n_select, power, most, distinct=once, **options)
        over = budgets > usable + extra * able
        if not over.any():
            return budgets
        most = np.where(over, usable + extra * able, most)
        once = np.where(over, usable, once)


def divided(wanted: np.ndarray, whole_of: np.ndarray, sizes: np.ndarray, capacities: np.ndarray) -> np.ndarray:
    """Divide what each whole (a group, a cell) is to give among its parts, proportionally to their sizes.

    Parameters
    ----------
    wanted : ndarray of shape (w,), int
        Of each whole, at most the sum of its parts' capacities.
    whole_of, sizes, capacities : ndarray of shape (k,), int
        Of each part: its whole, its records, and the most it can give.

    Returns
    -------
    ndarray of shape (k,), int64

    Examples
    --------
    >>> divided(np.array([4, 1]), np.array([0, 0, 1]), np.array([90, 30, 50]), np.array([90, 30, 50])).tolist()
    [3, 1, 1]
    """
    budgets = np.zeros(len(sizes), np.int64)
    for whole in np.flatnonzero(wanted):
        mine = np.flatnonzero(whole_of == whole)
        budgets[mine] = cluster_budgets(sizes[mine], int(wanted[whole]), 1.0, capacities=capacities[mine])
    return budgets


def with_every_cluster(
    budgets: np.ndarray, clusters: ArrayLike, groups: ArrayLike, capacities: ArrayLike
) -> np.ndarray:
    """Budgets of cells in which each cluster has at least one record, as far as their sum goes.

    A cluster without any gets one for its largest cell, from the richest cell of the same group if that can spare one,
    else from the richest of all; who gives keeps one in its cluster and its group.

    Parameters
    ----------
    budgets, clusters, groups, capacities : arrays of shape (k,), int
        Of each cell: its budget, its cluster, its group, and the most it can give.

    Returns
    -------
    ndarray of shape (k,), int64
        The same sum.

    Examples
    --------
    >>> with_every_cluster(np.array([5, 0, 2]), [0, 1, 2], [0, 0, 1], [9, 9, 9]).tolist()
    [4, 1, 2]
    """
    budgets, caps = budgets.copy(), np.asarray(capacities)
    clusters, groups = np.asarray(clusters), np.asarray(groups)
    for cluster in np.unique(clusters):
        mine = np.flatnonzero((clusters == cluster) & (caps > 0))
        if len(mine) == 0 or budgets[mine].any():
            continue
        poor = mine[np.argmax(caps[mine])]
        giving = [i for i in np.flatnonzero(budgets) if budgets[clusters == clusters[i]].sum() > 1]
        giving = [i for i in giving if groups[i] == groups[poor] or budgets[groups == groups[i]].sum() > 1]
        if not giving:
            break
        richest = max(giving, key=lambda i: (groups[i] == groups[poor], budgets[i], -i))
        budgets[richest] -= 1
        budgets[poor] += 1
    return budgets
