"""What the two files of a plain LoRA adapter may hold; looked at before anything of it is loaded.

PEFT writes every tensor of an adapter's file over the one of that name in the model, and does what the settings say:
bias, whole modules, tokens' embeddings, magnitudes. Here an adapter is ``lora_A`` and ``lora_B`` of linear layers.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from assl_kit.common.files import read_json
from assl_kit.errors import BankError

ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")
MAX_RANK = 4096
_NAME = re.compile(r"base_model\.model\.(?P<layer>.+)\.lora_(?P<part>[AB])\.weight")
_PLAIN = "Only plain LoRA is loaded, which leaves the base as it is: lora_A and lora_B of linear layers, bias 'none'."
_STARTS = (True, False, None, "gaussian", "orthogonal")
_UNUSED = {"bias": "none", "megatron_core": "megatron.core", "qalora_group_size": 16}  # as PEFT writes what it leaves


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_rank(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value <= MAX_RANK


def _are_names(value: Any) -> bool:
    names = value if isinstance(value, list) else [value]
    return value is None or all(isinstance(name, str) for name in names)


def _are_layers(value: Any) -> bool:
    numbers = value if isinstance(value, list) else [value]
    return value is None or all(type(number) is int for number in numbers)


def _by_name(fits: Callable[[Any], bool]) -> Callable[[Any], bool]:
    def check(value: Any) -> bool:
        return not value or (isinstance(value, dict) and all(_is_regex(n) and fits(v) for n, v in value.items()))

    return check


def _is_regex(name: str) -> bool:
    try:
        re.compile(name)
    except (re.error, OverflowError, RecursionError):
        return False
    return True


def _anything(value: Any) -> bool:
    return True


def _is_switch(value: Any) -> bool:
    return value is None or isinstance(value, bool)


#: What the settings of a plain LoRA say, with what each may be; of all others none may be set.
_SETTINGS: dict[str, Callable[[Any], bool]] = {
    "alpha_pattern": _by_name(_is_number),
    "auto_mapping": _anything,  # nothing here reads these five; a bank refuses the first
    "base_model_name_or_path": _anything,
    "peft_version": _anything,
    "revision": _anything,
    "task_type": _anything,
    "exclude_modules": lambda value: _are_names(value) and (not isinstance(value, str) or _is_regex(value)),
    "fan_in_fan_out": _is_switch,
    "inference_mode": _is_switch,
    "init_lora_weights": lambda value: value in _STARTS,
    "layers_pattern": _are_names,
    "layers_to_transform": _are_layers,
    "lora_alpha": _is_number,
    "lora_dropout": lambda value: _is_number(value) and 0 <= value < 1,
    "peft_type": lambda value: value == "LORA",
    "r": _is_rank,
    "rank_pattern": _by_name(_is_rank),
    "target_modules": lambda value: _are_names(value) and (not isinstance(value, str) or _is_regex(value)),
    "use_rslora": _is_switch,
}


def check_adapter_config(adapter: Path) -> dict[str, Any]:
    """The `adapter_config.json` of a plain LoRA adapter; everything else that PEFT knows is refused.

    Other kinds import modules, load tokenizers or change the weights of the base, as their file says.

    Raises
    ------
    BankError
    """
    file = adapter / ADAPTER_FILES[0]
    try:
        config = read_json(file)
    except ValueError as error:
        raise BankError(f"{file.name} is not readable JSON: {error}", where=str(adapter)) from None
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        raise BankError("only plain LoRA adapters are loaded", where=str(adapter))
    for name, value in config.items():
        fits = _SETTINGS.get(name)
        if fits is None and value and value != _UNUSED.get(name) and not _is_default(name, value):
            what = f"the adapter has {str(name)[:60]!r} set to {str(value)[:60]!r}"
            raise BankError(what, where=str(file), hint=f"{_PLAIN} Train it without this setting.")
        if fits is not None and not fits(value):
            bound = f", a number from 1 to {MAX_RANK}" if name in ("r", "rank_pattern") else ""
            what = f"the adapter's {name!r} is {str(value)[:60]!r}, which is none of plain LoRA{bound}"
            raise BankError(what, where=str(file), hint="Train or copy the adapter again.")
    return config


def _is_default(name: str, value: Any) -> bool:
    """Whether PEFT as it is installed writes this for a setting that is not used: newer ones have more of them."""
    import dataclasses

    from peft import LoraConfig

    return any(field.name == name and field.default == value for field in dataclasses.fields(LoraConfig))


def adapter_shapes(adapter: Path, config: dict[str, Any]) -> dict[str, tuple[int, int]]:
    """For each layer that an adapter changes, the numbers that go in and come out; only the header is read.

    Parameters
    ----------
    adapter : pathlib.Path
    config : dict
        From `check_adapter_config`.

    Raises
    ------
    BankError
        The file holds a tensor that is not ``lora_A`` or ``lora_B`` of a layer, one without the other, or one that is
        no matrix of floating-point numbers of the rank that ``config`` says.
    """
    from safetensors import SafetensorError, safe_open

    file = adapter / ADAPTER_FILES[1]
    layers: dict[str, dict[str, tuple[int, ...]]] = {}
    try:
        with safe_open(file, framework="np") as tensors:
            for key in tensors.keys():  # noqa: SIM118 - not a dict
                name, stored = _NAME.fullmatch(key), tensors.get_slice(key)
                if name is None:
                    what = f"the adapter holds the tensor {key[:200]!r}, which is not lora_A or lora_B of a layer"
                    raise BankError(what, where=str(file), hint=f"{_PLAIN} Train it without modules to save.")
                if len(stored.get_shape()) != 2 or not stored.get_dtype().startswith(("F", "BF")):
                    what = f"{key[:200]} is {stored.get_dtype()} {tuple(stored.get_shape())}, no matrix of real numbers"
                    raise BankError(what, where=str(file), hint="Train or copy the adapter again.")
                layers.setdefault(name["layer"], {})[name["part"]] = tuple(stored.get_shape())
    except SafetensorError as error:
        raise BankError(f"the adapter's weights cannot be read: {error}", where=str(file)) from None
    if not layers:
        raise BankError("the adapter has no weights", where=str(file), hint="Train or copy it again.")
    shapes = {}
    for layer, parts in layers.items():
        rank = _rank_of(layer, config)
        if set(parts) != {"A", "B"} or parts["A"][0] != rank or parts["B"][1] != rank:
            sizes = ", ".join(f"lora_{part} {size}" for part, size in sorted(parts.items()))
            what = f"the layer {layer[:200]} has {sizes}, not lora_A and lora_B of rank {rank}"
            raise BankError(what, where=str(file), hint="Train or copy the adapter again.")
        shapes[layer] = (parts["A"][1], parts["B"][0])
    return shapes


def _rank_of(layer: str, config: dict[str, Any]) -> int:
    """The rank that PEFT gives to a layer."""
    ranks = config.get("rank_pattern") or {}
    return next((rank for name, rank in ranks.items() if re.match(rf"(.*\.)?({name})$", layer)), config.get("r", 8))
