"""How far a selection stays the same when the data, or anything else it depends on, changes a little."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from assl_kit.common.checks import positive, real


def jaccard(a: Iterable[int], b: Iterable[int]) -> float:
    """Size of the intersection over size of the union of two sets of rows.

    Parameters
    ----------
    a, b : iterable of int
        Rows; repeats do not count.

    Returns
    -------
    float
        In [0, 1]; 1.0 where both are empty.

    Examples
    --------
    >>> jaccard([1, 2, 3], [2, 3, 4])
    0.5
    """
    one, other = set(map(int, a)), set(map(int, b))
    return len(one & other) / len(one | other) if one | other else 1.0


def bootstrap_stability(
    choose: Callable[[np.ndarray], np.ndarray],
    n: int,
    *,
    n_draws: int = 10,
    share: float = 0.9,
    seed: int = 0,
) -> np.ndarray:
    """Choose from all rows and from random parts of them, and compare.

    Parameters
    ----------
    choose : callable
        ``choose(rows)`` takes rows (ascending, int64) and gives those of them that it selects.
    n : int
        How many rows there are.
    n_draws : int
        How many parts.
    share : float
        Size of a part over n, in (0, 1].
    seed : int

    Returns
    -------
    ndarray of shape (n_draws,), float64
        `jaccard` of what is selected from a part with what is selected from all, as far as it lies in the part. Two
        random selections of a share s have about s / (2 − s): 0.053 for a tenth.

    Raises
    ------
    ParameterError
        If ``n_draws`` or ``n`` is below 1, or the share out of range.

    Notes
    -----
    Stability under subsampling, as for clusterings: Ben-Hur, Elisseeff and Guyon 2002. The use on selections is ours.

    Examples
    --------
    >>> bootstrap_stability(lambda rows: rows[rows % 10 == 0], 100, n_draws=2).tolist()
    [1.0, 1.0]
    """
    positive(n=n, n_draws=n_draws)
    real("share", share, 0, 1, inside="least")
    rng, whole = np.random.default_rng(seed), np.asarray(choose(np.arange(n)))
    likeness = []
    for _ in range(n_draws):
        rows = np.sort(rng.permutation(n)[: max(1, round(share * n))])
        likeness.append(jaccard(choose(rows), np.intersect1d(whole, rows)))
    return np.array(likeness)
