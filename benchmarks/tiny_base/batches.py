"""Batches of lessons: token ids in few widths, made in this process or by others ahead of the training."""

from __future__ import annotations

import multiprocessing
from bisect import bisect_right
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import NamedTuple

import numpy as np

from .lessons import Lesson, chunk
from .tokenizer import END, START

WIDTHS = (48, 64, 80, 96, 128, 160, 208, 272)
"""Lengths that lessons are filled up to; a longer one is left out."""


class Batch(NamedTuple):
    """Lessons of one width.

    ``tokens`` (n, width) int32, filled up with 0; ``starts`` and ``ends`` (n,) int32, where the answers begin and where
    the lessons end.
    """

    tokens: np.ndarray
    starts: np.ndarray
    ends: np.ndarray


class Encoder:
    """Writes lessons as token ids.

    Parameters
    ----------
    folder : Path
        Of the tokenizer.
    """

    def __init__(self, folder: Path) -> None:
        from tokenizers import Tokenizer

        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))

    def __call__(self, lessons: list[Lesson]) -> list[tuple[list[int], int]]:
        """Token ids of each lesson, and where its answer begins; what is longer than the last width is left out."""
        asked = [f"{START}user\n{question}{END}\n{START}assistant\n" for _, question, _ in lessons]
        texts = [*asked, *(answer + END + "\n" for _, _, answer in lessons)]
        ids = [encoding.ids for encoding in self.tokenizer.encode_batch(texts, add_special_tokens=False)]
        pairs = zip(ids[: len(lessons)], ids[len(lessons) :], strict=True)
        return [(a + b, len(a)) for a, b in pairs if len(a) + len(b) <= WIDTHS[-1]]


def batches(pairs: list[tuple[list[int], int]], n_tokens: int, rng: Random) -> list[Batch]:
    """Batches of about ``n_tokens``, each of one width, in random order; what fills no half of one goes up a width."""
    made: list[Batch] = []
    left = sorted(pairs, key=lambda pair: len(pair[0]))
    lengths = [len(ids) for ids, _ in left]
    for width in WIDTHS:
        rows = max(1, n_tokens // width)
        fits = bisect_right(lengths, width)
        while fits and (fits >= rows / 2 or width == WIDTHS[-1]):
            made.append(_filled(left[: min(rows, fits)], width))
            left, lengths, fits = left[rows:], lengths[rows:], max(0, fits - rows)
    rng.shuffle(made)
    return made


def _filled(pairs: list[tuple[list[int], int]], width: int) -> Batch:
    tokens = np.zeros((len(pairs), width), np.int32)
    for row, (ids, _) in enumerate(pairs):
        tokens[row, : len(ids)] = ids
    ends = np.array([len(ids) for ids, _ in pairs], np.int32)
    return Batch(tokens, np.array([start for _, start in pairs], np.int32), ends)


_encoder: Encoder | None = None


def _begin(folder: str) -> None:
    global _encoder
    _encoder = Encoder(Path(folder))


def _batches_of(index: int, size: int, seed: int, n_tokens: int) -> list[Batch]:
    assert _encoder is not None
    return batches(_encoder(chunk(index, size, seed)), n_tokens, Random(f"{seed} {index}"))


@contextmanager
def chunks(folder: Path, first: int, last: int, size: int, seed: int, n_tokens: int, workers: int):
    """The batches of chunks ``first`` … ``last`` − 1, in order; with ``workers``, made ahead by as many processes."""
    if not workers:
        _begin(str(folder))
        yield (_batches_of(index, size, seed, n_tokens) for index in range(first, last))
        return
    kind = "fork" if "fork" in multiprocessing.get_all_start_methods() else "spawn"
    with multiprocessing.get_context(kind).Pool(workers, _begin, (str(folder),)) as pool:
        yield _ahead(pool, first, last, (size, seed, n_tokens), 3 * workers)


def _ahead(pool, first: int, last: int, rest: tuple[int, int, int], most: int) -> Iterator[list[Batch]]:
    """Results in order, with at most ``most`` of them being made or waiting."""
    waiting: deque = deque()
    for index in range(first, last):
        waiting.append(pool.apply_async(_batches_of, (index, *rest)))
        if len(waiting) >= most:
            yield waiting.popleft().get()
    while waiting:
        yield waiting.popleft().get()
