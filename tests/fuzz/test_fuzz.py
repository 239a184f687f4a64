"""A short seeded run of each reader, and the hunt itself on readers that are wrong in each of the ways it looks for."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path
from random import Random

import pytest

from assl_kit.errors import DataError
from fuzz import hunt as hunting
from fuzz.mutate import CHANGES, MOST, mutated
from fuzz.targets import TARGETS, Target, quietly

CASES = {"template": 3, "base": 4, "encoder": 8, "routes": 8, "adapter": 8, "saved": 20}
"""Of the slow readers; 60 of the others."""


@pytest.mark.parametrize("name", TARGETS)
def test_a_changed_file_is_read_or_refused_in_words(tmp_path, name):
    target = TARGETS[name]
    whole = hunting.example(target, tmp_path)
    quietly(target.read, whole, 0)
    examples = {file: (whole / file).read_bytes() for file in target.files}
    for case in range(CASES.get(name, 60)):
        file, data = hunting.changed(target, tmp_path / "whole", 7, case)
        (whole / file).write_bytes(data)
        with suppress(*target.expected):
            quietly(target.read, whole, case)
        (whole / file).write_bytes(examples[file])


def test_a_case_is_the_same_every_time(tmp_path):
    whole = hunting.example(TARGETS["yaml"], tmp_path)
    cases = [hunting.changed(TARGETS["yaml"], whole, 1, case) for case in range(30)]
    assert cases == [hunting.changed(TARGETS["yaml"], whole, 1, case) for case in range(30)]
    assert len(set(cases)) > 25 and cases != [hunting.changed(TARGETS["yaml"], whole, 2, case) for case in range(30)]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_every_change_changes_something(change):
    data, other = b'{"a": 1, "b": "text"}\n' * 3, b"other bytes"
    assert any(change(data, other, Random(seed)) != data for seed in range(5))
    change(b"", b"", Random(0))
    assert len(mutated(b"x" * 2 * MOST, other, Random(0))) <= MOST


def _wrong_reader(kind: str) -> Target:
    def make(folder: Path) -> None:
        (folder / "a").write_bytes(b"fine")

    def read(folder: Path, case: int) -> None:
        if (folder / "a").read_bytes() == b"fine":
            return
        if kind == "refuses":
            raise DataError("it is no file of ours")
        if kind == "raises":
            raise KeyError("a")
        if kind == "ends":
            os._exit(3)
        if kind == "grows":
            bytearray(hunting.CASE_BYTES + (400 << 20))  # what was freed before may be taken again unseen
        if kind == "grows beyond":
            bytearray(8 * hunting.ROOM)
        while kind == "hangs":
            pass

    return Target(make, ("a",), read)


@pytest.mark.skipif(sys.platform != "linux", reason="memory is bounded and measured as Linux does")
@pytest.mark.parametrize(
    ("kind", "what"),
    [
        ("refuses", None),
        ("raises", "KeyError"),
        ("ends", "the process ended with 3"),
        ("grows", "it took "),
        ("grows beyond", "MemoryError"),
        ("hangs", "Timeout"),
    ],
)
def test_the_hunt_sees_what_goes_wrong(tmp_path, monkeypatch, kind, what):
    """The child of the hunt is a fork of this process, so that it knows the wrong reader."""
    monkeypatch.setitem(TARGETS, "wrong", _wrong_reader(kind))
    if kind == "hangs":  # else the time of a busy machine is no finding
        monkeypatch.setattr(hunting, "CASE_SECONDS", 1)
    monkeypatch.setattr(hunting, "subprocess", _Forks())
    n_cases, findings = hunting.hunt("wrong", tmp_path / "fuzz", seed=0, seconds=60, most=3)
    assert n_cases == 3
    assert [finding["reader"] for finding in findings] == ([] if what is None else ["wrong"])
    if what is not None:
        assert what in findings[0]["what"]
        place = hunting.keep(findings[0], tmp_path / "fuzz", tmp_path / "out")
        assert (place / "a").read_bytes() != b"fine" and what in (place / "what.txt").read_text(encoding="utf-8")


class _Forks:
    """As the module subprocess, for the one call that the hunt makes."""

    def run(self, command: list[str], **_: object) -> object:
        name, folder, *numbers = command[command.index("--child") + 1 :]
        errors = Path(folder) / "errors"
        process = os.fork()
        if process == 0:
            os.dup2(os.open(errors, os.O_CREAT | os.O_WRONLY | os.O_TRUNC), 2)
            sys.stderr = open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115 - until the process ends
            code = 1
            try:
                start, seconds, most = int(numbers[1]), float(numbers[2]), int(numbers[3])
                hunting.child(name, Path(folder), int(numbers[0]), start, seconds, most)
                code = 0
            finally:
                os._exit(code)
        code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        return _Ended(code, errors.read_text(encoding="utf-8", errors="replace"))


class _Ended:
    def __init__(self, returncode: int, stderr: str) -> None:
        self.returncode, self.stderr = returncode, stderr
