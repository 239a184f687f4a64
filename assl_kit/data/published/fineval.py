"""FinEval as it is published: its exams in CSV files, its later parts in JSON, our instructions."""

from __future__ import annotations

import csv
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from assl_kit.common.limits import open_records
from assl_kit.common.trust import MAX_FILES, inside
from assl_kit.errors import DataError

from ..folders import Part
from ..readers import READERS, Pair, iter_csv, kind_of
from ..records import LeftOut
from ..schemas import CHOICE_INSTRUCTION, option_line

_EXAM = re.compile(r"(.+)_(dev|val|test)\.csv")
_LATER = re.compile(r"([\w-]+)-eval\.jsonl?")
_LEAST_LATER = 5
_NO_ANSWER = ("", "nan", "none", "null", "na", "n/a", "<na>")
_COLUMNS = ("question", "A", "B", "C", "D")
_RIGOR_ASKED = ("基座大模型query", "基座query", "端到端query")
_RIGOR_ANSWERED = ("标准答案", "参考答案")
#: Our wording for the parts whose inputs hold no question.
_LATER_INSTRUCTIONS = {
    "finterm": "用一两句话解释这个金融术语。",
    "finfeforum": "读一读这条股民留言，判断它的情绪，只写类别。",
    "finfetext": "读一读这段财经文字，判断其情绪是积极还是消极，只写类别。",
    "finna": "为这则财经消息拟一个标题，概括最要紧的内容。",
    "finnl": "这则财经快讯属于哪个类别？只写类别。",
    "finnsp1": "这则消息对其中的公司是不是负面的？是写1，不是写0。",
    "finnsp2": "写出这则消息所说的公司。",
    "finre": "这则消息说的是什么事？只写其类型。",
    "fincustomer": "根据描述写出这位客户属于哪一类人群。",
    "finqc": "这个问题与金融有关吗？写是或否。",
    "finsales": "为下面的主题写一段营销知识的讲解。",
}


def _files(folder: Path) -> Iterator[Path]:
    for number, file in enumerate(sorted(folder.rglob("*"))):
        if number >= MAX_FILES:
            raise DataError(f"the folder holds more than {MAX_FILES:,} files", where=str(folder))
        if "node_modules" not in file.parts and file.is_file():
            yield file


def _header(path: Path) -> list[str]:
    """The first line of a table, or nothing where it is none."""
    try:
        with open_records(path) as handle:
            line = handle.readline(1 << 16).decode("utf-8-sig")
        return next(csv.reader([line], delimiter="\t" if path.suffix.lower() == ".tsv" else ","), [])
    except (UnicodeDecodeError, csv.Error, DataError):
        return []


def _is_exam(path: Path) -> bool:
    exam = _EXAM.fullmatch(path.name)
    return exam is not None and (path.parent.name == exam[2] or set(_COLUMNS) <= set(_header(path)))


def is_fineval(folder: Path) -> bool:
    """Whether ``folder`` holds ``dev/<subject>_dev.csv`` or the like, or tables of later releases, at any depth."""
    files = list(_files(Path(folder)))
    later = sum(_LATER.fullmatch(path.name) is not None for path in files)
    return later >= _LEAST_LATER or any(_is_exam(path) or _is_rigor(path) or _is_pictures(path) for path in files)


def _is_rigor(path: Path) -> bool:
    header = _header(path) if path.suffix.lower() == ".csv" else []
    return bool(set(_RIGOR_ANSWERED).intersection(header) and set(_RIGOR_ASKED).intersection(header))


def _is_pictures(path: Path) -> bool:
    return path.suffix.lower() == ".tsv" and {"fintype", "image", "question"}.issubset(_header(path))


def fineval_parts(folder: str | Path, left_out: list[LeftOut], *, skip: bool = False) -> Iterator[Part]:
    """The parts of a FinEval folder: its exams, and what later releases added.

    The exams are ``{dev,val,test}/<subject>_{dev,val,test}.csv`` with the columns ``id, question, A, B, C, D, answer,
    explanation``, and the security exams ``<subject>_val.csv`` in one folder. ``dev`` (five worked examples a subject)
    becomes dev. ``val`` becomes test, because the benchmark keeps the answers of its own ``test`` to itself; where test
    files do hold answers they are test too. Of later releases, ``<part>-eval.jsonl`` and ``.json`` (lists with
    ``input`` and ``gold_answer`` or ``goodanswer``, or questions with options) and the tables of the rigor test are
    test.
    Questions about pictures, in ``.tsv`` files, are not read and put down in ``left_out``.

    Rows without an answer are counted in a warning and left out. The subject is kept in an extra column.

    Raises
    ------
    DataError
        A file lacks a column, or an answer names no option; names the file and the line.

    References
    ----------
    Zhang et al. 2023, "FinEval" (arXiv 2308.09975) and its repository. The instructions are ours.
    """
    folder = Path(folder)
    files = list(_files(folder))
    exams = [path for path in files if _is_exam(path)]
    order = {"dev": 0, "val": 1, "test": 2}
    exams.sort(key=lambda path: (order[path.stem.rpartition("_")[2]], path))
    if exams:
        yield Part(str(folder), "fineval", None, _exam_records(folder, exams, skip=skip))
    for path in files:
        if _is_pictures(path):
            left_out.append(LeftOut(str(path), None, "its questions are about pictures"))
        elif _is_rigor(path):
            yield Part(str(path), "fineval", "test", _rigor_records(inside(folder, path), skip=skip))
        elif (later := _LATER.fullmatch(path.name)) and (kind := kind_of(inside(folder, path))):
            pairs = READERS[kind](path, skip=skip)
            yield Part(str(path), "fineval", "test", _later_records(pairs, later[1]))


def _exam_records(folder: Path, exams: list[Path], *, skip: bool) -> Iterator[tuple[str, Any]]:
    unanswered = 0
    for path in exams:
        subject, _, part = path.stem.rpartition("_")
        rows = iter_csv(inside(folder, path), skip=skip, delimiter=",")
        lacking = [name for name in _COLUMNS if name not in _header(path)]
        if lacking:
            raise DataError(f"the columns {lacking} are missing", where=f"{path}:1")
        for place, row in rows:
            if isinstance(row, DataError):
                yield place, row
                continue
            answer = str(row.get("answer") or "").strip().upper()
            if answer.lower() in _NO_ANSWER:
                unanswered += 1
                continue
            if set(answer) - set("ABCD"):
                wrong = DataError(f"the answer {answer!r} names no option A to D", where=place)
                if not skip:
                    raise wrong
                yield place, wrong
                continue
            options = "\n".join(option_line(letter, row[letter]) for letter in "ABCD")
            yield (
                place,
                {
                    "instruction": CHOICE_INSTRUCTION,
                    "input": f"{row['question'].strip()}\n{options}",
                    "output": answer,
                    "task": "multiple_choice",
                    "source": "fineval",
                    "split": "dev" if part == "dev" else "test",
                    "subject": subject,
                },
            )
    if unanswered:
        warnings.warn(f"{unanswered} FinEval questions without an answer were left out", UserWarning, stacklevel=2)


def _rigor_records(path: Path, *, skip: bool) -> Iterator[tuple[str, Any]]:
    """The rigor test: a question with what was found for it, and the answer; the table's own number is no id."""
    for place, row in iter_csv(path, skip=skip, delimiter=","):
        if isinstance(row, DataError):
            yield place, row
            continue
        asked, answered = (
            next((row[name] for name in names if row.get(name)), "") for names in (_RIGOR_ASKED, _RIGOR_ANSWERED)
        )
        yield place, {"instruction": asked, "output": answered, "task": "rigor", "subject": row.get("类型") or "rigor"}


def _later_records(pairs: Iterator[Pair], subject: str) -> Iterator[tuple[str, Any]]:
    for place, row in pairs:
        if not isinstance(row, dict):
            yield place, row
            continue
        row = {name: value for name, value in row.items() if name not in ("id", "source")} | {"subject": subject}
        if "question" not in row and "task" not in row:
            row["task"] = subject
        if subject in _LATER_INSTRUCTIONS and "instruction" not in row:
            row["instruction"] = _LATER_INSTRUCTIONS[subject]
        yield place, row
