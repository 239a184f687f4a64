"""Where to compute: the device, its dtype and batch size, and rows put there."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from assl_kit.errors import ParameterError

if TYPE_CHECKING:
    import numpy as np
    import torch


def sharded() -> bool:
    """Whether ``accelerate launch --use_fsdp`` started this process: a base is divided among the cards in training.

    Examples
    --------
    >>> sharded()
    False
    """
    return os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true" and int(os.environ.get("WORLD_SIZE", 1)) > 1


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that a device has too little memory.

    Examples
    --------
    >>> is_out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"))
    True
    >>> is_out_of_memory(RuntimeError("shapes differ"))
    False
    """
    import torch

    phrases = ("DefaultCPUAllocator: can't allocate memory", "DefaultCPUAllocator: not enough memory", "out of memory")
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and any(text in str(error) for text in phrases)
    )


def peak_memory_mb(device: str) -> float:
    """The most memory so far, in MiB: allocated by torch on a GPU, else resident of this process; NaN if unknown.

    Examples
    --------
    >>> peak_memory_mb("cpu") > 1
    True
    """
    import torch

    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    try:
        import resource
    except ImportError:  # Windows
        return float("nan")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def torch_device(device: str | torch.device) -> torch.device:
    """The torch device of this name, if it is there and has float64; else a `ParameterError`."""
    import torch

    try:
        known = torch.device(device)
    except (RuntimeError, TypeError):
        raise ParameterError(f"unknown device {device!r}", hint="Use 'cpu' or 'cuda'.") from None
    if known.type not in {"cpu", "cuda"}:
        raise ParameterError(f"device {device!r} cannot run this: float64 is needed", hint="Use 'cpu' or 'cuda'.")
    if known.type == "cuda" and not torch.cuda.is_available():
        raise ParameterError(f"device {device!r} is not available on this machine", hint="Use 'cpu'.")
    return known


@contextmanager
def full_float32() -> Iterator[None]:
    """Products without TF32 or bfloat16 in place of float32, and sums in float32, as the error bounds assume."""
    import torch

    matmul, names = torch.backends.cuda.matmul, ("allow_fp16_accumulation",)
    before = torch.get_float32_matmul_precision()
    halves = {name: getattr(matmul, name) for name in names if hasattr(matmul, name)}
    torch.set_float32_matmul_precision("highest")
    for name in halves:
        setattr(matmul, name, False)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
        for name, value in halves.items():
            setattr(matmul, name, value)


def upload(blocks: Iterable[np.ndarray], shape: tuple[int, int], device: torch.device) -> torch.Tensor:
    """Float32 rows, given in blocks of NumPy arrays, as one tensor on a device."""
    import numpy as np
    import torch

    X, start = torch.empty(shape, dtype=torch.float32, device=device), 0
    for block in blocks:
        with np.errstate(over="ignore"):
            block = np.ascontiguousarray(block, dtype=np.float32)
        block = block if block.flags.writeable else block.copy()  # torch warns of what it could write to
        X[start : start + len(block)] = torch.from_numpy(block)
        start += len(block)
    return X


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
