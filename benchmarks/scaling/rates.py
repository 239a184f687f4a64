"""What of the sums a card has shown: from the files of ``benchmarks.gpu``, or else from the first runs on one H100."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from assl_kit.common.files import read_json
from benchmarks.machine import RESULTS

Fact = tuple[float, str, str]
"""Value, what it is, where it is from."""


def measured(folder: Path = RESULTS) -> dict[str, Fact]:
    """Rates of one card, by name.

    Parameters
    ----------
    folder : pathlib.Path
        Where the results are. Of several cards' files the one of the fastest training counts.

    Returns
    -------
    dict of str to Fact
        ``bf16``, ``fp32``, ``products``, ``training``.
    """
    training, kernels = read_json(folder / "training_h100.json"), read_json(folder / "kernels_h100.json")
    first = training["records"][0]
    bf16 = next(record["low"] for record in training["records"] if record["what"] == "product in bfloat16")
    facts = {
        "bf16": _bf16(float(bf16), training["header"]["card"], "training_h100.json"),
        "training": _training((first["low"] + first["high"]) / 2, training["header"]["card"], "training_h100.json"),
    } | _kernels(kernels["records"], kernels["header"]["d"], kernels["header"]["device"], "kernels_h100.json")
    for file in sorted(folder.glob("gpu-*.json"), key=lambda file: _fastest(read_json(file)) or 0.0):
        content = read_json(file)
        card, parts = content["about"]["card"], content["parts"]
        if "card" in parts:
            facts["bf16"] = _bf16(parts["card"]["bfloat16_tflops"], card, file.name)
        if speed := _fastest(content):
            facts["training"] = _training(speed, card, file.name)
        if part := parts.get("kernels, 40,000"):
            facts |= _kernels(part["records"], part["d"], card, file.name)
    return facts


def _fastest(content: dict[str, Any]) -> float | None:
    """Tokens a second of the best training of the 7B shape in a file, None without one."""
    speeds = [part.get("tokens_per_second") for name, part in content["parts"].items() if "7B" in name]
    return max(filter(None, speeds), default=None)


def _bf16(tflops: float, card: str, file: str) -> Fact:
    return tflops * 1e12, "FLOP/s of a large product in bfloat16", f"measured: {card}, {file}"


def _training(speed: float, card: str, file: str) -> Fact:
    return speed, "tokens/s of LoRA on 7.7 billion weights, packed", f"measured: {card}, {file}"


def _kernels(records: list[dict[str, Any]], d: int, card: str, file: str) -> dict[str, Fact]:
    """The float32 product of all pairs, and how many of them A-DBSCAN takes, at the largest size with all three."""
    seconds: dict[int, dict[str, float]] = {}
    for record in records:
        if record["device"] == "cuda" and record.get("data", "blobs") == "blobs":
            kernel = "product" if record["system"].startswith("GEMM") else record["kernel"]
            seconds.setdefault(record["n"], {})[kernel] = record["seconds"]
    whole = {n: by for n, by in seconds.items() if {"product", "adbscan", "thin"} <= by.keys()}
    if not whole:
        return {}
    n = max(whole)
    by, where = whole[n], f"measured at {n:,} × {d}: {card}, {file}"
    products = (by["adbscan"] + by["thin"]) / by["product"]
    return {
        "fp32": (2 * n**2 * d / by["product"], "FLOP/s of the float32 product of all pairs of rows", where),
        "products": (products, "such products that A-DBSCAN's fit and thinning take", where),
    }
