"""benchmarks/serving.py: what it calls a share, on a SilverSight whose times are known."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from assl_kit.experts.router import CentroidRouter
from benchmarks import serving


def test_a_share_is_routing_over_answer():
    now = [0.0]

    def wait(seconds):
        now[0] += seconds

    def route(questions):
        wait(0.001 * len(questions))
        return CentroidRouter(np.eye(2)).route(np.ones((len(questions), 2)))

    def generate(questions, strategy="grouped", top_k=1, max_new_tokens=0):
        wait((0.1 if strategy == "grouped" else 0.2) * len(questions) * top_k)
        return [SimpleNamespace(text="ab") for _ in questions]

    def stream_batch(questions, batch_size, max_new_tokens):
        for row in range(2 * len(questions)):
            wait(0.05)
            yield row % len(questions), "a"

    def tokenizer(text, add_special_tokens):
        return {"input_ids": list(text)}

    fake = SimpleNamespace(route=route, generate=generate, stream_batch=stream_batch, tokenizer=tokenizer)
    found = serving.measure(fake, ["一", "二"], 4, 2, lambda: now[0])
    expected = {
        "single_route_ms": 1, "single_answer_ms": 100, "single_share": 0.01, "single_first_piece_ms": 50,
        "single_stream_ms": 100, "batch_route_ms": 1, "batch_answer_ms": 100, "batch_share": 0.01,
        "batch_mixed_ms": 200, "batch_first_piece_ms": 50, "batch_top2_ms": 200, "answer_tokens": 3,
        "top2_mixtures": 1, "clock": "wall", "rounds": 2, "batch": 4,
    }  # fmt: skip
    assert {key: found[key] for key in expected} == pytest.approx(expected)
    assert all(len(values) == 2 for values in found["all"].values()), "the first round does not count"
