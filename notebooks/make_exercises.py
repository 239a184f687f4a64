"""Make the exercises from the solutions: ``python notebooks/make_exercises.py``.

A solution is a notebook in ``solutions/`` whose answers stand between two marks::

    # solution begin: a hint
    return rows / lengths
    # solution end

In ``exercises/`` the lines between them, marks included, are replaced by the hint and ``...``; there are no outputs.
Exercises are never edited by hand: a test compares them with what this script makes.
"""

from __future__ import annotations

import re
from pathlib import Path

import nbformat

FOLDER = Path(__file__).resolve().parent
_BEGIN, _END = re.compile(r"( *)# solution begin: (\S.*)"), re.compile(r" *# solution end")


def without_answers(source: str) -> str:
    """A code cell without what stands between the marks.

    Examples
    --------
    >>> print(without_answers("def one():\\n    # solution begin: count\\n    return 1\\n    # solution end"))
    def one():
        # Hint: count
        ...
    """
    lines, inside = [], False
    for line in source.split("\n"):
        if begin := _BEGIN.fullmatch(line):
            if inside:
                raise ValueError(f"a solution begins inside another one: {line!r}")
            inside = True
            lines += [f"{begin[1]}# Hint: {begin[2]}", f"{begin[1]}..."]
        elif _END.fullmatch(line):
            if not inside:
                raise ValueError("a solution ends that did not begin")
            inside = False
        elif "# solution" in line:
            raise ValueError(f"not a mark: {line!r}; write '# solution begin: a hint' or '# solution end'")
        elif not inside:
            lines.append(line)
    if inside:
        raise ValueError("a solution does not end")
    return "\n".join(lines)


def exercise(solution: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """The exercise of a solution: the same cells without answers and outputs."""
    cells = []
    for cell in solution.cells:
        if cell.cell_type == "code":
            made = nbformat.v4.new_code_cell(without_answers(cell.source), id=cell.id)
        else:
            source = cell.source.replace("/notebooks/solutions/", "/notebooks/exercises/")  # in the badge's link
            source = source.replace(" · Solutions\n", " · Exercises\n", 1)
            made = nbformat.v4.new_markdown_cell(source, id=cell.id)
        cells.append(made)
    metadata = {key: solution.metadata[key] for key in ("kernelspec", "language_info")}
    return nbformat.v4.new_notebook(cells=cells, metadata=metadata)


def main() -> None:
    for path in sorted((FOLDER / "solutions").glob("*.ipynb")):
        made = exercise(nbformat.read(path, as_version=4))
        target = FOLDER / "exercises" / path.name
        target.parent.mkdir(exist_ok=True)
        target.write_text(nbformat.writes(made) + "\n", encoding="utf-8", newline="\n")
        print(f"exercises/{path.name}")


if __name__ == "__main__":
    main()
