"""Benchmarks in the layouts of their repositories, with rows of our own."""

from __future__ import annotations

import csv
import json

import pytest
from helpers.records import fails, put, put_json, put_lines

from assl_kit.data.loading import load_records


def put_table(path, rows, delimiter=","):
    put(path, "")
    with open(path, "w", encoding="utf-8-sig", newline="") as handle:
        csv.writer(handle, delimiter=delimiter).writerows(rows)


def sentiment(n):
    return [[f"第{i}条消息，股价随之变化。", f"{i % 3 / 2}"] for i in range(n)]


# --- CFLEB ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "rows", "heading"),
    [
        ("finne", sentiment(30), ["trainingSourceData", "Sentiment"]),
        ("finnl", [[f"第{i}条快讯。", "中国 大盘"] for i in range(30)], ["text", "labels"]),
        ("finre", [[f"甲{i}", f"乙{i}", "持股", "甲持有乙"] for i in range(30)], ["head", "tail", "relation", "text"]),
    ],
)
@pytest.mark.parametrize("place", [0, 17])
def test_a_stray_row_of_names_is_left_out_and_named(tmp_path, task, rows, heading, place):
    put_json(tmp_path / task / "train_list.json", [*rows[:place], heading, *rows[place:]])
    with pytest.warns(UserWarning, match=rf"1 left out of .*train_list\.json, row {place + 1}: the row names columns"):
        frame = load_records(tmp_path)
    assert len(frame) == 30 and heading[0] not in set(frame["input"])


def test_single_damaged_rows_are_left_out_and_many_are_refused(tmp_path):
    path = tmp_path / "FinCUGE_Publish" / "finne" / "train_list.json"
    rows = sentiment(60)
    put_json(path, [*rows, ["好", 7], ["坏"], None])
    left = []
    assert len(load_records(tmp_path, left_out=left)) == 60
    assert [one.place.rpartition(" ")[2] for one in left] == ["61", "62", "63"] and "unknown" in left[0].reason
    put_json(path, [*rows[:10], ["坏"], None])
    with fails("a text and a number", r"train_list\.json, row 11"):
        load_records(tmp_path)
    assert len(load_records(tmp_path, on_bad="skip", left_out=left)) == 10


@pytest.mark.parametrize("value", ["NAN", "NaN", "nan", "None", "NULL", "", None])
def test_a_missing_answer_is_none_in_any_case_of_letters(tmp_path, value):
    rows = [[str(i), f"甲{i}公司收到问询函", "违规", f"甲{i}公司"] for i in range(20)]
    put_json(tmp_path / "finese" / "train_list.json", [*rows, ["20", "无事", "其他", value]])
    with pytest.warns(UserWarning, match="1 CFLEB rows without an answer"):
        frame = load_records(tmp_path)
    assert len(frame) == 20 and frame["output"].str.endswith("公司").all()


def test_a_sentiment_without_a_label_is_no_answer(tmp_path):
    put_json(tmp_path / "finne" / "train_list.json", [*sentiment(20), ["说不清", "NAN"], ["看不懂", None]])
    put_json(tmp_path / "finnsp" / "train_list.json", [["a", "", "甲失联。", "甲;乙", "1", "甲;NaN"]])
    with pytest.warns(UserWarning, match="2 CFLEB rows without an answer"):
        frame = load_records(tmp_path)
    assert len(frame) == 21 and frame.loc[20, "output"] == "是，甲"


# --- FinEval --------------------------------------------------------------------------------------------------------


def test_fineval_with_its_later_parts(tmp_path):
    header = ["id", "question", "A", "B", "C", "D", "answer"]
    exam = [["0", "税率是____。", "1%", "3%", "5%", "9%", "B"], ["1", "谁纳税？", "甲", "乙", "丙", "丁", "nan"]]
    security = ["f-1", "怎么防？", "A: 一", "B: 二", "C: 三", "D: 四", "a"]
    rigor = [
        ["序号", "类型", "端到端query", "基座query", "标准答案"],
        ["3", "计算", "多少钱？", "材料。多少钱？", "五元"],
    ]
    pictures = [["fintype", "image", "question", "A", "answer"], ["图", "a.jpg", "多少？", "一", "A"]]
    later = tmp_path / "data-v2"
    put_table(later / "data1" / "dev" / "tax_dev.csv", [header, *exam])
    put_table(tmp_path / "code" / "security" / "web_val.csv", [header, security])
    term = {"id": "eval-2", "input": "再保险", "gold_answer": "分担。", "source": "finterm"}
    put_json(later / "data2" / "finterm-eval.jsonl", [term])
    cot = {"id": "eval-2", "input": "利率是多少？", "goodanswer": "百分之三。"}
    put_json(later / "data34" / "fincot-eval.json", [cot])
    question = {"id": "x", "question": "怎么防？", "A": "一", "B": "二", "C": "三", "D": "四", "answer": "D"}
    put_json(later / "data34" / "websafe-eval.json", [question])
    put_table(tmp_path / "rigor" / "x.csv", rigor)
    put_table(tmp_path / "pictures" / "y.tsv", pictures, "\t")
    put(tmp_path / "code" / "eval.py", "print()")
    left = []
    with pytest.warns(UserWarning, match="1 FinEval questions without an answer"):
        frame = load_records(tmp_path, left_out=left)
    by = {one["subject"]: one for one in frame.to_dict("records")}
    assert len(frame) == 6 and frame["split"].tolist() == ["dev"] + ["test"] * 5
    assert by["web"]["input"] == "怎么防？\nA. 一\nB. 二\nC. 三\nD. 四" == by["websafe"]["input"]
    assert by["finterm"]["input"] == "再保险" and "术语" in by["finterm"]["instruction"]
    assert by["fincot"]["instruction"] == "利率是多少？" and by["fincot"]["output"] == "百分之三。"
    assert by["计算"]["instruction"] == "材料。多少钱？" and by["计算"]["output"] == "五元"
    assert set(frame["source"]) == {"fineval"} and len(left) == 1 and "pictures" in left[0].reason


def test_parts_of_fineval_without_worked_examples_get_a_split(tmp_path):
    rows = [[str(n), f"怎么防{n}？", "一", "二", "三", "四", "A"] for n in range(40)]
    put_table(tmp_path / "web_val.csv", [["id", "question", "A", "B", "C", "D", "answer"], *rows])
    assert load_records(tmp_path)["split"].value_counts().to_dict() == {"train": 36, "test": 4}


def test_pictures_alone_are_no_records(tmp_path):
    put_table(tmp_path / "y.tsv", [["fintype", "image", "question", "answer"], ["图", "a.jpg", "多少？", "A"]], "\t")
    with fails("no file of records", r"y\.tsv: its questions are about pictures"):
        load_records(tmp_path)


# --- others ---------------------------------------------------------------------------------------------------------


def test_cflue(tmp_path):
    exam = {
        "名称": "会计",
        "task": "多项选择题",
        "question": "哪些要报税？",
        "choices": "{'A': '工资', 'B': '房租', 'C': '礼物'}",
    }
    knowledge = [exam | {"answer": answer, "analysis": None} for answer in ("AC", "A", "B") for _ in range(7)]
    put_json(tmp_path / "data" / "knowledge" / "knowledge.json", knowledge)
    row = {
        "task": "金融文本抽取",
        "sub_task": "事件",
        "instruction": "抽取事件。",
        "input": "甲收购乙。",
        "history": [],
    }
    rows = [row | {"output": [{"role": "主体", "argument": "甲"}]}, row | {"output": "收购"}]
    put_json(tmp_path / "data" / "application" / "application.json", rows)
    put(tmp_path / "cflue_main.py", "print()")
    frame = load_records(tmp_path)
    assert frame["source"].value_counts().to_dict() == {"knowledge": 21, "application": 2}
    assert (
        json.loads(frame.loc[0, "output"]) == [{"role": "主体", "argument": "甲"}] and frame.loc[1, "output"] == "收购"
    )
    assert frame.loc[2, "input"] == "哪些要报税？\nA. 工资\nB. 房租\nC. 礼物" and frame.loc[2, "output"] == "AC"
    assert "history" not in frame and set(frame["名称"].dropna()) == {"会计"}


def test_disc_finllm(tmp_path):
    for name in ("consulting", "computing"):
        rows = [
            {"instruction": f"{name}{i}？", "input": "", "output": "好", "history": [["甲", "乙"]] * (i % 2)}
            for i in range(9)
        ]
        put_json(tmp_path / "data" / f"{name}_part.json", rows)
    put_json(tmp_path / "eval" / "retriever_eval.json", [{"question": "甲？", "reference": ["乙"]}])
    put(tmp_path / "web_demo.py", "print()")
    frame = load_records(tmp_path)
    assert frame["source"].value_counts().to_dict() == {"computing_part": 9, "consulting_part": 9}
    assert frame["history"].ne("").sum() == 8
    with fails("'question', 'reference', which is no known form"):
        load_records(tmp_path / "eval")


def test_cfgpt(tmp_path):
    for name in ("company", "exam"):
        rows = [
            {"instruction": "" if name == "exam" else "找公司。", "input": f"{name}{i}", "output": "好"}
            for i in range(5)
        ]
        put_lines(tmp_path / "data" / name / "data.jsonl", rows)
    frame = load_records(tmp_path)
    assert frame["source"].value_counts().to_dict() == {"company": 5, "exam": 5}
    assert frame.loc[frame["source"] == "exam", "instruction"].tolist() == [f"exam{i}" for i in range(5)]


def test_openfindata(tmp_path):
    root = tmp_path / "data"
    put_json(
        root / "金融知识" / "金融术语.json",
        [{"id": str(i), "question": f"{i}？", "A": "甲", "B": "乙", "answer": "B"} for i in range(9)],
    )
    put_json(
        root / "金融合规" / "业务.json", [{"id": str(i), "question": f"合规{i}？", "answer": "是"} for i in range(9)]
    )
    put_json(
        root / "金融解读" / "宏观.json", [{"id": 0, "question": "甲？", "criterium1": {"content": "乙", "score": "1"}}]
    )
    left = []
    frame = load_records(tmp_path, left_out=left)
    assert frame["source"].value_counts().to_dict() == {"金融合规/业务": 9, "金融知识/金融术语": 9}
    assert frame["id"].is_unique and len(left) == 1 and "criterium1" in left[0].reason


def test_cfbenchmark_basic(tmp_path):
    datasets = pytest.importorskip("datasets")
    names = ("company", "product", "sector", "event", "sentiment", "risk", "suggestion", "summary")
    parts = {
        name: datasets.Dataset.from_list(
            [{"instruction": "做", "input": f"{name}{n}", "response": "好"} for n in range(3)]
        )
        for name in names
    }
    parts["summary"] = datasets.Dataset.from_list(
        [{"instruction": "做", "input": "a", "response": text} for text in ("好", None)]
    )
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "data")
    left = []
    frame = load_records(tmp_path, left_out=left)
    assert len(frame) == 22 and set(frame["source"]) == set(names)
    assert len(left) == 1 and left[0].place.endswith("summary row 2") and left[0].reason == "the row has no answer"
