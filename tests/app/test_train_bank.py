"""Several processes: the same experts as one process trains, written once."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from assl_kit.app.train_bank import train_bank
from assl_kit.artifacts.parameters import resolve
from assl_kit.artifacts.steps import is_current, require
from assl_kit.artifacts.workspace import Workspace
from assl_kit.data.synthetic import make_corpus
from assl_kit.errors import ParameterError, WorkspaceError
from assl_kit.experts.bank import ExpertBank
from assl_kit.experts.training.adapter import train_adapter
from assl_kit.experts.training.config import TrainingConfig
from assl_kit.model.loading import load_base

HELPERS = Path(__file__).parents[1] / "helpers"
SMALL = {"n_records": 200, "n_clusters": 2, "n_select": 16, "epochs": 1, "warmup_records": 0, "train_batch_size": 4}
SMALL |= {"gradient_checkpointing": True, "packing": True, "max_length": 160}  # as a large base needs it


@pytest.fixture(scope="module")
def selected(tmp_path_factory):
    """A run that has got as far as its selection."""
    ws = Workspace.open(tmp_path_factory.mktemp("runs") / "runs" / "one")
    p = ws.remember("tiny", resolve("tiny", **SMALL))
    require(ws, "selection", p)
    return ws, p


@pytest.fixture(scope="module")
def one(selected):
    """The bank of one process."""
    ws, _ = selected
    train_bank(str(ws.folder))
    return ExpertBank.from_pretrained(ws.path_of("experts"))


def launched(ws, *options: str) -> subprocess.CompletedProcess:
    """Two processes on a CPU, by gloo instead of nccl."""
    launch = ["-m", "accelerate.commands.launch", "--num_processes", "2", "--num_machines", "1", "--mixed_precision"]
    launch += ["no", "--dynamo_backend", "no", "--main_process_port", "0", *options, str(ws.folder)]
    env = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, *launch], env=env, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("tokens_per_second") == 1 and "expert 1" in done.stderr
    assert not (ws.folder / "experts.partial").exists()
    return done


def check_same_bank(one, other):
    """The same adapters and logs, up to rounding."""
    for a, b in zip(one.expert_paths, other.expert_paths, strict=True):
        assert (a / "adapter_config.json").read_bytes() == (b / "adapter_config.json").read_bytes()
        a, b = (load_file(path / "adapter_model.safetensors") for path in (a, b))
        assert {n: w.dtype for n, w in a.items()} == {n: w.dtype for n, w in b.items()}
        assert max(float((a[name] - b[name]).abs().max()) for name in a) < 1e-3
    for a, b in zip(one.info["experts"], other.info["experts"], strict=True):
        assert a["inputs"] == b["inputs"] and a["tokens"] == b["tokens"]
        for (*where, loss, rate), (*where_b, loss_b, rate_b) in zip(a["log"], b["log"], strict=True):
            assert (where, rate) == (where_b, rate_b) and loss == pytest.approx(loss_b, abs=1e-4)


@pytest.mark.slow
def test_two_processes_train_what_one_does(selected, one, tmp_path):
    ws, p = selected
    two = Workspace.open(shutil.copytree(ws.folder, tmp_path / "runs" / "two"))
    shutil.rmtree(two.path_of("experts"))
    launched(two, "--multi_gpu", "-m", "assl_kit.app.train_bank")
    assert is_current(two, "experts", p)
    check_same_bank(one, ExpertBank.from_pretrained(two.path_of("experts")))


@pytest.mark.slow
def test_two_processes_train_flat_rows_as_one_trains_packed_ones(selected, one, tmp_path):
    ws, _ = selected
    two = Workspace.open(shutil.copytree(ws.folder, tmp_path / "runs" / "two"))
    shutil.rmtree(two.path_of("experts"))
    done = launched(two, "--multi_gpu", str(HELPERS / "flat_on_cpu.py"))
    assert done.stdout.count("a flat row") >= 2 * len(one.expert_paths), done.stdout
    check_same_bank(one, ExpertBank.from_pretrained(two.path_of("experts")))


@pytest.mark.slow
def test_a_base_divided_among_two_processes_trains_what_a_whole_one_does(selected, one, tmp_path):
    ws, p = selected
    two = Workspace.open(shutil.copytree(ws.folder, tmp_path / "runs" / "two"))
    shutil.rmtree(two.path_of("experts"))
    divided = ("--use_fsdp", "--fsdp_version", "2", "--fsdp_auto_wrap_policy", "TRANSFORMER_BASED_WRAP")
    done = launched(two, *divided, str(HELPERS / "divided_on_cpu.py"))
    assert is_current(two, "experts", p)
    assert done.stdout.count("holds 0.50 of the weights") == 2 * 2, done.stdout  # processes, experts
    check_same_bank(one, ExpertBank.from_pretrained(two.path_of("experts")))


def test_what_a_divided_base_cannot_do_is_refused_before_anything_starts(monkeypatch, tmp_path):
    model, tokenizer = load_base("tiny", device="cpu")
    records = make_corpus(60)

    def refused(message, **changes):
        with pytest.raises(ParameterError, match=message):
            train_adapter(model, tokenizer, records, tmp_path / "a", TrainingConfig(**changes))

    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("WORLD_SIZE", "2")
    refused("version 1 .* --fsdp_version 2")
    monkeypatch.setenv("FSDP_VERSION", "2")
    refused("without held-out records.*holdout_share=0", holdout_share=0.3)
    monkeypatch.setattr(model, "is_loaded_in_4bit", True, raising=False)
    refused("base in 4 bits")
    monkeypatch.setattr(next(model.parameters()), "full_tensor", None, raising=False)
    refused("divided among processes already.*Load it again")
    assert not list(tmp_path.iterdir())


def test_a_run_without_its_selection_is_refused(selected, tmp_path):
    ws, p = selected
    changed = Workspace.open(shutil.copytree(ws.folder, tmp_path / "runs" / "changed"))
    changed.remember("tiny", p.model_copy(update={"n_select": 17}))
    with pytest.raises(WorkspaceError, match="no selection yet.*runs/changed.*assl run --to 05"):
        train_bank(str(changed.folder))
