"""What was measured, in words: an interval as a sentence, how far a part comes, how many records are enough.

The sentences of notebooks 08 and 09 are made here from the numbers, so that they are true of any corpus and any run.
What was not measured is said to be so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
import pandas as pd

from ..evidence import CHOSEN, CLOSE, ROUTED, of_seeds, parts_of
from ..gpu_evidence import RANDOM, gpu_differences

WHOLE, MAJORITY = "all data, 1 epoch", "majority or lead"
H100 = "CFLEB, Gemma 3 270M, 4,000 of 40,000 records"


def outcome(low: float, high: float) -> str:
    """What the interval of a difference says.

    Returns
    -------
    {"better", "worse", "not told apart"}

    Examples
    --------
    >>> outcome(0.01, 0.03), outcome(-0.03, -0.01), outcome(-0.01, 0.03)
    ('better', 'worse', 'not told apart')
    """
    return "better" if low > 0 else "worse" if high < 0 else "not told apart"


def compared(arm: str, against: str, row: Mapping[str, Any], value: str = "difference") -> str:
    """A difference and its interval as a sentence.

    Parameters
    ----------
    arm, against : str
        What is compared, and with what.
    row : mapping
        ``low``, ``high`` and the difference.
    value : str
        The key of the difference.

    Returns
    -------
    str

    Examples
    --------
    >>> print(compared("routed", "base", {"difference": 0.3, "low": 0.25, "high": 0.35}))
    “routed” is better than “base” by 0.300; the interval, +0.250 to +0.350, lies above 0.
    >>> print(compared("routed", "random", {"difference": 0.01, "low": -0.02, "high": 0.04}))
    “routed” and “random” cannot be told apart: +0.010, and the interval, −0.020 to +0.040, contains 0.
    """
    low, high, difference = (float(row[name]) for name in ("low", "high", value))
    interval = f"the interval, {signed(low)} to {signed(high)},"
    word = outcome(low, high)
    if word == "not told apart":
        return f"“{arm}” and “{against}” cannot be told apart: {signed(difference)}, and {interval} contains 0."
    side = "above" if low > 0 else "below"
    return f"“{arm}” is {word} than “{against}” by {abs(difference):.3f}; {interval} lies {side} 0."


def signed(value: float) -> str:
    """A number with its sign, to three places.

    Examples
    --------
    >>> signed(-0.02), signed(0.5)
    ('−0.020', '+0.500')
    """
    return f"{value:+.3f}".replace("-", "−")


def measured_difference(evidence: pd.DataFrame, arm: str, against: str) -> dict[str, Any] | None:
    """The pooled difference of two arms in the mean over tasks, or None where nobody measured it.

    Parameters
    ----------
    evidence : DataFrame
        From :func:`assl_kit.teaching.evidence.evidence_results`, narrowed to one data set and base.
    arm, against : str

    Returns
    -------
    dict or None
        A row of the evidence, with ``value``, ``low``, ``high``.
    """
    rows = evidence[(evidence["metric"] == "difference in mean") & (evidence["task"] == "mean")]
    rows = rows[(rows["arm"] == arm) & (rows["against"] == against)]
    return cast("dict[str, Any]", rows.iloc[0].to_dict()) if len(rows) else None


def reached(value: float, whole: float, base: float) -> str:
    """How much of a score another one is, and how much of what was learnt beyond a base.

    Parameters
    ----------
    value, whole, base : float
        Scores of a part of the data, of all of it, and without training.

    Returns
    -------
    str

    Examples
    --------
    >>> reached(0.78, 0.82, 0.54)
    '0.78: 95 % of the 0.82 of all the data, and 86 % of what these add to the base'
    """
    share = f"{value:.2f}: {100 * value / whole:.0f} % of the {whole:.2f} of all the data"
    if whole <= base:
        return f"{share}, which add nothing to the base"
    return f"{share}, and {100 * (value - base) / (whole - base):.0f} % of what these add to the base"


def share_table(evidence: pd.DataFrame, ways: Sequence[str] = ("default", "paper", "random")) -> pd.DataFrame:
    """Mean score over tasks and seeds of one adapter on a share of the data, by share and way of choosing.

    Parameters
    ----------
    evidence : DataFrame
        As for `measured_difference`.
    ways : sequence of str

    Returns
    -------
    DataFrame
        Index: the share in percent, ascending; ``records``, and a column a way; NaN where it was not measured.
    """
    labels = evidence.loc[(evidence["metric"] == "mean") & evidence["seed"].notna(), ["arm", "n_train"]]
    parts = labels["arm"].str.extract(rf"^({'|'.join(ways)}) (\d+) %$").set_axis(["way", "share"], axis=1)
    known = parts.assign(records=labels["n_train"]).dropna().drop_duplicates(["way", "share"])
    rows: dict[int, dict[str, float]] = {}
    for row in known.to_dict("records"):
        cells = rows.setdefault(int(row["share"]), {"records": int(row["records"])})
        cells[row["way"]] = _score(evidence, f"{row['way']} {row['share']} %")
    columns = ["records", *(way for way in ways if any(way in cells for cells in rows.values()))]
    return pd.DataFrame.from_dict(rows, orient="index", columns=columns).sort_index().rename_axis("percent")


def _score(evidence: pd.DataFrame, arm: str) -> float:
    """Mean over tasks and seeds; NaN where it was not measured."""
    return float(of_seeds(evidence, arm, metric="mean").mean())


def how_far(evidence: pd.DataFrame) -> list[str]:
    """How far the smallest share and a tenth come, chosen and drawn at random, each as a sentence.

    Parameters
    ----------
    evidence : DataFrame
        As for `measured_difference`.

    Returns
    -------
    list of str
        Empty where no share, not all the data, or no base was measured.
    """
    table, whole, base = share_table(evidence), _score(evidence, WHOLE), _score(evidence, "base")
    if table.empty or np.isnan(whole) or np.isnan(base):
        return []
    sentences = []
    for share in dict.fromkeys([table.index[0], *table.index[table.index == 10]]):
        row = table.loc[share]
        for way in table.columns.drop("records"):
            if not np.isnan(row[way]):
                name = "drawn at random" if way == "random" else f"chosen by “{way}”"
                records = f"{row['records']:.0f} records ({share} %), {name}, reach"
                sentences.append(f"{records} {reached(row[way], whole, base)}.")
    return sentences


def enough(evidence: pd.DataFrame, *, within: float = CLOSE) -> str:
    """The smallest measured share whose best way of choosing comes close to all the data, as a sentence.

    Parameters
    ----------
    evidence : DataFrame
        As for `measured_difference`.
    within : float
        How much lower a score may be and still count as close.

    Returns
    -------
    str
    """
    table, whole = share_table(evidence), _score(evidence, WHOLE)
    if table.empty or np.isnan(whole):
        return "The shares were not measured."
    best = table.drop(columns="records").max(axis=1)
    near = best[best >= whole - within]
    share = int((near if len(near) else best).index[0 if len(near) else -1])
    records = f"{share} % ({table.loc[share, 'records']:.0f} records)"
    if len(near):
        scores = f"{best[share]:.2f} of {whole:.2f}"
        return f"{records} is the least measured share within {within:g} of all the data: {scores}."
    scores = f"{records} reaches {best[share]:.2f} of {whole:.2f}"
    return f"No measured share comes within {within:g} of all the data; {scores}, so more records still help."


def beside_majority(evidence: pd.DataFrame, arm: str) -> str:
    """Whether an arm is above the commonest answer of each task or the text's first sentence, which need no model.

    Parameters
    ----------
    evidence : DataFrame
        As for `measured_difference`.
    arm : str

    Returns
    -------
    str
    """
    scores = evidence[evidence["seed"].notna() & evidence["low"].notna()]
    scores = scores[scores["arm"].isin([arm, MAJORITY]) & (scores["task"] != "mean")]
    by_task = scores.pivot_table(index="task", columns="arm", values="value").dropna()
    if not {arm, MAJORITY} <= set(by_task):
        return f"“{arm}” was not measured beside “{MAJORITY}”."
    above = by_task.index[by_task[arm] > by_task[MAJORITY]]
    where = f"Task by task it is higher in {len(above)} of {len(by_task)}" + f" ({', '.join(above)})" * bool(len(above))
    row = measured_difference(evidence, arm, MAJORITY)
    if row is not None:
        return f"{compared(arm, MAJORITY, row, 'value')} {where}."
    means = by_task.mean()
    return f"“{arm}” has {means[arm]:.3f} in the mean, “{MAJORITY}” has {means[MAJORITY]:.3f}. {where}."


def agreement(ari: float) -> str:
    """What an adjusted Rand index says of two divisions into clusters.

    Examples
    --------
    >>> agreement(0.97), agreement(0.74), agreement(0.2)
    ('nearly the same clusters', 'similar clusters, not the same', 'largely other clusters')
    """
    if ari >= 0.9:
        return "nearly the same clusters"
    return "similar clusters, not the same" if ari >= 0.5 else "largely other clusters"


def sign_in_words(correlations: pd.DataFrame) -> str:
    """On which side of 0 rank correlations lie that should be below it, as a sentence.

    Parameters
    ----------
    correlations : DataFrame
        ``value`` and ``p_value``, a row a measurement.

    Returns
    -------
    str

    Examples
    --------
    >>> print(sign_in_words(pd.DataFrame({"value": [0.5, 0.6], "p_value": [0.01, 0.3]})))
    2 of 2 correlations are above 0, the wrong sign, 1 of them beyond chance; 0 are below 0 beyond chance.
    """
    significant = correlations["p_value"] < 0.05
    above = correlations["value"] > 0
    wrong = f"{above.sum()} of {len(above)} correlations are above 0, the wrong sign"
    beyond = f"{(above & significant).sum()} of them beyond chance"
    return f"{wrong}, {beyond}; {(~above & significant).sum()} are below 0 beyond chance."


_WORTH = {
    "Did training on a tenth help?": (CHOSEN, "base", ("base",)),
    "Did it matter which tenth?": (CHOSEN, "random 10 %", RANDOM),
    "Did the routing add anything?": (ROUTED, CHOSEN, None),
    "Is a tenth as good as everything?": (CHOSEN, WHOLE, ("all",)),
}


def worth(run: Mapping[str, Mapping[str, Any]], evidence: pd.DataFrame, gpu: pd.DataFrame) -> pd.DataFrame:
    """Was it worth it? What each measurement says to each question, in a word, with the difference.

    Parameters
    ----------
    run : mapping
        Question to a difference of one run: ``difference, low, high``. The questions are those of the table.
    evidence, gpu : DataFrame
        From :func:`assl_kit.teaching.evidence.evidence_results` and
        :func:`assl_kit.teaching.gpu_evidence.gpu_results`.

    Returns
    -------
    DataFrame
        Index: the questions. A column a measurement; "not measured" where it was not.
    """
    columns = {"this run": {question: _cell(run.get(question), "difference") for question in _WORTH}}
    for part, name in parts_of(evidence):
        pairs = {question: pair for question, (*pair, _) in _WORTH.items()}
        columns[name] = {question: _cell(measured_difference(part, *pair), "value") for question, pair in pairs.items()}
    columns[H100] = {
        question: _cell(controls and gpu_differences(gpu, against=controls).loc["default"], "difference")
        for question, (_, _, controls) in _WORTH.items()
    }
    return pd.DataFrame(columns)


def _cell(row: Any, value: str) -> str:
    return "not measured" if row is None else f"{outcome(row['low'], row['high'])} ({signed(row[value])})"


_QUESTIONS = (
    (
        "Train on a chosen tenth instead of everything?",
        (CHOSEN, WHOLE, ("all",)),
        {
            "better": "Yes: it is better than all the data",
            "worse": "Only if training is dear: something is lost, and you know how much",
            "not told apart": "Yes where training is dear: it costs a tenth, and no loss is shown",
        },
    ),
    (
        "Choose the tenth instead of drawing lots?",
        (CHOSEN, "random 10 %", RANDOM),
        {
            "better": "Yes: choosing is better than drawing lots",
            "worse": "No: drawing lots is better",
            "not told apart": "As you like: neither a gain nor a loss is shown",
        },
    ),
    (
        "Choose it instead of drawing lots with equal budgets for all tasks?",
        (CHOSEN, "balanced random 10 %", ("random, equal budgets",)),
        {
            "better": "Yes: which records are chosen matters beyond budgets",
            "worse": "No: equal budgets, filled at random, are better",
            "not told apart": "As you like: set the budgets; no difference is shown by what fills them",
        },
    ),
    (
        "Train routed experts instead of one adapter on the same records?",
        (ROUTED, CHOSEN, None),
        {
            "better": "Yes: routing is worth its trouble",
            "worse": "No: one adapter is better",
            "not told apart": "One adapter is simpler, and no gain of the experts is shown",
        },
    ),
)


def advice(evidence: pd.DataFrame, gpu: pd.DataFrame | None = None) -> pd.DataFrame:
    """Should I use this? An answer to each question from what was measured on each data set.

    Parameters
    ----------
    evidence : DataFrame
        From :func:`assl_kit.teaching.evidence.evidence_results`, of all data sets.
    gpu : DataFrame, optional
        From :func:`assl_kit.teaching.gpu_evidence.gpu_results`.

    Returns
    -------
    DataFrame
        Columns ``question, data, difference, answer``; what was not measured has no row.
    """
    rows = []
    for question, (arm, against, controls), words in _QUESTIONS:
        for part, name in parts_of(evidence):
            if (row := measured_difference(part, arm, against)) is not None:
                rows.append(_answered(question, name, row, row["value"], words))
        if gpu is not None and controls is not None:
            row = cast("dict[str, Any]", gpu_differences(gpu, against=controls).loc["default"].to_dict())
            rows.append(_answered(question, H100, row, row["difference"], words))
    return pd.DataFrame(rows, columns=["question", "data", "difference", "answer"])


def _answered(question: str, data: str, row: Mapping[str, Any], value: float, words: Mapping[str, str]) -> tuple:
    low, high = float(row["low"]), float(row["high"])
    measured = f"{signed(value)} [{signed(low)}, {signed(high)}]"
    return question, data, measured, words[outcome(low, high)]
