"""The selection's kernels on the device and, in the same run, on the CPU: seconds, ratio to the product, same bits."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from benchmarks.kernels.checks import check
from benchmarks.kernels.data import rows
from benchmarks.kernels.systems import MMR_WEIGHTS, SYSTEMS, System

from .book import LeftOut
from .card import synchronize
from .peers import PEERS

WARM_UP = 1000  #: rows of a first call, which compiles and loads
KERNELS = ("knn", "adbscan", "thin", "mmr", "kmeans", "stages")


def job_of(kernel: str, n: int, device: str, threads: int) -> dict[str, Any]:
    """The numbers a kernel needs, as in `benchmarks.kernels`."""
    k = 6 if kernel in {"kmeans", "stages"} else 16
    job = {"k": k, "min_samples": 10, "n_select": n // 10, "weights": MMR_WEIGHTS}
    return job | {"threads": threads, "device": device}


@contextmanager
def at_most(threads: int) -> Iterator[None]:
    """So many threads in every library, and in our kernels, which ask the BLAS."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with threadpool_limits(threads):
            yield
    finally:
        torch.set_num_threads(before)


def beside_the_cpu(
    n: int, d: int, device: str, threads: int, rounds: int, kernels: Sequence[str] = KERNELS, cpu: bool = True
) -> dict[str, Any]:
    """Records of our kernels on the device and on ``threads`` threads of the CPU, answers compared bit by bit."""
    X, records = rows("blobs", n, d), []
    here = [system for system in SYSTEMS if system.cuda and system.kernel in kernels]
    results: dict[str, dict[str, Any]] = {}
    state: dict[str, Any] = {}
    for system in here:
        record, result = timed(system, X, job_of(system.kernel, n, device, threads), state, rounds)
        results[f"{system.kernel} {system.name}"] = dict(result)  # a check adds to it
        verdict = check(system.kernel, system.name, X, job_of(system.kernel, n, device, threads), result, {})
        records.append(record | {"agrees": verdict.agrees, "note": verdict.note})
    if cpu:
        state = {}
        with at_most(threads):
            for system in here:
                record, result = timed(system, X, job_of(system.kernel, n, "cpu", threads), state, 1)
                on_device = next(r for r in records if (r["kernel"], r["system"]) == (system.kernel, system.name))
                on_device["same_as_cpu"] = same(results[f"{system.kernel} {system.name}"], result)
                records.append(record | {"threads": threads})
    for record in records:
        product = next((r["seconds"] for r in records if _is_product(r) and r["device"] == record["device"]), None)
        record["ratio_to_gemm"] = round(record["seconds"] / product, 3) if product else None
    return {"n": n, "d": d, "records": records}


def _is_product(record: dict[str, Any]) -> bool:
    return record["system"].startswith("GEMM")


def timed(
    system: System, X: np.ndarray, job: dict[str, Any], state: dict[str, Any], rounds: int
) -> tuple[dict[str, Any], dict[str, Any]]:
    """A record of a system's seconds and memory, and its last result; after a call on a few rows."""
    device, n = job["device"], len(X)
    few = min(n, WARM_UP)
    warm = state.setdefault("warm", {})
    system.run(X[:few], job | {"n_select": max(1, job["n_select"] * few // n)}, warm)
    seconds, result = [], {}
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    for _ in range(rounds):
        synchronize(device)
        start = time.perf_counter()
        result = system.run(X, job, state)
        synchronize(device)
        seconds.append((time.perf_counter() - start) * result.pop("factor", 1.0))
    peak = round(torch.cuda.max_memory_allocated() / 2**20, 1) if device == "cuda" else None
    record = {"kernel": system.kernel, "system": system.name, "n": n, "device": device, "peak_mb": peak}
    record |= {"seconds": round(statistics.median(seconds), 5), "seconds_all": [round(s, 5) for s in seconds]}
    return record, result


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two results hold the same bits.

    Examples
    --------
    >>> same({"picks": np.arange(3)}, {"picks": np.arange(3)}), same({"eps": 1.0}, {"eps": 1.5})
    (True, False)
    """
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


def peers(n: int, d: int, device: str, threads: int) -> dict[str, Any]:
    """Other libraries' kernels on the same rows: those that are installed; their errors are noted."""
    X, records, state = rows("blobs", n, d), [], {}
    ours = next(system for system in SYSTEMS if (system.kernel, system.name) == ("adbscan", "assl-kit"))
    job = job_of("adbscan", n, device, threads)
    eps = ours.run(X, job, state)["eps"]
    for system in PEERS:
        record = {"kernel": system.kernel, "system": system.name, "n": n, "device": device}
        if package := system.missing():
            records.append(record | {"seconds": None, "note": f"left out: {package} is not installed"})
            continue
        job = job_of(system.kernel, n, device, threads) | {"eps": eps}
        try:
            record, result = timed(system, X, job, {}, 3)
            verdict = check(system.kernel, system.name, X, job, result, {})
            records.append(record | {"agrees": verdict.agrees, "note": verdict.note})
        except Exception as error:  # whatever another library raises
            records.append(record | {"seconds": None, "note": f"failed: {type(error).__name__}: {error}"[:200]})
    if all(record["seconds"] is None for record in records):
        raise LeftOut("; ".join(f"{record['system']}: {record['note']}" for record in records))
    return {"n": n, "d": d, "eps": eps, "records": records}
