"""The layers of a base compiled while it is trained: norms, rotations, gates and additions become few kernels."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from assl_kit.model.identity import unwrap
from assl_kit.model.tokens import decoder

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from .data import Plan

WORTH = 5e16
"""Operations of a training from which compiling pays: it takes half a minute, and saves a fourth (ours, on an H100)."""


def worth_it(model: PreTrainedModel, plan: Plan) -> bool:
    """Whether a training on a card is long enough for its layers to be compiled first."""
    weights = sum(weights.numel() for weights in decoder(unwrap(model)).layers.parameters())
    return 4.0 * weights * float(plan.tokens.sum()) >= WORTH


@contextmanager
def fused(model: PreTrainedModel, on: bool) -> Iterator[None]:
    """Compile the layers of a decoder, all by one graph as far as they are alike; afterwards they are as before.

    Parameters
    ----------
    model : transformers.PreTrainedModel, or a PEFT model
    on : bool
        False: nothing is done.
    """
    if not on:
        yield
        return
    import torch

    layers = list(decoder(unwrap(model)).layers)
    before = [vars(layer).get("forward") for layer in layers]
    try:
        for layer in layers:
            layer.forward = torch.compile(layer.forward)
        yield
    finally:
        for layer, forward in zip(layers, before, strict=True):
            vars(layer).pop("forward", None)
            if forward is not None:
                layer.forward = forward
