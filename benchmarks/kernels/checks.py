"""Is it the same result? Every answer is checked in float64 against the definition, and with ours.

A check returns a `Verdict`: whether the result counts (None where a method has no answer to compare), and why not.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

NEAR = 2e-4  # distances closer than this count as equal
NEAR_SQUARED = 1e-5  # of squares: float32 cosines lose distances near 0
NEAR_VALUE = 1e-6  # MMR values closer than this are a tie
SAMPLE = 500
MOST_VALUES = 4e8  # rows times picks that the check of MMR looks at


@dataclass(frozen=True)
class Verdict:
    """``agrees``: True, False, or None where there is nothing to compare; ``note`` in words; more fields to store."""

    agrees: bool | None
    note: str = ""
    fields: tuple[tuple[str, float], ...] = ()


def check(kernel: str, name: str, X, job, result, ours) -> Verdict:
    """Check one result.

    Parameters
    ----------
    kernel, name : str
        Of the system.
    X : ndarray of shape (n, d), float32
    job : dict
        What the system was asked for.
    result : dict
        What it gave.
    ours : dict
        By name, what the systems before it gave, ours first.
    """
    if "indices" in result and "distances" in result:
        return check_knn(X, result, ours.get("assl-kit") if kernel == "knn" else None)
    if kernel == "adbscan":
        return check_labels(X, name, result, ours.get("assl-kit, link β = 1"))
    if kernel in {"thin", "stages"}:
        return check_size(result, len(X), job["n_select"])
    if kernel == "mmr":
        return check_picks(X, result["picks"], job["weights"], ours.get("assl-kit"))
    if kernel == "kmeans":
        return check_centres(X, result, ours.get("assl-kit"))
    return Verdict(None)


def check_knn(X, result, ours=None, sample=SAMPLE) -> Verdict:
    """Neighbours: a sample of rows against brute force in float64, then all rows against ours."""
    distances, indices = np.asarray(result["distances"], np.float64), np.asarray(result["indices"])
    n, k = len(X), indices.shape[1]
    if indices.shape != (n, k) or distances.shape != (n, k) or indices.min() < 0 or indices.max() >= n:
        return Verdict(False, "not k row numbers for every row")
    if (np.diff(np.sort(indices, axis=1), axis=1) == 0).any():
        return Verdict(False, "a row is named twice among the neighbours of one row")
    rows = np.sort(np.random.default_rng(0).choice(n, min(sample, n), replace=False))
    truth = _brute_force(X, rows, k)
    worst = np.abs(_profile(X, rows, indices[rows]) - truth).max(axis=1)
    if (wrong := int((worst > NEAR).sum())) > 0:
        return Verdict(False, f"{wrong} of {len(rows)} rows have other neighbours than brute force in float64")
    if not _close(np.sort(distances[rows], axis=1), truth):
        return Verdict(False, "distances differ from float64")
    if ours is None:
        return Verdict(True, f"{len(rows)} rows checked against float64")
    if not _close(np.sort(distances, axis=1), np.sort(np.asarray(ours["distances"], np.float64), axis=1)):
        return Verdict(False, "distances differ from ours")
    differ = np.flatnonzero((np.sort(indices, axis=1) != np.sort(ours["indices"], axis=1)).any(axis=1))
    gap = np.abs(_profile(X, differ, indices[differ]) - _profile(X, differ, ours["indices"][differ]))
    if (gap > NEAR).any():
        return Verdict(False, f"{int((gap > NEAR).any(axis=1).sum())} rows have other neighbours than ours")
    return Verdict(True, f"{len(differ)} rows differ from ours by near ties" if len(differ) else "as ours in every row")


def check_labels(X, name, result, plain=None) -> Verdict:
    """Density clusters: at link β = 1 ours and scikit-learn's DBSCAN must give the same."""
    if plain is None or "core" not in result:
        return Verdict(None, "another method: labels are not comparable" if "core" not in result else "")
    core, labels, whole = _core(result, len(X)), result["labels"], plain["labels"]
    off = np.flatnonzero(core != _core(plain, len(X)))
    if (np.abs(plain["kappa"][off] - plain["eps"]) > NEAR).any():
        return Verdict(False, "other core points")
    both = core & _core(plain, len(X))
    pairs = np.unique(np.stack([labels[both], whole[both]]), axis=1)
    if name.startswith("assl-kit"):  # the default exponents may split a cluster, never join two
        refines = pairs.shape[1] == len(np.unique(pairs[0]))
        return Verdict(bool(refines), "refines the clusters at β = 1" if refines else "joins clusters of β = 1")
    if pairs.shape[1] != len(np.unique(pairs[0])) or pairs.shape[1] != len(np.unique(pairs[1])):
        return Verdict(False, "core points are grouped otherwise than by ours")
    to_ours = np.full(max(labels.max(), -1) + 2, -1)
    to_ours[pairs[0]] = pairs[1]
    border = np.flatnonzero((to_ours[labels] != whole) & ~both)
    if (borders := _wrong_borders(X, border, to_ours[labels], whole, both, plain["eps"])) > 0:
        return Verdict(False, f"{borders} border points are labelled otherwise than by ours")
    return Verdict(True, f"the same labels; {len(border)} border points lie between two clusters")


def check_size(result, n, n_select) -> Verdict:
    """A selection has exactly the wanted size, names each row once and stands for all of them."""
    indices, repeats = result["indices"], result["repeats"]
    if len(np.unique(indices)) != len(indices) or len(indices) and not 0 <= indices.min() <= indices.max() < n:
        return Verdict(False, "not distinct row numbers")
    if int(repeats.sum()) != n_select or (repeats < 1).any():
        return Verdict(False, f"{int(repeats.sum())} records, not {n_select}")
    if "weights" in result and int(result["weights"].sum()) != n:
        return Verdict(False, f"the weights sum to {int(result['weights'].sum())}, not {n}")
    return Verdict(True, f"{n_select} records, {len(indices)} distinct")


def check_picks(X, picks, weights, ours=None) -> Verdict:
    """MMR: each pick is the best given the picks before it, by values computed again in float64, but for near ties."""
    n = len(X)
    if len(np.unique(picks)) != len(picks) or picks.min() < 0 or picks.max() >= n:
        return Verdict(False, "not distinct row numbers")
    rows = np.arange(n)
    if n * len(picks) > MOST_VALUES:  # all picks, and a sample of the others
        rows = np.random.default_rng(0).choice(n, int(MOST_VALUES / len(picks)), replace=False)
        rows = np.union1d(rows, picks)
    place = np.searchsorted(rows, picks)
    few = X[rows].astype(np.float64)
    centre = X.mean(axis=0, dtype=np.float64)
    base = weights[0] * (few @ (centre / np.linalg.norm(centre)))
    nearest, value = np.full(len(rows), -np.inf), base.copy()
    worst = 0.0
    for start in range(0, len(picks), 256):
        cosines = (few @ few[place[start : start + 256]].T).T.copy()
        for p, new in zip(place[start : start + 256], cosines, strict=True):
            worst = max(worst, value.max() - value[p])
            np.maximum(nearest, new, out=nearest)
            gone = value == -np.inf
            np.subtract(base, weights[2] * nearest, out=value)
            value[gone] = value[p] = -np.inf
    if not worst < NEAR_VALUE:
        return Verdict(False, f"a pick is worse than the best by {worst:.1e}")
    same = "" if ours is None else _same_picks(picks, ours["picks"])
    return Verdict(True, f"{same}every pick the best to within {worst:.0e}")


def check_centres(X, result, ours=None) -> Verdict:
    """k-means: the sum of 2 − 2·cos to the nearest unit centre. It counts where it is not above ours by 0.1 %."""
    value = result["inertia"] = inertia(X, result["centres"])
    fields = (("inertia", value),)
    if ours is None:
        return Verdict(True, f"inertia {value / len(X):.4f} a row", fields)
    above = value / ours["inertia"] - 1
    return Verdict(bool(above <= 1e-3), f"inertia {value / len(X):.4f} a row, {above:+.2%} against ours", fields)


def inertia(X, centres) -> float:
    """Sum over rows of 2 − 2·cos to the nearest of the centres, scaled to unit length."""
    centres = centres / np.linalg.norm(centres, axis=1, keepdims=True)
    blocks = range(0, len(X), 8192)
    return float(sum((2 - 2 * (X[a : a + 8192] @ centres.T).max(axis=1).astype(np.float64)).sum() for a in blocks))


def _brute_force(X, rows, k):
    """Distances (len(rows), k) to the k nearest, ascending, in float64."""
    left = X[rows].astype(np.float64)
    norms = np.einsum("ij,ij->i", left, left)[:, None]
    best = np.full((len(rows), k), np.inf)
    for start in range(0, len(X), 8192):
        right = X[start : start + 8192].astype(np.float64)
        squared = norms + np.einsum("ij,ij->i", right, right) - 2 * left @ right.T
        best = np.partition(np.hstack([best, squared]), k - 1, axis=1)[:, :k]
    return np.sqrt(np.maximum(np.sort(best, axis=1), 0))


def _profile(X, rows, indices):
    """Distances of rows to the given neighbours, each row ascending, in float64."""
    distances = np.empty(indices.shape)
    for start in range(0, len(rows), 512):
        part = slice(start, start + 512)
        gap = X[indices[part]].astype(np.float64) - X[rows[part], None].astype(np.float64)
        distances[part] = np.sort(np.sqrt(np.einsum("ijk,ijk->ij", gap, gap)), axis=1)
    return distances


def _close(one, other):
    return bool(((np.abs(one - other) <= NEAR) | (np.abs(one * one - other * other) <= NEAR_SQUARED)).all())


def _core(result, n):
    core = np.zeros(n, dtype=bool)
    core[result["core"]] = True
    return core


def _wrong_borders(X, rows, theirs, ours, core, eps):
    """How many of these rows have a label that no core point within eps has. Noise is right where no core is near."""
    wrong, cores = 0, np.flatnonzero(core)
    for row in rows:
        gap = X[cores].astype(np.float64) - X[row].astype(np.float64)
        distance = np.sqrt(np.einsum("ij,ij->i", gap, gap))
        loose = set(ours[cores[distance <= eps + NEAR]].tolist())
        tight = bool((distance <= eps - NEAR).any())
        wrong += any(label not in loose if label >= 0 else tight for label in (theirs[row], ours[row]))
    return wrong


def _same_picks(picks, ours):
    if np.array_equal(picks, ours):
        return "the same picks; "
    first = int(np.argmax(picks != ours))
    return f"the same picks up to {first}, {len(np.intersect1d(picks, ours))} of {len(picks)} in common; "
