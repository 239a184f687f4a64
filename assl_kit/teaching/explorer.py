"""The semantic space to walk through: an interactive map by task, by cluster or by what was kept; also as HTML."""

from __future__ import annotations

import os
from html import escape
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from assl_kit.common.files import write_text
from assl_kit.common.names import by_number
from assl_kit.common.packages import need
from assl_kit.errors import DataError

from .style import expert_colours, task_colours

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

KEPT_COLOURS = {"kept": "#0072B2", "not kept": "#BBBBBB"}
HOVER_LENGTHS = {"instruction": 40, "input": 90, "output": 40}
"""Characters shown of each text."""
_LINE = 30
_FONT = "Noto Sans CJK SC, Noto Sans SC, Microsoft YaHei, PingFang SC, WenQuanYi Zen Hei, sans-serif"
_TITLES = {"task": "by task", "cluster": "by cluster", "kept": "by what was kept"}


def hover_text(record: dict) -> str:
    """What the map shows of a record: its place, then its texts, each shortened, broken into lines and escaped.

    Parameters
    ----------
    record : dict
        ``id``, ``task``, ``input``, ``output``, and ``instruction``, ``cluster``, ``kept`` where they are there.

    Returns
    -------
    str
        In the few tags that plotly knows; nothing of the record is read as one.

    Examples
    --------
    >>> hover_text({"id": "a-1", "task": "qa", "input": "x < y", "output": "是", "cluster": 2, "kept": True})
    '<b>a-1</b> · qa · cluster 2 · kept<br>x &lt; y<br>→ 是'
    """
    head = [f"<b>{_safe(record['id'])}</b>", _safe(record["task"])]
    if "cluster" in record:
        head.append(f"cluster {_safe(record['cluster'])}")
    if "kept" in record:
        head.append("kept" if record["kept"] else "not kept")
    texts = [_lines(record.get(name), HOVER_LENGTHS[name]) for name in ("instruction", "input")]
    texts.append("→ " + _lines(record["output"], HOVER_LENGTHS["output"]))
    return "<br>".join([" · ".join(head), *(text for text in texts if text)])


def explore_space(xy: np.ndarray, records: pd.DataFrame, *, title: str = "The semantic space") -> Figure:
    """An interactive map of records: hover over a point to read it, click in the legend to hide a group.

    Parameters
    ----------
    xy : array of shape (n, 2)
        The place of each record, as `assl_kit.teaching.plots.project` gives it.
    records : DataFrame, n rows in the order of ``xy``
        Columns ``id``, ``task``, ``input``, ``output`` and, if there, ``instruction``, ``cluster`` (whole numbers) and
        ``kept`` (true or false). There is one button for each of task, cluster and kept that is there. Kept records
        are diamonds in all three colourings, others are dots.
    title : str

    Returns
    -------
    plotly.graph_objects.Figure
        Shown by JupyterLab and Colab without widgets. A thousand records take about a third of a megabyte.

    Raises
    ------
    DataError
        If rows do not fit together, a column is missing, or a place is not finite.
    ParameterError
        If plotly is not installed.

    Examples
    --------
    >>> records = pd.DataFrame({"id": ["a", "b"], "task": ["qa", "qa"], "input": ["x", "y"], "output": ["1", "2"]})
    >>> figure = explore_space(np.eye(2), records)
    >>> [trace.name for trace in figure.data]
    ['qa']
    """
    go = _plotly()
    xy = _places(xy, records)
    groups = [name for name in _TITLES if name in records]
    table = pd.DataFrame({"row": np.arange(len(records)), "task": records["task"].astype(str).to_numpy()})
    if "cluster" in groups:
        table["cluster"] = records["cluster"].astype(int).to_numpy()
    if "kept" in groups:
        table["kept"] = np.where(records["kept"].astype(bool), "kept", "not kept")
    hover = [hover_text(record) for record in records.to_dict("records")]
    # One trace for each combination, so that the texts are stored once whatever the colouring.
    traces = [(key, part["row"].to_numpy()) for key, part in table.groupby(groups, sort=True)]
    if "kept" in groups:  # on top of the others
        traces.sort(key=lambda trace: trace[0][-1] == "kept")
    keys = pd.DataFrame([key for key, _ in traces], columns=groups)
    styles = {group: _style(keys[group], group) for group in groups}
    figure = go.Figure()
    for number, (_, rows) in enumerate(traces):
        kept = "kept" in groups and keys["kept"][number] == "kept"
        line = {"width": 1 if kept else 0, "color": "black"}
        marker = {"symbol": "diamond" if kept else "circle", "size": 9 if kept else 6, "line": line}
        figure.add_scatter(
            x=xy[rows, 0].tolist(),
            y=xy[rows, 1].tolist(),
            mode="markers",
            marker=marker,
            opacity=0.8,
            hovertext=[hover[row] for row in rows],
            hoverinfo="text",
        )
    figure.plotly_restyle(styles["task"])
    buttons = [
        {"label": _TITLES[group], "method": "restyle", "args": [styles[group] | {"visible": True}]} for group in groups
    ]
    note = "  (diamonds: kept)" if "kept" in groups else ""
    axis = {"showgrid": False, "zeroline": False, "showticklabels": False, "title": None}
    figure.update_layout(
        title={"text": _safe(title) + note, "x": 0.01, "y": 0.97},
        template="plotly_white",
        font={"family": _FONT},
        height=600,
        margin={"l": 10, "r": 10, "t": 90, "b": 10},
        hovermode="closest",
        hoverlabel={"align": "left", "bgcolor": "white", "bordercolor": "#7A7A7A", "font": {"color": "#222222"}},
        legend={"itemsizing": "constant", "tracegroupgap": 2},
        xaxis=axis,
        yaxis=axis,
        updatemenus=[
            {
                "type": "buttons",
                "direction": "right",
                "buttons": buttons,
                "x": 0,
                "xanchor": "left",
                "y": 1.02,
                "yanchor": "bottom",
                "pad": {"t": 0, "b": 0},
                "showactive": True,
            }
        ],
    )
    return figure


def write_explorer(path: str | os.PathLike, figure: Figure, *, title: str = "The semantic space") -> None:
    """Write an interactive map as one HTML file that needs no network: plotly.js, about 5 MB, is in it.

    Parameters
    ----------
    path : str or path
        Replaced as a whole.
    figure : plotly.graph_objects.Figure
        As `explore_space` makes it; what it shows is escaped.
    title : str
        The page's title.

    Raises
    ------
    ParameterError
        If plotly is not installed.
    """
    _plotly()
    drawn = figure.to_html(full_html=False, include_plotlyjs=True, config={"displaylogo": False, "responsive": True})
    page = (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{escape(title)} · assl-kit</title>'
        f"\n<style>body {{ margin: 0; background: #fff; }}</style>\n</head>\n<body>\n{drawn}\n</body>\n</html>\n"
    )
    write_text(path, page)


def _plotly() -> ModuleType:
    need("plotly", "the interactive map", "notebooks")
    import plotly.graph_objects as go

    return go


def _places(xy: np.ndarray, records: pd.DataFrame) -> np.ndarray:
    missing = [name for name in ("id", "task", "input", "output") if name not in records]
    if missing:
        raise DataError(f"the records have no column {missing[0]!r}", hint="Give the records of the corpus.")
    xy = np.asarray(xy, dtype=float)
    if xy.shape != (len(records), 2) or not len(records):
        what = f"the map has shape {xy.shape}, but there are {len(records)} records"
        raise DataError(what, hint="Give one place (x, y) for each record, at least one.")
    bad = np.flatnonzero(~np.isfinite(xy).all(axis=1))
    if len(bad):
        raise DataError("a place on the map is not finite", where=f"record {records['id'].iloc[bad[0]]}")
    return xy.round(3)


def _style(values: pd.Series, group: str) -> dict:
    """Colour, name and legend of each trace under one colouring; the first of each group stands in the legend."""
    names = sorted(set(values), key=by_number if group == "task" else None)
    if group == "task":
        colours = task_colours(names)
    elif group == "cluster":
        colours = {name: expert_colours(name + 1)[-1] if name >= 0 else "black" for name in names}
    else:
        colours = KEPT_COLOURS
    shown = [f"cluster {value}" if group == "cluster" else _safe(value) for value in values]
    return {
        "marker.color": [colours[value] for value in values],
        "name": shown,
        "legendgroup": shown,
        "legendrank": [names.index(value) for value in values],
        "showlegend": (~values.duplicated()).tolist(),
    }


def _safe(value: object) -> str:
    """Text in which plotly finds no tag, and MathJax no formula."""
    return escape(str(value), quote=False).replace("$", "&#36;")


def _lines(text: Any, most: int) -> str:
    """The start of a text, in lines of `_LINE` characters."""
    text = "" if text is None or text is pd.NA or text != text else " ".join(str(text).split())
    text = text if len(text) <= most else text[: most - 1] + "…"
    return "<br>".join(_safe(text[start : start + _LINE]) for start in range(0, len(text), _LINE))
