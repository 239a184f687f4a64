"""Measurements as sentences: true whichever way the numbers fall, and said plainly where nothing was measured."""

from __future__ import annotations

import pandas as pd
import pytest

from assl_kit.teaching.evidence import evidence_results
from assl_kit.teaching.gpu_evidence import gpu_results
from assl_kit.teaching.lessons import words

COLUMNS = ["experiment", "arm", "against", "task", "metric", "value", "low", "high", "seed", "n_train"]


def evidence(scores: dict[str, float], differences=(), by_task=(), **more) -> pd.DataFrame:
    """Measurements of some arms over two seeds, and pooled differences."""
    rows = [
        ("selection", arm, None, "mean", "mean", value + shift, value, value, seed, 50)
        for arm, value in scores.items()
        for seed, shift in ((0, -0.01), (1, 0.01))
    ]
    rows += [("selection", arm, None, task, "accuracy", value, 0.0, 1.0, 0, 50) for arm, task, value in by_task]
    rows += [
        ("selection", arm, against, "mean", "difference in mean", value, value - 0.02, value + 0.02, None, 50)
        for arm, against, value in differences
    ]
    return pd.DataFrame(rows, columns=COLUMNS).assign(data="embedded", base="tiny", **more)


@pytest.mark.parametrize("low, high, word, side", [
    (0.01, 0.03, "better", "above"), (-0.03, -0.01, "worse", "below"),
    (-0.01, 0.03, "not told apart", "contains"), (0.0, 0.03, "not told apart", "contains"),
])  # fmt: skip
def test_an_interval_is_read_by_where_0_lies(low, high, word, side):
    assert words.outcome(low, high) == word
    sentence = words.compared("a", "b", {"difference": (low + high) / 2, "low": low, "high": high})
    assert side in sentence and ("cannot be told apart" in sentence) == (word == "not told apart")
    assert word in sentence or word == "not told apart"


def test_what_was_not_measured_is_said_to_be_so():
    nothing = evidence({})
    assert words.measured_difference(nothing, "default 10 %", "base") is None
    assert words.share_table(nothing).empty and words.how_far(nothing) == []
    assert words.enough(nothing) == "The shares were not measured."
    assert "was not measured beside" in words.beside_majority(nothing, "default 10 %")
    assert words.advice(nothing).empty
    table = words.worth({}, nothing, gpu_results())
    assert set(table["this run"]) == {"not measured"} and "not measured" in set(table[words.H100])


def test_how_far_a_part_comes_is_told_of_the_smallest_share_and_of_a_tenth():
    part = evidence({"random 1 %": 0.7, "default 10 %": 0.78, "random 30 %": 0.8, words.WHOLE: 0.8, "base": 0.4})
    table = words.share_table(part)
    assert table.index.tolist() == [1, 10, 30] and list(table) == ["records", "default", "random"]
    lines = words.how_far(part)
    assert len(lines) == 2 and "drawn at random" in lines[0] and "chosen by “default”" in lines[1]
    assert "0.70: 88 % of the 0.80 of all the data, and 75 % of what these add to the base." in lines[0]
    assert words.enough(part).startswith("10 % (50 records) is the least measured share")
    assert words.enough(part, within=0.001).startswith("30 % (50 records) is")
    poor = evidence({"random 1 %": 0.5, words.WHOLE: 0.8, "base": 0.4})
    assert words.enough(poor).startswith("No measured share comes within 0.05") and "0.50 of 0.80" in words.enough(poor)
    assert words.reached(0.5, 0.4, 0.5).endswith("which add nothing to the base")


def test_the_majority_is_compared_task_by_task():
    tasks = [("default 10 %", "qa", 0.3), ("default 10 %", "sentiment", 0.6), ("default 10 %", "exam", 0.9)]
    tasks += [(words.MAJORITY, "qa", 0.4), (words.MAJORITY, "sentiment", 0.5)]
    line = words.beside_majority(evidence({}, by_task=tasks), "default 10 %")
    assert line.endswith("it is higher in 1 of 2 (sentiment).") and "0.450 in the mean" in line
    pooled = evidence({}, [("default 10 %", words.MAJORITY, -0.1)], tasks)
    assert "is worse than “majority or lead” by 0.100" in words.beside_majority(pooled, "default 10 %")


@pytest.mark.parametrize("value, beginning", [(0.1, "Yes"), (-0.1, "No"), (0.0, "As you like")])
def test_advice_follows_the_interval(value, beginning):
    (row,) = words.advice(evidence({}, [("default 10 %", "random 10 %", value)])).to_dict("records")
    assert row["answer"].startswith(beginning) and row["data"] == "embedded corpus, tiny base"


def test_worth_and_advice_are_of_the_committed_results():
    measured, gpu = evidence_results(), gpu_results()
    run = {"Did it matter which tenth?": {"difference": 0.1, "low": 0.05, "high": 0.2}}
    table = words.worth(run, measured, gpu)
    assert table.loc["Did it matter which tenth?", "this run"] == "better (+0.100)"
    assert table.loc["Did the routing add anything?", words.H100] == "not measured"
    assert (words.advice(measured, gpu)["data"] == words.H100).sum() == 3


def test_agreement_and_signs():
    assert len({words.agreement(ari) for ari in (0.95, 0.7, 0.1)}) == 3
    line = words.sign_in_words(pd.DataFrame({"value": [-0.5, -0.2, 0.1], "p_value": [0.01, 0.5, 0.9]}))
    assert line.startswith("1 of 3 correlations are above 0") and line.endswith("1 are below 0 beyond chance.")
