"""Many adapters at the same time: each as if alone, in training and in answering; and what is refused."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers.models import make_test_base
from safetensors.torch import load_file
from test_train_experts import QUICK, bits, some_records

from assl_kit.data.records import prompts
from assl_kit.errors import DataError, ParameterError
from assl_kit.experts.adapters import adapted
from assl_kit.experts.answering_many import generate_many
from assl_kit.experts.training import many as training_many
from assl_kit.experts.training.adapter import train_adapter
from assl_kit.experts.training.data import encode_records, plan_training
from assl_kit.experts.training.lot import padding, passes, width_of
from assl_kit.experts.training.many import train_adapters
from assl_kit.experts.training.stack import AdapterStack, fused_norms
from assl_kit.model.batches import InferenceReport
from assl_kit.model.generation import generate_answers
from assl_kit.model.loading import load_base

WEIGHTS = "adapter_model.safetensors"
CONFIG = replace(QUICK, seed=3, warmup_ratio=0.2)
SIZES = (20, 13, 30)


@pytest.fixture(scope="module")
def tables():
    return [some_records(n, shift=7 * k) for k, n in enumerate(SIZES)]


@pytest.fixture(scope="module")
def together(base, tables, tmp_path_factory):
    folder = tmp_path_factory.mktemp("together")
    before = bits(base[0])
    results = train_adapters(*base, tables, [folder / str(k) for k in range(3)], CONFIG)
    assert all(torch.equal(tensor, before[name]) for name, tensor in base[0].state_dict().items())
    return results


def gap(one, other):
    one, other = load_file(one / WEIGHTS), load_file(other / WEIGHTS)
    assert one.keys() == other.keys()
    return max(float((one[name] - other[name]).abs().max()) for name in one)


# training -------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("k", range(3))
def test_an_adapter_is_what_it_is_alone(base, tables, together, tmp_path, k):
    (alone,) = train_adapters(*base, [tables[k]], [tmp_path / "a"], CONFIG)
    assert gap(alone.path, together[k].path) < 1e-4
    assert alone.log["loss"].to_numpy() == pytest.approx(together[k].log["loss"].to_numpy(), abs=1e-5)
    assert alone.fingerprint == together[k].fingerprint


@pytest.mark.parametrize("k", range(3))
def test_it_is_what_train_adapter_makes(base, tables, together, tmp_path, k):
    right = train_adapter(*base, tables[k], tmp_path / "a", CONFIG)
    found = together[k]
    assert gap(right.path, found.path) < 1e-4
    assert found.log.drop(columns="loss").equals(right.log.drop(columns="loss"))
    assert found.log["loss"].to_numpy() == pytest.approx(right.log["loss"].to_numpy(), abs=1e-5)
    for name in ("tokens", "n_records", "n_truncated", "base_fingerprint"):
        assert getattr(found, name) == getattr(right, name), name
    assert found.fingerprint != right.fingerprint  # not the same bits
    names = ("adapter_config.json", "adapter_model.safetensors", "training.json")
    assert tuple(sorted(path.name for path in found.path.iterdir())) == names
    configs = [json.loads((path / names[0]).read_text(encoding="utf-8")) for path in (right.path, found.path)]
    for config in configs:
        config["target_modules"].sort()
    assert configs[0] == configs[1]


def test_new_adapters_have_pefts_initial_weights(base):
    from peft import LoraConfig, get_peft_model
    from transformers import set_seed

    stack = AdapterStack.fresh(base[0], [5, 6, 5], 4, 8)
    set_seed(6)
    wrapped = get_peft_model(base[0], LoraConfig(r=4, lora_alpha=8, target_modules="all-linear"))
    state = wrapped.state_dict()
    for layer in stack.layers:
        A, B = stack.part(layer, stack.weights)
        assert torch.equal(A[1], state[f"base_model.model.{layer.name}.lora_A.default.weight"])
        assert not B.any() and torch.equal(A[0], A[2]) and not torch.equal(A[0], A[1])
    wrapped.unload()
    assert len(stack) == 3 and len(stack.layers) == 14


def test_each_ends_after_its_own_steps(base, tables, together):
    steps = [result.log["step"].iloc[-1] for result in together]
    assert steps == [-(-n * CONFIG.epochs // CONFIG.batch_size) for n in SIZES]
    seen = []
    options = {"resume": False, "on_step": lambda *told: seen.append(told)}
    results = train_adapters(*base, tables, [result.path for result in together], CONFIG, **options)
    assert [step for step, _, _ in seen] == list(range(1, max(steps) + 1))
    assert {whole for _, whole, _ in seen} == {max(steps)}
    assert seen[-1][2] == sum(result.tokens for result in results)


def test_seeds_epochs_and_rates_are_each_ones_own(base, tables, tmp_path):
    unclipped = replace(CONFIG, learning_rate=1e-3, max_grad_norm=1e3)
    configs = [CONFIG, replace(CONFIG, seed=4, epochs=1), unclipped]
    found = train_adapters(*base, tables, [tmp_path / str(k) for k in range(3)], configs)
    for k, config in enumerate(configs):
        right = train_adapter(*base, tables[k], tmp_path / f"alone-{k}", config)
        assert gap(right.path, found[k].path) < 1e-4, k


def test_passes_change_nothing_but_rounding(base, tables, together, tmp_path):
    config = replace(CONFIG, batch_size=2, gradient_accumulation=2)
    for name, options in {"few": {"tokens_at_once": 200}, "one": {"tokens_at_once": 1}}.items():
        found = train_adapters(*base, tables, [tmp_path / name / str(k) for k in range(3)], CONFIG, **options)
        assert max(gap(a.path, b.path) for a, b in zip(found, together, strict=True)) < 1e-4
    found = train_adapters(*base, tables[:1], [tmp_path / "a"], config)
    assert gap(found[0].path, train_adapter(*base, tables[0], tmp_path / "b", config).path) < 1e-4


def test_a_lack_of_memory_halves_the_passes(base, tables, together, tmp_path, monkeypatch):
    real, tried = training_many._pass, []

    def short(model, lot, records, counts, losses):
        tokens = records.size * width_of(lot.lengths[records.reshape(-1)].max())
        tried.append(tokens)
        if tokens > 700:
            raise torch.OutOfMemoryError("CUDA out of memory")
        real(model, lot, records, counts, losses)

    monkeypatch.setattr(training_many, "_pass", short)
    with pytest.warns(UserWarning, match="out of memory with 2800 tokens at once: went on with 1400"):
        found = train_adapters(*base, tables, [tmp_path / str(k) for k in range(3)], CONFIG, tokens_at_once=2800)
    assert max(gap(a.path, b.path) for a, b in zip(found, together, strict=True)) < 1e-4
    assert "went on with 700" in found[0].notes[-1]
    monkeypatch.setattr(training_many, "_pass", lambda *_: (_ for _ in ()).throw(MemoryError()))
    with (
        warnings.catch_warnings(),
        pytest.raises(ParameterError, match="one record of each of 3 adapters"),
    ):
        warnings.simplefilter("ignore")
        train_adapters(*base, tables, [tmp_path / f"b{k}" for k in range(3)], CONFIG)
    assert not any("forward" in vars(module) for module in base[0].modules())


def test_finished_ones_are_taken_as_they_are(base, tables, together):
    seen, paths = [], [result.path for result in together]
    again = train_adapters(*base, tables, paths, CONFIG, on_step=lambda *told: seen.append(told))
    assert not seen and [a.fingerprint for a in again] == [b.fingerprint for b in together]
    encoded = [encode_records(*base, table, CONFIG.max_length) for table in tables]
    train_adapters(*base, encoded, paths, CONFIG, on_step=lambda *told: seen.append(told))
    assert not seen


def test_an_interrupted_training_leaves_the_base_and_no_folder(base, tables, tmp_path):
    before = bits(base[0].requires_grad_(True))

    def stop(step, steps, tokens):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_adapters(*base, tables, [tmp_path / str(k) for k in range(3)], CONFIG, on_step=stop)
    assert not list(tmp_path.iterdir())
    assert all(torch.equal(tensor, before[name]) for name, tensor in base[0].state_dict().items())
    assert all(p.requires_grad for p in base[0].parameters()) and not base[0].training
    assert not any("forward" in vars(module) for module in base[0].modules())


def test_in_bfloat16_master_weights_stay_float32(tmp_path, tables):
    model, tokenizer = load_base(str(make_test_base(tmp_path / "base")), device="cpu", dtype="bfloat16")
    a, b = train_adapters(model, tokenizer, tables[:2], [tmp_path / "a", tmp_path / "b"], CONFIG)
    (alone,) = train_adapters(model, tokenizer, tables[:1], [tmp_path / "c"], CONFIG)
    assert {tensor.dtype for tensor in load_file(a.path / WEIGHTS).values()} == {torch.float32}
    assert a.log["loss"].iloc[-1] < a.log["loss"].iloc[0]
    assert alone.log["loss"].to_numpy() == pytest.approx(a.log["loss"].to_numpy(), abs=0.05)


def test_bad_input_is_named(base, tables, tmp_path):
    paths = [tmp_path / str(k) for k in range(3)]

    def refused(message, kind=ParameterError, tables=tables, paths=paths, config=CONFIG, model=None, **options):
        with pytest.raises(kind, match=message):
            train_adapters(model or base[0], base[1], tables, paths, config, **options)

    refused("3 tables but 2 paths", paths=paths[:2])
    refused("3 tables but 2 settings", config=[CONFIG] * 2)
    refused("same path", paths=[paths[0], paths[1], paths[0]])
    refused(r"no record to train on \(table 1\)", DataError, tables=[tables[0], tables[1][:0], tables[2]])
    refused("no column 'output'", DataError, tables=[*tables[:2], tables[2].drop(columns="output")])
    refused("need one rank, not", config=[CONFIG, replace(CONFIG, rank=4), CONFIG])
    refused("need one batch_size, not", config=[CONFIG, replace(CONFIG, batch_size=2), CONFIG])
    refused("together with dropout", config=replace(CONFIG, dropout=0.1))
    refused("together with packing", config=replace(CONFIG, packing=True))
    refused("together with held-out records", config=replace(CONFIG, holdout_share=0.2))
    refused("tokens_at_once must be at least 1", tokens_at_once=0)
    half, _ = load_base(str(make_test_base(tmp_path / "base")), device="cpu", dtype="float16")
    refused("in float32 or bfloat16, not in float16", model=half)
    assert train_adapters(*base, [], [], CONFIG) == []


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_gradients_are_those_of_autograd(tmp_path, tables, dtype):
    """Of both adapters, in one pass and in several: against the same loss by PEFT's layers in float32."""
    from peft import LoraConfig, get_peft_model
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

    from assl_kit.experts.training.flat import answer_loss

    folder = make_test_base(tmp_path / "base")
    model, tokenizer = load_base(str(folder), device="cpu", dtype=dtype)
    whole, _ = load_base(str(folder), device="cpu")
    encoded = [encode_records(model, tokenizer, table, 128) for table in tables[:2]]
    lot = training_many.Lot(encoded, [CONFIG] * 2, [0, 1], tokenizer.pad_token_id)
    stack = AdapterStack.fresh(model, [0, 1], CONFIG.rank, CONFIG.alpha)
    stack.weights += 0.02 * torch.randn(stack.weights.shape, generator=torch.Generator().manual_seed(0))
    total = torch.full_like(stack.weights, 7)
    own = total if dtype == "float32" else torch.full_like(total, 7, dtype=model.dtype)
    for at_once in (4096, 300):
        losses = torch.full((2,), 7.0)
        with training_many._frozen(model), stack.attached():
            stack.follow(2, own)
            training_many._gradients(model, lot, lot.records(0), at_once, total, own, losses)
        for place, arm in enumerate(lot.arms):
            wrapped = get_peft_model(whole, LoraConfig(r=16, lora_alpha=32, target_modules="all-linear"))
            leaves = dict(wrapped.named_parameters())
            for layer in stack.layers:
                for letter, view in zip("AB", stack.part(layer, stack.weights[place : place + 1]), strict=True):
                    leaves[f"base_model.model.{layer.name}.lora_{letter}.default.weight"].data.copy_(view[0])
            rows = [row[0] for row in lot.plans[place].rows[: lot.per_step]]
            batch = [{"input_ids": encoded[arm].input_ids[i], "labels": encoded[arm].labels[i]} for i in rows]
            loss = answer_loss(wrapped, DataCollatorForLanguageModeling(tokenizer.pad_token_id)(batch), None)
            loss.backward()
            right = [
                leaves[f"base_model.model.{layer.name}.lora_{letter}.default.weight"].grad.reshape(-1)
                for layer in stack.layers
                for letter in "AB"
            ]
            wrapped.unload()
            right, tolerance = torch.cat(right), 1e-5 if dtype == "float32" else 0.1
            assert float((total[place] - right).norm() / right.norm()) < tolerance
            assert float(losses[place]) == pytest.approx(float(loss), rel=tolerance)


# order and padding ----------------------------------------------------------------------------------------------------
def test_padding_counts_what_the_passes_hold(base, tables):
    encoded = [encode_records(*base, table, 128) for table in tables]
    plans = [plan_training(rows, CONFIG) for rows in encoded]
    lengths = [np.array([len(ids) for ids in rows.input_ids]) for rows in encoded]
    whole, own = padding(plans, lengths, 1000)
    assert own == sum(CONFIG.epochs * int(n.sum()) for n in lengths) and whole > own and whole % 16 == 0
    parts = passes(np.array([[9, 30, 20, 16]] * 2), 64)
    assert [part.shape for part in parts] == [(2, 1)] * 4 and len(passes(np.array([[16, 16]]), 32)) == 1


# norms ----------------------------------------------------------------------------------------------------------------
def test_fused_norms_equal_the_models_own(base):
    from transformers.models.gemma3.modeling_gemma3 import Gemma3RMSNorm

    model = base[0]
    ids = torch.arange(12).reshape(2, 6)
    with torch.no_grad():
        right = model(input_ids=ids).logits
        with fused_norms(model) as n:
            found = model(input_ids=ids).logits
        assert n == 5 and torch.allclose(found, right, atol=1e-5)
        gemma = torch.nn.Sequential(Gemma3RMSNorm(8), Gemma3RMSNorm(8))
        for norm in gemma:
            norm.weight.uniform_(-0.5, 2)
        x = torch.randn(3, 8)
        right = gemma(x)
        with fused_norms(gemma) as n:
            assert n == 2 and torch.allclose(gemma(x), right, atol=1e-5)
        assert not any("forward" in vars(module) for module in gemma.modules())

        class OddRMSNorm(Gemma3RMSNorm):
            def forward(self, x):
                return super().forward(x) + 1

        odd = torch.nn.Sequential(OddRMSNorm(8))
        with fused_norms(odd) as n:
            assert n == 0


# answering ------------------------------------------------------------------------------------------------------------
def test_answers_are_those_of_each_adapter_alone(base, together):
    asked = prompts(some_records(17, shift=5))
    alone = []
    for result in together:
        with adapted(base[0], result.path) as answering:
            alone.append(generate_answers(answering, base[1], asked, max_new_tokens=12))
    assert alone[0] != alone[1]
    paths = [result.path for result in together]
    which = [0, 1, 2, 1, 1, 0, 2, 2, 2, 1, 0, 0, 1, 1, 1, 1, 1]
    for batch_size in (None, 5, 1):
        report = InferenceReport()
        found = generate_many(*base, paths, asked, which, max_new_tokens=12, batch_size=batch_size, report=report)
        assert found == [alone[k][i] for i, k in enumerate(which)]
        assert report.records == 17 and report.prompt_tokens > 0 and report.seconds > 0
    every = generate_many(*base, paths, asked * 3, np.repeat([0, 1, 2], 17), max_new_tokens=12)
    assert every == [answer for own in alone for answer in own]
    plain = generate_answers(*base, asked, max_new_tokens=12)
    assert generate_many(*base, AdapterStack.fresh(base[0], [0], 4, 8), asked, [0] * 17, max_new_tokens=12) == plain
    assert generate_many(*base, paths, [], []) == []


def test_a_lack_of_memory_halves_the_rows(base, together, monkeypatch):
    model, tokenizer = base
    asked, paths = prompts(some_records(8)), [result.path for result in together]
    right = generate_many(*base, paths, asked * 2, [0] * 8 + [2] * 8, max_new_tokens=4)
    real = type(model).generate

    def short(self, **options):
        if len(options["input_ids"]) > 4:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(self, **options)

    monkeypatch.setattr(type(model), "generate", short)
    with pytest.warns(UserWarning, match="with 16 rows; going on with 8"):
        found = generate_many(*base, paths, asked * 2, [0] * 8 + [2] * 8, max_new_tokens=4, batch_size=16)
    assert found == right
    monkeypatch.setattr(type(model), "generate", lambda self, **_: (_ for _ in ()).throw(MemoryError()))
    with warnings.catch_warnings(), pytest.raises(ParameterError, match="one row of each of 2 adapters"):
        warnings.simplefilter("ignore")
        generate_many(*base, paths, asked[:2], [0, 1], max_new_tokens=4)


def test_questions_nobody_can_answer_are_refused(base, together, tmp_path):
    paths, asked = [result.path for result in together], ["问"] * 2
    with pytest.raises(DataError, match="1 adapter numbers but 2 prompts"):
        generate_many(*base, paths, asked, [0])
    with pytest.raises(ParameterError, match="numbered from 0 to 2, not 0 to 3"):
        generate_many(*base, paths, asked, [0, 3])
    with pytest.raises(ParameterError, match="max_new_tokens must be"):
        generate_many(*base, paths, asked, [0, 0], max_new_tokens=0)
    with pytest.raises(ParameterError, match="there is no adapter"):
        generate_many(*base, [], asked, [0, 0])
    (other,) = train_adapters(*base, [some_records(4)], [tmp_path / "a"], replace(CONFIG, rank=4, epochs=1))
    with pytest.raises(ParameterError, match="plain LoRA of one form"):
        generate_many(*base, [paths[0], other.path], asked, [0, 1])
    wider, _ = load_base(str(make_test_base(tmp_path / "wider", hidden_size=64)), device="cpu")
    with pytest.raises(ParameterError, match="does not fit the layer"):
        generate_many(wider, base[1], paths, asked, [0, 0])
