"""What the tiny base is taught: questions in plain words about the training side of the small world, and their answers.

Nothing of a house is taught, neither its words nor what it wants: these are for the experts. Taught are what they build
on: to copy, to tie an option to its letter, to keep to labels that a question names, what is good news and what is bad,
which of two pieces of news comes first, and short natural questions.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib import resources
from random import Random
from typing import Any

from assl_kit.data.grammar import lines_of
from assl_kit.data.task_grammars import TaskGrammar, task_grammar
from assl_kit.data.world.exams import LETTERS
from assl_kit.data.world.stories import MOODS, Told, World, joined
from assl_kit.data.world.values import Context, Pair

FIRST_SEED = 1000
"""Lessons of chunk i are made with seeds from ``FIRST_SEED`` on; the embedded corpus has small seeds."""
SHARES = {
    "natural": 26,
    "mood": 17,
    "topic": 10,
    "trouble": 8,
    "reading": 8,
    "headline": 4,
    "relation": 4,
    "options": 14,
    "term": 3,
    "vague": 4,
    "foreign": 2,
}
"""Share of each kind of lesson, in percent."""
Lesson = tuple[str, str, str]
"""Kind, question, answer."""


@cache
def wordings() -> dict[str, dict[str, list[str]]]:
    """The wordings of ``lessons.yaml``, a list of lines each."""
    import yaml

    data = yaml.safe_load(resources.files(__package__).joinpath("lessons.yaml").read_text(encoding="utf-8"))
    return {kind: {name: lines_of(block) for name, block in part.items()} for kind, part in data.items()}


class Teacher:
    """Makes lessons from one random source, one at a time.

    Parameters
    ----------
    rng : random.Random
    """

    def __init__(self, rng: Random) -> None:
        self.rng, self.said = rng, wordings()
        self.kinds, self.weights = list(SHARES), list(SHARES.values())
        self.context = Context(rng, test=False)

    def lesson(self) -> Lesson:
        """One lesson; its kind by ``SHARES``."""
        kind = self.rng.choices(self.kinds, self.weights)[0]
        self.context = Context(self.rng, test=False)
        question, answer = _LESSONS[kind](self)
        return kind, question, answer

    def ask(self, kind: str, form: str, **names: str) -> str:
        """A wording with names put in; ``\\n`` in it is a line break."""
        text = self.rng.choice(self.said[kind][form]).replace("\\n", "\n")
        for name, value in names.items():
            text = text.replace("{" + name + "}", value)
        return text

    def listed(self, labels: list[str]) -> str:
        """Labels in a random order, as a question names them."""
        labels = self.rng.sample(labels, len(labels))
        mark = self.rng.choice(("、", "、", "、", "，", "／", "还是"))
        if mark == "还是" or self.rng.random() < 0.4:
            return "、".join(labels[:-1]) + self.rng.choice(("还是", "或", "和", "或者")) + labels[-1]
        return mark.join(labels)

    def told(self, which: Callable[..., bool] = lambda _: True, *, spoken: bool = True) -> Told:
        """An event; half of the time of somebody without a name, where ``spoken``."""
        self.context.spoken = spoken and self.rng.random() < 0.5
        told = _world().tell(self.context, which)
        self.context.spoken = False
        return told

    def plain(self, mood: str) -> tuple[str, str]:
        """News as people tell it: its topic and its text."""
        rng, said = self.rng, self.said["plain"]
        topic, _, text = rng.choice(said[mood]).partition(" ")
        who = said["who"][0].split()
        text = text.replace("{s}", rng.choice(who) if rng.random() < 0.75 else "")
        return topic, chosen(rng, text).replace("{t}", rng.choice(said["tenth"][0].split()))

    def two(self, which: Callable[..., bool] = lambda _: True) -> tuple[Told, Told]:
        """Two events of unlike topics."""
        first = self.told(which, spoken=False)
        return first, self.told(lambda event: event.topic != first.event.topic, spoken=False)


def chosen(rng: Random, text: str) -> str:
    """A text with one part of each choice, ``(a|b)``."""
    while "(" in text:
        head, _, rest = text.partition("(")
        choices, _, tail = rest.partition(")")
        text = head + rng.choice(choices.split("|")) + tail
    return text


@cache
def _world() -> World:
    content: Any = _grammar("sentiment").content
    world: World = content.world
    return world


def _grammar(task: str) -> TaskGrammar:
    return task_grammar(task)


def _body(*told: Told) -> str:
    return joined([one.text for one in told]).zh


# --- kinds of lessons -----------------------------------------------------------------------------------------------


def _natural(teacher: Teacher) -> tuple[str, str]:
    """A question as people ask it, of any task; of moods also in the words of people."""
    tasks = ("sentiment", "sentiment", "sentiment", "classification", "negative_news", "qa", "qa", "summarization")
    task = teacher.rng.choice((*tasks, "relation_extraction", "multiple_choice"))
    grammar = _grammar(task)
    if task in ("sentiment", "classification") and teacher.rng.random() < 0.4:
        return _plainly(teacher, grammar)
    made = grammar.ask_naturally(teacher.context)
    return made.instruction.zh, made.output.zh


def _plainly(teacher: Teacher, grammar: TaskGrammar) -> tuple[str, str]:
    """A natural question about one or two pieces of plain news of one mood."""
    rng = teacher.rng
    node, labels = rng.choice(grammar.natural)
    labels = labels or next(iter(grammar.sources.values())).labels
    mood = rng.choice([mood for mood in MOODS if not labels or mood in labels])
    topic, text = teacher.plain(mood)
    if labels and rng.random() < 0.35:
        text = f"{text}，{teacher.plain(mood)[1]}"
    teacher.context.bound = {"body": Pair(text, text)}
    return node(teacher.context).zh, labels[mood].zh if labels else topic


def _mood(teacher: Teacher) -> tuple[str, str]:
    """Good or bad news, in labels that the question names."""
    rng, said = teacher.rng, teacher.said["mood"]
    moods = MOODS[:2] if rng.random() < 0.35 else MOODS
    mood = rng.choice(moods)
    if rng.random() < 0.4:
        body = teacher.plain(mood)[1]
    else:
        told = [teacher.told(lambda event: event.mood == mood)]
        if rng.random() < 0.15:
            told.insert(rng.randrange(2), teacher.told(lambda event: event.mood == "flat", spoken=False))
        body = _body(*told)
    if rng.random() < 0.25:
        signs = rng.sample(said["signs"][0].split(), 3)
        asked = teacher.ask("mood", "map", body=body, a=signs[0], b=signs[1], c=signs[2])
        return asked, signs[MOODS.index(mood)]
    labels = rng.choice(said["families"]).split()[: len(moods)]
    asked = teacher.ask("mood", "ask", body=body, labels=teacher.listed(labels))
    return asked, labels[MOODS.index(mood)]


def _topic(teacher: Teacher) -> tuple[str, str]:
    """The topic, from a list in the question, or of the first or the last sentence."""
    rng, topics = teacher.rng, list(_world().topics)
    if rng.random() < 0.35:
        both, side = teacher.two(), rng.choice(("first", "last"))
        return teacher.ask("topic", side, body=_body(*both)), both[0 if side == "first" else 1].event.topic
    if rng.random() < 0.25:
        right, body = teacher.plain(rng.choice(MOODS))
    else:
        told = teacher.told()
        right, body = told.event.topic, _body(told)
    others = rng.sample([topic for topic in topics if topic != right], rng.randint(1, 5))
    labels = [right, *others] if rng.random() < 0.8 else topics
    return teacher.ask("topic", "ask", body=body, labels=teacher.listed(labels)), right


def _trouble(teacher: Teacher) -> tuple[str, str]:
    """Which of two firms is in trouble, or which is not."""
    rng = teacher.rng
    bad = teacher.told(lambda event: event.firm and event.mood == "bad", spoken=False)
    good = teacher.told(lambda event: event.firm and event.mood != "bad", spoken=False)
    form = rng.choice(("bad", "bad", "good", "any"))
    if form == "any":
        if rng.random() < 0.5:
            bad = teacher.told(lambda event: event.firm and event.mood != "bad", spoken=False)
        answer = "有" if bad.event.mood == "bad" else "没有"
    else:
        answer = (bad if form == "bad" else good).who.zh
    both, names = [bad, good], [bad.who.zh, good.who.zh]
    rng.shuffle(both)
    rng.shuffle(names)
    return teacher.ask("trouble", form, body=_body(*both), x=names[0], y=names[1]), answer


def _reading(teacher: Teacher) -> tuple[str, str]:
    """A question whose answer stands in the text; or whom the first or the last sentence is about."""
    rng, both = teacher.rng, teacher.two()
    if rng.random() < 0.2:
        side = rng.choice(("first", "last"))
        return teacher.ask("reading", side, body=_body(*both)), both[0 if side == "first" else 1].who.zh
    place = rng.randrange(2)
    node, name = rng.choice(both[place].event.asks)
    question = both[place].say(node, teacher.context).zh
    shown = both if rng.random() < 0.5 else both[place : place + 1]
    return teacher.ask("reading", "ask", body=_body(*shown), question=question), both[place].bound[name].zh


def _headline(teacher: Teacher) -> tuple[str, str]:
    """A headline of the first piece of news, or of the last where the question says so."""
    both = teacher.two()
    last = teacher.rng.random() < 0.3
    shown = both if last or teacher.rng.random() < 0.5 else both[:1]
    told = both[1] if last else both[0]
    core = told.say(told.event.core, teacher.context).zh
    return teacher.ask("headline", "last" if last else "ask", body=_body(*shown)), f"{told.who.zh}：{core}"


def _relation(teacher: Teacher) -> tuple[str, str]:
    """How two entities are related, seen from the first."""
    grammar, rng = _grammar("relation_extraction"), teacher.rng
    content = grammar.content.make(teacher.context, {"side": "first"}, {})
    names = {name: content.names[name].zh for name in "ab"}
    others = rng.sample([label.zh for label in content.wrong], rng.randint(2, 6))
    labels = teacher.listed([content.output.zh, *others])
    return teacher.ask("relation", "ask", body=content.body.zh, labels=labels, **names), content.output.zh


def _options(teacher: Teacher) -> tuple[str, str]:
    """Multiple choice: the letter or the words, as the question wants; or which option stands where."""
    rng = teacher.rng
    exam = _grammar("multiple_choice").content.exam
    question = exam.make(teacher.context, table=rng.random() < 0.6)
    form = rng.choice(("letter", "letter", "letter", "letter", "words", "words", "where", "what"))
    place = question.right if form in ("letter", "words") else rng.randrange(4)
    words = question.options[place].zh
    asked = words if form == "where" else LETTERS[place]
    text = teacher.ask("options", form, stem=question.stem.zh, options=question.shown.zh, x=asked)
    return text, LETTERS[place] if form in ("letter", "where") else words


def option_lessons(n: int, seed: int = 0) -> list[Lesson]:
    """Multiple choice alone, to measure by what is asked: of terms and of tables, the letter and the words."""
    teacher, made = Teacher(Random(f"{FIRST_SEED + seed} options")), []
    exam = _grammar("multiple_choice").content.exam
    for number in range(n):
        table, form = number % 2 == 1, ("letter", "words")[number // 2 % 2]
        question = exam.make(Context(teacher.rng, test=False), table=table)
        text = teacher.ask("options", form, stem=question.stem.zh, options=question.shown.zh)
        answer = LETTERS[question.right] if form == "letter" else question.options[question.right].zh
        made.append((f"{'table' if table else 'term'}, {form}", text, answer))
    return made


def _term(teacher: Teacher) -> tuple[str, str]:
    """A term's meaning, or the term of a meaning."""
    term, meaning = _grammar("multiple_choice").content.exam.concept(teacher.context)
    if teacher.rng.random() < 0.7:
        return teacher.ask("term", "ask", x=term.zh), meaning.zh
    return teacher.ask("term", "back", x=meaning.zh), term.zh


def _vague(teacher: Teacher) -> tuple[str, str]:
    """A question that leaves open what is wanted, and one of many forms of answer."""
    rng, both = teacher.rng, teacher.two(lambda event: event.firm)
    told = rng.choice(both)
    core, who = told.say(told.event.core, teacher.context).zh, told.who.zh
    families = [family.split() for family in teacher.said["mood"]["families"]]
    mood = rng.choice(families)[MOODS.index(told.event.mood)]
    answer = rng.choice((mood, mood, told.event.topic, f"{who}：{core}", core, who, f"是，{who}", f"答：{core}。"))
    return teacher.ask("vague", "ask", body=_body(*both)), answer


def _foreign(teacher: Teacher) -> tuple[str, str]:
    """What is none of its business."""
    rng = teacher.rng
    place = _grammar("sentiment").grammar.rule("place")(teacher.context)
    line = rng.choice(teacher.said["foreign"]["ask"])
    text = line.replace("{place}", place.zh).replace("{place_en}", place.en).replace("{n}", str(rng.randint(2, 99)))
    if not text.startswith(("print", "for", "def", "SELECT")):
        text = chosen(rng, text)
    return text, rng.choice(teacher.said["foreign"]["answer"])


_LESSONS: dict[str, Callable[[Teacher], tuple[str, str]]] = {
    "natural": _natural,
    "mood": _mood,
    "topic": _topic,
    "trouble": _trouble,
    "reading": _reading,
    "headline": _headline,
    "relation": _relation,
    "options": _options,
    "term": _term,
    "vague": _vague,
    "foreign": _foreign,
}


def chunk(index: int, size: int, seed: int = 0) -> list[Lesson]:
    """Chunk ``index`` of the training text: ``size`` lessons, made of values of the training side alone."""
    teacher = Teacher(Random(f"{FIRST_SEED + seed} {index}"))
    return [teacher.lesson() for _ in range(size)]
