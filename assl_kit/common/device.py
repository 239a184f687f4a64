"""Where to compute: device, dtype, batch size, threads."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from assl_kit.errors import ParameterError

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

    told = ("DefaultCPUAllocator: can't allocate memory", "DefaultCPUAllocator: not enough memory", "out of memory")
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and any(text in str(error) for text in told)
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


def batch_size_for(model, length: int) -> int:
    """Records of ``length`` tokens that a model without gradients reads or continues at once.

    A small model gets 32. Else a batch may hold a number of tokens: 4,096 on a CPU, where more is no faster; on a GPU
    what half of the free memory holds of keys, values and activations (ours).

    Parameters
    ----------
    model : transformers.PreTrainedModel, or a PEFT model
    length : int
        Tokens of the longest record, those to be written among them.

    Returns
    -------
    int
        1 to 256.

    Examples
    --------
    >>> import torch
    >>> batch_size_for(torch.nn.Linear(2, 2), 512)
    32
    """
    import torch

    if is_small(model):
        return 32
    device = next(iter(model.parameters())).device
    tokens = 4096
    if device.type == "cuda":
        config = model.config.get_text_config()
        width, layers = config.hidden_size, config.num_hidden_layers
        heads = config.num_attention_heads
        head = getattr(config, "head_dim", None) or width // heads
        cached = 2 * layers * (getattr(config, "num_key_value_heads", None) or heads) * head
        passing = 8 * width + 3 * (getattr(config, "intermediate_size", None) or 4 * width)
        free = torch.cuda.mem_get_info(device)[0]
        free += torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        tokens = int(0.5 * free / (model.dtype.itemsize * (cached + passing)))
    return max(1, min(256, tokens // max(1, length)))


def torch_device(device):
    """The torch device of this name, if it is there and has float64; else a `ParameterError`."""
    import torch

    try:
        found = torch.device(device)
    except (RuntimeError, TypeError):
        raise ParameterError(f"unknown device {device!r}", hint="Use 'cpu' or 'cuda'.") from None
    if found.type not in {"cpu", "cuda"}:
        raise ParameterError(f"device {device!r} cannot run this: float64 is needed", hint="Use 'cpu' or 'cuda'.")
    if found.type == "cuda" and not torch.cuda.is_available():
        raise ParameterError(f"device {device!r} is not available on this machine", hint="Use 'cpu'.")
    return found


@contextmanager
def full_float32():
    """Products of float32 matrices without TF32 or bfloat16, which the error bounds do not cover."""
    import torch

    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def upload(blocks, shape, device):
    """Float32 rows, given in blocks of NumPy arrays, as one tensor on a device."""
    import torch

    X, start = torch.empty(shape, dtype=torch.float32, device=device), 0
    for block in blocks:
        X[start : start + len(block)] = torch.tensor(block)
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
