"""The notebooks as files: what makes them run anywhere, read well on GitHub, and agree with the package."""

from __future__ import annotations

import ast
import importlib.util
import json
import re
import sys
from collections.abc import Iterator

import nbformat
import pytest
from helpers import ROOT

from assl_kit.artifacts.parameters import NAMES, load_profile
from assl_kit.errors import ParameterError
from assl_kit.runner.plan import PLACES, read_notebook

CHAIN = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
EVERY = sorted(path for folder in ("notebooks", "colab") for path in (ROOT / folder).rglob("*.ipynb"))
EVERY = [path for path in EVERY if ".ipynb_checkpoints" not in path.parts]
EXPECTED = ["00_start_here", "01_data", "02_embedding", "03_clustering", "04_adbscan", "05_mmr"]
EXPECTED += ["06_lora_training", "07_routing", "08_evaluation", "09_robustness"]
ABSOLUTE = re.compile(r"(?<![\w.:/])(/(home|root|Users|tmp|work|workspace|var|private|opt|mnt)/|[A-Za-z]:\\\\)")
_SPEC = importlib.util.spec_from_file_location("check_files", ROOT / ".ci" / "check_files.py")
check_files = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(check_files)
in_chain = pytest.mark.parametrize("path", CHAIN, ids=lambda path: path.name)
in_all = pytest.mark.parametrize("path", EVERY, ids=lambda path: path.name)


def read(path):
    return nbformat.read(path, as_version=4)


def code_cells(path):
    return [cell for cell in read(path).cells if cell.cell_type == "code"]


def outputs(path):
    return [output for cell in code_cells(path) for output in cell.outputs]


def text_of(output) -> str:
    """What an output shows as text: streams, and every text form of a result."""
    data = output.get("data", {})
    return output.get("text", "") + "".join(str(value) for kind, value in data.items() if not kind.startswith("image/"))


def test_the_chain_is_whole():
    assert [path.stem for path in CHAIN][: len(EXPECTED)] == EXPECTED


@in_all
def test_it_is_valid_small_and_made_for_python3(path):
    book = read(path)
    nbformat.validate(book)
    assert check_files.size_problems(path) == [] and check_files.notebook_problems(path) == []


def test_a_notebook_in_another_form_is_refused(tmp_path):
    """What pre-commit calls on a commit says what is wrong."""
    book = read(next(path for path in CHAIN if path.stem == "01_data"))
    (tmp_path / "notebooks").mkdir()
    path = tmp_path / "notebooks" / "01_data.ipynb"

    def problems(change):
        changed = nbformat.from_dict(json.loads(nbformat.writes(book)))
        cells = [cell for cell in changed.cells if cell.cell_type == "code"]
        change(changed, cells)
        nbformat.write(changed, path)
        return "; ".join(check_files.notebook_problems(path))

    stderr = nbformat.v4.new_output("stream", name="stderr", text="Warning: old")
    error = nbformat.v4.new_output("error", ename="DataError", evalue="no", traceback=[])
    assert problems(lambda book, cells: None) == ""
    assert "cells are counted [7, 2," in problems(lambda book, cells: cells[0].update(execution_count=7))
    assert "DataError: no" in problems(lambda book, cells: cells[0].outputs.append(error))
    assert "Warning: old" in problems(lambda book, cells: cells[0].outputs.append(stderr))
    assert "'venv'" in problems(lambda book, cells: book.metadata.kernelspec.update(name="venv"))
    assert "widgets" in problems(lambda book, cells: book.metadata.update(widgets={}))
    path.write_text("{}", encoding="utf-8")
    assert "not a notebook" in check_files.notebook_problems(path)[0]
    path.write_bytes(b" " * (check_files.LARGEST + 1))
    assert check_files.main([str(path)]) == 1 and check_files.main([str(CHAIN[0])]) == 0


@in_all
def test_it_names_no_absolute_path_of_any_machine(path):
    for cell in read(path).cells:
        assert not ABSOLUTE.search(cell.source), cell.source
    for output in outputs(path):
        assert not ABSOLUTE.search(text_of(output)), text_of(output)[:500]


@in_all
def test_no_shell_line_can_fail_silently(path):
    for cell in code_cells(path):
        for line in cell.source.splitlines():
            assert not re.match(r"\s*(!|%%(bash|sh|script)|%(system|sx|sc)\b)", line), line
            if re.match(r"\s*%(pip|conda)\b", line):
                assert "google.colab" in cell.source, "install on Colab only"
                assert any("__version__" in c.source or "check_environment" in c.source for c in code_cells(path))


@in_all
def test_it_imports_installed_packages_only(path):
    beside = {file.stem for file in path.parent.glob("*.py")}
    for cell in code_cells(path):
        source = re.sub(r"(?m)^(\s*)%.*$", r"\1pass", cell.source)
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.ImportFrom):
                assert node.level == 0, "a notebook has no relative imports"
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) else []
            for name in (name.split(".")[0] for name in names):
                assert name not in beside, f"{name} is a file beside the notebook"
                assert name == "google" or name in sys.stdlib_module_names or importlib.util.find_spec(name), name
            is_exit = isinstance(node, ast.Call) and ast.unparse(node.func) in ("sys.exit", "exit", "quit")
            assert not is_exit, "a batch run would take an exit for success"


@in_chain
def test_its_outputs_are_those_of_one_clean_run(path):
    assert any(cell.execution_count for cell in code_cells(path))
    for output in outputs(path):
        assert not re.search(r"\w*Warning: |Traceback \(most recent", text_of(output)), text_of(output)[:500]


@in_all
def test_no_line_is_cut_on_a_page(path):
    """A page shows about ninety-five columns of a code cell; a parameter keeps its comment beside it."""
    for cell in code_cells(path):
        most = 100 if "parameters" in cell.metadata.get("tags", []) else 95
        assert max(map(len, cell["source"].splitlines()), default=0) <= most, cell["source"]


@in_chain
def test_every_prediction_has_a_hidden_answer(path):
    """An answer in a full sentence, which shows itself on a click; nothing else is hidden."""
    for cell in read(path).cells:
        if cell.cell_type != "markdown":
            continue
        parts = cell.source.split("**Predict:**")[1:]
        for part in parts:
            answer = re.search(r"<details><summary>Answer</summary>\n\n(.+?)\n</details>", part, re.DOTALL)
            assert answer and re.search(r"[a-z][^.]*\.", answer[1]), cell.source
        assert cell.source.count("<details>") == cell.source.count("</details>") <= max(len(parts), 0), cell.source


@in_chain
def test_its_parameters_are_those_of_the_tiny_profile(path):
    declared = read_notebook(path).declared
    assert declared["profile"] == "tiny" and declared["workspace"] == ""
    tiny = load_profile("tiny")
    for name, value in declared.items():
        if name not in PLACES and name in NAMES:
            assert value == tiny[name] and type(value) is type(tiny[name]), name


@in_chain
def test_it_begins_with_its_goal_and_ends_with_what_is_next(path):
    cells = read(path).cells
    assert cells[0].cell_type == "markdown" and cells[0].source.startswith("# ")
    for part in ("Needs", "Produces", "Time", "Main idea"):
        assert f"\n- **{part}** " in cells[0].source, part
    assert cells[-1].cell_type == "markdown" and cells[-1].source.startswith("## What to remember\n")
    assert "Next: " in cells[-1].source
    assert any("**Predict:**" in cell.source for cell in cells if cell.cell_type == "markdown")
    assert any("assert " in cell.source for cell in code_cells(path)), "claims are asserted"


@in_chain
def test_what_it_says_on_any_machine_is_compared(path):
    """nbval compares the cells with this tag only: text of a clean run, and no picture."""
    compared = [cell for cell in code_cells(path) if "nbval-check-output" in cell.metadata.get("tags", [])]
    assert len(compared) >= (2 if path.stem != "09_robustness" else 1)
    for cell in compared:
        kinds = {kind for output in cell.outputs for kind in output.get("data", {"text/plain": ""})}
        assert cell.outputs and kinds <= {"text/plain", "text/html"}, cell.source
        assert any(re.search(r"\w", text_of(output)) for output in cell.outputs), cell.source


COMMITTED = {"evidence_results", "kernel_results", "gpu_results", "gpu_differences", "verdicts", "shipped"}


def statements(body: list[ast.stmt]) -> Iterator[tuple[ast.stmt, list[ast.AST]]]:
    """Each statement in its order with what belongs to it: those within loops and conditions come one by one."""
    for node in body:
        within = [] if isinstance(node, ast.FunctionDef) else getattr(node, "body", []) + getattr(node, "orelse", [])
        inner = {part for child in within for part in ast.walk(child)}
        yield node, [part for part in ast.walk(node) if part not in inner]
        yield from statements(within)


def committed_claims(sources: list[str]) -> list[str]:
    """Asserts and claims that look at a name whose value comes, by whatever steps, from committed results."""
    tainted, claimed = set(COMMITTED), []
    for node, parts in statements([node for source in sources for node in ast.parse(source).body]):
        used = {part.id for part in parts if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Load)}
        used |= {part.attr for part in parts if isinstance(part, ast.Attribute)}
        if (isinstance(node, ast.Assert) or "claim" in used) and used & tainted:
            claimed.append(ast.unparse(node))
        stored = {part.id for part in parts if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store)}
        stored |= {node.name} if isinstance(node, ast.FunctionDef) else set()
        tainted = tainted | stored if used & tainted else tainted - stored
    return claimed


def test_a_claim_of_committed_results_is_seen_through_any_step():
    steps = ["import x\na = x.evidence_results()", "b = a[0]\nc = 1\nfor d in b:\n    e = d", "def f():\n    return b"]
    claims = [
        "assert c",
        "assert e > 1",
        "b = 3\nclaim('t', b > 2)",
        "if c:\n    claim('t', a > 2)",
        "g = f()\nassert g",
    ]
    assert committed_claims(steps + claims) == ["assert e > 1", "claim('t', a > 2)", "assert g"]


@in_chain
def test_its_claims_are_of_the_run_and_not_of_committed_results(path):
    """Those cannot fail with the run; tests of their own judge them."""
    sources = [re.sub(r"(?m)^(\s*)%.*$", r"\1pass", cell.source) for cell in code_cells(path)]
    assert committed_claims(sources) == []


@in_chain
def test_its_validation_cell_refuses_what_assl_run_refuses(path, tmp_path, monkeypatch):
    """Under plain papermill nothing else looks at the values."""
    declared = read_notebook(path).declared
    monkeypatch.setenv("ASSL_WORKSPACE", str(tmp_path / "runs" / "lab"))
    cells = [cell for cell in code_cells(path) if "subprocess" not in cell.source]
    last = next(i for i, cell in enumerate(cells) if "ws.parameters(" in cell.source)

    def validate(**injected):
        names = {}
        for cell in cells[: last + 1]:
            exec(compile(cell.source, path.name, "exec"), names)
            if "parameters" in cell.metadata.get("tags", []):
                names |= injected
        return names

    validate()
    numbers = [name for name, value in declared.items() if name in NAMES and type(value) in (int, float)]
    assert numbers
    for name in numbers:
        for wrong in ("much", -7):
            with pytest.raises(ParameterError, match=name):
                validate(**{name: wrong})
    with pytest.raises(ParameterError, match="unknown profile 'tinny'"):
        validate(profile="tinny")


def test_plain_papermill_ends_in_the_validation_cell(tmp_path, monkeypatch):
    import papermill

    monkeypatch.setenv("ASSL_WORKSPACE", str(tmp_path / "runs" / "lab"))
    (path,) = (path for path in CHAIN if path.stem == "05_mmr")
    with pytest.raises(papermill.PapermillExecutionError) as caught:
        papermill.execute_notebook(
            path, tmp_path / "out.ipynb", {"max_repeat": "two"}, progress_bar=False, kernel_name="python3"
        )
    assert caught.value.ename == "ParameterError"
    assert "max_repeat must be a whole number, got 'two'" in caught.value.evalue
