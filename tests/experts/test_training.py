"""The recipe: what is held out, packing, memory, TensorBoard, the bar, the table, and adapters that do not fit."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from helpers.models import make_test_base
from safetensors.torch import load_file, save_file
from test_train_experts import ENCODER, QUICK, Stop, bits, some_records, stopper

from assl_kit.common.files import read_json, sha256_file
from assl_kit.data.loading import load_records
from assl_kit.data.records import prompts
from assl_kit.errors import BankError, ParameterError
from assl_kit.experts.adapters import adapted
from assl_kit.experts.bank import ExpertBank, Provenance
from assl_kit.experts.train_experts import Chosen, Workplace, train_experts
from assl_kit.experts.training.adapter import train_adapter
from assl_kit.experts.training.config import TrainingConfig
from assl_kit.experts.training.data import encode_records, hold_out, pack, plan_training
from assl_kit.experts.training.fit import Fit
from assl_kit.experts.training.flat import answer_loss
from assl_kit.experts.training.session import Session
from assl_kit.experts.training.trainer import check_packing
from assl_kit.experts.training_table import MEASURED, training_results, training_table
from assl_kit.model.identity import base_info
from assl_kit.model.likelihood import answer_nll
from assl_kit.model.loading import load_base

pytestmark = pytest.mark.long

WEIGHTS = "adapter_model.safetensors"
HELD = replace(QUICK, epochs=4, holdout_share=0.25, patience=2)


@pytest.fixture(scope="module")
def tiny():
    return load_base("tiny", device="cpu")


def copied(n=40):
    """Records, every fourth of them twice: another id, the same text."""
    records = some_records(n)
    twins = records[::4].assign(id=lambda frame: frame["id"] + "-twin")
    return pd.concat([records, twins], ignore_index=True)


def gap(one, other):
    one, other = load_file(one / WEIGHTS), load_file(other / WEIGHTS)
    return max(float((one[name] - other[name]).abs().max()) for name in one)


# held out -------------------------------------------------------------------------------------------------------------
def test_no_copy_of_a_held_out_record_is_trained_on(base):
    model, tokenizer = base
    encoded = encode_records(model, tokenizer, copied(), 128)
    plan = plan_training(encoded, HELD)
    trained = {tuple(encoded.input_ids[i]) for row in plan.rows for i in row}
    held = {tuple(encoded.input_ids[i]) for i in plan.held_out}
    different = set(map(tuple, encoded.input_ids))
    assert len(plan.held_out) == len(held) == round(0.25 * len(different)) and not trained & held
    assert trained | held == different
    seen = np.bincount([i for row in plan.rows for i in row], minlength=50)
    assert set(seen) == {0, 4}
    other = plan_training(encoded, replace(HELD, seed=1))
    assert other.held_out != plan.held_out and hold_out(encoded.input_ids, 0.25, 0) == plan.held_out
    assert [len(hold_out([[i] for i in range(n)], 0.25, 0)) for n in (28, 32)] == [0, 8], "eight are enough"


def test_the_held_out_loss_is_the_answer_loss_of_the_records_not_seen(base, tmp_path):
    model, tokenizer = base
    records = copied()
    result = train_adapter(model, tokenizer, records, tmp_path / "a", HELD)
    plan = plan_training(encode_records(model, tokenizer, records, 128), HELD)
    assert result.n_held_out == len(plan.held_out) == 10 and result.notes == () and plan.steps == 38
    assert result.held_out["step"].tolist() == [*range(5, 5 * len(result.held_out), 5), plan.steps]
    held = records.iloc[plan.held_out]
    with adapted(model, result.path) as expert:
        nll = answer_nll(expert, tokenizer, prompts(held), list(held["output"]), max_length=128)
    n = np.array([len(tokenizer(answer)["input_ids"]) + 1 for answer in held["output"]])
    assert result.best_held_out == pytest.approx((nll * n).sum() / n.sum(), rel=1e-4)
    assert result.tokens == plan.tokens_of(0, int(result.held_out["step"].iloc[-1]))


EAGER = replace(QUICK, epochs=12, learning_rate=3e-2, batch_size=8, holdout_share=0.25)


def opposed(n=40):
    """Records whose answers cannot be foreseen: learning the ones makes the others worse."""
    records = some_records(n)
    return records.assign(output=[f"{(i * 7919) % 89}百分之{(i * 104729) % 97}" for i in range(n)])


def test_training_stops_where_the_held_out_loss_rises_and_keeps_the_best(base, tmp_path):
    result = train_adapter(*base, opposed(), tmp_path / "a", EAGER)
    losses = result.held_out["loss"].to_numpy()
    best = losses.argmin()
    assert result.stopped_epoch is not None and result.stopped_epoch < 12 and len(losses) == best + 1 + EAGER.patience
    assert result.stopped_epoch == pytest.approx(result.held_out["epoch"].iloc[-1], abs=0.01)
    straight = train_adapter(*base, opposed(), tmp_path / "b", replace(EAGER, patience=100))
    assert straight.stopped_epoch is None and (straight.held_out["loss"].to_numpy()[: len(losses)] == losses).all()


@pytest.mark.parametrize("at", [6, "end"])
def test_stop_and_resume_with_held_out_records_gives_the_same_bits(base, tmp_path, monkeypatch, at):
    """Interrupted in the middle, and after early stopping but before the adapter was written."""
    config = replace(EAGER, dropout=0.1)
    straight = train_adapter(*base, opposed(), tmp_path / "straight", config)
    if at == "end":
        monkeypatch.setattr("assl_kit.experts.training.adapter.peak_memory_mb", lambda _: (_ for _ in ()).throw(Stop()))
    with pytest.raises(Stop):
        train_adapter(*base, opposed(), tmp_path / "a", config, Session(callbacks=[stopper(at)] if at != "end" else []))
    monkeypatch.undo()
    resumed = train_adapter(*base, opposed(), tmp_path / "a", config)
    assert sha256_file(resumed.path / WEIGHTS) == sha256_file(straight.path / WEIGHTS)
    assert resumed.log.equals(straight.log) and resumed.held_out.equals(straight.held_out)
    assert (resumed.stopped_epoch, resumed.tokens) == (straight.stopped_epoch, straight.tokens)


def test_too_few_to_hold_out_is_said_and_changes_nothing(base, tmp_path):
    held = train_adapter(*base, some_records(), tmp_path / "a", replace(QUICK, holdout_share=0.25))
    plain = train_adapter(*base, some_records(), tmp_path / "b", QUICK)
    assert held.n_held_out == 0 and len(held.held_out) == 0 and "fewer than 8" in held.notes[0]
    assert np.isnan(held.best_held_out) and held.stopped_epoch is None and plain.notes == ()
    assert sha256_file(held.path / WEIGHTS) == sha256_file(plain.path / WEIGHTS)


# packing --------------------------------------------------------------------------------------------------------------
def test_packing_loses_and_splits_nothing():
    rng = np.random.default_rng(0)
    lengths = rng.integers(3, 300, size=400)
    rows = pack(lengths, np.arange(400), 256, rng)
    assert sorted(i for row in rows for i in row) == list(range(400))
    assert all(len(row) == 1 or lengths[row].sum() <= 256 for row in rows)
    least = np.minimum(lengths, 256).sum() / 256
    assert len(rows) < 1.1 * least + 1


def packed_batch(tokenizer, encoded):
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

    parts = {"input_ids": encoded.input_ids, "labels": encoded.labels}
    row = {name: [i for ids in values for i in ids] for name, values in parts.items()}
    row["seq_lengths"] = [len(ids) for ids in encoded.input_ids]
    return DataCollatorForLanguageModeling(tokenizer.pad_token_id, padding_free=True)([row])


def test_packed_records_do_not_see_each_other(tiny):
    """The loss of a packed row is that of its records one by one; with one mask for all it would not be."""
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

    model, tokenizer = tiny
    encoded = encode_records(model, tokenizer, load_records("embedded", n_records=200, seed=0).head(12), 512)
    batch = packed_batch(tokenizer, encoded)
    assert batch["input_ids"].shape == (1, sum(map(len, encoded.input_ids)))
    rows = [{"input_ids": i, "labels": x} for i, x in zip(encoded.input_ids, encoded.labels, strict=True)]
    one_by_one = DataCollatorForLanguageModeling(tokenizer.pad_token_id)(rows)
    with torch.no_grad():
        apart = float(answer_loss(model, one_by_one, None))
        together = float(answer_loss(model, dict(batch), None))
        mixed = float(answer_loss(model, {k: batch[k] for k in ("input_ids", "labels")}, None))
    assert together == pytest.approx(apart, abs=1e-5) and abs(mixed - apart) > 1e-3
    check_packing(model, tokenizer, encoded)


def test_training_packed_learns_the_same(tiny, tmp_path):
    """One row with all records is one step of all records, so packed and padded give the same adapter."""
    model, tokenizer = tiny
    records = load_records("embedded", n_records=200, seed=0).head(6)
    config = TrainingConfig(epochs=3, batch_size=6, learning_rate=2e-3, max_length=2048)
    plain = train_adapter(model, tokenizer, records, tmp_path / "a", config)
    packed = train_adapter(model, tokenizer, records, tmp_path / "b", replace(config, packing=True, batch_size=1))
    assert packed.log["loss"].to_numpy() == pytest.approx(plain.log["loss"].to_numpy(), abs=1e-4)
    assert packed.tokens == plain.tokens and gap(packed.path, plain.path) < 1e-3


def test_an_attention_that_mixes_records_is_refused(base, tmp_path, monkeypatch):
    monkeypatch.setattr("transformers.masking_utils.find_packed_sequence_indices", lambda *_: None)
    with pytest.raises(ParameterError, match="packed records would see each other.*Qwen2ForCausalLM.*packing=false"):
        train_adapter(*base, some_records(), tmp_path / "a", replace(QUICK, packing=True))
    assert not list(tmp_path.iterdir())


# memory ---------------------------------------------------------------------------------------------------------------
@pytest.fixture
def short_of_memory(base):
    """A function that lets the base's decoder take so many rows at a time and no more."""
    decoder = base[0].get_decoder()

    def allow(rows, *, checkpointed_only=False):
        def forward(*args, **inputs):
            recomputed = decoder.is_gradient_checkpointing
            if len(inputs["input_ids"]) > rows or (checkpointed_only and not recomputed):
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
            return type(decoder).forward(decoder, *args, **inputs)

        decoder.forward = forward

    yield allow
    decoder.__dict__.pop("forward", None)


def test_the_batch_is_halved_until_it_fits(base, tmp_path, short_of_memory):
    before = bits(base[0])
    asked = train_adapter(*base, some_records(), tmp_path / "a", QUICK)
    short_of_memory(1)
    with pytest.warns(UserWarning, match="expert 3: out of memory with 4 at a time: went on with 2 at a time"):
        result = train_adapter(*base, some_records(), tmp_path / "b", QUICK, Session(name="expert 3"))
    assert len(result.notes) == 2 and "1 at a time, the same records a step" in result.notes[1]
    assert result.fingerprint == asked.fingerprint and read_json(result.path / "training.json")["notes"] == [
        *result.notes
    ]
    assert result.log["loss"].to_numpy() == pytest.approx(asked.log["loss"].to_numpy(), abs=1e-4)
    assert gap(result.path, asked.path) < 1e-3
    assert all(torch.equal(tensor, before[name]) for name, tensor in base[0].state_dict().items())


def test_it_goes_on_from_the_last_checkpoint(base, tmp_path, short_of_memory):
    from transformers import TrainerCallback

    seen = []

    class Watch(TrainerCallback):
        def on_step_begin(self, args, state, control, **_):
            seen.append(state.global_step)
            if state.global_step == 5:
                short_of_memory(2)

    with pytest.warns(UserWarning, match="went on with 2 at a time"):
        train_adapter(*base, some_records(), tmp_path / "a", QUICK, Session(callbacks=[Watch()]))
    assert seen == [0, 1, 2, 3, 4, 5, 3, 4, 5, 6, 7]


def test_at_one_record_activations_are_recomputed_and_then_it_is_an_error(base, tmp_path, short_of_memory):
    model, tokenizer = base
    short_of_memory(1, checkpointed_only=True)
    with pytest.warns(UserWarning, match="1 at a time, activations recomputed"):
        result = train_adapter(model, tokenizer, some_records(4), tmp_path / "a", replace(QUICK, epochs=1))
    assert "activations recomputed" in result.notes[-1] and not model.is_gradient_checkpointing
    short_of_memory(0)
    with pytest.warns(UserWarning), pytest.raises(ParameterError, match="out of memory.*Lower max_length"):
        train_adapter(model, tokenizer, some_records(shift=1), tmp_path / "b", QUICK)
    assert not hasattr(model, "peft_config") and "forward" not in vars(model)


def test_a_callback_may_end_a_training_early(base, tmp_path):
    from transformers import TrainerCallback

    class Enough(TrainerCallback):
        def on_step_end(self, args, state, control, **_):
            control.should_training_stop = state.global_step == 4

    result = train_adapter(*base, some_records(), tmp_path / "a", QUICK, Session(callbacks=[Enough()]))
    assert result.log["step"].iloc[-1] == 4 and result.stopped_epoch == pytest.approx(4 / 8 * QUICK.epochs, abs=0.5)
    assert result.held_out.empty and (result.path / WEIGHTS).is_file()


def test_other_errors_are_not_taken_for_a_lack_of_memory(base, tmp_path):
    from transformers import TrainerCallback

    class Fail(TrainerCallback):
        def on_step_begin(self, args, state, control, **_):
            raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes do not match"):
        train_adapter(*base, some_records(), tmp_path / "a", QUICK, Session(callbacks=[Fail()]))


def test_a_step_keeps_its_records_however_it_is_computed():
    config = TrainingConfig(batch_size=8, gradient_accumulation=2)
    for devices in (1, 2, 4, 8, 16):
        fit = Fit.of(config, devices)
        while fit is not None:
            assert fit.batch * fit.passes * devices == 16 and fit.batch <= 8
            fit = fit.smaller()
    with pytest.raises(ParameterError, match="16 records of a step cannot be shared by 3 processes"):
        Fit.of(config, 3)


# around it ------------------------------------------------------------------------------------------------------------
def test_tensorboard_files_hold_the_losses_and_stay(base, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logs = tmp_path / "logs" / "expert-0"
    result = train_adapter(*base, copied(), tmp_path / "a", HELD, Session(log_dir=logs))
    events = EventAccumulator(str(logs))
    events.Reload()
    losses = [event.value for event in events.Scalars("train/loss")]
    assert losses == pytest.approx(result.log["loss"].tolist(), rel=1e-6)
    assert [e.step for e in events.Scalars("eval/loss")] == result.held_out["step"].tolist()
    plain = train_adapter(*base, copied(), tmp_path / "b", HELD)
    assert sha256_file(plain.path / WEIGHTS) == sha256_file(result.path / WEIGHTS)


def test_without_tensorboard_it_says_so_before_training(base, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *_: None)
    with pytest.raises(ParameterError, match=r"needs TensorBoard, which is not installed.*assl-kit\[train\]"):
        session = Session(log_dir=tmp_path / "logs", callbacks=[stopper(0)])
        train_adapter(*base, some_records(), tmp_path / "a", QUICK, session)


def test_one_bar_counts_the_steps_of_all_trainings(base, tmp_path, capsys):
    from tqdm.auto import tqdm

    seen = []
    bar = tqdm(total=16 + 8)
    bar.set_description = lambda text, **_: seen.append((text, bar.n))
    for name, config in (("expert 0", QUICK), ("expert 1", replace(QUICK, epochs=4)), ("expert 0", QUICK)):
        folder = tmp_path / name.replace(" ", "-")
        train_adapter(*base, some_records(), folder, config, Session(name=name, progress=bar))
    assert seen == [("expert 0", 0), ("expert 1", 8)] and bar.n == 8 + 16 + 8
    bar.close()
    assert "loss=" in capsys.readouterr().err
    train_adapter(*base, some_records(), tmp_path / "c", QUICK)
    assert capsys.readouterr().err == ""


def test_the_table_has_one_row_per_expert(base, tmp_path):
    results = [train_adapter(*base, copied(), tmp_path / f"expert-{k}", replace(HELD, seed=k)) for k in range(2)]
    table = training_table(results)
    assert table.index.tolist() == ["expert-0", "expert-1"] and table.notna().drop(columns="stopped_epoch").all(None)
    row, result = table.loc["expert-1"], results[1]
    assert (row["copies"], row["held_out"], row["tokens"]) == (50, 10, result.tokens)
    assert row["first_loss"] == result.log["loss"].iloc[0] > row["last_loss"]
    assert row["last_loss"] == result.log["loss"].iloc[-1] and row["best_held_out"] == result.held_out["loss"].min()
    assert row["seconds"] == result.seconds > 0 and row["peak_memory_mb"] > 0


def test_a_bank_tells_how_its_experts_were_trained(base, tmp_path, capsys):
    selection = pd.DataFrame({"id": [f"r{i}" for i in range(72)], "cluster": np.arange(72) % 2, "copies": 1})
    X = np.random.default_rng(0).normal(size=(72, 8)).astype("f4")
    rows, origin = Chosen(some_records(72), selection, X), Provenance(base_info(*base), ENCODER)
    config = replace(QUICK, holdout_share=0.25)
    bank = train_experts(*base, rows, tmp_path / "b", config, origin=origin, workplace=Workplace(progress=True))
    bars = capsys.readouterr().err.replace("\r", "\n").splitlines()
    total = sum(plan_training(encode_records(*base, some_records(36), 128), config).steps for _ in range(2))
    assert f"{total}/{total}" in bars[-1] and "expert 1" in bars[-1] and "held_out=" in bars[-1]
    opened = ExpertBank.from_pretrained(bank.path)
    for told, result in zip(training_results(opened), bank.results, strict=True):
        assert told.n_held_out == result.n_held_out == 9 and told.held_out.equals(result.held_out)
        assert (told.stopped_epoch, told.notes, told.tokens) == (result.stopped_epoch, result.notes, result.tokens)
    assert opened.info["training"]["quantization"] == "none"
    measured = {r.path.name: {m: getattr(r, m) for m in MEASURED} for r in bank.results}
    pd.testing.assert_frame_equal(training_table(opened, measured), training_table(bank))
    assert training_table(bank)["records"].tolist() == [36, 36] and training_table(opened)["seconds"].isna().all()


# another base ---------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def adapter(base, tmp_path_factory):
    return train_adapter(*base, some_records(), tmp_path_factory.mktemp("fits") / "a", QUICK).path


def refused(model, folder, message):
    names = [name for name, _ in model.named_modules()]
    with pytest.raises(BankError, match=message), adapted(model, folder):
        pass
    assert [name for name, _ in model.named_modules()] == names and not hasattr(model, "peft_config")


def test_an_adapter_of_other_sizes_or_layers_is_refused(base, adapter, tmp_path):
    wider, _ = load_base(str(make_test_base(tmp_path / "wider", hidden_size=64)), device="cpu")
    refused(
        wider,
        adapter,
        r"for another base: its layer model.layers.0.mlp.down_proj turns 64 numbers into 32, that of \S+ 128 into 64",
    )
    lower, _ = load_base(str(make_test_base(tmp_path / "lower", layers=1)), device="cpu")
    refused(lower, adapter, "changes the layer model.layers.1.* which Qwen2ForCausalLM has not")
    higher, _ = load_base(str(make_test_base(tmp_path / "higher", layers=3)), device="cpu")
    refused(higher, adapter, "trained on another base")
    broken = tmp_path / "broken"
    shutil.copytree(adapter, broken)
    (broken / WEIGHTS).write_bytes(b"no tensors")
    refused(base[0], broken, "weights cannot be read")


def test_an_adapter_of_another_base_of_the_same_form_is_refused(base, adapter, tmp_path):
    other, _ = load_base(str(make_test_base(tmp_path / "other", seed=1)), device="cpu")
    refused(other, adapter, "trained on another base")
    foreign = tmp_path / "foreign"  # one that does not say: nothing to compare but its form
    shutil.copytree(adapter, foreign)
    (foreign / "training.json").unlink()
    for model in (other, base[0]):
        with adapted(model, foreign):
            pass


def test_other_libraries_adapters_load_if_they_fit(base, tmp_path):
    """Some layers only, another rank, a rule instead of names."""
    from peft import LoraConfig, get_peft_model

    for number, targets in enumerate((["q_proj", "v_proj"], r".*layers\.0.*q_proj")):
        wrapped = get_peft_model(base[0], LoraConfig(r=4, target_modules=targets))
        wrapped.save_pretrained(tmp_path / str(number))
        wrapped.unload()
        with adapted(base[0], tmp_path / str(number)):
            pass
    tensors = load_file(tmp_path / "0" / WEIGHTS)
    save_file({key: value for key, value in tensors.items() if "layers.1" not in key}, tmp_path / "0" / WEIGHTS)
    refused(base[0], tmp_path / "0", "no weights for the layer model.layers.1")


# 4 bits ---------------------------------------------------------------------------------------------------------------
def test_training_on_a_base_in_four_bits(tmp_path):
    """QLoRA on a CPU: the loss falls, adapters are float32, the base comes back bit for bit."""
    pytest.importorskip("bitsandbytes")
    model, tokenizer = load_base("tiny", device="cpu", quantization="nf4")
    records = load_records("embedded", n_records=200, seed=0).head(24)
    before, config = bits(model), TrainingConfig(epochs=3, learning_rate=2e-3)
    result = train_adapter(model, tokenizer, records, tmp_path / "a", config)
    again = train_adapter(model, tokenizer, records, tmp_path / "b", replace(config, checkpointing=True))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert result.log["loss"].iloc[-1] < 0.7 * result.log["loss"].iloc[0] and gap(result.path, again.path) < 1e-3
    assert {tensor.dtype for tensor in load_file(result.path / WEIGHTS).values()} == {torch.float32}
    whole, _ = load_base("tiny", device="cpu")
    with adapted(whole, result.path), adapted(model, result.path):
        pass
    plain = train_adapter(whole, tokenizer, records, tmp_path / "c", replace(config, epochs=1))
    assert (
        plain.fingerprint
        != train_adapter(model, tokenizer, records, tmp_path / "c", replace(config, epochs=1)).fingerprint
    )
