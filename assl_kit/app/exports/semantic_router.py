"""A bank's router as the k-means selector of vLLM's semantic router: its model file and its configuration."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from assl_kit.common.files import write_json, write_text
from assl_kit.errors import BankError
from assl_kit.experts.bank import ExpertBank

from .folder import Server
from .servers import RANKS, vllm_script

CATEGORIES = 14  #: further features of a question in that router: which of its domains it is of
MODEL_FILE, CONFIG_FILE = "kmeans_model.json", "config.yaml"
BASE = "base"  #: the base's name in the configuration
ROUTER_PORT, VLLM_PORT, ENCODER_PORT = 8899, 8000, 8100


def kmeans_model(centroids: np.ndarray, names: Sequence[str], min_similarity: float) -> dict[str, Any]:
    """The file of a trained k-means selector that chooses what a `CentroidRouter` chooses.

    Parameters
    ----------
    centroids : ndarray of shape (k, d)
        Unit rows.
    names : sequence of str
        The experts' adapters.
    min_similarity : float
        Below it the base answers alone; 0 or less: never.

    Returns
    -------
    dict
        ``algorithm``, ``trained``, ``num_clusters``, ``centroids`` with d + 14 numbers each, ``cluster_models``, and
        ``model_names``, ``feature_dim``.

    Notes
    -----
    Ours. The selector takes the centroid at the least Euclidean distance and knows no floor. Against a centroid s·c at
    length s and one more at the origin, ``|e − s·c|² < |e|²`` just where ``e·c > s/2``: with s twice the floor the
    cluster at the origin wins where no similarity reaches the floor, and the nearest centroid is the same otherwise,
    however long e is. The fourteen domain features are 0 in all clusters, so that they add the same to each distance.

    Examples
    --------
    >>> model = kmeans_model(np.eye(2), ["a", "b"], 0.25)
    >>> model["cluster_models"], [row[:2] for row in model["centroids"]]
    (['a', 'b', 'base'], [[0.5, 0.0], [0.0, 0.5], [0.0, 0.0]])
    >>> kmeans_model(np.eye(2), ["a", "b"], -1)["cluster_models"]
    ['a', 'b']
    """
    rows, models = np.asarray(centroids, dtype=np.float64), list(names)
    if min_similarity > 0:
        rows = np.vstack([2 * min_similarity * rows, np.zeros((1, rows.shape[1]))])
        models.append(BASE)
    features = np.hstack([rows, np.zeros((len(rows), CATEGORIES))])
    return {
        "algorithm": "kmeans",
        "trained": True,
        "num_clusters": len(features),
        "centroids": features.tolist(),
        "cluster_models": models,
        "model_names": models,  # these two for its Python side
        "feature_dim": features.shape[1],
    }


def selected(model: dict[str, Any], rows: np.ndarray) -> list[str]:
    """What the selector chooses for embedded questions, by its rule.

    Parameters
    ----------
    model : dict
        Of `kmeans_model`, or its file.
    rows : ndarray of shape (n, d)
        As ``encoder_server.py`` sends them.

    Returns
    -------
    list of str, length n
        Entries of ``cluster_models``; the first of equally near ones.

    Examples
    --------
    >>> selected(kmeans_model(np.eye(2), ["a", "b"], 0.25), np.array([[0.6, 0.8], [0.2, 0.1]]))
    ['b', 'base']
    """
    centroids = np.asarray(model["centroids"], dtype=np.float64)
    features = np.hstack([rows, np.zeros((len(rows), CATEGORIES))])
    distances = np.square(features[:, None, :] - centroids[None]).sum(axis=2)
    return [model["cluster_models"][k] for k in distances.argmin(axis=1)]


def configuration(bank: ExpertBank, n_clusters: int) -> dict[str, Any]:
    """The router's ``config.yaml``: one base with its adapters, one decision that takes all requests, the selector.

    Parameters
    ----------
    bank : ExpertBank
    n_clusters : int
        Of the model file.

    Notes
    -----
    Version v0.3 of the router's own form. Addresses are those of this machine.
    """
    dim = bank.centroids.shape[1]
    tasks = [", ".join(expert.get("tasks", {})) for expert in bank.info["experts"]]
    adapters = [
        {"name": name} | ({"description": f"Tasks: {some}"} if some else {})
        for name, some in zip(bank.names, tasks, strict=True)
    ]
    provider = {
        "name": BASE,
        "provider_model_id": bank.base["id"],
        "api_format": "openai",
        "backend_refs": [{"name": "vllm", "endpoint": f"127.0.0.1:{VLLM_PORT}", "protocol": "http", "weight": 1}],
    }
    decision = {
        "name": "experts",
        "description": "Each question goes to the expert with the nearest centroid.",
        "priority": 100,
        "rules": {"operator": "AND", "conditions": []},
        "modelRefs": [
            *({"model": BASE, "lora_name": name, "use_reasoning": False} for name in bank.names),
            {"model": BASE, "use_reasoning": False},
        ],
        "algorithm": {"type": "kmeans"},
    }
    embeddings = {
        "embedding_config": {
            "backend": "openai_compatible",
            "model_type": "remote",
            "preload_embeddings": False,
            "target_dimension": dim,
        },
        "endpoint": {
            "base_url": f"http://127.0.0.1:{ENCODER_PORT}/v1",
            "model": "encoder",
            "timeout_seconds": 10,
            "max_retries": 2,
            "dimensions": dim,
        },
    }
    selection = {"embedding_dim": dim, "kmeans": {"num_clusters": n_clusters, "pretrained_path": MODEL_FILE}}
    return {
        "version": "v0.3",
        "listeners": [{"name": f"http-{ROUTER_PORT}", "address": "0.0.0.0", "port": ROUTER_PORT}],
        "providers": {"defaults": {"default_model": BASE}, "models": [provider]},
        "routing": {"modelCards": [{"name": BASE, "loras": adapters}], "decisions": [decision]},
        "global": {
            "router": {"model_selection": {"enabled": True, "ml": selection}},
            "model_catalog": {"embeddings": {"semantic": embeddings}},
        },
    }


def _write_router(bank: ExpertBank, folder: Path) -> None:
    import yaml

    if BASE in bank.names:
        raise BankError(f"an expert has the name of the base, {BASE!r}", where=str(bank.path))
    model = kmeans_model(bank.centroids, bank.names, bank.min_similarity)
    write_json(folder / MODEL_FILE, model)
    text = yaml.safe_dump(configuration(bank, model["num_clusters"]), sort_keys=False, allow_unicode=True)
    write_text(folder / CONFIG_FILE, text)


SEMANTIC_ROUTER = Server(
    "vllm",
    "semantic-router",
    vllm_script,
    highest_rank=RANKS[-1],
    programs=("client.py", "forms.py", "routes.py", "encoder_server.py"),
    more=_write_router,
)
