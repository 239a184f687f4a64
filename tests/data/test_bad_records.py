"""Bad records do not hold good ones up, and fields that nobody uses do no harm."""

from __future__ import annotations

import datetime
import gzip
import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.records import fails, full, put, put_json, put_lines

from assl_kit.common import limits
from assl_kit.data.loading import load_records
from assl_kit.data.records import LeftOut, write_records
from assl_kit.errors import ParameterError


def mixed(tmp_path, name="a.jsonl"):
    """Ten lines, of which four are good: r0, r2, r4, r5."""
    rows = full(6)
    rows[1]["output"] = " "
    rows[3]["split"] = "holdout"
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    lines[5:5] = ['{"instruction": ', "[1]", json.dumps(rows[4] | {"input": "别的"}, ensure_ascii=False)]
    return put(tmp_path / name, "\n".join(lines) + "\n" + json.dumps({"id": "x", "output": "乙"}))


def test_bad_records_are_left_out_and_told(tmp_path):
    path, left = mixed(tmp_path), []
    frame = load_records(path, on_bad="skip", left_out=left)
    assert frame["id"].tolist() == ["r0", "r2", "r4", "r5"]
    assert [(one.place.rpartition(":")[2], one.id) for one in left] == [
        ("2", "r1"), ("4", "r3"), ("6", None), ("7", None), ("10", "x"), ("8", "r4"),
    ]  # fmt: skip
    reasons = {one.place.rpartition(":")[2]: one.reason for one in left}
    assert reasons["2"] == "'output' is empty" and reasons["4"] == "the split 'holdout' is none of train, dev, test"
    assert "valid JSON" in reasons["6"] and "must be an object" in reasons["7"]
    assert "already that of" in reasons["8"] and "'instruction' is missing" in reasons["10"]
    with pytest.warns(UserWarning, match=r"6 left out of .*a\.jsonl:2: 'output' is empty"):
        load_records(path, on_bad="skip")


def test_bad_records_are_refused_by_default(tmp_path):
    with fails("valid JSON", r"a\.jsonl:6"):
        load_records(mixed(tmp_path))
    with fails("unknown value 'drop'", "refuse, skip", of=ParameterError):
        load_records(mixed(tmp_path), on_bad="drop")


def test_skipping_changes_nothing_where_all_is_well(tmp_path):
    path, left = put_lines(tmp_path / "a.jsonl", full()), []
    pd.testing.assert_frame_equal(load_records(path, on_bad="skip", left_out=left), load_records(path))
    assert left == []


def test_a_field_that_some_lack_costs_those_that_lack_it(tmp_path):
    rows, left = full(), []
    del rows[2]["task"], rows[0]["input"]
    frame = load_records(put_lines(tmp_path / "a.jsonl", rows), on_bad="skip", left_out=left)
    assert frame["id"].tolist() == ["r1", "r3", "r4", "r5"]
    assert {one.id for one in left} == {"r0", "r2"} and all("though others have it" in one.reason for one in left)


def test_where_nothing_is_left_there_is_an_error(tmp_path):
    path = put_lines(tmp_path / "a.jsonl", full(4, output=""))
    with fails("the corpus is empty, all 4 records are left out", r"a\.jsonl"):
        load_records(path, on_bad="skip")


def test_an_answer_can_be_too_long(tmp_path):
    rows = full(8)
    rows[3]["output"] = "长" * 50
    path, left = put_lines(tmp_path / "a.jsonl", rows), []

    def too_long(answer):
        return f"the answer has {len(answer)} characters" if len(answer) > 9 else None

    with fails(r"a\.jsonl:4 \(id 'r3'\): the answer has 50 characters"):
        load_records(path, too_long=too_long)
    assert len(load_records(path, too_long=too_long, on_bad="skip", left_out=left)) == 7
    assert left == [LeftOut(f"{path}:4", "r3", "the answer has 50 characters")]


# --- fields that nobody uses --------------------------------------------------------------------------------------


def survives(tmp_path, path):
    """The records, which can be written and read again."""
    frame = load_records(path)
    write_records(frame, tmp_path / "r.parquet")
    pd.testing.assert_frame_equal(load_records(tmp_path / "r.parquet"), frame)
    return frame


def test_half_a_surrogate_pair_in_another_field_is_kept_as_its_escape(tmp_path):
    rows = full(4)
    rows[1] |= {"note": "x\ud83d", "about": {"y": ["\udc00"]}}
    rows[2] |= {"note": "好", "\ud800": "z"}
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    frame = survives(tmp_path, path)
    assert frame.loc[1, "note"] == "x\\ud83d" and frame.loc[2, "note"] == "好" and frame.loc[2, "\\ud800"] == "z"
    assert json.loads(frame.loc[1, "about"]) == {"y": ["\udc00"]}


def test_whole_numbers_keep_all_their_digits(tmp_path):
    rows = full(4)
    for row, number in zip(rows, [1, 12345678901234567890123, -5, 7], strict=True):
        row |= {"big": number, "small": number % 10, "some": number % (1 << 60)}
    del rows[0]["some"]
    frame = survives(tmp_path, put_lines(tmp_path / "a.jsonl", rows))
    assert frame["big"].tolist() == ["1", "12345678901234567890123", "-5", "7"]
    assert frame["small"].tolist() == [1, 3, 5, 7]
    assert frame["some"].tolist()[1:] == [str(row["some"]) for row in rows[1:]]


def test_times_that_python_cannot_hold_are_kept_as_text(tmp_path):
    table = pa.Table.from_pylist([{"instruction": "做", "input": f"第{n}段", "output": "好"} for n in range(4)])
    year = datetime.datetime(9999, 12, 31)
    table = table.append_column("near", pa.array([year] * 4, pa.timestamp("us")))
    table = table.append_column("far", pa.array([9_999_999_999_999_999, 0, None, 1]).cast(pa.timestamp("ms")))
    pq.write_table(table, tmp_path / "a.parquet")
    frame = survives(tmp_path, tmp_path / "a.parquet")
    assert frame["far"].tolist()[:2] == ["9999999999999999 as timestamp[ms]", "1970-01-01 00:00:00"]
    assert frame["far"].isna().tolist() == [False, False, True, False] and frame.loc[0, "near"] == year
    nested = pa.array([[9_999_999_999_999_999]] * 4).cast(pa.list_(pa.timestamp("ms")))
    pq.write_table(table.append_column("deep", nested), tmp_path / "b.parquet")
    with fails("a value of list", r"b\.parquet, after row 0, field 'deep'"):
        load_records(tmp_path / "b.parquet")


# --- the first bytes decide ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.ndjson.gz", "a.json", "a.json.zst", "a.gz", "a.txt", "a"])
@pytest.mark.parametrize("packing", ["plain", "gzip", "zstd"])
@pytest.mark.parametrize("form", ["lines", "list", "parquet"])
def test_the_first_bytes_decide_what_a_file_is(tmp_path, name, packing, form):
    rows = full()
    if form == "parquet":
        if packing != "plain" or name == "a.json.zst":
            return
        pd.DataFrame(rows).to_parquet(tmp_path / "x")
        content = (tmp_path / "x").read_bytes()
    else:
        content = (json.dumps(rows) if form == "list" else "\n".join(map(json.dumps, rows))).encode()
    if packing == "gzip":
        content = gzip.compress(content)
    elif packing == "zstd":
        content = pa.compress(content, "zstd", asbytes=True)
    (tmp_path / name).write_bytes(content)
    pd.testing.assert_frame_equal(load_records(tmp_path / name), load_records(put_json(tmp_path / "want.json", rows)))


def test_a_damaged_zstandard_file_is_named(tmp_path):
    path = tmp_path / "a.jsonl.zst"
    content = np.random.default_rng(0).bytes(40_000).hex().encode()
    path.write_bytes(pa.compress(b'{"a": "' + content + b'"}', "zstd", asbytes=True)[:-900])
    with fails("the zstd file is damaged or cut off", r"a\.jsonl\.zst"):
        load_records(path)


def test_a_zstandard_bomb_is_not_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "FREE_UNPACKED", 1 << 20)
    path = tmp_path / "a.jsonl.zst"
    path.write_bytes(
        pa.compress(json.dumps(full(1)[0]).encode() + (b"\n" + b" " * 999) * (32 << 10), "zstd", asbytes=True)
    )
    with fails("the zstd file unpacks to more than"):
        load_records(path)


# --- splits -------------------------------------------------------------------------------------------------------


def test_one_task_a_record_can_be_split(tmp_path):
    rows = [{"instruction": "做", "input": f"第{n}段", "output": "好", "task": f"任务{n}"} for n in range(40)]
    frame = load_records(put_lines(tmp_path / "a.jsonl", rows))
    assert frame["split"].value_counts().to_dict() == {"train": 36, "test": 4}


def test_equal_questions_after_different_words_are_different_texts(tmp_path):
    rows = [{"instruction": "那净利润呢？", "output": "好", "history": [[f"甲{n}怎么样？", "不错"]]} for n in range(40)]
    frame = load_records(put_lines(tmp_path / "a.jsonl", rows))
    assert (frame["split"] == "test").sum() == 4
