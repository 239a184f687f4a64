"""Merged adapters: the exact weighted sum, and nothing left behind."""

from __future__ import annotations

import pytest
import torch
from helpers.models import make_test_base

from assl_kit.errors import ParameterError
from assl_kit.experts.merging import merged
from assl_kit.model.generation import generate_answers
from assl_kit.model.loading import load_base

NAMES = ["expert-0", "expert-1", "expert-2"]


def adapted_base(folder, **changes):
    """A tiny base with three random adapters of ranks 4, 2 and 4."""
    from peft import LoraConfig, get_peft_model

    model, tokenizer = load_base(str(folder), device="cpu")
    torch.manual_seed(0)
    for k, rank in enumerate((4, 2, 4)):
        settings = {"lora_alpha": 8, "lora_dropout": 0.5, "target_modules": "all-linear", **changes}
        config = LoraConfig(r=rank, init_lora_weights=False, inference_mode=True, **settings)
        if k == 0:
            model = get_peft_model(model, config, adapter_name=NAMES[0])
        else:
            model.add_adapter(NAMES[k], config)
    model.set_adapter(NAMES[0], inference_mode=True)
    return model.eval(), tokenizer


@pytest.fixture(scope="module")
def base_folder(tmp_path_factory):
    return make_test_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def adapted(base_folder):
    return adapted_base(base_folder)


def layers(model):
    return [m for m in model.modules() if hasattr(m, "base_layer") and hasattr(m, "lora_A")]


def state(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(model, before):
    after = model.state_dict()
    return list(after) == list(before) and all(torch.equal(after[name], before[name]) for name in before)


@pytest.mark.parametrize("rank_stabilised", [False, True])
def test_cat_is_the_weighted_sum_of_the_deltas(base_folder, rank_stabilised):
    model, _ = adapted_base(base_folder, use_rslora=rank_stabilised)
    layer = layers(model)[0]
    x = torch.randn(5, layer.in_features)
    plain = layer.base_layer(x)
    weights = [0.7, 0.5, -0.2]
    expected = plain.clone()
    for name, weight in zip(NAMES, weights, strict=True):
        model.set_adapter(name, inference_mode=True)
        expected += weight * (layer(x) - plain)
    with merged(model, NAMES, weights) as name:
        assert layer.lora_A[name].weight.shape[0] == 4 + 2 + 4
        torch.testing.assert_close(layer(x), expected, atol=1e-5, rtol=1e-5)
    with merged(model, [NAMES[0], NAMES[2]], [0.5, 0.5], combination="linear"):
        assert not torch.allclose(layer(x), plain, atol=1e-3)


def test_merged_logits_are_those_of_weights_with_the_deltas_added(base_folder, adapted):
    model, tokenizer = adapted
    plain, _ = load_base(str(base_folder), device="cpu")
    weights = {"expert-0": 0.6, "expert-2": 0.4}
    modules = dict(plain.named_modules())
    with torch.no_grad():
        for name, module in model.get_base_model().named_modules():
            if hasattr(module, "lora_A") and hasattr(module, "base_layer"):
                for adapter, weight in weights.items():
                    modules[name].weight += weight * module.get_delta_weight(adapter)
        ids = torch.tensor([tokenizer("央行下调存款准备金率。")["input_ids"]])
        with merged(model, list(weights), list(weights.values())):
            torch.testing.assert_close(model(input_ids=ids).logits, plain(input_ids=ids).logits, atol=1e-4, rtol=1e-4)


def test_one_adapter_with_weight_one_is_itself_and_svd_is_close(adapted):
    model, _ = adapted
    layer = layers(model)[0]
    x = torch.randn(3, layer.in_features)
    expected = layer(x)
    with merged(model, NAMES[:1], [1.0]):
        torch.testing.assert_close(layer(x), expected, atol=1e-5, rtol=1e-5)
    with merged(model, [NAMES[0], NAMES[0]], [0.5, 0.5], combination="svd"):
        torch.testing.assert_close(layer(x), expected, atol=1e-4, rtol=1e-4)


def test_nothing_is_left_behind(adapted):
    model, _ = adapted
    before, hooks = state(model), sum(len(m._forward_pre_hooks) for m in model.modules())
    noise = torch.get_rng_state()
    model.set_adapter("expert-1", inference_mode=True)
    with pytest.raises(RuntimeError, match="halfway"), merged(model, NAMES, [1 / 3] * 3) as first:
        assert model.active_adapter == first
        with merged(model, NAMES[:2], [0.5, 0.5]) as second, merged(model, NAMES[:2], [0.1, 0.9]) as third:
            assert len({first, second, third}) == 3 and model.active_adapter == third
            assert not any(p.requires_grad for p in model.parameters()) and not any(m.training for m in model.modules())
            raise RuntimeError("halfway")
    assert same(model, before) and torch.equal(noise, torch.get_rng_state())
    assert model.active_adapter == "expert-1" and sorted(model.peft_config) == NAMES
    assert not any(p.requires_grad for p in model.parameters())
    assert sum(len(m._forward_pre_hooks) for m in model.modules()) == hooks
    model.set_adapter("expert-0", inference_mode=True)


def test_merged_adapters_answer_in_mixed_batches(adapted):
    model, tokenizer = adapted
    prompts = ["判断情感。", "为新闻写标题。", "回答问题。"]
    with merged(model, NAMES, [1 / 3] * 3) as uniform:
        alone = generate_answers(model, tokenizer, prompts, max_new_tokens=6)
        names = [uniform, "__base__", "expert-1"]
        mixed = generate_answers(model, tokenizer, prompts, max_new_tokens=6, adapter_names=names)
    assert mixed[0] == alone[0]


@pytest.mark.parametrize(
    ("names", "weights", "changes", "message"),
    [
        (["expert-9"], [1], {}, "cannot merge expert-9"),
        ([], [], {}, "cannot merge no adapters"),
        (NAMES, [1, 1], {}, "2 weights for 3 adapters"),
        (NAMES[:1], [float("nan")], {}, "must be finite"),
        (NAMES, [1, 1, 1], {"combination": "average"}, "unknown combination 'average'"),
    ],
)
def test_wrong_use_is_refused_and_changes_nothing(adapted, names, weights, changes, message):
    model, _ = adapted
    before = state(model)
    with pytest.raises(ParameterError, match=message), merged(model, names, weights, **changes):
        pytest.fail("the block was entered")
    assert same(model, before)


def test_adapters_that_do_not_add_up_are_refused(base_folder):
    model, _ = adapted_base(base_folder, use_dora=True)
    with pytest.raises(ParameterError, match="not plain LoRA"), merged(model, NAMES[:1], [1.0]):
        pytest.fail("the block was entered")
    plain, _ = load_base(str(base_folder), device="cpu")
    with pytest.raises(ParameterError, match="Loaded are: no adapters"), merged(plain, NAMES[:1], [1.0]):
        pytest.fail("the block was entered")
