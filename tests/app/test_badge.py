"""The badge command: one line in each file, everything else as it was, nothing anywhere else."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import ROOT

from assl_kit.app.badge import MARK, badge_line, readme_line, write_badges
from assl_kit.app.cli import main
from assl_kit.errors import DataError, ParameterError, WorkspaceError

READMES = ("README.md", "README.zh-CN.md")


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A checkout's README, notebooks and colab/ in a folder of their own."""
    for name in (*READMES, "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path / name)
    for name in ("notebooks", "colab"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns(".ipynb_checkpoints"))
    for path in (*(tmp_path / name for name in READMES), *tmp_path.rglob("*.ipynb")):
        path.write_bytes(without_badge(path.read_bytes().decode("utf-8")).encode("utf-8"))
    monkeypatch.chdir(tmp_path / "notebooks")
    return tmp_path


def without_badge(text: str) -> str:
    """A file as it was before a maintainer wrote the badge."""
    text = re.sub(r'    "\[!\[Open in Colab\].*\n    "\\n",\n', "", text)
    text = re.sub(r"^\[!\[Open in Colab\].*$", MARK, text, flags=re.MULTILINE)
    text = re.sub(r" @ git\+https://github\.com/[^{}/]+?/[^{}/]+?(?=\\\")", "", text)
    return re.sub(r'package = \\"git\+https:.*?\\"(?=  # @param)', r'package = \\"assl-kit\\"', text)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def as_installed_from(repository: str, text: str) -> str:
    """A line of a notebook file, or its whole text, once the badge has been written."""
    source = f"git+https://github.com/{repository}"
    text = text.replace(r"\"assl-kit[colab,train]\"", rf"\"assl-kit[colab,train] @ {source}\"")
    return text.replace(r"package = \"assl-kit\"", rf"package = \"{source}\"")


def test_the_badge_and_what_is_installed_change_and_nothing_else(checkout):
    before = contents(checkout)
    changed = {path.as_posix() for path in write_badges("some-one/assl.kit")}
    after = contents(checkout)
    assert changed == {name for name in before if name.endswith(".ipynb")} | {*READMES}
    assert {name for name in before if before[name] != after[name]} == changed and after.keys() == before.keys()
    for name in changed:
        old, new = (text[name].decode("utf-8").splitlines() for text in (before, after))
        line = readme_line("some-one/assl.kit") if name in READMES else badge_line("some-one/assl.kit", name)
        assert sum(line in text for text in new) == 1 and sum(MARK in text for text in new) == 1
        rest = [text for text in new if line not in text]
        assert [text for text in rest if text.strip() not in ("", r'"\n",')] == [
            as_installed_from("some-one/assl.kit", text)
            for text in old
            if text.strip() not in ("", r'"\n",') and not text.endswith(MARK)
        ]


def test_the_readmes_badges_lead_to_what_is_in_the_repository():
    line = readme_line("a/b")
    assert (ROOT / ".github" / "workflows" / line.split("/actions/workflows/")[1].split("/")[0]).is_file()
    assert (ROOT / line.split("urlpath=lab/tree/")[1].split(")")[0]).is_file()
    assert (ROOT / line.split("/blob/main/")[1].split(")")[0]).is_file()


def test_a_notebook_keeps_its_outputs_and_begins_with_its_title(checkout):
    path = checkout / "notebooks" / "05_mmr.ipynb"
    old = json.loads(path.read_text(encoding="utf-8"))
    write_badges("a/b")
    new = json.loads(path.read_text(encoding="utf-8"))
    first = "".join(new["cells"][0]["source"]).split("\n\n")
    assert first[0].startswith("# ") and first[1] == badge_line("a/b", "notebooks/05_mmr.ipynb")
    assert "\n\n".join([first[0], *first[2:]]) == "".join(old["cells"][0]["source"])
    assert new["cells"][3:] == old["cells"][3:] and new["metadata"] == old["metadata"]
    install = "".join(new["cells"][2]["source"])
    assert '"assl-kit[colab,train] @ git+https://github.com/a/b"' in install and 'print("assl-kit", ' in install
    assert install == "".join(old["cells"][2]["source"]).replace("train]", "train] @ git+https://github.com/a/b")


def test_twice_is_once_and_another_name_replaces_the_first(checkout):
    write_badges("a/b")
    once = contents(checkout)
    assert write_badges("a/b") == [] and contents(checkout) == once
    write_badges("c/d")
    assert not any(b"github/a/b" in content for content in contents(checkout).values())
    write_badges("a/b")
    assert contents(checkout) == once


@pytest.mark.parametrize("indent", [1, 2, None])
@pytest.mark.parametrize("end", ["\n", "", "\r\n"])
@pytest.mark.parametrize("ascii_only", [True, False])
def test_any_form_of_the_file_is_kept(checkout, indent, end, ascii_only):
    path = checkout / "colab" / "run_all.ipynb"
    book = json.loads(path.read_text(encoding="utf-8"))
    book["cells"][0]["source"] = "".join(book["cells"][0]["source"])  # one string is allowed too
    text = json.dumps(book, indent=indent, ensure_ascii=ascii_only)
    written = (text.replace("\n", "\r\n") if end == "\r\n" else text) + end
    path.write_bytes(written.encode("utf-8"))
    write_badges("a/b")
    inserted = json.dumps("\n\n" + badge_line("a/b", "colab/run_all.ipynb"))[1:-1].encode()
    content = path.read_bytes()
    assert content.count(inserted) == 1
    assert content.replace(inserted, b"").decode("utf-8") == as_installed_from("a/b", written)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "repo",
        "a/b/c",
        "a/",
        "/b",
        "-a/b",
        "a b/c",
        "a/b c",
        "a/..",
        "a/b)",
        "https://github.com/a/b",
        "a/ü",
        "a/b\n",
    ],
)
def test_a_bad_name_is_refused(checkout, name):
    before = contents(checkout)
    with pytest.raises(ParameterError, match="no name of a repository. Give OWNER/REPO"):
        write_badges(name)
    assert contents(checkout) == before


def test_a_file_that_cannot_be_kept_stops_it_before_anything_is_written(checkout):
    before = contents(checkout)
    path = checkout / "notebooks" / "09_robustness.ipynb"
    for text, message in (("{", "not a notebook"), ('{"cells": []}', "not a notebook"), (None, "as Jupyter writes it")):
        path.write_bytes(before["notebooks/09_robustness.ipynb"].replace(b' "cells"', b'   "cells"', 1))
        if text:
            path.write_text(text, encoding="utf-8")
        with pytest.raises(DataError, match=message):
            write_badges("a/b")
        assert (checkout / "README.md").read_bytes() == before["README.md"]


def test_it_works_in_a_checkout_only(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(WorkspaceError, match="no checkout of assl-kit. Run this in the folder that 'git clone' made"):
        write_badges("a/b")


def test_the_command_lists_what_changed(checkout, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["assl", "badge", "a/b"])
    for expected in ("notebooks/05_mmr.ipynb", "Nothing to change."):
        with pytest.raises(SystemExit) as caught:
            main()
        assert not caught.value.code and expected in capsys.readouterr().out.splitlines()
    monkeypatch.setattr(sys, "argv", ["assl", "badge", "a"])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 2 and "no name of a repository" in capsys.readouterr().err


def test_exercises_made_after_the_badge_are_those_it_was_written_into(checkout):
    write_badges("a/b")
    before = contents(checkout / "notebooks" / "exercises")
    subprocess.run([sys.executable, checkout / "notebooks" / "make_exercises.py"], check=True)
    assert contents(checkout / "notebooks" / "exercises") == before
