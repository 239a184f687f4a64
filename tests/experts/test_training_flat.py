"""Training on flat rows, as a card with a flash attention does it, on a CPU: the same losses, nothing that waits."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import torch
from safetensors.torch import load_file
from test_train_experts import QUICK, bits, some_records
from torch.utils._python_dispatch import TorchDispatchMode

from assl_kit.errors import ParameterError
from assl_kit.experts.training import fit as fits
from assl_kit.experts.training import flat
from assl_kit.experts.training.adapter import train_adapter
from assl_kit.experts.training.config import TrainingConfig
from assl_kit.experts.training.data import encode_records, plan_training
from assl_kit.experts.training.flat import ATTENTION, Flat, answer_loss, attend, attention

pytestmark = pytest.mark.long

WAITS = {"aten._local_scalar_dense.default", "aten.nonzero.default", "aten.item.default"}


@pytest.fixture
def as_on_a_card(monkeypatch):
    """The base counts as one on a card with a flash attention; layers are compiled without a compiler for C++."""
    monkeypatch.setattr(flat, "supported", lambda model: True)


def gap(one, other):
    one, other = (load_file(result.path / "adapter_model.safetensors") for result in (one, other))
    return max(float((one[name] - other[name]).abs().max()) for name in one)


@pytest.mark.parametrize(
    "change",
    [{}, {"packing": True, "max_length": 256}, {"checkpointing": True, "holdout_share": 0.25}, {"compiled": True}],
    ids=["padded", "packed", "recomputed", "compiled"],
)
def test_it_learns_the_same(base, tmp_path, monkeypatch, change):
    if "compiled" in change:
        monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    config, before, records = replace(QUICK, **change), bits(base[0]), some_records(40)
    plain = train_adapter(*base, records, tmp_path / "a", config)
    seen = []
    monkeypatch.setattr(flat, "supported", lambda model: True)
    collate = Flat.__call__
    monkeypatch.setattr(Flat, "__call__", lambda self, rows: seen.append(1) or collate(self, rows))
    result = train_adapter(*base, records, tmp_path / "b", config)
    assert seen and result.fingerprint == plain.fingerprint
    assert result.log["loss"].to_numpy() == pytest.approx(plain.log["loss"].to_numpy(), abs=1e-4)
    assert gap(result, plain) < 1e-3
    assert not config.holdout_share or result.best_held_out == pytest.approx(plain.best_held_out, abs=1e-4)
    assert all(torch.equal(tensor, before[name]) for name, tensor in base[0].state_dict().items())
    layers = base[0].get_decoder().layers
    assert base[0].config._attn_implementation != ATTENTION and not any("forward" in vars(layer) for layer in layers)


class Waits(TorchDispatchMode):
    """Counts what would make a device answer before the next step can be sent to it."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += str(func) in WAITS
        return func(*args, **(kwargs or {}))


def loss_of(base, batch):
    with Waits() as waits:
        loss = answer_loss(base[0], batch, 1)
    return float(loss.detach()), waits.count


def examples_of(encoded, rows):
    return [{"input_ids": encoded.input_ids[i], "labels": encoded.labels[i]} for i in rows]


def test_nothing_in_a_step_waits_for_the_device(base):
    """Beside it the padded form of the same records, which waits for a list of the answers' places."""
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

    encoded = encode_records(*base, some_records(6), 128)
    plan = plan_training(encoded, replace(QUICK, batch_size=6, epochs=1))
    pad = base[1].pad_token_id
    padded, waits = loss_of(base, DataCollatorForLanguageModeling(pad)(examples_of(encoded, range(6))))
    assert waits
    with attention(base[0]):
        loss, waits = loss_of(base, Flat.of(encoded, plan, 6, pad)(examples_of(encoded, range(6))))
    assert loss == pytest.approx(padded, rel=1e-5) and waits == 0


def test_few_lengths_and_little_padding(base):
    encoded = encode_records(*base, some_records(60), 128)
    for config, batch in ((QUICK, 4), (replace(QUICK, packing=True, max_length=256, batch_size=2), 2)):
        plan = plan_training(encoded, config)
        one = Flat.of(encoded, plan, batch, 0)
        passes = []
        for start in range(0, len(plan.rows), batch):
            rows = plan.rows[start : start + batch]
            examples = [examples_of(encoded, row) for row in rows]
            joined = [{k: sum((e[k] for e in row), []) for k in ("input_ids", "labels")} for row in examples]
            lengths = [[len(encoded.input_ids[i]) for i in row] for row in rows]
            passes.append(one([e | {"seq_lengths": n} for e, n in zip(joined, lengths, strict=True)]))
        widths = [p["input_ids"].shape[1] for p in passes]
        assert len(set(widths)) <= flat.WIDTHS and sum(widths) < plan.tokens.sum() + 64 * len(widths) * 1.5
        assert len({p["cu_seq_lens_q"].shape for p in passes}) == 1 and len({p["max_length_q"] for p in passes}) == 1
        for p in passes:
            bounds = p["cu_seq_lens_q"]
            assert bounds[-1] == p["input_ids"].shape[1] and bounds.diff().max() <= p["max_length_q"]


@pytest.mark.parametrize("window", [None, 3])
def test_attention_is_that_of_each_record_alone(window):
    torch.manual_seed(0)
    query, key, value = torch.randn(1, 4, 12, 8), torch.randn(1, 2, 12, 8), torch.randn(1, 2, 12, 8)
    bounds = torch.tensor([0, 5, 6, 12, 12])
    states, _ = attend(None, query, key, value, None, sliding_window=window, cu_seq_lens_q=bounds, max_length_q=6)
    assert states.shape == (1, 12, 4, 8)
    for start, end in ((0, 5), (5, 6), (6, 12)):
        one, keys, values = (x[0, :, start:end].double() for x in (query, key, value))
        keys, values = keys.repeat_interleave(2, 0), values.repeat_interleave(2, 0)
        scores = one @ keys.transpose(1, 2) / 8**0.5
        apart = torch.arange(end - start)[:, None] - torch.arange(end - start)
        hidden = (apart < 0) | (apart >= (window or 99))
        right = scores.masked_fill(hidden, -torch.inf).softmax(-1) @ values
        assert torch.allclose(states[0, start:end].transpose(0, 1).double(), right, atol=1e-5)


def test_a_callback_that_generates_gets_the_usual_answers(base):
    model, tokenizer = base
    batch = tokenizer(["营收增长三成。", "好"], return_tensors="pt", padding=True, padding_side="left")
    plain = model.generate(**batch, max_new_tokens=5, do_sample=False)
    with attention(model):
        assert torch.equal(model.generate(**batch, max_new_tokens=5, do_sample=False), plain)


def test_an_attention_that_does_not_keep_records_apart_is_not_taken(base, tmp_path, as_on_a_card, monkeypatch):
    """The base's own is taken then; where that does not either, packing is refused as before."""
    monkeypatch.setattr(flat, "_visible", lambda n, *_: torch.ones(n, n, dtype=torch.bool).tril())
    monkeypatch.setattr(Flat, "__call__", lambda *_: pytest.fail("flat rows"))
    train_adapter(*base, some_records(8), tmp_path / "a", replace(QUICK, epochs=1, packing=True))
    monkeypatch.setattr("transformers.masking_utils.find_packed_sequence_indices", lambda *_: None)
    with pytest.raises(ParameterError, match="packed records would see each other"):
        train_adapter(*base, some_records(8), tmp_path / "b", replace(QUICK, epochs=1, packing=True))


# batch_size="auto" ----------------------------------------------------------------------------------------------------
def test_candidates_keep_the_step():
    for rows in (1, 6, 8, 12):
        tried = list(fits.Fit(rows, 1, False).candidates())
        assert all(one.batch * one.passes == rows for one in tried)
        assert [one.checkpointing for one in tried] == sorted(one.checkpointing for one in tried)
        assert tried[0].batch == rows and tried[-1].batch == 1 and tried[-1].checkpointing


@pytest.mark.parametrize(("room", "rows"), [(10_000, "padded"), (260, "flat"), (1, "padded")])
def test_auto_fills_the_memory_and_learns_the_same(base, tmp_path, monkeypatch, room, rows):
    """Memory is told in tokens: a pass takes as many as it has, a recomputed one half of them."""
    most, tried = {"tokens": 0}, []

    def passed(model, batch, is_flat, real=fits._fits):
        assert is_flat == ("answer_places" in batch) == (rows == "flat")
        most["tokens"] = batch["input_ids"].numel() // (2 if model.is_gradient_checkpointing else 1)
        tried.append((batch["input_ids"].shape, model.is_gradient_checkpointing))
        return real(model, batch, is_flat)

    monkeypatch.setattr(flat, "supported", lambda model: rows == "flat")
    monkeypatch.setattr(fits, "on_card", lambda model: True)

    monkeypatch.setattr(fits, "_fits", passed)
    monkeypatch.setattr(fits, "_free_bytes", lambda device: room)
    monkeypatch.setattr(fits, "_most_bytes", lambda device: most["tokens"])
    records, config = some_records(40), replace(QUICK, batch_size="auto", checkpoint_steps=50)
    eight = train_adapter(*base, records, tmp_path / "a", replace(config, batch_size=8))
    result = train_adapter(*base, records, tmp_path / "b", config)
    assert result.fingerprint == eight.fingerprint
    assert result.log["loss"].to_numpy() == pytest.approx(eight.log["loss"].to_numpy(), abs=1e-4)
    recomputed = [with_less for _, with_less in tried]
    assert {10_000: len(tried) == 1, 260: 1 < len(tried) <= 4, 1: len(tried) == 8 and any(recomputed)}[room], tried
    assert not base[0].is_gradient_checkpointing and not hasattr(base[0], "peft_config")


def test_auto_without_a_card_is_eight(base, tmp_path):
    records = some_records(20)
    eight = train_adapter(*base, records, tmp_path / "a", replace(QUICK, batch_size=8))
    auto = train_adapter(*base, records, tmp_path / "b", replace(QUICK, batch_size="auto"))
    assert gap(auto, eight) == 0


@pytest.mark.parametrize("values", [{"batch_size": "all"}, {"batch_size": 0}, {"compiled": "yes"}])
def test_wrong_settings(values):
    with pytest.raises(ParameterError):
        TrainingConfig(**values)


def test_layers_share_one_graph(base, as_on_a_card, tmp_path, monkeypatch):
    """Two layers, forward and backward, packed rows of one length: what is compiled is a layer and the loss."""
    from torch._dynamo.testing import CompileCounter

    counter = CompileCounter()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=counter))
    torch._dynamo.reset()
    config = replace(QUICK, packing=True, max_length=256, batch_size=1, compiled=True)
    train_adapter(*base, some_records(30), tmp_path / "a", config)
    first = counter.frame_count
    assert 2 <= first <= 4, first
    train_adapter(*base, some_records(30, shift=1), tmp_path / "b", config)
    assert counter.frame_count == first, "the next training takes the same graphs"
