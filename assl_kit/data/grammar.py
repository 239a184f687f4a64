"""A small weighted text grammar: templates that recurse, bind, choose, drop and shuffle; values kept apart by split.

The notation of a template (source: ours)
    ``{rule}``       expand a rule; ``{x=rule}`` expands it and keeps the value as ``x``; ``{x}`` repeats it
    ``(a|b|c)``      one of the parts
    ``[a|b]``        one of the parts, or nothing (half of the time)
    ``<a|b|c>``      all the parts, in a random order
A rule is a block of lines, one alternative a line; ``3*text`` gives an alternative the weight 3.

Rules of the section ``open`` are *values* (a name, a place, a product). Every value belongs to one side for good, by a
checksum of the value itself, so what fills a test record can never fill a training record. Rules of ``composed`` put
words around an open value (a company is a stem and an industry) and stand on the side of what they hold. Numbers,
dates and codes are made by :data:`NUMBERS`, and stand on the side of their digits, whatever their format.
"""

from __future__ import annotations

import re
from bisect import bisect
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate
from random import Random
from typing import TypeVar
from zlib import crc32

from assl_kit.errors import DataError

T = TypeVar("T")

TEST_PART = 3
"""One value in ``TEST_PART`` belongs to the test side."""


def is_test_value(key: str) -> bool:
    """Whether a value (or, for a number, its digits) belongs to the test side.

    Examples
    --------
    >>> is_test_value("远航") == is_test_value("远航")
    True
    """
    return crc32(key.encode("utf-8")) % TEST_PART == 0


def digits_key(number: str) -> str:
    """The significant digits of a number: the same for every format of it.

    Examples
    --------
    >>> digits_key("1,250.0"), digits_key("0.125")
    ('125', '125')
    """
    return re.sub(r"\D", "", number).strip("0") or "0"


class Context:
    """What one text is being made with.

    Attributes
    ----------
    rng, random : Random, callable
        The random source, and its method, since most draws are by it.
    test : bool
        The side of the values.
    bound : dict
        Names of the text, and what they stand for.
    slots : list of (str, str)
        Rule and value of what was filled in so far.
    inside : int
        How many values are being made one within the other; only the outermost is a slot.
    """

    __slots__ = ("bound", "inside", "random", "rng", "slots", "test")

    def __init__(self, rng: Random, test: bool) -> None:
        self.rng, self.random, self.test = rng, rng.random, test
        self.bound: dict[str, str] = {}
        self.slots: list[tuple[str, str]] = []
        self.inside = 0

    def choose(self, items: Sequence[T]) -> T:
        """One of ``items``."""
        return items[int(self.random() * len(items))]


Node = Callable[[Context], str]


# --- numbers: each function draws one number of its side ------------------------------------------------------------


def _digits(context: Context, low: int, high: int) -> int:
    while True:
        value = low + int(context.random() * (high - low + 1))
        if is_test_value(digits_key(str(value))) == context.test:
            return value


def _decimal(context: Context, low: int, high: int) -> str:
    """A number with 0 to 2 decimals whose integer part lies in [low, high]."""
    places = context.choose((0, 1, 1, 2, 2))
    value = _digits(context, low * 10**places or 1, high * 10**places)
    return f"{value / 10**places:.{places}f}"


def _money(context: Context) -> str:
    kind = context.random()
    if kind < 0.55:
        return _decimal(context, 1, 60) + "亿元"
    value = _digits(context, 110, 9800) if kind < 0.8 else _digits(context, 11, 98) * 100
    return (f"{value:,}" if kind > 0.9 else str(value)) + "万元"


def _date(context: Context) -> str:
    while True:
        month, day = 1 + int(context.random() * 12), 1 + int(context.random() * 28)
        if is_test_value(f"{month}-{day}") == context.test:
            return f"{month}月{day}日"


NUMBERS: dict[str, Node] = {
    "amount": _money,
    "revenue": lambda context: _decimal(context, 8, 900) + "亿元",
    "small_amount": lambda context: f"{_digits(context, 12, 9800)}万元",
    "fine": lambda context: f"{_digits(context, 3, 990) * context.choose((1, 1, 10))}万元",
    "billions": lambda context: f"{_digits(context, 2, 98)}亿元",
    "huge": lambda context: f"{_digits(context, 110, 98000)}亿元",
    "percent": lambda context: _decimal(context, 1, 68) + "%",
    "small_percent": lambda context: _decimal(context, 0, 9) + "%",
    "high_percent": lambda context: _decimal(context, 72, 98) + "%",
    "move": lambda context: f"{_digits(context, 5, 399) / 100:.2f}%",
    "coupon": lambda context: f"{_digits(context, 105, 499) / 100:.2f}%",
    "fee": lambda context: f"{_digits(context, 12, 195) / 100:.2f}%",
    "rate": lambda context: f"{_digits(context, 101, 899) / 100:.2f}%",
    "points": lambda context: f"{_digits(context, 2, 95)}个基点",
    "dividend": lambda context: f"{_digits(context, 5, 390) / 100:.2f}元",
    "price": lambda context: f"{_digits(context, 201, 9900) / 100:.2f}元",
    "count": lambda context: str(_digits(context, 3, 960)),
    "few": lambda context: str(_digits(context, 2, 39)),
    "term": lambda context: str(_digits(context, 2, 15)),
    "shares": lambda context: f"{_digits(context, 120, 9900)}万股",
    "index": lambda context: f"{_digits(context, 20010, 69990) / 10:.1f}点",
    "date": _date,
    "full_date": lambda context: f"{_digits(context, 2004, 2025)}年{_date(context)}",
    "year": lambda context: f"{_digits(context, 2004, 2025)}年",
    "code": lambda context: context.choose(("60", "30", "00", "68")) + f"{_digits(context, 1011, 9899)}",
}
"""Generators of numbers, dates and codes by slot name."""


# --- templates ------------------------------------------------------------------------------------------------------


_WEIGHT = re.compile(r"(\d+)\*")
_MARK = re.compile(r"[{(\[<>|)\]}]")


class Grammar:
    """Rules of one task over the shared lexicon, compiled once and expanded many times.

    Parameters
    ----------
    sections : iterable of dict
        Parsed grammar files; each may hold ``rules``, ``open`` and ``composed``: name → block of alternatives.
    name : str
        For error messages.

    Examples
    --------
    >>> from random import Random
    >>> toy = {"rules": {"move": "上涨\\n3*下跌"}, "open": {"who": "甲\\n乙\\n丙\\n丁\\n戊\\n己"}}
    >>> grammar = Grammar([toy], name="toy")
    >>> context = Context(Random(1), test=False)
    >>> text = grammar.compile("{x=who}股价{move}，{x}回应")(context)
    >>> text.count(context.bound["x"]), context.slots == [("who", context.bound["x"])]
    (2, True)
    """

    def __init__(self, sections: Iterable[dict], *, name: str) -> None:
        self.name = name
        self.kinds: dict[str, str] = dict.fromkeys(NUMBERS, "number")
        self._sources: dict[str, str] = {}
        self._nodes: dict[str, Node] = {}
        self._avoid: set[str] = set()
        for section in sections:
            self._avoid.update(section.get("avoid", "").split())
            for kind in ("rules", "open", "composed"):
                for rule, block in section.get(kind, {}).items():
                    self.kinds[rule], self._sources[rule] = kind, block

    def define(self, name: str, block: str) -> None:
        """Add a rule that is written elsewhere."""
        self.kinds[name], self._sources[name] = "rules", block

    def rule(self, name: str) -> Node:
        """The expander of a rule; values are recorded as slots when they are not part of another value."""
        if name not in self._nodes:
            kind = self.kinds.get(name)
            if kind is None:
                raise DataError(f"unknown grammar rule {name!r}", where=self.name)
            self._nodes[name] = lambda context: self._nodes[name](context)  # a rule may hold itself
            inner = NUMBERS[name] if kind == "number" else self.alternatives(self._sources[name])
            self._nodes[name] = inner if kind == "rules" else self._value(name, inner, partition=kind == "open")
        return self._nodes[name]

    def _value(self, name: str, inner: Node, *, partition: bool) -> Node:
        """A value that is recorded as a slot; with ``partition`` it is drawn again until it is one of the side."""
        avoid = self._avoid

        def node(context: Context) -> str:
            context.inside += 1
            value = inner(context)
            while partition and (is_test_value(value) != context.test or value in avoid):
                value = inner(context)
            context.inside -= 1
            if not context.inside:
                context.slots.append((name, value))
            return value

        return node

    def alternatives(self, block: str | Iterable[str]) -> Node:
        """Compile a block of lines (or a list) into a weighted choice."""
        lines = [line.strip() for line in (block.splitlines() if isinstance(block, str) else block)]
        nodes, weights = [], []
        for line in filter(None, lines):
            weight = _WEIGHT.match(line)
            nodes.append(self.compile(line[weight.end() :] if weight else line))
            weights.append(int(weight[1]) if weight else 1)
        if not nodes:
            raise DataError("a grammar rule without alternatives", where=self.name)
        return _choice(nodes, weights)

    def compile(self, template: str) -> Node:
        """Compile one template."""
        node, end = self._sequence(template, 0, "")
        if end != len(template):
            raise DataError(f"unbalanced {template[end]!r} in {template!r}", where=self.name)
        return node

    def _sequence(self, text: str, at: int, stops: str) -> tuple[Node, int]:
        """The node of the text from ``at`` to the first of ``stops``, and where that is."""
        parts: list[Node | str] = []
        while at < len(text) and text[at] not in stops:
            char = text[at]
            if char == "{":
                end = text.index("}", at)
                parts.append(self._reference(text[at + 1 : end]))
                at = end + 1
            elif char in "([<":
                close = ")]>"["([<".index(char)]
                branches = []
                while at < len(text) and text[at] != close:
                    branch, at = self._sequence(text, at + 1, "|" + close)
                    branches.append(branch)
                if at >= len(text):
                    raise DataError(f"no {close!r} in {text!r}", where=self.name)
                parts.append(_GROUPS[char](branches))
                at += 1
            elif char in ")]>|}":
                raise DataError(f"unbalanced {char!r} in {text!r}", where=self.name)
            else:
                mark = _MARK.search(text, at)
                end = mark.start() if mark else len(text)
                parts.append(text[at:end])
                at = end
        return _join(parts), at

    def _reference(self, inside: str) -> Node:
        """What stands in braces: a rule, a name that is bound to a rule, or a name again."""
        bound, equals, name = inside.partition("=")
        if not equals:
            known = self.rule(inside) if inside in self.kinds else None

            def repeat(context: Context) -> str:
                value = context.bound.get(inside)
                if value is None:
                    if known is None:
                        raise DataError(f"the name {inside!r} is used before it is bound", where=self.name)
                    return known(context)
                return value

            return repeat
        rule = self.rule(name)

        def bind(context: Context) -> str:
            before = len(context.slots)
            for _ in range(40):  # two names of one text must not be the same, nor one part of another
                value = rule(context)
                others = [other for key, other in context.bound.items() if key != bound]
                if not any(value in other or other in value for other in others):
                    break
                del context.slots[before:]
            context.bound[bound] = value
            return value

        return bind


def _join(parts: list[Node | str]) -> Node:
    if len(parts) == 1:
        only = parts[0]
        return (lambda context: only) if isinstance(only, str) else only
    nodes = [(lambda context, part=part: part) if isinstance(part, str) else part for part in parts]
    return lambda context: "".join([node(context) for node in nodes])


def _choice(nodes: list[Node], weights: list[int] | None = None) -> Node:
    if len(nodes) == 1:
        return nodes[0]
    if not weights or len(set(weights)) == 1:
        count = len(nodes)
        return lambda context: nodes[int(context.random() * count)](context)
    edges = list(accumulate(weights))
    total = edges[-1]
    return lambda context: nodes[bisect(edges, context.random() * total)](context)


def _option(nodes: list[Node]) -> Node:
    some = _choice(nodes)
    return lambda context: some(context) if context.random() < 0.5 else ""


def _shuffle(nodes: list[Node]) -> Node:
    def node(context: Context) -> str:
        texts = [part(context) for part in nodes]  # bound in the written order, shown in another
        context.rng.shuffle(texts)
        return "".join(texts)

    return node


_GROUPS = {"(": _choice, "[": _option, "<": _shuffle}
