"""benchmarks/scaling and its sums: sizes are measured once, the document shows the file, sums are right."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

import benchmarks.scaling.__main__ as scaling
from assl_kit.common.files import read_json
from benchmarks.machine import RESULTS
from benchmarks.scaling import parts, tables


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

    def broken(n, folder):
        assert n == 900, "measured again"
        raise RuntimeError("no memory")

    monkeypatch.setattr(parts, "growth", broken)
    done = run(scaling.main, [*options, "400,700,900"])
    assert isinstance(done.exception, RuntimeError)
    assert json.loads((tmp_path / "scaling.json").read_text(encoding="utf-8")) == first


def test_fewer_rows_in_the_file_are_the_beginning_of_more(tmp_path):
    few, many = parts.mapped(tmp_path, 100), parts.mapped(tmp_path, 9000)
    assert (few == many[:100]).all()


def test_the_document_has_the_tables_of_the_file(content):
    document = tables.DOCUMENT.read_text(encoding="utf-8")
    assert tables.written(document, content) == document, "run: python -m benchmarks.scaling.tables"


def test_the_file_holds_what_the_document_needs(content):
    assert {record["n"] for record in content["growth"]} >= set(scaling.SIZES)
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
    assert gpu == pytest.approx(100e6 * 120 * 2 * 12 * 12 * 384**2 / (8 * 312e12 * 0.3) / 3600)
    one = {"growth": [{"n": 10, "sizes": [6, 4], "pool_s": 2.0, "select_s": 1.0, "threads": 2}]}
    assert tables.pairs_a_core_second(one["growth"]) == (36 + 16) / 2 / 4
    cpu, gpu = tables.stage1_hours(8, 1000, one)
    assert cpu == pytest.approx(100e6**2 / 2000 / (6.5 * 64) / 3600)
    assert gpu == pytest.approx(100e6**2 / 2000 * 2 * 384 * 3 / (8 * 19.5e12 * 0.6) / 3600)
    alone, together = tables.training_hours(64, 4000)
    assert alone == pytest.approx(4000 * 425 * 3 * 46e9 / (312e12 * 0.4) / 6 / 3600)
    assert together == pytest.approx(alone * 6 / 64)
