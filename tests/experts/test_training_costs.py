"""Where a training is computed, and settings compared on the same records."""

from __future__ import annotations

import re

import pytest

from assl_kit.data.loading import load_records
from assl_kit.experts.training.config import TrainingConfig
from assl_kit.experts.training_costs import compare_settings, where_computed
from assl_kit.model.loading import load_base

pytestmark = pytest.mark.long

CONFIG = TrainingConfig(epochs=2, batch_size=8, learning_rate=2e-3, max_length=128)


@pytest.fixture(scope="module")
def tiny():
    return load_base("tiny", device="cpu")


@pytest.fixture(scope="module")
def records():
    return load_records("embedded", n_records=200, seed=0).head(40)


def test_settings_differ_in_cost_only_where_they_say_so(tiny, records):
    changes = {"8 at a time": {}, "4 at a time": {"batch_size": 4, "gradient_accumulation": 2}}
    changes |= {"packed": {"packing": True, "batch_size": 2}}
    table = compare_settings(*tiny, records, CONFIG, changes)
    assert table.index.tolist() == list(changes) and (table["tokens_per_second"] > 0).all()
    assert table.loc["packed", "steps"] != table.loc["8 at a time", "steps"] == 10
    assert (table["last_loss"] < table["first_loss"]).all()


def test_where_it_is_computed(tiny):
    facts = where_computed(tiny[0])
    assert re.fullmatch(r"CPU, \d+ threads", facts["device"]) and facts["weights"] == facts["adapters"] == "float32"
    assert "mask" in facts["rows"] and facts["memory of the weights"].endswith(" MB")
