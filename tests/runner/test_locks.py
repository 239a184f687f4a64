"""Locks of a run, its manifest and a sweep's store: plain files, whatever a stranger's folder holds instead."""

from __future__ import annotations

import os

import pytest
from helpers import ROOT
from helpers.hostile import links

from assl_kit.artifacts.parameters import resolve
from assl_kit.artifacts.store import shared_artifact
from assl_kit.artifacts.workspace import Workspace
from assl_kit.common.files import is_locked, lock_at
from assl_kit.errors import WorkspaceError
from assl_kit.runner.resume import LOCK, is_running, run_lock

PLACES = {"link": os.symlink, "hard link": os.link}
unix = pytest.mark.skipif(os.name == "nt", reason="Windows has no such files")


@pytest.fixture
def mine(tmp_path):
    """A file that a stranger's run would like to have emptied."""
    file = tmp_path / "thesis.txt"
    file.write_text("years of work", encoding="utf-8")
    before = file.stat().st_mtime_ns
    yield file
    assert file.read_text(encoding="utf-8") == "years of work" and file.stat().st_mtime_ns == before


@pytest.fixture
def ws(tmp_path):
    ws = Workspace.open(tmp_path / "runs" / "theirs")
    ws.remember("tiny", resolve("tiny"))
    return ws


@links
@pytest.mark.parametrize("kind", PLACES)
def test_the_lock_of_a_run_is_no_link(assl, one_notebook, ws, mine, kind):
    PLACES[kind](mine, ws.folder / LOCK)
    for command in (("status", "theirs"), ("run", "--name", "theirs"), ("run", "--name", "theirs", "--force")):
        code, _, err = assl(*command)
        assert code == 2 and err.count("\n") == 1 and "the lock .run.lock is a link" in err, command
    code, out, _ = assl("status")
    assert code == 0 and "damaged" in out and "a link" in out


@links
@pytest.mark.parametrize("kind", PLACES)
def test_the_lock_of_a_manifest_and_of_a_store_is_no_link(ws, mine, tmp_path, monkeypatch, kind):
    (ws.folder / ".manifest.lock").unlink()
    PLACES[kind](mine, ws.folder / ".manifest.lock")
    with pytest.raises(WorkspaceError, match="is a link"):
        ws.update_manifest("notebooks", {})
    with pytest.raises(WorkspaceError, match="is a link"):
        ws.remember("tiny", resolve("tiny", seed=1))
    (tmp_path / "store" / "key").mkdir(parents=True)
    PLACES[kind](mine, tmp_path / "store" / "key" / ".lock")
    monkeypatch.setenv("ASSL_SHARED", str(tmp_path / "store"))
    with pytest.raises(WorkspaceError, match="is a link"), shared_artifact("key"):
        pytest.fail("taken")


@links
def test_a_link_that_leads_nowhere_makes_no_file_there(ws, tmp_path):
    (ws.folder / LOCK).symlink_to(tmp_path / "new")
    with pytest.raises(WorkspaceError, match="is a link"), run_lock(ws):
        pytest.fail("taken")
    assert not (tmp_path / "new").exists()


@unix
@pytest.mark.timeout(60)
def test_a_pipe_is_no_lock_and_nobody_waits_for_it(ws):
    os.mkfifo(ws.folder / LOCK)
    for ask in (is_running, lambda ws: run_lock(ws).__enter__()):
        with pytest.raises(WorkspaceError, match="is no file"):
            ask(ws)


@links
def test_the_library_follows_no_link_that_comes_later(mine, tmp_path):
    """Between the look and the taking, as a link put there in that moment."""
    lock = lock_at(tmp_path / "lock")
    (tmp_path / "lock").symlink_to(mine)
    with pytest.raises(OSError), lock.acquire(timeout=0):
        pytest.fail("taken")


def test_versions_of_the_library_that_follow_links_are_not_admitted():
    from packaging.requirements import Requirement

    lines = (ROOT / "pyproject.toml").read_text(encoding="utf-8").splitlines()
    (filelock,) = [Requirement(line.strip(' ",')) for line in lines if line.strip().startswith('"filelock')]
    assert not filelock.specifier.contains("3.20.0") and filelock.specifier.contains("3.20.3")


@unix
def test_a_look_does_not_turn_a_run_away(ws):
    """Whoever asks holds the lock for a moment: a run that begins just then waits for it."""
    import fcntl
    import threading

    with run_lock(ws):
        pass
    looking = os.open(ws.folder / LOCK, os.O_RDONLY)
    fcntl.flock(looking, fcntl.LOCK_SH)
    threading.Timer(0.2, os.close, [looking]).start()
    with run_lock(ws):
        assert is_locked(ws.folder / LOCK)
