"""A-DBSCAN: density clustering with a radius of its own for each point, and thinning that flattens density."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral, Real

import numpy as np
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator, ClusterMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from assl_kit.errors import ParameterError
from assl_kit.space.neighbors import Graph, make_points, nearest_within, reach
from assl_kit.space.rows import check_rows

from .components import components
from .ids import id_order
from .thinning import Thinning

LEAST_NEIGHBORS = 16  # kept of each row, even where min_samples is less: they spare most of the later searches


@dataclass(frozen=True)
class ThinResult:
    """What :meth:`ADBSCAN.thin` kept, and for whom each kept row stands.

    Attributes
    ----------
    indices : ndarray of shape (p,), int64
        Kept rows, ascending.
    repeats : ndarray of shape (p,), int64
        Copies of each kept row, at least 1; they sum to the wanted size.
    representative : ndarray of shape (n,), int64
        For each row the kept row that stands for it: itself if kept, else the nearest kept row that dropped it. Where
        none such is left (the surplus, and noise under ``noise="drop"``) the nearest kept row of its label, or of all.
        -1 everywhere when nothing was wanted.
    weights : ndarray of shape (p,), int64
        How many rows each kept row stands for, itself included; they sum to n.
    scale : float
        The factor s on the radii. 0 where only exact duplicates had to go, inf where the smallest pool was wanted.
    """

    indices: np.ndarray
    repeats: np.ndarray
    representative: np.ndarray
    weights: np.ndarray
    scale: float


class ADBSCAN(ClusterMixin, BaseEstimator):
    """Adaptive DBSCAN: links points, and thins them, by a radius that follows the local density.

    The core distance κᵢ is the distance to the ``min_samples``-th nearest point, the point itself counted. The radius
    is εᵢ = eps^β · κᵢ^(1−β): β = 1 is plain DBSCAN, β = 0 follows the local density entirely. Two core points
    (κᵢ ≤ eps) are linked when their distance is at most min(εᵢ, εⱼ); labels are the connected components, numbered by
    first core member. A point that is not core joins the nearest core point within both radii, else it is noise (-1).

    Parameters
    ----------
    min_samples : int, default=10
        m ≥ 1, the point itself counted. With fewer than m rows κ is the distance to the farthest row and no point is
        core, so all are noise, as in DBSCAN.
    flattening : float, default=0.5
        β in [0, 1] of the thinning radius. The kept density is proportional to density^(1−β).
    link_flattening : float, default=0.75
        β in [0, 1] of the linking radius; small values shatter labels.
    eps : float, optional
        The common radius, > 0. By default the 0.9 quantile of the core distances.
    noise : {"thin", "drop", "keep"}, default="thin"
        What thinning does with noise: treat it as one more label, leave it out, or keep all of it that fits (each of
        exact duplicates once).
    n_jobs : int, optional
        Threads, as in joblib (-1: all cores). By default as many as BLAS is set to. Never changes the result.
    device : {"cpu", "cuda"}, default="cpu"
        Where the matrix products run. Never changes the result.
    verbose : bool, default=False
        Show progress bars.

    Attributes
    ----------
    labels_ : ndarray of shape (n,), int64
        Label of each row, -1 for noise.
    core_sample_indices_ : ndarray of int64
        Core rows, ascending. They do not depend on either exponent.
    core_distances_ : ndarray of shape (n,), float64
        κ, in the units of X.
    radii_ : ndarray of shape (n,), float64
        Thinning radius, with β = ``flattening``.
    link_radii_ : ndarray of shape (n,), float64
        Linking radius, with β = ``link_flattening``.
    eps_ : float
        The common radius used.
    n_features_in_ : int
        Columns of X.

    Raises
    ------
    ParameterError
        From ``fit`` and ``thin``, if a parameter is of the wrong type or out of range.
    DataError
        From ``fit``, if a row holds NaN, inf or an entry beyond 1e30; the row is named.

    Notes
    -----
    The paper (arXiv 2404.04949) says that the radius adapts to local density, that dense regions are thinned and sparse
    ones raised; the formulas here are ours. Distances are Euclidean on float32 rows as given; on unit rows they rank
    pairs as cosine does. A distance counts as within a radius up to a relative slack of 1e-6.

    ``fit`` keeps a reference to the rows, which ``thin`` reads: do not change X in between. Exact duplicates are worked
    on once. Working memory is O(n·m + n·d/2 + tile).

    Examples
    --------
    >>> import numpy as np
    >>> from assl_kit import ADBSCAN
    >>> rng = np.random.default_rng(0)
    >>> X = np.vstack([rng.normal(0, 0.1, (300, 2)), rng.normal(3, 0.5, (100, 2))])
    >>> model = ADBSCAN(min_samples=5).fit(X)
    >>> bool((model.core_distances_[:300].mean() < model.core_distances_[300:].mean()))
    True
    >>> result = model.thin(40)
    >>> int(result.repeats.sum()), len(result.indices), int(result.weights.sum())
    (40, 36, 400)
    """

    def __init__(
        self,
        min_samples: int = 10,
        flattening: float = 0.5,
        link_flattening: float = 0.75,
        eps: float | None = None,
        noise: str = "thin",
        n_jobs: int | None = None,
        device: str = "cpu",
        verbose: bool = False,
    ) -> None:
        self.min_samples = min_samples
        self.flattening = flattening
        self.link_flattening = link_flattening
        self.eps = eps
        self.noise = noise
        self.n_jobs = n_jobs
        self.device = device
        self.verbose = verbose

    def fit(self, X: ArrayLike, y: None = None) -> ADBSCAN:
        """Find core distances, radii and labels.

        Parameters
        ----------
        X : array-like of shape (n, d)
            Finite rows.
        y : None
            Ignored.

        Returns
        -------
        ADBSCAN
            The fitted estimator.
        """
        self._check_parameters()
        X = validate_data(self, X, dtype="numeric", ensure_all_finite=False)
        return self._fit(check_rows(X, convert=False, values=self.device == "cpu"))

    def _fit(self, X: np.ndarray, subset: np.ndarray | None = None) -> ADBSCAN:
        """Fit on checked rows of X, or on a subset of them, which needs no copy."""
        self._check_parameters()
        points = make_points(X, subset=subset, n_jobs=self.n_jobs, device=self.device, verbose=self.verbose)
        n, m, u = len(points.inverse), int(self.min_samples), len(points)
        graph = Graph(points, max(m, LEAST_NEIGHBORS))
        counted = np.cumsum(points.counts[graph.index], axis=1) if u < n else np.arange(1, graph.index.shape[1] + 1)
        at = np.minimum((counted < m).sum(axis=-1), graph.index.shape[1] - 1)
        kappa = np.sqrt(graph.squared[np.arange(u), at])
        eps = float(np.quantile(kappa[points.inverse], 0.9)) if self.eps is None else float(self.eps)
        is_core = np.square(kappa) <= reach(eps) if n >= m else np.zeros(u, dtype=bool)
        labels, core = np.full(u, -1, dtype=np.int64), np.flatnonzero(is_core)
        if len(core):
            limit = reach(_radii(eps, kappa, self.link_flattening))
            labels[core] = components(points, core, limit, graph)
            border = np.flatnonzero(~is_core)
            nearest, _ = nearest_within(points, border, core, limit, graph=graph)
            labels[border[nearest >= 0]] = labels[nearest[nearest >= 0]]
        self._points, self._graph, self._kappa, self._labels = points, graph, kappa, labels
        self.core_distances_, self.labels_, self.eps_ = kappa[points.inverse], labels[points.inverse], eps
        self.radii_ = _radii(eps, self.core_distances_, self.flattening)
        self.link_radii_ = _radii(eps, self.core_distances_, self.link_flattening)
        self.core_sample_indices_ = np.flatnonzero(is_core[points.inverse])
        return self

    def thin(
        self, n_select: int, ids: ArrayLike | None = None, max_repeat: int = 2, repeat_share: float = 0.1
    ) -> ThinResult:
        """Keep fewer rows, more evenly spread, and repeat the sparsest of them: ``n_select`` in all, exactly.

        Within a label rows are visited by ascending core distance, and a row is dropped where a kept one lies within
        s·min(εᵢ, εⱼ). One s serves all labels: the largest, found by bisection, whose pool is not smaller than wanted.
        The surplus is then taken out one at a time: the kept row nearest to another kept row of its label relative to
        its own radius; where every label has one row left, the one that stands for fewest. Of exact duplicates one is
        kept while the pool is smaller than the number of distinct rows.

        Parameters
        ----------
        n_select : int
            Wanted size ≥ 0, copies counted. More than the rows there are is possible as far as ``max_repeat`` allows.
        ids : array-like of shape (n,), optional
            Unique sortable names that settle ties (the lesser is preferred); row numbers by default.
        max_repeat : int, default=2
            Most times one row is given, ≥ 1; 1 turns repeats off.
        repeat_share : float, default=0.1
            Share of ``n_select``, in [0, 1], given as second copies, then third, and so on, to the kept rows with the
            largest core distance. Noise is never repeated, so fewer copies are given where little else is kept.

        Returns
        -------
        ThinResult

        Raises
        ------
        ParameterError
            If a parameter is out of range, or ``n_select`` is more than can be given; the message says how many can.
        DataError
            If ``ids`` are not unique or not one for each row.
        sklearn.exceptions.NotFittedError
            Before ``fit``.

        Examples
        --------
        >>> result = ADBSCAN(min_samples=2).fit([[0.0], [0.1], [0.2], [5.0], [5.1], [5.1]]).thin(4, repeat_share=0)
        >>> result.indices, result.weights
        (array([0, 2, 3, 4]), array([2, 1, 1, 2]))
        """
        check_is_fitted(self)
        self._check_parameters()
        n = len(self.labels_)
        _require_integer("n_select", n_select, 0)
        _require_integer("max_repeat", max_repeat, 1)
        _require_share("repeat_share", repeat_share)
        rank = np.empty(n, dtype=np.int64)
        rank[id_order(ids, n, unique=True)] = np.arange(n)
        rows = np.flatnonzero(self.labels_ >= 0) if self.noise == "drop" else np.arange(n)
        extra = max_repeat - 1 if repeat_share > 0 else 0
        most = len(rows) + extra * int((self.labels_ >= 0).sum())
        if n_select > most:
            what = f"n_select is {n_select}, but at most {most} can be given"
            hint = f"There are {len(rows)} rows to choose from, and only rows that are not noise are repeated"
            raise ParameterError(what, hint=f"{hint} (max_repeat={max_repeat}).")
        if n_select == 0:
            none = np.empty(0, dtype=np.int64)
            return ThinResult(none, none.copy(), np.full(n, -1, dtype=np.int64), none.copy(), float("inf"))
        thinning, chosen = self._thinning(rank)
        copies = int(np.floor(repeat_share * n_select + 1e-9)) if extra else 0
        size = min(max(n_select - copies, -(-n_select // max_repeat)), len(rows))
        while True:
            numbers, scale = thinning.pool(min(size, len(thinning.visit)))
            kept = chosen[numbers]
            if size > len(kept):  # every distinct row is in it: equal ones follow, by rank
                others = np.setdiff1d(rows, kept)
                kept = np.concatenate([kept, others[np.argsort(rank[others])][: size - len(kept)]])
            kept = np.sort(kept)
            room = extra * int((self.labels_[kept] >= 0).sum())
            if n_select - size <= room:
                break
            size = min(n_select - room, len(rows))
        representative = chosen[thinning.represent(numbers, scale)][self._points.inverse]
        representative[kept] = kept
        weights = np.bincount(np.searchsorted(kept, representative), minlength=len(kept))
        return ThinResult(kept, self._repeats(kept, n_select, rank), representative, weights, scale)

    def _thinning(self, rank: np.ndarray) -> tuple[Thinning, np.ndarray]:
        """Thinning of the distinct rows, and the one of each group of equal rows that is given for it."""
        points = self._points
        order = np.argsort(rank)
        chosen = order[np.unique(points.inverse[order], return_index=True)[1]]
        radii = _radii(self.eps_, self._kappa, self.flattening)
        work = Thinning(points, self._graph, self._labels, self._kappa, radii, rank[chosen], self.noise)
        return work, chosen

    def _repeats(self, kept: np.ndarray, n_select: int, rank: np.ndarray) -> np.ndarray:
        """Copies of each kept row: rounds over those that are not noise, sparsest first."""
        repeats = np.ones(len(kept), dtype=np.int64)
        if n_select > len(kept):
            eligible = np.flatnonzero(self.labels_[kept] >= 0)
            order = eligible[np.lexsort((rank[kept[eligible]], -self.core_distances_[kept[eligible]]))]
            rounds, rest = divmod(n_select - len(kept), len(order))
            repeats[order] += rounds
            repeats[order[:rest]] += 1
        return repeats

    def _check_parameters(self) -> None:
        _require_integer("min_samples", self.min_samples, 1)
        _require_share("flattening", self.flattening)
        _require_share("link_flattening", self.link_flattening)
        eps = self.eps
        if eps is not None and (isinstance(eps, bool) or not isinstance(eps, Real) or not 0 < eps < np.inf):
            raise ParameterError(f"eps is {eps!r}", hint="Give a positive number, or None for the 0.9 quantile.")
        if self.noise not in ("thin", "drop", "keep"):
            raise ParameterError(f"noise is {self.noise!r}", hint="Use 'thin', 'drop' or 'keep'.")


def _radii(eps: float, kappa: np.ndarray, beta: float) -> np.ndarray:
    return float(eps) ** float(beta) * kappa ** (1 - float(beta))


def _require_integer(name: str, value: int, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        raise ParameterError(f"{name} is {value!r}", hint=f"Give an integer of at least {least}.")


def _require_share(name: str, value: float) -> None:
    if isinstance(value, bool) or not isinstance(value, Real) or not 0 <= value <= 1:
        raise ParameterError(f"{name} is {value!r}", hint="Give a number from 0 to 1.")
