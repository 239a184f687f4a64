"""benchmarks/gpu, small on a CPU: every part runs, a run goes on, minutes are kept, operations are counted right."""

from __future__ import annotations

import json
import re
import time
from dataclasses import replace

import numpy as np
import pytest
import torch

import benchmarks.gpu.__main__ as gpu
from assl_kit.common.files import read_json
from assl_kit.experts.training.data import encode_records, plan_training
from benchmarks.gpu import kernels, table, training
from benchmarks.gpu.book import Book, LeftOut, Part, measure
from benchmarks.gpu.flops import flops_a_token, linear_weights, lora_weights
from benchmarks.machine import RESULTS

pytestmark = pytest.mark.long

ABOUT = {"commit": "a", "date": "2026-01-01"}


@pytest.fixture(scope="module")
def dry(tmp_path_factory):
    out = tmp_path_factory.mktemp("gpu")
    assert gpu.main(["--dry-run", "--out", str(out)]) == 0
    return out, json.loads((out / "gpu-dry-run.json").read_text(encoding="utf-8"))


@pytest.mark.slow
def test_a_dry_run_measures_every_part(dry):
    _, content = dry
    names = [part.name for part in gpu.small_parts("cpu", 1)]
    assert set(names) == set(content["parts"]) | set(content["left_out"]) and not content["failed"]
    assert set(content["left_out"]) <= {"training, NF4"}, "where bitsandbytes is not installed"
    parts = content["parts"]
    for name in ("training, packed", "training, recomputed", "training, one record a row"):
        part = parts[name]
        assert part["tokens_per_second"] > 0 and part["tflops"] > 0 and part["mfu"] is None
        assert len(part["first_steps_seconds"]) == training.FIRST < part["steps"] and not part["notes"]
    assert parts["training, recomputed"]["settings"]["checkpointing"] is True
    assert parts["training, as before"]["first_losses"] == parts["training, packed"]["first_losses"], "one way on a CPU"
    for when in ("before", "now"):
        dearest = parts["training, profiled"][when]["dearest"]
        assert dearest[0]["share"] > dearest[-1]["share"] > 0
    assert {"together: 2 arms", "one at a time", "checks"} == set(parts["Gemma"]["parts"])
    assert {"card", "versions", "commit", "date", "cpu"} <= set(content["about"])


@pytest.mark.slow
def test_kernels_and_chain_are_compared_with_the_cpu(dry):
    _, content = dry
    records = content["parts"]["kernels"]["records"]
    on_device, beside = records[: len(records) // 2], records[len(records) // 2 :]
    assert [r["kernel"] for r in on_device] == [r["kernel"] for r in beside]
    assert {r["kernel"] for r in records} == set(kernels.KERNELS)
    assert all(r["same_as_cpu"] for r in on_device) and all(r["agrees"] is not False for r in on_device)
    assert all(r["ratio_to_gemm"] > 0 for r in records)
    chain = content["parts"]["chain"]
    assert {"scores.parquet", "selection.parquet"} <= set(chain["same_bytes"])
    assert all(chain["same_bytes"].values()) and chain["largest_difference"] == 0


@pytest.mark.slow
def test_a_run_goes_on_and_another_commit_measures_anew(dry, monkeypatch, capsys):
    out, content = dry
    before = (out / "gpu-dry-run.json").read_bytes()
    arguments = ["--dry-run", "--out", str(out), "--only", "card", "peers"]
    assert gpu.main(arguments) == 0
    assert capsys.readouterr().out.count("measured already") == 2
    assert (out / "gpu-dry-run.json").read_bytes() == before
    monkeypatch.setenv("ASSL_COMMIT", "another")
    assert gpu.main([*arguments[:-1]]) == 0
    after = json.loads((out / "gpu-dry-run.json").read_text(encoding="utf-8"))["parts"]
    assert after["card"]["commit"] == "another" and after["peers"] == content["parts"]["peers"]


def test_no_card_and_no_such_part_are_said(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for arguments, message in (([], "no CUDA device.*--dry-run"), (["--dry-run", "--only", "x"], "no part begins")):
        with pytest.raises(SystemExit):
            gpu.main([*arguments, "--out", str(tmp_path)])
        assert re.search(message, capsys.readouterr().err)
    assert not list(tmp_path.iterdir())


def test_parts_keep_to_the_minutes_and_a_failure_stops_nothing(tmp_path):
    done, lines = [], []

    def work(name, error=None):
        def run():
            done.append(name)
            if error:
                raise error
            return {"value": name}

        return run

    parts = [
        Part("first", 1, work("first")),
        Part("breaks", 1, work("breaks", RuntimeError("no kernel"))),
        Part("too long", 500, work("too long")),
        Part("not here", 1, work("not here", LeftOut("no file"))),
        Part("last", 1, work("last")),
    ]
    book = Book(tmp_path / "a.json", ABOUT)
    measure(parts, book, time.perf_counter() + 100, lines.append)
    assert done == ["first", "breaks", "not here", "last"]
    content = json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))
    assert set(content["parts"]) == {"first", "last"} and content["parts"]["last"]["value"] == "last"
    assert content["failed"] == {"breaks": "RuntimeError: no kernel"}
    assert content["left_out"]["not here"] == "no file" and "about 500 s" in content["left_out"]["too long"]
    assert any(line.startswith("too long: left out") for line in lines)
    mended = [Part("breaks", 1, work("breaks again")), Part("too long", 500, work("long"))]
    book = Book(tmp_path / "a.json", ABOUT)
    measure([parts[0], *mended], book, time.perf_counter() + 1000, lines.append)
    assert done[4:] == ["breaks again", "long"] and not book.content["failed"]
    assert set(book.content["left_out"]) == {"not here"}
    assert set(json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))["parts"]) == {
        "first", "last", "breaks", "too long",
    }  # fmt: skip


def test_operations_are_those_that_torch_counts():
    """Of products with weights: a step of LoRA on one record, without attention, which torch's CPU does not tell."""
    from peft import LoraConfig, get_peft_model
    from torch.utils.flop_counter import FlopCounterMode

    from assl_kit.experts.training.flat import answer_loss

    shape = training.SMALL | {"num_hidden_layers": 8, "num_key_value_heads": 2, "vocab_size": 5000}
    lab = training.Lab("cpu", shape, 60)
    model, n, answers = lab.base(), 64, 16
    settings = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(model, settings)
    ids = torch.arange(n)[None]
    labels = torch.where(torch.arange(n) >= n - answers, ids, -100)
    with FlopCounterMode(display=False) as counter:
        answer_loss(model, {"input_ids": ids, "labels": labels}, None).backward()
    counted = sum(count for op, count in counter.get_flop_counts()["Global"].items() if "mm" in str(op))
    config = model.config
    adapters = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert lora_weights(config, 4) == adapters
    linear = sum(m.weight.numel() for m in model.modules() if type(m) is torch.nn.Linear) - adapters
    assert linear_weights(config) == linear - config.vocab_size * config.hidden_size
    attention = 12 * config.num_hidden_layers * config.hidden_size * (n + 1) / 2
    expected = n * (flops_a_token(config, 4, [n], answers / n) - attention)
    assert counted == pytest.approx(expected, rel=0.05)  # the first layer's input needs no gradient


def test_speed_is_that_of_the_later_steps():
    lab = training.Lab("cpu", training.SMALL, 60)
    config = replace(training.PACKED, max_length=256)
    encoded = encode_records(lab.base(), lab.tokenizer, lab.records(60), 256)
    plan = plan_training(encoded, config)
    facts = training.reached([5.0, 9.0, 11.0, 12.0, 13.0], encoded, config, lab.base().config, "cpu")
    assert facts["first_steps_seconds"] == [5.0, 4.0, 2.0] and facts["later_steps_seconds"] == 1.0
    assert facts["tokens_per_second"] == pytest.approx(plan.tokens_of(3, 5) / 2, abs=0.1)
    assert facts["records"] == sum(map(len, plan.rows[:20])) and 0 < facts["answer_share"] < 1
    assert np.mean([len(ids) for ids in encoded.input_ids]) == pytest.approx(60, rel=0.6)


def test_other_bits_are_seen():
    one = {"indices": np.arange(3), "distances": np.zeros(3)}
    assert kernels.same(one, {name: values.copy() for name, values in one.items()})
    assert not kernels.same(one, one | {"distances": np.full(3, 1e-30)}) and not kernels.same(one, {})


# what is committed ----------------------------------------------------------------------------------------------------
def test_the_document_has_the_tables_of_the_files():
    document = table.DOCUMENT.read_text(encoding="utf-8")
    assert table.written(document) == document, "run: python -m benchmarks.gpu.table"


@pytest.mark.parametrize("name", ["kernels_h100", "training_h100"])
def test_what_was_measured_has_its_origin_and_is_right(name):
    content = read_json(RESULTS / f"{name}.json")
    header = content["header"]
    card = header["device"] if name == "kernels_h100" else header["card"]
    assert "H100" in card and header["date"] == "2026-11-26" and header["commit"] == "3352487" and header["versions"]
    for record in content["records"]:
        if name == "kernels_h100":
            assert record["agrees"] is not False and record["seconds"] > 0 and record["device"] == "cuda"
        else:
            assert 0 < record["low"] <= record["high"] and record["unit"] in {"tokens/s", "records/s", "TFLOP/s", "s"}
    assert (RESULTS / f"{name}.json").stat().st_size < 10_000  # they are in the wheel


def test_sums_follow_from_the_measured_share():
    content = {"records": [{"low": 1000, "high": 2000}]}
    card = {"parts": {"a": {"mfu": 0.1}, "b": {"mfu": 0.2}, "c": {"mfu": None}, "d": {}}}
    lines = [line.split("|") for line in table.sums_table(content, [card]).splitlines()]
    rows = {cells[1].strip(): (cells[3].strip(), cells[4].strip()) for cells in lines}
    each = table.flops_a_token(table.QWEN_7B, 16, [table.TOKENS], table.ANSWERS)
    assert rows["H100 SXM"] == ("1,000 to 2,000", f"{0.2 * 989e12 / each:,.0f}") and rows["A100"][0] == "315 to 631"


@pytest.mark.slow
def test_a_card_that_was_measured_gets_rows(dry):
    _, content = dry
    lines = table.card_table([content]).splitlines()
    trained = [part for part in content["parts"].values() if "tokens_per_second" in part]
    assert len(lines) == 2 + len(trained) == 7 and all(content["about"]["card"] in line for line in lines[2:])
    assert "No card" in table.card_table([])
