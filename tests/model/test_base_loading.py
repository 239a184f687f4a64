"""base_loading: quantised bases, dtypes, and bases that cannot be used."""

from __future__ import annotations

from importlib.util import find_spec
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers.models import make_test_base

from assl_kit.common.device import Device
from assl_kit.errors import ParameterError
from assl_kit.model import loading as base_loading
from assl_kit.model.generation import generate_answers
from assl_kit.model.identity import base_info
from assl_kit.model.likelihood import answer_nll
from assl_kit.model.loading import _check_output_embedding, _quantised_by, load_base

needs_bitsandbytes = pytest.mark.skipif(
    find_spec("bitsandbytes") is None, reason="bitsandbytes (the extra gpu) is not installed"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_test_base(tmp_path_factory.mktemp("base") / "small", hidden_size=64)


@needs_bitsandbytes
def test_nf4_is_near_the_base_and_keeps_its_identity(folder):
    plain, few = load_base(str(folder), device="cpu"), load_base(str(folder), device="cpu", quantization="nf4")
    assert type(few[0].get_decoder().layers[0].mlp.up_proj).__name__ == "Linear4bit"
    assert few[0].get_output_embeddings().weight.dtype == torch.float32
    prompts, answers = ["你好", "央行下调存款准备金率。"], ["积极", "A"]
    difference = answer_nll(*few, prompts, answers) - answer_nll(*plain, prompts, answers)
    assert 0 < np.abs(difference).max() < 2
    assert len(generate_answers(*few, prompts, max_new_tokens=4)) == 2
    assert base_info(*few) == base_info(*plain)


@needs_bitsandbytes
def test_nf4_takes_an_adapter_and_learns(folder):
    from peft import LoraConfig, get_peft_model

    model, tokenizer = load_base(str(folder), device="cpu", quantization="nf4")
    torch.manual_seed(0)
    model = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
    ids = tokenizer(["积极 消极 中性"], return_tensors="pt", add_special_tokens=False)["input_ids"]
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.02)
    losses = []
    for _ in range(8):
        loss = model(input_ids=ids, labels=ids).loss
        optimizer.zero_grad(), loss.backward(), optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.1


@needs_bitsandbytes
def test_a_base_that_is_quantised_already_is_not_quantised_again(folder, tmp_path):
    model, tokenizer = load_base(str(folder), device="cpu", quantization="nf4")
    model.save_pretrained(tmp_path / "four"), tokenizer.save_pretrained(tmp_path / "four")
    saved = load_base(str(tmp_path / "four"), device="cpu")
    np.testing.assert_allclose(answer_nll(*saved, ["a"], ["b"]), answer_nll(model, tokenizer, ["a"], ["b"]), atol=1e-5)
    with pytest.raises(ParameterError, match="quantised already, by bitsandbytes"):
        load_base(str(tmp_path / "four"), device="cpu", quantization="nf4")


def test_none_is_no_quantisation(folder):
    model, _ = load_base(str(folder), device="cpu", quantization="none")
    assert type(model.get_decoder().layers[0].mlp.up_proj) is torch.nn.Linear


def test_quantisation_is_checked_before_anything_is_loaded(monkeypatch):
    with pytest.raises(ParameterError, match="unknown quantization 'int3'"):
        load_base("nobody/nothing", quantization="int3")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ParameterError, match=r'pip install "assl-kit\[gpu\]"'):
        load_base("nobody/nothing", device="cpu", quantization="nf4")


def fake(head, tied=True):
    config = SimpleNamespace(get_text_config=lambda: SimpleNamespace(tie_word_embeddings=tied))
    return SimpleNamespace(get_output_embeddings=lambda: head, config=config)


def test_a_quantised_output_embedding_is_refused():
    class QuantLinear(torch.nn.Module):
        qweight = torch.zeros(4, 4, dtype=torch.int32)

    whole = torch.nn.Linear(4, 4)
    packed = torch.nn.Linear(4, 4)
    packed.weight = torch.nn.Parameter(torch.zeros(8, 1, dtype=torch.uint8), requires_grad=False)
    _check_output_embedding(fake(whole), "a")
    with pytest.raises(
        ParameterError, match=r"quantised output embedding \(QuantLinear\), tied to the input embedding"
    ):
        _check_output_embedding(fake(QuantLinear()), "a")
    with pytest.raises(ParameterError, match=r"quantised output embedding \(Linear\) so answers"):
        _check_output_embedding(fake(packed, tied=False), "a")
    with pytest.raises(ParameterError, match="has no output embedding"):
        _check_output_embedding(fake(None), "a")


@pytest.mark.parametrize(
    ("found", "method"),
    [(None, None), ({"quant_method": "gptq"}, "gptq"), (SimpleNamespace(quant_method="awq"), "awq")],
)
def test_the_method_of_quantised_files(found, method):
    assert _quantised_by(SimpleNamespace(quantization_config=found)) == method


def test_gemma_gets_no_float16(monkeypatch, folder, tmp_path):
    from transformers import AutoTokenizer, Gemma3ForCausalLM, Gemma3TextConfig

    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.save_pretrained(tmp_path)
    Gemma3ForCausalLM(
        Gemma3TextConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=16,
        )
    ).save_pretrained(tmp_path)
    t4 = Device("cpu", "float16", 8, "a T4, as far as this test goes")
    monkeypatch.setattr(base_loading, "pick_device", lambda prefer: t4)
    assert load_base(str(tmp_path))[0].dtype == torch.float32
    assert load_base(str(folder))[0].dtype == torch.float16
    assert load_base(str(tmp_path), dtype="bfloat16")[0].dtype == torch.bfloat16
