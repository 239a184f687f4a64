"""Steps of the training of the tiny base: losses, the learning rate, and what is measured in between."""

from __future__ import annotations

import argparse
import math
from collections import defaultdict
from contextlib import nullcontext
from random import Random

import torch
import torch.nn.functional as F

from .batches import Batch, Encoder, batches
from .lessons import Lesson
from .tokenizer import SPECIAL

WEIGHTS = {"answer": 1.0, "prompt": 0.2, "copy": 0.2}
"""What the mean losses count: of answers, of questions as text, of random sequences said twice."""
COPIES = 24
"""One random sequence for so many lessons of a batch."""


def rate(done: float, warm: float = 0.03, last: float = 0.03) -> float:
    """Learning rate as a share of its peak: linear warm-up, then a cosine.

    Examples
    --------
    >>> rate(0.0), rate(0.03), round(rate(1.0), 2)
    (0.0, 1.0, 0.03)
    """
    if done < warm:
        return done / warm
    return last + (1 - last) * (1 + math.cos(math.pi * min(1.0, (done - warm) / (1 - warm)))) / 2


class Losses:
    """The losses of batches, and steps by them."""

    def __init__(self, model, args: argparse.Namespace) -> None:
        self.model, self.args, self.device = model, args, torch.device(args.device)
        self.generator = torch.Generator(self.device)
        self.sums: dict[str, list[torch.Tensor]] = {kind: [] for kind in WEIGHTS}
        if self.device.type == "cuda":
            torch.set_float32_matmul_precision("high")

    def begin(self, index: int) -> None:
        """Before a chunk: its draws depend on its number alone."""
        self.generator.manual_seed(1_000_003 * self.args.seed + index)

    def computing(self):
        """The precision of the device."""
        return torch.autocast("cuda", torch.bfloat16) if self.device.type == "cuda" else nullcontext()

    def tensors(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Tokens (n, width), and whether a position (n, width − 1) belongs to the question or to the answer."""
        tokens = torch.from_numpy(batch.tokens).to(self.device).long()
        starts, ends = (torch.from_numpy(a).to(self.device)[:, None] for a in (batch.starts, batch.ends))
        places = torch.arange(1, tokens.shape[1], device=self.device)
        return tokens, places < starts, (places >= starts) & (places < ends)

    def token_losses(self, tokens: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        """Loss of each wanted token, (k,) float32."""
        with self.computing():
            states = self.model.model(input_ids=tokens[:, :-1]).last_hidden_state[wanted]
            logits = F.linear(states, self.model.lm_head.weight)
        return F.cross_entropy(logits.float(), tokens[:, 1:][wanted], reduction="none")

    def step(self, batch: Batch, optimizers: list[torch.optim.Optimizer]) -> None:
        """One step on a batch and some random sequences said twice."""
        tokens, question, answer = self.tensors(batch)
        n, width = tokens.shape
        drawn = torch.rand(question.shape, generator=self.generator, device=self.device) < self.args.prompt_share
        vocabulary = self.model.config.vocab_size
        size = (max(1, n // COPIES), width // 2)
        once = torch.randint(len(SPECIAL), vocabulary, size, generator=self.generator, device=self.device)
        again = torch.zeros(len(once), width - 1, dtype=torch.bool, device=self.device)
        again[:, size[1] : 2 * size[1] - 1] = True
        twice = F.pad(torch.cat([once, once], 1), (0, width - 2 * size[1]))
        nothing = torch.zeros_like(again)
        kinds = {
            "answer": torch.cat([answer, nothing]),
            "prompt": torch.cat([question & drawn, nothing]),
            "copy": torch.cat([torch.zeros_like(answer), again]),
        }
        wanted = kinds["answer"] | kinds["prompt"] | kinds["copy"]
        each = self.token_losses(torch.cat([tokens, twice]), wanted)
        total = torch.zeros((), device=self.device)
        for kind, weight in WEIGHTS.items():
            chosen = kinds[kind][wanted].float()
            loss = (each * chosen).sum() / chosen.sum().clamp(min=1)
            self.sums[kind].append(loss.detach())
            total = total + weight * loss
        total.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()

    def heard(self) -> dict[str, float]:
        """Mean losses since it was asked last."""
        means = {kind: round(torch.stack(values).mean().item(), 4) for kind, values in self.sums.items() if values}
        for values in self.sums.values():
            values.clear()
        return means

    @torch.no_grad()
    def held_out(self, held: list[Batch]) -> float:
        """Mean loss of the answers' tokens of batches."""
        total, count = 0.0, 0
        for batch in held:
            tokens, _, answer = self.tensors(batch)
            each = self.token_losses(tokens, answer)
            total, count = total + each.sum().item(), count + len(each)
        return round(total / max(count, 1), 5)


@torch.no_grad()
def exact_shares(model, encoder: Encoder, lessons: list[Lesson], args: argparse.Namespace) -> dict[str, float]:
    """Share of answers whose every token is the likeliest after those before it, by kind of lesson, and of all."""
    losses, shares = Losses(model, args), defaultdict(list)
    by_kind: dict[str, list[Lesson]] = defaultdict(list)
    for lesson in lessons:
        by_kind[lesson[0]].append(lesson)
    for kind, rows in by_kind.items():
        for batch in batches(encoder(rows), 16384, Random(0)):
            tokens, _, answer = losses.tensors(batch)
            with losses.computing():
                states = model.model(input_ids=tokens[:, :-1]).last_hidden_state
                guess = F.linear(states, model.lm_head.weight).argmax(-1)
            right = ((guess == tokens[:, 1:]) | ~answer).all(1)
            shares[kind] += right.tolist()
    every = [right for rows in shares.values() for right in rows]
    return {kind: round(sum(rows) / len(rows), 3) for kind, rows in sorted({**shares, "all": every}.items()) if rows}
