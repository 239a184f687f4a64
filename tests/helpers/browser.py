"""Headless Chromium for tests, which reaches nothing but this machine."""

from __future__ import annotations

import os
import shutil
from contextlib import contextmanager
from importlib.util import find_spec
from urllib.parse import urlsplit

import pytest

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
_FLAGS += ["--disable-component-update", "--disable-sync"]
WAIT = 240_000  #: milliseconds; a busy machine is slow
LOCAL = {"127.0.0.1", "localhost"}


def chromium_path() -> str:
    """Chromium's program; without it, or Playwright, the test is skipped, or fails if ASSL_NEEDS_BROWSER is set."""
    found = next(filter(None, map(shutil.which, _NAMES)), None)
    if os.environ.get("ASSL_NEEDS_BROWSER"):
        assert found and find_spec("playwright"), "there is no Chromium, or no Playwright"
    pytest.importorskip("playwright", reason="needs playwright: pip install -e '.[browser]'")
    return found or pytest.skip("needs Chromium, for instance Debian's package chromium")


@contextmanager
def chromium(names: str = ""):
    """A Playwright browser; ``names``, such as ``MAP my.example 127.0.0.1``, are resolved so."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        rules = ", ".join(filter(None, [names, "MAP * ~NOTFOUND", "EXCLUDE 127.0.0.1"]))
        flags = [*_FLAGS, f"--host-resolver-rules={rules}"]
        browser = playwright.chromium.launch(executable_path=chromium_path(), args=flags)
        try:
            yield browser
        finally:
            browser.close()


def watched(browser, **options):
    """A new page, and the lists of addresses it asked for outside this machine and of errors of its scripts."""
    page = browser.new_page(**options)
    page.set_default_timeout(WAIT)
    outside, errors = [], []

    def look(address: str) -> None:
        url = urlsplit(address)
        if url.scheme not in ("data", "blob") and url.hostname not in LOCAL:
            outside.append(address)

    page.on("request", lambda request: look(request.url))
    page.on("websocket", lambda socket: look(socket.url))
    page.on("pageerror", lambda error: errors.append(str(error)))
    return page, outside, errors
