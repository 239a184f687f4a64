"""Make the Chinese edition of the notebooks: ``python notebooks/make_chinese.py``.

``chinese/texts/NN_name.yaml`` holds the text of each Markdown cell side by side: ``id``, ``en`` (exactly the notebook's
cell, without its badge) and ``zh``. From it and the English notebook this script writes ``chinese/NN_name.ipynb``: the
same cells, code, metadata and stored outputs, the text in Chinese. The notebooks of that folder are never edited by
hand: a test compares them with what this script makes. Where a text has changed in English the script writes nothing
and says which; ``--update`` takes the new English into the YAML and marks the cell's Chinese as to be translated.

Links are written in ``zh`` as in ``en``, as seen from ``notebooks/``; here they become those of the other folder. A
paragraph of ``zh`` is one line, since a line break would be shown as a blank between two characters.

Terms, so that all chapters use the same:

==================  ==============  ==================  ==============  ==================  ==============
record              记录            source, desk        来源、部门      house               机构
instruction         指令            input / output      输入 / 输出     task                任务
embedding           嵌入            encoder             编码器          semantic space      语义空间
cluster             簇              centroid            质心            neighbour           邻居、近邻
radius              半径            core distance       核心距离        noise               噪声
density             密度            thinning            稀疏化          to represent        代表
budget, places      配额、名额      pool                候选池          selection, choice   选择
relevance           相关性          diversity           多样性          weight              权重
near copies         近似重复        control             对照            referee             裁判
base model          基座模型        expert              专家            adapter             适配器
loss                损失            held out            留出            router, to route    路由
margin              分差            to abstain          弃权            threshold           阈值
interval            置信区间        learning curve      学习曲线        random draw         随机抽取
==================  ==============  ==================  ==============  ==================  ==============
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).resolve().parent
TEXTS = FOLDER / "chinese" / "texts"
TO_DO = "（待翻译）"
BADGE = "<!-- badge -->"
"""How the line ends that ``assl badge`` writes below the title."""
_LINK = re.compile(r"(?<=\]\()([^)\s]+)(?=\))")


class Outdated(Exception):
    """The YAML is not of these cells: one line for each."""


def chapters() -> list[Path]:
    """The English notebooks."""
    return sorted(FOLDER.glob("[0-9][0-9]_*.ipynb"))


def without_badge(source: str) -> str:
    """A cell without the line of ``assl badge``.

    Examples
    --------
    >>> without_badge("# 01\\n\\n[![Open in Colab](a)](b) <!-- badge -->\\n\\nText.")
    '# 01\\n\\nText.'
    """
    return re.sub(rf"^.*{re.escape(BADGE)}\n\n?", "", source, count=1, flags=re.MULTILINE)


def moved(target: str) -> str:
    """A link as seen from ``notebooks/``, as it must be in ``notebooks/chinese/``.

    Examples
    --------
    >>> moved("../docs/glossary.md"), moved("exercises/01_data.ipynb"), moved("https://arxiv.org"), moved("#toy")
    ('../../docs/glossary.md', '../exercises/01_data.ipynb', 'https://arxiv.org', '#toy')
    >>> moved("02_embedding.ipynb"), moved("chinese/01_data.ipynb")  # the Chinese chapter; the other edition
    ('02_embedding.ipynb', '../01_data.ipynb')
    """
    if re.match(r"[a-z]+:|#", target) or re.match(r"\d\d_\w+\.ipynb", target):
        return target
    return f"../{target.removeprefix('chinese/')}"


def markdown_cells(book: dict[str, Any]) -> list[tuple[str, str]]:
    """Identity and text of each Markdown cell, without the badge."""
    cells = [cell for cell in book["cells"] if cell["cell_type"] == "markdown"]
    return [(cell["id"], without_badge("".join(cell["source"]))) for cell in cells]


def outdated(name: str, cells: list[tuple[str, str]], texts: list[dict[str, str]]) -> list[str]:
    """What is not as in the notebook, or not translated.

    Examples
    --------
    >>> texts = [{"id": "a", "en": "One", "zh": "一"}, {"id": "b", "en": "Two", "zh": ""}]
    >>> outdated("01_data", [("a", "One."), ("b", "Two")], texts)
    ['01_data, cell a: the English text has changed', '01_data, cell b: it is not translated']
    """
    problems = []
    known = {text["id"]: text for text in texts}
    for ident, source in cells:
        if ident not in known:
            problems.append(f"{name}, cell {ident}: it is new")
        elif known[ident]["en"] != source:
            problems.append(f"{name}, cell {ident}: the English text has changed")
        elif not known[ident]["zh"] or TO_DO in known[ident]["zh"]:
            problems.append(f"{name}, cell {ident}: it is not translated")
    here = [ident for ident, _ in cells]
    problems += [f"{name}, cell {ident}: the notebook has no such cell" for ident in known if ident not in here]
    if not problems and [text["id"] for text in texts] != here:
        problems.append(f"{name}: the cells stand in another order")
    return problems


def chinese(book: dict[str, Any], texts: list[dict[str, str]], name: str = "") -> dict[str, Any]:
    """The Chinese edition of a notebook, which itself stays as it is.

    Raises
    ------
    Outdated
        If a text is not the notebook's, or not translated.
    """
    if problems := outdated(name, markdown_cells(book), texts):
        raise Outdated("\n".join(problems))
    made = json.loads(json.dumps(book))
    translated = {text["id"]: text["zh"] for text in texts}
    for cell in made["cells"]:
        if cell["cell_type"] != "markdown":
            continue
        source = _LINK.sub(lambda link: moved(link[1]), translated[cell["id"]])
        if badge := re.search(rf"^.*{re.escape(BADGE)}$", "".join(cell["source"]), re.MULTILINE):
            title, rest = source.split("\n\n", 1)
            line = badge[0].replace("/notebooks/", "/notebooks/chinese/")
            source = f"{title}\n\n{line}\n\n{rest}"
        cell["source"] = source.splitlines(keepends=True)
    return made


def updated(cells: list[tuple[str, str]], texts: list[dict[str, str]]) -> list[dict[str, str]]:
    """The texts with the notebook's English; what was translated from another English is marked.

    Examples
    --------
    >>> updated([("a", "One."), ("b", "Two")], [{"id": "a", "en": "One", "zh": "一"}])
    [{'id': 'a', 'en': 'One.', 'zh': '（待翻译）\\n一'}, {'id': 'b', 'en': 'Two', 'zh': '（待翻译）'}]
    """
    known = {text["id"]: text for text in texts}
    new = []
    for ident, source in cells:
        old = known.get(ident, {"en": "", "zh": ""})
        zh = old["zh"]
        if old["en"] != source and TO_DO not in zh:
            zh = f"{TO_DO}\n{zh}".rstrip()
        new.append({"id": ident, "en": source, "zh": zh})
    return new


def as_yaml(name: str, texts: list[dict[str, str]]) -> str:
    """The file of a chapter's texts, block by block, as a translator reads them."""
    lines = [f"# notebooks/{name}.ipynb in both languages; notebooks/make_chinese.py says how this is used."]
    for text in texts:
        lines += ["", f"- id: {text['id']}"]
        for language in ("en", "zh"):
            lines.append(f"  {language}: |-")
            lines += [f"    {line}" if line else "" for line in text[language].split("\n")]
    return "\n".join(lines) + "\n"


def read_texts(name: str) -> list[dict[str, str]]:
    """A chapter's texts; none if there is no file yet."""
    path = TEXTS / f"{name}.yaml"
    read: list[dict[str, str]] = yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else []
    return [{key: str(value) for key, value in text.items()} for text in read]


def as_notebook(book: dict[str, Any]) -> str:
    """A notebook's file, as Jupyter writes it."""
    return json.dumps(book, ensure_ascii=False, indent=1) + "\n"


def main(arguments: list[str]) -> int:
    """Write all of the edition, or nothing where a text is outdated; return the exit code."""
    if arguments not in ([], ["--update"]):
        print("usage: python notebooks/make_chinese.py [--update]")
        return 2
    books = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in chapters()}
    if arguments:
        for name, book in books.items():
            content = as_yaml(name, updated(markdown_cells(book), read_texts(name)))
            (TEXTS / f"{name}.yaml").write_text(content, encoding="utf-8", newline="\n")
    problems, made = [], {}
    for name, book in books.items():
        try:
            made[name] = chinese(book, read_texts(name), name)
        except Outdated as error:
            problems.append(str(error))
    if problems:
        print(*problems, sep="\n")
        print("No notebook is written.")
        if not arguments:
            print("Take the English over: make chinese ARGS=--update (python notebooks/make_chinese.py --update).")
        print(f"Translate in {TEXTS.relative_to(FOLDER.parent).as_posix()}/ what is marked {TO_DO}, then: make chinese")
        return 1
    for name, book in made.items():
        (FOLDER / "chinese" / f"{name}.ipynb").write_text(as_notebook(book), encoding="utf-8", newline="\n")
        print(f"chinese/{name}.ipynb")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
