"""Which tasks help each other, and whether distance in the space says so."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from assl_kit.errors import ParameterError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike


def task_affinity(base_nll: ArrayLike, nll_after: ArrayLike, names: Sequence[str] | None = None) -> pd.DataFrame:
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
    affinity: pd.DataFrame | ArrayLike,
    distances: ArrayLike,
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
    n_pairs = int(off.sum())
    # Spearman's correlation is that of the centred ranks. A permutation of tasks moves ranks and changes none of them,
    # so they are found once.
    ranks_a = rankdata(a[off]) - (n_pairs + 1) / 2
    ranks_d = np.zeros((t, t))
    ranks_d[off] = rankdata(d[off]) - (n_pairs + 1) / 2
    norm = np.linalg.norm(ranks_a) * np.linalg.norm(ranks_d)
    if norm == 0:
        return Affinity(float("nan"), float("nan"), n_pairs, 0)
    rng = np.random.default_rng(seed)
    exact = t <= 12 and math.factorial(t) <= n_permutations
    orders: Iterable[np.ndarray] = (rng.permutation(t) for _ in range(n_permutations))
    if exact:
        orders = map(np.array, itertools.permutations(range(t)))
    rho = float(ranks_a @ ranks_d[off] / norm)
    drawn = np.array([ranks_a @ ranks_d[np.ix_(order, order)][off] / norm for order in orders])
    extreme = int((np.abs(drawn) >= abs(rho) - 1e-12).sum())  # the data's own order among them, up to rounding
    p_value = extreme / len(drawn) if exact else (extreme + 1) / (len(drawn) + 1)  # else it is not drawn, and counted
    return Affinity(round(rho, 12), p_value, n_pairs, len(drawn))
