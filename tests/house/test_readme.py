"""The READMEs, English and Chinese: the same page, nothing cut, and no question that the experts answer wrongly."""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path

import pytest
import yaml
from helpers import ROOT

from assl_kit.app.chat import EXAMPLES

ENGLISH, CHINESE = ROOT / "README.md", ROOT / "README.zh-CN.md"
BOTH = pytest.mark.parametrize("path", [ENGLISH, CHINESE], ids=lambda path: path.name)
PAGES = [path for folder in (".", "docs", "colab", "benchmarks") for path in sorted((ROOT / folder).glob("*.md"))]
WIDEST = 80  #: columns that a code box shows at 1,000 px; a Chinese character takes two
LINK = re.compile(r"(!?)\[(?:[^\[\]]|\[[^\]]*\])*\]\(([^)\s]+)\)")
CODE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def width(line: str) -> int:
    return sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in line)


def outline(text: str) -> list[int]:
    """The levels of the headings, in order."""
    return [len(marks) for marks in re.findall(r"^(#+) ", CODE.sub("", text), re.MULTILINE)]


def without_comments(code: str) -> list[str]:
    return [line.split("  #")[0].rstrip() for line in code.splitlines()]


# the two pages --------------------------------------------------------------------------------------------------------
def test_a_character_of_chinese_takes_two_columns():
    assert width("a 情绪") == 6 and width("x" * 80) == 80


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_line_of_a_code_box_is_cut(path):
    boxes = CODE.findall(text_of(path))
    assert len(boxes) >= 5 or path not in (ENGLISH, CHINESE)
    assert [line for _, box in boxes for line in box.splitlines() if width(line) > WIDEST] == []


@BOTH
def test_every_link_leads_to_a_file_and_every_anchor_to_a_heading(path):
    for _, target in LINK.findall(text_of(path)):
        if target.startswith("https:"):
            continue
        name, _, anchor = target.partition("#")
        assert (ROOT / name).exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.+)$", text_of(ROOT / name), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_both_are_the_same_page():
    english, chinese = text_of(ENGLISH), text_of(CHINESE)
    assert outline(english) == outline(chinese)

    def links(text: str, other: str, mark: str) -> list[str]:
        """Where a page leads; a chapter in Chinese stands for the chapter."""
        targets = [target for kind, target in LINK.findall(text) if kind == mark and target != other]
        return sorted(target.replace("notebooks/chinese/", "notebooks/") for target in targets)

    for mark in ("", "!"):
        assert links(english, CHINESE.name, mark) == links(chinese, ENGLISH.name, mark)
    assert f"({CHINESE.name})" in english.split("##")[0] and f"({ENGLISH.name})" in chinese.split("##")[0]
    boxes = [[(kind, without_comments(box)) for kind, box in CODE.findall(text)] for text in (english, chinese)]
    assert boxes[0] == boxes[1]
    for sign in ("| ", "- "):
        assert len(re.findall(rf"^{re.escape(sign)}", english, re.MULTILINE)) == len(
            re.findall(rf"^{re.escape(sign)}", chinese, re.MULTILINE)
        )


def test_no_chinese_sentence_is_broken_by_a_line():
    """A page shows the end of a line as a space, which Chinese does not have."""
    text = CODE.sub("", text_of(CHINESE))
    assert re.findall(r"[\u3000-\u9fff\uff00-\uffef]\n *[\u3000-\u9fff\uff00-\uffef\w`\[]", text) == []


def test_the_pictures_are_small_and_described():
    pictures = re.findall(r"!\[([^\]]*)\]\(([^)]+)\)", text_of(ENGLISH))
    assert any(target.endswith((".webp", ".gif")) for _, target in pictures)
    for words, target in pictures:
        assert len(words) > 20 and (ROOT / target).stat().st_size <= 1_500_000


def test_the_readme_is_read_in_two_minutes():
    words = re.findall(r"[A-Za-z]{2,}", CODE.sub("", text_of(ENGLISH)))
    assert len(words) < 1_200, "move the longer passages into docs/"


# the questions --------------------------------------------------------------------------------------------------------
QUESTIONS = yaml.safe_load((ROOT / "tests" / "experts" / "sixty_questions.yaml").read_text(encoding="utf-8"))
ASKED = [question for pair in QUESTIONS["pairs"] for question in pair] + QUESTIONS["plain"]
RIGHT = {question["ask"]: question.get("right") for question in ASKED}
FORM = re.compile(r'(?:assl ask|client\.py|(?:generate|route|stream)\(\[?|question =)\s*\\?"([^"\\]+)')
#: A question in a box whose answer is told: "…"  # … → 积极
ANSWERED = re.compile(r'"([^"\\]*[\u4e00-\u9fff][^"\\]*)".*→ ([\u4e00-\u9fff]+)')


def suggesting() -> list[Path]:
    """The pages and programs in which somebody is told what to ask."""
    return [*PAGES, *(ROOT / "colab").glob("*.ipynb"), *(ROOT / "assl_kit").rglob("*.py"), ROOT / "llms.txt"]


def suggested(text: str) -> list[str]:
    return [question for question in FORM.findall(text) if re.search(r"[\u4e00-\u9fff]", question)]


def test_a_suggested_question_is_seen():
    lines = ['assl ask "甲？" -v', '>>> s.generate(["乙？"])', r'"question = \"丙？\"  # @param"', 's.stream("丁？")']
    assert suggested("\n".join([*lines, "s.route([text])", 's.generate(["…"])'])) == ["甲？", "乙？", "丙？", "丁？"]


def test_every_question_that_is_suggested_is_one_of_those_that_are_tested():
    questions = {path.relative_to(ROOT).as_posix(): suggested(text_of(path)) for path in suggesting()}
    for page in (ENGLISH.name, CHINESE.name, "docs/serving.md", "docs/batch.md", "colab/run_all.ipynb"):
        assert questions[page]
    assert {(page, text) for page, texts in questions.items() for text in texts if text not in RIGHT} == set()
    assert set(EXAMPLES) <= {*RIGHT, *QUESTIONS["foreign"]}


def test_an_answer_that_is_told_is_a_right_one():
    answers = [(path.name, *both) for path in PAGES for both in ANSWERED.findall(text_of(path))]
    assert len(answers) >= 6
    assert [(name, ask, answer) for name, ask, answer in answers if answer not in (RIGHT[ask] or [])] == []


@BOTH
def test_the_news_is_turned_round_beside_it(path):
    pairs = [{question["ask"] for question in pair} for pair in QUESTIONS["pairs"]]
    assert set(suggested(text_of(path))) in pairs
