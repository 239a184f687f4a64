"""What a builder may read: the artifacts that its step declares as parents, and no other."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from assl_kit.data.parquet import check_parquet
from assl_kit.errors import WorkspaceError


def read_artifact(path: Path, reader: Callable[[Path], Any]) -> Any:
    """Load an artifact, after a look at the size of a Parquet file."""
    if path.suffix == ".parquet" and path.is_file():
        check_parquet(path)
    return reader(path)


class Parents:
    """The declared parents of an artifact, each loaded when it is asked for.

    Parameters
    ----------
    artifact : str
        Whose parents they are, for messages.
    places : mapping of str to (pathlib.Path, callable)
        By the parent's name: where it is, and what loads it.

    Raises
    ------
    WorkspaceError
        When a builder asks for an artifact that was not declared, so that it could never make this one out of date.

    Examples
    --------
    >>> parents = Parents("pool", {"clusters": (Path("clusters.parquet"), str)})
    >>> parents["clusters"], parents.path("clusters").name
    ('clusters.parquet', 'clusters.parquet')
    >>> parents["scores"]
    Traceback (most recent call last):
    ...
    assl_kit.errors.WorkspaceError: the builder of 'pool' reads 'scores', which is not declared as its parent. \
Add it to the parents in the table of steps.
    """

    def __init__(self, artifact: str, places: Mapping[str, tuple[Path, Callable[[Path], Any]]]):
        self._artifact, self._places = artifact, dict(places)

    def __getitem__(self, name: str) -> Any:
        """The parent, loaded."""
        return read_artifact(*self._declared(name))

    def path(self, name: str) -> Path:
        """Where the parent is."""
        return self._declared(name)[0]

    def _declared(self, name: str) -> tuple[Path, Callable[[Path], Any]]:
        if name not in self._places:
            raise WorkspaceError(
                f"the builder of {self._artifact!r} reads {name!r}, which is not declared as its parent",
                hint="Add it to the parents in the table of steps.",
            )
        return self._places[name]
