"""What one H100 measured: read, told with intervals, drawn."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from assl_kit.common.files import read_json, shipped
from assl_kit.teaching import gpu_evidence as gpu

FILES = pytest.mark.parametrize("name", [gpu.FAILURE, gpu.MENDED])


@FILES
def test_every_arm_is_told_as_the_file_has_it(name):
    results = gpu.gpu_results(name)
    table = gpu.gpu_table(results)
    assert results["score"].between(0, 1).all() and table["mean"].is_monotonic_decreasing
    assert np.allclose(table.drop(columns="mean").mean(axis=1), table["mean"])
    raw = read_json(shipped("results") / f"{name}.json")
    told = {"first default": raw["by_task"]["chosen-t0"]["mean"]} if name == gpu.FAILURE else {}
    if name == gpu.MENDED:
        runs = pd.DataFrame([{"arm": run["arm"], "mean": run["by_task"]["mean"]} for run in raw["arms"].values()])
        told = runs.groupby("arm")["mean"].mean().to_dict()
        assert set(told) == set(table.index)
    for arm, mean in told.items():
        assert table.loc[arm, "mean"] == pytest.approx(mean, abs=0.01), arm  # F1 of all questions or of each


@FILES
def test_differences_are_paired_by_draw_and_seeded(name):
    results = gpu.gpu_results(name)
    found = gpu.gpu_differences(results)
    assert not set(gpu.RANDOM) & set(found.index)
    assert (found["low"] < found["difference"]).all() and (found["difference"] < found["high"]).all()
    pd.testing.assert_frame_equal(found, gpu.gpu_differences(results))
    assert {len(draws) for draws in found["draws"]} == {results["draw"].nunique()}
    table = gpu.gpu_table(results)["mean"]
    control = table[list(gpu.RANDOM)].mean()
    assert found.loc["all", "difference"] == pytest.approx(table["all"] - control)
    tasks = list(results["task"].unique())
    assert np.allclose(found[tasks].mean(axis=1), found["difference"])


def test_what_is_said_of_them_holds():
    failure = gpu.gpu_differences(gpu.gpu_results(gpu.FAILURE))
    assert failure.loc["first default", "high"] < 0 < failure.loc["random, equal budgets", "low"]
    mended = gpu.gpu_differences(gpu.gpu_results())
    assert mended.loc["default", "low"] > 0 > mended.loc["paper preset without score", "high"]
    assert mended.loc["all", "low"] > mended.loc["default", "high"]
    assert min(mended.loc["default", "draws"]) > 0, "better in each draw"
    tasks = mended.loc["default"].drop(["difference", "low", "high", "draws"]).astype(float)
    assert tasks.idxmax() == "qa" and tasks.drop("qa").mean() < tasks.mean() / 2, "one task is most of it"


@pytest.mark.parametrize(
    ("arm", "against", "word"),
    [
        ("default", "all", "worse"),
        ("default", "random, budgets by size^.25", "not told apart"),
        ("default", "random, equal budgets", "not told apart"),
        ("default, equal steps", "random, equal steps", "better"),
    ],
)
def test_what_notebook_08_says_of_two_arms_holds(arm, against, word):
    row = gpu.gpu_differences(gpu.gpu_results(), against=(against,)).loc[arm]
    assert word == ("better" if row["low"] > 0 else "worse" if row["high"] < 0 else "not told apart")


def test_an_interval_covers_what_is_true():
    """Of questions and draws that differ by chance alone, about 0 is within the interval."""
    rng = np.random.default_rng(0)
    rows = [
        {"arm": arm, "draw": draw, "task": task, "question": number, "score": rng.random()}
        for arm in (*gpu.RANDOM, "mine")
        for draw in range(4)
        for task in "ab"
        for number in range(60)
    ]
    found = gpu.gpu_differences(pd.DataFrame(rows))
    assert found.loc["mine", "low"] < 0 < found.loc["mine", "high"]
    steady = pd.DataFrame(rows).assign(score=lambda table: (table["arm"] == "mine") * 0.25)
    row = gpu.gpu_differences(steady).loc["mine"]
    assert row["low"] == row["high"] == row["difference"] == 0.25


@FILES
def test_it_is_drawn(name):
    differences = gpu.gpu_differences(gpu.gpu_results(name))
    figure = gpu.plot_gpu_differences(differences, title="One H100")
    left = figure.axes[0]
    labels = [label.get_text() for label in left.get_yticklabels()]
    assert labels == list(differences.index.drop("base")) and left.get_title(loc="left") == "One H100"
    plt.close(figure)
