"""The chosen records in the form that a trainer reads, and ``dataset_info.json``, which tells LLaMA-Factory of it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from assl_kit.data.conversations import OPTIONAL, read_history
from assl_kit.data.records import user_prompt

from .raw import Raw

STEM = "selected"
"""Name of the file of chosen records, without its ending."""
_SAID = ("instruction", "input", "output")
_KEPT = ("id", "task", "source")
_ASKED = ("instruction", "prompt", "question", "query", "input", "指令", "问题")
_ANSWERED = ("output", "response", "completion", "answer", "target", "输出", "回答", "答案")
_CHOICES = ("A", "choices", "options")  # what trainers do not put together by themselves
_OPENAI = {
    "role_tag": "role",
    "content_tag": "content",
    "user_tag": "user",
    "assistant_tag": "assistant",
    "system_tag": "system",
}
_SHAREGPT = {
    "role_tag": "from",
    "content_tag": "value",
    "user_tag": "human",
    "assistant_tag": "gpt",
    "system_tag": "system",
}


@dataclass(frozen=True)
class Written:
    """A file of chosen records.

    Attributes
    ----------
    name : str
    info : dict or None
        How LLaMA-Factory is to read it; None where it cannot.
    separator : str
        Between the cells of a table in text.
    """

    name: str
    info: dict[str, Any] | None
    separator: str = ","


def write_chosen(folder: Path, format: str, records: pd.DataFrame, chosen: np.ndarray, raw: Raw | None) -> Written:
    """Write the chosen records into a folder.

    Parameters
    ----------
    folder : pathlib.Path
    format : str
        One of `FORMATS`; "same" and "jsonl" keep all fields as they came in.
    records : DataFrame of n rows
        As they were read.
    chosen : ndarray of shape (n,), bool
    raw : Raw or None
        The same records as they came in; None where they are not of one file.

    Returns
    -------
    Written
    """
    part = records[chosen]
    if format == "same" and raw is not None and raw.kind is not None:
        name = STEM + raw.ending
        raw.write(folder / name, chosen)
        plain = raw.kind != "csv" or raw.separator == ","  # LLaMA-Factory knows commas only
        return Written(name, _info(name, _example(raw.objects(chosen))) if plain else None, raw.separator)
    if format in ("same", "jsonl"):
        objects = _restored(part) if raw is None else raw.objects(chosen)
        return _write_lines(folder / f"{STEM}.jsonl", objects)
    if format == "messages":
        return _write_lines(folder / f"{STEM}.jsonl", map(_messages, _rows(part)))
    if format == "parquet":
        name = f"{STEM}.parquet"
        if raw is not None and raw.kind == "parquet":
            raw.write(folder / name, chosen)
            return Written(name, _info(name, _example(raw.objects(chosen))))
        return _write_table(folder / name, part)
    return _write_list(folder / f"{STEM}.json", map(_alpaca if format == "alpaca" else _sharegpt, _rows(part)))


def dataset_info(name: str, written: Written) -> dict[str, Any] | None:
    """The content of ``dataset_info.json``: the data set ``name``; None where LLaMA-Factory does not read the file."""
    return None if written.info is None else {name: written.info}


# one record in each form ----------------------------------------------------------------------------------------------
def _rows(part: pd.DataFrame) -> Iterator[dict[str, Any]]:
    names = [name for name in part.columns if name in (*_SAID, *OPTIONAL, *_KEPT)]
    for values in zip(*(part[name] for name in names), strict=True):
        row = dict(zip(names, values, strict=True))
        row["system"] = row["system"] if isinstance(row.get("system"), str) else ""
        row["history"] = read_history(row.get("history"), "a record")
        yield row


def _named(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: row[name] for name in _KEPT if name in row}


def _alpaca(row: dict[str, Any]) -> dict[str, Any]:
    return {name: row[name] for name in (*_SAID, *OPTIONAL)} | _named(row)


def _turns(row: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """All the user says with all that is answered, the question of the record last."""
    yield from ((user, answer) for user, answer in row["history"])
    yield user_prompt(row["instruction"], row["input"]), row["output"]


def _messages(row: dict[str, Any]) -> dict[str, Any]:
    turns = [{"role": "system", "content": row["system"]}] if row["system"] else []
    for user, answer in _turns(row):
        turns += [{"role": "user", "content": user}, {"role": "assistant", "content": answer}]
    return {"messages": turns} | _named(row)


def _sharegpt(row: dict[str, Any]) -> dict[str, Any]:
    turns = []
    for user, answer in _turns(row):
        turns += [{"from": "human", "value": user}, {"from": "gpt", "value": answer}]
    return {"conversations": turns, "system": row["system"]} | _named(row)


def _restored(part: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """Records that are not of one file: the fields that each had, with turns as a list again."""
    for row in part.to_dict("records"):
        history = read_history(row.get("history"), "a record")
        kept = {str(name): _plain(value) for name, value in row.items() if not _is_missing(value)}
        yield kept | ({"history": history} if history else {})


def _is_missing(value: Any) -> bool:
    return bool(pd.isna(value)) if np.isscalar(value) or value is None else False


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


# files ----------------------------------------------------------------------------------------------------------------
def _text(value: dict[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)


def _write_lines(path: Path, objects: Iterator[dict[str, Any]]) -> Written:
    return _write(path, objects, "", "\n", "\n")


def _write_list(path: Path, objects: Iterator[dict[str, Any]]) -> Written:
    return _write(path, objects, "[\n", ",\n", "\n]\n")


def _write(path: Path, objects: Iterator[dict[str, Any]], head: str, between: str, tail: str) -> Written:
    example: dict[str, Any] = {}
    with open(path, "w", encoding="utf-8", newline="\n") as handle:
        handle.write(head)
        for value in objects:
            handle.write((between if example else "") + _text(value))
            _add(example, value)
        handle.write(tail)
    return Written(path.name, _info(path.name, example))


def _example(objects: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """What records have in each field: the first value that says something."""
    example: dict[str, Any] = {}
    for value in objects:
        _add(example, value)
    return example


def _add(example: dict[str, Any], value: Mapping[str, Any]) -> None:
    for name, part in value.items():
        if example.get(name) in (None, "", []):
            example[name] = part


def _write_table(path: Path, part: pd.DataFrame) -> Written:
    """The records as they were read, with turns as lists of two texts."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.Table.from_pandas(part, preserve_index=False)
    if "history" in part:
        turns = [read_history(text, "a record") for text in part["history"]]
        at = table.schema.get_field_index("history")
        table = table.set_column(at, "history", pa.array(turns, pa.list_(pa.list_(pa.string()))))
    pq.write_table(table.replace_schema_metadata(None), path)
    example = _example(part.to_dict("records"))
    return Written(path.name, _info(path.name, example))


def _info(name: str, record: Mapping[str, Any]) -> dict[str, Any] | None:
    """The description of a file, by the fields of one of its records; None where they are none that are known."""
    return _conversation_info(name, record) or _pair_info(name, record)


def _conversation_info(name: str, record: Mapping[str, Any]) -> dict[str, Any] | None:
    for field in ("messages", "conversations", "conversation"):
        turns = record.get(field)
        if isinstance(turns, list) and turns and isinstance(turns[0], Mapping):
            for tags in (_OPENAI, _SHAREGPT):
                if {tags["role_tag"], tags["content_tag"]} <= set(turns[0]):
                    more = {part: part for part in ("system", "tools") if isinstance(record.get(part), str)}
                    return {
                        "file_name": name,
                        "formatting": "sharegpt",
                        "columns": {"messages": field} | more,
                        "tags": dict(tags),
                    }
    return None


def _pair_info(name: str, record: Mapping[str, Any]) -> dict[str, Any] | None:
    texts = [field for field, value in record.items() if isinstance(value, str)]
    asked = next((field for field in _ASKED if field in texts), None)
    answered = next((field for field in _ANSWERED if field in texts), None)
    if asked is None or answered is None or any(field in record for field in _CHOICES):
        return None
    columns = {"prompt": asked, "response": answered}
    if asked != "input" and "input" in texts:
        columns["query"] = "input"
    columns |= {part: part for part in OPTIONAL if record.get(part) is not None}
    return {"file_name": name, "formatting": "alpaca", "columns": columns}
