"""A table of scores with intervals, and differences of two arms: against hand-worked values and a plain bootstrap."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from assl_kit.errors import DataError, ParameterError
from assl_kit.evaluation import intervals
from assl_kit.evaluation.intervals import evaluate, paired_difference, pooled_difference
from assl_kit.evaluation.metrics import f1_of, item_counts, score_answers


def table(**tasks):
    """Records from task=[outputs]."""
    rows = [(task, output) for task, outputs in tasks.items() for output in outputs]
    frame = pd.DataFrame(rows, columns=["task", "output"])
    return frame.assign(instruction="做", input=[f"第{i}段。后文" for i in range(len(frame))])


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


def test_the_bounds_of_an_interval_are_its_quantiles(monkeypatch):
    values = np.random.default_rng(0).permutation(201) / 2  # 0 to 100 by halves
    for level, bounds in ((0.95, (2.5, 97.5)), (0.9, (5.0, 95.0)), (0.5, (25.0, 75.0))):
        assert intervals._interval(values, level) == pytest.approx(bounds, abs=1e-12)
    sums = np.column_stack([values, np.full(201, 100.0)])  # so many right answers of a hundred, in 201 draws
    monkeypatch.setattr(intervals, "_resampled_sums", lambda *_: sums)
    for options, bounds in (({}, (0.025, 0.975)), ({"level": 0.9}, (0.05, 0.95))):
        out = evaluate(table(sentiment=["涨"] * 100), ["涨"] * 100, **options)
        assert out[["low", "high"]].to_numpy().tolist() == [pytest.approx(bounds, abs=1e-12)] * 2


def test_tasks_are_drawn_apart_so_that_their_mean_is_surer_than_each():
    records = table(a=["涨"] * 100, b=["涨"] * 100)
    answers = (["涨"] * 60 + ["跌"] * 40) * 2
    out = evaluate(records, answers, metrics={"a": "accuracy", "b": "accuracy"}).set_index("task")
    width = out["high"] - out["low"]
    assert width["mean"] == pytest.approx(width["a"] / 2**0.5, rel=0.12)
    assert width["b"] == pytest.approx(width["a"], rel=0.12)


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


def test_one_run_pooled_is_the_paired_difference():
    records, right, wrong = _sentiments(40)
    one = paired_difference(records, right, wrong, seed=3)
    pooled = pooled_difference([records], [right], [wrong], seed=3)
    pd.testing.assert_frame_equal(pooled, one)
    gap = 27 / 40  # the share of questions that only one arm answers: its sampling error is binomial
    reach = 1.96 * (gap * (1 - gap) / 40) ** 0.5
    assert one.loc[0, ["low", "high"]].tolist() == pytest.approx([gap - reach, gap + reach], abs=0.03)


def test_runs_that_disagree_widen_the_interval():
    records, right, wrong = _sentiments(60)
    agree = pooled_difference([records] * 3, [right] * 3, [wrong] * 3)
    mixed = pooled_difference([records] * 3, [right, right, wrong], [wrong, wrong, right])
    width = [table["high"].iloc[-1] - table["low"].iloc[-1] for table in (agree, mixed)]
    assert width[1] > 2 * width[0] and mixed["difference"].iloc[-1] == pytest.approx(agree["difference"].iloc[-1] / 3)
    assert agree["n"].iloc[-1] == 180
    alone = pooled_difference([records], [right], [wrong])
    lone = alone["high"].iloc[-1] - alone["low"].iloc[-1]
    assert width[0] == pytest.approx(lone / 3**0.5, rel=0.12), "a run drawn twice has two sets of questions"
    with pytest.raises(ParameterError, match="different tasks"):
        pooled_difference([records, records.assign(task="qa")], [right] * 2, [wrong] * 2)
    with pytest.raises(ParameterError, match="0 runs"):
        pooled_difference([], [], [])


def _sentiments(n):
    records = pd.DataFrame({"task": ["sentiment"] * n, "output": ["积极", "消极"] * (n // 2)})
    wrong = ["积极" if i % 3 else "中性" for i in range(n)]
    return records, records["output"].tolist(), wrong


def test_a_task_called_mean_is_not_taken_for_the_mean():
    records = pd.DataFrame(
        {"task": ["mean", "all", "mean", "task 10", "task 9"], "output": ["涨", "跌", "涨", "平", "平"]}
    )
    answers = ["涨", "涨", "跌", "平", "平"]
    for table in (evaluate(records, answers), paired_difference(records, answers, ["涨"] * 5)):
        assert table["task"].tolist() == ["all (task)", "mean (task)", "task 9", "task 10", "mean"]
    table = evaluate(records, answers, metrics={"mean": "char_f1"}).set_index("task")
    assert table["metric"]["mean (task)"] == "char_f1" and table["value"]["mean (task)"] == 0.5
    assert table["value"]["mean"] == (0 + 0.5 + 1 + 1) / 4
