"""How much of a file from elsewhere is read: generous bounds, so that a small hostile file cannot fill the memory."""

from __future__ import annotations

import gzip
import io
import json
import os
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import yaml

from assl_kit.errors import DataError

MAX_JSON = 32 << 20
"""Bytes of one JSON file that describes something: a bank, a run, an adapter, a model."""
MAX_LINE = 32 << 20
"""Bytes of one line, and characters of one field, of a file of records."""
MAX_LIST = 4 << 30
"""Bytes of a file of records that must be read whole: one of CFLEB's tasks."""
MAX_VOCABULARY = 64 << 20
"""Bytes of a file of a tokenizer. The largest in use have 33 MB."""
MAX_TEMPLATE = 1 << 18
"""Bytes of a chat template, which have some thousands, and characters of what it writes of a short conversation."""
MAX_YAML = 1 << 18
"""Bytes of a file of parameters, and of the head of a dataset's card."""
MAX_NESTED = 50
"""How deep lists and mappings of YAML lie in each other."""
MAX_RATIO = 200
"""How many times the size of a packed file its content may have, beyond ``FREE_UNPACKED`` bytes. Text has 3 to 20."""
FREE_UNPACKED = 16 << 20
MAX_RECORDS = 20_000_000
MAX_COLUMNS = 1_000
"""Names of fields in one corpus."""
FREE_CELLS = 2_000_000
"""Cells of fields that only some records have, full or empty, before they are compared with how much text there is."""


def parse_json(text: str | bytes) -> Any:
    """``json.loads``, with all it can raise for a text as a ``json.JSONDecodeError``.

    Examples
    --------
    >>> parse_json("[1]")
    [1]
    >>> try:
    ...     parse_json("[" * 100_000)
    ... except json.JSONDecodeError as error:
    ...     print(error.msg)
    it is nested too deeply
    """
    with _json_errors():
        return json.loads(text)


def decode_json(text: str, at: int) -> tuple[Any, int]:
    """The JSON value that begins at a place of a text, and where it ends; errors as `parse_json`.

    Examples
    --------
    >>> decode_json("[1], 2", 0)
    ([1], 3)
    """
    with _json_errors():
        return _DECODER.raw_decode(text, at)


_DECODER = json.JSONDecoder()


@contextmanager
def _json_errors() -> Iterator[None]:
    try:
        yield
    except RecursionError:
        raise json.JSONDecodeError("it is nested too deeply", "", 0) from None
    except (json.JSONDecodeError, UnicodeDecodeError):
        raise
    except ValueError:  # Python's own bound on the digits of a whole number
        raise json.JSONDecodeError("a number has too many digits", "", 0) from None


class _Plain(yaml.SafeLoader):
    """YAML of bounded depth; a name twice is refused, and so are merges of mappings, and parts that hold themselves."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._around: list[str | None] = []  # the anchors of the parts that the next one lies in

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()
        if len(self._around) >= MAX_NESTED:
            raise yaml.MarkedYAMLError(None, None, "it is nested too deeply", event.start_mark)
        if isinstance(event, yaml.AliasEvent) and event.anchor in self._around:
            raise yaml.MarkedYAMLError(None, None, f"{event.anchor[:80]!r} holds itself", event.start_mark)
        self._around.append(event.anchor)
        try:
            return super().compose_node(parent, index)
        finally:
            self._around.pop()

    def flatten_mapping(self, node: Any) -> None:
        for key, _ in node.value:
            if key.tag == "tag:yaml.org,2002:merge":
                raise yaml.MarkedYAMLError(None, None, "a mapping is merged into another", key.start_mark)
        super().flatten_mapping(node)

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        seen: dict[Any, int] = {}
        for key, _ in node.value if isinstance(node, yaml.MappingNode) else []:
            name, line = (key.tag, key.value) if isinstance(key, yaml.ScalarNode) else id(key), key.start_mark.line + 1
            if name in seen:
                what = f"the name {str(key.value)[:80]!r} stands there twice, first in line {seen[name]}"
                raise yaml.MarkedYAMLError(None, None, what, key.start_mark)
            seen[name] = line
        return super().construct_mapping(node, deep)


_Plain.add_implicit_resolver(  # ``2e-3`` is a number, as YAML 1.2 has it
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+(\.\d*)?|\.\d+)([eE][-+]?\d+)$"), list("-+.0123456789")
)


class BadYaml(DataError):
    """A text is not YAML, or YAML that is not read; ``what`` says why, ``line`` where."""

    line: int | None = None


def parse_yaml(text: str) -> Any:
    """Plain values of a YAML text.

    Raises
    ------
    BadYaml
        It is longer than ``MAX_YAML``; it is no YAML; a name stands twice in a mapping; a mapping is merged into
        another by ``<<``; it is nested deeper than ``MAX_NESTED``; a value is no number or date though it looks so.

    Examples
    --------
    >>> parse_yaml("learning_rate: 2e-3")
    {'learning_rate': 0.002}
    >>> try:
    ...     parse_yaml("a: 1\\nb: 2\\na: 3")
    ... except BadYaml as error:
    ...     print(error.what, error.line)
    the name 'a' stands there twice, first in line 1 3
    """
    if len(text) > MAX_YAML:
        raise BadYaml(f"the text has more than {MAX_YAML:,} characters")
    try:
        return yaml.load(text, Loader=_Plain)  # noqa: S506 - a SafeLoader
    except yaml.YAMLError as error:
        wrong = BadYaml(_yaml_problem(error))
        mark = getattr(error, "problem_mark", None)
        wrong.line = None if mark is None else mark.line + 1
        raise wrong from None
    except RecursionError:
        raise BadYaml("it is nested too deeply") from None
    except (ValueError, TypeError, OverflowError, KeyError, AttributeError, IndexError) as error:
        # dates of no calendar, numbers of thousands of digits, unknown tags within numbers
        raise BadYaml(f"a value cannot be read: {str(error)[:200]}") from None


def _yaml_problem(error: yaml.YAMLError) -> str:
    problem = getattr(error, "problem", None) or getattr(error, "reason", None)
    return str(problem or "it cannot be read")[:200]


def check_size(path: str | os.PathLike, most: int) -> None:
    """Refuse a file of more than ``most`` bytes with a ``DataError``; a missing one is left to the reader."""
    try:
        size = os.stat(path).st_size
    except OSError:
        return
    if size > most:
        raise DataError(
            f"the file has {size:,} bytes, at most {most:,} are read of its kind",
            where=str(path),
            hint="Check where it comes from.",
        )


def most_unpacked(path: str | os.PathLike) -> int:
    """Bytes that may come out of a packed file: ``MAX_RATIO`` times its size, or ``FREE_UNPACKED`` if that is more."""
    return max(FREE_UNPACKED, MAX_RATIO * os.stat(path).st_size)


class DamagedFile(DataError):
    """A packed file is cut off, or its content is not what its first bytes promise."""


def first_bytes(path: str | os.PathLike, count: int) -> bytes:
    """The first bytes of a file as it lies there, packed or not."""
    with open(path, "rb") as file:
        return file.read(count)


def open_records(path: str | os.PathLike) -> BinaryIO:
    """Open a file of records for reading bytes; gzip and Zstandard, told by the first bytes, are unpacked.

    Reading raises a ``DataError`` once a packed file has given more than ``FREE_UNPACKED`` bytes and ``MAX_RATIO``
    times its own size, and a `DamagedFile` where it is damaged.
    """
    path = Path(path)
    packing = next((name for mark, name in _PACKINGS.items() if first_bytes(path, len(mark)) == mark), None)
    return open(path, "rb") if packing is None else io.BufferedReader(_Unpacked(path, packing), buffer_size=1 << 18)


_PACKINGS = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd"}


class _Unpacked(io.RawIOBase):
    """The content of a packed file, counted."""

    def __init__(self, path: Path, packing: str) -> None:
        super().__init__()
        self._path, self._packing, self._unpacked = path, packing, 0
        self._most = most_unpacked(path)
        if packing == "gzip":
            self._file: Any = gzip.open(path, "rb")  # noqa: SIM115 - closed with this object
        else:
            import pyarrow as pa

            self._file = pa.CompressedInputStream(pa.OSFile(str(path), "rb"), packing)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            piece = self._file.read1(len(buffer)) if self._packing == "gzip" else self._file.read(len(buffer))
        except (EOFError, OSError, zlib.error, ValueError) as error:
            raise DamagedFile(f"the {self._packing} file is damaged or cut off", where=str(self._path)) from error
        buffer[: len(piece)] = piece
        self._unpacked += len(piece)
        if self._unpacked > self._most:
            raise DataError(
                f"the {self._packing} file unpacks to more than {self._most:,} bytes, over {MAX_RATIO} times its size",
                where=str(self._path),
                hint="Unpack it yourself if you trust it.",
            )
        return len(piece)

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()
