"""inference: batches that are halved when memory runs out, left cuts, reports, logits where they are needed."""

from __future__ import annotations

import warnings
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from helpers.models import make_test_base

from assl_kit.common.device import is_out_of_memory, peak_memory_mb
from assl_kit.errors import ParameterError
from assl_kit.model import likelihood
from assl_kit.model.batches import InferenceReport, batch_size_for, cut_left
from assl_kit.model.generation import generate_answers
from assl_kit.model.likelihood import answer_nll
from assl_kit.model.loading import load_base
from assl_kit.model.tokens import chat_prompt

PROMPTS = ["你好" * (1 + i % 5) for i in range(11)]
ANSWERS = ["积极" * (1 + i % 3) for i in range(11)]


@pytest.fixture(scope="module")
def adapted(tmp_path_factory):
    from peft import LoraConfig, get_peft_model

    model, tokenizer = load_base(str(make_test_base(tmp_path_factory.mktemp("base") / "small")), device="cpu")
    torch.manual_seed(1)
    config = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False)
    return get_peft_model(model, config, adapter_name="one").eval(), tokenizer


@contextmanager
def memory_for(model, n, error=None):
    """A model that fails, deep inside, on batches of more than n; gives the sizes of batches it saw."""
    seen = []

    def check(module, args, kwargs):
        seen.append(len(kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]))
        if seen[-1] > n:
            raise error or torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB.")

    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    handle = base.get_decoder().layers[1].register_forward_pre_hook(check, with_kwargs=True)
    try:
        yield seen
    finally:
        handle.remove()


CPU_ERROR = RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes.")


@pytest.mark.parametrize("error", [None, CPU_ERROR])
def test_batches_are_halved_until_they_fit_with_the_same_results(base, error):
    losses, answers = answer_nll(*base, PROMPTS, ANSWERS), generate_answers(*base, PROMPTS, max_new_tokens=5)
    with memory_for(base[0], 4, error), pytest.warns(UserWarning, match="11 records at once; going on with 5") as told:
        report = InferenceReport()
        np.testing.assert_allclose(answer_nll(*base, PROMPTS, ANSWERS, report=report), losses, atol=1e-5)
    assert [str(warning.message) for warning in told if "out of memory" in str(warning.message)] == report.notes
    assert report.batch_size == 2 and len(report.notes) == 2
    with memory_for(base[0], 4, error), pytest.warns(UserWarning, match="generate: out of memory"):
        assert generate_answers(*base, PROMPTS, max_new_tokens=5, batch_size=8) == answers


def test_mixed_batches_are_halved_and_leave_no_hooks(adapted):
    model, tokenizer = adapted
    names = ["one", "__base__"] * 5 + ["one"]
    expected = generate_answers(model, tokenizer, PROMPTS, max_new_tokens=5, adapter_names=names)
    hooks = sum(len(module._forward_pre_hooks) for module in model.modules())
    with memory_for(model, 4), pytest.warns(UserWarning, match="out of memory"):
        assert generate_answers(model, tokenizer, PROMPTS, max_new_tokens=5, adapter_names=names) == expected
    assert sum(len(module._forward_pre_hooks) for module in model.modules()) == hooks


def test_one_record_too_many_is_an_error_that_says_what_to_do(base):
    with memory_for(base[0], 0), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(ParameterError, match=r"one record of \d+ tokens \(answer loss\).*Lower max_length"):
            answer_nll(*base, PROMPTS, ANSWERS)
        with pytest.raises(ParameterError, match="generate"):
            generate_answers(*base, PROMPTS[:1])


def test_other_errors_pass(base):
    with memory_for(base[0], 0, RuntimeError("shapes differ")) as seen:
        with pytest.raises(RuntimeError, match="shapes differ"):
            answer_nll(*base, PROMPTS, ANSWERS)
        assert seen == [11]
    assert is_out_of_memory(MemoryError()) and not is_out_of_memory(ValueError("out of memory"))


def test_reports_count_and_add_up(base):
    model, tokenizer = base
    heads = [len(tokenizer(chat_prompt(tokenizer, prompt))["input_ids"]) for prompt in PROMPTS]
    tails = [len(tokenizer(answer)["input_ids"]) + 1 for answer in ANSWERS]
    report = InferenceReport()
    answer_nll(model, tokenizer, PROMPTS, ANSWERS, report=report)
    assert (report.records, report.truncated, report.batch_size) == (11, 0, 11)
    assert (report.prompt_tokens, report.answer_tokens) == (sum(heads), sum(tails))
    assert report.seconds > 0 and report.tokens_per_second > 0 and report.peak_memory_mb > 1
    answer_nll(model, tokenizer, PROMPTS, ANSWERS, max_length=16, report=report)
    cut = sum(head + tail > 16 for head, tail in zip(heads, tails, strict=True))
    assert (report.records, report.truncated) == (22, cut) and cut > 0
    said = InferenceReport()
    generate_answers(model, tokenizer, PROMPTS, max_new_tokens=3, max_length=12, report=said)
    assert (said.records, said.truncated) == (11, sum(head > 12 for head in heads))
    assert 11 <= said.answer_tokens <= 33 and np.isnan(InferenceReport().tokens_per_second)


def test_nothing_is_reported_of_nothing(base):
    report = InferenceReport()
    assert generate_answers(*base, [], report=report) == [] and len(answer_nll(*base, [], [], report=report)) == 0
    assert report.records == 0


def test_long_answers_are_scored_in_parts(base, monkeypatch):
    answers = [answer * 9 for answer in ANSWERS]
    whole, rows = answer_nll(*base, PROMPTS, answers), []
    monkeypatch.setattr(likelihood, "positions_at_once", lambda base: 7)
    handle = base[0].get_output_embeddings().register_forward_hook(lambda module, args, out: rows.append(len(out)))
    np.testing.assert_allclose(answer_nll(*base, PROMPTS, answers), whole, atol=1e-6)
    handle.remove()
    assert max(rows) == 7 and len(rows) > 10


def test_generation_computes_one_position_of_logits_a_step(base):
    shapes = []
    handle = base[0].get_output_embeddings().register_forward_hook(lambda module, args, out: shapes.append(out.shape))
    generate_answers(*base, PROMPTS, max_new_tokens=3)
    handle.remove()
    assert all(shape[:2] == (11, 1) for shape in shapes)


class Tokens:
    bos_token_id = 2


@pytest.mark.parametrize(
    ("ids", "room", "left"),
    [([2, 5, 6, 7], 4, [2, 5, 6, 7]), ([2, 5, 6, 7], 2, [2, 7]), ([2, 5, 6], 1, [6]), ([4, 5, 6], 2, [5, 6])],
)
def test_a_cut_keeps_the_bos_token(ids, room, left):
    assert cut_left(ids, room, Tokens) == left
    Other = type("Other", (), {"bos_token_id": None})
    assert cut_left(ids, room, Other) == ids[-room:]


def test_batch_sizes():
    small, large = torch.nn.Linear(2, 2), torch.nn.Linear(5000, 5000, device="meta")
    assert batch_size_for(small, 10_000) == 32
    large_on_cpu = torch.nn.Linear(5000, 5000)
    assert [batch_size_for(large_on_cpu, length) for length in (1, 64, 512, 5000)] == [256, 64, 8, 1]
    assert large.weight.numel() > 20_000_000 and peak_memory_mb("cpu") > 1
