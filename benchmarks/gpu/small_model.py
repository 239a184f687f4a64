"""Gemma 3 270M on the device: one adapter and twelve at once, scoring, answering; as `benchmarks.evidence.gpu` does."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import pandas as pd

from assl_kit.data.synthetic import make_corpus
from benchmarks.evidence.gpu import Run, Study, write_study

from .book import LeftOut

ARMS = 12


def measured(base: str, device: str, small: bool) -> dict[str, Any]:
    """Tokens a second in training (one adapter, and all arms together), scored records and answers a second, memory."""
    if base != "tiny" and not Path(base).is_dir():
        raise LeftOut("no folder of Gemma 3 270M was given (--gemma)")
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
    for part in parts.values():
        part.pop("trace", None)
        part.pop("arms", None)
    return {"made": run.results["made"], "arms": len(arms), "parts": parts}
