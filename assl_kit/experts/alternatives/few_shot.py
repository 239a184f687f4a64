"""One prompt a task instead of an expert: a few solved examples before the question."""

from __future__ import annotations

from typing import TYPE_CHECKING

from assl_kit.common.checks import whole
from assl_kit.data.records import prompts

if TYPE_CHECKING:
    import pandas as pd

    from assl_kit.data.conversations import Prompt


def with_examples(records: pd.DataFrame, train: pd.DataFrame, *, n: int = 3, seed: int = 0) -> list[Prompt]:
    """What the records ask, each behind solved examples of its task.

    Parameters
    ----------
    records : DataFrame
        With ``task``, as `validate_records` gives it.
    train : DataFrame
        Where examples are drawn, once for each task; the same for all its questions.
    n : int
        Examples of a task; fewer where it has not so many, none where it has none.
    seed : int

    Returns
    -------
    list of str or list of dict
        As `prompts` has them, with the examples as earlier turns, behind a system message.

    Raises
    ------
    ParameterError
        If ``n`` is negative.

    Examples
    --------
    >>> from assl_kit.data.records import validate_records
    >>> rows = [{"instruction": "情绪？", "input": text, "output": "积极", "task": "s"} for text in ("涨了", "大涨")]
    >>> records = validate_records(rows)
    >>> [turn["content"] for turn in with_examples(records[:1], records[1:], n=2)[0]]
    ['情绪？\\n大涨', '积极', '情绪？\\n涨了']
    """
    n = whole("n", n, 0)
    turns: dict[str, list[dict[str, str]]] = {}
    for task in records["task"].unique():
        of_task = train[train["task"] == task]
        drawn = of_task.sample(min(n, len(of_task)), random_state=seed)
        turns[task] = []
        for asked, answer in zip(prompts(drawn), drawn["output"], strict=True):
            before = [{"role": "user", "content": asked}] if isinstance(asked, str) else asked
            turns[task] += [turn for turn in before if turn["role"] != "system"]
            turns[task].append({"role": "assistant", "content": str(answer)})
    return [_behind(turns[task], asked) for task, asked in zip(records["task"], prompts(records), strict=True)]


def _behind(examples: list[dict[str, str]], asked: Prompt) -> Prompt:
    if not examples:
        return asked
    question = [{"role": "user", "content": asked}] if isinstance(asked, str) else list(asked)
    system = [turn for turn in question if turn["role"] == "system"]
    return [*system, *examples, *question[len(system) :]]
