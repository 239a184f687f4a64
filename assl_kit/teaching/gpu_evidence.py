"""What was measured with a language model at the paper's size, on one H100: the failure, and what mends it."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from .evidence import read_results
from .referee_plots import plot_arms

FAILURE, MENDED = "cfleb_h100_failure", "cfleb_h100"
"""Names of the two files: with the first default, and with the present one."""
RANDOM = ("random", "random, second draw")
_STEPS = ", equal steps"
_FAILURE_ARMS = {
    "all-t0": "all",
    "task0_random-t0": "random, equal budgets",
    "task.5_random-t0": "random, budgets by size^.5",
    "stage1_b0-t0": "stage 1 alone, flattening 0",
    "random0-t0": "random",
    "random1-t0": "random, second draw",
    "noscore-t0": "first default without score and repeats",
    "chosen-t0": "first default",
    "base": "base",
}


def gpu_results(name: str = MENDED) -> pd.DataFrame:
    """The score of every question under every arm.

    Parameters
    ----------
    name : {"cfleb_h100", "cfleb_h100_failure"}
        `MENDED` or `FAILURE`.

    Returns
    -------
    DataFrame
        ``arm, draw, task, question, score``: ``draw`` numbers the draws of training records, ``question`` the test
        questions of one draw; scores are in [0, 1], F1 taken question by question.

    Raises
    ------
    DataError
        If the file is not there.

    Notes
    -----
    Ours: Gemma 3 270M, 40,000 training records of CFLEB, 4,000 chosen, 900 test questions, one training seed.

    Examples
    --------
    >>> gpu_results("cfleb_h100_failure").columns.tolist()
    ['arm', 'draw', 'task', 'question', 'score']
    """
    stored = read_results(f"{name}.json")
    if name == FAILURE:
        tasks = {0: stored["scores"]["task"]}
        arms = [(arm, 0, stored["scores"][key]) for key, arm in _FAILURE_ARMS.items()]
    else:
        tasks = {int(draw): asked["task"] for draw, asked in stored["questions"].items()}
        arms = [(run["arm"], run["draw"], run["scores"]) for run in stored["arms"].values()]
    parts = [
        pd.DataFrame({"arm": arm, "draw": draw, "task": tasks[draw], "question": range(len(scores)), "score": scores})
        for arm, draw, scores in arms
    ]
    return pd.concat(parts, ignore_index=True)


def gpu_table(results: pd.DataFrame) -> pd.DataFrame:
    """Arms by tasks, the best mean first: scores, averaged over questions and then over draws.

    Parameters
    ----------
    results : DataFrame
        From `gpu_results`.

    Returns
    -------
    DataFrame
        Index ``arm``; a column a task, and ``mean`` over tasks.
    """
    by_draw = results.groupby(["arm", "draw", "task"])["score"].mean()
    wide = by_draw.groupby(level=["arm", "task"]).mean().unstack("task")
    return wide.assign(mean=wide.mean(axis=1)).sort_values("mean", ascending=False)


def gpu_differences(
    results: pd.DataFrame, *, against: tuple[str, ...] = RANDOM, resamples: int = 1000, seed: int = 0
) -> pd.DataFrame:
    """Every arm's mean over tasks less that of random records of the same draw, with an interval.

    Parameters
    ----------
    results : DataFrame
        From `gpu_results`.
    against : tuple of str, default=RANDOM
        The control: the mean of these arms. Arms of equal steps are compared with random ones of equal steps.
    resamples, seed : int
        Of the bootstrap.

    Returns
    -------
    DataFrame
        Index ``arm``, the greatest first; ``difference``, ``low`` and ``high`` (95 %), ``draws`` (the difference in
        each draw), and a column a task with its difference.

    Notes
    -----
    The bootstrap draws the draws, and within each the questions of every task, with replacement; an arm and its control
    keep the same questions. Three draws are few: look at them too.
    """
    table = results.pivot_table(index=["draw", "task", "question"], columns="arm", values="score")
    steps = [arm for arm in table if arm.startswith("random") and arm.endswith(_STEPS)]
    rows = {}
    for arm in table.columns.drop([name for name in (*against, *steps) if name in table]):
        control = steps if arm.endswith(_STEPS) and steps else list(against)
        gap = table[arm] - table[control].mean(axis=1)
        by_draw = gap.groupby(["draw", "task"]).mean().unstack("task")
        low, high = np.quantile(_bootstrap(gap, resamples, seed), [0.025, 0.975])
        draws = by_draw.mean(axis=1).tolist()
        rows[arm] = {"difference": float(np.mean(draws)), "low": low, "high": high, "draws": draws}
        rows[arm] |= by_draw.mean().to_dict()
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("arm").sort_values("difference", ascending=False)


def _bootstrap(gap: pd.Series, resamples: int, seed: int) -> np.ndarray:
    """Means over tasks of resampled differences by question, indexed by draw, task and question."""
    rng = np.random.default_rng(seed)
    parts = [[asked.to_numpy() for _, asked in draw.groupby("task")] for _, draw in gap.groupby("draw")]
    drawn = rng.integers(0, len(parts), (resamples, len(parts)))
    means = np.zeros(resamples)
    for place in range(len(parts)):  # each place of a resample asks anew
        values = np.empty((len(parts), resamples))
        for number, draw in enumerate(parts):
            asked = [part[rng.integers(0, len(part), (resamples, len(part)))].mean(axis=1) for part in draw]
            values[number] = np.mean(asked, axis=0)
        means += values[drawn[:, place], np.arange(resamples)]
    return means / len(parts)


def plot_gpu_differences(differences: pd.DataFrame, *, title: str) -> Figure:
    """Differences to random: the mean with its interval and the draws as points, and beside it task by task.

    Parameters
    ----------
    differences : DataFrame
        From `gpu_differences`.
    title : str

    Returns
    -------
    Figure
    """
    shown = differences.drop(index="base", errors="ignore")
    tasks = [name for name in shown if name not in ("difference", "low", "high", "draws")]
    xlabel = "mean over tasks less that of random (ticks: each draw)"
    return plot_arms(shown, shown[tasks], title=title, xlabel=xlabel)
