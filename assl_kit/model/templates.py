"""Chat templates: messages as a tokenizer's template writes them, and the two things that templates differ in."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from assl_kit.common.limits import MAX_TEMPLATE
from assl_kit.data.conversations import Message, Prompt, messages_of
from assl_kit.errors import ParameterError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

GEMMA_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<start_of_turn>"
    "{{ 'model' if message['role'] == 'assistant' else message['role'] }}\n{{ message['content'] | trim }}"
    "<end_of_turn>\n"
    "{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
"""Turns of a user and the model as Gemma's chat models write them; it puts the bos token, so the tokenizer must not."""
_PROBE = "\U000f0000"
_SWITCH = "enable_thinking"
_OFF = "{%- set " + _SWITCH + " = false %}"
_FOLD = (
    "{%- if messages[0]['role'] == 'system' %}{%- set messages = [{'role': 'user', "
    "'content': messages[0]['content'] + '\n\n' + messages[1]['content']}] + messages[2:] %}{%- endif %}"
)


_TRIAL = Path(__file__).parent / "trial" / "render.py"
TRIAL_SECONDS = 5
"""Seconds of computing that a template may take for the short conversations it is tried with, ten of waiting each."""
_TRIAL_BYTES = 512 << 20
_USER, _ANSWER, _SYSTEM = ({"role": role, "content": "?"} for role in ("user", "assistant", "system"))
_CONVERSATIONS = [[_USER], [_USER, _ANSWER, _USER], [_SYSTEM, _USER], [_SYSTEM, _USER, _ANSWER, _USER]]


def rendered(tokenizer: PreTrainedTokenizerBase, messages: list[Message], *, answer: bool = True) -> str:
    """Messages in the tokenizer's chat template, with the header of the answer added.

    Raises
    ------
    ParameterError
        As `check_template`. What the template itself raises is let through.
    """
    check_template(tokenizer)
    return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=answer)


def check_template(tokenizer: PreTrainedTokenizerBase) -> None:
    """Try a chat template, once, in a process of its own, before it runs in this one.

    A template is a program in a sandbox, which bounds neither its time nor its memory.

    Raises
    ------
    ParameterError
        If it is longer than ``MAX_TEMPLATE``, or takes longer, needs more memory or writes more for a conversation of
        three turns than any that is meant well.
    """
    variables = tuple(sorted((name, str(token)) for name, token in tokenizer.special_tokens_map.items()))
    for text in _texts(tokenizer):
        if wrong := _wrong_with(text, variables):
            raise ParameterError(f"the chat template is not used: {wrong}", hint="Give another one.")


@lru_cache(maxsize=64)
def _wrong_with(template: str, variables: tuple[tuple[str, str], ...]) -> str | None:
    if len(template) > MAX_TEMPLATE:
        return f"it has {len(template):,} characters, at most {MAX_TEMPLATE:,} are read"
    task = dict(
        template=template,
        variables=dict(variables),
        conversations=_CONVERSATIONS,
        seconds=TRIAL_SECONDS,
        bytes=_TRIAL_BYTES,
    )
    try:
        program = subprocess.run(
            [sys.executable, str(_TRIAL)],
            input=json.dumps(task),
            capture_output=True,
            text=True,
            timeout=10 * TRIAL_SECONDS,
            check=False,
        )
        outcome = json.loads(program.stdout)
    except (subprocess.TimeoutExpired, json.JSONDecodeError):  # the system ends a program beyond its bounds
        return f"it takes longer than {TRIAL_SECONDS} s, or more memory than a template may take"
    if outcome.get("longest", 0) > MAX_TEMPLATE:
        return f"of three turns it writes {outcome['longest']:,} characters"
    return outcome.get("wrong")


def written_messages(tokenizer: PreTrainedTokenizerBase, prompt: Prompt) -> list[Message]:
    """A prompt as messages that the chat template writes.

    Where it knows no system message, that one stands at the head of the first user turn, as Gemma's models have it.
    """
    messages = messages_of(prompt)
    if messages[0]["role"] != "system" or writes_system(tokenizer):
        return messages
    first = f"{messages[0]['content']}\n\n{messages[1]['content']}"
    return [{"role": "user", "content": first}, *messages[2:]]


def writes_system(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the chat template writes a system message: it is tried, since some refuse it and some leave it out."""
    if tokenizer.chat_template == GEMMA_TEMPLATE:  # it would open a turn of a name that Gemma has never seen
        return False
    try:
        return _PROBE in rendered(tokenizer, [{"role": "system", "content": _PROBE}, {"role": "user", "content": "?"}])
    except ParameterError:
        raise
    except Exception:  # noqa: BLE001 - jinja's kinds, and whatever the template's expressions raise
        return False


def fold_system(tokenizer: PreTrainedTokenizerBase) -> None:
    """Have a template that knows no system message do what `written_messages` does, for programs that have only it."""
    if isinstance(tokenizer.chat_template, str) and not writes_system(tokenizer):
        tokenizer.chat_template = _FOLD + tokenizer.chat_template


def thinks(tokenizer: PreTrainedTokenizerBase) -> bool | None:
    """Whether the model may think aloud before it answers; None where the chat template does not know the question."""
    templates = _texts(tokenizer)
    if not any(_SWITCH in text for text in templates):
        return None
    return not all(text.startswith(_OFF) for text in templates if _SWITCH in text)


def stop_thinking(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Have the chat template ask for answers without thinking, wherever it is used; False where it has no such switch.

    The setting becomes a part of the template, and so of the tokenizer's fingerprint and of what is saved with it.
    """
    if not thinks(tokenizer):
        return False
    template = tokenizer.chat_template
    if isinstance(template, dict):
        tokenizer.chat_template = {n: _OFF + text if _SWITCH in text else text for n, text in template.items()}
    else:
        tokenizer.chat_template = _OFF + template
    return True


def _texts(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    template = tokenizer.chat_template
    return list(template.values()) if isinstance(template, dict) else [template or ""]
