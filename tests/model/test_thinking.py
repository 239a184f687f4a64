"""Reasoning models: a template that asks whether to think is told not to, and the base's identity says so."""

from __future__ import annotations

import pytest
from helpers.models import CHATML, make_test_base

from assl_kit.data.conversations import conversation
from assl_kit.model import loading
from assl_kit.model.identity import base_info
from assl_kit.model.loading import load_base
from assl_kit.model.templates import stop_thinking, thinks
from assl_kit.model.tokens import chat_prompt
from assl_kit.model.turns import prompt_ids

THINKS = (
    CHATML.replace("<|im_start|>assistant\n{% endif %}", "<|im_start|>assistant\n")
    + "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
SKIPS = "<think>\n\n</think>\n\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = make_test_base(tmp_path_factory.mktemp("base") / "reasons")
    (folder / "chat_template.jinja").write_text(THINKS, encoding="utf-8")
    return folder


@pytest.fixture(autouse=True)
def _anew():
    loading._say_once.cache_clear()


def test_thinking_is_off_and_said_once(folder, capsys):
    _, tokenizer = load_base(str(folder), device="cpu")
    assert "can think aloud before it answers; that is off" in capsys.readouterr().err
    load_base(str(folder), device="cpu")
    assert "think" not in capsys.readouterr().err
    assert chat_prompt(tokenizer, "好").endswith(f"<|im_start|>assistant\n{SKIPS}")
    talk = conversation("二季度？", history=[["一季度？", "43"]])
    assert chat_prompt(tokenizer, talk).count("<think>") == 1
    row = prompt_ids(tokenizer, [talk], 1000)[0]
    assert tokenizer.decode(row.ids) == chat_prompt(tokenizer, talk)


def test_thinking_can_be_left_as_it_is(folder, capsys):
    _, tokenizer = load_base(str(folder), device="cpu", thinking=True)
    assert "think" not in capsys.readouterr().err and tokenizer.chat_template == THINKS
    assert chat_prompt(tokenizer, "好").endswith("<|im_start|>assistant\n")


def test_the_identity_tells(folder, tmp_path):
    off = base_info(*load_base(str(folder), device="cpu"))
    on = base_info(*load_base(str(folder), device="cpu", thinking=True))
    assert (off["thinking"], on["thinking"]) == (False, True)
    assert off["tokenizer"] != on["tokenizer"] and off["fingerprint"] == on["fingerprint"]
    model, tokenizer = load_base(str(folder), device="cpu")
    model.save_pretrained(tmp_path / "saved"), tokenizer.save_pretrained(tmp_path / "saved")
    assert base_info(*load_base(str(tmp_path / "saved"), device="cpu"))["tokenizer"] == off["tokenizer"]


def test_other_templates_stay_as_they_are(tmp_path, capsys):
    model, tokenizer = load_base("tiny", device="cpu")
    assert "thinking" not in base_info(model, tokenizer, "tiny") and thinks(tokenizer) is None
    assert not stop_thinking(tokenizer) and "enable_thinking" not in tokenizer.chat_template
    assert "think" not in capsys.readouterr().err


def test_named_templates_are_switched_too(folder):
    _, tokenizer = load_base(str(folder), device="cpu", thinking=True)
    tokenizer.chat_template = {"default": THINKS, "plain": CHATML}
    assert thinks(tokenizer) and stop_thinking(tokenizer) and thinks(tokenizer) is False
    assert chat_prompt(tokenizer, "好").endswith(SKIPS) and tokenizer.chat_template["plain"] == CHATML
