"""The router: nearest centroid, margin, abstention, expert centroids, bad input."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from assl_kit.errors import DataError, ParameterError
from assl_kit.experts.router import CentroidRouter, expert_centroids, least_usual_similarity


def unit(n, d, seed=0):
    X = np.random.default_rng(seed).normal(size=(n, d))
    return (X / np.linalg.norm(X, axis=1, keepdims=True)).astype(np.float32)


def test_route_is_the_plain_argmax_of_cosines():
    C, E = unit(6, 16, 1), unit(300, 16, 2)
    routes = CentroidRouter(C).route(E)
    cosine = E.astype(float) @ C.T.astype(float)
    assert (routes.experts == cosine.argmax(1)).all()
    assert routes.experts.dtype == np.int64 and routes.similarities.shape == (300, 6)
    ordered = np.sort(cosine, axis=1)
    np.testing.assert_allclose(routes.similarity, ordered[:, -1], atol=1e-6)
    np.testing.assert_allclose(routes.margin, ordered[:, -1] - ordered[:, -2], atol=1e-6)
    assert len(routes) == 300


def test_below_min_similarity_the_base_answers_alone():
    C = np.eye(3)
    E = np.array([[1, 0, 0], [1, 1, 1], [-1, -1, -1]], dtype=float)
    router = CentroidRouter(C, min_similarity=0.9)
    assert router.route(E).experts.tolist() == [0, -1, -1]
    assert router.route(E, min_similarity=-1.0).experts.tolist() == [0, 0, 0]
    assert router.route(E, min_similarity=0).experts.tolist() == [0, 0, -1]
    half_known = [router.route(E[:1], known=[0.5], min_similarity=floor).experts[0] for floor in (0.5, 0.5001)]
    assert half_known == [0, -1], "at the bound it is near enough"
    assert router.route(E).similarity[1] == pytest.approx(3**-0.5)


def test_ties_go_to_the_lower_number_in_any_batch():
    C = unit(8, 33, 3)
    C[5] = C[2]
    E = np.vstack([C[2][None], unit(50, 33, 4)])
    routes = CentroidRouter(C).route(E)
    assert 5 not in routes.experts and routes.experts[0] == 2 and routes.margin[0] == 0
    alone = np.concatenate([CentroidRouter(C).route(row[None]).experts for row in E])
    assert (alone == routes.experts).all()


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 7), st.integers(2, 9), st.integers(0, 9999), st.floats(0.1, 1000))
def test_length_of_a_question_does_not_matter(k, d, seed, scale):
    E = unit(20, d, seed)
    router = CentroidRouter(unit(k, d, seed + 1))
    a, b = router.route(E), router.route(E.astype(float) * scale)
    np.testing.assert_allclose(a.similarities, b.similarities, atol=1e-6)
    assert (a.margin >= 0).all()


def test_one_expert_and_no_question():
    assert np.isinf(CentroidRouter([[1.0, 0]]).route([[0, 1.0]]).margin).all()
    routes = CentroidRouter(np.eye(3)).route(np.zeros((0, 3)))
    assert len(routes) == 0 and routes.similarities.shape == (0, 3)


def test_bad_rows_are_named():
    router = CentroidRouter(np.eye(3))
    E = np.ones((4, 3))
    E[2, 1] = np.nan
    with pytest.raises(DataError, match="row 2"):
        router.route(E)
    E[2] = 0
    with pytest.raises(DataError, match="row 2"):
        router.route(E)
    with pytest.raises(DataError, match="5 dimensions, the centroids in 3"):
        router.route(np.ones((2, 5)))
    with pytest.raises(DataError, match="two dimensions"):
        router.route(np.ones(3))
    with pytest.raises(DataError, match="not an array of numbers"):
        router.route([["a", "b", "c"]])
    with pytest.raises(DataError, match="centroids.*row 1"):
        CentroidRouter([[1, 0], [0, 0]])
    for bad in (2, "0.5", True, float("nan")):
        with pytest.raises(ParameterError, match="min_similarity"):
            CentroidRouter(np.eye(2), min_similarity=bad)
    with pytest.raises(ParameterError, match="names"):
        CentroidRouter(np.eye(2), names=["a"])


def test_expert_centroids_weigh_repeats():
    X = unit(40, 5, 7)
    clusters = np.arange(40) % 4
    repeats = np.where(np.arange(40) < 10, 2, 1)
    expected = expert_centroids(np.repeat(X, repeats, axis=0), np.repeat(clusters, repeats))
    got = expert_centroids(X, clusters, repeats, n_clusters=4)
    np.testing.assert_allclose(got, expected, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(got, axis=1), 1, atol=1e-6)
    one = X[clusters == 1]
    mean = (one * repeats[clusters == 1][:, None]).sum(0)
    np.testing.assert_allclose(got[1], mean / np.linalg.norm(mean), atol=1e-6)


def test_expert_centroids_refuse_what_has_no_centroid():
    with pytest.raises(DataError, match="cluster 2 has no record"):
        expert_centroids(np.eye(2), [0, 1], n_clusters=3)
    with pytest.raises(DataError, match="cancel out"):
        expert_centroids([[1, 0], [-1, 0]], [0, 0])
    with pytest.raises(DataError, match="row 1"):
        expert_centroids([[1, 0], [0, 0]], [0, 0])
    with pytest.raises(DataError, match="from 0"):
        expert_centroids(np.eye(2), [0, -1])
    with pytest.raises(DataError, match="2 rows"):
        expert_centroids(np.eye(2), [0])
    with pytest.raises(DataError, match="does not fit"):
        expert_centroids(np.eye(2), [0, 5], n_clusters=2)


def test_mixtures_are_softmax_shares_in_twentieths():
    rng = np.random.default_rng(0)
    router = CentroidRouter(rng.normal(size=(6, 8)))
    routes = router.route(rng.normal(size=(200, 8)), min_similarity=0.2)
    for top_k in (1, 2, 6):
        found = routes.mixtures(top_k, temperature=0.2)
        for expert, similarities, mixture in zip(routes.experts, routes.similarities, found, strict=True):
            if expert < 0:
                assert mixture == ()
                continue
            order = np.argsort(-similarities)[:top_k]
            shares = np.exp(similarities[order] / 0.2) / np.exp(similarities[order] / 0.2).sum()
            assert mixture[0][0] == expert and len(mixture) <= top_k
            assert abs(sum(share for _, share in mixture) - 1) < 1e-12
            assert all(round(20 * share) == pytest.approx(20 * share) and share > 0 for _, share in mixture)
            kept = dict(mixture)
            assert all(abs(kept.get(int(e), 0) - share) < 0.05 for e, share in zip(order, shares, strict=True))
    assert {len(m) for m in routes.mixtures(2)} == {0, 1, 2}, "a clear question keeps one expert"
    assert CentroidRouter(np.eye(41)).route(np.ones((1, 41))).mixtures(41)[0] == tuple((k, 0.05) for k in range(20))
    assert routes.mixtures(1) == [((int(k), 1.0),) if k >= 0 else () for k in routes.experts]


@pytest.mark.parametrize("wrong", [{"top_k": 0}, {"top_k": 3}, {"top_k": 1.5}, {"top_k": 2, "temperature": 0}])
def test_mixtures_refuse_numbers_out_of_range(wrong):
    routes = CentroidRouter(np.eye(2)).route(np.eye(2))
    with pytest.raises(ParameterError, match="top_k|temperature"):
        routes.mixtures(**wrong)


def test_unknown_words_are_no_evidence():
    router = CentroidRouter(np.eye(3), min_similarity=0.1)
    E = np.array([[1.0, 0, 0], [1.0, 0, 0], [0.6, 0.8, 0]])
    routes = router.route(E, known=[1, 0, 0.5])
    assert routes.experts.tolist() == [0, -1, 1]
    np.testing.assert_allclose(routes.similarity, [1, 0, 0.4], atol=1e-6)
    np.testing.assert_allclose(routes.margin, [1, 0, 0.1], atol=1e-6)
    for bad in ([1, 1], [1, 1, 2], [1, np.nan, 1], [-0.1, 1, 1]):
        with pytest.raises(DataError, match="known must be 3 numbers from 0 to 1"):
            router.route(E, known=bad)


def test_the_least_usual_similarity_leaves_each_row_out_of_its_centroid():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 5)) + np.repeat(3 * np.eye(3, 5), 20, axis=0)
    X /= np.linalg.norm(X, axis=1, keepdims=True)
    clusters, copies = np.repeat(np.arange(3), 20), rng.integers(1, 4, 60)
    nearest = []
    for row in range(60):
        rest = np.arange(60) != row
        nearest.append((expert_centroids(X[rest], clusters[rest], copies[rest], 3) @ X[row]).max())
    for share in (0.05, 0.2, 1.0):
        expected = min(np.quantile(nearest, share), np.median(nearest) / 2)
        value = least_usual_similarity(X, clusters, copies, 3, share=share)
        assert value == pytest.approx(expected, abs=2e-3) and value <= expected + 1e-6
    assert least_usual_similarity(X, clusters, copies, 3, known=np.zeros(60)) == 0.001
    assert least_usual_similarity(np.eye(3), np.arange(3)) == 0.001  # alone in its cluster, a row is like nothing
