"""Measures of one answer: which one a task takes, and how an answer scores."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pandas as pd

from assl_kit.errors import ParameterError

METRICS = ("accuracy", "f1", "exact_match", "rouge_l", "char_f1")
#: The measure of each task this package knows by name.
TASK_METRICS = {
    "sentiment": "accuracy",
    "classification": "accuracy",
    "relation_extraction": "accuracy",
    "multiple_choice": "accuracy",
    "text_matching": "accuracy",
    "negative_news": "f1",
    "entity_extraction": "f1",
    "event_extraction": "f1",
    "computing": "exact_match",
    "qa": "rouge_l",
    "summarization": "rouge_l",
    "consulting": "rouge_l",
}
_SEPARATORS = re.compile(r"[;,、|\n]")  # after NFKC, which turns the full-width forms of ; , | into these
_TRAILING = " \t\r\n。.!?;,:、"
_NUMBER = re.compile(r"[-+]?\d[\d,]*(?:\.\d+)?")
_NUMERIC = re.compile(r"[-+]?\d[\d,]*(?:\.\d+)?\s*\D{0,4}")
_CHOICE = re.compile(r"[A-G]{1,7}")
_CHOSEN = re.compile(r"(?<![A-Za-z])[A-G](?:[\s、,和]*[A-G])*(?![A-Za-z])")
_LABEL_LENGTH = 12
_LEADING_NAME = re.compile(r"^(?:材料|文本|新闻|正文|内容|公告|消息|快讯|句子|研报|原文|资料|问题|上下文)[：:]\s*")
_SENTENCE_END = re.compile(r"[。！？!?\n]")


def normalise_answer(text: str) -> str:
    """An answer as it is compared: NFKC (full-width to half-width), white space runs to one blank, no end punctuation.

    Examples
    --------
    >>> normalise_answer(" Ｂ． ")
    'B'
    """
    return " ".join(unicodedata.normalize("NFKC", text).split()).rstrip(_TRAILING)


def items_of(answer: str) -> frozenset[str]:
    """The set of items of an extraction answer, split on ；;，,、| and line breaks.

    Examples
    --------
    >>> sorted(items_of("是，甲公司；乙公司。"))
    ['乙公司', '是', '甲公司']
    """
    parts = _SEPARATORS.split(unicodedata.normalize("NFKC", answer))
    return frozenset(filter(None, (normalise_answer(part) for part in parts)))


def metric_of(task: str, references: Sequence[str] = ()) -> str:
    """The measure a task takes.

    Known tasks have theirs by name (``TASK_METRICS``). For others the references decide: few and short distinct ones
    are labels (accuracy), mostly numbers are compared exactly, the rest is text (ROUGE-L).

    Negative news ("是，甲公司；乙公司" or "否") is measured by micro-F1 over its items with the verdict counted as one,
    so that a right "否" counts and a partly right list of entities counts in part (ours; the benchmark scores the
    verdict and the entities apart).

    Parameters
    ----------
    task : str
        The task's name.
    references : sequence of str
        The right answers of the task; needed for a task not known by name.

    Returns
    -------
    {"accuracy", "f1", "exact_match", "rouge_l"}

    Raises
    ------
    ParameterError
        The task is not known by name and there are no references.

    Examples
    --------
    >>> metric_of("qa"), metric_of("my own", ["涨", "跌", "涨", "平", "跌", "涨"])
    ('rouge_l', 'accuracy')
    """
    if task in TASK_METRICS:
        return TASK_METRICS[task]
    answers = [normalise_answer(text) for text in references]
    if not answers:
        raise ParameterError(f"the task {task!r} is not known by name", hint="Give its references to metric_of.")
    distinct = Counter(answers)
    few = len(distinct) <= max(2, min(60, 0.2 * len(answers))) or (len(distinct) <= 4 and len(answers) >= 6)
    if few and max(map(len, distinct)) <= _LABEL_LENGTH:
        return "accuracy"
    if np.mean([bool(_NUMERIC.fullmatch(text)) for text in answers]) >= 0.9:
        return "exact_match"
    return "rouge_l"


def _label(reference: str, prediction: str) -> str:
    """The prediction's label; where the reference is option letters, the first letters in the prediction."""
    if _CHOICE.fullmatch(reference) and (letters := _CHOSEN.search(prediction.upper())):
        return "".join(sorted(set(re.sub(r"[^A-G]", "", letters.group()))))
    return prediction


def labels_of(references: Sequence[str], predictions: Sequence[str]) -> tuple[list[str], list[str]]:
    """Normalised reference labels and predicted labels, as accuracy and macro-F1 compare them."""
    right = [normalise_answer(text) for text in references]
    right = ["".join(sorted(set(text))) if _CHOICE.fullmatch(text) else text for text in right]
    return right, [_label(a, normalise_answer(b)) for a, b in zip(right, predictions, strict=True)]


def _same_number(reference: str, prediction: str) -> bool:
    """Whether both end in the same number (their last one), or are the same text."""
    if reference == prediction:
        return True
    numbers = [_NUMBER.findall(text) for text in (reference, prediction)]
    if not all(numbers):
        return False
    a, b = (float(in_text[-1].replace(",", "")) for in_text in numbers)
    return abs(a - b) <= 1e-6 * max(1.0, abs(a))


def item_counts(references: Sequence[str], predictions: Sequence[str]) -> np.ndarray:
    """Items found, items too many, items missed: (n, 3) float64 of tp, fp, fn for micro-F1.

    Examples
    --------
    >>> item_counts(["甲；乙"], ["乙；丙；丁"]).tolist()
    [[1.0, 2.0, 1.0]]
    """
    counts = np.zeros((len(references), 3))
    for row, pair in enumerate(zip(references, predictions, strict=True)):
        right, answered = map(items_of, pair)
        counts[row] = len(right & answered), len(answered - right), len(right - answered)
    return counts


def f1_of(counts: np.ndarray) -> np.ndarray:
    """F1 from (..., 3) counts of tp, fp, fn; 1 where there is nothing to find and nothing was said."""
    counts = np.asarray(counts, dtype=float)
    total = 2 * counts[..., 0] + counts[..., 1] + counts[..., 2]
    return np.where(total > 0, 2 * counts[..., 0] / np.where(total > 0, total, 1.0), 1.0)


def score_answers(references: Sequence[str], predictions: Sequence[str], metric: str) -> np.ndarray:
    """Score of each answer in [0, 1].

    The mean is the metric itself, but for "f1": there it is the F1 of each example, whose mean is *not* the micro-F1
    that `assl_kit.evaluation.intervals.evaluate` reports.

    Parameters
    ----------
    references, predictions : sequence of str
        The same number of each.
    metric : {"accuracy", "f1", "exact_match", "rouge_l", "char_f1"}
        "accuracy" compares normalised labels; where the right answer is option letters the first letters of the
        prediction count. "exact_match" compares the last number of each answer, or the text where there is none.
        "char_f1" is the F1 of the answers' characters, as Chinese reading comprehension is measured.

    Returns
    -------
    ndarray of float64, shape (n,)

    Raises
    ------
    ParameterError
        An unknown metric, or different numbers of references and predictions.

    Examples
    --------
    >>> score_answers(["B", "积极"], ["答案是B。", "消极"], "accuracy").tolist()
    [1.0, 0.0]
    """
    if metric not in METRICS:
        raise ParameterError(f"unknown metric {metric!r}", hint=f"Use one of {', '.join(METRICS)}.")
    if len(references) != len(predictions):
        what = f"{len(references)} references but {len(predictions)} predictions"
        raise ParameterError(what, hint="Give one prediction for each record, in the same order.")
    scores: list[float]
    if metric == "accuracy":
        scores = [float(a == b) for a, b in zip(*labels_of(references, predictions), strict=True)]
    elif metric == "exact_match":
        pairs = zip(map(normalise_answer, references), map(normalise_answer, predictions), strict=True)
        scores = [float(_same_number(*pair)) for pair in pairs]
    elif metric == "f1":
        return f1_of(item_counts(references, predictions))
    elif metric == "char_f1":
        shared = [_shared(a, b) for a, b in zip(references, predictions, strict=True)]
        return f1_of(np.array(shared).reshape(-1, 3))
    else:
        from assl_kit.model.scoring import rouge_l

        scores = [rouge_l(a, b) for a, b in zip(references, predictions, strict=True)]
    return np.asarray(scores, dtype=np.float64)


def _shared(reference: str, prediction: str) -> tuple[int, int, int]:
    """Characters in both, in the prediction only, in the reference only; repeats counted, white space not."""
    right, answered = (Counter(normalise_answer(text).replace(" ", "")) for text in (reference, prediction))
    both = (right & answered).total()
    return both, answered.total() - both, right.total() - both


def macro_f1(references: Sequence[str], predictions: Sequence[str]) -> float:
    """Mean over the labels that occur in the references of each label's F1.

    Examples
    --------
    >>> macro_f1(["涨", "涨", "跌"], ["涨", "涨", "涨"])
    0.4
    """
    right, answered = labels_of(references, predictions)
    hits = Counter(a for a, b in zip(right, answered, strict=True) if a == b)
    times_right, times_answered = Counter(right), Counter(answered)
    scores = [2 * hits[label] / (times_answered[label] + times_right[label]) for label in sorted(times_right)]
    return float(np.mean(scores)) if scores else 0.0


def lead(text: str, length: int) -> str:
    """The first sentence of a text, without a leading name such as "材料：", cut to ``length`` characters.

    Examples
    --------
    >>> lead("材料：某厂今日扩产。另有消息。", 5)
    '某厂今日扩'
    """
    body = _LEADING_NAME.sub("", text.strip())
    return next((part.strip() for part in _SENTENCE_END.split(body) if part.strip()), body)[: max(1, length)]


def _majority(answers: Sequence[str]) -> str:
    """The most frequent answer, the first by its text of equals."""
    counts = Counter(answers)
    return min(counts, key=lambda text: (-counts[text], text))


def baseline_answers(train: pd.DataFrame, test: pd.DataFrame, *, max_tried: int = 300) -> list[str]:
    """The answers a program would give that understands nothing.

    For a label task the most frequent answer of its train records. For any other the better, as measured on the train
    records, of that and the lead: the first sentence of the input, cut to the median length of the train answers.

    Parameters
    ----------
    train, test : DataFrame
        Records with ``instruction, input, output, task``. Only the inputs of ``test`` are looked at.
    max_tried : int
        How many train records (the first ones of each task) decide between majority and lead.

    Returns
    -------
    list of str
        One answer for each row of ``test``. A task without train records gets its lead of 30 characters.

    Examples
    --------
    >>> rows = {"instruction": "判断", "input": ["a", "b", "c"], "output": ["涨", "涨", "跌"], "task": "sentiment"}
    >>> baseline_answers(pd.DataFrame(rows), pd.DataFrame(rows).head(2))
    ['涨', '涨']
    """
    answers = pd.Series("", index=range(len(test)), dtype=object)
    for task, rows in test.reset_index(drop=True).groupby("task", sort=True):
        known = train[train["task"] == task]
        outputs = known["output"].tolist()
        length = int(np.median([len(text) for text in outputs])) if outputs else 30
        leads, common = _leads(rows, length), _majority(outputs) if outputs else None
        metric = metric_of(task, outputs) if outputs else "rouge_l"
        if common is not None:
            tried = known.head(max_tried)
            options = ([common] * len(tried), _leads(tried, length))
            values = [score_answers(tried["output"].tolist(), option, metric).mean() for option in options]
            if metric == "accuracy" or values[0] > values[1]:
                leads = [common] * len(rows)
        answers.iloc[rows.index] = leads
    return answers.tolist()


def _leads(records: pd.DataFrame, length: int) -> list[str]:
    texts = zip(records["input"], records["instruction"], strict=True)
    return [lead(text if text.strip() else instruction, length) for text, instruction in texts]
