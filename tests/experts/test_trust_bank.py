"""Adapters and banks from a stranger: loading them runs nothing.

Most tests plant a program or a pickle that would make a marker file, and look for the marker.
"""

from __future__ import annotations

import json
import os
import shutil
import struct

import numpy as np
import pytest
from helpers.hostile import NESTED, Hostile, change, links
from helpers.models import make_test_base, make_test_encoder

from assl_kit.common import files
from assl_kit.common import limits as bounds
from assl_kit.common.files import read_json, sha256_file
from assl_kit.errors import BankError, DataError
from assl_kit.experts.adapters import check_adapter
from assl_kit.experts.bank import ExpertBank, Provenance
from assl_kit.model.loading import load_base


@pytest.fixture(scope="module")
def made_base(tmp_path_factory):
    return make_test_base(tmp_path_factory.mktemp("made") / "base")


# adapters ------------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def with_adapter(made_base, tmp_path_factory):
    """A base and a folder with a LoRA adapter that fits it."""
    from peft import LoraConfig, get_peft_model

    model, tokenizer = load_base(str(made_base), device="cpu")
    folder = tmp_path_factory.mktemp("adapter") / "expert"
    wrapped = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"))
    wrapped.save_pretrained(str(folder))
    return wrapped.unload(), folder


@pytest.fixture
def adapter(with_adapter, tmp_path):
    return shutil.copytree(with_adapter[1], tmp_path / "adapter")


@pytest.mark.parametrize(
    "entries",
    [
        {"peft_type": "PROMPT_TUNING", "tokenizer_name_or_path": "x", "tokenizer_kwargs": {"trust_remote_code": True}},
        {"peft_type": "XLORA"},
        {"peft_type": None},
        {"megatron_config": {"a": 1}, "megatron_core": "evil_module"},
        {"corda_config": {"cache_file": "cache.pt"}},
        {"lora_ga_config": {"cache_file": "cache.pt"}},
        {"init_lora_weights": "pissa"},
        {"init_lora_weights": "corda"},
        {"r": 10**9},
        {"r": "2"},
        {"rank_pattern": {"q_proj": 10**9}},
        {"rank_pattern": [1]},
    ],
    ids=str,
)
def test_only_plain_lora_is_given_to_peft(with_adapter, adapter, program, entries):
    check_adapter(with_adapter[0], adapter)
    change(adapter / "adapter_config.json", **entries)
    with pytest.raises(BankError, match="only plain LoRA|rank of an adapter"):
        check_adapter(with_adapter[0], adapter)


def test_an_adapter_names_no_other_base_to_load(with_adapter, adapter, program):
    """Whatever stands there: the base is the one that is given, and nothing is imported."""
    from assl_kit.experts.adapters import adapted

    library = {"base_model_class": "Evil", "parent_library": "evil_module"}
    change(adapter / "adapter_config.json", auto_mapping=library)
    change(adapter / "adapter_config.json", base_model_name_or_path=str(program.parent), revision="--upload-pack=x")
    with adapted(with_adapter[0], adapter) as model:
        assert model.get_base_model() is with_adapter[0]


@pytest.mark.parametrize("text", ["{", "[]", NESTED])
def test_a_broken_adapter_config_is_one_clear_error(with_adapter, adapter, text):
    (adapter / "adapter_config.json").write_text(text, encoding="utf-8")
    with pytest.raises(BankError, match=r"plain LoRA|adapter_config\.json is not readable"):
        check_adapter(with_adapter[0], adapter)


def test_a_pickled_adapter_is_not_taken_instead(with_adapter, adapter, marker):
    import torch

    (adapter / "adapter_model.safetensors").unlink()
    torch.save({"weight": Hostile(marker)}, adapter / "adapter_model.bin")
    with pytest.raises(BankError, match=r"no adapter_model\.safetensors"):
        check_adapter(with_adapter[0], adapter)


def test_a_forged_header_of_an_adapter_is_one_clear_error(with_adapter, adapter):
    for content in (struct.pack("<Q", 1 << 60) + b"{}", b"", struct.pack("<Q", 8) + b'{"a":[]}'):
        (adapter / "adapter_model.safetensors").write_bytes(content)
        with pytest.raises(BankError, match="cannot be read"):
            check_adapter(with_adapter[0], adapter)


# banks ---------------------------------------------------------------------------------------------------------------
@pytest.fixture
def bank(with_adapter, tmp_path):
    base = {"id": "someone/base", "revision": "main", "fingerprint": "b" * 64}
    encoder = {"id": "fit", "fingerprint": "e" * 64, "dim": 4}
    origin = Provenance(base, encoder, encoder_model=make_test_encoder())
    return ExpertBank.create(tmp_path / "bank", [with_adapter[1]], np.eye(4)[:1], origin)


def relist(bank, *names):
    """Let `bank.json` vouch for changed files, as a hostile writer would."""
    listed = bank.info["files"] | {name: sha256_file(bank.path / name) for name in names}
    change(bank.path / "bank.json", files=listed)


@pytest.mark.parametrize("part", ["base", "encoder"])
@pytest.mark.parametrize(
    "name",
    ["--trust-remote-code", "/etc/model", "../model", "./model", "~/model", "a/b/c", "C:\\model", "a\nb", "x" * 999],
)
def test_a_bank_names_no_place_and_no_option(bank, part, name):
    """The names are loaded by default, and stand in an export's `serve.sh`."""
    ExpertBank.from_pretrained(bank.path)
    change(bank.path / "bank.json", **{part: bank.info[part] | {"id": name}})
    with pytest.raises(BankError, match="which is no name"):
        ExpertBank.from_pretrained(bank.path)


@pytest.mark.parametrize("revision", ["--trust-remote-code", "a\n--x", 7])
def test_a_bank_names_no_option_as_revision(bank, revision):
    change(bank.path / "bank.json", base=bank.info["base"] | {"revision": revision})
    with pytest.raises(BankError, match="which is no name|must list"):
        ExpertBank.from_pretrained(bank.path)


def test_a_bank_names_no_library_of_its_base(bank, program):
    """PEFT's own `AutoPeftModel` would import it."""
    library = {"base_model_class": "Evil", "parent_library": "evil_module"}
    change(bank.path / "expert-0" / "adapter_config.json", auto_mapping=library)
    relist(bank, "expert-0/adapter_config.json")
    with pytest.raises(BankError, match="only plain LoRA"):
        ExpertBank.from_pretrained(bank.path)


def test_a_hostile_encoder_in_a_bank_is_refused(bank, program):
    modules = bank.path / "encoder" / "modules.json"
    kinds = [{"idx": 0, "name": "0", "path": "", "type": "evil_module.Evil"}]
    modules.write_text(json.dumps(kinds), encoding="utf-8")
    shutil.copy(program, bank.path / "encoder" / "evil_module.py")
    relist(bank, "encoder/modules.json", "encoder/evil_module.py")
    with pytest.raises(BankError, match="not safetensors, JSON or text"):
        ExpertBank.from_pretrained(bank.path)
    (bank.path / "encoder" / "evil_module.py").unlink()
    relist(bank, "encoder/modules.json")
    with pytest.raises(BankError, match="code from elsewhere"):
        ExpertBank.from_pretrained(bank.path)


@pytest.mark.parametrize(
    "content", [struct.pack("<Q", 1 << 60) + b"{}", b"", b"\xff" * 64, struct.pack("<Q", 2) + b"{}"]
)
def test_forged_centroids_are_one_clear_error(bank, content):
    (bank.path / "router.safetensors").write_bytes(content)
    relist(bank, "router.safetensors")
    with pytest.raises(BankError, match="holds no centroids"):
        ExpertBank.from_pretrained(bank.path)


@pytest.mark.parametrize("text", [NESTED, "9" * 5000, '{"format": 1}', "[]"])
def test_a_hostile_bank_json_is_one_clear_error(bank, text):
    (bank.path / "bank.json").write_text(text, encoding="utf-8")
    with pytest.raises(BankError, match=r"bank\.json"):
        ExpertBank.from_pretrained(bank.path)


def test_a_gigantic_json_is_not_read(bank, monkeypatch):
    with open(bank.path / "bank.json", "r+b") as file:
        file.truncate(bounds.MAX_JSON + 1)  # a hole: it takes no room on the disk
    monkeypatch.setattr(files, "parse_json", lambda text: pytest.fail("read"))
    with pytest.raises(BankError, match=r"33,554,433 bytes, at most 33,554,432"):
        ExpertBank.from_pretrained(bank.path)
    with pytest.raises(DataError, match="at most"):
        read_json(bank.path / "bank.json")


@links
def test_the_list_of_a_bank_is_no_link(bank, tmp_path):
    os.replace(bank.path / "bank.json", tmp_path / "bank.json")
    (bank.path / "bank.json").symlink_to(tmp_path / "bank.json")
    with pytest.raises(BankError, match=r"bank\.json is a link out of the bank"):
        ExpertBank.from_pretrained(bank.path)
