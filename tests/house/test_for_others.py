"""What other people start from: workflows, container, distributions, links, and the first change of CONTRIBUTING."""

from __future__ import annotations

import importlib.util
import io
import json
import re
import tarfile
import zipfile

import numpy as np
import pytest
import yaml
from helpers import ROOT
from helpers.banks import TEXTS, make_bank

from assl_kit.experts.silversight import SilverSight
from assl_kit.version import __version__

WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
EXTRAS = (ROOT / "pyproject.toml").read_text(encoding="utf-8").split("[project.optional-dependencies]")[1]
EXTRAS = set(re.findall(r"^([a-z-]+) = \[", EXTRAS.split("\n[")[0], re.MULTILINE))
COMMAND = re.compile(r"make ([a-z-]+|\$\{\{ matrix\.target \}\})")
PLACE = re.compile(r"(?<![\w./$-])((?:\.ci|\.github|benchmarks|tests|docs|assl_kit|notebooks)(?:/[\w.-]+)*/[\w.-]+)")
MODULE = re.compile(r"-m (benchmarks(?:\.\w+)+)")


def text_of(name):
    return (ROOT / name).read_text(encoding="utf-8")


def commands(path):
    """Every ``run:`` of a workflow, with each target that a matrix puts in."""
    for job in yaml.safe_load(text_of(path))["jobs"].values():
        matrix = job.get("strategy", {}).get("matrix", {})
        targets = [row["target"] for row in matrix.get("include", []) if "target" in row] or [""]
        for step in job["steps"]:
            yield from (step.get("run", "").replace("${{ matrix.target }}", target) for target in targets)


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_is_whole_and_calls_what_is_there(path):
    workflow = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert workflow["permissions"] == {"contents": "read"} and "concurrency" in workflow
    assert set(workflow) >= {"name", "jobs"} and True in workflow  # YAML reads the key "on" as true
    for name, job in workflow["jobs"].items():
        assert job["timeout-minutes"] <= 60, name
        assert set([job["needs"]] if "needs" in job else []) <= set(workflow["jobs"])
        assert all(("uses" in step) != ("run" in step) for step in job["steps"])
        assert all(
            re.fullmatch(r"[\w-]+/[\w-]+@(v\d+|release/v\d+)", step["uses"]) for step in job["steps"] if "uses" in step
        )
    lines = "\n".join(commands(path))
    assert set(COMMAND.findall(lines)) <= TARGETS
    assert [place for place in PLACE.findall(lines) if not (ROOT / place).exists()] == []
    assert all(importlib.util.find_spec(module) for module in MODULE.findall(lines))
    for extras in re.findall(r"\.\[([\w,-]+)\]", lines):
        assert set(extras.split(",")) <= EXTRAS


def test_what_is_tried_before_publishing_is_what_is_published():
    jobs = yaml.safe_load(text_of(".github/workflows/publish.yml"))["jobs"]
    assert (jobs["try"]["needs"], jobs["publish"]["needs"]) == ("build", "try")
    assert jobs["try"]["strategy"]["matrix"] == {"python": ["3.10", "3.11", "3.12", "3.13"], "kind": ["whl", "tar.gz"]}
    assert jobs["publish"]["permissions"] == {"id-token": "write"} and jobs["publish"]["environment"] == "pypi"
    assert sum("make dist" in step.get("run", "") for job in jobs.values() for step in job["steps"]) == 1


def test_the_container_and_its_friends_name_what_is_there():
    docker = text_of("Dockerfile")
    stages = re.findall(r"^FROM \S+ AS (\w+)", docker, re.MULTILINE)
    assert stages == ["checkout", "cuda", "cpu"] and docker.count('CMD ["make", "run"]') == 2
    assert docker.rstrip().endswith('CMD ["make", "run"]')
    container = json.loads(text_of(".devcontainer/devcontainer.json"))
    assert container["build"]["target"] in stages and container["postAttachCommand"] == "make run"
    assert (ROOT / ".devcontainer" / container["build"]["dockerfile"]).is_file()
    binder = text_of(".binder/requirements.txt").splitlines()
    constraints = next(line.removeprefix("-c ") for line in binder if line.startswith("-c "))
    assert (ROOT / ".binder" / constraints).is_file()
    for text in (docker, "\n".join(binder)):
        assert set(re.findall(r"(?:RUN |&& )make ([a-z-]+)", text)) <= TARGETS
        assert all(set(extras.split(",")) <= EXTRAS for extras in re.findall(r"-e \"?\.\[([\w,-]+)\]", text))


@pytest.mark.parametrize("path", sorted((ROOT / ".github").rglob("*.yml")), ids=lambda path: path.name)
def test_forms_are_valid_and_say_nothing_of_a_machine(path):
    text = path.read_text(encoding="utf-8")
    assert isinstance(yaml.safe_load(text), dict) and not re.search(r"/(root|home/(?!assl)\w+|work)/", text)
    if path.parent.name == "ISSUE_TEMPLATE" and path.name != "config.yml":
        form = yaml.safe_load(text)
        assert {"name", "description", "body"} <= set(form)
        known = {"markdown", "textarea", "input", "checkboxes"}
        assert all(part["type"] in known and part["attributes"] for part in form["body"])


@pytest.mark.parametrize("name", ["llms.txt", "README.md", "CONTRIBUTING.md", "CODE_OF_CONDUCT.md", "docs/install.md"])
def test_links_lead_to_files(name):
    links = re.findall(r"\]\((?!https?:|#)([^)#\s]+)", text_of(name))
    assert [link for link in links if not ((ROOT / name).parent / link).exists()] == []


def test_assistants_find_every_page():
    linked = set(re.findall(r"\]\(([^)]+)\): \S", text_of("llms.txt")))
    pages = {path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").glob("*.md")}
    assert pages <= linked and text_of("llms.txt").startswith("# assl-kit\n\n> ")


def test_the_version_is_one():
    citation = yaml.safe_load(text_of("CITATION.cff"))
    newest = re.findall(r"^## (\d\S*) - (\S+)$", text_of("CHANGELOG.md"), re.MULTILINE)[0]
    assert (citation["version"], str(citation["date-released"])) == newest and newest[0] == __version__


def loaded(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / ".ci" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_distribution_that_is_not_whole_is_not_published(tmp_path, monkeypatch, capsys):
    check = loaded("check_dist")

    def write(wheel, source):
        with zipfile.ZipFile(tmp_path / f"assl_kit-{__version__}-py3-none-any.whl", "w") as archive:
            for name in wheel:
                archive.writestr(name, "x")
        with tarfile.open(tmp_path / f"assl_kit-{__version__}.tar.gz", "w:gz") as archive:
            for name in source:
                archive.addfile(tarfile.TarInfo(f"assl_kit-{__version__}/{name}"), io.BytesIO())

    write(check.NEEDED, check.SOURCE)
    assert check.main([str(tmp_path)]) == 0 and check.main([str(tmp_path), "--tag", f"v{__version__}"]) == 0
    assert check.main([str(tmp_path), "--tag", "v9"]) == 1 and "the tag is v9" in capsys.readouterr().out
    for wheel, source, message in [
        (check.NEEDED[1:], check.SOURCE, f"lacks {check.NEEDED[0]}"),
        (check.NEEDED, check.SOURCE[1:], "lacks pyproject.toml"),
        (check.NEEDED, (*check.SOURCE, "runs/tiny/a"), "holds runs/tiny/a"),
        ((*check.NEEDED, "assl_kit/__pycache__/a.pyc"), check.SOURCE, "holds assl_kit/__pycache__/a.pyc"),
    ]:
        write(wheel, source)
        (problem,) = check.problems(tmp_path, __version__)
        assert message in problem
    write(check.NEEDED, check.SOURCE)
    monkeypatch.setattr(check, "LARGEST", 100)
    assert len(check.problems(tmp_path, __version__)) == 2 and len(check.problems(tmp_path, "9")) == 4


# CONTRIBUTING -------------------------------------------------------------------------------------------------------
FIRST = text_of("CONTRIBUTING.md").split("## Your first change in 20 minutes")[1].split("\n## ")[0]


def test_the_places_of_a_first_change_are_there():
    new = {
        "assl_kit/experts/margin_router.py",
        "tests/experts/test_margin_router.py",
        "assl_kit/data/grammars/NAME.yaml",
    }
    places = {place.rstrip(".:") for place in PLACE.findall(FIRST)}
    assert len(places) > 8 and new < places
    assert {place for place in places if not (ROOT / place).is_file()} == new
    metrics, tests = text_of("assl_kit/evaluation/metrics.py"), text_of("tests/evaluation/test_metrics.py")
    assert all(f"\n{name}" in metrics for name in ("METRICS = ", "TASK_METRICS = ", "def score_answers("))
    for name in ("test_scores_by_hand", "test_the_measure_of_known_tasks_comes_from_the_name"):
        assert name in FIRST and f"\ndef {name}(" in tests
    assert all(f"\n{name} = " in text_of("assl_kit/data/synthetic.py") for name in ("TASKS", "LABEL_TASKS"))


def test_the_router_of_a_first_change_works(base_folder, tmp_path):
    (code,) = re.findall(r"```python\n(.*?)```", FIRST, re.DOTALL)
    namespace = {"__name__": "margin_router"}
    exec(compile(code, "CONTRIBUTING.md", "exec"), namespace)
    router = namespace["MarginRouter"](np.eye(2), min_similarity=0.2)
    assert router.route(np.array([[1, 0], [0.72, 0.7], [0, 1]])).experts.tolist() == [0, -1, 1]
    bank = make_bank(tmp_path, base_folder)
    silversight = SilverSight.from_pretrained(bank.path, base=str(base_folder), device="cpu")
    silversight.router = namespace["MarginRouter"](bank.centroids, min_similarity=silversight.router.min_similarity)
    assert [answer.expert for answer in silversight.generate(TEXTS, max_new_tokens=2)] == [0, 1, 2]
    silversight.router.min_margin = 2.0
    assert [answer.expert for answer in silversight.generate(TEXTS, max_new_tokens=2)] == [-1, -1, -1]
