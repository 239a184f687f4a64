"""Answers as they are written: text in pieces, for one question or for a batch."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Sequence
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from assl_kit.common.checks import positive
from assl_kit.data.conversations import Prompt, as_prompts

from .batches import fitting_threads
from .generation import greedy_settings, loaded_adapters
from .identity import unwrap
from .tokens import evaluating, padded, room_for, without_left_hooks
from .turns import prompt_ids

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def stream_answers(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    *,
    max_new_tokens: int = 64,
    batch_size: int = 32,
    max_length: int = 512,
    adapter_names: Sequence[str] | None = None,
) -> Generator[tuple[int, str]]:
    """Greedy answers in pieces, as soon as each piece is certain.

    Parameters
    ----------
    model, tokenizer, prompts, max_new_tokens, batch_size, max_length, adapter_names
        See `assl_kit.model.generation.generate_answers`. Batches are taken in the order of the prompts, and not made
        smaller where memory runs out.

    Returns
    -------
    iterator of (int, str)
        Row and piece, a batch's rows in turn. The pieces of a row, put together, are the text that
        `generate_answers` gives. No piece is empty or ends within a character; white space waits for what follows.

    Raises
    ------
    DataError
        If there are not as many adapter names as prompts.
    ParameterError
        If an adapter is not loaded, or a number is not positive. Both are raised at the call.

    Notes
    -----
    The model works in a thread of its own, which ends after its current token when the iterator is closed, dropped or
    interrupted; an exception there is raised here. Until then nothing else may use the model.

    Examples
    --------
    >>> from assl_kit.model.loading import load_base
    >>> model, tokenizer = load_base("tiny", device="cpu")
    >>> pieces = list(stream_answers(model, tokenizer, ["什么是市盈率？"], max_new_tokens=4))
    >>> {row for row, _ in pieces}
    {0}
    """
    positive(batch_size=batch_size, max_length=max_length, max_new_tokens=max_new_tokens)
    prompts = as_prompts(prompts)
    if adapter_names is not None:
        adapter_names = loaded_adapters(model, adapter_names, len(prompts))
    base = unwrap(model)
    room = room_for(base, max_length, max_new_tokens)
    rows = [head.ids for head in prompt_ids(tokenizer, prompts, room)]

    def work(put: Callable[[tuple[int, str]], None], stop: threading.Event) -> None:
        import torch

        config = greedy_settings(base, tokenizer, max_new_tokens)
        with evaluating(model), without_left_hooks(model), fitting_threads(model), torch.inference_mode():
            for start in range(0, len(rows), batch_size):
                batch = range(start, min(start + batch_size, len(rows)))
                chosen = [rows[i] for i in batch]
                ids = padded(chosen, tokenizer.pad_token_id, left=True).to(base.device)
                mask = padded([[1] * len(row) for row in chosen], 0, left=True).to(base.device)
                extra = {} if adapter_names is None else {"adapter_names": [adapter_names[i] for i in batch]}
                model.generate(
                    input_ids=ids,
                    attention_mask=mask,
                    generation_config=config,
                    streamer=RowStreamer(tokenizer, batch, config.eos_token_id, put),
                    stopping_criteria=[lambda now, *_: torch.full((len(now),), stop.is_set(), device=now.device)],
                    **extra,
                )
                if stop.is_set():
                    return

    return _from_thread(work)


class RowStreamer:
    """What `generate` hands each step's tokens to; those of transformers take one row only.

    Parameters
    ----------
    tokenizer
    rows : sequence of int, length b
        What to call the rows of the batch.
    ends : sequence of int
        Tokens that end an answer.
    put : callable
        Called with (row, piece).
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        rows: Sequence[int],
        ends: Sequence[int],
        put: Callable[[tuple[int, str]], None],
    ) -> None:
        self.tokenizer, self.rows, self.ends, self.emit = tokenizer, list(rows), set(ends), put
        self.ids: list[list[int]] = [[] for _ in self.rows]
        self.sent = [0] * len(self.rows)
        self.done = [False] * len(self.rows)

    def put(self, tokens: torch.Tensor) -> None:
        """Take the prompt, of shape (b, width), which is passed over; then tokens of shape (b,), step by step."""
        if tokens.dim() != 1:
            return
        for place, token in enumerate(tokens.tolist()):
            if not self.done[place]:
                self.ids[place].append(token)
                self.done[place] = token in self.ends
                self._send(place, final=self.done[place])

    def end(self) -> None:
        """Send what was held back."""
        for place in range(len(self.rows)):
            if not self.done[place]:
                self._send(place, final=True)

    def _send(self, place: int, final: bool) -> None:
        text = self.tokenizer.decode(self.ids[place], skip_special_tokens=True)
        if not final:
            text = text.rstrip("\ufffd")  # bytes of a character that is not complete
        text = text.strip()
        if piece := text[self.sent[place] :]:
            self.emit((self.rows[place], piece))
            self.sent[place] = len(text)


def _from_thread(work: Callable[[Callable[[Any], None], threading.Event], None]) -> Generator[Any]:
    """What ``work(put, stop)`` puts, while it runs in a thread."""
    queue: SimpleQueue[tuple[Any, BaseException | None]] = SimpleQueue()
    stop, end = threading.Event(), object()

    def run() -> None:
        try:
            work(lambda item: queue.put((item, None)), stop)
            queue.put((end, None))
        except BaseException as error:  # noqa: BLE001 - raised where the items are read
            queue.put((end, error))

    def items() -> Generator[Any]:
        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        try:
            while True:
                item, error = queue.get()
                if error is not None:
                    raise error
                if item is end:
                    return
                yield item
        finally:
            stop.set()
            thread.join()

    return items()
