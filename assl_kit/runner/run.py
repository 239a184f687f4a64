"""Run the numbered notebooks in order through papermill: everything checked first, one line of progress each."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

from assl_kit.artifacts.parameters import DEFAULT_PROFILE
from assl_kit.artifacts.workspace import Workspace, runs_folder
from assl_kit.common.cluster import cluster
from assl_kit.common.files import atomic_path, sha256_file
from assl_kit.common.packages import reason
from assl_kit.errors import AsslError, NotebookError, refusal, told_refusal

from .kernel import KERNEL, kernel_starter, peak_of, stop_kernel
from .place import check_place
from .plan import ChainNotebook, Plan, make_plan
from .resume import is_finished, notebook_key, remove_leftovers, run_lock

if TYPE_CHECKING:
    from jupyter_client.manager import AsyncKernelManager


def run_chain(
    profile: str = DEFAULT_PROFILE,
    name: str = "",
    overrides: Mapping[str, Any] | None = None,
    data: str | None = None,
    *,
    notebooks_dir: str | os.PathLike | None = None,
    first: str = "00",
    last: str = "09",
    force: bool = False,
    say: Callable[[str], None] = print,
) -> Workspace:
    """Execute the notebooks from ``first`` to ``last`` in order, in the workspace ``runs/<name>``.

    What an earlier call finished and would come out the same is not executed again (`resume.is_finished`); an
    interrupted notebook begins anew, on the artifacts that are there, and an interrupted expert at its checkpoint.

    Parameters
    ----------
    profile : str
        Name of a profile.
    name : str
        The run's folder under ``runs/``; default the profile's name, with the data's if it is your own.
    overrides : mapping, optional
        Parameters that differ from the profile: of `Parameters`, or declared by one of the notebooks.
    data : str, optional
        A file, folder or hub id, as ``overrides["data"]``.
    notebooks_dir : path-like, optional
        Where the notebooks are; default `notebooks_folder`.
    first, last : str
        Numbers of the first and last notebook.
    force : bool
        Execute finished notebooks too, and write over a run of other data. Artifacts that are current are still not
        made again.
    say : callable
        Takes the lines of progress.

    Returns
    -------
    Workspace
        The run's; executed copies are in its ``notebooks/``.

    Raises
    ------
    ParameterError, DataError
        Before anything is executed: an unknown, mistyped or unfit parameter, data that is not usable.
    WorkspaceError
        Another process is at work in this run, or its folder holds a run of other data.
    OSError
        The system refuses to read or write a file.
    NotebookError
        A cell failed. The executed copy shows where; the run's manifest says ``failed``.

    Examples
    --------
    >>> run_chain("tinny")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    assl_kit.errors.ParameterError: unknown profile 'tinny'. Did you mean 'tiny'? The profiles ...
    """
    plan = make_plan(profile, name, overrides, data, notebooks_dir=notebooks_dir, first=first, last=last)
    return run_plan(plan, Workspace.open(runs_folder() / plan.name), force=force, say=say)


def run_plan(plan: Plan, ws: Workspace, *, force: bool = False, say: Callable[[str], None] = print) -> Workspace:
    """Execute a checked plan in a workspace; see `run_chain`."""
    check_place(ws, plan.parameters.data, force=force)
    with run_lock(ws), cluster(), kernel_starter(ws) as start_kernel:
        remove_leftovers(ws)
        ws.remember(plan.profile, plan.parameters)
        say(f"{ws.display_path()}: {len(plan.notebooks)} notebooks, profile {plan.profile}")
        width = max(len(book.name) for book in plan.notebooks)
        ahead = None
        for book, after in zip_longest(plan.notebooks, plan.notebooks[1:]):
            if not force and is_finished(ws, book, plan):
                seconds = ws.manifest()["notebooks"][book.name].get("seconds") or 0.0
                say(f"{book.name:<{width}}  cached  {seconds:6.1f} s before")
                continue
            kernel, ahead = ahead or start_kernel(book.number), None
            if after and (force or not is_finished(ws, after, plan)):
                ahead = start_kernel(after.number)
            note = _run_notebook(book, ws, plan, kernel)
            say(f"{book.name:<{width}}  {note['status']:<6}  {note['seconds']:6.1f} s")
            if "error" in note:
                raise note["error"]
    return ws


def _run_notebook(book: ChainNotebook, ws: Workspace, plan: Plan, kernel: AsyncKernelManager) -> dict[str, Any]:
    """Execute one notebook and write into the manifest how it went."""
    start = time.perf_counter()
    declared = {"parameters": plan.own_of(book)}
    ws.update_manifest("notebooks", {book.name: {"status": "running", **declared}})
    note: dict[str, Any] = {"status": "interrupted"}
    try:
        execute(book, ws, plan.values_for(book), kernel)
        note = {"status": "done"}
    except NotebookError as error:
        note = {"status": "failed", "message": str(error)}
        return {**note, "seconds": time.perf_counter() - start, "error": error}
    finally:
        note |= declared | {"seconds": round(time.perf_counter() - start, 1), "peak_memory_mb": peak_of(kernel)}
        stop_kernel(kernel)
        if note["status"] == "done":
            copy = ws.path_of(f"notebooks/{book.path.name}")
            note |= {"key": notebook_key(ws, book, plan), "sha256": sha256_file(copy)}
        ws.update_manifest("notebooks", {book.name: note})
    return note


def execute(book: ChainNotebook, ws: Workspace, values: Mapping[str, Any], kernel: AsyncKernelManager) -> None:
    """Execute one notebook with a started kernel, in the workspace; keep the executed copy, failed or not.

    Raises
    ------
    NotebookError
        With the message of the cell's error, its cause the ``OSError`` if the system refused a place; or the kernel
        died, in a cell or before the first.
    """
    import papermill
    from nbclient.exceptions import DeadKernelError

    copy = f"notebooks/{book.path.name}"
    hint = f"See the executed copy {ws.display_path(copy)}."
    try:
        with _kept(ws.path_of(copy)) as target:
            papermill.execute_notebook(
                str(book.path),
                str(target),
                parameters=dict(values),
                kernel_name=KERNEL,
                km=kernel,
                progress_bar=False,
                log_output=False,
                start_timeout=600,  # a kernel that other work slows down
                cwd=str(ws.folder),
            )
    except papermill.PapermillExecutionError as error:
        what = error.evalue if _is_ours(error.ename) else f"{error.ename}: {error.evalue}"
        place = None if _is_ours(error.ename) else told_refusal(what)
        where = f"{book.name}, cell [{error.exec_count}]"
        raise NotebookError(what.rstrip("."), where=where, hint=hint) from place or error
    except DeadKernelError as error:
        hint = f"Memory may have run out. {hint}"
        raise NotebookError("the notebook's kernel died", where=book.name, hint=hint) from error
    except RuntimeError as error:  # of jupyter_client, which has no kind of its own for it
        if refusal(error) or "kernel" not in str(error).lower():
            raise
        what = f"the notebook's kernel did not start: {reason(error)}"
        hint = "Memory may have run out, or a package be broken: see what stands above."
        raise NotebookError(what, where=book.name, hint=hint) from None


def _is_ours(error_name: str) -> bool:
    ours: list[type[Exception]] = [AsslError, *AsslError.__subclasses__()]
    return error_name in {kind.__name__ for kind in ours}


@contextmanager
def _kept(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path``, which takes its place whether or not the work on it failed."""
    error: BaseException | None = None
    with atomic_path(path) as temporary:
        try:
            yield temporary
        except Exception as caught:
            if not temporary.is_file():
                raise
            error = caught
    if error is not None:
        raise error
