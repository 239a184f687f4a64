"""SilverSight: routing, three ways of generating that agree, and what it refuses to be put together from."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pytest
import torch
from helpers.models import make_test_base

from assl_kit.data.records import prompts
from assl_kit.errors import AsslError, BankError, DataError, ParameterError
from assl_kit.experts.adapters import adapted
from assl_kit.experts.bank import Provenance
from assl_kit.experts.merging import merged
from assl_kit.experts.router import CentroidRouter
from assl_kit.experts.silversight import Answer, SilverSight
from assl_kit.experts.train_experts import Chosen, train_experts
from assl_kit.experts.training.config import TrainingConfig
from assl_kit.model.generation import generate_answers
from assl_kit.model.identity import base_info
from assl_kit.model.loading import load_base
from assl_kit.space.encoder import encode, encoder_fingerprint, load_encoder

TASKS = {
    "sentiment": ("判断这条财经新闻的情感倾向。", "公司公告上半年净利润增长{}%，股价上涨。", ("积极", "消极", "中性")),
    "qa": ("根据下面的材料回答问题。", "央行第{}次下调存款准备金率，释放资金。", ("下调", "释放资金")),
    "title": ("为下面的新闻写一个标题。", "基金经理看好第{}季度消费板块的估值修复。", ("看好消费", "估值修复")),
}


def corpus(n=24):
    rows = []
    for i in range(n):
        task = list(TASKS)[i % 3]
        instruction, text, answers = TASKS[task]
        rows.append((f"r{i}", instruction, text.format(i), answers[i // 3 % len(answers)], task, "s", "train"))
    return pd.DataFrame(rows, columns=["id", "instruction", "input", "output", "task", "source", "split"])


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """Base, encoder and the bank of three experts, all small."""
    folder = tmp_path_factory.mktemp("parts")
    base_folder = make_test_base(folder / "base")
    model, tokenizer = load_base(str(base_folder), device="cpu")
    records = corpus()
    encoder = load_encoder("fit", texts=prompts(records), dim=8, vocab_size=400)
    X = encode(encoder, prompts(records))
    selection = pd.DataFrame({"id": records["id"], "cluster": np.arange(len(records)) % 3, "copies": 1})
    encoder_info = {"id": "fit", "fingerprint": encoder_fingerprint(encoder), "dim": X.shape[1]}
    train_experts(
        model,
        tokenizer,
        Chosen(records, selection, X),
        folder / "bank",
        TrainingConfig(epochs=3, learning_rate=1e-2, batch_size=4, max_length=128),
        origin=Provenance(base_info(model, tokenizer), encoder_info, encoder_model=encoder),
    )
    return folder, base_folder, encoder, records


@pytest.fixture(scope="module")
def silversight(parts):
    folder, base_folder, _, _ = parts
    return SilverSight.from_pretrained(folder / "bank", base=str(base_folder), device="cpu")


def test_questions_go_to_the_expert_of_their_kind(parts, silversight):
    folder, _, encoder, records = parts
    routes = silversight.route(prompts(records))
    expected = CentroidRouter(silversight.bank.centroids).route(encode(encoder, prompts(records)))
    assert (routes.experts == expected.experts).all() and (routes.similarities == expected.similarities).all()
    assert (routes.experts == np.arange(len(records)) % 3).mean() > 0.9
    assert silversight.bank.encoder_path == folder / "bank" / "encoder"
    unknown = silversight.route(["hello world", prompts(records)[0]])
    assert unknown.similarity[0] == 0 < unknown.similarity[1], "words that no record has are no evidence"


def test_three_strategies_give_the_same_tokens(parts, silversight):
    """Every expert and the base alone, questions of many lengths, batches that mix them."""
    records = corpus(20)
    questions = [text * (1 + i % 3) for i, text in enumerate(prompts(records))]
    experts = [(i * 7) % 4 - 1 for i in range(len(questions))]
    told = {"experts": experts, "max_new_tokens": 12, "batch_size": 6}
    single = silversight.generate(questions, strategy="single", **told)
    assert {answer.expert for answer in single} == {-1, 0, 1, 2}
    assert silversight.generate(questions, strategy="grouped", **told) == single
    assert silversight.generate(questions, strategy="mixed", **told) == single
    assert silversight.generate(questions, **told) == single
    assert len({answer.text for answer in single}) > 3


def test_an_answer_is_that_of_its_adapter_alone(parts, silversight):
    _, base_folder, _, records = parts
    questions = prompts(records)[:6]
    alone, tokenizer = load_base(str(base_folder), device="cpu")
    options = {"max_new_tokens": 12}
    by_base = generate_answers(alone, tokenizer, questions, **options)
    answers = silversight.generate(questions, experts=[-1] * 6, **options)
    assert [answer.text for answer in answers] == by_base
    with adapted(alone, silversight.bank.expert_paths[2]) as expert:
        by_expert = generate_answers(expert, tokenizer, questions, **options)
    answers = silversight.generate(questions, experts=[2] * 6, **options)
    assert [answer.text for answer in answers] == by_expert != by_base


def test_answers_keep_order_and_tell_their_route(parts, silversight):
    questions = prompts(corpus(7))
    routes = silversight.route(questions)
    answers = silversight.generate(questions, max_new_tokens=4)
    assert [answer.question for answer in answers] == questions
    assert [answer.expert for answer in answers] == routes.experts.tolist()
    assert [answer.similarity for answer in answers] == routes.similarity.tolist()
    assert [answer.margin for answer in answers] == routes.margin.tolist()
    assert isinstance(answers[0], Answer)


def test_below_min_similarity_the_base_answers(parts, silversight):
    questions = prompts(corpus(6))
    similarity = silversight.route(questions).similarity
    floor = float(np.unique(similarity)[1])  # the digits of two questions may be all that differs
    answers = silversight.generate(questions, min_similarity=floor, max_new_tokens=4)
    below = (similarity < np.float32(floor)).tolist()
    assert [answer.expert == -1 for answer in answers] == below and any(below) and not all(below)
    told = {"min_similarity": floor, "max_new_tokens": 4}
    assert silversight.generate(questions, strategy="mixed", **told) == answers
    assert joined(silversight.stream_batch(questions, **told), 6) == [answer.text for answer in answers]
    assert any(text != "" for text in texts_of_experts(silversight, questions, below))


def texts_of_experts(silversight, questions, below):
    """What the experts would say to the questions that are left to the base, where it is something else."""
    asked = [question for question, left in zip(questions, below, strict=True) if left]
    routed, base = (
        silversight.generate(asked, max_new_tokens=4, **options)
        for options in ({"min_similarity": -1}, {"experts": [-1] * len(asked)})
    )
    return [one.text for one, other in zip(routed, base, strict=True) if one.text != other.text]


def test_base_only_answers_leave_experts_frozen_and_on(parts, silversight):
    silversight.generate(prompts(corpus(3)), experts=[-1, 0, -1], strategy="single", max_new_tokens=2)
    lora = [p for name, p in silversight.model.named_parameters() if "lora_" in name]
    assert lora and not any(p.requires_grad for p in lora) and not silversight.model.training
    assert not any(getattr(m, "disable_adapters", False) is True for m in silversight.model.modules())


def test_no_question_and_bad_questions(silversight):
    assert silversight.generate([]) == [] and len(silversight.route([])) == 0
    assert len(silversight.generate("判断情感。", max_new_tokens=2)) == 1
    with pytest.raises(DataError, match=r"questions must be strings, not NoneType .row 1"):
        silversight.generate(["好", None])
    with pytest.raises(DataError, match="empty.*question 0"):
        silversight.route(["  "])
    with pytest.raises(ParameterError, match="unknown strategy 'fast'"):
        silversight.generate(["好"], strategy="fast")
    with pytest.raises(DataError, match="no expert 3"):
        silversight.generate(["好"], experts=[3])
    with pytest.raises(DataError, match="2 experts given for 1"):
        silversight.generate(["好"], experts=[0, 1])
    with pytest.raises(ParameterError, match="min_similarity"):
        silversight.generate(["好"], min_similarity=2)


def test_another_encoder_is_refused_before_the_base_is_loaded(parts, monkeypatch):
    folder, base_folder, encoder, records = parts
    other = load_encoder("fit", texts=prompts(records)[:12], dim=8, vocab_size=300)
    monkeypatch.setattr("assl_kit.experts.silversight.load_base", lambda *a, **k: pytest.fail("the base was loaded"))
    with pytest.raises(BankError, match="another encoder"):
        SilverSight.from_pretrained(folder / "bank", base=str(base_folder), encoder=other)


def test_another_base_is_refused(parts, tmp_path):
    folder, _, encoder, _ = parts
    other = make_test_base(tmp_path / "other", seed=1)
    with pytest.raises(BankError, match="another base model"):
        SilverSight.from_pretrained(folder / "bank", base=str(other), encoder=encoder, device="cpu")


def test_a_model_with_adapters_is_refused(parts, silversight):
    with pytest.raises(BankError, match="carries adapters already"):
        SilverSight(silversight.model.get_base_model(), silversight.tokenizer, silversight.encoder, silversight.bank)


def test_mixing_leaves_the_base_weights_alone(parts, silversight):
    _, base_folder, _, records = parts
    fresh, _ = load_base(str(base_folder), device="cpu")
    silversight.generate(prompts(records)[:5], strategy="mixed", experts=[0, 1, 2, -1, 0], max_new_tokens=3)
    state = {n.replace(".base_layer.", "."): t for n, t in silversight.model.get_base_model().state_dict().items()}
    assert all(torch.equal(tensor, state[name]) for name, tensor in fresh.state_dict().items())


def left_behind(model):
    """Names of adapters, and numbers of hooks and of parameters that could be trained."""
    hooks = sum(len(module._forward_pre_hooks) + len(module._forward_hooks) for module in model.modules())
    return sorted(model.peft_config), hooks, sum(p.requires_grad for p in model.parameters())


def joined(pieces, n):
    texts = [""] * n
    for row, piece in pieces:
        texts[row] += piece
    return texts


def test_a_mixed_batch_streams_what_single_questions_get(parts, silversight):
    questions = [text * (1 + i % 3) for i, text in enumerate(prompts(corpus(9)))]
    told = {"experts": [(i * 7) % 4 - 1 for i in range(9)], "max_new_tokens": 12}
    before = left_behind(silversight.model)
    single = [answer.text for answer in silversight.generate(questions, strategy="single", **told)]
    pieces = list(silversight.stream_batch(questions, batch_size=4, **told))
    assert joined(pieces, 9) == single
    first = [row for row, _ in pieces if row < 4]
    assert first != sorted(first), "rows of a batch come in turn"
    alone = silversight.generate(questions[:1], max_new_tokens=12)[0].text
    assert "".join(silversight.stream(questions[0], max_new_tokens=12)) == alone
    assert left_behind(silversight.model) == before


def test_a_stopped_stream_leaves_nothing_behind(parts, silversight):
    questions = prompts(corpus(6))
    told = {"experts": [0, 1, 2, -1, 0, 1], "max_new_tokens": 12}
    before = left_behind(silversight.model)
    expected = silversight.generate(questions, **told)
    pieces = silversight.stream_batch(questions, **told)
    next(pieces)
    with pytest.raises(AsslError, match="a stream is still open"):
        silversight.generate(questions, **told)
    with pytest.raises(KeyboardInterrupt):
        pieces.throw(KeyboardInterrupt())
    assert left_behind(silversight.model) == before
    assert silversight.generate(questions, **told) == expected
    stopped = silversight.stream(questions[0], top_k=2, temperature=5.0, max_new_tokens=400)
    next(stopped)
    stopped.close()
    assert left_behind(silversight.model) == before
    assert silversight.generate(questions, **told) == expected


def test_threads_answer_one_after_the_other(parts, silversight):
    questions = prompts(corpus(6))
    told = [{"experts": [k] * 6, "max_new_tokens": 8} for k in (0, 1, 2, -1)]
    expected = [silversight.generate(questions, **options) for options in told]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda options: silversight.generate(questions, **options), told * 2))
        streams = list(pool.map(lambda o: joined(silversight.stream_batch(questions, **o), 6), told))
    assert found == expected * 2
    assert streams == [[answer.text for answer in answers] for answers in expected]


def test_two_experts_answer_as_one_merged_adapter(parts, silversight):
    """All strategies and the stream agree, each question by the adapter its shares make, and nothing stays."""
    questions = prompts(corpus(12))
    told = {"top_k": 2, "temperature": 5.0, "max_new_tokens": 10}
    weights = {name: tensor.clone() for name, tensor in silversight.model.state_dict().items()}
    before = left_behind(silversight.model)
    answers = silversight.generate(questions, strategy="single", **told)
    mixtures = silversight.route(questions).mixtures(2, temperature=5.0)
    assert [answer.mixture for answer in answers] == mixtures and {len(m) for m in mixtures} == {2}
    assert [answer.expert for answer in answers] == [mixture[0][0] for mixture in mixtures]
    assert silversight.generate(questions, strategy="grouped", **told) == answers
    assert silversight.generate(questions, strategy="mixed", **told) == answers
    assert joined(silversight.stream_batch(questions, batch_size=5, **told), 12) == [a.text for a in answers]
    (one, a), (other, b) = mixtures[0]
    with merged(silversight.model, [f"expert-{one}", f"expert-{other}"], [a, b]):
        alone = generate_answers(silversight.model, silversight.tokenizer, questions[:1], max_new_tokens=10)
    assert alone == [answers[0].text]
    after = silversight.model.state_dict()
    assert list(after) == list(weights) and all(torch.equal(after[name], weights[name]) for name in weights)
    assert left_behind(silversight.model) == before


def test_clear_questions_and_one_expert_are_not_merged(parts, silversight):
    questions = prompts(corpus(6))
    plain = silversight.generate(questions, max_new_tokens=6)
    assert silversight.generate(questions, top_k=1, max_new_tokens=6) == plain
    assert silversight.generate(questions, top_k=2, temperature=1e-4, max_new_tokens=6) == plain
    assert all(answer.mixture == () for answer in plain)
    both = [questions[0] + questions[1]]  # between two experts, but not near enough
    (left,) = silversight.generate(both, top_k=2, min_similarity=0.99, max_new_tokens=6)
    assert (left.expert, left.mixture) == (-1, ())


def test_merged_adapters_in_memory_are_bounded(parts, silversight, monkeypatch):
    most = []
    monkeypatch.setattr("assl_kit.experts.silversight.MERGED_AT_ONCE", 2)
    generate = generate_answers

    def counting(model, *arguments, **options):
        most.append(len(model.peft_config))
        return generate(model, *arguments, **options)

    monkeypatch.setattr("assl_kit.experts.silversight.generate_answers", counting)
    a, b, c = prompts(corpus(3))
    questions = [a + b, a + c, b + c, a + a + b, a + a + c, b + b + a, b + b + c, c + c + a, c + c + b, a + b + c]
    silversight.generate(questions, strategy="mixed", top_k=3, temperature=0.5, max_new_tokens=2)
    assert len(set(silversight.route(questions).mixtures(3, temperature=0.5))) > 4
    assert len(most) > 1 and max(most) <= 3 + 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"top_k": 4}, "top_k must be a whole number from 1 to 3"),
        ({"top_k": 2, "experts": [0]}, "here experts are given"),
        ({"temperature": -1}, "temperature must be a number greater than 0"),
        ({"max_new_tokens": 0}, "max_new_tokens must be"),
    ],
)
def test_wrong_options_are_refused_at_the_call(silversight, options, message):
    with pytest.raises(ParameterError, match=message):
        silversight.generate(["好"], **options)
    with pytest.raises(ParameterError, match=message):
        silversight.stream("好", **options)
    with pytest.raises(DataError, match="empty"):
        silversight.stream(" ")
    with pytest.raises(DataError, match="list, not a string"):
        silversight.stream(["好"])
