"""What is checked in a folder from elsewhere before a library reads it, so that it can name no code and no other file.

The libraries run no remote code when told so; what they still believe are names in JSON: classes to import, options of
loading, files beside.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import Any

from assl_kit.errors import AsslError, DataError, ParameterError

from .limits import MAX_JSON, MAX_TEMPLATE, MAX_VOCABULARY, BadYaml, check_size, parse_json, parse_yaml

_MODULES = (
    "BoW", "CNN", "Dense", "Dropout", "LSTM", "LayerNorm", "Normalize", "Pooling", "StaticEmbedding", "Transformer",
    "WeightedLayerPooling", "WordWeights",
)  # fmt: skip
_MODULE = re.compile(rf"sentence_transformers\.(\w+\.)*({'|'.join(_MODULES)})")
_ACTIVATION = re.compile(r"torch\.nn\.(modules\.)?(activation|linear)\.[A-Z]\w*")
_SHARD = re.compile(r"\w[\w.-]*\.safetensors")
_FILES = ("config.json", "modules.json", "sentence_*_config.json", "*.safetensors.index.json", "*.bin.index.json")
_ARGUMENTS = ("model_args", "model_kwargs", "tokenizer_args", "processor_kwargs", "config_args", "config_kwargs")
_OPTIONS = (
    "add_eos_token", "add_pooling_layer", "add_prefix_space", "attn_implementation", "do_lower_case", "dtype",
    "low_cpu_mem_usage", "max_length", "max_position_embeddings", "model_max_length", "padding_side", "torch_dtype",
    "truncation_side", "unpad_inputs", "use_fast", "use_memory_efficient_attention",
)  # fmt: skip
_PACKED = (
    ".7z", ".bin", ".bz2", ".ckpt", ".dill", ".h5", ".hdf5", ".joblib", ".lz4", ".npy", ".npz", ".pickle", ".pkl",
    ".pt", ".pth", ".py", ".pyc", ".pyd", ".rar", ".so", ".tar", ".tgz", ".txz", ".xz", ".zip",
)  # fmt: skip
_TEXT = (".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".txt")
_PLACES = ("data_files", "data_dir", "path")
_SIZES = (
    ("*.safetensors.index.json", MAX_JSON), ("*.jinja", MAX_TEMPLATE), ("*.json", MAX_VOCABULARY),
    ("*.txt", MAX_VOCABULARY), ("*.model", MAX_VOCABULARY), ("*.tiktoken", MAX_VOCABULARY),
)  # fmt: skip
MAX_FILES = 100_000
MAX_GROWTH = 4096
"""How many times longer the steps of a tokenizer may make a text. Those in use: 8."""


def inside(folder: str | Path, file: str | Path, kind: type[AsslError] = DataError) -> Path:
    """``file``, unless it leads out of ``folder`` through a link (the hub's cache links into its blobs)."""
    root = Path(folder).resolve()
    root = root.parents[1] if root.parent.name == "snapshots" else root
    if not Path(file).resolve().is_relative_to(root):
        raise kind(
            f"{Path(file).name} is a link out of the folder", where=str(folder), hint="Put the file itself there."
        )
    return Path(file)


def check_model_folder(folder: str | Path, what: str) -> None:
    """Check the JSON files that transformers reads in the folder of a model.

    Parameters
    ----------
    folder : path-like
    what : str
        Such as ``"the base model"``, for messages.

    Raises
    ------
    ParameterError
        If the folder holds an adapter, whose file names another model to load; a list of weights names other files than
        safetensors beside it; an option of loading is named that could read pickled weights or run code; the steps of
        a tokenizer could make a text grow without bound; or a file is no JSON or too large.
    """
    folder = Path(folder)
    if (folder / "adapter_config.json").is_file():
        raise ParameterError(
            f"the folder of {what} holds an adapter",
            where=str(folder),
            hint="Give the model itself; adapters belong into an expert bank.",
        )
    for file in sorted(folder.iterdir()):
        if file.is_file():
            _check_model_file(file)
        if file.is_file() and any(fnmatch(file.name, pattern) for pattern in _FILES):
            value = _read(file)
            _check_shards(value, file, what)
            for name, part in _entries(value):
                if name in _ARGUMENTS:
                    _check_arguments(part, file, what)
                elif name in ("attn_implementation", "_attn_implementation"):
                    check_attention(part, what, str(file))


def _check_model_file(file: Path) -> None:
    """Refuse a file that transformers would read whole, however large it is."""
    most = next((most for pattern, most in _SIZES if fnmatch(file.name, pattern)), None)
    try:
        if most is not None:
            check_size(file, most)
    except DataError as error:
        raise ParameterError(error.what, where=error.where, hint=error.hint) from None
    if file.name == "tokenizer.json":
        _check_growth(_read(file, most=MAX_VOCABULARY), file)


def _check_growth(tokenizer: Any, file: Path) -> None:
    """Refuse a tokenizer whose steps, one after the other, could make a text of some words fill the memory."""
    for name in ("normalizer", "pre_tokenizer", "post_processor", "decoder"):
        part, growth = tokenizer.get(name) if isinstance(tokenizer, dict) else None, 1.0
        for step in _parts(part):
            growth = min(growth * _growth_of(step), 1e9)
        if growth > MAX_GROWTH:
            raise ParameterError(
                f"the tokenizer's {name} could make a text more than {MAX_GROWTH:,} times as long",
                where=str(file),
                hint="Take the tokenizer of the model's authors.",
            )


def _growth_of(step: dict[str, Any]) -> float:
    """How many times longer a step of a tokenizer makes a text at most, beside what it adds once."""
    kind, content, pattern = step.get("type"), step.get("content"), step.get("pattern")
    if kind == "Replace" and isinstance(content, str):
        text = pattern.get("String") if isinstance(pattern, dict) else None
        return max(1.0, len(content) / len(text)) if isinstance(text, str) and text else 1.0 + len(content)
    if kind == "TemplateProcessing":
        pieces = [piece for name in ("single", "pair") for piece in _list(step.get(name)) if isinstance(piece, dict)]
        return max(1, sum("Sequence" in piece for piece in pieces))
    return {"ByteLevel": 2.0, "Precompiled": 4.0}.get(str(kind), 1.0)


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def check_attention(value: Any, what: str, where: str) -> None:
    """Refuse an attention that is the name of a hub repository with compiled code, with a ``ParameterError``."""
    names = value.values() if isinstance(value, dict) else [value]  # one for all parts of a model, or one for each
    if any("/" in str(name) or ":" in str(name) for name in names):
        raise ParameterError(
            f"{what} asks for the attention {str(value)[:80]!r}, which is code from elsewhere",
            where=where,
            hint="Remove the entry.",
        )


def check_encoder_folder(folder: str | Path, what: str = "the encoder") -> None:
    """Check the folder of a sentence-transformers model: its modules are the library's own, and lie inside.

    Raises
    ------
    ParameterError
        As `check_model_folder`, and if a module or an activation is another class than those known here, a module lies
        outside, or weights are pickled.
    """
    folder = Path(folder)
    for file in folder.rglob("*.bin"):
        if not (file.parent / "model.safetensors").is_file():
            raise ParameterError(f"{what} has pickled weights ({file.name})", hint="Save it again as safetensors.")
    places = {folder}
    if (folder / "modules.json").is_file():
        modules = _read(folder / "modules.json")
        if not isinstance(modules, list) or not all(isinstance(module, dict) for module in modules):
            raise ParameterError(f"modules.json of {what} is no list of modules", where=str(folder))
        for module in modules:
            kind, path = str(module.get("type")), str(module.get("path", ""))
            if not _MODULE.fullmatch(kind):
                raise ParameterError(
                    f"{what} asks for code from elsewhere ({kind[:80]}) and is not loaded",
                    where=str(folder / "modules.json"),
                    hint=f"Modules of sentence-transformers are loaded: {', '.join(_MODULES)}.",
                )
            if leads_out(path):
                raise ParameterError(f"a module of {what} lies outside: {path[:80]}", where=str(folder))
            places.add(folder / path)
    for place in sorted(place for place in places if place.is_dir()):
        check_model_folder(place, what)
        config = _read(place / "config.json") if (place / "config.json").is_file() else {}
        activation = config.get("activation_function") if isinstance(config, dict) else None
        if isinstance(activation, str) and "." in activation and not _ACTIVATION.fullmatch(activation):
            raise ParameterError(
                f"{what} asks for the activation {activation[:80]!r}, which is not one of torch's layers",
                where=str(place / "config.json"),
            )


def check_dataset_folder(folder: str | Path) -> None:
    """Check a folder before the library datasets looks for data in it.

    Raises
    ------
    DataError
        If it holds archives, pickled data or programs, links out of the folder, or a list of data files elsewhere.
    """
    folder = Path(folder)
    for number, file in enumerate(sorted(folder.rglob("*"))):
        name = file.relative_to(folder).as_posix()
        if number >= MAX_FILES:
            raise DataError(f"the folder holds more than {MAX_FILES:,} files", where=str(folder))
        if file.is_symlink():
            inside(folder, file)
        suffix = file.suffix.lower()
        packed = suffix in (".gz", ".zst") and Path(file.stem).suffix.lower() not in _TEXT
        if file.is_file() and (suffix in _PACKED or packed):
            raise DataError(
                f"{name} is an archive, pickled data or a program; a folder with such files is not read as a dataset",
                where=str(folder),
                hint="Give the folder with the data alone; unpack archives yourself if you trust them.",
            )
        if file.name.lower() == "readme.md" and file.is_file():
            _check_card(file)
        if file.name in ("state.json", "dataset_dict.json") and file.is_file():
            for key, value in _entries(_read(file, DataError)):
                if key == "filename" and leads_out(str(value)):
                    raise DataError(f"{name} names data outside the folder: {str(value)[:80]}", where=str(folder))


def _check_card(file: Path) -> None:
    """A dataset's README.md may list its files, in YAML between two lines of dashes."""
    check_size(file, MAX_JSON)
    head, dashes, _ = file.read_text(encoding="utf-8", errors="replace").removeprefix("---").partition("\n---")
    try:
        listed = [part for key, part in _entries(parse_yaml(head)) if key in _PLACES] if dashes else []
    except BadYaml as error:
        raise DataError(f"the head of README.md is not valid YAML: {error.what}", where=str(file)) from error
    for part in listed:
        for name in [part, *(text for _, text in _entries({"": part}))]:
            for text in name if isinstance(name, list) else [name]:
                if isinstance(text, str) and (leads_out(text) or "://" in text):
                    raise DataError(f"README.md names data outside the folder: {text[:80]}", where=str(file))


def leads_out(path: str) -> bool:
    """Whether a path, as a file from elsewhere names it, is absolute or leads upwards.

    Examples
    --------
    >>> [leads_out(path) for path in ("a/b.json", "../b", "/etc/passwd", "C:\\\\x", "a/../../b")]
    [False, True, True, True, True]
    """
    absolute = path.startswith(("/", "~")) or re.match(r"[A-Za-z]:", path) is not None
    upwards = ".." in PurePosixPath(path).parts
    return absolute or upwards or "\\" in path or "\0" in path  # a backslash parts folders on Windows, NUL ends a path


def _read(file: Path, kind: type[AsslError] = ParameterError, most: int = MAX_JSON) -> Any:
    try:
        check_size(file, most)
        return parse_json(file.read_bytes())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise kind(f"{file.name} is not readable JSON: {error}", where=str(file)) from None
    except DataError as error:
        raise kind(error.what, where=error.where, hint=error.hint) from None


def _entries(value: Any) -> Iterator[tuple[str, Any]]:
    """Every named entry at any depth, each once, however often YAML repeats a part."""
    for part in _parts(value):
        yield from part.items()


def _parts(value: Any) -> Iterator[dict[str, Any]]:
    """Every mapping at any depth, each once."""
    waiting, seen = [value], set()
    while waiting:
        part = waiting.pop()
        if not isinstance(part, dict | list) or id(part) in seen:
            continue
        seen.add(id(part))
        if isinstance(part, dict):
            yield part
        waiting += part.values() if isinstance(part, dict) else part


def _check_shards(value: Any, file: Path, what: str) -> None:
    listed = value.get("weight_map") if isinstance(value, dict) else None
    if not file.name.endswith(".safetensors.index.json"):
        return
    if not isinstance(listed, dict):
        raise ParameterError(f"{file.name} of {what} lists no weights", where=str(file))
    for name in listed.values():
        if not isinstance(name, str) or not _SHARD.fullmatch(name):
            raise ParameterError(
                f"{file.name} of {what} names weights that are no safetensors beside it: {str(name)[:80]}",
                where=str(file),
            )


def _check_arguments(value: Any, file: Path, what: str) -> None:
    for name, chosen in value.items() if isinstance(value, dict) else []:
        if name not in _OPTIONS and not (name == "trust_remote_code" and chosen is False):
            raise ParameterError(
                f"{what} asks to be loaded with {name}={str(chosen)[:40]}, which is not allowed",
                where=str(file),
                hint="Remove the entry if you trust the model.",
            )
