"""The choice itself: the space of a corpus, what may be chosen, the two stages, and who stands for what is left out."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from sklearn.exceptions import ConvergenceWarning
from tqdm.auto import tqdm

from assl_kit.data.groups import assign_groups
from assl_kit.data.records import BLOCK, prompts
from assl_kit.errors import DataError
from assl_kit.selection.duplicates import nearest_of
from assl_kit.selection.redistribute import Redistributor
from assl_kit.selection.table import Selection
from assl_kit.space.clusters import SemanticKMeans
from assl_kit.space.encoder import encode

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

N_CLUSTERS = 6
"""As a run has by default."""
FOR_FACTOR = 3
"""Records that are near a target, for each that is to be kept: the usual choice is made among them."""


def embedded(encoder: SentenceTransformer, *tables: pd.DataFrame, progress: bool = False) -> np.ndarray:
    """The unit rows of records' questions, table after table and block by block: (n, d) float32.

    Raises
    ------
    DataError
        If a question has no embedding; names the record.
    """
    texts, X = [prompt for table in tables for prompt in prompts(table)], np.zeros((0, 0), np.float32)
    ids = [name for table in tables for name in table["id"]]
    starts = range(0, len(texts), BLOCK)
    for start in tqdm(starts, desc="embedding", unit="block", disable=not progress, leave=False):
        try:
            rows = encode(encoder, texts[start : start + BLOCK])
        except DataError as error:
            where = f"one of the records {ids[start]!r} and the {BLOCK - 1:,} after it"
            raise DataError(error.what, where=where, hint=error.hint) from error
        if not start:
            X = np.empty((len(texts), rows.shape[1]), np.float32)
        X[start : start + BLOCK] = rows
    return X


@dataclass(frozen=True)
class Places:
    """What the places are shared out over.

    Attributes
    ----------
    clusters : ndarray of shape (n,), int64
    groups : Series of n str
        Its name says what was taken.
    """

    clusters: np.ndarray
    groups: pd.Series

    def cells(self) -> np.ndarray:
        """A number for each group and cluster: shape (n,), int64."""
        return pd.factorize(self.group_numbers() * (self.clusters.max() + 1) + self.clusters)[0].astype(np.int64)

    def group_numbers(self) -> np.ndarray:
        """A number for each group: shape (n,), int64."""
        return pd.factorize(self.groups)[0].astype(np.int64)


def places(train: pd.DataFrame, X: np.ndarray, n_select: int, exclude: np.ndarray, seed: int) -> Places:
    """Clusters and groups of the training records; clusters are the groups where others would be more than places."""
    n_clusters = min(N_CLUSTERS, n_select, len(X))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # of fewer distinct questions than clusters: fewer are made
        clusters = SemanticKMeans(n_clusters=n_clusters, random_state=seed).fit(X).labels_
    groups = assign_groups(train, clusters)
    if groups[~exclude].nunique() > n_select:
        groups = assign_groups(train, clusters, by="cluster")
    return Places(clusters, groups)


def choose(
    train: pd.DataFrame,
    X: np.ndarray,
    n_select: int,
    where: Places,
    exclude: np.ndarray,
    *,
    for_target: bool = False,
    progress: bool = False,
) -> Selection:
    """Both stages of the product's default; where a target has set the shares, they are kept as they are."""
    chooser = Redistributor(budget_power=1.0, verbose=progress) if for_target else Redistributor(verbose=progress)
    return chooser.fit_select(
        X,
        where.clusters,
        n_select,
        groups=where.groups.to_numpy(),
        exclude=exclude,
        ids=train["id"].to_numpy(),
    )


def near_target(X: np.ndarray, n_train: int, ids: pd.Series, allowed: np.ndarray, n_wanted: int) -> pd.DataFrame:
    """The training records nearest to a target, each of its records in turn.

    Parameters
    ----------
    X : ndarray of shape (n, d), float32
        Unit rows: the ``n_train`` training records first, those of the target last.
    n_train : int
    ids : Series of n_train str
        Settle ties.
    allowed : ndarray of shape (n_train,), bool
        What may be chosen.
    n_wanted : int
        How many to take, at most.

    Returns
    -------
    DataFrame of n_train rows
        ``target``: the nearest record of the target, counted from 0; ``target_similarity``: its cosine; ``taken``.

    Notes
    -----
    Ours. Every training record belongs to the target's record that it is nearest to. First the nearest of each are
    taken, then the second nearest of each, and so on: a record of the target where the corpus is dense does not take
    the places of one where it is sparse.

    Examples
    --------
    >>> X = np.float32([[1, 0], [0.96, 0.28], [0, 1], [1, 0], [0, 1]])
    >>> near_target(X, 3, pd.Series(["a", "b", "c"]), np.ones(3, bool), 2)["taken"].tolist()
    [True, False, True]
    """
    target, similarity = nearest_of(X, np.arange(n_train), np.arange(n_train, len(X)))
    table = pd.DataFrame({"target": target - n_train, "target_similarity": similarity, "id": ids.to_numpy()})
    order = table[allowed].sort_values(["target_similarity", "id"], ascending=[False, True])
    turn = order.groupby("target").cumcount()
    taken = order.assign(turn=turn).sort_values(["turn", "target_similarity", "id"], ascending=[True, False, True])
    return table.drop(columns="id").assign(taken=np.isin(np.arange(n_train), taken.index[:n_wanted]))


def stand_ins(X: np.ndarray, where: Places, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each training record that is left out the nearest chosen one: in its cell, else in its group, else of all.

    Parameters
    ----------
    X : ndarray of shape (n, d), float32
    where : Places
    chosen : ndarray of int64
        Rows.

    Returns
    -------
    nearest : ndarray of shape (n,), int64
        Rows; -1 for what is chosen.
    cosine : ndarray of shape (n,), float64
        NaN for what is chosen.
    """
    n = len(X)
    nearest, cosine = np.full(n, -1), np.full(n, np.nan)
    is_chosen = np.zeros(n, bool)
    is_chosen[chosen] = True
    for part in (where.cells(), where.group_numbers(), np.zeros(n, np.int64)):
        missing = ~is_chosen & (nearest < 0)
        for number in np.intersect1d(part[missing], part[is_chosen]):
            rows = np.flatnonzero(missing & (part == number))
            nearest[rows], cosine[rows] = nearest_of(X, rows, np.flatnonzero(is_chosen & (part == number)))
    return nearest, cosine
