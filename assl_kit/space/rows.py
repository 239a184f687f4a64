"""Rows of any real dtype and layout, read in blocks as float32 rows of unit length, without a copy of the whole."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from scipy.sparse import issparse

from assl_kit.common.jit import FAST, jit
from assl_kit.errors import DataError

if TYPE_CHECKING:
    import torch
    from numpy.typing import ArrayLike

LENGTH = 1e-6  #: a row whose length is nearer to 1 than this is taken as it is
LARGEST = 1e30  #: entries beyond this would overflow float32 distances
ENTRIES = 2**22  #: of X read at a time when rows are checked
_ENTRIES = 2**23  # of a block of `UnitRows`: 32 MB as float32


def unit(X: np.ndarray) -> np.ndarray:
    """Each row of a float32 matrix divided by its length, as float32; a zero row stays zero."""
    # By the largest entry first: the squares of entries beyond 1e19 would overflow, those below 1e-23 would vanish.
    X = X / np.maximum(np.abs(X).max(axis=1, keepdims=True), np.finfo(np.float32).tiny)
    length = np.linalg.norm(X, axis=1, keepdims=True)
    return np.divide(X, length, out=np.zeros_like(X), where=length > 0)


@jit(fastmath=FAST)
def is_unit(X: np.ndarray, within: float = LENGTH) -> np.ndarray:
    """Whether the length of each row is 1 within so much; false for NaN and inf."""
    fine = np.empty(X.shape[0], np.bool_)
    for i in range(X.shape[0]):
        squared = 0.0
        for t in range(X.shape[1]):
            squared += np.float64(X[i, t]) * np.float64(X[i, t])
        fine[i] = abs(np.sqrt(squared) - 1) <= within
    return fine


@jit
def column_sums(X: np.ndarray) -> np.ndarray:
    """Sums of columns in float64, row after row."""
    total = np.zeros(X.shape[1])
    for i in range(X.shape[0]):
        for t in range(X.shape[1]):
            total[t] += np.float64(X[i, t])
    return total


def as_array(X: ArrayLike | torch.Tensor) -> Any:
    """X, or the NumPy array behind a torch tensor (on the CPU it shares its memory)."""
    if not hasattr(X, "detach"):
        return X
    tensor = X.detach().cpu()
    return (tensor.float() if str(tensor.dtype) == "torch.bfloat16" else tensor).numpy()  # NumPy has no bfloat16


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

    def __init__(self, X: np.ndarray, each: Callable[..., Iterable] = map) -> None:
        self.X, self.shape = X, X.shape
        step = max(1, _ENTRIES // X.shape[1])
        self.blocks = [range(a, min(a + step, len(X))) for a in range(0, len(X), step)]
        self._as_is = {block: as_is for block, as_is in zip(self.blocks, each(self._check, self.blocks), strict=True)}

    def __len__(self) -> int:
        return len(self.X)

    def read(self, block: range, rows: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Rows of a block (all, or those whose numbers are given) as ``(A, places)``: row i is ``A[places[i]]``."""
        if rows is None:
            rows = np.arange(block.start, block.stop)
        if self._as_is[block]:
            return self.X, rows
        return self.take(rows), np.arange(len(rows))

    def whole(self, block: range) -> np.ndarray:
        """All rows of a block."""
        return self.X[block.start : block.stop] if self._as_is[block] else self.take(block)

    def take(self, rows: range | np.ndarray) -> np.ndarray:
        """The rows of these numbers (any order, any block) as one float32 array of unit rows."""
        part = self.X[rows.start : rows.stop] if isinstance(rows, range) else self.X[rows]
        A = np.ascontiguousarray(part, np.float32)
        other = ~is_unit(A)
        if other.any():
            A = A.copy() if np.may_share_memory(A, self.X) else A  # the user's rows are never written to
            A[other] = unit(A[other])
        return A

    def _check(self, block: range) -> bool:
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


def check_rows(
    X: ArrayLike | torch.Tensor, *, unit: bool = False, name: str = "X", convert: bool = True, values: bool = True,
    each: Callable[..., Iterable] = map,
) -> np.ndarray:  # fmt: skip
    """Check a matrix of rows and give it as float32.

    Parameters
    ----------
    X : array-like of shape (n, d)
        Finite real numbers: lists, any float or integer dtype, non-contiguous and memory-mapped arrays, torch tensors
        on any device. A C-contiguous float32 array is not copied.
    unit : bool, default=False
        Also ask that every row has Euclidean length 1, to within 1e-3.
    name : str, default="X"
        What to call the array in messages.
    convert : bool, default=True
        Give float32; else a float array stays as it is, and a memory-mapped one on disk.
    values : bool, default=True
        Look at the values; else at the kind and shape only, where the values are looked at later.
    each : callable, default=map
        Runs the look at blocks of rows; ``map`` of a thread pool does so in threads.

    Returns
    -------
    ndarray of shape (n, d), float32 and C-contiguous where ``convert``

    Raises
    ------
    DataError
        If X is sparse, complex, not numeric, not two-dimensional or empty, or if a row holds NaN, inf or an entry
        beyond 1e30; with ``unit=True`` also if a row is zero or not of unit length. The message names the row.

    Notes
    -----
    Ours; the paper does not say how embeddings are checked.

    Examples
    --------
    >>> check_rows([[3, 4], [0, 1]]).dtype
    dtype('float32')
    >>> check_rows([[0.6, 0.8], [0, 0]], unit=True)
    Traceback (most recent call last):
    ...
    assl_kit.errors.DataError: a row of X is zero (row 1). Remove the record, or check what the encoder was given.
    """
    if issparse(X):
        raise DataError(f"{name} is a sparse matrix", hint="Give a dense array, for example X.toarray().")
    try:
        X = np.asarray(as_array(X))
        if X.dtype.kind not in "fiubc":
            X = X.astype(np.float64)
    except (TypeError, ValueError) as error:
        hint = "Give equally long rows of numbers."
        raise DataError(f"{name} is not a matrix of numbers: {error}", hint=hint) from None
    if X.dtype.kind == "c":
        raise DataError(f"Complex data not supported: {name} has dtype {X.dtype}", hint="Give real numbers.")
    if X.ndim != 2:
        hint = "Reshape your data to (n, d); X.reshape(1, -1) makes one row of a vector."
        raise DataError(f"{name} must have two dimensions, found shape {X.shape}", hint=hint)
    if 0 in X.shape:
        raise DataError(f"{name} is empty: shape {X.shape}", hint="Give at least one row and one column.")
    if values:
        list(each(lambda part: _check_block(part[1], part[0], unit, name), row_blocks(X)))
    if not convert and X.dtype in (np.float16, np.float32, np.float64):
        return X
    return np.ascontiguousarray(X, dtype=np.float32)


def row_blocks(X: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Rows of X, some at a time: the number of the first, and the rows."""
    step = max(1, ENTRIES // X.shape[1])
    return ((start, X[start : start + step]) for start in range(0, len(X), step))


def _check_block(block: np.ndarray, start: int, unit: bool, name: str) -> None:
    if unit and is_unit(np.ascontiguousarray(block, dtype=np.float32), 1e-3).all():
        return  # by far the commonest case, in one compiled pass
    with np.errstate(invalid="ignore", over="ignore"):
        fine = float(block.min()) >= -LARGEST and float(block.max()) <= LARGEST  # false for NaN too
    if not fine:
        row = int(np.argmin((np.abs(block) <= LARGEST).all(axis=1)))
        kind = "an entry beyond 1e30" if np.isfinite(block[row]).all() else "NaN or inf"
        raise DataError(f"a row of {name} holds {kind}", where=f"row {start + row}", hint="Repair or remove it.")
    if unit:
        rows = block.astype(np.float32, copy=False)
        length = np.sqrt(np.einsum("ij,ij->i", rows, rows))
        bad = np.flatnonzero(np.abs(length - 1) > 1e-3)
        if len(bad):
            row = int(bad[0])
            what, hint = (
                f"a row of {name} has length {length[row]:.6g}, not 1",
                "Divide each row by its Euclidean length.",
            )
            if length[row] == 0:
                what, hint = f"a row of {name} is zero", "Remove the record, or check what the encoder was given."
            raise DataError(what, where=f"row {start + row}", hint=hint)


def unit_rows64(X: ArrayLike, name: str) -> np.ndarray:
    """Finite, nonzero rows scaled to unit length, in float64 throughout.

    `UnitRows` and `unit` scale in float32, which is enough to compare rows with each other; where a threshold decides,
    as in routing, the last bits count.

    Raises
    ------
    DataError
        If X is no matrix of numbers, or a row is not finite or zero; the message names the first.

    Examples
    --------
    >>> unit_rows64([[3, 4]], "X").tolist()
    [[0.6, 0.8]]
    """
    try:
        X = np.asarray(X, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(f"{name} is not an array of numbers: {error}") from None
    if X.ndim != 2 or X.shape[1] == 0:
        raise DataError(f"{name} must have two dimensions (rows, features), not shape {X.shape}")
    bad = np.flatnonzero(~np.isfinite(X).all(axis=1))
    if len(bad):
        raise DataError(f"{name} has a NaN or infinite value", where=f"row {bad[0]}", hint="Embed the row again.")
    length = np.linalg.norm(X, axis=1)
    zero = np.flatnonzero(length == 0)
    if len(zero):
        raise DataError(f"{name} has a row of zeros, which has no direction", where=f"row {zero[0]}")
    return X / length[:, None]


def mean_direction(X: np.ndarray, rows: np.ndarray | None = None, each: Callable[..., Iterable] = map) -> np.ndarray:
    """The mean of rows, scaled to unit length.

    Parameters
    ----------
    X : ndarray of shape (n, d), float32
    rows : ndarray of int, optional
        The rows to average, added in this order; all rows in their order by default.
    each : callable, default=map
        Runs the blocks of rows; ``map`` of a thread pool does so in threads. Never changes the result.

    Returns
    -------
    ndarray of shape (d,), float64
        Unit length.

    Raises
    ------
    DataError
        If there is no row, or the mean has no direction (its length is below 1e-6).

    Examples
    --------
    >>> mean_direction(np.eye(2, dtype=np.float32)).round(4).tolist()
    [0.7071, 0.7071]
    """
    n = len(X) if rows is None else len(rows)

    def add(start: int) -> np.ndarray:
        part = X[start : start + 4096] if rows is None else X[rows[start : start + 4096]]
        return column_sums(np.ascontiguousarray(part, dtype=np.float32))

    total = np.zeros(X.shape[1])
    for part in each(add, range(0, n, 4096)):  # in this order, whoever was first
        total += part
    length = np.linalg.norm(total)
    if n == 0 or length < 1e-6 * n:
        raise DataError(
            f"the mean of {n} rows has no direction, so there is no centroid",
            hint="Give a centroid, or rows that do not cancel out.",
        )
    return total / length


class Side:
    """Some distinct rows, in the order in which tiles take them.

    Parameters
    ----------
    rows : ndarray of shape (s,), int64
        Their numbers.
    squared : ndarray of shape (s,), float64
        Squared norms of the rows as the products take them.
    short : ndarray of shape (s, p), float32, or None
        Their short vectors; None without projection.
    shift : float, default=0.0
        How much longer a distance of short vectors may come out than it is, in units of the sum of the two norms.

    Attributes
    ----------
    rows, squared, short, shift
        As given.
    norm : ndarray of shape (s,), float64
    half : ndarray of shape (s,), float32
        Half of the squared norms.
    short_squared, short_half : ndarray of shape (s,), float64 and float32
        The same of the short vectors, where there are some.
    """

    def __init__(self, rows: np.ndarray, squared: np.ndarray, short: np.ndarray | None, shift: float = 0.0) -> None:
        self.rows, self.squared, self.short, self.shift = rows, squared, short, shift
        self.norm = np.sqrt(squared)
        self.half = (squared / 2).astype(np.float32)
        if short is not None:
            self.short_squared = np.einsum("ij,ij->i", short, short, dtype=np.float64)
            self.short_half = (self.short_squared / 2).astype(np.float32)

    def __len__(self) -> int:
        return len(self.rows)

    def blocks(self, size: int) -> list[slice]:
        """Slices of at most ``size`` places."""
        return [slice(start, min(start + size, len(self))) for start in range(0, len(self), size)]


class Tile(NamedTuple):
    """Rows of one side beside rows of another, or of the same; ``a`` and ``b`` are places in them."""

    left: Side
    a: slice | np.ndarray
    right: Side
    b: slice | np.ndarray


def places(part: slice | np.ndarray, at: np.ndarray) -> np.ndarray:
    """Places in a side of the places ``at`` in a part of it."""
    return part.start + at if isinstance(part, slice) else part[at]
