"""What an encoder that was fitted on a corpus knows of a question, and who answers it."""

from __future__ import annotations

import numpy as np
import pytest

from assl_kit.data.records import prompts
from assl_kit.data.splits import training_pool
from assl_kit.data.synthetic import make_corpus
from assl_kit.experts.router import CentroidRouter, expert_centroids, least_usual_similarity
from assl_kit.space.clusters import SemanticKMeans
from assl_kit.space.encoder import encode, load_encoder
from assl_kit.space.static_encoder import known_shares

SMALL_TALK = [
    "hello world", "How do I bake bread?", "Good morning! Nice to meet you.", "Tell me a joke",
    "Who won the football game last night?", "I love cats and dogs", "What a bad day", "thank you very much",
]  # fmt: skip
NONSENSE = ["zxqv wkjh", "кто ты", "😀😀😀", "？！…", "龘靐齉爩", "ありがとう"]


@pytest.fixture(scope="module")
def corpus():
    return make_corpus(800, seed=0)


@pytest.fixture(scope="module")
def encoder(corpus):
    return load_encoder("fit", texts=prompts(training_pool(corpus)), dim=64)


@pytest.fixture(scope="module")
def route(corpus, encoder):
    """Routes of questions by six centroids of a tenth of the training records, with the floor that these give."""
    asked = prompts(training_pool(corpus))
    X = encode(encoder, asked)
    labels = SemanticKMeans(n_clusters=6, random_state=0).fit(X).labels_
    chosen = np.sort(np.random.default_rng(0).choice(len(X), len(X) // 5, replace=False))
    known = known_shares(encoder, [asked[row] for row in chosen])
    floor = least_usual_similarity(X[chosen], labels[chosen], n_clusters=6, known=known)
    router = CentroidRouter(expert_centroids(X[chosen], labels[chosen], n_clusters=6), min_similarity=floor)
    return lambda questions: router.route(encode(encoder, questions), known=known_shares(encoder, questions))


def test_real_questions_are_answered_by_experts(corpus, route):
    test = corpus[corpus["split"] == "test"]
    assert (route(prompts(test)).experts < 0).mean() <= 0.03
    assert (route(list(test["input"][test["input"] != ""])).experts < 0).mean() <= 0.1


def test_rephrased_questions_are_answered_by_experts(route):
    asked = [
        "请判断这条财经新闻是利好还是利空：公司净利润同比增长。",
        "公司上半年净利润同比增长32%，股价上涨，这条消息的情绪是积极还是消极？",
        "给这则新闻起个标题：央行宣布下调存款准备金率。",
    ]
    assert (route(asked).experts >= 0).all()


@pytest.mark.parametrize("text", SMALL_TALK + NONSENSE)
def test_small_talk_and_nonsense_go_to_the_base(route, text):
    routes = route([text])
    assert routes.experts[0] == -1


@pytest.mark.parametrize("text", NONSENSE)
def test_a_question_of_unknown_words_is_like_nothing(encoder, route, text):
    routes = route([text])
    assert known_shares(encoder, [text])[0] == 0
    assert routes.similarity[0] == 0 and routes.margin[0] == 0 and not routes.similarities.any()


def test_a_mostly_unknown_question_does_not_look_sure(encoder, route):
    question = "公司净利润同比增长，股价上涨，情绪如何？"
    sure, unsure = route([question, "The quarterly results of this enterprise were wonderful, " + question]).similarity
    assert 0 < unsure < 0.5 * sure


def test_the_known_share_counts_letters_and_digits(encoder):
    known = known_shares(encoder, ["公司净利润", "公司，净利润！", "公司净利润qqqqq", "2024", "", "  ？"])
    assert known.tolist() == [1, 1, 0.5, 1, 0, 0]
    assert known_shares(encoder, []).shape == (0,)


def test_a_word_of_letters_counts_as_a_whole():
    fitted = load_encoder("fit", texts=["答案是 A", "答案是 B", "答案是 D", "etf 基金", "买 etf"] * 3, dim=16)
    known = known_shares(fitted, ["a", "bad", "etf", "etfs", "a bad"])
    assert known.tolist() == [1, 0, 1, 0, 0.25]


def test_other_encoders_know_every_text():
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import StaticEmbedding
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel

    static = StaticEmbedding(Tokenizer(WordLevel({"[UNK]": 0, "a": 1}, unk_token="[UNK]")), embedding_dim=4)
    other = SentenceTransformer(modules=[static], device="cpu")
    assert known_shares(other, ["zz", "a"]).tolist() == [1, 1]
