"""The tiny base in the package, and the script that makes it."""

from __future__ import annotations

import json
import os

import pytest
from helpers import ROOT

from assl_kit.data import synthetic

FOLDER = ROOT / "assl_kit" / "model" / "tiny_base"


@pytest.fixture(scope="module")
def tokenizer():
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(FOLDER)


@pytest.fixture(scope="module")
def model():
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(FOLDER, use_safetensors=True).eval()


@pytest.fixture(scope="module")
def script():
    import benchmarks.tiny_base.__main__ as script

    return script


def test_folder_is_small_and_plain():
    files = [file for file in FOLDER.rglob("*") if file.is_file()]
    assert {file.suffix for file in files} <= {".json", ".safetensors", ".md"}
    assert {"config.json", "model.safetensors", "tokenizer.json", "README.md"} <= {file.name for file in files}
    assert sum(file.stat().st_size for file in files) <= 25e6


def test_model_is_a_small_tied_qwen2(model, tokenizer):
    import torch

    assert type(model).__name__ == "Qwen2ForCausalLM"
    assert model.config.tie_word_embeddings
    assert model.num_parameters() <= 10_000_000
    assert model.config.vocab_size == len(tokenizer)
    assert all(bool(torch.isfinite(weight).all()) for weight in model.parameters())
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id
    assert model.generation_config.pad_token_id == tokenizer.pad_token_id


def test_chat_template_is_chatml(tokenizer):
    turns = [{"role": "user", "content": "你好"}]
    asked = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    assert asked == "<|im_start|>user\n你好<|im_end|>\n<|im_start|>assistant\n"
    told = tokenizer.apply_chat_template([*turns, {"role": "assistant", "content": "好"}], tokenize=False)
    assert told == asked + "好<|im_end|>\n"
    assert tokenizer.eos_token == "<|im_end|>"
    assert tokenizer.pad_token == "<|endoftext|>"
    for token in ("<|endoftext|>", "<|im_start|>", "<|im_end|>"):
        assert len(tokenizer(token)["input_ids"]) == 1


@pytest.mark.parametrize(
    "text",
    [
        "华信科技（600123）今日收涨3.25%，净利润1,234.5万元。",
        "Q：A／B？\n“选项”　——①…… ETF can't",
        "龘靐齉 😀\r\n  缩进",
        " 前后都有空格 ",
    ],
)
def test_tokenizer_round_trips(tokenizer, text):
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_tokenizer_spends_about_one_token_a_character(tokenizer):
    records = list(synthetic.iter_records(300, seed=5, split="train"))
    texts = [record["instruction"] + record["input"] for record in records]
    tokens = sum(len(ids) for ids in tokenizer(texts)["input_ids"])
    assert tokens <= sum(map(len, texts))
    level1 = [bytes([row, cell]).decode("gb2312") for row in range(0xB0, 0xD7) for cell in range(0xA1, 0xFF)]
    assert all(len(ids) == 1 for ids in tokenizer(level1)["input_ids"])


def test_model_and_tokenizer_survive_saving(model, tokenizer, tmp_path):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    again, words = AutoModelForCausalLM.from_pretrained(tmp_path).eval(), AutoTokenizer.from_pretrained(tmp_path)
    text = words.apply_chat_template([{"role": "user", "content": "净利润3.5亿元"}], tokenize=False)
    assert words(text)["input_ids"] == tokenizer(text)["input_ids"]
    ids = torch.tensor([words(text)["input_ids"]])
    with torch.inference_mode():
        assert torch.equal(again(ids).logits, model(ids).logits)


def test_base_copies_what_it_never_saw(model, tokenizer, script):
    assert script.copy_accuracy(model, tokenizer, seed=3) > 0.5  # chance: 1 in 4,000


def test_base_answers_some_questions_by_copying(model, tokenizer):
    from assl_kit.data.records import user_prompt
    from assl_kit.model.generation import generate_answers

    records = [r for r in synthetic.iter_records(600, seed=11, split="test") if r["task"] == "qa"][:40]
    answers = generate_answers(
        model, tokenizer, [user_prompt(r["instruction"], r["input"]) for r in records], max_new_tokens=32
    )
    right = sum(record["output"] in answer for record, answer in zip(records, answers, strict=True))
    assert right > 0.25 * len(records)


def test_smoke_run_makes_a_whole_model_from_the_training_side_only(script, tmp_path, monkeypatch):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    asked = []
    make = synthetic.iter_records

    def watched(n, *, seed=0, split="train", **rest):
        asked.append((seed, split))
        return make(n, seed=seed, split=split, **rest)

    monkeypatch.setattr(synthetic, "iter_records", watched)
    monkeypatch.setattr(synthetic, "make_corpus", None)
    folder = script.main(["--smoke", "--output", str(tmp_path / "made")])
    assert asked and all(split == "train" and seed >= 1000 for seed, split in asked)
    assert sorted(os.listdir(folder)) == sorted(os.listdir(FOLDER))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert model.config.vocab_size == len(tokenizer)
    first = (folder / "model.safetensors").read_bytes()
    state = json.loads((tmp_path / "made.state" / "state.json").read_text(encoding="utf-8"))
    assert state["chunk"] == 2

    script.main(["--smoke", "--output", str(tmp_path / "made")])  # all chunks are done: the same weights again
    assert (folder / "model.safetensors").read_bytes() == first


def test_stopped_training_continues_to_the_same_weights(script, tmp_path):
    script.main(["--smoke", "--output", str(tmp_path / "whole")])
    real = script.chunk

    def stop(index, size, seed=0, **stage):
        if index == 1:
            raise KeyboardInterrupt
        return real(index, size, seed, **stage)

    options = ["--smoke", "--save-every", "1", "--output", str(tmp_path / "parts")]
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(script, "chunk", stop)
        script.main(options)
    assert not (tmp_path / "parts").exists()
    script.main(options)
    assert (tmp_path / "parts" / "model.safetensors").read_bytes() == (
        tmp_path / "whole" / "model.safetensors"
    ).read_bytes()


def test_half_of_the_wordings_are_answered_in_own_words(script):
    kinds = {task: set() for task in synthetic.TASKS}
    for record in script.chunk(3, 400):
        kinds[record["task"]].add(script.answer_of(record) == record["output"])
    assert all(kind == {True, False} for kind in kinds.values())
