"""What the notebook for Colab and Kaggle needs beyond a few lines: places, data, a run shown, the bank as a zip."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd

from assl_kit.artifacts.parameters import load_profile, read_parameters, resolve
from assl_kit.artifacts.workspace import Workspace, experts_folder, runs_folder
from assl_kit.common.device import pick_device
from assl_kit.common.files import atomic_path
from assl_kit.errors import DataError, NotebookError, ParameterError
from assl_kit.runner.manifest_rows import artifact_rows, notebook_rows
from assl_kit.runner.plan import Plan

DRIVE = Path("/content/drive")
_NEED_GPU = ("t4", "paper")
_CHILD = (
    "from assl_kit.common.parallel import end_with_parent; end_with_parent({}); "
    "from assl_kit.app.cli import main; main()"
)


def on_kaggle() -> bool:
    """Whether this kernel is one of Kaggle's, whose machines may have Colab's modules too."""
    return "KAGGLE_KERNEL_RUN_TYPE" in os.environ


def on_colab() -> bool:
    """Whether this kernel is one of Colab's."""
    return "google.colab" in sys.modules and not on_kaggle()


def choose_profile(asked: str) -> tuple[str, str]:
    """The profile that this machine can run.

    Parameters
    ----------
    asked : str
        Name of a profile, or ``"auto"``: ``t4`` where there is a GPU, else ``tiny``.

    Returns
    -------
    (str, str)
        The profile, and why, in a sentence to print.

    Raises
    ------
    ParameterError
        If there is no such profile.
    """
    if asked != "auto":
        load_profile(asked)
    device = pick_device()
    if asked == "auto" and device.device == "cuda":
        return "t4", f"Profile t4, on {device.name} with {device.dtype} weights."
    if device.device == "cuda" or asked not in ("auto", *_NEED_GPU):
        return asked, f"Profile {asked}, as asked, on {device.name}."
    wanted = "" if asked == "auto" else f", which {asked} needs"
    return "tiny", f"There is no GPU{wanted}: profile tiny is run instead, on {device.name}."


def keep_results(on_drive: bool) -> Path:
    """The folder of runs: on your Google Drive if asked, which asks for your permission; else as `runs_folder`.

    Raises
    ------
    ParameterError
        If Drive is asked for elsewhere than on Colab.
    """
    if not on_drive:
        if Path(os.environ.get("ASSL_RUNS", "")).is_relative_to(DRIVE):
            del os.environ["ASSL_RUNS"]  # asked for before in this session
        return runs_folder()
    if not on_colab():
        hint = "Elsewhere set the environment variable ASSL_RUNS to the folder where runs shall be kept."
        if on_kaggle():
            hint = "Kaggle keeps /kaggle/working as the notebook's output when you save a version."
        raise ParameterError("only Colab has a Drive to keep results on", where="keep_on_drive", hint=hint)
    from google.colab import drive

    drive.mount(str(DRIVE))
    os.environ["ASSL_RUNS"] = str(DRIVE / "MyDrive" / "assl-kit" / "runs")
    return runs_folder()


def choose_data(asked: str, runs: Path) -> str:
    """What to give as ``data``: after an upload the file's path, else what was asked.

    Parameters
    ----------
    asked : str
        ``"embedded"``, a file, a folder or the id of a hub dataset; ``"upload"`` opens Colab's file dialogue once, and
        later finds what was uploaded, in another session too if results are on Drive; ``"upload another"`` opens it
        again.
    runs : pathlib.Path
        The folder of runs; uploads are kept beside it.

    Raises
    ------
    DataError
        If not exactly one file is uploaded.
    ParameterError
        If nothing was uploaded before and this is not Colab.
    """
    asked = asked.strip() or "embedded"
    if asked not in ("upload", "upload another"):
        return asked
    folder = runs.parent / "uploads"
    kept = sorted((path for path in folder.glob("*") if path.is_file()), key=lambda path: path.stat().st_mtime)
    if asked == "upload" and kept:
        print(f"Data: {kept[-1].name}, uploaded before. 'upload another' replaces it.")
        return str(kept[-1])
    if not on_colab():
        hint = "Give a file, a folder or a hub id."
        if on_kaggle():
            hint = "Add Input → Upload, then give the file's path below /kaggle/input."
        raise ParameterError("only Colab can upload", where="data", hint=hint)
    from google.colab import files

    uploaded = files.upload()
    if len(uploaded) != 1:
        raise DataError(f"{len(uploaded)} files were uploaded, not one", hint="Run the cell again and choose one file.")
    ((name, content),) = uploaded.items()
    with atomic_path(folder / Path(name).name) as temporary:
        temporary.write_bytes(content)
    return str(folder / Path(name).name)


def read_changes(text: str) -> dict[str, Any]:
    """Parameters as they are typed into one field.

    Raises
    ------
    ParameterError
        If the text is not of that form; names and values are checked later, by `assl_kit.runner.plan.make_plan`.

    Examples
    --------
    >>> read_changes("n_records: 2000, learning_rate: 2e-3"), read_changes(" ")
    ({'n_records': 2000, 'learning_rate': 0.002}, {})
    """
    return read_parameters("{" + text + "}", where="changes") if text.strip() else {}


def use_hub_token() -> bool:
    """Hand Colab's or Kaggle's secret ``HF_TOKEN`` to the run, for models that ask for it; whether there is one."""
    if (on_colab() or on_kaggle()) and not os.environ.get("HF_TOKEN"):
        try:
            os.environ["HF_TOKEN"] = _secret("HF_TOKEN") or ""
        except Exception:  # no such secret, no access, nobody there to allow it: most models need none
            return False
    return bool(os.environ.get("HF_TOKEN"))


def _secret(name: str) -> str | None:
    if on_kaggle():
        from kaggle_secrets import UserSecretsClient

        return UserSecretsClient().get_secret(name)
    from google.colab import userdata

    return userdata.get(name)


def run_shown(plan: Plan, *, show: Callable[[str], Any] | None = None, pause: float = 1.0) -> Workspace:
    """Run a plan in a process of its own and show how far it is; called again, it goes on where it was.

    Parameters
    ----------
    plan : Plan
        From `assl_kit.runner.plan.make_plan`.
    show : callable, optional
        Takes the whole text each time it changes; default: an output of the cell that is replaced.
    pause : float
        Seconds between two looks.

    Returns
    -------
    Workspace
        The run's. Interrupting the cell interrupts the run.

    Raises
    ------
    NotebookError
        The run failed; the message is the run's.
    """
    ws, show = Workspace.open(runs_folder() / plan.name), show or _screen()
    lines: list[str] = []
    text, since, name = "", time.monotonic(), ""
    with _process(command(plan)) as process:
        reader = threading.Thread(target=_collect, args=(process.stderr, lines), daemon=True)
        reader.start()
        while process.poll() is None:
            running = _running(ws, plan) if lines else ""
            if running != name:
                name, since = running, time.monotonic()
            now = f"{name}  running {time.monotonic() - since:5.0f} s" if name else "starting"
            if (new := "\n".join([*lines, now])) != text:
                show(text := new)
            time.sleep(pause)
        reader.join()
    show("\n".join(lines))
    if process.returncode:
        message = [line.removeprefix("assl: ") for line in lines if line.startswith("assl: ")]
        raise NotebookError(message[-1] if message else f"the run ended with exit code {process.returncode}")
    return ws


def _collect(stream: Iterable[str] | None, lines: list[str]) -> None:
    lines.extend(line.rstrip() for line in stream or ())


def command(plan: Plan) -> list[str]:
    """The call of ``assl run`` that executes a plan, with all that differs from its profile."""
    usual = resolve(plan.profile).model_dump()
    values = {name: value for name, value in plan.parameters.model_dump().items() if value != usual[name]}
    words = [sys.executable, "-c", _CHILD.format(os.getpid()), "run", "--json"]
    words += ["--profile", plan.profile, "--name", plan.name]
    words += ["--from", plan.notebooks[0].number, "--to", plan.notebooks[-1].number]
    for name, value in (values | plan.own).items():
        words += ["-p", name, value if isinstance(value, str) else json.dumps(value)]
    return words


@contextmanager
def _process(words: list[str]) -> Iterator[subprocess.Popen]:
    """A process whose lines come on stderr; left early, it is interrupted and waited for."""
    # a session of its own, so that an interrupt of the kernel reaches it once: from here
    process = subprocess.Popen(
        words,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        errors="replace",
        start_new_session=True,
        env=os.environ | {"PYDEVD_DISABLE_FILE_VALIDATION": "1"},
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
        process.wait()


def _running(ws: Workspace, plan: Plan) -> str:
    """The notebook at work: the first, since a broken-off run may have left a later one so."""
    notes = ws.manifest()["notebooks"]
    return next((b.name for b in plan.notebooks if notes.get(b.name, {}).get("status") == "running"), "")


def _screen() -> Callable[[str], Any]:
    """Show a text in the cell's output, each in place of the one before."""
    from IPython.display import display

    handle = display({"text/plain": "starting"}, raw=True, display_id=True)
    return lambda text: handle.update({"text/plain": text}, raw=True)


def step_costs(ws: Workspace) -> pd.DataFrame:
    """Time and memory of each notebook of a run, and of each artifact.

    Returns
    -------
    DataFrame
        ``notebook``, ``artifact`` (empty: the notebook as a whole), ``seconds``, ``peak MB`` (of the process's memory,
        not the GPU's), in the order of the notebooks. An artifact stands under the notebook that explains it.
    """
    manifest = ws.manifest()
    rows = [row | {"artifact": ""} for row in notebook_rows(manifest)] + artifact_rows(manifest)
    table = pd.DataFrame(rows, columns=["notebook", "artifact", "seconds", "peak MB"])
    table["notebook"] = table["notebook"].fillna("").str[:2]
    return table.sort_values("notebook", kind="stable", ignore_index=True)


def download_bank(ws: Workspace) -> Path:
    """Pack the run's experts, with router and encoder, into a zip file in its folder; on Colab also download it.

    Returns
    -------
    pathlib.Path
        The zip file: unpacked, ``experts/`` is what `assl_kit.SilverSight.from_pretrained` reads.

    Raises
    ------
    WorkspaceError
        If the run has no experts yet.
    """
    experts = experts_folder(ws)
    target = ws.path_of(f"{ws.folder.name}-experts.zip")
    with atomic_path(target) as temporary:
        shutil.make_archive(str(temporary.with_suffix("")), "zip", root_dir=ws.folder, base_dir=experts.name)
    if on_colab():
        from google.colab import files

        files.download(str(target))
    return target
