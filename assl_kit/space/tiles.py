"""Compiled loops over one tile of a matrix product: which pairs may matter, and what becomes of those that do.

A product only filters. Every pair that passes is measured by :func:`squared_distance`, one float64 sum in a fixed
order, so that no result depends on tiles, threads or the BLAS in use.
"""

from __future__ import annotations

import numpy as np

from assl_kit.common.jit import jit

CHUNK = 64  # columns tested together before any is looked at alone
TINY = 1e-36  # absolute error of underflowing products
ANY, DIFFERENT, EQUAL = 0, 1, 2  # which pairs of groups count


@jit
def squared_distance(a, b, terms):
    """Squared distance of two rows in float64, halves added to halves: one fixed order, the same for (a, b) and (b, a).

    ``terms`` is room for as many numbers as a row has. Unlike a running sum this compiles to vector code.
    """
    n = len(a)
    for t in range(n):
        difference = np.float64(a[t]) - np.float64(b[t])
        terms[t] = difference * difference
    while n > 1:
        half = (n + 1) // 2
        for t in range(n - half):
            terms[t] += terms[t + half]
        n = half
    return terms[0]


@jit
def squared_distances(A, rows, B, columns):
    out, terms = np.empty(len(rows)), np.empty(A.shape[1])
    for p in range(len(rows)):
        out[p] = squared_distance(A[rows[p]], B[columns[p]], terms)
    return out


@jit
def digest(words, out):
    """A 64-bit digest of each row of uint32 words; equal rows have equal digests."""
    for i in range(words.shape[0]):
        h = np.uint64(0xCBF29CE484222325)
        for t in range(words.shape[1]):
            h = (h ^ np.uint64(words[i, t])) * np.uint64(0x9E3779B97F4A7C15)
            h ^= h >> np.uint64(29)
        out[i] = h


@jit
def cuts(squared, norm, limit, longest, bound, shift):
    """Least ``product - half`` of the other row that a pair within ``limit`` may have, for each row.

    ``limit`` is a squared distance; ``bound`` and ``shift`` are the relative errors of the product and of a projection;
    ``longest`` is the norm of the longest of the other rows.
    """
    out = np.empty(len(limit), np.float32)
    for i in range(len(limit)):
        both = norm[i] + longest
        far = (np.sqrt(limit[i]) + shift * both) ** 2
        out[i] = 0.5 * (squared[i] - far - bound * both * both - TINY)
    return out


@jit
def any_above_either(line, low, half_r, low_r, half):
    hits = 0
    for c in range(len(line)):
        one, other = low + half_r[c], low_r[c] + half
        cut = one if one < other else other  # a plain selection compiles to vector code, min() does not
        hits += line[c] >= cut
    return hits > 0


@jit
def any_above_both(line, low, half_r, low_r, half):
    hits = 0
    for c in range(len(line)):
        one, other = low + half_r[c], low_r[c] + half
        cut = one if one > other else other
        hits += line[c] >= cut
    return hits > 0


@jit
def scan(product, low_l, half_l, low_r, half_r, either, diagonal, mode, group_l, group_r, hit_l, hit_r, out_l, out_r):
    """Count the pairs of a tile that may matter, mark their rows and columns, and list as many as ``out_l`` takes.

    A pair may matter where the product reaches the cut of its row or that of its column (``either``), or both. On a
    ``diagonal`` tile only pairs above the diagonal count; ``mode`` asks for groups that are different or equal.
    """
    found = 0
    width = product.shape[1]
    for r in range(product.shape[0]):
        line, low, half = product[r], low_l[r], half_l[r]
        for start in range(r + 1 if diagonal else 0, width, CHUNK):
            stop = min(start + CHUNK, width)
            part = line[start:stop], low, half_r[start:stop], low_r[start:stop], half
            if not (any_above_either(*part) if either else any_above_both(*part)):
                continue
            for c in range(start, stop):
                one, other = low + half_r[c], low_r[c] + half
                if line[c] < (min(one, other) if either else max(one, other)):
                    continue
                if (mode == DIFFERENT and group_l[r] == group_r[c]) or (mode == EQUAL and group_l[r] != group_r[c]):
                    continue
                hit_l[r] = True
                hit_r[c] = True
                if found < len(out_l):
                    out_l[found] = r
                    out_r[found] = c
                found += 1
    return found


@jit
def push(squared, index, rows, others, distance):
    """Put pairs into the ascending lists of their rows; equal distances by number."""
    k = squared.shape[1]
    for p in range(len(rows)):
        r, j, value = rows[p], others[p], distance[p]
        at = k - 1
        if value > squared[r, at] or (value == squared[r, at] and j > index[r, at]):
            continue
        while at > 1 and (value < squared[r, at - 1] or (value == squared[r, at - 1] and j < index[r, at - 1])):
            squared[r, at] = squared[r, at - 1]
            index[r, at] = index[r, at - 1]
            at -= 1
        squared[r, at] = value
        index[r, at] = j


@jit
def root(parent, i):
    while parent[i] != i:
        parent[i] = parent[parent[i]]
        i = parent[i]
    return i


@jit
def roots(parent, rows):
    out = np.empty(len(rows), np.int64)
    for p in range(len(rows)):
        out[p] = root(parent, rows[p])
    return out


@jit
def unite(parent, rows, others):
    for p in range(len(rows)):
        a, b = root(parent, rows[p]), root(parent, others[p])
        parent[max(a, b)] = min(a, b)


@jit
def unite_graph(parent, squared, index, limit):
    """Link neighbours within the lesser limit; a negative limit leaves a row out."""
    for i in range(len(index)):
        for t in range(1, index.shape[1]):
            j = index[i, t]
            if squared[i, t] > limit[i]:
                break
            if squared[i, t] <= limit[j]:
                a, b = root(parent, i), root(parent, j)
                parent[max(a, b)] = min(a, b)


@jit
def improve(nearest, squared, rows, columns, distance, limit, place, tie):
    """Take each column that is nearer to its row than the one held, within both limits and earlier in the sequence."""
    for p in range(len(rows)):
        i, j, value = rows[p], columns[p], distance[p]
        if i == j or value > min(limit[i], limit[j]) or (len(place) and place[j] >= place[i]):
            continue
        if value < squared[i] or (value == squared[i] and (nearest[i] < 0 or tie[j] < tie[nearest[i]])):
            squared[i] = value
            nearest[i] = j


@jit
def nearest_known(rows, known, index, used, limit, place, group, tie, nearest, squared):
    """As `improve`, from the neighbours known of each row; says whether no other column can be nearer."""
    settled = np.zeros(len(rows), np.bool_)
    k = index.shape[1]
    for p in range(len(rows)):
        i = rows[p]
        for t in range(1, k):
            j, value = index[i, t], known[i, t]
            if value > min(limit[i], squared[i]):
                break
            if not used[j] or group[j] != group[i] or value > limit[j] or (len(place) and place[j] >= place[i]):
                continue
            if value < squared[i] or tie[j] < tie[nearest[i]]:
                squared[i] = value
                nearest[i] = j
        settled[p] = k == len(index) or min(limit[i], squared[i]) < known[i, k - 1]
    return settled


@jit
def expand(squared, index, inverse, members, starts, distances, indices):
    """Neighbours among all rows from those among distinct rows: itself, then by distance, equal ones by row."""
    k = indices.shape[1]
    run = np.empty(min(k * index.shape[1], len(inverse)), np.int64)
    for i in range(len(inverse)):
        own = inverse[i]
        distances[i, 0] = 0
        indices[i, 0] = i
        filled, t = 1, 0
        while filled < k:
            size, value = 0, squared[own, t]
            while t < index.shape[1] and squared[own, t] == value:
                group = index[own, t]
                for m in range(starts[group], min(starts[group + 1], starts[group] + k)):
                    if members[m] != i:
                        run[size] = members[m]
                        size += 1
                t += 1
            for row in np.sort(run[:size])[: k - filled]:
                distances[i, filled] = np.sqrt(value)
                indices[i, filled] = row
                filled += 1


@jit
def greedy_known(visit, known, index, limit, place, group, hint, hint_squared, state):
    """Keep or drop rows in order of visit, as far as the known neighbours tell; others stay 0.

    ``state`` is 0 undecided, 1 kept, 2 dropped. ``hint`` is a row that dropped this one before.
    """
    k = index.shape[1]
    for i in visit:
        j = hint[i]
        if j >= 0 and state[j] == 1 and hint_squared[i] <= min(limit[i], limit[j]):
            state[i] = 2
            continue
        certain = True
        t = 1
        while t < k and known[i, t] <= limit[i]:
            j = index[i, t]
            if known[i, t] <= limit[j] and group[j] == group[i] and place[j] < place[i]:
                if state[j] == 1:
                    state[i] = 2
                    break
                certain = certain and state[j] == 2
            t += 1
        if not state[i] and certain and (t < k or k == len(index)):
            state[i] = 1


@jit
def greedy_tile(product, low, half, squared, norm, bound, scale, rows, X, limit, group, hint, hint_squared, state):
    """Decide rows that nothing before them covers, in order of visit, by the products of all pairs of them."""
    terms = np.empty(X.shape[1])
    for r in range(len(rows)):
        i = rows[r]
        if state[i] == 2:
            continue
        state[i] = 1
        for c in range(r + 1, len(rows)):
            if product[r, c] < max(low[r] + half[c], low[c] + half[r]):
                continue
            j = rows[c]
            if state[j] == 2 or group[i] != group[j]:
                continue
            most = min(limit[i], limit[j])
            value = at_most(product[r, c], squared[r], squared[c], norm[r] + norm[c], bound, scale)
            if value > most:
                value = squared_distance(X[r], X[c], terms)
            if value <= most:
                state[j] = 2
                hint[j] = i
                hint_squared[j] = value


@jit
def at_most(product, squared, other, norms, bound, scale):
    """A squared distance that the pair's is surely not beyond."""
    return (squared + other - 2.0 * product + bound * norms * norms + TINY) / scale
