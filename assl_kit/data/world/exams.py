"""Multiple choice: questions on concepts, and readings of four companies' numbers."""

from __future__ import annotations

from typing import NamedTuple

from ..grammar import Grammar, lines_of
from .stories import sentence
from .values import Context, Node, Pair

LETTERS = "ABCD"
KINDS = ("term", "definition", "highest", "lowest", "value", "owner")
"""What is asked: a concept's name or meaning; of a table the largest, the least, a firm's number, a number's firm."""


class Question(NamedTuple):
    """A question with four options: its text without them, the options, the place of the right one, its template."""

    stem: Pair
    options: list[Pair]
    right: int
    template: str

    @property
    def shown(self) -> Pair:
        """The options, a line each."""
        lines = [(f"{letter}. {o.zh}", f"{letter}. {o.en}") for letter, o in zip(LETTERS, self.options, strict=True)]
        return Pair("\n".join(zh for zh, _ in lines), "\n".join(en for _, en in lines))


class Exam:
    """The questions of ``multiple_choice.yaml``.

    Attributes
    ----------
    bank : dict
        Field → rows of (term, meaning).
    """

    def __init__(self, data: dict, grammar: Grammar) -> None:
        self.bank = {field: [_concept(line) for line in lines_of(block)] for field, block in data["concepts"].items()}
        self.rows = [(field, *row) for field, rows in self.bank.items() for row in rows]
        self.styles = [grammar.compile(line) for line in lines_of(data["pair_styles"])]
        self.ask = {kind: [grammar.compile(line) for line in lines_of(data[f"ask_{kind}"])] for kind in KINDS}
        self.company, self.percent = grammar.rule("company"), grammar.rule("percent")
        self.metric = grammar.rule("metric")

    def make(self, context: Context, *, table: bool) -> Question:
        """A reading of a table, or a question on a concept."""
        stem, options, name = self._table(context) if table else self._concept(context)
        right = options[0]
        context.rng.shuffle(options)
        return Question(Pair(stem.zh, sentence(stem.en)), options, options.index(right), name)

    def concept(self, context: Context) -> tuple[Pair, Pair]:
        """A term and its meaning."""
        _, term, meaning = context.choose(self.rows)
        return term, meaning

    def _concept(self, context: Context) -> tuple[Pair, list[Pair], str]:
        field, term, meaning = context.choose(self.rows)
        by_term, near = context.random() < 0.6, context.random() < 0.7
        rows = self.bank[field] if near else [(other, text) for _, other, text in self.rows]
        wrong = context.rng.sample([row for row in rows if row[0] != term], 3)
        context.bound.update(term=term, definition=meaning)
        kind, column = ("term", 0) if by_term else ("definition", 1)
        index = int(context.random() * len(self.ask[kind]))
        options = [(term, meaning)[column], *(row[column] for row in wrong)]
        return self.ask[kind][index](context), options, f"{kind}.{index}/{term.zh}"

    def _table(self, context: Context) -> tuple[Pair, list[Pair], str]:
        names, values = self._companies(context)
        style = context.choose(self.styles)
        shown = [self._shown(context, style, *row) for row in zip(names, values, strict=True)]
        kind = context.choose(KINDS[2:])
        index = int(context.random() * len(self.ask[kind]))
        target = int(context.random() * 4)
        if kind in ("highest", "lowest"):
            best = (max if kind == "highest" else min)(values, key=as_number)
            target = values.index(best)
        metric = self.metric(context)
        pairs = Pair("，".join(text.zh for text in shown), ", ".join(text.en for text in shown))
        context.bound.update(pairs=pairs, metric=metric, who=names[target], value=values[target])
        options = values if kind == "value" else names
        options = [options[target], *(option for place, option in enumerate(options) if place != target)]
        return self.ask[kind][index](context), options, f"{kind}.{index}/{metric.zh}"

    def _companies(self, context: Context) -> tuple[list[Pair], list[Pair]]:
        """Four companies of unlike names, with unlike numbers."""
        names: list[Pair] = []
        values: list[Pair] = []
        while len(names) < 4:
            before = len(context.slots)
            name, value = self.company(context), self.percent(context)
            alike = any(name.zh in other.zh or other.zh in name.zh for other in names)
            if alike or as_number(value) in map(as_number, values):
                del context.slots[before:]
                continue
            names.append(name)
            values.append(value)
        return names, values

    @staticmethod
    def _shown(context: Context, style: Node, who: Pair, value: Pair) -> Pair:
        context.bound.update(who=who, value=value)
        return style(context)


def _concept(line: str) -> tuple[Pair, Pair]:
    chinese, english = (part.split("=") for part in line.split(" ~ "))
    term, meaning = (Pair(*both) for both in zip(chinese, english, strict=True))
    return term, meaning


def as_number(percent: Pair) -> float:
    """The number of a percentage."""
    return float(percent.zh.rstrip("%"))
