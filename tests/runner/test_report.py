"""The report: one page with everything inside, whatever the metrics hold, and nothing unescaped."""

from __future__ import annotations

import base64
import re

import nbformat
import pandas as pd
import pytest
from helpers.notebooks import write_notebook

from assl_kit.artifacts.parameters import resolve
from assl_kit.artifacts.workspace import Workspace
from assl_kit.common.files import write_json
from assl_kit.data.records import validate_records, write_records
from assl_kit.errors import WorkspaceError
from assl_kit.runner.choice import TITLE, difference_table, enough_sentence, remarks, score_table, verdicts
from assl_kit.runner.manifest_rows import notebook_rows, run_state
from assl_kit.runner.page import render_page, show
from assl_kit.runner.report import results_table, write_report

PNG = base64.b64encode(
    bytes.fromhex(
        "89504e470d0a1a0a0000000d4948445200000001000000010806000000"
        "1f15c4890000000d49444154789c6360000002000001e221bc330000000049454e44ae426082"
    )
).decode()
TABLE = [
    {"arm": arm, "task": task, "metric": "f1", "n": 20, "value": value, "low": value - 0.1, "high": value + 0.1}
    for arm, value in (("base", 0.3), ("routed", 0.6))
    for task in ("mean", "问答", "sentiment")
]
DIFFERENCES = [{"arm": "routed", "against": "base", "difference": 0.3, "low": 0.2, "high": 0.4}]
METRICS = {
    "table": TABLE,
    "routing": {"accuracy": 0.91, "by_task": [{"task": "qa", "right": 0.9}]},
    "clusters": {"nmi": 0.7, "purity": 0.8, "table": {"0": {"qa": 5, "other": 1}, "1": {"qa": 2, "other": 7}}},
    "kept": {"by_source": [{"source": "<script>alert(1)</script>", "available": 100, "kept": 10, "copies": 11}]},
    "regret": [],
    "odd": [1, None, "x"],
    "corpus": {"records": 6000, "distinct": 0.25},
    "nothing": None,
}


@pytest.fixture
def ws(tmp_path):
    ws = Workspace.open(tmp_path / "runs" / "one")
    ws.remember("tiny", resolve("tiny", data="/somewhere/<b>mine</b>.jsonl"))
    write_json(ws.path_of("metrics.json"), METRICS)
    ws.commit("metrics.json", key="k", parents=["answers.parquet"], seconds=3, notebook="08")
    ws.update_manifest("notebooks", {"00_first": {"status": "done", "seconds": 2.5}, "01_second": {"status": "failed"}})
    return ws


def add_picture(ws, data=PNG):
    path = write_notebook(ws.path_of("notebooks/03_clustering.ipynb"), "# Clusters & tasks", "draw()")
    book = nbformat.read(path, as_version=4)
    book.cells[-1].outputs = [nbformat.v4.new_output("display_data", data={"image/png": data})]
    nbformat.write(book, path)


def test_the_page_holds_all_parts(ws):
    add_picture(ws)
    html = write_report(ws).read_text(encoding="utf-8")
    for part in (
        "0.600<small>[0.500, 0.700]</small>",
        "问答",
        "accuracy",
        "0.910",
        "normalised mutual information",
        "answers.parquet",
    ):
        assert part in html
    assert f"data:image/png;base64,{PNG}" in html and "Clusters &amp; tasks" in html
    assert "The notebook 01_second did not finish." in html and "00_first did not" not in html
    assert "n_clusters" in html and "number of clusters" in html and "torch" in html


def test_data_verdict_routed_column_and_pictures_come_first(ws):
    add_picture(ws)
    corpus = {"records": 6000, "train": 5400, "chosen": 540}
    write_json(ws.path_of("metrics.json"), METRICS | {"differences": DIFFERENCES, "corpus": corpus})
    html = write_report(ws).read_text(encoding="utf-8")
    assert "<h1>b&gt;.jsonl: 540 of 5,400 records chosen</h1>" in html and "run one · profile tiny" in html
    verdict = "On the mean over tasks “routed” reaches 0.600: better than “base” (+0.300)."
    assert html.index(verdict) < html.index("<h2>Results") < html.index("<img") < html.index("normalised mutual")
    columns = re.findall(r"<th>(.*?)</th>", html.split("<h2>Results")[1])
    assert columns[:3] == ["task", "routed", "base"]


def test_a_page_without_comparisons_gives_no_verdict(ws):
    assert 'class="verdict"' not in write_report(ws).read_text(encoding="utf-8")


def test_the_page_stands_alone_and_escapes_data(ws):
    add_picture(ws)
    html = write_report(ws).read_text(encoding="utf-8")
    assert "<script" not in html and "&lt;script&gt;alert(1)" in html
    assert "<b>" not in html and "/somewhere/&lt;b&gt;" in html
    assert not re.findall(r'(?:src|href)="(?!data:image/png;base64,)', html)
    assert "viewport" in html


def test_what_is_no_picture_is_left_out(ws):
    add_picture(ws, '"><script>alert(2)</script>')
    assert "alert(2)" not in write_report(ws).read_text(encoding="utf-8")


def test_a_run_without_anything_still_has_a_page(tmp_path):
    html = write_report(Workspace.open(tmp_path / "empty")).read_text(encoding="utf-8")
    assert "<h1>empty</h1>" in html and "<h2>Results" not in html


def test_the_results_table_has_tasks_as_rows_arms_as_columns_and_the_mean_last():
    table = results_table(METRICS)
    assert list(table.columns) == ["task", "metric", "n", "base", "routed"]
    assert table["task"].tolist() == ["问答", "sentiment", "mean"]
    assert table.loc[0, "base"] == "0.300 [0.200, 0.400]"


def test_an_interval_in_a_table_is_kept_together_on_a_phone():
    table = pd.DataFrame({"task": ["qa"], "difference": ["-0.01 [-0.03, +0.01]"], "note": ["see [1, 2]"]})
    page = render_page("t", "", [("table", table)])
    assert "-0.01 <span>[-0.03, +0.01]</span>" in page and "see [1, 2]" in page and page.count("<span>") == 1


def test_a_missing_cell_or_interval_is_left_empty():
    rows = [{"arm": "a", "task": "x", "value": 1.0, "low": None, "high": None}, {"arm": "b", "task": "y", "value": 0.5}]
    table = results_table({"table": rows})
    assert table.set_index("task").to_dict("index") == {"x": {"a": "1.000", "b": ""}, "y": {"a": "", "b": "0.500"}}
    assert results_table({}) is None and results_table({"table": [{"odd": 1}]}) is None


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.12345, "0.123"),
        (7, "7"),
        (12345, "12,345"),
        (True, "True"),
        (float("nan"), ""),
        (0.00012, "0.00012"),
        (-0.00012, "-0.00012"),
        (86.64, "86.6"),
        (0, "0"),
    ],
)
def test_cells_are_shown_short(value, text):
    assert show(value) == text


def test_warnings_cut_records_and_failures_are_told(ws):
    path = write_notebook(ws.path_of("notebooks/05_mmr.ipynb"), "# Picks", "warn()")
    book = nbformat.read(path, as_version=4)
    book.cells[-1].outputs = [
        nbformat.v4.new_output("stream", name="stderr", text="UserWarning: <i>odd</i> thing"),
        nbformat.v4.new_output("stream", name="stdout", text="only said"),
    ]
    nbformat.write(book, path)
    experts = [{"truncated": 0}, {"truncated": 3, "notes": ["batch halved"]}]
    write_json(ws.path_of("experts/bank.json"), {"experts": experts})
    ws.update_manifest("notebooks", {"01_second": {"status": "failed", "message": "ValueError: <no luck>"}})
    html = write_report(ws).read_text(encoding="utf-8")
    assert "UserWarning: &lt;i&gt;odd&lt;/i&gt; thing" in html and "only said" not in html
    assert "3 records lost their start" in html and "batch halved" in html and "Expert 0" not in html
    assert "The notebook 01_second did not finish. ValueError: &lt;no luck&gt;" in html


@pytest.mark.parametrize("status", ["failed", "interrupted", "running"])
def test_every_notebook_that_did_not_finish_has_an_alarm(ws, status):
    ws.update_manifest("notebooks", {"02_third": {"status": status}})
    html = write_report(ws).read_text(encoding="utf-8")
    assert '<p class="alarm">The notebook 02_third did not finish.</p>' in html
    assert html.count('<p class="alarm">') == 2, "and that of the other that failed"


def test_a_notebook_is_at_work_only_while_its_run_is():
    manifest = {"notebooks": {"00_a": {"status": "done"}, "01_b": {"status": "running"}}}
    assert [row["status"] for row in notebook_rows(manifest, running=True)] == ["done", "running"]
    assert [row["status"] for row in notebook_rows(manifest, running=False)] == ["done", "broken off"]
    assert [run_state(manifest, running=running) for running in (True, False)] == ["running", "broken off"]
    manifest["notebooks"]["02_c"] = {"status": "interrupted"}
    assert run_state(manifest, running=False) == "broken off"
    del manifest["notebooks"]["01_b"]
    assert run_state(manifest, running=False) == "interrupted"
    assert run_state({"notebooks": {}}, running=False) == "new"
    assert run_state({"notebooks": {"00_a": {"status": "done"}}}, running=False) == "done"


def test_a_run_without_warnings_says_so(ws):
    assert "None: no notebook printed a warning" in write_report(ws).read_text(encoding="utf-8")


TASKS = ("<i>qa</i>", "sentiment", "mean", "mean without smallest")
GAINS = {"random": (0.1, 0.05, 0.15), "balanced random": (-0.02, -0.08, 0.04)}
CURVE = {"sizes": [25, 50], "scores": [0.4, 0.5], "a": 0.8, "b": 2.0, "c": 0.5, "n_records": 2000, "enough": 1200}
VERDICT = {
    "table": [
        {"arm": arm, "task": task, "n": 20.0, "score": score, "sd": 0.01}
        for arm, score in (("random", 0.5), ("balanced random", 0.62), ("chosen", 0.6))
        for task in TASKS
    ],
    "differences": [
        {"arm": "chosen", "against": against, "task": task, "difference": gain, "low": low, "high": high}
        for against, (gain, low, high) in GAINS.items()
        for task in TASKS
    ]
    + [{"arm": "balanced random", "against": "random", "task": "mean", "difference": 0.12, "low": 0.1, "high": 0.14}],
    "curves": [CURVE | {"group": TASKS[0]}, CURVE | {"group": "sentiment", "b": 0.0, "enough": 1}],
    "about": {
        "n_draws": 5,
        "level": 0.95,
        "smallest": TASKS[0],
        "metrics": {TASKS[0]: "rouge_l", "sentiment": "accuracy"},
        "questions": {TASKS[0]: 40, "sentiment": 500},
        "baseline": {TASKS[0]: 0.3, "sentiment": 0.7},
        "left_out": {"odd": "it has one training record"},
        "n_known": 3,
    },
}


def pictures(html: str) -> list[str]:
    return re.findall(r'alt="([^"]*)" src="data:image/png', html)


def test_the_referee_is_told_in_words_tables_and_pictures(ws):
    write_json(ws.path_of("referee.json"), VERDICT)
    html = write_report(ws).read_text(encoding="utf-8")
    for part in (
        f"<h2>{TITLE}</h2>",
        "On the mean over tasks, chosen is better than random beyond the interval (+0.100 [+0.050, +0.150]) and not "
        "told apart from balanced random (-0.020 [-0.080, +0.040]); without the smallest of them "
        "(&lt;i&gt;qa&lt;/i&gt;) it is better",
        "chosen − balanced random",
        "No arm comes above the majority or lead in sentiment",
        "Not measured: odd (it has one training record).",
        "3 questions stand in the training records too",
        "1,200 of 2,000 records would bring each group within 0.01 of its score with all its own.",
        "Left out as flat, telling no number: 1 of 2 groups.",
    ):
        assert part in html
    assert len(pictures(html)) == 2 and "<i>" not in html
    assert write_report(ws).read_text(encoding="utf-8") == html


def test_the_tables_of_the_referee_have_the_means_where_one_looks():
    assert list(difference_table(VERDICT)["task"]) == ["mean", "mean without smallest", *TASKS[:2]]
    table = score_table(VERDICT)
    assert list(table["task"]) == list(TASKS)
    assert list(table.columns)[-3:] == ["chosen", "random", "balanced random"]
    worse = [row | {"low": -0.2, "high": -0.1} for row in VERDICT["differences"]]
    assert "chosen is worse than random beyond the interval" in verdicts(VERDICT | {"differences": worse})[0]
    quiet = VERDICT | {"about": VERDICT["about"] | {"left_out": {}, "n_known": 0, "baseline": {}}}
    assert remarks(quiet) == []
    assert enough_sentence(VERDICT | {"curves": []}) == ""
    assert enough_sentence(VERDICT | {"curves": VERDICT["curves"][1:]}).startswith("No learning curve rises")


def test_a_referee_that_was_not_asked_says_why_and_none_says_nothing(ws):
    assert TITLE not in write_report(ws).read_text(encoding="utf-8")
    write_json(ws.path_of("referee.json"), {"skipped": "no record has <an> answer"})
    html = write_report(ws).read_text(encoding="utf-8")
    assert (
        TITLE in html and "The referee was not asked: no record has &lt;an&gt; answer." in html and not pictures(html)
    )


def test_an_interval_that_touches_0_is_not_beyond_it_and_a_tie_with_the_majority_tells_nothing():
    for low, high in ((0.0, 0.1), (-0.1, 0.0), (0.0, 0.0)):
        touching = [row | {"low": low, "high": high} for row in VERDICT["differences"]]
        assert "chosen is not told apart from random (" in verdicts(VERDICT | {"differences": touching})[0]
    tied = VERDICT | {"about": VERDICT["about"] | {"baseline": {TASKS[0]: 0.61, "sentiment": 0.62}}}
    assert remarks(tied)[0].startswith("No arm comes above the majority or lead in sentiment:")


@pytest.mark.parametrize("odd", [[], {"odd": 1}, VERDICT | {"about": None}, VERDICT | {"curves": [{"group": "x"}]}])
def test_a_damaged_verdict_is_one_message(ws, odd):
    write_json(ws.path_of("referee.json"), odd)
    with pytest.raises(WorkspaceError, match="the report cannot be made"):
        write_report(ws)


def test_the_highest_scored_records_are_shown_and_the_excluded_counted(ws):
    ids = [f"r{i:02d}" for i in range(14)]
    rows = [
        {"id": name, "instruction": "判断\n<b>情绪</b>。", "input": f"{'长' * 99}{name}", "output": f"答{name}"}
        for name in ids
    ]
    write_records(validate_records(rows), ws.path_of("records.parquet"))
    raw = [0.1 * i for i in range(12)] + [1.1, float("nan")]
    scores = pd.DataFrame({"id": ids, "raw": raw, "score": [0.5] * 11 + [float("nan")] * 3})
    scores[::-1].to_parquet(ws.path_of("scores.parquet"))  # in another order than that of their ids
    ws.remember("tiny", resolve("tiny", score="ifd"))
    html = write_report(ws).read_text(encoding="utf-8")
    assert "3 of 14 scored records are excluded, 2 of them with an answer likelier alone (IFD above 1)" in html
    shown = re.findall(r"<td>(r\d\d)</td>", html)
    assert shown == ["r11", "r12", *(f"r{i:02d}" for i in range(10, 2, -1))]  # equal scores in order of id
    prompts = re.findall(r"判断 &lt;b&gt;情绪&lt;/b&gt;。 长+…", html)
    assert len(prompts) == 10 and "答r11" in html and "答r02" not in html and "<b>" not in html
    scores.assign(raw=float("nan")).to_parquet(ws.path_of("scores.parquet"))
    assert "The highest-scored" not in write_report(ws).read_text(encoding="utf-8")
