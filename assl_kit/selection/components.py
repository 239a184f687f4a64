"""Connected components of rows that lie within a radius of each other: which are one is known early, the rest apart.

The links of the neighbour graph make most of the components. What is left to do is to see that they are not linked by
other pairs, and nearly always they are not. So the rows are taken part by part, one part a component so far:

- Between two parts, the direction from centroid to centroid may show a gap wider than any radius: nothing more is
  looked at.
- Where it does not, the short vectors of `points.Points` are made anew, on the directions in which the centroids
  differ, and rule out pairs as they do for neighbours.
"""

from __future__ import annotations

from threading import Lock

import numpy as np
from sklearn.utils.extmath import randomized_svd

from assl_kit.common.parallel import for_each
from assl_kit.space import tiles
from assl_kit.space.neighbors import Graph, near_first
from assl_kit.space.points import Points
from assl_kit.space.rows import Side
from assl_kit.space.torch_points import DevicePoints

MOST_PARTS = 1024  # components that are looked at one by one; the smaller ones beyond are one part together
SAMPLE = 64  # rows of a part that its centroid is taken from where it only gives a direction
WIDER = 1.5  # columns of the short vectors made here, in those of the points
STEP = 2048  # rows multiplied with all centroids at a time


def components(points: Points, numbers: np.ndarray, limit: np.ndarray, graph: Graph) -> np.ndarray:
    """Connected components of distinct rows, two being linked when their squared distance ≤ the lesser limit.

    Parameters
    ----------
    points : Points
    numbers : ndarray of int64
        Numbers of distinct rows, ascending.
    limit : ndarray of shape (u,), float64
        Squared radii from :func:`assl_kit.space.neighbors.reach`, by number.
    graph : Graph
        Its links are made first.

    Returns
    -------
    ndarray of shape (len(numbers),), int64
        Number of the component of each, numbered by first member.
    """
    parent = np.arange(len(points))
    allowed = np.full(len(points), -1.0)
    allowed[numbers] = limit[numbers]
    tiles.unite_graph(parent, graph.squared, graph.index, allowed)
    if isinstance(points, DevicePoints):
        _unite_there(points, numbers, limit, parent)
    else:
        _unite_here(points, numbers, limit, parent)
    return np.unique(tiles.roots(parent, numbers), return_inverse=True)[1].astype(np.int64)


class Parts:
    """Rows in parts, each a component so far, similar ones next to each other.

    Attributes
    ----------
    rows : ndarray of shape (s,), int64
        Numbers of the rows, part after part.
    part : ndarray of shape (s,), int64
        Part of each row, ascending.
    slices : list of slice
        Places of each part.
    single : ndarray of bool
        Which parts are one component; one part may hold all those beyond the largest.
    """

    def __init__(self, points: Points, numbers: np.ndarray, roots: np.ndarray) -> None:
        group = np.unique(roots, return_inverse=True)[1]
        rank = np.argsort(np.argsort(-np.bincount(group), kind="stable"))  # the largest component first
        part = np.minimum(rank[group], MOST_PARTS)
        sizes = np.bincount(part)
        by_place = np.argsort(np.bincount(part, points.place[numbers]) / sizes, kind="stable")
        order = np.lexsort((points.place[numbers], np.argsort(by_place)[part]))
        self.rows, sizes = numbers[order], sizes[by_place]
        self.part = np.repeat(np.arange(len(sizes)), sizes)
        ends = np.cumsum(sizes).tolist()
        self.slices = [slice(end - size, end) for end, size in zip(ends, sizes.tolist(), strict=True)]
        self.single = (by_place < MOST_PARTS) | (len(rank) <= MOST_PARTS + 1)

    def side(self, points: Points) -> Side:
        """The rows with short vectors on the directions in which the centroids of the parts differ most.

        Where these are few, the directions of the points follow.
        """
        if points.directions is None:
            return Side(self.rows, points.squared[self.rows], None)
        centroids = np.empty((len(self.slices), points.X.shape[1]))

        def average(number: int) -> None:
            rows = self.rows[self.slices[number]]
            some = points.centred(points.raw(rows[:: -(-len(rows) // SAMPLE)]))
            centroids[number] = some.mean(axis=0, dtype=np.float64)

        for_each(average, range(len(centroids)), points.threads)
        sizes = np.bincount(self.part)
        apart = (centroids - np.average(centroids, axis=0, weights=sizes)) * np.sqrt(sizes)[:, None]
        d, p = points.directions.shape
        width = min(int(WIDER * p), d)
        first = randomized_svd(apart, min(width, len(apart)), n_iter=2, random_state=0)[2]
        directions = np.linalg.qr(np.hstack([first.T, points.directions])[:, :width])[0]
        short, shift = points.project(self.rows, np.ascontiguousarray(directions, dtype=np.float32))
        return Side(self.rows, points.squared[self.rows], short, shift)

    def close(self, points: Points, side: Side, reach: np.ndarray) -> np.ndarray:
        """Which parts may have a pair of rows of different components within the lesser of their squared radii.

        Along any direction two rows are at most as far apart as they are. Along that from centroid to centroid, a
        part begins where its least product with the direction is.
        """
        count = len(self.slices)
        close = ~np.diag(self.single)
        if side.short is None:
            return close
        short = side.short
        centroids = np.array([short[part].mean(axis=0, dtype=np.float64) for part in self.slices])
        least = np.full((count, count), np.inf)  # of (centroid of this part - of that) · row of this part

        def project(number: int) -> None:
            part = self.slices[number]
            for start in range(part.start, part.stop, STEP):
                along = short[start : min(start + STEP, part.stop)].astype(np.float64) @ centroids.T
                np.minimum(least[number], (along[:, number, None] - along).min(axis=0), out=least[number])

        for_each(project, range(count), points.threads)
        square = np.einsum("ij,ij->i", centroids, centroids)
        apart = np.sqrt(np.maximum(square[:, None] + square - 2 * (centroids @ centroids.T), tiles.TINY))
        both = 2 * side.norm.max()
        # Far more than float64 can be wrong by is taken off above and added below.
        gap = np.maximum(least + least.T - 1e-9 * both * both, 0) / (apart + 1e-6 * both + tiles.TINY)
        most = np.sqrt([reach[part].max() for part in self.slices]) * points.scale
        far = np.square(np.minimum(most[:, None], most) + side.shift * both) + points.bound * both * both + tiles.TINY
        return close & (np.square(gap) <= far)


def _unite_here(points: Points, numbers: np.ndarray, limit: np.ndarray, parent: np.ndarray) -> None:
    """Unite the sets of rows within the lesser of their squared radii, tile by tile."""
    parts = Parts(points, numbers, tiles.roots(parent, numbers))
    if len(parts.slices) == 1 and parts.single[0]:
        return
    side, rows, lock = parts.side(points), parts.rows, Lock()
    reach = limit[rows]
    close = parts.close(points, side, reach)
    blocks = side.blocks(points.block)

    def link(tile: tuple[int, int]) -> None:
        one, other = (blocks[t] for t in tile)
        beside = _beside(close, parts.part[one], parts.part[other])
        if not beside.any():
            return  # too far apart
        a: slice | np.ndarray = one
        b: slice | np.ndarray = other
        if one != other:
            b = other.start + np.flatnonzero(beside)
            a = one.start + np.flatnonzero(_beside(close, parts.part[b], parts.part[one]))
        with lock:
            groups = tiles.roots(parent, rows[a]), tiles.roots(parent, rows[b])
        if (groups[0] == groups[1][0]).all() and (groups[1] == groups[0][0]).all():
            return  # one component already
        i, j, distance = points.near(side, a, side, b, reach[a], reach[b], mode=tiles.DIFFERENT, groups=groups)
        # The roots may be out of date by now: such pairs are united again, which changes nothing.
        linked = distance <= np.minimum(reach[a][i], reach[b][j])
        with lock:
            tiles.unite(parent, rows[a][i[linked]], rows[b][j[linked]])

    pairs = [(t, t) for t in range(len(blocks))] + near_first(side, blocks)
    for_each(link, pairs, points.threads, "components" if points.progress else None)


def _beside(close: np.ndarray, parts: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Which of ``others`` are close to one of the parts."""
    return close[np.unique(parts)].max(axis=0)[others]


def _unite_there(points: DevicePoints, numbers: np.ndarray, limit: np.ndarray, parent: np.ndarray) -> None:
    """Unite the sets of rows within the lesser of their squared radii, by the pairs that the device finds."""
    numbers = numbers[np.argsort(tiles.roots(parent, numbers), kind="stable")]
    step = points.rows_beside(len(numbers))
    for start in range(0, len(numbers), step):
        rows, names = numbers[start:], tiles.roots(parent, numbers[start:])
        if (names == names[0]).all():
            continue
        for i, j, sure in points.linked(rows, names, step, limit[rows]):
            tiles.unite(parent, rows[i[sure]], rows[j[sure]])
            one, two = rows[i[~sure]], rows[j[~sure]]
            apart = tiles.roots(parent, one) != tiles.roots(parent, two)  # few of them
            one, two = one[apart], two[apart]
            if len(one):
                linked = points.distances(one, two) <= np.minimum(limit[one], limit[two])
                tiles.unite(parent, one[linked], two[linked])
