"""Who speaks in the embedded corpus: the house of each source."""

from __future__ import annotations

from functools import cache

import pandas as pd

from assl_kit.data.synthetic import TASKS
from assl_kit.data.task_grammars import grammar_data


@cache
def _of_source() -> dict[str, str]:
    return {source: entry["house"] for task in TASKS for source, entry in grammar_data(task)["sources"].items()}


def houses(records: pd.DataFrame) -> pd.Series | None:
    """The house of each record.

    Parameters
    ----------
    records : DataFrame of n rows
        With the column ``source``.

    Returns
    -------
    Series of n str, with the index of ``records``, or None
        None where a source is not one of the embedded corpus: nobody knows the houses of your own data.

    Examples
    --------
    >>> houses(pd.DataFrame({"source": ["risk_monitor_feed", "newswire_desk"]})).tolist()
    ['risk', 'newsroom']
    >>> houses(pd.DataFrame({"source": ["elsewhere"]})) is None
    True

    References
    ----------
    Ours.
    """
    house = records["source"].map(_of_source())
    return None if house.isna().any() else house
