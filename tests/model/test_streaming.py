"""Streams: the same text as at once, in pieces that are certain, and stopped when nobody listens."""

from __future__ import annotations

import threading
import time

import pytest
import torch

from assl_kit.errors import DataError, ParameterError
from assl_kit.model.generation import generate_answers
from assl_kit.model.loading import load_base
from assl_kit.model.streaming import RowStreamer, stream_answers

PROMPTS = [
    "判断情感。",
    "为下面的新闻写一个标题：基金经理看好消费板块的估值修复。",
    "回答问题",
    "A",
    "央行下调存款准备金率。",
]


@pytest.fixture(scope="module")
def tiny():
    return load_base("tiny", device="cpu")


def joined(pieces, n):
    texts = [""] * n
    for row, piece in pieces:
        assert piece
        texts[row] += piece
    return texts


@pytest.mark.parametrize("which", ["base", "tiny"])
@pytest.mark.parametrize("batch_size", [1, 2, 32])
def test_the_pieces_are_the_text(request, which, batch_size):
    model, tokenizer = request.getfixturevalue(which)
    pieces = list(stream_answers(model, tokenizer, PROMPTS, max_new_tokens=24, batch_size=batch_size))
    texts = generate_answers(model, tokenizer, PROMPTS, max_new_tokens=24)
    assert joined(pieces, len(PROMPTS)) == texts
    assert len(pieces) > len(PROMPTS), "more than one piece each"


def test_characters_are_whole_and_white_space_waits(tiny):
    _, tokenizer = tiny
    text = " \n 基金🏦上涨\n\n净值é　　完。 "
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert any("\ufffd" in tokenizer.decode([token]) for token in ids), "some token is a part of a character"
    found, end = [], tokenizer.eos_token_id
    streamer = RowStreamer(tokenizer, [7], [end], lambda item: found.append(item))
    streamer.put(torch.zeros(1, 5, dtype=torch.long))
    for token in [*ids, end, tokenizer.pad_token_id, ids[3]]:
        streamer.put(torch.tensor([token]))
    streamer.end()
    assert {row for row, _ in found} == {7} and not any("\ufffd" in piece for _, piece in found)
    assert "".join(piece for _, piece in found) == text.strip()
    assert all(not "".join(p for _, p in found[:k])[-1:].isspace() for k in range(len(found)))


def test_bytes_that_never_become_a_character_come_at_the_end(tiny):
    _, tokenizer = tiny
    broken = tokenizer("🏦", add_special_tokens=False)["input_ids"][:1]
    found = []
    streamer = RowStreamer(tokenizer, [0], [tokenizer.eos_token_id], found.append)
    for token in [*tokenizer("涨", add_special_tokens=False)["input_ids"], *broken]:
        streamer.put(torch.tensor([token]))
    assert "".join(piece for _, piece in found) == "涨"
    streamer.end()
    assert "".join(piece for _, piece in found) == tokenizer.decode(
        tokenizer("涨", add_special_tokens=False)["input_ids"] + broken
    )


@pytest.mark.parametrize("way", ["closed", "dropped", "interrupted"])
def test_nobody_listens_and_the_model_stops(base, monkeypatch, way):
    model, tokenizer = base
    steps = []
    forward = type(model).forward
    monkeypatch.setattr(
        type(model), "forward", lambda *a, **k: (steps.append(1), time.sleep(0.01), forward(*a, **k))[2]
    )
    before = threading.active_count()
    pieces = stream_answers(model, tokenizer, PROMPTS, max_new_tokens=500)
    next(pieces)
    if way == "closed":
        pieces.close()
    elif way == "dropped":
        del pieces
    else:
        with pytest.raises(KeyboardInterrupt):
            pieces.throw(KeyboardInterrupt())
    done = len(steps)
    assert done < 400 and threading.active_count() == before
    time.sleep(0.1)
    assert len(steps) == done


def test_an_exception_in_the_model_is_raised_where_the_pieces_are_read(base, monkeypatch):
    model, tokenizer = base

    def broken(*_, **__):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(type(model), "forward", broken)
    with pytest.raises(RuntimeError, match="out of memory"):
        list(stream_answers(model, tokenizer, PROMPTS[:1]))


def test_wrong_use_is_refused_at_the_call(base):
    model, tokenizer = base
    with pytest.raises(ParameterError, match="max_new_tokens must be a whole number"):
        stream_answers(model, tokenizer, PROMPTS, max_new_tokens=0)
    with pytest.raises(ParameterError, match="leaves no room"):
        stream_answers(model, tokenizer, PROMPTS, max_new_tokens=10_000)
    with pytest.raises(ParameterError, match="not loaded"):
        stream_answers(model, tokenizer, PROMPTS[:1], adapter_names=["expert-0"])
    with pytest.raises(DataError, match="must be strings"):
        stream_answers(model, tokenizer, [None])
    assert list(stream_answers(model, tokenizer, [])) == []
