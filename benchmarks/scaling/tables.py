"""The tables of docs/scaling.md: what scaling.json holds, how it grows, and the sums for 100 million records.

    python -m benchmarks.scaling.tables

Every number of the sums is measured on this machine (and taken from the file) or an assumption named in `ASSUMED`.
"""

from __future__ import annotations

import numpy as np

from assl_kit.common.files import read_json
from benchmarks.machine import RESULTS, ROOT

DOCUMENT = ROOT / "docs" / "scaling.md"
TIMES = {"kmeans": "k-means", "pool": "stage 1 (pool)", "select": "stage 2 (pick)"}
GPUS = (8, 16, 32, 64)
CELLS = (6, 100, 1_000, 10_000)  #: clusters that the two stages are worked in
HOUR = 3600.0

ASSUMED = {
    "records": (100e6, "records", "the question"),
    "columns": (384, "columns of an embedding", "as measured"),
    "text_bytes": (600, "bytes of a record in Parquet", "assumed"),
    "text_tokens": (120, "tokens of a prompt for the encoder", "assumed"),
    "encoder_weights": (
        12 * 12 * 384**2,
        "weights a token passes in the encoder",
        "12 layers of width 384: 12·w² each",
    ),
    "bf16": (312e12, "FLOP/s of a GPU, bfloat16", "A100 data sheet"),
    "fp32": (19.5e12, "FLOP/s of a GPU, float32", "A100 data sheet"),
    "encoder_use": (0.3, "share of it that embedding reaches", "assumed"),
    "product_use": (0.6, "share of float32 that a large product reaches", "assumed"),
    "training_use": (0.4, "share of bfloat16 that training reaches", "assumed, as in profiles/paper.yaml"),
    "passes": (3, "full products in A-DBSCAN: fit, components, thinning", "assumed"),
    "cores": (8, "CPU cores beside each GPU", "assumed"),
    "per_machine": (8, "GPUs of a machine", "assumed"),
    "network": (1.25e9, "bytes/s between two machines", "10 Gbit/s, assumed"),
    "disk": (1e9, "bytes/s of the shared file system, for each machine", "assumed"),
    "share": (0.1, "share of the records that is chosen", "the paper's tenth"),
    "training_flop": (46e9, "FLOP a token, LoRA on 7.7 billion weights, recomputed", "profiles/paper.yaml"),
    "training_tokens": (425, "tokens of a record in training", "profiles/paper.yaml"),
    "epochs": (3, "epochs", "profiles/paper.yaml"),
    "experts": (6, "experts", "the paper"),
}
"""Name: value, what it is, where it is from."""


def value(name: str) -> float:
    return float(ASSUMED[name][0])


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


def pairs_a_core_second(records: list[dict]) -> float:
    """Pairs of rows that stage 1 settles in a second of one core, at the largest size: Σ n_c² / 2 over time."""
    last = max(records, key=lambda record: record["n"])
    return sum(size**2 for size in last["sizes"]) / 2 / (last["pool_s"] * last["threads"])


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
        "k-means bounds for 1,000 clusters": n * (12 + 4 * 1000),
    }


def embedding_hours(gpus: int, content: dict) -> tuple[float, float]:
    """On the GPUs; and on the cores beside them, for reading and tokenising: the static encoder's time."""
    flop = value("records") * value("text_tokens") * 2 * value("encoder_weights")
    static = content["embedding"][0]["records_s"]
    cores = value("records") / (static * gpus * value("cores"))
    return flop / (gpus * value("bf16") * value("encoder_use")) / HOUR, cores / HOUR


def stage1_hours(gpus: int, cells: int, content: dict) -> tuple[float, float]:
    """Exact A-DBSCAN of equal clusters: on the cores beside the GPUs, and by full products on the GPUs.

    No more work at a time than there are clusters: a core, or a GPU, works on one.
    """
    pairs = value("records") ** 2 / (2 * cells)
    cores = min(gpus * value("cores"), cells * value("cores"))
    cpu = pairs / (pairs_a_core_second(content["growth"]) * cores)
    flop = pairs * 2 * value("columns") * value("passes")
    return cpu / HOUR, flop / (min(gpus, cells) * value("fp32") * value("product_use")) / HOUR


def cell_bytes(cells: int) -> float:
    """Memory of one task of stage 1: its cluster's rows and what A-DBSCAN keeps of them."""
    return value("records") / cells * (4 * value("columns") + 600)


def stage2_hours(gpus: int, cells: int, content: dict) -> float:
    """MMR: a cluster's time grows with its size as between the two largest sizes, at least in proportion to it.

    One core works on one cluster.
    """
    records = sorted(content["growth"], key=lambda record: record["n"])
    last, power = records[-1], max(1.0, exponent(records[-2:], "select") or 1.0)
    one = extrapolated(records, "select", value("records") / cells * len(last["sizes"]), power) / len(last["sizes"])
    return one * last["threads"] * cells / min(gpus * value("cores"), cells) / HOUR


def training_hours(gpus: int, chosen: float) -> tuple[float, float]:
    """Experts as independent tasks (at most one GPU each); and all GPUs together on each (``accelerate launch``)."""
    flop = chosen * value("training_tokens") * value("epochs") * value("training_flop")
    hours = flop / (value("bf16") * value("training_use")) / HOUR
    return hours / min(gpus, value("experts")), hours / gpus


def movement_hours(gpus: int) -> tuple[float, float]:
    """Embeddings sent to the machine that writes them; and read once by all machines together."""
    size = 4 * value("records") * value("columns")
    return size / value("network") / HOUR, size / (value("disk") * gpus / value("per_machine")) / HOUR


# tables --------------------------------------------------------------------------------------------------------------
def tables(content: dict) -> dict[str, str]:
    """Markdown by the name of its mark in docs/scaling.md."""
    return {
        "growth": _growth(content["growth"]),
        "embedding": _embedding(content["embedding"]),
        "ray": _ray(content["ray"]),
        "assumptions": _table(
            ("assumption", "value", "from"),
            [(what, f"{_short(number)}", source) for number, what, source in ASSUMED.values()],
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
    head = ("clusters", "one task holds")
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
        begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
        before, rest = document.split(begin)
        document = f"{before}{begin}\n{table}\n{end}{rest.split(end)[1]}"
    return document


def main() -> None:
    content = read_json(RESULTS / "scaling.json")
    DOCUMENT.write_text(written(DOCUMENT.read_text(encoding="utf-8"), content), encoding="utf-8")


if __name__ == "__main__":
    main()
