"""What scoring and answering share: batches that fit into memory, left cuts, and what a call reports."""

from __future__ import annotations

import gc
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from assl_kit.common.device import is_out_of_memory, peak_memory_mb
from assl_kit.errors import ParameterError

from .identity import unwrap

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass
class InferenceReport:
    """What calls of `answer_nll` or `generate_answers` did; calls given the same object add to it.

    Attributes
    ----------
    records, truncated : int
        Prompts, and prompts that lost tokens on their left.
    prompt_tokens, answer_tokens : int
        Tokens read and scored, or read and written; padding is not counted.
    seconds : float
    batch_size : int
        Records of the largest batch that went through.
    peak_memory_mb : float
        MiB allocated on the GPU, or resident of this process on a CPU, at most since it started; NaN where unknown.
    notes : list of str
        What was done about a lack of memory.

    Examples
    --------
    >>> InferenceReport(prompt_tokens=90, answer_tokens=10, seconds=2.0).tokens_per_second
    50.0
    """

    records: int = 0
    truncated: int = 0
    prompt_tokens: int = 0
    answer_tokens: int = 0
    seconds: float = 0.0
    batch_size: int = 0
    peak_memory_mb: float = float("nan")
    notes: list[str] = field(default_factory=list)

    @property
    def tokens_per_second(self) -> float:
        """Tokens of prompts and answers a second; NaN before the first call."""
        return (self.prompt_tokens + self.answer_tokens) / self.seconds if self.seconds else float("nan")

    @contextmanager
    def timed(self, model: torch.nn.Module) -> Iterator[None]:
        """Count the seconds of a ``with`` block, and the memory at its end."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds += time.perf_counter() - start
            self.peak_memory_mb = peak_memory_mb(unwrap(model).device.type)


def cut_left(ids: list[int], room: int, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The last ``room`` tokens of a prompt; a leading bos token stays, since some models (Gemma) fail without it.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> cut_left([2, 5, 6, 7], 3, SimpleNamespace(bos_token_id=2)), cut_left([5, 6], 3, SimpleNamespace(bos_token_id=2))
    ([2, 6, 7], [5, 6])
    """
    if len(ids) <= room:
        return ids
    keeps = room > 1 and tokenizer.bos_token_id is not None and ids[0] == tokenizer.bos_token_id
    return ids[:1] + ids[1 - room :] if keeps else ids[-room:]


def in_batches(
    work: Callable[[list[int]], None],
    model: torch.nn.Module,
    lengths: Sequence[int],
    batch_size: int | None,
    *,
    title: str,
    report: InferenceReport,
    progress: bool = False,
) -> None:
    """Call ``work`` with row numbers, batch by batch; a batch that does not fit into memory is halved.

    Parameters
    ----------
    work : callable
        Takes the row numbers of one batch. It is called again with half of them if memory runs out.
    model
        Decides the batch size where none is given.
    lengths : sequence of int, length n
        Tokens of each row. Batches hold rows of similar length, longest first, so that a lack of memory shows at once.
    batch_size : int or None
        Rows of a batch; None: what `batch_size_for` gives for its longest row.
    title : str
        Of the progress bar.
    report : InferenceReport
    progress : bool

    Raises
    ------
    ParameterError
        If not even one row fits into memory.
    """
    from tqdm.auto import tqdm

    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    start = 0
    most: int | None = None  # rows of a batch, once memory has run out
    with tqdm(total=len(order), desc=title, unit="record", disable=not progress) as bar:
        while start < len(order):
            rows = batch_size or batch_size_for(model, lengths[order[start]])
            batch = order[start : start + (rows if most is None else min(rows, most))]
            if _fits(work, batch):
                report.batch_size = max(report.batch_size, len(batch))
                start += len(batch)
                bar.update(len(batch))
                continue
            device = unwrap(model).device.type
            if len(batch) == 1:
                raise ParameterError(
                    f"out of memory ({device}) with one record of {lengths[batch[0]]} tokens",
                    where=title,
                    hint="Lower max_length, take a smaller base model or quantization='nf4', or more memory.",
                )
            most = len(batch) // 2
            note = f"{title}: out of memory ({device}) with {len(batch)} records at once; going on with {most}"
            report.notes.append(note)
            warnings.warn(note, stacklevel=3)
            _free(device)


def _fits(work: Callable[[list[int]], None], batch: list[int]) -> bool:
    """Do a batch; False if memory ran out. The error is dropped here, and with it the tensors it holds."""
    try:
        work(batch)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return False
    return True


def _free(device: str) -> None:
    import torch

    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()


SMALL_MODEL = 20_000_000
"""Weights below which a model's layers are too small for more than one CPU thread."""


def is_small(model: torch.nn.Module) -> bool:
    """Whether a torch model has fewer weights than `SMALL_MODEL`."""
    return sum(weights.numel() for weights in model.parameters()) < SMALL_MODEL


@contextmanager
def fitting_threads(model: torch.nn.Module) -> Iterator[None]:
    """Compute with one thread where a small model runs on a CPU; more would wait for each other.

    Measured on the tiny base: 3,400 tokens a second in training with one thread, 2,400 with two (ours). One thread also
    makes the result independent of the number of cores.

    Parameters
    ----------
    model : torch.nn.Module

    Examples
    --------
    >>> import torch
    >>> before = torch.get_num_threads()
    >>> with fitting_threads(torch.nn.Linear(2, 2)):
    ...     torch.get_num_threads()
    1
    >>> torch.get_num_threads() == before
    True
    """
    import torch

    threads = torch.get_num_threads()
    device = next(iter(model.parameters())).device.type
    if device == "cpu" and is_small(model):
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


_LOGITS = {"cpu": 1 << 24, "cuda": 1 << 28}


def positions_at_once(base: PreTrainedModel) -> int:
    """How many positions' logits are held at once, since a row of them is large: 64 of a vocabulary of 262,144.

    On a card 1,024, which fewer do not fill (ours).
    """
    held = _LOGITS.get(base.device.type, _LOGITS["cpu"])
    return max(1, held // base.config.get_text_config().vocab_size)


def batch_size_for(model: torch.nn.Module, length: int) -> int:
    """Records of ``length`` tokens that a model without gradients reads or continues at once.

    A small model gets 32. Else a batch may hold a number of tokens: 4,096 on a CPU, where more is no faster; on a GPU
    what half of the free memory holds of keys, values and activations (ours).

    Parameters
    ----------
    model : transformers.PreTrainedModel, or a PEFT model
    length : int
        Tokens of the longest record, those to be written among them.

    Returns
    -------
    int
        1 to 256.

    Examples
    --------
    >>> import torch
    >>> batch_size_for(torch.nn.Linear(2, 2), 512)
    32
    """
    import torch

    if is_small(model):
        return 32
    device = next(iter(model.parameters())).device
    tokens = 4096
    if device.type == "cuda":
        config = model.config.get_text_config()
        width, heads = config.hidden_size, config.num_attention_heads
        head_width = getattr(config, "head_dim", None) or width // heads
        key_heads = getattr(config, "num_key_value_heads", None) or heads
        between = getattr(config, "intermediate_size", None) or 4 * width
        cached = 2 * config.num_hidden_layers * key_heads * head_width  # numbers of a token that stay: keys and values
        passing = 8 * width + 3 * between  # and those of the layer that is just computed
        # Torch keeps memory that it has freed: it is free too.
        free = torch.cuda.mem_get_info(device)[0]
        free += torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        tokens = int(0.5 * free / (model.dtype.itemsize * (cached + passing)))
    return max(1, min(256, tokens // max(1, length)))
