"""Whether our kernels have become slower beside their peers: ratios of one run against the stored ones, not seconds.

    python -m benchmarks.kernels --only knn,adbscan,mmr --up-to 10000 --out build/speed
    python -m benchmarks.kernels.guard build/speed/kernels.json

A ratio is our time over a peer's for the same rows in the same run, so a slow machine changes it little. Cores, BLAS
and neighbours on the machine do change it, so it may be `SLACK` times the stored one before the guard complains.
A machine that does other work meanwhile is no place for it.
"""

from __future__ import annotations

import sys
from pathlib import Path

from assl_kit.common.files import read_json
from benchmarks.machine import RESULTS

SLACK = 2.0
PEERS = {
    "knn": ("scikit-learn brute", "torch mm + topk"),
    "adbscan": ("scikit-learn DBSCAN",),
    "mmr": ("matrix-vector product a pick",),
}
"""Peers that come with the package's own dependencies, or are plain loops."""


def ratios(content: dict) -> dict[tuple[str, str], dict[int, float]]:
    """Our seconds over a peer's on blobs, the best round of each, by (kernel, peer) and the number of rows."""
    records = [record for record in content["records"] if record["data"] == "blobs" and record["seconds_all"]]
    seconds = {(record["kernel"], record["system"], record["n"]): min(record["seconds_all"]) for record in records}
    sizes = sorted({n for _, _, n in seconds})
    found = {}
    for kernel, peers in PEERS.items():
        for peer in peers:
            pairs = ((n, seconds.get((kernel, "assl-kit", n)), seconds.get((kernel, peer, n))) for n in sizes)
            found[kernel, peer] = {n: ours / theirs for n, ours, theirs in pairs if ours and theirs}
    return found


def slower(now: dict, stored: dict, slack: float = SLACK) -> tuple[list[str], list[str]]:
    """A line for each ratio at the largest size that both runs have, and the lines of those that are too large.

    A pair that the new run did not measure is too large: a guard that looks at nothing would pass.
    """
    lines, wrong = [], []
    before = ratios(stored)
    for (kernel, peer), measured in ratios(now).items():
        common = sorted(measured.keys() & before[kernel, peer].keys())
        if not common:
            wrong.append(f"{kernel} beside {peer}: not measured")
            continue
        n = common[-1]
        ratio, usual = measured[n], before[kernel, peer][n]
        line = f"{kernel} beside {peer}, {n:,} rows: {ratio:.3f} of its time, stored {usual:.3f}"
        lines.append(line)
        if ratio > slack * usual:
            wrong.append(line)
    return lines, wrong


def main(path: str) -> int:
    """Print the ratios of a run; the exit code is 1 where one is too large."""
    lines, wrong = slower(read_json(Path(path)), read_json(RESULTS / "kernels.json"))
    print(*lines, sep="\n")
    print(*(f"more than {SLACK:g} times the stored ratio, or missing: {line}" for line in wrong), sep="\n")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
