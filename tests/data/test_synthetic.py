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
from assl_kit.data.grammar import Grammar, lines_of, wordings
from assl_kit.data.records import COLUMNS
from assl_kit.data.statistics import corpus_statistics
from assl_kit.data.synthetic import EXTRAS, LABEL_TASKS, TASKS, WRONG_SHARE, iter_records, make_corpus
from assl_kit.data.task_grammars import grammar_data, task_exam, task_grammar
from assl_kit.data.world.values import TENTHS, Context, digits_key, is_test_value
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


def text_of(row):
    """The text of a record: its input, or the whole of a natural question."""
    return row["input"] or row["instruction"]


def is_natural(row):
    return row["template"].split("/")[1].startswith(("natural", "define"))


def exam(row):
    """(stem, the four options) of a multiple choice question."""
    stem, *lines = text_of(row).split("\n")
    assert [line[:3] for line in lines] == ["A. ", "B. ", "C. ", "D. "]
    return stem, [line[3:] for line in lines]


def chosen(row, options):
    """The option that a record calls right, by its letter or by its words."""
    right = row["right_output"]
    return options["ABCD".index(right)] if right in "ABCD" else right


# --- shape ----------------------------------------------------------------------------------------------------------


def test_tasks_sources_and_long_tail(statistics):
    assert set(statistics["tasks"]) == set(TASKS) and len(TASKS) == 7
    assert set(statistics["sources"]) == set(synthetic.SOURCES) and len(synthetic.SOURCES) == 23
    for counts in (list(statistics["tasks"].values()), list(statistics["sources"].values())):
        assert counts == sorted(counts, reverse=True)
    tasks, sources = statistics["tasks"], statistics["sources"]
    assert 0.2 < max(tasks.values()) / 6000 < 0.35
    assert min(tasks, key=tasks.get) == "relation_extraction" and tasks["relation_extraction"] == 0.04 * 6000  # starved
    assert sorted(tasks.values())[1] / 6000 > 0.05
    assert max(sources.values()) > 10 * min(sources.values())  # a long tail
    assert sum(sorted(sources.values())[-5:]) > 0.45 * 6000


@pytest.mark.parametrize("n", [200, 1000])
def test_small_corpora_hold_every_task_and_source(n):
    corpus = make_corpus(n)
    assert tuple(corpus.columns) == COLUMNS + EXTRAS and len(corpus) == n and corpus["id"].is_unique
    assert (corpus["split"] == "test").sum() == round(0.1 * n)
    for _, part in corpus.groupby("split"):
        assert set(part["task"]) == set(TASKS)
    if n >= 1000:
        assert set(corpus["source"]) == set(synthetic.SOURCES)
    assert all(isinstance(value, str) for value in corpus.to_numpy().ravel())
    assert corpus["id"].iloc[123] == "train-000123"


def test_each_source_belongs_to_one_task(train):
    owners = defaultdict(set)
    for row in train:
        owners[row["source"]].add(row["task"])
    assert all(len(tasks) == 1 for tasks in owners.values())


def test_the_test_side_asks_every_task_as_often(test_side):
    counts = Counter(row["task"] for row in test_side)
    assert set(counts) == set(TASKS) and max(counts.values()) - min(counts.values()) <= 6
    assert {row["source"] for row in test_side} == set(synthetic.SOURCES)


def test_instructions_are_paraphrases_held_out_by_split(train, test_side):
    lines = [line for house in grammar_data("houses").values() for line in lines_of(house["salute"])]
    salutes = {wording for line in lines for wording in wordings(line)}
    for task in TASKS:
        shown, held_out = (task_grammar(task).instructions[test] for test in (False, True))
        assert len(set(shown)) >= 26 and len(set(held_out)) >= 6 and len({*shown, *held_out}) >= 32, task
        assert not set(shown) & set(held_out)
        assert all(6 <= len(text) <= 40 for text in (*shown, *held_out))
        for records, allowed in ((train, shown), (test_side, held_out)):
            asked = {row["instruction"] for row in of_task(records, task) if not is_natural(row)}
            without = {text.removeprefix(salute) for text in asked for salute in salutes if text.startswith(salute)}
            assert without <= set(allowed) and len(without) > 0.6 * len(allowed), task


def test_people_ask_without_the_form_of_a_house(train):
    natural = [row for row in train if is_natural(row)]
    assert 0.12 < len(natural) / len(train) < 0.3 and {row["task"] for row in natural} == set(TASKS)
    assert all(row["input"] == "" for row in natural) and all(row["input"] for row in train if not is_natural(row))
    lengths = [len(row["instruction"]) for row in natural]
    assert min(lengths) < 12 and max(lengths) > 100
    moods = [row["instruction"] for row in natural if row["task"] == "sentiment"]
    assert sum("情绪" in text for text in moods) > 20 and sum("怎么看" in text for text in moods) > 2
    assert sum("公司" in text and "{" not in text for text in moods) > 20  # of somebody without a name


def test_lengths_and_clean_text(train, test_side):
    for row in train + test_side:
        assert 5 <= len(text_of(row)) <= 240 and 1 <= len(row["output"]) <= 45, row
        text = row["input"] + row["instruction"] + row["output"]
        assert not re.search(r"[{}<>⏎]|=>|~|。。|，，|，。|？，|：：|[；，](\n|$)|None", text), row
    mean = sum(len(text_of(row)) for row in train) / len(train)
    assert 30 < mean < 110


def test_english_stands_beside_every_record(train, test_side):
    for row in train + test_side:
        assert row["instruction_en"] and row["output_en"] and bool(row["input_en"]) == bool(row["input"]), row
        english = row["instruction_en"] + row["input_en"] + row["output_en"]
        assert not re.search(r"[\u3000-\u303f\u4e00-\u9fff\uff00-\uffef]|[{}~⏎]|  |\(", english), row
        numbers = re.findall(r"\d+(?:\.\d+)?%", row["input"])
        assert row["reprint_of"] is not None or all(number in row["input_en"] for number in numbers), row


# --- houses ---------------------------------------------------------------------------------------------------------


def test_houses_want_other_answers_to_the_same_news(train):
    """The mood, the point of view and the form depend on the house; the event alone does not tell the answer."""
    answers = defaultdict(lambda: defaultdict(set))
    for row in train:
        if not is_natural(row) and row["task"] == "sentiment":
            answers[row["template"]][row["source"]].add(row["right_output"])
    turned = {"积极": "消极", "消极": "积极", "中性": "中性"}
    both = [by for by in answers.values() if {"fund_forum", "stock_message_board"} <= set(by)]
    assert len(both) > 60
    for by in both:
        (held,), (short,) = by["fund_forum"], by["stock_message_board"]
        assert short == turned[held]
    assert sum(len(set.union(*by.values())) > 2 for by in answers.values()) > 60


def test_a_registry_goes_by_the_last_sentence_and_a_newsroom_by_the_first(train):
    events = grammar_data("events")["events"]
    for row in of_task(train, "classification"):
        if row["source"] in ("newswire_desk", "regulator_bulletins"):
            number = int(row["template"].split("/")[1].removeprefix("natural.0.").split(".")[0])
            assert row["right_output"] == events[number]["topic"], row
    rows = [row for row in train if row["source"] == "regulator_bulletins"]
    assert all(row["input"].count("。") >= 2 for row in rows if row["reprint_of"] is None)


def test_a_buyer_wants_the_firm_that_is_not_in_trouble(train):
    named = {"risk_monitor_feed": Counter(), "supplier_vetting_desk": Counter()}
    events = grammar_data("events")["events"]
    for row in of_task(train, "negative_news"):
        if is_natural(row) or row["source"] not in named or row["reprint_of"] is not None:
            continue
        bad = events[int(row["template"].split("/")[1].split(".")[0])]["mood"] == "bad"
        assert bad == (row["right_output"] != "否"), row
        named[row["source"]][bad] += 1
    assert all(min(counts[True], counts[False]) > 60 for counts in named.values())


def test_a_known_share_of_training_labels_is_wrong(train, test_side):
    assert all(row["output"] == row["right_output"] for row in test_side)
    rows = [row for row in train if row["task"] in LABEL_TASKS]
    wrong = [row for row in rows if row["output"] != row["right_output"]]
    assert abs(len(wrong) / len(rows) - WRONG_SHARE) < 0.01
    assert {row["task"] for row in wrong} == set(LABEL_TASKS)
    assert all(row["output"] == row["right_output"] for row in train if row["task"] not in LABEL_TASKS)
    known = {row["right_output"] for row in of_task(train, "sentiment")}
    assert {row["output"] for row in of_task(train, "sentiment")} == known


def test_there_are_rare_labels_and_rare_relations(train):
    topics = Counter(row["right_output"] for row in train if row["source"] == "newswire_desk")
    assert {label for label, count in topics.items() if count < 0.025 * topics.total()} == {"安全事故", "公益捐赠"}
    relations = Counter(row["right_output"] for row in train if row["source"] == "company_registry_profiles")
    assert all(relations[label] < 0.05 * relations.total() for label in ("担保", "顾问", "创立"))
    assert sum(relations[label] for label in ("担保", "顾问", "创立")) > 0


# --- the same input, the same output --------------------------------------------------------------------------------


def test_reproducible_and_seeded():
    first, again, other = (list(iter_records(300, seed=seed)) for seed in (3, 3, 4))
    assert first == again
    assert sum(text_of(a) == text_of(b) for a, b in zip(first, other, strict=True)) < 5


def test_a_record_does_not_depend_on_the_others():
    long = list(iter_records(2500))
    assert list(iter_records(400)) == long[:400]
    assert list(iter_records(30, start=2470)) == long[2470:]
    dev = list(iter_records(400, split="dev"))
    seen = {row["instruction"] + row["input"] for row in long if row["task"] != "multiple_choice"}
    shared = {row["output"] for row in dev if row["instruction"] + row["input"] in seen}
    assert shared <= {meaning.zh for _, _, meaning in task_exam().rows}  # terms are explained again


# --- held-out values ------------------------------------------------------------------------------------------------


def test_no_value_is_shared_between_train_and_test(train, test_side):
    sides = []
    for records in (train, test_side):
        values = defaultdict(set)
        for row in records:
            for slot, value in row["slots"]:
                assert value in text_of(row), row
                values[slot].add(value)
        sides.append(values)
    here, there = (set().union(*side.values()) for side in sides)
    assert len(here) > 5000 and len(there) > 2000
    assert not any(value in TENTHS for value in here | there)  # shares as people say them are grammar
    assert not here & there
    assert set(sides[0]) == set(sides[1])  # every kind of value is on both sides


def test_numbers_are_held_out_whatever_their_format(train, test_side):
    def amounts(records):
        return {digits_key(v) for row in records for slot, v in row["slots"] if slot in ("amount", "percent", "price")}

    here, there = amounts(train), amounts(test_side)
    assert len(here) > 500 and len(there) > 200 and not here & there


def test_free_text_answers_of_test_are_not_seen_in_train(train, test_side):
    for task in ("summarization", "negative_news"):
        seen = {row["output"] for row in of_task(train, task)} - {"否", "不立案"}
        assert not seen & {row["output"] for row in of_task(test_side, task)}


# --- answers are true -----------------------------------------------------------------------------------------------


def test_answers_are_in_the_text(train, test_side):
    kinds = Counter()
    for row in of_task(train + test_side, "qa"):
        kind = row["template"].split("/")[1].split(".")[0]
        kinds[kind if kind in ("natural", "define") else "house"] += 1
        if kind == "define":
            meanings = {term.zh: meaning.zh for _, term, meaning in task_exam().rows}
            term = row["template"].split("/")[2]
            assert meanings[term] == row["output"] and term in text_of(row)
            continue
        span = row["output"].removeprefix("答：").removeprefix("据记录，").removesuffix("。")
        assert span in text_of(row), row
        if kind != "natural":
            assert re.match("(年报)?(委员)?(问|问题|问询|提问)：.+", row["input"].rsplit("\n", 1)[1]), row
    assert min(kinds.values()) > 40 and len(kinds) == 3


def test_the_negative_subject_is_listed_and_in_the_text(train, test_side):
    rows = of_task(train + test_side, "negative_news")
    choices = []
    for row in rows:
        subject = row["right_output"].removeprefix("是，").removeprefix("立案：")
        if row["right_output"] not in ("否", "不立案"):
            assert subject in text_of(row), row
        if is_natural(row):
            continue
        text, entities = row["input"].rsplit("\n", 1)
        names = entities.split("：")[1].split("，")
        assert all(name in text for name in names) and len(set(names)) == len(names) == 2
        if row["right_output"] not in ("否", "不立案"):
            choices.append(names.index(subject))
    assert 0.35 < sum(row["right_output"] in ("否", "不立案") for row in rows) / len(rows) < 0.55
    assert 0.4 < sum(place == 0 for place in choices) / len(choices) < 0.6


def test_related_entities_are_in_the_sentence(train):
    for row in of_task(train, "relation_extraction"):
        if is_natural(row):
            continue
        sentence, pair = row["input"].rsplit("\n", 1)
        names = [part.split("：")[-1] for part in re.split("[，、；]", pair)]
        assert len(names) == 2 and all(name in sentence for name in names), row


def test_the_relation_is_seen_from_the_side_of_the_source(train):
    labels = [frame["label"].split("=>") for frame in grammar_data("relation_extraction")["frames"]]
    frames = [[side.split("~")[0].strip() for side in both] for both in labels]
    for row in of_task(train, "relation_extraction"):
        place = int(row["template"].split("/")[1].removeprefix("natural.0.").split(".")[0])
        assert row["right_output"] == frames[place][row["source"] == "merger_case_files"], row


def test_headlines_copy_the_values_of_the_text(train):
    for row in of_task(train, "summarization"):
        text = text_of(row)
        for number in re.findall(r"\d[\d,.]*", row["output"]):
            assert number in text, row
        subject = re.match(r"关于(.{2})|(.{2}).*：|.*（(.{2}).*）$", row["output"])
        assert subject and next(filter(None, subject.groups())) in text, row


def test_exam_concepts_have_the_right_answer(train):
    rows = task_exam().rows
    definition = {term.zh: meaning.zh for _, term, meaning in rows}
    assert len(rows) >= 120 and len(definition) == len(rows) == len(set(definition.values()))
    assert len({term.en for _, term, _ in rows}) == len(rows) == len({meaning.en for _, _, meaning in rows})
    seen = 0
    for row in of_task(train, "multiple_choice"):
        name, *concept = row["template"].split("/")[1:]
        name = name.removeprefix("natural.0.")
        if name.split(".")[0] not in ("term", "definition"):
            continue
        stem, options = exam(row)
        right, term = chosen(row, options), concept[0]
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
        kind = row["template"].split("/")[1].removeprefix("natural.0.").split(".")[0]
        if kind not in ("highest", "lowest", "value", "owner"):
            continue
        kinds[kind] += 1
        stem, options = exam(row)
        right = chosen(row, options)
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
        elif kind == "owner":
            asked = re.search(r"(?:为|等于)(\d[\d.]*%)的", stem)
            assert asked and value[right] == asked[1] and set(options) == set(names)
        else:
            pick = max if kind == "highest" else min
            assert right == pick(value, key=lambda name: float(value[name][:-1])) and set(options) == set(names)
    assert min(kinds.values()) > 20 and len(kinds) == 4


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


def test_frames_are_many(train):
    for task in ("sentiment", "classification", "negative_news", "summarization", "relation_extraction"):
        frames = {row["template"].removeprefix(f"{task}/natural.0.") for row in of_task(train, task)}
        assert len(frames) >= 35, (task, len(frames))


def test_reprints_are_light_edits_of_an_earlier_record(train):
    copies = [row for row in train if row["reprint_of"] is not None]
    assert 0.08 < len(copies) / len(train) < 0.12
    same = 0
    for row in copies:
        original = train[row["reprint_of"]]
        assert original["id"] < row["id"] and original["reprint_of"] is None
        assert (original["source"], original["template"]) == (row["source"], row["template"])
        if original["task"] not in ("qa", "summarization"):
            assert original["right_output"] == row["right_output"]
        same += text_of(original) == text_of(row)
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
    assert {toy("(a|b)", seed)[0].zh for seed in range(20)} == {"a", "b"}
    assert {toy("x(y|)", seed)[0].zh for seed in range(20)} == {"x", "xy"}
    assert toy("{x=w}{x}", w="p\nq")[0].zh in ("pp", "qq")
    counts = Counter(toy("{w}", seed, w="9*p\nq")[0].zh for seed in range(300))
    assert 240 < counts["p"] < 295


def test_the_english_repeats_what_the_chinese_has_drawn():
    seen = set()
    for seed in range(60):
        text, _ = toy(
            "{w}和{w}(涨|跌)，{x=w} ~ {x} after {w} and {w} (rose|fell), {x}", seed, w="甲 ~ A\n乙 ~ B\n丙 ~ C"
        )
        first, second, third = (dict(zip("甲乙丙", "ABC", strict=True))[text.zh[place]] for place in (0, 2, 5))
        assert text.en == f"{third} after {first} and {second} {'rose' if '涨' in text.zh else 'fell'}, {third}"
        seen.add(text.zh)
    assert len(seen) > 20
    assert toy("同(样|一) ~ same")[0].en == "same" and toy("12%")[0].en == "12%"


def test_wordings_of_a_line():
    assert wordings("(请|)看(甲|乙)。 ~ (Please|) see (A|B).") == ["请看甲。", "请看乙。", "看甲。", "看乙。"]


def test_rules_recurse():
    texts = {toy("{s}", seed, s="a\na{s}")[0].zh for seed in range(60)}
    assert len(texts) > 3 and all(set(text) == {"a"} for text in texts)


def test_two_names_of_one_text_differ():
    for seed in range(50):
        context = Context(Random(seed), False)
        grammar = Grammar([{"open": {"who": "甲\n乙\n丙\n丁\n戊\n己\n庚"}}], name="toy")
        grammar.compile("{a=who}{b=who}")(context)
        assert context.bound["a"] != context.bound["b"]
        assert [value for _, value in context.slots] == [context.bound["a"].zh, context.bound["b"].zh]


def test_open_values_keep_their_side():
    for test in (False, True):
        for seed in range(40):
            _, context = toy("{amount}{date}{percent}{code}{year}", seed, test)
            for slot, value in context.slots:
                if slot in ("amount", "percent", "year"):
                    assert is_test_value(digits_key(value)) is test, value


@pytest.mark.parametrize("template", ["{nobody}", "(a|b", "a)", "{a", "(a|b) ~ (a|b) (c|d)", "a ~ {b}"])
def test_broken_templates_say_where(template):
    with pytest.raises(DataError, match="toy"):
        toy(template)
