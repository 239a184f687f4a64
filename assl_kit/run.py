"""Run the numbered notebooks in order through papermill: everything checked first, one line of progress each."""

from __future__ import annotations

import ast
import os
import re
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

from .errors import AsslError, DataError, ParameterError
from .kernels import KERNEL, kernel_starter, stop_kernel
from .parameters import DEFAULT_PROFILE, NAMES, Parameters, check_names, load_profile, validate
from .steps import check_enough, load_run_records, n_select_of, training_pool
from .workspace import Workspace, runs_folder

#: Parameters of every notebook that say where and how it runs, not what it computes.
PLACES = ("profile", "workspace")


class NotebookError(AsslError, RuntimeError):
    """A cell of a notebook failed, or its kernel died. The executed copy is kept."""


@dataclass(frozen=True)
class ChainNotebook:
    """A notebook of the chain and what its ``parameters`` cell declares.

    Attributes
    ----------
    path : pathlib.Path
    declared : dict of str to plain value
        Names and defaults.
    """

    path: Path
    declared: dict[str, Any]

    @property
    def name(self) -> str:
        return self.path.stem

    @property
    def number(self) -> str:
        return self.path.name[:2]


@dataclass(frozen=True)
class Plan:
    """A checked run: nothing of it has been executed.

    Attributes
    ----------
    name : str
        The run's folder under ``runs/``.
    profile : str
    parameters : Parameters
    own : dict
        Values of parameters that only single notebooks declare.
    notebooks : tuple of ChainNotebook
    """

    name: str
    profile: str
    parameters: Parameters
    own: dict[str, Any]
    notebooks: tuple[ChainNotebook, ...]

    def values_for(self, notebook: ChainNotebook) -> dict[str, Any]:
        """What papermill injects: a value for each name the notebook declares, and nothing else."""
        values = {"profile": self.profile, **self.parameters.model_dump(), **self.own}
        return {name: values[name] for name in notebook.declared if name in values}


def notebooks_folder() -> Path:
    """The chain's notebooks: ``notebooks/`` of the checkout, else the package's own copies.

    Raises
    ------
    DataError
        If neither is there.
    """
    package = Path(__file__).resolve().parent
    for folder in (package.parent / "notebooks", package / "notebooks"):
        if any(folder.glob("00_*.ipynb")):
            return folder
    raise DataError("the notebooks are not there", where=str(package), hint="Install assl-kit again.")


def read_notebook(path: Path) -> ChainNotebook:
    """Read what a notebook's ``parameters`` cell declares.

    Raises
    ------
    DataError
        If the file is no notebook, has not exactly one such cell, or a default is no plain value.
    """
    import nbformat
    from papermill import inspect_notebook

    try:
        cells = nbformat.read(path, as_version=4).cells
    except Exception as error:  # nbformat raises its own kinds
        raise DataError("the file is not a notebook", where=path.name) from error
    tagged = [cell for cell in cells if "parameters" in cell.metadata.get("tags", [])]
    if len(tagged) != 1:
        raise DataError(f"{len(tagged)} cells are tagged 'parameters', there must be one", where=path.name)
    declared = {}
    for name, found in inspect_notebook(str(path)).items():
        try:
            declared[name] = ast.literal_eval(found["default"])
        except (ValueError, SyntaxError) as error:
            raise DataError(f"the default of {name!r} is not a plain value", where=path.name) from error
    return ChainNotebook(path, declared)


def find_notebooks(folder: Path, first: str = "00", last: str = "09") -> list[ChainNotebook]:
    """The notebooks ``NN_name.ipynb`` with numbers from ``first`` to ``last``, in order.

    Raises
    ------
    ParameterError
        If a bound is not a number that exists, or nothing lies between them.
    DataError
        As `read_notebook`.
    """
    paths = sorted(folder.glob("[0-9][0-9]_*.ipynb"))
    numbers = [path.name[:2] for path in paths]
    first, last = str(first).zfill(2), str(last).zfill(2)
    for bound in (first, last):
        if not re.fullmatch(r"\d\d", bound):
            raise ParameterError(f"{bound!r} is no notebook number", hint=f"There are {', '.join(numbers)}.")
    chosen = [path for path in paths if first <= path.name[:2] <= last]
    if not chosen:
        there = f"There are {', '.join(numbers)}." if numbers else None
        raise ParameterError(f"there is no notebook from {first} to {last}", where=folder.name, hint=there)
    return [read_notebook(path) for path in chosen]


def make_plan(
    profile: str = DEFAULT_PROFILE,
    name: str = "",
    overrides: Mapping[str, Any] | None = None,
    data: str = "",
    *,
    notebooks_dir: str | os.PathLike | None = None,
    first: str = "00",
    last: str = "09",
) -> Plan:
    """Check everything that can be checked before a run; see `run_chain` for the parameters and the errors."""
    values = {**load_profile(DEFAULT_PROFILE), **load_profile(profile)}
    notebooks = find_notebooks(Path(notebooks_dir) if notebooks_dir else notebooks_folder(), first, last)
    given = {**(overrides or {}), **({"data": data} if data else {})}
    if given.get("data", "embedded") != "embedded":
        given.setdefault("n_records", 0)  # own data is taken whole unless a number is asked for
    own_defaults = {n: v for book in notebooks for n, v in book.declared.items() if n not in (*NAMES, *PLACES)}
    check_names(given, (*NAMES, *own_defaults))
    own = {n: _same_type(n, v, own_defaults[n]) for n, v in given.items() if n in own_defaults}
    parameters = validate({**values, **{n: v for n, v in given.items() if n in NAMES}})
    parameters = parameters.model_copy(update=_absolute(parameters))
    _check_records(parameters)
    if parameters.base_model != "tiny":
        from .base_identity import base_source

        base_source(parameters.base_model)  # a missing folder is refused now, not in notebook 03
    return Plan(_run_name(name, profile, parameters), profile, parameters, own, tuple(notebooks))


def _same_type(name: str, value: Any, default: Any) -> Any:
    """A notebook's own parameter must have the type of its default."""
    kind = type(default)
    if type(value) is kind or default is None or (kind is float and type(value) is int):
        return value
    raise ParameterError(f"{name} must be of type {kind.__name__}, got {value!r}")


def _absolute(parameters: Parameters) -> dict[str, str]:
    """Local files and folders by absolute path: the notebooks run in the run's own folder."""
    words = {"data": "embedded", "encoder": "fit", "base_model": "tiny"}
    values = {name: getattr(parameters, name) for name, word in words.items() if getattr(parameters, name) != word}
    return {name: str(Path(v).resolve()) for name, v in values.items() if Path(v).exists()}


def _check_records(parameters: Parameters) -> None:
    """Load the user's data whole, so that a bad line ends the run before it begins; the same for its size."""
    if parameters.data == "embedded":
        n_train = round(parameters.n_records * (1 - parameters.test_share))
    else:
        records = load_run_records(parameters)
        column = parameters.score.removeprefix("column:")
        if column != parameters.score and column not in records.columns:
            raise ParameterError(f"the data has no column {column!r}", where="score")
        n_train = len(training_pool(records))
    check_enough(parameters, n_train)
    n_select_of(parameters, n_train)


def _run_name(name: str, profile: str, parameters: Parameters) -> str:
    if not name:
        stem = Path(parameters.data).name.split(".")[0]
        name = profile if parameters.data == "embedded" else f"{profile}-{re.sub(r'[^-_0-9A-Za-z]+', '-', stem)}"
    if not re.fullmatch(r"\w[-.\w]{0,99}", name):
        raise ParameterError(f"{name!r} is no name for a run", hint="Use letters, digits, '-', '_' and '.'.")
    return name


def run_chain(
    profile: str = DEFAULT_PROFILE,
    name: str = "",
    overrides: Mapping[str, Any] | None = None,
    data: str = "",
    *,
    notebooks_dir: str | os.PathLike | None = None,
    first: str = "00",
    last: str = "09",
    say: Callable[[str], None] = print,
) -> Workspace:
    """Execute the notebooks from ``first`` to ``last`` in order, in the workspace ``runs/<name>``.

    Parameters
    ----------
    profile : str
        Name of a profile.
    name : str
        The run's folder under ``runs/``; default the profile's name, with the data's if it is your own.
    overrides : mapping, optional
        Parameters that differ from the profile: of `Parameters`, or declared by one of the notebooks.
    data : str
        A file, folder or hub id, as ``overrides["data"]``.
    notebooks_dir : path-like, optional
        Where the notebooks are; default `notebooks_folder`.
    first, last : str
        Numbers of the first and last notebook.
    say : callable
        Takes the lines of progress.

    Returns
    -------
    Workspace
        The run's; executed copies are in its ``notebooks/``.

    Raises
    ------
    ParameterError, DataError
        Before anything is executed: an unknown, mistyped or unfit parameter, data that is not usable.
    NotebookError
        A cell failed. The executed copy shows where; the run's manifest says ``failed``.

    Examples
    --------
    >>> run_chain("tinny")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    assl_kit.errors.ParameterError: unknown profile 'tinny'. Did you mean 'tiny'? The profiles ...
    """
    plan = make_plan(profile, name, overrides, data, notebooks_dir=notebooks_dir, first=first, last=last)
    ws = Workspace.open(runs_folder() / plan.name)
    ws.remember(plan.profile, plan.parameters)
    say(f"{ws.display_path()}: {len(plan.notebooks)} notebooks, profile {plan.profile}")
    width = max(len(book.name) for book in plan.notebooks)
    with kernel_starter(ws) as start_kernel:
        kernel = start_kernel(plan.notebooks[0].number)
        for book, after in zip_longest(plan.notebooks, plan.notebooks[1:]):
            following = start_kernel(after.number) if after else None
            start = time.perf_counter()
            ws.update_manifest("notebooks", {book.name: {"status": "running"}})
            note = {"status": "failed"}
            try:
                execute(book, ws, plan.values_for(book), kernel)
                note = {"status": "done"}
            finally:
                stop_kernel(kernel)
                note |= {"seconds": round(time.perf_counter() - start, 1), "peak_memory_mb": _peak_memory_mb()}
                ws.update_manifest("notebooks", {book.name: note})
                say(f"{book.name:<{width}}  {note['status']:<6}  {note['seconds']:6.1f} s")
            kernel = following
    return ws


def execute(book: ChainNotebook, ws: Workspace, values: Mapping[str, Any], kernel) -> None:
    """Execute one notebook with a started kernel, in the workspace; keep the executed copy, failed or not.

    Raises
    ------
    NotebookError
        With the message of the cell's error.
    """
    import papermill
    from nbclient.exceptions import DeadKernelError

    copy = f"notebooks/{book.path.name}"
    target = ws.path_of(copy)
    target.parent.mkdir(parents=True, exist_ok=True)
    hint = f"See the executed copy {ws.display_path(copy)}."
    try:
        papermill.execute_notebook(
            str(book.path),
            str(target),
            parameters=dict(values),
            kernel_name=KERNEL,
            km=kernel,
            progress_bar=False,
            log_output=False,
            start_timeout=600,  # a kernel that other work slows down
            cwd=str(ws.folder),
        )
    except papermill.PapermillExecutionError as error:
        what = error.evalue if _is_ours(error.ename) else f"{error.ename}: {error.evalue}"
        raise NotebookError(what.rstrip("."), where=f"{book.name}, cell [{error.exec_count}]", hint=hint) from error
    except DeadKernelError as error:
        hint = f"Memory may have run out. {hint}"
        raise NotebookError("the notebook's kernel died", where=book.name, hint=hint) from error


def _is_ours(error_name: str) -> bool:
    return error_name in {cls.__name__ for cls in (AsslError, *AsslError.__subclasses__())}


def _peak_memory_mb() -> float | None:
    """The most memory any kernel of this run has held, in MB; None where the system does not tell."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return round(peak / (1e6 if sys.platform == "darwin" else 1e3), 1)
