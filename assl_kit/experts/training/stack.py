"""Several LoRA adapters on one base at the same time: every layer holds all of them, a batch holds rows for each."""

from __future__ import annotations

import math
import os
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from assl_kit.errors import ParameterError
from assl_kit.model.identity import unwrap

from .config import TrainingConfig, quantization_of

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

_PREFIX = "base_model.model."


@dataclass
class _Layer:
    """A linear layer of the base; where its A and B start in an adapter's row of numbers; what it computes with."""

    name: str
    linear: Any
    start: int
    A: Any = None
    B: Any = None


class AdapterStack:
    """M adapters of one form, as rows of one float32 matrix; with a half-precision base, copies of its type compute.

    While `attached`, a batch of the base holds M × b rows: b for the first adapter, b for the second, and so on. The
    base's products run once over all rows, the adapters' as batched products over the M. No row sees another adapter.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        The base alone. Its linear layers but the output embedding get adapters, as PEFT's ``"all-linear"`` means it.
    count, rank, alpha : int

    Attributes
    ----------
    weights : torch.Tensor of shape (M, p), float32
        Each layer's A and B, layer after layer.

    Raises
    ------
    ParameterError
        If the model carries adapters, is quantised or in float16, or a number is not positive.
    """

    def __init__(self, model: PreTrainedModel, count: int, rank: int, alpha: int):
        import torch
        from peft import LoraConfig, get_peft_model
        from peft.tuners.lora import LoraLayer

        if hasattr(model, "peft_config"):
            raise ParameterError("the model still carries adapters", hint="Give the base alone: model.unload().")
        if quantization_of(model) != "none" or model.dtype not in (torch.float32, torch.bfloat16):
            raise ParameterError(
                f"several adapters at once need a base in float32 or bfloat16, not in {_kind(model)}",
                hint="Load it with dtype='bfloat16', or train one adapter at a time.",
            )
        if count < 1:
            raise ParameterError("there is no adapter")
        self.model, self.rank, self.scale = model, rank, alpha / rank
        config = LoraConfig(r=rank, lora_alpha=alpha, target_modules="all-linear", bias="none", task_type="CAUSAL_LM")
        wanted = [p for p in model.parameters() if p.requires_grad]
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            wrapped = get_peft_model(model, config)  # PEFT says which layers
            names = [name for name, module in model.named_modules() if isinstance(module, LoraLayer)]
            self.config = wrapped.peft_config["default"]
            wrapped.unload()
        for parameter in wanted:  # PEFT leaves them frozen
            parameter.requires_grad_(True)
        self.layers, start = [], 0
        for name in names:
            linear = model.get_submodule(name)
            if "forward" in vars(linear) or not hasattr(linear, "in_features"):
                raise ParameterError(f"the layer {name} of the base computes in a way of its own")
            self.layers.append(_Layer(name, linear, start))
            start += rank * (linear.in_features + linear.out_features)
        self.weights = torch.zeros(count, start, dtype=torch.float32, device=model.device)
        self._computing: torch.Tensor | None = None
        self._rows: list[int] | None = None

    def __len__(self) -> int:
        return len(self.weights)

    @classmethod
    def fresh(cls, model: PreTrainedModel, seeds: Sequence[int], rank: int, alpha: int) -> AdapterStack:
        """New adapters, each with the initial weights that PEFT gives after this seed; they change nothing yet."""
        import torch

        stack = cls(model, len(seeds), rank, alpha)
        first = {seed: list(seeds).index(seed) for seed in seeds}
        with torch.random.fork_rng(devices=[]):
            for row, seed in enumerate(seeds):
                if first[seed] < row:
                    stack.weights[row] = stack.weights[first[seed]]
                    continue
                torch.manual_seed(seed)
                for layer in stack.layers:  # PEFT makes two linear layers, then draws A anew
                    A = torch.nn.Linear(layer.linear.in_features, rank, bias=False).weight
                    torch.nn.Linear(rank, layer.linear.out_features, bias=False)
                    torch.nn.init.kaiming_uniform_(A, a=math.sqrt(5))
                    stack.part(layer, stack.weights[row : row + 1])[0].copy_(A.detach())
        return stack

    @classmethod
    def load(cls, model: PreTrainedModel, folders: Sequence[str | os.PathLike]) -> AdapterStack:
        """Adapters from folders in PEFT's format, all of one rank and α on all linear layers."""
        from safetensors.torch import load_file

        from assl_kit.common.files import read_json

        if not folders:
            raise ParameterError("there is no adapter")
        configs = [read_json(Path(folder) / "adapter_config.json") for folder in folders]
        rank, alpha = configs[0].get("r"), configs[0].get("lora_alpha")
        for folder, config in zip(folders, configs, strict=True):
            form = (config.get("r"), config.get("lora_alpha"))
            plain = not any(config.get(key) for key in ("use_dora", "use_rslora", "rank_pattern", "alpha_pattern"))
            if form != (rank, alpha) or not plain:
                raise ParameterError(
                    f"adapters answer together only if they are plain LoRA of one form (here r={rank}, α={alpha})",
                    where=str(folder),
                    hint="Load them with load_adapters instead.",
                )
        stack = cls(model, len(folders), rank, alpha)
        for row, folder in enumerate(folders):
            tensors = load_file(Path(folder) / "adapter_model.safetensors")
            for layer in stack.layers:
                for letter, view in zip("AB", stack.part(layer, stack.weights[row : row + 1]), strict=True):
                    tensor = tensors.pop(f"{_PREFIX}{layer.name}.lora_{letter}.weight", None)
                    if tensor is None or tensor.shape != view.shape[1:]:
                        raise ParameterError(f"the adapter does not fit the layer {layer.name}", where=str(folder))
                    view[0].copy_(tensor)
            if tensors:
                raise ParameterError(f"the adapter also changes {sorted(tensors)[0]}", where=str(folder))
        return stack

    def save(self, row: int, folder: Path) -> None:
        """Write one adapter's weights and settings into an existing folder, as PEFT would."""
        import copy

        from safetensors.torch import save_file

        weights, tensors = self.weights[row : row + 1].cpu(), {}
        for layer in self.layers:
            for letter, view in zip("AB", self.part(layer, weights), strict=True):
                tensors[f"{_PREFIX}{layer.name}.lora_{letter}.weight"] = view[0].contiguous().clone()
        save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
        config = copy.copy(self.config)
        config.inference_mode = True
        config.save_pretrained(str(folder))

    def part(self, layer: _Layer, weights: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Views of a layer's A, of shape (m, r, in), and B, of shape (m, out, r), in ``weights`` of shape (m, p)."""
        n_in, n_out, r = layer.linear.in_features, layer.linear.out_features, self.rank
        middle = layer.start + r * n_in
        A = weights[:, layer.start : middle].unflatten(1, (r, n_in))
        return A, weights[:, middle : middle + n_out * r].unflatten(1, (n_out, r))

    # computing -------------------------------------------------------------------------------------------------------
    @contextmanager
    def attached(self) -> Iterator[AdapterStack]:
        """Let the base compute with the adapters that `use` or `follow` name, inside a ``with`` block."""
        for layer in self.layers:
            layer.linear.forward = self._forward(layer)
        try:
            yield self
        finally:
            for layer in self.layers:
                del layer.linear.forward
                layer.A = layer.B = None
            self._computing = self._rows = None

    def use(self, rows: Sequence[int]) -> None:
        """The adapters of the next batches, in the order of their rows; without gradients."""
        rows = list(rows)
        if rows != self._rows:
            chosen = self.weights if rows == list(range(len(self))) else self.weights[rows]
            computing = chosen.to(self.model.dtype)
            for layer in self.layers:
                layer.A, layer.B = self.part(layer, computing)
            self._rows = rows

    def follow(self, count: int, gradients: torch.Tensor) -> None:
        """The first ``count`` adapters, their gradients added to ``gradients`` (M, p), which has the base's type."""
        dtype = self.model.dtype
        if self._computing is None:
            self._computing = self.weights if self.weights.dtype == dtype else self.weights.to(dtype)
        for layer in self.layers:
            pairs = zip(self.part(layer, self._computing[:count]), self.part(layer, gradients[:count]), strict=True)
            leaves = []
            for view, gradient in pairs:
                leaf = view.detach().requires_grad_()
                leaf.grad = gradient
                leaves.append(leaf)
            layer.A, layer.B = leaves

    def updated(self, count: int) -> None:
        """To be called when the first ``count`` rows of ``weights`` have changed."""
        if self._computing is not None and self._computing is not self.weights:
            self._computing[:count].copy_(self.weights[:count])

    def _forward(self, layer: _Layer) -> Callable[[torch.Tensor], torch.Tensor]:
        linear, n_out, compute, scale = layer.linear, layer.linear.out_features, _product(), self.scale

        def forward(x: torch.Tensor) -> torch.Tensor:
            rows = x.reshape(len(layer.A), -1, x.shape[-1])
            out = compute(rows, linear.weight, linear.bias, layer.A, layer.B, scale)
            return out.view(*x.shape[:-1], n_out)

        return forward


@lru_cache(maxsize=1)
def _product() -> Callable[..., torch.Tensor]:
    """Products of a frozen weight and of each batch's own A and B: one function of autograd, so that sums are in place.

    Of ``x`` (m, n, in), ``weight`` (out, in), ``A`` (m, r, in) and ``B`` (m, out, r).
    """
    import torch

    class Product(torch.autograd.Function):
        @staticmethod
        def forward(
            ctx: Any,
            x: torch.Tensor,
            weight: torch.Tensor,
            bias: torch.Tensor | None,
            A: torch.Tensor,
            B: torch.Tensor,
            scale: float,
        ) -> torch.Tensor:
            small = torch.bmm(x, A.mT)
            ctx.save_for_backward(x, weight, A, B, small)
            ctx.scale = scale
            return torch.nn.functional.linear(x, weight, bias).baddbmm_(small, B.mT, alpha=scale)

        @staticmethod
        def backward(ctx: Any, out: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
            x, weight, A, B, small = ctx.saved_tensors
            inner = torch.bmm(out, B).mul_(ctx.scale)
            back = None
            if ctx.needs_input_grad[0]:
                back = torch.matmul(out, weight).baddbmm_(inner, A)
            return back, None, None, torch.bmm(inner.mT, x), torch.bmm(out.mT, small).mul_(ctx.scale), None

    return Product.apply


def _kind(model: PreTrainedModel) -> str:
    return "4 bits" if quantization_of(model) != "none" else str(model.dtype).removeprefix("torch.")


def same_form(configs: Sequence[TrainingConfig]) -> None:
    """Raise a `ParameterError` unless trainings of these settings can share their steps.

    Examples
    --------
    >>> same_form([TrainingConfig(seed=0), TrainingConfig(seed=1, epochs=1)])
    """
    for name in ("rank", "alpha", "batch_size", "gradient_accumulation", "max_length"):
        values = sorted({getattr(config, name) for config in configs})
        if len(values) > 1:
            raise ParameterError(f"adapters trained together need one {name}, not {values}", where=name)
    for name, what in (("dropout", "dropout"), ("packing", "packing"), ("holdout_share", "held-out records")):
        if any(getattr(config, name) for config in configs):
            raise ParameterError(
                f"adapters cannot be trained together with {what}", where=name, hint="Use train_adapter for each."
            )


@contextmanager
def fused_norms(model: PreTrainedModel, enabled: bool = True) -> Iterator[int]:
    """Let torch's fused kernel do the root-mean-square norms of a model inside a ``with`` block.

    Each class of norms is tried on random numbers first, with the weight as it is and with 1 added to it (Gemma); one
    that the kernel does not equal to rounding stays as it is. In bfloat16 the weight is rounded too.

    Yields
    ------
    int
        How many norms were replaced.
    """
    import torch

    changed, forms = [], {}
    for module in unwrap(model).modules() if enabled else ():
        kind = type(module)
        if not re.search("RMSNorm$", kind.__name__) or getattr(module, "weight", None) is None:
            continue
        if kind not in forms:
            forms[kind] = _form_of(module)
        if forms[kind] is None or "forward" in vars(module):
            continue
        weight = (module.weight.detach().float() + forms[kind]).to(module.weight.dtype)
        eps, shape = _eps(module), tuple(weight.shape)

        def forward(
            x: torch.Tensor,
            weight: torch.Tensor = weight,
            eps: float | None = eps,
            shape: tuple[int, ...] = shape,
        ) -> torch.Tensor:
            return torch.nn.functional.rms_norm(x, shape, weight.to(x.dtype), eps)

        module.forward = forward
        changed.append(module)
    try:
        yield len(changed)
    finally:
        for module in changed:
            del module.forward


def _eps(module: torch.nn.Module) -> float | None:
    return getattr(module, "eps", getattr(module, "variance_epsilon", None))


def _form_of(module: torch.nn.Module) -> float | None:
    """What is added to the weight of a norm: 0 or 1; None if the kernel computes something else."""
    import torch

    weight, eps = module.weight, _eps(module)
    if eps is None or weight.dim() != 1:
        return None
    x = torch.sin(torch.arange(4 * len(weight), device=weight.device).float()).reshape(4, -1).to(weight.dtype)
    with torch.no_grad():
        right = module(x).float()
        for added in (0.0, 1.0):
            computed = torch.nn.functional.rms_norm(x, tuple(weight.shape), (weight.float() + added).to(x.dtype), eps)
            tolerance = 1e-5 if x.dtype == torch.float32 else 2e-2
            if torch.allclose(computed.float(), right, rtol=tolerance, atol=tolerance * float(right.abs().mean())):
                return added
    return None
