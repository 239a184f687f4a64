"""Load a base language model: from this package, a folder, a GGUF file, or the hub."""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from assl_kit.common.device import pick_device
from assl_kit.common.packages import need, panics_caught, reason
from assl_kit.common.trust import check_attention, check_model_folder
from assl_kit.errors import ParameterError

from .gguf import convert, is_gguf
from .identity import base_source
from .templates import GEMMA_TEMPLATE, rendered, stop_thinking
from .tokens import check_tokenizer

if TYPE_CHECKING:
    import torch
    from transformers import BitsAndBytesConfig, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

QUANTIZATIONS = ("none", "nf4")


def load_base(
    name: str = "tiny",
    *,
    device: str = "auto",
    dtype: str | None = None,
    quantization: str | None = None,
    chat_template: str | None = None,
    thinking: bool = False,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a causal language model and its tokenizer, ready for inference.

    Only safetensors weights are read, and no code that a model brings or names is run (`assl_kit.common.trust`).

    Parameters
    ----------
    name : str
        ``"tiny"`` for the base that comes with this package; ``"gemma3-270m"`` for Gemma 3 270M from the package index
        (extra ``llm-offline``, Gemma's own terms of use); a local folder; a GGUF file; or a hub id. GGUF is converted
        to safetensors once, in the user's cache (`assl_kit.model.gguf.convert`).
    device : {"auto", "cpu", "cuda", "mps"}
        Where to put it; see :func:`assl_kit.common.device.pick_device`.
    dtype : {"float32", "bfloat16", "float16"}, optional
        Type of the weights, or of what is computed with 4-bit weights. Default: float32 for ``"tiny"`` and on a CPU,
        else what suits the GPU. Gemma gets no float16, which its activations overflow.
    quantization : {"none", "nf4"}, optional
        ``"nf4"`` keeps the linear layers in 4 bits, as in QLoRA (arXiv 2305.14314), with double quantisation;
        embeddings stay as they are. It needs bitsandbytes (extra ``gpu``) and an NVIDIA GPU or, slowly, a CPU.
    chat_template : str, optional
        A Jinja chat template for a tokenizer that has none, or to replace its own. Gemma's base models, which have its
        turn tokens but no template, get the one of its chat models without being asked.
    thinking : bool
        Whether a reasoning model may think aloud before it answers. By default a chat template that knows
        ``enable_thinking`` has it set to false, in training, scoring and answers alike, and a line says so. No other
        template is changed.

    Returns
    -------
    model : transformers.PreTrainedModel
        In ``eval`` mode.
    tokenizer : transformers.PreTrainedTokenizerBase
        With a pad token, padding on the left.

    Raises
    ------
    ParameterError
        If the name, device, dtype or quantisation is unknown, the model cannot be had (no such folder, no network, no
        safetensors, a cut GGUF file, a package missing), its output embedding is quantised, or there is no chat
        template.

    Examples
    --------
    >>> try:
    ...     load_base("./no/such/folder")
    ... except ParameterError as error:
    ...     print(error.what)
    there is no base model folder ./no/such/folder
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    where = pick_device(device)
    dtypes = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if dtype is not None and dtype not in dtypes:
        raise ParameterError(f"unknown dtype {dtype!r}", hint=f"Use one of {', '.join(dtypes)}.")
    _check_quantization(quantization, where.device)
    source = base_source(name)
    if is_gguf(source):
        source = str(convert(source))
    if Path(source).is_dir():
        check_model_folder(source, f"the base model {name!r}")
    bars = logging.is_progress_bar_enabled()
    if name == "tiny" or is_gguf(name):
        logging.disable_progress_bar()
    try:
        config = AutoConfig.from_pretrained(source, trust_remote_code=False)
        check_attention(getattr(config, "_attn_implementation", None), f"the base model {name!r}", source)
        if dtype is None:
            dtype = "float32" if name == "tiny" else where.dtype
            if dtype == "float16" and config.model_type.startswith("gemma"):
                dtype = "float32"
        options: dict[str, Any] = {"dtype": dtypes[dtype], "use_safetensors": True, "trust_remote_code": False}
        if quantization == "nf4":
            if method := _quantised_by(config):
                raise ParameterError(f"the base model {name!r} is quantised already, by {method}")
            options |= {"quantization_config": _nf4(dtypes[dtype]), "device_map": {"": where.device}}
        with panics_caught():
            tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
        model = AutoModelForCausalLM.from_pretrained(source, config=config, **options)
    except ParameterError:
        raise
    except Exception as error:  # the libraries raise many kinds, for damaged files also their own
        raise ParameterError(
            f"the base model {name!r} could not be loaded: {reason(error)}",
            hint="It must be 'tiny', 'gemma3-270m', a local folder, a GGUF file or a reachable hub id, with weights in "
            "safetensors and no remote code; without a network (or with HF_HUB_OFFLINE=1) only local files and cached "
            "models load.",
        ) from error
    finally:
        if bars:
            logging.enable_progress_bar()
    _check_output_embedding(model, name)
    if chat_template is not None:
        tokenizer.chat_template = chat_template
    elif not tokenizer.chat_template and {"<start_of_turn>", "<end_of_turn>"} <= set(tokenizer.get_vocab()):
        tokenizer.chat_template = GEMMA_TEMPLATE
    if not tokenizer.chat_template:
        raise ParameterError(
            f"the tokenizer of the base model {name!r} has no chat template",
            hint="Take an instruction-tuned ('chat', 'instruct') model, or give chat_template=….",
        )
    if not thinking and stop_thinking(tokenizer):
        _say_once(f"The base model {name} can think aloud before it answers; that is off (thinking=False).")
    check_tokenizer(tokenizer, name)
    _check_template(tokenizer, name)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "left"
    return (model if quantization == "nf4" else model.to(where.device)).eval(), tokenizer


@cache
def _say_once(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _check_template(tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    """A chat template is a program in a sandbox; one that fails, or leaves it, is refused before it is needed."""
    try:
        rendered(tokenizer, [{"role": "user", "content": "?"}])
    except Exception as error:  # jinja's kinds, and whatever the template's expressions raise
        what = error.what if isinstance(error, ParameterError) else f"{type(error).__name__}: {error}"
        raise ParameterError(
            f"the chat template of the base model {name!r} cannot be used: {what}",
            hint="Give another one by chat_template=….",
        ) from error


def _check_quantization(quantization: str | None, device: str) -> None:
    if quantization not in (None, *QUANTIZATIONS):
        raise ParameterError(f"unknown quantization {quantization!r}", hint=f"Use one of {', '.join(QUANTIZATIONS)}.")
    if quantization != "nf4":
        return
    need("bitsandbytes", "4-bit loading", "gpu", instead="use quantization=none")
    if device == "mps":
        raise ParameterError("bitsandbytes has no 4-bit layers for an Apple GPU", hint="Use quantization='none'.")


def _nf4(dtype: torch.dtype) -> BitsAndBytesConfig:
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
    )


def _quantised_by(config: PreTrainedConfig) -> str | None:
    """The method by which a model's files are quantised ("gptq", "awq", …), or None."""
    settings = getattr(config, "quantization_config", None)
    if settings is None:
        return None
    method = settings.get("quant_method") if isinstance(settings, dict) else getattr(settings, "quant_method", None)
    return str(getattr(method, "value", method))


def _check_output_embedding(model: PreTrainedModel, name: str) -> None:
    """Refuse an output embedding whose weights are no floating-point matrix: losses and logits need it as it is."""
    head = model.get_output_embeddings()
    weight = getattr(head, "weight", None)
    if weight is not None and weight.dim() == 2 and weight.is_floating_point():
        return
    tied = getattr(model.config.get_text_config(), "tie_word_embeddings", False)
    what = "no output embedding" if head is None else f"a quantised output embedding ({type(head).__name__})"
    if tied and head is not None:
        what += ", tied to the input embedding,"
    raise ParameterError(
        f"the base model {name!r} has {what} so answers cannot be scored",
        hint="Take its version in 16 or 32 bits; quantization='nf4' loads that in 4 bits and leaves embeddings alone.",
    )
