"""What a run's manifest tells of its notebooks and artifacts, as rows for tables and JSON; and how a run stands."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def notebook_rows(manifest: Mapping[str, Any], *, running: bool = True) -> list[dict[str, Any]]:
    """One row a notebook: ``notebook``, ``status``, ``seconds``, ``peak MB``, ``message``.

    Parameters
    ----------
    manifest : mapping
        As `assl_kit.artifacts.workspace.Workspace.manifest` gives it.
    running : bool
        Whether a process is at work in the run; if none is, what the manifest calls running is broken off.

    Examples
    --------
    >>> manifest = {"notebooks": {"01_data": {"status": "running"}}}
    >>> notebook_rows(manifest, running=False)[0]["status"]
    'broken off'
    """
    return [
        {
            "notebook": name,
            "status": "broken off" if note.get("status") == "running" and not running else note.get("status"),
            "seconds": note.get("seconds"),
            "peak MB": note.get("peak_memory_mb"),
            "message": note.get("message", ""),
        }
        for name, note in manifest["notebooks"].items()
    ]


def artifact_rows(manifest: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One row an artifact: ``artifact``, ``notebook``, ``made from``, ``seconds``, ``peak MB``, ``sha256``.

    Examples
    --------
    >>> artifact_rows({"artifacts": {"a.json": {"sha256": "0123" * 16, "parents": ["b.json", "c"]}}})[0]["made from"]
    'b.json, c'
    """
    return [
        {
            "artifact": name,
            "notebook": entry.get("notebook"),
            "made from": ", ".join(entry.get("parents", [])),
            "seconds": entry.get("seconds"),
            "peak MB": entry.get("peak_memory_mb"),
            "sha256": str(entry.get("sha256", ""))[:16],
        }
        for name, entry in manifest["artifacts"].items()
    ]


def run_state(manifest: Mapping[str, Any], *, running: bool) -> str:
    """How a run stands: ``running``, ``failed``, ``broken off``, ``interrupted``, ``done`` or ``new``."""
    if running:
        return "running"
    states = [row["status"] for row in notebook_rows(manifest, running=False)]
    unfinished = [state for state in ("failed", "broken off", "interrupted") if state in states]
    return unfinished[0] if unfinished else "done" if states else "new"
