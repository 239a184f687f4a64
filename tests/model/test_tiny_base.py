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

    made = [r for r in synthetic.iter_records(1500, seed=11, split="test") if r["task"] == "qa" and not r["input"]]
    records = [r for r in made if r["output"] in r["instruction"]][:40]  # as people ask, about a text
    assert len(records) == 40
    answers = generate_answers(
        model, tokenizer, [user_prompt(r["instruction"], r["input"]) for r in records], max_new_tokens=32
    )
    right = sum(record["output"] in answer for record, answer in zip(records, answers, strict=True))
    assert right > 0.25 * len(records)


def test_smoke_run_makes_a_whole_model_from_the_training_side_only(script, tmp_path, monkeypatch):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    import benchmarks.tiny_base.lessons as lessons
    from assl_kit.data.world.values import Context

    sides, asked = [], []
    make = synthetic.iter_records

    def watched(n, *, seed=0, split="train", **rest):
        asked.append((seed, split))
        return make(n, seed=seed, split=split, **rest)

    def context(rng, test):
        sides.append(test)
        return Context(rng, test)

    monkeypatch.setattr(synthetic, "iter_records", watched)
    monkeypatch.setattr(synthetic, "make_corpus", None)
    monkeypatch.setattr(lessons, "Context", context)
    folder = script.main(["--smoke", "--output", str(tmp_path / "made")])
    assert sides and not any(sides)
    assert asked and all(split != "test" and seed >= 1000 for seed, split in asked)
    assert sorted(os.listdir(folder)) == sorted(os.listdir(FOLDER))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert model.config.vocab_size == len(tokenizer)
    first = (folder / "model.safetensors").read_bytes()
    log = json.loads((tmp_path / "made.log.json").read_text(encoding="utf-8"))
    assert log["chunk"] == 2 == len(log["checks"]) and log["best"] == min(row["held_out"] for row in log["checks"])
    assert {"copying", "lessons", "choices", "houses"} == set(log["measured"]) and log["tokens"] > 1000

    script.main(["--smoke", "--output", str(tmp_path / "made")])  # all chunks are done: the same weights again
    assert (folder / "model.safetensors").read_bytes() == first


def test_half_the_bits_are_stored_and_none_is_lost(script, tmp_path):
    import torch
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM

    folder = script.main(["--smoke", "--output", str(tmp_path / "made")])
    stored = load_file(folder / "model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.float16}
    model = AutoModelForCausalLM.from_pretrained(folder)
    for name, weight in model.named_parameters():
        assert weight.dtype == torch.float32 and torch.equal(weight, stored[name].float())


def test_stopped_training_continues_to_the_same_weights(script, tmp_path):
    import benchmarks.tiny_base.batches as batches

    script.main(["--smoke", "--output", str(tmp_path / "whole")])
    real = batches.chunk

    def stop(index, size, seed=0):
        if index == 1:
            raise KeyboardInterrupt
        return real(index, size, seed)

    options = ["--smoke", "--output", str(tmp_path / "parts")]
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(batches, "chunk", stop)
        script.main(options)
    assert not (tmp_path / "parts").exists()
    script.main(options)
    assert (tmp_path / "parts" / "model.safetensors").read_bytes() == (
        tmp_path / "whole" / "model.safetensors"
    ).read_bytes()


def test_processes_that_make_lessons_change_nothing(script, tmp_path):
    for name, options in (("alone", []), ("ahead", ["--workers", "2"])):
        script.main(["--smoke", "--output", str(tmp_path / name), *options])
    alone, ahead = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("alone", "ahead"))
    assert alone == ahead


def test_a_time_limit_ends_the_training(script, tmp_path):
    folder = script.main(["--smoke", "--minutes", "0.05", "--output", str(tmp_path / "made")])
    log = json.loads((tmp_path / "made.log.json").read_text(encoding="utf-8"))
    assert folder.is_dir() and 2.9 <= log["seconds"] < 40 and log["chunk"] > 2


def test_lessons_use_no_word_of_a_house_and_their_answers_are_true():
    from collections import Counter

    from assl_kit.data.grammar import lines_of, wordings
    from assl_kit.data.task_grammars import grammar_data
    from benchmarks.tiny_base.lessons import SHARES, chunk

    houses = grammar_data("houses").values()
    marks = {w for house in houses for part in house.values() for line in lines_of(part) for w in wordings(line)}
    lessons = chunk(3, 3000)
    counts = Counter(kind for kind, _, _ in lessons)
    assert sum(SHARES.values()) == 100 and set(counts) == set(SHARES)
    assert not [question for _, question, _ in lessons if any(mark in question for mark in marks)]
    for kind, question, answer in lessons:
        assert question.strip() and answer.strip() and "{" not in question.replace("def f", "") + answer, question
        if kind in ("reading", "headline"):
            assert answer.split("：")[0] in question, (question, answer)
        if kind == "mood":
            assert answer in question, (question, answer)
        if kind == "options" and answer in "ABCD" and "“" in question and question.count("“") == 1:
            quoted = question.split("“")[1].split("”")[0]
            options = dict(line.split(". ", 1) for line in question.split("\n") if line[1:3] == ". ")
            assert options[answer] == quoted or quoted not in options.values(), question
    assert chunk(3, 50) == lessons[:50]
