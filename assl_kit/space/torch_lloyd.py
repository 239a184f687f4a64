"""`Lloyd` on a torch device, with the same labels, centres and sums to the last bit."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from assl_kit.common.device import full_float32, torch_device, upload

from .dots import slack
from .lloyd import GRID, inertia, moved_centers, settle, spread_rows, sum_grid
from .rows import UnitRows

if TYPE_CHECKING:
    import torch

ENTRIES_ON_DEVICE = 2**27  # of a block on the device: 512 MB as float32


class TorchRuns:
    """Runs of `Lloyd` from several starts side by side, each as it would be by itself, on a torch device.

    Every row is looked at in every iteration; the device waits for a handful of numbers of each.

    Parameters
    ----------
    X : tensor of shape (n, d), float32
        Unit rows there.
    take : callable
        Gives the rows of an array of numbers as a NumPy array.
    centers : ndarray of shape (runs, k, d), float32

    Attributes
    ----------
    centers : ndarray of shape (runs, k, d), float32
    sums : ndarray of shape (runs, k, d), float64
    labels : tensor of shape (n, runs), int64
        On the device; -1 at first.
    """

    def __init__(self, X: torch.Tensor, take: Callable[[np.ndarray], np.ndarray], centers: np.ndarray) -> None:
        import torch

        self.X, self.take, self.centers = X, take, centers.astype(np.float32)
        self.sums = np.zeros(centers.shape)
        self.labels = torch.full((len(X), len(centers)), -1, device=X.device)
        self.grid, self.slack = sum_grid(len(X)), slack(X.shape[1])

    def run(self, max_iter: int) -> np.ndarray:
        """As `Lloyd.run`, of each run."""
        n_iter, runs = np.full(len(self.centers), max_iter), np.arange(len(self.centers))
        for number in range(1, max_iter + 1):
            moved = self.assign(runs)
            if number > 1:
                n_iter[runs[moved == 0]] = number
                runs = runs[moved > 0]
            if len(runs) == 0:
                return n_iter
            self.update(runs)
        self.assign(runs)
        return n_iter

    def assign(self, runs: np.ndarray) -> np.ndarray:
        """Label the rows by the centres of these runs; how many changed in each."""
        import torch

        device, (n, d), (_, k, _) = self.X.device, self.X.shape, self.centers.shape
        at, some = torch.tensor(runs, device=device), self.centers[runs]
        there = torch.tensor(some.reshape(-1, d), device=device)
        before, change = self.labels[:, at], torch.zeros((len(runs) * k, d), dtype=torch.float64, device=device)
        labels = torch.empty_like(before)
        step = max(1, ENTRIES_ON_DEVICE // max(d, len(there)))
        for start in range(0, n, step):
            X, old = self.X[start : start + step], before[start : start + step]
            with full_float32():
                cosine = (X @ there.T).view(len(X), len(runs), k)
            new = cosine.argmax(dim=2)
            if k > 1:
                # Two greatest that are nearer than both errors together (and a rounding) are settled in float64.
                second = cosine.scatter(2, new[:, :, None], -torch.inf).amax(dim=2)
                row, run = (cosine.amax(dim=2) - second <= 2.1 * self.slack).nonzero(as_tuple=True)
                if len(row):
                    asked = (
                        self.take(start + row.cpu().numpy()),
                        some,
                        run.cpu().numpy(),
                        cosine[row, run].cpu().numpy(),
                    )
                    new[row, run] = torch.tensor(settle(*asked, self.slack), device=device)
            # A product with 1, 0 and -1 adds what moves; on the grid that is exact, in whatever order.
            row = (new != old).any(dim=1).nonzero()[:, 0]
            for part in row.split(step // 4 + 1):
                moves = _one_hot(new[part], k) - _one_hot(old[part], k)
                change += moves.T @ ((X[part].double() + self.grid) - self.grid)
            labels[start : start + step] = new
        moved = (labels != before).sum(dim=0)
        self.labels[:, at] = labels
        self.sums[runs] += change.cpu().numpy().reshape(some.shape)
        return moved.cpu().numpy()

    def update(self, runs: np.ndarray) -> None:
        """As `Lloyd.update`."""
        shape = self.centers[runs].shape
        sums, centers = (values[runs].reshape(-1, shape[2]) for values in (self.sums, self.centers))
        self.centers[runs] = moved_centers(sums, centers).reshape(shape)

    def inertia(self, run: int) -> float:
        """As `Lloyd.inertia`."""
        return inertia(len(self.X), self.sums[run], self.centers[run])


def _one_hot(labels: torch.Tensor, k: int) -> torch.Tensor:
    """Labels of shape (rows, runs) as float64 ones among zeros, of shape (rows, runs · k); no one for a label of -1."""
    import torch

    return (labels[:, :, None] == torch.arange(k, device=labels.device)).double().flatten(1)


def on_device(rows: UnitRows, device: str) -> torch.Tensor:
    """All rows on a torch device."""
    return upload((rows.whole(block) for block in rows.blocks), rows.shape, torch_device(device))


class TorchLloyd:
    """`Lloyd` with all rows on a torch device and looked at in every iteration; the result is the same.

    Parameters
    ----------
    rows : UnitRows of shape (n, d)
    centers : ndarray of shape (k, d), float32
        Unit rows to start from.
    there : tensor of shape (n, d), float32
        The rows on the device.
    """

    def __init__(self, rows: UnitRows, centers: np.ndarray, there: torch.Tensor) -> None:
        self.runs = TorchRuns(there, rows.take, centers[None])

    def run(self, max_iter: int) -> int:
        """As `Lloyd.run`."""
        return int(self.runs.run(max_iter)[0])

    def renumber(self, order: np.ndarray) -> None:
        """As `Lloyd.renumber`."""
        import torch

        self.runs.centers, self.runs.sums = self.runs.centers[:, order], self.runs.sums[:, order]
        self.runs.labels = torch.tensor(np.argsort(order), device=self.runs.X.device)[self.runs.labels]
        self.runs.assign(np.arange(1))

    @property
    def labels(self) -> np.ndarray:
        return self.runs.labels[:, 0].cpu().numpy()

    @property
    def centers(self) -> np.ndarray:
        return self.runs.centers[0]

    @property
    def inertia(self) -> float:
        return self.runs.inertia(0)


def best_start_there(
    rows: UnitRows, sample: np.ndarray, n_clusters: int, seeds: np.ndarray, max_iter: int, there: torch.Tensor
) -> tuple[np.ndarray, int]:
    """As `best_start`, of rows that are also ``there``."""
    import torch

    def tensor(numbers: np.ndarray) -> torch.Tensor:
        return torch.tensor(numbers, device=there.device)

    X = there[tensor(sample)]
    whole = (X * GRID).round_()

    def products(numbers: np.ndarray) -> np.ndarray:
        with full_float32():
            return (whole[tensor(numbers)] @ whole.T).cpu().numpy()

    squares = whole.double().square_().sum(dim=1).cpu().numpy()
    starts = spread_rows(products, squares, n_clusters, seeds)
    runs = TorchRuns(X, lambda at: rows.take(sample[at]), X[tensor(starts)].cpu().numpy())
    n_iter = runs.run(max_iter)
    best = min(range(len(seeds)), key=runs.inertia)
    return runs.centers[best], int(n_iter[best])
