"""Small notebooks made by tests."""

from __future__ import annotations

from pathlib import Path

import nbformat

KERNELSPEC = {"name": "python3", "display_name": "Python 3", "language": "python"}


def write_notebook(path: Path, *cells: str, parameters: str = 'profile = "tiny"\nworkspace = ""') -> Path:
    """A notebook whose first cell is tagged ``parameters``; strings that start with '# ' are headings."""
    first = nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]})
    rest = [nbformat.v4.new_markdown_cell(c) if c.startswith("# ") else nbformat.v4.new_code_cell(c) for c in cells]
    metadata = {"kernelspec": KERNELSPEC, "language_info": {"name": "python"}}
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(nbformat.v4.new_notebook(cells=[first, *rest], metadata=metadata), path)
    return path


def texts(path: Path) -> str:
    """All that the notebook's cells printed."""
    cells = nbformat.read(path, as_version=4).cells
    return "".join(output.get("text", "") for cell in cells for output in cell.get("outputs", []))
