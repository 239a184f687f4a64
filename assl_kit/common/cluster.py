"""Ray as the engine of a run: which engine is asked for, the cluster, and independent tasks that fail together.

The environment variable ``ASSL_BACKEND`` chooses: ``local`` (the default) or ``ray``. It is no parameter of a run,
since the results are the same. What is run on the cluster is in `assl_kit.artifacts.ray_stages`.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from assl_kit.errors import AsslError, ParameterError

from .packages import need, reason

BACKEND = "ASSL_BACKEND"
_BACKENDS = ("local", "ray")
_STARTS = 3  # of a local cluster: its parts may not come up in the 30 seconds that Ray waits on a busy machine
_LOST = (
    "WorkerCrashedError",
    "OutOfMemoryError",
    "NodeDiedError",
    "RaySystemError",
    "ActorDiedError",
    "TerminatedWorkerError",  # joblib's
)
_SETTLING = 0.5  # seconds that the other tasks have to end before they are cancelled
_PATIENCE = 30  # seconds that cancelled tasks have to stop by themselves


def backend() -> str:
    """The engine asked for: ``"local"`` or ``"ray"``.

    Raises
    ------
    ParameterError
        If ``ASSL_BACKEND`` is something else, or Ray is not installed.

    Examples
    --------
    >>> os.environ["ASSL_BACKEND"] = "dask"
    >>> try:
    ...     backend()
    ... except ParameterError as error:
    ...     print(error)
    ... finally:
    ...     del os.environ["ASSL_BACKEND"]
    unknown backend 'dask' (ASSL_BACKEND). Use 'local' or 'ray'.
    >>> backend()
    'local'
    """
    name = os.environ.get(BACKEND) or "local"
    if name not in _BACKENDS:
        raise ParameterError(f"unknown backend {name!r}", where=BACKEND, hint="Use 'local' or 'ray'.")
    if name == "ray":
        _check_installed()
    return name


def _check_installed() -> None:
    need("ray", "the backend 'ray'", "ray", name="Ray", instead="use the backend 'local'")


def connect(**options: Any) -> Any:
    """The module ``ray``, connected: to the cluster of ``RAY_ADDRESS``, to one running here, or to a new local one.

    A cluster that is started here ends with this process.

    Parameters
    ----------
    **options
        For ``ray.init``, where this process is not connected yet.

    Raises
    ------
    ParameterError
        If Ray is not installed.
    AsslError
        If the cluster cannot be reached or started.
    """
    _check_installed()
    import ray

    address = os.environ.get("RAY_ADDRESS")
    for left in reversed(range(1 if address else _STARTS)):
        if ray.is_initialized():
            break
        try:
            ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR, **options)
        except Exception as error:  # ray raises many kinds
            ray.shutdown()
            if left:
                continue
            if address:
                what = f"the Ray cluster cannot be reached: {reason(error)}"
                hint = "Start it with 'ray start --head', or unset RAY_ADDRESS to have a local one."
                raise AsslError(what, where=address, hint=hint) from error
            what = f"no local Ray cluster could be started: {reason(error)}"
            hint = "Try again when the machine is less busy, or start one with 'ray start --head'."
            raise AsslError(what, hint=hint) from error
    return ray


@contextmanager
def cluster() -> Iterator[None]:
    """Let all processes started inside the block share one cluster; without the backend ``ray`` nothing is done.

    Where neither ``RAY_ADDRESS`` is set nor a cluster runs, each process would start one of its own, which takes
    seconds.

    Examples
    --------
    >>> with cluster():
    ...     print(os.environ.get("RAY_ADDRESS"))
    None
    """
    if backend() == "local" or os.environ.get("RAY_ADDRESS"):
        yield
        return
    ray = connect()
    os.environ["RAY_ADDRESS"] = ray.get_runtime_context().gcs_address
    try:
        yield
    finally:
        del os.environ["RAY_ADDRESS"]
        ray.shutdown()


def total(resource: str) -> int:
    """How many whole ``"CPU"`` or ``"GPU"`` the cluster has."""
    return int(connect().cluster_resources().get(resource, 0))


def check_room(what: str, cpus: int = 1, gpus: int = 0) -> None:
    """Refuse work that no machine of the cluster has room for, which would wait for ever.

    Raises
    ------
    ParameterError
        If no machine has so many CPUs and GPUs.
    """
    machines = [node["Resources"] for node in connect().nodes() if node["Alive"]]
    if any(node.get("CPU", 0) >= cpus and node.get("GPU", 0) >= gpus for node in machines):
        return
    if gpus:
        raise ParameterError(
            f"{what} asks for {gpus} GPU, but no machine of the Ray cluster has one",
            where="device",
            hint="Use device=auto or device=cpu, or start a machine with a GPU: ray start --address=….",
        )
    raise ParameterError(
        f"{what} asks for {cpus} CPUs, but no machine of the Ray cluster has so many",
        hint="Start Ray with more: ray start --num-cpus=….",
    )


def device_for(device: str, what: str) -> tuple[str, int]:
    """Where a worker computes, and how many GPUs it asks for: ``"auto"`` takes a GPU if the cluster has one.

    Raises
    ------
    ParameterError
        If ``device`` is ``"cuda"`` and the cluster has no GPU.
    """
    if device == "auto" and total("GPU"):
        device = "cuda"
    gpus = int(device == "cuda")
    check_room(what, gpus=gpus)
    return device, gpus


def share(X: np.ndarray) -> Any:
    """What workers get instead of an array: the place of a memory-mapped one, else an object in Ray's store.

    Workers get the array back from `opened`, without a copy for each task. A mapped file must have the same path on
    every machine of the cluster.
    """
    mapped: Any = X
    while mapped is not None and not isinstance(mapped, np.memmap):
        mapped = getattr(mapped, "base", None)  # a view holds what it is a view of
    if mapped is None or not X.flags.c_contiguous:
        return connect().put(X)
    begins = X.__array_interface__["data"][0] - mapped.__array_interface__["data"][0]  # bytes into the mapped part
    offset = mapped.offset + begins
    return {"file": str(Path(str(mapped.filename)).resolve()), "offset": offset, "shape": X.shape, "dtype": X.dtype.str}


def opened(shared: Any) -> np.ndarray:
    """The array that was shared, read-only. Ray gives the object itself where it lies in the store."""
    if not isinstance(shared, dict):
        return shared
    if not Path(shared["file"]).is_file():
        raise AsslError(
            "a worker does not see the run's folder",
            where=shared["file"],
            hint="All machines of the cluster must have it under the same path.",
        )
    return np.asarray(np.memmap(shared["file"], shared["dtype"], "r", shared["offset"], shared["shape"]))


def run_tasks(title: str, tasks: Mapping[str, Callable[[], Any]], *, progress: bool = False) -> list[Any]:
    """Start all tasks and wait for them.

    Parameters
    ----------
    title : str
        For the progress bar.
    tasks : mapping of str to callable
        By the name for messages, as ``"cluster 3"``: starts the task and gives its reference, or a list of references
        whose first is waited for; the others stay references.
    progress : bool
        Show a bar.

    Returns
    -------
    list
        The results, in the order of the tasks, whatever the order in which they ended: a value, or ``(value, reference,
        …)``.

    Raises
    ------
    AsslError
        As soon as a task fails; the message names it. The others are stopped before, as by an interrupt.
    """
    ray = connect()
    started: dict[str, list] = {}
    results: dict[str, Any] = {}
    try:
        for name, start in tasks.items():
            refs = start()
            started[name] = refs if isinstance(refs, list) else [refs]
        waiting = {refs[0]: name for name, refs in started.items()}
        with tqdm(total=len(tasks), desc=title, unit="task", disable=not progress, leave=False) as bar:
            while waiting:
                for ref in ray.wait(list(waiting), num_returns=1)[0]:
                    name = waiting.pop(ref)
                    try:
                        value = ray.get(ref)
                    except ray.exceptions.RayError as error:
                        raise explained(error, name) from error
                    rest = started[name][1:]
                    results[name] = (value, *rest) if rest else value
                    bar.update()
    except BaseException:
        _stop(ray, [refs[0] for refs in started.values()])
        raise
    return [results[name] for name in tasks]


def _stop(ray: Any, refs: list) -> None:
    """Interrupt tasks, and end the processes of those that go on in spite of it.

    Tasks that have ended, or are about to, are left alone: Ray ends this process where it is told to cancel one whose
    result it has just received ("Tried to complete task that was not pending"), and what stops one task often stops
    others at the same moment.
    """
    for patience, force in ((_SETTLING, False), (_PATIENCE, True)):
        for ref in ray.wait(refs, num_returns=len(refs), timeout=patience)[1] if refs else []:
            ray.cancel(ref, force=force)


def explained(error: BaseException, name: str) -> AsslError:
    """The error of a task as one of ours, which names the task."""
    cause = getattr(error, "cause", None) or error
    if isinstance(cause, AsslError):
        return type(cause)(f"{name} failed: {cause.what}", where=cause.where, hint=cause.hint)
    ours = re.findall(r"^assl_kit\.errors\.\w+: (.+)$", str(error), re.MULTILINE)  # where Ray keeps only the text
    if ours:
        return AsslError(f"{name} failed: {ours[-1].rstrip('.')}")
    hint = "What has been finished is kept: mend the cause and run again."
    if type(cause).__name__ in _LOST:
        hint = f"The worker's memory may have run out. {hint}"
    kind, why = type(cause).__name__, reason(cause)
    return AsslError(f"{name} failed: {kind if why == kind else f'{kind}: {why}'}", hint=hint)
