"""What a selection from a file is asked for, checked before anything is read."""

from __future__ import annotations

import os
import re
from dataclasses import asdict, dataclass
from numbers import Integral, Real
from pathlib import Path
from typing import Any

from assl_kit.common.checks import real, whole
from assl_kit.errors import ParameterError
from assl_kit.selection.duplicates import NEAR

FORMATS = ("same", "jsonl", "alpaca", "messages", "sharegpt", "parquet")
_SHARE = re.compile(r"(\d+(?:\.\d*)?|\.\d+)\s*%")
_LICENSE = re.compile(r"[a-z0-9][a-z0-9.-]{0,62}")


@dataclass(frozen=True)
class Settings:
    """All that decides what comes out, besides the source; see `select_file`."""

    keep: str | int | float = "10%"
    format: str = "same"
    target: str | os.PathLike | None = None
    drop_duplicates: bool = False
    similarity: float = NEAR
    encoder: str = "fit"
    seed: int = 0
    referee: bool | None = None
    license: str = "unknown"

    def __post_init__(self) -> None:
        parsed_keep(self.keep)
        if self.format not in FORMATS:
            raise ParameterError(
                f"unknown format {self.format!r}", where="format", hint=f"Use one of {', '.join(FORMATS)}."
            )
        real("similarity", self.similarity, 0, 1, inside="least")
        whole("seed", self.seed, 0)
        if not _LICENSE.fullmatch(self.license):
            what = f"{self.license!r} is no name of a licence"
            raise ParameterError(
                what, where="license", hint="Use the hub's short names, such as apache-2.0, or unknown."
            )

    def as_dict(self) -> dict[str, Any]:
        """For JSON and the card; of files only the names."""
        target = None if self.target is None else Path(self.target).name
        return asdict(self) | {"target": target, "encoder": _named(self.encoder)}


def _named(encoder: str) -> str:
    return Path(encoder).name if Path(encoder).is_dir() else encoder


def parsed_keep(keep: str | int | float) -> float | int:
    """How many are to be kept: a number of records, or a share in (0, 1].

    Examples
    --------
    >>> parsed_keep("10%"), parsed_keep("5000"), parsed_keep(0.25)
    (0.1, 5000, 0.25)
    >>> parsed_keep("150%")
    Traceback (most recent call last):
    ...
    assl_kit.errors.ParameterError: '150%' is no share of the records (keep). Give a share up to 100%, or a number of \
records: 10%, 5000.
    """
    hint = "Give a share up to 100%, or a number of records: 10%, 5000."
    what = f"{keep!r} is no share of the records"
    if isinstance(keep, str):
        text = keep.strip().replace(",", "").replace("_", "")
        if match := _SHARE.fullmatch(text):
            share = float(match[1]) / 100
            if not 0 < share <= 1:
                raise ParameterError(what, where="keep", hint=hint)
            return share
        if not text.isascii() or not text.isdigit():
            raise ParameterError(f"{keep!r} is neither a share nor a number of records", where="keep", hint=hint)
        keep = int(text)
    if isinstance(keep, Integral) and not isinstance(keep, bool):
        if keep < 1:
            raise ParameterError(f"{int(keep)} records are nothing to keep", where="keep", hint=hint)
        return int(keep)
    if isinstance(keep, bool) or not isinstance(keep, Real) or not 0 < keep <= 1:
        raise ParameterError(what, where="keep", hint=hint)
    return float(keep)


def number_to_keep(keep: str | int | float, n: int) -> int:
    """How many of ``n`` records that may be chosen are kept.

    Raises
    ------
    ParameterError
        If that is none, or more than there are.

    Examples
    --------
    >>> number_to_keep("10%", 198), number_to_keep(50, 198)
    (20, 50)
    """
    wanted = parsed_keep(keep)
    count = round(wanted * n) if isinstance(wanted, float) else wanted
    if count > n:
        what = f"{count:,} records are to be kept, but {n:,} can be chosen"
        raise ParameterError(what, where="keep", hint="Test records, and duplicates that are dropped, do not count.")
    if count == 0:
        raise ParameterError(f"{keep} of {n:,} records are none", where="keep", hint="Give a larger share.")
    return count
