"""MMR: the lazy picks are the plain greedy loop's, whatever the data."""

from __future__ import annotations

import threading
import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from threadpoolctl import threadpool_limits

from assl_kit.errors import DataError, ParameterError
from assl_kit.selection import lazy_mmr as _lazy_mmr
from assl_kit.selection.mmr import mmr_select, mmr_terms
from assl_kit.space import rows as space_rows
from assl_kit.space.rows import mean_direction

TORCH = torch.device("cpu")  # takes the way of "cuda", without a GPU


def test_a_device_is_waited_for_in_rounds_not_at_every_pick(monkeypatch):
    X, copies, copy = random_rows(3000, 24, 5), [], torch.Tensor.cpu

    def counted(tensor):
        copies.append(tensor.shape)
        return copy(tensor)

    monkeypatch.setattr(torch.Tensor, "cpu", counted)
    picks = mmr_select(X, 600, device=TORCH)
    monkeypatch.undo()
    assert 2 <= len(copies) < 60 and np.array_equal(picks, mmr_select(X, 600))


def unit(X):
    X = np.asarray(X, dtype=np.float64)
    return (X / np.linalg.norm(X, axis=1, keepdims=True)).astype(np.float32)


def random_rows(n, d, seed, duplicates=0.0):
    rng = np.random.default_rng(seed)
    X = unit(rng.normal(size=(n, d)) + 1.5 * rng.normal(size=(4, d))[rng.integers(4, size=n)])
    copies = rng.random(n) < duplicates
    X[copies] = X[rng.integers(n, size=copies.sum())]
    return X


def greedy(X, n_select, centroid, scores, weights, ids):
    """The definition, word for word, in float64 and with each similarity summed alone."""
    X = X.astype(np.float64)
    centroid = np.asarray(centroid, dtype=np.float64)
    centroid = centroid / np.sqrt((centroid**2).sum())
    base = weights[0] * (X * centroid).sum(axis=1) + weights[1] * np.asarray(scores, dtype=np.float64)
    picks = []
    for _ in range(n_select):
        best = None
        for i in range(len(X)):
            if i in picks:
                continue
            value = base[i] - (weights[2] * (X[picks] * X[i]).sum(axis=1).max() if picks else 0.0)
            if best is None or value > best[0] or (value == best[0] and ids[i] < best[1]):
                best = (value, ids[i], i)
        picks.append(best[2])
    return picks


# Rows, centroid, scores and weights that float arithmetic holds exactly: every tie is a true tie in any order of sums.
EXACT_ROWS = np.array(
    [s * np.eye(4)[i] for i in range(4) for s in (1, -1)]
    + [[a / 2, b / 2, c / 2, e / 2] for a in (1, -1) for b in (1, -1) for c in (1, -1) for e in (1, -1)]
)
EXACT_WEIGHTS = [
    (0.5, 0.25, 0.25),
    (0.25, 0.25, 0.5),
    (0.0, 0.0, 1.0),
    (1.0, 0.0, 0.0),
    (0.0, 1.0, 0.0),
    (0.5, 0.0, 0.5),
]


@given(
    rows=st.lists(st.integers(0, len(EXACT_ROWS) - 1), min_size=1, max_size=40),
    centre=st.integers(0, len(EXACT_ROWS) - 1),
    weights=st.sampled_from(EXACT_WEIGHTS),
    block=st.sampled_from([1, 2, 7, 256]),
    chunk=st.sampled_from([1, 3, 128]),
    data=st.data(),
)
@settings(max_examples=120, deadline=None)
def test_ties_are_settled_by_id(rows, centre, weights, block, chunk, data):
    X = EXACT_ROWS[rows]
    n = len(X)
    scores = np.array(data.draw(st.lists(st.sampled_from([0, 0.25, 0.5, 1]), min_size=n, max_size=n)))
    ids = np.array([f"r{i:02d}" for i in data.draw(st.permutations(range(n)))])
    k = data.draw(st.integers(0, n))
    wanted = greedy(X, k, EXACT_ROWS[centre], scores, weights, ids)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_lazy_mmr, "_BLOCK", block)
        patch.setattr(_lazy_mmr, "_CHUNK", chunk)
        for way in ({}, {"method": "plain"}, {"device": TORCH}):
            found = mmr_select(X, k, centroid=EXACT_ROWS[centre], scores=scores, weights=weights, ids=ids, **way)
            assert found.dtype == np.int64
            assert found.tolist() == wanted, way


@given(
    n=st.integers(1, 60),
    d=st.integers(2, 20),
    seed=st.integers(0, 10_000),
    duplicates=st.sampled_from([0.0, 0.2, 0.7]),
    block=st.sampled_from([1, 5, 16, 256]),
    chunk=st.sampled_from([1, 7, 128]),
    weights=st.sampled_from([(0.4, 0.2, 0.4), (0.1, 0.2, 0.7), (0.6, 0.4, 0.0), (0.0, 0.0, 1.0)]),
)
@settings(max_examples=120, deadline=None)
def test_equals_the_plain_loop_on_random_rows_with_duplicates(n, d, seed, duplicates, block, chunk, weights):
    X = random_rows(n, d, seed, duplicates)
    rng = np.random.default_rng(seed + 1)
    scores = rng.random(n) if seed % 2 else np.zeros(n)
    centroid = rng.normal(size=d)
    k = int(rng.integers(0, n + 1))
    plain = mmr_select(X, k, centroid=centroid, scores=scores, weights=weights, method="plain")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_lazy_mmr, "_BLOCK", block)
        patch.setattr(_lazy_mmr, "_CHUNK", chunk)
        for device in ("cpu", TORCH):
            lazy = mmr_select(X, k, centroid=centroid, scores=scores, weights=weights, device=device)
            assert lazy.tolist() == plain.tolist()
    if weights[:2] == (0.0, 0.0):
        k = min(k, 2)  # pure diversity: antipodes and mutual nearest rows tie mathematically; see the exact test
    assert plain[:k].tolist() == greedy(X, k, centroid, scores, weights, np.arange(n))


@pytest.mark.parametrize("weights", [(0.4, 0.2, 0.4), (0.0, 0.0, 1.0), (0.8, 0.2, 0.0)])
def test_lazy_equals_plain_at_size(weights):
    X = random_rows(3000, 48, 5, duplicates=0.2)
    scores = np.random.default_rng(1).random(3000)
    plain = mmr_select(X, 900, scores=scores, weights=weights, method="plain")
    assert len(set(plain.tolist())) == 900
    assert np.array_equal(mmr_select(X, 50, scores=scores, weights=weights), plain[:50])
    for threads in (1, 2):
        with threadpool_limits(threads):
            assert np.array_equal(mmr_select(X, 900, scores=scores, weights=weights), plain)
            assert np.array_equal(mmr_select(X, 900, scores=scores, weights=weights, n_jobs=3), plain)
    assert np.array_equal(mmr_select(X, 900, scores=scores, weights=weights, device=TORCH), plain)


@pytest.mark.parametrize("spread", [1e-7, 1e-5, 1e-3])
def test_rows_closer_than_float32_tells(spread):
    rng = np.random.default_rng(2)
    X = unit(rng.normal(size=64) + spread * rng.normal(size=(700, 64)))
    assert np.array_equal(mmr_select(X, 300), mmr_select(X, 300, method="plain"))


def test_all_rows_equal():
    X = np.tile(unit([[1, 2, 3]]), (1200, 1))
    assert mmr_select(X, 1200).tolist() == list(range(1200))
    assert mmr_select(X, 5, ids=np.arange(1200)[::-1]).tolist() == [1199, 1198, 1197, 1196, 1195]


@pytest.mark.parametrize("n_select", [0, 1, 2])
def test_few_rows(n_select):
    assert mmr_select([[1.0, 0.0], [0.0, 1.0]], n_select, centroid=[1, 0]).tolist() == [0, 1][:n_select]
    assert mmr_select([[1]], min(n_select, 1)).tolist() == [0][:n_select]


@pytest.mark.parametrize("seed", range(5))
def test_permuting_rows_gives_the_same_ids(seed):
    X = random_rows(300, 12, seed, duplicates=0.3)
    rng = np.random.default_rng(seed)
    ids, scores, order = np.array([f"id-{i}" for i in range(300)]), rng.random(300), rng.permutation(300)
    first = ids[mmr_select(X, 80, scores=scores, ids=ids)]
    second = ids[order][mmr_select(X[order], 80, scores=scores[order], ids=ids[order])]
    assert first.tolist() == second.tolist()


def test_without_diversity_the_top_is_picked():
    X = random_rows(200, 8, 3)
    scores = np.random.default_rng(3).random(200)
    value = 0.7 * (X.astype(np.float64) @ mean_direction(X)) + 0.3 * scores
    assert mmr_select(X, 40, scores=scores, weights=(0.7, 0.3, 0)).tolist() == np.argsort(-value)[:40].tolist()


def test_diversity_spreads_the_picks():
    X = random_rows(500, 8, 9)

    def closest(picks):
        S = X[picks] @ X[picks].T - 2 * np.eye(len(picks))
        return S.max(axis=1).mean()

    assert closest(mmr_select(X, 30, weights=(0.2, 0, 0.8))) < closest(mmr_select(X, 30, weights=(1, 0, 0))) - 0.1


@pytest.mark.parametrize("d", [1, 6, 4096])
def test_any_layout_and_type_of_input(tmp_path, d):
    X = random_rows(120, d, 4) if d > 1 else np.random.default_rng(0).choice([1, 1, -1], (120, 1)).astype(np.float32)
    wanted = mmr_select(X, 30)
    np.save(tmp_path / "X.npy", X)
    wide = np.zeros((240, 2 * d), np.float32)
    wide[::2, ::2] = X
    for rows in (
        X.astype(np.float64),
        np.asfortranarray(X),
        wide[::2, ::2],
        np.load(tmp_path / "X.npy", mmap_mode="r"),
        torch.from_numpy(X).requires_grad_(),
        X.tolist(),
    ):
        for way in ({}, {"method": "plain"}, {"device": TORCH}):
            assert np.array_equal(mmr_select(rows, 30, **way), wanted), way
        assert np.array_equal(mmr_terms(rows, wanted)[2], mmr_terms(X, wanted)[2])


def test_half_precision_is_taken_as_it_is():
    X = random_rows(200, 32, 8).astype(np.float16)
    wanted = mmr_select(X.astype(np.float32), 60)
    assert np.array_equal(mmr_select(X, 60), wanted)
    assert np.array_equal(mmr_select(torch.from_numpy(X), 60), wanted)
    exact = torch.tensor(EXACT_ROWS)  # bfloat16 holds these
    assert np.array_equal(mmr_select(exact.bfloat16(), 9, centroid=X[0, :4]), mmr_select(exact, 9, centroid=X[0, :4]))


def test_a_file_is_not_read_as_a_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(space_rows, "ENTRIES", 2**18)
    X = random_rows(20_000, 256, 1)
    X.astype(np.float64).tofile(tmp_path / "X")
    on_disk = np.memmap(tmp_path / "X", np.float64, "r", shape=X.shape)
    picks = mmr_select(X[:1000], 100)  # compiles
    tracemalloc.start()
    try:
        picks = mmr_select(on_disk, 100)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 0.4 * on_disk.nbytes  # as float32 all would be half
    assert np.array_equal(picks, mmr_select(X, 100))


def test_terms_explain_each_pick():
    X = random_rows(400, 10, 6, duplicates=0.2)
    scores = np.random.default_rng(6).random(400)
    picks = mmr_select(X, 300, scores=scores)
    relevance, score, nearest = mmr_terms(X, picks, scores=scores)
    P = X[picks].astype(np.float64)
    assert np.allclose(relevance, P @ mean_direction(X), atol=1e-12)
    assert np.array_equal(score, scores[picks])
    assert nearest[0] == 0
    assert np.allclose(nearest[1:], [(P[:t] @ P[t]).max() for t in range(1, 300)], atol=1e-12)
    value = 0.4 * relevance + 0.2 * score - 0.4 * nearest
    assert (np.diff(value[1:]) <= 1e-12).all()
    assert all(len(term) == 0 for term in mmr_terms(X, []))


GOOD = unit([[1, 0], [0, 1], [1, 1]])


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"n_select": 4}, ParameterError, "3 rows"),
        ({"n_select": -1}, ParameterError, "-1"),
        ({"n_select": "abc"}, ParameterError, "abc"),
        ({"n_select": 1.5}, ParameterError, "1.5"),
        ({"weights": (0.5, 0.5, 0.5)}, ParameterError, "sum 1"),
        ({"weights": (1.5, -0.5, 0)}, ParameterError, "non-negative"),
        ({"weights": (1, 0)}, ParameterError, "weights"),
        ({"weights": (np.nan, 0.5, 0.5)}, ParameterError, "weights"),
        ({"weights": "abc"}, ParameterError, "weights"),
        ({"method": "fast"}, ParameterError, "fast"),
        ({"device": "abacus"}, ParameterError, "abacus"),
        ({"n_jobs": 0}, ParameterError, "n_jobs"),
        ({"device": "meta"}, ParameterError, "meta"),
        ({"scores": [0, 1.2, 0]}, DataError, "row 1"),
        ({"scores": [0, 0, np.nan]}, DataError, "row 2"),
        ({"scores": [0, 0]}, ParameterError, "3 rows"),
        ({"scores": ["a", "b", "c"]}, DataError, "numbers"),
        ({"centroid": [0, 0]}, DataError, "direction"),
        ({"centroid": [0, np.nan]}, DataError, "direction"),
        ({"centroid": [1, 0, 0]}, ParameterError, "2 columns"),
        ({"ids": ["a", "b"]}, DataError, "3 rows"),
        ({"ids": np.array(["a", 1, "b"], dtype=object)}, DataError, "row 1"),
        ({"X": unit([[1, 0], [-1, 0]])}, DataError, "centroid"),
        ({"X": np.array([[1, 0], [np.nan, 0]])}, DataError, "row 1"),
        ({"X": np.array([[1, 0], [0, 0]])}, DataError, "row 1"),
        ({"X": np.array([[1, 0], [0, 2]])}, DataError, "row 1"),
    ],
)
def test_bad_input_is_named(change, error, words):
    arguments = {"X": GOOD, "n_select": 1} | change
    with pytest.raises(error, match=words):
        mmr_select(arguments.pop("X"), arguments.pop("n_select"), **arguments)


def test_few_rows_are_not_worth_a_thread(monkeypatch):
    shared, seen = _lazy_mmr.lazy_picks, []

    def note(*args, workers, each):
        seen.append((workers, each is map))
        return shared(*args, workers=workers, each=each)

    monkeypatch.setattr("assl_kit.selection.mmr.lazy_picks", note)
    rows = random_rows(300, 8, 1)
    picks = mmr_select(rows, 20, n_jobs=2)
    for few in (300, 301):
        monkeypatch.setattr("assl_kit.selection.mmr._FEW", few)
        assert np.array_equal(mmr_select(rows, 20, n_jobs=2), picks)
    assert seen == [(2, False), (2, False), (1, True)]


def test_an_interrupt_leaves_no_threads(monkeypatch):
    before = threading.active_count()

    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(_lazy_mmr, "_absorb", interrupt)
    with pytest.raises(KeyboardInterrupt):
        mmr_select(random_rows(300, 8, 1), 20, n_jobs=2)
    assert threading.active_count() == before


def test_terms_refuse_rows_that_are_not_there():
    for picks in ([3], [-1], [0.5], [[0]]):
        with pytest.raises(ParameterError, match="row numbers"):
            mmr_terms(GOOD, picks)
