"""Exact and near duplicates inside a corpus, and between its training and its test records, by exact neighbours."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from assl_kit.common.checks import real
from assl_kit.data.conversations import OPTIONAL
from assl_kit.data.records import user_prompt
from assl_kit.errors import DataError
from assl_kit.space.neighbors import make_points, nearest_within, reach
from assl_kit.space.points import Points

NEAR = 0.95
"""Similarity of questions from which on records with the same answer count as near duplicates."""
_FEW = 32  # rows of one answer that are compared pair by pair
# Rows looked at together: against all kept before, and among themselves. They never change a result.
_STEP, _CHUNK = 4096, 512


class _Matches:
    """What finds of both kinds count by: ``exact``, and ``of``, which is -1 where there is no match."""

    of: np.ndarray
    exact: np.ndarray

    @property
    def n_exact(self) -> int:
        """Records that match letter by letter."""
        return int(self.exact.sum())

    @property
    def n_near(self) -> int:
        """Other records that are near their match."""
        return int((~self.exact & (self.of >= 0)).sum())


@dataclass(frozen=True)
class Duplicates(_Matches):
    """Which records repeat an earlier one.

    Attributes
    ----------
    of : ndarray of shape (n,), int64
        The earlier record that a record repeats, itself no duplicate, by row; -1: it repeats none.
    similarity : ndarray of shape (n,), float64
        Of the two questions, in [-1, 1]; NaN where there is none.
    exact : ndarray of shape (n,), bool
        Question and answer stand earlier, letter by letter.
    conflicting : ndarray of shape (n,), bool
        The question stands elsewhere with another answer.
    threshold : float or None
        Similarity from which on questions are near; None: only exact ones were looked for.
    """

    of: np.ndarray
    similarity: np.ndarray
    exact: np.ndarray
    conflicting: np.ndarray
    threshold: float | None

    @property
    def n_conflicting(self) -> int:
        """Records whose question stands elsewhere with another answer."""
        return int(self.conflicting.sum())


@dataclass(frozen=True)
class Leakage(_Matches):
    """Which test records ask what a training record asks.

    Attributes
    ----------
    of : ndarray of shape (n_test,), int64
        The training record with the nearest question, by row; -1: none is near.
    similarity : ndarray of shape (n_test,), float64
        NaN where there is none.
    exact : ndarray of shape (n_test,), bool
        The question stands among the training records, letter by letter.
    same_answer : ndarray of shape (n_test,), bool
        And a training record gives the same answer to it; of near ones: ``of`` does.
    threshold : float or None
        As in `Duplicates`.
    """

    of: np.ndarray
    similarity: np.ndarray
    exact: np.ndarray
    same_answer: np.ndarray
    threshold: float | None


def find_duplicates(
    records: pd.DataFrame, X: np.ndarray | None = None, *, similarity: float = NEAR, progress: bool = False
) -> Duplicates:
    """Find the records that repeat an earlier one: exactly, or with the same answer to a question that is near.

    Parameters
    ----------
    records : DataFrame of n rows
        As `assl_kit.validate_records` gives it. Which is the earlier one goes by the order of the rows.
    X : ndarray of shape (n, d), float32, optional
        Unit rows, the embeddings of the questions. Without them only exact duplicates are looked for.
    similarity : float
        Least cosine of two near questions, in (0, 1].
    progress : bool
        Show a bar.

    Returns
    -------
    Duplicates

    Raises
    ------
    ParameterError
        If ``similarity`` is out of range.
    DataError
        If there is not one row of X for each record.

    Notes
    -----
    Ours. Texts are compared without white space at their ends. Records are taken in their order, and one is a near
    duplicate where an earlier one, that is none itself, is near and has the same answer: so no chain of small steps
    joins what is far apart, and a record that differs in what its answer depends on is never one. Distances are exact
    (`assl_kit.space.neighbors`); records of one answer are worked at a time, so memory is that of the largest.

    Examples
    --------
    >>> from assl_kit import validate_records
    >>> rows = [("甲", "涨"), ("乙", "涨"), ("甲 ", "涨"), ("甲", "跌")]
    >>> records = validate_records([{"instruction": text, "output": answer} for text, answer in rows])
    >>> found = find_duplicates(records, np.float32([[1, 0], [0.96, 0.28], [1, 0], [1, 0]]))
    >>> found.of.tolist(), found.n_exact, found.n_near, found.n_conflicting
    ([-1, 0, 0, -1], 1, 1, 3)
    """
    n = len(records)
    _check(X, n, similarity)
    question, answer = question_codes(records), _codes(records["output"])
    both = _joined(question, answer)
    first = _first_of(both)
    exact = first != np.arange(n)
    asked = pd.Series(answer).groupby(question).nunique().to_numpy()
    of, nearness = np.where(exact, first, -1), np.where(exact, 1.0, np.nan)
    if X is not None:
        alone = np.flatnonzero(~exact)
        for rows in _equal(answer[alone], alone, progress):
            earlier, squared = _few(X[rows], similarity) if len(rows) <= _FEW else _many(X, rows, similarity)
            near = earlier >= 0
            of[rows[near]] = rows[earlier[near]]
            nearness[rows[near]] = _cosine(squared[near])
        moved = exact & (of[first] >= 0)  # a copy of a near duplicate repeats what that one repeats
        of[moved], nearness[moved] = of[first[moved]], nearness[first[moved]]
    return Duplicates(of, nearness, exact, asked[question] > 1, None if X is None else similarity)


def find_leakage(
    train: pd.DataFrame, test: pd.DataFrame, X: np.ndarray | None = None, *, similarity: float = NEAR
) -> Leakage:
    """Find the test records whose question stands among the training records, exactly or nearly.

    Parameters
    ----------
    train, test : DataFrame of n_train and n_test rows
    X : ndarray of shape (n_train + n_test, d), float32, optional
        Unit rows, those of the training records first. Without them only exact ones are looked for.
    similarity : float
        Least cosine of two near questions, in (0, 1].

    Returns
    -------
    Leakage

    Raises
    ------
    ParameterError, DataError
        As `find_duplicates`.

    Examples
    --------
    >>> from assl_kit import validate_records
    >>> ask = lambda *texts: validate_records([{"instruction": text, "output": "是"} for text in texts])
    >>> X = np.float32([[1, 0], [0, 1], [1, 0], [0.28, 0.96], [-1, 0]])
    >>> found = find_leakage(ask("甲", "乙"), ask("甲", "乙？", "丙"), X)
    >>> found.of.tolist(), found.n_exact, found.n_near
    ([0, 1, -1], 1, 1)
    """
    n = len(train)
    _check(X, n + len(test), similarity)
    records = pd.concat([train, test], ignore_index=True)
    question, answer = question_codes(records), _codes(records["output"])
    first = _first_of(question)[n:]
    exact = first < n
    of, nearness = np.where(exact, first, -1), np.where(exact, 1.0, np.nan)
    both = _joined(question, answer)
    same = np.isin(both[n:], both[:n])
    if X is not None and n:
        left = np.flatnonzero(~exact)
        of[left], nearness[left] = nearest_of(X, n + left, np.arange(n), similarity=similarity)
        near = left[of[left] >= 0]
        same[near] |= answer[n + near] == answer[of[near]]
    return Leakage(of, nearness, exact, same & (of >= 0), None if X is None else similarity)


def nearest_of(
    X: np.ndarray, rows: np.ndarray, columns: np.ndarray, *, similarity: float | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """For each of some rows the nearest of others, exactly.

    Parameters
    ----------
    X : ndarray of shape (n, d), float32
        Unit rows.
    rows, columns : ndarray of int64
        Of X; no row is a column.
    similarity : float, optional
        Only columns at least so similar count, in (0, 1].

    Returns
    -------
    nearest : ndarray of shape (len(rows),), int64
        Of ``columns``, or -1; of equally near ones the one that stands first there.
    cosine : ndarray of shape (len(rows),), float64
        NaN where there is none.

    Examples
    --------
    >>> X = np.float32([[1, 0], [0, 1], [0.96, 0.28], [0, 1]])
    >>> nearest, cosine = nearest_of(X, np.array([2, 3]), np.array([0, 1]))
    >>> nearest.tolist(), cosine.round(2).tolist()
    ([0, 1], [0.96, 1.0])
    """
    if not len(rows) or not len(columns):
        return np.full(len(rows), -1), np.full(len(rows), np.nan)
    points = make_points(X, subset=np.concatenate([columns, rows]))
    right, left = np.unique(points.inverse[: len(columns)]), points.inverse[len(columns) :]
    nearest, squared = left.copy(), np.zeros(len(left))
    new = left > right[-1]  # the columns come first: a lower number is one of theirs, so the row is equal to it
    asked, back = np.unique(left[new], return_inverse=True)
    limit = np.full(len(points), np.inf if similarity is None else _limit(similarity))
    numbers, distances = nearest_within(points, asked, right, limit)
    nearest[new], squared[new] = numbers[back], distances[back]
    there = nearest >= 0
    found_at = np.full(len(rows), -1)
    found_at[there] = columns[points.first[nearest[there]]]
    return found_at, np.where(there, _cosine(squared), np.nan)


def question_codes(records: pd.DataFrame) -> np.ndarray:
    """A number for each different question: what the user says, after a system prompt and turns before where there are.

    Examples
    --------
    >>> from assl_kit import validate_records
    >>> rows = [{"instruction": text, "output": "是"} for text in ("甲", "乙", "甲 ")]
    >>> question_codes(validate_records(rows)).tolist()
    [0, 1, 0]
    """
    asked = [user_prompt(*row) for row in zip(records["instruction"], records["input"], strict=True)]
    codes = _codes(pd.Series(asked, dtype=object))
    for name in OPTIONAL:
        if name in records:
            codes = _joined(codes, _codes(records[name].astype(object).where(records[name].notna(), "")))
    return codes


def _codes(texts: pd.Series) -> np.ndarray:
    return pd.factorize(texts.astype(str).str.strip())[0].astype(np.int64)


def _joined(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """A number for each different pair, by first occurrence."""
    return pd.factorize(one * (other.max(initial=0) + 1) + other)[0].astype(np.int64)


def _first_of(codes: np.ndarray) -> np.ndarray:
    """The first row with each row's code."""
    return np.unique(codes, return_index=True)[1][np.unique(codes, return_inverse=True)[1]]


def _check(X: np.ndarray | None, n: int, similarity: float) -> None:
    real("similarity", similarity, 0, 1, inside="least")
    if X is not None and len(X) != n:
        raise DataError(f"there are {len(X)} embeddings for {n} records", hint="Give one for each record.")


def _equal(codes: np.ndarray, rows: np.ndarray, progress: bool) -> Iterator[np.ndarray]:
    """The rows of each code that several have, ascending."""
    order = np.argsort(codes, kind="stable")
    ends = np.flatnonzero(np.diff(codes[order], append=-1)) + 1
    with tqdm(total=len(rows), desc="near duplicates", unit="record", disable=not progress, leave=False) as bar:
        start = 0
        for end in ends.tolist():
            if end - start > 1:
                yield rows[order[start:end]]
            bar.update(end - start)
            start = end


def _limit(similarity: float) -> float:
    """Squared distance of unit rows with this cosine, with the slack of all radii."""
    return float(reach(math.sqrt(max(2 - 2 * similarity, 0.0))))


def _cosine(squared: np.ndarray) -> np.ndarray:
    return 1 - squared / 2


def _few(X: np.ndarray, similarity: float) -> tuple[np.ndarray, np.ndarray]:
    """As `_many`, pair by pair."""
    rows = X.astype(np.float64)
    squared = np.square(rows[:, None] - rows[None]).sum(axis=2)
    limit, kept = _limit(similarity), [0]
    earlier, nearest = np.full(len(X), -1), np.full(len(X), np.inf)
    for row in range(1, len(X)):
        best = kept[int(np.argmin(squared[row, kept]))]
        if squared[row, best] <= limit:
            earlier[row], nearest[row] = best, squared[row, best]
        else:
            kept.append(row)
    return earlier, nearest


def _many(X: np.ndarray, rows: np.ndarray, similarity: float) -> tuple[np.ndarray, np.ndarray]:
    """For each of some rows, by place, the nearest earlier one that is near and no duplicate, or -1; and how far."""
    points = make_points(X, subset=rows)
    u = len(points)
    limit = np.full(u, _limit(similarity))
    kept = _greedy(points, limit)
    dropped = np.setdiff1d(np.arange(u), kept)
    nearest, squared = np.arange(u), np.zeros(u)
    nearest[dropped], squared[dropped] = nearest_within(points, dropped, kept, limit, place=np.arange(u))
    earlier, distance = points.first[nearest[points.inverse]], squared[points.inverse]
    return np.where(earlier == np.arange(len(rows)), -1, earlier), distance


def _greedy(points: Points, limit: np.ndarray) -> np.ndarray:
    """Numbers, ascending, each kept unless an earlier kept one is within the limit."""
    u = len(points)
    state, group = np.zeros(u, np.int8), np.zeros(u, np.int64)
    hint, hint_squared = np.full(u, -1, np.int64), np.zeros(u)
    for start in range(0, u, _STEP):
        rest = np.arange(start, min(start + _STEP, u))
        rest = _uncovered(points, rest, np.flatnonzero(state == 1), limit)
        while len(rest):
            chunk, rest = rest[:_CHUNK], rest[_CHUNK:]
            points.greedy(chunk, limit, group, hint, hint_squared, state)
            rest = _uncovered(points, rest, chunk[state[chunk] == 1], limit)
    return np.flatnonzero(state == 1)


def _uncovered(points: Points, rows: np.ndarray, kept: np.ndarray, limit: np.ndarray) -> np.ndarray:
    nearest, _ = nearest_within(points, rows, kept, limit, any_one=True)
    return rows[nearest < 0]
