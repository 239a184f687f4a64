"""Where to compute: device, dtype, batch size."""

from __future__ import annotations

from dataclasses import dataclass

from .errors import ParameterError


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
