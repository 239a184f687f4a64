"""Builders of the semantic space: the encoder, the embeddings, the clusters (notebooks 02 and 03)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from assl_kit.common.cluster import backend
from assl_kit.common.files import write_json
from assl_kit.data.parquet import block_starts, read_table
from assl_kit.data.records import BLOCK
from assl_kit.data.splits import training_pool
from assl_kit.errors import DataError
from assl_kit.space.embeddings import embed_block, mapped_rows, rows_of, write_embeddings

from .parameters import Parameters
from .parents import Parents
from .workspace import Workspace

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


def build_encoder(ws: Workspace, parents: Parents, p: Parameters, path: Path) -> None:
    """A fitted encoder is saved; of any other only its name is noted."""
    from assl_kit.data.records import prompts
    from assl_kit.space.encoder import encoder_fingerprint, load_encoder

    if p.encoder == "fit":
        texts = prompts(training_pool(parents["records"]))
        load_encoder("fit", texts=texts, dim=p.encoder_dim, seed=p.seed).save(str(path))
    else:
        path.mkdir()
        encoder = load_encoder(p.encoder, device=p.device)
        write_json(path / "name.json", {"name": p.encoder, "fingerprint": encoder_fingerprint(encoder)})


def open_encoder(ws: Workspace, parameters: Parameters) -> SentenceTransformer:
    """The run's encoder, a ``SentenceTransformer``."""
    return encoder_in(ws.path_of("encoder"), parameters)


def encoder_in(folder: Path, p: Parameters) -> SentenceTransformer:
    """The encoder that a run fitted into ``folder``, or the one it names."""
    from assl_kit.space.encoder import load_encoder

    return load_encoder(str(folder)) if p.encoder == "fit" else load_encoder(p.encoder, device=p.device)


def build_embeddings(ws: Workspace, parents: Parents, p: Parameters, path: Path) -> None:
    """Block by block of the records, so that a block's rows do not depend on who embeds it."""
    records, folder = parents.path("records"), parents.path("encoder")
    if backend() == "ray":
        from .ray_stages import embed_side_by_side

        name, device = (str(folder), "cpu") if p.encoder == "fit" else (p.encoder, p.device)
        blocks = embed_side_by_side(records, name, device=device)
    else:
        encoder = encoder_in(folder, p)
        blocks = (embed_block(encoder, records, number) for number in range(len(block_starts(records)) - 1))
    write_embeddings(path, read_table(records, columns=["id"])["id"].tolist(), blocks)


@contextmanager
def training_rows(ws: Workspace, parents: Parents) -> Iterator[tuple[pd.Series, np.ndarray]]:
    """Ids and embeddings of the training records, in their order; for Ray's workers in a file that they can map."""
    ids = training_pool(read_table(parents.path("records"), columns=["id", "split"]))["id"]
    space = parents["embeddings"]
    if backend() == "local":
        yield ids, rows_of(space, ids)
        return
    places = rows_of(space | {"embeddings": np.arange(len(space["ids"]))}, ids)
    with mapped_rows(space["embeddings"], places, ws.folder) as X:
        yield ids, X


def build_clusters(ws: Workspace, parents: Parents, p: Parameters, path: Path) -> None:
    """The training records' clusters, and the similarity of each to its centroid."""
    from assl_kit.space.clusters import SemanticKMeans

    with training_rows(ws, parents) as (ids, X):
        kmeans = SemanticKMeans(n_clusters=p.n_clusters, random_state=p.seed).fit(X)
        labels, similarity = kmeans.labels_, np.empty(len(X), np.float32)
        for start in range(0, len(X), BLOCK):  # the centroid of each row, for so many rows at a time
            part = slice(start, start + BLOCK)
            similarity[part] = np.einsum("ij,ij->i", X[part], kmeans.cluster_centers_[labels[part]])
    n_kinds = len(np.unique(labels))
    if n_kinds < p.n_clusters:
        raise DataError(
            f"the encoder tells only {n_kinds} kinds of prompts apart, fewer than {p.n_clusters} clusters",
            where="n_clusters",
            hint=f"Lower n_clusters to {n_kinds} or less.",
        )
    table = pd.DataFrame({"id": ids, "cluster": labels, "similarity": similarity})
    table.to_parquet(path, index=False)
