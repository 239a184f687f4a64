"""Dot products of float32 rows: fast with a bound on the rounding error, or in float64 in one fixed order."""

from __future__ import annotations

import numpy as np
from numba import njit


@njit(cache=True, nogil=True, fastmath={"reassoc", "contract"})
def product(x, y):
    """x·y in float32, in the order the compiler finds fastest."""
    total = np.float32(0)
    for t in range(x.shape[0]):
        total += x[t] * y[t]
    return total


def slack(d: int) -> float:
    """Bound on the float32 rounding error of a dot product of two rows of length ≤ 1.001, whatever the order."""
    return 1.01 * (d + 2) * 2.0**-24


@njit(cache=True, nogil=True)
def dot(x, y):
    """x·y in float64, term after term."""
    total = 0.0
    for t in range(x.shape[0]):
        total += np.float64(x[t]) * np.float64(y[t])
    return total


@njit(cache=True, nogil=True)
def dots(X, y):
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
