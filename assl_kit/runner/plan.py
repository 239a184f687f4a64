"""The plan of a run: its notebooks, its parameters, its name, all checked before anything is executed."""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from assl_kit.artifacts.build_data import Facts, check_enough, facts_of, load_run_records
from assl_kit.artifacts.parameters import (
    DEFAULT_PROFILE,
    KINDS,
    NAMES,
    Parameters,
    check_names,
    load_profile,
    parse_assignment,
    validate,
)
from assl_kit.common.cluster import backend
from assl_kit.common.files import shipped
from assl_kit.common.names import first_unwritable, shown
from assl_kit.data.records import COLUMNS, BadRecords
from assl_kit.errors import DataError, ParameterError

from .place import run_name

if TYPE_CHECKING:
    import pandas as pd

    from assl_kit.data.records import LeftOut

#: Parameters of every notebook that say where and how it runs, not what it computes.
PLACES = ("profile", "workspace")
#: First and last notebook where none is named; a folder may begin after the one and end before the other.
BOUNDS = ("00", "09")
#: Test questions a task of a user's own data where neither profile nor user says how many: each arm answers them all.
OWN_TEST = 50
#: The least values of parameters that only single notebooks declare.
LEAST = {"n_draws": 1}


@dataclass(frozen=True)
class ChainNotebook:
    """A notebook of the chain and what its ``parameters`` cell declares.

    Attributes
    ----------
    path : pathlib.Path
    declared : dict of str to plain value
        Names and defaults.
    source : str
        Its cells as one text, without outputs.
    """

    path: Path
    declared: dict[str, Any]
    source: str = ""

    @property
    def name(self) -> str:
        return self.path.stem

    @property
    def number(self) -> str:
        return self.path.name[:2]

    @property
    def own(self) -> dict[str, Any]:
        """Of `declared`, what is neither a field of `Parameters` nor one of `PLACES`."""
        return {name: value for name, value in self.declared.items() if name not in (*NAMES, *PLACES)}


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

    def own_of(self, notebook: ChainNotebook) -> dict[str, Any]:
        """The values, given or default, of the parameters that this notebook alone declares."""
        return {name: self.own.get(name, default) for name, default in notebook.own.items()}

    def values_for(self, notebook: ChainNotebook) -> dict[str, Any]:
        """What papermill injects: a value for each name the notebook declares, and nothing else."""
        values = {"profile": self.profile, **self.parameters.model_dump(), **self.own}
        return {name: values[name] for name in notebook.declared if name in values}


@dataclass
class Known:
    """What several plans have in common: the notebooks as read, and the facts of the data."""

    notebooks: list[ChainNotebook] | None = None
    data: dict[tuple, tuple[Facts, int]] = field(default_factory=dict)


def notebooks_folder() -> Path:
    """The chain's notebooks: ``notebooks/`` of the checkout, else the package's own copies.

    Raises
    ------
    DataError
        If neither is there.
    """
    folder = shipped("notebooks")
    if not any(folder.glob("00_*.ipynb")):
        raise DataError("the notebooks are not there", where=str(folder), hint="Install assl-kit again.")
    return folder


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
    for name, parameter in inspect_notebook(str(path)).items():
        try:
            declared[name] = ast.literal_eval(parameter["default"])
        except (ValueError, SyntaxError) as error:
            raise DataError(f"the default of {name!r} is not a plain value", where=path.name) from error
    return ChainNotebook(path, declared, "\n\n".join(cell.source for cell in cells))


def find_notebooks(folder: Path, first: str = BOUNDS[0], last: str = BOUNDS[1]) -> list[ChainNotebook]:
    """The notebooks ``NN_name.ipynb`` with numbers from ``first`` to ``last``, in order.

    Raises
    ------
    ParameterError
        If a bound is neither the number of a notebook nor the default, or nothing lies between them.
    DataError
        As `read_notebook`.
    """
    paths = sorted(folder.glob("[0-9][0-9]_*.ipynb"))
    numbers = list(dict.fromkeys(path.name[:2] for path in paths))
    there = f"There are {', '.join(numbers)}." if numbers else None
    first, last = str(first).zfill(2), str(last).zfill(2)
    for bound in (first, last):
        if not re.fullmatch(r"\d\d", bound):
            raise ParameterError(f"{bound!r} is no notebook number", where=folder.name, hint=there)
        if bound not in (*numbers, *BOUNDS):
            raise ParameterError(f"there is no notebook {bound}", where=folder.name, hint=there)
    chosen = [path for path in paths if first <= path.name[:2] <= last]
    if not chosen:
        raise ParameterError(f"there is no notebook from {first} to {last}", where=folder.name, hint=there)
    return [read_notebook(path) for path in chosen]


def make_plan(
    profile: str = DEFAULT_PROFILE,
    name: str = "",
    overrides: Mapping[str, Any] | None = None,
    data: str | None = None,
    *,
    notebooks_dir: str | os.PathLike | None = None,
    first: str = BOUNDS[0],
    last: str = BOUNDS[1],
    known: Known | None = None,
) -> Plan:
    """Check everything that can be checked before a run; see `run_chain` for the parameters and the errors.

    Calls that are given the same ``known`` read notebooks and data once.
    """
    backend()  # a wrong one is refused now
    known = Known() if known is None else known
    usual = {**load_profile(DEFAULT_PROFILE), **load_profile(profile)}
    if known.notebooks is None:
        folder = Path(notebooks_dir) if notebooks_dir else notebooks_folder()
        known.notebooks = find_notebooks(folder, first, last)
    notebooks = known.notebooks
    if data is not None and not data.strip():
        hint = "Give a file, a folder or a hub dataset; without it the embedded corpus is taken."
        raise ParameterError("no data is named", where="data", hint=hint)
    asked = {**(overrides or {}), **({} if data is None else {"data": data})}
    if asked.get("data", "embedded") != "embedded":
        asked.setdefault("n_records", 0)  # own data is taken whole unless a number is asked for
        if not usual["n_test"]:
            asked.setdefault("n_test", OWN_TEST)
    defaults = {name: value for book in notebooks for name, value in book.own.items()}
    check_names(asked, (*NAMES, *defaults))
    of_notebooks = {n: _fitting(n, value, defaults[n]) for n, value in asked.items() if n in defaults}
    of_the_run = {n: value for n, value in asked.items() if n in NAMES}
    parameters = validate({**usual, **of_the_run})
    parameters = parameters.model_copy(update=_absolute(parameters))
    _check_models(parameters)
    parameters = _check_records(parameters, known)
    return Plan(run_name(name, profile, parameters.data), profile, parameters, of_notebooks, tuple(notebooks))


def _check_models(parameters: Parameters) -> None:
    """Refuse a base or an encoder that cannot be had now, not in the notebook that would load it."""
    if parameters.base_model != "tiny":
        from assl_kit.model.identity import check_base

        check_base(parameters.base_model)
    if parameters.encoder != "fit":
        from assl_kit.space.encoder import check_encoder

        check_encoder(parameters.encoder)


def given_values(assignments: Iterable[tuple[str, str]], notebooks: Iterable[ChainNotebook]) -> dict[str, Any]:
    """The values of ``-p NAME VALUE``; what a notebook declares as text is taken as it stands, as ``-p question 2024``.

    Parameters
    ----------
    assignments : iterable of (str, str)
    notebooks : iterable of ChainNotebook

    Returns
    -------
    dict of str to plain value
    """
    texts = {n for book in notebooks for n, v in book.declared.items() if n not in NAMES and isinstance(v, str)}
    return {name: text if name in texts else parse_assignment(name, text) for name, text in assignments}


def _fitting(name: str, value: Any, default: Any) -> Any:
    """A notebook's own parameter must have the type of its default, and not be below what `LEAST` says."""
    kind = type(default)
    wanted = KINDS.get(kind, kind.__name__)
    if not (type(value) is kind or default is None or (kind is float and type(value) is int)):
        raise ParameterError(f"{name} must be {wanted}, got {shown(value)}")
    if first_unwritable([(name, value)]):
        raise ParameterError(f"{name} holds bytes that are not UTF-8", hint="Write it as UTF-8.")
    if name in LEAST and value < LEAST[name]:
        raise ParameterError(f"{name} must be {wanted} of at least {LEAST[name]}, not {shown(value)}")
    return value


def _absolute(parameters: Parameters) -> dict[str, str]:
    """Local files and folders by absolute path: the notebooks run in the run's own folder."""
    words = {"data": "embedded", "encoder": "fit", "base_model": "tiny"}
    values = {name: getattr(parameters, name) for name, word in words.items() if getattr(parameters, name) != word}
    return {name: str(Path(v).resolve()) for name, v in values.items() if Path(v).exists()}


def _check_records(parameters: Parameters, known: Known) -> Parameters:
    """Load the user's data whole, so that a bad line ends the run before it begins; the same for its size.

    Where records are to be left out, ``longest_answer`` is set to what the base can learn, if anything is longer.
    """
    if parameters.data == "embedded" and parameters.groups != "instruction":  # what it holds is known
        from assl_kit.data.synthetic import SOURCES, TASKS

        n_train = round(parameters.n_records * (1 - parameters.test_share))
        groups = {"auto": len(TASKS), "task": len(TASKS), "source": len(SOURCES)}
        facts = Facts(frozenset(COLUMNS), n_train, n_train, groups)
    else:
        names = ("data", "data_format", "n_records", "on_bad", "longest_answer", "base_model", "test_share", "seed")
        key = tuple(getattr(parameters, name) for name in names)
        if key not in known.data:
            records, longest = usable_records(parameters)
            known.data[key] = facts_of(records), longest
        facts, longest = known.data[key]
        parameters = parameters.model_copy(update={"longest_answer": longest})
    column = parameters.score.removeprefix("column:")
    if column != parameters.score and column not in facts.columns:
        raise ParameterError(f"the data has no column {column!r}", where="score")
    check_enough(parameters, facts)
    return parameters


def usable_records(parameters: Parameters) -> tuple[pd.DataFrame, int]:
    """The run's records, of which the base can learn each, and the bound on answers that this takes.

    Raises
    ------
    DataError
        As `load_run_records`; an answer is longer than the base sees, and such records are not to be left out.
    """
    from assl_kit.data.folders import tell_of
    from assl_kit.model.answers import AnswerBound

    too_long = AnswerBound(parameters.base_model)
    left_out: list[LeftOut] = []
    longest = parameters.longest_answer
    try:
        records = load_run_records(parameters, left_out, too_long=too_long)
        if too_long.shortest is not None:
            longest = too_long.shortest - 1
            left_out.clear()
            records = load_run_records(parameters.model_copy(update={"longest_answer": longest}), left_out)
    except BadRecords as error:
        hint = "Correct these records, or leave them out with --on-bad skip."
        raise DataError(error.what, where=error.where, hint=hint) from error
    tell_of(left_out, parameters.data)
    return records, longest
