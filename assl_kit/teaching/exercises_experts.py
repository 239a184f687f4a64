"""The checks of the exercises on experts: LoRA training, routing, evaluation, robustness (notebooks 06 to 09).

Each prints one line; see `assl_kit.teaching.exercises.check`. Its first argument is the learner's function.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from assl_kit.evaluation.routing import regret_table
from assl_kit.evaluation.stability import jaccard

from .exercises import Wrong, ask, check, number, numbers

IGNORED = -100
"""The label of a token that has no loss, in torch and transformers."""


# --- 06 LoRA training -----------------------------------------------------------------------------------------------


@check
def check_lora_parameters(function: Callable, shapes: Sequence[tuple[int, int]], rank: int) -> str:
    """``lora_parameters(shapes, rank)`` → numbers in all A and B, for matrices of ``shapes`` (out, in)."""
    one = [(64, 48)]
    answer = number(ask(function, one, 4))
    if answer != 448:
        known = {3072: "that is W itself, which stays as it is", 192: "that is A alone", 256: "that is B alone"}
        known |= {12288: "A and B are thin: neither has the size of W"}
        reason = known.get(int(answer), "A has r rows as long as W's, B has r columns as long as W's")
        raise Wrong(f"for one matrix of 64 × 48 and r = 4 you say {answer:g}: {reason}")
    answer, right = number(ask(function, shapes, rank)), sum(rank * (out + inner) for out, inner in shapes)
    if answer != right:
        raise Wrong(f"one matrix is right, but for {len(shapes)} of them you say {answer:g}: add them up")
    full = sum(out * inner for out, inner in shapes)
    return f"{right:,} numbers beside {full:,} frozen ones, {right / full:.1%}"


@check
def check_masked(function: Callable, prompt: Sequence[int], reply: Sequence[int], end: int) -> str:
    """``masked(prompt, reply, end)`` → (tokens, labels): labels are −100 on the prompt."""
    for head, tail in (([11, 12, 13], [21, 22]), ([11], [21, 22, 23]), (list(prompt), list(reply))):
        answer = ask(function, head, tail, end)
        if not isinstance(answer, (tuple, list)) or len(answer) != 2:
            raise Wrong("return two lists: the tokens and their labels")
        tokens, labels = (np.asarray(part).tolist() for part in answer)
        if tokens == head + tail:
            raise Wrong("the token that ends the answer is missing: the model would never learn to stop")
        if tokens != head + tail + [end]:
            raise Wrong(f"the tokens should be prompt, answer, end: {[*head, *tail, end][:8]}…, not {tokens[:8]}…")
        if len(labels) != len(tokens):
            raise Wrong(f"there are {len(tokens)} tokens but {len(labels)} labels: each token has one")
        counted = sum(label != IGNORED for label in labels[: len(head)])
        if counted:
            raise Wrong(f"{counted} of {len(head)} prompt tokens have a loss: the model would learn to ask")
        if labels[-1] == IGNORED:
            raise Wrong("the token that ends the answer has no loss: the model would never learn to stop")
        if IGNORED in labels[len(head) :]:
            raise Wrong("a token of the answer has no loss")
        if labels[len(head) :] != tail + [end]:
            raise Wrong("the labels of the answer are not its tokens: do not shift them, the model does that itself")
    return f"of {len(tokens)} tokens {len(reply) + 1} have a loss"


@check
def check_learning_rate(function: Callable, steps: int, warmup: int, peak: float) -> str:
    """``learning_rate(step, steps, warmup, peak)`` → linear warm-up from 0, then half a cosine down to 0."""
    rates = [number(ask(function, step, steps, warmup, peak)) for step in range(steps + 1)]
    if rates[0] != 0 and warmup:
        raise Wrong(f"step 0 should have rate 0, yours has {rates[0]:g}: the warm-up starts there")
    if not math.isclose(rates[warmup], peak, rel_tol=1e-6):
        raise Wrong(
            f"after the warm-up, at step {warmup}, the rate should be the peak {peak:g}, yours is {rates[warmup]:g}"
        )
    for step in range(warmup):
        if not math.isclose(rates[step], peak * step / warmup, abs_tol=1e-9):
            raise Wrong(
                f"in the warm-up, at step {step}, the rate should be {peak * step / warmup:g}, yours is {rates[step]:g}"
            )
    if abs(rates[-1]) > 1e-6 * peak:
        raise Wrong(f"at the last step, {steps}, the rate should be 0, yours is {rates[-1]:g}")
    straight = [peak * (steps - step) / (steps - warmup) for step in range(warmup, steps + 1)]
    if np.allclose(rates[warmup:], straight, atol=1e-9):
        raise Wrong("after the peak your rate falls in a straight line: a cosine stays high first, then falls faster")
    for step in range(warmup, steps + 1):
        right = peak * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup))) / 2
        if not math.isclose(rates[step], right, abs_tol=1e-6 * peak):
            raise Wrong(f"at step {step} the rate should be {right:g}, yours is {rates[step]:g}")
    return f"from 0 to {peak:g} in {warmup} steps, and down to 0 at step {steps}"


# --- 07 Routing -----------------------------------------------------------------------------------------------------


@check
def check_nearest_expert(function: Callable, E: np.ndarray, means: np.ndarray) -> str:
    """``nearest_expert(E, means)`` → for each unit row the expert whose mean has the greatest cosine."""
    toy = np.array([[0.8, 0.6], [1.0, 0.0]]), np.array([[1.0, 0.0], [0.3, 0.4]])
    for questions, centres in (toy, (E, means)):
        answer = _experts(ask(function, questions, centres), len(questions), 0, len(centres))
        raw = questions @ centres.T
        cosine = raw / np.linalg.norm(centres, axis=1)
        for row in np.flatnonzero(cosine[np.arange(len(answer)), answer] < cosine.max(axis=1) - 1e-5)[:1]:
            best, mine = cosine[row].argmax(), answer[row]
            what = f"question {row} goes to expert {mine} (cosine {cosine[row, mine]:.2f})"
            what += f", but expert {best} is nearer (cosine {cosine[row, best]:.2f})"
            if (answer == raw.argmax(axis=1)).all():
                what += "; the means have different lengths, and a long one attracts: scale them to length 1"
            raise Wrong(what)
    counts = np.bincount(answer, minlength=len(means)).tolist()
    return f"experts 0 to {len(means) - 1} get {counts} of {len(E)} questions"


@check
def check_margins(function: Callable, similarities: np.ndarray) -> str:
    """``margins(similarities)`` → the best similarity of each row less the second best."""
    toy = np.array([[0.9, 0.1, 0.7], [0.2, 0.8, -0.3], [0.5, 0.5, 0.0]])
    for table in (toy, similarities):
        ordered = np.sort(np.asarray(table, dtype=float), axis=1)
        answer, right = numbers(ask(function, table), (len(table),)), ordered[:, -1] - ordered[:, -2]
        if (answer < -1e-9).any():
            what = f"question {int(answer.argmin())} has a margin of {answer.min():.2f}"
            raise Wrong(f"{what}: a margin is never negative")
        if np.allclose(answer, ordered[:, -1] - ordered[:, 0], atol=1e-5) and not np.allclose(answer, right, atol=1e-5):
            raise Wrong("that is the lead over the last expert: the margin is the lead over the second")
        for row in np.flatnonzero(np.abs(answer - right) > 1e-5)[:1]:
            what = f"question {row}: the best two are {ordered[row, -1]:.2f} and {ordered[row, -2]:.2f}"
            raise Wrong(f"{what}, so the margin is {right[row]:.2f}, not {answer[row]:.2f}")
    return f"the closest call of {len(similarities)} has a margin of {right.min():.3f}, the clearest {right.max():.2f}"


@check
def check_with_abstention(function: Callable, similarities: np.ndarray, least: float) -> str:
    """``with_abstention(similarities, least)`` → the nearest expert, or −1 where the best is below ``least``."""
    toy = np.array([[0.9, 0.1], [0.2, 0.3], [0.5, 0.1]])
    for table, limit in ((toy, 0.5), (similarities, least)):
        answer = _experts(ask(function, table, limit), len(table), -1, table.shape[1])
        best, where = table.max(axis=1), "" if table is similarities else f" (a small table, least = {limit})"
        for row in np.flatnonzero((best < limit) & (answer >= 0))[:1]:
            what = f"question {row}: the best similarity {best[row]:.2f} is below {limit}, so the base answers: −1"
            raise Wrong(what + where)
        for row in np.flatnonzero((best >= limit) & (answer < 0))[:1]:
            what = f"question {row} is left to the base, though its best similarity {best[row]:.2f} reaches {limit}"
            raise Wrong(what + where)
        for row in np.flatnonzero((answer >= 0) & (table[np.arange(len(answer)), answer] < best))[:1]:
            raise Wrong(f"question {row} goes to expert {answer[row]}, but expert {table[row].argmax()} is nearer")
    return f"{(answer < 0).sum()} of {len(answer)} questions are left to the base"


def _experts(answer: Any, n: int, low: int, k: int) -> np.ndarray:
    experts = numbers(answer, (n,))
    if (experts != experts.round()).any() or experts.min() < low or experts.max() >= k:
        raise Wrong(f"experts are whole numbers from {low} to {k - 1}")
    return experts.astype(int)


# --- 08 Evaluation --------------------------------------------------------------------------------------------------


@check
def check_interval(function: Callable, a: np.ndarray, b: np.ndarray, draws: np.ndarray) -> str:
    """``interval(a, b, draws)`` → the 2.5 % and 97.5 % quantiles of the mean of a − b over the drawn questions."""
    low, high = numbers(ask(function, a, b, draws), (2,)).tolist()
    means = (a - b)[draws].mean(axis=1)
    right = np.quantile(means, [0.025, 0.975])
    if low > high:
        raise Wrong(f"the lower end {low:.3f} lies above the upper end {high:.3f}")
    if np.allclose((low, high), -right[::-1], atol=1e-6) and not np.allclose((low, high), right, atol=1e-6):
        raise Wrong("that is b − a: the question is how much better a is")
    if np.allclose((low, high), np.quantile(means, [0.05, 0.95]), atol=1e-6):
        raise Wrong("between those ends lie 90 % of the draws: leave out 2.5 % on each side, not 5 %")
    if high - low > 1.2 * (right[1] - right[0]):
        what = f"your interval is {high - low:.3f} wide, a paired one {right[1] - right[0]:.3f}"
        raise Wrong(f"{what}: draw the questions once for both arms, and take the means over questions")
    if not np.allclose((low, high), right, atol=0.002):
        raise Wrong(f"you say [{low:.3f}, {high:.3f}], the draws say another interval around {means.mean():.3f}")
    return f"a − b is {(a - b).mean():.3f}, with an interval from {right[0]:.3f} to {right[1]:.3f}"


@check
def check_verdict(function: Callable) -> str:
    """``verdict(low, high)`` → "better", "worse", or "not told apart" where the interval of a − b contains 0."""
    cases = {
        (0.01, 0.2): "better",
        (-0.2, -0.01): "worse",
        (-0.01, 0.3): "not told apart",
        (-0.3, 0.01): "not told apart",
    }
    for (low, high), right in cases.items():
        answer = ask(function, low, high)
        if not isinstance(answer, str) or answer not in cases.values():
            raise Wrong(f"you say {answer!r}: say 'better', 'worse' or 'not told apart'")
        if answer != right:
            contains = "contains" if right == "not told apart" else "does not contain"
            raise Wrong(f"for [{low}, {high}] you say {answer!r}: that interval {contains} 0, so a is {right!r}")
    return "if the interval contains 0, we cannot tell the two apart"


@check
def check_regret(function: Callable, routed: np.ndarray, every: np.ndarray, tasks: Sequence[str]) -> str:
    """``regret(routed, every, tasks)`` → dict: best single expert's mean on the task − the routed mean."""
    answer = ask(function, routed, every, tasks)
    if not isinstance(answer, Mapping):
        raise Wrong(f"return a dict from task to regret, not {type(answer).__name__}")
    table = regret_table(routed, every, tasks).set_index("task").drop("mean")
    if set(answer) != set(table.index):
        raise Wrong(f"the keys should be the tasks {sorted(table.index)}")
    mine = {task: number(answer[task], f"the regret of {task}") for task in table.index}
    for other, why in (
        (table["oracle"] - table["routed"], "that takes the best expert of each question: take one a task"),
        (_one_for_all(every, tasks, table), "that takes one expert for all tasks: take the best of each task"),
        (table["regret"].clip(lower=0), "a regret may be negative: then no single expert does as well"),
        (-table["regret"], "the sign is turned: best single expert less routed"),
    ):
        if _same(mine, other) and not _same(mine, table["regret"]):
            raise Wrong(why)
    for row in table.reset_index().to_dict("records"):
        task, right = row["task"], row["regret"]
        if abs(mine[task] - right) > 1e-6:
            what = f"{task}: expert {row['best_expert']:.0f} has {row['best']:.3f}"
            what += f", the routed answers {row['routed']:.3f}"
            raise Wrong(f"{what}, so the regret is {right:.3f}, not {mine[task]:.3f}")
    return "regrets " + ", ".join(f"{task} {value:+.3f}" for task, value in table["regret"].items())


def _one_for_all(every: np.ndarray, tasks: Sequence[str], table: pd.DataFrame) -> pd.Series:
    """The regrets if one expert had to answer all tasks: the one that is best over them."""
    of_task = np.asarray(tasks)
    means = np.array([every[of_task == task].mean(axis=0) for task in table.index])
    best = means.mean(axis=0).argmax()
    return means[:, best] - table["routed"]


def _same(mine: dict[str, float], other: pd.Series) -> bool:
    return all(abs(mine[str(task)] - value) < 1e-6 for task, value in other.items())


# --- 09 Robustness --------------------------------------------------------------------------------------------------


@check
def check_jaccard(function: Callable, a: Sequence[int], b: Sequence[int]) -> str:
    """``jaccard(a, b)`` → records in both over records in at least one; 1 where both are empty."""
    for one, other in (([1, 2, 3, 4], [3, 4, 5]), ([1, 1, 2], [2, 3]), ([1, 2], [3]), ([], []), (list(a), list(b))):
        answer, right = number(ask(function, one, other)), jaccard(one, other)
        if abs(answer - right) < 1e-9:
            continue
        first, second = set(one), set(other)
        what = f"for {one} and {other} you say {answer:.3g}" if len(one) < 9 else f"for the two choices {answer:.3g}"
        if not first and not second:
            raise Wrong(f"{what}: two empty choices are the same, so 1")
        shared, all_of_both = len(first & second), len(first | second)
        reasons = {
            2 * shared / (len(first) + len(second)): "twice what they share over both sizes is Dice's index",
            shared / max(len(first), len(second)): "divide by all that are in at least one, not by the larger choice",
            shared / (len(one) + len(other)): "a record that is in both is counted twice in your denominator",
        }
        reason = next((why for value, why in reasons.items() if abs(answer - value) < 1e-9), "")
        reason = reason or "a record counts once, however often it stands there"
        raise Wrong(f"{what}: {reason}; {shared} are in both and {all_of_both} in at least one")
    return f"the two choices share a Jaccard index of {jaccard(a, b):.2f}"


@check
def check_by_chance(function: Callable, share: float) -> str:
    """``by_chance(share)`` → about what two random selections of a share score: share / (2 − share)."""
    for part in (0.1, 0.5, 1.0, share):
        answer, right = number(ask(function, part)), part / (2 - part)
        if abs(answer - right) < 1e-9:
            continue
        reasons = {
            part: "that is the part of one choice that is in the other, not the Jaccard index",
            part**2: "that is the part of all records that is in both: divide by the part that is in at least one",
            part / 2: "both choices together are a little less than twice one of them: what is shared counts once",
        }
        reason = next((why for value, why in reasons.items() if abs(answer - value) < 1e-9), "count both and either")
        raise Wrong(f"for a share of {part:g} you say {answer:.3f}: {reason}")
    return f"two random choices of {share:.0%} score {share / (2 - share):.3f}"


@check
def check_warning(function: Callable, margins: np.ndarray, at_home: np.ndarray) -> str:
    """``warning(margins, at_home)`` → share of pairs (one at home, one not) where the former's margin is wider."""
    toy = np.array([0.1, 0.4, 0.3, 0.2]), np.array([False, True, True, True])
    tied = np.array([0.2, 0.2, 0.5, 0.1]), np.array([False, True, True, False])
    for values, home in (toy, tied, (margins, at_home)):
        answer = number(ask(function, values, home))
        lead = values[home][:, None] - values[~home][None]
        wider, equal = float((lead > 0).mean()), float((lead == 0).mean())
        right = wider + equal / 2
        if abs(answer - right) < 1e-9:
            continue
        if abs(answer - (1 - right)) < 1e-9:
            raise Wrong("that is the share in which the question that is *not* at home has the wider margin")
        if equal and abs(answer - wider) < 1e-9:
            raise Wrong("two margins that are equal count as half a pair: nobody leads")
        if abs(answer - right * lead.size / len(values) ** 2) < 1e-9:
            raise Wrong("divide by the pairs of one question at home and one that is not, not by all pairs")
        raise Wrong(f"you say {answer:.3f}; of {lead.size} pairs the share is {right:.3f}")
    luck = "about what luck gives" if abs(right - 0.5) < 0.05 else "luck would give 50 %"
    return f"the question at home has the wider margin in {right:.0%} of {lead.size} pairs; {luck}"
