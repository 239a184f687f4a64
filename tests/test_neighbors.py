"""Exact neighbours: against a plain float64 computation, under every shape and layout of input."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_matrix

from assl_kit.errors import DataError, ParameterError
from assl_kit.neighbors import Points, check_rows, knn, reach


def plain_knn(X, k):
    X = np.asarray(X, dtype=np.float32).astype(np.float64)
    squared = ((X[:, None] - X[None]) ** 2).sum(-1)
    np.fill_diagonal(squared, -1.0)
    index = np.argsort(squared, axis=1, kind="stable")[:, :k]
    return np.sqrt(np.maximum(np.take_along_axis(squared, index, axis=1), 0)), index


@st.composite
def matrices(draw):
    """Random rows: several widths, offsets and scales, some rows equal."""
    n, d = draw(st.integers(1, 60)), draw(st.sampled_from([1, 2, 5, 17]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    X = rng.normal(size=(n, d))
    if draw(st.booleans()):
        X = X[rng.integers(0, n, n)]
    return ((X + draw(st.sampled_from([0, 3, 300]))) * draw(st.sampled_from([1, 1e-20, 1e20]))).astype(np.float32)


@settings(max_examples=60, deadline=None)
@given(matrices(), st.integers(1, 60))
def test_knn_equals_plain(X, k):
    k = min(k, len(X))
    distances, indices = knn(X, k)
    expected, order = plain_knn(X, k)
    assert distances.dtype == np.float32 and indices.dtype == np.int64
    np.testing.assert_allclose(distances, expected, rtol=1e-6)
    # another order is right only where float64 sums of two orders differ in the last bit
    np.testing.assert_allclose(plain_at(X, indices), plain_at(X, order), rtol=1e-12)
    assert (indices[:, 0] == np.arange(len(X))).all()
    assert all(len(set(row)) == k for row in indices.tolist())


def plain_at(X, index):
    X = X.astype(np.float64)
    return np.sqrt(((X[:, None] - X[index]) ** 2).sum(-1))


@pytest.mark.parametrize("d", [1, 3, 4096])
def test_result_depends_on_neither_block_nor_threads(d):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(300, d)).astype(np.float32)
    X[250:] = X[:50]
    distances, indices = knn(X, 9)
    for block, n_jobs in [(1, None), (37, None), (64, 2), (1000, 3)]:
        other = knn(X, 9, block=block, n_jobs=n_jobs)
        np.testing.assert_array_equal(other[0], distances)
        np.testing.assert_array_equal(other[1], indices)
    assert (distances[:50, 1] == 0).all() and (indices[:50, 1] == np.arange(250, 300)).all()


def test_more_rows_than_one_tile():
    rng = np.random.default_rng(1)
    X = rng.integers(0, 40, size=(4500, 2)).astype(np.float32)  # many exact ties, two column tiles
    distances, indices = knn(X, 5)
    for i in rng.integers(0, 4500, 100):
        squared = ((X - X[i]) ** 2).sum(1)
        squared[i] = -1
        order = np.argsort(squared, kind="stable")[:5]
        np.testing.assert_array_equal(indices[i], order)
    assert (distances[:, 1] == 0).mean() > 0.9


def test_all_rows_equal_and_clumps_far_from_the_origin():
    distances, indices = knn(np.full((600, 3), 7.25), 4)
    assert (distances == 0).all()
    np.testing.assert_array_equal(indices[0], [0, 1, 2, 3])
    np.testing.assert_array_equal(indices[599], [599, 0, 1, 2])
    rng = np.random.default_rng(0)
    X = np.repeat(rng.normal(size=(10, 8)) * 100, 30, axis=0) + rng.normal(size=(300, 8)) * 1e-3
    np.testing.assert_array_equal(knn(X, 12)[1], plain_knn(X, 12)[1])


def test_layouts_and_dtypes_agree(tmp_path):
    rng = np.random.default_rng(2)
    X = rng.integers(-8, 8, size=(50, 6)).astype(np.float32)
    expected = knn(X, 5)
    mapped = np.lib.format.open_memmap(tmp_path / "x.npy", mode="w+", dtype=np.float32, shape=X.shape)
    mapped[:] = X
    read_only = X.copy()
    read_only.flags.writeable = False
    wide = np.zeros((100, 12), dtype=np.float64)
    wide[::2, ::2] = X
    for other in [
        X.tolist(),
        X.astype(np.float16),
        X.astype(np.float64),
        X.astype(int),
        np.asfortranarray(X),
        mapped,
        read_only,
        wide[::2, ::2],
    ]:
        distances, indices = knn(other, 5)
        np.testing.assert_array_equal(distances, expected[0])
        np.testing.assert_array_equal(indices, expected[1])
    assert np.shares_memory(check_rows(mapped), mapped) and np.shares_memory(check_rows(X), X)
    checked = check_rows(wide[::2, ::2])
    assert checked.dtype == np.float32 and checked.flags.c_contiguous


@pytest.mark.parametrize(
    ("X", "what"),
    [
        ([[0.0, 1.0], [np.nan, 0.0]], "NaN or inf (row 1)"),
        ([[0.0], [1.0], [np.inf]], "NaN or inf (row 2)"),
        (np.array([[1.0], [1e300]]), "beyond 1e30 (row 1)"),
        ([1.0, 2.0], "two dimensions"),
        (np.zeros((2, 2, 2)), "two dimensions"),
        (np.empty((0, 3)), "empty"),
        (np.empty((3, 0)), "empty"),
        ([[1.0], [1.0, 2.0]], "not a matrix"),
        ([["a", "b"]], "not a matrix"),
        (np.array([[1j]]), "Complex data not supported"),
        (csr_matrix(np.eye(3)), "sparse"),
    ],
)
def test_bad_rows(X, what):
    with pytest.raises(DataError) as error:
        check_rows(X, name="embeddings")
    assert what in str(error.value) and "embeddings" in str(error.value)


def test_unit_rows():
    X = np.array([[1, 0], [0.6, 0.8], [0, 1.0005]])
    assert check_rows(X, unit=True).shape == (3, 2)
    with pytest.raises(DataError, match=r"zero \(row 1\)"):
        check_rows([[1, 0], [0, 0]], unit=True)
    with pytest.raises(DataError, match=r"length 1\.01, not 1 \(row 2\)"):
        check_rows([[1, 0], [0, 1], [0, 1.01]], unit=True)


@pytest.mark.parametrize("k", [0, -1, 4, 2.0, True, None])
def test_bad_k(k):
    with pytest.raises(ParameterError, match="k is"):
        knn(np.eye(3), k)


def test_bad_block():
    with pytest.raises(ParameterError, match="block is"):
        knn(np.eye(3), 1, block=0)


@settings(max_examples=40, deadline=None)
@given(matrices(), st.integers(0, 2**32 - 1), st.booleans())
def test_nearest_within_equals_plain(X, seed, sequence):
    rng = np.random.default_rng(seed)
    points, n = Points(X), len(X)
    sides = rng.random(n) < 0.5
    rows, columns = np.flatnonzero(sides), np.flatnonzero(~sides)
    squared = ((X[:, None].astype(np.float64) - X[None]) ** 2).sum(-1)
    radii = np.sqrt(np.quantile(squared, rng.random(n))) * 1.01
    limit, place = reach(radii), rng.permutation(n)
    found, distance = points.nearest_within(
        rows, columns, limit[rows], limit[columns], earlier=place if sequence else None
    )
    for i, nearest, value in zip(rows, found, distance, strict=True):
        fits = [j for j in columns if squared[i, j] <= min(limit[i], limit[j])]
        fits = [j for j in fits if not sequence or place[j] < place[i]]
        if not fits:
            assert nearest == -1 and value == np.inf
        else:
            assert nearest in fits
            np.testing.assert_allclose(value, min(squared[i, j] for j in fits), rtol=1e-12)
