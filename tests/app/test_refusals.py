"""What the operating system refuses: one message, exit code 3; and what a look at runs leaves as it is."""

from __future__ import annotations

import errno
import io
import json
import os
import subprocess
import sys

import pytest
from helpers.hostile import links

from assl_kit.app.console import system_message
from assl_kit.artifacts.parameters import resolve
from assl_kit.artifacts.workspace import MANIFEST, Workspace
from assl_kit.errors import AsslError
from assl_kit.runner.resume import LOCK, is_running, run_lock

RECORD = {"instruction": "判断情绪。", "output": "积极"}
REFUSED = [errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EMFILE, errno.EDQUOT, errno.EIO]
linux = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc and the limits of Linux")


@pytest.fixture
def assl(assl, one_notebook):
    """The command, where the chain has one notebook."""
    return assl


def refuses(monkeypatch, number, after=0):
    """Let every flush to disk but the first ones fail, as on a full disk."""
    left = [after]

    def fsync(handle):
        left[0] -= 1
        if left[0] < 0:
            raise OSError(number, os.strerror(number), "the/place")

    monkeypatch.setattr(os, "fsync", fsync)


def is_one_message(result, number, code=3):
    exit_code, _, err = result
    assert exit_code == code and err.count("\n") == 1, err
    assert err.startswith("assl: ") and os.strerror(number) in err


def runs(tmp_path, *names):
    for name in names:
        Workspace.open(tmp_path / "runs" / name).remember("tiny", resolve("tiny"))


# every command -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("number", REFUSED)
def test_a_run_that_the_system_refuses_is_one_message(assl, monkeypatch, number):
    refuses(monkeypatch, number)
    for command in (("run",), ("run", "--dry-run"), ("sweep", "g.yaml"), ("sweep", "g.yaml", "--dry-run")):
        with open("g.yaml", "w", encoding="utf-8") as file:
            file.write("grid: {seed: [0, 1]}")
        is_one_message(assl(*command), number)
    assert not os.path.exists("runs")


def test_a_disk_that_fills_up_later_is_one_message_too(assl, monkeypatch):
    refuses(monkeypatch, errno.ENOSPC, after=1)  # the test file at the beginning can still be made
    is_one_message(assl("run"), errno.ENOSPC)


def test_reports_and_exports_are_refused_in_one_message(assl, tmp_path, monkeypatch):
    runs(tmp_path, "one")
    monkeypatch.setattr("assl_kit.app.exports.commands.experts_folder", lambda ws: ws.folder)
    monkeypatch.setattr("assl_kit.experts.bank.ExpertBank.from_pretrained", lambda *_: pytest.fail("not reached"))
    refuses(monkeypatch, errno.EROFS)
    is_one_message(assl("report", "one"), errno.EROFS)

    def export(*_):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), "out")

    monkeypatch.setattr("assl_kit.experts.bank.ExpertBank.from_pretrained", export)
    is_one_message(assl("export", "vllm", "one", "out"), errno.EACCES)


def test_a_run_that_is_done_but_has_no_report_is_exit_code_1(assl, monkeypatch):
    def refused(ws):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "report.html")

    monkeypatch.setattr("assl_kit.runner.report.write_report", refused)
    is_one_message(assl("run"), errno.ENOSPC, code=1)


def test_the_file_that_is_named_is_the_one_that_was_meant():
    for path in ("runs/x/.a.b.json.pid7.ab12_c3d", "runs/x/.a.b.json.pid7.ab12_c3d/a.b.json", "runs/x/a.b.json"):
        assert "(runs/x/a.b.json)" in system_message(OSError(errno.EROFS, "Read-only file system", path))
    assert system_message(OSError("odd")) == "the system refuses: odd. Look at the place that is named."


# real places ---------------------------------------------------------------------------------------------------------
@links
@pytest.mark.parametrize("command", [("run",), ("run", "--dry-run"), ("status",), ("compare", "a", "b")])
def test_links_in_a_circle(assl, tmp_path, monkeypatch, command):
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    monkeypatch.setenv("ASSL_RUNS", str(tmp_path / "a" / "runs"))
    is_one_message(assl(*command), errno.ELOOP)


@pytest.mark.parametrize("command", [("run",), ("run", "--dry-run"), ("status",), ("report", "x")])
def test_a_path_that_is_too_long(assl, tmp_path, monkeypatch, command):
    monkeypatch.setenv("ASSL_RUNS", str(tmp_path / ("长" * 120)))
    is_one_message(assl(*command), errno.ENAMETOOLONG)


@linux
def test_a_place_where_nothing_can_be_made(assl, monkeypatch):
    monkeypatch.setenv("ASSL_RUNS", "/proc/runs")
    for command in (("run",), ("run", "--dry-run")):
        code, _, err = assl(*command)
        assert code == 3 and err.count("\n") == 1 and "(/proc/runs/tiny)" in err


@linux
def test_too_many_open_files(tmp_path):
    program = "import resource; from assl_kit.app.cli import main\nimport assl_kit.runner.run, papermill, zmq\n"
    program += "resource.setrlimit(resource.RLIMIT_NOFILE, (MOST, MOST))\nmain()"
    for limit in (6, 30, 90):
        done = subprocess.run(
            [sys.executable, "-c", program.replace("MOST", str(limit)), "run", "--name", f"x{limit}"],
            capture_output=True, text=True, cwd=tmp_path, timeout=300,
        )  # fmt: skip
        assert done.returncode == 3 and done.stderr.count("\n") == 1 and "Too many open files" in done.stderr


@linux
def test_an_output_that_is_full(tmp_path):
    Workspace.open(tmp_path / "runs" / "one").remember("tiny", resolve("tiny"))
    for command in (["status"], ["status", "--json"], ["compare", "one", "one", "--json"]):
        with open("/dev/full", "w", encoding="utf-8") as full:
            done = subprocess.run(
                [sys.executable, "-m", "assl_kit.app.cli", *command],
                stdout=full, stderr=subprocess.PIPE, text=True, cwd=tmp_path, timeout=300,
            )  # fmt: skip
        assert done.returncode == 3 and done.stderr.count("\n") == 1 and "No space left" in done.stderr


# a look at runs ------------------------------------------------------------------------------------------------------
def test_one_broken_run_does_not_hide_the_others(assl, tmp_path, monkeypatch):
    runs(tmp_path, "good", "run-10", "run-9")
    manifests = {
        "not-json": "{", "other": '{"format": 99}', "list": "[]", "bytes": "\udcff", "numbers": '{"format": 1}',
        "odd": json.dumps({"format": 1, "notebooks": {"00": {"status": ["?"]}}, "artifacts": {}, "parameters": {}}),
    }  # fmt: skip
    for name, text in manifests.items():
        (tmp_path / "runs" / name).mkdir()
        (tmp_path / "runs" / name / MANIFEST).write_bytes(text.encode("utf-8", "surrogateescape"))
    runs(tmp_path, "locked")
    (tmp_path / "runs" / "locked" / LOCK).mkdir()
    read = Workspace.manifest

    def manifest(ws):
        if ws.folder.name == "run-9":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(ws.folder / MANIFEST))
        return read(ws)

    monkeypatch.setattr(Workspace, "manifest", manifest)
    code, out, err = assl("status", "--json")
    states = {row["run"]: row for row in json.loads(out)}
    assert (code, err) == (0, "") and states["good"]["state"] == "new"
    assert states["not-json"]["state"] == states["other"]["state"] == states["bytes"]["state"] == "damaged"
    assert states["run-9"]["state"] == "unreadable" and "Permission denied" in states["run-9"]["message"]
    assert list(states).index("run-9") < list(states).index("run-10")
    code, out, _ = assl("status")
    assert code == 0 and "good" in out and "Permission denied" in out
    is_one_message(assl("status", "run-9"), errno.EACCES)


def test_a_look_writes_nothing(assl, tmp_path):
    runs(tmp_path, "a", "b")
    for name in "ab":
        with run_lock(Workspace.open(tmp_path / "runs" / name)):
            pass
    before = {path: path.stat().st_mtime_ns for path in [tmp_path / "runs", *(tmp_path / "runs").rglob("*")]}
    for command in (("status",), ("status", "a"), ("compare", "a", "b"), ("run", "--name", "a", "--dry-run")):
        assert assl(*command)[0] == 0, command
        if command[0] == "run":  # which makes a file to see whether it can, and removes it
            before[tmp_path / "runs" / "a"] = (tmp_path / "runs" / "a").stat().st_mtime_ns
        after = {path: path.stat().st_mtime_ns for path in [tmp_path / "runs", *(tmp_path / "runs").rglob("*")]}
        assert after == before, command


def test_who_is_at_work_is_seen_without_writing(tmp_path):
    ws = Workspace.open(tmp_path)
    assert not is_running(ws)
    with run_lock(ws):
        assert is_running(ws)
    assert not is_running(ws)


# what is no text -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "arguments",
    [
        ("ask", "问\udcff"),
        ("route", "\udcff"),
        ("run", "--data", "\udcff.jsonl"),
        ("run", "--name", "\udcff"),
        ("run", "-p", "base_model", "\udcff"),
        ("run", "--profile", "\udcff"),
        ("status", "\udcff"),
        ("report", "\udcff"),
    ],
)
def test_bytes_that_are_not_utf_8_are_one_message(assl, tmp_path, arguments):
    (tmp_path / "\udcff.jsonl").write_text("\n".join(json.dumps(RECORD | {"input": str(i)}) for i in range(99)))
    code, _, err = assl(*arguments)
    assert code == 2 and err.count("\n") == 1 and err.startswith("assl: ")


def test_a_question_is_read_from_the_standard_input(assl, monkeypatch):
    for command in ("ask", "route"):
        for given, message in [(b"\xff\xfe", "not UTF-8"), (b" \n", "is empty"), ("问".encode(), "no run 'tiny'")]:
            monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(given), encoding="utf-8"))
            code, _, err = assl(command, "-")
            assert code == 2 and message in err and err.count("\n") == 1


@pytest.mark.parametrize("data", ["", " "])
def test_no_data_is_refused(assl, data):
    for command in (("run", "--data", data), ("run", "-p", "data", ""), ("referee", data)):
        code, _, err = assl(*command)
        assert code == 2 and err.count("\n") == 1 and not os.path.exists("runs")


def test_errors_that_are_no_refusal_keep_their_traceback(assl, monkeypatch):
    def broken(*_):
        raise KeyError("a fault of ours")

    monkeypatch.setattr("assl_kit.app.ask.find_run", broken)
    with pytest.raises(KeyError):
        assl("status", "x")
    assert not issubclass(OSError, AsslError)
