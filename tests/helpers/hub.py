"""A stand-in of the hub's HTTP API that takes repositories and commits, and remembers them."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

TOKEN = "hf_standInForTests"


class Hub:
    """What was sent: ``made``, the bodies of new repositories; ``commits``, ``(path, summary, {file: bytes})``."""

    def __init__(self) -> None:
        self.made: list[dict] = []
        self.commits: list[tuple[str, str, dict[str, bytes]]] = []
        self.tokens: set[str] = set()
        self.address = ""

    def post(self, path: str, body: bytes) -> tuple[int, dict]:
        """The status and the answer of one request."""
        if path == "/api/repos/create":
            self.made.append(json.loads(body))
            name = self.made[-1].get("organization", "me") + "/" + self.made[-1]["name"]
            return 200, {"url": f"{self.address}/{name}", "name": name}
        if path == "/api/validate-yaml":
            return 200, {"errors": [], "warnings": []}
        if path.endswith("/preupload/main"):
            files = json.loads(body)["files"]
            return 200, {
                "files": [
                    {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False, "oid": None} for f in files
                ]
            }
        if path.endswith("/commit/main"):
            parts = [json.loads(line) for line in body.splitlines()]
            files = {part["value"]["path"]: base64.b64decode(part["value"]["content"]) for part in parts[1:]}
            self.commits.append((path, parts[0]["value"]["summary"], files))
            place = path.removeprefix("/api").removeprefix("/models").replace("/commit/main", "/commit/1")
            return 200, {"commitUrl": self.address + place, "commitOid": "1", "success": True}
        return 404, {"error": f"no such place: {path}"}


@contextmanager
def stand_in() -> Iterator[Hub]:
    """A hub at ``hub.address`` that knows one token."""
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            token = self.headers.get("Authorization", "").removeprefix("Bearer ")
            hub.tokens.add(token)
            status, answer = hub.post(self.path, body) if token == TOKEN else (401, {"error": "Invalid token"})
            text = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.address = f"http://127.0.0.1:{server.server_port}"
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
