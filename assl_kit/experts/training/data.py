"""Training data: records as tokens with the loss on the answer, the order in which they are seen, what is held out."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from assl_kit.common.files import sha256_of
from assl_kit.errors import DataError
from assl_kit.model.tokens import end_tokens, room_beside
from assl_kit.model.turns import prompt_ids, text_ids

from .config import TrainingConfig

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_MEGABATCH = 50
"""Batches among which rows are sorted by length, as many as transformers takes: more pad less, but mix less."""
LEAST_HELD_OUT = 8
"""Fewer records than this are not held out: their loss would tell nothing (ours)."""


@dataclass(frozen=True)
class Encoded:
    """Records as tokens: ``input_ids``, ``labels`` (−100 where there is no loss), and how many prompts were cut."""

    input_ids: list[list[int]]
    labels: list[list[int]]
    n_truncated: int

    def fingerprint(self, settings: dict[str, Any], base_fingerprint: str) -> str:
        """SHA-256 of all that decides the adapter's bits, but for the machine and library versions."""
        return sha256_of([self.input_ids, self.labels, settings, base_fingerprint])


def encode_records(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, records: pd.DataFrame, max_length: int
) -> Encoded:
    """Turn records into token rows whose labels cover the answer and the token that ends it, and nothing else.

    In a conversation all answers count, the earlier ones too. Prompt and answer are tokenised apart, as generation and
    :func:`assl_kit.model.likelihood.answer_nll` see them.

    Parameters
    ----------
    model, tokenizer
        The base and its tokenizer (with chat template).
    records : DataFrame
        With ``instruction``, ``input``, ``output`` (and ``id``, for messages; ``system`` and ``history``).
    max_length : int
        A longer prompt loses its oldest turns, then tokens on its left.

    Returns
    -------
    Encoded

    Raises
    ------
    DataError
        If there is no record, a column is missing, or an answer does not fit into the model.
    """
    missing = [name for name in ("instruction", "input", "output") if name not in getattr(records, "columns", ())]
    if missing:
        raise DataError(f"the records have no column {missing[0]!r}", hint="Load them with load_records.")
    if len(records) == 0:
        raise DataError("there is no record to train on")
    from assl_kit.data.records import prompts

    names = records["id"] if "id" in records else range(len(records))
    tails = [ids + [tokenizer.eos_token_id] for ids in text_ids(tokenizer, list(records["output"]))]
    rooms = [room_beside(model, max_length, tail, f"record {name}") for name, tail in zip(names, tails, strict=True)]
    heads = prompt_ids(tokenizer, prompts(records), rooms, end_tokens(model, tokenizer))
    input_ids, labels = [], []
    for head, tail in zip(heads, tails, strict=True):
        wanted = [-100] * len(head.ids)
        for start, end in head.answers:
            wanted[start:end] = head.ids[start:end]
        input_ids.append(head.ids + tail)
        labels.append(wanted + tail)
    return Encoded(input_ids, labels, sum(head.cut for head in heads))


@dataclass(frozen=True)
class Plan:
    """What a training goes through.

    Attributes
    ----------
    rows : list of list of int
        The records of each row, in training order, all epochs; one record a row unless they are packed.
    tokens : ndarray
        Tokens of each row.
    held_out : list of int
        One record of each that is held out; no copy of it is in ``rows``.
    steps, per_step : int
        Optimiser steps, and rows of one.
    """

    rows: list[list[int]]
    tokens: np.ndarray
    held_out: list[int]
    steps: int
    per_step: int

    def tokens_of(self, first: int, last: int) -> int:
        """Tokens of the steps after ``first`` up to ``last``."""
        return int(self.tokens[first * self.per_step : last * self.per_step].sum())


def plan_training(encoded: Encoded, config: TrainingConfig) -> Plan:
    """Which records are trained on, in which order and rows, and which are held out."""
    lengths = np.array([len(ids) for ids in encoded.input_ids])
    held_out = hold_out(encoded.input_ids, config.holdout_share, config.seed)
    aside = {tuple(encoded.input_ids[row]) for row in held_out}
    kept = np.array([row for row, ids in enumerate(encoded.input_ids) if tuple(ids) not in aside])
    if config.packing:
        rng = np.random.default_rng(config.seed)
        rows = []
        for _ in range(config.epochs):
            rows += pack(lengths, rng.permutation(kept), config.max_length, rng)
    else:
        order = training_order(lengths[kept], config.epochs, config.rows, config.seed)
        rows = [[row] for row in kept[order].tolist()]
    per_step = config.rows
    tokens = np.array([lengths[row].sum() for row in rows])
    return Plan(rows, tokens, held_out, -(-len(rows) // per_step), per_step)


def hold_out(input_ids: Sequence[Sequence[int]], share: float, seed: int) -> list[int]:
    """A seeded share of the different records, one row of each; none if they would be fewer than `LEAST_HELD_OUT`.

    Examples
    --------
    >>> rows = [[i // 2] for i in range(80)]
    >>> len(hold_out(rows, 0.25, seed=0)), hold_out(rows, 0.1, seed=0)
    (10, [])
    """
    first: dict[tuple[int, ...], int] = {}
    for row, ids in enumerate(input_ids):
        first.setdefault(tuple(ids), row)
    different = np.array(list(first.values()))
    n = round(share * len(different))
    if n < LEAST_HELD_OUT:
        return []
    return sorted(np.random.default_rng(seed).permutation(different)[:n].tolist())


def pack(lengths: np.ndarray, rows: Iterable[int], capacity: int, rng: np.random.Generator) -> list[list[int]]:
    """Put records into as few rows of ``capacity`` tokens as best fit does, longest first; rows come out shuffled.

    A record longer than ``capacity`` has a row of its own.

    Examples
    --------
    >>> sorted(map(sorted, pack(np.array([5, 3, 4, 9]), [0, 1, 2, 3], 8, np.random.default_rng(0))))
    [[0, 1], [2], [3]]
    """
    bins: list[list[int]] = []
    room: list[tuple[int, int]] = []  # (tokens left, bin), sorted
    for row in sorted(rows, key=lambda row: -lengths[row]):
        length = int(lengths[row])
        place = bisect_left(room, (length, 0))
        left, number = room.pop(place) if place < len(room) else (max(capacity, length), len(bins))
        if number == len(bins):
            bins.append([])
        bins[number].append(int(row))
        insort(room, (left - length, number))
    return [bins[number] for number in rng.permutation(len(bins))]


def training_order(lengths: Sequence[int], epochs: int, batch_size: int, seed: int) -> np.ndarray:
    """Row numbers in training order: random in each epoch, rows of similar length in one batch, batches shuffled.

    What does not fill a batch at the end of an epoch starts the next one's, so only the last batch may be short.

    Parameters
    ----------
    lengths : sequence of int, length n
    epochs, batch_size, seed : int

    Returns
    -------
    ndarray of shape (n · epochs,), int64
        Each row ``epochs`` times.

    Examples
    --------
    >>> sorted(training_order([5, 1, 9], epochs=2, batch_size=2, seed=0).tolist())
    [0, 0, 1, 1, 2, 2]
    """
    rng, length_of = np.random.default_rng(seed), np.asarray(lengths)
    left = np.zeros(0, dtype=np.int64)
    done: list[np.ndarray] = []
    for _ in range(epochs):
        rows = np.concatenate([left, rng.permutation(len(length_of))])
        whole = len(rows) - len(rows) % batch_size
        batches: list[np.ndarray] = []
        for start in range(0, whole, _MEGABATCH * batch_size):
            part = rows[start : min(start + _MEGABATCH * batch_size, whole)]
            part = part[np.argsort(-length_of[part], kind="stable")]
            batches.extend(part.reshape(-1, batch_size))
        done.extend(batches[i] for i in rng.permutation(len(batches)))
        left = rows[whole:]
    return np.concatenate([*done, left])
