"""Measure how time and memory grow with the number of records, and what Ray costs and saves: scaling.json.

    python -m benchmarks.scaling                            31,250 and 125,000 rows, embedding, Ray
    python -m benchmarks.scaling --sizes 500000,1000000 --only growth
    python -m benchmarks.scaling --sizes 1000000 --only cut             the same with clusters cut into parts
    python -m benchmarks.scaling --only quality --rows FILE.npy         what cutting does to the choice
    python -m benchmarks.scaling --quick --out FOLDER       seconds, to see that it works

What is in the file already is not measured again, unless with --again; each record is written as soon as it is there.
Every size has a process of its own. The tables of docs/scaling.md are then written by `tables`.
"""

from __future__ import annotations

import multiprocessing
import os
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(_name, str(os.cpu_count() or 1))
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import click  # noqa: E402

from assl_kit.common.files import read_json, write_json  # noqa: E402
from benchmarks.kernels.data import name_of, size_of  # noqa: E402
from benchmarks.machine import RESULTS  # noqa: E402

from . import parts  # noqa: E402
from .quality import quality as measure_quality  # noqa: E402

PARTS = ("growth", "cut", "embedding", "ray", "quality")
BY_SIZE = {"growth": 0, "cut": 10_000}  #: parts with a record a size: their ``cell_rows``
SIZES = (31_250, 125_000)  #: measured unless others are asked for
RAY_ROWS, RECORDS = 31_250, 16_384
QUALITY_ROWS = 20_000
SHOWN = ("_s", "_mb", "parts", "overlap", "coverage")  #: ends of the names of numbers that are printed


def in_new_process(work: Callable, *arguments):
    """What ``work(*arguments)`` gives, in a process of its own, with a folder that is removed afterwards."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as pool:
        return pool.submit(work, *arguments).result()


def measure(part: str, sizes, folder: str, quick: bool, there: list[dict], data: str) -> Iterator[tuple[str, list]]:
    """Records of a part that are not there yet, as soon as they are measured."""
    if part in BY_SIZE:
        for n in sizes:
            if n not in [record["n"] for record in there]:
                yield f"{n:,} rows", [in_new_process(parts.growth, n, folder, BY_SIZE[part] // (50 if quick else 1))]
    elif part == "quality":
        if name_of(data) not in [record["data"] for record in there]:
            n, d = (QUALITY_ROWS, parts.D) if data == "blobs" else size_of(data)
            yield name_of(data), in_new_process(measure_quality, data, min(n, 1_500 if quick else QUALITY_ROWS), d)
    elif not there:
        work, numbers = (parts.embedding, (400 if quick else RECORDS,)), (2_000, 400) if quick else (RAY_ROWS, RECORDS)
        if part == "ray":
            work = parts.ray_stages, numbers
        yield part, in_new_process(work[0], folder, *work[1])


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--sizes", default=",".join(map(str, SIZES)), show_default=True, help="Numbers of rows, by commas.")
@click.option("--only", default=",".join(PARTS), show_default=True, help="Parts, by commas.")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), default=RESULTS, show_default="results/")
@click.option("--folder", type=click.Path(file_okay=False, path_type=Path), help="Where rows are written for a while.")
@click.option("--rows", "data", default="blobs", help="For quality: an .npy file of unit rows.")
@click.option("--again", is_flag=True, help="Measure also what is there.")
@click.option("--quick", is_flag=True, help="Few rows, to see that it works.")
def main(sizes, only, out, folder, data, again, quick):
    """Measure growth, cut cells, embedding, Ray and the choice from cut cells on this machine."""
    if unknown := set(only.split(",")) - set(PARTS):
        raise click.BadParameter(f"unknown part {min(unknown)!r}; there are {', '.join(PARTS)}")
    sizes, path = [2_000, 4_000] if quick else [int(n) for n in sizes.split(",")], out / "scaling.json"
    content = {part: [] for part in PARTS} | (read_json(path) if path.is_file() else {})
    for part in only.split(","):
        key = "n" if part in BY_SIZE else "data" if part == "quality" else None
        with tempfile.TemporaryDirectory(dir=folder) as place:
            for name, records in measure(part, sizes, place, quick, [] if again else content[part], data):
                kept = [old for old in content[part] if key and old[key] not in [new[key] for new in records]]
                content[part] = kept + records
                if part in BY_SIZE:
                    content[part].sort(key=lambda record: record["n"])
                write_json(path, content)
                for record in records:
                    click.echo(f"{name}: " + ", ".join(f"{k} {v}" for k, v in record.items() if k.endswith(SHOWN)))


if __name__ == "__main__":
    main()
