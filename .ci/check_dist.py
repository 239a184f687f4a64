"""Whether a folder holds one wheel and one sdist of this version, whole and small enough to be published.

python .ci/check_dist.py dist [--tag v0.2.0]
"""

from __future__ import annotations

import re
import sys
import tarfile
import zipfile
from pathlib import Path

LARGEST = 20_000_000
"""Bytes of a wheel and of an sdist."""
NEEDED = (
    "assl_kit/notebooks/00_start_here.ipynb",
    "assl_kit/results/evidence.json",
    "assl_kit/model/tiny_base/model.safetensors",
    "assl_kit/data/grammars/qa.yaml",
    "assl_kit/artifacts/profiles/tiny.yaml",
)
"""Of a wheel, besides the code."""
SOURCE = ("pyproject.toml", "LICENSE", "notebooks/00_start_here.ipynb", "benchmarks/results/evidence.json")
"""Of an sdist, from which a wheel is built."""
_FOREIGN = re.compile(r"(^|/)(runs|__pycache__|\.venv[^/]*|\.ipynb_checkpoints|\.hypothesis|\.mypy_cache)/")
VERSION = Path(__file__).resolve().parent.parent / "assl_kit" / "version.py"


def problems(folder: Path, version: str, tag: str | None = None) -> list[str]:
    """What is wrong, in words; nothing if all is well."""
    found = []
    if tag is not None and tag != f"v{version}":
        found.append(f"the tag is {tag}, but the version is {version}: tag it v{version}")
    wheels, sdists = sorted(folder.glob("*.whl")), sorted(folder.glob("*.tar.gz"))
    if [path.name for path in wheels] != [f"assl_kit-{version}-py3-none-any.whl"]:
        found.append(f"{folder} holds the wheels {[path.name for path in wheels]}, not the one of {version}")
    if [path.name for path in sdists] != [f"assl_kit-{version}.tar.gz"]:
        found.append(f"{folder} holds the sdists {[path.name for path in sdists]}, not the one of {version}")
    for path in (*wheels, *sdists):
        if path.stat().st_size > LARGEST:
            found.append(f"{path.name} has {path.stat().st_size:,} bytes, at most {LARGEST:,} are published")
    for path in wheels:
        names = zipfile.ZipFile(path).namelist()
        found += [f"{path.name} lacks {name}" for name in NEEDED if name not in names]
        found += [f"{path.name} holds {name}" for name in names if _FOREIGN.search(name)]
    for path in sdists:
        with tarfile.open(path) as archive:
            names = [name.partition("/")[2] for name in archive.getnames()]
        found += [f"{path.name} lacks {name}" for name in SOURCE if name not in names]
        found += [f"{path.name} holds {name}" for name in names if _FOREIGN.search(name)]
    return found


def main(arguments: list[str]) -> int:
    """Print what is wrong; return the exit code."""
    folder, *tag = arguments[0], *arguments[2:]
    version = re.search(r'__version__ = "(.+)"', VERSION.read_text(encoding="utf-8"))
    assert version is not None
    wrong = problems(Path(folder), version[1], *tag)
    for path in sorted(Path(folder).glob("*")):
        print(f"{path.name}: {path.stat().st_size:,} bytes")
    print(*wrong or ["whole, and small enough"], sep="\n")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
