"""``reasons.parquet``: for each record why it was chosen or not, and who stands for it."""

from __future__ import annotations

import numpy as np
import pandas as pd

from assl_kit.selection.duplicates import Duplicates
from assl_kit.selection.table import Selection

from .choose import Places
from .plan import SelectionPlan

TERMS = ("label", "core_distance", "radius", "weight", "relevance", "max_similarity", "rank", "copies")
"""Of `Selection.table`; of chosen records only."""


def reasons_table(
    plan: SelectionPlan,
    train: pd.DataFrame,
    selection: Selection,
    where: Places,
    duplicates: Duplicates,
    stand_ins: tuple[np.ndarray, np.ndarray],
    near: pd.DataFrame | None,
) -> pd.DataFrame:
    """A row for each record of the source, in its order.

    Parameters
    ----------
    plan : SelectionPlan
    train : DataFrame of n rows
        The training records, in their order; all other arguments are of these.
    selection : Selection
    where : Places
    duplicates : Duplicates
    stand_ins : (ndarray, ndarray)
        The row that stands for each, or -1, and its cosine.
    near : DataFrame or None
        Of a target, as `near_target` gives it.

    Returns
    -------
    DataFrame
        ``id, place, split, task, source, reason``: "chosen", "test", "duplicate", "far from the target" or "left out";
        ``cluster, group`` (of training records); the columns of ``TERMS`` (of chosen ones); ``stands_for_it``, the id
        of the chosen record that is nearest in its cell, and ``similarity``, their cosine (of those left out);
        ``duplicate_of``, the id of the record that it repeats, and ``duplicate``: "exact" or "near"; with a target also
        ``target``, the id of its record that is nearest, and ``target_similarity``.
    """
    ids = train["id"].to_numpy(dtype=object)
    table = pd.DataFrame({"cluster": where.clusters, "group": where.groups.to_numpy(dtype=object)})
    chosen = selection.table.set_index("row")[list(TERMS)].reindex(range(len(train)))
    whole = {name: "Int64" for name in ("label", "weight", "rank", "copies")}
    table = table.join(chosen.astype(whole)).astype({"cluster": "Int64"})
    is_chosen = table["copies"].notna().to_numpy()
    table["copies"] = table["copies"].fillna(0)
    table["stands_for_it"], table["similarity"] = _names(ids, stand_ins[0]), stand_ins[1]
    table["duplicate_of"] = _names(ids, duplicates.of)
    kind = pd.Series(None, index=table.index, dtype=object)
    kind[duplicates.of >= 0] = "near"
    kind[duplicates.exact] = "exact"
    table["duplicate"] = kind
    reason = np.where(is_chosen, "chosen", "left out").astype(object)
    if near is not None and plan.target is not None:
        reason[~is_chosen & ~near["taken"].to_numpy()] = "far from the target"
        table["target"] = plan.target["id"].to_numpy(dtype=object)[near["target"]]
        table["target_similarity"] = near["target_similarity"].to_numpy()
    if plan.settings.drop_duplicates:
        reason[duplicates.of >= 0] = "duplicate"
    table.insert(0, "reason", reason)
    names = plan.records[["id", "split", "task", "source"]]
    names.insert(1, "place", _places(plan))
    whole_table = names.join(table.set_axis(np.flatnonzero(plan.is_train)))
    whole_table["reason"] = whole_table["reason"].fillna("test")
    whole_table["copies"] = whole_table["copies"].fillna(0)
    return whole_table


def _names(ids: np.ndarray, rows: np.ndarray) -> np.ndarray:
    names = ids[rows].copy()
    names[rows < 0] = None
    return names


def _places(plan: SelectionPlan) -> list[str]:
    if plan.raw is not None:
        return plan.raw.places
    return [f"{plan.name}, record {number}" for number in range(1, len(plan.records) + 1)]
