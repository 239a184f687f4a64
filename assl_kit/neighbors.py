"""Exact Euclidean neighbours, tile by tile: a float32 matrix product filters, a fixed-order float64 sum decides.

Each tile of rows × columns is one matrix product. A rigorous bound on its rounding error tells which pairs it already
settles; the few others are measured by ``_tiles.squared_distance``, whose result depends on the two rows alone. So
exact duplicates are at distance 0 and nothing depends on block size, thread count or the BLAS in use. Memory is
O(n + tile).
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
from joblib import effective_n_jobs
from scipy.sparse import issparse
from threadpoolctl import threadpool_limits

from ._tiles import flatten, knn_tile, link_tile, nearest_tile
from .errors import DataError, ParameterError

SLACK = 1e-6  #: relative slack of every comparison of a distance with a radius; applied in `reach` and nowhere else
LARGEST = 1e30  #: entries beyond this would overflow float32 distances
ROWS, COLUMNS = 512, 4096  #: default tile


def check_rows(X, *, unit=False, name="X"):
    """Check a matrix of rows and give it as float32.

    Parameters
    ----------
    X : array-like of shape (n, d)
        Finite real numbers: lists, any float or integer dtype, non-contiguous and memory-mapped arrays. A C-contiguous
        float32 array is not copied.
    unit : bool, default=False
        Also ask that every row has Euclidean length 1, to within 1e-3.
    name : str, default="X"
        What to call the array in messages.

    Returns
    -------
    ndarray of shape (n, d), float32, C-contiguous

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
        X = np.asarray(X)
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
    step = max(1, 2**22 // X.shape[1])
    for start in range(0, len(X), step):
        _check_block(X[start : start + step], start, unit, name)
    return np.ascontiguousarray(X, dtype=np.float32)


def _check_block(block, start, unit, name):
    with np.errstate(invalid="ignore", over="ignore"):
        fine = (np.abs(block) <= LARGEST).all(axis=1)  # false for NaN and inf too
    if not fine.all():
        row = int(np.argmin(fine))
        kind = "an entry beyond 1e30" if np.isfinite(block[row]).all() else "NaN or inf"
        raise DataError(f"a row of {name} holds {kind}", where=f"row {start + row}", hint="Repair or remove it.")
    if unit:
        length = np.linalg.norm(block.astype(np.float32, copy=False), axis=1)
        bad = np.abs(length - 1) > 1e-3
        if bad.any():
            row = int(np.argmax(bad))
            where = f"row {start + row}"
            if length[row] == 0:
                hint = "Remove the record, or check what the encoder was given."
                raise DataError(f"a row of {name} is zero", where=where, hint=hint)
            what = f"a row of {name} has length {length[row]:.6g}, not 1"
            raise DataError(what, where=where, hint="Divide each row by its Euclidean length.")


class Points:
    """Rows made ready for tiles: norms, groups of exact duplicates, and a well-conditioned operand for the product.

    Parameters
    ----------
    X : ndarray of shape (n, d), float32
        Rows that passed :func:`check_rows`. Kept by reference.

    Attributes
    ----------
    X : ndarray of shape (n, d), float32
        The rows; exact distances are taken from them.
    Z : ndarray of shape (n, d), float32
        Rows for the matrix product: X itself, or a centred and scaled copy where X lies far from the origin or its
        entries are very large or small.
    first : ndarray of shape (n,), int64
        The first row equal to each row.
    """

    def __init__(self, X):
        self.X = X
        n, d = X.shape
        seen = {}
        self.first = np.fromiter((seen.setdefault((x + 0.0).tobytes(), i) for i, x in enumerate(X)), np.int64, n)
        centre = X.mean(axis=0, dtype=np.float64)
        squared = np.einsum("ij,ij->i", X, X, dtype=np.float64)
        largest = float(max(X.max(), -X.min()))
        self.Z, scale = X, 1.0
        if largest and (centre @ centre > 0.5 * squared.mean() or not 1e-4 < largest < 1e4):
            self.Z = X - centre.astype(np.float32)
            largest = float(max(self.Z.max(), -self.Z.min()))
            scale = 2.0 ** -np.frexp(largest)[1] if largest else 1.0
            self.Z *= np.float32(scale)
            squared = np.einsum("ij,ij->i", self.Z, self.Z, dtype=np.float64)
        # |float32 product - exact| <= d·u·|x||y| for any order of summation; the rest covers centring, norms and casts.
        bound = (0.6 * d + 16) * 2.0**-24
        self.norm = np.sqrt(squared)
        self.half = (squared / 2).astype(np.float32)
        self.arrays = (X, self.first, squared, self.half, self.norm, scale * scale, bound)

    def __len__(self):
        return len(self.X)

    def tiles(self, rows, columns, n_rows=ROWS, n_columns=COLUMNS, triangle=False):
        """Give ``(a, b, product)`` over tiles ``rows[a] × columns[b]``; ``triangle``: not below the diagonal."""
        for a in range(0, len(rows), n_rows):
            part = slice(a, min(a + n_rows, len(rows)))
            left = self.Z[rows[part]]
            for b in range(a if triangle else 0, len(columns), n_columns):
                other = slice(b, min(b + n_columns, len(columns)))
                yield part, other, left @ self.Z[columns[other]].T

    def nearest_within(self, rows, columns, row_reach, column_reach, *, earlier=None, tie=None):
        """For each row the nearest other column with squared distance ≤ min(row_reach, column_reach), or -1.

        Parameters
        ----------
        rows, columns : ndarray of int64
            Row numbers of X.
        row_reach, column_reach : ndarray of float64
            Squared radii from :func:`reach`, aligned with ``rows`` and ``columns``.
        earlier : ndarray of shape (n,), int64, optional
            A place in a sequence for each row of X: a column counts only where its place is before the row's.
        tie : ndarray of shape (n,), int64, optional
            Rank that settles equal distances; row numbers by default.

        Returns
        -------
        nearest : ndarray of shape (len(rows),), int64
            Row numbers of X, or -1.
        squared : ndarray of shape (len(rows),), float64
        """
        tie = np.arange(len(self)) if tie is None else tie
        nearest = np.full(len(rows), -1, dtype=np.int64)
        squared = np.full(len(rows), np.inf)
        always = earlier is None
        place = np.zeros(1, dtype=np.int64) if always else earlier
        for a, b, product in self.tiles(rows, columns):
            nearest_tile(
                product,
                rows[a],
                columns[b],
                self.arrays,
                row_reach[a],
                column_reach[b],
                place,
                always,
                tie,
                nearest[a],
                squared[a],
            )
        return nearest, squared

    def components(self, rows, limit):
        """Connected components of ``rows`` where two are linked when their squared distance ≤ the lesser limit.

        Parameters
        ----------
        rows : ndarray of int64
            Row numbers of X, ascending.
        limit : ndarray of float64
            Squared radii from :func:`reach`, aligned with ``rows``.

        Returns
        -------
        ndarray of shape (len(rows),), int64
            Number of the component of each, numbered by first member.
        """
        parent = np.arange(len(rows))
        for a, b, product in self.tiles(rows, rows, triangle=True):
            link_tile(product, a.start, b.start, rows, self.arrays, limit, parent)
        flatten(parent)
        return np.unique(parent, return_inverse=True)[1].astype(np.int64)

    def knn(self, k, n_rows=ROWS, n_jobs=None):
        """Squared distances (n, k) float64 and rows (n, k) int64 of the k nearest; self first, ties by row."""
        n = len(self)
        squared = np.zeros((n, k))
        index = np.full((n, k), n, dtype=np.int64)
        index[:, 0] = np.arange(n)
        squared[:, 1:] = np.inf
        starts = range(0, n, n_rows)

        def fill(a):
            block = slice(a, min(a + n_rows, n))
            left = self.Z[block]
            # the row's own tile first: neighbours tend to be stored near each other, which tightens the filter at once
            for b in sorted(range(0, n, COLUMNS), key=lambda b: abs(b + COLUMNS // 2 - a)):
                knn_tile(left @ self.Z[b : b + COLUMNS].T, a, b, self.arrays, squared[block], index[block])

        workers = 1 if n_jobs is None else effective_n_jobs(n_jobs)
        if k > 1 and workers == 1:
            for a in starts:
                fill(a)
        elif k > 1:
            with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(workers) as pool:
                try:
                    for _ in pool.map(fill, starts):
                        pass
                except BaseException:
                    pool.shutdown(wait=True, cancel_futures=True)
                    raise
        return squared, index


def knn(X, k, *, block=ROWS, n_jobs=None):
    """Find the exact k nearest neighbours of every row, the row itself counted first.

    Parameters
    ----------
    X : array-like of shape (n, d)
        Finite rows; see :func:`check_rows`. Distance is Euclidean on the rows as given.
    k : int
        Neighbours per row, 1 ≤ k ≤ n, the row itself included.
    block : int, default=512
        Rows per tile. Changes speed and memory, never the result.
    n_jobs : int, optional
        Threads over row blocks, as in joblib (-1: all cores). By default one, and the matrix products use the threads
        BLAS is set to. Never changes the result.

    Returns
    -------
    distances : ndarray of shape (n, k), float32
        Ascending; column 0 is 0.
    indices : ndarray of shape (n, k), int64
        Column 0 is the row itself, even among exact duplicates; other ties are in order of row number.

    Raises
    ------
    ParameterError
        If k or block is not an integer in range.
    DataError
        If X is not usable.

    Notes
    -----
    Ours. Candidates come from a float32 matrix product with a rigorous error bound and are measured again in float64.

    Examples
    --------
    >>> distances, indices = knn([[0.0], [1.0], [3.0], [1.0]], k=3)
    >>> indices[1], distances[1]
    (array([1, 3, 0]), array([0., 0., 1.], dtype=float32))
    """
    X = check_rows(X)
    if isinstance(k, bool) or not isinstance(k, (int, np.integer)) or not 1 <= k <= len(X):
        raise ParameterError(f"k is {k!r}", hint=f"Give an integer from 1 to the number of rows, {len(X)}.")
    if isinstance(block, bool) or not isinstance(block, (int, np.integer)) or block < 1:
        raise ParameterError(f"block is {block!r}", hint="Give a positive integer.")
    squared, index = Points(X).knn(int(k), int(block), n_jobs)
    return np.sqrt(squared).astype(np.float32), index


def reach(radii):
    """Square of radii with the one slack added: a squared distance ≤ ``reach(r)`` is "within r"."""
    return np.square(np.asarray(radii, dtype=np.float64) * (1 + SLACK))
