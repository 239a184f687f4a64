"""The checks of the exercises on corpus and space: the tail, embedding, clusters, density, MMR (notebooks 01 to 05).

Each prints one line; see `assl_kit.teaching.exercises.check`. Its first argument is the learner's function.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd

from assl_kit.selection.mmr import mmr_select

from .exercises import Wrong, ask, check, number, numbers, rows

_TIE = 1e-5
WEIGHTS = tuple(tenth / 10 for tenth in range(11))
"""The weights of diversity that are tried in notebook 05."""


# --- 01 Data --------------------------------------------------------------------------------------------------------


@check
def check_half(function: Callable, names: Sequence[str]) -> str:
    """``half(names)`` → the least number of different names that together have at least half of the entries."""
    toy = ["a", "a", "b", "b", "c", "d"]
    for given_names in (toy, list(names)):
        answer = number(ask(function, given_names))
        counts = [count for _, count in Counter(given_names).most_common()]
        right = int(np.searchsorted(np.cumsum(counts), len(given_names) / 2)) + 1
        if answer != right:
            held = sum(counts[: max(0, int(answer))])
            what = f"you say {answer:g}, but the {answer:g} most common hold {held} of {len(given_names)}"
            raise Wrong(what + (", less than half" if answer < right else f", and {right} are enough"))
    return f"{right} of {len(counts)} hold half of {len(names)} records"


@check
def check_repeated(function: Callable, texts: Sequence[str]) -> str:
    """``repeated(texts)`` → the rows whose text stands in an earlier row."""
    n, first = len(texts), dict[str, int]()
    for row, text in enumerate(texts):
        first.setdefault(text, row)
    answer = set(rows(ask(function, list(texts)), n))
    for row in sorted(row for row in answer if first[texts[row]] == row)[:1]:
        raise Wrong(f"row {row} is named, but it is the first with its text: it repeats nothing")
    for row in [row for row in range(n) if first[texts[row]] < row and row not in answer][:1]:
        raise Wrong(f"row {row} is missing: row {first[texts[row]]} has the same text")
    return f"{len(answer)} of {n} texts stand in an earlier row"


# --- 02 Embedding ---------------------------------------------------------------------------------------------------


@check
def check_unit_rows(function: Callable, table: np.ndarray) -> str:
    """``unit_rows(table)`` → rows scaled to length 1, for ``table`` of shape (n, d)."""
    answer = numbers(ask(function, table), table.shape)
    lengths, before = np.linalg.norm(answer, axis=1), np.linalg.norm(table, axis=1)
    for row in np.flatnonzero(np.abs(lengths - 1) > 1e-3)[:1]:
        raise Wrong(f"your rows are not of unit length: row {row} has length {lengths[row]:.3g}")
    cosine = (answer * table).sum(axis=1) / before
    for row in np.flatnonzero(cosine < 0.999)[:1]:
        what = f"row {row} has length 1 but another direction: its cosine to the row given is {cosine[row]:.2f}"
        raise Wrong(f"{what}; divide the whole row by one number, its length")
    return f"{len(table)} rows of length 1, before from {before.min():.2f} to {before.max():.2f}"


@check
def check_nearest_other(function: Callable, E: np.ndarray) -> str:
    """``nearest_other(E)`` → for each unit row of ``E`` the number of the other row with the greatest cosine."""
    n, cosine = len(E), E @ E.T
    answer = rows(ask(function, E), n)
    if len(answer) != n:
        raise Wrong(f"there are {n} rows, but {len(answer)} answers")
    for row in [row for row in range(n) if answer[row] == row][:1]:
        raise Wrong(f"row {row} is called its own nearest neighbour: leave out the diagonal, where the cosine is 1")
    np.fill_diagonal(cosine, -2)
    best = cosine.argmax(axis=1)
    for row in np.flatnonzero(cosine[np.arange(n), answer] < cosine.max(axis=1) - _TIE)[:1]:
        what = f"for row {row} you say row {answer[row]} with cosine {cosine[row, answer[row]]:.2f}"
        raise Wrong(f"{what}, but row {best[row]} has cosine {cosine[row, best[row]]:.2f}")
    return f"the nearest other row of each of {n}, at a mean cosine of {cosine.max(axis=1).mean():.2f}"


@check
def check_repetitions(function: Callable, E: np.ndarray, least: float) -> str:
    """``repetitions(E, least)`` → the rows that have an earlier row at a cosine of at least ``least``."""
    n = len(E)
    answer = set(rows(ask(function, E, least), n))
    earlier = np.tril(np.asarray(E @ E.T, dtype=float), -1) + np.triu(np.full((n, n), -2.0))
    most, like = earlier.max(axis=1), earlier.argmax(axis=1)
    if len(answer) == n:
        raise Wrong("you name every row: each has cosine 1 to itself, so compare it with earlier rows only")
    for row in sorted(row for row in answer if most[row] < least - _TIE)[:1]:
        raise Wrong(f"row {row} is named, but no earlier row is so similar: the first of a group repeats nothing")
    for row in [row for row in range(n) if most[row] > least + _TIE and row not in answer][:1]:
        raise Wrong(f"row {row} is missing: the earlier row {like[row]} has cosine {most[row]:.3f} to it")
    return f"{len(answer)} of {n} records come close to an earlier one"


# --- 03 Clustering --------------------------------------------------------------------------------------------------


@check
def check_kmeans_step(function: Callable, points: np.ndarray, centroids: np.ndarray) -> str:
    """``kmeans_step(points, centroids)`` → (label of each point, moved centroids), all rows of unit length."""
    answer = ask(function, points, centroids)
    if not isinstance(answer, (tuple, list)) or len(answer) != 2:
        raise Wrong("return two things: the label of each point, and the moved centroids")
    k, cosine = len(centroids), points @ centroids.T
    labels = np.array(rows(answer[0], k, "the labels"))
    if labels.shape != (len(points),):
        raise Wrong(f"there are {len(points)} points, but {len(labels)} labels")
    for row in np.flatnonzero(cosine[np.arange(len(points)), labels] < cosine.max(axis=1) - _TIE)[:1]:
        best, mine = cosine[row].argmax(), labels[row]
        what = f"point {row} is given to centroid {mine} (cosine {cosine[row, mine]:.2f})"
        raise Wrong(f"{what}, but centroid {best} is nearer (cosine {cosine[row, best]:.2f})")
    moved = numbers(answer[1], centroids.shape, "the array of moved centroids")
    for number_ in range(k):
        mean, length = points[labels == number_].mean(axis=0), np.linalg.norm(moved[number_])
        if moved[number_] @ mean < 0.999 * length * np.linalg.norm(mean):
            raise Wrong(f"centroid {number_} does not point where the mean of its {sum(labels == number_)} points does")
        if abs(length - 1) > 1e-3:
            raise Wrong(f"centroid {number_} has length {length:.3g}: put the mean back to length 1")
    return f"one step moves the centroids by up to {np.linalg.norm(moved - centroids, axis=1).max():.3f}"


@check
def check_choose_k(function: Callable, table: pd.DataFrame, least: float) -> str:
    """``choose_k(table, least)`` → of the k whose stability is at least ``least``, the one of greatest silhouette."""
    toy = pd.DataFrame({"n_clusters": [2, 3, 4, 5], "silhouette": [0.2, 0.5, 0.4, 0.6], "stability": [1, 0.7, 1, 0.8]})
    for measured, limit in ((toy, 0.9), (toy, 0.75), (table, least)):
        answer = number(ask(function, measured, limit))
        known = measured.set_index("n_clusters")
        if answer not in known.index:
            raise Wrong(f"you choose {answer:g}, which is no number of clusters of the table: {list(known.index)}")
        if known["stability"][answer] < limit:
            what = f"you choose k = {answer:.0f}, but its stability is {known['stability'][answer]:.2f}"
            raise Wrong(f"{what}, below {limit}: other starts find other clusters")
        stable = known.loc[known["stability"] >= limit, "silhouette"]
        if stable[answer] < stable.max():
            what = f"you choose k = {answer:.0f} with silhouette {stable[answer]:.2f}"
            raise Wrong(f"{what}, but k = {stable.idxmax()} is stable too and has {stable.max():.2f}")
    return f"k = {answer:.0f} for this table, and the right ones for two others"


@check
def check_home_clusters(function: Callable, tasks: Sequence[str], clusters: Sequence[int]) -> str:
    """``home_clusters(tasks, clusters)`` → dict: for each task the cluster that holds most of its records."""
    answer = ask(function, tasks, clusters)
    if not isinstance(answer, Mapping):
        raise Wrong(f"return a dict from task to cluster, not {type(answer).__name__}")
    counts: dict[str, Counter] = {}
    for task, cluster in zip(tasks, clusters, strict=True):
        counts.setdefault(task, Counter())[int(cluster)] += 1
    if missing := sorted(set(counts) - set(answer)):
        raise Wrong(f"the task {missing[0]!r} has no home")
    if more := sorted(map(str, set(answer) - set(counts))):
        raise Wrong(f"{more[0]!r} is no task: the keys are tasks, the values clusters")
    for task, count in counts.items():
        home, most = count.most_common(1)[0]
        mine = number(answer[task], f"the home of {task}")
        if count[mine] < most:
            what = f"{task}: you say cluster {mine:g}, which holds {count[mine]} of its {count.total()} records"
            raise Wrong(f"{what}, but cluster {home} holds {most}")
    at_home = sum(max(count.values()) for count in counts.values()) / len(tasks)
    return f"{at_home:.0%} of the records lie in the home of their task"


# --- 04 A-DBSCAN ----------------------------------------------------------------------------------------------------


@check
def check_core_distances(function: Callable, X: np.ndarray, m: int) -> str:
    """``core_distances(X, m)`` → κ: the distance of each row to its m-th nearest row, itself counted."""
    ordered = np.sort(_distances(X), axis=1)
    for m_now in (m, m + 2):
        answer = numbers(ask(function, X, m_now), (len(X),))
        right = ordered[:, m_now - 1]
        if np.allclose(answer, right, atol=1e-4):
            continue
        counted = f"with m = {m_now} your numbers are those of m ="
        if np.allclose(answer, ordered[:, m_now], atol=1e-4):
            raise Wrong(f"{counted} {m_now + 1}: a point counts itself as the first")
        if m_now > 1 and np.allclose(answer, ordered[:, m_now - 2], atol=1e-4):
            raise Wrong(f"{counted} {m_now - 1}: the columns of a sorted table are numbered from 0")
        for row in np.flatnonzero(np.abs(answer - right) > 1e-4)[:1]:
            raise Wrong(f"row {row}: you say {answer[row]:.3f}, but {m_now} rows lie within {right[row]:.3f} of it")
    return f"with m = {m} core distances go from {ordered[:, m - 1].min():.2f} to {ordered[:, m - 1].max():.2f}"


@check
def check_radii(function: Callable, kappa: np.ndarray, eps: float) -> str:
    """``radii(kappa, eps, beta)`` → the radius eps^β · κ^(1−β) of each point."""
    kappa = np.asarray(kappa, dtype=float)
    for beta in (1.0, 0.0, 0.5, 0.8):
        answer = numbers(ask(function, kappa, eps, beta), kappa.shape)
        if beta == 1 and np.allclose(answer, kappa) and not np.allclose(kappa, eps):
            raise Wrong("β and 1 − β stand the wrong way round: with β = 1 every radius must be eps")
        if beta == 1 and not np.allclose(answer, eps):
            raise Wrong(f"with β = 1 every radius must be eps = {eps:.3f}, yours go up to {answer.max():.3f}")
        if beta == 0 and not np.allclose(answer, kappa):
            raise Wrong("with β = 0 every radius must be the point's own κ")
        if np.allclose(answer, beta * eps + (1 - beta) * kappa) and 0 < beta < 1:
            raise Wrong(f"with β = {beta} you take the weighted sum: the weights belong into the exponents")
        right = eps**beta * kappa ** (1 - beta)
        for row in np.flatnonzero(~np.isclose(answer, right, rtol=1e-4))[:1]:
            raise Wrong(f"with β = {beta} point {row} should have radius {right[row]:.3f}, you say {answer[row]:.3f}")
    return "one radius for all with β = 1, the point's own κ with β = 0, and what lies between"


@check
def check_thinned(function: Callable, X: np.ndarray, kappa: np.ndarray, radii: np.ndarray, s: float) -> str:
    """``thinned(distances, kappa, radii, s)`` → the kept points, visited by ascending κ."""
    distances, n = _distances(X), len(X)
    kept: list[int] = []
    reach = s * np.minimum(radii[:, None], radii[None])
    for point in np.argsort(kappa, kind="stable"):
        if all(distances[point, other] >= reach[point, other] for other in kept):
            kept.append(int(point))
    answer = rows(ask(function, distances, kappa, radii, s), n)
    if len(set(answer)) < len(answer):
        raise Wrong("a point is kept twice")
    for a in answer:
        for b in (b for b in answer if b != a and distances[a, b] < reach[a, b]):
            what = f"points {a} and {b} are both kept, though they are {distances[a, b]:.3f} apart"
            raise Wrong(f"{what}, nearer than s · min of their radii = {reach[a, b]:.3f}")
    for point in set(range(n)) - set(answer):
        if all(distances[point, other] >= reach[point, other] for other in answer):
            raise Wrong(f"point {point} is dropped, though no kept point is nearer than s · min of their radii")
    if set(answer) != set(kept):
        first = next(point for point in kept if point not in answer)
        raise Wrong(f"point {first} should stay: visit the points from the smallest κ to the largest, not otherwise")
    return f"{len(kept)} of {n} points stay, none within the other's reach"


def _distances(X: np.ndarray) -> np.ndarray:
    X = np.asarray(X, dtype=float)
    return np.linalg.norm(X[:, None] - X[None], axis=2)


# --- 05 MMR ---------------------------------------------------------------------------------------------------------


@check
def check_mmr(function: Callable, X: np.ndarray, centroid: np.ndarray, n: int) -> str:
    """``mmr(X, centroid, n, diversity)`` → n picks by (1 − diversity) · relevance − diversity · likeness."""
    relevance, cosine = X @ centroid, X @ X.T
    for diversity in (0.0, 0.5, 0.7):
        answer = rows(ask(function, X, centroid, n, diversity), len(X))
        if len(answer) != n:
            raise Wrong(f"{n} picks are wanted, you give {len(answer)}")
        for place, pick in enumerate(answer):
            before = answer[:place]
            if pick in before:
                raise Wrong(f"row {pick} is picked twice: what is picked must not be picked again")
            likeness = cosine[:, before].max(axis=1) if before else np.zeros(len(X))
            gain = (1 - diversity) * relevance - diversity * likeness
            gain[before] = -np.inf
            if gain[pick] < gain.max() - _TIE:
                best = int(gain.argmax())
                what = f"with diversity {diversity}, pick {place + 1} is row {pick} with value {gain[pick]:.3f}"
                what += f" (likeness {likeness[pick]:.3f})"
                raise Wrong(f"{what}, but row {best} has {gain[best]:.3f} (likeness {likeness[best]:.3f})")
    return f"each pick is the best one given those before; with diversity 0.7 they are {answer}"


@check
def check_likeness(function: Callable, X: np.ndarray, picks: list[int]) -> str:
    """``likeness(X, picks)`` → the mean cosine over all pairs of different picks."""
    cosine = X[picks] @ X[picks].T
    right = float(cosine[np.triu_indices(len(picks), 1)].mean())
    answer = number(ask(function, X, picks))
    if abs(answer - float(cosine.mean())) < 1e-5 < abs(answer - right):
        raise Wrong(f"{answer:.3f} counts each pick's cosine to itself, which is 1: leave out the diagonal")
    if abs(answer - right) > 1e-4:
        n_pairs = len(picks) * (len(picks) - 1) // 2
        raise Wrong(f"you say {answer:.3f}, but the mean over {n_pairs} pairs is another one")
    return f"the picks have a mean cosine of {right:.3f} to each other"


@check
def check_least_diversity(function: Callable, X: np.ndarray, centroid: np.ndarray, n: int, limit: float) -> str:
    """``least_diversity(X, centroid, n, limit)`` → the least of `WEIGHTS` with no two picks above cosine ``limit``."""
    answer = number(ask(function, X, centroid, n, limit))
    most = {weight: _most_alike(X, _picks(X, centroid, n, weight)) for weight in WEIGHTS}
    weight = min(WEIGHTS, key=lambda tried: abs(tried - answer))
    if abs(weight - answer) > 1e-6:
        raise Wrong(f"you say {answer:g}, which is not one of the weights 0, 0.1, … 1")
    if most[weight] > limit:
        raise Wrong(f"with a weight of {weight} two picks still have cosine {most[weight]:.3f}, above {limit}")
    least = min(tried for tried in WEIGHTS if most[tried] <= limit)
    if least < weight:
        raise Wrong(f"a weight of {weight} is enough, but {least} is enough too")
    first = f"from {most[0.0]:.3f} without diversity to {most[weight]:.3f}"
    return f"with a weight of {weight} the greatest cosine between two picks falls {first}"


def _picks(X: np.ndarray, centroid: np.ndarray, n: int, diversity: float) -> list[int]:
    return mmr_select(X, n, centroid=centroid, weights=(1 - diversity, 0.0, diversity)).tolist()


def _most_alike(X: np.ndarray, picks: list[int]) -> float:
    return float((X[picks] @ X[picks].T)[np.triu_indices(len(picks), 1)].max())
