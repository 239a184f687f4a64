"""A judge of training sets: learners prepared once, then the score of any chosen rows on the held-out questions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from assl_kit.common.checks import real, whole
from assl_kit.common.names import apart_from_totals, by_number
from assl_kit.errors import DataError

from .learners import Learner, learner_for
from .metrics import baseline_answers, metric_of, normalise_answer, score_answers

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike

_NEEDED = ("id", "instruction", "input", "output", "split")
_SHOWN = 3


class Judge:
    """Learners and questions of every group, prepared once; `scores` says how good chosen records are.

    Each group (task) has one learner, chosen from the whole training pool: see `learners.learner_for`. It learns from
    the chosen records of its group alone and answers the group's held-out questions.

    Parameters
    ----------
    records : DataFrame
        ``id, instruction, input, output, split`` and the column ``by``. Those of split "test" are the questions, all
        others the training pool.
    by : str
        The column that names the groups. One called as totals are ("mean", "all") is named "mean (task)".
    questions : int
        At most so many questions a group, drawn with the seed. Questions whose instruction and input stand in the
        training pool are left out.
    metrics : mapping, optional
        Measures of groups that shall not be those of `metric_of`.
    seed : int

    Attributes
    ----------
    train, held : DataFrame
        The training pool and the questions, in order of id, so that the order of ``records`` does not matter.
    groups : tuple of str
        The measured groups, in alphabetical order.
    group_rows : dict of ndarray
        The rows in ``train`` of every group, measured or not.
    kinds, metrics : dict
        The kind of learner and the measure of each measured group.
    right : dict of list of str
        The right answers to the questions of each.
    left_out : dict
        Groups that cannot be measured, and why.

    Raises
    ------
    DataError
        A missing column, an id used twice, a record without an answer, or no group that can be measured.
    ParameterError
        ``questions`` is less than 1.

    Examples
    --------
    >>> from assl_kit.data.synthetic import make_corpus
    >>> judge = Judge(make_corpus(400))
    >>> judge.kinds["sentiment"], len(judge.groups) == len(judge.scores(judge.train["id"]))
    ('labels', True)
    """

    def __init__(
        self,
        records: pd.DataFrame,
        *,
        by: str = "task",
        questions: int = 500,
        metrics: Mapping[str, str] | None = None,
        seed: int = 0,
    ) -> None:
        whole("questions", questions, 1)
        _check(records, by)
        self.by, self.seed = by, seed
        records = records.assign(**{by: apart_from_totals(records[by].astype(str), by)})
        records = records.sort_values("id", kind="stable", key=lambda ids: ids.astype(str))
        self.train = records[records["split"] != "test"].reset_index(drop=True)
        self.place = pd.Index(self.train["id"])
        rows_of = self.train.groupby(by).indices
        self.group_rows = {group: rows_of[group] for group in sorted(rows_of, key=by_number)}
        held = records[records["split"] == "test"]
        known = set(zip(self.train["instruction"], self.train["input"], strict=True))
        new = [pair not in known for pair in zip(held["instruction"], held["input"], strict=True)]
        self.n_known = len(new) - sum(new)
        held = held[np.array(new, bool)].reset_index(drop=True)
        self.learners: dict[str, Learner] = {}
        self.kinds: dict[str, str] = {}
        self.metrics: dict[str, str] = {}
        self.left_out: dict[str, str] = {}
        kept = []
        for number, (group, rows) in enumerate(self.group_rows.items()):
            known_records, asked = self.train.iloc[rows], held[held[by].astype(str) == group]
            if len(asked) > questions:
                drawn = np.random.default_rng([seed, number]).permutation(len(asked))[:questions]
                asked = asked.iloc[np.sort(drawn)]
            why = _unfit(known_records, asked)
            if why:
                self.left_out[group] = why
                continue
            self.metrics[group] = (metrics or {}).get(group) or metric_of(group, list(known_records["output"]))
            self.kinds[group], self.learners[group] = learner_for(known_records, asked)
            kept.append(asked)
        if not kept:
            why = "; ".join(f"{group}: {text}" for group, text in list(self.left_out.items())[:_SHOWN])
            hint = "Give labelled records with a test split: `hold_out` makes one."
            raise DataError(f"no group can be measured: {why}", where=f"column {by!r}", hint=hint)
        self.held = pd.concat(kept, ignore_index=True)
        self.groups = tuple(self.learners)
        self.right = {group: list(part["output"]) for group, part in zip(self.groups, kept, strict=True)}
        self._known: dict[tuple, np.ndarray] = {}

    def baseline(self) -> dict[str, float]:
        """Mean score by group of the majority answer or the lead, as `baseline_answers` gives them.

        A group where no training set comes above it is one that its learner cannot learn: it tells nothing of
        selections. Examples are multiple choice and the matching of two texts.
        """
        means = {}
        for group in self.groups:
            train, held = (
                part[part[self.by].astype(str) == group].assign(task=group) for part in (self.train, self.held)
            )
            answers = baseline_answers(train, held)
            means[group] = float(score_answers(self.right[group], answers, self.metrics[group]).mean())
        return means

    def rows_of(self, ids: ArrayLike, where: str = "ids") -> np.ndarray:
        """Rows of the training pool of ids, which may repeat.

        Raises
        ------
        DataError
            An id that is not in the training pool, or none at all.
        """
        ids = np.asarray(ids)
        if ids.ndim != 1 or len(ids) == 0:
            raise DataError("the selection is empty", where=where, hint="Give the ids of the chosen records.")
        rows = self.place.get_indexer(pd.Index(ids))
        if (rows < 0).any():
            missing = list(dict.fromkeys(ids[rows < 0].tolist()))
            shown = ", ".join(map(repr, missing[:_SHOWN]))
            what = f"{len(missing)} chosen ids are not in the training pool, e.g. {shown}"
            raise DataError(what, where=where, hint="Choose among the records whose split is not test.")
        return rows

    def scores(self, ids: ArrayLike, *, seed: int = 0) -> dict[str, np.ndarray]:
        """The score of every question after learning from these records.

        Parameters
        ----------
        ids : sequence
            Of the chosen records; an id given twice is learnt twice.
        seed : int
            Of learners that draw an order (the tagger).

        Returns
        -------
        dict of ndarray of float64
            Scores in [0, 1] by group. A group without a chosen record scores 0.
        """
        return self.scores_of_rows(self.rows_of(ids), seed=seed)

    def scores_of_rows(
        self, rows: np.ndarray, *, seed: int = 0, groups: Sequence[str] | None = None
    ) -> dict[str, np.ndarray]:
        """As `scores`, for rows of ``train``, and of some groups only."""
        rows, copies = np.unique(np.asarray(rows, np.int64), return_counts=True)
        chosen = np.zeros(len(self.train), np.int64)
        chosen[rows] = copies
        return {group: self._group(group, chosen[self.group_rows[group]], seed) for group in groups or self.groups}

    def _group(self, group: str, copies: np.ndarray, seed: int) -> np.ndarray:
        """Scores of one group, whose records are given so many times; the same set is learnt once."""
        right, rows = self.right[group], np.flatnonzero(copies)
        if len(rows) == 0:
            return np.zeros(len(right))
        seed = seed if self.kinds[group] == "copied" else 0  # only the tagger draws
        key = group, seed, rows.tobytes(), copies[rows].tobytes()
        if key not in self._known:
            answers = self.learners[group].answers(rows, copies[rows], seed)
            self._known[key] = score_answers(right, answers, self.metrics[group])
        return self._known[key]


def _check(records: pd.DataFrame, by: str) -> None:
    """Refuse records that cannot be judged."""
    if not isinstance(records, pd.DataFrame) or len(records) == 0:
        raise DataError("there are no records", where="records", hint="Give a DataFrame of records.")
    missing = [name for name in (*_NEEDED, by) if name not in records]
    if missing:
        raise DataError(f"the column {missing[0]!r} is missing", where="records", hint="Use load_records.")
    if records["id"].duplicated().any():
        twice = records.loc[records["id"].duplicated(), "id"].iloc[0]
        raise DataError(f"the id {twice!r} is used twice", where="records", hint="Give every record its own id.")
    empty = np.array([not isinstance(text, str) or not text.strip() for text in records["output"]])
    if empty.all():
        raise DataError("no record has an answer", where="column 'output'", hint="The referee needs labelled data.")
    if empty.any():
        shown = ", ".join(repr(name) for name in records.loc[empty, "id"].head(_SHOWN))
        what = f"{int(empty.sum())} of {len(records)} records have no answer, e.g. {shown}"
        raise DataError(what, where="column 'output'", hint="Label them, or leave them out of records and selections.")
    if not (records["split"] == "test").any():
        raise DataError("no record has the split 'test'", where="column 'split'", hint="Use hold_out to make one.")


def _unfit(known: pd.DataFrame, asked: pd.DataFrame) -> str:
    """Why a group cannot be measured, or nothing."""
    if len(asked) == 0:
        return "no held-out question that is not also in the training pool"
    if len(known) < 2:
        return "it has one training record"
    if len({normalise_answer(text) for text in known["output"]}) == 1:
        return "all its training records have the same answer"
    return ""


def hold_out(records: pd.DataFrame, *, by: str = "task", share: float = 0.1, seed: int = 0) -> pd.DataFrame:
    """Give each group that has no test record some, drawn by whole texts, so that no text is on both sides.

    Parameters
    ----------
    records : DataFrame
        With ``instruction, input, split`` and the column ``by``.
    by : str
    share : float
        Of the different texts (instruction and input) of each group without a test record, in (0, 1).
    seed : int

    Returns
    -------
    DataFrame
        The same records with ``split`` set. A group with one text stays as it is.

    Examples
    --------
    >>> from assl_kit.data.synthetic import make_corpus
    >>> records = hold_out(make_corpus(200, test_share=0.0).assign(split="train"))
    >>> bool((records["split"] == "test").groupby(records["task"]).any().all())
    True
    """
    real("share", share, 0, 1, inside=True)
    records = records.copy()
    split = records["split"].to_numpy(dtype=object).copy()
    texts = pd.factorize(records["instruction"] + "\x1f" + records["input"])[0]
    for number, (_, rows) in enumerate(sorted(records.groupby(by, sort=True).indices.items())):
        if (split[rows] == "test").any():
            continue
        different = np.unique(texts[rows])
        n = min(len(different) - 1, max(1, round(share * len(different))))
        drawn = np.random.default_rng([seed, number]).permutation(different)[:n]
        split[rows[np.isin(texts[rows], drawn)]] = "test"
    return records.assign(split=pd.Series(split, index=records.index).astype(records["split"].dtype))
