"""Self-contained HTML pages: headings, tables and pictures, everything escaped, nothing loaded from elsewhere."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import pandas as pd

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{{ title }} · assl-kit</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; max-width: 64rem; margin: 0 auto; padding: 1rem; color: #222;
  background: #fff; overflow-wrap: break-word; }
h1 { margin-bottom: 0; font-size: clamp(1.4rem, 5vw, 2rem); line-height: 1.25; }
h2 { border-bottom: 1px solid #ddd; margin-top: 2.5rem; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-size: .9rem; margin: .5rem 0 1rem; }
th, td { padding: .2rem .6rem; border-bottom: 1px solid #eee; text-align: left; white-space: nowrap; }
.results th { white-space: normal; vertical-align: bottom; } .results td { vertical-align: top; }
.results small { display: block; font-weight: normal; }
.results td:first-child, .results th:first-child { position: sticky; left: 0; background: #fff; }
.results td:nth-child(2), .results th:nth-child(2) { font-weight: bold; }
.results tr:last-child td { border-top: 2px solid #999; }
.verdict { font-size: 1.15rem; border-left: .25rem solid #2a7f62; padding-left: .75rem; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; }
img { max-width: 100%; height: auto; background: #fff; } figure { margin: 1rem 0; }
figcaption, .quiet { color: #666; font-size: .9rem; } .alarm { color: #b00020; font-weight: bold; }
pre { overflow-x: auto; font-size: .85rem; background: #f4f4f4; padding: .5rem; }
@media (max-width: 40rem) {
  .table :is(th, td):not(.number) { white-space: normal; } th, td { padding: .2rem .4rem; }
  table { font-size: .8rem; } .table td span { white-space: nowrap; font-size: .9em; }
}
@media (prefers-color-scheme: dark) {
  body { color: #ddd; background: #181818; } h2, th, td { border-color: #444; } pre { background: #252525; }
  .results td:first-child, .results th:first-child { background: #181818; }
  figcaption, .quiet { color: #aaa; } .alarm { color: #ff7a85; }
}
</style>
</head>
<body>
<h1>{{ title }}</h1>
<p class="quiet">{{ lead }}</p>
{% for kind, value in blocks %}
{% if kind == "heading" %}<h2>{{ value }}</h2>
{% elif kind == "subheading" %}<h3>{{ value }}</h3>
{% elif kind == "text" %}<p>{{ value }}</p>
{% elif kind == "verdict" %}<p class="verdict">{{ value }}</p>
{% elif kind == "alarm" %}<p class="alarm">{{ value }}</p>
{% elif kind == "output" %}<pre>{{ value }}</pre>
{% elif kind == "picture" %}<figure><img alt="{{ value[0] }}" src="data:image/png;base64,{{ value[1] }}">
<figcaption>{{ value[0] }}</figcaption></figure>
{% elif kind in ("table", "results") %}<div class="wide {{ kind }}"><table>
<tr>{% for column in value.columns %}<th{% if numeric(value[column]) %} class="number"{% endif %}>{{ column }}</th>
{% endfor %}</tr>
{% for row in value.itertuples(index=False) %}<tr>{% for cell in row %}
<td{% if is_number(cell) %} class="number"{% endif %}>
{%- if kind == "results" and " [" in show(cell) %}
{%- set value, interval = show(cell).split(" [") %}{{ value }}<small>[{{ interval }}</small>
{%- elif is_interval(show(cell)) %}
{%- set value, interval = show(cell).split(" [") %}{{ value }} <span>[{{ interval }}</span>
{%- else %}{{ show(cell) }}{% endif %}</td>{% endfor %}</tr>
{% endfor %}</table></div>
{% endif %}{% endfor %}
</body>
</html>
"""

_INTERVAL = re.compile(r"[-+.\d]+ \[[-+.\d]+, [-+.\d]+\]")


def render_page(title: str, lead: str, blocks: Iterable[tuple[str, Any]]) -> str:
    """A page of blocks.

    Parameters
    ----------
    title, lead : str
        The heading, and the small line below it.
    blocks : iterable of (kind, value)
        ``heading``, ``subheading``, ``text``, ``verdict``, ``alarm`` and ``output`` (kept as it is spaced) with a
        string; ``table`` with a DataFrame, or ``results``, whose first column stays in view; ``picture`` with (caption,
        base64 of a PNG).

    Returns
    -------
    str
        HTML without script and without any link outwards; every value is escaped.

    Examples
    --------
    >>> "a &lt;b&gt;" in render_page("a <b>", "", [("text", "<script>")])
    True
    """
    from jinja2 import Environment

    page = Environment(autoescape=True, trim_blocks=True).from_string(_PAGE)
    helpers = {"show": show, "is_number": is_number, "numeric": _numeric, "is_interval": _INTERVAL.fullmatch}
    return page.render(title=title, lead=lead, blocks=list(blocks), **helpers)


def png_of(figure: Figure) -> bytes:
    """A figure as PNG, and closed."""
    import matplotlib.pyplot as plt

    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    plt.close(figure)
    return buffer.getvalue()


def show(value: Any) -> str:
    """A cell as text: three decimals (one from ten on), thousands apart, nothing for what is missing.

    Examples
    --------
    >>> show(0.5), show(12345), show(None), show("qa"), show(0.00012)
    ('0.500', '12,345', '', 'qa', '0.00012')
    """
    if value is None or (isinstance(value, float) and pd.isna(value)):
        return ""
    if isinstance(value, bool) or not is_number(value):
        return str(value)
    if float(value).is_integer() and not isinstance(value, float):
        return f"{int(value):,}"
    if abs(value) >= 10:
        return f"{value:,.1f}"
    return f"{value:.2g}" if 0 < abs(value) < 0.01 else f"{value:.3f}"


def is_number(value: Any) -> bool:
    """Whether a cell is set to the right.

    Examples
    --------
    >>> is_number(1.5), is_number("1.5"), is_number(True)
    (True, False, False)
    """
    return hasattr(value, "__float__") and not isinstance(value, (str, bool))


def _numeric(column: pd.Series) -> bool:
    return len(column) > 0 and all(is_number(value) for value in column)
