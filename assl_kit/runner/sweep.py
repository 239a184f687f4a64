"""A sweep: the chain, or a part of it, for every combination of some parameters; what they share is computed once."""

from __future__ import annotations

import hashlib
import itertools
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pandas as pd
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from assl_kit.artifacts.parameters import DEFAULT_PROFILE, check_names, read_parameter_file
from assl_kit.artifacts.store import STORE, STORE_FOLDER
from assl_kit.artifacts.workspace import MANIFEST, SWEEP, Workspace, runs_folder
from assl_kit.common.cluster import BACKEND, explained, total
from assl_kit.common.files import check_open_files, check_writable, write_json
from assl_kit.common.names import MOST_BYTES
from assl_kit.common.parallel import worker_settings
from assl_kit.errors import AsslError, ParameterError, WorkspaceError

from .place import refuse_other_data
from .plan import Known, Plan, make_plan
from .resume import run_lock
from .run import run_plan

MOST_JOBS = 10_000
Plain = str | int | float | bool


class Grid(BaseModel):
    """What a grid file says.

    Attributes
    ----------
    profile : str
    parameters : dict
        The same for all jobs.
    grid : dict of str to list
        Parameters that vary, each with its values.
    first, last : str
        Numbers of the first and last notebook; in the file ``from`` and ``to``.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    profile: str = DEFAULT_PROFILE
    parameters: dict[str, Plain] = Field(default_factory=dict)
    grid: dict[str, list[Plain]] = Field(min_length=1)
    first: str = Field("00", alias="from")
    last: str = Field("09", alias="to")


@dataclass(frozen=True)
class Job:
    """One combination: its name, the values that vary, and its checked plan."""

    name: str
    values: dict[str, Plain]
    plan: Plan


@dataclass
class Outcome:
    """How one job went; ``results`` is empty where it failed, ``seconds`` 0 where its worker was killed."""

    name: str
    values: dict[str, Plain]
    status: Literal["done", "failed"]
    seconds: float
    message: str = ""
    results: dict[str, float] = field(default_factory=dict)


def read_grid(path: Path) -> Grid:
    """Read a grid file.

    Raises
    ------
    ParameterError
        If it cannot be read, is not YAML, or holds anything but what `Grid` names; a value that stands twice.

    Examples
    --------
    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp()) / "seeds.yaml"
    >>> _ = file.write_text("parameters: {n_records: 400}\\ngrid: {seed: [0, 1]}\\nto: '05'", encoding="utf-8")
    >>> read_grid(file).grid
    {'seed': [0, 1]}
    """
    values = read_parameter_file(path, "grid file")
    known = [field.alias or name for name, field in Grid.model_fields.items()]
    check_names(values, known, where=str(path))
    for bound in ("from", "to"):
        if type(values.get(bound)) is int:  # YAML reads an unquoted 05 as a number
            values[bound] = f"{values[bound]:02d}"
    try:
        grid = Grid(**values)
    except ValidationError as error:
        finding = error.errors()[0]
        name = ".".join(str(part) for part in finding["loc"][:2])
        hint = "'grid' holds lines of 'name: [value, value]', 'parameters' lines of 'name: value'."
        raise ParameterError(f"{name}: {finding['msg']}", where=str(path), hint=hint) from None
    for name, options in grid.grid.items():
        if not options:
            raise ParameterError(f"{name!r} has no values", where=f"{path}, grid")
        if len({(type(option), option) for option in options}) < len(options):
            raise ParameterError(f"{name!r} has a value twice", where=f"{path}, grid")
        if name in grid.parameters:
            raise ParameterError(f"{name!r} is both fixed and varied", where=str(path))
    return grid


def plan_sweep(grid: Grid, name: str, *, notebooks_dir: str | os.PathLike | None = None) -> list[Job]:
    """The jobs of a grid, every one of them checked as `make_plan` checks a run.

    Raises
    ------
    ParameterError, DataError
        If a combination cannot be run, or there are too many.
    """
    n_jobs = 1
    for options in grid.grid.values():
        n_jobs *= len(options)
    if n_jobs > MOST_JOBS:
        raise ParameterError(f"the grid has {n_jobs} combinations, the most is {MOST_JOBS}", where="grid")
    jobs, known = [], Known()
    for combination in itertools.product(*grid.grid.values()):
        values = dict(zip(grid.grid, combination, strict=True))
        job = job_name(values)
        try:
            plan = make_plan(
                grid.profile,
                name,
                {**grid.parameters, **values},
                notebooks_dir=notebooks_dir,
                first=grid.first,
                last=grid.last,
                known=known,
            )
        except AsslError as error:
            raise type(error)(str(error).rstrip("."), where=f"job {job}") from error
        jobs.append(Job(job, values, plan))
    return jobs


def job_name(values: Mapping[str, Plain]) -> str:
    """The folder of a combination.

    Examples
    --------
    >>> job_name({"seed": 1, "eps": 0.5}), len(job_name({"data": "a/long path/" * 20}))
    ('seed-1_eps-0.5', 80)
    """
    text = "_".join(f"{name}-{value}" for name, value in values.items())
    name = re.sub(r"[^-.\w]+", "-", text)
    if name == text and len(name) <= 80 and len(name.encode()) <= MOST_BYTES:
        return name
    beginning = name[:69].encode()[: MOST_BYTES - 11].decode("utf-8", "ignore")
    return f"{beginning}_{hashlib.sha256(text.encode()).hexdigest()[:10]}"


def run_sweep(
    grid: Grid,
    name: str,
    *,
    n_jobs: int = 0,
    backend: str = "local",
    notebooks_dir: str | os.PathLike | None = None,
    say: Callable[[str], None] = print,
) -> tuple[Workspace, list[Outcome]]:
    """Run all jobs of a grid side by side, each in ``runs/<name>/<job>``.

    A job that fails does not stop the others. Where a worker is killed, as where memory runs out, no more jobs are run:
    those without an outcome count as failed. What several jobs need (the same records, embeddings, …) is made once and
    linked; called again, finished jobs are not run again.

    Parameters
    ----------
    grid : Grid
    name : str
        The sweep's folder under ``runs/``.
    n_jobs : int
        How many at a time; 0: as many as there are cores (of the Ray cluster, its CPUs).
    backend : str
        ``local``: processes of this machine (joblib's loky). ``ray``: a Ray cluster (joblib's Ray backend), whose
        machines must share the file system.
    notebooks_dir : path-like, optional
    say : callable
        Takes the lines of progress.

    Returns
    -------
    Workspace
        Of the sweep: ``sweep.json`` and the store that the jobs share are in it.
    list of Outcome
        In the order of the grid.

    Raises
    ------
    ParameterError, DataError
        Before anything runs: a combination cannot be run.
    WorkspaceError
        If the name is that of an ordinary run, a job's folder holds a run of other data, or the sweep is running
        already.
    OSError
        If the system refuses to read or write a file.
    AsslError
        If the Ray cluster cannot be reached or started.
    """
    jobs = plan_sweep(grid, name, notebooks_dir=notebooks_dir)
    ws = Workspace.open(runs_folder() / jobs[0].plan.name)
    check_places(ws, jobs)
    with run_lock(ws), _workers(backend, n_jobs, len(jobs)) as (pool, threads):
        say(f"{ws.display_path()}: {len(jobs)} jobs, notebooks {grid.first} to {grid.last}")
        work = [(job, ws.folder / job.name, ws.folder / STORE_FOLDER, threads) for job in jobs]
        by_name: dict[str, Outcome] = {}
        for outcome in _with_the_lost(pool(_run_job, work), jobs):
            by_name[outcome.name] = outcome
            line = f"{len(by_name)}/{len(jobs)}  {outcome.name}  {outcome.status}  {outcome.seconds:.1f} s"
            say(f"{line}  {outcome.message}".rstrip())
    outcomes = [by_name[job.name] for job in jobs]
    write_json(ws.path_of(SWEEP), {"grid": grid.model_dump(by_alias=True), "jobs": [vars(item) for item in outcomes]})
    return ws, outcomes


def check_places(ws: Workspace, jobs: list[Job]) -> None:
    """Refuse a sweep whose jobs would write over runs of other data, or where no file can be made.

    Raises
    ------
    WorkspaceError
        If the name is that of an ordinary run, or a job's folder holds a run of other data.
    OSError
        If no file can be made in the sweep's folder, or too few opened.
    """
    if (ws.folder / MANIFEST).is_file():
        raise WorkspaceError("there is an ordinary run of this name", where=ws.display_path(), hint="Give --name.")
    for job in jobs:
        refuse_other_data(Workspace.open(ws.folder / job.name), job.plan.parameters.data)
    check_writable(ws.folder)
    check_writable(ws.folder / max((job.name for job in jobs), key=lambda name: len(name.encode())))
    check_open_files()


def _with_the_lost(outcomes: Iterator[Outcome], jobs: list[Job]) -> Iterator[Outcome]:
    """The outcomes as they come; if a worker dies, a failed one for every job that has none, after 0 seconds.

    Only what ends the workers is raised here: an error of a job is part of its outcome.
    """
    left = {job.name: job for job in jobs}
    try:
        for outcome in outcomes:
            del left[outcome.name]
            yield outcome
    except AsslError as error:
        for job in left.values():
            yield Outcome(job.name, job.values, "failed", 0.0, str(error))


@contextmanager
def _workers(backend: str, n_jobs: int, most: int) -> Iterator[tuple[Callable, int]]:
    """Something that maps a function over work on a backend, and the threads each worker may use."""
    from joblib import Parallel, cpu_count, delayed, parallel_config

    cores = cpu_count()
    death: type[Exception] = BrokenProcessPool
    settings = worker_settings()
    if backend == "ray":
        cores = max(1, total("CPU"))
        from ray.exceptions import RayError
        from ray.util.joblib import register_ray

        register_ray()
        death, settings = RayError, {"backend": "ray"}
    elif backend != "local":
        raise ParameterError(f"unknown backend {backend!r}", hint="Give local or ray.")
    workers = min(n_jobs or cores, most)

    def pool(function: Callable[..., Outcome], work: list[tuple]) -> Iterator[Outcome]:
        calls = (delayed(function)(*item) for item in work)
        with parallel_config(**settings):
            kind = "list" if backend == "ray" else "generator_unordered"  # Ray gives its results together, at the end
            try:
                yield from Parallel(n_jobs=workers, batch_size=1, return_as=kind)(calls)
            except death as error:
                raise explained(error, "a worker of the sweep") from error

    yield pool, max(1, cores // workers)


def _run_job(job: Job, folder: Path, store: Path, threads: int) -> Outcome:
    """One job, in a process of its own."""
    before, start, message = dict(os.environ), time.perf_counter(), ""
    results: dict[str, float] = {}
    os.environ |= {STORE: str(store), BACKEND: "local", "LOKY_MAX_CPU_COUNT": str(threads)}
    os.environ["OMP_NUM_THREADS"] = str(threads)
    try:
        ws = run_plan(job.plan, Workspace.open(folder), say=lambda line: None)
        results = job_results(ws)
    except Exception as error:  # one job's failure is told, and the others go on
        message = str(error) if isinstance(error, AsslError) else f"{type(error).__name__}: {error}"
    finally:
        os.environ.clear()
        os.environ |= before
    seconds = round(time.perf_counter() - start, 1)
    return Outcome(job.name, job.values, "failed" if message else "done", seconds, message, results)


def job_results(ws: Workspace) -> dict[str, float]:
    """What a job came to, as far as it went: the mean score of every arm, routing, clusters, sizes.

    Returns
    -------
    dict of str to float
        Of every arm its name, and ``NAME low`` and ``NAME high`` for the interval.
    """
    results: dict[str, float] = {}
    for name, label in (("pool", "pool"), ("selection", "distinct chosen")):
        if ws.has(f"{name}.parquet"):
            results[label] = len(ws.table(f"{name}.parquet"))
    if not ws.has("metrics.json"):
        return results
    metrics = ws.json("metrics.json")
    for row in metrics["table"]:
        if row["task"] == "mean":
            arm = row["arm"]
            results |= {arm: row["value"], f"{arm} low": row["low"], f"{arm} high": row["high"]}
    results |= {"routing accuracy": metrics["routing"]["accuracy"], "cluster NMI": metrics["clusters"]["nmi"]}
    for row in metrics["regret"]:
        if row["task"] == "mean":
            results["mean regret"] = row["regret"]
    return results


def sweep_table(outcomes: list[Outcome], *, intervals: bool = False) -> pd.DataFrame:
    """One row a job: the varied parameters, its results, status and seconds.

    Parameters
    ----------
    outcomes : list of Outcome
    intervals : bool
        With the bounds of the intervals.
    """
    rows = [{**o.values, **o.results, "seconds": o.seconds, "status": o.status} for o in outcomes]
    table = pd.DataFrame(rows)
    bounds = [name for name in table.columns if name.endswith((" low", " high"))]
    return table if intervals else table.drop(columns=bounds)
