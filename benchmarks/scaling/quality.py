"""What cutting cells does to the choice: how much of it stays, and how well it covers the rows, beside random draws."""

from __future__ import annotations

import numpy as np

from assl_kit.selection.adbscan import ADBSCAN
from assl_kit.selection.duplicates import nearest_of
from assl_kit.selection.redistribute import LEAST_PART, Redistributor
from assl_kit.space.clusters import SemanticKMeans
from benchmarks.kernels.data import name_of, rows

from .parts import CLUSTERS, machine, part_sizes

PARTS_EACH = (1, 4, 16)  #: parts of a cluster, about
POOL_FACTORS = (1, 3)  #: the default, where A-DBSCAN alone decides; and one where MMR chooses a third

LEAST = LEAST_PART * 10  #: rows of a part


def quality(data: str, n: int, d: int, draws: int = 5) -> list[dict]:
    """Choices of a tenth of the rows, with clusters whole, in about four and in about sixteen parts each.

    Parameters
    ----------
    data, n, d
        As `benchmarks.kernels.data.rows`.
    draws : int
        Random draws with the same budgets of clusters, whose means are the last record.

    Returns
    -------
    list of dict
        ``overlap``: share of the choice that the whole clusters' has too. ``coverage``: mean over all rows of the
        cosine to the nearest chosen one. ``apart``: mean over the chosen ones of the cosine to the nearest other.
        ``density``: mean over the chosen ones of the core distance (with whole clusters), over that of all rows.
    """
    X = rows(data, n, d)
    labels = SemanticKMeans(CLUSTERS).fit_predict(X)
    kappa = np.empty(n)
    for cluster in range(CLUSTERS):
        mine = np.flatnonzero(labels == cluster)
        kappa[mine] = ADBSCAN().fit(X[mine]).core_distances_
    base = {"data": name_of(data), "n": n, "d": d, "n_select": n // 10} | machine()
    records = []
    for factor in POOL_FACTORS:
        whole = None
        for each in PARTS_EACH:
            most = 0 if each == 1 else max(LEAST, -(-n // (CLUSTERS * each)))
            work = Redistributor(pool_factor=factor, cell_rows=most)
            chosen = np.sort(work.fit_select(X, labels, n // 10).indices)
            whole = chosen if whole is None else whole
            record = base | {"pool_factor": factor, "cell_rows": most, "parts": len(part_sizes(X, labels, most))}
            records.append(record | _measures(X, chosen, whole, kappa))
            if each == 1:
                budgets = np.bincount(labels[chosen], minlength=CLUSTERS)
        drawn = [_measures(X, _draw(labels, budgets, seed), whole, kappa) for seed in range(draws)]
        means = {name: round(float(np.mean([one[name] for one in drawn])), 4) for name in drawn[0]}
        records.append(base | {"pool_factor": factor, "cell_rows": None, "parts": None} | means)
    return records


def _draw(labels: np.ndarray, budgets: np.ndarray, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    drawn = [rng.choice(np.flatnonzero(labels == c), size, replace=False) for c, size in enumerate(budgets)]
    return np.sort(np.concatenate(drawn))


def _measures(X: np.ndarray, chosen: np.ndarray, whole: np.ndarray, kappa: np.ndarray) -> dict:
    others = np.setdiff1d(np.arange(len(X)), chosen)
    cosine = nearest_of(X, others, chosen)[1]
    inner = X[chosen] @ X[chosen].T
    np.fill_diagonal(inner, -1)
    values = {
        "overlap": len(np.intersect1d(chosen, whole)) / len(whole),
        "coverage": (cosine.sum() + len(chosen)) / len(X),
        "apart": float(inner.max(axis=1).mean()),
        "density": kappa[chosen].mean() / kappa.mean(),
    }
    return {name: round(float(value), 4) for name, value in values.items()}
