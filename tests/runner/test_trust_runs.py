"""A run's folder from a stranger: its manifest, its artifacts, its executed notebooks, and what is printed of them."""

from __future__ import annotations

import json
import os

import nbformat
import numpy as np
import pandas as pd
import pytest
from helpers.hostile import links
from helpers.notebooks import write_notebook

from assl_kit.app.console import print_table
from assl_kit.artifacts.parameters import resolve
from assl_kit.artifacts.steps import read
from assl_kit.artifacts.workspace import MANIFEST, Workspace
from assl_kit.common import files
from assl_kit.common import limits as bounds
from assl_kit.common.files import write_json
from assl_kit.errors import DataError, WorkspaceError
from assl_kit.runner import report
from assl_kit.runner.report import write_report

SCRIPT = "<script>alert(1)</script>"


@pytest.fixture
def ws(tmp_path):
    ws = Workspace.open(tmp_path / "runs" / "one")
    ws.remember("tiny", resolve("tiny"))
    write_json(ws.path_of("metrics.json"), {"routing": {"accuracy": 0.5}})
    return ws


def change(ws, **entries):
    manifest = json.loads((ws.folder / MANIFEST).read_text(encoding="utf-8"))
    (ws.folder / MANIFEST).write_text(json.dumps(manifest | entries), encoding="utf-8")


@links
def test_the_manifest_is_no_link_out(ws, tmp_path):
    os.replace(ws.folder / MANIFEST, tmp_path / "elsewhere.json")
    (ws.folder / MANIFEST).symlink_to(tmp_path / "elsewhere.json")
    with pytest.raises(WorkspaceError, match="through a link"):
        Workspace.open(ws.folder)


@pytest.mark.parametrize("part", ["artifacts", "notebooks"])
@pytest.mark.parametrize("entry", [None, [], "x", 1])
def test_entries_of_the_manifest_are_mappings(ws, part, entry):
    change(ws, **{part: {"a": entry}})
    with pytest.raises(WorkspaceError, match="the entry 'a' of the manifest is damaged"):
        Workspace.open(ws.folder)


@pytest.mark.parametrize("text", ["[" * 200_000, '{"format": ' + "9" * 5000 + "}"], ids=["nested", "digits"])
def test_hostile_json_in_a_run_is_one_clear_error(ws, text):
    (ws.folder / "metrics.json").write_text(text, encoding="utf-8")
    with pytest.raises(WorkspaceError, match=r"metrics\.json cannot be read"):
        write_report(ws)
    (ws.folder / MANIFEST).write_text(text, encoding="utf-8")
    with pytest.raises(WorkspaceError, match="not valid JSON"):
        Workspace.open(ws.folder)


def test_a_gigantic_manifest_is_not_read(ws, monkeypatch):
    with open(ws.folder / MANIFEST, "r+b") as file:
        file.truncate(bounds.MAX_JSON + 1)
    monkeypatch.setattr(files, "parse_json", lambda text: pytest.fail("read"))
    with pytest.raises(WorkspaceError, match="33,554,433 bytes"):
        Workspace.open(ws.folder)


def test_the_rows_of_a_table_are_bounded(ws, monkeypatch):
    pd.DataFrame({"id": np.arange(5000)}).to_parquet(ws.path_of("records.parquet"))
    assert len(ws.table("records.parquet")) == 5000
    monkeypatch.setattr(bounds, "MAX_RECORDS", 100)
    with pytest.raises(WorkspaceError, match="5,000 rows, at most 100"):
        ws.table("records.parquet")
    with pytest.raises(DataError, match="5,000 rows, at most 100"):
        read(ws, "records")


def book(ws, *outputs, name="03_clustering"):
    path = write_notebook(ws.path_of(f"notebooks/{name}.ipynb"), f"# {SCRIPT}", "draw()")
    notebook = nbformat.read(path, as_version=4)
    notebook.cells[-1].outputs = list(outputs)
    nbformat.write(notebook, path)
    return path


def test_outputs_of_a_notebook_are_pictures_and_text_only(ws):
    data = {"text/html": SCRIPT, "image/svg+xml": f"<svg>{SCRIPT}</svg>", "application/javascript": "alert(1)"}
    error = nbformat.v4.new_output("stream", name="stderr", text=SCRIPT)
    book(ws, nbformat.v4.new_output("display_data", data=data), error)
    html = write_report(ws).read_text(encoding="utf-8")
    assert "<script" not in html and "<svg" not in html and "alert(1)" in html
    assert html.count("&lt;script&gt;alert(1)&lt;/script&gt;") >= 1


@pytest.mark.parametrize("data", [[], "x", {"image/png": ["a"]}, {"image/png": {"a": 1}}, None])
def test_malformed_outputs_do_not_end_the_report(ws, data):
    path = book(ws)
    notebook = json.loads(path.read_text(encoding="utf-8"))
    notebook["cells"][-1]["outputs"] = [{"output_type": "display_data", "data": data, "metadata": {}}]
    path.write_text(json.dumps(notebook), encoding="utf-8")
    assert "<h2>Parameters" in write_report(ws).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "text", ["", "{", "[" * 200_000, "[]", "1", '{"cells": 1, "nbformat": 4, "nbformat_minor": 5}']
)
def test_a_broken_notebook_is_said_and_not_shown(ws, text):
    path = ws.path_of("notebooks/03_clustering.ipynb")
    path.parent.mkdir(exist_ok=True)
    path.write_text(text, encoding="utf-8")
    html = write_report(ws).read_text(encoding="utf-8")
    assert "Not shown: it cannot be read as a notebook" in html and "<h2>Parameters" in html


@links
def test_a_notebook_that_is_a_link_out_is_not_shown(ws, tmp_path):
    path = book(ws, nbformat.v4.new_output("stream", name="stderr", text="secret"))
    os.replace(path, tmp_path / "secret.ipynb")
    path.symlink_to(tmp_path / "secret.ipynb")
    html = write_report(ws).read_text(encoding="utf-8")
    assert "secret" not in html and "is a link out of the folder" in html


def test_a_gigantic_notebook_is_not_shown(ws, monkeypatch):
    book(ws, nbformat.v4.new_output("stream", name="stderr", text="long"))
    monkeypatch.setattr(report, "MAX_NOTEBOOK", 10)
    assert "at most 10 are read" in write_report(ws).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "metrics",
    [
        {"table": [{"arm": {}, "task": [], "value": 1}]},
        {"routing": 10**400},
        {"table": [{"arm": "a", "task": "t", "value": 10**400}]},
    ],
)
def test_metrics_that_no_run_writes_are_one_clear_error(ws, metrics):
    write_json(ws.path_of("metrics.json"), metrics)
    with pytest.raises(WorkspaceError, match="the report cannot be made of what the run holds"):
        write_report(ws)


def test_the_page_escapes_every_name(ws):
    table = [{"arm": SCRIPT, "task": SCRIPT, "value": 1.0}]
    write_json(ws.path_of("metrics.json"), {SCRIPT: {SCRIPT: SCRIPT}, "table": table})
    notes = {SCRIPT: {"status": SCRIPT, "message": SCRIPT, "seconds": SCRIPT}}
    entries = {SCRIPT: {"sha256": SCRIPT, "notebook": SCRIPT, "parents": [SCRIPT]}}
    change(ws, profile=SCRIPT, created=SCRIPT, versions={SCRIPT: SCRIPT}, notebooks=notes, artifacts=entries)
    change(ws, parameters={"data": SCRIPT, SCRIPT: SCRIPT})
    html = write_report(ws).read_text(encoding="utf-8")
    assert "<script" not in html and html.count("&lt;script&gt;") > 10


def test_the_terminal_gets_plain_text(capsys):
    print_table(["[/red]"], [["[bold]a[/nothing]"], ["\x1b]0;title\x07\x1b[31mred"]])
    out = capsys.readouterr().out
    assert "[bold]a[/nothing]" in out and "[/red]" in out and "\x1b" not in out and "\x07" not in out
