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

from assl_kit.common.device import full_float32, torch_device, upload
from assl_kit.common.jit import jit
from assl_kit.common.parallel import blas

from .dots import dot, product, slack
from .rows import UnitRows


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
def settle(A: np.ndarray, centers: np.ndarray, cosines: np.ndarray, slack: float) -> np.ndarray:
    """For each row of A the centre of greatest cosine; ``cosines`` is A @ centers.T within ``slack``."""
    labels = np.empty(len(A), np.int64)
    for i in range(len(A)):
        labels[i] = _best(A[i], centers, cosines[i], slack)
    return labels


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
        # Added to an entry, 1.5 · 2^e with 2^e ≥ n rounds it to a multiple of 2^(e-52). Sums of n entries of at most 1
        # are such multiples below 2^e, so float64 holds all of them.
        self.grid = 1.5 * 2.0 ** np.ceil(np.log2(n))
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
        length = np.linalg.norm(self.sums, axis=1, keepdims=True)
        centers = np.where(length > 0, self.sums / np.where(length > 0, length, 1), self.centers).astype(np.float32)
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
        return max(0.0, float(2 * len(self.labels) - 2 * (self.sums * self.centers).sum()))


def best_start(
    X: np.ndarray,
    n_clusters: int,
    n_init: int,
    max_iter: int,
    random_state: np.random.RandomState,
    each: Callable[..., Iterable] = map,
) -> tuple[np.ndarray, int]:
    """Centres of the best of several runs (k-means++, then Lloyd) on a sample, and its number of iterations.

    Parameters
    ----------
    X : ndarray of shape (m, d), float32
        The sample: unit rows.
    n_clusters, n_init, max_iter : int
    random_state : RandomState
    each : callable, default=map
        Runs the restarts.

    Returns
    -------
    centers : ndarray of shape (n_clusters, d), float32
    n_iter : int
    """
    rows = UnitRows(X)

    def run(seed: int) -> tuple[int, Lloyd]:
        lloyd = Lloyd(rows, X[_spread_rows(X, n_clusters, np.random.default_rng(seed))])
        return lloyd.run(max_iter), lloyd

    with blas().limit(limits=1):  # the draws hang on float32 products: the same for any thread count
        runs = list(each(run, random_state.randint(2**31 - 1, size=n_init)))
    n_iter, best_run = min(runs, key=lambda item: item[1].inertia)
    return best_run.centers, n_iter


def _spread_rows(X: np.ndarray, k: int, rng: np.random.Generator) -> list[int]:
    """Greedy k-means++ (Arthur & Vassilvitskii 2007): of rows drawn by squared distance keep the one that cuts most.

    scikit-learn's function does the same; this one relies on unit rows and takes a fifth of its time.
    """
    chosen = [int(rng.integers(len(X)))]
    squared = np.maximum(2 - 2 * (X @ X[chosen[0]]), 0)
    while len(chosen) < k:
        total = squared.cumsum(dtype=np.float64)
        marks = rng.random(2 + int(np.log(k))) * total[-1]
        drawn = np.searchsorted(total, marks, side="right").clip(max=len(X) - 1)
        left = np.minimum(squared, np.maximum(2 - 2 * (X[drawn] @ X.T), 0))
        least = left.sum(axis=1, dtype=np.float64).argmin()
        chosen.append(int(drawn[least]))
        squared = left[least]
    return chosen


ENTRIES_ON_DEVICE = 2**25  # of a block on the device: 128 MB as float32


class TorchLloyd(Lloyd):
    """`Lloyd` with all rows on a torch device and looked at in every iteration; the result is the same."""

    def __init__(self, rows: UnitRows, centers: np.ndarray, device: str) -> None:
        super().__init__(rows, centers)
        self.upper = self.upper[:0]  # no bounds here
        self.X = upload((rows.take(block) for block in rows.blocks), rows.shape, torch_device(device))

    def assign(self) -> int:
        """As `Lloyd.assign`."""
        import torch

        before, (n, d), k = self.labels.copy(), self.X.shape, len(self.centers)
        centers = torch.tensor(self.centers, device=self.X.device)
        sums = torch.zeros((k, d), dtype=torch.float64, device=self.X.device)
        step = max(1, ENTRIES_ON_DEVICE // d)
        for start in range(0, n, step):
            X = self.X[start : start + step]
            with full_float32():
                product = X @ centers.T
            value, index = product.topk(min(2, k), dim=1)
            label = index[:, 0]
            # Two greatest that are nearer than both errors together (and a rounding) are settled in float64.
            close = torch.nonzero(value[:, 0] - value[:, -1] <= 2.1 * self.slack)[:, 0] if k > 1 else label[:0]
            if len(close):
                rows = self.rows.take(start + close.cpu().numpy())
                settled = settle(rows, self.centers, product[close].cpu().numpy(), self.slack)
                label[close] = torch.tensor(settled, device=label.device)
            # A product with 0 and 1 sums the rows of each label; on the grid that is exact, in whatever order.
            one_hot = torch.nn.functional.one_hot(label, k).to(torch.float64)
            sums += one_hot.T @ ((X.to(torch.float64) + self.grid) - self.grid)
            self.labels[start : start + len(X)] = label.cpu().numpy()
        self.sums = sums.cpu().numpy()
        return int(np.count_nonzero(self.labels != before))
