"""The page of ``assl chat``: what is asked and shown, on this machine only, with nothing loaded from elsewhere."""

from __future__ import annotations

import json
import os
import re
import socket
import sys
import webbrowser
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

from assl_kit.common.packages import need
from assl_kit.errors import ParameterError

from .chat import MAX_QUESTION, Chat, learnt
from .chat_html import CSS, FONTS, html_of

if TYPE_CHECKING:
    from gradio import Blocks

    Message = MutableMapping[str, Any]
    Receive = Callable[[], Awaitable[Message]]
    Send = Callable[[Message], Awaitable[None]]
    App = Callable[[Message, Receive, Send], Awaitable[None]]

MAX_WAITING = 16  #: questions in the queue
MAX_KEPT = 64  #: visitors of whom Gradio keeps its copy of the page's state (nothing that they asked), 40 KB each
MAX_BODY = 16 << 10  #: bytes of a request; the longest question has 12,000 when each character is escaped
_READ = re.compile(r"/|/theme\.css|/favicon\.ico|/(assets|static)(/[\w.-]+)+|/gradio_api/(startup-events|queue/data)")
_SENT = "/gradio_api/queue/join"
_HEADERS = (
    (b"content-security-policy", b"frame-ancestors 'none'"),
    (b"x-frame-options", b"DENY"),
    (b"x-content-type-options", b"nosniff"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"referrer-policy", b"no-referrer"),
)


def check_installed() -> None:
    """Refuse to go on without Gradio.

    Raises
    ------
    ParameterError
    """
    need("gradio", "assl chat", "app", name="Gradio")


def make_page(chat: Chat) -> Blocks:
    """The page, not yet served.

    Parameters
    ----------
    chat : Chat

    Returns
    -------
    gradio.Blocks
        One question is answered at a time, `MAX_WAITING` wait, more are refused. No analytics; nothing of what is asked
        is kept, neither here nor in the browser.
    """
    check_installed()
    os.environ |= {"GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_RUN_HISTORY": "False"}
    os.environ["GRADIO_ANALYTICS_MAX_EVENTS"] = str(MAX_KEPT)
    import gradio as gr

    def answer(question: str) -> Iterator[tuple[str, str, str, str]]:
        for panels in chat.ask(question):
            yield panels.route, panels.records, panels.answer, panels.base

    with gr.Blocks(title=f"assl chat · {chat.title}", analytics_enabled=False, fill_width=True) as page:
        gr.HTML(_heading(chat), elem_classes="assl")
        with gr.Row(elem_id="asking"):
            question = gr.Textbox(
                label="Your question · 你的问题",
                info=f"Enter sends, Shift+Enter begins a new line; at most {MAX_QUESTION:,} characters",
                lines=1,  # of more lines Gradio would send at Shift+Enter
                max_lines=10,
                max_length=MAX_QUESTION,
                autofocus=True,
                scale=4,
            )
            send = gr.Button("Ask · 提问", variant="primary", min_width=120)
        gr.HTML("<p>Or one of these · 或者试试</p>", elem_classes="assl", padding=False)
        with gr.Row(elem_id="examples"):
            examples = {text: gr.Button(f"{text}\n{english}".strip()) for text, english in chat.examples.items()}
        with gr.Row(elem_classes="assl-row"):
            answered, base = (gr.HTML(elem_id=name, elem_classes="assl") for name in ("answer", "base"))
        with gr.Row(elem_classes="assl-row"):
            route, records = (gr.HTML(elem_id=name, elem_classes="assl") for name in ("route", "records"))
        asking: dict[str, Any] = {
            "fn": answer,
            "inputs": question,
            "outputs": [route, records, answered, base],
            "concurrency_limit": 1,
            "show_progress": "minimal",
            "api_visibility": "private",
        }
        gr.on([send.click, question.submit], **asking)
        for text, example in examples.items():  # it is written in the browser: the server needs no route for that
            written = example.click(None, None, question, js=f"() => {json.dumps(text)}", api_visibility="private")
            written.then(**asking)
    return page.queue(max_size=MAX_WAITING, api_open=False)


def _heading(chat: Chat) -> str:
    bank = chat.silversight.bank
    return html_of("heading", title=chat.title, experts=len(bank), base=bank.base["id"], learnt=learnt(bank))


class Guard:
    """Lets requests through that are for the page's own address and for what the page needs, and no others.

    Parameters
    ----------
    app : ASGI application
        The page.
    host : str
        The address that it listens on.

    Notes
    -----
    A site that a browser is on may give its own name this machine's address and then read the page as if it were the
    site's ("DNS rebinding"). The browser sends the site's name as Host all the same, so other names than those of
    `own_address` get 421; an Origin other than the Host gets 403. Of the routes that Gradio has (uploads, files,
    proxies, API), only those that the page asks for are open, with `MAX_BODY` bytes at most.
    """

    def __init__(self, app: App, host: str) -> None:
        self.app, self.host = app, host

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), *_HEADERS]
            await send(message)

        status, why = self._refusal(scope)
        if not status:
            await self.app(scope, receive, send_guarded)
            return
        headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"connection", b"close")]
        await send_guarded({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": f"assl chat: {why}\n".encode()})

    def _refusal(self, scope: Message) -> tuple[int, str]:
        """Status and reason of a refusal; 0 if there is none."""
        headers: dict[str, list[str]] = {}
        for name, value in scope["headers"]:
            headers.setdefault(name.decode("latin-1").lower(), []).append(value.decode("latin-1").strip().lower())
        hosts, origins = headers.get("host", []), headers.get("origin", [])
        if len(hosts) != 1 or not own_address(hosts[0], self.host):
            return 421, "this address is not the page's own"
        if origins and not (len(origins) == 1 and origins[0] in (f"http://{hosts[0]}", f"https://{hosts[0]}")):
            return 403, "the request comes from another page"
        method, path = scope["method"], scope["path"]
        if method in ("GET", "HEAD"):
            return (0, "") if _READ.fullmatch(path) and ".." not in path else (404, "there is no such page")
        if method != "POST" or path != _SENT:
            return 404, "there is no such page"
        lengths = headers.get("content-length", [])
        if "transfer-encoding" in headers or len(lengths) != 1 or not lengths[0].isdecimal():
            return 411, "the request does not say how long it is"
        return (413, "the request is too long") if int(lengths[0][:20]) > MAX_BODY else (0, "")


def own_address(asked: str, host: str) -> bool:
    """Whether a Host header names the address that a page listens on, by any port (a tunnel may have another).

    Parameters
    ----------
    asked : str
        The header, in small letters.
    host : str
        What the page listens on. This machine alone: ``127.0.0.1`` and ``localhost``. All of its addresses
        (``0.0.0.0``, ``::``): those, its name, and every address in numbers, which no site can take as its name.

    Examples
    --------
    >>> [own_address(asked, "127.0.0.1") for asked in ("localhost:7860", "127.0.0.1", "evil.example:7860", "[::1]")]
    [True, True, False, True]
    >>> [own_address(asked, "0.0.0.0") for asked in ("192.168.1.5:7860", "evil.example")]
    [True, False]
    """
    parts = re.fullmatch(r"(\[[0-9a-f:.]+\]|[^\[\]:@/\s]+)(:\d{1,5})?", asked)
    if not parts:
        return False
    name, listening = parts[1].strip("[]"), host.strip("[]").lower()
    if name == listening:
        return True
    if _is_local(listening):
        return name == "localhost" or _is_local(name)
    if listening in ("0.0.0.0", "::", ""):
        try:
            return bool(ip_address(name))
        except ValueError:
            return name in ("localhost", socket.gethostname().lower(), socket.getfqdn().lower())
    return False


def _is_local(host: str) -> bool:
    return host in ("localhost", "127.0.0.1", "::1")


def open_page(chat: Chat, *, host: str = "127.0.0.1", port: int | None = None) -> Blocks:
    """Serve the page in a thread.

    Parameters
    ----------
    chat : Chat
    host : str
        Address to listen on.
    port : int, optional
        Default: the first free one from 7860.

    Returns
    -------
    gradio.Blocks
        With ``local_url``; ``close()`` ends it.

    Raises
    ------
    ParameterError
        If Gradio is not installed, or the address cannot be listened on.
    """
    page = make_page(chat)
    from starlette.middleware import Middleware

    host = f"[{host}]" if ":" in host and not host.startswith("[") else host
    try:
        page.launch(
            server_name=host,
            server_port=port,
            app_kwargs={"middleware": [Middleware(Guard, host=host)]},
            prevent_thread_lock=True,
            **_launch_options(),
        )
    except OSError as error:
        place = f"port {port}" if port else "a port from 7860"  # gradio's own message tells of gradio's settings
        hint = "Give another --port, or leave it out." if port else "Give a --port that is free, or another --host."
        raise ParameterError(f"cannot listen on {host}, {place}", hint=hint) from error
    return page


def launch_public(chat: Chat) -> None:
    """Serve the page to everybody until the process ends, as a Gradio Space does.

    Gradio takes the address from GRADIO_SERVER_NAME and GRADIO_SERVER_PORT. There is no `Guard`: the page has the name
    that its host gives it and stands in a frame of the host's, and whoever reaches it may ask.

    Parameters
    ----------
    chat : Chat
        Without training records, if those are not for everybody.
    """
    make_page(chat).launch(**_launch_options())


def _launch_options() -> dict[str, Any]:
    import gradio as gr

    return {
        "share": False,
        "quiet": True,
        "ssr_mode": False,
        "mcp_server": False,
        "pwa": False,
        "enable_monitoring": False,
        "max_file_size": "1kb",
        "state_session_capacity": MAX_KEPT,
        "footer_links": [],
        "theme": gr.themes.Default(font=FONTS, font_mono=("ui-monospace", "monospace")),
        "css": CSS,
    }


def serve(chat: Chat, *, host: str = "127.0.0.1", port: int | None = None, show: bool = False) -> None:
    """Serve the page until Ctrl-C; show it in this machine's browser, if that has a window of its own."""
    page = open_page(chat, host=host, port=port)
    if not _is_local(host.strip("[]").lower()):
        print(
            f"WARNING: THE PAGE IS OPEN TO OTHER MACHINES ({host}). THERE IS NO PASSWORD: WHOEVER REACHES IT CAN ASK "
            "QUESTIONS AND READ TRAINING RECORDS.",
            file=sys.stderr,
        )
    print(f"{chat.title}: {page.local_url} (Ctrl-C ends it)", flush=True)
    if show and _has_windows():
        webbrowser.open(str(page.local_url))
    page.block_thread()


def _has_windows() -> bool:
    """Whether there is a browser, and it is none that would take over the terminal (lynx, w3m)."""
    try:
        return type(webbrowser.get()) is not webbrowser.GenericBrowser
    except webbrowser.Error:
        return False
