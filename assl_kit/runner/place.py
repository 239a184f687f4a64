"""Where a run is written: never over a run of other data, and where files can be made."""

from __future__ import annotations

from typing import Any

from assl_kit.artifacts.workspace import MANIFEST, SWEEP, Workspace, runs_folder
from assl_kit.common.files import check_open_files, check_writable, sha256_of
from assl_kit.common.names import data_name, folder_name, is_folder_name, shortened, shown
from assl_kit.errors import AsslError, ParameterError, WorkspaceError


def run_name(name: str, profile: str, data: str) -> str:
    """A run's folder under ``runs/``: as it is given, else the profile's name, with the data's if it is your own.

    Where a folder of this name holds a run of other data, a hash of the data's place is added.

    Raises
    ------
    ParameterError
        If the name that is given is none for a folder.

    Examples
    --------
    >>> run_name("", "tiny", "/home/me/情感.jsonl"), run_name("mine", "tiny", "embedded")
    ('tiny-情感', 'mine')
    """
    if name:
        if not is_folder_name(name):
            hint = "Use letters, digits, '-', '_' and '.', at most 100 of them and 200 bytes (66 Chinese characters)."
            raise ParameterError(f"{shown(name)} is no name for a run", hint=hint)
        return name
    own_hash = sha256_of(data)[:8]
    usual = profile if data == "embedded" else f"{profile}-{folder_name(data_name(data)) or own_hash}"
    usual = shortened(usual)
    return usual if data_there(usual) in (None, data) else shortened(f"{usual}-{own_hash}")


def data_there(name: str) -> str | None:
    """What data the run of this name was made of, "" where that is not to be told; None where there is no run."""
    folder = runs_folder() / name
    if (folder / SWEEP).is_file():
        return ""
    if not (folder / MANIFEST).is_file():
        return None
    try:
        return _data_of(Workspace(folder))
    except AsslError:
        return ""


def _data_of(ws: Workspace) -> str:
    data: Any = ws.manifest()["parameters"].get("data")
    return data if isinstance(data, str) else ""


def check_place(ws: Workspace, data: str, *, force: bool = False) -> None:
    """`refuse_other_data`, and an ``OSError`` if no file can be made there, or too few opened."""
    refuse_other_data(ws, data, force=force)
    check_writable(ws.folder)
    check_open_files()


def refuse_other_data(ws: Workspace, data: str, *, force: bool = False) -> None:
    """Keep a run from being written over by one of other data.

    Parameters
    ----------
    ws : Workspace
    data : str
        What the run would be made of.
    force : bool
        It may be written over.

    Raises
    ------
    WorkspaceError
        If the folder holds a run of other data.
    """
    there = _data_of(ws)
    if there and there != data and not force:
        raise WorkspaceError(
            f"the folder holds a run of other data: {there}, not {data}",
            where=ws.display_path(),
            hint="Give another --name; 'assl run --force' writes over it.",
        )
