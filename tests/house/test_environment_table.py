"""docs/environment.md names every environment variable that the project reads or sets, and no other."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = next(folder for folder in Path(__file__).resolve().parents if (folder / "pyproject.toml").is_file())
NAME = re.compile(r"[A-Z_]+_[A-Z_]+|[A-Z]{4,}")
OURS = re.compile(r"\b_?ASSL_[A-Z_]+\b")


def names_in(tree: ast.AST) -> Iterator[str]:
    """Names used with ``os.environ``, and the keys of dicts that hold nothing but such names."""
    for node in ast.walk(tree):
        texts: list[ast.expr | None] = []
        if isinstance(node, ast.Dict) and node.keys:
            texts = [key for key in node.keys if not isinstance(key, ast.Name)]  # a constant's name
            if not all(isinstance(key, ast.Constant) and NAME.fullmatch(str(key.value)) for key in texts):
                continue
        elif isinstance(node, ast.Subscript) and ast.unparse(node.value).endswith("environ"):
            texts = [node.slice]
        elif isinstance(node, ast.Call) and "environ" in ast.unparse(node.func):
            texts = node.args[:1]
        elif isinstance(node, ast.Compare) and ast.unparse(node.comparators[0]).endswith("environ"):
            texts = [node.left]
        for text in texts:
            if isinstance(text, ast.Constant) and NAME.fullmatch(str(text.value)):
                yield text.value


def used() -> set[str]:
    names = set()
    for file in (ROOT / "assl_kit").rglob("*.py"):
        text = file.read_text(encoding="utf-8")
        names |= {*names_in(ast.parse(text)), *OURS.findall(text)}
    outside = [file for folder in ("tests", "benchmarks", ".ci", ".github") for file in (ROOT / folder).rglob("*.*")]
    for file in (ROOT / "Makefile", *outside):
        if file.suffix in ("", ".py", ".yml") and file.is_file() and file != Path(__file__).resolve():
            names |= set(OURS.findall(file.read_text(encoding="utf-8")))
    return names


def test_the_table_is_that_of_the_code():
    page = (ROOT / "docs" / "environment.md").read_text(encoding="utf-8")
    cells = [line.split("|")[1] for line in page.splitlines() if line.startswith("| `")]
    listed = [name for cell in cells for name in re.findall(r"`(\w+)`", cell)]
    assert len(set(listed)) == len(listed), "a variable stands there twice"
    assert sorted(used() - set(listed)) == [], "add these to docs/environment.md"
    assert sorted(set(listed) - used()) == [], "nothing reads or sets these"
