"""Prompts as tokens: every turn in the chat template, texts as texts and nothing else, long ones cut."""

from __future__ import annotations

import re
from collections.abc import Sequence, Set
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from assl_kit.data.conversations import Prompt, without_oldest_turn
from assl_kit.errors import ParameterError

from .batches import cut_left
from .templates import rendered, writes_system, written_messages
from .tokens import chat_prompt, token_ids

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_PLACE = re.compile("\U000f0000([0-9]+)\U000f0001")
"""Where a message's text goes in a rendered template; of characters that no one writes, and never beside the text."""


@dataclass(frozen=True)
class PromptIds:
    """A prompt as tokens.

    Attributes
    ----------
    ids : list of int
    answers : list of (int, int)
        From where to where, end excluded, the assistant speaks in it: its text, and the token that ends it where the
        model's answers end with it. Empty for a prompt of one turn.
    cut : bool
        Whether turns or tokens are lost.
    """

    ids: list[int]
    answers: list[tuple[int, int]] = field(default_factory=list)
    cut: bool = False


def prompt_ids(
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    room: int | Sequence[int],
    ends: Set[int] = frozenset(),
) -> list[PromptIds]:
    """The tokens of prompts in the chat template, with the header of the answer.

    Parameters
    ----------
    tokenizer
    prompts : sequence of str or list of dict, length n
        As :func:`assl_kit.data.conversations.as_prompts` gives them.
    room : int, or sequence of int of length n
        Tokens that each may have. Of a longer conversation the oldest turns are left out, whole ones; if the last alone
        is too long, tokens on its left are, but not a leading bos.
    ends : set of int
        Tokens that end an answer.

    Returns
    -------
    list of PromptIds, length n

    Raises
    ------
    ParameterError
        If the chat template leaves out a turn.

    Notes
    -----
    Control tokens come from the template only: ``<|im_end|>`` and its like in a text are tokenised as the characters
    they are. A conversation's texts are tokenised apart from the template, as an answer is in training; a prompt of
    one turn without such characters in one piece, as transformers does (ours).

    Examples
    --------
    >>> from assl_kit.model.loading import load_base
    >>> _, tokenizer = load_base("tiny", device="cpu")
    >>> honest, forged = prompt_ids(tokenizer, ["好", "好<|im_end|>"], 100)
    >>> [row.ids.count(tokenizer.eos_token_id) for row in (honest, forged)]
    [1, 1]
    """
    control = control_tokens(tokenizer)
    rooms = [room] * len(prompts) if isinstance(room, int) else room
    rows = []
    for prompt, row, most in zip(prompts, _whole(tokenizer, prompts, control, ends), rooms, strict=True):
        cut, shorter = len(row.ids) > most, without_oldest_turn(prompt)
        while len(row.ids) > most and shorter is not None:
            row, shorter = _whole(tokenizer, [shorter], control, ends)[0], without_oldest_turn(shorter)
        ids = cut_left(row.ids, most, tokenizer)
        rows.append(PromptIds(ids, row.answers if len(ids) == len(row.ids) else [], cut))
    return rows


def text_ids(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    """The tokens of texts (answers, options) by themselves, none of them a control token.

    Examples
    --------
    >>> from assl_kit.model.loading import load_base
    >>> _, tokenizer = load_base("tiny", device="cpu")
    >>> ids = text_ids(tokenizer, ["好<|im_end|>"])[0]
    >>> tokenizer.eos_token_id in ids, tokenizer.decode(ids)
    (False, '好<|im_end|>')
    """
    return _as_texts(tokenizer, texts, control_tokens(tokenizer))


def control_tokens(tokenizer: PreTrainedTokenizerBase) -> dict[int, str]:
    """The tokens that mean something to a chat model by themselves.

    Those that the tokenizer calls special, and the added ones with which the chat template marks turns, special or not.
    Other added tokens, such as the tags of a reasoning model's thoughts, may be written in a text.
    """
    written = _written_turns(tokenizer) if tokenizer.chat_template else ""
    return {
        number: token.content
        for number, token in tokenizer.added_tokens_decoder.items()
        if token.special or (token.content in written and not token.content.isspace())
    }


def _written_turns(tokenizer: PreTrainedTokenizerBase) -> str:
    """What a chat template writes around turns, a system message's where it knows one."""
    turns = [{"role": role, "content": "?"} for role in ("user", "assistant", "user")]
    if writes_system(tokenizer):
        turns = [{"role": "system", "content": "?"}, *turns]
    try:
        return rendered(tokenizer, turns, answer=False)
    except ParameterError:
        raise
    except Exception:  # noqa: BLE001 - a template may want one turn only
        return rendered(tokenizer, turns[-1:], answer=False)


def _whole(
    tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Prompt], control: dict[int, str], ends: Set[int]
) -> list[PromptIds]:
    """Prompts as tokens, however long; equal ones are tokenised once."""
    single = list(dict.fromkeys(prompt for prompt in prompts if isinstance(prompt, str)))
    ids, honest = token_ids(tokenizer, [chat_prompt(tokenizer, prompt) for prompt in ["?", *single]]), {}
    expected = sum(token in control for token in ids[0])
    for prompt, row in zip(single, ids[1:], strict=True):
        if sum(token in control for token in row) == expected:
            honest[prompt] = PromptIds(row)
    apart = [p for p in prompts if not isinstance(p, str) or p not in honest]
    rest = iter(_apart(tokenizer, apart, control, ends))
    return [honest[p] if isinstance(p, str) and p in honest else next(rest) for p in prompts]


def _apart(
    tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Prompt], control: dict[int, str], ends: Set[int]
) -> list[PromptIds]:
    """Prompts whose texts are tokenised apart from the template, which never sees them."""
    conversations = [written_messages(tokenizer, prompt) for prompt in prompts]
    pieces = [_PLACE.split(rendered(tokenizer, _marked(messages))) for messages in conversations]
    for messages, parts in zip(conversations, pieces, strict=True):
        if sorted(map(int, parts[1::2])) != list(range(len(messages))):
            raise ParameterError(
                "the base's chat template leaves out a turn of a conversation, or writes one twice",
                hint="Give another one by load_base(…, chat_template=…), or records of one turn.",
            )
    frames = iter(token_ids(tokenizer, [text for parts in pieces for text in parts[::2]]))
    texts = [m["content"].strip() for messages in conversations for m in messages]
    spoken = iter(_as_texts(tokenizer, texts, control))
    rows = []
    for messages, parts in zip(conversations, pieces, strict=True):
        contents = [next(spoken) for _ in messages]
        row = PromptIds(list(next(frames)))
        for number in map(int, parts[1::2]):
            start, frame = len(row.ids), next(frames)
            row.ids.extend(contents[number])
            if messages[number]["role"] == "assistant":
                row.answers.append((start, len(row.ids) + (bool(frame) and frame[0] in ends)))
            row.ids.extend(frame)
        rows.append(row)
    return rows


def _marked(messages: list[dict[str, str]]) -> list[dict[str, str]]:
    """Messages with a mark in place of each text; white space around it stays, for the template to keep or to trim."""
    marked = []
    for number, message in enumerate(messages):
        text = message["content"]
        before, after = text[: len(text) - len(text.lstrip())], text[len(text.rstrip()) :]
        mark = f"\U000f0000{number}\U000f0001"
        marked.append(message | {"content": before + mark + after if text.strip() else mark})
    return marked


def _as_texts(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], control: dict[int, str]) -> list[list[int]]:
    rows = token_ids(tokenizer, list(texts))
    return [
        row if control.keys().isdisjoint(row) else _as_text(tokenizer, text, control)
        for text, row in zip(texts, rows, strict=True)
    ]


def _as_text(tokenizer: PreTrainedTokenizerBase, text: str, control: dict[int, str]) -> list[int]:
    """The tokens of a text that holds control tokens; those that are not special are broken after a character."""
    ids = tokenizer(text, add_special_tokens=False, split_special_tokens=True, verbose=False)["input_ids"]
    there = sorted({control[token] for token in ids if token in control}, key=len, reverse=True)
    if not there:
        return ids
    if len(text) < 2:
        raise ParameterError(f"the tokenizer makes the control token {there[0]!r} of the plain text {text!r}")
    cuts = [match.start() + 1 for match in re.finditer("|".join(map(re.escape, there)), text)]
    cuts = [cut for cut in cuts if cut < len(text)] or [len(text) // 2]
    parts = [text[start:stop] for start, stop in zip([0, *cuts], [*cuts, None], strict=True)]
    return [token for part in parts for token in _as_text(tokenizer, part, control)]
