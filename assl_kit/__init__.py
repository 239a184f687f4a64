"""assl-kit: learn, run and measure Adaptive Semantic Space Learning (SilverSight, arXiv 2404.04949)."""

from __future__ import annotations

import importlib
import warnings
from typing import TYPE_CHECKING

from .version import __version__

warnings.filterwarnings("ignore", message="IProgress not found")  # tqdm shows plain bars where ipywidgets is missing

_HOMES = {
    "artifacts.parameters": ("resolve",),
    "artifacts.steps": ("require",),
    "artifacts.workspace": ("Workspace",),
    "data.loading": ("load_records",),
    "data.records": ("prompts", "validate_records"),
    "data.splits": ("training_pool",),
    "data.synthetic": ("make_corpus",),
    "errors": ("AsslError", "BankError", "DataError", "ParameterError", "WorkspaceError"),
    "experts.bank": ("ExpertBank",),
    "experts.router": ("CentroidRouter",),
    "experts.silversight": ("SilverSight",),
    "runner.selecting.check": ("check_file",),
    "runner.selecting.select": ("select_file",),
    "selection.adbscan": ("ADBSCAN",),
    "selection.mmr": ("mmr_select",),
    "selection.redistribute": ("Redistributor",),
    "space.clusters": ("SemanticKMeans",),
    "space.embeddings": ("rows_of",),
    "space.encoder": ("encode", "load_encoder"),
    "space.neighbors": ("knn",),
}
_WHERE = {name: module for module, names in _HOMES.items() for name in names}
__all__ = ["__version__", *sorted(_WHERE)]

if TYPE_CHECKING:
    from .artifacts.parameters import resolve
    from .artifacts.steps import require
    from .artifacts.workspace import Workspace
    from .data.loading import load_records
    from .data.records import prompts, validate_records
    from .data.splits import training_pool
    from .data.synthetic import make_corpus
    from .errors import AsslError, BankError, DataError, ParameterError, WorkspaceError
    from .experts.bank import ExpertBank
    from .experts.router import CentroidRouter
    from .experts.silversight import SilverSight
    from .runner.selecting.check import check_file
    from .runner.selecting.select import select_file
    from .selection.adbscan import ADBSCAN
    from .selection.mmr import mmr_select
    from .selection.redistribute import Redistributor
    from .space.clusters import SemanticKMeans
    from .space.embeddings import rows_of
    from .space.encoder import encode, load_encoder
    from .space.neighbors import knn


def __getattr__(name: str) -> object:
    """Import a public name from its module at first use, so that ``import assl_kit`` stays fast."""
    if name not in _WHERE:
        raise AttributeError(f"module 'assl_kit' has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_WHERE[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
