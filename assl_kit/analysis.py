"""What routing did, what it cost, and whether tasks help each other as their distance says."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import rankdata
from sklearn.metrics import normalized_mutual_info_score

from .errors import ParameterError


@dataclass(frozen=True)
class Routing:
    """Where the questions of each task went.

    Attributes
    ----------
    counts : DataFrame
        Questions, tasks × experts; the expert −1 is the base alone.
    home_share : Series
        Share of each task's questions that went to its home expert, and "all".
    nmi : float
        Normalised mutual information of tasks and experts, in [0, 1].
    """

    counts: pd.DataFrame
    home_share: pd.Series
    nmi: float


def home_experts(train_tasks: Sequence[str], train_clusters: Sequence[int]) -> dict[str, int]:
    """The home of each task: the cluster with most of its training records (the lowest one of equals).

    Examples
    --------
    >>> home_experts(["qa", "qa", "qa", "nl"], [1, 1, 0, 2])
    {'nl': 2, 'qa': 1}
    """
    counts = pd.crosstab(np.asarray(train_tasks, dtype=object), np.asarray(train_clusters))
    return {str(task): int(row.idxmax()) for task, row in counts.sort_index(axis=1).iterrows()}


def routing_table(tasks: Sequence[str], experts: Sequence[int], home: Mapping[str, int]) -> Routing:
    """Cross the tasks of questions with the experts they were routed to.

    Parameters
    ----------
    tasks : sequence of n str
        The task of each question.
    experts : sequence of n int
        The expert of each, −1 for the base alone.
    home : mapping
        The home expert of each task, as `home_experts` gives it. A task without one has a share of NaN.

    Raises
    ------
    ParameterError
        Not as many tasks as experts, or none.

    Examples
    --------
    >>> routing = routing_table(["qa", "qa", "nl"], [1, 0, 2], {"qa": 1, "nl": 2})
    >>> routing.home_share.to_dict()
    {'nl': 1.0, 'qa': 0.5, 'all': 0.6666666666666666}
    """
    tasks, experts = np.asarray(tasks, dtype=object), np.asarray(experts, dtype=np.int64)
    if len(tasks) != len(experts) or len(tasks) == 0:
        raise ParameterError(f"{len(tasks)} tasks and {len(experts)} experts; give as many of each, at least one")
    frame = pd.DataFrame({"task": tasks, "expert": experts})
    known = frame["task"].isin(list(home))
    right = (frame["expert"] == frame["task"].map(dict(home))).astype(float).where(known)
    share = right.groupby(frame["task"]).mean()
    share["all"] = right.mean()
    nmi = float(normalized_mutual_info_score(tasks.astype(str), experts))
    return Routing(pd.crosstab(frame["task"], frame["expert"]), share.rename("home_share"), nmi)


def regret_table(routed_scores: np.ndarray, per_expert_scores: np.ndarray, tasks: Sequence[str]) -> pd.DataFrame:
    """What routing loses against the best single expert of each task, and against the best expert of each question.

    Parameters
    ----------
    routed_scores : array, shape (n,)
        Score of each routed answer, as `score_answers` gives it.
    per_expert_scores : array, shape (n, k)
        Score of every expert on every question.
    tasks : sequence of n str
        The task of each question.

    Returns
    -------
    DataFrame
        Columns ``task, n, routed, best_expert, best, regret, oracle, oracle_gap``: means over the task's questions;
        ``regret`` = best − routed (may be negative), ``oracle_gap`` = oracle − routed. The last row, "mean", is the
        mean over tasks (``best_expert`` None).

    Raises
    ------
    ParameterError
        The shapes do not agree.

    Examples
    --------
    >>> regret_table([1, 0], [[1, 0], [1, 0]], ["qa", "qa"])["regret"].tolist()
    [0.5, 0.5]
    """
    routed, every = np.asarray(routed_scores, dtype=float), np.asarray(per_expert_scores, dtype=float)
    tasks = np.asarray(tasks, dtype=object)
    if every.ndim != 2 or 0 in every.shape or routed.shape != (len(every),) or len(tasks) != len(every):
        what = f"routed {routed.shape}, experts {every.shape}, {len(tasks)} tasks; expected (n,), (n, k), n"
        raise ParameterError(f"the shapes do not agree: {what}")
    rows, best = [], []
    for task in sorted(set(tasks)):
        own = tasks == task
        means = every[own].mean(axis=0)
        routed_mean, oracle = routed[own].mean(), every[own].max(axis=1).mean()
        rows.append([task, own.sum(), routed_mean, means.max(), means.max() - routed_mean, oracle])
        best.append(int(means.argmax()))
    table = pd.DataFrame(rows, columns=["task", "n", "routed", "best", "regret", "oracle"])
    mean = table[["routed", "best", "regret", "oracle"]].mean().to_dict()
    last = pd.DataFrame([{"task": "mean", "n": len(tasks)} | mean])
    table = pd.concat([table, last[table.columns]], ignore_index=True)
    table.insert(3, "best_expert", pd.Series([*best, None], dtype=object))
    return table.assign(oracle_gap=table["oracle"] - table["routed"])


def task_affinity(base_nll: np.ndarray, nll_after: np.ndarray, names: Sequence[str] | None = None) -> pd.DataFrame:
    """How training on one task changes the loss on each other.

    Parameters
    ----------
    base_nll : array, shape (t,)
        Mean loss of the untrained model on each task, in nats a token, positive.
    nll_after : array, shape (t, t)
        Row a, column b: the loss on task b after training on task a.
    names : sequence of t str, optional
        The tasks.

    Returns
    -------
    DataFrame, t × t
        (base − after) / base: positive where training on the row's task helps the column's.

    Raises
    ------
    ParameterError
        The shapes do not agree, or a base loss is not positive.

    References
    ----------
    Fifty et al. 2021, "Efficiently Identifying Task Groupings" (arXiv 2109.04617), for the idea of a relative change
    of loss; the use here is ours.

    Examples
    --------
    >>> task_affinity([2.0, 4.0], [[1.0, 4.0], [2.5, 2.0]], ["a", "b"]).values.tolist()
    [[0.5, 0.0], [-0.25, 0.5]]
    """
    base, after = np.asarray(base_nll, dtype=float), np.asarray(nll_after, dtype=float)
    if base.ndim != 1 or after.shape != (len(base), len(base)):
        raise ParameterError(f"the shapes do not agree: base {base.shape}, after {after.shape}; expected (t,), (t, t)")
    if not (np.isfinite(after).all() and np.isfinite(base).all() and (base > 0).all()):
        raise ParameterError("the losses must be finite, and those of the base positive")
    names = [str(i) for i in range(len(base))] if names is None else list(names)
    index = pd.Index(names, name="trained on")
    return pd.DataFrame((base - after) / base, index=index, columns=pd.Index(names, name="measured on"))


@dataclass(frozen=True)
class Affinity:
    """Rank correlation of affinity with distance: ``rho`` (negative if near tasks help each other), ``p_value``
    (two-sided), ``n_pairs`` ordered pairs of tasks, and the number of permutations it rests on."""

    rho: float
    p_value: float
    n_pairs: int
    n_permutations: int


def affinity_vs_distance(
    affinity: pd.DataFrame | np.ndarray,
    distances: np.ndarray,
    *,
    n_permutations: int = 5040,
    seed: int = 0,
) -> Affinity:
    """Test the paper's assumption that near tasks help each other.

    Spearman's correlation over the ordered pairs of different tasks, with a Mantel test: the tasks of one matrix are
    permuted, rows and columns together, because the pairs of a matrix are not independent. All permutations are taken
    where there are no more than ``n_permutations``, else that many at random.

    Parameters
    ----------
    affinity : (t, t)
        As `task_affinity` gives it.
    distances : (t, t)
        Distances of the task centroids, in the same order.

    Raises
    ------
    ParameterError
        Fewer than three tasks, or shapes that do not agree.

    References
    ----------
    Mantel 1967, Cancer Research 27. Question: arXiv 2404.04949, its assumption on distance in the space.

    Examples
    --------
    >>> d = np.array([[0, 1, 3, 4], [1, 0, 2, 5], [3, 2, 0, 6], [4, 5, 6, 0]])
    >>> affinity_vs_distance(-d, d).rho
    -1.0
    """
    a, d = np.asarray(affinity, dtype=float), np.asarray(distances, dtype=float)
    t = len(a)
    if t < 3 or a.shape != (t, t) or d.shape != (t, t):
        raise ParameterError(f"give two matrices of the same three or more tasks, not {a.shape} and {d.shape}")
    off = ~np.eye(t, dtype=bool)
    ranks_a = rankdata(a[off]) - (off.sum() + 1) / 2
    ranks_d = np.zeros((t, t))
    ranks_d[off] = rankdata(d[off]) - (off.sum() + 1) / 2
    norm = np.linalg.norm(ranks_a) * np.linalg.norm(ranks_d)
    if norm == 0:
        return Affinity(float("nan"), float("nan"), int(off.sum()), 0)
    rng = np.random.default_rng(seed)
    exact = t <= 12 and int(np.prod(np.arange(1, t + 1))) <= n_permutations
    orders = itertools.permutations(range(t)) if exact else (rng.permutation(t) for _ in range(n_permutations))
    rho = float(ranks_a @ ranks_d[off] / norm)
    drawn = np.array([ranks_a @ ranks_d[np.ix_(order, order)][off] / norm for order in orders])
    extreme = int((np.abs(drawn) >= abs(rho) - 1e-12).sum())
    p_value = extreme / len(drawn) if exact else (extreme + 1) / (len(drawn) + 1)
    return Affinity(round(rho, 12), p_value, int(off.sum()), len(drawn))
