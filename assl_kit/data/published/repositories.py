"""Other published repositories: where their data lie, and which rows of them have no answer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ..records import LeftOut

_MARKS = (
    "data/knowledge/knowledge.json",  # CFLUE
    "data/consulting_part.json",  # DISC-FinLLM
    "data/company/data.jsonl",  # CFGPT
    "data/金融知识",  # CFBenchmark-OpenFinData
    "data/dataset_dict.json",  # CFBenchmark-basic
)
_CFBENCHMARK = {"company", "product", "sector", "industry", "event", "sentiment", "risk", "suggestion", "summary"}


def data_folder(folder: Path) -> Path:
    """The folder ``data`` of a repository that is known to keep its records there, beside programs; else the folder.

    Examples
    --------
    >>> data_folder(Path("nowhere")).name
    'nowhere'
    """
    return folder / "data" if any((folder / mark).exists() for mark in _MARKS) else folder


def is_cfbenchmark(parts: Iterable[str]) -> bool:
    """Whether the parts of a dataset have the names of CFBenchmark's tasks.

    Examples
    --------
    >>> is_cfbenchmark(["train", "test"])
    False
    """
    return len(_CFBENCHMARK.intersection(parts)) >= 6


def answered(pairs: Iterable[tuple[str, Any]], left_out: list[LeftOut]) -> Iterator[tuple[str, Any]]:
    """The rows of CFBenchmark that have an answer; a published one has none, and is put down in ``left_out``."""
    for place, row in pairs:
        if str(row.get("response") or "").strip():
            yield place, row
        else:
            left_out.append(LeftOut(place, None, "the row has no answer"))
