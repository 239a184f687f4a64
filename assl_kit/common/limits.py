"""How much of a file from elsewhere is read: generous bounds, so that a small hostile file cannot fill the memory."""

from __future__ import annotations

import gzip
import io
import json
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from assl_kit.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa

MAX_JSON = 32 << 20
"""Bytes of one JSON file that describes something: a bank, a run, an adapter, a model."""
MAX_LINE = 32 << 20
"""Bytes of one line, and characters of one field, of a file of records."""
MAX_LIST = 4 << 30
"""Bytes of a file of records that must be read whole: a JSON list."""
MAX_RATIO = 200
"""How many times the size of a packed file its content may have, beyond ``FREE_UNPACKED`` bytes. Text has 3 to 20."""
FREE_UNPACKED = 1 << 30
MAX_RECORDS = 20_000_000
MAX_VALUES = 1 << 28
"""Values of one column of a Parquet file, those in lists included."""
MAX_COLUMNS = 1_000
"""Names of fields in one corpus."""


def parse_json(text: str | bytes) -> Any:
    """``json.loads``, with all it can raise for a text as a ``json.JSONDecodeError``.

    Examples
    --------
    >>> parse_json("[1]")
    [1]
    >>> try:
    ...     parse_json("[" * 100_000)
    ... except json.JSONDecodeError as error:
    ...     print(error.msg)
    it is nested too deeply
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise json.JSONDecodeError("it is nested too deeply", "", 0) from None
    except (json.JSONDecodeError, UnicodeDecodeError):
        raise
    except ValueError:  # Python's own bound on the digits of a whole number
        raise json.JSONDecodeError("a number has too many digits", "", 0) from None


def check_size(path: str | os.PathLike, most: int) -> None:
    """Refuse a file of more than ``most`` bytes with a ``DataError``; a missing one is left to the reader."""
    try:
        size = os.stat(path).st_size
    except OSError:
        return
    if size > most:
        raise DataError(
            f"the file has {size:,} bytes, at most {most:,} are read of its kind",
            where=str(path),
            hint="Check where it comes from.",
        )


class DamagedFile(DataError):
    """A packed file is cut off, or its content is not what its first bytes promise."""


def first_bytes(path: str | os.PathLike, count: int) -> bytes:
    """The first bytes of a file as it lies there, packed or not."""
    with open(path, "rb") as file:
        return file.read(count)


def open_records(path: str | os.PathLike) -> BinaryIO:
    """Open a file of records for reading bytes; gzip and Zstandard, told by the first bytes, are unpacked.

    Reading raises a ``DataError`` once a packed file has given more than ``FREE_UNPACKED`` bytes and ``MAX_RATIO``
    times its own size, and a `DamagedFile` where it is damaged.
    """
    path = Path(path)
    packing = next((name for mark, name in _PACKINGS.items() if first_bytes(path, len(mark)) == mark), None)
    return open(path, "rb") if packing is None else io.BufferedReader(_Unpacked(path, packing), buffer_size=1 << 18)


_PACKINGS = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd"}


class _Unpacked(io.RawIOBase):
    """The content of a packed file, counted."""

    def __init__(self, path: Path, packing: str) -> None:
        super().__init__()
        self._path, self._packing, self._unpacked = path, packing, 0
        self._most = max(FREE_UNPACKED, MAX_RATIO * path.stat().st_size)
        if packing == "gzip":
            self._file: Any = gzip.open(path, "rb")  # noqa: SIM115 - closed with this object
        else:
            import pyarrow as pa

            self._file = pa.CompressedInputStream(pa.OSFile(str(path), "rb"), packing)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            piece = self._file.read1(len(buffer)) if self._packing == "gzip" else self._file.read(len(buffer))
        except (EOFError, OSError, zlib.error, ValueError) as error:
            raise DamagedFile(f"the {self._packing} file is damaged or cut off", where=str(self._path)) from error
        buffer[: len(piece)] = piece
        self._unpacked += len(piece)
        if self._unpacked > self._most:
            raise DataError(
                f"the {self._packing} file unpacks to more than {self._most:,} bytes, over {MAX_RATIO} times its size",
                where=str(self._path),
                hint="Unpack it yourself if you trust it.",
            )
        return len(piece)

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()


def check_parquet(path: str | os.PathLike) -> None:
    """Refuse, by its header alone, a Parquet file with more rows, columns or values than a corpus may have.

    Raises
    ------
    DataError
        If it has. A file that is no Parquet file raises pyarrow's own error.
    """
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        about = file.metadata
        groups = [about.row_group(number) for number in range(about.num_row_groups)]
    rows, columns = max(about.num_rows, sum(group.num_rows for group in groups)), about.num_columns
    values = max(
        (sum(group.column(number).num_values for group in groups) for number in range(min(columns, MAX_COLUMNS))),
        default=0,
    )
    for what, count, most in (
        ("rows", rows, MAX_RECORDS),
        ("columns", columns, MAX_COLUMNS),
        ("values", values, MAX_VALUES),
    ):
        if count > most:
            raise DataError(
                f"the Parquet file has {count:,} {what}, at most {most:,} are read",
                where=str(path),
                hint="Check where it comes from.",
            )


def parquet_rows(path: str | os.PathLike) -> Iterator[dict[str, Any]]:
    """The rows of a Parquet file, one at a time; repeated texts stay packed until their rows are given.

    Raises
    ------
    DataError
        As `check_parquet`; if a text is longer than ``MAX_LINE``; or if all texts together have more than
        ``FREE_UNPACKED`` bytes and ``MAX_RATIO`` times the size of the file.
    """
    import pyarrow.parquet as pq

    check_parquet(path)
    number, unpacked, most = 0, 0, max(FREE_UNPACKED, MAX_RATIO * os.stat(path).st_size)
    with pq.ParquetFile(path) as file:
        leaves = [file.schema.column(place) for place in range(len(file.schema))]
        texts = [leaf.path for leaf in leaves if leaf.physical_type == "BYTE_ARRAY"]
    with pq.ParquetFile(path, read_dictionary=texts) as file:
        for batch in file.iter_batches(batch_size=8192):
            lengths = [length for column in batch.columns for length in _text_lengths(column)]
            size, longest = sum(total for total, _ in lengths), max((length for _, length in lengths), default=0)
            unpacked += size
            if longest > MAX_LINE:
                raise DataError(f"a text has more than {MAX_LINE:,} bytes", where=f"{path}, after row {number}")
            if unpacked > most:
                raise DataError(
                    f"the Parquet file unpacks to more than {most:,} bytes, over {MAX_RATIO} times its size",
                    where=str(path),
                    hint="Check where it comes from.",
                )
            step = max(1, min(8192, 8192 * MAX_LINE // max(size, 1)))
            for start in range(0, batch.num_rows, step):
                for row in _rows(batch.slice(start, step), f"{path}, after row {number}"):
                    number += 1
                    yield row


def _rows(batch: pa.RecordBatch, place: str) -> list[dict[str, Any]]:
    """The rows of a batch; a column with times that Python cannot hold, as those after the year 9999, becomes text."""
    try:
        return batch.to_pylist()
    except (OverflowError, ValueError):
        names = batch.schema.names
        columns = [
            _values(column, f"{place}, field {name!r}") for name, column in zip(names, batch.columns, strict=True)
        ]
        return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]


def _values(column: pa.Array, place: str) -> list[Any]:
    try:
        return column.to_pylist()
    except (OverflowError, ValueError):
        return [_as_text(cell, place) for cell in column]


def _as_text(cell: pa.Scalar, place: str) -> str | None:
    try:
        return None if not cell.is_valid else str(cell.as_py())
    except (OverflowError, ValueError) as error:
        if not hasattr(cell, "value"):
            raise DataError(f"a value of {cell.type} cannot be read", where=place, hint="Drop the field.") from error
        return f"{cell.value} as {cell.type}"


def _text_lengths(column: pa.Array) -> Iterator[tuple[int, int]]:
    """For each leaf of a column that holds texts or bytes: what all of them have together, and the longest one."""
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = column.type
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        yield from _text_lengths(column.flatten())
    elif pa.types.is_map(kind) or pa.types.is_struct(kind):
        for part in (column.keys, column.items) if pa.types.is_map(kind) else column.flatten():
            yield from _text_lengths(part)
    elif pa.types.is_dictionary(kind):
        lengths = pc.binary_length(column.dictionary)
        yield pc.sum(lengths.take(column.indices)).as_py() or 0, pc.max(lengths).as_py() or 0
