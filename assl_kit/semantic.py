"""Semantic clusters: spherical k-means over scikit-learn's k-means, the choice of k, and how clusters meet tasks."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from itertools import combinations

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator, ClusterMixin, TransformerMixin
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score, silhouette_score
from sklearn.utils.validation import check_is_fitted, validate_data
from threadpoolctl import threadpool_limits

from .errors import DataError, ParameterError
from .mmr import mean_direction
from .neighbors import check_rows


class SemanticKMeans(ClusterMixin, TransformerMixin, BaseEstimator):
    """Spherical k-means: clusters of directions, compared by cosine.

    scikit-learn's `KMeans` (k-means++, restarts) runs on the rows scaled to unit length; then the centres are scaled to
    unit length and rows reassigned by cosine until nothing moves. Clusters are numbered by decreasing size (ties by
    first member).

    Parameters
    ----------
    n_clusters : int, default=6
        The paper's six.
    n_init : int, default=10
        Restarts; the one of least inertia is kept.
    max_iter : int, default=100
        Most iterations of each restart, and of the refinement.
    random_state : int, RandomState or None, default=0
        An int makes the result repeatable.

    Attributes
    ----------
    labels_ : ndarray of shape (n,), int64
    cluster_centers_ : ndarray of shape (n_clusters, d), float32
        Unit rows.
    inertia_ : float
        Sum of squared chord distances ``2 − 2·cos`` to the centres.
    n_iter_ : int
        Iterations of the best restart and of the refinement together.
    n_features_in_ : int

    Raises
    ------
    DataError
        If there are fewer rows than clusters, or a value is NaN or infinite.
    ParameterError
        If a parameter is out of range.

    Notes
    -----
    The paper uses k-means with six clusters (section on semantic clustering); the refinement by cosine is ours. Rows
    need not have unit length here: they are scaled. A zero row has cosine 0 to every centre; the pipeline refuses such
    rows before they get here. With fewer distinct rows than clusters the last clusters are empty, with a warning. One
    thread computes, so that the result does not depend on the machine's thread count.

    Examples
    --------
    >>> X = np.array([[1, 0], [0.8, 0.6], [0, 1], [-0.28, 0.96], [0.96, 0.28]])
    >>> model = SemanticKMeans(n_clusters=2).fit(X)
    >>> model.labels_.tolist()
    [0, 0, 1, 1, 0]
    >>> model.predict([[0, 3.0]]).tolist()
    [1]
    """

    def __init__(self, n_clusters=6, n_init=10, max_iter=100, random_state=0):
        self.n_clusters = n_clusters
        self.n_init = n_init
        self.max_iter = max_iter
        self.random_state = random_state

    def fit(self, X, y=None):
        """Find the clusters of the rows of ``X`` of shape (n, d); ``y`` is ignored."""
        for name in ("n_clusters", "n_init", "max_iter"):
            value = getattr(self, name)
            if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < 1:
                raise ParameterError(f"{name} is {value!r}, not a whole number of at least 1")
        X = self._rows(X, reset=True)
        k = self.n_clusters
        if len(X) < k:
            raise DataError(
                f"there are fewer rows than clusters: n_samples={len(X)}, n_clusters={k}",
                hint="Give more records or ask for fewer clusters.",
            )
        with threadpool_limits(limits=1), warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # _canonical says it in our words
            start = KMeans(k, n_init=self.n_init, max_iter=self.max_iter, random_state=self.random_state).fit(X)
            centers, labels, n_iter = _unit(start.cluster_centers_), start.labels_, 0
            for n_iter in range(1, self.max_iter + 1):
                previous, labels = labels, (X @ centers.T).argmax(axis=1)
                if n_iter > 1 and np.array_equal(labels, previous):
                    break
                centers = _centers(X, labels, centers)
        self.cluster_centers_ = centers[_canonical(labels, k)]
        cosines = X @ self.cluster_centers_.T
        self.labels_ = cosines.argmax(axis=1)
        self.inertia_ = float((2 - 2 * cosines[np.arange(len(X)), self.labels_].astype(np.float64)).sum())
        self.n_iter_ = int(start.n_iter_ + n_iter)
        return self

    def predict(self, X):
        """The cluster of each row: int64 labels of shape (n,), the centre of greatest cosine (ties to the first)."""
        return self.transform(X).argmax(axis=1)

    def transform(self, X):
        """Cosine of each row to each centre: shape (n, n_clusters), float32, in [-1, 1]."""
        check_is_fitted(self)
        return np.clip(self._rows(X, reset=False) @ self.cluster_centers_.T, -1, 1)

    def _rows(self, X, *, reset):
        X = validate_data(self, X, dtype=np.float32, order="C", ensure_all_finite=False, reset=reset)
        bad = np.flatnonzero(~np.isfinite(X).all(axis=1))
        if len(bad):
            kind = "NaN" if np.isnan(X[bad[0]]).any() else "infinity"
            raise DataError(f"a row of X holds {kind}", where=f"row {bad[0]}", hint="Remove or mend that record.")
        return _unit(X)

    @property
    def _n_features_out(self):
        return self.cluster_centers_.shape[0]


def _unit(X):
    X = X / np.maximum(np.abs(X).max(axis=1, keepdims=True), np.finfo(np.float32).tiny)
    length = np.linalg.norm(X, axis=1, keepdims=True)
    return np.divide(X, length, out=np.zeros_like(X), where=length > 0)


def _centers(X, labels, old):
    """Mean direction of each cluster; an empty or cancelling one keeps its old centre."""
    centers = old.copy()
    for k in np.unique(labels):
        total = X[labels == k].sum(axis=0, dtype=np.float64)
        if (length := np.linalg.norm(total)) > 0:
            centers[k] = total / length
    return centers


def _canonical(labels, k):
    """Old numbers in the new order: by decreasing size, then by first member; empty clusters last."""
    first = np.full(k, len(labels))
    names, at = np.unique(labels, return_index=True)
    first[names] = at
    if len(names) < k:
        warnings.warn(
            f"only {len(names)} of {k} clusters have members: there are too few distinct rows",
            ConvergenceWarning,
            stacklevel=3,
        )
    return np.lexsort((first, -np.bincount(labels, minlength=k)))


def choose_n_clusters(X, candidates: Iterable[int] = range(2, 13), n_seeds=3, sample=2000, seed=0, *, n_init=3):
    """Measure each number of clusters: how separate and how stable the clusters are.

    Parameters
    ----------
    X : array-like of shape (n, d)
        Unit rows.
    candidates : iterable of int, default range(2, 13)
    n_seeds : int, default 3
        Runs for each candidate, at least 2.
    sample : int, default 2000
        Most rows used, drawn once without replacement.
    seed : int, default 0
        Of the draw and of the runs.
    n_init : int, default 3
        Restarts inside each run.

    Returns
    -------
    DataFrame
        One row a candidate: ``n_clusters``, ``silhouette`` (cosine, of the run of least inertia, in [-1, 1]),
        ``stability`` (mean adjusted Rand index between the runs, 1 where all agree), ``inertia`` (least of the runs).

    Raises
    ------
    ParameterError
        If a candidate is below 2 or not below the number of rows used, or ``n_seeds`` is below 2.
    DataError
        If a row is not finite or not of unit length.

    Notes
    -----
    Ours: the paper fixes six.

    Examples
    --------
    >>> X = np.repeat(np.eye(3, dtype=np.float32), 20, axis=0)
    >>> table = choose_n_clusters(X, candidates=[2, 3])
    >>> int(table.loc[table["silhouette"].idxmax(), "n_clusters"])
    3
    """
    X = check_rows(X, unit=True)
    if n_seeds < 2:
        raise ParameterError(f"n_seeds is {n_seeds!r}: stability needs at least 2 runs")
    candidates = list(candidates)
    rng = np.random.default_rng(seed)
    rows = np.sort(rng.choice(len(X), min(sample, len(X)), replace=False))
    for k in candidates:
        if not 2 <= k < len(rows):
            raise ParameterError(f"cannot measure {k} clusters on {len(rows)} rows", hint=f"Use 2 to {len(rows) - 1}.")
    X = X[rows]
    distances = np.clip(1 - X @ X.T, 0, 2)
    np.fill_diagonal(distances, 0)
    table = []
    for k in candidates:
        runs = [SemanticKMeans(k, n_init=n_init, random_state=seed + i).fit(X) for i in range(n_seeds)]
        best = min(runs, key=lambda run: run.inertia_)
        several = len(np.unique(best.labels_)) > 1
        table.append(
            {
                "n_clusters": k,
                "silhouette": float(silhouette_score(distances, best.labels_, metric="precomputed"))
                if several
                else 0.0,
                "stability": float(
                    np.mean([adjusted_rand_score(a.labels_, b.labels_) for a, b in combinations(runs, 2)])
                ),
                "inertia": best.inertia_,
            }
        )
    return pd.DataFrame(table, columns=["n_clusters", "silhouette", "stability", "inertia"])


def cluster_task_table(labels, tasks) -> pd.DataFrame:
    """Count the records of each task in each cluster.

    Parameters
    ----------
    labels : array-like of shape (n,), int
    tasks : array-like of shape (n,), str

    Returns
    -------
    DataFrame
        Counts, one row a cluster (index ``cluster``), one column a task (columns ``task``), both sorted.

    Raises
    ------
    DataError
        If the lengths differ or there is no record.

    Examples
    --------
    >>> cluster_task_table([0, 0, 1], ["qa", "exam", "qa"]).loc[0].to_dict()
    {'exam': 1, 'qa': 1}
    """
    labels, tasks = _paired(labels, tasks)
    return pd.crosstab(pd.Series(labels, name="cluster"), pd.Series(tasks, name="task"))


def cluster_task_agreement(labels, tasks) -> dict[str, float]:
    """How far the clusters are the tasks.

    Parameters
    ----------
    labels, tasks : array-like of shape (n,)

    Returns
    -------
    dict
        ``nmi``: normalised mutual information in [0, 1]. ``purity``: share of records whose task is the commonest of
        their cluster, in (0, 1].

    Raises
    ------
    DataError
        If the lengths differ or there is no record.

    Examples
    --------
    >>> cluster_task_agreement([0, 0, 1, 1], ["a", "a", "b", "b"])
    {'nmi': 1.0, 'purity': 1.0}
    """
    labels, tasks = _paired(labels, tasks)
    purity = cluster_task_table(labels, tasks).max(axis=1).sum() / len(labels)
    return {"nmi": float(normalized_mutual_info_score(tasks, labels)), "purity": float(purity)}


def task_centroids(X, tasks) -> tuple[list[str], np.ndarray]:
    """The mean direction of each task.

    Parameters
    ----------
    X : array-like of shape (n, d)
        Unit rows.
    tasks : array-like of shape (n,), str

    Returns
    -------
    names : list of str
        Sorted.
    centroids : ndarray of shape (t, d), float32
        Unit rows.

    Raises
    ------
    DataError
        If the lengths differ, a row is not of unit length, or a task's rows cancel out.

    Examples
    --------
    >>> names, centroids = task_centroids(np.eye(2), ["qa", "exam"])
    >>> names, centroids.tolist()
    (['exam', 'qa'], [[0.0, 1.0], [1.0, 0.0]])
    """
    X = check_rows(X, unit=True)
    _, tasks = _paired(np.arange(len(X)), tasks)
    names = sorted(set(tasks.tolist()))
    return names, np.stack([mean_direction(X, np.flatnonzero(tasks == name)) for name in names]).astype(np.float32)


def _paired(labels, tasks):
    labels, tasks = np.asarray(labels), np.asarray(tasks, dtype=object)
    if labels.ndim != 1 or labels.shape != tasks.shape or len(labels) == 0:
        raise DataError(f"labels and tasks do not pair up: shapes {labels.shape} and {tasks.shape}")
    return labels, tasks
