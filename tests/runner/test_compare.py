"""Two runs side by side: what differs is shown, what is the same is not called different."""

from __future__ import annotations

import pandas as pd
import pytest

from assl_kit.artifacts.parameters import resolve
from assl_kit.artifacts.workspace import Workspace
from assl_kit.common.files import write_json
from assl_kit.runner.compare import compare_runs

RECORDS = pd.DataFrame(
    {
        "id": [f"r{i}" for i in range(40)],
        "instruction": "问",
        "input": "",
        "task": "sentiment",
        "source": "s",
        "output": ["积极", "消极"] * 20,
        "split": ["train"] * 20 + ["test"] * 20,
    }
)


def make_run(folder, *, chosen, clusters, wrong, **parameters):
    ws = Workspace.open(folder)
    ws.remember("tiny", resolve("tiny", **parameters))
    RECORDS.to_parquet(ws.path_of("records.parquet"), index=False)
    table = pd.DataFrame({"id": RECORDS["id"][:20], "cluster": clusters})
    table.to_parquet(ws.path_of("clusters.parquet"), index=False)
    pd.DataFrame({"id": chosen}).to_parquet(ws.path_of("selection.parquet"), index=False)
    test = RECORDS[20:]
    said = ["错" if i < wrong else text for i, text in enumerate(test["output"])]
    pd.DataFrame({"id": test["id"], "answer": said}).to_parquet(ws.path_of("answers.parquet"), index=False)
    rows = [{"arm": "routed", "task": "mean", "metric": "accuracy", "value": 1 - wrong / 20}]
    write_json(ws.path_of("metrics.json"), {"table": rows})
    for file in ("records.parquet", "answers.parquet"):
        ws.commit(file, key="k", seconds=2)
    return ws


@pytest.fixture
def runs(tmp_path):
    a = make_run(tmp_path / "a", chosen=["r0", "r1", "r2"], clusters=[0, 1] * 10, wrong=12)
    b = make_run(tmp_path / "b", chosen=["r1", "r2", "r3"], clusters=[1, 0] * 10, wrong=2, seed=4)
    return a, b


def test_what_differs_is_shown(runs):
    found = compare_runs(*runs)
    assert found["parameters"].to_dict("records") == [{"parameter": "seed", "A": 0, "B": 4}]
    same = found["artifacts"].set_index("artifact")["same"].to_dict()
    assert same == {"records.parquet": True, "answers.parquet": False}
    selection = dict(found["selection"].itertuples(index=False))
    assert selection["Jaccard index of the two"] == 0.5 and selection["chosen by A"] == 3
    assert selection["adjusted Rand index of the clusters"] == 1.0  # the same parts under other names
    row = found["results"].iloc[0]
    assert (row["A"], row["B"], round(row["B - A"], 6)) == (0.4, 0.9, 0.5)
    mean = found["differences"].iloc[-1]
    assert mean["task"] == "mean" and mean["difference"] > 0.3 and mean["told apart"]
    assert mean["low"] <= mean["difference"] <= mean["high"] and mean["B"] > mean["A"]


def test_parameters_of_a_notebook_alone_are_compared_too(runs):
    for ws, n_draws in zip(runs, (5, 9), strict=True):
        ws.update_manifest("notebooks", {"09_x": {"status": "done", "parameters": {"n_draws": n_draws, "same": 1}}})
    told = compare_runs(*runs)["parameters"].to_dict("records")
    assert told[-1] == {"parameter": "09_x: n_draws", "A": 5, "B": 9} and len(told) == 2


def test_a_run_and_itself_do_not_differ(runs):
    found = compare_runs(runs[0], runs[0])
    assert "parameters" not in found and found["artifacts"]["same"].all()
    assert (found["results"]["B - A"] == 0).all() and not found["differences"]["told apart"].any()


def test_what_is_not_there_yet_is_left_out(tmp_path, runs):
    new = Workspace.open(tmp_path / "new")
    new.remember("tiny", resolve("tiny"))
    assert set(compare_runs(new, runs[0])) <= {"parameters"}
    other = RECORDS.assign(id=[f"x{i}" for i in range(40)])
    other.to_parquet(runs[1].path_of("records.parquet"), index=False)
    assert "differences" not in compare_runs(*runs)  # no question in common


def test_a_question_whose_answer_was_corrected_is_not_compared(runs):
    corrected = RECORDS.copy()
    corrected.loc[20:24, "output"] = "中性"
    corrected.to_parquet(runs[1].path_of("records.parquet"), index=False)
    mean = compare_runs(*runs)["differences"].iloc[-1]
    assert mean["n"] == 15 and mean["B"] == 1 and mean["A"] == pytest.approx(8 / 15)  # A is wrong in the first twelve
