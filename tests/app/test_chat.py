"""`assl chat`: what the page shows of a question, that nothing in it is HTML, and the page itself in a browser."""

from __future__ import annotations

import copy
import re
import shutil
import threading
import time
import webbrowser
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from html import escape, unescape
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from helpers import ROOT
from helpers.browser import WAIT, chromium, chromium_path, watched

from assl_kit.app import chat_page
from assl_kit.app.chat import EXAMPLES, MAX_QUESTION, NOT_LEARNT, Chat, Panels, TrainingRecords, learnt
from assl_kit.artifacts.parameters import resolve
from assl_kit.artifacts.steps import read, require
from assl_kit.artifacts.workspace import Workspace
from assl_kit.errors import ParameterError, WorkspaceError
from assl_kit.experts.silversight import SilverSight
from assl_kit.space.encoder import encode
from assl_kit.space.static_encoder import known_shares

SMALL = {
    "n_records": 240,
    "n_clusters": 3,
    "n_select": 30,
    "epochs": 8,
    "learning_rate": 3e-3,
    "warmup_records": 0,
}
HOSTILE = "<script>document.title='taken'</script><img src=x onerror=\"document.title='taken'\">{{7*7}}${7*7}"
QUESTIONS = list(EXAMPLES)[::2]  # of different kinds
_PARTS = ("answer", "base", "route", "records")
TAGS = re.compile(r"<\s*(script|img)", re.IGNORECASE)


@pytest.fixture(scope="module")
def ws(tmp_path_factory):
    """A small run that has got as far as its experts."""
    ws = Workspace.open(tmp_path_factory.mktemp("chat") / "runs" / "small")
    require(ws, "experts", ws.remember("tiny", resolve("tiny", **SMALL)))
    return ws


@pytest.fixture(scope="module")
def opened(ws):
    return Chat.of_run(ws)


@pytest.fixture
def chat(opened):
    """The run's chat, with state of its own."""
    return replace(opened)


def plain(html: str) -> str:
    return unescape(re.sub(r"<[^>]+>", " ", html))


def test_the_panels_tell_route_records_answer_and_base(ws, chat):
    question = QUESTIONS[0]
    steps = list(chat.ask(question))
    routes = chat.silversight.route([question])
    (answer,) = chat.silversight.generate([question], max_new_tokens=chat.max_new_tokens)
    (base,) = chat.silversight.generate([question], experts=[-1], max_new_tokens=chat.max_new_tokens)

    assert steps[0].route and steps[0].records and not steps[0].answer and not steps[0].base
    assert len(steps) > 5, "the answers come in pieces"
    for before, after in zip(steps, steps[1:], strict=False):
        assert (before.route, before.records) == (after.route, after.records)
        assert not (before.base and before.answer != after.answer), "the base speaks when the expert has ended"

    last = steps[-1]
    shown = plain(last.route)
    assert f"expert-{answer.expert} answers, margin {answer.margin:.3f}" in " ".join(shown.split())
    assert [f"{value:.3f}" in shown for value in routes.similarities[0]] == [True] * 3
    assert 'data-done="yes"' in last.answer and escape(answer.text) in last.answer
    assert 'data-done="yes"' in last.base and escape(base.text) in last.base
    assert answer.text

    selection, records = read(ws, "selection"), read(ws, "records").set_index("id")
    own = selection[selection["cluster"] == answer.expert]["id"]
    space = read(ws, "embeddings")
    rows = {key: row for key, row in zip(space["ids"], space["embeddings"], strict=True)}
    (embedding,) = encode(chat.silversight.encoder, [question])
    nearest = max(own, key=lambda key: float(rows[key] @ embedding))
    (known,) = known_shares(chat.silversight.encoder, [question])  # a similarity counts as far as the words are known
    assert f"similarity {known * (rows[nearest] @ embedding):.3f}" in plain(last.records)
    first = last.records.split("<article")[1]
    assert escape(records.loc[nearest, "output"][:100]) in first and last.records.count("<article") == 3
    assert escape(records.loc[nearest, "input_en"][:20]) in first and escape(records.loc[nearest, "output_en"]) in first


def test_nearest_records_are_sorted_by_cosine(chat):
    embedding = chat.records.rows[5]
    expert = int(chat.records.table["cluster"].iloc[5])
    found = chat.records.nearest(expert, embedding, n=4)
    assert found["id"].iloc[0] == chat.records.table["id"].iloc[5] and (found["cluster"] == expert).all()
    assert (np.diff(found["similarity"]) <= 0).all() and found["similarity"].iloc[0] == pytest.approx(1, abs=1e-5)
    assert len(chat.records.nearest(expert, embedding, n=1000)) == (chat.records.table["cluster"] == expert).sum()


@pytest.mark.parametrize(
    ("question", "message"),
    [("", "the question is empty"), (" \n\t", "the question is empty"), ("问" * (MAX_QUESTION + 1), "has 1,001 char")],
)
def test_a_question_that_is_refused_is_told_and_not_asked(chat, monkeypatch, question, message):
    monkeypatch.setattr(chat.silversight, "stream", lambda *_, **__: pytest.fail("the model was asked"))
    (panels,) = chat.ask(question)
    assert message in panels.route and 'role="alert"' in panels.route and panels == Panels(route=panels.route)


def test_an_error_amid_the_answer_is_told_and_what_was_said_stays(chat, monkeypatch):
    def stream(question, **_):
        yield "积"
        raise ParameterError("no <room> left")

    monkeypatch.setattr(chat.silversight, "stream", stream)
    *_, before, last = chat.ask("情绪如何？")
    assert "no &lt;room&gt; left" in last.route and last.answer == before.answer and "积" in last.answer


def test_no_text_becomes_html(chat, monkeypatch):
    """Question, records, names of tasks, and what the model says."""
    table = chat.records.table.assign(question=HOSTILE, output=HOSTILE, task=HOSTILE)
    chat.records = TrainingRecords(table, chat.records.rows)
    bank = copy.copy(chat.silversight.bank)
    bank.info = bank.info | {"experts": [expert | {"tasks": {HOSTILE: 3}} for expert in bank.info["experts"]]}
    chat.title = HOSTILE
    monkeypatch.setattr(chat.silversight, "bank", bank)
    monkeypatch.setattr(chat.silversight.router, "min_similarity", -1.0)  # an expert answers what it does not know
    monkeypatch.setattr(chat.silversight, "stream", lambda *_, **__: (piece for piece in HOSTILE))
    for panels in chat.ask(HOSTILE):
        for html in vars(panels).values():
            assert not TAGS.search(html)
    assert all(escape("<script>") in html for html in vars(panels).values())
    assert not TAGS.search(chat_page._heading(chat))


def test_a_bank_alone_says_that_it_has_no_records(ws):
    chat = Chat(SilverSight.from_pretrained(ws.path_of("experts"), device="cpu"), max_new_tokens=4)
    *_, last = chat.ask(QUESTIONS[0])
    assert "A bank alone does not hold the records" in last.records and 'data-done="yes"' in last.base


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda ws: ws.path_of("selection.parquet").unlink(), "the run has no selection.parquet"),
        (lambda ws: _halve(ws), "the selection is not the one the experts were trained on"),
    ],
)
def test_records_that_were_not_learnt_from_are_not_shown(ws, chat, tmp_path, change, message):
    other = Workspace.open(shutil.copytree(ws.folder, tmp_path / "runs" / "other"))
    change(other)
    with pytest.raises(WorkspaceError, match=message):
        TrainingRecords.of_run(other, chat.silversight.bank.centroids)
    opened = Chat.of_run(other)
    assert message in opened.no_records and opened.records is None and opened.examples == EXAMPLES


def _halve(ws):
    table = read(ws, "selection")
    table.iloc[::2].to_parquet(ws.path_of("selection.parquet"), index=False)


def test_below_min_similarity_nobody_knows_and_the_base_speaks_apart(chat, monkeypatch):
    monkeypatch.setattr(chat.silversight.router, "min_similarity", 1.0)
    *_, last = chat.ask(QUESTIONS[0])
    assert "No expert answers: no similarity reaches 1.000" in " ".join(plain(last.route).split())
    assert "I don't know." in plain(last.answer) and "我不知道。" in last.answer
    (base,) = chat.silversight.generate([QUESTIONS[0]], experts=[-1], max_new_tokens=chat.max_new_tokens)
    assert "What the base alone says" in last.base and escape(base.text) in last.base
    assert (
        "What any expert learnt that is nearest" in " ".join(plain(last.records).split())
        and last.records.count("<article") == 3
    )


def test_an_unknown_language_is_far_from_every_record_too(chat):
    """An embedding of words that were never seen lies near every centroid; what is shown must not say so."""
    (foreign,) = [question for question in NOT_LEARNT if question.isascii()]
    *_, last = chat.ask(foreign)
    shown = [float(number) for number in re.findall(r"similarity (-?[0-9.]+)", plain(last.records))]
    assert len(shown) == 3 and max(shown) < 0.5 and "I don't know." in plain(last.answer)


def test_examples_are_among_the_sixty_and_have_their_english():
    asked = yaml.safe_load((ROOT / "tests" / "experts" / "sixty_questions.yaml").read_text(encoding="utf-8"))
    known = {question["ask"] for pair in asked["pairs"] for question in pair} | {q["ask"] for q in asked["plain"]}
    assert set(EXAMPLES) - set(NOT_LEARNT) <= known and set(NOT_LEARNT) <= set(asked["foreign"])
    assert all(english.isascii() and bool(english) != question.isascii() for question, english in EXAMPLES.items())


def test_records_and_labels_are_shown_in_english_where_they_have_it(chat):
    table, answer = chat.records.table, chat.silversight.generate([QUESTIONS[0]], max_new_tokens=chat.max_new_tokens)[0]
    english = {"question_en": "What <b>mood</b> is this?", "output_en": "a label"}
    chat.records = TrainingRecords(table.assign(**english, output=answer.text.strip()), chat.records.rows)
    *_, last = chat.ask(QUESTIONS[0])
    assert last.records.count("What &lt;b&gt;mood&lt;/b&gt; is this?") == 3
    assert "in English: a label" in last.answer


def test_the_heading_greets_and_says_what_was_learnt(chat):
    heading = plain(chat_page._heading(chat))
    assert "你好" in heading and "Hello" in heading and learnt(chat.silversight.bank) in heading
    assert "negative news" in heading and f"from {len(chat.records.table):,} records" in heading


def test_two_who_ask_at_once_get_their_own_answers(chat):
    questions = [QUESTIONS[0], QUESTIONS[1]] * 4
    expected = [list(chat.ask(question))[-1] for question in questions]
    assert expected[0] != expected[1]
    with ThreadPoolExecutor(len(questions)) as pool:
        found = list(pool.map(lambda question: list(chat.ask(question))[-1], questions))
    assert found == expected


def test_a_stream_goes_from_thread_to_thread_and_can_be_left(chat):
    """A server's threads: each piece may be read by another one, which may have begun the next question, too."""
    with ThreadPoolExecutor(1) as one, ThreadPoolExecutor(1) as other:
        left = chat.ask(QUESTIONS[0])
        for k in range(4):
            (one, other)[k % 2].submit(next, left).result(WAIT / 1000)
        waiting = one.submit(lambda: list(chat.ask(QUESTIONS[1]))[-1])
        assert not waiting.done()
        other.submit(left.close).result(WAIT / 1000)
        assert 'data-done="yes"' in waiting.result(WAIT / 1000).base
    assert not chat._lock.locked()


def test_without_gradio_the_command_says_what_to_install(monkeypatch, capsys, tmp_path):
    from assl_kit.app import cli

    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr("sys.argv", ["assl", "chat", "--run", str(tmp_path)])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == 2 and 'pip install "assl-kit[app]"' in capsys.readouterr().err


def test_a_port_that_is_taken_is_one_message(chat):
    pytest.importorskip("gradio", reason="needs gradio: pip install -e '.[app]'")
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ParameterError) as caught:
            chat_page.open_page(chat, port=port)
    assert str(caught.value) == f"cannot listen on 127.0.0.1, port {port}. Give another --port, or leave it out."


@pytest.mark.parametrize(("browser", "opened"), [("BackgroundBrowser", 1), ("GenericBrowser", 0), (None, 0)])
def test_the_page_is_shown_where_there_is_a_browser_with_windows(monkeypatch, capsys, browser, opened):
    addresses = []
    page = SimpleNamespace(local_url="http://127.0.0.1:7860/", block_thread=lambda: None)
    monkeypatch.setattr(chat_page, "open_page", lambda *_, **__: page)
    monkeypatch.setattr("webbrowser.open", addresses.append)

    def get():
        if browser is None:
            raise webbrowser.Error("none")
        return getattr(webbrowser, browser)("any")

    monkeypatch.setattr("webbrowser.get", get)
    chat_page.serve(SimpleNamespace(title="small"), show=True)
    assert addresses == [page.local_url] * opened and page.local_url in capsys.readouterr().out


@pytest.fixture
def served(chat):
    """The page on a port of its own."""
    pytest.importorskip("gradio", reason="needs gradio: pip install -e '.[app]'")
    chromium_path()
    page = chat_page.open_page(chat)
    yield page
    page.close()


def _check_places(page, similarities):
    """What is read stands where it is looked for: two by two, nothing cut off; bars as long as their numbers say."""
    answer, base, route, records = (page.locator(f"#{name}").bounding_box() for name in _PARTS)
    for left, right in ((answer, base), (route, records)):
        assert left["x"] + left["width"] <= right["x"] and left["y"] == right["y"]
        assert left["width"] == pytest.approx(right["width"], rel=0.05) and left["width"] > 300
    assert answer["y"] + answer["height"] <= route["y"] and answer["x"] == route["x"]
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), "nothing is wider than the page"
    for bar, similarity in zip(page.locator("#route .assl-bar").all(), similarities, strict=True):
        drawn = bar.locator("i").evaluate("bar => bar.getBoundingClientRect().width")
        assert drawn == pytest.approx(max(0, similarity) * bar.bounding_box()["width"], abs=3)
    size = page.locator("#answer .assl-answer").evaluate("part => parseFloat(getComputedStyle(part).fontSize)")
    assert size >= 16, "the answer can be read"


def test_the_page_in_a_browser(chat, served):
    question = QUESTIONS[0]
    last = list(chat.ask(question))[-1]
    with chromium() as browser:
        page, outside, errors = watched(browser, viewport={"width": 1200, "height": 900})
        page.goto(served.local_url)
        page.get_by_role("textbox").fill(question)
        page.get_by_role("button", name="Ask ·").click()
        page.wait_for_selector('#base [data-done="yes"]')
        assert page.inner_text("#answer .assl-answer") == _only(last.answer)
        assert page.inner_text("#base .assl-answer") == _only(last.base)
        numbers = [float(cell) for cell in page.locator("#route .assl-number").all_inner_texts()]
        similarities = chat.silversight.route([question]).similarities[0]
        assert numbers == [round(float(value), 3) for value in sorted(similarities, reverse=True)]
        assert page.locator("#route .assl-chosen").count() == 1 and page.inner_text("#route .assl-margin")
        assert page.locator("#records article").count() == 3
        _check_places(page, numbers)

        page.get_by_role("textbox").fill(" ")
        page.get_by_role("button", name="Ask ·").click()
        page.wait_for_selector("#route .assl-error")
        assert "he question is empty" in page.inner_text("#route") and not page.inner_text("#answer").strip()
        assert page.get_by_role("textbox").get_attribute("maxlength") == str(MAX_QUESTION)
        assert not outside and not errors


def test_enter_sends_and_an_example_is_asked_by_a_tap_on_a_phone(chat, served, monkeypatch):
    asked = []
    monkeypatch.setattr(chat, "_panels", lambda question: asked.append(question) or iter([Panels(route="asked")]))
    with chromium() as browser:
        page, outside, errors = watched(browser, viewport={"width": 390, "height": 844}, has_touch=True)
        page.goto(served.local_url)
        page.get_by_role("textbox").fill("一")
        page.keyboard.press("Shift+Enter")
        page.keyboard.type("二")
        assert page.get_by_role("textbox").input_value() == "一\n二" and not asked
        page.keyboard.press("Enter")
        page.get_by_text("asked").wait_for()
        assert asked == ["一\n二"]

        buttons = page.locator("#examples button").all()
        assert [button.inner_text() for button in buttons] == [f"{q}\n{e}".strip() for q, e in chat.examples.items()]
        buttons[1].tap()
        page.wait_for_function(f"document.querySelector('textarea').value === {list(chat.examples)[1]!r}")
        for _ in range(100):
            if len(asked) == 2:
                break
            page.wait_for_timeout(50)
        assert asked[1:] == [list(chat.examples)[1]]
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), (
            "nothing is wider than a phone"
        )
        assert not outside and not errors


def test_nothing_on_the_page_is_run(chat, served, monkeypatch):
    chat.records = TrainingRecords(chat.records.table.assign(question=HOSTILE, output=HOSTILE), chat.records.rows)
    monkeypatch.setattr(chat.silversight, "stream", lambda *_, **__: (text for text in [HOSTILE]))
    monkeypatch.setattr(chat.silversight.router, "min_similarity", -1.0)
    with chromium() as browser:
        page, outside, errors = watched(browser)
        page.goto(served.local_url)
        page.get_by_role("textbox").fill(HOSTILE)
        page.get_by_role("button", name="Ask ·").click()
        page.wait_for_selector('#base [data-done="yes"]')
        assert page.inner_text("#answer .assl-answer") == HOSTILE, "text as it is, and no template of the page's either"
        assert page.title() == f"assl chat · {chat.title}" and not page.locator("article img, #answer img").count()
        assert not outside and not errors


def test_two_browsers_and_one_that_leaves(chat, served, monkeypatch):
    """The one that goes away amid its answer does not hold up the others."""
    ended, stream = threading.Event(), chat.silversight.stream

    def slow(question, **options):
        if question == "很长":
            try:
                while True:
                    time.sleep(0.02)
                    yield "长"
            finally:
                ended.set()
        else:
            yield from stream(question, **options)

    monkeypatch.setattr(chat.silversight, "stream", slow)
    with chromium() as browser:
        pages = [watched(browser)[0] for _ in range(3)]
        for page, question in zip(pages, ("很长", QUESTIONS[0], QUESTIONS[1]), strict=True):
            page.goto(served.local_url)
            page.get_by_role("textbox").fill(question)
            page.get_by_role("button", name="Ask ·").click()
            if question == "很长":
                page.wait_for_selector('[data-done="no"]')
        assert not ended.is_set()
        pages[0].close()
        assert ended.wait(30), "the answer of who has left goes on"
        for page, question in zip(pages[1:], (QUESTIONS[0], QUESTIONS[1]), strict=True):
            page.wait_for_selector('#base [data-done="yes"]')
            (answer,) = chat.silversight.generate([question], max_new_tokens=chat.max_new_tokens)
            assert page.inner_text("#answer .assl-answer") == answer.text


def _only(html: str) -> str:
    """The text of an answer's panel."""
    return unescape(re.search(r'data-done="yes">(.*?)</div>', html, re.DOTALL)[1]).strip()


def test_the_queue_is_bounded_and_nothing_is_told_to_others(chat):
    pytest.importorskip("gradio", reason="needs gradio: pip install -e '.[app]'")
    page = chat_page.make_page(chat)
    assert page._queue.max_size == chat_page.MAX_WAITING and not page.analytics_enabled
    asks = [function for function in page.fns.values() if function.name == "answer"]
    assert asks and all(function.queue and function.concurrency_limit == 1 for function in asks)
