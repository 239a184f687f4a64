"""What the command line prints: tables for people, JSON for programs, one message for what is wrong."""

from __future__ import annotations

import errno
import json
import math
import os
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd
    from rich.text import Text

_ELSEWHERE = "Set ASSL_RUNS to a folder that can be written."
_HINTS = {
    errno.ENOSPC: "Free some room, or set ASSL_RUNS to another disk.",
    errno.EDQUOT: "Free some room, or set ASSL_RUNS to another disk.",
    errno.EACCES: "Ask for permission. " + _ELSEWHERE,
    errno.EPERM: "Ask for permission. " + _ELSEWHERE,
    errno.EROFS: _ELSEWHERE,
    errno.ENAMETOOLONG: "Give a shorter --name, or set ASSL_RUNS to a folder nearer to the root.",
    errno.ELOOP: "Its links lead round in a circle: put them right.",
    errno.EMFILE: "Close some files, or raise the limit: ulimit -n 4096.",
    errno.ENFILE: "Close some programs: the machine has too many files open.",
}


def print_table(columns: Iterable, rows: Iterable[Iterable]) -> None:
    """Print a table on stdout; wide where there is no screen."""
    from rich.console import Console
    from rich.table import Table

    from assl_kit.runner.page import show

    table = Table()
    for column in columns:
        table.add_column(_text(column))
    for row in rows:
        table.add_row(*(_text(show(value)) for value in row))
    console = Console()
    if not console.is_terminal:  # a log file has no width
        console.width = 200
    console.print(table)


def _text(value: Any) -> Text:
    """A cell as it is: without rich's markup, and without control characters that would command the terminal."""
    from rich.text import Text

    return Text("".join(char if char.isprintable() else " " for char in str(value)))


def print_frame(frame: pd.DataFrame | None) -> None:
    """Print a DataFrame as a table; nothing for None or an empty one."""
    if frame is not None and not frame.empty:
        print_table(frame.columns, frame.itertuples(index=False))


def print_json(value: Any) -> None:
    """Print one JSON value on stdout."""
    print(json.dumps(plain(value), ensure_ascii=False, indent=2))


def plain(value: Any) -> Any:
    """A value as JSON can hold it: tables as lists of objects, arrays as lists, what is not finite as null.

    Examples
    --------
    >>> import numpy as np
    >>> import pandas as pd
    >>> plain({"a": pd.DataFrame({"x": [1.5, float("nan")]}), "b": np.int64(3), "c": Path("d") / "e"})
    {'a': [{'x': 1.5}, {'x': None}], 'b': 3, 'c': 'd/e'}
    """
    import numpy as np
    import pandas as pd

    if isinstance(value, pd.DataFrame):
        return [plain(row) for row in value.to_dict("records")]
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist())
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, Path):
        return value.as_posix()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def system_message(error: OSError) -> str:
    """What the operating system refuses, where, and what can be done, in one line.

    Examples
    --------
    >>> system_message(OSError(errno.ENOSPC, "No space left on device", "runs/tiny/a.json"))
    'the system refuses: No space left on device (runs/tiny/a.json). Free some room, or set ASSL_RUNS to another disk.'
    """
    path = error.filename2 if error.filename2 is not None else error.filename
    where = ""
    if isinstance(path, str | bytes | os.PathLike):
        meant = re.sub(r"\.([^/\\]+)\.pid\d+\.\w{8}([/\\]\1)?$", r"\1", os.fsdecode(path))  # of `atomic_path`
        where = f" ({from_here(Path(meant))})"
    hint = _HINTS.get(error.errno or 0, "Look at the place that is named.")
    return f"the system refuses: {error.strerror or error or type(error).__name__}{where}. {hint}"


def complain(error: Exception, code: int) -> int:
    """Print an error a user can act on, without a traceback; give the exit code back."""
    print(f"assl: {error}", file=sys.stderr)
    return code


def from_here(path: Path) -> str:
    """A path one can click on: relative if it lies below the current folder."""
    here = os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)
    return Path(here).as_posix()
