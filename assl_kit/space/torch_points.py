"""`Points` whose tiles are multiplied, filtered and measured on a torch device; the decisions stay where they are.

Full float32 products, no projection: a GPU multiplies faster than short vectors could spare it. The float64 distances
are summed in the order of ``tiles.squared_distance``, so the results are the same bits. Nothing here is particular to
CUDA: the tests run it on torch's own CPU device.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from assl_kit.common.device import full_float32, torch_device, upload

from . import tiles
from .points import STEP, Points
from .sides import Side, Tile

if TYPE_CHECKING:
    import torch

BLOCK = 8192  # rows and columns of a tile: 256 MB as float32
PAIRS = 2**16  # measured together


class DevicePoints(Points):
    """The distinct rows of a matrix, held on a torch device.

    Parameters
    ----------
    X, subset, threads, progress
        As `Points`; one thread drives the device.
    device : str
        A torch device.

    Raises
    ------
    ParameterError
        If the device is not there.
    """

    def __init__(
        self,
        X: np.ndarray,
        subset: np.ndarray | None = None,
        *,
        device: str,
        threads: int = 1,
        progress: bool = False,
    ) -> None:
        self.device = torch_device(device)
        self.rows: Any  # the distinct rows there, and as the products take them; None after `detach`
        self.Z: Any
        super().__init__(X, subset, threads=threads, progress=progress)
        self.threads, self.block = 1, BLOCK
        self.attach(X)

    def detach(self) -> None:
        """As `Points.detach`; what the device holds goes too."""
        self.X = self.rows = self.Z = None

    def attach(self, X: np.ndarray) -> None:
        """As `Points.attach`; the device gets the rows again."""
        self.X = X
        parts = (np.arange(start, min(start + STEP, len(self))) for start in range(0, len(self), STEP))
        self.rows = upload((self.raw(part) for part in parts), (len(self), X.shape[1]), self.device)
        self.Z = self.rows
        if self.centre is not None:
            self.Z = (self.rows - self._tensor(self.centre)) * float(self.scale)

    def _project(self) -> None:
        """No short vectors here."""

    def _arrange(self) -> None:
        """Nor an order, which serves them only."""

    def _tensor(self, values: Any) -> torch.Tensor:
        import torch

        return torch.as_tensor(values, device=self.device)

    def _product(self, rows: np.ndarray, columns: np.ndarray) -> torch.Tensor:
        with full_float32():
            return self.Z[self._tensor(rows)] @ self.Z[self._tensor(columns)].T

    def distances(self, numbers: np.ndarray, others: np.ndarray) -> np.ndarray:
        """As `Points.distances`."""
        out = np.empty(len(numbers))
        for start in range(0, len(numbers), PAIRS):
            part = slice(start, start + PAIRS)
            one, other = self.rows[self._tensor(numbers[part])], self.rows[self._tensor(others[part])]
            squares = (one.double() - other.double()).square_()
            n = squares.shape[1]  # halves added to halves, as `tiles.squared_distance` does
            while n > 1:
                half = (n + 1) // 2
                squares[:, : n - half] += squares[:, half:n]
                n = half
            out[part] = squares[:, 0].cpu().numpy()
        return out

    def near(
        self,
        left: Side,
        a: slice,
        right: Side,
        b: slice,
        reach_l: np.ndarray,
        reach_r: np.ndarray,
        *,
        either: bool = False,
        mode: int = tiles.ANY,
        groups: tuple[np.ndarray, np.ndarray] | None = None,
        tighten: int = 0,
        exact: bool = True,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """As `Points.near`."""
        import torch

        diagonal = left is right and a == b
        tile, rows, columns = Tile(left, a, right, b), left.rows[a], right.rows[b]
        product = self._product(rows, columns)
        apart = None
        if groups is not None and mode != tiles.ANY:
            same = self._tensor(groups[0])[:, None] == self._tensor(groups[1])
            apart = same if mode == tiles.DIFFERENT else ~same
        if tighten:
            value = self._tensor((right.squared[b] / 2).astype(np.float32)) - product
            if diagonal:
                value.fill_diagonal_(torch.inf)
            if apart is not None:
                value[apart] = torch.inf
            kth = np.full(len(rows), np.inf)
            if tighten <= value.shape[1] - diagonal:
                kth = value.topk(tighten, dim=1, largest=False).values[:, -1].double().cpu().numpy()
            reach_l = np.minimum(reach_l, self._about(tile, kth))
            reach_r = reach_l if diagonal else reach_r
        low_l, half_l, low_r, half_r = map(self._tensor, self._cuts(tile, reach_l, reach_r))
        one, other = low_l[:, None] + half_r, low_r + half_l[:, None]
        near = product >= (torch.minimum(one, other) if either else torch.maximum(one, other))
        if diagonal:
            near.triu_(1)
        if apart is not None:
            near &= ~apart
        places = torch.nonzero(near, as_tuple=True)
        i, j = (place.cpu().numpy() for place in places)
        if exact:
            return i, j, self.distances(rows[i], columns[j])
        return i, j, self._values(product[places].cpu().numpy(), tile, i, j, reach_l, reach_r)

    def _pairs_product(self, rows: np.ndarray) -> np.ndarray:
        return self._product(rows, rows).cpu().numpy()
