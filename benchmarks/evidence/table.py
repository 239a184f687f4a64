"""Write what was measured into the pages: every claim into benchmarks/README.md, a row a data set into both READMEs.

python -m benchmarks.evidence.table

What has not been measured is left out of the long table, and a dash in the short one.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from assl_kit.common.files import write_text
from assl_kit.teaching.evidence import CHOSEN, NAMES, ROUTED, evidence_results, verdict, verdicts
from assl_kit.teaching.gpu_evidence import FAILURE, gpu_differences, gpu_results, gpu_table
from assl_kit.teaching.lessons.words import measured_difference
from benchmarks.machine import ROOT, with_table

BENCHMARKS = ROOT / "benchmarks" / "README.md"
READMES = {"en": ROOT / "README.md", "zh": ROOT / "README.zh-CN.md"}
ALL = "all data, 1 epoch"
#: What the short table compares: arm, against, and what is expected of the difference.
COMPARED = ((CHOSEN, "random 10 %", "better"), (CHOSEN, ALL, "close"), (ROUTED, CHOSEN, "better"))
WORDS = {
    "en": {
        "head": (
            "data, base model",
            "a chosen tenth, against a random one",
            "… against all the data",
            "routed experts, against one adapter",
        ),
        "embedded": "embedded corpus, tiny base",
        "CFLEB": "CFLEB, Gemma 3 270M",
        "H100": "CFLEB, Gemma 3 270M, on an H100",
        "rows": "{name}: {chosen:,} of {rows:,}",
        "holds": {"better": "better", "close": "close to it"},
        "does not hold": "worse",
        "not told apart": "cannot tell",
        "undecided": "undecided",
    },
    "zh": {
        "head": (
            "数据与基座模型",
            "挑选的一成，与随机的一成相比",
            "……与全部数据相比",
            "专家加路由，与单个适配器相比",
        ),
        "embedded": "自带语料，微型基座",
        "CFLEB": "CFLEB，Gemma 3 270M",
        "H100": "CFLEB，Gemma 3 270M，H100 上训练",
        "rows": "{name}：{rows:,} 条取 {chosen:,} 条",
        "holds": {"better": "更好", "close": "接近"},
        "does not hold": "更差",
        "not told apart": "分不出高下",
        "undecided": "尚无定论",
    },
}


def table(evidence: pd.DataFrame) -> str:
    """The long table as Markdown: a row a claim and data set, the claim once."""
    lines = ["| paper says | data, base | we measured | verdict |", "|---|---|---|---|"]
    rows = verdicts(evidence)
    claims = rows["claim"].mask(rows["claim"].duplicated(), "")
    lines += [
        f"| {' | '.join(cells)} |"
        for cells in zip(claims, rows["data"], rows["measured"], rows["verdict"], strict=True)
    ]
    return "\n".join(lines)


@functools.cache
def card_table() -> str:
    """What a language model made of 4,000 of 40,000 records on a card, beside random records of the same draw."""
    arms = {
        "first default": (FAILURE, "first default (one draw)"),
        "default": ("cfleb_h100", "present default (three draws)"),
        "random, budgets by size^.25": ("cfleb_h100", "random, places shared out as the default does"),
    }
    lines = ["| | chosen | random | difference | all 40,000 |", "|---|---|---|---|---|"]
    for arm, (file, name) in arms.items():
        results = gpu_results(file)
        means, gap = gpu_table(results)["mean"], gpu_differences(results).loc[arm]
        control = means[arm] - gap["difference"]
        lines.append(f"| {name} | {means[arm]:.3f} | {control:.3f} | {_interval(gap)} | {means['all']:.3f} |")
    return "\n".join(lines)


def short_table(evidence: pd.DataFrame, language: str) -> str:
    """The READMEs' table: a row a data set and base, what was compared in its columns; a dash is not measured."""
    words = WORDS[language]
    lines = [f"| {' | '.join(words['head'])} |", "|---|---|---|---|"]
    for (data, base), _ in NAMES.items():
        part = evidence[(evidence["data"] == data) & (evidence["base"] == base)]
        gaps = [measured_difference(part, arm, against) for arm, against, _ in COMPARED]
        cells = [_cell(gap, expects, words) for gap, (_, _, expects) in zip(gaps, COMPARED, strict=True)]
        sizes = [part.loc[(part["arm"] == arm) & part["n_train"].notna(), "n_train"].max() for arm in (CHOSEN, ALL)]
        name = words[data]
        if not pd.isna(sizes).any():
            name = words["rows"].format(name=name, chosen=int(sizes[0]), rows=int(sizes[1]))
        lines.append(f"| {' | '.join([name, *cells])} |")
    cells = [_cell(gap, expects, words) for gap, expects in zip(_on_a_card(), ("better", "close"), strict=True)]
    name = words["rows"].format(name=words["H100"], chosen=4000, rows=40_000)
    lines.append(f"| {' | '.join([name, *cells, '–'])} |")
    return "\n".join(lines)


@functools.cache
def _on_a_card() -> tuple[pd.Series, pd.Series]:
    """The default's differences to random and to all records, with a language model at size."""
    results = gpu_results()
    return gpu_differences(results).loc["default"], gpu_differences(results, against=("all",)).loc["default"]


def _cell(gap: Mapping[str, Any] | None, expects: str, words: dict) -> str:
    """A verdict in words, and the difference with its interval."""
    if gap is None:
        return "–"
    judged = verdict(expects, gap["low"], gap["high"])
    word = words["holds"][expects] if judged == "holds" else words[judged]
    return f"**{word}** {_interval(gap)}"


def _interval(gap: Mapping[str, Any]) -> str:
    """The difference of a card's results, or the ``value`` of a row of the evidence, with its interval."""
    return f"{gap['value' if 'value' in gap else 'difference']:+.3f} [{gap['low']:+.3f}, {gap['high']:+.3f}]"


def written(path: Path, evidence: pd.DataFrame) -> str:
    """A page with its tables between their marks."""
    document = path.read_text(encoding="utf-8")
    if path == BENCHMARKS:
        return with_table(with_table(document, "evidence", table(evidence)), "card", card_table())
    (language,) = (name for name, readme in READMES.items() if readme == path)
    return with_table(document, "verdicts", short_table(evidence, language))


def main() -> None:
    for path in (BENCHMARKS, *READMES.values()):
        write_text(path, written(path, evidence_results()))


if __name__ == "__main__":
    main()
