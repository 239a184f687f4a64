"""A process that holds the large libraries and forks for every pytest: without it each change would wait for imports.

It reads tasks as lines of JSON, and answers each with two lines: the process that works on it, and its exit code.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from contextlib import suppress
from typing import Any


def work(task: dict[str, Any]) -> int:
    """Pytest's exit code, in a group of processes of its own; what it prints goes into a file."""
    os.setsid()
    for number, (place, flags) in enumerate(
        [(os.devnull, os.O_RDONLY), *[(task["output"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)] * 2]
    ):
        os.dup2(os.open(place, flags), number)
    os.environ.update(task["environment"])
    sys.dont_write_bytecode = "PYTHONDONTWRITEBYTECODE" in os.environ
    if "numba" in sys.modules:
        sys.modules["numba.core.config"].reload_config()
    import pytest

    return int(pytest.main(task["arguments"]))


def main() -> None:
    sys.path.pop(0)  # the folder of this file
    for name in sys.argv[1:]:
        with suppress(ImportError):
            importlib.import_module(name)
    for line in sys.stdin:
        child = os.fork()
        if not child:
            try:
                code = work(json.loads(line))
                sys.stdout.flush()
                os._exit(code)
            finally:  # pytest's own errors
                os._exit(3)
        print(child, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    main()
