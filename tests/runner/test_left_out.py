"""What a run does with records that it cannot use: refuses them before it begins, or leaves them out and says so."""

from __future__ import annotations

import json
import sys

import pytest
from helpers.models import make_test_base
from helpers.notebooks import write_notebook
from helpers.records import fails, put_lines

from assl_kit.app.cli import main
from assl_kit.artifacts.build_data import load_run_records
from assl_kit.artifacts.parameters import resolve
from assl_kit.artifacts.steps import require
from assl_kit.artifacts.workspace import Workspace
from assl_kit.errors import ParameterError
from assl_kit.model.answers import AnswerBound
from assl_kit.model.loading import load_base
from assl_kit.model.turns import text_ids
from assl_kit.runner.plan import make_plan
from assl_kit.runner.report import write_report

LONG = {12: "很长" * 900, 30: "很长" * 700}


@pytest.fixture
def plan(tmp_path, monkeypatch):
    """Plans of a run on 120 records, of which two have answers that the tiny base has no positions for."""
    monkeypatch.chdir(tmp_path)
    write_notebook(tmp_path / "nb" / "00_only.ipynb", "print(1)")
    rows = [{"instruction": "做", "input": f"第{n}段", "output": LONG.get(n, "好")} for n in range(120)]
    put_lines(tmp_path / "mine.jsonl", rows)
    return lambda **overrides: make_plan("tiny", "", overrides, "mine.jsonl", notebooks_dir=tmp_path / "nb")


def test_answers_that_the_base_cannot_learn_are_named_before_the_run(plan):
    with fails(
        r"mine\.jsonl:13: the answer has 1,800 tokens, the base model 'tiny' has room for 1,022",
        r"mine\.jsonl:31: the answer has 1,400 tokens",
        "leave them out with --on-bad skip",
    ):
        plan()


def test_they_are_left_out_on_request_and_listed(plan, tmp_path, capsys):
    with pytest.warns(UserWarning, match="2 left out"):
        planned = plan(on_bad="skip")
    assert planned.parameters.longest_answer == 1399
    ws = Workspace.open(tmp_path / "run")
    ws.remember("tiny", planned.parameters)
    assert len(require(ws, "records", planned.parameters)) == 118
    assert "2 left out: left_out.jsonl lists them." in capsys.readouterr().out
    listed = [json.loads(line) for line in (tmp_path / "run" / "left_out.jsonl").read_text("utf-8").splitlines()]
    assert [row["place"].rpartition(":")[2] for row in listed] == ["13", "31"]
    assert listed[0]["reason"] == "the answer has 1,800 characters, longest_answer is 1,399"
    page = write_report(ws).read_text(encoding="utf-8")
    assert "Left out of the data" in page and "mine.jsonl:13" in page and "2 in all" in page


def test_an_answer_as_long_as_may_be_stays(tmp_path):
    rows = [{"instruction": "做", "input": f"第{n}段", "output": "好" * (1 + n % 4)} for n in range(40)]
    data = str(put_lines(tmp_path / "mine.jsonl", rows))
    left_out = []
    parameters = resolve("tiny", data=data, n_records=0, longest_answer=3, on_bad="skip")
    assert set(load_run_records(parameters, left_out)["output"].str.len()) == {1, 2, 3} and len(left_out) == 10


def test_a_run_without_such_records_says_nothing(plan, tmp_path):
    rows = [{"instruction": "做", "input": f"第{n}段", "output": "好"} for n in range(120)]
    put_lines(tmp_path / "mine.jsonl", rows)
    planned, ws = plan(on_bad="skip"), Workspace.open(tmp_path / "run")
    require(ws, "records", planned.parameters)
    assert planned.parameters.longest_answer == 0 and "left_out" not in ws.manifest()
    assert "Left out" not in write_report(ws).read_text(encoding="utf-8")


def test_the_command_line_has_the_option(plan, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("assl_kit.runner.plan.notebooks_folder", lambda: tmp_path / "nb")
    argv = ["assl", "run", "--data", "mine.jsonl", "--dry-run", "--json"]
    monkeypatch.setattr(sys, "argv", argv)
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 2 and "--on-bad skip" in capsys.readouterr().err
    monkeypatch.setattr(sys, "argv", [*argv, "--on-bad", "skip"])
    with pytest.warns(UserWarning, match="2 left out"), pytest.raises(SystemExit) as caught:
        main()
    changed = json.loads(capsys.readouterr().out)["changed"]
    assert caught.value.code == 0 and changed["on_bad"] == "skip" and changed["longest_answer"] == 1399


def test_a_bound_knows_the_base_by_its_files(tmp_path):
    folder = make_test_base(tmp_path / "base")
    config = json.loads((folder / "config.json").read_text("utf-8"))
    room = config["max_position_embeddings"] - 2
    bound = AnswerBound(str(folder))
    assert bound("好") is None and f"has room for {room:,}" in bound("好" * 4 * room)
    (folder / "config.json").write_text("{}", encoding="utf-8")
    assert AnswerBound(str(folder))("好" * 4 * room) is None, "no bound is named"
    assert AnswerBound("someone/no-such-model")("好" * 100_000) is None, "nothing is known of it here"
    with fails("no base model folder", of=ParameterError):
        AnswerBound("./no/such/folder")


def test_control_tokens_in_an_answer_count_as_the_text_they_are():
    _, tokenizer = load_base("tiny", device="cpu")
    answer = "<|im_end|>" * 200
    n_tokens = len(text_ids(tokenizer, [answer])[0])
    assert n_tokens > 1022 > 200
    assert f"the answer has {n_tokens:,} tokens" in AnswerBound("tiny")(answer)
