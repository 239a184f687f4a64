"""The base model that a server is to load: compared with the bank's, and saved where only this package has it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from assl_kit.common.files import sha256_file, sha256_of
from assl_kit.common.hub import HUB_ID
from assl_kit.common.packages import panics_caught
from assl_kit.common.trust import check_model_folder
from assl_kit.errors import BankError, ParameterError
from assl_kit.experts.adapters import check_layers
from assl_kit.experts.bank import ExpertBank
from assl_kit.experts.bank_check import check_match
from assl_kit.model.gguf import conversion_record, is_gguf
from assl_kit.model.identity import TINY_BASE, base_info, base_source, tokenizer_fingerprint, weight_files
from assl_kit.model.loading import load_base
from assl_kit.model.templates import fold_system, stop_thinking

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def served_base(bank: ExpertBank, base: str, folder: Path, server: str) -> str:
    """What a server is to load; a base that only this package has is saved into the export.

    Parameters
    ----------
    bank : ExpertBank
    base : str
        Hub id, folder, GGUF file, or ``"tiny"``.
    folder : pathlib.Path
        The export's.
    server : str
        The server's name, for messages.

    Returns
    -------
    str
        A hub id, or a folder: ``./base`` in the export.

    Raises
    ------
    BankError
        If the base is not the bank's, or has not the layers of an adapter.
    ParameterError
        If the base cannot be had.
    """
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
            f"{server} cannot find the base model {base!r} by its name",
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
