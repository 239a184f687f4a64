"""The README's table "paper says · we measured · verdict", from the records alone.

python benchmarks/evidence_table.py          write it into README.md, between its two marks
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from assl_kit.evidence_plots import of_seeds
from assl_kit.measured import evidence_results

README = Path(__file__).resolve().parent.parent / "README.md"
BEGIN, END = "<!-- evidence: begin -->", "<!-- evidence: end -->"
ROUTED, CHOSEN = "experts by cluster", "chosen 10 %"
#: What is compared: claim, whether it is the paper's own, arm, against, and what the claim expects of the difference.
CLAIMS = (
    ("A tenth of the data comes close to all of it", CHOSEN, "all data, 1 epoch", "close"),
    ("The chosen tenth is better than a random one", CHOSEN, "random 10 %", "better"),
    ("Both stages are needed: better than thinning alone", CHOSEN, "stage 1 alone 10 %", "better"),
    ("… and than MMR alone", CHOSEN, "stage 2 alone 10 %", "better"),
    ("Routed experts beat one adapter on the same records", ROUTED, CHOSEN, "better"),
    ("… and one adapter on all data", ROUTED, "all data, 1 epoch", "better"),
    ("Clusters are better parts than a random split", ROUTED, "experts by random split", "better"),
    ("… and than task labels", ROUTED, "experts by task label", "better"),
    ("Routing is better than a uniform merge", ROUTED, "uniform merge", "better"),
    ("… and than Arrow's routing in each layer", ROUTED, "Arrow", "better"),
)
NAMES = {("embedded", "tiny"): "embedded corpus, tiny base", ("CFLEB", "gemma3-270m"): "CFLEB, Gemma 3 270M"}


def verdict(expects: str, low: float, high: float) -> str:
    """What an interval says about a claim.

    Examples
    --------
    >>> verdict("better", 0.01, 0.05), verdict("better", -0.02, 0.04), verdict("close", -0.2, -0.1)
    ('holds', 'not told apart', 'does not hold')
    """
    if expects == "close":
        return "does not hold" if high < -0.05 else "holds" if low > -0.05 else "not told apart"
    return "holds" if low > 0 else "does not hold" if high < 0 else "not told apart"


def table(evidence: pd.DataFrame) -> str:
    """The table as Markdown."""
    lines = ["| paper says | we measured | verdict |", "|---|---|---|"]
    for claim, arm, against, expects in CLAIMS:
        said, verdicts = [], []
        for (data, base), name in NAMES.items():
            rows = evidence[(evidence["data"] == data) & (evidence["base"] == base)]
            rows = rows[(rows["arm"] == arm) & (rows["against"] == against) & (rows["metric"] == "difference in mean")]
            if len(rows):
                row = rows.iloc[0]
                said.append(f"{row['value']:+.3f} [{row['low']:+.3f}, {row['high']:+.3f}] ({name})")
                verdicts.append(verdict(expects, row["low"], row["high"]))
        if said:
            shown = verdicts[0] if len(set(verdicts)) == 1 else "; ".join(verdicts)
            lines.append(f"| {claim} | {'<br>'.join(said)} | {shown} |")
    return "\n".join([*lines, *_others(evidence)])


def _others(evidence: pd.DataFrame) -> list[str]:
    """Claims that are not a difference of two arms."""
    lines: dict[str, tuple[list[str], list[str]]] = {}

    def add(claim: str, text: str, said: str) -> None:
        texts, verdicts = lines.setdefault(claim, ([], []))
        texts.append(text)
        verdicts.append(said)

    for (data, base), name in NAMES.items():
        own = evidence[(evidence["data"] == data) & (evidence["base"] == base)]
        if len(regret := of_seeds(own, ROUTED, metric="regret")):
            low, high = regret.min(), regret.max()
            said = "holds" if high <= 0.05 else "does not hold" if low > 0.05 else "in some seeds"
            text = f"regret {regret.mean():.3f}, {low:.3f} to {high:.3f} over seeds ({name})"
            add("The routed expert comes close to the best single expert of each task", text, said)
        home = own[(own["experiment"] == "routing") & (own["metric"] == "home share: wordings and inputs never seen")]
        if len(home := home[(home["task"] == "all") & (home["arm"] == "fitted static, 256")]):
            text = f"{home['value'].mean():.2f} of unseen questions reach the home of their task ({name})"
            add(
                "The nearest centroid is the right expert",
                text,
                "mostly" if home["value"].mean() >= 0.8 else "often not",
            )
        rho = own[(own["metric"] == "rank correlation with distance") & (own["arm"] == "fitted static, 256")]
        if len(rho):
            sure = (rho["p_value"] < 0.05) & (rho["value"] < 0)
            text = f"rank correlation {rho['value'].mean():+.2f}, {sure.sum()} of {len(rho)} seeds significant ({name})"
            said = "holds" if sure.all() else "does not hold" if not sure.any() else "in some seeds"
            add("Near tasks help each other, far ones conflict", text, said)
        stable = own[(own["arm"] == "fitted static, 256") & (own["metric"] == "jaccard: nine tenths drawn")]
        chance = own[(own["arm"] == "random choice") & (own["metric"] == "jaccard: nine tenths drawn")]
        if len(stable):
            a, b = stable["value"].mean(), chance["value"].mean()
            text = f"Jaccard {a:.2f} when a tenth of the data is left out, {b:.2f} by chance ({name})"
            add("(left open) The selection is stable", text, "holds" if a > 0.5 else "does not hold")
    return [
        f"| {claim} | {'<br>'.join(texts)} | {said[0] if len(set(said)) == 1 else '; '.join(said)} |"
        for claim, (texts, said) in lines.items()
    ]


def main() -> None:
    text = README.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    README.write_text(f"{before}{BEGIN}\n{table(evidence_results())}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
