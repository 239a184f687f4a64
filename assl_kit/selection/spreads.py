"""How much the three terms of MMR differ over a pool: only what differs can decide."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from assl_kit.space.dots import dots

SAMPLE = 256  #: rows of a pool whose nearest among themselves tell how much diversity differs


def term_spreads(X: np.ndarray, centroid: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Standard deviations of relevance, score and diversity over the rows of a pool.

    Parameters
    ----------
    X : ndarray of shape (n, d), float32
        Unit rows of the pool. Their order decides which are sampled: give them in order of id.
    centroid : ndarray of shape (d,)
        Unit length.
    scores : ndarray of shape (n,)

    Returns
    -------
    ndarray of shape (3,)
        Of diversity: of the greatest cosine to another row, among at most 256 rows evenly spaced. 0 where a term is
        the same for all.

    Notes
    -----
    Ours. A weight says nothing by itself: a rank fills [0, 1], while cosines to a centroid differ by a few hundredths,
    so "0.2 for the score" used to be the strongest term by far. Standard deviations and not interquartile ranges, which
    are 0 where half of the scores are alike.

    Examples
    --------
    >>> X = np.array([[1, 0], [0.8, 0.6], [0.6, 0.8], [0, 1]], dtype=np.float32)
    >>> term_spreads(X, np.array([1.0, 0.0]), np.array([0, 0, 1, 1.0])).round(3).tolist()
    [0.374, 0.5, 0.08]
    """
    sample = np.ascontiguousarray(X[np.unique(np.linspace(0, len(X) - 1, min(len(X), SAMPLE)).astype(np.int64))])
    nearest = np.zeros(len(sample))
    if len(sample) > 1:
        for i in range(len(sample)):
            others = dots(sample, sample[i].astype(np.float64))
            others[i] = -np.inf
            nearest[i] = others.max()
    relevance = np.concatenate([dots(X[at : at + 8192], centroid) for at in range(0, len(X), 8192)])
    spreads = np.array([relevance.std(), np.std(scores), nearest.std()])
    return np.where(spreads > 1e-9, spreads, 0.0)


def scaled_weights(weights: ArrayLike, spreads: ArrayLike) -> np.ndarray:
    """Weights for terms as they are, such that each term's weight × spread is as the given weights are.

    Parameters
    ----------
    weights, spreads : array-like of shape (3,)

    Returns
    -------
    ndarray of shape (3,)
        Sum 1. A term that is the same for all gets 0; if none is left, the weights are given back.

    Examples
    --------
    >>> scaled_weights([0.5, 0.2, 0.3], [0.05, 0.25, 0.05]).round(3).tolist()
    [0.595, 0.048, 0.357]
    """
    weights, spreads = np.asarray(weights, dtype=np.float64), np.asarray(spreads, dtype=np.float64)
    scaled = np.divide(weights, spreads, out=np.zeros(3), where=spreads > 0)
    return scaled / scaled.sum() if scaled.sum() > 0 else weights
