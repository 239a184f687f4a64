"""Splits: no text is both trained on and tested, shares are met, what is given stays."""

from __future__ import annotations

from helpers.records import fails, full
from hypothesis import given, settings
from hypothesis import strategies as st

from assl_kit.data.records import validate_records
from assl_kit.data.splits import ensure_splits
from assl_kit.errors import DataError, ParameterError


@settings(max_examples=60, deadline=None)
@given(
    texts=st.lists(st.integers(0, 12), min_size=4, max_size=60).filter(lambda t: len(set(t)) > 1),
    dev=st.sets(st.integers(0, 59), max_size=4),
    seed=st.integers(0, 3),
)
def test_no_text_is_both_trained_on_and_tested(texts, dev, seed):
    rows = [
        {"id": str(i), "instruction": "问", "input": f"料{t}", "output": "答", "task": "ab"[t % 2]}
        for i, t in enumerate(texts)
    ]
    for i, row in enumerate(rows):
        row["split"] = "dev" if i in dev else "train"
    frame = validate_records(rows)
    try:
        out = ensure_splits(frame, seed=seed, test_share=0.2)
    except DataError:
        free = set(frame.loc[frame["split"] == "train", "input"]) - set(frame.loc[frame["split"] == "dev", "input"])
        assert len({t for t in free if True}) < 3, "there were groups to draw from"
        return
    assert out["id"].tolist() == frame["id"].tolist()
    assert (out["split"] == "dev").equals(frame["split"] == "dev"), "dev stays dev"
    test = set(out.loc[out["split"] == "test", "input"])
    assert test and not test & set(out.loc[out["split"] != "test", "input"])
    assert out.equals(ensure_splits(frame, seed=seed, test_share=0.2))


def test_the_test_share_is_met_in_each_task():
    rows = full(400, split="train")
    for i, row in enumerate(rows):
        row["task"] = "qa" if i < 80 else "sentiment"
    out = ensure_splits(validate_records(rows), test_share=0.25)
    assert out[out["split"] == "test"].groupby("task").size().to_dict() == {"qa": 20, "sentiment": 80}


def test_given_test_records_stay_and_bad_shares_are_refused():
    frame = validate_records(full())
    assert ensure_splits(frame).equals(frame)
    for share in (0, 1, -0.1, "0.1", True):
        with fails("test_share", of=ParameterError):
            ensure_splits(frame, test_share=share)
    with fails("share one input"):
        ensure_splits(validate_records(full(5, split="train", input="同一段")))


def test_without_inputs_the_instruction_is_the_text():
    rows = [{"instruction": f"问题{i // 2}", "output": "答"} for i in range(40)]
    out = ensure_splits(validate_records(rows))
    groups = out.groupby("split")["instruction"].agg(set)
    assert len(groups["test"]) == 2 and not groups["test"] & groups["train"]


def test_dev_can_be_the_training_pool_of_what_has_none():
    rows = full(8, split="dev")
    for i in (0, 1):
        rows[i] |= {"source": "other", "split": "train"}
    rows[2] |= {"source": "other"}
    rows[3] |= {"split": "test"}
    out = ensure_splits(validate_records(rows), dev_as_train=True)
    assert out["split"].tolist() == ["train", "train", "dev", "test", "train", "train", "train", "train"]


def test_white_space_around_a_text_makes_no_other_text():
    frame = validate_records(full(80, split="train"))
    frame["input"] = [f"第{i // 2}条" + " \n"[: i % 3] for i in range(80)]
    out = ensure_splits(frame, test_share=0.3)
    sides = out.groupby(out["input"].str.strip())["split"].nunique()
    assert (sides == 1).all() and set(out["split"]) == {"train", "test"}
