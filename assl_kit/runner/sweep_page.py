"""The pictures and the page of a sweep: what came out against what was varied."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from assl_kit.artifacts.workspace import Workspace
from assl_kit.common.files import atomic_path, write_text
from assl_kit.teaching.style import EXPERT_COLOURS, MARKERS, readable, styled_figure

from .page import png_of, render_page
from .sweep import Outcome, sweep_table

PAGE, TABLE = "sweep.html", "sweep.csv"
_SHARES = ("routing accuracy", "cluster NMI", "mean regret")
_ASIDE = ("seconds", "status")


def write_sweep(ws: Workspace, outcomes: list[Outcome]) -> Path:
    """Write ``sweep.csv``, a picture for each varied parameter (``plots/NAME.png``) and ``sweep.html``.

    Parameters
    ----------
    ws : Workspace
        The sweep's.
    outcomes : list of Outcome

    Returns
    -------
    pathlib.Path
        The page.

    Examples
    --------
    >>> import tempfile
    >>> ws = Workspace.open(tempfile.mkdtemp())
    >>> page = write_sweep(ws, [Outcome("seed-0", {"seed": 0}, "done", 1.0, results={"base": 0.5})])
    >>> page.name, ws.has("sweep.csv"), ws.has("plots/seed.png")
    ('sweep.html', True, True)
    """
    table = sweep_table(outcomes, intervals=True)
    with atomic_path(ws.path_of(TABLE)) as temporary:
        table.to_csv(temporary, index=False, encoding="utf-8")
    pictures = {}
    for parameter in outcomes[0].values:
        figure = plot_sweep(table, parameter, list(outcomes[0].values))
        if figure is not None:
            pictures[parameter] = png_of(figure)
            with atomic_path(ws.path_of(f"plots/{parameter}.png")) as temporary:
                temporary.write_bytes(pictures[parameter])
    failed = [o for o in outcomes if o.status == "failed"]
    lead = f"assl-kit · sweep of {', '.join(outcomes[0].values)} · {len(outcomes)} jobs, {len(failed)} failed"
    html = render_page(ws.folder.name, lead, _blocks(outcomes, pictures, failed))
    write_text(ws.path_of(PAGE), html)
    return ws.path_of(PAGE)


def _blocks(outcomes: list[Outcome], pictures: dict[str, bytes], failed: list[Outcome]) -> Iterator[tuple[str, Any]]:
    yield from (("alarm", f"{o.name}: {o.message}") for o in failed)
    yield "heading", "Results"
    yield "text", "Means over the tasks; one row a job."
    yield "table", sweep_table(outcomes)
    for parameter, png in pictures.items():
        yield "heading", parameter
        caption = f"A point is a job, lines are means over the jobs of one {parameter}; bars are bootstrap intervals."
        yield "picture", (caption, base64.b64encode(png).decode("ascii"))


def plot_sweep(table: pd.DataFrame, parameter: str, varied: Sequence[str]) -> Figure | None:
    """Results against one varied parameter: scores of the arms on the left, shares of routing on the right.

    Parameters
    ----------
    table : DataFrame
        From `sweep_table`, with intervals.
    parameter : str
        The one on the x axis: in proportion if its values are numbers, else side by side.
    varied : sequence of str
        All varied parameters, which are no results.

    Returns
    -------
    Figure or None
        None where no job has a result.

    Examples
    --------
    >>> table = pd.DataFrame({"seed": [0, 1], "base": [0.2, 0.3], "status": ["done", "done"]})
    >>> len(plot_sweep(table, "seed", ["seed"]).axes)
    1
    """
    done = table[table["status"] == "done"]
    names = [c for c in table.columns if c not in (*varied, *_ASIDE) and not c.endswith((" low", " high"))]
    counts = [name for name in names if name in ("pool", "distinct chosen")]
    scores = [name for name in names if name not in (*_SHARES, *counts)]
    groups = {"score, mean over tasks": scores, "share": [n for n in names if n in _SHARES]}
    if not any(groups.values()):
        groups = {"records": counts}
    groups = {label: columns for label, columns in groups.items() if columns}
    if done.empty or not groups:
        return None
    values = list(dict.fromkeys(done[parameter]))
    numeric = all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)
    place = {v: v if numeric else i for i, v in enumerate(values)}
    figure, axes = styled_figure(6.5 * len(groups), 4.0, columns=len(groups), squeeze=False)
    for axis, (label, columns) in zip(axes[0], groups.items(), strict=True):
        for i, column in enumerate(columns):
            rows = done.dropna(subset=[column])
            x = rows[parameter].map(place).astype(float)
            colour, marker = EXPERT_COLOURS[i % len(EXPERT_COLOURS)], MARKERS[i % len(MARKERS)]
            if f"{column} low" in rows and rows[f"{column} low"].notna().all():
                bounds = rows[f"{column} low"].astype(float), rows[f"{column} high"].astype(float)
                axis.vlines(x, *bounds, color=colour, alpha=0.3)
            axis.plot(x, rows[column], marker, color=colour, alpha=0.6, markersize=5)
            means = rows[column].astype(float).groupby(x).mean()
            axis.plot(means.index, means, color=colour, marker=marker, label=column)
        axis.set_xlabel(parameter)
        axis.set_ylabel(label)
        if not numeric:
            axis.set_xticks(range(len(values)), readable(values), rotation=30, ha="right")
        elif len(values) <= 12:
            axis.set_xticks(values)
        axis.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure
