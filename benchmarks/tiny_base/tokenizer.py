"""The tokenizer of the tiny base: byte-level BPE with one token a common Chinese character."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from assl_kit.common.files import read_json, write_json

PAD, START, END = SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
CHAT = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPLIT = (  # Qwen2's own pre-tokenizer pattern: AutoTokenizer rebuilds it for any folder with a qwen2 config
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def make_tokenizer(folder: Path, texts: list[str], n_longer: int, more: Iterable[str] = ()) -> None:
    """Write a byte-level BPE tokenizer: one token a common character, ``n_longer`` more learnt from ``texts``.

    The characters of ``more`` get a token each, too, and nothing else is learnt from it.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    split = pre_tokenizers.Split(Regex(SPLIT), behavior="isolated")
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    rows = range(0xB0, 0xD8)
    level1 = [bytes([row, cell]).decode("gb2312", "ignore") for row in rows for cell in range(0xA1, 0xFF)]
    characters = sorted({c for text in [*level1, *texts, *more] for c in text if not c.isspace()})

    plain = Tokenizer(models.BPE())
    plain.normalizer, plain.pre_tokenizer = normalizers.NFC(), split
    trainer = trainers.BpeTrainer(
        vocab_size=len(characters) + n_longer + 8, initial_alphabet=characters, max_token_length=4, show_progress=False
    )
    plain.train_from_iterator(texts, trainer)

    def spelt(text: str) -> str:
        return to_bytes.pre_tokenize_str(text)[0][0]

    words = sorted(pre_tokenizers.ByteLevel.alphabet())
    known, merges = set(words), []

    def join(left: str, right: str) -> None:
        if left + right not in known:
            known.add(left + right)
            words.append(left + right)
            merges.append((left, right))

    for character in characters:  # first bytes to characters, then characters to longer tokens
        spelling = spelt(character)
        for end in range(2, len(spelling) + 1):
            join(spelling[: end - 1], spelling[end - 1])
    for left, right in json.loads(plain.to_str())["model"]["merges"]:
        join(spelt(left), spelt(right))

    vocabulary = {word: number for number, word in enumerate([*SPECIAL, *words])}
    made = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    made.normalizer = normalizers.NFC()
    made.pre_tokenizer = pre_tokenizers.Sequence([split, to_bytes])
    made.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=made,
        eos_token=END,
        pad_token=PAD,
        additional_special_tokens=[START, END],
        model_max_length=1024,
        clean_up_tokenization_spaces=False,
        padding_side="left",
    )
    tokenizer.chat_template = CHAT
    tokenizer.save_pretrained(folder)
    settings = read_json(folder / "tokenizer_config.json")
    settings["tokenizer_class"], settings["chat_template"] = "Qwen2Tokenizer", CHAT
    write_json(folder / "tokenizer_config.json", settings)
    (folder / "chat_template.jinja").unlink(missing_ok=True)
