"""Adapters and banks from a stranger: loading them runs nothing.

Most tests plant a program or a pickle that would make a marker file, and look for the marker.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import struct

import numpy as np
import pytest
from helpers.banks import plant, relist
from helpers.hostile import NESTED, Hostile, change, links
from helpers.models import make_test_base, make_test_encoder
from safetensors.numpy import load_file, save_file

from assl_kit.common import files
from assl_kit.common import limits as bounds
from assl_kit.common.files import read_json, sha256_file, sha256_of
from assl_kit.errors import BankError, DataError
from assl_kit.experts.adapters import adapted, check_adapter, load_adapters
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
        {"rank_pattern": {"(": 2}},
        {"bias": "all"},
        {"modules_to_save": ["norm"]},
        {"use_dora": True},
        {"lora_bias": True},
        {"use_qalora": True},
        {"a_setting_of_next_year": {"module": "evil_module"}},
        {"lora_alpha": "2"},
        {"lora_alpha": float("nan")},
        {"lora_dropout": 2},
        {"target_modules": "("},
        {"target_modules": [1]},
        {"layers_to_transform": ["0"]},
    ],
    ids=str,
)
def test_only_plain_lora_is_given_to_peft(with_adapter, adapter, program, entries):
    check_adapter(with_adapter[0], adapter)
    change(adapter / "adapter_config.json", **entries)
    with pytest.raises(BankError, match="plain LoRA"):
        check_adapter(with_adapter[0], adapter)


def test_what_other_versions_write_for_settings_that_are_not_used_is_taken(with_adapter, adapter):
    unused = {"bias": "none", "megatron_core": "megatron.core", "qalora_group_size": 16, "next_year": None, "more": {}}
    change(adapter / "adapter_config.json", **unused)
    check_adapter(with_adapter[0], adapter)


LAYER = "model.layers.0.self_attn.q_proj"
OTHER_TENSORS = [
    "model.norm.weight", "model.embed_tokens.weight", "lm_head.weight", f"{LAYER}.weight", f"{LAYER}.bias",
    f"{LAYER}.base_layer.weight", f"{LAYER}.base_layer.bias", f"{LAYER}.lora_A.bias", f"{LAYER}.lora_B.bias",
    f"{LAYER}.lora_magnitude_vector.weight", "model.embed_tokens.lora_embedding_A", f"{LAYER}.lora_A.other.weight",
    "model.norm.modules_to_save.weight", "model.norm.modules_to_save.default.weight",
]  # fmt: skip


@pytest.fixture
def digest(with_adapter):
    """Of the base, config and tensors: the same before and after."""
    model = with_adapter[0]

    def of_base():
        return sha256_of(
            [plain_config(model), {name: sha256_of(tensor.tolist()) for name, tensor in model.state_dict().items()}]
        )

    before = of_base()
    yield
    assert of_base() == before, "the base was changed"


def plain_config(model):
    return {key: str(value) for key, value in model.config.to_dict().items()}


@pytest.mark.parametrize("name", OTHER_TENSORS)
@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_bank_changes_nothing_of_the_base(with_adapter, digest, three_experts, name, number):
    """Whichever expert holds the tensor, it is refused before PEFT sees any of them."""
    model = with_adapter[0]
    opened = ExpertBank.from_pretrained(three_experts.path)
    plant(three_experts.path, f"expert-{number}", name)
    match = rf"holds the tensor .*{re.escape(name)}.*adapter_model\.safetensors.*Only plain LoRA"
    with pytest.raises(BankError, match=match):
        ExpertBank.from_pretrained(three_experts.path)
    with pytest.raises(BankError, match=match):  # a folder that was changed after it was opened
        load_adapters(model, opened)
    with pytest.raises(BankError, match=match), adapted(model, opened.expert_paths[number]):
        pytest.fail("loaded")
    assert not hasattr(model, "peft_config") and not any("lora" in key for key in model.state_dict())


def test_experts_are_put_on_a_base_that_stays_as_it_is(with_adapter, digest, three_experts):
    wrapped = load_adapters(with_adapter[0], three_experts)
    assert set(wrapped.peft_config) == set(three_experts.names)
    wrapped.unload()


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({f"{LAYER}.lora_A.weight": (3, 32)}, r"lora_A \(3, 32\), lora_B \(32, 2\), not .* of rank 2"),
        ({f"{LAYER}.lora_B.weight": (32, 3)}, "of rank 2"),
        ({f"{LAYER}.lora_A.weight": (2, 31)}, "turns 31 numbers into 32, that of Qwen2ForCausalLM 32 into 32"),
        ({f"{LAYER}.lora_B.weight": (31, 2)}, "turns 32 numbers into 31"),
        ({f"{LAYER}.lora_A.weight": (2, 32, 1)}, r"F32 \(2, 32, 1\), no matrix"),
        ({f"{LAYER}.lora_A.weight": None}, r"has lora_B \(32, 2\), not lora_A and lora_B"),
        ({"a.lora_A.weight": (2, 32), "a.lora_B.weight": (32, 2)}, "changes the layer a, which Qwen2ForCausalLM has"),
        ({"model.norm.lora_A.weight": (2, 32), "model.norm.lora_B.weight": (32, 2)}, "norm of .* no linear layer"),
        ({f"{LAYER}.lora_A.weight": None, f"{LAYER}.lora_B.weight": None}, "has no weights for the layer"),
    ],
)
def test_weights_that_do_not_fit_are_refused_in_words(with_adapter, digest, adapter, tensors, message):
    file = adapter / "adapter_model.safetensors"
    stored = load_file(file)
    for name, shape in tensors.items():
        stored.pop(f"base_model.model.{name}", None)
        if shape is not None:
            stored[f"base_model.model.{name}"] = np.zeros(shape, np.float32)
    save_file(stored, file, metadata={"format": "pt"})
    with pytest.raises(BankError, match=message), adapted(with_adapter[0], adapter):
        pytest.fail("loaded")
    assert not hasattr(with_adapter[0], "peft_config")


def test_an_adapter_without_weights_or_of_whole_numbers_is_refused(with_adapter, digest, adapter):
    file = adapter / "adapter_model.safetensors"
    whole = {key: value.astype(np.int64) for key, value in load_file(file).items()}
    for stored, message in [({}, "has no weights"), (whole, "I64 .* no matrix of real numbers")]:
        save_file(stored, file)
        with pytest.raises(BankError, match=message):
            check_adapter(with_adapter[0], adapter)


def test_a_bank_is_not_made_of_such_an_adapter_and_the_old_one_stays(bank, with_adapter, adapter):
    before = sha256_file(bank.path)
    stored = load_file(adapter / "adapter_model.safetensors") | {"base_model.model.x": np.ones(2, np.float32)}
    save_file(stored, adapter / "adapter_model.safetensors")
    origin = Provenance(bank.base, bank.encoder)
    with pytest.raises(BankError, match="holds the tensor"):
        ExpertBank.create(bank.path, [adapter], np.eye(4)[:1], origin)
    assert sha256_file(bank.path) == before


def test_an_adapter_names_no_other_base_to_load(with_adapter, adapter, program):
    """Whatever stands there: the base is the one that is given, and nothing is imported."""
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


def test_settings_that_peft_itself_refuses_are_one_clear_error(with_adapter, digest, adapter):
    change(adapter / "adapter_config.json", task_type="1.5")
    with pytest.raises(BankError, match="PEFT cannot read the adapter's settings"), adapted(with_adapter[0], adapter):
        pytest.fail("loaded")
    assert not hasattr(with_adapter[0], "peft_config")


def test_what_peft_refuses_while_it_changes_the_base_is_one_clear_error(with_adapter, digest, adapter, monkeypatch):
    """Also when some layers are changed already, and when other experts are there."""
    from peft import PeftModel

    model, loads = with_adapter[0], PeftModel.load_adapter

    def fails_late(self, *arguments, **options):
        loads(self, *arguments, **options)
        assert any("lora" in name for name, _ in model.named_modules())
        raise KeyError("of another version")

    with monkeypatch.context() as patch:
        patch.setattr(PeftModel, "load_adapter", fails_late)
        with pytest.raises(BankError, match="PEFT cannot put the adapter on the base"), adapted(model, adapter):
            pytest.fail("loaded")
    assert not hasattr(model, "peft_config") and not any("lora" in name for name, _ in model.named_modules())
    change(adapter / "adapter_config.json", target_modules=["q_prgj"])
    with pytest.raises(BankError), adapted(model, adapter):
        pytest.fail("loaded")
    with adapted(model, with_adapter[1]):
        pass


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


@pytest.fixture
def three_experts(with_adapter, tmp_path):
    base = {"id": "someone/base", "revision": "main", "fingerprint": "b" * 64}
    origin = Provenance(base, {"id": "fit", "fingerprint": "e" * 64, "dim": 4})
    return ExpertBank.create(tmp_path / "three", [with_adapter[1]] * 3, np.eye(4)[:3], origin)


# banks ---------------------------------------------------------------------------------------------------------------
@pytest.fixture
def bank(with_adapter, tmp_path):
    base = {"id": "someone/base", "revision": "main", "fingerprint": "b" * 64}
    encoder = {"id": "fit", "fingerprint": "e" * 64, "dim": 4}
    origin = Provenance(base, encoder, encoder_model=make_test_encoder())
    return ExpertBank.create(tmp_path / "bank", [with_adapter[1]], np.eye(4)[:1], origin)


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
    relist(bank.path, "expert-0/adapter_config.json")
    with pytest.raises(BankError, match="only plain LoRA"):
        ExpertBank.from_pretrained(bank.path)


def test_a_hostile_encoder_in_a_bank_is_refused(bank, program):
    modules = bank.path / "encoder" / "modules.json"
    kinds = [{"idx": 0, "name": "0", "path": "", "type": "evil_module.Evil"}]
    modules.write_text(json.dumps(kinds), encoding="utf-8")
    shutil.copy(program, bank.path / "encoder" / "evil_module.py")
    relist(bank.path, "encoder/modules.json", "encoder/evil_module.py")
    with pytest.raises(BankError, match="not safetensors, JSON or text"):
        ExpertBank.from_pretrained(bank.path)
    (bank.path / "encoder" / "evil_module.py").unlink()
    relist(bank.path, "encoder/modules.json")
    with pytest.raises(BankError, match="code from elsewhere"):
        ExpertBank.from_pretrained(bank.path)


@pytest.mark.parametrize(
    "content", [struct.pack("<Q", 1 << 60) + b"{}", b"", b"\xff" * 64, struct.pack("<Q", 2) + b"{}"]
)
def test_forged_centroids_are_one_clear_error(bank, content):
    (bank.path / "router.safetensors").write_bytes(content)
    relist(bank.path, "router.safetensors")
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
