"""Experts: one LoRA adapter per cluster, put together as an expert bank; and how to put adapters on a base."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from assl_kit.errors import AsslError, BankError, DataError

from .adapters import adapted, load_adapters
from .bank import ExpertBank
from .router import check_min_similarity, expert_centroids
from .training.adapter import TrainingResult, train_adapter
from .training.config import TrainingConfig, quantization_of, settings_of
from .training.data import encode_records, plan_training
from .training_table import training_results, training_table

__all__ = [
    "TrainingConfig",
    "TrainingResult",
    "adapted",
    "cluster_tables",
    "load_adapters",
    "train_adapter",
    "train_experts",
    "training_results",
    "training_table",
]


def train_experts(
    model,
    tokenizer,
    records: pd.DataFrame,
    selection: pd.DataFrame,
    embeddings,
    bank_dir: str | os.PathLike,
    config: TrainingConfig | None = None,
    *,
    base_info: Mapping[str, Any],
    encoder_info: Mapping[str, Any],
    encoder=None,
    n_clusters: int | None = None,
    weights: Mapping[str, float] | None = None,
    min_similarity: float = -1.0,
    metrics: Mapping[str, Any] | None = None,
    work_dir: str | os.PathLike | None = None,
    log_dir: str | os.PathLike | None = None,
    resume: bool = True,
    progress: bool = False,
    train: Callable[[dict[str, dict[str, Any]]], list[TrainingResult]] | None = None,
) -> ExpertBank:
    """Train one adapter per cluster of the selection and write the bank.

    Parameters
    ----------
    model, tokenizer
        The base, as :func:`assl_kit.model.generation.load_base` gives it; unchanged afterwards.
    records : DataFrame
        With ``id``, ``instruction``, ``input``, ``output``, ``task``; at least the selected ones.
    selection : DataFrame of p rows
        With ``id``, ``cluster`` (0 … k−1) and ``copies`` (≥ 1).
    embeddings : array of shape (p, d)
        Of the selection's records, in its order. The expert embedding is their mean, copies counted, normalised.
    bank_dir : path-like
        Where the bank goes, once all experts are trained.
    config : TrainingConfig, optional
        The same for all experts.
    base_info : mapping
        :func:`assl_kit.model.generation.base_info` of the base.
    encoder_info : mapping
        ``id``, ``fingerprint``, ``dim`` of the encoder that made the embeddings.
    encoder : SentenceTransformer, optional
        Saved into the bank if ``encoder_info["id"]`` is ``"fit"``: it exists nowhere else.
    n_clusters : int, optional
        k; default: the largest cluster plus one.
    weights : mapping, optional
        The λ of the selection, for the bank's record.
    min_similarity : float
        Below it the base answers alone.
    metrics : mapping, optional
        For the bank's record.
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
        Trains the adapters elsewhere: gets by name (``"expert 0"`` …) the arguments of `train_adapter` but for model
        and tokenizer, and gives the results in that order. Default: one after the other, here. See
        `assl_kit.artifacts.ray_stages.train_side_by_side`.

    Returns
    -------
    ExpertBank
        With ``results``, one `TrainingResult` per expert (of the bank's record, without times, if nothing was trained).

    Raises
    ------
    DataError
        Before any training: if a column is missing, an id is unknown or twice, a cluster has no record, or an answer
        does not fit into the model.
    BankError
        If ``encoder_info`` and embeddings differ in dimension.

    Notes
    -----
    arXiv 2404.04949: six experts, one per cluster, routed by the centroid of each cluster's smoothed data.
    """
    config = config or TrainingConfig()
    check_min_similarity(min_similarity)
    bank_dir = Path(bank_dir)
    selection = _check_selection(records, selection, embeddings)
    clusters, copies = selection["cluster"].to_numpy(), selection["copies"].to_numpy()
    centroids = expert_centroids(embeddings, clusters, copies, n_clusters)
    if encoder_info["dim"] != centroids.shape[1]:
        raise BankError(f"the encoder gives {encoder_info['dim']} dimensions, the embeddings have {centroids.shape[1]}")
    tables = cluster_tables(records, selection, len(centroids))
    settings, base = settings_of(config, model), base_info["fingerprint"]
    encoded = [encode_records(model, tokenizer, table, config.max_length) for table in tables]
    inputs = [e.fingerprint(settings, base) for e in encoded]
    describe = {
        "base": base_info,
        "encoder": encoder_info,
        "weights": weights,
        "min_similarity": min_similarity,
        "metrics": metrics,
        "training": asdict(config) | {"quantization": quantization_of(model)},
    }
    if resume and (bank := _same_bank(bank_dir, inputs, centroids, describe)) is not None:
        return bank
    work = Path(work_dir) if work_dir is not None else bank_dir.with_name(bank_dir.name + ".partial")
    options = {"config": config, "resume": resume, "base_fingerprint": base}
    jobs = {
        f"expert {k}": options
        | {
            "name": f"expert {k}",
            "records": table,
            "output_dir": work / f"expert-{k}",
            "log_dir": Path(log_dir) / f"expert-{k}" if log_dir is not None else None,
        }
        for k, table in enumerate(tables)
    }
    if train is not None:
        results = train(jobs)
    else:
        steps = sum(plan_training(e, config).steps for e in encoded)
        with tqdm(total=steps, unit="step") if progress else nullcontext(False) as bar:
            results = [train_adapter(model, tokenizer, progress=bar, **job) for job in jobs.values()]
    bank = ExpertBank.create(
        bank_dir,
        [result.path for result in results],
        centroids,
        experts=[_describe(table, result) for table, result in zip(tables, results, strict=True)],
        encoder_model=encoder if encoder_info["id"] == "fit" else None,
        **describe,
    )
    for result in results:
        shutil.rmtree(result.path)
    if not any(work.iterdir()):
        work.rmdir()
    bank.results = [replace(result, path=path) for result, path in zip(results, bank.expert_paths, strict=True)]
    return bank


def _check_selection(records: pd.DataFrame, selection: pd.DataFrame, embeddings) -> pd.DataFrame:
    for name, frame, columns in (
        ("selection", selection, ("id", "cluster", "copies")),
        ("records", records, ("id", "instruction", "input", "output", "task")),
    ):
        missing = [column for column in columns if column not in frame]
        if missing:
            raise DataError(f"the {name} have no column {missing[0]!r}", where=name)
        twice = frame["id"][frame["id"].duplicated()]
        if len(twice):
            raise DataError(f"the id {twice.iloc[0]!r} is there twice", where=name)
    unknown = selection["id"][~selection["id"].isin(records["id"])]
    if len(unknown):
        raise DataError(f"the selected id {unknown.iloc[0]!r} is not among the records", where="selection")
    if len(selection) == 0:
        raise DataError("the selection is empty, so there is nothing to train on", where="selection")
    if len(np.asarray(embeddings)) != len(selection):
        raise DataError(f"there are {len(np.asarray(embeddings))} embeddings for {len(selection)} selected records")
    if not pd.api.types.is_integer_dtype(selection["copies"]) or selection["copies"].min() < 1:
        raise DataError("copies must be whole numbers of at least 1", where="selection")
    return selection


def cluster_tables(records: pd.DataFrame, selection: pd.DataFrame, n_clusters: int) -> list[pd.DataFrame]:
    """The records each expert is trained on, repeated by their copies.

    Parameters
    ----------
    records, selection : DataFrame
        As for `train_experts`.
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
        "tasks": {task: int(tasks[task]) for task in sorted(tasks.index)},
        "truncated": result.n_truncated,
        "tokens": result.tokens,
        "inputs": result.fingerprint,
        "log": result.log.to_numpy().tolist(),
        "n_held_out": result.n_held_out,
        "held_out": result.held_out.to_numpy().tolist(),
        "stopped_epoch": result.stopped_epoch,
        "notes": list(result.notes),
    }


def _same_bank(bank_dir: Path, inputs: list[str], centroids: np.ndarray, describe: dict) -> ExpertBank | None:
    """The bank that is there already, if it is whole and what would be trained is what it was trained on."""
    if not (bank_dir / "bank.json").is_file():
        return None
    try:
        bank = ExpertBank.from_pretrained(bank_dir, base=describe["base"], encoder=describe["encoder"])
    except AsslError:
        return None
    experts = bank.info["experts"]
    same = [expert.get("inputs") for expert in experts] == inputs and np.array_equal(bank.centroids, centroids)
    for key in ("weights", "metrics"):
        same = same and (bank.info[key] or {}) == dict(describe[key] or {})
    if not same or bank.min_similarity != describe["min_similarity"]:
        return None
    bank.results = training_results(bank)
    return bank
