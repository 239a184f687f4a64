"""One self-contained HTML page of a run: its tables, its pictures, where each came from."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from assl_kit.artifacts.parameters import describe
from assl_kit.artifacts.workspace import Workspace
from assl_kit.common.files import write_text
from assl_kit.common.limits import check_size
from assl_kit.common.trust import inside
from assl_kit.data.records import LEFT_OUT
from assl_kit.errors import AsslError, WorkspaceError

from .choice import choice_blocks, highest_blocks, routed_verdict, verdicts
from .manifest_rows import artifact_rows, notebook_rows
from .page import render_page, show
from .selecting.check import duplicate_blocks

REPORT = "report.html"
_COLUMNS = {
    "inside": "interval holds 0",
    "home_share": "home share",
    "best_expert": "best expert",
    "oracle_gap": "oracle gap",
}
_LONGEST_WARNING = 2000
MAX_NOTEBOOK = 256 << 20
"""Bytes of one executed notebook."""
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


def write_report(ws: Workspace) -> Path:
    """Write ``report.html`` of a run from its manifest, metrics, referee's verdict, scores and executed notebooks.

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
        If one of these cannot be read, or holds what no run writes.

    Examples
    --------
    >>> import tempfile
    >>> ws = Workspace.open(tempfile.mkdtemp())
    >>> _ = ws.path_of("metrics.json").write_text('{"routing": {"accuracy": 0.5}}', encoding="utf-8")
    >>> "accuracy" in write_report(ws).read_text(encoding="utf-8")
    True
    """
    manifest, metrics = ws.manifest(), read_metrics(ws)
    lead = f"assl-kit · run {ws.folder.name} · profile {manifest['profile']} · {manifest.get('created')}"
    try:
        html = render_page(_title(ws, manifest, metrics), lead, _page(ws, manifest, metrics))
    except AsslError:
        raise
    except Exception as error:  # of as many kinds as there are ways to fill JSON with something else
        raise WorkspaceError(
            f"the report cannot be made of what the run holds: {type(error).__name__}: {str(error)[:200]}",
            where=ws.display_path(),
            hint="Look at manifest.json, metrics.json and referee.json, or run the notebooks again.",
        ) from error
    target = ws.path_of(REPORT)
    write_text(target, html)
    return target


def _title(ws: Workspace, manifest: Mapping[str, Any], metrics: Mapping[str, Any]) -> str:
    """The data, and how much of it was chosen; of a run that has none, the run's name."""
    data = manifest["parameters"].get("data")
    if not data:
        return ws.folder.name
    name = "The embedded corpus" if data == "embedded" else Path(str(data)).name
    corpus = metrics.get("corpus") or {}
    if not {"chosen", "train"} <= set(corpus):
        return name
    return f"{name}: {corpus['chosen']:,} of {corpus['train']:,} records chosen"


def _page(ws: Workspace, manifest: Mapping[str, Any], metrics: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """What a reader wants first: failures, the verdict, the results and their pictures; then the rest."""
    for name, note in manifest["notebooks"].items():
        if note.get("status") != "done":
            yield "alarm", f"The notebook {name} did not finish. {note.get('message') or ''}".rstrip()
    yield from (("verdict", sentence) for sentence in _verdicts(ws, metrics))
    results = results_table(metrics)
    if results is not None:
        yield "heading", "Results"
        yield "text", "Value and bootstrap interval on the test records."
        yield "results", _routed_first(results, metrics)
    books = list(_executed(ws))
    last = [book for book in books if book.name[:2] in ("08", "09")]
    yield from _pictures(last)
    yield from choice_blocks(ws)
    yield from _pictures([book for book in books if book not in last])
    for title, parts in _sections(metrics):
        yield "heading", title
        for subtitle, frame in parts:
            if subtitle:
                yield "subheading", subtitle
            yield "table", frame.rename(columns=_COLUMNS)
    yield from duplicate_blocks(ws)
    yield from highest_blocks(ws, str(manifest["parameters"].get("score")))
    yield from _left_out(manifest)
    yield "heading", "Warnings"
    warnings = [*_cut_records(ws), *((book.title, text) for book in books for text in book.warnings)]
    for title, text in warnings:
        yield "subheading", title
        yield "output", text
    if not warnings:
        yield "text", "None: no notebook printed a warning, no record was cut."
    appendix = {
        "Time and memory": pd.DataFrame(notebook_rows(manifest)).drop(columns="message", errors="ignore"),
        "Artifacts": pd.DataFrame(artifact_rows(manifest)),
        "Parameters": _parameters(manifest),
        "Versions": pd.DataFrame(sorted((manifest.get("versions") or {}).items()), columns=["package", "version"]),
    }
    for title, frame in appendix.items():
        if not frame.empty:
            yield "heading", title
            yield "table", frame


def _verdicts(ws: Workspace, metrics: Mapping[str, Any]) -> list[str]:
    """The run's two answers: what became of the routed experts, and of the choice."""
    referee = ws.json("referee.json") if ws.has("referee.json") else {"skipped": ""}
    choice = "" if "skipped" in referee else verdicts(referee)[0].split(";")[0].rstrip(".")  # more of it stands below
    about_choice = choice and f"Cheap learners judge the choice so: {choice[0].lower()}{choice[1:]}."
    return [sentence for sentence in (routed_verdict(metrics), about_choice) if sentence]


def _routed_first(results: pd.DataFrame, metrics: Mapping[str, Any]) -> pd.DataFrame:
    """The same table with the routed arm beside the tasks, where a phone shows it, and what is small print last."""
    differences = metrics.get("differences") or [{}]
    routed = [differences[0].get("arm")] if differences[0].get("arm") in results else []
    small = [name for name in ("metric", "n") if name in results]
    others = [name for name in results if name not in ("task", *routed, *small)]
    return results[["task", *routed, *others, *small]]


def _pictures(books: list[Executed]) -> Iterator[tuple[str, Any]]:
    for book in books:
        if book.pictures:
            yield "heading", book.title
            yield from (("picture", picture) for picture in book.pictures)


def _left_out(manifest: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """What was left out of the data, as notebook 01 put it down."""
    note = manifest.get("left_out")
    if not isinstance(note, Mapping) or not note.get("count"):
        return
    rows = pd.DataFrame(note.get("first") or [], dtype=object)
    yield "heading", "Left out of the data"
    yield "text", f"{note['count']:,} in all; {LEFT_OUT} lists them, here are the first {len(rows)}."
    yield "table", rows


def read_metrics(ws: Workspace) -> dict[str, Any]:
    """The run's ``metrics.json``, or an empty mapping while there is none."""
    metrics = ws.json("metrics.json") if ws.has("metrics.json") else {}
    return metrics if isinstance(metrics, dict) else {}


def parameters_of(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters of a run, then those that single notebooks declare, as ``"05_mmr: n_draws"``."""
    values = dict(manifest["parameters"])
    for notebook, note in manifest["notebooks"].items():
        declared = note.get("parameters")
        if isinstance(declared, dict):
            values |= {f"{notebook}: {name}": value for name, value in declared.items()}
    return values


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


def _interval(row: Mapping[Any, Any]) -> str:
    if pd.isna(row.get("low")) or pd.isna(row.get("high")):
        return show(row["value"])
    return f"{show(row['value'])} [{show(row['low'])}, {show(row['high'])}]"


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


@dataclass
class Executed:
    """An executed notebook: file name, title, pictures with the headings they stand below, and what it warned of."""

    name: str
    title: str
    pictures: list[tuple[str, str]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def _executed(ws: Workspace) -> Iterator[Executed]:
    folder = ws.path_of("notebooks")
    for path in sorted(folder.glob("[0-9]*.ipynb")) if folder.is_dir() else []:
        try:
            inside(ws.folder, path)
            check_size(path, MAX_NOTEBOOK)
            yield _outputs(path)
        except AsslError as error:
            yield Executed(path.stem, path.stem, warnings=[f"Not shown: {error.what}."])
        except Exception as error:  # nbformat's kinds, and those of whatever a stranger's notebook holds
            what = f"Not shown: it cannot be read as a notebook ({type(error).__name__})."
            yield Executed(path.stem, path.stem, warnings=[what])


def _outputs(path: Path) -> Executed:
    import nbformat

    book, heading = Executed(path.stem, path.stem), path.stem
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "markdown":
            headings = [line.lstrip("# ").strip() for line in cell.source.splitlines() if line.startswith("#")]
            if headings and book.title == path.stem:  # the first heading of all is the title
                book.title = headings[0]
            heading = headings[-1] if headings else heading
        for output in cell.get("outputs", []):
            picture = output.get("data", {}).get("image/png")
            if isinstance(picture, str) and _is_png(picture):
                book.pictures.append((heading, "".join(picture.split())))
            if output.output_type == "stream" and output.name == "stderr":
                book.warnings.append(output.text.strip()[:_LONGEST_WARNING])
    book.warnings = [text for text in book.warnings if text]
    return book


def _cut_records(ws: Workspace) -> Iterator[tuple[str, str]]:
    """Experts some of whose records were longer than the model reads."""
    if not ws.has("experts/bank.json"):
        return
    experts = ws.json("experts/bank.json").get("experts") or []
    for number, expert in enumerate(experts):
        notes = [*expert.get("notes", [])]
        if expert.get("truncated"):
            notes.insert(0, f"{expert['truncated']} records lost their start: longer than max_length.")
        if notes:
            yield f"Expert {number}", "\n".join(map(str, notes))


def _is_png(text: str) -> bool:
    try:
        return base64.b64decode("".join(text.split()), validate=True).startswith(b"\x89PNG\r\n")
    except (binascii.Error, ValueError):
        return False


def _parameters(manifest: Mapping[str, Any]) -> pd.DataFrame:
    meaning = {row["name"]: row["description"] for row in describe()}
    rows = [(name, str(value), meaning.get(name, "")) for name, value in parameters_of(manifest).items()]
    return pd.DataFrame(rows, columns=["parameter", "value", "meaning"])
