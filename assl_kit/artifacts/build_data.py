"""Builder of the records (notebook 01), and what a run makes of them: the test part, the number to choose."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from assl_kit.data.splits import sample_by_task, training_pool
from assl_kit.errors import DataError, ParameterError

from .parameters import Parameters
from .parents import Parents
from .workspace import Workspace


def build_records(ws: Workspace, parents: Parents, p: Parameters, path: Path) -> None:
    """The run's corpus, checked and split."""
    from assl_kit.data.records import write_records

    records = load_run_records(p)
    check_enough(p, len(training_pool(records)))
    write_records(records, path)


def load_run_records(parameters: Parameters) -> pd.DataFrame:
    """The run's records, split; the same for a check before the run and for the artifact.

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
    )
    return ensure_splits(records, test_share=share, seed=seed)


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
