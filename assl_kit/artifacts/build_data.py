"""Builder of the records (notebook 01), and what a run makes of them: the test part, the number to choose."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import pandas as pd

from assl_kit.common.names import apart_from_totals
from assl_kit.data.conversations import OPTIONAL
from assl_kit.data.groups import assign_groups
from assl_kit.data.records import LEFT_OUT, LeftOut, TooLong, write_left_out
from assl_kit.data.splits import sample_by_task, training_pool
from assl_kit.errors import DataError, ParameterError

from .parameters import Parameters
from .parents import Parents
from .workspace import Workspace

LEAST_TRAIN = 10
"""Training records that every notebook can work with."""
_NOTED = 100


def build_records(ws: Workspace, parents: Parents, p: Parameters, path: Path) -> None:
    """The run's corpus, checked and split."""
    from assl_kit.data.records import write_records

    left_out: list[LeftOut] = []
    records = load_run_records(p, left_out)
    check_enough(p, facts_of(records))
    write_records(records, path)
    _note(ws, left_out)


def _note(ws: Workspace, left_out: list[LeftOut]) -> None:
    """Put what was left out into the file `LEFT_OUT`, and the first of it into the manifest, for the report."""
    file, rows = ws.path_of(LEFT_OUT), [asdict(one) for one in left_out]
    if rows:
        write_left_out(left_out, file)
        print(f"{len(rows):,} left out: {LEFT_OUT} lists them.")
    else:
        file.unlink(missing_ok=True)
    if rows or "left_out" in ws.manifest():
        ws.update_manifest("left_out", {"count": len(rows), "first": rows[:_NOTED]})


def load_run_records(
    parameters: Parameters, left_out: list[LeftOut] | None = None, *, too_long: TooLong | None = None
) -> pd.DataFrame:
    """The run's records, split; the same for a check before the run and for the artifact.

    ``left_out`` and ``too_long`` are those of `load_records`; answers above ``longest_answer`` are too long too. A task
    that is called as totals are in tables, "mean" or "all", is "mean (task)" in a run.

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
    records = ensure_splits(records, test_share=share, seed=seed)
    return records.assign(task=apart_from_totals(records["task"]))


def _bound(most: int, too_long: TooLong | None) -> TooLong | None:
    """Answers of more than ``most`` characters are too long too."""
    if not most:
        return too_long

    def beyond(answer: str) -> str | None:
        if len(answer) > most:
            return f"the answer has {len(answer):,} characters, longest_answer is {most:,}"
        return None if too_long is None else too_long(answer)

    return beyond


@dataclass(frozen=True)
class Facts:
    """What the bounds of parameters depend on.

    Attributes
    ----------
    columns : frozenset of str
        Of the records.
    n_train : int
        Training records.
    n_distinct : int
        Different prompts among them.
    n_groups : dict of str to int
        How many groups they fall into by task, source, instruction, and as "auto" divides them.
    """

    columns: frozenset[str]
    n_train: int
    n_distinct: int
    n_groups: Mapping[str, int]


def facts_of(records: pd.DataFrame) -> Facts:
    """What `check_enough` needs to know of a run's records."""
    train = training_pool(records)
    groups = {by: int(assign_groups(train, by=by).nunique()) for by in ("auto", "task", "source", "instruction")}
    asked = [name for name in ("instruction", "input", *OPTIONAL) if name in train]
    distinct = len(train[asked].drop_duplicates())
    return Facts(frozenset(records.columns), len(train), distinct, groups)


def check_enough(parameters: Parameters, facts: Facts) -> None:
    """Refuse parameters that these records cannot serve, naming the bound.

    Raises
    ------
    DataError
        Too few training records for a run, or for so many clusters; fewer different ones than clusters.
    ParameterError
        A number to choose that is less than there are groups or clusters, or more than there are records.
    """
    n_clusters, data = parameters.n_clusters, parameters.data
    if facts.n_train < n_clusters:
        what = f"{facts.n_train} training records are fewer than {n_clusters} clusters"
        raise DataError(what, where=data, hint="Give more records or lower n_clusters.")
    if facts.n_train < LEAST_TRAIN:
        what = f"{facts.n_train} training records are fewer than the {LEAST_TRAIN} that a run needs"
        raise DataError(what, where=data, hint="Give more records.")
    if facts.n_distinct < n_clusters:
        what = f"{facts.n_distinct} different prompts among the training records are fewer than {n_clusters} clusters"
        raise DataError(what, where=data, hint=f"Lower n_clusters to {facts.n_distinct} or less, or give others.")
    wanted = n_select_of(parameters, facts.n_train)
    n_groups = facts.n_groups.get(parameters.groups, 1)
    if parameters.selection == "default" and wanted < n_groups:
        kind = "groups" if parameters.groups == "auto" else f"groups by {parameters.groups}"
        raise ParameterError(
            f"cannot choose {wanted} of {facts.n_train} training records in {n_groups} {kind}",
            where="n_select, select_share",
            hint=f"Choose at least {n_groups}, one for each group, or set groups to 'cluster'.",
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
