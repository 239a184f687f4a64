"""Names that people give: sorted with their numbers as numbers, kept apart from a table's totals, made a folder's."""

from __future__ import annotations

import re
import reprlib
import unicodedata
from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING, Any, TypeVar

from .files import sha256_of

if TYPE_CHECKING:
    import pandas as pd

#: What rows and columns of totals are called, in small letters; no task or group of a table is called so.
TOTALS = ("mean", "mean without smallest", "all", "total", "other")
LONGEST_NAME = 100
"""Characters of a run's name."""
MOST_BYTES = 200
"""Bytes of a run's name, so that a file system takes it."""
Frame = TypeVar("Frame", "pd.DataFrame", "pd.Series")
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 100
_ENDINGS = re.compile(r"(\.(jsonl|ndjson|json|parquet|csv|tsv|txt))?(\.(gz|zst))?$", re.IGNORECASE)


def by_number(name: Any) -> list[tuple[int, int, str]]:
    """A key that sorts names with their numbers as numbers.

    Examples
    --------
    >>> sorted(["expert-10", "expert-2", "expert-1", "base"], key=by_number)
    ['base', 'expert-1', 'expert-2', 'expert-10']
    """
    parts = re.split(r"([0-9]+)", str(name))
    return [(0, int(part), "") if at % 2 else (1, 0, part) for at, part in enumerate(parts) if part]


def apart_from_totals(names: pd.Series, kind: str = "task", *, totals: Collection[str] = TOTALS) -> pd.Series:
    """Names of which none is that of a total: "mean" becomes "mean (task)". What is no such name stays as it is.

    Parameters
    ----------
    names : Series of n str
    kind : str
        What the names are of, in one word.
    totals : collection of str
        What totals are called, in small letters; capitals make no difference.

    Returns
    -------
    Series of n str
        Different names stay different.

    Examples
    --------
    >>> import pandas as pd
    >>> apart_from_totals(pd.Series(["qa", "mean", "mean (task)"])).tolist()
    ['qa', 'mean (task) (task)', 'mean (task)']
    """
    taken = set(names.unique().tolist())
    changed: dict[str, str] = {}
    for name in [name for name in taken if str(name).casefold() in totals]:
        new = f"{name} ({kind})"
        while new in taken:
            new = f"{new} ({kind})"
        changed[name] = new
    return names.map(lambda name: changed.get(name, name)) if changed else names


def in_order(table: Frame) -> Frame:
    """A table, its rows sorted by their names as `by_number` sorts them.

    Examples
    --------
    >>> import pandas as pd
    >>> in_order(pd.Series([1, 2, 3], index=["10", "9", "b"])).tolist()
    [2, 1, 3]
    """
    return table.loc[sorted(table.index, key=by_number)]


def folder_name(text: str) -> str:
    """A text as a folder's name: letters of all scripts, digits, ``-``, ``_`` and ``.`` stay, the rest becomes ``-``.

    Examples
    --------
    >>> folder_name("情感 v1.2"), folder_name("../x/"), folder_name("!")
    ('情感-v1.2', 'x', '')
    """
    kept = "".join(char if _fits(char) else " " for char in unicodedata.normalize("NFC", text))
    return "-".join(kept.split()).strip("-.")


def data_name(data: str) -> str:
    """What a file, a folder or a hub's dataset is called, without the ending that tells its kind.

    Examples
    --------
    >>> data_name("/home/me/fin.v1.jsonl.gz"), data_name("owner/name"), data_name("my.data/")
    ('fin.v1', 'name', 'my.data')
    """
    name = re.split(r"[/\\]", data.rstrip("/\\"))[-1]
    return _ENDINGS.sub("", name) or name


def is_folder_name(name: str) -> bool:
    """Whether a run may be called so: it begins with a letter, a digit or ``_``, and is of what `folder_name` leaves.

    Examples
    --------
    >>> is_folder_name("情感"), is_folder_name("../x"), is_folder_name(".x"), is_folder_name("x" * 101)
    (True, False, False, False)
    """
    size = len(name.encode("utf-8", "surrogatepass"))
    short = len(name) <= LONGEST_NAME and size <= MOST_BYTES
    return bool(name) and name[0] not in "-." and all(map(_fits, name)) and short


def shortened(name: str) -> str:
    """A name no longer than `is_folder_name` takes: as it is, or its beginning and a hash of the whole.

    Examples
    --------
    >>> shortened("short"), len(shortened("长" * 100))
    ('short', 74)
    """
    encoded = name.encode("utf-8")
    if len(encoded) <= MOST_BYTES and len(name) <= LONGEST_NAME:
        return name
    beginning = encoded[: MOST_BYTES - 11].decode("utf-8", "ignore")[: LONGEST_NAME - 11]
    return f"{beginning}-{sha256_of(name)[:10]}"


def _fits(char: str) -> bool:
    """Letters, marks and numbers of all scripts, and the three signs."""
    return char in "-_." or unicodedata.category(char)[0] in "LMN"


def shown(value: Any) -> str:
    """A value as a message shows it: as Python writes it, and cut where it is long or deep.

    Examples
    --------
    >>> shown("abc"), shown("x" * 1000) == "'" + "x" * 47 + "..." + "x" * 48 + "'"
    ("'abc'", True)
    """
    return _SHORT.repr(value)


def first_unwritable(texts: Iterable[tuple[str, Any]]) -> str | None:
    """The name of the first text that is no text: bytes that are not UTF-8, as a command line may hold them.

    Examples
    --------
    >>> first_unwritable([("a", "是"), ("b", 1)]), first_unwritable([("a", "\\udcff")])
    (None, 'a')
    """
    for name, text in texts:
        if isinstance(text, str) and any("\ud800" <= char <= "\udfff" for char in text):
            return name
    return None
