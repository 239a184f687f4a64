"""steps.py and the builders: what is built, what is kept, and the whole chain on a random little model."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from functools import wraps
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from helpers.models import make_test_base

from assl_kit.artifacts import steps
from assl_kit.artifacts.build_data import evaluation_records, n_select_of
from assl_kit.artifacts.build_experts import open_silversight, training_config
from assl_kit.artifacts.build_selection import redistributor
from assl_kit.artifacts.parameters import resolve
from assl_kit.artifacts.steps import STEPS, read, require
from assl_kit.artifacts.workspace import Workspace
from assl_kit.data.records import prompts
from assl_kit.data.splits import sample_by_task, training_pool
from assl_kit.data.synthetic import make_corpus
from assl_kit.errors import DataError, ParameterError, WorkspaceError
from assl_kit.selection.redistribute import Redistributor
from assl_kit.space.embeddings import rows_of

SMALL = {"n_records": 240, "encoder_dim": 16, "min_samples": 4, "test_share": 0.2, "n_clusters": 3}


class Watched:
    """Parameters that remember which of them were read."""

    PARTS = {"lengths": ("max_length", "max_new_tokens"), "floor": ("min_similarity",)}

    def __init__(self, parameters, names):
        self._parameters, self._names = parameters, names

    def __getattr__(self, name):
        self._names.update(self.PARTS.get(name, (name,)))
        return getattr(self._parameters, name)


def watched(step, names):
    """A step whose builder remembers in ``names`` what it read."""

    @wraps(step.build)
    def build(ws, parents, parameters, path):
        step.build(ws, parents, Watched(parameters, names), path)

    return replace(step, build=build)


READ = {name: set() for name in STEPS}


@pytest.fixture(scope="module")
def chain(tmp_path_factory):
    """A finished chain: workspace and parameters. What its builders read of these is in `READ`."""
    folder = tmp_path_factory.mktemp("chain")
    base = make_test_base(folder / "base")
    parameters = resolve(
        "tiny",
        **SMALL,
        base_model=str(base),
        epochs=1,
        warmup_records=8,
        affinity_records=4,
        regret_per_task=2,
        n_test=3,
        max_new_tokens=4,
        select_share=0.15,
    )
    ws = Workspace.open(folder / "ws")
    with pytest.MonkeyPatch.context() as patch:
        for name, step in list(STEPS.items()):
            patch.setitem(STEPS, name, watched(step, READ[name]))
        require(ws, "metrics", parameters)
    return ws, parameters


#: What a builder reads though its key does not count it.
READ_BESIDES = {
    "records": {"n_clusters", "n_select", "select_share", "selection", "groups"},  # refuses what is too few for these
    "pool": {"mmr_relevance", "mmr_score", "mmr_diversity", "mmr_scale"},  # of the second stage
    "selection": {"n_clusters"},  # refuses fewer places than clusters
    "experts": {"tensorboard"},  # writes logs
    "answers": {"encoder"},  # its fingerprint is in the parent's file
    "comparison": {"n_clusters", "n_select", "select_share"},  # as many as the parent, the selection, has
}


def test_a_key_counts_what_its_builder_reads_and_nothing_else(chain):
    for name, step in STEPS.items():
        if name not in ("affinity", "curves", "scores", "referee"):  # not wanted here, or not asked for
            assert READ[name] - set(step.parameters) == READ_BESIDES.get(name, set()), name
            assert set(step.parameters) <= READ[name], name


def test_every_parent_and_parameter_exists(chain):
    known = set(resolve("tiny").model_dump())
    for step in STEPS.values():
        assert set(step.parents) <= set(STEPS)
        assert set(step.parameters) <= known


def test_the_chain_writes_every_artifact_it_needs(chain):
    ws, _ = chain
    made = ws.manifest()["artifacts"]
    expected = {step.file for name, step in STEPS.items() if name not in ("affinity", "referee")}
    assert set(made) == expected
    assert made["selection.parquet"]["parents"] == [STEPS[p].file for p in STEPS["selection"].parents]
    assert made["selection.parquet"]["parameters"]["mmr_relevance"] == 0.5


def test_nothing_is_built_twice(chain, monkeypatch):
    ws, parameters = chain
    monkeypatch.setattr(ws, "writing", lambda name: pytest.fail(f"built {name} again"))
    require(ws, "metrics", parameters)


def test_a_changed_parameter_rebuilds_what_depends_on_it_and_nothing_else(tmp_path):
    ws, first = Workspace.open(tmp_path), resolve("tiny", **SMALL)
    require(ws, "pool", first)
    before = ws.manifest()["artifacts"]
    require(ws, "pool", resolve("tiny", **(SMALL | {"flattening": 0.25})))
    after = ws.manifest()["artifacts"]
    changed = {name for name in before if before[name]["key"] != after[name]["key"]}
    assert changed == {"pool.parquet"}


def test_a_damaged_artifact_is_built_again(tmp_path):
    ws, parameters = Workspace.open(tmp_path), resolve("tiny", **SMALL)
    good = require(ws, "clusters", parameters)
    ws.path_of("clusters.parquet").write_bytes(b"damaged")
    pd.testing.assert_frame_equal(require(ws, "clusters", parameters), good)


def test_whoever_builds_for_another_notebook_says_so(tmp_path, capsys):
    ws, parameters = Workspace.open(tmp_path), resolve("tiny", **SMALL)
    require(ws, "embeddings", parameters, notebook="02")
    said = capsys.readouterr().out
    assert "records.parquet" in said and "notebook 01" in said
    assert "embeddings.safetensors" not in said
    require(ws, "embeddings", parameters, notebook="02")
    assert capsys.readouterr().out == ""


def test_selection_has_exactly_the_wanted_size_and_explains_itself(chain):
    ws, parameters = chain
    records, selection = require(ws, "records", parameters), require(ws, "selection", parameters)
    train = training_pool(records)
    assert selection["copies"].sum() == n_select_of(parameters, len(train))
    assert set(selection["id"]) <= set(train["id"])
    columns = ["cluster", "core_distance", "weight", "relevance", "score", "max_similarity", "rank", "copies"]
    assert selection[columns].notna().all().all()
    cells = train.merge(read(ws, "clusters"), on="id").groupby(["task", "cluster"]).size()
    stands_for = require(ws, "pool", parameters).groupby(["group", "cluster"])["weight"].sum()
    assert len(stands_for) > 5 and stands_for.tolist() == cells[stands_for.index].tolist()


def test_metrics_cover_every_arm_and_task(chain):
    ws, parameters = chain
    metrics, records = require(ws, "metrics", parameters), require(ws, "records", parameters)
    table = pd.DataFrame(metrics["table"])
    tasks = set(records.loc[records["split"] == "test", "task"]) | {"mean"}
    assert len(table["arm"].unique()) == 6
    assert all(set(rows["task"]) == tasks for _, rows in table.groupby("arm"))
    assert table["value"].between(0, 1).all()
    assert len(metrics["differences"]) == 5
    assert len(metrics["regret"]) == len(tasks)
    assert sum(row["available"] for row in metrics["kept"]["by_source"]) == metrics["corpus"]["train"]
    assert sum(row["copies"] for row in metrics["kept"]["by_task"]) == metrics["corpus"]["chosen"]
    selection = require(ws, "selection", parameters).merge(records, on="id")
    kept = {row["source"]: row["kept"] for row in metrics["kept"]["by_source"] if row["kept"]}
    assert kept == selection["source"].value_counts().to_dict()


def test_routed_answers_read_as_much_of_a_prompt_as_those_they_are_compared_with(chain, tmp_path):
    ws, parameters = chain
    silversight = open_silversight(ws, parameters)
    test = evaluation_records(read(ws, "records"), parameters)
    STEPS["answers"].build(
        ws,
        steps.parents_of(ws, "answers"),
        parameters.model_copy(update={"max_length": 12}),
        tmp_path / "answers.parquet",
    )
    found = pd.read_parquet(tmp_path / "answers.parquet")["answer"].tolist()
    cut, whole = (
        [answer.text for answer in silversight.generate(prompts(test), max_length=length, max_new_tokens=4)]
        for length in (12, parameters.max_length)
    )
    assert found == cut != whole
    assert "max_length" in STEPS["answers"].parameters


def test_the_same_run_twice_gives_the_same_artifacts(chain, tmp_path):
    ws, parameters = chain
    again = Workspace.open(tmp_path)
    require(again, "answers", parameters)
    first, second = ws.manifest()["artifacts"], again.manifest()["artifacts"]
    for name in second:
        assert first[name]["sha256"] == second[name]["sha256"], name


def test_rows_are_joined_by_id_not_by_position():
    space = {"ids": ["a", "b", "c"], "embeddings": np.eye(3, dtype=np.float32)}
    assert rows_of(space, ["c", "a"]).tolist() == [[0, 0, 1], [1, 0, 0]]
    with pytest.raises(DataError, match="'d'"):
        rows_of(space, ["a", "d"])


def test_sample_by_task_is_seeded_and_bounded():
    records = pd.DataFrame({"id": [str(i) for i in range(50)], "task": ["qa"] * 40 + ["nl"] * 10})
    drawn = sample_by_task(records, 12, 0)
    assert drawn["task"].value_counts().to_dict() == {"qa": 12, "nl": 10}
    assert drawn["id"].tolist() == sample_by_task(records, 12, 0)["id"].tolist()


def test_too_few_or_too_many_to_choose():
    with pytest.raises(ParameterError, match="cannot choose 2 of 20"):
        n_select_of(resolve("tiny", n_select=2), 20)
    with pytest.raises(ParameterError, match="cannot choose 40 of 20"):
        n_select_of(resolve("tiny", n_select=40), 20)
    assert [n_select_of(resolve("tiny", n_select=n), 20) for n in (6, 20)] == [6, 20]  # one a cluster, and all


# what builders hand on ------------------------------------------------------------------------------------------------
def test_a_training_is_told_the_parameters():
    p = resolve("tiny", train_batch_size=12, gradient_accumulation=4, lora_rank=4, lora_alpha=24, epochs=5, seed=7)
    config = training_config(p, epochs=2)
    assert (config.batch_size, config.gradient_accumulation) == (3, 4), "twelve records a step"
    assert (config.rank, config.alpha, config.epochs, config.seed) == (4, 24, 2, 7)
    same = ("learning_rate", "packing", "holdout_share", "patience", "max_length")
    assert all(getattr(config, name) == getattr(p, name) for name in same)


def test_a_selection_is_told_the_parameters():
    """What a run chooses by default is what the class does, but for a record in every cluster."""
    by_default = redistributor(resolve("tiny")).get_params()
    assert by_default == Redistributor(every_cluster=True).get_params()
    changes = {"mmr_relevance": 0.6, "mmr_score": 0.3, "mmr_diversity": 0.1, "score": "nll", "pool_factor": 2.0}
    changes |= {"budget": "curve", "budget_power": 0.4, "objective": "records", "max_repeat": 3, "repeat_share": 0.2}
    changes |= {"flattening": 0.3, "link_flattening": 0.9, "min_samples": 5, "noise": "drop", "mmr_scale": "raw"}
    changes |= {"cell_rows": 500}
    found = redistributor(resolve("tiny", **changes)).get_params()
    assert found["weights"] == (0.6, 0.3, 0.1) and found["scale"] == "raw"
    assert all(found[name] == value for name, value in changes.items() if name in found)


class Given(dict):
    """Parents that were not built."""


TASKS = ["t1", "t1", "t2", "t2", "t3", "t3", "t4", "t4"]
LABELLED = pd.DataFrame({"id": list("abcdefgh"), "input": list("甲乙丙丁戊己庚辛"), "task": TASKS})
LABELLED = LABELLED.assign(instruction="判断", output="是", source="s", split="train")


def test_a_curve_that_was_not_measured_rises_as_the_middle_one(tmp_path, monkeypatch):
    def learning_curves(records, by, seed):
        assert (by, seed) == ("group", 5)
        curves = [{"group": f"t{k}", "a": k / 10, "b": b, "c": 0.5} for k, b in ((1, 1.0), (2, 2.0), (3, 9.0))]
        return [SimpleNamespace(as_dict=lambda curve=curve: curve) for curve in curves]

    monkeypatch.setattr("assl_kit.evaluation.referee.learning_curves", learning_curves)
    p = resolve("tiny", budget="curve", groups="task", seed=5)
    STEPS["curves"].build(None, Given(records=LABELLED), p, tmp_path / "c.json")
    curves = {row["group"]: row for row in json.loads((tmp_path / "c.json").read_text(encoding="utf-8"))["curves"]}
    assert curves["t4"] == {"group": "t4", "a": 0.2, "b": 2.0, "c": 0.5, "measured": False}
    assert curves["t3"]["b"] == 9.0 and curves["t3"]["measured"]


def test_the_referee_is_told_copies_draws_and_seed(tmp_path, monkeypatch):
    told = {}

    def referee(records, selections, **options):
        told.update(options, ids=selections["chosen"], groups=records["group"].tolist())
        return SimpleNamespace(as_dict=lambda: {})

    monkeypatch.setattr("assl_kit.evaluation.referee.referee", referee)
    selection = pd.DataFrame({"id": ["c", "a"], "copies": [2, 1]})
    p = resolve("tiny", referee_draws=3, seed=8, groups="task")
    STEPS["referee"].build(None, Given(records=LABELLED, selection=selection), p, tmp_path / "r.json")
    assert told.pop("groups") == TASKS
    assert told == {"ids": ["c", "c", "a"], "by": "group", "n_draws": 3, "curves": True, "seed": 8}


def test_the_hardest_of_those_alike_are_left_out(tmp_path):
    records = LABELLED.assign(hard=[1.0, 2, 3, 4, 5, 6, 7, 8])
    pool = records[["id"]].assign(cluster=0, group=["x"] * 4 + ["y"] * 4)
    p = resolve("tiny", score="column:hard", score_tail=0.25, mmr_score=0.5, mmr_diversity=0.0, pool_factor=2.0)
    STEPS["scores"].build(None, Given(pool=pool, records=records), p, tmp_path / "s.parquet")
    scores = pd.read_parquet(tmp_path / "s.parquet")
    assert scores["score"].isna().tolist() == [False, False, False, True] * 2
    assert scores["score"].dropna().tolist() == [0.0, 0.5, 1.0] * 2


def test_unknown_artifact(tmp_path):
    with pytest.raises(ParameterError, match="unknown artifact"):
        require(Workspace.open(tmp_path), "vectors", resolve("tiny"))


@pytest.fixture
def edit(tmp_path, monkeypatch):
    """Edits a file of a copy of the package, which keys are computed from meanwhile."""
    copy = tmp_path / "assl_kit"
    shutil.copytree(steps._PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))

    def forget():
        steps.code_hash.cache_clear()
        steps.notebook_code_hash.cache_clear()

    def change(file):
        (copy / file).write_bytes((copy / file).read_bytes() + b"\n")
        forget()

    monkeypatch.setattr(steps, "_PACKAGE", copy)
    forget()
    yield change
    monkeypatch.undo()
    forget()


def outdated(ws, parameters):
    return {name for name, state in steps.state_of(ws, parameters).items() if state == "out of date"}


def made_again(ws, parameters, monkeypatch):
    """What asking for the metrics writes."""
    names, writing = [], ws.writing
    monkeypatch.setattr(ws, "writing", lambda name: names.append(name) or writing(name))
    require(ws, "metrics", parameters)
    return set(names)


def test_an_edit_of_the_doors_or_the_runner_makes_nothing_again(chain, edit):
    ws, parameters = chain
    assert not outdated(ws, parameters)
    edit("app/served/client.py")
    edit("runner/report.py")
    edit("teaching/plots.py")
    assert not outdated(ws, parameters)


def test_an_edit_of_the_measures_makes_what_is_measured_again_and_nothing_else(chain, edit, monkeypatch):
    ws, parameters = chain
    edit("evaluation/metrics.py")
    assert outdated(ws, parameters) == {"metrics"}
    assert made_again(ws, parameters, monkeypatch) == {"metrics.json"}
    assert not outdated(ws, parameters)


def test_learning_curves_are_measured_again_only_where_budgets_ask_for_them(chain, edit):
    ws, parameters = chain
    by_curve = parameters.model_copy(update={"budget": "curve"})
    keys = [steps._key(ws, "curves", p) for p in (parameters, by_curve)]
    edit("evaluation/referee.py")
    assert [steps._key(ws, "curves", p) == key for p, key in zip((parameters, by_curve), keys, strict=True)] == [
        True,
        False,
    ]
    edit("artifacts/build_evaluation.py")
    assert steps._key(ws, "curves", parameters) != keys[0]


def test_an_edit_of_a_grammar_or_of_the_tiny_base_counts(chain, edit):
    ws, parameters = chain
    edit("model/tiny_base/model.safetensors")
    assert "scores" in outdated(ws, parameters) and "records" not in outdated(ws, parameters)
    edit("data/grammars/sentiment.yaml")
    assert "records" in outdated(ws, parameters)


def test_notebooks_count_all_below_the_runner(edit):
    before = steps.notebook_code_hash()
    edit("runner/report.py")
    assert steps.notebook_code_hash() == before
    edit("teaching/plots.py")
    assert steps.notebook_code_hash() != before


def test_a_parameter_of_the_parent_alone_makes_the_child_again(tmp_path):
    ws, first = Workspace.open(tmp_path), resolve("tiny", **SMALL)
    require(ws, "embeddings", first)
    other = resolve("tiny", **(SMALL | {"encoder_dim": 12}))
    assert "encoder_dim" not in STEPS["embeddings"].parameters
    assert outdated(ws, other) == {"encoder", "embeddings"}
    assert require(ws, "embeddings", other)["embeddings"].shape[1] == 12


def test_the_same_path_with_other_data_makes_all_again(tmp_path):
    file = tmp_path / "mine.parquet"
    corpus = make_corpus(260, test_share=0.2)
    corpus.to_parquet(file)
    ws, parameters = Workspace.open(tmp_path / "ws"), resolve("tiny", **(SMALL | {"data": str(file), "n_records": 0}))
    require(ws, "clusters", parameters)
    assert not outdated(ws, parameters)
    corpus.head(250).to_parquet(file)
    assert outdated(ws, parameters) == {"records", "encoder", "embeddings", "clusters"}


def test_a_builder_reads_declared_parents_only(chain):
    parents = steps.parents_of(chain[0], "clusters")
    assert len(parents["records"]) == 240
    with pytest.raises(WorkspaceError, match="'clusters' reads 'pool', which is not declared"):
        parents["pool"]
    with pytest.raises(WorkspaceError, match="not declared"):
        parents.path("selection.parquet")
