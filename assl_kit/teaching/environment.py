"""What is installed: each dependency with its version, and whether it fits."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from importlib import metadata

import pandas as pd


def check_environment(extras: Sequence[str] | None = None) -> pd.DataFrame:
    """Compare the installed packages with what assl-kit asks for.

    Parameters
    ----------
    extras : sequence of str, optional
        Optional groups of dependencies to include; default ``train`` and ``notebooks``, on Colab and Kaggle ``colab``
        for the latter: it keeps the Jupyter that they themselves run on.

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

    if extras is None:
        is_hosted = _installed("google-colab") or "KAGGLE_KERNEL_RUN_TYPE" in os.environ
        extras = ("colab" if is_hosted else "notebooks", "train")
    rows = []

    def add(name: str, specifier: SpecifierSet, installed: str | None) -> None:
        fits = installed is not None and specifier.contains(installed, prereleases=True)
        rows.append((name, str(specifier), installed or "missing", "OK" if fits else "FAIL"))

    about = metadata.metadata("assl-kit")
    add("python", SpecifierSet(about["Requires-Python"]), platform.python_version())
    for line in sorted(metadata.requires("assl-kit") or [], key=str.lower):
        need = Requirement(line)
        wanted = need.marker is None or any(need.marker.evaluate({"extra": extra}) for extra in ("", *extras))
        if wanted and need.name not in {row[0] for row in rows}:
            add(need.name, need.specifier, _installed(need.name))
    return pd.DataFrame(rows, columns=["package", "needed", "installed", "status"])


def _installed(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
