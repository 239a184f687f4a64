"""Rows made ready for tiles: exact duplicates folded, similar rows side by side, and short vectors that filter pairs.

The distance of two rows is at least that of their projections on a subspace. So each tile is first a product of short
vectors (the rows projected on their principal directions); only rows and columns with a pair that may matter go into
the full float32 product; and the few pairs left are measured in float64. Rigorous bounds on every rounding error make
the filters safe, so the result is exact and depends on neither tiles, threads nor the BLAS in use. Tiles below the
diagonal are never computed. Memory is O(n · p + tile), where p is about a sixth of d.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.cluster.hierarchy import leaves_list, linkage
from sklearn.utils.extmath import randomized_svd

from assl_kit.common.parallel import for_each

from . import tiles
from .dots import multiply
from .rows import Side, Tile, places

BLOCK = 512  # rows and columns of a tile; changes speed and memory, never the result
LEAST_ROWS, LEAST_COLUMNS = 8192, 128  # below these a projection costs more than it saves
CELL = 256  # rows to a pivot when similar rows are put side by side
MOST_PIVOTS = 1024
SAMPLE, SAMPLE_ENTRIES = 8192, 2**23  # rows the principal directions are found on, and most entries of them
PER_PAIR = 10  # measuring one pair costs about as much as this many entries of a full product
USELESS = 0.75  # short vectors that leave more of a tile than this are not worth their product
ROUNDING = 2.0**-24
STEP = 4096  # rows read at a time in passes over all rows
_NO_GROUPS = np.empty(0, np.int64), np.empty(0, np.int64)


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

    def __init__(
        self, X: np.ndarray, subset: np.ndarray | None = None, *, threads: int = 1, progress: bool = False
    ) -> None:
        self.X: Any  # None after `detach`
        self.X, self.threads, self.progress = X, threads, progress
        self.source = np.arange(len(X)) if subset is None else np.asarray(subset)
        self.block = BLOCK if len(self.source) < 100_000 else 2 * BLOCK
        self._fold()
        self.place = np.arange(len(self))
        self.short: np.ndarray | None = None
        self.shift = 0.0  # of the short vectors, as `Side` has it
        self.directions: np.ndarray | None = None
        self.left_over, self.turn = 0.0, 0  # share of a tile that short vectors lately left over
        if len(self) >= LEAST_ROWS and X.shape[1] >= LEAST_COLUMNS:
            self._project()
            self._arrange()

    def __len__(self) -> int:
        return len(self.first)

    def detach(self) -> None:
        """Let go of X, so that the rest can be sent elsewhere; `attach` gives it back."""
        self.X = None

    def attach(self, X: np.ndarray) -> None:
        """Take the same X again, after `detach`."""
        self.X = X

    def raw(self, numbers: np.ndarray | slice) -> np.ndarray:
        """Distinct rows by number: (s, d) float32, C-contiguous."""
        return np.ascontiguousarray(self.X[self.source[self.first[numbers]]], dtype=np.float32)

    def centred(self, rows: np.ndarray) -> np.ndarray:
        """Raw rows as the products take them: centred and scaled where that keeps the rounding error small."""
        return rows if self.centre is None else (rows - self.centre) * self.scale

    def _passes(self, work: Callable[[slice], None], count: int) -> None:
        """Call ``work`` with slices of 0 … count, in threads."""
        for_each(lambda start: work(slice(start, min(start + STEP, count))), range(0, count, STEP), self.threads)

    def _fold(self) -> None:
        """Find equal rows, the norms, and whether rows must be centred for the products."""
        n = len(self.source)
        digests, squared = np.empty(n, np.uint64), np.empty(n)
        sums: list[tuple[int, np.ndarray]] = []
        largest: list[float] = []

        def read(part: slice) -> None:
            rows = np.ascontiguousarray(self.X[self.source[part]], dtype=np.float32) + np.float32(0)  # no -0
            tiles.digest(rows.view(np.uint32), digests[part])
            squared[part] = np.einsum("ij,ij->i", rows, rows, dtype=np.float64)
            sums.append((part.start, rows.sum(axis=0, dtype=np.float64)))
            largest.append(max(float(rows.max()), -float(rows.min())))

        self._passes(read, n)
        self._group(digests)
        in_order = [part for _, part in sorted(sums, key=lambda item: item[0])]  # whatever thread was first
        self._frame(squared, np.sum(in_order, axis=0) / n, max(largest))

    def _frame(self, squared: np.ndarray, centre: np.ndarray, size: float) -> None:
        """Whether rows must be centred and scaled for the products, their norms then, and the bound of errors.

        A product's error grows with the norms, not with the distance: rows far from the origin are moved to it, and
        sizes whose squares come near float32's limits are scaled, by a power of two, which rounds nothing.
        """
        self.centre: np.ndarray | None = None
        self.scale = np.float32(1)
        if size and (centre @ centre > 0.5 * squared.mean() or not 1e-4 < size < 1e4):
            self.centre = centre.astype(np.float32)
            spread = self._spread()
            self.scale = np.float32(2.0 ** -np.frexp(spread)[1] if spread else 1.0)
            self.squared = self._squares()
        else:
            self.squared = squared[self.first]
        self.scale_squared = float(self.scale) ** 2
        # |float32 product - exact| <= d·u·|x||y| for any order of summation. Twice that, as it enters a distance, is at
        # most 0.5·d·u·(|x| + |y|)², which the bound is multiplied by; the rest covers centring, norms and casts.
        self.bound = (0.6 * self.X.shape[1] + 24) * ROUNDING

    def _spread(self) -> float:
        """The greatest entry less that of the centre, in size."""
        spread: list[float] = []
        self._passes(lambda part: spread.append(float(np.abs(self.raw(part) - self.centre).max())), len(self))
        return max(spread)

    def _squares(self) -> np.ndarray:
        """Squared norms of centred rows."""
        squared = np.empty(len(self))

        def measure(part: slice) -> None:
            rows = self.centred(self.raw(part))
            squared[part] = np.einsum("ij,ij->i", rows, rows, dtype=np.float64)

        self._passes(measure, len(self))
        return squared

    def _group(self, digests: np.ndarray) -> None:
        """Number the distinct rows: rows of equal digests are compared in full with the first of them."""
        order = np.argsort(digests, kind="stable")
        starts = np.flatnonzero(np.concatenate([[True], np.diff(digests[order]) != 0]))
        leader = np.empty(len(order), np.int64)  # the first position of an equal row
        leader[order] = np.repeat(order[starts], np.diff(np.append(starts, len(order))))
        others = np.flatnonzero(leader != np.arange(len(order)))
        for start in range(0, len(others), STEP):  # equal digests are no proof
            part = others[start : start + STEP]
            one, other = (np.asarray(self.X[self.source[at]], dtype=np.float32) for at in (part, leader[part]))
            differ = part[(one != other).any(axis=1)]
            for i in differ:  # hardly ever: sort out all rows of this digest by their bytes
                seen: dict[bytes, int] = {}
                for j in np.flatnonzero(digests == digests[i]):
                    row = np.asarray(self.X[self.source[j]], dtype=np.float32) + np.float32(0)
                    leader[j] = seen.setdefault(row.tobytes(), int(j))
        self.first = np.unique(leader)
        self.inverse = np.searchsorted(self.first, leader)
        self.counts = np.bincount(self.inverse)

    def _project(self) -> None:
        """Coordinates on the first principal directions of a sample: a map that never stretches a distance.

        Any orthonormal directions would do; the principal ones keep most of the distances, so they rule out most pairs.
        """
        d = self.X.shape[1]
        p = min(max(32, 16 * round(d / 96)), d, len(self))
        size = min(SAMPLE, max(p, SAMPLE_ENTRIES // d), len(self))
        sample = np.sort(np.random.default_rng(0).choice(len(self), size, replace=False))
        rows = self.centred(self.raw(sample))
        directions = randomized_svd(rows - rows.mean(axis=0), p, n_iter=2, random_state=0)[2].T
        self.directions = np.ascontiguousarray(directions, dtype=np.float32)
        self.short, self.shift = self.project(slice(0, len(self)), self.directions)

    def project(self, numbers: np.ndarray | slice, directions: np.ndarray) -> tuple[np.ndarray, float]:
        """Coordinates of distinct rows on orthonormal directions (columns), and the ``shift`` of a `Side` of them."""
        d, p = directions.shape
        exact = directions.astype(np.float64)
        stretch = np.linalg.norm(exact.T @ exact - np.eye(p))  # how far they are from orthonormal
        shift = 1.01 * (np.sqrt(p) * d * ROUNDING + stretch)  # rounding of p products of length d, and that
        rows = np.arange(len(self))[numbers]
        short = np.empty((len(rows), p), np.float32)

        def work(part: slice) -> None:
            np.matmul(self.centred(self.raw(rows[part])), directions, out=short[part])

        self._passes(work, len(rows))
        return short, float(shift)

    def _arrange(self) -> None:
        """Put similar rows side by side: each goes to the nearest of some pivots, the pivots in dendrogram order.

        So the pairs that matter meet in few tiles, and of the others whole rows and columns are passed over.
        """
        short = self.short
        if short is None or len(self) < 2:
            return
        n_pivots = min(MOST_PIVOTS, max(2, len(self) // CELL))
        pivots = short[np.linspace(0, len(self) - 1, n_pivots).astype(np.int64)]
        pivots = pivots[leaves_list(linkage(pivots, "average"))]
        half = np.einsum("ij,ij->i", pivots, pivots) / 2
        nearest = np.empty(len(self), np.int64)

        def assign(part: slice) -> None:
            nearest[part] = (short[part] @ pivots.T - half).argmax(axis=1)

        self._passes(assign, len(self))
        self.place[np.argsort(nearest, kind="stable")] = np.arange(len(self))

    def side(self, numbers: np.ndarray | None = None) -> Side:
        """The distinct rows of these numbers (all by default) as a `Side`, similar ones next to each other."""
        numbers = np.arange(len(self)) if numbers is None else np.asarray(numbers)
        rows = numbers[np.argsort(self.place[numbers], kind="stable")]
        return Side(rows, self.squared[rows], None if self.short is None else self.short[rows], self.shift)

    def distances(self, numbers: np.ndarray, others: np.ndarray) -> np.ndarray:
        """Squared distances of pairs of distinct rows: float64, in one fixed order of summation."""
        if self.X.dtype == np.float32 and self.X.flags.c_contiguous:
            at, other = self.source[self.first[numbers]], self.source[self.first[others]]
            return tiles.squared_distances(self.X, at, self.X, other)
        # Rows that must be converted: each once, however many pairs it is in.
        rows, at = np.unique(numbers, return_inverse=True)
        columns, other = np.unique(others, return_inverse=True)
        return tiles.squared_distances(self.raw(rows), at, self.raw(columns), other)

    def near(
        self,
        left: Side,
        a: slice | np.ndarray,
        right: Side,
        b: slice | np.ndarray,
        reach_l: np.ndarray,
        reach_r: np.ndarray,
        *,
        either: bool = False,
        mode: int = tiles.ANY,
        groups: tuple[np.ndarray, np.ndarray] | None = None,
        tighten: int = 0,
        exact: bool = True,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Pairs of one tile that may lie within reach, each with its squared distance.

        Parameters
        ----------
        left, right : Side
            With ``left is right`` and equal slices only pairs above the diagonal are looked at.
        a, b : slice or ndarray of int64
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
            Places within the two parts.
        squared : ndarray of float64
            Some may be beyond reach.
        """
        diagonal = left is right and isinstance(a, slice) and isinstance(b, slice) and a == b
        rows, columns = left.rows[a], right.rows[b]
        size = len(rows) * len(columns)
        pairs = tiles.Pairs(either, diagonal, mode, *(groups or _NO_GROUPS))
        # First by short vectors: which rows and columns have a pair that may matter? Lower radii take the full product.
        if left.short is not None and right.short is not None and not tighten and self._may_spare():
            product = multiply(left.short[a], right.short[b])
            cuts = self._cuts(Tile(left, a, right, b), reach_l, reach_r, short=True)
            count, i, j, hit_l, hit_r = _scan(product, cuts, pairs, size // PER_PAIR)
            entries = np.count_nonzero(hit_l) * np.count_nonzero(hit_r)  # of the full product that is left to compute
            self.left_over += 0.1 * (entries / size - self.left_over)
            if not count:
                return i, j, np.empty(0)
            if count * PER_PAIR <= entries:  # so all of them are listed: cheaper measured than multiplied
                return i, j, self.distances(rows[i], columns[j])
            at, other = np.flatnonzero(hit_l), np.flatnonzero(hit_r)
            if diagonal:
                at = other = np.flatnonzero(hit_l | hit_r)
        else:
            at, other = np.arange(len(rows)), np.arange(len(columns))
        # Then by the full product of those rows and columns.
        lines = self.centred(self.raw(rows[at]))
        product = multiply(lines, lines if diagonal else self.centred(self.raw(columns[other])))
        tile = Tile(left, places(a, at), right, places(b, other))
        reach_l, reach_r = reach_l[at], reach_r[other]
        if groups:
            pairs = pairs._replace(group_l=groups[0][at], group_r=groups[1][other])
        if tighten:
            apart = pairs.group_l[:, None] != pairs.group_r if mode == tiles.EQUAL else None
            reach_l = np.minimum(reach_l, self._kth(product, tile, tighten, diagonal, apart))
            reach_r = reach_l if diagonal else reach_r
        cuts = self._cuts(tile, reach_l, reach_r)
        count, i, j, _, _ = _scan(product, cuts, pairs, size // PER_PAIR)
        if count > len(i):
            _, i, j, _, _ = _scan(product, cuts, pairs, count)
        if exact:
            return at[i], other[j], self.distances(rows[at[i]], columns[other[j]])
        return at[i], other[j], self._values(product[i, j], tile, i, j, reach_l, reach_r)

    def _may_spare(self) -> bool:
        """Whether to try short vectors: not where they lately ruled out little, but for one tile in eight."""
        self.turn += 1
        return self.left_over < USELESS or self.turn % 8 == 0

    def _values(
        self, product: np.ndarray, tile: Tile, i: np.ndarray, j: np.ndarray, reach_l: np.ndarray, reach_r: np.ndarray
    ) -> np.ndarray:
        """Upper bounds of the squared distances of pairs surely within both radii; the others are measured."""
        left, a, right, b = tile
        norms = left.norm[a][i] + right.norm[b][j]
        squared = tiles.at_most(product, left.squared[a][i], right.squared[b][j], norms, self.bound, self.scale_squared)
        unsure = np.flatnonzero(squared > np.minimum(reach_l[i], reach_r[j]))
        squared[unsure] = self.distances(left.rows[a][i[unsure]], right.rows[b][j[unsure]])
        return squared

    def greedy(
        self, rows: np.ndarray, limit: np.ndarray, group: np.ndarray, hint: np.ndarray, hint_squared: np.ndarray,
        state: np.ndarray,
    ) -> None:  # fmt: skip
        """Keep (1) or drop (2) in ``state`` rows given in order of visit: a kept one drops the later ones within reach.

        ``limit``, ``group``, ``hint`` (the row that dropped it), ``hint_squared`` and ``state`` are by number; only
        rows of one group drop each other.
        """
        squared = self.squared[rows]
        norm = np.sqrt(squared)
        low = tiles.cuts(squared, norm, limit[rows] * self.scale_squared, norm.max(), self.bound, 0.0)
        lines = self.centred(self.raw(rows))
        half, product = (squared / 2).astype(np.float32), lines @ lines.T
        measured = tiles.Measured(product, low, half, squared, norm, self.bound, self.scale_squared)
        tiles.greedy_tile(measured, rows, self.raw(rows), tiles.Decision(limit, group, hint, hint_squared, state))

    def _cuts(self, tile: Tile, reach_l: np.ndarray, reach_r: np.ndarray, short: bool = False) -> tiles.Cuts:
        """What a product, or one of short vectors, must reach for a pair within the squared radii."""
        left, a, right, b = tile
        squared_l, squared_r = (left.short_squared, right.short_squared) if short else (left.squared, right.squared)
        half_l, half_r = (left.short_half, right.short_half) if short else (left.half, right.half)
        norm_l, norm_r = left.norm[a], right.norm[b]
        scale, shift = self.scale_squared, left.shift if short else 0.0
        low_l = tiles.cuts(squared_l[a], norm_l, reach_l * scale, norm_r.max(), self.bound, shift)
        low_r = tiles.cuts(squared_r[b], norm_r, reach_r * scale, norm_l.max(), self.bound, shift)
        return tiles.Cuts(low_l, half_l[a], low_r, half_r[b])

    def _kth(self, product: np.ndarray, tile: Tile, k: int, diagonal: bool, apart: np.ndarray | None) -> np.ndarray:
        """For each row a squared radius that at least k of the columns lie within, those ``apart`` left out."""
        value = tile.right.squared[tile.b] / 2 - product  # in the order of the distances of a row
        if diagonal:
            np.fill_diagonal(value, np.inf)
        if apart is not None:
            value[apart] = np.inf
        if k > value.shape[1] - diagonal:
            return np.full(len(value), np.inf)
        return self._about(tile, np.partition(value, k - 1, axis=1)[:, k - 1])

    def _about(self, tile: Tile, value: np.ndarray) -> np.ndarray:
        """A squared distance that a pair of this ``half - product`` is surely not beyond, for each row."""
        left, a, right, b = tile
        norms = left.norm[a] + right.norm[b].max()
        about = left.squared[a] + 2 * value + 2 * self.bound * norms**2 + 2 * tiles.TINY
        return np.maximum(about, 0) / self.scale_squared


def _scan(
    product: np.ndarray, cuts: tiles.Cuts, pairs: tiles.Pairs, room: int
) -> tuple[int, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """How many pairs may matter, the places of the first ``room`` of them, and the rows and columns that have one."""
    hit_l, hit_r = np.zeros(product.shape[0], bool), np.zeros(product.shape[1], bool)
    i, j = np.empty(room, np.int64), np.empty(room, np.int64)
    count = tiles.scan(product, cuts, pairs, hit_l, hit_r, i, j)
    return count, i[:count], j[:count], hit_l, hit_r
