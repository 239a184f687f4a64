"""The heavy products of k-means and MMR on a torch device; what decides near ties stays the float64 code of the CPU.

Nothing here is particular to CUDA: on torch's own CPU device the same lines run, and the tests compare them there.
"""

from __future__ import annotations

import numpy as np

from assl_kit.common.device import full_float32, torch_device, upload

from ._kmeans import Lloyd, settle

_ENTRIES = 2**25  # of a block on the device: 128 MB as float32


class TorchLloyd(Lloyd):
    """`Lloyd` with all rows on a torch device and looked at in every iteration; the result is the same."""

    def __init__(self, rows, centers, device):
        super().__init__(rows, centers)
        self.upper = self.upper[:0]  # no bounds here
        self.X = upload((rows.take(block) for block in rows.blocks), rows.shape, torch_device(device))

    def assign(self):
        import torch

        before, (n, d), k = self.labels.copy(), self.X.shape, len(self.centers)
        centers = torch.tensor(self.centers, device=self.X.device)
        sums = torch.zeros((k, d), dtype=torch.float64, device=self.X.device)
        step = max(1, _ENTRIES // d)
        for start in range(0, n, step):
            X = self.X[start : start + step]
            with full_float32():
                product = X @ centers.T
            value, index = product.topk(min(2, k), dim=1)
            label = index[:, 0]
            close = torch.nonzero(value[:, 0] - value[:, -1] <= 2.1 * self.slack)[:, 0] if k > 1 else label[:0]
            if len(close):
                rows = self.rows.take(start + close.cpu().numpy())
                settled = settle(rows, self.centers, product[close].cpu().numpy(), self.slack)
                label[close] = torch.tensor(settled, device=label.device)
            one_hot = torch.nn.functional.one_hot(label, k).to(torch.float64)
            sums += one_hot.T @ ((X.to(torch.float64) + self.grid) - self.grid)
            self.labels[start : start + len(X)] = label.cpu().numpy()
        self.sums = sums.cpu().numpy()
        return int(np.count_nonzero(self.labels != before))


def torch_similarities(X, order, device):
    """For `lazy_picks`: products of rows of X on a torch device, which holds X; ``order`` turns positions into rows."""
    import torch

    step = max(1, _ENTRIES // X.shape[1])
    blocks = (np.ascontiguousarray(X[a : a + step], np.float32) for a in range(0, len(X), step))
    there = upload(blocks, X.shape, torch_device(device))

    def similarities(positions, picks):
        left, right = (there[torch.tensor(order[at], device=there.device)] for at in (positions, picks))
        with full_float32():
            return (left @ right.T).cpu().numpy()

    return similarities
