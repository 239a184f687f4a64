"""Records as they came in: where each stands in its file, and a chosen part of them, byte for byte if possible."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from assl_kit.common.limits import open_records, parse_json
from assl_kit.data.folders import folder_parts, is_saved_dataset
from assl_kit.data.parquet import parquet_rows
from assl_kit.data.published.cfleb import is_cfleb
from assl_kit.data.published.fineval import is_fineval
from assl_kit.data.readers import json_items, kind_of, separator_of
from assl_kit.data.records import LeftOut

Piece = tuple[str, bytes]  #: the place of a record within its file, and its bytes
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class RawFile:
    """One file of records, without what they mean.

    Attributes
    ----------
    path : pathlib.Path
    kind : {"jsonl", "json", "csv", "parquet"}
        How they stand there; "json" is one list.
    separator : str
        Between the cells of a "csv" file.
    """

    path: Path
    kind: str
    separator: str = ","

    def places(self) -> list[str]:
        """Where each record stands, as readers call it after the name of the file."""
        if self.kind == "parquet":
            import pyarrow.parquet as pq

            with pq.ParquetFile(self.path) as file:
                return [f", row {number}" for number in range(1, file.metadata.num_rows + 1)]
        return [place for place, _ in self.pieces()]

    def pieces(self) -> Iterator[Piece]:
        """Each record's place and its bytes, a line of text with its end; not of Parquet."""
        return {"jsonl": self._lines, "json": self._items, "csv": self._rows}[self.kind]()

    def objects(self, chosen: np.ndarray) -> Iterator[dict[str, Any]]:
        """The chosen records with all their fields."""
        if self.kind == "parquet":
            yield from (row for keep, row in zip(chosen, parquet_rows(self.path), strict=True) if keep)
            return
        names = [name.strip() for name in self._cells(self.header())] if self.kind == "csv" else []
        for keep, (_, piece) in zip(chosen, self.pieces(), strict=True):
            if keep:
                yield dict(zip(names, self._cells(piece), strict=False)) if names else parse_json(piece)

    def header(self) -> bytes:
        """The first line of a table."""
        with open_records(self.path) as handle:
            return next(_numbered(handle))[1]

    def write_parquet(self, target: Path, chosen: np.ndarray) -> None:
        """Write the chosen rows of a Parquet file with the schema they have."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        start = 0
        with pq.ParquetFile(self.path) as file, pq.ParquetWriter(target, file.schema_arrow) as writer:
            for batch in file.iter_batches(batch_size=8192):
                part = batch.filter(pa.array(chosen[start : start + batch.num_rows]))
                start += batch.num_rows
                if part.num_rows:
                    writer.write_batch(part)

    def _lines(self) -> Iterator[Piece]:
        with open_records(self.path) as handle:
            for number, line in _numbered(handle):
                if line.strip():
                    yield f":{number}", line if line.endswith(b"\n") else line + b"\n"

    def _items(self) -> Iterator[Piece]:
        """The texts between the commas of a list."""
        for number, (text, _) in enumerate(json_items(self.path), 1):
            yield f", record {number}", text.encode("utf-8")

    def _rows(self) -> Iterator[Piece]:
        """The bytes of each row below the header; a cell in quotes may go over several lines."""
        with open_records(self.path) as handle:
            taken: list[bytes] = []
            last = 0

            def lines() -> Iterator[str]:
                nonlocal last
                for number, line in _numbered(handle):
                    taken.append(line)
                    last = number
                    yield line.decode("utf-8")

            for place, row in enumerate(csv.reader(lines(), delimiter=self.separator)):
                piece = b"".join(taken)
                taken.clear()
                if place and row:
                    yield f":{last}", piece if piece.endswith(b"\n") else piece + b"\n"

    def _cells(self, piece: bytes) -> list[str]:
        return next(csv.reader(io.StringIO(piece.decode("utf-8"), newline=""), delimiter=self.separator))


@dataclass(frozen=True)
class Raw:
    """The records of a corpus as they came in, file by file.

    Attributes
    ----------
    files : tuple of RawFile
    taken : tuple of ndarray of bool
        For each file, which of its records were read; the others were left out as bad.
    places : list of str
        Where each record that was read stands: the file's name with a line or a number.
    """

    files: tuple[RawFile, ...]
    taken: tuple[np.ndarray, ...]
    places: list[str]

    @property
    def kind(self) -> str | None:
        """The one kind in which a part of the records can be written; None: they are of several."""
        kinds = {file.kind for file in self.files}
        return kinds.pop() if len(self.files) == 1 or kinds in ({"jsonl"}, {"json"}) else None

    @property
    def separator(self) -> str:
        """Between the cells of a table."""
        return self.files[0].separator

    @property
    def ending(self) -> str:
        """Of a file of that kind: unpacked, since few trainers unpack."""
        return ".tsv" if self.kind == "csv" and self.separator == "\t" else f".{self.kind}"

    def objects(self, chosen: np.ndarray) -> Iterator[dict[str, Any]]:
        """The chosen records with all their fields; ``chosen`` is a bool for each record that was read."""
        for file, part in self._parts(chosen):
            yield from file.objects(part)

    def write(self, target: Path, chosen: np.ndarray) -> None:
        """Write the chosen records, in their order, as a file of their kind."""
        if self.kind == "parquet":
            self.files[0].write_parquet(target, next(self._parts(chosen))[1])
            return
        head, between, tail = (b"[\n", b",\n", b"\n]\n") if self.kind == "json" else (b"", b"", b"")
        with open(target, "wb") as handle:
            handle.write(self.files[0].header() if self.kind == "csv" else head)
            first = True
            for file, part in self._parts(chosen):
                for keep, (_, piece) in zip(part, file.pieces(), strict=True):
                    if keep:
                        handle.write(piece if first else between + piece)
                        first = False
            handle.write(tail)

    def _parts(self, chosen: np.ndarray) -> Iterator[tuple[RawFile, np.ndarray]]:
        start = 0
        for file, taken in zip(self.files, self.taken, strict=True):
            part = taken.copy()
            part[taken] = chosen[start : start + int(taken.sum())]
            start += int(taken.sum())
            yield file, part


def raw_records(source: Path, n: int, left_out: Iterable[LeftOut]) -> Raw | None:
    """A corpus as it came in; None where its records are not those of plain files (a benchmark's layout, the hub).

    Parameters
    ----------
    source : pathlib.Path
        A file or a folder.
    n : int
        How many records were read from it.
    left_out : iterable of LeftOut
        Records and files that were not.
    """
    bad = {left.place for left in left_out}
    paths = [path for path in _paths(source) if str(path) not in bad]
    files, taken, places = [], [], []
    try:
        for path in paths:
            file = _look(path)
            there = file.places()
            good = np.array([f"{path}{place}" not in bad for place in there], dtype=bool)
            name = path.name if path == source else path.relative_to(source).as_posix()
            places += [f"{name}{place}" for place, keep in zip(there, good, strict=True) if keep]
            files.append(file)
            taken.append(good)
    except (UnicodeDecodeError, csv.Error, ValueError):
        return None
    return Raw(tuple(files), tuple(taken), places) if files and len(places) == n else None


def _paths(source: Path) -> list[Path]:
    """The files that records are read from, in the order in which they are."""
    if source.is_file():
        return [source]
    if not source.is_dir() or is_cfleb(source) or is_fineval(source) or is_saved_dataset(source):
        return []
    return [Path(part.where) for part in folder_parts(source, [], skip=True)]


def _look(path: Path) -> RawFile:
    kind = kind_of(path)
    if kind == "parquet":
        return RawFile(path, "parquet")
    with open_records(path) as handle:
        head = next(_numbered(handle), (0, b""))[1]
    if kind in ("csv", "tsv"):
        separator = "\t" if kind == "tsv" else separator_of(head.decode("utf-8"))
        return RawFile(path, "csv", separator)
    with open_records(path) as handle:
        start = handle.read(1 << 16).removeprefix(_BOM).lstrip()[:1]
    return RawFile(path, "json" if kind == "alpaca" and start == b"[" else "jsonl")


def _numbered(handle: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """The lines with their numbers, without a byte order mark."""
    for number, line in enumerate(handle, 1):
        yield number, line.removeprefix(_BOM) if number == 1 else line
