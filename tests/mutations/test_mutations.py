"""The list of changes cannot rot, and the runner tells what dies from what lives."""

from __future__ import annotations

import ast
import json
from collections import Counter
from dataclasses import replace

import pytest

from . import __main__ as runner
from .mutation import Mutation

SMALL = Mutation("plus becomes minus", "sums.py", "a + b", "a - b", ("test_sums.py",))


@pytest.mark.parametrize("mutation", runner.ENTRIES, ids=lambda one: one.name)
def test_every_change_can_still_be_made_and_names_tests_that_are_there(mutation):
    before = mutation.text_in(runner.ROOT)
    after = mutation.changed(before)  # raises where the text is not there exactly once
    assert ast.dump(ast.parse(after)) != ast.dump(ast.parse(before))
    assert mutation.tests
    for test in mutation.tests:
        name, _, function = test.partition("::")
        text = (runner.ROOT / "tests" / name).read_text(encoding="utf-8")
        assert not function or f"\ndef {function.partition('[')[0]}(" in text, test


def test_no_two_changes_are_the_same_and_no_room_of_the_method_is_spared():
    assert max(Counter(one.name for one in runner.ENTRIES).values()) == 1
    assert max(Counter((one.file, one.old, one.new) for one in runner.ENTRIES).values()) == 1
    rooms = Counter(one.room for one in runner.ENTRIES[24:])  # the first were not ours to choose
    assert min(rooms[name] for name in ("selection", "experts", "evaluation", "artifacts", "runner")) >= 10


def test_a_change_whose_text_is_gone_or_there_twice_is_refused():
    for text in ("", "a + b, a + b"):
        with pytest.raises(ValueError, match="plus becomes minus: its text is [02] times in sums.py, not once"):
            SMALL.changed(text)


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A package of one file, and tests that see sums of different numbers, or of zeros only."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.setattr(runner, "PRELOADED", ("pytest",))  # it alone begins at once
    root = tmp_path / "checkout"
    (root / "assl_kit").mkdir(parents=True)
    (root / "tests").mkdir()
    (root / "assl_kit" / "__init__.py").touch()
    (root / "assl_kit" / "sums.py").write_text("def add(a, b):\n    return a + b\n", encoding="utf-8")
    head = "from assl_kit.sums import add\n\n\ndef test_sum():\n    "
    texts = {
        "test_sums.py": "assert add(2, 3) == 5\n",
        "test_zeros.py": "assert add(0, 0) == 0\n",
        "test_slow.py": "while add(2, 3) != 5:\n        pass\n",
        "test_wrong.py": "assert add(2, 3) == 6\n",
    }
    for name, text in texts.items():
        (root / "tests" / name).write_text(head + text, encoding="utf-8")
    return root


def test_what_dies_and_what_lives_is_told_and_not_tried_again(checkout, tmp_path, capsys):
    blind = replace(SMALL, name="seen by nobody", tests=("test_zeros.py",))
    slow = replace(SMALL, name="without end", tests=("test_slow.py",))
    results = tmp_path / "results.json"
    statuses = runner.run([SMALL, blind], checkout, results, jobs=2, limit=300)
    statuses |= runner.run([slow], checkout, results, jobs=1, limit=2)
    assert statuses == {"plus becomes minus": "killed", "seen by nobody": "lived", "without end": "timed out"}
    told = runner.summary([SMALL, blind, slow], statuses)
    assert "2 of   3 died" in told and "lived: seen by nobody (sums.py; test_zeros.py)" in told
    assert (checkout / "assl_kit" / "sums.py").read_text(encoding="utf-8") == "def add(a, b):\n    return a + b\n"
    before = results.read_text(encoding="utf-8")
    assert set(json.loads(before)) == set(statuses)
    capsys.readouterr()
    assert runner.run([SMALL, blind], checkout, results, jobs=1, limit=300)["seen by nobody"] == "lived"
    assert "2 of them tried before" in capsys.readouterr().out and results.read_text(encoding="utf-8") == before
    key = runner.key_of(blind, checkout)
    (checkout / "tests" / "test_zeros.py").write_text("from assl_kit.sums import add\n", encoding="utf-8")
    assert runner.key_of(blind, checkout) != key, "a test that is mended is asked again"


def test_tests_that_fail_without_a_change_are_no_evidence(checkout, tmp_path):
    wrong = replace(SMALL, tests=("test_wrong.py",))
    with pytest.raises(SystemExit, match="without any change the tests must pass"):
        runner.run([wrong], checkout, tmp_path / "results.json", jobs=1, limit=300)


def test_a_change_within_a_compiled_function_is_seen():
    text = "x = 1\n\n\n@jit\ndef f(a):\n    return a + 1\n\n\ndef g(a):\n    return a - 1\n"
    assert [runner.in_compiled(text, part) for part in ("x = 1", "a + 1", "a - 1")] == [False, True, False]
