"""A corpus from wherever it is: a file, a folder, the hub, or the one the package writes itself."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from assl_kit.common.checks import whole
from assl_kit.errors import DataError, ParameterError

from .folders import Part, dataset_parts, folder_parts, is_saved_dataset, read_parts, tell_of
from .published.cfleb import is_cfleb, iter_cfleb
from .published.fineval import fineval_parts, is_fineval
from .published.repositories import data_folder
from .readers import ENDINGS, PACKED, READERS, kind_of, stem_and_ending
from .records import LeftOut, TooLong, validate_records
from .splits import draw_records, ensure_splits

FORMATS = ("auto", "embedded", *READERS, "folder", "cfleb", "fineval", "hub")
ON_BAD = ("refuse", "skip")
_FILE_ENDINGS = tuple(ending + packed for ending in ENDINGS for packed in ("", *PACKED))


def _guess_format(source: str, path: Path, config: str | None) -> str:
    if source == "embedded":
        return "embedded"
    if path.is_dir():
        if is_cfleb(path):
            return "cfleb"
        if is_fineval(path):
            return "fineval"
        return "hub" if config is not None or is_saved_dataset(path) else "folder"
    if not path.exists():
        return "hub"
    kind = kind_of(path)
    if kind is None:
        hint = f"Its name must end in one of {', '.join(ENDINGS)}, also packed ({', '.join(PACKED)})."
        raise DataError("the kind of file is not known", where=source, hint=hint)
    return kind


def load_records(
    source: str | os.PathLike,
    *,
    format: str = "auto",
    n_records: int | None = None,
    seed: int = 0,
    config: str | None = None,
    test_share: float = 0.1,
    on_bad: str = "refuse",
    left_out: list[LeftOut] | None = None,
    too_long: TooLong | None = None,
) -> pd.DataFrame:
    """Load a corpus of instruction records from wherever it is.

    Parameters
    ----------
    source : str or path-like
        "embedded" (the corpus the package writes itself); a file: JSON lines, a JSON list, CSV, TSV or Parquet, the
        texts also packed (gzip, Zstandard), told by their first bytes; a folder of such files, or in the layout of
        CFLEB or FinEval, or saved by the library datasets; or the id of a dataset on the Hugging Face hub. Dataset
        code is never run.
    format : str
        One of ``FORMATS``; "auto" looks at it.
    n_records : int, optional
        How many records to make ("embedded", default 6,000), or to keep: a seeded draw whose tasks and splits have
        the shares of the whole. None keeps all.
    seed : int
        Fixes the embedded corpus, the draw, and the split where the source has none.
    config : str, optional
        The configuration of a hub dataset.
    test_share : float
        Share of the test records in the embedded corpus, and in a source without splits (see `ensure_splits`; 0: such a
        source stays without).
    on_bad : str
        What becomes of a record that is wrong: "refuse" refuses all of them with an error, "skip" leaves it out.
    left_out : list of LeftOut, optional
        Takes what was left out: places, ids, reasons. Without it, a warning names the first ones. Also with "refuse",
        damaged rows of CFLEB and files of a folder that hold no records are left out.
    too_long : callable, optional
        Says of an answer why it cannot be learnt, or None; such a record counts as wrong.

    Returns
    -------
    DataFrame
        As `validate_records` gives it, whatever form the records have (`assl_kit.data.schemas` names them). Records
        that come without splits are split by `ensure_splits`.

    Raises
    ------
    DataError
        Nothing there, or not readable, or a record breaks the schema; names the file and the line.
    ParameterError
        An unknown ``format`` or ``on_bad``, or an ``n_records`` that is not a positive whole number.

    Examples
    --------
    >>> import json, tempfile
    >>> from pathlib import Path
    >>> file = Path(tempfile.mkdtemp()) / "mine.jsonl"
    >>> rows = [{"instruction": "判断情绪。", "input": f"第{i}条", "output": "中性"} for i in range(20)]
    >>> _ = file.write_text("\\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    >>> frame = load_records(file)
    >>> frame["source"].unique().tolist(), frame["split"].value_counts().to_dict()
    (['mine'], {'train': 18, 'test': 2})
    """
    source, path = os.fspath(source), Path(source)
    if format not in FORMATS:
        raise ParameterError(f"unknown format {format!r}", where="format", hint=f"Use one of {', '.join(FORMATS)}.")
    if on_bad not in ON_BAD:
        raise ParameterError(f"unknown value {on_bad!r}", where="on_bad", hint=f"Use one of {', '.join(ON_BAD)}.")
    if n_records is not None:
        n_records = whole("n_records", n_records, 1)
    if path.is_dir() and format == "auto":
        path = data_folder(path)
    kind = _guess_format(source, path, config) if format == "auto" else format
    if kind == "embedded":
        from .synthetic import make_corpus

        made = make_corpus(6000 if n_records is None else n_records, seed=seed, test_share=test_share)
        return validate_records(made, where="embedded")
    looks_local = source.lower().endswith(_FILE_ENDINGS) or source.startswith((".", "/", "~")) or source.count("/") > 1
    if not path.exists() and (kind != "hub" or looks_local):
        raise DataError("there is no such file or folder", where=source, hint="Check the path.")
    left: list[LeftOut] = [] if left_out is None else left_out
    parts = _parts(source, path, kind, config, left, skip=on_bad == "skip")
    records, has_split = read_parts(parts, source, left, skip=on_bad == "skip", too_long=too_long)
    if left_out is None:
        tell_of(left, source)
    if kind == "fineval" and (records["split"] == "test").all():  # parts of it that have no worked examples
        records["split"] = pd.Series("train", index=records.index, dtype=records["split"].dtype)
        has_split = False
    if not has_split and test_share:
        records = ensure_splits(records, test_share=test_share, seed=seed)
    return records if n_records is None else draw_records(records, n_records, seed)


def _parts(
    source: str, path: Path, kind: str, config: str | None, left_out: list[LeftOut], *, skip: bool
) -> Iterable[Part]:
    """Where records are read from: the files of a folder, the parts of a dataset, or one file alone."""
    if kind == "hub":
        return dataset_parts(str(path) if path.is_dir() else source, config, left_out)
    if path.is_dir() == (kind in READERS):
        raise DataError("this is a folder" if path.is_dir() else "this is no folder", where=f"{source}, as {kind}")
    if kind == "folder":
        return folder_parts(path, left_out, skip=skip)
    if kind in ("cfleb", "fineval") and not (is_cfleb(path) if kind == "cfleb" else is_fineval(path)):
        raise DataError(f"the folder does not have the layout of {kind}", where=source)
    if kind == "cfleb":
        return [Part(source, path.name, None, iter_cfleb(path, left_out=left_out, skip=skip))]
    if kind == "fineval":
        return fineval_parts(path, left_out, skip=skip)
    return [Part(source, stem_and_ending(path.name)[0], None, READERS[kind](path, skip=skip))]
