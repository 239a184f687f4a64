"""plots.py and style.py: every figure draws what it was given."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.patches import Rectangle

from assl_kit.data.synthetic import TASKS
from assl_kit.teaching import plots, style
from assl_kit.teaching.evidence_plots import plot_differences
from assl_kit.teaching.referee_plots import MOST_CURVES, MOST_ROWS, plot_learning_curves, plot_referee, plot_verdict


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def test_colours_are_fixed_and_distinct():
    colours = style.task_colours(["zebra", "qa"])
    assert colours["qa"] == style.task_colours(TASKS)["qa"]
    assert len(set(style.task_colours(TASKS).values())) == len(TASKS)
    assert len(set(style.expert_colours(6))) == 6


def test_chinese_labels_are_replaced_where_no_font_has_them(monkeypatch):
    monkeypatch.setattr(style, "cjk_font", lambda: None)
    assert style.readable(["qa", "情感"]) == ["qa", "label 2"]
    monkeypatch.setattr(style, "cjk_font", lambda: "SimHei")
    assert style.readable(["qa", "情感"]) == ["qa", "情感"]


def test_long_tail_is_sorted_and_complete():
    records = pd.DataFrame({"source": ["a"] * 5 + ["b"] * 9, "task": ["qa"] * 5 + ["sentiment"] * 9})
    axes = plots.plot_long_tail(records).axes[0]
    assert [t.get_text() for t in axes.get_yticklabels()] == ["b", "a"]
    assert sum(patch.get_width() for patch in axes.patches) == 14


def test_project_keeps_groups_apart_and_is_reproducible():
    rng = np.random.default_rng(0)
    X = np.vstack([rng.normal(0, 0.1, (30, 8)), rng.normal(3, 0.1, (30, 8))])
    first, second = plots.project(X, seed=0), plots.project(X, seed=0)
    assert np.array_equal(first, second)
    gap = np.linalg.norm(first[:30].mean(0) - first[30:].mean(0))
    assert gap > first[:30].std()


def test_kept_share_counts_by_tenth():
    kappa = np.arange(1, 101, dtype=float)
    axes = plots.plot_kept_share(kappa, np.arange(90, 100), title="t").axes[0]
    assert [p.get_height() for p in axes.patches] == [0] * 9 + [1]


def test_matrix_shows_every_number():
    table = pd.DataFrame([[1, 2], [3, 4]], index=["a", "b"], columns=["x", "y"])
    axes = plots.plot_matrix(table, title="t").axes[0]
    assert [t.get_text() for t in axes.texts] == ["1", "2", "3", "4"]
    assert {t.get_rotation() for t in axes.get_xticklabels()} == {0.0}
    named = plots.plot_matrix(table.set_axis(["sentiment", "qa"], axis=1), title="t").axes[0]  # they would collide
    assert {t.get_rotation() for t in named.get_xticklabels()} == {35.0}


def test_differences_name_what_differs_and_say_by_colour_and_shape_what_is_told_apart():
    rows = [("experts", "experts, other encoder", 0.2, 0.1, 0.3), ("experts", "base", -0.2, -0.3, -0.1)]
    rows += [("experts", "one LoRA", 0.0, -0.1, 0.1)]
    table = pd.DataFrame(rows, columns=["arm", "against", "value", "low", "high"])
    table = table.assign(metric="difference in mean", task="mean")
    pairs = [("experts", against) for against in (*table["against"], "never measured")]
    axes = plot_differences(table, pairs, title="t").axes[0]
    assert [t.get_text() for t in axes.get_yticklabels()] == [
        "experts  −  other encoder",
        "experts  −  base",
        "experts  −  one LoRA",
    ]
    points = [line for line in axes.lines if line.get_marker() in ("o", "D")]
    assert [line.get_marker() for line in points] == ["o", "o", "D"]
    assert len({line.get_color() for line in points}) == 3


def test_a_difference_that_would_flatten_the_others_is_an_arrow_with_its_number():
    rows = [("a", "b", 0.01, -0.01, 0.03), ("a", "c", 0.02, 0.0, 0.04), ("a", "base", 0.5, 0.4, 0.6)]
    table = pd.DataFrame(rows, columns=["arm", "against", "value", "low", "high"])
    table = table.assign(metric="difference in mean", task="mean")
    axes = plot_differences(table, [("a", against) for against in table["against"]], title="t").axes[0]
    assert [text.get_text() for text in axes.texts] == ["+0.50"] and axes.get_xlim()[1] < 0.4
    assert [line.get_marker() for line in axes.lines if line.get_marker() in ("D", ">")] == ["D", "D", ">"]
    assert plot_differences(table, [], title="nothing measured").axes[0].get_yticklabels() == []


def test_results_has_a_bar_for_each_arm_and_task():
    table = pd.DataFrame(
        [(arm, task, value, value - 0.1, value + 0.2) for arm, task, value in _MEASURED],
        columns=["arm", "task", "value", "low", "high"],
    )
    axes = plots.plot_results(table).axes[0]
    bars = {bars.get_label(): [bar.get_height() for bar in bars] for bars in axes.containers if len(bars) == 2}
    assert bars == {"base": [0.2, 0.3], "routed": [0.5, 0.6]}
    assert [text.get_text() for text in axes.get_xticklabels()] == ["qa", "mean"]
    assert texts(axes) == (
        "Every arm on every task, with 95 % bootstrap intervals", "", "metric (0 to 1)", ["base", "routed"]
    )  # fmt: skip
    ends = [segment[:, 1].tolist() for lines in axes.collections for segment in lines.get_segments()]
    assert np.allclose(ends, [[0.1, 0.4], [0.2, 0.5], [0.4, 0.7], [0.5, 0.8]])


_MEASURED = [("base", "qa", 0.2), ("base", "mean", 0.3), ("routed", "qa", 0.5), ("routed", "mean", 0.6)]


def texts(axes):
    """Title, labels of the axes, and the entries of the legend."""
    legend = axes.get_legend()
    entries = [text.get_text() for text in legend.get_texts()] if legend else []
    return axes.get_title(loc="left"), axes.get_xlabel(), axes.get_ylabel(), entries


def points(collection):
    return np.asarray(collection.get_offsets()).tolist()


def test_a_map_shows_each_point_by_its_label():
    axes = plots.plot_map(np.eye(4)[:, :2], ["a", "b", "a", "b"], title="m").axes[0]
    assert texts(axes) == ("m", "", "", ["a", "b"]) and not len(axes.get_xticks())
    shown = {part.get_label(): points(part) for part in axes.collections}
    assert shown == {"a": [[1, 0], [0, 0]], "b": [[0, 1], [0, 0]]}
    colours = [tuple(part.get_facecolor()[0]) for part in axes.collections]
    assert len(set(colours)) == 2


def test_core_distances_are_drawn_in_order_with_the_radius():
    axes = plots.plot_core_distances(np.array([0.3, 0.1, 0.2]), 0.25, 10).axes[0]
    curve, radius = axes.lines
    assert curve.get_ydata().tolist() == [0.1, 0.2, 0.3] and set(radius.get_ydata()) == {0.25}
    assert texts(axes) == ("Core distances", "records, densest first", "distance to neighbour 10", ["eps = 0.250"])


def test_radii_are_drawn_round_what_is_kept():
    X = np.array([[0.0, 0], [1, 0], [2, 2]])
    axes = plots.plot_radii(X, np.array([0.1, 0.2, 0.3]), title="t", kept=np.array([0, 2])).axes[0]
    assert [(tuple(circle.center), circle.radius) for circle in axes.patches] == [((0, 0), 0.1), ((2, 2), 0.3)]
    dropped, kept = axes.collections
    assert points(dropped) == [[1, 0]] and points(kept) == [[0, 0], [2, 2]]
    assert texts(axes) == ("t", "", "", ["dropped", "kept"]) and axes.get_aspect() == 1
    whole = plots.plot_radii(X, np.ones(3), title="t").axes[0]
    assert len(whole.patches) == 3 and whole.get_legend() is None


def test_densities_are_shares_of_the_records_by_their_logarithm():
    before, after = np.array([0.001, 0.01, 0.1, 1.0]), np.array([0.1, 1.0])
    axes = plots.plot_density(before, after).axes[0]
    title, x, y, entries = texts(axes)
    assert (title, y) == ("Density before and after thinning", "share of the records")
    assert sorted(entries) == ["all 4", "kept 2"]
    assert x.startswith("log10 core distance")
    bars = [bar for bar in axes.patches if isinstance(bar, Rectangle)]
    assert [bar.get_height() for bar in bars if bar.get_height()] == [0.25] * 4
    ends = sorted(bar.get_x() for bar in bars if bar.get_height())
    assert ends[0] == pytest.approx(-3) and ends[-1] == pytest.approx(0, abs=0.1)
    (outline,) = (patch for patch in axes.patches if not isinstance(patch, Rectangle))
    assert outline.get_xy()[:, 1].max() == 0.5


def test_the_path_of_mmr_is_numbered_in_its_order():
    xy = np.array([[0.0, 0], [1, 0], [2, 2], [3, 1]])
    axes = plots.plot_mmr_path(xy, [3, 0], centroid=(1.5, 1)).axes[0]
    assert texts(axes) == ("Selection path", "", "", ["pool", "picked", "centroid"])
    pool, picked, centroid = axes.collections
    assert points(pool) == xy.tolist() and points(picked) == [[3, 1], [0, 0]] and points(centroid) == [[1.5, 1]]
    assert axes.lines[0].get_xydata().tolist() == [[3, 1], [0, 0]]
    assert [(note.get_text(), tuple(note.xy)) for note in axes.texts] == [("1", (3, 1)), ("2", (0, 0))]
    many = plots.plot_mmr_path(np.eye(20)[:, :2], range(20)).axes[0]
    assert [note.get_text() for note in many.texts] == [str(k) for k in range(1, 16)]


def test_losses_and_lines_are_drawn_as_they_are():
    logs = {f"expert-{k}": pd.DataFrame({"step": [1, 2], "loss": [2.0, 1.0 - k]}) for k in range(2)}
    axes = plots.plot_loss(logs).axes[0]
    assert [line.get_xydata().tolist() for line in axes.lines] == [[[1, 2], [2, 1]], [[1, 2], [2, 0]]]
    title, x, y, entries = texts(axes)
    assert (x, entries) == ("step", ["expert-0", "expert-1"]) and "loss" in y and "loss" in title
    axes = plots.plot_lines([0, 1], {"a": [0, 1], "b": [3, 2]}, xlabel="x", ylabel="y", title="t").axes[0]
    assert [line.get_xydata().tolist() for line in axes.lines] == [[[0, 0], [1, 1]], [[0, 3], [1, 2]]]
    assert texts(axes) == ("t", "x", "y", ["a", "b"]) and len({line.get_color() for line in axes.lines}) == 2


def test_a_close_call_is_faint_on_the_map_of_decisions():
    axes = plots.plot_decision_map(np.arange(8.0).reshape(4, 2), [0, 1, -1, 1], [0.1, 0.2, np.inf, 0.4]).axes[0]
    drawn = [part for part in axes.collections if len(part.get_offsets())]
    assert [points(part) for part in drawn] == [[[4, 5]], [[0, 1]], [[2, 3], [6, 7]]]
    base, _, one = (part.get_facecolor() for part in drawn)
    assert tuple(base[0]) == (0, 0, 0, 1) and 0.2 < one[0][3] < one[1][3] == 1
    assert texts(axes)[3] == ["base alone", "expert 0", "expert 1"]


@pytest.mark.parametrize(
    "draw",
    [
        lambda: plots.plot_map(np.eye(4)[:, :2], ["a", "b", "a", "b"]),
        lambda: plots.plot_lines([0, 1], {"a": [0, 1]}, xlabel="x", ylabel="y", title="t"),
    ],
)
def test_what_is_drawn_lies_on_the_picture(draw):
    """On white, with ink on it, and nothing reaches beyond the edge."""
    figure = draw()
    assert figure.get_facecolor() == (1.0, 1.0, 1.0, 1.0)
    figure.canvas.draw()
    picture = np.asarray(figure.canvas.buffer_rgba())[..., :3]
    assert 0.003 < (picture < 255).any(axis=2).mean() < 0.6
    drawn, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
    assert drawn.x0 >= 0 and drawn.y0 >= 0 and drawn.x1 <= width and drawn.y1 <= height


def test_the_referee_is_drawn_a_panel_a_reference_with_the_means_above():
    rows = [
        {"arm": arm, "against": f"{against} 1,000", "task": task, "difference": 0.1, "low": low, "high": 0.2}
        for arm in ("mine", "other")
        for against in ("random", "balanced random")
        for task, low in (("a $ b$", -0.1), ("mean", 0.05), *((f"t{i}", 0.0) for i in range(60)))
    ]
    rows.append(rows[0] | {"arm": "balanced random 1,000", "against": "random 1,000"})
    figure = plot_referee({"differences": rows})
    figure.canvas.draw()
    left, right = figure.axes
    assert [axes.get_title(loc="left") or axes.get_title() for axes in (left, right)] == [
        "less random",
        "less balanced random",
    ]
    labels = [text.get_text() for text in left.get_yticklabels()]
    assert labels[:2] == ["mean", r"a \$ b\$"] and len(labels) == MOST_ROWS
    assert len(left.lines) == 2 * 2 * MOST_ROWS + 1


@pytest.mark.parametrize("size", ["", " 1,000"])
def test_arms_of_a_verdict_stand_in_order_of_their_difference(size):
    rows = [
        {"arm": arm, "against": against + size, "task": task, "difference": gap, "low": gap - 0.1, "high": gap + 0.1}
        for arm, gap in (("worse", -0.2), ("better", 0.2))
        for against in ("random", "balanced random")
        for task in ("qa", "negative_news", "mean", "mean without smallest")
    ]
    left, right = plot_verdict({"differences": rows}).axes
    assert [label.get_text() for label in left.get_yticklabels()] == ["better", "worse"]
    assert [label.get_text() for label in right.get_xticklabels()] == ["negative_news", "qa"]


def test_learning_curves_of_the_largest_groups_are_drawn():
    curve = {"sizes": [25, 50, 100], "scores": [0.4, 0.5, 0.6], "a": 0.8, "b": 2.0, "c": 0.5, "enough": 90}
    groups = [curve | {"group": f"g{i}", "n_records": 100 + i} for i in range(20)]
    figure = plot_learning_curves({"curves": groups})
    figure.canvas.draw()
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == [
        f"g{i}" for i in range(19, 19 - MOST_CURVES, -1)
    ]
    plot_learning_curves({"curves": [curve | {"group": "one", "sizes": [1], "scores": [0.0], "n_records": 1}]})
    plot_learning_curves({"curves": []})


@pytest.mark.parametrize("kinds", [1, 2, 3, 4, 6])
def test_rows_that_hardly_differ_have_a_map(kinds):
    """t-SNE of constant rows ends the process."""
    rows = np.eye(8, dtype=np.float32)[np.arange(40) % kinds]
    rows += np.random.default_rng(0).normal(scale=1e-7, size=rows.shape).astype(np.float32)
    xy = plots.project(rows)
    assert xy.shape == (40, 2) and np.isfinite(xy).all()
    if kinds < 4:
        assert len(np.unique(xy, axis=0)) == kinds
        assert (xy[:kinds] == xy[kinds : 2 * kinds]).all()
    assert plots.project(rows[:1]).shape == (1, 2)


def test_one_expert_without_a_runner_up_is_drawn():
    figure = plots.plot_decision_map(np.zeros((3, 2)), [0, 0, 0], [np.inf] * 3)
    assert figure.axes[0].collections[0].get_alpha().tolist() == [1, 1, 1]
    mixed = plots.plot_decision_map(np.zeros((3, 2)), [0, 0, 0], [np.inf, 0.1, 0.0])
    assert mixed.axes[0].collections[0].get_alpha().tolist() == pytest.approx([1, 1, 0.2], abs=0.2)


def test_numbered_names_are_drawn_in_the_order_of_their_numbers():
    labels = [str(k) for k in (10, 2, 0, 11, 1)]
    legend = plots.plot_map(np.zeros((5, 2)), labels).axes[0].get_legend()
    assert [text.get_text() for text in legend.get_texts()] == ["0", "1", "2", "10", "11"]
    assert list(style.task_colours(["任务10", "任务9"]))[-2:] == ["任务9", "任务10"]


def test_a_table_of_a_thousand_tasks_is_still_a_picture(tmp_path):
    table = pd.DataFrame(np.ones((2, 1000)), columns=[f"t{k}" for k in range(1000)])
    figure = plots.plot_matrix(table.iloc[:, :900], title="wide")
    assert figure.get_size_inches().max() <= style.LARGEST
    records = pd.DataFrame({"source": [f"s{k}" for k in range(900)], "task": "qa"})
    assert plots.plot_long_tail(records).get_size_inches().max() <= style.LARGEST
