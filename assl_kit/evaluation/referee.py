"""The referee: any selection of labelled records against random ones of the same size, with cheap learners."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import stats
from tqdm.auto import tqdm

from assl_kit.common.checks import real, whole
from assl_kit.common.parallel import blas
from assl_kit.errors import ParameterError

from .judge import Judge
from .learning_curves import SIZES, Curve, fit_curve

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

RANDOM, BALANCED = "random", "balanced random"
_RESERVED = re.compile(rf"({RANDOM}|{BALANCED})( [\d,]+)?")
_COLUMNS = ("arm", "against", "task", "difference", "low", "high", "se_draws", "se_questions", "n_draws", "n_questions")
MEANS = ("mean", "mean without smallest")  # what tables call the means over tasks; no task is called so


@dataclass(frozen=True)
class RefereeResult:
    """What came out.

    Attributes
    ----------
    table : DataFrame
        ``arm, task, n, score, sd``: number of chosen records (copies counted, mean over draws), mean score over the
        draws and its standard deviation over them. After the tasks "mean" and "mean without smallest".
    differences : DataFrame
        ``arm, against, task, difference, low, high, se_draws, se_questions, n_draws, n_questions``.
    curves : tuple of Curve
        Of each group, if asked for.
    about : dict
        ``n_draws, seed, level, smallest, kinds, metrics, questions, baseline, left_out, n_known``: the settings, the
        smallest task, the learner, measure, number of questions and score of the majority or lead of each task, tasks
        that could not be measured, and how many questions were left out because the training pool holds them.
    """

    table: pd.DataFrame
    differences: pd.DataFrame
    curves: tuple[Curve, ...] = ()
    about: dict[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """For JSON: lists of rows, numbers and texts only."""
        curves = [curve.as_dict() for curve in self.curves]
        rows = {"table": self.table.to_dict("records"), "differences": self.differences.to_dict("records")}
        return rows | {"curves": curves, "about": self.about}

    def pivot(self) -> pd.DataFrame:
        """Arms by tasks, scores; as one looks at it."""
        wide = self.table.pivot(index="arm", columns="task", values="score")
        return wide.loc[self.table["arm"].unique(), self.table["task"].unique()]


def referee(
    records: pd.DataFrame | Judge,
    selections: Mapping[str, ArrayLike | Sequence[ArrayLike] | Callable[[int, pd.DataFrame], ArrayLike]],
    *,
    by: str = "task",
    n_draws: int = 5,
    pools: Sequence[ArrayLike] | None = None,
    questions: int = 500,
    metrics: Mapping[str, str] | None = None,
    balanced: bool = True,
    curves: bool = False,
    level: float = 0.95,
    seed: int = 0,
    progress: bool = False,
) -> RefereeResult:
    """Compare selections with random draws of the same size.

    Parameters
    ----------
    records : DataFrame or Judge
        Labelled records with a split "test"; or a `Judge` that has been prepared (then ``by``, ``questions`` and
        ``metrics`` are its own).
    selections : mapping
        Name to ids (copies repeat an id); or to one such sequence for each draw; or to a function that gets the number
        of the draw and the pool's training records and gives ids.
    by, questions, metrics
        As `Judge`.
    n_draws : int
        Random selections, at least 2; 5 or more make useful intervals.
    pools : sequence of sequences of ids, optional
        The training pool of each draw; default: all training records, every time.
    balanced : bool
        Also compare "balanced random": equal numbers from each group, those of small ones given to the others.
    curves : bool
        Also fit the learning curve of each group; see `learning_curves`.
    level : float
        Coverage of the intervals, in (0, 1).
    seed : int
        Fixes the draws, the questions and the learners: the same numbers twice, whatever the number of threads.
    progress : bool
        Show a bar.

    Returns
    -------
    RefereeResult
        Each arm against random draws of its own size, paired draw by draw, and against "balanced random" of that size.

    Raises
    ------
    DataError
        Unlabelled data, nothing to measure, an empty selection, ids that are not in the training pool.
    ParameterError
        ``n_draws``, ``level`` or the form of a selection or pool cannot be used; more records than the pool has,
        copies not counted.

    Notes
    -----
    Interval: draws and questions are crossed and both random. The variance of a mean difference is
    ``s²_draws/D + Σ s²_questions/Q − Σ s²_rest/(D·Q)``, at least the larger of the first two; the interval is Student's
    t with Welch and Satterthwaite's degrees of freedom (D − 1 of the draws). Sums run over tasks for means over tasks.
    The smallest task, left out of the second mean, is the one with the fewest training records.

    References
    ----------
    Ours. Crossed random effects: Owen 2007, "The pigeonhole bootstrap".

    Examples
    --------
    >>> from assl_kit.data.synthetic import make_corpus
    >>> records = make_corpus(600)
    >>> train = records[records["split"] == "train"]
    >>> first = train.groupby("task").head(10)["id"]
    >>> result = referee(records, {"ten of each task": first}, n_draws=3)
    >>> result.table["arm"].unique().tolist()
    ['random', 'balanced random', 'ten of each task']
    """
    _check(n_draws, level, pools)
    if not selections:
        raise ParameterError("there is no selection", where="selections", hint="Give at least one, by name.")
    judge = _judge(records, by=by, questions=questions, metrics=metrics, seed=seed)
    whole = [np.arange(len(judge.train))] * n_draws
    pool_rows = whole if pools is None else [np.unique(judge.rows_of(ids, f"pool {d}")) for d, ids in enumerate(pools)]
    arms = {str(name): _arm(judge, str(name), selection, pool_rows) for name, selection in selections.items()}
    against: dict[str, list[str]] = {}  # the references of each arm
    references: dict[str, list[np.ndarray]] = {}
    sizes = {name: tuple(len(rows) for rows in draws) for name, draws in arms.items()}
    many = len(set(sizes.values())) > 1
    for name, size in sizes.items():
        more = f" {size[0]:,}" if many else ""
        against[name] = [RANDOM + more] + [BALANCED + more] * balanced
        if RANDOM + more not in references:
            references |= _references(judge, pool_rows, size, more, balanced, seed)
    against |= {name: [name.replace(BALANCED, RANDOM)] for name in references if name.startswith(BALANCED)}
    every = references | arms
    scores: dict[str, list[dict]] = {name: [] for name in every}
    work = [(name, draw) for name in every for draw in range(n_draws)]
    with blas().limit(limits=1):
        for name, draw in tqdm(work, desc="referee", unit="training", disable=not progress, leave=False):
            scores[name].append(judge.scores_of_rows(every[name][draw], seed=seed + draw))
    smallest = min(judge.groups, key=lambda group: (len(judge.group_rows[group]), group))
    table = _table(judge, every, scores, smallest)
    rows: list[tuple] = []
    for name, others in against.items():
        for other in others:
            rows += _differences(judge, name, other, scores, smallest, level)
    fitted = learning_curves(judge, n_draws=n_draws, seed=seed, progress=progress) if curves else ()
    asked = {group: len(judge.right[group]) for group in judge.groups}
    about: dict[str, Any] = {"n_draws": n_draws, "seed": seed, "level": level, "smallest": smallest}
    about |= {"kinds": judge.kinds, "metrics": judge.metrics, "questions": asked, "baseline": judge.baseline()}
    about |= {"left_out": judge.left_out, "n_known": judge.n_known}
    return RefereeResult(table, pd.DataFrame(rows, columns=_COLUMNS), fitted, about)


def learning_curves(
    records: pd.DataFrame | Judge,
    *,
    sizes: Sequence[int] = SIZES,
    n_draws: int = 3,
    by: str = "task",
    questions: int = 500,
    metrics: Mapping[str, str] | None = None,
    pool: ArrayLike | None = None,
    seed: int = 0,
    progress: bool = False,
) -> tuple[Curve, ...]:
    """Measure each group's score at growing numbers of random records of its own, and fit ``a − b · n^−c``.

    Parameters
    ----------
    records, by, questions, metrics
        As `referee`.
    sizes : sequence of int
        Ascending numbers of records; those above a group's size are left out, and its size is added if it is below
        the largest. Each draw's smaller sets are parts of its larger ones.
    n_draws : int
        At least 1.
    pool : sequence of ids, optional
        Records to draw from; default: all training records.

    Returns
    -------
    tuple of Curve
        One a measured group, in alphabetical order.

    Raises
    ------
    DataError, ParameterError
        As `Judge`; ``sizes`` or ``n_draws`` that are no positive whole numbers; ids of the pool that are unknown.

    Examples
    --------
    >>> from assl_kit.data.synthetic import make_corpus
    >>> curves = learning_curves(make_corpus(600), sizes=(10, 20, 40), n_draws=1)
    >>> all(0 <= curve.a <= 1 and curve.b >= 0 for curve in curves)
    True
    """
    judge = _judge(records, by=by, questions=questions, metrics=metrics, seed=seed)
    inside = np.ones(len(judge.train), bool)
    if pool is not None:
        inside[:] = False
        inside[judge.rows_of(pool, "pool")] = True
    if not len(sizes):
        raise ParameterError("there are no sizes", hint="Give whole numbers of at least 1.")
    for n in sizes:
        whole("each of sizes", n, 1)
    whole("n_draws", n_draws, 1)
    curves, bar = [], tqdm(judge.groups, desc="learning curves", unit="group", disable=not progress, leave=False)
    with blas().limit(limits=1):
        for number, group in enumerate(bar):
            rows = judge.group_rows[group][inside[judge.group_rows[group]]]
            fitting = {n for n in sizes if n <= len(rows)}
            if 0 < len(rows) < max(sizes):
                fitting.add(len(rows))
            steps = sorted(fitting)
            if not steps:
                continue
            scores = np.zeros((n_draws, len(steps)))
            for draw in range(n_draws):
                order = np.random.default_rng([seed, draw, number]).permutation(rows)
                for k, n in enumerate(steps):
                    one = judge.scores_of_rows(order[:n], seed=seed + draw, groups=[group])
                    scores[draw, k] = one[group].mean()
            curves.append(fit_curve(group, steps, scores.mean(axis=0), len(rows)))
    return tuple(curves)


def balanced_rows(groups: Sequence[np.ndarray], n_select: int, rng: np.random.Generator) -> np.ndarray:
    """Rows drawn from groups in equal numbers; what a small group lacks is drawn from the others.

    Examples
    --------
    >>> rows = balanced_rows([np.arange(2), np.arange(2, 100)], 10, np.random.default_rng(0))
    >>> len(rows), int((rows < 2).sum())
    (10, 2)
    """
    sizes = np.array([len(rows) for rows in groups])
    quota = np.zeros(len(groups), np.int64)
    while (left := n_select - quota.sum()) > 0:
        open_ = np.flatnonzero(quota < sizes)
        if left < len(open_):
            quota[rng.permutation(open_)[:left]] += 1
        else:
            quota[open_] += np.minimum(left // len(open_), sizes[open_] - quota[open_])
    return np.concatenate([rng.permutation(rows)[:n] for rows, n in zip(groups, quota, strict=True)])


def _judge(records: pd.DataFrame | Judge, **settings: Any) -> Judge:
    return records if isinstance(records, Judge) else Judge(records, **settings)


def _check(n_draws: int, level: float, pools: Sequence[ArrayLike] | None) -> None:
    whole("n_draws", n_draws, 2, hint="5 or more are better.")
    real("level", level, 0, 1, inside=True)
    if pools is not None and len(pools) != n_draws:
        raise ParameterError(f"there are {len(pools)} pools for {n_draws} draws", hint="Give one pool for each draw.")


def _arm(judge: Judge, name: str, selection: Any, pools: list[np.ndarray]) -> list[np.ndarray]:
    """The rows of an arm in every draw."""
    if _RESERVED.fullmatch(name):
        raise ParameterError(f"the name {name!r} is the referee's own", where="selections", hint="Choose another name.")
    if callable(selection):
        parts = [selection(draw, judge.train.iloc[pool]) for draw, pool in enumerate(pools)]
    else:
        ids = list(selection)
        one_for_each = len(ids) > 0 and not isinstance(ids[0], str) and np.ndim(ids[0]) == 1
        parts = ids if one_for_each else [ids] * len(pools)
    if len(parts) != len(pools):
        what = f"{len(parts)} selections for {len(pools)} draws"
        raise ParameterError(what, where=f"selection {name!r}", hint="Give ids, or ids for each draw.")
    drawn = []
    for draw, (part, pool) in enumerate(zip(parts, pools, strict=True)):
        where = f"selection {name!r}" + (f", draw {draw}" if parts[0] is not parts[-1] else "")
        rows = judge.rows_of(part, where)
        if len(rows) > len(pool):
            what = f"{len(rows)} records are chosen, but the training pool has {len(pool)}"
            raise ParameterError(what, where=f"selection {name!r}", hint="Choose at most as many as there are.")
        drawn.append(rows)
    return drawn


def _references(
    judge: Judge, pools: list[np.ndarray], size: tuple[int, ...], more: str, balanced: bool, seed: int
) -> dict[str, list[np.ndarray]]:
    """Random and balanced random rows of each draw."""
    group = np.zeros(len(judge.train), np.int64)
    for number, rows in enumerate(judge.group_rows.values()):
        group[rows] = number
    names = (RANDOM, BALANCED) if balanced else (RANDOM,)
    drawn: dict[str, list[np.ndarray]] = {name + more: [] for name in names}
    for draw, (pool, n) in enumerate(zip(pools, size, strict=True)):
        drawn[RANDOM + more].append(np.random.default_rng([seed, draw, 0]).permutation(pool)[:n])
        if balanced:
            parts = [pool[group[pool] == number] for number in range(len(judge.group_rows))]
            drawn[BALANCED + more].append(balanced_rows(parts, n, np.random.default_rng([seed, draw, 1])))
    return drawn


def _means(groups: Sequence[str], smallest: str) -> dict[str, list[str]]:
    """The groups that are averaged under each name."""
    averaged = {group: [group] for group in groups} | {MEANS[0]: list(groups)}
    rest = [group for group in groups if group != smallest]
    return averaged | ({MEANS[1]: rest} if rest else {})


def _table(
    judge: Judge, every: dict[str, list[np.ndarray]], scores: dict[str, list[dict]], smallest: str
) -> pd.DataFrame:
    """Mean score of each arm in each task and under each mean, and its deviation over the draws."""
    rows = []
    for name, draws in scores.items():
        chosen = {g: np.mean([np.isin(r, judge.group_rows[g]).sum() for r in every[name]]) for g in judge.groups}
        for task, parts in _means(judge.groups, smallest).items():
            value = np.array([np.mean([draw[group].mean() for group in parts]) for draw in draws])
            n = float(sum(chosen[group] for group in parts))
            rows.append((name, task, n, float(value.mean()), float(value.std(ddof=1))))
    return pd.DataFrame(rows, columns=["arm", "task", "n", "score", "sd"])


def _differences(
    judge: Judge, name: str, other: str, scores: dict[str, list[dict]], smallest: str, level: float
) -> list[tuple]:
    """Rows of one arm against another."""
    rows, n_draws = [], len(scores[name])
    draws = list(zip(scores[name], scores[other], strict=True))
    parts = {group: np.array([one[group] - two[group] for one, two in draws]) for group in judge.groups}
    for task, groups in _means(judge.groups, smallest).items():
        chosen = [parts[group] for group in groups]
        n_questions = sum(part.shape[1] for part in chosen)
        rows.append((name, other, task, *crossed_interval(chosen, level), n_draws, n_questions))
    return rows


def crossed_interval(parts: Sequence[np.ndarray], level: float = 0.95) -> tuple[float, float, float, float, float]:
    """Mean over tasks of crossed differences, with its interval.

    Parameters
    ----------
    parts : sequence of ndarray of shape (draws, questions of the task)
    level : float

    Returns
    -------
    (mean, low, high, se_draws, se_questions)

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> part = 0.3 + rng.normal(size=(5, 1)) * 0.01 + rng.normal(size=(1, 400)) * 0.1
    >>> mean, low, high, _, _ = crossed_interval([part])
    >>> low < 0.3 < high
    True
    """
    n_draws, n_tasks = len(parts[0]), len(parts)
    draws = np.mean([part.mean(axis=1) for part in parts], axis=0)
    mean, by_draw = float(draws.mean()), float(draws.var(ddof=1)) / n_draws
    by_question = rest = 0.0
    for part in parts:
        n, question = part.shape[1], part.mean(axis=0)
        if n < 2:
            continue
        left = part - question - part.mean(axis=1, keepdims=True) + part.mean()
        by_question += float(question.var(ddof=1)) / n / n_tasks**2
        rest += float((left**2).sum()) / ((n_draws - 1) * (n - 1)) / (n_draws * n) / n_tasks**2
    variance = max(by_draw + by_question - rest, by_draw, by_question)
    if variance == 0:
        return mean, mean, mean, 0.0, 0.0
    asked = sum(part.shape[1] - 1 for part in parts)
    freedom = variance**2 / (by_draw**2 / (n_draws - 1) + by_question**2 / max(1, asked))
    reach = float(stats.t.ppf((1 + level) / 2, freedom)) * variance**0.5
    return mean, mean - reach, mean + reach, by_draw**0.5, by_question**0.5
