"""Write the README's table "paper says · we measured · verdict", between its two marks.

python -m benchmarks.evidence.table
"""

from __future__ import annotations

import pandas as pd

from assl_kit.teaching.evidence import evidence_results, verdicts
from benchmarks.machine import ROOT

README = ROOT / "README.md"
BEGIN, END = "<!-- evidence: begin -->", "<!-- evidence: end -->"


def table(evidence: pd.DataFrame) -> str:
    """The table as Markdown: a claim a row, its data sets one below the other."""
    lines = ["| paper says | data, base | we measured | verdict |", "|---|---|---|---|"]
    for claim, rows in verdicts(evidence).groupby("claim", sort=False):
        cells = ("<br>".join(rows[column]) for column in ("data", "measured", "verdict"))
        lines.append(f"| {claim} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    text = README.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    README.write_text(f"{before}{BEGIN}\n{table(evidence_results())}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
