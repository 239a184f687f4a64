"""Cells cut into parts: near rows together, none too large, budgets of cells as before, no dependence on the order."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from test_redistribute import space

from assl_kit.artifacts.parameters import resolve
from assl_kit.errors import ParameterError
from assl_kit.selection import cells
from assl_kit.selection.adbscan import ADBSCAN
from assl_kit.selection.budgets import cluster_budgets
from assl_kit.selection.cells import cut_rows
from assl_kit.selection.mmr import mmr_select
from assl_kit.selection.redistribute import LEAST_PART, Redistributor


def blobs(sizes, d=12, spread=0.1, seed=0):
    """Unit rows around as many axes, in random order, and the axis of each."""
    rng = np.random.default_rng(seed)
    axis = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    X = np.eye(d)[axis] + spread * rng.normal(size=(len(axis), d)) / np.sqrt(d)
    return (X / np.linalg.norm(X, axis=1, keepdims=True)).astype(np.float32), axis


def same(a, b):
    for name in ("table", "pool", "cells"):
        pd.testing.assert_frame_equal(getattr(a, name), getattr(b, name), check_exact=True)


# cutting -------------------------------------------------------------------------------------------------------------
def test_parts_are_blobs_where_there_are_some():
    X, axis = blobs([200, 190, 210, 180])
    numbers = cut_rows(X, np.arange(len(X)), 220)
    assert len(np.unique(numbers)) == 4
    assert pd.Series(axis).groupby(numbers).nunique().tolist() == [1, 1, 1, 1]


def test_no_part_is_too_large_and_none_of_a_few_strays(monkeypatch):
    monkeypatch.setattr(cells, "AT_ONCE", 4)  # so that parts are cut again
    X, _ = blobs([900, 5, 60, 35], spread=0.6)
    numbers = cut_rows(X, np.arange(len(X)), 50)
    sizes = np.bincount(numbers)
    assert sizes.max() <= 50 and sizes.min() >= 2 and len(sizes) < 60


def test_rows_that_cannot_be_told_apart_stay_together():
    X, _ = blobs([100, 100])
    X[:150] = X[0]
    numbers = cut_rows(X, np.arange(200), 20)
    assert len(np.unique(numbers[:150])) == 1
    assert np.bincount(numbers).max() == 150 and np.bincount(numbers[150:]).max() <= 20
    assert set(cut_rows(np.repeat(X[:1], 60, axis=0), np.arange(60), 10)) == {0}


def test_a_sample_and_blocks_give_what_all_rows_would(monkeypatch):
    X, axis = blobs([400, 380, 420], spread=0.05)
    whole = cut_rows(X, np.arange(1200), 450)
    monkeypatch.setattr(cells, "SAMPLE", 90)
    monkeypatch.setattr(cells, "BLOCK", 100)
    sampled = cut_rows(X, np.arange(1200), 450, n_jobs=2)
    assert len(pd.Series(whole).groupby(axis).unique().explode()) == 3
    assert len(set(zip(whole, sampled, strict=True))) == 3


# the two stages ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("grouped", [False, True])
def test_nothing_changes_where_no_cell_is_too_large(grouped):
    X, clusters = space(300, duplicates=0.1)
    groups = np.where(np.arange(300) % 3 == 0, "a", "b") if grouped else None
    plain = Redistributor(pool_factor=2).fit_select(X, clusters, 60, groups=groups)
    same(Redistributor(pool_factor=2, cell_rows=300).fit_select(X, clusters, 60, groups=groups), plain)


def test_each_part_is_the_kernels_work():
    X, axis = blobs([150, 140, 160, 120, 110], spread=0.3)
    clusters = axis // 3  # cluster 0 has three blobs, cluster 1 has two
    scores = np.random.default_rng(1).random(len(X))
    settings = {"pool_factor": 2, "scale": "raw", "weights": (0.2, 0.2, 0.6)}
    chosen = Redistributor(cell_rows=170, **settings).fit_select(X, clusters, 80, scores=scores)
    whole = Redistributor(**settings).fit_select(X, clusters, 80, scores=scores)
    assert chosen.budgets.tolist() == whole.budgets.tolist() and chosen.cells["n"].equals(whole.cells["n"])
    for cluster in (0, 1):
        rows = np.flatnonzero(clusters == cluster)
        numbers = cut_rows(X, rows, 170)
        sizes = np.bincount(numbers)
        assert sizes.max() <= 170 and len(sizes) == (3, 2)[cluster]
        budgets = cluster_budgets(sizes, int(chosen.budgets[cluster]))
        centroid = X[rows].astype(np.float64).mean(axis=0)
        picked = []
        for part, budget in enumerate(budgets):
            mine = rows[numbers == part]
            kept = ADBSCAN(flattening=0).fit(X[mine]).thin(2 * int(budget), max_repeat=1, repeat_share=0)
            pool = mine[kept.indices]
            options = {"centroid": centroid, "scores": scores[pool], "weights": settings["weights"]}
            picked += pool[mmr_select(X[pool], int(budget), **options)].tolist()
        assert chosen.table["row"][chosen.table["cluster"] == cluster].tolist() == picked
        pool = chosen.pool[chosen.pool["cluster"] == cluster]
        assert set(pool["row"]) >= set(picked) and pool["weight"].sum() == len(rows)


def test_labels_are_of_one_part_only():
    X, clusters = blobs([150, 140, 160, 120])
    chosen = Redistributor(cell_rows=170).fit_select(X, np.zeros(len(X), int), 60)
    numbers = cut_rows(X, np.arange(len(X)), 170)
    labelled = chosen.pool[chosen.pool["label"] >= 0]
    assert pd.Series(numbers[labelled["row"]]).groupby(labelled["label"].to_numpy()).nunique().max() == 1
    assert labelled["label"].nunique() >= 4


@pytest.mark.parametrize("noise", ["thin", "drop"])
def test_the_order_of_rows_and_threads_change_nothing(noise):
    X, clusters = space(500, duplicates=0.1, seed=4)
    ids, groups = np.arange(500).astype(str), np.where(np.arange(500) % 4 == 0, "a", "b")
    settings = {"cell_rows": 100, "noise": noise, "max_repeat": 2, "repeat_share": 0.2, "every_cluster": True}
    mixed = np.random.default_rng(0).permutation(500)
    tables = []
    for order, n_jobs in ((np.arange(500), 1), (mixed, 2)):
        work = Redistributor(**settings, n_jobs=n_jobs)
        inputs = {"groups": groups[order], "ids": ids[order]}
        pool = work.pool(X[order], clusters[order], 120, **inputs).drop(columns="row")
        chosen = work.select(X[order], clusters[order], pool, 120, **inputs)
        same(work.fit_select(X[order], clusters[order], 120, **inputs), chosen)
        assert chosen.repeats.sum() == 120 and (chosen.cells["budget"] > 0).all()
        tables.append(chosen.table.drop(columns="row"))
    pd.testing.assert_frame_equal(*tables, check_exact=True)


def test_spreads_of_a_cut_cell_are_means_of_its_parts():
    X, axis = blobs([200, 200], spread=0.4)
    whole = Redistributor(pool_factor=3).fit_select(X, axis, 40)
    cut = Redistributor(pool_factor=3, cell_rows=220).fit_select(X, np.zeros(400, int), 40)
    assert cut.cells["n"].tolist() == [400] and cut.cells["budget"].tolist() == [40]
    assert cut.cells["diversity_spread"].iloc[0] == pytest.approx(whole.cells["diversity_spread"].mean(), rel=1e-6)


def test_parts_that_would_be_noise_are_refused():
    X, clusters = space(100)
    for value, message in ((20, "cell_rows is 20. Give at least 50, or 0"), (-1, "at least 0"), (1.5, "whole number")):
        with pytest.raises(ParameterError, match=message):
            Redistributor(cell_rows=value, min_samples=5).pool(X, clusters, 10)
    with pytest.raises(ParameterError, match=rf"cell_rows must be 0 or at least {LEAST_PART * 10} "):
        resolve("tiny", cell_rows=LEAST_PART * 10 - 1)
    assert resolve("tiny", cell_rows=LEAST_PART * 10).cell_rows == 100
