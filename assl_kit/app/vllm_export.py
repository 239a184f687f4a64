"""An expert bank as files for a vLLM server and its clients."""

from __future__ import annotations

import os
import shlex
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from assl_kit.common.files import atomic_path, read_json, sha256_file, sha256_of, write_json
from assl_kit.common.hub import HUB_ID
from assl_kit.common.packages import panics_caught
from assl_kit.common.trust import check_model_folder
from assl_kit.errors import BankError, ParameterError
from assl_kit.experts.adapter_form import ADAPTER_FILES
from assl_kit.experts.adapters import check_layers
from assl_kit.experts.bank import ExpertBank
from assl_kit.experts.bank_check import check_match
from assl_kit.model.gguf import conversion_record, is_gguf
from assl_kit.model.identity import TINY_BASE, base_info, base_source, tokenizer_fingerprint, weight_files
from assl_kit.model.loading import load_base
from assl_kit.model.templates import fold_system, stop_thinking
from assl_kit.space.encoder import encode, encoder_fingerprint, load_encoder

if TYPE_CHECKING:
    from transformers import PreTrainedModel

FORMAT = "assl-kit vLLM export"
FORMAT_VERSION = 1
PROBE = ("公司上半年净利润同比增长32%，股价上涨。", "央行下调存款准备金率。", "What is a bond?")
RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  #: what vLLM's --max-lora-rank takes


def export_vllm(
    bank: ExpertBank, out: str | os.PathLike, *, base: str | None = None, encoder: str | None = None
) -> Path:
    """Write what a vLLM server and its clients need to answer with the experts of a bank.

    Parameters
    ----------
    bank : ExpertBank
    out : path-like
        A new folder, or one that holds an earlier export, which is replaced::

            adapters/expert-0 …   PEFT folders, as in the bank
            routes.json           experts, base and encoder, min_similarity
            router.safetensors    "centroids" (k, d), "probe" (3, d): what the encoder makes of three texts
            encoder/              the encoder, if the bank carries it
            base/                 the base, if no hub has it
            serve.sh              starts `vllm serve`
            client.py, routes.py  route questions and ask the server

    base : str, optional
        What vLLM is to load: a hub id or a folder. Default: the base that the bank names. ``"tiny"`` and bases from
        GGUF files, which vLLM cannot have by their names, are saved into the export.
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
        hub the server sees to that), or vLLM takes no such rank.
    ParameterError
        If ``out`` holds something else, or base or encoder cannot be had.

    Notes
    -----
    The form is that of vLLM 0.33: ``--lora-modules name=path``, and requests whose ``model`` is an adapter's name.
    """
    out = Path(out)
    check_place(out, bank, "routes.json", FORMAT)
    rank = _largest_rank(bank)
    name = encoder or str(bank.encoder_path or bank.encoder["id"])
    if name == "fit":
        raise BankError("the bank does not carry its encoder", where=str(bank.path), hint="Give encoder=….")
    embedder = load_encoder(name)
    encoder_info = {"id": name, "fingerprint": encoder_fingerprint(embedder)}
    check_match("encoder", bank.encoder, encoder_info, "Use the bank's encoder.")
    with atomic_path(out) as temporary:
        temporary.mkdir()
        served = _base(bank, base or bank.base["id"], temporary)
        for expert, path in zip(bank.names, bank.expert_paths, strict=True):
            (temporary / "adapters" / expert).mkdir(parents=True)
            for file in ADAPTER_FILES:
                shutil.copyfile(path / file, temporary / "adapters" / expert / file)
        if bank.encoder_path is not None:
            for file in (file for file in bank.info["files"] if file.startswith("encoder/")):
                (temporary / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(bank.path / file, temporary / file)
        _write_routes(bank, temporary, encode(embedder, PROBE), rank)
        for program in ("client.py", "routes.py"):  # side by side there, a package here
            source = (Path(__file__).parent / "served" / program).read_text(encoding="utf-8")
            alone = source.replace("\nfrom .routes import ", "\nfrom routes import ")
            (temporary / program).write_text(alone, encoding="utf-8", newline="\n")
        (temporary / "serve.sh").write_text(serve_script(bank, served, rank), encoding="utf-8", newline="\n")
        (temporary / "serve.sh").chmod(0o755)
    return out


def serve_script(bank: ExpertBank, base: str, rank: int) -> str:
    """The shell script that starts the server.

    Parameters
    ----------
    bank : ExpertBank
    base : str
        Hub id, or folder, seen from the script's.
    rank : int
        The largest of the adapters.
    """
    revision = bank.base.get("revision") if HUB_ID.match(base) else None
    lines = [
        f"exec vllm serve {shlex.quote(base)}",
        *([f"--revision {shlex.quote(revision)} --tokenizer-revision {shlex.quote(revision)}"] if revision else []),
        f"--served-model-name {shlex.quote(bank.base['id'])}",
        "--generation-config vllm",
        f"--enable-lora --max-lora-rank {_allowed(rank)} --max-loras {len(bank)}",
        "--lora-modules " + " ".join(f"{name}=adapters/{name}" for name in bank.names),
        '"$@"',
    ]
    about = "# Serve the base and its experts, each under a model name of its own. More options: ./serve.sh --port 9000"
    return f'#!/bin/sh\n{about}\nset -e\ncd "$(dirname "$0")"\n' + " \\\n  ".join(lines) + "\n"


def _allowed(rank: int) -> int:
    return next(allowed for allowed in RANKS if allowed >= rank)


def check_place(out: Path, bank: ExpertBank, file: str, form: str) -> None:
    """Refuse a place for an export that holds something else, or lies inside the bank.

    Parameters
    ----------
    out : pathlib.Path
    bank : ExpertBank
    file, form : str
        What an earlier export holds, which may be replaced: a JSON file, and its entry ``"format"``.

    Raises
    ------
    ParameterError
        If it does.
    """
    if out.exists() and not _is_export(out / file, form):
        raise ParameterError("there is something else already", where=str(out), hint="Give a new folder.")
    if out.resolve().is_relative_to(bank.path.resolve()):
        raise ParameterError("an export cannot lie inside its bank", where=str(out), hint="Give another folder.")


def _is_export(file: Path, form: str) -> bool:
    try:
        return read_json(file).get("format") == form
    except (OSError, ValueError, AttributeError):
        return False


def _largest_rank(bank: ExpertBank) -> int:
    """The largest rank of the adapters, if vLLM can serve it."""
    largest = 0
    for path in bank.expert_paths:
        config = read_json(path / ADAPTER_FILES[0])
        rank = max([config.get("r", 8), *(config.get("rank_pattern") or {}).values()])
        if rank > RANKS[-1]:
            what = f"vLLM cannot serve an adapter with rank {rank}"
            raise BankError(what, where=path.name, hint=f"Train one of at most {RANKS[-1]}.")
        largest = max(largest, rank)
    return largest


def _base(bank: ExpertBank, base: str, folder: Path) -> str:
    """What `vllm serve` is to load; a base that only this package has is saved into the export."""
    hint = "Use the base the experts were trained on."
    if base == "tiny" or is_gguf(base):
        model, tokenizer = load_base(base, device="cpu", thinking=bank.base.get("thinking", True))
        check_match("base model", bank.base, base_info(model, tokenizer, base), hint)
        _check_layers(bank, model)
        fold_system(tokenizer)
        model.save_pretrained(folder / "base")
        tokenizer.save_pretrained(folder / "base")
        return "./base"
    local = Path(base).expanduser()
    if local.is_dir():
        check_match("base model", bank.base, _folder_info(local, bank.base.get("thinking", True)), hint)
        _check_layers(bank, _outline(local))
        return str(local.resolve())
    if not HUB_ID.match(base_source(base)):
        raise ParameterError(
            f"vLLM cannot find the base model {base!r} by its name",
            where="base",
            hint="Give the folder it lies in on the server: --base FOLDER.",
        )
    if base != bank.base["id"]:
        raise BankError(f"the bank was made with another base model: {bank.base['id']}, not {base}", hint=hint)
    return base


def _folder_info(folder: Path, thinking: bool) -> dict[str, Any]:
    """Id, fingerprint and tokenizer of a base in a folder, without loading its weights (as `base_info` has them)."""
    from transformers import AutoTokenizer

    files = weight_files(str(folder), None)
    if not files:
        raise ParameterError("the base model has no safetensors weights", where=str(folder))
    converted = conversion_record(folder)
    digest = sha256_of([converted["sha256"]] if converted else [sha256_file(file) for file in files])
    try:
        with panics_caught():
            tokenizer = AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise ParameterError(f"the base model has no tokenizer: {error}", where=str(folder)) from error
    if not thinking:
        stop_thinking(tokenizer)
    name = "tiny" if folder.resolve() == TINY_BASE else folder.resolve().name
    return {"id": name, "fingerprint": digest, "tokenizer": tokenizer_fingerprint(tokenizer)}


def _outline(folder: Path) -> PreTrainedModel:
    """The layers of a base in a folder, without weights."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    check_model_folder(folder, "the base model")
    try:
        config = AutoConfig.from_pretrained(str(folder), trust_remote_code=False)
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(config, attn_implementation="eager", trust_remote_code=False)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise ParameterError(f"the base model cannot be read: {error}", where=str(folder)) from error


def _check_layers(bank: ExpertBank, model: PreTrainedModel) -> None:
    for path in bank.expert_paths:
        check_layers(model, path)


def _write_routes(bank: ExpertBank, folder: Path, probe: np.ndarray, rank: int) -> None:
    from safetensors.numpy import save_file

    from assl_kit.version import __version__

    tensors = {"centroids": bank.centroids, "probe": probe}
    save_file(tensors, folder / "router.safetensors", metadata={"format": "np"})
    experts = [
        {"name": name, "path": f"adapters/{name}", "tasks": expert.get("tasks", {})}
        for name, expert in zip(bank.names, bank.info["experts"], strict=True)
    ]
    table = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "assl_kit": __version__,
        "base_model": bank.base["id"],
        "base": bank.base,
        "max_lora_rank": rank,
        "experts": experts,
        "router": {
            "kind": "nearest centroid",
            "file": "router.safetensors",
            "min_similarity": bank.min_similarity,
            "probe": list(PROBE),
        },
        "encoder": bank.encoder | {"path": "encoder" if bank.encoder_path is not None else None},
    }
    write_json(folder / "routes.json", table)
