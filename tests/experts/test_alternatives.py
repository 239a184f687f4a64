"""Other routers and mixtures on the same adapters: by hand, and nothing left behind."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers.banks import make_bank
from helpers.models import make_test_base
from safetensors.numpy import load_file, save_file
from test_merging import NAMES, adapted_base, same, state

from assl_kit.data.records import validate_records
from assl_kit.errors import BankError, DataError, ParameterError
from assl_kit.experts.alternatives.adapter_groups import adapter_cosines, adapter_groups
from assl_kit.experts.alternatives.composition import MOST, composed_weights, evolve
from assl_kit.experts.alternatives.few_shot import with_examples
from assl_kit.experts.alternatives.learned_router import LEARNERS, LearnedRouter
from assl_kit.experts.merging import merged
from assl_kit.experts.router import CentroidRouter
from assl_kit.model.likelihood import answer_nll


@pytest.fixture(scope="module")
def base_folder(tmp_path_factory):
    return make_test_base(tmp_path_factory.mktemp("base"))


# learned routers -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("learner", LEARNERS)
def test_a_classifier_chooses_and_the_centroids_abstain(learner):
    """The labels say the opposite of the centroids, so it is seen who chose."""
    rng = np.random.default_rng(0)
    X = np.vstack([[1, 0, 0] + 0.1 * rng.normal(size=(20, 3)), [0, 1, 0] + 0.1 * rng.normal(size=(20, 3))])
    labels = np.repeat([1, 0], 20)
    router = LearnedRouter([[1, 0, 0], [0, 1, 0]], X, labels, learner=learner, min_similarity=0.3)
    routes = router.route([[5, 0.2, 0], [0, 2, 0.1], [0, 0, 1]])
    assert routes.experts.tolist() == [1, 0, -1]
    plain = CentroidRouter([[1, 0, 0], [0, 1, 0]], min_similarity=0.3).route([[5, 0.2, 0], [0, 2, 0.1], [0, 0, 1]])
    assert plain.experts.tolist() == [0, 1, -1] and np.array_equal(routes.similarities, plain.similarities)
    assert router.route([[5, 0.2, 0]], known=[0.1]).experts.tolist() == [-1]
    assert router.route(np.zeros((0, 3))).experts.shape == (0,)
    alone = LearnedRouter([[1, 0, 0], [0, 1, 0]], X[:3], [1, 1, 1], learner=learner)
    assert alone.route(X).experts.tolist() == [1] * 40


def test_near_neighbours_weigh_more():
    """Two far votes lose to one near one; without weights they would win."""
    X = [[1, 0.05], [0.15, 1], [0.15, 1]]
    router = LearnedRouter([[1, 0], [0, 1]], X, [0, 1, 1], n_neighbors=3)
    assert router.route([[1, 0.1]]).experts.tolist() == [0]


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"learner": "forest"}, ParameterError, "unknown learner 'forest'"),
        ({"n_neighbors": 0}, ParameterError, "n_neighbors"),
        ({"experts": [0]}, DataError, "2 whole numbers"),
        ({"experts": [0.0, 1.0]}, DataError, "2 whole numbers"),
        ({"experts": [0, 2]}, DataError, "experts are 0 to 1"),
        ({"experts": [-1, 0]}, DataError, "experts are 0 to 1"),
        ({"X": [[1, 0, 0], [0, 1, 0]]}, DataError, "X has 3 dimensions, the centroids 2"),
        ({"X": np.zeros((0, 2)), "experts": []}, DataError, "0 whole numbers"),
    ],
)
def test_wrong_examples_of_a_learned_router(changes, error, message):
    with pytest.raises(error, match=message):
        LearnedRouter(**{"centroids": [[1, 0], [0, 1]], "X": [[1, 0], [0, 1]], "experts": [0, 1]} | changes)


# LoraHub-like --------------------------------------------------------------------------------------------------------
def test_evolution_never_ends_worse_than_it_began_and_stays_within_bounds():
    for seed in range(5):
        best = evolve(lambda w: float(np.abs(w - 3).sum()), np.zeros(4), n_trials=60, seed=seed)
        assert (np.abs(best) <= MOST).all() and np.abs(best - 3).sum() < 12
    asked = []
    start = np.array([0.2, 9.0])
    assert evolve(lambda w: float(len(asked) or asked.append(w) or 0), start, n_trials=5).tolist() == [0.2, MOST]


def test_composed_weights_lower_the_loss_and_leave_the_model_alone(base_folder):
    model, tokenizer = adapted_base(base_folder)
    before = state(model)
    questions, answers = ["情绪如何？股价上涨。", "写一个标题。"], ["积极", "央行降准"]
    weights = composed_weights(model, tokenizer, NAMES, questions, answers, n_trials=12, penalty=0.01)

    def loss(values):
        with merged(model, NAMES, list(values)):
            nll = answer_nll(model, tokenizer, questions, answers)
        return nll.mean() + 0.01 * np.abs(values).mean()

    assert loss(weights) < loss(np.full(3, 1 / 3)) and (np.abs(weights) <= MOST).all()
    again = composed_weights(model, tokenizer, NAMES, questions, answers, n_trials=12, penalty=0.01)
    assert np.array_equal(weights, again) and same(model, before) and list(model.peft_config) == NAMES
    for bad in (([], []), (questions, answers[:1])):
        with pytest.raises(DataError, match="give as many, at least one"):
            composed_weights(model, tokenizer, NAMES, *bad)
    with pytest.raises(ParameterError, match="penalty"):
        composed_weights(model, tokenizer, NAMES, questions, answers, penalty=-1)


# groups of adapters --------------------------------------------------------------------------------------------------
def test_cosines_are_those_of_the_whole_changes(tmp_path, base_folder):
    bank = make_bank(tmp_path, base_folder)
    cosines = adapter_cosines(bank.expert_paths)
    deltas = []
    for path in bank.expert_paths:
        tensors = {name: torch.tensor(t) for name, t in load_file(path / "adapter_model.safetensors").items()}
        layers = sorted(name for name in tensors if "lora_A" in name)
        whole = [(tensors[name.replace("lora_A", "lora_B")] @ tensors[name]).flatten() for name in layers]
        deltas.append(torch.cat(whole).double())
    for i in range(3):
        for j in range(3):
            expected = torch.nn.functional.cosine_similarity(deltas[i], deltas[j], dim=0).item()
            assert cosines[i, j] == pytest.approx(expected, abs=1e-6)
    assert np.allclose(np.diag(cosines), 1)


def test_adapters_that_cannot_be_compared(tmp_path, base_folder):
    paths = make_bank(tmp_path, base_folder).expert_paths
    file = paths[0] / "adapter_model.safetensors"
    tensors = load_file(file)
    save_file({name: 0 * tensor for name, tensor in tensors.items()}, file)
    with pytest.raises(BankError, match="changes nothing"):
        adapter_cosines(paths)
    save_file({name: tensor for name, tensor in tensors.items() if "q_proj" in name}, file)
    with pytest.raises(BankError, match="different layers"):
        adapter_cosines(paths)


def test_groups_by_hand():
    cosines = np.eye(4)
    for i, j, value in ((0, 2, 0.9), (1, 3, 0.7), (0, 1, 0.2), (2, 3, 0.1)):
        cosines[i, j] = cosines[j, i] = value
    assert adapter_groups(cosines, 2).tolist() == [0, 1, 0, 1]
    assert adapter_groups(cosines, 3).tolist() == [0, 1, 0, 2]
    assert adapter_groups(cosines, 4).tolist() == [0, 1, 2, 3] and adapter_groups(np.eye(1), 1).tolist() == [0]
    with pytest.raises(ParameterError, match="n_groups"):
        adapter_groups(cosines, 5)
    with pytest.raises(DataError, match="not square"):
        adapter_groups(cosines[:2], 2)


# few-shot ------------------------------------------------------------------------------------------------------------
def test_examples_stand_before_the_question_and_behind_the_system_message():
    rows = [
        {"instruction": "情绪？", "input": "涨了", "output": "积极", "task": "s"},
        {"instruction": "情绪？", "input": "跌了", "output": "消极", "task": "s", "system": "简答。"},
        {"instruction": "标题？", "input": "降准", "output": "央行降准", "task": "t"},
        {"instruction": "情绪？", "input": "平了", "output": "中性", "task": "s", "system": "你是分析师。"},
    ]
    records = validate_records(rows)
    asked = with_examples(records[3:], records[:3], n=5)[0]
    assert [turn["role"] for turn in asked] == ["system", *["user", "assistant"] * 2, "user"]
    assert asked[0]["content"] == "你是分析师。" and asked[-1]["content"] == "情绪？\n平了"
    assert {asked[2]["content"], asked[4]["content"]} == {"积极", "消极"}
    alone, none = with_examples(records[2:3], records[:2]), with_examples(records[:1], records[1:], n=0)
    assert alone == ["标题？\n降准"] and none == ["情绪？\n涨了"]
    twice = with_examples(records[[True, False, True, True]], records, n=1, seed=3)
    assert twice[0][:2] == twice[2][1:3]  # one draw for each task
