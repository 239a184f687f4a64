"""Text encoders: any sentence-transformers model, or the one fitted on the corpus with no download; texts as rows."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from assl_kit.common.device import pick_device
from assl_kit.common.files import plain, sha256_of
from assl_kit.common.hub import check_model
from assl_kit.common.packages import panics_caught, reason
from assl_kit.common.trust import check_encoder_folder
from assl_kit.data.conversations import Prompt, prompt_texts
from assl_kit.errors import DataError, ParameterError

from .static_encoder import fit_static_encoder, static_rows

if TYPE_CHECKING:
    import torch
    from sentence_transformers import SentenceTransformer

PROMPTS = ((re.compile(r"(multilingual-)?e5-(small|base|large)(-v2)?"), "query: "),)
"""By the name of a model: what stands before a text that is compared with texts of its kind, where the model's own
files do not say. E5 was trained with it; bge, gte and Qwen3-Embedding want nothing there for such texts."""


def load_encoder(
    name: str = "fit",
    *,
    texts: Sequence[Prompt] | None = None,
    dim: int = 256,
    vocab_size: int = 20_000,
    seed: int = 0,
    device: str = "cpu",
) -> SentenceTransformer:
    """Load an encoder, or fit one on the texts of a corpus.

    Parameters
    ----------
    name : str
        ``"fit"``: fit a static encoder (:func:`fit_static_encoder`); else a local folder or a hub id of a
        sentence-transformers model, with the pooling and the default prompt that its files name (of E5, whose files
        name none, with "query: " before each text). Only safetensors weights are read, and no code that a model brings
        or names is run (`assl_kit.common.trust`).
    texts : sequence of str or list of dict, optional
        What to fit on; needed for ``"fit"``, not used otherwise.
    dim, vocab_size, seed : int
        As in :func:`fit_static_encoder`.
    device : {"cpu", "auto", "cuda", "mps"}
        A static encoder is fastest on the CPU.

    Returns
    -------
    sentence_transformers.SentenceTransformer

    Raises
    ------
    ParameterError
        If there is nothing to fit on, or the encoder cannot be had.
    DataError
        If the texts cannot be fitted on.

    Examples
    --------
    >>> encoder = load_encoder("fit", texts=["股价上涨", "股价下跌", "央行降准"], dim=2)
    >>> encode(encoder, ["股价"]).shape
    (1, 2)
    """
    where = pick_device(device).device
    if not isinstance(name, str) or not name:
        raise ParameterError(f"an encoder is named by a non-empty string, not {name!r}")
    if name != "fit":
        return _load(name, where)
    if texts is None:
        raise ParameterError("encoder 'fit' needs texts to fit on", hint="Give texts=…, a folder, or a hub id.")
    return fit_static_encoder(texts, dim=dim, vocab_size=vocab_size, seed=seed).to(where)


def _load(name: str, device: str) -> SentenceTransformer:
    from sentence_transformers import SentenceTransformer

    place = _folder(name)
    try:
        folder = place or hub_encoder(name)
        check_encoder_folder(folder, f"the encoder {name!r}")
        options = {"use_safetensors": True}
        with panics_caught():
            encoder = SentenceTransformer(str(folder), device=device, trust_remote_code=False, model_kwargs=options)
        for module in encoder:
            _check_rows(module)
        _give_prompt(encoder, Path(name).name)
        if np.ndim(encoder.encode(["?"], show_progress_bar=False)) != 2:
            raise ValueError("it makes no row of a text")
        return encoder
    except ParameterError:
        raise
    except Exception as error:  # the library raises many kinds, safetensors its own
        raise ParameterError(
            f"the encoder {name!r} could not be loaded: {reason(error)}",
            hint="It must be 'fit', a folder saved by sentence-transformers, or a reachable hub id, with safetensors "
            "weights; without a network (or with HF_HUB_OFFLINE=1) only folders and cached models load.",
        ) from error


def _give_prompt(encoder: SentenceTransformer, name: str) -> None:
    """Put before each text what a family of models wants there and does not say in its files."""
    prompt = next((prompt for family, prompt in PROMPTS if family.fullmatch(name.lower())), "")
    if prompt and encoder.default_prompt_name is None:
        encoder.prompts = dict(encoder.prompts or {}) | {"records": prompt}
        encoder.default_prompt_name = "records"


def _check_rows(module: Any) -> None:
    """Refuse a tokenizer with a token for which there is no vector: a text that has it could not be encoded."""
    n_rows = getattr(getattr(module, "embedding", None), "num_embeddings", None)  # of a static one
    last = max(module.tokenizer.get_vocab().values(), default=0) if n_rows else 0
    if n_rows and last >= n_rows:
        raise ValueError(f"its tokenizer has a token {last}, its weights have {n_rows} rows")


def _folder(name: str) -> Path | None:
    """The folder of an encoder, or None where its name is one of the hub's."""
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    if name.startswith((".", "~", "/", "\\")) or folder.is_absolute():
        raise ParameterError(f"there is no encoder folder {name}", hint="Give an existing folder, a hub id, or 'fit'.")
    return None


def check_encoder(name: str) -> None:
    """Refuse an encoder that cannot be had, before anything is loaded: no such folder, or the hub has or gives it not.

    Raises
    ------
    ParameterError
        As `load_encoder` and `assl_kit.common.hub.check_model`.

    Examples
    --------
    >>> check_encoder("fit")
    """
    if name == "fit" or _folder(name) is not None:
        return
    files = ("modules.json", "config.json")
    try:
        check_model(_hub_id(name), "the encoder", files)
    except ParameterError:
        if _hub_id(name) == name:
            raise
        check_model(name, "the encoder", files)


def _hub_id(name: str) -> str:
    return name if "/" in name else f"sentence-transformers/{name}"  # as the library reads short names


def encoder_fingerprint(encoder: SentenceTransformer) -> str:
    """Hex SHA-256 of all that decides an encoder's output: weights, tokenizers, the settings of its modules, prompts.

    It is the same before saving and after loading, on any device.
    """
    import torch

    digest = hashlib.sha256()
    for name, tensor in sorted(encoder.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    modules = []
    for module in encoder:
        settings = {key: getattr(module, key, None) for key in getattr(module, "config_keys", [])}
        modules.append([type(module).__name__, plain(settings), _tokenizer_state(module)])
    prompts = [dict(encoder.prompts or {}), encoder.default_prompt_name]
    digest.update(sha256_of([modules, prompts]).encode())
    return digest.hexdigest()


def _tokenizer_state(module: torch.nn.Module) -> Any:
    """What a module's tokenizer does, without what it is told anew for each call: padding and truncation."""
    tokenizer: Any = getattr(module, "tokenizer", None)
    if hasattr(tokenizer, "to_str"):
        state = json.loads(tokenizer.to_str())
        return {key: value for key, value in state.items() if key not in ("padding", "truncation")}
    return sorted(tokenizer.get_vocab().items()) if hasattr(tokenizer, "get_vocab") else None


def encode(
    encoder: SentenceTransformer, texts: Sequence[Prompt], *, batch_size: int = 256, progress: bool = False
) -> np.ndarray:
    """Embed texts as rows of unit length.

    Parameters
    ----------
    encoder : sentence_transformers.SentenceTransformer
    texts : sequence of str or list of dict, length n
        Of a conversation its :func:`assl_kit.data.conversations.prompt_text`.
    batch_size : int
    progress : bool
        Show a progress bar.

    Returns
    -------
    ndarray of shape (n, d), float32
        Unit rows; (0, d) for no texts.

    Raises
    ------
    DataError
        If a text is no prompt, or its embedding is zero (an empty text) or not finite; the message names the row.

    Examples
    --------
    >>> encoder = fit_static_encoder(["股价上涨", "股价下跌", "央行降准"], dim=3)
    >>> X = encode(encoder, ["股价", "央行"])
    >>> X.shape, bool(abs(X[0] @ X[0] - 1) < 1e-6)
    ((2, 3), True)
    """
    texts = prompt_texts(texts)
    if not texts:
        return np.zeros((0, _dimension(encoder)), dtype=np.float32)
    rows = static_rows(encoder, texts) if len(texts) <= batch_size else None
    if rows is None:
        rows = encoder.encode(texts, batch_size=batch_size, show_progress_bar=progress, convert_to_numpy=True)
    rows = np.ascontiguousarray(rows, dtype=np.float32)
    lengths = np.linalg.norm(rows.astype(np.float64), axis=1)
    bad = np.flatnonzero(~(np.isfinite(lengths) & (lengths > 1e-12)))
    if len(bad):
        row = int(bad[0])
        what = "zero" if lengths[row] <= 1e-12 else "not finite"
        raise DataError(
            f"the embedding of the text {texts[row][:40]!r} is {what}",
            where=f"row {row}",
            hint=f"{len(bad)} of {len(texts)} rows are so. Remove texts without characters, or use another encoder.",
        )
    off = np.abs(lengths - 1) > 1e-6  # the others keep the bits that the encoder gave
    rows[off] = (rows[off] / lengths[off, None]).astype(np.float32)
    return rows


def _dimension(encoder: SentenceTransformer) -> int:
    get = getattr(encoder, "get_embedding_dimension", None) or encoder.get_sentence_embedding_dimension
    return int(get())


def hub_encoder(name: str) -> Path:
    """The hub's files of an encoder, without pickled weights and programs, in its cache; to be checked before use."""
    from huggingface_hub import snapshot_download

    wanted = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja"]
    known = _hub_id(name)
    try:
        return Path(snapshot_download(known, allow_patterns=wanted))
    except Exception:
        if known == name:
            raise
        return Path(snapshot_download(name, allow_patterns=wanted))
