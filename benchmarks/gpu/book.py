"""The parts of a measurement, one after the other within some minutes, and the file that holds what they gave."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from assl_kit.common.files import read_json, write_json


@dataclass(frozen=True)
class Part:
    """One part: ``estimate`` are the seconds it is expected to take on an H100, ``work()`` gives its facts."""

    name: str
    estimate: float
    work: Callable[[], dict[str, Any]]


class LeftOut(Exception):
    """A part cannot be measured here; the message says why."""


class Book:
    """What is measured so far, in memory and in a file, which is written anew, all or nothing, after each part.

    Parameters
    ----------
    path : pathlib.Path
        A file that is there already is gone on with.
    about : dict
        What stands for the whole: card, versions, commit.
    """

    def __init__(self, path: Path, about: dict[str, Any]):
        self.path = path
        self.content: dict[str, Any] = {"about": about, "parts": {}, "failed": {}, "left_out": {}}
        if path.is_file():
            self.content = read_json(path) | {"about": about}

    def has(self, name: str) -> bool:
        """Whether a part was measured, by this commit."""
        part = self.content["parts"].get(name)
        return part is not None and part["commit"] == self.content["about"]["commit"]

    def put(self, name: str, seconds: float, facts: dict[str, Any]) -> None:
        """Keep what a part gave."""
        commit, date = self.content["about"]["commit"], self.content["about"]["date"]
        self._forget(name)
        self.content["parts"][name] = {"seconds": round(seconds, 2), "date": date, "commit": commit} | facts
        write_json(self.path, self.content)

    def miss(self, kind: str, name: str, why: str) -> None:
        """Note that a part has ``failed`` or was ``left_out``."""
        self._forget(name)
        self.content[kind][name] = why
        write_json(self.path, self.content)

    def _forget(self, name: str) -> None:
        for kind in ("failed", "left_out"):
            self.content[kind].pop(name, None)


def measure(parts: Sequence[Part], book: Book, ends: float, say: Callable[[str], None]) -> None:
    """Do the parts that are not in the book, in order, where their estimate fits before ``ends`` (`perf_counter`).

    A part that raises is noted and stops nothing; it is tried again the next time.
    """
    for part in parts:
        if book.has(part.name):
            say(f"{part.name}: measured already")
            continue
        left = ends - time.perf_counter()
        if part.estimate > left:
            why = f"about {part.estimate:.0f} s, and {max(0, left):.0f} s were left"
            book.miss("left_out", part.name, why)
            say(f"{part.name}: left out: {why}")
            continue
        start = time.perf_counter()
        try:
            facts = part.work()
        except LeftOut as reason:
            book.miss("left_out", part.name, str(reason))
            say(f"{part.name}: left out: {reason}")
        except Exception as error:  # whatever a card or a library raises
            why = f"{type(error).__name__}: {error}"[:500]
            book.miss("failed", part.name, why)
            say(f"{part.name}: failed: {why}")
        else:
            seconds = time.perf_counter() - start
            book.put(part.name, seconds, facts)
            say(f"{part.name}: {seconds:.1f} s")
