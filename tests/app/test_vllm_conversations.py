"""An export's client with conversations, control tokens in questions, and a base that could think."""

from __future__ import annotations

import json
import sys

import pytest
from helpers.banks import TEXTS, make_bank
from helpers.models import CHATML, make_test_base
from test_vllm_export import serving

from assl_kit.app.exports.folder import write_folder
from assl_kit.app.exports.servers import VLLM
from assl_kit.app.served import client as vllm_client
from assl_kit.app.served.client import body
from assl_kit.app.served.routes import ClientError
from assl_kit.data.conversations import conversation, prompt_text
from assl_kit.model.identity import base_info
from assl_kit.model.loading import load_base
from assl_kit.space.encoder import encode, load_encoder

TALK = conversation(TEXTS[1], "你是分析师。", [["你好", "好"]])


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """Bank and export of a base whose template knows enable_thinking, and was used without."""
    folder = tmp_path_factory.mktemp("parts")
    base_folder = make_test_base(folder / "base")
    template = CHATML + "{% if add_generation_prompt and enable_thinking is false %}<think></think>{% endif %}"
    (base_folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    bank = make_bank(folder, base_folder, base=base_info(*load_base(str(base_folder), device="cpu")))
    return bank, write_folder(VLLM, bank, folder / "out", base=str(base_folder))


def ask(monkeypatch, exported, file):
    """What the client sends for a file of questions, and what it writes."""
    with serving() as server:
        arguments = ["client.py", "--routes", str(exported), "--server", server.address, "--file", str(file)]
        monkeypatch.setattr(sys, "argv", [*arguments, "--output", str(file.with_suffix(".out")), "--jobs", "1"])
        monkeypatch.setattr(sys.stdout, "reconfigure", lambda **_: None, raising=False)
        with pytest.raises(SystemExit) as caught:
            vllm_client.main()
        assert not caught.value.code
    return server.requests, [json.loads(line) for line in file.with_suffix(".out").read_text("utf-8").splitlines()]


def test_conversations_of_all_forms_are_sent_as_messages(parts, tmp_path, monkeypatch):
    bank, exported = parts
    history = [["你好", "好"]]
    rows = [
        {"instruction": TEXTS[1], "input": "", "system": "你是分析师。", "history": history},
        {"instruction": TEXTS[1], "system": "你是分析师。", "history": json.dumps(history, ensure_ascii=False)},
        {"messages": TALK},
        {"messages": [*TALK, {"role": "assistant", "content": "下调"}]},
        {"messages": [{"role": "user", "content": TEXTS[0]}]},
        {"instruction": TEXTS[0], "system": "", "history": ""},
        {"instruction": TEXTS[0], "system": None, "history": []},
    ]
    file = tmp_path / "q.jsonl"
    file.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8")
    requests, answers = ask(monkeypatch, exported, file)
    assert [sent["messages"] for sent in requests[:4]] == [TALK] * 4
    assert [sent["messages"] for sent in requests[4:]] == [[{"role": "user", "content": TEXTS[0]}]] * 3
    assert all(sent["chat_template_kwargs"] == {"enable_thinking": False} for sent in requests)
    assert [answer["question"] for answer in answers] == [TALK] * 4 + [TEXTS[0]] * 3
    encoder = load_encoder(str(bank.encoder_path))
    expert = bank.router().route(encode(encoder, [TALK])).experts[0]
    assert {answer["model"] for answer in answers[:4]} == {bank.names[expert]}
    assert (encode(encoder, [TALK]) == encode(encoder, [prompt_text(TALK)])).all()


@pytest.mark.parametrize(
    "row",
    [
        '{"messages": []}',
        '{"messages": [{"role": "assistant", "content": "x"}]}',
        '{"messages": [{"role": "user"}]}',
        '{"messages": "x"}',
        '{"instruction": "x", "history": "["}',
        '{"instruction": "x", "history": [["a"]]}',
        '{"instruction": "x", "history": [["a", 1]]}',
        '{"instruction": "x", "system": 3}',
    ],
)
def test_what_is_no_conversation_is_named_by_its_line(tmp_path, row):
    (tmp_path / "q.jsonl").write_text(f"好\n{row}\n", encoding="utf-8")
    with pytest.raises(ClientError, match=r"q\.jsonl:2 is no question"):
        vllm_client.read_questions(str(tmp_path / "q.jsonl"))


@pytest.mark.parametrize(
    "mark",
    [
        "<|im_end|>",
        "<|im_start|>",
        "<|endoftext|>",
        "<start_of_turn>",
        "<end_of_turn>",
        "</s>",
        "<s>",
        "<bos>",
        "<eos>",
        "[INST]",
        "[/INST]",
        "<｜User｜>",
        "<|eot_id|>",
        "<|start_header_id|>",
    ],
)
def test_control_tokens_reach_a_server_broken(mark):
    """A server tokenises on its own; none of its control tokens is whole in what the client sends."""
    for question in (f"好{mark}坏", conversation("问", f"{mark}", [[mark, mark * 2]])):
        sent = body("base", question, 4)["messages"]
        assert not any(mark in message["content"] for message in sent)
        texts = [message["content"].replace("\u2060", "") for message in sent]
        assert texts == ([question] if isinstance(question, str) else [message["content"] for message in question])


@pytest.mark.parametrize("text", ["a<b>c", "x <|y", "[1] 1 < 2 | 3 > 2", "<p>好</p>", "[INSTANT]", "a|b"])
def test_ordinary_signs_are_sent_as_they_are(text):
    assert body("base", text, 4)["messages"] == [{"role": "user", "content": text}]


def test_a_base_that_cannot_think_is_asked_as_ever():
    assert "chat_template_kwargs" not in body("base", "好", 4)
    assert body("base", "好", 4, thinking=True)["chat_template_kwargs"] == {"enable_thinking": True}
