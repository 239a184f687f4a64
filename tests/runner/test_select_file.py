"""A part of a corpus in a folder: what is chosen, byte for byte, why, and what is refused before the work."""

from __future__ import annotations

import gzip
import json
import shutil

import numpy as np
import pandas as pd
import pytest
from helpers.records import put, put_lines

from assl_kit import Redistributor, encode, load_encoder, load_records, prompts, select_file
from assl_kit.common.files import sha256_file
from assl_kit.data.synthetic import make_corpus
from assl_kit.errors import DataError, ParameterError, WorkspaceError
from assl_kit.runner.selecting.plan import plan_selection
from assl_kit.runner.selecting.select import SelectedFile
from assl_kit.runner.selecting.settings import Settings, number_to_keep
from assl_kit.space.clusters import SemanticKMeans


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """400 records with an extra field of each kind, as lines that no program would write the same."""
    folder = tmp_path_factory.mktemp("corpus")
    rows = make_corpus(400, test_share=0.2).to_dict("records")
    lines = []
    for number, row in enumerate(rows):
        row |= {"meta": {"n": number, "tags": ["甲", None]}, "score": number / 7}
        text = json.dumps(row, ensure_ascii=number % 2 == 0, separators=((", ", ": ") if number % 3 else (",", ":")))
        lines.append("  " * (number % 4 == 1) + text + "\r" * (number % 5 == 0))
    lines.insert(100, "")
    return put(folder / "mine.jsonl", "\ufeff" + "\n".join(lines))  # no line end at the end of the file


@pytest.fixture(scope="module")
def chosen(corpus):
    return select_file(corpus, corpus.parent / "part", keep="10%", license="apache-2.0")


def bytes_of(folder):
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir())}


def test_the_lines_are_those_of_the_file(corpus, chosen):
    lines = corpus.read_bytes().removeprefix("\ufeff".encode()).split(b"\n")
    kept = chosen.file.read_bytes().split(b"\n")
    assert kept.pop() == b"" and len(kept) == 32
    places = [lines.index(line) for line in kept]
    assert places == sorted(places) and len(set(places)) == 32
    reasons = chosen.reasons()
    assert reasons.loc[reasons["reason"] == "chosen", "place"].tolist() == [
        f"mine.jsonl:{place + 1}" for place in places
    ]
    assert (load_records(chosen.file, test_share=0)["split"] != "test").all()


def test_the_choice_is_the_products(corpus, chosen):
    records = load_records(corpus)
    train = records[records["split"] != "test"].reset_index(drop=True)
    encoder = load_encoder("fit", texts=prompts(train), dim=256, seed=0)
    X = encode(encoder, prompts(train))
    clusters = SemanticKMeans(n_clusters=6, random_state=0).fit(X).labels_
    expected = Redistributor().fit_select(X, clusters, 32, groups=train["task"].to_numpy(), ids=train["id"].to_numpy())
    assert set(load_records(chosen.file, test_share=0)["id"]) == set(expected.table["id"])
    table = chosen.reasons().set_index("id").loc[expected.table["id"]]
    for name in ("cluster", "group", "weight", "rank", "copies", "relevance", "max_similarity", "core_distance"):
        assert (table[name].to_numpy() == expected.table[name].to_numpy()).all(), name


def test_every_record_has_its_reason(corpus, chosen):
    records, reasons = load_records(corpus), chosen.reasons()
    assert reasons["id"].tolist() == records["id"].tolist() and reasons["split"].tolist() == records["split"].tolist()
    assert reasons["reason"].value_counts().to_dict() == {"left out": 288, "test": 80, "chosen": 32}
    left, test = (reasons[reasons["reason"] == name] for name in ("left out", "test"))
    is_chosen = reasons["reason"] == "chosen"
    assert (reasons["copies"] == is_chosen).all() and reasons["weight"].notna().equals(is_chosen)
    assert test["cluster"].isna().all() and test["stands_for_it"].isna().all()
    train = records[records["split"] != "test"].reset_index(drop=True)
    X = encode(load_encoder("fit", texts=prompts(train), dim=256, seed=0), prompts(train)).astype(float)
    row = pd.Series(train.index, train["id"])
    cell = {one.id: (one.group, one.cluster) for one in reasons.itertuples()}
    mine = reasons.loc[is_chosen, "id"].tolist()
    for one in left.itertuples():
        same = [name for name in mine if cell[name] == cell[one.id]]
        same = same or [name for name in mine if cell[name][0] == one.group]
        cosines = X[row[same]] @ X[row[one.id]]
        assert one.stands_for_it in same and one.similarity == pytest.approx(cosines.max(), abs=1e-6)
        assert X[row[one.stands_for_it]] @ X[row[one.id]] == pytest.approx(cosines.max(), abs=1e-6)


def test_the_same_bytes_twice_and_over_itself(corpus, chosen):
    before = bytes_of(chosen.folder)
    again = select_file(corpus, chosen.folder, keep=0.1, license="apache-2.0")
    assert bytes_of(again.folder)["selected.jsonl"] == before["selected.jsonl"]
    select_file(corpus, chosen.folder, keep="10%", license="apache-2.0")
    assert bytes_of(chosen.folder) == before
    assert not [file for file in chosen.folder.parent.iterdir() if file.name.startswith(".")]


def test_the_counts_are_exact(corpus, chosen):
    records, about = load_records(corpus), chosen.about
    assert about["counts"] == {"records": 400, "train": 320, "test": 80, "bad": 0, "chosen": 32}
    train, part = records[records["split"] != "test"], load_records(chosen.file, test_share=0)
    for column in ("task", "source"):
        rows = about["kept"][f"by_{column}"]
        assert {row[column]: row["before"] for row in rows} == train[column].value_counts().to_dict()
        assert {row[column]: row["after"] for row in rows if row["after"]} == part[column].value_counts().to_dict()
    assert about["source"] == {"name": "mine.jsonl", "sha256": sha256_file(corpus)}
    assert about["files"] == {name: sha256_file(chosen.folder / name) for name in about["files"]}
    assert {row["arm"] for row in about["referee"]["table"]} == {"chosen", "random", "balanced random"}


def test_the_card_says_all_of_it(corpus, chosen):
    from huggingface_hub import DatasetCard

    text = (chosen.folder / "README.md").read_text(encoding="utf-8")
    data = DatasetCard.load(chosen.folder / "README.md").data
    assert data.license == "apache-2.0" and data.language == ["zh"] and data.size_categories == ["n<1K"]
    assert data.configs[0]["data_files"] == [{"split": "train", "path": "selected.jsonl"}]
    for part in (sha256_file(corpus), "| sentiment |", "Leakage", "conflicting", "chosen − random", "32 chosen of 320"):
        assert part in text
    assert str(corpus.parent) not in text and str(corpus.parent) not in json.dumps(chosen.about)


def test_the_hub_library_reads_it(chosen, tmp_path):
    datasets = pytest.importorskip("datasets")
    data = datasets.load_dataset(str(chosen.folder), split="train", cache_dir=str(tmp_path))  # none of earlier tests
    assert data["id"] == load_records(chosen.file, test_share=0)["id"].tolist()


def test_without_test_records_all_are_chosen_from_and_some_held_out_for_the_referee(tmp_path):
    rows = make_corpus(300, test_share=0.1).drop(columns=["split", "id"]).to_dict("records")
    part = select_file(put_lines(tmp_path / "all.jsonl", rows), tmp_path / "out", keep=60)
    assert part.about["counts"] == {"records": 300, "train": 300, "test": 0, "bad": 0, "chosen": 60}
    assert part.about["referee"]["held_out"] == pytest.approx(30, abs=6) and part.about["leakage"] is None
    assert len(part.file.read_text(encoding="utf-8").splitlines()) == 60


def test_leakage_into_the_choice_counts_chosen_records_only(tmp_path):
    rows = [
        {"instruction": "判断情绪。", "input": f"第{n}条", "output": "中性", "split": split}
        for split in ("train", "test")
        for n in range(40)
    ]
    part = select_file(put_lines(tmp_path / "asked.jsonl", rows), tmp_path / "out", keep=15, referee=False)
    leakage = part.about["leakage"]
    assert (leakage["exact"], leakage["test"], leakage["chosen"]) == (40, 40, 15)


def test_duplicates_are_dropped_before_the_choice(tmp_path):
    rows = [row | {"id": f"r{n}"} for n, row in enumerate(make_corpus(120, test_share=0).to_dict("records"))]
    rows += [row | {"id": row["id"] + "-again"} for row in rows[:30]]
    part = select_file(
        put_lines(tmp_path / "twice.jsonl", rows), tmp_path / "out", keep="100%", drop_duplicates=True, referee=False
    )
    reasons = part.reasons().set_index("id")
    again = reasons[reasons.index.str.endswith("-again")]
    assert (again["reason"] == "duplicate").all() and (again["duplicate"] == "exact").all()
    assert (
        part.about["counts"]["chosen"]
        == (reasons["reason"] == "chosen").sum()
        == 150 - (reasons["reason"] == "duplicate").sum()
    )
    assert set(reasons["reason"]) == {"chosen", "duplicate"} and part.about["duplicates"]["exact"] >= 30
    assert reasons.loc[reasons["reason"] == "duplicate", "stands_for_it"].notna().all()
    kept = load_records(part.file, test_share=0)
    assert not kept[["instruction", "input", "output"]].duplicated().any()
    with pytest.raises(ParameterError, match=r"150 records are to be kept, but 1\d\d can be chosen"):
        select_file(tmp_path / "twice.jsonl", tmp_path / "o", keep=150, drop_duplicates=True, referee=False)


def test_a_choice_for_a_target_is_nearer_to_it(corpus, tmp_path):
    records = make_corpus(200, seed=5)
    dev = records[records["task"] == "qa"].head(12)
    dev.to_json(tmp_path / "dev.jsonl", orient="records", lines=True, force_ascii=False)
    usual = select_file(corpus, tmp_path / "usual", keep=24, referee=False)
    aimed = select_file(corpus, tmp_path / "aimed", keep=24, target=tmp_path / "dev.jsonl", referee=False)
    tasks = [load_records(part.file, test_share=0)["task"].value_counts() for part in (usual, aimed)]
    assert tasks[1]["qa"] > 2 * tasks[0]["qa"]
    target = aimed.about["target"]
    assert target["similarity_of_chosen"] > target["similarity_of_all"] + 0.1 and target["candidates"] == 72
    reasons = aimed.reasons()
    assert (reasons["reason"] == "far from the target").sum() == 320 - 72
    assert set(reasons["target"].dropna()) <= set(dev["id"])
    nearest = {}
    for part, name in ((usual, "usual"), (aimed, "aimed")):
        kept = load_records(part.file, test_share=0)
        encoder = load_encoder("fit", texts=prompts(records), dim=64)
        nearest[name] = (encode(encoder, prompts(dev)) @ encode(encoder, prompts(kept)).T).max(axis=1).mean()
    assert nearest["aimed"] > nearest["usual"]  # the dev questions have nearer records, in another space too


def test_a_target_of_another_world_still_gives_what_is_asked_for(corpus, tmp_path):
    put_lines(tmp_path / "dev.jsonl", [{"instruction": "Name a bird.", "output": "Owl."}] * 3)
    part = select_file(corpus, tmp_path / "out", keep=10, target=tmp_path / "dev.jsonl", referee=False)
    assert part.about["counts"]["chosen"] == 10


def test_more_groups_than_places_are_no_obstacle(tmp_path):
    rows = [
        {"instruction": "判断情绪。", "input": f"第{n}条", "output": "中性", "task": f"t{n % 50}"} for n in range(200)
    ]
    part = select_file(put_lines(tmp_path / "many.jsonl", rows), tmp_path / "out", keep=20, referee=False)
    assert part.about["groups"]["by"] == "cluster" and "50 tasks for 20 places" in part.about["notes"][0]
    assert part.about["counts"]["chosen"] == 20


@pytest.mark.parametrize("n", [2, 3, 7])
def test_few_and_equal_records(tmp_path, n):
    rows = [{"instruction": "判断情绪。", "input": "同一条", "output": "中性"}] * n
    part = select_file(put_lines(tmp_path / "same.jsonl", rows), tmp_path / "out", keep=2)
    assert part.about["counts"]["chosen"] == 2 and "skipped" in part.about["referee"]
    assert part.about["duplicates"]["exact"] == n - 1


def test_bad_records_are_listed(tmp_path):
    rows = make_corpus(60, test_share=0).to_dict("records")
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    lines[7], lines[20] = "{broken", json.dumps(rows[20] | {"output": 3}, ensure_ascii=False)
    file = put(tmp_path / "bad.jsonl", "\n".join(lines))
    with pytest.raises(DataError, match=r"bad\.jsonl:8"):
        select_file(file, tmp_path / "out", keep=10, referee=False)
    part = select_file(file, tmp_path / "out", keep=58, on_bad="skip", referee=False)
    kept = part.file.read_text(encoding="utf-8").splitlines()
    assert kept == [line for number, line in enumerate(lines) if number not in (7, 20)]
    left = [json.loads(line) for line in (part.folder / "left_out.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [row["place"].rpartition(":")[2] for row in left] == ["8", "21"] and part.about["counts"]["bad"] == 2
    assert part.reasons()["place"].tolist()[6:9] == ["bad.jsonl:7", "bad.jsonl:9", "bad.jsonl:10"]


@pytest.mark.parametrize(
    ("keep", "message"),
    [("0", "nothing to keep"), (0, "nothing to keep"), ("0%", "no share"), ("150%", "no share"), (1.5, "no share"),
     ("-5", "neither a share"), ("many", "neither a share"), (True, "no share"), ("0.01%", "are none"),
     (321, "321 records are to be kept, but 320 can be chosen")],
)  # fmt: skip
def test_what_cannot_be_kept_is_refused(corpus, tmp_path, keep, message):
    with pytest.raises(ParameterError, match=message):
        select_file(corpus, tmp_path / "out", keep=keep)
    assert not (tmp_path / "out").exists()


def test_shares_and_numbers():
    assert [number_to_keep(keep, 320) for keep in ("10%", "12.5 %", 0.1, 1.0, "1,0", 7)] == [32, 40, 32, 320, 10, 7]


@pytest.mark.parametrize(
    ("options", "message"),
    [({"format": "yaml"}, "unknown format 'yaml'.*messages"), ({"similarity": 0}, "similarity"), ({"seed": -1}, "seed"),
     ({"license": "see below"}, "licence"), ({"on_bad": "maybe"}, "maybe"), 
     ({"encoder": "./none"}, "no encoder folder")],
)  # fmt: skip
def test_wrong_options_are_refused(corpus, tmp_path, options, message):
    with pytest.raises(ParameterError, match=message):
        select_file(corpus, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_a_folder_that_holds_other_things_is_refused(corpus, chosen, tmp_path):
    put(tmp_path / "full" / "thesis.tex", "years of work")
    with pytest.raises(ParameterError, match=r"holds other things: thesis\.tex"):
        select_file(corpus, tmp_path / "full")
    with pytest.raises(ParameterError, match="there is a file of this name"):
        select_file(corpus, tmp_path / "full" / "thesis.tex")
    copy = shutil.copytree(chosen.folder, tmp_path / "copy")
    put(copy / "notes.txt", "mine")
    with pytest.raises(ParameterError, match=r"other things: notes\.txt"):
        select_file(corpus, copy)
    (copy / "notes.txt").unlink()
    with pytest.raises(ParameterError, match=r"selected\.jsonl lies in the folder"):
        select_file(copy / "selected.jsonl", copy)
    with pytest.raises(ParameterError, match="lies in the folder"):
        select_file(corpus, copy, target=copy / "selected.jsonl")
    put(tmp_path / "fake" / "selection.json", '{"format": "other", "files": {"thesis.tex": ""}}')
    with pytest.raises(ParameterError, match=r"holds other things: selection\.json"):
        select_file(corpus, tmp_path / "fake")
    assert (tmp_path / "full" / "thesis.tex").read_text() == "years of work"


def test_a_failure_leaves_the_old_selection(corpus, chosen, tmp_path, monkeypatch):
    copy = shutil.copytree(chosen.folder, tmp_path / "copy")
    before = bytes_of(copy)
    monkeypatch.setattr("assl_kit.runner.selecting.select.selection_card", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        select_file(corpus, copy, keep=5, referee=False)
    assert bytes_of(copy) == before and [file.name for file in tmp_path.iterdir()] == ["copy"]


def test_a_plan_writes_nothing(corpus, tmp_path):
    plan = plan_selection(corpus, tmp_path / "out", Settings(keep=20))
    about = plan.about()
    assert about["keep"] == 20 and about["train"] == 320 and about["groups"] == "task" and about["n_groups"] == 7
    assert about["minutes"] > 0 and list(tmp_path.iterdir()) == []


def test_a_source_without_training_records_is_refused(tmp_path):
    rows = [{"instruction": f"问{n}", "output": "答", "split": "test"} for n in range(5)]
    with pytest.raises(DataError, match="0 of 5 records may be learnt from"):
        select_file(put_lines(tmp_path / "test.jsonl", rows), tmp_path / "out")
    with pytest.raises(DataError, match="no such file"):
        select_file(tmp_path / "none.jsonl", tmp_path / "out")


def test_packed_lines_come_out_unpacked(corpus, chosen, tmp_path):
    packed = tmp_path / "mine.jsonl.gz"
    packed.write_bytes(gzip.compress(corpus.read_bytes()))
    part = select_file(packed, tmp_path / "out", referee=False)
    assert part.file.name == "selected.jsonl" and part.file.read_bytes() == chosen.file.read_bytes()


def test_a_folder_is_opened_again(chosen, tmp_path):
    assert SelectedFile.from_folder(chosen.folder).about == chosen.about
    with pytest.raises(WorkspaceError, match="no folder of a selection"):
        SelectedFile.from_folder(tmp_path)
    copy = shutil.copytree(chosen.folder, tmp_path / "copy")
    (copy / "reasons.parquet").unlink()
    with pytest.raises(WorkspaceError, match=r"reasons\.parquet is missing"):
        SelectedFile.from_folder(copy)


def test_markup_in_names_is_no_markup_of_the_card(tmp_path):
    rows = [
        {"instruction": "问", "input": str(n), "output": "答", "task": f"[x](http://a)|<b>{n % 2}\n# h"}
        for n in range(20)
    ]
    part = select_file(put_lines(tmp_path / "odd.jsonl", rows), tmp_path / "out", keep=4, referee=False)
    text = (part.folder / "README.md").read_text(encoding="utf-8")
    assert r"\[x\](http://a)\|\<b\>0 \# h" in text and "\n# h" not in text


def test_real_records(shared_data, tmp_path):
    part = select_file(shared_data / "mini.jsonl.gz", tmp_path / "out", keep="10%", referee=False)
    with gzip.open(shared_data / "mini.jsonl.gz") as handle:
        lines = handle.read().splitlines(keepends=True)
    kept = part.file.read_bytes().splitlines(keepends=True)
    train = [line for line in lines if json.loads(line)["split"] != "test"]
    assert len(kept) == round(len(train) / 10) and set(kept) <= set(train)
    assert np.isfinite(part.reasons().query("reason == 'left out'")["similarity"]).all()
