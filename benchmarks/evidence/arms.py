"""The arms of the evidence that train or answer: one adapter, a bank of experts, the affinity of tasks."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from assl_kit.common.files import write_json
from assl_kit.data.records import prompts
from assl_kit.evaluation.metrics import baseline_answers
from assl_kit.evaluation.multiple_choice import likeliest_options
from assl_kit.experts.router import CentroidRouter, expert_centroids
from assl_kit.model.generation import generate_answers
from assl_kit.model.identity import base_info
from assl_kit.model.likelihood import answer_nll

from .data import ENCODERS
from .study import (
    BALANCED,
    CENTERS,
    CHOICES,
    MEDOIDS,
    OURS,
    PAPER,
    RANDOM,
    SHARES,
    STAGE_1,
    STAGE_2,
    VARIANTS,
    Choice,
    K,
    Study,
    load,
    slug,
)

Job = tuple[str, str]
"""Kind and name: ``("one", "random 10 %")``."""


def plan(study: Study, only: Sequence[str] = ()) -> list[Job]:
    """All jobs of a study, the longest first where all are done anyway; or these alone, of the full grid's."""
    if only:
        return [job for job in full_grid(study) if job[1] in only]
    s, full = study.setting, study.setting.grid == "full"
    ways = (OURS, PAPER, RANDOM) if full or s.core else (OURS, RANDOM)
    by_share = [("one", Choice(way, share).label) for way in ways for share in reversed(s.shares)]
    jobs = [("one", "all data, 1 epoch"), ("bank", "experts by cluster")]
    if full:
        jobs[:0] = [("one", f"all data, {s.epochs} epochs")] * (s.epochs > 1) + [
            ("bank", "experts by cluster, all data")
        ]
        jobs += [("one", Choice(way).label) for way in (MEDOIDS, CENTERS)]
    if not s.core:
        steps = (OURS, BALANCED, RANDOM) if full else (OURS, RANDOM)
        jobs += [("one", Choice(way, equal_steps=True).label) for way in steps]
        jobs += [("one", Choice(way).label) for way in (PAPER, STAGE_1, STAGE_2, *s.trained_variants)]
        jobs += [("bank", "experts by task label"), ("bank", "experts by random split")]
        jobs += [("bank", f"experts by cluster, {encoder}") for encoder in s.trained_encoders]
    jobs = [*jobs, *by_share, ("one", Choice(BALANCED).label), ("base", "base"), ("affinity", "affinity")]
    jobs = list(dict.fromkeys(jobs))
    return [*jobs[1:-1], jobs[0], jobs[-1]] if s.core else jobs  # what is dearest comes last


def full_grid(study: Study) -> list[Job]:
    """What would be done if time did not matter."""
    every = {"grid": "full", "shares": SHARES, "trained_variants": tuple(VARIANTS), "trained_encoders": ENCODERS[1:]}
    return plan(replace(study, setting=replace(study.setting, **every)))


def done(study: Study, job: Job) -> bool:
    return (study.work / "done" / slug("-".join(job))).is_file()


def run_job(study: Study, job: Job) -> None:
    """Do one job, unless it was done before, and write down what was answered or measured."""
    if done(study, job):
        return
    kind, name = job
    {"one": _one, "bank": _bank, "affinity": _affinity, "base": _base}[kind](study, name)
    mark = study.work / "done" / slug("-".join(job))
    mark.parent.mkdir(parents=True, exist_ok=True)
    mark.touch()


def respond(study: Study, model, tokenizer, rows: pd.DataFrame) -> list[str]:
    """Answers: generated for test questions, the likeliest letter for exam questions."""
    s, answers = study.setting, np.full(len(rows), "", dtype=object)
    exam, asked = rows["split"].eq("exam").to_numpy(), np.array(prompts(rows), dtype=object)
    if (~exam).any():
        answers[~exam] = generate_answers(
            model,
            tokenizer,
            asked[~exam],
            max_new_tokens=s.max_new_tokens,
            max_length=s.max_length,
            batch_size=_batch(study),
        )
    if exam.any():
        answers[exam], _ = likeliest_options(model, tokenizer, asked[exam], max_length=s.max_length)
    return answers.tolist()


def _batch(study: Study) -> int:
    return 16 if study.setting.core else 128


def _write(study: Study, arm: str, rows: pd.DataFrame, answers, *, n_train: int, seconds: float, **more) -> None:
    answers = dict(zip(rows["id"], answers, strict=True))
    value = {"arm": arm, "n_train": int(n_train), "seconds": round(seconds, 1), "answers": answers} | more
    write_json(study.work / "answers" / f"{slug(arm)}.json", value)


def _base(study: Study, name: str) -> None:
    start, rows = time.perf_counter(), study.questions
    _write(study, "base", rows, respond(study, *load(study), rows), n_train=0, seconds=time.perf_counter() - start)
    test, train = study.part("test"), study.part("train")
    answers = baseline_answers(train, test)
    _write(study, "majority or lead", test, answers, n_train=len(train), seconds=0.0)


def _one(study: Study, name: str) -> None:
    """One adapter on the arm's rows."""
    from assl_kit.experts.adapters import adapted
    from assl_kit.experts.training.adapter import train_adapter

    rows, (model, tokenizer) = study.rows_of(name), load(study)
    start = time.perf_counter()
    epochs = study.setting.full_epochs if name == "all data, 1 epoch" else study.setting.epochs
    if name in CHOICES and CHOICES[name].equal_steps:
        epochs = max(1, round(study.setting.full_epochs * len(study.part("train")) / len(rows)))
    folder = study.work / "adapters" / slug(name)
    train_adapter(model, tokenizer, study.part("train").iloc[rows], folder, study.training(epochs=epochs))
    with adapted(model, folder) as answering:
        answers = respond(study, answering, tokenizer, study.questions)
    _write(study, name, study.questions, answers, n_train=len(rows), seconds=time.perf_counter() - start)
    shutil.rmtree(folder)


# experts -------------------------------------------------------------------------------------------------------------
def groups_of(study: Study, name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, str]:
    """Rows, their copies, the expert of each, and the encoder whose space the router works in."""
    encoder = name.removeprefix("experts by cluster, ") if name.split(", ", 1)[-1] in ENCODERS else ENCODERS[0]
    if name == "experts by cluster, all data":
        rows = study.rows_of("all data")
        return rows, np.ones(len(rows), int), study.clusters(), encoder
    chosen = study.choose(encoder=encoder)
    rows, copies, groups = chosen.indices, chosen.repeats, chosen.table["cluster"].to_numpy()
    if name == "experts by task label":
        groups = pd.factorize(study.part("train")["task"].iloc[rows], sort=True)[0]
    elif name == "experts by random split":
        groups = np.random.default_rng(study.seed).permutation(len(rows)) % K
    return rows, copies, groups, encoder


def _bank(study: Study, name: str) -> None:
    from assl_kit.experts.adapters import load_adapters
    from assl_kit.experts.bank import ExpertBank, Provenance
    from assl_kit.experts.training.adapter import train_adapter

    rows, copies, groups, encoder = groups_of(study, name)
    space, (model, tokenizer) = study.space(encoder), load(study)
    start, train = time.perf_counter(), study.part("train")
    epochs = study.setting.full_epochs if name.endswith("all data") else study.setting.epochs
    folder, paths = study.work / "adapters" / slug(name), []
    for k in range(groups.max() + 1):
        members = np.repeat(rows[groups == k], copies[groups == k])
        paths.append(folder / f"part-{k}")
        train_adapter(model, tokenizer, train.iloc[members], paths[-1], study.training(epochs=epochs))
    centroids = expert_centroids(space["train"][rows], groups, copies, groups.max() + 1)
    info = {"id": encoder, "fingerprint": "-", "dim": centroids.shape[1]}
    origin = Provenance(base_info(model, tokenizer), info)
    bank = ExpertBank.create(folder / "bank", paths, centroids, origin)
    questions, n_train = study.questions, int(copies.sum())
    routes = CentroidRouter(centroids).route(space["questions"])
    peft_model = load_adapters(model, bank)
    try:
        answers = _routed(study, peft_model, tokenizer, bank, questions, routes.experts)
        seconds = time.perf_counter() - start
        _write(study, name, questions, answers, n_train=n_train, seconds=seconds, experts=routes.experts.tolist())
        if name == "experts by cluster":
            _others(study, peft_model, tokenizer, bank, routes, n_train)
    finally:
        peft_model.unload()
    if name == "experts by cluster":
        _arrow(study, model, tokenizer, bank, n_train)
    shutil.rmtree(folder)


def _routed(study, peft_model, tokenizer, bank, rows: pd.DataFrame, experts: np.ndarray) -> list[str]:
    answers = np.full(len(rows), "", dtype=object)
    for k in np.unique(experts):
        peft_model.set_adapter(bank.names[k], inference_mode=True)
        answers[experts == k] = respond(study, peft_model, tokenizer, rows[experts == k])
    return answers.tolist()


def _others(study: Study, peft_model, tokenizer, bank, routes, n_train: int) -> None:
    """What else the same experts can do: each alone, merged two by two as the router says, merged all."""
    from assl_kit.experts.merging import merged

    mask = study.compared()
    rows = study.questions[mask]
    for name in bank.names:
        start = time.perf_counter()
        peft_model.set_adapter(name, inference_mode=True)
        answers = respond(study, peft_model, tokenizer, rows)
        _write(study, f"single {name}", rows, answers, n_train=n_train, seconds=time.perf_counter() - start)
    start = time.perf_counter()
    with merged(peft_model, bank.names, [1 / len(bank)] * len(bank)):
        answers = respond(study, peft_model, tokenizer, rows)
    _write(study, "uniform merge", rows, answers, n_train=n_train, seconds=time.perf_counter() - start)
    start, similarities = time.perf_counter(), routes.similarities[mask]
    pairs = np.argsort(-similarities, axis=1, kind="stable")[:, :2]
    answers = np.full(len(rows), "", dtype=object)
    for pair in np.unique(pairs, axis=0):
        of_pair = (pairs == pair).all(axis=1)
        with merged(peft_model, [bank.names[k] for k in pair], [0.5, 0.5]):
            answers[of_pair] = respond(study, peft_model, tokenizer, rows[of_pair])
    _write(study, "two nearest merged", rows, answers, n_train=n_train, seconds=time.perf_counter() - start)


def _arrow(study: Study, model, tokenizer, bank, n_train: int) -> None:
    """PEFT's Arrow: every layer mixes the three adapters whose main direction its input fits best."""
    from peft import ArrowConfig, create_arrow_model

    rows, start = study.questions[study.compared()], time.perf_counter()
    arrow = create_arrow_model(model, [str(path) for path in bank.expert_paths], ArrowConfig(top_k=3, rng_seed=0))
    try:
        answers = respond(study, arrow.eval(), tokenizer, rows)
    finally:
        arrow.unload()
    _write(study, "Arrow", rows, answers, n_train=n_train, seconds=time.perf_counter() - start)


# affinity ------------------------------------------------------------------------------------------------------------
def _affinity(study: Study, name: str) -> None:
    """Train on each task; the answer loss of held-out records of every task, question by question."""
    from assl_kit.data.splits import sample_by_task
    from assl_kit.experts.adapters import adapted
    from assl_kit.experts.training.adapter import train_adapter

    train, n = study.part("train"), study.setting.affinity
    counts = train["task"].value_counts()
    tasks = sorted(task for task in counts.index if counts[task] >= 2 * n)
    drawn = sample_by_task(train[train["task"].isin(tasks)], 2 * n, study.seed)
    place = drawn.groupby("task").cumcount()
    learn, held = drawn[place < n], drawn[place >= n]
    model, tokenizer = load(study)

    def losses(answering) -> list[float]:
        values = answer_nll(
            answering,
            tokenizer,
            prompts(held),
            list(held["output"]),
            max_length=study.setting.max_length,
            batch_size=16,
        )
        return values.tolist()

    start, after, before = time.perf_counter(), [], losses(model)
    for task in tasks:
        folder = Path(study.work / "adapters" / slug(f"affinity {task}"))
        train_adapter(model, tokenizer, learn[learn["task"] == task], folder, study.training(epochs=2))
        with adapted(model, folder) as answering:
            after.append(losses(answering))
        shutil.rmtree(folder)
    value = {
        "tasks": tasks,
        "held": held["task"].tolist(),
        "before": before,
        "after": after,
        "n_train": n,
        "seconds": round(time.perf_counter() - start, 1),
    }
    write_json(study.work / "affinity.json", value)


def read_answers(study: Study) -> dict[str, dict]:
    """What was written down, by arm."""
    files = sorted((study.work / "answers").glob("*.json"))
    entries = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    return {entry["arm"]: entry for entry in entries}
