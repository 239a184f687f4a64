"""Maximal marginal relevance: exact greedy selection, lazy in blocks, with the plain loop beside it.

Every value that decides a pick is computed in float64 in one fixed order of summation, so the picks do not depend on
block sizes, threads, devices or the place of a row. Float32 products only tell which values are worth that.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from assl_kit.common.device import torch_device
from assl_kit.common.jit import jit
from assl_kit.common.parallel import thread_count
from assl_kit.errors import DataError, ParameterError
from assl_kit.space.dots import dot, dots, slack
from assl_kit.space.rows import check_rows, mean_direction, row_blocks

from .ids import id_order
from .lazy_mmr import TIES, lazy_picks, torch_picks

if TYPE_CHECKING:
    import torch

_FEW = 4096
"""Rows below which a thread takes longer to start than to help (ours)."""


def mmr_select(
    X: ArrayLike | torch.Tensor,
    n_select: int,
    *,
    centroid: ArrayLike | None = None,
    scores: ArrayLike | None = None,
    weights: ArrayLike = (0.4, 0.2, 0.4),
    ids: ArrayLike | None = None,
    method: str = "lazy",
    n_jobs: int | None = None,
    device: str = "cpu",
) -> np.ndarray:
    """Pick rows one at a time by maximal marginal relevance.

    Each pick is the row x that is not yet picked and maximises
    ``w_relevance · cos(x, centroid) + w_score · score(x) − w_diversity · max over picked y of cos(x, y)``,
    the last term 0 for the first pick.

    Parameters
    ----------
    X : array-like or tensor of shape (n, d)
        Unit rows; computed on as float32. Arrays of another float type, another layout or on disk are read in blocks.
    n_select : int
        How many to pick, 0 … n.
    centroid : array-like of shape (d,), optional
        Any length but zero. Default: the mean of the rows of ``X``.
    scores : array-like of shape (n,), optional
        The model score of each row, in [0, 1]. Default: 0 for all.
    weights : (float, float, float), default (0.4, 0.2, 0.4)
        Relevance, score, diversity: non-negative, with sum 1.
    ids : array-like of shape (n,), optional
        Sortable; of tied rows the one with the smaller id is picked first. Default: the row number. With ids the
        picks do not depend on the order of the rows.
    method : {"lazy", "plain"}, default "lazy"
        ``"lazy"`` refreshes upper bounds in blocks, ``"plain"`` recomputes every row at every pick. The picks are the
        same.
    n_jobs : int, optional
        Threads, as in `assl_kit.common.parallel.thread_count`. Never changes the picks.
    device : str, default="cpu"
        Where the matrix products of ``"lazy"`` run: ``"cpu"``, or a torch device such as ``"cuda"``, which then holds
        all rows. The picks are the same.

    Returns
    -------
    ndarray of shape (n_select,), int64
        Row numbers in the order of picking. A shorter selection is the beginning of a longer one.

    Raises
    ------
    DataError
        If a row is not finite or not of unit length, a score is outside [0, 1], the centroid has no direction, or ids
        do not fit.
    ParameterError
        If ``n_select``, ``weights``, ``method``, ``n_jobs``, ``device`` or a shape does not fit.

    Notes
    -----
    Carbonell & Goldstein (1998); as a second stage after A-DBSCAN: paper, data redistribution. After the first pick
    the value of a row only falls, so a value computed earlier is an upper bound (Minoux 1978). A round takes the 1024
    greatest bounds, brings them up to date by matrix products with the picks they have not seen, and picks among them
    while the best is above every bound outside. Memory beyond the input: O(n + n_select · d). Values within 1e-12 of
    each other count as tied (ours).

    Examples
    --------
    >>> X = np.array([[1, 0], [1, 0], [0.8, 0.6], [0.6, -0.8]])
    >>> mmr_select(X, 3, centroid=[1, 0], weights=(0.4, 0, 0.6)).tolist()
    [0, 3, 2]
    """
    workers = thread_count(n_jobs)
    with ThreadPoolExecutor(workers) as pool:
        each: Callable[..., Iterable] = pool.map if workers > 1 else map
        X = check_rows(X, unit=True, convert=False, each=each)
        n = len(X)
        if n < _FEW:
            workers, each = 1, map
        n_select = _check_count(n_select, n)
        weights = check_weights(weights)
        if method not in {"lazy", "plain"}:
            raise ParameterError(f"unknown method {method!r}", hint="Use 'lazy' or 'plain'.")
        if device != "cpu":
            torch_device(device)
        order = id_order(ids, n)
        scores = _check_scores(scores, n)
        if n_select == 0:
            return np.empty(0, np.int64)
        direction = _check_centroid(centroid, X, None if ids is None else order, each)
        relevance = np.concatenate(list(each(lambda block: dots(_float32(block[1]), direction), row_blocks(X))))
        base = (weights[0] * relevance + weights[1] * scores)[order]
        if method == "plain":
            return order[_plain(_float32(X), order, base, weights[2], n_select)]
        if device != "cpu":
            return order[torch_picks(X, order, base, weights[2], n_select, device)]
        read = lambda at: _float32(X[order[at]])  # noqa: E731
        return order[lazy_picks(read, X.shape, base, weights[2], n_select, workers=workers, each=each)]


def _plain(X: np.ndarray, order: np.ndarray, base: np.ndarray, weight: float, n_select: int) -> np.ndarray:
    """The definition, a matrix-vector product a pick. Returns positions in ``order``; ties go to the first of them."""
    picks = np.empty(n_select, np.int64)
    value, nearest = np.rint(base * TIES), np.full(len(base), -np.inf)
    for t in range(n_select):
        picks[t] = p = np.argmax(value)
        np.maximum(nearest, dots(X, X[order[p]])[order], out=nearest)
        value = np.rint((base - weight * nearest) * TIES)
        value[picks[: t + 1]] = -np.inf
    return picks


@jit
def _greatest_earlier(
    A: np.ndarray, P: np.ndarray, S: np.ndarray, slack: float, start: int, nearest: np.ndarray
) -> None:
    """nearest[i] = max over j < start + i of A[i]·P[j] exactly; S is A @ P.T within ``slack``."""
    for i in range(len(A)):
        top = np.float32(-np.inf)
        for j in range(start + i):
            top = max(top, S[i, j])
        for j in range(start + i):
            if S[i, j] >= top - 2 * slack:
                nearest[i] = max(nearest[i], dot(A[i], P[j]))


def mmr_terms(
    X: ArrayLike | torch.Tensor, picks: ArrayLike, *, centroid: ArrayLike | None = None, scores: ArrayLike | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The three terms of each pick at the time it was picked: why it is there.

    Parameters
    ----------
    X : array-like of shape (n, d)
        Unit rows.
    picks : array-like of shape (p,), int
        Row numbers in the order of picking, as from `mmr_select`.
    centroid : array-like of shape (d,), optional
        Default: the mean of the rows of ``X``.
    scores : array-like of shape (n,), optional
        In [0, 1]. Default: 0.

    Returns
    -------
    relevance, score, max_similarity : ndarrays of shape (p,), float64
        ``cos(x, centroid)``, the score, and the greatest cosine to an earlier pick (0 for the first pick).

    Raises
    ------
    DataError, ParameterError
        As `mmr_select`; also if a pick is not a row number of ``X``.

    Examples
    --------
    >>> X = np.array([[1, 0], [0.6, 0.8], [0, 1]])
    >>> relevance, score, max_similarity = mmr_terms(X, [0, 2, 1], centroid=[1, 0])
    >>> max_similarity.round(4).tolist()
    [0.0, 0.0, 0.8]
    """
    X = check_rows(X, unit=True, convert=False)
    picks = np.asarray(picks)
    if picks.size == 0:
        return np.empty(0), np.empty(0), np.empty(0)
    if picks.ndim != 1 or picks.dtype.kind not in "iu" or picks.min() < 0 or picks.max() >= len(X):
        raise ParameterError(f"picks are not row numbers from 0 to {len(X) - 1}")
    score = _check_scores(scores, len(X))[picks]
    rows = _float32(X[picks])
    relevance = dots(rows, _check_centroid(centroid, X, None))
    nearest = np.full(len(rows), -np.inf)
    for start in range(0, len(rows), 256):
        some, earlier = rows[start : start + 256], rows[: start + 256]
        _greatest_earlier(some, earlier, some @ earlier.T, slack(X.shape[1]), start, nearest[start : start + 256])
    nearest[0] = 0.0
    return relevance, score, nearest


def _float32(rows: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(rows, dtype=np.float32)


def _check_count(n_select: int, n: int) -> int:
    try:
        count = operator.index(n_select)
    except TypeError:
        raise ParameterError(f"n_select is {n_select!r}, not a whole number") from None
    if not 0 <= count <= n:
        raise ParameterError(f"n_select is {count}, but there are {n} rows", hint=f"Use 0 to {n}.")
    return count


def check_weights(weights: ArrayLike) -> np.ndarray:
    """The MMR weights as float64, or a `ParameterError`."""
    try:
        values = np.asarray(weights, dtype=np.float64)
    except (TypeError, ValueError):
        raise ParameterError(f"weights are {weights!r}, not three numbers") from None
    if values.shape != (3,) or not (values >= 0).all() or abs(values.sum() - 1) > 1e-6:
        raise ParameterError(
            f"weights are {weights!r}", hint="Give relevance, score and diversity: non-negative, with sum 1."
        )
    return values


def _check_scores(scores: ArrayLike | None, n: int) -> np.ndarray:
    if scores is None:
        return np.zeros(n)
    try:
        values = np.asarray(scores, dtype=np.float64)
    except (TypeError, ValueError):
        raise DataError("scores are not numbers") from None
    if values.shape != (n,):
        raise ParameterError(f"scores have shape {values.shape}, but there are {n} rows", hint="Give one for each row.")
    bad = np.flatnonzero(~((values >= 0) & (values <= 1)))
    if len(bad):
        raise DataError(
            f"score {values[bad[0]]} is not in [0, 1]",
            where=f"row {bad[0]}",
            hint="Normalise the scores, for instance with `assl_kit.model.ranks.rank_within`.",
        )
    return values


def _check_centroid(
    centroid: ArrayLike | None, X: np.ndarray, order: np.ndarray | None, each: Callable[..., Iterable] = map
) -> np.ndarray:
    if centroid is None:
        return mean_direction(X, order, each)
    try:
        values = np.asarray(centroid, dtype=np.float64)
    except (TypeError, ValueError):
        raise DataError("the centroid is not made of numbers") from None
    if values.shape != (X.shape[1],):
        raise ParameterError(f"the centroid has shape {values.shape}, but rows have {X.shape[1]} columns")
    length = np.linalg.norm(values)
    if not np.isfinite(length) or length == 0:
        raise DataError("the centroid has no direction: it is zero or not finite")
    return values / length
