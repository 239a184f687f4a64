"""Kernels of a run: their command is kept in memory, and one that dies or finds the disk full is one message."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import tempfile

import joblib
import pytest
from helpers.notebooks import texts, write_notebook

from assl_kit.artifacts.workspace import Workspace
from assl_kit.errors import NotebookError
from assl_kit.runner.kernel import _start_workers
from assl_kit.runner.plan import read_notebook
from assl_kit.runner.run import execute


@pytest.fixture
def chain(monkeypatch, tmp_path):
    """Takes the cell of the only notebook."""
    monkeypatch.setattr("assl_kit.runner.plan.notebooks_folder", lambda: tmp_path / "nb")
    return lambda cell: write_notebook(tmp_path / "nb" / "00_only.ipynb", cell)


def test_a_kernel_needs_no_file_and_no_change_of_the_environment(assl, chain, tmp_path, monkeypatch):
    """Of a run that is killed nothing stays in the temporary folder; a kernel of the user's is not taken instead."""
    (tmp_path / "mine" / "kernels" / "python3").mkdir(parents=True)
    (tmp_path / "mine" / "kernels" / "python3" / "kernel.json").write_text('{"argv": ["false"]}', encoding="utf-8")
    (tmp_path / "temporary").mkdir()
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "mine"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    chain(
        "import os, sys, pathlib\nprint(sys.executable, os.environ['JUPYTER_PATH'], os.environ['ASSL_NOTEBOOK'])\n"
        "print(*pathlib.Path(os.environ['TMPDIR']).glob('*'), 'end')\n"
        f"raise OSError({errno.ENOSPC}, os.strerror({errno.ENOSPC}), 'a.json')"
    )
    code, _, err = assl("run")
    executed = tmp_path / "runs" / "tiny" / "notebooks" / "00_only.ipynb"
    assert texts(executed) == f"{sys.executable} {tmp_path / 'mine'} 00\nend\n"
    assert code == 3 and err.count("\n") == 1 and "No space left on device: 'a.json' (00_only, cell" in err
    assert Workspace.open(tmp_path / "runs" / "tiny").manifest()["notebooks"]["00_only"]["status"] == "failed"
    assert os.environ["JUPYTER_PATH"] == str(tmp_path / "mine")


@pytest.mark.skipif(os.name == "nt", reason="Windows starts no shell script")
def test_a_kernel_that_dies_at_its_start_is_one_message(assl, chain, monkeypatch, tmp_path):
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\nexit 1\n", encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    chain("print(1)")
    code, _, err = assl("run")
    assert code == 1 and err.count("\n") == 1 and "the notebook's kernel did not start" in err
    assert Workspace.open(tmp_path / "runs" / "tiny").manifest()["notebooks"]["00_only"]["status"] == "failed"


@pytest.mark.skipif(os.name == "nt", reason="Windows has no right to execute a file")
def test_a_kernel_that_cannot_be_started_is_one_message(assl, chain, monkeypatch, tmp_path):
    (tmp_path / "python").write_text("no program", encoding="utf-8")
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    chain("print(1)")
    code, _, err = assl("run")
    assert code == 3 and err.count("\n") == 1 and "Permission denied" in err


@pytest.mark.parametrize(
    ("name", "text", "number"),
    [
        ("OSError", "[Errno 28] No space left on device: 'a'", errno.ENOSPC),
        ("PermissionError", "[Errno 13] Permission denied: 'a'", errno.EACCES),
        ("SafetensorError", "Error while serializing: I/O error: No space left on device (os error 28)", errno.ENOSPC),
        ("RuntimeError", "[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534", errno.EIO),
        ("FileNotFoundError", "[Errno 2] No such file or directory: 'a'", None),
        ("AssertionError", "the disk is full", None),
        ("WorkspaceError", "a.json cannot be read ([Errno 28] in a text of ours)", None),
    ],
)
def test_a_refusal_within_a_notebook_is_told_from_a_failure(monkeypatch, tmp_path, chain, name, text, number):
    import papermill

    def fails(*_, **__):
        raise papermill.PapermillExecutionError(0, 1, "cell", name, text, [])

    monkeypatch.setattr(papermill, "execute_notebook", fails)
    ws = Workspace.open(tmp_path / "ws")
    with pytest.raises(NotebookError) as caught:
        execute(read_notebook(chain("print(1)")), ws, {}, None)
    assert getattr(caught.value.__cause__, "errno", None) == number and text.rstrip(".") in str(caught.value)


def test_errors_of_a_library_that_are_no_dead_kernel_are_not_called_so(monkeypatch, tmp_path, chain):
    import papermill

    def fails(*_, **__):
        raise RuntimeError("a fault of a library")

    monkeypatch.setattr(papermill, "execute_notebook", fails)
    with pytest.raises(RuntimeError, match="a fault of a library"):
        execute(read_notebook(chain("print(1)")), Workspace.open(tmp_path / "ws"), {}, None)


def test_processes_are_started_ahead_for_notebooks_that_train_in_them(tmp_path, monkeypatch):
    """Not for others, not where the work is done already, and never at the cost of the kernel."""
    ws = Workspace.open(tmp_path)
    parameters = ws.parameters("tiny", n_records=210)
    monkeypatch.setenv("ASSL_WORKSPACE", str(tmp_path))
    started = []
    monkeypatch.setattr("assl_kit.artifacts.build_experts.start_workers", started.append)
    for number in ("00", "01", "05", "06", "09", "08", ""):
        _start_workers(number)
    assert started == [parameters, parameters]
    monkeypatch.setattr("assl_kit.artifacts.steps.is_current", lambda ws, name, parameters: name == "experts")
    _start_workers("06")
    assert len(started) == 2
    _start_workers("07")
    assert len(started) == 3


@pytest.mark.slow
def test_processes_started_ahead_are_those_that_work_later(tmp_path):
    code = (
        "import os\nfrom joblib import delayed\nfrom assl_kit.artifacts import build_experts as build\n"
        "from assl_kit.artifacts.parameters import resolve\np = resolve('tiny', device='cpu')\n"
        "build.start_workers(p)\nfrom joblib.externals.loky import reusable_executor\n"
        "ahead = set(reusable_executor._executor._processes)\n"
        "workers, few = (set(build.side_by_side(p, [delayed(os.getpid)()] * 6, n)) for n in (200, 199))\n"
        "mine = {os.getpid()}\n"
        "print(build.training_jobs(p), len(ahead), workers <= ahead, mine <= workers, few == mine)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    expected = "2 2 True False True" if joblib.cpu_count() > 1 else "1 0 False True True"
    assert done.stdout.strip() == expected
