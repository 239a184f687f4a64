"""The embedded corpus: seven financial tasks from twenty-three invented sources, written by grammars (ours).

Record ``i`` of a split is a pure function of ``(seed, split, i)``, so a corpus of any size streams in bounded memory and
a longer corpus begins with the shorter one. Tasks and sources follow a fixed long-tailed schedule. About a tenth of the
records are reprints: an earlier record of the same source is made again and lightly edited. The test side shares no
filled value (name, place, product, number, date, code) with the other sides, and has instructions of its own; labels,
relation names, function words and the exam's concepts are grammar, not values. See :mod:`assl_kit.grammar_engine`.
"""

from __future__ import annotations

import os
import re
from bisect import bisect_left
from collections.abc import Callable, Iterator
from functools import cache
from importlib import resources
from itertools import islice
from random import Random
from typing import TYPE_CHECKING, Any

from .errors import ParameterError
from .files import atomic_path
from .grammar_engine import Context, Grammar

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ("id", "instruction", "input", "output", "task", "source", "split")
TASKS = (
    "sentiment", "qa", "summarization", "relation_extraction", "classification", "negative_news", "multiple_choice",
)  # fmt: skip
SPLITS = ("train", "dev", "test")
REPRINT_SHARE = 0.11
"""Share of the records that are light edits of an earlier one."""
_CYCLE = 1000
_MASK = (1 << 64) - 1


@cache
def _yaml(name: str) -> dict[str, Any]:
    import yaml

    text = resources.files(__package__).joinpath("grammar", f"{name}.yaml").read_text(encoding="utf-8")
    return yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))


def _lines(block: str) -> list[str]:
    return [line.strip() for line in block.splitlines() if line.strip()]


# --- one text of one task -------------------------------------------------------------------------------------------


class _TaskGrammar:
    """A task's frames, wraps and instructions, compiled."""

    def __init__(self, task: str):
        data = _yaml(task)
        self.task = task
        self.grammar = Grammar([_yaml("lexicon"), data], name=f"grammar/{task}.yaml")
        self.instructions = {
            False: tuple(_lines(data["instructions"])), True: tuple(_lines(data["held_out_instructions"])),
        }  # fmt: skip
        self.weights = {source: entry["weight"] for source, entry in data["sources"].items()}
        self.wraps = {name: self.grammar.alternatives(entry["wrap"]) for name, entry in data["sources"].items()}
        self.tail = self.grammar.alternatives(data["tail"]) if "tail" in data else None
        self.frames: dict[str, list[list[tuple[str, Callable, list]]]] = {source: [] for source in self.weights}
        for group, frame in enumerate(data.get("frames", ())):
            compiled = [
                self._frame(f"{task}/{group}.{row}", line, frame.get("output"))
                for row, line in enumerate(_lines(frame["text"]))
            ]
            for source in frame["sources"]:
                self.frames[source].append(compiled)
        self.exam = _Exam(data, self.grammar) if "concepts" in data else None

    def _frame(self, name: str, line: str, output: str | None) -> tuple[str, Callable, list]:
        """(template id, text, [(question or None, output)])."""
        compile_ = self.grammar.compile
        if " || " in line:
            text, *pairs = line.split(" || ")
            answers = [tuple(compile_(part.strip()) for part in pair.split(" => ")) for pair in pairs]
        elif " => " in line:
            text, headline = line.split(" => ")
            answers = [(None, compile_(headline))]
        else:
            text, answers = line, [(None, compile_(output))]
        return name, compile_(text), answers

    def make(self, context: Context, source: str) -> tuple[str, str, str]:
        """(input, output, template id); the values used are in ``context.slots``."""
        if self.exam is not None:
            return self.exam.make(context, source, self.wraps[source])
        name, text, answers = context.choose(context.choose(self.frames[source]))
        bound = context.bound
        body = text(context)
        question, answer = context.choose(answers)
        output = answer(context)
        if question is not None:
            bound["question"] = question(context)
        if self.task == "negative_news":
            names = [bound[letter] for letter in "abcde" if letter in bound]
            context.rng.shuffle(names)
            bound["entities"] = "，".join(names)
        bound["body"] = body
        shown = self.wraps[source](context)
        shown = shown.replace("。。", "。").replace("？。", "？")
        if self.tail is not None:
            shown += self.tail(context).replace("⏎", "\n")
        return shown, output, name


class _Exam:
    """Multiple choice: questions on concepts, and readings of four companies' numbers."""

    def __init__(self, data: dict, grammar: Grammar):
        self.bank = {
            field: [tuple(line.split("=")) for line in _lines(block)] for field, block in data["concepts"].items()
        }
        self.pairs = [(field, term, text) for field, rows in self.bank.items() for term, text in rows]
        for name in ("lead", "metric"):
            grammar.kinds[name], grammar._sources[name] = "rules", data[name]
        self.styles = _lines(data["pair_styles"])
        self.metrics = _lines(data["metric"])
        self.ask = {
            kind: [grammar.compile(line) for line in _lines(data[f"ask_{kind}"])]
            for kind in ("term", "definition", "highest", "lowest", "value")
        }
        self.company, self.percent = grammar.rule("company"), grammar.rule("percent")

    def make(self, context: Context, source: str, wrap: Callable) -> tuple[str, str, str]:
        reading = source == "statistics_reading_drills" or context.random() < 0.2
        stem, options, right, name = self._table(context) if reading else self._concept(context)
        context.rng.shuffle(options)
        context.bound["body"] = stem
        lines = [wrap(context), *(f"{letter}. {option}" for letter, option in zip("ABCD", options, strict=True))]
        return "\n".join(lines), "ABCD"[options.index(right)], f"multiple_choice/{name}"

    def _concept(self, context: Context) -> tuple[str, list[str], str, str]:
        field, term, text = context.choose(self.pairs)
        by_term = context.random() < 0.6
        near = context.random() < 0.7
        others = [row for row in (self.bank[field] if near else [pair[1:] for pair in self.pairs]) if row[0] != term]
        wrong = context.rng.sample(others, 3)
        context.bound.update(term=term, definition=text)
        kind, column = ("term", 0) if by_term else ("definition", 1)
        index = int(context.random() * len(self.ask[kind]))
        right = (term, text)[column]
        return self.ask[kind][index](context), [right, *(row[column] for row in wrong)], right, f"{kind}.{index}/{term}"

    def _table(self, context: Context) -> tuple[str, list[str], str, str]:
        names, values = [], []
        while len(names) < 4:
            before = len(context.slots)
            name, value = self.company(context), self.percent(context)
            if any(name in other or other in name for other in names) or float(value[:-1]) in map(_number, values):
                del context.slots[before:]
                continue
            names.append(name)
            values.append(value)
        style = context.choose(self.styles)
        shown = [style.replace("{who}", who).replace("{value}", value) for who, value in zip(names, values, strict=True)]
        kind = context.choose(("highest", "highest", "lowest", "lowest", "value"))
        index = int(context.random() * len(self.ask[kind]))
        target = int(context.random() * 4)
        metric = context.choose(self.metrics)
        context.bound.update(pairs="，".join(shown), metric=metric, who=names[target])
        if kind == "value":
            options, right = list(values), values[target]
        else:
            best = (max if kind == "highest" else min)(values, key=_number)
            options, right = list(names), names[values.index(best)]
        return self.ask[kind][index](context), options, right, f"{kind}.{index}/{metric}"


def _number(percent: str) -> float:
    return float(percent.rstrip("%"))


@cache
def _task(name: str) -> _TaskGrammar:
    return _TaskGrammar(name)


# --- the schedule of tasks and sources ------------------------------------------------------------------------------


@cache
def _source_weights() -> dict[str, tuple[str, int]]:
    return {source: (task, weight) for task in TASKS for source, weight in _task(task).weights.items()}


def __getattr__(name: str):
    if name == "SOURCES":  # read from the grammar files at first use, so that the import stays fast
        weights = _source_weights()
        return tuple(sorted(weights, key=lambda source: (-weights[source][1], source)))
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


@cache
def _schedule() -> tuple[tuple[str, ...], dict[str, tuple[int, ...]]]:
    """Sources of one cycle of 1,000 records, each spread evenly over it; and the places of every source."""
    places = [
        ((k + 0.5) / weight, source) for source, (_, weight) in _source_weights().items() for k in range(weight)
    ]
    cycle = tuple(source for _, source in sorted(places))
    assert len(cycle) == _CYCLE, len(cycle)
    where: dict[str, list[int]] = {}
    for place, source in enumerate(cycle):
        where.setdefault(source, []).append(place)
    return cycle, {source: tuple(rows) for source, rows in where.items()}


def _earlier(index: int, source: str, back: int) -> int:
    """The record of the same source ``back`` occurrences before ``index``; negative when there is none."""
    places = _schedule()[1][source]
    cycle, place = divmod(index, _CYCLE)
    occurrence = cycle * len(places) + bisect_left(places, place) - back
    return occurrence // len(places) * _CYCLE + places[occurrence % len(places)]


# --- records --------------------------------------------------------------------------------------------------------


def _reseed(rng: Random, seed: int, split: str, index: int) -> None:
    """Seed ``rng`` from (seed, split, index), well mixed (splitmix64)."""
    z = (seed * 0x9E3779B97F4A7C15 + SPLITS.index(split) * 0xD1B54A32D192ED03 + (index + 1) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
    rng.seed(z ^ (z >> 31))


_PREFIXES = ("快讯：", "【转载】", "据悉，", "最新消息：", "转：", "【更新】", "又讯，", "消息面：")
_EXAM_PREFIXES = ("（真题）", "【单选】", "1. ", "请选择：")


def _reformat_money(text: str, rng: Random) -> str:
    match = re.search(r"(?<![\d.,])(\d{1,4})(\d)00万元", text)
    if match:
        return text.replace(match.group(0), f"{int(match[1]):,}{match[2]}00万元")
    match = re.search(r"(?<![\d.,])(\d{1,3})\.(\d)亿元", text)
    return text.replace(match.group(0), f"{match[1]}.{match[2]}0亿元") if match else text


def _swap(old: str, new: str) -> Callable[[str, Random], str]:
    return lambda text, rng: text.replace(old, new, 1)


_EDITS: tuple[Callable[[str, Random], str], ...] = (
    _reformat_money, _swap("。", "！"), _swap("，", "；"), _swap("同比", "较去年同期"), _swap("表示", "说"), _swap("称", "说"),
    _swap("公司", "该公司"), _swap("净利润", "净利"), _swap("拟", "计划"), _swap("因", "由于"), _swap("下降", "下滑"),
)  # fmt: skip


def _reprint(shown: str, output: str, slots: list, task: str, rng: Random) -> str:
    """A light edit of an input: a prefix, a punctuation mark, a number's format, a word. The answer stays readable."""
    prefixes = _EXAM_PREFIXES if task == "multiple_choice" else _PREFIXES
    head, line, tail = shown.partition("\n")
    if rng.random() < 0.6 or task == "multiple_choice":
        head = rng.choice(prefixes) + head
    else:
        for edit in rng.sample(_EDITS, len(_EDITS)):
            changed = edit(head, rng)
            kept = all(value in changed + line + tail for _, value in slots)
            if changed != head and kept and (task != "qa" or output in changed):
                head = changed
                break
        else:
            head = rng.choice(prefixes) + head
    return head + line + tail


class _Maker:
    """Makes the records of one (seed, split), one at a time."""

    def __init__(self, seed: int, split: str):
        self.seed, self.split, self.test = seed, split, split == "test"
        self.rng = Random(0)
        self.cycle = _schedule()[0]
        self.task_of = {source: task for source, (task, _) in _source_weights().items()}

    def _start(self, index: int) -> bool:
        """Seed the generator for a record; whether it is a reprint."""
        _reseed(self.rng, self.seed, self.split, index)
        return self.rng.random() < REPRINT_SHARE

    def _original(self, task: str, source: str) -> tuple[str, str, str, list]:
        context = Context(self.rng, self.test)
        shown, output, template = _task(task).make(context, source)
        return shown, output, template, [pair for pair in context.slots if pair[1] in shown]

    def make(self, index: int) -> dict[str, Any]:
        """Record number ``index``."""
        source = self.cycle[index % _CYCLE]
        task, rng = self.task_of[source], self.rng
        instructions = _task(task).instructions[self.test]
        copied = None
        if self._start(index):
            back = 1 + int(rng.random() * 12)
            for step in range(back, back + 6):
                earlier = _earlier(index, source, step)
                if earlier < 0 or not self._start(earlier):
                    copied = earlier
                    break
            if copied is None or copied < 0:
                copied = None
                self._start(index)
        shown, output, template, slots = self._original(task, source)
        if copied is not None:
            _reseed(rng, self.seed + 1, self.split, index)
            if rng.random() > 0.14:
                shown = _reprint(shown, output, slots, task, rng)
        return {
            "id": f"{self.split}-{index:06d}", "instruction": instructions[int(rng.random() * len(instructions))],
            "input": shown, "output": output, "task": task, "source": source, "split": self.split,
            "slots": slots, "template": template, "reprint_of": copied,
        }  # fmt: skip


def _check(n: int, seed: int, split: str = "train", *, least: int = 1) -> None:
    for name, value, low in (("n", n, least), ("seed", seed, 0)):
        if isinstance(value, bool) or not isinstance(value, int) or value < low:
            raise ParameterError(f"{name} must be an integer of at least {low}, not {value!r}", where=name)
    if split not in SPLITS:
        raise ParameterError(f"unknown split {split!r}", where="split", hint=f"Use one of {', '.join(SPLITS)}.")


def iter_records(
    n: int, *, seed: int = 0, split: str = "train", start: int = 0, with_slots: bool = False
) -> Iterator[dict[str, Any]]:
    """Yield ``n`` records of one split, in bounded memory.

    Parameters
    ----------
    n : int
        How many records, at least 1.
    seed : int, default 0
        At least 0; another seed gives other records.
    split : {"train", "dev", "test"}
        "test" has its own values and instructions; "dev" has other records made of training values.
    start : int, default 0
        The number of the first record; record ``i`` does not depend on where the iteration starts.
    with_slots : bool, default False
        Add "slots", a list of (slot, value) pairs which the input holds, "template", the name of the frame, and
        "reprint_of", the number of the record this one is a light edit of, or None.

    Yields
    ------
    dict
        With the keys of ``COLUMNS``, all strings.

    Raises
    ------
    ParameterError
        ``n``, ``seed`` or ``split`` is not usable.

    Examples
    --------
    >>> first = next(iter_records(200))
    >>> first["id"], first["split"], first["task"] in TASKS
    ('train-000000', 'train', True)
    """
    _check(n, seed, split)
    return _records(n, seed, split, start, with_slots)


def _records(n: int, seed: int, split: str, start: int, with_slots: bool) -> Iterator[dict[str, Any]]:
    maker = _Maker(seed, split)
    for index in range(start, start + n):
        record = maker.make(index)
        if not with_slots:
            for key in ("slots", "template", "reprint_of"):
                del record[key]
        yield record


def paraphrases(task: str, split: str = "train") -> tuple[str, ...]:
    """The instructions of a task: those of train and dev, or the held-out ones of test.

    Examples
    --------
    >>> len(paraphrases("qa")) + len(paraphrases("qa", "test")) >= 32
    True
    """
    if task not in TASKS:
        raise ParameterError(f"unknown task {task!r}", where="task", hint=f"Use one of {', '.join(TASKS)}.")
    _check(1, 0, split)
    return _task(task).instructions[split == "test"]


def _both_splits(n: int, seed: int, test_share: float) -> Iterator[dict[str, Any]]:
    _check(n, seed, least=2)
    if not 0 <= test_share < 1:
        raise ParameterError(f"test_share must lie in [0, 1), not {test_share!r}", where="test_share")
    tests = round(n * test_share)
    yield from _records(n - tests, seed, "train", 0, False)
    if tests:
        yield from _records(tests, seed, "test", 0, False)


def make_corpus(n: int, *, seed: int = 0, test_share: float = 0.1) -> pd.DataFrame:
    """The corpus as a table: ``n`` records, of which ``round(n * test_share)`` are test records, train first.

    Examples
    --------
    >>> corpus = make_corpus(200)
    >>> corpus["split"].value_counts().to_dict()
    {'train': 180, 'test': 20}
    """
    import pandas as pd

    return pd.DataFrame(list(_both_splits(n, seed, test_share)), columns=list(COLUMNS))


def write_corpus(path: str | os.PathLike, n: int, *, seed: int = 0, test_share: float = 0.1, chunk: int = 10_000) -> None:
    """Write the rows of :func:`make_corpus` to a Parquet file, ``chunk`` records in memory at a time."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    records = _both_splits(n, seed, test_share)
    schema = pa.schema([(name, pa.string()) for name in COLUMNS])
    with atomic_path(path) as temporary, pq.ParquetWriter(temporary, schema) as writer:
        while rows := list(islice(records, chunk)):
            writer.write_table(pa.Table.from_pylist(rows, schema=schema))
