"""Measures, intervals, baselines, routing, regret, affinity: against hand-worked values and plain versions."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr
from sklearn.metrics import f1_score

from assl_kit.data.loading import load_records
from assl_kit.errors import DataError, ParameterError
from assl_kit.evaluation.affinity import affinity_vs_distance, task_affinity
from assl_kit.evaluation.intervals import evaluate, paired_difference, pooled_difference
from assl_kit.evaluation.metrics import (
    TASK_METRICS,
    baseline_answers,
    f1_of,
    item_counts,
    items_of,
    lead,
    macro_f1,
    metric_of,
    normalise_answer,
    score_answers,
)
from assl_kit.evaluation.routing import home_experts, regret_table, routing_table


def table(**tasks):
    """Records from task=[outputs]."""
    rows = [(task, output) for task, outputs in tasks.items() for output in outputs]
    frame = pd.DataFrame(rows, columns=["task", "output"])
    return frame.assign(instruction="做", input=[f"第{i}段。后文" for i in range(len(frame))])


# --- which measure, and how one answer scores ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("references", "wanted"),
    [
        (["涨", "跌", "平", "涨", "跌", "涨"], "accuracy"),
        (["是", "否"], "accuracy"),
        (["12.5%", "3亿元", "1,204", "-7", "88", "15.2", "7%", "3万", "41", "6"], "exact_match"),
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


def test_bad_calls_are_refused():
    with pytest.raises(ParameterError, match="unknown metric 'bleu'"):
        score_answers(["a"], ["a"], "bleu")
    with pytest.raises(ParameterError, match="1 references but 2 predictions"):
        score_answers(["a"], ["a", "b"], "accuracy")
    records = table(sentiment=["涨", "跌"])
    with pytest.raises(ParameterError, match="2 records but 1 predictions"):
        evaluate(records, ["涨"])
    with pytest.raises(DataError, match="predictions must be strings, not NoneType .row 1."):
        evaluate(records, ["涨", None])
    with pytest.raises(ParameterError, match="no record"):
        evaluate(records.head(0), [])
    with pytest.raises(ParameterError, match="n_bootstrap"):
        evaluate(records, ["涨", "跌"], n_bootstrap="abc")


# --- evaluate -----------------------------------------------------------------------------------------------------


def test_evaluate_by_hand():
    records = table(sentiment=["涨", "跌", "涨", "涨"], entity_extraction=["甲；乙", "丙"], computing=["5"])
    answers = ["涨", "跌", "跌", "跌", "甲；丁", "丙；戊", "共5"]
    out = evaluate(records, answers, arm="routed", n_bootstrap=200).set_index("task")
    assert out.index.tolist() == ["computing", "entity_extraction", "sentiment", "mean"]
    assert (out["arm"] == "routed").all() and out["n"].tolist() == [1, 2, 4, 7]
    micro = 2 * 2 / (2 * 2 + 2 + 1)
    assert out["value"].tolist() == pytest.approx([1, micro, 0.5, (1 + micro + 0.5) / 3])
    assert out.loc["sentiment", "macro_f1"] == pytest.approx((0.5 + 0.5) / 2)
    assert out.drop("sentiment")["macro_f1"].isna().all()
    assert ((out["low"] <= out["value"]) & (out["value"] <= out["high"])).all()
    again = evaluate(records, answers, arm="routed", n_bootstrap=200).set_index("task")
    pd.testing.assert_frame_equal(out, again)


def test_rows_may_come_in_any_order_and_with_any_index():
    rng = np.random.default_rng(0)
    records = table(sentiment=list("涨跌涨涨跌"), relation_extraction=["持股", "合作"])
    answers = list("涨跌跌涨涨") + ["持股", "竞争"]
    order = rng.permutation(len(records))
    mixed = records.iloc[order]
    one, two = evaluate(records, answers), evaluate(mixed, [answers[i] for i in order])
    pd.testing.assert_series_equal(one["value"], two["value"])


def test_the_interval_is_that_of_a_plain_bootstrap():
    rng = np.random.default_rng(3)
    right = rng.random(120) < 0.7
    out = evaluate(table(sentiment=["涨"] * 120), ["涨" if x else "跌" for x in right], n_bootstrap=4000).iloc[0]
    plain = [rng.choice(right, 120).mean() for _ in range(4000)]
    assert (out["low"], out["high"]) == pytest.approx(np.quantile(plain, [0.025, 0.975]), abs=0.02)
    other = evaluate(table(sentiment=["涨"] * 120), ["涨" if x else "跌" for x in right], n_bootstrap=11, seed=1)
    first = evaluate(table(sentiment=["涨"] * 120), ["涨" if x else "跌" for x in right], n_bootstrap=11, seed=0)
    assert not other.equals(first), "another seed draws other rows"
    wider = evaluate(table(sentiment=["涨"] * 120), ["涨" if x else "跌" for x in right], level=0.5).iloc[0]
    assert out["low"] < wider["low"] <= wider["high"] < out["high"]


def test_the_micro_f1_interval_is_that_of_a_plain_bootstrap():
    rng = np.random.default_rng(4)
    right = ["；".join(rng.choice(list("甲乙丙丁戊"), rng.integers(1, 4), replace=False)) for _ in range(60)]
    said = ["；".join(rng.choice(list("甲乙丙丁戊"), rng.integers(1, 4), replace=False)) for _ in range(60)]
    out = evaluate(table(event_extraction=right), said, n_bootstrap=3000).iloc[0]
    counts = item_counts(right, said)
    plain = [f1_of(counts[rng.integers(0, 60, 60)].sum(axis=0)) for _ in range(3000)]
    assert out["value"] == pytest.approx(float(f1_of(counts.sum(axis=0))))
    assert (out["low"], out["high"]) == pytest.approx(np.quantile(plain, [0.025, 0.975]), abs=0.02)


def test_metrics_can_be_given():
    records = table(qa=["两亿元", "三亿元"])
    out = evaluate(records, ["两亿元", "四亿元"], metrics={"qa": "accuracy"})
    assert out.loc[0, "value"] == 0.5 and out.loc[0, "metric"] == "accuracy"


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(["sentiment", "qa"]), st.booleans()), min_size=1, max_size=25), st.integers(0, 3)
)
def test_an_arm_does_not_differ_from_itself_and_differences_are_antisymmetric(rows, seed):
    records = table(
        sentiment=["涨" for task, _ in rows if task == "sentiment"], qa=["两" for task, _ in rows if task == "qa"]
    )
    a = [text if good else "错" for text, (_, good) in zip(records["output"], rows, strict=True)]
    b = records["output"].tolist()
    same = paired_difference(records, a, a, n_bootstrap=50, seed=seed)
    assert (same[["difference", "low", "high"]] == 0).all().all() and same["inside_interval"].all()
    ab, ba = (paired_difference(records, x, y, n_bootstrap=50, seed=seed) for x, y in ((a, b), (b, a)))
    np.testing.assert_allclose(ab["difference"], -ba["difference"])
    np.testing.assert_allclose(ab["low"], -ba["high"])
    value = evaluate(records, a, n_bootstrap=50)["value"] - evaluate(records, b, n_bootstrap=50)["value"]
    np.testing.assert_allclose(ab["difference"], value, atol=1e-12)


def test_a_clear_difference_is_outside_and_a_small_one_inside_the_interval():
    records = table(sentiment=["涨"] * 100)
    good, less, bad = (["涨"] * k + ["跌"] * (100 - k) for k in (90, 88, 40))
    assert not paired_difference(records, good, bad)["inside_interval"].any()
    rolled = less[3:] + less[:3]
    assert paired_difference(records, good, rolled)["inside_interval"].all()


# --- baselines ----------------------------------------------------------------------------------------------------


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


# --- routing, regret, affinity ------------------------------------------------------------------------------------


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
    assert planted.rho < -0.9 and planted.p_value < 0.01 and planted.n_permutations == 999
    p_values = [affinity_vs_distance(rng.normal(size=(9, 9)), distances, n_permutations=199).p_value for _ in range(20)]
    assert np.median(p_values) > 0.15
    assert np.isnan(affinity_vs_distance(np.ones((3, 3)), distances[:3, :3]).rho)
    with pytest.raises(ParameterError, match="three or more tasks"):
        affinity_vs_distance(np.eye(2), np.eye(2))


def test_character_f1_counts_repeats_and_ignores_spaces():
    scores = score_answers(["甲乙乙", "甲", "甲"], ["乙 甲", "丁", ""], "char_f1")
    assert scores.tolist() == pytest.approx([2 * 2 / (2 * 2 + 0 + 1), 0.0, 0.0])


def test_one_run_pooled_is_the_paired_difference():
    records, right, wrong = _sentiments(40)
    one = paired_difference(records, right, wrong, seed=3)
    pooled = pooled_difference([records], [right], [wrong], seed=3)
    assert pooled["difference"].tolist() == pytest.approx(one["difference"].tolist())
    assert (pooled[["low", "high"]] - one[["low", "high"]]).abs().to_numpy().max() < 0.1


def test_runs_that_disagree_widen_the_interval():
    records, right, wrong = _sentiments(60)
    agree = pooled_difference([records] * 3, [right] * 3, [wrong] * 3)
    mixed = pooled_difference([records] * 3, [right, right, wrong], [wrong, wrong, right])
    width = [table["high"].iloc[-1] - table["low"].iloc[-1] for table in (agree, mixed)]
    assert width[1] > 2 * width[0] and mixed["difference"].iloc[-1] == pytest.approx(agree["difference"].iloc[-1] / 3)
    assert agree["n"].iloc[-1] == 180
    with pytest.raises(ParameterError, match="different tasks"):
        pooled_difference([records, records.assign(task="qa")], [right] * 2, [wrong] * 2)
    with pytest.raises(ParameterError, match="0 runs"):
        pooled_difference([], [], [])


def _sentiments(n):
    records = pd.DataFrame({"task": ["sentiment"] * n, "output": ["积极", "消极"] * (n // 2)})
    wrong = ["积极" if i % 3 else "中性" for i in range(n)]
    return records, records["output"].tolist(), wrong
