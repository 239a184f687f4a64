"""Where a run is written: two files of data never share a folder unasked, and what cannot serve is refused before."""

from __future__ import annotations

import json

import pytest
from helpers.notebooks import run_here, write_notebook
from helpers.records import full, put_lines

from assl_kit.artifacts.workspace import Workspace, runs_folder
from assl_kit.errors import DataError, ParameterError, WorkspaceError
from assl_kit.runner.place import data_there
from assl_kit.runner.plan import make_plan
from assl_kit.runner.run import run_chain
from assl_kit.runner.sweep import Grid, run_sweep

OTHERS = ("a/data.jsonl", "b/data.jsonl", "？.jsonl")
FEW = {"n_clusters": 2}
ROWS = [row | {"split": "train", "task": f"t{number % 3}"} for number, row in enumerate(full(60))]


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with one notebook, which is executed without a kernel."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ASSL_RUNS", raising=False)
    write_notebook(tmp_path / "nb" / "00_only.ipynb", "print(1)")
    run_here(monkeypatch)
    return tmp_path


def run(here, data=None, name="", **options):
    return run_chain("tiny", name, FEW, data, notebooks_dir=here / "nb", say=lambda line: None, **options)


def put(here, *names):
    return [str(put_lines(here / name, ROWS)) for name in names]


def test_runs_are_called_by_their_data_in_all_scripts(here):
    files = put(
        here, "情感.jsonl", "摘要.jsonl", "fin.v1.jsonl", "fin.v2.jsonl", "a/data.jsonl", "b/data.jsonl", "？.jsonl"
    )
    folders = [run(here, file).folder.name for file in files]
    assert folders[:5] == ["tiny-情感", "tiny-摘要", "tiny-fin.v1", "tiny-fin.v2", "tiny-data"]
    assert folders[5].startswith("tiny-data-") and len(set(folders)) == len(files)
    assert [run(here, file).folder.name for file in files] == folders  # the same again: each finds its own
    for file, folder in zip(files, folders, strict=True):
        assert data_there(folder) == file


def test_the_embedded_corpus_does_not_write_over_what_was_called_tiny(here):
    (file,) = put(here, "own.jsonl")
    assert run(here, file, "tiny").folder.name == "tiny"
    other = run(here).folder.name
    assert other.startswith("tiny-") and data_there("tiny") == file and data_there(other) == "embedded"


def test_a_named_run_of_other_data_is_written_over_only_when_asked(here):
    one, two = put(here, "one.jsonl", "two.jsonl")
    ws = run(here, one, "mine")
    before = ws.manifest()
    for again in (two, None):
        with pytest.raises(WorkspaceError, match="holds a run of other data: .*one.jsonl"):
            run(here, again, "mine")
    assert ws.manifest() == before
    run(here, one, "mine")
    run(here, two, "mine", force=True)
    assert data_there("mine") == two


def test_a_sweep_does_not_write_over_jobs_of_other_data(here):
    one, two = put(here, "one.jsonl", "two.jsonl")
    job = Workspace.open(runs_folder() / "s" / "seed-0")
    job.remember("tiny", make_plan("tiny", "", FEW, one, notebooks_dir=here / "nb").parameters)
    grid = Grid(parameters=FEW | {"data": two}, grid={"seed": [0, 1]})
    with pytest.raises(WorkspaceError, match="other data"):
        run_sweep(grid, "s", notebooks_dir=here / "nb", say=lambda line: None)
    assert job.manifest()["parameters"]["data"] == one and not (runs_folder() / "s" / "seed-1").exists()


def test_a_run_of_a_sweeps_name_takes_another(here):
    (file,) = put(here, "own.jsonl")
    (runs_folder() / "tiny-own").mkdir(parents=True)
    (runs_folder() / "tiny-own" / "sweep.json").write_text("{}", encoding="utf-8")
    assert run(here, file).folder.name.startswith("tiny-own-")


def test_a_damaged_run_is_not_written_over_either(here):
    (file,) = put(here, "own.jsonl")
    folder = run(here, file).folder
    (folder / "manifest.json").write_text("{", encoding="utf-8")
    assert run(here, file).folder != folder


@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        (
            {"n_clusters": 40, "n_select": 50},
            DataError,
            "30 different prompts .* 40 clusters.* 30 or less",
        ),
        ({"n_clusters": 1, "n_select": 2}, ParameterError, "cannot choose 2 of 54 .* in 3 groups.* at least 3"),
        ({"n_clusters": 2, "n_select": 2, "groups": "task"}, ParameterError, "3 groups by task"),
        ({"n_clusters": 99}, DataError, "54 training records are fewer than 99 clusters"),
        ({"n_records": 8, "n_clusters": 1}, DataError, "fewer than the 10 that a run needs"),
    ],
)
def test_what_these_records_cannot_serve_is_refused_before_with_the_bound(here, changes, kind, message):
    rows = [row | {"input": f"第{number % 33}条"} for number, row in enumerate(ROWS)]
    put_lines(here / "own.jsonl", rows)
    with pytest.raises(kind, match=message):
        make_plan("tiny", "", changes, str(here / "own.jsonl"), notebooks_dir=here / "nb")


def test_the_embedded_corpus_has_bounds_too(here):
    with pytest.raises(ParameterError, match="in 7 groups"):
        make_plan("tiny", "", {"n_clusters": 2, "n_select": 6}, notebooks_dir=here / "nb")
    with pytest.raises(ParameterError, match="in 23 groups by source"):
        make_plan("tiny", "", {"n_clusters": 2, "n_select": 20, "groups": "source"}, notebooks_dir=here / "nb")
    with pytest.raises(ParameterError, match="groups by instruction"):
        make_plan("tiny", "", {"n_records": 400, "groups": "instruction"}, notebooks_dir=here / "nb")
    make_plan("tiny", "", {"n_clusters": 2, "n_select": 7}, notebooks_dir=here / "nb")  # one for each group
    make_plan("tiny", "", {"n_clusters": 2, "n_select": 6, "groups": "cluster"}, notebooks_dir=here / "nb")
    make_plan("tiny", "", {"n_clusters": 2, "n_select": 6, "selection": "literal"}, notebooks_dir=here / "nb")


def test_a_task_called_as_a_total_has_another_name_in_a_run(here):
    from assl_kit.artifacts.build_data import load_run_records

    rows = [row | {"task": ("mean", "qa")[number % 2]} for number, row in enumerate(ROWS)]
    put_lines(here / "own.jsonl", rows)
    plan = make_plan("tiny", "", FEW, str(here / "own.jsonl"), notebooks_dir=here / "nb")
    assert set(load_run_records(plan.parameters)["task"]) == {"mean (task)", "qa"}
    assert json.loads((here / "own.jsonl").read_text(encoding="utf-8").splitlines()[0])["task"] == "mean"
