"""benchmarks/scaling and its sums: sizes are measured once, the document shows the file, sums are right."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from click.testing import CliRunner

import benchmarks.scaling.__main__ as scaling
from assl_kit.common.files import read_json, write_json
from benchmarks.kernels.data import rows
from benchmarks.machine import RESULTS
from benchmarks.scaling import parts, tables
from benchmarks.scaling.quality import quality
from benchmarks.scaling.rates import measured


@pytest.fixture(scope="module")
def content():
    return read_json(RESULTS / "scaling.json")


def test_a_size_is_measured_once_and_written_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(scaling, "in_new_process", lambda work, *arguments: work(*arguments))
    monkeypatch.setattr(parts, "WARM_UP", 300)
    run = CliRunner().invoke
    options = ["--only", "growth", "--out", str(tmp_path), "--sizes"]
    assert run(scaling.main, [*options, "700,400"]).exit_code == 0
    first = json.loads((tmp_path / "scaling.json").read_text(encoding="utf-8"))
    assert [record["n"] for record in first["growth"]] == [400, 700]
    for record in first["growth"]:
        assert sum(record["sizes"]) == record["n"]
        assert record["chosen"] == record["n"] // 10
        assert min(record[f"{name}_s"] for name in tables.TIMES) > 0

    def broken(n, folder, cell_rows):
        assert n == 900, "measured again"
        raise RuntimeError("no memory")

    monkeypatch.setattr(parts, "growth", broken)
    done = run(scaling.main, [*options, "400,700,900"])
    assert isinstance(done.exception, RuntimeError)
    assert json.loads((tmp_path / "scaling.json").read_text(encoding="utf-8")) == first


def test_cut_clusters_are_measured_beside_whole_ones(tmp_path, monkeypatch):
    monkeypatch.setattr(scaling, "in_new_process", lambda work, *arguments: work(*arguments))
    monkeypatch.setattr(parts, "WARM_UP", 300)
    options = ["--only", "growth,cut", "--out", str(tmp_path), "--quick"]
    assert CliRunner().invoke(scaling.main, options).exit_code == 0
    content = json.loads((tmp_path / "scaling.json").read_text(encoding="utf-8"))
    for whole, cut in zip(content["growth"], content["cut"], strict=True):
        assert cut["n"] == whole["n"] and cut["sizes"] == whole["sizes"] and cut["chosen"] == whole["chosen"]
        assert cut["largest_part"] <= cut["cell_rows"] == 200 < max(cut["sizes"])
        assert tables.pairs_of(cut) < tables.pairs_of(whole) / 1.5
        assert min(cut[f"{name}_cpu_s"] for name in tables.STAGES) > 0
    assert tables._cut(content["cut"], content["growth"]).count("\n") == 3


def test_choices_from_cut_clusters_are_compared(tmp_path):
    X = rows("blobs", 1500, 16)
    np.save(tmp_path / "some.npy", X)
    records = quality(str(tmp_path / "some.npy"), 1500, 16, draws=2)
    assert [record["pool_factor"] for record in records] == [1] * 4 + [3] * 4
    for whole, few, many, drawn in (records[:4], records[4:]):
        assert {one["data"] for one in (whole, few, many, drawn)} == {"some"}
        assert whole["parts"] == 6 < few["parts"] <= many["parts"] and drawn["parts"] is None
        assert whole["overlap"] == 1 > few["overlap"] > drawn["overlap"]
        assert all(0 < one["coverage"] < 1 and 0 < one["density"] < 3 for one in records)


def test_fewer_rows_in_the_file_are_the_beginning_of_more(tmp_path):
    few, many = parts.mapped(tmp_path, 100), parts.mapped(tmp_path, 9000)
    assert (few == many[:100]).all()


def test_the_document_has_the_tables_of_the_file(content):
    document = tables.DOCUMENT.read_text(encoding="utf-8")
    assert tables.written(document, content) == document, "run: python -m benchmarks.scaling.tables"


def test_the_file_holds_what_the_document_needs(content):
    assert {record["n"] for record in content["growth"]} >= set(scaling.SIZES)
    assert max(record["n"] for record in content["cut"]) == 1_000_000
    assert [record["data"] for record in content["quality"]] == ["blobs"] * 8 + ["financial"] * 8
    assert len(content["embedding"]) == 2
    assert [record["workers"] for record in content["ray"]] == [1, 1, 2]
    assert all(record["same"] for record in content["ray"])


def test_exponents_and_extrapolation():
    records = [{"n": n, "pool_s": 3e-6 * n**1.5} for n in (1000, 8000, 64000)]
    assert tables.exponent(records, "pool") == pytest.approx(1.5)
    assert tables.exponent(records[:1], "pool") is None
    assert tables.extrapolated(records, "pool", 1e6) == pytest.approx(3e-6 * 1e9)


def test_sums_worked_by_hand(content):
    assert tables.storage()["embeddings, float32"] == 100e6 * 384 * 4
    gpu, _ = tables.embedding_hours(8, content)
    assert gpu == pytest.approx(100e6 * 120 * 2 * 12 * 12 * 384**2 / (8 * tables.value("bf16") * 0.3) / 3600)
    whole = {"n": 10, "sizes": [6, 4], "pool_s": 2.0, "select_s": 1.0, "threads": 2}
    one = {"growth": [whole], "cut": [whole | {"n": 100_000, "pairs": 5e9, "pool_cpu_s": 8.0, "select_cpu_s": 3.0}]}
    assert tables.pairs_a_core_second(whole) == (36 + 16) / 2 / 4
    assert tables.nearest_record(one, 4) is whole and tables.nearest_record(one, 1e6) is one["cut"][0]
    cpu, gpu = tables.stage1_hours(8, 1000, one)
    assert cpu == pytest.approx(100e6**2 / 2000 / (5e9 / 8 * 64) / 3600)
    products = tables.value("products")
    assert gpu == pytest.approx(1000 * 2 * 100e3**2 * 384 * products / (8 * tables.value("fp32")) / 3600)
    assert tables.stage2_hours(8, 1000, one) == pytest.approx(3.0 * 1000 / 64 / 3600)
    alone, together = tables.training_hours(64, 4000)
    assert alone == pytest.approx(4000 * 425 * 3 / tables.value("training") / 6 / 3600)
    assert together == pytest.approx(alone * 6 / 64)


def test_rates_are_the_first_runs_or_those_of_the_card_that_trains_fastest(tmp_path):
    for name in ("training_h100.json", "kernels_h100.json"):
        shutil.copy(RESULTS / name, tmp_path)
    first = measured(tmp_path)
    assert first["training"][0] == 6000 and first["bf16"][0] == 778e12
    assert first["products"][0] == pytest.approx(6.11 + 12.37, abs=0.01)
    assert first["fp32"][0] == pytest.approx(2 * 40_000**2 * 768 / 0.06797)

    def card(name, speed, **parts):
        training = {"training, 7B, packed": {"tokens_per_second": speed}, "training, 7B, profiled": {}}
        write_json(tmp_path / f"gpu-{name}.json", {"about": {"card": name}, "parts": training | parts})

    seconds = {"GEMM, torch": 0.5, "knn": 0.4, "adbscan": 1.0, "thin": 1.5}
    records = [
        {"system": k, "kernel": "knn" if "GEMM" in k else k, "n": 9, "device": device, "seconds": factor * s}
        for device, factor in (("cuda", 1), ("cpu", 100))
        for k, s in seconds.items()
    ]
    card("fast", 15_000.0, **{"kernels, 40,000": {"d": 4, "records": records}})
    card("slow", 700.0, card={"bfloat16_tflops": 50.0})
    rates = measured(tmp_path)
    assert rates["training"] == (15_000.0, first["training"][1], "measured: fast, gpu-fast.json")
    assert rates["products"][0] == 5.0 and rates["fp32"][0] == 2 * 81 * 4 / 0.5
    assert rates["bf16"][0] == 50e12
