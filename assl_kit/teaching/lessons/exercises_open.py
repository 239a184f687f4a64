"""The checks of the open exercises: any defensible answer is right, and is told what it does and what it costs.

Each prints one line; see `assl_kit.teaching.exercises.check`. Its first argument is the learner's function.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from ..exercises import Wrong, ask, check, number, numbers, rows

_DRAWS = 50
ADVICE = ("use it", "leave it", "measure more")
"""What `check_own_advice` takes for an answer."""


def _alike(X: np.ndarray) -> float:
    """Mean cosine of a row to the most similar other one."""
    cosine = X @ X.T
    np.fill_diagonal(cosine, -2)
    return float(cosine.max(axis=1).mean())


def _distinct_rows(answer: object, n: int, wanted: int) -> list[int]:
    picks = rows(answer, n)
    if len(set(picks)) < len(picks):
        raise Wrong("a record is chosen twice: of a second copy nothing more is learnt")
    if len(picks) != wanted:
        raise Wrong(f"{wanted} records are wanted, you choose {len(picks)}")
    return picks


def _lots(n: int, wanted: int) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.choice(n, wanted, replace=False) for _ in range(_DRAWS)]


# --- 00 Start here, 01 Data -----------------------------------------------------------------------------------------


@check
def check_own_choice(function: Callable, X: np.ndarray, tasks: Sequence[str], wanted: int) -> str:
    """``own_choice(X, tasks, wanted)`` → any ``wanted`` different rows that leave out no task; beside random draws."""
    names = np.asarray(tasks)
    picks = _distinct_rows(ask(function, X, list(tasks), wanted), len(X), wanted)
    forgotten = sorted(set(names.tolist()) - set(names[picks].tolist()))
    if forgotten:
        raise Wrong(f"no record of {forgotten[0]!r} is chosen: nobody would learn that task from your choice")
    lots = _lots(len(X), wanted)
    luck_alike = np.mean([_alike(X[lot]) for lot in lots])
    luck_tasks = np.mean([len(set(names[lot])) for lot in lots])
    covered = f"{len(set(names[picks]))} tasks, where random draws have {luck_tasks:.1f} in the mean"
    alike = f"cosine {_alike(X[picks]):.2f} to the most similar other one, random {luck_alike:.2f}"
    return f"{covered}; your records have {alike}"


@check
def check_says_the_same(function: Callable, pairs: Sequence[tuple[str, str]]) -> str:
    """``says_the_same(a, b)`` → whether two texts say the same; of ``pairs`` any rule may decide."""

    def verdict(a: str, b: str) -> bool:
        answer = ask(function, a, b)
        if not isinstance(answer, bool | np.bool_):
            raise Wrong(f"your rule says {answer!r}, it should say True or False")
        return bool(answer)

    for a, b in pairs:
        if not verdict(a, a):
            raise Wrong(f"a text does not say the same as itself by your rule: {a[:20]!r}")
        if verdict(a, b) != verdict(b, a):
            raise Wrong(f"your rule depends on the order: {a[:20]!r} and {b[:20]!r} are the same one way round only")
    if verdict("今天天气怎么样？", "公司净利润同比增长三成。"):  # What is the weather like? / Profit rose by 30 %.
        raise Wrong("a question about the weather and a report on profit say the same by your rule: it is too loose")
    same = sum(verdict(a, b) for a, b in pairs)
    return f"a rule that holds together; it calls {same} of {len(pairs)} open cases the same, and you can defend each"


# --- 02 Embedding, 03 Clustering ------------------------------------------------------------------------------------


@check
def check_own_similarity(function: Callable, texts: Sequence[str], tasks: Sequence[str]) -> str:
    """``own_similarity(a, b)`` → any number that is greater for more similar texts; it must beat guessing the task."""
    n, names = len(texts), np.asarray(tasks)
    table = np.full((n, n), -np.inf)
    for i in range(n):
        for j in range(n):
            table[i, j] = number(ask(function, texts[i], texts[j]))
    for i, j in np.argwhere(~np.isclose(table, table.T))[:1]:
        raise Wrong(f"text {i} to text {j} has {table[i, j]:.3g}, but the other way round {table[j, i]:.3g}")
    for i in np.flatnonzero(table.max(axis=1) > np.diag(table) + 1e-9)[:1]:
        raise Wrong(f"text {i} is more similar to text {table[i].argmax()} than to itself")
    np.fill_diagonal(table, -np.inf)
    agreement = float((names[table.argmax(axis=1)] == names).mean())
    guessing = float(pd.Series(names).value_counts(normalize=True).iloc[0])
    if agreement <= guessing:
        what = f"the most similar other text has the same task in {agreement:.0%}"
        raise Wrong(f"{what}, and guessing the commonest task would give {guessing:.0%}")
    return f"by your similarity the nearest text has the same task in {agreement:.0%}; guessing gives {guessing:.0%}"


@check
def check_own_k(function: Callable, table: pd.DataFrame) -> str:
    """``own_k(table)`` → any k that is not worse in both silhouette and stability than another one."""
    toy = pd.DataFrame({"n_clusters": [2, 3, 4], "silhouette": [0.2, 0.5, 0.3], "stability": [0.9, 0.95, 0.5]})
    for measured in (toy, table):
        answer = number(ask(function, measured))
        known = measured.set_index("n_clusters")
        if answer not in known.index:
            raise Wrong(f"you choose {answer:g}, which is no number of clusters of the table: {list(known.index)}")
        mine = known.loc[int(answer)]
        better = known[(known["silhouette"] > mine["silhouette"]) & (known["stability"] > mine["stability"])]
        if len(better):
            raise Wrong(f"you choose k = {answer:.0f}, but k = {better.index[0]} is better in both measures")
    place = int((known["silhouette"] > mine["silhouette"]).sum()) + 1
    again = int((known["stability"] > mine["stability"]).sum()) + 1
    places = f"it is number {place} by silhouette and {again} by stability"
    return f"k = {answer:.0f} can be defended: {places}, and none is better in both"


# --- 04 A-DBSCAN, 05 MMR --------------------------------------------------------------------------------------------


@check
def check_own_thinning(function: Callable, X: np.ndarray, wanted: int) -> str:
    """``own_thinning(X, wanted)`` → any ``wanted`` different rows that are less alike than random ones."""
    picks = _distinct_rows(ask(function, X, wanted), len(X), wanted)
    mine, luck = _alike(X[picks]), [_alike(X[lot]) for lot in _lots(len(X), wanted)]
    if mine >= np.mean(luck):
        what = f"your rows have cosine {mine:.3f} to the most similar other one, in the mean"
        raise Wrong(f"{what}, and rows drawn by lot {np.mean(luck):.3f}: your rule spares no near copies")
    sure = "less than each of" if mine < min(luck) else "less than most of"
    return f"your rows have cosine {mine:.3f} to the most similar other one, {sure} {_DRAWS} random draws"


@check
def check_own_gain(function: Callable, X: np.ndarray, centroid: np.ndarray, n: int) -> str:
    """``own_gain(relevance, max_similarity)`` → any worth that rises with the first, and falls with the second."""
    steps = np.linspace(-0.2, 1.0, 7)
    table = np.array([[number(ask(function, float(r), float(s))) for s in steps] for r in steps])
    if (np.diff(table, axis=0) < -1e-12).any() or np.allclose(np.diff(table, axis=0), 0):
        raise Wrong("a more relevant record should never be worth less, and sometimes more")
    if (np.diff(table, axis=1) > 1e-12).any() or np.allclose(np.diff(table, axis=1), 0):
        raise Wrong("a record that is more like the picked ones should never be worth more, and sometimes less")
    relevance, cosine, picks = X @ centroid, X @ X.T, list[int]()
    while len(picks) < n:
        like = cosine[:, picks].max(axis=1) if picks else np.zeros(len(X))
        worth = numbers([ask(function, float(r), float(s)) for r, s in zip(relevance, like, strict=True)], (len(X),))
        worth[picks] = -np.inf
        picks.append(int(worth.argmax()))
    beside = f"those of lots {np.mean([_alike(X[lot]) for lot in _lots(len(X), n)]):.2f}"
    return f"it picks records with cosine {_alike(X[picks]):.2f} to the most similar other one, {beside}"


# --- 06 LoRA training, 07 Routing -----------------------------------------------------------------------------------


@check
def check_own_plan(function: Callable, shapes: Sequence[tuple[int, int]], budget: int) -> str:
    """``own_plan(shapes, budget)`` → {layer: rank}, any ranks whose numbers fit the budget and use half of it."""
    answer = ask(function, list(shapes), budget)
    if not isinstance(answer, dict):
        raise Wrong(f"return a dict from the number of a layer to its rank, not {type(answer).__name__}")
    for layer, rank in answer.items():
        if layer not in range(len(shapes)):
            raise Wrong(f"there is no layer {layer!r}: layers are 0 to {len(shapes) - 1}")
        outer, inner = shapes[layer]
        if not isinstance(rank, int | np.integer) or rank < 0:
            raise Wrong(f"layer {layer} has rank {rank!r}, which is no whole number from 0 on")
        if rank > min(outer, inner):
            raise Wrong(
                f"layer {layer} has rank {rank}, but no matrix of {outer} × {inner} has more than {min(outer, inner)}"
            )
    cost = sum(int(rank) * sum(shapes[layer]) for layer, rank in answer.items())
    if cost > budget:
        raise Wrong(f"your ranks need {cost:,} numbers, and there are {budget:,}: A has r × in, B has out × r")
    if cost < budget / 2:
        raise Wrong(f"your ranks use {cost:,} of {budget:,} numbers: spend at least half, on whichever layers you like")
    used = sum(rank > 0 for rank in answer.values())
    return f"{used} of {len(shapes)} layers get a correction, {cost:,} of {budget:,} numbers are spent"


@check
def check_own_threshold(function: Callable, real: np.ndarray, strange: np.ndarray) -> str:
    """``own_threshold(real, strange)`` → any similarity, unless another is as good on one side, better on the other."""
    limit = number(ask(function, real, strange))
    lost, let_in = float((real < limit).mean()), float((strange >= limit).mean())
    what = f"{limit:.3f} turns away {lost:.0%} of the real questions and lets in {let_in:.0%} of the strange ones"
    for other in np.unique(np.concatenate([real, strange, [max(real.max(), strange.max()) + 1e-6]])):
        turned, entered = float((real < other).mean()), float((strange >= other).mean())
        if turned <= lost and entered <= let_in and (turned, entered) != (lost, let_in):
            what = (
                f"{limit:.3f} turns away {lost:.0%} of the real questions and lets in {let_in:.0%} of the strange ones"
            )
            raise Wrong(f"{what}, but {other:.3f} does better: {turned:.0%} and {entered:.0%}")
    return f"{limit:.3f} turns away {lost:.0%} of the real questions and lets in {let_in:.0%} of the strange ones"


# --- 08 Evaluation, 09 Robustness -----------------------------------------------------------------------------------


@check
def check_own_overall(function: Callable, table: pd.DataFrame, sizes: Sequence[int]) -> str:
    """``own_overall(scores, sizes)`` → any one number for the scores of some tasks that a better score never lowers."""
    n = len(sizes)

    def overall(scores: Sequence[float]) -> float:
        return number(ask(function, list(scores), list(sizes)))

    for level in (0.0, 0.4, 1.0):
        if abs(overall([level] * n) - level) > 1e-6:
            raise Wrong(f"an arm with {level:g} in every task gets {overall([level] * n):.3f} from you, not {level:g}")
    for arm, row in table.iterrows():
        for task in range(n):
            raised = [value + 0.05 * (place == task) for place, value in enumerate(row)]
            if overall(raised) < overall(list(row)) - 1e-9:
                raise Wrong(f"{arm} gets a lower number when it becomes better in {table.columns[task]}")
    mine, plain = pd.Series({arm: overall(list(row)) for arm, row in table.iterrows()}), table.mean(axis=1)
    first = f"by your number {mine.idxmax()} comes first with {mine.max():.3f}"
    return f"{first}, by the plain mean {plain.idxmax()} with {plain.max():.3f}"


@check
def check_own_advice(function: Callable, cases: pd.DataFrame) -> str:
    """``own_advice(low, high, cost)`` → one of `ADVICE`, by any rule that a better interval never turns against."""

    def advise(low: float, high: float, cost: float) -> str:
        answer = ask(function, low, high, cost)
        if not isinstance(answer, str) or answer not in ADVICE:
            raise Wrong(f"you say {answer!r}: say 'use it', 'leave it' or 'measure more'")
        return answer

    if advise(0.2, 0.3, 0.5) == "leave it":
        raise Wrong("it is surely better, by at least 0.2, and costs half; your rule leaves it: what would it take")
    if advise(-0.3, -0.2, 2.0) == "use it":
        raise Wrong("it is surely worse, by at least 0.2, and costs twice as much; your rule uses it")
    order = {"leave it": 0, "measure more": 1, "use it": 2}
    for cost in (0.1, 1.0, 10.0):
        for wide in (0.02, 0.2):
            lows = np.linspace(-0.4, 0.4, 33)
            grades = [order[advise(float(low), float(low) + wide, cost)] for low in lows]
            for place in np.flatnonzero(np.diff(grades) < 0)[:1]:
                what = f"at cost {cost:g} and an interval {wide:g} wide"
                raise Wrong(f"{what}, your rule turns against it as the interval rises above {lows[place]:+.3f}")
    counts = pd.Series([advise(row.low, row.high, row.cost) for row in cases.itertuples()]).value_counts()
    times = ", ".join(f"{answer!r} {counts.get(answer, 0)} times" for answer in ADVICE)
    return f"a rule that holds together; of {len(cases)} cases it says {times}"
