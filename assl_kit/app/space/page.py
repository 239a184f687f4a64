"""A Gradio Space: the page of an expert bank. Made by `assl export space`, started by `python app.py`."""

from __future__ import annotations

import json
from pathlib import Path

from assl_kit.experts.silversight import SilverSight

from ..chat import Chat
from ..chat_page import launch_public


def main() -> None:
    """Open what lies beside this file, and serve it where the Space's environment says."""
    folder = Path(__file__).resolve().parent
    settings = json.loads((folder / "space.json").read_text(encoding="utf-8"))
    base = str(folder / "base") if (folder / "base").is_dir() else settings["base"]
    experts = SilverSight.from_pretrained(folder / "bank", base=base, encoder=settings["encoder"])
    launch_public(Chat(experts, title=settings["title"], no_records="This page keeps no training records."))


if __name__ == "__main__":
    main()
