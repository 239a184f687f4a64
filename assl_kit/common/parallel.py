"""Work side by side: threads stopped cleanly by an error or an interrupt, processes that end with their parent."""

from __future__ import annotations

import ctypes
import math
import os
import signal
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cache
from threading import Event
from typing import Any

import numpy as np  # noqa: F401  its BLAS must be loaded before `blas` looks for it
from joblib import effective_n_jobs
from threadpoolctl import ThreadpoolController
from tqdm.auto import tqdm

from assl_kit.errors import ParameterError

from .checks import whole


@cache
def blas() -> ThreadpoolController:
    """The BLAS libraries in use, looked for once: that takes longer than many a search."""
    return ThreadpoolController().select(user_api="blas")


def for_each(work: Callable, items: Sequence, threads: int = 1, progress: str | None = None) -> None:
    """Call ``work(item)`` for every item, in order of starting, with ``threads`` threads and one BLAS thread in each.

    Parameters
    ----------
    work : callable
        Should release the interpreter lock in its long parts (matrix products, compiled loops). Calls may overlap.
    items : sequence
    threads : int, default 1
        With 1 everything runs in the calling thread, and BLAS keeps its own threads.
    progress : str, optional
        Title of a progress bar; none by default.

    Raises
    ------
    BaseException
        Whatever a call raised first. Like an interrupt, it stops the others after their current item; no thread is
        left.

    Examples
    --------
    >>> done = []
    >>> for_each(done.append, range(5), threads=2)
    >>> sorted(done)
    [0, 1, 2, 3, 4]
    """
    bar = tqdm(total=len(items), desc=progress, disable=progress is None, leave=False)
    with bar:
        if threads == 1 or len(items) < 2:
            for item in items:
                work(item)
                bar.update()
            return
        stop, left = Event(), iter(items)  # next() of one iterator is atomic

        def loop() -> None:
            try:
                for item in left:
                    if stop.is_set():
                        return
                    work(item)
                    bar.update()
            except BaseException:
                stop.set()
                raise

        with blas().limit(limits=1), ThreadPoolExecutor(threads) as pool:
            try:
                running = [pool.submit(loop) for _ in range(min(threads, len(items)))]
                wait(running)
            except BaseException:
                stop.set()
                raise
        for future in running:
            future.result()


def end_with_parent(parent: int) -> None:
    """Let the system end this process when the one that started it ends, even by kill -9 (Linux).

    An IPython kernel looks for its parent too, but only once it has started.

    Parameters
    ----------
    parent : int
        Number of the process that started this one. If that has ended already, this one ends now.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if os.getppid() != parent:
            os._exit(1)


def worker_settings() -> dict[str, Any]:
    """Settings for ``joblib.parallel_config``: processes that end with this one, even before they got any work.

    A worker of joblib waits five minutes for work otherwise, with all the memory of what it has loaded.

    Returns
    -------
    dict

    Examples
    --------
    >>> worker_settings()["backend"]
    'loky'
    """
    return {"backend": "loky", "initializer": end_with_parent, "initargs": (os.getpid(),)}


def thread_count(n_jobs: int | None = None) -> int:
    """How many threads a kernel uses.

    Parameters
    ----------
    n_jobs : int, optional
        As in joblib: -1 is all cores. By default as many as BLAS is set to, which follows ``OMP_NUM_THREADS`` and
        ``threadpoolctl``.

    Returns
    -------
    int
        At least 1.

    Raises
    ------
    ParameterError
        If ``n_jobs`` is not a whole number, or 0.

    Examples
    --------
    >>> thread_count(2)
    2
    """
    if n_jobs is None:
        return max((pool["num_threads"] for pool in blas().info()), default=effective_n_jobs(-1))
    hint = "Give a number of threads, -1 for all cores, or None."
    if whole("n_jobs", n_jobs, -math.inf, hint=hint) == 0:
        raise ParameterError("n_jobs must not be 0", hint=hint)
    return effective_n_jobs(int(n_jobs))
