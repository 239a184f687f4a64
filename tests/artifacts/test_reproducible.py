"""The same command in two clones gives the same selection, clusters, routes and measures."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from helpers import ROOT

from assl_kit.artifacts.workspace import Workspace
from assl_kit.experts.bank import ExpertBank

pytestmark = pytest.mark.slow

SMALL = {
    "n_records": 240,
    "n_clusters": 3,
    "n_select": 30,
    "warmup_records": 8,
    "epochs": 1,
    "affinity_records": 0,
    "n_test": 2,
    "regret_per_task": 1,
    "max_new_tokens": 6,
    "max_length": 128,
    "full_epochs": 1,
}
MEASURE = f"""
import assl_kit.artifacts.build_experts as build_experts
from assl_kit.artifacts.parameters import resolve
from assl_kit.artifacts.steps import require
from assl_kit.artifacts.workspace import Workspace
JOBS
require(Workspace.open("runs/tiny"), "metrics", resolve("tiny", **{SMALL}))
"""


@pytest.fixture(scope="module")
def two_runs(tmp_path_factory):
    """Copies of the project in two folders, each with a run up to the measures, by the command or by Python.

    The command runs notebook 07 and all that it needs; notebook 08 itself asserts what only the full size shows. The
    other trains one after the other what the first shares out over processes.
    """
    changes = [item for name, value in SMALL.items() for item in ("-p", name, str(value))]
    command = [
        sys.executable,
        "-m",
        "assl_kit.app.cli",
        "run",
        "--profile",
        "tiny",
        "--from",
        "07",
        "--to",
        "07",
        *changes,
    ]
    alone = "build_experts.training_jobs = lambda p: 1"
    one = [command, [sys.executable, "-c", MEASURE.replace("JOBS", "")]]
    other = [[sys.executable, "-c", MEASURE.replace("JOBS", alone)]]
    workspaces = []
    for name, calls in (("one", one), ("another-place", other)):
        folder = tmp_path_factory.mktemp(name) / "clone"
        ignore = shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints")
        for part in ("assl_kit", "notebooks", "benchmarks"):
            shutil.copytree(ROOT / part, folder / part, ignore=ignore)
        shutil.copy(ROOT / "pyproject.toml", folder)
        environment = os.environ | {"PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
        environment.pop("ASSL_WORKSPACE", None)
        for arguments in calls:
            subprocess.run(arguments, cwd=folder, env=environment, stdout=subprocess.DEVNULL, check=True)
        workspaces.append(Workspace.open(folder / "runs" / "tiny"))
    return workspaces


def test_every_artifact_has_the_same_bytes(two_runs):
    one, other = (ws.manifest()["artifacts"] for ws in two_runs)
    assert set(one) == set(other) and len(one) >= 11
    assert {name: entry["sha256"] for name, entry in one.items()} == {n: e["sha256"] for n, e in other.items()}


def test_clusters_selection_routes_and_measures_are_the_same(two_runs):
    for name in ("clusters", "selection", "answers"):
        one, other = (ws.table(f"{name}.parquet") for ws in two_runs)
        pd.testing.assert_frame_equal(one, other)
        assert len(one) > 5
    one, other = (ws.json("metrics.json") for ws in two_runs)
    assert one == other and one["table"]


def test_losses_are_the_same(two_runs):
    one, other = (ExpertBank.from_pretrained(ws.path_of("experts")).info["experts"] for ws in two_runs)
    for a, b in zip(one, other, strict=True):
        assert len(a["log"]) > 0
        np.testing.assert_allclose(np.array(a["log"], float), np.array(b["log"], float), atol=1e-4)
