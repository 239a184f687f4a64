"""Exercises: how a check asks a learner's function, and tells in words what is wrong instead of raising.

The checks themselves are in `exercises_space` (notebooks 01 to 05) and `exercises_experts` (06 to 09). Those of the
open exercises take any defensible answer: `lessons.exercises_open`.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from functools import wraps
from numbers import Integral, Real
from typing import Any

import numpy as np

UNANSWERED = "Not answered yet: put your code in place of the `...` above, return the result, and run both cells again."


class Wrong(Exception):
    """An answer is wrong; the message says what is wrong, for the learner, without a final stop."""


class Unanswered(Exception):
    """There is no answer: the function still returns nothing."""


def check(function: Callable[..., str]) -> Callable[..., None]:
    """Make a check: what the function returns is printed as praise, `Wrong` and `Unanswered` as what is to be done.

    Parameters
    ----------
    function : callable
        Takes the learner's function and data; returns a sentence, or raises.

    Returns
    -------
    callable
        Takes the same, prints one line, returns None and never raises for an answer.

    Examples
    --------
    >>> @check
    ... def check_double(function, x):
    ...     if number(ask(function, x)) != 2 * x:
    ...         raise Wrong(f"twice {x} is not that")
    ...     return "that is twice as much"
    >>> check_double(lambda x: x + x, 3)
    Right: that is twice as much.
    >>> check_double(lambda x: x * x, 3)
    Not right yet: twice 3 is not that.
    >>> check_double(lambda x: ..., 3)
    Not answered yet: put your code in place of the `...` above, return the result, and run both cells again.
    """

    @wraps(function)
    def checked(*arguments: Any) -> None:
        try:
            print(f"Right: {function(*arguments)}.")
        except Unanswered:
            print(UNANSWERED)
        except Wrong as wrong:
            print(f"Not right yet: {wrong}.")

    return checked


def ask(function: Any, *arguments: Any) -> Any:
    """What the learner's function says to copies of some data.

    Parameters
    ----------
    function : callable
        The learner's.
    *arguments

    Returns
    -------
    Any but None and ``...``

    Raises
    ------
    Unanswered
        It says nothing.
    Wrong
        It is no function, or it raises.

    Examples
    --------
    >>> ask(len, [1, 2])
    2
    """
    if function is None or function is ...:
        raise Unanswered
    if not callable(function):
        raise Wrong("give the function itself to the check, without calling it")
    try:
        answer = function(*copy.deepcopy(arguments))
    except Exception as error:  # whatever a learner's code may raise
        raise Wrong(f"your function stops with {type(error).__name__}: {error}") from None
    if answer is None or answer is ...:
        raise Unanswered
    return answer


def numbers(answer: Any, shape: tuple[int, ...], what: str = "your result") -> np.ndarray:
    """An answer as finite numbers of a shape, float64.

    Examples
    --------
    >>> numbers([1, 2], (2,)).tolist()
    [1.0, 2.0]
    """
    try:
        array = np.asarray(answer, dtype=float)
    except (TypeError, ValueError):
        raise Wrong(f"{what} is not an array of numbers") from None
    if array.shape != shape:
        raise Wrong(f"{what} has shape {array.shape}, it should have shape {shape}")
    if not np.isfinite(array).all():
        place = np.argwhere(~np.isfinite(array))[0].tolist()
        raise Wrong(f"{what} has a value that is not finite, at {place}")
    return array


def number(answer: Any, what: str = "your result") -> float:
    """An answer as one finite number.

    Examples
    --------
    >>> number(np.float32(0.5))
    0.5
    """
    if hasattr(answer, "item") and getattr(answer, "size", 1) == 1:
        answer = answer.item()
    if isinstance(answer, bool) or not isinstance(answer, Real) or not math.isfinite(answer):
        raise Wrong(f"{what} is {answer!r}, it should be one number")
    return float(answer)


def rows(answer: Any, n: int, what: str = "your result") -> list[int]:
    """An answer as row numbers from 0 to n − 1.

    Examples
    --------
    >>> rows(np.array([2, 0]), 3)
    [2, 0]
    """
    try:
        values = [value.item() if hasattr(value, "item") else value for value in answer]
    except (TypeError, ValueError):
        raise Wrong(f"{what} is {answer!r}, it should be a list of row numbers") from None
    for value in values:
        if isinstance(value, bool) or not isinstance(value, Integral) or not 0 <= int(value) < n:
            raise Wrong(f"{what} holds {value!r}, but rows are whole numbers from 0 to {n - 1}")
    return values
