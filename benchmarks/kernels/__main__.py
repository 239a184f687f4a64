"""Measure our kernels, their peers and the matrix product they cannot beat by plain brute force: `make bench`.

    python -m benchmarks.kernels                 everything: about 45 minutes on two cores
    python -m benchmarks.kernels --quick         seconds, to see that it works
    python -m benchmarks.kernels --only mmr --resume

Systems of one kernel are measured in turn, each in a process of its own, and every answer is checked. The file
``kernels.json`` is written after each run; figures are drawn from it by `plots`.
"""

from __future__ import annotations

import datetime
import platform
import statistics
from pathlib import Path

import click
import torch
from joblib import cpu_count
from tqdm import tqdm

from assl_kit.common.files import read_json, write_json
from benchmarks.machine import RESULTS, cpu_name, load, versions

from .checks import check
from .data import name_of, rows, size_of
from .plots import draw
from .systems import MMR_WEIGHTS, SYSTEMS
from .table import add_ratios, show, slopes
from .worker import Failure, Worker, available, context

SIZES = (2_500, 5_000, 10_000, 20_000, 40_000, 80_000, 220_000)
CUDA_SIZES = (40_000, 220_000)
KERNELS = ("knn", "adbscan", "mmr", "kmeans", "stages")
WORST_CASE = 40_000  #: rows without structure, for the k-NN alone
ROUNDS = 3
SEVERAL_UP_TO = 40_000  #: larger sizes are run once, but for k-means, which is quick
PACKAGES = ("numpy", "torch", "scikit-learn", "numba", "faiss-cpu", "pyversity", "hdbscan")


class Book:
    """The records, in memory and in the file."""

    def __init__(self, path: Path, header: dict, kernels, resume: bool):
        self.path, self.header, self.records, self.done = path, header, [], []
        if not path.exists():
            return
        old = read_json(path)
        same = all(old["header"][name] == header[name] for name in ("cpu", "threads", "device"))
        if resume and not same:
            raise click.ClickException(f"{path.name} was measured elsewhere or with other threads: leave out --resume.")
        if same:  # what is not measured now is kept
            keeps = lambda kernel: resume or family(kernel) not in kernels  # noqa: E731
            self.records = [record for record in old["records"] if keeps(record["kernel"])]
            self.done = [group for group in old["done"] if keeps(group.split()[0])]

    def seconds(self, system, data: str, n: int) -> float | None:
        """What a system took for ``n`` rows, if it is known."""
        wanted = (system.kernel, system.name, data, n)
        return next((r["seconds"] for r in self.records if key(r) == wanted and r["seconds"] is not None), None)

    def put(self, record: dict):
        """Add or replace a record, and write the file."""
        self.records = [other for other in self.records if key(other) != key(record)] + [record]
        self.save()

    def save(self):
        add_ratios(self.records)
        growth = slopes(self.records)
        content = {"header": self.header, "done": self.done, "records": self.records, "slopes": growth}
        write_json(self.path, content)


def key(record: dict) -> tuple:
    return record["kernel"], record["system"], record["data"], record["n"]


def family(kernel: str) -> str:
    """Thinning is measured with A-DBSCAN: it needs the fitted model."""
    return "adbscan" if kernel == "thin" else kernel


def header(threads: int, device: str, d: int, data: str) -> dict:
    """The machine, the versions and the data."""
    return {
        "cpu": cpu_name(),
        "cores": cpu_count(only_physical_cores=False),
        "threads": threads,
        "device": device if device == "cpu" else torch.cuda.get_device_name(),
        "load_at_start": load(),
        "python": platform.python_version(),
        "versions": versions(PACKAGES),
        "date": datetime.date.today().isoformat(),
        "data": data,
        "d": d,
        "rounds": ROUNDS,
    }


def job_for(kernel: str, n: int, threads: int, device: str) -> dict:
    """The numbers a kernel needs."""
    job = {"k": 16, "min_samples": 10, "n_select": n // 10, "threads": threads, "device": device}
    return job | {"weights": MMR_WEIGHTS, "k": 6 if kernel in {"kmeans", "stages"} else 16}


def shown_k(system, job: dict) -> int:
    if system.kernel == "adbscan":
        return job["k"] if "k-NN" in system.name else job["min_samples"]
    return job["n_select"] if system.kernel in {"thin", "mmr", "stages"} else job["k"]


class Bench:
    """The settings of one benchmark."""

    def __init__(self, book: Book, processes, d: int, threads: int, device: str, cap: float, own_cap: float):
        self.book, self.d, self.threads, self.device = book, d, threads, device
        self.processes, self.cap, self.own_cap = processes, cap, own_cap

    def group(self, kernel: str, data: str, n: int):
        """Measure all systems of a kernel on ``n`` rows, in turn."""
        name = name_of(data)
        label = f"{kernel} {name} {n}"
        if label in self.book.done:
            return
        job = job_for(kernel, n, self.threads, self.device)
        systems, records = [], {}
        for system in SYSTEMS:
            if family(system.kernel) == kernel and self._takes_part(system, data, n):
                record = self._record(system, name, n, job)
                if why := self._left_out(system, name, n):
                    self.book.put(record | {"note": why})
                else:
                    systems.append(system)
                    records[system] = record
        X = rows(data, n, self.d)
        rounds = ROUNDS if n <= SEVERAL_UP_TO or kernel == "kmeans" else 1
        workers, results = {}, {}
        try:
            with tqdm(total=rounds * len(systems), desc=f"{kernel} n={n:,}") as progress:
                for _ in range(rounds):
                    for system in list(systems):
                        progress.set_postfix_str(system.name)
                        if not self._run(system, data, X, job, rounds, workers, results, records):
                            systems.remove(system)
                        progress.update()
        finally:
            for worker in workers.values():
                worker.close()
        self.book.done.append(label)
        self.book.save()

    def _record(self, system, name, n, job):
        return {
            "kernel": system.kernel,
            "system": system.name,
            "n": n,
            "d": self.d,
            "k": shown_k(system, job),
            "data": name,
            "device": self.device,
            "seconds": None,
            "seconds_all": [],
            "ratio_to_gemm": None,
            "peak_mb": None,
            "agrees": None,
            "note": "",
        }

    def _takes_part(self, system, data, n):
        if self.device != "cpu" and not system.cuda or system.largest and n > system.largest:
            return False
        return data != "gaussian" or system.name in {"assl-kit", "GEMM, numpy", "faiss IndexFlatIP"}

    def _left_out(self, system, name, n):
        """Why a system is not run: not installed, too large, too slow."""
        if package := system.missing():
            return f"left out: {package} is not installed"
        if (need := system.bytes_a_pair * n * n) > 0.8 * available():
            return f"left out: needs about {need / 2**30:.0f} GiB"
        before = [r["n"] for r in self.book.records if key(r)[:3] == (system.kernel, system.name, name) and r["n"] < n]
        if before:
            last = self.book.seconds(system, name, max(before))
            cap = self.own_cap if system.ours or system.yardstick else self.cap
            if last is None:
                return "left out: gave no result on fewer rows"
            if (predicted := last * (n / max(before)) ** 2) > cap:
                return f"left out: about {predicted:.0f} s expected, more than {cap:.0f} s"
        return None

    def _run(self, system, data, X, job, rounds, workers, results, records):
        """One run; False where the system gave no result."""
        record = records[system]
        limit = 3 * (self.own_cap if system.ours or system.yardstick else self.cap)
        try:
            if system.process not in workers:
                workers[system.process] = Worker(self.processes, data, len(X), self.d, self.threads)
            run = workers[system.process].measure(SYSTEMS.index(system), job, limit)
        except Failure as failure:
            tqdm.write(f"{system.kernel}, {system.name}, n={len(X):,}: {failure}")
            self.book.put(record | {"note": f"failed: {failure}", "seconds": None})
            return False
        record["seconds_all"].append(round(run["seconds"], 5))
        record["seconds"] = statistics.median(record["seconds_all"])
        if len(record["seconds_all"]) == 1:
            record["peak_mb"] = None if run["peak_mb"] is None else round(run["peak_mb"], 1)
            job.setdefault("eps", run["result"].get("eps"))
            verdict = check(system.kernel, system.name, X, job, run["result"], results)
            if system.kernel != "thin":
                results[system.name] = run["result"]
            note = verdict.note if rounds > 1 else f"{verdict.note}; one run".removeprefix("; ")
            record |= {"agrees": verdict.agrees, "note": note, **dict(verdict.fields)}
            if system.name == "scikit-learn DBSCAN" and (plain := records.get(_named("assl-kit, link β = 1"))):
                plain |= {"agrees": verdict.agrees, "note": f"against scikit-learn: {verdict.note}"}
                self.book.put(plain)
        self.book.put(record)
        return True


def _named(name):
    return next(system for system in SYSTEMS if system.name == name)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--only", help=f"Kernels to measure, by commas: {', '.join(KERNELS)}.")
@click.option("--up-to", default=SIZES[-1], show_default=True, help="Most rows.")
@click.option("--threads", default=cpu_count(), show_default="all cores", help="Threads of every system.")
@click.option("--cap", default=80.0, show_default=True, help="A peer stops growing at this many seconds a run.")
@click.option("--own-cap", default=600.0, show_default=True, help="The same for our kernels and the matrix product.")
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True)
@click.option("--real", type=click.Path(exists=True, dir_okay=False), help="Use the embeddings in this .npy file.")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), default=RESULTS, show_default="results/")
@click.option("--resume", is_flag=True, help="Keep what has been measured.")
@click.option("--quick", is_flag=True, help="2,000 rows of 32 columns, to see that it works.")
def main(only, up_to, threads, cap, own_cap, device, real, out, resume, quick):
    """Measure the kernels and their peers on this machine."""
    kernels = tuple(only.split(",")) if only else KERNELS
    if unknown := set(kernels) - set(KERNELS):
        raise click.BadParameter(f"unknown kernel {min(unknown)!r}; there are {', '.join(KERNELS)}")
    if device == "cuda" and not torch.cuda.is_available():
        raise click.ClickException("there is no CUDA device on this machine.")
    data, d, sizes = "blobs", 32 if quick else 768, SIZES if device == "cpu" else CUDA_SIZES
    if quick:
        sizes = (2_000,)
    if real:
        data, (n_rows, d) = real, size_of(real)
        up_to = min(up_to, n_rows)
    sizes = [n for n in sizes if n <= up_to]
    if not sizes:
        raise click.ClickException(f"{up_to} rows are fewer than the least size, {SIZES[0]}.")
    name = "kernels.json" if device == "cpu" else "kernels_cuda.json"
    about = header(threads, device, d, name_of(data))
    if not quick and (about["load_at_start"] or 0) > 0.5:
        click.echo(f"This machine is busy (load {about['load_at_start']}): the times will not be worth much.", err=True)
    book = Book(out / name, about, kernels, resume)
    bench = Bench(book, context(threads), d, threads, device, cap, own_cap)
    for kernel in kernels:
        for n in sizes:
            bench.group(kernel, data, n)
            if kernel == "knn" and not real and n == (WORST_CASE if not quick else sizes[0]):
                bench.group(kernel, "gaussian", n)
    show(book.header, book.records)
    if device == "cpu":
        for path in draw(book.path):
            click.echo(path)
    wrong = [r for r in book.records if r["system"].startswith("assl-kit") and r["agrees"] is False]
    failed = [r for r in book.records if r["system"].startswith("assl-kit") and r["note"].startswith("failed")]
    for record in wrong + failed:
        click.echo(f"{record['kernel']}, {record['system']}, n={record['n']:,}: {record['note']}", err=True)
    raise SystemExit(1 if wrong or failed else 0)


if __name__ == "__main__":
    main()
