"""Optional packages, and what a library says when it fails."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager

from assl_kit.errors import ParameterError


def is_installed(package: str) -> bool:
    """Whether a package can be imported; it is not imported for that.

    Examples
    --------
    >>> is_installed("json"), is_installed("no_such_package")
    (True, False)
    """
    try:
        return importlib.util.find_spec(package) is not None
    except ValueError:  # a module that was put there by hand has no spec
        return True


def need(
    package: str,
    what: str,
    extra: str,
    *,
    name: str | None = None,
    instead: str | None = None,
    where: str | None = None,
) -> None:
    """Refuse to go on where an optional package is not installed.

    Parameters
    ----------
    package : str
        As it is imported.
    what : str
        What needs it, for the message.
    extra : str
        The extra of this project that brings it.
    name : str, optional
        What to call the package; as it is imported by default.
    instead : str, optional
        What else the user can do: ``"use device=cpu"``.
    where : str, optional
        The parameter that asks for it.

    Raises
    ------
    ParameterError
        If it is not installed; the message says how to install it.

    Examples
    --------
    >>> need("json", "a test", "dev")
    >>> need("no_such_package", "the backend 'ray'", "ray", name="Ray", instead="use the backend 'local'")
    Traceback (most recent call last):
    ...
    assl_kit.errors.ParameterError: the backend 'ray' needs Ray, which is not installed. Install it: pip install \
"assl-kit[ray]", or use the backend 'local'.
    """
    if not is_installed(package):
        hint = f'Install it: pip install "assl-kit[{extra}]"' + (f", or {instead}." if instead else ".")
        raise ParameterError(f"{what} needs {name or package}, which is not installed", where=where, hint=hint)


@contextmanager
def panics_caught() -> Iterator[None]:
    """Let a panic of a library in Rust, which is no `Exception`, be a ValueError: tokenizers has some."""
    try:
        yield
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise ValueError(reason(error)) from error


def reason(error: BaseException) -> str:
    """The first line of what a library says of its failure, without a final stop; the kind of error if it is silent.

    Examples
    --------
    >>> reason(OSError("the file is damaged.\\nTraceback: …")), reason(KeyError())
    ('the file is damaged', 'KeyError')
    """
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__
