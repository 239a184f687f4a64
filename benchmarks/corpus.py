"""The quality of the embedded corpus as text: distinct n-grams, near duplicates, the commonest frame, lengths by task.

python -m benchmarks.corpus --n 6000 --name after        # adds to benchmarks/results/corpus.json
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path
from typing import Any

from assl_kit.common.files import read_json, write_json
from assl_kit.data.statistics import corpus_statistics
from assl_kit.data.synthetic import iter_records

RESULT = Path(__file__).parent / "results" / "corpus.json"


def quality(n: int, seed: int = 0) -> dict[str, Any]:
    """What the first ``n`` training records are like."""
    rows = list(iter_records(n, seed=seed, with_slots=True))
    measured = corpus_statistics(rows)
    lengths: dict[str, list[int]] = {}
    for row in rows:
        lengths.setdefault(row["task"], []).append(len(row["input"] or row["instruction"]))
    kept = ("n", "distinct", "exact_duplicates", "near_duplicates", "templates", "top_template", "majority")
    wrong = [row for row in rows if row.get("right_output", row["output"]) != row["output"]]
    return {name: measured[name] for name in kept} | {
        "instructions": len({row["instruction"] for row in rows}),
        "natural_questions": sum(not row["input"] for row in rows) / n,
        "wrong_labels": len(wrong) / n,
        "length": {
            task: {"median": statistics.median(every), "longest": max(every)} for task, every in sorted(lengths.items())
        },
    }


def main() -> None:
    """Measure, and put the result beside those of other names."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.corpus", description=__doc__)
    parser.add_argument("--n", type=int, default=6000, help="training records")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--name", required=True, help="what the measured corpus is called")
    parser.add_argument("--output", type=Path, default=RESULT)
    args = parser.parse_args()
    before = read_json(args.output) if args.output.is_file() else {}
    write_json(args.output, before | {args.name: quality(args.n, args.seed)})


if __name__ == "__main__":
    main()
