"""Builders of the artifacts that need the language model (notebooks 03 and 05 to 08)."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pandas as pd

from .build_selection import open_encoder
from .files import read_json, write_json
from .parameters import Parameters
from .steps import n_select_of, read, rows_of, sample_by_task, step, test_records, training_pool

_TRAINING = ("base_model", "device", "lora_rank", "lora_alpha", "learning_rate", "train_batch_size", "max_length")


def training_config(p: Parameters, **changes):
    """The run's ``TrainingConfig``, with changes."""
    from .experts import TrainingConfig

    values = {
        "rank": p.lora_rank,
        "alpha": p.lora_alpha,
        "epochs": p.epochs,
        "learning_rate": p.learning_rate,
        "batch_size": p.train_batch_size,
        "max_length": p.max_length,
        "seed": p.seed,
    }
    return TrainingConfig(**(values | changes))


@step("affinity", "affinity.json", "03", ("records",), (*_TRAINING, "affinity_records", "seed"), read=read_json)
def _build_affinity(ws, p, path):
    """Train on one task, measure the answer loss on every task, for all tasks with enough records."""
    from .base_model import answer_nll, load_base
    from .corpus import prompts
    from .experts import adapted, train_adapter

    train = training_pool(read(ws, "records"))
    n = p.affinity_records
    counts = train["task"].value_counts()
    tasks = sorted(task for task in counts.index if counts[task] >= n + n // 2)
    drawn = sample_by_task(train[train["task"].isin(tasks)], n + n // 2, p.seed)
    learn = {t: g.iloc[:n] for t, g in drawn.groupby("task")}
    held = pd.concat([g.iloc[n:] for _, g in drawn.groupby("task")])
    model, tokenizer = load_base(p.base_model, device=p.device)

    def losses(m):
        nll = answer_nll(m, tokenizer, prompts(held), list(held["output"]), max_length=p.max_length)
        return pd.Series(nll).groupby(held["task"].to_numpy()).mean().reindex(tasks).to_list()

    before, after = losses(model), []
    with tempfile.TemporaryDirectory() as folder:
        for task in tasks:
            result = train_adapter(model, tokenizer, learn[task], Path(folder) / task, training_config(p, epochs=2))
            with adapted(model, result.path) as expert:
                after.append(losses(expert))
    write_json(path, {"tasks": tasks, "base_nll": before, "nll": after, "n_records": n})


# 05 ------------------------------------------------------------------------------------------------------------------
@step("scores", "scores.parquet", "05", ("records", "pool"), (*_TRAINING, "score", "warmup_records", "max_new_tokens"))
def _build_scores(ws, p, path):
    """The pool's model score, under the base warmed up on a small draw of the pool."""
    from .base_model import load_base
    from .experts import adapted, train_adapter
    from .scoring import rank_normalise, score_records

    pool = read(ws, "pool")
    records = pool[["id"]].merge(read(ws, "records"), on="id", how="left")
    if p.score.startswith("column:"):
        raw = score_records(records, p.score)
    else:
        model, tokenizer = load_base(p.base_model, device=p.device)
        options = {"max_length": p.max_length, "max_new_tokens": p.max_new_tokens}
        warm = records.sample(min(p.warmup_records, len(records)), random_state=p.seed)
        with tempfile.TemporaryDirectory() as folder:
            result = train_adapter(model, tokenizer, warm, Path(folder) / "warmup", training_config(p, epochs=1))
            with adapted(model, result.path) as warmed:
                raw = score_records(records, p.score, model=warmed, tokenizer=tokenizer, **options)
    score = rank_normalise(raw, pool["cluster"].to_numpy())
    pd.DataFrame({"id": pool["id"], "raw": raw, "score": score}).to_parquet(path, index=False)


# 06 ------------------------------------------------------------------------------------------------------------------
@step(
    "experts",
    "experts",
    "06",
    ("records", "encoder", "embeddings", "selection"),
    (*_TRAINING, "encoder", "epochs", "min_similarity", "seed"),
    read=Path,
)
def _build_experts(ws, p, path):
    from .base_model import base_info, load_base
    from .encoder import encoder_fingerprint
    from .experts import train_experts

    records, selection = read(ws, "records"), read(ws, "selection")
    model, tokenizer = load_base(p.base_model, device=p.device)
    encoder = open_encoder(ws, p)
    X = rows_of(read(ws, "embeddings"), selection["id"])
    train_experts(
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
        min_similarity=p.min_similarity,
    )


def open_silversight(ws, p: Parameters):
    """The run's experts with router, base model and encoder: a ``SilverSight``."""
    from .silversight import SilverSight

    return SilverSight.from_pretrained(
        ws.path_of("experts"), base=p.base_model, encoder=open_encoder(ws, p), device=p.device
    )


# 07 ------------------------------------------------------------------------------------------------------------------
@step(
    "answers",
    "answers.parquet",
    "07",
    ("records", "experts"),
    ("base_model", "device", "strategy", "max_new_tokens", "min_similarity", "n_test", "seed"),
)
def _build_answers(ws, p, path):
    from .corpus import prompts

    test = test_records(read(ws, "records"), p)
    answers = open_silversight(ws, p).generate(
        prompts(test), strategy=p.strategy, max_new_tokens=p.max_new_tokens, min_similarity=p.min_similarity
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
    (*_TRAINING, "epochs", "full_epochs", "max_new_tokens", "n_test", "regret_per_task", "seed"),
)
def _build_comparison(ws, p, path):
    """Answers of the arms that the routed experts are compared with; every arm answers the same test questions."""
    from .base_model import generate_answers, load_base
    from .corpus import prompts
    from .experts import adapted, train_adapter

    records, selection = read(ws, "records"), read(ws, "selection")
    train, test = training_pool(records), test_records(records, p)
    model, tokenizer = load_base(p.base_model, device=p.device)
    n_select = n_select_of(p, len(train))
    chosen = selection.loc[selection.index.repeat(selection["copies"]), ["id"]].merge(records, on="id", how="left")
    arms = {
        "full data, one LoRA": (train, p.full_epochs),
        "random tenth, one LoRA": (train.sample(n_select, random_state=p.seed), p.epochs),
        "chosen tenth, one LoRA": (chosen, p.epochs),
    }
    options = {"max_new_tokens": p.max_new_tokens, "max_length": p.max_length}
    rows = [_answers("base", test, generate_answers(model, tokenizer, prompts(test), **options))]
    with tempfile.TemporaryDirectory() as folder:
        for number, (arm, (data, epochs)) in enumerate(arms.items()):
            config = training_config(p, epochs=epochs)
            result = train_adapter(model, tokenizer, data, Path(folder) / str(number), config)
            with adapted(model, result.path) as expert:
                rows.append(_answers(arm, test, generate_answers(expert, tokenizer, prompts(test), **options)))
    sample = sample_by_task(test, p.regret_per_task, p.seed)
    for expert_folder in sorted(ws.path_of("experts").glob("expert-*")):
        with adapted(model, expert_folder) as expert:
            answers = generate_answers(expert, tokenizer, prompts(sample), **options)
            rows.append(_answers(expert_folder.name, sample, answers))
    pd.concat(rows, ignore_index=True).to_parquet(path, index=False)


def _answers(arm, records, answers):
    return pd.DataFrame({"id": records["id"], "arm": arm, "answer": answers})
