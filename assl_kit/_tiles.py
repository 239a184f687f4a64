"""Compiled loops over one tile of a matrix product: what to keep of it, and the exact distances of the few that matter.

``arrays`` is ``Points.arrays``: the rows X, the first row equal to each, squared norms of Z, their halves in float32,
norms of Z, the square of the scale from X to Z, and the relative bound on the product's rounding error.
"""

from __future__ import annotations

import numba
import numpy as np

CHUNK = 64  # columns tested together before any is looked at alone
TINY = 1e-36  # absolute error of underflowing products


def jit(function):
    """Compile with an on-disk cache where some folder is writable, else without."""
    try:
        return numba.njit(nogil=True, cache=True)(function)
    except RuntimeError:  # read-only install and no writable user cache
        return numba.njit(nogil=True)(function)


@jit
def squared_distance(X, i, j):
    """Squared distance of two rows in float64, summed in one fixed order: the same for (i, j) and (j, i), always."""
    a = b = c = e = 0.0
    d = X.shape[1]
    whole = d - d % 4
    for t in range(0, whole, 4):
        u = np.float64(X[i, t]) - np.float64(X[j, t])
        v = np.float64(X[i, t + 1]) - np.float64(X[j, t + 1])
        w = np.float64(X[i, t + 2]) - np.float64(X[j, t + 2])
        z = np.float64(X[i, t + 3]) - np.float64(X[j, t + 3])
        a += u * u
        b += v * v
        c += w * w
        e += z * z
    for t in range(whole, d):
        u = np.float64(X[i, t]) - np.float64(X[j, t])
        a += u * u
    return (a + b) + (c + e)


@jit
def measure(arrays, i, j):
    return 0.0 if arrays[1][i] == arrays[1][j] else squared_distance(arrays[0], i, j)


@jit
def is_within(arrays, i, j, product, limit):
    """Whether the squared distance of rows i and j is ≤ limit, by the product where that is certain."""
    _, _, squared, _, norm, scale, bound = arrays
    about = squared[i] + squared[j] - 2.0 * product
    margin = bound * (norm[i] + norm[j]) ** 2 + TINY
    if about - margin > limit * scale:
        return False
    return about + margin <= limit * scale or measure(arrays, i, j) <= limit


@jit
def cut_of(arrays, i, limit, longest):
    """Least ``product - half[j]`` a column of norm ≤ longest may have if it lies within ``limit`` of row i."""
    _, _, squared, _, norm, scale, bound = arrays
    return np.float32(0.5 * (squared[i] - limit * scale - bound * (norm[i] + longest) ** 2 - TINY))


@jit
def any_above(line, half, cut):
    hits = 0
    for c in range(len(line)):
        hits += (line[c] - half[c]) >= cut
    return hits > 0


@jit
def knn_tile(product, a, b, arrays, squared, index):
    k = squared.shape[1]
    width = product.shape[1]
    half = arrays[3][b : b + width]
    longest = arrays[4][b : b + width].max()
    for r in range(product.shape[0]):
        i = a + r
        cut = cut_of(arrays, i, squared[r, k - 1], longest)
        for start in range(0, width, CHUNK):
            stop = min(start + CHUNK, width)
            if not any_above(product[r, start:stop], half[start:stop], cut):
                continue
            for c in range(start, stop):
                j = b + c
                if product[r, c] - half[c] < cut or i == j:
                    continue
                distance = measure(arrays, i, j)
                at = k - 1
                if distance > squared[r, at] or (distance == squared[r, at] and j > index[r, at]):
                    continue
                while at > 1 and (
                    distance < squared[r, at - 1] or (distance == squared[r, at - 1] and j < index[r, at - 1])
                ):
                    squared[r, at] = squared[r, at - 1]
                    index[r, at] = index[r, at - 1]
                    at -= 1
                squared[r, at] = distance
                index[r, at] = j
                cut = cut_of(arrays, i, squared[r, k - 1], longest)


@jit
def nearest_tile(product, rows, columns, arrays, row_reach, column_reach, place, always, tie, nearest, squared):
    half = arrays[3][columns]
    longest = arrays[4][columns].max()
    for r in range(len(rows)):
        i = rows[r]
        cut = cut_of(arrays, i, min(row_reach[r], squared[r]), longest)
        for start in range(0, len(columns), CHUNK):
            stop = min(start + CHUNK, len(columns))
            if not any_above(product[r, start:stop], half[start:stop], cut):
                continue
            for c in range(start, stop):
                j = columns[c]
                if product[r, c] - half[c] < cut or i == j or not (always or place[j] < place[i]):
                    continue
                limit = min(row_reach[r], column_reach[c])
                if not is_within(arrays, i, j, product[r, c], min(limit, squared[r])):
                    continue
                distance = measure(arrays, i, j)
                if distance < squared[r] or nearest[r] < 0 or tie[j] < tie[nearest[r]]:
                    squared[r] = distance
                    nearest[r] = j
                    cut = cut_of(arrays, i, min(row_reach[r], distance), longest)


@jit
def root(parent, i):
    while parent[i] != i:
        parent[i] = parent[parent[i]]
        i = parent[i]
    return i


@jit
def flatten(parent):
    for i in range(len(parent)):
        parent[i] = root(parent, i)


@jit
def link_tile(product, a, b, rows, arrays, limit, parent):
    width = product.shape[1]
    columns = rows[b : b + width]
    half = arrays[3][columns]
    longest = arrays[4][columns].max()
    for r in range(product.shape[0]):
        i = a + r
        mine = root(parent, i)
        cut = cut_of(arrays, rows[i], limit[i], longest)
        for start in range(max(0, i + 1 - b), width, CHUNK):
            stop = min(start + CHUNK, width)
            if not any_above(product[r, start:stop], half[start:stop], cut):
                continue
            for c in range(start, stop):
                j = b + c
                if product[r, c] - half[c] < cut:
                    continue
                other = root(parent, j)
                if other == mine or not is_within(arrays, rows[i], rows[j], product[r, c], min(limit[i], limit[j])):
                    continue
                parent[max(mine, other)] = min(mine, other)
                mine = min(mine, other)


@jit
def cover_tile(product, rows, columns, arrays, row_reach, column_reach, covered):
    """Mark the rows that lie within reach of some column."""
    half = arrays[3][columns]
    longest = arrays[4][columns].max()
    for r in range(len(rows)):
        if covered[r]:
            continue
        cut = cut_of(arrays, rows[r], row_reach[r], longest)
        for start in range(0, len(columns), CHUNK):
            stop = min(start + CHUNK, len(columns))
            if not any_above(product[r, start:stop], half[start:stop], cut):
                continue
            for c in range(start, stop):
                limit = min(row_reach[r], column_reach[c])
                if product[r, c] - half[c] >= cut and is_within(arrays, rows[r], columns[c], product[r, c], limit):
                    covered[r] = True
                    break
            if covered[r]:
                break


@jit
def greedy_tile(product, rows, arrays, limit, covered):
    """Visit rows in order; each one not yet covered covers the later ones within reach."""
    half = arrays[3][rows]
    longest = arrays[4][rows].max()
    for r in range(len(rows)):
        if covered[r]:
            continue
        cut = cut_of(arrays, rows[r], limit[r], longest)
        for c in range(r + 1, len(rows)):
            if covered[c] or product[r, c] - half[c] < cut:
                continue
            covered[c] = is_within(arrays, rows[r], rows[c], product[r, c], min(limit[r], limit[c]))
