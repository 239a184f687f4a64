"""Builders of the artifacts that need the language model (notebooks 03 and 05 to 08)."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from assl_kit.common.cluster import backend
from assl_kit.common.device import pick_device, sharded
from assl_kit.common.files import temporary_beside, write_json
from assl_kit.common.names import by_number
from assl_kit.common.parallel import worker_settings
from assl_kit.data.splits import sample_by_task, training_pool
from assl_kit.space.embeddings import rows_of

from .build_data import evaluation_records, n_select_of
from .build_space import encoder_in
from .parameters import Parameters
from .parents import Parents
from .workspace import Workspace

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from assl_kit.experts.silversight import SilverSight
    from assl_kit.experts.training.adapter import TrainingResult
    from assl_kit.experts.training.config import TrainingConfig
    from assl_kit.experts.training.session import Job

_SHORT = {"holdout_share": 0.0, "packing": False}
"""Of trainings on a few records, which would have next to no steps."""
_MANY = 200
"""Records that the tiny base reads, in training or to answer, in the time that a process takes to start (ours)."""
WORK, LOGS = "experts.partial", "logs"
"""Adapters and checkpoints until the bank is whole; TensorBoard's files."""


def run_base(p: Parameters, device: str | None = None) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The run's base model and tokenizer, on its device or on this one.

    In a launch that divides it among the cards each process reads it into its memory, in 16 bits where they have them.
    """
    from assl_kit.model.loading import load_base

    dtype = None
    if sharded():
        device, dtype = "cpu", "bfloat16" if pick_device(p.device).dtype == "bfloat16" else None
    return load_base(p.base_model, device=device or p.device, dtype=dtype, quantization=p.quantization)


def training_config(p: Parameters, **changes: Any) -> TrainingConfig:
    """The run's ``TrainingConfig``, with changes. A step has ``train_batch_size`` records, however it is computed."""
    from assl_kit.experts.training.config import TrainingConfig

    values = {
        "rank": p.lora_rank,
        "alpha": p.lora_alpha,
        "epochs": p.epochs,
        "learning_rate": p.learning_rate,
        "batch_size": "auto" if p.train_batch_size == "auto" else p.train_batch_size // p.gradient_accumulation,
        "gradient_accumulation": 1 if p.train_batch_size == "auto" else p.gradient_accumulation,
        "checkpointing": p.gradient_checkpointing,
        "packing": p.packing,
        "holdout_share": p.holdout_share,
        "patience": p.patience,
        "max_length": p.max_length,
        "seed": p.seed,
    }
    return TrainingConfig(**(values | changes))


def build_affinity(ws: Workspace, parents: Parents, p: Parameters, path: Path) -> None:
    """Train on one task, measure the answer loss on every task, for all tasks with enough records."""
    from joblib import delayed

    train = training_pool(parents["records"])
    n = p.affinity_records
    if not n:
        write_json(path, {"tasks": [], "base_nll": [], "nll": [], "n_records": 0})
        return
    counts = train["task"].value_counts()
    tasks = sorted((task for task in counts.index if counts[task] >= n + n // 2), key=by_number)
    drawn = sample_by_task(train[train["task"].isin(tasks)], n + n // 2, p.seed)
    learn = {task: rows.iloc[:n] for task, rows in drawn.groupby("task")}
    held = pd.concat([rows.iloc[n:] for _, rows in drawn.groupby("task")])
    with temporary_beside(path) as folder:
        calls = [delayed(_losses)(p, held), *(delayed(_losses)(p, held, learn[task], folder / task) for task in tasks)]
        records = 2 * n * len(tasks)
        before, *after = ([nll[task] for task in tasks] for nll in side_by_side(p, calls, records))
    write_json(path, {"tasks": tasks, "base_nll": before, "nll": after, "n_records": n})


def _losses(
    p: Parameters, held: pd.DataFrame, learn: pd.DataFrame | None = None, adapter: Path | None = None
) -> dict[str, float]:
    """The mean answer loss of each task's held records, under the base or an adapter that is trained first."""
    from assl_kit.data.records import prompts
    from assl_kit.model.likelihood import answer_nll

    with _answering(p, adapter, learn, epochs=2, **_SHORT) as (model, tokenizer):
        nll = answer_nll(model, tokenizer, prompts(held), list(held["output"]), max_length=p.max_length)
    return pd.Series(nll).groupby(held["task"].to_numpy()).mean().to_dict()


@contextmanager
def _answering(
    p: Parameters, adapter: Path | None, data: pd.DataFrame | None, **changes: Any
) -> Iterator[tuple[PreTrainedModel | PeftModel, PreTrainedTokenizerBase]]:
    """The kept base, or with an adapter, which is trained first where there is data for it; and the tokenizer."""
    from assl_kit.experts.adapters import adapted
    from assl_kit.experts.training.adapter import train_adapter
    from assl_kit.experts.training.worker import kept_base

    model, tokenizer = kept_base(p.base_model, p.device, p.quantization)
    if adapter is not None and data is not None:
        train_adapter(model, tokenizer, data, adapter, training_config(p, **changes))
    with adapted(model, adapter) if adapter else nullcontext(model) as answering:
        yield answering, tokenizer


def build_scores(ws: Workspace, parents: Parents, p: Parameters, path: Path) -> None:
    """The pool's model score, under the base warmed up on a small draw of the pool; NaN: left out.

    Scores are ranks among records that are alike (cluster, group, answer); the hardest of them are left out, and those
    whose answer is likelier without its question (IFD above 1). As the paper has it they are ranks within clusters.
    """
    from assl_kit.model.ranks import rank_within
    from assl_kit.model.scoring import score_records

    pool = parents["pool"]
    records = pool[["id"]].merge(parents["records"], on="id", how="left")
    kind = "nll" if p.selection == "literal" and p.score == "none" else p.score
    if kind == "none":
        pd.DataFrame({"id": pool["id"], "raw": np.nan, "score": 0.0}).to_parquet(path, index=False)
        return
    raw = score_records(records, kind) if kind.startswith("column:") else _model_scores(records, kind, p, path)
    if p.selection == "literal":
        score = rank_within(raw, pool["cluster"].to_numpy())
    else:
        alike = (pool["cluster"].to_numpy(), pool["group"].to_numpy(), records["output"].to_numpy())
        score = rank_within(np.where(raw > 1, np.nan, raw) if kind == "ifd" else raw, *alike, tail=p.score_tail)
    pd.DataFrame({"id": pool["id"], "raw": raw, "score": score}).to_parquet(path, index=False)


def _model_scores(records: pd.DataFrame, kind: str, p: Parameters, path: Path) -> np.ndarray:
    """What the base finds hard in each record, after a warm-up on some of them if that is asked for."""
    from assl_kit.experts.adapters import adapted
    from assl_kit.experts.training.adapter import train_adapter
    from assl_kit.model.scoring import score_records

    model, tokenizer = run_base(p)
    score = partial(score_records, records, kind, tokenizer=tokenizer, **p.lengths)
    if not p.warmup_records:
        return score(model=model)
    warm = records.sample(min(p.warmup_records, len(records)), random_state=p.seed)
    config = training_config(p, epochs=1, **_SHORT)
    with temporary_beside(path) as folder:
        result = train_adapter(model, tokenizer, warm, folder / "warmup", config)
        with adapted(model, result.path) as warmed:
            return score(model=warmed)


def build_experts(ws: Workspace, parents: Parents, p: Parameters, path: Path) -> None:
    """One adapter a cluster, and the router beside them: the bank."""
    from assl_kit.experts.bank import Provenance
    from assl_kit.experts.train_experts import Chosen, Workplace, train_experts
    from assl_kit.experts.training_table import MEASURED
    from assl_kit.model.identity import base_info
    from assl_kit.space.encoder import encoder_fingerprint

    records, selection = parents["records"], parents["selection"]
    train = None
    if on_ray := backend() == "ray":
        from .ray_stages import train_side_by_side

        train = partial(
            train_side_by_side, base=p.base_model, device=p.device, quantization=p.quantization, progress=True
        )
    elif training_jobs(p) > 1:
        train = partial(_train_side_by_side, p)
    model, tokenizer = run_base(p, "cpu" if on_ray else None)  # the workers have the GPUs
    encoder = encoder_in(parents.path("encoder"), p)
    X = rows_of(parents["embeddings"], selection["id"])
    origin = Provenance(
        base=base_info(model, tokenizer, p.base_model),
        encoder={"id": p.encoder, "fingerprint": encoder_fingerprint(encoder), "dim": X.shape[1]},
        encoder_model=encoder,
        weights={"relevance": p.mmr_relevance, "score": p.mmr_score, "diversity": p.mmr_diversity},
        min_similarity=p.floor,
    )
    logs = ws.path_of(LOGS) if p.tensorboard else None
    bank = train_experts(
        model,
        tokenizer,
        Chosen(records, selection, X, p.n_clusters),
        path,
        training_config(p),
        origin=origin,
        workplace=Workplace(work_dir=ws.path_of(WORK), log_dir=logs, train=train),
    )
    measured = {r.path.name: {m: round(getattr(r, m), 1) for m in MEASURED} for r in bank.results or ()}
    ws.update_manifest("training", measured)
    if p.tensorboard:
        print(f"TensorBoard: tensorboard --logdir {ws.display_path(LOGS)}")


def _train_side_by_side(p: Parameters, jobs: Mapping[str, Job]) -> list[TrainingResult]:
    from joblib import delayed

    from assl_kit.experts.training.worker import train_on_kept_base

    base, records = (p.base_model, p.device, p.quantization), p.epochs * sum(len(job.records) for job in jobs.values())
    return side_by_side(p, [delayed(train_on_kept_base)(job, *base) for job in jobs.values()], records)


def open_silversight(ws: Workspace, p: Parameters) -> SilverSight:
    """The run's experts with router, base model and encoder: a ``SilverSight``."""
    return _silversight(ws.path_of("experts"), ws.path_of("encoder"), p)


def _silversight(experts: Path, encoder: Path, p: Parameters) -> SilverSight:
    from assl_kit.experts.bank import ExpertBank
    from assl_kit.experts.silversight import SilverSight
    from assl_kit.model.identity import base_info

    bank = ExpertBank.from_pretrained(experts)
    model, tokenizer = run_base(p)
    return SilverSight(model, tokenizer, encoder_in(encoder, p), bank, base=base_info(model, tokenizer, p.base_model))


def build_answers(ws: Workspace, parents: Parents, p: Parameters, path: Path) -> None:
    """The routed experts' answers to the test questions, with the routes."""
    from assl_kit.data.records import prompts

    test = evaluation_records(parents["records"], p)
    silversight = _silversight(parents.path("experts"), parents.path("encoder"), p)
    answers = silversight.generate(prompts(test), strategy=p.strategy, **p.lengths, min_similarity=p.floor)
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


@dataclass(frozen=True)
class Arm:
    """One way to answer: the base, or the base with one adapter, which is trained first if there is data for it."""

    name: str
    questions: pd.DataFrame
    adapter: Path | None = None
    data: pd.DataFrame | None = None
    epochs: int = 1

    @property
    def records(self) -> int:
        """Records that are read to train it and to answer."""
        return len(self.questions) + (0 if self.data is None else self.epochs * len(self.data))


def build_cross(ws: Workspace, parents: Parents, p: Parameters, path: Path) -> None:
    """What every single expert, and the base, answers to the same test questions: some of each task."""
    from assl_kit.experts.bank import ExpertBank

    if not p.regret_per_task:
        pd.DataFrame({"id": [], "arm": [], "answer": []}, dtype="str").to_parquet(path, index=False)
        return
    sample = sample_by_task(evaluation_records(parents["records"], p), p.regret_per_task, p.seed)
    bank = ExpertBank.from_pretrained(parents.path("experts"))
    experts = [Arm(name, sample, adapter) for name, adapter in zip(bank.names, bank.expert_paths, strict=True)]
    pd.concat(_answers(p, [Arm("base", sample), *experts]), ignore_index=True).to_parquet(path, index=False)


def build_comparison(ws: Workspace, parents: Parents, p: Parameters, path: Path) -> None:
    """Answers of the arms that the routed experts are compared with; every arm answers the same test questions.

    Trained adapters wait in a folder of the workspace, so that an interrupted comparison goes on where it stopped.
    """
    records, selection = parents["records"], parents["selection"]
    train, test = training_pool(records), evaluation_records(records, p)
    random = train.sample(n_select_of(p, len(train)), random_state=p.seed)
    chosen = selection.loc[selection.index.repeat(selection["copies"]), ["id"]].merge(records, on="id", how="left")
    work = ws.path_of("comparison.partial")
    arms = [
        Arm("random tenth, one LoRA", test, work / "random", random, p.epochs),
        Arm("chosen tenth, one LoRA", test, work / "chosen", chosen, p.epochs),
        Arm("base", test),
    ]
    if p.full_epochs:
        arms.insert(0, Arm("full data, one LoRA", test, work / "full", train, p.full_epochs))
    tables = _answers(p, arms)
    order = ["base", *(arm.name for arm in arms if arm.name != "base")]
    by_name = dict(zip((arm.name for arm in arms), tables, strict=True))
    pd.concat([by_name[name] for name in order], ignore_index=True).to_parquet(path, index=False)
    shutil.rmtree(work, ignore_errors=True)


def training_jobs(p: Parameters) -> int:
    """How many adapters are trained side by side: two for the tiny base on a CPU, whose layers are too small to share.

    The results are the same, since each of them has one thread either way.
    """
    from joblib import cpu_count

    on_cpu = pick_device(p.device).device == "cpu"
    return min(2, cpu_count()) if p.base_model == "tiny" and on_cpu else 1


def side_by_side(p: Parameters, calls: list[Any], records: int) -> list[Any]:
    """Do joblib's ``delayed`` calls, which work on `kept_base`, as many at a time as `training_jobs` says; in order.

    ``records`` is how many are read in all, passes counted: for a few no process is started.
    """
    from joblib import Parallel, parallel_config

    from assl_kit.experts.training.worker import kept_base

    try:
        with parallel_config(**worker_settings(), inner_max_num_threads=1):
            return Parallel(n_jobs=training_jobs(p) if records >= _MANY else 1, batch_size=1)(calls)
    finally:
        kept_base.cache_clear()  # where they were done here, one after the other


def start_workers(p: Parameters) -> None:
    """Start the processes of `side_by_side` before there is work for them, and load there what takes long to load."""
    from joblib import delayed

    if training_jobs(p) > 1:
        side_by_side(p, [delayed(_load)()] * training_jobs(p), _MANY)


def _load() -> None:
    import assl_kit.experts.training.trainer  # noqa: F401


def _answers(p: Parameters, arms: list[Arm]) -> list[pd.DataFrame]:
    """The answers of arms, in their order."""
    from joblib import delayed

    return side_by_side(p, [delayed(_answer)(p, arm) for arm in arms], sum(arm.records for arm in arms))


def _answer(p: Parameters, arm: Arm) -> pd.DataFrame:
    """One arm's answers."""
    from assl_kit.data.records import prompts
    from assl_kit.model.generation import generate_answers

    with _answering(p, arm.adapter, arm.data, epochs=arm.epochs) as (model, tokenizer):
        answers = generate_answers(model, tokenizer, prompts(arm.questions), **p.lengths)
    return pd.DataFrame({"id": arm.questions["id"], "arm": arm.name, "answer": answers})
