"""docs/glossary.md agrees with the embedded corpus, its measures and the notebooks."""

from __future__ import annotations

import re

import nbformat
import pytest
from helpers import ROOT

from assl_kit.data.grammar import lines_of
from assl_kit.data.synthetic import TASKS, make_corpus
from assl_kit.data.task_grammars import grammar_data, task_grammar
from assl_kit.evaluation.metrics import TASK_METRICS
from assl_kit.teaching.evidence import evidence_results

PAGE = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")
CHINESE = re.compile(r"[\u4e00-\u9fff]")


def rows(heading: str) -> list[list[str]]:
    """The table below a heading, without its head."""
    part = PAGE.split(f"## {heading}\n")[1].split("\n## ")[0]
    lines = [line for line in part.splitlines() if line.startswith("|")]
    cells = [[cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    assert len({len(row) for row in cells}) == 1 and all(all(row) for row in cells), heading
    return cells[2:]


def sources() -> dict[str, str]:
    """The text of each chapter's cells, by its number."""
    paths = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
    return {path.name[:2]: "\n".join(cell.source for cell in nbformat.read(path, as_version=4).cells) for path in paths}


def test_the_tasks_are_those_of_the_corpus():
    table = rows("Tasks")
    assert [row[0] for row in table] == [f"`{task}`" for task in TASKS]
    for task, (_, name, asked, metric, instruction, gloss) in zip(TASKS, table, strict=True):
        assert metric == f"`{TASK_METRICS[task]}`"
        assert instruction in task_grammar(task).instructions[False]
        assert CHINESE.search(name) and not CHINESE.search(asked + gloss)


@pytest.mark.parametrize("task", ["sentiment", "classification", "relation_extraction"])
def test_the_labels_are_those_of_the_grammar(task):
    data = grammar_data(task)
    if task == "sentiment":
        labels = [
            text for entry in [*data["sources"].values(), *data["natural"]] for text in entry.get("labels", {}).values()
        ]
    elif task == "classification":
        labels = [*lines_of(data["topics"]), *data["pages"]]
    else:
        labels = [side for frame in data["frames"] for side in frame["label"].split("=>")]
    known = {text.split("~")[0].strip() for text in labels}
    listed = [row[1] for row in rows("Labels") if row[0] == f"`{task}`"]
    assert len(listed) == len(set(listed)) and set(listed) == known
    assert {row[0].strip("`") for row in rows("Labels")} == {"sentiment", "classification", "relation_extraction"}


def test_the_words_come_in_the_corpus():
    records = make_corpus(2000)
    text = "\n".join(records["instruction"] + records["input"])
    words = [word for row in rows("Words that come again and again") for word in row[::2]]
    assert len(set(words)) == len(words)
    assert {word for word in words if text.count(word) < 20} == set()


def test_every_chinese_sentence_of_a_notebook_is_translated():
    listed = [(row[0], row[1]) for row in rows("Sentences in the notebooks")]
    found = []
    for number, source in sources().items():
        strings = re.findall(r'"([^"\n]*)"', source)
        found += [(number, text) for text in dict.fromkeys(strings) if CHINESE.search(text)]
    assert listed == found


def test_a_symbol_is_first_where_it_says():
    texts = sources()
    for symbol, name, meaning, first in rows("Symbols"):
        word = name.strip("`")
        whole = re.compile(rf"(?<!\w){re.escape(word)}(?!\w)" if word.isascii() else re.escape(word))
        has = [number for number, text in texts.items() if whole.search(text)]
        assert has and has[0] == first, (symbol, has)
        assert len(meaning) < 100


def test_the_public_tasks_are_those_of_the_evidence():
    measured = evidence_results()
    measured = measured[(measured["data"] == "CFLEB") & measured["seed"].notna()]
    names = set(measured.loc[measured["experiment"].isin(["selection", "experts"]), "task"]) - {"mean", "all"}
    assert {row[3].strip("`") for row in rows("Public tasks")} == names
