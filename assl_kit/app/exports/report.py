"""What an export's own files route, measured on the test questions of its run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from assl_kit.artifacts.build_data import evaluation_records
from assl_kit.artifacts.steps import STEPS, read
from assl_kit.common.files import read_json, write_json
from assl_kit.data.records import prompts
from assl_kit.data.splits import sample_by_task, training_pool
from assl_kit.evaluation.routing import home_experts, regret_table, routing_table

from ..served.routes import Routes
from .semantic_router import MODEL_FILE, selected

if TYPE_CHECKING:
    import pandas as pd

    from assl_kit.artifacts.parameters import Parameters
    from assl_kit.artifacts.workspace import Workspace
    from assl_kit.data.conversations import Prompt

REPORT = "routing.json"


def exported_choices(folder: Path, questions: Sequence[Prompt]) -> list[int]:
    """The expert of each question by the files of an export alone, −1 for the base.

    Parameters
    ----------
    folder : pathlib.Path
        Of an export.
    questions : sequence of str or list of dict, length n

    Returns
    -------
    list of int, length n
        By the client's rule; where the folder has a k-means model, by that on what the encoder's server would send
        (of a conversation the last message, which is what the router embeds).
    """
    routes = Routes(folder)
    numbers = {name: k for k, name in enumerate(routes.names)}
    if (folder / MODEL_FILE).is_file():
        texts = [question if isinstance(question, str) else question[-1]["content"] for question in questions]
        names = selected(read_json(folder / MODEL_FILE), routes.weighted(texts))
    else:
        names = [name for name, _ in routes.route(list(questions))]
    return [numbers.get(name, -1) for name in names]


def write_report(ws: Workspace, folder: Path) -> dict[str, Any]:
    """Measure an export of a run on the run's test questions, and write ``routing.json`` into its folder.

    Parameters
    ----------
    ws : Workspace
        Of a run that has its experts.
    folder : pathlib.Path
        Of its export.

    Returns
    -------
    dict
        ``questions``; ``home_accuracy`` and ``by_task`` (`routing_table`); ``base_alone``, the share that the base
        answers; ``inputs_alone``, these two for the questions without their instruction, where they have an input;
        ``as_the_run``, the share that goes where the run's own router sent it, and ``regret``, what is lost against
        the best expert of each task, with ``regret_questions``: None where the run has not come so far.
    """
    parameters = ws.current_parameters()
    records, clusters = read(ws, "records"), read(ws, "clusters")
    test = evaluation_records(records, parameters)
    experts = np.array(exported_choices(folder, prompts(test)))
    train = training_pool(records)[["id", "task"]].merge(clusters, on="id")
    home = home_experts(train["task"], train["cluster"])
    routing = routing_table(test["task"], experts, home)
    has = {name: ws.has(STEPS[name].file) for name in ("answers", "cross")}
    as_the_run = None
    if has["answers"]:
        routed = test[["id"]].merge(read(ws, "answers"), on="id", how="left")
        as_the_run = float((routed["expert"].to_numpy() == experts).mean())
    regret, asked = _regret(read(ws, "cross"), test, experts, parameters) if has["cross"] else (None, 0)
    report = {
        "questions": len(test),
        "home_accuracy": float(routing.home_share["all"]),
        "by_task": {str(task): float(share) for task, share in routing.home_share.drop("all").items()},
        "base_alone": float((experts < 0).mean()),
        "inputs_alone": _inputs_alone(folder, test[test["input"].str.strip() != ""], home),
        "as_the_run": as_the_run,
        "regret": regret,
        "regret_questions": asked,
    }
    write_json(folder / REPORT, report)
    return report


def _inputs_alone(folder: Path, asked: pd.DataFrame, home: dict[str, int]) -> dict[str, float] | None:
    if asked.empty:
        return None
    experts = np.array(exported_choices(folder, asked["input"].tolist()))
    accuracy = float(routing_table(asked["task"], experts, home).home_share["all"])
    return {"questions": len(asked), "home_accuracy": accuracy, "base_alone": float((experts < 0).mean())}


def in_words(report: dict[str, Any]) -> str:
    """One line for people.

    Examples
    --------
    >>> in_words({"questions": 50, "home_accuracy": 0.9, "base_alone": 0.02, "as_the_run": 1.0, "regret": None})
    'Of 50 test questions 90.0 % go to their home expert, 2.0 % to the base alone, 100.0 % where the run sent them.'
    """
    parts = [f"{100 * report['home_accuracy']:.1f} % go to their home expert"]
    parts.append(f"{100 * report['base_alone']:.1f} % to the base alone")
    if report["as_the_run"] is not None:
        parts.append(f"{100 * report['as_the_run']:.1f} % where the run sent them")
    if report["regret"] is not None:
        parts.append(f"regret {report['regret']:.3f} on {report['regret_questions']} of them")
    return f"Of {report['questions']} test questions {', '.join(parts)}."


def _regret(answers: pd.DataFrame, test: pd.DataFrame, experts: np.ndarray, p: Parameters) -> tuple[float | None, int]:
    """The mean over tasks of what is lost, on the questions that every expert answered; and how many these are."""
    from assl_kit.evaluation.metrics import metric_of, score_answers

    by_arm = {str(arm): rows.set_index("id")["answer"] for arm, rows in answers.groupby("arm")}
    names = [f"expert-{k}" for k in range(len(by_arm)) if f"expert-{k}" in by_arm]
    if not names:
        return None, 0
    sample = sample_by_task(test, p.regret_per_task, p.seed)
    metric = {task: metric_of(str(task), list(rows["output"])) for task, rows in test.groupby("task")}

    def scores(arm: str) -> np.ndarray:
        rows = zip(sample["task"], sample["output"], by_arm[arm].reindex(sample["id"]), strict=True)
        return np.array([score_answers([right], [answer], metric[task])[0] for task, right, answer in rows])

    every, base = np.column_stack([scores(name) for name in names]), scores("base")
    chosen = test[["id"]].assign(expert=experts).set_index("id")["expert"].loc[sample["id"]].to_numpy()
    routed = np.where(chosen < 0, base, every[np.arange(len(sample)), chosen])
    return float(regret_table(routed, every, sample["task"].tolist())["regret"].iloc[-1]), len(sample)
