"""``assl select`` and ``assl check``: what they print, and one message for what is wrong."""

from __future__ import annotations

import json

import pytest
from helpers.records import put, put_lines

from assl_kit.data.synthetic import make_corpus


@pytest.fixture
def corpus(tmp_path):
    return put_lines(tmp_path / "mine.jsonl", make_corpus(200, test_share=0.2).to_dict("records"))


def test_a_part_is_written_and_told_of(assl, corpus, tmp_path):
    code, out, err = assl("select", "mine.jsonl", "--keep", "10%", "--out", "part", "--format", "messages", "--seed", 3)
    assert code == 0 and "16 records: part/selected.jsonl" in out and "sentiment" in out and "Duplicates: " in out
    assert "than random" in out or "from random" in out
    assert "choosing 16 of 160 records" in err and "asking the referee" in err
    assert len((tmp_path / "part" / "selected.jsonl").read_text("utf-8").splitlines()) == 16
    code, out, _ = assl("select", "mine.jsonl", "--keep", 9, "--out", "part", "--no-referee", "--json")
    about = json.loads(out)
    assert code == 0 and about["counts"]["chosen"] == 9 and about["out"] == "part"
    assert about["referee"] == {"skipped": "it was told not to be"}


def test_a_target_is_told_of(assl, corpus, tmp_path):
    put_lines(tmp_path / "dev.jsonl", make_corpus(30, seed=4, test_share=0).to_dict("records"))
    code, out, _ = assl("select", "mine.jsonl", "--for", "dev.jsonl", "--keep", 20, "--out", "part", "--no-referee")
    assert code == 0 and "Similarity to dev.jsonl: 0." in out and "The referee was not asked" in out


def test_a_dry_run_writes_nothing(assl, corpus, tmp_path):
    code, out, _ = assl("select", "mine.jsonl", "--out", "part", "--dry-run", "--drop-duplicates")
    assert code == 0 and "16 of 160 records would be chosen (of what is left without duplicates)" in out
    assert "task (7)" in out and "minutes" in out and not (tmp_path / "part").exists()
    code, out, _ = assl("select", "mine.jsonl", "--out", "part", "--dry-run", "--json", "--keep", "5")
    assert code == 0 and json.loads(out)["keep"] == 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("mine.jsonl", "--out", "part", "--keep", "150%"), "'150%' is no share of the records"),
        (("mine.jsonl", "--out", "part", "--keep", "161"), "161 records are to be kept, but 160 can be chosen"),
        (("mine.jsonl", "--out", "part", "--format", "xml"), "unknown format 'xml'"),
        (("mine.jsonl", "--out", "."), "lies in the folder to write to"),
        (("mine.jsonl", "--out", "full"), "the folder holds other things: a.txt"),
        (("none.jsonl", "--out", "part"), "no such file"),
        (("mine.jsonl", "--out", "part", "--for", "none.jsonl"), "no such file"),
        (("bad.jsonl", "--out", "part"), "bad.jsonl:2"),
        (("mine.jsonl", "--out", "part", "--push-to-hub", "me/x"), "HF_HUB_OFFLINE is set"),
    ],
)
def test_what_is_wrong_is_one_message(assl, corpus, tmp_path, arguments, message):
    put(tmp_path / "full" / "a.txt", "mine")
    put(tmp_path / "bad.jsonl", '{"instruction": "问", "output": "答"}\n{"instruction"\n')
    code, out, err = assl("select", *arguments)
    assert code == 2 and out == "" and not (tmp_path / "part").exists()
    assert message in err and len([line for line in err.splitlines() if line.startswith("assl: ")]) == 1


def test_a_file_is_checked(assl, corpus, tmp_path):
    code, out, _ = assl("check", "mine.jsonl")
    assert code == 0 and "200 records: 160 train, 40 test" in out and "Every record can be read." in out
    assert "near" in out and "near" not in assl("check", "mine.jsonl", "--no-near")[1].split("Test questions")[0]
    put(tmp_path / "bad.jsonl", '{"instruction": "问", "output": "答"}\n{"instruction"\n[1]\n')
    code, out, err = assl("check", "bad.jsonl", "--no-near")
    assert code == 2 and "bad.jsonl:2: the line is not valid JSON" in out and "2 cannot be read" in out and err == ""
    code, out, _ = assl("check", "bad.jsonl", "--no-near", "--json")
    assert code == 2 and len(json.loads(out)["bad"]) == 2
    code, out, err = assl("check", "none.jsonl")
    assert code == 2 and "no such file" in err
