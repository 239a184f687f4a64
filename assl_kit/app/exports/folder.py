"""The folder that every export for a server holds: adapters, routes, encoder, the programs that ask."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from assl_kit.common.files import atomic_path, read_json, write_json
from assl_kit.errors import BankError
from assl_kit.experts.adapter_form import ADAPTER_FILES
from assl_kit.experts.bank import ExpertBank
from assl_kit.experts.bank_check import check_match
from assl_kit.space.encoder import encode, encoder_fingerprint, load_encoder
from assl_kit.version import __version__

from .base import served_base
from .place import check_place

FORMAT_VERSION = 1
PROBE = ("公司上半年净利润同比增长32%，股价上涨。", "央行下调存款准备金率。", "What is a bond?")
ROUTES = "routes.json"
_SIDE_BY_SIDE = re.compile(r"\nfrom \.(\w+) import ")


@dataclass(frozen=True)
class Server:
    """A kind of server, and what an export for it holds.

    Attributes
    ----------
    kind : str
        As the client knows it: one of `assl_kit.app.served.forms.FORMS`.
    name : str
        As its makers write it.
    script : callable
        ``script(bank, base, rank)`` is the text of ``serve.sh``: ``base`` a hub id or folder, ``rank`` the largest.
    asked_as : callable
        ``asked_as(bank, expert)`` is what a request calls an expert, or the base (None).
    highest_rank : int, optional
        Of an adapter that it takes.
    programs : tuple of str
        The files of `assl_kit.app.served` that the folder holds.
    more : callable, optional
        ``more(bank, folder)`` writes what the folder holds besides.
    """

    kind: str
    name: str
    script: Callable[[ExpertBank, str, int], str]
    asked_as: Callable[[ExpertBank, str | None], str] = field(default=lambda bank, expert: expert or bank.base["id"])
    highest_rank: int | None = None
    programs: tuple[str, ...] = ("client.py", "forms.py", "routes.py")
    more: Callable[[ExpertBank, Path], None] | None = None


def write_folder(
    server: Server, bank: ExpertBank, out: str | os.PathLike, *, base: str | None = None, encoder: str | None = None
) -> Path:
    """Write what a server of one kind and its clients need to answer with the experts of a bank.

    Parameters
    ----------
    server : Server
    bank : ExpertBank
    out : path-like
        A new folder, or one that holds an earlier export for the same kind of server, which is replaced::

            adapters/expert-0 …   PEFT folders, as in the bank
            routes.json           experts, base and encoder, min_similarity, how requests name them
            router.safetensors    "centroids" (k, d), "probe" (3, d): what the encoder makes of three texts
            encoder/              the encoder, if the bank carries it
            base/                 the base, if no hub has it
            serve.sh              starts the server
            client.py …           route questions and ask the server

    base : str, optional
        What the server is to load: a hub id or a folder. Default: the base that the bank names. ``"tiny"`` and bases
        from GGUF files, which no server can have by their names, are saved into the export.
    encoder : str, optional
        Folder or hub id of the encoder, if the bank does not carry it.

    Returns
    -------
    pathlib.Path
        ``out``.

    Raises
    ------
    BankError
        If base or encoder are not those of the bank, the base has not the layers of an adapter (for a base of the
        hub the server sees to that), or the server takes no such rank.
    ParameterError
        If ``out`` holds something else, or base or encoder cannot be had.
    """
    out, form = Path(out), f"assl-kit {server.name} export"
    check_place(out, bank, ROUTES, form)
    rank = _largest_rank(bank, server)
    name = encoder or str(bank.encoder_path or bank.encoder["id"])
    if name == "fit":
        raise BankError("the bank does not carry its encoder", where=str(bank.path), hint="Give encoder=….")
    embedder = load_encoder(name)
    encoder_info = {"id": name, "fingerprint": encoder_fingerprint(embedder)}
    check_match("encoder", bank.encoder, encoder_info, "Use the bank's encoder.")
    with atomic_path(out) as temporary:
        temporary.mkdir()
        served = served_base(bank, base or bank.base["id"], temporary, server.name)
        for expert, path in zip(bank.names, bank.expert_paths, strict=True):
            (temporary / "adapters" / expert).mkdir(parents=True)
            for file in ADAPTER_FILES:
                shutil.copyfile(path / file, temporary / "adapters" / expert / file)
        if bank.encoder_path is not None:
            for file in (file for file in bank.info["files"] if file.startswith("encoder/")):
                (temporary / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(bank.path / file, temporary / file)
        _write_routes(bank, temporary, encode(embedder, PROBE), {"format": form, "max_lora_rank": rank}, server)
        for program in server.programs:  # side by side there, a package here
            source = (Path(__file__).parents[1] / "served" / program).read_text(encoding="utf-8")
            alone = _SIDE_BY_SIDE.sub(r"\nfrom \1 import ", source)
            (temporary / program).write_text(alone, encoding="utf-8", newline="\n")
        if server.more is not None:
            server.more(bank, temporary)
        (temporary / "serve.sh").write_text(server.script(bank, served, rank), encoding="utf-8", newline="\n")
        (temporary / "serve.sh").chmod(0o755)
    return out


def shell_script(about: str, words: list[str]) -> str:
    """A script that begins in its own folder and becomes one program.

    Parameters
    ----------
    about : str
        A comment.
    words : list of str
        The program and its options, a line each; further options of the caller follow.

    Examples
    --------
    >>> print(shell_script("Say it", ["echo hello"]), end="")
    #!/bin/sh
    # Say it. Options that follow are added: ./serve.sh --help
    set -e
    cd "$(dirname "$0")"
    exec echo hello \\
      "$@"
    """
    lines = " \\\n  ".join([*words, '"$@"'])
    head = f"#!/bin/sh\n# {about}. Options that follow are added: ./serve.sh --help\n"
    return f'{head}set -e\ncd "$(dirname "$0")"\nexec {lines}\n'


def _largest_rank(bank: ExpertBank, server: Server) -> int:
    """The largest rank of the adapters, if the server can take it."""
    largest = 0
    for path in bank.expert_paths:
        config = read_json(path / ADAPTER_FILES[0])
        rank = max([config.get("r", 8), *(config.get("rank_pattern") or {}).values()])
        if server.highest_rank is not None and rank > server.highest_rank:
            what = f"{server.name} cannot serve an adapter with rank {rank}"
            raise BankError(what, where=path.name, hint=f"Train one of at most {server.highest_rank}.")
        largest = max(largest, rank)
    return largest


def _write_routes(bank: ExpertBank, folder: Path, probe: np.ndarray, head: dict[str, Any], server: Server) -> None:
    from safetensors.numpy import save_file

    tensors = {"centroids": bank.centroids, "probe": probe}
    save_file(tensors, folder / "router.safetensors", metadata={"format": "np"})
    experts = [
        {"name": name, "path": f"adapters/{name}", "tasks": expert.get("tasks", {})}
        for name, expert in zip(bank.names, bank.info["experts"], strict=True)
    ]
    asked_as = {name: server.asked_as(bank, name) for name in bank.names}
    asked_as[bank.base["id"]] = server.asked_as(bank, None)
    table = {
        "format": head["format"],
        "format_version": FORMAT_VERSION,
        "assl_kit": __version__,
        "server": {"kind": server.kind, "models": asked_as},
        "base_model": bank.base["id"],
        "base": bank.base,
        "max_lora_rank": head["max_lora_rank"],
        "experts": experts,
        "router": {
            "kind": "nearest centroid",
            "file": "router.safetensors",
            "min_similarity": bank.min_similarity,
            "probe": list(PROBE),
        },
        "encoder": bank.encoder | {"path": "encoder" if bank.encoder_path is not None else None},
    }
    write_json(folder / ROUTES, table)
