"""Semantic clusters: spherical k-means, started from scikit-learn's or on a sample."""

from __future__ import annotations

import warnings
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.base import BaseEstimator, ClusterMixin, TransformerMixin
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data
from threadpoolctl import threadpool_limits

from assl_kit.common.checks import positive
from assl_kit.common.device import torch_device
from assl_kit.common.parallel import thread_count
from assl_kit.errors import DataError, ParameterError

from .lloyd import Lloyd, best_start, nearest_centers
from .rows import UnitRows, as_array, unit
from .torch_lloyd import TorchLloyd, best_start_there, on_device

if TYPE_CHECKING:
    import torch
    from numpy.typing import ArrayLike

_SAMPLE, _PER_CLUSTER = 8192, 256  # restarts run on so many rows: the first, or the second for each cluster if more


class SemanticKMeans(ClusterMixin, TransformerMixin, BaseEstimator):
    """Spherical k-means: clusters of directions, compared by cosine.

    Several starts compete: by scikit-learn's `KMeans` on the rows scaled to unit length or, of many rows, by the same
    algorithm on a sample. From the best one the centres are scaled to unit length and all rows reassigned by cosine
    until nothing moves. Clusters are numbered by decreasing size (ties by first member).

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
    n_jobs : int, optional
        Threads, as in `assl_kit.common.parallel.thread_count`. Never changes the result.
    device : str, default="cpu"
        Where rows are compared with centres: ``"cpu"``, or a torch device such as ``"cuda"``, which then holds all
        rows. The result is the same.
    method : {"lazy", "plain"}, default="lazy"
        ``"lazy"`` looks again only at rows that may have moved, ``"plain"`` at all in every iteration. The result is
        the same.

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
    The paper uses k-means with six clusters (section on semantic clustering); the refinement by cosine, and the starts
    on a sample of ``max(8192, 256 · n_clusters)`` rows where there are more, are ours. Rows need not have unit length
    here: they are scaled. A zero row has cosine 0 to every centre; the pipeline refuses such rows before they get here.
    With fewer distinct rows than clusters the last clusters are empty, with a warning.

    Beyond that sample, memory beyond the input is O(n · n_clusters): rows are read in blocks, float32 rows of unit
    length in place. Bounds tell which rows may change their label (Hamerly 2010, Elkan 2003).

    Examples
    --------
    >>> X = np.array([[1, 0], [0.8, 0.6], [0, 1], [-0.28, 0.96], [0.96, 0.28]])
    >>> model = SemanticKMeans(n_clusters=2).fit(X)
    >>> model.labels_.tolist()
    [0, 0, 1, 1, 0]
    >>> model.predict([[0, 3.0]]).tolist()
    [1]
    """

    def __init__(
        self,
        n_clusters: int = 6,
        n_init: int = 10,
        max_iter: int = 100,
        random_state: int | np.random.RandomState | None = 0,
        *,
        n_jobs: int | None = None,
        device: str = "cpu",
        method: str = "lazy",
    ) -> None:
        self.n_clusters = n_clusters
        self.n_init = n_init
        self.max_iter = max_iter
        self.random_state = random_state
        self.n_jobs = n_jobs
        self.device = device
        self.method = method

    def fit(self, X: ArrayLike | torch.Tensor, y: Any = None) -> SemanticKMeans:
        """Find the clusters of the rows of ``X`` of shape (n, d); ``y`` is ignored."""
        self._check()
        X = self._array(X, reset=True)
        n, k = len(X), self.n_clusters
        most = max(_SAMPLE, _PER_CLUSTER * k)
        if n < k:
            raise DataError(
                f"there are fewer rows than clusters: n_samples={n}, n_clusters={k}",
                hint="Give more records or ask for fewer clusters.",
            )
        with ThreadPoolExecutor(thread_count(self.n_jobs)) as pool:
            rows = UnitRows(X, pool.map)
            if n <= most:
                X = unit(np.ascontiguousarray(X, dtype=np.float32))
                rows, (centers, n_iter) = UnitRows(X), self._start(X)
            there = None if self.device == "cpu" else on_device(rows, self.device)
            if n > most:
                random = check_random_state(self.random_state)
                sample = np.sort(random.choice(n, most, replace=False))
                asked = rows, sample, k, random.randint(2**31 - 1, size=self.n_init), self.max_iter
                start = best_start(*asked, pool.map) if there is None else best_start_there(*asked, there)
                centers, n_iter = start
            lloyd: Lloyd | TorchLloyd
            if there is None:
                lloyd = Lloyd(rows, centers, pool.map, self.method == "lazy")
            else:
                lloyd = TorchLloyd(rows, centers, there)
            self.n_iter_ = n_iter + lloyd.run(self.max_iter)
            lloyd.renumber(_canonical(lloyd.labels, k))
        self.cluster_centers_, self.labels_, self.inertia_ = lloyd.centers, lloyd.labels, lloyd.inertia
        return self

    def _start(self, X: np.ndarray) -> tuple[np.ndarray, int]:
        """Centres of the best restart on all rows."""
        with threadpool_limits(limits=1), warnings.catch_warnings():  # one thread: the same whatever the machine has
            warnings.simplefilter("ignore", ConvergenceWarning)  # _canonical says it in our words
            start = KMeans(self.n_clusters, n_init=self.n_init, max_iter=self.max_iter, random_state=self.random_state)
            start.fit(X)
        return unit(start.cluster_centers_), int(start.n_iter_)

    def predict(self, X: ArrayLike | torch.Tensor) -> np.ndarray:
        """The cluster of each row: int64 labels of shape (n,), the centre of greatest cosine (ties to the first).

        Rows are read in blocks, so memory beyond the labels does not grow with them.
        """
        check_is_fitted(self)
        with ThreadPoolExecutor(thread_count(self.n_jobs)) as pool:
            return nearest_centers(UnitRows(self._array(X, reset=False), pool.map), self.cluster_centers_, pool.map)

    def transform(self, X: ArrayLike | torch.Tensor) -> np.ndarray:
        """Cosine of each row to each centre: shape (n, n_clusters), float32, in [-1, 1]."""
        check_is_fitted(self)
        rows = UnitRows(self._array(X, reset=False))
        cosines = [rows.take(block) @ self.cluster_centers_.T for block in rows.blocks]
        return np.clip(np.concatenate(cosines), -1, 1)

    def _check(self) -> None:
        positive(n_clusters=self.n_clusters, n_init=self.n_init, max_iter=self.max_iter)
        if self.method not in ("lazy", "plain"):
            raise ParameterError(f"unknown method {self.method!r}", hint="Use 'lazy' or 'plain'.")
        if self.device != "cpu":
            torch_device(self.device)

    def _array(self, X: ArrayLike | torch.Tensor, *, reset: bool) -> np.ndarray:
        return validate_data(self, as_array(X), dtype="numeric", ensure_all_finite=False, reset=reset)

    @property
    def _n_features_out(self) -> int:
        return self.cluster_centers_.shape[0]


def _canonical(labels: np.ndarray, k: int) -> np.ndarray:
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
