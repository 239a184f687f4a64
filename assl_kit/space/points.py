"""Rows made ready for tiles: exact duplicates folded, similar rows side by side, and short vectors that filter pairs.

The distance of two rows is at least that of their projections on a subspace. So each tile is first a product of short
vectors (the rows projected on their principal directions); only rows and columns with a pair that may matter go into
the full float32 product; and the few pairs left are measured in float64. Rigorous bounds on every rounding error make
the filters safe, so the result is exact and depends on neither tiles, threads nor the BLAS in use. Tiles below the
diagonal are never computed. Memory is O(n · p + tile), where p is about a sixth of d.
"""

from __future__ import annotations

from threading import local

import numpy as np
from scipy.cluster.hierarchy import leaves_list, linkage
from sklearn.utils.extmath import randomized_svd

from assl_kit.common.parallel import for_each

from . import tiles

BLOCK = 512  # rows and columns of a tile; changes speed and memory, never the result
LEAST_ROWS, LEAST_COLUMNS = 8192, 128  # below these a projection costs more than it saves
CELL = 256  # rows to a pivot when similar rows are put side by side
MOST_PIVOTS = 1024
SAMPLE = 2048  # rows the principal directions are found on
PER_PAIR = 10  # measuring one pair costs about as much as this many entries of a full product
USELESS = 0.75  # short vectors that leave more of a tile than this are not worth their product
ROUNDING = 2.0**-24
_OWN = local()
STEP = 4096  # rows read at a time in passes over all rows


def multiply(one, other):
    """``one @ other.T`` in a buffer of this thread: a new one each time costs as much as a product of short vectors."""
    size = len(one) * len(other)
    if len(getattr(_OWN, "buffer", ())) < size:
        _OWN.buffer = np.empty(size, np.float32)
    return np.matmul(one, other.T, out=_OWN.buffer[:size].reshape(len(one), len(other)))


class Side:
    """Some rows in the order of tiles, with what the filters need of each.

    Attributes
    ----------
    rows : ndarray of shape (s,), int64
        Numbers of distinct rows.
    short, short_squared : ndarray of shape (s, p), float32, and its squared norms, float64; None without projection
    squared, norm : ndarray of shape (s,), float64
        Squared norm and norm of the centred row.
    half, short_half : ndarray of shape (s,), float32
        Half of the squared norms.
    """

    def __init__(self, points, rows):
        self.rows = rows
        self.squared = points.squared[rows]
        self.norm = np.sqrt(self.squared)
        self.half = (self.squared / 2).astype(np.float32)
        self.short = None if points.short is None else points.short[rows]
        if self.short is not None:
            self.short_squared = np.einsum("ij,ij->i", self.short, self.short, dtype=np.float64)
            self.short_half = (self.short_squared / 2).astype(np.float32)

    def __len__(self):
        return len(self.rows)

    def blocks(self, size):
        """Slices of at most ``size`` places."""
        return [slice(start, min(start + size, len(self))) for start in range(0, len(self), size)]


class Points:
    """The distinct rows of a matrix, numbered by first occurrence.

    Parameters
    ----------
    X : ndarray of shape (n, d)
        Finite rows of any float dtype, memory-mapped or not; read in blocks, never copied whole.
    subset : ndarray of int, optional
        Use only these rows of X, in this order.
    threads : int, default=1
        Threads over tiles.
    progress : bool, default=False
        Show bars.

    Attributes
    ----------
    first : ndarray of shape (u,), int64
        Position (in X, or in ``subset``) of the first of each group of equal rows.
    inverse : ndarray of shape (n,), int64
        Number of the distinct row at each position.
    counts : ndarray of shape (u,), int64
        How many rows are equal to each.
    place : ndarray of shape (u,), int64
        Where each distinct row stands when similar rows are put side by side.
    """

    def __init__(self, X, subset=None, *, threads=1, progress=False):
        self.X, self.threads, self.progress = X, threads, progress
        self.source = np.arange(len(X)) if subset is None else np.asarray(subset)
        self.block = BLOCK if len(self.source) < 100_000 else 2 * BLOCK
        self._fold()
        self.place = np.arange(len(self))
        self.short, self.shift = None, 0.0
        self.left_over, self.turn = 0.0, 0  # share of a tile that short vectors lately left over
        if len(self) >= LEAST_ROWS and X.shape[1] >= LEAST_COLUMNS:
            self._project()
            self._arrange()

    def __len__(self):
        return len(self.first)

    def detach(self):
        """Let go of X, so that the rest can be sent elsewhere; `attach` gives it back."""
        self.X = None

    def attach(self, X):
        """Take the same X again, after `detach`."""
        self.X = X

    def raw(self, numbers):
        """Distinct rows by number: (s, d) float32, C-contiguous."""
        return np.ascontiguousarray(self.X[self.source[self.first[numbers]]], dtype=np.float32)

    def centred(self, rows):
        """Raw rows as the products take them: centred and scaled where that keeps the rounding error small."""
        if self.centre is not None:
            rows = (rows - self.centre) * self.scale
        return rows

    def _passes(self, work, count):
        for_each(lambda start: work(slice(start, min(start + STEP, count))), range(0, count, STEP), self.threads)

    def _fold(self):
        """Find equal rows, the norms, and whether rows must be centred for the products."""
        n, d = len(self.source), self.X.shape[1]
        digests, squared = np.empty(n, np.uint64), np.empty(n)
        total, largest = [], []

        def read(part):
            rows = np.ascontiguousarray(self.X[self.source[part]], dtype=np.float32) + np.float32(0)  # no -0
            tiles.digest(rows.view(np.uint32), digests[part])
            squared[part] = np.einsum("ij,ij->i", rows, rows, dtype=np.float64)
            total.append((part.start, rows.sum(axis=0, dtype=np.float64)))
            largest.append(max(float(rows.max()), -float(rows.min())))

        self._passes(read, n)
        self._group(digests)
        self.centre, self.scale = None, np.float32(1)
        centre = np.sum([part for _, part in sorted(total, key=lambda item: item[0])], axis=0) / n
        size = max(largest)
        if size and (centre @ centre > 0.5 * squared.mean() or not 1e-4 < size < 1e4):
            self.centre = centre.astype(np.float32)
            spread = []
            self._passes(lambda part: spread.append(float(np.abs(self.raw(part) - self.centre).max())), len(self))
            self.scale = np.float32(2.0 ** -np.frexp(max(spread))[1] if max(spread) else 1.0)
            self.squared = np.empty(len(self))

            def measure(part):
                rows = self.centred(self.raw(part))
                self.squared[part] = np.einsum("ij,ij->i", rows, rows, dtype=np.float64)

            self._passes(measure, len(self))
        else:
            self.squared = squared[self.first]
        # |float32 product - exact| <= d·u·|x||y| for any order of summation; the rest covers centring, norms and casts.
        self.bound = (0.6 * d + 24) * ROUNDING

    def _group(self, digests):
        order = np.argsort(digests, kind="stable")
        starts = np.flatnonzero(np.concatenate([[True], np.diff(digests[order]) != 0]))
        leader = np.empty(len(order), np.int64)  # the first position of an equal row
        leader[order] = np.repeat(order[starts], np.diff(np.append(starts, len(order))))
        others = np.flatnonzero(leader != np.arange(len(order)))
        for start in range(0, len(others), STEP):  # equal digests are no proof
            part = others[start : start + STEP]
            one, other = (np.asarray(self.X[self.source[at]], dtype=np.float32) for at in (part, leader[part]))
            differ = part[(one != other).any(axis=1)]
            for i in differ:
                seen = {}
                for j in np.flatnonzero(digests == digests[i]):
                    row = np.asarray(self.X[self.source[j]], dtype=np.float32) + np.float32(0)
                    leader[j] = seen.setdefault(row.tobytes(), j)
        self.first = np.unique(leader)
        self.inverse = np.searchsorted(self.first, leader)
        self.counts = np.bincount(self.inverse)

    def _project(self):
        """Coordinates on the first principal directions of a sample: a map that never stretches a distance."""
        d = self.X.shape[1]
        p = min(max(32, 16 * round(d / 96)), d, len(self))
        sample = np.sort(np.random.default_rng(0).choice(len(self), min(SAMPLE, len(self)), replace=False))
        rows = self.centred(self.raw(sample))
        directions = randomized_svd(rows - rows.mean(axis=0), p, n_iter=2, random_state=0)[2].T
        directions = np.ascontiguousarray(directions, dtype=np.float32)
        exact = directions.astype(np.float64)
        stretch = np.linalg.norm(exact.T @ exact - np.eye(p))  # how far they are from orthonormal
        self.shift = 1.01 * (np.sqrt(p) * d * ROUNDING + stretch)
        self.short = np.empty((len(self), p), np.float32)

        def project(part):
            np.matmul(self.centred(self.raw(part)), directions, out=self.short[part])

        self._passes(project, len(self))

    def _arrange(self):
        """Put similar rows side by side: each goes to the nearest of some pivots, the pivots in dendrogram order."""
        if len(self) < 2:
            return
        pivots = self.short[np.linspace(0, len(self) - 1, min(MOST_PIVOTS, max(2, len(self) // CELL))).astype(np.int64)]
        pivots = pivots[leaves_list(linkage(pivots, "average"))]
        half = np.einsum("ij,ij->i", pivots, pivots) / 2
        nearest = np.empty(len(self), np.int64)

        def assign(part):
            nearest[part] = (self.short[part] @ pivots.T - half).argmax(axis=1)

        self._passes(assign, len(self))
        self.place[np.argsort(nearest, kind="stable")] = np.arange(len(self))

    def side(self, numbers=None):
        """The distinct rows of these numbers (all by default) as a `Side`, similar ones next to each other."""
        numbers = np.arange(len(self)) if numbers is None else np.asarray(numbers)
        return Side(self, numbers[np.argsort(self.place[numbers], kind="stable")])

    def distances(self, numbers, others):
        """Squared distances of pairs of distinct rows: float64, in one fixed order of summation."""
        if self.X.dtype == np.float32 and self.X.flags.c_contiguous:
            at, other = self.source[self.first[numbers]], self.source[self.first[others]]
            return tiles.squared_distances(self.X, at, self.X, other)
        rows, at = np.unique(numbers, return_inverse=True)
        columns, other = np.unique(others, return_inverse=True)
        return tiles.squared_distances(self.raw(rows), at, self.raw(columns), other)

    def near(
        self, left, a, right, b, reach_l, reach_r, *, either=False, mode=tiles.ANY, groups=None, tighten=0, exact=True
    ):
        """Pairs of one tile that may lie within reach, each with its squared distance.

        Parameters
        ----------
        left, right : Side
            With ``left is right`` and ``a == b`` only pairs above the diagonal are looked at.
        a, b : slice
            Places in them: the tile.
        reach_l, reach_r : ndarray of float64
            Squared radius of each row and each column.
        either : bool, default=False
            A pair matters when it is within one of the two radii; else when it is within both.
        mode, groups : int, (ndarray, ndarray)
            ``DIFFERENT`` or ``EQUAL``: only pairs of rows whose groups are so.
        tighten : int, default=0
            Lower each row's (on a diagonal tile also each column's) radius to one that this many columns (of its group,
            with ``EQUAL``) lie within.
        exact : bool, default=True
            Measure every pair; else those surely within both radii come with an upper bound of their distance, which
            costs nothing.

        Returns
        -------
        i, j : ndarray of int64
            Places within the two slices.
        squared : ndarray of float64
            Some may be beyond reach.
        """
        diagonal = left is right and a == b
        groups = groups or (np.empty(0, np.int64),) * 2
        hit_l, hit_r = np.zeros(a.stop - a.start, bool), np.zeros(b.stop - b.start, bool)
        size = len(hit_l) * len(hit_r)
        rest = (either, diagonal, mode, *groups, hit_l, hit_r)
        rows, columns = left.rows[a], right.rows[b]
        if left.short is not None and not tighten and self._may_spare():
            product = multiply(left.short[a], right.short[b])
            found, i, j = self._scan(product, left, a, right, b, reach_l, reach_r, rest, size // PER_PAIR, short=True)
            left_over = np.count_nonzero(hit_l) * np.count_nonzero(hit_r)
            self.left_over += 0.1 * (left_over / size - self.left_over)
            if not found:
                return i, j, np.empty(0)
            if found * PER_PAIR <= left_over:
                return i, j, self.distances(rows[i], columns[j])
        else:
            hit_l[:] = hit_r[:] = True
        at, other = np.flatnonzero(hit_l), np.flatnonzero(hit_r)
        if diagonal:
            at = other = np.flatnonzero(hit_l | hit_r)
        lines = self.centred(self.raw(rows[at]))
        product = multiply(lines, lines if diagonal else self.centred(self.raw(columns[other])))
        l_all, r_all = a.start + at, b.start + other
        reach_l, reach_r = reach_l[at], reach_r[other]
        if tighten:
            apart = (groups[0][:, None] != groups[1]) if mode == tiles.EQUAL else None
            reach_l = np.minimum(reach_l, self._kth(product, left, l_all, right, r_all, tighten, diagonal, apart))
            reach_r = reach_l if diagonal else reach_r
        groups = tuple(group[part] if len(group) else group for group, part in zip(groups, (at, other), strict=True))
        rest = (either, diagonal, mode, *groups, np.zeros(len(at), bool), np.zeros(len(other), bool))
        found, i, j = self._scan(product, left, l_all, right, r_all, reach_l, reach_r, rest, size // PER_PAIR)
        if found > len(i):
            _, i, j = self._scan(product, left, l_all, right, r_all, reach_l, reach_r, rest, found)
        if exact:
            return at[i], other[j], self.distances(rows[at[i]], columns[other[j]])
        squared = self._values(product[i, j], left, l_all, right, r_all, i, j, reach_l, reach_r)
        return at[i], other[j], squared

    def _may_spare(self):
        """Whether to try short vectors: not where they lately ruled out little, but for one tile in eight."""
        self.turn += 1
        return self.left_over < USELESS or self.turn % 8 == 0

    def _values(self, product, left, a, right, b, i, j, reach_l, reach_r):
        """Upper bounds of the squared distances of pairs surely within both radii; the others are measured."""
        norms = left.norm[a][i] + right.norm[b][j]
        squared = left.squared[a][i], right.squared[b][j]
        squared = tiles.at_most(product, *squared, norms, self.bound, float(self.scale) ** 2)
        unsure = np.flatnonzero(squared > np.minimum(reach_l[i], reach_r[j]))
        squared[unsure] = self.distances(left.rows[a][i[unsure]], right.rows[b][j[unsure]])
        return squared

    def greedy(self, rows, limit, group, hint, hint_squared, state):
        """Keep (1) or drop (2) in ``state`` rows given in order of visit: a kept one drops the later ones within reach.

        ``limit``, ``group``, ``hint`` (the row that dropped it), ``hint_squared`` and ``state`` are by number; only
        rows of one group drop each other.
        """
        squared, scale = self.squared[rows], float(self.scale) ** 2
        norm = np.sqrt(squared)
        low = tiles.cuts(squared, norm, limit[rows] * scale, norm.max(), self.bound, 0.0)
        tile = self._pairs_product(rows), low, (squared / 2).astype(np.float32), squared, norm, self.bound, scale
        tiles.greedy_tile(*tile, rows, self.raw(rows), limit, group, hint, hint_squared, state)

    def _pairs_product(self, rows):
        lines = self.centred(self.raw(rows))
        return lines @ lines.T

    def _scan(self, product, left, a, right, b, reach_l, reach_r, rest, room, short=False):
        """Count of the pairs that may matter, and the first ``room`` of them."""
        i, j = np.empty(room, np.int64), np.empty(room, np.int64)
        found = tiles.scan(product, *self._cuts(left, a, right, b, reach_l, reach_r, short), *rest, i, j)
        return found, i[:found], j[:found]

    def _cuts(self, left, a, right, b, reach_l, reach_r, short=False):
        """What a product must reach: the part of the row and of the column, for its own radius and for the other's."""
        squared_l, squared_r = (left.short_squared, right.short_squared) if short else (left.squared, right.squared)
        half_l, half_r = (left.short_half, right.short_half) if short else (left.half, right.half)
        norm_l, norm_r = left.norm[a], right.norm[b]
        scale, shift = float(self.scale) ** 2, self.shift if short else 0.0
        low_l = tiles.cuts(squared_l[a], norm_l, reach_l * scale, norm_r.max(), self.bound, shift)
        low_r = tiles.cuts(squared_r[b], norm_r, reach_r * scale, norm_l.max(), self.bound, shift)
        return low_l, half_l[a], low_r, half_r[b]

    def _kth(self, product, left, a, right, b, k, diagonal, apart):
        """For each row a squared radius that at least k of the columns lie within, those ``apart`` left out."""
        value = right.squared[b] / 2 - product
        if diagonal:
            np.fill_diagonal(value, np.inf)
        if apart is not None:
            value[apart] = np.inf
        if k > value.shape[1] - diagonal:
            return np.full(len(value), np.inf)
        return self._about(left, a, right, b, np.partition(value, k - 1, axis=1)[:, k - 1])

    def _about(self, left, a, right, b, value):
        """A squared distance that a pair of this ``half - product`` is surely not beyond."""
        norms = left.norm[a] + right.norm[b].max()
        about = left.squared[a] + 2 * value + 2 * self.bound * norms**2 + 2 * tiles.TINY
        return np.maximum(about, 0) / float(self.scale) ** 2
