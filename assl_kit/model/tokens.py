"""What all that asks a base model shares: its chat template, rows of tokens, hidden states and logits."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from assl_kit.common.packages import reason
from assl_kit.data.conversations import Prompt
from assl_kit.errors import DataError, ParameterError

from .identity import unwrap
from .templates import rendered, written_messages

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def chat_prompt(tokenizer: PreTrainedTokenizerBase, prompt: Prompt) -> str:
    """The prompt in the tokenizer's chat template, with the header of the answer added.

    Parameters
    ----------
    tokenizer
        A tokenizer with a chat template.
    prompt : str or list of dict
        The user's text, or the messages of a conversation. Where the template knows no system message, it stands at
        the head of the first user turn.

    Returns
    -------
    str
    """
    return rendered(tokenizer, written_messages(tokenizer, prompt))


def _positions(model: PreTrainedModel | PeftModel) -> float:
    """How many tokens a model sees at once; infinity where its configuration names no bound."""
    return getattr(unwrap(model).config, "max_position_embeddings", None) or math.inf


def room_for(model: PreTrainedModel | PeftModel, max_length: int, max_new_tokens: int = 0) -> int:
    """How many tokens a prompt may have that the model answers.

    Parameters
    ----------
    model
    max_length : int
        Of the prompt.
    max_new_tokens : int
        To be written after it.

    Returns
    -------
    int
        At least 1.

    Raises
    ------
    ParameterError
        If the answer leaves no position for a prompt.
    """
    limit = _positions(model)
    if max_new_tokens >= limit:
        raise ParameterError(f"max_new_tokens={max_new_tokens} leaves no room in the base model's {limit} positions")
    return int(min(max_length, limit - max_new_tokens))


def room_beside(model: PreTrainedModel | PeftModel, max_length: int, answer: list[int], where: str) -> int:
    """How many tokens a prompt may have before an answer that is there already.

    Parameters
    ----------
    model
    max_length : int
        Of prompt and answer together. The answer stays whole, and the prompt keeps at least one token, whatever it is.
    answer : list of int
        Its tokens.
    where : str
        The record, for messages.

    Returns
    -------
    int
        At least 1.

    Raises
    ------
    DataError
        If the model has no positions for the answer and a token before it.
    """
    limit = _positions(model)
    if len(answer) + 1 > limit:
        raise DataError(
            f"an answer of {len(answer)} tokens does not fit into the base model's {limit}",
            where=where,
            hint="Shorten the answer or leave the record out.",
        )
    return max(1, int(min(max_length, limit)) - len(answer))


def end_tokens(base: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """The tokens at which an answer ends: the tokenizer's, and those of the model's own generation settings."""
    of_model = getattr(getattr(base, "generation_config", None), "eos_token_id", None)
    return {tokenizer.eos_token_id, *(of_model if isinstance(of_model, list) else [of_model])} - {None}


def decoder(base: PreTrainedModel) -> torch.nn.Module:
    """The transformer of a causal language model, without its output embedding."""
    return base.get_decoder() if hasattr(base, "get_decoder") else base.base_model


def logits(base: PreTrainedModel, states: torch.Tensor) -> torch.Tensor:
    """Float32 logits of hidden states (m, h); soft-capped where the architecture does so (Gemma 2)."""
    import torch

    values = base.get_output_embeddings()(states).float()
    text_config = base.config.get_text_config()
    for name in ("logit_scale", "logits_scaling"):
        if getattr(text_config, name, 1.0) not in (None, 1.0):
            raise ParameterError(f"base models with {name} (here {type(base).__name__}) cannot be scored")
    cap = getattr(text_config, "final_logit_softcapping", None)
    return cap * torch.tanh(values / cap) if cap else values


def padded(rows: list[list[int]], pad: int, *, left: bool) -> torch.Tensor:
    """Rows of tokens as one tensor of shape (b, longest), padded on one side."""
    import torch

    width = max(map(len, rows))
    ids = torch.full((len(rows), width), pad, dtype=torch.long)
    for place, row in enumerate(rows):
        start = width - len(row) if left else 0
        ids[place, start : start + len(row)] = torch.tensor(row)
    return ids


@contextmanager
def without_left_hooks(model: PreTrainedModel | PeftModel) -> Iterator[None]:
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
def evaluating(model: PreTrainedModel | PeftModel) -> Iterator[None]:
    """Put a model into eval mode, and back afterwards if it was training."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        if training:
            model.train()


def token_ids(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> list[list[int]]:
    """The tokens of each text, all of them and no special ones: templates and callers put those."""
    if not texts:
        return []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return tokenizer(texts, add_special_tokens=False, padding=False, truncation=False, verbose=False)["input_ids"]


def check_tokenizer(tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    """Try a tokenizer from elsewhere: settings of a wrong type are taken, and fail where they are used.

    Raises
    ------
    ParameterError
        It makes no tokens of a text; names the base model.
    """
    try:
        token_ids(tokenizer, ["?"])
    except Exception as error:  # of many kinds
        what = f"the tokenizer of the base model {name!r} cannot be used: {type(error).__name__}: {reason(error)}"
        raise ParameterError(what, hint="Check tokenizer_config.json and tokenizer.json.") from error
