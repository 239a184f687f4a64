"""A corpus from a stranger: reading it runs nothing, and unpacks no more than the limits say."""

from __future__ import annotations

import gzip
import json
import pickle

import numpy as np
import pandas as pd
import pytest
from helpers.hostile import NESTED, RECORD, Hostile, links, rows

from assl_kit.common import limits as bounds
from assl_kit.data.loading import load_records
from assl_kit.errors import DataError


def test_a_gzip_bomb_in_one_line_is_not_unpacked(tmp_path):
    file = tmp_path / "bomb.jsonl.gz"
    file.write_bytes(gzip.compress(b" " * (200 << 20), compresslevel=1))
    with pytest.raises(DataError, match=r":1\)|more than 33,554,432 bytes"):
        load_records(file)


@pytest.mark.parametrize("name", ["bomb.jsonl.gz", "bomb.json.gz"])
def test_a_gzip_bomb_of_many_lines_is_not_unpacked(tmp_path, monkeypatch, name):
    monkeypatch.setattr(bounds, "FREE_UNPACKED", 1 << 20)
    line = json.dumps(RECORD).encode() + b"\n"
    file = tmp_path / name
    file.write_bytes(gzip.compress(line + (b" " * 999 + b"\n") * (32 << 10)))
    with pytest.raises(DataError, match="the gzip file unpacks to more than"):
        load_records(file)
    file.write_bytes(gzip.compress(b"".join(json.dumps(row).encode() + b"\n" for row in rows(30))))
    assert len(load_records(file)) == 30


def test_an_overlong_line_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(bounds, "MAX_LINE", 1000)
    file = tmp_path / "a.jsonl"
    file.write_text(json.dumps(RECORD) + "\n" + json.dumps(RECORD | {"input": "x" * 1000}), encoding="utf-8")
    with pytest.raises(DataError, match=r"more than 1,000 bytes .*a\.jsonl:2"):
        load_records(file)


@pytest.mark.parametrize("name", ["a.jsonl", "a.json"])
@pytest.mark.parametrize(("text", "message"), [(NESTED, "too deeply"), ("[" + "9" * 5000 + "]", "too many digits")])
def test_hostile_json_is_one_clear_error(tmp_path, name, text, message):
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=message):
        load_records(tmp_path / name)


def test_a_json_list_is_bounded(tmp_path, monkeypatch):
    """Element by element: a long list is read, a long element is not."""
    monkeypatch.setattr(bounds, "MAX_LINE", 100_000)
    file = tmp_path / "a.json"
    file.write_text(json.dumps(rows(5_000), indent=1, ensure_ascii=False), encoding="utf-8")
    assert len(load_records(file)) == 5_000 and file.stat().st_size > 4 * bounds.MAX_LINE
    file.write_text(json.dumps([*rows(9), RECORD | {"input": "x" * 250_000}]), encoding="utf-8")
    with pytest.raises(DataError, match=r"an element of the list has more than 100,000 characters"):
        load_records(file)


def test_records_and_fields_are_bounded(tmp_path, monkeypatch):
    file = tmp_path / "a.jsonl"
    wide = [row | {f"extra{n}": n} for n, row in enumerate(rows(20))]
    file.write_text("\n".join(map(json.dumps, wide)), encoding="utf-8")
    assert len(load_records(file)) == 20
    monkeypatch.setattr(bounds, "MAX_COLUMNS", 10)
    with pytest.raises(DataError, match="more than 10 different fields"):
        load_records(file)
    monkeypatch.setattr(bounds, "MAX_RECORDS", 5)
    with pytest.raises(DataError, match="more than 5 records"):
        load_records(file)


def test_parquet_with_a_pickled_type_is_read_without_it(tmp_path, marker):
    """Old versions of pyarrow unpickled the class of an extension type from the file's header."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    about = {b"ARROW:extension:name": b"arrow.py_extension_type"}
    about[b"ARROW:extension:metadata"] = pickle.dumps(Hostile(marker))
    fields = [pa.field(name, pa.string()) for name in RECORD] + [pa.field("x", pa.string(), metadata=about)]
    table = pa.Table.from_pylist([row | {"x": "a"} for row in rows(20)], schema=pa.schema(fields))
    table = table.replace_schema_metadata({"pandas": pickle.dumps(Hostile(marker)).hex()})
    pq.write_table(table, tmp_path / "a.parquet")
    assert len(load_records(tmp_path / "a.parquet")) == 20


@pytest.mark.parametrize("kind", ["text", "large text", "list", "struct", "bytes"])
def test_a_parquet_bomb_is_not_unpacked(tmp_path, monkeypatch, kind):
    """One long text, told once and repeated by number: 10 GB in a small file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    value = pa.array(["长" * 350_000], {"large text": pa.large_string(), "bytes": pa.binary()}.get(kind, pa.string()))
    texts = pa.DictionaryArray.from_arrays(pa.array(np.zeros(10_000, "i4")), value)
    if kind == "list":
        texts = pa.ListArray.from_arrays(np.arange(10_001, dtype="i4"), texts)
    elif kind == "struct":
        texts = pa.StructArray.from_arrays([texts], ["x"])
    plain = pa.array([f"第{n}条" for n in range(10_000)])
    file = tmp_path / "bomb.parquet"
    pq.write_table(pa.table({"instruction": plain, "output": plain, "x": texts}), file, compression="zstd")
    assert file.stat().st_size < 300_000
    monkeypatch.setattr(bounds, "FREE_UNPACKED", 1 << 20)
    with pytest.raises(DataError, match="unpacks to more than"):
        load_records(file)
    monkeypatch.setattr(bounds, "MAX_LINE", 1 << 20)
    with pytest.raises(DataError, match="a text has more than 1,048,576 bytes"):
        load_records(file)
    monkeypatch.setattr(bounds, "MAX_RECORDS", 100)
    with pytest.raises(DataError, match="10,000 rows, at most 100"):
        load_records(file)


def test_parquet_columns_and_lists_are_bounded(tmp_path, monkeypatch):
    file = tmp_path / "a.parquet"
    mixed = {"list": [1] * 500, "texts": ["a", None], "struct": {"x": "b", "y": [{"z": "c"}]}, "bytes": b"d"}
    pd.DataFrame([row | mixed for row in rows(20)]).to_parquet(file)
    assert load_records(file).loc[0, "struct"] == '{"x": "b", "y": [{"z": "c"}]}'
    monkeypatch.setattr(bounds, "FREE_UNPACKED", 100_000)
    monkeypatch.setattr(bounds, "MAX_RATIO", 1)
    with pytest.raises(DataError, match="unpacks to more than 100,000 bytes"):
        load_records(file)
    monkeypatch.setattr(bounds, "MAX_COLUMNS", 3)
    with pytest.raises(DataError, match=r"\d columns, at most 3"):
        load_records(file)


@pytest.mark.parametrize("dictionary", [False, True])
def test_parquet_of_other_programs_is_read_in_any_encoding(tmp_path, dictionary):
    """parquet-mr's second format tells a text by what it shares with the one before."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    encodings = {"instruction": "DELTA_BYTE_ARRAY", "output": "DELTA_LENGTH_BYTE_ARRAY", "input": "PLAIN"}
    options = {"use_dictionary": ["task"] if dictionary else False}
    file = tmp_path / "a.parquet"
    table = pa.table(
        [[row[name] + ("" if name == "input" else f"共同{n}") for n, row in enumerate(rows(50))] for name in encodings],
        names=list(encodings),
    )
    table = table.append_column("task", pa.array(["情感"] * 50))
    pq.write_table(table, file, column_encoding=encodings, data_page_version="2.0", **options)
    records = load_records(file)
    assert records["instruction"].tolist() == table["instruction"].to_pylist() and len(records) == 50


def test_parquet_lists_of_texts_without_a_told_size_are_refused(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.Table.from_pylist([row | {"x": ["a", "ab"]} for row in rows(20)])
    path = "x.list.element"
    pq.write_table(table, tmp_path / "a.parquet", use_dictionary=False, column_encoding={path: "DELTA_BYTE_ARRAY"})
    with pytest.raises(DataError, match=r"the lists 'x\.list\.element' hold texts in the encoding DELTA_BYTE_ARRAY"):
        load_records(tmp_path / "a.parquet")


def test_parquet_that_is_no_text_or_has_damaged_pages_is_one_clear_error(tmp_path):
    import pyarrow.parquet as pq

    file = tmp_path / "a.parquet"
    pd.DataFrame(rows(20)).to_parquet(file, compression=None)
    whole = file.read_bytes()
    file.write_bytes(whole.replace("第7条".encode(), b"\xff" * len("第7条".encode())))
    with pytest.raises(DataError, match="a text is not UTF-8"):
        load_records(file)
    file.write_bytes(whole.replace(b"instruction", b"\xffnstruction"))
    with pytest.raises(DataError, match="cannot be read as Parquet"):
        load_records(file)
    file.write_bytes(whole)
    with pq.ParquetFile(file) as about:
        start = about.metadata.row_group(0).column(0).dictionary_page_offset
    for damage in (b"\x19" * 200, b"\x1c" * 200, b"\xff" * 50):  # lists in lists, structs in structs, no end
        file.write_bytes(whole[:start] + damage + whole[start + len(damage) :])
        with pytest.raises(DataError, match="a page has no header|cannot be read as Parquet"):
            load_records(file)


@links
def test_a_benchmarks_folder_has_no_links_out(tmp_path):
    secret = tmp_path / "secret.json"
    secret.write_text(json.dumps([["股价大涨", 1]]), encoding="utf-8")
    task = tmp_path / "cfleb" / "FinFE"
    task.mkdir(parents=True)
    (task / "train_list.json").symlink_to(secret)
    with pytest.raises(DataError, match=r"train_list\.json is a link out of the folder"):
        load_records(tmp_path / "cfleb")
    part = tmp_path / "fineval" / "val"
    part.mkdir(parents=True)
    (tmp_path / "secret.csv").write_text("id,question,A,B,C,D,answer\n0,q,a,b,c,d,A\n", encoding="utf-8")
    (part / "law_val.csv").symlink_to(tmp_path / "secret.csv")
    with pytest.raises(DataError, match=r"law_val\.csv is a link out of the folder"):
        load_records(tmp_path / "fineval")


def test_an_overlong_cell_is_one_clear_error(tmp_path):
    part = tmp_path / "fineval" / "val"
    part.mkdir(parents=True)
    text = f"id,question,A,B,C,D,answer\n0,{'q' * 200_000},a,b,c,d,A\n"
    (part / "law_val.csv").write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match="the table cannot be read"):
        load_records(tmp_path / "fineval")


@pytest.fixture
def dataset(tmp_path):
    folder = tmp_path / "dataset"
    folder.mkdir()
    (folder / "train.jsonl").write_text("\n".join(map(json.dumps, rows(20))), encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    "name", ["a.zip", "a.tar", "a.tar.gz", "b.pkl", "b.npz", "dataset.py", "x/y.joblib", "a.PKL.zst"]
)
def test_a_dataset_has_no_archives_pickles_or_programs(dataset, marker, name):
    file = dataset / name
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(pickle.dumps(Hostile(marker)))
    with pytest.raises(DataError, match="archive, pickled data or a program"):
        load_records(dataset)


@pytest.mark.parametrize(
    "head",
    [
        "configs:\n- config_name: default\n  data_files: ../secret.jsonl\n",
        "configs:\n- config_name: default\n  data_files:\n  - split: train\n    path: [a.jsonl, /etc/passwd]\n",
        "configs:\n- config_name: default\n  data_files: {train: 'https://example.org/a.jsonl'}\n",
        "configs:\n- config_name: default\n  data_dir: ..\n",
        "a: &a [x]\nb: [*a\n",
    ],
)
def test_a_datasets_card_names_no_data_elsewhere(dataset, head):
    (dataset.parent / "secret.jsonl").write_text(json.dumps(RECORD), encoding="utf-8")
    (dataset / "README.md").write_text(f"---\n{head}---\n# A corpus, see https://example.org\n", encoding="utf-8")
    with pytest.raises(DataError, match="outside the folder|not valid YAML"):
        load_records(dataset)


def test_an_honest_dataset_is_read(dataset):
    head = (
        "license: mit\nhomepage: https://example.org/x\nconfigs:\n- config_name: default\n  data_files: train.jsonl\n"
    )
    (dataset / "README.md").write_text(f"---\n{head}---\n# A corpus, see ../elsewhere\n", encoding="utf-8")
    (dataset / "LICENSE").write_text("MIT", encoding="utf-8")
    assert len(load_records(dataset)) == 20


def test_a_saved_dataset_names_no_data_elsewhere(dataset):
    state = {"_data_files": [{"filename": "../secret.arrow"}]}
    (dataset / "state.json").write_text(json.dumps(state), encoding="utf-8")
    with pytest.raises(DataError, match=r"state\.json names data outside"):
        load_records(dataset)


@links
def test_a_dataset_has_no_links_out(dataset):
    (dataset.parent / "secret.jsonl").write_text(json.dumps(RECORD), encoding="utf-8")
    (dataset / "more.jsonl").symlink_to(dataset.parent / "secret.jsonl")
    with pytest.raises(DataError, match=r"more\.jsonl is a link out"):
        load_records(dataset)


def test_a_footer_whose_statistics_do_not_fit_does_not_end_the_process(tmp_path):
    """pyarrow does end it, when it is asked for such a column of the footer."""
    file = tmp_path / "a.parquet"
    pd.DataFrame(rows(20)).to_parquet(file, compression=None)
    may_be_null, never = (b"\x15\x0c\x25" + kind + b"\x18\x0binstruction" for kind in (b"\x02", b"\x00"))
    data = file.read_bytes()
    assert data.count(may_be_null) == 1
    file.write_bytes(data.replace(may_be_null, never))
    with pytest.raises(DataError, match="cannot be read as Parquet"):
        load_records(file)


def test_a_footer_that_could_be_read_in_two_ways_is_refused(tmp_path):
    """What the footer says twice, or in another kind of number, another reader may take for something else."""
    import io

    from assl_kit.data.saved.pages import chunks

    twice = b"\x49\x1c\x19\x1c\x00\x00\x09\x04\x0c\x00"
    short = b"\x49\x1c\x19\x1c\x3c\x55\x04\x25\x04\x25\x04\x00\x00\x00\x00"
    right = short.replace(b"\x55\x04\x25\x04\x25\x04", b"\x56\x04\x26\x06\x26\x08")

    def read(footer):
        return list(chunks(io.BytesIO(footer + len(footer).to_bytes(4, "little") + b"PAR1"), 1, 1, "a"))

    ((only,),) = [read(right)]
    assert (only.start, only.size, only.values) == (4, 3, 2)
    for footer in (twice, short):
        with pytest.raises(DataError, match="its footer is damaged"):
            read(footer)
    with pytest.raises(DataError, match="its footer lacks a group"):
        list(chunks(io.BytesIO(b"\x00" + (1).to_bytes(4, "little") + b"PAR1"), 1, 1, "a"))
