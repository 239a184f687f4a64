"""Chosen records in every form: they come back the same, and LLaMA-Factory's rules hold for what describes them."""

from __future__ import annotations

import csv
import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.llama_factory import read_dataset
from helpers.records import put, put_json, put_lines

from assl_kit import load_records, select_file
from assl_kit.data.synthetic import make_corpus
from assl_kit.runner.selecting.raw import raw_records

KEPT = 12
TURNS = [["先问", "先答"], ["再问\n两行", "再答"]]


def dialogues(n=30):
    """Conversations of one or three turns, some with a system message."""
    rows = []
    for number in range(n):
        before = TURNS if number % 3 == 0 else []
        rows.append(
            {
                "system": "简短回答。" if number % 2 else "",
                "turns": [*before, [f"第{number}问：净利润？", f"第{number}答"]],
            }
        )
    return rows


def as_messages(row):
    said = [{"role": "system", "content": row["system"]}] if row["system"] else []
    for user, answer in row["turns"]:
        said += [{"role": "user", "content": user}, {"role": "assistant", "content": answer}]
    return {"messages": said, "origin": {"page": len(said)}}


def as_sharegpt(row):
    said = [part for u, a in row["turns"] for part in ({"from": "human", "value": u}, {"from": "gpt", "value": a})]
    return {"conversations": said, "system": row["system"], "lang": "zh"}


def as_alpaca(row):
    *before, (user, answer) = row["turns"]
    return {"instruction": user, "input": "", "output": answer, "system": row["system"], "history": before, "n": 1.50}


def texts_of(records):
    """What every record says, as LLaMA-Factory is to read it."""
    said = []
    for row in records.fillna("").to_dict("records"):
        before = [text for pair in json.loads(row.get("history") or "[]") for text in pair]
        asked = row["instruction"] + (f"\n{row['input']}" if row["input"] else "")
        said.append((row.get("system", ""), [*before, asked], row["output"]))
    return said


def select(source, out, form="same"):
    return select_file(source, out, keep=KEPT, format=form, referee=False)


def chosen_of(source, part):
    """The chosen ones among the records of the source, as they are read from there."""
    reasons, records = part.reasons(), load_records(source, test_share=0)
    assert reasons["id"].tolist() == records["id"].tolist()
    return records[(reasons["reason"] == "chosen").to_numpy()]


@pytest.mark.parametrize("make", [as_messages, as_sharegpt, as_alpaca])
@pytest.mark.parametrize("form", ["same", "jsonl", "alpaca", "messages", "sharegpt", "parquet"])
def test_conversations_go_through_every_form(tmp_path, make, form):
    source = put_lines(tmp_path / "talks.jsonl", map(make, dialogues()))
    part = select(source, tmp_path / "out", form)
    expected = texts_of(chosen_of(source, part))
    assert texts_of(load_records(part.file, test_share=0)) == expected
    assert read_dataset(part.folder, "talks_selected") == expected
    assert {len(said) for _, said, _ in expected} == {1, 5} and {system for system, _, _ in expected} == {
        "",
        "简短回答。",
    }


@pytest.mark.parametrize("form", ["alpaca", "messages", "sharegpt", "parquet", "jsonl"])
def test_tasks_and_ids_survive_a_conversion(tmp_path, form):
    source = put_lines(tmp_path / "c.jsonl", make_corpus(120, test_share=0).to_dict("records"))
    part = select(source, tmp_path / "out", form)
    there, back = chosen_of(source, part), load_records(part.file, test_share=0)
    for name in ("id", "task", "source", "output"):
        assert back[name].tolist() == there[name].tolist()
    assert texts_of(back) == texts_of(there)


def test_a_list_keeps_the_text_of_each_of_its_records(tmp_path):
    rows = make_corpus(40, test_share=0).to_dict("records")
    texts = [
        json.dumps(row | {"n": 1}, ensure_ascii=False, indent=n % 3 or None).replace('"n": 1', '"n": 1.50e0')
        for n, row in enumerate(rows)
    ]
    source = put(tmp_path / "list.json", "\ufeff [\n" + " ,\n".join(texts) + "\n] ")
    part = select(source, tmp_path / "out")
    text = part.file.read_text(encoding="utf-8")
    kept = [texts[row] for row in np.flatnonzero(part.reasons()["reason"] == "chosen")]
    assert text == "[\n" + ",\n".join(kept) + "\n]\n" and part.file.name == "selected.json"
    assert len(read_dataset(part.folder, "list_selected")) == KEPT
    assert part.reasons()["place"].iloc[3] == "list.json, record 4"


@pytest.mark.parametrize(("ending", "separator"), [(".csv", ","), (".csv", ";"), (".tsv", "\t")])
def test_a_table_keeps_its_rows(tmp_path, ending, separator):
    rows = [["编号", "instruction", "input", "output"]]
    rows += [[str(n), "判断，情绪。", f'他说"涨";\n第{n}条\t完', "积极"] for n in range(40)]
    source = tmp_path / f"table{ending}"
    with open(source, "w", encoding="utf-8-sig", newline="") as handle:
        csv.writer(handle, delimiter=separator, lineterminator="\r\n").writerows(rows)
    part = select(source, tmp_path / "out")
    assert part.file.name == f"selected{ending}"
    chosen = np.flatnonzero(part.reasons()["reason"] == "chosen")
    with open(part.file, encoding="utf-8", newline="") as handle:
        assert list(csv.reader(handle, delimiter=separator)) == [rows[0], *(rows[row + 1] for row in chosen)]
    assert part.file.read_bytes().replace(b"\r\n", b"").count(b"\r") == 0
    if separator == ",":
        assert [answer for _, _, answer in read_dataset(part.folder, "table_selected")] == ["积极"] * KEPT
    else:
        assert "dataset_info.json" not in part.about["files"] and "LLaMA-Factory" in part.about["notes"][-1]
        assert f"sep: {json.dumps(separator) if separator == chr(9) else ';'}" in (part.folder / "README.md").read_text(
            "utf-8"
        )


def test_parquet_keeps_its_schema(tmp_path):
    n = 60
    table = pa.table(
        {
            "instruction": [f"问{k}" for k in range(n)],
            "output": ["答"] * n,
            "vector": pa.array([[k / 3, None] for k in range(n)], pa.list_(pa.float32())),
            "when": pa.array(range(n), pa.timestamp("us", "UTC")),
            "kind": pa.array(["a", "b", None] * (n // 3)).dictionary_encode(),
        },
        metadata={"made": "by hand"},
    )
    source = tmp_path / "rows.parquet"
    pq.write_table(table, source, row_group_size=7)
    part = select(source, tmp_path / "out")
    kept = pq.read_table(part.file)
    assert kept.schema.equals(pq.read_table(source).schema, check_metadata=True)
    assert kept.equals(pq.read_table(source).filter((part.reasons()["reason"] == "chosen").to_numpy()))
    assert part.reasons()["place"].iloc[59] == "rows.parquet, row 60"


def test_a_folder_of_lines_comes_out_as_lines(tmp_path):
    rows = [json.dumps(row) for row in make_corpus(60, test_share=0).drop(columns="split").to_dict("records")]
    put(tmp_path / "set" / "part-1.jsonl", "\n".join(rows[:25]) + "\n")
    put(tmp_path / "set" / "more" / "part-2.jsonl", "\n".join(rows[25:]))
    put(tmp_path / "set" / "README.md", "# about")
    part = select(tmp_path / "set", tmp_path / "out")
    assert set(part.file.read_text("utf-8").splitlines()) < set(rows)
    places = part.reasons()["place"]
    assert {place.split(":")[0] for place in places} == {"part-1.jsonl", "more/part-2.jsonl"}


def test_a_folder_of_several_kinds_comes_out_as_lines_with_all_fields(tmp_path):
    rows = make_corpus(40, test_share=0).drop(columns="split").to_dict("records")
    put_lines(tmp_path / "set" / "a.jsonl", [row | {"extra": [1]} for row in rows[:20]])
    put_json(tmp_path / "set" / "b.json", [row | {"other": {"x": None}} for row in rows[20:]])
    part = select(tmp_path / "set", tmp_path / "out")
    kept = [json.loads(line) for line in part.file.read_text("utf-8").splitlines()]
    assert all(row["extra"] == [1] if "extra" in row else row["other"] == {"x": None} for row in kept)
    assert {tuple(row)[-1] for row in kept} == {"extra", "other"} and len(kept) == KEPT


def test_a_benchmarks_layout_and_the_embedded_corpus_come_out_as_read(tmp_path):
    rows = [[f"第{n}条留言，{'涨' if n % 2 else '跌'}", n % 3] for n in range(40)]
    put_json(tmp_path / "FinFE" / "train_list.json", rows)
    part = select(tmp_path / "FinFE", tmp_path / "out")
    back = load_records(part.file, test_share=0)
    assert len(back) == KEPT and set(back["task"]) == {"sentiment"} and set(back["source"]) == {"finfe"}
    part = select_file("embedded", tmp_path / "made", keep=20, referee=False)
    assert part.about["counts"]["test"] == 600 and len(load_records(part.file, test_share=0)) == 20


def test_fields_that_no_trainer_puts_together_are_not_described(tmp_path):
    rows = [{"question": f"第{n}题", "A": "甲", "B": "乙", "answer": "AB"[n % 2]} for n in range(30)]
    source = put_lines(tmp_path / "exam.jsonl", rows)
    part = select(source, tmp_path / "out")
    assert "dataset_info.json" not in part.about["files"] and not (part.folder / "dataset_info.json").exists()
    part = select(source, tmp_path / "talks", "messages")
    assert all("A. 甲" in said[0] for _, said, _ in read_dataset(part.folder, "exam_selected"))


def test_what_is_no_plain_file_has_no_raw_form(tmp_path):
    source = put_lines(tmp_path / "a.jsonl", [{"instruction": "问", "output": "答"}] * 3)
    assert raw_records(source, 3, []).places == ["a.jsonl:1", "a.jsonl:2", "a.jsonl:3"]
    assert raw_records(source, 4, []) is None and raw_records(tmp_path / "none", 1, []) is None


def test_missing_values_are_left_out_of_lines(tmp_path):
    frame = pd.DataFrame(
        {"instruction": [f"问{n}" for n in range(30)], "output": "答", "note": [None, "x", np.nan] * 10}
    )
    put_lines(tmp_path / "s" / "a.jsonl", frame.astype(object).where(frame.notna(), None).to_dict("records")[:15])
    frame[15:].to_csv(tmp_path / "s" / "b.csv", index=False)
    part = select(tmp_path / "s", tmp_path / "out")
    assert len(load_records(part.file, test_share=0)) == KEPT
