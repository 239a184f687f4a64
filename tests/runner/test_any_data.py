"""The real notebooks on data that is not the embedded corpus: without tasks, with one, with names that tables use."""

from __future__ import annotations

import pandas as pd
import pytest
from helpers.notebooks import last_text, run_here
from helpers.records import put_lines

import assl_kit.artifacts.build_experts as build_experts
from assl_kit.evaluation.metrics import metric_of, score_answers
from assl_kit.runner.compare import compare_runs
from assl_kit.runner.report import write_report
from assl_kit.runner.run import run_chain

pytestmark = pytest.mark.long

SMALL = {"epochs": 1, "warmup_records": 0, "affinity_records": 0, "full_epochs": 0, "regret_per_task": 1, "n_test": 2,
         "max_new_tokens": 4, "max_length": 96, "encoder_dim": 16, "referee_draws": 2, "n_draws": 1}  # fmt: skip
TASKS = ("all", "mean", "Total", "other", "task 2", "task 10")
#: Fields that notebooks and tables have names of their own for.
EXTRA = ("cluster", "copies", "score", "rank", "expert", "row", "answer", "similarity", "margin", "group", "weight")


@pytest.fixture
def chain(tmp_path, monkeypatch):
    """Runs the chain here, one arm after the other, in a folder of the test."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ASSL_RUNS", str(tmp_path / "runs"))
    monkeypatch.setattr(build_experts, "training_jobs", lambda p: 1)
    run_here(monkeypatch)

    def run(records, **changes):
        data = put_lines(tmp_path / "记录.jsonl", records)
        return run_chain("tiny", "", SMALL | changes, str(data), say=lambda line: None)

    return run


def finished(ws):
    assert [note["status"] for note in ws.manifest()["notebooks"].values()] == ["done"] * 10
    write_report(ws)
    assert set(compare_runs(ws, ws)) >= {"selection", "results"}
    return ws.json("metrics.json")


def made(number, task=0):
    """One of several kinds of question, with an answer that its text decides."""
    company, answer = "甲乙丙丁戊己庚辛"[number % 8], ("涨", "跌", "平")[number % 3]
    asked = ("说说股价会怎样。", "公告的意思是好是坏？", "给出方向。", "读后作答。", "一个字回答。", "判断走势。")[task]
    return {
        "instruction": asked,
        "input": f"{company}公司第{number}号消息：订单{answer}了{number}成。",
        "output": answer,
    }


def test_without_tasks_and_two_hundred_records(chain):
    ws = chain([made(number, number % 4) for number in range(200)])
    metrics = finished(ws)
    assert ws.folder.name == "tiny-记录"
    assert [row["task"] for row in metrics["table"][:2]] == ["unknown", "mean"]
    assert "hold here: " in last_text(ws.path_of("notebooks/04_adbscan.ipynb"))  # a claim, reported


def test_one_task_one_expert_and_one_prompt_for_all(chain):
    """All training prompts are equal: nothing to map, to cluster or to route."""
    rows = [made(7) | {"task": "only", "split": "train"} for _ in range(10)]  # the fewest that a run takes
    rows += [made(number) | {"task": "only", "split": "test"} for number in range(4)]
    ws = chain(rows, n_clusters=1, select_share=0.5, referee_draws=0)
    metrics = finished(ws)
    assert metrics["routing"]["accuracy"] == 1 and metrics["clusters"]["table"] == {"0": {"only": 10}}
    assert [row["best_expert"] for row in metrics["regret"]] == [0, None]


@pytest.mark.slow
def test_twelve_experts_tasks_named_as_totals_and_fields_named_as_columns(chain):
    rows = [
        made(number, number % 6) | {"task": TASKS[number % 6]} | {name: number % 5 for name in EXTRA}
        for number in range(150)
    ]
    ws = chain(rows, n_clusters=12, select_share=0.5, regret_per_task=2)
    metrics = finished(ws)
    tasks = ["Total (task)", "all (task)", "mean (task)", "other (task)", "task 2", "task 10"]
    assert [row["task"] for row in metrics["regret"]] == [*tasks, "mean"]
    scores = {row["task"]: row["value"] for row in metrics["table"] if row["arm"] == "base"}
    assert list(scores) == [*tasks, "mean"] and scores.pop("mean") == pytest.approx(sum(scores.values()) / 6)
    assert {row["task"]: row["available"] for row in metrics["kept"]["by_task"]}.keys() == set(tasks)
    assert list(metrics["clusters"]["table"]) == [str(k) for k in range(12)]
    # the best expert is found by its number: 10 stands after 9, not after 1
    answers = ws.table("cross.parquet").merge(ws.table("records.parquet")[["id", "task", "output"]], on="id")
    outputs = ws.table("records.parquet").query("split == 'test'").groupby("task")["output"].agg(list)
    experts = answers[answers["arm"].str.startswith("expert-")]
    assert set(experts["arm"]) == {f"expert-{k}" for k in range(12)}
    for row in metrics["regret"][:-1]:
        asked = experts[experts["task"] == row["task"]]
        measure = metric_of(row["task"], outputs[row["task"]])
        score = asked.assign(score=score_answers(list(asked["output"]), list(asked["answer"]), measure))
        means = score.groupby(score["arm"].str.removeprefix("expert-").astype(int))["score"].mean()
        assert isinstance(means, pd.Series) and row["best_expert"] == means.idxmax()
        assert row["best"] == pytest.approx(means.max())
