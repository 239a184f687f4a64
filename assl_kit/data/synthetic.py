"""The embedded corpus: seven financial tasks from twenty-three invented sources, written by grammars (ours).

Record ``i`` of a split is a pure function of ``(seed, split, i)``, so a corpus of any size streams in bounded memory
and a longer split begins with the shorter one. Tasks and sources follow a fixed long-tailed schedule, on the test side
one in which every task has as many records as another. Sources belong to houses: the same kind of news wants another
label, form or point of view in each, and only its way of writing tells which (`assl_kit.data.task_grammars`).
About a tenth of the records are reprints: an earlier record of the same source is made again and lightly edited. A
twentieth of the training labels are wrong. The test side shares no filled value (name, place, product, number, date,
code) with the other sides, and has instructions of its own; labels, relation names, function words and the exam's
concepts are grammar, not values. See :mod:`assl_kit.data.grammar`.
Every company, person and event is composed by chance; a likeness to a real one is an accident.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator
from functools import cache
from random import Random
from typing import TYPE_CHECKING, Any

from assl_kit.common.checks import real, whole
from assl_kit.errors import ParameterError

from .records import COLUMNS, SPLITS
from .task_grammars import grammar_data, task_grammar
from .world.values import Context, Pair

if TYPE_CHECKING:
    import pandas as pd

TASKS = (
    "sentiment",
    "qa",
    "summarization",
    "relation_extraction",
    "classification",
    "negative_news",
    "multiple_choice",
)
LABEL_TASKS = ("sentiment", "relation_extraction", "classification", "negative_news", "multiple_choice")
REPRINT_SHARE = 0.11
"""Share of the records that are light edits of an earlier one."""
WRONG_SHARE = 0.05
"""Share of the training records of label tasks whose label is wrong; ``right_output`` has the right one."""
EXTRAS = ("instruction_en", "input_en", "output_en", "right_output")
"""What a record of the corpus has besides ``COLUMNS``: itself in English, and its right answer, for no learner."""
_CYCLE = 1000
_MASK = (1 << 64) - 1


# --- the schedule of tasks and sources ------------------------------------------------------------------------------


@cache
def _source_weights(test: bool = False) -> dict[str, tuple[str, int]]:
    """Source → its task, and its records in 1,000; on the test side each task has as many records as another."""
    weights = {source: (task, weight) for task in TASKS for source, weight in task_grammar(task).weights.items()}
    if not test:
        return weights
    total = Counter[str]()
    for task, weight in weights.values():
        total[task] += weight
    exact = {source: weight * _CYCLE / (total[task] * len(TASKS)) for source, (task, weight) in weights.items()}
    counts = {source: int(share) for source, share in exact.items()}
    left = sorted(exact, key=lambda source: counts[source] - exact[source])[: _CYCLE - sum(counts.values())]
    return {source: (weights[source][0], counts[source] + (source in left)) for source in weights}


def __getattr__(name: str) -> tuple[str, ...]:
    if name == "SOURCES":  # read from the grammar files at first use, so that the import stays fast
        weights = _source_weights()
        return tuple(sorted(weights, key=lambda source: (-weights[source][1], source)))
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


@cache
def _schedule(test: bool) -> tuple[tuple[str, ...], dict[str, tuple[int, ...]]]:
    """Sources of one cycle of 1,000 records, each spread evenly over it; and the places of every source."""
    weights = _source_weights(test)
    places = [((k + 0.5) / weight, source) for source, (_, weight) in weights.items() for k in range(weight)]
    cycle = tuple(source for _, source in sorted(places))
    assert len(cycle) == _CYCLE, len(cycle)
    where: dict[str, list[int]] = {}
    for place, source in enumerate(cycle):
        where.setdefault(source, []).append(place)
    return cycle, {source: tuple(rows) for source, rows in where.items()}


def _earlier(places: tuple[int, ...], index: int, back: int) -> int:
    """The record of the same source ``back`` occurrences before ``index``; negative when there is none."""
    cycle, place = divmod(index, _CYCLE)
    occurrence = cycle * len(places) + bisect_left(places, place) - back
    return occurrence // len(places) * _CYCLE + places[occurrence % len(places)]


# --- records --------------------------------------------------------------------------------------------------------


def _reseed(rng: Random, seed: int, split: str, index: int) -> None:
    """Seed ``rng`` from (seed, split, index), well mixed (splitmix64)."""
    z = seed * 0x9E3779B97F4A7C15 + SPLITS.index(split) * 0xD1B54A32D192ED03 + (index + 1) * 0xBF58476D1CE4E5B9
    z &= _MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
    rng.seed(z ^ (z >> 31))


@cache
def _edits() -> tuple[tuple[str, ...], tuple[str, ...], tuple[tuple[str, str], ...]]:
    """Prefixes, prefixes of exam questions, and (old, new) words of reprints."""
    data = {name: tuple(block.split()) for name, block in grammar_data("reprints").items()}
    words = (pair.partition(">") for pair in data["words"])
    return data["prefixes"], data["exam_prefixes"], tuple((old, new) for old, _, new in words)


_MONEY = re.compile(r"(?<![\d.,])(\d{1,3}(?:\.\d)?)亿元|(?<![\d.,])(\d)(\d{3})万元")


def _money_edit(text: str) -> tuple[str, str] | None:
    """Another format of the first sum of money in a text: "3.2亿元" and "3.20亿元", "1250万元" and "1,250万元"."""
    match = _MONEY.search(text)
    if match is None:
        return None
    if match[2]:
        return match[0], f"{match[2]},{match[3]}万元"
    return match[0], f"{match[1]}0亿元" if "." in match[1] else f"{match[1]}.0亿元"


def _reprint(shown: str, output: str, slots: list, task: str, rng: Random) -> tuple[str, str, list]:
    """A light edit of a record: a prefix, a punctuation mark, a number's format, a word. The answer stays in it."""
    head, line, tail = shown.partition("\n")
    if task == "multiple_choice":
        return rng.choice(_edits()[1]) + shown, output, slots
    kind = rng.random()
    money = _money_edit(head) if kind < 0.3 else None
    if money:
        old, new = money
        changed = [(slot, value.replace(old, new)) for slot, value in slots]
        return shown.replace(old, new), output.replace(old, new), changed
    if kind < 0.65:
        for old, new in rng.sample(_edits()[2], len(_edits()[2])):
            changed_head = head.replace(old, new, 1)
            if changed_head != head and old not in output and all(value in changed_head + tail for _, value in slots):
                return changed_head + line + tail, output, slots
    return rng.choice(_edits()[0]) + shown, output, slots


class _Maker:
    """Makes the records of one (seed, split), one at a time."""

    def __init__(self, seed: int, split: str) -> None:
        self.seed, self.split, self.test = seed, split, split == "test"
        self.rng = Random(0)
        self.cycle, self.places = _schedule(self.test)
        self.task_of = {source: task for source, (task, _) in _source_weights().items()}

    def _start(self, index: int) -> bool:
        """Seed the generator for a record; whether it is a reprint."""
        _reseed(self.rng, self.seed, self.split, index)
        return self.rng.random() < REPRINT_SHARE

    def _copied(self, index: int, source: str) -> int | None:
        """The number of the record that a reprint copies: one of the last dozen or so of its source, no reprint itself.

        The generator is left as `_start` leaves it for that record; where there is none (None), for the reprint itself.
        """
        back = 1 + int(self.rng.random() * 12)
        for step in range(back, back + 6):
            earlier = _earlier(self.places[source], index, step)
            if earlier < 0:
                break
            if not self._start(earlier):
                return earlier
        self._start(index)
        return None

    def make(self, index: int) -> dict[str, Any]:
        """Record number ``index``."""
        source = self.cycle[index % _CYCLE]
        task, rng = self.task_of[source], self.rng
        copied = self._copied(index, source) if self._start(index) else None
        context = Context(rng, self.test)
        made = task_grammar(task).make(context, source)
        asked, text, output = made.instruction, made.input.zh, made.output.zh
        slots = [pair for pair in context.slots if pair[1] in (text or asked.zh)]
        if copied is not None:
            _reseed(rng, self.seed + 1, self.split, index)
            if rng.random() > 0.14 or not text:
                shown, output, slots = _reprint(text or asked.zh, output, slots, task, rng)
                asked, text = (asked, shown) if text else (Pair(shown, asked.en), text)
            if text:
                asked = task_grammar(task).asked(Context(rng, self.test), source)
        answer = Pair(output, made.output.en)
        if made.wrong and not self.test:
            _reseed(rng, self.seed + 2, self.split, index)
            if rng.random() < WRONG_SHARE:
                answer = rng.choice(made.wrong)
        return {
            "id": f"{self.split}-{index:06d}",
            "instruction": asked.zh,
            "input": text,
            "output": answer.zh,
            "task": task,
            "source": source,
            "split": self.split,
            "instruction_en": asked.en,
            "input_en": made.input.en,
            "output_en": answer.en,
            "right_output": output,
            "slots": slots,
            "template": made.template,
            "reprint_of": copied,
        }


def _check(n: int, seed: int, split: str = "train", *, least: int = 1) -> None:
    whole("n", n, least)
    whole("seed", seed)
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
        With the keys of ``COLUMNS`` and ``EXTRAS``, all strings.

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
    maker = _Maker(int(seed), split)
    for index in range(start, start + n):
        record = maker.make(index)
        if not with_slots:
            for key in ("slots", "template", "reprint_of"):
                del record[key]
        yield record


def make_corpus(n: int, *, seed: int = 0, test_share: float = 0.1) -> pd.DataFrame:
    """The corpus as a table: ``n`` records, of which ``round(n * test_share)`` are test records, train first.

    Examples
    --------
    >>> corpus = make_corpus(200)
    >>> corpus["split"].value_counts().to_dict()
    {'train': 180, 'test': 20}
    """
    import pandas as pd

    _check(n, seed, least=2)
    real("test_share", test_share, 0, 1, inside="most")
    tests = round(n * test_share)
    records = [*_records(n - tests, seed, "train", 0, False), *_records(tests, seed, "test", 0, False)]
    return pd.DataFrame(records, columns=[*COLUMNS, *EXTRAS])
