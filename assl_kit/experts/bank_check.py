"""What is checked before an expert bank is used: its form, its files, and what it is used with."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from assl_kit.common.files import read_json, sha256_file
from assl_kit.common.hub import HUB_ID
from assl_kit.common.trust import check_encoder_folder, leads_out
from assl_kit.errors import BankError, ParameterError

from .adapter_form import ADAPTER_FILES, adapter_shapes, check_adapter_config

FORMAT = "assl-kit expert bank"
FORMAT_VERSION = 1
_SUFFIXES = {".safetensors", ".json", ".md", ".txt"}


def locate(path: str | os.PathLike, revision: str | None) -> tuple[Path, Path]:
    """The bank's folder, and the folder its files must stay in (the hub's cache keeps files as links into itself)."""
    folder = Path(path).expanduser()
    if folder.is_dir():
        return folder, folder.resolve()
    if not HUB_ID.match(str(path)):
        raise BankError("there is no expert bank", where=str(path), hint="Give a bank's folder or a hub id owner/name.")
    from huggingface_hub import snapshot_download

    wanted = ["bank.json", "router.safetensors", "expert-*/adapter_*.json", "expert-*/*.safetensors", "encoder/*"]
    try:
        snapshot = Path(snapshot_download(str(path), revision=revision, allow_patterns=wanted))
    except Exception as error:
        raise BankError(
            f"the expert bank could not be had from the hub: {type(error).__name__}",
            where=str(path),
            hint="Check the name and the network (HF_HUB_OFFLINE allows cached banks only), or give a local folder.",
        ) from error
    return snapshot, snapshot.resolve().parents[1]


def read_info(folder: Path) -> dict[str, Any]:
    file = folder / "bank.json"
    if not file.is_file():
        raise BankError("there is no bank.json, so this is no expert bank", where=str(folder))
    try:
        info = read_json(file)
    except ValueError as error:  # JSON's, the encoding's, or a file too large
        raise BankError(f"bank.json is not readable JSON: {error}", where=str(file)) from None
    if not isinstance(info, dict) or info.get("format") != FORMAT:
        raise BankError("bank.json does not describe an expert bank", where=str(file))
    if info.get("format_version") != FORMAT_VERSION:
        raise BankError(
            f"the bank has format version {info.get('format_version')!r}, this program reads {FORMAT_VERSION}",
            where=str(file),
            hint="Install the assl-kit version that wrote it.",
        )
    try:
        names = [expert["name"] for expert in info["experts"]]
        base, encoder = info["base"], info["encoder"]
        texts = [base["id"], base["fingerprint"], encoder["id"], encoder["fingerprint"]]
        texts += [base.get(key) or "" for key in ("revision", "tokenizer")]
        float(info["router"]["min_similarity"])
        files = {str(name): str(digest) for name, digest in info["files"].items()}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BankError(f"bank.json lacks or misspells an entry: {error}", where=str(file)) from None
    in_order = bool(names) and names == [f"expert-{k}" for k in range(len(names))]
    if not in_order or not all(isinstance(text, str) for text in texts):
        raise BankError("bank.json must list experts expert-0, expert-1, …, a base and an encoder", where=str(file))
    revision = base.get("revision") or ""
    for name, is_place in ((base["id"], True), (encoder["id"], True), (revision, False)):
        odd = not name.isprintable() or name.startswith(("-", ".")) or len(name) > 200
        if odd or (is_place and _is_path(name)):
            raise BankError(
                f"bank.json names a base or encoder by {name[:80]!r}, which is no name",
                where=str(file),
                hint="Only a hub id or a name without a folder can stand there; of a local one give the place by base= "
                "or encoder=.",
            )
    needed = {"router.safetensors", *(f"{name}/{part}" for name in names for part in ADAPTER_FILES)}
    if missing := sorted(needed - set(files)):
        raise BankError(f"bank.json has no SHA-256 of {missing[0]}", where=str(file))
    return info


def _is_path(name: str) -> bool:
    """Whether a base or encoder is named by a place on some machine: a bank must not choose what is loaded here."""
    return leads_out(name) or name.count("/") > 1


def check_files(folder: Path, root: Path, info: dict[str, Any]) -> None:
    """Each listed file is a plain file inside, of a harmless kind, unchanged; no other is where libraries look."""
    _check_inside(folder / "bank.json", folder, root, "bank.json")
    for name, digest in info["files"].items():
        if leads_out(name) or ":" in name or not PurePosixPath(name).parts:
            raise BankError(f"bank.json lists a path outside the bank: {name}", where=str(folder))
        if PurePosixPath(name).suffix not in _SUFFIXES:
            raise BankError(f"{name} is not safetensors, JSON or text and is not loaded", where=str(folder))
        file = folder / name
        if not file.is_file():
            raise BankError(f"{name} is missing", where=str(folder), hint="Copy or download the bank again.")
        _check_inside(file, folder, root, name)
        if sha256_file(file) != digest:
            raise BankError(
                f"{name} is not the file the bank was saved with: its SHA-256 differs",
                where=str(folder),
                hint="Copy or download the bank again.",
            )
    for part in ("encoder", *(expert["name"] for expert in info["experts"])):
        for file in sorted((folder / part).rglob("*")):
            name = file.relative_to(folder).as_posix()
            if file.is_symlink() and file.is_dir():
                raise BankError(f"{name} is a link", where=str(folder), hint="Put the folder itself there.")
            if not file.is_dir() and name not in info["files"]:
                raise BankError(f"{name} does not belong to the bank", where=str(folder), hint="Remove the file.")
    for expert in info["experts"]:
        config = check_adapter_config(folder / expert["name"])
        if config.get("auto_mapping"):  # what opens it elsewhere would import it
            raise BankError("only plain LoRA adapters are loaded", where=str(folder / expert["name"]))
        adapter_shapes(folder / expert["name"], config)
    if (folder / "encoder").is_dir():
        if not (folder / "encoder" / "modules.json").is_file():
            raise BankError("the bank's encoder has no modules.json", where=str(folder))
        try:
            check_encoder_folder(folder / "encoder", "the bank's encoder")
        except ParameterError as error:
            raise BankError(error.what, where=error.where, hint=error.hint) from None


def _check_inside(file: Path, folder: Path, root: Path, name: str) -> None:
    if not file.resolve().is_relative_to(root):
        raise BankError(f"{name} is a link out of the bank", where=str(folder), hint="Put the file itself there.")
    linked = [p for p in (file, *file.parents) if p != folder and p.is_relative_to(folder) and p.is_symlink()]
    if linked and root == folder.resolve():
        raise BankError(f"{name} is reached through a link", where=str(folder), hint="Put the file itself there.")


def check_match(what: str, ours: Mapping[str, Any], theirs: Mapping[str, Any] | str | None, hint: str) -> None:
    if theirs is None:
        return
    theirs = {"fingerprint": theirs} if isinstance(theirs, str) else dict(theirs)
    for key in ("fingerprint", "tokenizer"):
        if key in theirs and key in ours and theirs[key] != ours[key]:
            part = "" if key == "fingerprint" else "tokenizer of the "
            raise BankError(
                f"the bank was made with another {part}{what}: {ours['id']} ({str(ours[key])[:12]}), "
                f"not {theirs.get('id', 'this one')} ({str(theirs[key])[:12]})",
                hint=hint,
            )


def read_centroids(folder: Path, info: dict[str, Any]) -> np.ndarray:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    file = folder / "router.safetensors"
    try:
        centroids = load_file(file)["centroids"]
    except (SafetensorError, KeyError, TypeError, OSError) as error:
        raise BankError(f"router.safetensors holds no centroids: {error}", where=str(folder)) from None
    shape = (len(info["experts"]), info["encoder"].get("dim"))
    if centroids.shape != shape or centroids.dtype != np.float32:
        raise BankError(f"the centroids are {centroids.dtype} {centroids.shape}, not float32 {shape}", where=str(file))
    if not np.allclose(np.linalg.norm(centroids, axis=1), 1, atol=1e-3):
        raise BankError("the centroids are not of unit length", where=str(file))
    return centroids
