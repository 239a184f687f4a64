"""Builders of the two stages of the selection: the pool and what is chosen of it (notebooks 04 and 05)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from assl_kit.common.cluster import backend

from .build_data import n_select_of
from .build_space import training_rows
from .parameters import Parameters
from .parents import Parents
from .workspace import Workspace

if TYPE_CHECKING:
    from assl_kit.selection.redistribute import Redistributor


def redistributor(p: Parameters) -> Redistributor:
    """The run's two-stage ``Redistributor``, of the engine asked for."""
    kind: type[Redistributor]
    if backend() == "ray":
        from .ray_stages import RayRedistributor as kind
    else:
        from assl_kit.selection.redistribute import Redistributor as kind
    return kind(
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


def _clusters_of(parents: Parents, ids: pd.Series) -> np.ndarray:
    table = ids.to_frame().merge(parents["clusters"], on="id", how="left", validate="one_to_one")
    return table["cluster"].to_numpy()


def build_pool(ws: Workspace, parents: Parents, p: Parameters, path: Path) -> None:
    """Stage 1: each cluster thinned by A-DBSCAN."""
    with training_rows(ws, parents) as (ids, X):
        pool = redistributor(p).pool(X, _clusters_of(parents, ids), n_select_of(p, len(ids)), ids=ids.to_numpy())
    pool.drop(columns="row").to_parquet(path, index=False)


def build_selection(ws: Workspace, parents: Parents, p: Parameters, path: Path) -> None:
    """Stage 2: the chosen records, picked from the pool by MMR."""
    pool = parents["pool"]
    scores = pool[["id"]].merge(parents["scores"], on="id", how="left")["score"].to_numpy()
    with training_rows(ws, parents) as (ids, X):
        pool.insert(0, "row", pd.Index(ids).get_indexer(pool["id"]))
        clusters, wanted = _clusters_of(parents, ids), n_select_of(p, len(ids))
        chosen = redistributor(p).select(X, clusters, pool, wanted, scores=scores, ids=ids.to_numpy())
    chosen.table.drop(columns="row").to_parquet(path, index=False)
