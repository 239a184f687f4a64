"""TrainingConfig: the settings of an adapter's training, checked."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from assl_kit.common.checks import real, whole
from assl_kit.errors import ParameterError

if TYPE_CHECKING:
    from peft import LoraConfig
    from transformers import PreTrainedModel


_HOW = ("checkpoint_steps", "compiled")  # change an adapter by rounding at most


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
        Records a forward pass, and forward passes a step. With several processes a step keeps its records: they are
        divided among the processes. ``batch_size="auto"``: a step has 8 records by ``gradient_accumulation``; as many
        are computed at a time as fill 85 % of the card's free memory, recomputed only where one record needs it; all of
        them where there is no card.
    max_length : int
        Tokens of prompt and answer. A longer prompt loses tokens on its left; the answer stays whole.
    seed : int
        Fixes initial weights, order and dropout.
    packing : bool
        Rows of up to ``max_length`` tokens that hold several records each, by best fit; ``batch_size`` then counts
        such rows. Records do not see each other: that is tried on the base first, and another attention is refused.
    checkpointing : bool
        Recompute activations in the backward pass: less memory, about a third more time.
    compiled : bool, optional
        On a card with a flash attention: compile the layers, so that norms, rotations and gates are few kernels. That
        takes half a minute first. Default: where the training is long enough to gain from it.
    holdout_share : float
        Share of the different records that are not trained on, in [0, 0.5]. Their loss is measured twice an epoch, and
        the adapter with the lowest is kept. Fewer than 8 of them would tell nothing: then none is held out.
    patience : int
        Training stops when so many measurements in a row bring no lower held-out loss.
    checkpoint_steps : int
        Steps between the checkpoints an interrupted training resumes from (with held-out records: each measurement).
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
    batch_size: int | Literal["auto"] = 8
    gradient_accumulation: int = 1
    max_length: int = 512
    seed: int = 0
    packing: bool = False
    checkpointing: bool = False
    compiled: bool | None = None
    holdout_share: float = 0.0
    patience: int = 2
    checkpoint_steps: int = 200
    max_grad_norm: float = 1.0

    def __post_init__(self) -> None:
        for name in ("rank", "alpha", "epochs", "gradient_accumulation", "max_length", "patience", "checkpoint_steps"):
            whole(name, getattr(self, name), 1)
        if self.batch_size != "auto":
            whole("batch_size", self.batch_size, 1)
        if self.compiled is not None and not isinstance(self.compiled, bool):
            raise ParameterError(f"compiled must be true, false or None, not {self.compiled!r}", where="compiled")
        whole("seed", self.seed)
        for name in ("learning_rate", "max_grad_norm"):
            real(name, getattr(self, name), 0, inside=True)
        real("holdout_share", self.holdout_share, 0, 0.5)
        for name in ("dropout", "warmup_ratio"):
            real(name, getattr(self, name), 0, 1, inside="most")
        for name in ("packing", "checkpointing"):
            if not isinstance(getattr(self, name), bool):
                raise ParameterError(f"{name} must be true or false, not {getattr(self, name)!r}", where=name)

    @property
    def rows(self) -> int:
        """Records of a step; packed rows where records are packed.

        Examples
        --------
        >>> TrainingConfig(batch_size="auto", gradient_accumulation=2).rows
        16
        """
        return (8 if self.batch_size == "auto" else self.batch_size) * self.gradient_accumulation


def settings_of(config: TrainingConfig, model: PreTrainedModel) -> dict[str, Any]:
    """The settings that decide an adapter's bits; of the model, whether its weights have 4 bits."""
    settings = {key: value for key, value in asdict(config).items() if key not in _HOW}
    settings["batch_size"] = config.rows // config.gradient_accumulation
    return settings | {"quantization": quantization_of(model)}


def quantization_of(model: PreTrainedModel) -> str:
    """``"nf4"`` for a base in 4 bits, else ``"none"``."""
    return "nf4" if getattr(model, "is_loaded_in_4bit", False) else "none"


def lora_config(config: TrainingConfig) -> LoraConfig:
    """What PEFT is told of an adapter."""
    from peft import LoraConfig

    return LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        target_modules="all-linear",
        bias="none",
        task_type="CAUSAL_LM",
    )
