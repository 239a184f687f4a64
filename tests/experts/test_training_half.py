"""Half precision as a GPU trains in it, on a CPU: no activation is cast for the float32 adapters, losses agree."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from test_train_experts import QUICK, some_records
from transformers import TrainerCallback
from trl import SFTConfig

from assl_kit.experts.training import trainer
from assl_kit.experts.training.adapter import train_adapter
from assl_kit.experts.training.session import Session
from assl_kit.model.loading import load_base

pytestmark = pytest.mark.long


class Look(TrainerCallback):
    """The dtypes that the adapters' products take and give, and those of their weights."""

    def __init__(self):
        self.products, self.weights = set(), set()

    def on_train_begin(self, args, state, control, model=None, **_):
        for name, module in model.named_modules():
            if name.endswith(("lora_A.default", "lora_B.default")):
                self.weights.add(module.weight.dtype)
                module.register_forward_hook(lambda _, given, out: self.products.add((given[0].dtype, out.dtype)))


SLOW = replace(QUICK, learning_rate=5e-4)


@pytest.mark.parametrize("config", [SLOW, replace(SLOW, checkpointing=True, holdout_share=0.25)])
def test_no_activation_is_cast_for_the_adapters(tmp_path, monkeypatch, config):
    """With the settings that the trainer has on a GPU; beside it float32 products of the adapters on the same base."""
    model, tokenizer = load_base("tiny", device="cpu", dtype="bfloat16")
    records, look, other = some_records(40), Look(), Look()
    whole = train_adapter(model, tokenizer, records, tmp_path / "a", config, Session(callbacks=[other]))
    assert other.products == {(torch.float32, torch.float32)}
    monkeypatch.setattr(trainer, "SFTConfig", lambda **settings: SFTConfig(**settings | {"bf16": True}))
    half = train_adapter(model, tokenizer, records, tmp_path / "b", config, Session(callbacks=[look]))
    assert look.products == {(torch.bfloat16, torch.bfloat16)} and look.weights == {torch.float32}
    assert half.log["loss"].to_numpy() == pytest.approx(whole.log["loss"].to_numpy(), rel=0.02, abs=0.03)
    assert not config.holdout_share or half.best_held_out == pytest.approx(whole.best_held_out, rel=0.02)


def test_on_a_cpu_everything_stays_float32(base, tmp_path):
    look = Look()
    train_adapter(*base, some_records(), tmp_path / "a", QUICK, Session(callbacks=[look]))
    assert look.products == {(torch.float32, torch.float32)} and look.weights == {torch.float32}
