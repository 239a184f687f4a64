"""Whether the hub has a model, asked before a run: a stand-in answers, or nobody does."""

from __future__ import annotations

import json
import socket
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import huggingface_hub.constants as hub
import pytest

from assl_kit.common.hub import check_model
from assl_kit.errors import ParameterError
from assl_kit.space.encoder import check_encoder


@contextmanager
def answering(monkeypatch, answers):
    """A hub that answers HEAD requests for ``owner/name/file`` by these, else with 404; it says what it was asked."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self):
            asked.append(self.path.replace("/resolve/main", "").lstrip("/"))
            status, code = answers.get(asked[-1], (404, "RepoNotFound"))
            self.send_response(status)
            for name, value in ({"ETag": '"e"'} if status == 200 else {"X-Error-Code": code}).items():
                self.send_header(name, value)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    with online(monkeypatch, server.server_port):
        yield asked
    server.shutdown()
    server.server_close()


@contextmanager
def online(monkeypatch, port):
    with monkeypatch.context() as inside:
        inside.setenv("HF_HUB_OFFLINE", "0")
        inside.setattr(hub, "HF_HUB_OFFLINE", False)
        inside.setattr(hub, "ENDPOINT", f"http://127.0.0.1:{port}")
        inside.setattr(
            hub, "HUGGINGFACE_CO_URL_TEMPLATE", f"http://127.0.0.1:{port}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        )
        check_model.cache_clear()
        yield
    check_model.cache_clear()


@pytest.fixture
def nobody(monkeypatch):
    """A hub that nothing answers for."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with online(monkeypatch, port):
        yield


MODELS = [
    (("-p", "encoder", "someone/encoder"), "the encoder 'someone/encoder'"),
    (("-p", "encoder", "short-name"), "the encoder "),
    (("-p", "base_model", "someone/base"), "the base model 'someone/base'"),
    (("--profile", "t4"), "the base model 'Qwen/Qwen2.5-0.5B-Instruct'"),
    (("--profile", "paper"), "the base model 'Qwen/Qwen1.5-7B-Chat'"),
]


@pytest.mark.parametrize(("arguments", "message"), MODELS)
def test_a_hub_that_cannot_be_reached_is_told_before_the_run(assl, one_notebook, nobody, tmp_path, arguments, message):
    for command in (("run", *arguments), ("run", *arguments, "--dry-run")):
        code, _, err = assl(*command)
        assert code == 2 and err.count("\n") == 1 and message in err and "the hub cannot be reached" in err
    assert not (tmp_path / "runs").exists()


def test_a_sweep_is_told_too(assl, one_notebook, nobody, tmp_path):
    (tmp_path / "g.yaml").write_text("grid: {encoder: [fit, someone/encoder]}", encoding="utf-8")
    code, _, err = assl("sweep", "g.yaml", "--dry-run")
    assert code == 2 and "the hub cannot be reached" in err and err.count("\n") == 1


@pytest.mark.parametrize(("arguments", "message"), MODELS)
def test_offline_only_models_in_the_cache_are_taken(assl, one_notebook, tmp_path, monkeypatch, arguments, message):
    check_model.cache_clear()
    code, _, err = assl("run", *arguments, "--dry-run")
    assert code == 2 and message in err and "HF_HUB_OFFLINE is set" in err and err.count("\n") == 1
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda name, file, **_: f"/cache/{name}/{file}")
    assert assl("run", *arguments, "--dry-run")[0] == 0
    check_model.cache_clear()


def test_what_the_hub_has_is_taken_and_asked_for_once(assl, one_notebook, monkeypatch, tmp_path):
    answers = {"a/base/config.json": (200, ""), "a/encoder/modules.json": (200, "")}
    answers |= {"a/plain/modules.json": (404, "EntryNotFound"), "a/plain/config.json": (200, "")}
    answers |= {"sentence-transformers/short/modules.json": (200, "")}
    with answering(monkeypatch, answers) as asked:
        for encoder in ("a/encoder", "a/plain", "short", "a/encoder"):
            assert assl("run", "-p", "base_model", "a/base", "-p", "encoder", encoder, "--dry-run")[0] == 0
        assert sorted(asked) == sorted(answers)


@pytest.mark.parametrize(
    ("answer", "message"),
    [((404, "RepoNotFound"), r"\(404\)"), ((403, "GatedRepo"), r"\(403\)"), ((401, ""), r"\(401\)"),
     ((404, "EntryNotFound"), "has no config.json on the hub"), ((500, ""), "cannot be reached: .*500")],
)  # fmt: skip
def test_what_the_hub_refuses_is_one_message(monkeypatch, answer, message):
    with answering(monkeypatch, {"a/base/config.json": answer}):
        with pytest.raises(ParameterError, match=message) as caught:
            check_model("a/base", "the base model")
        assert "\n" not in str(caught.value)


def test_what_is_no_name_of_the_hub(nobody):
    for name in ("a b", "x" * 200, "a/b\n"):
        with pytest.raises(ParameterError, match="neither a folder nor a name of the hub"):
            check_encoder(name)
    with pytest.raises(ParameterError, match="there is no encoder folder"):
        check_encoder("./nowhere")
    assert json.dumps(check_encoder("fit")) == "null"
