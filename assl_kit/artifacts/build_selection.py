"""Builders of the two stages of the selection: the pool and what is chosen of it (notebooks 04 and 05)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from assl_kit.common.cluster import backend
from assl_kit.data.groups import assign_groups
from assl_kit.data.parquet import read_table

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
    space: dict[str, Any] = {"min_samples": p.min_samples, "link_flattening": p.link_flattening, "noise": p.noise}
    space |= {"every_cluster": True, "cell_rows": p.cell_rows}  # an expert is trained on each cluster
    if p.selection == "literal":
        return kind.paper(**space)
    return kind(
        **space,
        flattening=p.flattening,
        pool_factor=p.pool_factor,
        repeat_share=p.repeat_share,
        max_repeat=p.max_repeat,
        budget=p.budget,
        budget_power=p.budget_power,
        objective=p.objective,
        weights=(p.mmr_relevance, p.mmr_score, p.mmr_diversity),
        scale=p.mmr_scale,
    )


def _cells(parents: Parents, ids: pd.Series, p: Parameters) -> dict[str, Any]:
    """What divides the training records, in the order of ``ids``: clusters, groups, and the groups' learning curves."""
    table = ids.to_frame().merge(parents["clusters"], on="id", how="left", validate="one_to_one")
    clusters = table["cluster"].to_numpy()
    if p.selection == "literal":
        return {"clusters": clusters, "ids": ids.to_numpy()}
    kinds = read_table(parents.path("records"), columns=["id", "task", "source", "instruction"])
    groups = assign_groups(ids.to_frame().merge(kinds, on="id", how="left"), clusters, by=p.groups)
    curves = pd.DataFrame(parents["curves"]["curves"]).set_index("group") if p.budget == "curve" else None
    return {"clusters": clusters, "groups": groups.to_numpy(), "curves": curves, "ids": ids.to_numpy()}


def build_pool(ws: Workspace, parents: Parents, p: Parameters, path: Path) -> None:
    """Stage 1: each cell of group and cluster thinned by A-DBSCAN."""
    with training_rows(ws, parents) as (ids, X):
        pool = redistributor(p).pool(X, n_select=n_select_of(p, len(ids)), **_cells(parents, ids, p))
    pool.drop(columns="row").to_parquet(path, index=False)


def build_selection(ws: Workspace, parents: Parents, p: Parameters, path: Path) -> None:
    """Stage 2: the chosen records, picked from the pool by MMR."""
    pool = parents["pool"]
    scores = None
    if p.mmr_score > 0 or p.selection == "literal":
        scores = pool[["id"]].merge(parents["scores"], on="id", how="left")["score"].to_numpy()
    with training_rows(ws, parents) as (ids, X):
        pool.insert(0, "row", pd.Index(ids).get_indexer(pool["id"]))
        wanted = n_select_of(p, len(ids))
        chosen = redistributor(p).select(X, pool=pool, n_select=wanted, scores=scores, **_cells(parents, ids, p))
    chosen.table.drop(columns="row").to_parquet(path, index=False)
