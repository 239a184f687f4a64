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
from assl_kit.space.torch_lloyd import ENTRIES_ON_DEVICE

TIES = 2.0**40  #: values are compared on this grid: closer than 1e-12 is a tie
_BLOCK = 1024  # rows brought up to date together
_CHUNK = 128  # picks they are compared with at a time
DEVICE_BLOCK, LISTED = 512, 4  # the same on a device, and how many nearest picks it keeps of each row

# Of each row: relevance and score with their weights; the similarity to its nearest pick so far, exact or within the
# slack; then also the next greatest similarity, and the number of that nearest pick (-1: the similarity is the exact
# one from before); how many picks it has seen; and an upper bound on its value, on the grid, -inf once it is picked.
Rows = namedtuple("Rows", "base top exact second nearest seen bound")
# Of a row at some time: its nearest picks, the similarity of the last of them, and how many picks there were.
Near = namedtuple("Near", "picks last time")
# A round: its members, ascending; ``lines[places[m]]`` is the row of a member; their similarities to each other within
# the slack (or none); the greatest bound outside and whose it is; and `Near` of the members (or none).
Round = namedtuple("Round", "members lines places similarity limit rival near last time")


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
    i: int, x: np.ndarray, near: Near, picked: np.ndarray, again: np.ndarray, weight: float, slack: float, rows: Rows
) -> None:
    """Make the similarity of row i exact; ``near`` is what is known of this row."""
    top = rows.top[i]
    if rows.second[i] < top - 2 * slack:  # only one pick can be the nearest
        if rows.nearest[i] >= 0:
            top = dot(x, picked[rows.nearest[i]])
    else:
        floor, top, start = top - 2 * slack, -np.inf, 0
        if near.last < floor:  # of the picks at that time those listed are the only ones
            start = near.time
            for j in near.picks:
                if j >= 0:
                    top = max(top, dot(x, picked[j]))
        for j in range(start, rows.seen[i]):
            if not again[j] and product(x, picked[j]) >= floor:
                top = max(top, dot(x, picked[j]))
    rows.top[i], rows.exact[i] = top, True
    rows.bound[i] = np.rint(_value(i, top, weight, rows))


@jit
def _pick(
    block: Round,
    picks: np.ndarray,
    picked: np.ndarray,
    again: np.ndarray,
    t: int,
    weight: float,
    slack: float,
    rows: Rows,
) -> int:
    """Pick among the members of a round while the best is above every bound outside. Gives the new t.

    ``again`` marks a pick that equals the one before: it changes nothing, which makes many equal rows cheap.
    """
    members, lines, places, similarities, limit, rival = block[:6]
    here = _taken(rows, members)  # side by side in memory: these are gone through for every pick
    low, news = np.empty(len(members)), np.empty(len(members))
    left = np.empty(len(members), np.int64)
    count, floor = 0, -np.inf
    for m in range(len(members)):
        if here.bound[m] >= limit:
            left[count] = m
            count += 1
            _sharpen(m, weight, slack, here, low, news)
            floor = max(floor, low[m])
    while t < len(picks) and count:
        best = -1
        for m in left[:count]:
            if here.bound[m] < floor:
                continue
            if not here.exact[m]:
                near = Near(block.near[m], block.last[m], block.time)
                _settle(m, lines[places[m]], near, picked, again, weight, slack, here)
                _sharpen(m, weight, slack, here, low, news)
            equal = best >= 0 and here.bound[m] == here.bound[best]
            if best < 0 or here.bound[m] > here.bound[best] or (equal and members[m] < members[best]):
                best = m
        if here.bound[best] < limit or (here.bound[best] == limit and rival < members[best]):
            break
        picks[t], picked[t], here.bound[best] = members[best], lines[places[best]], -np.inf
        again[t] = np.array_equal(picked[t], picked[t - 1])
        kept, floor = 0, -np.inf
        for m in left[:count]:
            if m == best:
                continue
            here.seen[m] = t + 1
            if not again[t]:
                if len(similarities):
                    similarity = np.float64(similarities[best, m])
                else:
                    similarity = np.float64(product(lines[places[m]], lines[places[best]]))
                if similarity >= news[m]:
                    if here.exact[m]:
                        here.top[m] = max(here.top[m], dot(lines[places[m]], lines[places[best]]))
                    else:
                        _note(m, similarity, t, slack, here)
                    _lower_bound(m, weight, slack, here)
                    _sharpen(m, weight, slack, here, low, news)
                    if here.bound[m] < limit:
                        continue
            left[kept] = m
            kept += 1
            floor = max(floor, low[m])
        count, t = kept, t + 1
    for m in range(len(members)):
        i = members[m]
        rows.top[i], rows.exact[i], rows.second[i] = here.top[m], here.exact[m], here.second[m]
        rows.nearest[i], rows.seen[i], rows.bound[i] = here.nearest[m], here.seen[m], here.bound[m]
    return t


@jit
def _taken(rows: Rows, members: np.ndarray) -> Rows:
    """A copy of what is known of some rows."""
    base, top, exact = rows.base[members], rows.top[members], rows.exact[members]
    return Rows(base, top, exact, rows.second[members], rows.nearest[members], rows.seen[members], rows.bound[members])


@jit
def _sharpen(m: int, weight: float, slack: float, rows: Rows, low: np.ndarray, news: np.ndarray) -> None:
    """What a row is worth at least, and the least similarity that would change anything."""
    if rows.exact[m]:
        low[m], news[m] = rows.bound[m], rows.top[m] - slack
    else:
        low[m], news[m] = _value(m, rows.top[m] + slack, weight, rows) - 1, rows.second[m]


def lazy_picks(
    read: Callable[[np.ndarray], np.ndarray],
    shape: tuple[int, int],
    base: np.ndarray,
    weight: float,
    n_select: int,
    *,
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
    rows, picks, picked, again = _begin(read, shape, base, n_select)

    def refresh(members: np.ndarray, here: np.ndarray, places: np.ndarray, t: int, limit: float) -> None:
        """Let the members at these places see all t picks, as long as their bound reaches the limit."""
        for start in range(rows.seen[members[places]].min() // _CHUNK * _CHUNK, t, _CHUNK):
            stop = min(start + _CHUNK, t)
            places = places[rows.bound[members[places]] >= limit]
            behind = places[rows.seen[members[places]] < stop]
            if len(behind) == 0:
                continue
            start = max(start, rows.seen[members[behind]].min())
            S = products(here, behind, picked[start:stop])
            _absorb(S, members[behind], start, weight, error, rows)

    def first_look(start: int) -> None:
        members = np.arange(start, min(start + step, n))
        refresh(members, read(members), np.arange(len(members)), 1, -np.inf)

    step = max(1, 2**19 // d)
    list(each(first_look, range(0, n, step)))
    rows.bound[picks[0]] = -np.inf
    t = 1
    while t < n_select:
        members = _greatest(rows.bound, min(_BLOCK, n))
        members = members[rows.bound[members] > -np.inf]
        rival = _first_outside(rows.bound, members)
        here = read(members)
        limit = rows.bound[rival] if rival >= 0 else -np.inf
        parts = [np.arange(part, len(members), workers) for part in range(min(workers, len(members)))]
        list(each(lambda places: refresh(members, here, places, t, limit), parts))  # noqa: B023
        none = np.empty((len(members), 0), np.int64), np.full(len(members), np.inf), 0
        block = Round(members, here, np.arange(len(members)), here[:0], limit, rival, *none)
        t = _pick(block, picks, picked, again, t, weight, error, rows)
    return picks


def _begin(
    read: Callable[[np.ndarray], np.ndarray], shape: tuple[int, int], base: np.ndarray, n_select: int
) -> tuple[Rows, np.ndarray, np.ndarray, np.ndarray]:
    """Nothing known of any row; room for the picks, for their rows, and for which equal the one before; the first pick.

    From the first pick on values only fall; before it they can rise, for the term is 0 and a cosine may be negative.
    """
    n, d = shape
    picks, picked = np.empty(n_select, np.int64), np.empty((n_select, d), np.float32)
    picks[0] = np.argmax(np.rint(base * TIES))
    picked[0] = read(picks[:1])[0]
    unknown = np.full(n, -np.inf)
    rows = Rows(base, unknown, np.zeros(n, bool), unknown.copy(), np.full(n, -1), np.zeros(n, np.int64), -unknown)
    return rows, picks, picked, np.zeros(n_select, bool)


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


class Board:
    """All rows on a torch device, with the nearest picks and the bound of each.

    Parameters
    ----------
    X : ndarray of shape (n, d)
    order : ndarray of shape (n,), int64
        Turns positions into rows of X.
    base, weight
        As `lazy_picks`.
    device : str
        A torch device.
    """

    def __init__(self, X: np.ndarray, order: np.ndarray, base: np.ndarray, weight: float, device: str) -> None:
        import torch

        step = max(1, ENTRIES_ON_DEVICE // X.shape[1])
        self.rows = upload((X[a : a + step] for a in range(0, len(X), step)), X.shape, torch_device(device))
        self.device, self.weight, self.slack = self.rows.device, weight, slack(X.shape[1])
        if (order != np.arange(len(order))).any():
            self.rows = self.rows[torch.tensor(order, device=self.device)]
        self.base = torch.tensor(base, device=self.device)
        self.bound = torch.full_like(self.base, torch.inf)
        self.near = torch.full((len(X), LISTED), -torch.inf, device=self.device)
        self.picks = torch.full((len(X), LISTED), -1, device=self.device)

    def see(self, picks: np.ndarray, numbers: np.ndarray) -> None:
        """Let every row see these picks, positions numbered so."""
        import torch

        step = max(1, ENTRIES_ON_DEVICE // len(self.rows))
        for a in range(0, len(picks), step):
            some, names = (torch.tensor(part[a : a + step], device=self.device) for part in (picks, numbers))
            with full_float32():
                similarity = self.rows @ self.rows[some].T
            self.near, at = torch.cat([self.near, similarity], dim=1).topk(LISTED, dim=1)
            held = self.picks.gather(1, at.clamp(max=LISTED - 1))
            self.picks = torch.where(at < LISTED, held, names[(at - LISTED).clamp(min=0)])
        bound = (self.base - self.weight * (self.near[:, 0].double() - self.slack)) * TIES + 1
        self.bound = torch.minimum(self.bound, bound)

    def best(self, count: int) -> tuple[np.ndarray, ...]:
        """The ``count`` positions of greatest bound, ascending, and what is known of them.

        Gives the positions, their bounds, nearest picks with similarities and similarities to each other, the greatest
        bound outside and whose it is. One wait for the device.
        """
        import torch

        greatest = self.bound.sort(descending=True, stable=True)  # of equal ones the first
        top = greatest.indices[:count].sort().values
        bound, near, picks = self.bound[top], self.near[top], self.picks[top]
        limit, rival = greatest.values[count : count + 1], greatest.indices[count : count + 1]
        with full_float32():
            similarity = self.rows[top] @ self.rows[top].T
        parts = (top, bound, near, picks, limit, rival)
        answer = torch.cat([part.double().flatten() for part in parts]).cpu().numpy()
        ends = np.cumsum([len(part.flatten()) for part in parts])
        top, bound, near, picks, limit, rival = np.split(answer, ends[:-1])
        near, picks = near.reshape(-1, LISTED), picks.reshape(-1, LISTED).astype(np.int64)
        outside = (limit[0], int(rival[0])) if len(rival) else (-np.inf, -1)
        return top.astype(np.int64), bound, near, picks, similarity.cpu().numpy(), *outside

    def learn(self, positions: np.ndarray, bound: np.ndarray) -> None:
        """Take these bounds of rows."""
        import torch

        self.bound[torch.tensor(positions, device=self.device)] = torch.tensor(bound, device=self.device)


def torch_picks(
    X: np.ndarray, order: np.ndarray, base: np.ndarray, weight: float, n_select: int, device: str
) -> np.ndarray:
    """As `lazy_picks` of the rows of X in this order, with the products and bounds of all rows on a torch device.

    There every row sees every pick: on a device that costs less than asking which need to. The picks are made here.
    """

    def read(positions: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(X[order[positions]], dtype=np.float32)

    board, as_is = Board(X, order, base, weight, device), X.dtype == np.float32 and X.flags.c_contiguous
    rows, picks, picked, again = _begin(read, X.shape, base, n_select)
    board.learn(picks[:1], np.array([-np.inf]))
    seen, t = 0, 1
    while t < n_select:
        fresh = seen + np.flatnonzero(~again[seen:t])
        board.see(picks[fresh], fresh)
        members, bound, near, listed, similarity, limit, rival = board.best(DEVICE_BLOCK)
        free = bound > -np.inf
        if not free.all():
            members, bound, near, listed = members[free], bound[free], near[free], listed[free]
            similarity = similarity[np.ix_(free, free)]
        rows.top[members], rows.second[members], rows.nearest[members] = near[:, 0], near[:, 1], listed[:, 0]
        rows.exact[members], rows.seen[members], rows.bound[members] = False, t, bound
        lines, places = (X, order[members]) if as_is else (read(members), np.arange(len(members)))
        block = Round(members, lines, places, similarity, limit, rival, listed, near[:, -1], t)
        seen, t = t, _pick(block, picks, picked, again, t, weight, board.slack, rows)
        board.learn(members, rows.bound[members])
    return picks
