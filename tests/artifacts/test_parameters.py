"""Parameters and profiles: typed, in range, nothing unknown, one clear message."""

from __future__ import annotations

import pytest
import yaml

from assl_kit.artifacts.build_experts import training_config
from assl_kit.artifacts.parameters import (
    NAMES,
    Parameters,
    check_names,
    describe,
    load_profile,
    parse_assignment,
    profile_names,
    read_parameter_file,
    read_parameters,
    resolve,
)
from assl_kit.errors import ParameterError


def test_the_tiny_profile_is_complete_and_equals_the_defaults():
    assert load_profile("tiny") == Parameters().model_dump()


@pytest.mark.parametrize("profile", profile_names())
def test_every_profile_is_valid(profile):
    parameters = resolve(profile)
    assert set(load_profile(profile)) <= set(NAMES)
    for name, value in load_profile(profile).items():
        assert getattr(parameters, name) == value


def test_the_profiles_of_the_design_are_there():
    assert profile_names() == ["cpu-llm", "paper", "t4", "tiny"]
    paper = resolve("paper")
    assert (paper.n_records, paper.n_clusters, paper.lora_rank, paper.lora_alpha) == (220_000, 6, 16, 32)
    assert paper.base_model == "Qwen/Qwen1.5-7B-Chat"


def test_every_parameter_is_described():
    assert [row["name"] for row in describe()] == list(NAMES)
    assert all(row["description"] for row in describe())


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"n_select": "abc"}, "n_select must be a whole number, got 'abc'"),
        ({"n_select": "12"}, "n_select must be a whole number, got '12'"),
        ({"seed": 1.5}, "seed must be a whole number, got 1.5"),
        ({"seed": True}, "seed must be a whole number, got True"),
        ({"epochs": None}, "epochs must be a whole number, got None"),
        ({"learning_rate": "fast"}, "learning_rate must be a number, got 'fast'"),
        ({"learning_rate": float("nan")}, "learning_rate must be a number, got nan"),
        ({"data": 3}, "data must be text, got 3"),
        ({"data": ""}, "data must be some text"),
        ({"n_clusters": 0}, "n_clusters must be at least 1, got 0"),
        ({"flattening": 1.5}, "flattening must be at most 1, got 1.5"),
        ({"select_share": 0}, "select_share must be more than 0, got 0"),
        ({"test_share": 1.0}, "test_share must be less than 1, got 1.0"),
        ({"noise": "dorp"}, "noise must be 'thin', 'drop' or 'keep', got 'dorp'"),
        ({"score": "perplexity"}, "score must be none, nll, ifd, rouge_gap or column:NAME"),
        ({"mmr_score": 0.3}, "must be 1, they are 1.3"),
        ({"mmr_score": 0.5, "mmr_diversity": 0.0, "pool_factor": 3.0}, "mmr_score is above 0, but there is no score"),
        ({"mmr_score": 0.5, "mmr_diversity": 0.0, "score": "nll"}, "pool_factor must be at least 1.5, it is 1"),
        ({"referee_draws": 1}, "referee_draws must be 0 or at least 2"),
        ({"n_records": 50}, "n_records must be at least 200"),
        ({"n_cluster": 4}, "unknown parameter 'n_cluster'. Did you mean 'n_clusters'"),
        ({"zzz": 4}, "unknown parameter 'zzz'. The parameters are data,"),
    ],
)
def test_a_wrong_value_is_refused_with_one_clear_message(overrides, message):
    with pytest.raises(ParameterError) as caught:
        resolve("tiny", **overrides)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value) and "pydantic" not in str(caught.value)


def test_several_wrong_values_are_all_named():
    with pytest.raises(ParameterError, match="n_select .*; epochs "):
        resolve("tiny", n_select="abc", epochs=0)


def test_an_unknown_profile_suggests_the_nearest():
    with pytest.raises(ParameterError, match="unknown profile 'tinny'. Did you mean 'tiny'"):
        resolve("tinny")
    with pytest.raises(ParameterError, match="unknown profile '../tiny'"):
        load_profile("../tiny")


def test_whole_numbers_are_numbers_and_sizes_may_be_zero_where_that_means_all():
    assert resolve("tiny", learning_rate=1).learning_rate == 1.0
    assert resolve("tiny", data="mine.jsonl", n_records=0).n_records == 0
    assert resolve("tiny", mmr_score=0.5, mmr_diversity=0.0, score="nll", pool_factor=1.5).pool_factor == 1.5


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("n_select", "12", 12),
        ("n_select", "1.0", 1.0),
        ("n_select", "abc", "abc"),
        ("learning_rate", "2e-3", 0.002),
        ("data", "12", "12"),
        ("noise", "drop", "drop"),
        ("own", "true", True),
        ("own", "text: more", "text: more"),
    ],
)
def test_assignments_of_the_command_line_take_the_parameters_type(name, text, value):
    found = parse_assignment(name, text)
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed: 1\nn_select: 2\nseed: 3", r"the name 'seed' stands there twice, first in line 1 \(f, line 3\)"),
        ("a: {b: 1, 'b': 2}", r"the name 'b' stands there twice"),
        ("a: &a {b: 1}\nc: {<<: *a}", r"a mapping is merged into another \(f, line 2\)"),
        ("a: &a [*a]", "'a' holds itself"),
        ("[" * 5000, "nested too deeply"),
        ("- " * 5000, "nested too deeply"),
        ("seed: " + "9" * 5000, "a value cannot be read"),
        ("seed: 2024-13-45", "a value cannot be read: month"),
        ("seed: !!int x", "a value cannot be read"),
        ("#" * 300_000, "more than 262,144 characters"),
        ("seed: \x00", "special characters"),
    ],
)
def test_hostile_yaml_is_one_clear_error(text, message):
    with pytest.raises(ParameterError, match=message):
        read_parameters(text, where="f")


def test_a_parameter_file_of_gigabytes_is_not_read(tmp_path):
    with open(tmp_path / "a.yaml", "wb") as file:
        file.truncate(3 << 30)
    with pytest.raises(ParameterError, match="3,221,225,472 bytes"):
        read_parameter_file(tmp_path / "a.yaml")


def test_unknown_names_by_the_thousand_are_told_shortly():
    with pytest.raises(ParameterError, match="and 29,990 more") as caught:
        check_names([f"n_clusterz{number}" for number in range(30_000)])
    assert len(str(caught.value)) < 3_000


def test_a_parameter_file_is_plain_yaml():
    assert read_parameters("seed: 3\nlearning_rate: 1e-4\n", where="f") == {"seed": 3, "learning_rate": 1e-4}
    assert read_parameters("", where="f") == {}
    with pytest.raises(ParameterError, match=r"not valid YAML: mapping values .* \(mine.yaml, line 2\)"):
        read_parameters("seed: 3\n  x: [", where="mine.yaml")
    with pytest.raises(ParameterError, match="lines of 'name: value'"):
        read_parameters("- seed", where="mine.yaml")


def test_a_parameter_file_builds_no_objects():
    with pytest.raises(ParameterError, match="not valid YAML"):
        read_parameters("seed: !!python/object/apply:os.getcwd []", where="mine.yaml")
    assert yaml.safe_load("1") == 1


def test_unknown_names_are_checked_against_any_list():
    check_names(["a"], ["a", "b"])
    with pytest.raises(ParameterError, match="unknown parameters 'seeed', 'epoch'. Did you mean 'seed'.*'epochs'"):
        check_names(["seeed", "epoch"])


def test_a_step_may_be_left_to_the_card():
    assert parse_assignment("train_batch_size", "auto") == "auto" and parse_assignment("train_batch_size", "4") == 4
    config = training_config(resolve(train_batch_size="auto", gradient_accumulation=3))
    assert (config.batch_size, config.rows) == ("auto", 8)
    for bad in ("many", 0, 2.5, 5000):
        with pytest.raises(ParameterError, match="^train_batch_size must be a whole number from 1 to 4096, or 'auto'"):
            resolve(train_batch_size=bad)


def test_min_similarity_is_chosen_from_the_records_or_a_number():
    assert resolve().min_similarity == "auto" and resolve().floor is None
    number = resolve(min_similarity=parse_assignment("min_similarity", "0.25"))
    assert number.min_similarity == number.floor == 0.25
    assert resolve(min_similarity=parse_assignment("min_similarity", "-1")).floor == -1
    assert parse_assignment("min_similarity", "auto") == "auto"
    for bad in ("often", 2, -1.5, True):
        with pytest.raises(ParameterError, match="^min_similarity must be a number from -1 to 1, or 'auto', got"):
            resolve(min_similarity=bad)
