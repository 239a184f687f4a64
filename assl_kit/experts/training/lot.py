"""What trainings at the same time go through: the order of all their records, the passes of a step, their padding."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from .config import TrainingConfig
from .data import Encoded, Plan, plan_training

WIDTHS = 16
"""Rows are padded to a multiple of this many tokens, so that a device sees few shapes."""


class Lot:
    """The trainings of a call: the order of each one's records as numbers of one table of tokens; longest first."""

    def __init__(self, encoded: list[Encoded], configs: list[TrainingConfig], todo: list[int], pad: int):
        plans = {i: plan_training(encoded[i], configs[i]) for i in todo}
        self.arms = sorted(todo, key=lambda i: -plans[i].steps)
        self.plans = [plans[i] for i in self.arms]
        self.configs = [configs[i] for i in self.arms]
        self.steps, self.per_step = self.plans[0].steps, self.plans[0].per_step
        self.n_steps = np.array([plan.steps for plan in self.plans])
        rows = [ids for i in self.arms for ids in encoded[i].input_ids]
        self.lengths = np.array([*map(len, rows), 0])  # the last row stands for no record
        self.tokens = np.full((len(rows) + 1, self.lengths.max()), pad, dtype=np.int32)
        self.wanted = np.zeros(self.tokens.shape, dtype=bool)  # tokens with a loss
        labels = [labels for i in self.arms for labels in encoded[i].labels]
        for place, (ids, targets) in enumerate(zip(rows, labels, strict=True)):
            self.tokens[place, : len(ids)] = ids
            self.wanted[place, : len(ids)] = np.array(targets) != -100
        first = np.cumsum([0, *(len(encoded[i].input_ids) for i in self.arms)])
        self.order = np.full((len(self.arms), self.steps * self.per_step), len(rows))
        for place, plan in enumerate(self.plans):
            ordered = np.concatenate(plan.rows)
            self.order[place, : len(ordered)] = ordered + first[place]
        self.answers = self.wanted.sum(axis=1)

    def active(self, step: int) -> int:
        """How many adapters have this step; they are the first ones."""
        return int((self.n_steps > step).sum())

    def records(self, step: int) -> np.ndarray:
        """The records of a step, of shape (active, per_step)."""
        return self.order[: self.active(step), step * self.per_step : (step + 1) * self.per_step]

    def rates(self) -> np.ndarray:
        """Learning rates of shape (steps, M): a warm-up, then a cosine to 0."""
        rates = np.zeros((self.steps, len(self.arms)))
        for place, (plan, config) in enumerate(zip(self.plans, self.configs, strict=True)):
            warm, step = round(config.warmup_ratio * plan.steps), np.arange(plan.steps)
            past = (step - warm) / max(1, plan.steps - warm)
            shape = np.where(step < warm, step / max(1, warm), 0.5 * (1 + np.cos(math.pi * past)))
            rates[: plan.steps, place] = config.learning_rate * np.maximum(shape, 0)
        return rates

    def summary(self, place: int, losses: np.ndarray, seconds: float) -> dict[str, Any]:
        """What a `TrainingResult` says of one training."""
        plan, config = self.plans[place], self.configs[place]
        rates, every = self.rates()[:, place], max(1, plan.steps // 200)
        log = []
        for end in range(every, plan.steps + 1, every):
            mean = float(losses[end - every : end].astype(float).mean())
            log.append([end, end / plan.steps * config.epochs, mean, float(rates[end - 1])])
        tokens = plan.tokens_of(0, plan.steps)
        return {
            "tokens": tokens,
            "tokens_per_second": tokens / seconds,
            "log": log,
            "held_out": [],
            "stopped_epoch": None,
        }


def width_of(longest: int) -> int:
    return -(-int(longest) // WIDTHS) * WIDTHS


def passes(lengths: np.ndarray, tokens_at_once: int) -> list[np.ndarray]:
    """Cut (m, b) lengths into passes over some columns each, so that m · columns · width is at most so many tokens."""
    pieces = 1
    while pieces < lengths.shape[1]:
        parts = np.array_split(lengths, pieces, axis=1)
        if max(part.size * width_of(part.max()) for part in parts) <= tokens_at_once:
            break
        pieces += 1
    return np.array_split(lengths, pieces, axis=1)


def padding(plans: Sequence[Plan], lengths: Sequence[np.ndarray], tokens_at_once: int) -> tuple[int, int]:
    """Tokens that trainings together compute, padding counted, and the records' own among them: what a card will do.

    Parameters
    ----------
    plans : sequence of Plan
        As :func:`assl_kit.experts.training.data.plan_training` gives them, of one ``per_step``.
    lengths : sequence of ndarray
        Tokens of each record of each.
    tokens_at_once : int
    """
    order = sorted(range(len(plans)), key=lambda i: -plans[i].steps)
    rows = [np.array([lengths[i][row[0]] for row in plans[i].rows]) for i in order]
    per_step, whole = plans[0].per_step, 0
    for step in range(plans[order[0]].steps):
        here = [
            r[step * per_step : (step + 1) * per_step]
            for r, i in zip(rows, order, strict=True)
            if plans[i].steps > step
        ]
        block = np.zeros((len(here), per_step), dtype=int)
        for place, record_lengths in enumerate(here):
            block[place, : len(record_lengths)] = record_lengths
        whole += sum(part.size * width_of(part.max()) for part in passes(block, tokens_at_once))
    return whole, int(sum(record_lengths.sum() for record_lengths in rows))
