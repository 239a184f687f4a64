"""The command ``assl``: run the chain, look at runs, ask their experts, export them.

Exit codes: 0 all went well; 1 a notebook or a job failed, the report of a run could not be written, or the run was
interrupted; 2 the parameters, the data or the command are wrong; nothing was begun; 3 the system refused to read or
write a file, in a notebook too: no permission, no room, a folder that cannot be; or the memory did not suffice.
"""

from __future__ import annotations

import errno
import functools
import io
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import click

from assl_kit.artifacts.parameters import DEFAULT_PROFILE, profile_names, read_parameter_file
from assl_kit.artifacts.workspace import Workspace, runs_folder
from assl_kit.common.packages import reason
from assl_kit.errors import AsslError, NotebookError, WorkspaceError, refusal
from assl_kit.version import __version__

from . import ask
from .ask import all_runs, json_option, open_run
from .console import complain, from_here, print_frame, print_json, print_table, system_message
from .exports.commands import export
from .hub import push
from .referee_command import referee
from .select_command import check, select

if TYPE_CHECKING:
    from assl_kit.runner.plan import Plan

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
@click.option("--data", metavar="FILE", help="Your own records: a file, a folder or a hub dataset.")
@click.option("--name", default="", help="The run's folder under runs/; default the profile's name, with the data's.")
@click.option("-p", "assignments", metavar="NAME VALUE", nargs=2, multiple=True, help="Set a parameter; repeatable.")
@click.option("-f", "file", metavar="FILE.yaml", type=click.Path(path_type=Path), help="Set parameters from a file.")
@click.option(
    "--on-bad", type=click.Choice(["refuse", "skip"]), help="Records that are wrong: refuse all, or skip them."
)
@_from_option
@_to_option
@click.option("--force", is_flag=True, help="Execute finished notebooks again; write over other data.")
@click.option("--dry-run", is_flag=True, help="Check everything and show what would be run.")
@_backend_option
@json_option
def run(
    profile: str,
    data: str | None,
    name: str,
    assignments: tuple[tuple[str, str], ...],
    file: Path | None,
    on_bad: str | None,
    first: str,
    last: str,
    force: bool,
    dry_run: bool,
    backend: str | None,
    as_json: bool,
) -> None:
    """Run the notebooks in order and write a report. What is finished and unchanged is not run twice."""
    from assl_kit.runner.place import check_place
    from assl_kit.runner.plan import Known, find_notebooks, given_values, make_plan, notebooks_folder
    from assl_kit.runner.report import write_report
    from assl_kit.runner.run import run_plan

    _choose_backend(backend)
    notebooks = find_notebooks(notebooks_folder(), first, last)
    overrides = (read_parameter_file(file) if file else {}) | given_values(assignments, notebooks)
    if on_bad is not None:
        overrides["on_bad"] = on_bad
    plan = make_plan(profile, name, overrides, data, known=Known(notebooks))
    ws = Workspace.open(runs_folder() / plan.name)
    if dry_run:
        check_place(ws, plan.parameters.data, force=force)
        _print_plan(ws, plan, force, as_json)
        return
    run_plan(plan, ws, force=force, say=_say(as_json))
    try:
        page = write_report(ws)
    except AsslError as error:
        sys.exit(complain(error, 1))  # the run is done
    except OSError as error:
        sys.exit(complain(WorkspaceError(f"the run is done, but no report was written: {system_message(error)}"), 1))
    _print_run(ws, page, as_json)


def _choose_backend(asked: str | None) -> str:
    """The backend of the option, else of the environment, checked; all that is started from here on uses it."""
    from assl_kit.common.cluster import BACKEND, backend

    if asked:
        os.environ[BACKEND] = asked
    return backend()


def _print_plan(ws: Workspace, plan: Plan, force: bool, as_json: bool) -> None:
    from assl_kit.artifacts.parameters import load_profile
    from assl_kit.artifacts.steps import STEPS, state_of
    from assl_kit.runner.resume import is_finished

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
        print_json(
            {
                "run": ws.display_path(),
                "profile": plan.profile,
                "changed": changed,
                "test_questions_a_task": plan.parameters.n_test or "all",
                "notebooks": books,
                "artifacts": artifacts,
            }
        )
        return
    print(f"{ws.display_path()}, profile {plan.profile}. Nothing is run.")
    n_test = plan.parameters.n_test
    print(f"At most {n_test} test questions a task (-p n_test 0: all)." if n_test else "All test questions are asked.")
    values = [{"parameter": name, "value": str(value)} for name, value in changed.items()]
    for rows in filter(None, (values, books, artifacts)):
        print_table(rows[0], [row.values() for row in rows])


@app.command()
@click.argument("grid", metavar="GRID.yaml", type=click.Path(path_type=Path))
@click.option("--name", default="", help="The sweep's folder under runs/; default the grid file's name.")
@click.option("--jobs", default=0, show_default=True, type=click.IntRange(0), help="Jobs at a time; 0: one a core.")
@click.option("--dry-run", is_flag=True, help="Check every combination and show the jobs.")
@_backend_option
@json_option
def sweep(grid: Path, name: str, jobs: int, dry_run: bool, backend: str | None, as_json: bool) -> None:
    """Run every combination of the parameters in GRID.yaml, and draw what came out."""
    from assl_kit.runner.sweep import check_places, plan_sweep, read_grid, run_sweep, sweep_table
    from assl_kit.runner.sweep_page import write_sweep

    backend = _choose_backend(backend)
    combinations, name = read_grid(grid), name or grid.stem
    if dry_run:
        jobs_planned = plan_sweep(combinations, name)
        check_places(Workspace.open(runs_folder() / jobs_planned[0].plan.name), jobs_planned)
        rows = [{"job": job.name, **job.values} for job in jobs_planned]
        print_json(rows) if as_json else print_table(rows[0], [row.values() for row in rows])
        return
    ws, outcomes = run_sweep(combinations, name, n_jobs=jobs, backend=backend, say=_say(as_json))
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
@click.option("--no-write", is_flag=True, help="Print the results alone; nothing is written.")
@json_option
def report(run: str, no_write: bool, as_json: bool) -> None:
    """Write the HTML report of RUN again and print its results."""
    from assl_kit.runner.report import write_report

    ws = open_run(run)
    _print_run(ws, None if no_write else write_report(ws), as_json)


@app.command()
@click.argument("run", required=False)
@json_option
def status(run: str | None, as_json: bool) -> None:
    """Show which notebooks and artifacts of RUN are done, running, failed or broken off; without RUN, list the runs."""
    from assl_kit.runner.manifest_rows import artifact_rows, notebook_rows, run_state
    from assl_kit.runner.resume import is_running

    if run is None:
        rows = [{"run": name} | _state_in(folder) for name, folder in all_runs().items()]
        print_json(rows) if as_json else print_table(("run", "state"), [(r["run"], _in_words(r)) for r in rows])
        return
    ws = open_run(run)
    manifest, running = ws.manifest(), is_running(ws)
    state, notebooks = run_state(manifest, running=running), notebook_rows(manifest, running=running)
    artifacts = [row | {"there": ws.has(row["artifact"])} for row in artifact_rows(manifest)]
    if as_json:
        print_json({"run": ws.display_path(), "state": state, "notebooks": notebooks, "artifacts": artifacts})
        return
    print(f"{ws.display_path()}: {state}")
    for rows in filter(None, (notebooks, artifacts)):
        print_table(rows[0], [row.values() for row in rows])


def _state_in(folder: Path) -> dict[str, str]:
    """The state of a run that need not be whole: where it is damaged or cannot be read, with a message."""
    from assl_kit.runner.manifest_rows import run_state
    from assl_kit.runner.resume import is_running

    try:
        ws = Workspace.open(folder)
        return {"state": run_state(ws.manifest(), running=is_running(ws))}
    except OSError as error:
        return {"state": "unreadable", "message": system_message(error)}
    except Exception as error:  # of as many kinds as a manifest can be wrong in
        what = str(error) if isinstance(error, AsslError) else f"{type(error).__name__}: {error}"
        return {"state": "damaged", "message": what}


def _in_words(row: dict[str, str]) -> str:
    return ": ".join(row[key] for key in ("state", "message") if key in row)


@app.command()
@click.argument("a")
@click.argument("b")
@json_option
def compare(a: str, b: str, as_json: bool) -> None:
    """Put the runs A and B side by side: parameters, artifacts, selection, results."""
    from assl_kit.runner.compare import compare_runs

    tables = compare_runs(open_run(a), open_run(b))
    if as_json:
        print_json({"A": a, "B": b, **tables})
        return
    print(f"A is {a}, B is {b}")
    for title, frame in tables.items():
        print(f"\n{title}")
        print_frame(frame)


# more -----------------------------------------------------------------------------------------------------------------
for _command in (select, check, push, referee, ask.route, ask.ask, ask.chat, export):
    app.add_command(_command)


@app.command()
@click.argument("repository", metavar="OWNER/REPO")
def badge(repository: str) -> None:
    """Write the badges of a GitHub repository (Colab, Binder, tests) into the READMEs and the notebooks here."""
    from .badge import write_badges

    changed = [str(path) for path in write_badges(repository)]
    print(*changed or ["Nothing to change."], sep="\n")


@app.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the completion script of SHELL: eval "$(assl completion bash)"."""
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    assert kind is not None, "click knows the shells that the option admits"
    print(kind(app, {}, "assl", "_ASSL_COMPLETE").source())


def main() -> None:
    """Entry point of the console command: an error a user can act on is one message on stderr, without a traceback."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # what cannot be printed here is written as \\u….
            stream.reconfigure(errors="backslashreplace")
    try:
        try:
            app(prog_name="assl")
        finally:
            sys.stdout.flush()
    except NotebookError as error:
        sys.exit(complain(error, 3 if isinstance(error.__cause__, OSError) else 1))
    except AsslError as error:
        sys.exit(complain(error, 2))
    except MemoryError as error:
        what = f"the memory does not suffice: {reason(error)}"
        sys.exit(complain(AsslError(what, hint="Close other programs, or take less data."), 3))
    except RecursionError:
        what = "what was given is nested too deeply to be read"
        sys.exit(complain(AsslError(what, hint="Look at the file or the value that was given."), 2))
    except Exception as error:
        refused = refusal(error)
        if refused is None:
            raise
        if error is refused and refused.errno in (errno.ENOSPC, errno.EPIPE):
            _forget_output()
        sys.exit(complain(AsslError(system_message(refused)), 3))


def _forget_output() -> None:
    """Let what waits for a full disk or a closed pipe go nowhere, where the interpreter would try again at its end."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _say(as_json: bool) -> Callable[[str], None]:
    return functools.partial(print, flush=True, file=sys.stderr if as_json else sys.stdout)


def _print_run(ws: Workspace, page: Path | None, as_json: bool) -> None:
    from assl_kit.runner.report import read_metrics, results_table

    metrics = read_metrics(ws)
    if as_json:
        print_json({"run": ws.display_path(), "results": metrics.get("table"), "report": page})
        return
    print_frame(results_table(metrics))
    if page is not None:
        print(f"Report: {from_here(page)}")


if __name__ == "__main__":
    main()
