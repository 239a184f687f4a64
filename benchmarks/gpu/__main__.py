"""Measure on one GPU what is worth knowing, in minutes, with one command and no network.

    python -m benchmarks.gpu                        everything that fits into eight minutes
    python -m benchmarks.gpu --gemma FOLDER         with Gemma 3 270M itself, in the form that transformers loads
    python -m benchmarks.gpu --dry-run              small shapes on a CPU, to see that it works: seconds

`benchmarks/results/gpu-CARD.json` is written after each part. Started again, it goes on: what this commit has measured
is not measured again. Parts come by worth; one whose estimate does not fit into the minutes left is left out and named.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")

from benchmarks.machine import RESULTS, ROOT  # noqa: E402

from . import card, chain, kernels, small_model, training  # noqa: E402
from .book import Book, Part, measure  # noqa: E402


def parts_for(device: str, gemma: str, threads: int) -> list[Part]:
    """What is measured on a card, by worth; estimates are seconds on an H100."""
    lab = training.Lab(device, training.QWEN_7B, 425)
    packed = training.PACKED
    train = partial(training.trained, lab, n=1200, seconds=15)
    return [
        Part("card", 10, partial(card.rates, device)),
        Part("training, 7B, packed", 45, partial(train, packed, n=600)),
        Part("kernels, 40,000", 45, _alone(lab, kernels.beside_the_cpu, 40_000, 768, device, threads, 3)),
        Part("training, 7B, as before", 30, partial(training.trained_as_before, lab, packed, n=600, seconds=12)),
        Part("training, 7B, rows of 4,096", 40, partial(train, training.LONG, n=2400)),
        Part("Gemma 270M", 45, _alone(lab, small_model.measured, gemma, device, False)),
        Part("kernels, 220,000", 45, _alone(lab, _large_kernels, device, threads)),
        Part("training, 7B, profiled", 55, partial(training.profiled, lab, packed, 150)),
        Part("training, 7B, not compiled", 25, partial(train, replace(packed, compiled=False), n=600, seconds=12)),
        Part("chain", 80, _alone(lab, chain.compared, device, {})),
        Part("training, 7B, recomputed", 60, partial(train, training.recomputed(packed))),
        Part("training, 7B, NF4", 60, partial(training.in_four_bits, lab, packed, 600, 12)),
        Part("training, 7B, one record a row", 60, partial(train, training.one_a_row(packed))),
        Part("peers, 40,000", 40, _alone(lab, kernels.peers, 40_000, 768, device, threads)),
    ]


def small_parts(device: str, threads: int) -> list[Part]:
    """The same parts in small shapes, and without the two that a CPU needs long for."""
    lab = training.Lab(device, training.SMALL, 40)
    packed = replace(training.PACKED, max_length=128)
    train = partial(training.trained, lab, n=112, seconds=0.3)
    return [
        Part("card", 1, partial(card.rates, device, 256)),
        Part("training, packed", 1, partial(train, packed)),
        Part("training, as before", 1, partial(training.trained_as_before, lab, packed, 112, 0.3)),
        Part("training, rows of 4,096", 1, partial(train, replace(training.LONG, max_length=64))),
        Part("training, profiled", 1, partial(training.profiled, lab, packed, 60)),
        Part("kernels", 1, partial(kernels.beside_the_cpu, 700, 24, device, threads, 2)),
        Part("Gemma", 1, partial(small_model.measured, "tiny", device, True)),
        Part("chain", 1, partial(chain.compared, device, chain.SMALL, "selection")),
        Part("training, recomputed", 1, partial(train, training.recomputed(packed))),
        Part("training, NF4", 1, partial(training.in_four_bits, lab, packed, 100, 0.5)),
        Part("training, one record a row", 1, partial(train, training.one_a_row(packed))),
        Part("peers", 1, partial(kernels.peers, 700, 24, device, threads)),
    ]


def _alone(lab: training.Lab, work, *arguments):
    """The same work, with the large base forgotten first: its memory is wanted."""

    def released():
        lab.release()
        return work(*arguments)

    return released


def _large_kernels(device: str, threads: int) -> dict:
    names = ("knn", "kmeans", "stages")
    return kernels.beside_the_cpu(220_000, 768, device, threads, 1, names, cpu=False)


def main(arguments: list[str] | None = None) -> int:
    """Measure; 1 where a part failed."""
    started = time.perf_counter()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=8.0, help="from the start of the command (8)")
    parser.add_argument("--gemma", default="", metavar="FOLDER", help="Gemma 3 270M; else random weights in its shape")
    parser.add_argument("--threads", type=int, default=2, help="of the CPU that stands beside the card (2)")
    parser.add_argument("--only", nargs="+", metavar="PART", help="names of parts, or how they begin")
    parser.add_argument("--out", type=Path, help="folder of the file (benchmarks/results; runs/gpu for a dry run)")
    parser.add_argument("--dry-run", action="store_true", help="small shapes on a CPU")
    options = parser.parse_args(arguments)
    import torch

    def say(text: str) -> None:
        print(f"[{time.perf_counter() - started:6.1f} s] {text}", flush=True)

    if not options.dry_run and not torch.cuda.is_available():
        parser.error("there is no CUDA device on this machine; --dry-run tries everything small on a CPU")
    device = "cpu" if options.dry_run else "cuda"
    name = card.name_of(device)
    parts = small_parts(device, 1) if options.dry_run else parts_for(device, options.gemma, options.threads)
    if options.only:
        parts = [part for part in parts if part.name.startswith(tuple(options.only))]
        if not parts:
            parser.error(f"no part begins with {' or '.join(options.only)}")
    file = "gpu-dry-run.json" if options.dry_run else card.file_of(name)
    folder = options.out or (ROOT / "runs" / "gpu" if options.dry_run else RESULTS)
    book = Book(folder / file, card.about(device, 1 if options.dry_run else options.threads))
    say(f"{name}, {options.minutes:g} minutes, into {file}")
    measure(parts, book, started + 60 * options.minutes, say)
    names = [part.name for part in parts]
    missing = [part for part in names if not book.has(part)]
    say(f"{len(names) - len(missing)} parts measured" + (f"; not: {'; '.join(missing)}" if missing else ""))
    return 1 if any(part in book.content["failed"] for part in names) else 0


if __name__ == "__main__":
    sys.exit(main())
