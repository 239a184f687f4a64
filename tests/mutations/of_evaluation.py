"""Changes of what is measured: scores, intervals, baselines, the referee and its learners."""

from __future__ import annotations

from .mutation import Mutation as M

_METRICS = ("evaluation/test_metrics.py",)
_INTERVALS = ("evaluation/test_intervals.py",)
_COPIES = ("evaluation/test_referee.py::test_copies_count",)

MUTATIONS = (
    M(
        "nine numbers of ten make no task of numbers",
        "evaluation/metrics.py",
        "for text in answers]) >= 0.9:",
        "for text in answers]) > 0.9:",
        _METRICS,
    ),
    M(
        "the lead has the mean length of answers, not the median",
        "evaluation/metrics.py",
        "length = int(np.median([len(text) for text in outputs]))",
        "length = int(np.mean([len(text) for text in outputs]))",
        _METRICS,
    ),
    M(
        "the majority wins a tie with the lead",
        "evaluation/metrics.py",
        'if metric == "accuracy" or values[0] > values[1]:',
        'if metric == "accuracy" or values[0] >= values[1]:',
        _METRICS,
    ),
    M(
        "answers that nobody should give count in macro-F1",
        "evaluation/metrics.py",
        "for label in sorted(times_right)]",
        "for label in sorted(times_right | times_answered)]",
        _METRICS,
    ),
    M(
        "all tasks have the same draws",
        "evaluation/intervals.py",
        "int(n_bootstrap), np.random.default_rng([seed, number]))",
        "int(n_bootstrap), np.random.default_rng([seed]))",
        _INTERVALS,
    ),
    M(
        "a run drawn twice has the same questions twice",
        "evaluation/intervals.py",
        "(np.arange(int(n_bootstrap))[:, None] + np.arange(len(runs)))",
        "(np.arange(int(n_bootstrap))[:, None] + 0 * np.arange(len(runs)))",
        _INTERVALS,
    ),
    M(
        "the order of the data is not among the permutations",
        "evaluation/affinity.py",
        "(extreme + 1) / (len(drawn) + 1)",
        "extreme / len(drawn)",
        ("evaluation/test_affinity.py",),
    ),
    M(
        "tasks without a home count as lost",
        "evaluation/routing.py",
        '(frame["expert"] == homes).astype(float).where(known)',
        '(frame["expert"] == homes).astype(float)',
        ("evaluation/test_routing.py",),
    ),
    M(
        "the seed does not reach k-means",
        "evaluation/baselines.py",
        "random_state=seed",
        "random_state=0",
        ("evaluation/test_baselines.py",),
    ),
    M(
        "questions are weighed by how rare a word is among questions",
        "evaluation/char_features.py",
        "held = [tf_idf(part, of) for part, of in zip(asked, counts, strict=True)]",
        "held = [tf_idf(part) for part, of in zip(asked, counts, strict=True)]",
        ("evaluation/test_referee.py::test_a_question_is_weighed_as_a_training_record_of_the_same_text",),
    ),
    M(
        "the mean answer forgets copies",
        "evaluation/learners.py",
        "mean = (Y * copies[:, None]).sum(axis=0) / copies.sum()",
        "mean = Y.mean(axis=0)",
        _COPIES,
    ),
    M(
        "labels are given in their rarest wording",
        "evaluation/learners.py",
        "key=lambda item: (item[1], item[0][1]))",
        "key=lambda item: (-item[1], item[0][1]))",
        ("evaluation/test_referee.py::test_a_label_is_given_in_its_commonest_wording",),
    ),
    M(
        "what was learnt once serves for other copies",
        "evaluation/judge.py",
        "key = group, seed, rows.tobytes(), copies[rows].tobytes()",
        "key = group, seed, rows.tobytes()",
        _COPIES,
    ),
    M(
        "all random draws are one",
        "evaluation/referee.py",
        "np.random.default_rng([seed, draw, 0])",
        "np.random.default_rng([seed, 0])",
        ("evaluation/test_referee.py::test_result",),
    ),
    M(
        "the spread of draws is divided by their number",
        "evaluation/referee.py",
        "float(draws.var(ddof=1)) / n_draws",
        "float(draws.var()) / n_draws",
        ("evaluation/test_referee.py::test_a_crossed_interval_by_hand",),
    ),
)
