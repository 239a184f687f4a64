"""The parts of the measurement, each run in a process of its own: growth, embedding, Ray.

They stand apart from ``__main__`` because a new process finds a function by the name of its module.
"""

from __future__ import annotations

import datetime
import gc
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from benchmarks.kernels.data import blocks
from benchmarks.machine import cpu_name, load

D, CLUSTERS = 384, 6
WARM_UP = 20_000  #: in two clusters, so that every loop is compiled: some are for more than 8,192 rows
POLL = 0.05  # seconds between two looks at the memory


# time and memory -----------------------------------------------------------------------------------------------------
@contextmanager
def measured(record: dict, name: str) -> Iterator[None]:
    """Enter ``<name>_s``, ``<name>_cpu_s`` and ``<name>_mb`` into the record.

    They are seconds of the clock; seconds of cores that this process had, which tell more on a busy machine; and the
    most private memory beyond that before. Pages of mapped files are not counted: the system takes them back when it
    needs to. Memory is None where the system does not say.
    """
    gc.collect()
    before, peak, end = _private(), [_private() or 0], threading.Event()

    def look():
        while not end.wait(POLL):
            peak[0] = max(peak[0], _private() or 0)

    watcher = threading.Thread(target=look, daemon=True)
    watcher.start()
    start, computed = time.perf_counter(), time.process_time()
    yield
    record[f"{name}_s"] = round(time.perf_counter() - start, 3)
    record[f"{name}_cpu_s"] = round(time.process_time() - computed, 3)
    end.set()
    watcher.join()
    record[f"{name}_mb"] = None if before is None else round((peak[0] - before) / 2**20, 1)


def _private() -> int | None:
    """Bytes of this process that are in no file."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("RssAnon")), None)


def machine() -> dict:
    """Where and when a record was measured."""
    return {
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "threads": int(os.environ["OMP_NUM_THREADS"]),
        "load": load(),
        "date": datetime.date.today().isoformat(),
    }


def mapped(folder: Path, n: int, d: int = D) -> np.ndarray:
    """Seeded unit rows in a file, written block by block, and mapped."""
    path = folder / f"{n}.rows"
    out = np.memmap(path, np.float32, "w+", shape=(n, d))
    for start, block in blocks("blobs", n, d):
        out[start : start + len(block)] = block
    out.flush()
    return np.memmap(path, np.float32, "r", shape=(n, d))


# growth --------------------------------------------------------------------------------------------------------------
def growth(n: int, folder: str, cell_rows: int = 0) -> dict:
    """k-means and the two stages on ``n`` mapped rows, clusters cut into parts of ``cell_rows``; a tenth is chosen."""
    from assl_kit.selection.redistribute import Redistributor
    from assl_kit.space.clusters import SemanticKMeans

    work = Redistributor(cell_rows=cell_rows)
    few = mapped(Path(folder), min(n, WARM_UP))
    SemanticKMeans(CLUSTERS).fit(few)
    work.fit_select(few, np.arange(len(few)) % 2, len(few) // 10)
    record = {"n": n, "d": D, "clusters": CLUSTERS, "n_select": n // 10} | machine()
    with measured(record, "rows"):
        X = mapped(Path(folder), n)
    with measured(record, "kmeans"):
        labels = SemanticKMeans(CLUSTERS).fit_predict(X)
    record["sizes"] = np.bincount(labels, minlength=CLUSTERS).tolist()
    if cell_rows:  # once more in each stage
        with measured(record, "cut"):
            sizes = part_sizes(X, labels, cell_rows)
        record |= {"cell_rows": cell_rows, "parts": len(sizes), "largest_part": max(sizes)}
        record["pairs"] = sum(size**2 for size in sizes) / 2
    with measured(record, "pool"):
        pool = work.pool(X, labels, n // 10)
    scores = np.random.default_rng(0).random(n)
    with measured(record, "select"):
        chosen = work.select(X, labels, pool, n // 10, scores=scores)
    record["chosen"] = int(chosen.repeats.sum())
    return record


def part_sizes(X: np.ndarray, labels: np.ndarray, cell_rows: int) -> list[int]:
    """Rows of all parts of all clusters."""
    from assl_kit.selection.cells import cut_rows

    clusters = [np.flatnonzero(labels == cluster) for cluster in range(CLUSTERS)]
    if not cell_rows:
        return [len(rows) for rows in clusters]
    return [int(size) for rows in clusters for size in np.bincount(cut_rows(X, rows, cell_rows))]


# embedding -----------------------------------------------------------------------------------------------------------
def encoders(folder: Path, texts: list[str]) -> Iterator[tuple[str, str, int]]:
    """Name, folder and number of records: the fitted static encoder, and a transformer with random weights."""
    from assl_kit.space.encoder import load_encoder

    load_encoder("fit", texts=texts, dim=D).save(str(folder / "static"))
    yield "fitted static, 384 columns", str(folder / "static"), len(texts)
    _random_transformer(folder, texts)
    yield "transformer, 12 layers of 384, random weights", str(folder / "transformer"), len(texts) // 16


def _random_transformer(folder: Path, texts: list[str]) -> None:
    """An encoder of the shape of bge-small: what it says means nothing, what it costs is right."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Normalize, Pooling, Transformer
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    from assl_kit.space.encoder import load_encoder

    tokenizer = load_encoder(str(folder / "static"))[0].tokenizer
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]", pad_token="[UNK]")
    fast.model_max_length = 512
    config = BertConfig(
        vocab_size=len(fast),
        hidden_size=D,
        num_hidden_layers=12,
        num_attention_heads=12,
        intermediate_size=4 * D,
        max_position_embeddings=512,
    )
    BertModel(config).save_pretrained(folder / "bert")
    fast.save_pretrained(folder / "bert")
    words = Transformer(str(folder / "bert"))
    SentenceTransformer(modules=[words, Pooling(D), Normalize()], device="cpu").save(str(folder / "transformer"))


def embedding(folder: str, n: int) -> list[dict]:
    """Records a second of one thread, by kind of encoder."""
    import torch

    from assl_kit.data.records import prompts
    from assl_kit.data.synthetic import make_corpus
    from assl_kit.space.encoder import encode, load_encoder

    torch.set_num_threads(1)
    records = make_corpus(n)
    texts, rows = prompts(records), []
    for name, place, count in encoders(Path(folder), texts):
        encoder = load_encoder(place)
        encode(encoder, texts[:64])
        start = time.perf_counter()
        encode(encoder, texts[:count])
        seconds = time.perf_counter() - start
        tokens = (
            sum(len(ids) for ids in encoder[0].tokenizer.encode_batch_fast(texts[:count])) if "static" in name else 0
        )
        rows.append({"encoder": name, "records": count, "seconds": round(seconds, 3)} | machine() | {"threads": 1})
        rows[-1] |= {"records_s": round(count / seconds, 1), "characters": round(sum(map(len, texts)) / len(texts), 1)}
        rows[-1]["tokens"] = round(tokens / count, 1) if tokens else rows[0]["tokens"]
    return rows


# Ray -----------------------------------------------------------------------------------------------------------------
def ray_stages(folder: str, n: int, records: int) -> list[dict]:
    """Seconds of the two stages and of embedding here with one thread, and on Ray with one and two workers."""
    import torch

    from assl_kit.data.parquet import block_starts
    from assl_kit.data.records import prompts, write_records
    from assl_kit.data.synthetic import make_corpus
    from assl_kit.selection.redistribute import Redistributor
    from assl_kit.space.clusters import SemanticKMeans
    from assl_kit.space.embeddings import embed_block
    from assl_kit.space.encoder import load_encoder

    few, X = mapped(Path(folder), min(n, WARM_UP)), mapped(Path(folder), n)
    labels, halves = SemanticKMeans(CLUSTERS).fit_predict(X), np.arange(len(few)) % 2
    corpus, file, place = make_corpus(records), Path(folder) / "r.parquet", str(Path(folder) / "encoder")
    write_records(corpus, file)
    load_encoder("fit", texts=prompts(corpus), dim=D).save(place)
    encoder = load_encoder(place)

    def stages(work):
        return work.fit_select(X, labels, n // 10).indices

    def local_embedding():
        return [embed_block(encoder, file, number) for number in range(len(block_starts(file)) - 1)]

    torch.set_num_threads(1)
    work = Redistributor(n_jobs=1)
    work.fit_select(few, halves, len(few) // 10)
    rows, base = [], {"n": n, "d": D, "records": records}
    seconds, picks = _timed(lambda: stages(work))
    embed_s, _ = _timed(local_embedding)
    rows.append({"engine": "one process, one thread", "workers": 1, "start_s": 0.0} | base | machine())
    rows[-1] |= {"stages_s": seconds, "embed_s": embed_s, "same": True, "threads": 1}
    for workers in (1, 2):
        rows.append(_on_ray(workers, few, halves, stages, picks, file, place) | base | machine() | {"threads": 1})
    return rows


def _on_ray(workers: int, few, labels, stages: Callable, picks: np.ndarray, file: Path, encoder: str) -> dict:
    from assl_kit.artifacts.ray_stages import RayRedistributor, embed_side_by_side
    from assl_kit.common.cluster import connect

    start_s, ray = _timed(lambda: connect(num_cpus=workers, object_store_memory=400 * 2**20))
    try:
        work = RayRedistributor(n_jobs=1)
        first_s, _ = _timed(lambda: work.fit_select(few, labels, len(few) // 10))  # processes start, loops are loaded
        stages_s, chosen = _timed(lambda: stages(work))
        task = ray.remote(lambda: None)
        trip_s, _ = _timed(lambda: [ray.get(task.remote()) for _ in range(100)])
        embed_s, _ = _timed(lambda: list(embed_side_by_side(file, encoder, workers=workers)))
    finally:
        ray.shutdown()
    record = {"engine": "Ray", "workers": workers, "start_s": start_s, "first_s": first_s, "stages_s": stages_s}
    return record | {"task_ms": round(10 * trip_s, 2), "embed_s": embed_s, "same": bool(np.array_equal(chosen, picks))}


def _timed(work: Callable) -> tuple[float, object]:
    start = time.perf_counter()
    result = work()
    return round(time.perf_counter() - start, 3), result
