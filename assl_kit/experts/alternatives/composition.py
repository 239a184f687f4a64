"""One mixture of all adapters for a task, found from a few of its examples without gradients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from assl_kit.common.checks import real, whole
from assl_kit.errors import DataError

from ..merging import merged

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedTokenizerBase

    from assl_kit.data.conversations import Prompt

MOST = 1.5  #: of a weight, either way


def composed_weights(
    peft_model: PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    names: Sequence[str],
    questions: Sequence[Prompt],
    answers: Sequence[str],
    *,
    n_trials: int = 40,
    penalty: float = 0.05,
    seed: int = 0,
    max_length: int = 512,
) -> np.ndarray:
    """The weights of adapters whose merge makes a few examples likely.

    Parameters
    ----------
    peft_model, tokenizer
        With the adapters loaded; afterwards it is as before.
    names : sequence of str, length k
        Of the adapters.
    questions, answers : sequences of length m ≥ 1
        The examples.
    n_trials : int
        Merges that are tried.
    penalty : float
        Of the mean absolute weight, beside the mean loss in nats a token.
    seed : int
    max_length : int
        As in :func:`assl_kit.model.likelihood.answer_nll`.

    Returns
    -------
    ndarray of shape (k,), float64
        In [−1.5, 1.5]; :func:`assl_kit.experts.merging.merged` takes them.

    Raises
    ------
    DataError
        If there is no example, or not as many answers as questions.
    ParameterError
        As `merged`, or a number is out of range.

    Notes
    -----
    After LoraHub (arXiv 2307.13269): few examples, loss plus a penalty on weights, bounds of 1.5, no gradients, some
    forty trials. Ours: an evolution strategy of one parent and one child in place of nevergrad, and the exact merge
    Σ wᵢ BᵢAᵢ in place of the product of summed factors.
    """
    from assl_kit.model.likelihood import answer_nll

    if not len(questions) or len(questions) != len(answers):
        raise DataError(f"there are {len(questions)} questions and {len(answers)} answers; give as many, at least one")
    penalty = real("penalty", penalty, 0)

    def loss(weights: np.ndarray) -> float:
        with merged(peft_model, names, weights.tolist()) as _:
            nll = answer_nll(peft_model, tokenizer, questions, answers, max_length=max_length)
        return float(nll.mean() + penalty * np.abs(weights).mean())

    return evolve(loss, np.full(len(names), 1 / len(names)), n_trials=n_trials, seed=seed)


def evolve(
    loss: Callable[[np.ndarray], float], start: np.ndarray, *, n_trials: int = 40, seed: int = 0, step: float = 0.3
) -> np.ndarray:
    """The best point that an evolution strategy of one parent and one child meets.

    Parameters
    ----------
    loss : callable
        Of an ndarray like ``start``.
    start : ndarray of shape (k,)
    n_trials : int
        Times that ``loss`` is asked, the start counted.
    seed : int
    step : float
        The first standard deviation; it grows where a child is better and shrinks else (a fifth rule).

    Returns
    -------
    ndarray of shape (k,), float64
        In [−1.5, 1.5]; never worse than ``start``.

    Examples
    --------
    >>> best = evolve(lambda w: float(((w - [1, -1]) ** 2).sum()), np.zeros(2), n_trials=200)
    >>> best.round(1).tolist()
    [1.0, -1.0]
    """
    n_trials, rng = whole("n_trials", n_trials, 1), np.random.default_rng(seed)
    parent = np.clip(np.asarray(start, dtype=np.float64), -MOST, MOST)
    least = loss(parent)
    for _ in range(n_trials - 1):
        child = np.clip(parent + step * rng.normal(size=len(parent)), -MOST, MOST)
        value = loss(child)
        better = value < least
        if better:
            parent, least = child, value
        step *= 1.5 if better else 1.5**-0.25
    return parent
