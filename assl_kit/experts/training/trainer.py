"""One training by TRL's trainer: order, loss, held-out loss, checkpoints; and what it changes on a base put back."""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from datasets import Dataset
from peft import get_peft_model
from peft.helpers import disable_input_dtype_casting
from transformers import PrinterCallback, TrainerControl, TrainerState, set_seed
from transformers.trainer_utils import get_last_checkpoint
from trl import SFTConfig, SFTTrainer
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from assl_kit.common.device import sharded
from assl_kit.errors import ParameterError
from assl_kit.model.batches import fitting_threads
from assl_kit.model.identity import unwrap
from assl_kit.model.tokens import decoder

from .callbacks import Patience, Steps, tensorboard
from .config import lora_config, quantization_of
from .data import Encoded, Plan
from .fit import Fit, place_of
from .flat import NO_MASK, Flat, answer_loss, attention, summed_loss, to_device
from .fused import fused
from .session import Training

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class Trainer(SFTTrainer):
    """TRL's trainer with our order, logits at the answers only, and the held-out loss per token."""

    control: TrainerControl
    summed: Callable[..., torch.Tensor] = staticmethod(summed_loss)

    def _get_train_sampler(self, *_: Any) -> torch.utils.data.Sampler:
        rows: Any = self.train_dataset
        return torch.utils.data.SequentialSampler(rows)

    def compute_loss_context_manager(self) -> contextlib.ExitStack:
        """Half precision on a GPU: the library wraps a model's forward for it, which `answer_loss` goes past."""
        contexts = super().compute_loss_context_manager()
        contexts.enter_context(self.accelerator.autocast())
        return contexts

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Nobody reads how many there were, and counting walks through all layers at every step."""
        return 0

    def create_model_card(self, *_: Any, **__: Any) -> None:
        """Checkpoints need none."""

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """The same loss, with logits at the answer's positions only: prompts are most of a batch."""
        several = self.accelerator.num_processes > 1  # not past what gathers gradients, or weights
        if "answer_places" in inputs and several:
            inputs = dict(inputs)
            labels, places = inputs.pop("labels"), inputs.pop("answer_places")
            values = model(**inputs, use_cache=False, logits_to_keep=places).logits[0].float()
            total = torch.nn.functional.cross_entropy(values, labels, reduction="sum")
            return total / num_items_in_batch * self.accelerator.num_processes
        if return_outputs or several:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        return answer_loss(model, dict(inputs), num_items_in_batch, self.summed)

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """The mean loss over all answer tokens held out; each process computes all of it, so all agree."""
        model: Any = self.model  # the library declares them wider than they are here
        tokenizer: Any = self.processing_class
        rows: Any = self.eval_dataset
        model.eval()
        collate: Any = self.data_collator
        if not isinstance(collate, Flat):  # the trainer's own packs
            collate = DataCollatorForLanguageModeling(tokenizer.pad_token_id)
        size, total, n = self.args.per_device_eval_batch_size, 0.0, 0
        for start in range(0, len(rows), size):
            batch = collate(rows.select(range(start, min(start + size, len(rows)))).to_list())
            n += int((batch["labels"] != -100).sum())  # no record begins with a token of an answer
            with torch.no_grad(), self.compute_loss_context_manager():
                total += float(answer_loss(model, to_device(batch, self.args.device), 1))
        metrics = {"eval_loss": total / n}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics


def keeps_apart(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, encoded: Encoded, flat: bool) -> bool:
    """Try on two records whether the second one's states stay the same when the first one stands before it in its row.

    Parameters
    ----------
    model, tokenizer, encoded
    flat : bool
        By :func:`assl_kit.experts.training.flat.attend`; else by the base's own attention.
    """
    base = unwrap(model)
    one, two = encoded.input_ids[0][-64:], encoded.input_ids[-1][-64:]
    collate = DataCollatorForLanguageModeling(tokenizer.pad_token_id, padding_free=True)
    packed = collate([{"input_ids": one + two, "seq_lengths": [len(one), len(two)]}])
    packed.pop("labels")
    if flat:
        packed["attention_mask"] = NO_MASK
    training = base.training
    base.eval()
    try:
        with torch.no_grad(), fitting_threads(base):
            alone = torch.tensor([two], device=base.device)
            right = decoder(base)(input_ids=alone, use_cache=False).last_hidden_state.float()
            with attention(base) if flat else contextlib.nullcontext():
                states = decoder(base)(**to_device(packed, base.device), use_cache=False).last_hidden_state
        gap = float((states[:, len(one) :].float() - right).norm() / right.norm())
    except TypeError:  # a decoder that knows no positions
        gap = math.inf
    finally:
        base.train(training)
    return gap < (1e-3 if base.dtype == torch.float32 else 0.1)


def check_packing(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, encoded: Encoded) -> None:
    """Refuse a base whose attention does not keep packed records apart.

    Raises
    ------
    ParameterError
        If a record's states change with what stands before it in its row.
    """
    if not keeps_apart(model, tokenizer, encoded, False):
        raise ParameterError(
            f"packed records would see each other: the attention of {type(unwrap(model)).__name__} does not keep them "
            "apart",
            where="packing",
            hint="Take packing=false, or load the base with attn_implementation='sdpa' or 'flash_attention_2'.",
        )


@dataclass(frozen=True)
class Outcome:
    """A trained adapter on its base, the trainer's log, and the steps this session began after and ended with."""

    peft_model: Any
    history: list[dict[str, Any]]
    first: int
    last: int


def run(training: Training, fit: Fit, count: int = 1) -> Outcome:
    """Train, from the last checkpoint there is. On an error the base is unwrapped.

    ``count`` is the number of processes that train this together.
    """
    model, plan, config, session = training.model, training.plan, training.config, training.session
    arguments = _arguments(training, fit)
    first_process = arguments.process_index == 0
    board = [tensorboard(Path(session.log_dir))] if session.log_dir is not None and first_process else []
    state = _State(model)
    if quantization_of(model) != "none":  # accelerate compares places, and takes "cuda" for another than "cuda:0"
        vars(model)["hf_device_map"] = {"": model.device}
    set_seed(config.seed)
    peft_model = get_peft_model(model, lora_config(config))
    callbacks = [*session.callbacks, *board]
    if plan.held_out:
        callbacks.append(Patience(config.patience))
    if training.bar is not None and first_process:
        callbacks.append(Steps(training.bar, session.name))
    pad = training.tokenizer.pad_token_id
    try:
        trainer = Trainer(
            model=peft_model,
            args=arguments,
            train_dataset=_rows(training.encoded, plan, fit.batch * count if count > 1 else 1, pad),
            eval_dataset=_held_out(training.encoded, plan) if plan.held_out else None,
            processing_class=training.tokenizer,
            data_collator=Flat.of(training.encoded, plan, fit.batch, pad) if fit.flat else None,
            callbacks=callbacks,
        )
        trainer.remove_callback(PrinterCallback)
        if fit.compiled:
            trainer.summed = torch.compile(summed_loss)
        for parameter in peft_model.parameters():
            if parameter.requires_grad:  # trl makes them bfloat16 on a 4-bit base, which breaks float16 scaling
                parameter.data = parameter.data.float()
        checkpoint = get_last_checkpoint(str(training.work))
        if place_of(model) == "cuda":
            torch.cuda.reset_peak_memory_stats()
        half = arguments.bf16 or arguments.fp16  # then weights are cast for a product, which are few, not activations
        with (
            fitting_threads(model),
            disable_input_dtype_casting(peft_model, half),
            attention(model) if fit.flat else contextlib.nullcontext(),
            fused(model, fit.compiled),
        ):
            trainer.train(resume_from_checkpoint=checkpoint)
    except BaseException:
        peft_model.unload()
        raise
    finally:
        state.restore(model, fit.checkpointing)
        for callback in board:
            callback.on_train_end(arguments, TrainerState(), TrainerControl())
    first = int(checkpoint.rsplit("-", 1)[1]) if checkpoint else 0
    return Outcome(peft_model, trainer.state.log_history, first, trainer.state.global_step)


def adapter_weights(peft_model: Any) -> dict[str, torch.Tensor]:
    """The trained tensors by name, whole where processes hold parts of them: all processes must call this together."""
    trained = ((name, weights.detach()) for name, weights in peft_model.named_parameters() if weights.requires_grad)
    return {name: weights.full_tensor() if hasattr(weights, "full_tensor") else weights for name, weights in trained}


def _rows(encoded: Encoded, plan: Plan, multiple: int, pad: int) -> Dataset:
    """The training rows in order; rows without loss fill up to a multiple, so that all processes end together."""
    columns = {
        "input_ids": [[i for row in rows for i in encoded.input_ids[row]] for rows in plan.rows],
        "labels": [[i for row in rows for i in encoded.labels[row]] for rows in plan.rows],
    }
    lengths = [[len(encoded.input_ids[row]) for row in rows] for rows in plan.rows]
    missing = -len(plan.rows) % multiple
    columns["input_ids"] += [[pad, pad]] * missing
    columns["labels"] += [[-100, -100]] * missing
    if any(len(row) > 1 for row in lengths):
        columns["seq_lengths"] = lengths + [[2]] * missing
    return Dataset.from_dict(columns)


def _held_out(encoded: Encoded, plan: Plan) -> Dataset:
    rows = sorted(plan.held_out, key=lambda row: -len(encoded.input_ids[row]))
    parts = {"input_ids": encoded.input_ids, "labels": encoded.labels}
    return Dataset.from_dict({name: [values[row] for row in rows] for name, values in parts.items()})


def _arguments(training: Training, fit: Fit) -> SFTConfig:
    model, plan, config = training.model, training.plan, training.config
    on_cpu = place_of(model) == "cpu"
    logged = max(1, plan.steps // 200)
    every = config.checkpoint_steps
    if plan.held_out:  # twice an epoch
        every = -(-plan.steps // (2 * config.epochs))
    every = -(-every // logged) * logged  # no logged mean spans a checkpoint, so a resumed log is the same
    saved = (plan.held_out or plan.steps > every) and not sharded()
    arguments = SFTConfig(
        output_dir=str(training.work),
        num_train_epochs=1,  # the order holds all epochs
        per_device_train_batch_size=fit.batch,
        per_device_eval_batch_size=fit.batch,
        gradient_accumulation_steps=fit.passes,
        learning_rate=config.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=round(config.warmup_ratio * plan.steps),
        max_grad_norm=config.max_grad_norm,
        seed=config.seed,
        logging_steps=logged,
        logging_nan_inf_filter=on_cpu,  # it waits for the device at every step
        save_strategy="steps" if saved else "no",
        save_steps=every,
        save_total_limit=1,
        eval_strategy="steps" if plan.held_out else "no",
        eval_steps=every,
        load_best_model_at_end=bool(plan.held_out),
        metric_for_best_model="loss" if plan.held_out else None,
        greater_is_better=False if plan.held_out else None,
        restore_callback_states_from_checkpoint=bool(plan.held_out),
        report_to="none",
        disable_tqdm=True,
        use_cpu=on_cpu,
        bf16=not on_cpu and model.dtype == torch.bfloat16,
        fp16=not on_cpu and model.dtype == torch.float16,
        dataloader_pin_memory=not on_cpu,
        accelerator_config={"non_blocking": not on_cpu},  # else each batch waits for the device
        ddp_find_unused_parameters=False,
        max_length=config.max_length if config.packing and not fit.flat else None,
        packing=config.packing and not fit.flat,  # it takes no collator of ours beside it
        dataset_kwargs={"skip_prepare_dataset": True},
        gradient_checkpointing=fit.checkpointing,
        gradient_checkpointing_kwargs={"use_reentrant": False} if fit.checkpointing else None,
    )
    if arguments.n_gpu > 1:  # one process, several GPUs in sight: take the model's own
        arguments._n_gpu = 1
    return arguments


class _State:
    """What a trainer changes on a model besides its layers, to be put back: settings, forward, gradients, mode."""

    def __init__(self, model: PreTrainedModel):
        self.config = copy.deepcopy(vars(model.config))
        self.generation = copy.deepcopy(vars(model.generation_config))
        self.forward = vars(model).get("forward")
        self.training = model.training

    def restore(self, model: PreTrainedModel, checkpointing: bool) -> None:
        vars(model.config).clear()
        vars(model.config).update(self.config)
        vars(model.generation_config).clear()
        vars(model.generation_config).update(self.generation)
        vars(model).pop("forward", None)
        if self.forward is not None:
            model.forward = self.forward
        if checkpointing:
            model.gradient_checkpointing_disable()
            model.disable_input_require_grads()
        model.train(self.training)
