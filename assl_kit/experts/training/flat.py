"""Records of a pass end to end in one row, which a flash attention keeps apart without a mask; and their loss."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from assl_kit.model.identity import unwrap
from assl_kit.model.tokens import decoder, logits

from .data import Encoded, Plan

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ATTENTION = "assl_flat"  # the name of `attend` in transformers
WIDTHS = 6  # different lengths of rows: each costs a device the search for its kernels, more of them pad less
NEAR = 9 / 8  # a length that is so near to the next is not worth its own kernels: packed rows have one
NO_MASK = torch.ones(1, 1, 1, 1, dtype=torch.bool)  # transformers makes none where it is given one of this form
STEP = 64  # lengths are multiples of this many tokens


@functools.cache
def _flash() -> Callable[..., Any] | None:
    """Torch's flash attention for records end to end, or None where this torch has none that knows windows (2.11)."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    return varlen_attn if {"window_size", "scale"} <= inspect.signature(varlen_attn).parameters.keys() else None


def supported(model: PreTrainedModel) -> bool:
    """Whether a base can be trained on flat rows: on a card with a flash attention, in half precision, without caps."""
    base = unwrap(model)
    config = base.config.get_text_config()
    heads = config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    return (
        base.device.type == "cuda"
        and base.dtype in (torch.bfloat16, torch.float16)
        and torch.cuda.get_device_capability(base.device) >= (8, 0)
        and _flash() is not None
        and getattr(base, "_supports_attention_backend", False)
        and width % 8 == 0
        and width <= 256
        and not getattr(config, "attn_logit_softcapping", None)
    )


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    scaling: float | None = None,
    sliding_window: int | None = None,
    cu_seq_lens_q: torch.Tensor | None = None,
    max_length_q: int = 0,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention in the form that transformers calls: (1, heads, tokens, width) each, with the records' bounds.

    Without bounds (a callback that generates) it is transformers' usual one. On a CPU the bounds become a mask: that is
    slow there, and what the tests compare with.
    """
    if cu_seq_lens_q is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = (states.repeat_interleave(groups, dim=1) for states in (key, value))
    flash = _flash()
    if flash is None or not query.is_cuda:
        seen = _visible(query.shape[2], cu_seq_lens_q, sliding_window)
        out = torch.nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=seen, scale=scaling)
        return out.transpose(1, 2).contiguous(), None
    before = -1 if sliding_window is None or sliding_window >= max_length_q else sliding_window - 1
    rows = (states[0].transpose(0, 1) for states in (query, key, value))
    bounds = (cu_seq_lens_q, cu_seq_lens_q, max_length_q, max_length_q)
    return flash(*rows, *bounds, scale=scaling, window_size=(before, 0))[None], None


def _visible(n: int, bounds: torch.Tensor, window: int | None) -> torch.Tensor:
    """Which of n tokens each of them sees: those of its record up to itself, within the window."""
    place = torch.arange(n, device=bounds.device)
    record = torch.bucketize(place, bounds[1:], right=True)
    apart = place[:, None] - place
    seen = (record[:, None] == record) & (apart >= 0)
    return seen if window is None else seen & (apart < window)


AttentionInterface.register(ATTENTION, attend)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)


@contextmanager
def attention(model: PreTrainedModel) -> Iterator[None]:
    """Let a base attend by `attend`, and as before afterwards."""
    config = unwrap(model).config.get_text_config()
    before = config._attn_implementation
    config._attn_implementation = ATTENTION
    try:
        yield
    finally:
        config._attn_implementation = before


@dataclass(frozen=True)
class Flat:
    """Makes a pass of examples: tokens, positions, bounds, and where answer tokens are foretold.

    Attributes
    ----------
    pad : int
        The token that fills a row up; it stands in records of its own.
    widths : tuple of int
        Lengths of rows; a longer row gets the next multiple of 64.
    longest : int
        Tokens of the longest record.
    records : int
        Bounds are given for at least so many records, the last ones empty, so that their number stays the same.

    Examples
    --------
    >>> flat = Flat(pad=0, widths=(8,), longest=4, records=4)
    >>> batch = flat([{"input_ids": [5, 6, 7], "labels": [-100, -100, 7]}, {"input_ids": [8, 9], "labels": [-100, 9]}])
    >>> batch["input_ids"].tolist(), batch["position_ids"].tolist(), batch["cu_seq_lens_q"].tolist()
    ([[5, 6, 7, 8, 9, 0, 0, 0]], [[0, 1, 2, 0, 1, 0, 1, 2]], [0, 3, 5, 8, 8])
    >>> batch["answer_places"][:3].tolist(), batch["labels"][:3].tolist()
    ([0, 1, 3], [-100, 7, 9])
    """

    pad: int
    widths: tuple[int, ...]
    longest: int
    records: int

    @classmethod
    def of(cls, encoded: Encoded, plan: Plan, batch: int, pad: int) -> Flat:
        """For the passes of a plan, of ``batch`` rows each: the lengths that pad little over all of them."""
        starts = np.arange(0, len(plan.rows), batch)
        tokens = np.add.reduceat(plan.tokens, starts)
        records = np.add.reduceat([len(row) for row in plan.rows], starts)
        quantiles = np.quantile(tokens, np.linspace(0, 1, WIDTHS + 1)[1:], method="higher")
        candidates = sorted({_up(int(n)) for n in quantiles})
        larger = [*candidates[1:], np.inf]
        widths = tuple(n for n, other in zip(candidates, larger, strict=True) if n * NEAR < other)
        longest = max(len(encoded.input_ids[i]) for i in {*plan.held_out, *(i for row in plan.rows for i in row)})
        return cls(pad, widths, longest, int(records.max()) + -(-widths[-1] // longest))

    def __call__(self, examples: Sequence[dict[str, Any]]) -> dict[str, Any]:
        ids = [i for example in examples for i in example["input_ids"]]
        labels = [i for example in examples for i in example["labels"]]
        lengths = [n for example in examples for n in example.get("seq_lengths") or [len(example["input_ids"])]]
        left = next((n for n in self.widths if n >= len(ids)), _up(len(ids))) - len(ids)
        ids += [self.pad] * left
        lengths += [self.longest] * (left // self.longest) + [left % self.longest] * (left % self.longest > 0)
        bounds = np.cumsum([0, *lengths, *[0] * (self.records - len(lengths))])
        answers = np.flatnonzero(np.array(labels) != -100)
        spare = 1, _up(len(answers) + 1) - len(answers) - 1  # the trainer does not count the first label
        targets = np.array(labels)[answers]
        bounds_there = torch.tensor(bounds, dtype=torch.int32)
        return {
            "input_ids": torch.tensor([ids]),
            "position_ids": torch.tensor(np.concatenate([np.arange(n) for n in lengths]))[None],
            "attention_mask": NO_MASK,
            "cu_seq_lens_q": bounds_there,
            "cu_seq_lens_k": bounds_there,
            "max_length_q": self.longest,
            "max_length_k": self.longest,
            "answer_places": torch.tensor(np.pad(answers - 1, spare)),
            "labels": torch.tensor(np.pad(targets, spare, constant_values=-100)),
        }


def _up(n: int) -> int:
    return -(-n // STEP) * STEP


def summed_loss(base: PreTrainedModel, states: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of the tokens that hidden states (m, h) foretell, summed; those labelled −100 do not count."""
    return torch.nn.functional.cross_entropy(logits(base, states), labels, reduction="sum")


def answer_loss(
    model: torch.nn.Module,
    inputs: dict[str, Any],
    n_tokens: torch.Tensor | int | None,
    summed: Callable[..., torch.Tensor] = summed_loss,
) -> torch.Tensor:
    """Cross-entropy over the answer tokens of a batch, summed, divided by ``n_tokens`` (None: by how many they are).

    A flat batch names their places: nothing waits for the device then. ``summed`` may be `summed_loss`, compiled.
    """
    base, labels, places = unwrap(model), inputs.pop("labels"), inputs.pop("answer_places", None)
    states = decoder(base)(**inputs, use_cache=False).last_hidden_state
    if places is None:
        labels = labels[:, 1:]
        wanted = labels != -100
        states, labels = states[:, :-1][wanted], labels[wanted]
    else:
        states = states[0].index_select(0, places)
    return summed(base, states, labels) / ((labels != -100).sum() if n_tokens is None else n_tokens)


def to_device(batch: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """A batch with its tensors on a device."""
    return {name: value.to(device) if torch.is_tensor(value) else value for name, value in batch.items()}
