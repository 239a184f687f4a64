"""Compiled loops over one tile of a matrix product: which pairs may matter, and what becomes of those that do.

A product only filters. Every pair that passes is measured by :func:`squared_distance`, one float64 sum in a fixed
order, so that no result depends on tiles, threads or the BLAS in use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from assl_kit.common.jit import jit

if TYPE_CHECKING:
    import torch

CHUNK = 64  # columns tested together before any is looked at alone
TINY = 1e-36  # absolute error of underflowing products
ANY, DIFFERENT, EQUAL = 0, 1, 2  # which pairs of groups count
MANY, PER_PAIR = 2, 512  # a pair measured costs a device as much as so many entries of a float32 product
ROUNDS = 4  # of `first_kept` between two looks whether it has ended

Array = np.ndarray


class Cuts(NamedTuple):
    """What a product must reach: a pair of row r and column c lies within the radius of r only where the product is at
    least ``low_l[r] + half_r[c]``, within that of c only where it is at least ``low_r[c] + half_l[r]``. All float32."""

    low_l: Array
    half_l: Array
    low_r: Array
    half_r: Array


class Pairs(NamedTuple):
    """Which pairs of a tile count.

    ``either``: those within one of the two radii, else within both. ``diagonal``: those above the diagonal. ``mode``:
    those of groups that are different or equal; with ``ANY`` the groups are empty.
    """

    either: bool
    diagonal: bool
    mode: int
    group_l: Array
    group_r: Array


class Measured(NamedTuple):
    """A tile of rows with themselves, and what its products say: ``low`` and ``half`` as in `Cuts`; ``squared`` and
    ``norm`` of the rows; ``bound`` and ``scale`` as `at_most` takes them."""

    product: Array
    low: Array
    half: Array
    squared: Array
    norm: Array
    bound: float
    scale: float


class Rules(NamedTuple):
    """Which column is the nearest of a row: within the squared radius ``limit`` of both, before it in ``place`` (empty:
    anywhere), of its ``group``; of equally near ones that of least ``tie``. All by number."""

    limit: Array
    place: Array
    group: Array
    tie: Array


class Decision(NamedTuple):
    """What a greedy pass knows and decides of each row, by number.

    ``limit``: squared radius. ``group``: only rows of one group drop each other. ``hint`` and ``hint_squared``: a row
    that dropped this one, and a bound of their squared distance. ``state``: 0 undecided, 1 kept, 2 dropped.
    """

    limit: Array
    group: Array
    hint: Array
    hint_squared: Array
    state: Array


@jit
def squared_distance(a: Array, b: Array, terms: Array) -> float:
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
def squared_distances(A: Array, rows: Array, B: Array, columns: Array) -> Array:
    """`squared_distance` of ``A[rows[p]]`` and ``B[columns[p]]`` for each p."""
    out, terms = np.empty(len(rows)), np.empty(A.shape[1])
    for p in range(len(rows)):
        out[p] = squared_distance(A[rows[p]], B[columns[p]], terms)
    return out


@jit
def digest(words: Array, out: Array) -> None:
    """A 64-bit digest of each row of uint32 words; equal rows have equal digests.

    FNV's offset, an odd multiplier, and a shift that brings the high bits down again: words differ mostly in those.
    """
    for i in range(words.shape[0]):
        h = np.uint64(0xCBF29CE484222325)
        for t in range(words.shape[1]):
            h = (h ^ np.uint64(words[i, t])) * np.uint64(0x9E3779B97F4A7C15)
            h ^= h >> np.uint64(29)
        out[i] = h


@jit
def cuts(squared: Array, norm: Array, limit: Array, longest: float, bound: float, shift: float) -> Array:
    """Least ``product - half`` of the other row that a pair within ``limit`` may have, for each row.

    ``limit`` is a squared distance; ``bound`` and ``shift`` are the relative errors of the product and of a projection;
    ``longest`` is the norm of the longest of the other rows.

    |x - y|² = |x|² + |y|² - 2·x·y ≤ limit says that x·y - |y|²/2 ≥ (|x|² - limit)/2. All errors go to the safe side:
    a pair may be looked at in vain, never lost.
    """
    out = np.empty(len(limit), np.float32)
    for i in range(len(limit)):
        both = norm[i] + longest  # (|x| + |y|)² is at least 4·|x||y|, which the rounding of a product is measured by
        far = (np.sqrt(limit[i]) + shift * both) ** 2
        out[i] = 0.5 * (squared[i] - far - bound * both * both - TINY)
    return out


@jit
def any_above_either(line: Array, low: np.float32, half_r: Array, low_r: Array, half: np.float32) -> bool:
    """Whether some entry of a row reaches the lesser of its two cuts."""
    hits = 0
    for c in range(len(line)):
        one, other = low + half_r[c], low_r[c] + half
        cut = one if one < other else other  # a plain selection compiles to vector code, min() does not
        hits += line[c] >= cut
    return hits > 0


@jit
def any_above_both(line: Array, low: np.float32, half_r: Array, low_r: Array, half: np.float32) -> bool:
    """Whether some entry of a row reaches the greater of its two cuts."""
    hits = 0
    for c in range(len(line)):
        one, other = low + half_r[c], low_r[c] + half
        cut = one if one > other else other
        hits += line[c] >= cut
    return hits > 0


@jit
def spots_above(
    line: Array, low: np.float32, half_r: Array, low_r: Array, half: np.float32, either: bool, spots: Array
) -> int:
    """How many entries reach their cut, and which: the first so many of ``spots``.

    A place is written first and kept if it counts: no branch, which would be guessed wrong as often as not.
    """
    count = 0
    for c in range(len(line)):
        one, other = low + half_r[c], low_r[c] + half
        cut = one if (one < other) == either else other
        spots[count] = c
        count += line[c] >= cut
    return count


@jit
def scan(product: Array, cuts: Cuts, pairs: Pairs, hit_l: Array, hit_r: Array, out_l: Array, out_r: Array) -> int:
    """Count the pairs of a tile that may matter, mark their rows and columns, and list as many as ``out_l`` takes.

    Most parts of most rows have no such pair: whole chunks are ruled out by vector code first.
    """
    low_l, half_l, low_r, half_r = cuts
    either, diagonal, mode, group_l, group_r = pairs
    count, spots = 0, np.empty(CHUNK + 1, np.int64)
    width = product.shape[1]
    for r in range(product.shape[0]):
        line, low, half = product[r], low_l[r], half_l[r]
        for start in range(r + 1 if diagonal else 0, width, CHUNK):
            stop = min(start + CHUNK, width)
            part = line[start:stop], low, half_r[start:stop], low_r[start:stop], half
            if not (any_above_either(*part) if either else any_above_both(*part)):
                continue
            for s in range(spots_above(*part, either, spots)):
                c = start + spots[s]
                if (mode == DIFFERENT and group_l[r] == group_r[c]) or (mode == EQUAL and group_l[r] != group_r[c]):
                    continue
                hit_l[r] = True
                hit_r[c] = True
                if count < len(out_l):
                    out_l[count] = r
                    out_r[count] = c
                count += 1
    return count


@jit
def push(squared: Array, index: Array, rows: Array, others: Array, distance: Array) -> None:
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
def root(parent: Array, i: int) -> int:
    """The root of i among sets that are linked upwards; each step halves the way for the next."""
    while parent[i] != i:
        parent[i] = parent[parent[i]]
        i = parent[i]
    return i


@jit
def roots(parent: Array, rows: Array) -> Array:
    """`root` of each row."""
    out = np.empty(len(rows), np.int64)
    for p in range(len(rows)):
        out[p] = root(parent, rows[p])
    return out


@jit
def unite(parent: Array, rows: Array, others: Array) -> None:
    """Unite the sets of each pair; the lesser root stays, so that the roots do not depend on the order of the pairs."""
    for p in range(len(rows)):
        a, b = root(parent, rows[p]), root(parent, others[p])
        parent[max(a, b)] = min(a, b)


@jit
def unite_graph(parent: Array, squared: Array, index: Array, limit: Array) -> None:
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
def improve(nearest: Array, squared: Array, rows: Array, columns: Array, distance: Array, rules: Rules) -> None:
    """Take each column that is nearer to its row than the one held, within both limits and earlier in the sequence."""
    limit, place, _, tie = rules
    for p in range(len(rows)):
        i, j, value = rows[p], columns[p], distance[p]
        if i == j or value > min(limit[i], limit[j]) or (len(place) and place[j] >= place[i]):
            continue
        if value < squared[i] or (value == squared[i] and (nearest[i] < 0 or tie[j] < tie[nearest[i]])):
            squared[i] = value
            nearest[i] = j


@jit
def nearest_known(
    rows: Array, known: Array, index: Array, used: Array, rules: Rules, nearest: Array, squared: Array
) -> Array:
    """As `improve`, from the neighbours known of each row; says whether no other column can be nearer."""
    limit, place, group, tie = rules
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
        # What is not in the list is at least as far as its last; an equal distance there could still win by ``tie``.
        settled[p] = k == len(index) or min(limit[i], squared[i]) < known[i, k - 1]
    return settled


@jit
def greedy_tile(measured: Measured, rows: Array, X: Array, decision: Decision) -> None:
    """Decide rows that nothing before them covers, in order of visit, by the products of all pairs of them."""
    product, low, half, squared, norm, bound, scale = measured
    limit, group, hint, hint_squared, state = decision
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
def at_most(product: Any, squared: Any, other: Any, norms: Any, bound: float, scale: float) -> Any:
    """A squared distance that the pair's is surely not beyond; of numbers, or of arrays of them.

    ``norms`` is the sum of the two norms; ``scale`` is the square of what rows were multiplied by.
    """
    return (squared + other - 2.0 * product + bound * norms * norms + TINY) / scale


def halved_squares(terms: torch.Tensor) -> torch.Tensor:
    """Sums of squares of rows of a float64 tensor, in the order of `squared_distance`; the tensor is overwritten."""
    terms.square_()
    n = terms.shape[1]
    while n > 1:
        half = (n + 1) // 2
        terms[:, : n - half].add_(terms[:, half:n])
        n = half
    return terms[:, 0]


def group_greatest(close: torch.Tensor, size: int) -> torch.Tensor:
    """The greatest entry of each group of ``size`` columns a ``size``-th of them apart; the last ones by themselves."""
    import torch

    width = close.shape[1] // size
    return torch.cat(
        [close[:, : size * width].unflatten(1, (size, width)).amax(dim=1), close[:, size * width :]], dim=1
    )


def group_entries(
    close: torch.Tensor, row: torch.Tensor, group: torch.Tensor, size: int, low: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows and columns of the entries of these rows and groups that reach the row's ``low``."""
    import torch

    width, apart = close.shape[1] // size, torch.arange(size, device=close.device)
    alone = (group >= width)[:, None]  # the last columns, which are no group
    column = group[:, None] + torch.where(alone, width * (size - 1), width * apart)
    near = (close[row[:, None], column] >= low[row][:, None]) & ~(alone & (apart > 0))
    at, which = near.nonzero(as_tuple=True)
    return row[at], column[at, which]


def first_kept(covers: torch.Tensor, left: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Which rows a greedy pass keeps, as 1 and 0, and of each row the first that is kept and covers it.

    ``covers`` is 1 where a row covers a later one, ``left`` where it takes part. Again and again those are kept that no
    earlier undecided row covers, and what they cover goes: few rounds of matrix-vector products.
    """
    import torch

    kept = torch.zeros_like(left)
    while bool(left.any()):
        for _ in range(ROUNDS):
            fresh = left * (left @ covers == 0)
            kept += fresh
            left = (left - fresh) * (fresh @ covers == 0)
    return kept, (covers * kept[:, None]).argmax(dim=0)


def too_many(pairs: torch.Tensor, close: torch.Tensor, wanted: int = 1) -> bool:
    """Whether a float32 product costs less than measuring what one in half precision leaves."""
    return len(pairs) > len(close) * (MANY * wanted + close.shape[1] // PER_PAIR)
