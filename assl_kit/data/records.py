"""Records: their schema, validation with clear errors, prompts, and writing them in blocks."""

from __future__ import annotations

import hashlib
import json
import os
import reprlib
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

import pandas as pd

from assl_kit.common import limits
from assl_kit.common.columns import is_missing, printable, tidy
from assl_kit.common.files import atomic_path, write_text
from assl_kit.errors import DataError

from .conversations import OPTIONAL, Prompt, conversation, read_history
from .schemas import Mapper, Misfit, NothingToRead, UnknownForm

COLUMNS = ("id", "instruction", "input", "output", "task", "source", "split")
LEFT_OUT = "left_out.jsonl"
"""The file in which a run and a selection list what was left out."""
SPLITS = ("train", "dev", "test")
SPLIT_NAMES = {
    "train": "train", "training": "train", "validation": "dev", "valid": "dev", "val": "dev", "dev": "dev",
    "eval": "dev", "test": "test", "testing": "test",
}  # fmt: skip
TooLong = Callable[[str], "str | None"]
BLOCK = 8192  # records of a block of a Parquet file, which is read and embedded at a time
_FIELDS = (*COLUMNS, *OPTIONAL)
_FIELD_NAMES = frozenset(_FIELDS)
_INSTRUCTION, _INPUT, _OUTPUT = map(_FIELDS.index, ("instruction", "input", "output"))
_MAY_BE_EMPTY = ("input", *OPTIONAL)
_NEEDED = ("instruction", "output")
_SHOWN = 5
_TEXT = "str" if int(pd.__version__.split(".")[0]) >= 3 else object
_FIX = "Correct these records and load again."


_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxstring, _SHORT.maxlong, _SHORT.maxother = 4, 200, 200, 200
_SHORT.maxlist = _SHORT.maxtuple = _SHORT.maxdict = 40


def _show(value: Any) -> str:
    text = _SHORT.repr(value)
    return text if len(text) <= 40 else text[:37] + "..."


@dataclass(frozen=True)
class LeftOut:
    """A record, a row or a file that was left out: where it is, its id if it has one, and why."""

    place: str
    id: str | None
    reason: str


def write_left_out(left_out: Iterable[LeftOut], path: str | os.PathLike) -> None:
    """Write what was left out as JSON lines, atomically."""
    write_text(path, "".join(json.dumps(asdict(one), ensure_ascii=False) + "\n" for one in left_out))


class BadRecords(DataError):
    """Records that break the schema; they can be left out."""


class _Checker:
    """Takes the records of one file one at a time, keeps what is right in columns and remembers what is wrong."""

    def __init__(self, where: str, *, skip: bool, left_out: list[LeftOut], too_long: TooLong | None) -> None:
        self.where, self.skip, self.left_out, self.too_long = where, skip, left_out, too_long
        self.mapper = Mapper()
        self.columns: dict[str, list] = {name: [] for name in _FIELDS}
        self.extras: dict[str, list] = {}
        self.places: list[str] = []
        self.has: dict[str, str] = {}
        self.lacks: dict[str, str] = {}
        self.problems: list[str] = []
        self.n_problems = 0
        self.n_read = 0
        self.n_characters = 0
        self.unknown: UnknownForm | None = None

    def wrong(self, label: str, what: str) -> None:
        self.n_problems += 1
        if len(self.problems) < _SHOWN:
            self.problems.append(f"{label}: {what}")

    def add(self, place: str, raw: Any) -> None:
        """Take one record, or what is wrong with it where the reader could not make one."""
        self.n_read += 1
        if isinstance(raw, dict) and len(raw) > limits.MAX_COLUMNS:
            raise DataError(f"the record has more than {limits.MAX_COLUMNS:,} fields", where=place)
        if self.n_read > limits.MAX_RECORDS:
            raise DataError(f"there are more than {limits.MAX_RECORDS:,} records", where=self.where, hint="Give fewer.")
        record_id = raw.get("id") if isinstance(raw, dict) else None
        record_id = record_id if isinstance(record_id, str) else None
        label = place if record_id is None else f"{place} (id {record_id!r})"
        problems: list[str] = []
        values: list[Any] = []
        record = self._mapped(place, raw, problems)
        if record is not None:
            values = self._values(record, problems)
        if problems and self.skip:
            self.left_out.append(LeftOut(place, record_id, "; ".join(problems)))
            return
        for what in problems:
            self.wrong(label, what)
        if record is None:
            return
        for name, value in zip(_FIELDS, values, strict=True):
            (self.lacks if value is None else self.has).setdefault(name, label)
            self.columns[name].append(value)
        self.places.append(label)
        self._add_extras(place, record)

    def _mapped(self, place: str, raw: Any, problems: list[str]) -> dict | None:
        if isinstance(raw, DataError):
            if not self.skip:
                raise raw
            problems.append(raw.what)
            return None
        if not isinstance(raw, dict):
            problems.append(f"a record must be an object with named fields, this is {_show(raw)}")
            return None
        try:
            return self.mapper(place, raw)
        except Misfit as error:
            problems.append(str(error))
        except UnknownForm as error:
            self.unknown = self.unknown or error
            if not self.skip and not self.mapper.known:
                raise
            problems.append(error.what)
        return None

    def _values(self, record: dict, problems: list[str]) -> list[Any]:
        """The values of `_FIELDS`, None where there is none."""
        values: list[Any] = [None if is_missing(value) else value for value in map(record.get, _FIELDS)]
        if _is_blank(values[_INSTRUCTION]) and isinstance(values[_INPUT], str) and not _is_blank(values[_INPUT]):
            values[_INSTRUCTION], values[_INPUT] = values[_INPUT], ""  # one text, as some published sets have it
        for place, (name, value) in enumerate(zip(_FIELDS, values, strict=True)):
            if value is None:
                if name in _NEEDED:
                    problems.append(f"the field {name!r} is missing")
                continue
            if name == "split" and isinstance(value, str):
                value = values[place] = SPLIT_NAMES.get(value.strip().lower(), value)
            what = _wrong_text(name, value)
            if what:
                problems.append(what)
                values[place] = ""
        if self.too_long is not None and values[_OUTPUT]:
            problems += filter(None, [self.too_long(values[_OUTPUT])])
        return values

    def _add_extras(self, place: str, record: dict) -> None:
        for name, value in record.items():
            self.n_characters += len(value) if isinstance(value, str) else 1
            if name not in _FIELD_NAMES:
                column = self.extras.get(str(name))
                if column is None:
                    if len(self.extras) >= limits.MAX_COLUMNS:
                        what = f"the records have more than {limits.MAX_COLUMNS:,} different fields"
                        raise DataError(what, where=place)
                    column = self.extras[str(name)] = [None] * (len(self.places) - 1)
                nested = isinstance(value, (dict, list))
                column.append(_json_text(value, place) if nested else value)
        for column in self.extras.values():
            if len(column) < len(self.places):
                column.append(None)
        n_cells = len(self.extras) * len(self.places)
        if n_cells > limits.FREE_CELLS and n_cells > self.n_characters:
            what = f"{len(self.extras):,} fields besides ours make more cells than the records have characters"
            raise DataError(what, where=place, hint="Drop the fields that most records lack.")

    def frame(self) -> pd.DataFrame:
        if self.unknown is not None and not self.mapper.known:
            raise self.unknown
        if not self.places and not self.n_problems:
            every = f", all {self.n_read:,} records are left out" if self.n_read else ""
            raise NothingToRead(f"the corpus is empty{every}", where=self.where, hint="Give at least one record.")
        bad: dict[int, str] = {}
        for name in COLUMNS:
            if name in self.has and name in self.lacks and name not in _NEEDED:
                hint = 'write "" where there is none' if name == "input" else "give it to all records or to none"
                what = f"the field {name!r} is missing, though others have it"
                self.wrong(self.lacks[name], f"{what}; {hint}")
                bad |= {row: what for row, value in enumerate(self.columns[name]) if value is None}
        if "id" in self.has:
            first: dict[str, str] = {}
            for row, (value, label) in enumerate(zip(self.columns["id"], self.places, strict=True)):
                if value and row not in bad and first.setdefault(value, label) is not label:
                    bad[row] = f"the id {value!r} is already that of {first[value].split(' (id ')[0]}"
                    self.wrong(label, bad[row])
        if self.n_problems and not self.skip:
            many = f"{self.n_problems} problems, the first {len(self.problems)} of them: "
            what = (many if self.n_problems > len(self.problems) else "") + "; ".join(self.problems)
            raise BadRecords(what, where=None if self.where in what else self.where, hint=_FIX)
        for name in OPTIONAL:
            self.columns[name] = [value or "" for value in self.columns[name]]
        columns = {name: values for name, values in self.columns.items() if name in COLUMNS or any(values)}
        frame = pd.DataFrame(columns | {printable(name): tidy(values) for name, values in self.extras.items()})
        return self._without(frame, bad) if bad else frame

    def _without(self, frame: pd.DataFrame, bad: dict[int, str]) -> pd.DataFrame:
        for row, what in sorted(bad.items()):
            self.left_out.append(LeftOut(self.places[row].split(" (id ")[0], self.columns["id"][row], what))
        if len(bad) == len(frame):
            raise NothingToRead(f"the corpus is empty, all {self.n_read:,} records are left out", where=self.where)
        return frame.drop(index=list(bad)).reset_index(drop=True)


def _json_text(value: Any, place: str) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, default=str)
    except (RecursionError, TypeError, ValueError) as error:
        raise DataError(f"a field cannot be written as JSON: {str(error)[:80]}", where=place) from None


def _is_blank(value: Any) -> bool:
    return isinstance(value, str) and not value.strip()


def _wrong_text(name: str, value: Any) -> str | None:
    """What is wrong with the value of one of our fields, if anything is."""
    if not isinstance(value, str):
        return f"{name!r} must be text, not {_show(value)} ({type(value).__name__})"
    if name not in _MAY_BE_EMPTY and not value.strip():
        return f"{name!r} is empty"
    if name == "split" and value not in SPLITS:
        return f"the split {_show(value)} is none of {', '.join(SPLITS)}"
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        return f"{name!r} holds half of a surrogate pair, which is no character"
    return None


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
        texts = [name for name in ("instruction", "input", "output", *OPTIONAL) if name in records]
        for row in zip(*(records[name] for name in texts), strict=True):
            digest = hashlib.sha256("\x1f".join(row).encode("utf-8")).hexdigest()[:12]
            ids.append(f"{digest}-{seen[digest]}")
            seen[digest] += 1
        records["id"] = ids
    return records.astype({name: _TEXT for name in _FIELDS if name in records})


def validated(
    pairs: Iterable[tuple[str, Any]],
    where: str,
    source: str,
    *,
    skip: bool = False,
    left_out: list[LeftOut] | None = None,
    too_long: TooLong | None = None,
) -> tuple[pd.DataFrame, bool]:
    """Records from ``(place, record)`` pairs in the form of `validate_records`, and whether they came with splits.

    ``where`` names them in messages; ``source`` is the source of those that name none. With ``skip``, a record that
    is wrong is left out and put down in ``left_out``. ``too_long`` says of an answer what is wrong with it, or None.
    """
    checker = _Checker(where, skip=skip, left_out=[] if left_out is None else left_out, too_long=too_long)
    for place, record in pairs:
        checker.add(place, record)
    return _fill(checker.frame(), checker, source), "split" in checker.has


def validate_records(records: pd.DataFrame | Iterable[dict], *, where: str = "records") -> pd.DataFrame:
    """Check records against the schema and bring them to one form.

    Records may be in any form that `assl_kit.data.schemas` knows. ``instruction`` and ``output`` must be non-empty
    text. ``input`` may be empty; where the instruction is empty and the input is not, the input is the instruction.
    The fields ``id``, ``task``, ``source``, ``split`` and ``input`` are filled in when *no* record has them (a hash
    of the content and a counter, "unknown", ``where``, "train", ""), and are an error when only some have them. Of
    a conversation, the last exchange is the record; what was said before is ``history``, the JSON text of a list of
    ``[user, assistant]``, and what the system says is ``system``. Other fields are kept as extra columns; objects
    and lists in them become JSON text.

    Parameters
    ----------
    records : DataFrame or iterable of dict
        The records; an iterable is read once, record by record.
    where : str
        A name for the records in error messages, and their ``source`` when they have none.

    Returns
    -------
    DataFrame
        The columns of ``COLUMNS`` first (text, ids unique, split one of ``SPLITS``), then those of ``OPTIONAL`` that
        a record has (text, "" where there is none), then the extra ones.

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
    >>> validate_records([{"instruction": "判断情绪。", "output": 1}], where="a")
    Traceback (most recent call last):
    ...
    assl_kit.data.records.BadRecords: a, row 1: 'output' must be text, not 1 (int). Correct these records ...
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


def without_extras(records: pd.DataFrame) -> pd.DataFrame:
    """The fields that we know of, and none that a user has besides: what is merged with tables that have their own.

    Examples
    --------
    >>> row = {"instruction": "什么是债券？", "output": "一种借据。", "cluster": 7}
    >>> list(without_extras(validate_records([row]))) == list(COLUMNS)
    True
    """
    return records[[name for name in _FIELDS if name in records]]


def write_records(records: pd.DataFrame, path: str | os.PathLike) -> None:
    """Validate records and write them as Parquet, in blocks of `BLOCK`, atomically."""
    records = validate_records(records, where=os.fspath(path))
    with atomic_path(path) as temporary:
        records.to_parquet(temporary, index=False, row_group_size=BLOCK)
