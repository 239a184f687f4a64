"""The corpus: schema, messages, loaders, splits. All fixtures are made up here."""

from __future__ import annotations

import csv
import gzip
import json
import sys

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from assl_kit.data.loading import load_records
from assl_kit.data.records import COLUMNS, SPLITS, prompts, user_prompt, validate_records, write_records
from assl_kit.data.splits import ensure_splits
from assl_kit.errors import DataError, ParameterError


def full(n=6, **changes):
    rows = []
    for i in range(n):
        row = {
            "id": f"r{i}",
            "instruction": "判断情绪。",
            "input": f"第{i}条留言",
            "output": "积极" if i % 2 else "消极",
        }
        rows.append(row | {"task": "sentiment", "source": "made", "split": SPLITS[i % 3]} | changes)
    return rows


def put(path, text, encoding="utf-8"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding=encoding)
    return path


def put_json(path, value):
    return put(path, json.dumps(value, ensure_ascii=False))


def put_lines(path, rows):
    return put(path, "\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n")


def fails(*parts, of=DataError):
    return pytest.raises(of, match="(?s)" + ".*".join(parts))


# --- the schema -------------------------------------------------------------------------------------------------


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
    rows[2][field] = value
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
    rows[4]["split"] = "validation"
    with fails("row 5", "'validation' is none of train, dev, test"):
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


# --- files ------------------------------------------------------------------------------------------------------


def test_every_kind_of_file_gives_the_same_records(tmp_path):
    rows, text = full(), "\n".join(json.dumps(row, ensure_ascii=False) for row in full())
    plain = put(tmp_path / "a.jsonl", "\ufeff" + text.replace("\n", "\r\n\n") + "\n\n")
    zipped = tmp_path / "a.jsonl.gz"
    zipped.write_bytes(gzip.compress(text.encode()))
    as_list = put_json(tmp_path / "a.json", [row | {"history": [["x", "y"]], "system": ""} for row in rows])
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
        ("a.csv", "x,y", ["the kind of file is not known", "jsonl"]),
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
    with fails("gzip file is damaged"):
        load_records(cut)
    cut.write_bytes(good)
    with fails("gzip file is damaged"):
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
        load_records(path, format="csv")
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


# --- splits -----------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    texts=st.lists(st.integers(0, 12), min_size=4, max_size=60).filter(lambda t: len(set(t)) > 1),
    dev=st.sets(st.integers(0, 59), max_size=4),
    seed=st.integers(0, 3),
)
def test_no_text_is_both_trained_on_and_tested(texts, dev, seed):
    rows = [
        {"id": str(i), "instruction": "问", "input": f"料{t}", "output": "答", "task": "ab"[t % 2]}
        for i, t in enumerate(texts)
    ]
    for i, row in enumerate(rows):
        row["split"] = "dev" if i in dev else "train"
    frame = validate_records(rows)
    try:
        out = ensure_splits(frame, seed=seed, test_share=0.2)
    except DataError:
        free = set(frame.loc[frame["split"] == "train", "input"]) - set(frame.loc[frame["split"] == "dev", "input"])
        assert len({t for t in free if True}) < 3, "there were groups to draw from"
        return
    assert out["id"].tolist() == frame["id"].tolist()
    assert (out["split"] == "dev").equals(frame["split"] == "dev"), "dev stays dev"
    test = set(out.loc[out["split"] == "test", "input"])
    assert test and not test & set(out.loc[out["split"] != "test", "input"])
    assert out.equals(ensure_splits(frame, seed=seed, test_share=0.2))


def test_the_test_share_is_met_in_each_task():
    rows = full(400, split="train")
    for i, row in enumerate(rows):
        row["task"] = "qa" if i < 80 else "sentiment"
    out = ensure_splits(validate_records(rows), test_share=0.25)
    assert out[out["split"] == "test"].groupby("task").size().to_dict() == {"qa": 20, "sentiment": 80}


def test_given_test_records_stay_and_bad_shares_are_refused():
    frame = validate_records(full())
    assert ensure_splits(frame).equals(frame)
    for share in (0, 1, -0.1, "0.1", True):
        with fails("test_share", of=ParameterError):
            ensure_splits(frame, test_share=share)
    with fails("share one input"):
        ensure_splits(validate_records(full(5, split="train", input="同一段")))


def test_without_inputs_the_instruction_is_the_text():
    rows = [{"instruction": f"问题{i // 2}", "output": "答"} for i in range(40)]
    out = ensure_splits(validate_records(rows))
    groups = out.groupby("split")["instruction"].agg(set)
    assert len(groups["test"]) == 2 and not groups["test"] & groups["train"]


def test_dev_can_be_the_training_pool_of_what_has_none():
    rows = full(8, split="dev")
    for i in (0, 1):
        rows[i] |= {"source": "other", "split": "train"}
    rows[2] |= {"source": "other"}
    rows[3] |= {"split": "test"}
    out = ensure_splits(validate_records(rows), dev_as_train=True)
    assert out["split"].tolist() == ["train", "train", "dev", "test", "train", "train", "train", "train"]


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
