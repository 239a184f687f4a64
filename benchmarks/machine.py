"""What stands beside every measurement: the processor, its cores and load, and the versions of packages."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"


def marks(name: str) -> tuple[str, str]:
    """The two lines of a document between which a table of this name stands."""
    return f"<!-- {name}: begin -->", f"<!-- {name}: end -->"


def with_table(document: str, name: str, table: str) -> str:
    """The document with a table between its marks, in place of what stands there.

    Examples
    --------
    >>> with_table("a <!-- x: begin -->old<!-- x: end --> b", "x", "new").split()
    ['a', '<!--', 'x:', 'begin', '-->', 'new', '<!--', 'x:', 'end', '-->', 'b']
    """
    begin, end = marks(name)
    before, rest = document.split(begin)
    return f"{before}{begin}\n{table}\n{end}{rest.split(end)[1]}"


def cpu_name() -> str:
    """The processor's name, as the system gives it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    named = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()


def cores() -> int | None:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def load() -> float | None:
    """Processes that waited for a core, mean of the last minute; None where the system does not say."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def versions(packages: Iterable[str]) -> dict[str, str | None]:
    """The version of each package; None where it is not installed."""
    numbers: dict[str, str | None] = {}
    for package in packages:
        try:
            numbers[package] = version(package)
        except PackageNotFoundError:
            numbers[package] = None
    return numbers
