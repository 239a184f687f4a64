"""What the pages show of the evidence is what the records say, also where arms are missing."""

from __future__ import annotations

import re

import pandas as pd
import pytest

from assl_kit.teaching.evidence import CHOSEN, evidence_results, verdicts
from benchmarks.evidence import table as tables

PAGES = [tables.BENCHMARKS, *tables.READMES.values()]
ALL = "all data, 1 epoch"


@pytest.mark.parametrize("path", PAGES, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_the_tables_of_a_page_are_those_of_the_records(path):
    again = "python -m benchmarks.evidence.table"
    assert tables.written(path, evidence_results()) == path.read_text(encoding="utf-8"), f"{again} writes it anew"


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def measured(arm: str, against: str, value: float, low: float, high: float) -> pd.DataFrame:
    """One pooled difference on the embedded corpus, and how many records its arms learnt."""
    row = {"experiment": "selection", "data": "embedded", "base": "tiny", "task": "mean", "metric": "mean"}
    pooled = {"arm": arm, "against": against, "value": value, "low": low, "high": high}
    rows = [row | pooled | {"metric": "difference in mean"}]
    rows += [row | {"arm": name, "seed": 0, "n_train": n} for name, n in ((CHOSEN, 270), (ALL, 2700))]
    return pd.DataFrame(rows, columns=evidence_results().columns)


@pytest.mark.parametrize(
    ("against", "interval", "column", "words"),
    [
        ("random 10 %", (0.03, 0.01, 0.05), 1, "**better** +0.030 [+0.010, +0.050]"),
        ("random 10 %", (-0.03, -0.05, -0.01), 1, "**worse** -0.030 [-0.050, -0.010]"),
        ("random 10 %", (0.0, -0.02, 0.02), 1, "**cannot tell** +0.000 [-0.020, +0.020]"),
        (ALL, (-0.02, -0.04, 0.0), 2, "**close to it** -0.020 [-0.040, +0.000]"),
        (ALL, (-0.04, -0.06, 0.0), 2, "**undecided** -0.040 [-0.060, +0.000]"),
        (ALL, (-0.08, -0.1, -0.06), 2, "**worse** -0.080 [-0.100, -0.060]"),
    ],
)
def test_a_row_says_what_an_interval_says_and_dashes_what_is_missing(against, interval, column, words):
    row = cells(tables.short_table(measured(CHOSEN, against, *interval), "en").splitlines()[2])
    assert row[0] == "embedded corpus, tiny base: 270 of 2,700"
    assert row[column] == words and [row[k] for k in (1, 2, 3) if k != column] == ["–", "–"]


@pytest.mark.parametrize("language", tables.WORDS)
def test_there_is_a_row_a_data_set_whatever_is_missing(language):
    nothing = evidence_results().head(0)
    rows = [cells(line) for line in tables.short_table(nothing, language).splitlines()]
    assert len(rows) == 5 and {len(row) for row in rows} == {4}
    assert rows[2][1:] == rows[3][1:] == ["–"] * 3 and re.search(r"\[[+-]", rows[4][1])
    assert set(tables.WORDS[language]) == set(tables.WORDS["en"])


def test_claims_without_an_arm_are_left_out_of_the_long_table():
    evidence = evidence_results()
    fewer = evidence[(evidence["arm"] != "random choice") & (evidence["against"] != "stage 1 alone 10 %")]
    rows = verdicts(fewer)
    assert not rows["claim"].str.startswith("Both stages").any() and not rows.isna().any().any()
    shown = tables.table(fewer)
    assert "nan" not in shown and "The selection is stable" not in shown
    assert shown.count("\n") == len(rows) + 1


def test_what_was_measured_on_a_card_is_compared_with_its_own_random_records():
    for line in tables.card_table().splitlines()[2:]:
        name, chosen, control, gap, whole = cells(line)
        assert name and abs(float(chosen) - float(control) - float(gap.split()[0])) < 0.0016
        assert float(whole) > float(chosen)
