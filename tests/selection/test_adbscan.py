"""A-DBSCAN: every property of the method, and thinning against a plain O(n²) loop."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import DBSCAN
from sklearn.exceptions import NotFittedError
from sklearn.utils.estimator_checks import parametrize_with_checks
from threadpoolctl import threadpool_limits

from assl_kit.errors import DataError, ParameterError
from assl_kit.selection import thinning
from assl_kit.selection.adbscan import ADBSCAN
from assl_kit.space import points
from assl_kit.space import torch_points as device_points

SETTINGS = settings(max_examples=40, deadline=None)
SLACK = 1 + 1.1e-6


@parametrize_with_checks([ADBSCAN(), ADBSCAN(min_samples=3, link_flattening=1.0, noise="drop", n_jobs=2)])
def test_sklearn_conventions(estimator, check):
    check(estimator)


def blobs(seed, n=200, d=3, k=4, duplicates=0.0):
    """Blobs of different spread, some rows far from all, some rows equal."""
    rng = np.random.default_rng(seed)
    label = rng.integers(0, k, n)
    X = rng.normal(size=(k, d))[label] * 6 + rng.normal(size=(n, d)) * np.geomspace(0.05, 1.0, k)[label][:, None]
    far = rng.random(n) < 0.04
    X[far] = rng.normal(size=(far.sum(), d)) * 15
    again = rng.random(n) < duplicates
    X[again] = X[rng.integers(0, n, again.sum())]
    return X.astype(np.float32)


@st.composite
def cases(draw, duplicates=True):
    """Rows and a fitted model over them."""
    X = blobs(
        draw(st.integers(0, 2**32 - 1)),
        n=draw(st.integers(1, 150)),
        d=draw(st.sampled_from([1, 2, 8])),
        k=draw(st.integers(1, 5)),
        duplicates=draw(st.sampled_from([0.0, 0.3])) if duplicates else 0.0,
    )
    model = ADBSCAN(
        min_samples=draw(st.integers(1, 12)),
        flattening=draw(st.sampled_from([0.0, 0.5, 1.0])),
        link_flattening=draw(st.sampled_from([0.5, 0.75, 1.0])),
        noise=draw(st.sampled_from(["thin", "drop", "keep"])),
    )
    return X, model.fit(X)


def squared_distances(X):
    X = X.astype(np.float64)
    return ((X[:, None] - X[None]) ** 2).sum(-1)


# --- the same in the plainest form --------------------------------------------------------------------------------


def plain_fit(X, m, beta, eps=None):
    D = np.sqrt(squared_distances(X))
    n = len(X)
    kappa = np.sort(D, axis=1)[:, min(m, n) - 1]
    eps = np.quantile(kappa, 0.9) if eps is None else eps
    radius = eps**beta * kappa ** (1 - beta)
    core = (kappa <= eps * (1 + 1e-6)) & (n >= m)
    within = np.minimum(radius[:, None], radius[None]) * (1 + 1e-6) >= D
    labels, number = np.full(n, -1), 0
    for i in np.flatnonzero(core):
        if labels[i] >= 0:
            continue
        stack = [i]
        labels[i] = number
        while stack:
            for j in np.flatnonzero(within[stack.pop()] & core & (labels < 0)):
                labels[j] = number
                stack.append(j)
        number += 1
    joined = labels.copy()
    for i in np.flatnonzero(~core):
        fits = [j for j in np.flatnonzero(core) if within[i, j]]
        if fits:
            joined[i] = labels[min(fits, key=lambda j: (D[i, j], j))]
    return kappa, eps, radius, np.flatnonzero(core), joined


def plain_greedy(D, rows, label, kappa, radius, scale):
    """Visit rows by ascending κ; keep one unless a kept one of its label lies within scale · min(radius)."""
    kept = []
    for i in sorted(rows, key=lambda i: (kappa[i], i)):
        reach = [0.0 if min(radius[i], radius[j]) == 0 else scale * min(radius[i], radius[j]) for j in kept]
        if not any(label[i] == label[j] and D[i, j] <= r * (1 + 1e-6) for j, r in zip(kept, reach, strict=True)):
            kept.append(i)
    return kept


def plain_scale(size, wanted):
    """A scale that leaves enough rows, where one a millionth larger does not: doubled or halved, then bisected."""
    if size(np.inf) >= wanted:
        return np.inf
    step = 0
    while size(2.0**step) >= wanted:
        step += 1
    while step > -332 and size(2.0 ** (step - 1)) < wanted:  # 1e-100
        step -= 1
    if step == -332:
        return 0.0
    enough, too_much = 2.0 ** (step - 1), 2.0**step
    while too_much / enough > 1 + 1e-6:
        half = (enough * too_much) ** 0.5
        if size(half) < wanted:
            too_much = half
        else:
            enough = half
    return enough


def plain_pool(D, label, kappa, radius, wanted):
    """Pool of exactly ``wanted`` distinct rows, noise thinned as one more label."""
    rows = range(len(label))
    scale = plain_scale(lambda s: len(plain_greedy(D, rows, label, kappa, radius, s)), wanted)
    kept = plain_greedy(D, rows, label, kappa, radius, scale)
    sizes = {i: int((label == label[i]).sum()) for i in kept}
    while len(kept) > wanted:
        ratio = {}
        for i in kept:
            near = [D[i, j] for j in kept if j != i and label[j] == label[i]]
            if near:
                ratio[i] = min(near) / radius[i] if radius[i] else np.inf
        kept.remove(min(ratio, key=lambda i: (ratio[i], -i)) if ratio else min(kept, key=lambda i: (sizes[i], -i)))
    return sorted(kept), scale


@SETTINGS
@given(cases())
def test_fit_equals_plain(case):
    X, model = case
    kappa, eps, radius, core, labels = plain_fit(X, model.min_samples, model.link_flattening)
    np.testing.assert_allclose(model.core_distances_, kappa, rtol=1e-12)
    assert model.eps_ == pytest.approx(eps, rel=1e-12)
    np.testing.assert_allclose(model.link_radii_, radius, rtol=1e-9)
    np.testing.assert_allclose(model.radii_, eps**model.flattening * kappa ** (1 - model.flattening), rtol=1e-9)
    np.testing.assert_array_equal(model.core_sample_indices_, core)
    np.testing.assert_array_equal(model.labels_, labels)
    assert model.labels_.dtype == np.int64 and model.n_features_in_ == X.shape[1]


@SETTINGS
@given(cases(duplicates=False), st.floats(0, 1))
def test_pool_equals_plain(case, share):
    X, model = case
    model.set_params(noise="thin")
    wanted = 1 + int(share * (len(X) - 1))
    D = np.sqrt(squared_distances(X))
    kept, scale = plain_pool(D, model.labels_, model.core_distances_, model.radii_, wanted)
    result = model.thin(wanted, repeat_share=0)
    np.testing.assert_array_equal(result.indices, kept)
    if wanted < len(X):
        assert result.scale == pytest.approx(scale, rel=1e-9)


# --- the method's properties --------------------------------------------------------------------------------------


@SETTINGS
@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.booleans())
def test_equals_dbscan_at_link_one(seed, m, given_eps):
    X = blobs(seed)
    model = ADBSCAN(min_samples=m, link_flattening=1.0, eps=0.7 if given_eps else None)
    if m == 1 and not given_eps:
        model.set_params(eps=0.5)  # every core distance is 0
    model.fit(X)
    # the slack makes a distance that equals eps to the last bits count as within on both sides
    other = DBSCAN(eps=model.eps_ * (1 + 1e-6), min_samples=m).fit(X.astype(np.float64))
    core = other.core_sample_indices_
    np.testing.assert_array_equal(model.core_sample_indices_, core)
    np.testing.assert_array_equal(model.labels_[core], other.labels_[core])
    np.testing.assert_array_equal(model.labels_ < 0, other.labels_ < 0)


def test_equals_dbscan_at_link_one_with_eps_as_it_is():
    X = blobs(5, n=700, d=16, k=6)
    model = ADBSCAN(link_flattening=1.0).fit(X)
    other = DBSCAN(eps=model.eps_, min_samples=10).fit(X.astype(np.float64))
    core = other.core_sample_indices_
    assert len(set(other.labels_)) > 3 and (other.labels_ < 0).any()
    np.testing.assert_array_equal(model.core_sample_indices_, core)
    np.testing.assert_array_equal(model.labels_[core], other.labels_[core])
    np.testing.assert_array_equal(model.labels_ < 0, other.labels_ < 0)


@SETTINGS
@given(cases(), st.sampled_from([0.0, 0.3, 0.9]))
def test_core_set_ignores_exponents_and_smaller_ones_refine(case, beta):
    X, model = case
    other = ADBSCAN(model.min_samples, flattening=beta, link_flattening=beta / 2).fit(X)
    np.testing.assert_array_equal(other.core_sample_indices_, model.core_sample_indices_)
    assert other.eps_ == model.eps_
    core = model.core_sample_indices_
    for label in np.unique(other.labels_[core]):
        assert len(np.unique(model.labels_[core][other.labels_[core] == label])) == 1


def same_partition(a, b):
    pairs = set(zip(a.tolist(), b.tolist(), strict=True))
    return len(pairs) == len(set(a.tolist())) == len(set(b.tolist())) and all((x < 0) == (y < 0) for x, y in pairs)


@SETTINGS
@given(cases(duplicates=False), st.integers(0, 2**32 - 1))
def test_permutation_only_renames(case, seed):
    X, model = case
    order = np.random.default_rng(seed).permutation(len(X))
    other = ADBSCAN(**model.get_params()).fit(X[order])
    np.testing.assert_array_equal(other.core_distances_, model.core_distances_[order])
    assert same_partition(model.labels_[order], other.labels_)
    wanted = (len(X) + 2) // 3
    if model.noise == "drop" and wanted > (model.labels_ >= 0).sum():
        return
    ours, theirs = model.thin(wanted), other.thin(wanted, ids=order)
    np.testing.assert_array_equal(np.sort(order[theirs.indices]), ours.indices)
    np.testing.assert_array_equal(order[theirs.representative], ours.representative[order])
    assert sorted(theirs.repeats) == sorted(ours.repeats)


@SETTINGS
@given(cases(), st.sampled_from([2.0**-40, 0.25, 1024.0]))
def test_scale(case, factor):
    X, model = case
    other = ADBSCAN(**model.get_params()).fit(X * np.float32(factor))
    np.testing.assert_allclose(other.radii_, model.radii_ * factor, rtol=1e-9)
    assert other.eps_ == pytest.approx(model.eps_ * factor, rel=1e-12)
    np.testing.assert_array_equal(other.labels_, model.labels_)


def test_rotation_and_shift_keep_labels():
    rng = np.random.default_rng(0)
    X = blobs(3, n=400, d=8)
    turn = np.linalg.qr(rng.normal(size=(8, 8)))[0]
    model = ADBSCAN().fit(X)
    for other in [X.astype(np.float64) @ turn, X.astype(np.float64) + 50]:
        np.testing.assert_array_equal(ADBSCAN().fit(other).labels_, model.labels_)


@SETTINGS
@given(cases(), st.floats(0, 1), st.integers(1, 3), st.sampled_from([0.0, 0.1, 0.6, 1.0]))
def test_thinning(case, share, max_repeat, repeat_share):
    X, model = case
    n, dense = len(X), int((model.labels_ >= 0).sum())
    candidates = dense if model.noise == "drop" else n
    most = candidates + (dense * (max_repeat - 1) if repeat_share else 0)
    wanted = int(share * most)
    result = model.thin(wanted, max_repeat=max_repeat, repeat_share=repeat_share)
    kept, rep = result.indices, result.representative
    assert result.repeats.sum() == wanted and result.weights.sum() == (n if wanted else 0)
    assert (np.diff(kept) > 0).all() and len(rep) == n and len(result.repeats) == len(result.weights) == len(kept)
    if not wanted:
        assert (rep == -1).all()
        return
    assert np.isin(rep, kept).all() and (rep[kept] == kept).all()
    np.testing.assert_array_equal(result.weights, [(rep == i).sum() for i in kept])
    assert result.repeats.min() >= 1 and result.repeats.max() <= max_repeat
    noise = model.labels_[kept] < 0
    assert (result.repeats[noise] == 1).all() and not (noise.any() and model.noise == "drop")
    # repeats go to the largest core distances
    extra, once = kept[result.repeats > 1], kept[(result.repeats == 1) & ~noise]
    if len(extra) and len(once):
        assert model.core_distances_[extra].min() >= model.core_distances_[once].max()
    # of exact duplicates one is kept while the pool is smaller than the number of distinct rows
    pool_rows = X[model.labels_ >= 0] if model.noise == "drop" else X
    distinct = len(np.unique(pool_rows + 0.0, axis=0))
    assert len(np.unique(X[kept] + 0.0, axis=0)) == min(len(kept), distinct)
    # packing: no two kept rows of a label closer than the scaled radius
    with np.errstate(invalid="ignore"):
        radius = np.nan_to_num(model.radii_ * result.scale, nan=0.0, posinf=np.inf)
    D = np.sqrt(squared_distances(X))
    same = model.labels_[kept][:, None] == model.labels_[kept][None]
    if model.noise == "keep":
        same &= ~(noise[:, None] | noise[None])
    np.fill_diagonal(same, False)
    if len(kept) < distinct:
        assert (D[np.ix_(kept, kept)][same] > np.minimum.outer(radius[kept], radius[kept])[same]).all()


@SETTINGS
@given(cases(), st.floats(0, 1))
def test_cover(case, share):
    """A dropped row lies within s times the radius of its representative, surplus aside."""
    X, model = case
    model.set_params(noise="thin")
    wanted = 1 + int(share * (len(X) - 1))
    result = model.thin(wanted, repeat_share=0)
    D = np.sqrt(squared_distances(X))
    distinct = np.unique(X + 0.0, axis=0, return_index=True)[1]
    with np.errstate(invalid="ignore"):
        radius = np.nan_to_num(model.radii_ * result.scale, nan=0.0, posinf=np.inf)
    surplus = len(plain_greedy(D, distinct, model.labels_, model.core_distances_, model.radii_, result.scale)) - wanted
    dropped = np.setdiff1d(np.arange(len(X)), result.indices)
    rep = result.representative[dropped]
    inside = np.minimum(radius[dropped], radius[rep]) * SLACK >= D[dropped, rep]
    inside &= model.labels_[dropped] == model.labels_[rep]
    if surplus <= 0:
        assert inside.all()
        visit = np.lexsort((np.arange(len(X)), model.core_distances_))
        turn = np.argsort(visit)  # the row that drops another is visited before it
        for i, j in zip(dropped, rep, strict=True):
            near = np.minimum(radius[i], radius[result.indices]) * SLACK >= D[i, result.indices]
            near &= (model.labels_[result.indices] == model.labels_[i]) & (turn[result.indices] < turn[i])
            assert turn[j] < turn[i] and D[i, j] == pytest.approx(D[i, result.indices[near]].min(), rel=1e-9)
    else:  # where none of its own is left: the nearest of its label, if that has any
        for i, j in zip(dropped[~inside], rep[~inside], strict=True):
            others = result.indices[model.labels_[result.indices] == model.labels_[i]]
            if len(others):
                assert D[i, j] == pytest.approx(D[i, others].min(), rel=1e-9)


@pytest.mark.parametrize("shape", ["gauss", "heavy tail", "two blobs"])
def test_thinning_flattens_density_and_more_so_as_flattening_rises(shape):
    """The spread of log κ, measured within the pool, is below the clusters' and falls as β grows."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(1000, 2))
    if shape == "heavy tail":
        X *= np.exp(rng.normal(size=1000))[:, None]
    elif shape == "two blobs":
        X[:650] = X[:650] * 0.1 + 2
    model = ADBSCAN(link_flattening=1.0, noise="drop").fit(X)
    spreads = [np.std(np.log(model.core_distances_[model.labels_ >= 0]))]
    for beta in [0.25, 0.5, 0.75, 1.0]:
        kept = ADBSCAN(flattening=beta, link_flattening=1.0, noise="drop").fit(X).thin(150, repeat_share=0).indices
        spreads.append(np.std(np.log(ADBSCAN().fit(X[kept]).core_distances_)))
    assert (np.diff(spreads) < 0).all(), spreads
    assert spreads[-1] < 0.6 * spreads[0]


def test_labels_are_numbered_by_first_core_member():
    model = ADBSCAN(min_samples=2, eps=0.5).fit([[9.0], [5.0], [0.0], [5.1], [0.1]])
    np.testing.assert_array_equal(model.labels_, [-1, 0, 1, 0, 1])


def test_result_depends_on_neither_tiles_nor_threads(monkeypatch):
    X = blobs(11, n=700, d=40, duplicates=0.2)
    model = ADBSCAN(n_jobs=1).fit(X)
    result = model.thin(120)
    for block, step, chunk, project, n_jobs in [(33, 50, 8, 10**9, None), (128, 64, 64, 1, 2), (48, 4096, 512, 1, 3)]:
        for module, name, value in [
            (points, "BLOCK", block),
            (points, "LEAST_ROWS", project),
            (points, "LEAST_COLUMNS", 1),
            (points, "CELL", 20),
            (thinning, "STEP", step),
            (thinning, "CHUNK", chunk),
        ]:
            monkeypatch.setattr(module, name, value)
        other = ADBSCAN(n_jobs=n_jobs).fit(X)
        for name in ["labels_", "core_distances_", "radii_", "core_sample_indices_"]:
            np.testing.assert_array_equal(getattr(other, name), getattr(model, name))
        again = other.thin(120)
        for name in ["indices", "repeats", "representative", "weights", "scale"]:
            np.testing.assert_array_equal(getattr(again, name), getattr(result, name))


@pytest.mark.parametrize("noise", ["thin", "drop", "keep"])
def test_noise_policies(noise):
    rng = np.random.default_rng(4)
    X = np.vstack([rng.normal(size=(200, 2)) * 0.1, [[30, 30], [-30, 10], [12, -25], [50, 0]]])
    model = ADBSCAN(noise=noise, eps=0.5).fit(X)
    np.testing.assert_array_equal(np.flatnonzero(model.labels_ < 0), [200, 201, 202, 203])
    result = model.thin(20)
    kept_noise = (result.indices >= 200).sum()
    assert result.weights.sum() == 204 and len(result.indices) == 18
    if noise == "keep":
        assert kept_noise == 4 and model.thin(3, repeat_share=0).indices.min() >= 200
    elif noise == "drop":
        assert kept_noise == 0
        with pytest.raises(ParameterError, match="at most 400"):
            model.thin(401)
    else:
        assert 1 <= kept_noise <= 4


def test_degenerate_sizes():
    one = ADBSCAN().fit([[1.0, 2.0]])
    np.testing.assert_array_equal(one.labels_, [-1])
    assert one.thin(1).indices.tolist() == [0] and one.thin(0).indices.shape == (0,)
    few = ADBSCAN(min_samples=10).fit([[0.0], [1.0], [5.0]])
    np.testing.assert_array_equal(few.labels_, [-1, -1, -1])
    np.testing.assert_array_equal(few.core_distances_, [5, 4, 5])
    assert few.thin(2, repeat_share=1.0).repeats.tolist() == [1, 1]  # noise is never repeated
    with pytest.raises(ParameterError, match="at most 3"):
        few.thin(4)
    equal = ADBSCAN().fit(np.ones((40, 3)))
    assert (equal.labels_ == 0).all() and equal.eps_ == 0
    for wanted in [1, 7, 40, 80]:
        result = equal.thin(wanted)
        assert result.repeats.sum() == wanted and result.weights.sum() == 40
    with pytest.raises(ParameterError, match="at most 80"):
        equal.thin(81)
    with pytest.raises(ParameterError, match="at most 40"):
        equal.thin(41, max_repeat=1)
    with pytest.raises(ParameterError, match="at most 40"):
        equal.thin(41, repeat_share=0)


def test_ids_settle_ties():
    X = np.repeat([[0.0], [1.0]], 3, axis=0)
    model = ADBSCAN(min_samples=2, eps=0.5).fit(X)
    assert model.thin(2, repeat_share=0).indices.tolist() == [0, 3]
    assert model.thin(2, ids=list("fedcba"), repeat_share=0).indices.tolist() == [2, 5]
    for ids, what in [
        (list("abcdea"), "occurs twice"),
        (["a"], "shape"),
        ([1, "a", None, 2, 3, 4], "sorted|type|missing"),
    ]:
        with pytest.raises(DataError, match=what):
            model.thin(2, ids=np.array(ids, dtype=object))


def test_memory_mapped_rows_are_not_copied(tmp_path):
    X = np.lib.format.open_memmap(tmp_path / "x.npy", mode="w+", dtype=np.float32, shape=(120, 3))
    X[:] = blobs(2, n=120) / 20
    model = ADBSCAN().fit(X)
    assert np.shares_memory(model._points.X, X)
    np.testing.assert_array_equal(model.labels_, ADBSCAN().fit(np.array(X, dtype=np.float64)).labels_)


@pytest.mark.parametrize(
    "wrong",
    [
        {"min_samples": 0},
        {"min_samples": 2.5},
        {"min_samples": True},
        {"flattening": 1.5},
        {"flattening": "a"},
        {"link_flattening": -0.1},
        {"link_flattening": float("nan")},
        {"eps": 0},
        {"eps": "abc"},
        {"eps": float("inf")},
        {"noise": "maybe"},
    ],
)
def test_bad_parameters(wrong):
    name, value = next(iter(wrong.items()))
    with pytest.raises(ParameterError, match=f"{name} is {value!r}"):
        ADBSCAN(**wrong).fit(np.eye(4))


@pytest.mark.parametrize(
    "wrong", [{"n_select": -1}, {"n_select": "abc"}, {"n_select": 2.0}, {"max_repeat": 0}, {"repeat_share": 2}]
)
def test_bad_thinning(wrong):
    model = ADBSCAN(min_samples=2).fit(np.eye(4))
    with pytest.raises(ParameterError, match=f"{next(iter(wrong))} is"):
        model.thin(**{"n_select": 1, **wrong})


def test_bad_data():
    with pytest.raises(DataError, match="row 2"):
        ADBSCAN().fit([[0.0], [1.0], [float("nan")]])
    with pytest.raises(NotFittedError):
        ADBSCAN().thin(1)


@pytest.mark.parametrize("d", [1, 4096])
def test_narrow_and_wide_rows(d):
    X = blobs(7, n=150, d=d, duplicates=0.2) / np.float32(np.sqrt(d))
    model = ADBSCAN(min_samples=4, link_flattening=1.0).fit(X)
    other = DBSCAN(eps=model.eps_ * (1 + 1e-6), min_samples=4).fit(X.astype(np.float64))
    np.testing.assert_array_equal(model.core_sample_indices_, other.core_sample_indices_)
    np.testing.assert_array_equal(model.labels_ < 0, other.labels_ < 0)
    result = model.thin(30)
    assert result.repeats.sum() == 30 and result.weights.sum() == 150


def test_any_layout_and_type_of_input(tmp_path):
    X = (blobs(9, n=300, d=6, duplicates=0.2) * 4).round() / 64  # exact in float16
    mapped = np.lib.format.open_memmap(tmp_path / "x.npy", mode="w+", dtype=np.float64, shape=X.shape)
    mapped[:] = X
    wide = np.zeros((600, 12), dtype=np.float32)
    wide[::2, ::2] = X
    model = ADBSCAN().fit(X)
    result = model.thin(60)
    for other in [X.astype(np.float16), X.astype(np.float64), np.asfortranarray(X), wide[::2, ::2], mapped]:
        fitted = ADBSCAN().fit(other)
        np.testing.assert_array_equal(fitted.labels_, model.labels_)
        np.testing.assert_array_equal(fitted.core_distances_, model.core_distances_)
        for name in ["indices", "repeats", "representative", "weights"]:
            np.testing.assert_array_equal(getattr(fitted.thin(60), name), getattr(result, name))


def test_blas_threads_do_not_matter():
    X = blobs(10, n=900, d=150)
    with threadpool_limits(1):
        one = ADBSCAN().fit(X)
    with threadpool_limits(2):
        two = ADBSCAN().fit(X)
    np.testing.assert_array_equal(one.core_distances_, two.core_distances_)
    np.testing.assert_array_equal(one.labels_, two.labels_)
    np.testing.assert_array_equal(one.thin(90).representative, two.thin(90).representative)


def far_blobs():
    return blobs(12, n=400, d=10, duplicates=0.1) + np.float32(30)  # centred for the products


def tied_rows():
    return np.random.default_rng(3).integers(0, 12, size=(500, 2)).astype(np.float32)  # copies, and ties everywhere


@pytest.mark.parametrize(
    "X", [far_blobs(), tied_rows(), np.full((40, 3), 7.25), np.arange(3.0)[:, None], blobs(4, n=700, d=40)]
)
@pytest.mark.parametrize(("entries", "steps"), [(64 * 400, (37, 16)), (2**22, (8192, 4096))])
def test_the_device_path_gives_the_same(X, entries, steps, monkeypatch):
    monkeypatch.setattr(device_points, "ENTRIES", entries)
    monkeypatch.setattr(thinning, "DEVICE_STEP", steps[0])
    monkeypatch.setattr(thinning, "DEVICE_CHUNK", steps[1])
    for noise in ("thin", "keep"):
        model, other = ADBSCAN(min_samples=4, noise=noise).fit(X), ADBSCAN(min_samples=4, noise=noise)
        other.set_params(device="cpu:0").fit(X)  # takes the way of "cuda"
        np.testing.assert_array_equal(other.labels_, model.labels_)
        np.testing.assert_array_equal(other.core_distances_, model.core_distances_)
        for size in (1 + len(X) // 6, 1 + len(X) // 2):
            one, two = (fitted.thin(size) for fitted in (model, other))
            for name in ["indices", "repeats", "representative", "weights", "scale"]:
                np.testing.assert_array_equal(getattr(two, name), getattr(one, name))


def test_surplus_rows_go_where_rows_are_crowded_beside_their_radius():
    """Ten rows 1 apart and ten 10 apart, each kept or dropped by halves at one scale: five of twenty are too many.

    Beside their radii all are as crowded, so the last ids go; by distance alone the first ten would lose them.
    """
    X = np.concatenate([np.arange(10.0), 1000 + 10 * np.arange(10.0)])[:, None]
    model = ADBSCAN(min_samples=2, flattening=0, link_flattening=1).fit(X)
    assert model.radii_.tolist() == [1.0] * 10 + [10.0] * 10 and model.labels_.tolist() == [0] * 10 + [1] * 10
    result = model.thin(15, repeat_share=0)
    assert result.scale == pytest.approx(1, rel=1e-5) and result.indices.tolist() == list(range(15))


def test_the_scale_is_found_to_a_millionth():
    for edge in (3.7, 1e-4, 8e5):
        scale = thinning.largest_scale(lambda s, edge=edge: 10 if s <= edge else 4, 5)
        assert edge * (1 - 1e-6) <= scale <= edge
