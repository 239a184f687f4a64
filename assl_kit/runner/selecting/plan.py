"""What a selection will work on: the source read and checked, the folder it goes to, how much it will take."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from assl_kit.common.files import read_json
from assl_kit.data.groups import assign_groups
from assl_kit.data.loading import load_records
from assl_kit.data.readers import stem_and_ending
from assl_kit.data.records import LeftOut
from assl_kit.errors import DataError, ParameterError

from .raw import Raw, raw_records
from .settings import Settings, number_to_keep

ABOUT = "selection.json"
MARK = "assl-kit selection"
"""What tells a folder of a selection from any other."""
DIMENSIONS = 256
"""Of the fitted encoder, as a run has by default."""
REFEREE_MOST = 50_000
"""Training records up to which the referee is asked unless told otherwise: it takes minutes beyond."""
_NEVER_TEST = 0.0


@dataclass(frozen=True)
class SelectionPlan:
    """A source that has been read, and what is to be done with it.

    Attributes
    ----------
    source : str
    out : pathlib.Path
    settings : Settings
    records : DataFrame of n rows
        All records, in their order.
    raw : Raw or None
        The same as they came in.
    left_out : list of LeftOut
    target : DataFrame or None
        The records to choose for.
    """

    source: str
    out: Path
    settings: Settings
    records: pd.DataFrame
    raw: Raw | None
    left_out: list[LeftOut]
    target: pd.DataFrame | None

    @property
    def path(self) -> Path:
        """The source as a path; not there for a dataset of the hub."""
        return Path(self.source)

    @property
    def is_train(self) -> np.ndarray:
        """Which records may be learnt from: shape (n,), bool."""
        return (self.records["split"] != "test").to_numpy()

    @property
    def name(self) -> str:
        """What the source is called, without the folders it lies in."""
        return self.path.resolve().name if self.path.exists() else self.source

    @property
    def dataset_name(self) -> str:
        """What the selection is called in a list of datasets."""
        stem = stem_and_ending(self.name)[0]
        return re.sub(r"\W+", "_", stem).strip("_").lower() + "_selected"

    @property
    def asks_referee(self) -> bool:
        """Whether the referee will be asked."""
        asked = self.settings.referee
        return bool(self.is_train.sum() <= REFEREE_MOST) if asked is None else asked

    def about(self) -> dict[str, Any]:
        """What would be done, for a person or for JSON."""
        train = int(self.is_train.sum())
        groups = assign_groups(self.records[self.is_train])
        return {
            "source": self.source,
            "records": len(self.records),
            "train": train,
            "test": len(self.records) - train,
            "bad": len(self.left_out),
            "keep": number_to_keep(self.settings.keep, train),
            "of": "what is left without duplicates" if self.settings.drop_duplicates else "training records",
            "groups": groups.name if groups.name != "all" else "cluster",
            "n_groups": groups.nunique() if groups.name != "all" else None,
            "for": None if self.target is None else len(self.target),
            "referee": self.asks_referee,
            "out": str(self.out),
            "minutes": minutes(len(self.records), train, referee=self.asks_referee),
        }


def plan_selection(
    source: str | os.PathLike, out: str | os.PathLike, settings: Settings, *, on_bad: str = "refuse"
) -> SelectionPlan:
    """Read the source and check all that can be wrong, before the long work; nothing is written.

    Raises
    ------
    ParameterError
        The folder holds other things or cannot be made; more is to be kept than there is.
    DataError
        As `assl_kit.load_records`, of the source or the target; there is no training record.
    """
    source, out = os.fspath(source), Path(out).expanduser()
    check_out(out, source, settings.target)
    left_out: list[LeftOut] = []
    share = 0.1 if source == "embedded" else _NEVER_TEST
    records = load_records(source, seed=settings.seed, test_share=share, on_bad=on_bad, left_out=left_out)
    raw = raw_records(Path(source), len(records), left_out)
    target = None
    if settings.target is not None:
        target = load_records(settings.target, test_share=_NEVER_TEST, on_bad=on_bad)
    plan = SelectionPlan(source, out, settings, records, raw, left_out, target)
    n_train = int(plan.is_train.sum())
    if n_train < 2:
        what = f"{n_train} of {len(records):,} records may be learnt from, the others are test records"
        raise DataError(what, where=source, hint="Give at least two records of the split train or dev.")
    number_to_keep(settings.keep, n_train)
    return plan


def minutes(n: int, n_train: int, *, referee: bool) -> float:
    """About how long it takes on two cores with the fitted encoder; measured at 3,000 to 220,000 records (ours)."""
    seconds = 8 + 2.2e-4 * n + 9e-5 * n_train * max(n_train / 1e5, 1) ** 0.5 * 3
    return round((seconds + (20 + 8e-4 * n_train if referee else 0)) / 60, 1)


def check_out(out: Path, source: str, target: str | os.PathLike | None) -> None:
    """Refuse, with a ``ParameterError``, a folder that is no selection's, or that holds what is to be read."""
    for read in (source, *([] if target is None else [target])):
        if Path(read).exists() and Path(read).resolve().is_relative_to(out.resolve()):
            hint = "Give another folder: this one is replaced."
            raise ParameterError(f"{Path(read).name} lies in the folder to write to", where=str(out), hint=hint)
    if out.is_symlink() or (out.exists() and not out.is_dir()):
        raise ParameterError("there is a file of this name", where=str(out), hint="Give a folder, new or empty.")
    if out.is_dir():
        others = sorted(file.name for file in out.iterdir() if file.name not in listed_files(out))
        if others:
            what = f"the folder holds other things: {', '.join(others[:3])}{' …' if len(others) > 3 else ''}"
            raise ParameterError(what, where=str(out), hint="Give a new or empty folder, or that of a selection.")
    parent = next(folder for folder in out.absolute().parents if folder.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        raise ParameterError("the folder cannot be made", where=str(out), hint=f"{parent} is not yours to write in.")


def listed_files(folder: Path) -> tuple[str, ...]:
    """The files of a selection's folder, as it lists them; none for any other folder."""
    if not (folder / ABOUT).is_file():
        return ()
    try:
        about = read_json(folder / ABOUT)
    except ValueError:
        return ()
    files = about.get("files") if isinstance(about, Mapping) and about.get("format") == MARK else None
    return (ABOUT, *map(str, files)) if isinstance(files, Mapping) else ()
