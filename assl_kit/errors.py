"""The errors a user can act on: each says what is wrong, where, and what to do."""

from __future__ import annotations

from typing import Any


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
