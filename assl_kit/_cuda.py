"""The heavy products of k-means and MMR on a torch device; what decides near ties stays the float64 code of the CPU.

Nothing here is particular to CUDA: on torch's own CPU device the same lines run, and the tests compare them there.
"""

from __future__ import annotations

import numpy as np

from assl_kit.common.device import full_float32, torch_device, upload
from assl_kit.space.lloyd import _ENTRIES


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
