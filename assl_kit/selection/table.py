"""What the two stages chose, and why: the table, its summary by cluster, and counts by source or task."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from assl_kit.errors import DataError

POOL_COLUMNS = ("row", "id", "cluster", "label", "core_distance", "radius", "weight")
TABLE_COLUMNS = (*POOL_COLUMNS, "relevance", "score", "max_similarity", "rank", "copies")
_TYPES = dict.fromkeys(("row", "cluster", "label", "weight", "rank", "copies"), np.int64) | {"id": object}


def empty_table(columns) -> pd.DataFrame:
    """A table of these columns, with their types, and no row."""
    return pd.DataFrame({name: np.empty(0, _TYPES.get(name, np.float64)) for name in columns})


@dataclass(frozen=True)
class Selection:
    """What was chosen, and why.

    Attributes
    ----------
    indices : ndarray of shape (p,), int64
        Chosen rows, by cluster and then in the order of picking.
    repeats : ndarray of shape (p,), int64
        How many times each is given, at least 1. They sum to the wanted number.
    table : DataFrame of p rows
        ``row``, ``id``, ``cluster``, ``label`` (of A-DBSCAN within the cluster, -1 for noise), ``core_distance`` and
        ``radius`` (chord), ``weight`` (how many of its cluster it stands for), the MMR terms ``relevance``, ``score``
        and ``max_similarity`` at the time of picking, ``rank`` (order of picking in its cluster, 0 first) and
        ``copies`` (the same as ``repeats``).
    pool : DataFrame
        The pool it was chosen from; the first seven of these columns.
    budgets : Series
        Copies counted, by cluster.
    sizes : Series
        Records there were, by cluster.
    """

    indices: np.ndarray
    repeats: np.ndarray
    table: pd.DataFrame
    pool: pd.DataFrame
    budgets: pd.Series
    sizes: pd.Series

    def summary(self) -> pd.DataFrame:
        """One row a cluster.

        Returns
        -------
        DataFrame
            Index ``cluster``; ``n`` (records there were), ``pool``, ``budget``, ``distinct`` (records chosen),
            ``copies`` (second and further; distinct + copies = budget), ``noise`` (chosen records that are noise),
            ``mean_weight``, ``mean_relevance``, ``mean_score``, ``mean_max_similarity`` (NaN where none was chosen).
        """
        groups = self.table.groupby("cluster")
        counts = {
            "n": self.sizes,
            "pool": self.pool.groupby("cluster").size(),
            "budget": self.budgets,
            "distinct": groups.size(),
            "copies": groups["copies"].sum() - groups.size(),
            "noise": (self.table["label"] < 0).groupby(self.table["cluster"]).sum(),
        }
        means = {
            f"mean_{name}": groups[name].mean().astype(float).reindex(self.sizes.index)
            for name in ("weight", "relevance", "score", "max_similarity")
        }
        index = self.sizes.index
        whole = {name: column.reindex(index, fill_value=0).astype(np.int64) for name, column in counts.items()}
        return pd.DataFrame(whole | means, index=index)

    def kept_by(self, values) -> pd.DataFrame:
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
        values = pd.Series(np.asarray(values, dtype=object), name=name)
        if len(values) != self.sizes.sum():
            raise DataError(f"{len(values)} values for {self.sizes.sum()} rows", hint="Give the column of all rows.")
        available = values.value_counts().rename_axis(name).sort_index().sort_values(ascending=False, kind="stable")
        chosen = values.iloc[self.indices]
        kept = chosen.value_counts().reindex(available.index, fill_value=0)
        copies = pd.Series(self.repeats).groupby(chosen.to_numpy()).sum().reindex(available.index, fill_value=0)
        table = {"available": available, "kept": kept, "with_copies": copies, "share": kept / available}
        return pd.DataFrame(table, index=available.index)
