"""Figures of the evidence: the curve over shares, differences with intervals, sensitivity."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from .evidence import KERNELS, of_seeds
from .style import TASK_COLOURS, styled_figure

_SEED_MARKERS = "osD^v"


def plot_share_curve(evidence: pd.DataFrame) -> Figure:
    """Mean over tasks against the share of the training data, by way of choosing; bands from least to most of seeds.

    Parameters
    ----------
    evidence : DataFrame
        As for `of_seeds`.

    Returns
    -------
    Figure
    """
    figure, axes = styled_figure(8.5, 4.0)
    measured: set[int] = set()
    kinds = (("default", TASK_COLOURS[0], "o"), ("paper", TASK_COLOURS[2], "^"), ("random", TASK_COLOURS[5], "s"))
    for kind, colour, marker in kinds:
        arms = evidence["arm"].str.extract(rf"^{kind} (\d+) %$")[0].dropna().astype(int)
        if not (shares := sorted(set(arms))):
            continue
        measured.update(shares)
        by_share = [of_seeds(evidence, f"{kind} {share} %") for share in shares]
        axes.plot(shares, [v.mean() for v in by_share], color=colour, marker=marker, label=f"{kind}, one LoRA")
        low, high = [v.min() for v in by_share], [v.max() for v in by_share]
        axes.fill_between(shares, low, high, color=colour, alpha=0.15, linewidth=0)
        axes.vlines(shares, low, high, color=colour, alpha=0.4)  # where one share is measured there is no band
    lines = (("all data, 1 epoch", "--"), ("majority or lead", "-."), ("base", ":"))
    for arm, style in lines:
        beaten = arm == "majority or lead" and of_seeds(evidence, arm).mean() < of_seeds(evidence, "base").mean()
        if len(values := of_seeds(evidence, arm)) and not beaten:  # else it would only make the picture flat
            axes.axhline(values.mean(), color="#555555", linestyle=style, linewidth=1.2, label=arm)
    axes.set(xscale="log", xlabel="share of the training records, percent", ylabel="mean score over tasks")
    axes.set_xticks(sorted(measured), [f"{share}" for share in sorted(measured)])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_title("How much data is enough?")
    axes.legend(fontsize=8.5, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def plot_differences(evidence: pd.DataFrame, pairs: Sequence[tuple[str, str]], *, title: str) -> Figure:
    """Differences of mean scores over tasks, with 95 % intervals over seeds and questions.

    Parameters
    ----------
    evidence : DataFrame
        As for `of_seeds`.
    pairs : sequence of (arm, against)
        Those that were not measured are left out.
    title : str

    Returns
    -------
    Figure
        Differences far larger than the middle one are arrows at the edge, with their number.
    """
    measured = evidence[(evidence["metric"] == "difference in mean") & (evidence["task"] == "mean")]
    by_pair = {}
    for row in measured.drop_duplicates(["arm", "against"]).to_dict("records"):
        by_pair[row["arm"], row["against"]] = row
    rows = [by_pair[pair] for pair in pairs if pair in by_pair]
    figure, axes = styled_figure(7.5, 1.2 + 0.32 * len(rows))
    reach = _reach(rows)
    for place, row in enumerate(rows):
        sure = row["low"] > 0 or row["high"] < 0
        colour = TASK_COLOURS[0] if row["low"] > 0 else TASK_COLOURS[5] if sure else "#777777"
        if min(abs(row["low"]), abs(row["high"])) > reach and sure:  # off the picture: an arrow says how far
            side = 1 if row["low"] > 0 else -1
            axes.plot(side * reach, place, ">" if side > 0 else "<", color=colour, markersize=7)
            place_of_text = {"ha": "right" if side > 0 else "left", "va": "center", "fontsize": 8.5, "color": colour}
            axes.text(side * 0.94 * reach, place, f"{row['value']:+.2f}", **place_of_text)
            continue
        axes.plot([row["low"], row["high"]], [place, place], color=colour, linewidth=2.2)
        axes.plot(row["value"], place, "o" if sure else "D", color=colour, markersize=6)
    axes.axvline(0, color="#333333", linewidth=0.8)
    if any(max(abs(row["low"]), abs(row["high"])) > reach for row in rows):
        axes.set_xlim(-1.06 * reach, 1.06 * reach)
    labels = [f"{row['arm']}  −  {row['against'].removeprefix(row['arm'] + ', ')}" for row in rows]  # what differs
    axes.set_yticks(range(len(rows)), labels)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set(xlabel="difference in mean score (grey diamond: the interval contains 0)", title=title)
    axes.set_title(title, loc="left")
    return figure


def _reach(rows: Sequence[dict[str, Any]]) -> float:
    """How far the axis of differences goes: few large ones would flatten all others, so they become arrows."""
    ends = sorted(max(abs(row["low"]), abs(row["high"])) for row in rows)
    return min(ends[-1], 2.5 * ends[len(ends) // 2]) if ends else 1.0


def plot_sensitivity(evidence: pd.DataFrame, arms: Sequence[str], metrics: Sequence[str], *, title: str) -> Figure:
    """Values of several arms, a panel a metric, a marker a seed.

    Parameters
    ----------
    evidence : DataFrame
        As for `of_seeds`.
    arms, metrics : sequence of str
        Rows and panels; of task "all".
    title : str

    Returns
    -------
    Figure
    """
    figure, panels = styled_figure(3.2 + 2.6 * len(metrics), 1.4 + 0.3 * len(arms), columns=len(metrics), sharey=True)
    for axes, metric in zip(np.atleast_1d(panels), metrics, strict=True):
        for place, arm in enumerate(arms):
            values = of_seeds(evidence, arm, task="all", metric=metric)
            for number, value in enumerate(values):
                axes.plot(value, place, _SEED_MARKERS[number % 5], color=TASK_COLOURS[0], markersize=5, alpha=0.8)
        axes.set(xlim=(-0.03, 1.03), title=metric.replace(": ", ":\n"))
        axes.set_title(metric.replace(": ", ":\n"), fontsize=9)
        axes.grid(axis="x", color="#E6E6E6", linewidth=0.6)
    first = np.atleast_1d(panels)[0]
    first.set_yticks(range(len(arms)), arms)
    first.invert_yaxis()
    figure.suptitle(title, x=0.01, ha="left", fontsize=11)
    return figure


def plot_sweeps(table: pd.DataFrame, *, by_chance: float) -> Figure:
    """Agreement with the default selection against the value of each parameter, a panel a parameter.

    Parameters
    ----------
    table : DataFrame
        Columns ``parameter``, ``value`` (a number) and ``jaccard`` in [0, 1].
    by_chance : float
        Agreement of two random selections; drawn as a dotted line.

    Returns
    -------
    Figure
    """
    groups = list(table.groupby("parameter", sort=False))
    figure, panels = styled_figure(2.3 * len(groups), 2.8, columns=len(groups), sharey=True)
    for axes, (name, part) in zip(np.atleast_1d(panels), groups, strict=True):
        axes.plot(part["value"], part["jaccard"], "o-", color=TASK_COLOURS[0])
        axes.axhline(by_chance, color="#777777", linestyle=":", linewidth=1)
        axes.set(title=name, ylim=(0, 1.05))
    np.atleast_1d(panels)[0].set_ylabel("Jaccard with the default")
    return figure


_OURS, _PRODUCT = "#0072B2", "#000000"
_PEERS = ("#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#882255", "#999933")  # Okabe and Ito; Tol
_MARKERS = "sD^vPX*"


def growth_styles(systems: list[str]) -> dict[str, dict[str, Any]]:
    """Line, colour and marker of each system of one panel: ours in blue, matrix products in black."""
    styles: dict[str, dict[str, Any]] = {}
    others = 0
    for system in systems:
        if system == "assl-kit":
            styles[system] = {"color": _OURS, "marker": "o", "linewidth": 2.4, "zorder": 3}
        elif system.startswith("assl-kit"):
            dashes = ":" if "k-NN" in system else "--"
            styles[system] = {"color": _OURS, "marker": "o", "linewidth": 1.2, "linestyle": dashes}
        elif system.startswith(("GEMM", "half")):
            lines = {"GEMM, numpy": "--", "GEMM, torch": ":", "half of the product": "-."}
            styles[system] = {"color": _PRODUCT, "linewidth": 1.0, "linestyle": lines[system]}
        else:
            styles[system] = {"color": _PEERS[others % 7], "marker": _MARKERS[others % 7], "linewidth": 1.2}
            others += 1
    return styles


def plot_growth(results: dict[str, Any], kernel: str, axes: Axes) -> None:
    """Seconds against rows of one kernel and its peers, both on log scales; the slopes are in the legend.

    Parameters
    ----------
    results : dict
        From `kernel_results`.
    kernel : str
        One of `KERNELS`.
    axes : matplotlib.axes.Axes
        Drawn on; the legend stands to its right.
    """
    from matplotlib.ticker import LogLocator

    data = results["header"]["data"]
    records = [r for r in results["records"] if r["seconds"] and r["data"] == data and r["kernel"] == kernel]
    slopes = {s["system"]: s["slope"] for s in results["slopes"] if s["data"] == data and s["kernel"] == kernel}
    for system, style in growth_styles(list(dict.fromkeys(r["system"] for r in records))).items():
        points = sorted((r["n"], r["seconds"]) for r in records if r["system"] == system)
        label = f"{system}, {slopes[system]:.2f}" if system in slopes else system
        axes.plot(*zip(*points, strict=True), label=label, markersize=4.5, **style)
    axes.set(xscale="log", yscale="log", title=KERNELS[kernel], xlabel="rows", ylabel="seconds")
    axes.set_xticks(sizes := sorted({r["n"] for r in records}), [f"{n / 1000:g}k" for n in sizes])
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 3)))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.minorticks_off()
    axes.grid(color="#E6E6E6", linewidth=0.6)
    title = "slope of log time" if slopes else None
    axes.legend(
        title=title,
        fontsize=7.5,
        title_fontsize=7.5,
        loc="upper left",
        bbox_to_anchor=(1.0, 1.02),
        alignment="left",
        frameon=False,
    )
