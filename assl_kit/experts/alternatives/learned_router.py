"""LearnedRouter: a classifier chooses the expert; the centroids still say when none should answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from assl_kit.common.checks import whole
from assl_kit.errors import DataError, ParameterError
from assl_kit.space.rows import unit_rows64

from ..router import CentroidRouter, Routes

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

LEARNERS = ("neighbors", "svm")


class LearnedRouter(CentroidRouter):
    """Send each embedded question where a classifier, taught by examples, says.

    Parameters
    ----------
    centroids : array of shape (k, d)
        Of the experts; a question below ``min_similarity`` to all of them goes to the base, as with `CentroidRouter`.
    X : array of shape (n, d)
        Embedded examples.
    experts : array of shape (n,), int
        The expert of each: the cluster of a training record, or the expert that did best on it.
    learner : {"neighbors", "svm"}
        The vote of the nearest examples, each by its cosine, or a linear support vector machine.
    n_neighbors : int
        How many vote.
    min_similarity, names
        As of `CentroidRouter`.

    Raises
    ------
    DataError
        If rows do not fit the centroids, or an expert does not exist.
    ParameterError
        If the learner is unknown.

    Notes
    -----
    The selectors of other routers (vLLM's semantic router calls them ``knn`` and ``svm``), on the same embeddings.

    Examples
    --------
    >>> X = [[1, 0], [0.9, 0.1], [0.8, 0.6], [0, 1]]
    >>> router = LearnedRouter([[1, 0], [0, 1]], X, [0, 0, 1, 1], n_neighbors=1)
    >>> router.route([[0.8, 0.55], [1, 0.02]]).experts.tolist()  # the first is nearer to the first centroid
    [1, 0]
    """

    def __init__(
        self,
        centroids: ArrayLike,
        X: ArrayLike,
        experts: ArrayLike,
        *,
        learner: str = "neighbors",
        n_neighbors: int = 10,
        min_similarity: float = -1.0,
        names: Sequence[str] | None = None,
    ):
        super().__init__(centroids, min_similarity=min_similarity, names=names)
        rows, labels = unit_rows64(X, "X"), np.asarray(experts)
        if labels.shape != (len(rows),) or len(rows) == 0 or not np.issubdtype(labels.dtype, np.integer):
            raise DataError(f"experts must be {len(rows)} whole numbers, one for each row of X", where="experts")
        if rows.shape[1] != self.centroids_.shape[1]:
            what = f"X has {rows.shape[1]} dimensions, the centroids {self.centroids_.shape[1]}"
            raise DataError(what, hint="Embed both with one encoder.")
        if labels.min() < 0 or labels.max() >= len(self.centroids_):
            raise DataError(f"experts are 0 to {len(self.centroids_) - 1}", where="experts")
        self.learner_ = _learner(learner, min(whole("n_neighbors", n_neighbors, 1), len(rows)), len(set(labels)))
        self.learner_.fit(rows, labels)

    def route(self, E: ArrayLike, *, known: ArrayLike | None = None, min_similarity: float | None = None) -> Routes:
        """Choose an expert for each row: the classifier's, or −1 where `CentroidRouter` says so.

        Parameters
        ----------
        E, known, min_similarity
            As of `CentroidRouter.route`; so are the similarities and margins of the result, which tell of centroids.

        Returns
        -------
        Routes
        """
        routes = super().route(E, known=known, min_similarity=min_similarity)
        if not len(routes):
            return routes
        chosen = self.learner_.predict(unit_rows64(E, "E"))
        return replace(routes, experts=np.where(routes.experts < 0, -1, chosen).astype(np.int64))


def _learner(name: str, n_neighbors: int, n_labels: int) -> Any:
    from sklearn.dummy import DummyClassifier
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.svm import LinearSVC

    if name not in LEARNERS:
        raise ParameterError(f"unknown learner {name!r}", where="learner", hint=f"Use one of {', '.join(LEARNERS)}.")
    if name == "neighbors":
        return KNeighborsClassifier(n_neighbors, metric="cosine", weights=_by_cosine)
    return LinearSVC(random_state=0) if n_labels > 1 else DummyClassifier()  # one class is none to it


def _by_cosine(distances: np.ndarray) -> np.ndarray:
    return np.maximum(1 - distances, 1e-9)
