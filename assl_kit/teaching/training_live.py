"""Training as it goes: the loss while it falls, where it is computed, and what each setting costs."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from IPython.display import display
from matplotlib import pyplot as plt
from transformers import TrainerCallback

from assl_kit.experts.training.adapter import train_adapter
from assl_kit.experts.training.config import TrainingConfig
from assl_kit.experts.training.flat import supported
from assl_kit.experts.training.session import Session
from assl_kit.model.identity import base_info, unwrap

from .style import styled_figure

if TYPE_CHECKING:
    from IPython.display import DisplayHandle
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_EVERY = 1.0  # seconds between two drawings: drawing takes time from training


class LiveLoss(TrainerCallback):
    """A picture of the loss under the cell that trains, drawn anew while training goes on.

    Give it to ``train_adapter`` by ``Session(callbacks=[LiveLoss()])``; without a notebook it prints nothing.

    Parameters
    ----------
    title : str
    """

    def __init__(self, title: str = "Loss while it is trained") -> None:
        self.title = title
        self.trained: list[tuple[int, float]] = []
        self.held_out: list[tuple[int, float]] = []
        self._picture: DisplayHandle | None = None
        self._drawn = -_EVERY

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        """Take what was logged in; draw if the last time is long enough ago."""
        for name, points in (("loss", self.trained), ("eval_loss", self.held_out)):
            if logs and name in logs:
                points.append((state.global_step, logs[name]))
        if time.monotonic() - self._drawn >= _EVERY:
            self._draw(state.max_steps)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Draw what came since the last time."""
        self._draw(state.max_steps)

    def _draw(self, steps: int) -> None:
        figure, axes = styled_figure(7.5, 3.4)
        axes.plot(*zip(*self.trained, strict=True) if self.trained else ([], []), marker=".", label="trained on")
        if self.held_out:
            axes.plot(*zip(*self.held_out, strict=True), marker="o", color="black", label="held out")
        axes.set(xlim=(0, steps), xlabel="step", ylabel="loss on the answer (nats a token)", title=self.title)
        axes.legend(fontsize=8.5)
        if self._picture is None:
            self._picture = display(figure, display_id=True)
        else:
            self._picture.update(figure)
        plt.close(figure)
        self._drawn = time.monotonic()


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
