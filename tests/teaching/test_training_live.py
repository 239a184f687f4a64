"""Training shown while it goes: the picture follows the log, settings are compared on the same records."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from assl_kit.data.loading import load_records
from assl_kit.experts.training.adapter import train_adapter
from assl_kit.experts.training.config import TrainingConfig
from assl_kit.experts.training.session import Session
from assl_kit.model.loading import load_base
from assl_kit.teaching import training_live
from assl_kit.teaching.training_live import LiveLoss, compare_settings, where_computed

pytestmark = pytest.mark.long

CONFIG = TrainingConfig(epochs=2, batch_size=8, learning_rate=2e-3, max_length=128)


@pytest.fixture(scope="module")
def tiny():
    return load_base("tiny", device="cpu")


@pytest.fixture(scope="module")
def records():
    return load_records("embedded", n_records=200, seed=0).head(40)


class Picture:
    """In place of IPython's display: counts, and keeps the curves of the last drawing."""

    def __init__(self):
        self.first, self.updates, self.curves = 0, 0, {}

    def __call__(self, figure, display_id):
        self.first += 1
        self.keep(figure)
        return self

    def update(self, figure):
        self.updates += 1
        self.keep(figure)

    def keep(self, figure):
        self.curves = {line.get_label(): line.get_xydata().tolist() for line in figure.axes[0].lines}


def test_one_picture_follows_the_loss_to_its_end(tiny, records, tmp_path, monkeypatch):
    picture = Picture()
    monkeypatch.setattr(training_live, "display", picture)
    monkeypatch.setattr(training_live, "_EVERY", 0.0)
    config = replace(CONFIG, holdout_share=0.25)
    result = train_adapter(*tiny, records, tmp_path / "a", config, Session(callbacks=[LiveLoss()]))
    assert picture.first == 1 and picture.updates > 3
    assert picture.curves["trained on"] == result.log[["step", "loss"]].to_numpy().tolist()
    assert picture.curves["held out"] == result.held_out[["step", "loss"]].to_numpy().tolist()


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
