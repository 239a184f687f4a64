"""CFLEB (BBT-FinCUGE) as it is published: its folders, its label names, our instructions."""

from __future__ import annotations

import json
import math
import re
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from assl_kit.common import limits
from assl_kit.common.limits import check_size, parse_json
from assl_kit.common.trust import inside
from assl_kit.errors import DataError

from ..readers import Pair
from ..records import LeftOut

#: Our wording of each task's instruction, by the benchmark's own name for the data set.
INSTRUCTIONS = {
    "finfe": "读一读这条股民留言，判断其情绪是积极、中性还是消极，只写类别。",
    "finne": "读一读这段财经新闻，判断它传达的情绪是积极、中性还是消极，只写类别。",
    "finna": "为这则财经消息拟一个标题，概括最要紧的内容。",
    "finnl": "这则财经快讯属于哪些类别？写出全部类别，用顿号隔开。",
    "finnsp": "材料里有没有对所列金融实体不利的消息？有则回答“是，实体名”，多个实体用分号隔开；没有则回答“否”。",
    "finre": "根据句子判断实体一对实体二是什么关系，看不出关系时写 unknown。",
    "finqa": "依据材料回答问题，只写答案。",
    "fincqa": "材料描述了一种因果关系，请依据材料回答问题，只写答案。",
    "finese": "找出材料中与所给事件类型相对应的主体，只写主体名称。",
    "finner": "列出材料中的实体，每个实体后用括号注明类别，用分号隔开；没有实体时写“无”。",
}

_SPLIT_WORDS = {"train": "train", "eval": "dev", "valid": "dev", "dev": "dev", "val": "dev", "test": "test"}
_ROOTS = ("", "DataSetThere", "FinCUGE_Publish")
_NO_ANSWER = ("", "nan", "none", "null", "na", "n/a", "<na>")
_HEADING = re.compile(r"[A-Za-z][A-Za-z _-]{0,29}")
_MOST_DAMAGED = 0.1
"""Share of damaged rows from which on a file is not of its task's layout (ours)."""

Answered = tuple[str, str, str]  #: the input of a record, its answer and its task


def _row(row: Any, width: int, name: str, place: str) -> list[str]:
    """The values of a row, as texts without outer white space."""
    if not isinstance(row, (list, tuple)) or len(row) != width:
        form = f"{len(row)} values" if isinstance(row, (list, tuple)) else type(row).__name__
        raise DataError(f"a {name} row must be a list of {width} values, this one is {form}", where=place)
    return ["" if value is None else str(value).strip() for value in row]


def _finna(row: Any, place: str) -> Answered:
    title, text = _row(row, 2, "FinNA", place)
    return text, title, "summarization"


def _finnl(row: Any, place: str) -> Answered:
    text, labels = _row(row, 2, "FinNL", place)
    return text, "、".join(labels.split()), "classification"


def _finnsp(row: Any, place: str) -> Answered:
    _, title, text, entities, negative, subjects = _row(row, 6, "FinNSP", place)
    body = text if not title or title[:30] == text[:30] else f"{title}\n{text}"
    named = [subject for subject in subjects.split(";") if subject.strip().lower() not in _NO_ANSWER]
    answer = "否" if negative in ("0", "0.0") else "是，" + "；".join(named)
    return f"材料：{body}\n实体：{entities.replace(';', '；')}", answer.rstrip("，"), "negative_news"


def _finre(row: Any, place: str) -> Answered:
    head, tail, relation, text = _row(row, 4, "FinRE", place)
    return f"句子：{text}\n实体一：{head}\n实体二：{tail}", relation, "relation_extraction"


def _finqa(row: Any, place: str) -> Answered:
    text, answer = _row(row, 2, "FinQA", place)
    cut = text.find("？") + 1  # the question comes first and is joined to its passage without a separator
    body = f"问题：{text[:cut]}\n材料：{text[cut:].strip()}" if 0 < cut < len(text) else text
    return body, answer, "qa"


def _finese(row: Any, place: str) -> Answered:
    _, text, event, subject = _row(row, 4, "FinESE", place)
    return f"材料：{text}\n事件类型：{event}", subject, "event_extraction"


def _finner(row: Any, place: str) -> Answered:
    if not isinstance(row, dict) or not isinstance(row.get("labels"), list):
        raise DataError('a FinNER row must be an object with "text" and a list "labels"', where=place)
    entities = [str(label).rpartition(":") for label in row["labels"]]
    answer = "；".join(f"{name}（{kind}）" if name else kind for name, _, kind in entities) or "无"
    return str(row.get("text", "")).strip(), answer, "entity_extraction"


_CONVERTERS: dict[str, Callable[[Any, str], Answered]] = {
    "finna": _finna,
    "finnl": _finnl,
    "finnsp": _finnsp,
    "finre": _finre,
    "finqa": _finqa,
    "fincqa": _finqa,
    "finese": _finese,
    "finner": _finner,
}
_SENTIMENT = ("finfe", "finne")
CFLEB_NAMES = (*_SENTIMENT, *_CONVERTERS)


def _sentiment_names(rows: list) -> dict[float, str]:
    """Names of the sentiment labels: FinFE's first release and FinNE write 0, 0.5, 1, FinFE's later one 0, 1, 2."""
    labels = [row[1] for row in rows if isinstance(row, (list, tuple)) and len(row) == 2]
    values = {value for value in map(_number, labels) if value is not None}
    whole = all(isinstance(label, int) for label in labels)
    if 2.0 not in values and not (whole and values):
        return {0.0: "消极", 0.5: "中性", 1.0: "积极"}
    return {0.0: "消极", 1.0: "中性", 2.0: "积极"}


def _number(label: Any) -> float | None:
    """The number that a label is, None where it is none or not a number."""
    try:
        return None if math.isnan(float(label)) else float(label)
    except (TypeError, ValueError, OverflowError):
        return None


def _sentiment(row: Any, names: dict[float, str], place: str) -> Answered:
    if isinstance(row, (list, tuple)) and len(row) == 2 and str(row[1]).strip().lower() in _NO_ANSWER:
        return str(row[0]), "", "sentiment"
    if not isinstance(row, (list, tuple)) or len(row) != 2 or _number(row[1]) is None:
        raise DataError("a FinFE or FinNE row must be a list of a text and a number", where=place)
    text, label = _row(row, 2, "FinFE or FinNE", place)
    value = _number(row[1])
    if value is None or value not in names:
        known = ", ".join(f"{value:g}" for value in names)
        raise DataError(f"unknown sentiment labels [{label[:40]}]", where=place, hint=f"Labels are {known}.")
    return text, names[value], "sentiment"


def _is_heading(row: Any) -> bool:
    """Whether a row names columns: nothing but short English words, which no row of these Chinese sets is."""
    return (
        isinstance(row, list)
        and len(row) > 1
        and all(isinstance(cell, str) and _HEADING.fullmatch(cell.strip()) for cell in row)
    )


def _split_of(path: Path) -> str | None:
    """The split that a file's name tells of, or None."""
    words = path.stem.lower().replace("-", "_").split("_")
    return next((_SPLIT_WORDS[word] for word in words if word in _SPLIT_WORDS), None)


def _rows(path: Path) -> list:
    """All rows of one file: a JSON list, or tab-separated lines (.txt, FinRE)."""
    check_size(path, limits.MAX_LIST)
    try:
        text = path.read_text(encoding="utf-8-sig")
        if path.suffix.lower() == ".txt":
            return [line.split("\t") for line in text.splitlines() if line.strip()]
        rows = parse_json(text)
    except UnicodeDecodeError as error:
        raise DataError("the file is not UTF-8 text", where=str(path)) from error
    except json.JSONDecodeError as error:
        raise DataError(f"not valid JSON: {error.msg}", where=f"{path}:{error.lineno}") from error
    if not isinstance(rows, list):
        raise DataError("the file must hold a JSON list", where=str(path))
    return rows


def _task_folders(folder: Path) -> list[Path]:
    """The folder itself if it is that of a task, else those in the first place where the benchmark keeps some."""
    if folder.name.lower() in CFLEB_NAMES and _task_files(folder):
        return [folder]
    for root in _ROOTS:
        base = folder / root
        if base.is_dir():
            named = [f for f in sorted(base.iterdir()) if f.is_dir() and f.name.lower() in CFLEB_NAMES]
            if folders := [f for f in named if _task_files(f)]:
                return folders
    return []


def _task_files(folder: Path) -> list[Path]:
    """The files of a task that hold answers; of the tasks in text files only FinRE's are known."""
    files = [f for f in sorted(folder.iterdir()) if f.suffix.lower() in (".json", ".txt") and f.is_file()]
    return [f for f in files if _split_of(f) and (f.suffix.lower() == ".json" or folder.name.lower() == "finre")]


def is_cfleb(folder: Path) -> bool:
    """Whether ``folder`` holds CFLEB task folders (``FinFE/train_list.json`` ...), or is one of them."""
    return bool(_task_folders(Path(folder)))


def iter_cfleb(folder: str | Path, *, left_out: list[LeftOut] | None = None, skip: bool = False) -> Iterator[Pair]:
    """Yield the records of a CFLEB (BBT-FinCUGE) folder as ``(place, record)``.

    Reads ``DataSetThere/<Task>/`` and ``FinCUGE_Publish/<task>/`` of the benchmark's repository, or any folder with
    the same layout: ``train_list.json``, ``eval_list.json`` (becomes dev), ``test_list.json``, FinNL's
    ``news_label_train.json`` and FinRE's tab-separated ``train.txt``. Files without answers (``problem_list.json``)
    are not read, rows without one (FinESE's event "其他" has NaN) are counted in a warning and left out.

    A row that names columns (the published FinNE has one) and single damaged rows are left out and put down in
    ``left_out``.

    Parameters
    ----------
    folder : path-like
        One task's folder, their parent, or the root of the repository (where ``DataSetThere`` comes first).
    left_out : list of LeftOut, optional
        Takes the rows that are left out.
    skip : bool
        Leave damaged rows out however many they are.

    Raises
    ------
    DataError
        A file is not JSON, or a tenth of its rows and more have another shape than its task's; names the file and
        the first of them.

    References
    ----------
    Lu et al. 2023, "BBT-Fin" (arXiv 2302.09432), section 4, and its repository. The instructions are ours.
    """
    left_out = [] if left_out is None else left_out
    unanswered = 0
    for task_folder in _task_folders(Path(folder)):
        name = task_folder.name.lower()
        for path in _task_files(task_folder):
            split = _split_of(path)
            for place, answered in _answered(_rows(inside(folder, path)), name, str(path), left_out, skip=skip):
                body, answer, task = answered
                if answer.strip().lower() in _NO_ANSWER:
                    unanswered += 1
                    continue
                record = {"instruction": INSTRUCTIONS[name], "input": body, "output": answer}
                yield place, record | {"task": task, "source": name, "split": split}
    if unanswered:
        warnings.warn(f"{unanswered} CFLEB rows without an answer were left out", UserWarning, stacklevel=2)


def _answered(rows: list, name: str, path: str, left_out: list[LeftOut], *, skip: bool) -> list[tuple[str, Answered]]:
    """The rows of a file that have its task's shape; the others are put down."""
    names = _sentiment_names(rows) if name in _SENTIMENT else {}
    good: list[tuple[str, Answered]] = []
    damaged: list[DataError] = []
    for number, row in enumerate(rows, 1):
        place = f"{path}, row {number}"
        if _is_heading(row):
            left_out.append(LeftOut(place, None, f"the row names columns: {', '.join(row)}"))
            continue
        try:
            good.append((place, _sentiment(row, names, place) if names else _CONVERTERS[name](row, place)))
        except DataError as error:
            damaged.append(error)
    if damaged and not skip and len(damaged) >= _MOST_DAMAGED * len(rows):
        raise damaged[0]
    left_out += [LeftOut(error.where or path, None, error.what) for error in damaged]
    return good
