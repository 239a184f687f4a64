"""One seed of the evidence: its records, spaces, clusters, scores, and what each way of choosing chooses."""

from __future__ import annotations

import re
import tempfile
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd

from assl_kit.common.files import atomic_path
from assl_kit.data.groups import assign_groups
from assl_kit.data.records import prompts
from assl_kit.evaluation.baselines import k_center, k_means_medoids, random_rows
from assl_kit.evaluation.referee import balanced_rows
from assl_kit.experts.training.config import TrainingConfig
from assl_kit.model.ranks import rank_within
from assl_kit.model.scoring import score_records
from assl_kit.selection.redistribute import Redistributor
from assl_kit.space.clusters import SemanticKMeans

from .data import ENCODERS, REAL, embedder, load_study_records, without_instruction

K = 6
SHARES = (0.01, 0.03, 0.05, 0.1, 0.2, 0.3)
#: One change each from the two stages as the paper has them.
VARIANTS = {
    "min_samples 5": {"min_samples": 5},
    "min_samples 20": {"min_samples": 20},
    "min_samples 40": {"min_samples": 40},
    "flattening 0": {"flattening": 0.0},
    "flattening 0.25": {"flattening": 0.25},
    "flattening 0.75": {"flattening": 0.75},
    "flattening 1": {"flattening": 1.0},
    "eps halved": {"eps_factor": 0.5},
    "eps doubled": {"eps_factor": 2.0},
    "budget power 0.5": {"budget_power": 0.5},
    "pool of 1.5 budgets": {"pool_factor": 1.5},
    "pool of 6 budgets": {"pool_factor": 6.0},
    "no repeats": {"max_repeat": 1, "repeat_share": 0.0},
}
#: Other ways of choosing, with a share each.
PAPER, RANDOM, BALANCED, OURS = "paper", "random", "balanced random", "default"
MEDOIDS, CENTERS, STAGE_1, STAGE_2 = "k-means medoids", "k-center", "stage 1 alone", "stage 2 alone"


@dataclass(frozen=True)
class Choice:
    """How an arm chooses its training records.

    ``way`` is one of the names above (``"paper"`` is the paper's choice, ``"default"`` ours) or a name of `VARIANTS`.
    With ``equal_steps`` training goes on for as many steps as one pass over all data has.
    """

    way: str
    share: float = 0.1
    equal_steps: bool = False

    @property
    def label(self) -> str:
        """The arm's name in records and figures."""
        label = self.way if self.way in VARIANTS else f"{self.way} {self.share:.0%}".replace("%", " %")
        return label + ", steps of all data" * self.equal_steps


CHOICES = {
    choice.label: choice
    for choice in (
        *(Choice(way, share) for way in (PAPER, RANDOM, BALANCED, OURS) for share in SHARES),
        *(Choice(way, equal_steps=True) for way in (RANDOM, BALANCED, OURS)),
        *(Choice(way, share) for way in (MEDOIDS, CENTERS, STAGE_1, STAGE_2) for share in SHARES),
        *map(Choice, VARIANTS),
    )
}


@dataclass(frozen=True)
class Setting:
    """Sizes and training of one base; what a run of the chain takes from a profile."""

    n_train: int
    n_test: int  # a task; 0: all of the test split
    n_exam: int
    n_compared: int  # questions a task that every single expert answers; 0: all
    epochs: int
    full_epochs: int
    warmup: int
    affinity: int  # records a task
    learning_rate: float
    batch_size: int
    max_length: int
    max_new_tokens: int
    shares: tuple[float, ...]
    trained_variants: tuple[str, ...]
    trained_encoders: tuple[str, ...]
    grid: str  # "full"; "claims": what the claims need; "core": what a real model can do in an hour on two cores

    @property
    def core(self) -> bool:
        return self.grid == "core"


#: What of the variants and encoders is trained on by itself; the others with ``--only``.
_TRAINED = ("flattening 0", "flattening 1")
_CLAIMED = (0.01, 0.03, 0.1, 0.3)
_REAL = tuple(name for name in ENCODERS if name in REAL)
SETTINGS = {
    "tiny": Setting(2700, 0, 0, 0, 4, 1, 256, 24, 2e-3, 4, 512, 40, _CLAIMED, _TRAINED, _REAL, "claims"),
    "gemma3-270m": Setting(1200, 15, 40, 8, 3, 1, 48, 12, 5e-4, 8, 384, 32, (0.1,), (), (), "core"),
}
_LESS = {"n_train": 450, "n_test": 5, "n_compared": 2, "epochs": 1, "warmup": 16, "affinity": 4, "shares": (0.05, 0.1)}
SETTINGS["quick"] = replace(
    SETTINGS["tiny"], **_LESS, trained_variants=("flattening 1",), trained_encoders=ENCODERS[1:2]
)


def slug(name: str) -> str:
    return re.sub(r"[^a-z0-9.]+", "-", name.lower()).strip("-")


@dataclass(frozen=True)
class Study:
    """One seed of one data set on one base; what is costly is kept under ``work``."""

    data: str
    label: str
    base: str
    seed: int
    work: Path
    device: str
    setting: Setting

    # records and spaces ----------------------------------------------------------------------------------------------
    @property
    def records(self) -> pd.DataFrame:
        return _records(self)

    def part(self, split: str) -> pd.DataFrame:
        return self.records[self.records["split"] == split].reset_index(drop=True)

    @property
    def questions(self) -> pd.DataFrame:
        """Test questions and exam questions, one row each."""
        return self.records[self.records["split"] != "train"].reset_index(drop=True)

    def compared(self) -> np.ndarray:
        """Which questions every single expert answers, as a mask."""
        rows, n = self.questions, self.setting.n_compared
        place = rows.groupby("task").cumcount()
        return np.ones(len(rows), bool) if n == 0 else ((place < n) & rows["split"].eq("test")).to_numpy()

    @property
    def encoders(self) -> tuple[str, ...]:
        """The encoders that are compared; a real base is too dear as one of them on a CPU."""
        cheap = [name for name in ENCODERS if not name.startswith("base model")]
        return tuple(cheap) if self.setting.core else ENCODERS

    def space(self, encoder: str = ENCODERS[0]) -> dict[str, np.ndarray]:
        """Unit rows: ``train``, ``questions``, and ``inputs`` (of the test questions, without the instruction)."""
        return _space(self, encoder)

    def clusters(self, encoder: str = ENCODERS[0]) -> np.ndarray:
        return _clusters(self, encoder)

    def scores(self, whole: bool = False) -> np.ndarray:
        """Raw model score of every training record; a real base reads the pool only, without ``whole``."""
        return _scores(self, whole or not self.setting.core)

    def training(self, **changes) -> TrainingConfig:
        s = self.setting
        values = {
            "epochs": s.epochs,
            "learning_rate": s.learning_rate,
            "batch_size": s.batch_size,
            "max_length": s.max_length,
            "seed": self.seed,
        }
        return TrainingConfig(**(values | changes))

    # choosing --------------------------------------------------------------------------------------------------------
    def choose(self, share: float = 0.1, encoder: str = ENCODERS[0], rows=None, clusters=None):
        """The default two stages; give the `Selection`. ``rows``: choose among these rows only."""
        X, train = self.space(encoder)["train"], self.part("train")
        clusters = self.clusters(encoder) if clusters is None else clusters
        if rows is not None:
            X, train = X[rows], train.iloc[rows].reset_index(drop=True)
        groups = assign_groups(train, clusters).to_numpy()
        size = max(K, round(share * len(X)))
        return Redistributor().fit_select(X, clusters, size, groups=groups, ids=train["id"].to_numpy())

    def choose_as_paper(self, share: float = 0.1, encoder: str = ENCODERS[0], rows=None, clusters=None, **options):
        """The two stages as the paper has them, with changes; the rest as for `choose`."""
        X, raw = self.space(encoder)["train"], self.scores(whole=options.get("pool_factor", 0) >= len(self.records))
        ids = self.part("train")["id"].to_numpy()
        clusters = self.clusters(encoder) if clusters is None else clusters
        if rows is not None:
            X, raw, ids = X[rows], raw[rows], ids[rows]
        factor = options.pop("eps_factor", None)
        stages = Redistributor.paper(**options)
        n_select = max(K, round(share * len(X)))
        if factor is not None:
            stages.set_params(eps=factor * _typical_eps(X, clusters))
        pool = stages.pool(X, clusters, n_select, ids=ids)
        scores = rank_within(raw[pool["row"]], pool["cluster"])
        return stages.select(X, clusters, pool, n_select, scores=scores, ids=ids)

    def rows_of(self, arm: str) -> np.ndarray:
        """The training rows of an arm, repeats included."""
        n = len(self.part("train"))
        if arm not in CHOICES:  # all data, whatever the number of passes
            return np.arange(n)
        choice, X = CHOICES[arm], self.space()["train"]
        size = max(K, round(choice.share * n))
        if choice.way == RANDOM:
            return random_rows(n, size, seed=self.seed)
        if choice.way == BALANCED:
            tasks = self.part("train").groupby("task", sort=True).indices
            return balanced_rows(list(tasks.values()), size, np.random.default_rng(self.seed))
        if choice.way == MEDOIDS:
            return k_means_medoids(X, size, seed=self.seed)
        if choice.way == CENTERS:
            return k_center(X, size, seed=self.seed)
        if choice.way == STAGE_1:
            return Redistributor.paper(pool_factor=1).pool(X, self.clusters(), size)["row"].to_numpy()
        if choice.way == STAGE_2:
            chosen = self.choose_as_paper(choice.share, pool_factor=1e6)
        elif choice.way == OURS:
            chosen = self.choose(choice.share)
        else:
            chosen = self.choose_as_paper(choice.share, **VARIANTS.get(choice.way, {}))
        return np.repeat(chosen.indices, chosen.repeats)


def load(study: Study):
    """The base of a study and its tokenizer, loaded once a process."""
    from assl_kit.experts.training.worker import kept_base

    return kept_base(study.base, study.device)


@lru_cache(maxsize=4)
def _records(study: Study) -> pd.DataFrame:
    s = study.setting
    return load_study_records(study.data, s.n_train, s.n_test, s.n_exam, study.seed)


@lru_cache(maxsize=8)
def _space(study: Study, encoder: str) -> dict[str, np.ndarray]:
    from safetensors.numpy import load_file, save_file

    file = study.work / f"space-{slug(encoder)}.safetensors"
    if not file.is_file():
        texts, test = prompts(study.part("train")), study.part("test")
        base = load(study) if encoder.startswith("base model") else None
        embed = embedder(encoder, texts, study.seed, base)
        rows = {
            "train": embed(texts),
            "questions": embed(prompts(study.questions)),
            "inputs": embed(without_instruction(test)),
        }
        with atomic_path(file) as temporary:
            save_file(rows, temporary)
    return load_file(file)


@lru_cache(maxsize=8)
def _clusters(study: Study, encoder: str) -> np.ndarray:
    return SemanticKMeans(n_clusters=K, random_state=study.seed).fit(study.space(encoder)["train"]).labels_


@lru_cache(maxsize=4)
def _scores(study: Study, whole: bool) -> np.ndarray:
    from assl_kit.experts.adapters import adapted
    from assl_kit.experts.training.adapter import train_adapter

    file = study.work / ("scores.parquet" if whole else "scores-pool.parquet")
    if not file.is_file():
        model, tokenizer = load(study)
        train, s = study.part("train"), study.setting
        read = np.arange(len(train))
        if not whole:  # only the pool, as in a run of the chain; others count as average
            size, ids = round(0.1 * len(train)), train["id"].to_numpy()
            pool = Redistributor.paper().pool(study.space()["train"], study.clusters(), size, ids=ids)
            read = pool["row"].to_numpy()
        warm = train.sample(min(s.warmup, len(train)), random_state=study.seed)
        with tempfile.TemporaryDirectory() as folder:
            warm_adapter = train_adapter(model, tokenizer, warm, Path(folder) / "warm", study.training(epochs=1))
            with adapted(model, warm_adapter.path) as warmed:
                losses = score_records(
                    train.iloc[read],
                    "nll",
                    model=warmed,
                    tokenizer=tokenizer,
                    max_length=s.max_length,
                    batch_size=s.batch_size,
                )
        raw = np.full(len(train), np.median(losses))
        raw[read] = losses
        with atomic_path(file) as temporary:
            pd.DataFrame({"id": train["id"], "raw": raw}).to_parquet(temporary, index=False)
    return pd.read_parquet(file)["raw"].to_numpy()


def _typical_eps(X: np.ndarray, clusters: np.ndarray) -> float:
    """The median over clusters of the eps that A-DBSCAN finds by itself."""
    from assl_kit import ADBSCAN

    radii = [ADBSCAN().fit(X[clusters == c]).eps_ for c in np.unique(clusters) if (clusters == c).sum() > 1]
    return float(np.median(radii))
