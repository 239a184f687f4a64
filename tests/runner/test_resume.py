"""Runs that are killed, changed and run again: nothing twice, nothing half-written, and the same end."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from contextlib import nullcontext

import nbformat
import psutil
import pytest
from helpers.notebooks import write_notebook

import assl_kit.runner.run as runner
from assl_kit.artifacts.steps import STEPS, state_of
from assl_kit.artifacts.workspace import Workspace
from assl_kit.common.files import atomic_path, temporary_owner, write_json
from assl_kit.errors import NotebookError, WorkspaceError
from assl_kit.runner.plan import find_notebooks, make_plan, notebooks_folder, read_notebook
from assl_kit.runner.resume import inputs_of, is_finished, is_running, remove_leftovers, run_lock
from assl_kit.runner.run import run_chain

SMALL = {
    "n_records": 200,
    "n_clusters": 3,
    "n_select": 24,
    "warmup_records": 8,
    "epochs": 2,
    "affinity_records": 0,
    "n_test": 2,
    "regret_per_task": 1,
    "max_new_tokens": 4,
    "max_length": 128,
    "full_epochs": 1,
}
HEAD = "from assl_kit.artifacts.steps import require\nfrom assl_kit.artifacts.workspace import Workspace\n"
OPEN = "ws = Workspace.open(workspace)\nparams = ws.parameters(profile, seed=seed)"


def asks_for(path, *names):
    """A notebook that asks for artifacts, one cell each."""
    cells = [f'require(ws, "{name}", params, notebook="{path.name[:2]}")\nprint("{name}")' for name in names]
    return write_notebook(path, HEAD + OPEN, *cells, parameters='profile = "tiny"\nworkspace = ""\nseed = 0')


@pytest.fixture
def chain(tmp_path, monkeypatch):
    """Three notebooks that make every artifact but the affinity; runs go to a folder of the test."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "nb"
    asks_for(folder / "05_choose.ipynb", "records", "embeddings", "clusters", "pool", "scores", "selection")
    asks_for(folder / "06_train.ipynb", "experts")
    asks_for(folder / "08_measure.ipynb", "answers", "metrics")
    return folder


def run(chain, *, name="run", **changes):
    lines = []
    ws = run_chain("tiny", name, {**SMALL, **changes}, notebooks_dir=chain, say=lines.append)
    return ws, [line.split()[1] for line in lines[1:]]


def hashes(ws):
    return {name: entry["sha256"] for name, entry in ws.manifest()["artifacts"].items()}


# what is finished -----------------------------------------------------------------------------------------------------
@pytest.fixture
def light(tmp_path, monkeypatch):
    """Two notebooks without a model, executed here: without a kernel of their own they take no time."""

    def execute(book, ws, values, kernel):
        monkeypatch.setenv("ASSL_WORKSPACE", str(ws.folder))
        shown = {}
        try:
            for cell in nbformat.read(book.path, as_version=4).cells:
                exec(cell.source, shown)
                shown |= values
        except Exception as error:
            raise NotebookError(str(error)) from error
        finally:
            ws.path_of("notebooks").mkdir(exist_ok=True)
            shutil.copy(book.path, ws.path_of("notebooks"))

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(runner, "execute", execute)
    monkeypatch.setattr(runner, "kernel_starter", lambda ws: nullcontext(lambda number: None))
    monkeypatch.setattr(runner, "peak_of", lambda kernel: None)
    asks_for(tmp_path / "nb" / "01_data.ipynb", "records")
    asks_for(tmp_path / "nb" / "03_space.ipynb", "clusters")
    return tmp_path / "nb"


def test_what_is_finished_is_not_run_twice_until_something_changes(light):
    ws, said = run(light)
    assert said == ["done", "done"]
    first = hashes(ws)
    ws, said = run(light)
    assert said == ["cached", "cached"] and hashes(ws) == first
    assert run(light, n_clusters=4)[1] == ["cached", "done"]  # a parameter of the second notebook's artifact only
    assert run(light)[1] == ["cached", "done"] and hashes(ws) == first
    assert run(light, epochs=5)[1] == ["cached", "cached"]  # a parameter of neither
    assert run(light, seed=1)[1] == ["done", "done"]
    assert run(light, seed=1)[1] == ["cached", "cached"]
    asks_for(light / "03_space.ipynb", "clusters", "embeddings")
    assert run(light, seed=1)[1] == ["cached", "done"]


def test_a_changed_or_missing_file_is_made_again(light):
    ws, _ = run(light)
    first = hashes(ws)
    ws.path_of("clusters.parquet").write_bytes(b"broken")
    assert run(light)[1] == ["cached", "done"] and hashes(ws) == first
    ws.path_of("records.parquet").unlink()
    assert run(light)[1] == ["done", "cached"] and hashes(ws) == first
    (ws.folder / "notebooks" / "01_data.ipynb").write_text("{", encoding="utf-8")
    assert run(light)[1] == ["done", "cached"]


def test_finished_notebooks_run_again_where_that_is_asked_for(light):
    run(light)
    lines = []
    run_chain("tiny", "run", SMALL, notebooks_dir=light, force=True, say=lines.append)
    assert [line.split()[1] for line in lines[1:]] == ["done", "done"]


def test_after_a_failure_the_chain_goes_on_where_it_broke(light):
    write_notebook(light / "02_bad.ipynb", "raise ValueError('not yet')")
    with pytest.raises(NotebookError, match="not yet"):
        run(light)
    note = Workspace.open("runs/run").manifest()["notebooks"]["02_bad"]
    assert note["status"] == "failed" and "not yet" in note["message"]
    write_notebook(light / "02_bad.ipynb", "print('now')")
    assert run(light)[1] == ["cached", "done", "done"]


def test_a_name_that_is_only_mentioned_is_no_input(light):
    path = write_notebook(light / "00_toy.ipynb", "table = {'clusters': 1}\nprint(\"clusters\")")
    assert inputs_of(read_notebook(path)) == []
    run(light)
    assert run(light)[1] == ["cached"] * 3


def test_every_notebook_of_the_chain_names_what_it_reads():
    """`inputs_of` finds them by name, so that they must be asked for by name."""
    for book in find_notebooks(notebooks_folder()):
        own = [name for name, step in STEPS.items() if step.notebook == book.number]
        assert set(own) <= set(inputs_of(book)), book.name
        assert book.source.count("require(") - book.source.count("import require") <= sum(
            book.source.count(f'ws, "{name}", params') for name in STEPS
        ), book.name


def test_the_state_of_artifacts_follows_their_parents(light):
    ws, _ = run(light)
    plan = make_plan("tiny", "run", SMALL, notebooks_dir=light)
    names = ["records", "embeddings", "clusters", "pool"]
    assert list(state_of(ws, plan.parameters, names).values()) == ["current"] * 3 + ["missing"]
    ws.path_of("records.parquet").write_bytes(b"other")
    assert list(state_of(ws, plan.parameters, names).values()) == ["out of date"] * 3 + ["missing"]
    assert not any(is_finished(ws, book, plan) for book in plan.notebooks)


# one process, and nothing left behind ---------------------------------------------------------------------------------
def test_a_run_belongs_to_one_process(light, monkeypatch):
    ws, _ = run(light)
    monkeypatch.setattr(runner, "execute", lambda *_: pytest.fail("a notebook was run"))
    assert not is_running(ws)
    code = (
        "import sys\nfrom assl_kit.runner.resume import run_lock\nfrom assl_kit.artifacts.workspace import Workspace\n"
    )
    code += "with run_lock(Workspace.open('runs/run')):\n    print('held', flush=True)\n    sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"held\n"
        assert is_running(ws)
        with pytest.raises(WorkspaceError, match="another 'assl run' is at work here"):
            run(light)
        other.kill()
    assert not is_running(ws)
    with run_lock(ws):
        assert is_running(ws), "the lock of a process that was killed can be taken"
    assert not is_running(ws)


def test_half_written_files_of_dead_processes_are_removed_and_only_those(tmp_path):
    ws = Workspace.open(tmp_path / "ws")
    write_json(ws.path_of("a.json"), 1)
    gone = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    dead = ws.folder / "notebooks" / f".x.ipynb.pid{int(gone.stdout)}.abcdefgh"
    dead.mkdir(parents=True)
    (dead / "x.ipynb").write_text("half", encoding="utf-8")
    with atomic_path(ws.path_of("b.json")) as temporary:
        temporary.write_text("2", encoding="utf-8")
        assert temporary_owner(temporary.parent.name) == os.getpid()
        remove_leftovers(ws)
        assert not dead.exists() and temporary.is_file()
    assert ws.json("a.json") == 1 and ws.json("b.json") == 2


def test_two_processes_do_not_lose_each_others_entries(tmp_path):
    code = "import sys\nfrom assl_kit.artifacts.workspace import Workspace\nws = Workspace.open(sys.argv[1])\n"
    code += "for i in range(20):\n    ws.update_manifest('artifacts', {f'{sys.argv[2]}{i}': {'sha256': ''}})"
    command = [sys.executable, "-c", code, str(tmp_path / "ws")]
    both = [subprocess.Popen([*command, letter]) for letter in "ab"]
    assert [process.wait() for process in both] == [0, 0]
    assert len(Workspace.open(tmp_path / "ws").manifest()["artifacts"]) == 40


# kill -9 --------------------------------------------------------------------------------------------------------------
def in_training(folder):
    """Whether a run is amid the training of an expert, as far as its folder tells."""
    return any(folder.glob("experts.partial/expert-*.partial"))


def kill_after(command, folder, changes, delay, seconds=90, amid_training=False):
    """Start a run, kill it a while after so many changes of its manifest; False if it ended before.

    With ``amid_training`` it is killed once an expert is being trained.
    """
    manifest, seen = folder / "manifest.json", 0
    last = manifest.stat().st_mtime_ns if manifest.is_file() else 0
    with open(folder.parent / "stderr", "ab") as errors:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=errors)
    end = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < end:
        if in_training(folder) if amid_training else seen >= changes:
            break
        now = manifest.stat().st_mtime_ns if manifest.is_file() else 0
        seen, last = seen + (now != last), now
        time.sleep(0.005)
    time.sleep(delay)
    process.kill()
    return process.wait() == -signal.SIGKILL


def note_of(folder):
    """The artifacts that a run has noted."""
    manifest = folder / "manifest.json"
    return json.loads(manifest.read_text(encoding="utf-8"))["artifacts"] if manifest.is_file() else {}


def at_work_in(folder):
    """Processes whose current folder is the given one or below it."""
    found = []
    for process in psutil.process_iter(["cwd", "cmdline"]):
        if str(process.info["cwd"] or "").startswith(str(folder)):
            found.append(process.info)
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere kernels of a killed runner end by themselves, later")
@pytest.mark.timeout(1500)
@pytest.mark.slow
def test_killed_at_twenty_moments_a_run_ends_as_if_unbroken(chain, tmp_path):
    """Real kernels, records, space, selection, experts and measures; kill -9 for the runner at random moments.

    Every third is put off until an expert is being trained, where none is trained yet.
    """
    whole, said = run(chain, name="whole")
    assert said == ["done"] * 3
    given = [item for name, value in SMALL.items() for item in ("-p", name, str(value))]
    code = "import sys\nimport assl_kit.runner.plan as plan\nfrom pathlib import Path\n"
    code += "folder = Path(sys.argv.pop(1))\nplan.notebooks_folder = lambda: folder\n"
    code += "from assl_kit.app.cli import main\nmain()"
    command = [sys.executable, "-c", code, str(chain), "run", "--from", "05", "--to", "08", *given, "--name"]
    draw, names, met = random.Random(0), ["broken-0"], []
    while len(met) < 20:
        folder = tmp_path / "runs" / names[-1]
        changes, delay = draw.choice([0, 1, 2, 2, 3, 3]), draw.uniform(0, 0.7)
        waits = len(met) % 3 == 2 and "experts" not in note_of(folder)
        delay = draw.uniform(0, 0.2) if waits else delay
        if kill_after([*command, names[-1]], folder, changes, delay, amid_training=waits):
            met.append("training" if in_training(folder) else next(reversed(note_of(folder)), "nothing"))
        else:
            names.append(f"broken-{len(names)}")
        assert set(note_of(folder)) <= set(hashes(whole))
    assert met.count("training") >= 2 and len(set(met)) >= 3, f"the kills met {met}"
    end = time.monotonic() + 30
    while (left := at_work_in(tmp_path / "runs")) and time.monotonic() < end:
        time.sleep(0.1)
    assert not left  # no kernel and no worker of a killed run goes on
    told = (tmp_path / "runs" / "stderr").read_text(encoding="utf-8")  # joblib's tracker tells what it cleans up
    assert "assl:" not in told and "Traceback" not in told, told  # killed or done, but never in error
    for name in names:
        ended = subprocess.run([*command, name], capture_output=True, text=True, check=False)
        assert ended.returncode == 0, ended.stderr
        broken = Workspace.open(tmp_path / "runs" / name)
        assert hashes(broken) == hashes(whole)
        assert [note["status"] for note in broken.manifest()["notebooks"].values()] == ["done"] * 3
        assert not [path for path in broken.folder.rglob("*") if temporary_owner(path.name) is not None]
        assert not broken.has("experts.partial") and not broken.has("comparison.partial")
        assert broken.json("metrics.json")["corpus"]["chosen"] == 24


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such signal")
@pytest.mark.parametrize(("parent", "code"), [("os.getppid()", 0), ("os.getppid() + 1", 1)])
def test_a_process_whose_parent_ended_before_it_began_ends_too(parent, code):
    source = f"import os\nfrom assl_kit.common.parallel import end_with_parent\nend_with_parent({parent})"
    assert subprocess.run([sys.executable, "-c", source], check=False).returncode == code


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such signal")
def test_a_worker_that_got_no_work_ends_with_its_parent(tmp_path):
    source = """
import os, signal
from joblib import Parallel, delayed, parallel_config
from joblib.externals.loky.process_executor import ProcessPoolExecutor
from assl_kit.common.parallel import worker_settings
start = ProcessPoolExecutor._adjust_process_count
def start_and_die(self):
    start(self)
    os.kill(os.getpid(), signal.SIGKILL)
ProcessPoolExecutor._adjust_process_count = start_and_die
with parallel_config(**worker_settings()):
    Parallel(n_jobs=2)(delayed(abs)(x) for x in range(4))
"""
    killed = subprocess.run([sys.executable, "-c", source], cwd=tmp_path, check=False)
    assert killed.returncode == -signal.SIGKILL
    end = time.monotonic() + 60
    while at_work_in(tmp_path) and time.monotonic() < end:
        time.sleep(0.1)
    assert not at_work_in(tmp_path)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such signal")
def test_a_kernel_whose_runner_is_gone_does_not_begin():
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    environment = os.environ | {"JPY_PARENT_PID": str(gone.pid)}
    command = [sys.executable, "-m", "assl_kit.runner.kernel", "--log-level=50"]
    assert subprocess.run(command, env=environment, timeout=120, check=False).returncode == 1
