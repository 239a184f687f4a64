"""What is in a file of records and what is wrong with it: `check_file`; and what a run's report says of duplicates."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from assl_kit.artifacts.workspace import Workspace
from assl_kit.common.checks import real
from assl_kit.data.groups import UNKNOWN
from assl_kit.data.loading import load_records
from assl_kit.data.records import LeftOut, prompts
from assl_kit.selection.duplicates import NEAR, Duplicates, Leakage, find_duplicates, find_leakage
from assl_kit.space.embeddings import read_embeddings, rows_of
from assl_kit.space.encoder import load_encoder

from .choose import embedded
from .plan import DIMENSIONS
from .raw import raw_records

FEW = 10
"""Training records of a task, or of a test's task, below which it is named."""
LONG = 4_000
"""Characters of an answer above which it is named."""
_SHOWN = 5
_CONTROL = re.compile(r"<\|[A-Za-z_]{2,30}\|>|</?s>|\[/?INST\]")


@dataclass(frozen=True)
class FileCheck:
    """What was found in a corpus.

    Attributes
    ----------
    about : dict
        For JSON: ``records``, ``train``, ``dev``, ``test``, ``fields``, ``tasks`` (a row each: ``task``, ``train``,
        ``test``), ``sources``, ``bad`` (``place``, ``id``, ``reason`` of each record that cannot be read),
        ``duplicates``, ``leakage``, ``remarks`` (sentences, with places).
    """

    about: dict[str, Any]

    @property
    def is_good(self) -> bool:
        """Whether every record can be read."""
        return not self.about["bad"]

    @property
    def remarks(self) -> list[str]:
        """What a person should look at, in sentences."""
        return list(self.about["remarks"])


def check_file(
    source: str | os.PathLike, *, similarity: float | None = NEAR, encoder: str = "fit", seed: int = 0
) -> FileCheck:
    """Say what a corpus holds and what is wrong with it; nothing is trained, written or chosen.

    Parameters
    ----------
    source : str or path-like
        What `assl_kit.load_records` reads.
    similarity : float or None
        Least cosine of two near questions, in (0, 1]; None: near ones are not looked for, and nothing is embedded.
    encoder : str
        As `assl_kit.load_encoder`.
    seed : int
        Of the encoder.

    Returns
    -------
    FileCheck

    Raises
    ------
    DataError
        Nothing there, or no record in it can be read.
    ParameterError
        ``similarity`` is out of range.

    Examples
    --------
    >>> import json, tempfile
    >>> file = Path(tempfile.mkdtemp()) / "mine.jsonl"
    >>> rows = [{"instruction": "判断情绪。", "input": f"第{i % 9}条", "output": "中性"} for i in range(10)]
    >>> _ = file.write_text("\\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    >>> checked = check_file(file, similarity=None)
    >>> checked.is_good, checked.about["train"], checked.about["duplicates"]["exact"]
    (True, 10, 1)
    """
    if similarity is not None:
        real("similarity", similarity, 0, 1, inside="least")
    bad: list[LeftOut] = []
    share = 0.1 if source == "embedded" else 0.0
    records = load_records(source, seed=seed, test_share=share, on_bad="skip", left_out=bad)
    raw = raw_records(Path(source), len(records), bad)
    numbers = [f"record {number}" for number in range(1, len(records) + 1)]
    places = pd.Series(raw.places if raw is not None else numbers)
    is_test = (records["split"] == "test").to_numpy()
    parts = records[~is_test].reset_index(drop=True), records[is_test].reset_index(drop=True)
    X = None
    if similarity is not None and len(parts[0]) > 1:
        texts = prompts(parts[0]) if encoder == "fit" else None
        fitted = load_encoder(encoder, texts=texts, dim=DIMENSIONS, seed=seed)
        X = embedded(fitted, *parts)
    duplicates, leakage = _both(*parts, X, NEAR if similarity is None else similarity)
    train_places, test_places = (places[mask].to_numpy(dtype=object) for mask in (~is_test, is_test))
    remarks = [
        *_of_splits(records),
        *_of_duplicates(duplicates, leakage, train_places, test_places),
        *_of_texts(records, places),
    ]
    about = {
        "records": len(records),
        **{name: int((records["split"] == name).sum()) for name in ("train", "dev", "test")},
        "fields": list(records.columns),
        "tasks": _by(records, "task"),
        "sources": _by(records, "source"),
        "bad": [vars(left) for left in bad],
        "duplicates": duplicate_counts(duplicates),
        "leakage": None if leakage is None else leakage_counts(leakage),
        "remarks": remarks,
    }
    return FileCheck(about)


def duplicate_counts(duplicates: Duplicates) -> dict[str, Any]:
    """Numbers for JSON and for cards."""
    counts = {"exact": duplicates.n_exact, "near": duplicates.n_near, "conflicting": duplicates.n_conflicting}
    return counts | {"similarity": duplicates.threshold}


def leakage_counts(leakage: Leakage) -> dict[str, Any]:
    """Numbers for JSON and for cards."""
    counts = {"test": len(leakage.of), "exact": leakage.n_exact, "near": leakage.n_near}
    return counts | {"same_answer": int(leakage.same_answer.sum()), "similarity": leakage.threshold}


def duplicate_blocks(ws: Workspace, *, most: int = 50_000) -> Iterator[tuple[str, Any]]:
    """The report's section on duplicates and leakage; nothing while there are no records.

    Near ones are looked for where the run has embeddings and at most ``most`` records.
    """
    if not ws.has("records.parquet"):
        return
    records = ws.table("records.parquet")
    is_test = records["split"] == "test"
    parts = records[~is_test].reset_index(drop=True), records[is_test].reset_index(drop=True)
    X = None
    if ws.has("embeddings.safetensors") and len(records) <= most:
        ids = pd.concat([part["id"] for part in parts])
        X = rows_of(read_embeddings(ws.path_of("embeddings.safetensors")), ids)
    duplicates, leakage = _both(*parts, X, NEAR)
    yield "heading", "Duplicates, and leakage between train and test"
    rows = [
        ("training records that repeat an earlier one, question and answer", duplicates.n_exact, len(parts[0])),
        ("training records that ask what another asks, with another answer", duplicates.n_conflicting, len(parts[0])),
    ]
    if leakage is not None:
        rows.append(("test questions that stand among the training records", leakage.n_exact, len(parts[1])))
    if X is not None:
        rows.insert(
            1, (f"training records near an earlier one (cosine {NEAR}), same answer", duplicates.n_near, len(parts[0]))
        )
        if leakage is not None:
            rows.append((f"more test questions near one of these (cosine {NEAR})", leakage.n_near, len(parts[1])))
    yield "table", pd.DataFrame(rows, columns=["", "records", "of"])


def _both(
    train: pd.DataFrame, test: pd.DataFrame, X: np.ndarray | None, similarity: float
) -> tuple[Duplicates, Leakage | None]:
    inside = None if X is None else X[: len(train)]
    between = find_leakage(train, test, X, similarity=similarity) if len(test) else None
    return find_duplicates(train, inside, similarity=similarity), between


def _by(records: pd.DataFrame, column: str) -> list[dict[str, Any]]:
    counts = pd.crosstab(records[column], records["split"] == "test").reindex(columns=[False, True], fill_value=0)
    rows = sorted(
        ((str(name), int(row[False]), int(row[True])) for name, row in counts.iterrows()), key=lambda r: (-r[1], r[0])
    )
    return [{column: name, "train": train, "test": test} for name, train, test in rows]


def _of_splits(records: pd.DataFrame) -> Iterator[str]:
    tasks = _by(records, "task")
    if not (records["split"] == "test").any():
        yield "There are no test records; a run holds a tenth out by itself."
    if [row["task"] for row in tasks] == [UNKNOWN]:
        yield "No record names its task: budgets go over sources, instructions or clusters, and scores are of all."
    few = [f"{row['task']} ({row['train']})" for row in tasks if row["train"] < FEW]
    if few:
        yield f"Tasks with fewer than {FEW} training records: {_some(few)}."


def _of_duplicates(
    duplicates: Duplicates, leakage: Leakage | None, train_places: np.ndarray, test_places: np.ndarray
) -> Iterator[str]:
    rows = np.flatnonzero(duplicates.exact)
    if len(rows):
        yield f"{len(rows):,} records repeat an earlier one: {_some(train_places[rows])}."
    rows = np.flatnonzero(duplicates.conflicting)
    if len(rows):
        yield f"{len(rows):,} records ask what another asks, with another answer: {_some(train_places[rows])}."
    if leakage is not None and leakage.n_exact + leakage.n_near:
        rows = np.flatnonzero(leakage.of >= 0)
        pairs = [f"{test_places[row]} and {train_places[leakage.of[row]]}" for row in rows[:_SHOWN]]
        yield f"{len(rows):,} test questions are those of training records, or near: {_some(pairs, len(rows))}."


def _of_texts(records: pd.DataFrame, places: pd.Series) -> Iterator[str]:
    lengths = records["output"].str.len()
    long = np.flatnonzero(lengths > LONG)
    if len(long):
        yield (
            f"{len(long):,} answers have more than {LONG:,} characters, the longest {int(lengths.max()):,}; small "
            f"models cannot learn them: {_some(places.to_numpy(dtype=object)[long])}."
        )
    marked = records["instruction"].str.contains(_CONTROL) | records["input"].str.contains(_CONTROL)
    marked |= records["output"].str.contains(_CONTROL)
    if marked.any():
        where = _some(places[marked].to_numpy(dtype=object))
        yield f"{int(marked.sum()):,} records hold marks of chat templates: {where}."


def _some(names: Any, total: int | None = None) -> str:
    total = len(names) if total is None else total
    more = f" and {total - _SHOWN:,} more" if total > _SHOWN else ""
    return ", ".join(map(str, names[:_SHOWN])) + more
