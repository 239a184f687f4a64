"""The base language model: score answers under it, generate with it."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from .base_identity import TINY_BASE, base_info, unwrap
from .base_loading import load_base
from .device import fitting_threads
from .errors import DataError, ParameterError

__all__ = ["BASE_ADAPTER", "TINY_BASE", "answer_nll", "base_info", "chat_prompt", "generate_answers", "load_base"]

BASE_ADAPTER = "__base__"


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
    batch_size: int = 32,
    max_length: int = 512,
    progress: bool = False,
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
    batch_size : int
        Records a forward pass. It changes results by rounding only (about 1e-6 in float32).
    max_length : int
        Tokens of prompt and answer together. A longer prompt loses tokens on its left; the answer is kept whole.
    progress : bool
        Show a progress bar.

    Returns
    -------
    ndarray of shape (n,), float64
        Nats per token, ≥ 0.

    Raises
    ------
    DataError
        If there are not as many prompts as answers, an answer does not fit into the model, or a loss is not finite.
    ParameterError
        If ``batch_size`` or ``max_length`` is not positive.
    """
    import torch

    _positive(batch_size=batch_size, max_length=max_length)
    answers = _texts(answers, "answers")
    prompts = [""] * len(answers) if prompts is None else _texts(prompts, "prompts")
    if len(prompts) != len(answers):
        raise DataError(f"there are {len(prompts)} prompts but {len(answers)} answers")
    if not answers:
        return np.zeros(0)
    base = unwrap(model)
    limit = getattr(base.config, "max_position_embeddings", None) or math.inf
    heads = _ids(tokenizer, [chat_prompt(tokenizer, prompt) for prompt in prompts])
    tails = [ids + [tokenizer.eos_token_id] for ids in _ids(tokenizer, answers)]
    rows = []
    for row, (head, tail) in enumerate(zip(heads, tails, strict=True)):
        room = max(1, int(min(max_length, limit)) - len(tail))
        if len(tail) + 1 > limit:
            raise DataError(
                f"an answer of {len(tail)} tokens does not fit into the base model's {limit}",
                where=f"row {row}",
                hint="Shorten the answer or leave the record out.",
            )
        rows.append((head[-room:], tail))
    pad, losses = tokenizer.pad_token_id, np.zeros(len(rows))
    with _evaluating(model), fitting_threads(model), torch.inference_mode():
        for batch in _batches([len(head) + len(tail) for head, tail in rows], batch_size, progress, "answer loss"):
            width = max(len(rows[i][0]) + len(rows[i][1]) for i in batch)
            ids = torch.full((len(batch), width), pad, dtype=torch.long)
            for place, i in enumerate(batch):
                head, tail = rows[i]
                ids[place, : len(head) + len(tail)] = torch.tensor(head + tail)
            # Padded on the right, a causal model needs no mask: no token sees what comes after it.
            hidden = decoder(base)(input_ids=ids.to(base.device), use_cache=False).last_hidden_state
            for place, i in enumerate(batch):
                head, tail = rows[i]
                states = hidden[place, len(head) - 1 : len(head) + len(tail) - 1]
                target = torch.tensor(tail, device=states.device)
                losses[i] = torch.nn.functional.cross_entropy(logits(base, states), target).item()
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
    batch_size: int = 32,
    max_length: int = 512,
    adapter_names: Sequence[str] | None = None,
    progress: bool = False,
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
    batch_size : int
    max_length : int
        Tokens of the prompt; a longer one loses tokens on its left.
    adapter_names : sequence of str, length n, optional
        The PEFT adapter that answers each prompt, ``"__base__"`` for none: a mixed batch. Default: what is active.
    progress : bool
        Show a progress bar.

    Returns
    -------
    list of str, length n
        Without special tokens and outer white space.

    Raises
    ------
    DataError
        If there are not as many adapter names as prompts.
    ParameterError
        If an adapter is not loaded, or a number is not positive.
    """
    import torch
    from transformers import GenerationConfig

    _positive(batch_size=batch_size, max_length=max_length, max_new_tokens=max_new_tokens)
    prompts = _texts(prompts, "prompts")
    if adapter_names is not None:
        adapter_names = _adapters(model, adapter_names, len(prompts))
    if not prompts:
        return []
    base = unwrap(model)
    limit = getattr(base.config, "max_position_embeddings", None) or math.inf
    if max_new_tokens >= limit:
        raise ParameterError(f"max_new_tokens={max_new_tokens} leaves no room in the base model's {limit} positions")
    room = int(min(max_length, limit - max_new_tokens))
    rows = [ids[-room:] for ids in _ids(tokenizer, [chat_prompt(tokenizer, prompt) for prompt in prompts])]
    own = base.generation_config.eos_token_id
    ends = {tokenizer.eos_token_id, *(own if isinstance(own, list) else [own])} - {None}
    # Every sampling field is given, else generate() would fill it from the model's own file (repetition penalties).
    greedy = GenerationConfig(
        max_new_tokens=max_new_tokens, min_length=0, do_sample=False, num_beams=1, use_cache=True,
        pad_token_id=tokenizer.pad_token_id, eos_token_id=sorted(ends), temperature=1.0, top_k=50, top_p=1.0,
        repetition_penalty=1.0, length_penalty=1.0, no_repeat_ngram_size=0,
    )  # fmt: skip
    answers = [""] * len(rows)
    with _evaluating(model), _without_left_hooks(model), fitting_threads(model), torch.inference_mode():
        for batch in _batches([len(row) for row in rows], batch_size, progress, "generate"):
            width = max(len(rows[i]) for i in batch)
            ids = torch.full((len(batch), width), tokenizer.pad_token_id, dtype=torch.long)
            mask = torch.zeros_like(ids)
            for place, i in enumerate(batch):
                ids[place, width - len(rows[i]) :] = torch.tensor(rows[i])
                mask[place, width - len(rows[i]) :] = 1
            extra = {} if adapter_names is None else {"adapter_names": [adapter_names[i] for i in batch]}
            out = model.generate(
                input_ids=ids.to(base.device), attention_mask=mask.to(base.device), generation_config=greedy, **extra
            )
            texts = tokenizer.batch_decode(out[:, width:], skip_special_tokens=True)
            for i, text in zip(batch, texts, strict=True):
                answers[i] = text.strip()
    return answers


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


def _batches(lengths: Sequence[int], batch_size: int, progress: bool, title: str) -> Iterator[list[int]]:
    """Row numbers in batches of similar length, longest first so that a lack of memory shows at once."""
    from tqdm.auto import tqdm

    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    with tqdm(total=len(order), desc=title, unit="record", disable=not progress) as bar:
        for start in range(0, len(order), batch_size):
            batch = order[start : start + batch_size]
            yield batch
            bar.update(len(batch))


def _ids(tokenizer, texts: list[str]) -> list[list[int]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return tokenizer(texts, add_special_tokens=False, padding=False, truncation=False, verbose=False)["input_ids"]


def _texts(texts: Sequence[str], name: str) -> list[str]:
    texts = list(texts)
    for row, text in enumerate(texts):
        if not isinstance(text, str):
            raise DataError(f"{name} must be strings, not {type(text).__name__}", where=f"row {row}")
    return texts


def _positive(**numbers: int) -> None:
    for name, value in numbers.items():
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
            raise ParameterError(f"{name} must be a whole number of at least 1, not {value!r}")
