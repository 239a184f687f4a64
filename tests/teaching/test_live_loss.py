"""Training shown while it goes: the picture follows the log."""

from __future__ import annotations

from dataclasses import replace

import pytest

from assl_kit.data.loading import load_records
from assl_kit.experts.training.adapter import train_adapter
from assl_kit.experts.training.config import TrainingConfig
from assl_kit.experts.training.session import Session
from assl_kit.model.loading import load_base
from assl_kit.teaching import live_loss
from assl_kit.teaching.live_loss import LiveLoss

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
    monkeypatch.setattr(live_loss, "display", picture)
    monkeypatch.setattr(live_loss, "_EVERY", 0.0)
    config = replace(CONFIG, holdout_share=0.25)
    result = train_adapter(*tiny, records, tmp_path / "a", config, Session(callbacks=[LiveLoss()]))
    assert picture.first == 1 and picture.updates > 3
    assert picture.curves["trained on"] == result.log[["step", "loss"]].to_numpy().tolist()
    assert picture.curves["held out"] == result.held_out[["step", "loss"]].to_numpy().tolist()
