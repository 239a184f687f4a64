"""Where questions go, and what routing costs beside the best expert: by hand and for any routing."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from assl_kit.errors import ParameterError
from assl_kit.evaluation.routing import home_experts, regret_table, routing_table


def test_routing_table_by_hand():
    home = home_experts(["qa", "qa", "nl", "nl", "nl"], [0, 1, 2, 2, 0])
    assert home == {"qa": 0, "nl": 2}
    routing = routing_table(["qa", "qa", "nl", "nl", "new"], [0, -1, 2, 2, 1], home)
    assert routing.counts.loc["qa"].to_dict() == {-1: 1, 0: 1, 1: 0, 2: 0}
    share = routing.home_share
    assert share["qa"] == 0.5 and share["nl"] == 1 and np.isnan(share["new"]) and share["all"] == 0.75
    assert routing_table(["a", "b"] * 5, [1, 0] * 5, {"a": 1, "b": 0}).nmi == pytest.approx(1)
    with pytest.raises(ParameterError, match="as many of each"):
        routing_table(["a"], [1, 2], {})


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 30), st.integers(1, 5), st.integers(0, 99))
def test_regret_of_any_routing(n, k, seed):
    rng = np.random.default_rng(seed)
    every, tasks = rng.random((n, k)), rng.choice(["a", "b"], n)
    routed = every[np.arange(n), rng.integers(0, k, n)]
    out = regret_table(routed, every, tasks)
    assert out["task"].tolist() == [*sorted(set(tasks)), "mean"]
    assert (out["oracle_gap"] >= -1e-12).all() and (out["oracle"] >= out["best"] - 1e-12).all()
    np.testing.assert_allclose(out["regret"], out["best"] - out["routed"], atol=1e-12)
    best = regret_table(every.max(axis=1), every, tasks)
    assert (best["regret"] <= 1e-12).all() and np.allclose(best["oracle_gap"], 0)
    single = regret_table(every[:, 0], every[:, :1], tasks)
    assert np.allclose(single["regret"], 0) and single["best_expert"].tolist() == [0] * (len(single) - 1) + [None]


def test_regret_refuses_shapes_that_do_not_agree():
    with pytest.raises(ParameterError, match="shapes do not agree"):
        regret_table([1.0], [[1.0], [0.0]], ["a", "a"])


def test_tasks_called_as_totals_stay_apart_from_them():
    routing = routing_table(["all", "all", "qa"], [0, 1, 1], {"all": 0, "qa": 1})
    assert routing.home_share.to_dict() == {"all (task)": 0.5, "qa": 1.0, "all": pytest.approx(2 / 3)}
    assert routing.counts.index.tolist() == ["all (task)", "qa"]
    table = regret_table([1, 0, 0.5], [[1, 0]] * 3, ["mean", "qa", "mean"])
    assert table["task"].tolist() == ["mean (task)", "qa", "mean"]
    assert table["routed"].tolist() == [0.75, 0.0, 0.375]


def test_the_best_of_twelve_experts_is_found_by_its_place():
    every = np.zeros((2, 12))
    every[0, 10] = every[1, 2] = 1
    assert regret_table([0, 0], every, ["任务10", "任务9"])["best_expert"].tolist() == [2, 10, None]
