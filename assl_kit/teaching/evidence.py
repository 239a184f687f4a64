"""What the benchmarks measured: the records of kernels and evidence, and time against number of rows as a figure."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pandas as pd

from assl_kit.common.files import read_json, shipped
from assl_kit.errors import DataError

KERNELS = {
    "knn": "k-NN",
    "adbscan": "A-DBSCAN fit",
    "thin": "thinning to a tenth",
    "mmr": "MMR, a tenth picked",
    "kmeans": "k-means, k = 6",
    "stages": "the two stages",
}
"""Names of the kernels in the records, and what they are called in figures."""


def kernel_results() -> dict[str, Any]:
    """The measurements of the selection kernels beside their peers.

    Returns
    -------
    dict
        ``header`` (the machine, versions, data, threads), ``records`` (one a system, kernel and number of rows:
        ``kernel, system, n, d, k, data, device, seconds, seconds_all, ratio_to_gemm, peak_mb, agrees, note``) and
        ``slopes`` (exponents of growth).

    Raises
    ------
    DataError
        If the file is not there.

    Notes
    -----
    Ours. The file is ``benchmarks/results/kernels.json`` of the checkout, else the package's own copy.

    Examples
    --------
    >>> sorted(kernel_results())
    ['done', 'header', 'records', 'slopes']
    """
    return read_results("kernels.json")


def evidence_results() -> pd.DataFrame:
    """The measurements of what the paper claims and leaves open.

    Returns
    -------
    DataFrame
        One row a measurement: ``experiment, data, base, arm, task, metric, value, seed, n_train, device, seconds``,
        and where they apply ``low`` and ``high`` (95 % bootstrap), ``n`` (questions), ``against``, ``seeds``,
        ``p_value``. ``seed`` is NaN where seeds are pooled, ``task`` is "mean" for the mean over tasks and "all" where
        a value is not of a task.

    Raises
    ------
    DataError
        If the file is not there.

    Notes
    -----
    Ours. The file is ``benchmarks/results/evidence.json`` of the checkout, else the package's own copy.

    Examples
    --------
    >>> {"experiment", "arm", "value", "seed"} <= set(evidence_results())
    True
    """
    return pd.DataFrame(read_results("evidence.json")["records"])


def read_results(name: str) -> dict[str, Any]:
    """One file of measurements, of the checkout or of the package's own copy.

    Parameters
    ----------
    name : str
        Of a JSON file in ``benchmarks/results``.

    Returns
    -------
    dict

    Raises
    ------
    DataError
        If the file is not there.

    Examples
    --------
    >>> sorted(read_results("cfleb_h100_failure.json"))[:2]
    ['arms', 'by_task']
    """
    file = shipped("results") / name
    if not file.is_file():
        raise DataError("the measurements are not there", where=str(file), hint="Install assl-kit again.")
    return read_json(file)


def of_seeds(evidence: pd.DataFrame, arm: str, *, task: str = "mean", metric: str | None = None) -> pd.Series:
    """The values of an arm, one a seed.

    Parameters
    ----------
    evidence : DataFrame
        From :func:`assl_kit.teaching.evidence.evidence_results`, narrowed to one data set and base.
    arm, task : str
    metric : str, optional
        Default: any but differences.

    Returns
    -------
    Series
        Indexed by seed, ascending.
    """
    rows = evidence[(evidence["arm"] == arm) & (evidence["task"] == task) & evidence["seed"].notna()]
    rows = rows[rows["metric"] == metric] if metric else rows[~rows["metric"].str.startswith("difference")]
    return rows.set_index("seed")["value"].sort_index()


ROUTED, CHOSEN, PAPER, ENCODER = "experts by cluster", "default 10 %", "paper 10 %", "fitted static, 256"
#: What is compared: claim, arm, against, and what the claim expects of the difference.
CLAIMS = (
    ("A tenth of the data, chosen as the paper has it, comes close to all of it", PAPER, "all data, 1 epoch", "close"),
    ("… and is better than a random one", PAPER, "random 10 %", "better"),
    ("Both stages are needed: better than thinning alone", PAPER, "stage 1 alone 10 %", "better"),
    ("… and than MMR alone", PAPER, "stage 2 alone 10 %", "better"),
    ("(ours) A tenth by the default comes close to all data", CHOSEN, "all data, 1 epoch", "close"),
    ("(ours) … and is better than a random one", CHOSEN, "random 10 %", "better"),
    ("(ours) … and than a random one with equal parts of all tasks", CHOSEN, "balanced random 10 %", "better"),
    ("(ours) … and than the paper's", CHOSEN, PAPER, "better"),
    ("Routed experts beat one adapter on the same records", ROUTED, CHOSEN, "better"),
    ("… and one adapter on all data", ROUTED, "all data, 1 epoch", "better"),
    ("Clusters are better parts than a random split", ROUTED, "experts by random split", "better"),
    ("… and than task labels", ROUTED, "experts by task label", "better"),
    ("Routing is better than a uniform merge", ROUTED, "uniform merge", "better"),
    ("… and than Arrow's routing in each layer", ROUTED, "Arrow", "better"),
)
NAMES = {("embedded", "tiny"): "embedded corpus, tiny base", ("CFLEB", "gemma3-270m"): "CFLEB, Gemma 3 270M"}
CLOSE = 0.05
"""How much worse still counts as close."""


def verdict(expects: str, low: float, high: float) -> str:
    """What the interval of a difference says about a claim.

    Parameters
    ----------
    expects : {"better", "close"}
        Above 0, or not more than `CLOSE` below it.
    low, high : float
        The interval.

    Returns
    -------
    {"holds", "does not hold", "not told apart", "undecided"}
        The last two where the interval lies on both sides.

    Examples
    --------
    >>> verdict("better", 0.01, 0.05), verdict("better", -0.02, 0.04), verdict("close", -0.2, -0.1)
    ('holds', 'not told apart', 'does not hold')
    """
    least = -CLOSE if expects == "close" else 0
    between = "undecided" if expects == "close" else "not told apart"
    return "holds" if low > least else "does not hold" if high < least else between


def verdicts(evidence: pd.DataFrame) -> pd.DataFrame:
    """The claims, what was measured on each data set, and what that says.

    Parameters
    ----------
    evidence : DataFrame
        From :func:`assl_kit.teaching.evidence.evidence_results`.

    Returns
    -------
    DataFrame
        Columns ``claim, data, measured, verdict``; one row a claim and data set that measured it, claims in order.

    Notes
    -----
    The claims are those of arXiv 2404.04949 and what it leaves open, in our words; the verdicts are ours.
    """
    rows = []
    for claim, arm, against, expects in CLAIMS:
        for part, name in parts_of(evidence):
            pair = (part["arm"] == arm) & (part["against"] == against) & (part["metric"] == "difference in mean")
            for row in part[pair].head(1).to_dict("records"):
                low, high = row["low"], row["high"]
                measured = f"{row['value']:+.3f} [{low:+.3f}, {high:+.3f}]"
                rows.append((claim, name, measured, verdict(expects, low, high)))
    for claim, judge in _OTHERS.items():
        for part, name in parts_of(evidence):
            if (judged := judge(part)) is not None:
                rows.append((claim, name, *judged))
    return pd.DataFrame(rows, columns=["claim", "data", "measured", "verdict"])


def parts_of(evidence: pd.DataFrame) -> Iterator[tuple[pd.DataFrame, str]]:
    """The measurements on each data set with its base, and what it is called; those that are not there are left out."""
    for (data, base), name in NAMES.items():
        part = evidence[(evidence["data"] == data) & (evidence["base"] == base)]
        if len(part):
            yield part, name


def _regret(part: pd.DataFrame) -> tuple[str, str] | None:
    values = of_seeds(part, ROUTED, metric="regret")
    if not len(values):
        return None
    low, high = values.min(), values.max()
    judgement = "holds" if high <= CLOSE else "does not hold" if low > CLOSE else "in some seeds"
    return f"regret {values.mean():.3f}, by seed {low:.3f} to {high:.3f}", judgement


def _routing(part: pd.DataFrame) -> tuple[str, str] | None:
    values = of_seeds(part, ENCODER, task="all", metric="home share: wordings and inputs never seen")
    if not len(values):
        return None
    return f"{values.mean():.0%} of unseen questions", "mostly" if values.mean() >= 0.8 else "often not"


def _affinity(part: pd.DataFrame) -> tuple[str, str] | None:
    rows = part[(part["metric"] == "rank correlation with distance") & (part["arm"] == ENCODER)]
    if not len(rows):
        return None
    significant = rows["p_value"] < 0.05
    below, above = significant & (rows["value"] < 0), significant & (rows["value"] > 0)
    judgement = "holds" if below.all() else "in some seeds" if below.any() else "does not hold"
    mean = f"rank correlation with distance {rows['value'].mean():+.2f}"
    counts = f"below 0 beyond chance in {below.sum()} and above in {above.sum()} of {len(rows)} seeds"
    return f"{mean}, {counts}", judgement


def _stability(part: pd.DataFrame) -> tuple[str, str] | None:
    metric = "jaccard: nine tenths drawn"
    values, chance = (of_seeds(part, arm, task="all", metric=metric) for arm in (ENCODER, "random choice"))
    if not len(values) or not len(chance):
        return None
    judgement = "holds" if values.mean() > 0.5 else "does not hold"
    return f"Jaccard {values.mean():.2f} when a tenth of the data is left out, {chance.mean():.2f} by chance", judgement


_OTHERS: dict[str, Callable[[pd.DataFrame], tuple[str, str] | None]] = {
    "The routed expert comes close to the best single expert of each task": _regret,
    "(left open) A question reaches the home of its task": _routing,
    "(assumed) Near tasks help each other more than far ones": _affinity,
    "(left open) The selection is stable": _stability,
}
