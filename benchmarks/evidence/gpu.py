"""The selection study on one GPU in minutes: all arms are trained at the same time on one frozen base.

    python -m benchmarks.evidence.gpu make DATA STUDY                    records and the arms that need no selection
    python -m benchmarks.evidence.gpu prepare STUDY --base BASE          tokens, on all cores (run does it if need be)
    python -m benchmarks.evidence.gpu run STUDY --base BASE --out OUT    train, answer, score; --minutes 8
    python -m benchmarks.evidence.gpu run --dry-run --out OUT            a small one, on a CPU, with the tiny base

`write_study` makes a STUDY of any arms. OUT/results.json is written after each part, and a run goes on from it: what
each arm scored on each question (no text), versions, card, seconds, tokens a second, memory. OUT/answers.json holds the
answers; it is not for the repository where the data's licence forbids it.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")

import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402

HERE = Path(__file__).resolve().parent
STARTED = time.perf_counter()
SETTINGS = {"rank": 16, "alpha": 32, "learning_rate": 5e-4, "batch_size": 64, "max_length": 384, "max_new_tokens": 40}
COLUMNS = ["seed", "id", "instruction", "input", "output", "task", "split", "measure"]


class OutOfTime(Exception):
    """The part would end after the minutes given; ``share`` of it would fit."""

    def __init__(self, share: float):
        super().__init__(f"{share:.0%} of it fits")
        self.share = share


class Enough(Exception):
    """So many steps were to be tried."""


# the study's files ----------------------------------------------------------------------------------------------------
def write_study(folder: Path, records: dict[int, pd.DataFrame], arms: Sequence[dict], what: str, **settings) -> None:
    """Write a study.

    Parameters
    ----------
    folder : Path
    records : dict of DataFrame
        By seed of the draw: ``id, instruction, input, output, task, split`` (train or test) and maybe ``measure``.
    arms : sequence of dict
        In order of importance. ``arm`` (name), ``seed`` (of the draw), ``ids`` (None: all train records) and maybe
        ``copies`` (default 1 each), ``epochs`` (3), ``training_seed`` (0: same seed and size waste no padding).
    what : str
        What is measured, for the results.
    settings
        In place of `SETTINGS`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    whole = pd.concat([rows.assign(seed=seed) for seed, rows in records.items()], ignore_index=True)
    whole = whole.reindex(columns=COLUMNS).assign(row=range(len(whole)))
    whole = whole.sort_values(["input", "row"], kind="stable")  # one text of several draws side by side: a small file
    whole.to_parquet(folder / "records.parquet", index=False, compression="zstd", compression_level=19)
    rows, listed = [], []
    for arm in arms:
        known = set(records[arm["seed"]].query("split == 'train'")["id"])
        ids = arm.get("ids")
        if ids is not None:
            ids = list(ids)
            copies = list(arm.get("copies") if arm.get("copies") is not None else [1] * len(ids))
            if len(copies) != len(ids) or not known.issuperset(ids):
                raise SystemExit(f"{arm['arm']!r} of seed {arm['seed']}: ids that are no train records, or no copies")
            rows.append(pd.DataFrame({"arm": arm["arm"], "seed": arm["seed"], "id": ids, "copies": copies}))
        listed.append(
            {
                "arm": arm["arm"],
                "seed": int(arm["seed"]),
                "epochs": int(arm.get("epochs", 3)),
                "training_seed": int(arm.get("training_seed", 0)),
                "all": ids is None,
            }
        )
    chosen = pd.concat(rows, ignore_index=True) if rows else pd.DataFrame(columns=["arm", "seed", "id", "copies"])
    chosen.to_parquet(folder / "arms.parquet", index=False, compression="zstd", compression_level=19)
    value = {"what": what, "settings": SETTINGS | settings, "arms": listed}
    (folder / "study.json").write_text(json.dumps(value, ensure_ascii=False, indent=1), encoding="utf-8")


@dataclass(frozen=True)
class Arm:
    """One arm of one draw of the data; ``rows`` are places among the draw's train records, copies repeated."""

    name: str
    seed: int
    epochs: int
    training_seed: int
    rows: np.ndarray = field(repr=False, compare=False)

    @property
    def key(self) -> str:
        return f"{self.name}, draw {self.seed}, training seed {self.training_seed}"


@dataclass
class Study:
    what: str
    settings: dict[str, Any]
    arms: list[Arm]
    train: dict[int, pd.DataFrame]
    test: dict[int, pd.DataFrame]
    folder: Path

    @classmethod
    def read(cls, folder: Path) -> Study:
        value = json.loads((folder / "study.json").read_text(encoding="utf-8"))
        records = pd.read_parquet(folder / "records.parquet").sort_values("row", ignore_index=True)
        chosen = pd.read_parquet(folder / "arms.parquet")
        parts = {
            split: {int(seed): of_seed.reset_index(drop=True) for seed, of_seed in rows.groupby("seed")}
            for split, rows in records.groupby("split")
        }
        groups, arms = {key: rows for key, rows in chosen.groupby(["arm", "seed"])}, []
        for arm in value["arms"]:
            train = parts["train"][arm["seed"]]
            rows = np.arange(len(train))
            if not arm["all"]:
                picked = groups[arm["arm"], arm["seed"]]
                rows = np.repeat(pd.Index(train["id"]).get_indexer(picked["id"]), picked["copies"])
            arms.append(Arm(arm["arm"], arm["seed"], arm["epochs"], arm["training_seed"], rows))
        return cls(value["what"], value["settings"], arms, parts["train"], parts["test"], folder)

    def config(self, arm: Arm):
        from assl_kit.experts.training.config import TrainingConfig

        names = ("rank", "alpha", "learning_rate", "batch_size", "max_length")
        settings = {name: self.settings[name] for name in names}
        return TrainingConfig(**settings, epochs=arm.epochs, seed=arm.training_seed)


def waves(arms: Sequence[Arm], together: int) -> list[list[Arm]]:
    """Arms to be trained at the same time: as many records and epochs, the same seed, so that their lengths agree.

    Examples
    --------
    >>> few, many = np.arange(4), np.arange(9)
    >>> arms = [Arm("a", 0, 3, 0, few), Arm("all", 0, 1, 0, many), Arm("b", 0, 3, 0, few), Arm("c", 1, 3, 0, few)]
    >>> [[arm.name for arm in wave] for wave in waves(arms, 2)]
    [['a', 'b'], ['all'], ['c']]
    """
    groups: dict[tuple, list[list[Arm]]] = {}
    every_wave = []
    for arm in arms:
        waves_alike = groups.setdefault((len(arm.rows), arm.epochs, arm.training_seed), [])
        if not waves_alike or len(waves_alike[-1]) == together:
            waves_alike.append([])
            every_wave.append(waves_alike[-1])
        waves_alike[-1].append(arm)
    return every_wave


# tokens ---------------------------------------------------------------------------------------------------------------
def tokenizer_of(base: str):
    """The tokenizer as `load_base` gives it, and what of the model tokens depend on; no weights are read."""
    from transformers import AutoConfig, AutoTokenizer

    from assl_kit.model.identity import TINY_BASE
    from assl_kit.model.templates import GEMMA_TEMPLATE

    source = str(TINY_BASE) if base == "tiny" else base
    tokenizer = AutoTokenizer.from_pretrained(source)
    tokenizer.chat_template = tokenizer.chat_template or GEMMA_TEMPLATE
    config = AutoConfig.from_pretrained(source)
    return tokenizer, SimpleNamespace(config=config)


def _encode(part):
    from assl_kit.experts.training.data import encode_records

    return encode_records(_SHARED[1], _SHARED[0], part, _SHARED[2])


_SHARED: Any = None


def prepare(study: Study, base: str, processes: int) -> dict[int, Any]:
    """The train records of each draw as tokens; kept beside the study."""
    import pickle

    from assl_kit.experts.training.data import Encoded

    file = study.folder / f"tokens-{Path(base).name}.pkl"
    if file.is_file():
        return pickle.loads(file.read_bytes())
    global _SHARED
    _SHARED = (*tokenizer_of(base), study.settings["max_length"])
    encoded = {}
    for seed, rows in study.train.items():
        parts = [rows.iloc[places] for places in np.array_split(np.arange(len(rows)), max(1, processes))]
        if processes > 1:
            import multiprocessing

            with multiprocessing.get_context("fork").Pool(processes) as pool:
                done = pool.map(_encode, parts)
        else:
            done = [_encode(part) for part in parts]
        encoded[seed] = Encoded(
            [ids for d in done for ids in d.input_ids],
            [ids for d in done for ids in d.labels],
            sum(d.n_truncated for d in done),
        )
    partial = file.with_suffix(".partial")
    partial.write_bytes(pickle.dumps(encoded, protocol=5))
    partial.replace(file)
    return encoded


# the run --------------------------------------------------------------------------------------------------------------
@dataclass
class Run:
    """A study on a base: what is known so far is in OUT/results.json."""

    study: Study
    base: str
    out: Path
    device: str
    ends: float
    tokens_at_once: int | None
    together: int

    def __post_init__(self):
        self.out.mkdir(parents=True, exist_ok=True)
        self.file, self.texts = self.out / "results.json", self.out / "answers.json"
        self.results = {
            "what": self.study.what,
            "settings": self.study.settings,
            "made": {},
            "parts": [],
            "questions": {},
            "arms": {},
        }
        self.answers: dict[str, list[str]] = {}
        if self.file.is_file():
            self.results = json.loads(self.file.read_text(encoding="utf-8"))
            self.answers = json.loads(self.texts.read_text(encoding="utf-8"))
        for seed, test in self.study.test.items():
            questions = {"id": test["id"].tolist(), "task": test["task"].tolist(), "measure": self._measures(test)}
            self.results["questions"][str(seed)] = questions

    def left(self) -> float:
        return self.ends - time.perf_counter()

    def note(self, text: str) -> None:
        print(f"[{time.perf_counter() - STARTED:6.1f} s] {text}", flush=True)

    def write(self) -> None:
        for file, value in ((self.texts, self.answers), (self.file, self.results)):
            partial = file.with_suffix(".partial")
            partial.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")
            partial.replace(file)

    def part(self, name: str, work: Callable[[], dict]) -> None:
        """Do a part unless it is done; its seconds, and what it tells, are written down."""
        if any(part["part"] == name for part in self.results["parts"]):
            return
        start = time.perf_counter()
        facts = work()
        self.results["parts"].append({"part": name, "seconds": round(time.perf_counter() - start, 2)} | facts)
        self.write()
        self.note(f"{name}: {json.dumps({k: v for k, v in facts.items() if k not in ('trace', 'arms')})}")

    def aside(self, name: str, work: Callable[[], dict]) -> None:
        """A part that the study does not need: an error is written down, and the run goes on."""
        try:
            self.part(name, work)
        except Exception as error:  # whatever a card or a library raises
            self.results["parts"].append({"part": f"{name}: failed", "error": f"{type(error).__name__}: {error}"[:500]})
            self.note(f"{name} failed: {type(error).__name__}: {error}")

    def load(self) -> dict:
        from assl_kit.model.identity import base_info
        from assl_kit.model.loading import load_base

        self.encoded = prepare(self.study, self.base, 1 if self.device == "cpu" else min(12, os.cpu_count() or 1))
        dtype = None if self.device == "cpu" else "bfloat16"
        self.model, self.tokenizer = load_base(self.base, device=self.device, dtype=dtype)
        info = base_info(self.model, self.tokenizer)
        self.fingerprint = info["fingerprint"]
        self.results["made"] = made(self.model) | {"base": info}
        self.synchronize()
        return {"left": round(self.left())}

    def synchronize(self) -> None:
        if self.device == "cuda":
            import torch

            torch.cuda.synchronize()

    # training and answering -----------------------------------------------------------------------------------------
    def wave(self, arms: list[Arm], name: str) -> None:
        """Train arms together and score their answers; fewer of them if the time left does not do for all."""
        known = self.results["arms"]
        arms = [arm for arm in arms if arm.key not in known]
        while arms:
            try:
                self.part(f"{name}: {len(arms)} arms", lambda arms=arms: self._wave(arms))
                return
            except OutOfTime as error:
                self.note(f"{name}: not all of {len(arms)} arms in {self.left():.0f} s ({error})")
                arms = arms[: min(len(arms) - 1, int(len(arms) * error.share))]

    def _wave(self, arms: list[Arm]) -> dict:
        from assl_kit.experts.training.stack import AdapterStack

        with tempfile.TemporaryDirectory() as folder:
            paths = [Path(folder) / str(number) for number in range(len(arms))]
            facts, results = self._train(arms, paths)
            stack = AdapterStack.load(self.model, paths)
        seconds = self._answer(arms, stack)
        for arm, result in zip(arms, results, strict=True):
            losses = result.log["loss"].tolist()
            numbers = {
                "loss": [round(losses[0], 4), round(float(np.mean(losses[-10:])), 4)],
                "tokens": result.tokens,
                "n_train": len(arm.rows),
                "n_different": len(set(arm.rows.tolist())),
            }
            self.results["arms"][arm.key] |= numbers
        return facts | {"answering_seconds": round(seconds, 2), "arms": [arm.key for arm in arms]}

    def _train(self, arms: list[Arm], paths: list[Path], stop: int | None = None) -> tuple[dict, list]:
        from assl_kit.experts.training.data import plan_training
        from assl_kit.experts.training.lot import padding
        from assl_kit.experts.training.many import train_adapters

        tables, configs = [self.table(arm) for arm in arms], [self.study.config(arm) for arm in arms]
        plans = [plan_training(table, config) for table, config in zip(tables, configs, strict=True)]
        lengths = [np.array([len(ids) for ids in table.input_ids]) for table in tables]
        at_once = self.tokens_at_once or (32768 if self.device == "cuda" else 4096)
        padded, own_tokens = padding(plans, lengths, at_once)
        speed = self.results["made"].get("padded_tokens_per_second")
        reserve = 25 if self.device == "cuda" else 0
        if speed and stop is None and padded / speed + reserve > self.left():
            raise OutOfTime(max(0, (self.left() - reserve) * speed / padded))
        trace, start = [], time.perf_counter()

        def watch(step: int, steps: int, tokens: int) -> None:
            if step % 20 and step not in (5, stop):
                return
            self.synchronize()
            trace.append([step, round(time.perf_counter() - start, 3), tokens])
            if step == stop:
                raise Enough
            if step < 20:
                return
            (a, ta, _), (b, tb, _) = trace[0], trace[-1]
            needs = (tb - ta) / (b - a) * (steps - step)
            if needs + reserve > self.left():
                share = (self.left() - reserve) / (needs + time.perf_counter() - start)
                raise OutOfTime(max(0.0, 0.95 * share))

        results = []
        with suppress(Enough):
            results = train_adapters(
                self.model,
                self.tokenizer,
                tables,
                paths,
                configs,
                tokens_at_once=at_once,
                base_fingerprint=self.fingerprint,
                on_step=watch,
            )
        self.synchronize()
        last = trace[-1] if trace else [1, time.perf_counter() - start, own_tokens]
        seconds, tokens = (last[1], last[2]) if stop else (time.perf_counter() - start, own_tokens)
        facts = {"training_seconds": round(seconds, 2), "tokens": tokens, "tokens_per_second": round(tokens / seconds)}
        if len(trace) > 1:  # without the first five steps
            facts["tokens_per_second_later"] = round((trace[-1][2] - trace[0][2]) / (trace[-1][1] - trace[0][1]))
        if stop is None:
            facts |= {"padded_tokens": padded, "padded_tokens_per_second": round(padded / seconds)}
            self.results["made"]["padded_tokens_per_second"] = padded / seconds
        return facts | {
            "memory_gb": self.memory(),
            "notes": sorted({n for r in results for n in r.notes}),
            "trace": trace,
        }, results

    def table(self, arm: Arm):
        from assl_kit.experts.training.data import Encoded

        whole = self.encoded[arm.seed]
        return Encoded([whole.input_ids[i] for i in arm.rows], [whole.labels[i] for i in arm.rows], 0)

    def memory(self) -> float:
        from assl_kit.common.device import peak_memory_mb

        return round(peak_memory_mb(self.device) / 1024, 2)

    def _answer(self, arms: list[Arm], stack) -> float:
        """Answers of several adapters to the questions of their draws, scored; the seconds it took."""
        from assl_kit.data.records import prompts
        from assl_kit.experts.answering_many import generate_many

        asked = {seed: prompts(test) for seed, test in self.study.test.items()}
        texts = [text for arm in arms for text in asked[arm.seed]]
        which = [number for number, arm in enumerate(arms) for _ in asked[arm.seed]]
        s, start = self.study.settings, time.perf_counter()
        answers = generate_many(
            self.model,
            self.tokenizer,
            stack,
            texts,
            which,
            max_new_tokens=s["max_new_tokens"],
            max_length=s["max_length"],
            batch_size=3072 if self.device == "cuda" else 64,
        )
        seconds, place = time.perf_counter() - start, 0
        for arm in arms:
            n = len(asked[arm.seed])
            self._score(arm.key, arm, answers[place : place + n])
            place += n
        return seconds

    def _score(self, key: str, arm: Arm, answers: list[str]) -> None:
        from assl_kit.evaluation.intervals import evaluate
        from assl_kit.evaluation.metrics import score_answers

        test = self.study.test[arm.seed]
        measures, scores = self._measures(test), np.zeros(len(test))
        for task, rows in test.groupby("task"):
            texts = [answers[i] for i in rows.index]
            scores[rows.index] = score_answers(rows["output"].tolist(), texts, measures[task])
        table = evaluate(test, answers, arm=arm.name, n_bootstrap=1, metrics=measures)
        by_task = {row.task: round(float(row.value), 4) for row in table.itertuples()}
        self.answers[key] = answers
        self.results["arms"][key] = {
            "arm": arm.name,
            "draw": arm.seed,
            "training_seed": arm.training_seed,
            "epochs": arm.epochs,
            "by_task": by_task,
            "scores": [round(float(x), 4) for x in scores],
        }

    @staticmethod
    def _measures(test: pd.DataFrame) -> dict[str, str]:
        from assl_kit.evaluation.metrics import metric_of

        measures = {}
        for task, rows in test.groupby("task"):
            stored = rows["measure"].dropna()
            measures[task] = str(stored.iloc[0]) if len(stored) else metric_of(task, rows["output"].tolist())
        return measures

    def bases(self) -> dict:
        """The base without an adapter: new adapters change nothing."""
        from assl_kit.experts.training.stack import AdapterStack

        s, none = self.study.settings, np.zeros(0, int)
        arms = [Arm("base", seed, 0, 0, none) for seed in self.study.test]
        stack = AdapterStack.fresh(self.model, [0] * len(arms), s["rank"], s["alpha"])
        return {"answering_seconds": round(self._answer(arms, stack), 2)}

    # what else a card is asked --------------------------------------------------------------------------------------
    def checks(self) -> dict:
        """Fused norms against the model's own, by the answer loss; operations that wait for the device in a step."""
        import warnings

        import torch

        from assl_kit.data.records import prompts
        from assl_kit.experts.training.many import train_adapters
        from assl_kit.experts.training.stack import fused_norms
        from assl_kit.model.likelihood import answer_nll

        rows = next(iter(self.study.train.values())).head(256)
        asked, right = prompts(rows), rows["output"].tolist()
        plain = answer_nll(self.model, self.tokenizer, asked, right, max_length=self.study.settings["max_length"])
        with fused_norms(self.model) as n:
            fused = answer_nll(self.model, self.tokenizer, asked, right, max_length=self.study.settings["max_length"])
        facts = {
            "norms": n,
            "loss": float(plain.mean()),
            "loss_fused": float(fused.mean()),
            "largest_difference": float(np.abs(plain - fused).max()),
        }
        if self.device == "cuda":
            arms = waves(self.study.arms, 2)[0]

            def watch(step: int, steps: int, tokens: int) -> None:
                if step == 3:
                    torch.cuda.set_sync_debug_mode("warn")
                if step == 6:
                    torch.cuda.set_sync_debug_mode("default")
                    raise Enough

            with warnings.catch_warnings(record=True) as seen, tempfile.TemporaryDirectory() as folder:
                warnings.simplefilter("always")
                try:
                    train_adapters(
                        self.model,
                        self.tokenizer,
                        [self.table(arm) for arm in arms],
                        [Path(folder) / str(i) for i in range(len(arms))],
                        [self.study.config(arm) for arm in arms],
                        base_fingerprint=self.fingerprint,
                        on_step=watch,
                    )
                except Enough:
                    pass
                finally:
                    torch.cuda.set_sync_debug_mode("default")
            waits = [f"{Path(w.filename).name}:{w.lineno}" for w in seen if "synchroniz" in str(w.message)]
            facts["waits_in_three_steps"] = len(waits)
            facts["where"] = sorted(set(waits))[:8]
        return facts

    def alone(self) -> dict:
        """For comparison: one adapter at a time, in training (60 steps) and in answering; and the speed of scoring."""
        from assl_kit.data.records import prompts
        from assl_kit.experts.answering_many import generate_many
        from assl_kit.experts.training.stack import AdapterStack
        from assl_kit.model.likelihood import answer_nll

        arm, s = self.study.arms[0], self.study.settings
        with tempfile.TemporaryDirectory() as folder:
            facts, _ = self._train([arm], [Path(folder) / "0"], stop=60)
        asked = prompts(self.study.test[arm.seed])
        start = time.perf_counter()
        generate_many(
            self.model,
            self.tokenizer,
            AdapterStack.fresh(self.model, [0], s["rank"], s["alpha"]),
            asked,
            [0] * len(asked),
            max_new_tokens=s["max_new_tokens"],
            max_length=s["max_length"],
            batch_size=min(3072, len(asked)),
        )
        answering = time.perf_counter() - start
        rows = self.study.train[arm.seed].head(8192)
        start = time.perf_counter()
        answer_nll(
            self.model,
            self.tokenizer,
            prompts(rows),
            rows["output"].tolist(),
            max_length=s["max_length"],
            batch_size=1024 if self.device == "cuda" else None,
        )
        scoring = time.perf_counter() - start
        return facts | {
            "answering_seconds": round(answering, 2),
            "scored_records_per_second": round(len(rows) / scoring),
        }

    def all(self) -> None:
        start = time.perf_counter()
        facts = self.load()
        self.note(f"loaded in {time.perf_counter() - start:.1f} s: {facts}")
        self.aside("checks", self.checks)
        for number, arms in enumerate(waves(self.study.arms, self.together)):
            self.wave(arms, f"wave {number}")
        if self.left() > (15 if self.device == "cuda" else 0):
            self.part("base", self.bases)
        if self.left() > (25 if self.device == "cuda" else 0):
            self.aside("one at a time", self.alone)
        missing = [arm.key for arm in self.study.arms if arm.key not in self.results["arms"]]
        self.results["missing"] = missing
        self.write()
        self.note(f"{len(self.results['arms'])} arms measured, {len(missing)} missing, {self.left():.0f} s left")


def made(model) -> dict[str, Any]:
    """What made the numbers."""
    import platform
    import subprocess
    from importlib.metadata import PackageNotFoundError, version

    import torch

    from assl_kit import __version__

    versions = {"assl-kit": __version__}
    for name in ("torch", "transformers", "peft", "safetensors", "tokenizers"):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "-"
    facts = {
        "date": time.strftime("%Y-%m-%d"),
        "python": platform.python_version(),
        "versions": versions,
        "cores": os.cpu_count(),
        "dtype": str(model.dtype).removeprefix("torch."),
        "attention": model.config._attn_implementation,
    }
    git = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=HERE, capture_output=True, text=True)
    facts["commit"] = os.environ.get("ASSL_COMMIT") or git.stdout.strip() or None
    if model.device.type == "cuda":
        properties = torch.cuda.get_device_properties(0)
        size = round(properties.total_memory / 2**30, 1)
        facts |= {"card": properties.name, "card_gb": size, "cuda": torch.version.cuda}
    return facts


# studies that this file can make --------------------------------------------------------------------------------------
def plain_arms(records: dict[int, pd.DataFrame], size: int, epochs: int, *, steps: bool = True) -> list[dict]:
    """Arms that need no selection: random, equal and √ budgets over tasks, all data; and a tenth for as many steps."""
    arms, rest = [], []
    for seed, rows in records.items():
        train = rows[rows["split"] == "train"].reset_index(drop=True)
        ids = train["id"].to_numpy()
        for draw in (0, 1):
            chosen = np.random.default_rng(100 * seed + draw).choice(len(train), size, replace=False)
            name = f"random tenth, {('first', 'second')[draw]} draw"
            arms.append({"arm": name, "seed": seed, "ids": ids[chosen], "epochs": epochs})
        for power, name in ((0.0, "equal budgets over tasks"), (0.5, "square-root budgets over tasks")):
            chosen = by_budget(train["task"].to_numpy(), size, power, seed)
            arms.append({"arm": name, "seed": seed, "ids": ids[chosen], "epochs": epochs})
        rest.append({"arm": "all data, one epoch", "seed": seed, "ids": None, "epochs": 1})
        if steps:
            rest.append(arms[-4] | {"arm": "random tenth, as many steps", "epochs": max(1, round(len(train) / size))})
    return arms + sorted(rest, key=lambda arm: arm["ids"] is not None)


def by_budget(groups: np.ndarray, size: int, power: float, seed: int) -> np.ndarray:
    """Rows drawn at random within groups, the groups' budgets ∝ size**power; what a group lacks goes to the others."""
    from assl_kit.selection.budgets import cluster_budgets

    rng = np.random.default_rng(seed)
    names, counts = np.unique(groups, return_counts=True)
    pairs = zip(names, cluster_budgets(counts, size, power), strict=True)
    return np.sort(np.concatenate([rng.choice(np.flatnonzero(groups == a), n, replace=False) for a, n in pairs]))


def make(data: str, folder: Path, seeds: Sequence[int], n_train: int, n_test: int, size: int) -> None:
    from .data import load_study_records

    records = {seed: load_study_records(data, n_train, n_test, 0, seed) for seed in seeds}
    what = f"CFLEB: {n_train:,} training records of six sources, {size:,} chosen; {n_test} test questions a task"
    write_study(folder, records, plain_arms(records, size, 3), what)


def make_small(folder: Path) -> None:
    """A study of the embedded corpus that a CPU does in seconds."""
    from assl_kit.data.synthetic import make_corpus

    records = {}
    for seed in (0, 1):
        rows = make_corpus(120, seed=seed)
        test = rows[rows["split"] == "test"].head(6)
        train = rows[rows["split"] == "train"].head(60)
        records[seed] = pd.concat([train, test], ignore_index=True)
    settings = {"rank": 4, "alpha": 8, "batch_size": 4, "max_length": 128, "max_new_tokens": 8}
    write_study(folder, records, plain_arms(records, 12, 2), "a try on the embedded corpus", **settings)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=("make", "prepare", "run"))
    parser.add_argument("paths", nargs="*", type=Path, metavar="PATH")
    parser.add_argument("--base", default="tiny")
    parser.add_argument("--out", type=Path, default=HERE.parents[1] / "runs" / "gpu-evidence")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--together", type=int, default=12, help="arms trained at the same time")
    parser.add_argument("--tokens-at-once", type=int, help="of a forward pass in training")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--sizes", type=int, nargs=3, default=[40000, 150, 4000], help="train, test a task, chosen")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--dry-run", action="store_true")
    options = parser.parse_args(arguments)
    if options.step == "make":
        data, folder = options.paths
        n_train, n_test, size = options.sizes
        make(str(data), folder, options.seeds, n_train, n_test, size)
        return 0
    if options.step == "prepare":
        prepare(Study.read(options.paths[0]), options.base, options.processes)
        return 0
    from assl_kit.common.device import pick_device

    small = options.dry_run and options.device == "auto"
    device = "cpu" if small else pick_device(options.device).device
    with tempfile.TemporaryDirectory() as temporary:
        if options.dry_run:
            make_small(Path(temporary))
        study = Study.read(Path(temporary) if options.dry_run else options.paths[0])
        ends = STARTED + 60 * options.minutes if not options.dry_run else time.perf_counter() + 600
        Run(study, options.base, options.out, device, ends, options.tokens_at_once, options.together).all()
    return 0


if __name__ == "__main__":
    sys.exit(main())
