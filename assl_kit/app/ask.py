"""The commands that need a run's experts or a bank: route, ask, chat."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from assl_kit.artifacts.parameters import DEFAULT_PROFILE, near
from assl_kit.artifacts.store import STORE_FOLDER
from assl_kit.artifacts.workspace import MANIFEST, SWEEP, Workspace, experts_folder, find_run, runs_folder
from assl_kit.common.limits import MAX_LINE
from assl_kit.common.names import by_number, first_unwritable
from assl_kit.errors import ParameterError, WorkspaceError

from .console import from_here, print_json, print_table

if TYPE_CHECKING:
    from assl_kit.artifacts.parameters import Lengths
    from assl_kit.experts.silversight import SilverSight

_run_option = click.option(
    "--run", metavar="RUN", default=DEFAULT_PROFILE, show_default=True, help="Name of a finished run, or its folder."
)
_bank_option = click.option(
    "--bank",
    metavar="FOLDER",
    type=click.Path(path_type=Path),
    help="Instead of a run: a bank that carries its encoder.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON value; progress goes to stderr.")


def _question(context: click.Context, argument: click.Parameter, text: str) -> str:
    """The question as it stands, or, where that is "-", what is on the standard input."""
    if text != "-":
        return text
    try:
        return sys.stdin.buffer.read(MAX_LINE).decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise ParameterError("the question holds bytes that are not UTF-8", hint="Write it as UTF-8.") from error


@click.command()
@click.argument("text", callback=_question)
@_run_option
@_bank_option
@json_option
def route(text: str, run: str, bank: Path | None, as_json: bool) -> None:
    """Show which expert the question TEXT goes to ("-": what stands on the standard input)."""
    from assl_kit.experts.bank import ExpertBank
    from assl_kit.space.encoder import encode, encoder_fingerprint, load_encoder
    from assl_kit.space.static_encoder import known_shares

    _check_question(text)
    folder = bank or experts_folder(open_run(run))
    opened = ExpertBank.from_pretrained(folder)
    encoder = load_encoder(str(opened.encoder_path or opened.encoder["id"]))
    opened = ExpertBank.from_pretrained(folder, encoder=encoder_fingerprint(encoder))
    routes = opened.router().route(encode(encoder, [text]), known=known_shares(encoder, [text]))
    order = routes.similarities[0].argsort()[::-1]
    rows = [(opened.names[k], float(routes.similarities[0, k])) for k in order]
    chosen, margin = int(routes.experts[0]), float(routes.margin[0])
    name = "base" if chosen < 0 else opened.names[chosen]
    if as_json:
        print_json({"answers": name, "margin": margin, "similarities": dict(rows)})
        return
    print_table(("expert", "similarity"), rows)
    why = "" if chosen >= 0 else f": nothing similar was learnt, no similarity reaches {opened.min_similarity:.3f}"
    print(f"{name} answers, margin {margin:.3f}{why}")


@click.command()
@click.argument("text", callback=_question)
@_run_option
@_bank_option
@click.option("--top-k", default=1, show_default=True, help="Merge so many nearest experts for the answer.")
@json_option
def ask(text: str, run: str, bank: Path | None, top_k: int, as_json: bool) -> None:
    """Let the nearest expert of a run or bank answer the question TEXT ("-": the standard input), as it writes."""
    _check_question(text)
    silversight, lengths = _silversight(run, bank)
    routes = silversight.route([text])
    (mixture,) = routes.mixtures(top_k)
    pieces = silversight.stream(text, top_k=top_k, **lengths)
    similarity, margin = float(routes.similarity[0]), float(routes.margin[0])
    if as_json:
        shares = {f"expert-{k}": share for k, share in mixture}
        print_json({"answer": "".join(pieces), "experts": shares, "similarity": similarity, "margin": margin})
        return
    for piece in pieces:
        print(piece, end="", flush=True)
    who = " + ".join(f"expert-{k}" + (f" × {share:.2f}" if share < 1 else "") for k, share in mixture)
    if not mixture:
        floor = silversight.router.min_similarity
        who = f"the base answered, since nothing similar was learnt: below {floor:.3f}"
    print(f"\n({who}, similarity {similarity:.3f}, margin {margin:.3f})")


@click.command()
@_run_option
@_bank_option
@click.option("--host", default="127.0.0.1", show_default=True, help="Any other lets other machines ask.")
@click.option("--port", type=click.IntRange(1, 65535), help="Default: the first free one from 7860.")
@click.option("--open", "show", is_flag=True, help="Open the page in this machine's browser.")
def chat(run: str, bank: Path | None, host: str, port: int | None, show: bool) -> None:
    """Ask the experts of a run or bank on a local page: answer, the base's answer, routes, training records."""
    from .chat_page import check_installed, serve

    check_installed()
    from .chat import Chat

    if bank is not None:
        from assl_kit.experts.silversight import SilverSight

        opened = Chat(SilverSight.from_pretrained(bank), title=from_here(bank.resolve()))
    else:
        ws = open_run(run)
        experts_folder(ws)
        opened = Chat.of_run(ws)
    serve(opened, host=host, port=port, show=show)


def _silversight(run: str, bank: Path | None) -> tuple[SilverSight, Lengths]:
    """The experts with base, encoder and router, and the run's longest prompt and answer (of a bank: the defaults)."""
    if bank is not None:
        from assl_kit.experts.silversight import SilverSight

        return SilverSight.from_pretrained(bank), {}
    from assl_kit.artifacts.build_experts import open_silversight

    ws = open_run(run)
    experts_folder(ws)
    parameters = ws.current_parameters()
    return open_silversight(ws, parameters), parameters.lengths


def all_runs() -> dict[str, Path]:
    """The folders of the runs in the runs' folder, by name, damaged ones too; a sweep's jobs as ``SWEEP/JOB``."""
    runs, folder = {}, runs_folder()
    for path in sorted(folder.iterdir(), key=lambda path: by_number(path.name)) if folder.is_dir() else []:
        try:
            if (path / MANIFEST).is_file():
                runs[path.name] = path
            elif (path / SWEEP).is_file() or (path / STORE_FOLDER).is_dir():
                jobs = sorted(path.glob(f"*/{MANIFEST}"), key=lambda job: by_number(job.parent.name))
                runs |= {f"{path.name}/{job.parent.name}": job.parent for job in jobs}
        except OSError:  # it cannot be looked at: who opens it says why
            runs[path.name] = path
    return runs


def open_run(run: str) -> Workspace:
    """The workspace of a run, by its name or its folder."""
    folder = find_run(run)
    if folder is not None:
        return Workspace.open(folder)
    names = list(all_runs())
    jobs = [name for name in names if name.startswith(f"{run}/")]
    if jobs:
        raise WorkspaceError(f"{run!r} is a sweep, not a run", hint=f"Its jobs are {_some(jobs)}.")
    hint = near(run, names) or (f"The runs are {_some(names)}." if names else "Run 'assl run' first.")
    raise WorkspaceError(f"there is no run {run!r}", hint=hint)


def _some(names: list[str], most: int = 20) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _check_question(text: str) -> None:
    if not text.strip():
        raise ParameterError("the question is empty")
    if first_unwritable([("question", text)]):
        raise ParameterError("the question holds bytes that are not UTF-8", hint="Write it as UTF-8.")
