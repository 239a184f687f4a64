"""A character tagger: which characters of the input are the answer, by an averaged structured perceptron."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from assl_kit.common.jit import jit

from .char_features import LONGEST, N_SEEN, codes_of, seen_around

_QUESTION = re.compile(r"^(?:问题|提问|问)[：:]|[？?]\s*$")
_ASKING = re.compile(r"(?:是什么|有哪些|是哪些|是多少|为多少|有多少|多少|是谁|什么|哪些|谁)?[？?。：: ]*$")
_NAMED = re.compile(r"^([^：:]{1,6})[：:]")
_TABLE = 1 << 17


class TaggedTexts:
    """Texts as the tagger sees them.

    Parameters
    ----------
    inputs, questions : sequence of str
        Of one length. ``questions``: what is asked of each input where it says nothing itself, e.g. its instruction.

    Examples
    --------
    >>> texts = TaggedTexts(["问题：谁减持？\\n材料：甲公司减持。"], [""])
    >>> len(texts), int(texts.starts[1])
    (1, 17)
    """

    def __init__(self, inputs: Sequence[str], questions: Sequence[str]) -> None:
        self.texts = [text[:LONGEST] for text in inputs]
        self.codes, self.starts = codes_of(self.texts)
        self.keys = np.zeros(len(self.codes), np.int32)
        self.marks = np.zeros(len(self.codes), np.int8)
        self.tails = np.zeros((len(self.texts), 2), np.int64)
        for row, (text, question) in enumerate(zip(self.texts, questions, strict=True)):
            self._describe(row, text, question)

    def __len__(self) -> int:
        return len(self.texts)

    def _describe(self, row: int, text: str, question: str) -> None:
        """Fill in what is seen of one text: names of lines, marks, and the end of its question."""
        lines, place = text.split("\n"), self.starts[row]
        for line in lines:
            named = _NAMED.match(line)
            self.keys[place : place + len(line)] = _number(named[1]) if named else 0
            if len(lines) > 1 and _QUESTION.search(line):
                question = line
            place += len(line) + 1
        asked = _ASKING.sub("", question.strip())
        self.tails[row] = _number(asked[-2:]), _number(asked[-4:])
        pairs = [text[i : i + 2] for i in range(len(text) - 1)]
        often: dict[str, int] = {}
        for pair in pairs:
            often[pair] = often.get(pair, 0) + 1
        known = {asked[i : i + 2] for i in range(len(asked) - 1)}
        marks = [(pair in known) + 2 * (often[pair] > 1) for pair in pairs]
        self.marks[self.starts[row] : self.starts[row] + len(marks)] = marks


def _number(text: str) -> int:
    """A text as a number below 2³¹."""
    value = 0
    for letter in text:
        value = (value * 1000003 + ord(letter)) % 2147483629
    return value


def train_tagger(
    texts: TaggedTexts, tags: np.ndarray, rows: np.ndarray, n_kinds: int, *, epochs: int = 6, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Weights of an averaged structured perceptron, learnt from the given rows.

    Parameters
    ----------
    texts : TaggedTexts
    tags : ndarray of shape (characters,), int8
        0 outside, 1 + 2k first character of an answer of kind k, 2 + 2k a further one.
    rows : ndarray of int64
        Texts to learn from; a text given twice is learnt twice.
    n_kinds : int
    epochs : int
        Passes over the rows.
    seed : int
        Fixes their order.

    Returns
    -------
    weights : ndarray of shape (131072, 1 + 2 n_kinds), float64
    moves : ndarray of shape (2 + 2 n_kinds, 1 + 2 n_kinds), float64
        Of one tag after another; the last row is for the first character.

    References
    ----------
    Collins 2002, "Discriminative training methods for hidden Markov models".

    Examples
    --------
    >>> texts = TaggedTexts(["甲减持", "乙增持"], ["", ""])
    >>> model = train_tagger(texts, np.array([1, 0, 0, 1, 0, 0], np.int8), np.array([0, 1]), 1)
    >>> tag(texts, *model).tolist()
    [1, 0, 0, 1, 0, 0]
    """
    rng = np.random.default_rng([seed, len(rows)])
    order = np.concatenate([rng.permutation(rows) for _ in range(epochs)])
    parts = texts.codes, texts.starts, texts.keys, texts.marks, texts.tails
    return _learn(*parts, tags, order, 1 + 2 * n_kinds)


def tag(texts: TaggedTexts, weights: np.ndarray, moves: np.ndarray) -> np.ndarray:
    """The likeliest tags of all characters: ndarray of shape (characters,), int8."""
    return _apply(texts.codes, texts.starts, texts.keys, texts.marks, texts.tails, weights, moves)


@jit
def _best(seen: np.ndarray, weights: np.ndarray, moves: np.ndarray, tags: np.ndarray) -> None:
    """Viterbi: fill ``tags`` with the best path that tags something. A further character follows only its own kind.

    State t + width · s: tag t, and s = 1 once something was tagged.
    """
    n, width = len(seen), weights.shape[1]
    back, score = np.zeros((n, 2 * width), np.int16), np.full(2 * width, -np.inf)
    old = np.full(2 * width, -np.inf)
    for i in range(n):
        for t in range(width):
            here = 0.0
            for k in range(N_SEEN):
                here += weights[seen[i, k], t]
            inner = t > 0 and t % 2 == 0
            for s in range(2):
                best, at = -np.inf, 0
                if i == 0:
                    if (t == 0 and s == 0) or (t > 0 and s == 1 and not inner):
                        best = moves[width, t]
                elif inner:
                    if s == 1:
                        for p in (t - 1, t):
                            value = old[p + width] + moves[p, t]
                            if value > best:
                                best, at = value, p + width
                elif t == 0 or s == 1:
                    for p in range(2 * width):
                        if p < width and s == 1 and t == 0:
                            continue  # nothing tagged yet, and nothing now
                        if p >= width and s == 0:
                            continue
                        value = old[p] + moves[p % width, t]
                        if value > best:
                            best, at = value, p
                score[t + width * s], back[i, t + width * s] = best + here, at
        old[:] = score
    at = width + int(np.argmax(old[width:]))
    for i in range(n - 1, -1, -1):
        tags[i] = at % width
        at = back[i, at]


@jit
def _learn(
    codes: np.ndarray,
    starts: np.ndarray,
    keys: np.ndarray,
    marks: np.ndarray,
    tails: np.ndarray,
    tags: np.ndarray,
    order: np.ndarray,
    width: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Collins' perceptron; the average is kept by the usual second table of steps times changes."""
    weights, later = np.zeros((_TABLE, width)), np.zeros((_TABLE, width))
    moves, moves_later = np.zeros((width + 1, width)), np.zeros((width + 1, width))
    longest = 1
    for row in order:
        longest = max(longest, starts[row + 1] - starts[row])
    buffer, guess = np.zeros((longest, N_SEEN), np.int32), np.zeros(longest, np.int8)
    step = 1.0
    for row in order:
        a, b = starts[row], starts[row + 1]
        if a == b:
            continue
        seen, guessed, right = buffer[: b - a], guess[: b - a], tags[a:b]
        seen[0, 0] = _TABLE - 1
        seen_around(codes[a:b], keys[a:b], marks[a:b], tails[row, 0], tails[row, 1], seen)
        _best(seen, weights, moves, guessed)
        for i in range(b - a):
            r, s = right[i], guessed[i]
            before, before_guessed = (right[i - 1], guessed[i - 1]) if i else (width, width)
            if r != s:
                for k in range(N_SEEN):
                    f = seen[i, k]
                    weights[f, r] += 1
                    weights[f, s] -= 1
                    later[f, r] += step
                    later[f, s] -= step
            if r != s or before != before_guessed:
                moves[before, r] += 1
                moves[before_guessed, s] -= 1
                moves_later[before, r] += step
                moves_later[before_guessed, s] -= step
        step += 1
    return weights - later / step, moves - moves_later / step


@jit
def _apply(
    codes: np.ndarray,
    starts: np.ndarray,
    keys: np.ndarray,
    marks: np.ndarray,
    tails: np.ndarray,
    weights: np.ndarray,
    moves: np.ndarray,
) -> np.ndarray:
    """The best tags of all texts."""
    tags, longest = np.zeros(len(codes), np.int8), 1
    for row in range(len(starts) - 1):
        longest = max(longest, starts[row + 1] - starts[row])
    buffer = np.zeros((longest, N_SEEN), np.int32)
    for row in range(len(starts) - 1):
        a, b = starts[row], starts[row + 1]
        if a == b:
            continue
        seen = buffer[: b - a]
        seen[0, 0] = _TABLE - 1
        seen_around(codes[a:b], keys[a:b], marks[a:b], tails[row, 0], tails[row, 1], seen)
        _best(seen, weights, moves, tags[a:b])
    return tags
