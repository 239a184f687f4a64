"""ranks.py: ranks among records that are alike."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from assl_kit.errors import DataError, ParameterError
from assl_kit.model.ranks import rank_within


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(-5, 5), st.integers(0, 3)), min_size=1, max_size=40))
def test_ranks_keep_the_order_within_each_group(pairs):
    values, groups = np.array([p[0] for p in pairs], float), np.array([p[1] for p in pairs])
    scores = rank_within(values, groups)
    assert scores.min() >= 0 and scores.max() <= 1
    np.testing.assert_allclose(rank_within(np.exp(values), groups), scores)  # only the order counts
    for group in np.unique(groups):
        mine, own = scores[groups == group], values[groups == group]
        assert np.isclose(mine.mean(), 0.5)
        for i in range(len(own)):
            for j in range(len(own)):
                assert np.sign(own[i] - own[j]) == np.sign(mine[i] - mine[j])


def test_ranks_are_within_all_keys_and_the_hardest_are_cut():
    rng = np.random.default_rng(0)
    values, task, answer = rng.normal(size=200), rng.integers(0, 3, 200), rng.choice(["yes", "no"], 200)
    values[::50] = np.nan
    ranks = rank_within(values, task, answer, tail=0.1)
    for key, rows in pd.DataFrame({"t": task, "a": answer}).groupby(["t", "a"]).indices.items():
        there = rows[~np.isnan(values[rows])]
        cut = int(0.1 * len(there) + 1e-9)
        hardest = there[np.argsort(values[there])][len(there) - cut :]
        assert np.isnan(ranks[hardest]).all() and np.isnan(ranks[rows]).sum() == cut + np.isnan(values[rows]).sum(), key
        assert np.nanmin(ranks[rows]) == 0 and np.nanmax(ranks[rows]) == 1
    assert rank_within([2, 2, 2]).tolist() == [0.5] * 3
    assert rank_within([1.0, 5.0], [None, None]).tolist() == [0, 1]
    assert len(rank_within([])) == 0


def test_bad_scores_are_named():
    for arguments in ({"tail": 1}, {"tail": -0.1}, {"tail": True}):
        with pytest.raises(ParameterError, match="tail"):
            rank_within([1, 2], **arguments)
    with pytest.raises(DataError, match="row 1"):
        rank_within([1, np.inf])
    with pytest.raises(DataError, match="do not go together"):
        rank_within([1, 2], ["a"])
