"""What routing did, and what it cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from sklearn.metrics import normalized_mutual_info_score

from assl_kit.common.names import apart_from_totals, by_number, in_order
from assl_kit.errors import ParameterError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike


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


def home_experts(train_tasks: ArrayLike, train_clusters: ArrayLike) -> dict[str, int]:
    """The home of each task: the cluster with most of its training records (the lowest one of equals).

    Examples
    --------
    >>> home_experts(["qa", "qa", "qa", "nl"], [1, 1, 0, 2])
    {'nl': 2, 'qa': 1}
    """
    counts = pd.crosstab(np.asarray(train_tasks, dtype=object), np.asarray(train_clusters))
    return {str(task): int(row.idxmax()) for task, row in counts.sort_index(axis=1).iterrows()}


def routing_table(tasks: ArrayLike, experts: ArrayLike, home: Mapping[str, int]) -> Routing:
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
    homes = frame["task"].map(dict(home))
    right = (frame["expert"] == homes).astype(float).where(known)
    frame["task"] = apart_from_totals(frame["task"])
    share = in_order(right.groupby(frame["task"]).mean())
    share["all"] = right.mean()
    nmi = float(normalized_mutual_info_score(tasks.astype(str), experts))
    return Routing(in_order(pd.crosstab(frame["task"], frame["expert"])), share.rename("home_share"), nmi)


def regret_table(routed_scores: ArrayLike, per_expert_scores: ArrayLike, tasks: ArrayLike) -> pd.DataFrame:
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
    names = apart_from_totals(pd.Series(np.asarray(tasks, dtype=object), dtype=object)).to_numpy()
    if every.ndim != 2 or 0 in every.shape or routed.shape != (len(every),) or len(names) != len(every):
        what = f"routed {routed.shape}, experts {every.shape}, {len(names)} tasks; expected (n,), (n, k), n"
        raise ParameterError(f"the shapes do not agree: {what}")
    rows, best = [], []
    for task in sorted(set(names), key=by_number):
        asked = np.flatnonzero(names == task)
        means = every[asked].mean(axis=0)
        routed_mean, oracle = routed[asked].mean(), every[asked].max(axis=1).mean()
        rows.append([task, len(asked), routed_mean, means.max(), means.max() - routed_mean, oracle])
        best.append(int(means.argmax()))
    table = pd.DataFrame(rows, columns=["task", "n", "routed", "best", "regret", "oracle"])
    mean = table[["routed", "best", "regret", "oracle"]].mean().to_dict()
    last = pd.DataFrame([{"task": "mean", "n": len(names)} | mean])
    table = pd.concat([table, last[table.columns]], ignore_index=True)
    table.insert(3, "best_expert", pd.Series([*best, None], dtype=object))
    return table.assign(oracle_gap=table["oracle"] - table["routed"])
