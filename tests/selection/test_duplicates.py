"""Duplicates and leakage: the plain definitions, which the fast ways must meet."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from assl_kit.data.records import prompts, validate_records
from assl_kit.errors import DataError, ParameterError
from assl_kit.selection import duplicates as module
from assl_kit.selection.duplicates import find_duplicates, find_leakage, nearest_of


def made(rng, n, n_answers, n_texts):
    """Records of few answers and texts, and rows of which many are near each other and some equal."""
    texts = rng.integers(n_texts, size=n)
    answers = rng.integers(n_answers, size=n)
    records = pd.DataFrame({"instruction": [f"问{t}" for t in texts], "output": [f"答{a}" for a in answers]})
    centres = rng.normal(size=(max(n_texts // 3, 2), 6))
    rows = centres[texts % len(centres)] + 0.15 * rng.normal(size=(n_texts, 6))[texts]
    rows = rows.astype(np.float32)
    return validate_records(records), rows / np.linalg.norm(rows, axis=1, keepdims=True)


def plain(records, X, similarity):
    """The definition, pair by pair: the earlier record that each repeats, or -1, and whether it is an exact copy."""
    asked, answered = [text.strip() for text in prompts(records)], [text.strip() for text in records["output"]]
    cosine = X.astype(np.float64) @ X.astype(np.float64).T
    n = len(records)
    of, exact = np.full(n, -1), np.zeros(n, bool)
    for i in range(n):
        copies = [j for j in range(i) if asked[j] == asked[i] and answered[j] == answered[i]]
        if copies:
            first = copies[0]
            of[i], exact[i] = (of[first] if of[first] >= 0 else first), True
            continue
        near = [j for j in range(i) if of[j] < 0 and answered[j] == answered[i] and cosine[i, j] >= similarity]
        if near:
            of[i] = max(near, key=lambda j: (round(cosine[i, j], 6), -j))
    return of, exact


@pytest.mark.parametrize("few", [0, 32])
@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 120), st.integers(1, 4), st.integers(2, 60))
def test_duplicates_are_those_of_the_definition(few, seed, n, n_answers, n_texts):
    records, X = made(np.random.default_rng(seed), n, n_answers, n_texts)
    patch = pytest.MonkeyPatch()
    patch.setattr(module, "_FEW", few)
    try:
        found = find_duplicates(records, X, similarity=0.93)
    finally:
        patch.undo()
    of, exact = plain(records, X, 0.93)
    assert (found.exact == exact).all()
    assert ((found.of >= 0) == (of >= 0)).all()
    near = (of >= 0) & (found.of != of)  # equally near: either will do
    cosine = np.einsum("ij,ij->i", X.astype(float), X[of].astype(float))
    assert np.allclose(found.similarity[near], cosine[near], atol=1e-6)
    assert (found.of[found.of >= 0] < np.flatnonzero(found.of >= 0)).all()
    assert (found.of[found.of[found.of >= 0]] == -1).all()  # what is repeated repeats nothing
    assert found.n_exact + found.n_near == (of >= 0).sum()


def test_many_rows_of_one_answer_are_worked_in_steps(monkeypatch):
    records, X = made(np.random.default_rng(3), 900, 1, 700)
    whole = find_duplicates(records, X, similarity=0.95)
    monkeypatch.setattr(module, "_STEP", 64)
    monkeypatch.setattr(module, "_CHUNK", 16)
    small = find_duplicates(records, X, similarity=0.95)
    of, _ = plain(records, X, 0.95)
    assert (small.of == whole.of).all() and ((whole.of >= 0) == (of >= 0)).all() and (of >= 0).sum() > 100


def test_a_chain_of_small_steps_joins_nothing_that_is_far_apart():
    angles = np.deg2rad([0, 15, 30, 45])  # neighbours have a cosine of 0.966, the next but one 0.866
    X = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    records = validate_records([{"instruction": f"问{i}", "output": "是"} for i in range(4)])
    assert find_duplicates(records, X).of.tolist() == [-1, 0, -1, 2]


def test_another_answer_is_no_duplicate_but_a_conflict():
    rows = [("净利润增长三成", "积极"), ("净利润增长三成", "消极"), ("净利润增长两成", "消极")]
    records = validate_records(
        [{"instruction": "判断情绪。", "input": text, "output": answer} for text, answer in rows]
    )
    found = find_duplicates(records, np.float32([[1, 0]] * 3))
    assert found.of.tolist() == [-1, -1, 1] and found.conflicting.tolist() == [True, True, False]
    assert find_duplicates(records).n_near == 0 and find_duplicates(records).threshold is None


def test_turns_before_a_question_are_a_part_of_it():
    rows = [
        {"instruction": "为什么？", "output": "因为。", "system": "", "history": history}
        for history in ([], [["甲", "乙"]], [["甲", "乙"]])
    ]
    assert find_duplicates(validate_records(rows)).of.tolist() == [-1, -1, 1]
    told = [row | {"system": system, "history": []} for row, system in zip(rows, ("", "简短。", "简短。"), strict=True)]
    assert find_duplicates(validate_records(told)).of.tolist() == [-1, -1, 1]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 80), st.integers(1, 30))
def test_leakage_is_that_of_the_definition(seed, n_train, n_test):
    records, X = made(np.random.default_rng(seed), n_train + n_test, 3, 40)
    train, test = records[:n_train], records[n_train:].reset_index(drop=True)
    found = find_leakage(train, test, X, similarity=0.9)
    cosine = X[n_train:].astype(float) @ X[:n_train].astype(float).T
    for i, (asked, answered) in enumerate(zip(test["instruction"], test["output"], strict=True)):
        same = (train["instruction"] == asked).to_numpy()
        assert found.exact[i] == same.any()
        if found.exact[i]:
            assert found.of[i] == np.flatnonzero(same)[0]
            assert found.same_answer[i] == (train["output"][same] == answered).any()
        elif cosine[i].max() >= 0.9:
            assert cosine[i, found.of[i]] == pytest.approx(cosine[i].max(), abs=1e-6)
            assert found.similarity[i] == pytest.approx(cosine[i].max(), abs=1e-6)
            assert found.same_answer[i] == (train["output"].iloc[found.of[i]] == answered)
        else:
            assert found.of[i] == -1 and np.isnan(found.similarity[i]) and not found.same_answer[i]


def test_the_nearest_of_others_is_exact_and_ties_go_to_the_first():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(300, 5)).astype(np.float32)
    X[100:130], X[40] = X[7], X[7]
    X /= np.linalg.norm(X, axis=1, keepdims=True)
    columns, rows = np.arange(0, 90), np.arange(90, 300)
    nearest, cosine = nearest_of(X, rows, columns)
    products = X[rows].astype(float) @ X[columns].astype(float).T
    assert np.allclose(cosine, products.max(axis=1), atol=1e-6) and (nearest[10:40] == 7).all()
    assert (products[np.arange(210), nearest] > products.max(axis=1) - 1e-6).all()
    far, none = nearest_of(X, rows, columns, similarity=0.999)
    assert (far[10:40] == 7).all() and (far == -1).any() and np.isnan(none[far == -1]).all()
    assert nearest_of(X, rows, rows[:0])[0].tolist() == [-1] * 210


def test_what_cannot_be_is_refused():
    records = validate_records([{"instruction": "问", "output": "答"}])
    with pytest.raises(ParameterError, match="similarity"):
        find_duplicates(records, similarity=1.5)
    with pytest.raises(DataError, match="2 embeddings for 1 records"):
        find_duplicates(records, np.eye(2, dtype=np.float32))
