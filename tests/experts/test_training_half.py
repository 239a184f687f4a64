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
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_no_activation_is_cast_for_the_adapters(tmp_path, monkeypatch, config, dtype):
    """With the settings that the trainer has on a GPU; beside it float32 products of the adapters on the same base.

    A T4 has no bfloat16: there it is float16 with a scaler of the loss.
    """
    model, tokenizer = load_base("tiny", device="cpu", dtype=dtype)
    records, look, other = some_records(40), Look(), Look()
    half_dtype, half = getattr(torch, dtype), {"bf16": dtype == "bfloat16", "fp16": dtype == "float16"}
    whole = train_adapter(model, tokenizer, records, tmp_path / "a", config, Session(callbacks=[other]))
    assert other.products == {(torch.float32, torch.float32)}
    if dtype == "float16":  # accelerate has it on cards only
        cast = torch.autocast("cpu", torch.float16)
        monkeypatch.setattr(trainer.Trainer, "compute_loss_context_manager", lambda self: cast)
    monkeypatch.setattr(trainer, "SFTConfig", lambda **settings: SFTConfig(**settings | half))
    result = train_adapter(model, tokenizer, records, tmp_path / "b", config, Session(callbacks=[look]))
    assert look.products == {(half_dtype, half_dtype)} and look.weights == {torch.float32}
    assert result.log["loss"].to_numpy() == pytest.approx(whole.log["loss"].to_numpy(), rel=0.02, abs=0.03)
    assert not config.holdout_share or result.best_held_out == pytest.approx(whole.best_held_out, rel=0.02)


def test_on_a_cpu_everything_stays_float32(base, tmp_path):
    look = Look()
    train_adapter(*base, some_records(), tmp_path / "a", QUICK, Session(callbacks=[look]))
    assert look.products == {(torch.float32, torch.float32)} and look.weights == {torch.float32}
