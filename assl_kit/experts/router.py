"""CentroidRouter: which expert answers a question, how surely, and when none should."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from assl_kit.common.checks import real, whole
from assl_kit.errors import DataError, ParameterError
from assl_kit.space.rows import unit_rows64

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

_BLOCK = 8192
Mixture = tuple[tuple[int, float], ...]  #: experts and their shares


@dataclass(frozen=True)
class Routes:
    """Where n questions go.

    Attributes
    ----------
    experts : ndarray of shape (n,), int64
        Number of the chosen expert, or −1 where the base answers alone.
    similarity : ndarray of shape (n,), float32
        Cosine to the nearest centroid, in [−1, 1], also where the answer is −1.
    margin : ndarray of shape (n,), float32
        Similarity less that of the runner-up, ≥ 0; ``inf`` where there is only one expert.
    similarities : ndarray of shape (n, k), float32
        Cosine to every centroid.
    """

    experts: np.ndarray
    similarity: np.ndarray
    margin: np.ndarray
    similarities: np.ndarray

    def __len__(self) -> int:
        return len(self.experts)

    def mixtures(self, top_k: int = 1, *, temperature: float = 0.1) -> list[Mixture]:
        """The nearest experts of each question and their shares of the answer.

        Parameters
        ----------
        top_k : int
            At most so many experts.
        temperature : float, > 0
            Shares are the softmax of similarity / temperature: at 0.1 a margin of 0.02 gives shares of .55 and .45, one
            of 0.3 gives .95 and .05. They are rounded to 0.05, so that many questions share a mixture, and who has
            none left is left out.

        Returns
        -------
        list of tuple of (int, float), length n
            Expert and share, the largest first; shares sum to 1. Empty where the base answers alone.

        Raises
        ------
        ParameterError
            If ``top_k`` is not between 1 and the number of experts, or ``temperature`` not positive.

        Notes
        -----
        Ours: the paper sends a question to one expert.

        Examples
        --------
        >>> routes = CentroidRouter([[1, 0], [0, 1]]).route([[0.72, 0.7], [1, 0]])
        >>> routes.mixtures(2)
        [((0, 0.55), (1, 0.45)), ((0, 1.0),)]
        """
        k = self.similarities.shape[1]
        top_k = whole("top_k", top_k, 1, k)
        temperature = real("temperature", temperature, 0, inside=True)
        nearest = np.argsort(-self.similarities, axis=1, kind="stable")[:, :top_k]
        mixtures: list[Mixture] = []
        for expert, row, similarities in zip(self.experts, nearest, self.similarities, strict=True):
            mixtures.append(_mixture(row, similarities[row].astype(np.float64) / temperature) if expert >= 0 else ())
        return mixtures


def _mixture(experts: np.ndarray, scores: np.ndarray) -> Mixture:
    """The softmax of the scores, in twentieths that sum to 1: rounded down, the largest remainders rounded up."""
    shares = np.exp(scores - scores.max())
    exact = 20 * shares / shares.sum()
    twentieths = np.floor(exact).astype(int)
    missing = 20 - twentieths.sum()
    twentieths[np.argsort(twentieths - exact, kind="stable")[:missing]] += 1
    return tuple((int(e), int(t) / 20) for e, t in zip(experts, twentieths, strict=True) if t)


def fixed_mixtures(experts: Sequence[int], n_questions: int, n_experts: int) -> list[Mixture]:
    """One expert for each question, as mixtures; −1 is the base alone.

    Raises
    ------
    DataError
        If there are not as many as questions, or an expert does not exist.

    Examples
    --------
    >>> fixed_mixtures([1, -1], 2, 6)
    [((1, 1.0),), ()]
    """
    numbers = [int(k) for k in experts]
    if len(numbers) != n_questions:
        raise DataError(f"there are {len(numbers)} experts given for {n_questions} questions")
    wrong = [k for k in numbers if not -1 <= k < n_experts]
    if wrong:
        raise DataError(f"there is no expert {wrong[0]}", hint=f"Experts are 0 to {n_experts - 1}; −1: none.")
    return [((k, 1.0),) if k >= 0 else () for k in numbers]


class CentroidRouter:
    """Send each embedded question to the expert whose centroid is nearest.

    Parameters
    ----------
    centroids : array of shape (k, d)
        One row per expert; scaled to unit length.
    min_similarity : float, default −1
        In [−1, 1]. Below it the base answers alone and the route is −1 (ours). −1 always finds an expert.
    names : sequence of str, optional
        Names of the experts, by default ``expert-0`` … .

    Attributes
    ----------
    centroids_ : ndarray of shape (k, d), float32
    names : tuple of str
    min_similarity : float

    Raises
    ------
    DataError
        If a centroid is zero or not finite.
    ParameterError
        If ``min_similarity`` is out of range or ``names`` has another length than ``centroids``.

    Notes
    -----
    arXiv 2404.04949, the router; margin and abstention are ours. The product is computed in float64 and rounded to
    float32, so equal centroids tie exactly and the lower number wins, whatever the batch.

    Examples
    --------
    >>> router = CentroidRouter([[1, 0], [0, 1]], min_similarity=0.5)
    >>> router.route([[3, 1], [-1, -1]]).experts.tolist()
    [0, -1]
    """

    def __init__(self, centroids: ArrayLike, *, min_similarity: float = -1.0, names: Sequence[str] | None = None):
        unit = unit_rows64(centroids, "centroids")
        if len(unit) == 0:
            raise DataError("a router needs at least one centroid")
        self.centroids_ = unit.astype(np.float32)
        self.min_similarity = check_min_similarity(min_similarity)
        self.names = tuple(names) if names is not None else tuple(f"expert-{k}" for k in range(len(unit)))
        if len(self.names) != len(unit):
            raise ParameterError(f"{len(self.names)} names were given for {len(unit)} centroids", where="names")

    def __repr__(self) -> str:
        k, d = self.centroids_.shape
        return f"CentroidRouter({k} experts, dimension {d}, min_similarity={self.min_similarity:g})"

    def route(self, E: ArrayLike, *, known: ArrayLike | None = None, min_similarity: float | None = None) -> Routes:
        """Choose an expert for each row.

        Parameters
        ----------
        E : array of shape (n, d)
            Embedded questions; scaled to unit length here.
        known : array of shape (n,), optional
            How much of each question its embedding speaks for, in [0, 1]:
            :func:`assl_kit.space.static_encoder.known_shares`. Similarities are multiplied by it. By default 1.
        min_similarity : float, optional
            Overrides the router's own for this call.

        Returns
        -------
        Routes

        Raises
        ------
        DataError
            If the dimension differs from the centroids', a row is zero or not finite (the message names it), or
            ``known`` does not fit.

        Examples
        --------
        >>> routes = CentroidRouter([[1, 0], [0, 1]]).route([[0.6, 0.8]])
        >>> routes.experts.tolist(), routes.margin.round(3).tolist()
        ([1], [0.20000000298023224])
        """
        floor = self.min_similarity if min_similarity is None else check_min_similarity(min_similarity)
        E = np.asarray(E)
        k, d = self.centroids_.shape
        if E.ndim == 2 and E.shape[1] != d:
            raise DataError(
                f"the questions are embedded in {E.shape[1]} dimensions, the centroids in {d}",
                hint="Embed the questions with the encoder the experts were chosen with.",
            )
        similarities = np.empty((len(E) if E.ndim == 2 else 0, k), dtype=np.float32)
        E = unit_rows64(E, "E")
        weights = _shares(known, len(E))
        centroids = self.centroids_.astype(np.float64)
        for start in range(0, len(E), _BLOCK):
            block = slice(start, start + _BLOCK)
            similarities[block] = np.clip(E[block] @ centroids.T, -1.0, 1.0) * weights[block, None] + 0.0
        nearest = similarities.argmax(axis=1) if len(E) else np.zeros(0, dtype=np.int64)
        best = similarities[np.arange(len(E)), nearest]
        if k == 1:
            margin = np.full(len(E), np.inf, dtype=np.float32)
        else:
            margin = best - np.partition(similarities, k - 2, axis=1)[:, k - 2]
        experts = np.where(best < np.float32(floor), -1, nearest).astype(np.int64)
        return Routes(experts, best, margin, similarities)


def _shares(known: ArrayLike | None, n: int) -> np.ndarray:
    shares = np.ones(n) if known is None else np.asarray(known, dtype=np.float64)
    if shares.shape != (n,) or not ((shares >= 0) & (shares <= 1)).all():
        raise DataError(f"known must be {n} numbers from 0 to 1, one for each question", where="known")
    return shares


def check_min_similarity(value: float) -> float:
    """Return ``value`` as a float in [−1, 1], or raise `ParameterError`."""
    return real("min_similarity", value, -1, 1)


def expert_centroids(
    X: ArrayLike, clusters: ArrayLike, repeats: ArrayLike | None = None, n_clusters: int | None = None
) -> np.ndarray:
    """Expert embeddings: the normalised mean of each cluster's (selected) rows.

    Parameters
    ----------
    X : array of shape (n, d)
        Embeddings of the selected records; scaled to unit length.
    clusters : array of shape (n,), int
        Cluster of each row, 0 … k−1.
    repeats : array of shape (n,), int, optional
        How often each row is trained on; its weight in the mean. By default 1.
    n_clusters : int, optional
        k, by default the largest cluster number plus one.

    Returns
    -------
    ndarray of shape (k, d), float32, unit rows

    Raises
    ------
    DataError
        If lengths differ, a row is zero or not finite, a cluster is empty, or its rows cancel out.

    Notes
    -----
    arXiv 2404.04949: the centroid of the expert's smoothed data.

    Examples
    --------
    >>> expert_centroids([[1, 0], [0, 1], [0, 1]], [0, 1, 1]).tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    means = _sums(unit_rows64(X, "X"), clusters, repeats, n_clusters)
    length = np.linalg.norm(means, axis=1)
    if (length < 1e-9).any():
        raise DataError(f"the rows of cluster {int(length.argmin())} cancel out, so it has no direction")
    return (means / length[:, None]).astype(np.float32)


def _sums(X: np.ndarray, clusters: ArrayLike, repeats: ArrayLike | None, n_clusters: int | None) -> np.ndarray:
    """The sum of each cluster's unit rows, repeats counted."""
    clusters = np.asarray(clusters)
    repeats = np.ones(len(X)) if repeats is None else np.asarray(repeats, dtype=np.float64)
    if clusters.shape != (len(X),) or repeats.shape != (len(X),):
        raise DataError(f"X has {len(X)} rows, clusters shape {clusters.shape}, repeats shape {repeats.shape}")
    if len(X) and (not np.issubdtype(clusters.dtype, np.integer) or clusters.min() < 0):
        raise DataError("clusters must be whole numbers from 0", where="clusters")
    if not (np.isfinite(repeats).all() and (repeats >= 0).all()):
        raise DataError("repeats must be finite and not negative", where="repeats")
    k = int(clusters.max(initial=-1)) + 1 if n_clusters is None else int(n_clusters)
    if k < 1 or int(clusters.max(initial=-1)) >= k:
        raise DataError(f"cluster {int(clusters.max(initial=-1))} does not fit n_clusters={k}", where="clusters")
    means = np.zeros((k, X.shape[1]))
    np.add.at(means, clusters, X * repeats[:, None])
    empty = np.flatnonzero(np.bincount(clusters, weights=repeats, minlength=k) == 0)
    if len(empty):
        raise DataError(f"cluster {empty[0]} has no record, so its expert has no centroid", hint="Use fewer clusters.")
    return means


def least_usual_similarity(
    X: ArrayLike,
    clusters: ArrayLike,
    repeats: ArrayLike | None = None,
    n_clusters: int | None = None,
    *,
    known: ArrayLike | None = None,
    share: float = 0.01,
) -> float:
    """The ``min_similarity`` below which so small a share of the experts' own questions would lie, were they new.

    Each row is left out of its centroid before its similarity to the nearest one is taken.

    Parameters
    ----------
    X, clusters, repeats, n_clusters
        As in `expert_centroids`.
    known : array of shape (n,), optional
        As in :meth:`CentroidRouter.route`.
    share : float
        In [0, 1]: the quantile.

    Returns
    -------
    float
        Rounded down to thousandths, and at least 0.001: a question that is like nothing goes to the base. At most half
        of the middle similarity: of records that are all but the same a new wording would lie below any of theirs.

    Raises
    ------
    DataError, ParameterError
        As `expert_centroids`; or if the share is out of range.

    Notes
    -----
    Ours: the paper sends every question to an expert.

    Examples
    --------
    >>> least_usual_similarity([[1, 0], [0.8, 0.6], [0, 1], [0.6, 0.8]], [0, 0, 1, 1])
    0.405
    """
    X, clusters, share = unit_rows64(X, "X"), np.asarray(clusters), real("share", share, 0, 1)
    sums = _sums(X, clusters, repeats, n_clusters)
    weights = np.ones(len(X)) if repeats is None else np.asarray(repeats, dtype=np.float64)
    centroids = expert_centroids(X, clusters, repeats, n_clusters).astype(np.float64)
    nearest = np.empty(len(X))
    for start in range(0, len(X), _BLOCK):
        block = slice(start, start + _BLOCK)
        rows, homes = X[block], clusters[block]
        others = sums[homes] - weights[block, None] * rows
        length = np.linalg.norm(others, axis=1)
        cosines = rows @ centroids.T
        alone = length < 1e-9  # the only row of its cluster is near to no other of it
        to_the_others = np.einsum("ij,ij->i", rows, others) / np.where(alone, 1, length)
        cosines[np.arange(len(rows)), homes] = np.where(alone, -1, to_the_others)
        nearest[block] = cosines.max(axis=1)
    nearest *= _shares(known, len(X))
    least, usual = np.quantile(nearest, [share, 0.5])
    return max(float(np.floor(1000 * min(least, usual / 2)) / 1000), 0.001)
