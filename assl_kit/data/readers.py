"""Readers: files of one kind each, and datasets of the hub. (`published` has benchmarks as their repositories are.)

Each gives plain ``(place, record)`` pairs, one at a time; `assl_kit.data.schemas` says which field is what, and
`assl_kit.data.records` validates them and fills in what they lack.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TextIO

from assl_kit.common import limits
from assl_kit.common.hub import is_offline
from assl_kit.common.limits import DamagedFile, decode_json, first_bytes, open_records, parse_json
from assl_kit.common.packages import need, reason
from assl_kit.common.trust import check_dataset_folder
from assl_kit.errors import DataError

from .parquet import check_parquet, parquet_rows
from .saved.arrow import check_arrow, dataset_rows
from .schemas import NothingToRead

Pair = tuple[str, dict[str, Any]]

ENDINGS = {
    ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "alpaca", ".parquet": "parquet", ".csv": "csv", ".tsv": "tsv",
}  # fmt: skip
"""Kinds of files by the ending of their names, packed or not."""
PACKED = (".gz", ".zst")
_BOM = b"\xef\xbb\xbf"
_HEAD = 1 << 16
_SPACE = re.compile(r"[ \t\r\n]*")
_TAIL = 4  # characters after a number that tell that it ends there, as those of ``1.5e+3`` do not


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
    with open_records(path) as handle:
        lines = iter(lambda: handle.readline(limits.MAX_LINE + 1), b"")
        first = next((line for line in lines if line.removeprefix(_BOM).strip()), b"").removeprefix(_BOM).lstrip()
        is_lines = first[:1] == b"{" and any(line[:1] == b"{" for line in lines)
    if is_lines:
        yield from iter_jsonl(path, skip=skip)
        return
    if first and first[:1] != b"[":
        _refuse_other_json(path)
    for number, (_, item) in enumerate(json_items(path), 1):
        yield f"{path}, record {number}", item


def _refuse_other_json(path: Path) -> None:
    with open_records(path) as handle:
        text = handle.read(limits.MAX_JSON + 1)
    try:
        if len(text) <= limits.MAX_JSON:
            parse_json(text.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise DataError("the file is not UTF-8 text", where=str(path), hint="Save it as UTF-8.") from error
    except json.JSONDecodeError as error:
        raise DataError(f"not valid JSON: {error.msg}", where=f"{path}:{error.lineno}") from error
    raise NothingToRead("the file must hold a list of records", where=str(path), hint="Write [ {...}, {...} ].")


def json_items(path: Path) -> Iterator[tuple[str, Any]]:
    """(text, object) for each element of the JSON list in a file, of which only the piece at hand is in memory.

    Raises
    ------
    DataError
        The file is not UTF-8 or not JSON, or an element has more than ``MAX_LINE`` characters; names the line.
    """
    with io.TextIOWrapper(open_records(path), encoding="utf-8-sig", newline="") as handle:
        piece = _Piece(handle)
        try:
            if piece.next() == "":
                return
            piece.at += 1  # the bracket
            while piece.next() != "]":
                yield piece.item()
                if piece.next() not in (",", "]"):
                    raise json.JSONDecodeError("Expecting ',' delimiter", piece.text, piece.at)
                piece.at += piece.next() == ","
            piece.at += 1
            if piece.next():
                raise json.JSONDecodeError("Extra data", piece.text, piece.at)
        except UnicodeDecodeError as error:
            raise DataError("the file is not UTF-8 text", where=str(path), hint="Save it as UTF-8.") from error
        except json.JSONDecodeError as error:
            raise DataError(f"not valid JSON: {error.msg}", where=f"{path}:{piece.line + error.lineno - 1}") from error
        except _TooLong:
            what = f"an element of the list has more than {limits.MAX_LINE:,} characters"
            raise DataError(what, where=f"{path}:{piece.line}") from None


class _TooLong(Exception):
    pass


class _Piece:
    """The part of a text that is at hand, and how far it has been read."""

    def __init__(self, handle: TextIO) -> None:
        self.handle, self.text, self.at, self.line, self.is_last = handle, "", 0, 1, False

    def more(self) -> None:
        """Drop what has been read, and at least double what has not."""
        self.line += self.text.count("\n", 0, self.at)
        read = self.handle.read(max(_HEAD, len(self.text) - self.at))
        self.text, self.at, self.is_last = self.text[self.at :] + read, 0, not read

    def next(self) -> str:
        """The next character that is no white space; "" at the end."""
        while True:
            rest = _SPACE.match(self.text, self.at)
            self.at = rest.end() if rest else self.at
            if self.at < len(self.text) or self.is_last:
                return self.text[self.at : self.at + 1]
            self.more()

    def item(self) -> tuple[str, Any]:
        """The text of the next value, and the value."""
        while True:
            try:
                value, end = decode_json(self.text, self.at)
                if self.is_last or len(self.text) - end >= _TAIL:
                    text, self.at = self.text[self.at : end], end
                    return text, value
            except json.JSONDecodeError:
                if self.is_last:
                    raise
            if len(self.text) - self.at > limits.MAX_LINE:
                raise _TooLong
            self.more()


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
            if len(names) > limits.MAX_COLUMNS:
                raise DataError(f"the table has more than {limits.MAX_COLUMNS:,} columns", where=f"{path}:1")
            if repeated := sorted(name for name, times in Counter(names).items() if times > 1):
                raise DataError(f"the table has more than one column {repeated[0]!r}", where=f"{path}:1")
            lines = _Lines(handle, str(path))
            rows = csv.reader(lines, delimiter=separator, strict=True)
            for row in rows:
                lines.taken = 0
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


class _Lines:
    """The lines of a table; those of one row may not have more than ``MAX_LINE`` characters together."""

    def __init__(self, handle: TextIO, path: str) -> None:
        self.handle, self.path, self.number, self.taken = handle, path, 1, 0

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line = self.handle.readline(limits.MAX_LINE + 1)
        self.number, self.taken = self.number + 1, self.taken + len(line)
        if self.taken > limits.MAX_LINE:
            raise DataError(f"the row has more than {limits.MAX_LINE:,} characters", where=f"{self.path}:{self.number}")
        if not line:
            raise StopIteration
        return line


def iter_tsv(path: Path, *, skip: bool = False) -> Iterator[tuple[str, Any]]:
    """As `iter_csv`, of a table with tabs between its cells."""
    return iter_csv(path, skip=skip, delimiter="\t")


def iter_parquet(path: Path, *, skip: bool = False) -> Iterator[tuple[str, Any]]:
    """(place, row) of a Parquet file."""
    for number, row in enumerate(_read_parquet(parquet_rows, path), 1):
        yield f"{path}, row {number}", row


def _read_parquet(read: Callable[[Path], Iterator[Any] | None], path: Path) -> Iterator[Any]:
    import pyarrow as pa

    try:
        yield from read(path) or ()
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:  # the names of columns may be no text either
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

    folder = Path(name)
    if folder.is_dir():
        check_dataset_folder(folder)
    try:
        saved = (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file()
        data = _saved(folder) if saved else _prepared(name, config)
    except DataError:
        raise
    except Exception as error:  # the library raises many kinds; all mean that there is nothing to read
        hint = "Check the name, the network, and which configuration is meant (config=...)."
        if is_offline():
            hint = "HF_HUB_OFFLINE is set and the dataset is not in the cache: load it once online, or give a file."
        raise DataError(f"the dataset cannot be loaded: {reason(error)}", where=name, hint=hint) from error
    return dict(data) if isinstance(data, dict) else {"train": data}


def _saved(folder: Path) -> Any:
    import datasets

    for file in sorted(folder.rglob("*.arrow")):
        check_arrow(file)
    return datasets.load_from_disk(str(folder))


def _prepared(name: str, config: str | None) -> Any:
    """What ``datasets.load_dataset`` gives; its files, of a folder or fetched from the hub, are looked at before."""
    import datasets

    builder = datasets.load_dataset_builder(name, config)
    listed = [file for part in (builder.config.data_files or {}).values() for file in part]
    for file in datasets.DownloadManager().download(listed):
        _check_unpacked(Path(file))
    builder.download_and_prepare()
    return builder.as_dataset()


def _check_unpacked(file: Path) -> None:
    """Unpack what the library would unpack, for its size alone; the first bytes tell, as they do to the library."""
    if first_bytes(file, 4) == b"PAR1":
        list(_read_parquet(check_parquet, file))
    elif file.suffix.lower() == ".arrow":
        check_arrow(file)
    else:
        with open_records(file) as handle:
            while handle.read(1 << 20):
                pass


def iter_part(part: Any, name: str, part_name: str) -> Iterator[tuple[str, Any]]:
    """(place, row) of one part of a dataset."""
    place = f"{name}, {part_name}"
    for number, row in enumerate(dataset_rows(part, place), 1):
        yield f"{place} row {number}", row
