"""Files from a stranger: whatever a bank, an encoder, a base, a corpus or an export holds, loading it runs nothing.

Most tests plant a program or a pickle that would make a marker file, and look for the marker.
"""

from __future__ import annotations

import gzip
import json
import os
import pickle
import shutil
import struct
import sys

import numpy as np
import pandas as pd
import pytest
from helpers_models import make_test_base
from safetensors.numpy import save_file

from assl_kit.app.vllm_client import ClientError, Routes
from assl_kit.common import files, trust
from assl_kit.common import limits as bounds
from assl_kit.common.files import read_json, sha256_file
from assl_kit.data.loading import load_records
from assl_kit.errors import AsslError, BankError, DataError, ParameterError
from assl_kit.experts.adapters import check_adapter
from assl_kit.experts.bank import ExpertBank
from assl_kit.model.gguf import check_gguf
from assl_kit.model.identity import base_info
from assl_kit.model.loading import load_base
from assl_kit.space.encoder import load_encoder
from assl_kit.space.static_encoder import fit_static_encoder

links = pytest.mark.skipif(os.name == "nt", reason="making links needs rights on Windows")
NESTED = "[" * 200_000
RECORD = {"instruction": "判断情绪。", "input": "股价大涨", "output": "积极"}


def rows(n):
    """Records that differ, so that a test split can be made."""
    return [RECORD | {"input": f"第{number}条"} for number in range(n)]


class Hostile:
    """Makes the marker folder when it is unpickled."""

    def __init__(self, marker):
        self.marker = str(marker)

    def __reduce__(self):
        return os.makedirs, (self.marker, 0o777, True)


@pytest.fixture
def marker(tmp_path):
    """Must not be there when a test ends."""
    path = tmp_path / "executed"
    yield path
    assert not path.exists(), "the file from a stranger was executed"


@pytest.fixture
def program(marker, tmp_path, monkeypatch):
    """A module ``evil_module`` that can be imported, and makes the marker when it is."""
    folder = tmp_path / "path"
    folder.mkdir()
    text = f"import os\nos.makedirs({str(marker)!r}, exist_ok=True)\nclass Evil:\n    load = classmethod(print)\n"
    (folder / "evil_module.py").write_text(text, encoding="utf-8")
    monkeypatch.syspath_prepend(str(folder))
    yield folder / "evil_module.py"
    sys.modules.pop("evil_module", None)


def change(file, **entries):
    """Add entries to a JSON object on disk."""
    value = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    file.write_text(json.dumps(value | entries), encoding="utf-8")


def test_the_trap_works(marker, program):
    """Else the tests below could not fail."""
    pickle.loads(pickle.dumps(Hostile(marker)))
    assert marker.is_dir()
    marker.rmdir()
    import evil_module  # noqa: F401

    assert marker.is_dir()
    marker.rmdir()


# encoders ------------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def static_encoder():
    return fit_static_encoder(["股价上涨", "股价下跌", "央行降准"], dim=4)


@pytest.fixture
def encoder(static_encoder, tmp_path):
    static_encoder.save(str(tmp_path / "encoder"), create_model_card=False)
    return tmp_path / "encoder"


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


@pytest.fixture(scope="module")
def made_base(tmp_path_factory):
    return make_test_base(tmp_path_factory.mktemp("made") / "base")


@pytest.fixture
def base(made_base, tmp_path):
    return shutil.copytree(made_base, tmp_path / "base")


def plant_pickle(folder, marker, name):
    """Put pickled weights into a folder and let the list of shards name them."""
    import torch

    torch.save({"weight": Hostile(marker)}, folder / name)
    index = {"metadata": {}, "weight_map": {"model.embed_tokens.weight": name}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")


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


# base models ---------------------------------------------------------------------------------------------------------
def test_a_base_runs_no_code_it_brings(base, program):
    shutil.copy(program, base / "evil_module.py")
    entries = {"AutoConfig": "evil_module.Evil", "AutoModelForCausalLM": "evil_module.Evil"}
    change(base / "config.json", auto_map=entries)
    change(base / "tokenizer_config.json", auto_map={"AutoTokenizer": ["evil_module.Evil", "evil_module.Evil"]})
    assert load_base(str(base), device="cpu")[0].config.model_type == "qwen2"  # ours, not the one it brings
    change(base / "config.json", model_type="of_a_stranger")
    with pytest.raises(ParameterError, match="could not be loaded"):
        load_base(str(base), device="cpu")


def test_a_base_has_no_pickled_weights(base, marker):
    import torch

    (base / "model.safetensors").unlink()
    torch.save({"weight": Hostile(marker)}, base / "pytorch_model.bin")
    (base / "training_args.bin").write_bytes(pickle.dumps(Hostile(marker)))
    with pytest.raises(ParameterError, match="could not be loaded"):
        load_base(str(base), device="cpu")
    plant_pickle(base, marker, "evil.pt")
    with pytest.raises(ParameterError, match="no safetensors beside it"):
        load_base(str(base), device="cpu")


@pytest.mark.parametrize("shard", ["../elsewhere.safetensors", "/etc/elsewhere.safetensors", 7])
def test_a_base_lists_only_weights_beside_it(base, shard):
    os.replace(base / "model.safetensors", base.parent / "elsewhere.safetensors")
    index = {"metadata": {}, "weight_map": {"model.embed_tokens.weight": shard}}
    (base / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    with pytest.raises(ParameterError, match="no safetensors beside it"):
        load_base(str(base), device="cpu")


def test_damaged_weights_are_one_clear_error(base):
    for content in (struct.pack("<Q", 1 << 60) + b"{}", struct.pack("<Q", 8) + b'{"a":[]}', b"", b"\xff" * 64):
        (base / "model.safetensors").write_bytes(content)
        with pytest.raises(ParameterError, match="could not be loaded"):
            load_base(str(base), device="cpu")


def test_a_base_is_no_adapter_that_names_another_base(base, tmp_path):
    change(base / "adapter_config.json", peft_type="LORA", base_model_name_or_path=str(tmp_path / "elsewhere"))
    with pytest.raises(ParameterError, match="holds an adapter"):
        load_base(str(base), device="cpu")


@pytest.mark.parametrize("value", ["someone/attention", "kernels://x", {"": "someone/attention"}])
def test_a_base_asks_for_no_compiled_code(base, value):
    change(base / "config.json", attn_implementation=value)
    with pytest.raises(ParameterError, match="code from elsewhere"):
        load_base(str(base), device="cpu")


@pytest.mark.parametrize(
    "template",
    [
        "{{{{ cycler.__init__.__globals__.os.mkdir({0!r}) }}}}",
        "{{{{ ''.__class__.__mro__[1].__subclasses__() }}}}{{{{ joiner.__init__.__globals__['os'].mkdir({0!r}) }}}}",
        "{{% for x in",
        "{{{{ 1 // 0 }}}}",
    ],
)
def test_a_chat_template_stays_in_its_sandbox(base, marker, template):
    for file in base.glob("chat_template*"):
        file.unlink()
    change(base / "tokenizer_config.json", chat_template=template.format(str(marker)))
    with pytest.raises(ParameterError, match="chat template of the base model"):
        load_base(str(base), device="cpu")


def test_a_forged_record_of_a_conversion_is_one_clear_error(base):
    model, tokenizer = load_base(str(base), device="cpu")
    for text in ("[]", "{}", '{"id": 1, "sha256": "x", "files": {}}', NESTED):
        (base / "converted.json").write_text(text, encoding="utf-8")
        with pytest.raises(ParameterError, match="record of a converted base model is damaged"):
            base_info(model, tokenizer, str(base))


def gguf(*values: bytes, tensors: int = 0) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", 3, tensors, len(values)) + b"".join(values)


def named(name: bytes, kind: int, value: bytes) -> bytes:
    return struct.pack("<Q", len(name)) + name + struct.pack("<I", kind) + value


@pytest.mark.parametrize(
    "content",
    [
        gguf(named(b"general.alignment", 4, struct.pack("<I", 0))),
        gguf(named(b"general.alignment", 8, struct.pack("<Q", 1) + b"x")),
        gguf(named(b"split.count", 8, struct.pack("<Q", 1) + b"x")),
        gguf(named(b"deep", 9, struct.pack("<IQ", 9, 1) * 50_000)),
        gguf(named(b"long", 8, struct.pack("<Q", 1 << 62))),
        gguf(named(b"many", 9, struct.pack("<IQ", 8, 1 << 62))),
        gguf(tensors=1 << 62),
        b"GGUF" + struct.pack("<IQQ", 3, 0, 1 << 62),
    ],
    ids=["no alignment", "alignment text", "parts text", "nested", "long text", "long list", "tensors", "values"],
)
def test_a_hostile_gguf_header_is_one_clear_error(tmp_path, content):
    (tmp_path / "a.gguf").write_bytes(content)
    with pytest.raises(ParameterError, match="damaged"):
        check_gguf(tmp_path / "a.gguf")


# adapters ------------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def with_adapter(made_base, tmp_path_factory):
    """A base and a folder with a LoRA adapter that fits it."""
    from peft import LoraConfig, get_peft_model

    model, tokenizer = load_base(str(made_base), device="cpu")
    folder = tmp_path_factory.mktemp("adapter") / "expert"
    wrapped = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"))
    wrapped.save_pretrained(str(folder))
    return wrapped.unload(), folder


@pytest.fixture
def adapter(with_adapter, tmp_path):
    return shutil.copytree(with_adapter[1], tmp_path / "adapter")


@pytest.mark.parametrize(
    "entries",
    [
        {"peft_type": "PROMPT_TUNING", "tokenizer_name_or_path": "x", "tokenizer_kwargs": {"trust_remote_code": True}},
        {"peft_type": "XLORA"},
        {"peft_type": None},
        {"megatron_config": {"a": 1}, "megatron_core": "evil_module"},
        {"corda_config": {"cache_file": "cache.pt"}},
        {"lora_ga_config": {"cache_file": "cache.pt"}},
        {"init_lora_weights": "pissa"},
        {"init_lora_weights": "corda"},
        {"r": 10**9},
        {"r": "2"},
        {"rank_pattern": {"q_proj": 10**9}},
        {"rank_pattern": [1]},
    ],
    ids=str,
)
def test_only_plain_lora_is_given_to_peft(with_adapter, adapter, program, entries):
    check_adapter(with_adapter[0], adapter)
    change(adapter / "adapter_config.json", **entries)
    with pytest.raises(BankError, match="only plain LoRA|rank of an adapter"):
        check_adapter(with_adapter[0], adapter)


def test_an_adapter_names_no_other_base_to_load(with_adapter, adapter, program):
    """Whatever stands there: the base is the one that is given, and nothing is imported."""
    from assl_kit.experts.adapters import adapted

    library = {"base_model_class": "Evil", "parent_library": "evil_module"}
    change(adapter / "adapter_config.json", auto_mapping=library)
    change(adapter / "adapter_config.json", base_model_name_or_path=str(program.parent), revision="--upload-pack=x")
    with adapted(with_adapter[0], adapter) as model:
        assert model.get_base_model() is with_adapter[0]


@pytest.mark.parametrize("text", ["{", "[]", NESTED])
def test_a_broken_adapter_config_is_one_clear_error(with_adapter, adapter, text):
    (adapter / "adapter_config.json").write_text(text, encoding="utf-8")
    with pytest.raises(BankError, match=r"plain LoRA|adapter_config\.json is not readable"):
        check_adapter(with_adapter[0], adapter)


def test_a_pickled_adapter_is_not_taken_instead(with_adapter, adapter, marker):
    import torch

    (adapter / "adapter_model.safetensors").unlink()
    torch.save({"weight": Hostile(marker)}, adapter / "adapter_model.bin")
    with pytest.raises(BankError, match=r"no adapter_model\.safetensors"):
        check_adapter(with_adapter[0], adapter)


def test_a_forged_header_of_an_adapter_is_one_clear_error(with_adapter, adapter):
    for content in (struct.pack("<Q", 1 << 60) + b"{}", b"", struct.pack("<Q", 8) + b'{"a":[]}'):
        (adapter / "adapter_model.safetensors").write_bytes(content)
        with pytest.raises(BankError, match="cannot be read"):
            check_adapter(with_adapter[0], adapter)


# banks ---------------------------------------------------------------------------------------------------------------
@pytest.fixture
def bank(with_adapter, static_encoder, tmp_path):
    base = {"id": "someone/base", "revision": "main", "fingerprint": "b" * 64}
    encoder = {"id": "fit", "fingerprint": "e" * 64, "dim": 4}
    folder, own = tmp_path / "bank", static_encoder
    return ExpertBank.create(folder, [with_adapter[1]], np.eye(4)[:1], base=base, encoder=encoder, encoder_model=own)


def relist(bank, *names):
    """Let `bank.json` vouch for changed files, as a hostile writer would."""
    listed = bank.info["files"] | {name: sha256_file(bank.path / name) for name in names}
    change(bank.path / "bank.json", files=listed)


@pytest.mark.parametrize("part", ["base", "encoder"])
@pytest.mark.parametrize(
    "name",
    ["--trust-remote-code", "/etc/model", "../model", "./model", "~/model", "a/b/c", "C:\\model", "a\nb", "x" * 999],
)
def test_a_bank_names_no_place_and_no_option(bank, part, name):
    """The names are loaded by default, and stand in an export's `serve.sh`."""
    ExpertBank.from_pretrained(bank.path)
    change(bank.path / "bank.json", **{part: bank.info[part] | {"id": name}})
    with pytest.raises(BankError, match="which is no name"):
        ExpertBank.from_pretrained(bank.path)


@pytest.mark.parametrize("revision", ["--trust-remote-code", "a\n--x", 7])
def test_a_bank_names_no_option_as_revision(bank, revision):
    change(bank.path / "bank.json", base=bank.info["base"] | {"revision": revision})
    with pytest.raises(BankError, match="which is no name|must list"):
        ExpertBank.from_pretrained(bank.path)


def test_a_bank_names_no_library_of_its_base(bank, program):
    """PEFT's own `AutoPeftModel` would import it."""
    library = {"base_model_class": "Evil", "parent_library": "evil_module"}
    change(bank.path / "expert-0" / "adapter_config.json", auto_mapping=library)
    relist(bank, "expert-0/adapter_config.json")
    with pytest.raises(BankError, match="only plain LoRA"):
        ExpertBank.from_pretrained(bank.path)


def test_a_hostile_encoder_in_a_bank_is_refused(bank, program):
    modules = bank.path / "encoder" / "modules.json"
    kinds = [{"idx": 0, "name": "0", "path": "", "type": "evil_module.Evil"}]
    modules.write_text(json.dumps(kinds), encoding="utf-8")
    shutil.copy(program, bank.path / "encoder" / "evil_module.py")
    relist(bank, "encoder/modules.json", "encoder/evil_module.py")
    with pytest.raises(BankError, match="not safetensors, JSON or text"):
        ExpertBank.from_pretrained(bank.path)
    (bank.path / "encoder" / "evil_module.py").unlink()
    relist(bank, "encoder/modules.json")
    with pytest.raises(BankError, match="code from elsewhere"):
        ExpertBank.from_pretrained(bank.path)


@pytest.mark.parametrize(
    "content", [struct.pack("<Q", 1 << 60) + b"{}", b"", b"\xff" * 64, struct.pack("<Q", 2) + b"{}"]
)
def test_forged_centroids_are_one_clear_error(bank, content):
    (bank.path / "router.safetensors").write_bytes(content)
    relist(bank, "router.safetensors")
    with pytest.raises(BankError, match="holds no centroids"):
        ExpertBank.from_pretrained(bank.path)


@pytest.mark.parametrize("text", [NESTED, "9" * 5000, '{"format": 1}', "[]"])
def test_a_hostile_bank_json_is_one_clear_error(bank, text):
    (bank.path / "bank.json").write_text(text, encoding="utf-8")
    with pytest.raises(BankError, match=r"bank\.json"):
        ExpertBank.from_pretrained(bank.path)


def test_a_gigantic_json_is_not_read(bank, monkeypatch):
    with open(bank.path / "bank.json", "r+b") as file:
        file.truncate(bounds.MAX_JSON + 1)  # a hole: it takes no room on the disk
    monkeypatch.setattr(files, "parse_json", lambda text: pytest.fail("read"))
    with pytest.raises(BankError, match=r"33,554,433 bytes, at most 33,554,432"):
        ExpertBank.from_pretrained(bank.path)
    with pytest.raises(DataError, match="at most"):
        read_json(bank.path / "bank.json")


@links
def test_the_list_of_a_bank_is_no_link(bank, tmp_path):
    os.replace(bank.path / "bank.json", tmp_path / "bank.json")
    (bank.path / "bank.json").symlink_to(tmp_path / "bank.json")
    with pytest.raises(BankError, match=r"bank\.json is a link out of the bank"):
        ExpertBank.from_pretrained(bank.path)


def test_an_exports_routes_lead_nowhere_else(encoder, program, tmp_path):
    """`client.py` reads a folder that may have been changed since it was exported."""
    folder = tmp_path / "export"
    shutil.copytree(encoder, folder / "encoder")
    save_file({"centroids": np.eye(4, dtype="f4"), "probe": np.eye(4, dtype="f4")}, folder / "router.safetensors")
    table = {
        "experts": [],
        "base_model": "base",
        "router": {"file": "router.safetensors", "min_similarity": -1.0, "probe": ["股价"]},
        "encoder": {"path": "encoder", "id": "fit"},
    }
    outside = tmp_path / "router.safetensors"
    shutil.copy(folder / "router.safetensors", outside)
    for part, entry in (
        ("router", {"file": "../router.safetensors"}),
        ("router", {"file": str(outside)}),
        ("encoder", {"path": "../encoder"}),
        ("encoder", {"path": str(encoder)}),
    ):
        changed = json.dumps(table | {part: table[part] | entry})
        (folder / "routes.json").write_text(changed, encoding="utf-8")
        with pytest.raises(ClientError, match="a file outside"):
            Routes(folder)
    (folder / "routes.json").write_text(json.dumps(table), encoding="utf-8")
    kinds = json.dumps([{"idx": 0, "name": "0", "path": "", "type": "evil_module.Evil"}])
    (folder / "encoder" / "modules.json").write_text(kinds, encoding="utf-8")
    with pytest.raises(ClientError, match="code from elsewhere"):
        Routes(folder)


# corpora -------------------------------------------------------------------------------------------------------------
def test_a_gzip_bomb_in_one_line_is_not_unpacked(tmp_path):
    file = tmp_path / "bomb.jsonl.gz"
    file.write_bytes(gzip.compress(b" " * (200 << 20), compresslevel=1))
    with pytest.raises(DataError, match=r":1\)|more than 33,554,432 bytes"):
        load_records(file)


@pytest.mark.parametrize("name", ["bomb.jsonl.gz", "bomb.json.gz"])
def test_a_gzip_bomb_of_many_lines_is_not_unpacked(tmp_path, monkeypatch, name):
    monkeypatch.setattr(bounds, "FREE_UNPACKED", 1 << 20)
    line = json.dumps(RECORD).encode() + b"\n"
    file = tmp_path / name
    file.write_bytes(gzip.compress(line + (b" " * 999 + b"\n") * (32 << 10)))
    with pytest.raises(DataError, match="the gzip file unpacks to more than"):
        load_records(file)
    file.write_bytes(gzip.compress(b"".join(json.dumps(row).encode() + b"\n" for row in rows(30))))
    assert len(load_records(file)) == 30


def test_an_overlong_line_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(bounds, "MAX_LINE", 1000)
    file = tmp_path / "a.jsonl"
    file.write_text(json.dumps(RECORD) + "\n" + json.dumps(RECORD | {"input": "x" * 1000}), encoding="utf-8")
    with pytest.raises(DataError, match=r"more than 1,000 bytes .*a\.jsonl:2"):
        load_records(file)


@pytest.mark.parametrize("name", ["a.jsonl", "a.json"])
@pytest.mark.parametrize(("text", "message"), [(NESTED, "too deeply"), ("[" + "9" * 5000 + "]", "too many digits")])
def test_hostile_json_is_one_clear_error(tmp_path, name, text, message):
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=message):
        load_records(tmp_path / name)


def test_a_json_list_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(bounds, "MAX_LIST", 100)
    (tmp_path / "a.json").write_text(json.dumps([RECORD] * 9), encoding="utf-8")
    with pytest.raises(DataError, match="more than 100 characters"):
        load_records(tmp_path / "a.json")


def test_records_and_fields_are_bounded(tmp_path, monkeypatch):
    file = tmp_path / "a.jsonl"
    wide = [row | {f"extra{n}": n} for n, row in enumerate(rows(20))]
    file.write_text("\n".join(map(json.dumps, wide)), encoding="utf-8")
    assert len(load_records(file)) == 20
    monkeypatch.setattr(bounds, "MAX_COLUMNS", 10)
    with pytest.raises(DataError, match="more than 10 different fields"):
        load_records(file)
    monkeypatch.setattr(bounds, "MAX_RECORDS", 5)
    with pytest.raises(DataError, match="more than 5 records"):
        load_records(file)


def test_parquet_with_a_pickled_type_is_read_without_it(tmp_path, marker):
    """Old versions of pyarrow unpickled the class of an extension type from the file's header."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    about = {b"ARROW:extension:name": b"arrow.py_extension_type"}
    about[b"ARROW:extension:metadata"] = pickle.dumps(Hostile(marker))
    fields = [pa.field(name, pa.string()) for name in RECORD] + [pa.field("x", pa.string(), metadata=about)]
    table = pa.Table.from_pylist([row | {"x": "a"} for row in rows(20)], schema=pa.schema(fields))
    table = table.replace_schema_metadata({"pandas": pickle.dumps(Hostile(marker)).hex()})
    pq.write_table(table, tmp_path / "a.parquet")
    assert len(load_records(tmp_path / "a.parquet")) == 20


@pytest.mark.parametrize("kind", ["text", "large text", "list", "struct", "bytes"])
def test_a_parquet_bomb_is_not_unpacked(tmp_path, monkeypatch, kind):
    """One long text, told once and repeated by number: 10 GB in a small file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    value = pa.array(["长" * 350_000], {"large text": pa.large_string(), "bytes": pa.binary()}.get(kind, pa.string()))
    texts = pa.DictionaryArray.from_arrays(pa.array(np.zeros(10_000, "i4")), value)
    if kind == "list":
        texts = pa.ListArray.from_arrays(np.arange(10_001, dtype="i4"), texts)
    elif kind == "struct":
        texts = pa.StructArray.from_arrays([texts], ["x"])
    plain = pa.array([f"第{n}条" for n in range(10_000)])
    file = tmp_path / "bomb.parquet"
    pq.write_table(pa.table({"instruction": plain, "output": plain, "x": texts}), file, compression="zstd")
    assert file.stat().st_size < 300_000
    monkeypatch.setattr(bounds, "FREE_UNPACKED", 1 << 20)
    with pytest.raises(DataError, match="unpacks to more than"):
        load_records(file)
    monkeypatch.setattr(bounds, "MAX_LINE", 1 << 20)
    with pytest.raises(DataError, match="a text has more than 1,048,576 bytes"):
        load_records(file)
    monkeypatch.setattr(bounds, "MAX_RECORDS", 100)
    with pytest.raises(DataError, match="10,000 rows, at most 100"):
        load_records(file)


def test_parquet_columns_and_lists_are_bounded(tmp_path, monkeypatch):
    file = tmp_path / "a.parquet"
    mixed = {"list": [1] * 500, "texts": ["a", None], "struct": {"x": "b", "y": [{"z": "c"}]}, "bytes": b"d"}
    pd.DataFrame([row | mixed for row in rows(20)]).to_parquet(file)
    assert load_records(file).loc[0, "struct"] == '{"x": "b", "y": [{"z": "c"}]}'
    monkeypatch.setattr(bounds, "MAX_VALUES", 5000)
    with pytest.raises(DataError, match="10,000 values, at most 5,000"):
        load_records(file)
    monkeypatch.setattr(bounds, "MAX_COLUMNS", 3)
    with pytest.raises(DataError, match=r"\d columns, at most 3"):
        load_records(file)


@links
def test_a_benchmarks_folder_has_no_links_out(tmp_path):
    secret = tmp_path / "secret.json"
    secret.write_text(json.dumps([["股价大涨", 1]]), encoding="utf-8")
    task = tmp_path / "cfleb" / "FinFE"
    task.mkdir(parents=True)
    (task / "train_list.json").symlink_to(secret)
    with pytest.raises(DataError, match=r"train_list\.json is a link out of the folder"):
        load_records(tmp_path / "cfleb")
    part = tmp_path / "fineval" / "val"
    part.mkdir(parents=True)
    (tmp_path / "secret.csv").write_text("id,question,A,B,C,D,answer\n0,q,a,b,c,d,A\n", encoding="utf-8")
    (part / "law_val.csv").symlink_to(tmp_path / "secret.csv")
    with pytest.raises(DataError, match=r"law_val\.csv is a link out of the folder"):
        load_records(tmp_path / "fineval")


def test_an_overlong_cell_is_one_clear_error(tmp_path):
    part = tmp_path / "fineval" / "val"
    part.mkdir(parents=True)
    text = f"id,question,A,B,C,D,answer\n0,{'q' * 200_000},a,b,c,d,A\n"
    (part / "law_val.csv").write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match="the table cannot be read"):
        load_records(tmp_path / "fineval")


@pytest.fixture
def dataset(tmp_path):
    folder = tmp_path / "dataset"
    folder.mkdir()
    (folder / "train.jsonl").write_text("\n".join(map(json.dumps, rows(20))), encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    "name", ["a.zip", "a.tar", "a.tar.gz", "b.pkl", "b.npz", "dataset.py", "x/y.joblib", "a.JSONL.zst"]
)
def test_a_dataset_has_no_archives_pickles_or_programs(dataset, marker, name):
    file = dataset / name
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(pickle.dumps(Hostile(marker)))
    with pytest.raises(DataError, match="archive, pickled data or a program"):
        load_records(dataset)


@pytest.mark.parametrize(
    "head",
    [
        "configs:\n- config_name: default\n  data_files: ../secret.jsonl\n",
        "configs:\n- config_name: default\n  data_files:\n  - split: train\n    path: [a.jsonl, /etc/passwd]\n",
        "configs:\n- config_name: default\n  data_files: {train: 'https://example.org/a.jsonl'}\n",
        "configs:\n- config_name: default\n  data_dir: ..\n",
        "a: &a [x]\nb: [*a\n",
    ],
)
def test_a_datasets_card_names_no_data_elsewhere(dataset, head):
    (dataset.parent / "secret.jsonl").write_text(json.dumps(RECORD), encoding="utf-8")
    (dataset / "README.md").write_text(f"---\n{head}---\n# A corpus, see https://example.org\n", encoding="utf-8")
    with pytest.raises(DataError, match="outside the folder|not valid YAML"):
        load_records(dataset)


def test_an_honest_dataset_is_read(dataset):
    head = (
        "license: mit\nhomepage: https://example.org/x\nconfigs:\n- config_name: default\n  data_files: train.jsonl\n"
    )
    (dataset / "README.md").write_text(f"---\n{head}---\n# A corpus, see ../elsewhere\n", encoding="utf-8")
    (dataset / "LICENSE").write_text("MIT", encoding="utf-8")
    assert len(load_records(dataset)) == 20


def test_a_saved_dataset_names_no_data_elsewhere(dataset):
    state = {"_data_files": [{"filename": "../secret.arrow"}]}
    (dataset / "state.json").write_text(json.dumps(state), encoding="utf-8")
    with pytest.raises(DataError, match=r"state\.json names data outside"):
        load_records(dataset)


@links
def test_a_dataset_has_no_links_out(dataset):
    (dataset.parent / "secret.jsonl").write_text(json.dumps(RECORD), encoding="utf-8")
    (dataset / "more.jsonl").symlink_to(dataset.parent / "secret.jsonl")
    with pytest.raises(DataError, match=r"more\.jsonl is a link out"):
        load_records(dataset)


def test_a_card_that_repeats_itself_ends(dataset):
    """Each part names the one before nine times; spelt out they are more than there are atoms."""
    parts = ["p0: &p0 [x]"] + [f"p{n}: &p{n} [{', '.join([f'*p{n - 1}'] * 9)}]" for n in range(1, 30)]
    (dataset / "README.md").write_text("---\n" + "\n".join(parts) + "\n---\n", encoding="utf-8")
    trust.check_dataset_folder(dataset)


def test_every_refusal_is_an_error_of_ours(encoder, base):
    """The command line shows those without a traceback."""
    (encoder / "modules.json").write_text("{", encoding="utf-8")
    (base / "config.json").write_text("{", encoding="utf-8")
    for load in (lambda: load_encoder(str(encoder)), lambda: load_base(str(base), device="cpu")):
        with pytest.raises(AsslError):
            load()
