"""Readers: files of one kind each, and datasets of the hub. (`published` has benchmarks as their repositories are.)

Each gives plain ``(place, record)`` pairs, one at a time; `assl_kit.data.schemas` says which field is what, and
`assl_kit.data.records` validates them and fills in what they lack.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from assl_kit.common import limits
from assl_kit.common.hub import is_offline
from assl_kit.common.limits import DamagedFile, first_bytes, open_records, parquet_rows, parse_json
from assl_kit.common.packages import need, reason
from assl_kit.common.trust import check_dataset_folder
from assl_kit.errors import DataError

from .schemas import NothingToRead

Pair = tuple[str, dict[str, Any]]

ENDINGS = {
    ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "alpaca", ".parquet": "parquet", ".csv": "csv", ".tsv": "tsv",
}  # fmt: skip
"""Kinds of files by the ending of their names, packed or not."""
PACKED = (".gz", ".zst")
_HEAD = 1 << 16


def stem_and_ending(name: str) -> tuple[str, str]:
    """The name of a file without its ending, and the ending, without that of a packed file.

    Examples
    --------
    >>> stem_and_ending("fin.v1.jsonl.gz"), stem_and_ending("notes")
    (('fin.v1', '.jsonl'), ('notes', ''))
    """
    path = Path(name)
    if path.suffix.lower() in PACKED:
        path = Path(path.stem)
    known = path.suffix.lower() in ENDINGS
    return (path.stem, path.suffix.lower()) if known else (path.name, "")


def kind_of(path: Path) -> str | None:
    """Of which kind a file is: its first bytes tell Parquet, JSON lists and JSON lines, its name tells the rest."""
    ending = stem_and_ending(path.name)[1]
    if ENDINGS.get(ending) in ("csv", "tsv"):
        return ENDINGS[ending]
    if first_bytes(path, 4) == b"PAR1":
        return "parquet"
    try:
        with open_records(path) as handle:
            head = handle.read(_HEAD).removeprefix(b"\xef\xbb\xbf").lstrip()[:1]
    except DamagedFile:
        return ENDINGS.get(ending)
    if ending != ".parquet" and head == b"[":
        return "alpaca"
    return ENDINGS.get(ending) or ("jsonl" if head == b"{" else None)


def iter_jsonl(path: Path, *, skip: bool = False) -> Iterator[tuple[str, Any]]:
    """(place, object) for each line of a JSONL file, plain or packed; the byte order mark and blank lines go.

    With ``skip``, what is wrong with a line is given in place of its object, a ``DataError``; else it is raised.
    """
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
                except (UnicodeDecodeError, json.JSONDecodeError) as error:
                    wrong = _wrong_line(error, place)
                    if not skip:
                        raise wrong from error
                    yield place, wrong
    except DamagedFile as error:
        raise DataError(error.what, where=f"{path}, after line {number}") from error


def _wrong_line(error: UnicodeDecodeError | json.JSONDecodeError, place: str) -> DataError:
    if isinstance(error, UnicodeDecodeError):
        return DataError("the line is not UTF-8 text", where=place, hint="Save it as UTF-8.")
    what = f"the line is not valid JSON: {error.msg}, at column {error.colno}"
    return DataError(what, where=place, hint="Each line must hold one whole JSON object.")


def iter_json_list(path: Path, *, skip: bool = False) -> Iterator[tuple[str, Any]]:
    """(place, object) for each element of a JSON list (Alpaca); a file of JSON lines under this ending is read too."""
    try:
        with io.TextIOWrapper(open_records(path), encoding="utf-8-sig") as handle:
            text = handle.read(limits.MAX_LIST + 1)
    except UnicodeDecodeError as error:
        raise DataError("the file is not UTF-8 text", where=str(path), hint="Save it as UTF-8.") from error
    if len(text) > limits.MAX_LIST:
        raise DataError(
            f"the file has more than {limits.MAX_LIST:,} characters, too many to be read as one list",
            where=str(path),
            hint="Write one record a line (.jsonl).",
        )
    if text.lstrip()[:1] == "{" and "\n{" in text.strip():
        yield from iter_jsonl(path, skip=skip)
        return
    try:
        items = parse_json(text) if text.strip() else []
    except json.JSONDecodeError as error:
        raise DataError(f"not valid JSON: {error.msg}", where=f"{path}:{error.lineno}") from error
    if not isinstance(items, list):
        raise NothingToRead("the file must hold a list of records", where=str(path), hint="Write [ {...}, {...} ].")
    for number, item in enumerate(items, 1):
        yield f"{path}, record {number}", item


def separator_of(head: str) -> str:
    """What stands between the cells of a table, by its first line: a comma, a semicolon or a tab.

    Examples
    --------
    >>> separator_of("instruction;input;output")
    ';'
    """
    return max(",;\t", key=head.count)


def iter_csv(path: Path, *, skip: bool = False, delimiter: str | None = None) -> Iterator[tuple[str, Any]]:
    """(place, row) of a table of comma, semicolon or tab separated values, plain or packed; its first line names them.

    Cells are text; those that a row lacks at its end are empty.
    """
    try:
        with io.TextIOWrapper(open_records(path), encoding="utf-8-sig", newline="") as handle:
            head = handle.readline(limits.MAX_LINE)
            separator = delimiter or separator_of(head)
            names = [name.strip() for name in next(csv.reader([head], delimiter=separator), [])]
            if repeated := sorted({name for name in names if names.count(name) > 1}):
                raise DataError(f"the table has more than one column {repeated[0]!r}", where=f"{path}:1")
            rows = csv.reader(handle, delimiter=separator, strict=True)
            for row in rows:
                place = f"{path}:{rows.line_num + 1}"
                if len(row) <= len(names):
                    if row:
                        yield place, dict(zip(names, row + [""] * (len(names) - len(row)), strict=True))
                    continue
                wrong = DataError(f"the row has {len(row)} cells, the first line names {len(names)}", where=place)
                if not skip:
                    raise wrong
                yield place, wrong
    except UnicodeDecodeError as error:
        raise DataError("the file is not UTF-8 text", where=str(path), hint="Save it as UTF-8.") from error
    except csv.Error as error:  # a cell beyond the csv module's own bound, or an open quotation
        raise DataError(f"the table cannot be read: {error}", where=str(path)) from error


def iter_tsv(path: Path, *, skip: bool = False) -> Iterator[tuple[str, Any]]:
    """As `iter_csv`, of a table with tabs between its cells."""
    return iter_csv(path, skip=skip, delimiter="\t")


def iter_parquet(path: Path, *, skip: bool = False) -> Iterator[tuple[str, Any]]:
    """(place, row) of a Parquet file."""
    import pyarrow as pa

    try:
        for number, row in enumerate(parquet_rows(path), 1):
            yield f"{path}, row {number}", row
    except (pa.ArrowException, OSError) as error:
        raise DataError("the file cannot be read as Parquet", where=str(path)) from error


READERS: dict[str, Callable[..., Iterator[tuple[str, Any]]]] = {
    "jsonl": iter_jsonl,
    "alpaca": iter_json_list,
    "parquet": iter_parquet,
    "csv": iter_csv,
    "tsv": iter_tsv,
}


def hub_parts(name: str, config: str | None) -> dict[str, Any]:
    """The parts of a dataset on the hub, in its cache, or in a local folder, by name; its code is never run."""
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
        if is_offline():
            hint = "HF_HUB_OFFLINE is set and the dataset is not in the cache: load it once online, or give a file."
        raise DataError(f"the dataset cannot be loaded: {reason(error)}", where=name, hint=hint) from error
    return dict(data) if isinstance(data, dict) else {"train": data}


def iter_part(part: Any, name: str, part_name: str) -> Iterator[tuple[str, Any]]:
    """(place, row) of one part of a dataset."""
    for number, row in enumerate(part, 1):
        yield f"{name}, {part_name} row {number}", row
