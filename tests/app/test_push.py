"""``assl push``: what reaches a stand-in of the hub, and one message for all that keeps it from it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import yaml
from helpers import ROOT
from helpers.banks import write_adapter
from helpers.hostile import links
from helpers.hub import TOKEN, stand_in

from assl_kit import ExpertBank, select_file
from assl_kit.app.hub import push_folder
from assl_kit.common.hub import upload
from assl_kit.data.synthetic import make_corpus
from assl_kit.errors import ParameterError, WorkspaceError
from assl_kit.experts.bank import Provenance


@pytest.fixture(scope="module")
def part(tmp_path_factory):
    folder = tmp_path_factory.mktemp("part")
    rows = make_corpus(80, test_share=0.2)
    rows.to_json(folder / "mine.jsonl", orient="records", lines=True, force_ascii=False)
    return select_file(folder / "mine.jsonl", folder / "out", keep=10, referee=False, license="mit").folder


@pytest.fixture(scope="module")
def bank(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bank")
    adapters = [write_adapter(folder / "made" / str(k)) for k in range(2)]
    origin = Provenance(
        {"id": "Qwen/Qwen2.5-0.5B", "revision": None, "fingerprint": "f" * 64},
        {"id": "fit", "fingerprint": "e" * 64, "dim": 4},
    )
    experts = [{"tasks": {"qa": 12, "sentiment": 3}}, {"tasks": {"summarization": 9}}]
    return ExpertBank.create(folder / "bank", adapters, np.eye(4)[:2], origin, experts=experts)


def push(*arguments, hub=None, **environment):
    """Run the command as a user does, beside whatever this process has loaded: (exit code, stdout, stderr)."""
    unset = ("HF_HUB_OFFLINE", "HF_TOKEN", "HF_ENDPOINT")
    values = {name: value for name, value in os.environ.items() if name not in unset}
    values |= {"HF_HOME": str(ROOT / "none"), "PYTHONPATH": str(ROOT)} | environment  # no token of this machine's
    values |= {"HF_ENDPOINT": hub.address} if hub else {}
    command = [sys.executable, "-m", "assl_kit.app.cli", "push", *map(str, arguments)]
    done = subprocess.run(command, env=values, capture_output=True, text=True, encoding="utf-8", timeout=300)
    assert TOKEN not in done.stdout + done.stderr
    return done.returncode, done.stdout, done.stderr


def is_private(made):
    """What a new repository is; older versions of the hub's library said it in another word."""
    return made.get("private", made.get("visibility") == "private")


def head_of(card: bytes):
    return yaml.safe_load(card.decode("utf-8").split("---\n")[1])


def test_a_selection_reaches_the_hub(part):
    with stand_in() as hub:
        code, out, err = push(part, "--to", "me/better", hub=hub, HF_TOKEN=TOKEN)
    assert code == 0, err
    assert f"{hub.address}/datasets/me/better/commit/1" in out and hub.tokens == {TOKEN}
    assert [(made["name"], made["type"], is_private(made)) for made in hub.made] == [("better", "dataset", True)]
    (path, summary, files) = hub.commits[0]
    assert path == "/api/datasets/me/better/commit/main" and summary == "10 chosen records"
    assert files == {file.name: file.read_bytes() for file in part.iterdir()}
    head = head_of(files["README.md"])
    assert head["license"] == "mit" and head["configs"][0]["data_files"][0]["path"] in files


def test_a_bank_reaches_the_hub_with_a_card(bank):
    with stand_in() as hub:
        code, _, err = push(
            bank.path, "--to", "me/experts", "--public", "--license", "apache-2.0", "--dataset", "me/better",
            hub=hub, HF_TOKEN=TOKEN,
        )  # fmt: skip
    assert code == 0, err
    assert [(made["name"], is_private(made)) for made in hub.made] == [("experts", False)]
    path, _, files = hub.commits[0]
    assert path == "/api/models/me/experts/commit/main"
    card = files.pop("README.md")
    assert files == {name: (bank.path / name).read_bytes() for name in ("bank.json", *bank.info["files"])}
    head = head_of(card)
    assert head["base_model"] == "Qwen/Qwen2.5-0.5B" and head["datasets"] == ["me/better"]
    assert head["license"] == "apache-2.0" and head["library_name"] == "peft" and "lora" in head["tags"]
    assert (
        "| expert-0 | 15 | qa 12, sentiment 3 |" in card.decode("utf-8")
        and 'from_pretrained("me/experts")' in card.decode()
    )
    assert not (bank.path / "README.md").exists()


def test_results_become_the_hubs_metrics(bank):
    from huggingface_hub import ModelCard

    from assl_kit.experts.bank_card import bank_card

    scores = [
        {"task": "qa", "metric": "f1", "value": 0.51234, "n": 80},
        {"task": "s", "metric": "accuracy", "value": 0.9},
    ]
    card = ModelCard(bank_card(bank.info, "me/experts", datasets=["me/better"], scores=scores))
    results = card.data.eval_results
    assert [(r.task_name, r.metric_type, r.metric_value, r.dataset_type) for r in results] == [
        ("qa", "f1", 0.5123, "me/better"), ("s", "accuracy", 0.9, "me/better"),
    ]  # fmt: skip
    assert card.data.model_name == "experts" and "| qa | f1 | 80 | 0.512 |" in card.text
    tiny = bank.info | {"base": {"id": "tiny"}}
    assert ModelCard(bank_card(tiny, "me/x")).data.base_model is None  # no repository of the hub


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"HF_TOKEN": TOKEN, "HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE is set"),
        ({}, "there is no token for the hub"),
        ({"HF_TOKEN": TOKEN, "HF_ENDPOINT": "http://127.0.0.1:9"}, "the hub cannot be reached"),
    ],
)
def test_what_keeps_it_from_the_hub_is_one_message(part, environment, message):
    code, out, err = push(part, "--to", "me/x", **environment)
    assert code == 2 and out == "" and message in err, err
    assert len(err.strip().splitlines()) == 1


def test_a_token_that_may_not_write_is_refused(part):
    with stand_in() as hub:
        code, _, err = push(part, "--to", "me/x", hub=hub, HF_TOKEN="hf_another")
    assert code == 2 and "the hub refuses the token (401)" in err and "hf_another" not in err and not hub.commits


def test_what_is_not_to_be_sent_is_refused(part, tmp_path, monkeypatch):
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setenv("ASSL_RUNS", str(tmp_path))
    with pytest.raises(WorkspaceError, match="there is no run"):
        push_folder(str(tmp_path / "none"), "me/x", token=TOKEN)
    with pytest.raises(ParameterError, match="the card of a selection says this already"):
        push_folder(str(part), "me/x", license="mit", token=TOKEN)
    with pytest.raises(ParameterError, match="owner/name, not 'nowhere'"):
        push_folder(str(part), "nowhere", token=TOKEN)


@links
def test_no_file_from_elsewhere_is_sent(part, tmp_path, monkeypatch):
    monkeypatch.delenv("HF_HUB_OFFLINE")
    copy = shutil.copytree(part, tmp_path / "copy")
    (tmp_path / "secret.txt").write_text("a key", encoding="utf-8")
    about = json.loads((copy / "selection.json").read_text("utf-8"))
    (copy / "selection.json").write_text(json.dumps(about | {"files": {"../secret.txt": ""}}), "utf-8")
    with pytest.raises(WorkspaceError, match=r"secret\.txt is missing"):
        push_folder(str(copy), "me/x", token=TOKEN)
    (copy / "key.txt").symlink_to(tmp_path / "secret.txt")
    with pytest.raises(ParameterError, match=r"key\.txt is a link out of the folder"):
        upload(copy, "me/x", ["key.txt"], kind="dataset", token=TOKEN, message="m")
