"""Two runs side by side: what was set differently, what was chosen, what came out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
from sklearn.metrics import adjusted_rand_score

from assl_kit.artifacts.workspace import Workspace
from assl_kit.evaluation.intervals import paired_difference
from assl_kit.evaluation.stability import jaccard

from .report import parameters_of, read_metrics


def compare_runs(a: Workspace, b: Workspace) -> dict[str, pd.DataFrame]:
    """How two runs differ; what one of them has not made yet is left out.

    Parameters
    ----------
    a, b : Workspace

    Returns
    -------
    dict of str to DataFrame
        ``parameters``: those that differ, columns ``parameter, A, B``. ``artifacts``: ``artifact, same, A seconds,
        B seconds``. ``selection``: ``measure, value``, with the Jaccard index of what was chosen and, for the same
        records, the adjusted Rand index of the clusters. ``results``: ``arm, task, metric, A, B, B - A``.
        ``differences``: B less A on the same test questions with a paired bootstrap interval, for the routed experts,
        columns ``task, metric, n, A, B, difference, low, high, told apart``.

    Examples
    --------
    >>> import tempfile
    >>> from assl_kit.artifacts.parameters import resolve
    >>> a, b = (Workspace.open(tempfile.mkdtemp()) for _ in range(2))
    >>> _ = a.remember("tiny", resolve("tiny")), b.remember("tiny", resolve("tiny", seed=1))
    >>> compare_runs(a, b)["parameters"].to_dict("records")
    [{'parameter': 'seed', 'A': 0, 'B': 1}]
    """
    manifests = a.manifest(), b.manifest()
    tables = {
        "parameters": _parameters(*manifests),
        "artifacts": _artifacts(*manifests),
        "selection": pd.DataFrame(_selection(a, b), columns=["measure", "value"]),
        "results": _results(read_metrics(a), read_metrics(b)),
        "differences": _differences(a, b),
    }
    return {name: table for name, table in tables.items() if not table.empty}


def _parameters(a: Mapping[str, Any], b: Mapping[str, Any]) -> pd.DataFrame:
    ours, theirs = ({"profile": m.get("profile")} | parameters_of(m) for m in (a, b))
    names = [name for name in {**ours, **theirs} if ours.get(name) != theirs.get(name)]
    return pd.DataFrame([(name, ours.get(name), theirs.get(name)) for name in names], columns=["parameter", "A", "B"])


def _artifacts(a: Mapping[str, Any], b: Mapping[str, Any]) -> pd.DataFrame:
    ours, theirs = a["artifacts"], b["artifacts"]
    rows = [
        {
            "artifact": name,
            "same": ours[name].get("sha256") == theirs[name].get("sha256"),
            "A seconds": ours[name].get("seconds"),
            "B seconds": theirs[name].get("seconds"),
        }
        for name in ours
        if name in theirs
    ]
    return pd.DataFrame(rows)


def _both(a: Workspace, b: Workspace, *files: str) -> bool:
    return all(ws.has(file) for ws in (a, b) for file in files)


def _selection(a: Workspace, b: Workspace) -> list[tuple[str, float]]:
    rows: list[tuple[str, float]] = []
    if _both(a, b, "selection.parquet"):
        ours, theirs = (ws.table("selection.parquet")["id"] for ws in (a, b))
        codes = pd.factorize(pd.concat([ours, theirs]))[0]
        rows += [("chosen by A", len(ours)), ("chosen by B", len(theirs))]
        rows.append(("Jaccard index of the two", jaccard(codes[: len(ours)], codes[len(ours) :])))
    if _both(a, b, "clusters.parquet"):
        both = a.table("clusters.parquet").merge(b.table("clusters.parquet"), on="id")
        if len(both):
            rand = adjusted_rand_score(both["cluster_x"], both["cluster_y"])
            rows += [("records clustered by both", len(both)), ("adjusted Rand index of the clusters", rand)]
    return rows


def _results(a: Mapping[str, Any], b: Mapping[str, Any]) -> pd.DataFrame:
    keys = ["arm", "task", "metric"]
    if not a.get("table") or not b.get("table"):
        return pd.DataFrame()
    ours, theirs = (pd.DataFrame(m["table"]).reindex(columns=[*keys, "value"]) for m in (a, b))
    both = ours.merge(theirs, on=keys, suffixes=(" A", " B"), how="inner")
    both = both.rename(columns={"value A": "A", "value B": "B"})
    return both.assign(**{"B - A": both["B"].astype(float) - both["A"].astype(float)})


def _differences(a: Workspace, b: Workspace) -> pd.DataFrame:
    if not _both(a, b, "records.parquet", "answers.parquet"):
        return pd.DataFrame()
    theirs = b.table("records.parquet")[["id", "output"]]
    ours = a.table("records.parquet")[["id", "split", "task", "output"]]
    records = ours.merge(theirs, on="id", suffixes=("", " B"))
    records = records[(records["split"] == "test") & (records["output"] == records["output B"])]
    for ws, column in ((a, "answer A"), (b, "answer B")):
        answers = ws.table("answers.parquet")[["id", "answer"]].rename(columns={"answer": column})
        records = records.merge(answers, on="id")
    if records.empty:
        return pd.DataFrame()
    table = paired_difference(records, list(records["answer B"]), list(records["answer A"]))
    table = table.rename(columns={"a": "B", "b": "A"}).assign(**{"told apart": ~table["inside_interval"]})
    return table[["task", "metric", "n", "A", "B", "difference", "low", "high", "told apart"]]
