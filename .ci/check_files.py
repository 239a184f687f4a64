"""What a commit may hold: no large files, and notebooks in the form in which they are kept.

    python .ci/check_files.py FILE...

The numbered notebooks, in both languages, are stored with the outputs of one clean run, cells counted 1 to n;
exercises, solutions and the Colab notebook without any. pre-commit calls this script on what is committed, the tests
on every notebook.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

LARGEST = 1_000_000
"""Bytes of a file."""
KNOWN_LARGE = ("assl_kit/model/tiny_base/model.safetensors", "benchmarks/results/evidence.json")


def size_problems(path: Path) -> list[str]:
    """Whether a file is too large for the repository.

    Examples
    --------
    >>> size_problems(Path(__file__))
    []
    """
    size = path.stat().st_size
    if size <= LARGEST or path.as_posix().endswith(KNOWN_LARGE):
        return []
    return [f"{size:,} bytes, and at most {LARGEST:,} are kept"]


def notebook_problems(path: Path) -> list[str]:
    """What is wrong with the form of a notebook.

    Examples
    --------
    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp()) / "notebooks" / "01_data.ipynb"
    >>> file.parent.mkdir()
    >>> cell = {"cell_type": "code", "source": "1", "execution_count": 2, "outputs": [], "metadata": {}}
    >>> book = {"cells": [cell], "metadata": {"kernelspec": {"name": "python3"}}}
    >>> _ = file.write_text(json.dumps(book), encoding="utf-8")
    >>> notebook_problems(file)
    ['cells are counted [2], not 1 to 1: run all of them in order in a new kernel']
    """
    try:
        book = json.loads(path.read_text(encoding="utf-8"))
        code = [cell for cell in book["cells"] if cell["cell_type"] == "code"]
        outputs = [output for cell in code for output in cell["outputs"]]
        counts = [cell["execution_count"] for cell in code if "".join(cell["source"]).strip()]
        kernel = book["metadata"].get("kernelspec", {}).get("name")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return [f"it is not a notebook: {error!r}"]
    problems = []
    if kernel != "python3":
        problems.append(f"its kernel is {kernel!r}, not 'python3', which every machine has")
    if "widgets" in book["metadata"] or any("widget" in kind for output in outputs for kind in output.get("data", {})):
        problems.append("it holds the state of widgets, which GitHub cannot show")
    if _is_kept_with_outputs(path):
        if counts != list(range(1, len(counts) + 1)):
            problems.append(
                f"cells are counted {counts}, not 1 to {len(counts)}: run all of them in order in a new kernel"
            )
        problems += [f"a cell failed or warned: {text[:200]!r}" for text in map(_alarm, outputs) if text]
    elif outputs or any(counts):
        problems.append("it is kept without outputs: clear them")
    return problems


def _is_kept_with_outputs(path: Path) -> bool:
    return re.match(r"\d\d_", path.name) is not None and path.resolve().parent.name in ("notebooks", "chinese")


def _alarm(output: dict[str, Any]) -> str:
    """What an output tells of an error or on stderr; nothing for any other."""
    if output["output_type"] == "error":
        return f"{output.get('ename')}: {output.get('evalue')}"
    return "".join(output["text"]) if output.get("name") == "stderr" else ""


def main(names: list[str]) -> int:
    """Print what is wrong with some files; return the exit code."""
    failed = False
    for path in map(Path, names):
        problems = size_problems(path) + (notebook_problems(path) if path.suffix == ".ipynb" else [])
        failed = failed or bool(problems)
        for problem in problems:
            print(f"{path}: {problem}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
