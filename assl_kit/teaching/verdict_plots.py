"""Figures of notebook 05: the verdict on several ways of choosing side by side, and the groups' learning curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from .style import TASK_COLOURS, readable, styled_figure

_MARKERS = "osD^vPX*"


def plot_verdict(verdict: Mapping[str, Any], *, title: str = "The referee's verdict") -> Figure:
    """Every arm's difference to random draws, on the mean over tasks with its interval, and beside it task by task.

    Parameters
    ----------
    verdict : mapping
        ``RefereeResult.as_dict()``, or the artifact "referee" of a run that measured.
    title : str

    Returns
    -------
    Figure
    """
    rows = pd.DataFrame(verdict["differences"])
    rows = rows[rows["against"] == "random"]
    means = rows[rows["task"] == "mean"].sort_values("difference", ascending=False).set_index("arm")
    by_task = rows[~rows["task"].str.startswith("mean")].pivot(index="arm", columns="task", values="difference")
    by_task = by_task.loc[means.index]
    figure, (left, right) = styled_figure(12.0, 1.6 + 0.4 * len(means), columns=2)
    for place, row in enumerate(means.to_dict("records")):
        colour = TASK_COLOURS[0] if row["low"] > 0 else TASK_COLOURS[5] if row["high"] < 0 else "#777777"
        left.plot([row["low"], row["high"]], [place, place], color=colour, linewidth=2.2)
        left.plot(row["difference"], place, "o", color=colour, markersize=7)
    left.axvline(0, color="#333333", linewidth=0.8)
    left.set_yticks(range(len(means)), means.index)
    left.set(ylim=(len(means) - 0.4, -0.6), xlabel="mean over tasks less that of random, 95 % interval")
    left.set_title(title, loc="left")
    values = by_task.to_numpy(float)
    reach = float(np.abs(values).max()) or 1.0
    right.imshow(values, cmap="RdBu", vmin=-reach, vmax=reach, aspect="auto")
    for (row_at, column), value in np.ndenumerate(values):
        ink = "white" if abs(value) > 0.6 * reach else "black"
        right.text(column, row_at, f"{value:+.2f}", ha="center", va="center", color=ink, fontsize=8)
    right.set_xticks(range(by_task.shape[1]), readable(list(by_task)), rotation=25, ha="right", fontsize=8)
    right.set_yticks([])
    right.grid(False)
    right.set_title("task by task", loc="left")
    return figure


def plot_measured_curves(curves: Sequence[Mapping[str, Any]]) -> Figure:
    """Score against number of records of each group: measured points, and the fitted a − b · n^−c.

    Parameters
    ----------
    curves : sequence of mapping
        ``Curve.as_dict()`` of each group.

    Returns
    -------
    Figure
    """
    figure, axes = styled_figure(8.5, 4.0)
    for number, curve in enumerate(curves):
        colour = TASK_COLOURS[number % len(TASK_COLOURS)]
        marker = _MARKERS[number % len(_MARKERS)]
        label = readable([curve["group"]])[0]
        axes.plot(curve["sizes"], curve["scores"], marker, color=colour, markersize=5, label=label)
        n = np.geomspace(min(curve["sizes"]), curve["n_records"], 60)
        axes.plot(n, curve["a"] - curve["b"] * n ** -curve["c"], color=colour, linewidth=1.2)
    axes.set(xscale="log", xlabel="records of the group that are learnt from", ylabel="score of the cheap learner")
    sizes = sorted({size for curve in curves for size in curve["sizes"][:-1]})
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_title("Learning curves: points are measured, lines fitted", loc="left")
    axes.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure
