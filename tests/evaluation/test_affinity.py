"""What training on one task does for another, and whether distance explains it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr

from assl_kit.errors import ParameterError
from assl_kit.evaluation.affinity import affinity_vs_distance, task_affinity


def test_affinity_is_the_relative_fall_of_the_loss():
    out = task_affinity([2.0, 1.0], [[1.0, 1.1], [2.0, 0.5]], ["a", "b"])
    np.testing.assert_allclose(out.to_numpy(), [[0.5, -0.1], [0.0, 0.5]])
    assert out.index.name == "trained on" and out.columns.tolist() == ["a", "b"]
    for base, after in (([1.0], [[1.0, 2.0]]), ([0.0, 1.0], np.ones((2, 2))), ([1.0, np.nan], np.ones((2, 2)))):
        with pytest.raises(ParameterError):
            task_affinity(base, after)


@settings(max_examples=20, deadline=None)
@given(st.integers(3, 6), st.integers(0, 50))
def test_rank_correlation_is_that_of_scipy_and_the_p_value_counts(t, seed):
    rng = np.random.default_rng(seed)
    affinity, points = rng.normal(size=(t, t)), rng.normal(size=(t, 2))
    distances = np.linalg.norm(points[:, None] - points[None], axis=2)
    off = ~np.eye(t, dtype=bool)
    out = affinity_vs_distance(affinity, distances)
    assert out.rho == pytest.approx(spearmanr(affinity[off], distances[off]).statistic, abs=1e-9)
    assert 0 < out.p_value <= 1 and out.n_pairs == t * (t - 1)
    order = rng.permutation(t)
    same = affinity_vs_distance(affinity[np.ix_(order, order)], distances[np.ix_(order, order)])
    assert (same.rho, same.p_value) == pytest.approx((out.rho, out.p_value)), "the order of tasks does not matter"


def test_a_planted_relation_is_found_and_noise_is_not():
    rng = np.random.default_rng(5)
    points = rng.normal(size=(9, 3))
    distances = np.linalg.norm(points[:, None] - points[None], axis=2)
    planted = affinity_vs_distance(-distances + rng.normal(scale=0.1, size=(9, 9)), distances, n_permutations=999)
    assert planted.rho < -0.9 and planted.n_permutations == 999
    assert planted.p_value == 1 / 1000, "no drawn order is as extreme; the data's own counts"
    p_values = [affinity_vs_distance(rng.normal(size=(9, 9)), distances, n_permutations=199).p_value for _ in range(20)]
    assert np.median(p_values) > 0.15
    assert np.isnan(affinity_vs_distance(np.ones((3, 3)), distances[:3, :3]).rho)
    with pytest.raises(ParameterError, match="three or more tasks"):
        affinity_vs_distance(np.eye(2), np.eye(2))
