"""Write the README's table "paper says · we measured · verdict", between its two marks.

python -m benchmarks.evidence.table
"""

from __future__ import annotations

import pandas as pd

from assl_kit.teaching.evidence import evidence_results, verdicts
from benchmarks.machine import ROOT, marks, with_table

README = ROOT / "README.md"
BEGIN, END = marks("evidence")


def table(evidence: pd.DataFrame) -> str:
    """The table as Markdown: a row a claim and data set, the claim once."""
    lines = ["| paper says | data, base | we measured | verdict |", "|---|---|---|---|"]
    rows = verdicts(evidence)
    claims = rows["claim"].mask(rows["claim"].duplicated(), "")
    lines += [
        f"| {' | '.join(cells)} |"
        for cells in zip(claims, rows["data"], rows["measured"], rows["verdict"], strict=True)
    ]
    return "\n".join(lines)


def main() -> None:
    document = with_table(README.read_text(encoding="utf-8"), "evidence", table(evidence_results()))
    README.write_text(document, encoding="utf-8")


if __name__ == "__main__":
    main()
