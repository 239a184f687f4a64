"""Other routers beside ours: the committed table is what the results say, and the small helpers by hand."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from benchmarks import routers


def test_the_table_of_the_readme_is_made_from_the_results():
    results = json.loads(routers.OUT.read_text(encoding="utf-8"))
    text = routers.README.read_text(encoding="utf-8")
    assert f"{routers.BEGIN}\n{routers.table(results)}\n{routers.END}" in text
    assert results["records"][0]["arm"] == routers.OURS and len({row["arm"] for row in results["records"]}) == 14


def test_what_the_text_says_of_the_results_holds():
    rows = {row["arm"]: row for row in json.loads(routers.OUT.read_text(encoding="utf-8"))["records"]}
    questions_alone = [row for row in rows.values() if row["knows"] == routers.Q and row["arm"] != routers.OURS]
    assert all(row["difference_low"] <= 0 for row in questions_alone)
    worse = [arm for arm, row in rows.items() if row["knows"] != routers.A and row["difference_high"] < 0]
    assert {arm.split(",")[0] for arm in worse if not arm.startswith("no expert")} == {
        "Arrow",
        "LoraHub-like mixture",
        "all merged",
        "linear SVM on outcomes",
        "one adapter on all that was chosen",
    }


def test_a_row_of_the_table():
    row = {"arm": "a", "knows": "question", "mean": 0.5, "low": 0.4, "high": 0.6, "difference": -0.1}
    row |= {"difference_low": -0.2, "difference_high": 0.0, "home": 0.9, "home_inputs": None, "regret": 0.01}
    line = routers.table({"records": [row]}).splitlines()[-1]
    assert line == "| a | question | 0.500 [0.400, 0.600] | -0.100 [-0.200, +0.000] | 90 % | – | +0.010 |"


@pytest.fixture
def case():
    """Three questions of two tasks, two experts: expert 1 is better at task b, expert 0 at its last question."""
    made = object.__new__(routers.Case)
    made.test = pd.DataFrame({"task": ["a", "b", "b"], "output": ["积极", "积极", "消极"], "input": ["x", "y", ""]})
    made.tasks, made.metric = made.test["task"].to_numpy(), {"a": "accuracy", "b": "f1"}
    made.by_expert = {-1: ["", "", ""], 0: ["积极", "错", "消极"], 1: ["错", "积极", "消极；错"]}
    made.scores = np.column_stack([made.score(made.by_expert[k]) for k in (0, 1)])
    made.home, made.inputs = {"a": 0, "b": 1}, np.array([True, True, False])
    return made


def test_oracles_by_hand(case):
    assert case.scores.tolist() == [[1, 0], [0, 1], [1, pytest.approx(2 / 3)]]
    assert routers._oracle(case, by_task=True)["experts"].tolist() == [0, 1, 1]
    assert routers._oracle(case, by_task=False)["experts"].tolist() == [0, 1, 0]
    assert routers._oracle(case, by_task=False)["answers"] == ["积极", "积极", "消极"]


def test_a_record_counts_homes_the_base_and_what_is_lost(case):
    result = {
        "answers": case.looked_up(np.array([0, -1, 1])),
        "experts": np.array([0, -1, 1]),
        "bare": np.array([0, 0]),
    }
    row = routers.record(case, "mine", routers.Q, result)
    assert row["home"] == pytest.approx(2 / 3) and row["base_alone"] == pytest.approx(1 / 3)
    assert row["home_inputs"] == 0.5 and row["arm"] == "mine"
    assert row["regret"] == pytest.approx((0 + (5 / 6 - 1 / 3)) / 2)  # task b: 0 and 2/3 in place of 1 and 2/3
    assert set(routers.difference(case, result["answers"], result["answers"]).values()) == {0.0}


def test_the_arms_are_named_before_any_of_them_works():
    bank = SimpleNamespace(router=None, centroids=None, min_similarity=0.1)
    names = [name for name, _, _ in routers.arms(SimpleNamespace(silversight=SimpleNamespace(bank=bank), k=6))]
    assert names[0] == routers.OURS and len(names) == len(set(names)) == 14
