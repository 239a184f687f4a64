"""Readers: files and hub datasets. (`cfleb` and `fineval` read two benchmarks as their repositories publish them.)

Each gives plain ``(place, record)`` pairs, one at a time; `assl_kit.data.records` validates
them and fills in what they lack.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from assl_kit.common import limits
from assl_kit.common.limits import open_records, parquet_rows, parse_json
from assl_kit.common.packages import need, reason
from assl_kit.common.trust import check_dataset_folder
from assl_kit.errors import DataError

Pair = tuple[str, dict[str, Any]]

_HUB_SPLITS = {"train": "train", "validation": "dev", "valid": "dev", "val": "dev", "dev": "dev", "test": "test"}


def iter_jsonl(path: Path) -> Iterator[tuple[str, Any]]:
    """(place, object) for each line of a JSONL file, plain or gzipped; the byte order mark and blank lines go."""
    number = 0
    try:
        with open_records(path) as handle:
            while raw := handle.readline(limits.MAX_LINE + 1):
                number += 1
                place = f"{path}:{number}"
                if len(raw) > limits.MAX_LINE:
                    raise DataError(f"the line has more than {limits.MAX_LINE:,} bytes", where=place)
                try:
                    line = raw.decode("utf-8-sig" if number == 1 else "utf-8").strip()
                    if line:
                        yield place, parse_json(line)
                except UnicodeDecodeError as error:
                    raise DataError("the line is not UTF-8 text", where=place, hint="Save it as UTF-8.") from error
                except json.JSONDecodeError as error:
                    what = f"the line is not valid JSON: {error.msg}, at column {error.colno}"
                    raise DataError(what, where=place, hint="Each line must hold one whole JSON object.") from error
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError("the gzip file is damaged or cut off", where=f"{path}, after line {number}") from error


def iter_json_list(path: Path) -> Iterator[tuple[str, Any]]:
    """(place, object) for each element of a JSON list (Alpaca); a file of JSON lines under this ending is read too."""
    try:
        with io.TextIOWrapper(open_records(path), encoding="utf-8-sig") as handle:
            text = handle.read(limits.MAX_LIST + 1)
    except UnicodeDecodeError as error:
        raise DataError("the file is not UTF-8 text", where=str(path), hint="Save it as UTF-8.") from error
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError("the gzip file is damaged or cut off", where=str(path)) from error
    if len(text) > limits.MAX_LIST:
        raise DataError(
            f"the file has more than {limits.MAX_LIST:,} characters, too many to be read as one list",
            where=str(path),
            hint="Write one record a line (.jsonl).",
        )
    if text.lstrip()[:1] == "{" and "\n{" in text.strip():
        yield from iter_jsonl(path)
        return
    try:
        items = parse_json(text) if text.strip() else []
    except json.JSONDecodeError as error:
        raise DataError(f"not valid JSON: {error.msg}", where=f"{path}:{error.lineno}") from error
    if not isinstance(items, list):
        raise DataError("the file must hold a list of records", where=str(path), hint="Write [ {...}, {...} ].")
    for number, item in enumerate(items, 1):
        if isinstance(item, dict):
            item = {name: value for name, value in item.items() if name not in ("history", "system")}
        yield f"{path}, record {number}", item


def iter_parquet(path: Path) -> Iterator[tuple[str, Any]]:
    """(place, row) of a Parquet file."""
    import pyarrow as pa

    try:
        for number, row in enumerate(parquet_rows(path), 1):
            yield f"{path}, row {number}", row
    except (pa.ArrowException, OSError) as error:
        raise DataError("the file cannot be read as Parquet", where=str(path)) from error


def iter_hub(name: str, config: str | None) -> Iterator[tuple[str, Any]]:
    """(place, row) of a dataset on the hub, in its cache, or in a local folder; code in a dataset is never run."""
    offline = os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")
    need("datasets", "a dataset of the hub", "hub")
    import datasets

    folder = Path(name)
    if folder.is_dir():
        check_dataset_folder(folder)
    try:
        saved = (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file()
        data = datasets.load_from_disk(name) if saved else datasets.load_dataset(name, config)
    except Exception as error:  # the library raises many kinds; all mean that there is nothing to read
        hint = "Check the name, the network, and which configuration is meant (config=...)."
        if offline:
            hint = "HF_HUB_OFFLINE is set and the dataset is not in the cache: load it once online, or give a file."
        raise DataError(f"the dataset cannot be loaded: {reason(error)}", where=name, hint=hint) from error
    parts = dict(data) if isinstance(data, dict) else {"train": data}
    has_column = any("split" in part.column_names for part in parts.values())
    add_split = len(parts) > 1 and not has_column  # one part alone says nothing of what it is for
    for part_name, part in parts.items():
        split = _HUB_SPLITS.get(part_name, part_name)
        for number, row in enumerate(part, 1):
            yield f"{name}, {part_name} row {number}", row | {"split": split} if add_split else row
