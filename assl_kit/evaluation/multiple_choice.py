"""Multiple choice by the likelihood of its options, as exams such as FinEval are scored without generating."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from assl_kit.common.checks import as_texts, positive
from assl_kit.data.conversations import Prompt, as_prompts
from assl_kit.errors import ParameterError
from assl_kit.model.batches import InferenceReport, fitting_threads, in_batches
from assl_kit.model.identity import unwrap
from assl_kit.model.likelihood import answer_nll
from assl_kit.model.tokens import decoder, evaluating, logits, padded, room_for
from assl_kit.model.turns import prompt_ids, text_ids

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def likeliest_options(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    options: Sequence[str] = ("A", "B", "C", "D"),
    *,
    batch_size: int = 16,
    max_length: int = 512,
) -> tuple[list[str], np.ndarray]:
    """The option that the model finds likeliest as the answer to each prompt.

    Parameters
    ----------
    model, tokenizer
        A causal language model, with or without (active) PEFT adapters, and its tokenizer.
    prompts : sequence of str or list of dict, length n
        User texts, or the messages of conversations, put into the chat template; they name the options.
    options : sequence of str, length m
        What can be answered, all different.
    batch_size : int
    max_length : int
        Tokens of a prompt; a longer one loses its oldest turns, then tokens on its left, but not a leading bos.

    Returns
    -------
    chosen : list of str, length n
        The first of equally likely ones.
    log_probabilities : ndarray of shape (n, m), float64
        Of each option, in nats. Where every option is one token of its own: the token's log-probability, from one pass
        over the prompt. Else: minus the mean loss of the option and its end.

    Raises
    ------
    ParameterError
        If there are fewer than two options, or two are equal, or a number is not positive.

    Notes
    -----
    The usual scoring of multiple choice (MMLU, C-Eval, FinEval): no answer can be of the wrong form, so an untrained
    base can be compared with a trained one.
    """
    positive(batch_size=batch_size, max_length=max_length)
    options, prompts = as_texts(options, "options"), as_prompts(prompts)
    if len(options) < 2 or len(set(options)) < len(options):
        raise ParameterError(f"give two or more different options, not {options}")
    if not prompts:
        return [], np.zeros((0, len(options)))
    tokens = text_ids(tokenizer, options)
    one_each = all(len(ids) == 1 for ids in tokens) and len({ids[0] for ids in tokens}) == len(options)
    if one_each:
        first = [ids[0] for ids in tokens]
        log_probabilities = _of_next_token(model, tokenizer, prompts, first, batch_size, max_length)
    else:
        asked = [prompt for prompt in prompts for _ in options]
        answers = options * len(prompts)
        losses = answer_nll(model, tokenizer, asked, answers, batch_size=batch_size, max_length=max_length)
        log_probabilities = -losses.reshape(len(prompts), len(options))
    return [options[k] for k in log_probabilities.argmax(axis=1)], log_probabilities


def _of_next_token(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[Prompt],
    tokens: list[int],
    batch_size: int,
    max_length: int,
) -> np.ndarray:
    """Log-probability of each token as the first of the answer to each prompt: shape (n, m), float64."""
    import torch

    base, room = unwrap(model), room_for(model, max_length)
    heads = [head.ids for head in prompt_ids(tokenizer, prompts, room)]
    log_probabilities = np.zeros((len(prompts), len(tokens)))

    def score(batch: list[int]) -> None:
        ids = padded([heads[i] for i in batch], tokenizer.pad_token_id, left=False)
        hidden = decoder(base)(input_ids=ids.to(base.device), use_cache=False).last_hidden_state
        last = torch.stack([hidden[place, len(heads[i]) - 1] for place, i in enumerate(batch)])
        chosen = logits(base, last).log_softmax(-1)[:, torch.tensor(tokens, device=last.device)]
        log_probabilities[batch] = chosen.double().cpu().numpy()

    lengths, report = [len(head) for head in heads], InferenceReport()
    with evaluating(model), fitting_threads(model), torch.inference_mode():
        in_batches(score, model, lengths, batch_size, title="options", report=report)
    return log_probabilities
