"""Rows of any real dtype and layout, read in blocks as float32 rows of unit length, without a copy of the whole."""

from __future__ import annotations

import numpy as np

from assl_kit.common.jit import FAST, jit

from .errors import DataError

LENGTH = 1e-6  #: a row whose length is nearer to 1 than this is taken as it is
_ENTRIES = 2**23  # of a block: 32 MB as float32


def unit(X):
    """Each row of a float32 matrix divided by its length, as float32; a zero row stays zero."""
    X = X / np.maximum(np.abs(X).max(axis=1, keepdims=True), np.finfo(np.float32).tiny)
    length = np.linalg.norm(X, axis=1, keepdims=True)
    return np.divide(X, length, out=np.zeros_like(X), where=length > 0)


@jit(fastmath=FAST)
def is_unit(X, within=LENGTH):
    """Whether the length of each row is 1 within so much; false for NaN and inf."""
    fine = np.empty(X.shape[0], np.bool_)
    for i in range(X.shape[0]):
        squared = 0.0
        for t in range(X.shape[1]):
            squared += np.float64(X[i, t]) * np.float64(X[i, t])
        fine[i] = abs(np.sqrt(squared) - 1) <= within
    return fine


def as_array(X):
    """X, or the NumPy array behind a torch tensor (on the CPU it shares its memory)."""
    if not hasattr(X, "detach"):
        return X
    X = X.detach().cpu()
    return (X.float() if str(X.dtype) == "torch.bfloat16" else X).numpy()  # NumPy has no bfloat16


class UnitRows:
    """Unit rows of X in blocks. X is kept by reference; what has to be converted is converted when it is read.

    Parameters
    ----------
    X : ndarray of shape (n, d), real, any layout
    each : callable, default=map
        Runs the check of the blocks; ``map`` of a thread pool does so in threads.

    Attributes
    ----------
    shape : (int, int)
    blocks : list of range
        Row numbers of each block.

    Raises
    ------
    DataError
        If a row holds NaN or infinity; the message names the first.

    Examples
    --------
    >>> rows = UnitRows(np.array([[3, 4], [0, 1]]))
    >>> rows.read(rows.blocks[0])[0].tolist()
    [[0.6000000238418579, 0.800000011920929], [0.0, 1.0]]
    """

    def __init__(self, X, each=map):
        self.X, self.shape = X, X.shape
        step = max(1, _ENTRIES // X.shape[1])
        self.blocks = [range(a, min(a + step, len(X))) for a in range(0, len(X), step)]
        self._as_is = {block: as_is for block, as_is in zip(self.blocks, each(self._check, self.blocks), strict=True)}

    def __len__(self):
        return len(self.X)

    def read(self, block, rows=None):
        """Rows of a block (all, or those whose numbers are given) as ``(A, places)``: row i is ``A[places[i]]``."""
        if rows is None:
            rows = np.arange(block.start, block.stop)
        if self._as_is[block]:
            return self.X, rows
        return self.take(rows), np.arange(len(rows))

    def take(self, rows):
        """The rows of these numbers (any order, any block) as one float32 array of unit rows."""
        A = np.ascontiguousarray(
            self.X[rows.start : rows.stop] if isinstance(rows, range) else self.X[rows], np.float32
        )
        scaled = ~is_unit(A)
        if scaled.any():
            A = A.copy() if np.may_share_memory(A, self.X) else A
            A[scaled] = unit(A[scaled])
        return A

    def _check(self, block):
        """Whether the block can be used as it is; refuses what is not finite."""
        part = self.X[block.start : block.stop]
        with np.errstate(over="ignore", invalid="ignore"):
            A = np.ascontiguousarray(part, dtype=np.float32)
        fine = is_unit(A)
        if not fine.all():
            bad = np.flatnonzero(~np.isfinite(A).all(axis=1))
            if len(bad):
                kind = "NaN" if np.isnan(A[bad[0]]).any() else "infinity"
                where = f"row {block.start + bad[0]}"
                raise DataError(f"a row of X holds {kind}", where=where, hint="Remove or mend that record.")
        return bool(fine.all()) and np.may_share_memory(A, part)
