"""encoder: the fitted static encoder, its determinism, cache and fingerprint."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import ROOT

from assl_kit.errors import DataError, ParameterError
from assl_kit.space import static_encoder
from assl_kit.space.encoder import encode, encoder_fingerprint, load_encoder
from assl_kit.space.static_encoder import fit_static_encoder

FIRMS = ["东方科技", "海天能源", "长河银行", "青山医药", "北辰证券", "金岭矿业"]
TASKS = {
    "sentiment": "判断下面这条评论的情感倾向。{}股价大涨，散户{}次加仓，情绪高涨！",
    "title": "请为下面的公告拟一个标题。{}董事会通过第{}号利润分配方案。",
    "exam": "回答单项选择题，只写字母。{}发行的{}年期债券适用哪条规定？A.甲 B.乙",
}
TEXTS = [form.format(firm, number) for form in TASKS.values() for firm in FIRMS for number in range(2, 9)]
labels_of_texts = np.repeat(list(TASKS), len(FIRMS) * 7)


@pytest.fixture(scope="module")
def fitted():
    return fit_static_encoder(TEXTS, dim=32, vocab_size=500)


def test_rows_are_unit_float32_and_tell_tasks_apart(fitted):
    X = encode(fitted, TEXTS)
    assert X.dtype == np.float32 and X.shape == (len(TEXTS), 32)
    np.testing.assert_allclose(np.linalg.norm(X, axis=1), 1, atol=1e-6)
    centroids = np.stack([X[labels_of_texts == task].mean(0) for task in TASKS])
    assert (np.array(list(TASKS))[(X @ centroids.T).argmax(1)] == labels_of_texts).all()
    assert np.abs(X.std(0)).max() > 0.01


def test_a_repeated_token_counts_less_than_linearly():
    """The plain mean of idf·V would follow the token that repeats; the factor f(t) holds it back."""
    rng = np.random.default_rng(0)
    texts = []
    for i in range(200):  # a topic word once, a filler word many times in some texts
        topic = ["债券", "股票"][i % 2]
        texts.append(f"{topic} " + "啊 " * int(rng.choice([1, 40])) + f"第{i}号")
    X = encode(fit_static_encoder(texts, dim=8, vocab_size=200), ["债券", "啊", "债券 " + "啊 " * 20])
    plain = static_encoder._fit_tokenizer(texts, 200, 4)
    counts = static_encoder._count_tokens(plain, texts)
    vectors = static_encoder._token_vectors(counts, 8, 0, plain.token_to_id("[UNK]"))
    filler, topic = (np.linalg.norm(vectors[plain.token_to_id(token)]) for token in ("啊", "债券"))
    assert filler < 0.5 * topic
    assert X[2] @ X[0] > 0


@pytest.mark.parametrize("factor", [2.0, 0.25])
def test_rows_of_any_length_become_unit_rows(fitted, factor):
    from sentence_transformers import SentenceTransformer

    plain = SentenceTransformer(modules=[copy.deepcopy(fitted[0])], device="cpu")  # without the module that normalises
    with torch.no_grad():
        length = float(np.linalg.norm(plain.encode(TEXTS[:1])))
        plain[0].embedding.weight *= factor / length
    assert np.linalg.norm(plain.encode(TEXTS[:1])) == pytest.approx(factor, rel=1e-5)
    np.testing.assert_allclose(encode(plain, TEXTS), encode(fitted, TEXTS), atol=1e-6)


def test_a_long_text_counts_no_more_than_a_short_one():
    """Token vectors are those of the singular vectors of TF-IDF rows of length 1."""
    from scipy.sparse import csr_matrix

    counts = np.array([[9, 4, 0, 0], [0, 1, 1, 0], [1, 0, 2, 0], [0, 3, 0, 0]], float)  # the last token is never seen
    vectors = static_encoder._token_vectors(csr_matrix(counts), 2, 0, 3)
    idf = np.log(5 / (1 + (counts > 0).sum(axis=0))) + 1
    sublinear = np.where(counts > 0, 1 + np.log(np.maximum(counts, 1)), 0)
    rows = sublinear * idf
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    weights = idf * sublinear.sum(axis=0) / np.maximum(counts.sum(axis=0), 1)
    expected = weights[:, None] * np.linalg.svd(rows)[2][:2].T
    products = expected @ expected.T  # without the signs, which are open
    np.testing.assert_allclose((vectors @ vectors.T)[:3, :3], products[:3, :3], atol=1e-6)


@pytest.mark.parametrize("text", ["😀😀", "龘", "Ж", "?", "\u200b", "龘😀 龘"])
def test_unknown_characters_still_have_a_direction(fitted, text):
    row = encode(fitted, [text])[0]
    assert np.isfinite(row).all() and np.isclose(np.linalg.norm(row), 1, atol=1e-6)


def test_no_token_has_a_zero_vector(fitted):
    assert (fitted[0].embedding.weight.norm(dim=1) > 0).all()
    vocabulary = fitted[0].tokenizer.get_vocab()
    assert max(map(len, set(vocabulary) - {"[UNK]"})) <= 4
    X = encode(fitted, [token for token in vocabulary if token != "[UNK]"])
    np.testing.assert_allclose(np.linalg.norm(X, axis=1), 1, atol=1e-6)


def test_same_texts_same_bits_in_another_process(fitted, tmp_path):
    script = (
        "import torch; torch.set_num_threads(1)\n"
        "import test_encoder as t\n"
        "print(t.encoder_fingerprint(t.fit_static_encoder(t.TEXTS, dim=32, vocab_size=500)))"
    )
    places = [str(Path(__file__).parent), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, places))}
    command = [sys.executable, "-c", script]
    out = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT, check=True)
    assert out.stdout.strip().splitlines()[-1] == encoder_fingerprint(fitted)
    other = fit_static_encoder(TEXTS, dim=32, vocab_size=500, max_token_length=2)
    assert encoder_fingerprint(other) != encoder_fingerprint(fitted)


def test_saved_and_loaded_by_plain_sentence_transformers(fitted, tmp_path):
    from sentence_transformers import SentenceTransformer

    fitted.save(str(tmp_path / "encoder"))
    plain = SentenceTransformer(str(tmp_path / "encoder"), device="cpu")
    np.testing.assert_array_equal(plain.encode(TEXTS), encode(fitted, TEXTS))
    assert encoder_fingerprint(plain) == encoder_fingerprint(fitted)
    assert encoder_fingerprint(load_encoder(str(tmp_path / "encoder"))) == encoder_fingerprint(fitted)


def test_a_row_does_not_depend_on_its_batch(fitted):
    X = encode(fitted, TEXTS, batch_size=7)
    np.testing.assert_array_equal(X, encode(fitted, TEXTS))
    np.testing.assert_array_equal(X[::-1], encode(fitted, TEXTS[::-1], batch_size=3))


def test_fingerprint_sees_weights_and_tokenizer(fitted):
    before = encoder_fingerprint(fitted)
    with torch.no_grad():
        fitted[0].embedding.weight[3, 0] += 1
        assert encoder_fingerprint(fitted) != before
        fitted[0].embedding.weight[3, 0] -= 1
    again = fit_static_encoder(TEXTS, dim=32, vocab_size=500)
    again[0].tokenizer.normalizer = None
    assert encoder_fingerprint(again) != before


def test_more_dimensions_than_the_texts_have():
    X = encode(fit_static_encoder(["股价上涨", "央行降准"], dim=16), ["股价上涨", "央行降准", "其他"])
    assert X.shape == (3, 16)
    np.testing.assert_allclose(np.linalg.norm(X, axis=1), 1, atol=1e-6)


def test_large_corpora_are_sampled_by_seed():
    settings = {"dim": 8, "vocab_size": 200, "max_texts": 20}
    first = fit_static_encoder(TEXTS, seed=1, **settings)
    assert encoder_fingerprint(fit_static_encoder(TEXTS, seed=1, **settings)) == encoder_fingerprint(first)
    assert encoder_fingerprint(fit_static_encoder(TEXTS, seed=2, **settings)) != encoder_fingerprint(first)


def test_no_texts_no_rows(fitted):
    assert encode(fitted, []).shape == (0, 32)


@pytest.mark.parametrize("empty", ["", "  \n"])
def test_empty_text_names_its_row(fitted, empty):
    with pytest.raises(DataError, match=r"is zero \(row 1\)"):
        encode(fitted, ["股价", empty, "央行"])


def test_embedding_that_is_not_finite_names_its_row():
    encoder = fit_static_encoder(TEXTS, dim=4, vocab_size=200)
    with torch.no_grad():
        encoder[0].embedding.weight[encoder[0].tokenizer.token_to_id("!")] = float("nan")
    with pytest.raises(DataError, match=r"not finite \(row 2\)"):
        encode(encoder, ["股价", "央行", "!"])


def test_bad_input(fitted, tmp_path):
    with pytest.raises(ParameterError, match="needs texts"):
        load_encoder("fit")
    for name in ("./nowhere", "nobody/no-such-encoder", "", None):
        with pytest.raises(ParameterError, match="encoder"):
            load_encoder(name)
    with pytest.raises(DataError, match="row 1"):
        encode(fitted, ["a", None])
    with pytest.raises(DataError, match="not one string"):
        encode(fitted, "股价")
    for texts in ([], ["一"], ["", " "]):
        with pytest.raises(DataError, match="at least two texts"):
            fit_static_encoder(texts)
    for setting in ({"dim": 0}, {"dim": 2.5}, {"vocab_size": 1}, {"max_token_length": True}):
        with pytest.raises(ParameterError, match=next(iter(setting))):
            fit_static_encoder(TEXTS, **setting)


def test_pickled_encoder_is_refused(fitted, tmp_path):
    fitted.save(str(tmp_path))
    (tmp_path / "model.safetensors").unlink()
    torch.save(fitted[0].state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(ParameterError, match="pickled"):
        load_encoder(str(tmp_path))


def test_real_records_meet_their_tasks(shared_data):
    """On real records a static encoder must stay near latent semantic analysis (.92 in its own measure)."""
    import gzip
    import json

    with gzip.open(shared_data / "mini.jsonl.gz", "rt", encoding="utf-8") as lines:
        records = [json.loads(line) for line in lines][::4]
    texts = [record["instruction"] + "\n" + (record["input"] or "") for record in records]
    tasks = np.array([record["task"] for record in records])
    X = encode(fit_static_encoder(texts[::2], dim=128, vocab_size=6000), texts)
    names = sorted(set(tasks[::2]))
    centroids = np.stack([X[::2][tasks[::2] == name].mean(0) for name in names])
    centroids /= np.linalg.norm(centroids, axis=1, keepdims=True)
    found = np.array(names)[(X[1::2] @ centroids.T).argmax(1)]
    assert (found == tasks[1::2]).mean() > 0.8


def test_few_texts_take_the_short_way_with_the_same_bits(monkeypatch):
    texts = [
        f"{text}{i}" for i in range(40) for text in ("股价上涨，净利润增长。", "央行降准", "A bond pays interest.")
    ]
    encoder = load_encoder("fit", texts=texts, dim=16, vocab_size=200)
    long_way = encoder.encode(texts, batch_size=32, convert_to_numpy=True)
    assert np.array_equal(encode(encoder, texts, batch_size=32), long_way)
    monkeypatch.setattr(encoder, "encode", lambda *_, **__: pytest.fail("the long way"))
    assert np.array_equal(encode(encoder, texts), long_way)
    assert all(np.array_equal(encode(encoder, [text])[0], row) for text, row in zip(texts, long_way, strict=True))
    encoder.prompts, encoder.default_prompt_name = {"query": "问："}, "query"
    with pytest.raises(pytest.fail.Exception):
        encode(encoder, texts[:1])
