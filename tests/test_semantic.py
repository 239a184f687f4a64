"""Spherical k-means and the tables over it."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.estimator_checks import parametrize_with_checks

from assl_kit.errors import DataError, ParameterError
from assl_kit.semantic import (
    SemanticKMeans,
    choose_n_clusters,
    cluster_task_agreement,
    cluster_task_table,
    task_centroids,
)


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


@pytest.mark.parametrize("change", [{"n_clusters": 0}, {"n_clusters": "six"}, {"n_init": 0}, {"max_iter": 1.5}])
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
