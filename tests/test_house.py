"""The house: small modules, and a floor for each, so that imports go one way."""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "assl_kit"
MODULES = sorted(path for path in PACKAGE.glob("*.py") if path.stem != "__init__")


def imported(path: Path) -> set[str]:
    """Modules of the package that this one imports, anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level == 1:
            names |= {node.module.split(".")[0]} if node.module else {alias.name for alias in node.names}
    return {name for name in names if (PACKAGE / f"{name}.py").is_file()}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_a_module_is_small_and_says_what_it_is(path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) < 400
    assert ast.get_docstring(ast.parse(text))


def test_imports_go_one_way():
    graph = {path.stem: imported(path) - {path.stem} for path in MODULES}
    order = TopologicalSorter(graph).static_order()  # raises CycleError, naming the cycle
    below: dict[str, set[str]] = {}
    for name in order:
        below[name] = graph[name].union(*(below[other] for other in graph[name]))
    for floor, above in {
        "mmr": {"adbscan", "redistribute", "experts", "steps"},
        "redistribute": {"experts", "silversight", "steps", "base_model"},
        "experts": {"silversight", "steps", "run"},
        "silversight": {"workspace", "steps", "run"},
        "steps": {"run", "report", "cli"},
    }.items():
        assert not below[floor] & above, floor


def test_the_public_names_are_there():
    import assl_kit

    for name in assl_kit.__all__:
        assert getattr(assl_kit, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        assl_kit.nothing  # noqa: B018
