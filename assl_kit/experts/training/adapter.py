"""train_adapter: one LoRA adapter on one table of records, with TRL's SFTTrainer and PEFT."""

from __future__ import annotations

import gc
import os
import shutil
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from assl_kit.common.device import is_out_of_memory, peak_memory_mb, sharded
from assl_kit.common.files import atomic_path, read_json, write_json
from assl_kit.errors import ParameterError
from assl_kit.model.identity import base_info

from .config import TrainingConfig, settings_of
from .data import LEAST_HELD_OUT, encode_records, plan_training
from .session import Session, Training

if TYPE_CHECKING:
    from tqdm import tqdm
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from .fit import Fit
    from .trainer import Outcome

_LOGGED = ("step", "epoch", "loss", "learning_rate")
_HELD_OUT = ("step", "epoch", "loss")


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
        Rows given (copies counted), and rows whose prompt was cut.
    tokens : int
        Tokens of prompts and answers that were trained on, all epochs.
    seconds, tokens_per_second, peak_memory_mb : float
        Of the last session if it was resumed. Memory: allocated on the GPU, or resident of this process on a CPU (its
        high-water mark since it started, so never lower for a later expert); NaN where unknown.
    fingerprint : str
        SHA-256 of base, records and settings.
    n_held_out : int
        Different records that were not trained on but measured.
    held_out : DataFrame
        Columns ``step``, ``epoch``, ``loss`` (nats per answer token of the held-out records); empty if there are none.
        The adapter is the one of the lowest loss.
    stopped_epoch : float or None
        Where training stopped because the held-out loss no longer fell; None if it ran to its end.
    notes : tuple of str
        What did not go as asked: too few records to hold any out, a batch halved for lack of memory.
    base_fingerprint : str
        Of the base the adapter belongs to; see :func:`assl_kit.model.identity.base_info`.
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
    n_held_out: int = 0
    held_out: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=list(_HELD_OUT), dtype=float))
    stopped_epoch: float | None = None
    notes: tuple[str, ...] = ()
    base_fingerprint: str = ""

    @property
    def best_held_out(self) -> float:
        """The lowest held-out loss; NaN if nothing was held out."""
        return float(self.held_out["loss"].min())


def train_adapter(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    records: pd.DataFrame,
    output_dir: str | os.PathLike,
    config: TrainingConfig | None = None,
    session: Session | None = None,
) -> TrainingResult:
    """Train one LoRA adapter; the base comes back unchanged, ready for the next.

    Parameters
    ----------
    model, tokenizer
        The base, as :func:`assl_kit.model.loading.load_base` gives it. Its device and dtype decide where and how.
    records : DataFrame
        With ``instruction``, ``input``, ``output``; rows already repeated by their copies.
    output_dir : path-like
        Gets `adapter_model.safetensors`, `adapter_config.json` and `training.json` once training is complete; until
        then checkpoints lie in ``<output_dir>.partial``.
    config : TrainingConfig, optional
    session : Session, optional
        Name, resuming, progress, callbacks, logs.

    Returns
    -------
    TrainingResult

    Raises
    ------
    DataError
        If there is nothing to train on, or an answer does not fit.
    ParameterError
        If ``model`` still carries adapters, its attention cannot keep packed records apart, a step's records cannot be
        shared by the processes, or the memory does not hold one record.

    Notes
    -----
    The loss is the mean over the answer tokens of a step, the ending token among them. Same input, same bits, on one
    machine with one number of threads. Rank and α are of arXiv 2404.04949; order, schedule and truncation are ours.

    When memory runs out, half of the batch is computed at a time (at one record, activations are recomputed), with a
    warning; the steps stay what they were. Under ``accelerate launch`` all processes call this together; each takes its
    share of every step, and the first one writes.
    """
    config, session = config or TrainingConfig(), session or Session()
    if hasattr(model, "peft_config"):
        raise ParameterError("the model still carries adapters", hint="Give the base alone: model.unload().")
    encoded = encode_records(model, tokenizer, records, config.max_length)
    plan = plan_training(encoded, config)
    base_fingerprint = session.base_fingerprint
    if base_fingerprint is None:
        base_fingerprint = base_info(model, tokenizer)["fingerprint"]
    fingerprint = encoded.fingerprint(settings_of(config, model), base_fingerprint)
    output_dir = Path(output_dir)
    with _bar(session.progress, plan.steps) as bar:
        end = bar.n + plan.steps if bar is not None else 0
        finished = read_result(output_dir) if session.resume else None
        if finished is not None and finished.fingerprint == fingerprint:
            result = finished
        else:
            work = output_dir.with_name(output_dir.name + ".partial")
            training = Training(model, tokenizer, encoded, plan, config, work, session, bar)
            summary = {"fingerprint": fingerprint, "n_records": len(records), "n_truncated": encoded.n_truncated}
            summary |= {"n_held_out": len(plan.held_out), "base_fingerprint": base_fingerprint}
            result = _train(training, output_dir, summary)
        if bar is not None:
            bar.update(end - bar.n)
    return result


def _train(training: Training, output_dir: Path, summary: dict[str, Any]) -> TrainingResult:
    """Train and write the adapter; ``summary`` is what is known of it before, ``training.json`` what is known after."""
    with _quiet():
        from .fit import Fit, check_sharding, filling, on_card, place_of, processes
        from .flat import supported
        from .fused import worth_it
        from .trainer import adapter_weights, check_packing, keeps_apart
    model, config, plan, session = training.model, training.config, training.plan, training.session
    if sharded():
        check_sharding(training)
    here = processes(model)
    fit = Fit.of(config, here.count)
    if supported(model) and keeps_apart(model, training.tokenizer, training.encoded, True):
        compiled = worth_it(model, plan) if config.compiled is None else config.compiled
        fit = replace(fit, flat=True, compiled=compiled)
    elif config.packing and (here.rank == 0 or not sharded()):  # where others may have no weights yet
        check_packing(model, training.tokenizer, training.encoded)
    if config.batch_size == "auto" and here.count == 1 and on_card(model):
        fit = filling(training, fit)
    if session.log_dir is not None:
        from .callbacks import check_tensorboard

        check_tensorboard()
    if here.rank == 0:
        _forget_another(training, summary["fingerprint"])
    here.wait()
    notes = []
    if config.holdout_share and not plan.held_out:
        notes.append(f"nothing held out: that would be fewer than {LEAST_HELD_OUT} different records")
    start = time.perf_counter()
    outcome, changes = _fitted(training, fit, here.count)
    try:
        seconds = time.perf_counter() - start
        log = [[h.get(key) for key in _LOGGED] for h in outcome.history if "loss" in h]
        held = [[h["step"], h["epoch"], h["eval_loss"]] for h in outcome.history if "eval_loss" in h]
        last = held[-1][0] if held else outcome.last  # a resumed training may have had to take one step too many
        for row in (*log, *held):  # the trainer's own share depends on how a step is computed
            row[1] = row[0] / plan.steps * config.epochs
        summary |= {
            "tokens": plan.tokens_of(0, last),
            "seconds": seconds,
            "tokens_per_second": plan.tokens_of(outcome.first, last) / seconds,
            "peak_memory_mb": peak_memory_mb(place_of(model)),
            "log": log,
            "held_out": held,
            "stopped_epoch": round(last / plan.steps * config.epochs, 2) if last < plan.steps else None,
            "notes": notes + changes,
        }
        weights = adapter_weights(outcome.peft_model)
        if here.rank == 0:
            with atomic_path(output_dir) as temporary:
                outcome.peft_model.save_pretrained(temporary, state_dict=weights, save_embedding_layers=False)
                (temporary / "README.md").unlink(missing_ok=True)
                write_json(temporary / "training.json", summary)
    finally:
        outcome.peft_model.unload()
    if here.rank == 0:
        shutil.rmtree(training.work, ignore_errors=True)
    here.wait()
    result = read_result(output_dir)
    assert result is not None, "the first process has written it"
    return result


def _forget_another(training: Training, fingerprint: str) -> None:
    """Remove checkpoints and logs of another training in this place, and leave a mark of this one."""
    mark = training.work / "fingerprint.json"
    if training.session.resume and mark.is_file() and read_json(mark) == fingerprint:
        return
    shutil.rmtree(training.work, ignore_errors=True)
    write_json(mark, fingerprint)
    if training.session.log_dir is not None:
        shutil.rmtree(training.session.log_dir, ignore_errors=True)


def _fitted(training: Training, fit: Fit, count: int) -> tuple[Outcome, list[str]]:
    """Train with as much at a time as fits into memory; give the outcome and what had to be changed."""
    from .trainer import run

    changes: list[str] = []
    while True:
        try:
            with _quiet():
                return run(training, fit, count), changes
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
        smaller = fit.smaller() if count == 1 else None  # the other processes would wait for ever
        if smaller is None:
            hint = "Lower max_length, take a smaller base model or quantization='nf4', or a GPU with more memory."
            if count > 1:
                hint = "Raise gradient_accumulation, or set gradient_checkpointing=true."
            raise ParameterError(f"out of memory in training with {fit}", where=training.session.name, hint=hint)
        changes.append(f"out of memory with {fit}: went on with {smaller}, the same records a step")
        warnings.warn(f"{training.session.name}: {changes[-1]}", stacklevel=4)
        fit = smaller
        gc.collect()
        if training.model.device.type == "cuda":
            import torch

            torch.cuda.empty_cache()


def read_result(folder: str | os.PathLike) -> TrainingResult | None:
    """The `TrainingResult` of a finished adapter's folder, or None if there is none."""
    folder = Path(folder)
    if not (folder / "training.json").is_file() or not (folder / "adapter_model.safetensors").is_file():
        return None
    summary = read_json(folder / "training.json")
    tables = {"log": pd.DataFrame(summary["log"], columns=list(_LOGGED)), "held_out": held_out_table(summary)}
    return TrainingResult(path=folder, **(summary | tables | {"notes": tuple(summary.get("notes", ()))}))


def held_out_table(record: dict[str, Any]) -> pd.DataFrame:
    """The held-out losses of a record of a training, as `TrainingResult` has them."""
    return pd.DataFrame(record.get("held_out", []), columns=list(_HELD_OUT), dtype=float).astype({"step": "int64"})


@contextmanager
def _quiet() -> Iterator[None]:
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


@contextmanager
def _bar(progress: bool | tqdm, steps: int) -> Iterator[tqdm | None]:
    """The caller's bar, or one of our own, or None."""
    from tqdm.auto import tqdm

    if progress is True:
        with tqdm(total=steps, unit="step") as bar:
            yield bar
    else:
        yield None if isinstance(progress, bool) else progress
