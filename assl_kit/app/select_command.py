"""The commands ``assl select`` and ``assl check``: the better part of a file of records, and what is wrong with one."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from .ask import json_option
from .console import from_here, print_json, print_table

_on_bad = click.option(
    "--on-bad", type=click.Choice(["refuse", "skip"]), default="refuse", show_default=True,
    help="What becomes of records that cannot be read; what is skipped is listed in left_out.jsonl.",
)  # fmt: skip
_similarity = click.option(
    "--similarity", type=float, default=0.95, show_default=True, help="Least cosine of two near questions."
)
_encoder = click.option(
    "--encoder", metavar="ID_OR_FOLDER", default="fit", show_default=True, help="fit: fitted on the file."
)
_seed = click.option(
    "--seed", type=int, default=0, show_default=True, help="Of the encoder, the clusters, the referee."
)


@click.command()
@click.argument("source", metavar="FILE")
@click.option("--keep", default="10%", show_default=True, metavar="SHARE|NUMBER", help="How many: 10% or 5000.")
@click.option("--out", required=True, metavar="DIR", type=click.Path(path_type=Path), help="A new or empty folder.")
@click.option("--format", "form", default="same", show_default=True, metavar="FORMAT",
              help="same, jsonl, alpaca, messages, sharegpt or parquet.")  # fmt: skip
@click.option("--for", "target", metavar="FILE", help="Choose for these records, such as a dev set.")
@click.option("--drop-duplicates", is_flag=True, help="Leave out exact and near duplicates.")
@_similarity
@_encoder
@_seed
@click.option("--referee/--no-referee", default=None, help="Ask cheap learners; default up to 50,000 records.")
@click.option("--license", "license_", default="unknown", show_default=True, help="Of the source, for the card.")
@_on_bad
@click.option("--push-to-hub", "hub_id", metavar="OWNER/NAME", help="Send the folder to the hub, as assl push does.")
@click.option("--dry-run", is_flag=True, help="Read and check everything, say what would be done, write nothing.")
@json_option
def select(
    source: str,
    keep: str,
    out: Path,
    form: str,
    target: str | None,
    drop_duplicates: bool,
    similarity: float,
    encoder: str,
    seed: int,
    referee: bool | None,
    license_: str,
    on_bad: str,
    hub_id: str | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Write the better part of FILE into a folder that trainers and the hub read.

    FILE is what a run takes as data: JSON lines, a JSON list, CSV, Parquet, a folder, or a dataset of the hub.
    """
    from assl_kit.common.hub import check_hub
    from assl_kit.runner.selecting.plan import plan_selection
    from assl_kit.runner.selecting.select import run_selection
    from assl_kit.runner.selecting.settings import Settings

    settings = Settings(keep, form, target, drop_duplicates, similarity, encoder, seed, referee, license_)
    if hub_id and not dry_run:
        check_hub(hub_id)
    print(f"reading {source}", file=sys.stderr, flush=True)
    plan = plan_selection(source, out, settings, on_bad=on_bad)
    if dry_run:
        about = plan.about()
        print_json(about) if as_json else _print_plan(about)
        return
    chosen = run_selection(plan, progress=True)
    address = chosen.push_to_hub(hub_id) if hub_id else None
    if as_json:
        print_json({"out": out, **chosen.about} | ({"hub": address} if address else {}))
        return
    _print_chosen(chosen.about, out)
    if address:
        print(f"Sent: {address}")


def _print_plan(about: dict[str, Any]) -> None:
    print(f"{about['keep']:,} of {about['train']:,} records would be chosen (of {about['of']}). Nothing is written.")
    groups = about["groups"] if about["n_groups"] is None else f"{about['groups']} ({about['n_groups']:,})"
    rows = [
        ("records", about["records"]), ("test records, never chosen", about["test"]), ("left out as bad", about["bad"]),
        ("places are shared out over", groups), ("to choose for", about["for"]),
        ("the referee is asked", "yes" if about["referee"] else "no"), ("folder", about["out"]),
        ("about how long, on two cores", f"{about['minutes']} minutes"),
    ]  # fmt: skip
    print_table(("", ""), [row for row in rows if row[1] is not None])


def _print_chosen(about: dict[str, Any], out: Path) -> None:
    from assl_kit.runner.choice import verdicts

    print_table(("task", "before", "after"), [row.values() for row in about["kept"]["by_task"]])
    print(*_lines(about["duplicates"], about["leakage"]), *about["notes"], sep="\n")
    target = about["target"]
    if target:
        print(
            f"Similarity to {target['name']}: {target['similarity_of_chosen']:.3f} of chosen records, "
            f"{target['similarity_of_all']:.3f} of all."
        )
    verdict = about["referee"]
    print(
        *([f"The referee was not asked: {verdict['skipped']}."] if "skipped" in verdict else verdicts(verdict)),
        sep="\n",
    )
    print(f"{about['counts']['chosen']:,} records: {from_here((out / about['written']['file']).absolute())}")


def _lines(duplicates: dict[str, Any], leakage: dict[str, Any] | None) -> list[str]:
    near = "" if duplicates["similarity"] is None else f", {duplicates['near']:,} near"
    dropped = f", {duplicates['dropped']:,} dropped" if duplicates.get("dropped") else ""
    lines = [f"Duplicates: {duplicates['exact']:,} exact{near}, {duplicates['conflicting']:,} conflicting{dropped}."]
    if leakage is not None:
        near = "" if leakage["similarity"] is None else f", {leakage['near']:,} near"
        lines.append(
            f"Test questions among the training records: {leakage['exact']:,} exact{near} of {leakage['test']:,}."
        )
    return lines


@click.command()
@click.argument("source", metavar="FILE")
@_similarity
@click.option("--near/--no-near", default=True, help="Look for near duplicates too; that embeds the records.")
@_encoder
@_seed
@json_option
def check(source: str, similarity: float, near: bool, encoder: str, seed: int, as_json: bool) -> None:
    """Say what FILE holds and what is wrong with it, without running anything. Exit code 2: some records are bad."""
    from assl_kit.runner.selecting.check import check_file

    checked = check_file(source, similarity=similarity if near else None, encoder=encoder, seed=seed)
    about = checked.about
    if as_json:
        print_json(about)
    else:
        splits = ", ".join(f"{about[name]:,} {name}" for name in ("train", "dev", "test") if about[name])
        print(f"{about['records']:,} records: {splits}. Fields: {', '.join(about['fields'])}")
        print_table(("task", "training", "test"), [row.values() for row in about["tasks"]])
        print(*_lines(about["duplicates"], about["leakage"]), *checked.remarks, sep="\n")
        for left in about["bad"][:20]:
            print(f"{left['place']}: {left['reason']}")
        bad = len(about["bad"])
        print(f"{bad:,} cannot be read; leave them out by --on-bad skip." if bad else "Every record can be read.")
    if not checked.is_good:
        sys.exit(2)
