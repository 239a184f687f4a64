"""names.py: numbers as numbers, totals apart from what users call things, folders of all scripts."""

from __future__ import annotations

import pandas as pd
import pytest

from assl_kit.common.names import (
    TOTALS,
    apart_from_totals,
    by_number,
    data_name,
    folder_name,
    in_order,
    is_folder_name,
    shortened,
)


def test_numbers_in_names_sort_by_their_value():
    names = [f"expert-{k}" for k in range(12)]
    assert sorted(sorted(names), key=by_number) == names
    assert sorted(["v10.2", "v9", "b", "10", "9", "v10"], key=by_number) == ["9", "10", "b", "v9", "v10", "v10.2"]
    assert in_order(pd.DataFrame({"n": range(12)}, index=sorted(names))).index.tolist() == names
    assert in_order(pd.Series([1, 2], index=["任务10", "任务9"])).tolist() == [2, 1]


def test_names_without_numbers_keep_the_order_of_text():
    names = ["qa", "Qa", "negative_news", "sentiment", "_x", "情感"]
    assert sorted(names, key=by_number) == sorted(names)


def test_no_name_is_that_of_a_total_and_different_ones_stay_different():
    names = pd.Series(["mean", "qa", "Mean", "mean (task)", "ALL", "mean", "total", "other"])
    apart = apart_from_totals(names)
    assert not apart.str.casefold().isin(TOTALS).any()
    assert (
        apart.nunique() == names.nunique() and apart[0] == apart[5] and apart[1] == "qa" and apart[3] == "mean (task)"
    )
    assert apart_from_totals(apart) is apart  # twice is once
    usual = pd.Series(["qa", "meaning", "all of it"])
    assert apart_from_totals(usual) is usual


@pytest.mark.parametrize(
    ("data", "name"),
    [
        ("情感.jsonl", "情感"),
        ("摘要.jsonl", "摘要"),
        ("/a/fin.v1.jsonl.gz", "fin.v1"),
        ("fin.v2.parquet", "fin.v2"),
        ("a b/हिन्दी वाक्य.json", "हिन्दी-वाक्य"),
        ("owner/My Data", "My-Data"),
        ("x/日本語のデータ/", "日本語のデータ"),
        ("..", ""),
        (".jsonl", "jsonl"),
    ],
)
def test_a_folder_keeps_the_letters_of_all_scripts(data, name):
    made = folder_name(data_name(data))
    assert made == name and (not made or is_folder_name(made))


def test_long_names_are_cut_and_stay_different():
    for text in ("长" * 90, "x" * 120):
        one, two = shortened(text + "一"), shortened(text + "二")
        assert one != two and is_folder_name(one) and is_folder_name(two)
    assert shortened("short") == "short"


@pytest.mark.parametrize("name", ["", "-x", ".x", "a/b", "a\\b", "a\0", "\udcff", "a:b", "x" * 101, "长" * 70])
def test_what_is_no_folder(name):
    assert not is_folder_name(name)
