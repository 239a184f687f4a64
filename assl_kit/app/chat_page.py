"""The page of ``assl chat``: what is asked and shown, on this machine only, with nothing loaded from elsewhere."""

from __future__ import annotations

import os
from collections.abc import Iterator
from html import escape
from typing import TYPE_CHECKING

from assl_kit.common.packages import need
from assl_kit.errors import ParameterError

from .chat import MAX_QUESTION, Chat

if TYPE_CHECKING:
    from gradio import Blocks

MAX_WAITING = 16  #: questions in the queue
_FONTS = ("system-ui", "PingFang SC", "Microsoft YaHei", "Noto Sans CJK SC", "WenQuanYi Micro Hei", "sans-serif")
_CSS = """
.assl h1 { margin: 0; font-size: 1.5rem; font-weight: 700; }
.assl h3 { margin: 0 0 .5rem; font-size: 1rem; font-weight: 700; }
.assl p { margin: .25rem 0; }
.assl .assl-quiet, .assl small, .assl caption { opacity: .75; font-size: .875rem; font-weight: 400; }
.assl .assl-error { color: var(--error-text-color); font-weight: 600; }
.assl .assl-error::first-letter { text-transform: uppercase; }
.assl table { width: 100%; border-collapse: collapse; margin: .5rem 0; }
.assl caption { text-align: left; padding: .25rem 0; }
.assl table, .assl tbody, .assl tr, .assl th, .assl td { border: 0; background: none; }
.assl th { text-align: left; font-weight: 400; padding: .375rem .75rem .375rem 0; width: 45%; }
.assl small { display: block; overflow-wrap: break-word; }
.assl .assl-chosen th, .assl .assl-chosen td { font-weight: 700; }
.assl .assl-bar { padding: 0; }
.assl .assl-bar i { display: block; height: .75rem; border-radius: .25rem; background: var(--border-color-primary); }
.assl .assl-chosen .assl-bar i { background: var(--color-accent); }
.assl .assl-number { text-align: right; padding: 0 0 0 .75rem; width: 4rem; font-variant-numeric: tabular-nums; }
.assl .assl-answer, .assl .assl-record p { white-space: pre-wrap; overflow-wrap: anywhere; }
.assl .assl-answer { font-size: 1.125rem; line-height: 1.6; min-height: 3.5rem; padding: .75rem 1rem;
  border: 1px solid var(--border-color-primary); border-radius: .5rem; }
#answer .assl-answer { border-color: var(--color-accent); }
.assl .assl-answer[data-done="no"]::after { content: "▍"; color: var(--color-accent); }
.assl .assl-record { border-left: .25rem solid var(--border-color-primary); padding-left: .75rem; margin: .75rem 0; }
.assl .assl-output::before { content: "→ "; color: var(--color-accent); }
@media (max-width: 40rem) { .assl-row { flex-direction: column; } }
"""


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
    import gradio as gr

    def answer(question: str) -> Iterator[tuple[str, str, str, str]]:
        for panels in chat.ask(question):
            yield panels.route, panels.records, panels.answer, panels.base

    with gr.Blocks(title=f"assl chat · {chat.title}", analytics_enabled=False) as page:
        gr.HTML(_heading(chat), elem_classes="assl")
        question = gr.Textbox(
            label=f"Question in Chinese (at most {MAX_QUESTION:,} characters; Shift+Enter sends)",
            lines=3,
            max_lines=10,
            max_length=MAX_QUESTION,
            autofocus=True,
        )
        send = gr.Button("Ask", variant="primary")
        gr.Examples(chat.examples, question, label="Or one of these")
        with gr.Row(elem_classes="assl-row"):
            answered, base = (gr.HTML(elem_id=name, elem_classes="assl") for name in ("answer", "base"))
        with gr.Row(elem_classes="assl-row"):
            route, records = (gr.HTML(elem_id=name, elem_classes="assl") for name in ("route", "records"))
        gr.on(
            [send.click, question.submit],
            answer,
            question,
            [route, records, answered, base],
            concurrency_limit=1,
            show_progress="minimal",
            api_visibility="private",
        )
    return page.queue(max_size=MAX_WAITING, api_open=False)


def _heading(chat: Chat) -> str:
    bank = chat.silversight.bank
    about = f"{chat.title} · {len(bank)} experts on {bank.base['id']}. Answers can be wrong."
    return f'<h1>Ask the experts</h1><p class="assl-quiet">{escape(about)}</p>'


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
    import gradio as gr

    try:
        page.launch(
            server_name=host,
            server_port=port,
            share=False,
            quiet=True,
            prevent_thread_lock=True,
            ssr_mode=False,
            mcp_server=False,
            pwa=False,
            enable_monitoring=False,
            max_file_size="1kb",
            footer_links=[],
            theme=gr.themes.Default(font=_FONTS, font_mono=("ui-monospace", "monospace")),
            css=_CSS,
        )
    except OSError as error:
        place = f"port {port}" if port else "a port from 7860"  # gradio's own message tells of gradio's settings
        hint = "Give another --port, or leave it out." if port else "Give a --port that is free, or another --host."
        raise ParameterError(f"cannot listen on {host}, {place}", hint=hint) from error
    return page


def serve(chat: Chat, *, host: str = "127.0.0.1", port: int | None = None) -> None:
    """Serve the page until Ctrl-C."""
    page = open_page(chat, host=host, port=port)
    print(f"{chat.title}: {page.local_url} (Ctrl-C ends it)", flush=True)
    page.block_thread()
