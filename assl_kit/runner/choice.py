"""What a run's choice is worth: the referee's tables and verdict in words, and the records that score highest."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from assl_kit.artifacts.workspace import Workspace
from assl_kit.data.conversations import prompt_texts
from assl_kit.data.records import prompts
from assl_kit.evaluation.referee import MEANS

from .page import png_of

TITLE = "Is the choice better than a random one?"
_LEVEL = "not told apart from"
HIGHEST = 10
_CUT = 80


def arms_of(result: Mapping[str, Any]) -> list[str]:
    """The arms of a referee's result that are no random reference."""
    references = {row["against"] for row in result["differences"]}
    return [arm for arm in dict.fromkeys(row["arm"] for row in result["differences"]) if arm not in references]


def score_table(result: Mapping[str, Any]) -> pd.DataFrame:
    """Tasks by arms, the means last: mean scores over the draws, beside the majority or lead, and how many are asked.

    Parameters
    ----------
    result : mapping
        ``RefereeResult.as_dict()``, or ``referee.json`` of a run.
    """
    table, about = pd.DataFrame(result["table"]), result["about"]
    arms = arms_of(result)
    wide = table.pivot(index="task", columns="arm", values="score").loc[table["task"].unique()]
    wide = wide[[*arms, *(arm for arm in table["arm"].unique() if arm not in arms)]]
    tasks = list(wide.index)
    columns: dict[str, Any] = {"task": tasks}
    for title, part in (("measure", "metrics"), ("questions", "questions"), ("majority or lead", "baseline")):
        columns[title] = [about[part].get(task, "") for task in tasks]
    return pd.DataFrame(columns, dtype=object).join(wide.reset_index(drop=True))


def difference_table(result: Mapping[str, Any]) -> pd.DataFrame:
    """The differences of each arm to the random ones, the means first: ``+0.045 [+0.037, +0.053]`` in each cell."""
    rows = pd.DataFrame(result["differences"])
    rows = rows[rows["arm"].isin(arms_of(result))]
    rows = rows.assign(
        cell=[_signed(row) for row in rows.to_dict("records")], pair=rows["arm"] + " − " + rows["against"]
    )
    wide = rows.pivot(index="task", columns="pair", values="cell")[list(rows["pair"].unique())]
    tasks = [task for task in rows["task"].unique() if task not in MEANS]
    order = [*(task for task in MEANS if task in wide.index), *tasks]
    return wide.loc[order].rename_axis(columns=None).reset_index()


def enough_table(result: Mapping[str, Any]) -> pd.DataFrame | None:
    """How many records of each group are chosen, and how many would be enough; None where no curves are known.

    "flat" stands where the curve does not rise: the group is not learnt, or by one record, and tells no number.
    """
    curves = result.get("curves")
    if not curves:
        return None
    chosen = {(row["arm"], row["task"]): row["n"] for row in result["table"]}
    rows = []
    for curve in curves:
        row: dict[str, Any] = {"group": curve["group"], "records": int(curve["n_records"])}
        for arm in arms_of(result):
            row[arm] = round(chosen.get((arm, curve["group"]), 0))
        rows.append(row | {"enough": "flat" if _is_flat(curve) else int(curve["enough"])})
    return pd.DataFrame(rows, dtype=object)


def enough_sentence(result: Mapping[str, Any]) -> str:
    """How many records of the groups whose curves rise would be enough."""
    curves = result.get("curves") or []
    rising = [curve for curve in curves if not _is_flat(curve)]
    if not rising:
        return "No learning curve rises: they do not tell how many records are enough." if curves else ""
    enough, all_of_them = (sum(int(curve[name]) for curve in rising) for name in ("enough", "n_records"))
    n_flat = len(curves) - len(rising)
    flat = f" Left out as flat, telling no number: {n_flat} of {len(curves)} groups." if n_flat else ""
    return (
        f"By the learning curves {enough:,} of {all_of_them:,} records would bring each group within 0.01 of its score "
        f"with all its own.{flat}"
    )


def _is_flat(curve: Mapping[str, Any]) -> bool:
    return curve["b"] == 0 or curve["enough"] <= 1


def verdicts(result: Mapping[str, Any]) -> list[str]:
    """One sentence for each arm: better, worse or not told apart from random ones of its size.

    Examples
    --------
    >>> row = {"arm": "chosen", "against": "random", "task": "mean", "difference": 0.1, "low": 0.05, "high": 0.15}
    >>> verdicts({"differences": [row], "about": {}})
    ['On the mean over tasks, chosen is better than random beyond the interval (+0.100 [+0.050, +0.150]).']
    """
    return [_verdict(result, arm) for arm in arms_of(result)]


def _verdict(result: Mapping[str, Any], arm: str) -> str:
    smallest = result["about"].get("smallest", "")
    beginnings = f"On the mean over tasks, {arm} is", f"without the smallest of them ({smallest}) it is"
    parts = []
    for task, beginning in zip(MEANS, beginnings, strict=True):
        rows = [row for row in result["differences"] if row["arm"] == arm and row["task"] == task]
        phrases = [f"{_in_words(row)} ({_signed(row)})" for row in rows]
        if phrases:
            parts.append(f"{beginning} {' and '.join(phrases)}")
    return "; ".join(parts) + "."


def _in_words(row: Mapping[str, Any]) -> str:
    outcome = _outcome(row)
    return f"{outcome} {row['against']}" + " beyond the interval" * (outcome != _LEVEL)


def _outcome(row: Mapping[str, Any]) -> str:
    """What an interval says of an arm beside another one."""
    return "better than" if row["low"] > 0 else "worse than" if row["high"] < 0 else _LEVEL


def _signed(row: Mapping[str, Any]) -> str:
    return f"{row['difference']:+.3f} [{row['low']:+.3f}, {row['high']:+.3f}]"


def routed_verdict(metrics: Mapping[str, Any]) -> str:
    """What became of the routed experts, in a sentence; empty without results of theirs.

    Parameters
    ----------
    metrics : mapping
        ``metrics.json`` of a run: ``table``, and ``differences`` of the routed arm to each other one.

    Examples
    --------
    >>> row = {"arm": "routed", "task": "mean", "value": 0.8, "low": 0.75, "high": 0.85}
    >>> apart = {"arm": "routed", "against": "base", "difference": 0.3, "low": 0.2, "high": 0.4}
    >>> level = {"arm": "routed", "against": "full", "difference": 0.01, "low": -0.02, "high": 0.03}
    >>> routed_verdict({"table": [row], "differences": [apart, level]})
    'On the mean over tasks “routed” reaches 0.800: better than “base” (+0.300); not told apart from “full” (+0.010).'
    """
    differences = metrics.get("differences")
    if not isinstance(differences, list) or not differences:
        return ""
    arm = differences[0]["arm"]
    mean = [row["value"] for row in metrics.get("table") or [] if row["arm"] == arm and row["task"] == "mean"]
    if not mean:
        return ""
    groups: dict[str, list[str]] = {"better than": [], "worse than": [], _LEVEL: []}
    for row in differences:
        groups[_outcome(row)].append(f"“{row['against']}” ({row['difference']:+.3f})")
    parts = [f"{outcome} {', '.join(others)}" for outcome, others in groups.items() if others]
    return f"On the mean over tasks “{arm}” reaches {mean[0]:.3f}: {'; '.join(parts)}."


def remarks(result: Mapping[str, Any]) -> list[str]:
    """What the numbers do not say: tasks that tell nothing, tasks that are not measured, questions left out."""
    about, best = result["about"], pd.DataFrame(result["table"]).groupby("task")["score"].max()
    silent = [task for task, score in about["baseline"].items() if best.get(task, 0.0) <= score]
    sentences = []
    if silent:
        sentences.append(f"No arm comes above the majority or lead in {', '.join(silent)}: nothing is told by these.")
    if about["left_out"]:
        sentences.append(
            "Not measured: " + "; ".join(f"{task} ({why})" for task, why in about["left_out"].items()) + "."
        )
    if about["n_known"]:
        sentences.append(f"{about['n_known']:,} questions stand in the training records too and are not asked.")
    return sentences


def choice_blocks(ws: Workspace) -> Iterator[tuple[str, Any]]:
    """The report's section on the choice: verdict, tables, pictures, or why there are none; nothing if never asked."""
    if not ws.has("referee.json"):
        return
    result = ws.json("referee.json")
    yield "heading", TITLE
    if "skipped" in result:
        yield "text", f"The referee was not asked: {result['skipped']}."
        return
    yield from (("text", sentence) for sentence in verdicts(result))
    about = result["about"]
    yield (
        "text",
        f"Cheap learners are trained on the chosen records alone and on {about['n_draws']} random draws of the same "
        f"number, and asked the held-out questions; intervals of {about['level']:.0%} over draws and questions.",
    )
    yield "table", difference_table(result)
    yield "picture", (f"{TITLE} Grey diamonds: the interval holds 0.", _picture("plot_referee", result))
    yield "subheading", "Scores"
    yield "table", score_table(result)
    yield from (("text", remark) for remark in remarks(result))
    enough = enough_table(result)
    if enough is not None:
        yield "subheading", "How many records are enough?"
        yield "text", enough_sentence(result)
        yield "table", enough
        yield (
            "picture",
            ("Scores of growing numbers of records; rings: enough.", _picture("plot_learning_curves", result)),
        )


def _picture(name: str, result: Mapping[str, Any]) -> str:
    from assl_kit.teaching import referee_plots

    return base64.b64encode(png_of(getattr(referee_plots, name)(result))).decode("ascii")


def highest_blocks(ws: Workspace, kind: str) -> Iterator[tuple[str, Any]]:
    """The report's section on model scores, for a person to look at; nothing where records have no scores.

    Parameters
    ----------
    ws : Workspace
    kind : str
        The run's parameter ``score``.
    """
    if not (ws.has("scores.parquet") and ws.has("records.parquet")):
        return
    scores = ws.table("scores.parquet")
    known = scores.dropna(subset=["raw"])
    if known.empty:
        return
    top = known.assign(id=known["id"].astype(str)).sort_values(["raw", "id"], ascending=[False, True]).head(HIGHEST)
    records = ws.table("records.parquet")
    records = records[records["id"].isin(top["id"])].set_index("id").reindex(top["id"]).fillna("")
    excluded = scores["score"].isna()
    yield "heading", "The highest-scored records"
    exclusion = f"{int(excluded.sum()):,} of {len(scores):,} scored records are excluded"
    if kind == "ifd":
        exclusion += (
            f", {int((excluded & (scores['raw'] > 1)).sum()):,} of them with an answer likelier alone (IFD above 1)"
        )
    yield "text", f"{exclusion}. High scores are often wrong labels: look at them."
    yield (
        "table",
        pd.DataFrame(
            {
                "id": top["id"].tolist(),
                "task": records["task"].tolist(),
                "prompt": [_cut(text) for text in prompt_texts(prompts(records.reset_index()))],
                "answer": [_cut(text) for text in records["output"]],
                "raw score": top["raw"].tolist(),
                "excluded": ["yes" if lost else "" for lost in top["score"].isna()],
            }
        ),
    )


def _cut(text: str) -> str:
    line = " ".join(str(text).split())
    return line if len(line) <= _CUT else line[: _CUT - 1] + "…"
