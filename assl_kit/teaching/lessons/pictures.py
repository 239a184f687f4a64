"""Pictures of toys and of controls: groups that one radius finds or loses, a measure beside what luck gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle

from ..style import EXPERT_COLOURS, TASK_COLOURS, styled_figure


def plot_groups(points: np.ndarray, labels: np.ndarray, radii: np.ndarray | float, *, title: str, axes: Axes) -> None:
    """Points in the plane, coloured by label, each with its radius; noise is hollow and grey.

    Parameters
    ----------
    points : array of shape (n, 2)
    labels : array of shape (n,), int
        −1 is noise.
    radii : float, or array of shape (n,)
        In the units of the points.
    title : str
    axes : Axes
    """
    reach = np.broadcast_to(radii, len(points))
    for point, radius, label in zip(points, reach, labels, strict=True):
        colour = "#BBBBBB" if label < 0 else EXPERT_COLOURS[label % len(EXPERT_COLOURS)]
        axes.add_patch(Circle((point[0], point[1]), radius, color=colour, alpha=0.04, linewidth=0))
    noise = labels < 0
    x, y = points.T
    axes.scatter(x[noise], y[noise], s=15, facecolors="none", edgecolors="#777777", linewidths=0.8)
    for label in sorted(set(labels[~noise].tolist())):
        here = labels == label
        axes.scatter(x[here], y[here], s=15, color=EXPERT_COLOURS[label % len(EXPERT_COLOURS)])
    low, high = points.min(axis=0), points.max(axis=0)
    axes.set(title=title, aspect="equal", xticks=[], yticks=[])
    axes.set(xlim=(low[0] - 0.7, high[0] + 0.7), ylim=(low[1] - 0.7, high[1] + 0.7))


def plot_sweep(one: pd.DataFrame, others: Mapping[str, pd.DataFrame], measures: Mapping[str, str]) -> Figure:
    """What many radii give: each measure against the share of noise, one radius for all as a line, others as points.

    Parameters
    ----------
    one : DataFrame
        A row for each radius; ``noise``, the share of points that are noise, and the measures.
    others : mapping
        Name to a table of the same columns.
    measures : mapping
        Column to what stands at its axis.

    Returns
    -------
    Figure

    Examples
    --------
    >>> table = pd.DataFrame({"noise": [0.0, 0.4], "labels": [1, 3]})
    >>> len(plot_sweep(table, {"own radius": table[:1]}, {"labels": "groups"}).axes)
    1
    """
    figure, panels = styled_figure(5.4 * len(measures), 3.6, columns=len(measures), squeeze=False)
    for axes, (column, name) in zip(panels[0], measures.items(), strict=True):
        axes.plot(one["noise"], one[column], ".-", color="#777777", label="one radius for all, many tried")
        for number, (label, table) in enumerate(others.items()):
            style: dict[str, Any] = {"s": 60, "marker": "DXs^"[number % 4], "zorder": 3}
            axes.scatter(table["noise"], table[column], color=TASK_COLOURS[(0, 5)[number % 2]], label=label, **style)
        axes.set(xlabel="share of records that are noise", ylabel=name)
    panels[0][0].legend(fontsize=8.5)
    return figure


def plot_against_luck(values: Mapping[str, float], luck: Sequence[float], *, xlabel: str, title: str = "") -> Figure:
    """Some values as points, and the band that random draws of the same size give.

    Parameters
    ----------
    values : mapping
        Name to value, from top to bottom.
    luck : sequence of float
        The same measure of each random draw.
    xlabel, title : str

    Returns
    -------
    Figure

    Examples
    --------
    >>> plot_against_luck({"chosen": 0.3}, [0.5, 0.6], xlabel="spread").axes[0].get_xlabel()
    'spread'
    """
    figure, axes = styled_figure(7.5, 1.2 + 0.32 * len(values))
    axes.axvspan(min(luck), max(luck), color="#DDDDDD", label=f"{len(luck)} random draws")
    axes.axvline(float(np.mean(luck)), color="#777777", linewidth=1)
    axes.plot(list(values.values()), range(len(values)), "o", color=TASK_COLOURS[0])
    axes.set_yticks(range(len(values)), list(values))
    axes.set(xlabel=xlabel, title=title, ylim=(len(values) - 0.4, -0.6))
    axes.legend(fontsize=8.5, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def plot_overview(
    xy: np.ndarray, regions: np.ndarray, chosen: np.ndarray, questions: np.ndarray, experts: np.ndarray
) -> Figure:
    """The method in three maps: records by region, those that were chosen, new questions by the expert they go to.

    Parameters
    ----------
    xy, questions : array of shape (n, 2), (m, 2)
        Places of records and of questions on one map.
    regions, experts : array of n, m int
        The region of each record, and the expert of each question; −1 is the base alone.
    chosen : array of int
        Rows of the records that were chosen.

    Returns
    -------
    Figure

    Examples
    --------
    >>> rows, none = np.eye(2), np.zeros(2, int)
    >>> len(plot_overview(rows, none, np.array([0]), rows, none).axes)
    3
    """
    figure, (left, middle, right) = styled_figure(12.0, 4.0, columns=3)
    colours = np.array([EXPERT_COLOURS[k % len(EXPERT_COLOURS)] for k in regions])
    left.scatter(*xy.T, s=16, color=colours, linewidths=0)
    middle.scatter(*xy.T, s=9, color="#D5D5D5", linewidths=0)
    middle.scatter(*xy[chosen].T, s=42, color=colours[chosen], edgecolors="black", linewidths=0.6)
    right.scatter(*xy.T, s=9, color=colours, alpha=0.25, linewidths=0)
    asked = ["black" if k < 0 else EXPERT_COLOURS[k % len(EXPERT_COLOURS)] for k in experts]
    right.scatter(*questions.T, s=70, color=asked, marker="*", edgecolors="black", linewidths=0.4)
    titles = (f"{len(xy)} records, by region", f"{len(chosen)} of them are chosen", f"{len(questions)} new questions")
    for axes, title in zip((left, middle, right), titles, strict=True):
        axes.set(title=title, xticks=[], yticks=[])
    return figure
