"""Spherical k-means and the tables over it."""

from __future__ import annotations

import threading

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.estimator_checks import parametrize_with_checks
from threadpoolctl import threadpool_limits

from assl_kit.common.device import torch_device
from assl_kit.errors import DataError, ParameterError
from assl_kit.space import clusters as semantic
from assl_kit.space import rows as _unit_rows
from assl_kit.space import torch_lloyd
from assl_kit.space.cluster_quality import choose_n_clusters, cluster_task_agreement, cluster_task_table, task_centroids
from assl_kit.space.clusters import SemanticKMeans
from assl_kit.space.lloyd import GRID, Lloyd, spread_rows
from assl_kit.space.rows import UnitRows
from assl_kit.space.torch_lloyd import TorchLloyd, on_device


def blobs(n=300, d=16, k=4, spread=0.3, seed=0):
    rng = np.random.default_rng(seed)
    truth = rng.choice(k, n, p=np.arange(k, 0, -1) / (k * (k + 1) / 2))
    X = rng.normal(size=(k, d))[truth] + spread * rng.normal(size=(n, d))
    return (X / np.linalg.norm(X, axis=1, keepdims=True)).astype(np.float32), truth


@parametrize_with_checks([SemanticKMeans()])
def test_scikit_learn_conventions(estimator, check):
    check(estimator)


def test_finds_the_blobs_and_numbers_them_by_size():
    X, truth = blobs()
    model = SemanticKMeans(4).fit(X)
    assert cluster_task_agreement(model.labels_, truth)["nmi"] == pytest.approx(1)
    assert (np.diff(np.bincount(model.labels_)) <= 0).all()
    assert np.allclose(np.linalg.norm(model.cluster_centers_, axis=1), 1, atol=1e-6)
    assert model.cluster_centers_.dtype == np.float32
    assert model.labels_.dtype == np.int64


def test_result_is_a_fixed_point():
    X, _ = blobs(500, spread=1.2, seed=3)
    model = SemanticKMeans(5, random_state=1).fit(X)
    for k in range(5):
        mean = X[model.labels_ == k].mean(axis=0)
        assert np.allclose(mean / np.linalg.norm(mean), model.cluster_centers_[k], atol=1e-5)
    cosines = X @ model.cluster_centers_.T
    assert np.array_equal(cosines.argmax(axis=1), model.labels_)
    assert np.array_equal(model.predict(X), model.labels_)
    assert model.inertia_ == pytest.approx((2 - 2 * cosines.max(axis=1)).sum(), rel=1e-5)
    assert np.allclose(model.transform(X), cosines, atol=1e-6)


def lloyd(X, centers, max_iter=100):
    """The definition: every cosine in float64 in every iteration, every mean from all rows."""
    for _ in range(max_iter):
        labels = (X[:, None].astype(np.float64) * centers).sum(axis=2).argmax(axis=1)
        old = centers
        centers = old.copy()
        for k in np.unique(labels):
            total = X[labels == k].sum(axis=0, dtype=np.float64)
            if (length := np.linalg.norm(total)) > 0:
                centers[k] = total / length
        if np.array_equal(centers, old):
            break
    return labels, centers


@given(
    n=st.integers(2, 400),
    d=st.integers(2, 40),
    k=st.integers(1, 9),
    spread=st.sampled_from([0.1, 1.0, 5.0]),
    duplicates=st.sampled_from([0.0, 0.2, 0.9]),
    seed=st.integers(0, 10_000),
)
@settings(max_examples=80, deadline=None)
def test_lloyd_with_bounds_is_the_plain_loop_and_the_definition(n, d, k, spread, duplicates, seed):
    X, _ = blobs(n, d, spread=spread, seed=seed)
    rng = np.random.default_rng(seed)
    copies = rng.random(n) < duplicates
    X[copies] = X[rng.integers(n, size=copies.sum())]
    start = X[rng.choice(n, min(k, n), replace=False)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_unit_rows, "_ENTRIES", 37 * d)  # several blocks
        rows = UnitRows(X)
        there = TorchLloyd(rows, start, on_device(rows, "cpu"))
        runs = [Lloyd(rows, start), Lloyd(rows, start, lazy=False), there]
        counts = [run.run(100) for run in runs]
    assert counts[1:] == counts[:1] * 2
    for run in runs[1:]:
        assert np.array_equal(run.labels, runs[0].labels)
        assert run.centers.tobytes() == runs[0].centers.tobytes()
        assert run.inertia == runs[0].inertia
    labels, centers = lloyd(X, start)
    assert np.allclose(centers, runs[0].centers, atol=1e-6)
    assert np.array_equal(labels, runs[0].labels)


@pytest.fixture
def small_sample(monkeypatch):
    """Let 400 rows count as many, in blocks of 50."""
    monkeypatch.setattr(semantic, "_SAMPLE", 64)
    monkeypatch.setattr(semantic, "_PER_CLUSTER", 8)
    monkeypatch.setattr(_unit_rows, "_ENTRIES", 50 * 16)


def same(first, second):
    assert np.array_equal(first.labels_, second.labels_)
    assert first.cluster_centers_.tobytes() == second.cluster_centers_.tobytes()
    assert (first.inertia_, first.n_iter_) == (second.inertia_, second.n_iter_)


def test_many_rows_start_from_a_sample(small_sample):
    X, truth = blobs(400)
    model = SemanticKMeans(4).fit(X)
    assert cluster_task_agreement(model.labels_, truth)["nmi"] == pytest.approx(1)
    X, _ = blobs(400, spread=1.2, seed=3)
    model = SemanticKMeans(5, random_state=1).fit(X)
    assert (np.diff(np.bincount(model.labels_)) <= 0).all()
    assert np.array_equal((X @ model.cluster_centers_.T).argmax(axis=1), model.labels_)
    assert np.array_equal(model.predict(X), model.labels_)
    labels, centers = lloyd(X, model.cluster_centers_)  # a fixed point
    assert np.array_equal(labels, model.labels_) and np.allclose(centers, model.cluster_centers_, atol=1e-6)
    assert model.inertia_ == pytest.approx((2 - 2 * (X @ model.cluster_centers_.T).max(axis=1)).sum(), rel=1e-5)
    same(model, SemanticKMeans(5, random_state=1, method="plain").fit(X))
    assert len({SemanticKMeans(5, random_state=seed, n_init=1).fit(X).inertia_ for seed in range(4)}) > 1


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("n_jobs", [None, 1, 3])
def test_threads_do_not_matter(small_sample, threads, n_jobs):
    X, _ = blobs(400, spread=1.2, seed=5)
    expected = SemanticKMeans(5).fit(X)
    with threadpool_limits(threads):
        same(SemanticKMeans(5, n_jobs=n_jobs).fit(X), expected)


@pytest.mark.parametrize("n", [300, 400])
def test_a_device_gives_the_same(monkeypatch, n):
    monkeypatch.setattr(semantic, "_SAMPLE", 350)  # so with 300 rows a restart is scikit-learn's
    monkeypatch.setattr(torch_lloyd, "ENTRIES_ON_DEVICE", 16 * 90)  # several blocks
    for spread, duplicates in ((0.3, 0), (1.2, 0), (1.2, 300)):
        X, _ = blobs(n, spread=spread, seed=n)
        X[: duplicates // 2] = X[0]
        same(SemanticKMeans(5, device="cpu:0").fit(X), SemanticKMeans(5).fit(X))
    twice = np.repeat(np.eye(3), n, axis=0)[:, [0, 1, 2, 2]]  # every row as near to two centres, or many
    with pytest.warns(ConvergenceWarning):
        same(SemanticKMeans(5, device="cpu:0").fit(twice), SemanticKMeans(5).fit(twice))


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 60), st.integers(1, 40), st.integers(1, 6), st.integers(0, 1000))
def test_draws_of_starts_hang_on_no_rounding(n, d, k, seed):
    """Whatever order the products are added in, in whatever precision: they are whole numbers that float32 holds."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, d))
    X = X[rng.integers(0, n, n)] / np.linalg.norm(X, axis=1, keepdims=True).max()
    whole = np.rint(X / np.linalg.norm(X, axis=1, keepdims=True) * GRID).astype(np.float32)
    squares, order = (whole.astype(np.float64) ** 2).sum(axis=1), rng.permutation(d)
    ways = (
        lambda at: whole[at] @ whole.T,
        lambda at: whole[at].astype(np.float64) @ whole.T.astype(np.float64),
        lambda at: np.add.reduce(whole[at][:, None, order] * whole[None][:, :, order], axis=2, dtype=np.float32),
    )
    starts = [spread_rows(way, squares, k, np.arange(4)) for way in ways]
    np.testing.assert_array_equal(starts[1], starts[0])
    np.testing.assert_array_equal(starts[2], starts[0])
    for run in starts[0]:  # a row at no distance is drawn only where all are so
        distinct = len(np.unique(whole, axis=0))
        assert len(np.unique(whole[run], axis=0)) == min(k, distinct)


@pytest.mark.parametrize("sample", [64, 8192])
def test_any_layout_and_type_of_rows(small_sample, monkeypatch, tmp_path, sample):
    monkeypatch.setattr(semantic, "_SAMPLE", sample)
    X, _ = blobs(400, spread=0.8, seed=2)
    expected = SemanticKMeans(4).fit(X)
    np.save(tmp_path / "X.npy", X)
    wide = np.zeros((800, 32), np.float32)
    wide[::2, ::2] = X
    for same_rows in (
        np.load(tmp_path / "X.npy", mmap_mode="r"),
        np.asfortranarray(X),
        wide[::2, ::2],
        X.astype(np.float64),
        torch.from_numpy(X).requires_grad_(),
    ):
        model = SemanticKMeans(4).fit(same_rows)
        same(model, expected)
        assert np.array_equal(model.predict(same_rows), expected.labels_)
        assert np.array_equal(model.transform(same_rows), expected.transform(X))
    half = SemanticKMeans(4).fit(X.astype(np.float16))
    assert cluster_task_agreement(half.labels_, expected.labels_)["nmi"] > 0.95


def test_unit_rows_are_read_in_place(tmp_path):
    X, _ = blobs(100)
    np.save(tmp_path / "X.npy", X)
    for given_rows in (X, np.load(tmp_path / "X.npy", mmap_mode="r")):
        rows = UnitRows(np.asarray(given_rows))
        assert np.shares_memory(rows.read(rows.blocks[0])[0], given_rows)
    X[3] *= 2
    taken = UnitRows(X).take(np.arange(100))
    assert np.allclose(np.linalg.norm(taken, axis=1), 1) and not np.shares_memory(taken, X)
    assert np.linalg.norm(X[3]) == pytest.approx(2)


@pytest.mark.parametrize("d", [1, 4096])
def test_narrow_and_wide_rows(small_sample, d):
    X = np.random.default_rng(0).normal(size=(200, d)).astype(np.float32)
    labels = SemanticKMeans(2).fit_predict(X)
    if d == 1:
        assert len(set(labels[X[:, 0] > 0])) == 1 and set(labels) == {0, 1}
    assert np.array_equal(labels, SemanticKMeans(2, method="plain").fit_predict(X))


def test_many_rows_with_few_distinct(small_sample):
    with pytest.warns(ConvergenceWarning, match="1 of 3 clusters"):
        labels = SemanticKMeans(3).fit_predict(np.ones((300, 4)))
    assert not labels.any()


def test_a_device_must_be_there():
    for device in ("abacus", "meta", 1.5) + (() if torch.cuda.is_available() else ("cuda",)):
        with pytest.raises(ParameterError, match="device"):
            SemanticKMeans(2, device=device).fit(np.eye(8))
    assert torch_device("cpu").type == "cpu"


def test_an_interrupt_leaves_no_threads(small_sample, monkeypatch):
    X, _ = blobs(400)
    before = threading.active_count()

    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(Lloyd, "_assign_block", interrupt)
    with pytest.raises(KeyboardInterrupt):
        SemanticKMeans(4, n_jobs=2).fit(X)
    assert threading.active_count() == before


def test_ties_in_size_go_by_first_member():
    X = np.repeat(np.eye(3, dtype=np.float32), 5, axis=0)[::-1]
    assert SemanticKMeans(3).fit_predict(X).tolist() == [0] * 5 + [1] * 5 + [2] * 5


def test_repeats_bit_for_bit_and_ignores_length_of_rows():
    X, _ = blobs(400, spread=1.0)
    first, second = SemanticKMeans(4).fit(X), SemanticKMeans(4).fit(X.copy())
    assert np.array_equal(first.labels_, second.labels_)
    assert first.cluster_centers_.tobytes() == second.cluster_centers_.tobytes()
    scaled = SemanticKMeans(4).fit(X * np.float32(8))
    assert np.array_equal(first.labels_, scaled.labels_)


def test_restarts_never_hurt():
    X, _ = blobs(400, k=8, spread=1.0)
    assert SemanticKMeans(8, n_init=20).fit(X).inertia_ <= SemanticKMeans(8, n_init=1).fit(X).inertia_ * 1.001


def test_fewer_rows_than_clusters():
    with pytest.raises(DataError, match="n_samples=3, n_clusters=6"):
        SemanticKMeans(6).fit(np.eye(3))


def test_fewer_distinct_rows_than_clusters_warns():
    with pytest.warns(ConvergenceWarning, match="2 of 3 clusters"):
        labels = SemanticKMeans(3).fit_predict(np.repeat(np.eye(2), 4, axis=0))
    assert sorted(set(labels.tolist())) == [0, 1]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_bad_row_is_named(bad):
    X = np.eye(8)
    X[5, 2] = bad
    with pytest.raises(DataError, match="row 5"):
        SemanticKMeans(2).fit(X)
    with pytest.raises(DataError, match="row 5"):
        SemanticKMeans(2).fit(np.eye(8)).predict(X)


@pytest.mark.parametrize(
    "change",
    [{"n_clusters": 0}, {"n_clusters": "six"}, {"n_init": 0}, {"max_iter": 1.5}, {"method": "fast"}, {"n_jobs": 0}],
)
def test_bad_parameters_are_named(change):
    with pytest.raises(ParameterError, match=next(iter(change))):
        SemanticKMeans(**change).fit(np.eye(8))


def test_choice_of_k_prefers_the_truth():
    X, _ = blobs(400, spread=0.35, k=5, seed=2)
    table = choose_n_clusters(X, candidates=range(2, 9), sample=300)
    assert list(table.columns) == ["n_clusters", "silhouette", "stability", "inertia"]
    assert table["n_clusters"].tolist() == list(range(2, 9))
    assert table.loc[table["silhouette"].idxmax(), "n_clusters"] == 5
    at5 = table.set_index("n_clusters").loc[5]
    assert at5["stability"] == pytest.approx(1)
    assert (np.diff(table["inertia"]) < 0).all()
    pd.testing.assert_frame_equal(table, choose_n_clusters(X, candidates=range(2, 9), sample=300))


def test_choice_of_k_refuses_what_it_cannot_measure():
    with pytest.raises(ParameterError, match="8 clusters on 8 rows"):
        choose_n_clusters(np.eye(8), candidates=[2, 8])
    with pytest.raises(ParameterError, match="n_seeds"):
        choose_n_clusters(np.eye(8), candidates=[2], n_seeds=1)


def test_tables_over_tasks():
    labels, tasks = np.array([0, 0, 0, 1, 1]), ["qa", "qa", "exam", "news", "news"]
    table = cluster_task_table(labels, tasks)
    assert table.index.name == "cluster" and table.columns.tolist() == ["exam", "news", "qa"]
    assert table.to_numpy().tolist() == [[1, 0, 2], [0, 2, 0]]
    agreement = cluster_task_agreement(labels, tasks)
    assert agreement["purity"] == pytest.approx(0.8)
    assert 0 < agreement["nmi"] < 1
    assert cluster_task_agreement([0] * 4, ["a", "b", "a", "b"]) == {"nmi": 0.0, "purity": 0.5}
    assert cluster_task_agreement(labels, pd.Series(tasks, dtype="string")) == agreement
    with pytest.raises(DataError, match="pair up"):
        cluster_task_table([0, 1], ["qa"])


def test_task_centroids():
    X, truth = blobs()
    names, centroids = task_centroids(X, [f"task {t}" for t in truth])
    assert names == ["task 0", "task 1", "task 2", "task 3"]
    mean = X[truth == 2].mean(axis=0)
    assert np.allclose(centroids[2], mean / np.linalg.norm(mean), atol=1e-6)
    with pytest.raises(DataError, match="pair up"):
        task_centroids(X, ["qa"])
    with pytest.raises(DataError, match="no direction"):
        task_centroids(np.array([[1, 0], [-1, 0]]), ["qa", "qa"])
