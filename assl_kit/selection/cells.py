"""The rows of a selection and what they are divided into: clusters, groups, the cells where both meet, their parts."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from sklearn.exceptions import ConvergenceWarning

from assl_kit.data.groups import MISSING
from assl_kit.errors import DataError, ParameterError
from assl_kit.space.clusters import SemanticKMeans
from assl_kit.space.rows import check_rows, mean_direction

from .budgets import divided
from .ids import id_order
from .table import POOL_COLUMNS

if TYPE_CHECKING:
    import torch


AT_ONCE = 32  #: most parts that rows are cut into at a time; parts that are still too large are cut again
SAMPLE = 8192  #: rows that the centres of parts are found on
SMALLEST = 0.25  #: of its share of the sample: a part that holds less goes to the others
BLOCK = 2**16  # rows that are compared with the centres at a time


def cut_rows(X: np.ndarray, rows: np.ndarray, most: int, n_jobs: int | None = None) -> np.ndarray:
    """Divide rows into parts of at most ``most`` near ones, by k-means on a sample.

    Parameters
    ----------
    X : ndarray of shape (n, d)
        Unit rows.
    rows : ndarray of shape (m,), int64
        Those to be divided; the parts depend on their order.
    most : int
        At least 2. Only where rows cannot be told apart a part holds more.
    n_jobs : int, optional
        Threads. Never changes the result.

    Returns
    -------
    ndarray of shape (m,), int64
        The part of each, from 0.

    Examples
    --------
    >>> X = np.float32([[1, 0], [0, 1], [0.6, 0.8], [0.96, 0.28]])
    >>> cut_rows(X, np.arange(4), 2).tolist()
    [0, 1, 1, 0]
    """
    numbers, waiting, count = np.zeros(len(rows), np.int64), [np.arange(len(rows))], 0
    while waiting:
        at = waiting.pop()
        labels = _near(X, rows[at], most, n_jobs) if len(at) > most else np.zeros(1, np.int64)
        names = np.unique(labels)
        if len(names) > 1:
            waiting += [at[labels == name] for name in names[::-1]]
        else:
            numbers[at] = count
            count += 1
    return numbers


def _near(X: np.ndarray, rows: np.ndarray, most: int, n_jobs: int | None) -> np.ndarray:
    """Labels of rows by the centres of a sample of them."""
    k = min(-(-len(rows) // most), AT_ONCE)
    model = SemanticKMeans(k, n_init=3, n_jobs=n_jobs)
    drawn = np.sort(np.random.default_rng(0).choice(len(rows), min(len(rows), SAMPLE), replace=False))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # of equal rows there are fewer
        model.fit(X[rows[drawn]])
    counts = np.bincount(model.labels_, minlength=k)
    large = counts >= SMALLEST * len(drawn) / k
    model.cluster_centers_ = model.cluster_centers_[large if large.sum() > 1 else counts > 0]
    starts = range(0, len(rows), BLOCK)
    return np.concatenate([model.predict(X[rows[start : start + BLOCK]]) for start in starts])


class Space:
    """The rows, their clusters, groups and ids, checked.

    ``cells`` is a table with a row for each cell that has records, by group and then by cluster: ``group``,
    ``cluster``, ``n`` (without excluded records); ``members[i]`` gives the rows of cell i in order of id. Without
    groups each cluster is a group. ``parts[j]`` gives the rows of part j in order of id, and ``cell_of_part[j]`` its
    cell; until some are `cut`, cells are their own parts.
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
        present, counts = np.unique(codes[order], return_counts=True)
        by_cell = order[np.argsort(codes[order], kind="stable")]
        self.members = np.split(by_cell, np.cumsum(counts)[:-1]) if len(counts) else []
        group, cluster = np.divmod(present, max(len(clusters), 1))
        self.cells = pd.DataFrame({"group": names[group], "cluster": clusters[cluster], "n": counts})
        self.parts, self.cell_of_part = self.members, np.arange(len(counts))
        self._place()

    def _place(self) -> None:
        """The part of each row, -1 for those that are excluded."""
        self.part_of = np.full(len(self.X), -1)
        for part, rows in enumerate(self.parts):
            self.part_of[rows] = part

    def cut(self, numbers: Mapping[int, np.ndarray]) -> None:
        """Let some cells have parts: of each of its rows, in order of id, the number of its part in the cell."""
        if not numbers:
            return
        parts = [[rows] for rows in self.members]
        for cell, at in numbers.items():
            parts[cell] = [self.members[cell][at == part] for part in range(at.max() + 1)]
        self.cell_of_part = np.repeat(np.arange(len(parts)), [len(of_cell) for of_cell in parts])
        self.parts = [rows for of_cell in parts for rows in of_cell]
        self._place()

    @property
    def part_sizes(self) -> np.ndarray:
        """Rows of each part."""
        return np.array([len(rows) for rows in self.parts], dtype=np.int64)

    def of_cells(self, values: np.ndarray) -> np.ndarray:
        """Sums over the parts of each cell."""
        return np.bincount(self.cell_of_part, values, minlength=len(self.cells)).astype(np.int64)

    def of_parts(self, budgets: np.ndarray, capacities: np.ndarray) -> np.ndarray:
        """Budgets of cells divided among their parts."""
        among, is_cut = budgets[self.cell_of_part], self._is_cut()
        mine = is_cut[self.cell_of_part]
        of_cut = self.cell_of_part[mine], self.part_sizes[mine], capacities[mine]
        among[mine] = divided(np.where(is_cut, budgets, 0), *of_cut)
        return among

    def means_of_cells(self, values: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """Weighted means over the parts of each cell, by column; NaN where all weights are 0."""
        means = np.full((len(self.cells), values.shape[1]), np.nan)
        means[self.cell_of_part] = values  # right where a cell is its own part
        for cell in np.flatnonzero(self._is_cut()):
            mine = np.flatnonzero((self.cell_of_part == cell) & (weights > 0))
            means[cell] = np.average(values[mine], 0, weights[mine]) if len(mine) else np.nan
        return means

    def _is_cut(self) -> np.ndarray:
        """Whether each cell has several parts."""
        return np.bincount(self.cell_of_part, minlength=len(self.cells)) > 1

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

    def name(self, part: int) -> str | int:
        """What a part is called: its cell's cluster and group, and its number there if there are several."""
        cell = self.cell_of_part[part]
        group, cluster = self.cells["group"].iloc[cell], self.cells["cluster"].iloc[cell]
        name = f"{cluster}, group {group!r}" if self.grouped else int(cluster)
        first, last = np.searchsorted(self.cell_of_part, [cell, cell + 1])
        return name if last - first == 1 else f"{name}, part {part - first}"

    def centroid(self, part: int) -> tuple[np.ndarray | None, np.ndarray | None]:
        """The centroid of a part's cluster that was given, or None and the rows whose mean it is.

        Where the cluster has several parts it is computed here, once for all of them.
        """
        cell = self.cell_of_part[part]
        cluster = self.cells["cluster"].iloc[cell]
        if self.centroids is not None:
            return self.centroids[cluster], None
        rows = self.members[cell]
        if not self.grouped and len(self.parts[part]) == len(rows):
            return None, rows
        if cluster not in (means := self.__dict__.setdefault("_means", {})):
            if self.grouped:
                order = np.argsort(self.rank)
                rows = order[self.clusters[order] == cluster]
            means[cluster] = mean_direction(self.X, rows)
        return means[cluster], None

    def described(self, parts: np.ndarray, kept: Sequence[tuple[np.ndarray, dict[str, Any]]]) -> pd.DataFrame:
        """The table of the pools of parts, by row. Labels go on from part to part of a cell."""
        tables, labels = [], dict.fromkeys(range(len(self.cells)), 0)
        for part, (at, columns) in zip(parts, kept, strict=True):
            rows, cell = self.parts[part][at], int(self.cell_of_part[part])
            where = {"cluster": self.cells["cluster"].iloc[cell], "group": self.cells["group"].iloc[cell]}
            label, start = columns["label"], labels[cell]
            labels[cell] += int(label.max(initial=-1)) + 1
            columns = columns | {"label": np.where(label < 0, label, label + start)}
            tables.append(
                pd.DataFrame({"row": rows, "id": self.ids[rows]} | where | columns, columns=list(POOL_COLUMNS))
            )
        return pd.concat(tables, ignore_index=True).sort_values("row", ignore_index=True)

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
        parts = self.part_of[rows * inside]
        same = inside & (parts >= 0)
        cells = self.cell_of_part[parts]
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
