"""The referee: it tells a bad selection from random ones, random from random it does not; bad input it refuses."""

import json
import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from assl_kit.data.synthetic import make_corpus
from assl_kit.errors import DataError, ParameterError
from assl_kit.evaluation.char_features import text_rows
from assl_kit.evaluation.judge import Judge, hold_out
from assl_kit.evaluation.learners import LabelLearner, answer_form, learner_for, ridge_values, solve_ridge
from assl_kit.evaluation.learning_curves import Curve, fit_curve
from assl_kit.evaluation.referee import balanced_rows, crossed_interval, learning_curves, referee
from assl_kit.evaluation.tagger import TaggedTexts, tag, train_tagger


@pytest.fixture(scope="module")
def corpus():
    return make_corpus(2400, seed=1, test_share=0.3)


@pytest.fixture(scope="module")
def judge(corpus):
    return Judge(corpus)


def ids_of(corpus):
    return corpus.loc[corpus["split"] == "train", "id"].to_numpy()


def row_of(table, **where):
    for name, value in where.items():
        table = table[table[name] == value]
    assert len(table) == 1
    return table.iloc[0]


# what it is for -------------------------------------------------------------------------------------------------------
def test_a_selection_of_one_answer_a_task_is_told_from_random(corpus, judge):
    train = corpus[corpus["split"] == "train"]
    commonest = train.groupby("task")["output"].transform(lambda own: own.mode().iloc[0])
    labels = [group for group in judge.groups if judge.kinds[group] == "labels"]
    bad = train[train["task"].isin(labels) & (train["output"] == commonest)]["id"].head(200)
    result = referee(judge, {"one answer": bad})
    found = row_of(result.differences, arm="one answer", against="random", task="mean")
    assert found["high"] < 0
    assert found["difference"] < -0.1


def test_random_is_not_told_from_random(corpus, judge):
    ids, hits = ids_of(corpus), 0
    for trial in range(8):
        draws = [np.random.default_rng([99, trial, draw]).permutation(ids)[:150] for draw in range(5)]
        found = referee(judge, {"other": draws}, balanced=False, seed=trial).differences
        one = row_of(found, arm="other", against="random", task="mean")
        hits += one["low"] <= 0 <= one["high"]
    assert hits >= 7  # of 8 at level .95


def test_wrong_labels_make_a_selection_worse(corpus, judge):
    wrong = corpus.copy()
    learnt = (wrong["split"] == "train") & (wrong["task"] == "classification")
    labels = sorted(set(wrong.loc[learnt, "output"]))
    turned = dict(zip(labels, [*labels[1:], labels[0]], strict=True))
    wrong.loc[learnt, "output"] = wrong.loc[learnt, "output"].replace(turned)
    ids = corpus.loc[learnt, "id"].head(300)
    good, bad = (one.scores(ids)["classification"].mean() for one in (judge, Judge(wrong)))
    assert good > bad + 0.2


def test_more_records_are_better(judge):
    curves = {curve.group: curve for curve in learning_curves(judge, sizes=(10, 100), n_draws=3)}
    grown = [curve.scores[-1] - curve.scores[0] for curve in curves.values()]
    assert np.mean(grown) > 0.02


def test_copies_count(judge):
    rows = judge.group_rows["sentiment"][:40]
    many = np.concatenate([rows, np.repeat(rows[:3], 30)])
    once, copied = (judge.scores_of_rows(x)["sentiment"] for x in (rows, many))
    assert len(once) == len(copied) == len(judge.right["sentiment"])
    assert (once != copied).any()
    learner = judge.learners["sentiment"]
    more, weights = np.concatenate([rows, rows[:5]]), np.r_[np.full(5, 2), np.ones(35)]
    X, Y = learner.train, learner.targets.astype(float)
    twice = ridge_values(X[more], Y[more], np.ones(45), learner.held)
    weighted = ridge_values(X[rows], Y[rows], weights, learner.held)
    np.testing.assert_allclose(twice, weighted, atol=2e-3)  # a row given twice is a row of weight two


# its parts ------------------------------------------------------------------------------------------------------------
def test_ridge_solves_its_equations():
    from scipy import sparse

    rng = np.random.default_rng(0)
    X = sparse.random(60, 300, density=0.1, random_state=0, format="csr")
    Y, copies = rng.normal(size=(60, 4)), rng.integers(1, 4, 60)
    A = solve_ridge(X, Y, copies, 0.5)
    exact = np.linalg.solve((X @ X.T).toarray() + np.diag(0.5 / copies), Y)
    np.testing.assert_allclose(A, exact, atol=1e-3)


def test_a_question_is_weighed_as_a_training_record_of_the_same_text():
    texts = ["股价上涨两成", "股价下跌一成", "央行降准", "净利润下降"]
    records = pd.DataFrame({"instruction": "判断", "input": texts, "output": "是"})
    train, held = text_rows(records, records.iloc[[2, 0]])
    np.testing.assert_allclose(held.toarray(), train[[2, 0]].toarray(), atol=1e-7)
    np.testing.assert_allclose(np.linalg.norm(train.toarray(), axis=1), 1, atol=1e-6)


def test_a_label_is_given_in_its_commonest_wording():
    from scipy import sparse

    answers = ["甲，乙", "乙，甲", "乙，甲", "乙，甲"]
    answers += ["甲，丙", "甲，丁", "乙，丙", "乙，丁", "丙，丁", "甲，乙，丙", "乙，丙，丁", "甲，丙，丁"]
    X = sparse.identity(len(answers), format="csr", dtype=np.float32)
    learner = LabelLearner(X, X, answers)
    assert learner.combined and learner.wording[frozenset("甲乙")] == "乙，甲"
    assert learner.answers(np.arange(len(answers)), np.ones(len(answers), int))[0] == "乙，甲"


def test_forms_of_answers():
    corpus = make_corpus(2000)
    kinds = {task: answer_form(list(own["output"]), list(own["input"])).kind for task, own in corpus.groupby("task")}
    assert kinds["sentiment"] == "labels"
    assert set(kinds.values()) <= {"labels", "copied", "nearest"}


@pytest.mark.parametrize("answer", ["是，甲公司；乙公司", "否", "甲公司"])
def test_a_copied_answer_is_put_together_again(answer):
    from assl_kit.evaluation.learners import AnswerForm

    form = AnswerForm("copied", ("否", "是"), ("\0",), "；")
    assert form.join(*form.split(answer, "甲公司与乙公司")).replace("；", "，") == answer.replace("；", "，")


def test_an_answer_that_is_not_in_the_text_cannot_be_copied():
    from assl_kit.evaluation.learners import AnswerForm

    assert AnswerForm("copied", ("否",), ("\0",), "；").split("丙公司", "甲公司与乙公司") is None


def test_a_tagger_finds_names_it_has_not_seen():
    rng = np.random.default_rng(0)
    letters = np.array(list("天地玄黄宇宙洪荒日月盈昃辰宿列张寒来暑往秋收冬藏"))
    names = ["".join(rng.choice(letters, 2)) + "公司" for _ in range(60)]
    inputs = [f"据悉，{name}因违规被罚款。" for name in names]
    records = pd.DataFrame({"instruction": "谁被罚？", "input": inputs, "output": names})
    kind, learner = learner_for(records.head(30), records.tail(30))
    said = learner.answers(np.arange(30), np.ones(30, int))
    assert kind == "copied"
    assert np.mean([a == b for a, b in zip(said, names[30:], strict=True)]) > 0.9


def test_the_tagger_tags_something_everywhere():
    texts = TaggedTexts(["甲减持", "乙增持", "无事"], ["", "", ""])
    model = train_tagger(texts, np.array([1, 0, 0, 1, 0, 0, 0, 0], np.int8), np.array([0, 1]), 1)
    tags = tag(texts, *model)
    assert all(tags[a:b].any() for a, b in zip(texts.starts, texts.starts[1:], strict=False))


def test_labels_that_are_combined():
    rng = np.random.default_rng(0)
    words = {"公司": "甲乙丙", "行业": "丁戊己", "政策": "庚辛壬", "外汇": "子丑寅", "期货": "卯辰巳"}
    rows = []
    for _ in range(400):
        own = sorted(rng.choice(list(words), rng.integers(1, 4), replace=False))
        rows.append(("".join(rng.choice(list(words[name])) + "，" for name in own), "，".join(own)))
    records = pd.DataFrame(rows, columns=["input", "output"]).assign(instruction="归类")
    kind, learner = learner_for(records.head(300), records.tail(100))
    assert kind == "labels" and isinstance(learner, LabelLearner) and learner.combined
    said = learner.answers(np.arange(300), np.ones(300, int))
    assert np.mean([a == b for a, b in zip(said, records["output"].tail(100), strict=True)]) > 0.9


def test_the_curve_of_exact_scores_is_found_again():
    n = np.array([25, 50, 100, 200, 400, 800])
    curve = fit_curve("x", n, 0.9 - 1.2 * n**-0.4, 5000)
    np.testing.assert_allclose(curve.at(n), 0.9 - 1.2 * n**-0.4, atol=2e-3)
    assert curve.at(curve.enough) >= curve.at(5000) - 0.01 - 1e-9
    assert curve.at(curve.enough - 1) < curve.at(5000) - 0.01


def test_a_flat_curve_needs_one_record():
    curve = fit_curve("x", [25, 50, 100], [0.4, 0.4, 0.4], 300)
    assert (curve.b, curve.enough) == (0, 1)


def test_a_falling_curve_is_fitted_flat():
    assert fit_curve("x", [25, 50, 100], [0.6, 0.5, 0.4], 300).b == 0


def test_balanced_rows_are_equal_and_exact():
    groups = [np.arange(0, 5), np.arange(5, 105), np.arange(105, 205)]
    for n in (0, 1, 7, 100, 205):
        rows = balanced_rows(groups, n, np.random.default_rng(0))
        assert len(rows) == len(set(rows.tolist())) == n
    counts = [np.isin(rows := balanced_rows(groups, 65, np.random.default_rng(1)), g).sum() for g in groups]
    assert counts == [5, 30, 30] and len(rows) == 65


def test_intervals_cover_as_often_as_they_say():
    """Crossed effects of draws and questions, true mean 0.1: the interval of level .95 must hold it about as often."""
    rng, hits = np.random.default_rng(0), 0
    for _ in range(400):
        parts = [
            0.1 + rng.normal(size=(5, 1)) * 0.03 + rng.normal(size=(1, n)) * 0.3 + rng.normal(size=(5, n)) * 0.4
            for n in (80, 200)
        ]
        _, low, high, _, _ = crossed_interval(parts)
        hits += low <= 0.1 <= high
    assert 0.92 <= hits / 400 <= 0.99


def test_a_crossed_interval_by_hand():
    """Two draws, two questions, one right answer: both kinds of means are 0.5 and 0, of sample variance 0.125."""
    mean, low, high, se_draws, se_questions = crossed_interval([np.array([[1.0, 0.0], [0.0, 0.0]])])
    assert (mean, se_draws, se_questions) == (0.25, 0.25, 0.25)  # √(0.125 / 2)
    assert high - mean == pytest.approx(mean - low) and low < 0 < high


def test_equal_scores_have_an_interval_of_nothing():
    assert crossed_interval([np.zeros((5, 30))]) == (0, 0, 0, 0, 0)


# its result -----------------------------------------------------------------------------------------------------------
def test_result(corpus, judge):
    result = referee(judge, {"first": ids_of(corpus)[:150]}, n_draws=3, curves=True)
    assert set(result.table["arm"]) == {"random", "balanced random", "first"}
    assert {"mean", "mean without smallest"} <= set(result.table["task"])
    means = result.pivot()
    np.testing.assert_allclose(means[list(judge.groups)].mean(axis=1), means["mean"])
    rest = [group for group in judge.groups if group != result.about["smallest"]]
    np.testing.assert_allclose(means[rest].mean(axis=1), means["mean without smallest"])
    for row in result.differences.itertuples():
        assert row.low <= row.difference <= row.high
        assert abs(row.difference - (means.loc[row.arm, row.task] - means.loc[row.against, row.task])) < 1e-12
    assert len(result.curves) == len(judge.groups) and isinstance(result.curves[0], Curve)
    assert row_of(result.table, arm="random", task="sentiment")["sd"] > 0, "each draw is another"
    again = json.loads(json.dumps(result.as_dict(), allow_nan=False))
    assert again["about"]["n_draws"] == 3


def test_the_same_numbers_twice_and_in_any_order(corpus, judge):
    ids = ids_of(corpus)[:150]
    one = referee(judge, {"a": ids}, n_draws=2)
    shuffled = corpus.iloc[np.random.default_rng(0).permutation(len(corpus))]
    two = referee(Judge(corpus), {"a": ids[::-1]}, n_draws=2)
    pd.testing.assert_frame_equal(one.differences, two.differences, check_exact=True)
    three = referee(Judge(shuffled), {"a": ids}, n_draws=2)
    pd.testing.assert_frame_equal(one.table, three.table, check_exact=True)


def test_the_same_numbers_with_any_number_of_threads():
    code = (
        "from assl_kit.data.synthetic import make_corpus; from assl_kit.evaluation.referee import referee\n"
        "c = make_corpus(600); ids = c.loc[c['split'] == 'train', 'id'].head(90)\n"
        "r = referee(c, {'a': ids}, n_draws=2, curves=True); print(repr(r.as_dict()))"
    )
    said = [
        subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | {"OMP_NUM_THREADS": n, "NUMBA_NUM_THREADS": n},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for n in ("1", "2")
    ]
    assert said[0] == said[1] and "differences" in said[0]


def test_selections_of_each_draw_and_functions_are_the_same(corpus, judge):
    ids = ids_of(corpus)

    def chosen(draw, pool):
        assert set(pool["id"]) <= set(ids)
        return np.random.default_rng(draw).permutation(ids)[:100]

    listed = [chosen(draw, corpus[corpus["split"] == "train"]) for draw in range(3)]
    one = referee(judge, {"a": chosen}, n_draws=3, balanced=False).differences
    two = referee(judge, {"a": listed}, n_draws=3, balanced=False).differences
    pd.testing.assert_frame_equal(one, two)


def test_random_draws_stay_in_their_pool(corpus, judge):
    ids = ids_of(corpus)
    own = judge.train.loc[judge.train["task"] == "sentiment", "id"].to_numpy()
    result = referee(judge, {"a": own[:50]}, n_draws=2, pools=[own, own], balanced=False)
    random = result.pivot().loc["random"]
    assert random["sentiment"] > 0
    assert (random.drop(["sentiment", "mean", "mean without smallest"]) == 0).all()  # nothing was learnt of others
    with pytest.raises(ParameterError, match="1 pools for 2 draws"):
        referee(judge, {"a": ids[:50]}, n_draws=2, pools=[ids])


def test_arms_of_two_sizes_have_their_own_random_arms(corpus, judge):
    ids = ids_of(corpus)
    result = referee(judge, {"a": ids[:50], "b": ids[:1200]}, n_draws=2, balanced=False)
    assert set(result.table["arm"]) == {"random 50", "random 1,200", "a", "b"}
    counts = result.table[result.table["task"] == "mean"].set_index("arm")["n"]
    assert counts["random 50"] == counts["a"] == 50 and counts["random 1,200"] == 1200


def test_questions_seen_in_training_are_left_out(corpus):
    train = corpus[corpus["split"] == "train"].head(30)
    more = train.assign(id=[f"copy-{i}" for i in range(30)], split="test")
    judge = Judge(pd.concat([corpus, more], ignore_index=True))
    assert judge.n_known >= 30
    assert not judge.held["id"].str.startswith("copy-").any()


# bad input ------------------------------------------------------------------------------------------------------------
def test_no_labels_are_refused(corpus):
    with pytest.raises(DataError, match="no record has an answer"):
        Judge(corpus.assign(output=""))


@pytest.mark.parametrize("nothing", ["", "  ", None, float("nan")])
def test_missing_labels_are_named(corpus, nothing):
    bad = corpus.astype({"output": object}).copy()
    bad.loc[[3, 5], "output"] = nothing
    with pytest.raises(DataError, match=f"2 of {len(corpus)} records have no answer, e.g. '{corpus.loc[3, 'id']}'"):
        Judge(bad)


def test_a_single_class_everywhere_is_refused(corpus):
    with pytest.raises(DataError, match="no group can be measured.*same answer"):
        Judge(corpus.assign(output="积极"))


def test_a_group_with_a_single_class_is_left_out_and_named(corpus):
    one = corpus.copy()
    one.loc[one["task"] == "sentiment", "output"] = "积极"
    judge = Judge(one)
    assert judge.left_out == {"sentiment": "all its training records have the same answer"}
    assert "sentiment" not in judge.groups


def test_a_group_of_one_record_is_left_out_and_named(corpus):
    lonely = corpus.iloc[[0, 1]].assign(task="lonely", id=["l0", "l1"], split=["train", "test"], input=["甲", "乙"])
    records = pd.concat([corpus, lonely], ignore_index=True)
    judge = Judge(records)
    assert judge.left_out == {"lonely": "it has one training record"}
    result = referee(judge, {"a": ["l0", *ids_of(corpus)[:60]]}, n_draws=2)
    assert result.about["left_out"] == judge.left_out


def test_no_test_split_is_refused_and_can_be_made(corpus):
    train = corpus.assign(split="train")
    with pytest.raises(DataError, match="no record has the split 'test'. *.*hold_out"):
        Judge(train)
    held = hold_out(train)
    assert Judge(held).groups
    key = held["instruction"] + held["input"]
    assert not set(key[held["split"] == "test"]) & set(key[held["split"] == "train"])
    pd.testing.assert_frame_equal(held, hold_out(train))
    with pytest.raises(ParameterError, match="share"):
        hold_out(train, share=0)


def test_unknown_ids_are_named(corpus, judge):
    with pytest.raises(DataError, match="2 chosen ids are not in the training pool, e.g. 'x', 'y' .selection 'a'"):
        referee(judge, {"a": ["x", "y", *ids_of(corpus)[:10]]})


def test_test_ids_cannot_be_chosen(corpus, judge):
    test = corpus.loc[corpus["split"] == "test", "id"].head(3)
    with pytest.raises(DataError, match="3 chosen ids are not in the training pool"):
        referee(judge, {"a": test})


def test_more_than_there_are_is_refused(corpus, judge):
    ids = ids_of(corpus)
    with pytest.raises(ParameterError, match=f"{len(ids) + 1} records are chosen.*has {len(ids)}"):
        referee(judge, {"a": [*ids, ids[0]]})


@pytest.mark.parametrize("empty", [[], np.array([]), [[], [], [], [], []]])
def test_an_empty_selection_is_refused(judge, empty):
    with pytest.raises(DataError, match="the selection is empty"):
        referee(judge, {"a": empty})


def test_no_selection_is_refused(judge):
    with pytest.raises(ParameterError, match="no selection"):
        referee(judge, {})


@pytest.mark.parametrize("name", ["random", "balanced random", "random 4,000"])
def test_the_names_of_the_references_are_its_own(corpus, judge, name):
    with pytest.raises(ParameterError, match="own"):
        referee(judge, {name: ids_of(corpus)[:50]})


@pytest.mark.parametrize(
    "wrong", [{"n_draws": 1}, {"n_draws": True}, {"n_draws": 2.5}, {"level": 1}, {"level": 0.0}, {"level": "x"}]
)
def test_parameters_out_of_range(corpus, judge, wrong):
    with pytest.raises(ParameterError, match=next(iter(wrong))):
        referee(judge, {"a": ids_of(corpus)[:50]}, **wrong)


def test_another_number_of_selections_than_draws(corpus, judge):
    ids = ids_of(corpus)
    with pytest.raises(ParameterError, match="2 selections for 5 draws"):
        referee(judge, {"a": [ids[:50], ids[50:100]]})


def test_bad_records(corpus):
    with pytest.raises(DataError, match="'task' is missing"):
        Judge(corpus.drop(columns="task"))
    with pytest.raises(DataError, match="'nowhere' is missing"):
        Judge(corpus, by="nowhere")
    with pytest.raises(DataError, match="used twice"):
        Judge(pd.concat([corpus, corpus.head(1)]))
    with pytest.raises(DataError, match="no records"):
        Judge(corpus.head(0))
    with pytest.raises(ParameterError, match="questions"):
        Judge(corpus, questions=0)


@pytest.mark.parametrize("wrong", [{"sizes": ()}, {"sizes": (0, 10)}, {"sizes": (2.5,)}, {"n_draws": 0}])
def test_curves_out_of_range(judge, wrong):
    with pytest.raises(ParameterError, match=next(iter(wrong))):
        learning_curves(judge, **wrong)


def test_learning_beats_the_baseline(judge):
    whole, least = judge.scores(judge.train["id"]), judge.baseline()
    assert set(least) == set(judge.groups)
    labels = [group for group in judge.groups if judge.kinds[group] == "labels"]
    assert np.mean([whole[group].mean() - least[group] for group in labels]) > 0.1


def test_bad_curves():
    with pytest.raises(ParameterError, match="sizes"):
        fit_curve("x", [], [], 10)
    with pytest.raises(ParameterError, match="2 sizes but 1 scores"):
        fit_curve("x", [1, 2], [0.1], 10)


def test_a_group_called_mean_is_not_taken_for_the_mean():
    from assl_kit.data.groups import NO_GROUP, assign_groups
    from assl_kit.data.synthetic import make_corpus
    from assl_kit.runner.choice import difference_table, score_table, verdicts
    from assl_kit.teaching.referee_plots import plot_referee, plot_verdict

    records = make_corpus(400)
    records = records[records["task"].isin(["sentiment", "qa", "classification"])]
    names = {"sentiment": "mean", "qa": "mean without smallest", "classification": "meaning"}
    records = records.assign(task=records["task"].map(names))
    chosen = records.loc[records["split"] == "train", "id"].head(30)
    result = referee(records, {"mine": chosen}, n_draws=2).as_dict()
    groups = ["mean (task)", "mean without smallest (task)", "meaning"]
    assert list(result["about"]["questions"]) == groups
    assert score_table(result)["task"].tolist() == [*groups, "mean", "mean without smallest"]
    assert difference_table(result)["task"].tolist() == ["mean", "mean without smallest", *groups]
    assert verdicts(result)[0].startswith("On the mean over tasks, mine is ")
    assert len(plot_referee(result).axes[0].get_yticks()) == 5
    assert [text.get_text() for text in plot_verdict(result).axes[1].get_xticklabels()] == groups
    labels = assign_groups(pd.DataFrame({"task": ["all", "", "(none)", "qa"]}), by="task")
    assert labels.tolist() == ["all (task)", "", f"{NO_GROUP} (task)", "qa"]
