"""What all that asks a base model shares: its chat template, rows of tokens, hidden states and logits."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from assl_kit.errors import ParameterError


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


def padded(rows: list[list[int]], pad: int, *, left: bool):
    """Rows of tokens as one tensor of shape (b, longest), padded on one side."""
    import torch

    width = max(map(len, rows))
    ids = torch.full((len(rows), width), pad, dtype=torch.long)
    for place, row in enumerate(rows):
        ids[place, width - len(row) if left else 0 : width if left else len(row)] = torch.tensor(row)
    return ids


@contextmanager
def without_left_hooks(model) -> Iterator[None]:
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
def evaluating(model) -> Iterator[None]:
    """Put a model into eval mode, and back afterwards if it was training."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        if training:
            model.train()


def token_ids(tokenizer, texts: list[str]) -> list[list[int]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return tokenizer(texts, add_special_tokens=False, padding=False, truncation=False, verbose=False)["input_ids"]
