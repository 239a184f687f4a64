"""The referee's verdict and the learning curves, drawn."""

from __future__ import annotations

import matplotlib.pyplot as plt

from assl_kit.teaching.verdict_plots import plot_measured_curves, plot_verdict


def test_arms_stand_in_order_of_their_difference():
    rows = [
        {"arm": arm, "against": against, "task": task, "difference": gap, "low": gap - 0.1, "high": gap + 0.1}
        for arm, gap in (("worse", -0.2), ("better", 0.2))
        for against in ("random", "balanced random")
        for task in ("qa", "sentiment", "mean", "mean without smallest")
    ]
    left, right = plot_verdict({"differences": rows}).axes
    assert [label.get_text() for label in left.get_yticklabels()] == ["better", "worse"]
    assert [label.get_text() for label in right.get_xticklabels()] == ["qa", "sentiment"]
    plt.close("all")


def test_curves_are_drawn_through_their_points():
    curve = {"group": "qa", "sizes": [25, 50, 90], "scores": [0.2, 0.3, 0.4], "a": 1.0, "b": 2.0, "c": 0.3}
    axes = plot_measured_curves([curve | {"n_records": 90}]).axes[0]
    points, line = axes.get_lines()
    assert points.get_xdata().tolist() == [25, 50, 90] and line.get_xdata()[-1] == 90
    plt.close("all")
