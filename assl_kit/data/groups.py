"""Groups: what a budget is divided among first. The task where it is known, else the next best thing that is."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from assl_kit.common.names import TOTALS, apart_from_totals
from assl_kit.errors import DataError, ParameterError

GROUPINGS = ("auto", "task", "source", "instruction", "cluster")
MISSING = ""  #: the group of records whose label is missing
NO_GROUP = "(none)"  #: what tables call it
UNKNOWN = "unknown"  #: what `validate_records` fills in where no record has a task
FEW = 200  #: instructions are few when there are at most so many
LEAST = {"task": 2, "source": 2, "instruction": 10}  #: records of each, on average, without which they divide nothing


def assign_groups(records: pd.DataFrame, clusters: ArrayLike | None = None, *, by: str = "auto") -> pd.Series:
    """The group of each record, for `assl_kit.Redistributor`: its task, source, instruction or cluster.

    ``"auto"`` takes the first of these that there are several of: tasks; sources; instructions, if they are few (at
    most 200, and 10 records of each on average); clusters. Where nearly every record has a task of its own (fewer than
    two records each on average), tasks say nothing; sources likewise.

    Parameters
    ----------
    records : DataFrame of n rows
        With those of the columns ``task``, ``source`` and ``instruction`` that there are.
    clusters : array-like of shape (n,), optional
        The cluster of each record; without them records that nothing divides are one group.
    by : {"auto", "task", "source", "instruction", "cluster"}, default="auto"

    Returns
    -------
    Series of n str
        Its name says what was taken. Records whose label is missing, empty or "unknown" are a group of their own,
        named "". One called as totals are in tables ("mean", "all") is named "mean (task)".

    Raises
    ------
    ParameterError
        If ``by`` is unknown, names a column that is not there, or asks for clusters that are not given.
    DataError
        If there is not one cluster for each record.

    Notes
    -----
    Ours. Clusters of a semantic space are not tasks: a large task fills several, small ones share one, and budgets by
    cluster starve those. `docs/selection.md` has the measurements.

    Examples
    --------
    >>> records = pd.DataFrame({"task": ["qa", "qa", None, "news", "news"], "source": ["a", "a", "b", "b", "b"]})
    >>> groups = assign_groups(records)
    >>> groups.name, groups.tolist()
    ('task', ['qa', 'qa', '', 'news', 'news'])
    >>> assign_groups(records.assign(task="qa")).name
    'source'
    """
    if by not in GROUPINGS:
        raise ParameterError(f"unknown grouping {by!r}", hint=f"Use one of {', '.join(GROUPINGS)}.")
    n = len(records)
    if clusters is not None and np.shape(clusters) != (n,):
        raise DataError(f"cluster labels have shape {np.shape(clusters)}, but there are {n} records")
    if by in ("task", "source", "instruction"):
        if by not in records:
            raise ParameterError(f"the records have no column {by!r} to group by", hint="Use by='auto'.")
        return _labels(records[by], by)
    if by == "auto":
        for name in ("task", "source", "instruction"):
            if name in records and _divides(labels := _labels(records[name], name), name):
                return labels
    if clusters is None:
        if by == "cluster":
            raise ParameterError("by='cluster' needs clusters", hint="Give the cluster of each record.")
        return pd.Series("all", index=records.index, name="all", dtype=object)
    return pd.Series(np.asarray(clusters), index=records.index, name="cluster").astype(str).astype(object)


def with_groups(records: pd.DataFrame, *, by: str = "auto") -> pd.DataFrame:
    """Records with their groups in the column ``group``, for the referee; those without a label are "(none)".

    Test records have no clusters: "cluster" is taken for "auto", and records that nothing else divides are one group.

    Parameters
    ----------
    records : DataFrame of n rows
    by : str
        As in `assign_groups`.

    Returns
    -------
    DataFrame of n rows

    Examples
    --------
    >>> with_groups(pd.DataFrame({"task": ["qa", "qa", None, "news", "news"]}))["group"].tolist()
    ['qa', 'qa', '(none)', 'news', 'news']
    """
    groups = assign_groups(records, by="auto" if by == "cluster" else by)
    return records.assign(group=groups.where(groups != MISSING, NO_GROUP).to_numpy())


def _labels(column: pd.Series, kind: str) -> pd.Series:
    labels = column.astype(object).where(column.notna(), MISSING).astype(str).str.strip()
    labels = labels.mask(labels == UNKNOWN, MISSING).astype(object)
    return apart_from_totals(labels, kind, totals=(*TOTALS, NO_GROUP))


def _divides(labels: pd.Series, name: str) -> bool:
    known = labels[labels != MISSING]
    count = known.nunique()
    return count > 1 and len(known) >= LEAST[name] * count and (name != "instruction" or count <= FEW)
