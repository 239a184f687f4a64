"""Which card this is, what its data sheet says, and what products and copies of rows reach on it."""

from __future__ import annotations

import datetime
import os
import platform
import re
import subprocess
import time
from collections.abc import Callable
from typing import Any

import torch

from benchmarks.machine import ROOT, cores, cpu_name, load, versions

PACKAGES = (
    "numpy",
    "torch",
    "transformers",
    "peft",
    "trl",
    "accelerate",
    "bitsandbytes",
    "liger-kernel",
    "flash-attn",
    "triton",
    "numba",
)
SHEETS = {
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L4": 121e12,
    "A10": 125e12,
    "T4": 65e12,  # float16: it has no bfloat16
}
"""FLOP/s of dense half-precision products with float32 sums, by the makers' data sheets; the first name that fits."""


def name_of(device: str) -> str:
    """The card's name, or the processor's."""
    return torch.cuda.get_device_name() if device == "cuda" else cpu_name()


def file_of(name: str) -> str:
    """The name of a card's file of results.

    Examples
    --------
    >>> file_of("NVIDIA H100 80GB HBM3")
    'gpu-nvidia-h100-80gb-hbm3.json'
    """
    return f"gpu-{re.sub('[^a-z0-9]+', '-', name.lower()).strip('-')}.json"


def peak_of(name: str) -> float | None:
    """FLOP/s of half-precision products by the card's data sheet; None where it is not known here.

    Examples
    --------
    >>> peak_of("NVIDIA A100-SXM4-40GB"), peak_of("Intel(R) Xeon(R) Processor")
    (312000000000000.0, None)
    """
    return next((peak for card, peak in SHEETS.items() if re.search(rf"\b{card}\b", name)), None)


def about(device: str, threads: int) -> dict[str, Any]:
    """What made the numbers of a file."""
    git = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    facts: dict[str, Any] = {
        "card": name_of(device),
        "device": device,
        "date": datetime.date.today().isoformat(),
        "commit": os.environ.get("ASSL_COMMIT") or git.stdout.strip() or None,
        "python": platform.python_version(),
        "versions": versions(PACKAGES),
        "cpu": cpu_name(),
        "cores": cores(),
        "threads_of_the_cpu": threads,
        "load_at_start": load(),
    }
    if device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        facts |= {
            "card_gb": round(properties.total_memory / 2**30, 1),
            "capability": f"{properties.major}.{properties.minor}",
            "cuda": torch.version.cuda,
            "peak_flops_by_data_sheet": peak_of(properties.name),
        }
    return facts


def synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def seconds_of(work: Callable[[], Any], device: str, times: int) -> float:
    """Seconds of one call, the mean of several, after one that is not counted."""
    work()
    synchronize(device)
    start = time.perf_counter()
    for _ in range(times):
        work()
    synchronize(device)
    return (time.perf_counter() - start) / times


def rates(device: str, n: int = 8192) -> dict[str, Any]:
    """TFLOP/s of n × n × n products by dtype, GB/s of a copy on the card and of one to it, and the free memory."""
    facts: dict[str, Any] = {"n": n}
    for name, dtype in (("bfloat16", torch.bfloat16), ("float16", torch.float16), ("float32", torch.float32)):
        one, other = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
        seconds = seconds_of(lambda a=one, b=other: a @ b, device, 10)
        facts[f"{name}_tflops"] = round(2 * n**3 / seconds / 1e12, 3)
    rows = torch.randn(n, n)
    there = rows.to(device)
    facts["copy_gb_s"] = round(2 * rows.nbytes / seconds_of(there.clone, device, 10) / 1e9, 1)
    if device == "cuda":
        facts["upload_gb_s"] = round(rows.nbytes / seconds_of(lambda: rows.to(device), device, 3) / 1e9, 1)
        facts["free_gb"] = round(torch.cuda.mem_get_info()[0] / 2**30, 1)
    return facts
