"""Ask a vLLM server whose LoRA adapters are the experts: each question goes to the expert nearest to it.

    python client.py "公司上半年净利润同比增长32%，情绪是积极还是消极？" --stream
    python client.py --file questions.jsonl --output answers.jsonl

A file holds one question a line, or JSON objects with "question", or "instruction" and "input" (with "system" and
"history", a list of pairs, if there are), or "messages". `assl export vllm` puts this script beside `routes.json`; it
stands alone and needs sentence-transformers and safetensors, not assl-kit.
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
import unicodedata
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np

CONTROL = re.compile(
    r"<(?=\|[^<>\s]+\|>|｜[^<>\s]+｜>|/?\w+_of_turn>|/?(?:s|bos|eos|pad|unk)>)|\[(?=/?(?:INST|SYS|SYSTEM_PROMPT)\])"
)
"""How control tokens of chat models begin. A server reads them in any text, so a word joiner is put behind the sign."""
MOST = 32 << 20  #: bytes of a file that describes something, and of a server's reply
NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
"""A repository of the hub."""

# What an encoder may name is what assl-kit lets it name (assl_kit/common/trust.py).
_CONFIGS = ("config.json", "modules.json", "sentence_*_config.json", "*.index.json")
_MODULE = re.compile(
    r"sentence_transformers\.(\w+\.)*(BoW|CNN|Dense|Dropout|LSTM|LayerNorm|Normalize|Pooling|StaticEmbedding|"
    r"Transformer|WeightedLayerPooling|WordWeights)"
)
_ACTIVATION = re.compile(r"torch\.nn\.(modules\.)?(activation|linear)\.[A-Z]\w*|[^.]*")
_ARGUMENTS = re.compile(r"(model|tokenizer|config)_args|(model|processor|config)_kwargs")
_OPTIONS = re.compile(
    r"add_(eos_token|pooling_layer|prefix_space)|attn_implementation|do_lower_case|dtype|low_cpu_mem_usage|max_length|"
    r"max_position_embeddings|model_max_length|(padding|truncation)_side|torch_dtype|unpad_inputs|use_fast|"
    r"use_memory_efficient_attention"
)


class ClientError(Exception):
    """Something a user can act on."""

    def __init__(self, message: str, code: int = 1):
        super().__init__(message)
        self.code = code


class Routes:
    """The route table: which model name answers a question.

    Parameters
    ----------
    folder : path-like
        With `routes.json`, `router.safetensors` and, where it was fitted, `encoder/`; checked as a stranger's.
    encoder : str, optional
        Folder or hub id of the encoder, instead of the one named in `routes.json`.
    min_similarity : float, optional
        In [−1, 1]; instead of the one in `routes.json`. Below it the base answers alone.

    Raises
    ------
    ClientError
        If files are missing or wrong, or the encoder is not the one the centroids were made with.
    """

    def __init__(self, folder: str | os.PathLike, encoder: str | None = None, min_similarity: float | None = None):
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        folder = Path(folder)
        try:
            table = read_json(folder / "routes.json")
            router, exported = table["router"], table["encoder"]
            tensors = load_file(_inside(folder, router["file"]))
            self.names, self.base = [expert["name"] for expert in table["experts"]], table["base_model"]
            self.floor = router["min_similarity"] if min_similarity is None else min_similarity
            self.thinking = (table.get("base") or {}).get("thinking")
            self.centroids, stored = (tensors[name].astype(np.float64) for name in ("centroids", "probe"))
            if not all(isinstance(text, str) for text in [*self.names, self.base, exported["id"], *router["probe"]]):
                raise ValueError("a name is no text")
            if not -1 <= self.floor <= 1:
                raise ValueError(f"min_similarity is {self.floor}")
            if self.centroids.shape != (len(self.names), self.centroids.shape[1]) or not self.names:
                raise ValueError(f"{len(self.names)} experts have centroids of shape {self.centroids.shape}")
            carried = _inside(folder, exported["path"]) if exported["path"] else None
        except (OSError, ValueError, LookupError, TypeError, AttributeError, SafetensorError) as error:
            raise ClientError(f"there is no whole route table in {folder}: {error}", 2) from None
        name = encoder or str(carried or exported["id"])
        self.encoder = load_encoder(name, is_place=bool(encoder or carried))
        probe = self.embed(router["probe"])
        if probe.shape != stored.shape or not np.abs(probe - stored).max(initial=0) <= 1e-3:
            raise ClientError(f"{name} is not the encoder that the centroids were made with ({exported['id']})", 2)

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Rows of unit length, (n, d), float64."""
        rows = np.asarray(self.encoder.encode(list(texts), show_progress_bar=False), dtype=np.float64)
        length = np.linalg.norm(rows, axis=1, keepdims=True)
        if not np.isfinite(length).all() or not length.all():
            raise ClientError("a question has no embedding", 2)
        return rows / length

    def route(self, questions: Sequence[str | list[dict]]) -> list[tuple[str, float]]:
        """Model name and similarity of each question, or conversation: the question counts, and what was before it."""
        texts = [q if isinstance(q, str) else "\n".join(m["content"] for m in [q[-1], *q[:-1]]) for q in questions]
        known = np.array([self._known(text) for text in texts])[:, None]
        similarities = (np.clip(self.embed(texts) @ self.centroids.T, -1, 1) * known + 0.0).astype(np.float32)
        nearest = similarities.argmax(axis=1)
        best = similarities[np.arange(len(nearest)), nearest]
        below = best < np.float32(self.floor)
        return [(self.base if low else self.names[k], float(s)) for k, s, low in zip(nearest, best, below, strict=True)]

    def _known(self, text: str) -> float:
        """How much of a text a fitted encoder knows: assl-kit's `known_shares`, in short."""
        if [type(module).__name__ for module in self.encoder] != ["StaticEmbedding", "Normalize"]:
            return 1.0
        static: Any = self.encoder[0]
        encoding = static.tokenizer.encode(text, add_special_tokens=False)
        lengths = static.embedding.weight.detach()[encoding.ids].norm(dim=1).tolist()
        words: dict[int, list[tuple[str, bool]]] = {}
        for word, (start, end), length in zip(encoding.word_ids, encoding.offsets, lengths, strict=True):
            words.setdefault(word, []).append((text[start:end], length > 1.001e-3))
        total, known = 0, 0
        for tokens in words.values():
            sizes = [sum(map(str.isalnum, part)) for part, _ in tokens]
            in_han = any(unicodedata.name(character, "").startswith("CJK UNIFIED") for character in tokens[0][0])
            whole = all(there for _, there in tokens) and min(sizes[:-1], default=3) >= 3
            total += sum(sizes)
            known += sum(size for size, (_, there) in zip(sizes, tokens, strict=True) if (there if in_han else whole))
        return known / max(total, 1)


def read_json(file: Path) -> Any:
    """A file of at most `MOST` bytes; all that is wrong with it is an OSError or a ValueError."""
    with open(file, "rb") as opened:
        text = opened.read(MOST + 1)
    if len(text) > MOST:
        raise ValueError(f"{file.name} has more than {MOST:,} bytes")
    return parse(text)


def parse(text: str | bytes) -> Any:
    """``json.loads``; JSON that is nested too deeply is a ValueError too."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("the JSON is nested too deeply") from None


def _leads_out(name: str) -> bool:
    return name.startswith(("/", "~")) or ".." in name.split("/") or any(sign in name for sign in "\\:\0")


def _inside(folder: Path, name: str) -> Path:
    """A file or folder that `routes.json` names; it may not lie elsewhere, nor be reached by a link that leads there."""
    if _leads_out(name) or not (folder / name).resolve().is_relative_to(folder.resolve()):
        raise ClientError(f"routes.json names a file outside {folder}: {name!r:.80}", 2)
    if not (folder / name).is_file() and not (folder / name).is_dir():
        raise ValueError(f"{name!r:.80} is missing")
    return folder / name


def load_encoder(name: str, is_place: bool) -> Any:
    """A sentence-transformers model: of a folder, if it may be named by its place; else of the hub."""
    from sentence_transformers import SentenceTransformer

    if not is_place and not NAME.fullmatch(name):
        raise ClientError(f"routes.json names an encoder outside, {name!r:.80}. Give --encoder FOLDER.", 2)
    try:
        folder = Path(name).expanduser()
        if not (is_place and folder.is_dir()):
            from huggingface_hub import snapshot_download

            known = name if "/" in name else f"sentence-transformers/{name}"
            folder = Path(snapshot_download(known, allow_patterns=["*.json", "*.safetensors", "*.txt", "*.model"]))
        check_encoder(folder)
        options = {"use_safetensors": True}
        return SentenceTransformer(str(folder), device="cpu", trust_remote_code=False, model_kwargs=options)
    except ClientError:
        raise
    except Exception as error:  # the library raises many kinds
        raise ClientError(f"the encoder {name} could not be loaded: {error}. Give --encoder FOLDER.", 2) from None


def check_encoder(folder: Path) -> None:
    """Refuse an encoder that names code, or what lies outside its folder, before the library reads it."""
    root = folder.resolve()
    root = root.parents[1] if root.parent.name == "snapshots" else root  # the hub's cache links into its blobs
    for module in read_json(folder / "modules.json"):
        if not _MODULE.fullmatch(module["type"]):
            raise ClientError(f"the encoder {folder} asks for code from elsewhere and is not loaded", 2)
        if _leads_out(module.get("path", "")):
            raise ClientError(f"a module of the encoder {folder} lies outside: {module['path']!r:.80}", 2)
    for file in sorted(folder.rglob("*")):
        pickled = file.suffix == ".bin" and not (file.parent / "model.safetensors").is_file()
        if pickled or not file.resolve().is_relative_to(root):
            raise ClientError(f"{file} is {'pickled' if pickled else 'a link out of the encoder'} and is not read", 2)
        parts = [read_json(file)] if any(fnmatch(file.name, pattern) for pattern in _CONFIGS) else []
        while parts:
            part = parts.pop()
            for key, value in part.items() if isinstance(part, dict) else []:
                if _harmful(key, value):
                    raise ClientError(f"{file} asks for {key}={str(value)[:60]} and is not read", 2)
            parts += part.values() if isinstance(part, dict) else part if isinstance(part, list) else []


def _harmful(key: str, value: Any) -> bool:
    values = list(value.values()) if isinstance(value, dict) else [value]
    if _ARGUMENTS.fullmatch(key) and isinstance(value, dict):
        return not all(_OPTIONS.fullmatch(o) or (o == "trust_remote_code" and v is False) for o, v in value.items())
    if key.endswith("attn_implementation"):  # compiled code of the hub
        return any("/" in str(part) or ":" in str(part) for part in values)
    if key == "activation_function":
        return not _ACTIVATION.fullmatch(str(value))
    return key == "weight_map" and not all(re.fullmatch(r"\w[\w.-]*\.safetensors", str(part)) for part in values)


class _OneServer(urllib.request.HTTPRedirectHandler):
    """The key goes to the server that was named, and nowhere else."""

    def redirect_request(self, *_: Any) -> None:
        """None: a redirect is an error."""


class Server:
    """A vLLM server, by its OpenAI-compatible interface.

    Parameters
    ----------
    address : str
        Such as ``http://localhost:8000``, with or without ``/v1``.
    key : str, optional
        Sent as bearer token. It is in no message.
    timeout : float
        Seconds to wait for an answer, or for the next piece of one.

    Attributes
    ----------
    thinking : bool or None
        Whether a reasoning base thinks before it answers; None: as its chat template has it.
    """

    thinking: bool | None = None

    def __init__(self, address: str, key: str | None = None, timeout: float = 120.0):
        self.address = check_address(address).rstrip("/").removesuffix("/v1")
        self.timeout, self.headers = timeout, {"Content-Type": "application/json"}
        if key:
            if not (key.isascii() and key.isprintable()):
                raise ClientError("the key holds line ends or other characters that a header cannot have", 2)
            self.headers["Authorization"] = f"Bearer {key}"

    def models(self) -> list[str]:
        """Names of the models that the server has."""
        with self._open("/v1/models") as reply:
            try:
                return [model["id"] for model in parse(b"".join(_lines(reply)))["data"]]
            except (ValueError, KeyError, TypeError):
                raise ClientError(f"{self.address} is no OpenAI-compatible server") from None

    def ask(self, model: str, question: str | list[dict], max_tokens: int) -> str:
        """The whole answer."""
        content = body(model, question, max_tokens, thinking=self.thinking)
        with self._open("/v1/chat/completions", content) as reply:
            try:
                return (parse(b"".join(_lines(reply)))["choices"][0]["message"]["content"] or "").strip()
            except (ValueError, LookupError, TypeError, AttributeError):
                raise ClientError(f"{self.address} sent an answer of another form") from None

    def stream(self, model: str, question: str | list[dict], max_tokens: int) -> Iterator[str]:
        """The answer in pieces (server-sent events)."""
        content = body(model, question, max_tokens, stream=True, thinking=self.thinking)
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
    model: str, question: str | list[dict], max_tokens: int, stream: bool = False, thinking: bool | None = None
) -> dict:
    """What is sent for a question, or for the messages of a conversation: a chat completion, greedy."""
    messages = [{"role": "user", "content": question}] if isinstance(question, str) else question
    content = {
        "model": model,
        "messages": [m | {"content": CONTROL.sub("\\g<0>\u2060", m["content"])} for m in messages],
        "temperature": 0,
        "max_completion_tokens": max_tokens,
    }
    if thinking is not None:
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
    parser = argparse.ArgumentParser(description="Ask a vLLM server; each question goes to the expert nearest to it.")
    parser.add_argument("question", nargs="?", help="a question")
    parser.add_argument("--file", help="a file of questions, one a line or JSONL; - for standard input")
    parser.add_argument("--output", help="write the answers of --file there, as JSONL, instead of printing them")
    parser.add_argument("--server", default="http://localhost:8000", help="default %(default)s")
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
    server = Server(asked.server, asked.api_key, asked.timeout)
    routes = Routes(asked.routes, asked.encoder, asked.min_similarity)
    server.thinking = routes.thinking
    routed = routes.route(questions)
    missing = sorted({name for name, _ in routed} - set(server.models()))
    if missing:
        raise ClientError(
            f"the server has no model {missing[0]}. Start it with serve.sh, so that it knows the experts."
        )
    if asked.file is None:
        name, similarity = routed[0]
        if asked.stream:
            for piece in server.stream(name, questions[0], asked.max_tokens):
                print(piece, end="", flush=True)
            print()
        else:
            print(server.ask(name, questions[0], asked.max_tokens))
        print(f"({name}, similarity {similarity:.3f})")
        return 0

    def answer(row: int) -> dict:
        model, similarity = routed[row]
        record = {"question": questions[row], "model": model, "similarity": round(similarity, 4)}
        try:
            return record | {"answer": server.ask(model, questions[row], asked.max_tokens)}
        except ClientError as error:
            return record | {"error": str(error)}

    failed, as_text = 0, {"encoding": "utf-8", "errors": "backslashreplace"}
    try:
        target: Any = open(asked.output, "w", **as_text) if asked.output else nullcontext(sys.stdout)  # noqa: SIM115
        with target as out, ThreadPoolExecutor(asked.jobs) as pool:
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
