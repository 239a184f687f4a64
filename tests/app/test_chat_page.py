"""The page of `assl chat` over HTTP: whom it answers, what is open, how many may ask, and who has left."""

from __future__ import annotations

import http.client
import json
import re
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
from helpers.banks import TEXTS, make_bank
from helpers.browser import WAIT, chromium, watched

from assl_kit.app import chat_page
from assl_kit.app.chat import Chat, Panels, TrainingRecords
from assl_kit.experts.silversight import SilverSight
from assl_kit.model.identity import TINY_BASE

pytest.importorskip("gradio", reason="needs gradio: pip install -e '.[app]'")
SECRET = "只在训练记录里的话"
JOIN, DATA = "/gradio_api/queue/join", "/gradio_api/queue/data"
OPEN = {("GET", DATA), ("GET", "/gradio_api/startup-events"), ("POST", JOIN)}
OPEN |= {(method, path) for method in ("GET", "HEAD") for path in ("/", "/theme.css", "/favicon.ico")}


@pytest.fixture(scope="module")
def chat(tmp_path_factory):
    """The tiny base with random experts, which says little."""
    bank = make_bank(tmp_path_factory.mktemp("bank"), TINY_BASE)
    chat = Chat(SilverSight.from_pretrained(bank.path, device="cpu"), max_new_tokens=2, title="秘密的标题")
    table = pd.DataFrame({"id": ["a", "b", "c"], "cluster": [0, 1, 2], "copies": 1, "task": "qa", "question": SECRET})
    chat.records = TrainingRecords(table.assign(output=SECRET), bank.centroids.astype("f4"))
    return chat


@pytest.fixture(scope="module")
def served(chat):
    page = chat_page.open_page(chat)
    yield page
    page.close()


class Client:
    """Who asks a page by its own two requests, as the browser does."""

    def __init__(self, page, session: str):
        self.port, self.session = page.server_port, session
        self.number = next(number for number, function in page.fns.items() if function.name == "answer")

    def send(self, method="GET", path="/", body=None, **headers):
        """Status, headers and text of a reply; a header of None is left out, one of a list sent so often."""
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=WAIT / 1000)) as connection:
            self._request(connection, method, path, body, headers)
            reply = connection.getresponse()
            return reply.status, dict(reply.getheaders()), reply.read().decode("utf-8", "replace")

    def _request(self, connection, method, path, body, headers):
        connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
        length = {"Content-Type": "application/json", "Content-Length": str(len(body))} if body is not None else {}
        for name, values in ({"Host": f"127.0.0.1:{self.port}"} | length | headers).items():
            for value in [values] if isinstance(values, str) else values or []:
                connection.putheader(name, value)
        connection.endheaders(body)

    def body(self, question: str) -> bytes:
        return json.dumps({"data": [question], "fn_index": self.number, "session_hash": self.session}).encode()

    def join(self, question: str, **headers):
        return self.send("POST", JOIN, self.body(question), **headers)

    @contextmanager
    def events(self):
        """What the page tells of the question that was sent."""
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=WAIT / 1000)) as connection:
            self._request(connection, "GET", f"{DATA}?session_hash={self.session}", None, {})
            reply = connection.getresponse()
            assert reply.status == 200
            lines = (line.decode("utf-8") for line in reply if line.startswith(b"data:"))
            yield (json.loads(line.removeprefix("data:")) for line in lines)

    def ask(self, question: str) -> str | None:
        """The text of the expert's answer; None if the page is busy."""
        status, _, text = self.join(question)
        if status == 503:
            assert "Queue is full" in text
            return None
        assert status == 200
        with self.events() as events:
            (last,) = [event for event in events if event["msg"] == "process_completed"]
        assert last["success"]
        return re.search(r'data-done="yes">(.*?)</div>', last["output"]["data"][2], re.DOTALL)[1]


def eventually(condition, seconds: float = 30.0) -> bool:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)
    return condition()


STRANGERS = [
    (421, {"Host": "evil.example:{port}"}),
    (421, {"Host": "evil.example"}),
    (421, {"Host": "127.0.0.1.evil.example:{port}"}),
    (421, {"Host": "127.0.0.1@evil.example"}),
    (421, {"Host": "192.168.1.5:{port}"}),
    (421, {"Host": "2130706433:{port}"}),
    (421, {"Host": ""}),
    (421, {"Host": "evil.example", "Origin": "http://evil.example"}),
    (421, {"Host": "evil.example", "X-Forwarded-Host": "127.0.0.1:{port}"}),
    (403, {"Origin": "http://evil.example"}),
    (403, {"Origin": "null"}),
    (403, {"Origin": "http://127.0.0.1:1"}),
    (403, {"Origin": "http://127.0.0.1:{port}.evil.example"}),
    (403, {"Origin": ["http://127.0.0.1:{port}", "http://evil.example"]}),
]


@pytest.mark.parametrize(("status", "headers"), STRANGERS, ids=lambda value: str(value)[:60])
def test_another_name_or_page_gets_neither_answers_nor_records(chat, served, monkeypatch, status, headers):
    """DNS rebinding: the browser sends the site's own name as Host; another page's requests have its Origin."""
    monkeypatch.setattr(chat, "ask", lambda question: pytest.fail("a stranger's question was answered"))
    client, port = Client(served, "stranger"), served.server_port
    headers = {
        name: [value.format(port=port) for value in ([values] if isinstance(values, str) else values)]
        for name, values in headers.items()
    }
    for found, _, text in (
        client.send(**headers),
        client.send(path="/config", **headers),
        client.join(TEXTS[0], **headers),
        client.send(path=f"{DATA}?session_hash=stranger", **headers),
    ):
        assert found == status and "assl chat: " in text
        assert chat.title not in text and SECRET not in text and len(text) < 100
    assert "stranger" not in served._queue.pending_messages_per_session


@pytest.mark.parametrize("name", ["127.0.0.1:{port}", "localhost:{port}", "LOCALHOST:9000"])
def test_its_own_address_is_answered(chat, served, name):
    name = name.format(port=served.server_port)
    client = Client(served, f"own-{name}")
    status, _, text = client.send(Host=name, Origin=f"http://{name}")
    assert status == 200 and "秘密的标题" in text
    assert client.join(TEXTS[0], Host=name, Origin=f"http://{name}")[0] == 200
    with client.events() as events:
        assert SECRET in str(list(events))


def test_a_request_without_or_with_two_hosts_is_refused(served):
    client = Client(served, "none")
    assert client.send(Host=None)[0] in (400, 421)
    assert client.send(Host=[f"127.0.0.1:{served.server_port}", "evil.example"])[0] in (400, 421)


@pytest.mark.parametrize("host", ["192.168.1.5", "my-box.lan"])
def test_another_host_has_its_own_name_only(host):
    assert chat_page.own_address(f"{host}:7860", host)
    assert not chat_page.own_address("evil.example:7860", host) and not chat_page.own_address("10.0.0.1", host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "[::]"])
def test_all_addresses_are_numbers_or_the_machines_name(host):
    for asked in ("192.168.1.5:7860", "[fe80::1]:7860", "localhost", socket.gethostname().lower()):
        assert chat_page.own_address(asked, host)
    for asked in ("evil.example", "evil.example:7860", "1.2.3.4.evil.example", "a b", ""):
        assert not chat_page.own_address(asked, host)


def test_what_the_page_does_not_need_is_closed(served):
    """Every route that Gradio has, of whichever version, with each of its methods."""
    client, tried, kept = Client(served, "closed"), 0, set(Path(served.app.uploaded_file_dir).rglob("*"))
    form = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.txt"\r\n\r\nhello\r\n--x--\r\n'
    paths = {"/gradio_api/upload": {"POST"}, "/gradio_api/run/predict": {"POST"}, "/gradio_api/proxy=x": {"GET"}}
    for path, methods in served.app.openapi()["paths"].items():
        path = re.sub(r"\{[^}]*\}", "x", path)
        paths[path] = paths.get(path, set()) | {method.upper() for method in methods}
    for path, methods in paths.items():
        for method in methods:
            if (method, path) in OPEN or path in ("/static/x", "/assets/x"):
                continue
            told = {"Content-Type": "multipart/form-data; boundary=x"} if method == "POST" else {}
            status, _, text = client.send(method, path, form if method == "POST" else None, **told)
            assert status == 404 and (method == "HEAD" or text == "assl chat: there is no such page\n"), (method, path)
            tried += 1
    assert tried > 40 and set(Path(served.app.uploaded_file_dir).rglob("*")) == kept
    for path in ("/static/../../x", "/assets/%2e%2e/%2e%2e/routes.py", "//gradio_api/upload", "/assets//etc/passwd"):
        assert client.send(path=path)[0] == 404, path


def test_a_request_has_a_bounded_length(served):
    client = Client(served, "long")
    assert client.send("POST", JOIN, b"x" * (chat_page.MAX_BODY + 1))[0] == 413
    assert client.send("POST", JOIN, None, **{"Content-Length": "9" * 5000})[0] in (400, 413)
    for headers in ({}, {"Transfer-Encoding": "chunked"}, {"Transfer-Encoding": "chunked", "Content-Length": "9"}):
        assert client.send("POST", JOIN, None, **headers)[0] in (400, 411)
    assert len(client.body("𝄞" * 1000)) < chat_page.MAX_BODY


def test_it_cannot_be_framed(served):
    for path in ("/", "/theme.css", "/gradio_api/upload"):
        _, headers, _ = Client(served, "frame").send(path=path)
        headers = {name.lower(): value for name, value in headers.items()}
        assert headers["x-frame-options"] == "DENY" and "frame-ancestors 'none'" in headers["content-security-policy"]


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.5", "::"])
def test_another_host_is_warned_of_in_capitals(chat, monkeypatch, capsys, host):
    page = SimpleNamespace(local_url="http://x", block_thread=lambda: None)
    monkeypatch.setattr(chat_page, "open_page", lambda *_, **__: page)
    chat_page.serve(chat, host=host)
    warning = capsys.readouterr().err
    assert warning.startswith("WARNING: THE PAGE IS OPEN TO OTHER MACHINES") and "NO PASSWORD" in warning
    for local in ("127.0.0.1", "localhost", "::1", "[::1]"):
        chat_page.serve(chat, host=local)
        assert capsys.readouterr().err == ""


def test_two_hundred_questions_of_twenty_clients(chat, served, monkeypatch):
    """Each gets the answer to its own question or is told that the page is busy; nothing is kept of them."""
    questions = [f"{TEXTS[k % 3]}第{k}家公司" for k in range(20)]
    expected = [re.search(r'">(.*?)</div>', list(chat.ask(text))[-1].answer, re.DOTALL)[1] for text in questions]
    assert len(set(expected)) > 3
    waiting, at_once, busy, lock, ask = [], [], [], threading.Lock(), chat.ask

    def counted(question):
        with lock:
            at_once.append(1)
            waiting.append((len(served._queue), len(at_once)))
        try:
            yield from ask(question)
        finally:
            with lock:
                at_once.pop()

    def client(number):
        asking, answers = Client(served, f"client-{number}"), []
        for k in range(number, number + 5):
            while (answer := asking.ask(questions[k % 20])) is None:
                busy.append(number)
                time.sleep(0.1)
            answers.append((k % 20, answer))
        return answers

    monkeypatch.setattr(chat, "ask", counted)
    grown = []
    for _ in range(2):
        before = memory()
        with ThreadPoolExecutor(20) as pool:
            for answers in pool.map(client, range(20)):
                assert answers == [(k, expected[k]) for k, _ in answers] and len(answers) == 5
        grown.append(memory() - before)
    assert len(waiting) == 200 and {count for _, count in waiting} == {1}
    assert 1 < max(count for count, _ in waiting) <= chat_page.MAX_WAITING
    assert busy, "twenty at once are more than one and sixteen who wait"
    queue = served._queue  # the last answer is told a moment before it is forgotten
    assert eventually(lambda: not (len(queue) or any(queue.active_jobs) or queue.event_ids_to_events))
    assert eventually(lambda: not served.app.iterators)
    assert grown[1] < 16 << 20, grown


def memory() -> int:
    """Bytes of memory that this process holds; 0 where Linux does not tell them."""
    status = Path("/proc/self/statm")
    return int(status.read_text(encoding="utf-8").split()[1]) * 4096 if status.is_file() else 0


@pytest.fixture
def endless(chat, monkeypatch):
    """A question 很长 is answered without end; what has become of that answer."""
    state, stream = SimpleNamespace(pieces=0, ended=threading.Event(), asked=[]), chat.silversight.stream

    def slow(question, **options):
        state.asked.append(question)
        if question != "很长":
            yield from stream(question, **options)
            return
        try:
            while True:
                time.sleep(0.02)
                state.pieces += 1
                yield "长"
        finally:
            state.ended.set()

    monkeypatch.setattr(chat.silversight, "stream", slow)
    return state


def test_who_leaves_frees_the_model(chat, served, endless):
    """Amid the answer, and while waiting; the next one is answered as soon."""
    leaving, waiting = Client(served, "leaving"), Client(served, "waiting")
    assert leaving.join("很长")[0] == 200
    with leaving.events() as events:
        next(event for event in events if event["msg"] == "process_generating")
        assert waiting.join("排队的问题")[0] == 200
        with waiting.events() as told:
            next(event for event in told if event["msg"] == "estimation")
        assert eventually(lambda: not len(served._queue)), "who leaves the queue is not asked for"
    assert endless.ended.wait(30), "the answer of who has left goes on"
    pieces = endless.pieces
    assert Client(served, "next").ask(TEXTS[0]) is not None and endless.pieces == pieces
    assert "排队的问题" not in endless.asked and not chat._lock.locked()


def test_a_rebinding_site_and_a_frame_in_a_browser(chat, served):
    """evil.example has this machine's address; another page of this machine puts the page into a frame."""
    address = served.local_url.replace("127.0.0.1", "evil.example")
    with chromium(names="MAP evil.example 127.0.0.1") as browser:
        page = browser.new_page()
        reply = page.goto(address)
        assert reply.status == 421 and chat.title not in page.content()
        stolen = page.evaluate(
            """async ([path, body]) => {
                const sent = await fetch(path, {method: "POST", body, headers: {"Content-Type": "application/json"}});
                return [sent.status, await sent.text(), (await fetch("/config")).status];
            }""",
            [JOIN, Client(served, "rebound").body(TEXTS[0]).decode()],
        )
        assert stolen == [421, "assl chat: this address is not the page's own\n", 421]
        page.goto(served.local_url)
        page.get_by_role("textbox").wait_for()
        page.goto("about:blank")
        page.set_content(f'<iframe src="{served.local_url}" style="width: 90%; height: 500px"></iframe>')
        frame = page.frames[1]
        page.wait_for_function("document.querySelector('iframe') !== null")
        assert eventually(lambda: frame.url.startswith("chrome-error:")) and not frame.get_by_role("textbox").count()


def test_a_busy_page_in_a_browser(chat, served, endless):
    """Who is too many is told so, and a browser that leaves frees the model."""
    with chromium() as browser:
        page, outside, errors = watched(browser)
        page.goto(served.local_url)
        page.get_by_role("textbox").fill("很长")
        page.get_by_role("button", name="Ask ·").click()
        page.wait_for_selector('[data-done="no"]')
        others = [Client(served, f"other-{k}") for k in range(chat_page.MAX_WAITING + 1)]
        assert [other.join(TEXTS[0])[0] for other in others] == [200] * chat_page.MAX_WAITING + [503]
        late = watched(browser)[0]
        late.goto(served.local_url)
        late.get_by_role("textbox").fill(TEXTS[0])
        late.get_by_role("button", name="Ask ·").click()
        late.get_by_text("busy").first.wait_for()
        assert not outside and not errors and not endless.ended.is_set()
        page.close()
        assert endless.ended.wait(30), "the browser has left, and its answer goes on"
        pieces = endless.pieces
        late.get_by_role("button", name="Ask ·").click()
        late.wait_for_selector('#base [data-done="yes"]')
        assert endless.pieces == pieces


def test_visitors_come_and_go_and_next_to_nothing_is_kept(chat, monkeypatch):
    """Gradio keeps 40 KB for each of ten thousand visitors, if it is let."""
    monkeypatch.setattr(chat, "ask", lambda question: iter([Panels(answer='<div data-done="yes">1</div>')]))
    with closing(chat_page.open_page(chat)) as page:
        visitors = [Client(page, f"visitor-{k}") for k in range(chat_page.MAX_KEPT + 6)]
        assert {visitor.ask("问") for visitor in visitors} == {"1"}
        assert len(page.app.state_holder.session_data) <= chat_page.MAX_KEPT + 1
        assert len(page._queue.event_analytics) <= chat_page.MAX_KEPT
        assert eventually(lambda: not page._queue.event_ids_to_events and not page.app.iterators)
