"""The command ``assl push``: a selection or a bank, with its card, to the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from assl_kit.artifacts.workspace import Workspace, experts_folder
from assl_kit.errors import ParameterError

from .ask import open_run


@click.command()
@click.argument("source", metavar="DIR|RUN")
@click.option("--to", "repo_id", required=True, metavar="OWNER/NAME", help="The repository; made if it is missing.")
@click.option("--private/--public", default=True, show_default=True, help="Of a repository that is made.")
@click.option("--license", "license_", metavar="NAME", help="Of a bank, the hub's short name; default unknown.")
@click.option("--dataset", "datasets", metavar="OWNER/NAME", multiple=True, help="What a bank learnt from; repeatable.")
def push(source: str, repo_id: str, private: bool, license_: str | None, datasets: tuple[str, ...]) -> None:
    """Send DIR (a selection, or a bank of experts) or the bank of RUN to the hub, private unless told otherwise.

    The token is that of HF_TOKEN, or of "hf auth login".
    """
    address = push_folder(source, repo_id, private=private, license=license_, datasets=datasets)
    print(f"Sent: {address}")


def push_folder(
    source: str,
    repo_id: str,
    *,
    private: bool = True,
    license: str | None = None,
    datasets: tuple[str, ...] = (),
    token: str | None = None,
) -> str:
    """Send a selection's or a bank's folder, or the bank of a run with the scores of its test, to the hub.

    Returns
    -------
    str
        The address of the commit.

    Raises
    ------
    ParameterError
        As `assl_kit.common.hub.upload`; ``license`` and ``datasets`` are not for a selection, whose card has them.
    BankError, WorkspaceError
        The folder is damaged, or there is no such run.
    """
    from assl_kit.common.hub import check_hub
    from assl_kit.experts.bank import ExpertBank
    from assl_kit.runner.selecting.plan import ABOUT
    from assl_kit.runner.selecting.select import SelectedFile

    check_hub(repo_id, token)
    folder = Path(source).expanduser()
    if (folder / ABOUT).is_file():
        if license or datasets:
            hint = "Select again with --license, or edit its README.md."
            raise ParameterError("the card of a selection says this already", where="license, dataset", hint=hint)
        return SelectedFile.from_folder(folder).push_to_hub(repo_id, private=private, token=token)
    about: dict[str, Any] = {"license": license or "unknown", "datasets": datasets}
    if (folder / "bank.json").is_file():
        bank = ExpertBank.from_pretrained(folder)
    else:
        ws = open_run(source)
        bank = ExpertBank.from_pretrained(experts_folder(ws))
        about["scores"] = _scores(ws)
    return bank.push_to_hub(repo_id, private=private, token=token, **about)


def _scores(ws: Workspace) -> list[dict[str, Any]]:
    """The routed experts' score in each task of a run's test."""
    from assl_kit.artifacts.build_evaluation import ROUTED
    from assl_kit.runner.report import read_metrics

    rows = read_metrics(ws).get("table") or []
    return [row for row in rows if row.get("arm") == ROUTED and row.get("metric") and row.get("task") != "mean"]
