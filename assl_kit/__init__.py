"""assl-kit: learn, run and measure Adaptive Semantic Space Learning (SilverSight, arXiv 2404.04949)."""

from __future__ import annotations

import importlib
import warnings
from typing import TYPE_CHECKING

__version__ = "0.1.0"

warnings.filterwarnings("ignore", message="IProgress not found")  # tqdm shows plain bars where ipywidgets is missing

_HOMES = {
    "adbscan": ("ADBSCAN",),
    "bank": ("ExpertBank",),
    "corpus": ("load_records", "validate_records"),
    "encoder": ("encode", "load_encoder"),
    "errors": ("AsslError", "BankError", "DataError", "ParameterError", "WorkspaceError"),
    "mmr": ("mmr_select",),
    "neighbors": ("knn",),
    "redistribute": ("Redistributor",),
    "router": ("CentroidRouter",),
    "semantic": ("SemanticKMeans",),
    "silversight": ("SilverSight",),
    "synthetic": ("make_corpus",),
    "workspace": ("Workspace",),
}
_WHERE = {name: module for module, names in _HOMES.items() for name in names}
__all__ = ["__version__", *sorted(_WHERE)]

if TYPE_CHECKING:
    from .adbscan import ADBSCAN
    from .bank import ExpertBank
    from .corpus import load_records, validate_records
    from .encoder import encode, load_encoder
    from .errors import AsslError, BankError, DataError, ParameterError, WorkspaceError
    from .mmr import mmr_select
    from .neighbors import knn
    from .redistribute import Redistributor
    from .router import CentroidRouter
    from .semantic import SemanticKMeans
    from .silversight import SilverSight
    from .synthetic import make_corpus
    from .workspace import Workspace


def __getattr__(name: str):
    """Import a public name from its module at first use, so that ``import assl_kit`` stays fast."""
    if name not in _WHERE:
        raise AttributeError(f"module 'assl_kit' has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_WHERE[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__():
    return __all__
