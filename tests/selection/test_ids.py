"""Ids: one order for all kernels, and an error that names the row."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from assl_kit.errors import DataError
from assl_kit.selection.ids import id_order


@pytest.mark.parametrize(
    "ids",
    [
        ["b", "a", "c"],
        np.array(["b", "a", "c"]),
        np.array(["b", "a", "c"], dtype=object),
        pd.Series(["b", "a", "c"], index=[7, 8, 9], dtype="string"),
        [5, -1, 7],
        np.array([0.5, 0.25, 0.75], dtype=np.float32),
        pd.to_datetime(["2024-02-01", "2024-01-01", "2024-03-01"]),
    ],
)
def test_any_sortable_ids(ids):
    order = id_order(ids, 3, unique=True)
    assert order.tolist() == [1, 0, 2]
    assert order.dtype == np.int64


def test_without_ids_the_row_number_counts():
    assert id_order(None, 4, unique=True).tolist() == [0, 1, 2, 3]


def test_equal_ids_stay_in_order_of_rows():
    assert id_order(["b", "a", "b", "a"], 4).tolist() == [1, 3, 0, 2]
    for ids in (["b", "a"] * 500, np.array([1, 0] * 500), np.array([0.5, 0.25] * 500)):
        assert id_order(ids, 1000).tolist() == [*range(1, 1000, 2), *range(0, 1000, 2)]


@pytest.mark.parametrize(
    ("ids", "words"),
    [
        (["a", "b"], r"shape \(2,\).*3 rows.*one id for each"),
        ([["a"], ["b"], ["c"]], "3 rows"),
        (["a", 1, "b"], r"1 and 'a'.*row 1.*one type"),
        (np.array(["a", "b", None], dtype=object), "missing.*row 2"),
        (np.array([1, "b", 2], dtype=object), "row 1"),
        ([1.0, float("nan"), 2.0], "missing.*row 1"),
        (pd.Series(["a", pd.NA, "b"], dtype="string"), "missing.*row 1"),
    ],
)
def test_ids_that_do_not_fit_are_named(ids, words):
    with pytest.raises(DataError, match=words):
        id_order(ids, 3)


def test_a_repeated_id_is_named():
    with pytest.raises(DataError, match=r"'b' occurs twice.*row 3.*unique"):
        id_order(["b", "c", "a", "b"], 4, unique=True)
    with pytest.raises(DataError, match=r"id 5 occurs twice.*row 1"):
        id_order(np.array([5, 5]), 2, unique=True)
