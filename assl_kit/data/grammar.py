"""A small weighted text grammar in two languages: templates that recurse, bind and choose; values kept apart by split.

The notation of a line (source: ours)
    ``Chinese ~ English``  two templates that say the same; without ``~`` the English is the same text
    ``{rule}``             expand a rule; ``{x=rule}`` expands it and keeps the value as ``x``; ``{x}`` repeats it
    ``(a|b|)``             one of the parts, or here nothing; the English makes the same choices, in order
A rule is a block of lines, one alternative a line; ``3*text`` gives an alternative the weight 3. The English repeats
what the Chinese has expanded: its second ``{rule}`` is the Chinese text's second, and a name may be said again.

Rules of the section ``open`` are *values* (a name, a place, a product). Every value belongs to one side for good, by a
checksum of its Chinese, so what fills a test record can never fill a training record. Rules of ``composed`` put
words around an open value (a company is a stem and an industry) and stand on the side of what they hold. Numbers,
dates and codes are made by :data:`assl_kit.data.world.values.NUMBERS`, and stand on the side of their digits, whatever
their format.
"""

from __future__ import annotations

import re
from bisect import bisect
from collections.abc import Iterable
from itertools import accumulate, product
from typing import NamedTuple

from assl_kit.errors import DataError

from .world.values import NUMBERS, TENTHS, Context, Node, Pair, is_test_value, somebody

# --- templates ------------------------------------------------------------------------------------------------------


_WEIGHT = re.compile(r"(\d+)\*")
_MARK = re.compile(r"[{(|)}]")


class _Reference(NamedTuple):
    name: str
    rule: str  # "" where the name is a rule's, or one that is bound before
    node: Node | None


Part = "str | _Reference | list[list]"
"""A piece of text, a reference, or a choice of sequences of parts."""


class _Line:
    """One line: the Chinese is expanded, the English repeats what it expanded."""

    __slots__ = ("en", "where", "zh")

    def __init__(self, zh: list, en: list | None, where: str) -> None:
        self.zh, self.en, self.where = zh, en, where

    def __call__(self, context: Context) -> Pair:
        picks: list[int] = []
        seen: dict[str, list[Pair]] = {}
        zh = self._chinese(context, self.zh, picks, seen)
        if self.en is None:
            return Pair(zh, zh)
        picks.reverse()
        return Pair(zh, self._english(context, self.en, picks, {name: pairs[::-1] for name, pairs in seen.items()}))

    def _chinese(self, context: Context, parts: list, picks: list[int], seen: dict[str, list[Pair]]) -> str:
        texts = []
        for part in parts:
            if isinstance(part, str):
                texts.append(part)
            elif isinstance(part, _Reference):
                value = self._value(context, part)
                seen.setdefault(part.name, []).append(value)
                texts.append(value.zh)
            else:
                picks.append(int(context.random() * len(part)))
                texts.append(self._chinese(context, part[picks[-1]], picks, seen))
        return "".join(texts)

    def _value(self, context: Context, part: _Reference) -> Pair:
        if not part.rule:
            value = context.bound.get(part.name)
            if value is not None:
                return value
            if part.node is None:
                raise DataError(f"the name {part.name!r} is used before it is bound", where=self.where)
            return part.node(context)
        assert part.node is not None
        if context.spoken and part.name == "c" and part.rule == "company" and context.random() < 0.45:
            context.bound["c"] = somebody(context)
            return context.bound["c"]
        before, value = len(context.slots), part.node(context)
        for _ in range(40):  # two names of one text must not be the same, nor one part of another
            if not any(value.zh in other or other in value.zh for other in context.taken):
                break
            del context.slots[before:]
            value = part.node(context)
        context.bound[part.name] = value
        context.taken.append(value.zh)
        return value

    def _english(self, context: Context, parts: list, picks: list[int], left: dict[str, list[Pair]]) -> str:
        texts = []
        for part in parts:
            if isinstance(part, str):
                texts.append(part)
            elif isinstance(part, _Reference):
                values = left.get(part.name)
                if values:
                    texts.append((values.pop() if len(values) > 1 else values[0]).en)
                elif part.name in context.bound:
                    texts.append(context.bound[part.name].en)
                else:
                    raise DataError(f"the English names {part.name!r}, the Chinese does not", where=self.where)
            else:
                texts.append(self._english(context, part[picks.pop()], picks, left))
        return "".join(texts)


class Grammar:
    """Rules over a shared lexicon, compiled once and expanded many times.

    Parameters
    ----------
    sections : iterable of dict
        Parsed grammar files; each may hold ``rules``, ``open`` and ``composed``: name → block of alternatives.
    name : str
        For error messages.

    Examples
    --------
    >>> from random import Random
    >>> toy = {"rules": {"move": "上涨 ~ rises\\n3*下跌 ~ falls"}, "open": {"who": "甲 ~ A\\n乙 ~ B\\n丙 ~ C\\n丁 ~ D"}}
    >>> grammar = Grammar([toy], name="toy")
    >>> context = Context(Random(1), test=False)
    >>> text = grammar.compile("{x=who}(股价|){move} ~ {x}'s (share price|value) {move}")(context)
    >>> text.zh.startswith(context.bound["x"].zh), context.slots == [("who", context.bound["x"].zh)]
    (True, True)
    """

    def __init__(self, sections: Iterable[dict], *, name: str) -> None:
        self.name = name
        self.kinds: dict[str, str] = dict.fromkeys(NUMBERS, "number")
        self._sources: dict[str, str] = {}
        self._nodes: dict[str, Node] = {}
        self._lines: dict[str, Node] = {}
        self._avoid: set[str] = set()
        for section in sections:
            self._avoid.update(section.get("avoid", "").split())
            for kind in ("rules", "open", "composed"):
                for rule, block in section.get(kind, {}).items():
                    self.kinds[rule], self._sources[rule] = kind, block

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

        def node(context: Context) -> Pair:
            context.inside += 1
            value = inner(context)
            while partition and (is_test_value(value.zh) != context.test or value.zh in avoid):
                value = inner(context)
            context.inside -= 1
            if not context.inside and value.zh not in TENTHS:
                context.slots.append((name, value.zh))
            return value

        return node

    def alternatives(self, block: str | Iterable[str]) -> Node:
        """Compile a block of lines (or a list) into a weighted choice."""
        nodes, weights = [], []
        for line in lines_of(block):
            weight = _WEIGHT.match(line)
            nodes.append(self.compile(line[weight.end() :] if weight else line))
            weights.append(int(weight[1]) if weight else 1)
        if not nodes:
            raise DataError("a grammar rule without alternatives", where=self.name)
        return _choice(nodes, weights)

    def compile(self, line: str) -> Node:
        """Compile one line, once."""
        if line not in self._lines:
            self._lines[line] = self._compiled(line)
        return self._lines[line]

    def _compiled(self, line: str) -> Node:
        zh, tilde, en = line.partition("~")
        chinese = self._whole(zh.rstrip() if tilde else zh)
        english = self._whole(en.lstrip()) if tilde else None
        if english is not None and _choices(english) not in ([], _choices(chinese)):
            raise DataError(f"the two languages have different choices in {line!r}", where=self.name)
        if english is not None and all(isinstance(part, str) for part in chinese + english):
            fixed = Pair("".join(chinese), "".join(english))
            return lambda context: fixed
        return _Line(chinese, english, self.name)

    def _whole(self, template: str) -> list:
        parts, end = self._sequence(template, 0, "")
        if end != len(template):
            raise DataError(f"unbalanced {template[end]!r} in {template!r}", where=self.name)
        return parts

    def _sequence(self, text: str, at: int, stops: str) -> tuple[list, int]:
        """The parts of the text from ``at`` to the first of ``stops``, and where that is."""
        parts: list = []
        while at < len(text) and text[at] not in stops:
            if text[at] == "{":
                end = text.find("}", at)
                if end < 0:
                    raise DataError(f"no '}}' in {text!r}", where=self.name)
                parts.append(self._reference(text[at + 1 : end]))
                at = end + 1
            elif text[at] == "(":
                branches = []
                while at < len(text) and text[at] != ")":
                    branch, at = self._sequence(text, at + 1, "|)")
                    branches.append(branch)
                if at >= len(text):
                    raise DataError(f"no ')' in {text!r}", where=self.name)
                parts.append(branches)
                at += 1
            elif text[at] in ")|}":
                raise DataError(f"unbalanced {text[at]!r} in {text!r}", where=self.name)
            else:
                mark = _MARK.search(text, at)
                end = mark.start() if mark else len(text)
                parts.append(text[at:end])
                at = end
        return parts, at

    def _reference(self, inside: str) -> _Reference:
        """What stands in braces: a rule, a name that is bound to a rule, or a name again."""
        name, equals, rule = inside.partition("=")
        if equals:
            return _Reference(name, rule, self.rule(rule))
        return _Reference(name, "", self.rule(name) if name in self.kinds else None)


def lines_of(block: str | Iterable[str]) -> list[str]:
    """The lines of a block (or a list) that are not empty, without the space around them."""
    lines = block.splitlines() if isinstance(block, str) else block
    return [line.strip() for line in lines if line.strip()]


def wordings(line: str) -> list[str]:
    """All that the Chinese of a line without references can say.

    Examples
    --------
    >>> wordings("(请|)判断情绪。 ~ Judge the mood.")
    ['请判断情绪。', '判断情绪。']
    """
    pieces = re.split(r"\(([^)]*)\)", line.partition("~")[0].rstrip())
    choices = [piece.split("|") if place % 2 else [piece] for place, piece in enumerate(pieces)]
    return ["".join(parts) for parts in product(*choices)]


def _choices(parts: list) -> list[int]:
    """How many parts each choice has."""
    return [len(part) for part in parts if isinstance(part, list)]


def _choice(nodes: list[Node], weights: list[int]) -> Node:
    if len(nodes) == 1:
        return nodes[0]
    if len(set(weights)) == 1:
        count = len(nodes)
        return lambda context: nodes[int(context.random() * count)](context)
    edges = list(accumulate(weights))
    total = edges[-1]
    return lambda context: nodes[bisect(edges, context.random() * total)](context)
