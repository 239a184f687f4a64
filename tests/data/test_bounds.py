"""Small files that unpack to much: what reading each of them takes is measured, in a process of its own."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import ROOT

if os.name == "nt":
    pytest.skip("measures by fork", allow_module_level=True)

MIB = 1 << 20
FREE, TIMES = 192 * MIB, 64
"""As docs/security.md states: bytes that reading may take whatever the file, and besides for each byte of it."""

_MEASURE = """
import os, resource, sys
import pyarrow.parquet, pandas
from assl_kit.data.loading import load_records
from assl_kit.artifacts.parameters import read_parameter_file
from assl_kit.errors import AsslError
load_records(sys.argv[1])
for path in sys.argv[2:]:
    if os.fork() == 0:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        try:
            outcome = "read"
            from pathlib import Path
            read_parameter_file(Path(path)) if path.endswith(".yaml") else load_records(path)
        except AsslError as error:
            outcome = f"refused: {error}"
        unit = 1 if sys.platform == "darwin" else 1024
        taken = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * unit
        print(taken, os.path.basename(path), outcome[:200].replace("\\n", " "), sep="\\t", flush=True)
        os._exit(0)
    os.wait()
"""


def _small(folder: Path) -> None:
    text = json.dumps([{"instruction": f"问{n}", "output": "答"} for n in range(20)], ensure_ascii=False)
    (folder / "list.json").write_text(text, encoding="utf-8")


def _packed(folder: Path) -> None:
    line = b'{"instruction":"a","output":"b"}\n'
    (folder / "lines.jsonl.gz").write_bytes(gzip.compress(line * (20 * MIB // len(line)), compresslevel=9))
    within = folder / "within"
    within.mkdir()
    (within / "lines.jsonl.gz").write_bytes((folder / "lines.jsonl.gz").read_bytes())
    by_card = folder / "by_card"
    by_card.mkdir()
    (by_card / "lines.jsonl.gz").write_bytes((folder / "lines.jsonl.gz").read_bytes())
    head = "---\nconfigs:\n- config_name: default\n  data_files: lines.jsonl.gz\n---\n"
    (by_card / "README.md").write_text(head, encoding="utf-8")


def _parquet(folder: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    n = 100
    plain = pa.array([f"第{row}条" for row in range(n)])
    offsets = np.arange(n + 1, dtype="i4") * 80_000
    zeros = pa.array(np.zeros(80_000 * n, "i8"))
    leaves = {
        "lists": pa.ListArray.from_arrays(offsets, zeros),
        "bools": pa.ListArray.from_arrays(offsets, pa.array(np.zeros(80_000 * n, bool))),
        "nulls": pa.ListArray.from_arrays(offsets, pa.nulls(80_000 * n, pa.int32())),
    }
    for name, leaf in leaves.items():
        table = pa.table({"instruction": plain, "output": plain, "x": leaf})
        pq.write_table(table, folder / f"{name}.parquet", compression="zstd")
    fixed = pa.array([b"\0" * MIB] * 160, pa.binary(MIB))
    rows = pa.array([str(row) for row in range(160)])
    table = pa.table({"instruction": rows, "output": rows, "x": fixed})
    pq.write_table(table, folder / "fixed.parquet", compression="zstd")
    one_text = pa.array(["长" * (12 * MIB)] + ["a"] * 159)
    pq.write_table(pa.table({"instruction": rows, "output": rows, "x": one_text}), folder / "dictionary.parquet")
    alike = pa.array(["x" * 200_000 + str(row) for row in range(1600)])
    rows = pa.array([str(row) for row in range(1600)])
    table = pa.table({"instruction": rows, "output": rows, "x": alike})
    encodings = {"x": "DELTA_BYTE_ARRAY", "instruction": "PLAIN", "output": "PLAIN"}
    pq.write_table(
        table, folder / "prefixes.parquet", use_dictionary=False, column_encoding=encodings, compression="zstd"
    )


def _tables(folder: Path) -> None:
    names = ",".join(["instruction", "output", *(f"c{n}" for n in range(900))])
    (folder / "short.csv").write_text(f"{names}\n" + "a,b\n" * 100_000, encoding="utf-8")
    (folder / "wide.csv").write_text(",".join(map(str, range(500_000))) + "\n", encoding="utf-8")
    first = "".join(json.dumps({"instruction": "a", "output": "b", f"c{n}": 1}) + "\n" for n in range(900))
    (folder / "sparse.jsonl").write_text(first + '{"instruction":"a","output":"b"}\n' * 100_000, encoding="utf-8")
    (folder / "python.jsonl").write_text(
        json.dumps({"messages": "[" + "1," * 4_000_000 + "]x", "output": "b"}) + "\n", encoding="utf-8"
    )


def _yaml(folder: Path) -> None:
    parts = ["p0: &p0 {a: 1}"] + [f"p{n}: &p{n} {{<<: [{', '.join([f'*p{n - 1}'] * 9)}]}}" for n in range(1, 9)]
    (folder / "merges.yaml").write_text("\n".join(parts), encoding="utf-8")
    (folder / "nested.yaml").write_text("[" * 100_000, encoding="utf-8")


def test_reading_takes_a_stated_multiple_of_the_file(tmp_path):
    folder = tmp_path / "hostile"
    folder.mkdir()
    for write in (_small, _packed, _parquet, _tables, _yaml):
        write(folder)
    paths = sorted(path for path in folder.iterdir())
    program = subprocess.run(
        [sys.executable, "-c", _MEASURE, str(folder / "list.json"), *map(str, paths)],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        check=False,
    )
    lines = [line.split("\t") for line in program.stdout.splitlines()]
    assert [line[1] for line in lines] == [path.name for path in paths], program.stderr[-2000:]
    outcomes = {name: outcome for _, name, outcome in lines}
    for taken, name, _ in lines:
        path = folder / name
        size = sum(file.stat().st_size for file in (path.rglob("*") if path.is_dir() else [path]) if file.is_file())
        assert int(taken) <= FREE + TIMES * size, f"{name} of {size:,} bytes took {int(taken):,}"
    small = {"list.json", "nested.yaml", "merges.yaml"}
    assert outcomes["list.json"] == "read" and all(
        outcomes[name].startswith("refused") for name in small - {"list.json"}
    )
    assert "unpacks to more than" in outcomes["prefixes.parquet"]
    refused = "lines.jsonl.gz within by_card lists.parquet bools.parquet nulls.parquet fixed.parquet dictionary.parquet"
    for name in f"{refused} prefixes.parquet short.csv wide.csv sparse.jsonl".split():
        assert outcomes[name].startswith("refused"), (name, outcomes[name])
