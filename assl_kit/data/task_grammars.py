"""The seven task grammars of the embedded corpus, compiled from ``grammars/*.yaml`` (ours).

All tasks tell the events of ``events.yaml`` and ask about them. A task's file holds its sources: how many records they
have, how each asks (``asks``; ``held_out`` for the test side), how it tells (``wrap``, and words of its own,
``style``), and what it wants: its labels, form or point of view. Sources belong to the houses of ``houses.yaml``, which
open each question and head each text. ``natural`` are questions as people ask them, with the text in the question; they
want what the task's first source wants. ``lexicon.yaml`` holds the shared words.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib import resources
from typing import Any, NamedTuple

from .grammar import Grammar, lines_of, wordings
from .world.exams import LETTERS, Exam
from .world.stories import RARE, Told, World, joined, sentence
from .world.values import Context, Node, Pair

NOTHING = Pair("", "")


@cache
def grammar_data(name: str) -> dict[str, Any]:
    """The parsed grammar file of a task, "events" or the "lexicon"."""
    import yaml

    file = resources.files(__package__) / "grammars" / f"{name}.yaml"
    return yaml.load(file.read_text(encoding="utf-8"), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))


class Made(NamedTuple):
    """A record in both languages, the other answers it might have had, and the id of what it was made from."""

    instruction: Pair
    input: Pair
    output: Pair
    wrong: list[Pair]
    template: str


class Content(NamedTuple):
    """What a record tells and wants, before a house wraps it.

    Attributes
    ----------
    body : Pair
        The text, without a mark at its end.
    output : Pair
        The right answer.
    wrong : list of Pair
        Wrong ones; none where answers are free.
    template : str
        What it was made from.
    tail : Pair
        Lines below the text.
    names : dict of Pair
        More that a question may name.
    """

    body: Pair
    output: Pair
    wrong: list[Pair]
    template: str
    tail: Pair = NOTHING
    names: dict[str, Pair] = {}  # noqa: RUF012 - never written to


class _Source:
    """How one source asks and tells."""

    def __init__(self, name: str, entry: dict, grammar: Grammar) -> None:
        self.name, self.entry = name, entry
        self.weight: int = entry["weight"]
        self.natural: float = entry.get("natural", 0.0)
        house = grammar_data("houses")[entry["house"]]
        self.salute = grammar.alternatives(house["salute"])
        self.letterhead = grammar.alternatives(house["letterhead"])
        self.asks = {False: grammar.alternatives(entry["asks"]), True: grammar.alternatives(entry["held_out"])}
        self.wrap = grammar.alternatives(entry["wrap"])
        self.tail = grammar.alternatives(entry["tail"]) if "tail" in entry else None
        self.style = [tuple(pair.split(">")) for pair in entry.get("style", "").split()]
        self.labels = {key: _pair(text) for key, text in entry.get("labels", {}).items()}

    def styled(self, text: str, keep: list[str]) -> str:
        """The text in the house's own words; what ``keep`` names stays as it is."""
        for old, new in self.style:
            if not any(old in value for value in keep):
                text = text.replace(old, new)
        return text


class TaskGrammar:
    """A task's sources, and what they ask, compiled.

    Parameters
    ----------
    task : str
        The name of a file in ``grammars``.

    Attributes
    ----------
    instructions : dict
        False → what train and dev ask; True → what is held out for test. The salutes of the houses come before, and
        natural questions besides.
    weights : dict
        Source → its records in every 1,000 of the corpus.
    """

    def __init__(self, task: str) -> None:
        data = grammar_data(task)
        self.task, self.data = task, data
        self.grammar = Grammar([grammar_data("lexicon"), data], name=f"grammars/{task}.yaml")
        self.sources = {name: _Source(name, entry, self.grammar) for name, entry in data["sources"].items()}
        self.weights = {name: source.weight for name, source in self.sources.items()}
        self.instructions = {
            test: tuple(
                wording
                for entry in data["sources"].values()
                for line in lines_of(entry["held_out" if test else "asks"])
                for wording in wordings(line)
            )
            for test in (False, True)
        }
        self.natural = [
            (
                self.grammar.alternatives(block["text"]),
                {key: _pair(text) for key, text in block.get("labels", {}).items()},
            )
            for block in data["natural"]
        ]
        self.content = _CONTENTS[task](data, self.grammar)

    def make(self, context: Context, source: str) -> Made:
        """One record; the values used are in ``context.slots``."""
        house = self.sources[source]
        if context.random() >= house.natural:
            return self._in_style(context, house)
        return self.ask_naturally(context, house)

    def asked(self, context: Context, source: str) -> Pair:
        """How a source asks, once more."""
        house = self.sources[source]
        salute, ask = house.salute(context), house.asks[context.test](context)
        return Pair(salute.zh + ask.zh, f"{salute.en} {ask.en}")

    def _in_style(self, context: Context, house: _Source) -> Made:
        content = self.content.make(context, house.entry, house.labels)
        keep = [content.output.zh, content.tail.zh, *(value for _, value in context.slots)]
        context.bound = dict(content.names)
        context.bound["body"] = Pair(house.styled(content.body.zh, keep), content.body.en)
        shown, head = house.wrap(context), house.letterhead(context)
        below = self._below(context, house.tail, content)
        return Made(
            self.asked(context, house.name),
            Pair(head.zh + shown.zh + below.zh, f"{head.en} {shown.en}{below.en}"),
            content.output,
            content.wrong,
            f"{self.task}/{content.template}",
        )

    @staticmethod
    def _below(context: Context, tail_of_house: Node | None, content: Content) -> Pair:
        if tail_of_house is None:
            return content.tail
        context.bound.update(content.names)
        tail = tail_of_house(context)
        return Pair(tail.zh.replace("⏎", "\n"), tail.en.replace("⏎", "\n"))

    def ask_naturally(self, context: Context, house: _Source | None = None) -> Made:
        """A question as people ask it, for a source's answers; without one, for those of the first."""
        house = house or next(iter(self.sources.values()))
        if isinstance(self.content, _Reading) and (asked := self.content.unasked(context)):
            return asked
        kinds = [0, 0, *range(1, len(self.natural))]  # the house's own answers are asked for half of the time
        kind = context.choose(kinds)
        node, labels = self.natural[kind]
        context.spoken = isinstance(self.content, (_Mood, _Topic))
        content = self.content.make(context, house.entry, labels or house.labels)
        context.bound = {**content.names, "body": content.body}
        asked = node(context)
        return Made(
            Pair(asked.zh + content.tail.zh, sentence(asked.en) + content.tail.en),
            NOTHING,
            content.output,
            content.wrong,
            f"{self.task}/natural.{kind}.{content.template}",
        )


def _pair(text: str) -> Pair:
    zh, _, en = text.partition(" ~ ")
    return Pair(zh, en)


# --- what the tasks tell and want -----------------------------------------------------------------------------------


class _Telling:
    """A task that tells events of the world."""

    def __init__(self, data: dict, grammar: Grammar) -> None:
        self.data, self.grammar, self.world = data, grammar, World(grammar_data("events"), grammar)

    def make(self, context: Context, entry: dict, labels: dict[str, Pair]) -> Content:
        raise NotImplementedError


def _name(*news: Told) -> str:
    return "+".join(f"{one.event.number}.{one.wording}" for one in news[:1])


class _Mood(_Telling):
    """The mood of an event, for whom the source speaks; sometimes something that matters to nobody stands beside it."""

    def __init__(self, data: dict, grammar: Grammar) -> None:
        super().__init__(data, grammar)
        self.filler = grammar.rule("filler")

    def make(self, context: Context, entry: dict, labels: dict[str, Pair]) -> Content:
        place = context.random()
        mood = "flat" if "flat" in labels and place < 0.24 else "good" if context.random() < 0.5 else "bad"
        news = self.world.tell(context, lambda event: event.mood == mood)
        parts = [news.text]
        if context.random() < 0.3:
            parts.insert(int(context.random() * 2), self.filler(context))
        wrong = [label for other, label in labels.items() if other != mood]
        return Content(joined(parts), labels[mood], wrong, _name(news))


class _Topic(_Telling):
    """The topic of what a text leads with, or of what it ends with."""

    def __init__(self, data: dict, grammar: Grammar) -> None:
        super().__init__(data, grammar)
        self.topics = {pair.zh: pair for pair in map(_pair, lines_of(data["topics"]))}
        self.pages = {topic: _pair(page) for page, topics in data["pages"].items() for topic in topics.split()}

    def label(self, topic: str, entry: dict) -> Pair:
        """How a source calls a topic."""
        if entry.get("coarse"):
            return self.pages[topic]
        label = self.topics[topic]
        return Pair(label.en, label.en) if entry.get("english") else label

    def make(self, context: Context, entry: dict, labels: dict[str, Pair]) -> Content:
        news = self.world.tell(context)
        other = self.world.tell(context, lambda event: event.topic != news.event.topic)
        last = entry["view"] == "last"
        parts = [other.text, news.text] if last else [news.text, other.text]
        if not last and context.random() < (0.6 if context.spoken else 0.25):
            parts = parts[:1]
        right = self.label(news.event.topic, entry)
        wrong = [label for label in {self.label(topic, entry) for topic in self.topics} if label != right]
        return Content(joined(parts), right, sorted(wrong), _name(news))


class _Headline(_Telling):
    """The headline of what a text leads with, or of what it ends with, in the form of the source."""

    def make(self, context: Context, entry: dict, labels: dict[str, Pair]) -> Content:
        news = self.world.tell(context)
        parts = [news.text]
        if not entry.get("one") and context.random() < 0.7:
            other = self.world.tell(context, lambda event: event.topic != news.event.topic)
            parts.insert(0 if entry["view"] == "last" else 1, other.text)
        core = news.say(news.event.core, context)
        form = self.grammar.compile(entry["form"])
        context.bound = {"who": news.who, "core": core}
        return Content(joined(parts), form(context), [], _name(news))


class _Trouble(_Telling):
    """Whether one of two firms is in trouble; the one that is, or the other one."""

    def make(self, context: Context, entry: dict, labels: dict[str, Pair]) -> Content:
        bad = context.random() < 0.55
        first = self.world.tell(context, lambda event: event.firm and (event.mood == "bad") == bad)
        second = self.world.tell(context, lambda event: event.firm and event.mood != "bad")
        both = [first, second]
        context.rng.shuffle(both)
        names = [news.who for news in both]
        context.rng.shuffle(names)
        entities = Pair("，".join(name.zh for name in names), ", ".join(name.en for name in names))
        yes, no = self.grammar.compile(entry["bad"]), _pair(entry["none"])
        answers = []
        for news in (first, second) if entry["names"] == "trouble" else (second, first):
            context.bound = {"x": news.who}
            answers.append(yes(context))
        right = answers[0] if bad else no
        wrong = [answers[1], no] if bad else answers[:1]
        return Content(joined([news.text for news in both]), right, wrong, _name(first), names={"entities": entities})


class _Reading(_Telling):
    """A question about an event, whose answer stands in the text; or the meaning of a term."""

    def __init__(self, data: dict, grammar: Grammar) -> None:
        super().__init__(data, grammar)
        self.exam = task_exam()
        self.share, self.define = data["define"]["share"], grammar.alternatives(data["define"]["text"])

    def make(self, context: Context, entry: dict, labels: dict[str, Pair]) -> Content:
        news = self.world.tell(context)
        parts = [news.text]
        if context.random() < 0.45:
            other = self.world.tell(context, lambda event: event.topic != news.event.topic)
            parts.insert(int(context.random() * 2), other.text)
        question, name = context.choose(news.event.asks)
        asked = news.say(question, context)
        context.bound = {"x": news.bound[name]}
        output = self.grammar.compile(entry["form"])(context)
        names = {"question": Pair(asked.zh, sentence(asked.en))}
        return Content(joined(parts), output, [], f"{_name(news)}/{name}", names=names)

    def unasked(self, context: Context) -> Made | None:
        """Now and then a term to be explained."""
        if context.random() >= self.share:
            return None
        term, meaning = self.exam.concept(context)
        context.bound = {"term": term}
        asked = self.define(context)
        return Made(Pair(asked.zh, sentence(asked.en)), NOTHING, meaning, [], f"qa/define/{term.zh}")


class _Relation:
    """How two entities are related, seen from the first of them or from the second."""

    def __init__(self, data: dict, grammar: Grammar) -> None:
        rare = data["rare"].split()
        self.labels: list[tuple[Pair, Pair]] = []
        self.texts: list[list[Node]] = []
        self.edges: list[float] = []
        for frame in data["frames"]:
            first, second = (_pair(label.strip()) for label in frame["label"].split("=>"))
            self.labels.append((first, second))
            self.texts.append([grammar.compile(line) for line in lines_of(frame["text"])])
            self.edges.append(RARE if first.zh in rare else 1.0)

    def make(self, context: Context, entry: dict, labels: dict[str, Pair]) -> Content:
        place = context.rng.choices(range(len(self.labels)), self.edges)[0]
        side = 0 if entry["side"] == "first" else 1
        texts = self.texts[place]
        wording = int(context.random() * len(texts))
        context.bound = {}
        body = texts[wording](context)
        names = {name: context.bound[name] for name in "ab"}
        right = self.labels[place][side]
        wrong = [both[side] for both in self.labels if both[side] != right]
        return Content(Pair(body.zh, sentence(body.en)), right, wrong, f"{place}.{wording}", names=names)


class _Choice:
    """Multiple choice: the letter of the right option, or its words."""

    def __init__(self, data: dict, grammar: Grammar) -> None:
        self.exam = Exam(data, grammar)

    def make(self, context: Context, entry: dict, labels: dict[str, Pair]) -> Content:
        words = entry["form"] == "option"
        question = self.exam.make(context, table=context.random() < (0.85 if words else 0.25))
        answers = question.options if words else [Pair(letter, letter) for letter in LETTERS]
        wrong = [answer for place, answer in enumerate(answers) if place != question.right]
        tail = Pair("\n" + question.shown.zh, "\n" + question.shown.en)
        return Content(question.stem, answers[question.right], wrong, question.template, tail)


_CONTENTS: dict[str, Callable[[dict, Grammar], Any]] = {
    "sentiment": _Mood,
    "qa": _Reading,
    "summarization": _Headline,
    "relation_extraction": _Relation,
    "classification": _Topic,
    "negative_news": _Trouble,
    "multiple_choice": _Choice,
}


@cache
def task_exam() -> Exam:
    """The exam's bank of concepts, compiled once."""
    data = grammar_data("multiple_choice")
    return Exam(data, Grammar([grammar_data("lexicon"), data], name="grammars/multiple_choice.yaml"))


@cache
def task_grammar(name: str) -> TaskGrammar:
    """The compiled grammar of a task, made once."""
    return TaskGrammar(name)
