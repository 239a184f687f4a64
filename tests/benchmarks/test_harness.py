"""CFLEB and FinEval as tasks of lm-evaluation-harness: what is asked, how it is scored, the harness itself."""

from __future__ import annotations

import csv
import importlib.util
import json
import subprocess
import sys

import pytest
import yaml
from helpers import ROOT
from helpers.models import make_test_base
from helpers.records import put_json

from assl_kit.errors import DataError, ParameterError

FOLDER = ROOT / "benchmarks" / "harness"
YAMLS = sorted(FOLDER.glob("*.yaml"))
SIX = ["finfe", "finnl", "finre", "finnsp", "finna", "finqa"]


@pytest.fixture(scope="module")
def tasks():
    """As the harness loads it: by its path."""
    spec = importlib.util.spec_from_file_location("harness_tasks", FOLDER / "tasks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """Both benchmarks in their layouts, a few rows each, in words of our own."""
    root = tmp_path_factory.mktemp("published")
    rows = {
        "finfe": ([["厂里接到大单", 2], ["仓库着火停产", 0], ["照常开工", 1]], "eval_list.json"),
        "finnl": ([["港口吞吐量回升", "中国 行业"], ["面粉价格持平", "商品"]], "test_list.json"),
        "finre": ([], ""),
        "finnsp": ([["1", "甲厂停产", "甲厂停产，乙厂照常。", "甲厂;乙厂", "1", "甲厂"],
                    ["2", "丙厂开工", "丙厂开工。", "丙厂", "0", ""]], "test_list.json"),
        "finna": ([["丁厂扩建", "丁厂今日宣布扩建厂房。"]], "eval_list.json"),
        "finqa": ([["谁扩建？丁厂今日宣布扩建厂房。", "丁厂"]], "test_list.json"),
    }  # fmt: skip
    for name, (some, file) in rows.items():
        if some:
            put_json(root / "cfleb" / name / "train_list.json", some)
            put_json(root / "cfleb" / name / file, some[:1])
    relations = "戊厂\t己厂\t供货\t戊厂向己厂供货\n庚厂\t辛厂\tunknown\t庚厂与辛厂同城\n"
    for split in ("train", "test"):
        (root / "cfleb" / "finre").mkdir(exist_ok=True)
        (root / "cfleb" / "finre" / f"{split}.txt").write_text(relations, encoding="utf-8")
    header = ["id", "question", "A", "B", "C", "D", "answer", "explanation"]
    for part, answers in (("dev", "ABCDA"), ("val", ("A", "BC", "D"))):
        folder = root / "fineval" / part
        folder.mkdir(parents=True)
        with open(folder / f"banking_{part}.csv", "w", encoding="utf-8", newline="") as handle:
            lines = [[i, f"第{i}题，哪一项对？", "甲", "乙", "丙", "丁", a, ""] for i, a in enumerate(answers)]
            csv.writer(handle).writerows([header, *lines])
    return root


class _Loader(yaml.SafeLoader):
    """Reads ``!function`` as text."""


_Loader.add_constructor("!function", lambda loader, node: node.value)


def configuration(path):
    config = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    return (configuration(FOLDER / config["include"]) if "include" in config else {}) | config


def test_every_function_is_there_and_the_group_has_its_six(tasks):
    named = [configuration(path) for path in YAMLS]
    names = {config["task"] for config in named if isinstance(config.get("task"), str)}
    assert {f"cfleb_{name}" for name in SIX} < names and "fineval" in names
    assert configuration(FOLDER / "cfleb.yaml")["task"] == [f"cfleb_{name}" for name in SIX]
    for config in named:
        functions = [config.get("custom_dataset"), config.get("process_results")]
        functions += [metric["aggregation"] for metric in config.get("metric_list", [])]
        for function in functions:
            if function and function.startswith("tasks."):
                assert callable(getattr(tasks, function.removeprefix("tasks.")))
        if config.get("metric_list") and config["task"] != "fineval":
            assert config["metric_list"][1]["metric"] == "score"


def test_what_is_asked(tasks, published):
    cfleb = str(published / "cfleb")
    finfe = tasks.cfleb("finfe", cfleb)
    assert len(finfe["train"]) == 3 and finfe["train"]["answer"] == ["积极", "消极", "中性"]
    assert finfe["test"]["answer"] == ["积极"] and finfe["test"][0]["question"].endswith(
        "\n厂里接到大单"
    )  # its dev file
    assert tasks.cfleb("finnl", cfleb)["test"]["answer"] == ["中国、行业"]
    assert tasks.cfleb("finnsp", cfleb)["train"]["answer"] == ["是，甲厂", "否"]
    exams = tasks.fineval(str(published / "fineval"))
    assert exams["test"]["answer"] == ["A", "D"] and len(exams["train"]) == 5  # one has two right letters
    assert exams["test"][0]["subject"] == "banking" and "D. 丁" in exams["test"][0]["question"].replace("．", ". ")


def test_what_cannot_be_asked(tasks, published):
    with pytest.raises(ParameterError, match="no folder None"):
        tasks.cfleb("finfe")
    with pytest.raises(DataError, match="finner is not in the folder"):
        tasks.cfleb("finner", str(published / "cfleb"))
    with pytest.raises(DataError, match="exams is not in the folder"):
        tasks.fineval(str(published / "cfleb"))


def test_scores_by_hand(tasks):
    assert tasks.accuracy({"answer": "积极"}, [" 积极。"]) == {"accuracy": 1.0, "score": 1.0}
    assert tasks.rouge_l({"answer": "甲乙丙丁"}, ["甲丙"])["score"] == pytest.approx(2 / 3)  # precision 1, recall ½
    assert tasks.char_f1({"answer": "甲乙"}, ["乙甲"])["char_f1"] == 1.0  # order does not count
    two = [tasks.items({"answer": "中国、行业"}, ["中国"]), tasks.items({"answer": "商品"}, ["商品、中国"])]
    counts = [one["micro_f1"] for one in two]
    assert counts == [(1, 0, 1), (1, 1, 0)] and tasks.micro_f1(counts) == pytest.approx(4 / 6)
    assert two[0]["score"] == two[0]["micro_f1"] and tasks.micro_f1([(0, 0, 0)]) in (0.0, 1.0)


def test_the_harness_runs_them(tmp_path, published, monkeypatch):
    """With a model that answers, so that each score comes out as it is stated; the group is the mean of six."""
    lm_eval = pytest.importorskip("lm_eval", reason="lm-eval is not installed: pip install lm-eval")
    from lm_eval.api.model import LM
    from lm_eval.tasks import TaskManager

    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path))

    class Knows(LM):
        """Answers all but FinFE rightly; of letters it prefers A."""

        def loglikelihood(self, requests):
            return [(0.0 if request.args[1].strip() == "A" else -1.0, False) for request in requests]

        def loglikelihood_rolling(self, requests):
            raise NotImplementedError

        def generate_until(self, requests):
            assert all(request.args[0].endswith("\n答案：") for request in requests)
            right = [request.doc["answer"] for request in requests]
            return ["消极" if answer in ("积极", "中性") else answer for answer in right]

    def scores(names, folder):
        manager = TaskManager(include_path=str(FOLDER), metadata={"folder": str(published / folder)})
        return lm_eval.simple_evaluate(Knows(), tasks=names, task_manager=manager, bootstrap_iters=0)

    done = scores(["cfleb"], "cfleb")
    by_task = {name: result["score,none"] for name, result in done["results"].items() if "score,none" in result}
    assert by_task == {"cfleb": pytest.approx(5 / 6), "cfleb_finfe": 0.0} | {f"cfleb_{n}": 1.0 for n in SIX[1:]}
    assert done["results"]["cfleb_finna"]["rouge_l,none"] == 1.0
    exams = scores(["fineval"], "fineval")
    assert exams["results"]["fineval"]["acc,none"] == 0.5
    sample = exams["samples"]["fineval"][0]["arguments"][0][0]
    assert sample.count("\n答案：") == 6 and sample.endswith("\n答案：")  # five worked examples


def test_a_real_model_answers_through_the_command(tmp_path, published):
    """The command line with its own model class, on a base of a few weights."""
    pytest.importorskip("lm_eval", reason="lm-eval is not installed: pip install lm-eval")
    base = make_test_base(tmp_path / "base")
    done = subprocess.run(
        [
            sys.executable, "-m", "lm_eval", "run", "--model", "hf",
            "--model_args", f"pretrained={base},max_length=256", "--device", "cpu",
            "--tasks", "cfleb_finfe,cfleb_finnsp", "--include_path", str(FOLDER), "--limit", "1",
            "--num_fewshot", "1", "--metadata", json.dumps({"folder": str(published / "cfleb")}),
            "--output_path", str(tmp_path / "out"),
        ],
        capture_output=True, encoding="utf-8", check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    (written,) = (tmp_path / "out").rglob("results_*.json")
    results = json.loads(written.read_text(encoding="utf-8"))["results"]
    assert set(results) == {"cfleb_finfe", "cfleb_finnsp"} and 0 <= results["cfleb_finnsp"]["micro_f1,none"] <= 1
