"""The model score: how much the model still needs a record."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from assl_kit.errors import DataError, ParameterError

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

METHODS = ("nll", "ifd", "rouge_gap", "column:NAME")


def check_method(method: str) -> None:
    """Raise :class:`ParameterError` unless ``method`` names a model score.

    Examples
    --------
    >>> check_method("column:quality")
    >>> try:
    ...     check_method("loss")
    ... except ParameterError as error:
    ...     print(error)
    unknown model score 'loss'. Use one of nll, ifd, rouge_gap, column:NAME.
    """
    known = isinstance(method, str) and (method in METHODS[:3] or (method.startswith("column:") and len(method) > 7))
    if not known:
        raise ParameterError(f"unknown model score {method!r}", hint=f"Use one of {', '.join(METHODS)}.")


def score_records(
    records: pd.DataFrame,
    method: str,
    *,
    model: PreTrainedModel | PeftModel | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    batch_size: int = 32,
    max_length: int = 512,
    max_new_tokens: int = 64,
    progress: bool = False,
) -> np.ndarray:
    """Raw model score of each record; larger means that the model needs it more.

    Parameters
    ----------
    records : DataFrame, n rows
        With columns ``id``, ``instruction``, ``input`` and ``output``.
    method : {"nll", "ifd", "rouge_gap", "column:NAME"}
        ``nll``: mean loss of the answer given the prompt, in nats per token. ``ifd``: that loss over the loss of the
        answer after an empty prompt (instruction-following difficulty). ``rouge_gap``: 1 − ROUGE-L of the greedily
        generated answer, in [0, 1]. ``column:NAME``: the numbers in that column.
    model, tokenizer
        As :func:`assl_kit.model.loading.load_base` gives them; not needed for a column.
    batch_size, max_length, max_new_tokens, progress
        As in :func:`assl_kit.model.likelihood.answer_nll` and :func:`~assl_kit.model.generation.generate_answers`.

    Returns
    -------
    ndarray of shape (n,), float64
        Finite.

    Raises
    ------
    ParameterError
        If the method is unknown, needs a model that is not given, or names a column that is not there.
    DataError
        If a column holds something that is not a finite number; the message names the record.

    Notes
    -----
    The paper (section on data selection) asks for a model score and leaves it open; the choice is ours. The ratio is
    that of Li et al. 2023 (arXiv 2308.12032), with losses and not perplexities.

    Examples
    --------
    >>> records = pd.DataFrame({"id": ["a", "b"], "quality": [0.5, 2]})
    >>> score_records(records, "column:quality").tolist()
    [0.5, 2.0]
    """
    check_method(method)
    if method.startswith("column:"):
        return _column(records, method.removeprefix("column:"))
    if model is None or tokenizer is None:
        raise ParameterError(
            f"the model score {method!r} needs a model and its tokenizer", hint="Give both, or use 'column:NAME'."
        )
    from assl_kit.data.records import prompts

    from .generation import generate_answers
    from .likelihood import answer_nll

    asked, answers = prompts(records), records["output"].tolist()
    settings: dict[str, Any] = {"batch_size": batch_size, "max_length": max_length, "progress": progress}
    if method == "rouge_gap":
        generated = generate_answers(model, tokenizer, asked, max_new_tokens=max_new_tokens, **settings)
        pairs = zip(answers, generated, strict=True)
        return np.array([1 - rouge_l(right, written) for right, written in pairs], dtype=float)
    conditioned = answer_nll(model, tokenizer, asked, answers, **settings)
    if method == "nll":
        return conditioned
    unconditioned = answer_nll(model, tokenizer, None, answers, **settings)
    return conditioned / np.maximum(unconditioned, 1e-6)  # an answer that is certain by itself has a loss of about 0


def _column(records: pd.DataFrame, name: str) -> np.ndarray:
    if name not in records.columns:
        raise ParameterError(
            f"the records have no column {name!r} to take the model score from",
            hint=f"Their columns are: {', '.join(map(str, records.columns))}.",
        )
    numbers = pd.to_numeric(records[name], errors="coerce").to_numpy(dtype=float, na_value=np.nan)
    bad = np.flatnonzero(~np.isfinite(numbers))
    if len(bad):
        row = int(bad[0])
        record = records["id"].iloc[row] if "id" in records.columns else row
        raise DataError(
            f"column {name!r} holds {records[name].iloc[row]!r}, which is not a finite number",
            where=f"record {record}",
            hint=f"{len(bad)} of {len(numbers)} records are so; the model score needs a number for each.",
        )
    return numbers


def rouge_l(reference: str, prediction: str) -> float:
    """ROUGE-L (F1) of a prediction, on characters: of the longest common subsequence, precision and recall.

    The package ``rouge-score`` gives the same numbers, a thousand times slower; its own tokenizer keeps only Latin
    letters and digits, which is wrong for Chinese.

    Parameters
    ----------
    reference, prediction : str
        Case and white space do not count.

    Returns
    -------
    float
        In [0, 1]; 0.0 if either is empty.

    Examples
    --------
    >>> rouge_l("净利润增长", "净利润下降")
    0.6
    """
    from rapidfuzz.distance import LCSseq

    right, written = ("".join(text.lower().split()) for text in (reference, prediction))
    common = LCSseq.similarity(right, written)
    if not common:
        return 0.0
    precision, recall = common / len(written), common / len(right)
    return 2 * precision * recall / (precision + recall)
