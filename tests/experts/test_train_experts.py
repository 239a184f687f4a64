"""Training adapters: what the loss covers, determinism, resuming, the base left alone, the bank that comes out."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from assl_kit.common.files import sha256_file
from assl_kit.data.records import prompts
from assl_kit.errors import BankError, DataError, ParameterError
from assl_kit.experts.adapters import adapted, load_adapters
from assl_kit.experts.bank import ExpertBank, Provenance
from assl_kit.experts.train_experts import Chosen, Workplace, train_experts
from assl_kit.experts.training.adapter import train_adapter
from assl_kit.experts.training.config import TrainingConfig
from assl_kit.experts.training.data import encode_records, training_order
from assl_kit.experts.training.session import Session
from assl_kit.model.identity import base_info
from assl_kit.model.likelihood import answer_nll
from assl_kit.model.tokens import chat_prompt

QUICK = TrainingConfig(epochs=2, learning_rate=5e-3, batch_size=4, max_length=128, checkpoint_steps=3)


def some_records(n=16, shift=0):
    words = ["积极", "消极", "中性"]
    return pd.DataFrame(
        {
            "id": [f"r{i + shift}" for i in range(n)],
            "instruction": "判断这条财经新闻的情感倾向。",
            "input": [f"公司公告上半年净利润增长{i + shift}%。" * (1 + i % 3) for i in range(n)],
            "output": [words[i % 3] for i in range(n)],
            "task": ["sentiment" if i % 4 else "qa" for i in range(n)],
            "source": "s",
            "split": "train",
        }
    )


@pytest.fixture(scope="module")
def trained(base, tmp_path_factory):
    return train_adapter(*base, some_records(), tmp_path_factory.mktemp("trained") / "a", QUICK)


def bits(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


class Stop(Exception):
    pass


def stopper(step):
    from transformers import TrainerCallback

    class Stopper(TrainerCallback):
        def on_step_begin(self, args, state, control, **_):
            if state.global_step == step:
                raise Stop

    return Stopper()


# tokens ---------------------------------------------------------------------------------------------------------------
def test_labels_cover_the_answer_and_its_end_only(base):
    model, tokenizer = base
    records = some_records(3)
    encoded = encode_records(model, tokenizer, records, 512)
    for ids, labels, prompt, answer in zip(
        encoded.input_ids, encoded.labels, prompts(records), records["output"], strict=True
    ):
        learnt = [label for label in labels if label != -100]
        assert tokenizer.decode(learnt) == answer + tokenizer.eos_token
        assert tokenizer.decode(ids) == chat_prompt(tokenizer, prompt) + answer + tokenizer.eos_token
        assert labels[-len(learnt) :] == learnt == ids[-len(learnt) :]
    assert encoded.n_truncated == 0


def test_long_prompts_lose_their_left_and_answers_stay_whole(base):
    model, tokenizer = base
    whole, cut = (encode_records(model, tokenizer, some_records(3), length) for length in (512, 40))
    assert cut.n_truncated == 3 and {len(ids) for ids in cut.input_ids} == {40}
    for short, long, a, b in zip(cut.input_ids, whole.input_ids, cut.labels, whole.labels, strict=True):
        assert short == long[-40:] and [x for x in a if x != -100] == [x for x in b if x != -100]
    tiny = encode_records(model, tokenizer, some_records(1), 2)
    assert len([x for x in tiny.labels[0] if x != -100]) == len(tiny.input_ids[0]) - 1


def test_order_shows_each_row_once_an_epoch_in_batches_of_like_length():
    lengths = np.random.default_rng(0).integers(5, 500, size=1003)
    order = training_order(lengths, epochs=3, batch_size=8, seed=1)
    assert (np.bincount(order) == 3).all() and len(order) == 3009
    assert (np.bincount(order[:1000], minlength=1003) <= 1).all()
    spread = [np.ptp(lengths[order[i : i + 8]]) for i in range(0, 1000, 8)]
    assert np.mean(spread) < 0.2 * np.ptp(lengths)
    assert (order == training_order(lengths, 3, 8, 1)).all() and (order != training_order(lengths, 3, 8, 2)).any()


# one adapter ----------------------------------------------------------------------------------------------------------
def test_the_logged_loss_is_the_answer_loss(base, tmp_path):
    """With one step, the loss is that of the untouched base: token mean over answers and their ends."""
    model, tokenizer = base
    records = some_records(4)
    config = TrainingConfig(epochs=1, batch_size=4, max_length=128)
    result = train_adapter(model, tokenizer, records, tmp_path / "a", config)
    nll = answer_nll(model, tokenizer, prompts(records), list(records["output"]), max_length=128)
    n = np.array([len(tokenizer(answer)["input_ids"]) + 1 for answer in records["output"]])
    assert len(result.log) == 1 and result.log["loss"][0] == pytest.approx((nll * n).sum() / n.sum(), rel=1e-4)


def test_training_lowers_the_loss_and_leaves_the_base_alone(base, tmp_path):
    model, tokenizer = base
    records = some_records()
    before, settings = bits(model), dict(vars(model.config))
    told = prompts(records), list(records["output"])
    first = answer_nll(model, tokenizer, *told)
    result = train_adapter(model, tokenizer, records, tmp_path / "a", QUICK)
    after = bits(model)
    assert list(after) == list(before) and all(torch.equal(after[name], before[name]) for name in before)
    assert vars(model.config) == settings and "forward" not in vars(model) and not hasattr(model, "peft_config")
    assert not model.training
    assert (answer_nll(model, tokenizer, *told) == first).all()
    with adapted(model, result.path) as expert:
        assert answer_nll(expert, tokenizer, *told).mean() < first.mean() - 0.5
    assert (answer_nll(model, tokenizer, *told) == first).all()
    assert result.log["loss"].iloc[-1] < result.log["loss"].iloc[0]
    assert list(result.log.columns) == ["step", "epoch", "loss", "learning_rate"]
    assert result.log["step"].tolist() == list(range(1, 9)) and result.log["epoch"].iloc[-1] == 2
    assert result.tokens == 2 * sum(map(len, encode_records(model, tokenizer, records, 128).input_ids))
    assert result.tokens_per_second == pytest.approx(result.tokens / result.seconds)
    assert result.n_records == 16 and result.n_truncated == 0 and result.peak_memory_mb > 0


def test_what_is_left_is_a_plain_peft_folder(trained):
    names = sorted(file.name for file in trained.path.iterdir())
    assert names == ["adapter_config.json", "adapter_model.safetensors", "training.json"]
    assert not trained.path.with_name("a.partial").exists()
    config = json.loads((trained.path / "adapter_config.json").read_text(encoding="utf-8"))
    assert config["r"] == 16 and config["lora_alpha"] == 32
    linear = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    assert {name.rsplit(".", 1)[-1] for name in config["target_modules"]} == linear
    tensors = load_file(trained.path / "adapter_model.safetensors")
    assert len(tensors) == 2 * 2 * 7 and all(tensor.dtype == torch.float32 for tensor in tensors.values())


def test_lora_with_b_zero_changes_nothing(base):
    from peft import LoraConfig, get_peft_model

    model, tokenizer = base
    records = some_records(4)
    told = prompts(records), list(records["output"])
    plain = answer_nll(model, tokenizer, *told)
    wrapped = get_peft_model(model, LoraConfig(r=16, lora_alpha=32, target_modules="all-linear"))
    try:
        assert (answer_nll(wrapped, tokenizer, *told) == plain).all()
    finally:
        wrapped.unload()


def test_same_seed_same_bits_other_seed_other_bits(base, trained, tmp_path):
    again = train_adapter(*base, some_records(), tmp_path / "a", QUICK)
    name = "adapter_model.safetensors"
    assert sha256_file(again.path / name) == sha256_file(trained.path / name)
    assert again.log.equals(trained.log)
    other = train_adapter(*base, some_records(), tmp_path / "b", TrainingConfig(**(vars(QUICK) | {"seed": 1})))
    assert sha256_file(other.path / name) != sha256_file(trained.path / name)


def test_stop_and_resume_gives_the_same_bits(base, tmp_path):
    model, tokenizer = base
    config = TrainingConfig(**(vars(QUICK) | {"dropout": 0.1}))
    before = bits(model)
    straight = train_adapter(model, tokenizer, some_records(), tmp_path / "straight", config)
    with pytest.raises(Stop):
        train_adapter(model, tokenizer, some_records(), tmp_path / "a", config, Session(callbacks=[stopper(5)]))
    assert not (tmp_path / "a").exists() and (tmp_path / "a.partial" / "checkpoint-3").is_dir()
    assert not hasattr(model, "peft_config") and all(torch.equal(t, before[n]) for n, t in model.state_dict().items())
    resumed = train_adapter(model, tokenizer, some_records(), tmp_path / "a", config, Session(callbacks=[stopper(0)]))
    name = "adapter_model.safetensors"
    assert sha256_file(resumed.path / name) == sha256_file(straight.path / name)
    assert resumed.log.equals(straight.log) and not (tmp_path / "a.partial").exists()


def test_finished_is_not_trained_again_unless_something_changed(base, trained, tmp_path):
    never = [stopper(0)]
    same = train_adapter(*base, some_records(), trained.path, QUICK, Session(callbacks=never))
    assert same.fingerprint == trained.fingerprint and same.seconds == trained.seconds
    for records, config, resume in (
        (some_records(shift=1), QUICK, True),
        (some_records(), TrainingConfig(**(vars(QUICK) | {"learning_rate": 1e-3})), True),
        (some_records(), TrainingConfig(**(vars(QUICK) | {"seed": 1})), True),
        (some_records(), QUICK, False),
    ):
        with pytest.raises(Stop):
            train_adapter(*base, records, trained.path, config, Session(resume=resume, callbacks=never))
    with pytest.raises(Stop):
        train_adapter(*base, some_records(), trained.path, QUICK, Session(base_fingerprint="0" * 64, callbacks=never))


def test_an_interrupted_training_is_not_gone_on_with_by_another(base, tmp_path):
    other = TrainingConfig(**(vars(QUICK) | {"learning_rate": 1e-3}))
    with pytest.raises(Stop):
        train_adapter(*base, some_records(), tmp_path / "a", other, Session(callbacks=[stopper(5)]))
    assert (tmp_path / "a.partial" / "checkpoint-3").is_dir()
    seen = []

    class Watch(type(stopper(0))):
        def on_step_begin(self, args, state, control, **_):
            seen.append(state.global_step)
            raise Stop

    with pytest.raises(Stop):
        train_adapter(*base, some_records(), tmp_path / "a", QUICK, Session(callbacks=[Watch()]))
    assert seen == [0], "from the first step"


def test_the_learning_rate_rises_and_falls_as_a_cosine(base, tmp_path):
    config = TrainingConfig(**(vars(QUICK) | {"epochs": 4, "warmup_ratio": 0.25, "learning_rate": 1e-3}))
    log = train_adapter(*base, some_records(), tmp_path / "a", config).log
    step = np.arange(16)  # before each step; the first four are the warm-up
    expected = np.where(step < 4, step / 4, (1 + np.cos(np.pi * (step - 4) / 12)) / 2)
    np.testing.assert_allclose(log["learning_rate"], 1e-3 * expected, rtol=1e-6, atol=1e-12)


def test_gradients_are_clipped(base, tmp_path):
    """Adam divides a step by the gradients' size, but for 1e-8: cut to 1e-14 they move next to nothing."""
    sizes = []
    for norm in (1e-14, 1.0):
        config = TrainingConfig(**(vars(QUICK) | {"epochs": 1, "max_grad_norm": norm}))
        path = train_adapter(*base, some_records(), tmp_path / str(norm), config).path
        tensors = load_file(path / "adapter_model.safetensors")
        sizes.append(max(float(tensor.abs().max()) for name, tensor in tensors.items() if "lora_B" in name))
    assert sizes[0] < 1e-6 and sizes[1] > 1e-3


def test_bad_training_input(base, tmp_path):
    model, tokenizer = base
    with pytest.raises(DataError, match="no record to train on"):
        train_adapter(model, tokenizer, some_records(0), tmp_path / "a")
    with pytest.raises(DataError, match="no column 'output'"):
        train_adapter(model, tokenizer, some_records().drop(columns="output"), tmp_path / "a")
    long = some_records(2)
    long.loc[1, "output"] = "涨" * 3000
    with pytest.raises(DataError, match="does not fit.*record r1"):
        train_adapter(model, tokenizer, long, tmp_path / "a")
    for bad in ({"rank": 0}, {"epochs": "3"}, {"dropout": 1.0}, {"learning_rate": 0}, {"seed": -1}, {"packing": 1}):
        with pytest.raises(ParameterError, match=next(iter(bad))):
            TrainingConfig(**bad)
    with pytest.raises(BankError, match="no adapter_config.json"), adapted(model, tmp_path):
        pass
    assert not list(tmp_path.iterdir())


# the bank -------------------------------------------------------------------------------------------------------------
def chosen(n=18, k=3):
    selection = pd.DataFrame({"id": [f"r{i}" for i in range(n)], "cluster": np.arange(n) % k, "copies": 1})
    selection.loc[:2, "copies"] = 2
    return selection, np.random.default_rng(0).normal(size=(n, 8)).astype("f4")


ENCODER = {"id": "some-encoder", "fingerprint": "e" * 64, "dim": 8}


@pytest.fixture(scope="module")
def bank(base, tmp_path_factory):
    info = base_info(*base)
    weights = {"relevance": 0.4, "score": 0.2, "diversity": 0.4}
    folder = tmp_path_factory.mktemp("bank") / "experts"
    origin = Provenance(info, ENCODER, weights=weights)
    return train_experts(*base, Chosen(some_records(20), *chosen()), folder, QUICK, origin=origin), origin


def test_train_experts_writes_a_bank(base, bank):
    bank, _ = bank
    assert ExpertBank.from_pretrained(bank.path, base=base_info(*base), encoder=ENCODER).info == bank.info
    assert len(bank) == 3 and [r.n_records for r in bank.results] == [7, 7, 7]
    expert = bank.info["experts"][0]
    assert expert["records"] == 6 and expert["copies"] == 7 and sum(expert["tasks"].values()) == 7
    assert len(expert["log"]) == len(bank.results[0].log) and bank.info["training"]["rank"] == 16
    selection, X = chosen()
    X = X / np.linalg.norm(X, axis=1, keepdims=True)
    mean = (X * selection["copies"].to_numpy()[:, None])[selection["cluster"] == 1].sum(0)
    np.testing.assert_allclose(bank.centroids[1], mean / np.linalg.norm(mean), atol=1e-6)
    assert not bank.path.with_name("experts.partial").exists()
    text = "".join(file.read_text(encoding="utf-8") for file in bank.path.rglob("*.json"))
    assert str(bank.path.parent) not in text and str(base[0].config._name_or_path) not in text


def test_experts_are_the_adapters_of_their_clusters(base, bank, tmp_path):
    bank, _ = bank
    selection, _ = chosen()
    part = selection[selection["cluster"] == 2]
    rows = part.loc[part.index.repeat(part["copies"]), ["id"]].merge(some_records(20), on="id", how="left")
    alone = train_adapter(*base, rows, tmp_path / "a", QUICK)
    name = "adapter_model.safetensors"
    assert sha256_file(alone.path / name) == sha256_file(bank.path / "expert-2" / name)


def test_a_bank_of_the_same_inputs_is_taken_as_it_is(base, bank, monkeypatch):
    bank, origin = bank
    monkeypatch.setattr("assl_kit.experts.train_experts.train_adapter", lambda *a, **k: pytest.fail("trained again"))
    again = train_experts(*base, Chosen(some_records(20), *chosen()), bank.path, QUICK, origin=origin)
    assert again.info == bank.info and again.results[0].log.equals(bank.results[0].log)
    with pytest.raises(pytest.fail.Exception, match="trained again"):
        changed = some_records(20).replace({"output": {"中性": "平"}})
        train_experts(*base, Chosen(changed, *chosen()), bank.path, QUICK, origin=origin)
    with pytest.raises(pytest.fail.Exception, match="trained again"):
        moved = replace(origin, min_similarity=bank.min_similarity / 2)
        train_experts(*base, Chosen(some_records(20), *chosen()), bank.path, QUICK, origin=moved)


def test_experts_are_told_whether_to_resume(base, bank, tmp_path):
    jobs = {}

    def train(asked):
        jobs.update(asked)
        raise Stop

    for resume in (True, False):
        workplace = Workplace(resume=resume, train=train)
        with pytest.raises(Stop):
            rows = Chosen(some_records(20), *chosen())
            train_experts(*base, rows, tmp_path / "b", QUICK, origin=bank[1], workplace=workplace)
        assert [job.session.resume for job in jobs.values()] == [resume] * 3


def test_all_adapters_load_and_are_frozen(base, bank):
    bank, _ = bank
    model, tokenizer = base
    records = some_records(4)
    told = prompts(records), list(records["output"])
    plain = answer_nll(model, tokenizer, *told)
    alone = []
    for path in bank.expert_paths:
        with adapted(model, path) as expert:
            alone.append(answer_nll(expert, tokenizer, *told))
    together = load_adapters(model, bank)
    try:
        assert list(together.peft_config) == list(bank.names) and not together.training
        for name, expected in zip(bank.names, alone, strict=True):
            together.set_adapter(name, inference_mode=True)
            assert (answer_nll(together, tokenizer, *told) == expected).all()
        assert not any(p.requires_grad for n, p in together.named_parameters() if "lora_" in n)
        with pytest.raises(BankError, match="carries adapters already"):
            load_adapters(model, bank)
    finally:
        together.unload()
    assert (answer_nll(model, tokenizer, *told) == plain).all()


def test_bad_selections_end_before_training(base, bank, tmp_path, monkeypatch):
    _, origin = bank
    monkeypatch.setattr("assl_kit.experts.train_experts.train_adapter", lambda *a, **k: pytest.fail("trained"))
    selection, X = chosen()
    records = some_records(20)

    def attempt(selection=selection, X=X, records=records, n_clusters=None, **changes):
        rows = Chosen(records, selection, X, n_clusters)
        train_experts(*base, rows, tmp_path / "b", QUICK, origin=replace(origin, **changes))

    with pytest.raises(DataError, match="cluster 3 has no record"):
        attempt(n_clusters=4)
    with pytest.raises(DataError, match="'r17' is not among the records"):
        attempt(records=records[:17])
    with pytest.raises(DataError, match="'r0' is there twice"):
        attempt(selection=selection.assign(id="r0"))
    with pytest.raises(DataError, match="copies must be"):
        attempt(selection=selection.assign(copies=0))
    with pytest.raises(DataError, match="no column 'cluster'"):
        attempt(selection=selection.drop(columns="cluster"))
    with pytest.raises(DataError, match="17 embeddings for 18"):
        attempt(X=X[:17])
    with pytest.raises(DataError, match="row 4"):
        attempt(X=np.where(np.arange(18)[:, None] == 4, np.nan, X))
    with pytest.raises(BankError, match="encoder gives 9 dimensions"):
        attempt(encoder=ENCODER | {"dim": 9})
    with pytest.raises(ParameterError, match="min_similarity"):
        attempt(min_similarity=3)
