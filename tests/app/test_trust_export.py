"""An export from a stranger: its client runs nothing, and reads nothing outside the folder."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from helpers.models import save_test_encoder
from safetensors.numpy import save_file

from assl_kit.app.vllm_client import ClientError, Routes


@pytest.fixture
def encoder(tmp_path):
    return save_test_encoder(tmp_path / "encoder")


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
