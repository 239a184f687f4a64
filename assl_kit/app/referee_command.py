"""The command ``assl referee``: whether a choice of records is better than a random one, of a run or of a file."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from assl_kit.artifacts.parameters import DEFAULT_PROFILE, resolve
from assl_kit.artifacts.workspace import Workspace, find_run
from assl_kit.common.checks import real, whole
from assl_kit.errors import DataError, ParameterError, WorkspaceError

from .ask import json_option, open_run
from .console import print_frame, print_json

if TYPE_CHECKING:
    import pandas as pd

_ENDINGS = (".jsonl", ".jsonl.gz", ".json", ".json.gz", ".parquet")
_LISTS = (".parquet", ".jsonl", ".txt")
_MOST_COPIES = 1000


@click.command()
@click.argument("source", metavar="RUN|FILE")
@click.option("--share", type=float, help="Share of a file's training records to choose; default 0.1.")
@click.option(
    "--selection",
    "selections",
    metavar="NAME=FILE",
    multiple=True,
    help="Compare these records of the file too: .parquet, .jsonl (id, copies) or .txt (an id a line); repeatable.",
)
@click.option("--draws", type=int, help="Random draws; default 5, for a run its parameter referee_draws.")
@click.option("--seed", type=int, help="Of the split, the space, the draws; default 0, for a run its own.")
@json_option
def referee(
    source: str,
    share: float | None,
    selections: tuple[str, ...],
    draws: int | None,
    seed: int | None,
    as_json: bool,
) -> None:
    """Compare the choice of RUN, or the default choice from the records in FILE, with random ones of the same size.

    FILE is what a run takes as data: a .jsonl, .json or .parquet file, a folder, or "embedded".
    """
    if not source.strip():
        raise ParameterError("no run and no data is named", hint="Give a run, a file or a folder.")
    if _is_data(source):
        result = _of_records(
            source,
            share=0.1 if share is None else share,
            selections=selections,
            draws=5 if draws is None else draws,
            seed=seed or 0,
        )
    else:
        ws = open_run(source)
        record_options = {"--share": share, "--selection": selections or None, "--draws": draws, "--seed": seed}
        for option in (name for name, value in record_options.items() if value is not None):
            raise ParameterError(f"{option} is for a file of records, and {source!r} is a run", hint="Leave it out.")
        result = _of_run(ws)
    if as_json:
        print_json(result)
    else:
        _print(result)


def _is_data(source: str) -> bool:
    """Whether this names records; a run's folder and a name without a file are runs."""
    if find_run(source) is not None:
        return False
    return source == "embedded" or source.lower().endswith(_ENDINGS) or Path(source).exists()


def _of_run(ws: Workspace) -> dict[str, Any]:
    """The run's ``referee.json``, made if it is missing or out of date."""
    from assl_kit.artifacts.steps import is_current, require

    parameters = ws.current_parameters()
    if not is_current(ws, "referee", parameters):
        _tell("referee.json is missing or out of date: it is made, with what it needs.")
    result = require(ws, "referee", parameters)
    if "skipped" in result:
        hint = "Set referee_draws to 5, or label the data and give each task held-out questions."
        raise WorkspaceError(f"the referee was not asked: {result['skipped']}", where=ws.display_path(), hint=hint)
    return result


def _of_records(source: str, *, share: float, selections: tuple[str, ...], draws: int, seed: int) -> dict[str, Any]:
    """Choose from records as a run does by default, and compare that, and selections that are given, with random ones.

    All that can be refused is refused before the long work.
    """
    from assl_kit.artifacts.build_evaluation import CHOSEN
    from assl_kit.data.groups import with_groups
    from assl_kit.data.loading import load_records
    from assl_kit.data.splits import ensure_splits
    from assl_kit.evaluation import referee as method
    from assl_kit.evaluation.judge import Judge

    real("share", share, 0, 1)
    whole("draws", draws, 2, hint="5 or more are better.")
    whole("seed", seed, 0)
    ids_by_name = _read_selections(selections)
    _tell(f"reading {source}")
    records = ensure_splits(load_records(source, seed=seed), seed=seed)
    judge = Judge(with_groups(records), by="group", seed=seed)
    for name, ids in ids_by_name.items():
        if len(judge.rows_of(ids, f"selection {name!r}")) > len(judge.train):
            what = f"{len(ids):,} records are chosen, copies counted, but the training pool has {len(judge.train):,}"
            raise ParameterError(what, where=f"selection {name!r}", hint="Choose at most as many as there are.")
    n_select = round(share * len(judge.train))
    if n_select == 0:
        raise ParameterError(
            f"nothing would be chosen of {len(judge.train):,} training records",
            where="share",
            hint="Give a larger share, or more records.",
        )
    chosen = _choose(judge.train, n_select, seed)
    _tell(f"comparing with {draws} random draws, {len(judge.held):,} questions in {len(judge.groups)} groups")
    verdict = method.referee(
        judge, {CHOSEN: chosen} | ids_by_name, n_draws=draws, curves=True, seed=seed, progress=True
    )
    return verdict.as_dict()


def _choose(train: pd.DataFrame, n_select: int, seed: int) -> list[str]:
    """Ids that the default redistribution chooses, copies repeated, in a space fitted on these records."""
    from assl_kit.data.groups import assign_groups
    from assl_kit.data.records import prompts
    from assl_kit.selection.redistribute import Redistributor
    from assl_kit.space.clusters import SemanticKMeans
    from assl_kit.space.encoder import encode, load_encoder

    usual, texts = resolve(DEFAULT_PROFILE), prompts(train)
    n_clusters = min(usual.n_clusters, n_select)
    _tell(f"fitting an encoder on {len(train):,} records")
    encoder = load_encoder("fit", texts=texts, dim=usual.encoder_dim, seed=seed)
    X = encode(encoder, texts, progress=True)
    _tell(f"choosing {n_select:,} in {n_clusters} clusters")
    clusters = SemanticKMeans(n_clusters=n_clusters, random_state=seed).fit(X).labels_
    groups = assign_groups(train, clusters).to_numpy()
    selection = Redistributor(verbose=True).fit_select(X, clusters, n_select, groups=groups, ids=train["id"].to_numpy())
    return selection.table["id"].repeat(selection.table["copies"]).tolist()


def _read_selections(selections: tuple[str, ...]) -> dict[str, list[str]]:
    """The ids of each ``NAME=FILE``, copies repeated."""
    from assl_kit.artifacts.build_evaluation import CHOSEN
    from assl_kit.evaluation import referee as method

    ids_by_name: dict[str, list[str]] = {}
    for text in selections:
        name, sign, file = text.partition("=")
        if not (name.strip() and sign and file):
            raise ParameterError(f"{text!r} is no selection", where="--selection", hint="Write NAME=FILE.")
        if name in ids_by_name or name == CHOSEN or name.startswith((method.RANDOM, method.BALANCED)):
            raise ParameterError(f"the name {name!r} is taken", where="--selection", hint="Choose another name.")
        ids_by_name[name] = read_ids(Path(file))
    return ids_by_name


def read_ids(path: Path) -> list[str]:
    """The ids that a file lists: .parquet or .jsonl with ``id`` and optional ``copies``, or .txt with an id a line.

    Raises
    ------
    DataError
        The file cannot be read, is of another kind, lists nothing, or an entry has no id or a wrong number of copies.

    Examples
    --------
    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp()) / "mine.jsonl"
    >>> _ = file.write_text('{"id": "a", "copies": 2}\\n"b"', encoding="utf-8")
    >>> read_ids(file)
    ['a', 'a', 'b']
    """
    if not path.name.lower().endswith(_LISTS):
        raise DataError("the kind of file is not known", where=str(path), hint=f"Use one of {', '.join(_LISTS)}.")
    if not path.is_file():
        raise DataError("there is no such file", where=str(path), hint="Check the path.")
    ids: list[str] = []
    for place, entry in _entries(path):
        row = entry if isinstance(entry, Mapping) else {"id": entry}
        name, copies = row.get("id"), row.get("copies", 1)
        if isinstance(name, bool) or not isinstance(name, str | int) or name == "":
            raise DataError("an entry has no 'id'", where=place, hint="Give the id of a record.")
        if isinstance(copies, bool) or not isinstance(copies, int) or not 1 <= copies <= _MOST_COPIES:
            what = f"'copies' must be a whole number from 1 to {_MOST_COPIES}, got {copies!r}"
            raise DataError(what, where=place, hint="Leave out what is not chosen.")
        ids += [str(name)] * copies
    if not ids:
        raise DataError("the selection is empty", where=str(path), hint="Give the ids of the chosen records.")
    return ids


def _entries(path: Path) -> Iterator[tuple[str, Any]]:
    from assl_kit.common.limits import MAX_LINE, check_size
    from assl_kit.data.readers import iter_jsonl, iter_parquet

    if path.suffix.lower() == ".parquet":
        yield from iter_parquet(path)
    elif path.suffix.lower() == ".jsonl":
        yield from iter_jsonl(path)
    else:
        check_size(path, 16 * MAX_LINE)
        try:
            lines = path.read_text(encoding="utf-8-sig").splitlines()
        except (UnicodeDecodeError, OSError) as error:
            raise DataError("the file is not UTF-8 text", where=str(path), hint="Save it as UTF-8.") from error
        yield from ((f"{path}:{number}", line.strip()) for number, line in enumerate(lines, 1) if line.strip())


def _print(result: dict[str, Any]) -> None:
    from assl_kit.runner.choice import (
        difference_table,
        enough_sentence,
        enough_table,
        remarks,
        score_table,
        verdicts,
    )

    about = result["about"]
    print(f"Scores, means over {about['n_draws']} draws")
    print_frame(score_table(result))
    print(f"Differences, with intervals of {about['level']:.0%}")
    print_frame(difference_table(result))
    enough = enough_table(result)
    if enough is not None:
        print("Records chosen, and enough by the learning curves")
        print_frame(enough)
    sentences = [*remarks(result), enough_sentence(result), *verdicts(result)]
    print(*filter(None, sentences), sep="\n")


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
