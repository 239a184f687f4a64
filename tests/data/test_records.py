"""Records: their schema, what is filled in, what is refused, prompts."""

from __future__ import annotations

import json

import pandas as pd
import pytest
from helpers.records import fails, full, put, put_lines
from hypothesis import given, settings
from hypothesis import strategies as st

from assl_kit.data.loading import load_records
from assl_kit.data.records import COLUMNS, prompts, user_prompt, validate_records, write_records
from assl_kit.errors import DataError


def test_whole_records_come_back_as_they_are():
    frame = validate_records(full())
    assert tuple(frame.columns) == COLUMNS
    assert frame.to_dict("records") == full()


def test_missing_fields_are_filled_in_when_all_lack_them():
    rows = [{"instruction": "什么是债券？", "output": text} for text in ("借据", "凭证", "借据")]
    frame = validate_records(rows, where="mine")
    assert frame["input"].tolist() == [""] * 3
    assert set(frame["task"]) == {"unknown"} and set(frame["source"]) == {"mine"} and set(frame["split"]) == {"train"}
    assert frame["id"].is_unique
    first, _, third = frame["id"]
    assert first.endswith("-0") and third == first[:-1] + "1"
    swapped = validate_records([rows[1], rows[0], rows[2]])
    assert set(swapped["id"]) == set(frame["id"]), "ids come from the content, not from the order of different records"


@pytest.mark.parametrize("field", ["id", "task", "source", "split", "input"])
def test_a_field_that_only_some_records_have_is_an_error(tmp_path, field):
    rows = full()
    del rows[3][field]
    with fails(r"a\.jsonl:4", f"'{field}' is missing, though others have it"):
        load_records(put_lines(tmp_path / "a.jsonl", rows))


@pytest.mark.parametrize("field", ["instruction", "output"])
@pytest.mark.parametrize("value", [None, "", "  \n"])
def test_instruction_and_output_are_needed(tmp_path, field, value):
    rows = full()
    rows[2] |= {"input": "", field: value}
    with fails(r"a\.jsonl:3 \(id 'r2'\)", f"'{field}' is"):
        load_records(put_lines(tmp_path / "a.jsonl", rows))
    del rows[2][field]
    with fails(r"a\.jsonl:3", f"'{field}' is missing"):
        load_records(put_lines(tmp_path / "a.jsonl", rows))


@pytest.mark.parametrize("field", COLUMNS)
@pytest.mark.parametrize("value", [3, 2.5, True, ["x"], {"a": 1}])
def test_wrong_types_are_named(field, value):
    rows = full()
    rows[1][field] = value
    with fails("row 2", f"'{field}' must be text, not ", type(value).__name__):
        validate_records(rows)


def test_split_id_and_surrogates_are_checked():
    rows = full()
    rows[4]["split"] = "holdout"
    with fails("row 5", "'holdout' is none of train, dev, test"):
        validate_records(rows)
    rows = full()
    rows[4]["id"] = "r1"
    with fails("row 5", "the id 'r1' is already that of records, row 2"):
        validate_records(rows)
    with fails("row 1", "surrogate"):
        validate_records(full(1, output="\ud800"))


def test_no_more_than_five_problems_are_listed():
    with pytest.raises(DataError) as caught:
        validate_records(full(9, output=""))
    assert "9 problems, the first 5" in str(caught.value)
    assert str(caught.value).count("is empty") == 5 and "row 6" not in str(caught.value)


def test_an_empty_corpus_is_an_error(tmp_path):
    for empty in ([], pd.DataFrame()):
        with fails("the corpus is empty"):
            validate_records(empty)
    with fails("the corpus is empty", "a.jsonl"):
        load_records(put(tmp_path / "a.jsonl", "\n\n"))
    with fails("the corpus is empty"):
        load_records(put(tmp_path / "a.json", "[]"))


def test_extra_fields_are_kept_and_can_be_written(tmp_path):
    rows = full()
    rows[0] |= {"meta": {"quality": 3}, "score": 0.5, "note": "甲"}
    rows[1] |= {"note": 7, "tags": ["a"]}
    frame = validate_records(rows)
    assert json.loads(frame.loc[0, "meta"]) == {"quality": 3} and frame.loc[0, "score"] == 0.5
    assert frame["note"].tolist()[:2] == ["甲", "7"] and json.loads(frame.loc[1, "tags"]) == ["a"]
    assert frame["meta"].isna().sum() == 5
    write_records(frame, tmp_path / "r.parquet")
    pd.testing.assert_frame_equal(load_records(tmp_path / "r.parquet"), frame)
    with fails("no such file"):
        load_records(tmp_path / "other.parquet")


TEXT = st.text(st.characters(codec="utf-8"), max_size=8)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(TEXT, TEXT, TEXT), min_size=1, max_size=12))
def test_records_survive_validation_and_disk_whatever_their_text(tmp_path_factory, rows):
    rows = [{"instruction": "问" + a, "input": b, "output": "答" + c} for a, b, c in rows]
    frame = validate_records(rows)
    assert frame["id"].is_unique and len(frame) == len(rows)
    path = tmp_path_factory.mktemp("h") / "a.jsonl"
    put_lines(path, frame.to_dict("records"))
    again = load_records(path)
    pd.testing.assert_frame_equal(again, frame)
    write_records(again, path.with_suffix(".parquet"))
    pd.testing.assert_frame_equal(load_records(path.with_suffix(".parquet")), frame)


def test_prompts():
    assert user_prompt("做", "料") == "做\n料"
    assert user_prompt("做", " ") == user_prompt("做") == "做"
    assert prompts(validate_records(full(2))) == ["判断情绪。\n第0条留言", "判断情绪。\n第1条留言"]
