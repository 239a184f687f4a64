"""Rows in the order of tiles, with what the filters of a tile need of each."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Side:
    """Some distinct rows, in the order in which tiles take them.

    Parameters
    ----------
    rows : ndarray of shape (s,), int64
        Their numbers.
    squared : ndarray of shape (s,), float64
        Squared norms of the rows as the products take them.
    short : ndarray of shape (s, p), float32, or None
        Their short vectors; None without projection.

    Attributes
    ----------
    rows, squared, short
        As given.
    norm : ndarray of shape (s,), float64
    half : ndarray of shape (s,), float32
        Half of the squared norms.
    short_squared, short_half : ndarray of shape (s,), float64 and float32
        The same of the short vectors, where there are some.
    """

    def __init__(self, rows: np.ndarray, squared: np.ndarray, short: np.ndarray | None) -> None:
        self.rows, self.squared, self.short = rows, squared, short
        self.norm = np.sqrt(squared)
        self.half = (squared / 2).astype(np.float32)
        if short is not None:
            self.short_squared = np.einsum("ij,ij->i", short, short, dtype=np.float64)
            self.short_half = (self.short_squared / 2).astype(np.float32)

    def __len__(self) -> int:
        return len(self.rows)

    def blocks(self, size: int) -> list[slice]:
        """Slices of at most ``size`` places."""
        return [slice(start, min(start + size, len(self))) for start in range(0, len(self), size)]


class Tile(NamedTuple):
    """Rows of one side beside rows of another, or of the same; ``a`` and ``b`` are places in them."""

    left: Side
    a: slice | np.ndarray
    right: Side
    b: slice | np.ndarray
