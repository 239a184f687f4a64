"""How much of a file from elsewhere is read: generous bounds, so that a small hostile file cannot fill the memory."""

from __future__ import annotations

import gzip
import io
import json
import os
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
"""How many times the size of a gzip file its content may have, beyond ``FREE_UNPACKED`` bytes. Text has 3 to 20."""
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


def open_records(path: str | os.PathLike) -> BinaryIO:
    """Open a file of records for reading bytes, unpacked where its name ends in ``.gz``.

    Reading raises a ``DataError`` once a gzip file has given more than ``FREE_UNPACKED`` bytes and ``MAX_RATIO`` times
    its own size.
    """
    path = Path(path)
    if not path.name.lower().endswith(".gz"):
        return open(path, "rb")
    return io.BufferedReader(_Unpacked(path), buffer_size=1 << 18)


class _Unpacked(io.RawIOBase):
    """The content of a gzip file, counted."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path, self._unpacked = path, 0
        self._most = max(FREE_UNPACKED, MAX_RATIO * path.stat().st_size)
        self._file = gzip.open(path, "rb")  # noqa: SIM115 - closed with this object

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        piece = self._file.read1(len(buffer))
        buffer[: len(piece)] = piece
        self._unpacked += len(piece)
        if self._unpacked > self._most:
            raise DataError(
                f"the gzip file unpacks to more than {self._most:,} bytes, over {MAX_RATIO} times its size",
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
                for row in batch.slice(start, step).to_pylist():
                    number += 1
                    yield row


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
