"""What a corpus is like: sizes, distinct texts, near duplicates."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any
from zlib import crc32

import numpy as np
import pandas as pd

from assl_kit.common.names import apart_from_totals
from assl_kit.errors import DataError

from .synthetic import LABEL_TASKS


def _distinct(texts: list[str], order: int) -> float:
    """Distinct character n-grams over all of them."""
    grams = [text[k : k + order] for text in texts for k in range(len(text) - order + 1)]
    return len(set(grams)) / max(len(grams), 1)


def _near_duplicates(texts: list[str], threshold: float) -> int:
    """How many texts have an earlier one with Jaccard similarity of character 3-grams of at least ``threshold``.

    MinHash bands (12 of 4 rows) propose pairs, the exact similarity decides: a pair at 0.8 is missed once in 500.
    """
    prime = (1 << 31) - 1
    n_bands, band_rows = 12, 4
    # MinHash: the least values of a random function (a·x + b) mod p agree with a chance that is the similarity.
    factors = np.random.default_rng(0).integers(1, prime, (2, n_bands * band_rows, 1), dtype=np.int64)
    buckets: dict[tuple[int, bytes], list[int]] = {}
    shingles: list[set[int]] = []
    duplicates = 0
    for row, text in enumerate(texts):
        grams = {crc32(text[k : k + 3].encode()) & prime for k in range(max(len(text) - 2, 1))}
        hashes = np.fromiter(grams, np.int64, len(grams))
        bands = ((hashes * factors[0] + factors[1]) % prime).min(axis=1).reshape(n_bands, band_rows)
        seen: set[int] = set()
        for band, key in enumerate(bands):
            rows = buckets.setdefault((band, key.tobytes()), [])
            seen.update(rows[-100:])  # the latest: a bucket of a common phrase may hold most of the corpus
            rows.append(row)
        duplicates += any(len(grams & shingles[k]) >= threshold * len(grams | shingles[k]) for k in seen)
        shingles.append(grams)
    return duplicates


def corpus_statistics(records: pd.DataFrame | Iterable[dict], *, sample: int = 20_000) -> dict[str, Any]:
    """Counts, diversity and duplication of a corpus.

    Parameters
    ----------
    records : DataFrame or iterable of dict
        With the columns of ``COLUMNS``. With "template" (see ``with_slots``) the frames are counted too.
    sample : int, default 20000
        Near-duplicates are looked for among the first ``sample`` records; reprints stand near their originals.

    Returns
    -------
    dict
        "n"; "tasks" and "sources": counts, largest first; "distinct": task or "all" → ratios of distinct character
        n-grams of the inputs for n = 1 … 4; "exact_duplicates": share of records whose (instruction, input) was seen
        before; "duplicate_inputs": share whose input was; "near_duplicates": share with an earlier input at a Jaccard
        similarity of character 3-grams of at least 0.8; "majority": label task → share of its commonest output;
        "templates" and "top_template": number of frames and share of the commonest, or None.

    Examples
    --------
    >>> from assl_kit.data.synthetic import make_corpus
    >>> statistics = corpus_statistics(make_corpus(300))
    >>> statistics["n"], len(statistics["tasks"])
    (300, 7)
    """
    rows = records.to_dict("records") if hasattr(records, "to_dict") else list(records)
    if not rows:
        raise DataError("there are no records to describe", where="records")
    total = len(rows)
    inputs = [row["input"] or row["instruction"] for row in rows]
    tasks = Counter(row["task"] for row in rows)
    by_task = {task: [text for text, row in zip(inputs, rows, strict=True) if row["task"] == task] for task in tasks}
    apart = apart_from_totals(pd.Series(list(by_task), dtype=object))
    labels = {
        task: Counter(row["output"] for row in rows if row["task"] == task) for task in tasks if task in LABEL_TASKS
    }
    templates = Counter(row["template"] for row in rows if row.get("template"))
    return {
        "n": total,
        "tasks": dict(tasks.most_common()),
        "sources": dict(Counter(row["source"] for row in rows).most_common()),
        "distinct": {
            name: {order: round(_distinct(texts, order), 4) for order in range(1, 5)}
            for name, texts in {"all": inputs, **dict(zip(apart, by_task.values(), strict=True))}.items()
        },
        "exact_duplicates": 1 - len({(row["instruction"], row["input"]) for row in rows}) / total,
        "duplicate_inputs": 1 - len(set(inputs)) / total,
        "near_duplicates": _near_duplicates(inputs[:sample], 0.8) / min(total, sample),
        "majority": {task: count.most_common(1)[0][1] / count.total() for task, count in labels.items()},
        "templates": len(templates) or None,
        "top_template": templates.most_common(1)[0][1] / total if templates else None,
    }
