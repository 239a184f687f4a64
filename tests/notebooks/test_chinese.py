"""The Chinese edition: the cells, code, outputs, links and formulas of the English one, and every text translated."""

from __future__ import annotations

import doctest
import importlib.util
import json
import re
import shutil
from pathlib import Path

import pytest
import yaml
from helpers import ROOT
from markdown_it import MarkdownIt

from assl_kit.app.badge import badge_line, write_badges

FOLDER = ROOT / "notebooks"
CHAIN = sorted(FOLDER.glob("[0-9][0-9]_*.ipynb"))
FORMULA = re.compile(r"\$\$.+?\$\$|\$[^$\n]+\$", re.DOTALL)
SPAN = re.compile(r"`[^`\n]+`")
LINK = re.compile(r"\]\(([^)\s]+)\)")
in_chain = pytest.mark.parametrize("path", CHAIN, ids=lambda path: path.stem)


def loaded(folder: Path):
    spec = importlib.util.spec_from_file_location("make_chinese", folder / "make_chinese.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def script():
    return loaded(FOLDER)


def read(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def pairs(path: Path) -> list[tuple[str, str, str]]:
    """Identity and text of each Markdown cell in both editions, as they are committed."""
    english, chinese = (read(file)["cells"] for file in (path, FOLDER / "chinese" / path.name))
    both = zip(english, chinese, strict=True)
    return [(a["id"], "".join(a["source"]), "".join(b["source"])) for a, b in both if a["cell_type"] == "markdown"]


def tags(text: str) -> dict[str, int]:
    """How often each element comes that the reader sees as a structure; emphasis may differ."""
    names = [token.tag for token in tokens(text) if token.tag and token.nesting >= 0]
    names += re.findall(r"</?details>|</?summary>", text)
    return {name: names.count(name) for name in names if name not in ("em", "strong", "p", "br")}


def tokens(text: str) -> list:
    blocks = MarkdownIt("commonmark").enable("table").parse(FORMULA.sub("formula", text))
    return [part for block in blocks for part in [block, *(block.children or [])]]


@in_chain
def test_what_is_committed_is_what_the_script_makes(path, script):
    made = script.as_notebook(script.chinese(read(path), script.read_texts(path.stem), path.stem))
    stored = (FOLDER / "chinese" / path.name).read_text(encoding="utf-8")
    assert stored == made, "the edition is never edited by hand: run python notebooks/make_chinese.py"


def test_every_chapter_has_its_texts_and_nothing_else_is_there(script):
    names = [path.stem for path in CHAIN]
    assert [path.stem for path in sorted((FOLDER / "chinese").glob("*.ipynb"))] == names
    assert [path.stem for path in sorted(script.TEXTS.iterdir())] == names
    for name in names:
        file = (script.TEXTS / f"{name}.yaml").read_text(encoding="utf-8")
        assert file == script.as_yaml(name, script.read_texts(name)), f"{name}: run make_chinese.py --update"


@in_chain
def test_the_english_beside_a_translation_is_the_notebooks(path, script):
    texts = yaml.safe_load((script.TEXTS / f"{path.stem}.yaml").read_text(encoding="utf-8"))
    cells = [cell for cell in read(path)["cells"] if cell["cell_type"] == "markdown"]
    english = [(cell["id"], script.without_badge("".join(cell["source"]))) for cell in cells]
    assert [(text["id"], text["en"]) for text in texts] == english, "run make_chinese.py --update, then translate"


@in_chain
def test_both_editions_have_the_same_cells_code_and_outputs(path):
    english, chinese = read(path), read(FOLDER / "chinese" / path.name)
    assert {key: english[key] for key in english if key != "cells"} == {
        key: chinese[key] for key in chinese if key != "cells"
    }
    for a, b in zip(english["cells"], chinese["cells"], strict=True):
        texts = [cell.pop("source") if cell["cell_type"] == "markdown" else None for cell in (a, b)]
        assert a == b, a["id"]
        assert texts[0] is None or texts[0] != texts[1], a["id"]


@in_chain
def test_both_editions_have_the_same_structure_formulas_and_names(path):
    for ident, english, chinese in pairs(path):
        assert tags(english) == tags(chinese), ident
        for pattern in (FORMULA, SPAN):
            assert sorted(pattern.findall(english)) == sorted(pattern.findall(chinese)), ident


@in_chain
def test_both_editions_lead_to_the_same_places(path):
    for ident, english, chinese in pairs(path):
        wanted, there = [], []
        for target in LINK.findall(english):
            place = (FOLDER / target).resolve()
            if place.parent in (FOLDER, FOLDER / "chinese") and place.suffix == ".ipynb":
                place = (FOLDER if place.parent.name == "chinese" else FOLDER / "chinese") / place.name
            wanted.append(target if re.match(r"[a-z]+:|#", target) else place.as_posix())
        for target in LINK.findall(chinese):
            place = (FOLDER / "chinese" / target.partition("#")[0]).resolve()
            outside = re.match(r"[a-z]+:|#", target)
            assert outside or place.exists(), (ident, target)
            there.append(target if outside else (FOLDER / "chinese" / target).resolve().as_posix())
        assert sorted(wanted) == sorted(there), ident
    first = pairs(path)[0]
    assert f"[中文](chinese/{path.name})" in first[1] and f"[English](../{path.name})" in first[2]


@in_chain
def test_every_text_is_translated_and_its_emphasis_is_shown(path):
    """A mark of emphasis between a sign and a Chinese character would be shown as asterisks."""
    for ident, english, chinese in pairs(path):
        said = SPAN.sub("", FORMULA.sub("", LINK.sub("", chinese)))
        assert re.search(r"[\u4e00-\u9fff]", said) or not re.search(r"[A-Za-z]", english), ident
        left = re.search(r"(?:[A-Za-z'-]+[ ,.]+){6}[A-Za-z]+", said)
        assert not left, (ident, left)
        assert not re.search(r"[\u4e00-\u9fff\uff0c]\n[\u4e00-\u9fff]", chinese), (ident, "a line break is a blank")
        shown = "".join(token.content for token in tokens(chinese) if token.type == "text")
        assert "*" not in shown and "<" not in shown, (ident, shown)


def test_the_examples_of_the_script_hold(script):
    assert doctest.testmod(script).failed == 0
    assert sum(bool(test.examples) for test in doctest.DocTestFinder().find(script)) >= 4


@pytest.fixture
def copied(tmp_path, monkeypatch):
    """A checkout's notebooks in a folder of their own, with the script that works on them."""
    for name in ("README.md", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path / name)
    shutil.copytree(FOLDER, tmp_path / "notebooks", ignore=shutil.ignore_patterns(".ipynb_checkpoints"))
    monkeypatch.chdir(tmp_path)
    return loaded(tmp_path / "notebooks")


def test_a_changed_text_is_refused_until_it_is_translated(copied, capsys):
    path = copied.FOLDER / "01_data.ipynb"
    target = copied.FOLDER / "chinese" / path.name
    assert copied.main([]) == 0 and copied.main(["--what"]) == 2
    before, book = target.read_bytes(), read(path)
    cells = [cell for cell in book["cells"] if cell["cell_type"] == "markdown"]
    cells[4]["source"] = ["Another `text`."]
    path.write_text(copied.as_notebook(book), encoding="utf-8")
    capsys.readouterr()

    assert copied.main([]) == 1
    said = capsys.readouterr().out
    assert f"01_data, cell {cells[4]['id']}: the English text has changed\n" in said and "--update" in said
    assert said.count(", cell ") == 1 and target.read_bytes() == before

    assert copied.main(["--update"]) == 1 and f"cell {cells[4]['id']}: it is not tr" in capsys.readouterr().out
    texts = {text["id"]: text for text in copied.read_texts("01_data")}
    assert texts[cells[4]["id"]]["en"] == "Another `text`." and texts[cells[4]["id"]]["zh"].startswith(copied.TO_DO)
    assert target.read_bytes() == before
    assert copied.main(["--update"]) == 1, "still marked"

    texts[cells[4]["id"]]["zh"] = "另一段 `text`。"
    (copied.TEXTS / "01_data.yaml").write_text(copied.as_yaml("01_data", list(texts.values())), encoding="utf-8")
    assert copied.main([]) == 0 and "另一段 `text`。" in target.read_text(encoding="utf-8")

    del book["cells"][book["cells"].index(cells[4])]
    path.write_text(copied.as_notebook(book), encoding="utf-8")
    assert copied.main([]) == 1 and "the notebook has no such cell" in capsys.readouterr().out
    assert copied.main(["--update"]) == 0, "a cell that is gone leaves nothing to translate"


def test_a_badge_is_that_of_the_chinese_notebook(copied):
    write_badges("some-one/kit")
    target = copied.FOLDER / "chinese" / "05_mmr.ipynb"
    written = target.read_bytes()
    assert badge_line("some-one/kit", "notebooks/chinese/05_mmr.ipynb") in written.decode("utf-8")
    target.unlink()
    assert copied.main([]) == 0 and target.read_bytes() == written, "as the command has written it"
