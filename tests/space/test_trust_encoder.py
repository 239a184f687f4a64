"""An encoder from a stranger: loading it runs nothing.

Most tests plant a program or a pickle that would make a marker file, and look for the marker.
"""

from __future__ import annotations

import json
import os
import shutil

import numpy as np
import pytest
from helpers.hostile import NESTED, change, plant_pickle
from helpers.models import make_test_base, save_test_encoder
from safetensors.numpy import save_file

from assl_kit.errors import ParameterError
from assl_kit.space.encoder import load_encoder
from assl_kit.space.static_encoder import fit_static_encoder


@pytest.fixture
def encoder(tmp_path):
    return save_test_encoder(tmp_path / "encoder")


@pytest.fixture
def base(tmp_path):
    return make_test_base(tmp_path / "base")


@pytest.mark.parametrize(
    "kind",
    [
        "evil_module.Evil",
        "sentence_transformers.util.import_from_string",
        "sentence_transformers.base.model.torch",
        "sentence_transformers.models.Router",
        "sentence_transformersx.Dense",
    ],
)
def test_an_encoder_can_name_no_class_of_its_own(encoder, program, kind):
    assert load_encoder(str(encoder)) is not None
    shutil.copy(program, encoder / "evil_module.py")
    modules = json.loads((encoder / "modules.json").read_text(encoding="utf-8"))
    modules.append({"idx": 2, "name": "2", "path": "", "type": kind})
    (encoder / "modules.json").write_text(json.dumps(modules), encoding="utf-8")
    with pytest.raises(ParameterError, match="code from elsewhere"):
        load_encoder(str(encoder))


def test_an_encoders_modules_lie_inside(encoder, tmp_path):
    modules = json.loads((encoder / "modules.json").read_text(encoding="utf-8"))
    for path in ("../encoder", str(tmp_path), "a/../../b"):
        changed = [modules[0] | {"path": path}, *modules[1:]]
        (encoder / "modules.json").write_text(json.dumps(changed), encoding="utf-8")
        with pytest.raises(ParameterError, match="lies outside"):
            load_encoder(str(encoder))


@pytest.mark.parametrize("text", ["{", "[1]", NESTED, '{"a": ' + "9" * 5000 + "}", "\x00"])
def test_broken_json_in_an_encoder_is_one_clear_error(encoder, text):
    (encoder / "modules.json").write_text(text, encoding="utf-8")
    with pytest.raises(ParameterError, match=r"modules\.json"):
        load_encoder(str(encoder))


@pytest.mark.parametrize(
    "activation", ["os.getcwd", "evil_module.Evil", "torch.cuda.init", "torch.nn.modules.os.getcwd"]
)
def test_an_encoder_can_name_no_activation_of_its_own(encoder, program, activation):
    layer = encoder / "2_Dense"
    layer.mkdir()
    config = {"in_features": 4, "out_features": 4, "bias": True, "activation_function": activation}
    (layer / "config.json").write_text(json.dumps(config), encoding="utf-8")
    rows = {"linear.weight": np.eye(4, dtype="f4"), "linear.bias": np.zeros(4, "f4")}
    save_file(rows, layer / "model.safetensors")
    modules = json.loads((encoder / "modules.json").read_text(encoding="utf-8"))
    modules.append({"idx": 2, "name": "2", "path": "2_Dense", "type": "sentence_transformers.models.Dense"})
    (encoder / "modules.json").write_text(json.dumps(modules), encoding="utf-8")
    with pytest.raises(ParameterError, match="activation"):
        load_encoder(str(encoder))
    change(layer / "config.json", activation_function="torch.nn.modules.activation.Tanh")
    assert len(load_encoder(str(encoder))) == 3


def test_an_encoder_cannot_ask_for_pickled_weights(base, marker, tmp_path):
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Pooling, Transformer

    encoder = tmp_path / "encoder"
    layers = [Transformer(str(base)), Pooling(32)]
    SentenceTransformer(modules=layers, device="cpu").save(str(encoder), create_model_card=False)
    assert load_encoder(str(encoder)) is not None
    for name in ("model_args", "model_kwargs", "config_args"):
        (encoder / "sentence_bert_config.json").write_text(json.dumps({name: {"weights_only": False}}), "utf-8")
        with pytest.raises(ParameterError, match="weights_only=False"):
            load_encoder(str(encoder))
    (encoder / "sentence_bert_config.json").write_text(
        json.dumps({"model_kwargs": {"trust_remote_code": True}}), "utf-8"
    )
    with pytest.raises(ParameterError, match="trust_remote_code=True"):
        load_encoder(str(encoder))
    (encoder / "sentence_bert_config.json").write_text("{}", "utf-8")
    os.replace(encoder / "model.safetensors", encoder / "kept.safetensors")
    plant_pickle(encoder, marker, "evil.pt")
    with pytest.raises(ParameterError, match=r"no safetensors beside it: evil\.pt"):
        load_encoder(str(encoder))


def test_a_hub_encoder_is_checked_like_a_folder(encoder, program, tmp_path, monkeypatch):
    """Only what is neither pickled nor a program is fetched, and it is checked before the library sees it."""
    asked = {}

    def snapshot_download(name, allow_patterns):
        asked[name] = allow_patterns
        return str(encoder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    assert load_encoder("someone/encoder") is not None and load_encoder("short") is not None
    assert set(asked) == {"someone/encoder", "sentence-transformers/short"}
    assert not [p for p in asked["someone/encoder"] if p.endswith((".bin", ".py", ".pt", "*"))]
    kinds = json.dumps([{"idx": 0, "name": "0", "path": "", "type": "evil_module.Evil"}])
    (encoder / "modules.json").write_text(kinds, encoding="utf-8")
    with pytest.raises(ParameterError, match="code from elsewhere"):
        load_encoder("someone/encoder")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"上": 1', '"上": 21', "has a token 21, its weights have"),
        ('"股价": 11', '"": 11', "range end index"),  # at which the library in Rust panics
    ],
)
def test_a_tokenizer_that_does_not_fit_is_one_clear_error(encoder, old, new, message):
    fit_static_encoder(["股价上涨", "股价下跌", "央行降准"], dim=3).save_pretrained(str(encoder))
    file = encoder / "tokenizer.json"
    text = file.read_text(encoding="utf-8")
    assert text.count(old) == 1
    file.write_text(text.replace(old, new), encoding="utf-8")
    with pytest.raises(ParameterError, match=f"could not be loaded: .*{message}"):
        load_encoder(str(encoder))
