"""Whether a LoRA adapter fits a base, before PEFT changes the base's layers."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from assl_kit.common.files import read_json
from assl_kit.common.packages import reason
from assl_kit.errors import BankError
from assl_kit.model.identity import base_fingerprint

from .adapter_form import ADAPTER_FILES, adapter_shapes, check_adapter_config
from .bank import ExpertBank

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

_HINT = "Use the base the adapter was trained on."


def check_adapter(model: PreTrainedModel, adapter: str | os.PathLike) -> None:
    """Refuse an adapter that is not whole or does not fit.

    Parameters
    ----------
    model
        The base alone.
    adapter : path-like
        A PEFT folder. If `training.json` in it names the fingerprint of a base, that is compared too.

    Raises
    ------
    BankError
        As `check_layers`, PEFT refuses the settings, or the base is another one.
    """
    check_layers(model, adapter)
    folder, where = Path(adapter), str(adapter)
    _check_settings(folder)
    record = folder / "training.json"
    try:
        known = str(read_json(record).get("base_fingerprint") or "") if record.is_file() else ""
    except (AttributeError, ValueError) as error:
        raise BankError(f"training.json of the adapter cannot be read: {error}", where=where, hint=_HINT) from None
    if known and known != (this := base_fingerprint(model)):
        raise BankError(
            f"the adapter was trained on another base ({known[:12]}, not {this[:12]})", where=where, hint=_HINT
        )


def _check_settings(folder: Path) -> None:
    """Let PEFT read the settings before it touches the base: each of its versions checks names and kinds of its own."""
    from peft import PeftConfig

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they come when the adapter is loaded
            PeftConfig.from_pretrained(str(folder))
    except Exception as error:  # the library raises many kinds
        raise BankError(f"PEFT cannot read the adapter's settings: {reason(error)}", where=str(folder)) from error


def check_layers(model: PreTrainedModel, adapter: str | os.PathLike) -> None:
    """Refuse an adapter that is not whole, no plain LoRA, or made for other layers.

    Parameters
    ----------
    model
        The base alone; only its layers are looked at, so that it may be without weights.
    adapter : path-like
        A PEFT folder.

    Raises
    ------
    BankError
        If a file is missing (PEFT would fall back to a pickled one, or ask the hub), the adapter holds anything but
        ``lora_A`` and ``lora_B`` of linear layers, a layer is missing, has no weights in the adapter or another size.
    """
    folder, where = Path(adapter), str(adapter)
    for file in ADAPTER_FILES:
        if not (folder / file).is_file():
            raise BankError(f"the adapter has no {file}", where=where, hint="Train or copy it again.")
    config = check_adapter_config(folder)
    shapes = adapter_shapes(folder, config)
    layers = {name: module for name, module in model.named_modules() if name}
    ours = type(model).__name__
    for name, shape in shapes.items():
        if name not in layers:
            raise BankError(f"the adapter changes the layer {name}, which {ours} has not", where=where, hint=_HINT)
        size = _size(layers[name])
        if size is None:
            raise BankError(f"the adapter changes {name} of {ours}, which is no linear layer", where=where, hint=_HINT)
        if shape != size:
            raise BankError(
                f"the adapter is for another base: its layer {name} turns {shape[0]} numbers into {shape[1]}, that "
                f"of {ours} {size[0]} into {size[1]}",
                where=where,
                hint=_HINT,
            )
    for name in layers:
        if _aimed_at(config, name) and _size(layers[name]) is not None and name not in shapes:
            raise BankError(f"the adapter has no weights for the layer {name} of {ours}", where=where, hint=_HINT)


def _size(layer: Any) -> tuple[int, int] | None:
    """Numbers a linear layer takes and gives; None for other layers."""
    if hasattr(layer, "in_features") and hasattr(layer, "out_features"):
        return layer.in_features, layer.out_features
    return (layer.nx, layer.nf) if hasattr(layer, "nx") else None  # GPT-2's


def _aimed_at(config: dict[str, Any], name: str) -> bool:
    """Whether PEFT would put an adapter on this layer; False where the rule is more than a list of names."""
    targets = config.get("target_modules")
    if not isinstance(targets, list) or config.get("layers_to_transform") or config.get("exclude_modules"):
        return False
    return any(name == target or name.endswith("." + target) for target in targets)


@contextmanager
def adapted(model: PreTrainedModel, adapter: str | os.PathLike) -> Iterator[PeftModel]:
    """The base with one adapter on it, for the length of a ``with`` block.

    Parameters
    ----------
    model
        The base alone.
    adapter : path-like
        A PEFT folder, such as ``TrainingResult.path`` or an expert of a bank.

    Yields
    ------
    peft.PeftModel
        In ``eval`` mode, adapter active and frozen. The base is itself again afterwards.

    Raises
    ------
    BankError
        If the folder holds no safetensors adapter, or one that does not fit: other layers or sizes, or (where
        `train_adapter` noted the base) another base.
    """
    peft_model = _wrap(model, adapter, "expert")
    try:
        yield peft_model
    finally:
        peft_model.unload()


def load_adapters(model: PreTrainedModel, bank: ExpertBank) -> PeftModel:
    """Put all experts of a bank on a base.

    Parameters
    ----------
    model
        The base alone; PEFT changes its layers in place.
    bank : ExpertBank

    Returns
    -------
    peft.PeftModel
        In ``eval`` mode, adapters named as the bank names them, all frozen, the first one active.

    Raises
    ------
    BankError
        If the model carries adapters already, or an adapter does not fit it.
    """
    first, *others = zip(bank.names, bank.expert_paths, strict=True)
    for _, path in others:
        check_adapter(model, path)
    peft_model = _wrap(model, first[1], first[0])
    for name, path in others:
        with _refusals(model, path):
            peft_model.load_adapter(str(path), adapter_name=name, is_trainable=False)
    peft_model.set_adapter(first[0], inference_mode=True)
    return peft_model.eval()


def _wrap(model: PreTrainedModel, adapter: str | os.PathLike, name: str) -> PeftModel:
    from peft import PeftModel

    if hasattr(model, "peft_config"):
        raise BankError("the model carries adapters already", hint="Give the base alone: model.unload().")
    check_adapter(model, adapter)
    with warnings.catch_warnings(), _refusals(model, adapter):
        warnings.simplefilter("ignore", FutureWarning)  # peft reads settings that transformers has renamed
        return PeftModel.from_pretrained(model, str(adapter), adapter_name=name, is_trainable=False).eval()


@contextmanager
def _refusals(model: PreTrainedModel, adapter: str | os.PathLike) -> Iterator[None]:
    """Whatever PEFT raises is an error of the bank, and the base is itself again."""
    try:
        yield
    except Exception as error:  # the library raises many kinds, some when layers are changed already
        for name, layer in list(model.named_modules()):
            if hasattr(layer, "base_layer"):
                parent, _, child = name.rpartition(".")
                setattr(model.get_submodule(parent), child, layer.base_layer)
        if hasattr(model, "peft_config"):
            del model.peft_config
        what = f"PEFT cannot put the adapter on the base: {reason(error)}"
        raise BankError(what, where=str(adapter), hint=_HINT) from error
