"""The two stages: exact sizes, reasons for each record, and no dependence on the order of the rows."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from assl_kit.errors import DataError, ParameterError
from assl_kit.selection.adbscan import ADBSCAN
from assl_kit.selection.budgets import cluster_budgets, with_every_cluster
from assl_kit.selection.mmr import mmr_select
from assl_kit.selection.redistribute import Redistributor
from assl_kit.selection.table import POOL_COLUMNS, TABLE_COLUMNS, Selection
from assl_kit.space import points


def space(n=400, d=8, k=3, seed=0, duplicates=0.0):
    """Unit rows with dense and sparse regions in each cluster, and the clusters."""
    rng = np.random.default_rng(seed)
    clusters = rng.choice(k, n, p=np.arange(k, 0, -1) / (k * (k + 1) / 2))
    spread = np.where(rng.random(n) < 0.6, 0.05, 0.5)[:, None]
    X = 2 * np.eye(d)[clusters] + spread * rng.normal(size=(n, d))
    copies = np.flatnonzero(rng.random(n) < duplicates)
    for c in range(k):
        mine, there = copies[clusters[copies] == c], np.flatnonzero(clusters == c)
        X[mine] = X[rng.choice(there, len(mine))]
    return (X / np.linalg.norm(X, axis=1, keepdims=True)).astype(np.float32), clusters


# Budgets -------------------------------------------------------------------------------------------------------------
@given(
    sizes=st.lists(st.integers(0, 500), min_size=1, max_size=12),
    power=st.sampled_from([0, 0.3, 0.5, 1, 1.0, 2]),
    share=st.floats(0, 1),
)
@settings(max_examples=200, deadline=None)
def test_budgets_sum_exactly_and_fit(sizes, power, share):
    wanted = round(share * sum(sizes))
    budgets = cluster_budgets(sizes, wanted, power)
    assert budgets.sum() == wanted
    assert (budgets >= 0).all() and (budgets <= sizes).all()
    check_largest_remainder(quotas(sizes, wanted, power), sizes, budgets)


@given(sizes=st.lists(st.integers(1, 500), min_size=1, max_size=12), share=st.floats(0, 1))
@settings(max_examples=100, deadline=None)
def test_proportional_budgets_are_those_of_largest_remainder(sizes, share):
    wanted = round(share * sum(sizes))
    quota = [Fraction(size * wanted, sum(sizes)) for size in sizes]
    check_largest_remainder(quota, sizes, cluster_budgets(sizes, wanted))


def quotas(sizes, wanted, power):
    """Shares by size ** power, in fractions; what a full cluster cannot take goes to the others."""
    weights = [Fraction(float(size) ** power) if size else Fraction(0) for size in sizes]
    full = {k for k, size in enumerate(sizes) if not size}
    while True:
        left, total = wanted - sum(sizes[k] for k in full), sum(w for k, w in enumerate(weights) if k not in full)
        shares = [Fraction(sizes[k]) if k in full else weights[k] * left / total for k in range(len(sizes))]
        over = {k for k in range(len(sizes)) if shares[k] > sizes[k]}
        if not over:
            return shares
        full |= over


def check_largest_remainder(shares, sizes, budgets):
    """Each gets the whole part of its share; what is left goes, one each, to the largest remainders."""
    whole = [math.floor(share + Fraction(1, 10**7)) for share in shares]
    more = [int(budget) - part for budget, part in zip(budgets, whole, strict=True)]
    assert set(more) <= {0, 1}
    rests = [float(share - part) for share, part in zip(shares, whole, strict=True)]
    raised = [rest for rest, one in zip(rests, more, strict=True) if one]
    left = [rest for rest, one, part, size in zip(rests, more, whole, sizes, strict=True) if not one and part < size]
    assert min(raised, default=1) >= max(left, default=0) - 1e-7


def test_budgets_by_hand():
    assert cluster_budgets([70, 16, 14], 10).tolist() == [7, 2, 1]
    assert cluster_budgets([5, 5, 5, 1], 8).tolist() == [3, 3, 2, 0], "equal remainders: the earlier ones"
    assert cluster_budgets([50, 30, 20], 10).tolist() == [5, 3, 2]
    assert cluster_budgets([1, 1, 1], 2).tolist() == [1, 1, 0]
    assert cluster_budgets([7, 2, 2], 10).tolist() == [6, 2, 2]  # 6.36, 1.82, 1.82: the largest remainders get the rest
    assert cluster_budgets([100, 25], 60, 0.5).tolist() == [40, 20]
    assert cluster_budgets([100, 10], 60, 0).tolist() == [50, 10]
    assert cluster_budgets([10, 10], 25, capacities=[20, 10]).tolist() == [15, 10]
    assert cluster_budgets([0, 5], 3, 0).tolist() == [0, 3]
    assert cluster_budgets([10, 10], 8, capacities=[0, 10]).tolist() == [0, 8]
    for bad in [([5], 6), ([5], -1), ([5], 1.5), ([5], True), ([-5], 1), ([1.5], 1), ([5], 1, -1), ([5], 1, "a")]:
        with pytest.raises(ParameterError):
            cluster_budgets(*bad)


# The stages ----------------------------------------------------------------------------------------------------------
def test_everything_adds_up():
    X, clusters = space()
    rng = np.random.default_rng(0)
    scores = rng.random(len(X))
    chosen = Redistributor.paper().fit_select(X, clusters, 60, scores=scores)
    assert isinstance(chosen, Selection)
    assert chosen.repeats.sum() == 60 and chosen.repeats.max() == 2
    assert len(set(chosen.indices.tolist())) == len(chosen.indices)
    table, pool = chosen.table, chosen.pool
    assert tuple(table.columns) == TABLE_COLUMNS and tuple(pool.columns) == POOL_COLUMNS
    assert np.array_equal(table["row"], chosen.indices) and np.array_equal(table["copies"], chosen.repeats)
    assert np.array_equal(table["score"], scores[chosen.indices])
    assert set(chosen.indices) <= set(pool["row"])
    assert pool["row"].is_monotonic_increasing
    sizes = np.bincount(clusters)
    assert np.array_equal(chosen.budgets, cluster_budgets(sizes, 60))
    assert np.array_equal(pool.groupby("cluster")["weight"].sum(), sizes)
    assert np.array_equal(pool.groupby("cluster").size(), np.minimum(3 * chosen.budgets, sizes))
    for name, group in table.groupby("cluster"):
        budget = chosen.budgets[name]
        assert (clusters[group["row"]] == name).all()
        assert group["rank"].tolist() == list(range(len(group)))
        assert group["copies"].sum() == budget
        assert len(group) == budget - int(0.1 * budget)
        sparse = group[group["label"] >= 0].sort_values("core_distance", ascending=False)
        assert (group["copies"][sparse.index[: int(0.1 * budget)]] == 2).all()


def test_each_stage_is_the_kernels_work():
    X, clusters = space(300, seed=2)
    redistributor = Redistributor.paper(min_samples=5, repeat_share=0)
    chosen = redistributor.fit_select(X, clusters, 45)
    for name, budget in chosen.budgets.items():
        rows = np.flatnonzero(clusters == name)
        model = ADBSCAN(min_samples=5).fit(X[rows])
        kept = model.thin(3 * budget, max_repeat=1, repeat_share=0)
        pool = chosen.pool[chosen.pool["cluster"] == name]
        assert np.array_equal(pool["row"], rows[kept.indices])
        assert np.array_equal(pool["label"], model.labels_[kept.indices])
        assert np.allclose(pool["core_distance"], model.core_distances_[kept.indices])
        centroid = X[rows].astype(np.float64).mean(axis=0)
        picks = mmr_select(X[pool["row"]], budget, centroid=centroid)
        assert np.array_equal(chosen.table.loc[chosen.table["cluster"] == name, "row"], pool["row"].to_numpy()[picks])


@given(
    seed=st.integers(0, 1000),
    n=st.integers(30, 160),
    share=st.floats(0, 1),
    duplicates=st.sampled_from([0.0, 0.3]),
    noise=st.sampled_from(["thin", "keep"]),
    power=st.sampled_from([1.0, 0.4]),
    max_repeat=st.integers(1, 3),
)
@settings(max_examples=25, deadline=None)
def test_permuting_rows_gives_the_same_ids(seed, n, share, duplicates, noise, power, max_repeat):
    X, clusters = space(n, seed=seed, duplicates=duplicates)
    rng = np.random.default_rng(seed)
    ids = np.array([f"id-{i}" for i in rng.permutation(n)])
    scores, order, wanted = rng.random(n), rng.permutation(n), round(share * n)
    model = Redistributor.paper(noise=noise, budget_power=power, max_repeat=max_repeat, min_samples=6)
    first = model.fit_select(X, clusters, wanted, scores=scores, ids=ids)
    second = model.fit_select(X[order], clusters[order], wanted, scores=scores[order], ids=ids[order])
    assert first.repeats.sum() == wanted
    assert first.repeats.max(initial=1) <= max_repeat
    assert np.array_equal(ids[first.indices], first.table["id"])
    pd.testing.assert_frame_equal(first.table.drop(columns="row"), second.table.drop(columns="row"))
    pools = [s.pool.drop(columns="row").sort_values("id", ignore_index=True) for s in (first, second)]
    pd.testing.assert_frame_equal(*pools)


@given(
    seed=st.integers(0, 1000),
    n=st.integers(12, 120),
    share=st.floats(0, 1),
    power=st.sampled_from([1.0, 0.3, 0]),
    factor=st.sampled_from([1, 1.5, 3]),
    repeat_share=st.sampled_from([0, 0.1, 0.5, 1]),
    noise=st.sampled_from(["thin", "keep", "drop"]),
)
@settings(max_examples=40, deadline=None)
def test_the_size_is_exact_or_refused(seed, n, share, power, factor, repeat_share, noise):
    X, clusters = space(n, k=4, seed=seed)
    wanted = round(share * 1.2 * n)
    model = Redistributor(
        budget_power=power, pool_factor=factor, repeat_share=repeat_share, noise=noise, min_samples=4, max_repeat=2
    )
    try:
        chosen = model.fit_select(X, clusters, wanted)
    except ParameterError as error:
        assert "can be given" in str(error)
        assert noise == "drop" or wanted > n
        return
    assert chosen.repeats.sum() == wanted == chosen.budgets.sum()
    if wanted:
        assert np.array_equal(chosen.table.groupby("cluster")["copies"].sum(), chosen.budgets[chosen.budgets > 0])
    assert (chosen.table["copies"][chosen.table["label"] < 0] == 1).all()
    if noise == "drop":
        assert (chosen.table["label"] >= 0).all()


def test_scores_by_row_or_by_pool_are_the_same():
    X, clusters = space(seed=4)
    scores = np.random.default_rng(4).random(len(X))
    model = Redistributor.paper()
    pool = model.pool(X, clusters, 50)
    by_row = model.select(X, clusters, pool, 50, scores=scores)
    only_pool = np.where(np.isin(np.arange(len(X)), pool["row"]), scores, np.nan)
    by_pool = model.select(X, clusters, pool, 50, scores=scores[pool["row"]])
    for other in (by_pool, model.select(X, clusters, pool, 50, scores=only_pool)):
        pd.testing.assert_frame_equal(by_row.table, other.table)
    assert by_row.indices.tolist() != model.select(X, clusters, pool, 50).indices.tolist()


def test_pool_read_back_without_rows(tmp_path):
    X, clusters = space(seed=5)
    ids = np.array([f"r{i:04d}" for i in range(len(X))])[::-1]
    model = Redistributor.paper()
    pool = model.pool(X, clusters, 50, ids=ids)
    pool.drop(columns="row").sample(frac=1, random_state=0).to_parquet(tmp_path / "pool.parquet")
    again = model.select(X, clusters, pd.read_parquet(tmp_path / "pool.parquet"), 50, ids=ids)
    pd.testing.assert_frame_equal(model.select(X, clusters, pool, 50, ids=ids).table, again.table)


def test_own_centroids_and_threads():
    X, clusters = space(seed=6)
    means = np.stack([X[clusters == c].mean(axis=0) for c in range(3)])
    plain = Redistributor.paper().fit_select(X, clusters, 50)
    given_means = Redistributor.paper().fit_select(X, clusters, 50, centroids=means)
    assert plain.indices.tolist() == given_means.indices.tolist()
    threaded = Redistributor.paper(n_jobs=2).fit_select(X, clusters, 50)
    pd.testing.assert_frame_equal(plain.table, threaded.table)
    turned = Redistributor.paper(weights=(1, 0, 0)).fit_select(X, clusters, 50, centroids=np.roll(means, 1, axis=0))
    assert turned.table["relevance"].mean() < plain.table["relevance"].mean()


def test_thinning_raises_the_sparse_region():
    X, clusters = space(1200, seed=7)
    kappa = np.zeros(len(X))
    for c in range(3):
        kappa[clusters == c] = ADBSCAN().fit(X[clusters == c]).core_distances_
    sparse = kappa > np.median(kappa)
    chosen = Redistributor.paper().fit_select(X, clusters, 120)
    assert sparse[chosen.indices].mean() > 0.6


def test_small_clusters_are_raised_and_overflow_moves_on():
    X, clusters = space(300, seed=8)
    clusters = np.where(clusters == 2, 1, clusters)
    clusters[:4] = 2
    even = Redistributor.paper(budget_power=0, max_repeat=1).fit_select(X, clusters, 60)
    assert even.budgets.tolist() == [28, 28, 4]
    with_copies = Redistributor.paper(budget_power=0, min_samples=2, repeat_share=0.5).fit_select(X, clusters, 60)
    assert with_copies.repeats.sum() == 60 and 4 <= with_copies.budgets[2] <= 8


def test_nothing_and_everything():
    X, clusters = space(120, seed=9)
    none = Redistributor.paper().fit_select(X, clusters, 0)
    assert len(none.table) == len(none.pool) == 0 and tuple(none.table.columns) == TABLE_COLUMNS
    assert none.budgets.tolist() == [0, 0, 0] and none.summary()["n"].sum() == 120
    everything = Redistributor.paper(max_repeat=1).fit_select(X, clusters, 120)
    assert sorted(everything.indices.tolist()) == list(range(120))
    assert (everything.table["weight"] == 1).all()


def test_summary_and_kept_by():
    X, clusters = space(seed=10)
    chosen = Redistributor.paper().fit_select(X, clusters, 60)
    summary = chosen.summary()
    assert summary.index.name == "cluster"
    assert np.array_equal(summary["n"], np.bincount(clusters))
    assert np.array_equal(summary["distinct"] + summary["copies"], summary["budget"])
    assert summary["budget"].sum() == 60 and (summary["pool"] >= summary["distinct"]).all()
    noise = chosen.table[chosen.table["label"] == -1]["cluster"].value_counts()
    assert summary["noise"].to_dict() == {cluster: noise.get(cluster, 0) for cluster in range(3)}
    assert 0 < noise.sum() < (chosen.table["label"] <= 0).sum()
    assert summary["mean_weight"].iloc[0] == pytest.approx(chosen.table.query("cluster == 0")["weight"].mean())
    sources = pd.Series(np.where(np.arange(len(X)) % 4 == 0, "rare", "common"), name="source")
    kept = chosen.kept_by(sources)
    assert kept.index.tolist() == ["common", "rare"] and kept.index.name == "source"
    assert kept["available"].tolist() == [300, 100]
    assert kept["kept"].sum() == len(chosen.indices) and kept["with_copies"].sum() == 60
    assert kept.loc["rare", "kept"] == (chosen.indices % 4 == 0).sum()
    assert kept.loc["rare", "share"] == pytest.approx((chosen.indices % 4 == 0).sum() / 100)
    assert kept.loc["common", "share"] == pytest.approx((chosen.indices % 4 != 0).sum() / 300)
    assert kept.loc["common", "kept"] < kept.loc["common", "with_copies"]
    with pytest.raises(DataError, match="400 rows"):
        chosen.kept_by(["a"])


# Bad input -----------------------------------------------------------------------------------------------------------
def spoiled(X, row, value):
    X = X.copy()
    X[row] = value
    return X


X0, CLUSTERS0 = space(60, seed=11)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"X": spoiled(X0, 7, np.nan)}, DataError, "row 7"),
        ({"X": spoiled(X0, 8, 0)}, DataError, "row 8"),
        ({"clusters": np.where(np.arange(60) == 5, -1, CLUSTERS0)}, DataError, "row 5"),
        ({"clusters": np.where(np.arange(60) == 5, np.nan, CLUSTERS0)}, DataError, "row 5"),
        ({"clusters": np.where(np.arange(60) == 5, 0.5, CLUSTERS0)}, DataError, "row 5"),
        ({"clusters": ["a"] * 60}, DataError, "not numbers"),
        ({"clusters": CLUSTERS0[:-1]}, DataError, "60 rows"),
        ({"n_select": 500}, ParameterError, "can be given"),
        ({"n_select": -1}, ParameterError, "-1"),
        ({"n_select": "abc"}, ParameterError, "abc"),
        ({"scores": np.full(60, 2.0)}, DataError, "not in"),
        ({"scores": np.zeros(59)}, ParameterError, "60 rows"),
        ({"ids": ["same"] * 60}, DataError, "twice"),
        ({"ids": ["a", "b"]}, DataError, "60 rows"),
        ({"groups": ["a"] * 59}, DataError, "60 rows"),
        ({"groups": [f"g{i}" for i in range(60)]}, ParameterError, "some would get nothing"),
        ({"exclude": np.zeros(60)}, DataError, "exclude"),
        ({"exclude": np.ones(60, bool)}, ParameterError, "can be given"),
        ({"n_select": 61}, ParameterError, "at most 60 can be given"),
        ({"centroids": np.eye(8)[:1]}, DataError, "unknown"),
        ({"centroids": np.ones((61, 8))}, DataError, "fewer records"),
        ({"centroids": np.ones((3, 7))}, ParameterError, "7 columns"),
        ({"centroids": np.full((3, 8), np.nan)}, DataError, "centroids"),
    ],
)
def test_bad_data_is_named(change, error, words):
    arguments = {"X": X0, "clusters": CLUSTERS0, "n_select": 12} | change
    with pytest.raises(error, match=words):
        Redistributor().fit_select(**arguments)


@pytest.mark.parametrize(
    "change",
    [
        {"pool_factor": 0.5},
        {"repeat_share": 1.5},
        {"max_repeat": 0},
        {"budget_power": -1},
        {"weights": (1, 1, 1)},
        {"min_samples": 0},
        {"flattening": 2},
        {"noise": "gone"},
        {"budget": "even"},
        {"scale": "rank"},
        {"eps": -1},
    ],
)
def test_bad_parameters_are_named(change):
    name = next(iter(change))
    with pytest.raises(ParameterError, match=name):
        Redistributor(**change).fit_select(X0, CLUSTERS0, 12)


def test_a_pool_of_other_rows_is_refused():
    model = Redistributor()
    pool = model.pool(X0, CLUSTERS0, 12)
    wrong = [
        pool.assign(row=pool["row"] + 1000),
        pool.assign(cluster=(pool["cluster"] + 1) % 3),
        pd.concat([pool, pool]),
    ]
    for other in wrong:
        with pytest.raises(DataError, match="does not belong"):
            model.select(X0, CLUSTERS0, other, 12)
    with pytest.raises(DataError, match="no column 'label'"):
        model.select(X0, CLUSTERS0, pool.drop(columns="label"), 12)
    with pytest.raises(DataError, match="does not belong"):
        model.select(X0, CLUSTERS0, pool.drop(columns="row"), 12, ids=[f"x{i}" for i in range(60)])
    with pytest.raises(ParameterError, match="can be given"):
        model.select(X0, CLUSTERS0, pool, 73)


def test_threads_blocks_and_input_types_do_not_matter(tmp_path, monkeypatch):
    X, clusters = space(600, d=40, duplicates=0.2)
    mapped = np.lib.format.open_memmap(tmp_path / "x.npy", mode="w+", dtype=np.float32, shape=X.shape)
    mapped[:] = X
    expected = Redistributor(n_jobs=1).fit_select(X, clusters, 70).table
    for name, value in [("BLOCK", 40), ("LEAST_ROWS", 1), ("LEAST_COLUMNS", 1), ("CELL", 16)]:
        monkeypatch.setattr(points, name, value)
    for other, n_jobs in [(mapped, 3), (np.asfortranarray(X), 2), (X.astype(np.float64), None)]:
        pd.testing.assert_frame_equal(Redistributor(n_jobs=n_jobs).fit_select(other, clusters, 70).table, expected)


def test_a_cluster_never_gets_the_last_record_of_another():
    asked = {"clusters": [0, 1, 2], "groups": ["a", "b", "a"], "capacities": [5, 5, 5]}
    assert with_every_cluster(np.array([1, 2, 0]), **asked).tolist() == [1, 1, 1]  # though 0 is of its group
    assert with_every_cluster(np.array([1, 1, 0]), **asked).tolist() == [1, 1, 0], "none has one to spare"
    assert with_every_cluster(np.array([3, 2, 0]), **asked).tolist() == [2, 2, 1], "its own group gives first"


def test_every_cluster_gets_a_record_where_that_is_asked_for():
    rng = np.random.default_rng(0)
    clusters = np.repeat([0, 1, 2, 3], [60, 30, 4, 1])
    X = np.eye(8)[clusters] + 0.1 * rng.normal(size=(95, 8))
    X /= np.linalg.norm(X, axis=1, keepdims=True)
    groups = np.where(np.arange(95) % 2, "qa", "sentiment")
    plain = Redistributor().fit_select(X, clusters, 6, groups=groups)
    every = Redistributor(every_cluster=True).fit_select(X, clusters, 6, groups=groups)
    assert (plain.budgets == 0).any() and (every.budgets >= 1).all()
    assert every.budgets.sum() == 6 and set(every.table["group"]) == {"qa", "sentiment"}
    enough = Redistributor().fit_select(X, clusters, 95, groups=groups)
    same = Redistributor(every_cluster=True).fit_select(X, clusters, 95, groups=groups)
    assert enough.table.equals(same.table)


def test_tied_rows_of_a_pool_are_picked_by_id_in_any_order_of_rows():
    ids = np.array(list("hjkabcdefilg"))
    X, clusters = np.tile(np.float32([[0.6, 0.8]]), (12, 1)), np.zeros(12, int)
    for order in (np.arange(12), np.arange(12)[::-1], np.random.default_rng(0).permutation(12)):
        chosen = Redistributor(pool_factor=2).fit_select(X[order], clusters, 3, ids=ids[order])
        assert sorted(chosen.pool["id"]) == list("abcdef") and chosen.table["id"].tolist() == list("abc")


def test_a_pool_of_parts_is_rounded_up():
    X, clusters = space(60, k=1)
    assert len(Redistributor(pool_factor=1.5).fit_select(X, clusters, 5).pool) == 8  # 7.5
