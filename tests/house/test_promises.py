"""docs/security.md names the tests that hold its promises."""

from __future__ import annotations

import re

from helpers import ROOT

TEXT = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")


def test_the_tests_of_each_promise_exist():
    files = re.findall(r"`(tests/[^`]+\.py)`", TEXT)
    assert len(set(files)) > 10
    assert [file for file in files if not (ROOT / file).is_file()] == []


def test_every_promise_names_its_tests():
    promised = TEXT.split("## What is not")[0].split("## What is checked")[1]
    rows = [line for line in promised.splitlines() if line.startswith("| ") and "what is loaded" not in line]
    parts = [part for part in promised.split("\n\n") if part.lstrip().startswith("**")]
    assert len(rows) >= 6 and len(parts) >= 6
    assert [part[:60] for part in rows + parts if "tests/" not in part] == []
