"""Small expert banks for tests."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from assl_kit.common.files import sha256_file
from assl_kit.experts.bank import ExpertBank, Provenance
from assl_kit.model.identity import base_info
from assl_kit.model.loading import load_base
from assl_kit.space.encoder import encode, encoder_fingerprint, load_encoder

TEXTS = ["判断这条财经新闻的情感：股价上涨。", "央行下调存款准备金率，释放资金。", "为基金经理的新闻写一个标题。"]


def write_adapter(folder: Path, seed: int = 0) -> Path:
    """A PEFT folder, as a training on a folder of this machine leaves it."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    shapes = {"A": (16, 3), "B": (2, 16)}
    layer = "base_model.model.model.layers.0.self_attn.q_proj.lora"
    tensors = {f"{layer}_{part}.weight": rng.normal(size=shape).astype("f4") for part, shape in shapes.items()}
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {
        "peft_type": "LORA",
        "base_model_name_or_path": "/home/someone/models/my-base",
        "target_modules": ["v_proj", "k_proj", "q_proj"],
        "r": 16,
        "inference_mode": False,
    }
    (folder / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def plant(bank: Path, expert: str, name: str, shape: tuple[int, ...] = (32,)) -> None:
    """Put one more tensor into an expert's file, a `lora_A` with its half, and let `bank.json` vouch for it."""
    file = bank / expert / "adapter_model.safetensors"
    tensors = load_file(file)
    if name.endswith("lora_A.weight"):
        rank = next(value.shape[0] for key, value in tensors.items() if "lora_A" in key)
        tensors[f"base_model.model.{name.replace('lora_A', 'lora_B')}"] = np.full((32, rank), 7, np.float32)
        shape = (rank, 32)
    tensors[f"base_model.model.{name}"] = np.full(shape, 7, np.float32)
    save_file(tensors, file, metadata={"format": "pt"})
    relist(bank, f"{expert}/{file.name}")


def relist(bank: Path, *names: str) -> None:
    """Let `bank.json` vouch for changed files, as a hostile writer would."""
    info = json.loads((bank / "bank.json").read_text(encoding="utf-8"))
    listed = info["files"] | {name: sha256_file(bank / name) for name in names}
    info["files"] = {name: digest for name, digest in listed.items() if (bank / name).is_file()}
    (bank / "bank.json").write_text(json.dumps(info), encoding="utf-8")


def make_bank(folder: Path, base_folder: str | Path, *, base: dict | None = None, **lora) -> ExpertBank:
    """A bank of three random adapters, one for each text."""
    import torch
    from peft import LoraConfig, get_peft_model

    model, tokenizer = load_base(str(base_folder), device="cpu")
    info = base or base_info(model, tokenizer)
    torch.manual_seed(0)
    paths = []
    for k, rank in enumerate((4, 2, 12)):
        settings = {"r": rank, "target_modules": "all-linear", "task_type": "CAUSAL_LM", "init_lora_weights": False}
        wrapped = get_peft_model(model, LoraConfig(**settings | lora))
        wrapped.save_pretrained(folder / f"raw-{k}")
        model = wrapped.unload()
        paths.append(folder / f"raw-{k}")
    encoder = load_encoder("fit", texts=TEXTS * 3, dim=8, vocab_size=400)
    X = encode(encoder, TEXTS)
    encoder_info = {"id": "fit", "fingerprint": encoder_fingerprint(encoder), "dim": X.shape[1]}
    origin = Provenance(info, encoder_info, encoder_model=encoder, min_similarity=0.2)
    return ExpertBank.create(folder / "bank", paths, X, origin)
