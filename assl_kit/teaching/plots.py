"""Every figure that the notebooks and the report show.

Each function draws on given axes or makes its own figure, and returns the figure.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from assl_kit.common.names import by_number, in_order

from .style import MARKERS, TASK_COLOURS, expert_colours, readable, styled_figure, task_colours

_SAME = 5  # digits in which rows are compared: what differs less is the rounding of an encoder


def _drawn_on(axes: Axes | None, width: float, height: float) -> tuple[Figure, Any]:
    """The axes to draw on and their figure; new ones where none are given."""
    return styled_figure(width, height) if axes is None else (cast("Figure", axes.figure), axes)


def project(X: np.ndarray, *, seed: int = 0, perplexity: float = 30.0) -> np.ndarray:
    """A 2-D map of embedding rows by t-SNE over cosine distance, started from PCA (for pictures only).

    Where fewer than four rows differ there is nothing to map: they are put on a circle, equal rows on one place.

    Parameters
    ----------
    X : array of shape (n, d)
        Unit rows. A few thousand at most: the cost is about n log n.
    seed : int
    perplexity : float
        Lowered where there are few rows.

    Returns
    -------
    array of shape (n, 2), float32
    """
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    distinct, place = np.unique(X.round(_SAME), axis=0, return_inverse=True)
    if len(distinct) < 4:
        angles = 2 * np.pi * np.arange(len(distinct)) / len(distinct)
        return np.column_stack([np.cos(angles), np.sin(angles)]).astype(np.float32)[place.ravel()]
    reduced = PCA(min(30, *X.shape), random_state=seed).fit_transform(X)
    perplexity = min(perplexity, max(2.0, (len(X) - 1) / 4))
    return TSNE(perplexity=perplexity, init="pca", random_state=seed, max_iter=600).fit_transform(reduced)


def plot_long_tail(records: pd.DataFrame) -> Figure:
    """Records by source (bars with their counts), coloured by task: the long tail."""
    counts = records.groupby(["source", "task"]).size().unstack(fill_value=0)
    counts = in_order(counts.T).T  # tasks in the order of the tables
    counts = counts.loc[counts.sum(axis=1).sort_values(ascending=False).index]
    colours = task_colours(counts.columns)
    figure, axes = styled_figure(8.5, 0.24 * len(counts) + 1.2)
    names = readable(counts.index)
    left = np.zeros(len(counts))
    for task, label in zip(counts.columns, readable(counts.columns), strict=True):
        axes.barh(names, counts[task], left=left, color=colours[task], label=label)
        left += counts[task].to_numpy()
    axes.invert_yaxis()
    for name, total in zip(names, left, strict=True):
        axes.annotate(f"{total:.0f}", (total, name), xytext=(3, 0), textcoords="offset points", va="center", fontsize=8)
    axes.set(xlabel="records", title="A long tail of sources, coloured by task", xlim=(0, 1.08 * left.max()))
    axes.margins(y=0.01)
    axes.legend(title="task", loc="lower right", fontsize=8.5)
    return figure


def plot_map(
    xy: np.ndarray,
    labels: Sequence,
    *,
    title: str = "",
    colours: dict[str, str] | None = None,
    axes: Axes | None = None,
) -> Figure:
    """A 2-D map whose points are coloured (and marked) by label."""
    texts = np.asarray(labels).astype(str)
    names = sorted(set(texts.tolist()), key=by_number)
    colours = colours or task_colours(names)
    figure, ax = _drawn_on(axes, 7.5, 5.0)
    size = float(np.clip(6000 / max(len(texts), 1), 9, 24))  # few points: larger ones
    for i, (name, shown) in enumerate(zip(names, readable(names), strict=True)):
        here = texts == name
        marker = MARKERS[i % len(MARKERS)]
        ax.scatter(*xy[here].T, s=size, color=colours[name], marker=marker, alpha=0.7, linewidths=0, label=shown)
    ax.set(xticks=[], yticks=[], title=title)
    ax.legend(markerscale=6 / size**0.5, fontsize=8.5, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def plot_maps(xy: np.ndarray, left: Sequence, right: Sequence, titles: tuple[str, str]) -> Figure:
    """Two maps of the same points side by side: by task (left) and by cluster (right)."""
    figure, axes = styled_figure(11.0, 4.4, columns=2)
    plot_map(xy, left, title=titles[0], axes=axes[0])
    colours = {str(k): expert_colours(int(k) + 1)[-1] for k in set(right)}
    plot_map(xy, right, title=titles[1], axes=axes[1], colours=colours)
    return figure


def plot_matrix(
    table: pd.DataFrame, *, title: str, fmt: str = ".0f", centre: float | None = None, axes: Axes | None = None
) -> Figure:
    """A labelled matrix as a heat map with its numbers. ``centre`` picks a diverging scale around that value."""
    values = table.to_numpy(dtype=float)
    figure, ax = _drawn_on(axes, 1.9 + 0.85 * values.shape[1], 1.4 + 0.45 * values.shape[0])
    if centre is None:
        image = ax.imshow(values, cmap="Blues", aspect="auto")
    else:
        reach = np.nanmax(np.abs(values - centre)) or 1.0
        image = ax.imshow(values, cmap="PuOr_r", vmin=centre - reach, vmax=centre + reach, aspect="auto")
    for (i, j), value in np.ndenumerate(values):
        shade = image.cmap(image.norm(value))
        ink = "white" if np.dot(shade[:3], (0.299, 0.587, 0.114)) < 0.5 else "black"
        text = format(value, fmt)
        text = text.removeprefix("-") if float(text) == 0 else text
        ax.text(j, i, text, ha="center", va="center", color=ink, fontsize=8.5)
    columns = readable(table.columns)
    turned = {"rotation": 35, "ha": "right"} if max(map(len, columns), default=0) > 4 else {}
    ax.set_xticks(range(values.shape[1]), columns, **turned)
    ax.set_yticks(range(values.shape[0]), readable(table.index))
    ax.set(title=title, xlabel=table.columns.name or "", ylabel=table.index.name or "")
    return figure


def plot_affinity(affinity: pd.DataFrame, distances: pd.DataFrame) -> Figure:
    """The affinity of every pair of tasks (left) beside the distance between their centroids (right)."""
    side = 0.66 * len(affinity)
    figure, axes = styled_figure(2 * side + 3.2, 0.6 * side + 2.0, columns=2)
    plot_matrix(affinity, title="Affinity: relative fall of the loss", fmt=".2f", centre=0.0, axes=axes[0])
    plot_matrix(distances, title="Distance between the centroids", fmt=".2f", axes=axes[1])
    axes[1].set_yticklabels([])
    return figure


def plot_choice_of_k(table: pd.DataFrame, chosen: int) -> Figure:
    """Silhouette and stability over seeds for each number of clusters."""
    figure, axes = styled_figure(9.0, 3.2, columns=2)
    for ax, column, colour in zip(axes, ("silhouette", "stability"), (TASK_COLOURS[0], TASK_COLOURS[5]), strict=True):
        ax.plot(table["n_clusters"], table[column], marker="o", color=colour)
        ax.axvline(chosen, color="#7A7A7A", linestyle="--", linewidth=1)
        ax.set(xlabel="number of clusters", ylabel=column, title=column, ylim=(min(0, 1.1 * table[column].min()), None))
    return figure


def plot_core_distances(core_distances: np.ndarray, eps: float, min_samples: int) -> Figure:
    """The k-distance curve: sorted core distances, and the radius ``eps`` that plain DBSCAN would use for all."""
    figure, axes = styled_figure(7.5, 3.4)
    ordered = np.sort(core_distances)
    axes.plot(np.arange(len(ordered)), ordered, color=TASK_COLOURS[0])
    axes.axhline(eps, color=TASK_COLOURS[5], linestyle="--", label=f"eps = {eps:.3f}")
    axes.set(xlabel="records, densest first", ylabel=f"distance to neighbour {min_samples}", title="Core distances")
    axes.legend()
    return figure


def plot_radii(
    X: np.ndarray, radii: np.ndarray, *, title: str, kept: np.ndarray | None = None, axes: Axes | None = None
) -> Figure:
    """Points in the plane with their radii; kept points filled, dropped ones hollow."""
    figure, ax = _drawn_on(axes, 5.2, 4.4)
    stays = np.ones(len(X), bool) if kept is None else np.isin(np.arange(len(X)), kept)
    for point, radius, keep in zip(X, radii, stays, strict=True):
        if keep:
            ax.add_patch(plt.Circle(point, radius, fill=False, color=TASK_COLOURS[4], linewidth=0.7, alpha=0.8))
    ax.scatter(*X[~stays].T, s=16, facecolors="none", edgecolors="#7A7A7A", linewidths=0.8, label="dropped")
    ax.scatter(*X[stays].T, s=18, color=TASK_COLOURS[0], label="kept")
    ax.set(title=title, aspect="equal", xticks=[], yticks=[])
    ax.autoscale_view()
    if not stays.all():
        ax.legend(fontsize=8.5, loc="upper left")
    return figure


def plot_density(before: np.ndarray, after: np.ndarray, *, title: str = "Density before and after thinning") -> Figure:
    """Histograms of log core distance over all records and over the kept ones."""
    floor = 1e-4
    before, after = np.log10(np.maximum(before, floor)), np.log10(np.maximum(after, floor))
    bins = np.linspace(min(before.min(), after.min()), max(before.max(), after.max()), 40)
    figure, axes = styled_figure(7.5, 3.4)
    all_, kept = (np.full(len(x), 1 / len(x)) for x in (before, after))
    axes.hist(before, bins, weights=all_, color="#7A7A7A", alpha=0.55, label=f"all {len(before)}")
    style = {"histtype": "step", "color": TASK_COLOURS[0], "linewidth": 2}
    axes.hist(after, bins, weights=kept, label=f"kept {len(after)}", **style)
    axes.set(xlabel="log10 core distance  (left: dense, right: sparse)", ylabel="share of the records", title=title)
    axes.legend()
    return figure


def plot_kept_share(core_distances: np.ndarray, kept: np.ndarray, *, title: str, axes: Axes | None = None) -> Figure:
    """Share kept in each tenth of the records, from the densest to the sparsest."""
    figure, ax = _drawn_on(axes, 7.5, 3.2)
    order = np.argsort(core_distances, kind="stable")
    flags = np.isin(np.arange(len(core_distances)), kept)[order]
    shares = [chunk.mean() for chunk in np.array_split(flags, 10)]
    ax.bar(range(1, 11), shares, color=TASK_COLOURS[0])
    ax.axhline(flags.mean(), color=TASK_COLOURS[5], linestyle="--", label=f"overall {flags.mean():.2f}")
    ax.set(xlabel="tenth of the records, densest first", ylabel="share kept", title=title, xticks=range(1, 11))
    ax.legend()
    return figure


def plot_mmr_path(
    xy: np.ndarray, picks: Sequence[int], *, centroid: Sequence[float] | None = None, title: str = "Selection path"
) -> Figure:
    """The order in which MMR picks points on a map: the first fifteen numbered and joined by a line."""
    figure, axes = styled_figure(6.4, 4.8)
    axes.scatter(*xy.T, s=9, color="#BBBBBB", label="pool")
    order = np.asarray(picks)
    axes.plot(*xy[order[:15]].T, color=TASK_COLOURS[4], linewidth=0.8, alpha=0.7)
    axes.scatter(*xy[order].T, s=26, color=TASK_COLOURS[5], label="picked", zorder=3)
    for rank, row in enumerate(order[:15]):
        axes.annotate(str(rank + 1), xy[row], textcoords="offset points", xytext=(4, 4), fontsize=8.5)
    if centroid is not None:
        axes.scatter(*centroid, marker="X", s=90, color="black", label="centroid", zorder=4)
        axes.set_aspect("equal", adjustable="datalim")
    axes.set(xticks=[], yticks=[], title=title)
    axes.legend(fontsize=8.5)
    return figure


def plot_loss(logs: dict[str, pd.DataFrame]) -> Figure:
    """Training loss by step, one line an expert."""
    figure, axes = styled_figure(7.5, 3.8)
    for (name, log), colour in zip(logs.items(), expert_colours(len(logs)), strict=True):
        axes.plot(log["step"], log["loss"], color=colour, marker=".", label=name)
    axes.set(xlabel="step", ylabel="loss on the answer (nats a token)", title="Training loss of each expert")
    axes.legend(fontsize=8.5)
    return figure


def plot_decision_map(
    xy: np.ndarray, experts: Sequence[int], margin: Sequence[float], *, centroids: ArrayLike | None = None
) -> Figure:
    """Questions on the map, coloured by the chosen expert; the fainter the point, the smaller the margin."""
    chosen, lead = np.asarray(experts), np.asarray(margin, dtype=float)
    figure, axes = styled_figure(7.5, 5.0)
    finite = lead[np.isfinite(lead)]  # one expert alone has no runner-up, and leads without end
    usual = np.quantile(finite, 0.9) if len(finite) else 1.0
    alpha = 0.2 + 0.8 * np.clip(lead / (usual or 1.0), 0, 1)
    for expert in sorted(set(chosen.tolist())):
        here = chosen == expert
        colour = "black" if expert < 0 else expert_colours(expert + 1)[-1]
        label = "base alone" if expert < 0 else f"expert {expert}"
        axes.scatter(*xy[here].T, s=14, color=colour, alpha=alpha[here], linewidths=0)
        axes.scatter([], [], s=30, color=colour, label=label)
    if centroids is not None:
        axes.scatter(*np.asarray(centroids).T, marker="X", s=90, color="black", label="centroids")
    axes.set(xticks=[], yticks=[], title="Where each question goes (faint: a close call)")
    axes.legend(fontsize=8.5, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def plot_results(table: pd.DataFrame) -> Figure:
    """Each arm's metric on each task with its bootstrap interval.

    Parameters
    ----------
    table : DataFrame
        Columns ``arm, task, value, low, high`` as ``evaluation.evaluate`` gives, several arms stacked.
    """
    tasks = list(dict.fromkeys(table["task"]))
    arms = list(dict.fromkeys(table["arm"]))
    figure, axes = styled_figure(10.5, 4.4)
    width = 0.8 / len(arms)
    for i, arm in enumerate(arms):
        rows = table[table["arm"] == arm].set_index("task").reindex(tasks)
        at = np.arange(len(tasks)) + (i - (len(arms) - 1) / 2) * width
        error = np.abs(rows[["low", "high"]].to_numpy().T - rows["value"].to_numpy())
        hatch = "//" if i >= len(arms) - 1 else None
        colour = TASK_COLOURS[i % len(TASK_COLOURS)]
        axes.bar(
            at,
            rows["value"],
            width * 0.92,
            yerr=error,
            color=colour,
            label=arm,
            hatch=hatch,
            edgecolor="white",
            error_kw={"linewidth": 0.8, "ecolor": "#333333"},
        )
    axes.set_xticks(range(len(tasks)), readable(tasks), rotation=20, ha="right")
    axes.set(ylabel="metric (0 to 1)", ylim=(0, 1.05), title="Every arm on every task, with 95 % bootstrap intervals")
    axes.legend(fontsize=8.5, ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.24))
    return figure


def plot_scatter(x: ArrayLike, y: ArrayLike, *, xlabel: str, ylabel: str, title: str) -> Figure:
    """A plain scatter plot of two measures."""
    figure, axes = styled_figure(5.6, 4.0)
    axes.scatter(x, y, s=22, color=TASK_COLOURS[0], alpha=0.8)
    axes.set(xlabel=xlabel, ylabel=ylabel, title=title)
    return figure


def plot_lines(x: ArrayLike, lines: dict[str, Sequence[float]], *, xlabel: str, ylabel: str, title: str) -> Figure:
    """Several curves over the same x."""
    figure, axes = styled_figure(6.8, 3.4)
    for (name, y), colour, marker in zip(lines.items(), TASK_COLOURS, MARKERS, strict=False):
        axes.plot(x, y, color=colour, marker=marker, markersize=4, label=name)
    axes.set(xlabel=xlabel, ylabel=ylabel, title=title)
    axes.legend()
    return figure
