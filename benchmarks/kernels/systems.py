"""What is measured: our kernels, their peers, and the matrix product that is the yardstick.

Each function takes unit rows, a job (numbers the kernel needs) and the state of its process, and returns a dict of
results for `checks`. Peers are imported where they are used, so that a missing one is only left out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec

import numpy as np

TILE = 4096
WHOLE_UP_TO = 50_000  #: rows; of more the matrix product is measured on a tenth, times ten
MMR_WEIGHTS = (0.5, 0.0, 0.5)


@dataclass(frozen=True)
class System:
    """One system of one kernel.

    Attributes
    ----------
    kernel, name : str
        As in the records.
    run : callable
        ``run(X, job, state) -> dict``.
    package : str, optional
        What must be installed for it.
    largest : int, optional
        Most rows it is given.
    bytes_a_pair : float
        Memory it needs for each pair of rows; it is left out where the machine has less.
    cuda : bool
        Also measured with ``--device cuda``.
    """

    kernel: str
    name: str
    run: Callable
    package: str | None = None
    largest: int | None = None
    bytes_a_pair: float = 0.0
    cuda: bool = False

    @property
    def ours(self) -> bool:
        return self.name.startswith("assl-kit")

    @property
    def yardstick(self) -> bool:
        return self.name.startswith("GEMM")

    @property
    def process(self) -> str:
        """Systems with the same process share one: thinning needs the fitted model."""
        return "adbscan assl-kit" if self.kernel == "thin" else f"{self.kernel} {self.name}"

    def missing(self) -> str | None:
        """The package that is not installed, if any."""
        return self.package if self.package and find_spec(self.package) is None else None


def _device(job):
    """Our functions are told of a device only where it is not the CPU."""
    return {} if job.get("device", "cpu") == "cpu" else {"device": job["device"]}


# the yardstick


def gemm_numpy(X, job, state):
    """All n·n·d products, tile by tile; two different arrays, so that numpy cannot use the symmetry."""
    A, factor = _other_operand(X)
    out = np.empty((TILE, TILE), np.float32)
    for a in range(0, len(A), TILE):
        for b in range(0, len(X), TILE):
            left, right = A[a : a + TILE], X[b : b + TILE]
            np.matmul(left, right.T, out=out[: len(left), : len(right)])
    return {"factor": factor}


def gemm_torch(X, job, state):
    import torch

    device = job.get("device", "cpu")
    if device == "cpu":
        A, factor = _other_operand(X)
        A, B = torch.from_numpy(A), torch.from_numpy(X)
    else:  # the rows are sent once, as ours are
        B = torch.from_numpy(X).to(device)
        A, factor = B.clone(), 1.0
    out = torch.empty((TILE, TILE), device=device)
    for a in range(0, len(A), TILE):
        for b in range(0, len(B), TILE):
            left, right = A[a : a + TILE], B[b : b + TILE]
            full = len(left) == TILE and len(right) == TILE
            torch.mm(left, right.T, out=out if full else torch.empty((len(left), len(right)), device=device))
    if device == "cuda":
        torch.cuda.synchronize()
    return {"factor": factor}


def gemm_symmetric(X, job, state):
    """Half of the tiles, as the product of X with itself is symmetric; numpy halves those on the diagonal too."""
    for a in range(0, len(X), TILE):
        for b in range(a, len(X), TILE):
            X[a : a + TILE] @ X[b : b + TILE].T
    return {"factor": 1.0}


def _other_operand(X):
    """A copy of X; of a large one the first tenth, as the work is the same for every row."""
    rows = len(X) if len(X) <= WHOLE_UP_TO else len(X) // 10
    return X[:rows].copy(), len(X) / rows


# k nearest neighbours


def knn_ours(X, job, state):
    from assl_kit.space.neighbors import knn

    distances, indices = knn(X, job["k"], **_device(job))
    return {"distances": distances, "indices": indices}


def knn_faiss(X, job, state):
    import faiss

    index = faiss.IndexFlatIP(X.shape[1])
    index.add(X)
    cosines, indices = index.search(X, job["k"])
    return {"distances": _chord(cosines), "indices": indices}


def knn_sklearn(X, job, state):
    from sklearn.neighbors import NearestNeighbors

    distances, indices = NearestNeighbors(n_neighbors=job["k"], algorithm="brute").fit(X).kneighbors(X)
    return {"distances": distances, "indices": indices}


def knn_torch(X, job, state):
    import torch

    rows, step = torch.from_numpy(X), 1024
    cosines = torch.empty((len(rows), job["k"]))
    indices = torch.empty((len(rows), job["k"]), dtype=torch.int64)
    for a in range(0, len(rows), step):
        part = slice(a, a + step)
        cosines[part], indices[part] = torch.topk(rows[part] @ rows.T, job["k"])
    return {"distances": _chord(cosines.numpy()), "indices": indices.numpy()}


def _chord(cosines):
    return np.sqrt(np.maximum(2 - 2 * cosines, 0))


# density clustering and thinning


def adbscan_ours(X, job, state, **parameters):
    from assl_kit import ADBSCAN

    model = state["model"] = ADBSCAN(min_samples=job["min_samples"], **parameters, **_device(job)).fit(X)
    return {
        "labels": model.labels_,
        "core": model.core_sample_indices_,
        "kappa": model.core_distances_,
        "eps": model.eps_,
    }


def adbscan_plain(X, job, state):
    """Our fit at link β = 1, which is plain DBSCAN."""
    return adbscan_ours(X, job, state, link_flattening=1.0)


def adbscan_knn(X, job, state):
    return knn_ours(X, {**job, "k": job["min_samples"]}, state)


def adbscan_sklearn(X, job, state):
    from sklearn.cluster import DBSCAN

    model = DBSCAN(eps=job["eps"] ** 2 / 2, min_samples=job["min_samples"], metric="cosine").fit(X)
    return {"labels": model.labels_, "core": model.core_sample_indices_}


def hdbscan_sklearn(X, job, state):
    from sklearn.cluster import HDBSCAN

    model = HDBSCAN(min_cluster_size=job["min_samples"], metric="cosine", algorithm="brute", copy=True).fit(X)
    return {"labels": model.labels_}


def hdbscan_package(X, job, state):
    import hdbscan

    model = hdbscan.HDBSCAN(min_cluster_size=job["min_samples"], core_dist_n_jobs=job["threads"]).fit(X)
    return {"labels": model.labels_}


def thin_ours(X, job, state):
    """From the model that `adbscan_ours` left in this process."""
    result = state["model"].thin(job["n_select"])
    return {"indices": result.indices, "repeats": result.repeats, "weights": result.weights}


# maximal marginal relevance


def mmr_ours(X, job, state):
    from assl_kit import mmr_select

    return {"picks": mmr_select(X, job["n_select"], weights=MMR_WEIGHTS, **_device(job))}


def mmr_pyversity(X, job, state):
    """It takes cosines below 0 as 0, so one column more makes each cosine c (1 + c) / 2: the picks are the same."""
    from pyversity.strategies import mmr

    half = np.float32(np.sqrt(0.5))
    lifted = np.full((len(X), X.shape[1] + 1), half, np.float32)
    np.multiply(X, half, out=lifted[:, :-1])
    relevance = X @ mean_direction(X) / 2
    result = mmr(lifted, relevance, job["n_select"], diversity=MMR_WEIGHTS[2], normalize=False)
    return {"picks": result.indices.astype(np.int64)}


def mmr_matvec(X, job, state):
    """The plain loop in float32: one matrix-vector product a pick."""
    relevance, _, diversity = np.float32(MMR_WEIGHTS)
    base = relevance * (X @ mean_direction(X))
    nearest = np.full(len(X), -np.inf, np.float32)
    value, picks = base.copy(), np.empty(job["n_select"], np.int64)
    for t in range(len(picks)):
        picks[t] = np.argmax(value)
        np.maximum(nearest, X @ X[picks[t]], out=nearest)
        value = base - diversity * nearest
        value[picks[: t + 1]] = -np.inf
    return {"picks": picks}


def mean_direction(X):
    centre = X.mean(axis=0, dtype=np.float64)
    return (centre / np.linalg.norm(centre)).astype(np.float32)


# k-means


def kmeans_ours(X, job, state):
    from assl_kit import SemanticKMeans

    return {"centres": SemanticKMeans(job["k"], random_state=0, **_device(job)).fit(X).cluster_centers_}


def kmeans_faiss(X, job, state, **parameters):
    import faiss

    model = faiss.Kmeans(X.shape[1], job["k"], spherical=True, **parameters)
    model.train(X)
    model.assign(X)
    return {"centres": model.centroids}


def kmeans_faiss_all(X, job, state):
    return kmeans_faiss(X, job, state, max_points_per_centroid=len(X))


def kmeans_faiss_restarts(X, job, state):
    """As many restarts as ours: what it takes to reach our inertia."""
    return kmeans_faiss(X, job, state, max_points_per_centroid=len(X), nredo=10)


def kmeans_sklearn(X, job, state):
    from sklearn.cluster import KMeans

    return {"centres": KMeans(job["k"], random_state=0).fit(X).cluster_centers_}


def kmeans_minibatch(X, job, state):
    from sklearn.cluster import MiniBatchKMeans

    return {"centres": MiniBatchKMeans(job["k"], random_state=0).fit(X).cluster_centers_}


# the two stages


def stages_ours(X, job, state):
    """Clusters, then in each of them A-DBSCAN and MMR down to ``n_select`` records."""
    from assl_kit import Redistributor, SemanticKMeans

    clusters = SemanticKMeans(job["k"], random_state=0, **_device(job)).fit(X).labels_
    selection = Redistributor(**_device(job)).fit_select(X, clusters, job["n_select"])
    return {"indices": selection.indices, "repeats": selection.repeats}


SYSTEMS = (
    System("knn", "assl-kit", knn_ours, cuda=True),
    System("knn", "GEMM, numpy", gemm_numpy),
    System("knn", "GEMM, torch", gemm_torch, cuda=True),
    System("knn", "half of the product", gemm_symmetric, largest=40_000),
    System("knn", "faiss IndexFlatIP", knn_faiss, package="faiss"),
    System("knn", "torch mm + topk", knn_torch),
    System("knn", "scikit-learn brute", knn_sklearn),
    System("adbscan", "assl-kit, link β = 1", adbscan_plain, largest=40_000),
    System("adbscan", "assl-kit", adbscan_ours, cuda=True),
    System("thin", "assl-kit", thin_ours, cuda=True),
    System("adbscan", "assl-kit k-NN alone", adbscan_knn, largest=40_000),
    System("adbscan", "scikit-learn DBSCAN", adbscan_sklearn),
    System("adbscan", "scikit-learn HDBSCAN", hdbscan_sklearn, bytes_a_pair=20.0),
    System("adbscan", "hdbscan", hdbscan_package, package="hdbscan"),
    System("mmr", "assl-kit", mmr_ours, cuda=True),
    System("mmr", "pyversity", mmr_pyversity, package="pyversity"),
    System("mmr", "matrix-vector product a pick", mmr_matvec),
    System("kmeans", "assl-kit", kmeans_ours, cuda=True),
    System("kmeans", "faiss.Kmeans", kmeans_faiss, package="faiss"),
    System("kmeans", "faiss.Kmeans, all rows", kmeans_faiss_all, package="faiss"),
    System("kmeans", "faiss.Kmeans, all rows, 10 restarts", kmeans_faiss_restarts, package="faiss", largest=40_000),
    System("kmeans", "MiniBatchKMeans", kmeans_minibatch),
    System("kmeans", "scikit-learn KMeans", kmeans_sklearn),
    System("stages", "assl-kit", stages_ours, cuda=True),
)
