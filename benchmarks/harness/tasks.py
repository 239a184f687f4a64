"""CFLEB and FinEval for lm-evaluation-harness: what its tasks read, and how answers are scored.

The harness loads this file by its path, from the YAML files beside it. It needs assl-kit, whose readers and measures
these are; `folder` comes from the command line: ``--metadata '{"folder": "…"}'``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from assl_kit.data.published.cfleb import iter_cfleb
from assl_kit.data.published.fineval import fineval_parts
from assl_kit.errors import DataError, ParameterError
from assl_kit.evaluation.metrics import f1_of, item_counts, score_answers

LETTERS = "ABCD"
Splits = dict[str, list[dict[str, Any]]]


def cfleb(name: str, folder: str | None = None, **_: Any) -> Splits:
    """The questions of one CFLEB task.

    Parameters
    ----------
    name : str
        As ``finfe``.
    folder : str
        The benchmark's repository, or a folder of its layout.

    Returns
    -------
    dict
        ``"test"``: documents with ``question`` and ``answer``; without a test file the dev file's. ``"train"``: for
        few-shot prompts; without a train file (FinNA, FinQA) the dev file's.

    Raises
    ------
    DataError
        If the folder has no such task.
    """
    rows: dict[str, list[dict]] = {"train": [], "dev": [], "test": []}
    for _place, record in iter_cfleb(_given(folder)):
        if isinstance(record, dict) and record["source"] == name:
            question = f"{record['instruction']}\n{record['input']}"
            rows[record["split"]].append({"question": question, "answer": record["output"]})
    return _splits(rows, f"the CFLEB task {name}", str(folder))


def fineval(folder: str | None = None, **_: Any) -> Splits:
    """The exam questions of FinEval that have one right letter, as `cfleb` has them, with ``subject`` and ``choices``.

    ``test`` are the benchmark's val files (its test files have no answers), ``train`` its worked examples (dev).
    """
    rows: dict[str, list[dict]] = {"train": [], "dev": [], "test": []}
    for part in fineval_parts(_given(folder), []):
        if part.split is not None:
            continue  # a later part, whose answers are texts
        for _place, record in part.pairs:
            if isinstance(record, dict) and len(record["output"]) == 1:
                question = f"{record['instruction']}\n{record['input']}"
                document = {"question": question, "answer": record["output"], "subject": record["subject"]}
                rows[record["split"]].append(document | {"choices": list(LETTERS)})
    return _splits(rows, "FinEval's exams", str(folder))


def _given(folder: str | None) -> Path:
    if not folder or not Path(folder).is_dir():
        hint = 'Say where the benchmark lies: --metadata \'{"folder": "…"}\'.'
        raise ParameterError(f"there is no folder {folder!r}", where="folder", hint=hint)
    return Path(folder)


def _splits(rows: dict[str, list[dict]], what: str, folder: str) -> Splits:
    from datasets import Dataset

    test, train = rows["test"] or rows["dev"], rows["train"] or rows["dev"]
    if not test:
        raise DataError(f"{what} is not in the folder, or has no test questions", where=folder)
    return {"test": Dataset.from_list(test), "train": Dataset.from_list(train or test[:0])}


# scores --------------------------------------------------------------------------------------------------------------
def _scored(metric: str) -> Callable[[dict, list[str]], dict[str, float]]:
    def process(document: dict, results: list[str]) -> dict[str, float]:
        value = float(score_answers([document["answer"]], [results[0].strip()], metric)[0])
        return {metric: value, "score": value}

    return process


accuracy, rouge_l, char_f1 = _scored("accuracy"), _scored("rouge_l"), _scored("char_f1")


def items(document: dict, results: list[str]) -> dict[str, tuple[float, ...]]:
    """Items found, too many and missed, which `micro_f1` adds up."""
    counts = tuple(item_counts([document["answer"]], [results[0].strip()])[0].tolist())
    return {"micro_f1": counts, "score": counts}


def micro_f1(counts: Iterable[tuple[float, ...]]) -> float:
    """The F1 of all items of all questions together.

    Examples
    --------
    >>> round(micro_f1([(1, 0, 1), (1, 1, 0)]), 3)
    0.667
    """
    return float(f1_of(np.sum(np.array(list(counts)), axis=0)[None])[0])
