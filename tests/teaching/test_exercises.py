"""The exercises: made from the solutions, which pass every check; untouched they say so; wrong answers are named."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
from helpers import ROOT

from assl_kit.teaching import exercises_experts as experts
from assl_kit.teaching import exercises_space as space
from assl_kit.teaching.exercises import UNANSWERED

FOLDER = ROOT / "notebooks"
SOLUTIONS = sorted((FOLDER / "solutions").glob("*.ipynb"))
in_each = pytest.mark.parametrize("path", SOLUTIONS, ids=lambda path: path.stem)
TABLE = np.array([[1.0, 0.0], [0.8, 0.6], [0.6, 0.8], [1.0, 0.0], [0.0, 1.0]])


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("make_exercises", FOLDER / "make_exercises.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(path: Path, capsys) -> list[str]:
    """The lines that a notebook's check cells print; each cell is executed in this process."""
    names, said = {}, []
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "code":
            exec(compile(cell.source, path.name, "exec"), names)
            lines = capsys.readouterr().out.splitlines()
            said += lines if re.search(r"(?m)^\s*check_\w+\(", cell.source) else []
    return [line for line in said if line.startswith(("Right", "Not"))]


def said_to(capsys, check, *given) -> str:
    check(*given)
    return capsys.readouterr().out.strip()


# --- the notebooks --------------------------------------------------------------------------------------------------


def test_there_is_one_for_each_chapter_and_an_open_one_in_each():
    chapters = [path.stem for path in sorted(FOLDER.glob("0[0-9]_*.ipynb"))]
    assert [path.stem for path in SOLUTIONS] == chapters
    for path in SOLUTIONS:
        source = path.read_text(encoding="utf-8")
        assert 2 <= source.count("# solution begin: ") <= 4
        assert "· Open: " in source
        assert f"# {path.name[:2]} · Solutions" in source
        assert f"(../{path.name})" in source
        last = nbformat.read(FOLDER / path.name, as_version=4).cells[-1].source
        assert f"](exercises/{path.name})" in last, "the chapter ends with a link to its exercises"


@in_each
def test_the_exercise_is_what_the_script_makes(path, script):
    made = nbformat.writes(script.exercise(nbformat.read(path, as_version=4))) + "\n"
    stored = (FOLDER / "exercises" / path.name).read_text(encoding="utf-8")
    assert stored == made, "exercises are never edited by hand: run python notebooks/make_exercises.py"
    assert "solution begin" not in stored and "solution end" not in stored
    assert len(list((FOLDER / "exercises").glob("*.ipynb"))) == len(SOLUTIONS)


@in_each
def test_the_solutions_pass_every_check(path, capsys):
    said = run(path, capsys)
    assert len(said) >= 3 and all(line.startswith("Right: ") for line in said), said


@in_each
def test_untouched_it_says_that_there_is_no_answer(path, capsys):
    said = run(FOLDER / "exercises" / path.name, capsys)
    assert len(said) >= 3 and set(said) == {UNANSWERED}


@pytest.mark.parametrize(
    "source",
    [
        "# solution begin: a\n# solution begin: b\n# solution end",
        "# solution end",
        "# solution begin: a",
        "# solution begin\n# solution end",
        "x  # solution end",
    ],
)
def test_wrong_marks_are_refused(source, script):
    with pytest.raises(ValueError, match="solution|mark"):
        script.without_answers(source)


def test_the_script_keeps_what_stands_around_an_answer(script):
    source = "def f():\n    # solution begin: try\n    x = 1\n    return x\n    # solution end\n\n\nprint(f())"
    assert script.without_answers(source) == "def f():\n    # Hint: try\n    ...\n\n\nprint(f())"


# --- any wrong answer -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("answer, message", [
    (lambda table: 1 / 0, "your function stops with ZeroDivisionError: division by zero"),
    (lambda table: table[:, :1], r"your result has shape \(5, 1\), it should have shape \(5, 2\)"),
    (lambda table: "no", "your result is not an array of numbers"),
    (lambda table: table / 0.0, r"your result has a value that is not finite, at \[0, 0\]"),
    (TABLE, "give the function itself to the check, without calling it"),
])  # fmt: skip
@pytest.mark.filterwarnings("ignore:divide by zero|invalid value:RuntimeWarning")
def test_what_is_no_answer_at_all_is_told_without_a_traceback(answer, message, capsys):
    assert re.fullmatch(f"Not right yet: {message}.", said_to(capsys, space.check_unit_rows, answer, TABLE))


@pytest.mark.parametrize("answer", [None, ..., lambda table: None, lambda table: ...])
def test_no_answer_is_no_wrong_answer(answer, capsys):
    assert said_to(capsys, space.check_unit_rows, answer, TABLE) == UNANSWERED


def test_an_answer_cannot_change_the_data(capsys):
    def spoil(table):
        table *= 0
        return table

    table = TABLE.copy()
    said_to(capsys, space.check_unit_rows, spoil, table)
    assert (table == TABLE).all()


# --- typical wrong answers ------------------------------------------------------------------------------------------


def wrong(check, answer, given, message, name):
    return pytest.param(check, answer, given, message, id=f"{check.__name__.removeprefix('check_')}: {name}")


LONG = TABLE * np.array([[1], [1], [1], [2.1], [1]])
E = np.array([[1, 0], [0.8, 0.6], [0.96, 0.28], [0.0, 1.0]])
COPIES = np.array([[1, 0], [0, 1], [1, 0], [0.6, 0.8]])
POINTS = np.array([[0.0, 0], [0.1, 0], [0.3, 0], [2, 0], [4, 0], [7, 0]])
KAPPA = np.array([0.1, 0.1, 0.2, 1.7, 2.0, 3.0])
K_TABLE = pd.DataFrame({"n_clusters": [2, 3], "silhouette": [0.1, 0.2], "stability": [1.0, 1.0]})
TASKS, CLUSTERS = ["a", "a", "a", "b", "b"], [0, 0, 1, 1, 1]
SIMILARITIES = np.array([[0.9, 0.1, 0.7], [0.2, 0.3, -0.3]])
FAN = np.array([[1, 0], [0.999, 0.0447], [0.8, 0.6], [0.6, -0.8]])
FAN = FAN / np.linalg.norm(FAN, axis=1, keepdims=True)
UP = np.array([1.0, 0.0])
ROUTED, EVERY = np.array([1.0, 0, 1, 1]), np.array([[1.0, 0], [0, 1], [0, 1], [0, 0]])
RNG = np.random.default_rng(0)
HARD = RNG.normal(0, 1, 60)
A, B = HARD + RNG.normal(0.1, 0.1, 60), HARD + RNG.normal(0, 0.1, 60)
DRAWS = RNG.integers(60, size=(400, 60))


MARGINS, HOME = np.array([0.1, 0.3, 0.2]), np.array([False, True, True])


def _rate(step, steps, warmup, peak):
    return peak * step / warmup if step < warmup else peak * (steps - step) / (steps - warmup)


def _masked(prompt, reply, end):
    return prompt + reply + [end], [-100] * len(prompt) + reply + [end]


def _unpaired(a, b, draws):
    return np.quantile(a[draws].mean(axis=1) - b[draws[::-1]].mean(axis=1), [0.025, 0.975])


@pytest.mark.parametrize("check, answer, given, message", [
    wrong(space.check_unit_rows, lambda t: t, (LONG,),
          "your rows are not of unit length: row 3 has length 2.1", "nothing done"),
    wrong(space.check_unit_rows, lambda t: t / np.linalg.norm(t, axis=0), (LONG,), "not of unit length", "columns"),
    wrong(space.check_unit_rows, lambda t: np.full_like(t, 0.5**0.5), (LONG,), "another direction", "other rows"),
    wrong(space.check_nearest_other, lambda E: (E @ E.T).argmax(axis=1), (E,), "row 0 is called its own", "itself"),
    wrong(space.check_nearest_other, lambda E: (E @ E.T).argmin(axis=1), (E,),
          "for row 0 you say row 3 with cosine 0.00, but row 2 has cosine 0.96", "the farthest"),
    wrong(space.check_repetitions, lambda E, c: np.flatnonzero(np.greater(E @ E.T, c).sum(axis=1) > 1), (COPIES, 0.9),
          "row 0 is named, but no earlier row is so similar", "the first of a group too"),
    wrong(space.check_repetitions, lambda E, c: np.flatnonzero((E @ E.T).max(axis=1) >= c), (COPIES, 0.9),
          "you name every row", "itself"),
    wrong(space.check_repetitions, lambda E, c: [], (COPIES, 0.9), "row 2 is missing: the earlier row 0", "none"),
    wrong(space.check_kmeans_step, lambda X, c: ((X @ c.T).argmin(axis=1), c), (E, E[[0, 3]]),
          "point 0 is given to centroid 1 (cosine 0.00), but centroid 0 is nearer", "the farthest"),
    wrong(space.check_kmeans_step,
          lambda X, c: (m := (X @ c.T).argmax(axis=1), np.stack([X[m == k].mean(axis=0) for k in (0, 1)])),
          (E, E[[0, 3]]), "centroid 0 has length 0.966: put the mean back to length 1", "no unit length"),
    wrong(space.check_kmeans_step, lambda X, c: ((X @ c.T).argmax(axis=1), c), (E, E[[0, 3]]),
          "centroid 0 does not point where the mean of its 3 points does", "not moved"),
    wrong(space.check_kmeans_step, lambda X, c: (X @ c.T).argmax(axis=1), (E, E[[0, 3]]), "return two things", "one"),
    wrong(space.check_choose_k, lambda t, c: t.set_index("n_clusters")["silhouette"].idxmax(), (K_TABLE, 0.9),
          "you choose k = 5, but its stability is 0.80, below 0.9", "stability forgotten"),
    wrong(space.check_choose_k, lambda t, c: t.set_index("n_clusters")["stability"].idxmax(), (K_TABLE, 0.9),
          "you choose k = 2 with silhouette 0.20, but k = 4 is stable too and has 0.40", "the most stable"),
    wrong(space.check_choose_k, lambda t, c: t["silhouette"].idxmax(), (K_TABLE, 0.5), "", "a row number"),
    wrong(space.check_home_clusters, lambda t, c: {"a": 1, "b": 1}, (TASKS, CLUSTERS),
          "a: you say cluster 1, which holds 1 of its 3 records, but cluster 0 holds 2", "the larger cluster"),
    wrong(space.check_home_clusters, lambda t, c: {0: "a", 1: "b"}, (TASKS, CLUSTERS), "'a' has no home", "turned"),
    wrong(space.check_core_distances, lambda X, m: np.sort(space._distances(X), axis=1)[:, m], (POINTS, 2),
          "your numbers are those of m = 3: a point counts itself as the first", "itself not counted"),
    wrong(space.check_core_distances, lambda X, m: np.sort(space._distances(X), axis=1)[:, max(m - 2, 0)], (POINTS, 2),
          "those of m = 1", "one too few"),
    wrong(space.check_radii, lambda k, e, b: e ** (1 - b) * k**b, (KAPPA, 1.0),
          "β and 1 − β stand the wrong way round", "exponents turned"),
    wrong(space.check_radii, lambda k, e, b: b * e + (1 - b) * k, (KAPPA, 1.0), "you take the weighted sum", "a sum"),
    wrong(space.check_thinned, lambda D, k, r, s: range(len(D)), (POINTS, KAPPA, KAPPA, 2.0),
          "points 0 and 1 are both kept, though they are 0.100 apart, nearer than s · min of their radii = 0.2", "all"),
    wrong(space.check_thinned, lambda D, k, r, s: [0], (POINTS, KAPPA, KAPPA, 1.0), "dropped, though no kept", "one"),
    wrong(space.check_thinned, lambda D, k, r, s: [1, 2, 4, 5], (POINTS, KAPPA, KAPPA * 1.2, 1.0),
          "point 0 should stay: visit the points from the smallest κ", "another order"),
    wrong(space.check_mmr, lambda X, c, n, d: np.argsort(-(X @ c))[:n], (FAN, UP, 3),
          "with diversity 0.5, pick 3 is row 2 with value -0.013 (likeness 0.826), but row 3 has", "relevance only"),
    wrong(space.check_mmr, lambda X, c, n, d: [int((X @ c).argmax())] * n, (FAN, UP, 3), "is picked twice", "again"),
    wrong(space.check_mmr, lambda X, c, n, d: [0], (FAN, UP, 3), "3 picks are wanted, you give 1", "too few"),
    wrong(space.check_likeness, lambda X, p: (X[p] @ X[p].T).mean(), (FAN, [0, 2, 3]),
          "counts each pick's cosine to itself", "with the diagonal"),
    wrong(space.check_least_diversity, lambda X, c, n, t: 0.0, (FAN, UP, 3, 0.9),
          "with a weight of 0.0 two picks still have cosine 0.999, above 0.9", "none"),
    wrong(space.check_least_diversity, lambda X, c, n, t: 1.0, (FAN, UP, 3, 0.9), "is enough too", "all"),
    wrong(space.check_least_diversity, lambda X, c, n, t: 3, (FAN, UP, 3, 0.9), "not one of the weights", "no weight"),
    wrong(experts.check_lora_parameters, lambda s, r: sum(a * b for a, b in s), ([(8, 8)], 2),
          "you say 3072: that is W itself", "W"),
    wrong(experts.check_lora_parameters, lambda s, r: sum(r * b for a, b in s), ([(8, 8)], 2), "that is A alone", "A"),
    wrong(experts.check_lora_parameters, lambda s, r: r * sum(s[0]), ([(8, 8), (4, 8)], 2), "add them up", "one layer"),
    wrong(experts.check_masked, lambda p, a, e: (p + a + [e], p + a + [e]), ([1, 2], [3], 0),
          "3 of 3 prompt tokens have a loss: the model would learn to ask", "prompt counted"),
    wrong(experts.check_masked, lambda p, a, e: (p + a, [-100] * len(p) + a), ([1, 2], [3], 0),
          "the token that ends the answer is missing: the model would never learn to stop", "no end"),
    wrong(experts.check_masked, lambda p, a, e: (p + a + [e], [-100] * len(p) + a + [-100]), ([1, 2], [3], 0),
          "the token that ends the answer has no loss", "end without loss"),
    wrong(experts.check_masked, lambda p, a, e: (p + a + [e], a + [e]), ([1, 2], [3], 0), "each token has", "short"),
    wrong(experts.check_learning_rate, _rate, (40, 4, 0.01), "falls in a straight line", "linear"),
    wrong(experts.check_learning_rate, lambda s, n, w, p: p, (40, 4, 0.01), "step 0 should have rate 0", "constant"),
    wrong(experts.check_learning_rate, lambda s, n, w, p: p * s / n, (40, 4, 0.01), "should be the peak 0.01", "up"),
    wrong(experts.check_nearest_expert, lambda E, m: (E @ m.T).argmax(axis=1), (E, E),
          "question 0 goes to expert 0 (cosine 0.80), but expert 1 is nearer (cosine 0.96); the means have different "
          "lengths", "raw means"),
    wrong(experts.check_nearest_expert, lambda E, m: np.zeros(len(E)), (E, E), "but expert", "always the first"),
    wrong(experts.check_margins, lambda s: s.max(axis=1) - s.min(axis=1), (SIMILARITIES,),
          "the lead over the last expert", "best less worst"),
    wrong(experts.check_margins, lambda s: np.sort(s)[:, -2] - np.sort(s)[:, -1], (SIMILARITIES,),
          "a margin is never negative", "turned"),
    wrong(experts.check_margins, lambda s: s.max(axis=1), (SIMILARITIES,), "so the margin is 0.20, not 0.90", "best"),
    wrong(experts.check_with_abstention, lambda s, c: s.argmax(axis=1), (SIMILARITIES, 0.5),
          "question 1: the best similarity 0.30 is below 0.5, so the base answers: −1", "never"),
    wrong(experts.check_with_abstention, lambda s, c: np.where(s.max(axis=1) > c, s.argmax(axis=1), -1),
          (SIMILARITIES, 0.5), "question 2 is left to the base, though its best similarity 0.50 reaches 0.5", "equal"),
    wrong(experts.check_interval, _unpaired, (A, B, DRAWS), "draw the questions once for both arms", "unpaired"),
    wrong(experts.check_interval, lambda a, b, d: np.quantile((a - b)[d].mean(axis=1), [0.05, 0.95]), (A, B, DRAWS),
          "leave out 2.5 % on each side, not 5 %", "90 %"),
    wrong(experts.check_interval, lambda a, b, d: np.quantile((b - a)[d].mean(axis=1), [0.025, 0.975]), (A, B, DRAWS),
          "that is b − a", "turned"),
    wrong(experts.check_interval, lambda a, b, d: np.quantile(a - b, [0.025, 0.975]), (A, B, DRAWS),
          "take the means over questions", "no means"),
    wrong(experts.check_verdict, lambda low, high: "better" if low + high > 0 else "worse", (),
          "for [-0.01, 0.3] you say 'better': that interval contains 0, so a is 'not told apart'", "the middle"),
    wrong(experts.check_verdict, lambda low, high: low > 0, (), "say 'better', 'worse' or 'not told apart'", "a bool"),
    wrong(experts.check_regret, lambda r, e, t: {"x": e.max(axis=1).mean() - r.mean()}, (ROUTED, EVERY, ["x"] * 4),
          "that takes the best expert of each question", "oracle"),
    wrong(experts.check_regret, lambda r, e, t: {"x": 0.0}, (np.array([1.0, 1, 1, 0]), EVERY[[0, 0, 1, 1]], ["x"] * 4),
          "a regret may be negative", "clipped"),
    wrong(experts.check_regret, lambda r, e, t: {"x": 0.25}, (ROUTED, EVERY, ["x"] * 4), "the sign is turned", "sign"),
    wrong(experts.check_regret, lambda r, e, t: {"x": 0.25, "y": -1.0}, (ROUTED, EVERY, ["x", "x", "y", "y"]),
          "x: expert 0 has 0.500, the routed answers 0.500, so the regret is 0.000, not 0.250", "a number"),
    wrong(experts.check_jaccard, lambda a, b: 2 * len({*a} & {*b}) / max(1, len({*a}) + len({*b})), ([1], [2]),
          "for [1, 2, 3, 4] and [3, 4, 5] you say 0.571: twice what they share over both sizes is Dice's index",
          "Dice"),
    wrong(experts.check_jaccard, lambda a, b: len({*a} & {*b}) / max(1, len({*a}), len({*b})), ([1], [2]),
          "divide by all that are in at least one, not by the larger choice", "the larger"),
    wrong(experts.check_jaccard, lambda a, b: len({*a} & {*b}) / max(1, len(a) + len(b) - len({*a} & {*b})),
          ([1], [2]), "a record counts once, however often it stands there", "repeats"),
    wrong(experts.check_jaccard, lambda a, b: len({*a} & {*b}) / max(1, len({*a} | {*b})), ([1], [2]),
          "two empty choices are the same, so 1", "empty"),
    wrong(experts.check_by_chance, lambda s: s, (0.1,), "for a share of 0.1 you say 0.100: that is the part", "share"),
    wrong(experts.check_by_chance, lambda s: s * s, (0.1,), "divide by the part that is in at least one", "both"),
    wrong(experts.check_by_chance, lambda s: s / 2, (0.1,), "what is shared counts once", "half"),
    wrong(experts.check_warning, lambda m, h: (m[h][:, None] < m[~h]).mean(), (MARGINS, HOME),
          "the question that is *not* at home has the wider margin", "turned"),
    wrong(experts.check_warning, lambda m, h: (m[h][:, None] > m[~h]).mean(), (MARGINS, HOME),
          "two margins that are equal count as half a pair", "ties"),
    wrong(experts.check_warning, lambda m, h: (m[h][:, None] > m[~h]).sum() / len(m) ** 2, (MARGINS, HOME),
          "divide by the pairs of one question at home and one that is not, not by all pairs", "all pairs"),
    wrong(experts.check_warning, lambda m, h: m[h].mean() - m[~h].mean(), (MARGINS, HOME), "of 3 pairs the", "means"),
])  # fmt: skip
def test_a_typical_wrong_answer_is_named(check, answer, given, message, capsys):
    said = said_to(capsys, check, answer, *given)
    assert said.startswith("Not right yet: ") and message in said, said
    assert "\n" not in said


def test_the_schedule_and_the_labels_are_those_of_the_training(capsys):
    """What the exercises of chapter 06 call right is what the package does."""
    import torch
    from transformers import get_cosine_schedule_with_warmup

    from assl_kit import make_corpus
    from assl_kit.experts.training.data import encode_records
    from assl_kit.model.loading import load_base

    optimiser = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.01)
    schedule = get_cosine_schedule_with_warmup(optimiser, 4, 40)
    rates = []
    for _ in range(41):
        rates.append(schedule.get_last_lr()[0])
        optimiser.step()
        schedule.step()
    assert said_to(capsys, experts.check_learning_rate, lambda step, *_: rates[step], 40, 4, 0.01).startswith("Right")

    model, tokenizer = load_base("tiny", device="cpu")
    encoded = encode_records(model, tokenizer, make_corpus(200), 512)
    for tokens, labels in zip(encoded.input_ids, encoded.labels, strict=True):
        start = labels.count(-100)
        prompt, reply = tokens[:start], tokens[start:-1]
        made = {(start, len(reply)): (tokens, labels)}

        def answer(head, tail, end, made=made):
            known = made.get((len(head), len(tail)))
            return known if known and known[0][: len(head)] == head else _masked(head, tail, end)

        said = said_to(capsys, experts.check_masked, answer, prompt, reply, tokenizer.eos_token_id)
        assert said.startswith("Right"), said


@pytest.mark.parametrize("shape, rank", [((64, 48), 4), ((8, 8), 2)])
def test_lora_counts_as_peft_does(shape, rank, capsys):
    import torch
    from peft import LoraConfig, inject_adapter_in_model

    def count(shapes, rank):
        total = 0
        for out, inner in shapes:
            layers = torch.nn.Sequential(torch.nn.Linear(inner, out, bias=False))
            adapted = inject_adapter_in_model(LoraConfig(r=rank, target_modules=["0"]), layers)
            total += sum(p.numel() for name, p in adapted.named_parameters() if "lora_" in name)
        return total

    assert said_to(capsys, experts.check_lora_parameters, count, [shape, shape], rank).startswith("Right")
