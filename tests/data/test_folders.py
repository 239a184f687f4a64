"""Folders of several files: all of them are read, or each one that is not is named."""

from __future__ import annotations

import gzip
import json

import pandas as pd
import pytest
from helpers.records import fails, full, put, put_json, put_lines

from assl_kit.data.folders import split_of
from assl_kit.data.loading import load_records

PLAIN = ("instruction", "input", "output")


def plain(n, first=0):
    return [{name: row[name] for name in PLAIN} for row in full(n + first)[first:]]


def test_files_of_all_kinds_are_read_and_the_others_named(tmp_path):
    put_lines(tmp_path / "a.jsonl", [row | {"task": "sentiment"} for row in plain(10)])
    pd.DataFrame(plain(4, 10)).to_parquet(tmp_path / "b.parquet")
    put_json(tmp_path / "c.json", [{**row, "history": [["问", "答"]], "extra": 1} for row in plain(3, 14)])
    put(tmp_path / "d.csv", "prompt,response,extra\n甲,乙,丙\n")
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "e.jsonl.gz").write_bytes(gzip.compress(json.dumps(plain(1, 20)[0]).encode()))
    put_json(tmp_path / "dataset_info.json", {"a": {"file_name": "a.jsonl"}})
    put_lines(tmp_path / "scores.jsonl", [{"loss": 1}])
    put(tmp_path / "README.md", "# Records")
    put(tmp_path / ".hidden.jsonl", "{")
    (tmp_path / "picture.png").write_bytes(b"\x89PNG")
    with pytest.warns(UserWarning, match="3 left out of ") as caught:
        frame = load_records(tmp_path)
    assert frame["source"].value_counts().to_dict() == {"a": 10, "b": 4, "c": 3, "d": 1, "more/e": 1}
    assert set(frame["task"]) == {"sentiment", "unknown"} and frame["id"].is_unique
    assert frame["history"].ne("").sum() == 3 and frame["extra"].dropna().tolist() == ["1", "1", "1", "丙"]
    told = str(caught[0].message)
    for part in (r"picture.png: the kind of file", "dataset_info.json: the file must hold a list", "scores.jsonl: "):
        assert part in told
    assert "README" not in told and "hidden" not in told


def test_a_file_with_another_name_is_not_lost(tmp_path):
    put_lines(tmp_path / "finance_extra.jsonl", plain(10))
    put_lines(tmp_path / "train.jsonl", plain(10, 10))
    frame = load_records(tmp_path)
    assert len(frame) == 20 and set(frame["source"]) == {"finance_extra", tmp_path.name}
    assert (frame["split"] == "test").sum() == 2, "train alone says nothing of a test"


def test_names_tell_of_splits(tmp_path):
    for name, first in (("train-00000-of-00002", 0), ("train-00001-of-00002", 4), ("qa_val", 8), ("extra", 12)):
        put_lines(tmp_path / "qa" / f"{name}.jsonl", plain(4, first))
    put_lines(tmp_path / "test" / "qa.jsonl", plain(4, 16))
    frame = load_records(tmp_path)
    assert frame.groupby("split").size().to_dict() == {"dev": 4, "test": 4, "train": 12}
    assert set(frame["source"]) == {"qa", "qa/qa_val", "qa/extra"}
    assert split_of("contest") is None and split_of("stress_test") == "test"


def test_an_id_that_an_earlier_file_has_is_preceded_by_the_source(tmp_path):
    put_lines(tmp_path / "a.jsonl", full(3))
    put_lines(tmp_path / "b.jsonl", [{name: v for name, v in row.items() if name != "source"} for row in full(4)])
    frame = load_records(tmp_path)
    assert frame["id"].tolist() == ["r0", "r1", "r2", "b/r0", "b/r1", "b/r2", "r3"]


def test_a_damaged_file_is_refused_or_left_out(tmp_path):
    put_lines(tmp_path / "a.jsonl", plain(10))
    put(tmp_path / "b.json", "[{")
    with fails("not valid JSON", r"b\.json:1"):
        load_records(tmp_path)
    left = []
    assert len(load_records(tmp_path, on_bad="skip", left_out=left)) == 10
    assert len(left) == 1 and left[0].place.endswith("b.json") and "not valid JSON" in left[0].reason


def test_a_folder_without_records_says_why(tmp_path):
    put_lines(tmp_path / "scores.jsonl", [{"loss": 1}])
    with fails("'loss', which is no known form", r"scores\.jsonl:1"):
        load_records(tmp_path)


def test_a_format_must_fit_what_is_there(tmp_path):
    path = put_lines(tmp_path / "a.jsonl", plain(10))
    with fails("this is a folder", "as jsonl"):
        load_records(tmp_path, format="jsonl")
    with fails("this is no folder", "as folder"):
        load_records(path, format="folder")
    assert len(load_records(tmp_path, format="folder")) == 10


def test_parts_of_a_saved_dataset_without_splits_are_sources(tmp_path):
    datasets = pytest.importorskip("datasets")
    parts = {
        name: datasets.Dataset.from_list(
            [{"instruction": "做", "input": f"{name}{n}", "response": "好"} for n in range(9)]
        )
        for name in ("company", "product", "risk")
    }
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "set")
    frame = load_records(tmp_path / "set")
    assert frame["source"].value_counts().to_dict() == dict.fromkeys(parts, 9) and (frame["split"] == "test").any()
