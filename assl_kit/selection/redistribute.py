"""The two stages together: budgets for groups, then in each cell thin to a pool (A-DBSCAN) and pick by MMR."""

from __future__ import annotations

import math
from collections.abc import Mapping
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator
from tqdm.auto import tqdm

from assl_kit.common.checks import whole
from assl_kit.errors import ParameterError
from assl_kit.space.rows import mean_direction

from .adbscan import ADBSCAN
from .budgets import possible_budgets, with_every_cluster
from .cells import Space, cut_rows, pool_scores
from .curves import curves_of, objective_weights
from .mmr import check_weights, mmr_select, mmr_terms
from .spreads import scaled_weights, term_spreads
from .table import POOL_COLUMNS, TABLE_COLUMNS, Selection, empty_table

if TYPE_CHECKING:
    import torch

LEAST_PART = 10
"""Least ``cell_rows``, in multiples of ``min_samples``: parts of fewer rows would be noise."""
#: what `Redistributor.paper` sets
PAPER: dict[str, Any] = {
    "budget_power": 1.0,
    "pool_factor": 3,
    "repeat_share": 0.1,
    "max_repeat": 2,
    "flattening": 0.5,
    "weights": (0.4, 0.2, 0.4),
    "scale": "raw",
}


class Redistributor(BaseEstimator):
    """Choose a small training set: budgets for groups, then thin with A-DBSCAN and pick with MMR in each cell.

    A cell is where a group (a task, a source: see `assign_groups`) and a cluster meet.
    `Redistributor.paper` gives what the paper says literally.

    Parameters
    ----------
    budget : {"power", "curve"}, default="power"
        How groups share the number that is wanted: proportionally to ``size ** budget_power``; or by learning curves
        (`curves`), each next record to the group that gains most by it. Within a group cells share by size.
    budget_power : float, default=0.25
        τ ≥ 0: 1 is proportional, 0 gives all groups the same.
    objective : {"groups", "records"} or mapping of group to weight, default="groups"
        What curves maximise: the mean over groups, the mean over records, or a weighted mean.
    pool_factor : float, default=1
        Size of a cell's pool over its budget, ≥ 1. MMR, and so ``weights`` and scores, choose only where it is above 1.
    repeat_share : float, default=0
        Share of each budget, in [0, 1], given as second copies, then third, to the sparsest picks that are not noise.
    max_repeat : int, default=1
        Most times a record is given. Above 1 a group may want more than it has, and gets copies for the rest.
    every_cluster : bool, default=False
        Give each cluster at least one record, as a run must, which trains an expert on each.
    cell_rows : int, default=0
        Cut a cell of more rows by k-means into parts that hold at most so many; each is worked alone, and the cell's
        budget is divided among them by size. For very many records: time grows as n · ``cell_rows``. 0: none is cut.
    min_samples, flattening, link_flattening, eps, noise
        As `assl_kit.ADBSCAN`, which is fitted in each cell alone; ``flattening`` is 0 by default: the radius follows
        the density entirely, and a pool is spread as its cell is.
    weights : (float, float, float), default=(0.5, 0, 0.5)
        Relevance, score, diversity, as `assl_kit.mmr_select`.
    scale : {"spread", "raw"}, default="spread"
        Divide each term by its standard deviation over the cell's pool (`spreads`), so that a weight is what
        it says; or take the terms as they are.
    n_jobs, device
        As `assl_kit.ADBSCAN`. Cells are worked one after the other, each with all threads, so that memory holds the
        tiles of one. The result depends on neither.
    verbose : bool, default=False
        Show progress bars.

    Notes
    -----
    Paper, data redistribution (A-DBSCAN and MMR in each cluster, a tenth kept); groups, pool, budgets and repeats as
    stated here are ours. With ``ids`` the result does not depend on the order of the rows: each cell is worked in order
    of id. What the defaults rest on is in `docs/selection.md`.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(300, 8)) + 2 * np.eye(8)[np.repeat([0, 1, 2], [150, 100, 50])]
    >>> X /= np.linalg.norm(X, axis=1, keepdims=True)
    >>> tasks = np.repeat(["sentiment", "qa", "sentiment"], [150, 100, 50])
    >>> chosen = Redistributor(budget_power=0).fit_select(X, np.repeat([0, 1, 2], [150, 100, 50]), 60, groups=tasks)
    >>> chosen.cells["budget"].to_dict()
    {('qa', 1): 30, ('sentiment', 0): 23, ('sentiment', 2): 7}
    """

    def __init__(
        self,
        *,
        budget: str = "power",
        budget_power: float = 0.25,
        objective: str | Mapping[Any, float] = "groups",
        pool_factor: float = 1,
        repeat_share: float = 0,
        max_repeat: int = 1,
        every_cluster: bool = False,
        cell_rows: int = 0,
        min_samples: int = 10,
        flattening: float = 0,
        link_flattening: float = 0.75,
        eps: float | None = None,
        noise: str = "thin",
        weights: ArrayLike = (0.5, 0, 0.5),
        scale: str = "spread",
        n_jobs: int | None = None,
        device: str = "cpu",
        verbose: bool = False,
    ) -> None:
        self.budget = budget
        self.budget_power = budget_power
        self.objective = objective
        self.pool_factor = pool_factor
        self.repeat_share = repeat_share
        self.max_repeat = max_repeat
        self.every_cluster = every_cluster
        self.cell_rows = cell_rows
        self.min_samples = min_samples
        self.flattening = flattening
        self.link_flattening = link_flattening
        self.eps = eps
        self.noise = noise
        self.weights = weights
        self.scale = scale
        self.n_jobs = n_jobs
        self.device = device
        self.verbose = verbose

    @classmethod
    def paper(cls, **changes: Any) -> Redistributor:
        """What the paper says, literally, where it says something. Give it no groups: its budgets are by cluster.

        Budgets proportional to clusters, a pool of three budgets, MMR with the model score, a tenth given twice.
        Measured, it chooses worse than a random draw; it is here to be shown beside the default.

        Examples
        --------
        >>> Redistributor.paper(max_repeat=3).pool_factor
        3
        """
        return cls(**PAPER | changes)

    def pool(
        self, X: ArrayLike | torch.Tensor, clusters: ArrayLike, n_select: int, *, groups: ArrayLike | None = None,
        curves: pd.DataFrame | None = None, exclude: ArrayLike | None = None, ids: ArrayLike | None = None,
    ) -> pd.DataFrame:  # fmt: skip
        """First stage: thin each cell, or each part of it, to ``pool_factor`` times its budget (or to all it has).

        Parameters
        ----------
        X : array-like of shape (n, d)
            Unit rows.
        clusters : array-like of shape (n,), int
            Cluster of each row, ≥ 0.
        n_select : int
            How many records the second stage will give, copies counted.
        groups : array-like of shape (n,), optional
            Names of groups, as text. Rows without one (None, NaN) are a group of their own. Default: each cluster is
            a group.
        curves : DataFrame, optional
            ``a``, ``b``, ``c`` by group (the index), for ``budget="curve"``: score = a − b · n^−c.
        exclude : array-like of shape (n,), bool, optional
            True: the record is neither chosen nor counted in any size.
        ids : array-like of shape (n,), optional
            Unique and sortable; they settle ties. Default: row numbers.

        Returns
        -------
        DataFrame
            ``row, id, cluster, group, label, core_distance, radius, weight``, by row. A cell's weights sum to its size.

        Raises
        ------
        DataError
            If a row is not finite or not of unit length, a cluster label is not a whole number of at least 0, there is
            not one group for each row, or ids are not unique.
        ParameterError
            If ``n_select`` is more than can be given or less than there are groups, a group has no curve, or a
            parameter is out of range.
        """
        self._check()
        space = Space(X, clusters, ids, groups=groups, exclude=exclude)
        every = space.part_sizes
        self._budgets(space, n_select, curves, every, every)  # what cannot be is refused before the long work
        if n_select == 0:
            return empty_table(POOL_COLUMNS)
        self._cut_cells(space)
        names = [space.name(i) for i in range(len(space.parts))]
        rows = {name: (part,) for name, part in zip(names, space.parts, strict=True)}
        fits = self._each("A-DBSCAN", "_fit", space.X, rows)
        able = np.array([count for count, _ in fits])
        usable = able if self.noise == "drop" else space.part_sizes
        budgets = self._budgets(space, n_select, curves, usable, able)
        sizes = np.minimum(np.ceil(self.pool_factor * budgets - 1e-9).astype(np.int64), usable)
        parts = np.flatnonzero(sizes)
        work = {names[i]: (fits[i][1], int(sizes[i])) for i in parts}
        return space.described(parts, self._each("thinning", "_thin", space.X, work))

    def select(
        self, X: ArrayLike | torch.Tensor, clusters: ArrayLike, pool: pd.DataFrame, n_select: int, *,
        groups: ArrayLike | None = None, curves: pd.DataFrame | None = None, exclude: ArrayLike | None = None,
        scores: ArrayLike | None = None, centroids: ArrayLike | None = None, ids: ArrayLike | None = None,
    ) -> Selection:  # fmt: skip
        """Second stage: pick from the pool of each cell by MMR, and repeat where a group wants more than it has.

        Parameters
        ----------
        X, clusters, n_select, groups, curves, exclude, ids
            As given to `pool`.
        pool : DataFrame
            From `pool`. Without a column ``row`` the rows are found by ``id``.
        scores : array-like of shape (n,) or (len(pool),), optional
            Model score in [0, 1] of every row (only those in the pool are read), or of the rows of the pool in its
            order; `rank_within` makes such. A record with NaN is left out, and counted. Default: 0.
        centroids : array-like of shape (k, d), optional
            Row c is the centroid of cluster c. Default: the mean direction of each cluster's rows.

        Returns
        -------
        Selection

        Raises
        ------
        DataError, ParameterError
            As `pool`; also if the pool does not belong to these rows, a score is not in [0, 1], or there are fewer rows
            than centroids.
        """
        self._check()
        space = Space(X, clusters, ids, groups=groups, exclude=exclude, centroids=centroids)
        pool = space.check_pool(pool)
        self._cut_cells(space)
        scores = pool_scores(scores, pool, len(space.X))
        rows = pool["row"].to_numpy()
        work = pool.assign(score=scores, order=space.rank[rows], part=space.part_of[rows])
        work = work[~np.isnan(scores)].sort_values("order")
        k = len(space.parts)
        counts = np.bincount(work["part"], minlength=k)
        able = np.bincount(work["part"][work["label"] >= 0], minlength=k)
        budgets = self._budgets(space, n_select, curves, counts, able)
        pools = dict(tuple(work.drop(columns="part").groupby(work["part"])))
        parts = np.flatnonzero(budgets)
        arguments = {space.name(i): (pools[i], int(budgets[i]), *space.centroid(i)) for i in parts.tolist()}
        picked = self._each("MMR", "_pick", space.X, arguments)
        tables = [table for table, _ in picked]
        table = pd.concat(tables, ignore_index=True)[list(TABLE_COLUMNS)] if tables else empty_table(TABLE_COLUMNS)
        cell_table = space.cells.assign(budget=space.of_cells(budgets)).set_index(["group", "cluster"])
        spreads = np.full((k, 3), np.nan)
        spreads[parts] = [spread for _, spread in picked] if len(parts) else spreads[:0]
        means = space.means_of_cells(spreads, budgets)
        for number, name in enumerate(("relevance", "score", "diversity")):
            cell_table[f"{name}_spread"] = means[:, number]
        return Selection(
            indices=table["row"].to_numpy(np.int64),
            repeats=table["copies"].to_numpy(np.int64),
            table=table,
            pool=pool,
            budgets=cell_table["budget"].groupby(level="cluster").sum().reindex(space.sizes.index, fill_value=0),
            sizes=space.sizes,
            group_sizes=space.group_sizes.rename("n"),
            cells=cell_table,
            excluded=int(space.excluded.sum() + np.isnan(scores).sum()),
        )

    def fit_select(
        self, X: ArrayLike | torch.Tensor, clusters: ArrayLike, n_select: int, *, groups: ArrayLike | None = None,
        curves: pd.DataFrame | None = None, exclude: ArrayLike | None = None, scores: ArrayLike | None = None,
        ids: ArrayLike | None = None, centroids: ArrayLike | None = None,
    ) -> Selection:  # fmt: skip
        """Both stages: `pool`, then `select`; ``scores`` are over all rows, and those with NaN are excluded."""
        n = np.shape(X)[0]
        if scores is not None:
            if np.shape(scores) != (n,):
                raise ParameterError(f"scores have shape {np.shape(scores)}, but there are {n} rows")
            lost = pd.isna(np.asarray(scores))
            if lost.any():
                exclude = lost if exclude is None else lost | np.asarray(exclude)
        inputs: dict[str, Any] = {"groups": groups, "curves": curves, "exclude": exclude, "ids": ids}
        pool = self.pool(X, clusters, n_select, **inputs)
        return self.select(X, clusters, pool, n_select, scores=scores, centroids=centroids, **inputs)

    def _each(self, title: str, work: str, X: np.ndarray, cells: Mapping[Any, tuple[Any, ...]]) -> list[Any]:
        """What the method named ``work`` gives of X and each cell's arguments, which ``cells`` has by name.

        Each call reads X and its arguments and nothing else, so another engine may make the calls elsewhere.
        """
        bar = tqdm(cells.values(), desc=title, unit="cell", disable=not self.verbose, leave=False)
        return [getattr(self, work)(X, *arguments) for arguments in bar]

    def _cut_cells(self, space: Space) -> None:
        """Cut the cells of too many rows."""
        large = [cell for cell, rows in enumerate(space.members) if 0 < self.cell_rows < len(rows)]
        cells = {space.name(cell): (space.members[cell],) for cell in large}
        space.cut(dict(zip(large, self._each("cutting", "_cut", space.X, cells) if large else [], strict=True)))

    def _cut(self, X: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """The part of each row of one cell."""
        return cut_rows(X, rows, self.cell_rows, self.n_jobs)

    def _fit(self, X: np.ndarray, rows: np.ndarray) -> tuple[int, ADBSCAN]:
        """A-DBSCAN of one part, given by its rows in order of id: how many are not noise, and the estimator."""
        names = ("min_samples", "flattening", "link_flattening", "eps", "noise", "n_jobs", "device")
        fit = ADBSCAN(**{name: getattr(self, name) for name in names})._fit(X, rows)
        return int((fit.labels_ >= 0).sum()), fit

    def _thin(self, X: np.ndarray, fit: ADBSCAN, size: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Pool of one part: places among its rows, in order of id, which settles ties; and what is told of them."""
        kept = fit.thin(size, max_repeat=1, repeat_share=0)
        at = kept.indices
        columns = {
            "label": fit.labels_[at],
            "core_distance": fit.core_distances_[at],
            "radius": fit.radii_[at],
            "weight": kept.weights,
        }
        return at, columns

    def _pick(
        self, X: np.ndarray, pool: pd.DataFrame, budget: int, centroid: np.ndarray | None, rows: np.ndarray | None
    ) -> tuple[pd.DataFrame, np.ndarray]:
        """Picks of one part, and the spreads of the terms; ``pool`` is in order of id: ties go to the smaller id."""
        centroid = mean_direction(X, rows) if centroid is None else centroid
        X = X[pool["row"].to_numpy()]
        scores = pool["score"].to_numpy()
        spreads = term_spreads(X, np.asarray(centroid) / np.linalg.norm(centroid), scores)
        weights = self.weights if self.scale == "raw" else scaled_weights(self.weights, spreads)
        able, extra = pool["label"].to_numpy() >= 0, self.max_repeat - 1
        copies = math.floor(self.repeat_share * budget + 1e-9) if extra else 0
        size = min(max(budget - copies, -(-budget // self.max_repeat)), len(pool))
        while True:  # a longer selection begins with the shorter one, so this only adds picks
            picks = mmr_select(
                X, size, centroid=centroid, scores=scores, weights=weights, n_jobs=self.n_jobs, device=self.device
            )
            room = extra * int(able[picks].sum())
            if budget - size <= room:
                break
            size = min(budget - room, len(pool))
        relevance, score, nearest = mmr_terms(X, picks, centroid=centroid, scores=scores)
        table = pool.iloc[picks].drop(columns=["order", "score"])
        repeats = np.ones(size, dtype=np.int64)
        if budget > size:
            order = np.lexsort((picks, -table["core_distance"].to_numpy()))
            order = order[able[picks][order]]
            rounds, rest = divmod(budget - size, len(order))
            repeats[order] += rounds
            repeats[order[:rest]] += 1
        terms = {"relevance": relevance, "score": score, "max_similarity": nearest}
        return table.assign(**terms, rank=np.arange(size), copies=repeats), spreads

    def _budgets(
        self, space: Space, n_select: int, curves: pd.DataFrame | None, usable: np.ndarray, able: np.ndarray
    ) -> np.ndarray:
        """Budgets of parts: first of cells, then in each by size; ``usable`` and ``able`` are of parts."""
        sizes, groups = space.cells["n"].to_numpy(), space.cells["group"]
        numbers, names = pd.factorize(groups)
        if space.grouped and isinstance(n_select, Integral) and 0 < n_select < len(names):
            raise ParameterError(
                f"n_select is {n_select}, but there are {len(names)} groups, and some would get nothing",
                hint="Ask for more records, or give coarser groups.",
            )
        options: dict[str, Any] = {"floor": space.grouped}
        if self.budget == "curve":
            counts = pd.Series(np.bincount(numbers, sizes).astype(np.int64), index=names)
            options |= {"curves": curves_of(curves, names), "weights": objective_weights(self.objective, counts)}
        extra = self.max_repeat - 1
        limits = space.of_cells(usable), space.of_cells(able)
        budgets = possible_budgets(numbers, sizes, n_select, self.budget_power, *limits, extra=extra, **options)
        if self.every_cluster:
            budgets = with_every_cluster(budgets, space.cells["cluster"], numbers, limits[0] + extra * limits[1])
        return space.of_parts(budgets, usable + extra * able)

    def _check(self) -> None:
        value: float = self.max_repeat
        if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
            raise ParameterError(f"max_repeat is {value!r}", hint="Give a whole number of at least 1.")
        whole("cell_rows", self.cell_rows)
        if 0 < self.cell_rows < (least := LEAST_PART * whole("min_samples", self.min_samples, 1)):
            raise ParameterError(f"cell_rows is {self.cell_rows}", hint=f"Give at least {least}, or 0 to cut no cell.")
        check_weights(self.weights)
        for name, known in (("budget", ("power", "curve")), ("scale", ("spread", "raw"))):
            if getattr(self, name) not in known:
                raise ParameterError(f"{name} is {getattr(self, name)!r}", hint=f"Use {known[0]!r} or {known[1]!r}.")
        for name, least, most in (("pool_factor", 1, math.inf), ("repeat_share", 0, 1)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, Real) or not least <= value <= most:
                raise ParameterError(f"{name} is {value!r}", hint=f"Give a number from {least} to {most}.")
