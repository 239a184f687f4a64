"""A base model from a stranger: loading it runs nothing.

Most tests plant a program or a pickle that would make a marker file, and look for the marker.
"""

from __future__ import annotations

import json
import os
import pickle
import shutil
import struct
import time

import pytest
from helpers.hostile import NESTED, Hostile, change, plant_pickle
from helpers.models import make_test_base

from assl_kit.errors import ParameterError
from assl_kit.model import templates
from assl_kit.model.answers import AnswerBound
from assl_kit.model.gguf import check_gguf
from assl_kit.model.identity import base_info
from assl_kit.model.loading import load_base


@pytest.fixture(scope="module")
def made_base(tmp_path_factory):
    return make_test_base(tmp_path_factory.mktemp("made") / "base")


@pytest.fixture
def base(made_base, tmp_path):
    return shutil.copytree(made_base, tmp_path / "base")


def test_a_base_runs_no_code_it_brings(base, program):
    shutil.copy(program, base / "evil_module.py")
    entries = {"AutoConfig": "evil_module.Evil", "AutoModelForCausalLM": "evil_module.Evil"}
    change(base / "config.json", auto_map=entries)
    change(base / "tokenizer_config.json", auto_map={"AutoTokenizer": ["evil_module.Evil", "evil_module.Evil"]})
    assert load_base(str(base), device="cpu")[0].config.model_type == "qwen2"  # ours, not the one it brings
    change(base / "config.json", model_type="of_a_stranger")
    with pytest.raises(ParameterError, match="could not be loaded"):
        load_base(str(base), device="cpu")


def test_a_base_has_no_pickled_weights(base, marker):
    import torch

    (base / "model.safetensors").unlink()
    torch.save({"weight": Hostile(marker)}, base / "pytorch_model.bin")
    (base / "training_args.bin").write_bytes(pickle.dumps(Hostile(marker)))
    with pytest.raises(ParameterError, match="could not be loaded"):
        load_base(str(base), device="cpu")
    plant_pickle(base, marker, "evil.pt")
    with pytest.raises(ParameterError, match="no safetensors beside it"):
        load_base(str(base), device="cpu")


@pytest.mark.parametrize("shard", ["../elsewhere.safetensors", "/etc/elsewhere.safetensors", 7])
def test_a_base_lists_only_weights_beside_it(base, shard):
    os.replace(base / "model.safetensors", base.parent / "elsewhere.safetensors")
    index = {"metadata": {}, "weight_map": {"model.embed_tokens.weight": shard}}
    (base / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    with pytest.raises(ParameterError, match="no safetensors beside it"):
        load_base(str(base), device="cpu")


def test_damaged_weights_are_one_clear_error(base):
    for content in (struct.pack("<Q", 1 << 60) + b"{}", struct.pack("<Q", 8) + b'{"a":[]}', b"", b"\xff" * 64):
        (base / "model.safetensors").write_bytes(content)
        with pytest.raises(ParameterError, match="could not be loaded"):
            load_base(str(base), device="cpu")


def test_a_base_is_no_adapter_that_names_another_base(base, tmp_path):
    change(base / "adapter_config.json", peft_type="LORA", base_model_name_or_path=str(tmp_path / "elsewhere"))
    with pytest.raises(ParameterError, match="holds an adapter"):
        load_base(str(base), device="cpu")


@pytest.mark.parametrize("value", ["someone/attention", "kernels://x", {"": "someone/attention"}])
def test_a_base_asks_for_no_compiled_code(base, value):
    change(base / "config.json", attn_implementation=value)
    with pytest.raises(ParameterError, match="code from elsewhere"):
        load_base(str(base), device="cpu")


@pytest.mark.parametrize(
    "template",
    [
        "{{{{ cycler.__init__.__globals__.os.mkdir({0!r}) }}}}",
        "{{{{ ''.__class__.__mro__[1].__subclasses__() }}}}{{{{ joiner.__init__.__globals__['os'].mkdir({0!r}) }}}}",
        "{{% for x in",
        "{{{{ 1 // 0 }}}}",
    ],
)
def test_a_chat_template_stays_in_its_sandbox(base, marker, template):
    for file in base.glob("chat_template*"):
        file.unlink()
    change(base / "tokenizer_config.json", chat_template=template.format(str(marker)))
    with pytest.raises(ParameterError, match="chat template of the base model"):
        load_base(str(base), device="cpu")


@pytest.mark.parametrize(
    "template",
    [
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{% set x = namespace(t='aaaaaaaa') %}{% for i in range(40) %}{% set x.t = x.t ~ x.t %}{% endfor %}{{ x.t }}",
        "{{ 'a' * 9999999999 }}",
        "{% macro a(n) %}{% if n %}{{ a(n - 1) }}{{ a(n - 1) }}{% endif %}{% endmacro %}{{ a(60) }}",
        "{% for m in messages %}{{ m.content * 200000 }}{% endfor %}",
        "{% generation %}{% for a in range(99999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}"
        "{% endgeneration %}",
        "x" * 300_000,
    ],
    ids=["loops", "doubles", "multiplies", "calls itself", "writes much", "loops in a block of its own", "long"],
)
def test_a_chat_template_without_end_is_refused_before_it_runs_here(base, monkeypatch, template):
    monkeypatch.setattr(templates, "TRIAL_SECONDS", 1)
    templates._wrong_with.cache_clear()
    start = time.process_time()
    with pytest.raises(ParameterError, match="chat template of the base model .* cannot be used"):
        load_base(str(base), device="cpu", chat_template=template)
    assert time.process_time() - start < 20
    (base / "chat_template.jinja").write_text(template, encoding="utf-8")
    with pytest.raises(ParameterError, match=r"cannot be used|chat_template\.jinja"):
        load_base(str(base), device="cpu")


def test_a_tokenizer_that_makes_texts_grow_is_refused_before_it_is_loaded(base):
    doubling = {"type": "Replace", "pattern": {"String": "a"}, "content": "aa"}
    growing = {
        "normalizer": {"type": "Sequence", "normalizers": [doubling] * 40},
        "decoder": {"type": "Sequence", "decoders": [doubling | {"pattern": {"Regex": "a"}}] * 40},
        "post_processor": {
            "type": "Sequence",
            "processors": [{"type": "TemplateProcessing", "single": [{"Sequence": {"id": "A", "type_id": 0}}] * 2}]
            * 40,
        },
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "ByteLevel"}] * 40},
    }
    whole = (base / "tokenizer.json").read_text(encoding="utf-8")
    for part, value in growing.items():
        (base / "tokenizer.json").write_text(whole, encoding="utf-8")
        change(base / "tokenizer.json", **{part: value})
        with pytest.raises(ParameterError, match=rf"tokenizer's {part} could make a text more than 4,096 times"):
            load_base(str(base), device="cpu")
    (base / "tokenizer.json").write_text(whole, encoding="utf-8")
    with open(base / "tokenizer.json", "r+b") as file:
        file.truncate(3 << 30)  # gigabytes that take no place on the disk
    with pytest.raises(ParameterError, match="the file has 3,221,225,472 bytes, at most"):
        load_base(str(base), device="cpu")
    with pytest.raises(ParameterError, match="the file has 3,221,225,472 bytes, at most"):
        AnswerBound(str(base))("长" * 2000)


def test_a_forged_record_of_a_conversion_is_one_clear_error(base):
    model, tokenizer = load_base(str(base), device="cpu")
    for text in ("[]", "{}", '{"id": 1, "sha256": "x", "files": {}}', NESTED):
        (base / "converted.json").write_text(text, encoding="utf-8")
        with pytest.raises(ParameterError, match="record of a converted base model is damaged"):
            base_info(model, tokenizer, str(base))


def gguf(*values: bytes, tensors: int = 0) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", 3, tensors, len(values)) + b"".join(values)


def named(name: bytes, kind: int, value: bytes) -> bytes:
    return struct.pack("<Q", len(name)) + name + struct.pack("<I", kind) + value


@pytest.mark.parametrize(
    "content",
    [
        gguf(named(b"general.alignment", 4, struct.pack("<I", 0))),
        gguf(named(b"general.alignment", 8, struct.pack("<Q", 1) + b"x")),
        gguf(named(b"split.count", 8, struct.pack("<Q", 1) + b"x")),
        gguf(named(b"deep", 9, struct.pack("<IQ", 9, 1) * 50_000)),
        gguf(named(b"long", 8, struct.pack("<Q", 1 << 62))),
        gguf(named(b"many", 9, struct.pack("<IQ", 8, 1 << 62))),
        gguf(tensors=1 << 62),
        b"GGUF" + struct.pack("<IQQ", 3, 0, 1 << 62),
        gguf(*(named(b"k", 0, b"x") for _ in range(20_000))),
    ],
    ids=[
        "no alignment",
        "alignment text",
        "parts text",
        "nested",
        "long text",
        "long list",
        "tensors",
        "values",
        "many values",
    ],
)
def test_a_hostile_gguf_header_is_one_clear_error(tmp_path, content):
    (tmp_path / "a.gguf").write_bytes(content)
    with pytest.raises(ParameterError, match="damaged"):
        check_gguf(tmp_path / "a.gguf")


def test_a_tokenizer_at_which_its_library_panics_is_one_clear_error(base):
    file = base / "tokenizer.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    first, second = content["model"]["merges"][0]
    vocabulary = content["model"]["vocab"]
    vocabulary[""] = vocabulary.pop(first + second)
    file.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(ParameterError, match="could not be loaded: "):
        load_base(str(base), device="cpu")
