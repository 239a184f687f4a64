"""The command ``assl``: run the chain, look at runs, ask their experts, export them.

Exit codes: 0 all went well; 1 a notebook or a job failed, or the run was interrupted; 2 the parameters, the data or the
command are wrong; nothing was begun.
"""

from __future__ import annotations

import functools
import os
import sys
from pathlib import Path
from typing import Any

import click

from . import __version__
from .console import complain, from_here, print_frame, print_json, print_table
from .errors import AsslError, ParameterError, WorkspaceError
from .parameters import DEFAULT_PROFILE, near, parse_assignment, profile_names, read_parameters
from .workspace import MANIFEST, Workspace, runs_folder

_run_option = click.option(
    "--run", metavar="RUN", default=DEFAULT_PROFILE, show_default=True, help="Name of a finished run, or its folder."
)
_bank_option = click.option(
    "--bank",
    metavar="FOLDER",
    type=click.Path(path_type=Path),
    help="Instead of a run: a bank that carries its encoder.",
)
_json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON value; progress goes to stderr.")
_backend_option = click.option(
    "--backend", type=click.Choice(["local", "ray"]), help="Where work is spread; default $ASSL_BACKEND, else local."
)
_from_option = click.option("--from", "first", metavar="NN", default="00", show_default=True, help="First notebook.")
_to_option = click.option("--to", "last", metavar="NN", default="09", show_default=True, help="Last notebook.")


@click.group(
    context_settings={"help_option_names": ["-h", "--help"]}, epilog="Exit codes: " + __doc__.split("codes: ")[1]
)
@click.version_option(__version__, message="%(version)s")
def app() -> None:
    """Teach, run and measure Adaptive Semantic Space Learning."""


# run ------------------------------------------------------------------------------------------------------------------
@app.command()
@click.option("--profile", default=DEFAULT_PROFILE, show_default=True, help=f"One of {', '.join(profile_names())}.")
@click.option("--data", metavar="FILE", default="", help="Your own records: a file, a folder or a hub dataset.")
@click.option("--name", default="", help="The run's folder under runs/; default the profile's name, with the data's.")
@click.option("-p", "assignments", metavar="NAME VALUE", nargs=2, multiple=True, help="Set a parameter; repeatable.")
@click.option("-f", "file", metavar="FILE.yaml", type=click.Path(path_type=Path), help="Set parameters from a file.")
@_from_option
@_to_option
@click.option("--force", is_flag=True, help="Execute finished notebooks again.")
@click.option("--dry-run", is_flag=True, help="Check everything and show what would be run.")
@_backend_option
@_json_option
def run(profile, data, name, assignments, file, first, last, force, dry_run, backend, as_json) -> None:
    """Run the notebooks in order and write a report. What is finished and unchanged is not run twice."""
    from .plan import make_plan
    from .report import write_report
    from .run import run_plan

    overrides = _from_file(file) | {key: parse_assignment(key, value) for key, value in assignments}
    plan = make_plan(profile, name, overrides, data, first=first, last=last)
    ws = Workspace.open(runs_folder() / plan.name)
    if dry_run:
        _print_plan(ws, plan, force, as_json)
        return
    if backend:
        os.environ["ASSL_BACKEND"] = backend
    run_plan(plan, ws, force=force, say=_say(as_json))
    _print_run(ws, write_report(ws), as_json)


def _print_plan(ws: Workspace, plan, force: bool, as_json: bool) -> None:
    from .parameters import load_profile
    from .resume import is_finished
    from .steps import STEPS, state_of

    usual = load_profile(DEFAULT_PROFILE) | load_profile(plan.profile)
    changed = {name: value for name, value in plan.parameters.model_dump().items() if usual.get(name) != value}
    books = [
        {"notebook": book.name, "plan": "cached" if not force and is_finished(ws, book, plan) else "run"}
        for book in plan.notebooks
    ]
    state = state_of(ws, plan.parameters)
    numbers = {book.number for book in plan.notebooks}
    artifacts = [
        {"artifact": step.file, "notebook": step.notebook, "state": state[name]}
        for name, step in STEPS.items()
        if step.notebook in numbers or state[name] != "missing"
    ]
    changed |= plan.own
    if as_json:
        print_json({"run": ws.display_path(), "profile": plan.profile, "changed": changed, "notebooks": books,
                    "artifacts": artifacts})  # fmt: skip
        return
    print(f"{ws.display_path()}, profile {plan.profile}. Nothing is run.")
    values = [{"parameter": name, "value": str(value)} for name, value in changed.items()]
    for rows in filter(None, (values, books, artifacts)):
        print_table(rows[0], [row.values() for row in rows])


@app.command()
@click.argument("grid", metavar="GRID.yaml", type=click.Path(path_type=Path))
@click.option("--name", default="", help="The sweep's folder under runs/; default the grid file's name.")
@click.option("--jobs", default=0, show_default=True, type=click.IntRange(0), help="Jobs at a time; 0: one a core.")
@click.option("--dry-run", is_flag=True, help="Check every combination and show the jobs.")
@_backend_option
@_json_option
def sweep(grid, name, jobs, dry_run, backend, as_json) -> None:
    """Run every combination of the parameters in GRID.yaml, and draw what came out."""
    from .sweep import plan_sweep, read_grid, run_sweep, sweep_table
    from .sweep_page import write_sweep

    found, name = read_grid(grid), name or grid.stem
    if dry_run:
        rows = [{"job": job.name} | job.values for job in plan_sweep(found, name)]
        print_json(rows) if as_json else print_table(rows[0], [row.values() for row in rows])
        return
    ws, outcomes = run_sweep(
        found, name, n_jobs=jobs, backend=backend or os.environ.get("ASSL_BACKEND") or "local", say=_say(as_json)
    )
    page = write_sweep(ws, outcomes)
    if as_json:
        print_json({"sweep": ws.display_path(), "jobs": [vars(outcome) for outcome in outcomes], "page": page})
    else:
        print_frame(sweep_table(outcomes))
        print(f"Page: {from_here(page)}")
    if any(outcome.status == "failed" for outcome in outcomes):
        sys.exit(1)


# look -----------------------------------------------------------------------------------------------------------------
@app.command()
@click.argument("run")
@_json_option
def report(run, as_json) -> None:
    """Write the HTML report of RUN again and print its results."""
    from .report import write_report

    ws = _open(run)
    _print_run(ws, write_report(ws), as_json)


@app.command()
@click.argument("run", required=False)
@_json_option
def status(run, as_json) -> None:
    """Show which notebooks and artifacts of RUN are done, running, failed or broken off; without RUN, list the runs."""
    from .resume import is_running

    if run is None:
        rows = [{"run": ws.folder.name, "state": _state(ws)} for ws in _all_runs()]
        print_json(rows) if as_json else print_table(("run", "state"), [row.values() for row in rows])
        return
    ws = _open(run)
    manifest, running = ws.manifest(), is_running(ws)
    notebooks = [
        {"notebook": name, "status": _status(note, running), "seconds": note.get("seconds"),
         "peak MB": note.get("peak_memory_mb"), "message": note.get("message", "")}
        for name, note in manifest["notebooks"].items()
    ]  # fmt: skip
    artifacts = [
        {"artifact": name, "notebook": entry.get("notebook"), "there": ws.has(name), "seconds": entry.get("seconds"),
         "peak MB": entry.get("peak_memory_mb"), "sha256": entry.get("sha256", "")[:12]}
        for name, entry in manifest["artifacts"].items()
    ]  # fmt: skip
    if as_json:
        print_json({"run": ws.display_path(), "state": _state(ws), "notebooks": notebooks, "artifacts": artifacts})
        return
    print(f"{ws.display_path()}: {_state(ws)}")
    for rows in filter(None, (notebooks, artifacts)):
        print_table(rows[0], [row.values() for row in rows])


def _status(note: dict, running: bool) -> str:
    told = str(note.get("status"))
    return "broken off" if told == "running" and not running else told


def _state(ws: Workspace) -> str:
    from .resume import is_running

    running = is_running(ws)
    found = [_status(note, running) for note in ws.manifest()["notebooks"].values()]
    if running:
        return "running"
    return next((word for word in ("failed", "broken off", "interrupted") if word in found), "done" if found else "new")


@app.command()
@click.argument("a")
@click.argument("b")
@_json_option
def compare(a, b, as_json) -> None:
    """Put the runs A and B side by side: parameters, artifacts, selection, results."""
    from .compare import compare_runs

    found = compare_runs(_open(a), _open(b))
    if as_json:
        print_json({"A": a, "B": b} | found)
        return
    print(f"A is {a}, B is {b}")
    for title, frame in found.items():
        print(f"\n{title}")
        print_frame(frame)


# ask ------------------------------------------------------------------------------------------------------------------
@app.command()
@click.argument("text")
@_run_option
@_bank_option
@_json_option
def route(text, run, bank, as_json) -> None:
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
    rows = [(opened.names[k], float(routes.similarities[0, k])) for k in order]
    chosen, margin = int(routes.experts[0]), float(routes.margin[0])
    name = "base" if chosen < 0 else opened.names[chosen]
    if as_json:
        print_json({"answers": name, "margin": margin, "similarities": dict(rows)})
        return
    print_table(("expert", "similarity"), rows)
    print(f"{name} answers, margin {margin:.3f}")


@app.command()
@click.argument("text")
@_run_option
@_bank_option
@click.option("--top-k", default=1, show_default=True, help="Merge so many nearest experts for the answer.")
@_json_option
def ask(text, run, bank, top_k, as_json) -> None:
    """Let the nearest expert of a run or bank answer the question TEXT, as it writes."""
    _check_question(text)
    silversight, longest = _silversight(run, bank)
    routes = silversight.route([text])
    (mixture,) = routes.mixtures(top_k)
    pieces = silversight.stream(text, top_k=top_k, **({"max_new_tokens": longest} if longest else {}))
    similarity, margin = float(routes.similarity[0]), float(routes.margin[0])
    if as_json:
        shares = {f"expert-{k}": share for k, share in mixture}
        print_json({"answer": "".join(pieces), "experts": shares, "similarity": similarity, "margin": margin})
        return
    for piece in pieces:
        print(piece, end="", flush=True)
    who = " + ".join(f"expert-{k}" + (f" × {share:.2f}" if share < 1 else "") for k, share in mixture) or "base"
    print(f"\n({who}, similarity {similarity:.3f}, margin {margin:.3f})")


def _silversight(run: str, bank: Path | None):
    """The experts with base, encoder and router, and the run's longest answer (None: the default)."""
    if bank is not None:
        from .silversight import SilverSight

        return SilverSight.from_pretrained(bank), None
    from .build_experts import open_silversight

    ws = _open(run)
    _experts(ws)
    parameters = ws.current_parameters()
    return open_silversight(ws, parameters), parameters.max_new_tokens


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
    folder = from_here(export_vllm(bank, out, base=base, encoder=encoder))
    print(f"{len(bank)} experts in {folder}")
    print(f"On the server: {folder}/serve.sh")
    print(f'Then: python {folder}/client.py "…" --stream')


@app.command()
@click.argument("repository", metavar="OWNER/REPO")
def badge(repository) -> None:
    """Write the "Open in Colab" badge of a GitHub repository into README.md and the notebooks of this checkout."""
    from .badge import write_badges

    print(*write_badges(repository) or ["Nothing to change."], sep="\n")


@app.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell) -> None:
    """Print the completion script of SHELL: eval "$(assl completion bash)"."""
    from click.shell_completion import get_completion_class

    print(get_completion_class(shell)(app, {}, "assl", "_ASSL_COMPLETE").source())


def main() -> None:
    """Entry point of the console command: an error a user can act on is one message on stderr, without a traceback."""
    from .run import NotebookError

    try:
        app(prog_name="assl")
    except NotebookError as error:
        sys.exit(complain(error, 1))
    except AsslError as error:
        sys.exit(complain(error, 2))


def _say(as_json: bool):
    return functools.partial(print, flush=True, file=sys.stderr if as_json else sys.stdout)


def _from_file(path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ParameterError("the parameter file cannot be read as text", where=str(path)) from error
    return read_parameters(text, where=str(path))


def _all_runs() -> list[Workspace]:
    return [Workspace.open(path.parent) for path in sorted(runs_folder().glob(f"*/{MANIFEST}"))]


def _open(run: str) -> Workspace:
    """The workspace of a run, by its name or its folder."""
    for folder in (runs_folder() / run, Path(run)):
        if (folder / MANIFEST).is_file():
            return Workspace.open(folder)
    names = [ws.folder.name for ws in _all_runs()]
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


def _print_run(ws: Workspace, page: Path, as_json: bool) -> None:
    from .report import read_metrics, results_table

    metrics = read_metrics(ws)
    if as_json:
        print_json({"run": ws.display_path(), "results": metrics.get("table"), "report": page})
        return
    print_frame(results_table(metrics))
    print(f"Report: {from_here(page)}")


if __name__ == "__main__":
    main()
