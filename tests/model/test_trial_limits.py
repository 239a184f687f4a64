"""The limits of a chat template's trial: macOS may refuse the one on memory, Linux must not."""

from __future__ import annotations

import pytest

from assl_kit.model.trial import render


@pytest.mark.parametrize("error", [ValueError("current limit exceeds maximum limit"), OSError(22, "Invalid argument")])
def test_a_refused_limit_on_memory_stops_linux_only(monkeypatch, error):
    resource = pytest.importorskip("resource", reason="Windows has no such limits")
    limited = []

    def setrlimit(what, values):
        if what == resource.RLIMIT_AS:
            raise error
        limited.append(what)

    monkeypatch.setattr(resource, "setrlimit", setrlimit)
    monkeypatch.setattr(render.sys, "platform", "darwin")
    render._limit(3, 1 << 20)
    assert limited == [resource.RLIMIT_CPU, resource.RLIMIT_CORE]
    monkeypatch.setattr(render.sys, "platform", "linux")
    with pytest.raises(type(error)):
        render._limit(3, 1 << 20)
