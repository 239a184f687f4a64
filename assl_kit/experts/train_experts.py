"""Experts: one LoRA adapter per cluster, put together as an expert bank."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from assl_kit.common.names import by_number
from assl_kit.data.records import prompts
from assl_kit.errors import AsslError, BankError, DataError
from assl_kit.space.static_encoder import known_shares

from .bank import ExpertBank, Provenance
from .router import check_min_similarity, expert_centroids, least_usual_similarity
from .training.adapter import TrainingResult, train_adapter
from .training.config import TrainingConfig, quantization_of, settings_of
from .training.data import encode_records, plan_training
from .training.session import Job, Session
from .training_table import training_results

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class Chosen:
    """What the experts are trained on.

    Attributes
    ----------
    records : DataFrame
        With ``id``, ``instruction``, ``input``, ``output``, ``task``; at least the selected ones.
    selection : DataFrame of p rows
        With ``id``, ``cluster`` (0 … k−1) and ``copies`` (≥ 1).
    embeddings : array of shape (p, d)
        Of the selection's records, in its order. The expert embedding is their mean, copies counted, normalised.
    n_clusters : int, optional
        k; default: the largest cluster plus one.

    Raises
    ------
    DataError
        If a column is missing, an id is unknown or twice, numbers of rows differ, or copies are no whole numbers.
    """

    records: pd.DataFrame
    selection: pd.DataFrame
    embeddings: np.ndarray
    n_clusters: int | None = None

    def __post_init__(self) -> None:
        for name, frame, columns in (
            ("selection", self.selection, ("id", "cluster", "copies")),
            ("records", self.records, ("id", "instruction", "input", "output", "task")),
        ):
            missing = [column for column in columns if column not in frame]
            if missing:
                raise DataError(f"the {name} have no column {missing[0]!r}", where=name)
            twice = frame["id"][frame["id"].duplicated()]
            if len(twice):
                raise DataError(f"the id {twice.iloc[0]!r} is there twice", where=name)
        ids, copies = self.selection["id"], self.selection["copies"]
        unknown = ids[~ids.isin(self.records["id"])]
        if len(unknown):
            raise DataError(f"the selected id {unknown.iloc[0]!r} is not among the records", where="selection")
        if len(ids) == 0:
            raise DataError("the selection is empty, so there is nothing to train on", where="selection")
        n_rows = len(np.asarray(self.embeddings))
        if n_rows != len(ids):
            raise DataError(f"there are {n_rows} embeddings for {len(ids)} selected records")
        if not pd.api.types.is_integer_dtype(copies) or copies.min() < 1:
            raise DataError("copies must be whole numbers of at least 1", where="selection")

    def centroids(self) -> np.ndarray:
        """The expert embeddings, (k, d)."""
        return expert_centroids(self.embeddings, *self._places(), self.n_clusters)

    def min_similarity(self, encoder: SentenceTransformer | None = None) -> float:
        """What all but a hundredth of the records would reach if they were new: `least_usual_similarity`."""
        asked = prompts(self.selection[["id"]].merge(self.records, on="id", how="left"))
        known = None if encoder is None else known_shares(encoder, asked)
        return least_usual_similarity(self.embeddings, *self._places(), self.n_clusters, known=known)

    def _places(self) -> tuple[np.ndarray, np.ndarray]:
        return self.selection["cluster"].to_numpy(), self.selection["copies"].to_numpy()


@dataclass(frozen=True)
class Workplace:
    """Where and how a bank's experts are trained; none of it changes them.

    Attributes
    ----------
    work_dir : path-like, optional
        Where finished adapters and checkpoints wait until the bank is complete; default ``<bank_dir>.partial``. They
        are removed at the end.
    log_dir : path-like, optional
        TensorBoard's event files, in a folder for each expert; default: none are written.
    resume : bool
        A bank of the same inputs is taken as it is; else finished adapters and checkpoints are used again.
    progress : bool
        Show one progress bar: the steps of all experts.
    train : callable, optional
        Trains the adapters elsewhere: gets the jobs by name (``"expert 0"`` …), and gives the results in that order.
        Default: one after the other, here. See `assl_kit.artifacts.ray_stages.train_side_by_side`.
    """

    work_dir: str | os.PathLike | None = None
    log_dir: str | os.PathLike | None = None
    resume: bool = True
    progress: bool = False
    train: Callable[[Mapping[str, Job]], list[TrainingResult]] | None = None


def train_experts(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    chosen: Chosen,
    bank_dir: str | os.PathLike,
    config: TrainingConfig | None = None,
    *,
    origin: Provenance,
    workplace: Workplace | None = None,
) -> ExpertBank:
    """Train one adapter per cluster of the selection and write the bank.

    Parameters
    ----------
    model, tokenizer
        The base, as :func:`assl_kit.model.loading.load_base` gives it; unchanged afterwards.
    chosen : Chosen
        Records, selection, embeddings.
    bank_dir : path-like
        Where the bank goes, once all experts are trained.
    config : TrainingConfig, optional
        The same for all experts.
    origin : Provenance
        Base and encoder, and what else is to be kept with the bank. Its ``training`` is filled in here; its
        ``encoder_model`` is saved only if ``encoder["id"]`` is ``"fit"``: it exists nowhere else.
    workplace : Workplace, optional
        Folders, resuming, progress, and who trains.

    Returns
    -------
    ExpertBank
        With ``results``, one `TrainingResult` per expert (of the bank's record, without times, if nothing was trained).

    Raises
    ------
    DataError
        Before any training: if a cluster has no record, or an answer does not fit into the model.
    BankError
        If the encoder of ``origin`` and the embeddings differ in dimension.

    Notes
    -----
    arXiv 2404.04949: six experts, one per cluster, routed by the centroid of each cluster's smoothed data.
    """
    config, workplace, bank_dir = config or TrainingConfig(), workplace or Workplace(), Path(bank_dir)
    if origin.min_similarity is not None:
        check_min_similarity(origin.min_similarity)
    centroids = chosen.centroids()
    if origin.encoder["dim"] != centroids.shape[1]:
        dim = origin.encoder["dim"]
        raise BankError(f"the encoder gives {dim} dimensions, the embeddings have {centroids.shape[1]}")
    origin = replace(
        origin,
        min_similarity=chosen.min_similarity(origin.encoder_model)
        if origin.min_similarity is None
        else origin.min_similarity,
        encoder_model=origin.encoder_model if origin.encoder["id"] == "fit" else None,
        training=asdict(config) | {"quantization": quantization_of(model)},
    )
    tables = cluster_tables(chosen.records, chosen.selection, len(centroids))
    settings, base_fingerprint = settings_of(config, model), origin.base["fingerprint"]
    encoded = [encode_records(model, tokenizer, table, config.max_length) for table in tables]
    if workplace.resume:
        inputs = [rows.fingerprint(settings, base_fingerprint) for rows in encoded]
        if (bank := _same_bank(bank_dir, inputs, centroids, origin)) is not None:
            return bank
    work = bank_dir.with_name(bank_dir.name + ".partial") if workplace.work_dir is None else Path(workplace.work_dir)
    jobs = _jobs(tables, config, work, workplace, base_fingerprint)
    if workplace.train is not None:
        results = workplace.train(jobs)
    else:
        steps = sum(plan_training(rows, config).steps for rows in encoded) if workplace.progress else None
        results = _train_here(model, tokenizer, jobs, steps)
    bank = ExpertBank.create(
        bank_dir,
        [result.path for result in results],
        centroids,
        origin,
        experts=[_describe(table, result) for table, result in zip(tables, results, strict=True)],
    )
    for result in results:
        shutil.rmtree(result.path)
    if not any(work.iterdir()):
        work.rmdir()
    bank.results = [replace(result, path=path) for result, path in zip(results, bank.expert_paths, strict=True)]
    return bank


def _jobs(
    tables: Sequence[pd.DataFrame], config: TrainingConfig, work: Path, workplace: Workplace, base_fingerprint: str
) -> dict[str, Job]:
    jobs = {}
    for k, table in enumerate(tables):
        logs = Path(workplace.log_dir) / f"expert-{k}" if workplace.log_dir is not None else None
        session = Session(name=f"expert {k}", resume=workplace.resume, base_fingerprint=base_fingerprint, log_dir=logs)
        jobs[session.name] = Job(table, work / f"expert-{k}", config, session)
    return jobs


def _train_here(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, jobs: Mapping[str, Job], steps: int | None
) -> list[TrainingResult]:
    """Train one adapter after the other; under one bar if the number of all their steps is given."""
    results = []
    with tqdm(total=steps, unit="step") if steps is not None else nullcontext(False) as bar:
        for job in jobs.values():
            session = replace(job.session, progress=bar)
            results.append(train_adapter(model, tokenizer, job.records, job.output_dir, job.config, session))
    return results


def cluster_tables(records: pd.DataFrame, selection: pd.DataFrame, n_clusters: int) -> list[pd.DataFrame]:
    """The records each expert is trained on, repeated by their copies.

    Parameters
    ----------
    records, selection : DataFrame
        As for `Chosen`.
    n_clusters : int

    Returns
    -------
    list of DataFrame, length ``n_clusters``
    """
    plain = records.drop(columns=["cluster", "copies"], errors="ignore")
    joined = selection[["id", "cluster", "copies"]].merge(plain, on="id", how="left")
    parts = [joined[joined["cluster"] == k] for k in range(n_clusters)]
    return [part.loc[part.index.repeat(part["copies"])].reset_index(drop=True) for part in parts]


def _describe(table: pd.DataFrame, result: TrainingResult) -> dict[str, Any]:
    tasks = table["task"].value_counts()
    return {
        "records": table["id"].nunique(),
        "copies": len(table),
        "tasks": {task: int(tasks[task]) for task in sorted(tasks.index, key=by_number)},
        "truncated": result.n_truncated,
        "tokens": result.tokens,
        "inputs": result.fingerprint,
        "log": result.log.to_numpy().tolist(),
        "n_held_out": result.n_held_out,
        "held_out": result.held_out.to_numpy().tolist(),
        "stopped_epoch": result.stopped_epoch,
        "notes": list(result.notes),
    }


def _same_bank(bank_dir: Path, inputs: list[str], centroids: np.ndarray, origin: Provenance) -> ExpertBank | None:
    """The bank that is there already, if it is whole and what would be trained is what it was trained on."""
    if not (bank_dir / "bank.json").is_file():
        return None
    try:
        bank = ExpertBank.from_pretrained(bank_dir, base=origin.base, encoder=origin.encoder)
    except AsslError:
        return None
    same = (
        [expert.get("inputs") for expert in bank.info["experts"]] == inputs
        and np.array_equal(bank.centroids, centroids)
        and (bank.info["weights"] or {}) == dict(origin.weights or {})
        and (bank.info["metrics"] or {}) == dict(origin.metrics or {})
        and bank.min_similarity == origin.min_similarity
    )
    if not same:
        return None
    bank.results = training_results(bank)
    return bank
