"""A base by its name or folder: its tokenizer is kept, a change is seen, what is no base is refused."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from helpers.models import make_test_base, with_two_adapters

from assl_kit.errors import ParameterError
from assl_kit.model.identity import base_info
from assl_kit.model.loading import load_base
from assl_kit.model.tokens import chat_prompt


@pytest.fixture(scope="module")
def adapted(base_folder):
    return with_two_adapters(base_folder)


def test_test_base_keeps_qwen_tokenizer_after_loading(base):
    tokenizer = base[1]
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|im_end|>", "<|endoftext|>")
    assert chat_prompt(tokenizer, "你好") == "<|im_start|>user\n你好<|im_end|>\n<|im_start|>assistant\n"
    text = "<|im_start|>净利润 2023 growth<|im_end|>\n"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert tokenizer.tokenize("2023") == ["2", "0", "2", "3"]  # Qwen splits digits one by one


def test_base_info_is_stable_and_sees_a_change(base_folder, base, adapted, tmp_path):
    info = base_info(*base)
    assert info["id"] == "small" and info["revision"] is None and len(info["fingerprint"]) == 64
    assert base_info(*load_base(str(base_folder), device="cpu", dtype="bfloat16")) == info
    assert base_info(*adapted)["fingerprint"] == info["fingerprint"]
    other = make_test_base(tmp_path / "other", seed=1)
    changed = base_info(*load_base(str(other), device="cpu"))
    assert changed["fingerprint"] != info["fingerprint"] and changed["tokenizer"] == info["tokenizer"]


def test_base_info_of_a_model_without_files(base):
    from transformers import Qwen2ForCausalLM

    first = Qwen2ForCausalLM(base[0].config)
    first.load_state_dict(base[0].state_dict())
    first.config._name_or_path = ""
    info = base_info(first, base[1])
    assert base_info(first, base[1]) == info
    with torch.no_grad():
        first.model.norm.weight[0] += 1
    assert base_info(first, base[1])["fingerprint"] != info["fingerprint"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("./nowhere", "no base model folder"),
        ("/no/such/folder", "no base model folder"),
        ("", "non-empty"),
        ("nobody/no-such-model", "could not be loaded"),
    ],
)
def test_unknown_names(name, message):
    with pytest.raises(ParameterError, match=message):
        load_base(name, device="cpu")


def test_unknown_dtype_and_device(base_folder):
    with pytest.raises(ParameterError, match="dtype"):
        load_base(str(base_folder), device="cpu", dtype="float8")
    with pytest.raises(ParameterError, match="device"):
        load_base(str(base_folder), device="tpu")


def test_pickled_weights_are_refused(base_folder, base, tmp_path):
    pickled = tmp_path / "pickled"
    shutil.copytree(base_folder, pickled)
    (pickled / "model.safetensors").unlink()
    torch.save(base[0].state_dict(), pickled / "pytorch_model.bin")
    with pytest.raises(ParameterError, match="safetensors"):
        load_base(str(pickled), device="cpu")


def test_remote_code_is_refused(base_folder, tmp_path):
    other = tmp_path / "remote"
    shutil.copytree(base_folder, other)
    config = json.loads((other / "config.json").read_text(encoding="utf-8"))
    config["model_type"] = "unheard_of"
    config["auto_map"] = {"AutoConfig": "code.Config", "AutoModelForCausalLM": "code.Model"}
    (other / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (other / "code.py").write_text("raise SystemExit('ran')", encoding="utf-8")
    with pytest.raises(ParameterError, match="could not be loaded"):
        load_base(str(other), device="cpu")


def test_chat_template_is_needed(base_folder, tmp_path):
    bare = tmp_path / "bare"
    shutil.copytree(base_folder, bare)
    (bare / "chat_template.jinja").unlink()
    with pytest.raises(ParameterError, match="no chat template"):
        load_base(str(bare), device="cpu")
    tokenizer = load_base(str(bare), device="cpu", chat_template="Q: {{ messages[0]['content'] }} A:")[1]
    assert chat_prompt(tokenizer, "x") == "Q: x A:"
