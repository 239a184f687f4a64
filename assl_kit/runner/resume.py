"""What a run need not do twice: which notebooks are finished, who else is at work, what a killed run left behind."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import Timeout

from assl_kit.artifacts.parameters import NAMES
from assl_kit.artifacts.steps import STEPS, notebook_code_hash, state_of
from assl_kit.artifacts.workspace import Workspace
from assl_kit.common.files import is_locked, lock_at, sha256_file, sha256_of, temporary_owner
from assl_kit.errors import WorkspaceError

from .plan import ChainNotebook, Plan

LOCK = ".run.lock"


def inputs_of(book: ChainNotebook) -> list[str]:
    """The artifacts that a notebook asks for by name, and all that these are made from.

    Examples
    --------
    >>> from assl_kit.runner.plan import notebooks_folder, read_notebook
    >>> inputs_of(read_notebook(next(notebooks_folder().glob("03_*.ipynb"))))
    ['records', 'encoder', 'embeddings', 'clusters', 'affinity']
    """
    wanted = {name for name in STEPS if f'require(ws, "{name}"' in book.source}
    needed: set[str] = set()
    while wanted:
        name = wanted.pop()
        needed.add(name)
        wanted |= set(STEPS[name].parents) - needed
    return [name for name in STEPS if name in needed]


def notebook_key(ws: Workspace, book: ChainNotebook, plan: Plan) -> str:
    """What the outputs of a notebook depend on: its cells, its parameters, the artifacts it uses, the code.

    Parameters
    ----------
    ws : Workspace
    book : ChainNotebook
        One of the plan's.
    plan : Plan

    Returns
    -------
    str
        A hex digest. It changes with the content of the artifacts, so it is final when the notebook is done.
    """
    values, inputs = plan.parameters.model_dump(), inputs_of(book)
    named = {name for name in NAMES if re.search(rf"\b{name}\b", book.source)}
    named |= {parameter for name in inputs for parameter in STEPS[name].parameters}
    made = ws.manifest()["artifacts"]
    return sha256_of(
        {
            "notebook": book.source,
            "values": plan.values_for(book) | {name: values[name] for name in sorted(named)},
            "inputs": {name: made.get(STEPS[name].file, {}).get("sha256") for name in inputs},
            "code": notebook_code_hash(),
        }
    )


def is_finished(ws: Workspace, book: ChainNotebook, plan: Plan) -> bool:
    """Whether a notebook ran to its end and would do the same again.

    Its executed copy and the artifacts it uses must be there, unchanged and current.
    """
    note = ws.manifest()["notebooks"].get(book.name, {})
    copy = ws.path_of(f"notebooks/{book.path.name}")
    if note.get("status") != "done" or not copy.is_file() or sha256_file(copy) != note.get("sha256"):
        return False
    state = state_of(ws, plan.parameters, inputs_of(book))
    return all(value == "current" for value in state.values()) and note.get("key") == notebook_key(ws, book, plan)


@contextmanager
def run_lock(ws: Workspace) -> Iterator[None]:
    """Keep a run to one process; the lock ends with the process, however it ends.

    Raises
    ------
    WorkspaceError
        If another process is at work in it, or the lock is a link.
    """
    lock = lock_at(ws.folder / LOCK)
    try:
        lock.acquire(timeout=1)  # who looks whether the run is at work holds it for a moment
    except Timeout:
        hint = "Wait for it, stop it, or give this run another --name."
        raise WorkspaceError("another 'assl run' is at work here", where=ws.display_path(), hint=hint) from None
    try:
        yield
    finally:
        lock.release()


def is_running(ws: Workspace) -> bool:
    """Whether a process holds the run's lock; nothing is written, so that it can be asked of any folder.

    Raises
    ------
    WorkspaceError
        If the lock is a link, or no file.
    OSError
        If it cannot be read.
    """
    return is_locked(ws.folder / LOCK)


def remove_leftovers(ws: Workspace) -> None:
    """Remove half-written files of processes that are no more; nobody reads them, they only take room."""
    for folder, names, files in os.walk(ws.folder):
        for name in [*names, *files]:
            owner = temporary_owner(name)
            if owner is not None and not _is_alive(owner):
                path = Path(folder) / name
                with suppress(OSError):
                    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
                if name in names:
                    names.remove(name)


def _is_alive(pid: int) -> bool:
    import psutil

    return psutil.pid_exists(pid)
