"""The steps of a run: how each artifact is built, from which parents, with which parameters.

A notebook shows an idea, then asks for its artifact; a later notebook asks for it again. Whoever asks first builds it;
everyone else finds it. An artifact is *current* while the parameters it depends on, its parents and the code of its
room and of those below are what they were.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd

from assl_kit.common.device import peak_memory_mb
from assl_kit.common.files import read_json, sha256_file, sha256_of
from assl_kit.errors import ParameterError
from assl_kit.space.embeddings import read_embeddings

from . import build_data, build_evaluation, build_experts, build_selection, build_space
from .parameters import Parameters
from .parents import Parents, read_artifact
from .store import shared_artifact
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
    build : callable
        ``build(ws, parents, parameters, path)`` writes the artifact to ``path``; it reads what ``parents`` holds, and
        uses the workspace for work folders and notes only.
    parents : tuple of str
        Artifacts it reads.
    parameters : tuple of str
        Run parameters it depends on.
    read : callable
        ``read(path)`` loads it.
    notes : tuple of str
        Parts of the manifest that its builder writes beside it, such as times.
    wanted : callable
        ``wanted(parameters)`` says whether there is anything to measure. Where there is not, the file says so and
        depends on its builder only.
    """

    file: str
    notebook: str
    build: Callable[[Workspace, Parents, Parameters, Path], None]
    parents: tuple[str, ...]
    parameters: tuple[str, ...]
    read: Callable[[Path], Any] = pd.read_parquet
    notes: tuple[str, ...] = ()
    wanted: Callable[[Parameters], bool] = lambda parameters: True


_TRAINING = (
    "base_model", "quantization", "device", "lora_rank", "lora_alpha", "learning_rate", "train_batch_size",
    "gradient_accumulation", "gradient_checkpointing", "packing", "max_length",
)  # fmt: skip
_HELD_OUT = ("holdout_share", "patience")
_STAGE_1 = (
    "min_samples", "flattening", "link_flattening", "noise", "select_share", "n_select", "pool_factor",
    "repeat_share", "max_repeat", "selection", "groups", "budget", "budget_power", "objective", "cell_rows",
)  # fmt: skip
_WEIGHTS = ("mmr_relevance", "mmr_score", "mmr_diversity")  # a bank states them too
_MMR = (*_WEIGHTS, "mmr_scale")
_ANSWERING = ("base_model", "quantization", "device", "strategy", "max_length", "max_new_tokens")

#: The graph of a run. Of each artifact: its file, its notebook, its builder, its parents, the parameters it depends on.
STEPS: dict[str, Step] = {
    "records": Step(
        "records.parquet", "01", build_data.build_records,
        (),
        ("data", "data_format", "n_records", "on_bad", "longest_answer", "test_share", "seed"),
        notes=("left_out",),
    ),
    "encoder": Step(
        "encoder", "02", build_space.build_encoder,
        ("records",),
        ("encoder", "encoder_dim", "seed"),
        read=Path,
    ),
    "embeddings": Step(
        "embeddings.safetensors", "02", build_space.build_embeddings,
        ("records", "encoder"),
        ("encoder",),
        read=read_embeddings,
    ),
    "clusters": Step(
        "clusters.parquet", "03", build_space.build_clusters,
        ("records", "embeddings"),
        ("n_clusters", "seed"),
    ),
    "affinity": Step(
        "affinity.json", "03", build_experts.build_affinity,
        ("records",),
        (*_TRAINING, "affinity_records", "seed"),
        read=read_json,
    ),
    "curves": Step(
        "curves.json", "04", build_evaluation.build_curves,
        ("records", "clusters"),
        ("selection", "groups", "budget", "seed"),
        read=read_json, wanted=build_evaluation.wants_curves,
    ),
    "pool": Step(
        "pool.parquet", "04", build_selection.build_pool,
        ("records", "embeddings", "clusters", "curves"),
        (*_STAGE_1, "n_clusters"),
    ),
    "scores": Step(
        "scores.parquet", "05", build_experts.build_scores,
        ("records", "pool"),
        (*_TRAINING, "selection", "score", "score_tail", "warmup_records", "max_new_tokens"),
    ),
    "selection": Step(
        "selection.parquet", "05", build_selection.build_selection,
        ("records", "embeddings", "clusters", "curves", "pool", "scores"),
        (*_STAGE_1, *_MMR),
    ),
    "referee": Step(
        "referee.json", "05", build_evaluation.build_referee,
        ("records", "clusters", "selection"),
        ("groups", "referee_draws", "seed"),
        read=read_json,
    ),
    "experts": Step(
        "experts", "06", build_experts.build_experts,
        ("records", "encoder", "embeddings", "selection"),
        (*_TRAINING, *_HELD_OUT, *_WEIGHTS, "encoder", "epochs", "n_clusters", "min_similarity", "seed"),
        read=Path, notes=("training",),
    ),
    "answers": Step(
        "answers.parquet", "07", build_experts.build_answers,
        ("records", "encoder", "experts"),
        (*_ANSWERING, "min_similarity", "n_test", "seed"),
    ),
    "cross": Step(
        "cross.parquet", "07", build_experts.build_cross,
        ("records", "experts"),
        ("base_model", "quantization", "device", "max_length", "max_new_tokens", "n_test", "regret_per_task", "seed"),
    ),
    "comparison": Step(
        "comparison.parquet", "08", build_experts.build_comparison,
        ("records", "selection"),
        (*_TRAINING, *_HELD_OUT, "epochs", "full_epochs", "max_new_tokens", "n_test", "seed"),
    ),
    "metrics": Step(
        "metrics.json", "08", build_evaluation.build_metrics,
        ("records", "clusters", "selection", "answers", "cross", "comparison"),
        ("n_test", "regret_per_task", "seed"),
        read=read_json,
    ),
}  # fmt: skip
#: The rooms of the method, and those each is built on. The key of an artifact counts its room and these.
ROOMS = {
    "common": (),
    "data": ("common",),
    "space": ("common", "data"),
    "model": ("common", "data"),
    "selection": ("common", "data", "space"),
    "experts": ("common", "data", "space", "model"),
    "evaluation": ("common", "data", "space", "model"),
}
_PACKAGE = Path(__file__).resolve().parents[1]


def room_of(name: str) -> str:
    """The room of an artifact: that of the file which builds it, ``build_<room>.py``."""
    return STEPS[name].build.__module__.rpartition(".build_")[2]


def require(ws: Workspace, name: str, parameters: Parameters, *, notebook: str | None = None) -> Any:
    """Return an artifact, building it and whatever it needs first if it is missing or no longer current.

    Parameters
    ----------
    ws : Workspace
    name : str
        One of ``STEPS``: ``"records"``, ``"encoder"``, ``"embeddings"``, ``"clusters"``, ``"affinity"``, ``"pool"``,
        ``"scores"``, ``"selection"``, ``"experts"``, ``"answers"``, ``"cross"``,
        ``"comparison"``, ``"metrics"``.
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
    >>> from assl_kit.artifacts.parameters import resolve
    >>> ws = Workspace.open(tempfile.mkdtemp())
    >>> records = require(ws, "records", resolve("tiny", n_records=200))
    >>> len(records)
    200
    """
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
                step.build(ws, parents_of(ws, name), parameters, path)
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
    >>> from assl_kit.artifacts.parameters import resolve
    >>> state_of(Workspace.open(tempfile.mkdtemp()), resolve("tiny"), ["records", "clusters"])
    {'records': 'missing', 'clusters': 'missing'}
    """
    states: dict[str, str] = {}

    def look(name: str) -> str:
        if name not in states:
            step = STEPS[name]
            above = [look(parent) for parent in step.parents]
            if not ws.has(step.file):
                states[name] = "missing"
            elif all(state == "current" for state in above) and ws.is_current(step.file, _key(ws, name, parameters)):
                states[name] = "current"
            else:
                states[name] = "out of date"
        return states[name]

    return {name: look(name) for name in (STEPS if names is None else names)}


def read(ws: Workspace, name: str) -> Any:
    """Load an artifact as it is on disk, current or not."""
    return read_artifact(ws.path_of(STEPS[name].file), STEPS[name].read)


def parents_of(ws: Workspace, name: str) -> Parents:
    """What the builder of an artifact may read."""
    steps = {parent: STEPS[parent] for parent in STEPS[name].parents}
    return Parents(name, {parent: (ws.path_of(step.file), step.read) for parent, step in steps.items()})


def _key(ws: Workspace, name: str, parameters: Parameters) -> str:
    step = STEPS[name]
    if not step.wanted(parameters):
        builder = _PACKAGE / "artifacts" / f"build_{room_of(name)}.py"
        return sha256_of({"artifact": name, "wanted": False, "code": _hash_of([builder])})
    values = {p: getattr(parameters, p) for p in step.parameters}
    for parameter in ("data", "encoder", "base_model"):  # a local file or folder counts with its content
        if parameter in values and Path(str(values[parameter])).exists():
            values[parameter] = sha256_file(values[parameter])
    made = ws.manifest()["artifacts"]
    parents = {parent: made[STEPS[parent].file]["sha256"] for parent in step.parents}
    return sha256_of({"artifact": name, "parameters": values, "parents": parents, "code": code_hash(room_of(name))})


@cache
def code_hash(room: str) -> str:
    """Hash of all that can change an artifact of a room: every file of it, of the rooms below, and their builders."""
    files = [_PACKAGE / "errors.py"]
    for name in (*ROOMS[room], room):
        files += [*_files_of(name), _PACKAGE / "artifacts" / f"build_{name}.py"]
    return _hash_of(files)


@cache
def notebook_code_hash() -> str:
    """Hash of all that can change what a notebook shows: the method, how artifacts are made, figures and exercises."""
    files = [_PACKAGE / "errors.py"]
    for name in (*ROOMS, "artifacts", "teaching"):
        files += _files_of(name)
    return _hash_of(files)


def _files_of(room: str) -> list[Path]:
    return sorted(f for f in (_PACKAGE / room).rglob("*") if f.is_file() and "__pycache__" not in f.parts)


def _hash_of(files: Iterable[Path]) -> str:
    return sha256_of([[f.relative_to(_PACKAGE).as_posix(), sha256_file(f)] for f in files if f.is_file()])
