"""Embeddings on disk: ids and unit rows in one safetensors file, written block by block and read memory-mapped."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from assl_kit.data.conversations import OPTIONAL
from assl_kit.data.parquet import block_starts, read_block
from assl_kit.data.records import prompts
from assl_kit.errors import DataError

from .encoder import encode

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

_STEP = 8192  # rows copied at a time


def write_embeddings(
    path: str | os.PathLike, ids: Sequence[str], blocks: Iterable[tuple[np.ndarray, Sequence[str], np.ndarray]]
) -> None:
    """Write ids and rows; only one block is in memory at a time.

    Parameters
    ----------
    path : path-like
    ids : sequence of str, length n
        Without line ends.
    blocks : iterable of (places, ids, rows)
        In any order: the rows, float32 of shape (m, d), their ids and their places among all ids, 0 … n−1.

    Raises
    ------
    DataError
        If a block's ids are not those of its places, or some rows are missing.

    Notes
    -----
    The file is, byte for byte, what ``safetensors.numpy.save_file`` writes of the whole arrays. It is not written
    atomically: give a temporary path.

    Examples
    --------
    >>> folder = tempfile.mkdtemp()
    >>> block = (np.array([1, 0]), ["b", "a"], np.eye(2, dtype=np.float32))
    >>> write_embeddings(f"{folder}/e.safetensors", ["a", "b"], [block])
    >>> read_embeddings(f"{folder}/e.safetensors")["embeddings"].tolist()
    [[0.0, 1.0], [1.0, 0.0]]
    """
    wanted = np.asarray(ids, dtype=object)
    names = np.frombuffer("\n".join(wanted).encode("utf-8"), dtype=np.uint8)
    out, there = None, np.zeros(len(ids), bool)
    for places, block_ids, rows in blocks:
        if out is None:
            out = _created(Path(path), (len(ids), rows.shape[1]), names)
        differs = np.flatnonzero(wanted[places] != np.asarray(block_ids, dtype=object))
        if len(differs):
            place, came = places[differs[0]], block_ids[differs[0]]
            raise DataError(f"a row of the record {came!r} came for {wanted[place]!r}", where=f"row {place}")
        out[places] = rows
        there[places] = True
    missing = np.flatnonzero(~there)
    if len(missing):
        raise DataError(f"{len(missing)} of {len(ids)} records have no embedding", where=f"id {wanted[missing[0]]!r}")
    if out is not None:
        out.flush()


def _created(path: Path, shape: tuple[int, int], names: np.ndarray) -> np.memmap:
    """A file with everything but the rows, whose place is given mapped."""
    size = 4 * shape[0] * shape[1]
    header = {
        "embeddings": {"dtype": "F32", "shape": list(shape), "data_offsets": [0, size]},
        "ids": {"dtype": "U8", "shape": [len(names)], "data_offsets": [size, size + len(names)]},
    }
    text = json.dumps(header, separators=(",", ":")).encode("utf-8")
    text += b" " * (-len(text) % 8)  # the format has data start at a multiple of 8 bytes
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.seek(8 + len(text) + size)
        file.write(names.tobytes())
    return np.memmap(path, np.float32, "r+", 8 + len(text), shape)


def read_embeddings(path: str | os.PathLike) -> dict[str, Any]:
    """Ids and rows of a file that `write_embeddings` wrote.

    Parameters
    ----------
    path : path-like

    Returns
    -------
    dict
        ``ids``: list of str, length n. ``embeddings``: read-only float32 array of shape (n, d), memory-mapped: pages
        are read from disk when they are used.

    Raises
    ------
    DataError
        If it is another file, or damaged.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:  # checks the header and the size of the file
            ids = file.get_tensor("ids").tobytes().decode("utf-8").split("\n")
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            entry = json.loads(file.read(length))["embeddings"]
        n_rows, width = entry["shape"]
        start = 8 + length + entry["data_offsets"][0]
        rows = np.memmap(path, np.dtype(np.float32), "r", start, (n_rows, width))
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise DataError("the file holds no embeddings", where=str(path), hint="Run notebook 02 again.") from error
    if entry["dtype"] != "F32" or n_rows != len(ids):
        raise DataError(f"the file holds {n_rows} rows of {entry['dtype']}, for {len(ids)} ids", where=str(path))
    return {"ids": ids, "embeddings": np.asarray(rows)}


def embed_block(
    encoder: SentenceTransformer, records: str | os.PathLike, number: int
) -> tuple[np.ndarray, list[str], np.ndarray]:
    """Embed one block of a Parquet file of records.

    Parameters
    ----------
    encoder : sentence_transformers.SentenceTransformer
    records : path-like
        Written by `assl_kit.data.records.write_records`.
    number : int
        Of the block.

    Returns
    -------
    places, ids, rows
        As `write_embeddings` takes them.

    Raises
    ------
    DataError
        If a text cannot be embedded; the message names the record.
    """
    block = read_block(records, number, ("id", "instruction", "input", *OPTIONAL))
    try:
        rows = encode(encoder, prompts(block))
    except DataError as error:
        row = (error.where or "").removeprefix("row ")
        where = f"record {block['id'].iloc[int(row)]!r}" if row.isdigit() else error.where
        raise DataError(error.what, where=where, hint=error.hint) from error
    return block_starts(records)[number] + np.arange(len(block)), block["id"].tolist(), rows


@contextmanager
def mapped_rows(X: np.ndarray, rows: np.ndarray, folder: str | os.PathLike) -> Iterator[np.ndarray]:
    """Some rows of a memory-mapped array as a memory-mapped array: none of them is copied into memory to stay.

    Parameters
    ----------
    X : ndarray of shape (n, d)
        Memory-mapped.
    rows : ndarray of shape (m,), int
    folder : path-like
        Where a temporary file of the rows may lie for the length of the ``with`` block. None is needed where the rows
        stand together in X.

    Yields
    ------
    ndarray of shape (m, d)
        Read-only.

    Examples
    --------
    >>> with mapped_rows(np.eye(3, dtype=np.float32), np.array([2, 0]), tempfile.mkdtemp()) as X:
    ...     X.tolist()
    [[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]
    """
    if len(rows) and (np.diff(rows) == 1).all():
        yield X[rows[0] : rows[-1] + 1]
        return
    with tempfile.TemporaryDirectory(prefix=".rows.", dir=folder, ignore_cleanup_errors=True) as place:
        file, shape = Path(place) / "rows", (len(rows), X.shape[1])
        out = np.memmap(file, X.dtype, "w+", shape=shape)
        for start in range(0, len(rows), _STEP):
            out[start : start + _STEP] = X[rows[start : start + _STEP]]
        out.flush()
        del out
        yield np.asarray(np.memmap(file, X.dtype, "r", shape=shape))


def rows_of(embeddings: dict[str, Any], ids: Iterable[str]) -> np.ndarray:
    """Embedding rows of the given record ids, float32 of shape (len(ids), d), joined by id."""
    place = pd.Index(embeddings["ids"])
    where = place.get_indexer(pd.Index(ids))
    if (where < 0).any():
        missing = list(pd.Index(ids)[where < 0][:3])
        raise DataError("some records have no embedding", where=f"ids {missing}", hint="Run notebook 02 again.")
    return embeddings["embeddings"][where]
