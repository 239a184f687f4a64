"""The errors a user can act on: each says what is wrong, where, and what to do."""

from __future__ import annotations

import errno
import os
import re
from typing import Any

#: What the operating system says against a place: no room, no permission, a name that cannot be, too many files.
PLACE_ERRORS = (
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG, errno.ELOOP,
    errno.EMFILE, errno.ENFILE, errno.EIO,
)  # fmt: skip


class AsslError(Exception):
    """Base of all errors this package raises on purpose.

    Parameters
    ----------
    what : str
        What is wrong, in one sentence without the final stop.
    where : str, optional
        The place: a file and line, a record id, a row, a parameter.
    hint : str, optional
        What to do about it.

    Examples
    --------
    >>> str(AsslError("the corpus is empty", where="data.jsonl", hint="Give at least one record."))
    'the corpus is empty (data.jsonl). Give at least one record.'
    """

    def __init__(self, what: str, *, where: str | None = None, hint: str | None = None) -> None:
        self.what, self.where, self.hint = what, where, hint
        message = what if where is None else f"{what} ({where})"
        super().__init__(message if hint is None else f"{message}. {hint}")

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.what, self.where, self.hint)


def _rebuild(cls: type[AsslError], what: str, where: str | None, hint: str | None) -> AsslError:
    return cls(what, where=where, hint=hint)


class DataError(AsslError, ValueError):
    """A record, a file of records, or an array is not usable."""


class ParameterError(AsslError, ValueError):
    """A parameter or profile is unknown, of the wrong type, or out of range."""


class BankError(AsslError, ValueError):
    """An expert bank is damaged, or does not fit the base model or the encoder."""


class WorkspaceError(AsslError, RuntimeError):
    """A run's folder lacks an artifact, or holds one that does not match its manifest."""


class NotebookError(AsslError, RuntimeError):
    """A cell of a notebook failed, or its kernel died. The executed copy is kept."""


def refusal(error: BaseException | None) -> OSError | None:
    """The operating system's refusal that an error is, or that a library has made another error of; else None.

    Examples
    --------
    >>> refusal(OSError(errno.ENOENT, "No such file or directory")).errno == errno.ENOENT
    True
    >>> refusal(ValueError("I/O error: No space left on device (os error 28)")).errno == errno.ENOSPC
    True
    >>> refusal(KeyError("a")) is None
    True
    """
    while error is not None:
        if isinstance(error, OSError):
            return error
        number = getattr(error, "errno", None)
        if isinstance(number, int):  # of ZeroMQ
            return OSError(number, os.strerror(number))
        if (in_words := told_refusal(str(error))) is not None:
            return in_words
        error = (error.__cause__ or error.__context__) if isinstance(error, RuntimeError) else None
    return None


def told_refusal(text: str) -> OSError | None:
    """The refusal of a place that a library tells of in its own words; None where it tells of none.

    Examples
    --------
    >>> told_refusal("OSError: [Errno 30] Read-only file system: 'a.json'").errno == errno.EROFS
    True
    >>> told_refusal("[Errno 2] No such file or directory") is None
    True
    """
    number = re.search(r"(?:\[[Ee]rrno |os error )(\d+)", text)
    if number is not None and int(number[1]) in PLACE_ERRORS:
        return OSError(int(number[1]), os.strerror(int(number[1])))
    if re.search(r"enforce fail at inline_container|PytorchStreamWriter failed", text):  # torch.save, without a number
        return OSError(errno.EIO, "a file of torch could not be written whole; the disk may be full")
    return None
