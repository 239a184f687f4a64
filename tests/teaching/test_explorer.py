"""explorer.py: the interactive map shows each record once, in three colourings, and cannot be broken by a text."""

from __future__ import annotations

import json
import re
import sys

import numpy as np
import pandas as pd
import pytest

from assl_kit.errors import DataError, ParameterError
from assl_kit.teaching.explorer import KEPT_COLOURS, explore_space, hover_text, write_explorer
from assl_kit.teaching.style import expert_colours, task_colours


@pytest.fixture
def records():
    return pd.DataFrame(
        {
            "id": [f"r{i}" for i in range(6)],
            "task": ["qa", "qa", "sentiment", "sentiment", "qa", "sentiment"],
            "instruction": ["判断情感。"] * 6,
            "input": ["公司净利润增长", "<script>alert(1)</script>", "a & b", "costs $5$", "x" * 500, "股价\n下跌"],
            "output": ["是", "否", "积极", "</script>", "y" * 500, "消极"],
            "cluster": [0, 0, 1, 0, 0, 1],
            "kept": [True, False, True, False, False, False],
        }
    )


def points(figure):
    """Each point of a figure: its place and its hover text."""
    return [(x, y, text) for trace in figure.data for x, y, text in zip(trace.x, trace.y, trace.hovertext, strict=True)]


def buttons(figure):
    return {button.label: button.args[0] for button in figure.layout.updatemenus[0].buttons}


def test_every_record_is_there_once_at_its_place(records):
    xy = np.arange(12).reshape(6, 2)
    figure = explore_space(xy, records)
    found = sorted(points(figure))
    assert [(x, y) for x, y, _ in found] == [tuple(map(float, place)) for place in xy]
    assert [re.match(r"<b>(\w+)</b>", text)[1] for _, _, text in found] == list(records["id"])


def test_the_three_colourings_are_those_of_the_pictures(records):
    figure = explore_space(np.eye(6)[:, :2], records)
    styles = buttons(figure)
    assert list(styles) == ["by task", "by cluster", "by what was kept"]
    ids = [[re.match(r"<b>(\w+)</b>", text)[1] for text in trace.hovertext] for trace in figure.data]
    table = records.set_index("id")
    tasks = task_colours([])
    for number, rows in enumerate(ids):
        assert table.loc[rows, ["task", "cluster", "kept"]].drop_duplicates().shape[0] == 1
        one = table.loc[rows[0]]
        assert styles["by task"]["marker.color"][number] == tasks[one["task"]] == figure.data[number].marker.color
        assert styles["by cluster"]["marker.color"][number] == expert_colours(one["cluster"] + 1)[-1]
        kept = "kept" if one["kept"] else "not kept"
        assert styles["by what was kept"]["marker.color"][number] == KEPT_COLOURS[kept]
        assert (figure.data[number].marker.symbol == "diamond") == one["kept"]
    for style, names in zip(
        styles.values(), (["qa", "sentiment"], ["cluster 0", "cluster 1"], ["kept", "not kept"]), strict=True
    ):
        shown = [name for name, show in zip(style["name"], style["showlegend"], strict=True) if show]
        assert sorted(shown) == names and style["legendgroup"] == style["name"]


def test_a_map_without_clusters_has_one_button(records):
    figure = explore_space(np.zeros((6, 2)), records.drop(columns=["cluster", "kept"]))
    assert list(buttons(figure)) == ["by task"] and {trace.marker.symbol for trace in figure.data} == {"circle"}


def test_chinese_tasks_keep_their_names(records):
    records["task"] = ["情感", "问答"] * 3
    figure = explore_space(np.zeros((6, 2)), records)
    assert {trace.name for trace in figure.data} == {"情感", "问答"}


def test_hover_text_is_escaped_short_and_in_lines(records):
    texts = [hover_text(record) for record in records.to_dict("records")]
    assert "<script" not in "".join(texts) and "&lt;script&gt;alert(1)&lt;/script&gt;" in texts[1]
    assert "a &amp; b" in texts[2] and "$" not in texts[3]
    assert texts[0] == "<b>r0</b> · qa · cluster 0 · kept<br>判断情感。<br>公司净利润增长<br>→ 是"
    assert texts[4].count("x") == 89 and "…" in texts[4] and max(map(len, texts[4].split("<br>"))) < 60
    assert "股价 下跌" in texts[5]
    assert set(re.findall(r"<[^>]*>", "".join(texts))) == {"<b>", "</b>", "<br>"}


def test_missing_texts_are_left_out():
    text = hover_text({"id": 1, "task": "qa", "instruction": None, "input": float("nan"), "output": "z"})
    assert text == "<b>1</b> · qa<br>→ z"


def test_the_page_needs_nothing_else_and_runs_nothing_of_a_record(records, tmp_path):
    path = tmp_path / "deep" / "map.html"
    write_explorer(path, explore_space(np.zeros((6, 2)), records, title="</title><script>"), title="<b>&</b>")
    page = path.read_text(encoding="utf-8")
    assert "<title>&lt;b&gt;&amp;&lt;/b&gt; · assl-kit</title>" in page
    assert not re.search(r"<script[^>]*\bsrc=|<link\b|@import|<iframe", page)
    ours = page[page.rindex("Plotly.newPlot(") :]
    assert "alert(1)" in ours and "<script>alert" not in page and ours.count("</script>") == 1
    assert not re.search(r"https?://", ours)


def test_its_stored_output_is_small():
    n = 1000
    record = {"task": "qa", "instruction": "判" * 60, "input": "公" * 200, "output": "是" * 60, "cluster": 1, "kept": 0}
    records = pd.DataFrame([{"id": f"train-{i:06d}", **record} for i in range(n)])
    figure = explore_space(np.random.default_rng(0).normal(size=(n, 2)), records)
    stored = json.dumps(json.loads(figure.to_json()), ensure_ascii=False).encode()
    assert len(stored) < 800_000, "the worst case: every text is longer than what is shown"


def test_what_does_not_fit_is_refused(records):
    with pytest.raises(DataError, match=r"shape \(5, 2\), but there are 6 records"):
        explore_space(np.zeros((5, 2)), records)
    with pytest.raises(DataError, match="no column 'output'"):
        explore_space(np.zeros((6, 2)), records.drop(columns="output"))
    places = np.zeros((6, 2))
    places[3] = np.nan
    with pytest.raises(DataError, match=r"not finite \(record r3\)"):
        explore_space(places, records)


def test_without_plotly_it_says_what_to_install(records, monkeypatch):
    monkeypatch.setitem(sys.modules, "plotly", None)
    with pytest.raises(
        ParameterError, match=r'needs plotly, which is not installed. Install it: pip install "assl-kit\[notebooks\]"'
    ):
        explore_space(np.zeros((6, 2)), records)
