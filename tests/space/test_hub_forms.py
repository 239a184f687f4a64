"""Encoders in the forms of the hub's families (bge, gte, E5, Qwen3-Embedding), each of a few weights: their pooling."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from helpers.models import make_test_base

from assl_kit.space.encoder import encode, encoder_fingerprint, load_encoder

TEXTS = ["股价上涨。", "央行下调存款准备金率，释放长期资金约一万亿元。", "The bank raised its dividend."]


def bert(folder, tokenizer):
    from transformers import BertConfig, BertModel

    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    torch.manual_seed(1)
    BertModel(BertConfig(vocab_size=len(tokenizer), max_position_embeddings=256, **sizes)).save_pretrained(folder)


def qwen3(folder, tokenizer):
    from transformers import Qwen3Config, Qwen3Model

    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    torch.manual_seed(1)
    config = Qwen3Config(vocab_size=len(tokenizer), num_key_value_heads=2, head_dim=8, **sizes)
    Qwen3Model(config).save_pretrained(folder)


def save(folder, model, pooling, *, normalize=True, prompts=None, padding_side="right"):
    """A folder with the files that such a repository has."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(make_test_base(folder.parent / "base"))
    tokenizer.padding_side = padding_side
    tokenizer.chat_template = None
    tokenizer.save_pretrained(folder)
    model(folder, tokenizer)
    modules = [("", "Transformer"), ("1_Pooling", "Pooling"), *([("2_Normalize", "Normalize")] if normalize else [])]
    listed = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate(modules)
    ]
    mode = {f"pooling_mode_{name}": name == pooling for name in ("cls_token", "mean_tokens", "lasttoken")}
    (folder / "1_Pooling").mkdir()
    files = {
        "modules.json": listed,
        "sentence_bert_config.json": {"max_seq_length": 128, "do_lower_case": False},
        "1_Pooling/config.json": {"word_embedding_dimension": 32} | mode,
        "config_sentence_transformers.json": {"prompts": prompts or {}, "default_prompt_name": None},
    }
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content), encoding="utf-8")
    return folder


def by_hand(folder, texts, pooled):
    """Each text alone, without padding."""
    from transformers import AutoModel, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    rows = []
    for text in texts:
        with torch.no_grad():
            states = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0]
        row = {"cls_token": states[0], "mean_tokens": states.mean(dim=0), "lasttoken": states[-1]}[pooled]
        rows.append((row / row.norm()).numpy())
    return np.array(rows)


@pytest.mark.parametrize(
    ("name", "model", "pooling", "options", "before"),
    [
        ("bge-small-zh-v1.5", bert, "cls_token", {}, ""),
        ("gte-small-zh", bert, "mean_tokens", {"normalize": False}, ""),
        ("multilingual-e5-small", bert, "mean_tokens", {}, "query: "),
        (
            "Qwen3-Embedding-0.6B",
            qwen3,
            "lasttoken",
            {"padding_side": "left", "prompts": {"query": "Instruct: find\nQuery:", "document": ""}},
            "",
        ),
    ],
)
def test_rows_are_those_of_the_model_pooled_as_its_files_say(tmp_path, name, model, pooling, options, before):
    """A batch of different lengths gives what each text gives alone, so that padding is not pooled."""
    folder = save(tmp_path / name, model, pooling, **options)
    encoder = load_encoder(str(folder))
    rows = encode(encoder, TEXTS)
    assert np.allclose(rows, by_hand(folder, [before + text for text in TEXTS], pooling), atol=1e-5)
    others = {"cls_token", "mean_tokens", "lasttoken"} - {pooling}
    assert not any(np.allclose(rows, by_hand(folder, TEXTS, other), atol=1e-3) for other in others)
    encoder.save(str(tmp_path / "encoder"), create_model_card=False)  # as a bank carries it, under another name
    carried = load_encoder(str(tmp_path / "encoder"))
    assert encoder_fingerprint(carried) == encoder_fingerprint(encoder)
    assert np.allclose(encode(carried, TEXTS), rows, atol=1e-6)


def test_a_prompt_that_the_files_name_stays(tmp_path):
    folder = save(tmp_path / "e5-base", bert, "mean_tokens")
    settings = {"prompts": {"passage": "passage: "}, "default_prompt_name": "passage"}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(settings), encoding="utf-8")
    rows = encode(load_encoder(str(folder)), TEXTS)
    assert np.allclose(rows, by_hand(folder, ["passage: " + text for text in TEXTS], "mean_tokens"), atol=1e-5)
