"""Builders of the artifacts from the records to the selection (notebooks 01 to 05), without any language model."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd

from .corpus import BLOCK, block_starts
from .embedding_file import embed_block, mapped_rows, read_embeddings, write_embeddings
from .files import write_json
from .parameters import Parameters
from .scale_out import backend
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


@step("embeddings", "embeddings.safetensors", "02", ("records", "encoder"), ("encoder",), read=read_embeddings)
def _build_embeddings(ws, p, path):
    """Block by block of the records, so that a block's rows do not depend on who embeds it."""
    records = ws.path_of("records.parquet")
    if backend() == "ray":
        from .ray_stages import embed_side_by_side

        fitted = p.encoder == "fit"
        where = (str(ws.path_of("encoder")), "cpu") if fitted else (p.encoder, p.device)
        blocks = embed_side_by_side(records, where[0], device=where[1])
    else:
        encoder = open_encoder(ws, p)
        blocks = (embed_block(encoder, records, number) for number in range(len(block_starts(records)) - 1))
    write_embeddings(path, pd.read_parquet(records, columns=["id"])["id"], blocks)


# 03 ------------------------------------------------------------------------------------------------------------------
@contextmanager
def _training_rows(ws):
    """Ids and embeddings of the training records, in their order; for Ray's workers in a file that they can map."""
    ids = training_pool(pd.read_parquet(ws.path_of("records.parquet"), columns=["id", "split"]))["id"]
    space = read(ws, "embeddings")
    if backend() == "local":
        yield ids, rows_of(space, ids)
        return
    places = rows_of(space | {"embeddings": np.arange(len(space["ids"]))}, ids)
    with mapped_rows(space["embeddings"], places, ws.folder) as X:
        yield ids, X


@step("clusters", "clusters.parquet", "03", ("records", "embeddings"), ("n_clusters", "seed"))
def _build_clusters(ws, p, path):
    from .semantic import SemanticKMeans

    with _training_rows(ws) as (ids, X):
        kmeans = SemanticKMeans(n_clusters=p.n_clusters, random_state=p.seed).fit(X)
        own, similarity = kmeans.labels_, np.empty(len(X), np.float32)
        for start in range(0, len(X), BLOCK):
            part = slice(start, start + BLOCK)
            similarity[part] = np.einsum("ij,ij->i", X[part], kmeans.cluster_centers_[own[part]])
    table = pd.DataFrame({"id": ids, "cluster": own, "similarity": similarity})
    table.to_parquet(path, index=False)


# 04 ------------------------------------------------------------------------------------------------------------------
_STAGE1 = (
    "min_samples", "flattening", "link_flattening", "noise", "select_share", "n_select", "pool_factor", "repeat_share",
    "max_repeat",
)  # fmt: skip
_STAGES = (*_STAGE1, "budget_power", "mmr_relevance", "mmr_score", "mmr_diversity")


def redistributor(p: Parameters):
    """The run's two-stage ``Redistributor``, of the engine asked for."""
    if backend() == "ray":
        from .ray_stages import RayRedistributor as Redistributor
    else:
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


def _clusters_of(ws, ids):
    return ids.to_frame().merge(read(ws, "clusters"), on="id", how="left", validate="one_to_one")["cluster"].to_numpy()


@step("pool", "pool.parquet", "04", ("embeddings", "clusters"), (*_STAGE1, "n_clusters", "budget_power"))
def _build_pool(ws, p, path):
    with _training_rows(ws) as (ids, X):
        pool = redistributor(p).pool(X, _clusters_of(ws, ids), n_select_of(p, len(ids)), ids=ids.to_numpy())
    pool.drop(columns="row").to_parquet(path, index=False)


# 05 ------------------------------------------------------------------------------------------------------------------
@step("selection", "selection.parquet", "05", ("records", "embeddings", "clusters", "pool", "scores"), _STAGES)
def _build_selection(ws, p, path):
    pool = read(ws, "pool")
    scores = pool[["id"]].merge(read(ws, "scores"), on="id", how="left")["score"].to_numpy()
    with _training_rows(ws) as (ids, X):
        pool.insert(0, "row", pd.Index(ids).get_indexer(pool["id"]))
        given = {"scores": scores, "ids": ids.to_numpy()}
        chosen = redistributor(p).select(X, _clusters_of(ws, ids), pool, n_select_of(p, len(ids)), **given)
    chosen.table.drop(columns="row").to_parquet(path, index=False)
