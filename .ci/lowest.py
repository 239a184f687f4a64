"""Print a constraint ``name==lowest version`` for every direct dependency, taken from pyproject.toml.

    python .ci/lowest.py > constraints.txt      dependencies, and those of the extras that the unit tests need
    python .ci/lowest.py --extras               the names of these extras, with commas

A dependency that stands in several lists gets the highest of its floors, since pip must satisfy all of them.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    from pip._vendor import tomli as tomllib

PYPROJECT = Path(__file__).resolve().parent.parent / "pyproject.toml"
TESTED = ("notebooks", "train", "hub", "ray", "app", "dev")
_FORM = re.compile(r"\s*([A-Za-z0-9][\w.-]*)\s*(?:\[[^\]]*\])?\s*>=\s*([0-9][0-9.]*)\s*(?:,[^;]*)?(?:;.*)?")


def tested_extras(project: dict) -> list[str]:
    """The extras that the unit tests need, of those that there are."""
    return [name for name in TESTED if name in project.get("optional-dependencies", {})]


def floors(project: dict) -> dict[str, str]:
    """The floor of each dependency in the table ``[project]`` and its tested extras, by its normalised name.

    Raises SystemExit where a dependency has no floor.
    """
    extras = [project["optional-dependencies"][name] for name in tested_extras(project)]
    found: dict[str, str] = {}
    for requirement in [*project["dependencies"], *(requirement for extra in extras for requirement in extra)]:
        match = _FORM.fullmatch(requirement)
        if match is None:
            raise SystemExit(f"the dependency {requirement!r} names no lowest version: write it as name>=version")
        name, version = re.sub(r"[-_.]+", "-", match[1]).lower(), match[2]
        if name not in found or _order(found[name]) < _order(version):
            found[name] = version
    return dict(sorted(found.items()))


def _order(version: str) -> list[int]:
    return [int(part) for part in version.strip(".").split(".")]


def main(arguments: list[str]) -> None:
    project = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"]
    if arguments == ["--extras"]:
        print(",".join(tested_extras(project)))
    else:
        print("\n".join(f"{name}=={version}" for name, version in floors(project).items()))


if __name__ == "__main__":
    main(sys.argv[1:])
