"""Train the experts of a run with several processes: ``accelerate launch -m assl_kit.app.train_bank RUN``.

The run must have got as far as its selection (``assl run --to 05``). All processes train every expert together, each on
its share of a step's records; the first one then writes the bank, and ``assl run`` goes on from there.
"""

from __future__ import annotations

import argparse
import os
import sys

from assl_kit.artifacts.build_experts import LOGS, WORK, run_base, training_config
from assl_kit.artifacts.steps import is_current, read, require
from assl_kit.artifacts.workspace import Workspace, find_run
from assl_kit.common.device import sharded
from assl_kit.errors import AsslError, WorkspaceError, refusal

from .console import complain, system_message


def train_bank(run: str, *, progress: bool = False) -> Workspace:
    """Train a run's experts in this process and those launched with it.

    Parameters
    ----------
    run : str
        Name of a run under ``runs/``, or its folder.
    progress : bool
        Show a progress bar (of the first process).

    Returns
    -------
    Workspace
        With its ``experts`` made.

    Raises
    ------
    WorkspaceError
        If there is no such run, or it has no current selection yet.

    Examples
    --------
    >>> train_bank("no-such-run")
    Traceback (most recent call last):
    ...
    assl_kit.errors.WorkspaceError: there is no run 'no-such-run'. Run 'assl run --to 05' first.
    """
    from assl_kit.experts.train_experts import cluster_tables
    from assl_kit.experts.training.adapter import train_adapter
    from assl_kit.experts.training.session import Session
    from assl_kit.model.identity import base_info

    folder = find_run(run)
    if folder is None:
        raise WorkspaceError(f"there is no run {run!r}", hint="Run 'assl run --to 05' first.")
    ws = Workspace.open(folder)
    p = ws.current_parameters()
    if not is_current(ws, "selection", p):
        raise WorkspaceError(
            "the run has no selection yet, or not of its data and parameters",
            where=ws.display_path(),
            hint="Run 'assl run --to 05' with the same parameters first.",
        )
    rank, processes = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    _take_own_gpu()
    if processes > 1:
        model, tokenizer = run_base(p)
        whole = True
        base = base_info(model, tokenizer, p.base_model)["fingerprint"]
        for k, table in enumerate(cluster_tables(read(ws, "records"), read(ws, "selection"), p.n_clusters)):
            logs = ws.path_of(f"{LOGS}/expert-{k}") if p.tensorboard else None
            if not whole:
                del model
                model, tokenizer = run_base(p)
            session = Session(name=f"expert {k}", base_fingerprint=base, progress=progress and rank == 0, log_dir=logs)
            train_adapter(model, tokenizer, table, ws.path_of(f"{WORK}/expert-{k}"), training_config(p), session)
            whole = not sharded()
        del model
    if rank == 0:
        require(ws, "experts", p)  # takes the adapters that are there
    return ws


def _take_own_gpu() -> None:
    """Let "cuda" mean the GPU of this process."""
    import torch

    if "LOCAL_RANK" in os.environ and torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))


def main() -> None:
    """Entry point of ``-m assl_kit.app.train_bank``."""
    parser = argparse.ArgumentParser(prog="assl_kit.app.train_bank", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("run", help="name of a run under runs/, or its folder")
    try:
        ws = train_bank(parser.parse_args().run, progress=True)
    except AsslError as error:
        sys.exit(f"assl_kit.app.train_bank: {error}")
    except Exception as error:
        refused = refusal(error)
        if refused is None:
            raise
        sys.exit(complain(AsslError(system_message(refused)), 3))
    if int(os.environ.get("RANK", 0)) == 0:
        from assl_kit.experts.bank import ExpertBank
        from assl_kit.experts.training_table import training_table

        measured = ws.manifest().get("training", {})
        print(training_table(ExpertBank.from_pretrained(ws.path_of("experts")), measured).round(2).T.to_string())


if __name__ == "__main__":
    main()
