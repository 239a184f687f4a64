"""Measure other ways to use the experts of a run beside its router. Writes benchmarks/results/routers.json.

    python -m benchmarks.routers --run runs/tiny          after assl run: about eight minutes on one core
    python -m benchmarks.routers --table                  write the table of benchmarks/README.md from the file

All arms answer the run's test questions with its experts, greedily. What an arm knows beyond the question is in the
file.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from assl_kit.common.files import read_json, write_json
from benchmarks.machine import RESULTS, ROOT, cpu_name, load, marks, versions, with_table

if TYPE_CHECKING:
    from assl_kit.experts.router import CentroidRouter

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
OUT = RESULTS / "routers.json"
README = ROOT / "benchmarks" / "README.md"
BEGIN, END = marks("routers")
OURS = "nearest centroid"
FEW, HELD, GROUPS = 5, 24, 4
"""Examples of a task for mixtures; records of a task that teach by outcome; groups of adapters."""
Q, T, A = "question", "question, task", "question, task, answer"


@dataclass
class Case:
    """A run's experts, its test questions, and what every expert answers."""

    ws: Any
    parameters: Any
    silversight: Any
    train: pd.DataFrame
    chosen: pd.DataFrame
    test: pd.DataFrame

    def __post_init__(self) -> None:
        from assl_kit.data.records import prompts
        from assl_kit.evaluation.metrics import metric_of
        from assl_kit.evaluation.routing import home_experts

        self.questions, self.tasks = prompts(self.test), self.test["task"].to_numpy()
        self.metric = {task: metric_of(str(task), list(rows["output"])) for task, rows in self.test.groupby("task")}
        self.home = home_experts(self.train["task"].tolist(), self.train["cluster"].tolist())
        self.inputs = (self.test["input"].str.strip() != "").to_numpy()
        self.k, n = len(self.silversight.bank), len(self.test)
        self.by_expert = {k: self.answer(experts=[k] * n) for k in range(-1, self.k)}
        self.scores = np.column_stack([self.score(self.by_expert[k]) for k in range(self.k)])

    def answer(self, **options: Any) -> list[str]:
        answers = self.silversight.generate(self.questions, batch_size=128, **self.parameters.lengths, **options)
        return [answer.text for answer in answers]

    def score(self, answers: list[str]) -> np.ndarray:
        from assl_kit.evaluation.metrics import score_answers

        rows = zip(self.test["output"], answers, self.tasks, strict=True)
        return np.array([score_answers([right], [text], self.metric[task])[0] for right, text, task in rows])

    def looked_up(self, experts: np.ndarray) -> list[str]:
        return [self.by_expert[int(k)][i] for i, k in enumerate(experts)]

    def embed(self, texts: list) -> np.ndarray:
        from assl_kit.space.encoder import encode

        return encode(self.silversight.encoder, texts)

    def routed(self, router: CentroidRouter) -> dict[str, Any]:
        """Answers and choices of a router, and its choices for the inputs alone."""
        from assl_kit.space.static_encoder import known_shares

        def experts(texts: list) -> np.ndarray:
            return router.route(self.embed(texts), known=known_shares(self.silversight.encoder, texts)).experts

        bare = experts(self.test.loc[self.inputs, "input"].tolist())
        choices = experts(self.questions)
        return {"answers": self.looked_up(choices), "experts": choices, "bare": bare}


def main(arguments: list[str] | None = None) -> None:
    options = _parser().parse_args(arguments)
    if not options.table:
        import torch

        torch.set_num_threads(options.threads)
        measure(options)
    write_table(read_json(options.output))


def measure(options: argparse.Namespace) -> None:
    """Every arm, one after the other; the file is written after each."""
    before, case, records = load(), opened(options), []
    for name, knows, work in arms(case):
        start = time.process_time()
        result = work()
        seconds = time.process_time() - start
        records.append(record(case, name, knows, result) | {"seconds": round(seconds, 1)})
        if len(records) == 1:
            reference = result["answers"]
        records[-1] |= difference(case, result["answers"], reference)
        print(f"{name}: {records[-1]['mean']:.3f}", flush=True)
        write_json(
            options.output,
            {
                "machine": {"cpu": cpu_name(), "threads": options.threads, "load_before": before},
                "versions": versions(["assl-kit", "torch", "transformers", "peft", "scikit-learn"]),
                "run": {
                    "data": case.parameters.data,
                    "base": case.parameters.base_model,
                    "seed": case.parameters.seed,
                    "experts": case.k,
                    "chosen": len(case.chosen),
                    "questions": len(case.test),
                },
                "records": records,
            },
        )


def opened(options: argparse.Namespace) -> Case:
    from assl_kit.artifacts.build_data import evaluation_records
    from assl_kit.artifacts.build_experts import open_silversight
    from assl_kit.artifacts.steps import read
    from assl_kit.artifacts.workspace import Workspace
    from assl_kit.data.splits import sample_by_task, training_pool

    ws = Workspace.open(options.run)
    parameters = ws.current_parameters()
    records, selection = read(ws, "records"), read(ws, "selection")
    train = training_pool(records).merge(read(ws, "clusters")[["id", "cluster"]], on="id")
    chosen = selection[["id", "copies"]].merge(train, on="id")
    test = evaluation_records(records, parameters)
    if options.questions:
        test = sample_by_task(test, options.questions, parameters.seed)
    return Case(ws, parameters, open_silversight(ws, parameters), train, chosen, test.reset_index(drop=True))


# what is measured ----------------------------------------------------------------------------------------------------
def arms(case: Case) -> Iterator[tuple[str, str, Callable[[], dict[str, Any]]]]:
    """Name, what it knows of a question, and how it answers; ours first."""
    bank = case.silversight.bank
    yield OURS, Q, lambda: case.routed(bank.router())
    yield "10 nearest records vote", Q, lambda: case.routed(_learned(case, "neighbors"))
    yield "linear SVM on clusters", Q, lambda: case.routed(_learned(case, "svm"))
    yield "linear SVM on outcomes", Q, lambda: case.routed(_by_outcome(case))
    yield "two nearest merged", Q, lambda: {"answers": case.answer(top_k=min(2, case.k))}
    yield "Arrow, 3 a layer", Q, lambda: {"answers": _arrow(case)}
    yield "all merged", Q, lambda: {"answers": _all_merged(case)}
    yield "groups of like adapters (MBC)", Q, lambda: _groups(case)
    yield f"LoraHub-like mixture, {FEW} examples a task", T, lambda: {"answers": _mixtures(case)}
    yield "no expert: the base, 3 examples a task", T, lambda: {"answers": _prompted(case)}
    yield "no expert: the base", Q, lambda: {"answers": case.by_expert[-1]}
    yield "one adapter on all that was chosen", Q, lambda: {"answers": _one_adapter(case)}
    yield "oracle: the best expert of each task", A, lambda: _oracle(case, by_task=True)
    yield "oracle: the best expert of each question", A, lambda: _oracle(case, by_task=False)


def record(case: Case, name: str, knows: str, result: dict[str, Any]) -> dict[str, Any]:
    from assl_kit.evaluation.intervals import evaluate
    from assl_kit.evaluation.routing import regret_table, routing_table

    mean = evaluate(case.test, result["answers"], arm=name, seed=0).iloc[-1]
    regret = regret_table(case.score(result["answers"]), case.scores, case.tasks.tolist())["regret"].iloc[-1]
    row = {"arm": name, "knows": knows, "mean": mean["value"], "low": mean["low"], "high": mean["high"]}
    row |= {"regret": float(regret), "home": None, "home_inputs": None, "base_alone": None}
    if "experts" in result:
        row["home"] = float(routing_table(case.tasks, result["experts"], case.home).home_share["all"])
        row["base_alone"] = float((result["experts"] < 0).mean())
    if "bare" in result and case.inputs.any():
        bare = routing_table(case.tasks[case.inputs], result["bare"], case.home)
        row["home_inputs"] = float(bare.home_share["all"])
    return row


def difference(case: Case, answers: list[str], reference: list[str]) -> dict[str, float]:
    """What an arm has over ours in the mean over tasks, with its interval."""
    from assl_kit.evaluation.intervals import paired_difference

    row = paired_difference(case.test, answers, reference, seed=0).iloc[-1]
    return {"difference": row["difference"], "difference_low": row["low"], "difference_high": row["high"]}


# other routers -------------------------------------------------------------------------------------------------------
def _learned(case: Case, learner: str) -> CentroidRouter:
    from assl_kit.data.records import prompts
    from assl_kit.experts.alternatives.learned_router import LearnedRouter

    bank = case.silversight.bank
    X, labels = case.embed(prompts(case.chosen)), case.chosen["cluster"].to_numpy()
    return LearnedRouter(bank.centroids, X, labels, learner=learner, min_similarity=bank.min_similarity)


def _by_outcome(case: Case) -> CentroidRouter:
    """Taught by the expert that finds the right answer likeliest, on records that no expert has seen."""
    from assl_kit.data.records import prompts
    from assl_kit.data.splits import sample_by_task
    from assl_kit.experts.alternatives.learned_router import LearnedRouter
    from assl_kit.model.likelihood import answer_nll

    unseen = case.train[~case.train["id"].isin(case.chosen["id"])]
    drawn, bank = sample_by_task(unseen, HELD, case.parameters.seed), case.silversight.bank
    asked, losses = prompts(drawn), []
    for name in bank.names:
        case.silversight.model.set_adapter(name, inference_mode=True)
        nll = answer_nll(case.silversight.model, case.silversight.tokenizer, asked, drawn["output"].tolist())
        losses.append(nll)
    best = np.column_stack(losses).argmin(axis=1)
    options = {"learner": "svm", "min_similarity": bank.min_similarity}
    return LearnedRouter(bank.centroids, case.embed(asked), best, **options)


# mixtures ------------------------------------------------------------------------------------------------------------
def _generate(case: Case, model: Any, questions: list) -> list[str]:
    from assl_kit.model.generation import generate_answers

    return generate_answers(model, case.silversight.tokenizer, questions, batch_size=128, **case.parameters.lengths)


def _all_merged(case: Case) -> list[str]:
    from assl_kit.experts.merging import merged

    names = case.silversight.bank.names
    with merged(case.silversight.model, names, [1 / len(names)] * len(names)):
        return _generate(case, case.silversight.model, case.questions)


def _mixtures(case: Case) -> list[str]:
    from assl_kit.data.records import prompts
    from assl_kit.data.splits import sample_by_task
    from assl_kit.experts.alternatives.composition import composed_weights
    from assl_kit.experts.merging import merged

    model, tokenizer, names = case.silversight.model, case.silversight.tokenizer, case.silversight.bank.names
    few, answers = sample_by_task(case.train, FEW, case.parameters.seed), np.full(len(case.test), "", dtype=object)
    for task in np.unique(case.tasks):
        examples, here = few[few["task"] == task], case.tasks == task
        weights = composed_weights(model, tokenizer, names, prompts(examples), examples["output"].tolist())
        with merged(model, names, weights.tolist()):
            answers[here] = _generate(case, model, [case.questions[i] for i in np.flatnonzero(here)])
    return answers.tolist()


def _arrow(case: Case) -> list[str]:
    from peft import ArrowConfig, create_arrow_model

    paths = [str(path) for path in case.silversight.bank.expert_paths]
    with _bare_base(case) as model:
        arrow = create_arrow_model(model, paths, ArrowConfig(top_k=min(3, case.k), rng_seed=0))
        try:
            return _generate(case, arrow.eval(), case.questions)
        finally:
            arrow.unload()


@contextmanager
def _bare_base(case: Case) -> Iterator[Any]:
    """The run's base without adapters, apart from the one that carries the experts."""
    from assl_kit.artifacts.build_experts import run_base

    yield run_base(case.parameters)[0]


def _groups(case: Case) -> dict[str, Any]:
    """An adapter a task, groups of like ones, an adapter a group; routed to the nearest centroid of a group."""
    from assl_kit.artifacts.build_experts import training_config
    from assl_kit.data.records import prompts
    from assl_kit.experts.adapters import adapted
    from assl_kit.experts.alternatives.adapter_groups import adapter_cosines, adapter_groups
    from assl_kit.experts.router import CentroidRouter, expert_centroids
    from assl_kit.experts.training.adapter import train_adapter

    tasks, config = sorted(set(case.chosen["task"])), training_config(case.parameters)
    answers = np.full(len(case.test), "", dtype=object)
    with _bare_base(case) as model, tempfile.TemporaryDirectory() as folder:

        def trained(name: str, rows: pd.DataFrame) -> Path:
            return train_adapter(model, case.silversight.tokenizer, rows, Path(folder) / name, config).path

        alone = [trained(f"task-{i}", case.chosen[case.chosen["task"] == task]) for i, task in enumerate(tasks)]
        cosines = adapter_cosines(alone)
        groups = adapter_groups(cosines, min(GROUPS, len(tasks)))
        of_rows = case.chosen["task"].map(dict(zip(tasks, groups.tolist(), strict=True))).to_numpy()
        centroids = expert_centroids(case.embed(prompts(case.chosen)), of_rows, case.chosen["copies"])
        routed = CentroidRouter(centroids).route(case.embed(case.questions)).experts
        for group in np.unique(routed):
            path, here = trained(f"group-{group}", case.chosen[of_rows == group]), np.flatnonzero(routed == group)
            with adapted(model, path) as answering:
                answers[here] = _generate(case, answering, [case.questions[i] for i in here])
    return {"answers": answers.tolist()}


# no routing ----------------------------------------------------------------------------------------------------------
def _prompted(case: Case) -> list[str]:
    from assl_kit.experts.alternatives.few_shot import with_examples

    asked = with_examples(case.test, case.train, n=3, seed=case.parameters.seed)
    with _bare_base(case) as model:
        return _generate(case, model, asked)


def _one_adapter(case: Case) -> list[str]:
    from assl_kit.artifacts.build_experts import training_config
    from assl_kit.experts.adapters import adapted
    from assl_kit.experts.training.adapter import train_adapter

    rows = case.chosen.loc[case.chosen.index.repeat(case.chosen["copies"])]
    with _bare_base(case) as model, tempfile.TemporaryDirectory() as folder:
        result = train_adapter(
            model, case.silversight.tokenizer, rows, Path(folder) / "one", training_config(case.parameters)
        )
        with adapted(model, result.path) as answering:
            return _generate(case, answering, case.questions)


def _oracle(case: Case, *, by_task: bool) -> dict[str, Any]:
    scores = pd.DataFrame(case.scores)
    scores = scores.groupby(case.tasks).transform("mean") if by_task else scores
    experts = scores.to_numpy().argmax(axis=1)
    return {"answers": case.looked_up(experts), "experts": experts}


# the table -----------------------------------------------------------------------------------------------------------
def table(results: dict[str, Any]) -> str:
    """The table as Markdown, in the order of the file."""
    lines = [
        "| way | knows | mean over tasks | against ours | home | home, inputs alone | regret |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in results["records"]:
        against = f"{row['difference']:+.3f} [{row['difference_low']:+.3f}, {row['difference_high']:+.3f}]"
        against = "–" if row["arm"] == OURS else against
        home, bare = (f"{100 * row[key]:.0f} %" if row[key] is not None else "–" for key in ("home", "home_inputs"))
        mean = f"{row['mean']:.3f} [{row['low']:.3f}, {row['high']:.3f}]"
        lines.append(f"| {row['arm']} | {row['knows']} | {mean} | {against} | {home} | {bare} | {row['regret']:+.3f} |")
    return "\n".join(lines)


def write_table(results: dict[str, Any]) -> None:
    """Put the table between its marks in benchmarks/README.md."""
    document = with_table(README.read_text(encoding="utf-8"), "routers", table(results))
    README.write_text(document, encoding="utf-8", newline="\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.routers", description=__doc__.split("\n")[0])
    parser.add_argument("--run", default="runs/tiny", help="folder of a run that has its experts; default %(default)s")
    parser.add_argument("--questions", type=int, default=0, help="test questions a task, 0: all of the run's")
    parser.add_argument("--threads", type=int, default=1, help="default %(default)s")
    parser.add_argument("--output", type=Path, default=OUT)
    parser.add_argument("--table", action="store_true", help="measure nothing; write the table of the README again")
    return parser


if __name__ == "__main__":
    main()
