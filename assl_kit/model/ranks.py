"""Model scores on one scale: ranks among records that are alike, the hardest left out."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from assl_kit.common.checks import real
from assl_kit.errors import DataError


def rank_within(values: ArrayLike, *keys: ArrayLike, tail: float = 0.0) -> np.ndarray:
    """Ranks in [0, 1] among the records that share every key; NaN for the hardest, and for those that have no score.

    Parameters
    ----------
    values : array-like of shape (n,)
        Model scores; NaN where a record is to be left out.
    *keys : array-likes of shape (n,)
        Usually the cluster, the group and the answer: without them a hard task, or a rare answer, fills the top.
    tail : float, default=0
        Share in [0, 1) of the greatest values, of each set of keys alike, that become NaN: wrong labels gather there.

    Returns
    -------
    ndarray of shape (n,), float64
        The greatest value that is left gets 1, the smallest 0, equal ones the average; a lone record 0.5.

    Raises
    ------
    DataError
        If the lengths differ or a value is infinite.
    ParameterError
        If ``tail`` is out of range.

    Examples
    --------
    >>> rank_within([3, 1, 2, 9, np.nan], ["a", "a", "a", "b", "b"]).tolist()
    [1.0, 0.0, 0.5, 0.5, nan]
    >>> rank_within([3, 1, 2, 9], tail=0.25).tolist()
    [1.0, 0.0, 0.5, nan]
    """
    values = np.asarray(values, dtype=np.float64)
    real("tail", tail, 0, 1, inside="most")
    if values.ndim != 1 or any(np.shape(key) != values.shape for key in keys):
        raise DataError(f"values of shape {values.shape} and keys of other shapes do not go together")
    if np.isinf(values).any():
        raise DataError("a model score is infinite", where=f"row {int(np.flatnonzero(np.isinf(values))[0])}")
    by = [np.asarray(key, dtype=object) for key in keys] or [np.zeros(len(values), np.int64)]
    series = pd.Series(values)
    if tail:
        among = series.groupby(by, dropna=False)
        place, count = among.rank(method="max").to_numpy(), among.transform("count").to_numpy()
        series = series.mask(place > count - np.floor(tail * count + 1e-9))
    among = series.groupby(by, dropna=False)
    ranks, count = among.rank(method="average").to_numpy() - 1, among.transform("count").to_numpy()
    return np.where(np.isnan(ranks), np.nan, np.where(count > 1, ranks / np.maximum(count - 1, 1), 0.5))
