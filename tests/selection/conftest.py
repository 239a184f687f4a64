"""Threads for however few rows: they are what many of these tests are about."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True, scope="module")
def threads_for_few_rows():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("assl_kit.space.neighbors._FEW", 0)
        patch.setattr("assl_kit.selection.mmr._FEW", 0)
        yield
