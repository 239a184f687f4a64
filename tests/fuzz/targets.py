"""What is read: small whole files that the package wrote, by the reader of each kind."""

from __future__ import annotations

import gzip
import json
import shutil
import struct
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from assl_kit.errors import AsslError


@dataclass(frozen=True)
class Target:
    """A reader.

    Attributes
    ----------
    make : callable
        Writes a whole example into an empty folder.
    files : tuple of str
        Which files of it are changed.
    read : callable
        Reads the folder; the number of the case lets it take turns among options.
    expected : tuple of exception types
        What it may raise.
    unpack, pack : callable, optional
        Of a packed file, whose content is changed every other time.
    """

    make: Callable[[Path], None]
    files: tuple[str, ...]
    read: Callable[[Path, int], Any]
    expected: tuple[type[Exception], ...] = (AsslError,)
    unpack: Callable[[bytes], bytes] | None = None
    pack: Callable[[bytes], bytes] | None = None


# records --------------------------------------------------------------------------------------------------------------
def _records() -> list[dict[str, Any]]:
    from assl_kit.data.synthetic import make_corpus

    rows = make_corpus(200, seed=0).head(12).to_dict("records")
    return [row | {"score": number / 3, "tags": ["a", str(number)]} for number, row in enumerate(rows)]


def _dialogues() -> list[dict[str, Any]]:
    turns = [("system", "你是分析师。"), ("user", "问"), ("assistant", "答"), ("user", "再问"), ("assistant", "再答")]
    return [{"messages": [{"role": side, "content": f"{text}{number}"} for side, text in turns]} for number in range(8)]


def _lines(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode("utf-8")


def _write(name: str, content: Callable[[], bytes]) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes(content()) and None


def _table(separator: str) -> bytes:
    import pandas as pd

    return pd.DataFrame(_records()).to_csv(index=False, sep=separator).encode("utf-8")


def _zst(data: bytes) -> bytes:
    import pyarrow as pa

    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as file:
        file.write(data)
    return sink.getvalue().to_pybytes()


def _unzst(data: bytes) -> bytes:
    import pyarrow as pa

    return pa.CompressedInputStream(pa.BufferReader(data), "zstd").read()


def _parquet(folder: Path) -> None:
    import pandas as pd

    pd.DataFrame([row | {"struct": {"x": 1, "y": ["b"]}} for row in _records()]).to_parquet(folder / "a.parquet")


def _corpus(name: str) -> Callable[[Path, int], Any]:
    from assl_kit.data.loading import load_records

    return lambda folder, case: load_records(folder / name, on_bad=("refuse", "skip")[case % 2])


def _folder(folder: Path) -> None:
    rows = _records()
    (folder / "train.jsonl").write_bytes(_lines(rows[:6]))
    (folder / "test.json").write_text(json.dumps(rows[6:], ensure_ascii=False), encoding="utf-8")
    card = "---\nlicense: mit\ntags: [a, b]\nsizes:\n- 1\n- {x: 2}\n---\n# Records\n"
    (folder / "README.md").write_text(card, encoding="utf-8")


# descriptions ---------------------------------------------------------------------------------------------------------
def _saved(folder: Path) -> None:
    import datasets

    datasets.disable_progress_bars()
    datasets.Dataset.from_list(_records()).save_to_disk(str(folder))


def _cfleb(folder: Path) -> None:
    rows = [["股价大涨", 1], ["平", 0.5], ["跌", 0], ["text", "label"], ["涨停", 1]]
    (folder / "FinFE").mkdir()
    (folder / "FinFE" / "train_list.json").write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
    (folder / "FinRE").mkdir()
    lines = "".join(f"甲{number}\t乙\t注资\t甲{number}向乙注资\n" for number in range(4))
    (folder / "FinRE" / "train.txt").write_text(lines, encoding="utf-8")


def _fineval(folder: Path) -> None:
    (folder / "val").mkdir()
    lines = "id,question,A,B,C,D,answer\n" + "".join(f"{n},问{n},一,二,三,四,{'ABCD'[n]}\n" for n in range(4))
    (folder / "val" / "law_val.csv").write_text(lines, encoding="utf-8")
    rows = [{"input": f"词{number}", "gold_answer": "义"} for number in range(3)]
    (folder / "finterm-eval.json").write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")


def _benchmark(kind: str) -> Callable[[Path, int], Any]:
    def read(folder: Path, case: int) -> Any:
        from assl_kit.data.loading import load_records

        on_bad = "skip" if case % 2 else "refuse"
        return load_records(folder, format=kind, on_bad=on_bad, left_out=[], test_share=0)

    return read


def _embeddings(folder: Path) -> None:
    import numpy as np

    from assl_kit.space.embeddings import write_embeddings

    block = (np.array([1, 0]), ["b", "a"], np.eye(2, dtype=np.float32))
    write_embeddings(folder / "embeddings.safetensors", ["a", "b"], [block])


def _read_embeddings(folder: Path, case: int) -> Any:
    from assl_kit.space.embeddings import read_embeddings

    return read_embeddings(folder / "embeddings.safetensors")["embeddings"].sum()


def _read_table(folder: Path, case: int) -> Any:
    from assl_kit.artifacts.workspace import Workspace

    return Workspace(folder).table("a.parquet")


def _parameters(folder: Path) -> None:
    text = "# ours\nseed: 3\nlearning_rate: 2e-3\nn_select: 30\nencoder: fit\nmin_similarity: auto\ndata: embedded\n"
    (folder / "mine.yaml").write_text(text, encoding="utf-8")


def _read_parameters(folder: Path, case: int) -> Any:
    from assl_kit.artifacts.parameters import read_parameter_file, validate

    return validate(read_parameter_file(folder / "mine.yaml"))


def _bank(folder: Path) -> None:
    import numpy as np
    from helpers.banks import write_adapter

    from assl_kit.experts.bank import ExpertBank, Provenance

    adapters = [write_adapter(folder.parent / f"{folder.name}-adapter-{seed}", seed) for seed in (0, 1)]
    origin = Provenance(
        base={"id": "small", "fingerprint": "f" * 64}, encoder={"id": "fit", "fingerprint": "e" * 64, "dim": 4}
    )
    shutil.rmtree(folder)
    ExpertBank.create(folder, adapters, np.eye(2, 4), origin)


def _read_bank(folder: Path, case: int) -> Any:
    from assl_kit.experts.bank import ExpertBank
    from assl_kit.experts.bank_check import check_adapter_config, read_centroids, read_info

    check_adapter_config(folder / "expert-0")
    read_centroids(folder, read_info(folder))
    return ExpertBank.from_pretrained(folder)


def _run(folder: Path) -> None:
    from assl_kit.artifacts.workspace import Workspace

    ws = Workspace.open(folder)
    ws.parameters("tiny", n_clusters=4)
    with ws.writing("notes.json") as temporary:
        temporary.write_text("[1]", encoding="utf-8")
    ws.commit("notes.json", key="k1", parents=["a"], parameters={"seed": 1}, seconds=1.5, notebook="01_data")
    ws.update_manifest("notebooks", {"01_data": {"status": "done", "seconds": 3.2, "peak_memory_mb": 100}})


def _read_run(folder: Path, case: int) -> Any:
    from assl_kit.artifacts.workspace import Workspace
    from assl_kit.runner.manifest_rows import artifact_rows, notebook_rows, run_state

    ws = Workspace(folder)
    manifest = ws.manifest()
    json.dumps([notebook_rows(manifest), artifact_rows(manifest), run_state(manifest, running=False)])
    for name, entry in manifest["artifacts"].items():
        ws.is_current(name, entry.get("key"))
    return ws.current_parameters()


# models ---------------------------------------------------------------------------------------------------------------
def _gguf(folder: Path) -> None:
    def text(value: bytes) -> bytes:
        return struct.pack("<Q", len(value)) + value

    entries = [
        text(b"general.architecture") + struct.pack("<I", 8) + text(b"qwen2"),
        text(b"general.alignment") + struct.pack("<II", 4, 32),
        text(b"qwen2.block_count") + struct.pack("<II", 4, 2),
        text(b"rope") + struct.pack("<If", 6, 1e4),
        text(b"tokens") + struct.pack("<IIQ", 9, 8, 3) + text(b"a") + text(b"b") + text(b"c"),
        text(b"types") + struct.pack("<IIQ3i", 9, 5, 3, 1, 1, 3),
        text(b"nested") + struct.pack("<IIQ", 9, 9, 2) + struct.pack("<IQB", 0, 1, 7) * 2,
    ]
    tensors = [text(b"token_embd.weight") + struct.pack("<IQQIQ", 2, 8, 4, 0, 0)]
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(entries)) + b"".join(entries + tensors)
    (folder / "a.gguf").write_bytes(head + bytes(-len(head) % 32) + bytes(8 * 4 * 4))


def _read_gguf(folder: Path, case: int) -> Any:
    from assl_kit.model.gguf import check_gguf

    return check_gguf(folder / "a.gguf")


def _base(folder: Path) -> None:
    from helpers.models import make_test_base

    make_test_base(folder)


def _read_base(folder: Path, case: int) -> Any:
    from assl_kit.model.answers import AnswerBound
    from assl_kit.model.loading import load_base

    AnswerBound(str(folder))("长" * 2000)
    return load_base(str(folder), device="cpu")


def _template(folder: Path) -> None:
    from helpers.models import CHATML

    _base(folder)
    (folder / "mine.jinja").write_text(CHATML, encoding="utf-8")


def _read_template(folder: Path, case: int) -> Any:
    from assl_kit.model.loading import load_base
    from assl_kit.model.turns import prompt_ids

    template = (folder / "mine.jinja").read_text(encoding="utf-8", errors="replace")
    model, tokenizer = load_base(str(folder), device="cpu", chat_template=template)
    return prompt_ids(tokenizer, ["你好", "<|im_end|>"], 100)


@cache
def _model(place: str) -> Any:
    from assl_kit.model.loading import load_base

    return load_base(place, device="cpu")[0]


def _adapter(folder: Path) -> None:
    import torch
    from peft import LoraConfig, get_peft_model

    from assl_kit.model.loading import load_base

    _base(folder / "base")
    model, _ = load_base(str(folder / "base"), device="cpu")
    torch.manual_seed(0)
    get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"])).save_pretrained(str(folder))


def _read_adapter(folder: Path, case: int) -> Any:
    from assl_kit.experts.adapters import adapted

    with adapted(_model(str(folder / "base")), folder):
        return None


def _encoder(folder: Path) -> None:
    from helpers.models import save_test_encoder

    save_test_encoder(folder)


def _read_encoder(folder: Path, case: int) -> Any:
    from assl_kit.space.encoder import encode, load_encoder

    return encode(load_encoder(str(folder)), ["股价上涨"])


def _export(folder: Path) -> None:
    import numpy as np
    from helpers.models import make_test_encoder
    from safetensors.numpy import save_file

    from assl_kit.space.encoder import encode

    encoder = make_test_encoder()
    encoder.save(str(folder / "encoder"), create_model_card=False)
    probe = encode(encoder, ["股价上涨"])
    save_file({"centroids": np.eye(2, 4, dtype="f4"), "probe": probe}, folder / "router.safetensors")
    table = {
        "format": "assl-kit vLLM export",
        "experts": [{"name": "expert-0"}, {"name": "expert-1"}],
        "base_model": "small",
        "router": {"file": "router.safetensors", "min_similarity": 0.1, "probe": ["股价上涨"]},
        "encoder": {"id": "fit", "path": "encoder"},
    }
    (folder / "routes.json").write_text(json.dumps(table, ensure_ascii=False, indent=1), encoding="utf-8")


def _client_error() -> type[Exception]:
    from assl_kit.app.served.routes import ClientError

    return ClientError


def _read_export(folder: Path, case: int) -> Any:
    from assl_kit.app.served.routes import Routes

    return Routes(folder).route(["股价"])


def _targets() -> dict[str, Target]:
    def corpus(name: str, content: Callable[[], bytes], **packing: Any) -> Target:
        return Target(_write(name, content), (name,), _corpus(name), **packing)

    base = ("tokenizer.json", "tokenizer_config.json", "config.json", "generation_config.json", "model.safetensors")
    encoder = ("modules.json", "config_sentence_transformers.json", "tokenizer.json", "model.safetensors")
    return {
        "jsonl": corpus("a.jsonl", lambda: _lines(_records())),
        "messages": corpus("a.jsonl", lambda: _lines(_dialogues())),
        "json": corpus("a.json", lambda: json.dumps(_records(), ensure_ascii=False).encode()),
        "csv": corpus("a.csv", lambda: _table(",")),
        "tsv": corpus("a.tsv", lambda: _table("\t")),
        "gz": corpus(
            "a.jsonl.gz", lambda: gzip.compress(_lines(_records())), unpack=gzip.decompress, pack=gzip.compress
        ),
        "zst": corpus("a.jsonl.zst", lambda: _zst(_lines(_records())), unpack=_unzst, pack=_zst),
        "parquet": Target(_parquet, ("a.parquet",), _corpus("a.parquet")),
        "folder": Target(_folder, ("train.jsonl", "test.json", "README.md"), _corpus("")),
        "saved": Target(_saved, ("data-00000-of-00001.arrow", "state.json", "dataset_info.json"), _corpus("")),
        "cfleb": Target(_cfleb, ("FinFE/train_list.json", "FinRE/train.txt"), _benchmark("cfleb")),
        "fineval": Target(_fineval, ("val/law_val.csv", "finterm-eval.json"), _benchmark("fineval")),
        "table": Target(_parquet, ("a.parquet",), _read_table),
        "embeddings": Target(_embeddings, ("embeddings.safetensors",), _read_embeddings),
        "yaml": Target(_parameters, ("mine.yaml",), _read_parameters),
        "bank": Target(_bank, ("bank.json", "expert-0/adapter_config.json", "router.safetensors"), _read_bank),
        "manifest": Target(_run, ("manifest.json",), _read_run),
        "gguf": Target(_gguf, ("a.gguf",), _read_gguf),
        "adapter": Target(_adapter, ("adapter_config.json", "adapter_model.safetensors"), _read_adapter),
        "encoder": Target(_encoder, encoder, _read_encoder),
        "routes": Target(_export, ("routes.json", "router.safetensors"), _read_export, (AsslError, _client_error())),
        "base": Target(_base, base, _read_base),
        "template": Target(_template, ("mine.jinja",), _read_template),
    }


TARGETS = _targets()


def quietly(read: Callable[[Path, int], Any], folder: Path, case: int) -> None:
    """Read without warnings, which some files earn by the dozen."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        read(folder, case)
