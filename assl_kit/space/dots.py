"""Dot products of float32 rows: fast with a bound on the rounding error, or in float64 in one fixed order.

The fast ones (`product`, `products`) may add in any order, so their last bits depend on the machine: they only rule
out what `slack` says they can rule out. The slow ones (`dot`, `dots`) decide, and give the same bits everywhere.
"""

from __future__ import annotations

from threading import local

import numpy as np

from assl_kit.common.jit import FAST, jit

_thread = local()


def multiply(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """``one @ other.T`` in a buffer of this thread: a new one each time costs as much as a product of short vectors.

    The next call of this thread overwrites it.
    """
    size = len(one) * len(other)
    if len(getattr(_thread, "buffer", ())) < size:
        _thread.buffer = np.empty(size, np.float32)
    return np.matmul(one, other.T, out=_thread.buffer[:size].reshape(len(one), len(other)))


@jit(fastmath=FAST)
def product(x: np.ndarray, y: np.ndarray) -> np.float32:
    """x·y in float32, in the order the compiler finds fastest."""
    total = np.float32(0)
    for t in range(x.shape[0]):
        total += x[t] * y[t]
    return total


@jit(fastmath=FAST)
def _eight(
    a: np.ndarray, b: np.ndarray, c: np.ndarray, d: np.ndarray, x: np.ndarray, y: np.ndarray
) -> tuple[np.float32, ...]:
    """Products of four rows and two: each entry that is loaded serves several of them.

    Eight sums that do not wait for each other, in named scalars: an array of them would not stay in registers.
    """
    ax, ay, bx, by = np.float32(0), np.float32(0), np.float32(0), np.float32(0)
    cx, cy, dx, dy = np.float32(0), np.float32(0), np.float32(0), np.float32(0)
    for t in range(x.shape[0]):
        ax += a[t] * x[t]
        ay += a[t] * y[t]
        bx += b[t] * x[t]
        by += b[t] * y[t]
        cx += c[t] * x[t]
        cy += c[t] * y[t]
        dx += d[t] * x[t]
        dy += d[t] * y[t]
    return ax, ay, bx, by, cx, cy, dx, dy


@jit
def products(A: np.ndarray, rows: np.ndarray, B: np.ndarray) -> np.ndarray:
    """``A[rows] @ B.T`` in float32.

    It takes a quarter more time than BLAS, whose threads however wait for each other where cores are shared: 0.5 s
    became 19 s beside another program (ours).
    """
    S = np.empty((len(rows), len(B)), np.float32)
    for r in range(0, len(rows) - 3, 4):
        a, b, c, d = A[rows[r]], A[rows[r + 1]], A[rows[r + 2]], A[rows[r + 3]]
        for j in range(0, len(B) - 1, 2):
            eight = _eight(a, b, c, d, B[j], B[j + 1])
            for i in range(4):
                S[r + i, j], S[r + i, j + 1] = eight[2 * i], eight[2 * i + 1]
        if len(B) % 2:
            for i in range(r, r + 4):
                S[i, -1] = product(A[rows[i]], B[-1])
    for r in range(len(rows) - len(rows) % 4, len(rows)):
        for j in range(len(B)):
            S[r, j] = product(A[rows[r]], B[j])
    return S


def slack(d: int) -> float:
    """Bound on the float32 rounding error of a dot product of two rows of length ≤ 1.001, whatever the order."""
    # A product and at most d - 1 sums round each term, by 2**-24 of it at most: to first order the error is at most
    # d·2**-24·|x||y|. The rest is room for higher orders, lengths beyond 1, and rounding of what is compared with it.
    return 1.01 * (d + 2) * 2.0**-24


@jit
def dot(x: np.ndarray, y: np.ndarray) -> float:
    """x·y in float64, term after term."""
    total = 0.0
    for t in range(x.shape[0]):
        total += np.float64(x[t]) * np.float64(y[t])
    return total


@jit
def dots(X: np.ndarray, y: np.ndarray) -> np.ndarray:
    """`dot` of each row of X and y; four rows at a time, for one sum alone would wait for its own additions."""
    n = X.shape[0]
    out = np.empty(n, np.float64)
    for i in range(0, n - 3, 4):
        a, b, c, d = 0.0, 0.0, 0.0, 0.0
        for t in range(X.shape[1]):
            value = np.float64(y[t])
            a += np.float64(X[i, t]) * value
            b += np.float64(X[i + 1, t]) * value
            c += np.float64(X[i + 2, t]) * value
            d += np.float64(X[i + 3, t]) * value
        out[i], out[i + 1], out[i + 2], out[i + 3] = a, b, c, d
    for i in range(n - n % 4, n):
        out[i] = dot(X[i], y)
    return out
