"""Thinning to an exact size: drop what a kept row of the same label stands for, at one scale of all radii."""

from __future__ import annotations

import heapq

import numpy as np

from ._tiles import cover_tile, greedy_tile
from .neighbors import ROWS, reach

TOLERANCE = 1e-6  #: relative width at which the bisection for the scale ends


class Thinning:
    """One call of ``thin``: the distinct rows by label in visiting order, and pools of them at any scale."""

    def __init__(self, points, labels, kappa, radii, rank, rows, noise):
        self.points, self.labels, self.radii, self.rank, self.rows = points, labels, radii, rank, rows
        order = rows[np.lexsort((rank[rows], kappa[rows], labels[rows]))]
        self.place = np.zeros(len(labels), dtype=np.int64)
        self.place[order] = np.arange(len(order))
        firsts = np.unique(points.first[order], return_index=True)[1]
        self.distinct = order[np.sort(firsts)]
        self.kept_noise = self.distinct[labels[self.distinct] < 0] if noise == "keep" else self.distinct[:0]

    def pool(self, size):
        """Exactly ``size`` rows, ascending, and the scale they were thinned with."""
        if size >= len(self.distinct):
            others = np.setdiff1d(self.rows, self.distinct)
            others = others[np.argsort(self.rank[others])]
            return np.sort(np.concatenate([self.distinct, others[: size - len(self.distinct)]])), 0.0
        visit, fixed = self.distinct, self.distinct[:0]
        if size <= len(self.kept_noise):
            visit = self.kept_noise
        elif len(self.kept_noise):
            visit, fixed = self.distinct[self.labels[self.distinct] >= 0], self.kept_noise
        wanted = size - len(fixed)
        if wanted == len(visit):
            return np.sort(np.concatenate([visit, fixed])), 0.0
        parts = np.split(visit, np.flatnonzero(np.diff(self.labels[visit])) + 1)
        scale = largest_scale(lambda s: sum(map(len, self._greedy(parts, s, wanted))), wanted)
        kept = self._without_surplus(self._greedy(parts, scale), [len(part) for part in parts], wanted)
        return np.sort(np.concatenate([kept, fixed])), scale

    def _greedy(self, parts, scale, enough=None):
        """Rows kept of each label at this scale; with ``enough``, no more labels or tiles once that many are kept."""
        limit = self._limit(scale)
        found, total = [], 0
        for part in parts:
            kept = np.empty(0, dtype=np.int64)
            for start in range(0, len(part), ROWS):
                if enough is not None and total + len(kept) >= enough:
                    break
                rows = part[start : start + ROWS]
                covered = np.zeros(len(rows), dtype=bool)
                for _, b, product in self.points.tiles(rows, kept):
                    columns = kept[b]
                    cover_tile(product, rows, columns, self.points.arrays, limit[rows], limit[columns], covered)
                rows = rows[~covered]
                if len(rows) > 1:
                    Z, covered = self.points.Z[rows], np.zeros(len(rows), dtype=bool)
                    greedy_tile(Z @ Z.T, rows, self.points.arrays, limit[rows], covered)
                    rows = rows[~covered]
                kept = np.concatenate([kept, rows])
            found.append(kept)
            total += len(kept)
        return found

    def _without_surplus(self, parts, sizes, wanted):
        surplus = sum(map(len, parts)) - wanted
        alive = np.zeros(len(self.labels), dtype=bool)
        alive[np.concatenate(parts)] = True
        heap = []
        for part in parts if surplus else []:
            heap += self._crowding(part, part)
        heapq.heapify(heap)
        left = {self.labels[part[0]]: len(part) for part in parts}
        while surplus and heap:
            _, _, i, nearest = heapq.heappop(heap)
            label = self.labels[i]
            if left[label] == 1:
                continue
            if not alive[nearest]:  # crowding only falls as others go, so an old entry is a bound
                part = parts[np.searchsorted([self.labels[part[0]] for part in parts], label)]
                heapq.heappush(heap, self._crowding(np.array([i]), part[alive[part]])[0])
                continue
            alive[i] = False
            left[label] -= 1
            surplus -= 1
        if surplus:
            last = np.concatenate([part[alive[part]] for part in parts])
            alive[last[np.lexsort((-self.rank[last], sizes))[:surplus]]] = False
        return np.flatnonzero(alive)

    def _crowding(self, rows, columns):
        """Heap entries (distance to the nearest other column over the row's radius, -rank, row, that column)."""
        if len(columns) < 2:
            return []
        far = np.full(max(len(rows), len(columns)), np.inf)
        nearest, squared = self.points.nearest_within(rows, columns, far[: len(rows)], far, tie=self.rank)
        with np.errstate(divide="ignore"):
            ratio = np.sqrt(squared) / self.radii[rows]
        return list(zip(ratio.tolist(), (-self.rank[rows]).tolist(), rows.tolist(), nearest.tolist(), strict=True))

    def represent(self, kept, scale):
        """For each row its kept row: one that dropped it, else the nearest of its label, else the nearest of all."""
        representative = np.full(len(self.labels), -1, dtype=np.int64)
        representative[kept] = kept
        limit = self._limit(scale)
        missing = np.setdiff1d(self.rows, kept)
        for label in np.unique(self.labels[missing]):
            rows = missing[self.labels[missing] == label]
            columns = kept[self.labels[kept] == label]
            near = self.points.nearest_within(
                rows, columns, limit[rows], limit[columns], earlier=self.place, tie=self.rank
            )[0]
            representative[rows] = near
            self._represent_by_any(representative, rows[near < 0], columns)
        self._represent_by_any(representative, np.flatnonzero(representative < 0), kept)
        return representative

    def _represent_by_any(self, representative, rows, columns):
        far = np.full(max(len(rows), len(columns)), np.inf)
        representative[rows] = self.points.nearest_within(rows, columns, far[: len(rows)], far, tie=self.rank)[0]

    def _limit(self, scale):
        """Squared reach of the scaled radii; a zero radius stays zero at any scale."""
        return reach(np.multiply(self.radii, scale, out=np.zeros_like(self.radii), where=self.radii > 0))


def largest_scale(size, wanted):
    """Largest s with ``size(s) >= wanted``, to a relative 1e-6, for a size that falls with s (roughly: greedy pools).

    ``size(0) >= wanted`` is taken for granted; gives inf where even that is large enough.
    """
    if size(np.inf) >= wanted:
        return float("inf")
    low, high = 0.0, 1.0
    while size(high) >= wanted:
        low, high = high, 2 * high
    if not low:
        low = high / 2
        while size(low) < wanted:
            low, high = low / 2, low
            if low < 1e-100:
                return 0.0
    while high > low * (1 + TOLERANCE):
        middle = float(np.sqrt(low * high))
        low, high = (middle, high) if size(middle) >= wanted else (low, middle)
    return low
