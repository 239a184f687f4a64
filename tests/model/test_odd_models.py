"""Tokenizers, encoders and headers from a stranger: what they cannot do is told when they are loaded."""

from __future__ import annotations

import json
import shutil
import struct

import pytest
from helpers.models import save_test_encoder

from assl_kit.errors import ParameterError
from assl_kit.model import gguf
from assl_kit.model.answers import AnswerBound
from assl_kit.model.gguf import check_gguf
from assl_kit.model.loading import load_base
from assl_kit.space.encoder import load_encoder


@pytest.mark.parametrize("entries", [{"model_max_length": {"a": 1}}, {"model_max_length": [3]}])
def test_settings_of_a_wrong_type_are_told_when_the_base_is_loaded(base_folder, tmp_path, entries):
    folder = shutil.copytree(base_folder, tmp_path / "base")
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text(encoding="utf-8")) | entries), encoding="utf-8")
    with pytest.raises(ParameterError, match="tokenizer of the base model"):
        load_base(str(folder), device="cpu")
    with pytest.raises(ParameterError, match="tokenizer of the base model"):
        AnswerBound(str(folder))("很长" * 2000)


def test_an_encoder_that_encodes_nothing_is_not_loaded(tmp_path):
    folder = save_test_encoder(tmp_path / "encoder")
    file = folder / "modules.json"
    modules = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps(modules[1:]), encoding="utf-8")
    with pytest.raises(ParameterError, match="could not be loaded"):
        load_encoder(str(folder))


# GGUF -----------------------------------------------------------------------------------------------------------------
def header(folder, n_tensors, n_values, *parts):
    file = folder / "a.gguf"
    file.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, n_tensors, n_values) + b"".join(parts))
    return file


def text(value):
    return struct.pack("<Q", len(value)) + value


def test_a_long_text_in_a_header_is_not_read(tmp_path, monkeypatch):
    file = header(tmp_path, 0, 1, text(b"a"), struct.pack("<I", 8), text(b"x" * 2000))
    assert check_gguf(file) == {"a": "x" * 2000}
    monkeypatch.setattr(gguf, "MAX_VOCABULARY", 1000)
    with pytest.raises(ParameterError, match="more than 1,000 bytes"):
        check_gguf(file)


@pytest.mark.parametrize("kind", ["list", "texts", "lists", "values", "tensors"])
def test_the_entries_of_a_header_are_counted(tmp_path, monkeypatch, kind):
    values = {
        "list": [text(b"a"), struct.pack("<IIQ", 9, 0, 2000), bytes(2000)],
        "texts": [text(b"a"), struct.pack("<IIQ", 9, 8, 2000), struct.pack("<Q", 0) * 2000],
        "lists": [text(b"a"), struct.pack("<IIQ", 9, 9, 2000), struct.pack("<IQ", 0, 0) * 2000],
        "values": [text(f"{n}".encode()) + struct.pack("<IB", 0, 1) for n in range(2000)],
        "tensors": [text(b"a") + struct.pack("<IIQ", 0, 0, 0)] * 2000,
    }[kind]
    counts = {"values": (0, 2000), "tensors": (2000, 0)}.get(kind, (0, 1))
    file = header(tmp_path, *counts, *values, bytes(64))
    check_gguf(file)
    monkeypatch.setattr(gguf, "MAX_ENTRIES", 1000)
    with pytest.raises(ParameterError, match="more than 1,000 entries"):
        check_gguf(file)
