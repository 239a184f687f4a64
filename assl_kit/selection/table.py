"""What the two stages chose, and why: the table, its summary by cluster, and counts by source or task."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from assl_kit.errors import DataError, ParameterError

POOL_COLUMNS = ("row", "id", "cluster", "group", "label", "core_distance", "radius", "weight")
TABLE_COLUMNS = (*POOL_COLUMNS, "relevance", "score", "max_similarity", "rank", "copies")
_TYPES: dict[str, type] = dict.fromkeys(("row", "cluster", "label", "weight", "rank", "copies"), np.int64)
_TYPES |= dict.fromkeys(("id", "group"), object)


def empty_table(columns: Iterable[str]) -> pd.DataFrame:
    """A table of these columns, with their types, and no row."""
    return pd.DataFrame({name: np.empty(0, _TYPES.get(name, np.float64)) for name in columns})


@dataclass(frozen=True)
class Selection:
    """What was chosen, and why.

    Attributes
    ----------
    indices : ndarray of shape (p,), int64
        Chosen rows, by cell (group, then cluster) and then in the order of picking.
    repeats : ndarray of shape (p,), int64
        How many times each is given, at least 1. They sum to the wanted number.
    table : DataFrame of p rows
        ``row``, ``id``, ``cluster``, ``group``, ``label`` (of A-DBSCAN within the cell, -1 for noise),
        ``core_distance`` and ``radius`` (chord), ``weight`` (how many of its cell it stands for), the MMR terms
        ``relevance``, ``score`` and ``max_similarity`` at the time of picking, ``rank`` (order of picking in its cell,
        or in its part of a cell that was cut, 0 first) and ``copies`` (the same as ``repeats``).
    pool : DataFrame
        The pool it was chosen from; the first eight of these columns.
    budgets : Series
        Copies counted, by cluster.
    sizes, group_sizes : Series
        Records there were, by cluster and by group.
    cells : DataFrame
        By group and cluster: ``n`` (records that were not excluded), ``budget`` (copies counted), and the standard
        deviations of the MMR terms over the pool, ``relevance_spread``, ``score_spread``, ``diversity_spread`` (NaN
        where nothing was chosen; of a cell that was cut the mean over its parts, by their budgets). What a term decides
        goes by its weight times this.
    excluded : int
        Records that were left out: by ``exclude``, or by a score of NaN.
    """

    indices: np.ndarray
    repeats: np.ndarray
    table: pd.DataFrame
    pool: pd.DataFrame
    budgets: pd.Series
    sizes: pd.Series
    group_sizes: pd.Series
    cells: pd.DataFrame
    excluded: int = 0

    def summary(self, by: str = "cluster") -> pd.DataFrame:
        """One row a cluster, or a group.

        Parameters
        ----------
        by : {"cluster", "group"}, default="cluster"

        Returns
        -------
        DataFrame
            Index: the clusters or groups; ``n`` (records there were), ``pool``, ``budget``, ``distinct`` (records
            chosen), ``copies`` (second and further; distinct + copies = budget), ``noise`` (chosen records that are
            noise), ``mean_weight``, ``mean_relevance``, ``mean_score``, ``mean_max_similarity`` (NaN where none was
            chosen).
        """
        sizes = {"cluster": self.sizes, "group": self.group_sizes}.get(by)
        if sizes is None:
            raise ParameterError(f"by is {by!r}", hint="Use 'cluster' or 'group'.")
        groups = self.table.groupby(by)
        counts = {
            "n": sizes,
            "pool": self.pool.groupby(by).size(),
            "budget": self.cells["budget"].groupby(level=by).sum(),
            "distinct": groups.size(),
            "copies": groups["copies"].sum() - groups.size(),
            "noise": (self.table["label"] < 0).groupby(self.table[by]).sum(),
        }
        means = {
            f"mean_{name}": groups[name].mean().astype(float).reindex(sizes.index)
            for name in ("weight", "relevance", "score", "max_similarity")
        }
        index = sizes.index
        whole = {name: column.reindex(index, fill_value=0).astype(np.int64) for name, column in counts.items()}
        return pd.DataFrame(whole | means, index=index)

    def kept_by(self, values: ArrayLike) -> pd.DataFrame:
        """Count what was kept of each value of a column, such as the source or the task.

        Parameters
        ----------
        values : array-like of shape (n,)
            The column, over all rows that were given to the `Redistributor`.

        Returns
        -------
        DataFrame
            Index: the values, the commonest first. ``available``, ``kept`` (distinct), ``with_copies``, ``share``
            (kept / available, in [0, 1]).

        Raises
        ------
        DataError
            If there is not one value for each row.
        """
        name = getattr(values, "name", None) or "value"
        column = pd.Series(np.asarray(values, dtype=object), name=name)
        if len(column) != self.sizes.sum():
            raise DataError(f"{len(column)} values for {self.sizes.sum()} rows", hint="Give the column of all rows.")
        available = column.value_counts().rename_axis(name).sort_index().sort_values(ascending=False, kind="stable")
        chosen = column.iloc[self.indices]
        kept = chosen.value_counts().reindex(available.index, fill_value=0)
        copies = pd.Series(self.repeats).groupby(chosen.to_numpy()).sum().reindex(available.index, fill_value=0)
        table = {"available": available, "kept": kept, "with_copies": copies, "share": kept / available}
        return pd.DataFrame(table, index=available.index)
