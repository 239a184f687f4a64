"""An export from a stranger: its client runs nothing, and reads nothing outside the folder."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from helpers.hostile import NESTED, change, links, plant_pickle
from helpers.models import make_test_base, make_test_encoder, save_test_encoder
from safetensors.numpy import save_file

from assl_kit.app.served import routes
from assl_kit.app.served.routes import MOST, ClientError, Routes
from assl_kit.common.limits import MAX_JSON, MAX_VOCABULARY

PROBE = ["股价上涨", "央行降准"]
TABLE = {
    "experts": [{"name": "expert-0"}, {"name": "expert-1"}],
    "base_model": "base",
    "router": {"file": "router.safetensors", "min_similarity": -1.0, "probe": PROBE},
    "encoder": {"path": "encoder", "id": "fit"},
}


@pytest.fixture
def encoder(tmp_path):
    return save_test_encoder(tmp_path / "encoder")


@pytest.fixture
def export(tmp_path, encoder):
    """An export's route table with its encoder."""
    folder = tmp_path / "export"
    shutil.copytree(encoder, folder / "encoder")
    write(folder, TABLE)
    tensors(folder)
    return folder


def write(folder, table):
    text = table if isinstance(table, str) else json.dumps(table)
    (folder / "routes.json").write_text(text, encoding="utf-8")


def tensors(folder, **changes):
    rows = make_test_encoder().encode(PROBE).astype("f4")
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    save_file({"centroids": np.eye(4, dtype="f4")[:2], "probe": rows} | changes, folder / "router.safetensors")


def refused(folder, message, **options):
    """One message of one line, as wrong use."""
    with pytest.raises(ClientError, match=message) as caught:
        Routes(folder, **options)
    assert caught.value.code == 2 and "\n" not in str(caught.value) and len(str(caught.value)) < 600


def test_the_whole_export_is_read(export):
    assert [name for name, _ in Routes(export).route(PROBE)] != ["base"] * 2


@pytest.mark.parametrize(
    ("part", "entry"),
    [
        ("router", {"file": "../router.safetensors"}),
        ("router", {"file": "{outside}/router.safetensors"}),
        ("router", {"file": "encoder/../../router.safetensors"}),
        ("encoder", {"path": "../encoder"}),
        ("encoder", {"path": "{outside}/encoder"}),
        ("encoder", {"path": "~"}),
    ],
)
def test_an_exports_routes_lead_nowhere_else(export, part, entry):
    """`client.py` reads a folder that may have been changed since it was exported."""
    shutil.copy(export / "router.safetensors", export.parent)
    entry = {key: value.format(outside=export.parent) for key, value in entry.items()}
    write(export, TABLE | {part: TABLE[part] | entry})
    refused(export, "a file outside")


@pytest.mark.parametrize("name", ["{outside}/encoder", "../encoder", "./encoder", "~/encoder", "a/b/c", "", "c:\\x"])
def test_an_encoder_that_is_not_in_the_export_is_none_of_this_disk(export, monkeypatch, name):
    """`path: null` and an id that is a place: what lies there was loaded."""
    monkeypatch.chdir(export)
    write(export, TABLE | {"encoder": {"path": None, "id": name.format(outside=export.parent)}})
    refused(export, "names an encoder outside")
    assert Routes(export, encoder=str(export.parent / "encoder")).names, "whoever asks may name a folder"


@pytest.mark.parametrize("name", ["encoder", "owner/encoder"])
def test_an_encoders_name_is_the_hubs_even_where_a_folder_has_it(export, monkeypatch, program, name):
    """What the hub has is checked before the library sees it."""
    asked, fetched = [], export.parent / "fetched"
    shutil.copytree(export / "encoder", fetched)
    shutil.copytree(export / "encoder", export.parent / "owner" / "encoder")
    for folder in (export.parent / "encoder", export.parent / "owner" / "encoder"):
        (folder / "modules.json").write_text("[]", encoding="utf-8")
    monkeypatch.chdir(export.parent)
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda repo, **how: asked.append(how) or str(fetched))
    write(export, TABLE | {"encoder": {"path": None, "id": name}})
    assert Routes(export).names and len(asked) == 1
    assert not [p for p in asked[0]["allow_patterns"] if p.endswith((".bin", ".py", ".pt", "*"))]
    kinds = [{"idx": 0, "name": "0", "path": "", "type": "evil_module.Evil"}]
    (fetched / "modules.json").write_text(json.dumps(kinds), encoding="utf-8")
    refused(export, "code from elsewhere")


@links
@pytest.mark.parametrize("name", ["router.safetensors", "encoder", "encoder/model.safetensors", "encoder/x/y.json"])
def test_an_export_has_no_links_out(export, name):
    outside = export.parent / "outside"
    place = export / name
    if place.exists():
        shutil.move(place, outside)
    else:
        place.parent.mkdir(exist_ok=True)
        outside.write_text("{}", encoding="utf-8")
    place.symlink_to(outside)
    refused(export, "a file outside|link out of the encoder")


@pytest.mark.parametrize(
    "table",
    [
        NESTED,
        '{"a": ' + "9" * 5000 + "}",
        "[]",
        "null",
        "\x00",
        "{",
        TABLE | {"experts": 3},
        TABLE | {"experts": []},
        TABLE | {"experts": [{}]},
        TABLE | {"experts": [{"name": 3}, {"name": "b"}]},
        TABLE | {"experts": [{"name": "only"}]},
        TABLE | {"base_model": None},
        TABLE | {"base": [1]},
        TABLE | {"router": None},
        *(
            TABLE | {"router": TABLE["router"] | change}
            for change in (
                *({"min_similarity": value} for value in ("x", 7, float("nan"), None, 10**400)),
                *({"probe": value} for value in (3, [], [1, 2], PROBE[:1], [PROBE[0], "\ud800"])),
                *({"file": value} for value in (3, "", "encoder", "none", "a\0b", "routes.json")),
            )
        ),
        *(
            TABLE | {"encoder": change}
            for change in (None, 3, {"id": "fit"}, {"path": 3, "id": ""}, {"path": "no", "id": ""}, {"path": "encoder"})
        ),
    ],
    ids=lambda table: str(table)[:20],
)  # fmt: skip
def test_a_wrong_table_is_one_message(export, table):
    write(export, table)
    refused(export, "no whole route table|a file outside")


@pytest.mark.parametrize(
    "changes",
    [
        {"centroids": np.eye(4, dtype="f4")},
        {"centroids": np.ones(4, "f4")},
        {"centroids": np.full((2, 4), np.nan, "f4")},
        {"centroids": 2 * np.eye(4, dtype="f4")[:2]},
        {"probe": np.ones((1, 4), "f4")},
    ],
)
def test_wrong_centroids_are_one_message(export, changes):
    tensors(export, **changes)
    refused(export, "no whole route table")


def test_another_encoders_probe_and_a_broken_file_are_one_message(export):
    tensors(export, probe=np.eye(4, dtype="f4")[:2])
    refused(export, "not the encoder that the centroids were made with")
    tensors(export, probe=np.full((2, 4), np.nan, "f4"))
    refused(export, "not the encoder that the centroids were made with")
    (export / "router.safetensors").write_bytes(b"\xff" * 64)
    refused(export, "no whole route table")


def test_a_table_is_read_to_a_bound_only(export):
    with open(export / "routes.json", "r+b") as file:
        file.truncate(64 << 30)  # a hole: it takes no place on the disk
    refused(export, f"routes.json has more than {MOST:,} bytes")


@pytest.mark.parametrize("kind", ["evil_module.Evil", "sentence_transformers.util.import_from_string", "os.getcwd"])
def test_an_exports_encoder_can_name_no_class_of_its_own(export, program, kind):
    kinds = [{"idx": 0, "name": "0", "path": "", "type": kind}]
    (export / "encoder" / "modules.json").write_text(json.dumps(kinds), encoding="utf-8")
    refused(export, "code from elsewhere")


@pytest.mark.parametrize("text", [NESTED, "{", "3", "[3]", '[{"type": 3}]', '[{"path": 3}]'])
def test_broken_json_in_an_exports_encoder_is_one_message(export, text):
    (export / "encoder" / "modules.json").write_text(text, encoding="utf-8")
    refused(export, "could not be loaded")


def test_an_exports_encoder_asks_for_nothing_that_assl_kit_refuses(export, marker, tmp_path):
    """The same tricks as in the tests of the package's own encoders."""
    place = export / "encoder"
    config = place / "sentence_bert_config.json"
    for name in ("model_args", "model_kwargs", "config_args"):
        for asked in ({"weights_only": False}, {"trust_remote_code": True}):
            config.write_text(json.dumps({"deep": [{name: asked}]}), "utf-8")
            refused(export, "and is not read")
    config.write_text(json.dumps({"model_args": {"dtype": "float32", "trust_remote_code": False}}), "utf-8")
    assert Routes(export).names
    config.unlink()
    for entry in ({"attn_implementation": "kernels/x"}, {"activation_function": "evil_module.Evil"}):
        change(place / "config.json", **entry)
        refused(export, "and is not read")
        (place / "config.json").unlink()
    plant_pickle(place, marker, "evil.pt")
    refused(export, "weight_map.*and is not read")
    (place / "model.safetensors.index.json").unlink()
    (place / "x").mkdir()
    (place / "x" / "pytorch_model.bin").write_bytes(b"x")
    refused(export, "is pickled and is not read")
    kinds = json.loads((place / "modules.json").read_text("utf-8"))
    (place / "modules.json").write_text(json.dumps([kinds[0] | {"path": "../x"}, *kinds[1:]]), "utf-8")
    refused(export, "lies outside")


def test_an_exports_tokenizer_cannot_fill_the_memory(export):
    """Steps that each make a text longer, and a file without end."""
    (file,) = (export / "encoder").rglob("tokenizer.json")
    whole = file.read_text(encoding="utf-8")
    steps = [{"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 100}] * 3
    change(file, normalizer={"type": "Sequence", "normalizers": steps})
    refused(export, "normalizer of .* could make a text more than 4,096 times as long")
    change(file, normalizer={"type": "Sequence", "normalizers": steps[:1]})
    assert Routes(export).names
    file.write_text(whole, encoding="utf-8")
    with open(export / "encoder" / "merges.txt", "wb") as opened:
        opened.truncate(64 << 30)
    refused(export, f"has more than {routes.VOCABULARY:,} bytes")


STEPS = [
    {"type": "Replace", "pattern": {"String": "ab"}, "content": "abcdef"},
    {"type": "Replace", "pattern": {"Regex": "a"}, "content": "bcd"},
    {"type": "TemplateProcessing", "single": [{"Sequence": {}}, {"SpecialToken": {}}], "pair": [{"Sequence": {}}] * 2},
    *({"type": kind} for kind in ("ByteLevel", "Precompiled", "NFC", None)),
]


def test_client_and_package_let_an_encoder_name_the_same(tmp_path):
    """What the package's checks list, the client lists too."""
    from assl_kit.common import trust

    for name in trust._MODULES:
        assert routes._MODULE.fullmatch(f"sentence_transformers.models.{name}")
    for name in trust._OPTIONS:
        assert routes._OPTIONS.fullmatch(name)
    for name in trust._ARGUMENTS:
        assert routes._ARGUMENTS.fullmatch(name)
    for pattern, own in ((routes._MODULE, len(trust._MODULES)), (routes._OPTIONS, len(trust._OPTIONS))):
        assert own and not pattern.fullmatch("anything_else")
    assert [routes._growth(step) for step in STEPS] == [trust._growth_of(step) for step in STEPS] != [1] * len(STEPS)
    assert (routes.MOST, routes.VOCABULARY, routes.GROWTH) == (MAX_JSON, MAX_VOCABULARY, trust.MAX_GROWTH)
    base = make_test_base(tmp_path / "base")
    assert not any(routes._harmful(*entry) for entry in json.loads((base / "config.json").read_text("utf-8")).items())
