"""Which adapters are alike, by their weights, and groups of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from assl_kit.common.checks import whole
from assl_kit.errors import BankError, DataError

from ..adapter_form import ADAPTER_FILES


def adapter_cosines(folders: Sequence[Path]) -> np.ndarray:
    """The cosine of every two adapters' changes of the base, all layers together.

    Parameters
    ----------
    folders : sequence of path, length m ≥ 1
        PEFT folders of plain LoRA, of the same layers.

    Returns
    -------
    ndarray of shape (m, m), float64
        Symmetric, 1 on the diagonal.

    Raises
    ------
    BankError
        If an adapter has other layers than the first, or changes nothing.

    Notes
    -----
    The similarity of model-based clustering (arXiv 2405.11157), there of the flattened factors A and B. Those of two
    trainings need not be alike where their product is, so here it is that of the products: ⟨B₁A₁, B₂A₂⟩ is the sum of
    (B₁ᵀB₂) ∘ (A₁A₂ᵀ), which needs no product of a layer's size. Scales of adapters cancel within one setting.
    """
    from safetensors.numpy import load_file

    adapters = []
    for folder in folders:
        tensors = load_file(Path(folder) / ADAPTER_FILES[1])
        layers = sorted(name.removesuffix(".lora_A.weight") for name in tensors if name.endswith(".lora_A.weight"))
        adapters.append(
            {
                layer: tuple(tensors[f"{layer}.lora_{part}.weight"].astype(np.float64) for part in "AB")
                for layer in layers
            }
        )
    m = len(adapters)
    products = np.zeros((m, m))
    for i, first in enumerate(adapters):
        for j, second in enumerate(adapters[: i + 1]):
            if first.keys() != second.keys():
                raise BankError("two adapters change different layers", where=f"{folders[i]}, {folders[j]}")
            products[i, j] = products[j, i] = sum(
                float(((B1.T @ B2) * (A1 @ A2.T)).sum())
                for (A1, B1), (A2, B2) in ((first[layer], second[layer]) for layer in first)
            )
    norms = np.sqrt(np.diag(products))
    if not (norms > 0).all():
        raise BankError("an adapter changes nothing", where=str(folders[int(norms.argmin())]))
    return products / np.outer(norms, norms)


def adapter_groups(cosines: np.ndarray, n_groups: int) -> np.ndarray:
    """Groups of like adapters.

    Parameters
    ----------
    cosines : ndarray of shape (m, m)
        Of `adapter_cosines`.
    n_groups : int
        From 1 to m.

    Returns
    -------
    ndarray of shape (m,), int64
        The group of each, numbered by their first member.

    Raises
    ------
    DataError
        If ``cosines`` is not square.
    ParameterError
        If ``n_groups`` is out of range.

    Notes
    -----
    Average linkage of 1 − cosine in place of the source's k-means: of few adapters it needs no start, so nothing is
    drawn.

    Examples
    --------
    >>> adapter_groups(np.array([[1, 0.1, 0.8], [0.1, 1, 0.2], [0.8, 0.2, 1]]), 2).tolist()
    [0, 1, 0]
    """
    from scipy.cluster.hierarchy import cut_tree, linkage
    from scipy.spatial.distance import squareform

    cosines = np.asarray(cosines, dtype=np.float64)
    if cosines.ndim != 2 or cosines.shape[0] != cosines.shape[1]:
        raise DataError(f"cosines have shape {cosines.shape}, which is not square")
    n_groups = whole("n_groups", n_groups, 1, len(cosines))
    if len(cosines) == 1:
        return np.zeros(1, np.int64)
    apart = squareform(np.clip(1 - cosines, 0, 2), checks=False)
    cut = cut_tree(linkage(apart, "average"), n_clusters=n_groups).ravel()
    _, first, numbers = np.unique(cut, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[numbers].astype(np.int64)
