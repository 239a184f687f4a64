"""Values of columns that nobody has checked: brought to one type, so that they can be written to Parquet."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd


def is_missing(value: Any) -> bool:
    """Whether a value is what JSON, pandas or NumPy write where there is none.

    Examples
    --------
    >>> is_missing(None), is_missing(float("nan")), is_missing("")
    (True, True, False)
    """
    return value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value))


def tidy(values: list) -> list:
    """An extra column of one type, so that it can be written to Parquet.

    Mixed types become text, as do whole numbers that no 64 bits hold, or that would lose digits because some records
    have none. Half a surrogate pair, which is no character, is written as its escape.

    Examples
    --------
    >>> tidy([1, None, "a"]), tidy([12345678901234567890123, 1]), tidy(["\\ud83d"])
    (['1', None, 'a'], ['12345678901234567890123', '1'], ['\\\\ud83d'])
    """
    kinds = {type(value) for value in values if not is_missing(value)}
    if kinds == {str}:
        return values if all(map(_is_unicode, values)) else [printable(value) for value in values]
    if kinds <= {int, float} and not _loses_digits(values, kinds):
        return values
    if len(kinds) <= 1 and int not in kinds:
        return values
    return [None if is_missing(value) else printable(str(value)) for value in values]


def _loses_digits(values: list, kinds: set[type]) -> bool:
    if int not in kinds:
        return False
    whole = [value for value in values if type(value) is int]
    bits = 63 if len(whole) == len(values) else 53
    return max(whole) >= 1 << bits or min(whole) < -(1 << bits)


def _is_unicode(value: Any) -> bool:
    try:
        return value is None or value.isascii() or bool(value.encode("utf-8"))
    except (UnicodeEncodeError, AttributeError):
        return False


def printable(value: Any) -> Any:
    """A text with its half surrogate pairs as escapes; anything else as it is.

    Examples
    --------
    >>> printable("x\\ud83d")
    'x\\\\ud83d'
    """
    return value.encode("utf-8", "backslashreplace").decode("utf-8") if isinstance(value, str) else value
