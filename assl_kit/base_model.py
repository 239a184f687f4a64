"""The base language model: score answers under it, generate with it."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from assl_kit.common.checks import as_texts
from assl_kit.common.device import fitting_threads

from .base_identity import TINY_BASE, base_info, unwrap
from .base_loading import load_base
from .errors import DataError, ParameterError
from .inference import InferenceReport, cut_left, in_batches

__all__ = [
    "BASE_ADAPTER",
    "TINY_BASE",
    "InferenceReport",
    "answer_nll",
    "base_info",
    "chat_prompt",
    "generate_answers",
    "load_base",
]

BASE_ADAPTER = "__base__"
_LOGITS = 1 << 24
"""Logits held at once: of a vocabulary of 262,144, those of 64 positions."""


def chat_prompt(tokenizer, prompt: str) -> str:
    """The prompt as one user turn in the tokenizer's chat template, with the header of the answer added.

    Parameters
    ----------
    tokenizer
        A tokenizer with a chat template.
    prompt : str
        The user's text.

    Returns
    -------
    str
    """
    return tokenizer.apply_chat_template(
        [{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True
    )


def answer_nll(
    model,
    tokenizer,
    prompts: Sequence[str] | None,
    answers: Sequence[str],
    *,
    batch_size: int | None = None,
    max_length: int = 512,
    progress: bool = False,
    report: InferenceReport | None = None,
) -> np.ndarray:
    """Mean negative log-likelihood of each answer given its prompt.

    Logits are computed at the answer's positions only, and turned into log-probabilities in float32. The token that
    ends the answer counts as part of it, as in training, so an empty answer has a loss too.

    Parameters
    ----------
    model, tokenizer
        A causal language model, with or without (active) PEFT adapters, and its tokenizer.
    prompts : sequence of str, length n, or None
        User texts, put into the chat template. None gives the unconditioned loss: the user's turn is empty (ours).
    answers : sequence of str, length n
    batch_size : int, optional
        Records a forward pass. It changes results by rounding only (about 1e-6 in float32). Default: by device and
        length (`batch_size_for`). Where memory runs out, batches are halved, with a warning.
    max_length : int
        Tokens of prompt and answer together. A longer prompt loses tokens on its left; the answer is kept whole.
    progress : bool
        Show a progress bar.
    report : InferenceReport, optional
        Gets counts (prompts that were cut among them), times and memory.

    Returns
    -------
    ndarray of shape (n,), float64
        Nats per token, ≥ 0.

    Raises
    ------
    DataError
        If there are not as many prompts as answers, an answer does not fit into the model, or a loss is not finite.
    ParameterError
        If ``batch_size`` or ``max_length`` is not positive, or not even one record fits into memory.
    """
    import torch

    _positive(batch_size=1 if batch_size is None else batch_size, max_length=max_length)
    answers = as_texts(answers, "answers")
    prompts = [""] * len(answers) if prompts is None else as_texts(prompts, "prompts")
    if len(prompts) != len(answers):
        raise DataError(f"there are {len(prompts)} prompts but {len(answers)} answers")
    if not answers:
        return np.zeros(0)
    base = unwrap(model)
    limit = getattr(base.config, "max_position_embeddings", None) or math.inf
    heads = _ids(tokenizer, [chat_prompt(tokenizer, prompt) for prompt in prompts])
    tails = [ids + [tokenizer.eos_token_id] for ids in _ids(tokenizer, answers)]
    report, rows = report if report is not None else InferenceReport(), []
    for row, (head, tail) in enumerate(zip(heads, tails, strict=True)):
        room = max(1, int(min(max_length, limit)) - len(tail))
        if len(tail) + 1 > limit:
            raise DataError(
                f"an answer of {len(tail)} tokens does not fit into the base model's {limit}",
                where=f"row {row}",
                hint="Shorten the answer or leave the record out.",
            )
        report.truncated += len(head) > room
        rows.append((cut_left(head, room, tokenizer), tail))
    losses = np.zeros(len(rows))

    def score(batch: list[int]) -> None:
        ids = _padded([rows[i][0] + rows[i][1] for i in batch], tokenizer.pad_token_id, left=False)
        # Padded on the right, a causal model needs no mask: no token sees what comes after it.
        hidden = decoder(base)(input_ids=ids.to(base.device), use_cache=False).last_hidden_state
        spans = [slice(len(head) - 1, len(head) + len(tail) - 1) for head, tail in (rows[i] for i in batch)]
        states = torch.cat([hidden[place, span] for place, span in enumerate(spans)])
        target = torch.tensor([token for i in batch for token in rows[i][1]], device=states.device)
        parts = max(1, _LOGITS // base.config.get_text_config().vocab_size)
        nll = torch.cat(
            [
                torch.nn.functional.cross_entropy(logits(base, some), wanted, reduction="none")
                for some, wanted in zip(states.split(parts), target.split(parts), strict=True)
            ]
        )
        ends = np.cumsum([len(rows[i][1]) for i in batch])
        losses[batch] = [part.mean() for part in np.split(nll.double().cpu().numpy(), ends[:-1])]

    report.records += len(rows)
    report.prompt_tokens += sum(len(head) for head, _ in rows)
    report.answer_tokens += sum(len(tail) for _, tail in rows)
    lengths = [len(head) + len(tail) for head, tail in rows]
    with report.timed(model), _evaluating(model), fitting_threads(model), torch.inference_mode():
        in_batches(score, model, lengths, batch_size, title="answer loss", report=report, progress=progress)
    if not np.isfinite(losses).all():
        row = int(np.flatnonzero(~np.isfinite(losses))[0])
        raise DataError(
            "the loss of an answer is not finite", where=f"row {row}", hint="Try dtype='float32' for the base model."
        )
    return losses


def decoder(base):
    """The transformer of a causal language model, without its output embedding."""
    return base.get_decoder() if hasattr(base, "get_decoder") else base.base_model


def logits(base, states):
    """Float32 logits of hidden states (m, h); soft-capped where the architecture does so (Gemma 2)."""
    import torch

    values = base.get_output_embeddings()(states).float()
    text_config = base.config.get_text_config()
    for name in ("logit_scale", "logits_scaling"):
        if getattr(text_config, name, 1.0) not in (None, 1.0):
            raise ParameterError(f"base models with {name} (here {type(base).__name__}) cannot be scored")
    cap = getattr(text_config, "final_logit_softcapping", None)
    return cap * torch.tanh(values / cap) if cap else values


def generate_answers(
    model,
    tokenizer,
    prompts: Sequence[str],
    *,
    max_new_tokens: int = 64,
    batch_size: int | None = None,
    max_length: int = 512,
    adapter_names: Sequence[str] | None = None,
    progress: bool = False,
    report: InferenceReport | None = None,
) -> list[str]:
    """Greedy answers, in the order of the prompts.

    Batches hold prompts of similar length, padded on the left. Neither order nor batch size changes an answer, except
    where rounding (about 1e-6 in float32, more in half precision) decides between two tokens of equal probability.

    Parameters
    ----------
    model, tokenizer
        A causal language model, with or without PEFT adapters, and its tokenizer.
    prompts : sequence of str, length n
        User texts, put into the chat template.
    max_new_tokens : int
        An answer ends at the end token or after this many tokens.
    batch_size : int, optional
        Default, and what happens where memory runs out: as in :func:`answer_nll`.
    max_length : int
        Tokens of the prompt; a longer one loses tokens on its left.
    adapter_names : sequence of str, length n, optional
        The PEFT adapter that answers each prompt, ``"__base__"`` for none: a mixed batch. Default: what is active.
    progress : bool
        Show a progress bar.
    report : InferenceReport, optional
        Gets counts (prompts that were cut among them), times and memory.

    Returns
    -------
    list of str, length n
        Without special tokens and outer white space.

    Raises
    ------
    DataError
        If there are not as many adapter names as prompts.
    ParameterError
        If an adapter is not loaded, a number is not positive, or not even one record fits into memory.
    """
    import torch

    _positive(batch_size=1 if batch_size is None else batch_size, max_length=max_length, max_new_tokens=max_new_tokens)
    prompts = as_texts(prompts, "prompts")
    if adapter_names is not None:
        adapter_names = _adapters(model, adapter_names, len(prompts))
    if not prompts:
        return []
    base = unwrap(model)
    limit = getattr(base.config, "max_position_embeddings", None) or math.inf
    if max_new_tokens >= limit:
        raise ParameterError(f"max_new_tokens={max_new_tokens} leaves no room in the base model's {limit} positions")
    room = int(min(max_length, limit - max_new_tokens))
    report = report if report is not None else InferenceReport()
    heads = _ids(tokenizer, [chat_prompt(tokenizer, text) for text in prompts])
    rows = [cut_left(head, room, tokenizer) for head in heads]
    config = _greedy(base, tokenizer, max_new_tokens)
    answers = [""] * len(rows)

    def answer(batch: list[int]) -> None:
        chosen = [rows[i] for i in batch]
        ids = _padded(chosen, tokenizer.pad_token_id, left=True).to(base.device)
        mask = _padded([[1] * len(row) for row in chosen], 0, left=True).to(base.device)
        extra = {} if adapter_names is None else {"adapter_names": [adapter_names[i] for i in batch]}
        with _without_left_hooks(model):
            out = model.generate(input_ids=ids, attention_mask=mask, generation_config=config, **extra)
        new = out[:, ids.shape[1] :]
        report.answer_tokens += int((new != tokenizer.pad_token_id).sum())
        for i, text in zip(batch, tokenizer.batch_decode(new, skip_special_tokens=True), strict=True):
            answers[i] = text.strip()

    report.records += len(rows)
    report.truncated += sum(len(head) > room for head in heads)
    report.prompt_tokens += sum(map(len, rows))
    lengths = [len(row) + max_new_tokens for row in rows]
    with report.timed(model), _evaluating(model), fitting_threads(model), torch.inference_mode():
        in_batches(answer, model, lengths, batch_size, title="generate", report=report, progress=progress)
    return answers


def _greedy(base, tokenizer, max_new_tokens: int):
    """Generation settings: greedy, and nothing taken from the model's own file but its end tokens."""
    from transformers import GenerationConfig

    own = base.generation_config.eos_token_id
    ends = {tokenizer.eos_token_id, *(own if isinstance(own, list) else [own])} - {None}
    # Every sampling field is given, else generate() would fill it from the model's own file (repetition penalties).
    return GenerationConfig(
        max_new_tokens=max_new_tokens, min_length=0, do_sample=False, num_beams=1, use_cache=True,
        pad_token_id=tokenizer.pad_token_id, eos_token_id=sorted(ends), temperature=1.0, top_k=50, top_p=1.0,
        repetition_penalty=1.0, length_penalty=1.0, no_repeat_ngram_size=0,
    )  # fmt: skip


def _padded(rows: list[list[int]], pad: int, *, left: bool):
    """Rows of tokens as one tensor of shape (b, longest), padded on one side."""
    import torch

    width = max(map(len, rows))
    ids = torch.full((len(rows), width), pad, dtype=torch.long)
    for place, row in enumerate(rows):
        ids[place, width - len(row) if left else 0 : width if left else len(row)] = torch.tensor(row)
    return ids


def _adapters(model, names: Sequence[str], n: int) -> list[str]:
    """Check adapter names before PEFT sees them: a call that fails there leaves hooks behind (peft#3475)."""
    names = list(names)
    if len(names) != n:
        raise DataError(f"there are {len(names)} adapter names but {n} prompts")
    loaded = set(getattr(model, "peft_config", {}))
    unknown = sorted({str(name) for name in names} - loaded - {BASE_ADAPTER})
    if unknown or not loaded:
        raise ParameterError(
            f"adapters not loaded into this model: {', '.join(unknown) or 'none are'}",
            hint=f"Loaded are: {', '.join(sorted(loaded)) or 'no adapters'}; {BASE_ADAPTER!r} means the base alone.",
        )
    return names


@contextmanager
def _without_left_hooks(model) -> Iterator[None]:
    """Remove the hooks of a mixed batch when it is interrupted (peft#3475), so that later calls are right."""
    before = {module: set(module._forward_pre_hooks) for module in model.modules()}
    try:
        yield
    except BaseException:
        for module, known in before.items():
            for key in set(module._forward_pre_hooks) - known:
                del module._forward_pre_hooks[key]
                module._forward_pre_hooks_with_kwargs.pop(key, None)
        raise


@contextmanager
def _evaluating(model) -> Iterator[None]:
    """Put a model into eval mode, and back afterwards if it was training."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        if training:
            model.train()


def _ids(tokenizer, texts: list[str]) -> list[list[int]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return tokenizer(texts, add_special_tokens=False, padding=False, truncation=False, verbose=False)["input_ids"]


def _positive(**numbers: int) -> None:
    for name, value in numbers.items():
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
            raise ParameterError(f"{name} must be a whole number of at least 1, not {value!r}")
