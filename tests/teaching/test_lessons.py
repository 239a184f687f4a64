"""What the chapters show beside figures: two languages, diagrams, pictures of toys, and the open exercises."""

from __future__ import annotations

from xml.etree import ElementTree

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from assl_kit import make_corpus
from assl_kit.teaching.lessons import exercises_open as open_checks
from assl_kit.teaching.lessons import pictures
from assl_kit.teaching.lessons.bilingual import FIELDS, English, record_lines, with_english
from assl_kit.teaching.lessons.diagrams import lora_diagram, method_diagram, routing_diagram

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def records():
    return make_corpus(200)


# --- two languages --------------------------------------------------------------------------------------------------


def test_each_text_of_a_record_has_its_english_below_it(records):
    for record in records.head(30).to_dict("records"):
        lines = record_lines(record, longest=10_000).splitlines()
        texts = [record[name] for field in FIELDS for name in (field, f"{field}_en")]
        expected = [" ".join(text.split()) for text in dict.fromkeys(texts) if text]
        assert [line[14:] for line in lines] == expected
        assert [line[:12].strip() for line in lines if line[:12].strip()] == [name for name in FIELDS if record[name]]


def test_a_record_without_english_is_shown_as_it_is():
    record = {"instruction": "问", "input": "", "output": "答" * 300, "output_en": float("nan")}
    lines = record_lines(record, longest=20).splitlines()
    assert [line.split()[0] for line in lines] == ["instruction", "output"]
    assert lines[1].endswith("…") and len(lines[1]) == 14 + 20


def test_english_is_found_by_its_chinese(records):
    english = English(records, {"你好": "hello"})
    row = records.iloc[0]
    assert english(f" {row['output']}\n") == row["output_en"] and english("你好") == "hello"
    assert english("没有这句话") == "" and english.beside("没有这句话") == "没有这句话"
    assert English(records[["output"]])(row["output"]) == ""


def test_with_english_keeps_no_column_that_a_user_has(records):
    own = with_english(records.assign(cluster=7, right_output="x"))
    assert {"id", "output", "output_en"} <= set(own) and not {"cluster", "right_output"} & set(own)


# --- diagrams -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "picture", [method_diagram(8), lora_diagram(5, 7, 2), routing_diagram()], ids=lambda p: p.words[:7]
)
def test_a_diagram_is_svg_on_white_within_its_size_and_says_what_it_shows(picture):
    root = ElementTree.fromstring(picture._repr_svg_())
    first = next(iter(root.iter(f"{SVG}rect")))
    assert first.get("fill") == "white" and int(first.get("width")) == picture.width
    assert root.find(f"{SVG}title").text == picture.words and repr(picture) == f"Diagram: {picture.words}"
    for text in root.iter(f"{SVG}text"):
        half = (
            0.56 * float(text.get("font-size")) * len(text.text) * (0.5 if text.get("text-anchor") == "middle" else 0)
        )
        x, y = float(text.get("x")), float(text.get("y"))
        assert half <= x <= picture.width - half and 8 <= y <= picture.height - 2, text.text
    for circle in root.iter(f"{SVG}circle"):
        x, y, r = (float(circle.get(name)) for name in ("cx", "cy", "r"))
        assert r <= x <= picture.width - r and r <= y <= picture.height - r


def test_a_diagram_shows_the_numbers_that_it_was_given():
    assert "8 experts" in method_diagram(8)._repr_svg_()
    assert {"5 numbers", "7 numbers"} <= {
        t.text for t in ElementTree.fromstring(lora_diagram(5, 7, 2)._repr_svg_()).iter()
    }
    assert "A: 2 × 5" in lora_diagram(5, 7, 2)._repr_svg_() and "W: 7 × 5" in lora_diagram(5, 7, 2)._repr_svg_()


# --- pictures -------------------------------------------------------------------------------------------------------


def test_groups_are_coloured_and_noise_is_hollow():
    _, axes = plt.subplots()
    pictures.plot_groups(np.eye(3)[:, :2], np.array([0, -1, 1]), np.array([0.1, 0.2, 0.3]), title="t", axes=axes)
    assert [patch.radius for patch in axes.patches] == [0.1, 0.2, 0.3]
    noise, *groups = axes.collections
    assert len(noise.get_facecolor()) == 0 and noise.get_offsets().tolist() == [[0, 1]]
    assert [group.get_offsets().tolist() for group in groups] == [[[1, 0]], [[0, 0]]]


def test_a_sweep_is_a_line_and_others_are_points():
    table = pd.DataFrame({"noise": [0.0, 0.4], "labels": [1, 3], "agreement": [0.1, 0.2]})
    figure = pictures.plot_sweep(table, {"own": table[1:]}, {"labels": "groups", "agreement": "AMI"})
    for axes, column in zip(figure.axes, ("labels", "agreement"), strict=True):
        assert axes.lines[0].get_xydata().tolist() == table[["noise", column]].to_numpy().tolist()
        assert axes.collections[0].get_offsets().tolist() == table[["noise", column]][1:].to_numpy().tolist()


def test_luck_is_a_band_from_its_least_to_its_greatest():
    axes = pictures.plot_against_luck({"a": 0.3, "b": 0.9}, [0.5, 0.7, 0.6], xlabel="spread").axes[0]
    assert axes.patches[0].get_x() == 0.5 and axes.patches[0].get_width() == pytest.approx(0.2)
    assert list(axes.lines[1].get_xdata()) == [0.3, 0.9]


def test_the_overview_shows_records_choice_and_questions():
    xy, asked = np.arange(8.0).reshape(4, 2), np.array([[9.0, 9.0]])
    figure = pictures.plot_overview(xy, np.array([0, 0, 1, 1]), np.array([2]), asked, np.array([-1]))
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles == ["4 records, by region", "1 of them are chosen", "1 new questions"]
    assert figure.axes[1].collections[1].get_offsets().tolist() == [[4, 5]]
    assert figure.axes[2].collections[1].get_facecolor().tolist() == [[0, 0, 0, 1]]


# --- open exercises -------------------------------------------------------------------------------------------------

RNG = np.random.default_rng(0)
X = RNG.normal(size=(40, 4))
X /= np.linalg.norm(X, axis=1, keepdims=True)
X[20:] = X[:20]  # everything stands there twice
TASKS = ["a"] * 39 + ["b"]
TABLE = pd.DataFrame({"n_clusters": [2, 3], "silhouette": [0.1, 0.2], "stability": [1.0, 0.5]})
REAL, STRANGE = np.array([0.3, 0.6, 0.9]), np.array([0.1, 0.2, 0.5])
TEXTS = ["股价上涨", "股价下跌", "谁辞职了", "谁被捕了"]
SHAPES = [(8, 4), (8, 8)]
ARMS = pd.DataFrame({"qa": [0.5, 0.2], "sentiment": [0.6, 0.8]}, index=["a", "b"])
ADVICE = ("leave it", "use it")
OFFERS = pd.DataFrame({"low": [-0.1, 0.1], "high": [0.1, 0.2], "cost": [1.0, 2.0]})
CASES = [("甲公司收购乙公司", "乙公司收购甲公司")]


def said(capsys, check, *values) -> str:
    check(*values)
    return capsys.readouterr().out.strip()


def overlap(a, b):
    return len(set(a) & set(b)) / len(set(a) | set(b))


@pytest.mark.parametrize("check, answers, values", [
    (open_checks.check_own_choice, [lambda X, t, n: [*range(n - 1), 39], lambda X, t, n: range(40 - n, 40)],
     (X, TASKS, 6)),
    (open_checks.check_says_the_same, [lambda a, b: a == b, lambda a, b: overlap(a, b) > 0.8], (CASES,)),
    (open_checks.check_own_similarity, [overlap, lambda a, b: len(set(a) & set(b)) - abs(len(a) - len(b))],
     (TEXTS, ["x", "x", "y", "y"])),
    (open_checks.check_own_k, [lambda t: t.set_index("n_clusters")["silhouette"].idxmax(), lambda t: 3], (TABLE,)),
    (open_checks.check_own_thinning, [lambda X, n: range(n), lambda X, n: range(20 - n, 20)], (X, 15)),
    (open_checks.check_own_gain, [lambda r, s: r - s, lambda r, s: (2 + r) * (1.5 - s)], (X, X[0], 5)),
    (open_checks.check_own_plan, [lambda s, n: {0: 2, 1: 2}, lambda s, n: {1: 3}], (SHAPES, 60)),
    (open_checks.check_own_threshold, [lambda r, s: 0.55, lambda r, s: 0.25, lambda r, s: 0.3], (REAL, STRANGE)),
    (open_checks.check_own_overall, [lambda s, n: sum(s) / len(s), lambda s, n: min(s), lambda s, n: s[0],
                                     lambda s, n: float(np.average(s, weights=n))], (ARMS, [10, 90])),
    (open_checks.check_own_advice, [lambda low, high, cost: "use it" if low > 0 else "leave it",
                                    lambda low, high, cost: "measure more",
                                    lambda low, high, cost: "use it" if low > 0.1 * (cost - 1) else
                                    "leave it" if high < 0 else "measure more"], (OFFERS,)),
])  # fmt: skip
def test_any_defensible_answer_is_right(check, answers, values, capsys):
    for answer in answers:
        assert said(capsys, check, answer, *values).startswith("Right: ")


@pytest.mark.parametrize("check, answer, values, message", [
    (open_checks.check_own_choice, lambda X, t, n: range(n), (X, TASKS, 6), "no record of 'b' is chosen"),
    (open_checks.check_own_choice, lambda X, t, n: [39] * n, (X, TASKS, 6), "chosen twice"),
    (open_checks.check_own_choice, lambda X, t, n: [39], (X, TASKS, 6), "6 records are wanted, you choose 1"),
    (open_checks.check_says_the_same, lambda a, b: False, (CASES,), "does not say the same as itself"),
    (open_checks.check_says_the_same, lambda a, b: True, (CASES,), "too loose"),
    (open_checks.check_says_the_same, lambda a, b: a <= b, (CASES,), "depends on the order"),
    (open_checks.check_says_the_same, lambda a, b: 0.5, (CASES,), "True or False"),
    (open_checks.check_own_similarity, lambda a, b: -overlap(a, b), (TEXTS, list("xxyy")), "than to itself"),
    (open_checks.check_own_similarity, lambda a, b: ord(a[0]), (TEXTS, list("xxyy")), "the other way round"),
    (open_checks.check_own_similarity, lambda a, b: float(a == b), (TEXTS, list("xyxy")), "guessing the commonest"),
    (open_checks.check_own_k, lambda t: t["n_clusters"].max(), (TABLE,), "k = 3 is better in both"),
    (open_checks.check_own_k, lambda t: 9, (TABLE,), "which is no number of clusters"),
    (open_checks.check_own_thinning, lambda X, n: [*range(8), *range(20, 27)], (X, 15), "spares no near copies"),
    (open_checks.check_own_gain, lambda r, s: -r - s, (X, X[0], 5), "never be worth less"),
    (open_checks.check_own_gain, lambda r, s: r, (X, X[0], 5), "never be worth more, and sometimes less"),
    (open_checks.check_own_plan, lambda s, n: {0: 9}, (SHAPES, 60), "has more than 4"),
    (open_checks.check_own_plan, lambda s, n: {1: 8}, (SHAPES, 60), "your ranks need 128 numbers"),
    (open_checks.check_own_plan, lambda s, n: {0: 1}, (SHAPES, 60), "spend at least half"),
    (open_checks.check_own_plan, lambda s, n: {5: 1}, (SHAPES, 60), "there is no layer 5"),
    (open_checks.check_own_threshold, lambda r, s: 0.0, (REAL, STRANGE), "does better: 0% and 67%"),
    (open_checks.check_own_overall, lambda s, n: sum(s), (ARMS, [10, 90]), "gets 0.800 from you, not 0.4"),
    (open_checks.check_own_overall, lambda s, n: 2 * s[0] - s[1], (ARMS, [10, 90]),
     "a gets a lower number when it becomes better in sentiment"),
    (open_checks.check_own_advice, lambda low, high, cost: "yes", (OFFERS,), "you say 'yes'"),
    (open_checks.check_own_advice, lambda low, high, cost: "leave it", (OFFERS,), "costs half; your rule leaves it"),
    (open_checks.check_own_advice, lambda low, high, cost: "use it", (OFFERS,), "surely worse"),
    (open_checks.check_own_advice, lambda low, high, cost: ADVICE[low > 0.1 or low < -0.25 and cost < 2],
     (OFFERS,), "your rule turns against it as the interval rises"),
])  # fmt: skip
def test_an_answer_that_nobody_would_defend_is_told_why(check, answer, values, message, capsys):
    line = said(capsys, check, answer, *values)
    assert line.startswith("Not right yet: ") and message in line, line
