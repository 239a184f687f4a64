"""What surrounds a training and leaves its adapter as it is (name, resuming, progress, logs), and a training to do."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .config import TrainingConfig
from .data import Encoded, Plan

if TYPE_CHECKING:
    import pandas as pd
    from tqdm import tqdm
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback


@dataclass(frozen=True)
class Session:
    """How a training is carried out and watched; none of it changes the adapter.

    Attributes
    ----------
    name : str
        For the progress bar and messages.
    resume : bool
        A finished adapter of the same base, records and settings is taken as it is; an interrupted training goes on
        from its last checkpoint, to the same bits. False: from scratch.
    base_fingerprint : str, optional
        ``base_info(model, tokenizer)["fingerprint"]``, if it is known already.
    callbacks : sequence of transformers.TrainerCallback
    progress : bool or tqdm
        Show a progress bar, or move this one by the training's steps.
    log_dir : path-like, optional
        Where TensorBoard's event files go (``tensorboard --logdir``); default: none are written.
    """

    name: str = "adapter"
    resume: bool = True
    base_fingerprint: str | None = None
    callbacks: Sequence[TrainerCallback] = ()
    progress: bool | tqdm = False
    log_dir: str | os.PathLike | None = None


@dataclass(frozen=True)
class Job:
    """One adapter to be trained, by whichever process has the base: the other arguments of `train_adapter`."""

    records: pd.DataFrame
    output_dir: Path
    config: TrainingConfig
    session: Session


@dataclass(frozen=True)
class Training:
    """One training as the trainer gets it: the base, what it goes through, the folder of its checkpoints."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    encoded: Encoded
    plan: Plan
    config: TrainingConfig
    work: Path
    session: Session
    bar: tqdm | None
