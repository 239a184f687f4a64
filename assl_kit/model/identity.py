"""What identifies a base language model: where it is, its revision, the checksum of its weights."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from assl_kit.common.files import plain, sha256_file, sha256_of
from assl_kit.common.hub import check_model
from assl_kit.errors import ParameterError

from .gguf import GEMMA, check_gguf, check_installed, conversion_record, is_gguf
from .templates import thinks

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

TINY_BASE = Path(__file__).resolve().parent / "tiny_base"


def unwrap(model: Any) -> Any:
    """The model inside a PEFT wrapper, or the model itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def base_info(
    model: PreTrainedModel | PeftModel, tokenizer: PreTrainedTokenizerBase, name: str | None = None
) -> dict[str, Any]:
    """What identifies a base, for the record of an expert bank.

    Parameters
    ----------
    model, tokenizer
        As :func:`load_base` gives them; a model with PEFT adapters is looked through.
    name : str, optional
        What it was loaded as. Default: the model's own ``name_or_path``.

    Returns
    -------
    dict
        ``id`` (``"tiny"``, ``"gemma3-270m"``, the hub id, the name of a GGUF file, or the last part of a local folder's
        path), ``revision`` (hub commit or None), ``fingerprint`` (SHA-256 over the safetensors files or the GGUF file
        it was loaded from, so the same for any device and dtype; over config and tensors if it was not loaded from
        files), ``tokenizer`` (SHA-256 of vocabulary and chat template); of a base whose chat template knows
        ``enable_thinking`` also ``thinking`` (bool), see :func:`assl_kit.model.loading.load_base`.
    """
    base = unwrap(model)
    source = _source(base, name)
    revision = getattr(base.config, "_commit_hash", None)
    folder = Path(source).expanduser()
    converted = conversion_record(folder) if source else None
    if source and Path(source) == TINY_BASE:
        label = "tiny"
    elif converted:
        label = converted["id"]
    elif source and folder.is_dir():
        label = folder.resolve().name
    else:
        label = source or type(base).__name__
    thinking = thinks(tokenizer)
    return {
        "id": label,
        "revision": revision,
        "fingerprint": base_fingerprint(base, name),
        "tokenizer": tokenizer_fingerprint(tokenizer),
    } | ({} if thinking is None else {"thinking": thinking})


def tokenizer_fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """SHA-256 of a tokenizer's vocabulary and chat template."""
    return sha256_of([sorted(tokenizer.get_vocab().items()), tokenizer.chat_template])


def base_fingerprint(model: PreTrainedModel | PeftModel, name: str | None = None) -> str:
    """The ``fingerprint`` of `base_info`; a file that has not changed is read once in a process."""
    base = unwrap(model)
    source = _source(base, name)
    if source and (converted := conversion_record(Path(source).expanduser())):
        return sha256_of([converted["sha256"]])  # the same on every machine, whatever version converted it
    files = weight_files(source, getattr(base.config, "_commit_hash", None))
    if not files:
        return _tensor_fingerprint(base)
    return sha256_of([_digest(file, file.stat().st_size, file.stat().st_mtime_ns) for file in files])


@lru_cache(maxsize=256)
def _digest(file: Path, size: int, changed: int) -> str:
    """The checksum of a file, read once for each size and time of change that it has had."""
    return sha256_file(file)


def _source(base: PreTrainedModel, name: str | None) -> str:
    """Where a base was loaded from: a folder, that of a converted GGUF file, or a hub id; empty if from nowhere."""
    source = str(name or base.config._name_or_path or "")
    source = str(TINY_BASE) if source == "tiny" else source
    return str(base.config._name_or_path) if is_gguf(source) else source


def weight_files(source: str, revision: str | None) -> list[Path]:
    """The safetensors files of a folder or of a cached hub model, sorted by name; empty when there are none."""
    folder = Path(source).expanduser() if source else None
    if folder is None or not folder.is_dir():
        from huggingface_hub import try_to_load_from_cache
        from huggingface_hub.errors import HFValidationError

        try:
            config = try_to_load_from_cache(source, "config.json", revision=revision)
        except HFValidationError:
            return []
        if not isinstance(config, str):
            return []
        folder = Path(config).parent
    return sorted(folder.glob("model*.safetensors"))


def _tensor_fingerprint(base: PreTrainedModel) -> str:
    """The fingerprint of a base that was not loaded from files; adapters in it do not count."""
    import torch

    config = base.config.to_dict()
    config = {key: value for key, value in config.items() if not key.startswith("_") and key != "transformers_version"}
    digest = hashlib.sha256(sha256_of(plain(config)).encode())
    for name, tensor in sorted(base.state_dict().items()):
        if ".lora_" in name:
            continue
        name = name.replace(".base_layer.", ".")  # as PEFT calls a layer that it has wrapped
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def check_base(name: str) -> None:
    """Refuse a base that cannot be had, before anything is loaded: as `base_source`, and the hub is asked.

    Raises
    ------
    ParameterError
        As `base_source` and `assl_kit.common.hub.check_model`.
    """
    source = base_source(name)
    if source != GEMMA and not is_gguf(source) and not Path(source).is_dir():
        check_model(source, "the base model")


def base_source(name: str) -> str:
    """Where to load a base from: a folder, hub id, GGUF file, or ``"gemma3-270m"``; nothing is loaded or converted.

    A missing or damaged file is an error here, not a hub request.

    Raises
    ------
    ParameterError
        If ``name`` is empty, looks like a folder and is none, is a GGUF file that is not whole, or needs a package.

    Examples
    --------
    >>> base_source("Qwen/Qwen2.5-0.5B-Instruct")
    'Qwen/Qwen2.5-0.5B-Instruct'
    """
    if not isinstance(name, str) or not name:
        raise ParameterError(f"a base model is named by a non-empty string, not {name!r}")
    if name == "tiny":
        if not (TINY_BASE / "config.json").is_file():
            raise ParameterError(
                "the tiny base model is missing from the installed package", hint="Install assl-kit again."
            )
        return str(TINY_BASE)
    folder = Path(name).expanduser()
    if name == GEMMA:
        check_installed()
        return name
    if is_gguf(name):
        check_gguf(folder)
        return str(folder)
    if folder.is_dir():
        return str(folder)
    if name.startswith((".", "~", "/", "\\")) or name.count("/") > 1 or folder.is_absolute():
        raise ParameterError(
            f"there is no base model folder {name}",
            hint="Give an existing folder or GGUF file, a hub id, 'tiny' or 'gemma3-270m'.",
        )
    return name
