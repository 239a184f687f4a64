"""Draw ``growth.png`` and ``ratios.png`` beside the results, from the results alone.

python -m benchmarks.kernels.plots [RESULTS]
"""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import click
import matplotlib.pyplot as plt
from PIL import Image

from assl_kit.common.files import atomic_path, read_json
from assl_kit.teaching.evidence import KERNELS
from assl_kit.teaching.evidence_plots import plot_growth
from benchmarks.machine import RESULTS

from .table import is_ours, is_yardstick, summary

KERNELS_FILE = RESULTS / "kernels.json"
OURS, GREY, DARK, PEER = "#0072B2", "#BBBBBB", "#555555", "#E69F00"
STYLE = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
}


def draw_growth(content: dict, path: Path) -> None:
    """Seconds against rows, one panel a kernel; the slopes are in the legends."""
    data = content["header"]["data"]
    kernels = [
        k for k in KERNELS if any(r["seconds"] and r["kernel"] == k and r["data"] == data for r in content["records"])
    ]
    figure, grid = plt.subplots(-(-len(kernels) // 2), 2, figsize=(10, 3.4 * -(-len(kernels) // 2)), squeeze=False)
    for axes in grid.flat[len(kernels) :]:
        axes.remove()
    for axes, kernel in zip(grid.flat, kernels, strict=False):
        plot_growth(content, kernel, axes)
    about = content["header"]
    title = f"Time against rows, d = {about['d']}: {about['cpu']}, {about['threads']} threads"
    figure.suptitle(title, x=0.01, ha="left")
    _save(figure, path)


def draw_ratios(content: dict, path: Path) -> None:
    """Each system's time over that of ours; hatched where it is not the same result."""
    data = content["header"]["data"]
    rows = [r for r in summary(content["records"]) if r["data"] == data and r["ours_seconds"]]
    kernels = [k for k in KERNELS if sum(r["kernel"] == k for r in rows) > 1]
    if not kernels:
        return
    heights = [sum(r["kernel"] == k for r in rows) + 1.2 for k in kernels]
    figure, grid = plt.subplots(
        len(kernels), 1, figsize=(8.4, 0.3 * sum(heights) + 0.6), squeeze=False, height_ratios=heights, sharex=True
    )
    for axes, kernel in zip(grid[:, 0], kernels, strict=True):
        here = sorted((r for r in rows if r["kernel"] == kernel), key=lambda r: -r["seconds"] / r["ours_seconds"])
        for place, row in enumerate(here):
            ratio, other = row["seconds"] / row["ours_seconds"], row["agrees"] is False
            colour = OURS if is_ours(row) else DARK if is_yardstick(row) else PEER
            bar = {"color": GREY, "hatch": "///"} if other else {"color": colour}
            axes.barh(place, ratio, 0.72, edgecolor="white", **bar)
            words = f"{float(f'{ratio:.2g}'):g} ×, {row['seconds']:.3g} s"
            if other:
                words += ", higher inertia" if kernel == "kmeans" else ", not the same result"
            box = {"facecolor": "white", "edgecolor": "none", "pad": 0.8}
            axes.annotate(words, (ratio, place), (4, 0), textcoords="offset points", va="center", fontsize=8, bbox=box)
        labels = [f"{row['system']}, n = {row['n']:,}" for row in here]
        axes.set_yticks(range(len(here)), labels)
        axes.axvline(1, color=OURS, linewidth=0.9)
        axes.set(title=KERNELS[kernel], xscale="log")
        axes.tick_params(axis="y", length=0)
        axes.minorticks_off()
    low, high = grid[0, 0].get_xlim()
    grid[-1, 0].set_xlim(min(low, 0.1), high * 10)
    grid[-1, 0].set_xlabel("time over that of ours at the same n (right of the line: slower than ours)")
    for axes in grid[:, 0]:
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    _save(figure, path)


def _save(figure, path: Path) -> None:
    figure.tight_layout()
    drawn = BytesIO()
    figure.savefig(drawn, dpi=110, facecolor="white", format="png")
    plt.close(figure)
    with atomic_path(path) as temporary, Image.open(drawn) as image:
        image.convert("RGB").quantize(128).save(temporary, optimize=True)  # a fifth of the size


def draw(results: Path = KERNELS_FILE) -> list[Path]:
    """Both figures, beside the results. Returns their paths."""
    content = read_json(results)
    paths = [Path(results).with_name("growth.png"), Path(results).with_name("ratios.png")]
    with plt.rc_context(STYLE):
        draw_growth(content, paths[0])
        draw_ratios(content, paths[1])
    return [path for path in paths if path.exists()]


@click.command()
@click.argument("results", type=click.Path(exists=True, path_type=Path), default=KERNELS_FILE)
def main(results):
    """Draw the figures of a results file (by default results/kernels.json)."""
    for path in draw(results):
        click.echo(path)


if __name__ == "__main__":
    main()
