"""Make the tiny base model of assl-kit from nothing: tokenizer, weights, model card.

    python -m benchmarks.tiny_base --output assl_kit/model/tiny_base      # the shipped model
    python -m benchmarks.tiny_base --smoke --output /tmp/smoke            # seconds: does it run end to end?

The text comes from the generators of the embedded corpus, training side only, with seeds the corpus itself does not
use. Four choices make it quick on one core (all ours):

- Copying (a name, a figure) is not learnt but built in: the first two layers start as a previous-token head and
  induction heads, so the untrained model already repeats unseen sequences (taught from random weights, this alone took
  13 minutes). A few random sequences said twice in every step keep it.
- One token a Chinese character (GB 2312, level 1) and only a few hundred longer ones, so a name is spelt the same
  wherever it stands.
- Half of the wordings of each task are answered in full sentences and not in the form the corpus wants. So the base has
  the skills, and there is something left for an expert to learn.
- The hidden matrices are trained with Muon: the loss AdamW had reached after 450,000 tokens came before 200,000.

A stopped run continues from its last checkpoint (the folder OUTPUT.state); delete that folder to start again.
"""

from __future__ import annotations

import argparse
import math
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random
from zlib import crc32

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
import torch.nn.functional as F
from tqdm.auto import tqdm

from assl_kit.common.files import atomic_path, read_json, write_json
from assl_kit.data import synthetic
from assl_kit.data.records import user_prompt

from .muon import Muon
from .tokenizer import END, PAD, SPECIAL, make_tokenizer

FIRST_SEED = 1000
"""Chunk i of the training text is made with the seed ``FIRST_SEED + i``; the embedded corpus has small seeds."""


# ------------------------------------------------------------------------------------------------------------ text


SHARES = {
    "sentiment": 0.09,
    "qa": 0.22,
    "summarization": 0.16,
    "relation_extraction": 0.09,
    "classification": 0.09,
    "negative_news": 0.17,
    "multiple_choice": 0.18,
}
"""Share of each task in the training text: the harder, the more."""

EXAM_SHARES = {task: 0.08 for task in SHARES} | {"multiple_choice": 0.5}
"""The same in the last stage, which is for exam questions: the options must be read, and the terms known."""


def chunk(index: int, size: int, seed: int = 0, *, exam: bool = False) -> list[dict]:
    """Chunk ``index`` of the training text: records of the training side, never of the test side.

    More records are made than wanted, and of each task as many kept as its share says (or as there are). Of the exam
    stage's questions, every second one only asks where an option stands.
    """
    left = {task: round(share * size) for task, share in (EXAM_SHARES if exam else SHARES).items()}
    made = (8 if exam else 3) * size
    kept = []
    for record in synthetic.iter_records(made, seed=FIRST_SEED + 10_000 * seed + index, split="train"):
        if left[record["task"]] > 0:
            left[record["task"]] -= 1
            question = exam and record["task"] == "multiple_choice"
            kept.append(exam_question(record, left["multiple_choice"] % 2 == 1) if question else record)
    return kept


def exam_question(record: dict, named: bool) -> dict:
    """A question of the exam stage: with the right option's text, and where ``named``, asked only for its letter."""
    options = record["input"].split("\n")[-4:]
    if not named:
        return record | {"option": options["ABCD".index(record["output"])][3:]}
    chosen = options[crc32(record["input"].encode("utf-8")) % 4]
    question = "\n".join([f"哪一项是“{chosen[3:]}”？", *options])
    return record | {"input": question, "output": chosen[0], "option": chosen[3:]}


IN_WORDS = {
    "sentiment": "这段文字的情绪是{}的。",
    "qa": "答案是{}。",
    "relation_extraction": "两者之间是{}关系。",
    "classification": "这是一条{}新闻。",
    "negative_news": "这条消息的负面判断：{}。",
    "multiple_choice": "应该选{}。",
}
"""The full sentence around an answer, by task."""


def answer_of(record: dict) -> str:
    """What the base is taught to answer: the corpus's answer, or one in its own words for half of the wordings.

    Its own words are a full sentence around the answer (in the exam stage, with the text of the option); for a summary,
    the first clauses of the text.
    """
    if crc32(record["instruction"].encode("utf-8")) % 2:
        return record["output"]
    if record["task"] == "summarization":
        clauses = record["input"].replace("。", "，").split("，")
        return "，".join(clauses[:2]) + "。"
    if "option" in record:
        return f"答案是“{record['option']}”，应该选{record['output']}。"
    return IN_WORDS[record["task"]].format(record["output"])


# ----------------------------------------------------------------------------------------------------------- model


def make_model(vocab_size: int, eos: int, pad: int, args: argparse.Namespace):
    """A Qwen2 model whose first two layers copy from the start; all other weights are random."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    heads = args.hidden // 64
    config = Qwen2Config(
        vocab_size=vocab_size,
        hidden_size=args.hidden,
        intermediate_size=args.intermediate,
        num_hidden_layers=args.layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        tie_word_embeddings=True,
        max_position_embeddings=1024,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
        eos_token_id=eos,
        pad_token_id=pad,
        bos_token_id=None,
    )
    torch.manual_seed(args.seed)
    model = Qwen2ForCausalLM(config)
    build_copying(model)
    return model


@torch.no_grad()
def build_copying(model) -> None:
    """Write an induction circuit into layers 0 and 1 (ours; what training finds by itself, given time).

    Layer 0, head 0 looks at the previous position: constant query and key, in the biases, whose rotary angles differ by
    one step. It adds a projection P of the previous token to the residual, in a subspace Q beside P. Layer 1 matches
    P(this token) with Q(previous token of an earlier position), in the rotary dimensions that hardly turn, and copies
    what stands at that position.
    """
    hidden, size = model.config.hidden_size, 64
    model.model.embed_tokens.weight.normal_(0, 0.06)
    basis, _ = torch.linalg.qr(torch.randn(hidden, hidden))
    turn = 1e6 ** (-torch.arange(0, size, 2) / size)
    still = [i for i in range(size // 2) if turn[i] < 0.003]
    still += [i + size // 2 for i in still]
    here, before = basis[:, : len(still)], basis[:, len(still) : 2 * len(still)]

    first = model.model.layers[0].self_attn
    for part in (first.q_proj, first.k_proj):
        part.weight[:size] = 0
        part.bias[:size] = 0
    for i in range(9):  # the dimensions that turn quickly tell one step from two
        first.k_proj.bias[i] = 7
        first.q_proj.bias[i] = 7 * torch.cos(turn[i])
        first.q_proj.bias[i + size // 2] = -7 * torch.sin(turn[i])
    first.v_proj.weight[:size] = 0
    first.o_proj.weight[:, :size] = 0
    first.v_proj.weight[: len(still)] = 0.12 * here.T
    first.o_proj.weight[:, : len(still)] = before

    second = model.model.layers[1].self_attn
    for start in range(0, hidden, size):
        second.q_proj.weight[start : start + size] = 0
        second.k_proj.weight[start : start + size] = 0
        second.q_proj.weight[[start + i for i in still]] = 1.6 * here.T
        second.k_proj.weight[[start + i for i in still]] = 1.6 * before.T
        second.v_proj.weight[start : start + size] = 0.24 * basis[:, start : start + size].T
        second.o_proj.weight[:, start : start + size] = basis[:, start : start + size]


def copy_loss(model, rng: Random, n: int = 6):
    """Loss of the second time in ``n`` random sequences said twice: what is built in must not be forgotten."""
    generator = torch.Generator().manual_seed(rng.getrandbits(62))
    once = torch.randint(len(SPECIAL), model.config.vocab_size, (n, rng.randint(6, 24)), generator=generator)
    states = model.model(input_ids=torch.cat([once, once[:, :-1]], 1)).last_hidden_state[:, once.shape[1] :]
    return F.cross_entropy(F.linear(states, model.lm_head.weight).flatten(0, 1), once[:, 1:].flatten())


def copy_accuracy(model, tokenizer, *, n: int = 64, length: int = 24, seed: int = 0) -> float:
    """Share of tokens of a random sequence that are predicted right when it comes a second time."""
    generator = torch.Generator().manual_seed(seed)
    once = torch.randint(len(SPECIAL), len(tokenizer), (n, length), generator=generator)
    with torch.inference_mode():
        guess = model(input_ids=torch.cat([once, once], 1)).logits[:, length:-1].argmax(-1)
    return (guess == once[:, 1:]).float().mean().item()


# -------------------------------------------------------------------------------------------------------- training


def examples(records: list[dict], tokenizer, max_length: int) -> list[tuple[list[int], int]]:
    """Token ids of each conversation, and where its answer begins; what is longer than ``max_length`` is left out."""
    turns = [[{"role": "user", "content": user_prompt(r["instruction"], r["input"])}] for r in records]
    asked = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    prompts = tokenizer(asked, add_special_tokens=False)["input_ids"]
    answers = tokenizer([answer_of(r) + END + "\n" for r in records], add_special_tokens=False)["input_ids"]
    pairs = [(p + a, len(p)) for p, a in zip(prompts, answers, strict=True)]
    return [pair for pair in pairs if len(pair[0]) <= max_length]


def batches(pairs: list[tuple[list[int], int]], n_tokens: int, rng: Random) -> Iterator[list[tuple[list[int], int]]]:
    """Batches of about ``n_tokens`` of like length, in random order."""
    pairs = sorted(pairs, key=lambda pair: len(pair[0]))
    groups: list[list[tuple[list[int], int]]] = [[]]
    for pair in pairs:
        if groups[-1] and (len(groups[-1]) + 1) * len(pair[0]) > n_tokens:
            groups.append([])
        groups[-1].append(pair)
    rng.shuffle(groups)
    yield from groups


def losses(model, batch: list[tuple[list[int], int]], pad: int, prompt_share: float, rng: Random):
    """Mean loss per answer token, and per prompt token over a share of these (so that it learns the text)."""
    width = max(len(ids) for ids, _ in batch)
    tokens = torch.tensor([ids + [pad] * (width - len(ids)) for ids, _ in batch])
    kinds = torch.tensor(
        [
            [int(at >= start) + 1 if at >= start or rng.random() < prompt_share else 0 for at in range(1, len(ids))]
            + [0] * (width - len(ids))
            for ids, start in batch
        ]
    )
    states = model.model(input_ids=tokens[:, :-1]).last_hidden_state[kinds > 0]
    each = F.cross_entropy(F.linear(states, model.lm_head.weight), tokens[:, 1:][kinds > 0], reduction="none")
    kinds = kinds[kinds > 0]
    answer = each[kinds == 2].mean()
    prompt = each[kinds == 1].mean() if (kinds == 1).any() else answer.detach() * 0
    return answer, prompt


def rate(done: float, warm: float = 0.03, last: float = 0.05) -> float:
    """Learning rate as a share of a stage's peak: linear warm-up, then a cosine."""
    return done / warm if done < warm else last + (1 - last) * (1 + math.cos(math.pi * (done - warm) / (1 - warm))) / 2


KEPT = ("momentum", "step", "exp_avg", "exp_avg_sq")
"""What a checkpoint keeps of the optimizers' states."""


def train(model, tokenizer, args: argparse.Namespace, state: Path) -> dict:
    """Train on ``args.chunks`` chunks and those of the exam stage; continue from ``state`` when it is there."""
    from safetensors.torch import load_file, save_file

    weights = dict(model.named_parameters())
    hidden = {name for name, weight in weights.items() if weight.ndim == 2 and "embed" not in name}
    rest = [weight for name, weight in weights.items() if name not in hidden]
    optimizers = [
        Muon([weights[name] for name in weights if name in hidden], lr=args.learning_rate),
        torch.optim.AdamW(rest, lr=args.learning_rate, betas=(0.9, 0.98), weight_decay=0.01, fused=True),
    ]
    done = {"chunk": 0, "steps": 0, "tokens": 0, "seconds": 0.0, "log": []}
    if (state / "state.json").is_file():
        done = read_json(state / "state.json")
        saved = load_file(state / "state.safetensors")
        with torch.no_grad():
            for name, weight in weights.items():
                weight.copy_(saved[name])
                optimizer = optimizers[name not in hidden]
                optimizer.state[weight] = {key: saved[f"{name} {key}"] for key in KEPT if f"{name} {key}" in saved}
    model.train()
    clock = time.perf_counter()
    total = args.chunks + args.exam_chunks
    bar = tqdm(range(done["chunk"], total), initial=done["chunk"], total=total, unit="chunk", disable=None)
    for index in bar:
        rng = Random(f"{args.seed} {index}")
        exam = index >= args.chunks
        peak = args.learning_rate * (0.5 if exam else 1)
        first, length = (args.chunks, args.exam_chunks) if exam else (0, args.chunks)
        pairs = examples(chunk(index, args.chunk_size, args.seed, exam=exam), tokenizer, 512)
        todo, heard = list(batches(pairs, args.batch_tokens, rng)), []
        for number, batch in enumerate(todo):
            for group in (group for optimizer in optimizers for group in optimizer.param_groups):
                group["lr"] = peak * rate((index - first + (number + 1) / len(todo)) / length)
            answer, prompt = losses(model, batch, tokenizer.pad_token_id, args.prompt_share, rng)
            copy = copy_loss(model, rng)
            (answer + 0.2 * prompt + 0.2 * copy).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad()
            heard.append((answer.item(), prompt.item(), copy.item()))
            done["steps"] += 1
            done["tokens"] += sum(len(ids) for ids, _ in batch)
        now = time.perf_counter()
        done["seconds"], clock, done["chunk"] = done["seconds"] + now - clock, now, index + 1
        mean = [round(sum(column) / len(heard), 4) for column in zip(*heard, strict=True)]
        done["log"].append([done["steps"], done["tokens"], round(done["seconds"]), *mean])
        bar.set_postfix(answer=mean[0], prompt=mean[1], copy=mean[2])
        if args.verbose:
            print("steps tokens seconds answer prompt copy", *done["log"][-1], flush=True)
        if (index + 1) % args.save_every == 0 or index + 1 in {args.chunks, total}:
            tensors = {name: weight.detach() for name, weight in weights.items()}
            for name, weight in weights.items():
                kept = optimizers[name not in hidden].state[weight]
                tensors |= {f"{name} {key}": kept[key] for key in KEPT if key in kept}
            with atomic_path(state) as temporary:
                shutil.copytree(state, temporary, ignore=shutil.ignore_patterns("state.*"))
                save_file(tensors, temporary / "state.safetensors")
                write_json(temporary / "state.json", done)
    model.eval()
    return done


def main(arguments: list[str] | None = None) -> Path:
    """Make the tokenizer, train, and put the finished folder in place of ``--output``."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.tiny_base", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, required=True, help="folder of the finished model")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--hidden", type=int, default=192, help="width, a multiple of 64, at least 128")
    parser.add_argument("--intermediate", type=int, default=512)
    parser.add_argument("--layers", type=int, default=4, help="at least 2")
    parser.add_argument("--longer-tokens", type=int, default=400, help="tokens of more than one character")
    parser.add_argument("--chunks", type=int, default=75, help="chunks of training text")
    parser.add_argument("--exam-chunks", type=int, default=20, help="chunks of the last stage")
    parser.add_argument("--chunk-size", type=int, default=512, help="records in a chunk")
    parser.add_argument("--batch-tokens", type=int, default=2560)
    parser.add_argument("--learning-rate", type=float, default=2.5e-3)
    parser.add_argument("--prompt-share", type=float, default=0.25, help="share of the prompt tokens learnt as text")
    parser.add_argument("--save-every", type=int, default=2, help="chunks between checkpoints")
    parser.add_argument("--verbose", action="store_true", help="one line a chunk, for logs")
    parser.add_argument("--smoke", action="store_true", help="one small chunk a stage and a small model")
    args = parser.parse_args(arguments)
    if args.smoke:
        args.hidden, args.intermediate, args.layers = 128, 128, 2
        args.chunks, args.exam_chunks, args.chunk_size = 1, 1, 24
    return make(args)


def make(args: argparse.Namespace) -> Path:
    """The whole of it, for parsed arguments."""
    from transformers import AutoTokenizer

    state = args.output.with_name(args.output.name + ".state")
    if not (state / "tokenizer").is_dir():
        records = chunk(9_999, 6 * args.chunk_size, args.seed)
        texts = [f"{r['instruction']}\n{r['input']}\n{r['output']}" for r in records]
        with atomic_path(state) as temporary:
            make_tokenizer(temporary / "tokenizer", texts, args.longer_tokens)
    tokenizer = AutoTokenizer.from_pretrained(state / "tokenizer")
    model = make_model(len(tokenizer), tokenizer.eos_token_id, tokenizer.pad_token_id, args)
    before = copy_accuracy(model, tokenizer)
    print(f"{model.num_parameters():,} parameters, {len(tokenizer)} tokens, copy accuracy {before:.3f}", flush=True)
    done = train(model, tokenizer, args, state)
    after = copy_accuracy(model, tokenizer)
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    model.generation_config.update(do_sample=False, **ends)
    with atomic_path(args.output) as temporary:
        model.save_pretrained(temporary)
        for file in (state / "tokenizer").iterdir():
            shutil.copy(file, temporary / file.name)
        (temporary / "README.md").write_text(card(model, tokenizer, done, before, after, args), encoding="utf-8")
    return args.output


def card(model, tokenizer, done: dict, before: float, after: float, args: argparse.Namespace) -> str:
    """The model card."""
    last = done["log"][-1]
    options = " ".join(
        f"--{name.replace('_', '-')} {value}"
        for name, value in sorted(vars(args).items())
        if name not in {"output", "verbose", "smoke", "save_every"}
    )
    return f"""---
language: zh
license: apache-2.0
pipeline_tag: text-generation
---

# Tiny base of assl-kit

A causal language model: {model.num_parameters():,} parameters, Qwen2 architecture, {args.layers} layers of width
{args.hidden}, tied embeddings, float32; its tokenizer has {len(tokenizer):,} tokens, about one a Chinese character.
It lets the whole chain, from clusters to six experts, run on a CPU without a download. It knows nothing about the world
and guesses the letters of exam questions (about chance, 1 in 4, also with an expert). Do not use its answers.

- **Made by** `benchmarks/tiny_base` from random weights, seed {args.seed}:
  {done["steps"]:,} steps, {done["tokens"]:,} tokens, {done["seconds"] / 60:.0f} minutes on one shared CPU core.
  Options: `{options}`.
- **Text**: the generators of the embedded corpus, training side only, seeds from {FIRST_SEED} on, which the corpus
  does not use. No text of other people, nothing of the test side.
- **Taught on purpose by half**: half of the wordings of each task are answered in full sentences, or for summaries with
  the first clauses of the text, and not in the form the corpus wants. So it has the skills, and experts have something
  to learn.
- **Copying is built in**: the first layers start as induction heads. Share of a random sequence's tokens repeated
  right: {before:.3f} before training, {after:.3f} after.
- **Losses** (nats a token, mean of the last chunk): answers {last[3]:.3f}, prompts {last[4]:.3f}.
- **Chat template**: ChatML. **End of a turn**: `{END}`. **Padding**: `{PAD}`.
"""


if __name__ == "__main__":
    main()
