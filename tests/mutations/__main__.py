"""The runner: each change is made in a copy of the checkout, and the tests that should notice it are asked.

From the root of a checkout: ``python -m tests.mutations [--only WORD] [--jobs 2] [--again]``. It ends with 1 when fewer
than 95 % die. Results are kept outside the checkout, so that a run which was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import SimpleQueue
from threading import Timer

from . import lived, of_artifacts, of_evaluation, of_experts, of_runner, of_selection
from .mutation import Mutation

ROOT = Path(__file__).resolve().parents[2]
RESULTS = Path(tempfile.gettempdir()) / "assl-kit-mutations.json"
LEAST = 0.95
PYTEST = ("-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist")
#: What most tests import; each pytest is forked from a process that has it.
PRELOADED = ("torch", "transformers", "sentence_transformers", "datasets", "peft", "trl", "numba", "hypothesis")
PRELOADED += ("sklearn.cluster", "matplotlib.pyplot", "papermill", "scipy.stats", "pytest")
_NOT_COPIED = (".git", ".venv*", "runs", "build", "dist", "*.egg-info", "__pycache__", ".*_cache", ".hypothesis")
ENTRIES: tuple[Mutation, ...] = (
    *lived.MUTATIONS,
    *of_selection.MUTATIONS,
    *of_experts.MUTATIONS,
    *of_evaluation.MUTATIONS,
    *of_artifacts.MUTATIONS,
    *of_runner.MUTATIONS,
)


class Copy:
    """A copy of the checkout with caches of its own, and a process in it; one change at a time is made."""

    def __init__(self, root: Path, folder: Path) -> None:
        self.root, self.caches, self.output = folder / "checkout", folder / "compiled", folder / "output"
        shutil.copytree(root, self.root, ignore=shutil.ignore_patterns(*_NOT_COPIED), symlinks=True)
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith("ASSL_")}
        self.environment |= {"PYTHONPATH": str(self.root), "NUMBA_CACHE_DIR": str(self.caches), "MPLBACKEND": "Agg"}
        self.environment |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
        self.ready = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("ready.py")), *PRELOADED],
            cwd=self.root,
            env=self.environment | {"TOKENIZERS_PARALLELISM": "false"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def close(self) -> None:
        self.ready.communicate()

    def try_out(self, mutation: Mutation, limit: float) -> tuple[str, float]:
        """``killed``, ``lived`` or ``timed out``, and the seconds it took."""
        file = self.root / "assl_kit" / mutation.file
        text, times = mutation.text_in(self.root), file.stat()
        file.write_text(mutation.changed(text), encoding="utf-8")
        start = time.perf_counter()
        try:
            # what numba compiled of a caller in another file does not know of the change
            with tempfile.TemporaryDirectory() as empty:
                caches = empty if in_compiled(text, mutation.old) else str(self.caches)
                code = self.run_tests(mutation.tests, limit, NUMBA_CACHE_DIR=caches, PYTHONDONTWRITEBYTECODE="1")
        finally:
            file.write_text(text, encoding="utf-8")
            os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
        if code in (3, 4, 5):
            raise SystemExit(f"{mutation.name}: pytest could not run {' '.join(mutation.tests)}:\n{self.last_lines()}")
        status = "timed out" if code is None else "killed" if code else "lived"
        return status, time.perf_counter() - start

    def run_tests(self, tests: tuple[str, ...], limit: float, **environment: str) -> int | None:
        """Pytest's exit code, None after ``limit`` seconds; what it printed is in the file ``output``."""
        self.output.write_bytes(b"")
        arguments = [*PYTEST, *(f"tests/{test}" for test in tests)]
        task = {"arguments": arguments, "environment": environment, "output": str(self.output)}
        questions, answers = self.ready.stdin, self.ready.stdout
        print(json.dumps(task), file=questions, flush=True)
        child = int(answers.readline())
        late = Timer(limit, end_group, [child])
        late.start()
        try:
            code = int(answers.readline())
        finally:  # also after an interrupt
            expired = not late.is_alive()
            late.cancel()
            end_group(child)  # what a test has left running
        return None if expired else code

    def last_lines(self) -> str:
        return self.output.read_text(encoding="utf-8", errors="replace")[-4000:]


def end_group(leader: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGKILL)


def in_compiled(text: str, old: str) -> bool:
    """Whether a change lies in a function that numba compiles."""
    line = text[: text.index(old)].count("\n") + 1
    for node in ast.walk(ast.parse(text)):
        around = isinstance(node, ast.FunctionDef) and node.lineno <= line <= (node.end_lineno or 0)
        if around and any("jit" in ast.unparse(decorator) for decorator in node.decorator_list):
            return True
    return False


def key_of(mutation: Mutation, root: Path) -> str:
    """A hash of the change, of its file and of the files of its tests: a result counts as long as these stay."""
    files = sorted({test.partition("::")[0] for test in mutation.tests})
    texts = [mutation.text_in(root), *((root / "tests" / name).read_text(encoding="utf-8") for name in files)]
    return hashlib.sha256(json.dumps([mutation.old, mutation.new, mutation.tests, texts]).encode()).hexdigest()


@contextmanager
def copies(root: Path, jobs: int) -> Iterator[SimpleQueue[Copy]]:
    """As many copies as changes are tried at the same time."""
    with tempfile.TemporaryDirectory(prefix="assl-mutations-") as folder:
        free: SimpleQueue[Copy] = SimpleQueue()
        made = [Copy(root, Path(folder) / str(number)) for number in range(jobs)]
        for copy in made:
            free.put(copy)
        try:
            yield free
        finally:
            for copy in made:
                copy.close()


def run(entries: list[Mutation], root: Path, results: Path, jobs: int, limit: float) -> dict[str, str]:
    """Try the changes that have no result yet; the status of each by its name."""
    known = json.loads(results.read_text(encoding="utf-8")) if results.is_file() else {}
    keys = {one.name: key_of(one, root) for one in entries}
    left = [one for one in entries if known.get(one.name, {}).get("key") != keys[one.name]]
    print(f"{len(entries)} changes, {len(entries) - len(left)} of them tried before; results in {results}", flush=True)
    if left:
        with copies(root, jobs) as free, ThreadPoolExecutor(jobs) as pool:
            whole = free.get()
            tests = tuple(dict.fromkeys(test for one in left for test in one.tests))
            if whole.run_tests(tests, 3600) != 0:
                raise SystemExit(f"without any change the tests must pass, but:\n{whole.last_lines()}")
            free.put(whole)

            def one_more(mutation: Mutation) -> tuple[Mutation, str, float]:
                copy = free.get()
                try:
                    return mutation, *copy.try_out(mutation, limit)
                finally:
                    free.put(copy)

            for mutation, status, seconds in pool.map(one_more, left):
                known[mutation.name] = {"status": status, "seconds": round(seconds, 1), "key": keys[mutation.name]}
                results.write_text(json.dumps(known, ensure_ascii=False, indent=1), encoding="utf-8")
                print(f"{status:<9} {seconds:6.1f} s  {mutation.room:<10}  {mutation.name}", flush=True)
    return {one.name: known[one.name]["status"] for one in entries}


def summary(entries: list[Mutation], statuses: dict[str, str]) -> str:
    """How many died in each room, and which lived."""
    lines = []
    for room in sorted({one.room for one in entries}):
        counts = Counter(statuses[one.name] for one in entries if one.room == room)
        lines.append(f"{room:<10}  {counts.total() - counts['lived']:>3} of {counts.total():>3} died")
    alive = [one for one in entries if statuses[one.name] == "lived"]
    lines.append(f"{'all':<10}  {len(entries) - len(alive):>3} of {len(entries):>3} died")
    return "\n".join(lines + [f"lived: {one.name} ({one.file}; {', '.join(one.tests)})" for one in alive])


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutations", description=__doc__.splitlines()[0])
    parser.add_argument("--only", action="append", default=[], help="a room, or a part of names; may be given again")
    parser.add_argument("--jobs", type=int, default=1, help="changes tried at the same time")
    parser.add_argument(
        "--limit", type=float, default=600, help="seconds for the tests of one; beyond them it has died"
    )
    parser.add_argument("--results", type=Path, default=RESULTS, help="JSON file outside the checkout")
    parser.add_argument("--again", action="store_true", help="forget the results that are there")
    asked = parser.parse_args(arguments)
    entries = [one for one in ENTRIES if not asked.only or any(o == one.room or o in one.name for o in asked.only)]
    if not entries:
        parser.error(f"no change is called so; rooms are {', '.join(sorted({one.room for one in ENTRIES}))}")
    if asked.again:
        asked.results.unlink(missing_ok=True)
    statuses = run(entries, ROOT, asked.results.resolve(), asked.jobs, asked.limit)
    print(summary(entries, statuses))
    return int(sum(status == "lived" for status in statuses.values()) > (1 - LEAST) * len(entries))


if __name__ == "__main__":
    sys.exit(main())
