"""Ids of rows: sortable names that settle every tie, so that no result depends on the order of the rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from assl_kit.errors import DataError


def id_order(ids: ArrayLike | None, n: int, unique: bool = False) -> np.ndarray:
    """Row numbers by ascending id.

    Parameters
    ----------
    ids : array-like of shape (n,), or None
        Sortable: all strings or all numbers. None stands for the row numbers.
    n : int
        How many rows there are.
    unique : bool, default=False
        Also refuse an id that occurs twice.

    Returns
    -------
    ndarray of shape (n,), int64
        Rows of equal id are in the order of their numbers.

    Raises
    ------
    DataError
        If there is not one id for each row, an id is missing (NaN, None) or does not compare with the others, or, with
        ``unique=True``, one occurs twice. The message names the row.

    Notes
    -----
    Ours.

    Examples
    --------
    >>> id_order(["b", "c", "a"], 3).tolist()
    [2, 0, 1]
    >>> id_order(["b", "a", "b"], 3, unique=True)
    Traceback (most recent call last):
    ...
    assl_kit.errors.DataError: the id 'b' occurs twice (row 2). Give unique ids.
    """
    if ids is None:
        return np.arange(n)
    values = _as_array(ids)
    if values.shape != (n,):
        raise DataError(f"ids have shape {values.shape}, but there are {n} rows", hint="Give one id for each row.")
    missing = np.flatnonzero(pd.isna(values))
    if len(missing):
        raise DataError("an id is missing", where=f"row {missing[0]}", hint="Give each row an id.")
    try:
        order = np.argsort(values, kind="stable")
    except TypeError:
        raise _mixed(values) from None
    if unique:
        same = np.flatnonzero(values[order[1:]] == values[order[:-1]])
        if len(same):
            row = order[same[0] + 1]
            raise DataError(f"the id {_shown(values[row])} occurs twice", where=f"row {row}", hint="Give unique ids.")
    return order


def _as_array(ids: ArrayLike) -> np.ndarray:
    """The ids as an array; a list that mixes strings and numbers stays a mix and is refused later."""
    values = np.asarray(ids)
    if values.dtype.kind in "US" and not isinstance(ids, np.ndarray):
        objects = np.asarray(ids, dtype=object)
        if objects.shape == values.shape and not all(isinstance(value, str | bytes) for value in objects.ravel()):
            return objects
    return values


def _mixed(values: np.ndarray) -> DataError:
    """The error for ids without an order; names the first row whose id does not compare with row 0's."""
    for row, value in enumerate(values):
        try:
            value < values[0]  # noqa: B015
        except TypeError:
            what = f"ids cannot be sorted: {_shown(value)} and {_shown(values[0])} have no order"
            return DataError(what, where=f"row {row}", hint="Give ids of one type, all strings or all numbers.")
    return DataError("ids cannot be sorted", hint="Give ids of one type, all strings or all numbers.")


def _shown(value: Any) -> str:
    return repr(value.item() if isinstance(value, np.generic) else value)
