"""FinEval as it is published: its folders of CSV files, our instruction."""

from __future__ import annotations

import csv
import warnings
from collections.abc import Iterator
from pathlib import Path

from assl_kit.common.trust import inside
from assl_kit.errors import DataError

from .cfleb import INSTRUCTIONS
from .readers import Pair


def _fineval_root(folder: Path) -> Path | None:
    for base in (folder, folder / "data"):
        if any((base / part).is_dir() and any((base / part).glob(f"*_{part}.csv")) for part in ("dev", "val", "test")):
            return base
    return None


def is_fineval(folder: Path) -> bool:
    """Whether ``folder`` holds ``dev/<subject>_dev.csv``, ``val/<subject>_val.csv`` or the like."""
    return _fineval_root(Path(folder)) is not None


def iter_fineval(folder: str | Path) -> Iterator[Pair]:
    """Yield the questions of a FinEval folder as ``(place, record)``.

    The layout is ``{dev,val,test}/<subject>_{dev,val,test}.csv`` with the columns ``id, question, A, B, C, D, answer,
    explanation``. ``dev`` (five worked examples a subject) becomes dev. ``val`` becomes test, because the benchmark
    keeps the answers of its own ``test`` to itself; where test files do hold answers they are test too. Rows without
    an answer are counted in a warning and left out. The subject is kept in an extra column.

    Raises
    ------
    DataError
        A file lacks a column, or an answer names no option; names the file and the line.

    References
    ----------
    Zhang et al. 2023, "FinEval" (arXiv 2308.09975) and its repository. The instruction is ours.
    """
    base = _fineval_root(Path(folder))
    skipped = 0
    for part, split in (("dev", "dev"), ("val", "test"), ("test", "test")):
        for path in sorted((base / part).glob(f"*_{part}.csv")) if base and (base / part).is_dir() else []:
            subject = path.stem[: -len(part) - 1]
            try:
                with open(inside(folder, path), encoding="utf-8-sig", newline="") as handle:
                    reader = csv.DictReader(handle)
                    lacking = [c for c in ("question", "A", "B", "C", "D") if c not in (reader.fieldnames or [])]
                    if lacking:
                        raise DataError(f"the columns {lacking} are missing", where=f"{path}:1")
                    for row in reader:
                        place = f"{path}:{reader.line_num}"
                        answer = (row.get("answer") or "").strip().upper()
                        if not answer:
                            skipped += 1
                            continue
                        if set(answer) - set("ABCD"):
                            raise DataError(f"the answer {answer!r} names no option A to D", where=place)
                        options = "\n".join(f"{letter}. {(row[letter] or '').strip()}" for letter in "ABCD")
                        yield (
                            place,
                            {
                                "instruction": INSTRUCTIONS["fineval"],
                                "input": f"{(row['question'] or '').strip()}\n{options}",
                                "output": answer,
                                "task": "multiple_choice",
                                "source": "fineval",
                                "split": split,
                                "subject": subject,
                            },
                        )
            except UnicodeDecodeError as error:
                raise DataError("the file is not UTF-8 text", where=str(path)) from error
            except csv.Error as error:  # a cell beyond the csv module's own bound
                raise DataError(f"the table cannot be read: {error}", where=str(path)) from error
    if skipped:
        warnings.warn(f"{skipped} FinEval questions without an answer were left out", UserWarning, stacklevel=2)
