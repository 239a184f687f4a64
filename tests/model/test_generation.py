"""Answers: plain greedy decoding, mixed adapters, nothing left behind."""

from __future__ import annotations

import pytest
import torch
from helpers.models import PROMPTS, with_two_adapters

from assl_kit.errors import DataError, ParameterError
from assl_kit.model.generation import generate_answers
from assl_kit.model.likelihood import answer_nll
from assl_kit.model.loading import load_base
from assl_kit.model.tokens import chat_prompt


@pytest.fixture(scope="module")
def adapted(base_folder):
    return with_two_adapters(base_folder)


def plain_greedy(model, tokenizer, prompt, n):
    """One prompt, no cache, no padding."""
    ids = tokenizer(chat_prompt(tokenizer, prompt), add_special_tokens=False)["input_ids"]
    new = []
    with torch.inference_mode():
        for _ in range(n):
            token = model(input_ids=torch.tensor([ids + new]), use_cache=False).logits[0, -1].argmax().item()
            if token == tokenizer.eos_token_id:
                break
            new.append(token)
    return tokenizer.decode(new, skip_special_tokens=True).strip()


@pytest.mark.parametrize("batch_size", [1, 2, 32])
def test_generate_is_plain_greedy_in_order(base, batch_size):
    expected = [plain_greedy(*base, prompt, 12) for prompt in PROMPTS]
    assert len(set(expected)) > 1
    assert generate_answers(*base, PROMPTS, max_new_tokens=12, batch_size=batch_size) == expected


def test_who_has_not_ended_after_a_short_answer_goes_on_in_a_second_round(base, monkeypatch):
    model, tokenizer = base
    expected = [plain_greedy(*base, prompt, 12) for prompt in PROMPTS]
    ended = [len(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in expected]
    asked, generate = [], model.generate

    def count(**kwargs):
        asked.append(len(kwargs["input_ids"]))
        return generate(**kwargs)

    monkeypatch.setattr(model, "generate", count)
    for short in (1, 5, 11, 12, 40):
        monkeypatch.setattr("assl_kit.model.generation.SHORT", short)
        asked.clear()
        assert generate_answers(model, tokenizer, PROMPTS, max_new_tokens=12) == expected
        assert asked[0] == len(PROMPTS) and len(asked) == 1 + (short < 12)
    assert max(ended) >= 5  # there was something to go on with
    monkeypatch.setattr("assl_kit.model.batches.SMALL_MODEL", 0)  # a large model reads nothing twice
    monkeypatch.setattr("assl_kit.model.generation.SHORT", 5)
    asked.clear()
    assert generate_answers(model, tokenizer, PROMPTS, max_new_tokens=12, batch_size=32) == expected
    assert asked == [len(PROMPTS)]


def test_generate_ignores_the_models_own_sampling_fields(base_folder):
    model, tokenizer = load_base(str(base_folder), device="cpu")
    expected = generate_answers(model, tokenizer, PROMPTS, max_new_tokens=12)
    model.generation_config.repetition_penalty = 5.0
    model.generation_config.do_sample = True
    model.generation_config.temperature = 9.0
    assert generate_answers(model, tokenizer, PROMPTS, max_new_tokens=12) == expected


def test_generate_stops_at_the_end_token(base_folder):
    model, tokenizer = load_base(str(base_folder), device="cpu")
    steps = []
    model.register_forward_hook(lambda module, args, out: steps.append(1))
    with torch.no_grad():  # every token but the end gets an equal, lower logit
        model.model.norm.weight.zero_()
        head = torch.nn.Linear(32, len(tokenizer))
        head.weight.zero_(), head.bias.zero_()
        head.bias[tokenizer.eos_token_id] = 1.0
        model.lm_head = head
    assert generate_answers(model, tokenizer, ["a", "b"], max_new_tokens=50) == ["", ""]
    assert len(steps) == 1


def test_mixed_adapters_are_the_adapters_one_at_a_time(adapted):
    model, tokenizer = adapted
    names = ["one", "__base__", "two", "two", "one", "__base__"]
    alone = {}
    for name in ("one", "two"):
        model.set_adapter(name)
        alone[name] = generate_answers(model, tokenizer, PROMPTS, max_new_tokens=8)
    with model.disable_adapter():
        alone["__base__"] = generate_answers(model, tokenizer, PROMPTS, max_new_tokens=8)
    assert alone["one"] != alone["two"] != alone["__base__"]
    mixed = generate_answers(model, tokenizer, PROMPTS, max_new_tokens=8, adapter_names=names, batch_size=4)
    assert mixed == [alone[name][i] for i, name in enumerate(names)]


def test_adapter_names_are_checked_first(base, adapted):
    model, tokenizer = adapted
    model.set_adapter("one")
    before = generate_answers(model, tokenizer, PROMPTS, max_new_tokens=4)
    with pytest.raises(ParameterError, match="three"):
        generate_answers(model, tokenizer, PROMPTS[:2], adapter_names=["one", "three"])
    with pytest.raises(DataError, match="1 adapter names but 2 prompts"):
        generate_answers(model, tokenizer, PROMPTS[:2], adapter_names=["one"])
    with pytest.raises(ParameterError, match="no adapters"):
        generate_answers(*base, PROMPTS[:1], adapter_names=["one"])
    assert generate_answers(model, tokenizer, PROMPTS, max_new_tokens=4) == before


def test_interrupted_mixed_batch_leaves_no_hooks(adapted):
    model, tokenizer = adapted
    model.set_adapter("one")
    before = generate_answers(model, tokenizer, PROMPTS, max_new_tokens=4)

    def stop(module, args):
        raise KeyboardInterrupt

    handle = model.get_base_model().get_decoder().norm.register_forward_pre_hook(stop)
    with pytest.raises(KeyboardInterrupt):
        generate_answers(model, tokenizer, PROMPTS, max_new_tokens=4, adapter_names=["two"] * 6)
    handle.remove()
    assert generate_answers(model, tokenizer, PROMPTS, max_new_tokens=4) == before


def test_training_state_comes_back(base):
    model, tokenizer = base
    model.train()
    generate_answers(model, tokenizer, ["a"], max_new_tokens=1)
    answer_nll(model, tokenizer, ["a"], ["b"])
    assert model.training
    model.eval()
