"""Merging: several LoRA experts as one adapter, for as long as it is needed."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from assl_kit.common.names import by_number
from assl_kit.errors import ParameterError
from assl_kit.model.generation import BASE_ADAPTER

from .router import Mixture

if TYPE_CHECKING:
    from peft import PeftModel

COMBINATIONS = ("cat", "linear", "svd")


@contextmanager
def merged(
    peft_model: PeftModel, names: Sequence[str], weights: Sequence[float], *, combination: str = "cat"
) -> Iterator[str]:
    """Add the weighted sum of adapters to a model as one more adapter, active inside a ``with`` block.

    Parameters
    ----------
    peft_model : peft.PeftModel
        With the adapters loaded.
    names : sequence of str, length m ≥ 1
    weights : sequence of float, length m
        Each adapter's factor; they need not sum to 1.
    combination : {"cat", "linear", "svd"}
        How PEFT combines the factors A and B of each layer. ``"cat"``: A and B side by side, which is exactly
        Σ wᵢ BᵢAᵢ; the ranks add up. ``"linear"``: factors are added, (Σ √wᵢ Bᵢ)(Σ √wᵢ Aᵢ), of the same rank, with
        cross terms nobody trained. ``"svd"``: the best approximation of the exact sum at the largest rank.

    Yields
    ------
    str
        Name of the merged adapter. It is frozen and active; ``adapter_names`` may name it too. Blocks may be nested.

    Raises
    ------
    ParameterError
        If an adapter is not loaded or not plain LoRA, there are not as many weights as names, a weight is not finite,
        or the combination is unknown.

    Notes
    -----
    PEFT's ``add_weighted_adapter``. Afterwards the merged adapter is gone, what was active is active and frozen, and
    no weight has changed, also after an exception. On a half-precision base PEFT keeps what it concatenates in the
    base's type, so there "exactly" means up to that rounding.

    Examples
    --------
    >>> with merged(silversight.model, ["expert-0", "expert-3"], [0.7, 0.3]):  # doctest: +SKIP
    ...     answers = generate_answers(silversight.model, silversight.tokenizer, ["…"])
    """
    import torch

    names, weights = list(names), [float(weight) for weight in weights]
    _check(peft_model, names, weights, combination)
    before = peft_model.active_adapter
    name = _free_name(peft_model, names)
    tuner: Any = peft_model.base_model  # a LoraModel
    try:
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            tuner.add_weighted_adapter(names, weights, name, combination_type=combination)
        layer: Any
        for layer in peft_model.modules():
            if name in getattr(layer, "lora_A", {}):
                layer.scaling[name] = 1.0  # rank-stabilised LoRA would scale by √rank what is scaled already
        peft_model.train(peft_model.training)  # the new dropout layers too
        peft_model.set_adapter(name, inference_mode=True)
        yield name
    finally:
        if name in peft_model.peft_config:
            peft_model.set_adapter(before, inference_mode=True)
            peft_model.delete_adapter(name)


@contextmanager
def serving(peft_model: PeftModel, names: Sequence[str], mixtures: Sequence[Mixture]) -> Iterator[list[str] | None]:
    """Have the adapter of each row ready inside a ``with`` block: experts as they are, mixtures merged.

    Parameters
    ----------
    peft_model : peft.PeftModel
    names : sequence of str
        Name of each expert.
    mixtures : sequence of tuple of (int, float), length n ≥ 1
        Experts and shares of each row (:meth:`assl_kit.experts.router.Routes.mixtures`); empty for the base alone.

    Yields
    ------
    list of str, length n, or None
        The rows' ``adapter_names``; None where all rows have the same, which is active then.
    """
    with ExitStack() as stack:
        adapters: dict[Mixture, str] = {(): BASE_ADAPTER}
        for mixture in mixtures:
            if mixture not in adapters:
                experts, shares = [names[k] for k, _ in mixture], [share for _, share in mixture]
                if len(experts) == 1:
                    adapters[mixture] = experts[0]
                else:
                    adapters[mixture] = stack.enter_context(merged(peft_model, experts, shares))
        if len(set(mixtures)) > 1:
            yield [adapters[mixture] for mixture in mixtures]
        elif mixtures[0]:
            peft_model.set_adapter(adapters[mixtures[0]], inference_mode=True)
            yield None
        else:
            stack.callback(peft_model.set_adapter, names[0], inference_mode=True)  # peft thaws what it enables again
            with peft_model.disable_adapter():
                yield None


def rounds(mixtures: Sequence[Mixture], strategy: str, most: int) -> list[list[int]]:
    """Rows that are answered together: one each, those of one mixture, or those of up to ``most`` mixtures.

    Examples
    --------
    >>> one, other = ((0, 1.0),), ((1, 1.0),)
    >>> rounds([one, other, one], "grouped", 2), rounds([one, other, one], "mixed", 2)
    ([[0, 2], [1]], [[0, 1, 2]])
    """
    if strategy == "single":
        return [[i] for i in range(len(mixtures))]
    groups: dict[Mixture, list[int]] = {mixture: [] for mixture in sorted(set(mixtures))}
    for i, mixture in enumerate(mixtures):
        groups[mixture].append(i)
    rows = list(groups.values())
    if strategy == "grouped":
        return rows
    return [sorted(sum(rows[start : start + most], [])) for start in range(0, len(rows), most)]


def _check(peft_model: PeftModel, names: list[str], weights: list[float], combination: str) -> None:
    if combination not in COMBINATIONS:
        raise ParameterError(f"unknown combination {combination!r}", hint=f"Use one of {', '.join(COMBINATIONS)}.")
    loaded = getattr(peft_model, "peft_config", {})
    unknown = [name for name in names if name not in loaded]
    if unknown or not names:
        raise ParameterError(
            f"cannot merge {unknown[0] if unknown else 'no adapters'}",
            hint=f"Loaded are: {', '.join(sorted(loaded, key=by_number)) or 'no adapters'}.",
        )
    if len(names) != len(weights):
        raise ParameterError(f"there are {len(weights)} weights for {len(names)} adapters", where="weights")
    if not all(math.isfinite(weight) for weight in weights):
        raise ParameterError(f"weights must be finite, not {weights}", where="weights")
    for name in names:
        config = loaded[name]
        special = [key for key in ("use_dora", "lora_bias", "modules_to_save") if getattr(config, key, None)]
        if getattr(config, "peft_type", None) != "LORA" or special:
            raise ParameterError(f"{name} is not plain LoRA{f' ({special[0]})' if special else ''}", where="names")


def _free_name(peft_model: PeftModel, names: list[str]) -> str:
    """A name not taken: PEFT would silently keep the adapter that has it."""
    stem = "merged-" + "-".join(name.removeprefix("expert-") for name in names)
    number = 0
    while f"{stem}-{number}" in peft_model.peft_config:
        number += 1
    return f"{stem}-{number}"
