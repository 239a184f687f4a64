"""Splits: a test part that shares no text with the training part, and seeded draws."""

from __future__ import annotations

import numpy as np
import pandas as pd

from assl_kit.common.checks import real
from assl_kit.errors import DataError


def ensure_splits(
    records: pd.DataFrame, *, test_share: float = 0.1, seed: int = 0, dev_as_train: bool = False
) -> pd.DataFrame:
    """Make a test split where there is none; splits that are given stay.

    Train records are put in groups of equal ``input`` (of equal instruction where the input is empty; with what was
    said before), so that no text is both trained on and tested. In each task whole groups are drawn until
    ``test_share`` of its train records is test; where no task has two groups, of all train records. Groups that have
    a dev record stay where they are.

    Parameters
    ----------
    records : DataFrame
        As `validate_records` gives it.
    test_share : float
        Share of each task's train records that becomes test, in (0, 1).
    seed : int
        Fixes the draw.
    dev_as_train : bool
        Also make the dev records of each source and task that has no train record its training pool, as for FinNA
        and FinQA, which publish no train split.

    Returns
    -------
    DataFrame
        The same rows in the same order, with ``split`` set.

    Raises
    ------
    ParameterError
        ``test_share`` is not in (0, 1).
    DataError
        No test record can be set apart: all train records share one input.

    References
    ----------
    Ours; the paper takes the benchmarks' own test splits.

    Examples
    --------
    >>> from assl_kit.data.records import validate_records
    >>> rows = [{"instruction": "判断情绪。", "input": f"第{i % 10}条", "output": "中性"} for i in range(40)]
    >>> frame = ensure_splits(validate_records(rows), test_share=0.2)
    >>> train, test = (set(frame.loc[frame["split"] == name, "input"]) for name in ("train", "test"))
    >>> len(train), len(test), len(train & test)
    (8, 2, 0)
    """
    real("test_share", test_share, 0, 1, inside=True)
    records = records.copy()
    split = records["split"].to_numpy(dtype=object).copy()
    if dev_as_train:
        kinds = pd.MultiIndex.from_frame(records[["task", "source"]])
        split[(split == "dev") & ~kinds.isin(kinds[split == "train"])] = "train"
    if not (split == "test").any():
        text = records["input"].where(records["input"].str.strip() != "", records["instruction"]).str.strip()
        if "history" in records:
            text = records["history"] + text
        group = pd.factorize(text)[0]
        free = (split == "train") & ~np.isin(group, group[split == "dev"])
        drawn = _draw_test(group, records["task"].to_numpy(dtype=object), free, test_share, seed)
        if len(drawn) == 0:  # no task has two texts: then all count as one
            drawn = _draw_test(group, np.zeros(len(group), dtype=object), free, test_share, seed)
        split[drawn] = "test"
        if not (split == "train").any() or not (split == "test").any():
            hint = 'Give records with different inputs, or mark some with "split": "test".'
            raise DataError("no test split can be made: the train records share one input", hint=hint)
    records["split"] = split
    return records.astype({"split": records["task"].dtype})


def _draw_test(group: np.ndarray, task: np.ndarray, free: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Rows of whole groups that become test; a group counts for the task of its first free row."""
    rng = np.random.default_rng(seed)
    sizes = np.bincount(group[free], minlength=group.max() + 1)
    first = pd.Series(task[free]).groupby(group[free]).first()
    chosen: list[int] = []
    for name in sorted(first.unique()):
        groups = rng.permutation(first.index[first == name].to_numpy())
        wanted, taken = share * sizes[groups].sum(), 0
        kept: list[int] = []
        for one in groups:
            if taken >= wanted:
                break
            if taken + sizes[one] <= max(1.5 * wanted, 1.0):  # no large group, where smaller ones come nearer
                kept.append(one)
                taken += sizes[one]
        if not kept and len(groups) > 1:  # all were too large: the smallest one
            kept = [groups[np.argmin(sizes[groups])]]
        chosen += kept[: len(groups) - 1]  # one group stays to train on
    return np.flatnonzero(free & np.isin(group, chosen))


def draw_records(records: pd.DataFrame, n_records: int, seed: int) -> pd.DataFrame:
    """A seeded draw with the shares of each task and split, by largest remainder; rows stay in order."""
    if n_records >= len(records):
        return records
    strata = records.groupby(["task", "split"], sort=True).indices
    exact = np.array([len(rows) for rows in strata.values()]) * (n_records / len(records))
    quota = np.floor(exact).astype(int)
    largest = np.argsort(-(exact - quota), kind="stable")[: n_records - quota.sum()]
    quota[largest] += 1
    rng = np.random.default_rng(seed)
    drawn = [rng.permutation(rows)[:n] for rows, n in zip(strata.values(), quota, strict=True)]
    return records.iloc[np.sort(np.concatenate(drawn))].reset_index(drop=True)


def training_pool(records: pd.DataFrame) -> pd.DataFrame:
    """The records that may be learnt from: every split but ``test`` (ours: a dev split counts as training data)."""
    return records[records["split"] != "test"].reset_index(drop=True)


def sample_by_task(records: pd.DataFrame, per_task: int, seed: int) -> pd.DataFrame:
    """At most ``per_task`` records of each task, drawn without replacement, in their old order."""
    rng = np.random.default_rng(seed)
    keep: list[int] = []
    for _, rows in sorted(records.groupby("task").indices.items()):
        keep.extend(rng.permutation(rows)[:per_task])
    return records.iloc[sorted(keep)].reset_index(drop=True)
