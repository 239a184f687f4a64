"""One self-contained HTML page of a run: its tables, its pictures, where each came from."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from .files import atomic_path
from .parameters import describe
from .workspace import Workspace

REPORT = "report.html"
_TITLES = {
    "clusters": "How the clusters meet the tasks",
    "kept": "What was kept",
    "routing": "Where the router was right",
    "regret": "Regret: best single expert less routed",
    "differences": "Routed against each other arm",
    "corpus": "The corpus",
    "by_source": "of each source",
    "by_task": "of each task",
    "nmi": "normalised mutual information",
    "table": "counts",
}
_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ name }} · assl-kit</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; max-width: 64rem; margin: 0 auto; padding: 1rem; color: #222; }
h1 { margin-bottom: 0; } h2 { border-bottom: 1px solid #ddd; margin-top: 2.5rem; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-size: .9rem; margin: .5rem 0 1rem; }
th, td { padding: .2rem .6rem; border-bottom: 1px solid #eee; text-align: left; white-space: nowrap; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; }
img { max-width: 100%; height: auto; } figure { margin: 1rem 0; } figcaption, .quiet { color: #666; font-size: .9rem; }
.failed { color: #b00020; font-weight: bold; }
</style>
</head>
<body>
{% macro grid(frame) %}
<div class="wide"><table>
<tr>{% for column in frame.columns %}<th{% if numeric(frame[column]) %} class="number"{% endif %}>{{ column }}</th>
{% endfor %}</tr>
{% for row in frame.itertuples(index=False) %}<tr>{% for value in row %}
<td{% if is_number(value) %} class="number"{% endif %}>{{ show(value) }}</td>{% endfor %}</tr>
{% endfor %}</table></div>
{% endmacro %}
<h1>{{ name }}</h1>
<p class="quiet">assl-kit · profile {{ manifest.profile }} · {{ manifest.created }} · data {{ data }}</p>
{% for book in failed %}<p class="failed">The notebook {{ book }} did not finish.</p>{% endfor %}
{% if results is not none %}
<h2>Results</h2>
<p>Value and bootstrap interval on the test records.</p>
{{ grid(results) }}
{% endif %}
{% for title, blocks in sections %}
<h2>{{ title }}</h2>
{% for subtitle, frame in blocks %}{% if subtitle %}<h3>{{ subtitle }}</h3>{% endif %}{{ grid(frame) }}{% endfor %}
{% endfor %}
{% for book, pictures in gallery %}
<h2>{{ book }}</h2>
{% for heading, picture in pictures %}
<figure><img alt="{{ heading }}" src="data:image/png;base64,{{ picture }}">
<figcaption>{{ heading }}</figcaption></figure>
{% endfor %}
{% endfor %}
{% for title, frame in appendix %}{% if not frame.empty %}
<h2>{{ title }}</h2>
{{ grid(frame) }}
{% endif %}{% endfor %}
</body>
</html>
"""


def write_report(ws: Workspace) -> Path:
    """Write ``report.html`` of a run from its manifest, ``metrics.json`` and executed notebooks.

    Parameters
    ----------
    ws : Workspace
        A run, finished or not: what is missing is left out.

    Returns
    -------
    pathlib.Path
        The page: no script, no link outwards, pictures inside, everything escaped.

    Raises
    ------
    WorkspaceError
        If ``metrics.json`` cannot be read.

    Examples
    --------
    >>> import tempfile
    >>> ws = Workspace.open(tempfile.mkdtemp())
    >>> ws.write_json("metrics.json", {"routing": {"accuracy": 0.5}})
    >>> "accuracy" in write_report(ws).read_text(encoding="utf-8")
    True
    """
    from jinja2 import Environment

    manifest = ws.manifest()
    metrics = read_metrics(ws)
    page = Environment(autoescape=True, trim_blocks=True).from_string(_PAGE)
    html = page.render(
        name=ws.folder.name,
        manifest=manifest,
        data=Path(str(manifest["parameters"].get("data", "unknown"))).name,
        failed=[name for name, note in manifest["notebooks"].items() if note.get("status") != "done"],
        results=results_table(metrics),
        sections=list(_sections(metrics)),
        gallery=list(_gallery(ws)),
        appendix=[
            ("Artifacts", _artifacts(manifest)),
            ("Notebooks", _notebooks(manifest)),
            ("Parameters", _parameters(manifest)),
            ("Versions", pd.DataFrame(sorted(manifest.get("versions", {}).items()), columns=["package", "version"])),
        ],
        show=show,
        is_number=_is_number,
        numeric=lambda column: len(column) > 0 and all(_is_number(value) for value in column),
    )
    target = ws.path_of(REPORT)
    with atomic_path(target) as temporary:
        temporary.write_text(html, encoding="utf-8")
    return target


def read_metrics(ws: Workspace) -> dict[str, Any]:
    """The run's ``metrics.json``, or an empty mapping while there is none."""
    found = ws.json("metrics.json") if ws.has("metrics.json") else {}
    return found if isinstance(found, dict) else {}


def results_table(metrics: Mapping[str, Any]) -> pd.DataFrame | None:
    """Tasks by arms: ``value [low, high]`` in each cell, the mean over tasks last; None without results.

    Examples
    --------
    >>> row = {"arm": "base", "task": "qa", "metric": "exact_match", "n": 9, "value": 0.5, "low": 0.4, "high": 0.6}
    >>> results_table({"table": [row]})["base"].tolist()
    ['0.500 [0.400, 0.600]']
    """
    rows = metrics.get("table")
    if not isinstance(rows, list) or not rows:
        return None
    table = pd.DataFrame(rows)
    if not {"arm", "task", "value"} <= set(table.columns):
        return None
    table["cell"] = [_interval(row) for row in table.to_dict("records")]
    about = [name for name in ("metric", "n") if name in table.columns]
    left = table.drop_duplicates("task")[["task", *about]].set_index("task")
    wide = table.drop_duplicates(["task", "arm"]).pivot(index="task", columns="arm", values="cell")
    wide = wide[list(dict.fromkeys(table["arm"]))].fillna("")
    order = [task for task in left.index if task != "mean"] + [task for task in left.index if task == "mean"]
    return left.join(wide).loc[order].reset_index()


def _interval(row: Mapping[str, Any]) -> str:
    if pd.isna(row.get("low")) or pd.isna(row.get("high")):
        return show(row["value"])
    return f"{show(row['value'])} [{show(row['low'])}, {show(row['high'])}]"


def show(value: Any) -> str:
    """A cell as text: three decimals (one from ten on), thousands apart, nothing for what is missing.

    Examples
    --------
    >>> show(0.5), show(12345), show(None), show("qa"), show(0.00012)
    ('0.500', '12,345', '', 'qa', '0.00012')
    """
    if value is None or (isinstance(value, float) and pd.isna(value)):
        return ""
    if isinstance(value, bool) or not _is_number(value):
        return str(value)
    if float(value).is_integer() and not isinstance(value, float):
        return f"{int(value):,}"
    if abs(value) >= 10:
        return f"{value:,.1f}"
    return f"{value:.2g}" if 0 < abs(value) < 0.01 else f"{value:.3f}"


def _is_number(value: Any) -> bool:
    return hasattr(value, "__float__") and not isinstance(value, (str, bool))


def _sections(metrics: Mapping[str, Any]) -> Iterator[tuple[str, list[tuple[str, pd.DataFrame]]]]:
    """Every part of the metrics but the results table, in the order it is written, whatever it holds."""
    for name, value in metrics.items():
        if name == "table" or value in (None, {}, []):
            continue
        yield _TITLES.get(name, name.replace("_", " ").capitalize()), list(_blocks("", value))


def _blocks(title: str, value: Any) -> Iterator[tuple[str, pd.DataFrame]]:
    """A JSON value as titled tables: plain values together, lists of objects and nested objects each alone."""
    if not isinstance(value, Mapping):
        rows = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
        tabular = all(isinstance(row, Mapping) for row in rows)
        yield (
            title,
            pd.DataFrame(rows, dtype=object) if tabular else pd.DataFrame({"value": [show(row) for row in rows]}),
        )
        return
    plain = {k: v for k, v in value.items() if not isinstance(v, (Mapping, list))}
    nested = {k: v for k, v in value.items() if k not in plain}
    if plain:
        rows = [(_TITLES.get(name, name), part) for name, part in plain.items()]
        yield title, pd.DataFrame(rows, columns=["", "value"], dtype=object)
    if nested and not plain and all(_is_flat(v) for v in nested.values()):
        yield title, pd.DataFrame.from_dict(nested, orient="index", dtype=object).rename_axis(" ").reset_index()
        return
    for name, part in nested.items():
        yield from _blocks(_TITLES.get(name, name.replace("_", " ")), part)


def _is_flat(value: Any) -> bool:
    return isinstance(value, Mapping) and not any(isinstance(part, (Mapping, list)) for part in value.values())


def _gallery(ws: Workspace) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """For each executed notebook its title and its pictures, each under the heading it stands below."""
    import nbformat

    folder = ws.path_of("notebooks")
    for path in sorted(folder.glob("*.ipynb")) if folder.is_dir() else []:
        title, heading, pictures = path.stem, path.stem, []
        for cell in nbformat.read(path, as_version=4).cells:
            if cell.cell_type == "markdown":
                found = [line.lstrip("# ").strip() for line in cell.source.splitlines() if line.startswith("#")]
                title = found[0] if found and title == path.stem else title
                heading = found[-1] if found else heading
            for output in cell.get("outputs", []):
                picture = output.get("data", {}).get("image/png")
                if picture and _is_png(picture):
                    pictures.append((heading, "".join(picture.split())))
        if pictures:
            yield title, pictures


def _is_png(text: str) -> bool:
    try:
        return base64.b64decode("".join(text.split()), validate=True).startswith(b"\x89PNG\r\n")
    except (binascii.Error, ValueError):
        return False


def _artifacts(manifest: Mapping[str, Any]) -> pd.DataFrame:
    rows = [
        {
            "artifact": name,
            "notebook": entry.get("notebook"),
            "made from": ", ".join(entry.get("parents", [])),
            "seconds": entry.get("seconds"),
            "sha256": str(entry.get("sha256", ""))[:16],
        }
        for name, entry in manifest["artifacts"].items()
    ]
    return pd.DataFrame(rows)


def _notebooks(manifest: Mapping[str, Any]) -> pd.DataFrame:
    return pd.DataFrame([{"notebook": name, **note} for name, note in manifest["notebooks"].items()])


def _parameters(manifest: Mapping[str, Any]) -> pd.DataFrame:
    meaning = {row["name"]: row["description"] for row in describe()}
    rows = [(name, str(value), meaning.get(name, "")) for name, value in manifest["parameters"].items()]
    return pd.DataFrame(rows, columns=["parameter", "value", "meaning"])
