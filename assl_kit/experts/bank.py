"""ExpertBank: LoRA experts, their router and their passport in one folder that any PEFT or vLLM user can read."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from assl_kit.common.files import atomic_path, read_json, sha256_file
from assl_kit.common.hub import check_hub, upload
from assl_kit.errors import BankError

from .adapter_form import ADAPTER_FILES, adapter_shapes, check_adapter_config
from .bank_card import bank_card
from .bank_check import (
    FORMAT,
    FORMAT_VERSION,
    check_files,
    check_match,
    locate,
    read_centroids,
    read_info,
)
from .router import CentroidRouter

if TYPE_CHECKING:
    from numpy.typing import ArrayLike
    from sentence_transformers import SentenceTransformer

    from .training.adapter import TrainingResult


@dataclass(frozen=True)
class Provenance:
    """Where a bank comes from: what it works with, and what is to be kept of how it was made.

    Attributes
    ----------
    base : mapping
        ``id``, ``revision``, ``fingerprint``: :func:`assl_kit.model.identity.base_info` of the base.
    encoder : mapping
        ``id``, ``fingerprint``, ``dim`` of the encoder that made the embeddings.
    encoder_model : SentenceTransformer, optional
        Saved into the bank, as ``encoder/``: for an encoder that exists nowhere else.
    weights : mapping, optional
        The λ of the selection: ``relevance``, ``score``, ``diversity``.
    min_similarity : float, optional
        Below it the base answers alone; see `CentroidRouter`. None: `train_experts` chooses it from the records, by
        `least_usual_similarity`; a bank that is put together otherwise has none (−1).
    metrics, training : mapping, optional
        Results, and the settings of training; JSON-able.
    """

    base: Mapping[str, Any]
    encoder: Mapping[str, Any]
    encoder_model: SentenceTransformer | None = None
    weights: Mapping[str, float] | None = None
    min_similarity: float | None = None
    metrics: Mapping[str, Any] | None = None
    training: Mapping[str, Any] | None = None


class ExpertBank:
    """A folder with the LoRA experts, the router's centroids, and where all of it comes from.

    Made by `assl_kit.experts.train_experts.train_experts` or `create`, opened by `from_pretrained`. On disk::

        expert-0/ … expert-5/   adapter_config.json, adapter_model.safetensors: PEFT's own format
        router.safetensors      tensor "centroids" (k, d) float32, unit rows
        bank.json               format version, base, encoder, weights, experts (sizes, task mix), metrics, SHA-256s
        encoder/                optional: the fitted encoder, a sentence-transformers folder

    The last is ours: an encoder fitted on the corpus exists nowhere else, so it travels with its bank.

    Attributes
    ----------
    path : pathlib.Path
    info : dict
        The content of ``bank.json``.
    centroids : ndarray of shape (k, d), float32
    names : tuple of str
        ``expert-0`` … ; also the folders' names and PEFT's adapter names.
    base, encoder : dict
        Base: ``id``, ``revision``, ``fingerprint`` (and ``tokenizer``). Encoder: ``id``, ``fingerprint``, ``dim``.
    min_similarity : float
    results : list or None
        What training measured (`TrainingResult`), when this process trained the bank.

    Notes
    -----
    The form is that of `method.md`'s expert bank (ours). Checksums find damage and mix-ups, not forgery: whoever can
    write the folder can write `bank.json` too.
    """

    def __init__(self, path: Path, info: dict[str, Any], centroids: np.ndarray):
        self.path, self.info, self.centroids = Path(path), info, centroids
        self.names = tuple(expert["name"] for expert in info["experts"])
        self.base, self.encoder = dict(info["base"]), dict(info["encoder"])
        self.min_similarity = float(info["router"]["min_similarity"])
        self.results: list[TrainingResult] | None = None

    def __len__(self) -> int:
        return len(self.names)

    def __repr__(self) -> str:
        return f"ExpertBank({len(self)} experts on {self.base['id']}, encoder {self.encoder['id']}, {self.path.name})"

    @property
    def expert_paths(self) -> list[Path]:
        """The PEFT folder of each expert."""
        return [self.path / name for name in self.names]

    @property
    def encoder_path(self) -> Path | None:
        """The encoder's folder, or None if the bank carries none."""
        folder = self.path / "encoder"
        return folder if folder.is_dir() else None

    def router(self, *, min_similarity: float | None = None) -> CentroidRouter:
        """A `CentroidRouter` over the experts, with the bank's ``min_similarity`` unless another is given."""
        floor = self.min_similarity if min_similarity is None else min_similarity
        return CentroidRouter(self.centroids, min_similarity=floor, names=self.names)

    # making ----------------------------------------------------------------------------------------------------------
    @classmethod
    def create(
        cls,
        path: str | os.PathLike,
        adapters: Sequence[str | os.PathLike],
        centroids: ArrayLike,
        origin: Provenance,
        *,
        experts: Sequence[Mapping[str, Any]] | None = None,
    ) -> ExpertBank:
        """Write a bank from PEFT folders and centroids.

        Parameters
        ----------
        path : path-like
            Where; an existing folder there is replaced once the new one is complete.
        adapters : sequence of path-like, length k
            PEFT folders with `adapter_config.json` and `adapter_model.safetensors`.
        centroids : array of shape (k, d)
            Expert embeddings; see :func:`assl_kit.experts.router.expert_centroids`.
        origin : Provenance
        experts : sequence of mapping, length k, optional
            What to keep of each: sizes, task mix, training loss; JSON-able.

        Returns
        -------
        ExpertBank

        Raises
        ------
        BankError
            If an adapter's files are missing or it is no plain LoRA, or numbers of adapters, centroids and experts
            differ.
        """
        from safetensors.numpy import save_file

        from assl_kit.version import __version__

        floor = -1.0 if origin.min_similarity is None else origin.min_similarity
        router = CentroidRouter(centroids, min_similarity=floor)
        experts = list(experts) if experts is not None else [{} for _ in adapters]
        if not len(adapters) == len(experts) == len(router.centroids_):
            raise BankError(
                f"{len(adapters)} adapters, {len(router.centroids_)} centroids, {len(experts)} descriptions"
            )
        base = _base_record(origin.base)
        encoder = {key: origin.encoder[key] for key in ("id", "fingerprint", "dim")}
        encoder["id"] = _public_id(encoder["id"])
        if encoder["dim"] != router.centroids_.shape[1]:
            raise BankError(f"encoder dim {encoder['dim']}, but centroids have {router.centroids_.shape[1]} columns")
        for folder in adapters:
            for name in ADAPTER_FILES:
                if not (Path(folder) / name).is_file():
                    raise BankError(f"an adapter has no {name}", where=str(folder), hint="Train the expert again.")
            adapter_shapes(Path(folder), check_adapter_config(Path(folder)))
        with atomic_path(path) as temporary:
            temporary.mkdir()
            for name, folder in zip(router.names, adapters, strict=True):
                (temporary / name).mkdir()
                shutil.copyfile(Path(folder) / ADAPTER_FILES[1], temporary / name / ADAPTER_FILES[1])
                config = clean_adapter_config(read_json(Path(folder) / ADAPTER_FILES[0]), base)
                _write(temporary / name / ADAPTER_FILES[0], config)
            save_file({"centroids": router.centroids_}, temporary / "router.safetensors", metadata={"format": "np"})
            if origin.encoder_model is not None:
                origin.encoder_model.save(str(temporary / "encoder"), safe_serialization=True, create_model_card=False)
            files = sorted(f.relative_to(temporary).as_posix() for f in temporary.rglob("*") if f.is_file())
            info = {
                "format": FORMAT,
                "format_version": FORMAT_VERSION,
                "assl_kit": __version__,
                "base": base,
                "encoder": encoder,
                "router": {"kind": "nearest centroid", "min_similarity": router.min_similarity},
                "weights": dict(origin.weights) if origin.weights is not None else None,
                "experts": [{"name": name, **dict(e)} for name, e in zip(router.names, experts, strict=True)],
                "training": dict(origin.training or {}),
                "metrics": dict(origin.metrics or {}),
                "files": {name: sha256_file(temporary / name) for name in files},
            }
            _write(temporary / "bank.json", info)
        return cls.from_pretrained(path)

    # opening ---------------------------------------------------------------------------------------------------------
    @classmethod
    def from_pretrained(
        cls,
        path: str | os.PathLike,
        *,
        base: Mapping[str, Any] | str | None = None,
        encoder: Mapping[str, Any] | str | None = None,
        revision: str | None = None,
    ) -> ExpertBank:
        """Open a bank and check it: version, every file's SHA-256, and the base and encoder it is to be used with.

        Nothing but safetensors, JSON and text is read; links, paths out of the folder and pickled files are refused.

        Parameters
        ----------
        path : path-like
            A local folder, or a hub id ``owner/name`` (downloaded, or taken from the cache when offline).
        base : mapping or str, optional
            :func:`assl_kit.model.identity.base_info` of the base to be used, or its fingerprint. None: not compared.
        encoder : mapping or str, optional
            With ``fingerprint``, or the fingerprint itself. None: not compared.
        revision : str, optional
            Of the hub repository.

        Returns
        -------
        ExpertBank

        Raises
        ------
        BankError
            If the bank is missing, damaged, of another format version, or does not fit base or encoder.
        """
        folder, root = locate(path, revision)
        info = read_info(folder)
        check_files(folder, root, info)
        check_match("base model", info["base"], base, "Use the base the experts were trained on.")
        check_match("encoder", info["encoder"], encoder, "Use the bank's encoder, or train a bank with yours.")
        return cls(folder, info, read_centroids(folder, info))

    # giving away -----------------------------------------------------------------------------------------------------
    def save_pretrained(self, path: str | os.PathLike) -> Path:
        """Copy the bank to ``path`` (its listed files and `bank.json`, nothing else); return that path."""
        path = Path(path)
        if path.resolve() == self.path.resolve():
            return path
        with atomic_path(path) as temporary:
            for name in ("bank.json", *self.info["files"]):
                (temporary / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(self.path / name, temporary / name)
        return path

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool = True,
        token: str | None = None,
        license: str = "unknown",
        datasets: Sequence[str] = (),
        scores: Sequence[Mapping[str, Any]] = (),
    ) -> str:
        """Upload the bank to ``repo_id`` (made if missing, private unless told otherwise); return the commit's address.

        Only the listed files, `bank.json` and a card are sent: the bank's own README.md if it has one, else
        :func:`assl_kit.experts.bank_card.bank_card` of ``license``, ``datasets`` and ``scores``.

        Raises
        ------
        ParameterError
            As `assl_kit.common.hub.upload`: no token, no network, HF_HUB_OFFLINE, a name that is none.
        """
        check_hub(repo_id, token)
        card = self.path / "README.md"
        return upload(
            self.path,
            repo_id,
            ["bank.json", *self.info["files"], *(["README.md"] if card.is_file() else [])],
            kind="model",
            private=private,
            token=token,
            message="Upload expert bank",
            texts={}
            if card.is_file()
            else {"README.md": bank_card(self.info, repo_id, license=license, datasets=datasets, scores=scores)},
        )


def clean_adapter_config(config: dict[str, Any], base: Mapping[str, Any]) -> dict[str, Any]:
    """PEFT's `adapter_config.json` without this machine: the base's id instead of a path, names in sorted order."""
    config = dict(config)
    config["base_model_name_or_path"] = _public_id(base["id"])
    config["revision"] = base.get("revision")
    config["inference_mode"] = True
    for key, value in config.items():
        if key in {"target_modules", "exclude_modules", "modules_to_save"} and isinstance(value, list):
            config[key] = sorted(value)
    return config


def _public_id(name: str) -> str:
    """A hub id or short name as it is; of a local path only the last part, so no one's folders are told."""
    name = str(name)
    local = name.startswith((".", "~")) or Path(name).is_absolute() or "\\" in name or name.count("/") > 1
    return re.split(r"[\\/]", name.rstrip("\\/"))[-1] if local else name


def _base_record(base: Mapping[str, Any]) -> dict[str, Any]:
    record = {"id": _public_id(base["id"]), "revision": base.get("revision"), "fingerprint": base["fingerprint"]}
    record |= {"tokenizer": base["tokenizer"]} if base.get("tokenizer") else {}
    return record | ({"thinking": bool(base["thinking"])} if "thinking" in base else {})


def _write(path: Path, value: Any) -> None:
    text = json.dumps(value, ensure_ascii=False, indent=2, sort_keys=path.name != "bank.json", allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8", newline="\n")
