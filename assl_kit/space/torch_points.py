"""`Points` whose tiles are multiplied, filtered and measured on a torch device; the decisions stay where they are.

Full float32 products, no projection: a GPU multiplies faster than short vectors could spare it. The float64 distances
are summed in the order of ``tiles.squared_distance``, so the results are the same bits. Nothing here is particular to
CUDA: the tests run it on torch's own CPU device.
"""

from __future__ import annotations

import numpy as np

from assl_kit.common.device import full_float32, torch_device, upload

from . import tiles
from .points import STEP, Points

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

    def __init__(self, X, subset=None, *, device, threads=1, progress=False):
        self.device = torch_device(device)
        super().__init__(X, subset, threads=threads, progress=progress)
        self.threads, self.block = 1, BLOCK
        self.attach(X)

    def detach(self):
        """As `Points.detach`; what the device holds goes too."""
        self.X = self.rows = self.Z = None

    def attach(self, X):
        """As `Points.attach`; the device gets the rows again."""
        self.X = X
        parts = (np.arange(start, min(start + STEP, len(self))) for start in range(0, len(self), STEP))
        self.rows = upload((self.raw(part) for part in parts), (len(self), X.shape[1]), self.device)
        self.Z = self.rows
        if self.centre is not None:
            self.Z = (self.rows - self._tensor(self.centre)) * float(self.scale)

    def _project(self):
        pass

    def _arrange(self):
        pass

    def _tensor(self, values):
        import torch

        return torch.as_tensor(values, device=self.device)

    def _product(self, rows, columns):
        with full_float32():
            return self.Z[self._tensor(rows)] @ self.Z[self._tensor(columns)].T

    def distances(self, numbers, others):
        """As `Points.distances`."""
        out = np.empty(len(numbers))
        for start in range(0, len(numbers), PAIRS):
            part = slice(start, start + PAIRS)
            one, other = self.rows[self._tensor(numbers[part])], self.rows[self._tensor(others[part])]
            squares = (one.double() - other.double()).square_()
            n = squares.shape[1]
            while n > 1:
                half = (n + 1) // 2
                squares[:, : n - half] += squares[:, half:n]
                n = half
            out[part] = squares[:, 0].cpu().numpy()
        return out

    def near(self, left, a, right, b, reach_l, reach_r, *, either=False, mode=0, groups=None, tighten=0, exact=True):
        """As `Points.near`."""
        import torch

        diagonal = left is right and a == b
        rows, columns = left.rows[a], right.rows[b]
        product = self._product(rows, columns)
        apart = None
        if mode != tiles.ANY:
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
            reach_l = np.minimum(reach_l, self._about(left, a, right, b, kth))
            reach_r = reach_l if diagonal else reach_r
        low_l, half_l, low_r, half_r = (self._tensor(part) for part in self._cuts(left, a, right, b, reach_l, reach_r))
        one, other = low_l[:, None] + half_r, low_r + half_l[:, None]
        near = product >= (torch.minimum(one, other) if either else torch.maximum(one, other))
        if diagonal:
            near.triu_(1)
        if apart is not None:
            near &= ~apart
        i, j = torch.nonzero(near, as_tuple=True)
        found = product[i, j].cpu().numpy() if not exact else None
        i, j = i.cpu().numpy(), j.cpu().numpy()
        if exact:
            return i, j, self.distances(rows[i], columns[j])
        return i, j, self._values(found, left, a, right, b, i, j, reach_l, reach_r)

    def _pairs_product(self, rows):
        return self._product(rows, rows).cpu().numpy()
