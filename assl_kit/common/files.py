"""Files: atomic writes, locks, checksums, JSON."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from assl_kit.errors import WorkspaceError

from .limits import MAX_JSON, check_size, parse_json

_LONGEST_PART = 120  # of what is written into a folder: a temporary file's folder and the file


@contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; on success it takes ``path``'s place, on an error it is removed.

    The caller may write a file there or make a folder. A reader never sees a half-written artifact: the content is
    flushed to disk before the rename. A folder that was there stays until then, and is put back if that fails.

    Parameters
    ----------
    path : path-like
        The final place. Its parent folders are made.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> target = Path(tempfile.mkdtemp()) / "a.txt"
    >>> with atomic_path(target) as temporary:
    ...     _ = temporary.write_text("whole", encoding="utf-8")
    >>> target.read_text(encoding="utf-8")
    'whole'
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    holder = Path(tempfile.mkdtemp(prefix=_of_this_process(path), dir=path.parent))
    temporary, replaced = holder / path.name, holder / ".replaced"
    try:
        yield temporary
        for file in sorted(temporary.rglob("*")) if temporary.is_dir() else [temporary]:
            if file.is_file():
                with open(file, "rb+") as handle:
                    os.fsync(handle.fileno())
        if path.is_dir():
            os.replace(path, replaced)
        os.replace(temporary, path)
    finally:
        if replaced.exists() and not path.exists():
            os.replace(replaced, path)
        shutil.rmtree(holder, ignore_errors=True)


def resolved(path: str | os.PathLike) -> Path:
    """A path made absolute, ``~`` and links followed.

    Raises
    ------
    OSError
        If its links lead round in a circle.

    Examples
    --------
    >>> resolved("a/../b") == Path.cwd() / "b"
    True
    """
    try:
        return Path(path).expanduser().resolve()
    except RuntimeError as error:  # what pathlib made of ELOOP before Python 3.13, and of a home that is not known
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), os.fspath(path)) from error


def check_writable(folder: str | os.PathLike) -> None:
    """Make and remove a file of a megabyte where ``folder`` is, or is to be made.

    Raises
    ------
    OSError
        What the system says against it: no permission, no room, a name too long, links in a circle.

    Examples
    --------
    >>> import tempfile
    >>> check_writable(Path(tempfile.mkdtemp()) / "runs" / "tiny")
    """
    there = Path(folder)
    try:
        with suppress(FileNotFoundError):
            os.stat(there / ("x" * _LONGEST_PART))
        while not _is_there(there):
            there = there.parent
        with tempfile.NamedTemporaryFile(prefix=f".probe.pid{os.getpid()}.", dir=there) as file:
            file.write(bytes(1 << 20))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:  # of a name that nobody has given
        raise OSError(error.errno, error.strerror, os.fspath(folder)) from error


def lock_at(path: str | os.PathLike) -> FileLock:
    """The lock of a place, not yet taken; its folder is made.

    Raises
    ------
    WorkspaceError
        As `check_lock`.

    Examples
    --------
    >>> with lock_at(Path(tempfile.mkdtemp()) / ".lock") as lock:
    ...     is_locked(lock.lock_file), lock.is_locked
    (True, True)
    """
    check_lock(path)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    return FileLock(path)


def check_lock(path: str | os.PathLike) -> None:
    """Refuse a lock that is anything but a plain file of its own, as a folder from elsewhere may hold one.

    Whoever takes a lock may empty its file: a link would make that another one.

    Raises
    ------
    WorkspaceError
        If there is a link, a folder, a pipe, or a file with content and a second name.
    """
    try:
        there = os.lstat(path)
    except FileNotFoundError:
        return
    if not stat.S_ISREG(there.st_mode) or (there.st_nlink > 1 and there.st_size > 0):
        what = "a link" if stat.S_ISLNK(there.st_mode) or there.st_nlink > 1 else "no file"
        hint = "Remove it: it is made anew."
        raise WorkspaceError(f"the lock {Path(path).name} is {what}, and is not touched", where=str(path), hint=hint)


def is_locked(path: str | os.PathLike) -> bool:
    """Whether a process holds the lock of a place; nothing is written.

    Raises
    ------
    WorkspaceError
        As `check_lock`.
    OSError
        If the lock cannot be read.
    """
    check_lock(path)
    try:
        import fcntl
    except ImportError:  # Windows: there asking takes the lock for a moment
        return _is_taken(Path(path))
    try:
        lock = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(lock)
    return False


def _is_taken(path: Path) -> bool:
    if not path.is_file():
        return False
    try:
        with FileLock(path, timeout=0):
            return False
    except Timeout:
        return True


def check_open_files(most: int = 128) -> None:
    """Open so many files at once, and close them.

    Raises
    ------
    OSError
        If the system does not allow that: libraries would fail later, each in its own words.

    Examples
    --------
    >>> check_open_files(3)
    """
    handles: list[int] = []
    try:
        while len(handles) < most:
            handles.append(os.open(os.devnull, os.O_RDONLY))
    except OSError as error:
        raise OSError(error.errno, f"{error.strerror}: a run needs about {most}") from error
    finally:
        for handle in handles:
            os.close(handle)


def _is_there(path: Path) -> bool:
    """Whether a path is there; unlike ``Path.exists`` it raises whatever else is wrong with it."""
    try:
        os.stat(path)
    except FileNotFoundError:
        return False
    return True


@contextmanager
def temporary_beside(path: str | os.PathLike) -> Iterator[Path]:
    """A temporary folder beside ``path``, removed at the end; what a kill leaves, the next run removes with its others.

    Examples
    --------
    >>> target = Path(tempfile.mkdtemp()) / "experts"
    >>> with temporary_beside(target) as folder:
    ...     temporary_owner(folder.name) == os.getpid()
    True
    >>> folder.exists()
    False
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(
        prefix=_of_this_process(path), dir=path.parent, ignore_cleanup_errors=True
    ) as folder:
        yield Path(folder)


def _of_this_process(path: Path) -> str:
    return f".{path.name}.pid{os.getpid()}."


def temporary_owner(name: str) -> int | None:
    """The process that made a temporary folder of this module, by the folder's name; None for any other name.

    Examples
    --------
    >>> temporary_owner(".a.txt.pid77.x1y2z3_4"), temporary_owner("a.txt")
    (77, None)
    """
    match = re.fullmatch(r"\..+\.pid(\d+)\.\w{8}", name)
    return int(match[1]) if match else None


def sha256_file(path: str | os.PathLike) -> str:
    """Hex SHA-256 of a file's bytes, or of a folder's sorted (relative name, file hash) list.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> file = Path(tempfile.mkdtemp()) / "a"
    >>> _ = file.write_bytes(b"")
    >>> sha256_file(file)[:8]
    'e3b0c442'
    """
    path = Path(path)
    if path.is_dir():
        names = sorted(file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file())
        return sha256_of([[name, sha256_file(path / name)] for name in names])
    digest = hashlib.sha256()
    with open(path, "rb") as handle:
        while chunk := handle.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def sha256_of(value: Any) -> str:
    """Hex SHA-256 of a JSON-able value in canonical form.

    Examples
    --------
    >>> sha256_of({"a": 1, "b": 2}) == sha256_of({"b": 2, "a": 1})
    True
    """
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def plain(value: Any) -> Any:
    """A value made of what JSON has; anything else in it becomes its text, so that it can be hashed.

    Examples
    --------
    >>> plain({1: (True, {2.5}), "dtype": None})
    {'1': [True, '{2.5}'], 'dtype': None}
    """
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value if isinstance(value, str | int | float | bool | type(None)) else str(value)


def write_text(path: str | os.PathLike, text: str) -> None:
    """Write a text as UTF-8 with plain line feeds, the same bytes on every system, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: str | os.PathLike, value: Any) -> None:
    """Write ``value`` as indented UTF-8 JSON, atomically."""
    write_text(path, json.dumps(value, ensure_ascii=False, indent=2) + "\n")


def read_json(path: str | os.PathLike) -> Any:
    """Read a UTF-8 JSON file.

    Raises
    ------
    DataError
        If it is larger than `assl_kit.common.limits.MAX_JSON`.
    json.JSONDecodeError
        If it is not valid, nested too deeply, or holds a number of thousands of digits.
    """
    check_size(path, MAX_JSON)
    return parse_json(Path(path).read_text(encoding="utf-8"))


def shipped(name: str) -> Path:
    """A folder that a checkout holds beside the package, and a wheel within it.

    Parameters
    ----------
    name : str
        As the package calls it: ``"notebooks"``, or ``"results"`` (in a checkout ``benchmarks/results``).

    Returns
    -------
    pathlib.Path
        That of the checkout; else the package's copy, which may be missing from a broken installation.

    Examples
    --------
    >>> shipped("notebooks").name
    'notebooks'
    """
    package = Path(__file__).resolve().parents[1]
    checkout = package.parent / ("benchmarks/results" if name == "results" else name)
    return checkout if (package.parent / "pyproject.toml").is_file() and checkout.is_dir() else package / name
