"""Training data: records as tokens with the loss on the answer, and the order in which they are seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from .base_model import chat_prompt
from .errors import DataError
from .files import sha256_of

_MEGABATCH = 50


@dataclass(frozen=True)
class Encoded:
    """Records as tokens: ``input_ids`` and ``labels`` (−100 on the prompt), and how many prompts were cut."""

    input_ids: list[list[int]]
    labels: list[list[int]]
    n_truncated: int

    def fingerprint(self, settings: dict[str, Any], base_fingerprint: str) -> str:
        """SHA-256 of all that decides the adapter's bits, but for the machine and library versions."""
        return sha256_of([self.input_ids, self.labels, settings, base_fingerprint])


def encode_records(model, tokenizer, records: pd.DataFrame, max_length: int) -> Encoded:
    """Turn records into token rows whose labels cover the answer and the token that ends it, and nothing else.

    Prompt and answer are tokenised apart, as generation and :func:`assl_kit.base_model.answer_nll` see them.

    Parameters
    ----------
    model, tokenizer
        The base and its tokenizer (with chat template).
    records : DataFrame
        With ``instruction``, ``input``, ``output`` (and ``id``, for messages).
    max_length : int

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
    from .corpus import prompts

    heads = _ids(tokenizer, [chat_prompt(tokenizer, prompt) for prompt in prompts(records)])
    tails = [ids + [tokenizer.eos_token_id] for ids in _ids(tokenizer, list(records["output"]))]
    limit = getattr(model.config, "max_position_embeddings", None) or max_length
    input_ids, labels, cut = [], [], 0
    for row, (head, tail) in enumerate(zip(heads, tails, strict=True)):
        if len(tail) + 1 > limit:
            name = records["id"].iloc[row] if "id" in records else row
            raise DataError(
                f"an answer of {len(tail)} tokens does not fit into the base model's {limit}",
                where=f"record {name}",
                hint="Shorten the answer or leave the record out.",
            )
        room = max(1, min(max_length, limit) - len(tail))
        cut += len(head) > room
        head = head[-room:]
        input_ids.append(head + tail)
        labels.append([-100] * len(head) + tail)
    return Encoded(input_ids, labels, cut)


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
    rng, lengths = np.random.default_rng(seed), np.asarray(lengths)
    left, done = np.zeros(0, dtype=np.int64), []
    for _ in range(epochs):
        rows = np.concatenate([left, rng.permutation(len(lengths))])
        whole = len(rows) - len(rows) % batch_size
        batches = []
        for start in range(0, whole, _MEGABATCH * batch_size):
            part = rows[start : min(start + _MEGABATCH * batch_size, whole)]
            part = part[np.argsort(-lengths[part], kind="stable")]
            batches.extend(part.reshape(-1, batch_size))
        done.extend(batches[i] for i in rng.permutation(len(batches)))
        left = rows[whole:]
    return np.concatenate([*done, left])


def _ids(tokenizer, texts: list[str]) -> list[list[int]]:
    return tokenizer(texts, add_special_tokens=False, truncation=False, verbose=False)["input_ids"]
