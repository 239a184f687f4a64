"""scoring: the four model scores, rank normalisation, ROUGE-L on characters."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from helpers.models import make_test_base
from hypothesis import given, settings
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer

from assl_kit.data.records import prompts
from assl_kit.errors import DataError, ParameterError
from assl_kit.model.generation import generate_answers
from assl_kit.model.likelihood import answer_nll
from assl_kit.model.loading import load_base
from assl_kit.model.scoring import rouge_l, score_records

RECORDS = pd.DataFrame(
    {
        "id": ["a", "b", "c"],
        "instruction": ["判断情感。", "为新闻写标题。", "回答问题。"],
        "input": ["净利润增长。", "", "央行下调存款准备金率。"],
        "output": ["积极", "估值修复", "央行"],
        "quality": [1, 3, 2],
    }
)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    model, tokenizer = load_base(str(make_test_base(tmp_path_factory.mktemp("base"))), device="cpu")
    return {"model": model, "tokenizer": tokenizer}


def test_nll_is_the_loss_given_the_prompt(base):
    expected = answer_nll(base["model"], base["tokenizer"], prompts(RECORDS), list(RECORDS["output"]))
    np.testing.assert_array_equal(score_records(RECORDS, "nll", **base), expected)
    assert len(set(expected)) == 3


def test_ifd_is_the_ratio_of_losses(base):
    given_prompt = answer_nll(base["model"], base["tokenizer"], prompts(RECORDS), list(RECORDS["output"]))
    alone = answer_nll(base["model"], base["tokenizer"], None, list(RECORDS["output"]))
    np.testing.assert_allclose(score_records(RECORDS, "ifd", **base), given_prompt / alone)


def test_rouge_gap_is_zero_for_what_the_model_says(base):
    said = generate_answers(base["model"], base["tokenizer"], prompts(RECORDS), max_new_tokens=6)
    assert all(said)
    known = RECORDS.assign(output=[said[0], said[1], "。。"])
    gaps = score_records(known, "rouge_gap", max_new_tokens=6, **base)
    assert gaps[:2].tolist() == [0, 0] and gaps[2] == 1 - rouge_l("。。", said[2]) and gaps[2] > 0.5


@pytest.mark.parametrize("method", ["nll", "ifd", "rouge_gap"])
def test_scores_do_not_depend_on_order_or_batch(base, method):
    kept = score_records(RECORDS, method, batch_size=2, max_new_tokens=6, **base)
    turned = score_records(RECORDS.iloc[::-1], method, batch_size=1, max_new_tokens=6, **base)
    assert kept.dtype == np.float64
    np.testing.assert_allclose(turned[::-1], kept, atol=2e-5)


def test_column():
    assert score_records(RECORDS, "column:quality").tolist() == [1, 3, 2]
    assert score_records(RECORDS.assign(quality=["1", "2.5", "-3"]), "column:quality").tolist() == [1, 2.5, -3]


@pytest.mark.parametrize("bad", ["good", None, float("nan"), float("inf"), ""])
def test_column_that_is_not_numeric_names_the_record(bad):
    records = RECORDS.assign(quality=pd.Series([1, bad, 2], dtype=object))
    with pytest.raises(DataError, match=r"quality.*\(record b\)"):
        score_records(records, "column:quality")


def test_bad_methods():
    with pytest.raises(ParameterError, match=r"no column 'rating'.*quality"):
        score_records(RECORDS, "column:rating")
    for method in ("loss", "column:", "", None, "column"):
        with pytest.raises(ParameterError, match="unknown model score"):
            score_records(RECORDS, method)
    for method in ("nll", "ifd", "rouge_gap"):
        with pytest.raises(ParameterError, match="needs a model"):
            score_records(RECORDS, method)


def test_rouge_l_on_chinese():
    title, other = "20家银行上调存款利率", "新能源车企前20强公布"
    assert rouge_l(title, title) == 1.0
    assert rouge_l("基金经理看好消费", "基金经理看好消费") == 1.0
    assert rouge_l(title, other) < 0.3
    # By hand: the longest common subsequence of 甲乙丙丁 and 甲丙戊 is 甲丙; P = 2/3, R = 2/4.
    assert rouge_l("甲乙丙丁", "甲丙戊") == pytest.approx(2 * (2 / 3) * 0.5 / (2 / 3 + 0.5))
    assert rouge_l("A 股", "a股") == 1.0


@pytest.mark.parametrize(("reference", "prediction"), [("", "甲"), ("甲", ""), ("", ""), ("  ", "甲"), ("甲", "乙")])
def test_rouge_l_of_nothing_is_zero(reference, prediction):
    assert rouge_l(reference, prediction) == 0.0


TEXTS = st.text(st.sampled_from("甲乙丙丁AaBb12,。 \n\t\u3000é😀"), max_size=40)


class Characters:
    """What `rouge-score` is to count: characters that are not white space, in lower case."""

    def tokenize(self, text):
        return [character for character in text.lower() if not character.isspace()]


def common_length(a, b):
    """Of the longest common subsequence, by the textbook's table."""
    row = [0] * (len(b) + 1)
    for x in a:
        previous = row
        row = [0]
        for j, y in enumerate(b):
            row.append(previous[j] + 1 if x == y else max(previous[j + 1], row[j]))
    return row[-1]


@settings(max_examples=300, deadline=None)
@given(TEXTS, TEXTS)
def test_rouge_l_is_that_of_the_textbook_and_of_rouge_score(reference, prediction):
    value = rouge_l(reference, prediction)
    assert value == RougeScorer(["rougeL"], tokenizer=Characters()).score(reference, prediction)["rougeL"].fmeasure
    a, b = (Characters().tokenize(text) for text in (reference, prediction))
    assert value == pytest.approx(2 * common_length(a, b) / max(len(a) + len(b), 1), abs=1e-12)


@settings(max_examples=20, deadline=None)
@given(st.randoms(use_true_random=False))
def test_rouge_l_of_long_answers_is_that_of_rouge_score(random):
    reference, prediction = ("".join(random.choices("的一是在不了有和人这中大为", k=300)) for _ in range(2))
    value = RougeScorer(["rougeL"], tokenizer=Characters()).score(reference, prediction)["rougeL"].fmeasure
    assert rouge_l(reference, prediction) == value


@given(st.text(max_size=30), st.text(max_size=30))
def test_rouge_l_takes_any_text(reference, prediction):
    assert 0 <= rouge_l(reference, prediction) == rouge_l(prediction, reference) <= 1
