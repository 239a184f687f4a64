"""Lloyd's algorithm on unit rows: exact labels, exact sums, and only those rows looked at again that may have moved.

Bounds (Hamerly 2010, Elkan 2003; here for cosines): where a centre moves by δ, no cosine to it changes by more than δ.
A row whose cosine to its own centre stays above what every other can have become keeps its label unseen.

Labels are exact: a float32 product decides only where its rounding error cannot matter, the others are settled in
float64 in one order of summation. Sums are exact: each entry is rounded to a grid (2⁻³⁴ for 220,000 rows) on which
float64 adds without error. So nothing depends on threads, on blocks, or on which rows were looked at when.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from threading import Lock
from typing import NamedTuple

import numpy as np

from assl_kit.common.jit import jit
from assl_kit.common.parallel import blas

from .dots import dot, product, slack
from .rows import UnitRows

GRID = 2.0**11  # unit rows times this, rounded, have products below 2**24


@jit
def _best(x: np.ndarray, centers: np.ndarray, cosines: np.ndarray, slack: float) -> int:
    """The centre of greatest cosine to x, ties to the first; ``cosines`` holds the cosines within ``slack``."""
    floor = cosines.max() - 2 * slack  # no centre below it can be the nearest, whatever the errors of both
    label, rivals = 0, 0
    for j in range(len(centers)):
        if cosines[j] >= floor:
            label, rivals = j, rivals + 1
    if rivals > 1:
        greatest = -np.inf
        for j in range(len(centers)):
            if cosines[j] >= floor and dot(x, centers[j]) > greatest:
                label, greatest = j, dot(x, centers[j])
    return label


@jit
def settle(A: np.ndarray, centers: np.ndarray, run: np.ndarray, cosines: np.ndarray, slack: float) -> np.ndarray:
    """For each row of A the centre of its run of greatest cosine; ``cosines`` are those to them within ``slack``."""
    labels = np.empty(len(A), np.int64)
    for i in range(len(A)):
        labels[i] = _best(A[i], centers[run[i]], cosines[i], slack)
    return labels


@jit
def _nearest(A: np.ndarray, centers: np.ndarray, cosines: np.ndarray, slack: float) -> np.ndarray:
    """`_best` of each row of A, whose cosines to all centres are given within ``slack``."""
    labels = np.empty(len(A), np.int64)
    for i in range(len(A)):
        labels[i] = _best(A[i], centers, cosines[i], slack)
    return labels


def nearest_centers(rows: UnitRows, centers: np.ndarray, each: Callable[..., Iterable] = map) -> np.ndarray:
    """The centre of greatest cosine to each row (ties to the first), as `Lloyd.assign`, block by block without bounds.

    Parameters
    ----------
    rows : UnitRows of shape (n, d)
    centers : ndarray of shape (k, d), float32
        Unit rows.
    each : callable, default=map
        Runs the blocks.

    Returns
    -------
    ndarray of shape (n,), int64

    Examples
    --------
    >>> nearest_centers(UnitRows(np.float32([[1, 0], [0.6, 0.8], [0, 1]])), np.eye(2, dtype=np.float32)).tolist()
    [0, 1, 1]
    """
    within = slack(rows.shape[1])

    def labels(block: range) -> np.ndarray:
        A = rows.take(block)
        return _nearest(A, centers, A @ centers.T, within)

    with blas().limit(limits=1):
        return np.concatenate(list(each(labels, rows.blocks)))


class Bounds(NamedTuple):
    """What is known of each row.

    ``labels``: its centre, -1 at first. ``lower``: its cosine to that is at least ``lower[i] - drift[label]``.
    ``upper``: its cosine to centre j is at most ``upper[i, j] + drift[j]``. ``drift``: how far each centre has moved in
    all; since the bounds hold less the drift at the time they were set, only the drift is kept up.
    """

    labels: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    drift: np.ndarray


@jit
def _may_move(bounds: Bounds, start: int, stop: int) -> np.ndarray:
    """Rows of a block whose label may no longer be that of the greatest cosine."""
    labels, lower, upper, drift = bounds
    rows = np.empty(stop - start, np.int64)
    count = 0
    for i in range(start, stop):
        label = labels[i]
        least = lower[i] - drift[label]
        for j in range(upper.shape[1]):
            if j != label and upper[i, j] + drift[j] >= least:
                rows[count] = i
                count += 1
                break
    return rows[:count]


@jit
def _assign(
    A: np.ndarray,
    places: np.ndarray,
    rows: np.ndarray,
    centers: np.ndarray,
    slack: float,
    grid: float,
    bounds: Bounds,
    change: np.ndarray,
) -> int:
    """Label ``rows``, keep their bounds, add what they move to ``change`` of the sums. Counts the moves.

    2**-22 of the bounds is room for the rounding of the bounds themselves, which are kept in float32.
    """
    labels, lower, upper, drift = bounds
    k, d = centers.shape
    cosines = np.empty(k, np.float32)
    moved = 0
    for r in range(len(rows)):
        i, x = rows[r], A[places[r]]
        for j in range(k):
            cosines[j] = product(x, centers[j])
            upper[i, j] = cosines[j] + slack + 2.0**-22 * (1 + drift[j]) - drift[j]
        old, new = labels[i], _best(x, centers, cosines, slack)
        lower[i] = cosines[new] - slack - 2.0**-22 * (1 + drift[new]) + drift[new]
        if new != old:
            moved += 1
            labels[i] = new
            for t in range(d):
                value = (x[t] + grid) - grid  # on the grid, where float64 adds without error
                change[new, t] += value
                if old >= 0:
                    change[old, t] -= value
    return moved


def sum_grid(n: int) -> float:
    """What rounds an entry of at most 1, added and taken away again, so that float64 sums of n such add without error.

    Added to an entry, 1.5 · 2^e with 2^e ≥ n rounds it to a multiple of 2^(e-52). Sums of n entries of at most 1 are
    such multiples below 2^e, so float64 holds all of them.
    """
    return float(1.5 * 2.0 ** np.ceil(np.log2(n)))


def moved_centers(sums: np.ndarray, centers: np.ndarray) -> np.ndarray:
    """The directions of sums; where a sum is empty or cancels the centre stays."""
    length = np.linalg.norm(sums, axis=1, keepdims=True)
    return np.where(length > 0, sums / np.where(length > 0, length, 1), centers).astype(np.float32)


def inertia(n: int, sums: np.ndarray, centers: np.ndarray) -> float:
    """Sum of ``2 − 2·cos`` of n rows to the centres of their labels, from the sums of these rows."""
    return max(0.0, float(2 * n - 2 * (sums * centers).sum()))


class Lloyd:
    """Spherical Lloyd iterations over `UnitRows`.

    Parameters
    ----------
    rows : UnitRows of shape (n, d)
    centers : ndarray of shape (k, d), float32
        Unit rows to start from.
    each : callable, default=map
        Runs the blocks; ``map`` of a thread pool does so in threads.
    lazy : bool, default=True
        False looks at every row in every iteration: the plain algorithm.

    Attributes
    ----------
    labels : ndarray of shape (n,), int64
    centers : ndarray of shape (k, d), float32
    inertia : float
        Sum of ``2 − 2·cos`` of each row to the centre of its label.
    """

    def __init__(
        self, rows: UnitRows, centers: np.ndarray, each: Callable[..., Iterable] = map, lazy: bool = True
    ) -> None:
        (n, d), k = rows.shape, len(centers)
        self.rows, self.centers, self.each, self.lazy = rows, centers.astype(np.float32), each, lazy
        self.labels = np.full(n, -1)
        self.sums = np.zeros((k, d))
        self.grid = sum_grid(n)
        self.slack = slack(d)
        self.lower, self.upper, self.drift = np.empty(n, np.float32), np.empty((n, k), np.float32), np.zeros(k)
        self._lock = Lock()

    def run(self, max_iter: int) -> int:
        """Assign and update until nothing moves; the number of iterations."""
        for n_iter in range(1, max_iter + 1):  # noqa: B007
            if self.assign() == 0 and n_iter > 1:
                return n_iter
            self.update()
        self.assign()
        return n_iter

    def assign(self) -> int:
        """Give each row the label of the centre of greatest cosine (ties to the first); how many changed."""
        return sum(self.each(self._assign_block, self.rows.blocks))

    def _assign_block(self, block: range) -> int:
        bounds = Bounds(self.labels, self.lower, self.upper, self.drift)
        if self.lazy and self.labels[block.start] >= 0:
            rows = _may_move(bounds, block.start, block.stop)
        else:
            rows = np.arange(block.start, block.stop)
        if len(rows) == 0:
            return 0
        A, places = self.rows.read(block, rows)
        change = np.zeros_like(self.sums)
        moved = _assign(A, places, rows, self.centers, self.slack, self.grid, bounds, change)
        if moved:
            with self._lock:  # exact sums: the order of blocks does not matter
                self.sums += change
        return moved

    def update(self) -> None:
        """Move each centre to the mean direction of its rows; an empty or cancelling one stays."""
        centers = moved_centers(self.sums, self.centers)
        moved = np.linalg.norm(centers.astype(np.float64) - self.centers, axis=1)
        self.drift += 1.00001 * moved  # rows may be longer than 1 by 1e-6
        self.centers = centers

    def renumber(self, order: np.ndarray) -> None:
        """Let the clusters be numbered in this order of their old numbers."""
        self.centers, self.sums, self.drift = self.centers[order], self.sums[order], self.drift[order]
        self.upper = self.upper[:, order]
        self.labels = np.argsort(order)[self.labels]
        self.assign()  # a row between two centres goes to the one that is now the first

    @property
    def inertia(self) -> float:
        return inertia(len(self.labels), self.sums, self.centers)


def best_start(
    rows: UnitRows,
    sample: np.ndarray,
    n_clusters: int,
    seeds: np.ndarray,
    max_iter: int,
    each: Callable[..., Iterable] = map,
) -> tuple[np.ndarray, int]:
    """Centres of the best of several runs (k-means++, then Lloyd) on a sample, and its number of iterations.

    Parameters
    ----------
    rows : UnitRows of shape (n, d)
    sample : ndarray of int
        Numbers of the rows that the runs are made on.
    n_clusters : int
    seeds : ndarray of int
        One for each run.
    max_iter : int
    each : callable, default=map
        Runs the restarts.

    Returns
    -------
    centers : ndarray of shape (n_clusters, d), float32
    n_iter : int
    """
    X = rows.take(sample)
    some, whole = UnitRows(X), np.rint(X * GRID)

    def run(start: np.ndarray) -> tuple[int, Lloyd]:
        lloyd = Lloyd(some, X[start])
        return lloyd.run(max_iter), lloyd

    with blas().limit(limits=1):
        squares = np.einsum("ij,ij->i", whole, whole).astype(np.float64)
        starts = spread_rows(lambda at: whole[at] @ whole.T, squares, n_clusters, seeds)
        runs = list(each(run, starts))
    n_iter, best_run = min(runs, key=lambda item: item[1].inertia)
    return best_run.centers, n_iter


def spread_rows(
    products: Callable[[np.ndarray], np.ndarray], squares: np.ndarray, k: int, seeds: np.ndarray
) -> np.ndarray:
    """Greedy k-means++ (Arthur & Vassilvitskii 2007), restarts side by side: of rows drawn keep the one that cuts most.

    The rows are whole numbers (unit rows times `GRID`, rounded), so that float32 holds every sum of their products and
    float64 all that is made of them: the draws are the same whatever made the products, in whatever order.

    Parameters
    ----------
    products : callable
        Products of the rows of these numbers with all n rows: float32, shape (len(numbers), n).
    squares : ndarray of shape (n,), float64
        Products of rows with themselves.
    k : int
    seeds : ndarray of int
        One for each restart.

    Returns
    -------
    ndarray of shape (len(seeds), k), int64
        Row numbers.
    """

    def squared(numbers: np.ndarray) -> np.ndarray:
        return squares[numbers][:, None] + squares - 2.0 * products(numbers)

    n, draws = len(squares), 2 + int(np.log(k))
    random = [np.random.default_rng(seed) for seed in seeds]
    chosen = np.empty((len(seeds), k), np.int64)
    chosen[:, 0] = [rng.integers(n) for rng in random]
    left = squared(chosen[:, 0])
    for t in range(1, k):
        totals = left.cumsum(axis=1)
        marks = (rng.random(draws) * total[-1] for rng, total in zip(random, totals, strict=True))
        drawn = np.array([np.searchsorted(*both, side="right") for both in zip(totals, marks, strict=True)])
        drawn = drawn.clip(max=n - 1)
        cut = np.minimum(left[:, None], squared(drawn.ravel()).reshape(len(seeds), draws, n))
        best = cut.sum(axis=2).argmin(axis=1)
        chosen[:, t] = drawn[np.arange(len(seeds)), best]
        left = cut[np.arange(len(seeds)), best]
    return chosen
