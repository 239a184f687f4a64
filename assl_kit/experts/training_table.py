"""What a bank's experts were trained on and how it went, as one table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from .bank import ExpertBank
from .training.adapter import TrainingResult, held_out_table

MEASURED = ("seconds", "tokens_per_second", "peak_memory_mb")


def training_results(bank: ExpertBank) -> list[TrainingResult]:
    """What a bank's record tells of its training: logs, sizes and tokens; times and memory are NaN.

    Parameters
    ----------
    bank : ExpertBank

    Returns
    -------
    list of TrainingResult, one per expert
    """
    results = []
    for path, expert in zip(bank.expert_paths, bank.info["experts"], strict=True):
        log = pd.DataFrame(expert["log"], columns=["step", "epoch", "loss", "learning_rate"])
        log["step"] = log["step"].astype("int64")
        result = TrainingResult(
            path=path,
            log=log,
            n_records=expert["copies"],
            n_truncated=expert["truncated"],
            tokens=expert["tokens"],
            seconds=np.nan,
            tokens_per_second=np.nan,
            peak_memory_mb=np.nan,
            fingerprint=expert["inputs"],
            n_held_out=expert.get("n_held_out", 0),
            held_out=held_out_table(expert),
            stopped_epoch=expert.get("stopped_epoch"),
            notes=tuple(expert.get("notes", ())),
            base_fingerprint=bank.base["fingerprint"],
        )
        results.append(result)
    return results


def training_table(
    trained: ExpertBank | Sequence[TrainingResult], measured: Mapping[str, Mapping[str, Any]] | None = None
) -> pd.DataFrame:
    """One row per expert: what it was trained on, its losses, its speed, memory and time.

    Parameters
    ----------
    trained : ExpertBank or sequence of TrainingResult
    measured : mapping, optional
        For each expert's name its ``seconds``, ``tokens_per_second`` and ``peak_memory_mb``, as a run's manifest keeps
        them (``ws.manifest()["training"]``), for a bank that was trained elsewhere.

    Returns
    -------
    DataFrame
        Index: the experts' names. Columns: ``records`` (different ones; of a bank only), ``copies``, ``truncated``,
        ``tokens``, ``first_loss`` and ``last_loss`` (nats per answer token; the first is a mean over the first steps
        logged), ``held_out`` (records), ``best_held_out`` (nats), ``stopped_epoch`` (NaN: ran to its end),
        ``tokens_per_second``, ``peak_memory_mb``, ``seconds``. What is not known is NaN. Peak memory on a CPU is the
        process's high-water mark: it never falls from one expert to the next.

    Examples
    --------
    >>> from pathlib import Path
    >>> log = pd.DataFrame({"step": [1, 2], "epoch": [0.5, 1.0], "loss": [2.0, 1.0], "learning_rate": [1e-3, 5e-4]})
    >>> result = TrainingResult(Path("expert-0"), log, 12, 0, 340, 2.0, 170.0, 90.0, "f" * 64)
    >>> training_table([result]).loc["expert-0", ["copies", "last_loss", "tokens_per_second"]].tolist()
    [12.0, 1.0, 170.0]
    """
    bank = trained if isinstance(trained, ExpertBank) else None
    results = list(trained) if not isinstance(trained, ExpertBank) else trained.results or training_results(trained)
    table = pd.DataFrame(
        {
            "copies": [r.n_records for r in results],
            "truncated": [r.n_truncated for r in results],
            "tokens": [r.tokens for r in results],
            "first_loss": [r.log["loss"].iloc[0] for r in results],
            "last_loss": [r.log["loss"].iloc[-1] for r in results],
            "held_out": [r.n_held_out for r in results],
            "best_held_out": [r.best_held_out for r in results],
            "stopped_epoch": [np.nan if r.stopped_epoch is None else r.stopped_epoch for r in results],
            **{name: [getattr(r, name) for r in results] for name in reversed(MEASURED)},
        },
        index=pd.Index([r.path.name for r in results], name="expert"),
    )
    if bank is not None:
        table.insert(0, "records", [expert["records"] for expert in bank.info["experts"]])
    for name, values in (measured or {}).items():
        if name in table.index:
            table.loc[name, list(MEASURED)] = [values.get(key, np.nan) for key in MEASURED]
    return table
