"""Ask a server whose LoRA adapters are the experts: each question goes to the expert nearest to it.

    python client.py "公司净利润增长三成，情绪如何？" --stream
    python client.py --file questions.jsonl --output answers.jsonl

A file holds one question a line, or JSON objects with "question", or "instruction" and "input" (with "system" and
"history", a list of pairs, if there are), or "messages". `assl export vllm`, `sglang` and `lorax` put this script
beside `routes.json`, `routes.py` and `forms.py`; together they stand alone and need sentence-transformers and
safetensors, not assl-kit. The server is of the kind that `routes.json` names.
Exit codes: 0 all questions answered; 1 the server failed; 2 wrong use.
"""

from __future__ import annotations

import argparse
import http.client
import io
import json
import os
import re
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from .forms import FORMS, Form
from .routes import MOST, ClientError, Routes, parse

CONTROL = re.compile(
    r"<(?=\|[^<>\s]+\|>|｜[^<>\s]+｜>|/?\w+_of_turn>|/?(?:s|bos|eos|pad|unk)>)|\[(?=/?(?:INST|SYS|SYSTEM_PROMPT)\])"
)
"""How control tokens of chat models begin. A server reads them in any text, so a word joiner is put behind the sign."""


class _OneServer(urllib.request.HTTPRedirectHandler):
    """The key goes to the server that was named, and nowhere else."""

    def redirect_request(self, *_: Any) -> None:
        """None: a redirect is an error."""


class Server:
    """A server, by its OpenAI-compatible interface.

    Parameters
    ----------
    address : str
        Such as ``http://localhost:8000``, with or without ``/v1``.
    key : str, optional
        Sent as bearer token. It is in no message.
    timeout : float
        Seconds to wait for an answer, or for the next piece of one.
    form : Form
        What its kind wants to be told; by default vLLM's.

    Attributes
    ----------
    thinking : bool or None
        Whether a reasoning base thinks before it answers; None: as its chat template has it.
    """

    thinking: bool | None = None

    def __init__(self, address: str, key: str | None = None, timeout: float = 120.0, form: Form = FORMS["vllm"]):
        self.address = check_address(address).rstrip("/").removesuffix("/v1")
        self.timeout, self.headers, self.form = timeout, {"Content-Type": "application/json"}, form
        if key:
            if not (key.isascii() and key.isprintable()):
                raise ClientError("the key holds line ends or other characters that a header cannot have", 2)
            self.headers["Authorization"] = f"Bearer {key}"

    def models(self) -> list[str] | None:
        """Names of the models that the server has; None: it does not say, but it is there."""
        with self._open("/v1/models" if self.form.lists else "/info") as reply:
            try:
                answer = parse(b"".join(_lines(reply)))
                if self.form.lists:
                    return [model["id"] for model in answer["data"]]
                _ = answer["model_id"]
                return None
            except (ValueError, KeyError, TypeError):
                raise ClientError(f"{self.address} is no OpenAI-compatible server") from None

    def ask(self, model: str, question: str | list[dict], max_tokens: int) -> str:
        """The whole answer."""
        content = body(model, question, max_tokens, thinking=self.thinking, form=self.form)
        with self._open("/v1/chat/completions", content) as reply:
            try:
                return (parse(b"".join(_lines(reply)))["choices"][0]["message"]["content"] or "").strip()
            except (ValueError, LookupError, TypeError, AttributeError):
                raise ClientError(f"{self.address} sent an answer of another form") from None

    def stream(self, model: str, question: str | list[dict], max_tokens: int) -> Iterator[str]:
        """The answer in pieces (server-sent events)."""
        content = body(model, question, max_tokens, stream=True, thinking=self.thinking, form=self.form)
        with self._open("/v1/chat/completions", content) as reply:
            for line in _lines(reply):
                data = line.decode("utf-8", "replace").strip()
                if not data.startswith("data:"):
                    continue
                data = data.removeprefix("data:").strip()
                if data == "[DONE]":
                    return
                try:
                    event = parse(data)
                    if "error" in event:
                        raise ClientError(f"the server stopped: {_message(event)}")
                    pieces = [choice["delta"].get("content") for choice in event["choices"]]
                except (ValueError, KeyError, TypeError, AttributeError):
                    raise ClientError(f"{self.address} sent an event of another form") from None
                yield from (piece for piece in pieces if piece)
        raise ClientError("the connection ended before the answer did")

    def _open(self, path: str, content: dict | None = None) -> http.client.HTTPResponse:
        data = None if content is None else json.dumps(content, ensure_ascii=False).encode("utf-8")
        request = urllib.request.Request(self.address + path, data=data, headers=self.headers)
        try:
            return urllib.request.build_opener(_OneServer).open(request, timeout=self.timeout)
        except urllib.error.HTTPError as error:
            try:
                message = _message(parse(error.read(MOST)))
            except (OSError, http.client.HTTPException, ValueError, AttributeError):
                message = error.reason
            hint = " Start the server with serve.sh, so that it knows the experts." if error.code == 404 else ""
            hint = hint or (" Give the server's key: --api-key." if error.code == 401 else "")
            raise ClientError(f"the server answered {error.code}: {message}.{hint}") from None
        except (OSError, http.client.HTTPException, ValueError) as error:  # URLError and time-outs are OSErrors
            reason = getattr(error, "reason", error)
            raise ClientError(f"there is no server at {self.address}: {reason}. Start it with serve.sh.") from None


def check_address(address: str) -> str:
    """The address of a server, if it is one; a name and password in it are in no message."""
    place = address.rpartition("@")[2]
    try:
        parts = urllib.parse.urlsplit(address)
        parts.hostname.encode("idna")  # type: ignore[union-attr]  # an address without a host is an AttributeError
        whole = parts.port != 0 and not parts.query and not parts.fragment and address.isascii()
    except (ValueError, AttributeError):
        whole = False
    if not address.startswith(("http://", "https://")) or not whole or not address.isprintable() or " " in address:
        raise ClientError(f"a server's address starts with http:// or https:// and names a host, not {place!r}", 2)
    if "@" in address:
        raise ClientError(f"the address of {place} holds a name or password. Give the key by --api-key.", 2)
    return address


def body(
    model: str,
    question: str | list[dict],
    max_tokens: int,
    stream: bool = False,
    thinking: bool | None = None,
    form: Form = FORMS["vllm"],
) -> dict:
    """What is sent for a question, or for the messages of a conversation: a chat completion, greedy."""
    messages = [{"role": "user", "content": question}] if isinstance(question, str) else question
    content = {
        "model": model,
        "messages": [m | {"content": CONTROL.sub("\\g<0>\u2060", m["content"])} for m in messages],
        "temperature": 0,
        form.limit: max_tokens,
        **form.more,
    }
    if thinking is not None and form.thinks:
        content["chat_template_kwargs"] = {"enable_thinking": thinking}
    return content | ({"stream": True} if stream else {})


def question_of(record: dict) -> str | list[dict]:
    """What a record asks: a text, or messages up to the last of the user's."""
    if "messages" in record:
        messages = [{"role": str(m["role"]), "content": m["content"].strip()} for m in record["messages"]]
        last = max(place for place, message in enumerate(messages) if message["role"] == "user")
        return messages[: last + 1] if last else messages[0]["content"]
    text = record["question"] if "question" in record else record["instruction"]
    text = (text + "\n" + record["input"] if (record.get("input") or "").strip() else text).strip()
    history = record.get("history") or []
    system = [{"role": "system", "content": record["system"]}] if (record.get("system") or "").strip() else []
    turns = parse(history) if isinstance(history, str) else history
    before = [{"role": r, "content": c + ""} for q, a in turns for r, c in (("user", q), ("assistant", a))]
    return [*system, *before, {"role": "user", "content": text}] if system or before else text


def read_questions(path: str) -> list[str | list[dict]]:
    """Questions of a file (``-``: standard input): one a line, or JSON objects; empty lines are passed over."""
    try:
        text = sys.stdin.read() if path == "-" else Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ClientError(f"{path} cannot be read as UTF-8 text: {error}", 2) from None
    questions: list[str | list[dict]] = []
    for number, line in enumerate(text.split("\n"), 1):
        question: str | list[dict] = line.strip()
        if line.strip().startswith("{"):
            try:
                question = question_of(parse(line))
            except (ValueError, KeyError, AttributeError, TypeError) as error:
                raise ClientError(f"{path}:{number} is no question: {error!r}", 2) from None
            if not (question if isinstance(question, str) else question[-1]["content"]).strip():
                raise ClientError(f"{path}:{number} is an empty question", 2)
        if question:
            questions.append(question)
    if not questions:
        raise ClientError(f"{path} holds no question", 2)
    return questions


def _lines(reply: http.client.HTTPResponse) -> Iterator[bytes]:
    left = MOST
    try:
        while left > 0 and (line := reply.readline(left)):
            left -= len(line)
            yield line
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise ClientError(f"the connection broke: {error!r}") from None
    if left <= 0:
        raise ClientError(f"the reply has more than {MOST:,} bytes")


def _message(content: dict) -> str:
    error = content.get("error", content)
    return str(error.get("message", error)) if isinstance(error, dict) else str(error)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Ask a server; each question goes to the expert nearest to it.")
    parser.add_argument("question", nargs="?", help="a question")
    parser.add_argument("--file", help="a file of questions, one a line or JSONL; - for standard input")
    parser.add_argument("--output", help="write the answers of --file there, as JSONL, instead of printing them")
    parser.add_argument("--server", help="its address; default: where a server of its kind listens on this machine")
    parser.add_argument("--api-key", default=os.environ.get("VLLM_API_KEY"), help="default $VLLM_API_KEY")
    parser.add_argument("--stream", action="store_true", help="print the answer to a question as it comes")
    parser.add_argument("--max-tokens", type=int, default=64, help="of an answer, default %(default)s")
    parser.add_argument("--jobs", type=int, default=16, help="requests at a time, default %(default)s")
    parser.add_argument("--timeout", type=float, default=120.0, help="seconds, default %(default)s")
    parser.add_argument("--min-similarity", type=float, help="below it the base answers alone; default as exported")
    parser.add_argument("--encoder", help="folder or hub id of the encoder; default as exported")
    parser.add_argument("--routes", default=str(Path(__file__).resolve().parent), help="folder of routes.json")
    asked = parser.parse_args()
    if (asked.question is None) == (asked.file is None):
        parser.error("give a question or --file")
    if asked.question is not None and not asked.question.strip():
        parser.error("the question is empty")
    if min(asked.max_tokens, asked.jobs) < 1 or not 0 < asked.timeout < 1e6:
        parser.error("--max-tokens, --jobs and --timeout must be positive")
    return asked


def run(asked: argparse.Namespace) -> int:
    """Answer what was asked; return the exit code."""
    questions = read_questions(asked.file) if asked.file is not None else [asked.question.strip()]
    try:
        json.dumps(questions, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        raise ClientError("a question is no valid text", 2) from None
    check_address(asked.server or FORMS["vllm"].address)  # before the encoder is loaded
    routes = Routes(asked.routes, asked.encoder, asked.min_similarity)
    form = FORMS[routes.kind]
    server = Server(asked.server or form.address, asked.api_key, asked.timeout, form)
    server.thinking = routes.thinking
    routed = routes.route(questions)
    listed = server.models()
    missing = sorted({name for name, _ in routed} - set(listed)) if listed is not None else []
    if missing:
        raise ClientError(
            f"the server has no model {missing[0]}. Start it with serve.sh, so that it knows the experts."
        )
    if asked.file is None:
        name, similarity = routed[0]
        if asked.stream:
            for piece in server.stream(routes.models[name], questions[0], asked.max_tokens):
                print(piece, end="", flush=True)
            print()
        else:
            print(server.ask(routes.models[name], questions[0], asked.max_tokens))
        print(f"({name}, similarity {similarity:.3f})")
        return 0

    def answer(row: int) -> dict:
        name, similarity = routed[row]
        record = {"question": questions[row], "model": name, "similarity": round(similarity, 4)}
        try:
            return record | {"answer": server.ask(routes.models[name], questions[row], asked.max_tokens)}
        except ClientError as error:
            return record | {"error": str(error)}

    failed = 0
    try:
        target = None
        if asked.output:
            target = open(asked.output, "w", encoding="utf-8", errors="backslashreplace", newline="\n")  # noqa: SIM115
        with target or nullcontext(sys.stdout) as out, ThreadPoolExecutor(asked.jobs) as pool:
            try:
                for record in pool.map(answer, range(len(questions))):
                    failed += "error" in record
                    print(json.dumps(record, ensure_ascii=False), file=out, flush=True)
            finally:
                pool.shutdown(cancel_futures=True)
    except OSError as error:
        raise ClientError(f"{asked.output or 'the output'} cannot be written: {error}", 2) from None
    if failed:
        print(f"client: {failed} of {len(questions)} questions failed", file=sys.stderr)
    return 1 if failed else 0


def main() -> None:
    """The command."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace")  # Windows: into a file or a pipe too
    try:
        sys.exit(run(_arguments()))
    except ClientError as error:
        print(f"client: {error}", file=sys.stderr)
        sys.exit(error.code)
    except KeyboardInterrupt:
        sys.exit(1)


if __name__ == "__main__":
    main()
