"""Where the pages of a Parquet file lie and what they unpack to, as its footer and their headers say, in Thrift's form.

Not by pyarrow's own view of the footer: asked for a column whose statistics do not fit its kind, it ends the process.
"""

from __future__ import annotations

import io
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

from assl_kit.common import limits
from assl_kit.errors import DataError

_DICTIONARY_PAGE = 2
_MOST_FIELDS = 100  # of a struct; the format has fewer than thirty
_SLACK = 100  # bytes by which old writers tell a column too short
_DAMAGED = "the file cannot be read as Parquet"


@dataclass(frozen=True)
class Chunk:
    """A column of a group: where its pages begin, their bytes, its values."""

    start: int
    size: int
    values: int


class _Long(int):
    """A number of 64 bits."""


@dataclass(frozen=True)
class Page:
    """What the header of a page says."""

    size: int  # of the page as it lies in the file
    unpacked: int
    values: int
    is_data: bool
    encoding: int


def chunks(raw: BinaryIO, n_groups: int, n_columns: int, path: str) -> Iterator[Chunk]:
    """Where the pages of each column of each group lie, by the file's footer.

    Raises
    ------
    DataError
        If the footer is damaged, or has not so many groups and columns.
    """
    end = raw.seek(-8, os.SEEK_END)
    raw.seek(end - int.from_bytes(raw.read(4), "little"))
    footer = _Compact(io.BytesIO(raw.read(end - raw.tell())))
    groups = 0
    try:
        for _ in footer.structs(4):
            columns = 0
            for _ in footer.structs(1):
                columns += 1
                yield _chunk(footer.struct())
            groups += 1
            if columns != n_columns:
                raise ValueError("a group has not all columns")
    except (EOFError, ValueError, OverflowError):
        raise DataError(f"{_DAMAGED}: its footer is damaged", where=path) from None
    if groups != n_groups:
        raise DataError(f"{_DAMAGED}: its footer lacks a group", where=path)


def _chunk(fields: dict[int, Any]) -> Chunk:
    about: Any = fields.get(3)
    numbers: list[Any] = [about.get(n, _Long(0) if n == 11 else None) for n in (5, 7, 9, 11)] if about else []
    if not numbers or not all(isinstance(number, _Long) for number in numbers):  # others Thrift passes over
        raise ValueError("a column does not say where it lies")
    values, size, start, dictionary = numbers
    return Chunk(dictionary if 0 < dictionary < start else start, size, values)


def pages(raw: BinaryIO, chunk: Chunk, place: str) -> Iterator[Page]:
    """The headers of a column's pages, read as pyarrow does; the pages between them are passed over.

    Raises
    ------
    DataError
        If a page has no header.
    """
    at, end, seen = chunk.start, chunk.start + chunk.size + _SLACK, 0
    while seen < chunk.values and at < end:
        try:
            raw.seek(at)
            page = _page(_Compact(raw).struct())
            at = raw.tell() + page.size
        except (EOFError, OSError, ValueError, OverflowError, struct.error):
            raise DataError(f"{_DAMAGED}: a page has no header", where=place) from None
        seen += page.values if page.is_data else 0
        yield page


def _page(header: dict[int, Any]) -> Page:
    kind, unpacked, size = (header.get(number) for number in (1, 2, 3))
    details: Any = next((header[number] for number in (5, 7, 8) if number in header), {})
    values = details.get(1, 0) if isinstance(details, dict) else None
    encoding = details.get(4 if 8 in header else 2, 0) if isinstance(details, dict) else None
    numbers = [number for number in (kind, unpacked, size, values, encoding) if type(number) is int and number >= 0]
    if len(numbers) < 5:
        raise ValueError("the header of a page lacks a number")
    kind, unpacked, size, values, encoding = numbers
    return Page(size, unpacked, values, kind != _DICTIONARY_PAGE, encoding)


class _Compact:
    """Thrift's compact protocol, as far as the footer and the headers of pages use it.

    Format: https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._depth = file, 0

    def struct(self) -> dict[int, Any]:
        """The fields of a struct by their numbers."""
        fields: dict[int, Any] = {}
        for number, kind in self._heads():
            fields[number] = self._value(kind)
        return fields

    def structs(self, wanted: int) -> Iterator[None]:
        """Within a struct, stand at each struct of the list that the wanted field is; the others are passed over."""
        for number, kind in self._heads():
            if number != wanted:
                self._value(kind)
                continue
            head = self._byte() if kind == 9 else 0
            if head & 15 != 12:
                raise ValueError("no list of structs")
            for _ in range(head >> 4 if head >> 4 < 15 else self._varint()):
                yield

    def _heads(self) -> Iterator[tuple[int, int]]:
        """Number and kind of each field of a struct; one that is there twice could be read in two ways."""
        seen: set[int] = set()
        number = 0
        while head := self._byte():
            number = number + (head >> 4) if head >> 4 else self._zigzag()
            if number in seen or len(seen) == _MOST_FIELDS:
                raise ValueError("a field is there twice, or there are too many")
            seen.add(number)
            yield number, head & 15

    def _value(self, kind: int) -> Any:
        self._depth += 1
        if self._depth > 16:
            raise ValueError("nested too deeply")
        value = self._plain(kind)
        self._depth -= 1
        return value

    def _plain(self, kind: int) -> Any:
        if kind in (1, 2):
            return kind == 1
        if kind == 3:
            return self._byte()
        if kind in (4, 5):
            return self._zigzag()
        if kind == 6:
            return _Long(self._zigzag())
        if kind == 7:
            return self._pass(8)
        if kind == 8:
            return self._pass(self._varint())
        if kind in (9, 10):
            head = self._byte()
            count = head >> 4 if head >> 4 < 15 else self._varint()
            for _ in range(count):
                self._value(head & 15) if head & 15 > 2 else self._byte()
            return None
        if kind == 12:
            return self.struct()
        raise ValueError(f"a field of type {kind}")

    def _pass(self, count: int) -> None:
        if count > limits.MAX_LINE:
            raise ValueError("a field is too long")
        self._file.seek(count, os.SEEK_CUR)

    def _byte(self) -> int:
        byte = self._file.read(1)
        if not byte:
            raise EOFError
        return byte[0]

    def _varint(self) -> int:
        value = 0
        for shift in range(0, 70, 7):
            byte = self._byte()
            value |= (byte & 127) << shift
            if byte < 128:
                return value
        raise ValueError("a number has too many bytes")

    def _zigzag(self) -> int:
        value = self._varint()
        return (value >> 1) ^ -(value & 1)
