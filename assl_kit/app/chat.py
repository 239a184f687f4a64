"""One question, everything a person wants to see of it: routes, nearest training records, the answer, the base's."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd

from assl_kit.artifacts.steps import read
from assl_kit.artifacts.workspace import Workspace
from assl_kit.data.conversations import prompt_texts
from assl_kit.data.records import prompts, user_prompt, without_extras
from assl_kit.errors import AsslError, ParameterError, WorkspaceError
from assl_kit.experts.bank import ExpertBank
from assl_kit.experts.router import Routes, expert_centroids
from assl_kit.experts.silversight import SilverSight
from assl_kit.space.embeddings import rows_of
from assl_kit.space.encoder import encode
from assl_kit.space.static_encoder import known_shares

from .chat_html import html_of

MAX_QUESTION = 1000  #: characters
N_RECORDS = 3  #: nearest training records shown
NOT_LEARNT = {
    "红烧肉要炖多久才软烂？": "How long must red-braised pork simmer to be tender?",
    "Could you recommend a good novel for the weekend?": "",
}
"""Questions that are no business of experts in finance, with their English."""
EXAMPLES = {
    "公司净利润增长三成，情绪如何？": "The company's net profit is up by 30 %: what is the mood?",
    "公司净利润下降三成，情绪如何？": "The company's net profit is down by 30 %: what is the mood?",
    "公司因财务造假被罚款300万元。这条财经新闻属于哪个类别？": (
        "A company is fined for false accounts: what kind of news?"
    ),
    "山野机械因污染环境被罚款80万元。山野机械被罚了多少？": (
        "Shanye was fined 800,000 yuan for pollution: how much was it fined?"
    ),
    "用一句话概括：青石科技上半年净利润同比增长18%。": "In a sentence: Qingshi's half-year profit is up by 18 %.",
    "什么是可转换债券？": "What is a convertible bond?",
} | NOT_LEARNT
"""Questions for experts of the embedded corpus, with their English."""
_EXAMPLES, _EXAMPLE_LENGTH = 4, 120
_ENGLISH = ("instruction_en", "input_en", "output_en")


@dataclass(frozen=True)
class TrainingRecords:
    """What the experts of a run were trained on.

    Attributes
    ----------
    table : DataFrame of n rows
        ``id``, ``cluster`` (the expert's number), ``copies``, ``task``, ``question``, ``output``; where the
        records have it also ``question_en`` and ``output_en``, the same in English.
    rows : ndarray of shape (n, d), float32
        Their embeddings, unit rows.
    """

    table: pd.DataFrame
    rows: np.ndarray

    @classmethod
    def of_run(cls, ws: Workspace, centroids: np.ndarray) -> TrainingRecords:
        """The chosen records of a run.

        Parameters
        ----------
        ws : Workspace
        centroids : array of shape (k, d)
            Those of the run's bank, by which the records are known to be the ones it was trained on.

        Raises
        ------
        AsslError
            If some artifact is missing, or the selection is not the one the bank was trained on.
        """
        for name in ("records.parquet", "selection.parquet", "embeddings.safetensors"):
            if not ws.has(name):
                raise WorkspaceError(f"the run has no {name}")
        selection, records = read(ws, "selection"), read(ws, "records")
        table = selection[["id", "cluster", "copies"]].merge(
            without_extras(records), on="id", how="left", validate="one_to_one"
        )
        rows = rows_of(read(ws, "embeddings"), table["id"])
        unknown = table["output"].isna().any()
        chosen = expert_centroids(rows, table["cluster"].to_numpy(), table["copies"].to_numpy())
        if unknown or chosen.shape != centroids.shape or not np.allclose(chosen, centroids, atol=1e-4):
            raise WorkspaceError(
                "the selection is not the one the experts were trained on", hint="Run notebook 06 again."
            )
        table["question"] = prompt_texts(prompts(table))
        shown = table[["id", "cluster", "copies", "task", "question", "output"]]
        if set(_ENGLISH) <= set(records.columns):
            english = shown[["id"]].merge(records[["id", *_ENGLISH]], on="id", how="left")
            asked = zip(english["instruction_en"], english["input_en"], strict=True)
            shown = shown.assign(question_en=[user_prompt(*both) for both in asked], output_en=english["output_en"])
        return cls(shown, rows)

    def nearest(self, expert: int, embedding: np.ndarray, n: int = N_RECORDS) -> pd.DataFrame:
        """The records of an expert with the largest cosine to a question.

        Parameters
        ----------
        expert : int
            −1: of all experts.
        embedding : array of shape (d,)
            Of length 1.
        n : int

        Returns
        -------
        DataFrame of at most n rows
            As `table`, with ``similarity``; the nearest first.

        Examples
        --------
        >>> table = pd.DataFrame({"id": ["a", "b", "c"], "cluster": [0, 0, 1]})
        >>> records = TrainingRecords(table, np.array([[1, 0], [0.6, 0.8], [0, 1]], np.float32))
        >>> records.nearest(0, np.array([0, 1]))["id"].tolist()
        ['b', 'a']
        """
        of_expert = np.flatnonzero((self.table["cluster"] == expert) | (expert < 0))
        cosines = self.rows[of_expert] @ np.asarray(embedding, self.rows.dtype)
        order = np.argsort(-cosines, kind="stable")[:n]
        return self.table.iloc[of_expert[order]].assign(similarity=cosines[order]).reset_index(drop=True)

    def english(self, answer: str) -> str:
        """An answer in English, if all records that have it say the same in English; else nothing.

        Examples
        --------
        >>> table = pd.DataFrame({"output": ["积极", "消极"], "output_en": ["positive", "negative"]})
        >>> records = TrainingRecords(table, np.eye(2, dtype=np.float32))
        >>> records.english("积极"), records.english("中性")
        ('positive', '')
        """
        if "output_en" not in self.table:
            return ""
        same = self.table.loc[self.table["output"] == answer.strip(), "output_en"].unique()
        return str(same[0]) if len(same) == 1 and same[0] != answer.strip() else ""


@dataclass(frozen=True)
class Panels:
    """The four parts of the page, as HTML in which every text is escaped."""

    route: str = ""
    records: str = ""
    answer: str = ""
    base: str = ""


@dataclass
class Chat:
    """The experts of a bank or a run, ready to be asked.

    Parameters
    ----------
    silversight : SilverSight
    records : TrainingRecords, optional
        Those of the run.
    no_records : str
        Why there are none.
    title : str
        What is asked.
    max_length, max_new_tokens : int
        Of a prompt and of an answer, in tokens.
    examples : dict of str to str
        Questions to begin with, and the same in English where that is known and not the question.

    Notes
    -----
    Threads may ask at once; they are answered one after the other. `SilverSight` sees to that for threads that read
    their stream to its end. A web server hands one stream from thread to thread, so the lock here is held from the
    first piece of an answer to the last, whoever reads it.
    """

    silversight: SilverSight
    records: TrainingRecords | None = None
    no_records: str = "A bank alone does not hold the records it was trained on; a run does."
    title: str = "bank"
    max_length: int = 512
    max_new_tokens: int = 64
    examples: dict[str, str] = field(default_factory=lambda: dict(EXAMPLES))

    def __post_init__(self) -> None:
        self._lock = threading.Lock()

    @classmethod
    def of_run(cls, ws: Workspace) -> Chat:
        """Open the experts of a run, with their training records and some of its test questions."""
        from assl_kit.artifacts.build_experts import open_silversight

        parameters = ws.current_parameters()
        chat = cls(open_silversight(ws, parameters), title=ws.display_path(), **parameters.lengths)
        try:
            chat.records = TrainingRecords.of_run(ws, chat.silversight.bank.centroids)
            if parameters.data != "embedded":
                chat.examples = dict.fromkeys(_examples(read(ws, "records")), "") | NOT_LEARNT
        except AsslError as error:
            chat.no_records = f"No training records: {error}"
        return chat

    def ask(self, question: str) -> Iterator[Panels]:
        """Answer a question, step by step: the route, then the answer as it is written, then what the base says.

        Parameters
        ----------
        question : str
            At most `MAX_QUESTION` characters.

        Returns
        -------
        iterator of Panels
            Each adds to the one before. Where no expert has learnt anything similar the answer is "I don't know", and
            what the base makes of it stands apart. A question that cannot be answered gives one, with the reason.
            Closing the iterator stops the model; until it has ended, other threads wait.
        """
        with self._lock:
            panels = None
            try:
                check_question(question)
                for panels in self._panels(question.strip()):
                    yield panels
            except AsslError as error:
                yield replace(panels or Panels(), route=html_of("error", message=str(error)))

    def _panels(self, question: str) -> Iterator[Panels]:
        embedding = encode(self.silversight.encoder, [question])[0]
        known = float(known_shares(self.silversight.encoder, [question])[0])
        routes = self.silversight.route([question])
        expert = int(routes.experts[0])
        panels = Panels(route=self._route(routes), records=self._nearest(expert, embedding, known))
        yield panels
        if expert < 0:
            panels = replace(panels, answer=html_of("unknown", nearest=float(routes.similarity[0])))
            yield panels
        else:
            for text, done in self._stream(question, expert):
                english = self.records.english(text) if done and self.records else ""
                answer = html_of("answer", who=f"{self._name(expert)} answers", text=text, done=done, english=english)
                panels = replace(panels, answer=answer)
                yield panels
        for text, done in self._stream(question, -1):
            yield replace(panels, base=html_of("answer", who="What the base alone says", text=text, done=done))

    def _stream(self, question: str, expert: int) -> Iterator[tuple[str, bool]]:
        """The text so far, and whether it is complete."""
        text = ""
        yield text, False
        pieces = self.silversight.stream(
            question, experts=[expert], max_length=self.max_length, max_new_tokens=self.max_new_tokens
        )
        with closing(pieces):
            for piece in pieces:
                text += piece
                yield text, False
        yield text, True

    def _name(self, expert: int) -> str:
        return self.silversight.bank.names[expert] if expert >= 0 else "No expert"

    def _route(self, routes: Routes) -> str:
        similarities, chosen = routes.similarities[0], int(routes.experts[0])
        order = np.argsort(-similarities, kind="stable")
        experts = [
            {
                "name": self._name(k),
                "similarity": round(float(similarities[k]), 3) + 0.0,  # never -0.000
                "chosen": k == chosen,
                "width": max(0, round(100 * float(similarities[k]))),
                "about": about(self.silversight.bank.info["experts"][k]),
            }
            for k in order
        ]
        return html_of(
            "route",
            experts=experts,
            who=self._name(chosen),
            margin=float(routes.margin[0]),
            floor=self.silversight.router.min_similarity if chosen < 0 else None,
        )

    def _nearest(self, expert: int, embedding: np.ndarray, known: float) -> str:
        """The nearest records; a similarity means something as far as the question's words are known, as in a route."""
        if self.records is None:
            return html_of("nothing", why=self.no_records)
        nearest = self.records.nearest(expert, embedding)
        rows = nearest.assign(similarity=known * nearest["similarity"]).to_dict("records")
        return html_of("records", records=rows, who=self._name(expert) if expert >= 0 else "any expert")


def check_question(question: str) -> None:
    """Refuse a question that is empty or too long.

    Raises
    ------
    ParameterError
    """
    if not isinstance(question, str) or not question.strip():
        raise ParameterError("the question is empty", hint="Write one, or click an example.")
    if len(question) > MAX_QUESTION:
        raise ParameterError(
            f"the question has {len(question):,} characters, and at most {MAX_QUESTION:,} are taken",
            hint="Shorten it.",
        )


def about(expert: dict) -> str:
    """The two commonest tasks among an expert's training records.

    Examples
    --------
    >>> about({"tasks": {"qa": 30, "title": 60, "other": 10}}), about({})
    ('title 60%, qa 30%', '')
    """
    tasks = expert.get("tasks") or {}
    total = sum(tasks.values())
    first = sorted(tasks, key=lambda task: (-tasks[task], task))[:2]
    return ", ".join(f"{task} {tasks[task] / total:.0%}" for task in first) if total else ""


def learnt(bank: ExpertBank, most: int = 8) -> str:
    """The commonest tasks of a bank in words, and how many records they were learnt from."""
    counts = Counter[str]()
    for expert in bank.info["experts"]:
        counts.update(expert.get("tasks") or {})
    names = [task.replace("_", " ") for task, _ in sorted(counts.items(), key=lambda task: (-task[1], task[0]))]
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{', '.join(names[:most])}{more}, from {counts.total():,} records" if names else ""


def _examples(records: pd.DataFrame) -> list[str]:
    """The first short test question of some tasks."""
    test = records[records["split"] == "test"]
    asked = [prompt if isinstance(prompt, str) else None for prompt in prompts(test)]  # the page has one question
    short = test.assign(question=asked).dropna(subset=["question"])
    return list(short[short["question"].str.len() <= _EXAMPLE_LENGTH].groupby("task")["question"].first())[:_EXAMPLES]
