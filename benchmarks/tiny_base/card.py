"""The model card of the tiny base."""

from __future__ import annotations

from .lessons import FIRST_SEED
from .tokenizer import END, PAD


def card(model, tokenizer, done: dict) -> str:
    """The card of a finished model, from the log of its training."""
    options, measured, config = done["options"], done["measured"], model.config
    said = " ".join(
        f"--{name.replace('_', '-')} {value}"
        for name, value in options.items()
        if name not in {"smoke", "save_every", "check_every", "workers", "device"}
    )
    lessons = ", ".join(f"{kind} {share:.2f}" for kind, share in measured["lessons"].items())
    choices = ", ".join(f"{kind} {share:.2f}" for kind, share in measured["choices"].items() if kind != "all")
    tables = "" if measured["choices"].get("table, letter", 0) > 0.5 else "read a table of four figures, "
    houses = measured["houses"]
    styled = {kind: share for kind, share in houses.items() if kind not in ("natural", "all")}
    mean = sum(styled.values()) / max(len(styled), 1)
    return f"""---
language: zh
license: apache-2.0
pipeline_tag: text-generation
---

# Tiny base of assl-kit

A causal language model: {model.num_parameters():,} parameters, Qwen2 architecture, {config.num_hidden_layers} layers
of width {config.hidden_size}, tied embeddings; stored in float16 and computed in float32, which rounds nothing. Its
tokenizer has {len(tokenizer):,} tokens, about one a Chinese character. It lets the whole chain, from
clusters to experts, run on a CPU without a download. It knows a small invented world and nothing else. Do not use its
answers.

**It was taught to** copy names and figures it never saw; find the answer to a plain question in a text of one or two
sentences; say whether plain news is good or bad, in labels that the question names; name the topic of news; read a
table of four options and tie an option to its letter; explain about 150 terms; answer short natural questions about
Chinese financial news of its world; decline what is none of its business. How far it can is measured below.

**It cannot** {tables}follow the house styles of the embedded corpus (those are for the experts), reason, calculate,
hold a conversation of several turns, or speak English. On real news it guesses.

- **Made by** `benchmarks/tiny_base` from random weights: {done["steps"]:,} steps, {done["tokens"]:,} tokens,
  {done["seconds"] / 60:.1f} minutes of training on {done["trained_on"]}. Options: `{said}`.
  The checkpoint is that of the least loss on held-out lessons of the training side ({done["best"]:.4f} nats a token).
- **Text**: the generators of the embedded corpus, training side only, seeds from {FIRST_SEED} on, which the corpus
  does not use. No text of other people, nothing of the test side, no words of the houses.
- **Right answers** on held-out lessons (every token the likeliest; the vague and the foreign have several): {lessons}.
- **Multiple choice** by what is asked, and whether the letter or the words are wanted (chance: 0.25): {choices}.
- **Left for experts**: {mean:.2f} of the records of the houses are answered as the house wants, in the mean over
  sources; natural questions of the corpus: {houses.get("natural", 0.0):.2f}.
- **Copying is built in**: the first layers start as induction heads. Share of a random sequence's tokens repeated
  right: {measured["copying"][0]:.3f} before training, {measured["copying"][1]:.3f} after.
- **Chat template**: ChatML. **End of a turn**: `{END}`. **Padding**: `{PAD}`.
"""
