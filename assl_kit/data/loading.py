"""A corpus from wherever it is: a file, a folder, the hub, or the one the package writes itself."""

from __future__ import annotations

import os
from pathlib import Path

import pandas as pd

from assl_kit.common.checks import whole
from assl_kit.errors import DataError, ParameterError

from .cfleb import is_cfleb, iter_cfleb
from .fineval import is_fineval, iter_fineval
from .readers import iter_hub, iter_json_list, iter_jsonl, iter_parquet
from .records import validate_records, validated
from .splits import draw_records, ensure_splits

FORMATS = ("auto", "embedded", "jsonl", "alpaca", "parquet", "cfleb", "fineval", "hub")
_READERS = {
    "jsonl": iter_jsonl,
    "alpaca": iter_json_list,
    "parquet": iter_parquet,
    "cfleb": iter_cfleb,
    "fineval": iter_fineval,
}
_FILE_ENDINGS = (".jsonl", ".jsonl.gz", ".json", ".json.gz", ".parquet")


def _guess_format(source: str, path: Path) -> str:
    name = path.name.lower()
    if source == "embedded":
        return "embedded"
    if path.is_dir():
        return "cfleb" if is_cfleb(path) else "fineval" if is_fineval(path) else "hub"
    if name.endswith((".jsonl", ".jsonl.gz", ".ndjson")):
        return "jsonl"
    if name.endswith((".json", ".json.gz")):
        return "alpaca"
    if name.endswith(".parquet"):
        return "parquet"
    if path.exists():
        endings = ", ".join(_FILE_ENDINGS)
        raise DataError("the kind of file is not known", where=source, hint=f"Its name must end in one of {endings}.")
    return "hub"


def load_records(
    source: str | os.PathLike,
    *,
    format: str = "auto",
    n_records: int | None = None,
    seed: int = 0,
    config: str | None = None,
    test_share: float = 0.1,
) -> pd.DataFrame:
    """Load a corpus of instruction records from wherever it is.

    Parameters
    ----------
    source : str or path-like
        "embedded" (the corpus the package writes itself); a file (.jsonl, .jsonl.gz, .json as a list of records, as
        Alpaca has it, .parquet); a folder in the layout of CFLEB or FinEval (see `assl_kit.data.readers`) or with a
        dataset in it; or the id of a dataset on the Hugging Face hub. Dataset code is never run.
    format : str
        One of ``FORMATS``; "auto" takes it from the name.
    n_records : int, optional
        How many records to make ("embedded", default 6,000), or to keep: a seeded draw whose tasks and splits have
        the shares of the whole. None keeps all.
    seed : int
        Fixes the embedded corpus, the draw, and the split where the source has none.
    config : str, optional
        The configuration of a hub dataset.
    test_share : float
        Share of the test records in the embedded corpus, and in a source without splits (see `ensure_splits`).

    Returns
    -------
    DataFrame
        As `validate_records` gives it. Records that come without splits are split by `ensure_splits`.

    Raises
    ------
    DataError
        Nothing there, or not readable, or a record breaks the schema; names the file and the line.
    ParameterError
        An unknown ``format``, or an ``n_records`` that is not a positive whole number.

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
    if n_records is not None:
        n_records = whole("n_records", n_records, 1)
    kind = _guess_format(source, path) if format == "auto" else format
    if kind == "embedded":
        from .synthetic import make_corpus

        made = make_corpus(6000 if n_records is None else n_records, seed=seed, test_share=test_share)
        return validate_records(made, where="embedded")
    looks_local = source.lower().endswith(_FILE_ENDINGS) or source.startswith((".", "/", "~")) or source.count("/") > 1
    if not path.exists() and (kind != "hub" or looks_local):
        raise DataError("there is no such file or folder", where=source, hint="Check the path.")
    if kind in ("cfleb", "fineval") and not (is_cfleb(path) if kind == "cfleb" else is_fineval(path)):
        raise DataError(f"the folder does not have the layout of {kind}", where=source)
    pairs = iter_hub(source, config) if kind == "hub" else _READERS[kind](path)
    is_hub_id = kind == "hub" and not path.is_dir()
    name = source if is_hub_id else path.name if path.is_dir() else path.name.split(".")[0]
    records, has_split = validated(pairs, source, name)
    if not has_split:
        records = ensure_splits(records, test_share=test_share, seed=seed)
    return records if n_records is None else draw_records(records, n_records, seed)
