"""The evidence: a small study runs and resumes, its records are right, and what is committed is whole."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

import benchmarks.evidence.__main__ as evidence
from assl_kit.common.files import read_json
from assl_kit.teaching.evidence import CLAIMS, ENCODER, ROUTED, evidence_results, of_seeds, verdict, verdicts
from assl_kit.teaching.evidence_plots import plot_share_curve
from benchmarks.evidence import arms, data, summary
from benchmarks.evidence import study as studies

pytestmark = pytest.mark.long
UNSEEN = "home share: wordings and inputs never seen"
FIELDS = {"experiment", "data", "base", "arm", "task", "metric", "value", "seed", "n_train", "device", "seconds"}


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    small = replace(
        studies.SETTINGS["quick"], n_train=180, n_test=2, n_compared=1, warmup=8, affinity=3, max_new_tokens=4
    )
    folder = tmp_path_factory.mktemp("evidence")
    return studies.Study("embedded", "embedded", "tiny", 0, folder, "cpu", small)


@pytest.fixture(scope="module")
def answered(study):
    jobs = [
        ("base", "base"),
        ("one", "random 10 %"),
        ("one", "paper 10 %"),
        ("bank", "experts by cluster"),
        ("affinity", "affinity"),
    ]
    for job in jobs:
        assert job in arms.plan(study) and not arms.done(study, job)
        arms.run_job(study, job)
        assert arms.done(study, job)
    return arms.read_answers(study)


def test_every_arm_of_a_size_has_exactly_that_size(study):
    for arm in (
        "paper 10 %",
        "random 10 %",
        "k-means medoids 10 %",
        "k-center 10 %",
        "stage 1 alone 10 %",
        "stage 2 alone 10 %",
        *studies.VARIANTS,
    ):
        rows = study.rows_of(arm)
        assert len(rows) == 18 and rows.min() >= 0 and rows.max() < 180, arm
    assert len(study.rows_of("all data, 1 epoch")) == 180
    assert len(study.rows_of("paper 5 %")) == 9


@pytest.mark.slow
def test_a_study_answers_and_is_not_done_twice(study, answered):
    ids = set(study.questions["id"])
    for arm in ("base", "random 10 %", "paper 10 %", "experts by cluster"):
        assert set(answered[arm]["answers"]) == ids
    compared = set(study.questions["id"][study.compared()])
    assert {"single expert-0", "uniform merge", "two nearest merged", "Arrow"} <= set(answered)
    assert set(answered["Arrow"]["answers"]) == compared and len(compared) < len(ids)
    before = (study.work / "answers" / "base.json").stat().st_mtime_ns
    arms.run_job(study, ("base", "base"))
    assert (study.work / "answers" / "base.json").stat().st_mtime_ns == before
    assert not list((study.work / "adapters").iterdir())


@pytest.mark.slow
def test_its_records_say_what_was_measured(study, answered):
    records = summary._arms(study, answered) + summary._routing(study)
    records += summary._affinity(study) + summary._regret(study, answered)
    records += summary._differences([study], [answered])
    assert all(set(record) >= FIELDS for record in records)
    by = {(r["experiment"], r["arm"], r["task"], r["metric"]): r for r in records if r["seed"] is not None}
    assert 0 <= by["selection", "paper 10 %", "mean", "mean"]["value"] <= 1
    assert by["selection", "paper 10 %", "mean", "mean"]["n_train"] == 18
    routed, best = (
        by["regret", "experts by cluster", "mean", name]["value"] for name in ("routed", "best single expert")
    )
    assert by["regret", "experts by cluster", "mean", "regret"]["value"] == pytest.approx(best - routed, abs=2e-4)
    rho = by["affinity", "fitted static, 256", "all", "rank correlation with distance"]
    assert -1 <= rho["low"] <= rho["high"] <= 1
    pooled = [r for r in records if r["seed"] is None]
    assert {(r["arm"], r["against"]) for r in pooled} >= {
        ("paper 10 %", "random 10 %"),
        ("experts by cluster", "Arrow"),
    }
    assert all(r["low"] <= r["high"] and r["seeds"] == 1 for r in pooled)


def test_the_same_study_chooses_the_same(study):
    default = study.rows_of("paper 10 %")
    assert np.array_equal(default, study.rows_of("paper 10 %"))
    assert not np.array_equal(np.sort(default), np.sort(study.rows_of("flattening 1")))


def test_a_part_that_is_measured_again_replaces_only_its_own_records(tmp_path):
    def record(data, experiment, value):
        return {"data": data, "base": "tiny", "experiment": experiment, "value": value}

    out = tmp_path / "e.json"
    old = [record("embedded", "affinity", 1), record("embedded", "regret", 1)]
    evidence._write(out, old, "embedded", "tiny", "cpu")
    evidence._write(out, [record("CFLEB", "affinity", 1)], "CFLEB", "tiny", "cpu")
    evidence._write(out, [record("embedded", "affinity", 2)], "embedded", "tiny", "cpu", ["affinity"])
    kept = read_json(out)
    assert sorted((r["data"], r["experiment"], r["value"]) for r in kept["records"]) == [
        ("CFLEB", "affinity", 1),
        ("embedded", "affinity", 2),
        ("embedded", "regret", 1),
    ]
    assert set(kept["made"]) == {"embedded, tiny", "CFLEB, tiny", "embedded, tiny, affinity"}
    evidence._write(out, [record("embedded", "regret", 3)], "embedded", "tiny", "cpu")
    kept = read_json(out)
    assert [r["value"] for r in kept["records"] if r["data"] == "embedded"] == [3]
    assert set(kept["made"]) == {"embedded, tiny", "CFLEB, tiny"}


def test_single_arms_can_be_measured_alone_on_a_base_that_is_spared_them(study, capsys):
    real = replace(study, setting=replace(study.setting, grid="core", shares=(0.1,)))
    assert ("one", "k-center 10 %") not in arms.plan(real)
    only = arms.plan(real, ["k-center 10 %", "paper 3 %", "affinity"])
    assert only == [("one", "k-center 10 %"), ("one", "paper 3 %"), ("affinity", "affinity")]
    with pytest.raises(SystemExit):
        evidence.main(["--only", "k-centre 10 %"])
    assert "there is no arm 'k-centre 10 %'; there are all data, 4 epochs, " in capsys.readouterr().err


def test_stage_2_alone_reads_the_score_of_every_record(study):
    real = replace(study, work=study.work / "real", setting=replace(study.setting, grid="core"))
    pool, whole = real.scores(), real.scores(whole=True)
    assert len(set(pool)) < len(set(whole)) == 180
    real.rows_of("paper 10 %")
    assert len(real.rows_of("stage 2 alone 10 %")) == 18


def test_wordings_of_train_and_test_are_apart_and_eight():
    for source, wordings in data.WORDINGS.items():
        assert len(set(wordings)) == 8, source
    assert set(data.WORDINGS) == set(data.CFLEB)


def test_records_of_a_folder_are_split_and_reworded(tmp_path):
    rows = [
        {
            "id": f"{source}-{split}-{i}",
            "instruction": "旧",
            "input": f"材料：{source} {split} {i}",
            "output": "答",
            "task": task,
            "source": source.upper(),
            "split": split,
        }
        for source, task in zip(data.CFLEB, "abcdef", strict=True)
        for split in ("train", "dev", "test")
        for i in range(30)
    ]
    exam = {"id": "x", "instruction": "选", "input": "A. 甲", "output": "B", "task": "m", "source": "fineval"}
    pd.DataFrame([*rows, exam | {"split": "test"}]).to_json(
        tmp_path / "a.jsonl", orient="records", lines=True, force_ascii=False
    )
    records = data.load_study_records(str(tmp_path), 60, 3, 1, 0)
    counts = records["split"].value_counts()
    assert counts["train"] == 60 and counts["exam"] == 1 and counts["test"] <= 18
    seen = {wording for words in data.WORDINGS.values() for wording in words[: data.SEEN]}
    assert set(records.loc[records["split"] == "train", "instruction"]) <= seen
    assert not set(records.loc[records["split"] == "test", "instruction"]) & seen
    train, test = (set(records.loc[records["split"] == split, "input"]) for split in ("train", "test"))
    assert not train & test


# what is committed ---------------------------------------------------------------------------------------------------
def test_the_committed_records_are_whole_and_of_three_seeds():
    evidence = evidence_results()
    assert set(evidence) >= FIELDS
    assert {"selection", "experts", "regret", "routing", "affinity", "encoder", "A-DBSCAN"} <= set(
        evidence["experiment"]
    )
    for _, part in evidence.groupby(["data", "base"]):
        assert part.loc[part["seed"].notna(), "seed"].nunique() >= 3
    pooled = evidence[evidence["seed"].isna()]
    assert (pooled["seeds"] >= 3).all() and (pooled["low"] <= pooled["high"]).all()
    tiny = evidence[(evidence["data"] == "embedded") & (evidence["base"] == "tiny")]
    assert tiny.loc[tiny["metric"] == "cluster nmi", "arm"].nunique() >= 4
    assert {f"{way} {share} %" for way in ("default", "random") for share in (1, 3, 10, 30)} <= set(tiny["arm"])
    assert {"paper 10 %", "balanced random 10 %"} <= set(tiny["arm"])


def test_the_curve_shows_the_shares_that_either_kind_was_measured_at():
    arms = {"paper 1 %": (0.2, 0.3), "paper 10 %": (0.5, 0.7), "random 10 %": (0.4, 0.4), "base": (0.1, 0.1)}
    rows = [
        {"arm": arm, "task": "mean", "metric": "mean", "seed": seed, "value": value}
        for arm, values in arms.items()
        for seed, value in enumerate(values)
    ]
    axes = plot_share_curve(pd.DataFrame(rows)).axes[0]
    assert axes.get_xticks().tolist() == [1, 10]
    lines = {line.get_label(): line.get_ydata() for line in axes.lines}
    assert np.allclose(lines["paper, one LoRA"], [0.25, 0.6]) and np.allclose(lines["random, one LoRA"], [0.4])


def test_a_verdict_needs_an_interval_on_one_side():
    assert verdict("better", -0.01, 0.2) == "not told apart"
    assert verdict("better", -0.2, -0.1) == "does not hold"
    assert verdict("close", -0.04, 0.1) == "holds"
    assert verdict("close", -0.2, 0.1) == "undecided"


def test_every_committed_claim_has_the_verdict_of_what_was_measured():
    """Judged again from the words of the table; an interval that ends at a threshold, as rounded, is passed over."""
    table = verdicts(evidence_results())
    assert table["claim"].nunique() == 18 and not table.isna().any().any()
    expected, judged = {claim: expects for claim, _, _, expects in CLAIMS}, 0
    for claim, measured, told in table[["claim", "measured", "verdict"]].itertuples(index=False):
        if claim not in expected:
            continue
        value, low, high = map(float, re.findall(r"[+-]\d\.\d{3}", measured))
        least, between = (-0.05, "undecided") if expected[claim] == "close" else (0, "not told apart")
        assert low <= value <= high
        if min(abs(low - least), abs(high - least)) > 0.0005:
            assert told == ("holds" if low > least else "does not hold" if high < least else between), claim
            judged += 1
    assert judged >= len(CLAIMS)


def test_of_the_real_data_more_records_were_better():
    """What notebook 08 says of the paper's choice at rising shares."""
    evidence = evidence_results()
    real = evidence[evidence["data"] == "CFLEB"]
    means = [of_seeds(real, f"paper {share} %").mean() for share in (1, 3, 5, 10)]
    assert means == sorted(means) and means[0] < means[-1]


def test_every_committed_value_lies_in_its_interval():
    rows = evidence_results().dropna(subset=["low", "high"])
    assert len(rows) > 100 and (rows["low"] <= rows["value"]).all() and (rows["value"] <= rows["high"]).all()


def seeds(arm, metric, *values, task="all", **more):
    """What three seeds gave, as the rows of the evidence."""
    row = {"experiment": "x", "data": "embedded", "base": "tiny", "arm": arm, "task": task, "metric": metric}
    rows = [row | more | {"seed": seed, "value": value} for seed, value in enumerate(values)]
    return pd.DataFrame(rows, columns=evidence_results().columns)


REGRET, HOME = "The routed expert comes close", "(left open) A question reaches"
STABLE, TENTHS = "(left open) The selection is stable", "jaccard: nine tenths drawn"


@pytest.mark.parametrize(
    ("claim", "rows", "measured", "told"),
    [
        (REGRET, [(ROUTED, "regret", 0.0, 0.02, 0.05)], "regret 0.023, by seed 0.000 to 0.050", "holds"),
        (REGRET, [(ROUTED, "regret", 0.0, 0.02, 0.08)], "regret 0.033, by seed 0.000 to 0.080", "in some seeds"),
        (REGRET, [(ROUTED, "regret", 0.051, 0.06, 0.08)], "regret 0.064, by seed 0.051 to 0.080", "does not hold"),
        (HOME, [(ENCODER, UNSEEN, 0.75, 0.85)], "80% of unseen questions", "mostly"),
        (HOME, [(ENCODER, UNSEEN, 0.7, 0.7, 0.9)], "77% of unseen questions", "often not"),
        (HOME, [(ENCODER, UNSEEN, 0.7, 0.7, 0.7)], "70% of unseen questions", "often not"),
        (
            STABLE,
            [(ENCODER, TENTHS, 0.5, 0.6), ("random choice", TENTHS, 0.1, 0.2)],
            "Jaccard 0.55 when a tenth of the data is left out, 0.15 by chance",
            "holds",
        ),
        (
            STABLE,
            [(ENCODER, TENTHS, 0.4, 0.6), ("random choice", TENTHS, 0.1, 0.1)],
            "Jaccard 0.50 when a tenth of the data is left out, 0.10 by chance",
            "does not hold",
        ),
    ],
)
def test_what_is_judged_by_seeds_has_its_thresholds(claim, rows, measured, told):
    task = "mean" if claim == REGRET else "all"
    (row,) = verdicts(pd.concat([seeds(*row, task=task) for row in rows])).itertuples(index=False)
    assert row.claim.startswith(claim) and (row.measured, row.verdict) == (measured, told)


@pytest.mark.parametrize(
    ("values", "told", "said"),
    [
        ([-0.5, -0.4, -0.6], "below 0 beyond chance in 3 and above in 0 of 3 seeds", "holds"),
        ([-0.5, 0.1, 0.6], "below 0 beyond chance in 1 and above in 1 of 3 seeds", "in some seeds"),
        ([0.5, 0.1, 0.6], "below 0 beyond chance in 0 and above in 2 of 3 seeds", "does not hold"),
    ],
)
def test_a_correlation_against_the_assumption_is_told(values, told, said):
    rows = [
        {
            "experiment": "affinity",
            "data": "embedded",
            "base": "tiny",
            "arm": "fitted static, 256",
            "task": "all",
            "metric": "rank correlation with distance",
            "value": value,
            "seed": seed,
            "p_value": 0.5 if abs(value) < 0.2 else 0.01,
        }
        for seed, value in enumerate(values)
    ]
    table = verdicts(pd.DataFrame(rows, columns=evidence_results().columns))
    (row,) = (row for row in table.to_dict("records") if "Near tasks" in str(row))
    assert told in str(row) and said in str(row)
