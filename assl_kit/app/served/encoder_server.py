"""Serve the encoder of an export by OpenAI's form of embeddings, for a router that asks for vectors over HTTP.

    python encoder_server.py                          on http://127.0.0.1:8100/v1/embeddings

A vector is as long as the share of the text that the encoder knows, so that its products with the centroids are the
similarities the experts are routed by. `assl export semantic-router` puts this script beside `routes.json`,
`routes.py` and `forms.py`; together they stand alone and need sentence-transformers and safetensors, not assl-kit. It
keeps no text.
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from .routes import ClientError, Routes, parse

LARGEST = 4 << 20  #: bytes of a request
TEXTS = 256  #: texts of a request
SECONDS = 30  #: to send a request


class EncoderServer(ThreadingHTTPServer):
    """Answers ``POST /v1/embeddings`` and ``GET /health``; one request is embedded at a time.

    Parameters
    ----------
    routes : Routes
    address : (str, int)
        Host and port.
    """

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, routes: Routes, address: tuple[str, int]):
        self.routes, self.lock = routes, threading.Lock()
        super().__init__(address, _Handler)

    def vectors(self, asked: Any) -> dict:
        """The reply to a request's body.

        Raises
        ------
        ValueError
            If it asks for something else than vectors of at most 256 texts.
        """
        texts = asked.get("input") if isinstance(asked, dict) else None
        texts = [texts] if isinstance(texts, str) else texts
        if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
            raise ValueError("input must be a text or a list of texts")
        if len(texts) > TEXTS:
            raise ValueError(f"input has {len(texts)} texts, more than {TEXTS}")
        dim = self.routes.centroids.shape[1]
        if asked.get("dimensions") not in (None, dim):
            raise ValueError(f"dimensions must be {dim}")
        if asked.get("encoding_format") not in (None, "float"):
            raise ValueError("encoding_format must be float")
        try:
            "".join(texts).encode("utf-8")
            with self.lock:
                rows = self.routes.weighted(texts)
        except UnicodeEncodeError:
            raise ValueError("input holds half a character") from None
        data = [{"object": "embedding", "index": i, "embedding": row.tolist()} for i, row in enumerate(rows)]
        usage = {"prompt_tokens": 0, "total_tokens": 0}
        return {"object": "list", "model": "encoder", "data": data, "usage": usage}


class _Handler(BaseHTTPRequestHandler):
    server: EncoderServer
    timeout = SECONDS
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        """Nothing: a text is nobody's business."""

    def do_GET(self) -> None:  # noqa: N802 - its name in http.server
        """Whether it is there."""
        known = self.path == "/health"
        self._reply(200 if known else 404, {"status": "ok"} if known else _error("there is no such path"))

    def do_POST(self) -> None:  # noqa: N802
        """Vectors."""
        size = self.headers.get("Content-Length", "")
        if self.path.rstrip("/") not in ("/v1/embeddings", "/embeddings"):
            return self._refuse(404, "there is no such path")
        if not (size.isascii() and size.isdigit()) or int(size[:12]) > LARGEST:
            return self._refuse(413, f"a request needs a length of at most {LARGEST:,} bytes")
        try:
            return self._reply(200, self.server.vectors(parse(self.rfile.read(int(size)))))
        except ValueError as error:
            return self._reply(400, _error(str(error)[:200]))
        except ClientError as error:
            return self._reply(500, _error(str(error)[:200]))

    def _refuse(self, status: int, message: str) -> None:
        self.close_connection = True  # what it sent is not read
        self._reply(status, _error(message))

    def _reply(self, status: int, content: dict) -> None:
        data = json.dumps(content).encode("utf-8")
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def _error(message: str) -> dict:
    return {"error": {"message": message, "type": "invalid_request_error"}}


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description="Serve the encoder of an export as an embeddings endpoint.")
    parser.add_argument("--host", default="127.0.0.1", help="default %(default)s; any other lets other machines ask")
    parser.add_argument("--port", type=int, default=8100, help="default %(default)s")
    parser.add_argument("--encoder", help="folder or hub id of the encoder; default as exported")
    parser.add_argument("--routes", default=str(Path(__file__).resolve().parent), help="folder of routes.json")
    asked = parser.parse_args()
    try:
        server = EncoderServer(Routes(asked.routes, asked.encoder), (asked.host, asked.port))
    except ClientError as error:
        print(f"encoder_server: {error}", file=sys.stderr)
        sys.exit(error.code)
    except (OSError, OverflowError) as error:
        print(f"encoder_server: it cannot listen on {asked.host}:{asked.port}: {error}", file=sys.stderr)
        sys.exit(2)
    print(f"http://{asked.host}:{server.server_port}/v1/embeddings", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        sys.exit(0)


if __name__ == "__main__":
    main()
