"""A fresh process for each system: the same number of threads everywhere, time and memory of that system alone."""

from __future__ import annotations

import gc
import multiprocessing
import os
import time
import traceback
from pathlib import Path

from .data import rows
from .systems import SYSTEMS

WARM_UP = 1000
POLL = 0.005
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
PRELOAD = [
    "click",
    "matplotlib.pyplot",
    "rich.table",
    "sklearn.cluster",
    "torch",
    "tqdm",
    "assl_kit.selection.redistribute",
    "assl_kit.space.clusters",
]


class Failure(RuntimeError):
    """A system gave no result; the message says why."""


def context(threads: int):
    """How processes are started. Libraries are loaded once, before the first of them, and use ``threads`` threads."""
    for name in THREAD_VARIABLES:
        os.environ[name] = str(threads)  # read by the libraries when they are loaded, in the processes to come
    forks = "forkserver" in multiprocessing.get_all_start_methods()
    processes = multiprocessing.get_context("forkserver" if forks else "spawn")
    if forks:
        processes.set_forkserver_preload(PRELOAD)
    return processes


class Worker:
    """A process that holds ``n`` rows and runs the systems it is told to.

    Parameters
    ----------
    processes : multiprocessing context
        From `context`.
    data, n, d : str, int, int
        As `data.rows`.
    threads : int
    """

    def __init__(self, processes, data: str, n: int, d: int, threads: int):
        self.connection, other = processes.Pipe()
        self.process = processes.Process(target=_serve, args=(other, data, n, d, threads))
        self.process.start()
        other.close()

    def measure(self, system: int, job: dict, limit: float) -> dict:
        """Run one system: ``result``, ``seconds`` and ``peak_mb`` (None where it cannot be known).

        Parameters
        ----------
        system : int
            Place in `systems.SYSTEMS`.
        job : dict
            What the kernel needs, its ``n_select`` for the warm-up included.
        limit : float
            Seconds; after that the process is ended.

        Raises
        ------
        Failure
            If the system raised, died or passed the limit.
        """
        self.connection.send((system, job))
        before = self._receive(600.0)["rss"]  # after data and warm-up
        start, peak = time.perf_counter(), before
        while not self.connection.poll(POLL):
            peak = max(peak, resident(self.process.pid))
            if not self.process.is_alive():
                break
            if time.perf_counter() - start > limit:
                self.close(patience=0)
                raise Failure(f"stopped after {limit:.0f} s")
        answer = self._receive(60.0)
        peak_mb = (peak - before) / 2**20 if before else None
        if "device_peak" in answer:
            peak_mb = answer["device_peak"] / 2**20
        result = self._receive(60.0)
        return {"result": result, "seconds": answer["seconds"], "peak_mb": peak_mb}

    def _receive(self, patience: float) -> dict:
        try:
            if not self.connection.poll(patience):
                raise Failure(f"no answer in {patience:.0f} s")
            answer = self.connection.recv()
        except (EOFError, ConnectionResetError):
            raise Failure("the process died; perhaps there was not enough memory") from None
        if "error" in answer:
            raise Failure(answer["error"])
        return answer

    def close(self, patience: float = 10.0):
        """End the process: it leaves by itself when nobody listens, and is made to where it does not."""
        self.connection.close()
        self.process.join(patience)
        self.process.kill()
        self.process.join()


def resident(pid: int) -> int:
    """Bytes of memory a process holds now; 0 where the system does not say."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text(encoding="utf-8").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):
        return 0


def available() -> float:
    """Bytes of free memory, infinite where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return float("inf")
    return next((int(line.split()[1]) * 1024.0 for line in lines if line.startswith("MemAvailable")), float("inf"))


def _serve(connection, data, n, d, threads):
    """The process: rows, then for each job a warm-up on the first rows (compilers, thread pools) and the real run."""
    X = rows(data, n, d)
    state, warm = {}, {}
    try:
        while True:
            number, job = connection.recv()
            try:
                _measure(connection, SYSTEMS[number], X, job, state, warm, threads)
            except Exception as error:
                traceback.print_exc()
                connection.send({"error": f"{type(error).__name__}: {error}"[:200]})
    except (EOFError, KeyboardInterrupt):
        pass


def _measure(connection, system, X, job, state, warm, threads):
    if system.name not in warm.setdefault("done", []):
        _set_threads(system, threads)
        few = X[:WARM_UP]
        system.run(few, {**job, "n_select": max(1, job.get("n_select", 1) * len(few) // len(X))}, warm)
        warm["done"].append(system.name)
        _set_threads(system, threads)  # libraries that the warm-up loaded
    on_device = job.get("device", "cpu") != "cpu"
    if on_device:
        import torch

        torch.cuda.reset_peak_memory_stats()
    gc.collect()
    connection.send({"rss": resident(os.getpid())})
    start = time.perf_counter()
    result = system.run(X, job, state)
    seconds = time.perf_counter() - start
    answer = {"seconds": seconds * result.pop("factor", 1.0)}
    if on_device:
        answer["device_peak"] = torch.cuda.max_memory_allocated()
    connection.send(answer)
    connection.send(result)  # apart, so that the memory of sending is not counted


def _set_threads(system, threads):
    from threadpoolctl import threadpool_limits

    threadpool_limits(threads)
    import torch

    torch.set_num_threads(threads)
    if system.package == "faiss":
        import faiss

        faiss.omp_set_num_threads(threads)
