"""The form of a task's answers: labels, parts of the input, or free text."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from assl_kit.metrics import normalise_answer

from .char_features import LONGEST

KINDS = ("labels", "copied", "nearest")
_MOST_LABELS = 100
_LEAST_COVERED = 0.95
_LEAST_COPIED = 0.7
_MOST_TEMPLATES = 16
_SPLIT = re.compile(r"([；;，,、|\n])")
_SLOT = "\0"


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
        whole, parts = answer.strip(), []
        if whole in self.constants:
            return (whole,), []
        if whole in text and _SLOT in self.templates:
            return (), [(self.templates.index(_SLOT), whole)]
        constants = []
        for piece in pieces_of(answer):
            if piece in self.constants:
                constants.append(piece)
            elif (found := _template(piece, text)) and found[0] in self.templates:
                parts.append((self.templates.index(found[0]), found[1]))
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
            found = _template(piece, text)
            around.update([found[0]] if found else [])
            outside.update([] if found else [piece])
    least = max(2, 0.01 * len(answers))
    constants = tuple(sorted(piece for piece, count in outside.items() if count >= least))
    often = sorted((t for t in around if around[t] >= least), key=lambda t: (-around[t], t))
    joints = Counter(mark for answer in answers for mark in _SPLIT.findall(answer))
    joint = min(joints, key=lambda mark: (-joints[mark], mark)) if joints else "；"
    form = AnswerForm("copied", constants, tuple(often[:_MOST_TEMPLATES]), joint)
    split = [form.split(answer, text) for answer, text in zip(answers, texts, strict=True)]
    if np.mean([found is not None for found in split]) >= _LEAST_COPIED and any(found and found[1] for found in split):
        return form
    return AnswerForm("nearest")
