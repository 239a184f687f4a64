"""The lazy greedy loop of MMR: few similarities are computed, and only near ties in float64.

After the first pick the value of a row only falls, so a value computed earlier is an upper bound (Minoux 1978). A round
takes the rows of greatest bound and brings them up to date against the picks they have not seen, in float32 matrix
products of some picks at a time; a row drops out as soon as its bound is below the greatest bound outside the block.
Then picks are made among the few that are left, until the best is not above that rival any more.

A similarity in float32 is known within a rigorous bound on its rounding error. Where that leaves open which row is
best, the value is settled in float64 by `dot`, so the picks are those of the plain loop whatever made the products.
"""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable, Iterable

import numpy as np

from assl_kit.common.device import full_float32, torch_device, upload
from assl_kit.common.jit import jit
from assl_kit.space.dots import dot, product, products, slack
from assl_kit.space.lloyd import ENTRIES_ON_DEVICE

TIES = 2.0**40  #: values are compared on this grid: closer than 1e-12 is a tie
_BLOCK = 1024  # rows brought up to date together
_CHUNK = 128  # picks they are compared with at a time

# Of each row: relevance and score with their weights; the similarity to its nearest pick so far, exact or within the
# slack; then also the next greatest similarity, and the number of that nearest pick (-1: the similarity is the exact
# one from before); how many picks it has seen; and an upper bound on its value, on the grid, -inf once it is picked.
Rows = namedtuple("Rows", "base top exact second nearest seen bound")


@jit
def _value(i: int, top: float, weight: float, rows: Rows) -> float:
    return (rows.base[i] - weight * top) * TIES


@jit
def _note(i: int, similarity: float, pick: int, slack: float, rows: Rows) -> None:
    """Let row i see a pick, with the similarity known within the slack."""
    if rows.exact[i]:
        if similarity < rows.top[i] - slack:
            return
        rows.exact[i], rows.second[i], rows.nearest[i] = False, -np.inf, -1
    if similarity > rows.top[i]:
        rows.second[i], rows.top[i], rows.nearest[i] = rows.top[i], similarity, pick
    elif similarity > rows.second[i]:
        rows.second[i] = similarity


@jit
def _lower_bound(i: int, weight: float, slack: float, rows: Rows) -> None:
    """Let the bound of row i follow its similarity; a bound never rises."""
    if rows.exact[i]:
        bound = np.rint(_value(i, rows.top[i], weight, rows))
    else:
        bound = _value(i, rows.top[i] - slack, weight, rows) + 1
    rows.bound[i] = min(rows.bound[i], bound)


@jit
def _absorb(S: np.ndarray, members: np.ndarray, start: int, weight: float, slack: float, rows: Rows) -> None:
    """Let members see the picks from ``start`` on; S holds their similarities within the slack."""
    for r in range(len(members)):
        i = members[r]
        for j in range(max(rows.seen[i] - start, 0), S.shape[1]):
            limit = rows.top[i] - slack if rows.exact[i] else rows.second[i]
            if S[r, j] >= limit:
                _note(i, S[r, j], start + j, slack, rows)
        rows.seen[i] = start + S.shape[1]
        _lower_bound(i, weight, slack, rows)


@jit
def _settle(
    i: int, x: np.ndarray, picked: np.ndarray, again: np.ndarray, weight: float, slack: float, rows: Rows
) -> None:
    """Make the similarity of row i exact."""
    top = rows.top[i]
    if rows.second[i] < top - 2 * slack:  # only one pick can be the nearest
        if rows.nearest[i] >= 0:
            top = dot(x, picked[rows.nearest[i]])
    else:
        floor, top = top - 2 * slack, -np.inf
        for j in range(rows.seen[i]):
            if not again[j] and product(x, picked[j]) >= floor:
                top = max(top, dot(x, picked[j]))
    rows.top[i], rows.exact[i] = top, True
    rows.bound[i] = np.rint(_value(i, top, weight, rows))


@jit
def _pick(
    members: np.ndarray,
    here: np.ndarray,
    rival: int,
    picks: np.ndarray,
    picked: np.ndarray,
    again: np.ndarray,
    t: int,
    weight: float,
    slack: float,
    rows: Rows,
) -> int:
    """Pick among members, whose rows are ``here``, while the best is above every bound outside. Gives the new t.

    ``again`` marks a pick that equals the one before: it changes nothing, which makes many equal rows cheap.
    """
    limit = rows.bound[rival] if rival >= 0 else -np.inf
    left = np.empty(len(members), np.int64)
    count = 0
    for m in range(len(members)):
        if rows.bound[members[m]] >= limit:
            left[count] = m
            count += 1
    while t < len(picks) and count:
        floor = -np.inf
        for m in left[:count]:
            i = members[m]
            low = rows.bound[i] if rows.exact[i] else _value(i, rows.top[i] + slack, weight, rows) - 1
            floor = max(floor, low)
        best = -1
        for m in left[:count]:
            i = members[m]
            if rows.bound[i] < floor:
                continue
            if not rows.exact[i]:
                _settle(i, here[m], picked, again, weight, slack, rows)
            b = members[best]
            if best < 0 or rows.bound[i] > rows.bound[b] or (rows.bound[i] == rows.bound[b] and i < b):
                best = m
        b = members[best]
        if rows.bound[b] < limit or (rows.bound[b] == limit and rival < b):
            break
        picks[t], picked[t], rows.bound[b] = b, here[best], -np.inf
        again[t] = np.array_equal(picked[t], picked[t - 1])
        kept = 0
        for m in left[:count]:
            i = members[m]
            if m == best:
                continue
            if not again[t]:
                similarity = np.float64(product(here[m], here[best]))
                if rows.exact[i] and similarity >= rows.top[i] - slack:
                    rows.top[i] = max(rows.top[i], dot(here[m], here[best]))
                else:
                    _note(i, similarity, t, slack, rows)
                _lower_bound(i, weight, slack, rows)
            rows.seen[i] = t + 1
            if rows.bound[i] >= limit:
                left[kept] = m
                kept += 1
        count, t = kept, t + 1
    return t


def lazy_picks(
    read: Callable[[np.ndarray], np.ndarray],
    shape: tuple[int, int],
    base: np.ndarray,
    weight: float,
    n_select: int,
    *,
    similarities: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None,
    workers: int = 1,
    each: Callable[..., Iterable] = map,
) -> np.ndarray:
    """The picks of the plain greedy loop.

    Parameters
    ----------
    read : callable
        Gives the rows of an array of positions as float32, shape (len(positions), d).
    shape : (int, int)
        (n, d).
    base : ndarray of shape (n,), float64
        What a row is worth without the picks.
    weight : float
        What the similarity to the nearest pick takes away.
    n_select : int
        At least 1.
    similarities : callable, optional
        ``similarities(positions, picks)`` computes products of rows elsewhere, as a float32 array.
    workers : int, default=1
        Parts that the rows of a round are divided into.
    each : callable, default=map
        Runs the parts; ``map`` of a thread pool does so in threads.

    Returns
    -------
    ndarray of shape (n_select,), int64
        Positions; ties go to the first.
    """
    n, d = shape
    error = slack(d)
    picks, picked, again = np.empty(n_select, np.int64), np.empty((n_select, d), np.float32), np.zeros(n_select, bool)
    picks[0] = first = np.argmax(np.rint(base * TIES))
    picked[0] = read(picks[:1])[0]
    # From the first pick on values only fall; before it they can rise, for the term is 0 and a cosine may be negative.
    unknown = np.full(n, -np.inf)
    rows = Rows(base, unknown, np.zeros(n, bool), unknown.copy(), np.full(n, -1), np.zeros(n, np.int64), -unknown)

    def refresh(members: np.ndarray, here: np.ndarray | None, places: np.ndarray, t: int, limit: float) -> None:
        """Let the members at these places see all t picks, as long as their bound reaches the limit."""
        for start in range(rows.seen[members[places]].min() // _CHUNK * _CHUNK, t, _CHUNK):
            stop = min(start + _CHUNK, t)
            places = places[rows.bound[members[places]] >= limit]
            behind = places[rows.seen[members[places]] < stop]
            if len(behind) == 0:
                continue
            start = max(start, rows.seen[members[behind]].min())
            if similarities is None:
                S = products(here, behind, picked[start:stop])
            else:
                S = similarities(members[behind], picks[start:stop])
            _absorb(S, members[behind], start, weight, error, rows)

    def first_look(start: int) -> None:
        members = np.arange(start, min(start + step, n))
        refresh(members, None if similarities else read(members), np.arange(len(members)), 1, -np.inf)

    step = max(1, 2**19 // d)
    list(each(first_look, range(0, n, step)))
    rows.bound[first] = -np.inf
    t = 1
    while t < n_select:
        members = _greatest(rows.bound, min(_BLOCK, n))
        members = members[rows.bound[members] > -np.inf]
        rival = _first_outside(rows.bound, members)
        here = read(members)
        limit = rows.bound[rival] if rival >= 0 else -np.inf
        parts = [np.arange(part, len(members), workers) for part in range(min(workers, len(members)))]
        list(each(lambda places: refresh(members, here, places, t, limit), parts))  # noqa: B023
        t = _pick(members, here, rival, picks, picked, again, t, weight, error, rows)
    return picks


def _greatest(bound: np.ndarray, count: int) -> np.ndarray:
    """Positions of the ``count`` greatest values; of equal ones the first."""
    if count == len(bound):
        return np.arange(count)
    limit = np.partition(bound, len(bound) - count)[len(bound) - count]
    above = np.flatnonzero(bound > limit)
    return np.concatenate([above, np.flatnonzero(bound == limit)[: count - len(above)]])


def _first_outside(bound: np.ndarray, members: np.ndarray) -> int:
    """The position of the greatest bound outside (of equal ones the first), -1 if all are inside."""
    held = bound[members]
    bound[members] = -np.inf
    rival = int(np.argmax(bound))
    rival = -1 if bound[rival] == -np.inf else rival
    bound[members] = held
    return rival


def torch_similarities(X: np.ndarray, order: np.ndarray, device: str) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """For `lazy_picks`: products of rows of X on a torch device, which holds X; ``order`` turns positions into rows."""
    import torch

    step = max(1, ENTRIES_ON_DEVICE // X.shape[1])
    blocks = (np.ascontiguousarray(X[a : a + step], np.float32) for a in range(0, len(X), step))
    there = upload(blocks, X.shape, torch_device(device))

    def similarities(positions: np.ndarray, picks: np.ndarray) -> np.ndarray:
        left, right = (there[torch.tensor(order[at], device=there.device)] for at in (positions, picks))
        with full_float32():
            return (left @ right.T).cpu().numpy()

    return similarities
