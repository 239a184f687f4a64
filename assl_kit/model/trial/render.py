"""A program that renders a chat template with little time and memory; `assl_kit.model.templates` starts it.

It reads JSON from its input, ``{template, variables, conversations, seconds, bytes}``, and writes how many characters
came out at most, or what is wrong with the template. Of this package it imports nothing, so that it starts quickly.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import jinja2
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment


class _Generation(Extension):
    """``{% generation %}``, by which transformers marks what the assistant says."""

    tags = {"generation"}

    def parse(self, parser: jinja2.parser.Parser) -> Any:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _limit(seconds: int, size: int) -> None:
    try:
        import resource
    except ImportError:  # Windows: only the time that the parent waits is bounded
        return
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        resource.setrlimit(resource.RLIMIT_AS, (size, size))
    except (OSError, ValueError):
        if sys.platform == "linux":  # macOS has this limit by name and refuses most values: the time is bounded there
            raise


def _refuse(message: str) -> None:
    raise jinja2.TemplateError(message)


def _tojson(value: Any, **options: Any) -> str:
    return json.dumps(value, **({"ensure_ascii": False} | options))


def trial(task: dict[str, Any]) -> dict[str, Any]:
    """Render each conversation, with and without the header of an answer."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
    )
    environment.filters["tojson"] = _tojson
    environment.globals |= {"raise_exception": _refuse, "strftime_now": lambda form: "2026-01-01"[: len(form)]}
    try:
        template = environment.from_string(task["template"])
    except jinja2.TemplateError as error:
        return {"wrong": f"{type(error).__name__}: {error}"}
    longest = 0
    for messages in task["conversations"]:
        for answer in (True, False):
            variables = {"tools": None, "documents": None, "add_generation_prompt": answer} | task["variables"]
            try:
                longest = max(longest, len(template.render(messages=messages, **variables)))
            except MemoryError:
                raise
            except Exception:  # noqa: BLE001 - a template may refuse a conversation; others are told where it is used
                continue
    return {"longest": longest}


def main() -> None:
    task = json.load(sys.stdin)
    _limit(task["seconds"], task["bytes"])
    try:
        outcome = trial(task)
    except (MemoryError, RecursionError) as error:
        outcome = {"wrong": f"it needs more memory than a template may take ({type(error).__name__})"}
    print(json.dumps(outcome))


if __name__ == "__main__":
    main()
