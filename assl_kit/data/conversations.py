"""Prompts of one turn or of several: their two forms, what a record makes of them, and the text that is embedded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

from assl_kit.common.limits import parse_json
from assl_kit.errors import DataError

Message: TypeAlias = dict[str, str]
"""``{"role": …, "content": …}`` as chat templates take it; the role is ``system``, ``user`` or ``assistant``."""
Prompt: TypeAlias = "str | list[Message]"
"""One user turn as text, or several turns as messages; the last of them is the user's."""

OPTIONAL = ("system", "history")
"""Columns that are there only if a record has them: the system message; earlier turns, see `read_history`."""
_TURNS = ("user", "assistant")
_HINT = "Messages are an optional system one, then user and assistant in turn; the last one is the user's."


def conversation(question: str, system: str = "", history: Sequence[Sequence[str]] = ()) -> Prompt:
    """A question with what was said before it; the question itself where nothing was.

    Parameters
    ----------
    question : str
    system : str
        The system message; "" for none.
    history : sequence of (str, str)
        Earlier turns: what the user asked, what the assistant answered.

    Returns
    -------
    str or list of dict

    Examples
    --------
    >>> conversation("那么二季度呢？")
    '那么二季度呢？'
    >>> [message["role"] for message in conversation("那么二季度呢？", "你是分析师。", [["一季度？", "43亿元"]])]
    ['system', 'user', 'assistant', 'user']
    """
    if not system.strip() and not history:
        return question
    messages = [{"role": "system", "content": system}] if system.strip() else []
    for asked, answered in history:
        messages += [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}]
    return [*messages, {"role": "user", "content": question}]


def read_history(text: Any, where: str) -> list[list[str]]:
    """The earlier turns in a record's ``history``: a list of pairs, or its JSON text; "" is none.

    Raises
    ------
    DataError
        If it is anything else; ``where`` names the record.

    Examples
    --------
    >>> read_history('[["一季度？", "43亿元"]]', "record a")
    [['一季度？', '43亿元']]
    """
    turns = text
    if isinstance(text, str):
        try:
            turns = parse_json(text) if text.strip() else []
        except ValueError:
            turns = None
    elif not isinstance(text, list | tuple):
        turns = [] if text is None or text != text else None  # NaN stands for none in a merged table
    pairs = [list(pair) for pair in turns or [] if isinstance(pair, list | tuple)]
    is_list = isinstance(turns, list | tuple) and len(pairs) == len(turns)
    if not is_list or any(len(pair) != 2 or not all(isinstance(part, str) for part in pair) for pair in pairs):
        raise DataError(
            "'history' is no list of pairs of texts",
            where=where,
            hint='Write it as JSON: [["question", "answer"], …], the oldest turn first.',
        )
    return pairs


def messages_of(prompt: Prompt) -> list[Message]:
    """A prompt as chat messages.

    Examples
    --------
    >>> messages_of("什么是债券？")
    [{'role': 'user', 'content': '什么是债券？'}]
    """
    return [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)


def without_oldest_turn(prompt: Prompt) -> Prompt | None:
    """A prompt without its first question and the answer to it; a system message stays. None where nothing can go.

    Examples
    --------
    >>> without_oldest_turn(conversation("二季度？", history=[["一季度？", "43亿元"]]))
    [{'role': 'user', 'content': '二季度？'}]
    >>> without_oldest_turn("二季度？") is None
    True
    """
    messages = messages_of(prompt)
    first = int(messages[0]["role"] == "system")
    return messages[:first] + messages[first + 2 :] if len(messages) > first + 2 else None


def prompt_text(prompt: Prompt) -> str:
    """The text of a prompt that is embedded: the question, then the system message and the turns before it.

    Parameters
    ----------
    prompt : str or list of dict

    Returns
    -------
    str
        A prompt of one turn as it is. Else a line for each message; the question comes first, since an encoder that
        takes a bounded text cuts its end (ours).

    Examples
    --------
    >>> prompt_text(conversation("那么二季度呢？", history=[["一季度营收？", "43亿元"]]))
    '那么二季度呢？\\n一季度营收？\\n43亿元'
    """
    if isinstance(prompt, str):
        return prompt
    return "\n".join([prompt[-1]["content"], *(message["content"] for message in prompt[:-1])])


def as_prompts(values: Sequence[Any], name: str = "prompts") -> list[Prompt]:
    """A list of prompts: each a text, or the messages of a conversation with nothing but role and content.

    Raises
    ------
    DataError
        If it is one string, or a value in it is no prompt; names the row.

    Examples
    --------
    >>> try:
    ...     as_prompts(["什么是债券？", [{"role": "assistant", "content": "好"}]])
    ... except DataError as error:
    ...     print(error.what, "at", error.where)
    prompts: the last message is not the user's at row 1
    """
    if isinstance(values, str):
        raise DataError(f"{name} must be a sequence of strings, not one string")
    return [
        value if isinstance(value, str) else _checked(value, name, f"row {row}") for row, value in enumerate(values)
    ]


def _checked(value: Any, name: str, where: str) -> list[Message]:
    if isinstance(value, dict):
        raise DataError(
            f"{name} must be strings or lists of messages, not one message",
            where=where,
            hint="A conversation is one prompt: put its messages into a list of their own.",
        )
    if not isinstance(value, list | tuple):
        raise DataError(f"{name} must be strings, not {type(value).__name__}", where=where)
    messages = []
    for place, message in enumerate(value):
        role, content = (message.get(key) if isinstance(message, dict) else None for key in ("role", "content"))
        if not isinstance(role, str) or not isinstance(content, str):
            raise DataError(f"{name}: message {place} has no role and content of text", where=where, hint=_HINT)
        messages.append({"role": role, "content": content})
    if not messages or messages[-1]["role"] != "user":
        raise DataError(f"{name}: the last message is not the user's", where=where, hint=_HINT)
    first = int(messages[0]["role"] == "system")
    for place, message in enumerate(messages[first:]):
        if message["role"] != _TURNS[place % 2]:
            what = f"message {place + first} is the {message['role']}'s, not the {_TURNS[place % 2]}'s"
            raise DataError(f"{name}: {what}", where=where, hint=_HINT)
    return messages


def prompt_texts(values: Sequence[Any], name: str = "texts") -> list[str]:
    """The `prompt_text` of each of these prompts; checked as by `as_prompts`.

    Examples
    --------
    >>> prompt_texts(["什么是债券？", conversation("股票呢？", history=[["债券？", "一种借据。"]])])
    ['什么是债券？', '股票呢？\\n债券？\\n一种借据。']
    """
    return [prompt_text(prompt) for prompt in as_prompts(values, name)]


def is_conversation(value: Any) -> bool:
    """Whether a value is meant as the messages of one conversation, right ones or not."""
    return isinstance(value, list | tuple) and bool(value) and isinstance(value[0], dict)


def as_questions(values: Any) -> list[Prompt]:
    """Prompts that ask something; one text, or the messages of one conversation, is one question.

    Raises
    ------
    DataError
        As `as_prompts`, and if a question is empty; names it.

    Examples
    --------
    >>> as_questions("什么是债券？")
    ['什么是债券？']
    """
    alone = isinstance(values, str) or is_conversation(values)
    questions = as_prompts([values] if alone else values, "questions")
    for row, question in enumerate(questions):
        if not messages_of(question)[-1]["content"].strip():
            raise DataError("a question is empty", where=f"question {row}", hint="Leave it out.")
    return questions
