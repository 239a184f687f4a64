"""The tables of docs/scaling.md: what scaling.json holds, how it grows, and the sums for 100 million records.

    python -m benchmarks.scaling.tables

Every number of the sums is measured on this machine (and taken from the file), or on a card (`rates`), or an assumption
named in `ASSUMED`.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from assl_kit.common.files import read_json
from benchmarks.machine import RESULTS, ROOT, with_table

from .rates import Fact, measured

DOCUMENT = ROOT / "docs" / "scaling.md"
TIMES = {"kmeans": "k-means", "pool": "stage 1 (pool)", "select": "stage 2 (pick)"}
STAGES = ("cut", "pool", "select")
GPUS = (8, 16, 32, 64)
CELLS = (6, 100, 1_000, 10_000)  #: cells that the two stages are worked in
HOUR = 3600.0

ASSUMED: dict[str, Fact] = {
    "records": (100e6, "records", "the question"),
    "columns": (384, "columns of an embedding", "as measured"),
    "text_bytes": (600, "bytes of a record in Parquet", "assumed"),
    "text_tokens": (120, "tokens of a prompt for the encoder", "assumed"),
    "encoder_weights": (
        12 * 12 * 384**2,
        "weights a token passes in the encoder",
        "12 layers of width 384: 12·w² each",
    ),
    "encoder_use": (0.3, "share of a large product in bfloat16 that embedding reaches", "assumed"),
    "together": (1.0, "share of their speed that GPUs keep which train one expert together", "assumed"),
    "cores": (8, "CPU cores beside each GPU", "assumed"),
    "per_machine": (8, "GPUs of a machine", "assumed"),
    "network": (1.25e9, "bytes/s between two machines", "10 Gbit/s, assumed"),
    "disk": (1e9, "bytes/s of the shared file system, for each machine", "assumed"),
    "share": (0.1, "share of the records that is chosen", "the paper's tenth"),
    "training_tokens": (425, "tokens of a record in training", "profiles/paper.yaml"),
    "epochs": (3, "epochs", "profiles/paper.yaml"),
    "experts": (6, "experts", "the paper"),
}
"""Name: value, what it is, where it is from."""


@cache
def facts() -> dict[str, Fact]:
    """What the sums rest on beside scaling.json: assumptions, and what a card has shown."""
    return ASSUMED | measured()


def value(name: str) -> float:
    return float(facts()[name][0])


# growth --------------------------------------------------------------------------------------------------------------
def exponent(records: list[dict], name: str) -> float | None:
    """Slope of log time over log n by least squares; None for fewer than two sizes."""
    if len(records) < 2:
        return None
    n, seconds = (np.log([record[key] for record in records]) for key in ("n", f"{name}_s"))
    return float(np.polyfit(n, seconds, 1)[0])


def extrapolated(records: list[dict], name: str, n: float, power: float | None = None) -> float:
    """Seconds for ``n`` rows, from the largest size on by its exponent or the one given."""
    last = max(records, key=lambda record: record["n"])
    power = exponent(records, name) if power is None else power
    return last[f"{name}_s"] * (n / last["n"]) ** (1.0 if power is None else power)


def pairs_of(record: dict) -> float:
    """Pairs of rows within cells, or within their parts: Σ n_c² / 2."""
    return record.get("pairs") or sum(size**2 for size in record["sizes"]) / 2


def nearest_record(content: dict, rows: float) -> dict:
    """The measurement, with cells whole or cut, in whose cells the mean row has about so many beside it."""
    records = [*content["growth"], *content.get("cut", [])]
    return min(records, key=lambda record: abs(np.log(2 * pairs_of(record) / record["n"] / rows)))


def core_seconds(record: dict, name: str) -> float:
    """Seconds of one core: as the process had them, or, where that was not measured, the clock's by threads."""
    return record.get(f"{name}_cpu_s") or record[f"{name}_s"] * record["threads"]


def pairs_a_core_second(record: dict) -> float:
    """Pairs of rows that stage 1 settles in a second of one core."""
    return pairs_of(record) / core_seconds(record, "pool")


# the sums ------------------------------------------------------------------------------------------------------------
def storage() -> dict[str, float]:
    """Bytes of what a run of that size keeps or holds."""
    n, d = value("records"), value("columns")
    return {
        "records in Parquet": n * value("text_bytes"),
        "embeddings, float32": 4 * n * d,
        "training rows of a stage, temporary (where test records stand between them)": 4 * n * d,
        "A-DBSCAN of all clusters, in the object stores (600 bytes a row)": 600 * n,
        "k-means bounds for 6 clusters, one machine's memory (8 + 4 + 4·k bytes a row)": n * (12 + 4 * 6),
        "rows of cells and parts, ranks and labels, one machine's memory (about 80 bytes a row)": n * 80,
    }


def embedding_hours(gpus: int, content: dict) -> tuple[float, float]:
    """On the GPUs; and on the cores beside them, for reading and tokenising: the static encoder's time."""
    flop = value("records") * value("text_tokens") * 2 * value("encoder_weights")
    static = content["embedding"][0]["records_s"]
    cores = value("records") / (static * gpus * value("cores"))
    return flop / (gpus * value("bf16") * value("encoder_use")) / HOUR, cores / HOUR


def stage1_hours(gpus: int, cells: int, content: dict) -> tuple[float, float]:
    """Exact A-DBSCAN of equal cells: on the cores beside the GPUs, and by as many products as measured on the GPUs.

    No more work at a time than there are cells: eight cores, or a GPU, work on one.
    """
    pairs = value("records") ** 2 / (2 * cells)
    cores = min(gpus * value("cores"), cells * value("cores"))
    cpu = pairs / (pairs_a_core_second(nearest_record(content, value("records") / cells)) * cores)
    flop = 2 * pairs * 2 * value("columns") * value("products")  # a product is of all pairs, both ways
    return cpu / HOUR, flop / (min(gpus, cells) * value("fp32")) / HOUR


def cell_bytes(cells: int) -> float:
    """Memory of one task of stage 1: its cluster's rows and what A-DBSCAN keeps of them."""
    return value("records") / cells * (4 * value("columns") + 600)


def stage2_hours(gpus: int, cells: int, content: dict) -> float:
    """MMR: as measured in cells of about this size; beyond those, time grows as between the two largest sizes.

    One core works on one cell.
    """
    rows, cores = value("records") / cells, min(gpus * value("cores"), cells)
    near = nearest_record(content, rows)
    if rows <= 2 * pairs_of(near) / near["n"]:
        return core_seconds(near, "select") * value("records") / near["n"] / cores / HOUR
    records = sorted(content["growth"], key=lambda record: record["n"])
    last, power = records[-1], max(1.0, exponent(records[-2:], "select") or 1.0)
    one = extrapolated(records, "select", rows * len(last["sizes"]), power) / len(last["sizes"])
    return one * last["threads"] * cells / cores / HOUR


def training_hours(gpus: int, chosen: float) -> tuple[float, float]:
    """Experts as independent tasks (at most one GPU each); and all GPUs together on each (``accelerate launch``)."""
    hours = chosen * value("training_tokens") * value("epochs") / value("training") / HOUR
    return hours / min(gpus, value("experts")), hours / gpus / value("together")


def movement_hours(gpus: int) -> tuple[float, float]:
    """Embeddings sent to the machine that writes them; and read once by all machines together."""
    size = 4 * value("records") * value("columns")
    return size / value("network") / HOUR, size / (value("disk") * gpus / value("per_machine")) / HOUR


# tables --------------------------------------------------------------------------------------------------------------
def tables(content: dict) -> dict[str, str]:
    """Markdown by the name of its mark in docs/scaling.md."""
    return {
        "growth": _growth(content["growth"]),
        "cut": _cut(content["cut"], content["growth"]),
        "quality": _quality(content["quality"]),
        "embedding": _embedding(content["embedding"]),
        "ray": _ray(content["ray"]),
        "assumptions": _table(
            ("assumption", "value", "from"),
            [(what, f"{_short(number)}", source) for number, what, source in facts().values()],
        ),
        "storage": _table(("what", "GB"), [(what, f"{size / 1e9:,.0f}") for what, size in storage().items()]),
        "sums": _sums(content),
        "stages": _stages(content),
    }


def _table(head, rows) -> str:
    lines = [f"| {' | '.join(map(str, row))} |" for row in (head, *rows)]
    return "\n".join([lines[0], "|" + "---|" * len(head), *lines[1:]])


def _growth(records) -> str:
    rows = []
    for record in records:
        cells = [f"{record[f'{name}_s']:,.1f} s, {_mb(record[f'{name}_mb'])}" for name in TIMES]
        share = f"{max(record['sizes']):,}"
        rows.append((f"{record['n']:,}", share, *cells, record["threads"], record["load"]))
    powers = [exponent(records, name) for name in TIMES]
    rows.append(("growth: n to the", "", *(f"{p:.2f}" if p is not None else "–" for p in powers), "", ""))
    return _table(("rows × 384", "largest cluster", *TIMES.values(), "threads", "load before"), rows)


def _cut(records, whole) -> str:
    """Both stages with clusters cut, beside the same rows in whole clusters."""
    rows = []
    for r in records:
        before = next((one for one in whole if one["n"] == r["n"]), None)
        cells = [f"{r[f'{name}_s']:,.0f} s ({r[f'{name}_cpu_s']:,.0f}), {_mb(r[f'{name}_mb'])}" for name in STAGES]
        uncut = f"{sum(core_seconds(before, name) for name in STAGES[1:]):,.0f}" if before else "–"
        sizes = f"{r['cell_rows']:,}", f"{r['parts']:,}", f"{r['largest_part']:,}"
        rows.append((f"{r['n']:,}", *sizes, *cells, uncut, r["threads"], r["load"]))
    head = ("rows × 384", "cell_rows", "parts", "largest", "cutting, once", "stage 1 (pool)", "stage 2 (pick)")
    return _table((*head, "whole clusters, core seconds", "threads", "load before"), rows)


def _quality(records) -> str:
    rows = []
    for r in records:
        how = "drawn at random" if r["cell_rows"] is None else f"{r['parts']} cells" if not r["cell_rows"] else "cut"
        parts = f"{r['parts']} parts" if how == "cut" else how
        measures = [f"{r[name]:.3f}" for name in ("overlap", "coverage", "apart", "density")]
        rows.append((f"{r['data']}, {r['n']:,} × {r['d']}", r["pool_factor"], parts, *measures))
    head = ("rows", "pool_factor", "worked in", "of the whole choice", "coverage", "nearest chosen", "core distance")
    return _table(head, rows)


def _embedding(records) -> str:
    rows = []
    for r in records:
        speeds = (f"{speed:,.0f}" for speed in (r["records_s"], r["records_s"] * r["tokens"]))
        rows.append((r["encoder"], f"{r['records']:,}", *speeds, r["load"]))
    return _table(("encoder", "records", "records/s", "tokens/s", "load before"), rows)


def _ray(records) -> str:
    one = records[0]
    rows = []
    for r in records:
        speed = [f"{r[key]:.1f} s ({one[key] / r[key]:.2f})" for key in ("stages_s", "embed_s")]
        start = "–" if r["engine"] != "Ray" else f"{r['start_s']:.1f} s"
        first = "–" if r["engine"] != "Ray" else f"{r['first_s']:.1f} s"
        trip = "–" if r["engine"] != "Ray" else f"{r['task_ms']:.1f} ms"
        rows.append((r["engine"], r["workers"], start, first, trip, *speed, "yes" if r["same"] else "NO", r["load"]))
    head = (
        "engine",
        "workers",
        "start",
        "first stages",
        "empty task",
        "two stages",
        "embedding",
        "same",
        "load before",
    )
    return _table(head, rows)


def _sums(content) -> str:
    chosen = value("records") * value("share")
    rows = []
    for gpus in GPUS:
        gpu, cores = embedding_hours(gpus, content)
        alone, together = training_hours(gpus, chosen)
        small = training_hours(gpus, 4000)[0]
        send, reading = movement_hours(gpus)
        cells = [_hours(x) for x in (gpu, cores, send, reading, alone, together, small)]
        rows.append((gpus, *cells))
    head = (
        "GPUs", "embedding, GPUs", "tokenising, cores", "rows to one machine", "rows read once",
        "training a tenth, tasks", "training a tenth, accelerate", "training 4,000, tasks",
    )  # fmt: skip
    return _table(head, rows)


def _stages(content) -> str:
    rows = []
    for cells in CELLS:
        times = [_hours(stage1_hours(gpus, cells, content)[at]) for gpus in (GPUS[0], GPUS[-1]) for at in (0, 1)]
        mmr = [_hours(stage2_hours(gpus, cells, content)) for gpus in (GPUS[0], GPUS[-1])]
        rows.append((f"{cells:,}", f"{cell_bytes(cells) / 1e9:,.1f} GB", *times, *mmr))
    head = ("cells", "one task holds")
    for gpus in (GPUS[0], GPUS[-1]):
        head += (f"A-DBSCAN, cores of {gpus}", f"A-DBSCAN, {gpus} GPUs")
    return _table((*head, *(f"MMR, cores of {gpus}" for gpus in (GPUS[0], GPUS[-1]))), rows)


def _hours(hours: float) -> str:
    if hours < 1 / 60:
        return f"{hours * HOUR:.0f} s"
    if hours < 2:
        return f"{60 * hours:.0f} min"
    return f"{hours:,.0f} h" if hours < 240 else f"{hours / 24:,.0f} days"


def _mb(size: float | None) -> str:
    return "memory unknown" if size is None else f"{size:,.0f} MB"


def _short(number: float) -> str:
    return f"{number:,.0f}" if 1 <= number < 1e8 else f"{number:.3g}"


def written(document: str, content: dict) -> str:
    """The document with every table between its two marks."""
    for name, table in tables(content).items():
        document = with_table(document, name, table)
    return document


def main() -> None:
    content = read_json(RESULTS / "scaling.json")
    DOCUMENT.write_text(written(DOCUMENT.read_text(encoding="utf-8"), content), encoding="utf-8")


if __name__ == "__main__":
    main()
