"""Which measure a task has, how one answer scores, and the baseline: against hand-worked values and scikit-learn."""

from __future__ import annotations

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score

from assl_kit.data.loading import load_records
from assl_kit.errors import ParameterError
from assl_kit.evaluation.intervals import evaluate
from assl_kit.evaluation.metrics import (
    TASK_METRICS,
    baseline_answers,
    items_of,
    lead,
    macro_f1,
    metric_of,
    normalise_answer,
    score_answers,
)


@pytest.mark.parametrize(
    ("references", "wanted"),
    [
        (["涨", "跌", "平", "涨", "跌", "涨"], "accuracy"),
        (["是", "否"], "accuracy"),
        (["12.5%", "3亿元", "1,204", "-7", "88", "15.2", "7%", "3万", "41", "6"], "exact_match"),
        ([*map(str, range(9)), "没有"], "exact_match"),  # nine of ten
        ([*map(str, range(8)), "没有", "不详"], "rouge_l"),
        ([f"公司第{i}季度的营业收入比上年同期有所增长" for i in range(10)], "rouge_l"),
        (["某公司公告称将以自有资金回购股份用于员工持股"] * 10, "rouge_l"),
        ([f"公司{i}" for i in range(10)], "rouge_l"),
    ],
)
def test_the_measure_of_an_unknown_task_comes_from_its_answers(references, wanted):
    assert metric_of("my own task", references) == wanted


def test_the_measure_of_known_tasks_comes_from_the_name():
    assert metric_of("sentiment") == "accuracy" and metric_of("entity_extraction", ["12"] * 9) == "f1"
    assert set(TASK_METRICS.values()) <= {"accuracy", "f1", "exact_match", "rouge_l"}
    with pytest.raises(ParameterError, match="not known by name"):
        metric_of("my own task")


def test_every_task_of_the_embedded_corpus_is_known():
    synthetic = pytest.importorskip("assl_kit.data.synthetic")
    assert set(synthetic.TASKS) <= set(TASK_METRICS)


@pytest.mark.parametrize(
    ("reference", "prediction", "metric", "wanted"),
    [
        ("积极", " 积极。\n", "accuracy", 1),
        ("积极", "不积极", "accuracy", 0),
        ("ＡＢ", "AB", "accuracy", 1),
        ("B", "答案是B。", "accuracy", 1),
        ("B", "b", "accuracy", 1),
        ("B", "B. 甲公司；C也对", "accuracy", 1),
        ("AC", "C、A", "accuracy", 1),
        ("A", "BANK", "accuracy", 0),
        ("A", "", "accuracy", 0),
        ("1,204", "1204", "exact_match", 1),
        ("10/2=5.0亿元", "等于5亿元", "exact_match", 1),
        ("5", "50", "exact_match", 0),
        ("100", "100.5", "exact_match", 0),
        ("100", "100.00005", "exact_match", 1),
        ("-3%", "3%", "exact_match", 0),
        ("没有", "没有。", "exact_match", 1),
        ("7", "没有", "exact_match", 0),
        ("甲公司；乙公司", "乙公司，甲公司", "f1", 1),
        ("甲；乙", "乙；丙；丁", "f1", 0.4),
        ("否", "是，甲", "f1", 0),
        ("净利润增长", "净利润下降", "rouge_l", 0.6),
    ],
)
def test_scores_by_hand(reference, prediction, metric, wanted):
    assert score_answers([reference], [prediction], metric)[0] == pytest.approx(wanted)


ANSWER = st.text("AB甲乙，；;、,。.！12 　\nＡｂ", max_size=8)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(ANSWER, ANSWER), min_size=1, max_size=8))
def test_scores_lie_in_the_unit_interval_and_a_right_answer_is_one(pairs):
    right, said = zip(*pairs, strict=True)
    for metric in ("accuracy", "exact_match", "f1", "rouge_l"):
        scores = score_answers(right, said, metric)
        assert scores.shape == (len(pairs),) and ((scores >= 0) & (scores <= 1)).all()
        if metric != "rouge_l":
            assert (score_answers(right, right, metric) == 1).all()
    for text in right:
        assert normalise_answer(normalise_answer(text)) == normalise_answer(text)
        assert items_of("；".join(sorted(items_of(text)))) == items_of(text)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("涨跌平"), st.sampled_from("涨跌平无")), min_size=1, max_size=30))
def test_macro_f1_is_that_of_scikit_learn(pairs):
    right, said = zip(*pairs, strict=True)
    wanted = f1_score(right, said, average="macro", labels=sorted(set(right)), zero_division=0)
    assert macro_f1(right, said) == pytest.approx(wanted)


def test_character_f1_counts_repeats_and_ignores_spaces():
    scores = score_answers(["甲乙乙", "甲", "甲"], ["乙 甲", "丁", ""], "char_f1")
    assert scores.tolist() == pytest.approx([2 * 2 / (2 * 2 + 0 + 1), 0.0, 0.0])


# --- baselines --------------------------------------------------------------------------------------------------


def records_of(task, pairs):
    return pd.DataFrame(pairs, columns=["input", "output"]).assign(task=task, instruction="做")


def test_lead():
    assert lead("新闻：甲公司扩产！乙公司停产。", 99) == "甲公司扩产"
    assert lead("。。甲公司。", 2) == "甲公" and lead("", 3) == ""


def test_label_tasks_get_the_majority_text_tasks_the_lead_and_others_the_better():
    sentiment = records_of("sentiment", [("x", "涨"), ("y", "跌"), ("z", "跌")])
    news = records_of(
        "summarization", [("甲公司扩产。细节很多。", "甲公司扩产"), ("乙公司停产。更多细节。", "乙公司停产")]
    )
    often = records_of("qa", [("问题：谁？", "没有")] * 3 + [("问题：几时？", "明日")])
    copied = records_of("event_extraction", [(f"{x}公司，某事。", f"{x}公司") for x in "甲乙丙丁"])
    train = pd.concat([sentiment, news, often, copied])
    test = pd.concat(
        [
            records_of("qa", [("问题：何处？", "?")]),
            records_of("summarization", [("丙公司上市首日大涨。后文。", "?")]),
            records_of("sentiment", [("x", "?")] * 2),
            records_of("event_extraction", [("戊公司，某事。", "?")]),
            records_of("unseen", [("没见过的任务。后文。", "?")]),
        ]
    )
    answers = baseline_answers(train, test)
    assert answers == ["没有", "丙公司上市", "跌", "跌", "戊公司", "没见过的任务"]
    test["output"] = "another"
    assert baseline_answers(train, test) == answers, "test answers are not looked at"


def test_the_lead_is_as_long_as_answers_usually_are_and_wins_a_tie():
    long = "戊己庚辛壬癸子丑寅卯辰巳午未申酉戌亥天地"
    pairs = [("甲乙公司。后文", "甲乙"), ("丙丁公司。后文", "丙丁"), (f"{long}。后文", long)]
    train = records_of("summarization", pairs)
    test = records_of("summarization", [("东西南北中发白。后文", "?")])
    assert baseline_answers(train, test) == ["东西"]  # lengths 2, 2 and 20
    assert baseline_answers(train.head(1), test) == ["东西"], "the one answer is its own majority and lead"


def test_ties_of_the_majority_do_not_depend_on_order():
    rows = [("x", "涨"), ("y", "跌")]
    for order in (rows, rows[::-1]):
        assert baseline_answers(records_of("sentiment", order), records_of("sentiment", rows[:1])) == ["涨"]


def test_baseline_of_real_records(shared_data):
    frame = load_records(shared_data / "mini.jsonl.gz")
    train, test = frame[frame["split"] != "test"], frame[frame["split"] == "test"]
    answers = baseline_answers(train, test)
    out = evaluate(test, answers, arm="baseline", n_bootstrap=200).set_index("task")
    assert len(answers) == len(test) and ((out["value"] >= 0) & (out["value"] < 0.9)).all()
    assert out.loc["mean", "value"] > 0.1, "the lead and the majority are worth something"
    assert (evaluate(test, test["output"], n_bootstrap=20)["value"] == 1).all()
