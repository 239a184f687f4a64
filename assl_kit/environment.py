"""What is installed: each dependency with its version, and whether it fits."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from importlib import metadata

import pandas as pd


def check_environment(extras: Sequence[str] = ("notebooks", "train")) -> pd.DataFrame:
    """Compare the installed packages with what assl-kit asks for.

    Parameters
    ----------
    extras : sequence of str
        Optional groups of dependencies to include.

    Returns
    -------
    DataFrame
        One row a package: ``package``, ``needed``, ``installed`` ("missing" if it is not there), ``status`` ("OK" or
        "FAIL"), sorted by name, Python first.

    Examples
    --------
    >>> table = check_environment(())
    >>> table.loc[table["package"] == "numpy", "status"].item()
    'OK'
    """
    from packaging.requirements import Requirement
    from packaging.specifiers import SpecifierSet

    rows = []

    def add(name, specifier: SpecifierSet, installed: str | None):
        fits = installed is not None and specifier.contains(installed, prereleases=True)
        rows.append((name, str(specifier), installed or "missing", "OK" if fits else "FAIL"))

    about = metadata.metadata("assl-kit")
    add("python", SpecifierSet(about["Requires-Python"]), platform.python_version())
    for line in sorted(metadata.requires("assl-kit") or [], key=str.lower):
        need = Requirement(line)
        wanted = need.marker is None or any(need.marker.evaluate({"extra": extra}) for extra in ("", *extras))
        if wanted and need.name not in {row[0] for row in rows}:
            try:
                installed = metadata.version(need.name)
            except metadata.PackageNotFoundError:
                installed = None
            add(need.name, need.specifier, installed)
    return pd.DataFrame(rows, columns=["package", "needed", "installed", "status"])
