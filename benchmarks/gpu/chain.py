"""The chain of the embedded corpus on the device and on the CPU: which artifacts are the same bytes."""

from __future__ import annotations

import math
import tempfile
import time
from typing import Any

import numpy as np

from assl_kit.artifacts.parameters import resolve
from assl_kit.artifacts.steps import STEPS, require
from assl_kit.artifacts.workspace import Workspace

SETTINGS = {"n_records": 900, "score": "nll", "mmr_relevance": 0.4, "mmr_score": 0.2, "mmr_diversity": 0.4}
SETTINGS |= {"pool_factor": 3.0, "warmup_records": 64, "n_test": 10, "affinity_records": 8, "regret_per_task": 2}
SMALL = {"n_records": 240, "n_clusters": 2, "n_select": 24, "warmup_records": 8, "epochs": 1, "affinity_records": 0}
SMALL |= {"max_new_tokens": 4, "max_length": 128, "n_test": 1, "regret_per_task": 0, "full_epochs": 0}


def compared(device: str, settings: dict[str, Any], last: str = "metrics") -> dict[str, Any]:
    """Make the artifacts up to ``last`` twice; of each: same bytes or not. And the numbers of the results table.

    ``largest_difference`` is the largest between two numbers at the same place of ``metrics``, or of the selection's
    tables where the chain ends before; infinite where there is none beside it.
    """
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other:
        spaces, seconds = [Workspace.open(one), Workspace.open(other)], []
        values = []
        for place, where in zip(spaces, ("cpu", device), strict=True):
            start = time.perf_counter()
            values.append(require(place, last, resolve("tiny", **SETTINGS | settings | {"device": where})))
            seconds.append(round(time.perf_counter() - start, 1))
        sums = [{name: entry["sha256"] for name, entry in ws.manifest()["artifacts"].items()} for ws in spaces]
        files = [step.file for step in STEPS.values() if step.file in sums[0]]
    same = {file: sums[0][file] == sums[1][file] for file in files}
    gap = difference(*(value if isinstance(value, dict) else value.to_dict("list") for value in values))
    return {
        "settings": SETTINGS | settings,
        "seconds_cpu": seconds[0],
        f"seconds_{device}": seconds[1],
        "same_bytes": same,
        "largest_difference": gap if math.isfinite(gap) else "other texts or another form",
    }


def difference(one: Any, other: Any) -> float:
    """The largest difference of two numbers at the same place; infinite where the form or a text differs.

    Examples
    --------
    >>> difference({"a": [1, 2.0], "b": "x"}, {"a": [1, 2.5], "b": "x"}), difference({"a": 1}, {"b": 1})
    (0.5, inf)
    """
    if isinstance(one, dict) and isinstance(other, dict):
        if one.keys() != other.keys():
            return math.inf
        return max((difference(one[key], other[key]) for key in one), default=0.0)
    if isinstance(one, list | tuple | np.ndarray) and isinstance(other, list | tuple | np.ndarray):
        if len(one) != len(other):
            return math.inf
        return max((difference(a, b) for a, b in zip(one, other, strict=True)), default=0.0)
    numbers = (int, float, np.number)
    if isinstance(one, numbers) and isinstance(other, numbers):
        return 0.0 if one == other or (one != one and other != other) else abs(float(one) - float(other))
    return 0.0 if one == other else math.inf
