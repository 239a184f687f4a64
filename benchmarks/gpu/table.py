"""Write the tables of docs/gpu.md from the files of results: ``python -m benchmarks.gpu.table``."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from assl_kit.common.files import read_json, write_text
from benchmarks.machine import RESULTS, ROOT, with_table

from .flops import flops_a_token

DOCUMENT = ROOT / "docs" / "gpu.md"
QWEN_7B = SimpleNamespace(
    hidden_size=4096, intermediate_size=11_008, num_hidden_layers=32, num_attention_heads=32, vocab_size=151_936
)
QWEN_HALF_B = SimpleNamespace(
    hidden_size=896,
    num_hidden_layers=24,
    num_attention_heads=14,
    num_key_value_heads=2,
    intermediate_size=4864,
    vocab_size=151_936,
)
T4_PASSES = 3 * 1_800 * 2  #: records that the profile t4 trains on: three trainings, two epochs
T4_TOKENS, T4_ANSWERS, RECOMPUTED = 80, 0.1, 4 / 3  #: of a record of the embedded corpus: assumed
T4_SHARES = 0.15, 0.05  #: of the data sheet: assumed
TOKENS, ANSWERS = 425, 1 / 3  #: of a record, and the share of them with a loss: assumed
CARDS = {"H100 SXM": 989e12, "A100": 312e12, "L40S": 362e12, "L4": 121e12, "T4 (float16)": 65e12}
BEST = ("NeMo Automodel, Qwen2.5-7B, rows of 4,096", 14_110)


def training_table(content: dict[str, Any]) -> str:
    """What the first runs gave, with the share of the card by arithmetic."""
    lines = ["| work | rows | speed | GB | note |", "|---|---|---|---|---|"]
    for record in content["records"]:
        low, high, gb = record["low"], record["high"], record["memory_gb"]
        speed = f"{low:,}" + (f" to {high:,}" if high > low else "") + f" {record['unit']}"
        lines.append(f"| {record['what']} | {record['rows']} | {speed} | {gb or '–'} | {record['note'] or '–'} |")
    return "\n".join(lines)


def kernels_table(content: dict[str, Any]) -> str:
    """Seconds of each kernel on the card, and how many float32 products that is."""
    lines = ["| kernel | rows | s | float32 products | MB on the card | checked |", "|---|---|---|---|---|---|"]
    for r in content["records"]:
        if r["system"] == "assl-kit" and r["data"] == "blobs":
            checked = "yes" if r["agrees"] else "no reference"
            numbers = f"{r['seconds']:.2f} | {r['ratio_to_gemm']:.1f} | {r['peak_mb']:,.0f}"
            lines.append(f"| {r['kernel']} | {r['n']:,} | {numbers} | {checked} |")
    return "\n".join(lines)


def together_table(content: dict[str, Any]) -> str:
    """Gemma 270M in one process: many adapters at the same time beside one."""
    lines = ["| adapters at once | tokens/s | GB | answering, s |", "|---|---|---|---|"]
    for part in content["parts"]:
        if "training_seconds" in part:
            count = str(len(part["arms"])) if "arms" in part else "1 (60 steps)"
            speed = f"{part['tokens_per_second']:,}"
            lines.append(f"| {count} | {speed} | {part['memory_gb']:.1f} | {part['answering_seconds']:.1f} |")
    return "\n".join(lines)


def sums_table(content: dict[str, Any], cards: list[dict[str, Any]]) -> str:
    """Tokens a second of the 7B shape on other cards, at the shares of the data sheet that were reached on one."""
    each = flops_a_token(QWEN_7B, 16, [TOKENS], ANSWERS)
    first = content["records"][0]
    before = [first[end] * each / CARDS["H100 SXM"] for end in ("low", "high")]
    now = max((part["mfu"] for card in cards for part in card["parts"].values() if part.get("mfu")), default=before[1])
    name, best = BEST
    heads = f"first measured, {before[0]:.0%} to {before[1]:.0%} | now, {now:.1%}"
    lines = [f"| card | data sheet, TFLOP/s | tokens/s as {heads} |", "|---|---|---|---|"]
    for card, peak in CARDS.items():
        low, high = (share * peak / each for share in before)
        after = "not tried: no flash attention" if card.startswith("T4") else f"{now * peak / each:,.0f}"
        lines.append(f"| {card} | {peak / 1e12:.0f} | {low:,.0f} to {high:,.0f} | {after} |")
    lines.append(f"| the best known on one H100: {name} | 989 | {best:,}, about {best * each / 989e12:.0%} | – |")
    return "\n".join(lines)


def minutes_on_a_t4() -> tuple[float, float]:
    """Minutes that the profile t4 trains, if a T4 reaches `T4_SHARES` of its data sheet: fewest first."""
    each = flops_a_token(QWEN_HALF_B, 16, [T4_TOKENS], T4_ANSWERS) * RECOMPUTED
    low, high = (T4_PASSES * T4_TOKENS * each / (share * CARDS["T4 (float16)"]) / 60 for share in T4_SHARES)
    return low, high


def t4_table() -> str:
    """The sum of the profile t4: what it trains, and the minutes that takes."""
    low, high = minutes_on_a_t4()
    shares = " to ".join(f"{share:.0%}" for share in sorted(T4_SHARES))
    return "\n".join(
        [
            "| training of the profile t4 | records, all epochs | tokens of each | share of 65 TFLOP/s | minutes |",
            "|---|---|---|---|---|",
            f"| six experts, two single adapters | {T4_PASSES:,} | {T4_TOKENS} | {shares} | {low:.0f} to {high:.0f} |",
        ]
    )


def card_table(contents: list[dict[str, Any]]) -> str:
    """The training parts of each file that `python -m benchmarks.gpu` wrote."""
    lines = ["| card | part | tokens/s | MFU | first steps, s | GB | commit |", "|---|---|---|---|---|---|---|"]
    for content in contents:
        for name, part in content["parts"].items():
            if "tokens_per_second" in part:
                share = f"{part['mfu']:.1%}" if part["mfu"] else "–"
                first = ", ".join(map(str, part["first_steps_seconds"]))
                numbers = f"{part['tokens_per_second']:,.0f} | {share} | {first} | {part['memory_gb']}"
                lines.append(f"| {content['about']['card']} | {name} | {numbers} | {part['commit']} |")
    return "\n".join(lines) if len(lines) > 2 else "No card has been measured by this command yet."


def profile_table(contents: list[dict[str, Any]]) -> str:
    """Two steps of the 7B training under torch's profiler, before there were flat rows and compiled layers, and now."""
    lines = ["| card | way | operations | casts | waits for the card | dearest kernels |", "|---|---|---|---|---|---|"]
    for content in contents:
        for name, part in content["parts"].items():
            for when in ("before", "now") if name.endswith("profiled") else ():
                one = part[when]
                waits = sum(one["waits"].get(kind, 0) for kind in ("aten::_local_scalar_dense", "aten::nonzero"))
                kernels = [e for e in one["dearest"] if e["operation"].startswith("aten::")][:3]
                dearest = ", ".join(f"{e['operation'][6:]} {e['milliseconds']:.0f} ms" for e in kernels)
                numbers = f"{one['operations']:,} | {one['casts']:,} | {waits} | {dearest}"
                lines.append(f"| {content['about']['card']} | {when} | {numbers} |")
    return "\n".join(lines)


def agreement_table(contents: list[dict[str, Any]]) -> str:
    """Losses and gradient norms of the same first steps, computed in each way."""
    lines = ["| card | way | losses of the first steps | gradient norms |", "|---|---|---|---|"]
    for content in contents:
        ways = {name: part for name, part in content["parts"].items() if part.get("first_losses")}
        for name, part in ways.items():
            if part["settings"]["max_length"] == 2048 and part["settings"]["packing"]:
                losses = ", ".join(f"{value:.3f}" for value in part["first_losses"])
                norms = ", ".join(f"{value:.3f}" for value in part["first_gradient_norms"])
                lines.append(f"| {content['about']['card']} | {name} | {losses} | {norms} |")
    return "\n".join(lines)


def card_kernels_table(contents: list[dict[str, Any]]) -> str:
    """The selection's kernels on each card, beside the CPU's of the same run."""
    lines = ["| card | kernel | rows | s | float32 products | CPU, s | times as fast | same bits |"]
    lines.append("|---|---|---|---|---|---|---|---|")
    for content in contents:
        for part in content["parts"].values():
            records = part.get("records")
            records = records if isinstance(records, list) else []
            for r in records:
                if r["device"] == "cpu":
                    continue
                same = [c for c in records if c["device"] == "cpu" and (c["kernel"], c["system"]) == _name(r)]
                beside = f"{same[0]['seconds']:.2f} | {same[0]['seconds'] / r['seconds']:.1f}" if same else "– | –"
                bits = {True: "yes", False: "no"}.get(r.get("same_as_cpu"), "–")
                ratio = f"{r['ratio_to_gemm']:.2f}" if r["ratio_to_gemm"] else "–"
                numbers = f"{r['seconds']:.3f} | {ratio} | {beside} | {bits}"
                what = r["kernel"] if r["system"] == "assl-kit" else r["system"]
                lines.append(f"| {content['about']['card']} | {what} | {r['n']:,} | {numbers} |")
    return "\n".join(lines)


def _name(record: dict[str, Any]) -> tuple[str, str]:
    return record["kernel"], record["system"]


def small_table(contents: list[dict[str, Any]]) -> str:
    """Gemma 270M on each card: adapters together and alone, scoring, answering."""
    lines = [
        "| card | weights | work | tokens/s | scored records/s | answering, s | as fast as one at a time | GB |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for content in contents:
        for name, part in content["parts"].items():
            for work, facts in part.get("parts", {}).items() if name.startswith("Gemma") else ():
                if "tokens_per_second" in facts:
                    scored = f"{facts['scored_records_per_second']:,}" if "scored_records_per_second" in facts else "–"
                    faster = facts.get("answering_times_as_fast", "–")
                    numbers = f"{facts['tokens_per_second']:,} | {scored} | {facts['answering_seconds']} | {faster}"
                    where = f"{content['about']['card']} | {part['weights']} | {work}"
                    lines.append(f"| {where} | {numbers} | {facts['memory_gb']} |")
    return "\n".join(lines)


def written(document: str, folder: Path = RESULTS) -> str:
    """The document with every table between its two marks."""
    training = read_json(folder / "training_h100.json")
    cards = [read_json(file) for file in sorted(folder.glob("gpu-*.json"))]
    tables = {
        "training": training_table(training),
        "kernels": kernels_table(read_json(folder / "kernels_h100.json")),
        "together": together_table(read_json(folder / "cfleb_h100.json")),
        "sums": sums_table(training, cards),
        "t4": t4_table(),
        "cards": card_table(cards),
        "profile": profile_table(cards),
        "agreement": agreement_table(cards),
        "card kernels": card_kernels_table(cards),
        "small": small_table(cards),
    }
    for name, table in tables.items():
        document = with_table(document, name, table)
    return document


if __name__ == "__main__":
    write_text(DOCUMENT, written(DOCUMENT.read_text(encoding="utf-8")))
