"""LoRA on a base of random weights in the shape of Qwen1.5-7B: tokens a second, MFU, the first steps, memory.

Speed does not depend on what the weights are. Records are made of the embedded corpus, several of it in each, and have
about the paper's length.
"""

from __future__ import annotations

import gc
import shutil
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pandas as pd
import torch
from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM, TrainerCallback

from assl_kit.common.device import peak_memory_mb
from assl_kit.data.synthetic import make_corpus
from assl_kit.experts.training import flat
from assl_kit.experts.training.adapter import train_adapter
from assl_kit.experts.training.config import TrainingConfig
from assl_kit.experts.training.data import Encoded, encode_records, plan_training
from assl_kit.experts.training.session import Session
from assl_kit.model.identity import TINY_BASE

from .book import LeftOut
from .card import peak_of, synchronize
from .flops import flops_a_token

QWEN_7B = {
    "vocab_size": 151_936,
    "hidden_size": 4096,
    "intermediate_size": 11_008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "max_position_embeddings": 32_768,
    "rope_theta": 1_000_000.0,
    "tie_word_embeddings": False,
}
SMALL = {
    "vocab_size": 6_000,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "tie_word_embeddings": False,
}
PACKED = TrainingConfig(epochs=1, batch_size=2, gradient_accumulation=2, max_length=2048, packing=True, compiled=True)
"""Four rows of 2,048 tokens a step, two at a time; r 16, α 32. The first runs were measured with it."""
LONG = replace(PACKED, max_length=4096, batch_size="auto", gradient_accumulation=1)
"""Eight rows of 4,096 tokens a step, as many at a time as the card holds."""
FIRST = 3  #: steps that are told apart: allocator, cuBLAS and shapes start anew


class Lab:
    """The random base and its tokenizer, made when they are first asked for and kept until `release`.

    Parameters
    ----------
    device : str
    shape : dict
        What the configuration differs in from Qwen2's.
    tokens : int
        Mean tokens of a record, about.
    """

    def __init__(self, device: str, shape: dict[str, Any], tokens: int):
        self.device, self.shape, self.tokens = device, shape, tokens
        self.tokenizer = AutoTokenizer.from_pretrained(str(TINY_BASE))
        self._model: Qwen2ForCausalLM | None = None

    @property
    def dtype(self) -> torch.dtype:
        return torch.bfloat16 if self.device == "cuda" else torch.float32

    def base(self) -> Qwen2ForCausalLM:
        """The base on its device, of random weights."""
        if self._model is None:
            self._model = random_base(self.shape, self.device, self.dtype, self.tokenizer)
        return self._model

    def release(self) -> None:
        """Forget the base; its memory is free for others."""
        self._model = None
        gc.collect()
        if self.device == "cuda":
            torch.cuda.empty_cache()

    def records(self, n: int) -> pd.DataFrame:
        """``n`` records of about ``tokens`` tokens on average, a third of them answer."""
        corpus = make_corpus(400, seed=0)
        texts = [str(text) for text in corpus["input"] if text]
        rng = np.random.default_rng(0)
        each = np.mean([len(ids) for ids in self.tokenizer(texts[:100])["input_ids"]])
        rows = []
        for number in range(n):
            pieces = max(1, round(self.tokens * rng.uniform(0.4, 1.6) / each))
            chosen = [texts[i] for i in rng.integers(len(texts), size=pieces)]
            cut = max(1, pieces // 3)  # about a third of the tokens are answers
            rows.append((f"r{number}", "", "".join(chosen[cut:]), "".join(chosen[:cut])))
        return pd.DataFrame(rows, columns=["id", "instruction", "input", "output"]).assign(
            instruction="回答下面的问题。"
        )


def random_base(
    shape: dict[str, Any], device: str, dtype: torch.dtype, tokenizer: Any, seed: int = 0
) -> Qwen2ForCausalLM:
    """A Qwen2 of this shape with random weights, made on the device, without gradients."""
    config = Qwen2Config(**shape, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.random.fork_rng(), torch.device(device):
            torch.manual_seed(seed)
            model = Qwen2ForCausalLM(config)
    finally:
        torch.set_default_dtype(before)
    return model.requires_grad_(False).eval()


class Enough(Exception):
    """A training has been watched for long enough; nothing of it is kept."""


class Clock(TrainerCallback):
    """Seconds since the start after each step; waits for the device after the first few and each fifth.

    The losses and gradient norms of the first steps are kept: by them another way of computing is seen to be the same.
    """

    def __init__(self, device: str, seconds: float):
        self.device, self.seconds = device, seconds
        self.times: list[float] = []
        self.losses: list[float] = []
        self.norms: list[float] = []

    def on_log(self, args, state, control, logs=None, **_):
        if logs and "grad_norm" in logs and len(self.losses) < 2 * FIRST:
            self.losses.append(round(float(logs["loss"]), 5))
            self.norms.append(round(float(logs["grad_norm"]), 5))

    def on_train_begin(self, args, state, control, **_):
        synchronize(self.device)
        self.start, self.times = time.perf_counter(), []

    def on_step_end(self, args, state, control, **_):
        if state.global_step <= FIRST or state.global_step % 5 == 0:
            synchronize(self.device)
        last = state.global_step == state.max_steps
        last |= state.global_step > 2 * FIRST and time.perf_counter() - self.start > self.seconds
        if last:
            synchronize(self.device)
        self.times.append(time.perf_counter() - self.start)
        if last:
            raise Enough


def trained(
    lab: Lab,
    config: TrainingConfig,
    n: int,
    seconds: float,
    model: Any = None,
    callbacks: Sequence[TrainerCallback] = (),
) -> dict[str, Any]:
    """Train on ``n`` records for about so many seconds by `train_adapter`, and give what it reached."""
    model = lab.base() if model is None else model
    records, clock = lab.records(n), Clock(lab.device, seconds)
    session = Session(base_fingerprint="random weights", callbacks=[clock, *callbacks])
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(record=True) as caught, suppress(Enough):
        warnings.simplefilter("always")
        train_adapter(model, lab.tokenizer, records, Path(folder) / "a", config, session)
    notes = [str(warning.message) for warning in caught if "out of memory" in str(warning.message)]
    encoded = encode_records(model, lab.tokenizer, records, config.max_length)
    facts = reached(clock.times, encoded, config, model.config, lab.device)
    asked = {name: getattr(config, name) for name in ("rank", "alpha", "batch_size", "gradient_accumulation")}
    asked |= {name: getattr(config, name) for name in ("max_length", "packing", "checkpointing", "compiled")}
    memory = round(peak_memory_mb(lab.device) / 1024, 2)
    first = {"first_losses": clock.losses, "first_gradient_norms": clock.norms}
    return facts | {"settings": asked, "memory_gb": memory, "notes": notes} | first


def reached(
    times: Sequence[float], encoded: Encoded, config: TrainingConfig, shape: Any, device: str
) -> dict[str, Any]:
    """Tokens a second after the first steps, MFU by it, and the seconds of the first steps beside the rest."""
    plan, steps = plan_training(encoded, config), len(times)
    later = plan.tokens_of(FIRST, steps) / (times[-1] - times[FIRST - 1])
    rows = [row for step in plan.rows[: steps * plan.per_step] for row in step]
    lengths = [len(encoded.input_ids[row]) for row in rows]
    answers = sum(label != -100 for row in rows for label in encoded.labels[row]) / sum(lengths)
    each = flops_a_token(shape, config.rank, lengths, answers)
    peak = peak_of(torch.cuda.get_device_name()) if device == "cuda" else None
    first = np.diff([0.0, *times[:FIRST]])
    return {
        "steps": steps,
        "records": len(rows),
        "tokens_a_record": round(float(np.mean(lengths)), 1),
        "answer_share": round(answers, 3),
        "tokens_per_second": round(later, 1),
        "flops_a_token": float(f"{each:.4g}"),
        "tflops": round(later * each / 1e12, 3),
        "mfu": round(later * each / peak, 4) if peak else None,
        "first_steps_seconds": [round(float(s), 3) for s in first],
        "later_steps_seconds": round((times[-1] - times[FIRST - 1]) / (steps - FIRST), 3),
    }


@contextmanager
def as_before() -> Iterator[None]:
    """Padded rows with a mask, on a card too, as it was before there were flat ones."""
    with mock.patch.object(flat, "supported", lambda model: False):
        yield


def trained_as_before(lab: Lab, config: TrainingConfig, n: int, seconds: float) -> dict[str, Any]:
    """`trained`, the old way, for comparison on the same card."""
    with as_before():
        return trained(lab, config, n, seconds)


def one_a_row(config: TrainingConfig) -> TrainingConfig:
    """The same tokens a step, about, with one record a row: not packed."""
    return replace(config, packing=False, batch_size=16, gradient_accumulation=1, max_length=config.max_length // 2)


def recomputed(config: TrainingConfig) -> TrainingConfig:
    """All rows of a step at a time, activations recomputed."""
    rows = config.batch_size * config.gradient_accumulation
    return replace(config, checkpointing=True, batch_size=rows, gradient_accumulation=1)


def profiled(lab: Lab, config: TrainingConfig, n: int) -> dict[str, Any]:
    """Two steps after the first ones under torch's profiler, before and now: the dearest operations, casts, waits."""
    with as_before():
        before = _profiled(lab, config, n)
    return {"before": before, "now": _profiled(lab, config, n)}


def _profiled(lab: Lab, config: TrainingConfig, n: int) -> dict[str, Any]:
    from torch.profiler import ProfilerActivity, profile

    kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if lab.device == "cuda" else [])]
    profiler = profile(activities=kinds)

    class Window(TrainerCallback):
        def on_step_begin(self, args, state, control, **_):
            if state.global_step == FIRST:
                profiler.start()

        def on_step_end(self, args, state, control, **_):
            if state.global_step == FIRST + 2:
                synchronize(lab.device)
                profiler.stop()
                raise Enough

    with tempfile.TemporaryDirectory() as folder, suppress(Enough):
        session = Session(base_fingerprint="random weights", callbacks=[Window()])
        train_adapter(lab.base(), lab.tokenizer, lab.records(n), Path(folder) / "a", config, session)
    events = profiler.key_averages()
    spent = "self_device_time_total" if lab.device == "cuda" else "self_cpu_time_total"
    dearest = sorted(events, key=lambda event: -getattr(event, spent))[:15]
    whole = sum(getattr(event, spent) for event in events)
    counts = {event.key: event.count for event in events}
    waits = ("aten::_local_scalar_dense", "aten::nonzero", "cudaStreamSynchronize", "cudaDeviceSynchronize")
    return {
        "steps": 2,
        "milliseconds": round(whole / 1000, 2),
        "operations": sum(counts.values()),
        "casts": counts.get("aten::_to_copy", 0),
        "waits": {name: counts[name] for name in waits if name in counts},
        "dearest": [
            {
                "operation": event.key[:80],
                "calls": event.count,
                "milliseconds": round(getattr(event, spent) / 1000, 2),
                "share": round(getattr(event, spent) / whole, 4),
            }
            for event in dearest
        ],
    }


def in_four_bits(lab: Lab, config: TrainingConfig, n: int, seconds: float) -> dict[str, Any]:
    """The same on a base in NF4, loaded as a run loads it: the random base is written to a temporary folder first."""
    from importlib.util import find_spec

    from assl_kit.model.loading import load_base

    if find_spec("bitsandbytes") is None:
        raise LeftOut("bitsandbytes is not installed")
    with tempfile.TemporaryDirectory() as folder:
        weights = sum(p.numel() * p.element_size() for p in lab.base().parameters())
        if shutil.disk_usage(folder).free < 1.2 * weights:
            raise LeftOut(f"the temporary folder has no {weights / 2**30:.0f} GB for the weights")
        lab.base().save_pretrained(folder)
        lab.tokenizer.save_pretrained(folder)
        lab.release()
        start = time.perf_counter()
        model, _ = load_base(folder, device=lab.device, quantization="nf4")
        loading = time.perf_counter() - start
    facts = trained(lab, config, n, seconds, model)
    return facts | {"loading_seconds": round(loading, 1)}
