"""Records from files, from the folders of CFLEB and FinEval, and from the hub: read, or the fault is named."""

from __future__ import annotations

import csv
import gzip
import json
import sys

import pandas as pd
import pytest
from helpers.records import fails, full, put, put_json, put_lines
from hypothesis import given, settings
from hypothesis import strategies as st

from assl_kit.data.loading import load_records
from assl_kit.data.records import SPLITS, validate_records
from assl_kit.errors import ParameterError


def test_every_kind_of_file_gives_the_same_records(tmp_path):
    rows, text = full(), "\n".join(json.dumps(row, ensure_ascii=False) for row in full())
    plain = put(tmp_path / "a.jsonl", "\ufeff" + text.replace("\n", "\r\n\n") + "\n\n")
    zipped = tmp_path / "a.jsonl.gz"
    zipped.write_bytes(gzip.compress(text.encode()))
    as_list = put_json(tmp_path / "a.json", [row | {"history": [], "system": ""} for row in rows])
    lines_as_json = put(tmp_path / "b.json", text)
    parquet = tmp_path / "a.parquet"
    pd.DataFrame(rows).to_parquet(parquet)
    wanted = validate_records(rows)
    for path in (plain, zipped, as_list, lines_as_json, parquet, str(plain)):
        pd.testing.assert_frame_equal(load_records(path), wanted)


def test_alpaca_records_get_a_split_that_keeps_equal_inputs_together(tmp_path):
    rows = [{"instruction": f"说法{i}", "input": f"材料{i % 20}", "output": "好"} for i in range(60)]
    frame = load_records(put_json(tmp_path / "alpaca_zh.json", rows))
    assert set(frame["source"]) == {"alpaca_zh"} and set(frame["split"]) == {"train", "test"}
    inputs = frame.groupby("split")["input"].agg(set)
    assert not inputs["train"] & inputs["test"]
    assert frame.equals(load_records(tmp_path / "alpaca_zh.json")), "the split is seeded"


@pytest.mark.parametrize(
    ("name", "text", "parts"),
    [
        ("a.jsonl", '{"instruction": "a", "output": "b"}\n{"instruction": "a", "outp', [r"valid JSON", r"a\.jsonl:2"]),
        ("a.jsonl", '{"instruction": "a", "output": "b"}\n\n["a"]', [r"a\.jsonl:3", "must be an object"]),
        ("a.json", '[{"instruction": "a"\n "output": "b"}]', [r"valid JSON", r"a\.json:2"]),
        ("a.json", '{"instruction": "a", "output": "b"}', ["must hold a list"]),
        ("a.json", '[{"instruction": "a", "output": "b"}, 3]', ["record 2", "must be an object"]),
        ("a.parquet", "no parquet", ["cannot be read as Parquet", "a.parquet"]),
        ("a.xlsx", "x,y", ["the kind of file is not known", "jsonl"]),
    ],
)
def test_damaged_files_are_named(tmp_path, name, text, parts):
    with fails(*parts):
        load_records(put(tmp_path / name, text))


def test_bytes_that_are_no_text_are_named(tmp_path):
    good = json.dumps(full(1)[0]).encode()
    bad = tmp_path / "a.jsonl"
    bad.write_bytes(good + b'\n{"instruction": "\xff\xfe"}')
    with fails("not UTF-8", r"a\.jsonl:2"):
        load_records(bad)
    (tmp_path / "a.json").write_bytes(b'["\xff"]')
    with fails("not UTF-8", r"a\.json"):
        load_records(tmp_path / "a.json")
    cut = tmp_path / "a.jsonl.gz"
    cut.write_bytes(gzip.compress(good * 500)[:-12])
    with fails("gzip file is damaged", r"a\.jsonl\.gz"):
        load_records(cut)


@pytest.mark.parametrize("source", ["nowhere.jsonl", "./folder", "/no/such/folder", "no/such.parquet"])
def test_missing_files(source):
    with fails("no such file or folder"):
        load_records(source)


@pytest.mark.parametrize("value", ["abc", 2.0, True, 0, -3])
def test_bad_parameters(tmp_path, value):
    path = put_lines(tmp_path / "a.jsonl", full())
    with fails("n_records", of=ParameterError):
        load_records(path, n_records=value)
    with fails("unknown format", of=ParameterError):
        load_records(path, format="xlsx")
    with fails("layout of cfleb"):
        load_records(tmp_path, format="cfleb")


@settings(max_examples=25, deadline=None)
@given(n=st.integers(1, 70), seed=st.integers(0, 5))
def test_a_draw_keeps_the_shares_of_tasks_and_splits(tmp_path_factory, n, seed):
    rows = full(60)
    for i, row in enumerate(rows):
        row["task"] = "qa" if i < 15 else "sentiment"
    path = put_lines(tmp_path_factory.mktemp("d") / "a.jsonl", rows)
    whole, part = load_records(path), load_records(path, n_records=n, seed=seed)
    assert len(part) == min(n, 60) and part["id"].is_unique and part.index.tolist() == list(range(len(part)))
    assert part.equals(load_records(path, n_records=n, seed=seed))
    order = {value: i for i, value in enumerate(whole["id"])}
    assert part["id"].map(order).is_monotonic_increasing
    count = part.groupby(["task", "split"]).size()
    for kind, size in whole.groupby(["task", "split"]).size().items():
        assert abs(count.get(kind, 0) - size * len(part) / 60) < 1


# --- benchmarks and the hub -------------------------------------------------------------------------------------


@pytest.fixture
def cfleb(tmp_path):
    """The file names and shapes of the benchmark's repository, with rows of our own."""
    root = tmp_path / "DataSetThere"
    put_json(root / "FinFE" / "train_list.json", [["要涨了", "1"], ["说不清", "0.5"], ["亏惨了", "0"]])
    put_json(root / "FinFE" / "eval_list.json", [["等一等", "0.5"]])
    put_json(root / "FinNA" / "test_list.json", [["某厂扩产", "某厂今日宣布扩大产能。"]])
    put_json(root / "FinNL" / "news_label_train.json", [["某指数收涨。", "中国 大盘"]])
    put_json(
        root / "FinNSP" / "train_list.json",
        [
            ["a1", "", "甲平台失联，乙平台照常。", "甲平台;乙平台", "1", "甲平台"],
            ["a2", "乙平台上线新品", "乙平台照常。", "乙平台", "0", ""],
        ],
    )
    put_json(
        root / "FinESE" / "test_list.json",
        [["7", "丙公司重组失败", "重组失败", "丙公司"], ["8", "无事", "其他", "NaN"]],
    )
    put_json(
        root / "FinNER" / "eval_list.json",
        [{"text": "丁公司在沪开业", "labels": ["丁公司:公司", "沪:地区"]}, {"text": "无", "labels": []}],
    )
    put(root / "FinRE" / "train.txt", "甲\t乙\t持股\t甲持有乙的股份\n乙\t甲\tunknown\t乙和甲都在场\n")
    put(root / "FinRE" / "relation2id.txt", "unknown 0\n持股 1\n")
    put_json(root / "FinQA" / "train_list.json", [["中标金额是多少？某公司中标两亿元。", "两亿元"]])
    put_json(root / "FinQA" / "problem_list.json", [{"id": 0, "input": "中标金额是多少？"}])
    return tmp_path


def test_cfleb_layout(cfleb):
    with pytest.warns(UserWarning, match="1 CFLEB rows without an answer"):
        frame = load_records(cfleb)
    assert len(frame) == 14 and set(frame["source"]) == {
        "finfe",
        "finna",
        "finnl",
        "finnsp",
        "finese",
        "finner",
        "finre",
        "finqa",
    }
    by = {name: part for name, part in frame.groupby("source", sort=False)}
    assert by["finfe"]["output"].tolist() == ["中性", "积极", "中性", "消极"] and set(by["finfe"]["task"]) == {
        "sentiment"
    }
    assert by["finfe"]["split"].tolist() == ["dev", "train", "train", "train"]
    assert by["finna"]["output"].item() == "某厂扩产" and by["finna"]["split"].item() == "test"
    assert by["finnl"]["output"].item() == "中国、大盘"
    assert by["finnsp"]["output"].tolist() == ["是，甲平台", "否"]
    assert "实体：甲平台；乙平台" in by["finnsp"]["input"].iloc[0] and "乙平台上线新品" in by["finnsp"]["input"].iloc[1]
    assert by["finese"]["output"].item() == "丙公司" and "事件类型：重组失败" in by["finese"]["input"].item()
    assert by["finner"]["output"].tolist() == ["丁公司（公司）；沪（地区）", "无"]
    assert by["finre"]["output"].tolist() == ["持股", "unknown"] and "实体二：乙" in by["finre"]["input"].iloc[0]
    assert by["finqa"]["input"].item() == "问题：中标金额是多少？\n材料：某公司中标两亿元。"
    one = load_records(cfleb / "DataSetThere" / "FinRE")
    assert one["task"].tolist() == ["relation_extraction"] * 2
    named = load_records(cfleb / "DataSetThere" / "FinRE", format="cfleb")
    assert named.equals(one)


def test_cfleb_later_labels_and_bad_rows(tmp_path):
    path = tmp_path / "FinCUGE_Publish" / "finfe" / "train_list.json"
    put_json(path, [["好", 2], ["平", 1], ["坏", 0], ["平", 1]])
    frame = load_records(tmp_path)
    assert frame["output"].tolist() == ["积极", "中性", "消极", "中性"]
    for rows, part in (
        ([["好", 7]], "unknown sentiment labels"),
        ([["好"]], "a text and a number"),
        ({"a": 1}, "JSON list"),
    ):
        put_json(path, rows)
        with fails(part, r"train_list\.json"):
            load_records(tmp_path)
    put_json(
        tmp_path / "FinCUGE_Publish" / "finre" / "train_list.json", [["甲", "乙", "持股", "句"], ["甲", "乙", "持股"]]
    )
    put_json(path, [["好", 2], ["坏", 0]])
    with fails("a FinRE row must be a list of 4", "row 2"):
        load_records(tmp_path)


def test_fineval_layout(tmp_path):
    header = ["id", "question", "A", "B", "C", "D", "answer", "explanation"]
    rows = {
        "dev/tax_law_dev.csv": [["0", "税率是____。", "1%", "3%", "5%", "9%", "B", "讲\n解"]],
        "val/tax_law_val.csv": [["0", "谁纳税？", "甲", "乙", "丙", "丁", "d", ""]],
        "test/tax_law_test.csv": [["0", "何时纳税？", "月", "季", "年", "日", "", ""]],
    }
    for name, lines in rows.items():
        path = put(tmp_path / "data" / name, "")
        with open(path, "w", encoding="utf-8-sig", newline="") as handle:
            csv.writer(handle).writerows([header, *lines])
    with pytest.warns(UserWarning, match="1 FinEval questions without an answer"):
        frame = load_records(tmp_path)
    assert frame["output"].tolist() == ["B", "D"] and frame["split"].tolist() == ["dev", "test"]
    assert frame["input"].iloc[1] == "谁纳税？\nA. 甲\nB. 乙\nC. 丙\nD. 丁" and set(frame["subject"]) == {"tax_law"}
    put(tmp_path / "data" / "val" / "tax_law_val.csv", ",".join(header) + "\n0,问,甲,乙,丙,丁,E,\n")
    with fails("names no option", r"tax_law_val\.csv:2"):
        load_records(tmp_path)
    put(tmp_path / "data" / "val" / "tax_law_val.csv", "id,question,A,B\n0,问,甲,乙\n")
    with fails("columns", "missing", r"tax_law_val\.csv:1"):
        load_records(tmp_path)


def test_a_local_folder_of_the_hub_kind(tmp_path):
    pytest.importorskip("datasets")
    rows = [{key: value for key, value in row.items() if key != "split"} for row in full(3)]
    put_lines(tmp_path / "set" / "train.jsonl", rows[:2])
    put_lines(tmp_path / "set" / "validation.jsonl", rows[2:])
    frame = load_records(tmp_path / "set")
    assert frame["split"].tolist() == ["train", "train", "dev"] and frame["id"].tolist() == ["r0", "r1", "r2"]


def test_a_dataset_saved_to_disk(tmp_path):
    datasets = pytest.importorskip("datasets")
    parts = {name: datasets.Dataset.from_list([full(3)[i]]) for i, name in enumerate(SPLITS)}
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "set")
    pd.testing.assert_frame_equal(load_records(tmp_path / "set"), validate_records(full(3)))


def test_the_test_share_can_be_given(tmp_path):
    rows = [{"instruction": "做", "input": f"第{i}段", "output": "好"} for i in range(50)]
    frame = load_records(put_lines(tmp_path / "a.jsonl", rows), test_share=0.4)
    assert (frame["split"] == "test").sum() == 20


def test_a_hub_dataset_that_is_not_there_is_one_clear_error(monkeypatch):
    pytest.importorskip("datasets")
    with fails("the dataset cannot be loaded", "someone/no-such-set", "HF_HUB_OFFLINE is set"):
        load_records("someone/no-such-set")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with fails("a dataset of the hub needs datasets, which is not installed", "pip install", of=ParameterError):
        load_records("someone/no-such-set")


def test_the_mini_file_of_real_records(shared_data):
    frame = load_records(shared_data / "mini.jsonl.gz")
    assert len(frame) == 5176 and frame["task"].nunique() == 12 and frame["source"].nunique() == 22
    assert frame["split"].value_counts().to_dict() == {"dev": 1991, "train": 1885, "test": 1300}
    assert "meta" in frame and frame["id"].is_unique
    assert len(load_records(shared_data / "mini.jsonl.gz", n_records=500)) == 500


def test_the_embedded_corpus():
    pytest.importorskip("assl_kit.data.synthetic")
    frame = load_records("embedded", n_records=250, seed=1)
    assert set(frame["split"]) >= {"train", "test"} and frame["id"].is_unique
    assert frame.equals(load_records("embedded", n_records=250, seed=1))
