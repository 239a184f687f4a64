"""Settings for all tests: no hub, no telemetry, quiet libraries, real records only where they exist."""

from __future__ import annotations

import os
import sys
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


@pytest.fixture
def marker(tmp_path):
    """Must not be there when a test ends."""
    path = tmp_path / "executed"
    yield path
    assert not path.exists(), "the file from a stranger was executed"


@pytest.fixture
def program(marker, tmp_path, monkeypatch):
    """A module ``evil_module`` that can be imported, and makes the marker when it is."""
    folder = tmp_path / "path"
    folder.mkdir()
    text = f"import os\nos.makedirs({str(marker)!r}, exist_ok=True)\nclass Evil:\n    load = classmethod(print)\n"
    (folder / "evil_module.py").write_text(text, encoding="utf-8")
    monkeypatch.syspath_prepend(str(folder))
    yield folder / "evil_module.py"
    sys.modules.pop("evil_module", None)
