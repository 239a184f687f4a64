"""How servers of different kinds are asked: all by an OpenAI-compatible interface, each with its own small differences.

It stands alone, beside `client.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Form:
    """What one kind of server wants to be told.

    Attributes
    ----------
    address : str
        Where it listens by default.
    limit : str
        What it calls the most tokens of an answer.
    lists : bool
        Whether it lists its adapters at ``/v1/models``; one that does not loads them when they are asked for.
    thinks : bool
        Whether it hands ``chat_template_kwargs`` to the chat template.
    more : dict
        What else a request says.
    """

    address: str
    limit: str = "max_completion_tokens"
    lists: bool = True
    thinks: bool = True
    more: dict[str, Any] = field(default_factory=dict)


FORMS = {
    "vllm": Form("http://localhost:8000"),
    "sglang": Form("http://localhost:30000"),
    "lorax": Form("http://localhost:8080", "max_tokens", lists=False, thinks=False, more={"adapter_source": "local"}),
}
