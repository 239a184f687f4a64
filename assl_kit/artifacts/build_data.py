"""Builder of the records (notebook 01), and what a run makes of them: the test part, the number to choose."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pandas as pd

from assl_kit.common.files import write_text
from assl_kit.data.records import LeftOut, TooLong
from assl_kit.data.splits import sample_by_task, training_pool
from assl_kit.errors import DataError, ParameterError

from .parameters import Parameters
from .parents import Parents
from .workspace import Workspace

LEFT_OUT = "left_out.jsonl"
_NOTED = 100


def build_records(ws: Workspace, parents: Parents, p: Parameters, path: Path) -> None:
    """The run's corpus, checked and split."""
    from assl_kit.data.records import write_records

    left_out: list[LeftOut] = []
    records = load_run_records(p, left_out)
    check_enough(p, len(training_pool(records)))
    write_records(records, path)
    _note(ws, left_out)


def _note(ws: Workspace, left_out: list[LeftOut]) -> None:
    """Put what was left out into the file `LEFT_OUT`, and the first of it into the manifest, for the report."""
    file, rows = ws.path_of(LEFT_OUT), [asdict(one) for one in left_out]
    if rows:
        write_text(file, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
        print(f"{len(rows):,} left out: {LEFT_OUT} lists them.")
    else:
        file.unlink(missing_ok=True)
    if rows or "left_out" in ws.manifest():
        ws.update_manifest("left_out", {"count": len(rows), "first": rows[:_NOTED]})


def load_run_records(
    parameters: Parameters, left_out: list[LeftOut] | None = None, *, too_long: TooLong | None = None
) -> pd.DataFrame:
    """The run's records, split; the same for a check before the run and for the artifact.

    ``left_out`` and ``too_long`` are those of `load_records`; answers above ``longest_answer`` are too long too.

    Raises
    ------
    DataError
        If the data cannot be used.
    """
    from assl_kit.data.loading import load_records
    from assl_kit.data.splits import ensure_splits

    share, seed = parameters.test_share, parameters.seed
    records = load_records(
        parameters.data,
        format=parameters.data_format,
        n_records=parameters.n_records or None,
        seed=seed,
        test_share=share,
        on_bad=parameters.on_bad,
        left_out=left_out,
        too_long=_bound(parameters.longest_answer, too_long),
    )
    return ensure_splits(records, test_share=share, seed=seed)


def _bound(most: int, too_long: TooLong | None) -> TooLong | None:
    """Answers of more than ``most`` characters are too long too."""
    if not most:
        return too_long

    def beyond(answer: str) -> str | None:
        if len(answer) > most:
            return f"the answer has {len(answer):,} characters, longest_answer is {most:,}"
        return None if too_long is None else too_long(answer)

    return beyond


def check_enough(parameters: Parameters, n_train: int) -> None:
    """Refuse fewer training records than clusters with a ``DataError``."""
    if n_train < parameters.n_clusters:
        raise DataError(
            f"{n_train} training records are fewer than {parameters.n_clusters} clusters",
            where=parameters.data,
            hint="Give more records or lower n_clusters.",
        )


def evaluation_records(records: pd.DataFrame, parameters: Parameters) -> pd.DataFrame:
    """The records to measure on, at most ``n_test`` a task (0: all), drawn with the run's seed."""
    test = records[records["split"] == "test"].reset_index(drop=True)
    return sample_by_task(test, parameters.n_test, parameters.seed) if parameters.n_test else test


def n_select_of(parameters: Parameters, n: int) -> int:
    """How many records to choose out of ``n``: ``n_select`` if given, else ``select_share`` of them."""
    wanted = parameters.n_select or round(parameters.select_share * n)
    if not parameters.n_clusters <= wanted <= n:
        raise ParameterError(
            f"cannot choose {wanted} of {n} training records for {parameters.n_clusters} experts",
            where="n_select, select_share",
            hint="Choose at least one record for each cluster, and not more than there are.",
        )
    return wanted
