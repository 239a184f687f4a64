"""Small expert banks for tests."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file


def write_adapter(folder: Path, seed: int = 0) -> Path:
    """A PEFT folder, as a training on a folder of this machine leaves it."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    save_file({"a.lora_A.weight": rng.normal(size=(2, 3)).astype("f4")}, folder / "adapter_model.safetensors")
    config = {
        "peft_type": "LORA",
        "base_model_name_or_path": "/home/someone/models/my-base",
        "target_modules": ["v_proj", "k_proj", "q_proj"],
        "r": 16,
        "inference_mode": False,
    }
    (folder / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder
