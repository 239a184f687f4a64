"""The badges of a repository: one marked line in the README and in each notebook, and where Colab installs from."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import partial
from itertools import product
from pathlib import Path

from assl_kit.artifacts.workspace import project_root
from assl_kit.common.files import atomic_path
from assl_kit.errors import DataError, ParameterError, WorkspaceError

MARK = "<!-- badge -->"
_NAME = re.compile(r"[A-Za-z0-9](?:-?[A-Za-z0-9]){0,38}/(?!\.{1,2}$)[-._A-Za-z0-9]{1,100}")
_COLAB = "https://colab.research.google.com"
_INSTALLED = (  # in the numbered notebooks, and the form field of colab/run_all.ipynb
    (re.compile(r'"assl-kit(\[[a-z,-]+\])(?: @ git\+https://[^"]+)?"'), r'"assl-kit\1 @ git+https://github.com/{}"'),
    (re.compile(r'^package = "[^"]*"(?=  # @param)', re.MULTILINE), 'package = "git+https://github.com/{}"'),
)


def write_badges(repository: str) -> list[Path]:
    """Write the badges of a GitHub repository into both READMEs, and "Open in Colab" into every notebook.

    A notebook that is opened from the repository then installs the package from there, so that both are of one version.
    An earlier badge is replaced. Nothing else in a file changes, no output, no indentation. All files are read before
    the first one is written.

    Parameters
    ----------
    repository : str
        ``OWNER/REPO`` as GitHub spells it.

    Returns
    -------
    list of pathlib.Path
        The files that changed, relative to the checkout; none the second time.

    Raises
    ------
    ParameterError
        If that is no name of a repository.
    WorkspaceError
        If the current folder lies in no checkout of assl-kit.
    DataError
        If a notebook cannot be read, or is not written as Jupyter writes it.

    Examples
    --------
    >>> write_badges("https://github.com/owner/repo")
    Traceback (most recent call last):
    ...
    assl_kit.errors.ParameterError: 'https://github.com/owner/repo' is no name of a repository. Give OWNER/REPO, ...
    """
    if not _NAME.fullmatch(repository):
        raise ParameterError(f"{repository!r} is no name of a repository", hint="Give OWNER/REPO, as GitHub spells it.")
    root = project_root()
    if root is None:
        hint = "Run this in the folder that 'git clone' made: an installed package has no README to write to."
        raise WorkspaceError("this is no checkout of assl-kit", hint=hint)
    files = [*root.glob("README*.md"), *(root / "notebooks").rglob("*.ipynb"), *(root / "colab").rglob("*.ipynb")]
    changed = {}
    for path in sorted(path for path in files if ".ipynb_checkpoints" not in path.parts):
        content, place = path.read_bytes(), path.relative_to(root)
        old = content.decode("utf-8")
        if path.suffix == ".md":
            new = _with_line(old, readme_line(repository))
        else:
            new = _notebook(old, badge_line(repository, place.as_posix()), repository, place)
        if new != old:
            changed[place] = new.encode("utf-8")
    for place, content in changed.items():
        with atomic_path(root / place) as temporary:
            temporary.write_bytes(content)
    return list(changed)


def badge_line(repository: str, notebook: str) -> str:
    """The line for one notebook, marked at its end: a comment at its beginning would make all of it HTML.

    Examples
    --------
    >>> badge_line("owner/repo", "colab/run_all.ipynb").split("](")[2]
    'https://colab.research.google.com/github/owner/repo/blob/main/colab/run_all.ipynb) <!-- badge -->'
    """
    link = f"{_COLAB}/github/{repository}/blob/main/{notebook}"
    return f"[![Open in Colab]({_COLAB}/assets/colab-badge.svg)]({link}) {MARK}"


def readme_line(repository: str) -> str:
    """The README's line: Colab, Binder, and whether the tests of the main branch pass.

    Examples
    --------
    >>> readme_line("owner/repo").split("](")[-1]
    'https://github.com/owner/repo/actions/workflows/ci.yml) <!-- badge -->'
    """
    tests = f"https://github.com/{repository}/actions/workflows/ci.yml"
    binder = f"https://mybinder.org/v2/gh/{repository}/main?urlpath=lab/tree/notebooks/00_start_here.ipynb"
    colab = badge_line(repository, "colab/run_all.ipynb").removesuffix(MARK)
    return (
        f"{colab}[![Binder](https://mybinder.org/badge_logo.svg)]({binder}) [![ci]({tests}/badge.svg)]({tests}) {MARK}"
    )


def _with_line(text: str, line: str) -> str:
    """A Markdown text whose marked line is this one; a new one goes below the title."""
    end = "\r\n" if "\r\n" in text else "\n"
    lines = text.split(end)
    for number, old in enumerate(lines):
        if old.endswith(MARK):
            return end.join([*lines[:number], line, *lines[number + 1 :]])
    return end.join([lines[0], "", line, *lines[1:]])


def _notebook(text: str, line: str, repository: str, place: Path) -> str:
    """A notebook's text with the line in its first cell and the repository as what it installs; else the same bytes."""
    try:
        book = json.loads(text)
        cell = next(cell for cell in book["cells"] if cell["cell_type"] == "markdown")
        source = "".join(cell["source"])
    except (ValueError, KeyError, TypeError, StopIteration) as error:
        raise DataError("the file is not a notebook with a Markdown cell", where=place.as_posix()) from error
    write = _writer(book, text)
    if write is None:
        hint = "Open and save it once in JupyterLab."
        raise DataError("the notebook is not written as Jupyter writes it", where=place.as_posix(), hint=hint)
    _put(cell, _with_line(source, line))
    for cell in book["cells"]:
        old = source = "".join(cell["source"])
        for pattern, installed in _INSTALLED if cell["cell_type"] == "code" else ():
            source = pattern.sub(installed.format(repository), source)
        if source != old:
            _put(cell, source)
    return write(book)


def _put(cell: dict, source: str) -> None:
    """Give a cell its source in the form that it had: lines, or one string."""
    cell["source"] = source.splitlines(keepends=True) if isinstance(cell["source"], list) else source


def _writer(book: dict, text: str) -> Callable[[dict], str] | None:
    """The way of writing JSON that gives this text of this notebook, or None."""
    for indent, ascii_only in product((1, 2, 4, None), (False, True)):
        write = partial(_dump, indent=indent, ascii_only=ascii_only, like=text)
        if write(book) == text:
            return write
    return None


def _dump(book: dict, *, indent: int | None, ascii_only: bool, like: str) -> str:
    """A notebook as JSON, with the line ends and the last line of another text."""
    written = json.dumps(book, indent=indent, ensure_ascii=ascii_only)
    return (written.replace("\n", "\r\n") if "\r\n" in like else written) + like[len(like.rstrip()) :]
