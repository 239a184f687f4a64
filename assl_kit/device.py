"""Where to compute: device, dtype, batch size."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from numbers import Integral

from joblib import effective_n_jobs
from threadpoolctl import threadpool_info

from .errors import ParameterError

SMALL_MODEL = 20_000_000
"""Weights below which a model's layers are too small for more than one CPU thread."""


def is_small(model) -> bool:
    """Whether a torch model has fewer weights than `SMALL_MODEL`."""
    return sum(weights.numel() for weights in model.parameters()) < SMALL_MODEL


@contextmanager
def fitting_threads(model) -> Iterator[None]:
    """Compute with one thread where a small model runs on a CPU; more would wait for each other.

    Measured on the tiny base: 3,400 tokens a second in training with one thread, 2,400 with two (ours). One thread also
    makes the result independent of the number of cores.

    Parameters
    ----------
    model : torch.nn.Module

    Examples
    --------
    >>> import torch
    >>> before = torch.get_num_threads()
    >>> with fitting_threads(torch.nn.Linear(2, 2)):
    ...     torch.get_num_threads()
    1
    >>> torch.get_num_threads() == before
    True
    """
    import torch

    threads = torch.get_num_threads()
    device = next(iter(model.parameters())).device.type
    if device == "cpu" and is_small(model):
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


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
        pools = [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]
        return max(pools, default=effective_n_jobs(-1))
    if isinstance(n_jobs, bool) or not isinstance(n_jobs, Integral) or n_jobs == 0:
        raise ParameterError(f"n_jobs is {n_jobs!r}", hint="Give a number of threads, -1 for all cores, or None.")
    return effective_n_jobs(int(n_jobs))


@dataclass(frozen=True)
class Device:
    """Where to compute.

    Attributes
    ----------
    device : str
        ``"cpu"``, ``"cuda"`` or ``"mps"``.
    dtype : str
        Name of the torch dtype for model weights: ``"float32"``, ``"bfloat16"`` or ``"float16"``.
    batch_size : int
        A safe generation batch size for a small model there.
    name : str
        What to show a person.
    """

    device: str
    dtype: str
    batch_size: int
    name: str


def pick_device(prefer: str = "auto") -> Device:
    """Choose device, dtype and batch size.

    Parameters
    ----------
    prefer : {"auto", "cpu", "cuda", "mps"}
        ``"auto"`` takes the best that is there.

    Returns
    -------
    Device

    Raises
    ------
    ParameterError
        If ``prefer`` is unknown or not available.

    Notes
    -----
    A T4 has no bfloat16 units, so float16 is chosen there (ours).

    Examples
    --------
    >>> pick_device("cpu").dtype
    'float32'
    """
    import torch

    if prefer not in {"auto", "cpu", "cuda", "mps"}:
        raise ParameterError(f"unknown device {prefer!r}", hint="Use 'auto', 'cpu', 'cuda' or 'mps'.")
    has_mps = torch.backends.mps.is_available()
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": has_mps}
    if prefer != "auto" and not there[prefer]:
        raise ParameterError(f"device {prefer!r} is not available on this machine", hint="Use 'auto' or 'cpu'.")
    device = prefer if prefer != "auto" else next(d for d in ("cuda", "mps", "cpu") if there[d])
    if device == "cuda":
        major, _ = torch.cuda.get_device_capability()
        dtype = "bfloat16" if major >= 8 else "float16"
        return Device("cuda", dtype, 64, torch.cuda.get_device_name())
    return Device(device, "float32", 32, "Apple GPU" if device == "mps" else f"CPU, {torch.get_num_threads()} threads")
