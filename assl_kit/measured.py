"""What the benchmarks measured: the records of kernels and evidence, and time against number of rows as a figure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from assl_kit.common.files import read_json

from .errors import DataError

KERNELS = {
    "knn": "k-NN",
    "adbscan": "A-DBSCAN fit",
    "thin": "thinning to a tenth",
    "mmr": "MMR, a tenth picked",
    "kmeans": "k-means, k = 6",
    "stages": "the two stages",
}
"""Names of the kernels in the records, and what they are called in figures."""

_OURS, _PRODUCT = "#0072B2", "#000000"
_PEERS = ("#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#882255", "#999933")  # Okabe and Ito; Tol
_MARKERS = "sD^vPX*"


def kernel_results() -> dict[str, Any]:
    """The measurements of the selection kernels beside their peers.

    Returns
    -------
    dict
        ``header`` (the machine, versions, data, threads), ``records`` (one a system, kernel and number of rows:
        ``kernel, system, n, d, k, data, device, seconds, seconds_all, ratio_to_gemm, peak_mb, agrees, note``) and
        ``slopes`` (exponents of growth).

    Raises
    ------
    DataError
        If the file is not there.

    Notes
    -----
    Ours. The file is ``benchmarks/results/kernels.json`` of the checkout, else the package's own copy.

    Examples
    --------
    >>> sorted(kernel_results())
    ['done', 'header', 'records', 'slopes']
    """
    return _results("kernels.json")


def evidence_results() -> pd.DataFrame:
    """The measurements of what the paper claims and leaves open.

    Returns
    -------
    DataFrame
        One row a measurement: ``experiment, data, base, arm, task, metric, value, seed, n_train, device, seconds``,
        and where they apply ``low`` and ``high`` (95 % bootstrap), ``n`` (questions), ``against``, ``seeds``,
        ``p_value``. ``seed`` is NaN where seeds are pooled, ``task`` is "mean" for the mean over tasks and "all" where
        a value is not of a task.

    Raises
    ------
    DataError
        If the file is not there.

    Notes
    -----
    Ours. The file is ``benchmarks/results/evidence.json`` of the checkout, else the package's own copy.

    Examples
    --------
    >>> {"experiment", "arm", "value", "seed"} <= set(evidence_results())
    True
    """
    return pd.DataFrame(_results("evidence.json")["records"])


def _results(name: str) -> dict[str, Any]:
    package = Path(__file__).resolve().parent
    for folder in (package.parent / "benchmarks" / "results", package / "results"):
        if (folder / name).is_file():
            return read_json(folder / name)
    raise DataError("the measurements are not there", where=str(package / "results" / name), hint="Install it again.")


def growth_styles(systems: list[str]) -> dict[str, dict[str, Any]]:
    """Line, colour and marker of each system of one panel: ours in blue, matrix products in black."""
    styles, others = {}, 0
    for system in systems:
        if system == "assl-kit":
            styles[system] = {"color": _OURS, "marker": "o", "linewidth": 2.4, "zorder": 3}
        elif system.startswith("assl-kit"):
            dashes = ":" if "k-NN" in system else "--"
            styles[system] = {"color": _OURS, "marker": "o", "linewidth": 1.2, "linestyle": dashes}
        elif system.startswith(("GEMM", "half")):
            lines = {"GEMM, numpy": "--", "GEMM, torch": ":", "half of the product": "-."}
            styles[system] = {"color": _PRODUCT, "linewidth": 1.0, "linestyle": lines[system]}
        else:
            styles[system] = {"color": _PEERS[others % 7], "marker": _MARKERS[others % 7], "linewidth": 1.2}
            others += 1
    return styles


def plot_growth(results: dict[str, Any], kernel: str, axes) -> None:
    """Seconds against rows of one kernel and its peers, both on log scales; the slopes are in the legend.

    Parameters
    ----------
    results : dict
        From `kernel_results`.
    kernel : str
        One of `KERNELS`.
    axes : matplotlib.axes.Axes
        Drawn on; the legend stands to its right.
    """
    from matplotlib.ticker import LogLocator

    data = results["header"]["data"]
    records = [r for r in results["records"] if r["seconds"] and r["data"] == data and r["kernel"] == kernel]
    slopes = {s["system"]: s["slope"] for s in results["slopes"] if s["data"] == data and s["kernel"] == kernel}
    for system, style in growth_styles(list(dict.fromkeys(r["system"] for r in records))).items():
        points = sorted((r["n"], r["seconds"]) for r in records if r["system"] == system)
        label = f"{system}, {slopes[system]:.2f}" if system in slopes else system
        axes.plot(*zip(*points, strict=True), label=label, markersize=4.5, **style)
    axes.set(xscale="log", yscale="log", title=KERNELS[kernel], xlabel="rows", ylabel="seconds")
    axes.set_xticks(sizes := sorted({r["n"] for r in records}), [f"{n / 1000:g}k" for n in sizes])
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 3)))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.minorticks_off()
    axes.grid(color="#E6E6E6", linewidth=0.6)
    title = "slope of log time" if slopes else None
    axes.legend(title=title, fontsize=7.5, title_fontsize=7.5, loc="upper left", bbox_to_anchor=(1.0, 1.02),
                alignment="left", frameon=False)  # fmt: skip
