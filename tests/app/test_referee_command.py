"""``assl referee``: a run's verdict, a file's, and one message for what cannot be judged."""

from __future__ import annotations

import json
from functools import partial

import pandas as pd
import pytest

from assl_kit.app.referee_command import read_ids
from assl_kit.artifacts.parameters import resolve
from assl_kit.artifacts.steps import require
from assl_kit.artifacts.workspace import Workspace
from assl_kit.common.files import write_json
from assl_kit.data.synthetic import make_corpus
from assl_kit.errors import DataError

SMALL = {"n_records": 400, "encoder_dim": 16, "min_samples": 4, "n_clusters": 3, "referee_draws": 2, "score": "none"}


@pytest.fixture
def assl(assl):
    """The command ``assl referee``."""
    return partial(assl, "referee")


@pytest.fixture
def corpus(tmp_path):
    """400 records in mine.jsonl."""
    records = make_corpus(400)
    records.to_json(tmp_path / "mine.jsonl", orient="records", lines=True, force_ascii=False)
    return records


def test_a_file_is_judged_beside_selections_that_are_given(assl, corpus, tmp_path):
    train = corpus[corpus["split"] != "test"]
    train.head(20)[["id"]].assign(copies=2).to_parquet(tmp_path / "twice.parquet")
    (tmp_path / "first.txt").write_text("\n".join(train["id"].head(36)) + "\n", encoding="utf-8")
    given = ("--selection", "first=first.txt", "--selection", "twice=twice.parquet", "--draws", 2)
    code, out, err = assl("mine.jsonl", *given, "--json")
    result = json.loads(out)
    assert code == 0 and "choosing 36" in err and "referee" in err
    arms = ["random 36", "balanced random 36", "random 40", "balanced random 40", "chosen", "first", "twice"]
    assert sorted({row["arm"] for row in result["table"]}) == sorted(arms)
    assert result["about"]["n_draws"] == 2 and len(result["curves"]) == len(result["about"]["questions"])
    assert assl("mine.jsonl", *given, "--json")[1] == out
    code, out, _ = assl("mine.jsonl", "--draws", 2, "--share", 0.2, "--seed", 1)
    assert code == 0 and "chosen − balanced random" in out and "majority or lead" in out and "flat" in out
    assert out.splitlines()[-1].startswith("On the mean over tasks, chosen is ")


def test_a_run_is_judged_and_its_verdict_made_only_once(assl, tmp_path):
    ws, parameters = Workspace.open(tmp_path / "runs" / "one"), resolve("tiny", **SMALL)
    ws.remember("tiny", parameters)
    code, out, err = assl("one")
    assert code == 0 and "referee.json is missing or out of date" in err
    assert "chosen − random" in out and "On the mean over tasks, chosen is" in out
    code, out, err = assl("runs/one", "--json")
    assert (code, err) == (0, "") and json.loads(out) == ws.json("referee.json")
    code, out, err = assl("one", "--draws", 3)
    assert (code, out) == (2, "") and err.startswith("assl: --draws is for a file of records") and err.count("\n") == 1
    parameters = resolve("tiny", **SMALL | {"referee_draws": 0})
    ws.remember("tiny", parameters)
    require(ws, "referee", parameters)
    code, out, err = assl("one")
    assert (code, out) == (2, "") and "assl: the referee was not asked: referee_draws is 0 (runs/one)." in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nothing",), "there is no run 'nothing'"),
        (("none.jsonl",), "there is no such file or folder (none.jsonl)"),
        (("mine.jsonl", "--share", 1.5), "share"),
        (("mine.jsonl", "--share", 0.001), "nothing would be chosen of 360 training records"),
        (("mine.jsonl", "--draws", 1), "draws must be"),
        (("mine.jsonl", "--selection", "x"), "'x' is no selection (--selection). Write NAME=FILE."),
        (("mine.jsonl", "--selection", "chosen=ids.txt"), "the name 'chosen' is taken"),
        (("mine.jsonl", "--selection", "random=ids.txt"), "the name 'random' is taken"),
        (("mine.jsonl", "--selection", "x=none.txt"), "there is no such file (none.txt)"),
        (("mine.jsonl", "--selection", "x=mine.csv"), "the kind of file is not known (mine.csv)"),
        (("mine.jsonl", "--selection", "x=empty.txt"), "the selection is empty (empty.txt)"),
        (("mine.jsonl", "--selection", "x=odd.txt"), "1 chosen ids are not in the training pool, e.g. 'nobody'"),
        (
            ("mine.jsonl", "--selection", "x=many.jsonl"),
            "1,000 records are chosen, copies counted, but the training pool has 360",
        ),
        (("bare.jsonl",), "'output'"),
        (("same.jsonl",), "all its training records have the same answer"),
    ],
)
def test_what_cannot_be_judged_is_one_message_before_the_long_work(assl, corpus, tmp_path, arguments, message):
    train = corpus[corpus["split"] != "test"]
    first = train["id"].iloc[0]
    (tmp_path / "ids.txt").write_text(first, encoding="utf-8")
    (tmp_path / "many.jsonl").write_text(json.dumps({"id": first, "copies": 1000}), encoding="utf-8")
    (tmp_path / "odd.txt").write_text(f"{first}\nnobody", encoding="utf-8")
    (tmp_path / "empty.txt").write_text("\n", encoding="utf-8")
    for name, rows in (("bare", corpus.assign(output="")), ("same", corpus.assign(output="是", task="one"))):
        rows.to_json(tmp_path / f"{name}.jsonl", orient="records", lines=True, force_ascii=False)
    code, out, err = assl(*arguments)
    told = [line for line in err.splitlines() if line.startswith("assl: ")]
    assert (code, out) == (2, "") and told == err.splitlines()[-1:] and message in told[0]
    assert "Batches" not in err and "random draws" not in err


def test_a_budget_below_one_record_a_group_is_refused(assl, corpus):
    code, out, err = assl("mine.jsonl", "--share", 0.01)
    assert (code, out) == (2, "") and err.splitlines()[-1].startswith("assl: ") and "groups" in err.splitlines()[-1]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.jsonl", '{"copies": 1}', "a.jsonl:1"),
        ("a.jsonl", '{"id": "x", "copies": 0}', "'copies' must be a whole number from 1 to 1000, got 0"),
        ("a.jsonl", '{"id": "x", "copies": 1.5}', "got 1.5"),
        ("a.jsonl", "{", "not valid JSON"),
        ("a.parquet", "no", "cannot be read as Parquet"),
        ("a.txt", b"\xff\xfe\xff", "not UTF-8"),
    ],
)
def test_a_damaged_selection_is_refused_by_its_place(tmp_path, name, text, message):
    (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DataError, match=message):
        read_ids(tmp_path / name)


def test_ids_may_be_numbers_and_repeat(tmp_path):
    pd.DataFrame({"id": [3, 4], "copies": [2, 1]}).to_parquet(tmp_path / "a.parquet")
    assert read_ids(tmp_path / "a.parquet") == ["3", "3", "4"]


def test_a_damaged_verdict_is_made_again(assl, tmp_path):
    ws = Workspace.open(tmp_path / "runs" / "one")
    ws.remember("tiny", resolve("tiny", **SMALL))
    assert assl("one")[0] == 0
    write_json(ws.path_of("referee.json"), {"odd": 1})
    code, _, err = assl("one")
    assert code == 0 and "missing or out of date" in err
