"""The committed measurements: of the right form, of right results only, and drawn."""

from __future__ import annotations

import matplotlib.pyplot as plt
import pytest

from assl_kit.common import files
from assl_kit.errors import DataError
from assl_kit.teaching import evidence as measured
from assl_kit.teaching.evidence_plots import plot_growth

FIELDS = {"kernel", "system", "n", "d", "k", "data", "device"} | {
    "seconds",
    "seconds_all",
    "ratio_to_gemm",
    "peak_mb",
    "agrees",
    "note",
}


def test_records_are_complete_and_ours_are_right():
    results = measured.kernel_results()
    records = results["records"]
    assert {r["kernel"] for r in records} == set(measured.KERNELS)
    assert all(set(r) >= FIELDS for r in records)
    ours = [r for r in records if r["system"].startswith("assl-kit") and r["seconds"] is not None]
    assert {r["kernel"] for r in ours} == set(measured.KERNELS)
    assert all(r["agrees"] is not False for r in ours)
    assert all(r["agrees"] for r in ours if r["n"] <= 40_000)  # beyond, A-DBSCAN has no peer left to agree with
    for r in records:
        if r["seconds"] is None:
            assert r["note"], r  # says why
        else:
            assert min(r["seconds_all"]) <= r["seconds"] <= max(r["seconds_all"])


@pytest.mark.parametrize("kernel", measured.KERNELS)
def test_growth_is_drawn(kernel):
    results = measured.kernel_results()
    figure, axes = plt.subplots()
    plot_growth(results, kernel, axes)
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert any(label.startswith("assl-kit") for label in labels)
    for line in axes.get_lines():
        assert (line.get_ydata() > 0).all() and len(line.get_xdata()) >= 1
    plt.close(figure)


def test_a_missing_file_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(files, "__file__", str(tmp_path / "assl_kit" / "common" / "files.py"))
    with pytest.raises(DataError, match="measurements are not there"):
        measured.kernel_results()
