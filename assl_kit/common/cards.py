"""Cards of the hub: a README.md whose head in YAML a program reads and whose tables a person does."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

_SPECIAL = re.compile(r"[\\`*\[\]<>|#~$]|(?<!\w)_|_(?!\w)")  # an underscore within a word is no markup


def front_matter(values: Mapping[str, Any]) -> str:
    """The head of a card: YAML between two lines of dashes; what is None or empty is left out.

    Examples
    --------
    >>> print(front_matter({"license": "mit", "tags": ["a"], "language": None}), end="")
    ---
    license: mit
    tags:
    - a
    ---
    """
    import yaml

    kept = {name: value for name, value in values.items() if value not in (None, "", [], {})}
    return f"---\n{yaml.safe_dump(kept, allow_unicode=True, sort_keys=False, width=1000)}---\n"


def as_text(value: Any) -> str:
    """A value of somebody else's as plain text of Markdown, on one line: nothing in it is markup.

    Examples
    --------
    >>> as_text("a|b\\n<i>")
    'a\\\\|b \\\\<i\\\\>'
    """
    line = "".join(char if char.isprintable() else " " for char in str(value))
    return _SPECIAL.sub(r"\\\g<0>", " ".join(line.split()))


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A table of Markdown; a row's cells are texts or whole numbers, which are set to the right.

    Examples
    --------
    >>> print(table(["task", "n"], [["qa", 1200]]))
    | task | n |
    |---|---:|
    | qa | 1,200 |
    """
    rows = [list(row) for row in rows]
    counts = [bool(rows) and all(_is_count(row[place]) for row in rows) for place in range(len(columns))]
    lines = [[as_text(name) for name in columns]]
    lines += [[f"{cell:,}" if _is_count(cell) else as_text(cell) for cell in row] for row in rows]
    text = ["| " + " | ".join(line) + " |" for line in lines]
    return "\n".join([text[0], "|" + "|".join("---:" if right else "---" for right in counts) + "|", *text[1:]])


def _is_count(cell: Any) -> bool:
    return isinstance(cell, int) and not isinstance(cell, bool)
