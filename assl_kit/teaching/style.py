"""How every figure looks: colours, markers, fonts.

Colours are colour-blind safe (Okabe and Ito; Tol) and the same for a task or an expert in every picture; the background
is white, so that a figure reads the same in a dark theme and in print.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import matplotlib.pyplot as plt
from matplotlib import font_manager
from matplotlib.figure import Figure

from assl_kit.common.names import by_number

TASK_COLOURS = (
    "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#7A7A7A",
    "#882255", "#999933", "#332288", "#44AA99", "#AA4499", "#661100", "#6699CC",
)  # fmt: skip
EXPERT_COLOURS = (
    "#4477AA", "#EE6677", "#228833", "#CCBB44", "#66CCEE", "#AA3377",
    "#BBBBBB", "#222255", "#225555", "#663333", "#997700", "#004488",
)  # fmt: skip
MARKERS = "osD^vPX*<>phd8"
CJK_FONTS = (
    "Noto Sans CJK SC", "Noto Sans SC", "Source Han Sans SC", "Microsoft YaHei", "PingFang SC", "Hiragino Sans GB",
    "WenQuanYi Zen Hei", "WenQuanYi Micro Hei", "SimHei", "Arial Unicode MS",
)  # fmt: skip

LARGEST = 60.0
"""Inches of a figure's side."""
_STYLE = {
    "figure.facecolor": "white",
    "axes.facecolor": "white",
    "savefig.facecolor": "white",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": False,
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "legend.frameon": False,
    "figure.dpi": 100,
    "axes.unicode_minus": False,
}


def cjk_font() -> str | None:
    """Name of an installed font with Chinese glyphs, or None.

    Examples
    --------
    >>> cjk_font() in {None, *CJK_FONTS}
    True
    """
    installed = {font.name for font in font_manager.fontManager.ttflist}
    return next((name for name in CJK_FONTS if name in installed), None)


def readable(labels: Iterable[Any]) -> list[str]:
    """Labels that the fonts at hand can draw: as they are, or numbered where no font has Chinese glyphs.

    Examples
    --------
    >>> readable(["sentiment", "qa"])
    ['sentiment', 'qa']
    """
    texts = [str(label) for label in labels]
    if cjk_font():
        return texts
    return [text if text.isascii() else f"label {i + 1}" for i, text in enumerate(texts)]


def task_colours(tasks: Iterable[str]) -> dict[str, str]:
    """A fixed colour for each task: known tasks always have the same, others follow in sorted order.

    Examples
    --------
    >>> task_colours(["qa"])["qa"] == task_colours(["sentiment", "qa"])["qa"]
    True
    """
    from assl_kit.data.synthetic import TASKS

    others = sorted({str(t) for t in tasks} - set(TASKS), key=by_number)
    order = [*TASKS, *others]
    return {task: TASK_COLOURS[i % len(TASK_COLOURS)] for i, task in enumerate(order)}


def expert_colours(n: int) -> list[str]:
    """Colours of experts (clusters) 0 to n − 1.

    Examples
    --------
    >>> expert_colours(2)
    ['#4477AA', '#EE6677']
    """
    return [EXPERT_COLOURS[i % len(EXPERT_COLOURS)] for i in range(n)]


def styled_figure(
    width: float = 7.5, height: float = 4.0, columns: int = 1, rows: int = 1, **options: Any
) -> tuple[Figure, Any]:
    """A figure in the project's style and its axes, one or an array of them, as ``plt.subplots`` gives them."""
    families = [f for f in (cjk_font(),) if f] + ["DejaVu Sans"]
    style: dict[Any, Any] = _STYLE | {"font.sans-serif": families, "font.family": "sans-serif"}
    plt.rcParams.update(style)
    size = min(width, LARGEST), min(height, LARGEST)  # a table of a thousand tasks would be no picture
    return plt.subplots(rows, columns, figsize=size, layout="constrained", **options)
