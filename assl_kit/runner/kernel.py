"""Kernels of a run: this interpreter, with the heavy libraries loaded while the notebook before is still running.

Importing torch and its relatives takes longer than most notebooks compute. A run starts the next notebook's kernel one
notebook ahead, so that the second core does it meanwhile, and with it the processes that the notebook will train in.
``ASSL_PRELOAD`` names other libraries, with commas between, or none.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from assl_kit.artifacts.workspace import Workspace
from assl_kit.common.files import temporary_beside
from assl_kit.common.parallel import end_with_parent

if TYPE_CHECKING:
    from jupyter_client.kernelspec import KernelSpecManager
    from jupyter_client.manager import AsyncKernelManager

KERNEL = "python3"
_PRELOAD = "torch,transformers,sentence_transformers,peft,trl"
_LIGHT = {"01", "03", "04", "08"}
"""Notebooks that need next to none of these: they use no model, or leave it to the processes they train in."""
_TRAINED_ASIDE = {"03": "affinity", "06": "experts", "07": "cross", "08": "comparison"}
"""What notebooks have made by `assl_kit.artifacts.build_experts.side_by_side`."""
_QUIET = {"OMP_WAIT_POLICY": "PASSIVE", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_DISABLE_TELEMETRY": "1"}
_QUIET |= {"PYDEVD_DISABLE_FILE_VALIDATION": "1"}  # a debugger's warning at the start of every older kernel


@contextmanager
def kernel_starter(ws: Workspace) -> Iterator[Callable[[str], AsyncKernelManager]]:
    """Give a function that starts a kernel for the notebook of a number; at the end all of them are shut down.

    The kernel inherits the workspace and quiet libraries; what it is spoken to by stands in the workspace, so that the
    next run removes it after a kill. Whatever kernels a user has installed as ``python3``, it is the current
    interpreter.

    Parameters
    ----------
    ws : Workspace

    Yields
    ------
    callable
        ``start(number) -> AsyncKernelManager``, running in the workspace's folder.
    """
    from jupyter_client.manager import AsyncKernelManager
    from nbclient.util import run_sync

    started: list[AsyncKernelManager] = []
    specs = _specs()

    def start(number: str) -> AsyncKernelManager:
        environment = {**_QUIET, **os.environ}
        environment |= {"ASSL_WORKSPACE": str(ws.folder), "ASSL_NOTEBOOK": number}
        environment.pop("MPLBACKEND", None)  # the kernel's own: pictures inline
        connection = str(place / f"{len(started)}.json")
        manager = AsyncKernelManager(kernel_name=KERNEL, kernel_spec_manager=specs, connection_file=connection)
        run_sync(manager.start_kernel)(cwd=str(ws.folder), env=environment)
        started.append(manager)
        return manager

    with temporary_beside(ws.folder / "kernels") as place:
        try:
            yield start
        finally:
            for manager in started:
                stop_kernel(manager)


def _specs() -> KernelSpecManager:
    """What jupyter_client asks for a kernel's command: this interpreter's, whatever is installed; no file is needed."""
    from jupyter_client.kernelspec import KernelSpec, KernelSpecManager

    argv = [sys.executable, "-m", "assl_kit.runner.kernel", "--log-level=50", "-f", "{connection_file}"]
    argv.append("--HistoryManager.hist_file=:memory:")
    spec = KernelSpec(argv=argv, name=KERNEL, display_name="Python 3", language="python")

    class OneKernel(KernelSpecManager):
        def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
            return spec

    return OneKernel()


def stop_kernel(kernel: AsyncKernelManager) -> None:
    """Shut a kernel down, if it still runs."""
    from nbclient.util import run_sync

    with suppress(Exception):
        if kernel.has_kernel:
            run_sync(kernel.shutdown_kernel)(now=True)


def peak_of(kernel: AsyncKernelManager) -> float | None:
    """The most memory a started kernel has held, in MiB; None where the system does not tell."""
    status = Path(f"/proc/{getattr(kernel.provisioner, 'pid', None)}/status")
    with suppress(OSError, AttributeError):
        for line in status.read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return round(int(line.split()[1]) / 1024, 1)
    return None


def main() -> None:
    """Load what can be loaded ahead, then be an ordinary IPython kernel."""
    import importlib

    end_with_parent(int(os.environ.get("JPY_PARENT_PID") or os.getppid()))  # set by jupyter_client
    number, names = os.environ.get("ASSL_NOTEBOOK", ""), os.environ.get("ASSL_PRELOAD")
    if names is None:
        names = "" if number in _LIGHT else _PRELOAD
        with suppress(Exception):  # the notebook will say what is wrong
            _start_workers(number)
    for name in filter(None, names.split(",")):
        with suppress(ImportError):
            importlib.import_module(name)
    from ipykernel import kernelapp

    kernelapp.launch_new_instance()


def _start_workers(number: str) -> None:
    """Start the processes that a notebook trains in, unless what they would make is there."""
    if number not in _TRAINED_ASIDE:
        return
    from assl_kit.artifacts.build_experts import start_workers
    from assl_kit.artifacts.steps import is_current

    ws = Workspace.open()
    parameters = ws.current_parameters()
    if not is_current(ws, _TRAINED_ASIDE[number], parameters):
        start_workers(parameters)


if __name__ == "__main__":
    main()
