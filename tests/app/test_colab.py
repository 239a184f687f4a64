"""The Colab notebook, without Colab: the order of its cells, a simulated google.colab, all of it through papermill."""

from __future__ import annotations

import ast
import functools
import http.server
import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import threading
import types
import zipfile
from pathlib import Path

import nbformat
import papermill
import pytest
from helpers import ROOT
from helpers.notebooks import write_notebook

from assl_kit import SilverSight, Workspace
from assl_kit.app import colab
from assl_kit.artifacts.parameters import profile_names
from assl_kit.common.device import Device
from assl_kit.common.files import write_json
from assl_kit.errors import DataError, NotebookError, ParameterError, WorkspaceError
from assl_kit.runner.plan import given_values, make_plan
from assl_kit.teaching.environment import check_environment
from benchmarks.gpu.table import minutes_on_a_t4

pytestmark = pytest.mark.long

NOTEBOOK = ROOT / "colab" / "run_all.ipynb"
CELLS = [cell for cell in nbformat.read(NOTEBOOK, as_version=4).cells if cell.cell_type == "code"]
CHECK, INSTALL, PARAMETERS = (cell.source for cell in CELLS[:3])
CPU, T4 = Device("cpu", "float32", 32, "CPU"), Device("cuda", "float16", 64, "Tesla T4")
WHEEL = "assl_kit-9.9-py3-none-any"
KEPT_APART = {"torch", "torchvision", "torchaudio", "numpy", "pandas", "scipy", "scikit-learn", "ipykernel"}


def imports(source: str) -> set[str]:
    nodes = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Import | ast.ImportFrom)]
    return {name.split(".")[0] for node in nodes for name in [getattr(node, "module", None) or node.names[0].name]}


# order ----------------------------------------------------------------------------------------------------------------
def test_it_checks_the_gpu_first_installs_second_and_asks_third():
    assert "nvidia-smi" in CHECK and "pip" not in CHECK
    assert '"pip", "install"' in INSTALL
    assert CELLS[2].metadata.tags == ["parameters"] and not any(cell.metadata.get("tags") for cell in CELLS[3:])
    later = "\n".join(cell.source for cell in CELLS[3:])
    places = [later.index(word) for word in ("make_plan", "run_shown", "step_costs", "download_bank", ".stream(")]
    assert places == sorted(places)
    assert "pip" not in later


def test_what_runs_before_the_package_is_there_needs_only_python():
    assert imports(CHECK) <= set(sys.stdlib_module_names)
    before, _, after = INSTALL.partition("import assl_kit\n")
    assert imports(before) <= {*sys.stdlib_module_names, "google"} and after
    assert not imports(PARAMETERS)


def test_no_line_of_its_code_is_cut_on_a_page():
    assert [line for cell in CELLS for line in cell.source.splitlines() if len(line) > 95] == []


def test_the_choices_are_form_fields_with_plain_defaults():
    for line in PARAMETERS.splitlines():
        name, field = line.split("=", 1)
        value, _, form = field.partition("  # @param ")
        ast.literal_eval(value.strip())
        assert form, f"{name} has no form field"
    profiles = ast.literal_eval(PARAMETERS.splitlines()[0].split("# @param ")[1])
    assert profiles[0] == "auto" and sorted(profiles[1:]) == profile_names()


# the first cell -------------------------------------------------------------------------------------------------------
def first_cell(tmp_path, told: str | None) -> str:
    """What the first cell prints on a machine whose nvidia-smi tells this; None: there is none."""
    if told is not None:
        tool = tmp_path / "nvidia-smi"
        tool.write_text(f"#!/bin/sh\necho '{told}'\n", encoding="utf-8")
        tool.chmod(0o755)
    environment = {"PATH": str(tmp_path), "PYTHONIOENCODING": "utf-8"}
    environment |= {name: os.environ[name] for name in ("KAGGLE_KERNEL_RUN_TYPE",) if name in os.environ}
    done = subprocess.run(
        [sys.executable, "-I", "-c", CHECK], env=environment, capture_output=True, text=True, encoding="utf-8"
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


posix = pytest.mark.skipif(os.name != "posix", reason="Colab is Linux")


@posix
def test_without_a_gpu_it_says_so_and_what_runs_instead(tmp_path):
    printed = first_cell(tmp_path, None)
    assert "There is no GPU: 'auto' runs the profile tiny" in printed and "GB of disk free" in printed
    assert [line.split()[0] for line in printed.splitlines() if line.startswith(tuple(profile_names()))]
    assert all(name in printed for name in profile_names())


@posix
def test_on_kaggle_it_names_kaggles_menu(tmp_path, monkeypatch):
    monkeypatch.setenv("KAGGLE_KERNEL_RUN_TYPE", "Interactive")
    assert "choose Settings → Accelerator → T4 GPU" in first_cell(tmp_path, None)


@posix
@pytest.mark.parametrize(
    ("told", "line"), [("Tesla T4, 15360", "GPU: Tesla T4, 15.0 GB"), ("NVIDIA GB10, [N/A]", "GPU: NVIDIA GB10")]
)
def test_with_a_gpu_it_names_it(tmp_path, told, line):
    printed = first_cell(tmp_path, told)
    assert line in printed.splitlines() and "'auto' runs the profile t4" in printed


@posix
def test_a_driver_that_fails_counts_as_no_gpu(tmp_path):
    assert "There is no GPU" in first_cell(tmp_path, "NVIDIA-SMI has failed because it could not reach the driver.")


def test_times_that_nobody_measured_say_so():
    for profile in ("t4", "paper"):
        *_, line = (line for line in CHECK.splitlines() if line.strip().startswith(f'"{profile}"'))
        assert "estimate" in line and ("not measured" in line or "(estimate)" in line.rsplit('"', 2)[1])
    low, high = minutes_on_a_t4()
    assert f"{low:.0f} to {high:.0f} min of training (sums)" in CHECK


# the second cell ------------------------------------------------------------------------------------------------------
@pytest.fixture
def google(monkeypatch, tmp_path):
    """A simulated google.colab; what is called is written down."""
    calls = []
    google = types.ModuleType("google.colab")
    google.drive = types.SimpleNamespace(mount=lambda place: calls.append(("mount", place)))
    google.files = types.SimpleNamespace(
        uploads={"my data.jsonl": b"{}"},
        upload=lambda: calls.append(("upload",)) or dict(google.files.uploads),
        download=lambda path: calls.append(("download", path)),
    )
    google.userdata = types.SimpleNamespace(get=lambda name: calls.append(("secret", name)) or "hf_secret")
    google.calls = calls
    for name in ("drive", "files", "userdata"):
        monkeypatch.setitem(sys.modules, f"google.colab.{name}", getattr(google, name))
    monkeypatch.setitem(sys.modules, "google.colab", google)
    monkeypatch.setattr(colab, "DRIVE", tmp_path / "content" / "drive")
    monkeypatch.chdir(tmp_path)
    return google


@pytest.fixture
def pip(monkeypatch):
    """Colab's machine as the second cell sees it, before the package is there; what it calls is written down."""
    versions = {"torch": "2.8.0+cu126", "numpy": "2.0.2", "pandas": "2.2.2", "ipykernel": "6.17.1"}
    machine = types.SimpleNamespace(versions=versions, calls=[], constraints="", result=0, after={}, answers=[])

    def run(words, **options):
        machine.calls.append(words)
        if "pip" in words:
            machine.constraints = Path(words[words.index("-c") + 1]).read_text(encoding="utf-8")
            versions.update(machine.after)
        result = machine.answers.pop(0) if machine.answers else machine.result
        return types.SimpleNamespace(returncode=result, stderr="ERROR: no matching distribution")

    def version(name):
        if name in versions:
            return versions[name]
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(importlib.metadata, "version", version)
    requires = ["ipykernel==6.17.1", "pandas==2.2.2", "google-auth==2.38.0"]
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: requires)
    return machine


def install(**changes):
    source = INSTALL
    for name, value in changes.items():
        (line,) = (line for line in source.splitlines() if line.startswith(f"{name} = "))
        source = source.replace(line, f"{name} = {value!r}")
    exec(compile(source, "install", "exec"), {})


def test_the_install_names_the_package_only_and_is_held_by_constraints(google, pip, capsys):
    install(package="assl-kit")
    command, check = pip.calls
    assert command[1:5] == ["-m", "pip", "install", "-q"] and command[-1] == "assl-kit[colab,train]"
    assert not any(name in word for word in command for name in ("torch", "numpy"))
    lines = pip.constraints.split()
    assert {"torch==2.8.0+cu126", "numpy==2.0.2", "pandas==2.2.2", "ipykernel==6.17.1"} <= set(lines)
    assert "google-auth==2.38.0" not in lines  # not installed here: nothing to keep
    assert check[1] == "-c" and "import torch, numpy" in check[2] and "assl_kit" in check[2]
    printed = capsys.readouterr().out
    assert "kept: torch 2.8.0+cu126, numpy 2.0.2" in printed and "assl-kit" in printed


@pytest.mark.parametrize(
    ("package", "wanted"),
    [
        ("git+https://github.com/a/b", "assl-kit[colab,train,gpu] @ git+https://github.com/a/b"),
        ("./assl_kit-1.2-py3-none-any.whl", "./assl_kit-1.2-py3-none-any.whl[colab,train,gpu]"),
    ],
)
def test_the_package_may_come_from_elsewhere(google, pip, package, wanted):
    install(package=package, extras="colab,train,gpu")
    assert pip.calls[0][-1] == wanted


def test_a_failed_install_stops_with_what_to_do(google, pip):
    pip.result = 1
    with pytest.raises(RuntimeError, match="(?s)was not installed.*upload.*make dist.*git.https.*Kaggle.*no matching"):
        install(package="git+https://github.com/a/b")
    assert len(pip.calls) == 1


def test_where_the_index_has_no_package_a_wheel_is_asked_for(google, pip, capsys):
    google.files.uploads = {"notes.txt": b"x", f"{WHEEL} (2).whl": b"a wheel"}
    pip.answers = [1, 0]
    install()
    by_name, by_wheel = (words[-1] for words in pip.calls[:2])
    assert by_name == "assl-kit[colab,train]" and google.calls == [("upload",)]
    path = Path(by_wheel.removesuffix("[colab,train]"))
    assert path.name == f"{WHEEL}.whl" and path.read_bytes() == b"a wheel"  # not a browser's "(2)", which pip refuses
    assert "no matching distribution" in capsys.readouterr().out


@pytest.mark.parametrize("uploads", [{}, {"notes.txt": b"x"}, {f"{WHEEL}.zip": b"x"}])
def test_without_a_wheel_it_says_what_to_do(google, pip, uploads):
    google.files.uploads = uploads
    with pytest.raises(RuntimeError, match="(?s)do one of these.*No wheel was chosen"):
        install(package="upload")
    assert pip.calls == []


def test_an_upload_is_asked_for_at_once_and_a_wheel_that_lies_here_is_taken(google, pip, tmp_path):
    google.files.uploads = {f"{WHEEL}.whl": b"a wheel"}
    install(package="upload")
    assert pip.calls[0][-1].endswith(f"{WHEEL}.whl[colab,train]")
    for name, age in ((f"{WHEEL}.whl", 5), ("assl_kit-0.1-py3-none-any.whl", 9), (f"{WHEEL} (1).whl", 1)):
        (tmp_path / name).write_bytes(b"")
        os.utime(tmp_path / name, (1e9 - age, 1e9 - age))
    install()
    assert pip.calls[2][-1] == f"{tmp_path / WHEEL}.whl[colab,train]" and google.calls == [("upload",)]


@pytest.fixture
def kaggle(google, pip, monkeypatch, tmp_path):
    """Kaggle's machine, which may have Colab's modules; a wheel lies in a dataset that was added as input."""
    monkeypatch.setenv("KAGGLE_KERNEL_RUN_TYPE", "Interactive")
    inputs = tmp_path / "kaggle" / "input"
    inputs.mkdir(parents=True)
    monkeypatch.setattr(sys.modules[__name__], "INSTALL", INSTALL.replace('"/kaggle/input"', repr(str(inputs))))
    return inputs


def test_on_kaggle_the_wheel_comes_from_the_inputs(kaggle, google, pip, capsys):
    (kaggle / "my-wheel").mkdir()
    (kaggle / "my-wheel" / f"{WHEEL}.whl").write_bytes(b"a wheel")
    install()
    assert pip.calls[0][-1] == f"{kaggle / 'my-wheel' / WHEEL}.whl[colab,train]"
    lines = pip.constraints.split()
    assert {"torch==2.8.0+cu126", "ipykernel==6.17.1"} <= set(lines) and not google.calls
    assert "kept: torch" in capsys.readouterr().out


def test_on_kaggle_nothing_is_uploaded_and_it_says_what_to_do(kaggle, google, pip):
    pip.result = 1
    for package, reason in (("assl-kit", "no matching distribution"), ("upload", "Only Colab can upload")):
        with pytest.raises(RuntimeError, match=f"(?s)Add Input.*{reason}"):
            install(package=package)
    assert [words[-1] for words in pip.calls] == ["assl-kit[colab,train]"] and not google.calls


def test_on_kaggle_the_package_knows_where_it_is(kaggle, google, monkeypatch, tmp_path):
    assert colab.on_kaggle() and not colab.on_colab()
    with pytest.raises(ParameterError, match="/kaggle/working"):
        colab.keep_results(True)
    with pytest.raises(ParameterError, match="only Colab can upload.*/kaggle/input"):
        colab.choose_data("upload", tmp_path / "runs")
    assert "jupyterlab" not in set(check_environment()["package"])
    monkeypatch.setenv("HF_TOKEN", "")
    client = types.SimpleNamespace(get_secret=lambda name: f"of {name}")
    monkeypatch.setitem(sys.modules, "kaggle_secrets", types.SimpleNamespace(UserSecretsClient=lambda: client))
    assert colab.use_hub_token() and os.environ["HF_TOKEN"] == "of HF_TOKEN" and not google.calls


@pytest.fixture
def wheel(tmp_path):
    """A wheel of a package called assl-kit that holds nothing and needs nothing."""
    folder = tmp_path / "dist"
    folder.mkdir()
    about = f"{WHEEL.removesuffix('-py3-none-any')}.dist-info"
    files = {
        "assl_kit/__init__.py": "__version__ = 'of the wheel'",
        f"{about}/METADATA": "Metadata-Version: 2.1\nName: assl-kit\nVersion: 9.9\nProvides-Extra: colab\n"
        "Provides-Extra: train\n",
        f"{about}/WHEEL": "Wheel-Version: 1.0\nGenerator: a test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    with zipfile.ZipFile(folder / f"{WHEEL}.whl", "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
        archive.writestr(f"{about}/RECORD", "".join(f"{name},,\n" for name in [*files, f"{about}/RECORD"]))
    return folder / f"{WHEEL}.whl"


@pytest.mark.parametrize("way", ["file", "http", "path"])
def test_pip_itself_takes_a_wheel_by_address(google, monkeypatch, wheel, tmp_path, way):
    """With the real pip, into a folder of its own; only what is imported afterwards is left out."""
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(wheel.parent))
    handler.log_message = lambda *_: None
    site = tmp_path / "site"
    monkeypatch.setenv("PIP_TARGET", str(site))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: [])
    real, words = subprocess.run, []

    def run(command, **options):
        words.append(command)
        return real(command if "pip" in command else [sys.executable, "-c", ""], **options)

    monkeypatch.setattr(subprocess, "run", run)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        place = f"http://127.0.0.1:{server.server_port}/{wheel.name}"
        install(package={"file": wheel.as_uri(), "http": place, "path": str(wheel)}[way])
        server.shutdown()
    assert "of the wheel" in (site / "assl_kit" / "__init__.py").read_text(encoding="utf-8")
    assert "import torch" in words[-1][2]


def test_a_changed_torch_or_numpy_stops_it(google, pip):
    pip.after = {"numpy": "2.4.0"}
    with pytest.raises(AssertionError, match="Colab's own packages were changed.*numpy"):
        install()


def test_it_installs_nothing_where_the_package_is_or_off_colab(google, pip, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    install()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.delitem(sys.modules, "google.colab")
    install()
    assert not any("pip" in words for words in pip.calls)


def test_the_tested_versions_are_those_of_the_constraints_file():
    tested = INSTALL.split('"""')[1].split()
    lines = (ROOT / "colab" / "constraints.txt").read_text(encoding="utf-8").splitlines()
    assert tested == [line for line in lines if line and not line.startswith("#")]
    assert not {line.split("==")[0] for line in tested} & KEPT_APART


def test_the_extra_of_colab_asks_for_no_newer_jupyter(monkeypatch):
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    (line,) = (line for line in text.splitlines() if line.startswith("colab = ["))
    wanted = ast.literal_eval(line.split("= ")[1])
    assert "ipykernel" in wanted and not any(name.startswith(("jupyterlab", "notebook", "ipython")) for name in wanted)
    assert "colab,train" in INSTALL
    real = importlib.metadata.version
    monkeypatch.setattr("importlib.metadata.version", lambda name: "1.0.0" if name == "google-colab" else real(name))
    assert "jupyterlab" not in set(check_environment()["package"])  # notebook 00 asserts that everything fits


# choices --------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("asked", "device", "profile", "told"),
    [
        ("auto", CPU, "tiny", "There is no GPU: profile tiny is run instead"),
        ("t4", CPU, "tiny", "There is no GPU, which t4 needs: profile tiny is run instead"),
        ("paper", CPU, "tiny", "There is no GPU, which paper needs"),
        ("tiny", CPU, "tiny", "Profile tiny, as asked"),
        ("cpu-llm", CPU, "cpu-llm", "Profile cpu-llm, as asked"),
        ("auto", T4, "t4", "Profile t4, on Tesla T4 with float16 weights"),
        ("paper", T4, "paper", "Profile paper, as asked, on Tesla T4"),
        ("tiny", T4, "tiny", "Profile tiny, as asked"),
    ],
)
def test_the_profile_follows_the_machine(monkeypatch, asked, device, profile, told):
    monkeypatch.setattr(colab, "pick_device", lambda: device)
    chosen, why = colab.choose_profile(asked)
    assert chosen == profile and why.startswith(told)


def test_an_unknown_profile_is_refused_before_anything():
    with pytest.raises(ParameterError, match="unknown profile 't5'"):
        colab.choose_profile("t5")


def test_results_go_to_drive_only_if_asked(google, monkeypatch, tmp_path):
    monkeypatch.setenv("ASSL_RUNS", "")
    assert colab.keep_results(False) == tmp_path / "runs" and not google.calls
    runs = colab.keep_results(True)
    assert google.calls == [("mount", str(colab.DRIVE))]
    assert runs == (colab.DRIVE / "MyDrive" / "assl-kit" / "runs").resolve() and os.environ["ASSL_RUNS"]
    assert colab.keep_results(False) == tmp_path / "runs"  # the field was cleared again
    monkeypatch.setenv("ASSL_RUNS", str(tmp_path / "mine"))
    assert colab.keep_results(False) == tmp_path / "mine"


def test_elsewhere_there_is_no_drive_and_no_upload(tmp_path):
    assert not colab.on_colab()
    with pytest.raises(ParameterError, match="only Colab has a Drive.*ASSL_RUNS"):
        colab.keep_results(True)
    with pytest.raises(ParameterError, match="only Colab can upload"):
        colab.choose_data("upload", tmp_path / "runs")


def test_an_upload_is_kept_beside_the_runs_and_found_again(google, tmp_path, capsys):
    runs = tmp_path / "place" / "runs"
    kept = tmp_path / "place" / "uploads" / "my data.jsonl"
    assert colab.choose_data("upload", runs) == str(kept) and kept.read_bytes() == b"{}"
    assert colab.choose_data("upload", runs) == str(kept)  # as after a lost session
    assert google.calls == [("upload",)] and "my data.jsonl, uploaded before" in capsys.readouterr().out
    google.files.uploads = {"../other.jsonl": b"[]"}
    assert colab.choose_data("upload another", runs) == str(kept.parent / "other.jsonl")
    assert not (tmp_path / "place" / "other.jsonl").exists()
    for nothing in ({}, {"a": b"", "b": b""}):
        google.files.uploads = nothing
        with pytest.raises(DataError, match=f"{len(nothing)} files were uploaded, not one"):
            colab.choose_data("upload another", runs)


def test_other_data_is_given_on_as_it_is(tmp_path):
    assert [colab.choose_data(text, tmp_path) for text in ("embedded", " ", "owner/set ")] == [
        "embedded",
        "embedded",
        "owner/set",
    ]


def test_changes_are_read_as_parameters():
    assert colab.read_changes("score: column:weight, packing: true") == {"score": "column:weight", "packing": True}
    with pytest.raises(ParameterError, match="not valid YAML.*changes"):
        colab.read_changes("n_records: [")
    with pytest.raises(ParameterError, match="must be a whole number, got None"):
        make_plan("tiny", "", colab.read_changes("n_records = 5".replace(" = 5", "")))


def test_the_hub_token_is_handed_over_if_there_is_one(google, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "")
    assert colab.use_hub_token() and os.environ["HF_TOKEN"] == "hf_secret"
    assert colab.use_hub_token() and google.calls == [("secret", "HF_TOKEN")]  # asked for once
    monkeypatch.setenv("HF_TOKEN", "")

    def refuse(name):
        raise LookupError("no such secret")

    google.userdata.get = refuse
    assert not colab.use_hub_token()
    monkeypatch.delitem(sys.modules, "google.colab")
    assert not colab.use_hub_token()


# the run --------------------------------------------------------------------------------------------------------------
STAND_IN = """
import sys, time
from assl_kit.artifacts.workspace import Workspace, runs_folder
ws = Workspace.open(runs_folder() / "mine")
print("runs/mine: 2 notebooks", file=sys.stderr, flush=True)
try:
    ws.update_manifest("notebooks", {"00_a": {"status": "done"}, "01_b": {"status": "running"}})
    time.sleep(%s)
except KeyboardInterrupt:
    ws.update_manifest("notebooks", {"01_b": {"status": "interrupted"}})
    raise
print(%r, file=sys.stderr)
sys.exit(%d)
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder of its own with two notebooks, and its own place for runs."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ASSL_RUNS", str(tmp_path / "kept" / "runs"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])))
    for name in ("00_a", "01_b"):
        write_notebook(tmp_path / f"{name}.ipynb")
    return tmp_path


def plan(here, **overrides):
    return make_plan("tiny", "mine", overrides, notebooks_dir=here)


def run_stand_in(here, monkeypatch, show, *, seconds=2, last_line="01_b  done", code=0):
    """A run whose process only says what a real one says; the whole notebook below has a real one."""
    script = STAND_IN % (seconds, last_line, code)
    monkeypatch.setattr(colab, "command", lambda plan: [sys.executable, "-c", script])
    return colab.run_shown(plan(here), show=show, pause=0.05)


def test_a_run_shows_which_notebook_it_is_at_and_then_what_was_done(here, monkeypatch):
    shown = []
    ws = run_stand_in(here, monkeypatch, shown.append)
    assert ws.folder == here / "kept" / "runs" / "mine"
    assert shown[0] == "starting" and shown[-1] == "runs/mine: 2 notebooks\n01_b  done"
    assert any(text.startswith("runs/mine: 2 notebooks\n01_b  running ") for text in shown)


def test_a_failed_run_tells_the_message_of_the_run(here, monkeypatch):
    shown, message = [], "assl: row 3 is zero (01_b, cell [2])"
    with pytest.raises(NotebookError, match=r"^row 3 is zero \(01_b, cell \[2\]\)$"):
        run_stand_in(here, monkeypatch, shown.append, seconds=0, last_line=message, code=1)
    assert shown[-1].endswith(message)
    with pytest.raises(NotebookError, match="the run ended with exit code 3"):
        run_stand_in(here, monkeypatch, shown.append, seconds=0, code=3)


def test_stopping_the_cell_interrupts_the_run(here, monkeypatch):
    def stop(text):
        if "01_b  running" in text:
            raise KeyboardInterrupt

    processes, start = [], subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", lambda *a, **k: processes.append(start(*a, **k)) or processes[-1])
    with pytest.raises(KeyboardInterrupt):
        run_stand_in(here, monkeypatch, stop, seconds=1e9)  # it ends by the interrupt only
    (process,) = processes
    assert process.poll() is not None, "it goes on"
    notes = Workspace.open(here / "kept" / "runs" / "mine").manifest()["notebooks"]
    assert notes["01_b"]["status"] == "interrupted"


def test_costs_come_in_the_order_of_the_notebooks(tmp_path):
    ws = Workspace.open(tmp_path / "runs" / "mine")
    for name, seconds in (("b.json", 1.5), ("a.json", 2.5)):
        write_json(ws.path_of(name), 1)
        ws.commit(name, key="k", seconds=seconds, peak_memory_mb=100, notebook="00" if name == "a.json" else "01")
    ws.update_manifest("notebooks", {"00_a": {"seconds": 3, "peak_memory_mb": 120}, "01_b": {"seconds": 4}})
    costs = colab.step_costs(ws)
    rows = [["00", "", 3], ["00", "a.json", 2.5], ["01", "", 4], ["01", "b.json", 1.5]]
    assert costs[["notebook", "artifact", "seconds"]].values.tolist() == rows
    assert costs["peak MB"][:2].tolist() == [120, 100]
    assert colab.step_costs(Workspace.open(tmp_path / "new")).empty


def test_the_command_gives_the_run_the_parameters_of_the_plan(here, tmp_path):
    write_notebook(here / "00_a.ipynb", parameters='profile = "tiny"\nworkspace = ""\nwords = "a"\nnumber = 1')
    values = {"seed": 3, "learning_rate": 0.01, "packing": True, "score": "ifd", "words": "12", "number": 2}
    planned = plan(here, **values)
    words = colab.command(planned)
    given = dict(zip(words[words.index("-p") + 1 :: 3], words[words.index("-p") + 2 :: 3], strict=True))
    assert given_values(given.items(), planned.notebooks) == values  # as the command line reads them


# the bank -------------------------------------------------------------------------------------------------------------
def test_without_experts_there_is_nothing_to_download(tmp_path):
    with pytest.raises(WorkspaceError, match="no experts yet.*notebook 06"):
        colab.download_bank(Workspace.open(tmp_path / "runs" / "mine"))


def test_the_bank_is_packed_whole_and_downloaded_on_colab(google, tmp_path):
    ws = Workspace.open(tmp_path / "runs" / "v1.5")
    for name in ("bank.json", "expert-0/adapter_model.safetensors"):
        path = ws.path_of(f"experts/{name}")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name, encoding="utf-8")
    for _ in range(2):
        archive = colab.download_bank(ws)
    assert archive.name == "v1.5-experts.zip" and archive.parent == ws.folder
    assert google.calls == [("download", str(archive))] * 2
    files = [name for name in zipfile.ZipFile(archive).namelist() if not name.endswith("/")]
    assert sorted(files) == ["experts/bank.json", "experts/expert-0/adapter_model.safetensors"]


# the whole ------------------------------------------------------------------------------------------------------------
@pytest.mark.slow
def test_the_whole_notebook_runs_through_papermill_and_goes_on_in_a_new_session(tmp_path, monkeypatch):
    """Only notebook 06 of a small corpus: what it needs from before is built; the claims of others need full size."""
    monkeypatch.setenv("ASSL_RUNS", str(tmp_path / "kept" / "runs"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])))
    small = "n_records: 240, n_clusters: 3, n_select: 30, warmup_records: 8, epochs: 1, affinity_records: 0"
    values = {"profile": "t4", "name": "whole", "changes": small, "first": "06", "last": "06"}

    def session(name):
        options = {"kernel_name": "python3", "progress_bar": False, "cwd": str(tmp_path), "start_timeout": 300}
        papermill.execute_notebook(NOTEBOOK, tmp_path / name, values, **options)
        cells = nbformat.read(tmp_path / name, as_version=4).cells
        outputs = [output for cell in cells for output in cell.get("outputs", [])]
        return "\n".join(o.get("text") or o.get("data", {}).get("text/plain", "") for o in outputs)

    printed = session("first.ipynb")
    assert "There is no GPU, which t4 needs: profile tiny is run instead" in printed
    assert "0 were done before" in printed and "06_lora_training  done" in printed
    assert "expert-2" in printed and "experts.zip" in printed and "answers (similarity" in printed
    assert "1 were done before" in (again := session("second.ipynb")) and "06_lora_training  cached" in again
    shutil.unpack_archive(tmp_path / "kept" / "runs" / "whole" / "whole-experts.zip", tmp_path / "mine")
    (answer,) = SilverSight.from_pretrained(tmp_path / "mine" / "experts").generate(["判断情绪：股价上涨。"])
    assert answer.text
    report = tmp_path / "kept" / "runs" / "whole" / "report.html"
    assert report.is_file() and json.loads((report.parent / "manifest.json").read_text(encoding="utf-8"))["profile"]
