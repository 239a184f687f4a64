"""Readers: files, hub datasets, and two benchmarks as their repositories publish them (CFLEB and FinEval).

Each gives plain ``(place, record)`` pairs, one at a time; `assl_kit.corpus` validates them and fills in what they lack.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import warnings
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from assl_kit.common import limits as bounds
from assl_kit.common.limits import check_size, open_records, parquet_rows, parse_json
from assl_kit.common.trust import check_dataset_folder, inside

from .errors import DataError

Pair = tuple[str, dict[str, Any]]

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
    "fineval": "请解答这道金融考试选择题，只写正确选项的字母。",
}
_SPLIT_WORDS = {"train": "train", "eval": "dev", "valid": "dev", "dev": "dev", "val": "dev", "test": "test"}
_HUB_SPLITS = {"train": "train", "validation": "dev", "valid": "dev", "val": "dev", "dev": "dev", "test": "test"}
_ROOTS = ("", "DataSetThere", "FinCUGE_Publish")


def iter_jsonl(path: Path) -> Iterator[tuple[str, Any]]:
    """(place, object) for each line of a JSONL file, plain or gzipped; the byte order mark and blank lines go."""
    number = 0
    try:
        with open_records(path) as handle:
            while raw := handle.readline(bounds.MAX_LINE + 1):
                number += 1
                place = f"{path}:{number}"
                if len(raw) > bounds.MAX_LINE:
                    raise DataError(f"the line has more than {bounds.MAX_LINE:,} bytes", where=place)
                try:
                    line = raw.decode("utf-8-sig" if number == 1 else "utf-8").strip()
                    if line:
                        yield place, parse_json(line)
                except UnicodeDecodeError as error:
                    raise DataError("the line is not UTF-8 text", where=place, hint="Save it as UTF-8.") from error
                except json.JSONDecodeError as error:
                    what = f"the line is not valid JSON: {error.msg}, at column {error.colno}"
                    raise DataError(what, where=place, hint="Each line must hold one whole JSON object.") from error
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError("the gzip file is damaged or cut off", where=f"{path}, after line {number}") from error


def iter_json_list(path: Path) -> Iterator[tuple[str, Any]]:
    """(place, object) for each element of a JSON list (Alpaca); a file of JSON lines under this ending is read too."""
    try:
        with io.TextIOWrapper(open_records(path), encoding="utf-8-sig") as handle:
            text = handle.read(bounds.MAX_LIST + 1)
    except UnicodeDecodeError as error:
        raise DataError("the file is not UTF-8 text", where=str(path), hint="Save it as UTF-8.") from error
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError("the gzip file is damaged or cut off", where=str(path)) from error
    if len(text) > bounds.MAX_LIST:
        raise DataError(
            f"the file has more than {bounds.MAX_LIST:,} characters, too many to be read as one list",
            where=str(path),
            hint="Write one record a line (.jsonl).",
        )
    if text.lstrip()[:1] == "{" and "\n{" in text.strip():
        yield from iter_jsonl(path)
        return
    try:
        items = parse_json(text) if text.strip() else []
    except json.JSONDecodeError as error:
        raise DataError(f"not valid JSON: {error.msg}", where=f"{path}:{error.lineno}") from error
    if not isinstance(items, list):
        raise DataError("the file must hold a list of records", where=str(path), hint="Write [ {...}, {...} ].")
    for number, item in enumerate(items, 1):
        if isinstance(item, dict):
            item = {name: value for name, value in item.items() if name not in ("history", "system")}
        yield f"{path}, record {number}", item


def iter_parquet(path: Path) -> Iterator[tuple[str, Any]]:
    """(place, row) of a Parquet file."""
    import pyarrow as pa

    try:
        for number, row in enumerate(parquet_rows(path), 1):
            yield f"{path}, row {number}", row
    except (pa.ArrowException, OSError) as error:
        raise DataError("the file cannot be read as Parquet", where=str(path)) from error


def iter_hub(name: str, config: str | None) -> Iterator[tuple[str, Any]]:
    """(place, row) of a dataset on the hub, in its cache, or in a local folder; code in a dataset is never run."""
    offline = os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")
    try:
        import datasets
    except ImportError as error:
        hint = 'Install it with: pip install "assl-kit[hub]".'
        raise DataError("reading a hub dataset needs the package 'datasets'", where=name, hint=hint) from error
    folder = Path(name)
    if folder.is_dir():
        check_dataset_folder(folder)
    try:
        saved = (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file()
        found = datasets.load_from_disk(name) if saved else datasets.load_dataset(name, config)
    except Exception as error:  # the library raises many kinds; all mean that there is nothing to read
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        hint = "Check the name, the network, and which configuration is meant (config=...)."
        if offline:
            hint = "HF_HUB_OFFLINE is set and the dataset is not in the cache: load it once online, or give a file."
        raise DataError(f"the dataset cannot be loaded: {reason}", where=name, hint=hint) from error
    parts = dict(found) if isinstance(found, dict) else {"train": found}
    given = any("split" in part.column_names for part in parts.values())
    for part_name, part in parts.items():
        split = _HUB_SPLITS.get(part_name, part_name)
        for number, row in enumerate(part, 1):
            alone = given or len(parts) == 1
            yield f"{name}, {part_name} row {number}", row if alone else row | {"split": split}


def _row(row: Any, width: int, name: str, place: str) -> list[str]:
    if not isinstance(row, (list, tuple)) or len(row) != width:
        found = f"{len(row)} values" if isinstance(row, (list, tuple)) else type(row).__name__
        raise DataError(f"a {name} row must be a list of {width} values, this one is {found}", where=place)
    return ["" if value is None else str(value).strip() for value in row]


def _finna(row, place):
    title, text = _row(row, 2, "FinNA", place)
    return text, title, "summarization"


def _finnl(row, place):
    text, labels = _row(row, 2, "FinNL", place)
    return text, "、".join(labels.split()), "classification"


def _finnsp(row, place):
    _, title, text, entities, negative, subjects = _row(row, 6, "FinNSP", place)
    body = text if not title or title[:30] == text[:30] else f"{title}\n{text}"
    answer = "否" if negative in ("0", "0.0") else "是，" + "；".join(filter(None, subjects.split(";")))
    return f"材料：{body}\n实体：{entities.replace(';', '；')}", answer.rstrip("，"), "negative_news"


def _finre(row, place):
    head, tail, relation, text = _row(row, 4, "FinRE", place)
    return f"句子：{text}\n实体一：{head}\n实体二：{tail}", relation, "relation_extraction"


def _finqa(row, place):
    text, answer = _row(row, 2, "FinQA", place)
    cut = text.find("？") + 1  # the question comes first and is joined to its passage without a separator
    body = f"问题：{text[:cut]}\n材料：{text[cut:].strip()}" if 0 < cut < len(text) else text
    return body, answer, "qa"


def _finese(row, place):
    _, text, event, subject = _row(row, 4, "FinESE", place)
    return f"材料：{text}\n事件类型：{event}", "" if subject in ("NaN", "nan") else subject, "event_extraction"


def _finner(row, place):
    if not isinstance(row, dict) or not isinstance(row.get("labels"), list):
        raise DataError('a FinNER row must be an object with "text" and a list "labels"', where=place)
    found = [str(label).rpartition(":") for label in row["labels"]]
    answer = "；".join(f"{name}（{kind}）" if name else kind for name, _, kind in found) or "无"
    return str(row.get("text", "")).strip(), answer, "entity_extraction"


_CONVERTERS: dict[str, Callable] = {
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


def _sentiment_names(rows: list, place: str) -> dict[float, str]:
    """Names of the sentiment labels: FinFE's first release and FinNE write 0, 0.5, 1, FinFE's later one 0, 1, 2."""
    try:
        values = {float(row[1]) for row in rows}
        whole = all(isinstance(row[1], int) for row in rows)
    except (TypeError, ValueError, IndexError, KeyError) as error:
        raise DataError("a FinFE or FinNE row must be a list of a text and a number", where=place) from error
    names = {0.0: "消极", 1.0: "中性", 2.0: "积极"}
    if 2.0 not in values and not (whole and values):
        names = {0.0: "消极", 0.5: "中性", 1.0: "积极"}
    if unknown := sorted(values - set(names)):
        raise DataError(f"unknown sentiment labels {unknown}", where=place, hint="Labels are 0, 0.5, 1 or 0, 1, 2.")
    return names


def _split_of(path: Path) -> str | None:
    words = path.stem.lower().replace("-", "_").split("_")
    return next((_SPLIT_WORDS[word] for word in words if word in _SPLIT_WORDS), None)


def _rows(path: Path) -> list:
    """All rows of one file: a JSON list, or tab-separated lines (.txt, FinRE)."""
    check_size(path, bounds.MAX_LIST)
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
    if folder.name.lower() in CFLEB_NAMES and _task_files(folder):
        return [folder]
    for root in _ROOTS:
        base = folder / root
        if base.is_dir():
            found = [f for f in sorted(base.iterdir()) if f.is_dir() and f.name.lower() in CFLEB_NAMES]
            if found := [f for f in found if _task_files(f)]:
                return found
    return []


def _task_files(folder: Path) -> list[Path]:
    files = [f for f in sorted(folder.iterdir()) if f.suffix.lower() in (".json", ".txt") and f.is_file()]
    return [f for f in files if _split_of(f) and (f.suffix.lower() == ".json" or folder.name.lower() == "finre")]


def is_cfleb(folder: Path) -> bool:
    """Whether ``folder`` holds CFLEB task folders (``FinFE/train_list.json`` ...), or is one of them."""
    return bool(_task_folders(Path(folder)))


def iter_cfleb(folder: str | Path) -> Iterator[Pair]:
    """Yield the records of a CFLEB (BBT-FinCUGE) folder as ``(place, record)``.

    Reads ``DataSetThere/<Task>/`` and ``FinCUGE_Publish/<task>/`` of the benchmark's repository, or any folder with
    the same layout: ``train_list.json``, ``eval_list.json`` (becomes dev), ``test_list.json``, FinNL's
    ``news_label_train.json`` and FinRE's tab-separated ``train.txt``. Files without answers (``problem_list.json``)
    are not read, rows without one (FinESE's event "其他") are counted in a warning and left out.

    Parameters
    ----------
    folder : path-like
        One task's folder, their parent, or the root of the repository (where ``DataSetThere`` comes first).

    Raises
    ------
    DataError
        A file is not JSON, or a row has another shape than its task's; names the file and the row.

    References
    ----------
    Lu et al. 2023, "BBT-Fin" (arXiv 2302.09432), section 4, and its repository. The instructions are ours.
    """
    skipped = 0
    for task_folder in _task_folders(Path(folder)):
        name = task_folder.name.lower()
        for path in _task_files(task_folder):
            rows, split = _rows(inside(folder, path)), _split_of(path)
            labels = _sentiment_names(rows, str(path)) if name in _SENTIMENT else {}
            for number, row in enumerate(rows, 1):
                place = f"{path}, row {number}"
                if name in _SENTIMENT:
                    text, label = _row(row, 2, "FinFE or FinNE", place)
                    body, answer, task = text, labels[float(label)], "sentiment"
                else:
                    body, answer, task = _CONVERTERS[name](row, place)
                if not answer:
                    skipped += 1
                    continue
                record = {"instruction": INSTRUCTIONS[name], "input": body, "output": answer}
                yield place, record | {"task": task, "source": name, "split": split}
    if skipped:
        warnings.warn(f"{skipped} CFLEB rows without an answer were left out", UserWarning, stacklevel=2)


def _fineval_root(folder: Path) -> Path | None:
    for base in (folder, folder / "data"):
        if any((base / part).is_dir() and any((base / part).glob(f"*_{part}.csv")) for part in ("dev", "val", "test")):
            return base
    return None


def is_fineval(folder: Path) -> bool:
    """Whether ``folder`` holds ``dev/<subject>_dev.csv``, ``val/<subject>_val.csv`` or the like."""
    return _fineval_root(Path(folder)) is not None


def iter_fineval(folder: str | Path) -> Iterator[Pair]:
    """Yield the questions of a FinEval folder as ``(place, record)``.

    The layout is ``{dev,val,test}/<subject>_{dev,val,test}.csv`` with the columns ``id, question, A, B, C, D, answer,
    explanation``. ``dev`` (five worked examples a subject) becomes dev. ``val`` becomes test, because the benchmark
    keeps the answers of its own ``test`` to itself; where test files do hold answers they are test too. Rows without
    an answer are counted in a warning and left out. The subject is kept in an extra column.

    Raises
    ------
    DataError
        A file lacks a column, or an answer names no option; names the file and the line.

    References
    ----------
    Zhang et al. 2023, "FinEval" (arXiv 2308.09975) and its repository. The instruction is ours.
    """
    base = _fineval_root(Path(folder))
    skipped = 0
    for part, split in (("dev", "dev"), ("val", "test"), ("test", "test")):
        for path in sorted((base / part).glob(f"*_{part}.csv")) if base and (base / part).is_dir() else []:
            subject = path.stem[: -len(part) - 1]
            try:
                with open(inside(folder, path), encoding="utf-8-sig", newline="") as handle:
                    reader = csv.DictReader(handle)
                    lacking = [c for c in ("question", "A", "B", "C", "D") if c not in (reader.fieldnames or [])]
                    if lacking:
                        raise DataError(f"the columns {lacking} are missing", where=f"{path}:1")
                    for row in reader:
                        place = f"{path}:{reader.line_num}"
                        answer = (row.get("answer") or "").strip().upper()
                        if not answer:
                            skipped += 1
                            continue
                        if set(answer) - set("ABCD"):
                            raise DataError(f"the answer {answer!r} names no option A to D", where=place)
                        options = "\n".join(f"{letter}. {(row[letter] or '').strip()}" for letter in "ABCD")
                        yield (
                            place,
                            {
                                "instruction": INSTRUCTIONS["fineval"],
                                "input": f"{(row['question'] or '').strip()}\n{options}",
                                "output": answer,
                                "task": "multiple_choice",
                                "source": "fineval",
                                "split": split,
                                "subject": subject,
                            },
                        )
            except UnicodeDecodeError as error:
                raise DataError("the file is not UTF-8 text", where=str(path)) from error
            except csv.Error as error:  # a cell beyond the csv module's own bound
                raise DataError(f"the table cannot be read: {error}", where=str(path)) from error
    if skipped:
        warnings.warn(f"{skipped} FinEval questions without an answer were left out", UserWarning, stacklevel=2)
