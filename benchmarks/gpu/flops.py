"""How many operations a token of LoRA training needs, so that tokens a second become a share of a card."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def linear_weights(config: Any) -> int:
    """Weights of a decoder's linear layers, which are those that get adapters: all but the output embedding."""
    return config.num_hidden_layers * sum(n_in * n_out for n_in, n_out in _layers(config))


def lora_weights(config: Any, rank: int) -> int:
    """Weights of an adapter of this rank on all of these layers."""
    return config.num_hidden_layers * sum(rank * (n_in + n_out) for n_in, n_out in _layers(config))


def _layers(config: Any) -> list[tuple[int, int]]:
    width, heads = config.hidden_size, config.num_attention_heads
    each = getattr(config, "head_dim", None) or width // heads
    keys = (getattr(config, "num_key_value_heads", None) or heads) * each
    between = config.intermediate_size
    shapes = [(width, heads * each), (width, keys), (width, keys), (heads * each, width)]
    return [*shapes, (width, between), (width, between), (between, width)]


def flops_a_token(config: Any, rank: int, lengths: Sequence[int], answer_share: float) -> float:
    """Operations a token that the result needs, whatever is computed: none recomputed, no padding.

    Parameters
    ----------
    config : transformers.PreTrainedConfig
        Of a decoder with gated feed-forward layers (Qwen, Llama, Gemma).
    rank : int
        Of the adapter.
    lengths : sequence of int
        Tokens of the records: each attends to those before it in its record.
    answer_share : float
        Share of the tokens that have a loss; only they need the output embedding.

    Notes
    -----
    A frozen weight counts 4 (2 forward, 2 for the gradient that passes through it), one of the adapter 6, one of the
    output embedding 4 for each answer token, attention 3 times its forward pass.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> shape = dict(hidden_size=4096, num_hidden_layers=32, num_attention_heads=32, intermediate_size=11008)
    >>> qwen = SimpleNamespace(**shape, vocab_size=151936)
    >>> f"{flops_a_token(qwen, 16, [425], 0.5):.3g}"
    '2.76e+10'
    """
    heads = config.num_attention_heads
    width = (getattr(config, "head_dim", None) or config.hidden_size // heads) * heads
    attended = sum(n * (n + 1) / 2 for n in lengths) / sum(lengths)
    attention = 3 * 4 * config.num_hidden_layers * width * attended
    head = 4 * config.hidden_size * config.vocab_size * answer_share
    return 4 * linear_weights(config) + 6 * lora_weights(config, rank) + head + attention
