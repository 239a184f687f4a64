"""JupyterLab as a reader uses it: notebook 04 opened in Chromium, all cells run from the menu, the page looked at."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import nbformat
import pytest
from helpers import ROOT
from helpers.browser import WAIT, chromium, chromium_path, watched

pytestmark = pytest.mark.slow

BOOK = ROOT / "notebooks" / "04_adbscan.ipynb"
SETTINGS = {
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
    "notebook-extension/tracker": {"windowingMode": "none"},  # else cells out of sight are not in the page
}


def code_cells(path: Path) -> list:
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]


def pictures(cells: list) -> int:
    return sum("image/png" in output.get("data", {}) for cell in cells for output in cell.outputs)


@contextmanager
def jupyterlab(folder: Path):
    """JupyterLab on a free port of this machine, with settings, kernels and files of its own: its address and token."""
    token, places = secrets.token_hex(16), {}
    for name in ("CONFIG", "DATA", "RUNTIME"):
        places[f"JUPYTER_{name}_DIR"] = folder / name.lower()
    places |= {"JUPYTERLAB_SETTINGS_DIR": folder / "settings", "JUPYTERLAB_WORKSPACES_DIR": folder / "lab"}
    places |= {"IPYTHONDIR": folder / "ipython", "ASSL_WORKSPACE": folder / "runs" / "lab"}
    for name, values in SETTINGS.items():
        file = folder / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(values), encoding="utf-8")
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ServerApp.ip=127.0.0.1"]
    command += ["--ServerApp.port=0", f"--ServerApp.root_dir={folder / 'files'}"]
    command += ["--LabApp.news_url=None", "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"]
    env = os.environ | {name: str(place) for name, place in places.items()} | {"JUPYTER_TOKEN": token}
    env.pop("MPLBACKEND", None)  # which the other tests set; a kernel draws into its notebook
    with open(folder / "log.txt", "w", encoding="utf-8") as log:
        server = subprocess.Popen(command, env=env, cwd=folder, stdout=log, stderr=log)
    try:
        yield f"http://127.0.0.1:{_port(server, folder)}", token
    finally:
        server.terminate()  # it ends its kernels
        try:
            server.wait(60)
        except subprocess.TimeoutExpired:
            server.kill()  # its kernels look for their parent, and end
            server.wait()


def _port(server: subprocess.Popen, folder: Path) -> int:
    """The port, from the file that the server writes when it listens."""
    end = time.monotonic() + WAIT / 1000
    while time.monotonic() < end and server.poll() is None:
        for file in (folder / "runtime").glob("jpserver-*.json"):
            try:
                return json.loads(file.read_text(encoding="utf-8"))["port"]
            except json.JSONDecodeError:  # not written whole yet
                pass
        time.sleep(0.2)
    pytest.fail((folder / "log.txt").read_text(encoding="utf-8")[-3000:])


def test_notebook_04_runs_in_jupyterlab(tmp_path):
    chromium_path()
    copy = tmp_path / "files" / BOOK.name
    copy.parent.mkdir()
    book = nbformat.read(BOOK, as_version=4)
    for cell in book.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    nbformat.write(book, copy)
    n = len(code_cells(BOOK))

    with jupyterlab(tmp_path) as (address, token), chromium() as browser:
        page, outside, errors = watched(browser, viewport={"width": 1280, "height": 1000})
        page.goto(f"{address}/lab/tree/{copy.name}?token={token}")
        page.get_by_text("Python 3 (ipykernel) | Idle").wait_for()  # before, Run asks for a kernel or does nothing
        assert not page.locator(".jp-OutputArea-output").count()
        page.get_by_role("menuitem", name="Run", exact=True).click()
        page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
        page.wait_for_function(
            """n => [...document.querySelectorAll('.jp-Dialog, .jp-OutputArea-output[data-mime-type$="stderr"]')]
                    .some(shown => shown.matches('.jp-Dialog') || shown.innerText.includes('Traceback'))
                || [...document.querySelectorAll('.jp-CodeCell .jp-InputPrompt')].at(-1).innerText === `[${n}]:`""",
            arg=n,
        )
        assert page.locator(".jp-Dialog").all_inner_texts() == []
        assert page.locator(".jp-OutputArea-output").filter(has_text="Traceback").all_inner_texts() == []
        page.get_by_text("Python 3 (ipykernel) | Idle").wait_for()
        drawn = page.locator(".jp-CodeCell .jp-RenderedImage img")
        assert drawn.count() == pictures(code_cells(BOOK)) > 0
        assert all(drawn.evaluate_all("found => found.map(i => i.complete && i.naturalWidth > 100)"))
        drawn.first.scroll_into_view_if_needed()
        page.screenshot(path=tmp_path / "jupyterlab.png")

        page.keyboard.press("Control+s")
        end = time.monotonic() + WAIT / 1000
        while [cell.execution_count for cell in code_cells(copy)][-1] != n and time.monotonic() < end:
            page.wait_for_timeout(200)
        assert not outside and not errors

    saved = code_cells(copy)
    assert [cell.execution_count for cell in saved] == list(range(1, n + 1))
    assert not [output for cell in saved for output in cell.outputs if output.output_type == "error"]
    assert pictures(saved) == pictures(code_cells(BOOK))
    assert (tmp_path / "runs" / "lab" / "pool.parquet").is_file()
