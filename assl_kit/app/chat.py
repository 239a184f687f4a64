"""One question, everything a person wants to see of it: routes, nearest training records, the answer, the base's."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from assl_kit.artifacts.steps import read
from assl_kit.artifacts.workspace import Workspace
from assl_kit.data.conversations import prompt_texts
from assl_kit.data.records import prompts, without_extras
from assl_kit.errors import AsslError, ParameterError, WorkspaceError
from assl_kit.experts.router import Routes, expert_centroids
from assl_kit.experts.silversight import SilverSight
from assl_kit.space.embeddings import rows_of
from assl_kit.space.encoder import encode

if TYPE_CHECKING:
    from jinja2 import Environment

MAX_QUESTION = 1000  #: characters
N_RECORDS = 3  #: nearest training records shown
_CLIP, _EXAMPLES, _EXAMPLE_LENGTH = 240, 4, 120
_USUAL = ["公司上半年净利润同比增长32%，股价上涨。这条消息的情绪如何？", "什么是可转换债券？"]


@dataclass(frozen=True)
class TrainingRecords:
    """What the experts of a run were trained on.

    Attributes
    ----------
    table : DataFrame of n rows
        ``id``, ``cluster`` (the expert's number), ``copies``, ``task``, ``question``, ``output``.
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
        selection, records = read(ws, "selection"), without_extras(read(ws, "records"))
        table = selection[["id", "cluster", "copies"]].merge(records, on="id", how="left", validate="one_to_one")
        rows = rows_of(read(ws, "embeddings"), table["id"])
        unknown = table["output"].isna().any()
        chosen = expert_centroids(rows, table["cluster"].to_numpy(), table["copies"].to_numpy())
        if unknown or chosen.shape != centroids.shape or not np.allclose(chosen, centroids, atol=1e-4):
            raise WorkspaceError(
                "the selection is not the one the experts were trained on", hint="Run notebook 06 again."
            )
        table["question"] = prompt_texts(prompts(table))
        return cls(table[["id", "cluster", "copies", "task", "question", "output"]], rows)

    def nearest(self, expert: int, embedding: np.ndarray, n: int = N_RECORDS) -> pd.DataFrame:
        """The records of an expert with the largest cosine to a question.

        Parameters
        ----------
        expert : int
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
        of_expert = np.flatnonzero(self.table["cluster"] == expert)
        cosines = self.rows[of_expert] @ np.asarray(embedding, self.rows.dtype)
        order = np.argsort(-cosines, kind="stable")[:n]
        return self.table.iloc[of_expert[order]].assign(similarity=cosines[order]).reset_index(drop=True)


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
    examples : list of str
        Questions to begin with.

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
    examples: list[str] = field(default_factory=lambda: list(_USUAL))

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
            chat.examples = _examples(read(ws, "records")) or chat.examples
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
            Each adds to the one before. A question that cannot be answered gives one, with the reason. Closing the
            iterator stops the model; until it has ended, other threads wait.
        """
        with self._lock:
            panels = None
            try:
                check_question(question)
                for panels in self._panels(question.strip()):
                    yield panels
            except AsslError as error:
                yield replace(panels or Panels(), route=_html("error", message=str(error)))

    def _panels(self, question: str) -> Iterator[Panels]:
        embedding = encode(self.silversight.encoder, [question])
        routes = self.silversight.route([question])
        expert = int(routes.experts[0])
        panels = Panels(route=self._route(routes), records=self._nearest(expert, embedding[0]))
        yield panels
        for text, done in self._stream(question, expert):
            panels = replace(panels, answer=_html("answer", who=self._name(expert), text=text, done=done))
            yield panels
        if expert < 0:
            yield replace(panels, base=_html("same"))
            return
        for text, done in self._stream(question, -1):
            yield replace(panels, base=_html("answer", who="The base alone", text=text, done=done))

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
        return self.silversight.bank.names[expert] if expert >= 0 else "The base"

    def _route(self, routes: Routes) -> str:
        similarities, chosen = routes.similarities[0], int(routes.experts[0])
        order = np.argsort(-similarities, kind="stable")
        experts = [
            {
                "name": self._name(k),
                "similarity": float(similarities[k]),
                "chosen": k == chosen,
                "width": max(0, round(100 * float(similarities[k]))),
                "about": about(self.silversight.bank.info["experts"][k]),
            }
            for k in order
        ]
        return _html(
            "route",
            experts=experts,
            who=self._name(chosen),
            margin=float(routes.margin[0]),
            floor=self.silversight.router.min_similarity if chosen < 0 else None,
        )

    def _nearest(self, expert: int, embedding: np.ndarray) -> str:
        if self.records is None:
            return _html("nothing", why=self.no_records)
        if expert < 0:
            return _html("nothing", why="No expert answers, so there are no training records to show.")
        rows = self.records.nearest(expert, embedding).to_dict("records")
        return _html("records", records=rows, who=self._name(expert))


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


def _examples(records: pd.DataFrame) -> list[str]:
    """The first short test question of some tasks."""
    test = records[records["split"] == "test"]
    asked = [prompt if isinstance(prompt, str) else None for prompt in prompts(test)]  # the page has one question
    short = test.assign(question=asked).dropna(subset=["question"])
    return list(short[short["question"].str.len() <= _EXAMPLE_LENGTH].groupby("task")["question"].first())[:_EXAMPLES]


_TEMPLATES = {
    "route": """
<p><b>{{ who }}</b> answers
{%- if floor is not none %} alone: no similarity reaches {{ "%.2f"|format(floor) }}.
{%- elif experts|length == 1 %}: it is the only expert.
{%- else %}, margin <b class="assl-margin">{{ "%.3f"|format(margin) }}</b> over {{ experts[1].name }}.{% endif %}</p>
<table><caption>Similarity of the question to each expert</caption>
{% for expert in experts %}<tr{% if expert.chosen %} class="assl-chosen" aria-current="true"{% endif %}>
<th scope="row">{{ expert.name }}<small>{{ expert.about }}</small></th>
<td class="assl-bar"><i style="width: {{ expert.width }}%"></i></td>
<td class="assl-number">{{ "%.3f"|format(expert.similarity) }}</td></tr>
{% endfor %}</table>""",
    "records": """
<h3>What {{ who }} learnt that is nearest</h3>
{% for record in records %}<article class="assl-record">
<p class="assl-quiet">similarity {{ "%.3f"|format(record.similarity) }} · {{ record.task }}{% if record.copies > 1 %} ·
{{ record.copies }} copies{% endif %}</p>
<p>{{ record.question|clip }}</p><p class="assl-output">{{ record.output|clip }}</p></article>
{% endfor %}""",
    "answer": """
<h3>{{ who }}</h3><div class="assl-answer" lang="zh" data-done="{{ "yes" if done else "no" }}">
{%- if text or not done %}{{ text }}{% else %}<span class="assl-quiet">(no text)</span>{% endif -%}
</div>""",
    "same": '<h3>The base alone</h3><p class="assl-quiet" data-done="yes">The base has answered already.</p>',
    "nothing": '<p class="assl-quiet">{{ why }}</p>',
    "error": '<p class="assl-error" role="alert">{{ message }}</p>',
}


@lru_cache(maxsize=1)
def _environment() -> Environment:
    from jinja2 import DictLoader, Environment

    environment = Environment(loader=DictLoader(_TEMPLATES), autoescape=True)
    environment.filters["clip"] = lambda text: text if len(text) <= _CLIP else text[:_CLIP] + "…"
    return environment


def _html(template: str, **values: Any) -> str:
    return _environment().get_template(template).render(values).strip()
