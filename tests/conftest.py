"""Settings for all tests: no hub, no telemetry, quiet libraries, real records only where they exist."""

from __future__ import annotations

import os
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.pop("ASSL_RUNS", None)

import pytest  # noqa: E402
from helpers import ROOT  # noqa: E402


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real records beside the checkout; tests that need it are skipped where it is absent."""
    folder = ROOT.parent / "shared" / "data"
    if not (folder / "mini.jsonl.gz").is_file():
        pytest.skip("needs the folder shared/data beside the checkout, which is not here")
    return folder
