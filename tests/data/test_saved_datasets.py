"""What the library datasets keeps or unpacks: looked at before it is mapped or unpacked, on every way in."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.hostile import RECORD, rows

from assl_kit.common import limits
from assl_kit.data.loading import load_records
from assl_kit.data.parquet import parquet_rows
from assl_kit.data.saved.arrow import check_arrow
from assl_kit.errors import DataError

datasets = pytest.importorskip("datasets", reason="the library datasets (extra train or hub) is not installed")


def stream(file, table, **options):
    with pa.ipc.new_stream(file, table.schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        writer.write_table(table)
    return file


def saved(folder, table):
    """A saved dataset, and its one file of rows."""
    datasets.Dataset.from_dict(table).save_to_disk(str(folder))
    return next(folder.glob("*.arrow"))


@pytest.mark.parametrize("codec", ["zstd", "lz4"])
def test_packed_buffers_are_refused(tmp_path, codec):
    file = saved(tmp_path / "saved", {name: [row[name] for row in rows(30)] for name in RECORD})
    assert len(load_records(tmp_path / "saved")) == 30
    stream(file, pa.ipc.open_stream(file.read_bytes()).read_all(), compression=codec)
    with pytest.raises(DataError, match="no Arrow stream with plain buffers"):
        load_records(tmp_path / "saved")


def test_texts_that_begin_elsewhere_in_memory_are_refused(tmp_path):
    """In a process of its own: to read them ended it."""
    file = saved(tmp_path / "saved", {"instruction": ["a" * 200] * 9, "output": ["b"] * 9})
    data, offsets = file.read_bytes(), b"".join((200 * n).to_bytes(4, "little") for n in range(10))
    assert offsets in data
    file.write_bytes(data.replace(offsets, offsets[:-4] + (1 << 30).to_bytes(4, "little")))
    program = "import sys; from assl_kit.data.loading import load_records; load_records(sys.argv[1], test_share=0)"
    command = [sys.executable, "-c", program, str(tmp_path / "saved")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "DataError: the dataset is damaged" in done.stderr


def test_rows_of_nothing_are_counted(tmp_path):
    check_arrow(stream(tmp_path / "a.arrow", pa.table({"x": pa.nulls(1000)})))
    with pytest.raises(DataError, match="tells of 10,000,000 rows"):
        check_arrow(stream(tmp_path / "b.arrow", pa.table({"x": pa.nulls(10_000_000)})))


def test_words_in_dictionaries_and_forged_messages(tmp_path):
    texts = pa.table({"x": pa.array(["a", "b", "a"]).dictionary_encode()})
    file = stream(tmp_path / "a.arrow", texts)
    check_arrow(file)
    data = file.read_bytes()
    refused = 0
    for place in range(0, len(data), 3):
        file.write_bytes(data[:place] + b"\xff\xff\xff\x7f" + data[place + 4 :])
        try:
            check_arrow(file)
        except DataError:
            refused += 1
    assert refused > 50


def test_pictures_are_not_unpacked(tmp_path):
    """A picture of a few bytes can stand for any number of dots; the bytes are kept."""
    features = datasets.Features(
        {"instruction": datasets.Value("string"), "output": datasets.Value("string"), "picture": datasets.Image()}
    )
    table = {"instruction": ["a"], "output": ["b"], "picture": [{"bytes": b"no picture", "path": None}]}
    datasets.Dataset.from_dict(table, features=features).save_to_disk(str(tmp_path / "saved"))
    frame = load_records(tmp_path / "saved", test_share=0)
    assert "no picture" in frame.loc[0, "picture"]


@pytest.mark.parametrize("name", ["bomb.jsonl.gz", "bomb.jsonl", "bomb.json.gz"])
@pytest.mark.parametrize("way", ["file", "folder", "card", "config"])
def test_a_packed_file_is_bounded_on_every_way_in(tmp_path, monkeypatch, name, way):
    """By its first bytes, whatever it is called: the library unpacks it by them too."""
    monkeypatch.setattr(limits, "FREE_UNPACKED", 1 << 20)
    folder = tmp_path / "data"
    folder.mkdir()
    if way == "card":
        card = f"---\nconfigs:\n- config_name: default\n  data_files: {name}\n---\n"
        (folder / "README.md").write_text(card, encoding="utf-8")
    line = json.dumps(RECORD).encode() + b"\n"
    (folder / name).write_bytes(gzip.compress(line + (b" " * 999 + b"\n") * (32 << 10)))
    with pytest.raises(DataError, match="over 200 times its size"):
        load_records(folder / name if way == "file" else folder, config="default" if way == "config" else None)


def test_conversations_in_small_groups_of_rows_are_read(tmp_path):
    """Texts in lists cannot be read packed over the end of a group; many files have groups of 1000."""
    turns = [[{"role": "user", "content": f"问{n}"}, {"role": "assistant", "content": "答"}] for n in range(30)]
    pq.write_table(pa.table({"messages": turns}), tmp_path / "a.parquet", row_group_size=7)
    assert [row["messages"] for row in parquet_rows(tmp_path / "a.parquet")] == turns
    assert len(load_records(tmp_path / "a.parquet", test_share=0)) == 30


def test_texts_in_delta_encoding_are_read_and_bounded(tmp_path):
    """Each says how it differs from the one before: nothing, and is as long."""
    file = tmp_path / "a.parquet"
    options = {"use_dictionary": False, "column_encoding": "DELTA_BYTE_ARRAY", "compression": "zstd"}
    pq.write_table(pa.table({"x": ["ab", "abc"] * 5}), file, **options)
    assert [row["x"] for row in parquet_rows(file)] == ["ab", "abc"] * 5
    pq.write_table(pa.table({"x": ["长" * 300_000] * 300}), file, **options)
    assert file.stat().st_size < 10_000
    before = pa.default_memory_pool().max_memory()
    with pytest.raises(DataError, match="unpacks to more than"):
        list(parquet_rows(file))
    assert pa.default_memory_pool().max_memory() < before + (200 << 20)


def test_a_row_that_is_too_long_is_refused(tmp_path, monkeypatch):
    lists = [[1] * 2000, [1] * 20_000]
    pq.write_table(pa.table({"x": lists}), tmp_path / "a.parquet")
    assert [row["x"] for row in parquet_rows(tmp_path / "a.parquet")] == lists
    monkeypatch.setattr(limits, "MAX_LINE", 1 << 20)
    with pytest.raises(DataError, match="a row has more than 1,048,576 bytes"):
        list(parquet_rows(tmp_path / "a.parquet"))


def test_odd_labels_of_a_benchmark_are_no_traceback(tmp_path):
    folder = tmp_path / "FinFE"
    folder.mkdir()
    rest = [["股价大涨", 1], ["平", 0.5], ["跌", 0]] * 10
    text = "[[" + '"涨", ' + "9" * 400 + "], " + json.dumps([*rest, ["涨", True]])[1:]
    (folder / "train_list.json").write_text(text, encoding="utf-8")
    left_out = []
    assert len(load_records(folder, left_out=left_out)) == 31
    assert [one.reason for one in left_out] == ["a FinFE or FinNE row must be a list of a text and a number"]
