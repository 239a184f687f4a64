"""The expert bank on disk: what it holds, and what it refuses."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from helpers.banks import write_adapter
from safetensors.numpy import load_file, save_file

from assl_kit.common.files import sha256_file
from assl_kit.errors import BankError, ParameterError
from assl_kit.experts.bank import ExpertBank, Provenance, clean_adapter_config

BASE = {"id": "/home/someone/models/my-base", "revision": None, "fingerprint": "b" * 64, "tokenizer": "t" * 64}
ENCODER = {"id": "fit", "fingerprint": "e" * 64, "dim": 4}
ORIGIN = Provenance(
    BASE,
    ENCODER,
    weights={"relevance": 0.4, "score": 0.2, "diversity": 0.4},
    min_similarity=0.25,
    metrics={"accuracy": 0.5},
)


@pytest.fixture
def bank(tmp_path):
    adapters = [write_adapter(tmp_path / "made" / str(k), k) for k in range(3)]
    centroids = np.random.default_rng(0).normal(size=(3, 4))
    return ExpertBank.create(
        tmp_path / "bank",
        adapters,
        centroids,
        ORIGIN,
        experts=[{"records": k, "tasks": {"问答": k}} for k in range(3)],
    )


def change_info(bank, **changes):
    file = bank.path / "bank.json"
    file.write_text(json.dumps(json.loads(file.read_text(encoding="utf-8")) | changes), encoding="utf-8")


def relist(bank, name):
    """List a file with its true SHA-256, as a hostile writer would."""
    change_info(bank, files=bank.info["files"] | {name: sha256_file(bank.path / name)})


def test_layout_and_passport(bank):
    names = sorted(f.relative_to(bank.path).as_posix() for f in bank.path.rglob("*") if f.is_file())
    adapters = [f"expert-{k}/adapter_{part}" for k in range(3) for part in ("config.json", "model.safetensors")]
    assert names == sorted(["bank.json", "router.safetensors", *adapters])
    info = json.loads((bank.path / "bank.json").read_text(encoding="utf-8"))
    assert info["format_version"] == 1 and info["base"]["id"] == "my-base" and info["encoder"] == ENCODER
    assert info["weights"]["diversity"] == 0.4 and info["metrics"] == {"accuracy": 0.5}
    assert info["experts"][2] == {"name": "expert-2", "records": 2, "tasks": {"问答": 2}}
    assert info["files"] == {name: sha256_file(bank.path / name) for name in names if name != "bank.json"}
    assert "someone" not in "".join(f.read_text(encoding="utf-8") for f in bank.path.rglob("*.json"))
    assert len(bank) == 3 and bank.names == ("expert-0", "expert-1", "expert-2") and bank.encoder_path is None
    router = bank.router()
    assert router.min_similarity == 0.25 and router.names == bank.names
    assert [bank.router(min_similarity=floor).min_similarity for floor in (-1, 0)] == [-1, 0]
    np.testing.assert_allclose(
        np.linalg.norm(load_file(bank.path / "router.safetensors")["centroids"], axis=1), 1, 1e-6
    )


def test_adapter_config_is_cleaned(bank):
    config = json.loads((bank.path / "expert-0" / "adapter_config.json").read_text(encoding="utf-8"))
    assert config["target_modules"] == ["k_proj", "q_proj", "v_proj"]
    assert config["base_model_name_or_path"] == "my-base" and config["inference_mode"] is True
    for given, kept in [("Qwen/Qwen1.5-7B-Chat", "Qwen/Qwen1.5-7B-Chat"), ("C:\\a\\b", "b"), ("./x/y/", "y")]:
        assert clean_adapter_config({}, {"id": given})["base_model_name_or_path"] == kept


def test_same_input_same_bytes_and_roundtrip(bank, tmp_path):
    again = ExpertBank.create(
        tmp_path / "again",
        [tmp_path / "made" / str(k) for k in range(3)],
        bank.centroids,
        replace(ORIGIN, weights=bank.info["weights"]),
        experts=[{k: v for k, v in e.items() if k != "name"} for e in bank.info["experts"]],
    )
    assert sha256_file(again.path) == sha256_file(bank.path)
    (bank.path / "notes.md").write_text("mine", encoding="utf-8")
    copy = ExpertBank.from_pretrained(bank.save_pretrained(tmp_path / "copy"), base=BASE, encoder=ENCODER)
    assert copy.info == bank.info and (copy.centroids == bank.centroids).all()
    assert not (copy.path / "notes.md").exists() and bank.save_pretrained(bank.path) == bank.path


def test_another_base_or_encoder_is_refused(bank):
    assert ExpertBank.from_pretrained(bank.path, base="b" * 64, encoder="e" * 64).info == bank.info
    with pytest.raises(BankError, match="another encoder: fit .eeee.*not mine .ffff"):
        ExpertBank.from_pretrained(bank.path, encoder={"id": "mine", "fingerprint": "f" * 64})
    with pytest.raises(BankError, match="another base model.*Use the base"):
        ExpertBank.from_pretrained(bank.path, base="c" * 64)
    with pytest.raises(BankError, match="another tokenizer of the base model"):
        ExpertBank.from_pretrained(bank.path, base=BASE | {"tokenizer": "u"})


@pytest.mark.parametrize("name", ["router.safetensors", "expert-1/adapter_model.safetensors"])
def test_a_changed_byte_is_found(bank, name):
    content = bytearray((bank.path / name).read_bytes())
    content[-1] ^= 1
    (bank.path / name).write_bytes(content)
    with pytest.raises(BankError, match=f"{name}.*SHA-256 differs"):
        ExpertBank.from_pretrained(bank.path)


def test_missing_pieces_are_named(bank, tmp_path):
    (bank.path / "expert-2" / "adapter_config.json").unlink()
    with pytest.raises(BankError, match="expert-2/adapter_config.json is missing"):
        ExpertBank.from_pretrained(bank.path)
    (bank.path / "bank.json").unlink()
    with pytest.raises(BankError, match="no bank.json"):
        ExpertBank.from_pretrained(bank.path)
    with pytest.raises(BankError, match="there is no expert bank"):
        ExpertBank.from_pretrained(tmp_path / "nowhere")
    with pytest.raises(BankError, match="could not be had from the hub"):
        ExpertBank.from_pretrained("nobody/no-such-bank")


def test_format_and_version_are_checked(bank):
    change_info(bank, format_version=99)
    with pytest.raises(BankError, match="format version 99.*this program reads 1"):
        ExpertBank.from_pretrained(bank.path)
    change_info(bank, format="something")
    with pytest.raises(BankError, match="does not describe"):
        ExpertBank.from_pretrained(bank.path)
    change_info(bank, format=bank.info["format"], format_version=1, router={})
    with pytest.raises(BankError, match="lacks or misspells"):
        ExpertBank.from_pretrained(bank.path)
    (bank.path / "bank.json").write_text("{", encoding="utf-8")
    with pytest.raises(BankError, match="not readable JSON"):
        ExpertBank.from_pretrained(bank.path)


def test_only_harmless_files_inside_the_bank(bank, tmp_path):
    pickled = bank.path / "expert-0" / "adapter_model.bin"
    pickled.write_bytes(b"\x80\x04.")
    with pytest.raises(BankError, match="adapter_model.bin does not belong"):
        ExpertBank.from_pretrained(bank.path)
    relist(bank, "expert-0/adapter_model.bin")
    with pytest.raises(BankError, match="not safetensors, JSON or text"):
        ExpertBank.from_pretrained(bank.path)
    pickled.unlink()
    (tmp_path / "outside.json").write_text("{}", encoding="utf-8")
    for name in ("../outside.json", str(tmp_path / "outside.json"), "C:\\outside.json"):
        change_info(bank, files=bank.info["files"] | {name: "0"})
        with pytest.raises(BankError, match="outside the bank"):
            ExpertBank.from_pretrained(bank.path)


@pytest.mark.skipif(os.name == "nt", reason="making links needs rights on Windows")
def test_links_are_refused(bank, tmp_path):
    file = bank.path / "expert-1" / "adapter_model.safetensors"
    outside = tmp_path / "elsewhere.safetensors"
    shutil.move(file, outside)
    file.symlink_to(outside)
    with pytest.raises(BankError, match="link out of the bank"):
        ExpertBank.from_pretrained(bank.path)
    file.unlink()
    shutil.copy(outside, file)
    shutil.move(bank.path / "expert-2", bank.path / "real")
    (bank.path / "expert-2").symlink_to(bank.path / "real")
    with pytest.raises(BankError, match="through a link"):
        ExpertBank.from_pretrained(bank.path)


def test_code_and_other_adapters_are_refused(bank):
    file = bank.path / "expert-0" / "adapter_config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps(config | {"peft_type": "PROMPT_TUNING"}), encoding="utf-8")
    relist(bank, "expert-0/adapter_config.json")
    with pytest.raises(BankError, match="only plain LoRA"):
        ExpertBank.from_pretrained(bank.path)
    file.write_text(json.dumps(config), encoding="utf-8")
    (bank.path / "encoder").mkdir()
    modules = bank.path / "encoder" / "modules.json"
    modules.write_text(json.dumps([{"type": "evil.Module"}]), encoding="utf-8")
    bank.info["files"]["expert-0/adapter_config.json"] = sha256_file(file)
    relist(bank, "encoder/modules.json")
    with pytest.raises(BankError, match="code from elsewhere"):
        ExpertBank.from_pretrained(bank.path)


def test_centroids_of_another_length_are_refused(bank):
    file = bank.path / "router.safetensors"
    for factor in (2, 0.99):
        save_file({"centroids": np.float32(factor) * bank.centroids}, file)
        relist(bank, "router.safetensors")
        with pytest.raises(BankError, match="not of unit length"):
            ExpertBank.from_pretrained(bank.path)


def test_create_refuses_what_does_not_fit(bank, tmp_path):
    adapters = [tmp_path / "made" / str(k) for k in range(3)]
    without = ExpertBank.create(tmp_path / "y", adapters, np.eye(4)[:3], replace(ORIGIN, min_similarity=None))
    assert without.min_similarity == -1, "without a floor none abstains"
    with pytest.raises(BankError, match="3 adapters, 2 centroids"):
        ExpertBank.create(tmp_path / "x", adapters, np.eye(4)[:2], ORIGIN)
    with pytest.raises(BankError, match="dim 4, but centroids have 3"):
        ExpertBank.create(tmp_path / "x", adapters, np.eye(3), ORIGIN)
    (adapters[1] / "adapter_model.safetensors").unlink()
    with pytest.raises(BankError, match="no adapter_model.safetensors"):
        ExpertBank.create(tmp_path / "x", adapters, bank.centroids, ORIGIN)
    assert not (tmp_path / "x").exists()


def test_push_sends_only_listed_files_and_a_card(bank, monkeypatch):
    calls = {}

    class Api:
        def __init__(self, token=None):
            calls["token"] = token

        def create_repo(self, repo_id, **options):
            calls["repo"] = (repo_id, options)

        def create_commit(self, repo_id, operations, **options):
            calls["files"] = {operation.path_in_repo for operation in operations}
            return SimpleNamespace(commit_url="https://example.org/commit")

    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    monkeypatch.delenv("HF_HUB_OFFLINE")
    (bank.path / "stray.txt").write_text("mine", encoding="utf-8")
    assert bank.push_to_hub("me/bank", token="mine") == "https://example.org/commit"
    assert calls["repo"] == ("me/bank", {"repo_type": "model", "private": True, "exist_ok": True})
    assert calls["files"] == {"bank.json", "README.md", *bank.info["files"]} and calls["token"] == "mine"
    with pytest.raises(ParameterError, match="owner/name"):
        bank.push_to_hub("not a name")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ParameterError, match="HF_HUB_OFFLINE is set"):
        bank.push_to_hub("me/bank", token="mine")


@pytest.mark.skipif(os.name == "nt", reason="making links needs rights on Windows")
def test_a_cached_hub_bank_opens_offline(bank, tmp_path, monkeypatch):
    repo = tmp_path / "hub" / "models--me--bank"
    snapshot = repo / "snapshots" / "abc"
    for name in ("bank.json", *bank.info["files"]):
        blob = repo / "blobs" / sha256_file(bank.path / name)
        blob.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(bank.path / name, blob)
        (snapshot / name).parent.mkdir(parents=True, exist_ok=True)
        (snapshot / name).symlink_to(blob)
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *a, **k: str(snapshot))
    assert ExpertBank.from_pretrained("me/bank", encoder=ENCODER).info == bank.info
    link = snapshot / "router.safetensors"
    link.unlink()
    link.symlink_to(bank.path / "router.safetensors")
    with pytest.raises(BankError, match="link out of the bank"):
        ExpertBank.from_pretrained("me/bank")
