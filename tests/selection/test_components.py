"""Connected components: against all pairs, on rows that make every shortcut do its worst."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse.csgraph import connected_components

from assl_kit import ADBSCAN
from assl_kit.selection import components as module
from assl_kit.selection.components import Parts, components
from assl_kit.space import points, tiles
from assl_kit.space.neighbors import Graph, make_points, reach


def plain_components(rows_of, numbers, limit):
    """By every pair, measured as the package measures."""
    one, other = np.triu_indices(len(numbers), 1)
    squared = rows_of.distances(numbers[one], numbers[other])
    linked = squared <= np.minimum(limit[numbers[one]], limit[numbers[other]])
    adjacency = np.zeros((len(numbers), len(numbers)), bool)
    adjacency[one[linked], other[linked]] = True
    labels = connected_components(adjacency, directed=False)[1]
    return np.unique(np.unique(labels, return_index=True)[1][labels], return_inverse=True)[1]


@st.composite
def rows(draw):
    """Blobs near to and far from each other, grids with ties, equal rows, far from the origin, tiny or huge."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n, d = draw(st.integers(1, 160)), draw(st.sampled_from([1, 2, 9, 40]))
    kind = draw(st.sampled_from(["blobs", "grid", "line", "nothing"]))
    if kind == "grid":
        X = rng.integers(0, 4, (n, d)).astype(float)
    elif kind == "line":
        X = np.outer(np.cumsum(rng.integers(1, 4, n)), np.ones(d)) + rng.integers(0, 2, (n, d))
    else:
        blob = rng.integers(0, draw(st.integers(1, 12)), n)
        X = rng.normal(size=(12, d))[blob] * (draw(st.sampled_from([0.5, 3.0, 30.0])) if kind == "blobs" else 0)
        X = X + rng.normal(size=(n, d)) * np.geomspace(0.05, 1.0, 12)[blob][:, None]
    again = rng.random(n) < draw(st.sampled_from([0.0, 0.3]))
    X[again] = X[rng.integers(0, n, again.sum())]
    return ((X + draw(st.sampled_from([0, 300]))) * draw(st.sampled_from([1, 2.0**-60, 2.0**60]))).astype(np.float32)


@settings(max_examples=150, deadline=None)
@given(
    rows(),
    st.sampled_from([1, 2, 5]),
    st.sampled_from([1, 3, 1024]),
    st.sampled_from([1, 10**9]),
    st.sampled_from([0.02, 0.2, 0.6]),
    st.integers(0, 2**32 - 1),
)
def test_components_equal_all_pairs(X, k, most_parts, least_rows, share, seed):
    """With and without short vectors; as many parts as components, or all small ones in one."""
    rng = np.random.default_rng(seed)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("BLOCK", 16), ("CELL", 8), ("LEAST_ROWS", least_rows), ("LEAST_COLUMNS", 1)):
            patch.setattr(points, name, value)
        patch.setattr(module, "MOST_PARTS", most_parts)
        patch.setattr(module, "SAMPLE", 3)
        patch.setattr(module, "STEP", 7)
        rows_of = make_points(X, n_jobs=int(rng.integers(1, 3)))
        u = len(rows_of)
        numbers = np.flatnonzero(rng.random(u) < rng.choice([0.5, 1.0]))
        one, other = rng.integers(0, u, (2, 200))
        some = np.sqrt(rows_of.distances(one, other))
        radius = np.quantile(some, share * (rng.random(u) if rng.random() < 0.5 else np.ones(u)), method="lower")
        limit = reach(radius)  # radii that are distances: the slack alone keeps ties within
        if not len(numbers):
            return
        found = components(rows_of, numbers, limit, Graph(rows_of, k))
        np.testing.assert_array_equal(found, plain_components(rows_of, numbers, limit))


def test_parts_are_rows_side_by_side():
    """The largest parts are one component each; what is beyond them is one part that is not."""
    X = np.repeat(np.arange(6.0), [1, 4, 2, 1, 3, 1])[:, None] + np.linspace(0, 0.01, 12)[:, None]
    rows_of = make_points(X.astype(np.float32))
    roots = np.repeat([0, 1, 5, 7, 8, 11], [1, 4, 2, 1, 3, 1])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "MOST_PARTS", 3)
        parts = Parts(rows_of, np.arange(12), roots)
    groups = [sorted(parts.rows[part].tolist()) for part in parts.slices]
    assert groups == [[1, 2, 3, 4], [5, 6], [0, 7, 11], [8, 9, 10]]  # by their mean place
    assert parts.single.tolist() == [True, True, False, True]
    assert parts.part.tolist() == [0] * 4 + [1] * 2 + [2] * 3 + [3] * 3


def test_parts_with_a_gap_between_them_are_never_multiplied(monkeypatch):
    """Blobs whose rows are farther from their own centroid than from the gap's middle: only the direction shows it."""
    rng = np.random.default_rng(0)
    d, per_blob = 256, 60
    centres = np.eye(6, d)
    X = np.repeat(centres, per_blob, axis=0) + rng.normal(size=(6 * per_blob, d)) * 0.04
    X = X.astype(np.float32)
    monkeypatch.setattr(points, "LEAST_ROWS", 1)
    monkeypatch.setattr(points, "BLOCK", 32)
    calls, near = [], points.Points.near

    def counted(self, left, a, right, b, *rest, mode=tiles.ANY, **named):
        if mode == tiles.DIFFERENT:
            calls.append((a, b))
        return near(self, left, a, right, b, *rest, mode=mode, **named)

    monkeypatch.setattr(points.Points, "near", counted)
    model = ADBSCAN(min_samples=5, link_flattening=1.0).fit(X)
    assert model.labels_.max() == 5 and model.eps_ > 0.8  # nearly as far as the centroids are from each other, 1.41
    assert not calls
    monkeypatch.setattr(module.Parts, "close", lambda self, *_: ~np.diag(self.single))
    again = ADBSCAN(min_samples=5, link_flattening=1.0).fit(X)
    assert len(calls) > 20
    np.testing.assert_array_equal(again.labels_, model.labels_)
