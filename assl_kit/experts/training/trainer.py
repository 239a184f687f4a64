"""One training by TRL's trainer: order, loss, held-out loss, checkpoints; and what it changes on a base put back."""

from __future__ import annotations

import contextlib
import copy
import math
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from peft.helpers import disable_input_dtype_casting
from transformers import PrinterCallback, TrainerControl, TrainerState, set_seed
from transformers.trainer_utils import get_last_checkpoint
from trl import SFTConfig, SFTTrainer
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from assl_kit.errors import ParameterError
from assl_kit.model.batches import fitting_threads
from assl_kit.model.identity import unwrap
from assl_kit.model.tokens import decoder, logits

from .callbacks import Patience, Steps, tensorboard
from .config import TrainingConfig, quantization_of
from .data import Encoded, Plan
from .session import Training

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class Processes:
    """This process among those of ``accelerate launch``; ``wait`` returns when all have come there."""

    rank: int
    count: int
    wait: Callable[[], None]


def processes(on_cpu: bool) -> Processes:
    """The processes of this launch; one where nothing was launched."""
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        return Processes(0, 1, lambda: None)
    from accelerate import PartialState

    state = PartialState(cpu=on_cpu)
    return Processes(state.process_index, state.num_processes, state.wait_for_everyone)


@dataclass(frozen=True)
class Fit:
    """How the rows of one step are computed: ``batch`` at a time on each device, ``passes`` times.

    Neither changes which rows a step has, so results differ by rounding only.
    """

    batch: int
    passes: int
    checkpointing: bool

    @classmethod
    def of(cls, config: TrainingConfig, devices: int) -> Fit:
        """As asked for; several devices take shares of a step's rows, in fewer passes where there are several.

        Examples
        --------
        >>> Fit.of(TrainingConfig(batch_size=8, gradient_accumulation=2), 4)
        Fit(batch=4, passes=1, checkpointing=False)
        """
        rows = config.batch_size * config.gradient_accumulation
        if rows % devices:
            raise ParameterError(
                f"the {rows} records of a step cannot be shared by {devices} processes",
                where="batch_size",
                hint=f"Take a multiple of {devices}, or another number of processes.",
            )
        return cls(0, rows // devices, config.checkpointing)._with(config.batch_size)

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

    def __str__(self) -> str:
        return f"{self.batch} at a time" + (", activations recomputed" if self.checkpointing else "")


class Trainer(SFTTrainer):
    """TRL's trainer with our order, logits at the answers only, and the held-out loss per token."""

    control: TrainerControl

    def _get_train_sampler(self, *_: Any) -> torch.utils.data.Sampler:
        rows: Any = self.train_dataset
        return torch.utils.data.SequentialSampler(rows)

    def compute_loss_context_manager(self) -> contextlib.ExitStack:
        """Half precision on a GPU: the library wraps a model's forward for it, which `answer_loss` goes past."""
        contexts = super().compute_loss_context_manager()
        contexts.enter_context(self.accelerator.autocast())
        return contexts

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
        if return_outputs or self.accelerator.unwrap_model(model) is not model:  # several GPUs: not past DDP
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        return answer_loss(model, dict(inputs), num_items_in_batch)

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """The mean loss over all answer tokens held out; each process computes all of it, so all agree."""
        model: Any = self.model  # the library declares them wider than they are here
        tokenizer: Any = self.processing_class
        rows: Any = self.eval_dataset
        model.eval()
        collate = DataCollatorForLanguageModeling(tokenizer.pad_token_id)
        size, total, n = self.args.per_device_eval_batch_size, 0.0, 0
        for start in range(0, len(rows), size):
            batch = collate(rows.select(range(start, min(start + size, len(rows)))).to_list())
            n += int((batch["labels"][:, 1:] != -100).sum())
            with torch.no_grad(), self.compute_loss_context_manager():
                inputs = {key: value.to(self.args.device) for key, value in batch.items()}
                total += float(answer_loss(model, inputs, 1))
        metrics = {"eval_loss": total / n}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics


def answer_loss(model: torch.nn.Module, inputs: dict[str, Any], n_tokens: torch.Tensor | int | None) -> torch.Tensor:
    """Cross-entropy over the answer tokens of a batch, summed, divided by ``n_tokens`` (None: by how many they are)."""
    base = unwrap(model)
    labels = inputs.pop("labels")[:, 1:]
    wanted = labels != -100
    states = decoder(base)(**inputs, use_cache=False).last_hidden_state[:, :-1][wanted]
    total = torch.nn.functional.cross_entropy(logits(base, states), labels[wanted], reduction="sum")
    return total / (wanted.sum() if n_tokens is None else n_tokens)


def check_packing(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, encoded: Encoded) -> None:
    """Try on two records whether the base keeps packed records apart.

    Raises
    ------
    ParameterError
        If a record's states change with what stands before it in its row.
    """
    base = unwrap(model)
    one, two = encoded.input_ids[0][-64:], encoded.input_ids[-1][-64:]
    collate = DataCollatorForLanguageModeling(tokenizer.pad_token_id, padding_free=True)
    packed = collate([{"input_ids": one + two, "seq_lengths": [len(one), len(two)]}])
    packed.pop("labels")
    training = base.training
    base.eval()
    try:
        with torch.no_grad(), fitting_threads(base):
            inputs = {k: v.to(base.device) if torch.is_tensor(v) else v for k, v in packed.items()}
            alone = torch.tensor([two], device=base.device)
            after_another = decoder(base)(**inputs, use_cache=False).last_hidden_state[:, len(one) :].float()
            right = decoder(base)(input_ids=alone, use_cache=False).last_hidden_state.float()
        gap = float((after_another - right).norm() / right.norm())
    except TypeError:  # a decoder that knows no positions
        gap = math.inf
    finally:
        base.train(training)
    if not gap < (1e-3 if base.dtype == torch.float32 else 0.1):
        raise ParameterError(
            f"packed records would see each other: the attention of {type(base).__name__} does not keep them apart",
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
    peft_model = get_peft_model(model, _lora(config))
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
            callbacks=callbacks,
        )
        trainer.remove_callback(PrinterCallback)
        for parameter in peft_model.parameters():
            if parameter.requires_grad:  # trl makes them bfloat16 on a 4-bit base, which breaks float16 scaling
                parameter.data = parameter.data.float()
        checkpoint = get_last_checkpoint(str(training.work))
        if model.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        half = arguments.bf16 or arguments.fp16  # then weights are cast for a product, which are few, not activations
        with fitting_threads(model), disable_input_dtype_casting(peft_model, half):
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


def _lora(config: TrainingConfig) -> LoraConfig:
    return LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        target_modules="all-linear",
        bias="none",
        task_type="CAUSAL_LM",
    )


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
    on_cpu = model.device.type == "cpu"
    logged = max(1, plan.steps // 200)
    every = config.checkpoint_steps
    if plan.held_out:  # twice an epoch
        every = -(-plan.steps // (2 * config.epochs))
    every = -(-every // logged) * logged  # no logged mean spans a checkpoint, so a resumed log is the same
    saved = plan.held_out or plan.steps > every
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
        ddp_find_unused_parameters=False,
        max_length=config.max_length if config.packing else None,
        packing=config.packing,
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
