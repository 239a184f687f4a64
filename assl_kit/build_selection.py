"""Builders of the artifacts from the records to the selection (notebooks 01 to 05), without any language model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from .files import write_json
from .parameters import Parameters
from .steps import check_enough, load_run_records, n_select_of, read, rows_of, step, training_pool
from .workspace import Workspace


# 01 ------------------------------------------------------------------------------------------------------------------
@step("records", "records.parquet", "01", (), ("data", "data_format", "n_records", "test_share", "seed"))
def _build_records(ws, p, path):
    from .corpus import write_records

    records = load_run_records(p)
    check_enough(p, len(training_pool(records)))
    write_records(records, path)


# 02 ------------------------------------------------------------------------------------------------------------------
@step("encoder", "encoder", "02", ("records",), ("encoder", "encoder_dim", "seed"), read=Path)
def _build_encoder(ws, p, path):
    """A fitted encoder is saved; of any other only its name is noted."""
    from .corpus import prompts
    from .encoder import encoder_fingerprint, load_encoder

    if p.encoder == "fit":
        texts = prompts(training_pool(read(ws, "records")))
        load_encoder("fit", texts=texts, dim=p.encoder_dim, seed=p.seed).save(str(path))
    else:
        path.mkdir()
        encoder = load_encoder(p.encoder, device=p.device)
        write_json(path / "name.json", {"name": p.encoder, "fingerprint": encoder_fingerprint(encoder)})


def open_encoder(ws: Workspace, parameters: Parameters):
    """The run's encoder, a ``SentenceTransformer``."""
    from .encoder import load_encoder

    if parameters.encoder == "fit":
        return load_encoder(str(ws.path_of("encoder")))
    return load_encoder(parameters.encoder, device=parameters.device)


def _read_embeddings(path: Path) -> dict[str, Any]:
    from safetensors import safe_open

    with safe_open(path, framework="np") as file:
        ids = file.get_tensor("ids").tobytes().decode("utf-8").split("\n")
        return {"ids": ids, "embeddings": file.get_tensor("embeddings")}


@step("embeddings", "embeddings.safetensors", "02", ("records", "encoder"), ("encoder",), read=_read_embeddings)
def _build_embeddings(ws, p, path):
    from safetensors.numpy import save_file

    from .corpus import prompts
    from .encoder import encode

    records = read(ws, "records")
    rows = encode(open_encoder(ws, p), prompts(records))
    ids = np.frombuffer("\n".join(records["id"]).encode("utf-8"), dtype=np.uint8)
    save_file({"embeddings": rows, "ids": ids}, str(path))


# 03 ------------------------------------------------------------------------------------------------------------------
@step("clusters", "clusters.parquet", "03", ("records", "embeddings"), ("n_clusters", "seed"))
def _build_clusters(ws, p, path):
    from .semantic import SemanticKMeans

    train = training_pool(read(ws, "records"))
    X = rows_of(read(ws, "embeddings"), train["id"])
    kmeans = SemanticKMeans(n_clusters=p.n_clusters, random_state=p.seed).fit(X)
    similarity = np.einsum("ij,ij->i", X, kmeans.cluster_centers_[kmeans.labels_])
    table = pd.DataFrame({"id": train["id"], "cluster": kmeans.labels_, "similarity": similarity})
    table.to_parquet(path, index=False)


# 04 ------------------------------------------------------------------------------------------------------------------
_STAGE1 = (
    "min_samples", "flattening", "link_flattening", "noise", "select_share", "n_select", "pool_factor", "repeat_share",
    "max_repeat",
)  # fmt: skip
_STAGES = (*_STAGE1, "budget_power", "mmr_relevance", "mmr_score", "mmr_diversity")


def redistributor(p: Parameters):
    """The run's two-stage ``Redistributor``."""
    from .redistribute import Redistributor

    return Redistributor(
        pool_factor=p.pool_factor,
        repeat_share=p.repeat_share,
        max_repeat=p.max_repeat,
        budget_power=p.budget_power,
        min_samples=p.min_samples,
        flattening=p.flattening,
        link_flattening=p.link_flattening,
        noise=p.noise,
        weights=(p.mmr_relevance, p.mmr_score, p.mmr_diversity),
    )


def _training_space(ws):
    train = training_pool(read(ws, "records"))
    clusters = train[["id"]].merge(read(ws, "clusters"), on="id", how="left", validate="one_to_one")["cluster"]
    return train, rows_of(read(ws, "embeddings"), train["id"]), clusters.to_numpy()


@step("pool", "pool.parquet", "04", ("embeddings", "clusters"), (*_STAGE1, "n_clusters", "budget_power"))
def _build_pool(ws, p, path):
    train, X, clusters = _training_space(ws)
    pool = redistributor(p).pool(X, clusters, n_select_of(p, len(train)), ids=train["id"].to_numpy())
    pool.drop(columns="row").to_parquet(path, index=False)


# 05 ------------------------------------------------------------------------------------------------------------------
@step("selection", "selection.parquet", "05", ("records", "embeddings", "clusters", "pool", "scores"), _STAGES)
def _build_selection(ws, p, path):
    train, X, clusters = _training_space(ws)
    pool = read(ws, "pool")
    pool.insert(0, "row", pd.Index(train["id"]).get_indexer(pool["id"]))
    scores = pool[["id"]].merge(read(ws, "scores"), on="id", how="left")["score"].to_numpy()
    ids = train["id"].to_numpy()
    chosen = redistributor(p).select(X, clusters, pool, n_select_of(p, len(train)), scores=scores, ids=ids)
    chosen.table.drop(columns="row").to_parquet(path, index=False)
