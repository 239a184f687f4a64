"""The two stages together: in each cluster thin to a pool (A-DBSCAN), then pick by MMR and repeat the sparsest."""

from __future__ import annotations

import math
from numbers import Integral, Real

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator
from tqdm.auto import tqdm

from assl_kit.errors import DataError, ParameterError
from assl_kit.space.rows import check_rows, mean_direction

from .adbscan import ADBSCAN
from .budgets import cluster_budgets
from .ids import id_order
from .mmr import check_weights, mmr_select, mmr_terms
from .table import POOL_COLUMNS, TABLE_COLUMNS, Selection, empty_table

__all__ = ["Redistributor", "Selection", "cluster_budgets"]


class Redistributor(BaseEstimator):
    """Choose a small training set: in each cluster thin with A-DBSCAN, pick with MMR, repeat the sparsest.

    Parameters
    ----------
    pool_factor : float, default=3
        Size of a cluster's pool over its budget, ≥ 1.
    repeat_share : float, default=0.1
        Share of each budget, in [0, 1], given as second copies, then third, to the sparsest picks that are not noise.
    max_repeat : int, default=2
        Most times a record is given; 1 turns repeats off.
    budget_power : float, default=1.0
        τ of `cluster_budgets`.
    min_samples, flattening, link_flattening, eps, noise
        As `assl_kit.ADBSCAN`, which is fitted in each cluster alone.
    weights : (float, float, float), default=(0.4, 0.2, 0.4)
        Relevance, score, diversity, as `assl_kit.mmr_select`.
    n_jobs, device
        As `assl_kit.ADBSCAN`. Clusters are worked one after the other, each with all threads, so that memory holds the
        tiles of one. The result depends on neither.
    verbose : bool, default=False
        Show progress bars.

    Notes
    -----
    Paper, data redistribution (A-DBSCAN and MMR in each cluster, a tenth kept); pool, budgets and repeats as stated
    here are ours. With ``ids`` the result does not depend on the order of the rows: each cluster is worked in order of
    id.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(300, 8)) + 2 * np.eye(8)[np.repeat([0, 1, 2], [150, 100, 50])]
    >>> X /= np.linalg.norm(X, axis=1, keepdims=True)
    >>> chosen = Redistributor().fit_select(X, np.repeat([0, 1, 2], [150, 100, 50]), 60)
    >>> chosen.budgets.tolist(), int(chosen.repeats.sum())
    ([30, 20, 10], 60)
    >>> chosen.summary()["distinct"].tolist()
    [27, 18, 9]
    """

    def __init__(
        self,
        *,
        pool_factor=3,
        repeat_share=0.1,
        max_repeat=2,
        budget_power=1.0,
        min_samples=10,
        flattening=0.5,
        link_flattening=0.75,
        eps=None,
        noise="thin",
        weights=(0.4, 0.2, 0.4),
        n_jobs=None,
        device="cpu",
        verbose=False,
    ):
        self.pool_factor = pool_factor
        self.repeat_share = repeat_share
        self.max_repeat = max_repeat
        self.budget_power = budget_power
        self.min_samples = min_samples
        self.flattening = flattening
        self.link_flattening = link_flattening
        self.eps = eps
        self.noise = noise
        self.weights = weights
        self.n_jobs = n_jobs
        self.device = device
        self.verbose = verbose

    def pool(self, X, clusters, n_select, *, ids=None) -> pd.DataFrame:
        """First stage: thin each cluster to ``pool_factor`` times its budget (or to all it has).

        Parameters
        ----------
        X : array-like of shape (n, d)
            Unit rows.
        clusters : array-like of shape (n,), int
            Cluster of each row, ≥ 0.
        n_select : int
            How many records the second stage will give, copies counted.
        ids : array-like of shape (n,), optional
            Unique and sortable; they settle ties. Default: row numbers.

        Returns
        -------
        DataFrame
            ``row, id, cluster, label, core_distance, radius, weight``, by row. A cluster's weights sum to its size.

        Raises
        ------
        DataError
            If a row is not finite or not of unit length, a cluster label is not a whole number of at least 0, or ids
            are not unique.
        ParameterError
            If ``n_select`` is more than can be given, or a parameter is out of range.
        """
        self._check()
        space = _Space(X, clusters, ids)
        self._budgets(space, n_select, None)  # what cannot be is refused before the long work
        if n_select == 0:
            return empty_table(POOL_COLUMNS)
        fits = self._each("A-DBSCAN", "_fit", space.X, {name: (rows,) for name, rows in space.members.items()})
        able = np.array([count for count, _ in fits])
        usable = able if self.noise == "drop" else space.sizes.to_numpy()
        budgets = self._budgets(space, n_select, self._capacities(usable, able))
        sizes = np.minimum(np.ceil(self.pool_factor * budgets - 1e-9).astype(np.int64), usable)
        work = {name: (fit, int(size)) for name, (_, fit), size in zip(space.members, fits, sizes, strict=True) if size}
        parts = [
            space.described(name, *kept)
            for name, kept in zip(work, self._each("thinning", "_thin", space.X, work), strict=True)
        ]
        return pd.concat(parts, ignore_index=True).sort_values("row", ignore_index=True)

    def select(self, X, clusters, pool, n_select, *, scores=None, centroids=None, ids=None) -> Selection:
        """Second stage: pick from the pool of each cluster by MMR, and repeat the sparsest picks.

        Parameters
        ----------
        X, clusters, n_select, ids
            As given to `pool`.
        pool : DataFrame
            From `pool`. Without a column ``row`` the rows are found by ``id``.
        scores : array-like of shape (n,) or (len(pool),), optional
            Model score in [0, 1] of every row (only those in the pool are read), or of the rows of the pool in its
            order. Default: 0.
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
        space = _Space(X, clusters, ids, centroids)
        pool = space.check_pool(pool)
        scores = _pool_scores(scores, pool, len(space.X))
        counts = pool.groupby("cluster").size().reindex(space.sizes.index, fill_value=0).to_numpy()
        able = pool[pool["label"] >= 0].groupby("cluster").size().reindex(space.sizes.index, fill_value=0).to_numpy()
        budgets = self._budgets(space, n_select, self._capacities(counts, able))
        work = pool.assign(score=scores, order=space.rank[pool["row"].to_numpy()]).sort_values("order")
        groups = dict(tuple(work.groupby("cluster")))
        wanted = {
            name: (groups[name], int(budget), *space.centroid(name))
            for name, budget in zip(space.members, budgets, strict=True)
            if budget
        }
        parts = self._each("MMR", "_pick", space.X, wanted)
        table = pd.concat(parts, ignore_index=True)[list(TABLE_COLUMNS)] if parts else empty_table(TABLE_COLUMNS)
        return Selection(
            indices=table["row"].to_numpy(np.int64),
            repeats=table["copies"].to_numpy(np.int64),
            table=table,
            pool=pool,
            budgets=pd.Series(budgets, index=space.sizes.index, name="budget"),
            sizes=space.sizes,
        )

    def fit_select(self, X, clusters, n_select, *, scores=None, ids=None, centroids=None) -> Selection:
        """Both stages: `pool`, then `select`; ``scores`` are over all rows."""
        if scores is not None and np.shape(scores) != (np.shape(X)[0],):
            raise ParameterError(f"scores have shape {np.shape(scores)}, but there are {np.shape(X)[0]} rows")
        pool = self.pool(X, clusters, n_select, ids=ids)
        return self.select(X, clusters, pool, n_select, scores=scores, centroids=centroids, ids=ids)

    def _each(self, title, work, X, clusters):
        """What the method named ``work`` gives of X and each cluster's arguments, which ``clusters`` has by name.

        Each call reads X and its arguments and nothing else, so another engine may make the calls elsewhere.
        """
        bar = tqdm(clusters.values(), desc=title, unit="cluster", disable=not self.verbose, leave=False)
        return [getattr(self, work)(X, *arguments) for arguments in bar]

    def _fit(self, X, rows):
        """A-DBSCAN of one cluster, given by its rows in order of id: how many are not noise, and the estimator."""
        names = ("min_samples", "flattening", "link_flattening", "eps", "noise", "n_jobs", "device")
        fit = ADBSCAN(**{name: getattr(self, name) for name in names})._fit(X, rows)
        return int((fit.labels_ >= 0).sum()), fit

    def _thin(self, X, fit, size):
        """Pool of one cluster: places among its rows, in order of id, which settles ties; and what is told of them."""
        kept = fit.thin(size, max_repeat=1, repeat_share=0)
        at = kept.indices
        columns = {
            "label": fit.labels_[at],
            "core_distance": fit.core_distances_[at],
            "radius": fit.radii_[at],
            "weight": kept.weights,
        }
        return at, columns

    def _pick(self, X, pool, budget, centroid, rows):
        """Picks of one cluster; ``pool`` is in order of id, so that ties go to the smaller id."""
        centroid = mean_direction(X, rows) if centroid is None else centroid
        X = X[pool["row"].to_numpy()]
        scores = pool["score"].to_numpy()
        able, extra = pool["label"].to_numpy() >= 0, self._extra()
        copies = math.floor(self.repeat_share * budget + 1e-9) if extra else 0
        size = min(max(budget - copies, -(-budget // self.max_repeat)), len(pool))
        while True:  # a longer selection begins with the shorter one, so this only adds picks
            picks = mmr_select(
                X, size, centroid=centroid, scores=scores, weights=self.weights, n_jobs=self.n_jobs, device=self.device
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
        return table.assign(**terms, rank=np.arange(size), copies=repeats)

    def _extra(self):
        return self.max_repeat - 1 if self.repeat_share > 0 else 0

    def _capacities(self, usable, able):
        return usable + self._extra() * able

    def _budgets(self, space, n_select, capacities):
        """Budgets by size alone; only where that is more than a cluster can give, its overflow goes to the others."""
        sizes = space.sizes.to_numpy()
        most = self._capacities(sizes, sizes)
        while True:
            budgets = cluster_budgets(sizes, n_select, self.budget_power, capacities=most)
            over = np.zeros(len(sizes), bool) if capacities is None else budgets > capacities
            if not over.any():
                return budgets
            most = np.where(over, capacities, most)

    def _check(self):
        value = self.max_repeat
        if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
            raise ParameterError(f"max_repeat is {value!r}", hint="Give a whole number of at least 1.")
        check_weights(self.weights)
        for name, least, most in (("pool_factor", 1, math.inf), ("repeat_share", 0, 1)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, Real) or not least <= value <= most:
                raise ParameterError(f"{name} is {value!r}", hint=f"Give a number from {least} to {most}.")


class _Space:
    """The rows, their clusters and ids, checked; ``members`` gives each cluster's rows in order of id."""

    def __init__(self, X, clusters, ids, centroids=None):
        self.X = X = check_rows(X, unit=True, convert=False)
        n = len(X)
        self.given_ids = ids is not None
        order = id_order(ids, n, unique=True)
        self.ids = np.arange(n) if ids is None else np.asarray(ids)
        self.rank = np.empty(n, np.int64)
        self.rank[order] = np.arange(n)
        self.clusters = _check_clusters(clusters, n)
        names, sizes = np.unique(self.clusters, return_counts=True)
        self.sizes = pd.Series(sizes, index=pd.Index(names, name="cluster"), name="n")
        self.members = {int(name): order[self.clusters[order] == name] for name in names}
        self.centroids = None if centroids is None else self._check_centroids(centroids)

    def _check_centroids(self, centroids):
        centroids = check_rows(centroids, name="centroids")
        k, d = centroids.shape
        if d != self.X.shape[1]:
            raise ParameterError(f"centroids have {d} columns, but rows have {self.X.shape[1]}")
        if k > len(self.X):
            raise DataError(f"there are fewer records ({len(self.X)}) than clusters ({k})", hint="Give more records.")
        if (last := self.sizes.index.max()) >= k:
            raise DataError(f"cluster {last} is unknown: there are {k} centroids", hint="Number clusters from 0.")
        return centroids

    def centroid(self, name):
        """The centroid of a cluster that was given, or None and the rows whose mean it is."""
        return (None, self.members[name]) if self.centroids is None else (self.centroids[name], None)

    def described(self, name, at, columns):
        """The table of a cluster's pool."""
        rows = self.members[name][at]
        return pd.DataFrame({"row": rows, "id": self.ids[rows], "cluster": name} | columns, columns=list(POOL_COLUMNS))

    def check_pool(self, pool):
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
        same = inside & (self.clusters[rows * inside] == pool["cluster"].to_numpy())
        if self.given_ids:
            same &= self.ids[rows * inside] == pool["id"].to_numpy()
        bad = np.flatnonzero(~same | pool["row"].duplicated().to_numpy())
        if len(bad):
            raise DataError(
                "the pool does not belong to these rows, clusters and ids",
                where=f"pool row {bad[0]}, id {pool['id'].iloc[bad[0]]!r}",
                hint="Build the pool again.",
            )
        return pool


def _check_clusters(clusters, n):
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


def _pool_scores(scores, pool, n):
    """Scores of the pool's rows, in its order."""
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
    bad = np.flatnonzero(~((values >= 0) & (values <= 1)))
    if len(bad):
        raise DataError(
            f"score {values[bad[0]]} is not in [0, 1]",
            where=f"row {pool['row'].iloc[bad[0]]}, id {pool['id'].iloc[bad[0]]!r}",
            hint="Normalise the scores, for instance with rank_normalise.",
        )
    return values
