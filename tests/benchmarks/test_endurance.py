"""What long use leaves behind: the measurement works on a small scale, and what is committed shows no leak."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from assl_kit.common.files import read_json
from benchmarks import endurance
from benchmarks.machine import with_table

needs_proc = pytest.mark.skipif(not hasattr(os, "getsid"), reason="sessions of processes are POSIX")


@needs_proc
def test_a_group_is_measured_and_ends_with_its_leader():
    """A child in a session of its own counts too, as a notebook's kernel is one."""
    start = "import subprocess, sys; one = subprocess.Popen([sys.executable, '-c', {child!r}], start_new_session=True)"
    child = "print('ready', flush=True); import time; time.sleep(60)"
    line = [sys.executable, "-c", start.format(child=child) + "; one.wait()"]
    process = subprocess.Popen(line, start_new_session=True, stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline() == b"ready\n"
    members = endurance.group(process.pid)
    try:
        assert [process.pid, members[-1].pid] == [member.pid for member in members]
        assert endurance.measured(members)["memory_mb"] > endurance.measured(members[:1])["memory_mb"] > 1
    finally:
        for member in members:
            member.kill()
        process.communicate()
    assert endurance.group(process.pid) == []


@pytest.mark.slow
@needs_proc
def test_a_selection_is_watched(tmp_path):
    out = tmp_path / "endurance.json"
    assert endurance.main(["--out", str(out), "select", "--records", "1500"]) == 0
    facts = read_json(out)["select"]
    assert facts["chosen"] == 150 and facts["exit"] == 0 and facts["temporary_files_left"] == []
    assert facts["peak"]["memory_mb"] > 100 and facts["peak"]["open_files"] > 0


def test_what_is_committed_shows_no_leak():
    parts, document = read_json(endurance.RESULT), endurance.DOCUMENT.read_text(encoding="utf-8")
    assert with_table(document, "endurance", endurance.table(parts)) == document
    assert not (parts["sweep"]["exit"] or parts["sweep"]["half_files_left"] or parts["select"]["exit"])
    assert parts["sweep"]["jobs_whole"] == parts["sweep"]["jobs"] and not parts["sweep"]["processes_left_after_kills"]
    samples = parts["page"]["samples"]
    early, last = samples[len(samples) // 6], samples[-1]
    assert last["minute"] >= 60 and last["memory_mb"] < 1.1 * early["memory_mb"]
    assert last["open_files"] <= early["open_files"] + 2 and last["threads"] <= early["threads"] + 2
    assert parts["page"]["processes_left"] == 0 and parts["page"]["answered"] > 0.85 * parts["page"]["asked"]
