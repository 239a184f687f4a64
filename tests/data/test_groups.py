"""Groups: the task, else the source, else few instructions, else the clusters; and ranks of scores within them."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from assl_kit.data.groups import assign_groups
from assl_kit.errors import DataError, ParameterError


def records(n=40, **columns):
    same = {"task": "qa", "source": "one", "instruction": [f"question {i}" for i in range(n)]}
    return pd.DataFrame(
        {name: column if not isinstance(column, str) else [column] * n for name, column in (same | columns).items()}
    )


@pytest.mark.parametrize(
    ("columns", "name", "groups"),
    [
        ({"task": ["a", "b"] * 20}, "task", {"a", "b"}),
        ({"task": ["a", "b"] * 20, "source": ["s", "t"] * 20}, "task", {"a", "b"}),
        ({"source": ["s", "t"] * 20}, "source", {"s", "t"}),
        ({"task": "unknown", "source": ["s", "t"] * 20}, "source", {"s", "t"}),
        ({"instruction": ["sum up", "translate"] * 20}, "instruction", {"sum up", "translate"}),
        ({"instruction": "sum up"}, "cluster", {"0", "1"}),
        ({}, "cluster", {"0", "1"}),
        ({"task": ["a", "b", None, float("nan"), " ", "unknown"] + ["a"] * 34}, "task", {"a", "b", ""}),
        ({"task": ["a"] * 30 + [None] * 10, "source": ["s", "t"] * 20}, "source", {"s", "t"}),
    ],
)
def test_what_divides_best_is_taken(columns, name, groups):
    found = assign_groups(records(**columns), np.arange(40) % 2)
    assert found.name == name and set(found) == groups and len(found) == 40


def test_it_can_be_said_what_to_take():
    given = records(source=["s", "t"] * 20, task=["a", "b", "c", "d"] * 10)
    for by in ("task", "source", "instruction", "cluster"):
        assert assign_groups(given, np.zeros(40, int), by=by).name == by
    assert assign_groups(records()).tolist() == ["all"] * 40
    order = np.random.default_rng(0).permutation(40)
    assert assign_groups(given.iloc[order]).tolist() == assign_groups(given).iloc[order].tolist()


def test_bad_groupings_are_named():
    with pytest.raises(ParameterError, match="unknown grouping 'topic'"):
        assign_groups(records(), by="topic")
    with pytest.raises(ParameterError, match="no column 'task'"):
        assign_groups(records().drop(columns="task"), by="task")
    with pytest.raises(ParameterError, match="needs clusters"):
        assign_groups(records(), by="cluster")
    with pytest.raises(DataError, match="40 records"):
        assign_groups(records(), np.zeros(39))


def test_a_task_of_its_own_for_every_record_divides_nothing():
    records = pd.DataFrame({"task": [f"t{i}" for i in range(12)], "source": list("aabbccaabbcc")})
    assert assign_groups(records).name == "source"
    assert assign_groups(records.drop(columns="source"), np.arange(12) % 3).name == "cluster"
    assert assign_groups(records, by="task").nunique() == 12  # where a person asks for them
