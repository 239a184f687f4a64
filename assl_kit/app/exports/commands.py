"""The command ``assl export``: a run's experts in the form of another program."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from assl_kit.artifacts.workspace import experts_folder
from assl_kit.version import __version__

from ..ask import open_run
from ..console import from_here

if TYPE_CHECKING:
    from collections.abc import Callable

    from assl_kit.artifacts.workspace import Workspace
    from assl_kit.experts.bank import ExpertBank

    from .folder import Server


@click.group()
def export() -> None:
    """Write a run's experts in the form of another program."""


def _for_a_server(name: str, about: str) -> Callable[[Callable[[], Server]], click.Command]:
    """A subcommand that writes the folder for one kind of server; the decorated function says which."""

    def command(server: Callable[[], Server]) -> click.Command:
        def write(source: str, out: Path, base: str | None, encoder: str | None) -> None:
            from .folder import write_folder

            bank, base, ws = _to_export(source, base)
            folder = write_folder(server(), bank, out, base=base, encoder=encoder)
            place = from_here(folder)
            print(f"{len(bank)} experts in {place}")
            if ws is not None and ws.has("records.parquet") and bank.encoder_path is not None:
                from .report import in_words, write_report

                print(in_words(write_report(ws, folder)))
            print(f"On the server: {place}/serve.sh")
            if server().more is not None:
                print(f"Beside the router: python {place}/encoder_server.py; its configuration is {place}/config.yaml")
            else:
                print(f'Then: python {place}/client.py "…" --stream')

        decorators = [
            click.argument("source", metavar="RUN_OR_BANK"),
            click.argument("out", type=click.Path(path_type=Path)),
            click.option(
                "--base", metavar="ID_OR_FOLDER", help="The base to load; default the one of the run or bank."
            ),
            click.option("--encoder", metavar="ID_OR_FOLDER", help="The encoder, if the bank does not carry it."),
        ]
        for decorator in reversed(decorators):
            write = decorator(write)
        return export.command(name, help=about)(write)

    return command


@_for_a_server(
    "vllm", "Write RUN_OR_BANK into the folder OUT for a vLLM server: adapters, routes, serve.sh, client.py."
)
def vllm() -> Server:
    from .servers import VLLM

    return VLLM


@_for_a_server("sglang", "Write RUN_OR_BANK into the folder OUT for an SGLang server, as for vLLM.")
def sglang() -> Server:
    from .servers import SGLANG

    return SGLANG


@_for_a_server("lorax", "Write RUN_OR_BANK into the folder OUT for a LoRAX container, as for vLLM.")
def lorax() -> Server:
    from .servers import LORAX

    return LORAX


@_for_a_server(
    "semantic-router",
    "Write RUN_OR_BANK into the folder OUT for vLLM behind its semantic router: a k-means model, config.yaml, "
    "encoder_server.py, and all that the export for vLLM has.",
)
def semantic_router() -> Server:
    from .semantic_router import SEMANTIC_ROUTER

    return SEMANTIC_ROUTER


@export.command()
@click.argument("source", metavar="RUN_OR_BANK")
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--base", metavar="ID_OR_FOLDER", help="The base; default the one of the run or bank. A folder is copied."
)
@click.option("--encoder", metavar="ID_OR_FOLDER", help="The encoder, if the bank does not carry it.")
@click.option("--title", default="Ask the experts", show_default=True, help="Of the page.")
@click.option("--package", metavar="VERSION|git+https://…", default=__version__, show_default=True,
              help="The assl-kit that the Space installs.")  # fmt: skip
def space(source: str, out: Path, base: str | None, encoder: str | None, title: str, package: str) -> None:
    """Write RUN_OR_BANK into the folder OUT as a Gradio Space: app.py, requirements.txt, the bank, a card."""
    from ..space.export import export_space

    bank, base, _ = _to_export(source, base)
    folder = from_here(export_space(bank, out, base=base, encoder=encoder, title=title, package=package))
    print(f"{len(bank)} experts in {folder}")
    print(f"Here: python {folder}/app.py")
    print(f"As a Space: hf upload OWNER/NAME {folder} --repo-type space")


def _to_export(source: str, base: str | None) -> tuple[ExpertBank, str | None, Workspace | None]:
    """The bank of a run's name or folder, or of a bank's folder; the base to take; the run."""
    from assl_kit.experts.bank import ExpertBank

    if (Path(source) / "bank.json").is_file():
        return ExpertBank.from_pretrained(source), base, None
    ws = open_run(source)
    return ExpertBank.from_pretrained(experts_folder(ws)), base or ws.current_parameters().base_model, ws
