"""The command ``assl``: run the chain, look at a run, ask its experts, export them.

Exit codes: 0 all went well; 1 a notebook failed, or the run was interrupted; 2 the parameters, the data or the command
are wrong.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from . import __version__
from .errors import AsslError, ParameterError, WorkspaceError
from .parameters import DEFAULT_PROFILE, near, parse_assignment, profile_names, read_parameters
from .workspace import MANIFEST, Workspace, runs_folder

_run_option = click.option(
    "--run", metavar="RUN", default=DEFAULT_PROFILE, show_default=True, help="Name of a finished run, or its folder."
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, message="%(version)s")
def app() -> None:
    """Teach, run and measure Adaptive Semantic Space Learning."""


@app.command()
@click.option("--profile", default=DEFAULT_PROFILE, show_default=True, help=f"One of {', '.join(profile_names())}.")
@click.option("--data", metavar="FILE", default="", help="Your own records: a file, a folder or a hub dataset.")
@click.option("--name", default="", help="The run's folder under runs/; default the profile's name, with the data's.")
@click.option("-p", "assignments", metavar="NAME VALUE", nargs=2, multiple=True, help="Set a parameter; repeatable.")
@click.option("-f", "file", metavar="FILE.yaml", type=click.Path(path_type=Path), help="Set parameters from a file.")
@click.option("--from", "first", metavar="NN", default="00", show_default=True, help="Number of the first notebook.")
@click.option("--to", "last", metavar="NN", default="09", show_default=True, help="Number of the last notebook.")
def run(profile, data, name, assignments, file, first, last) -> None:
    """Run the notebooks in order and write a report."""
    from .report import write_report
    from .run import run_chain

    overrides = _from_file(file) | {key: parse_assignment(key, value) for key, value in assignments}
    ws = run_chain(profile, name, overrides, data, first=first, last=last, say=lambda line: print(line, flush=True))
    page = write_report(ws)
    _print_results(ws)
    print(f"Report: {_from_here(page)}")


@app.command()
@click.argument("run")
def report(run) -> None:
    """Write the HTML report of RUN again and print its results."""
    from .report import write_report

    ws = _open(run)
    page = write_report(ws)
    _print_results(ws)
    print(f"Report: {_from_here(page)}")


@app.command()
@click.argument("run")
def status(run) -> None:
    """Show which notebooks and artifacts of RUN are done."""
    manifest = _open(run).manifest()
    notebooks = [
        (name, note.get("status"), note.get("seconds"), note.get("peak_memory_mb"))
        for name, note in manifest["notebooks"].items()
    ]
    artifacts = [
        (name, entry.get("notebook"), entry.get("seconds"), entry.get("sha256", "")[:12])
        for name, entry in manifest["artifacts"].items()
    ]
    _print_table(("notebook", "status", "seconds", "peak MB"), notebooks)
    _print_table(("artifact", "notebook", "seconds", "sha256"), artifacts)


@app.command()
@click.argument("text")
@_run_option
@click.option(
    "--bank", metavar="FOLDER", type=click.Path(path_type=Path), help="An expert bank that carries its encoder."
)
def route(text, run, bank) -> None:
    """Show which expert the question TEXT goes to."""
    from .bank import ExpertBank
    from .encoder import encode, encoder_fingerprint, load_encoder

    _check_question(text)
    folder = bank or _experts(_open(run))
    opened = ExpertBank.from_pretrained(folder)
    encoder = load_encoder(str(opened.encoder_path or opened.encoder["id"]))
    opened = ExpertBank.from_pretrained(folder, encoder=encoder_fingerprint(encoder))
    routes = opened.router().route(encode(encoder, [text]))
    order = routes.similarities[0].argsort()[::-1]
    _print_table(("expert", "similarity"), [(opened.names[k], float(routes.similarities[0, k])) for k in order])
    chosen = int(routes.experts[0])
    print(f"{'base' if chosen < 0 else opened.names[chosen]} answers, margin {float(routes.margin[0]):.3f}")


@app.command()
@click.argument("text")
@_run_option
@click.option("--top-k", default=1, show_default=True, help="Merge so many nearest experts for the answer.")
def ask(text, run, top_k) -> None:
    """Let the nearest expert of a run answer the question TEXT, as it writes."""
    from .build_experts import open_silversight

    _check_question(text)
    ws = _open(run)
    _experts(ws)
    parameters = ws.current_parameters()
    silversight = open_silversight(ws, parameters)
    routes = silversight.route([text])
    (mixture,) = routes.mixtures(top_k)
    for piece in silversight.stream(text, top_k=top_k, max_new_tokens=parameters.max_new_tokens):
        print(piece, end="", flush=True)
    who = " + ".join(f"expert-{k}" + (f" × {share:.2f}" if share < 1 else "") for k, share in mixture) or "base"
    print(f"\n({who}, similarity {float(routes.similarity[0]):.3f}, margin {float(routes.margin[0]):.3f})")


@app.group()
def export() -> None:
    """Write a run's experts in the form of another program."""


@export.command()
@click.argument("source", metavar="RUN_OR_BANK")
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--base", metavar="ID_OR_FOLDER", help="The base for vLLM to load; default the one of the run or bank.")
@click.option("--encoder", metavar="ID_OR_FOLDER", help="The encoder, if the bank does not carry it.")
def vllm(source, out, base, encoder) -> None:
    """Write RUN_OR_BANK into the folder OUT for a vLLM server: adapters, routes, serve.sh and client.py."""
    from .bank import ExpertBank
    from .vllm_export import export_vllm

    if (Path(source) / "bank.json").is_file():
        bank = ExpertBank.from_pretrained(source)
    else:
        ws = _open(source)
        bank, base = ExpertBank.from_pretrained(_experts(ws)), base or ws.current_parameters().base_model
    folder = _from_here(export_vllm(bank, out, base=base, encoder=encoder))
    print(f"{len(bank)} experts in {folder}")
    print(f"On the server: {folder}/serve.sh")
    print(f'Then: python {folder}/client.py "…" --stream')


def main() -> None:
    """Entry point of the console command: an error a user can act on is one message on stderr, without a traceback."""
    from .run import NotebookError

    try:
        app(prog_name="assl")
    except NotebookError as error:
        sys.exit(_complain(error, 1))
    except AsslError as error:
        sys.exit(_complain(error, 2))


def _complain(error: AsslError, code: int) -> int:
    print(f"assl: {error}", file=sys.stderr)
    return code


def _from_file(path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ParameterError("the parameter file cannot be read as text", where=str(path)) from error
    return read_parameters(text, where=str(path))


def _open(run: str) -> Workspace:
    """The workspace of a run, by its name or its folder."""
    known = runs_folder()
    for folder in (known / run, Path(run)):
        if (folder / MANIFEST).is_file():
            return Workspace.open(folder)
    names = sorted(path.parent.name for path in known.glob(f"*/{MANIFEST}"))
    hint = near(run, names) or (f"The runs are {', '.join(names)}." if names else "Run 'assl run' first.")
    raise WorkspaceError(f"there is no run {run!r}", hint=hint)


def _experts(ws: Workspace) -> Path:
    if not ws.has("experts"):
        raise WorkspaceError(
            "the run has no experts yet", where=ws.display_path(), hint="Let notebook 06 finish first."
        )
    return ws.path_of("experts")


def _check_question(text: str) -> None:
    if not text.strip():
        raise ParameterError("the question is empty")


def _from_here(path: Path) -> str:
    """A path one can click on: relative if it lies below the current folder."""
    here = os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)
    return Path(here).as_posix()


def _print_results(ws: Workspace) -> None:
    from .report import read_metrics, results_table

    table = results_table(read_metrics(ws))
    if table is not None:
        _print_table(table.columns, table.itertuples(index=False))


def _print_table(columns, rows) -> None:
    from .report import show

    table = Table(*map(str, columns))
    for row in rows:
        table.add_row(*(show(value) for value in row))
    console = Console()
    if not console.is_terminal:  # a log file has no width
        console.width = 200
    console.print(table)


if __name__ == "__main__":
    main()
