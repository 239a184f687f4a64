"""Compiling a loop with numba: on disk where that is possible, and free of the interpreter lock."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba

FAST = {"reassoc", "contract"}  #: for ``fastmath``: sums in any order, but NaN and inf as they are


def jit(function: Callable | None = None, **options: Any) -> Any:
    """Compile with an on-disk cache where some folder is writable, else without; ``options`` are numba's."""
    if function is None:
        return lambda function: jit(function, **options)
    try:
        return numba.njit(nogil=True, cache=True, **options)(function)
    except RuntimeError:  # read-only install and no writable user cache
        return numba.njit(nogil=True, **options)(function)
