"""The forms that instruction data is published in: each is read without options, no turn is lost."""

from __future__ import annotations

import json

import pandas as pd
import pytest
from helpers.records import fails, full, put, put_json, put_lines

from assl_kit.data.loading import load_records
from assl_kit.data.readers import READERS, kind_of
from assl_kit.data.records import COLUMNS, validate_records, write_records
from assl_kit.data.schemas import exchanges

ASKED, ANSWERED = "什么是债券？", "一种借据。"
PAIRS = [["股票呢？", "一种权益。"], ["基金呢？", "一篮子证券。"]]


def turns(role, text, user, assistant, system=None):
    """Three exchanges in one of the ways to write them."""
    said = [{role: system, text: "回答要短。"}] if system else []
    for asked, answered in [*PAIRS, [ASKED, ANSWERED]]:
        said += [{role: user, text: asked}, {role: assistant, text: answered}]
    return said


SEVERAL = {
    "messages": {"messages": turns("role", "content", "user", "assistant", "system")},
    "sharegpt": {"conversations": turns("from", "value", "human", "gpt", "system")},
    "sharegpt with a system field": {"conversations": turns("from", "value", "human", "gpt"), "system": "回答要短。"},
    "sharegpt with other sides": {"conversations": turns("from", "value", "user", "assistant"), "system": "回答要短。"},
    "alpaca": {"instruction": ASKED, "input": "", "output": ANSWERED, "system": "回答要短。", "history": PAIRS},
    "prompt": {"prompt": ASKED, "response": ANSWERED, "system": "回答要短。", "history": PAIRS},
    "firefly's conversation": {
        "conversation": [{"human": a, "assistant": b} for a, b in [*PAIRS, [ASKED, ANSWERED]]],
        "system": "回答要短。",
    },
    "trl": {
        "prompt": turns("role", "content", "user", "assistant", "system")[:-1],
        "completion": [{"role": "assistant", "content": ANSWERED}],
    },
    "parts": {
        "messages": [
            {"role": one["role"], "content": [{"type": "text", "text": one["content"]}]}
            for one in turns("role", "content", "user", "assistant", "system")
        ]
    },
    "belle": {
        "instruction": "".join(f"Human: {a}\nAssistant:{b} \n" for a, b in PAIRS) + f"Human:{ASKED}\nAssistant:",
        "input": "",
        "output": ANSWERED,
        "system": "回答要短。",
    },
}


@pytest.mark.parametrize("form", SEVERAL)
@pytest.mark.parametrize("ending", ["jsonl", "json", "parquet"])
def test_several_turns_and_the_system_message_are_kept(tmp_path, form, ending):
    rows = [SEVERAL[form], SEVERAL[form]]
    path = tmp_path / f"a.{ending}"
    if ending == "parquet":
        pd.DataFrame(rows).to_parquet(path)
    else:
        (put_lines if ending == "jsonl" else put_json)(path, rows)
    frame = validate_records(_read(path))
    assert list(frame.columns) == [*COLUMNS, "system", "history"], form
    first = frame.iloc[0]
    assert (first["instruction"], first["input"], first["output"]) == (ASKED, "", ANSWERED)
    assert first["system"] == "回答要短。" and json.loads(first["history"]) == PAIRS
    assert validate_records(frame).equals(frame), "validating twice changes nothing"
    write_records(frame, tmp_path / "again.parquet")
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "again.parquet"), frame, check_dtype=False)


def _read(path):
    return [row for _, row in READERS[kind_of(path)](path)]


ONE = {
    "messages": {"messages": [{"role": "user", "content": ASKED}, {"role": "assistant", "content": ANSWERED}]},
    "sharegpt": {"conversations": [{"from": "human", "value": ASKED}, {"from": "gpt", "value": ANSWERED}]},
    "prompt response": {"prompt": ASKED, "response": ANSWERED},
    "prompt completion": {"prompt": ASKED, "completion": ANSWERED},
    "question answer": {"question": ASKED, "answer": ANSWERED},
    "capitals": {"Question": ASKED, "Response": ANSWERED},
    "query response": {"query": ASKED, "response": ANSWERED},
    "instruction response": {"instruction": ASKED, "input": "", "response": ANSWERED},
    "prompt query response": {"prompt": ASKED, "query": "", "response": ANSWERED},
    "belle": {"instruction": ASKED, "input": "", "output": ANSWERED},
    "input alone": {"instruction": "", "input": ASKED, "output": ANSWERED},
    "input output": {"input": ASKED, "output": ANSWERED},
    "gold answer": {"input": ASKED, "gold_answer": ANSWERED},
    "chinese": {"问题": ASKED, "回答": ANSWERED},
}


@pytest.mark.parametrize("form", ONE)
def test_one_turn_is_one_record(form):
    frame = validate_records([ONE[form] | {"lang": "zh"}])
    assert list(frame.columns) == [*COLUMNS, "lang"]
    assert frame.loc[0, ["instruction", "input", "output", "lang"]].tolist() == [ASKED, "", ANSWERED, "zh"]


def test_firefly_says_which_kind_a_record_is_of():
    frame = validate_records([{"kind": "NLI", "input": ASKED, "target": ANSWERED}])
    assert frame.loc[0, ["instruction", "input", "output", "task"]].tolist() == [ASKED, "", ANSWERED, "NLI"]


def test_a_context_is_the_input():
    frame = validate_records([{"question": ASKED, "context": "材料", "answer": ANSWERED}])
    assert frame.loc[0, ["instruction", "input"]].tolist() == [ASKED, "材料"]


def test_options_become_part_of_the_question():
    rows = [
        {"question": "何时纳税？", "A": "A: 月", "B": "季", "C": "", "answer": "B"},
        {"question": "何时纳税？", "choices": "{'A': '月', 'B': '季'}", "answer": "AB", "task": "多项选择题"},
        {"question": "何时纳税？", "choices": ["月", "季"], "answer": 1},
    ]
    frames = [validate_records([row]) for row in rows]
    assert {frame.loc[0, "input"] for frame in frames} == {"何时纳税？\nA. 月\nB. 季"}
    assert [frame.loc[0, "output"] for frame in frames] == ["B", "AB", "B"]
    assert [frame.loc[0, "task"] for frame in frames] == ["multiple_choice", "多项选择题", "multiple_choice"]
    assert "全部" in frames[1].loc[0, "instruction"] and "全部" not in frames[0].loc[0, "instruction"]
    with fails("row 1", "'D' names no option D"):
        validate_records([rows[0] | {"answer": "D"}])
    with fails("row 1", "the choices are neither"):
        validate_records([rows[1] | {"choices": "__import__('os')"}])


def test_numbered_records_have_their_numbers_as_ids(tmp_path):
    rows = [{"id": number, "prompt": f"{ASKED}{number}", "response": ANSWERED} for number in range(3)]
    assert validate_records(rows)["id"].tolist() == ["0", "1", "2"]


def test_an_unknown_form_is_one_error_with_its_fields(tmp_path):
    path = put_lines(tmp_path / "a.jsonl", [{"text": "甲", "label": 1}] * 30)
    for on_bad in ("refuse", "skip"):
        with fails(
            "the record has the fields 'text', 'label', which is no known form", r"a\.jsonl:1\)", "messages"
        ) as e:
            load_records(path, on_bad=on_bad)
        assert str(e.value).count("text") == 1


@pytest.mark.parametrize(
    ("messages", "part"),
    [
        ([], "must be a list of messages"),
        ("[", "must be a list of messages"),
        (["a"], "message 1 must be an object"),
        ([{"role": "user", "content": "甲"}], "no message in 'messages' is the assistant's"),
        ([{"role": "tool", "content": "甲"}], "message 1 is of the side 'tool'"),
        ([{"role": "user", "content": None}, {"role": "assistant", "content": "甲"}], "message 1 is not text"),
        ([{"role": "user", "content": "甲"}, {"role": "system", "content": "乙"}], "message 2 is the system's"),
        ([{"role": "user", "content": "甲"}, {"role": "assistant", "content": " "}], "'output' is empty"),
    ],
)
def test_wrong_messages_are_named(tmp_path, messages, part):
    good = {"messages": [{"role": "user", "content": "甲"}, {"role": "assistant", "content": "乙"}]}
    with fails(r"a\.jsonl:2", part):
        load_records(put_lines(tmp_path / "a.jsonl", [good, {"messages": messages}]))


def test_lists_in_a_tables_cells_may_be_json_or_python(tmp_path):
    rows = [SEVERAL["alpaca"], SEVERAL["alpaca"] | {"history": json.dumps(PAIRS)}]
    for form in (rows, [{"messages": SEVERAL["messages"]["messages"]}] * 2):
        pd.DataFrame(form).to_csv(tmp_path / "a.csv", index=False)
        frame = validate_records(_read(tmp_path / "a.csv"))
        assert [json.loads(text) for text in frame["history"]] == [PAIRS, PAIRS]
        assert set(frame["system"]) == {"回答要短。"} and set(frame["output"]) == {ANSWERED}


@pytest.mark.parametrize("history", ["甲", {"a": 1}, [["甲"]], [["甲", 1]], 3])
def test_a_wrong_history_is_named(history):
    row = {"instruction": ASKED, "output": ANSWERED, "history": history}
    with fails("row 1", "'history'"):
        validate_records([row])


def test_turns_of_one_side_are_joined_and_an_open_question_is_left():
    said = [("assistant", "您好"), ("user", "甲"), ("user", "乙"), ("assistant", "丙"), ("user", "丁")]
    assert exchanges([{"role": side, "content": text} for side, text in said]) == ("", [["", "您好"], ["甲\n乙", "丙"]])


def test_a_split_may_have_the_names_of_the_hub(tmp_path):
    names = ["train", "validation", "val", "valid", "dev", "Test"]
    rows = [row | {"split": split} for row, split in zip(full(), names, strict=True)]
    frame = load_records(put_lines(tmp_path / "a.jsonl", rows))
    assert frame["split"].tolist() == ["train", "dev", "dev", "dev", "dev", "test"]


def test_only_records_with_turns_have_a_history(tmp_path):
    rows = [
        {"instruction": f"{ASKED}{n}", "output": ANSWERED, "history": PAIRS[:n], "system": None, "input": ""}
        for n in range(3)
    ]
    frame = load_records(put_json(tmp_path / "a.json", rows))
    assert "system" not in frame and [len(json.loads(text or "[]")) for text in frame["history"]] == [0, 1, 2]


@pytest.mark.parametrize("ending", ["csv", "tsv"])
def test_tables(tmp_path, ending):
    separator = "," if ending == "csv" else "\t"
    lines = [separator.join(("prompt", "response", "note")), separator.join((f'"甲{separator}\n""乙"""', "丙", ""))]
    path = put(tmp_path / f"a.{ending}", "\ufeff" + "\r\n".join([*lines, separator.join(("丁", "戊"))]) + "\r\n")
    frame = validate_records(_read(path))
    assert frame["instruction"].tolist() == [f'甲{separator}\n"乙"', "丁"] and frame["output"].tolist() == ["丙", "戊"]
    put(path, "\n".join([lines[0], separator.join("甲乙丙丁")]))
    with fails("the row has 4 cells, the first line names 3", rf"a\.{ending}:2"):
        load_records(path)
    put(path, "\n".join([lines[0], f"甲{separator}{separator}乙"]))
    with fails(rf"a\.{ending}:2", "'output' is empty"):
        load_records(path)
    put(path, "\n".join([lines[0], f'"甲{separator}乙']))
    with fails("the table cannot be read", rf"a\.{ending}"):
        load_records(path)
    put(path, separator.join(("prompt", "prompt", "response")))
    with fails("more than one column 'prompt'", rf"a\.{ending}:1"):
        load_records(path)
    path.write_bytes("甲,乙\n丙,丁".encode("gb18030"))
    with fails("not UTF-8"):
        load_records(path)


def test_a_table_with_semicolons(tmp_path):
    assert _read(put(tmp_path / "a.csv", "question;answer\n甲,乙;丙\n")) == [{"question": "甲,乙", "answer": "丙"}]
