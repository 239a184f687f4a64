"""What a stranger's files may hold: pickles that act when they are read, JSON without end, links out."""

from __future__ import annotations

import json
import os

import pytest

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


def change(file, **entries):
    """Add entries to a JSON object on disk."""
    value = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    file.write_text(json.dumps(value | entries), encoding="utf-8")


def plant_pickle(folder, marker, name):
    """Put pickled weights into a folder and let the list of shards name them."""
    import torch

    torch.save({"weight": Hostile(marker)}, folder / name)
    index = {"metadata": {}, "weight_map": {"model.embed_tokens.weight": name}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
