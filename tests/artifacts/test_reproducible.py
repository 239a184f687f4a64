"""The same command in two clones gives the same selection, clusters, routes and measures."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from functools import partial

import numpy as np
import pandas as pd
import pytest
from helpers import ROOT

from assl_kit.artifacts.workspace import Workspace
from assl_kit.experts.bank import ExpertBank

pytestmark = pytest.mark.long

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
MEASURE = """
from assl_kit.artifacts.steps import require
from assl_kit.artifacts.workspace import Workspace
ws = Workspace.open("runs/tiny")
require(ws, "metrics", ws.current_parameters())
"""


@pytest.fixture(scope="module")
def two_runs(tmp_path_factory):
    """Copies of the project in two folders, each with a run of notebook 07 and all that it needs, then the measures.

    Notebook 08 itself asserts what only the full size shows.
    """
    given = [item for name, value in SMALL.items() for item in ("-p", name, str(value))]
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
        *given,
    ]
    starts, folders = [], []
    for name in ("one", "another-place"):
        folder = tmp_path_factory.mktemp(name) / "clone"
        ignore = shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints")
        for part in ("assl_kit", "notebooks", "benchmarks"):
            shutil.copytree(ROOT / part, folder / part, ignore=ignore)
        shutil.copy(ROOT / "pyproject.toml", folder)
        environment = os.environ | {"PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
        environment.pop("ASSL_WORKSPACE", None)
        start = partial(subprocess.Popen, cwd=folder, env=environment, stdout=subprocess.DEVNULL)
        starts.append(start)
        folders.append(folder)
    for arguments in (command, [sys.executable, "-c", MEASURE]):
        assert [process.wait() for process in [start(arguments) for start in starts]] == [0, 0]
    return [Workspace.open(folder / "runs" / "tiny") for folder in folders]


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
