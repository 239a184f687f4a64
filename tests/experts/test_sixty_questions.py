"""Sixty questions written by hand, answered by the routed experts of a tiny run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

QUESTIONS = yaml.safe_load(Path(__file__).with_name("sixty_questions.yaml").read_text(encoding="utf-8"))


def is_right(answer: str, question: dict) -> bool:
    """Whether an answer is one of those listed, or holds all the words it should."""
    if "has" in question:
        return all(word in answer for word in question["has"])
    return answer.strip().rstrip("。.！") in question["right"]


def asked() -> list[dict]:
    return [question for pair in QUESTIONS["pairs"] for question in pair] + QUESTIONS["plain"]


def test_there_are_sixty_and_the_pairs_turn_round():
    assert len(asked()) == 50 and len(QUESTIONS["foreign"]) == 10 and len(QUESTIONS["pairs"]) == 10
    assert len({question["ask"] for question in asked()} | set(QUESTIONS["foreign"])) == 60
    for first, second in QUESTIONS["pairs"]:
        assert not set(first["right"]) & set(second["right"])
    assert all(re.search("[A-Za-z]{3}|[雨伞雪狗肉]", text) for text in QUESTIONS["foreign"])


def test_what_counts_as_right():
    assert is_right("积极。", {"right": ["积极"]}) and not is_right("不积极", {"right": ["积极"]})
    assert is_right("甲：增长18%", {"has": ["甲", "18%"]}) and not is_right("甲：增长", {"has": ["甲", "18%"]})


@pytest.mark.slow
def test_the_routed_experts_answer_them(tmp_path, monkeypatch):
    """At least 85 % of the fifty right, and the base alone on at least eight of the ten."""
    from assl_kit.experts.silversight import SilverSight
    from assl_kit.runner.run import run_chain

    monkeypatch.setenv("ASSL_RUNS", str(tmp_path))
    ws = run_chain("tiny", "sixty", last="06")
    silversight = SilverSight.from_pretrained(ws.path_of("experts"), device="cpu")
    answers = silversight.generate([question["ask"] for question in asked()], max_new_tokens=40)
    wrong = [(q["ask"], a.text, a.expert) for q, a in zip(asked(), answers, strict=True) if not is_right(a.text, q)]
    assert len(wrong) <= 0.15 * len(asked()), wrong
    foreign = silversight.generate(QUESTIONS["foreign"], max_new_tokens=20)
    assert sum(answer.expert == -1 for answer in foreign) >= 8, [(a.text, a.expert) for a in foreign]
