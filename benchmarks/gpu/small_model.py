"""Gemma 3 270M on the device: one adapter and twelve at once, scoring, answering; as `benchmarks.evidence.gpu` does."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import pandas as pd

from assl_kit.data.synthetic import make_corpus
from assl_kit.model.identity import TINY_BASE
from benchmarks.evidence.gpu import Run, Study, write_study

ARMS = 12


GEMMA_270M = {
    "vocab_size": 262_144,
    "hidden_size": 640,
    "intermediate_size": 2048,
    "num_hidden_layers": 18,
    "num_attention_heads": 4,
    "num_key_value_heads": 1,
    "head_dim": 256,
    "query_pre_attn_scalar": 256,
    "sliding_window": 512,
    "max_position_embeddings": 32_768,
}


def measured(base: str, device: str, small: bool) -> dict[str, Any]:
    """Tokens a second in training (one adapter, and all arms together), scored records and answers a second, memory.

    Without a folder of Gemma 3 270M the weights are random in its shape, and the tokenizer is the tiny base's: speed
    does not depend on the weights, but for answers, which then have their full length.
    """
    if base == "tiny" or Path(base).is_dir() and base:
        return _measured(base, device, small) | {"weights": base if base == "tiny" else "Gemma 3 270M"}
    with tempfile.TemporaryDirectory() as folder:
        random_gemma(Path(folder), {"num_hidden_layers": 2, "vocab_size": 8000} if small else {})
        return _measured(folder, device, small) | {"weights": "random, in Gemma 3 270M's shape"}


def random_gemma(folder: Path, change: dict[str, Any]) -> None:
    """Write a Gemma 3 of random weights with the tiny base's tokenizer."""
    import torch
    from transformers import AutoTokenizer, Gemma3ForCausalLM, Gemma3TextConfig

    tokenizer = AutoTokenizer.from_pretrained(str(TINY_BASE))
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id, "bos_token_id": None}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Gemma3ForCausalLM(Gemma3TextConfig(**(GEMMA_270M | change), **ends)).to(torch.bfloat16)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _measured(base: str, device: str, small: bool) -> dict[str, Any]:
    corpus = make_corpus(240 if small else 8000, seed=0)
    train = corpus[corpus["split"] == "train"].head(60 if small else 6000)
    test = corpus[corpus["split"] == "test"].head(4 if small else 600)
    size, epochs = (8, 2) if small else (640, 6)
    arms = [
        {"arm": f"arm {i}", "seed": 0, "ids": train["id"].sample(size, random_state=i), "epochs": epochs}
        for i in range(2 if small else ARMS)
    ]
    settings = {"rank": 4, "alpha": 8, "batch_size": 4, "max_length": 128, "max_new_tokens": 4} if small else {}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        write_study(folder / "study", {0: pd.concat([train, test], ignore_index=True)}, arms, "speed", **settings)
        ends = time.perf_counter() + 600
        run = Run(Study.read(folder / "study"), base, folder / "out", device, ends, None, len(arms))
        run.load()
        run.aside("checks", run.checks)
        run.wave(run.study.arms, "together")
        run.aside("one at a time", run.alone)
        parts = {part.pop("part"): part for part in run.results["parts"]}
    together = next(part for name, part in parts.items() if name.startswith("together"))
    one = parts["one at a time"]["answering_seconds"]
    together["answering_times_as_fast"] = round(len(arms) * one / together["answering_seconds"], 2)
    for part in parts.values():
        part.pop("trace", None)
        part.pop("arms", None)
    return {"made": run.results["made"], "arms": len(arms), "parts": parts}
