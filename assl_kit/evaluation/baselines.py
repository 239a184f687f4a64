"""Other ways to choose a small training set, for comparison: at random, k-means medoids, k-center."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np

from assl_kit.common.checks import whole
from assl_kit.space.rows import check_rows

if TYPE_CHECKING:
    import torch
    from numpy.typing import ArrayLike


def random_rows(n: int, n_select: int, *, seed: int = 0) -> np.ndarray:
    """Rows drawn at random, without replacement.

    Parameters
    ----------
    n, n_select : int
        How many there are, and how many to draw.
    seed : int

    Returns
    -------
    ndarray of shape (n_select,), int64
        Ascending.

    Raises
    ------
    ParameterError
        If ``n_select`` is not between 0 and ``n``.

    Examples
    --------
    >>> random_rows(5, 5).tolist()
    [0, 1, 2, 3, 4]
    """
    whole("n_select", n_select, 0, n)
    return np.sort(np.random.default_rng(seed).permutation(n)[:n_select]).astype(np.int64)


def k_means_medoids(X: ArrayLike | torch.Tensor, n_select: int, *, seed: int = 0) -> np.ndarray:
    """The row nearest to each of ``n_select`` k-means centroids.

    Parameters
    ----------
    X : array of shape (n, d)
        Finite rows.
    n_select : int
        How many to choose; also the number of centroids.
    seed : int

    Returns
    -------
    ndarray of shape (n_select,), int64
        Ascending, all different: a row that is nearest to two centroids counts once, and rows drawn at random fill up.

    Raises
    ------
    ParameterError
        If ``n_select`` is not between 0 and the number of rows.
    DataError
        If a row is not finite.

    Notes
    -----
    The selection of clustering-based pruning, e.g. Sorscher et al. 2022 (arXiv 2206.14486), with one prototype a
    centroid.

    Examples
    --------
    >>> k_means_medoids([[0.0, 0.1], [0.0, 0.2], [5.0, 0.0]], 3).tolist()
    [0, 1, 2]
    """
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    X = check_rows(X)
    whole("n_select", n_select, 0, len(X))
    if n_select == 0:
        return np.zeros(0, np.int64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer different rows than centroids
        model = KMeans(n_select, n_init=1, random_state=seed).fit(X)
    distance = model.transform(X)[np.arange(len(X)), model.labels_]
    order = np.lexsort((np.arange(len(X)), distance))  # by distance, so that the first row of a label is its nearest
    _, first = np.unique(model.labels_[order], return_index=True)
    chosen = order[first]
    rest = np.setdiff1d(np.arange(len(X)), chosen)
    more = np.random.default_rng(seed).permutation(rest)[: n_select - len(chosen)]
    return np.sort(np.concatenate([chosen, more])).astype(np.int64)


def k_center(X: ArrayLike | torch.Tensor, n_select: int, *, seed: int = 0) -> np.ndarray:
    """Greedy k-center: from a random row on, always the row farthest from all that were chosen.

    Parameters
    ----------
    X : array of shape (n, d)
        Finite rows.
    n_select : int
    seed : int
        Draws the first row.

    Returns
    -------
    ndarray of shape (n_select,), int64
        In the order of choosing.

    Raises
    ------
    ParameterError
        If ``n_select`` is not between 0 and the number of rows.
    DataError
        If a row is not finite.

    Notes
    -----
    Gonzalez 1985; as core-set selection Sener and Savarese 2018 (arXiv 1708.00489). Its largest distance to a chosen
    row is at most twice the least possible one.

    Examples
    --------
    >>> sorted(k_center([[0.0], [0.1], [9.0], [9.1]], 2).tolist()) in ([0, 3], [1, 3], [0, 2])
    True
    """
    X = np.asarray(check_rows(X), dtype=np.float64)
    whole("n_select", n_select, 0, len(X))
    if n_select == 0:
        return np.zeros(0, np.int64)
    chosen = [int(np.random.default_rng(seed).integers(len(X)))]
    distance = np.square(X - X[chosen[0]]).sum(axis=1)
    distance[chosen[0]] = -1  # never again, even among copies of it
    while len(chosen) < n_select:
        chosen.append(int(distance.argmax()))
        np.minimum(distance, np.square(X - X[chosen[-1]]).sum(axis=1), out=distance)
        distance[chosen[-1]] = -1
    return np.array(chosen, dtype=np.int64)
