"""Learning curves: how the score of a group grows with its records, and how many would be enough."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from assl_kit.errors import ParameterError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

SIZES = (25, 50, 100, 200, 400, 800, 1600)
_POWERS = np.round(np.geomspace(0.05, 2.0, 60), 4)


@dataclass(frozen=True)
class Curve:
    """The fitted curve ``a − b · n^−c`` of one group.

    Attributes
    ----------
    group : str
    sizes, scores : tuple
        What it was fitted to: numbers of records, and the mean score at each over the draws.
    a, b, c : float
        ``a`` in [0, 1], ``b`` ≥ 0, ``c`` in [0.05, 2].
    n_records : int
        Training records of the group.
    enough : int
        The least number of records whose fitted score is within 0.01 of the fitted score of all records.
    """

    group: str
    sizes: tuple[int, ...]
    scores: tuple[float, ...]
    a: float
    b: float
    c: float
    n_records: int
    enough: int

    def at(self, n: ArrayLike) -> np.ndarray:
        """The fitted score of ``n`` records.

        Examples
        --------
        >>> Curve("qa", (), (), 0.8, 1.0, 0.5, 1000, 0).at([100, 400]).round(2).tolist()
        [0.7, 0.75]
        """
        return self.a - self.b * np.maximum(np.asarray(n, float), 1.0) ** -self.c

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def fit_curve(group: str, sizes: ArrayLike, scores: ArrayLike, n_records: int, *, tolerance: float = 0.01) -> Curve:
    """Fit ``a − b · n^−c`` by least squares: c on a grid of 60 values in [0.05, 2], a and b exactly for each.

    Parameters
    ----------
    group : str
    sizes, scores : array-like of one length
        Numbers of records, ≥ 1, and scores in [0, 1].
    n_records : int
        Records of the group, ≥ 1.
    tolerance : float
        In score, for ``enough``.

    Returns
    -------
    Curve
        ``b`` = 0 (a flat curve) where scores do not grow.

    Raises
    ------
    ParameterError
        No size, or another number of scores.

    Notes
    -----
    The form is the usual one, e.g. Hestness et al. 2017 (arXiv 1712.00409); the grid is ours.

    Examples
    --------
    >>> n = np.array([25, 100, 400, 1600])
    >>> curve = fit_curve("qa", n, 0.8 - n**-0.5, 2000)
    >>> round(curve.a, 2), round(curve.b, 1), round(curve.c, 1), 900 < curve.enough < 1000
    (0.8, 1.0, 0.5, True)
    """
    sizes, scores = np.asarray(sizes, float), np.asarray(scores, float)
    if len(sizes) == 0 or sizes.shape != scores.shape:
        raise ParameterError(f"{len(sizes)} sizes but {len(scores)} scores", where=f"the curve of {group!r}")
    best = (np.inf, float(scores.mean()), 0.0, 1.0)
    powers: Iterable[float] = _POWERS if len(sizes) > 2 else (0.5,)  # two points do not tell a power
    for c in powers:
        x = sizes**-c
        spread = ((x - x.mean()) ** 2).sum()
        b = max(0.0, -((x - x.mean()) * (scores - scores.mean())).sum() / spread) if spread > 0 else 0.0
        b = b if b > 1e-9 else 0.0
        a = scores.mean() + b * x.mean()
        if a > 1:  # a score cannot pass 1
            a, b = 1.0, max(0.0, ((1 - scores) * x).sum() / (x * x).sum())
        error = ((scores - a + b * x) ** 2).sum()
        if error < best[0] - 1e-12:
            best = error, float(a), float(b), float(c)
    _, a, b, c = best
    whole = a - b * n_records**-c
    gap = a - whole + tolerance  # enough: b · n^−c ≤ gap
    enough = 1 if b <= gap else int(min(n_records, np.ceil((b / gap) ** (1 / c) - 1e-9)))
    return Curve(group, tuple(int(n) for n in sizes), tuple(float(v) for v in scores), a, b, c, int(n_records), enough)
