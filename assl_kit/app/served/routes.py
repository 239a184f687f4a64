"""The route table of an export: which expert a question goes to. `client.py` beside it asks the server.

It stands alone and needs sentence-transformers, numpy and safetensors, not assl-kit. An export is read as a stranger's:
nothing in it can name code, or files elsewhere.
"""

from __future__ import annotations

import json
import math
import os
import re
import unicodedata
from collections.abc import Iterator, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np

from .forms import FORMS

MOST = 32 << 20  #: bytes of a file that describes something, and of a server's reply
VOCABULARY = 64 << 20  #: bytes of a file of a tokenizer
GROWTH = 4096  #: how many times longer a part of a tokenizer may make a text
NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
"""A repository of the hub."""

# What an encoder may name is what assl-kit lets it name (assl_kit/common/trust.py).
_CONFIGS = ("config.json", "modules.json", "sentence_*_config.json", "*.index.json")
_MODULE = re.compile(
    r"sentence_transformers\.(\w+\.)*(BoW|CNN|Dense|Dropout|LSTM|LayerNorm|Normalize|Pooling|StaticEmbedding|"
    r"Transformer|WeightedLayerPooling|WordWeights)"
)
_ACTIVATION = re.compile(r"torch\.nn\.(modules\.)?(activation|linear)\.[A-Z]\w*|[^.]*")
_ARGUMENTS = re.compile(r"(model|tokenizer|config)_args|(model|processor|config)_kwargs")
_OPTIONS = re.compile(
    r"add_(eos_token|pooling_layer|prefix_space)|attn_implementation|do_lower_case|dtype|low_cpu_mem_usage|max_length|"
    r"max_position_embeddings|model_max_length|(padding|truncation)_side|torch_dtype|unpad_inputs|use_fast|"
    r"use_memory_efficient_attention"
)


class ClientError(Exception):
    """Something a user can act on."""

    def __init__(self, message: str, code: int = 1):
        super().__init__(message)
        self.code = code


class Routes:
    """The route table: which model name answers a question.

    Parameters
    ----------
    folder : path-like
        With `routes.json`, `router.safetensors` and, where it was fitted, `encoder/`; checked as a stranger's.
    encoder : str, optional
        Folder or hub id of the encoder, instead of the one named in `routes.json`.
    min_similarity : float, optional
        In [−1, 1]; instead of the one in `routes.json`. Below it the base answers alone.

    Attributes
    ----------
    names, base : list of str, str
        Names of the experts and of the base.
    kind : str
        Of the server: one of `FORMS`.
    models : dict
        What a request calls each of them.
    floor : float
        ``min_similarity``.
    centroids : ndarray of shape (k, d), float64

    Raises
    ------
    ClientError
        If files are missing or wrong, or the encoder is not the one the centroids were made with.
    """

    def __init__(self, folder: str | os.PathLike, encoder: str | None = None, min_similarity: float | None = None):
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        folder = Path(folder)
        try:
            table = read_json(folder / "routes.json")
            router, exported = table["router"], table["encoder"]
            tensors = load_file(_inside(folder, router["file"]))
            self.names, self.base = [expert["name"] for expert in table["experts"]], table["base_model"]
            self.floor = router["min_similarity"] if min_similarity is None else min_similarity
            self.thinking = (table.get("base") or {}).get("thinking")
            server = table.get("server") or {}
            self.kind, asked_as = server.get("kind", "vllm"), server.get("models") or {}
            self.models = {name: asked_as.get(name, name) for name in (*self.names, self.base)}
            self.centroids, stored = (tensors[name].astype(np.float64) for name in ("centroids", "probe"))
            texts = [*self.names, self.base, exported["id"], *router["probe"], *self.models.values(), self.kind]
            "".join(texts).encode("utf-8")  # a TypeError if one is no text, a ValueError if it is half a character
            if not -1 <= self.floor <= 1:
                raise ValueError(f"min_similarity is {self.floor}")
            if self.kind not in FORMS:
                raise ValueError(f"it is for another kind of server: {self.kind:.40}")
            if not self.names or len(self.centroids) != len(self.names) or not len(stored) == len(router["probe"]) > 0:
                raise ValueError(f"{len(self.names)} experts have centroids of shape {self.centroids.shape}")
            if not np.allclose(np.linalg.norm(self.centroids, axis=1), 1, atol=1e-3):
                raise ValueError("a centroid has another length than 1")
            carried = _inside(folder, exported["path"]) if exported["path"] else None
        except (OSError, ValueError, LookupError, TypeError, AttributeError, SafetensorError) as error:
            raise ClientError(f"there is no whole route table in {folder}: {error}", 2) from None
        name = encoder or str(carried or exported["id"])
        self.encoder = load_encoder(name, is_place=bool(encoder or carried))
        probe = self.embed(router["probe"])
        if probe.shape != stored.shape or not np.abs(probe - stored).max(initial=0) <= 1e-3:
            raise ClientError(f"{name} is not the encoder that the centroids were made with ({exported['id']})", 2)

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Rows of unit length, (n, d), float64."""
        rows = np.asarray(self.encoder.encode(list(texts), show_progress_bar=False), dtype=np.float64)
        length = np.linalg.norm(rows, axis=1, keepdims=True)
        if not np.isfinite(length).all() or not length.all():
            raise ClientError("a question has no embedding", 2)
        return rows / length

    def weighted(self, texts: Sequence[str]) -> np.ndarray:
        """Rows (n, d), float64, as long as the share of the text that the encoder knows: zero for a text of no words.

        Their products with the centroids are the similarities of :meth:`route`.
        """
        rows = np.asarray(self.encoder.encode(list(texts), show_progress_bar=False), dtype=np.float64)
        if not np.isfinite(rows).all():
            raise ClientError("a text has no embedding", 2)
        length = np.linalg.norm(rows, axis=1, keepdims=True)
        known = np.array([self._known(text) for text in texts])[:, None]
        return rows / np.where(length > 0, length, 1) * known

    def route(self, questions: Sequence[str | list[dict]]) -> list[tuple[str, float]]:
        """Model name and similarity of each question, or conversation: the question counts, and what was before it."""
        texts = [q if isinstance(q, str) else "\n".join(m["content"] for m in [q[-1], *q[:-1]]) for q in questions]
        known = np.array([self._known(text) for text in texts])[:, None]
        similarities = (np.clip(self.embed(texts) @ self.centroids.T, -1, 1) * known + 0.0).astype(np.float32)
        nearest = similarities.argmax(axis=1)
        best = similarities[np.arange(len(nearest)), nearest]
        below = best < np.float32(self.floor)
        return [(self.base if low else self.names[k], float(s)) for k, s, low in zip(nearest, best, below, strict=True)]

    def _known(self, text: str) -> float:
        """How much of a text a fitted encoder knows: assl-kit's `known_shares`, in short."""
        if [type(module).__name__ for module in self.encoder] != ["StaticEmbedding", "Normalize"]:
            return 1.0
        static: Any = self.encoder[0]
        encoding = static.tokenizer.encode(text, add_special_tokens=False)
        lengths = static.embedding.weight.detach()[encoding.ids].norm(dim=1).tolist()
        words: dict[int, list[tuple[str, bool]]] = {}
        for word, (start, end), length in zip(encoding.word_ids, encoding.offsets, lengths, strict=True):
            words.setdefault(word, []).append((text[start:end], length > 1.001e-3))
        total, known = 0, 0
        for tokens in words.values():
            sizes = [sum(map(str.isalnum, part)) for part, _ in tokens]
            in_han = any(unicodedata.name(character, "").startswith("CJK UNIFIED") for character in tokens[0][0])
            whole = all(there for _, there in tokens) and min(sizes[:-1], default=3) >= 3
            total += sum(sizes)
            known += sum(size for size, (_, there) in zip(sizes, tokens, strict=True) if (there if in_han else whole))
        return known / max(total, 1)


def read_json(file: Path, most: int = MOST) -> Any:
    """A file of a bounded size; all that is wrong with it is an OSError or a ValueError."""
    if os.stat(file).st_size > most:
        raise ValueError(f"{file.name} has more than {most:,} bytes")
    return parse(file.read_bytes())


def parse(text: str | bytes) -> Any:
    """``json.loads``; JSON that is nested too deeply is a ValueError too."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("the JSON is nested too deeply") from None


def _leads_out(name: str) -> bool:
    return name.startswith(("/", "~")) or ".." in name.split("/") or any(sign in name for sign in "\\:\0")


def _inside(folder: Path, name: str) -> Path:
    """A file or folder that `routes.json` names; it may not lie elsewhere, nor behind a link out."""
    if _leads_out(name) or not (folder / name).resolve().is_relative_to(folder.resolve()):
        raise ClientError(f"routes.json names a file outside {folder}: {name!r:.80}", 2)
    if not (folder / name).is_file() and not (folder / name).is_dir():
        raise ValueError(f"{name!r:.80} is missing")
    return folder / name


def load_encoder(name: str, is_place: bool) -> Any:
    """A sentence-transformers model: of a folder, if it may be named by its place; else of the hub."""
    from sentence_transformers import SentenceTransformer

    if not is_place and not NAME.fullmatch(name):
        raise ClientError(f"routes.json names an encoder outside, {name!r:.80}. Give --encoder FOLDER.", 2)
    try:
        folder = Path(name).expanduser()
        if not (is_place and folder.is_dir()):
            from huggingface_hub import snapshot_download

            known = name if "/" in name else f"sentence-transformers/{name}"
            folder = Path(snapshot_download(known, allow_patterns=["*.json", "*.safetensors", "*.txt", "*.model"]))
        check_encoder(folder)
        options = {"use_safetensors": True}
        return SentenceTransformer(str(folder), device="cpu", trust_remote_code=False, model_kwargs=options)
    except ClientError:
        raise
    except Exception as error:  # the library raises many kinds
        raise ClientError(f"the encoder {name} could not be loaded: {error}. Give --encoder FOLDER.", 2) from None


def check_encoder(folder: Path) -> None:
    """Refuse an encoder that names code, or what lies outside its folder, before the library reads it."""
    root = folder.resolve()
    root = root.parents[1] if root.parent.name == "snapshots" else root  # the hub's cache links into its blobs
    for module in read_json(folder / "modules.json"):
        if not _MODULE.fullmatch(module["type"]):
            raise ClientError(f"the encoder {folder} asks for code from elsewhere and is not loaded", 2)
        if _leads_out(module.get("path", "")):
            raise ClientError(f"a module of the encoder {folder} lies outside: {module['path']!r:.80}", 2)
    for file in sorted(folder.rglob("*")):
        pickled = file.suffix == ".bin" and not (file.parent / "model.safetensors").is_file()
        if pickled or not file.resolve().is_relative_to(root):
            raise ClientError(f"{file} is {'pickled' if pickled else 'a link out of the encoder'} and is not read", 2)
        if file.suffix in (".json", ".txt", ".model", ".jinja") and os.stat(file).st_size > VOCABULARY:
            raise ClientError(f"{file} has more than {VOCABULARY:,} bytes", 2)
        if any(fnmatch(file.name, pattern) for pattern in _CONFIGS):
            for key, value in (entry for part in _parts(read_json(file)) for entry in part.items()):
                if _harmful(key, value):
                    raise ClientError(f"{file} asks for {key}={str(value)[:60]} and is not read", 2)
        tokenizer = read_json(file, VOCABULARY) if file.name == "tokenizer.json" else {}
        for name in ("normalizer", "pre_tokenizer", "post_processor", "decoder"):
            if math.prod(map(_growth, _parts(tokenizer.get(name)))) > GROWTH:
                raise ClientError(f"{name} of {file} could make a text more than {GROWTH:,} times as long", 2)


def _parts(value: Any) -> Iterator[dict]:
    """Every mapping at any depth."""
    waiting = [value]
    while waiting:
        part = waiting.pop()
        if isinstance(part, dict):
            yield part
        waiting += part.values() if isinstance(part, dict) else part if isinstance(part, list) else []


def _growth(step: dict) -> float:
    kind, content, pattern = step.get("type"), step.get("content"), step.get("pattern")
    if kind == "Replace" and isinstance(content, str):
        text = pattern.get("String") if isinstance(pattern, dict) else None
        return max(1.0, len(content) / len(text)) if isinstance(text, str) and text else 1.0 + len(content)
    if kind == "TemplateProcessing":
        pieces = [piece for name in ("single", "pair") for piece in step.get(name) or []]
        return max(1.0, sum("Sequence" in piece for piece in pieces))
    return {"ByteLevel": 2.0, "Precompiled": 4.0}.get(str(kind), 1.0)


def _harmful(key: str, value: Any) -> bool:
    values = list(value.values()) if isinstance(value, dict) else [value]
    if _ARGUMENTS.fullmatch(key) and isinstance(value, dict):
        return not all(_OPTIONS.fullmatch(o) or (o == "trust_remote_code" and v is False) for o, v in value.items())
    if key.endswith("attn_implementation"):  # compiled code of the hub
        return any("/" in str(part) or ":" in str(part) for part in values)
    if key == "activation_function":
        return not _ACTIVATION.fullmatch(str(value))
    return key == "weight_map" and not all(re.fullmatch(r"\w[\w.-]*\.safetensors", str(part)) for part in values)
