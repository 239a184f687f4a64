"""The card of a selection: what the hub reads of it, and what a person should know before training on it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from assl_kit.common.cards import as_text, front_matter, table
from assl_kit.data.records import LEFT_OUT

from ..choice import difference_table, remarks, score_table, verdicts
from ..page import show

_SIZES = (
    (1_000, "n<1K"),
    (10_000, "1K<n<10K"),
    (100_000, "10K<n<100K"),
    (1_000_000, "100K<n<1M"),
    (10_000_000, "1M<n<10M"),
    (100_000_000, "10M<n<100M"),
)
_HAN, _KANA, _LATIN = re.compile("[\u4e00-\u9fff]"), re.compile("[\u3040-\u30ff]"), re.compile("[A-Za-z]")
_ENGLISH = re.compile(r"\b(the|of|and|is|to)\b", re.IGNORECASE)
_LOOKED_AT = 2000  # records that tell the language


def selection_card(about: Mapping[str, Any], language: str | None) -> str:
    """The README.md of a selection.

    Parameters
    ----------
    about : mapping
        The content of its ``selection.json``.
    language : str or None
        As `language_of` finds it.
    """
    return _head(about, language) + "\n" + "\n\n".join(_body(about)) + "\n"


def language_of(texts: Sequence[str]) -> str | None:
    """ "zh", "en" or None, by the letters and the commonest words of the first texts.

    Examples
    --------
    >>> language_of(["公司净利润增长三成"]), language_of(["What is the price of gold?"]), language_of(["Was ist Gold?"])
    ('zh', 'en', None)
    """
    text = " ".join(texts[:_LOOKED_AT])
    han, latin = len(_HAN.findall(text)), len(_LATIN.findall(text))
    if han > latin / 4 and han > len(_KANA.findall(text)):
        return "zh"
    return "en" if 100 * len(_ENGLISH.findall(text)) > latin > 2 * han else None


def _head(about: Mapping[str, Any], language: str | None) -> str:
    written, n = about["written"], about["counts"]["chosen"]
    data_files: dict[str, Any] = {"split": "train", "path": written["file"]}
    config: dict[str, Any] = {"config_name": "default", "data_files": [data_files]}
    if written["separator"] != ",":
        config["sep"] = written["separator"]
    return front_matter(
        {
            "license": about["settings"]["license"],
            "language": [language] if language else None,
            "pretty_name": f"{about['source']['name']}, {n:,} chosen records",
            "task_categories": ["text-generation"],
            "tags": ["instruction-tuning", "data-selection", "assl-kit"],
            "size_categories": [next((name for most, name in _SIZES if n < most), "100M<n<1B")],
            "configs": [config],
        }
    )


def _body(about: Mapping[str, Any]) -> Iterator[str]:
    counts, written, source = about["counts"], about["written"], about["source"]
    yield f"# {as_text(source['name'])}: {counts['chosen']:,} chosen of {counts['train']:,} records"
    yield (
        "Chosen with [assl-kit](https://arxiv.org/abs/2404.04949) (adaptive semantic space learning), without a "
        f"language model: places are shared out over {about['groups']['by']}s, and in each share an adaptive DBSCAN "
        "spares near copies. Test records were not chosen from."
    )
    yield from (f"> {as_text(note)}" for note in about["notes"])
    yield "## Files\n\n" + table(["file", "what"], _files(about))
    yield (
        f'```python\nfrom datasets import load_dataset\n\nload_dataset("json", data_files="{written["file"]}")\n```'
        if (written["file"].endswith((".json", ".jsonl")))
        else f"`{written['file']}` is as its source was."
    )
    yield "## Settings\n\n" + table(["setting", "value"], [[name, show(value)] for name, value in _settings(about)])
    yield "## Source\n\n" + table(
        ["", ""], [["name", source["name"]], ["SHA-256", source["sha256"]], *_counted(counts)]
    )
    for column in ("task", "source"):
        rows = about["kept"][f"by_{column}"]
        if rows:
            yield f"## By {column}\n\n" + table(
                [column, "before", "after"], [[row[column], row["before"], row["after"]] for row in rows]
            )
    yield "## Duplicates\n\n" + "\n".join(duplicate_lines(about["duplicates"]))
    yield "## Leakage between train and test\n\n" + "\n".join(leakage_lines(about["leakage"]))
    yield "## Is the choice better than a random one?\n\n" + "\n\n".join(_referee(about["referee"]))


def _files(about: Mapping[str, Any]) -> Iterator[list[str]]:
    yield [about["written"]["file"], "the chosen records"]
    if "dataset_info.json" in about["files"]:
        yield ["dataset_info.json", f"describes them to LLaMA-Factory as {about['name']}"]
    yield ["reasons.parquet", "for each record of the source: its cluster, group, weight, rank, and who stands for it"]
    if LEFT_OUT in about["files"]:
        yield [LEFT_OUT, "records that could not be read, and why"]
    yield ["selection.json", "all of this for programs"]


def _settings(about: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    yield from ((name, value) for name, value in about["settings"].items() if value is not None)
    yield from about["method"].items()


def _counted(counts: Mapping[str, int]) -> Iterator[list[Any]]:
    for name, what in (
        ("records", "records"),
        ("train", "that may be learnt from"),
        ("test", "test"),
        ("bad", "left out as bad"),
    ):
        yield [what, f"{counts[name]:,}"]


def duplicate_lines(counts: Mapping[str, Any]) -> list[str]:
    """What was found of duplicates, as lines of a list.

    Parameters
    ----------
    counts : mapping
        ``exact``, ``near``, ``conflicting``, ``dropped``, ``similarity`` (None: near ones were not looked for).
    """
    lines = [f"- exact, question and answer of an earlier record: {counts['exact']:,}"]
    if counts["similarity"] is not None:
        lines.append(
            f"- near, same answer to a question with a cosine of {counts['similarity']} or more: {counts['near']:,}"
        )
    lines.append(f"- conflicting, another answer to the same question: {counts['conflicting']:,}")
    return lines + ([f"- dropped before choosing: {counts['dropped']:,}"] if counts.get("dropped") else [])


def leakage_lines(counts: Mapping[str, Any] | None) -> list[str]:
    """What was found of leakage, as lines of a list; None: there are no test records."""
    if counts is None:
        return ["The source has no test records."]
    lines = [f"- exact, a training record asks the same: {counts['exact']:,} of {counts['test']:,} test questions"]
    if counts["similarity"] is not None:
        lines.append(f"- near, with a cosine of {counts['similarity']} or more: {counts['near']:,} others")
    lines.append(f"- with the same answer: {counts['same_answer']:,} of these")
    if counts.get("chosen") is not None:
        lines.append(f"- nearest to a chosen record: {counts['chosen']:,} of these")
    return lines


def _referee(result: Mapping[str, Any]) -> Iterator[str]:
    if "skipped" in result:
        yield f"The referee was not asked: {as_text(result['skipped'])}."
        return
    if result.get("held_out"):
        yield (
            f"The source has no test records. So the same choice was made from the other records once "
            f"{result['held_out']:,} were held out, and judged on these."
        )
    yield from (as_text(sentence) for sentence in verdicts(result))
    yield from (_frame(part) for part in (difference_table(result), score_table(result)))
    yield from (as_text(remark) for remark in remarks(result))


def _frame(frame: pd.DataFrame) -> str:
    return table(list(frame.columns), ([show(cell) for cell in row] for row in frame.itertuples(index=False)))
