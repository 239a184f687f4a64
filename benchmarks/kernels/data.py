"""Rows to measure on: seeded, made block by block, so that fewer rows are the beginning of more rows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

BLOCK = 8192
BLOBS = 200
NOISE = 0.03


def rows(data: str, n: int, d: int, seed: int = 0) -> np.ndarray:
    """The first ``n`` unit rows, float32.

    Parameters
    ----------
    data : str
        ``"blobs"``: 200 blobs, their sizes by Zipf's law, each with a spread of its own, and 3 % noise.
        ``"gaussian"``: directions without any structure, the worst case of a neighbour search.
        Else the path of an ``.npy`` file with at least ``n`` rows of ``d`` columns.
    """
    if data not in {"blobs", "gaussian"}:
        return _unit(np.array(np.load(data, mmap_mode="r")[:n], dtype=np.float32))
    X = np.empty((n, d), np.float32)
    for start, block in blocks(data, n, d, seed):
        X[start : start + len(block)] = block
    return X


def blocks(data: str, n: int, d: int, seed: int = 0) -> Iterator[tuple[int, np.ndarray]]:
    """The same rows, ``BLOCK`` at a time: the number of the first, and the rows."""
    rng = np.random.default_rng([seed, 0])
    centres = _unit(rng.standard_normal((BLOBS, d), dtype=np.float32))
    spread = np.exp(rng.uniform(np.log(0.3), np.log(1.2), BLOBS)).astype(np.float32) / np.float32(np.sqrt(d))
    share = 1 / np.arange(1, BLOBS + 1)
    for number, start in enumerate(range(0, n, BLOCK)):
        rng = np.random.default_rng([seed, 1, number])
        block = rng.standard_normal((BLOCK, d), dtype=np.float32)
        if data == "blobs":
            blob = rng.choice(BLOBS, BLOCK, p=share / share.sum())
            inside = rng.random(BLOCK) >= NOISE
            block[inside] *= spread[blob[inside], None]
            block[inside] += centres[blob[inside]]
        yield start, _unit(block)[: n - start]


def size_of(data: str) -> tuple[int, int]:
    """Rows and columns of an ``.npy`` file."""
    n, d = np.load(data, mmap_mode="r").shape
    return n, d


def name_of(data: str) -> str:
    """What to call a data set in records: never a path."""
    return data if data in {"blobs", "gaussian"} else Path(data).stem


def _unit(X: np.ndarray) -> np.ndarray:
    X /= np.linalg.norm(X, axis=1, keepdims=True)
    return X
