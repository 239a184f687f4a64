"""Groups and cells: budgets in two levels, curves, copies, exclusion; MMR's terms on one scale; the paper's preset."""

from __future__ import annotations

import hashlib

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_redistribute import CLUSTERS0, X0, space

from assl_kit.errors import DataError, ParameterError
from assl_kit.selection.adbscan import ADBSCAN
from assl_kit.selection.budgets import cluster_budgets
from assl_kit.selection.mmr import mmr_select
from assl_kit.selection.redistribute import Redistributor


def tasks_of(clusters, seed=0):
    """Tasks that cut across the clusters, with a rare one."""
    rng = np.random.default_rng(seed)
    return np.where(rng.random(len(clusters)) < 0.05, "rare", np.where(clusters == 0, "large", "small"))


def test_groups_share_first_and_cells_by_size():
    X, clusters = space(400)
    groups = tasks_of(clusters)
    chosen = Redistributor(budget_power=0).fit_select(X, clusters, 60, groups=groups)
    sizes = pd.Series(groups).value_counts()
    by_group = chosen.cells["budget"].groupby(level="group").sum()
    assert by_group.tolist() == cluster_budgets(sizes.sort_index().to_numpy(), 60, 0).tolist()
    for name, cells in chosen.cells.groupby(level="group"):
        assert np.array_equal(cells["budget"], cluster_budgets(cells["n"].to_numpy(), int(by_group[name])))
    for (group, cluster), part in chosen.table.groupby(["group", "cluster"]):
        assert (groups[part["row"]] == group).all() and (clusters[part["row"]] == cluster).all()
        assert part["rank"].tolist() == list(range(len(part)))
        assert part["copies"].sum() == chosen.cells.loc[(group, cluster), "budget"]
    assert np.array_equal(
        chosen.pool.groupby(["group", "cluster"])["weight"].sum(), chosen.cells["n"][chosen.cells["budget"] > 0]
    )
    summary = chosen.summary("group")
    assert summary["budget"].tolist() == by_group.tolist() and summary["n"].sum() == 400
    assert chosen.summary()["budget"].tolist() == chosen.budgets.tolist()
    with pytest.raises(ParameterError, match="'task'"):
        chosen.summary("task")


def test_each_cell_is_the_kernels_work():
    X, clusters = space(300, seed=2)
    groups = tasks_of(clusters)
    model = Redistributor(min_samples=5, pool_factor=2, weights=(0.2, 0, 0.8), scale="raw")
    chosen = model.fit_select(X, clusters, 60, groups=groups)
    for (group, cluster), budget in chosen.cells["budget"].items():
        rows = np.flatnonzero((groups == group) & (clusters == cluster))
        kept = (
            ADBSCAN(min_samples=5, flattening=0)
            .fit(X[rows])
            .thin(min(2 * budget, len(rows)), max_repeat=1, repeat_share=0)
        )
        centroid = X[clusters == cluster].astype(np.float64).mean(axis=0)
        pool = rows[kept.indices]
        picks = mmr_select(X[pool], budget, centroid=centroid, weights=(0.2, 0, 0.8))
        mine = chosen.table[(chosen.table["group"] == group) & (chosen.table["cluster"] == cluster)]
        assert np.array_equal(mine["row"], pool[picks])


def curves_of(groups):
    names = sorted(set(groups))
    return pd.DataFrame({"a": 1.0, "b": np.arange(1, len(names) + 1), "c": 0.4}, index=names)


@given(
    seed=st.integers(0, 1000),
    n=st.integers(30, 150),
    share=st.floats(0, 1.2),
    budget=st.sampled_from(["power", "curve"]),
    power=st.sampled_from([0, 0.25, 1]),
    noise=st.sampled_from(["thin", "drop"]),
    factor=st.sampled_from([1, 2]),
    max_repeat=st.integers(1, 2),
    missing=st.booleans(),
)
@settings(max_examples=40, deadline=None)
def test_with_groups_size_is_exact_and_order_does_not_matter(
    seed, n, share, budget, power, noise, factor, max_repeat, missing
):
    X, clusters = space(n, seed=seed, duplicates=0.2)
    rng = np.random.default_rng(seed)
    groups = tasks_of(clusters, seed).astype(object)
    if missing:
        groups[rng.random(n) < 0.1] = None
    ids = np.array([f"id-{i}" for i in rng.permutation(n)])
    order, wanted, scores = rng.permutation(n), round(share * n), rng.random(n)
    scores[rng.random(n) < 0.05] = np.nan
    model = Redistributor(
        budget=budget, budget_power=power, noise=noise, pool_factor=factor, max_repeat=max_repeat, min_samples=4
    )
    curves = curves_of(["" if g is None else g for g in groups])
    try:
        first = model.fit_select(X, clusters, wanted, groups=groups, scores=scores, ids=ids, curves=curves)
    except ParameterError as error:
        assert "can be given" in str(error) or "some would get nothing" in str(error)
        return
    again = {"groups": groups[order], "scores": scores[order], "ids": ids[order], "curves": curves.iloc[::-1]}
    second = model.set_params(n_jobs=2).fit_select(X[order], clusters[order], wanted, **again)
    pd.testing.assert_frame_equal(first.table.drop(columns="row"), second.table.drop(columns="row"))
    pd.testing.assert_frame_equal(first.cells, second.cells)
    assert first.repeats.sum() == wanted == first.cells["budget"].sum() == first.budgets.sum()
    assert first.repeats.max(initial=1) <= max_repeat
    assert first.excluded == np.isnan(scores).sum() and not np.isnan(scores[first.indices]).any()
    if wanted:
        found = set(first.table["group"])
        able = {"" if g is None else g for g, s in zip(groups, scores, strict=True) if not np.isnan(s)}
        assert noise == "drop" or found == able  # none is left with nothing


def test_a_group_of_one_record_is_chosen():
    X, clusters = space(200)
    groups = np.full(200, "many", dtype=object)
    groups[17] = "one"
    for budget in ("power", "curve"):
        model = Redistributor(budget=budget, budget_power=1)
        chosen = model.fit_select(X, clusters, 20, groups=groups, curves=curves_of(groups))
        assert 17 in chosen.indices and chosen.repeats.sum() == 20


def test_curves_decide_and_their_objective_too():
    X, clusters = space(400)
    groups = tasks_of(clusters)
    flat = pd.DataFrame({"a": 0.5, "b": [0.0, 1.0, 0.0], "c": 0.5}, index=["large", "rare", "small"])
    chosen = Redistributor(budget="curve").fit_select(X, clusters, 40, groups=groups, curves=flat)
    rare = (groups == "rare").sum()
    assert chosen.summary("group")["budget"]["rare"] == min(rare, 38)
    alike = flat.assign(b=1.0)
    even = Redistributor(budget="curve").fit_select(X, clusters, 40, groups=groups, curves=alike)
    large = Redistributor(budget="curve", objective="records").fit_select(X, clusters, 40, groups=groups, curves=alike)
    assert sorted(even.summary("group")["budget"]) == [13, 13, 14]
    assert large.summary("group")["budget"]["large"] > 13 > large.summary("group")["budget"]["rare"]
    own = {"large": 0, "rare": 0, "small": 1}
    small = Redistributor(budget="curve", objective=own).fit_select(X, clusters, 40, groups=groups, curves=alike)
    assert small.summary("group")["budget"].tolist() == [1, 1, 38] or small.summary("group")["budget"]["small"] == 40


def test_a_group_that_wants_more_than_it_has_is_repeated():
    X, clusters = space(300)
    groups = tasks_of(clusters)
    few = (groups == "rare").sum()
    once = Redistributor(budget_power=0).fit_select(X, clusters, 90, groups=groups)
    assert once.repeats.max() == 1 and once.summary("group")["budget"]["rare"] == few < 30
    twice = Redistributor(budget_power=0, max_repeat=2, min_samples=2).fit_select(X, clusters, 90, groups=groups)
    summary = twice.summary("group")
    assert summary["copies"]["large"] == summary["copies"]["small"] == 0
    assert summary["distinct"]["rare"] == few and summary["copies"]["rare"] == summary["budget"]["rare"] - few > 0


def test_excluded_records_are_left_out_and_counted():
    X, clusters = space(200)
    out = np.zeros(200, bool)
    out[::3] = True
    chosen = Redistributor().fit_select(X, clusters, 20, exclude=out)
    assert not out[chosen.indices].any() and chosen.excluded == out.sum()
    assert chosen.cells["n"].sum() == 200 - out.sum() and chosen.sizes.sum() == 200
    assert chosen.pool["weight"].sum() == 200 - out.sum()
    scores = np.where(out, np.nan, 0.5)
    same = Redistributor().fit_select(X, clusters, 20, scores=scores)
    assert np.array_equal(same.indices, chosen.indices) and same.excluded == out.sum()
    model = Redistributor(pool_factor=2)
    pool = model.pool(X, clusters, 20)
    late = model.select(X, clusters, pool, 20, scores=scores)
    assert not out[late.indices].any() and late.repeats.sum() == 20
    assert late.excluded == out[pool["row"]].sum()
    tight = Redistributor()
    with pytest.raises(ParameterError, match="can be given"):
        tight.select(X, clusters, tight.pool(X, clusters, 20), 20, scores=scores)


# Terms on one scale, and the paper's preset ---------------------------------------------------------------------------
def test_a_weight_is_what_it_says():
    X, clusters = space(600, seed=3)
    scores = np.random.default_rng(33).random(len(X))
    hard = {}
    for scale in ("raw", "spread"):
        model = Redistributor(pool_factor=3, weights=(0.4, 0.2, 0.4), scale=scale)
        chosen = model.fit_select(X, clusters, 60, scores=scores)
        hard[scale] = chosen.table["score"].mean()
        assert (chosen.cells["score_spread"] > 2 * chosen.cells["relevance_spread"]).all()
    assert hard["raw"] > hard["spread"] + 0.02 > 0.5
    same = Redistributor(pool_factor=3, weights=(0.4, 0.2, 0.4)).fit_select(X, clusters, 60, scores=scores)
    stretched = Redistributor(pool_factor=3, weights=(0.4, 0.2, 0.4)).fit_select(X, clusters, 60, scores=scores / 10)
    assert np.array_equal(same.indices, stretched.indices)


def test_without_a_score_its_weight_goes_to_the_others():
    X, clusters = space(300, seed=4)
    with_weight = Redistributor(pool_factor=3, weights=(0.4, 0.2, 0.4)).fit_select(X, clusters, 30)
    without = Redistributor(pool_factor=3, weights=(0.5, 0, 0.5)).fit_select(X, clusters, 30)
    assert np.array_equal(with_weight.indices, without.indices)


def test_the_papers_preset_is_what_it_was():
    """Digests of what `Redistributor()` chose before there were groups and spreads."""
    was = {
        0: "6f2e306c34aee3bf171317cd6e5419d03d39c10ba4f1f9ea88366ef4e2f22dcc",
        1: "3c3923c1be058660873f1b88286f20b55a5f4275ca14a81c6cfbc722fd655cd1",
        2: "b17592311c3c5c4010018b17050f0757088d8e49c1471f85f77bebd7305d9191",
    }
    for seed, digest in was.items():
        X, clusters = space(600, d=24, k=5, seed=seed, duplicates=0.1)
        scores = np.random.default_rng(seed).random(600)
        table = Redistributor.paper().fit_select(X, clusters, 90, scores=scores).table
        found = hashlib.sha256()
        for name in ("row", "cluster", "label", "weight", "rank", "copies"):
            found.update(table[name].to_numpy(np.int64).tobytes())
        for name in ("core_distance", "radius", "relevance", "score", "max_similarity"):
            found.update(table[name].to_numpy(np.float64).round(9).tobytes())
        assert found.hexdigest() == digest
    assert Redistributor.paper(max_repeat=1).get_params()["max_repeat"] == 1


@pytest.mark.parametrize(
    ("change", "curves", "error", "words"),
    [
        ({}, None, ParameterError, "needs curves"),
        ({}, pd.DataFrame({"a": [1.0], "b": [1.0]}, index=["x"]), DataError, "no column 'c'"),
        (
            {},
            pd.DataFrame({"a": [1.0], "b": [1.0], "c": [1.0]}, index=["x"]),
            ParameterError,
            "'y' has no learning curve",
        ),
        ({"objective": "tasks"}, None, ParameterError, "curves"),
        ({"objective": {"x": 1}}, "both", ParameterError, "differ in 'y'"),
    ],
)
def test_bad_curves_are_named(change, curves, error, words):
    groups = np.array(["x", "y"] * 30)
    curves = curves_of(groups) if isinstance(curves, str) else curves
    with pytest.raises(error, match=words):
        Redistributor(budget="curve", **change).fit_select(X0, CLUSTERS0, 12, groups=groups, curves=curves)
