"""Small notebooks made by tests."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

import matplotlib.pyplot as plt
import nbformat

from assl_kit.errors import NotebookError

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


def last_text(path: Path) -> str:
    """What the cells printed of a notebook that `run_here` executed."""
    return nbformat.read(path, as_version=4).cells[-1].source


def run_here(monkeypatch) -> None:
    """Let runs execute the cells of their notebooks in this process: without kernels, which take seconds to start."""
    import assl_kit.runner.run as runner

    def execute(book, ws, values, kernel) -> None:
        printed = io.StringIO()
        shown: dict = {"display": lambda value: print(value, file=printed)}
        book_read = nbformat.read(book.path, as_version=4)
        try:
            with monkeypatch.context() as inside, contextlib.redirect_stdout(printed):
                inside.setenv("ASSL_WORKSPACE", str(ws.folder))
                inside.chdir(ws.folder)
                for cell in (cell for cell in book_read.cells if cell.cell_type == "code"):
                    exec(compile(cell.source, f"{book.name} {cell.get('id')}", "exec"), shown)
                    if "parameters" in cell.metadata.get("tags", []):
                        shown |= values
        except Exception as error:
            raise NotebookError(f"{type(error).__name__}: {error}", where=book.name) from error
        finally:
            plt.close("all")
            book_read.cells.append(nbformat.v4.new_markdown_cell(printed.getvalue()))
            target = ws.path_of(f"notebooks/{book.path.name}")
            target.parent.mkdir(exist_ok=True)
            nbformat.write(book_read, target)

    monkeypatch.setattr(runner, "execute", execute)
    monkeypatch.setattr(runner, "kernel_starter", lambda ws: contextlib.nullcontext(lambda number: None))
    monkeypatch.setattr(runner, "peak_of", lambda kernel: None)
