"""Figures of differences to random choices, of one arm or several, and of the scores of growing numbers of records."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from assl_kit.evaluation.referee import MEANS

from .style import EXPERT_COLOURS, MARKERS, TASK_COLOURS, readable, styled_figure

MOST_ROWS, MOST_CURVES = 40, 14
_LONGEST = 32


def plot_referee(result: Mapping[str, Any]) -> Figure:
    """Differences of each arm to random selections, with their intervals: the means above, then a row a task.

    Parameters
    ----------
    result : mapping
        ``RefereeResult.as_dict()``, or ``referee.json`` of a run. At most 40 rows are drawn.

    Returns
    -------
    Figure
        A panel for random, one for balanced random; blue above 0, red below, grey where the interval contains 0.

    Examples
    --------
    >>> row = {"arm": "chosen", "against": "random", "task": "mean", "difference": 0.1, "low": 0.05, "high": 0.15}
    >>> plot_referee({"differences": [row]}).axes[0].get_title(loc="left")
    'chosen − random'
    """
    rows = list(result["differences"])
    references = {row["against"] for row in rows}
    rows = [row for row in rows if row["arm"] not in references]
    arms = list(dict.fromkeys(row["arm"] for row in rows))
    kinds = list(dict.fromkeys(_kind(row["against"]) for row in rows))
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    means = [task for task in MEANS if task in tasks]
    tasks = [*means, *(task for task in tasks if task not in means)][:MOST_ROWS]
    place = {task: number + (0.5 if number >= len(means) else 0.0) for number, task in enumerate(tasks)}
    height = 1.3 + (0.16 + 0.16 * max(1, len(arms))) * len(tasks)
    figure, panels = styled_figure(2.6 + 3.6 * len(kinds), height, columns=len(kinds), sharey=True, squeeze=False)
    for axes, kind in zip(panels[0], kinds, strict=True):
        for row in rows:
            if _kind(row["against"]) != kind or row["task"] not in place:
                continue
            number = arms.index(row["arm"])
            y = place[row["task"]] + 0.7 * ((number + 0.5) / len(arms) - 0.5)
            low, high = float(row["low"]), float(row["high"])
            sure = low > 0 or high < 0
            colour = TASK_COLOURS[0] if low > 0 else TASK_COLOURS[5] if sure else "#777777"
            axes.plot([low, high], [y, y], color=colour, linewidth=2.0)
            marker = "D" if not sure else "o" if len(arms) == 1 else MARKERS[number % len(MARKERS)]
            axes.plot(float(row["difference"]), y, marker, color=colour, markersize=5.5)
        axes.axvline(0, color="#333333", linewidth=0.8)
        axes.grid(axis="x", color="#E6E6E6", linewidth=0.6)
        title = f"{_short([arms[0]])[0]} − {kind}" if len(arms) == 1 else f"less {kind}"
        axes.set(xlabel="difference in score", title=title)
    first = panels[0][0]
    first.set_yticks([place[task] for task in tasks], _short(tasks))
    first.invert_yaxis()
    return figure


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
    rows = rows[rows["against"].map(_kind) == "random"]
    means = rows[rows["task"] == "mean"].sort_values("difference", ascending=False).set_index("arm")
    by_task = rows[~rows["task"].isin(MEANS)].pivot(index="arm", columns="task", values="difference")
    xlabel = "mean over tasks less that of random, 95 % interval"
    return plot_arms(means, by_task.loc[means.index], title=title, xlabel=xlabel)


def plot_arms(means: pd.DataFrame, by_task: pd.DataFrame, *, title: str, xlabel: str) -> Figure:
    """Several arms in their order: differences of the means with intervals, and beside them task by task.

    Parameters
    ----------
    means : DataFrame
        Index: the arms. ``difference``, ``low``, ``high``; with ``draws`` the difference in each draw is a tick.
    by_task : DataFrame
        The same arms; a column a task with its difference.
    title, xlabel : str
        Of the means.

    Returns
    -------
    Figure
    """
    figure, (left, right) = styled_figure(12.0, 1.6 + 0.36 * len(means), columns=2)
    for place, row in enumerate(means.to_dict("records")):
        colour = TASK_COLOURS[0] if row["low"] > 0 else TASK_COLOURS[5] if row["high"] < 0 else "#777777"
        left.plot([row["low"], row["high"]], [place, place], color=colour, linewidth=2.2)
        left.plot(row["difference"], place, "o", color=colour, markersize=7)
        if "draws" in row:
            left.plot(row["draws"], [place + 0.25] * len(row["draws"]), "|", color="#333333", markersize=6)
    left.axvline(0, color="#333333", linewidth=0.8)
    left.set_yticks(range(len(means)), means.index)
    left.set(ylim=(len(means) - 0.4, -0.6), xlabel=xlabel)
    left.set_title(title, loc="left")
    values = by_task.to_numpy(float)
    reach = float(np.abs(values).max()) or 1.0
    right.imshow(values, cmap="RdBu", vmin=-reach, vmax=reach, aspect="auto")
    for (row_at, column), value in np.ndenumerate(values):
        ink = "white" if abs(value) > 0.6 * reach else "black"
        right.text(column, row_at, f"{value:+.2f}", ha="center", va="center", color=ink, fontsize=8)
    right.set_xticks(range(by_task.shape[1]), readable(by_task), rotation=25, ha="right", fontsize=8)
    right.set_yticks([])
    right.set(ylim=(len(means) - 0.4, -0.6))
    right.set_title("task by task", loc="left")
    right.grid(False)
    return figure


def plot_learning_curves(result: Mapping[str, Any]) -> Figure:
    """The score of each group against the number of its records: measured points, fitted lines, a ring at "enough".

    Parameters
    ----------
    result : mapping
        ``RefereeResult.as_dict()``, or ``referee.json`` of a run. Of more than 14 groups the largest are drawn.

    Returns
    -------
    Figure

    Examples
    --------
    >>> curve = {"group": "qa", "sizes": [25, 50], "scores": [0.4, 0.5], "a": 0.8, "b": 2.0, "c": 0.5}
    >>> len(plot_learning_curves({"curves": [curve | {"n_records": 200, "enough": 150}]}).axes)
    1
    """
    curves = sorted(result["curves"], key=lambda curve: (-int(curve["n_records"]), str(curve["group"])))[:MOST_CURVES]
    figure, axes = styled_figure(8.0, 4.4)
    ends: set[int] = set()
    for number, (curve, label) in enumerate(zip(curves, _short(curve["group"] for curve in curves), strict=True)):
        colour, marker = EXPERT_COLOURS[number % len(EXPERT_COLOURS)], MARKERS[number % len(MARKERS)]
        sizes, a, b, c = [int(n) for n in curve["sizes"]], *(float(curve[name]) for name in "abc")
        ends.update(sizes)
        x = np.geomspace(max(1, min(sizes, default=1)), max(2, int(curve["n_records"]), *sizes), 100)
        axes.plot(x, a - b * x**-c, color=colour, linewidth=1.3)
        axes.plot(sizes, [float(v) for v in curve["scores"]], marker, color=colour, markersize=4.5, label=label)
        if x[0] <= (enough := int(curve["enough"])) <= x[-1]:
            axes.plot(enough, a - b * enough**-c, "o", color=colour, markersize=11, fillstyle="none")
    axes.set(xscale="log", xlabel="records of the group", ylabel="score", title="How many records are enough?")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda n, _: f"{n:,.0f}"))
    if ends:
        axes.set_xticks(
            [n for n in (10, 25, 100, 400, 1600, 6400, 25600, 102400) if n >= min(ends) and n <= _right(axes)]
        )
    axes.xaxis.set_minor_locator(NullLocator())
    axes.grid(color="#E6E6E6", linewidth=0.6)
    if curves:
        axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def _right(axes: Any) -> float:
    return float(axes.get_xlim()[1])


def _kind(against: str) -> str:
    """ "random" or "balanced random" of a name that may end in a size."""
    return " ".join(word for word in str(against).split() if not word[0].isdigit())


def _short(labels: Iterable[Any]) -> list[str]:
    """Labels that can be drawn: cut, and with no sign that begins a formula."""
    cut = (label if len(label) <= _LONGEST else label[: _LONGEST - 1] + "…" for label in map(str, labels))
    return [label.replace("$", r"\$") for label in readable(cut)]
