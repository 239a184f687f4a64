"""Arrow files from elsewhere: a look at their messages before a library maps them into memory."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from assl_kit.common import limits
from assl_kit.errors import DataError

from ..parquet import batch_rows

if TYPE_CHECKING:
    import pyarrow as pa

_HINT = "Save the dataset again with save_to_disk, or as Parquet."
_ROW = 32  # bytes that a row takes at least, be there nothing in it
_ROWS = 1000


def check_arrow(path: str | os.PathLike) -> None:
    """Refuse an Arrow stream whose buffers are packed, or which tells of more rows than its size allows.

    Raises
    ------
    DataError
        It is so, or it is no Arrow stream.
    """
    import pyarrow as pa

    rows, most = 0, limits.most_unpacked(path) // _ROW
    try:
        with pa.memory_map(os.fspath(path)) as file:
            for message in pa.ipc.MessageReader.open_stream(file):
                if message.type in ("record batch", "dictionary batch"):
                    rows += _rows_of(bytes(message.metadata))
    except (pa.ArrowException, OSError, EOFError, ValueError, struct.error) as error:
        raise DataError("the file is no Arrow stream with plain buffers", where=str(path), hint=_HINT) from error
    if rows > most:
        raise DataError(
            f"the Arrow file tells of {rows:,} rows, at most {most:,} of its size are read", where=str(path)
        )


def dataset_rows(part: Any, place: str) -> Iterator[dict[str, Any]]:
    """The rows of a dataset as they lie in its files: pictures and sounds in it are not unpacked.

    Raises
    ------
    DataError
        A row has more than ``limits.MAX_LINE`` bytes, or points at bytes that are not its own.
    """
    import pyarrow as pa

    number = 0
    try:
        for table in part.with_format("arrow").iter(_ROWS):
            for batch in _whole(table):
                for row in batch_rows(batch, f"{place}, after row {number}"):
                    number += 1
                    yield row
    except (pa.ArrowException, OSError) as error:
        raise DataError("the dataset is damaged", where=f"{place}, after row {number}", hint=_HINT) from error


def _whole(table: pa.Table) -> Iterator[pa.RecordBatch]:
    for batch in table.to_batches():
        batch.validate(full=True)  # a text's place is a number in the file, and could be anywhere in memory
        yield batch


def _rows_of(metadata: bytes) -> int:
    """How many rows a message tells of; its form: https://arrow.apache.org/docs/format/Columnar.html (Flatbuffers)."""
    message = _Table(metadata, struct.unpack_from("<I", metadata)[0])
    batch = message.table(2)
    if struct.unpack_from("<B", metadata, message.place(1))[0] == 2:  # a dictionary, with a batch in it
        batch = batch.table(1)
    if batch.has(3):
        raise ValueError("its buffers are packed")
    (rows,) = struct.unpack_from("<q", metadata, batch.place(0)) if batch.has(0) else (0,)
    if rows < 0:
        raise ValueError("it has fewer than no rows")
    return rows


class _Table:
    """A table of Flatbuffers: which fields it has, and where."""

    def __init__(self, data: bytes, start: int) -> None:
        self._data, self._start = data, start
        self._names = start - struct.unpack_from("<i", data, start)[0]
        if self._names < 0:
            raise ValueError("a table lies outside")
        self._size = struct.unpack_from("<H", data, self._names)[0]

    def has(self, field: int) -> bool:
        return self._offset(field) != 0

    def place(self, field: int) -> int:
        return self._start + self._offset(field)

    def table(self, field: int) -> _Table:
        place = self.place(field)
        return _Table(self._data, place + struct.unpack_from("<I", self._data, place)[0])

    def _offset(self, field: int) -> int:
        at = 4 + 2 * field
        return struct.unpack_from("<H", self._data, self._names + at)[0] if at < self._size else 0
