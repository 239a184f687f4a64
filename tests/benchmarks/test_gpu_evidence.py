"""The study of one GPU, small on a CPU: it runs, goes on, keeps to its minutes; and the pieces of a GGUF file."""

from __future__ import annotations

import json
import time

import numpy as np
import pandas as pd
import pytest

from assl_kit.evaluation.metrics import score_answers  # noqa: E402
from benchmarks.evidence import gpu as gpu_evidence
from benchmarks.evidence import gpu_base
from benchmarks.evidence.gpu import Arm, OutOfTime, Run, Study, by_budget, waves, write_study


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    gpu_evidence.make_small(folder)
    return folder


@pytest.fixture(scope="module")
def done(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("out")
    run = Run(Study.read(folder), "tiny", out, "cpu", time.perf_counter() + 600, None, 12)
    run.all()
    return run


def test_a_study_is_read_as_it_was_written(folder):
    study = Study.read(folder)
    assert [arm.key for arm in study.arms][:2] == [
        "random tenth, first draw, draw 0, training seed 0",
        "random tenth, second draw, draw 0, training seed 0",
    ]
    assert len(study.arms) == 12 and sorted(study.train) == [0, 1]
    sizes = {arm.name: (len(arm.rows), arm.epochs) for arm in study.arms}
    assert sizes["all data, one epoch"] == (60, 1) and sizes["random tenth, as many steps"] == (12, 5)
    assert sizes["equal budgets over tasks"] == (12, 2)
    assert [len(wave) for wave in waves(study.arms, 12)] == [8, 2, 2]


def test_copies_count_and_wrong_ids_are_refused(tmp_path):
    rows = pd.DataFrame(
        {
            "id": ["a", "b", "t"],
            "instruction": "?",
            "input": "",
            "output": "x",
            "task": "qa",
            "split": ["train", "train", "test"],
        }
    )
    write_study(tmp_path, {3: rows}, [{"arm": "z", "seed": 3, "ids": ["b", "a"], "copies": [2, 1]}], "w", rank=2)
    study = Study.read(tmp_path)
    assert study.arms[0].rows.tolist() == [1, 1, 0] and study.settings["rank"] == 2
    for wrong in ({"ids": ["t"]}, {"ids": ["a"], "copies": [1, 1]}):
        with pytest.raises(SystemExit, match="'z' of seed 3"):
            write_study(tmp_path, {3: rows}, [{"arm": "z", "seed": 3} | wrong], "w")


@pytest.mark.slow
def test_every_arm_is_measured(done):
    results = json.loads((done.out / "results.json").read_text(encoding="utf-8"))
    assert not results["missing"] and len(results["arms"]) == 12 + 2
    for key, arm in results["arms"].items():
        questions = results["questions"][str(arm["draw"])]
        assert len(arm["scores"]) == len(questions["id"]) == 6 and set(arm["by_task"]) == {*questions["task"], "mean"}
        answers, test = done.answers[key], done.study.test[arm["draw"]]
        for task, own in test.groupby("task"):
            measure = questions["measure"][task]
            right = score_answers(own["output"].tolist(), [answers[i] for i in own.index], measure)
            assert np.round(right, 4).tolist() == [arm["scores"][i] for i in own.index]
            if measure != "f1":
                assert arm["by_task"][task] == pytest.approx(right.mean(), abs=1e-4)
        if arm["arm"] != "base":
            assert arm["tokens"] > 0 and arm["loss"][0] > 0 and arm["n_different"] <= arm["n_train"]
    text = (done.out / "results.json").read_text(encoding="utf-8")
    assert all(record not in text for record in done.study.test[0]["input"] if record)
    parts = {part["part"]: part for part in results["parts"]}
    assert list(parts) == ["checks", "wave 0: 8 arms", "wave 1: 2 arms", "wave 2: 2 arms", "base", "one at a time"]
    assert parts["wave 0: 8 arms"]["padded_tokens"] > parts["wave 0: 8 arms"]["tokens"] > 0
    assert parts["checks"]["largest_difference"] < 1e-4
    assert {"versions", "base", "dtype", "python"} <= set(results["made"])


@pytest.mark.slow
def test_an_arm_is_what_the_package_makes_of_it(done, tmp_path):
    from assl_kit.data.records import prompts
    from assl_kit.experts.adapters import adapted
    from assl_kit.experts.training.adapter import train_adapter
    from assl_kit.model.generation import generate_answers

    arm, study = done.study.arms[9], done.study
    rows = study.train[arm.seed].iloc[arm.rows]
    found = train_adapter(done.model, done.tokenizer, rows, tmp_path / "a", study.config(arm))
    with adapted(done.model, found.path) as answering:
        asked = prompts(study.test[arm.seed])
        answers = generate_answers(answering, done.tokenizer, asked, max_new_tokens=8, max_length=128)
    assert answers == done.answers[arm.key] and found.tokens == done.results["arms"][arm.key]["tokens"]


@pytest.mark.slow
def test_a_run_goes_on_from_what_is_there(folder, done):
    before = (done.out / "results.json").stat().st_mtime_ns
    again = Run(Study.read(folder), "tiny", done.out, "cpu", time.perf_counter() + 600, None, 12)
    again.load = again.model = again.part = None  # nothing is loaded or done
    assert not again.results["missing"]
    for number, arms in enumerate(waves(again.study.arms, 12)):
        again.wave(arms, f"wave {number}")
    assert (done.out / "results.json").stat().st_mtime_ns == before


@pytest.mark.slow
def test_fewer_arms_are_trained_where_time_is_short(done, tmp_path, monkeypatch):
    run = Run(done.study, "tiny", tmp_path, "cpu", time.perf_counter() + 600, None, 12)
    tried = []

    def work(arms):
        tried.append(len(arms))
        if len(arms) > 3:
            raise OutOfTime(0.5)
        run.results["arms"] |= {arm.key: {} for arm in arms}
        return {}

    monkeypatch.setattr(run, "_wave", work)
    arms = waves(done.study.arms, 12)[0]
    run.wave(arms, "wave 0")
    assert tried == [8, 4, 2] and len(run.results["arms"]) == 2
    run.results["made"]["padded_tokens_per_second"] = 1.0
    run.encoded = done.encoded
    with pytest.raises(OutOfTime):
        run._train(arms, [tmp_path / "a"] * 8)


@pytest.mark.slow
def test_a_check_that_fails_stops_nothing(done, tmp_path):
    run = Run(done.study, "tiny", tmp_path, "cpu", time.perf_counter() + 600, None, 12)

    def work():
        raise RuntimeError("no kernel")

    run.aside("checks", work)
    assert run.results["parts"] == [{"part": "checks: failed", "error": "RuntimeError: no kernel"}]


def test_budgets_have_the_size_and_follow_the_power():
    groups = np.repeat(["a", "b", "c"], [100, 20, 4])
    for power, wanted in ((0.0, {"a": 13, "b": 13, "c": 4}), (1.0, {"a": 24, "b": 5, "c": 1})):
        rows = by_budget(groups, 30, power, 0)
        assert len(set(rows.tolist())) == 30
        assert {name: int((groups[rows] == name).sum()) for name in "abc"} == wanted


def test_waves_hold_arms_of_one_order():
    rows = np.arange(4)
    arms = [Arm(name, seed, 3, seed, rows) for seed in (0, 1) for name in "abc"]
    assert [len(wave) for wave in waves(arms, 2)] == [2, 1, 2, 1]
    assert all(len({arm.training_seed for arm in wave}) == 1 for wave in waves(arms, 9))


def test_pieces_of_a_gguf_file_become_the_same_weights(tmp_path):
    """A file of random weights in Gemma's form: what comes out is what transformers reads, in bfloat16."""
    gguf = pytest.importorskip("gguf")
    import torch
    from safetensors.torch import load_file

    rng, file = np.random.default_rng(0), tmp_path / "a.gguf"
    writer = gguf.GGUFWriter(str(file), "gemma3")
    weights = {}
    for name, shape, kind in (
        ("token_embd.weight", (50, 64), "Q8_0"),
        ("blk.0.attn_q.weight", (32, 64), "Q5_0"),
        ("blk.0.ffn_down.weight", (16, 32), "F32"),
        ("blk.0.attn_q_norm.weight", (8,), "F32"),
    ):
        values = rng.normal(size=shape).astype(np.float32)
        kind = gguf.GGMLQuantizationType[kind]
        body = gguf.quants.quantize(values, kind)
        writer.add_tensor(name, body, raw_dtype=kind)
        weights[name] = gguf.quants.dequantize(body, kind).reshape(shape)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    folder = tmp_path / "converted"
    folder.mkdir()
    (folder / "converted.json").write_text('{"id": "a", "sha256": "0", "files": {}}', encoding="utf-8")
    gpu_base.main(["pack", str(file), str(folder), str(tmp_path / "out"), "--parts", "3"])
    assert len(list((tmp_path / "out").glob("part-*/weights-*.z"))) == 3
    gpu_base.main(["unpack", str(tmp_path / "out"), str(tmp_path / "out" / "base")])
    found = load_file(tmp_path / "out" / "base" / "model.safetensors")
    assert sorted(found) == sorted(map(gpu_base.name_of, weights))
    for name, values in weights.items():
        right = torch.from_numpy(values - 1 if name.endswith("norm.weight") else values).to(torch.bfloat16)
        assert torch.equal(found[gpu_base.name_of(name)], right), name
    (tmp_path / "out" / "part-1" / "weights-01.z").unlink()
    with pytest.raises(SystemExit, match="one is missing"):
        gpu_base.main(["unpack", str(tmp_path / "out"), str(tmp_path / "out" / "base")])
