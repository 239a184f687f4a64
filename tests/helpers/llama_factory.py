"""How LLaMA-Factory reads a data set that ``dataset_info.json`` describes, in our own words, for what is used here."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pyarrow.parquet as pq

KINDS = {".json", ".jsonl", ".csv", ".parquet"}
COLUMNS = {
    "alpaca": {"prompt", "query", "response", "history", "system", "tools"},
    "sharegpt": {"messages", "system", "tools"},
}
TAGS = {"role_tag": "from", "content_tag": "value", "user_tag": "human", "assistant_tag": "gpt", "system_tag": "system"}


def read_dataset(folder: Path, name: str) -> list[tuple[str, list[str], str]]:
    """``(system, what is said in turn, answer)`` of each record; an assertion fails where it would skip one."""
    info = json.loads((folder / "dataset_info.json").read_text(encoding="utf-8"))[name]
    assert set(info) <= {"file_name", "formatting", "columns", "tags"}
    form, columns = info.get("formatting", "alpaca"), info["columns"]
    assert set(columns) <= COLUMNS[form]
    rows = _rows(folder / info["file_name"])
    return [(_alpaca if form == "alpaca" else _sharegpt)(row, columns, info.get("tags", {})) for row in rows]


def _rows(path: Path) -> list[dict]:
    assert path.suffix in KINDS
    if path.suffix == ".parquet":
        return pq.read_table(path).to_pylist()
    with open(path, encoding="utf-8", newline="") as handle:
        if path.suffix == ".csv":
            return list(csv.DictReader(handle))
        return json.load(handle) if path.suffix == ".json" else [json.loads(line) for line in handle]


def _alpaca(row: dict, columns: dict, tags: dict) -> tuple[str, list[str], str]:
    assert not tags
    said = [text for pair in _get(row, columns, "history") or [] for text in _pair(pair)]
    parts = [_get(row, columns, "prompt"), _get(row, columns, "query")]
    answer = row[columns["response"]]
    assert isinstance(answer, str) and answer
    return _get(row, columns, "system") or "", [*said, "\n".join(filter(None, parts))], answer


def _pair(pair: list) -> tuple[str, str]:
    assert isinstance(pair, list) and len(pair) == 2
    return pair[0], pair[1]


def _get(row: dict, columns: dict, name: str):
    """A column that is not described is not read."""
    return row.get(columns[name]) if name in columns else None


def _sharegpt(row: dict, columns: dict, tags: dict) -> tuple[str, list[str], str]:
    assert set(tags) <= {*TAGS, "observation_tag", "function_tag"}
    tags = TAGS | tags
    messages, system = row[columns["messages"]], _get(row, columns, "system") or ""
    if messages[0][tags["role_tag"]] == tags["system_tag"]:
        system, messages = messages[0][tags["content_tag"]], messages[1:]
    assert len(messages) % 2 == 0
    for place, message in enumerate(messages):
        assert message[tags["role_tag"]] == tags[("user_tag", "assistant_tag")[place % 2]]
    texts = [message[tags["content_tag"]] for message in messages]
    return system, texts[:-1], texts[-1]
