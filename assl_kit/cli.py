"""The command ``assl``: run the chain, look at a run, ask its experts.

Exit codes: 0 all went well; 1 a notebook failed; 2 the parameters, the data or the command are wrong; 130 interrupted.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from . import __version__
from .errors import AsslError, ParameterError, WorkspaceError
from .parameters import DEFAULT_PROFILE, near, parse_assignment, profile_names, read_parameters
from .workspace import MANIFEST, Workspace, runs_folder

app = typer.Typer(
    name="assl",
    help="Teach, run and measure Adaptive Semantic Space Learning.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
RunArgument = Annotated[str, typer.Argument(metavar="RUN", help="Name of a run under runs/, or its folder.")]
RunOption = Annotated[str, typer.Option("--run", metavar="RUN", help="Name of a finished run, or its folder.")]


@app.callback(invoke_without_command=True)
def _version(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        print(__version__)
        raise typer.Exit()


@app.command()
def run(
    profile: Annotated[str, typer.Option(help=f"One of {', '.join(profile_names())}.")] = DEFAULT_PROFILE,
    data: Annotated[str, typer.Option(metavar="FILE", help="Your own records: file, folder or hub dataset.")] = "",
    name: Annotated[str, typer.Option(help="The run's folder under runs/; default the profile's name.")] = "",
    p: Annotated[
        list[tuple[str, str]] | None, typer.Option("-p", metavar="NAME VALUE", help="Set a parameter; repeatable.")
    ] = None,
    f: Annotated[Path | None, typer.Option("-f", metavar="FILE.yaml", help="Set parameters from a file.")] = None,
    first: Annotated[str, typer.Option("--from", metavar="NN", help="Number of the first notebook.")] = "00",
    last: Annotated[str, typer.Option("--to", metavar="NN", help="Number of the last notebook.")] = "08",
) -> None:
    """Run the notebooks in order and write a report."""
    from .report import write_report
    from .run import run_chain

    overrides = _from_file(f) | {key: parse_assignment(key, value) for key, value in p or []}
    ws = run_chain(profile, name, overrides, data, first=first, last=last, say=lambda line: print(line, flush=True))
    page = write_report(ws)
    _print_results(ws)
    print(f"Report: {_from_here(page)}")


@app.command()
def report(run: RunArgument) -> None:
    """Write the HTML report of a run again and print its results."""
    from .report import write_report

    ws = _open(run)
    page = write_report(ws)
    _print_results(ws)
    print(f"Report: {_from_here(page)}")


@app.command()
def status(run: RunArgument) -> None:
    """Show which notebooks and artifacts of a run are done."""
    manifest = _open(run).manifest()
    notebooks = [
        (k, v.get("status"), v.get("seconds"), v.get("peak_memory_mb")) for k, v in manifest["notebooks"].items()
    ]
    artifacts = [
        (k, v.get("notebook"), v.get("seconds"), v.get("sha256", "")[:12]) for k, v in manifest["artifacts"].items()
    ]
    _print_table(("notebook", "status", "seconds", "peak MB"), notebooks)
    _print_table(("artifact", "notebook", "seconds", "sha256"), artifacts)


@app.command()
def route(text: Annotated[str, typer.Argument(help="A question.")], run: RunOption = DEFAULT_PROFILE) -> None:
    """Show which expert a question goes to."""
    from .bank import ExpertBank
    from .build_selection import open_encoder
    from .encoder import encode, encoder_fingerprint

    ws = _finished(run)
    encoder = open_encoder(ws, ws.current_parameters())
    bank = ExpertBank.from_pretrained(ws.path_of("experts"), encoder=encoder_fingerprint(encoder))
    routes = bank.router().route(encode(encoder, [_question(text)]))
    order = routes.similarities[0].argsort()[::-1]
    _print_table(("expert", "similarity"), [(bank.names[k], float(routes.similarities[0, k])) for k in order])
    chosen = int(routes.experts[0])
    print(f"{'base' if chosen < 0 else bank.names[chosen]} answers, margin {float(routes.margin[0]):.3f}")


@app.command()
def ask(text: Annotated[str, typer.Argument(help="A question.")], run: RunOption = DEFAULT_PROFILE) -> None:
    """Let the nearest expert of a run answer a question."""
    from .build_experts import open_silversight

    ws = _finished(run)
    parameters = ws.current_parameters()
    silversight = open_silversight(ws, parameters)
    (answer,) = silversight.generate([_question(text)], max_new_tokens=parameters.max_new_tokens)
    who = "base" if answer.expert < 0 else f"expert-{answer.expert}"
    print(answer.text)
    print(f"({who}, similarity {answer.similarity:.3f}, margin {answer.margin:.3f})")


def main() -> None:
    """Entry point of the console command: an error a user can act on is one message on stderr, without a traceback."""
    from .run import NotebookError

    try:
        app()
    except NotebookError as error:
        sys.exit(_complain(error, 1))
    except AsslError as error:
        sys.exit(_complain(error, 2))
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)


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


def _finished(run: str) -> Workspace:
    ws = _open(run)
    if not ws.has("experts"):
        raise WorkspaceError("the run has no experts yet", where=run, hint="Let notebook 06 finish first.")
    return ws


def _question(text: str) -> str:
    if not text.strip():
        raise ParameterError("the question is empty")
    return text


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
