"""Where a training is computed, and what each of its settings costs."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from assl_kit.model.identity import base_info, unwrap

from .training.adapter import train_adapter
from .training.config import TrainingConfig
from .training.session import Session

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def where_computed(model: PreTrainedModel) -> pd.Series:
    """Where a base is trained, and in what: card, dtypes, memory, how rows are laid out.

    Parameters
    ----------
    model : transformers.PreTrainedModel

    Returns
    -------
    Series of str
        ``device``, ``weights``, ``adapters``, ``memory of the weights``, ``rows``; on a card ``free memory``.
    """
    import torch

    from .training.flat import supported

    base = unwrap(model)
    held = sum(weights.numel() * weights.element_size() for weights in base.parameters())
    on_card = base.device.type == "cuda"
    facts = {
        "device": torch.cuda.get_device_name(base.device) if on_card else f"CPU, {torch.get_num_threads()} threads",
        "weights": str(base.dtype).removeprefix("torch."),
        "adapters": "float32",
        "memory of the weights": f"{held / 2**20:,.0f} MB",
        "rows": "end to end, kept apart by a flash attention" if supported(base) else "padded, kept apart by a mask",
    }
    if on_card:
        free, whole = torch.cuda.mem_get_info(base.device)
        facts["free memory"] = f"{free / 2**20:,.0f} of {whole / 2**20:,.0f} MB"
    return pd.Series(facts, name="value")


def compare_settings(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    records: pd.DataFrame,
    config: TrainingConfig,
    changes: Mapping[str, Mapping[str, Any]],
) -> pd.DataFrame:
    """Train on the same records with each of some settings, keep nothing, and tell what each cost.

    Parameters
    ----------
    model, tokenizer
    records : DataFrame
        As `train_adapter` takes them.
    config : TrainingConfig
    changes : mapping of str to mapping
        For each row of the table what differs from ``config``.

    Returns
    -------
    DataFrame
        By the names of ``changes``: ``tokens_per_second``, ``peak_memory_mb`` (of torch on a card; on a CPU the process
        has its high-water mark, which never falls), ``seconds``, ``steps``, ``first_loss`` and ``last_loss`` in nats.
    """
    fingerprint = base_info(model, tokenizer)["fingerprint"]
    rows: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, change in changes.items():
            session = Session(name=name, base_fingerprint=fingerprint)
            place = Path(folder) / str(len(rows))
            result = train_adapter(model, tokenizer, records, place, replace(config, **change), session)
            loss = result.log["loss"]
            rows[name] = {
                "tokens_per_second": result.tokens_per_second,
                "peak_memory_mb": result.peak_memory_mb,
                "seconds": result.seconds,
                "steps": int(result.log["step"].iloc[-1]),
                "first_loss": loss.iloc[0],
                "last_loss": loss.iloc[-1],
            }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("setting")
