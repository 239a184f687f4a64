"""``check_file``: what is in a file, what is wrong with it, with places; and the report's part on duplicates."""

from __future__ import annotations

import json

import pandas as pd
import pytest
from helpers.records import put, put_lines

from assl_kit import check_file
from assl_kit.artifacts.parameters import resolve
from assl_kit.artifacts.steps import require
from assl_kit.artifacts.workspace import Workspace
from assl_kit.data.synthetic import make_corpus
from assl_kit.errors import DataError, ParameterError
from assl_kit.runner.selecting.check import duplicate_blocks


def rows():
    """Thirty good records, and for each thing that can be looked at one that has it."""
    good = [
        {
            "instruction": "判断情绪。",
            "input": f"{name}净利润增长",
            "output": "积极",
            "task": "sentiment",
            "split": "train",
        }
        for name in "东西南北春夏秋冬梅兰竹菊金木水火土日月星辰风雨雷电山川湖海江"
    ]
    one = good[0]
    return [
        *good,
        one,  # line 31: again
        one | {"output": "消极"},  # line 32: a conflict
        one | {"input": "问<|im_end|>", "task": "rare"},  # line 33
        one | {"input": "长", "output": "很长" * 3000, "task": "rare"},  # line 34
        good[1] | {"split": "test"},  # line 35: leaks
        one | {"input": "没有见过的文字", "split": "test"},
    ]


def test_a_file_is_described_with_places(tmp_path):
    checked = check_file(put_lines(tmp_path / "mine.jsonl", rows()))
    about, text = checked.about, "\n".join(checked.remarks)
    assert checked.is_good and (about["records"], about["train"], about["test"]) == (36, 34, 2)
    assert about["tasks"] == [{"task": "sentiment", "train": 32, "test": 2}, {"task": "rare", "train": 2, "test": 0}]
    assert about["duplicates"]["exact"] == 1 and about["duplicates"]["conflicting"] == 3
    assert about["leakage"]["exact"] == 1 and about["leakage"]["same_answer"] == 1
    for part in (
        "1 records repeat an earlier one: mine.jsonl:31.", "mine.jsonl:1, mine.jsonl:31, mine.jsonl:32.",
        "mine.jsonl:35 and mine.jsonl:2", "rare (2)", "the longest 6,000", "mine.jsonl:34", "mine.jsonl:33",
    ):  # fmt: skip
        assert part in text, part
    json.dumps(about)


def test_near_records_are_found_and_need_not_be(tmp_path):
    lines = [row | {"input": f"公司{n % 10}号公告：净利润同比增长三成"} for n, row in enumerate(rows()[:30])]
    file = put_lines(tmp_path / "mine.jsonl", lines)
    checked, quick = check_file(file), check_file(file, similarity=None)
    assert checked.about["duplicates"]["near"] == 9 and checked.about["duplicates"]["exact"] == 20
    assert quick.about["duplicates"] == {"exact": 20, "near": 0, "conflicting": 0, "similarity": None}


def test_bad_records_are_all_named(tmp_path):
    lines = [json.dumps(row) for row in rows()[:10]]
    lines[3:5] = ["{", json.dumps({"instruction": "问", "output": ""})]
    checked = check_file(put(tmp_path / "bad.jsonl", "\n".join(lines)), similarity=None)
    assert not checked.is_good and checked.about["records"] == 8
    assert [row["place"][-2:] for row in checked.about["bad"]] == [":4", ":5"]
    assert (
        "not valid JSON" in checked.about["bad"][0]["reason"]
        and "'output' is empty" in checked.about["bad"][1]["reason"]
    )


def test_what_has_no_tasks_and_no_tests_is_told(tmp_path):
    file = put_lines(tmp_path / "plain.jsonl", [{"instruction": f"问{n}", "output": "答"} for n in range(3)])
    text = "\n".join(check_file(file).remarks)
    assert "no test records" in text and "No record names its task" in text and "unknown (3)" in text


def test_what_cannot_be_checked_is_refused(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        check_file(tmp_path / "none.jsonl")
    with pytest.raises(DataError, match="empty"):
        check_file(put(tmp_path / "empty.jsonl", "\n"))
    with pytest.raises(ParameterError, match="similarity"):
        check_file("embedded", similarity=2)


def test_a_run_is_told_of_its_duplicates(tmp_path):
    corpus = make_corpus(200, test_share=0.2)
    twice = pd.concat([corpus, corpus.head(3).assign(id=["x1", "x2", "x3"])])
    leak = corpus.head(2).assign(id=["y1", "y2"], split="test")
    put_lines(tmp_path / "mine.jsonl", pd.concat([twice, leak]).to_dict("records"))
    ws = Workspace.open(tmp_path / "ws")
    assert list(duplicate_blocks(ws)) == []
    parameters = resolve("tiny", data=str(tmp_path / "mine.jsonl"), n_records=0, encoder_dim=32)
    require(ws, "records", parameters)
    quick = dict(list(duplicate_blocks(ws)))["table"]
    assert len(quick) == 3
    require(ws, "embeddings", parameters)
    blocks = list(duplicate_blocks(ws))
    table = blocks[-1][1]
    assert blocks[0][0] == "heading" and len(table) == 5
    assert table["records"].iloc[0] == quick["records"].iloc[0] >= 3 and table["of"].iloc[0] == 163
    assert table["records"].iloc[3] >= 2 and table["of"].iloc[3] == 42
