"""The house: eleven rooms on seven storeys, and which may import which (CONTRIBUTING.md has the map)."""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from helpers import ROOT

from assl_kit.artifacts.steps import ROOMS, STEPS, room_of

PACKAGE = ROOT / "assl_kit"
METHOD = tuple(ROOMS)
MAY = dict(ROOMS) | {
    "artifacts": METHOD,
    "teaching": ("common", "data", "selection", "evaluation"),
    "runner": (*METHOD, "artifacts", "teaching"),
    "app": (*METHOD, "artifacts", "teaching", "runner"),
}
TOP = ("", "errors", "version")  # what every room may import; "" is the package itself
VAGUE = {"found", "said", "told", "given", "own"}  # names of variables that hold anything
FILES = sorted(path for path in PACKAGE.rglob("*.py") if "__pycache__" not in path.parts)
ROOM_FILES = [path for path in FILES if path.parent != PACKAGE]


def name_of(path: Path) -> str:
    """``space.rows`` of ``space/rows.py``."""
    return path.relative_to(PACKAGE).with_suffix("").as_posix().replace("/", ".").removesuffix(".__init__")


KNOWN = {name_of(path) for path in FILES}


def imports_of(path: Path) -> list[tuple[str, str, bool]]:
    """``(module, name, relative)`` of each import from the package, inside functions too; modules count as modules."""
    found = []
    package = [*path.relative_to(PACKAGE).parts[:-1]]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [(a.name[9:], "", False) for a in node.names if a.name.split(".")[0] == "assl_kit"]
        if not isinstance(node, ast.ImportFrom):
            continue
        if node.level:
            module = ".".join([*package[: len(package) - node.level + 1], *([node.module] if node.module else [])])
        elif node.module and node.module.split(".")[0] == "assl_kit":
            module = node.module[9:]
        else:
            continue
        for alias in node.names:
            whole = f"{module}.{alias.name}".lstrip(".")
            found.append((whole, "", bool(node.level)) if whole in KNOWN else (module, alias.name, bool(node.level)))
    return found


def room(module: str) -> str:
    return module.split(".")[0] if module.split(".")[0] in MAY else module


def test_the_rooms_are_these():
    folders = {path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert folders - {"notebooks", "results"} == set(MAY)  # a wheel holds these two besides
    assert {path.name for path in PACKAGE.glob("*.py")} == {"__init__.py", "__main__.py", "errors.py", "version.py"}


@pytest.mark.parametrize("path", ROOM_FILES, ids=name_of)
def test_a_file_imports_only_what_its_room_may(path):
    own = room(name_of(path))
    for module, name, relative in imports_of(path):
        target = room(module)
        assert target == own or target in (*MAY[own], *TOP), f"{own} may not import {module}"
        assert relative == (target == own), f"{module}: relative within a room, absolute across rooms"
        assert not name.startswith("_") or name.startswith("__"), f"{name} is private to {module}"


@pytest.mark.parametrize("path", sorted((PACKAGE / "artifacts").glob("build_*.py")), ids=lambda path: path.stem)
def test_a_builder_knows_its_room_and_those_below_only(path):
    own = path.stem.removeprefix("build_")
    below = (*ROOMS[own], own)
    builders = {f"artifacts.build_{name}" for name in below}
    beside = {f"artifacts.{name}" for name in ("parameters", "parents", "workspace", "ray_stages")}
    for module, _, _ in imports_of(path):
        assert room(module) in (*below, *TOP) or module in builders | beside, module


def test_no_circle():
    graph = {name_of(path): {module for module, _, _ in imports_of(path) if module in KNOWN} for path in ROOM_FILES}
    order = list(TopologicalSorter(graph).static_order())  # raises CycleError, naming the circle
    assert order.index("common.files") < order.index("artifacts.steps") < order.index("app.cli")


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_a_file_is_small_and_says_what_it_is(path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) < 400
    assert ast.get_docstring(ast.parse(text))


def vague_variables(tree: ast.AST) -> list[tuple[int, str]]:
    """Line and name of what a function assigns to, or takes, under a name that does not say what it holds."""
    names = set()
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            for node in ast.walk(function):
                if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                    names.add((node.lineno, node.id))
                elif isinstance(node, ast.arg):
                    names.add((node.lineno, node.arg))
    return sorted(name for name in names if name[1] in VAGUE)


def test_a_vague_variable_is_seen_wherever_it_gets_its_value():
    lines = [
        "found, x = 1, 2",
        "for told in y: pass",
        "z = [said for said in y]",
        "with y as own: pass",
        "(given := 3)",
    ]
    source = "def f(found):\n" + "".join(f"    {line}\n" for line in lines)
    assert [line for line, _ in vague_variables(ast.parse(source))] == [1, 2, 3, 4, 5, 6]
    assert not vague_variables(ast.parse("def f():\n    'found'\n    x.own = y(given=1)\n"))


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_a_variable_says_what_it_holds(path):
    assert not vague_variables(ast.parse(path.read_text(encoding="utf-8")))


@pytest.mark.parametrize("folder", [PACKAGE / name for name in MAY], ids=lambda folder: folder.name)
def test_a_room_has_at_most_13_files_and_one_sentence(folder):
    for part in (folder, *(path for path in folder.iterdir() if path.is_dir())):
        assert len([path for path in part.glob("*.py") if path.name != "__init__.py"]) <= 13
    body = ast.parse((folder / "__init__.py").read_text(encoding="utf-8")).body
    assert len(body) == 1 and isinstance(body[0], ast.Expr)


@pytest.mark.parametrize("path", ROOM_FILES, ids=name_of)
def test_no_file_hands_on_names_of_others(path):
    """A name is imported from the file that defines it."""
    for module, name, _ in imports_of(path):
        if not name or module not in KNOWN or module == "":
            continue
        tree = ast.parse((PACKAGE / f"{module.replace('.', '/')}.py").read_text(encoding="utf-8"))
        defined = {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                defined.add(node.id)
        assert name in defined or name == "SOURCES", f"{name} is not defined in {module}"


def test_an_artifact_belongs_to_the_room_that_builds_it():
    rooms = {name: room_of(name) for name in STEPS}
    assert set(rooms.values()) <= set(ROOMS)
    assert rooms["pool"] == "selection" and rooms["metrics"] == "evaluation"


def test_the_public_names_are_there():
    import assl_kit

    wanted = [
        "ADBSCAN",
        "knn",
        "mmr_select",
        "SemanticKMeans",
        "Redistributor",
        "CentroidRouter",
        "ExpertBank",
        "SilverSight",
        "Workspace",
        "load_records",
        "validate_records",
        "make_corpus",
        "load_encoder",
        "encode",
        "require",
        "resolve",
        "prompts",
        "rows_of",
        "training_pool",
        "AsslError",
        "DataError",
        "ParameterError",
        "BankError",
        "WorkspaceError",
    ]
    assert set(wanted) <= set(assl_kit.__all__)
    for name in assl_kit.__all__:
        assert getattr(assl_kit, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        assl_kit.nothing  # noqa: B018
