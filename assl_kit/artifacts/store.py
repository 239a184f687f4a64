"""Artifacts shared by the runs of a sweep: each is made once, by whoever asks first, and linked by the others."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from assl_kit.common.files import atomic_path, lock_at, read_json, sha256_file, write_json

STORE = "ASSL_SHARED"
"""Environment variable that names the store's folder; without it nothing is shared."""
STORE_FOLDER = "shared"
"""The store of a sweep, in its folder."""


class SharedArtifact:
    """The place of one artifact in a store, while its lock is held.

    Parameters
    ----------
    folder : pathlib.Path or None
        Of the artifact, named by its key; None: there is no store, and nothing is ever found or kept.
    """

    def __init__(self, folder: Path | None):
        self.folder = folder

    def take(self, target: Path) -> dict[str, Any] | None:
        """Link the artifact to ``target``; give the notes kept with it, or None if it is not there or has changed."""
        if self.folder is None or not (self.folder / "entry.json").is_file():
            return None
        entry, source = read_json(self.folder / "entry.json"), self.folder / target.name
        if not source.exists() or sha256_file(source) != entry["sha256"]:
            return None
        with atomic_path(target) as temporary:
            _link_tree(source, temporary)
        return entry["notes"]

    def give(self, source: Path, notes: dict[str, Any]) -> None:
        """Keep an artifact that was just made."""
        if self.folder is None:
            return
        with atomic_path(self.folder / source.name) as temporary:
            _link_tree(source, temporary)
        write_json(self.folder / "entry.json", {"sha256": sha256_file(source), "notes": notes})


@contextmanager
def shared_artifact(key: str) -> Iterator[SharedArtifact]:
    """The place of an artifact in the store named by ``ASSL_SHARED``; others who want the same one wait meanwhile.

    Parameters
    ----------
    key : str
        What it is made from and how, as `steps` computes it.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> folder = Path(tempfile.mkdtemp())
    >>> os.environ["ASSL_SHARED"] = str(folder / "store")
    >>> _ = (folder / "a.txt").write_text("made once", encoding="utf-8")
    >>> with shared_artifact("k") as place:
    ...     place.take(folder / "other" / "a.txt")
    ...     place.give(folder / "a.txt", {"seconds": 1})
    ...     place.take(folder / "other" / "a.txt")
    {'seconds': 1}
    >>> del os.environ["ASSL_SHARED"]
    >>> (folder / "other" / "a.txt").read_text(encoding="utf-8")
    'made once'
    """
    store = os.environ.get(STORE)
    if not store:
        yield SharedArtifact(None)
        return
    folder = Path(store) / key
    with lock_at(folder / ".lock"):
        yield SharedArtifact(folder)


def _link_tree(source: Path, target: Path) -> None:
    """A copy without copying: artifacts are replaced, never changed in place, so that they may share their bytes."""
    if source.is_dir():
        shutil.copytree(source, target, copy_function=_link)
    else:
        _link(source, target)


def _link(source: str | os.PathLike, target: str | os.PathLike) -> None:
    try:
        os.link(source, target)
    except OSError:  # another disk, or a file system without links
        shutil.copy2(source, target)
