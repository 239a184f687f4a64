"""Which processes train together, and how much of a step is computed at a time."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from peft import get_peft_model
from peft.helpers import disable_input_dtype_casting

from assl_kit.common.device import is_out_of_memory, sharded
from assl_kit.errors import ParameterError

from .config import TrainingConfig, lora_config, quantization_of
from .flat import Flat, answer_loss, attention, to_device
from .session import Training

if TYPE_CHECKING:
    from transformers import PreTrainedModel

SHARE = 0.85
"""Of the card's free memory: the rest is for the optimiser, and for what a longer row or a fragment needs (ours)."""


def place_of(model: PreTrainedModel) -> str:
    """The kind of device that a base is trained on: its own, or the cards that it will be divided among."""
    return "cuda" if sharded() and torch.cuda.is_available() else model.device.type


@dataclass(frozen=True)
class Processes:
    """This process among those of ``accelerate launch``; ``wait`` returns when all have come there."""

    rank: int
    count: int
    wait: Callable[[], None]


def processes(model: PreTrainedModel) -> Processes:
    """The processes of this launch, which train this base; one where nothing was launched."""
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        return Processes(0, 1, lambda: None)
    from accelerate import PartialState

    state = PartialState(cpu=place_of(model) == "cpu")
    return Processes(state.process_index, state.num_processes, state.wait_for_everyone)


def check_sharding(training: Training) -> None:
    """Refuse what a base that is divided among processes cannot do.

    Raises
    ------
    ParameterError
        If FSDP has not version 2, the base has been divided already or has 4 bits, or records are to be held out.
    """
    if os.environ.get("FSDP_VERSION", "1") != "2":
        hint = "Launch with --fsdp_version 2 --fsdp_auto_wrap_policy TRANSFORMER_BASED_WRAP."
        raise ParameterError("FSDP of version 1 does not take frozen and trained weights together", hint=hint)
    if any(hasattr(weights, "full_tensor") for weights in training.model.parameters()):
        raise ParameterError("the base is divided among processes already", hint="Load it again for each adapter.")
    if quantization_of(training.model) != "none":
        raise ParameterError("a base in 4 bits is not divided among processes", hint="Take quantization=none.")
    if training.plan.held_out:
        hint = "Take holdout_share=0."
        raise ParameterError("a base that is divided among processes is trained without held-out records", hint=hint)


@dataclass(frozen=True)
class Fit:
    """How the rows of one step are computed: ``batch`` at a time on each device, ``passes`` times.

    ``flat``: end to end in one row. ``compiled``: by compiled layers. None of it changes which rows a step has, so
    results differ by rounding only.
    """

    batch: int
    passes: int
    checkpointing: bool
    flat: bool = field(default=False, repr=False)
    compiled: bool = field(default=False, repr=False)

    @classmethod
    def of(cls, config: TrainingConfig, devices: int) -> Fit:
        """As asked for; several devices take shares of a step's rows, in fewer passes where there are several.

        Examples
        --------
        >>> Fit.of(TrainingConfig(batch_size=8, gradient_accumulation=2), 4)
        Fit(batch=4, passes=1, checkpointing=False)
        """
        rows = config.rows
        if rows % devices:
            raise ParameterError(
                f"the {rows} records of a step cannot be shared by {devices} processes",
                where="batch_size",
                hint=f"Take a multiple of {devices}, or another number of processes.",
            )
        most = rows if config.batch_size == "auto" else config.batch_size
        return cls(0, rows // devices, config.checkpointing)._with(most)

    def _with(self, most: int) -> Fit:
        rows = self.passes * max(self.batch, 1)
        batch = max(n for n in range(1, min(most, rows) + 1) if rows % n == 0)
        return replace(self, batch=batch, passes=rows // batch)

    def smaller(self) -> Fit | None:
        """With half the memory: half the batch, then checkpointing; None when nothing is left to try.

        Examples
        --------
        >>> Fit(8, 1, False).smaller()
        Fit(batch=4, passes=2, checkpointing=False)
        >>> Fit(1, 8, True).smaller() is None
        True
        """
        if self.batch > 1:
            return self._with(self.batch // 2)
        return None if self.checkpointing else replace(self, checkpointing=True)

    def candidates(self) -> Iterator[Fit]:
        """From all rows of a step at a time down to one, then the same with activations recomputed.

        Examples
        --------
        >>> [(fit.batch, fit.checkpointing) for fit in Fit(2, 1, False).candidates()]
        [(2, False), (1, False), (2, True), (1, True)]
        """
        for fit in dict.fromkeys((self, replace(self, checkpointing=True))):
            yield fit
            while fit.batch > 1:
                fit = fit._with(fit.batch // 2)
                yield fit

    def __str__(self) -> str:
        return f"{self.batch} at a time" + (", activations recomputed" if self.checkpointing else "")


def filling(training: Training, fit: Fit) -> Fit:
    """The most of a step at a time whose dearest pass, forward and backward, takes at most `SHARE` of the free memory.

    Parameters
    ----------
    training : Training
        On a card.
    fit : Fit
        With all rows of a step at a time.

    Returns
    -------
    Fit
        One row at a time, recomputed, where nothing fits: the training itself says what is wrong then.
    """
    model, config = training.model, training.config
    checkpointing = model.is_gradient_checkpointing
    peft_model = get_peft_model(model, lora_config(config)).train()
    one = fit
    try:
        for one in fit.candidates():
            if one.checkpointing:
                model.enable_input_require_grads()
                model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
            if _fits(peft_model, _dearest(training, one), one.flat):
                break
    finally:
        if one.checkpointing and not checkpointing:
            model.gradient_checkpointing_disable()
            model.disable_input_require_grads()
        peft_model.unload()
        _free(model.device)
    return one


def on_card(model: PreTrainedModel) -> bool:
    """Whether a base stands on a card whose memory can be asked for."""
    return model.device.type == "cuda"


def _dearest(training: Training, fit: Fit) -> dict[str, Any]:
    """The pass of the most tokens."""
    encoded, plan = training.encoded, training.plan
    starts = np.arange(0, len(plan.rows), fit.batch)
    start = int(starts[np.add.reduceat(plan.tokens, starts).argmax()])
    examples = [
        {
            "input_ids": [i for row in rows for i in encoded.input_ids[row]],
            "labels": [i for row in rows for i in encoded.labels[row]],
            "seq_lengths": [len(encoded.input_ids[row]) for row in rows],
        }
        for rows in plan.rows[start : start + fit.batch]
    ]
    pad = training.tokenizer.pad_token_id
    if fit.flat:
        return Flat.of(encoded, plan, fit.batch, pad)(examples)
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

    return DataCollatorForLanguageModeling(pad, padding_free=training.config.packing)(examples)


def _fits(peft_model: Any, batch: dict[str, Any], flat: bool) -> bool:
    """Whether a pass goes through, and within the share."""
    device, dtype = peft_model.device, peft_model.dtype
    _free(device)
    free, half = _free_bytes(device), torch.autocast(device.type, dtype, enabled=dtype != torch.float32)
    try:
        attending = attention(peft_model) if flat else nullcontext()
        with disable_input_dtype_casting(peft_model), attending, half:
            answer_loss(peft_model, to_device(batch, device), 1).backward()
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        return False
    finally:
        peft_model.zero_grad()
    return _most_bytes(device) <= SHARE * free


def _free(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def _free_bytes(device: torch.device) -> int:
    """What is free, and what torch holds already."""
    return torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)


def _most_bytes(device: torch.device) -> int:
    return torch.cuda.max_memory_allocated(device)
