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
os.environ.setdefault("RAY_worker_niceness", "0")  # else its workers starve beside the other processes of the tests
os.environ["ASSL_PRELOAD"] = ""  # most kernels of the tests need none of what takes seconds to load
os.environ.pop("ASSL_RUNS", None)

import pytest  # noqa: E402
from helpers import ROOT  # noqa: E402


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with a long or slow test come first, else one process would end with them while the other has nothing."""
    first = {item.path for item in items if item.get_closest_marker("long") or item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in first)


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


@pytest.fixture
def assl(monkeypatch, capsys, tmp_path):
    """Run the command in an empty folder: (exit code, stdout, stderr)."""
    from assl_kit.app.cli import main

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ASSL_BACKEND", "")  # what a command sets is forgotten after the test

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["assl", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            main()
        out, err = capsys.readouterr()
        return caught.value.code or 0, out, err

    return call


@pytest.fixture
def one_notebook(monkeypatch, tmp_path):
    """A chain of one notebook, which prints a number."""
    from helpers.notebooks import write_notebook

    monkeypatch.setattr("assl_kit.runner.plan.notebooks_folder", lambda: tmp_path / "nb")
    write_notebook(tmp_path / "nb" / "00_only.ipynb", "print(1)")


@pytest.fixture(scope="module")
def base_folder(tmp_path_factory):
    """A small language model with random weights, as a folder."""
    from helpers.models import make_test_base

    return make_test_base(tmp_path_factory.mktemp("base") / "small")


@pytest.fixture(scope="module")
def base(base_folder):
    """The model of `base_folder` and its tokenizer."""
    from assl_kit.model.loading import load_base

    return load_base(str(base_folder), device="cpu")
