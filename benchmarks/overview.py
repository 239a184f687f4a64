"""The picture of docs/method.md, drawn from a run: the space, the chosen tenth, and where questions go.

python -m benchmarks.overview [RUN]      after assl run; default runs/tiny
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from assl_kit.artifacts.steps import read
from assl_kit.artifacts.workspace import Workspace
from assl_kit.common.files import atomic_path
from assl_kit.data.splits import training_pool
from assl_kit.experts.bank import ExpertBank
from assl_kit.space.embeddings import rows_of
from assl_kit.teaching.plots import project
from assl_kit.teaching.style import MARKERS, expert_colours, readable, styled_figure, task_colours
from benchmarks.machine import RESULTS

OUT = RESULTS / "overview.png"


def main(run: str = "runs/tiny") -> Path:
    ws = Workspace.open(run)
    records, space, bank = read(ws, "records"), read(ws, "embeddings"), ExpertBank.from_pretrained(read(ws, "experts"))
    train, routed, chosen = training_pool(records), read(ws, "answers"), read(ws, "selection")
    clusters = train[["id"]].merge(read(ws, "clusters"), on="id")["cluster"].to_numpy()
    n = len(train)
    xy = project(np.vstack([rows_of(space, train["id"]), rows_of(space, routed["id"]), bank.centroids]))
    figure, (left, middle, right) = styled_figure(13, 4.4, columns=3)
    colours = task_colours(train["task"])
    names = sorted(set(train["task"]))
    for marker, task, label in zip(MARKERS, names, readable(names), strict=False):
        here = (train["task"] == task).to_numpy()
        left.scatter(*xy[:n][here].T, s=8, marker=marker, color=colours[task], alpha=0.7, linewidths=0, label=label)
    left.set_title(f"1 · {n:,} instructions in the space, by task")
    kept = train["id"].isin(chosen["id"]).to_numpy()
    middle.scatter(*xy[:n][~kept].T, s=4, color="#BBBBBB", linewidths=0)
    for k, colour in enumerate(expert_colours(len(bank))):
        middle.scatter(*xy[:n][kept & (clusters == k)].T, s=14, marker=MARKERS[k], color=colour, label=f"expert {k}")
    middle.set_title(f"2 · flattened and chosen: {kept.sum()}, for {len(bank)} experts")
    questions, centroids = xy[n : n + len(routed)], xy[n + len(routed) :]
    for k, colour in enumerate(expert_colours(len(bank))):
        here = (routed["expert"] == k).to_numpy()
        right.scatter(*questions[here].T, s=14, marker=MARKERS[k], color=colour)
        right.plot(*centroids[k], marker="*", markersize=16, color=colour, markeredgecolor="black", linestyle="none")
    right.set_title(f"3 · {len(routed)} new questions, each to its nearest ★")
    for axes in (left, middle, right):
        axes.set(xticks=[], yticks=[])
    left.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.02), ncols=3, markerscale=2)
    middle.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.02), ncols=3)
    with atomic_path(OUT) as temporary:
        figure.savefig(temporary, format="png", dpi=110)
    return OUT


if __name__ == "__main__":
    print(main(*sys.argv[1:]).name)
