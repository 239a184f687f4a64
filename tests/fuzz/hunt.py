"""Read changed files for a set time, each reader in a process of its own with little memory; keep what goes wrong.

    python -m fuzz.hunt --seconds 600 [READER …]       in the folder tests; `make fuzz`
    python -m fuzz.hunt --replay READER SEED CASE

Right is a file that is read, or refused by an error of the package. Wrong is any other exception, a process that
ends, a case that takes longer than ``CASE_SECONDS``, or one that takes more than ``CASE_BYTES``.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path
from random import Random

from .mutate import mutated
from .targets import TARGETS, Target, quietly

CASE_SECONDS, CASE_BYTES, ROOM = 30, 384 << 20, 1 << 30


def example(target: Target, folder: Path) -> Path:
    """A whole example in ``folder / "whole"``."""
    whole = folder / "whole"
    whole.mkdir(parents=True)
    target.make(whole)
    return whole


def changed(target: Target, whole: Path, seed: int, case: int) -> tuple[str, bytes]:
    """Which file a case changes, and its bytes; decided by the example, the seed and the number of the case alone."""
    random = Random(f"{seed} {case}")
    name = random.choice(target.files)
    data, other = (whole / name).read_bytes(), (whole / random.choice(target.files)).read_bytes()
    if target.unpack and target.pack and random.random() < 0.5:
        return name, target.pack(mutated(target.unpack(data), target.unpack(other), random))
    return name, mutated(data, other, random)


def _peak() -> int:
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _limit() -> None:
    """Let the process take ``ROOM`` more than it has now; for each case, as pyarrow loses some with a cut stream."""
    import resource

    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[0])
    except OSError:
        return
    most = pages * os.sysconf("SC_PAGE_SIZE") + ROOM
    resource.setrlimit(resource.RLIMIT_AS, (most, resource.getrlimit(resource.RLIMIT_AS)[1]))


def _case(target: Target, whole: Path, work: Path, seed: int, case: int) -> str | None:
    """Run one case; what went wrong, or None."""
    name, data = changed(target, whole, seed, case)
    place = work / name
    before = _peak()
    try:
        place.write_bytes(data)
        quietly(target.read, work, case)
    except target.expected:
        pass
    except BaseException:  # noqa: BLE001 - it is this that is looked for
        return traceback.format_exc()
    finally:
        shutil.copyfile(whole / name, place)
    taken = _peak() - before
    return f"it took {taken >> 20} MiB" if taken > CASE_BYTES else None


def child(name: str, folder: Path, seed: int, start: int, seconds: float, most: int) -> None:
    """Run cases from ``start`` on, writing the number of each before it and the findings after it."""
    target, whole, work = TARGETS[name], folder / "whole", folder / "work"
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(whole, work)
    quietly(target.read, work, 0)  # imports what it needs; a whole example is read
    ready = folder / "ready"  # the time counts from the first case, not from the imports before it
    if not ready.is_file():
        ready.write_text(str(time.time()), encoding="utf-8")
    until, case = float(ready.read_text(encoding="utf-8")) + seconds, start
    with open(folder / "cases", "w", encoding="utf-8") as log:
        while case < most and time.time() < until:
            log.seek(0)
            log.write(f"{case:012d}\n")
            log.flush()
            _limit()
            faulthandler.dump_traceback_later(CASE_SECONDS, exit=True)
            wrong = _case(target, whole, work, seed, case)
            faulthandler.cancel_dump_traceback_later()
            if wrong is not None:
                with open(folder / "wrong.jsonl", "a", encoding="utf-8") as findings:
                    findings.write(json.dumps({"case": case, "what": wrong}) + "\n")
            case += 1
        log.seek(0)
        log.write(f"{case:012d}\n")


def hunt(name: str, folder: Path, seed: int, seconds: float, most: int = 1 << 40) -> tuple[int, list[dict]]:
    """Fuzz one reader; how many cases ran, and what went wrong, each kind once."""
    example(TARGETS[name], folder)
    start, ended = 0, []
    while start < most:
        (folder / "cases").write_text(f"{start:012d}\n", encoding="utf-8")
        command = [sys.executable, "-m", "fuzz.hunt", "--child", name, str(folder), str(seed), str(start)]
        program = subprocess.run(
            [*command, str(seconds), str(most)],
            capture_output=True,
            text=True,
            errors="replace",
            cwd=Path(__file__).parents[1],
            env=os.environ | {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"},
            check=False,
        )
        case = int((folder / "cases").read_text(encoding="utf-8"))
        if program.returncode == 0:
            start = case
            break
        why = "Timeout" if "Timeout (" in program.stderr else f"the process ended with {program.returncode}"
        ended.append({"case": case, "what": f"{why}\n{program.stderr[-4000:]}"})
        if case == start == 0 and "quietly(target.read, work, 0)" in program.stderr:
            raise RuntimeError(f"the whole example of {name} is not read:\n{program.stderr}")
        start = case + 1
    log = folder / "wrong.jsonl"
    lines = log.read_text(encoding="utf-8").splitlines() if log.is_file() else []
    kinds: dict[str, dict] = {}
    for one in [*map(json.loads, lines), *ended]:
        kinds.setdefault(_kind(one["what"]), one | {"reader": name, "seed": seed})
    return start, list(kinds.values())


def _kind(what: str) -> str:
    """Findings of one kind have one cause: the exception and the last line of the package that it went through."""
    lines = what.strip().splitlines()
    ours = [line.strip() for line in lines if "assl_kit" in line and "line" in line]
    return f"{lines[-1].split(':')[0]} {ours[-1] if ours else lines[0]}"


def keep(finding: dict, folder: Path, out: Path) -> Path:
    """Write a finding with its bytes, so that it can be looked at and run again."""
    target = TARGETS[finding["reader"]]
    name, data = changed(target, folder / "whole", finding["seed"], finding["case"])
    place = out / f"{finding['reader']}-{finding['seed']}-{finding['case']}"
    place.mkdir(parents=True, exist_ok=True)
    (place / Path(name).name).write_bytes(data)
    (place / "what.txt").write_text(finding["what"], encoding="utf-8")
    return place


def replay(name: str, seed: int, case: int) -> None:
    """Run one case in this process, with its traceback."""
    with tempfile.TemporaryDirectory() as place:
        target, whole = TARGETS[name], example(TARGETS[name], Path(place))
        file, data = changed(target, whole, seed, case)
        (whole / file).write_bytes(data)
        print(f"{file}: {data[:400]!r}")
        quietly(target.read, whole, case)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("readers", nargs="*", help=f"of {', '.join(TARGETS)}")
    parser.add_argument("--seconds", type=float, default=600, help="for all readers together")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path(tempfile.gettempdir()) / "assl-fuzz")
    parser.add_argument("--replay", nargs=3, metavar=("READER", "SEED", "CASE"))
    parser.add_argument("--child", nargs=6, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.child:
        name, folder, *numbers = asked.child
        child(name, Path(folder), int(numbers[0]), int(numbers[1]), float(numbers[2]), int(numbers[3]))
        return 0
    if asked.replay:
        replay(asked.replay[0], int(asked.replay[1]), int(asked.replay[2]))
        return 0
    names, wrong = asked.readers or list(TARGETS), 0
    for name in names:
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place) / "fuzz"
            n_cases, findings = hunt(name, folder, asked.seed, asked.seconds / len(names))
            print(f"{name}: {n_cases:,} cases, {len(findings)} findings", flush=True)
            for finding in findings:
                print(f"  {keep(finding, folder, asked.out)}: {finding['what'].strip().splitlines()[-1][:200]}")
            wrong += len(findings)
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
