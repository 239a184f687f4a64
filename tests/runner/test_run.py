"""The runner: everything checked before anything runs, a failure kept and told, the kernel this interpreter."""

from __future__ import annotations

import json
import os
import sys

import nbformat
import pytest
from helpers.notebooks import run_here, texts, write_notebook
from helpers.records import full, put_lines

import assl_kit.runner.run as runner
from assl_kit.artifacts.steps import require
from assl_kit.artifacts.workspace import Workspace
from assl_kit.errors import DataError, NotebookError, ParameterError
from assl_kit.runner.plan import find_notebooks, make_plan, read_notebook
from assl_kit.runner.run import run_chain

FIRST = 'profile = "tiny"\nworkspace = ""\nn_clusters: int = 6  # how many experts\nlearning_rate = 0.002'


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder of its own with two notebooks; runs go to its runs/."""
    monkeypatch.chdir(tmp_path)
    write_notebook(
        tmp_path / "nb" / "00_first.ipynb",
        "import os, sys\nfrom assl_kit.artifacts.workspace import Workspace",
        "ws = Workspace.open(workspace)\np = ws.parameters(profile, n_clusters=n_clusters)",
        "print(p.n_clusters, p.seed, learning_rate, os.environ['ASSL_NOTEBOOK'])\nprint(sys.executable)",
        "ws.path_of('a.json').write_text('1')\nws.commit('a.json', key='k')",
        parameters=FIRST,
    )
    write_notebook(
        tmp_path / "nb" / "01_second.ipynb",
        "print('shown', shown)",
        parameters='profile = "tiny"\nworkspace = ""\nshown = 3',
    )
    return tmp_path


@pytest.fixture
def no_kernel(monkeypatch):
    """Anything that would run a notebook fails the test."""
    monkeypatch.setattr(runner, "execute", lambda *_: pytest.fail("a notebook was run"))


def test_the_chain_runs_in_order_with_its_parameters(here):
    lines = []
    ws = run_chain("tiny", "", {"n_clusters": 4, "seed": 3, "shown": 5}, notebooks_dir=here / "nb", say=lines.append)
    assert ws.folder == here / "runs" / "tiny"
    printed = texts(ws.path_of("notebooks/00_first.ipynb")).splitlines()
    assert printed == ["4 3 0.002 00", sys.executable]
    assert texts(ws.path_of("notebooks/01_second.ipynb")) == "shown 5\n"
    assert len(lines) == 3 and [line.split()[0] for line in lines[1:]] == ["00_first", "01_second"]
    manifest = ws.manifest()
    assert [note["status"] for note in manifest["notebooks"].values()] == ["done", "done"]
    assert [note["parameters"] for note in manifest["notebooks"].values()] == [{}, {"shown": 5}]
    assert manifest["parameters"]["seed"] == 3 and manifest["artifacts"]["a.json"]["notebook"] == "00"


def test_the_kernel_is_this_interpreter_with_its_libraries_loaded_whatever_the_user_has_installed(here, monkeypatch):
    spec = {"argv": ["/nowhere/python", "-m", "ipykernel_launcher", "-f", "{connection_file}"], "display_name": "x"}
    folder = here / "jupyter" / "kernels" / "python3"
    folder.mkdir(parents=True)
    (folder / "kernel.json").write_text(json.dumps({**spec, "language": "python"}), encoding="utf-8")
    monkeypatch.setenv("JUPYTER_PATH", str(here / "jupyter"))
    monkeypatch.delenv("ASSL_PRELOAD")
    write_notebook(here / "nb" / "00_first.ipynb", "import sys\nprint(sys.executable, 'peft' in sys.modules)")
    before = dict(os.environ)
    ws = run_chain("tiny", "own", notebooks_dir=here / "nb", last="00", say=lambda _: None)
    assert texts(ws.path_of("notebooks/00_first.ipynb")) == f"{sys.executable} True\n"
    assert dict(os.environ) == before


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (
            "from assl_kit.errors import DataError\nraise DataError('row 3 is zero', hint='Drop it.')",
            "row 3 is zero. Drop it",
        ),
        ("1 / 0", "ZeroDivisionError: division by zero"),
    ],
)
def test_a_failing_cell_stops_the_chain_and_keeps_the_executed_copy(here, error, told):
    write_notebook(here / "nb" / "00_first.ipynb", "print('so far')", error, "print('never')")
    lines = []
    with pytest.raises(NotebookError) as caught:
        run_chain("tiny", "bad", notebooks_dir=here / "nb", say=lines.append)
    assert told in str(caught.value) and "00_first" in str(caught.value)
    assert "runs/bad/notebooks/00_first.ipynb" in str(caught.value) and "Traceback" not in str(caught.value)
    copy = here / "runs" / "bad" / "notebooks" / "00_first.ipynb"
    assert texts(copy) == "so far\n"
    assert not (copy.parent / "01_second.ipynb").exists()
    manifest = json.loads((here / "runs" / "bad" / "manifest.json").read_text(encoding="utf-8"))
    assert {name: note["status"] for name, note in manifest["notebooks"].items()} == {"00_first": "failed"}
    assert "failed" in lines[-1]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"n_cluster": 4}, "unknown parameter 'n_cluster'. Did you mean 'n_clusters'"),
        ({"showm": 4}, "unknown parameter 'showm'. Did you mean 'shown'"),
        ({"shown": "many"}, "shown must be a whole number, got 'many'"),
        ({"shown": True}, "shown must be a whole number, got True"),
        ({"n_select": "abc"}, "n_select must be a whole number"),
        ({"n_clusters": 200, "n_records": 200}, "180 training records are fewer than 200 clusters"),
        ({"n_select": 3}, "cannot choose 3 of 2070"),
        ({"profile": "t4"}, "unknown parameter 'profile'"),
    ],
)
def test_wrong_parameters_are_refused_before_anything_runs(here, no_kernel, overrides, message):
    with pytest.raises((ParameterError, DataError), match=message):
        run_chain("tiny", "x", overrides, notebooks_dir=here / "nb")
    assert not (here / "runs").exists()


@pytest.mark.parametrize("name", ["../x", "a/b", ".hidden", "", "x" * 101])
def test_a_run_has_a_plain_name(here, no_kernel, name):
    if name == "":
        assert make_plan("tiny", name, notebooks_dir=here / "nb").name == "tiny"
        return
    with pytest.raises(ParameterError, match="no name for a run"):
        run_chain("tiny", name, notebooks_dir=here / "nb")


def test_own_data_is_read_whole_and_found_from_the_runs_folder(here, no_kernel):
    rows = [{"instruction": "判断情绪。", "input": f"第{i}条", "output": "中性", "weight": 0.5} for i in range(100)]
    (here / "my data.jsonl").write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    plan = make_plan("tiny", data="my data.jsonl", notebooks_dir=here / "nb")
    assert plan.name == "tiny-my-data"
    assert plan.parameters.data == str(here / "my data.jsonl")
    assert plan.parameters.n_records == 0  # all of them
    assert plan.parameters.n_test == 50 and make_plan("tiny", notebooks_dir=here / "nb").parameters.n_test == 0
    for n_test in (0, 7):
        asked = make_plan("tiny", "", {"n_test": n_test}, "my data.jsonl", notebooks_dir=here / "nb")
        assert asked.parameters.n_test == n_test
    assert (
        make_plan(
            "cpu-llm", "", {"base_model": "tiny", "n_select": 12}, "my data.jsonl", notebooks_dir=here / "nb"
        ).parameters.n_test
        == 10
    )
    part = make_plan("tiny", "", {"n_records": 80}, "my data.jsonl", notebooks_dir=here / "nb")
    assert part.parameters.n_records == 80
    make_plan("tiny", "", {"score": "column:weight"}, "my data.jsonl", notebooks_dir=here / "nb")
    with pytest.raises(ParameterError, match="no column 'height'"):
        make_plan("tiny", "", {"score": "column:height"}, "my data.jsonl", notebooks_dir=here / "nb")
    with pytest.raises(DataError, match="fewer than 95 clusters"):
        make_plan("tiny", "", {"n_clusters": 95}, "my data.jsonl", notebooks_dir=here / "nb")


def test_a_part_of_the_chain(here):
    for bounds in (("1", "01"), ("01",), ("1", "09")):
        assert [book.name for book in find_notebooks(here / "nb", *bounds)] == ["01_second"]
    for bounds, message in [
        (("03",), r"there is no notebook 03 \(nb\)\. There are 00, 01\."),
        (("00", "60"), r"there is no notebook 60 \(nb\)\. There are 00, 01\."),
        (("01", "08"), "there is no notebook 08"),
        (("01", "00"), r"there is no notebook from 01 to 00 \(nb\)\. There are 00, 01\."),
        (("09",), "there is no notebook from 09 to 09"),
        (("x1",), r"'x1' is no notebook number \(nb\)\. There are 00, 01\."),
    ]:
        with pytest.raises(ParameterError, match=message):
            find_notebooks(here / "nb", *bounds)


def test_only_declared_names_are_injected(here):
    plan = make_plan("tiny", "", {"shown": 1}, notebooks_dir=here / "nb")
    first, second = plan.notebooks
    assert plan.values_for(first) == {"profile": "tiny", "n_clusters": 6, "learning_rate": 0.002}
    assert plan.values_for(second) == {"profile": "tiny", "shown": 1}


def test_a_notebook_needs_one_cell_of_plain_parameters(here):
    path = write_notebook(here / "x" / "00_x.ipynb", parameters="a = 1\nb: float = 0.5  # share\nc = -1\nd = 'x'")
    assert read_notebook(path).declared == {"a": 1, "b": 0.5, "c": -1, "d": "x"}
    with pytest.raises(DataError, match="'a' is not a plain value"):
        read_notebook(write_notebook(path, parameters="a = len('x')"))
    book = nbformat.read(path, as_version=4)
    book.cells[0].metadata.tags = []
    nbformat.write(book, path)
    with pytest.raises(DataError, match="0 cells are tagged 'parameters'"):
        read_notebook(path)
    path.write_text("{", encoding="utf-8")
    with pytest.raises(DataError, match="not a notebook"):
        read_notebook(path)


def states(here, overrides=None, *, first="01", data=None):
    """What a run of the second notebook says of each; see `run_here`."""
    lines = []
    run_chain("tiny", "own", overrides, data, notebooks_dir=here / "nb", first=first, say=lines.append)
    return [line.split()[1] for line in lines[1:]]


def test_a_notebook_runs_again_when_a_value_of_its_own_changes(here, monkeypatch):
    run_here(monkeypatch)
    assert [states(here), states(here)] == [["done"], ["cached"]]
    assert [states(here, {"shown": 4}), states(here, {"shown": 4})] == [["done"], ["cached"]]


def test_a_notebook_runs_again_where_its_input_was_made_anew_by_another(here, monkeypatch):
    run_here(monkeypatch)
    write_notebook(
        here / "nb" / "01_second.ipynb",
        "from assl_kit.artifacts.steps import require\nfrom assl_kit.artifacts.workspace import Workspace",
        'ws = Workspace.open(workspace)\nrequire(ws, "records", ws.parameters(profile), notebook="01")',
    )
    data, few = str(put_lines(here / "mine.jsonl", full(60, split="train"))), {"n_clusters": 2}
    assert [states(here, few, data=data), states(here, few, data=data)] == [["done"], ["cached"]]
    put_lines(here / "mine.jsonl", full(61, split="train"))
    ws = Workspace.open(here / "runs" / "own")
    assert len(require(ws, "records", ws.current_parameters())) == 61  # now current, but not what was shown
    assert states(here, few, data=data) == ["done"]


def test_a_notebook_at_work_is_noted_and_an_interrupt_too(here, monkeypatch):
    run_here(monkeypatch)
    notes = []

    def execute(book, ws, values, kernel):
        notes.append(ws.manifest()["notebooks"][book.name])
        raise KeyboardInterrupt

    monkeypatch.setattr(runner, "execute", execute)
    with pytest.raises(KeyboardInterrupt):
        states(here, {"shown": 4})
    assert notes == [{"status": "running", "parameters": {"shown": 4}}]
    note = Workspace.open(here / "runs" / "own").manifest()["notebooks"]["01_second"]
    assert note["status"] == "interrupted" and note["parameters"] == {"shown": 4} and "key" not in note


def test_numbers_of_a_notebook_alone_have_the_kind_and_the_least_value_that_fits(here):
    parameters = 'profile = "tiny"\nworkspace = ""\nn_draws = 5\nshare = 0.5'
    book = write_notebook(here / "nb" / "01_second.ipynb", parameters=parameters)
    plan = make_plan("tiny", "", {"n_draws": 1, "share": 1}, notebooks_dir=here / "nb")
    assert plan.own_of(read_notebook(book)) == {"n_draws": 1, "share": 1}
    for wrong, message in (
        ({"n_draws": 0}, "n_draws must be a whole number of at least 1, not 0"),
        ({"n_draws": 1.0}, "n_draws must be a whole number, got 1.0"),
        ({"share": "half"}, "share must be a number, got 'half'"),
    ):
        with pytest.raises(ParameterError, match=message):
            make_plan("tiny", "", wrong, notebooks_dir=here / "nb")
