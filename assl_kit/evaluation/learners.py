"""Cheap learners that stand in for a language model: each learns a task from chosen rows alone."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pandas as pd
from scipy import sparse

from .char_features import LONGEST, shown_texts, text_rows
from .metrics import normalise_answer
from .tagger import TaggedTexts, tag, train_tagger

KINDS = ("labels", "copied", "nearest")
_MOST_LABELS = 100
_LEAST_COVERED = 0.95  # share of the records that these labels answer
_LEAST_COPIED = 0.7  # share of the answers that can be taken apart
_MOST_TEMPLATES = 16
_SPLIT = re.compile(r"([；;，,、|\n])")
_SLOT = "\0"
_RIDGE = 0.2
_MOST_STEPS = 60  # of conjugate gradients
_ABOVE = 0.35  # outputs beyond this are given, where answers combine labels


class Learner(Protocol):
    """What answers the questions of one task, learnt from some rows of its training pool."""

    def answers(self, rows: np.ndarray, copies: np.ndarray, seed: int = 0) -> list[str]:
        """Answers to all questions, learnt from ``rows``, each given ``copies`` times."""
        ...


def pieces_of(answer: str) -> list[str]:
    """The pieces of an answer, split on ；;，,、| and line breaks.

    Examples
    --------
    >>> pieces_of("是，甲公司；乙公司")
    ['是', '甲公司', '乙公司']
    """
    return [part.strip() for part in _SPLIT.split(answer)[::2] if part.strip()]


def _template(piece: str, text: str) -> tuple[str, str] | None:
    """The longest part of a piece that stands in the text, at its beginning, and the rest: ("□（公司）", "甲公司")."""
    if piece in text:
        return _SLOT, piece
    for cut in (piece.rfind("（"), piece.rfind("("), piece.rfind("：")):
        if cut > 0 and piece[:cut] in text:
            return _SLOT + piece[cut:], piece[:cut]
    return None


@dataclass(frozen=True)
class AnswerForm:
    """How the answers of a task are made; from `answer_form`.

    Attributes
    ----------
    kind : {"labels", "copied", "nearest"}
        Few different answers; parts of the input; anything else.
    constants : tuple of str
        Parts of copied answers that do not come from the input, such as "是" or "无".
    templates : tuple of str
        What stands around a part of the input: "□" or "□（公司）", □ written as a zero character.
    joint : str
        What joins the parts.
    """

    kind: str
    constants: tuple[str, ...] = ()
    templates: tuple[str, ...] = ()
    joint: str = ""

    def split(self, answer: str, text: str) -> tuple[tuple[str, ...], list[tuple[int, str]]] | None:
        """Constants of an answer, and (template, part of the text) of its other pieces; None where that fails."""
        whole = answer.strip()
        if whole in self.constants:
            return (whole,), []
        if whole in text and _SLOT in self.templates:
            return (), [(self.templates.index(_SLOT), whole)]
        constants: list[str] = []
        parts: list[tuple[int, str]] = []
        for piece in pieces_of(answer):
            if piece in self.constants:
                constants.append(piece)
            elif (copied := _template(piece, text)) and copied[0] in self.templates:
                template, part = copied
                parts.append((self.templates.index(template), part))
            else:
                return None
        return tuple(constants), parts

    def join(self, constants: Sequence[str], parts: Sequence[tuple[int, str]]) -> str:
        """The answer of constants and parts, which `split` takes apart."""
        pieces = [*constants, *(self.templates[k].replace(_SLOT, part) for k, part in parts)]
        return self.joint.join(dict.fromkeys(pieces))


def answer_form(answers: Sequence[str], inputs: Sequence[str]) -> AnswerForm:
    """Decide from all training records of a task how its answers are made.

    At most 100 different answers that cover 95 % of the records, each twice on average, are labels. Else, if 70 % of
    the answers consist of parts of the input and of frequent constants, they are copied; the rest is free text (ours).

    Parameters
    ----------
    answers, inputs : sequence of str
        Of one length, at least 1.

    Examples
    --------
    >>> answer_form(["涨", "跌", "涨", "跌"], [""] * 4).kind
    'labels'
    >>> names = [f"{a}{b}公司" for a in "甲乙丙丁戊己庚辛壬癸" for b in "子丑寅卯辰巳午未申酉戌亥"]
    >>> answers, inputs = [f"是，{name}" for name in names], [name + "违规" for name in names]
    >>> form = answer_form([*answers, *["否"] * 20], [*inputs, *[""] * 20])
    >>> form.kind, form.constants, form.split("是，甲子公司", "甲子公司违规")
    ('copied', ('否', '是'), (('是',), [(0, '甲子公司')]))
    """
    distinct = Counter(normalise_answer(answer) for answer in answers)
    covered = sum(count for _, count in distinct.most_common(_MOST_LABELS)) / len(answers)
    if covered >= _LEAST_COVERED and (len(distinct) <= 2 or 2 * len(distinct) <= len(answers)):
        return AnswerForm("labels")
    texts = [text[:LONGEST] for text in inputs]
    outside: Counter[str] = Counter()
    around: Counter[str] = Counter()
    for answer, text in zip(answers, texts, strict=True):
        for piece in dict.fromkeys(pieces_of(answer) if answer.strip() not in text else [answer.strip()]):
            copied = _template(piece, text)
            if copied:
                around[copied[0]] += 1
            else:
                outside[piece] += 1
    least = max(2, 0.01 * len(answers))
    constants = tuple(sorted(piece for piece, count in outside.items() if count >= least))
    often = sorted((t for t in around if around[t] >= least), key=lambda t: (-around[t], t))
    joints = Counter(mark for answer in answers for mark in _SPLIT.findall(answer))
    joint = min(joints, key=lambda mark: (-joints[mark], mark)) if joints else "；"
    form = AnswerForm("copied", constants, tuple(often[:_MOST_TEMPLATES]), joint)
    split = [form.split(answer, text) for answer, text in zip(answers, texts, strict=True)]
    copied_at_all = any(pieces and pieces[1] for pieces in split)
    if copied_at_all and np.mean([pieces is not None for pieces in split]) >= _LEAST_COPIED:
        return form
    return AnswerForm("nearest")


def solve_ridge(X: sparse.csr_matrix, Y: np.ndarray, copies: np.ndarray, ridge: float = _RIDGE) -> np.ndarray:
    """Dual weights A of a ridge regression: ``(X Xᵀ + ridge · diag(1/copies)) A = Y``.

    By conjugate gradients, with one thread, so that the numbers are the same everywhere.

    Parameters
    ----------
    X : csr_matrix of shape (n, d)
    Y : ndarray of shape (n, m), float64
    copies : ndarray of shape (n,)
        How often each row is given, ≥ 1.
    ridge : float

    Returns
    -------
    ndarray of shape (n, m), float64
        To a relative residual of 1e-4.

    Examples
    --------
    >>> X = sparse.csr_matrix(np.eye(3, dtype=np.float32))
    >>> solve_ridge(X, np.eye(3), np.ones(3), ridge=1.0).round(3).diagonal().tolist()
    [0.5, 0.5, 0.5]
    """
    used = np.unique(X.indices)
    X = sparse.csr_matrix((X.data, np.searchsorted(used, X.indices), X.indptr), (X.shape[0], max(1, len(used))))
    Xt, damp = X.T.tocsr(), (ridge / copies)[:, None]
    A, R = np.zeros_like(Y), Y.copy()
    P, old = R.copy(), (Y * Y).sum(axis=0)
    goal = 1e-8 * old
    for _ in range(_MOST_STEPS):
        Q = X @ (Xt @ P) + damp * P
        alpha = old / np.maximum((P * Q).sum(axis=0), 1e-300)
        A += alpha * P
        R -= alpha * Q
        new = (R * R).sum(axis=0)
        if (new <= goal).all():
            break
        P = R + (new / np.maximum(old, 1e-300)) * P
        old = new
    return A


class LabelLearner:
    """Ridge regression on TF-IDF of character n-grams, one output a label.

    The label with the largest output is the answer. Where answers combine labels (fewer than half as many pieces as
    answers), each piece is an output, and the answer is the pieces above 0.35, at least the largest.

    Parameters
    ----------
    train, held : csr_matrix
        TF-IDF of the whole training pool and of the questions.
    answers : sequence of str
        Of the training pool.
    """

    def __init__(self, train: sparse.csr_matrix, held: sparse.csr_matrix, answers: Sequence[str]) -> None:
        self.train, self.held = train, held
        pieces = [frozenset(pieces_of(answer)) for answer in answers]
        names = sorted(set().union(*pieces))
        self.combined = 2 * len(names) < len({normalise_answer(answer) for answer in answers})
        if not self.combined:
            answers = [normalise_answer(answer) for answer in answers]
            pieces, names = [frozenset([answer]) for answer in answers], sorted(set(answers))
        self.names = names
        place = {name: k for k, name in enumerate(names)}
        self.targets = np.zeros((len(pieces), len(names)), bool)
        for row, names_of_row in enumerate(pieces):
            self.targets[row, [place[name] for name in names_of_row]] = True
        wordings = Counter(zip(pieces, answers, strict=True))
        in_order = sorted(wordings.items(), key=lambda item: (item[1], item[0][1]))  # the last one stays: the commonest
        self.wording = {names_of_row: answer for (names_of_row, answer), _ in in_order}
        self.joint = next(iter(re.findall(r"[；;，,、|]", "".join(self.wording.values()))), "；")

    def answers(self, rows: np.ndarray, copies: np.ndarray, seed: int = 0) -> list[str]:
        """Answers to all questions, learnt from ``rows``, each given ``copies`` times."""
        labels = np.flatnonzero(self.targets[rows].any(axis=0))
        value = ridge_values(self.train[rows], self.targets[rows][:, labels].astype(float), copies, self.held)
        best = np.argmax(value, axis=1)
        if not self.combined:
            return [self.names[k] for k in labels[best]]
        above = value > _ABOVE
        above[np.arange(len(value)), best] = True
        chosen = [frozenset(self.names[k] for k in labels[row]) for row in above]
        return [self.wording.get(names) or self.joint.join(sorted(names)) for names in chosen]


def ridge_values(X: sparse.csr_matrix, Y: np.ndarray, copies: np.ndarray, held: sparse.csr_matrix) -> np.ndarray:
    """What a ridge regression with an intercept, learnt from X and Y, says of ``held``: (questions, m) float64."""
    mean = (Y * copies[:, None]).sum(axis=0) / copies.sum()
    return held @ (X.T @ solve_ridge(X, Y - mean, copies)) + mean


class CopyLearner:
    """A character tagger for what is copied from the input, a `LabelLearner` for what is not.

    The second says which constants an answer holds and whether anything is copied; the first, what.
    """

    def __init__(
        self,
        form: AnswerForm,
        train: sparse.csr_matrix,
        held: sparse.csr_matrix,
        records: pd.DataFrame,
        questions: pd.DataFrame,
    ) -> None:
        self.form = form
        texts = [text[:LONGEST] for text in shown_texts(records)]
        split = [form.split(answer, text) for answer, text in zip(records["output"], texts, strict=True)]
        self.usable = np.array([pieces is not None for pieces in split])
        self.copied = np.array([bool(pieces and pieces[1]) for pieces in split])
        # A frame is an answer's constants and whether anything is copied; as text, since arrays hold no tuples.
        frames = ["".join(f"{constant}\0" for constant in pieces[0]) if pieces else "" for pieces in split]
        frames = [frame + ("\1" if copied else "") for frame, copied in zip(frames, self.copied, strict=True)]
        self.rows_train, self.rows_held = train, held
        self.frame, names = pd.factorize(np.array(frames, dtype=object), sort=True)
        self.frames = [(tuple(filter(None, name.rstrip("\1").split("\0"))), name.endswith("\1")) for name in names]
        self.train = TaggedTexts(texts, records["instruction"])
        self.held = TaggedTexts(shown_texts(questions), questions["instruction"])
        self.tags = np.zeros(len(self.train.codes), np.int8)
        for row, pieces in enumerate(split):
            if pieces:
                _mark(self.tags[self.train.starts[row] : self.train.starts[row + 1]], texts[row], pieces[1])

    def answers(self, rows: np.ndarray, copies: np.ndarray, seed: int = 0) -> list[str]:
        """Answers to all questions, learnt from ``rows``, each given ``copies`` times."""
        rows, copies = rows[self.usable[rows]], copies[self.usable[rows]]
        if len(rows) == 0:
            return [""] * len(self.held)
        known, place = np.unique(self.frame[rows], return_inverse=True)
        wanted = np.where(place[:, None] == np.arange(len(known)), 1.0, 0.0)
        frames = known[np.argmax(ridge_values(self.rows_train[rows], wanted, copies, self.rows_held), axis=1)]
        shown = np.repeat(rows, copies)
        shown = shown[self.copied[shown]]
        tags = np.zeros(len(self.held.codes), np.int8)
        if len(shown):
            tags = tag(self.held, *train_tagger(self.train, self.tags, shown, len(self.form.templates), seed=seed))
        answers = []
        for row, k in enumerate(frames):
            constants, copied = self.frames[k]
            tags_of_row = tags[self.held.starts[row] : self.held.starts[row + 1]]
            parts = _parts(tags_of_row, self.held.texts[row]) if copied else []
            answers.append(self.form.join(constants, parts))
        return answers


class NearestLearner:
    """The answer of the chosen row with the most similar text; of equal ones the first."""

    def __init__(self, train: sparse.csr_matrix, held: sparse.csr_matrix, answers: Sequence[str]) -> None:
        self.similar = (held @ train.T).toarray().astype(np.float32)
        self.known = list(answers)

    def answers(self, rows: np.ndarray, copies: np.ndarray, seed: int = 0) -> list[str]:
        """Answers to all questions, learnt from ``rows``; copies make no difference."""
        return [self.known[i] for i in rows[np.argmax(self.similar[:, rows], axis=1)]]


def _mark(tags: np.ndarray, text: str, parts: Sequence[tuple[int, str]]) -> None:
    """Tag every occurrence of every part, longer ones first."""
    for kind, part in sorted(parts, key=lambda pair: (-len(pair[1]), pair)):
        at = text.find(part)
        while at >= 0:
            if not tags[at : at + len(part)].any():
                tags[at], tags[at + 1 : at + len(part)] = 1 + 2 * kind, 2 + 2 * kind
            at = text.find(part, at + len(part))


def _parts(tags: np.ndarray, text: str) -> list[tuple[int, str]]:
    """(kind, part) of tagged characters, in order."""
    parts = []
    for at in np.flatnonzero(tags % 2 == 1):  # each first character
        kind, end = int(tags[at] - 1) // 2, at + 1
        while end < len(tags) and tags[end] == 2 + 2 * kind:
            end += 1
        parts.append((kind, text[at:end]))
    return list(dict.fromkeys(parts))


def learner_for(records: pd.DataFrame, questions: pd.DataFrame) -> tuple[str, Learner]:
    """The learner of one task, chosen by the whole training pool so that every arm has the same.

    Parameters
    ----------
    records : DataFrame
        Training records of the task, with ``instruction, input, output``.
    questions : DataFrame
        Held-out records; only ``instruction`` and ``input`` are looked at.

    Returns
    -------
    (str, Learner)
        Its kind, one of `KINDS`, and the learner.

    Examples
    --------
    >>> rows = pd.DataFrame({"instruction": "判断", "input": ["大涨", "大跌"] * 3, "output": ["涨", "跌"] * 3})
    >>> kind, learner = learner_for(rows, rows.head(2))
    >>> kind, learner.answers(np.array([0, 1]), np.array([1, 1]))
    ('labels', ['涨', '跌'])
    """
    form = answer_form(list(records["output"]), shown_texts(records))
    train, held = text_rows(records, questions)
    if form.kind == "copied":
        return form.kind, CopyLearner(form, train, held, records, questions)
    learner = LabelLearner if form.kind == "labels" else NearestLearner
    return form.kind, learner(train, held, list(records["output"]))
