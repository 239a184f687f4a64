"""generate_many: answers of many adapters in the same batches."""

from __future__ import annotations

import gc
import math
import os
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from assl_kit.common.checks import positive
from assl_kit.common.device import is_out_of_memory
from assl_kit.data.conversations import Prompt, as_prompts
from assl_kit.errors import DataError, ParameterError
from assl_kit.model.batches import InferenceReport, batch_size_for, fitting_threads
from assl_kit.model.generation import greedy_settings
from assl_kit.model.tokens import evaluating, padded, token_ids
from assl_kit.model.turns import prompt_ids

from .training.stack import AdapterStack, fused_norms

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def generate_many(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    adapters: AdapterStack | Sequence[str | os.PathLike],
    prompts: Sequence[Prompt],
    which: Sequence[int],
    *,
    max_new_tokens: int = 64,
    batch_size: int | None = None,
    max_length: int = 512,
    fused: bool | None = None,
    progress: bool = False,
    report: InferenceReport | None = None,
) -> list[str]:
    """Greedy answers of many adapters, those of one batch computed together; in the order of the prompts.

    Equal to `generate_answers` with each adapter alone, except where rounding decides between
    two tokens of equal probability.

    Parameters
    ----------
    model, tokenizer
        The base alone, and its tokenizer.
    adapters : AdapterStack, or sequence of path-like, length M
        Adapters on this base, or their folders.
    prompts : sequence of str or list of dict, length n
        User texts, or the messages of conversations; put into the chat template.
    which : sequence of int, length n
        The adapter of each prompt, from 0 to M − 1. A batch holds equally many prompts of each adapter that has some
        left, so adapters with as many prompts as the others leave no room unused.
    max_new_tokens, max_length : int
        As in :func:`assl_kit.model.generation.generate_answers`.
    batch_size : int, optional
        Rows of a batch, all adapters together. Default: by device and length. Where memory runs out it is halved.
    fused : bool, optional
        As in :func:`assl_kit.experts.training.many.train_adapters`.
    progress : bool
        Show a progress bar.
    report : InferenceReport, optional
        Gets counts, times and memory.

    Returns
    -------
    list of str, length n

    Raises
    ------
    DataError
        If there are not as many adapter numbers as prompts.
    ParameterError
        If there is no such adapter, one does not fit, a number is not positive, or the memory does not hold one row of
        each.
    """
    import torch
    from tqdm.auto import tqdm

    positive(batch_size=1 if batch_size is None else batch_size, max_length=max_length, max_new_tokens=max_new_tokens)
    prompts, owner = as_prompts(prompts), np.asarray(which, dtype=int).reshape(-1)
    if len(owner) != len(prompts):
        raise DataError(f"there are {len(owner)} adapter numbers but {len(prompts)} prompts")
    stack = adapters if isinstance(adapters, AdapterStack) else AdapterStack.load(model, adapters)
    if len(owner) and not 0 <= owner.min() <= owner.max() < len(stack):
        raise ParameterError(f"adapters are numbered from 0 to {len(stack) - 1}, not {owner.min()} to {owner.max()}")
    limit = getattr(model.config, "max_position_embeddings", None) or math.inf
    if max_new_tokens >= limit:
        raise ParameterError(f"max_new_tokens={max_new_tokens} leaves no room in the base model's {limit} positions")
    if not prompts:
        return []
    room = int(min(max_length, limit - max_new_tokens))
    heads = prompt_ids(tokenizer, prompts, room)
    rows = [head.ids for head in heads]
    lengths = np.array([len(row) for row in rows])
    left = {int(a): np.flatnonzero(owner == a)[np.argsort(-lengths[owner == a], kind="stable")] for a in set(owner)}
    report = report if report is not None else InferenceReport()
    config, answers = greedy_settings(model, tokenizer, max_new_tokens), [""] * len(rows)
    report.records += len(rows)
    report.truncated += sum(head.cut for head in heads)
    report.prompt_tokens += int(lengths.sum())

    def answer(block: np.ndarray, numbers: list[int]) -> None:
        stack.use(numbers)
        chosen = [rows[i] for i in block.reshape(-1)]
        ids = padded(chosen, tokenizer.pad_token_id, left=True).to(model.device)
        mask = padded([[1] * len(row) for row in chosen], 0, left=True).to(model.device)
        out = model.generate(input_ids=ids, attention_mask=mask, generation_config=config)[:, ids.shape[1] :].cpu()
        for i, text in zip(block.reshape(-1), tokenizer.batch_decode(out, skip_special_tokens=True), strict=True):
            answers[i] = text.strip()

    most = batch_size
    kind = model.device.type
    with (
        report.timed(model),
        evaluating(model),
        fitting_threads(model),
        fused_norms(model, kind == "cuda" if fused is None else fused),
        stack.attached(),
        torch.inference_mode(),
        tqdm(total=len(rows), desc="generate", unit="record", disable=not progress) as bar,
    ):
        while left:
            numbers = sorted(left)
            longest = max(lengths[waiting[0]] for waiting in left.values()) + max_new_tokens
            size = max(1, (most or batch_size_for(model, int(longest))) // len(numbers))
            block, taken = _block(left, numbers, size)
            if _fits(answer, block, numbers):
                left = {a: waiting[taken:] for a, waiting in left.items() if len(waiting) > taken}
                report.batch_size = max(report.batch_size, block.size)
                bar.update(len(rows) - sum(map(len, left.values())) - bar.n)
                continue
            if size == 1:
                raise ParameterError(
                    f"out of memory ({kind}) with one row of each of {len(numbers)} adapters",
                    hint="Lower max_length, or answer with fewer adapters at the same time.",
                )
            most = block.size // 2
            report.notes.append(f"generate: out of memory ({kind}) with {block.size} rows; going on with {most}")
            warnings.warn(report.notes[-1], stacklevel=2)
            gc.collect()
            if kind == "cuda":
                torch.cuda.empty_cache()
    report.answer_tokens += sum(map(len, token_ids(tokenizer, answers)))
    return answers


def _block(left: dict[int, np.ndarray], numbers: list[int], size: int) -> tuple[np.ndarray, int]:
    """The next rows of every adapter, of shape (m, b); where one has fewer than b left, its last one again."""
    size = min(size, max(len(waiting) for waiting in left.values()))
    return np.stack([np.pad(left[a][:size], (0, size - len(left[a][:size])), mode="edge") for a in numbers]), size


def _fits(work: Callable[..., None], *arguments: Any) -> bool:
    try:
        work(*arguments)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return False
    return True
