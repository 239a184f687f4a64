""".ci/lowest.py: a lowest version for every direct dependency, taken from pyproject.toml alone."""

from __future__ import annotations

import importlib.util

import pytest
from helpers import ROOT

SCRIPT = ROOT / ".ci" / "lowest.py"


@pytest.fixture(scope="module")
def lowest():
    spec = importlib.util.spec_from_file_location("lowest", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def project(lowest):
    return lowest.tomllib.loads(lowest.PYPROJECT.read_text(encoding="utf-8"))["project"]


def test_every_direct_dependency_has_one_pin_that_it_admits(lowest, project, capsys):
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    lowest.main([])
    pins = dict(line.split("==") for line in capsys.readouterr().out.splitlines())
    lowest.main(["--extras"])
    extras = capsys.readouterr().out.strip().split(",")
    assert {"notebooks", "train", "hub", "dev"} <= set(extras)
    optional = project["optional-dependencies"]
    wanted = [Requirement(r) for r in (*project["dependencies"], *(r for extra in extras for r in optional[extra]))]
    assert set(pins) == {canonicalize_name(requirement.name) for requirement in wanted}
    for requirement in wanted:
        assert requirement.specifier.contains(pins[canonicalize_name(requirement.name)]), requirement
    floors = {(canonicalize_name(r.name), s.version) for r in wanted for s in r.specifier if s.operator == ">="}
    assert set(pins.items()) <= floors  # none is higher than it must be


def test_the_highest_of_several_floors_counts(lowest):
    table = {
        "dependencies": ["A_b>=1.9", "c[x,y]>=2,<3; python_version<'4'"],
        "optional-dependencies": {"dev": ["a.B>=1.10"], "bench": ["d>=1"], "ray": ["ray>=2.40"]},
    }
    assert lowest.floors(table) == {"a-b": "1.10", "c": "2", "ray": "2.40"}
    assert lowest.tested_extras(table) == ["ray", "dev"]


@pytest.mark.parametrize("requirement", ["a", "a==1", "a>1", "a<2", "a>=x"])
def test_a_dependency_without_a_floor_is_refused(lowest, requirement):
    with pytest.raises(SystemExit, match="names no lowest version"):
        lowest.floors({"dependencies": [requirement]})
