"""Let a base model answer: greedily, in batches, with the adapters of each question."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from assl_kit.common.checks import positive
from assl_kit.common.names import by_number
from assl_kit.data.conversations import Prompt, as_prompts
from assl_kit.errors import DataError, ParameterError

from .batches import InferenceReport, fitting_threads, in_batches, is_small
from .identity import unwrap
from .tokens import end_tokens, evaluating, padded, room_for, without_left_hooks
from .turns import prompt_ids

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

BASE_ADAPTER = "__base__"  # PEFT's own name for: no adapter
SHORT = 12
"""Tokens of a short answer. A small model answers all questions so far, and goes on with the others together (ours).

A batch ends with its longest answer. Of the tiny base's answers a twentieth is longer, and each batch had one of them:
two rounds take three to four fifths of the time of one."""


def generate_answers(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    *,
    max_new_tokens: int = 64,
    batch_size: int | None = None,
    max_length: int = 512,
    adapter_names: Sequence[str] | None = None,
    progress: bool = False,
    report: InferenceReport | None = None,
) -> list[str]:
    """Greedy answers, in the order of the prompts.

    Batches hold prompts of similar length, padded on the left. Neither order nor batch size changes an answer, except
    where rounding (about 1e-6 in float32, more in half precision) decides between two tokens of equal probability.

    Parameters
    ----------
    model, tokenizer
        A causal language model, with or without PEFT adapters, and its tokenizer.
    prompts : sequence of str or list of dict, length n
        User texts, or the messages of conversations; put into the chat template.
    max_new_tokens : int
        An answer ends at the end token or after this many tokens.
    batch_size : int, optional
        Default, and what happens where memory runs out: as in :func:`answer_nll`.
    max_length : int
        Tokens of the prompt; a longer one loses its oldest turns, then tokens on its left.
    adapter_names : sequence of str, length n, optional
        The PEFT adapter that answers each prompt, ``"__base__"`` for none: a mixed batch. Default: what is active.
    progress : bool
        Show a progress bar.
    report : InferenceReport, optional
        Gets counts (prompts that were cut among them), times and memory.

    Returns
    -------
    list of str, length n
        Without special tokens and outer white space.

    Raises
    ------
    DataError
        If there are not as many adapter names as prompts.
    ParameterError
        If an adapter is not loaded, a number is not positive, or not even one record fits into memory.
    """
    import torch

    positive(batch_size=1 if batch_size is None else batch_size, max_length=max_length, max_new_tokens=max_new_tokens)
    prompts = as_prompts(prompts)
    if adapter_names is not None:
        adapter_names = loaded_adapters(model, adapter_names, len(prompts))
    if not prompts:
        return []
    base = unwrap(model)
    room = room_for(base, max_length, max_new_tokens)
    report = InferenceReport() if report is None else report
    heads = prompt_ids(tokenizer, prompts, room)
    rows = [head.ids for head in heads]
    written: list[list[int]] = [[] for _ in rows]
    ends = end_tokens(base, tokenizer)

    def go_on(among: list[int], most: int, batch: list[int]) -> None:
        batch = [among[i] for i in batch]
        so_far = [rows[i] + written[i] for i in batch]
        ids = padded(so_far, tokenizer.pad_token_id, left=True).to(base.device)
        mask = padded([[1] * len(row) for row in so_far], 0, left=True).to(base.device)
        extra = {} if adapter_names is None else {"adapter_names": [adapter_names[i] for i in batch]}
        config = greedy_settings(base, tokenizer, most)
        with without_left_hooks(model):
            out = model.generate(input_ids=ids, attention_mask=mask, generation_config=config, **extra)
        new = out[:, ids.shape[1] :]
        report.answer_tokens += int((new != tokenizer.pad_token_id).sum())
        for i, tokens in zip(batch, new.tolist(), strict=True):
            written[i] = written[i] + tokens

    report.records += len(rows)
    report.truncated += sum(head.cut for head in heads)
    report.prompt_tokens += sum(map(len, rows))
    left, done = list(range(len(rows))), 0
    with report.timed(model), evaluating(model), fitting_threads(model), torch.inference_mode():
        for until in sorted({min(SHORT, max_new_tokens), max_new_tokens} if is_small(base) else {max_new_tokens}):
            lengths = [len(rows[i]) + max_new_tokens for i in left]
            work = partial(go_on, left, until - done)
            in_batches(work, model, lengths, batch_size, title="generate", report=report, progress=progress)
            left, done = [i for i in left if not ends.intersection(written[i])], until
    return [text.strip() for text in tokenizer.batch_decode(written, skip_special_tokens=True)]


def greedy_settings(base: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, max_new_tokens: int) -> GenerationConfig:
    """Generation settings: greedy, and nothing taken from the model's own file but its end tokens."""
    from transformers import GenerationConfig

    # Every sampling field is given, else generate() would fill it from the model's own file (repetition penalties).
    return GenerationConfig(
        max_new_tokens=max_new_tokens,
        min_length=0,
        do_sample=False,
        num_beams=1,
        use_cache=True,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=sorted(end_tokens(base, tokenizer)),
        temperature=1.0,
        top_k=50,
        top_p=1.0,
        repetition_penalty=1.0,
        length_penalty=1.0,
        no_repeat_ngram_size=0,
    )


def loaded_adapters(model: PreTrainedModel | PeftModel, names: Sequence[str], n: int) -> list[str]:
    """Check adapter names before PEFT sees them: a call that fails there leaves hooks behind (peft#3475)."""
    names = list(names)
    if len(names) != n:
        raise DataError(f"there are {len(names)} adapter names but {n} prompts")
    loaded = set(getattr(model, "peft_config", {}))
    unknown = sorted({str(name) for name in names} - loaded - {BASE_ADAPTER})
    if unknown or not loaded:
        known = ", ".join(sorted(loaded, key=by_number))
        raise ParameterError(
            f"adapters not loaded into this model: {', '.join(unknown) or 'none are'}",
            hint=f"Loaded are: {known or 'no adapters'}; {BASE_ADAPTER!r} means the base alone.",
        )
    return names
