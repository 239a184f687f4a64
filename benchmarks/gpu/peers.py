"""Kernels of other libraries on a GPU, as `benchmarks.kernels.systems` has those on a CPU: left out where missing.

Only torch's was run so far, on a CPU; the others never: their calls may be wrong.
"""

from __future__ import annotations

import numpy as np

from benchmarks.kernels.systems import System


def knn_torch(X, job, state):
    import torch

    rows, k, step = torch.from_numpy(X).to(job["device"]), job["k"], 4096
    best = [torch.topk(rows[a : a + step] @ rows.T, k) for a in range(0, len(rows), step)]
    return _of_cosines(*(torch.cat(parts).cpu().numpy() for parts in zip(*best, strict=True)))


def knn_faiss(X, job, state):
    import faiss

    index = faiss.GpuIndexFlatIP(faiss.StandardGpuResources(), X.shape[1])
    index.add(X)
    return _of_cosines(*index.search(X, job["k"]))


def knn_cuvs(X, job, state):
    import cupy
    from cuvs.neighbors import brute_force

    there = cupy.asarray(X)
    found, indices = brute_force.search(brute_force.build(there, metric="inner_product"), there, job["k"])
    return _of_cosines(cupy.asnumpy(cupy.asarray(found)), cupy.asnumpy(cupy.asarray(indices)))


def knn_cuml(X, job, state):
    from cuml.neighbors import NearestNeighbors

    model = NearestNeighbors(n_neighbors=job["k"], algorithm="brute", output_type="numpy").fit(X)
    distances, indices = model.kneighbors(X)
    return {"distances": distances, "indices": indices}


def dbscan_cuml(X, job, state):
    from cuml.cluster import DBSCAN

    model = DBSCAN(eps=job["eps"], min_samples=job["min_samples"], output_type="numpy").fit(X)
    return {"labels": model.labels_}


def hdbscan_cuml(X, job, state):
    from cuml.cluster import HDBSCAN

    return {"labels": HDBSCAN(min_cluster_size=job["min_samples"], output_type="numpy").fit(X).labels_}


def kmeans_cuml(X, job, state):
    from cuml.cluster import KMeans

    model = KMeans(n_clusters=job["k"], random_state=0, output_type="numpy").fit(X)
    return {"centres": np.asarray(model.cluster_centers_)}


def _of_cosines(cosines, indices):
    return {"distances": np.sqrt(np.maximum(2 - 2 * cosines, 0)), "indices": np.asarray(indices, np.int64)}


PEERS = (
    System("knn", "torch mm + topk", knn_torch),
    System("knn", "faiss-gpu IndexFlatIP", knn_faiss, package="faiss"),
    System("knn", "cuVS brute force", knn_cuvs, package="cuvs"),
    System("knn", "cuML NearestNeighbors", knn_cuml, package="cuml"),
    System("adbscan", "cuML DBSCAN", dbscan_cuml, package="cuml"),
    System("adbscan", "cuML HDBSCAN", hdbscan_cuml, package="cuml"),
    System("kmeans", "cuML KMeans", kmeans_cuml, package="cuml"),
)
