"""Measure what routing costs beside the answer, and streaming and merging. Writes benchmarks/results/serving.json.

    python -m benchmarks.serving                          the tiny base: about two minutes on one core
    python -m benchmarks.serving --base gemma3-270m       a real base (extra llm-offline): about a quarter of an hour
    python -m benchmarks.serving --run runs/tiny          the experts of a run

Without --run the six experts are copies of one adapter, trained briefly so that answers end as they should: only times
are measured. Records of other bases already in the output file stay there. On a CPU times are processor time of this
process, so that other work on the machine does not count; on a GPU they are time on the clock.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.machine import RESULTS, cores, cpu_name, load, versions

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
EXPERTS = 6
NEW_TOKENS = 64


def main(arguments: list[str] | None = None) -> None:
    import torch

    options = _parser().parse_args(arguments)
    torch.set_num_threads(options.threads)
    before = load()
    with opened(options) as (silversight, name, questions):
        clock = time.process_time if silversight.model.device.type == "cpu" else time.perf_counter
        measured = measure(silversight, questions[: options.questions], options.batch, options.rounds, clock)
        record = {
            "base": name,
            "parameters": _size(silversight.model),
            "device": str(silversight.model.device),
        } | measured
    _write(options, record, before)
    for way in ("single", "batch"):
        print(
            f"{name}, {way}: routing {record[f'{way}_route_ms']:.3f} ms of {record[f'{way}_answer_ms']:.1f} ms "
            f"a question, {100 * record[f'{way}_share']:.2f} %"
        )


# what is measured ----------------------------------------------------------------------------------------------------
@contextmanager
def opened(options) -> Iterator[tuple]:
    """A SilverSight, the name of its base, and questions nobody was trained on."""
    from assl_kit.artifacts.build_data import evaluation_records
    from assl_kit.artifacts.steps import read
    from assl_kit.artifacts.workspace import Workspace
    from assl_kit.data.records import prompts
    from assl_kit.data.synthetic import make_corpus
    from assl_kit.experts.silversight import SilverSight

    if options.run:
        from assl_kit.artifacts.build_experts import open_silversight

        ws = Workspace.open(options.run)
        parameters = ws.current_parameters()
        questions = evaluation_records(read(ws, "records"), parameters).sample(frac=1, random_state=0)
        yield open_silversight(ws, parameters), parameters.base_model, prompts(questions)
        return
    corpus = make_corpus(400 if options.quick else 3000)
    questions = corpus[corpus["split"] == "test"].sample(frac=1, random_state=0)
    with tempfile.TemporaryDirectory() as folder:
        bank, model, tokenizer, encoder = _bank(Path(folder), options, corpus[corpus["split"] == "train"])
        yield SilverSight(model, tokenizer, encoder, bank), options.base, prompts(questions)


def _bank(folder: Path, options, train):
    from assl_kit.data.records import prompts
    from assl_kit.experts.bank import ExpertBank, Provenance
    from assl_kit.experts.router import expert_centroids
    from assl_kit.experts.training.adapter import train_adapter
    from assl_kit.experts.training.config import TrainingConfig
    from assl_kit.model.identity import base_info
    from assl_kit.model.loading import load_base
    from assl_kit.space.clusters import SemanticKMeans
    from assl_kit.space.encoder import encode, encoder_fingerprint, load_encoder

    encoder = load_encoder("fit", texts=prompts(train))
    X = encode(encoder, prompts(train))
    centroids = expert_centroids(X, SemanticKMeans(EXPERTS, random_state=0).fit_predict(X))
    model, tokenizer = load_base(options.base, device=options.device)
    few = train.sample(16 if options.quick else 96, random_state=0).reset_index(drop=True)
    config = TrainingConfig(epochs=1, batch_size=4, max_length=256)
    adapter = train_adapter(model, tokenizer, few, folder / "adapter", config).path
    origin = Provenance(
        base=base_info(model, tokenizer, options.base),
        encoder={"id": "fit", "fingerprint": encoder_fingerprint(encoder), "dim": X.shape[1]},
        encoder_model=encoder,
    )
    bank = ExpertBank.create(folder / "bank", [adapter] * EXPERTS, centroids, origin)
    return bank, model, tokenizer, encoder


def measure(silversight, questions: list[str], batch: int, rounds: int, clock: Callable[[], float]) -> dict:
    """Medians over rounds, in milliseconds a question; one round of everything goes first and does not count.

    An answer's time is that of ``generate``, which routes too. A share is routing over answer, question by question for
    single ones.
    """

    def ms(work: Callable) -> float:
        start = clock()
        work()
        return 1000 * (clock() - start)

    def stream_ms(asked: list[str]) -> tuple[float, float]:
        """Until the first piece, and until the last."""
        start, first = clock(), None
        for _ in silversight.stream_batch(asked, batch_size=len(asked), max_new_tokens=NEW_TOKENS):
            first = first or clock() - start
        whole = clock() - start
        return 1000 * (first or whole), 1000 * whole

    many = (questions * batch)[:batch]
    keys = ("route", "answer", "first", "stream")
    single = {key: [] for key in keys}
    together = {key: [] for key in ("route", "grouped", "mixed", "first", "merged")}
    shares, tokens = [], 0
    for turn in range(rounds + 1):
        times = {key: [] for key in keys}
        for question in questions:
            times["route"].append(ms(lambda: silversight.route([question])))  # noqa: B023 - called at once
            times["answer"].append(ms(lambda: silversight.generate([question], max_new_tokens=NEW_TOKENS)))  # noqa: B023
            first, whole = stream_ms([question])
            times["first"].append(first)
            times["stream"].append(whole)
        batch_times = {
            "route": ms(lambda: silversight.route(many)),
            "grouped": ms(lambda: silversight.generate(many, strategy="grouped", max_new_tokens=NEW_TOKENS)),
            "mixed": ms(lambda: silversight.generate(many, strategy="mixed", max_new_tokens=NEW_TOKENS)),
            "first": batch * stream_ms(many)[0],  # of the batch, not a question
            "merged": ms(lambda: silversight.generate(many, top_k=2, max_new_tokens=NEW_TOKENS)),
        }
        if turn == 0:
            answers = silversight.generate(questions, max_new_tokens=NEW_TOKENS)
            lengths = [len(silversight.tokenizer(a.text, add_special_tokens=False)["input_ids"]) + 1 for a in answers]
            tokens = statistics.mean(lengths)
            continue
        shares += [a / b for a, b in zip(times["route"], times["answer"], strict=True)]
        for key in keys:
            single[key].append(statistics.median(times[key]))
        for key, value in batch_times.items():
            together[key].append(value / batch)
    median = statistics.median
    fastest = min(together["grouped"], together["mixed"], key=median)
    mixtures = set(silversight.route(many).mixtures(2))
    return {
        "clock": "processor" if clock is time.process_time else "wall",
        "questions": len(questions),
        "batch": batch,
        "rounds": rounds,
        "answer_tokens": round(tokens, 1),
        "single_route_ms": median(single["route"]),
        "single_answer_ms": median(single["answer"]),
        "single_share": median(shares),
        "single_first_piece_ms": median(single["first"]),
        "single_stream_ms": median(single["stream"]),
        "batch_route_ms": median(together["route"]),
        "batch_answer_ms": median(fastest),
        "batch_share": median(together["route"]) / median(fastest),
        "batch_grouped_ms": median(together["grouped"]),
        "batch_mixed_ms": median(together["mixed"]),
        "batch_first_piece_ms": median(together["first"]),
        "batch_top2_ms": median(together["merged"]),
        "top2_mixtures": len(mixtures),
        "all": {f"single_{key}": value for key, value in single.items()}
        | {f"batch_{key}": value for key, value in together.items()},
    }


# the file ------------------------------------------------------------------------------------------------------------
def _write(options, record: dict, load_before: float | None) -> None:
    import datetime
    import platform

    from assl_kit.common.files import read_json, write_json

    out = options.out / "serving.json"
    record |= {
        "cpu": cpu_name(),
        "cores": cores(),
        "threads": options.threads,
        "load_before": load_before,
        "load_after": load(),
        "python": platform.python_version(),
        "versions": versions(("torch", "transformers", "peft", "sentence-transformers")),
        "date": datetime.date.today().isoformat(),
    }
    kept = read_json(out)["records"] if out.is_file() else []
    kept = [other for other in kept if (other["base"], other["device"]) != (record["base"], record["device"])]
    write_json(out, {"records": sorted([*kept, _rounded(record)], key=lambda r: r["parameters"])})


def _rounded(value):
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value


def _size(model) -> int:
    return sum(p.numel() for name, p in model.named_parameters() if "lora_" not in name)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.serving", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--base", default="tiny", help="'tiny', 'gemma3-270m', a folder, a GGUF file or a hub id")
    parser.add_argument("--run", type=Path, help="the folder of a run with experts, instead of a bank made here")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--questions", type=int, default=24, help="asked one by one in each round")
    parser.add_argument("--batch", type=int, default=32, help="questions of a batch")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="a small corpus and little training, for a try")
    parser.add_argument("--out", type=Path, default=RESULTS)
    return parser


if __name__ == "__main__":
    main()
