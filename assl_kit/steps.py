"""The steps of a run: how each artifact is built, from which parents, with which parameters.

A notebook shows an idea, then asks for its artifact; a later notebook asks for it again. Whoever asks first builds it;
everyone else finds it. An artifact is *current* while the parameters it depends on, its parents and the package's code
are what they were.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from .bounds import check_parquet
from .device import peak_memory_mb
from .errors import DataError, ParameterError, WorkspaceError
from .files import sha256_file, sha256_of
from .parameters import Parameters
from .sharing import shared_artifact
from .workspace import Workspace


@dataclass(frozen=True)
class Step:
    """How one artifact is made.

    Attributes
    ----------
    file : str
        Name of the file or folder in the workspace.
    notebook : str
        Number of the notebook that explains it.
    parents : tuple of str
        Artifacts it reads.
    parameters : tuple of str
        Run parameters it depends on.
    build : callable
        ``build(ws, parameters, path)`` writes the artifact to ``path``.
    read : callable
        ``read(path)`` loads it.
    notes : tuple of str
        Parts of the manifest that its builder writes beside it, such as times.
    """

    file: str
    notebook: str
    parents: tuple[str, ...]
    parameters: tuple[str, ...]
    build: Callable[[Workspace, Parameters, Path], None]
    read: Callable[[Path], Any]
    notes: tuple[str, ...] = ()


STEPS: dict[str, Step] = {}
#: Modules that change what a notebook shows, but no artifact.
PICTURES = ("plots", "explorer", "evidence_plots", "measured", "verdicts")


def step(name: str, file: str, notebook: str, parents=(), parameters=(), read=pd.read_parquet, notes=()):
    def register(build):
        STEPS[name] = Step(file, notebook, tuple(parents), tuple(parameters), build, read, tuple(notes))
        return build

    return register


def require(ws: Workspace, name: str, parameters: Parameters, *, notebook: str | None = None) -> Any:
    """Return an artifact, building it and whatever it needs first if it is missing or no longer current.

    Parameters
    ----------
    ws : Workspace
    name : str
        One of ``STEPS``: ``"records"``, ``"encoder"``, ``"embeddings"``, ``"clusters"``, ``"affinity"``, ``"pool"``,
        ``"scores"``, ``"selection"``, ``"experts"``, ``"answers"``, ``"comparison"``, ``"metrics"``.
    parameters : Parameters
        The run's parameters.
    notebook : str, optional
        Number of the notebook that asks. What another notebook should have made is announced.

    Returns
    -------
    object
        What ``STEPS[name].read`` gives: a DataFrame, an array mapping, a dict, or a path for folders.

    Raises
    ------
    ParameterError
        If ``name`` is no artifact.

    Examples
    --------
    >>> import tempfile
    >>> from assl_kit.parameters import resolve
    >>> ws = Workspace.open(tempfile.mkdtemp())
    >>> records = require(ws, "records", resolve("tiny", n_records=200))
    >>> len(records)
    200
    """
    register_steps()
    if name not in STEPS:
        raise ParameterError(f"unknown artifact {name!r}", hint=f"Known: {', '.join(STEPS)}.")
    _ensure(ws, name, parameters, notebook, set())
    return read(ws, name)


def _ensure(ws: Workspace, name: str, parameters: Parameters, notebook: str | None, done: set[str]) -> None:
    """Build what is missing or out of date, parents first; ``done`` holds what this call has looked at."""
    if name in done:
        return
    step = STEPS[name]
    for parent in step.parents:
        _ensure(ws, parent, parameters, notebook, done)
    done.add(name)
    key = _key(ws, name, parameters)
    if ws.is_current(step.file, key):
        return
    if notebook is not None and notebook != step.notebook:
        print(f"{step.file} is missing or out of date: built here, as notebook {step.notebook} does.")
    start = time.perf_counter()
    with shared_artifact(key) as shared:
        notes = shared.take(ws.path_of(step.file))
        if notes is None:
            with ws.writing(step.file) as path:
                step.build(ws, parameters, path)
            parts = ws.manifest()
            shared.give(ws.path_of(step.file), {part: parts[part] for part in step.notes if part in parts})
    for part, values in (notes or {}).items():
        ws.update_manifest(part, values)
    peak = peak_memory_mb("cpu")
    ws.commit(
        step.file,
        key=key,
        parents=[STEPS[parent].file for parent in step.parents],
        parameters={p: getattr(parameters, p) for p in step.parameters},
        seconds=time.perf_counter() - start,
        peak_memory_mb=peak if math.isfinite(peak) else None,
        notebook=step.notebook,
    )


def register_steps() -> None:
    """Fill ``STEPS``."""
    from . import build_experts, build_selection  # noqa: F401  (they register the steps)


def is_current(ws: Workspace, name: str, parameters: Parameters) -> bool:
    """Whether an artifact and all it is made from are what `require` would make of them."""
    return state_of(ws, parameters, [name])[name] == "current"


def state_of(ws: Workspace, parameters: Parameters, names: Iterable[str] | None = None) -> dict[str, str]:
    """How artifacts stand: ``current``, ``out of date`` (it or what it is made from has changed), or ``missing``.

    Parameters
    ----------
    ws : Workspace
    parameters : Parameters
    names : iterable of str, optional
        Default: all of ``STEPS``.

    Returns
    -------
    dict of str to str

    Examples
    --------
    >>> import tempfile
    >>> from assl_kit.parameters import resolve
    >>> state_of(Workspace.open(tempfile.mkdtemp()), resolve("tiny"), ["records", "clusters"])
    {'records': 'missing', 'clusters': 'missing'}
    """
    register_steps()
    found: dict[str, str] = {}

    def look(name: str) -> str:
        if name not in found:
            step = STEPS[name]
            whole = all([look(parent) == "current" for parent in step.parents])
            if not ws.has(step.file):
                found[name] = "missing"
            else:
                current = whole and ws.is_current(step.file, _key(ws, name, parameters))
                found[name] = "current" if current else "out of date"
        return found[name]

    return {name: look(name) for name in (STEPS if names is None else names)}


def read(ws: Workspace, name: str) -> Any:
    """Load an artifact as it is on disk, current or not."""
    register_steps()
    path = ws.path_of(STEPS[name].file)
    if path.suffix == ".parquet" and path.is_file():
        check_parquet(path)
    return STEPS[name].read(path)


def experts_folder(ws: Workspace) -> Path:
    """The folder of a run's bank.

    Raises
    ------
    WorkspaceError
        If the run has none yet.
    """
    if not ws.has("experts"):
        hint = "Let notebook 06 finish first: it trains them."
        raise WorkspaceError("the run has no experts yet", where=ws.display_path(), hint=hint)
    return ws.path_of("experts")


def _key(ws: Workspace, name: str, parameters: Parameters) -> str:
    step = STEPS[name]
    values = {p: getattr(parameters, p) for p in step.parameters}
    for parameter in ("data", "encoder", "base_model"):  # a local file or folder counts with its content
        if parameter in values and Path(str(values[parameter])).exists():
            values[parameter] = sha256_file(values[parameter])
    made = ws.manifest()["artifacts"]
    parents = {parent: made[STEPS[parent].file]["sha256"] for parent in step.parents}
    return sha256_of({"artifact": name, "parameters": values, "parents": parents, "code": code_hash()})


@lru_cache(maxsize=1)
def code_hash() -> str:
    """Hash of the package's files that can change an artifact: sources, grammars and the tiny base."""
    folder = Path(__file__).parent
    aside = {*PICTURES, "workspace", "sharing", "plan", "resume", "kernels", "run", "sweep", "sweep_page", "compare"}
    aside |= {"html_page", "report", "console", "cli", "colab", "badge"}
    aside |= {"exercises", "exercises_space", "exercises_experts", "cli_ask", "chat", "chat_page"}
    aside |= {"vllm_client", "vllm_export", "environment", "train_bank", "__init__", "baselines", "options", "stability"}
    files = [f for f in folder.glob("*.py") if f.stem not in aside]
    files += [f for part in ("grammar", "assets") for f in (folder / part).rglob("*") if f.is_file()]
    return sha256_of([[f.relative_to(folder).as_posix(), sha256_file(f)] for f in sorted(files)])


def training_pool(records: pd.DataFrame) -> pd.DataFrame:
    """The records that may be learnt from: every split but ``test`` (ours: a dev split counts as training data)."""
    return records[records["split"] != "test"].reset_index(drop=True)


def load_run_records(parameters: Parameters) -> pd.DataFrame:
    """The run's records, split; the same for a check before the run and for the artifact.

    Raises
    ------
    DataError
        If the data cannot be used.
    """
    from .corpus import ensure_splits, load_records

    share, seed = parameters.test_share, parameters.seed
    options = {"n_records": parameters.n_records or None, "seed": seed, "test_share": share}
    records = load_records(parameters.data, format=parameters.data_format, **options)
    return ensure_splits(records, test_share=share, seed=seed)


def check_enough(parameters: Parameters, n_train: int) -> None:
    """Refuse fewer training records than clusters with a ``DataError``."""
    if n_train < parameters.n_clusters:
        raise DataError(
            f"{n_train} training records are fewer than {parameters.n_clusters} clusters",
            where=parameters.data,
            hint="Give more records or lower n_clusters.",
        )


def test_records(records: pd.DataFrame, parameters: Parameters) -> pd.DataFrame:
    """The records to measure on, at most ``n_test`` a task (0: all), drawn with the run's seed."""
    test = records[records["split"] == "test"].reset_index(drop=True)
    return sample_by_task(test, parameters.n_test, parameters.seed) if parameters.n_test else test


def sample_by_task(records: pd.DataFrame, per_task: int, seed: int) -> pd.DataFrame:
    """At most ``per_task`` records of each task, drawn without replacement, in their old order."""
    rng = np.random.default_rng(seed)
    keep = []
    for _, rows in sorted(records.groupby("task").indices.items()):
        keep.extend(rng.permutation(rows)[:per_task])
    return records.iloc[sorted(keep)].reset_index(drop=True)


def rows_of(embeddings: dict[str, Any], ids) -> np.ndarray:
    """Embedding rows of the given record ids, float32 of shape (len(ids), d), joined by id."""
    place = pd.Index(embeddings["ids"])
    where = place.get_indexer(pd.Index(ids))
    if (where < 0).any():
        missing = list(pd.Index(ids)[where < 0][:3])
        raise DataError("some records have no embedding", where=f"ids {missing}", hint="Run notebook 02 again.")
    return embeddings["embeddings"][where]


def n_select_of(parameters: Parameters, n: int) -> int:
    """How many records to choose out of ``n``: ``n_select`` if given, else ``select_share`` of them."""
    wanted = parameters.n_select or round(parameters.select_share * n)
    if not parameters.n_clusters <= wanted <= n:
        raise ParameterError(
            f"cannot choose {wanted} of {n} training records for {parameters.n_clusters} experts",
            where="n_select, select_share",
            hint="Choose at least one record for each cluster, and not more than there are.",
        )
    return wanted
