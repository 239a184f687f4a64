"""What a run does on a Ray cluster: embed blocks of records, thin and pick in each cluster, train the experts.

Each gives what one machine gives: every task does the same work on the same rows, and results are joined by name or id,
never in the order in which they come.
"""

from __future__ import annotations

import copy
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.base import clone

from assl_kit.common.cluster import check_room, connect, device_for, explained, opened, run_tasks, share, total
from assl_kit.data.parquet import block_starts
from assl_kit.selection.redistribute import Redistributor
from assl_kit.space.embeddings import embed_block

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

    from assl_kit.experts.training.adapter import TrainingResult
    from assl_kit.experts.training.session import Job
    from assl_kit.selection.adbscan import ADBSCAN


def embed_side_by_side(
    records: str | os.PathLike, encoder: str, *, device: str = "cpu", workers: int | None = None
) -> Iterator[tuple[np.ndarray, Sequence[str], np.ndarray]]:
    """Embed a Parquet file of records, block by block, with one encoder in each worker.

    Parameters
    ----------
    records : path-like
        Written by `assl_kit.data.records.write_records`; all machines must see it under this path.
    encoder : str
        A folder or hub id, as for `assl_kit.space.encoder.load_encoder`.
    device : str
        ``"cuda"``: each worker asks for a GPU; ``"auto"``: if there is one.
    workers : int, optional
        Encoders; default: as many as the cluster has GPUs, or CPUs. The rows do not depend on it.

    Yields
    ------
    places, ids, rows
        As `assl_kit.space.embeddings.write_embeddings` takes them, in any order.

    Raises
    ------
    ParameterError
        Before anything starts, if a worker asks for a GPU and there is none.
    AsslError
        If a worker failed.
    """
    connect()
    import ray.data

    device, gpus = device_for(device, "embedding")
    starts = block_starts(records)
    blocks = len(starts) - 1
    workers = min(workers or total("GPU" if gpus else "CPU"), blocks)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    numbers = ray.data.from_items([{"block": number} for number in range(blocks)], override_num_blocks=blocks)
    rows = numbers.map_batches(
        _Embedder,
        fn_constructor_args=(str(Path(records).resolve()), encoder, device),
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=workers),
        num_cpus=1,
        num_gpus=gpus,
    )
    try:
        for batch in rows.iter_batches(batch_size=None, batch_format="numpy"):
            places, ids, block = (np.asarray(batch[column]) for column in ("place", "id", "row"))
            yield places, ids.tolist(), block
    except ray.exceptions.RayError as error:
        raise explained(error, "embedding") from error


class _Embedder:
    """One worker: an encoder, loaded at the first block."""

    def __init__(self, records: str, encoder: str, device: str):
        self.records, self.encoder, self.device = records, encoder, device

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        places, ids, rows = embed_block(_encoder(self.encoder, self.device), self.records, int(batch["block"][0]))
        return {"place": places, "id": np.asarray(ids, dtype=object), "row": rows}


@lru_cache(maxsize=1)
def _encoder(name: str, device: str) -> SentenceTransformer:
    from assl_kit.space.encoder import load_encoder

    return load_encoder(name, device=device)


class RayRedistributor(Redistributor):
    """A `Redistributor` whose clusters are independent Ray tasks; the parameters and the results are the same.

    X goes to the workers as the place of a memory-mapped file, or once into Ray's object store. What A-DBSCAN found of
    a cluster (about 600 bytes a row) stays in the store of the machine that found it, where thinning takes it up.

    ``n_jobs`` is the number of CPUs of each task; default: the cluster's, divided among its tasks. With
    ``device="cuda"`` each task asks for a GPU.

    Examples
    --------
    >>> RayRedistributor(n_jobs=4).n_jobs
    4
    """

    def _each(self, title: str, work: str, X: np.ndarray, cells: Mapping[Any, tuple[Any, ...]]) -> list[Any]:
        ray = connect()
        cpus = _cpus_each(len(cells)) if self.n_jobs is None else self.n_jobs
        gpus = int(self.device != "cpu")
        check_room(title, cpus, gpus)
        options = {"num_cpus": cpus, "num_gpus": gpus, "max_retries": 0, "num_returns": 2 if work == "_fit" else 1}
        task = ray.remote(_work_on).options(**options)
        one, shared = ray.put(clone(self).set_params(n_jobs=cpus, verbose=False)), share(X)

        def start(arguments: tuple[Any, ...]) -> Callable[[], Any]:
            return lambda: task.remote(one, work, shared, *arguments)

        tasks = {f"cluster {name}": start(arguments) for name, arguments in cells.items()}
        return run_tasks(title, tasks, progress=self.verbose)

    def _fit(self, X: np.ndarray, rows: np.ndarray) -> tuple[int, ADBSCAN]:
        count, fit = super()._fit(X, rows)
        fit._points.detach()
        return count, fit

    def _thin(self, X: np.ndarray, fit: ADBSCAN, size: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        fit = copy.deepcopy(fit)  # arrays of the object store are read-only
        fit._points.attach(X)
        return super()._thin(X, fit, size)


def _cpus_each(tasks: int) -> int:
    """CPUs for each of so many tasks: the cluster's, divided, but not more than one machine has."""
    largest = max(node["Resources"].get("CPU", 0) for node in connect().nodes() if node["Alive"])
    return max(1, int(min(total("CPU") // max(1, tasks), largest)))


def _work_on(redistributor: RayRedistributor, work: str, shared: Any, *arguments: Any) -> Any:
    """In the worker: one cluster's part of a stage."""
    return getattr(redistributor, work)(opened(shared), *arguments)


def train_side_by_side(
    jobs: Mapping[str, Job],
    base: str,
    *,
    device: str = "auto",
    quantization: str | None = None,
    progress: bool = False,
) -> list[TrainingResult]:
    """Train adapters as independent Ray tasks.

    Parameters
    ----------
    jobs : mapping of str to Job
        By name: what is to be trained; see `assl_kit.experts.train_experts.Workplace`.
    base : str
        The base model, as for `assl_kit.model.loading.load_base`. Each worker loads it once.
    device : str
        ``"cuda"``: each task asks for a GPU; ``"auto"``: if the cluster has one.
    quantization : str, optional
    progress : bool
        Show a bar.

    Returns
    -------
    list of TrainingResult
        In the order of the jobs.

    Raises
    ------
    ParameterError
        Before anything starts, if a task asks for a GPU and there is none.
    AsslError
        If a training failed. The others are stopped; finished adapters and checkpoints stay in their folders.
    """
    ray = connect()
    device, gpus = device_for(device, "training")
    cpus = 1 if gpus else _cpus_each(len(jobs))
    task = ray.remote(_train).options(num_cpus=cpus, num_gpus=gpus, max_retries=0)

    def start(job: Job) -> Callable[[], Any]:
        return lambda: task.remote(cpus, job, base, device, quantization)

    return run_tasks("training", {name: start(job) for name, job in jobs.items()}, progress=progress)


def _train(threads: int, job: Job, base: str, device: str, quantization: str | None) -> TrainingResult:
    """In the worker: one adapter."""
    import torch

    from assl_kit.experts.training.worker import train_on_kept_base

    torch.set_num_threads(threads)
    return train_on_kept_base(job, base, device, quantization)
