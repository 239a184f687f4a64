"""base_model: loading, loss of answers, greedy generation, mixed adapters."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from helpers.models import make_test_base

from assl_kit.errors import DataError, ParameterError
from assl_kit.model.generation import generate_answers
from assl_kit.model.identity import base_info
from assl_kit.model.likelihood import answer_nll
from assl_kit.model.loading import load_base
from assl_kit.model.tokens import chat_prompt

PROMPTS = ["你好", "公司公告上半年净利润增长百分之二十，股价上涨。" * 3, "为下面的新闻写一个标题。", "2023", "央行", ""]
ANSWERS = ["积极", "消极", "基金经理看好消费板块的估值修复。", "A", "", "dividend"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_test_base(tmp_path_factory.mktemp("base") / "small")


@pytest.fixture(scope="module")
def base(folder):
    return load_base(str(folder), device="cpu")


@pytest.fixture(scope="module")
def adapted(folder):
    """A base with two random adapters that change its answers."""
    from peft import LoraConfig, get_peft_model

    model, tokenizer = load_base(str(folder), device="cpu")
    config = LoraConfig(r=4, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False)
    torch.manual_seed(1)
    model = get_peft_model(model, config, adapter_name="one")
    model.add_adapter("two", config)
    return model.eval(), tokenizer


def slow_nll(model, tokenizer, prompt, answer, max_length=512):
    """The definition: one record, all logits, one token after the other."""
    head = tokenizer(chat_prompt(tokenizer, prompt), add_special_tokens=False)["input_ids"]
    tail = tokenizer(answer, add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]
    head = head[-max(1, max_length - len(tail)) :]
    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([head + tail])).logits[0].double()
    logp = torch.log_softmax(logits, -1)
    return -np.mean([logp[len(head) - 1 + t, token].item() for t, token in enumerate(tail)])


def test_test_base_keeps_qwen_tokenizer_after_loading(base):
    tokenizer = base[1]
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|im_end|>", "<|endoftext|>")
    assert chat_prompt(tokenizer, "你好") == "<|im_start|>user\n你好<|im_end|>\n<|im_start|>assistant\n"
    text = "<|im_start|>净利润 2023 growth<|im_end|>\n"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert tokenizer.tokenize("2023") == ["2", "0", "2", "3"]  # Qwen splits digits one by one


@pytest.mark.parametrize("batch_size", [1, 4, 32])
def test_answer_nll_is_its_definition(base, batch_size):
    expected = [slow_nll(*base, prompt, answer) for prompt, answer in zip(PROMPTS, ANSWERS, strict=True)]
    got = answer_nll(*base, PROMPTS, ANSWERS, batch_size=batch_size)
    assert got.dtype == np.float64
    np.testing.assert_allclose(got, expected, atol=2e-5)


def test_answer_nll_without_prompt_is_an_empty_turn(base):
    np.testing.assert_allclose(answer_nll(*base, None, ANSWERS), answer_nll(*base, [""] * 6, ANSWERS), atol=1e-6)
    assert not np.allclose(answer_nll(*base, None, ANSWERS)[:4], answer_nll(*base, PROMPTS, ANSWERS)[:4])


def test_answer_nll_cuts_the_prompt_on_its_left(base):
    long = "股价上涨。" * 100
    expected = slow_nll(*base, long, "积极", max_length=40)
    np.testing.assert_allclose(answer_nll(*base, [long], ["积极"], max_length=40), [expected], atol=2e-5)
    assert not np.isclose(answer_nll(*base, [long], ["积极"], max_length=400)[0], expected)
    whole = slow_nll(*base, "你好", "股价上涨。" * 20, max_length=1)
    np.testing.assert_allclose(answer_nll(*base, ["你好"], ["股价上涨。" * 20], max_length=1), [whole], atol=2e-5)


def test_answer_nll_computes_logits_at_answers_only(base):
    model, tokenizer = base
    rows = []
    handle = model.get_output_embeddings().register_forward_hook(lambda module, args, out: rows.append(out.shape[-2]))
    answer_nll(model, tokenizer, PROMPTS, ANSWERS)
    handle.remove()
    assert sum(rows) == sum(len(tokenizer(answer)["input_ids"]) + 1 for answer in ANSWERS)


def test_answer_nll_bad_input(base):
    assert answer_nll(*base, [], []).shape == (0,)
    with pytest.raises(DataError, match="2 prompts but 1 answers"):
        answer_nll(*base, ["a", "b"], ["c"])
    with pytest.raises(DataError, match="row 1"):
        answer_nll(*base, ["a", "b"], ["c", None])
    with pytest.raises(DataError, match=r"does not fit .*row 0"):
        answer_nll(*base, ["a"], ["股价上涨。" * 500])
    with pytest.raises(ParameterError, match="batch_size"):
        answer_nll(*base, ["a"], ["b"], batch_size=0)


def test_answer_nll_names_a_loss_that_is_not_finite(folder):
    model, tokenizer = load_base(str(folder), device="cpu")
    with torch.no_grad():
        model.get_input_embeddings().weight[0, 0] = float("nan")
    with pytest.raises(DataError, match="not finite"):
        answer_nll(model, tokenizer, ["a"], ["b"])


def plain_greedy(model, tokenizer, prompt, n):
    """One prompt, no cache, no padding."""
    ids = tokenizer(chat_prompt(tokenizer, prompt), add_special_tokens=False)["input_ids"]
    new = []
    with torch.inference_mode():
        for _ in range(n):
            token = model(input_ids=torch.tensor([ids + new]), use_cache=False).logits[0, -1].argmax().item()
            if token == tokenizer.eos_token_id:
                break
            new.append(token)
    return tokenizer.decode(new, skip_special_tokens=True).strip()


@pytest.mark.parametrize("batch_size", [1, 2, 32])
def test_generate_is_plain_greedy_in_order(base, batch_size):
    expected = [plain_greedy(*base, prompt, 12) for prompt in PROMPTS]
    assert len(set(expected)) > 1
    assert generate_answers(*base, PROMPTS, max_new_tokens=12, batch_size=batch_size) == expected


def test_generate_ignores_the_models_own_sampling_fields(folder):
    model, tokenizer = load_base(str(folder), device="cpu")
    expected = generate_answers(model, tokenizer, PROMPTS, max_new_tokens=12)
    model.generation_config.repetition_penalty = 5.0
    model.generation_config.do_sample = True
    model.generation_config.temperature = 9.0
    assert generate_answers(model, tokenizer, PROMPTS, max_new_tokens=12) == expected


def test_generate_stops_at_the_end_token(folder):
    model, tokenizer = load_base(str(folder), device="cpu")
    steps = []
    model.register_forward_hook(lambda module, args, out: steps.append(1))
    with torch.no_grad():  # every token but the end gets an equal, lower logit
        model.model.norm.weight.zero_()
        head = torch.nn.Linear(32, len(tokenizer))
        head.weight.zero_(), head.bias.zero_()
        head.bias[tokenizer.eos_token_id] = 1.0
        model.lm_head = head
    assert generate_answers(model, tokenizer, ["a", "b"], max_new_tokens=50) == ["", ""]
    assert len(steps) == 1


def test_mixed_adapters_are_the_adapters_one_at_a_time(adapted):
    model, tokenizer = adapted
    names = ["one", "__base__", "two", "two", "one", "__base__"]
    alone = {}
    for name in ("one", "two"):
        model.set_adapter(name)
        alone[name] = generate_answers(model, tokenizer, PROMPTS, max_new_tokens=8)
    with model.disable_adapter():
        alone["__base__"] = generate_answers(model, tokenizer, PROMPTS, max_new_tokens=8)
    assert alone["one"] != alone["two"] != alone["__base__"]
    mixed = generate_answers(model, tokenizer, PROMPTS, max_new_tokens=8, adapter_names=names, batch_size=4)
    assert mixed == [alone[name][i] for i, name in enumerate(names)]


def test_adapter_names_are_checked_first(base, adapted):
    model, tokenizer = adapted
    model.set_adapter("one")
    before = generate_answers(model, tokenizer, PROMPTS, max_new_tokens=4)
    with pytest.raises(ParameterError, match="three"):
        generate_answers(model, tokenizer, PROMPTS[:2], adapter_names=["one", "three"])
    with pytest.raises(DataError, match="1 adapter names but 2 prompts"):
        generate_answers(model, tokenizer, PROMPTS[:2], adapter_names=["one"])
    with pytest.raises(ParameterError, match="no adapters"):
        generate_answers(*base, PROMPTS[:1], adapter_names=["one"])
    assert generate_answers(model, tokenizer, PROMPTS, max_new_tokens=4) == before


def test_interrupted_mixed_batch_leaves_no_hooks(adapted):
    model, tokenizer = adapted
    model.set_adapter("one")
    before = generate_answers(model, tokenizer, PROMPTS, max_new_tokens=4)

    def stop(module, args):
        raise KeyboardInterrupt

    handle = model.get_base_model().get_decoder().norm.register_forward_pre_hook(stop)
    with pytest.raises(KeyboardInterrupt):
        generate_answers(model, tokenizer, PROMPTS, max_new_tokens=4, adapter_names=["two"] * 6)
    handle.remove()
    assert generate_answers(model, tokenizer, PROMPTS, max_new_tokens=4) == before


def test_training_state_comes_back(base):
    model, tokenizer = base
    model.train()
    generate_answers(model, tokenizer, ["a"], max_new_tokens=1)
    answer_nll(model, tokenizer, ["a"], ["b"])
    assert model.training
    model.eval()


def test_base_info_is_stable_and_sees_a_change(folder, base, adapted, tmp_path):
    info = base_info(*base)
    assert info["id"] == "small" and info["revision"] is None and len(info["fingerprint"]) == 64
    assert base_info(*load_base(str(folder), device="cpu", dtype="bfloat16")) == info
    assert base_info(*adapted)["fingerprint"] == info["fingerprint"]
    other = make_test_base(tmp_path / "other", seed=1)
    changed = base_info(*load_base(str(other), device="cpu"))
    assert changed["fingerprint"] != info["fingerprint"] and changed["tokenizer"] == info["tokenizer"]


def test_base_info_of_a_model_without_files(base):
    from transformers import Qwen2ForCausalLM

    first = Qwen2ForCausalLM(base[0].config)
    first.load_state_dict(base[0].state_dict())
    first.config._name_or_path = ""
    info = base_info(first, base[1])
    assert base_info(first, base[1]) == info
    with torch.no_grad():
        first.model.norm.weight[0] += 1
    assert base_info(first, base[1])["fingerprint"] != info["fingerprint"]


@pytest.mark.parametrize(
    ("name", "message"),
    [("./nowhere", "no base model folder"), ("/no/such/folder", "no base model folder"), ("", "non-empty"),
     ("nobody/no-such-model", "could not be loaded")],
)  # fmt: skip
def test_unknown_names(name, message):
    with pytest.raises(ParameterError, match=message):
        load_base(name, device="cpu")


def test_unknown_dtype_and_device(folder):
    with pytest.raises(ParameterError, match="dtype"):
        load_base(str(folder), device="cpu", dtype="float8")
    with pytest.raises(ParameterError, match="device"):
        load_base(str(folder), device="tpu")


def test_pickled_weights_are_refused(folder, base, tmp_path):
    pickled = tmp_path / "pickled"
    shutil.copytree(folder, pickled)
    (pickled / "model.safetensors").unlink()
    torch.save(base[0].state_dict(), pickled / "pytorch_model.bin")
    with pytest.raises(ParameterError, match="safetensors"):
        load_base(str(pickled), device="cpu")


def test_remote_code_is_refused(folder, tmp_path):
    other = tmp_path / "remote"
    shutil.copytree(folder, other)
    config = json.loads((other / "config.json").read_text(encoding="utf-8"))
    config["model_type"] = "unheard_of"
    config["auto_map"] = {"AutoConfig": "code.Config", "AutoModelForCausalLM": "code.Model"}
    (other / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (other / "code.py").write_text("raise SystemExit('ran')", encoding="utf-8")
    with pytest.raises(ParameterError, match="could not be loaded"):
        load_base(str(other), device="cpu")


def test_chat_template_is_needed(folder, tmp_path):
    bare = tmp_path / "bare"
    shutil.copytree(folder, bare)
    (bare / "chat_template.jinja").unlink()
    with pytest.raises(ParameterError, match="no chat template"):
        load_base(str(bare), device="cpu")
    tokenizer = load_base(str(bare), device="cpu", chat_template="Q: {{ messages[0]['content'] }} A:")[1]
    assert chat_prompt(tokenizer, "x") == "Q: x A:"
