"""The workspace: whole artifacts, a manifest that notices change, names that stay inside."""

from __future__ import annotations

import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import pandas as pd
import pytest
from helpers.hostile import links

from assl_kit.artifacts.parameters import resolve
from assl_kit.artifacts.workspace import Workspace, project_root, runs_folder
from assl_kit.common.files import write_json
from assl_kit.errors import ParameterError, WorkspaceError


@pytest.fixture
def ws(tmp_path):
    return Workspace.open(tmp_path / "runs" / "one")


def test_tables_and_json_come_back_as_they_were(ws):
    frame = pd.DataFrame({"id": ["甲", "乙"], "x": [1.5, 2.5]})
    with ws.writing("t.parquet") as temporary:
        frame.to_parquet(temporary, index=False)
    write_json(ws.path_of("j.json"), {"名": [1, 2]})
    pd.testing.assert_frame_equal(ws.table("t.parquet"), frame)
    assert ws.json("j.json") == {"名": [1, 2]}


def test_an_artifact_is_current_until_its_key_or_its_bytes_change(ws):
    write_json(ws.path_of("a.json"), 1)
    assert not ws.is_current("a.json", "k") and "a.json" not in ws.manifest()["artifacts"]
    ws.commit(
        "a.json", key="k", parents=["b"], parameters={"seed": 1}, seconds=1.234, peak_memory_mb=99.6, notebook="01"
    )
    entry = ws.manifest()["artifacts"]["a.json"]
    assert entry | {"sha256": ""} == {
        "sha256": "",
        "key": "k",
        "parents": ["b"],
        "parameters": {"seed": 1},
        "seconds": 1.23,
        "peak_memory_mb": 100,
        "notebook": "01",
    }
    assert ws.is_current("a.json", "k") and ws.manifest()["artifacts"]["a.json"]["key"] == "k"
    assert not ws.is_current("a.json", "other")
    ws.path_of("a.json").write_text("2", encoding="utf-8")
    assert not ws.is_current("a.json", "k")


def test_a_folder_is_an_artifact_too(ws):
    with ws.writing("experts") as folder:
        folder.mkdir()
        (folder / "bank.json").write_text("{}", encoding="utf-8")
    ws.commit("experts", key="k")
    assert ws.is_current("experts", "k")
    (ws.path_of("experts") / "more.txt").write_text("x", encoding="utf-8")
    assert not ws.is_current("experts", "k")


def test_a_failed_write_leaves_the_old_artifact_and_no_rest(ws):
    write_json(ws.path_of("a.json"), "old")
    with pytest.raises(RuntimeError), ws.writing("a.json") as temporary:
        temporary.write_text('"ne', encoding="utf-8")
        raise RuntimeError
    assert ws.json("a.json") == "old"
    assert os.listdir(ws.folder) == ["a.json"]


@pytest.mark.parametrize("name", ["", "/etc/passwd", "../a", "a/../../b", "a\\b", "c:x", "a\0b"])
def test_names_that_lead_out_are_refused(ws, name):
    with pytest.raises(WorkspaceError):
        ws.path_of(name)


@links
def test_a_link_that_leads_out_is_refused(ws, tmp_path):
    ws.folder.mkdir(parents=True)
    (tmp_path / "secret.json").write_text("1", encoding="utf-8")
    (ws.folder / "link.json").symlink_to(tmp_path / "secret.json")
    with pytest.raises(WorkspaceError, match="through a link"):
        ws.json("link.json")


def test_a_missing_artifact_and_a_damaged_one_are_named(ws):
    with pytest.raises(WorkspaceError, match="there is no records.parquet yet"):
        ws.table("records.parquet")
    ws.folder.mkdir(parents=True)
    ws.path_of("records.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(WorkspaceError, match="records.parquet cannot be read"):
        ws.table("records.parquet")
    with pytest.raises(WorkspaceError, match="there is no x.json yet"):
        ws.commit("x.json", key="k")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not valid JSON"),
        ("[]", "not format 1"),
        ('{"format": 9}', "not format 1"),
        ('{"format": 1, "artifacts": []}', "not a mapping"),
    ],
)
def test_a_damaged_manifest_is_refused_when_the_workspace_is_opened(tmp_path, text, message):
    (tmp_path / "manifest.json").write_text(text, encoding="utf-8")
    with pytest.raises(WorkspaceError, match=message.replace("not format", "has not format")):
        Workspace.open(tmp_path)


def test_a_file_is_no_workspace(tmp_path):
    (tmp_path / "x").write_text("", encoding="utf-8")
    with pytest.raises(WorkspaceError, match="not a folder"):
        Workspace.open(tmp_path / "x")


def test_the_default_place(monkeypatch, tmp_path):
    monkeypatch.setenv("ASSL_WORKSPACE", str(tmp_path / "given"))
    assert Workspace.open().folder == (tmp_path / "given").resolve()
    monkeypatch.delenv("ASSL_WORKSPACE")
    deep = tmp_path / "project" / "notebooks"
    deep.mkdir(parents=True)
    (tmp_path / "project" / "pyproject.toml").write_text('[project]\nname = "assl-kit"\n', encoding="utf-8")
    monkeypatch.chdir(deep)
    assert project_root() == (tmp_path / "project").resolve()
    assert Workspace.open().folder == (tmp_path / "project" / "runs" / "lab").resolve()
    monkeypatch.chdir(tmp_path)
    assert runs_folder() == Path.cwd() / "runs"
    monkeypatch.setenv("ASSL_RUNS", str(tmp_path / "elsewhere"))
    assert runs_folder() == (tmp_path / "elsewhere").resolve()
    assert Workspace.open().folder == (tmp_path / "elsewhere" / "lab").resolve()


def test_shown_paths_are_never_absolute(ws, tmp_path):
    assert ws.display_path() == "runs/one"
    assert ws.display_path("experts/bank.json") == "runs/one/experts/bank.json"
    assert Workspace(tmp_path / "alone").display_path("a.json") == "alone/a.json"
    assert repr(ws) == "Workspace('runs/one')"


def test_the_manifest_says_what_made_it(ws):
    ws.parameters("tiny")
    manifest = json.loads((ws.folder / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["format"] == 1 and manifest["profile"] == "tiny"
    assert {"python", "assl-kit", "torch", "numpy"} <= set(manifest["versions"])
    created = "2020-01-01T00:00:00+00:00"  # long ago
    assert manifest["created"] > created
    write_json(ws.path_of("manifest.json"), manifest | {"created": created})
    write_json(ws.path_of("a.json"), 1)
    ws.commit("a.json", key="k")
    assert ws.manifest()["created"] == created


def test_an_entry_that_comes_while_another_is_written_is_kept(ws, monkeypatch):
    other, read, began = Workspace.open(ws.folder), ws.manifest, Event()

    def manifest():
        values = read()
        began.set()
        time.sleep(0.3)  # meanwhile the other must wait
        return values

    monkeypatch.setattr(ws, "manifest", manifest)
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(ws.update_manifest, "notebooks", {"00_a": {"status": "done"}})
        began.wait()
        other.update_manifest("notebooks", {"01_b": {"status": "done"}})
        slow.result()
    assert set(other.manifest()["notebooks"]) == {"00_a", "01_b"}


def test_parameters_are_remembered_for_a_notebook_opened_alone(ws):
    assert ws.parameters("tiny", n_clusters=4, seed=7).n_clusters == 4
    later = Workspace.open(ws.folder).parameters("tiny", seed=8)
    assert (later.n_clusters, later.seed) == (4, 8)
    assert ws.current_parameters() == later


def test_another_profile_forgets_and_values_left_at_the_default_follow_it(ws):
    ws.parameters("tiny", n_clusters=4)
    other = ws.parameters("cpu-llm", base_model="tiny", epochs=7)
    assert other == resolve("cpu-llm", epochs=7)
    assert other.n_clusters == 6


def test_a_run_of_another_profile_may_go_back_to_a_tiny_value(ws):
    ws.remember("cpu-llm", resolve("cpu-llm", base_model="tiny"))
    assert ws.parameters("cpu-llm", base_model="tiny").base_model == "tiny"


def test_wrong_parameters_are_refused_and_not_remembered(ws):
    with pytest.raises(ParameterError, match="Did you mean 'seed'"):
        ws.parameters("tiny", sead=1)
    with pytest.raises(ParameterError, match="n_select must be a whole number"):
        ws.parameters("tiny", n_select="abc")
    with pytest.raises(ParameterError, match="n_select must be a whole number"):
        ws.parameters("t4", n_select="abc")
    assert ws.manifest()["parameters"] == {}
    with pytest.raises(WorkspaceError, match="no parameters yet"):
        ws.current_parameters()


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"notes.json": {"sha256": "0", "parents": [True]}}, "the parents of 'notes.json' in the manifest are no list"),
        ({"notes.json": {"sha256": "0", "parents": "a"}}, "the parents of 'notes.json' in the manifest are no list"),
        ({"n" * 300: {"sha256": "0", "key": "k"}}, "is no name of a file"),
        ({"长" * 90: {"sha256": "0", "key": "k"}}, "is no name of a file"),
        ({"\ud800": {"sha256": "0", "key": "k"}}, "is no name of a file"),
    ],
)
def test_a_manifest_of_odd_names_is_one_clear_error(tmp_path, entry, message):
    """What fuzzing found."""
    (tmp_path / "manifest.json").write_text(json.dumps({"format": 1, "artifacts": entry}), encoding="utf-8")
    with pytest.raises(WorkspaceError, match=message):
        Workspace(tmp_path).is_current(next(iter(entry)), "k")
