"""The embedded corpus: shape, reproducibility, held-out values, true answers, bounded memory."""

from __future__ import annotations

import itertools
import re
import tracemalloc
from collections import Counter, defaultdict
from random import Random

import pandas as pd
import pytest

from assl_kit.data import synthetic
from assl_kit.data.grammar import Context, Grammar, digits_key, is_test_value
from assl_kit.data.records import COLUMNS
from assl_kit.data.statistics import corpus_statistics
from assl_kit.data.synthetic import TASKS, iter_records, make_corpus
from assl_kit.data.task_grammars import grammar_data, task_grammar
from assl_kit.errors import DataError, ParameterError


@pytest.fixture(scope="module")
def train():
    return list(iter_records(6000, with_slots=True))


@pytest.fixture(scope="module")
def test_side():
    return list(iter_records(3000, split="test", with_slots=True))


@pytest.fixture(scope="module")
def statistics(train):
    return corpus_statistics(train)


def of_task(records, task):
    rows = [row for row in records if row["task"] == task]
    assert rows
    return rows


def exam(row):
    """(stem, the four options) of a multiple choice input."""
    stem, *lines = row["input"].split("\n")
    assert [line[:3] for line in lines] == ["A. ", "B. ", "C. ", "D. "]
    return stem, [line[3:] for line in lines]


# --- shape ----------------------------------------------------------------------------------------------------------


def test_tasks_sources_and_long_tail(statistics):
    assert set(statistics["tasks"]) == set(TASKS) and len(TASKS) == 7
    assert set(statistics["sources"]) == set(synthetic.SOURCES) and len(synthetic.SOURCES) == 23
    for counts in (list(statistics["tasks"].values()), list(statistics["sources"].values())):
        assert counts == sorted(counts, reverse=True)
    tasks, sources = statistics["tasks"], statistics["sources"]
    assert 0.2 < max(tasks.values()) / 6000 < 0.35 and min(tasks.values()) / 6000 > 0.05
    assert max(sources.values()) > 10 * min(sources.values())  # a long tail
    assert sum(sorted(sources.values())[-5:]) > 0.45 * 6000


@pytest.mark.parametrize("n", [200, 1000])
def test_small_corpora_hold_every_task_and_source(n):
    corpus = make_corpus(n)
    assert tuple(corpus.columns) == COLUMNS and len(corpus) == n and corpus["id"].is_unique
    assert (corpus["split"] == "test").sum() == round(0.1 * n)
    for _, part in corpus.groupby("split"):
        assert set(part["task"]) == set(TASKS)
    if n >= 1000:
        assert set(corpus["source"]) == set(synthetic.SOURCES)
    assert all(isinstance(value, str) for value in corpus[list(COLUMNS)].to_numpy().ravel())
    assert corpus["id"].iloc[123] == "train-000123"


def test_each_source_belongs_to_one_task(train):
    owners = defaultdict(set)
    for row in train:
        owners[row["source"]].add(row["task"])
    assert all(len(tasks) == 1 for tasks in owners.values())


def test_instructions_are_paraphrases_held_out_by_split(train, test_side):
    for task in TASKS:
        shown, held_out = (task_grammar(task).instructions[test] for test in (False, True))
        assert len(set(shown)) >= 26 and len(set(held_out)) >= 6 and len({*shown, *held_out}) >= 32
        assert not set(shown) & set(held_out)
        assert all(8 <= len(text) <= 40 for text in (*shown, *held_out))
        assert {row["instruction"] for row in of_task(train, task)} == set(shown)
        assert {row["instruction"] for row in of_task(test_side, task)} == set(held_out)


def test_lengths_and_clean_text(train, test_side):
    for row in train + test_side:
        assert 10 <= len(row["input"]) <= 150 and 1 <= len(row["output"]) <= 34, row
        assert not re.search(r"[{}\[\]<>|⏎]|=>|。。|，，|，。|？，|[；，](\n|$)|None", row["input"] + row["output"]), (
            row
        )
    mean = sum(len(row["input"]) for row in train) / len(train)
    assert 30 < mean < 110


# --- the same input, the same output --------------------------------------------------------------------------------


def test_reproducible_and_seeded():
    first, again, other = (list(iter_records(300, seed=seed)) for seed in (3, 3, 4))
    assert first == again
    assert sum(a["input"] == b["input"] for a, b in zip(first, other, strict=True)) < 5


def test_a_record_does_not_depend_on_the_others():
    long = list(iter_records(2500))
    assert list(iter_records(400)) == long[:400]
    assert list(iter_records(30, start=2470)) == long[2470:]
    dev = list(iter_records(400, split="dev"))
    assert not {row["input"] for row in dev} & {row["input"] for row in long if row["task"] != "multiple_choice"}


# --- held-out values ------------------------------------------------------------------------------------------------


def test_no_value_is_shared_between_train_and_test(train, test_side):
    sides = []
    for records in (train, test_side):
        values = defaultdict(set)
        for row in records:
            for slot, value in row["slots"]:
                assert value in row["input"], row
                values[slot].add(value)
        sides.append(values)
    here, there = (set().union(*side.values()) for side in sides)
    assert len(here) > 5000 and len(there) > 2000
    assert not here & there
    assert set(sides[0]) == set(sides[1])  # every kind of value is on both sides


def test_numbers_are_held_out_whatever_their_format(train, test_side):
    def amounts(records):
        return {digits_key(v) for row in records for slot, v in row["slots"] if slot in ("amount", "percent", "price")}

    here, there = amounts(train), amounts(test_side)
    assert len(here) > 500 and len(there) > 200 and not here & there


def test_free_text_answers_of_test_are_not_seen_in_train(train, test_side):
    for task in ("summarization", "negative_news"):
        seen = {row["output"] for row in of_task(train, task)} - {"否"}
        assert not seen & {row["output"] for row in of_task(test_side, task)}


# --- answers are true -----------------------------------------------------------------------------------------------


def test_answers_are_in_the_input(train, test_side):
    for row in of_task(train + test_side, "qa"):
        passage, question = row["input"].rsplit("\n", 1)
        assert row["output"] in passage and row["output"] not in question, row
        assert re.match("问(题)?：.+", question), row


def test_the_negative_subject_is_listed_and_in_the_text(train, test_side):
    rows = of_task(train + test_side, "negative_news")
    choices = []
    for row in rows:
        text, entities = row["input"].rsplit("\n", 1)
        names = entities.split("：")[1].split("，")
        assert all(name in text for name in names) and len(set(names)) == len(names)
        if row["output"] != "否":
            subject = row["output"].removeprefix("是，")
            choices.append((names.index(subject), len(names)))
    assert 0.35 < sum(row["output"] == "否" for row in rows) / len(rows) < 0.55
    several = [place for place, size in choices if size > 1]
    assert len(several) > 0.6 * len(choices) and 0.25 < sum(place == 0 for place in several) / len(several) < 0.6


def test_related_entities_are_in_the_sentence(train):
    for row in of_task(train, "relation_extraction"):
        sentence, pair = row["input"].rsplit("\n", 1)
        names = [part.split("：")[-1] for part in re.split("[，、；]", pair)]
        assert len(names) == 2 and all(name in sentence for name in names), row


def test_headlines_copy_the_values_of_the_text(train):
    for row in of_task(train, "summarization"):
        subject = row["output"].split("：")[0]
        assert subject.removesuffix("行业") in row["input"] or subject[:2] in row["input"], row
        for number in re.findall(r"\d[\d,.]*", row["output"]):
            assert number in row["input"], row


def test_exam_concepts_have_the_right_letter(train):
    bank = grammar_data("multiple_choice")["concepts"]
    pairs = [line.split("=") for block in bank.values() for line in block.split("\n") if line]
    definition = dict(pairs)
    assert len(pairs) >= 120 and len(definition) == len(pairs) == len(set(definition.values()))
    seen = 0
    for row in of_task(train, "multiple_choice"):
        _, name, *concept = row["template"].split("/")
        if name.split(".")[0] not in ("term", "definition"):
            continue
        stem, options = exam(row)
        right = options["ABCD".index(row["output"])]
        term = concept[0]
        assert len(set(options)) == 4
        if name.startswith("term"):
            assert right == term and definition[term] in stem
        else:
            assert right == definition[term] and term in stem
        seen += 1
    assert seen > 150


def test_exam_tables_are_read_rightly(train, test_side):
    kinds = Counter()
    for row in of_task(train + test_side, "multiple_choice"):
        kind = row["template"].split("/")[1].split(".")[0]
        if kind not in ("highest", "lowest", "value"):
            continue
        kinds[kind] += 1
        stem, options = exam(row)
        right = options["ABCD".index(row["output"])]
        names = [value for slot, value in row["slots"] if slot == "company"]
        value = {}
        for name in names:
            number = re.search(re.escape(name) + r"[为：]?(\d[\d.]*%)", stem)
            assert number, row
            value[name] = number[1]
        assert len(value) == 4 and len({float(v[:-1]) for v in value.values()}) == 4
        if kind == "value":
            asked = [name for name in names if re.search(re.escape(name) + "的", stem)]
            assert len(asked) == 1 and value[asked[0]] == right and set(options) == set(value.values())
        else:
            pick = max if kind == "highest" else min
            assert right == pick(value, key=lambda name: float(value[name][:-1])) and set(options) == set(names)
    assert min(kinds.values()) > 20 and len(kinds) == 3


def test_letters_and_labels_are_balanced(statistics):
    assert statistics["majority"]["multiple_choice"] < 0.35
    assert all(share <= 0.5 for share in statistics["majority"].values())
    assert statistics["majority"]["classification"] < 0.25


# --- repetition -----------------------------------------------------------------------------------------------------


def test_statistics_of_repetition(statistics, train):
    assert statistics["n"] == 6000
    assert 0.08 <= statistics["near_duplicates"] <= 0.12
    assert 0.01 <= statistics["duplicate_inputs"] <= 0.02
    assert statistics["exact_duplicates"] < 0.005
    assert statistics["top_template"] < 0.03 and statistics["templates"] > 500
    for name, ratios in statistics["distinct"].items():
        values = [ratios[order] for order in (1, 2, 3, 4)]
        assert values == sorted(values) and values[3] > 0.2, name
    for task in TASKS:
        names = Counter(row["template"] for row in of_task(train, task))
        assert names.most_common(1)[0][1] < 0.12 * sum(names.values()), task


def test_frames_are_many():
    for task in ("sentiment", "classification", "negative_news", "summarization", "relation_extraction"):
        frames = {frame[0] for groups in task_grammar(task).frames.values() for group in groups for frame in group}
        assert len(frames) >= 40, (task, len(frames))


def test_reprints_are_light_edits_of_an_earlier_record(train):
    copies = [row for row in train if row["reprint_of"] is not None]
    assert 0.08 < len(copies) / len(train) < 0.12
    same = 0
    for row in copies:
        original = train[row["reprint_of"]]
        assert original["id"] < row["id"] and original["reprint_of"] is None
        assert (original["source"], original["template"]) == (row["source"], row["template"])
        if original["task"] not in ("qa", "summarization"):
            assert original["output"] == row["output"]
        same += original["input"] == row["input"]
    assert 0.05 < same / len(copies) < 0.25


def test_statistics_need_records():
    with pytest.raises(DataError, match="no records"):
        corpus_statistics([])
    plain = corpus_statistics(make_corpus(200))
    assert plain["templates"] is None and plain["n"] == 200
    twice = corpus_statistics(pd.concat([make_corpus(200)] * 2))
    assert twice["exact_duplicates"] >= 0.5 and twice["near_duplicates"] >= 0.5


# --- size -----------------------------------------------------------------------------------------------------------


def test_the_largest_corpus_is_lazy():
    records = iter_records(220_000)
    head = list(itertools.islice(records, 50))
    tail = list(iter_records(50, start=219_950))
    assert head[0]["id"] == "train-000000" and tail[-1]["id"] == "train-219999"
    assert {row["source"] for row in head} <= set(synthetic.SOURCES)


def test_memory_is_bounded():
    list(iter_records(500))  # grammars compiled
    tracemalloc.start()
    count = sum(1 for _ in iter_records(4000))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 4000 and peak < 2_000_000


@pytest.mark.parametrize(
    ("arguments", "where"),
    [({"n": 0}, "n"), ({"n": "9"}, "n"), ({"n": 9, "seed": -1}, "seed"), ({"n": 9, "split": "valid"}, "split")],
)
def test_bad_arguments_are_named(arguments, where):
    with pytest.raises(ParameterError, match=where):
        iter_records(**arguments)


def test_bad_shares_are_named():
    with pytest.raises(ParameterError, match="test_share"):
        make_corpus(200, test_share=1.0)


# --- the grammar engine ---------------------------------------------------------------------------------------------


def toy(template, seed=0, test=False, **rules):
    context = Context(Random(seed), test)
    return Grammar([{"rules": rules}], name="toy").compile(template)(context), context


def test_notation():
    assert {toy("(a|b)", seed)[0] for seed in range(20)} == {"a", "b"}
    assert {toy("x[y]", seed)[0] for seed in range(20)} == {"x", "xy"}
    assert {toy("<a|b|c>", seed)[0] for seed in range(60)} == {"abc", "acb", "bac", "bca", "cab", "cba"}
    assert toy("{x=w}{x}", w="p\nq")[0] in ("pp", "qq")
    counts = Counter(toy("{w}", seed, w="9*p\nq")[0] for seed in range(300))
    assert 240 < counts["p"] < 295


def test_rules_recurse():
    texts = {toy("{s}", seed, s="a\na{s}")[0] for seed in range(60)}
    assert len(texts) > 3 and all(set(text) == {"a"} for text in texts)


def test_two_names_of_one_text_differ():
    for seed in range(50):
        context = Context(Random(seed), False)
        grammar = Grammar([{"open": {"who": "甲\n乙\n丙\n丁\n戊\n己\n庚"}}], name="toy")
        grammar.compile("{a=who}{b=who}")(context)
        assert context.bound["a"] != context.bound["b"]
        assert [value for _, value in context.slots] == [context.bound["a"], context.bound["b"]]


def test_open_values_keep_their_side():
    for test in (False, True):
        for seed in range(40):
            _, context = toy("{amount}{date}{percent}{code}{year}", seed, test)
            for slot, value in context.slots:
                if slot in ("amount", "percent", "year"):
                    assert is_test_value(digits_key(value)) is test, value


@pytest.mark.parametrize("template", ["{nobody}", "(a|b", "a)", "[a"])
def test_broken_templates_say_where(template):
    with pytest.raises(DataError, match="toy"):
        toy(template)
