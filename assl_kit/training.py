"""train_adapter: one LoRA adapter on one table of records, with TRL's SFTTrainer and PEFT."""

from __future__ import annotations

import copy
import os
import shutil
import time
import warnings
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from .base_identity import unwrap
from .base_model import base_info, decoder, logits
from .device import fitting_threads
from .errors import ParameterError
from .files import atomic_path, read_json, write_json
from .training_config import TrainingConfig, settings_of
from .training_data import Encoded, encode_records, training_order

_LOGGED = ("step", "epoch", "loss", "learning_rate")


@dataclass(frozen=True)
class TrainingResult:
    """What a training left.

    Attributes
    ----------
    path : pathlib.Path
        Folder of the adapter, in PEFT's format.
    log : DataFrame
        Columns ``step``, ``epoch``, ``loss`` (nats per answer token, mean since the row before), ``learning_rate``.
    n_records, n_truncated : int
        Rows trained on (copies counted), and rows whose prompt was cut.
    tokens : int
        Tokens of prompts and answers over all epochs.
    seconds, tokens_per_second, peak_memory_mb : float
        Of the last session if it was resumed. Memory: allocated on the GPU, or resident of this process on a CPU (the
        highest since it started); NaN where unknown.
    fingerprint : str
        SHA-256 of base, records and settings.
    """

    path: Path
    log: pd.DataFrame
    n_records: int
    n_truncated: int
    tokens: int
    seconds: float
    tokens_per_second: float
    peak_memory_mb: float
    fingerprint: str


def train_adapter(
    model,
    tokenizer,
    records: pd.DataFrame,
    output_dir: str | os.PathLike,
    config: TrainingConfig | None = None,
    *,
    name: str = "adapter",
    resume: bool = True,
    base_fingerprint: str | None = None,
    callbacks: Sequence[Any] = (),
    progress: bool = False,
) -> TrainingResult:
    """Train one LoRA adapter; the base comes back unchanged, ready for the next.

    Parameters
    ----------
    model, tokenizer
        The base, as :func:`assl_kit.base_model.load_base` gives it. Its device and dtype decide where and how.
    records : DataFrame
        With ``instruction``, ``input``, ``output``; rows already repeated by their copies.
    output_dir : path-like
        Gets `adapter_model.safetensors`, `adapter_config.json` and `training.json` once training is complete; until
        then checkpoints lie in ``<output_dir>.partial``.
    config : TrainingConfig, optional
    name : str
        For the progress bar.
    resume : bool
        A finished adapter of the same base, records and settings is taken as it is; an interrupted training goes on
        from its last checkpoint, to the same bits. False: from scratch.
    base_fingerprint : str, optional
        ``base_info(model, tokenizer)["fingerprint"]``, if it is known already.
    callbacks : sequence of transformers.TrainerCallback
    progress : bool
        Show a progress bar.

    Returns
    -------
    TrainingResult

    Raises
    ------
    DataError
        If there is nothing to train on, or an answer does not fit.
    ParameterError
        If ``model`` still carries adapters.

    Notes
    -----
    The loss is the mean over the answer tokens of a step, the ending token among them. Same input, same bits, on one
    machine with one number of threads. Rank and α are of arXiv 2404.04949; order, schedule and truncation are ours.
    """
    config = config or TrainingConfig()
    if hasattr(model, "peft_config"):
        raise ParameterError("the model still carries adapters", hint="Give the base alone: model.unload().")
    encoded = encode_records(model, tokenizer, records, config.max_length)
    if base_fingerprint is None:
        base_fingerprint = base_info(model, tokenizer)["fingerprint"]
    fingerprint = encoded.fingerprint(settings_of(config), base_fingerprint)
    output_dir = Path(output_dir)
    if resume and (found := read_result(output_dir)) is not None and found.fingerprint == fingerprint:
        return found
    work = output_dir.with_name(output_dir.name + ".partial")
    mark = work / "fingerprint.json"
    if not (resume and mark.is_file() and read_json(mark) == fingerprint):
        shutil.rmtree(work, ignore_errors=True)
        write_json(mark, fingerprint)
    start = time.perf_counter()
    with _quiet():
        peft_model, history, done, steps = _run(model, tokenizer, encoded, work, config, callbacks, name, progress)
    try:
        seconds = time.perf_counter() - start
        tokens = config.epochs * sum(map(len, encoded.input_ids))
        rows = [[h.get(key) for key in _LOGGED] for h in history if "loss" in h]
        summary = {
            "fingerprint": fingerprint,
            "n_records": len(records),
            "n_truncated": encoded.n_truncated,
            "tokens": tokens,
            "seconds": seconds,
            "tokens_per_second": tokens * (1 - done / steps) / seconds,
            "peak_memory_mb": _peak_memory_mb(model.device.type),
            "log": [[step, epoch * config.epochs, loss, rate] for step, epoch, loss, rate in rows],
        }
        with atomic_path(output_dir) as temporary:
            peft_model.save_pretrained(temporary, save_embedding_layers=False)
            (temporary / "README.md").unlink(missing_ok=True)
            write_json(temporary / "training.json", summary)
    finally:
        peft_model.unload()
    shutil.rmtree(work, ignore_errors=True)
    return read_result(output_dir)


def read_result(folder: str | os.PathLike) -> TrainingResult | None:
    """The `TrainingResult` of a finished adapter's folder, or None if there is none."""
    folder = Path(folder)
    if not (folder / "training.json").is_file() or not (folder / "adapter_model.safetensors").is_file():
        return None
    summary = read_json(folder / "training.json")
    return TrainingResult(path=folder, **(summary | {"log": pd.DataFrame(summary["log"], columns=list(_LOGGED))}))


@contextmanager
def _quiet():
    """Keep back what the libraries tell each other: renamed settings, order of checkpoints."""
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(verbosity)


def _run(model, tokenizer, encoded: Encoded, work: Path, config: TrainingConfig, callbacks, name: str, progress: bool):
    """Train; give the wrapped model, the log, and the first and last step. On an error the base is unwrapped."""
    import torch
    from datasets import Dataset
    from peft import LoraConfig, get_peft_model
    from transformers import PrinterCallback, set_seed
    from transformers.trainer_utils import get_last_checkpoint
    from trl import SFTTrainer

    class Trainer(SFTTrainer):
        def _get_train_sampler(self, *_):
            return torch.utils.data.SequentialSampler(self.train_dataset)

        def create_model_card(self, *_, **__):
            """Checkpoints need none."""

        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            """The same loss, with logits at the answer's positions only: prompts are most of a batch."""
            if return_outputs or self.accelerator.unwrap_model(model) is not model:  # several GPUs: not past DDP
                return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
            return _answer_loss(model, dict(inputs), num_items_in_batch)

    order = training_order([len(ids) for ids in encoded.input_ids], config.epochs, config.batch_size, config.seed)
    data = Dataset.from_dict({"input_ids": encoded.input_ids, "labels": encoded.labels}).select(order)
    steps = -(-len(order) // (config.batch_size * config.gradient_accumulation))
    arguments = _arguments(model, work, config, steps)
    state = _State(model)
    set_seed(config.seed)
    lora = LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        target_modules="all-linear",
        bias="none",
        task_type="CAUSAL_LM",
    )
    peft_model = get_peft_model(model, lora)
    try:
        trainer = Trainer(
            model=peft_model,
            args=arguments,
            train_dataset=data,
            processing_class=tokenizer,
            callbacks=[*callbacks, *([_bar(name, steps)] if progress else [])],
        )
        trainer.remove_callback(PrinterCallback)
        for parameter in peft_model.parameters():
            if parameter.requires_grad:  # trl makes them bfloat16 on a 4-bit base, which breaks float16 scaling
                parameter.data = parameter.data.float()
        checkpoint = get_last_checkpoint(str(work))
        if model.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        with fitting_threads(model):
            trainer.train(resume_from_checkpoint=checkpoint)
    except BaseException:
        peft_model.unload()
        raise
    finally:
        state.restore(model, config.checkpointing)
    first = int(checkpoint.rsplit("-", 1)[1]) if checkpoint else 0
    return peft_model, trainer.state.log_history, first, trainer.state.global_step


def _answer_loss(model, inputs: dict[str, Any], n_tokens):
    import torch

    base = unwrap(model)
    labels = inputs.pop("labels")[:, 1:]
    wanted = labels != -100
    states = decoder(base)(**inputs, use_cache=False).last_hidden_state[:, :-1][wanted]
    total = torch.nn.functional.cross_entropy(logits(base, states), labels[wanted], reduction="sum")
    return total / (wanted.sum() if n_tokens is None else n_tokens)


def _arguments(model, work: Path, config: TrainingConfig, steps: int):
    import torch
    from trl import SFTConfig

    on_cpu = model.device.type == "cpu"
    arguments = SFTConfig(
        output_dir=str(work),
        num_train_epochs=1,  # the order holds all epochs
        per_device_train_batch_size=config.batch_size,
        gradient_accumulation_steps=config.gradient_accumulation,
        learning_rate=config.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=round(config.warmup_ratio * steps),
        max_grad_norm=config.max_grad_norm,
        seed=config.seed,
        logging_steps=max(1, steps // 200),
        save_strategy="steps" if steps > config.checkpoint_steps else "no",
        save_steps=config.checkpoint_steps,
        save_total_limit=1,
        report_to="none",
        disable_tqdm=True,
        use_cpu=on_cpu,
        bf16=not on_cpu and model.dtype == torch.bfloat16,
        fp16=not on_cpu and model.dtype == torch.float16,
        dataloader_pin_memory=not on_cpu,
        max_length=config.max_length if config.packing else None,
        packing=config.packing,
        dataset_kwargs=None if config.packing else {"skip_prepare_dataset": True},
        gradient_checkpointing=config.checkpointing,
        gradient_checkpointing_kwargs={"use_reentrant": False} if config.checkpointing else None,
    )
    if arguments.n_gpu > 1:  # one process, several GPUs in sight: take the model's own
        arguments._n_gpu = 1
    return arguments


class _State:
    """What a trainer changes on a model besides its layers, to be put back: settings, forward, gradients, mode."""

    def __init__(self, model):
        self.config = copy.deepcopy(vars(model.config))
        self.generation = copy.deepcopy(vars(model.generation_config))
        self.forward = vars(model).get("forward")
        self.training = model.training

    def restore(self, model, checkpointing: bool) -> None:
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


def _bar(name: str, steps: int):
    from tqdm.auto import tqdm
    from transformers import TrainerCallback

    class Bar(TrainerCallback):
        def on_train_begin(self, args, state, control, **_):
            self.bar = tqdm(total=steps, initial=state.global_step, desc=name, unit="step")

        def on_step_end(self, args, state, control, **_):
            self.bar.update(1)

        def on_log(self, args, state, control, logs=None, **_):
            if logs and "loss" in logs:
                self.bar.set_postfix(loss=f"{float(logs['loss']):.3f}")

        def on_train_end(self, args, state, control, **_):
            self.bar.close()

    return Bar()


def _peak_memory_mb(device: str) -> float:
    import torch

    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    try:
        import resource
    except ImportError:  # Windows
        return float("nan")
    import sys

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)
