"""How likely a base model finds answers: their loss, in nats a token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from assl_kit.common.checks import as_texts, positive
from assl_kit.data.conversations import Prompt, as_prompts
from assl_kit.errors import DataError

from .batches import InferenceReport, fitting_threads, in_batches, positions_at_once
from .identity import unwrap
from .tokens import decoder, evaluating, logits, padded, room_beside
from .turns import prompt_ids, text_ids

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def answer_nll(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt] | None,
    answers: Sequence[str],
    *,
    batch_size: int | None = None,
    max_length: int = 512,
    progress: bool = False,
    report: InferenceReport | None = None,
) -> np.ndarray:
    """Mean negative log-likelihood of each answer given its prompt.

    Logits are computed at the answer's positions only, and turned into log-probabilities in float32. The token that
    ends the answer counts as part of it, as in training, so an empty answer has a loss too.

    Parameters
    ----------
    model, tokenizer
        A causal language model, with or without (active) PEFT adapters, and its tokenizer.
    prompts : sequence of str or list of dict, length n, or None
        User texts, or the messages of conversations; put into the chat template. None gives the unconditioned loss: the
        user's turn is empty (ours).
    answers : sequence of str, length n
    batch_size : int, optional
        Records a forward pass. It changes results by rounding only (about 1e-6 in float32). Default: by device and
        length (`batch_size_for`). Where memory runs out, batches are halved, with a warning.
    max_length : int
        Tokens of prompt and answer together. A longer prompt loses its oldest turns, then tokens on its left; the
        answer is kept whole.
    progress : bool
        Show a progress bar.
    report : InferenceReport, optional
        Gets counts (prompts that were cut among them), times and memory.

    Returns
    -------
    ndarray of shape (n,), float64
        Nats per token, ≥ 0.

    Raises
    ------
    DataError
        If there are not as many prompts as answers, an answer does not fit into the model, or a loss is not finite.
    ParameterError
        If ``batch_size`` or ``max_length`` is not positive, or not even one record fits into memory.
    """
    import torch

    positive(batch_size=1 if batch_size is None else batch_size, max_length=max_length)
    answers = as_texts(answers, "answers")
    prompts = [""] * len(answers) if prompts is None else as_prompts(prompts)
    if len(prompts) != len(answers):
        raise DataError(f"there are {len(prompts)} prompts but {len(answers)} answers")
    if not answers:
        return np.zeros(0)
    base = unwrap(model)
    tails = [ids + [tokenizer.eos_token_id] for ids in text_ids(tokenizer, answers)]
    rooms = [room_beside(base, max_length, tail, f"row {row}") for row, tail in enumerate(tails)]
    heads = prompt_ids(tokenizer, prompts, rooms)
    report = InferenceReport() if report is None else report
    report.truncated += sum(head.cut for head in heads)
    rows = [(head.ids, tail) for head, tail in zip(heads, tails, strict=True)]
    measured: list[tuple[list[int], np.ndarray, torch.Tensor]] = []

    def score(batch: list[int]) -> None:
        ids = padded([rows[i][0] + rows[i][1] for i in batch], tokenizer.pad_token_id, left=False)
        # Padded on the right, a causal model needs no mask: no token sees what comes after it.
        hidden = decoder(base)(input_ids=ids.to(base.device), use_cache=False).last_hidden_state
        # The state at a token tells of the next: those for the answer begin at the prompt's last one.
        starts = [place * ids.shape[1] + len(rows[i][0]) - 1 for place, i in enumerate(batch)]
        n_answer = [len(rows[i][1]) for i in batch]
        places = np.concatenate([np.arange(start, start + n) for start, n in zip(starts, n_answer, strict=True)])
        states = hidden.flatten(0, 1).index_select(0, torch.from_numpy(places).to(hidden.device))
        target = torch.tensor([token for i in batch for token in rows[i][1]], device=states.device)
        parts = positions_at_once(base)
        losses_of = torch.nn.functional.cross_entropy
        pairs = zip(states.split(parts), target.split(parts), strict=True)  # few at once: a row of logits is large
        nll = torch.cat([losses_of(logits(base, some), wanted, reduction="none") for some, wanted in pairs])
        measured.append((batch, np.cumsum(n_answer), nll))  # stays on the device: a copy would wait for it

    report.records += len(rows)
    report.prompt_tokens += sum(len(head) for head, _ in rows)
    report.answer_tokens += sum(len(tail) for _, tail in rows)
    lengths = [len(head) + len(tail) for head, tail in rows]
    with report.timed(model), evaluating(model), fitting_threads(model), torch.inference_mode():
        in_batches(score, model, lengths, batch_size, title="answer loss", report=report, progress=progress)
        losses = np.zeros(len(rows))
        for batch, ends, nll in measured:
            losses[batch] = [part.mean() for part in np.split(nll.double().cpu().numpy(), ends[:-1])]
    if not np.isfinite(losses).all():
        row = int(np.flatnonzero(~np.isfinite(losses))[0])
        raise DataError(
            "the loss of an answer is not finite", where=f"row {row}", hint="Try dtype='float32' for the base model."
        )
    return losses
