"""What a process does that trains or asks one adapter after the other: it keeps the base it has loaded."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from assl_kit.model.loading import load_base

from .adapter import TrainingResult, train_adapter
from .session import Job

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@lru_cache(maxsize=1)
def kept_base(
    name: str, device: str = "auto", quantization: str | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A base model and its tokenizer, as `assl_kit.model.loading.load_base` gives them; the last one stays loaded."""
    return load_base(name, device=device, quantization=quantization)


def train_on_kept_base(job: Job, name: str, device: str, quantization: str | None) -> TrainingResult:
    """Train one adapter on the base that this process keeps."""
    model, tokenizer = kept_base(name, device, quantization)
    try:
        return train_adapter(model, tokenizer, job.records, job.output_dir, job.config, job.session)
    except BaseException:  # an interrupt may come at any moment: the base may be left half wrapped
        kept_base.cache_clear()
        raise
