"""Folders of several files, and other sources in parts: read part by part, each checked by itself, and put together."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from assl_kit.common.columns import tidy
from assl_kit.common.limits import first_bytes
from assl_kit.common.trust import check_dataset_folder
from assl_kit.errors import DataError

from .conversations import OPTIONAL
from .published.repositories import answered, is_cfbenchmark
from .readers import READERS, hub_parts, iter_part, kind_of, stem_and_ending
from .records import COLUMNS, SPLIT_NAMES, LeftOut, TooLong, validated
from .schemas import NothingToRead

_SHARD = re.compile(r"-\d{5}-of-\d{5}(-[0-9a-f]+)?$")
_CARD = re.compile(r"---\r?\n(.*\n)*?(configs|dataset_info):")
_PAGES = (".md", ".rst", ".html", ".pdf")
_NOT_DATA = ("license", "licence", "notice", "citation.cff", "requirements.txt")
_NAMED = 10


@dataclass(frozen=True)
class Part:
    """Records of one file, or of one part of a dataset.

    Attributes
    ----------
    where : str
        What messages call it.
    source : str
        The source of records that name none.
    split : str or None
        The split that its name tells of.
    pairs : iterable of (str, object)
        Places and records.
    """

    where: str
    source: str
    split: str | None
    pairs: Iterable[tuple[str, Any]]


def split_of(name: str) -> str | None:
    """The split that a word of a name tells of, or None.

    Examples
    --------
    >>> split_of("train-00000-of-00002"), split_of("law_val"), split_of("contest")
    ('train', 'dev', None)
    """
    words = re.split(r"[^a-z]+", name.lower())
    return next((SPLIT_NAMES[word] for word in words if word in SPLIT_NAMES), None)


def is_saved_dataset(folder: Path) -> bool:
    """Whether the library datasets is needed: it saved the folder, or the folder's card says what is in it."""
    if any((folder / name).is_file() for name in ("dataset_dict.json", "state.json")):
        return True
    card = folder / "README.md"
    if card.is_file() and _CARD.match(first_bytes(card, 1 << 16).decode("utf-8", "replace")):
        return True
    files = [file for file in folder.rglob("*") if file.is_file()]
    known = any(stem_and_ending(file.name)[1] for file in files)
    return not known and any(file.suffix.lower() == ".arrow" for file in files)


def folder_parts(folder: Path, left_out: list[LeftOut], *, skip: bool) -> Iterator[Part]:
    """The files of a folder and of those below it, by name; what is of no known kind is put down in ``left_out``."""
    check_dataset_folder(folder)
    for file in sorted(file for file in folder.rglob("*") if file.is_file()):
        within = file.relative_to(folder)
        if any(part.startswith(".") for part in within.parts) or _is_page(file):
            continue
        kind = kind_of(file)
        if kind is None:
            left_out.append(LeftOut(str(file), None, "the kind of file is not known"))
            continue
        names = [*within.parts[:-1], _SHARD.sub("", stem_and_ending(file.name)[0])]
        split = next((split for name in reversed(names) if (split := split_of(name))), None)
        yield Part(str(file), _source(folder, names), split, READERS[kind](file, skip=skip))


def _is_page(file: Path) -> bool:
    return file.suffix.lower() in _PAGES or file.stem.lower() in _NOT_DATA or file.name.lower() in _NOT_DATA


def _source(folder: Path, names: Sequence[str]) -> str:
    """What a file's place in the folder says of its records, but for their split."""
    telling = [name for name in names if name.lower() not in (*SPLIT_NAMES, "data")]
    telling = [name for place, name in enumerate(telling) if place == 0 or name != telling[place - 1]]
    return "/".join(telling) or folder.resolve().name


def dataset_parts(name: str, config: str | None, left_out: list[LeftOut]) -> Iterator[Part]:
    """The parts of a dataset of the library datasets; those whose names tell of no split are sources."""
    parts = hub_parts(name, config)
    benchmark = is_cfbenchmark(parts)
    whole = Path(name).resolve().name if Path(name).is_dir() else name
    for part_name, part in parts.items():
        split = split_of(part_name)
        source = whole if split or len(parts) == 1 else part_name
        pairs = iter_part(part, name, part_name)
        yield Part(f"{name}, {part_name}", source, split, answered(pairs, left_out) if benchmark else pairs)


def read_parts(
    parts: Iterable[Part], where: str, left_out: list[LeftOut], *, skip: bool, too_long: TooLong | None
) -> tuple[pd.DataFrame, bool]:
    """Validate each part and put them together; also whether the records came with splits.

    A part without a field gets what `validate_records` fills in, whatever the others have. A part that holds no
    records of a known form is put down in ``left_out``, and so is, with ``skip``, one that cannot be read. An id that
    an earlier part has is preceded by the source.

    Raises
    ------
    DataError
        As `validate_records`; no part has records.
    """
    frames: list[pd.DataFrame] = []
    splits: list[str | None] = []
    have_splits: list[bool] = []
    first: DataError | None = None
    for part in parts:
        try:
            frame, has_split = validated(
                part.pairs, part.where, part.source, skip=skip, left_out=left_out, too_long=too_long
            )
        except DataError as error:
            if not (skip or isinstance(error, NothingToRead)):
                raise
            first = first or error
            left_out.append(LeftOut(part.where, None, error.what))
            continue
        frames.append(frame)
        splits.append(part.split)
        have_splits.append(has_split)
    if not frames:
        why = f": {left_out[0].place}: {left_out[0].reason}" if left_out else ""
        raise first or NothingToRead(f"there is no file of records{why}", where=where, hint="Give at least one record.")
    tells = any(have_splits) or len({split or "train" for split in splits}) > 1  # one part alone says nothing
    for frame, split, has_split in zip(frames, splits, have_splits, strict=True):
        if tells and not has_split:
            frame["split"] = pd.Series(split or "train", index=frame.index, dtype=frame["split"].dtype)
    return (frames[0] if len(frames) == 1 else _together(frames)), tells


def _together(frames: list[pd.DataFrame]) -> pd.DataFrame:
    seen: set[str] = set()
    for frame in frames:
        ids = frame["id"].tolist()
        for row, source in enumerate(frame["source"]):
            while ids[row] in seen:
                ids[row] = f"{source}/{ids[row]}"
        frame["id"] = pd.Series(ids, index=frame.index, dtype=frame["id"].dtype)
        seen.update(ids)
    records = pd.concat(frames, ignore_index=True)
    for name in records.columns:
        if name in OPTIONAL:
            records[name] = records[name].fillna("")
        elif name not in COLUMNS and records[name].dtype == object:
            records[name] = tidy(records[name].tolist())
    order = [*COLUMNS, *(name for name in OPTIONAL if name in records)]
    return records[[*order, *(name for name in records.columns if name not in order)]]


def tell_of(left_out: Sequence[LeftOut], where: str) -> None:
    """Warn of what was left out: how much, and the first of it."""
    if not left_out:
        return
    named = "; ".join(f"{one.place}: {one.reason}" for one in left_out[:_NAMED])
    more = f"; and {len(left_out) - _NAMED:,} more" if len(left_out) > _NAMED else ""
    warnings.warn(f"{len(left_out):,} left out of {where}: {named}{more}", UserWarning, stacklevel=3)
