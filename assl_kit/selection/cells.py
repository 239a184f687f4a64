"""The rows of a selection and what they are divided into: clusters, groups, and the cells where both meet."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, SupportsIndex

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from assl_kit.data.groups import MISSING
from assl_kit.errors import DataError, ParameterError
from assl_kit.space.rows import check_rows, mean_direction

from .ids import id_order
from .table import POOL_COLUMNS

if TYPE_CHECKING:
    import torch


class Space:
    """The rows, their clusters, groups and ids, checked.

    ``cells`` is a table with a row for each cell that has records, by group and then by cluster: ``group``,
    ``cluster``, ``n`` (without excluded records); ``members[i]`` gives the rows of cell i in order of id. Without
    groups each cluster is a group.
    """

    def __init__(
        self,
        X: ArrayLike | torch.Tensor,
        clusters: ArrayLike,
        ids: ArrayLike | None,
        *,
        groups: ArrayLike | None = None,
        exclude: ArrayLike | None = None,
        centroids: ArrayLike | None = None,
    ) -> None:
        self.X = X = check_rows(X, unit=True, convert=False)
        n = len(X)
        self.given_ids = ids is not None
        order = id_order(ids, n, unique=True)
        self.ids = np.arange(n) if ids is None else np.asarray(ids)
        self.rank = np.empty(n, np.int64)
        self.rank[order] = np.arange(n)
        self.clusters = _check_clusters(clusters, n)
        self.excluded = _check_exclude(exclude, n)
        self.grouped = groups is not None
        names, numbers = self._groups(groups, n)
        clusters, at, sizes = np.unique(self.clusters, return_inverse=True, return_counts=True)
        self.sizes = pd.Series(sizes, index=pd.Index(clusters, name="cluster"), name="n")
        self.group_sizes = pd.Series(np.bincount(numbers, minlength=len(names)), index=pd.Index(names, name="group"))
        self._divide(order, numbers * len(clusters) + at, names, clusters)
        self.centroids = None if centroids is None else self._check_centroids(centroids)

    def _groups(self, groups: ArrayLike | None, n: int) -> tuple[np.ndarray, np.ndarray]:
        """Names of groups, and the number of each row's."""
        if groups is None:
            values, numbers = np.unique(self.clusters, return_inverse=True)
            return values.astype(str).astype(object), numbers
        values = pd.Series(np.asarray(groups, dtype=object))
        if values.shape != (n,):
            raise DataError(f"groups have shape {np.shape(groups)}, but there are {n} rows", hint="Give one a row.")
        names, numbers = np.unique(values.where(values.notna(), MISSING).astype(str), return_inverse=True)
        return names.astype(object), numbers

    def _divide(self, order: np.ndarray, codes: np.ndarray, names: np.ndarray, clusters: np.ndarray) -> None:
        """Cells, their rows in order of id, and the cell of each row."""
        order = order[~self.excluded[order]]
        self.codes, counts = np.unique(codes[order], return_counts=True)
        by_cell = order[np.argsort(codes[order], kind="stable")]
        self.members = np.split(by_cell, np.cumsum(counts)[:-1]) if len(counts) else []
        group, cluster = np.divmod(self.codes, max(len(clusters), 1))
        self.cells = pd.DataFrame({"group": names[group], "cluster": clusters[cluster], "n": counts})
        self.group_of = group  # number of each cell's group, in ``group_sizes``
        self.cell_of = np.full(len(self.X), -1)
        self.cell_of[by_cell] = np.repeat(np.arange(len(counts)), counts)

    def _check_centroids(self, centroids: ArrayLike) -> np.ndarray:
        centroids = check_rows(centroids, name="centroids")
        k, d = centroids.shape
        if d != self.X.shape[1]:
            raise ParameterError(f"centroids have {d} columns, but rows have {self.X.shape[1]}")
        if k > len(self.X):
            raise DataError(f"there are fewer records ({len(self.X)}) than clusters ({k})", hint="Give more records.")
        if (last := self.sizes.index.max()) >= k:
            raise DataError(f"cluster {last} is unknown: there are {k} centroids", hint="Number clusters from 0.")
        return centroids

    def name(self, cell: SupportsIndex) -> str | int:
        """What a cell is called."""
        group, cluster = self.cells["group"].iloc[cell], self.cells["cluster"].iloc[cell]
        return f"{cluster}, group {group!r}" if self.grouped else int(cluster)

    def centroid(self, cell: SupportsIndex) -> tuple[np.ndarray | None, np.ndarray | None]:
        """The centroid of a cell's cluster that was given, or None and the rows whose mean it is.

        With groups it is computed here, once for all cells of the cluster.
        """
        cluster = self.cells["cluster"].iloc[cell]
        if self.centroids is not None:
            return self.centroids[cluster], None
        if not self.grouped:
            return None, self.members[cell]
        if cluster not in (means := self.__dict__.setdefault("_means", {})):
            order = np.argsort(self.rank)
            means[cluster] = mean_direction(self.X, order[self.clusters[order] == cluster])
        return means[cluster], None

    def described(self, cell: SupportsIndex, at: np.ndarray, columns: dict[str, Any]) -> pd.DataFrame:
        """The table of a cell's pool."""
        rows = self.members[cell][at]
        where = {"cluster": self.cells["cluster"].iloc[cell], "group": self.cells["group"].iloc[cell]}
        return pd.DataFrame({"row": rows, "id": self.ids[rows]} | where | columns, columns=list(POOL_COLUMNS))

    def check_pool(self, pool: pd.DataFrame) -> pd.DataFrame:
        """The pool with its column ``row``, after a check that it belongs to these rows."""
        pool = pd.DataFrame(pool).reset_index(drop=True)
        missing = [name for name in POOL_COLUMNS[1:] if name not in pool]
        if missing:
            raise DataError(f"the pool has no column {missing[0]!r}", hint="Give the result of Redistributor.pool.")
        if "row" not in pool:
            pool.insert(0, "row", pd.Index(self.ids).get_indexer(pool["id"]))
        pool = pool[list(POOL_COLUMNS)]
        rows = pool["row"].to_numpy(np.int64)
        inside = (rows >= 0) & (rows < len(self.X))
        cells = self.cell_of[rows * inside]
        same = inside & (cells >= 0)
        for name in ("cluster", "group"):
            same &= self.cells[name].to_numpy()[cells] == pool[name].to_numpy()
        if self.given_ids:
            same &= self.ids[rows * inside] == pool["id"].to_numpy()
        bad = np.flatnonzero(~same | pool["row"].duplicated().to_numpy())
        if len(bad):
            raise DataError(
                "the pool does not belong to these rows, clusters, groups and ids",
                where=f"pool row {bad[0]}, id {pool['id'].iloc[bad[0]]!r}",
                hint="Build the pool again.",
            )
        return pool


def pool_scores(scores: ArrayLike | None, pool: pd.DataFrame, n: int) -> np.ndarray:
    """Scores of the pool's rows, in its order; NaN where a record is left out."""
    if scores is None:
        return np.zeros(len(pool))
    try:
        values = np.asarray(scores, dtype=np.float64)
    except (TypeError, ValueError):
        raise DataError("scores are not numbers") from None
    if values.shape == (n,):
        values = values[pool["row"].to_numpy()]
    elif values.shape != (len(pool),):
        raise ParameterError(
            f"scores have shape {values.shape}", hint=f"Give one for each of {n} rows, or of {len(pool)} in the pool."
        )
    bad = np.flatnonzero(~(np.isnan(values) | ((values >= 0) & (values <= 1))))
    if len(bad):
        raise DataError(
            f"score {values[bad[0]]} is not in [0, 1]",
            where=f"row {pool['row'].iloc[bad[0]]}, id {pool['id'].iloc[bad[0]]!r}",
            hint="Normalise the scores, for instance with rank_within; NaN leaves a record out.",
        )
    return values


def _check_exclude(exclude: ArrayLike | None, n: int) -> np.ndarray:
    if exclude is None:
        return np.zeros(n, bool)
    values = np.asarray(exclude)
    if values.shape != (n,) or values.dtype != bool:
        raise DataError(f"exclude is not one True or False for each of {n} rows")
    return values


def _check_clusters(clusters: ArrayLike, n: int) -> np.ndarray:
    try:
        values = np.asarray(clusters, dtype=np.float64)
    except (TypeError, ValueError):
        raise DataError("cluster labels are not numbers", hint="Give whole numbers of at least 0.") from None
    if values.shape != (n,):
        raise DataError(f"cluster labels have shape {values.shape}, but there are {n} rows", hint="Give one a row.")
    bad = np.flatnonzero(~((values >= 0) & (values < 2**53) & (values == np.floor(values))))
    if len(bad):
        raise DataError(
            f"the cluster label {values[bad[0]]} is unknown",
            where=f"row {bad[0]}",
            hint="Labels are whole numbers of at least 0, one for each row.",
        )
    return values.astype(np.int64)
