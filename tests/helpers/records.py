"""Records for tests, and the files they are in: all made up here."""

from __future__ import annotations

import json

import pytest

from assl_kit.data.records import SPLITS
from assl_kit.errors import DataError


def full(n=6, **changes):
    rows = []
    for i in range(n):
        row = {
            "id": f"r{i}",
            "instruction": "判断情绪。",
            "input": f"第{i}条留言",
            "output": "积极" if i % 2 else "消极",
        }
        rows.append(row | {"task": "sentiment", "source": "made", "split": SPLITS[i % 3]} | changes)
    return rows


def put(path, text, encoding="utf-8"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding=encoding)
    return path


def put_json(path, value):
    return put(path, json.dumps(value, ensure_ascii=False))


def put_lines(path, rows):
    return put(path, "\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n")


def fails(*parts, of=DataError):
    return pytest.raises(of, match="(?s)" + ".*".join(parts))
