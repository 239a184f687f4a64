"""benchmarks/: the quick run writes what it promises, wrong answers are refused, figures come from the file alone."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec

import numpy as np
import pytest
from helpers import ROOT

import benchmarks.kernels.__main__ as kernels
from benchmarks.kernels import checks, data, plots, systems, table
from benchmarks.kernels.systems import SYSTEMS, knn_torch, mmr_matvec

pytestmark = pytest.mark.long

FIELDS = {
    "kernel", "system", "n", "d", "k", "data", "device", "seconds", "seconds_all", "ratio_to_gemm", "peak_mb",
    "agrees", "note",
}  # fmt: skip


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    out = tmp_path_factory.mktemp("results")
    command = [sys.executable, "-m", "benchmarks.kernels", "--quick", "--threads", "1", "--out", out]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, encoding="utf-8", timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    return out, done.stdout


@pytest.fixture(scope="module")
def rows():
    return data.rows("blobs", 1200, 24)


@pytest.mark.slow
def test_the_quick_run_measures_every_system_that_is_installed(quick):
    out, shown = quick
    content = json.loads((out / "kernels.json").read_text(encoding="utf-8"))
    assert {"cpu", "cores", "threads", "python", "versions", "date", "data"} <= set(content["header"])
    records = {(r["kernel"], r["system"]): r for r in content["records"] if r["data"] == "blobs"}
    assert set(records) == {(s.kernel, s.name) for s in SYSTEMS}
    for system in SYSTEMS:
        record = records[system.kernel, system.name]
        assert set(record) - {"inertia"} == FIELDS
        if system.package and find_spec(system.package) is None:
            assert record["seconds"] is None
            assert record["note"] == f"left out: {system.package} is not installed"
            assert record["note"] in shown.replace("\n", " ")
        else:
            assert len(record["seconds_all"]) == 3
            assert record["seconds"] == sorted(record["seconds_all"])[1] > 0
            assert record["ratio_to_gemm"] > 0
    ours = [r for r in content["records"] if r["system"].startswith("assl-kit")]
    assert all(r["agrees"] is True for r in ours)
    assert any(r["data"] == "gaussian" for r in ours)


@pytest.mark.slow
def test_figures_are_small_and_come_from_the_file_alone(quick, tmp_path):
    copy = tmp_path / "kernels.json"
    copy.write_bytes((quick[0] / "kernels.json").read_bytes())
    for path in plots.draw(copy):
        assert path.parent == tmp_path
        assert path.read_bytes()[:4] == b"\x89PNG"
        assert path.stat().st_size < 150_000


def test_fewer_rows_are_the_beginning_of_more(rows):
    assert np.array_equal(data.rows("blobs", 700, 24), rows[:700])
    assert np.allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
    assert not np.array_equal(data.rows("gaussian", 700, 24), rows[:700])


def test_a_file_of_embeddings_is_taken(rows, tmp_path):
    np.save(tmp_path / "mine.npy", 3 * rows.astype(np.float64))
    assert np.allclose(data.rows(str(tmp_path / "mine.npy"), 100, 24), rows[:100], atol=1e-6)
    assert data.name_of(str(tmp_path / "mine.npy")) == "mine"


def test_the_product_of_many_rows_is_measured_on_a_tenth(rows, monkeypatch):
    assert systems.gemm_numpy(rows, {}, {}) == systems.gemm_torch(rows, {}, {}) == {"factor": 1.0}
    monkeypatch.setattr(systems, "WHOLE_UP_TO", 1000)
    assert systems.gemm_numpy(rows, {}, {}) == {"factor": 10.0}


def test_wrong_neighbours_are_refused(rows):
    right = knn_torch(rows, {"k": 5}, {})
    assert checks.check_knn(rows, right, right).agrees
    far = {**right, "indices": right["indices"].copy()}
    far["indices"][7, 4] = np.argmin(rows @ rows[7])
    assert not checks.check_knn(rows, far, sample=len(rows)).agrees
    assert not checks.check_knn(rows, far, right, sample=1).agrees  # seen by the comparison with ours
    twice = {**right, "indices": right["indices"].copy()}
    twice["indices"][7, 4] = twice["indices"][7, 3]
    assert not checks.check_knn(rows, twice, right).agrees
    assert not checks.check_knn(rows, {**right, "distances": right["distances"] * 1.01}, right).agrees


def test_wrong_picks_are_refused_and_near_ties_are_not(rows):
    weights = (0.5, 0.0, 0.5)
    picks = mmr_matvec(rows, {"n_select": 60}, {})["picks"]
    assert checks.check_picks(rows, picks, weights).agrees
    swapped = picks.copy()
    swapped[[10, 40]] = picks[[40, 10]]
    assert not checks.check_picks(rows, swapped, weights).agrees
    assert not checks.check_picks(rows, np.repeat(picks[:30], 2), weights).agrees
    doubled = np.vstack([rows, rows[picks[10]]])  # an exact tie: either row may be picked first
    plain = mmr_matvec(doubled, {"n_select": 60}, {})["picks"]
    twin = {int(picks[10]): len(rows), len(rows): int(picks[10])}
    other = np.array([twin.get(int(pick), pick) for pick in plain])
    assert not np.array_equal(other, plain)
    assert checks.check_picks(doubled, other, weights, {"picks": plain}).agrees


def test_wrong_labels_are_refused(rows):
    from assl_kit import ADBSCAN

    model = ADBSCAN(link_flattening=1.0, eps=0.8).fit(rows)
    assert model.labels_.max() > 0
    ours = {"labels": model.labels_, "core": model.core_sample_indices_, "kappa": model.core_distances_}
    ours["eps"] = model.eps_
    check = checks.check_labels
    renamed = {**ours, "labels": np.where(model.labels_ < 0, -1, model.labels_.max() - model.labels_)}
    assert check(rows, "a peer", renamed, ours).agrees
    joined = {**ours, "labels": np.where(model.labels_ < 0, -1, 0)}
    assert check(rows, "a peer", joined, ours).agrees is False
    noisy = {**ours, "labels": model.labels_.copy(), "core": model.core_sample_indices_[1:]}
    noisy["labels"][model.core_sample_indices_[0]] = -1
    assert check(rows, "a peer", noisy, ours).agrees is False
    assert check(rows, "HDBSCAN", {"labels": model.labels_}, ours).agrees is None


def test_wrong_sizes_and_worse_centres_are_refused(rows):
    good = {"indices": np.arange(4), "repeats": np.array([1, 1, 1, 2]), "weights": np.array([1, 1, 1, 7])}
    assert checks.check_size(good, 10, 5).agrees
    assert not checks.check_size(good, 10, 6).agrees
    assert not checks.check_size({**good, "weights": np.ones(4, int)}, 10, 5).agrees
    ours = {"centres": rows[:6]}
    assert checks.check_centres(rows, ours).agrees
    assert not checks.check_centres(rows, {"centres": rows[:1]}, ours).agrees


def record(kernel, system, n, seconds, agrees=True):
    """A record with these numbers, as the benchmark writes them."""
    empty = {"d": 768, "k": 16, "data": "blobs", "device": "cpu", "ratio_to_gemm": None, "peak_mb": 1.0, "note": ""}
    return empty | {
        "kernel": kernel,
        "system": system,
        "n": n,
        "seconds": seconds,
        "seconds_all": [seconds] * 3,
        "agrees": agrees,
    }


def test_ratios_slopes_and_words():
    sizes = (1000, 2000, 4000)
    records = [record("knn", "assl-kit", n, (n / 1000) ** 2) for n in sizes]
    records += [record("knn", "GEMM, numpy", n, 0.5 * (n / 1000) ** 2, None) for n in sizes]
    records += [record("knn", "GEMM, torch", n, 0.25 * (n / 1000) ** 2, None) for n in sizes]
    records += [record("knn", "quick", 4000, 0.1, False), record("knn", "slow", 2000, 40.0)]
    table.add_ratios(records)
    assert records[0]["ratio_to_gemm"] == 4.0  # over the faster product
    assert {round(s["slope"], 6) for s in table.slopes(records)} == {2.0}
    said = {row["system"]: table.verdict(row) for row in table.summary(records)}
    assert said["quick"] == "not the same result"
    assert said["slow"] == "ours 10 × faster"
    assert said["assl-kit"] == said["GEMM, torch"] == ""


def test_a_peer_stops_where_it_would_take_too_long(tmp_path):
    about = {"cpu": "any", "threads": 1, "device": "cpu"}
    book = kernels.Book(tmp_path / "kernels.json", about, ("knn",), resume=False)
    book.records = [record("knn", "scikit-learn brute", 1000, 10.0), record("knn", "assl-kit", 1000, 10.0)]
    bench = kernels.Bench(book, None, 768, 1, "cpu", cap=80.0, own_cap=400.0)
    named = {s.name: s for s in SYSTEMS if s.kernel == "knn"}
    assert bench._left_out(named["scikit-learn brute"], "blobs", 2000) is None
    assert bench._left_out(named["scikit-learn brute"], "blobs", 4000).startswith("left out: about 160 s")
    assert bench._left_out(named["assl-kit"], "blobs", 4000) is None


def test_what_was_measured_is_kept(tmp_path):
    about = {"cpu": "any", "threads": 1, "device": "cpu"}
    path = tmp_path / "kernels.json"
    book = kernels.Book(path, about, ("knn", "mmr"), resume=False)
    book.done = ["knn blobs 1000", "mmr blobs 1000"]
    book.put(record("knn", "assl-kit", 1000, 1.0))
    book.put(record("mmr", "assl-kit", 1000, 1.0))
    assert len(kernels.Book(path, about, ("knn",), resume=True).records) == 2
    again = kernels.Book(path, about, ("knn",), resume=False)
    assert [r["kernel"] for r in again.records] == ["mmr"] and again.done == ["mmr blobs 1000"]
    with pytest.raises(kernels.click.ClickException, match="leave out --resume"):
        kernels.Book(path, about | {"threads": 2}, ("knn",), resume=True)
