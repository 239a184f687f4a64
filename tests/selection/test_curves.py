"""Budgets by learning curves: the greedy division, which nothing beats."""

from __future__ import annotations

from itertools import product

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from assl_kit.errors import ParameterError
from assl_kit.selection.curves import curve_budgets, objective_weights


def value(curves, weights, budgets):
    a, b, c = np.asarray(curves, dtype=float).T
    have = np.maximum(budgets, 1)
    return float((np.asarray(weights) * np.where(np.asarray(budgets) > 0, a - b * have**-c, a - 10 * b - 10)).sum())


curve = st.tuples(st.floats(0, 1), st.floats(0, 2), st.floats(0.05, 2))


@given(
    groups=st.lists(st.tuples(curve, st.integers(0, 7), st.floats(0, 3)), min_size=1, max_size=4), share=st.floats(0, 1)
)
@settings(max_examples=100, deadline=None)
def test_no_division_is_better(groups, share):
    curves, sizes, weights = [g[0] for g in groups], np.array([g[1] for g in groups]), [g[2] for g in groups]
    wanted = round(share * sizes.sum())
    budgets = curve_budgets(curves, sizes, wanted, weights=weights)
    assert budgets.sum() == wanted and (budgets >= 0).all() and (budgets <= sizes).all()
    if (budgets[sizes > 0] == 0).any():
        return  # what nothing is worth is not said by a curve
    others = (b for b in product(*(range(1 if s else 0, s + 1) for s in sizes)) if sum(b) == wanted)
    best = max(value(curves, weights, b) for b in others)
    assert value(curves, weights, budgets) >= best - 1e-9


def test_every_group_gets_one_before_any_gets_two():
    assert curve_budgets([(1, 0.01, 1), (1, 5, 0.1), (1, 5, 0.1)], [9, 9, 9], 3).tolist() == [1, 1, 1]
    assert curve_budgets([(1, 1, 1)] * 3, [9, 9, 9], 2, weights=[1, 2, 3]).tolist() == [0, 1, 1]
    assert curve_budgets([(1, 1, 1)] * 2, [9, 9], 6, weights=[0, 1]).tolist() == [0, 6]
    assert curve_budgets([(1, 0, 1)] * 2, [4, 8], 6).tolist() == [2, 4]  # nothing rises: by size
    # a second record brings 1 − 1/4 or 2.3 (1 − 1/√2) = 0.67; two more would bring 1 − 1/9 or 2.3 (1 − 1/√3) = 0.97
    assert curve_budgets([(1, 1, 2), (1, 2.3, 0.5)], [9, 9], 3).tolist() == [2, 1]


def test_objectives():
    sizes = pd.Series({"a": 30, "b": 10})
    assert objective_weights("groups", sizes).tolist() == [1, 1]
    assert objective_weights("records", sizes).tolist() == [0.75, 0.25]
    assert objective_weights({"b": 2, "a": 1}, sizes).tolist() == [1, 2]
    with pytest.raises(ParameterError, match="'tasks'"):
        objective_weights("tasks", sizes)
    with pytest.raises(ParameterError, match="differ in 'c'"):
        objective_weights({"a": 1, "b": 1, "c": 1}, sizes)


@pytest.mark.parametrize(
    "arguments",
    [
        ([(1, 1)], [5], 1),
        ([(1, -1, 1)], [5], 1),
        ([(1, 1, 0)], [5], 1),
        ([(1, np.nan, 1)], [5], 1),
        ([(1, 1, 1)], [5], 6),
        ([(1, 1, 1)], [5, 5], 2),
    ],
)
def test_bad_curves_are_refused(arguments):
    with pytest.raises(ParameterError):
        curve_budgets(*arguments)
    with pytest.raises(ParameterError, match="weights"):
        curve_budgets([(1, 1, 1)], [5], 2, weights=[-1])
