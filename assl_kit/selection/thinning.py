"""Thinning to an exact size: drop what a kept row of the same label stands for, at one scale of all radii.

Works on distinct rows by number. Each scale that the bisection tries is a greedy pass in order of visit; the neighbours
known from the fit decide most rows, and only the others are searched for.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from assl_kit.common.jit import jit
from assl_kit.space.neighbors import nearest_within, reach
from assl_kit.space.torch_points import DevicePoints

if TYPE_CHECKING:
    from assl_kit.space.neighbors import Graph
    from assl_kit.space.points import Points

TOLERANCE = 1e-6  #: relative width at which the bisection for the scale ends
STEP, CHUNK = 4096, 512  # rows looked at together: against all kept before, and among themselves; never change a result
DEVICE_STEP, DEVICE_CHUNK = 8192, 4096  # the same where a device searches, which takes as long for few as for many


class Thinning:
    """One call of ``thin``: distinct rows in visiting order (label, ascending κ, rank), and pools of them at any scale.

    Parameters
    ----------
    points : Points
    graph : Graph
    labels, kappa, radii, rank : ndarray of shape (u,)
        Of the distinct rows, by number.
    noise : {"thin", "drop", "keep"}
    """

    def __init__(
        self,
        points: Points,
        graph: Graph,
        labels: np.ndarray,
        kappa: np.ndarray,
        radii: np.ndarray,
        rank: np.ndarray,
        noise: str,
    ) -> None:
        self.points, self.graph, self.labels, self.radii, self.rank = points, graph, labels, radii, rank
        order = np.lexsort((rank, kappa, labels))
        self.place = np.empty(len(order), np.int64)
        self.place[order] = np.arange(len(order))
        self.visit = order[labels[order] >= 0] if noise == "drop" else order
        self.kept_noise = order[labels[order] < 0] if noise == "keep" else order[:0]
        self.hint = np.full(len(order), -1, np.int64)
        self.hint_squared = np.zeros(len(order))
        on_device = isinstance(points, DevicePoints)
        self.step, self.chunk = (DEVICE_STEP, DEVICE_CHUNK) if on_device else (STEP, CHUNK)

    def pool(self, size: int) -> tuple[np.ndarray, float]:
        """Exactly ``size`` ≤ ``len(self.visit)`` numbers, ascending, and the scale they were thinned with."""
        visit, fixed = self.visit, self.visit[:0]
        if len(self.kept_noise) > 0:
            if size <= len(self.kept_noise):
                visit = self.kept_noise
            else:
                visit, fixed = visit[self.labels[visit] >= 0], self.kept_noise
        wanted = size - len(fixed)
        if wanted == len(visit):
            return np.sort(np.concatenate([visit, fixed])), 0.0
        self.seen: dict[float, np.ndarray] = {}
        scale = largest_scale(lambda s: len(self._greedy(visit, s)), wanted)
        kept = self._without_surplus(self._greedy(visit, scale), visit, wanted)
        return np.sort(np.concatenate([kept, fixed])), scale

    def _greedy(self, visit: np.ndarray, scale: float) -> np.ndarray:
        """Numbers kept at this scale, in order of visit."""
        limit = self._limit(scale)
        state = self._between(visit, scale)
        rest = visit[state[visit] == 0]
        for start in range(0, len(rest), self.step):
            part = rest[start : start + self.step]
            known = self.graph.squared, self.graph.index, limit, self.place, self.labels
            _greedy_known(part, *known, self.hint, self.hint_squared, state)
            unknown = part[state[part] == 0]
            if len(unknown):
                names = self.labels[unknown]
                kept = np.flatnonzero((state == 1) & (self.labels >= names[0]) & (self.labels <= names[-1]))
                unknown = self._uncovered(unknown, kept, limit, state)
            while len(unknown):
                chunk, unknown = unknown[: self.chunk], unknown[self.chunk :]
                self.points.greedy(chunk, limit, self.labels, self.hint, self.hint_squared, state)
                unknown = self._uncovered(unknown, chunk[state[chunk] == 1], limit, state)
        self.seen[scale] = state
        return visit[state[visit] == 1]

    def _between(self, visit: np.ndarray, scale: float) -> np.ndarray:
        """What two scales tried before decide for this one, between them.

        A label's rows up to the first that the two decide differently are decided alike at every scale between: each
        has the same kept rows before it, and lies within reach of one of them at the lesser scale, or of none at the
        greater.
        """
        state = np.zeros(len(self.labels), np.int8)
        below, above = [s for s in self.seen if s <= scale], [s for s in self.seen if s >= scale]
        if below and above:
            low, high = self.seen[max(below)][visit], self.seen[min(above)][visit]
            label = self.labels[visit]
            changes = np.flatnonzero(low != high)
            firsts = changes[np.unique(label[changes], return_index=True)[1]]
            alike = np.ones(len(visit), bool)
            for first in firsts:
                alike[first : np.searchsorted(label, label[first], side="right")] = False
            state[visit[alike]] = low[alike]
        return state

    def _uncovered(self, unknown: np.ndarray, kept: np.ndarray, limit: np.ndarray, state: np.ndarray) -> np.ndarray:
        """Drop the undecided rows that an earlier kept one covers; gives the others."""
        nearest, squared = nearest_within(
            self.points, unknown, kept, limit, place=self.place, tie=self.rank, group=self.labels, any_one=True
        )
        covered = nearest >= 0
        rows = unknown[covered]
        state[rows] = 2
        self.hint[rows], self.hint_squared[rows] = nearest[covered], squared[covered]
        return unknown[~covered]

    def _without_surplus(self, kept: np.ndarray, visit: np.ndarray, wanted: int) -> np.ndarray:
        """Take out one at a time the row nearest to another of its label relative to its radius."""
        surplus = len(kept) - wanted
        alive = np.zeros(len(self.labels), dtype=bool)
        alive[kept] = True
        heap = self._crowding(kept, kept) if surplus else []
        heapq.heapify(heap)
        names, counts = np.unique(self.labels[kept], return_counts=True)
        left = dict(zip(names.tolist(), counts.tolist(), strict=True))
        while surplus and heap:
            _, _, i, nearest = heapq.heappop(heap)
            label = self.labels[i]
            if left[label] == 1:
                continue
            if not alive[nearest]:  # crowding only falls as others go, so an old entry is a bound
                others = kept[alive[kept] & (self.labels[kept] == label)]
                heapq.heappush(heap, self._crowding(np.array([i]), others)[0])
                continue
            alive[i] = False
            left[label] -= 1
            surplus -= 1
        if surplus:  # every label has one row left: those go that stand for fewest
            last = kept[alive[kept]]
            sizes = np.unique(self.labels[visit], return_counts=True)[1][np.searchsorted(names, self.labels[last])]
            alive[last[np.lexsort((-self.rank[last], sizes))[:surplus]]] = False
        return np.flatnonzero(alive)

    def _crowding(self, rows: np.ndarray, columns: np.ndarray) -> list[tuple[float, int, int, int]]:
        """Heap entries (distance to the nearest other column over the row's radius, -rank, row, that column)."""
        far = np.full(len(self.labels), np.inf)
        nearest, squared = nearest_within(
            self.points, rows, columns, far, graph=self.graph, tie=self.rank, group=self.labels
        )
        some = nearest >= 0
        rows, nearest = rows[some], nearest[some]
        with np.errstate(divide="ignore"):
            ratio = np.sqrt(squared[some]) / self.radii[rows]
        return list(zip(ratio.tolist(), (-self.rank[rows]).tolist(), rows.tolist(), nearest.tolist(), strict=True))

    def represent(self, kept: np.ndarray, scale: float) -> np.ndarray:
        """For each number its kept one: the nearest that dropped it, else the nearest of its label, else of all."""
        u = len(self.labels)
        representative = np.full(u, -1, dtype=np.int64)
        representative[kept] = kept
        far = np.full(u, np.inf)
        steps: tuple[tuple[np.ndarray, dict[str, Any], np.ndarray], ...] = (
            (self._limit(scale), {"place": self.place, "group": self.labels}, np.isin(np.arange(u), self.visit)),
            (far, {"group": self.labels}, np.isin(self.labels, self.labels[self.visit])),
            (far, {}, np.ones(u, bool)),
        )
        for limit, asked, who in steps:
            missing = np.flatnonzero((representative < 0) & who)
            if len(missing):
                nearest = nearest_within(self.points, missing, kept, limit, graph=self.graph, tie=self.rank, **asked)
                representative[missing] = nearest[0]
        return representative

    def _limit(self, scale: float) -> np.ndarray:
        """Squared reach of the scaled radii; a zero radius stays zero at any scale."""
        return reach(np.multiply(self.radii, scale, out=np.zeros_like(self.radii), where=self.radii > 0))


def largest_scale(size: Callable[[float], int], wanted: int) -> float:
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


@jit
def _greedy_known(
    visit: np.ndarray,
    known: np.ndarray,
    index: np.ndarray,
    limit: np.ndarray,
    place: np.ndarray,
    group: np.ndarray,
    hint: np.ndarray,
    hint_squared: np.ndarray,
    state: np.ndarray,
) -> None:
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
        # Kept if all that come before it within reach are known and dropped; beyond the list there may be others.
        if not state[i] and certain and (t < k or k == len(index)):
            state[i] = 1
