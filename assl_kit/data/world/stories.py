"""What happens in the small world: events by topic and mood, told in two languages, with headlines and questions."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from ..grammar import Grammar, lines_of
from .values import Context, Node, Pair

MOODS = ("good", "bad", "flat")
"""How news is for somebody who holds what it is about."""
RARE = 0.1
"""How often a rare topic or relation comes, against a common one."""
_FIRM = re.compile(r"\{c=(company|bank|fund)\}")


@dataclass(frozen=True)
class Event:
    """A kind of event.

    Attributes
    ----------
    number : int
        Its place in the file.
    topic, mood : str
        What it is about, and one of ``MOODS``.
    firm : bool
        Whether it is about a company, a bank or a fund.
    texts : list of callable
        Its wordings; they bind the same names, of which ``c`` is whom it is about.
    core : callable
        The headline without its subject.
    asks : list of (callable, str)
        Questions, and the name that answers.
    """

    number: int
    topic: str
    mood: str
    firm: bool
    texts: list[Node]
    core: Node
    asks: list[tuple[Node, str]]


class Told(NamedTuple):
    """An event as it was told.

    Its text, names and wording; `text` has no mark at its end.
    """

    event: Event
    wording: int
    text: Pair
    bound: dict[str, Pair]

    @property
    def who(self) -> Pair:
        """Whom it is about."""
        return self.bound["c"]

    def say(self, node: Node, context: Context) -> Pair:
        """A text with the names of this event."""
        before, context.bound = context.bound, self.bound
        try:
            return node(context)
        finally:
            context.bound = before


class World:
    """The events of ``events.yaml`` over a grammar.

    Parameters
    ----------
    data : dict
        The parsed file: "events", and "rare", the topics that come seldom.
    grammar : Grammar
        With the lexicon's rules.

    Attributes
    ----------
    topics : dict
        Topic → weight.
    """

    def __init__(self, data: dict, grammar: Grammar) -> None:
        self.events = [_event(number, entry, grammar) for number, entry in enumerate(data["events"])]
        rare = set(data.get("rare", "").split())
        self.topics = {event.topic: RARE if event.topic in rare else 1.0 for event in self.events}

    def tell(self, context: Context, which: Callable[[Event], bool] = lambda _: True) -> Told:
        """Tell an event for which ``which`` holds: first its topic is drawn, then one of its events, then a wording."""
        events = [event for event in self.events if which(event)]
        topics = {event.topic: self.topics[event.topic] for event in events}
        place = context.random() * sum(topics.values())
        for topic, weight in topics.items():  # noqa: B007 - the one at which the sum is reached
            place -= weight
            if place < 0:
                break
        event = context.choose([event for event in events if event.topic == topic])
        wording = int(context.random() * len(event.texts))
        context.bound = {}
        text = event.texts[wording](context)
        return Told(event, wording, text, context.bound)


def _event(number: int, entry: dict, grammar: Grammar) -> Event:
    lines = lines_of(entry["text"])
    asks = []
    for line in lines_of(entry["asks"]):
        question, _, name = line.rpartition(" => ")
        asks.append((grammar.compile(question), name))
    return Event(
        number=number,
        topic=entry["topic"],
        mood=entry["mood"],
        firm=all(_FIRM.search(line) is not None for line in lines),
        texts=[grammar.compile(line) for line in lines],
        core=grammar.compile(entry["core"]),
        asks=asks,
    )


def joined(parts: list[Pair]) -> Pair:
    """Texts one after the other, as sentences; without a mark at the end.

    Examples
    --------
    >>> joined([Pair("股价上涨", "The share rose"), Pair("央行降息", "the central bank cut rates")])
    Pair(zh='股价上涨。央行降息', en='The share rose. The central bank cut rates')
    """
    return Pair("。".join(part.zh for part in parts), ". ".join(sentence(part.en) for part in parts))


def sentence(text: str) -> str:
    """A text that begins with a capital letter."""
    return text[:1].upper() + text[1:]
