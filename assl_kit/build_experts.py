"""Builders of the artifacts that need the language model (notebooks 03 and 05 to 08)."""

from __future__ import annotations

import os
import shutil
import tempfile
from contextlib import nullcontext
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import pandas as pd

from .build_selection import open_encoder
from .device import is_small, pick_device
from .files import read_json, write_json
from .parallel import end_with_parent
from .parameters import Parameters
from .scale_out import backend
from .steps import n_select_of, read, rows_of, sample_by_task, step, test_records, training_pool

_TRAINING = ("base_model", "quantization", "device", "lora_rank", "lora_alpha", "learning_rate", "train_batch_size")
_TRAINING += ("gradient_accumulation", "gradient_checkpointing", "packing", "max_length")
_HELD_OUT = ("holdout_share", "patience")
_SHORT = {"holdout_share": 0.0, "packing": False}
"""Of trainings on a few records, which would have next to no steps."""
WORK, LOGS = "experts.partial", "logs"
"""Adapters and checkpoints until the bank is whole; TensorBoard's files."""


def run_base(p: Parameters, device: str | None = None):
    """The run's base model and tokenizer, on its device or on this one."""
    from .base_model import load_base

    return load_base(p.base_model, device=device or p.device, quantization=p.quantization)


def training_config(p: Parameters, **changes):
    """The run's ``TrainingConfig``, with changes. A step has ``train_batch_size`` records, however it is computed."""
    from .experts import TrainingConfig

    values = {
        "rank": p.lora_rank,
        "alpha": p.lora_alpha,
        "epochs": p.epochs,
        "learning_rate": p.learning_rate,
        "batch_size": p.train_batch_size // p.gradient_accumulation,
        "gradient_accumulation": p.gradient_accumulation,
        "checkpointing": p.gradient_checkpointing,
        "packing": p.packing,
        "holdout_share": p.holdout_share,
        "patience": p.patience,
        "max_length": p.max_length,
        "seed": p.seed,
    }
    return TrainingConfig(**(values | changes))


@step("affinity", "affinity.json", "03", ("records",), (*_TRAINING, "affinity_records", "seed"), read=read_json)
def _build_affinity(ws, p, path):
    """Train on one task, measure the answer loss on every task, for all tasks with enough records."""
    from .base_model import answer_nll
    from .corpus import prompts
    from .experts import adapted, train_adapter

    train = training_pool(read(ws, "records"))
    n = p.affinity_records
    if not n:
        write_json(path, {"tasks": [], "base_nll": [], "nll": [], "n_records": 0})
        return
    counts = train["task"].value_counts()
    tasks = sorted(task for task in counts.index if counts[task] >= n + n // 2)
    drawn = sample_by_task(train[train["task"].isin(tasks)], n + n // 2, p.seed)
    learn = {t: g.iloc[:n] for t, g in drawn.groupby("task")}
    held = pd.concat([g.iloc[n:] for _, g in drawn.groupby("task")])
    model, tokenizer = run_base(p)

    def losses(m):
        nll = answer_nll(m, tokenizer, prompts(held), list(held["output"]), max_length=p.max_length)
        return pd.Series(nll).groupby(held["task"].to_numpy()).mean().reindex(tasks).to_list()

    before, after, config = losses(model), [], training_config(p, epochs=2, **_SHORT)
    with tempfile.TemporaryDirectory() as folder:
        for task in tasks:
            result = train_adapter(model, tokenizer, learn[task], Path(folder) / task, config)
            with adapted(model, result.path) as expert:
                after.append(losses(expert))
    write_json(path, {"tasks": tasks, "base_nll": before, "nll": after, "n_records": n})


# 05 ------------------------------------------------------------------------------------------------------------------
@step("scores", "scores.parquet", "05", ("records", "pool"), (*_TRAINING, "score", "warmup_records", "max_new_tokens"))
def _build_scores(ws, p, path):
    """The pool's model score, under the base warmed up on a small draw of the pool."""
    from .experts import adapted, train_adapter
    from .scoring import rank_normalise, score_records

    pool = read(ws, "pool")
    records = pool[["id"]].merge(read(ws, "records"), on="id", how="left")
    if p.score.startswith("column:"):
        raw = score_records(records, p.score)
    else:
        model, tokenizer = run_base(p)
        if p.warmup_records:
            warm = records.sample(min(p.warmup_records, len(records)), random_state=p.seed)
            config = training_config(p, epochs=1, **_SHORT)
            with tempfile.TemporaryDirectory() as folder:
                result = train_adapter(model, tokenizer, warm, Path(folder) / "warmup", config)
                with adapted(model, result.path) as warmed:
                    raw = score_records(records, p.score, model=warmed, tokenizer=tokenizer, **p.lengths)
        else:
            raw = score_records(records, p.score, model=model, tokenizer=tokenizer, **p.lengths)
    score = rank_normalise(raw, pool["cluster"].to_numpy())
    pd.DataFrame({"id": pool["id"], "raw": raw, "score": score}).to_parquet(path, index=False)


# 06 ------------------------------------------------------------------------------------------------------------------
@step(
    "experts",
    "experts",
    "06",
    ("records", "encoder", "embeddings", "selection"),
    (*_TRAINING, *_HELD_OUT, "encoder", "epochs", "n_clusters", "min_similarity", "seed"),
    read=Path,
    notes=("training",),
)
def _build_experts(ws, p, path):
    from .base_model import base_info
    from .encoder import encoder_fingerprint
    from .experts import train_experts
    from .training_table import MEASURED

    records, selection = read(ws, "records"), read(ws, "selection")
    train = None
    if backend() == "ray":
        from .ray_stages import train_side_by_side

        train = partial(
            train_side_by_side, base=p.base_model, device=p.device, quantization=p.quantization, progress=True
        )
    model, tokenizer = run_base(p, "cpu" if train else None)  # the workers have the GPUs
    encoder = open_encoder(ws, p)
    X = rows_of(read(ws, "embeddings"), selection["id"])
    weights = {"relevance": p.mmr_relevance, "score": p.mmr_score, "diversity": p.mmr_diversity}
    bank = train_experts(
        model,
        tokenizer,
        records,
        selection,
        X,
        path,
        training_config(p),
        base_info=base_info(model, tokenizer, p.base_model),
        encoder=encoder,
        encoder_info={"id": p.encoder, "fingerprint": encoder_fingerprint(encoder), "dim": X.shape[1]},
        n_clusters=p.n_clusters,
        weights=weights,
        min_similarity=p.min_similarity,
        work_dir=ws.path_of(WORK),
        log_dir=ws.path_of(LOGS) if p.tensorboard else None,
        train=train,
    )
    ws.update_manifest("training", {r.path.name: {m: round(getattr(r, m), 1) for m in MEASURED} for r in bank.results})
    if p.tensorboard:
        print(f"TensorBoard: tensorboard --logdir {ws.display_path(LOGS)}")


def generation_batch(model) -> int | None:
    """Questions answered at once: many for a model of a few million weights, else what fits the device (None)."""
    return 128 if is_small(model) else None


def open_silversight(ws, p: Parameters):
    """The run's experts with router, base model and encoder: a ``SilverSight``."""
    from .bank import ExpertBank
    from .base_model import base_info
    from .silversight import SilverSight

    bank, encoder = ExpertBank.from_pretrained(ws.path_of("experts")), open_encoder(ws, p)
    model, tokenizer = run_base(p)
    return SilverSight(model, tokenizer, encoder, bank, base=base_info(model, tokenizer, p.base_model))


# 07 ------------------------------------------------------------------------------------------------------------------
@step(
    "answers",
    "answers.parquet",
    "07",
    ("records", "experts"),
    (
        *("base_model", "quantization", "device", "strategy"),
        *("max_length", "max_new_tokens", "min_similarity", "n_test", "seed"),
    ),
)
def _build_answers(ws, p, path):
    from .corpus import prompts

    test = test_records(read(ws, "records"), p)
    silversight = open_silversight(ws, p)
    answers = silversight.generate(
        prompts(test),
        strategy=p.strategy,
        **p.lengths,
        min_similarity=p.min_similarity,
        batch_size=generation_batch(silversight.model),
    )
    table = pd.DataFrame(
        {
            "id": test["id"],
            "answer": [a.text for a in answers],
            "expert": [a.expert for a in answers],
            "similarity": [a.similarity for a in answers],
            "margin": [a.margin for a in answers],
        }
    )
    table.to_parquet(path, index=False)


# 08 ------------------------------------------------------------------------------------------------------------------
@step(
    "comparison",
    "comparison.parquet",
    "08",
    ("records", "selection", "experts"),
    (*_TRAINING, *_HELD_OUT, "epochs", "full_epochs", "max_new_tokens", "n_test", "regret_per_task", "seed"),
)
def _build_comparison(ws, p, path):
    """Answers of the arms that the routed experts are compared with; every arm answers the same test questions.

    Trained adapters wait in a folder of the workspace, so that an interrupted comparison goes on where it stopped.
    """
    from joblib import Parallel, delayed, parallel_config

    from .bank import ExpertBank

    records, selection = read(ws, "records"), read(ws, "selection")
    train, test = training_pool(records), test_records(records, p)
    n_select = n_select_of(p, len(train))
    chosen = selection.loc[selection.index.repeat(selection["copies"]), ["id"]].merge(records, on="id", how="left")
    work = ws.path_of("comparison.partial")
    arms = [
        ("full data, one LoRA", test, work / "full", train, p.full_epochs),
        ("random tenth, one LoRA", test, work / "random", train.sample(n_select, random_state=p.seed), p.epochs),
        ("chosen tenth, one LoRA", test, work / "chosen", chosen, p.epochs),
        ("base", test),
    ]
    if not p.full_epochs:
        del arms[0]
    if p.regret_per_task:
        sample = sample_by_task(test, p.regret_per_task, p.seed)
        arms += [(path.name, sample, path) for path in ExpertBank.from_pretrained(ws.path_of("experts")).expert_paths]
    with parallel_config("loky", inner_max_num_threads=1):
        found = Parallel(n_jobs=training_jobs(p), batch_size=1)(delayed(_answer)(os.getpid(), p, *arm) for arm in arms)
    table = pd.concat(found, ignore_index=True)
    order = {"base": 0} | {arm[0]: i for i, arm in enumerate(arms, 1) if arm[0] != "base"}
    table.sort_values("arm", key=lambda arm: arm.map(order), kind="stable").to_parquet(path, index=False)
    shutil.rmtree(work, ignore_errors=True)


def training_jobs(p: Parameters) -> int:
    """How many arms are trained side by side: two for the tiny base on a CPU, whose layers are too small to share."""
    from joblib import cpu_count

    on_cpu = pick_device(p.device).device == "cpu"
    return min(2, cpu_count()) if p.base_model == "tiny" and on_cpu else 1


def _answer(asker: int, p: Parameters, arm: str, questions, adapter: Path | None = None, data=None, epochs: int = 1):
    """One arm's answers: of the base, or with an adapter, which is trained first if there is data.

    ``asker`` is the process that wants them: if it is killed, this one ends too.
    """
    if os.getpid() != asker:
        end_with_parent(asker)
    from .base_model import generate_answers
    from .corpus import prompts
    from .experts import adapted, train_adapter

    model, tokenizer = _base(p)
    if data is not None:
        train_adapter(model, tokenizer, data, adapter, training_config(p, epochs=epochs))
    with adapted(model, adapter) if adapter else nullcontext(model) as answering:
        answers = generate_answers(
            answering,
            tokenizer,
            prompts(questions),
            **p.lengths,
            batch_size=generation_batch(model),
        )
    return pd.DataFrame({"id": questions["id"], "arm": arm, "answer": answers})


_base = lru_cache(maxsize=1)(run_base)


@step(
    "metrics",
    "metrics.json",
    "08",
    ("records", "clusters", "selection", "answers", "comparison"),
    ("n_test", "regret_per_task", "seed"),
    read=read_json,
)
def _build_metrics(ws, p, path):
    from .evaluation import evaluate, home_experts, paired_difference, regret_table, routing_table
    from .metrics import baseline_answers, metric_of, score_answers
    from .semantic import cluster_task_agreement, cluster_task_table

    records, selection = read(ws, "records"), read(ws, "selection")
    train, test = training_pool(records), test_records(records, p)
    comparison, routed = read(ws, "comparison"), read(ws, "answers")
    answers = {"majority / lead": baseline_answers(train, test)}
    for arm in comparison["arm"].unique():
        if not arm.startswith("expert-"):
            answers[arm] = _in_order(test, comparison[comparison["arm"] == arm])
    answers[ROUTED] = _in_order(test, routed)
    table = pd.concat([evaluate(test, text, arm=arm, seed=p.seed) for arm, text in answers.items()])

    differences = []
    for arm in answers:
        if arm != ROUTED:
            found = paired_difference(test, answers[ROUTED], answers[arm], seed=p.seed).iloc[-1]
            differences.append({"arm": ROUTED, "against": arm} | found[["difference", "low", "high"]].to_dict())
            differences[-1]["inside"] = bool(found["inside_interval"])

    clusters = train.merge(read(ws, "clusters"), on="id")
    labels, tasks = clusters["cluster"].to_numpy(), clusters["task"].to_numpy()
    counts = cluster_task_table(labels, tasks)
    route = test[["id", "task"]].merge(routed, on="id")
    routing = routing_table(route["task"], route["expert"], home_experts(tasks, labels))
    shares = routing.home_share.drop("all")

    regret = []
    if p.regret_per_task:
        sample = sample_by_task(test, p.regret_per_task, p.seed)
        metric = {task: metric_of(task, list(rows["output"])) for task, rows in test.groupby("task")}

        def scores(rows):
            parts = zip(sample["task"], sample["output"], _in_order(sample, rows), strict=True)
            return np.array([score_answers([right], [said], metric[task])[0] for task, right, said in parts])

        every = [scores(rows) for _, rows in comparison[comparison["arm"].str.startswith("expert-")].groupby("arm")]
        regret = regret_table(scores(routed), np.column_stack(every), sample["task"]).to_dict("records")

    kept = train.merge(selection, on="id", how="left")
    result = {
        "table": table.astype(object).where(table.notna(), None).to_dict("records"),
        "differences": differences,
        "routing": {
            "accuracy": float(routing.home_share["all"]),
            "nmi": routing.nmi,
            "by_task": [{"task": task, "home_share": float(share)} for task, share in shares.items()],
        },
        "clusters": cluster_task_agreement(labels, tasks)
        | {"table": {str(c): {t: int(n) for t, n in row.items()} for c, row in counts.iterrows()}},
        "regret": regret,
        "kept": {f"by_{column}": _kept(kept, column) for column in ("source", "task")},
        "corpus": {
            "records": len(records),
            "train": len(train),
            "test": len(test),
            "chosen": int(kept["copies"].sum()),
        },
    }
    write_json(path, result)


ROUTED = "chosen tenth, routed experts"


def _in_order(records: pd.DataFrame, answers: pd.DataFrame) -> list[str]:
    return (
        records[["id"]].merge(answers[["id", "answer"]], on="id", how="left", validate="one_to_one")["answer"].tolist()
    )


def _kept(kept: pd.DataFrame, column: str) -> list[dict]:
    """Records of each source (or task) there are, how many different ones were kept, and with copies."""
    groups = kept.groupby(column)
    table = groups.agg(available=("id", "size"), kept=("copies", "count"), copies=("copies", "sum")).astype(int)
    return table.sort_values("available", ascending=False, kind="stable").reset_index().to_dict("records")
