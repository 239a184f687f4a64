"""Parquet files from elsewhere: what they unpack to is told before they are unpacked, leaf by leaf, and bounded."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, BinaryIO

from assl_kit.common import limits
from assl_kit.errors import DataError

from .saved.pages import chunks, pages

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    import pyarrow as pa

_BATCH = 8192  # rows read at a time
_CELL = 32  # bytes that a value takes in Python besides its own, about
_HOLDER = 100  # bytes of each list or object that it lies in
_WIDTHS = {"BOOLEAN": 1, "INT32": 4, "INT64": 8, "INT96": 12, "FLOAT": 4, "DOUBLE": 8}
_DELTA_BYTE_ARRAY = 7
_AS_DICTIONARY = (0, 2, 8)  # encodings that pyarrow keeps packed: plain texts, and numbers of a dictionary's
_CHECK = "Check where it comes from."


def check_parquet(path: str | os.PathLike, columns: list[str] | None = None) -> None:
    """Refuse a Parquet file with more rows, columns or bytes, once unpacked, than a corpus may have.

    First the headers of all pages are read, which say how many values there are and how large the pages become; then
    texts are counted batch by batch, repeated ones still packed: of all columns, or of those that will be read.

    Raises
    ------
    DataError
        If it has; if a text is longer than ``MAX_LINE``; if a page cannot be found. A file that is no Parquet file
        raises pyarrow's own error.
    """
    for _ in _batches(path, columns):
        pass


def read_table(path: str | os.PathLike, columns: list[str] | None = None) -> pd.DataFrame:
    """A Parquet file as a table, or some columns of it; errors as `check_parquet`."""
    import pandas as pd

    check_parquet(path, columns)
    return pd.read_parquet(path, columns=columns)


def parquet_rows(path: str | os.PathLike) -> Iterator[dict[str, Any]]:
    """The rows of a Parquet file, one at a time; repeated texts stay packed until their rows are given.

    Raises
    ------
    DataError
        As `check_parquet`.
    """
    number = 0
    for batch in _batches(path):
        for row in batch_rows(batch, f"{path}, after row {number}"):
            number += 1
            yield row


def batch_rows(batch: pa.RecordBatch, place: str) -> Iterator[dict[str, Any]]:
    """The rows of a batch, of which no more become objects at a time than a row may have of bytes.

    Raises
    ------
    DataError
        If a row has more than ``MAX_LINE``.
    """
    waiting = [batch]
    while waiting:
        part = waiting.pop()
        size = sum(total for column in part.columns for total, _ in _leaf_sizes(column))
        if size <= limits.MAX_LINE:
            yield from _rows(part, place)
        elif part.num_rows == 1:
            raise DataError(f"a row has more than {limits.MAX_LINE:,} bytes", where=place)
        else:
            half = part.num_rows // 2
            waiting += [part.slice(half), part.slice(0, half)]


def _batches(path: str | os.PathLike, columns: list[str] | None = None) -> Iterator[pa.RecordBatch]:
    """The file in batches of rows, none of which reaches over the end of a group: texts in lists cannot be read so."""
    import pyarrow.parquet as pq

    most = limits.most_unpacked(path)
    with pq.ParquetFile(path) as file, open(path, "rb") as raw:
        rows, unpacked_texts = _check_pages(file, raw, most, str(path))
        leaves = [file.schema.column(place) for place in range(len(file.schema))]
    texts = [leaf.path for leaf in leaves if leaf.physical_type == "BYTE_ARRAY" and leaf.path not in unpacked_texts]
    number, unpacked = 0, 0
    with pq.ParquetFile(path, read_dictionary=texts) as file:
        for group in range(file.num_row_groups):
            for batch in file.iter_batches(batch_size=rows, row_groups=[group], columns=columns):
                sizes = [size for column in batch.columns for size in _leaf_sizes(column)]
                unpacked += sum(total for total, _ in sizes)
                longest = max((length for _, length in sizes), default=0)
                if longest > limits.MAX_LINE:
                    what = f"a text has more than {limits.MAX_LINE:,} bytes"
                    raise DataError(what, where=f"{path}, after row {number}")
                if unpacked > most:
                    raise _too_much(most, str(path))
                number += batch.num_rows
                yield batch


def _too_much(most: int, path: str) -> DataError:
    what = f"the Parquet file unpacks to more than {most:,} bytes, over {limits.MAX_RATIO} times its size"
    return DataError(what, where=path, hint=_CHECK)


# blocks ---------------------------------------------------------------------------------------------------------------
def block_starts(path: str | os.PathLike) -> np.ndarray:
    """The first row of each block of a Parquet file, and the number of rows at the end: shape (blocks + 1,), int64."""
    import numpy as np
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        sizes = [file.metadata.row_group(number).num_rows for number in range(file.metadata.num_row_groups)]
    return np.cumsum([0, *sizes])


def read_block(path: str | os.PathLike, number: int, columns: Sequence[str]) -> pd.DataFrame:
    """Those of these columns that a Parquet file has, of one of its blocks; no other block is read."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        return file.read_row_group(number, columns=list(columns)).to_pandas()


def _check_pages(file: Any, raw: BinaryIO, most: int, path: str) -> tuple[int, set[str]]:
    """Add up what the pages' headers say; how many rows to read at a time, and which texts pyarrow unpacks at once.

    Of those a page may hold many times its size: each is told by how much it shares with the one before
    (DELTA_BYTE_ARRAY), or other pages of the column by numbers of a dictionary.
    """
    about = file.metadata
    for what, count, bound in (
        ("rows", about.num_rows, limits.MAX_RECORDS),
        ("columns", about.num_columns, limits.MAX_COLUMNS),
    ):
        if count > bound:
            raise DataError(
                f"the Parquet file has {count:,} {what}, at most {bound:,} are read", where=path, hint=_CHECK
            )
    rows, unpacked = _BATCH, 0
    longest: dict[str, int] = {}  # of texts whose pages can hold more than their size, the largest page
    at_once: set[str] = set()
    for number, chunk in enumerate(chunks(raw, about.num_row_groups, about.num_columns, path)):
        leaf = file.schema.column(number % about.num_columns)
        each = _CELL + _HOLDER * leaf.path.count(".") + _WIDTHS.get(leaf.physical_type, max(leaf.length, 0))
        for page in pages(raw, chunk, f"{path}, column {leaf.path}"):
            unpacked += page.unpacked + page.values * each
            if unpacked > most:
                raise _too_much(most, path)
            if leaf.physical_type == "BYTE_ARRAY" and page.is_data and page.encoding not in _AS_DICTIONARY:
                at_once.add(leaf.path)
            if not page.is_data or page.encoding == _DELTA_BYTE_ARRAY:
                longest[leaf.path] = max(longest.get(leaf.path, 1), page.unpacked)
    for place in range(about.num_columns):
        leaf = file.schema.column(place)
        if leaf.path in at_once and leaf.path in longest:
            if leaf.max_repetition_level:
                what = f"the lists {leaf.path!r} hold texts in the encoding DELTA_BYTE_ARRAY, of any size"
                raise DataError(what, where=path, hint="Write the file again, by pyarrow or pandas.")
            rows = min(rows, max(1, limits.FREE_UNPACKED // longest[leaf.path]))
    return rows, at_once


# rows -----------------------------------------------------------------------------------------------------------------
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
    except UnicodeDecodeError as error:
        raise DataError("a text is not UTF-8", where=place, hint="Write the file again.") from error
    except (OverflowError, ValueError) as error:
        if not hasattr(cell, "value"):
            raise DataError(f"a value of {cell.type} cannot be read", where=place, hint="Drop the field.") from error
        return f"{cell.value} as {cell.type}"


def _leaf_sizes(column: pa.Array, holders: int = 0) -> Iterator[tuple[int, int]]:
    """For each leaf of a column: what its values take in Python, and the length of its longest text, both in bytes."""
    import pyarrow as pa
    import pyarrow.compute as pc

    kind, each = column.type, _CELL + _HOLDER * holders
    parts: Iterable[pa.Array] = ()
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        parts = [column.flatten()]
    elif pa.types.is_map(kind) or pa.types.is_struct(kind):
        parts = (column.keys, column.items) if pa.types.is_map(kind) else column.flatten()
    elif pa.types.is_dictionary(kind):
        lengths = pc.binary_length(column.dictionary)
        total = pc.sum(lengths.take(column.indices)).as_py() or 0
        yield total + len(column) * each, pc.max(lengths).as_py() or 0
        return
    is_text = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_binary(kind)
    longest = pc.max(pc.binary_length(column)).as_py() if is_text or pa.types.is_large_binary(kind) else 0
    yield len(column) * each + (0 if parts else column.nbytes), longest or 0
    for part in parts:
        yield from _leaf_sizes(part, holders + 1)
