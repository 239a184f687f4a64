"""The seven task grammars of the embedded corpus, compiled from ``grammars/*.yaml`` (ours).

A task's file holds its instructions, its sources (a weight, and the wraps of their house style), its frames (sentence
patterns with their answer) and its rules; ``lexicon.yaml`` holds the words all tasks share. Multiple choice has no
frames: it asks about a bank of concepts, or about four numbers.
"""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import Any

from .grammar import Context, Grammar, Node

Answer = tuple[Node | None, Node]  #: the question, if the text itself does not ask it, and what answers it
Frame = tuple[str, Node, list[Answer]]  #: the id of a template, its text, and what can be asked about it


@cache
def grammar_data(name: str) -> dict[str, Any]:
    """The parsed grammar file of a task, or the "lexicon"."""
    import yaml

    file = resources.files(__package__) / "grammars" / f"{name}.yaml"
    return yaml.load(file.read_text(encoding="utf-8"), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))


def _lines(block: str) -> list[str]:
    return [line.strip() for line in block.splitlines() if line.strip()]


def _pair(line: str) -> tuple[str, str]:
    term, text = line.split("=")
    return term, text


class TaskGrammar:
    """A task's frames, wraps and instructions, compiled.

    Parameters
    ----------
    task : str
        The name of a file in ``grammars``.

    Attributes
    ----------
    instructions : dict
        False → the instructions of train and dev; True → those held out for test.
    weights : dict
        Source → its records in every 1,000 of the corpus.
    """

    def __init__(self, task: str) -> None:
        data = grammar_data(task)
        self.task = task
        self.grammar = Grammar([grammar_data("lexicon"), data], name=f"grammars/{task}.yaml")
        self.instructions = {
            False: tuple(_lines(data["instructions"])),
            True: tuple(_lines(data["held_out_instructions"])),
        }
        self.weights = {source: entry["weight"] for source, entry in data["sources"].items()}
        self.wraps = {name: self.grammar.alternatives(entry["wrap"]) for name, entry in data["sources"].items()}
        self.tail = self.grammar.alternatives(data["tail"]) if "tail" in data else None
        self.frames: dict[str, list[list[Frame]]] = {source: [] for source in self.weights}
        for group, frame in enumerate(data.get("frames", ())):
            compiled = [
                self._frame(f"{task}/{group}.{row}", line, frame.get("output"))
                for row, line in enumerate(_lines(frame["text"]))
            ]
            for source in frame["sources"]:
                self.frames[source].extend([compiled] * frame.get("weight", 1))
        self.exam = _Exam(data, self.grammar) if "concepts" in data else None

    def _frame(self, name: str, line: str, output: str | None) -> Frame:
        """The frame of ``text || question => answer || …``, ``text => headline``, or a text with ``output``."""
        compiled = self.grammar.compile
        answers: list[Answer]
        if " || " in line:
            line, *pairs = line.split(" || ")
            parts = [[compiled(part.strip()) for part in pair.split(" => ")] for pair in pairs]
            answers = [(question, answer) for question, answer in parts]
        elif " => " in line:
            line, headline = line.split(" => ")
            answers = [(None, compiled(headline))]
        else:
            answers = [(None, compiled(output or ""))]
        return name, compiled(line), answers

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
        for twice, once in (("。。", "。"), ("？。", "？"), ("？，", "？")):  # a part that brings its own end mark
            shown = shown.replace(twice, once)
        if shown[-1] in "；，":  # the last part of a shuffle
            shown = shown[:-1] + "。"
        if self.tail is not None:
            shown += self.tail(context).replace("⏎", "\n")
        return shown, output, name


class _Exam:
    """Multiple choice: questions on concepts, and readings of four companies' numbers."""

    def __init__(self, data: dict, grammar: Grammar) -> None:
        self.bank = {field: [_pair(line) for line in _lines(block)] for field, block in data["concepts"].items()}
        self.pairs = [(field, term, text) for field, rows in self.bank.items() for term, text in rows]
        for name in ("lead", "metric"):
            grammar.define(name, data[name])
        self.styles = _lines(data["pair_styles"])
        self.metrics = _lines(data["metric"])
        self.ask = {
            kind: [grammar.compile(line) for line in _lines(data[f"ask_{kind}"])]
            for kind in ("term", "definition", "highest", "lowest", "value")
        }
        self.company, self.percent = grammar.rule("company"), grammar.rule("percent")

    def make(self, context: Context, source: str, wrap: Node) -> tuple[str, str, str]:
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
        rows = self.bank[field] if near else [(other, text) for _, other, text in self.pairs]
        others = [row for row in rows if row[0] != term]
        wrong = context.rng.sample(others, 3)
        context.bound.update(term=term, definition=text)
        kind, column = ("term", 0) if by_term else ("definition", 1)
        index = int(context.random() * len(self.ask[kind]))
        right = (term, text)[column]
        return self.ask[kind][index](context), [right, *(row[column] for row in wrong)], right, f"{kind}.{index}/{term}"

    def _table(self, context: Context) -> tuple[str, list[str], str, str]:
        names: list[str] = []
        values: list[str] = []
        while len(names) < 4:
            before = len(context.slots)
            name, value = self.company(context), self.percent(context)
            same_name = any(name in other or other in name for other in names)
            if same_name or _as_number(value) in map(_as_number, values):
                del context.slots[before:]
                continue
            names.append(name)
            values.append(value)
        style = context.choose(self.styles)
        rows = zip(names, values, strict=True)
        shown = [style.replace("{who}", who).replace("{value}", value) for who, value in rows]
        kind = context.choose(("highest", "highest", "lowest", "lowest", "value"))
        index = int(context.random() * len(self.ask[kind]))
        target = int(context.random() * 4)
        metric = context.choose(self.metrics)
        context.bound.update(pairs="，".join(shown), metric=metric, who=names[target])
        if kind == "value":
            options, right = list(values), values[target]
        else:
            best = (max if kind == "highest" else min)(values, key=_as_number)
            options, right = list(names), names[values.index(best)]
        return self.ask[kind][index](context), options, right, f"{kind}.{index}/{metric}"


def _as_number(percent: str) -> float:
    return float(percent.rstrip("%"))


@cache
def task_grammar(name: str) -> TaskGrammar:
    """The compiled grammar of a task, made once."""
    return TaskGrammar(name)
