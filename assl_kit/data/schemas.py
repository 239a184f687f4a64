"""The forms that instruction data is published in, brought to one: which field of a record says what."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Iterable
from typing import Any

from assl_kit.common.limits import parse_json
from assl_kit.errors import DataError

from .conversations import OPTIONAL

Record = dict[str, Any]
Form = Callable[[Record], Record]

#: Names of lists of messages; first what is asked, then what it is called in Firefly's conversations.
DIALOGUES = ("messages", "conversations", "conversation")
_ASKED = ("instruction", "prompt", "question", "query", "指令", "问题")
_GIVEN = ("input", "context", "query", "输入")
_ANSWERED = (
    "output",
    "response",
    "completion",
    "answer",
    "target",
    "gold_answer",
    "goodanswer",
    "输出",
    "回答",
    "答案",
)
_CHOICES = ("choices", "options")
_LETTERS = "ABCDEFGHIJ"
_ROLES = {
    "system": "system", "developer": "system", "human": "user", "user": "user", "prompter": "user",
    "assistant": "assistant", "gpt": "assistant", "chatgpt": "assistant", "model": "assistant", "bot": "assistant",
}  # fmt: skip
EXPECTED = (
    "Known are instruction (input, system, history) output; prompt response; prompt completion; question answer, also "
    "with options A, B, C …; query response; input target; messages of role and content; conversations of from and "
    "value."
)
CHOICE_INSTRUCTION = "请解答这道金融考试选择题，只写正确选项的字母。"
_CHOICE_OF_SEVERAL = "请解答这道金融考试选择题，写出全部正确选项的字母。"
_MAX_FORMS = 1000
_LONGEST_CELL = {parse_json: 1 << 24, ast.literal_eval: 1 << 16}  # Python's reader takes a hundredfold of memory
_SPOKEN = re.compile(r"(?:^|\n)[^\S\n]*(Human|Assistant)\s*[:：]")


class Misfit(ValueError):
    """A record of a known form that is wrong in itself; the message says how."""


class NothingToRead(DataError):
    """A file that holds no record; beside others in a folder it is left out and named."""


class UnknownForm(NothingToRead):
    """A record in none of the known forms."""


def fields_of(names: Iterable[Any]) -> str:
    """Names of fields for a message, the first dozen of them."""
    known = [repr(str(name)[:40]) for name in names]
    return ", ".join(known[:12]) + (f" and {len(known) - 12} more" if len(known) > 12 else "")


class Mapper:
    """Brings the records of one file to ``instruction``, ``input``, ``output``, ``system`` and ``history``.

    The first record decides whether the file is a plain one, so that a record without an answer in it is one with a
    missing field, and which type its ids have. All other fields are kept as they are.

    Examples
    --------
    >>> record = Mapper()("a.jsonl:1", {"prompt": "什么是债券？", "response": "一种借据。", "lang": "zh"})
    >>> record["instruction"], record["output"], record["lang"]
    ('什么是债券？', '一种借据。', 'zh')
    >>> Mapper()("a.jsonl:1", {"text": "债券是一种借据。"})
    Traceback (most recent call last):
    ...
    assl_kit.data.schemas.UnknownForm: the record has the fields 'text', which is no known form (a.jsonl:1). Known ...
    """

    def __init__(self) -> None:
        self._forms: dict[tuple, Form | None] = {}
        self._plain = self._numbered = False
        self.known = 0  #: how many records were in a known form

    def __call__(self, place: str, record: Record) -> Record:
        """The record in our form: itself where it is already, else a new one.

        Raises
        ------
        UnknownForm
            It is in none of the known forms.
        Misfit
            It is in one, but wrong.
        """
        names = tuple(record)
        if names not in self._forms:
            if len(self._forms) >= _MAX_FORMS:
                self._forms.clear()
            self._forms[names] = self._form(names)
        form = self._forms[names]
        if form is None:
            what = f"the record has the fields {fields_of(names)}" if names else "the record has no field"
            raise UnknownForm(f"{what}, which is no known form", where=place, hint=EXPECTED)
        if self.known == 0:
            self._plain, self._numbered = form in (_plain, _as_it_is, _cflue_application), type(record.get("id")) is int
        self.known += 1
        if self._numbered and type(record.get("id")) is int:
            record = record | {"id": str(record["id"])}
        return form(record)

    def _form(self, names: tuple) -> Form | None:
        there = {"instruction", "output"}.intersection(names)
        if len(there) == 2 or (self._plain and (there or "input" in names)):
            if {"sub_task", "history"}.issubset(names):
                return _cflue_application
            return _plain if set(OPTIONAL).intersection(names) else _as_it_is
        if dialogue := _first(DIALOGUES, names):
            return lambda record: _dialogue(record, dialogue)
        return _question_form(names)


def _first(wanted: Iterable[str], names: Iterable[Any]) -> str | None:
    """The first of the wanted names that is there, as it is written there; capitals do not matter."""
    written = {name.lower(): name for name in reversed(list(names)) if isinstance(name, str)}
    return next((written[name] for name in wanted if name in written), None)


def _question_form(names: tuple) -> Form | None:
    answer = _first(_ANSWERED, names)
    asked = _first(_ASKED, names)
    context = _first([name for name in _GIVEN if asked is None or name != asked.lower()], names)
    if answer is None or (asked is None and context is None):
        return None
    choices = _first(_CHOICES, names)
    if choices is not None or {"A", "B"}.issubset(names):
        return lambda record: _choice(record, asked or context or "", choices, answer)
    places = {"instruction": asked or context, "input": context if asked else None, "output": answer}
    moved = {new: old for new, old in places.items() if old is not None}
    if system := _first(("system", "system_prompt"), names):
        moved["system"] = system
    if (kind := _first(("kind",), names)) and "task" not in names:
        moved["task"] = kind  # Firefly
    return lambda record: _pair(record, moved)


# forms ----------------------------------------------------------------------------------------------------------------
def _as_it_is(record: Record) -> Record:
    instruction = record.get("instruction")
    if isinstance(instruction, str) and instruction.startswith("Human:"):  # BELLE's conversations
        return _spoken(record)
    return record


def _plain(record: Record) -> Record:
    """Alpaca, with a system message and earlier turns."""
    return _as_it_is(record) | _before(record)


def _cflue_application(record: Record) -> Record:
    """CFLUE's applications: some answers are lists of what was extracted."""
    output = record.get("output")
    if isinstance(output, (list, dict)):
        record = record | {"output": json.dumps(output, ensure_ascii=False)}
    return _plain(record)


def _before(record: Record) -> Record:
    """The system message and the history of a record, in our form."""
    before: Record = {}
    if "system" in record:
        before["system"] = "" if record["system"] is None else record["system"]
    if "history" in record:
        before["history"] = history_text(record["history"])
    return before


def _pair(record: Record, moved: dict[str, str]) -> Record:
    asked, answered = record.get(moved["instruction"]), record.get(moved["output"])
    if isinstance(asked, list):  # TRL's conversational prompt and completion
        turns = answered if isinstance(answered, list) else [{"role": "assistant", "content": answered}]
        record = {name: value for name, value in record.items() if name not in moved.values()}
        return _dialogue(record | {"messages": asked + turns}, "messages")
    rest = {name: value for name, value in record.items() if name not in moved.values()}
    return rest | {new: record.get(old) for new, old in moved.items()} | _before(rest)


def _choice(record: Record, asked: str, choices: str | None, answer: str) -> Record:
    """A question with options: FinEval, CFLUE, OpenFinData."""
    if choices is not None:
        options = _options(record[choices])
        used = {choices, asked, answer}
    else:
        letters = [letter for letter in _LETTERS if letter in record]
        options = {letter: record[letter] for letter in letters}
        used = {*letters, asked, answer}
    lines = [option_line(letter, text) for letter, text in options.items() if text is not None and str(text).strip()]
    value, question = record.get(answer), record.get(asked)
    if type(value) is int and 0 <= value < len(options):  # the place of the right one, as in MMLU
        value = list(options)[value]
    if isinstance(value, str) and re.fullmatch(rf"[{_LETTERS}]([\s,，、;；]*[{_LETTERS}])*", value.strip().upper()):
        value = "".join(sorted(set(re.findall(rf"[{_LETTERS}]", value.upper()))))
        if beyond := sorted(set(value) - {line[0] for line in lines}):
            raise Misfit(f"the answer {value!r} names no option {', '.join(beyond)}")
    several = isinstance(value, str) and len(value) > 1
    return {name: part for name, part in record.items() if name not in used} | {
        "instruction": _CHOICE_OF_SEVERAL if several else CHOICE_INSTRUCTION,
        "input": "\n".join([question.strip(), *lines]) if isinstance(question, str) and question.strip() else None,
        "output": value,
        "task": record.get("task") or "multiple_choice",
    }


def option_line(letter: str, text: Any) -> str:
    """``A. text``; a letter that the text begins with is not written twice.

    Examples
    --------
    >>> option_line("A", "A: 月"), option_line("B", " 季 ")
    ('A. 月', 'B. 季')
    """
    return f"{letter}. " + re.sub(rf"^{letter}\s*[:：.．、]\s*", "", str(text).strip())


def _options(value: Any) -> dict[str, Any]:
    """Options by letter: of an object, a list, or the text of one (CFLUE writes Python's)."""
    value = _parsed(value)
    if isinstance(value, list) and len(value) <= len(_LETTERS):
        value = dict(zip(_LETTERS, value, strict=False))
    if not isinstance(value, dict) or not value or not all(str(name) in _LETTERS for name in value):
        raise Misfit("the choices are neither a list nor an object with a text for each letter")
    return {str(name): text for name, text in value.items()}


# conversations --------------------------------------------------------------------------------------------------------
def _dialogue(record: Record, name: str) -> Record:
    """Messages: the last exchange is the record, what was said before is its history."""
    messages = _as_list(record.get(name))
    rest = {other: value for other, value in record.items() if other != name}
    messages = _parsed(messages)
    if not isinstance(messages, list) or not messages:
        raise Misfit(f"{name!r} must be a list of messages")
    system, pairs = exchanges(messages)
    if not pairs:
        raise Misfit(f"no message in {name!r} is the assistant's")
    asked, answered = pairs.pop()
    before = _before(rest)
    if system and before.get("system") not in (None, "", system):
        system = f"{before['system']}\n{system}"
    if system:
        before["system"] = system
    if pairs or before.get("history"):
        before["history"] = _dump([*json.loads(before.get("history") or "[]"), *pairs])
    return rest | before | {"instruction": asked, "input": "", "output": answered}


def exchanges(messages: list) -> tuple[str, list[list[str]]]:
    """The system message, and ``[user, assistant]`` of each exchange; a question at the end without an answer is left.

    Messages of one side in a row are joined by a line break, as are those of the system, which come first.

    Raises
    ------
    Misfit
        A message has no text, or one of tools or of an unknown side, or the system speaks later.

    Examples
    --------
    >>> exchanges([{"role": "user", "content": "问"}, {"role": "assistant", "content": "答"}])
    ('', [['问', '答']])
    """
    system: list[str] = []
    turns: list[tuple[str, list[str]]] = []
    for number, message in enumerate(messages, 1):
        for side, text in _said(message, number):
            if side == "system":
                if turns:
                    raise Misfit(f"message {number} is the system's, after others have spoken")
                system.append(text)
            elif turns and turns[-1][0] == side:
                turns[-1][1].append(text)
            else:
                turns.append((side, [text]))
    texts = ["\n".join(parts) for _, parts in turns]
    if turns and turns[0][0] == "assistant":
        texts.insert(0, "")
    pairs = [[texts[place], texts[place + 1]] for place in range(0, len(texts) - 1, 2)]
    return "\n".join(filter(None, system)), pairs


def _said(message: Any, number: int) -> list[tuple[str, str]]:
    """Who says what in a message; in Firefly's form both sides do."""
    if not isinstance(message, dict):
        raise Misfit(f"message {number} must be an object with who speaks and what is said")
    if {"human", "assistant"} <= message.keys():
        return [("user", _text(message["human"], number)), ("assistant", _text(message["assistant"], number))]
    role = next((message[name] for name in ("role", "from") if message.get(name) is not None), None)
    side = _ROLES.get(role.lower()) if isinstance(role, str) else None
    if side is None:
        raise Misfit(f"message {number} is of the side {str(role)[:40]!r}; known are {', '.join(_ROLES)}")
    return [(side, _text(next((message[n] for n in ("content", "value", "text") if n in message), None), number))]


def _text(content: Any, number: int) -> str:
    if isinstance(content, list) and content and all(isinstance(part, dict) for part in content):
        texts = [part.get("text") for part in content]  # OpenAI's content in parts
        content = "\n".join(texts) if all(isinstance(text, str) for text in texts) else None
    if not isinstance(content, str):
        raise Misfit(f"message {number} is not text")
    return content


def _spoken(record: Record) -> Record:
    """BELLE's conversations: ``Human:`` and ``Assistant:`` in the instruction, up to the answer."""
    parts = _SPOKEN.split(record["instruction"])[1:]
    sides, texts = parts[::2], [text.strip() for text in parts[1::2]]
    if sides[-1:] == ["Assistant"] and not texts[-1]:
        sides, texts = sides[:-1], texts[:-1]
    if len(sides) < 2 or sides != ["Human", "Assistant"] * (len(sides) // 2) + ["Human"] or not all(texts):
        return record
    pairs = [[asked, answered] for asked, answered in zip(texts[:-1:2], texts[1::2], strict=True)]
    return record | {"instruction": texts[-1], "history": _dump(pairs)}


def history_text(value: Any) -> str:
    """Earlier turns as JSON text of a list of ``[user, assistant]``; "" where there are none.

    Parameters
    ----------
    value : list, str or None
        Pairs, or messages, or the JSON text of either.

    Raises
    ------
    Misfit
        It is something else.

    Examples
    --------
    >>> history_text([["问", "答"]]), history_text([])
    ('[["问", "答"]]', '')
    """
    value = _parsed(_as_list(value))
    if value is None or value == "" or value != value:  # NaN where a table has nothing
        return ""
    if not isinstance(value, list):
        raise Misfit("'history' must be a list of pairs of texts")
    if value and all(isinstance(turn, dict) for turn in value):
        _, value = exchanges(value)
    turns = [_as_list(turn) for turn in value]
    pairs = [list(turn) if isinstance(turn, (list, tuple)) else [] for turn in turns]
    if not all(len(pair) == 2 and all(isinstance(text, str) for text in pair) for pair in pairs):
        raise Misfit("'history' must be a list of pairs of texts, what was asked and what was answered")
    return _dump(pairs) if pairs else ""


def _parsed(value: Any) -> Any:
    """A list or an object where there is its text, JSON's or Python's, as in a table's cell; else the value itself."""
    if not isinstance(value, str) or not value.strip().startswith(("[", "{")):
        return value.strip() if isinstance(value, str) else value
    for parse, longest in _LONGEST_CELL.items():
        try:
            if len(value) <= longest:
                return parse(value.strip())
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            continue
    return value


def _as_list(value: Any) -> Any:
    """A list where there is an array, as pandas reads Parquet."""
    return value.tolist() if getattr(value, "ndim", 0) == 1 else value


def _dump(pairs: list) -> str:
    return json.dumps(pairs, ensure_ascii=False)
