"""TrainingConfig: the settings of an adapter's training, checked."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from .errors import ParameterError


@dataclass(frozen=True)
class TrainingConfig:
    """How an adapter is trained.

    Attributes
    ----------
    rank, alpha : int
        LoRA's r and α, by default the paper's 16 and 32; on all linear layers but the output embedding.
    dropout : float
        LoRA dropout, in [0, 1).
    epochs : int
        Times each record is seen.
    learning_rate : float
        Peak of a cosine schedule with warm-up.
    warmup_ratio : float
        Share of the steps the warm-up takes, in [0, 1).
    batch_size, gradient_accumulation : int
        Records a forward pass, and forward passes a step.
    max_length : int
        Tokens of prompt and answer. A longer prompt loses tokens on its left; the answer stays whole.
    seed : int
        Fixes initial weights, order and dropout.
    packing : bool
        Several records in one row of ``max_length`` tokens (TRL's ``bfd``); meant for GPUs with flash attention.
    checkpointing : bool
        Recompute activations in the backward pass: less memory, about a third more time.
    checkpoint_steps : int
        Steps between the checkpoints an interrupted training resumes from.
    max_grad_norm : float
        Gradients are scaled down to this norm.

    Raises
    ------
    ParameterError
        If a value is of the wrong type or out of range.

    Examples
    --------
    >>> TrainingConfig(epochs=1).alpha
    32
    """

    rank: int = 16
    alpha: int = 32
    dropout: float = 0.0
    epochs: int = 3
    learning_rate: float = 2e-4
    warmup_ratio: float = 0.05
    batch_size: int = 8
    gradient_accumulation: int = 1
    max_length: int = 512
    seed: int = 0
    packing: bool = False
    checkpointing: bool = False
    checkpoint_steps: int = 200
    max_grad_norm: float = 1.0

    def __post_init__(self):
        whole = ("rank", "alpha", "epochs", "batch_size", "gradient_accumulation", "max_length", "checkpoint_steps")
        for name in (*whole, "seed"):
            value, least = getattr(self, name), 0 if name == "seed" else 1
            if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
                raise ParameterError(f"{name} must be a whole number of at least {least}, not {value!r}", where=name)
        for name, low, high in (
            ("dropout", 0, 1),
            ("warmup_ratio", 0, 1),
            ("learning_rate", 0, np.inf),
            ("max_grad_norm", 0, np.inf),
        ):
            value = getattr(self, name)
            number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
            if not number or not low <= value < high or (high == np.inf and value == 0):
                raise ParameterError(f"{name} must be a number from {low} to below {high}, not {value!r}", where=name)
        for name in ("packing", "checkpointing"):
            if not isinstance(getattr(self, name), bool):
                raise ParameterError(f"{name} must be true or false, not {getattr(self, name)!r}", where=name)


def settings_of(config: TrainingConfig) -> dict[str, Any]:
    """The settings that decide an adapter's bits."""
    return {key: value for key, value in asdict(config).items() if key != "checkpoint_steps"}
