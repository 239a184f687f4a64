"""From a corpus to a chosen part of it, in a folder: `select_file`."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from assl_kit.artifacts.build_evaluation import CHOSEN
from assl_kit.common.files import atomic_path, read_json, sha256_file, sha256_of, write_json, write_text
from assl_kit.common.hub import upload
from assl_kit.common.trust import inside
from assl_kit.data.groups import assign_groups, with_groups
from assl_kit.data.parquet import read_table
from assl_kit.data.records import LEFT_OUT, prompts, write_left_out
from assl_kit.data.splits import ensure_splits
from assl_kit.errors import DataError, ParameterError, WorkspaceError
from assl_kit.selection.duplicates import NEAR, Duplicates, Leakage, find_duplicates, find_leakage
from assl_kit.selection.table import Selection
from assl_kit.space.encoder import encoder_fingerprint, load_encoder
from assl_kit.version import __version__

from .card import language_of, selection_card
from .check import duplicate_counts, leakage_counts
from .choose import FOR_FACTOR, Places, choose, embedded, near_target, places, stand_ins
from .output import dataset_info, write_chosen
from .plan import ABOUT, DIMENSIONS, MARK, REFEREE_MOST, SelectionPlan, listed_files, plan_selection
from .reasons import reasons_table
from .settings import Settings, number_to_keep

HELD_OUT = 0.1
"""Share that is held out for the referee where the source has no test records."""
DRAWS = 5


@dataclass(frozen=True)
class SelectedFile:
    """A chosen part of a corpus, in its folder.

    Attributes
    ----------
    folder : pathlib.Path
    about : dict
        The content of ``selection.json``: settings, counts, duplicates, leakage, the referee's verdict, files.
    """

    folder: Path
    about: dict[str, Any]

    @classmethod
    def from_folder(cls, folder: str | os.PathLike) -> SelectedFile:
        """The selection that lies in a folder.

        Raises
        ------
        WorkspaceError
            If the folder is not one of `select_file`, or lacks a file that it lists.
        """
        folder = Path(folder)
        names = listed_files(folder)
        if not names:
            raise WorkspaceError("this is no folder of a selection", where=str(folder), hint="Make one: assl select.")
        for name in names:
            if Path(name).name != name or not inside(folder, folder / name, WorkspaceError).is_file():
                raise WorkspaceError(f"{name} is missing", where=str(folder), hint="Select again.")
        return cls(folder, read_json(folder / ABOUT))

    @property
    def file(self) -> Path:
        """The chosen records."""
        return self.folder / self.about["written"]["file"]

    def reasons(self) -> pd.DataFrame:
        """``reasons.parquet``: a row for each record of the source."""
        return read_table(self.folder / "reasons.parquet")

    def push_to_hub(self, repo_id: str, *, private: bool = True, token: str | None = None) -> str:
        """Upload the folder as a dataset of the hub, private unless told otherwise; return the commit's address.

        Raises
        ------
        ParameterError
            As `assl_kit.common.hub.upload`.
        """
        message = f"{self.about['counts']['chosen']:,} chosen records"
        return upload(
            self.folder,
            repo_id,
            listed_files(self.folder),
            kind="dataset",
            private=private,
            token=token,
            message=message,
        )


def select_file(
    source: str | os.PathLike,
    out: str | os.PathLike,
    *,
    keep: str | int | float = "10%",
    format: str = "same",
    target: str | os.PathLike | None = None,
    drop_duplicates: bool = False,
    similarity: float = NEAR,
    encoder: str = "fit",
    seed: int = 0,
    referee: bool | None = None,
    license: str = "unknown",
    on_bad: str = "refuse",
    progress: bool = False,
) -> SelectedFile:
    """Choose a part of a corpus and write it, as it came in, into a folder that trainers and the hub read.

    Parameters
    ----------
    source : str or path-like
        What `assl_kit.load_records` reads. Its test records are never chosen.
    out : path-like
        A new or empty folder, or that of an earlier selection, which is replaced when the new one is complete.
    keep : str, int or float
        How many: ``"10%"`` or 0.1 of what may be chosen, or a number of records.
    format : str
        "same": as they came in, byte for byte where the source is of one kind of file; "jsonl": all fields, one record
        a line; "alpaca", "messages", "sharegpt", "parquet": converted, several turns and system messages included.
    target : str or path-like, optional
        Records to choose for, such as a dev set: the choice is made among those that are nearest to these.
    drop_duplicates : bool
        Leave out records that repeat an earlier one, exactly or nearly (`assl_kit.selection.duplicates`).
    similarity : float
        Least cosine of two near questions, in (0, 1].
    encoder : str
        As `assl_kit.load_encoder`: "fit", a folder or a hub id.
    seed : int
        Of the encoder, the clusters and the referee.
    referee : bool, optional
        Whether cheap learners compare the choice with random ones; by default up to 50,000 training records.
    license : str
        For the card: the hub's short name of the source's licence.
    on_bad : {"refuse", "skip"}
        What becomes of records that cannot be read; what is skipped is listed in ``left_out.jsonl``.
    progress : bool
        Say what is being done, on stderr.

    Returns
    -------
    SelectedFile

    Raises
    ------
    ParameterError
        An option is out of range, the folder holds other things, or more is to be kept than there is.
    DataError
        The source or the target cannot be read; names the file and the line.

    Notes
    -----
    The choice is that of `assl_kit.Redistributor` with its defaults. The same source and options give the same bytes.
    ``docs/select.md`` says what is in the folder.

    Examples
    --------
    >>> import json, tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> rows = [{"instruction": "判断情绪。", "input": f"第{i}条", "output": "中性"} for i in range(40)]
    >>> _ = (folder / "mine.jsonl").write_text("\\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    >>> chosen = select_file(folder / "mine.jsonl", folder / "part", keep=8, referee=False)
    >>> chosen.file.name, len(chosen.file.read_text(encoding="utf-8").splitlines())
    ('selected.jsonl', 8)
    """
    settings = Settings(keep, format, target, drop_duplicates, similarity, encoder, seed, referee, license)
    return run_selection(plan_selection(source, out, settings, on_bad=on_bad), progress=progress)


def run_selection(plan: SelectionPlan, *, progress: bool = False) -> SelectedFile:
    """Do what a plan says."""
    return _Work(plan, progress).run()


class _Work:
    """One selection at work: training records first, then test records, then those of the target."""

    def __init__(self, plan: SelectionPlan, progress: bool) -> None:
        self.plan, self.settings, self.progress = plan, plan.settings, progress
        self.is_train = plan.is_train
        self.train = plan.records[self.is_train].reset_index(drop=True)
        self.test = plan.records[~self.is_train].reset_index(drop=True)
        self.notes: list[str] = []

    def run(self) -> SelectedFile:
        X = self._space()
        n, n_known = len(self.train), len(self.train) + len(self.test)
        self.tell("looking for duplicates")
        options: dict[str, Any] = {"similarity": self.settings.similarity}
        duplicates = find_duplicates(self.train, X[:n], progress=self.progress, **options)
        leakage = find_leakage(self.train, self.test, X[:n_known], **options) if len(self.test) else None
        exclude = duplicates.of >= 0 if self.settings.drop_duplicates else np.zeros(n, bool)
        wanted = number_to_keep(self.settings.keep, int((~exclude).sum()))
        near = self._near_target(X, exclude, wanted)
        if near is not None:
            exclude = exclude | ~near["taken"].to_numpy()
        where = self._places(X[:n], wanted, exclude)
        selection = self._choose(X[:n], wanted, where, exclude)
        self.tell("finding who stands for what is left out")
        stands, cosine = stand_ins(X[:n], where, np.sort(selection.indices))
        chosen = np.zeros(n, bool)
        chosen[selection.indices] = True
        counted = self._counts(duplicates, leakage, chosen, exclude, near)
        verdict = self._referee(X[:n], wanted, where, exclude, chosen)
        table = reasons_table(
            self.plan, self.train, selection, where, duplicates, (stands, cosine), near if near is not None else None
        )
        return self._write(chosen, table, counted | {"referee": verdict}, where)

    def tell(self, text: str) -> None:
        """Say what is being done."""
        if self.progress:
            print(text, file=sys.stderr, flush=True)

    def _space(self) -> np.ndarray:
        parts = [self.train, self.test, *([] if self.plan.target is None else [self.plan.target])]
        self.tell(
            f"fitting an encoder on {len(self.train):,} records" if self.settings.encoder == "fit" else "embedding"
        )
        texts = prompts(self.train) if self.settings.encoder == "fit" else None
        encoder = load_encoder(self.settings.encoder, texts=texts, dim=DIMENSIONS, seed=self.settings.seed)
        self.fingerprint = encoder_fingerprint(encoder)
        return embedded(encoder, *parts, progress=self.progress)

    def _near_target(self, X: np.ndarray, exclude: np.ndarray, wanted: int) -> pd.DataFrame | None:
        if self.plan.target is None:
            return None
        self.tell(f"choosing for {len(self.plan.target):,} records")
        rows = np.concatenate([np.arange(len(self.train)), np.arange(len(X) - len(self.plan.target), len(X))])
        X = X[rows] if len(self.test) else X
        return near_target(X, len(self.train), self.train["id"], ~exclude, FOR_FACTOR * wanted)

    def _places(self, X: np.ndarray, wanted: int, exclude: np.ndarray) -> Places:
        where = places(self.train, X, wanted, exclude, self.settings.seed)
        usual = assign_groups(self.train, where.clusters)
        if usual.name != where.groups.name:
            self.notes.append(
                f"There are {usual.nunique():,} {usual.name}s for {wanted:,} places, shared out over clusters instead."
            )
        return where

    def _choose(self, X: np.ndarray, wanted: int, where: Places, exclude: np.ndarray) -> Selection:
        self.tell(f"choosing {wanted:,} of {int((~exclude).sum()):,} records")
        for_target = self.plan.target is not None
        return choose(self.train, X, wanted, where, exclude, for_target=for_target, progress=self.progress)

    def _referee(
        self, X: np.ndarray, wanted: int, where: Places, exclude: np.ndarray, chosen: np.ndarray
    ) -> dict[str, Any]:
        """The verdict, or why there is none. Without test records the choice is made again with some held out."""
        from assl_kit.evaluation.judge import Judge
        from assl_kit.evaluation.referee import referee

        if not self.plan.asks_referee:
            more = f"it is asked by itself up to {REFEREE_MOST:,} training records"
            return {"skipped": more if self.settings.referee is None else "it was told not to be"}
        records, held_out = self.plan.records, 0
        ids = self.train["id"][chosen]
        try:
            if not len(self.test):
                records = ensure_splits(self.train, test_share=HELD_OUT, seed=self.settings.seed)
                held = (records["split"] == "test").to_numpy()
                held_out = int(held.sum())
                rest = exclude | held
                again = min(max(round(wanted * (1 - held_out / len(records))), 1), int((~rest).sum()))
                ids = self.train["id"].iloc[np.sort(self._choose(X, again, where, rest).indices)]
            judge = Judge(with_groups(records), by="group", seed=self.settings.seed)
            self.tell(f"asking the referee: {DRAWS} random draws, {len(judge.held):,} questions")
            verdict = referee(
                judge, {CHOSEN: ids.tolist()}, n_draws=DRAWS, seed=self.settings.seed, progress=self.progress
            )
        except (DataError, ParameterError) as error:  # unlabelled data, too few questions: the choice stands without
            return {"skipped": error.what}
        return verdict.as_dict() | {"held_out": held_out}

    def _counts(
        self,
        duplicates: Duplicates,
        leakage: Leakage | None,
        chosen: np.ndarray,
        exclude: np.ndarray,
        near: pd.DataFrame | None,
    ) -> dict[str, Any]:
        """The numbers of the card."""
        dropped = int((duplicates.of >= 0).sum()) if self.settings.drop_duplicates else 0
        numbers: dict[str, Any] = {
            "counts": {
                "records": len(self.plan.records),
                "train": len(self.train),
                "test": len(self.test),
                "bad": len(self.plan.left_out),
                "chosen": int(chosen.sum()),
            },
            "kept": {f"by_{name}": _before_after(self.train[name], chosen) for name in ("task", "source")},
            "duplicates": duplicate_counts(duplicates) | {"dropped": dropped},
            "leakage": None,
            "target": None,
        }
        if leakage is not None:
            asked = leakage.of[leakage.of >= 0]
            numbers["leakage"] = leakage_counts(leakage) | {"chosen": int(chosen[asked].sum())}
        if near is not None and self.plan.target is not None:
            numbers["target"] = {
                "name": Path(str(self.settings.target)).name,
                "records": len(self.plan.target),
                "candidates": int((~exclude).sum()),
                "similarity_of_all": round(float(near["target_similarity"].mean()), 4),
                "similarity_of_chosen": round(float(near["target_similarity"][chosen].mean()), 4),
            }
        return numbers

    def _write(
        self, chosen: np.ndarray, table: pd.DataFrame, counted: Mapping[str, Any], where: Places
    ) -> SelectedFile:
        plan = self.plan
        in_order = np.zeros(len(plan.records), bool)
        in_order[np.flatnonzero(self.is_train)[chosen]] = True
        with atomic_path(plan.out) as folder:
            folder.mkdir()
            written = write_chosen(folder, self.settings.format, plan.records, in_order, plan.raw)
            info = dataset_info(plan.dataset_name, written)
            if info is not None:
                write_json(folder / "dataset_info.json", info)
            else:
                self.notes.append(
                    "LLaMA-Factory does not read these fields; --format messages makes some that it does."
                )
            table.to_parquet(folder / "reasons.parquet", index=False)
            if plan.left_out:
                write_left_out(plan.left_out, folder / LEFT_OUT)
            names = sorted([*(file.name for file in folder.iterdir()), "README.md"])
            about = {
                "format": MARK,
                "assl_kit": __version__,
                "name": plan.dataset_name,
                "source": {"name": plan.name, "sha256": self._sha256()},
                "settings": self.settings.as_dict(),
                "method": {
                    "encoder_fingerprint": self.fingerprint[:16],
                    "clusters": int(where.clusters.max()) + 1,
                    "budgets": "as the candidates are" if plan.target is not None else "size to the power 1/4",
                },
                "groups": {"by": str(where.groups.name), "n": int(where.groups.nunique())},
                "written": {"file": written.name, "separator": written.separator},
                "notes": self.notes,
                **counted,
                "files": dict.fromkeys(names, ""),
            }
            language = language_of(plan.records["input"].str.cat(plan.records["output"], sep=" ").tolist())
            write_text(folder / "README.md", selection_card(about, language))
            about["files"] = {name: sha256_file(folder / name) for name in names}
            write_json(folder / ABOUT, about)
        self.tell(f"{int(chosen.sum()):,} records in {plan.out / written.name}")
        return SelectedFile(plan.out, about)

    def _sha256(self) -> str:
        if self.plan.path.exists():
            return sha256_file(self.plan.path)
        columns = [name for name in ("instruction", "input", "output") if name in self.plan.records]
        return sha256_of(self.plan.records[columns].to_numpy().tolist())


def _before_after(column: pd.Series, chosen: np.ndarray) -> list[dict[str, Any]]:
    """How many records of each value there were and are."""
    before = column.value_counts().sort_index().sort_values(ascending=False, kind="stable")
    after = column[chosen].value_counts()
    return [
        {str(column.name): str(value), "before": int(n), "after": int(after.get(value, 0))}
        for value, n in before.items()
    ]
