"""What the records say: ratios to the matrix product and to peers, slopes, and a table for the terminal."""

from __future__ import annotations

import numpy as np
from rich.console import Console
from rich.table import Table

from assl_kit.teaching.evidence import KERNELS


def add_ratios(records: list[dict]) -> None:
    """Set ``ratio_to_gemm``: seconds over those of the faster matrix product of the same n·n·d."""
    for record in records:
        product = gemm_seconds(records, record)
        known = product and record["seconds"] is not None
        record["ratio_to_gemm"] = round(record["seconds"] / product, 4) if known else None


def gemm_seconds(records: list[dict], like: dict) -> float | None:
    """Seconds of the yardstick: the faster of numpy's and torch's, on the same rows if there."""
    size = like["n"], like["d"]
    same = [r for r in records if r["system"].startswith("GEMM") and r["seconds"] and (r["n"], r["d"]) == size]
    here = [r for r in same if r["data"] == like["data"]]
    return min((r["seconds"] for r in here or same), default=None)


def slopes(records: list[dict]) -> list[dict]:
    """The exponent of growth of each system: the slope of log seconds against log n, by least squares."""
    series: dict[tuple, list] = {}
    for r in records:
        if r["seconds"]:
            series.setdefault((r["kernel"], r["system"], r["data"], r["d"]), []).append((r["n"], r["seconds"]))
    rows = []
    for (kernel, system, data, d), points in series.items():
        if len(points) > 1:
            n, seconds = np.array(sorted(points)).T
            slope = np.polyfit(np.log(n), np.log(seconds), 1)[0]
            where = {"from_n": int(n[0]), "to_n": int(n[-1]), "points": len(n)}
            rows.append({"kernel": kernel, "system": system, "data": data, "d": d, "slope": round(slope, 3)} | where)
    return rows


def partner(record: dict) -> str:
    """Which of our systems a peer is compared with: plain DBSCAN with link β = 1."""
    return "assl-kit, link β = 1" if record["system"] == "scikit-learn DBSCAN" else "assl-kit"


def summary(records: list[dict]) -> list[dict]:
    """One row a system: at the largest n that has three runs of it and of ours, if there is one, else the largest.

    Each row is the record with ``ours_seconds`` added, None where there is nothing to compare.
    """
    by_key = {(r["kernel"], r["system"], r["data"], r["n"]): r for r in records if r["seconds"] is not None}
    best: dict[tuple, dict] = {}
    for (kernel, system, data, n), record in by_key.items():
        ours = by_key.get((kernel, partner(record), data, n))
        runs = min(len(record["seconds_all"]), len(ours["seconds_all"]) if ours else 0)
        rank = (ours is not None, min(runs, 3), n)
        row = record | {"ours_seconds": ours["seconds"] if ours else None, "rank": rank}
        if best.get((kernel, system, data), row)["rank"] <= rank:
            best[kernel, system, data] = row
    order = list(KERNELS)

    def place(row):
        return order.index(row["kernel"]), row["data"] == "gaussian", not is_ours(row), row["seconds"]

    return sorted(best.values(), key=place)


def is_ours(record: dict) -> bool:
    return record["system"].startswith("assl-kit")


def is_yardstick(record: dict) -> bool:
    return record["system"].startswith(("GEMM", "half"))


def verdict(row: dict) -> str:
    """Ours beside this system, in words. What is not the same result does not count, and says so."""
    if is_ours(row):
        return "wrong result" if row["agrees"] is False else ""
    if is_yardstick(row) or row["ours_seconds"] is None:
        return ""
    ratio = row["seconds"] / row["ours_seconds"]
    words = f"ours {ratio:.3g} × faster" if ratio >= 1 else f"ours {1 / ratio:.3g} × slower"
    if row["kernel"] == "kmeans" and row["agrees"] is False:
        return f"{words}; its inertia is higher"
    if row["agrees"] is None:
        return f"{words} (another method)"
    return words if row["agrees"] else "not the same result"


def show(header: dict, records: list[dict]) -> None:
    """Print the table."""
    title = f"{header['cpu']}, {header['threads']} threads, {header['device']}, d = {header['d']}"
    table = Table(title=title, title_justify="left")
    for name in ("kernel", "system"):
        table.add_column(name)
    for name in ("n", "seconds", "× GEMM", "MB"):
        table.add_column(name, justify="right")
    table.add_column("")
    table.add_column("result")
    for row in summary(records):
        gemm = "" if row["ratio_to_gemm"] is None else f"{row['ratio_to_gemm']:.3g}"
        peak = "" if row["peak_mb"] is None else f"{row['peak_mb']:,.0f}"
        kernel = KERNELS[row["kernel"]] + ("" if row["data"] == "blobs" else f" ({row['data']})")
        numbers = f"{row['n']:,}", f"{row['seconds']:.3g}", gemm, peak
        table.add_row(kernel, row["system"], *numbers, verdict(row), row["note"])
    missing = {(r["system"], r["note"]) for r in records if "not installed" in r["note"]}
    console = Console(width=None if Console().is_terminal else 200)
    console.print(table)
    for system, note in sorted(missing):
        console.print(f"{system}: {note}")
