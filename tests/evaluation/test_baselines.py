"""Baselines of selection, stability, multiple choice by likelihood: each against a plain reckoning."""

from __future__ import annotations

import numpy as np
import pytest

from assl_kit.errors import DataError, ParameterError
from assl_kit.evaluation.baselines import k_center, k_means_medoids, random_rows
from assl_kit.evaluation.stability import bootstrap_stability, jaccard


@pytest.fixture(scope="module")
def blobs():
    rng = np.random.default_rng(0)
    return rng.normal(scale=0.05, size=(120, 4)) + 3 * np.eye(4)[np.repeat(np.arange(4), 30)]


def test_random_rows_are_seeded_distinct_and_of_the_size():
    a = random_rows(1000, 100, seed=1)
    assert len(set(a)) == 100 and a.tolist() == sorted(a) and a.max() < 1000
    assert np.array_equal(a, random_rows(1000, 100, seed=1)) and not np.array_equal(a, random_rows(1000, 100, seed=2))


def test_medoids_of_separate_blobs_are_one_row_of_each(blobs):
    chosen = k_means_medoids(blobs, 4, seed=0)
    assert sorted(chosen // 30) == [0, 1, 2, 3]
    for row in chosen:
        own = blobs[row // 30 * 30 : row // 30 * 30 + 30]
        distances = np.linalg.norm(own - own.mean(axis=0), axis=1)
        assert row % 30 == distances.argmin()


def test_medoids_fill_up_where_rows_are_equal():
    assert k_means_medoids(np.ones((6, 2)), 4, seed=0).tolist() == sorted(set(k_means_medoids(np.ones((6, 2)), 4)))
    assert len(k_means_medoids(np.ones((6, 2)), 4)) == 4


def test_k_center_takes_the_farthest_row_each_time(blobs):
    chosen = k_center(blobs, 12, seed=3)
    assert len(set(chosen)) == 12 and sorted(set(chosen[:4] // 30)) == [0, 1, 2, 3]
    for i in range(1, 12):
        to_chosen = np.linalg.norm(blobs[:, None] - blobs[chosen[:i]][None], axis=2).min(axis=1)
        assert to_chosen[chosen[i]] == pytest.approx(to_chosen.max())


def test_k_center_takes_copies_last():
    chosen = k_center([[0.0], [0.0], [5.0], [5.0]], 4)
    assert sorted(chosen) == [0, 1, 2, 3] and abs(chosen[0] // 2 - chosen[1] // 2) == 1


@pytest.mark.parametrize("select", [k_center, k_means_medoids])
def test_sizes_and_rows_are_checked(select, blobs):
    assert len(select(blobs, 0)) == 0
    for wrong in (-1, 121, 1.5, True):
        with pytest.raises(ParameterError, match="from 0 to 120"):
            select(blobs, wrong)
    with pytest.raises(DataError, match="row 1"):
        select([[0.0, 1.0], [np.nan, 0.0]], 1)


def test_jaccard_ignores_repeats_and_knows_the_empty_set():
    assert jaccard([1, 1, 2], [2, 3]) == pytest.approx(1 / 3)
    assert jaccard([], []) == 1.0 and jaccard([1], []) == 0.0


def test_stability_tells_a_fixed_choice_from_a_random_one():
    fixed = bootstrap_stability(lambda rows: rows[rows % 7 == 0], 2000, n_draws=3)
    rng = np.random.default_rng(0)
    drawn = bootstrap_stability(lambda rows: rng.permutation(rows)[: len(rows) // 10], 2000, n_draws=3)
    assert (fixed == 1).all() and (abs(drawn - 0.053) < 0.04).all()
    with pytest.raises(ParameterError, match="share"):
        bootstrap_stability(lambda rows: rows, 10, share=0)


def test_medoids_are_those_of_their_seed():
    X = np.random.default_rng(1).normal(size=(200, 3))
    one, same, other = (k_means_medoids(X, 12, seed=seed).tolist() for seed in (3, 3, 4))
    assert one == same != other
