"""Compiled loops where no cache folder can be written."""

from __future__ import annotations

from types import SimpleNamespace

import numba
import pytest

from assl_kit.common import jit as _compile


def double(x):
    return 2 * x


@pytest.mark.parametrize("options", [{}, {"fastmath": _compile.FAST}])
def test_without_a_cache_folder_a_loop_is_compiled_all_the_same(monkeypatch, options):
    real, asked = numba.njit, []

    def njit(**given):
        asked.append(given)
        if given.get("cache"):
            raise RuntimeError("cannot cache function: no locator available")
        return real(**given)

    monkeypatch.setattr(_compile, "numba", SimpleNamespace(njit=njit))
    compiled = _compile.jit(double) if not options else _compile.jit(**options)(double)
    assert compiled(21) == 42
    assert asked == [{"nogil": True, "cache": True} | options, {"nogil": True} | options]
