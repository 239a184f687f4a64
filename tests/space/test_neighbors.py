"""Exact neighbours: against a plain float64 computation, under every shape and layout of input."""

from __future__ import annotations

import signal
import threading
import time
import tracemalloc
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_matrix
from torch.utils._python_dispatch import TorchDispatchMode

from assl_kit import ADBSCAN
from assl_kit.common.parallel import for_each
from assl_kit.errors import DataError, ParameterError
from assl_kit.selection.components import components
from assl_kit.space import points, tiles
from assl_kit.space import torch_points as device_points
from assl_kit.space.neighbors import Graph, knn, make_points, nearest_within, reach
from assl_kit.space.rows import check_rows


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
def test_result_depends_on_neither_tiles_nor_threads(d, monkeypatch):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(300, d)).astype(np.float32)
    X[250:] = X[:50]
    distances, indices = knn(X, 9)
    for block, least, n_jobs in [(1, 10**9, None), (37, 1, None), (64, 1, 2), (1000, 1, 3)]:
        monkeypatch.setattr(points, "BLOCK", block)
        monkeypatch.setattr(points, "LEAST_ROWS", least)
        monkeypatch.setattr(points, "LEAST_COLUMNS", 1)
        other = knn(X, 9, n_jobs=n_jobs)
        np.testing.assert_array_equal(other[0], distances)
        np.testing.assert_array_equal(other[1], indices)
    assert (distances[:50, 1] == 0).all() and (indices[:50, 1] == np.arange(250, 300)).all()


def test_a_search_among_few_rows_is_not_worth_a_thread(monkeypatch):
    rows = make_points(np.random.default_rng(0).normal(size=(200, 8)).astype(np.float32), n_jobs=2)
    numbers, limit, seen = np.arange(200), np.full(200, 4.0), []

    def note(work, items, threads, progress=None):
        seen.append(threads)
        for_each(work, items, threads, progress)

    monkeypatch.setattr("assl_kit.space.neighbors.for_each", note)
    few = nearest_within(rows, numbers, numbers[:100], limit)
    monkeypatch.setattr("assl_kit.space.neighbors._FEW", 200 * 100 - 1)
    many = nearest_within(rows, numbers, numbers[:100], limit)
    assert seen == [1, 2]
    for one, other in zip(few, many, strict=True):
        np.testing.assert_array_equal(one, other)


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
    with pytest.raises(ParameterError, match="k must be a whole number from 1 to 3"):
        knn(np.eye(3), k)


@pytest.mark.parametrize("n_jobs", [0, 1.5, "two", True])
def test_bad_n_jobs(n_jobs):
    with pytest.raises(ParameterError, match="n_jobs must"):
        knn(np.eye(3), 1, n_jobs=n_jobs)


@settings(max_examples=60, deadline=None)
@given(matrices(), st.integers(0, 2**32 - 1), st.booleans(), st.booleans(), st.booleans())
def test_nearest_within_equals_plain(X, seed, sequence, grouped, known):
    rng = np.random.default_rng(seed)
    rows_of = make_points(X)
    Y, u = X[rows_of.first], len(rows_of)
    sides = rng.random(u) < 0.5
    rows, columns = np.flatnonzero(sides), np.flatnonzero(~sides)
    squared = ((Y[:, None].astype(np.float64) - Y[None]) ** 2).sum(-1)
    limit = reach(np.sqrt(np.quantile(squared, rng.random(u))) * 1.01)
    if rng.random() < 0.2 and not sequence:
        limit[:] = np.inf
    place, group = rng.permutation(u), rng.integers(0, 3, u)
    asked = ({"place": place} if sequence else {}) | ({"group": group} if grouped else {})
    graph = Graph(rows_of, 4) if known else None
    found, distance = nearest_within(rows_of, rows, columns, limit, graph=graph, **asked)
    some, above = nearest_within(rows_of, rows, columns, limit, any_one=True, **asked)
    for i, nearest, value, one, most in zip(rows, found, distance, some, above, strict=True):
        fits = [j for j in columns if squared[i, j] <= min(limit[i], limit[j])]
        fits = [j for j in fits if not sequence or place[j] < place[i]]
        fits = [j for j in fits if not grouped or group[j] == group[i]]
        if not fits:
            assert nearest == -1 and value == np.inf and one == -1
        else:
            assert nearest in fits and one in fits
            np.testing.assert_allclose(value, min(squared[i, j] for j in fits), rtol=1e-12)
            assert squared[i, one] <= most * (1 + 1e-12) and most <= min(limit[i], limit[one])


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.0, 0.3]), st.sampled_from([0.0, 5.0]))
def test_short_vectors_never_change_a_result(seed, duplicates, offset):
    """Rows long and many enough for the projection, which here is as good as useless or very sharp."""
    rng = np.random.default_rng(seed)
    n, d = int(rng.integers(60, 300)), int(rng.integers(33, 80))
    X = rng.normal(size=(n, d)) * np.geomspace(1, rng.choice([1.0, 1e-3]), d) + rng.normal(size=(9, d))[
        rng.integers(0, 9, n)
    ] * rng.choice([0.0, 3.0])
    again = rng.random(n) < duplicates
    X[again] = X[rng.integers(0, n, again.sum())]
    X = (X + offset).astype(np.float32)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in [("BLOCK", 32), ("CELL", 8), ("LEAST_ROWS", 1), ("LEAST_COLUMNS", 1), ("SAMPLE", 50)]:
            patch.setattr(points, name, value)
        assert make_points(X).short is not None
        distances, indices = knn(X, 7)
        expected, order = plain_knn(X, 7)
        np.testing.assert_allclose(distances, expected, rtol=1e-6)
        np.testing.assert_allclose(plain_at(X, indices), plain_at(X, order), rtol=1e-12)


def test_large_k_and_all_of_it():
    X = np.random.default_rng(3).normal(size=(1300, 4)).astype(np.float32)
    for k in (700, 1300):
        distances, indices = knn(X, k)
        np.testing.assert_array_equal(indices, plain_knn(X, k)[1])
        np.testing.assert_allclose(distances, plain_knn(X, k)[0], rtol=1e-6)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_mapped_rows_are_read_in_blocks(tmp_path, dtype, monkeypatch):
    """A file larger than what may be allocated while it is searched."""
    n, d = 6000, 256
    X = np.lib.format.open_memmap(tmp_path / "x.npy", mode="w+", dtype=dtype, shape=(n, d))
    X[:] = np.random.default_rng(0).normal(size=(n, d)) * np.geomspace(1, 0.01, d)
    expected = knn(np.array(X, dtype=np.float32), 3)
    tracemalloc.start()
    distances, indices = knn(X, 3, n_jobs=1)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    np.testing.assert_array_equal(indices, expected[1])
    np.testing.assert_array_equal(distances, expected[0])
    assert most < n * d * 4 * 0.85 + 2**24  # tiles and short vectors, not a copy beside them


def test_an_interrupt_leaves_no_thread():
    before = threading.active_count()

    def work(item):
        time.sleep(0.01)
        if item == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        for_each(work, range(1000), threads=3)
    assert threading.active_count() == before


def test_interrupting_a_search_leaves_no_thread():
    X = np.random.default_rng(0).normal(size=(20_000, 64)).astype(np.float32)
    before = threading.active_count()
    timer = threading.Timer(0.5, signal.raise_signal, [signal.SIGINT])
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        while True:
            knn(X, 8, n_jobs=3)
    timer.join()
    assert threading.active_count() == before


@settings(max_examples=40, deadline=None)
@given(matrices(), st.integers(1, 12), st.integers(0, 2**32 - 1), st.sampled_from([100, 0]))
def test_the_device_path_gives_the_same_bits(X, k, seed, many):
    """On torch's own CPU device; on CUDA the same lines run. With ``many`` 0 every product is made again in float32."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(device_points, "ENTRIES", 300)
        patch.setattr(device_points, "PAIRS", 50)
        patch.setattr(device_points, "WAITING", 100)
        patch.setattr(tiles, "MANY", many)
        patch.setattr(device_points, "MOST", 50 * many)  # and a block is halved again and again
        plain, other = make_points(X), device_points.DevicePoints(X, device="cpu")
        for name in ("first", "inverse", "counts"):
            np.testing.assert_array_equal(getattr(plain, name), getattr(other, name))
        one, two = Graph(plain, k), Graph(other, k)
        np.testing.assert_array_equal(one.squared, two.squared)
        np.testing.assert_array_equal(one.index, two.index)
        rng, u = np.random.default_rng(seed), len(plain)
        limit, group = reach(np.sqrt(one.squared[:, -1] * rng.random(u))), rng.integers(0, 2, u)
        core = np.flatnonzero(rng.random(u) < 0.8)
        np.testing.assert_array_equal(components(plain, core, limit, one), components(other, core, limit, two))
        squared = ((X[plain.first][:, None].astype(np.float64) - X[plain.first][None]) ** 2).sum(-1)
        for asked in ({}, {"group": group}, {"place": rng.permutation(u)}, {"any_one": True}, {"graph": one}):
            far = limit if "place" in asked else np.full(u, np.inf)
            for most in (limit, far):
                nearest, bound = nearest_within(other, core, np.arange(u), most, **asked)
                expected = nearest_within(plain, core, np.arange(u), most, **asked)
                if "any_one" not in asked:
                    np.testing.assert_array_equal(nearest, expected[0])
                    np.testing.assert_array_equal(bound, expected[1])
                    continue
                np.testing.assert_array_equal(nearest >= 0, expected[0] >= 0)
                i, j = core[nearest >= 0], nearest[nearest >= 0]
                assert (squared[i, j] <= bound[nearest >= 0] * (1 + 1e-12)).all()
                assert (bound[nearest >= 0] <= np.minimum(most[i], most[j])).all()
        order, states = rng.permutation(u), []
        for points_there in (plain, other):
            states.append(np.zeros(u, np.int8))
            points_there.greedy(order, limit, group, np.full(u, -1), np.zeros(u), states[-1])
        np.testing.assert_array_equal(*states)


@settings(max_examples=60, deadline=None)
@given(matrices(), st.sampled_from([0.0, 2.0**-12]))
def test_products_are_wrong_by_no_more_than_their_bound(X, beside):
    """Also for entries just beside what float16 holds, all to one side, where rounding takes most away."""
    if beside:
        with np.errstate(over="ignore"):
            X = np.abs(X.astype(np.float16).astype(np.float32)) * np.float32(1 + beside)
        X = np.minimum(X, np.float32(1e20))
    there = device_points.DevicePoints(X, device="cpu")
    rows = (there.raw(slice(None)).astype(np.float64) - (0 if there.centre is None else there.centre)) * there.power
    rows *= float(there.scale)
    exact = there.middle - ((rows[:, None] - rows[None]) ** 2).sum(-1) / 2
    for precise in (False, True):
        close, error = there._closeness(slice(None), slice(None), precise)
        assert (np.abs(close.double().numpy() - exact) <= error.double().numpy()[:, None]).all()


class Waits(TorchDispatchMode):
    """Counts what makes the host wait for a device, or a copy to it, by operation."""

    def __init__(self):
        super().__init__()
        self.counts = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        if name in {"nonzero", "_local_scalar_dense", "equal", "masked_select", "unique_dim", "_unique2"}:
            self.counts[name] += 1
        return function(*args, **(kwargs or {}))


def waits(work, monkeypatch):
    """How often ``work`` waits for the device, by kind; copies to the host counted as ``cpu``."""
    mode, copy = Waits(), torch.Tensor.cpu

    def counted(tensor, *args, **kwargs):
        mode.counts["cpu"] += 1
        return copy(tensor, *args, **kwargs)

    with monkeypatch.context() as patch, mode:
        patch.setattr(torch.Tensor, "cpu", counted)
        work()
    return mode.counts


def test_a_search_on_a_device_copies_its_results_once(monkeypatch):
    """Once a block of rows it asks how many pairs are left, and nothing else: no copy for each block or tile."""
    X = np.random.default_rng(0).normal(size=(640, 20)).astype(np.float32)
    there = device_points.DevicePoints(X, device="cpu")
    graph = Graph(there, 6)
    limit, numbers = reach(np.sqrt(graph.squared[:, 2])), np.arange(640)
    for blocks in (1, 16):
        monkeypatch.setattr(device_points, "ENTRIES", 640 * 640 // blocks)
        asked = waits(lambda: there.neighbours(5), monkeypatch)
        assert asked == {"nonzero": 2 * blocks, "_unique2": 1, "cpu": 2}
        asked = waits(lambda: nearest_within(there, numbers, numbers, limit), monkeypatch)
        assert asked == {"nonzero": blocks, "cpu": 1}
        linked = waits(lambda: components(there, numbers, limit, graph), monkeypatch)
        assert linked["nonzero"] <= 3 * blocks and linked["cpu"] <= 2 * blocks and len(linked) == 2
    made = waits(lambda: device_points.DevicePoints(X, device="cpu"), monkeypatch)
    assert sum(made.values()) <= 6


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.floats(0, 1), st.integers(0, 1000))
def test_rounds_keep_what_one_row_after_the_other_keeps(m, share, seed):
    rng = np.random.default_rng(seed)
    covers, takes_part = np.triu(rng.random((m, m)) < share, 1), rng.random(m) < 0.9
    kept, gone = [], np.zeros(m, bool)
    for i in range(m):
        if takes_part[i] and not covers[kept, i].any():
            kept.append(i)
    gone[takes_part] = ~np.isin(np.arange(m), kept)[takes_part]
    answer, by = tiles.first_kept(torch.tensor(covers).float(), torch.tensor(takes_part).float())
    assert np.flatnonzero(answer.numpy()).tolist() == kept
    for j in np.flatnonzero(gone):
        assert by[j] == next(i for i in kept if covers[i, j])


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 9), st.integers(1, 70), st.integers(1, 8), st.integers(0, 1000))
def test_groups_lead_to_every_entry_that_reaches(rows, columns, size, seed):
    size = min(size, columns)
    close = torch.tensor(np.random.default_rng(seed).normal(size=(rows, columns)).astype(np.float32))
    low = close.median(dim=1).values
    row, group = (tiles.group_greatest(close, size) >= low[:, None]).nonzero(as_tuple=True)
    i, j = tiles.group_entries(close, row, group, size, low)
    pairs = sorted(zip(i.tolist(), j.tolist(), strict=True))
    assert pairs == [tuple(pair) for pair in (close >= low[:, None]).nonzero().tolist()]


def test_values_are_refused_on_a_device_too():
    X = np.eye(4)
    for value, what in ((np.nan, "NaN or inf"), (np.inf, "NaN or inf"), (2e30, "beyond 1e30"), (1e300, "beyond 1e30")):
        X[2, 1] = value
        with pytest.raises(DataError, match=what) as error:
            knn(X, 2, device="cpu:0")
        assert "row 2" in str(error.value)
        with pytest.raises(DataError, match=what):
            ADBSCAN(device="cpu:0").fit(X)


def test_an_absent_device_is_refused():
    with pytest.raises(ParameterError, match="device 'tpu'|not available"):
        knn(np.eye(3), 1, device="tpu")
    if not torch.cuda.is_available():
        with pytest.raises(ParameterError, match="not available"):
            knn(np.eye(3), 1, device="cuda")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_gives_the_same_bits():
    X = np.random.default_rng(0).normal(size=(20_000, 128)).astype(np.float32)
    for one, two in zip(knn(X, 9), knn(torch.tensor(X, device="cuda"), 9, device="cuda"), strict=True):
        np.testing.assert_array_equal(one, two)
