"""What long use leaves behind: a page for an hour, a sweep that is killed again and again, the selection of a million.

    python -m benchmarks.endurance page --bank runs/tiny/experts      an hour; --minutes 5 for less
    python -m benchmarks.endurance sweep                              30 jobs, two at a time, killed ten times
    python -m benchmarks.endurance select                             a tenth of a million records

Each part writes its entry of benchmarks/results/endurance.json: memory, open files, threads, processes and files that
are left. Everything is done by the command `assl` in processes of its own, in a temporary folder of its own.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import http.client
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from assl_kit.common.files import read_json, write_json, write_text
from benchmarks.machine import RESULTS, ROOT, cores, cpu_name, load, versions, with_table

RESULT = RESULTS / "endurance.json"
DOCUMENT = ROOT / "benchmarks" / "README.md"
QUESTIONS = (
    "公司上半年净利润同比增长三成，情绪如何？",
    "董事长涉嫌违规被立案调查，有没有负面消息？",
    "下列哪一项属于货币政策工具？A. 税收 B. 存款准备金率 C. 国债 D. 转移支付",
    "What is the weather like today?",
    "请概括：公司拟以三亿元收购一家电池企业六成股权，尚需股东大会批准。",
)
GRID = {
    "profile": "tiny",
    "parameters": {"n_records": 400, "referee_draws": 0},
    "from": "00",
    "to": "04",
}


# processes ------------------------------------------------------------------------------------------------------------
@contextlib.contextmanager
def command(arguments: list[str], folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process group of ``python -m assl_kit.app.cli``, whose temporary and working files are in a folder."""
    (folder / "tmp").mkdir(parents=True, exist_ok=True)
    environment = os.environ | {"TMPDIR": str(folder / "tmp"), "ASSL_RUNS": str(folder / "runs"), "HF_HUB_OFFLINE": "1"}
    with open(folder / "output", "ab") as output:
        line = [sys.executable, "-m", "assl_kit.app.cli", *arguments]
        process = subprocess.Popen(
            line,
            stdout=output,
            stderr=output,
            stdin=subprocess.DEVNULL,
            cwd=folder,
            env=environment,
            start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # ignored in the background
        )
        try:
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def group(leader: int) -> list[psutil.Process]:
    """The processes of a session, its leader among them, and all that they started in sessions of their own."""
    members: set[psutil.Process] = set()
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, ProcessLookupError):
            if os.getsid(process.pid) == leader:
                members |= {process, *process.children(recursive=True)}
    return sorted(members, key=lambda process: process.pid)


def measured(processes: list[psutil.Process]) -> dict[str, float]:
    """Memory (resident, MB), open files and threads of processes together."""
    memory, files, threads = 0, 0, 0
    for process in processes:
        with contextlib.suppress(psutil.Error):
            memory += process.memory_info().rss
            files += process.num_fds()
            threads += process.num_threads()
    return {"memory_mb": round(memory / 2**20, 1), "open_files": files, "threads": threads}


def left_in(folder: Path) -> list[str]:
    """Files under a folder, by name."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def said(folder: Path) -> str:
    return (folder / "output").read_bytes().decode("utf-8", "replace")


# page -----------------------------------------------------------------------------------------------------------------
class Visitor:
    """Who asks the page by the two requests that a browser sends."""

    def __init__(self, port: int, name: str):
        self.port, self.name = port, name

    def _reply(self, method: str, path: str, body: bytes | None = None) -> tuple[Any, http.client.HTTPConnection]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        connection.request(method, path, body, {"Content-Type": "application/json"} if body else {})
        return connection.getresponse(), connection

    def function(self) -> int:
        """The number of the function that answers, as the page's own script finds it."""
        reply, connection = self._reply("GET", "/")
        with contextlib.closing(connection):
            config = json.JSONDecoder().raw_decode(reply.read().decode("utf-8").split("gradio_config = ", 1)[1])[0]
        return next(one["id"] for one in config["dependencies"] if one["api_name"] == "answer")

    def ask(self, number: int, question: str, leave: bool) -> bool:
        """Ask; whether an answer came to its end. Who leaves closes the connection at the first piece."""
        body = json.dumps({"data": [question], "fn_index": number, "session_hash": self.name}).encode()
        reply, connection = self._reply("POST", "/gradio_api/queue/join", body)
        with contextlib.closing(connection):
            if reply.status != 200:
                return False
        reply, connection = self._reply("GET", f"/gradio_api/queue/data?session_hash={self.name}")
        with contextlib.closing(connection):
            for line in reply:
                if line.startswith(b"data:"):
                    event = json.loads(line.removeprefix(b"data:"))
                    if leave and event["msg"] == "process_generating":
                        return False
                    if event["msg"] == "process_completed":
                        return bool(event["success"])
        return False


def page(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Ask the page of ``assl chat`` for some minutes; every tenth visitor leaves amid the answer."""
    port = free_port()
    with command(["chat", "--bank", str(Path(options.bank).resolve()), "--port", str(port)], folder) as process:
        wait_for(lambda: f"127.0.0.1:{port}" in said(folder) or process.poll() is not None, 180)
        number = Visitor(port, "first").function()
        samples, asked, answered, left = [], 0, 0, 0
        start, next_sample = time.monotonic(), 0.0
        while (passed := time.monotonic() - start) < 60 * options.minutes:
            leave = asked % 10 == 9
            done = Visitor(port, f"visitor-{asked}").ask(number, QUESTIONS[asked % len(QUESTIONS)], leave)
            asked, answered, left = asked + 1, answered + done, left + leave
            if passed >= next_sample:
                samples.append({"minute": round(passed / 60, 2)} | measured(group(process.pid)))
                next_sample = passed + 60 * options.minutes / 30
            time.sleep(options.pause)
        samples.append({"minute": round(options.minutes, 2)} | measured(group(process.pid)))
        process.send_signal(signal.SIGINT)
        try:
            ended: int | None = process.wait(60)
        except subprocess.TimeoutExpired:
            ended = None  # it does not end by Ctrl-C; the samples are worth having all the same
        remaining = len(group(process.pid))
    return {
        "minutes": options.minutes,
        "asked": asked,
        "answered": answered,
        "left_amid_the_answer": left,
        "samples": samples,
        "exit": ended,
        "processes_left": remaining,
        "files_left": left_in(folder / "tmp"),
    }


def free_port() -> int:
    import socket

    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def wait_for(condition: Any, seconds: float) -> None:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise SystemExit(f"nothing came within {seconds:.0f} s")
        time.sleep(0.2)


# sweep ----------------------------------------------------------------------------------------------------------------
def sweep(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """A sweep that is killed, all of its processes at once, at random moments, and started again until it ends."""
    folder.mkdir(parents=True, exist_ok=True)
    grid = GRID | {"grid": {"seed": list(range(-(-options.jobs // 3))), "flattening": [0.0, 0.5, 1.0]}}
    (folder / "grid.yaml").write_text(json.dumps(grid), encoding="utf-8")
    draw, kills, peak, orphans = random.Random(0), 0, 0.0, 0
    start = time.monotonic()
    while True:
        with command(["sweep", "grid.yaml", "--jobs", str(options.workers)], folder) as process:
            end = time.monotonic() + draw.uniform(*options.kill_after) if kills < options.kills else float("inf")
            while process.poll() is None and time.monotonic() < end:
                peak = max(peak, measured(group(process.pid))["memory_mb"])
                time.sleep(0.5)
            finished = process.poll()
        if finished is not None:
            break
        kills += 1
        wait_for(lambda leader=process.pid: not group(leader), 60)
        orphans += sum(str(folder) in " ".join(arguments_of(one)) for one in psutil.process_iter())
    table = re.findall(r"\d+ jobs?.*", said(folder))
    jobs = sorted(path.parent for path in (folder / "runs").rglob("manifest.json") if path.parent.name != "grid")
    whole = sum((job / "pool.parquet").exists() for job in jobs)
    partial = [name for name in left_in(folder / "runs") if ".partial" in name or name.endswith(".tmp")]
    return {
        "jobs": options.jobs,
        "workers": options.workers,
        "kills": kills,
        "exit": finished,
        "seconds": round(time.monotonic() - start, 1),
        "jobs_whole": whole,
        "last_line": table[-1] if table else "",
        "peak_memory_mb": peak,
        "processes_left_after_kills": orphans,
        "half_files_left": partial,
        "temporary_files_left": left_in(folder / "tmp"),
        "said": said(folder)[-2000:] if finished else "",
    }


def arguments_of(process: psutil.Process) -> list[str]:
    with contextlib.suppress(psutil.Error):
        return process.cmdline()
    return []


# select ---------------------------------------------------------------------------------------------------------------
def select(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """A tenth of a million records by ``assl select``, and what it held."""
    from assl_kit.data.synthetic import iter_records

    folder.mkdir(parents=True, exist_ok=True)
    data = folder / "records.jsonl"
    with open(data, "w", encoding="utf-8") as file:
        for record in iter_records(options.records, seed=0):
            line = {name: record[name] for name in ("id", "instruction", "input", "output", "task", "source")}
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
    peak: dict[str, float] = {"memory_mb": 0.0, "open_files": 0, "threads": 0}
    start = time.monotonic()
    arguments = ["select", str(data), "--keep", "10%", "--out", str(folder / "out"), "--no-referee", "--json"]
    with command(arguments, folder) as process:
        while process.poll() is None:
            now = measured(group(process.pid))
            peak = {name: max(value, now[name]) for name, value in peak.items()}
            time.sleep(1)
        finished = process.returncode
    chosen = sum(len(file.read_bytes().splitlines()) for file in (folder / "out").glob("*.jsonl"))
    return {
        "records": options.records,
        "file_mb": round(data.stat().st_size / 2**20, 1),
        "seconds": round(time.monotonic() - start, 1),
        "exit": finished,
        "chosen": chosen,
        "peak": peak,
        "temporary_files_left": left_in(folder / "tmp"),
        "said": said(folder)[-300:] if finished else "",
    }


def table(content: dict[str, Any]) -> str:
    """What benchmarks/README.md shows of the file."""
    rows = ["| part | what was done | memory, MB | open files | left behind |", "|---|---|---|---|---|"]
    if "page" in content:
        one = content["page"]
        samples = one["samples"]
        first, last = samples[len(samples) // 6], samples[-1]
        done = f"{one['asked']} questions in {one['minutes']:.0f} minutes, {one['answered']} answered, "
        done += f"{one['left_amid_the_answer']} visitors left amid the answer"
        memory = f"{first['memory_mb']:.0f} after {first['minute']:.0f} minutes, {last['memory_mb']:.0f} at the end"
        files = f"{first['open_files']}, {last['open_files']}"
        left = f"{one['processes_left']} processes, {len(one['files_left'])} files"
        rows.append(f"| page | {done} | {memory} | {files} | {left} |")
    if "sweep" in content:
        one = content["sweep"]
        done = f"{one['jobs']} jobs, {one['workers']} at a time, all killed {one['kills']} times: "
        done += f"{one['jobs_whole']} whole, {one['seconds']:.0f} s"
        left = f"{one['processes_left_after_kills']} processes, {len(one['half_files_left'])} half files, "
        left += f"{len(one['temporary_files_left'])} temporary ones"
        rows.append(f"| sweep | {done} | {one['peak_memory_mb']:.0f} at most, of all processes | – | {left} |")
    if "select" in content:
        one = content["select"]
        done = f"{one['chosen']:,} of {one['records']:,} records ({one['file_mb']:.0f} MB), {one['seconds']:.0f} s"
        left = f"{len(one['temporary_files_left'])} temporary files"
        memory = f"{one['peak']['memory_mb']:.0f} at most | {one['peak']['open_files']}"
        rows.append(f"| select | {done} | {memory} | {left} |")
    return "\n".join(rows)


def main(arguments: list[str] | None = None) -> int:
    """Measure one part; 1 where it did not come to a good end."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=RESULT)
    parts = parser.add_subparsers(dest="part", required=True)
    of_page = parts.add_parser("page")
    of_page.add_argument("--bank", required=True)
    of_page.add_argument("--minutes", type=float, default=60)
    of_page.add_argument("--pause", type=float, default=5, help="seconds between two questions")
    of_sweep = parts.add_parser("sweep")
    of_sweep.add_argument("--jobs", type=int, default=30, help="a multiple of 3")
    of_sweep.add_argument("--workers", type=int, default=2)
    of_sweep.add_argument("--kills", type=int, default=10)
    of_sweep.add_argument("--kill-after", type=float, nargs=2, default=(5, 40), metavar=("LEAST", "MOST"))
    of_select = parts.add_parser("select")
    of_select.add_argument("--records", type=int, default=1_000_000)
    options = parser.parse_args(arguments)
    before = load()
    with tempfile.TemporaryDirectory() as folder:
        facts = {"page": page, "sweep": sweep, "select": select}[options.part](options, Path(folder) / "work")
    about = {"date": datetime.date.today().isoformat(), "cpu": cpu_name(), "cores": cores(), "load_before": before}
    about["versions"] = versions(("assl-kit", "numpy", "torch", "gradio"))
    content = read_json(options.out) if options.out.is_file() else {}
    content |= {options.part: about | facts}
    write_json(options.out, content)
    if options.out == RESULT:
        write_text(DOCUMENT, with_table(DOCUMENT.read_text(encoding="utf-8"), "endurance", table(content)))
    print(json.dumps(facts | {"samples": facts.get("samples", [])[-1:]}, ensure_ascii=False, indent=1))
    return int(bool(facts["exit"]) and options.part != "page")


if __name__ == "__main__":
    sys.exit(main())
