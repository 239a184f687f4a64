"""How good clusters are: how many to make, how they agree with the tasks."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score, silhouette_score

from assl_kit.common.checks import whole
from assl_kit.common.names import by_number
from assl_kit.errors import DataError, ParameterError

from .clusters import SemanticKMeans
from .rows import check_rows, mean_direction

if TYPE_CHECKING:
    import torch
    from numpy.typing import ArrayLike


def choose_n_clusters(
    X: ArrayLike | torch.Tensor,
    candidates: Iterable[int] = range(2, 13),
    n_seeds: int = 3,
    sample: int = 2000,
    seed: int = 0,
    *,
    n_init: int = 3,
) -> pd.DataFrame:
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
    whole("n_seeds", n_seeds, 2, hint="Stability compares runs.")
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
        several = len(np.unique(best.labels_)) > 1  # else no silhouette is defined
        silhouette = silhouette_score(distances, best.labels_, metric="precomputed") if several else 0.0
        stability = np.mean([adjusted_rand_score(a.labels_, b.labels_) for a, b in combinations(runs, 2)])
        table.append((k, float(silhouette), float(stability), best.inertia_))
    return pd.DataFrame(table, columns=["n_clusters", "silhouette", "stability", "inertia"])


def cluster_task_table(labels: ArrayLike, tasks: ArrayLike) -> pd.DataFrame:
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
    table = pd.crosstab(pd.Series(labels, name="cluster"), pd.Series(tasks, name="task"))
    return table[sorted(table.columns, key=by_number)]


def cluster_task_agreement(labels: ArrayLike, tasks: ArrayLike) -> dict[str, float]:
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


def task_centroids(X: ArrayLike | torch.Tensor, tasks: ArrayLike) -> tuple[list[str], np.ndarray]:
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
    names = sorted(set(tasks.tolist()), key=by_number)
    centroids = [mean_direction(X, np.flatnonzero(tasks == name)) for name in names]
    return names, np.stack(centroids).astype(np.float32)


def _paired(labels: ArrayLike, tasks: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    labels, tasks = np.asarray(labels), np.asarray(tasks, dtype=object)
    if labels.ndim != 1 or labels.shape != tasks.shape or len(labels) == 0:
        raise DataError(f"labels and tasks do not pair up: shapes {labels.shape} and {tasks.shape}")
    return labels, tasks
