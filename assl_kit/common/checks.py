"""Checks of plain values, each with one message for all who ask for such a value."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any, Literal

from assl_kit.errors import DataError, ParameterError


def whole(name: str, value: Any, least: float = 0, most: float = math.inf, *, hint: str | None = None) -> int:
    """A whole number between two bounds, both included.

    Parameters
    ----------
    name : str
        What the number is called where it was given.
    value : int or numpy integer
        ``True`` and ``2.0`` are none.
    least, most : int
        Bounds; infinity: none.
    hint : str, optional
        What else to say to who gave it.

    Returns
    -------
    int

    Raises
    ------
    ParameterError
        If it is no whole number, or lies outside.

    Examples
    --------
    >>> whole("n_clusters", 6, 1)
    6
    >>> whole("n_clusters", 0, 1)
    Traceback (most recent call last):
    ...
    assl_kit.errors.ParameterError: n_clusters must be a whole number of at least 1, not 0
    """
    if isinstance(value, bool) or not isinstance(value, Integral) or not least <= int(value) <= most:
        if most < math.inf:
            bounds = f" from {least} to {most}"
        else:
            bounds = "" if least == -math.inf else f" of at least {least}"
        raise ParameterError(f"{name} must be a whole number{bounds}, not {value!r}", hint=hint)
    return int(value)


def positive(**numbers: Any) -> None:
    """Each a whole number of at least 1, or a ``ParameterError`` that names the one which is not.

    Examples
    --------
    >>> positive(batch_size=8, max_length=512)
    """
    for name, value in numbers.items():
        whole(name, value, 1)


def real(
    name: str,
    value: Any,
    least: float = -math.inf,
    most: float = math.inf,
    *,
    inside: bool | Literal["least", "most"] = False,
) -> float:
    """A finite number between two bounds.

    Parameters
    ----------
    name : str
        What the number is called where it was given.
    value : float or int
    least, most : float
        Bounds.
    inside : bool, "least" or "most"
        The bounds themselves are excluded, or this one of them.

    Returns
    -------
    float

    Raises
    ------
    ParameterError
        If it is no finite number, or lies outside.

    Examples
    --------
    >>> real("flattening", 0.5, 0, 1)
    0.5
    >>> real("test_share", 1, 0, 1, inside=True)
    Traceback (most recent call last):
    ...
    assl_kit.errors.ParameterError: test_share must be a number between 0 and 1, both excluded, not 1
    """
    above, below = inside in (True, "least"), inside in (True, "most")
    fits = isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
    fits = fits and (value > least if above else value >= least) and (value < most if below else value <= most)
    if not fits:
        raise ParameterError(f"{name} must be a number{_bounds(least, most, above, below)}, not {value!r}")
    return float(value)


def _bounds(least: float, most: float, above: bool, below: bool) -> str:
    """The bounds of a number in words; ``above`` and ``below``: the bound itself is excluded."""
    if most < math.inf:
        excluded = ", both excluded" if above and below else f", {least if above else most} excluded"
        return f" between {least} and {most}" + (excluded if above or below else "")
    if least == -math.inf:
        return ""
    return f" greater than {least}" if above else f" of at least {least}"


def as_texts(values: Sequence[str], name: str = "texts") -> list[str]:
    """A list of strings.

    Raises
    ------
    DataError
        If it is one string, or a value in it is no string; names the row.

    Examples
    --------
    >>> as_texts(["判断情绪。", 3], "prompts")
    Traceback (most recent call last):
    ...
    assl_kit.errors.DataError: prompts must be strings, not int (row 1)
    """
    if isinstance(values, str):
        raise DataError(f"{name} must be a sequence of strings, not one string")
    values = list(values)
    for row, value in enumerate(values):
        if not isinstance(value, str):
            raise DataError(f"{name} must be strings, not {type(value).__name__}", where=f"row {row}")
    return values
