"""Small random models for tests: made in a second, the same every time."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
PROMPTS = ["你好", "公司公告上半年净利润增长百分之二十，股价上涨。" * 3, "为下面的新闻写一个标题。", "2023", "央行", ""]
TEXTS = [
    "user\nassistant\n",
    "判断这条财经新闻的情感倾向。",
    "公司公告上半年净利润增长百分之二十，股价上涨。",
    "根据下面的材料回答问题：央行下调存款准备金率。",
    "为下面的新闻写一个标题。基金经理看好消费板块的估值修复。",
    "积极 消极 中性 A B C D 2023 2024",
    "The bank raised its dividend by 10 percent.",
]


def make_test_base(folder: str | Path, *, seed: int = 0, hidden_size: int = 32, layers: int = 2) -> Path:
    """Write a random Qwen2 model and a tokenizer with ChatML template into ``folder`` (safetensors); return it."""
    import torch
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
    from transformers import Qwen2Config, Qwen2ForCausalLM
    from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX, Qwen2Tokenizer

    folder = Path(folder)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PRETOKENIZE_REGEX), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(TEXTS, trainer)
    trained = json.loads(tokenizer.to_str())["model"]
    merges = [tuple(pair) if isinstance(pair, list) else tuple(pair.split(" ")) for pair in trained["merges"]]
    fast = Qwen2Tokenizer(
        vocab=trained["vocab"],
        merges=merges,
        unk_token="<|endoftext|>",
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        model_max_length=1024,
    )
    fast.add_special_tokens({"additional_special_tokens": ["<|im_start|>"]})
    fast.chat_template = CHATML
    fast.save_pretrained(folder)

    state = torch.get_rng_state()
    torch.manual_seed(seed)
    config = Qwen2Config(
        vocab_size=len(fast),
        hidden_size=hidden_size,
        intermediate_size=2 * hidden_size,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        initializer_range=0.2,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=fast.eos_token_id,
        pad_token_id=fast.pad_token_id,
    )
    model = Qwen2ForCausalLM(config).float()
    torch.set_rng_state(state)
    model.save_pretrained(folder)
    return folder


def with_two_adapters(folder: str | Path):
    """The base in ``folder`` with two random adapters, "one" and "two", that change its answers; and its tokenizer."""
    import torch
    from peft import LoraConfig, get_peft_model

    from assl_kit.model.loading import load_base

    model, tokenizer = load_base(str(folder), device="cpu")
    config = LoraConfig(r=4, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False)
    torch.manual_seed(1)
    model = get_peft_model(model, config, adapter_name="one")
    model.add_adapter("two", config)
    return model.eval(), tokenizer


@cache
def make_test_encoder():
    """A static encoder with four columns."""
    from assl_kit.space.static_encoder import fit_static_encoder

    return fit_static_encoder(["股价上涨", "股价下跌", "央行降准"], dim=4)


def save_test_encoder(folder: str | Path) -> Path:
    """Write that encoder into ``folder``; return it."""
    make_test_encoder().save(str(folder), create_model_card=False)
    return Path(folder)
