"""Exact Euclidean neighbours: the k nearest, and the nearest within a radius.

Both walk over tiles of `points.Points`, whose filters leave a few pairs; those are measured in float64. So exact
duplicates are at distance 0 and nothing depends on tiles, thread count or the BLAS in use. Memory is O(n·k + n·d/6).
"""

from __future__ import annotations

from functools import partial
from itertools import combinations
from threading import Lock
from typing import TYPE_CHECKING

import numpy as np

from assl_kit.common.checks import whole
from assl_kit.common.jit import jit
from assl_kit.common.parallel import for_each, thread_count

from . import tiles
from .points import Points
from .rows import Side, check_rows
from .torch_points import DevicePoints

if TYPE_CHECKING:
    import torch
    from numpy.typing import ArrayLike

_FEW = 1 << 20
"""Pairs of rows that are searched sooner than a thread starts (ours)."""
SLACK = 1e-6  #: relative slack of every comparison of a distance with a radius; applied in `reach` and nowhere else


class Graph:
    """The nearest distinct rows of each distinct row.

    Attributes
    ----------
    squared : ndarray of shape (u, k), float64
        Squared distances, ascending; column 0 is 0.
    index : ndarray of shape (u, k), int64
        Their numbers; column 0 is the row itself, ties are in order of number.
    """

    def __init__(self, points: Points, k: int) -> None:
        u = len(points)
        k = min(k, u)
        if isinstance(points, DevicePoints):
            self.squared, self.index = np.zeros((u, k)), np.arange(u)[:, None].repeat(k, axis=1)
            if k > 1:
                self.squared[:, 1:], self.index[:, 1:] = points.neighbours(k - 1)
            return
        size = max(points.block, min(2 * k, u))
        side = points.side()
        squared, index = np.full((u, k), np.inf), np.full((u, k), u, dtype=np.int64)
        squared[:, 0], index[:, 0] = 0.0, side.rows
        blocks = side.blocks(size)
        locks = [Lock() for _ in blocks]

        def fill(tile: tuple[int, int]) -> None:
            a, b = (blocks[t] for t in tile)
            reach = squared[a][:, -1], squared[b][:, -1]  # only ever lowered, by whatever thread: too large is safe
            alone = k - 1 if a == b else 0  # k - 1 of its own block bound a row's radius before any is known
            i, j, distance = points.near(side, a, side, b, *reach, either=True, tighten=alone)
            rows, columns = side.rows[a][i], side.rows[b][j]
            with locks[tile[0]]:
                tiles.push(squared[a], index[a], i, columns, distance)
            with locks[tile[1]]:
                tiles.push(squared[b], index[b], j, rows, distance)

        if k > 1:
            title = "nearest neighbours" if points.progress else None
            for_each(fill, [(t, t) for t in range(len(blocks))], points.threads)  # first: they set the radii
            for_each(fill, near_first(side, blocks), points.threads, title)
        back = np.argsort(side.rows)
        self.squared, self.index = squared[back], index[back]


def near_first(side: Side, blocks: list[slice]) -> list[tuple[int, int]]:
    """Pairs of different blocks, those with near centres first: they tighten the filters for the rest."""
    if side.short is None:
        return list(combinations(range(len(blocks)), 2))
    centres = np.array([side.short[block].mean(axis=0) for block in blocks])
    one, other = np.triu_indices(len(blocks), 1)
    square = np.einsum("ij,ij->i", centres, centres)
    order = np.argsort(square[one] + square[other] - 2 * (centres @ centres.T)[one, other], kind="stable")
    return list(zip(one[order].tolist(), other[order].tolist(), strict=True))


def knn(
    X: ArrayLike | torch.Tensor, k: int, *, n_jobs: int | None = None, device: str = "cpu", verbose: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Find the exact k nearest neighbours of every row, the row itself counted first.

    Parameters
    ----------
    X : array-like of shape (n, d)
        Finite rows; see :func:`check_rows`. Distance is Euclidean on the rows as given, in float32.
    k : int
        Neighbours per row, 1 ≤ k ≤ n, the row itself included.
    n_jobs : int, optional
        Threads, as in joblib (-1: all cores). By default as many as BLAS is set to. Never changes the result.
    device : {"cpu", "cuda"}, default="cpu"
        Where the matrix products run. Never changes the result.
    verbose : bool, default=False
        Show progress.

    Returns
    -------
    distances : ndarray of shape (n, k), float32
        Ascending; column 0 is 0.
    indices : ndarray of shape (n, k), int64
        Column 0 is the row itself, even among exact duplicates; other ties are in order of row number.

    Raises
    ------
    ParameterError
        If k is not an integer in range, or the device is not there.
    DataError
        If X is not usable.

    Notes
    -----
    Ours. Candidates come from float32 matrix products with rigorous error bounds and are measured again in float64.

    Examples
    --------
    >>> distances, indices = knn([[0.0], [1.0], [3.0], [1.0]], k=3)
    >>> indices[1], distances[1]
    (array([1, 3, 0]), array([0., 0., 1.], dtype=float32))
    """
    X = check_rows(X, convert=False, values=device == "cpu")  # a device looks at the values itself
    k = whole("k", k, 1, len(X), hint="A row can have no more neighbours than there are rows.")
    points = make_points(X, n_jobs=n_jobs, device=device, verbose=verbose)
    graph = Graph(points, k)
    if len(points) == len(X):
        return np.sqrt(graph.squared).astype(np.float32), graph.index
    members = np.argsort(points.inverse, kind="stable")
    starts = np.concatenate([[0], np.cumsum(points.counts)])
    distances, indices = np.empty((len(X), k), np.float32), np.empty((len(X), k), np.int64)
    _expand(graph.squared, graph.index, points.inverse, members, starts, distances, indices)
    return distances, indices


def make_points(
    X: np.ndarray,
    *,
    subset: np.ndarray | None = None,
    n_jobs: int | None = None,
    device: str = "cpu",
    verbose: bool = False,
) -> Points:
    """`Points` over checked rows, on the device asked for."""
    if device == "cpu":
        return Points(X, subset, threads=thread_count(n_jobs), progress=verbose)
    return DevicePoints(X, subset, device=device, threads=thread_count(n_jobs), progress=verbose)


def nearest_within(
    points: Points,
    rows: np.ndarray,
    columns: np.ndarray,
    limit: np.ndarray,
    *,
    graph: Graph | None = None,
    place: np.ndarray | None = None,
    tie: np.ndarray | None = None,
    group: np.ndarray | None = None,
    any_one: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """For each row the nearest other column with squared distance ≤ the lesser limit, or -1.

    Parameters
    ----------
    points : Points
    rows, columns : ndarray of int64
        Numbers of distinct rows.
    limit : ndarray of shape (u,), float64
        Squared radii from :func:`reach`, by number; inf for any distance.
    graph : Graph, optional
        Neighbours already known; what they settle is not searched for.
    place : ndarray of shape (u,), int64, optional
        A place in a sequence, by number: a column counts only where its place is before the row's.
    tie : ndarray of shape (u,), int64, optional
        Rank that settles equal distances; by number by default.
    group : ndarray of shape (u,), int64, optional
        A column counts only where its group is the row's.
    any_one : bool, default=False
        Any column will do, with an upper bound of its squared distance that is still within the limit: much cheaper.

    Returns
    -------
    nearest : ndarray of shape (len(rows),), int64
        Numbers, or -1.
    squared : ndarray of shape (len(rows),), float64
        inf where there is none.
    """
    u = len(points)
    rules = tiles.Rules(
        limit,
        np.zeros(0, np.int64) if place is None else place,
        np.zeros(u, np.int64) if group is None else group,
        np.arange(u) if tie is None else tie,
    )
    nearest, squared = np.full(u, -1, dtype=np.int64), np.full(u, np.inf)
    unsettled = rows
    if graph is not None:
        used = np.zeros(u, bool)
        used[columns] = True
        settled = tiles.nearest_known(rows, graph.squared, graph.index, used, rules, nearest, squared)
        unsettled = rows[~settled]
    if len(unsettled) and len(columns) and isinstance(points, DevicePoints):
        nearest[unsettled], squared[unsettled] = points.nearest(unsettled, columns, rules, group is not None, any_one)
    elif len(unsettled) and len(columns):
        left, right = points.side(unsettled), points.side(columns)
        columns_in = right.blocks(points.block)
        near = partial(points.near, mode=tiles.ANY if group is None else tiles.EQUAL, exact=not any_one)

        def search(a: slice) -> None:
            ours, most = left.rows[a], limit[left.rows[a]]
            for b in columns_in:
                theirs = right.rows[b]
                # Only what is nearer than the nearest so far matters; where any will do, one that has some is done.
                reach = np.where(nearest[ours] >= 0, 0.0, most) if any_one else np.minimum(most, squared[ours])
                groups = None if group is None else (group[ours], group[theirs])
                # Without a radius the second nearest of a tile gives one (the nearest may be the row itself), but not
                # where a place decides besides.
                open_end = bool(np.isinf(reach).any()) and place is None
                i, j, distance = near(left, a, right, b, reach, limit[theirs], groups=groups, tighten=2 * open_end)
                tiles.improve(nearest, squared, ours[i], theirs[j], distance, rules)

        threads = points.threads if len(left) * len(right) > _FEW else 1
        size = min(points.block, max(64, -(-len(left) // (2 * threads))))
        for_each(search, left.blocks(size), threads)
    return nearest[rows], squared[rows]


def reach(radii: ArrayLike) -> np.ndarray:
    """Square of radii with the one slack added: a squared distance ≤ ``reach(r)`` is "within r"."""
    return np.square(np.asarray(radii, dtype=np.float64) * (1 + SLACK))


@jit
def _expand(
    squared: np.ndarray,
    index: np.ndarray,
    inverse: np.ndarray,
    members: np.ndarray,
    starts: np.ndarray,
    distances: np.ndarray,
    indices: np.ndarray,
) -> None:
    """Neighbours among all rows from those among distinct rows: itself, then by distance, equal ones by row.

    The rows equal to distinct row g are ``members[starts[g] : starts[g + 1]]``. ``run`` collects all rows at one
    distance, at most k of each distinct row, before they are put in order.
    """
    k = indices.shape[1]
    run = np.empty(min(k * index.shape[1], len(inverse)), np.int64)
    for i in range(len(inverse)):
        number = inverse[i]
        distances[i, 0] = 0
        indices[i, 0] = i
        filled, t = 1, 0
        while filled < k:
            size, value = 0, squared[number, t]
            while t < index.shape[1] and squared[number, t] == value:
                group = index[number, t]
                for m in range(starts[group], min(starts[group + 1], starts[group] + k)):
                    if members[m] != i:
                        run[size] = members[m]
                        size += 1
                t += 1
            for row in np.sort(run[:size])[: k - filled]:
                distances[i, filled] = np.sqrt(value)
                indices[i, filled] = row
                filled += 1
