"""train_adapters: many LoRA adapters at the same time on one base, each as if it were trained alone."""

from __future__ import annotations

import gc
import math
import os
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from assl_kit.common.device import is_out_of_memory, peak_memory_mb
from assl_kit.common.files import atomic_path, write_json
from assl_kit.errors import DataError, ParameterError
from assl_kit.model.batches import fitting_threads, positions_at_once
from assl_kit.model.identity import base_info
from assl_kit.model.tokens import decoder, logits

from .adapter import TrainingResult, read_result
from .config import TrainingConfig, settings_of
from .data import Encoded, encode_records
from .lot import WIDTHS, Lot, passes, width_of
from .stack import AdapterStack, fused_norms, same_form

if TYPE_CHECKING:
    import torch
    from tqdm import tqdm
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_BETAS, _EPS = (0.9, 0.999), 1e-8
_AT_ONCE = {"cpu": 4096, "cuda": 1 << 15}


def train_adapters(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    tables: Sequence[pd.DataFrame | Encoded],
    paths: Sequence[str | os.PathLike],
    config: TrainingConfig | Sequence[TrainingConfig] | None = None,
    *,
    tokens_at_once: int | None = None,
    fused: bool | None = None,
    resume: bool = True,
    base_fingerprint: str | None = None,
    on_step: Callable[[int, int, int], None] | None = None,
    progress: bool = False,
) -> list[TrainingResult]:
    """Train one LoRA adapter on each table, all at the same time; the base comes back unchanged.

    Every step computes the base once over the records of all adapters, which fills a GPU that one small training would
    leave waiting. Adapters see their own records only, in the order, with the loss, clipping, schedule and initial
    weights of :func:`assl_kit.experts.training.adapter.train_adapter`, so results differ from it by rounding.

    Parameters
    ----------
    model, tokenizer
        The base, in float32 or bfloat16, as `load_base` gives it.
    tables : sequence of DataFrame or Encoded, length M
        The records of each adapter, copies repeated; or what `encode_records` made of
        them. Adapters with fewer steps end earlier and take no more time from then on.
    paths : sequence of path-like, length M
        The folder of each: `adapter_model.safetensors`, `adapter_config.json` and `training.json`.
    config : TrainingConfig or sequence of M of them, optional
        Seeds, epochs, learning rates, warm-up and clipping may differ. Dropout, packing and held-out records are not
        possible here; ``checkpointing`` and ``checkpoint_steps`` have no effect, since nothing is kept before the end.
    tokens_at_once : int, optional
        Tokens (padding among them) of a forward pass over all adapters; a step takes as many passes as it needs. It
        changes results by rounding only. Where memory runs out it is halved. Default: 4,096 on a CPU, 32,768 on a GPU.
    fused : bool, optional
        Use torch's fused norms, equal to rounding (`fused_norms`). Default: on a GPU.
    resume : bool
        Finished adapters of the same base, records and settings are taken as they are.
    base_fingerprint : str, optional
        ``base_info(model, tokenizer)["fingerprint"]``, if it is known already.
    on_step : callable, optional
        Called after each step with its number, the number of steps, and the records' tokens trained on so far by all
        adapters together. The device may still be at work on it. An exception ends the training; nothing is written.
    progress : bool
        Show a progress bar.

    Returns
    -------
    list of TrainingResult, length M
        ``seconds`` are those of the whole, ``tokens_per_second`` the adapter's own tokens by them.

    Raises
    ------
    DataError
        If a table is empty or an answer does not fit; the message says which table.
    ParameterError
        If there are not as many paths, or settings, as tables, a path is named twice, settings that must be equal are
        not, or the memory does not hold one record of each adapter.

    Notes
    -----
    Steps hold ``batch_size · gradient_accumulation`` records of each adapter. Their lengths follow the seed, so
    adapters with as many records and the same seed waste the least padding.
    """
    configs = _configs(config, len(tables))
    folders = [Path(path) for path in paths]
    if len(folders) != len(tables):
        raise ParameterError(f"there are {len(tables)} tables but {len(folders)} paths")
    if not tables:
        return []
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise ParameterError(
            "two adapters would be written to the same path", where=str(max(folders, key=folders.count))
        )
    if tokens_at_once is not None and (isinstance(tokens_at_once, bool) or tokens_at_once < 1):
        raise ParameterError(f"tokens_at_once must be at least 1, not {tokens_at_once!r}", where="tokens_at_once")
    encoded = [_encoded(model, tokenizer, tables, number, configs[number]) for number in range(len(tables))]
    if base_fingerprint is None:
        base_fingerprint = base_info(model, tokenizer)["fingerprint"]
    prints = [
        rows.fingerprint(settings_of(config, model) | {"trained": "together"}, base_fingerprint)
        for rows, config in zip(encoded, configs, strict=True)
    ]
    results = [read_result(folder) if resume else None for folder in folders]
    todo = [i for i, old in enumerate(results) if old is None or old.fingerprint != prints[i]]
    if todo:
        kind = model.device.type
        lot = Lot(encoded, configs, todo, tokenizer.pad_token_id)
        stack = AdapterStack.fresh(model, [configs[i].seed for i in lot.arms], configs[0].rank, configs[0].alpha)
        start = time.perf_counter()
        with (
            _frozen(model),
            fitting_threads(model),
            fused_norms(model, kind == "cuda" if fused is None else fused),
            stack.attached(),
            warnings.catch_warnings(),
            _bar(progress, lot.steps) as bar,
        ):
            losses, notes = _train(model, stack, lot, tokens_at_once or _AT_ONCE.get(kind, 4096), on_step, bar)
        seconds = time.perf_counter() - start
        for place, i in enumerate(lot.arms):
            summary = {"fingerprint": prints[i], "n_records": len(encoded[i].input_ids), "seconds": seconds}
            summary |= {"n_truncated": encoded[i].n_truncated, "n_held_out": 0, "base_fingerprint": base_fingerprint}
            summary |= lot.summary(place, losses[:, place], seconds) | {"notes": notes}
            summary["peak_memory_mb"] = peak_memory_mb(kind)
            with atomic_path(folders[i]) as temporary:
                temporary.mkdir()
                stack.save(place, temporary)
                write_json(temporary / "training.json", summary)
            results[i] = read_result(folders[i])
    return [result for result in results if result is not None]


# what is trained on ---------------------------------------------------------------------------------------------------
def _configs(config: TrainingConfig | Sequence[TrainingConfig] | None, count: int) -> list[TrainingConfig]:
    if config is None or isinstance(config, TrainingConfig):
        configs = [config or TrainingConfig()] * count
    else:
        configs = list(config)
        if len(configs) != count:
            raise ParameterError(f"there are {count} tables but {len(configs)} settings", where="config")
    same_form(configs)
    return configs


def _encoded(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    tables: Sequence[pd.DataFrame | Encoded],
    number: int,
    config: TrainingConfig,
) -> Encoded:
    table = tables[number]
    if isinstance(table, Encoded):
        if not table.input_ids:
            raise DataError("there is no record to train on", where=f"table {number}")
        return table
    try:
        return encode_records(model, tokenizer, table, config.max_length)
    except DataError as error:
        where = f"table {number}" if error.where is None else f"table {number}, {error.where}"
        raise DataError(error.what, where=where, hint=error.hint) from None


# steps ----------------------------------------------------------------------------------------------------------------
def _train(
    model: PreTrainedModel,
    stack: AdapterStack,
    lot: Lot,
    at_once: int,
    on_step: Callable[[int, int, int], None] | None,
    bar: tqdm | None,
) -> tuple[np.ndarray, list[str]]:
    """All steps; give the losses (steps, M) and what had to be changed. Nothing here waits for the device."""
    import torch

    warnings.filterwarnings("ignore", message="grad and param do not obey")  # they are parts of wider rows
    device, done = model.device, 0
    notes: list[str] = []
    weights = stack.weights
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    first, second = torch.zeros_like(weights), torch.zeros_like(weights)
    total = torch.zeros_like(weights)
    buffer = total if model.dtype == torch.float32 else torch.zeros_like(weights, dtype=model.dtype)
    losses = torch.zeros(lot.steps, len(stack), device=device)
    rates = torch.tensor(lot.rates(), dtype=torch.float32, device=device)
    most = torch.tensor([config.max_grad_norm for config in lot.configs], dtype=torch.float32, device=device)
    for step in range(lot.steps):
        records, m = lot.records(step), lot.active(step)
        if step == 0 or m != lot.active(step - 1):
            stack.follow(m, buffer)
        while not _fits(lambda: _gradients(model, lot, records, at_once, total, buffer, losses[step])):  # noqa: B023
            if at_once <= m * WIDTHS:
                raise ParameterError(
                    f"out of memory with one record of each of {m} adapters", hint="Train fewer at the same time."
                )
            notes.append(f"out of memory with {at_once} tokens at once: went on with {at_once // 2}")
            warnings.warn(notes[-1], stacklevel=3)
            at_once //= 2
            gc.collect()
            if device.type == "cuda":
                torch.cuda.empty_cache()
        with torch.no_grad():
            norms = torch.linalg.vector_norm(total[:m], dim=1)
            total[:m].mul_((most[:m] / (norms + 1e-6)).clamp(max=1.0)[:, None])
            _adamw(weights[:m], total[:m], first[:m], second[:m], rates[step, :m], step + 1)
        stack.updated(m)
        done += int(lot.lengths[records].sum())
        if bar is not None:
            bar.update()
        if on_step is not None:
            on_step(step + 1, lot.steps, done)
    return losses.cpu().numpy(), notes


def _adamw(
    weights: torch.Tensor,
    gradients: torch.Tensor,
    first: torch.Tensor,
    second: torch.Tensor,
    rates: torch.Tensor,
    step: int,
) -> None:
    """AdamW without decay, as torch does it, with a learning rate for each row."""
    first.lerp_(gradients, 1 - _BETAS[0])
    second.mul_(_BETAS[1]).addcmul_(gradients, gradients, value=1 - _BETAS[1])
    down = second.sqrt().div_(math.sqrt(1 - _BETAS[1] ** step)).add_(_EPS)
    weights.sub_((first / down).mul_(rates[:, None] / (1 - _BETAS[0] ** step)))


def _fits(work: Callable[[], None]) -> bool:
    """Do a step's passes; False if memory ran out. The error is dropped here, and with it the tensors it holds."""
    try:
        work()
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return False
    return True


def _gradients(
    model: PreTrainedModel,
    lot: Lot,
    records: np.ndarray,
    at_once: int,
    total: torch.Tensor,
    buffer: torch.Tensor,
    losses: torch.Tensor,
) -> None:
    """Put a step's gradients into ``total`` (M, p), through ``buffer``, and its mean answer losses into ``losses``."""
    m = len(records)
    total[:m].zero_()
    losses.zero_()
    counts = np.maximum(lot.answers[records].sum(axis=1), 1)
    numbers = np.arange(records.shape[1])
    parts = passes(lot.lengths[records], at_once)
    for columns in np.split(numbers, np.cumsum([part.shape[1] for part in parts])[:-1]):
        if buffer is not total:
            buffer[:m].zero_()
        _pass(model, lot, records[:, columns], counts, losses)
        if buffer is not total:
            total[:m].add_(buffer[:m])


def _pass(model: PreTrainedModel, lot: Lot, records: np.ndarray, counts: np.ndarray, losses: torch.Tensor) -> None:
    """Forward and backward over some records of every adapter."""
    m, flat = len(records), records.reshape(-1)
    if not lot.lengths[flat].any():  # the last batch of an epoch may be short: here is none of its records
        return
    width = width_of(lot.lengths[flat].max())
    ids = np.pad(lot.tokens[flat, :width], ((0, 0), (0, max(0, width - lot.tokens.shape[1]))))
    row, position = np.nonzero(lot.wanted[flat, 1:width])  # the state before a token tells of it
    arm = row // records.shape[1]
    target, share = ids[row, position + 1], (1 / counts)[arm]
    places = _to(np.stack([row * width + position, target, arm]).astype(np.int64), model.device)
    share, ids = _to(share.astype(np.float32), model.device), _to(ids.astype(np.int64), model.device)
    # Padded on the right, a causal model needs no mask: no token sees what comes after it.
    states = decoder(model)(input_ids=ids, use_cache=False).last_hidden_state
    states = states.reshape(-1, states.shape[-1]).index_select(0, places[0])
    token_losses, gradient = _answer_loss(model, states.detach(), places[1], share)
    losses[:m].index_add_(0, places[2], token_losses)
    states.backward(gradient)


def _answer_loss(
    model: PreTrainedModel, states: torch.Tensor, targets: torch.Tensor, share: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Each answer token's share of its adapter's loss, and the gradient at the states; some logits at a time."""
    import torch

    some = max(64, positions_at_once(model))
    losses, gradients = [], []
    for part, wanted, weight in zip(states.split(some), targets.split(some), share.split(some), strict=True):
        part = part.requires_grad_()
        loss = torch.nn.functional.cross_entropy(logits(model, part), wanted, reduction="none") * weight
        gradients.append(torch.autograd.grad(loss.sum(), part)[0])
        losses.append(loss.detach())
    return torch.cat(losses), torch.cat(gradients)


def _to(values: np.ndarray, device: torch.device) -> torch.Tensor:
    """A tensor on the device, copied without waiting for it."""
    import torch

    tensor = torch.from_numpy(values)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


@contextmanager
def _frozen(model: PreTrainedModel) -> Iterator[None]:
    """The base in train mode without gradients of its own; both as before afterwards."""
    training, wanted = model.training, [p for p in model.parameters() if p.requires_grad]
    for parameter in wanted:
        parameter.requires_grad_(False)
    model.train()
    try:
        yield
    finally:
        for parameter in wanted:
            parameter.requires_grad_(True)
        model.train(training)


@contextmanager
def _bar(progress: bool, steps: int) -> Iterator[tqdm | None]:
    from tqdm.auto import tqdm

    if not progress:
        yield None
        return
    with tqdm(total=steps, unit="step", desc="train together") as bar:
        yield bar
