"""Records: their schema, validation with clear errors, prompts, and Parquet files of them in blocks."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from assl_kit.common import limits
from assl_kit.common.files import atomic_path
from assl_kit.errors import DataError

from .conversations import Prompt, conversation, read_history

COLUMNS = ("id", "instruction", "input", "output", "task", "source", "split")
SPLITS = ("train", "dev", "test")
BLOCK = 8192  # records of a block of a Parquet file, which is read and embedded at a time
_NEEDED = ("instruction", "output")
_SHOWN = 5
_TEXT = "str" if int(pd.__version__.split(".")[0]) >= 3 else object
_FIX = "Correct these records and load again."


def _is_missing(value: Any) -> bool:
    return value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value))


def _show(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."


class _Checker:
    """Takes records one at a time, keeps what is right in columns and remembers what is wrong."""

    def __init__(self, where: str) -> None:
        self.where = where
        self.columns: dict[str, list] = {name: [] for name in COLUMNS}
        self.extras: dict[str, list] = {}
        self.places: list[str] = []
        self.has: dict[str, str] = {}
        self.lacks: dict[str, str] = {}
        self.problems: list[str] = []
        self.n_problems = 0

    def wrong(self, place: str, what: str) -> None:
        self.n_problems += 1
        if len(self.problems) < _SHOWN:
            self.problems.append(f"{place}: {what}")

    def add(self, place: str, record: Any) -> None:
        if not isinstance(record, dict):
            self.wrong(place, f"a record must be an object with named fields, this is {_show(record)}")
            return
        record_id = record.get("id")
        label = f"{place} (id {record_id!r})" if isinstance(record_id, str) else place
        for name in COLUMNS:
            value = record.get(name)
            if _is_missing(value):
                self.lacks.setdefault(name, label)
                value = None
                if name in _NEEDED:
                    self.wrong(label, f"the field {name!r} is missing")
            else:
                self.has.setdefault(name, label)
                value = self._text(label, name, value)
            self.columns[name].append(value)
        self.places.append(label)
        if len(self.places) > limits.MAX_RECORDS:
            raise DataError(f"there are more than {limits.MAX_RECORDS:,} records", where=self.where, hint="Give fewer.")
        for name, value in record.items():
            if name not in COLUMNS:
                if str(name) not in self.extras and len(self.extras) >= limits.MAX_COLUMNS:
                    raise DataError(f"the records have more than {limits.MAX_COLUMNS:,} different fields", where=place)
                column = self.extras.setdefault(str(name), [None] * (len(self.places) - 1))
                nested = isinstance(value, (dict, list))
                column.append(json.dumps(value, ensure_ascii=False, default=str) if nested else value)
        for column in self.extras.values():
            if len(column) < len(self.places):
                column.append(None)

    def _text(self, label: str, name: str, value: Any) -> str:
        if not isinstance(value, str):
            self.wrong(label, f"{name!r} must be text, not {_show(value)} ({type(value).__name__})")
            return ""
        if name != "input" and not value.strip():
            self.wrong(label, f"{name!r} is empty")
        elif name == "split" and value not in SPLITS:
            self.wrong(label, f"the split {value!r} is none of {', '.join(SPLITS)}")
        try:
            value.encode("utf-8")
        except UnicodeEncodeError:
            self.wrong(label, f"{name!r} holds half of a surrogate pair, which is no character")
        return value

    def frame(self) -> pd.DataFrame:
        if not self.places and not self.n_problems:
            raise DataError("the corpus is empty", where=self.where, hint="Give at least one record.")
        for name in COLUMNS:
            if name in self.has and name in self.lacks and name not in _NEEDED:
                hint = 'write "" where there is none' if name == "input" else "give it to all records or to none"
                self.wrong(self.lacks[name], f"the field {name!r} is missing, though others have it; {hint}")
        if "id" in self.has:
            first: dict[str, str] = {}
            for value, label in zip(self.columns["id"], self.places, strict=True):
                if value and first.setdefault(value, label) is not label:
                    self.wrong(label, f"the id {value!r} is already that of {first[value].split(' (id ')[0]}")
        if self.n_problems:
            many = f"{self.n_problems} problems, the first {len(self.problems)} of them: "
            what = (many if self.n_problems > len(self.problems) else "") + "; ".join(self.problems)
            raise DataError(what, where=None if self.where in what else self.where, hint=_FIX)
        return pd.DataFrame(self.columns | {name: _tidy(values) for name, values in self.extras.items()})


def _tidy(values: list) -> list:
    """An extra column of one type (mixed ones become text), so that it can be written to Parquet."""
    kinds = {type(value) for value in values if not _is_missing(value)}
    if len(kinds) <= 1 or kinds <= {int, float}:
        return values
    return [None if _is_missing(value) else str(value) for value in values]


def _fill(records: pd.DataFrame, checker: _Checker, source: str) -> pd.DataFrame:
    """Fill in the fields that no record has."""
    if "input" not in checker.has:
        records["input"] = ""
    if "task" not in checker.has:
        records["task"] = "unknown"
    if "source" not in checker.has:
        records["source"] = source
    if "split" not in checker.has:
        records["split"] = "train"
    if "id" not in checker.has:
        seen: Counter = Counter()
        ids = []
        for row in zip(records["instruction"], records["input"], records["output"], strict=True):
            digest = hashlib.sha256("\x1f".join(row).encode("utf-8")).hexdigest()[:12]
            ids.append(f"{digest}-{seen[digest]}")
            seen[digest] += 1
        records["id"] = ids
    return records.astype({name: _TEXT for name in COLUMNS})


def validated(pairs: Iterable[tuple[str, Any]], where: str, source: str) -> tuple[pd.DataFrame, bool]:
    """Records from ``(place, record)`` pairs in the form of `validate_records`, and whether they came with splits.

    ``where`` names them in messages; ``source`` is the source of those that name none.
    """
    checker = _Checker(where)
    for place, record in pairs:
        checker.add(place, record)
    return _fill(checker.frame(), checker, source), "split" in checker.has


def validate_records(records: pd.DataFrame | Iterable[dict], *, where: str = "records") -> pd.DataFrame:
    """Check records against the schema and bring them to one form.

    ``instruction`` and ``output`` must be non-empty text. ``input`` may be empty. The fields ``id``, ``task``,
    ``source``, ``split`` and ``input`` are filled in when *no* record has them (a hash of the content and a counter,
    "unknown", ``where``, "train", ""), and are an error when only some have them. Other fields are kept as extra
    columns; objects and lists in them become JSON text.

    Parameters
    ----------
    records : DataFrame or iterable of dict
        The records; an iterable is read once, record by record.
    where : str
        A name for the records in error messages, and their ``source`` when they have none.

    Returns
    -------
    DataFrame
        The columns of ``COLUMNS`` first (text, ids unique, split one of ``SPLITS``), then the extra ones.

    Raises
    ------
    DataError
        No record at all; a missing or empty field; a value that is not text; an unknown split; an id used twice.
        The message names the first five problems, each with its place.

    Examples
    --------
    >>> frame = validate_records([{"instruction": "判断情绪。", "input": "股价大涨", "output": "积极"}])
    >>> frame.loc[0, ["task", "split"]].tolist()
    ['unknown', 'train']
    >>> validate_records([{"instruction": "判断情绪。", "output": 1}])
    Traceback (most recent call last):
    ...
    assl_kit.errors.DataError: records, row 1: 'output' must be text, not 1 (int). Correct these records and load again.
    """
    if isinstance(records, pd.DataFrame):
        records = records.to_dict("records")
    pairs = ((f"{where}, row {number}", record) for number, record in enumerate(records, 1))
    return validated(pairs, where, where)[0]


def user_prompt(instruction: str, input: str = "") -> str:
    """What the user says to the model: the instruction, then the input on a new line if there is one.

    Examples
    --------
    >>> user_prompt("判断情绪。", "股价大涨")
    '判断情绪。\\n股价大涨'
    """
    return f"{instruction}\n{input}" if input.strip() else instruction


def prompts(records: pd.DataFrame) -> list[Prompt]:
    """What the model is asked by each record, in order.

    Returns
    -------
    list of str or list of dict
        The `user_prompt` of a record; chat messages for one with a ``system`` message or a ``history``.

    Raises
    ------
    DataError
        If a ``history`` is no list of pairs of texts; names the record.

    Examples
    --------
    >>> prompts(validate_records([{"instruction": "什么是债券？", "output": "一种借据。"}]))
    ['什么是债券？']
    """
    asked = [user_prompt(*row) for row in zip(records["instruction"], records["input"], strict=True)]
    if "system" not in records and "history" not in records:
        return list(asked)
    nothing = [""] * len(asked)
    names = records["id"] if "id" in records else range(len(asked))
    before = zip(records.get("system", nothing), records.get("history", nothing), names, strict=True)
    return [
        conversation(question, system if isinstance(system, str) else "", read_history(history, f"record {name}"))
        for question, (system, history, name) in zip(asked, before, strict=True)
    ]


def write_records(records: pd.DataFrame, path: str | os.PathLike) -> None:
    """Validate records and write them as Parquet, in blocks of `BLOCK`, atomically."""
    records = validate_records(records, where=os.fspath(path))
    with atomic_path(path) as temporary:
        records.to_parquet(temporary, index=False, row_group_size=BLOCK)


def block_starts(path: str | os.PathLike) -> np.ndarray:
    """The first row of each block of a Parquet file, and the number of rows at the end: shape (blocks + 1,), int64."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        sizes = [file.metadata.row_group(number).num_rows for number in range(file.metadata.num_row_groups)]
    return np.cumsum([0, *sizes])


def read_block(path: str | os.PathLike, number: int, columns: Sequence[str]) -> pd.DataFrame:
    """Those of these columns that a Parquet file has, of one of its blocks; no other block is read."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        return file.read_row_group(number, columns=list(columns)).to_pandas()
