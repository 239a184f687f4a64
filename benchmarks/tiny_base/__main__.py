"""Make the tiny base model of assl-kit from nothing: tokenizer, weights, model card, log.

    python -m benchmarks.tiny_base --output assl_kit/model/tiny_base --minutes 3     # on a CUDA card: the shipped model
    python -m benchmarks.tiny_base --output /tmp/base --minutes 240                  # on two cores
    python -m benchmarks.tiny_base --smoke --output /tmp/smoke                       # seconds: does it run end to end?

The text is made by the generators of the embedded corpus, training side only, with seeds the corpus itself does not use
(``lessons.py``). Choices that make it quick (all ours):

- Copying (a name, a figure) is not learnt but built in: the first two layers start as a previous-token head and
  induction heads, so the untrained model already repeats unseen sequences. A few random sequences said twice in every
  batch keep it.
- One token a Chinese character (GB 2312, level 1) and only a few hundred longer ones, so a name is spelt the same
  wherever it stands.
- The hidden matrices are trained with Muon, which needs less than half of AdamW's tokens.
- Lessons stand in few widths and are made by other processes ahead of the training; a card computes in bfloat16.

Nothing of the houses is taught, so that experts have something to learn. The checkpoint is the one of the least loss on
lessons held out for that, which are of the training side too. A stopped run continues from its last checkpoint (the
folder OUTPUT.state); delete that folder to start again. OUTPUT.log.json is the log.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import time
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch
from safetensors.torch import load_file, save_file
from tqdm.auto import tqdm

from assl_kit.common.files import atomic_path, read_json, write_json
from assl_kit.data import synthetic
from assl_kit.data.records import user_prompt

from .batches import Batch, Encoder, batches, chunks
from .card import card
from .lessons import FIRST_SEED, Lesson, chunk, option_lessons
from .model import copy_accuracy, make_model
from .muon import Muon
from .steps import Losses, exact_shares, rate
from .tokenizer import make_tokenizer

HELD_OUT = 9_000_000
"""Number of the chunk by which the checkpoint is chosen."""
KEPT = ("momentum", "step", "exp_avg", "exp_avg_sq")
"""What a checkpoint keeps of the optimizers' states."""


def parsed(arguments: list[str] | None = None) -> argparse.Namespace:
    """The options; what depends on the device is filled in."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.tiny_base", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, required=True, help="folder of the finished model")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--hidden", type=int, default=256, help="width, a multiple of 64, at least 128")
    parser.add_argument("--intermediate", type=int, default=704)
    parser.add_argument("--layers", type=int, default=6, help="at least 2")
    parser.add_argument("--longer-tokens", type=int, default=400, help="tokens of more than one character")
    parser.add_argument("--minutes", type=float, default=0.0, help="time of the training itself; 0: by --chunks")
    parser.add_argument("--chunks", type=int, default=100, help="chunks of training text, where --minutes is 0")
    parser.add_argument("--chunk-size", type=int, help="lessons in a chunk [8192 on a card, else 1024]")
    parser.add_argument("--batch-tokens", type=int, help="tokens of a step [49152 on a card, else 4096]")
    parser.add_argument("--learning-rate", type=float, default=3e-3)
    parser.add_argument(
        "--prompt-share", type=float, default=0.15, help="share of the questions' tokens learnt as text"
    )
    parser.add_argument("--workers", type=int, help="processes that make lessons [all cores but two on a card, else 0]")
    parser.add_argument(
        "--check-every", type=int, help="chunks between checks on held-out lessons [24 on a card, else 4]"
    )
    parser.add_argument("--save-every", type=int, help="chunks between checkpoints [96 on a card, else 8]")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--verbose", action="store_true", help="a line for each check, for logs")
    parser.add_argument("--note", default="", help="a sentence for the log")
    parser.add_argument("--smoke", action="store_true", help="two small chunks and a small model")
    args = parser.parse_args(arguments)
    if args.device == "auto":
        args.device = "cuda" if torch.cuda.is_available() and not args.smoke else "cpu"
    card_there = args.device == "cuda"
    args.chunk_size = args.chunk_size or (8192 if card_there else 1024)
    args.batch_tokens = args.batch_tokens or (49152 if card_there else 4096)
    args.check_every = args.check_every or (24 if card_there else 4)
    args.save_every = args.save_every or (96 if card_there else 8)
    if args.workers is None:
        args.workers = max(1, (os.cpu_count() or 3) - 2) if card_there else 0
    if args.smoke:
        args.hidden, args.intermediate, args.layers, args.longer_tokens = 128, 128, 2, 100
        args.chunks, args.chunk_size, args.check_every, args.save_every = 2, 24, 1, 1
    return args


def optimizers_of(model, args: argparse.Namespace) -> dict[str, torch.optim.Optimizer]:
    """The optimizer of each weight, by its name: Muon for hidden matrices, AdamW for the rest."""
    weights = dict(model.named_parameters())
    hidden = {name for name, weight in weights.items() if weight.ndim == 2 and "embed" not in name}
    muon = Muon([weights[name] for name in weights if name in hidden], lr=args.learning_rate)
    rest = [weight for name, weight in weights.items() if name not in hidden]
    adam = torch.optim.AdamW(rest, lr=args.learning_rate, betas=(0.9, 0.98), weight_decay=0.01, fused=True)
    return {name: muon if name in hidden else adam for name in weights}


def done_before(state: Path) -> dict:
    """What was done before, from the last checkpoint."""
    if (state / "state.json").is_file():
        return read_json(state / "state.json")
    return {"chunk": 0, "steps": 0, "tokens": 0, "seconds": 0.0, "best": None, "checks": []}


def restore(state: Path, model, by_name: dict[str, torch.optim.Optimizer]) -> None:
    """Bring weights and optimizers back to the last checkpoint, where there is one."""
    if not (state / "state.safetensors").is_file():
        return
    saved = load_file(state / "state.safetensors")
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.copy_(saved[name])
            kept = {key: saved[f"{name} {key}"] for key in KEPT if f"{name} {key}" in saved}
            by_name[name].state[weight] = {key: value.to(weight.device) for key, value in kept.items()}


def keep(state: Path, model, by_name: dict[str, torch.optim.Optimizer], done: dict) -> None:
    """Write a checkpoint."""
    tensors = {}
    for name, weight in model.named_parameters():
        tensors[name] = weight.detach().cpu()
        kept = by_name[name].state[weight]
        tensors |= {f"{name} {key}": kept[key].detach().cpu() for key in KEPT if key in kept}
    with atomic_path(state) as temporary:
        shutil.copytree(state, temporary, ignore=shutil.ignore_patterns("state.*"))
        save_file(tensors, temporary / "state.safetensors")
        write_json(temporary / "state.json", done)


def train(model, args: argparse.Namespace, state: Path, held_out: list[Batch]) -> dict:
    """Train for ``args.minutes``, or on ``args.chunks`` chunks; continue from ``state`` when it is there."""
    done = done_before(state)
    last = done["chunk"] + 10**6 if args.minutes else args.chunks

    def progress(part: float = 0.0) -> float:
        now = done["seconds"] + time.perf_counter() - clock
        return now / (60 * args.minutes) if args.minutes else (done["chunk"] + part) / args.chunks

    clock = time.perf_counter()
    if progress() >= 1:  # it was stopped after its last step
        return done
    done["trained_on"] = device_name(args)
    bar = tqdm(total=None if args.minutes else args.chunks, initial=done["chunk"], unit="chunk", disable=None)
    with chunks(  # its processes are there before the card is touched
        state / "tokenizer", done["chunk"], last, args.chunk_size, args.seed, args.batch_tokens, args.workers
    ) as stream:
        model.to(args.device)
        by_name = optimizers_of(model, args)
        optimizers = list(dict.fromkeys(by_name.values()))
        restore(state, model, by_name)
        losses = Losses(model, args)
        for todo in stream:
            losses.begin(done["chunk"])
            for number, batch in enumerate(todo):
                for group in (group for optimizer in optimizers for group in optimizer.param_groups):
                    group["lr"] = args.learning_rate * rate(progress((number + 1) / len(todo)))
                losses.step(batch, optimizers)
                done["steps"] += 1
                done["tokens"] += int(batch.tokens.size)
            ready = progress(1.0) >= 1
            done["chunk"] += 1
            bar.update()
            if ready or done["chunk"] % args.check_every == 0:
                check(model, args, state, held_out, done, losses.heard())
            now = time.perf_counter()
            done["seconds"], clock = done["seconds"] + now - clock, now
            if ready or done["chunk"] % args.save_every == 0:
                keep(state, model, by_name, done)
            if ready:
                break
    return done


def check(model, args: argparse.Namespace, state: Path, held_out: list[Batch], done: dict, heard: dict) -> None:
    """Measure the loss on the held-out lessons, put it down, and keep the weights if it is the least so far."""
    loss = Losses(model, args).held_out(held_out)
    row = {"chunk": done["chunk"], "steps": done["steps"], "tokens": done["tokens"], "seconds": round(done["seconds"])}
    done["checks"].append(row | heard | {"held_out": loss})
    if args.verbose:
        print(done["checks"][-1], flush=True)
    if done["best"] is None or loss <= done["best"]:
        done["best"] = loss
        with atomic_path(state / "best.safetensors") as temporary:
            save_file({name: weight.detach().cpu() for name, weight in model.named_parameters()}, temporary)


def house_lessons(args: argparse.Namespace, n: int) -> list[Lesson]:
    """What the houses want, as lessons: records of the corpus, of another seed and of the training side."""
    made = synthetic.iter_records(n, seed=FIRST_SEED + args.seed, split="dev")
    return [
        ("natural" if not r["input"] else r["source"], user_prompt(r["instruction"], r["input"]), r["right_output"])
        for r in made
    ]


def main(arguments: list[str] | None = None) -> Path:
    """Make the tokenizer, train, and put the finished folder in place of ``--output``."""
    return make(parsed(arguments))


def make(args: argparse.Namespace) -> Path:
    """The whole of it, for parsed arguments."""
    from transformers import AutoTokenizer

    begin = time.perf_counter()
    state = args.output.with_name(args.output.name + ".state")
    if not (state / "tokenizer").is_dir():
        lessons = chunk(HELD_OUT + 1, min(4096, 6 * args.chunk_size), args.seed)
        with atomic_path(state) as temporary:
            texts = [f"{question}\n{answer}" for _, question, answer in lessons]
            houses = [question + answer for _, question, answer in house_lessons(args, 6 * args.chunk_size)]
            make_tokenizer(temporary / "tokenizer", texts, args.longer_tokens, houses)
    tokenizer = AutoTokenizer.from_pretrained(state / "tokenizer")
    encoder = Encoder(state / "tokenizer")
    lessons = chunk(HELD_OUT, min(2048, 4 * args.chunk_size), args.seed)
    held_out = batches(encoder(lessons), min(args.batch_tokens, 16384), synthetic.Random(0))
    model = make_model(len(tokenizer), tokenizer.eos_token_id, tokenizer.pad_token_id, args)
    before = copy_accuracy(model, tokenizer)
    print(f"{model.num_parameters():,} parameters, {len(tokenizer)} tokens, copy accuracy {before:.3f}", flush=True)
    done = train(model, args, state, held_out)
    best = load_file(state / "best.safetensors")
    with torch.no_grad():  # what is shipped, and measured below: rounded to half the bits
        for name, weight in model.named_parameters():
            weight.copy_(best[name].half().float())
    model.eval()
    measured = {
        "copying": [before, copy_accuracy(model, tokenizer)],
        "lessons": exact_shares(model, encoder, lessons, args),
        "choices": exact_shares(model, encoder, option_lessons(min(400, 2 * args.chunk_size), args.seed), args),
        "houses": exact_shares(model, encoder, house_lessons(args, min(1500, 2 * args.chunk_size)), args),
    }
    done |= {"measured": measured, "measured_on": device_name(args), "torch": torch.__version__, "note": args.note}
    unsaid = ("output", "verbose", "note")
    done["options"] = {key: value for key, value in sorted(vars(args).items()) if key not in unsaid}
    done["wall_seconds"] = round(time.perf_counter() - begin)
    model.generation_config.update(
        do_sample=False, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    with atomic_path(args.output) as temporary:
        temporary.mkdir()
        save(model, temporary)
        for file in (state / "tokenizer").iterdir():
            shutil.copy(file, temporary / file.name)
        (temporary / "README.md").write_text(card(model, tokenizer, done), encoding="utf-8")
    write_json(args.output.with_name(args.output.name + ".log.json"), done)
    return args.output


def save(model, folder: Path) -> None:
    """Write weights in float16, and a configuration that says to compute in float32: loading rounds nothing."""
    model.config.save_pretrained(folder)
    config = read_json(folder / "config.json")
    write_json(folder / "config.json", config | {"dtype": "float32", "architectures": [type(model).__name__]})
    model.generation_config.save_pretrained(folder)
    tensors = {name: weight.detach().half().cpu().contiguous() for name, weight in model.named_parameters()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def device_name(args: argparse.Namespace) -> str:
    """What it was made on."""
    return torch.cuda.get_device_name() if args.device == "cuda" else f"{torch.get_num_threads()} CPU threads"


if __name__ == "__main__":
    print(main(), file=sys.stderr)
