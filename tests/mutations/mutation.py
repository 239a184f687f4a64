"""One change of one file, and which tests should notice it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Mutation:
    """A change that somebody in a hurry might make.

    Attributes
    ----------
    name : str
        What it does, in a few words.
    file : str
        In ``assl_kit``.
    old, new : str
        The text as it is, once in the file, and as it becomes.
    tests : tuple of str
        Files in ``tests``, or tests of theirs by ``file::name``; one of them must fail.
    """

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]

    @property
    def room(self) -> str:
        return self.file.split("/")[0]

    def changed(self, text: str) -> str:
        """The file's text with the change made."""
        if text.count(self.old) != 1:
            raise ValueError(f"{self.name}: its text is {text.count(self.old)} times in {self.file}, not once")
        return text.replace(self.old, self.new)

    def text_in(self, root: Path) -> str:
        return (root / "assl_kit" / self.file).read_text(encoding="utf-8")
