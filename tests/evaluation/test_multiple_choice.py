"""Multiple choice by likelihood: the same as the definition, whatever the batch and with an adapter."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from assl_kit.errors import ParameterError
from assl_kit.evaluation.multiple_choice import likeliest_options
from assl_kit.model.likelihood import answer_nll
from assl_kit.model.loading import load_base
from assl_kit.model.tokens import chat_prompt

PROMPTS = [
    "下列哪一项是央行的职能？\nA. 甲\nB. 乙\nC. 丙\nD. 丁",
    "选择正确答案。\nA. 一\nB. 二\nC. 三\nD. 四，以及更长的说明",
    "选。",
]


@pytest.fixture(scope="module")
def base():
    return load_base("tiny", device="cpu")


def test_it_is_the_log_probability_of_the_next_token(base):
    model, tokenizer = base
    chosen, found = likeliest_options(model, tokenizer, PROMPTS)
    letters = [tokenizer(letter, add_special_tokens=False)["input_ids"][0] for letter in "ABCD"]
    for prompt, letter, row in zip(PROMPTS, chosen, found, strict=True):
        ids = tokenizer(chat_prompt(tokenizer, prompt), add_special_tokens=False, return_tensors="pt").input_ids
        with torch.inference_mode():
            expected = model(ids).logits[0, -1].float().log_softmax(-1)[letters].numpy()
        assert np.allclose(row, expected, atol=1e-4) and letter == "ABCD"[expected.argmax()]


def test_the_batch_size_does_not_matter(base):
    one = likeliest_options(*base, PROMPTS * 3, batch_size=1)[1]
    assert np.allclose(one, likeliest_options(*base, PROMPTS * 3, batch_size=5)[1], atol=1e-5)


def test_long_options_are_compared_by_their_mean_loss(base):
    chosen, found = likeliest_options(*base, PROMPTS, ["净利润增长", "股价下跌"])
    losses = np.column_stack([answer_nll(*base, PROMPTS, [option] * 3) for option in ("净利润增长", "股价下跌")])
    assert np.allclose(found, -losses, atol=1e-5)
    assert chosen == [("净利润增长", "股价下跌")[k] for k in losses.argmin(axis=1)]


def test_bad_options_and_no_prompts(base):
    with pytest.raises(ParameterError, match="two or more"):
        likeliest_options(*base, PROMPTS, ["A"])
    with pytest.raises(ParameterError, match="different"):
        likeliest_options(*base, PROMPTS, ["A", "A"])
    chosen, found = likeliest_options(*base, [])
    assert chosen == [] and found.shape == (0, 4)
