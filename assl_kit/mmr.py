"""Maximal marginal relevance: exact greedy selection, lazy in blocks, with the plain loop beside it.

Every value that decides a pick is computed in float64 in one fixed order of summation, so the picks do not depend on
block sizes, threads or the place of a row. The fast path uses float32 matrix products only to find which earlier picks
*can* be the most similar one (with a rigorous bound on their rounding error); those few are then computed in float64.
"""

from __future__ import annotations

import operator

import numpy as np
from numba import njit

from .errors import DataError, ParameterError
from .ids import id_order
from .neighbors import check_rows

_BLOCK = 256  # rows refreshed together
_TIES = 2.0**40  # values are compared on this grid: closer than 1e-12 is a tie


@njit(cache=True, nogil=True)
def _dot(x, y):
    total = 0.0
    for t in range(x.shape[0]):
        total += np.float64(x[t]) * np.float64(y[t])
    return total


@njit(cache=True, nogil=True)
def _dots(X, y):
    out = np.empty(X.shape[0], np.float64)
    for i in range(X.shape[0]):
        out[i] = _dot(X[i], y)
    return out


@njit(cache=True, nogil=True)
def _raise_maxima(X, Y, S, slack, stop, best):
    """best[i] = max(best[i], max over j < stop[i] of X[i]·Y[j]) exactly; S is X @ Y.T within ``slack``."""
    for i in range(S.shape[0]):
        top = np.float32(-np.inf)
        for j in range(stop[i]):
            top = max(top, S[i, j])
        floor = np.float32(max(np.float64(top) - 2 * slack, best[i] - slack))
        if top < floor:
            continue
        for j in range(stop[i]):
            if S[i, j] >= floor:
                best[i] = max(best[i], _dot(X[i], Y[j]))


def _slack(d: int) -> float:
    """Bound on the float32 rounding error of a dot product of two rows of length ≤ 1.001, whatever the order."""
    return 1.01 * (d + 2) * 2.0**-24


def mean_direction(X: np.ndarray, rows: np.ndarray | None = None) -> np.ndarray:
    """The mean of rows, scaled to unit length.

    Parameters
    ----------
    X : ndarray of shape (n, d), float32
    rows : ndarray of int, optional
        The rows to average, added in this order; all rows in their order by default.

    Returns
    -------
    ndarray of shape (d,), float64
        Unit length.

    Raises
    ------
    DataError
        If there is no row, or the mean has no direction (its length is below 1e-6).

    Examples
    --------
    >>> mean_direction(np.eye(2, dtype=np.float32)).round(4).tolist()
    [0.7071, 0.7071]
    """
    n = len(X) if rows is None else len(rows)
    total = np.zeros(X.shape[1])
    for start in range(0, n, 4096):
        part = X[start : start + 4096] if rows is None else X[rows[start : start + 4096]]
        total += part.sum(axis=0, dtype=np.float64)
    length = np.linalg.norm(total)
    if n == 0 or length < 1e-6 * n:
        raise DataError(
            f"the mean of {n} rows has no direction, so there is no centroid",
            hint="Give a centroid, or rows that do not cancel out.",
        )
    return total / length


def mmr_select(X, n_select, *, centroid=None, scores=None, weights=(0.4, 0.2, 0.4), ids=None, method="lazy"):
    """Pick rows one at a time by maximal marginal relevance.

    Each pick is the row x that is not yet picked and maximises
    ``w_relevance · cos(x, centroid) + w_score · score(x) − w_diversity · max over picked y of cos(x, y)``,
    the last term 0 for the first pick.

    Parameters
    ----------
    X : array-like of shape (n, d)
        Unit rows; computed on as float32.
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
        If ``n_select``, ``weights``, ``method`` or a shape does not fit.

    Notes
    -----
    Carbonell & Goldstein (1998); as a second stage after A-DBSCAN: paper, data redistribution. After the first pick
    the value of a row only falls, so a value computed earlier is an upper bound (Minoux 1978). A round takes the 256
    greatest bounds, refreshes them with one matrix product against the picks they have not seen, and picks among them
    while the best is above every bound outside. Memory beyond the input: O(n + n_select · d). Values within 1e-12 of
    each other count as tied (ours).

    Examples
    --------
    >>> X = np.array([[1, 0], [1, 0], [0.8, 0.6], [0.6, -0.8]])
    >>> mmr_select(X, 3, centroid=[1, 0], weights=(0.4, 0, 0.6)).tolist()
    [0, 3, 2]
    """
    X = check_rows(X, unit=True)
    n = len(X)
    n_select = _check_count(n_select, n)
    weights = check_weights(weights)
    if method not in {"lazy", "plain"}:
        raise ParameterError(f"unknown method {method!r}", hint="Use 'lazy' or 'plain'.")
    order = id_order(ids, n)
    scores = _check_scores(scores, n)
    if n_select == 0:
        return np.empty(0, np.int64)
    base = weights[0] * _dots(X, _check_centroid(centroid, X, order)) + weights[1] * scores
    pick = _lazy if method == "lazy" else _plain
    return order[pick(X, order, base[order], weights[2], n_select)]


def _on_grid(values: np.ndarray) -> np.ndarray:
    return np.rint(values * _TIES)


def _plain(X, order, base, weight, n_select):
    """The definition, a matrix-vector product a pick. Returns positions in ``order``; ties go to the first of them."""
    picks = np.empty(n_select, np.int64)
    value, nearest = _on_grid(base), np.full(len(base), -np.inf)
    for t in range(n_select):
        picks[t] = p = np.argmax(value)
        np.maximum(nearest, _dots(X, X[order[p]])[order], out=nearest)
        value = _on_grid(base - weight * nearest)
        value[picks[: t + 1]] = -np.inf
    return picks


def _lazy(X, order, base, weight, n_select):
    """The same picks; ``bound`` holds each row's value at the last time it was looked at."""
    n, d = X.shape
    block, slack = min(_BLOCK, n), _slack(d)
    picks, picked = np.empty(n_select, np.int64), np.empty((n_select, d), np.float32)
    picks[0] = first = np.argmax(_on_grid(base))
    picked[0] = X[order[first]]
    # From the first pick on values only fall; before it they can rise, for the term is 0 and a cosine may be negative.
    nearest, seen, t = _dots(X, picked[0])[order], np.ones(n, np.int64), 1
    bound = _on_grid(base - weight * nearest)
    bound[first] = -np.inf
    while t < n_select:
        rows = _greatest(bound, block)
        rows = rows[np.argsort(seen[rows], kind="stable")]
        here, near = X[order[rows]], nearest[rows]
        for part in _by_age(t - seen[rows]):
            new = picked[seen[rows[part.start]] : t]
            if len(new):
                stop = np.full(part.stop - part.start, len(new))
                _raise_maxima(here[part], new, here[part] @ new.T, slack, stop, near[part])
        value = np.where(bound[rows] == -np.inf, -np.inf, _on_grid(base[rows] - weight * near))
        bound[rows] = -np.inf
        rival = np.argmax(bound)  # the first of the greatest outside the block
        while t < n_select:
            greatest = value.max()
            tied = np.flatnonzero(value == greatest)
            b = tied[rows[tied].argmin()]
            if greatest == -np.inf or (greatest, -rows[b]) < (bound[rival], -rival):
                break
            picks[t], picked[t] = rows[b], here[b]
            _raise_maxima(here, picked[t : t + 1], (here @ here[b])[:, None], slack, np.ones(len(rows), np.int64), near)
            t += 1
            gone = value == -np.inf
            value = _on_grid(base[rows] - weight * near)
            value[gone] = value[b] = -np.inf
        bound[rows], nearest[rows], seen[rows] = value, near, t
    return picks


def _greatest(bound, count):
    """Positions of the ``count`` greatest values; of equal ones the first."""
    if count == len(bound):
        return np.arange(count)
    limit = np.partition(bound, len(bound) - count)[len(bound) - count]
    above = np.flatnonzero(bound > limit)
    return np.concatenate([above, np.flatnonzero(bound == limit)[: count - len(above)]])


def _by_age(age):
    """Slices of rows (oldest first) whose count of unseen picks lies within a factor of two."""
    start = 0
    while start < len(age):
        stop = int(np.searchsorted(-age, -(age[start] // 2), side="left")) if age[start] > 64 else len(age)
        stop = max(stop, start + 1)
        yield slice(start, stop)
        start = stop


def mmr_terms(X, picks, *, centroid=None, scores=None):
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
    X = check_rows(X, unit=True)
    picks = np.asarray(picks)
    if picks.size == 0:
        return np.empty(0), np.empty(0), np.empty(0)
    if picks.ndim != 1 or picks.dtype.kind not in "iu" or picks.min() < 0 or picks.max() >= len(X):
        raise ParameterError(f"picks are not row numbers from 0 to {len(X) - 1}")
    scores = _check_scores(scores, len(X))[picks]
    rows = X[picks]
    relevance = _dots(rows, _check_centroid(centroid, X, np.arange(len(X))))
    nearest = np.full(len(rows), -np.inf)
    for start in range(0, len(rows), _BLOCK):
        stop = min(start + _BLOCK, len(rows))
        some, earlier, count = rows[start:stop], rows[:stop], np.arange(start, stop)
        _raise_maxima(some, earlier, some @ earlier.T, _slack(X.shape[1]), count, nearest[start:stop])
    nearest[0] = 0.0
    return relevance, scores, nearest


def _check_count(n_select, n):
    try:
        count = operator.index(n_select)
    except TypeError:
        raise ParameterError(f"n_select is {n_select!r}, not a whole number") from None
    if not 0 <= count <= n:
        raise ParameterError(f"n_select is {count}, but there are {n} rows", hint=f"Use 0 to {n}.")
    return count


def check_weights(weights):
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


def _check_scores(scores, n):
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
            hint="Normalise the scores, for instance with rank_normalise.",
        )
    return values


def _check_centroid(centroid, X, order):
    if centroid is None:
        return mean_direction(X, order)
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
