"""The loss of answers: its definition one token at a time, cut prompts, what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers.models import PROMPTS

from assl_kit.errors import DataError, ParameterError
from assl_kit.model.likelihood import answer_nll
from assl_kit.model.loading import load_base
from assl_kit.model.tokens import chat_prompt

ANSWERS = ["积极", "消极", "基金经理看好消费板块的估值修复。", "A", "", "dividend"]


def slow_nll(model, tokenizer, prompt, answer, max_length=512):
    """The definition: one record, all logits, one token after the other."""
    head = tokenizer(chat_prompt(tokenizer, prompt), add_special_tokens=False)["input_ids"]
    tail = tokenizer(answer, add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]
    head = head[-max(1, max_length - len(tail)) :]
    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([head + tail])).logits[0].double()
    logp = torch.log_softmax(logits, -1)
    return -np.mean([logp[len(head) - 1 + t, token].item() for t, token in enumerate(tail)])


@pytest.mark.parametrize("batch_size", [1, 4, 32])
def test_answer_nll_is_its_definition(base, batch_size):
    expected = [slow_nll(*base, prompt, answer) for prompt, answer in zip(PROMPTS, ANSWERS, strict=True)]
    got = answer_nll(*base, PROMPTS, ANSWERS, batch_size=batch_size)
    assert got.dtype == np.float64
    np.testing.assert_allclose(got, expected, atol=2e-5)


def test_answer_nll_without_prompt_is_an_empty_turn(base):
    np.testing.assert_allclose(answer_nll(*base, None, ANSWERS), answer_nll(*base, [""] * 6, ANSWERS), atol=1e-6)
    assert not np.allclose(answer_nll(*base, None, ANSWERS)[:4], answer_nll(*base, PROMPTS, ANSWERS)[:4])


def test_answer_nll_cuts_the_prompt_on_its_left(base):
    long = "股价上涨。" * 100
    expected = slow_nll(*base, long, "积极", max_length=40)
    np.testing.assert_allclose(answer_nll(*base, [long], ["积极"], max_length=40), [expected], atol=2e-5)
    assert not np.isclose(answer_nll(*base, [long], ["积极"], max_length=400)[0], expected)
    whole = slow_nll(*base, "你好", "股价上涨。" * 20, max_length=1)
    np.testing.assert_allclose(answer_nll(*base, ["你好"], ["股价上涨。" * 20], max_length=1), [whole], atol=2e-5)


def test_answer_nll_computes_logits_at_answers_only(base):
    model, tokenizer = base
    rows = []
    handle = model.get_output_embeddings().register_forward_hook(lambda module, args, out: rows.append(out.shape[-2]))
    answer_nll(model, tokenizer, PROMPTS, ANSWERS)
    handle.remove()
    assert sum(rows) == sum(len(tokenizer(answer)["input_ids"]) + 1 for answer in ANSWERS)


def test_answer_nll_bad_input(base):
    assert answer_nll(*base, [], []).shape == (0,)
    with pytest.raises(DataError, match="2 prompts but 1 answers"):
        answer_nll(*base, ["a", "b"], ["c"])
    with pytest.raises(DataError, match="row 1"):
        answer_nll(*base, ["a", "b"], ["c", None])
    with pytest.raises(DataError, match=r"does not fit .*row 0"):
        answer_nll(*base, ["a"], ["股价上涨。" * 500])
    with pytest.raises(ParameterError, match="batch_size"):
        answer_nll(*base, ["a"], ["b"], batch_size=0)


def test_answer_nll_names_a_loss_that_is_not_finite(base_folder):
    model, tokenizer = load_base(str(base_folder), device="cpu")
    with torch.no_grad():
        model.get_input_embeddings().weight[0, 0] = float("nan")
    with pytest.raises(DataError, match="not finite"):
        answer_nll(model, tokenizer, ["a"], ["b"])
