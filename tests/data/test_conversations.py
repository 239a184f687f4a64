"""Conversations: records of several turns become messages, wrong ones are named, and what is embedded."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from helpers.records import fails

from assl_kit.data.conversations import (
    as_prompts,
    as_questions,
    conversation,
    prompt_text,
    prompt_texts,
    read_history,
    without_oldest_turn,
)
from assl_kit.data.records import prompts
from assl_kit.space.encoder import encode, load_encoder

HISTORY = [["一季度营收是多少？", "43亿元。"], ["二季度呢？", "75亿元。"]]
SYSTEM = "你是一名财务分析师。"


def table(**changes):
    row = {"id": "a", "instruction": "两季合计？", "input": "", "output": "118亿元。", "task": "t"}
    return pd.DataFrame([row, row | {"id": "b", "input": "只写数字"} | changes])


def test_records_of_one_turn_stay_texts_beside_conversations():
    frame = table(system=SYSTEM, history=json.dumps(HISTORY, ensure_ascii=False))
    alone, several = prompts(frame)
    assert alone == "两季合计？"
    assert [message["role"] for message in several] == ["system", *["user", "assistant"] * 2, "user"]
    assert [message["content"] for message in several] == [SYSTEM, *sum(HISTORY, []), "两季合计？\n只写数字"]
    assert prompts(frame.drop(columns=["system", "history"])) == ["两季合计？", "两季合计？\n只写数字"]


@pytest.mark.parametrize("empty", ["", "[]", None, float("nan"), []])
def test_no_history_is_no_conversation(empty):
    frame = table()
    frame["history"] = [empty, empty]
    assert prompts(frame) == ["两季合计？", "两季合计？\n只写数字"]


@pytest.mark.parametrize(
    "text", ["{", '"a"', '{"a": 1}', '["a"]', '[["a"]]', '[["a", 1]]', '[["a", "b", "c"]]', 3, '[["a", "b"], "c"]']
)
def test_a_history_of_another_form_is_named_by_its_record(text):
    frame = table()
    frame["history"] = ["", text]
    with fails("list of pairs", "record b"):
        prompts(frame)
    with fails("list of pairs", "somewhere"):
        read_history(text, "somewhere")


def test_the_question_comes_first_in_the_embedded_text():
    prompt = conversation("两季合计？", SYSTEM, HISTORY)
    assert prompt_text(prompt).split("\n") == ["两季合计？", SYSTEM, *sum(HISTORY, [])]
    assert prompt_text("两季合计？") == "两季合计？" and prompt_texts(["x", prompt])[1] == prompt_text(prompt)


def test_the_oldest_turns_go_first_and_the_system_message_stays():
    prompt = conversation("两季合计？", SYSTEM, HISTORY)
    once = without_oldest_turn(prompt)
    assert once == conversation("两季合计？", SYSTEM, HISTORY[1:])
    twice = without_oldest_turn(once)
    assert twice == conversation("两季合计？", SYSTEM) and without_oldest_turn(twice) is None


@pytest.mark.parametrize(
    ("value", "what"),
    [
        ({"role": "user", "content": "x"}, "one message"),
        (3, "int"),
        ([], "last message is not the user's"),
        ([{"role": "user"}], "message 0 has no role and content"),
        (["x"], "message 0 has no role and content"),
        ([{"role": "user", "content": 3}], "message 0 has no role and content"),
        ([{"role": "user", "content": "x"}] * 2, "message 1 is the user's, not the assistant's"),
        ([{"role": "assistant", "content": "x"}, {"role": "user", "content": "x"}], "message 0 is the assistant's"),
        ([{"role": "user", "content": "x"}, {"role": "system", "content": "x"}], "last message is not the user's"),
        ([{"role": "system", "content": "x"}], "last message is not the user's"),
    ],
)
def test_what_is_no_prompt_is_named_by_its_row(value, what):
    with fails(what, "row 1"):
        as_prompts(["x", value])


def test_one_conversation_is_one_question():
    prompt = conversation("两季合计？", SYSTEM, HISTORY)
    assert as_questions(prompt) == as_questions([prompt]) == [prompt]
    with fails("empty", "question 1"):
        as_questions(["x", conversation(" ", SYSTEM)])


def test_embedded_conversations_are_their_texts():
    prompt = conversation("两季合计？", SYSTEM, HISTORY)
    asked = ["一季度营收", prompt, "债券"]
    encoder = load_encoder("fit", texts=asked, dim=3)
    same = load_encoder("fit", texts=prompt_texts(asked), dim=3)
    np.testing.assert_array_equal(encode(encoder, asked), encode(same, prompt_texts(asked)))
    assert not np.allclose(encode(encoder, [prompt]), encode(encoder, ["两季合计？"]))
