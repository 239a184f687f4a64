"""Whether an installed assl-kit works without a checkout: run by the Python that has it, in an empty folder.

cd "$(mktemp -d)" && python …/try_installed.py
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path


def assl(*arguments: str) -> str:
    """What the command prints; it must succeed."""
    done = subprocess.run([sys.executable, "-m", "assl_kit", *arguments], capture_output=True, encoding="utf-8")
    assert done.returncode == 0, f"assl {' '.join(arguments)}: {done.stderr[-2000:]}"
    return done.stdout


def main() -> None:
    """Try what needs no extra: the files it ships, the plan of a run, a check and a selection of a file."""
    import assl_kit
    from assl_kit.common.files import shipped

    home = Path(assl_kit.__file__).resolve().parent
    assert "site-packages" in home.parts or "dist-packages" in home.parts, f"this is a checkout: {home}"
    assert (shipped("notebooks") / "00_start_here.ipynb").is_file() and (shipped("results") / "evidence.json").is_file()
    assert assl("--version").strip() == assl_kit.__version__
    lines = []
    for number in range(60):
        moved, mood = ("上涨", "积极") if number % 3 else ("下跌", "消极")
        lines.append({"instruction": "判断情绪。", "input": f"第{number}家公司的股价{moved}。", "output": mood})
    text = "\n".join(json.dumps(line, ensure_ascii=False) for line in lines)
    Path("mine.jsonl").write_text(text, encoding="utf-8")
    assert "60" in assl("check", "mine.jsonl")
    assl("select", "mine.jsonl", "--keep", "10%", "--out", "better")
    about = next(Path("better").glob("*.jsonl"))
    assert len(about.read_text(encoding="utf-8").splitlines()) == 6
    print(f"assl-kit {assl_kit.__version__} works in {home}, Python {sys.version.split()[0]}")


if __name__ == "__main__":
    main()
