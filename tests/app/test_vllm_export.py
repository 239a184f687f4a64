"""Export for vLLM: the folder it makes, and its client against a server of vLLM's form."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import torch
from helpers.banks import TEXTS, make_bank, plant
from helpers.models import make_test_base

from assl_kit.app.exports.folder import write_folder
from assl_kit.app.exports.servers import VLLM, vllm_script
from assl_kit.app.served import client as vllm_client
from assl_kit.app.served.routes import ClientError, Routes
from assl_kit.common.files import sha256_file
from assl_kit.errors import BankError, ParameterError
from assl_kit.experts.bank import ExpertBank
from assl_kit.model.loading import load_base
from assl_kit.space.encoder import encode, load_encoder
from assl_kit.space.static_encoder import known_shares


@pytest.fixture(scope="module")
def base_folder(tmp_path_factory):
    return make_test_base(tmp_path_factory.mktemp("served") / "base")


@pytest.fixture(scope="module")
def bank(tmp_path_factory, base_folder):
    return make_bank(tmp_path_factory.mktemp("banks"), base_folder)


@pytest.fixture(scope="module")
def exported(tmp_path_factory, bank, base_folder):
    return write_folder(VLLM, bank, tmp_path_factory.mktemp("exports") / "out", base=str(base_folder))


@pytest.mark.skipif(os.name == "nt", reason="serve.sh is for a POSIX shell, as vLLM is for Linux")
def test_the_folder_holds_all_a_server_needs(exported, bank, base_folder):
    names = sorted(path.relative_to(exported).as_posix() for path in exported.rglob("*") if path.is_file())
    assert [name for name in names if "/" not in name] == [
        "client.py",
        "forms.py",
        "router.safetensors",
        "routes.json",
        "routes.py",
        "serve.sh",
    ]
    for name, path in zip(bank.names, bank.expert_paths, strict=True):
        for file in ("adapter_config.json", "adapter_model.safetensors"):
            assert (exported / "adapters" / name / file).read_bytes() == (path / file).read_bytes()
        config = json.loads((exported / "adapters" / name / "adapter_config.json").read_text(encoding="utf-8"))
        assert config["base_model_name_or_path"] == bank.base["id"] == "base"
    script = (exported / "serve.sh").read_text(encoding="utf-8")
    words = shlex.split(script.split("exec ")[1].replace("\\\n", " "))
    assert words == [
        "vllm", "serve", str(base_folder), "--served-model-name", "base", "--generation-config", "vllm",
        "--enable-lora", "--max-lora-rank", "16", "--max-loras", "3", "--lora-modules", "expert-0=adapters/expert-0",
        "expert-1=adapters/expert-1", "expert-2=adapters/expert-2", "$@",
    ]  # fmt: skip
    subprocess.run(["sh", "-n", str(exported / "serve.sh")], check=True)
    assert os.access(exported / "serve.sh", os.X_OK)
    table = json.loads((exported / "routes.json").read_text(encoding="utf-8"))
    assert table["base"] == bank.base and table["base_model"] == "base" and table["max_lora_rank"] == 12
    assert table["encoder"] == {**bank.encoder, "path": "encoder"}
    assert table["router"]["min_similarity"] == 0.2
    for program in ("client.py", "forms.py", "routes.py"):
        source = (exported / program).read_text(encoding="utf-8")
        assert "import assl_kit" not in source and "from assl_kit" not in source and "from ." not in source


def test_a_hub_base_is_named_with_its_revision(tmp_path, base_folder):
    info = {"id": "some/base", "revision": "abc123", "fingerprint": "f", "tokenizer": "t"}
    bank = make_bank(tmp_path, base_folder, base=info)
    script = (write_folder(VLLM, bank, tmp_path / "out") / "serve.sh").read_text(encoding="utf-8")
    assert "vllm serve some/base " in script and "--revision abc123 --tokenizer-revision abc123" in script
    with pytest.raises(BankError, match=r"another base model: some/base, not other/base"):
        write_folder(VLLM, bank, tmp_path / "out2", base="other/base")
    assert not (tmp_path / "out2").exists()


def test_the_tiny_base_is_saved_into_the_export(tmp_path):
    from assl_kit.model.identity import TINY_BASE

    bank = make_bank(tmp_path, TINY_BASE)
    out = write_folder(VLLM, bank, tmp_path / "out")
    assert "vllm serve ./base" in (out / "serve.sh").read_text(encoding="utf-8")
    model, tokenizer = load_base(str(out / "base"), device="cpu")
    original, its = load_base("tiny", device="cpu")
    assert all(torch.equal(t, original.state_dict()[name]) for name, t in model.state_dict().items())
    assert tokenizer.chat_template == its.chat_template and tokenizer.get_vocab() == its.get_vocab()


def test_an_export_is_replaced_and_nothing_else_is(tmp_path, bank, base_folder):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work", encoding="utf-8")
    with pytest.raises(ParameterError, match="something else"):
        write_folder(VLLM, bank, tmp_path / "mine", base=str(base_folder))
    with pytest.raises(ParameterError, match="inside its bank"):
        write_folder(VLLM, bank, bank.path / "out", base=str(base_folder))
    out = write_folder(VLLM, bank, tmp_path / "out", base=str(base_folder))
    (out / "old").write_text("x", encoding="utf-8")
    assert not (write_folder(VLLM, bank, out, base=str(base_folder)) / "old").exists()


def test_what_does_not_fit_is_refused_and_nothing_written(tmp_path, bank, base_folder):
    out = tmp_path / "out"
    with pytest.raises(BankError, match="another base model"):
        write_folder(VLLM, bank, out, base=str(make_test_base(tmp_path / "base", seed=1)))
    spoken = shutil.copytree(base_folder, tmp_path / "template")
    (spoken / "chat_template.jinja").write_text("{{ messages }}", encoding="utf-8")
    with pytest.raises(BankError, match="another tokenizer of the base model"):
        write_folder(VLLM, bank, out, base=str(spoken))
    with pytest.raises(ParameterError, match="vLLM cannot find the base model 'base' by its name"):
        write_folder(VLLM, bank, out)
    with pytest.raises(ParameterError, match="no safetensors weights"):
        write_folder(VLLM, bank, out, base=str(tmp_path))
    other = load_encoder("fit", texts=TEXTS[:2], dim=8, vocab_size=300)
    other.save(str(tmp_path / "encoder"))
    with pytest.raises(BankError, match="another encoder"):
        write_folder(VLLM, bank, out, base=str(base_folder), encoder=str(tmp_path / "encoder"))
    assert not out.exists()


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"use_dora": True}, "'use_dora' set to 'True'"),
        ({"bias": "all"}, "'bias' set to 'all'"),
        ({"modules_to_save": ["norm"]}, "'modules_to_save' set to "),
        ({"lora_bias": True}, "'lora_bias' set to 'True'"),
        ({"r": 1024}, "vLLM cannot serve an adapter with rank 1024"),
    ],
)
def test_adapters_that_vllm_lacks_are_refused(tmp_path, base_folder, changes, what):
    with pytest.raises(BankError, match=what):
        write_folder(VLLM, make_bank(tmp_path, base_folder, **changes), tmp_path / "out", base=str(base_folder))
    assert not (tmp_path / "out").exists() and (tmp_path / "bank").exists() == ("r" in changes)


def test_no_tensor_of_the_base_is_exported(tmp_path, base_folder):
    """Neither one that the adapter's file holds, nor layers that the base has not."""
    bank = make_bank(tmp_path, base_folder)
    before = sha256_file(base_folder)
    for name, message in [
        ("model.norm.weight", "holds the tensor"),
        ("model.layers.9.self_attn.q_proj.lora_A.weight", "changes the layer model.layers.9.self_attn.q_proj"),
    ]:
        forged = ExpertBank.from_pretrained(bank.save_pretrained(tmp_path / "forged"))
        plant(forged.path, "expert-1", name)
        with pytest.raises(BankError, match=message):
            write_folder(VLLM, forged, tmp_path / "out", base=str(base_folder))
        assert not (tmp_path / "out").exists() and sha256_file(base_folder) == before


def test_the_rank_of_the_server_is_one_that_vllm_takes(bank):
    for rank, told in ((1, 1), (2, 8), (8, 8), (12, 16), (96, 128)):
        assert f"--max-lora-rank {told} " in vllm_script(bank, "some/base", rank)


# the client ----------------------------------------------------------------------------------------------------------
class Handler(BaseHTTPRequestHandler):
    """vLLM's answers to GET /v1/models and POST /v1/chat/completions, in form; the text tells model and question."""

    def log_message(self, *_):
        """Quiet."""

    def reply(self, status, content, kind="application/json"):
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def error(self, status, kind, message):
        self.reply(status, {"error": {"message": message, "type": kind, "param": None, "code": status}})

    def do_GET(self):  # noqa: N802
        assert self.path == "/v1/models"
        if self.server.key and self.headers.get("Authorization") != f"Bearer {self.server.key}":
            return self.reply(401, {"error": "Unauthorized"})
        return self.reply(200, {"object": "list", "data": [{"id": m, "object": "model"} for m in self.server.models]})

    def do_POST(self):  # noqa: N802
        sent = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.requests.append(sent)
        question = sent["messages"][-1]["content"]
        if sent["model"] not in self.server.models:
            return self.error(404, "NotFoundError", f"The model `{sent['model']}` does not exist.")
        if "太长" in question:
            return self.error(400, "BadRequestError", "This model's maximum context length is 512 tokens.")
        text = f" {sent['model']}：{question[:8]} "
        if not sent.get("stream"):
            if "坏" in question:
                return self.reply(200, {"choices": []})
            choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
            return self.reply(200, {"object": "chat.completion", "model": sent["model"], "choices": [choice]})
        deltas = [{"role": "assistant", "content": ""}, *({"content": letter} for letter in text), {}]
        events = [{"object": "chat.completion.chunk", "choices": [{"index": 0, "delta": delta}]} for delta in deltas]
        if "停" in question:
            events[3:] = [{"error": {"message": "the engine is dead", "type": "InternalServerError", "code": 500}}]
        lines = [f"data: {json.dumps(event, ensure_ascii=False)}\n\n" for event in events]
        end = [] if "断" in question else [": a comment\n\n", "data: [DONE]\n\n"]
        return self.reply(200, "".join(lines + end).encode(), "text/event-stream")


class Waiting(ThreadingHTTPServer):
    request_queue_size = 128  # connections at once; http.server's 5 refuses some of the client's sixteen under load


@contextmanager
def serving(models=("base", "expert-0", "expert-1", "expert-2"), key=None, handler=Handler):
    server = Waiting(("127.0.0.1", 0), handler)
    server.models, server.key, server.requests = list(models), key, []
    server.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


def client(exported, *arguments, **more):
    """Run client.py as a user does, where assl_kit cannot be imported."""
    blocked = exported.parent / "blocked"
    blocked.mkdir(exist_ok=True)
    (blocked / "assl_kit.py").write_text("raise ImportError('a client stands alone')", encoding="utf-8")
    more["env"] = more.get("env", dict(os.environ)) | {"PYTHONPATH": str(blocked)}
    return subprocess.run(
        [sys.executable, str(exported / "client.py"), *map(str, arguments)],
        capture_output=True,
        encoding="utf-8",
        cwd=exported.parent,
        check=False,
        timeout=120,
        **more,
    )


@pytest.fixture
def call(exported, monkeypatch, capsys):
    """The same in this process, which is faster: (exit code, stdout, stderr)."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["client.py", "--routes", str(exported), *map(str, arguments)])
        monkeypatch.setattr(sys.stdout, "reconfigure", lambda **_: None, raising=False)
        with pytest.raises(SystemExit) as caught:
            vllm_client.main()
        out, err = capsys.readouterr()
        return caught.value.code or 0, out, err

    return run


def test_the_script_alone_sends_each_question_to_its_expert(exported, tmp_path):
    """In a file of many, answers keep the order of the questions, and what it sends is vLLM's documented form."""
    questions = [*TEXTS, "zzzz qqqq"] * 5
    rows = [json.dumps({"instruction": q[:5], "input": q[5:]}, ensure_ascii=False) for q in questions[:3]]
    (tmp_path / "q.jsonl").write_text("\n".join([*rows, "", *questions[3:]]) + "\n", encoding="utf-8")
    with serving() as server:
        done = client(exported, "--server", server.address, "--file", tmp_path / "q.jsonl", "--min-similarity", 0.4)
    assert (done.returncode, done.stderr) == (0, "")
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert [a["question"] for a in answers[3:]] == questions[3:] and answers[0][
        "question"
    ] == "判断这条财\n经新闻的情感：股价上涨。"
    models = ["expert-0", "expert-1", "expert-2", "base"] * 5
    assert [a["model"] for a in answers] == models
    assert [a["answer"] for a in answers] == [f"{m}：{a['question'][:8]}" for m, a in zip(models, answers, strict=True)]
    sent = next(r for r in server.requests if r["messages"][0]["content"] == TEXTS[1])
    assert sent == {
        "model": "expert-1",
        "messages": [{"role": "user", "content": TEXTS[1]}],
        "temperature": 0,
        "max_completion_tokens": 64,
    }


def test_the_script_alone_streams(exported):
    with serving(key="secret") as server:
        told = ("--server", server.address + "/v1/", "--stream", "--max-tokens", 7)
        done = client(exported, TEXTS[2], *told, env=os.environ | {"VLLM_API_KEY": "secret"})
    assert (done.returncode, done.stderr) == (0, "")
    text, who = done.stdout.splitlines()
    assert text.strip() == f"expert-2：{TEXTS[2][:8]}" and who.startswith("(expert-2, similarity 1.000")
    assert server.requests[0]["stream"] is True and server.requests[0]["max_completion_tokens"] == 7


def test_the_client_routes_as_the_package_does(exported, bank):
    encoder = load_encoder(str(bank.encoder_path))
    questions = [a[i:] + b[:j] for a in TEXTS for b in TEXTS for i in range(0, 9, 4) for j in range(1, 9, 3)]
    questions += ["hello world", "股价 hello", "央行 24% 释放资金", "？！"]
    routes = bank.router().route(encode(encoder, questions), known=known_shares(encoder, questions))
    assert 0 in routes.similarity and -1 in routes.experts
    names = ["base" if k < 0 else bank.names[k] for k in routes.experts]
    found = Routes(exported).route(questions)
    assert [name for name, _ in found] == names
    np.testing.assert_allclose([s for _, s in found], routes.similarity, atol=1e-6)


def test_a_whole_answer_and_one_file_with_failures(call, tmp_path):
    with serving() as server:
        code, out, err = call(TEXTS[0], "--server", server.address)
        assert (code, err) == (0, "") and out.startswith(f"expert-0：{TEXTS[0][:8]}\n(expert-0")
        (tmp_path / "q.txt").write_text(f"{TEXTS[0]}\n太长{TEXTS[1]}\n坏{TEXTS[2]}\n", encoding="utf-8")
        code, out, err = call("--file", tmp_path / "q.txt", "--server", server.address, "--output", tmp_path / "a")
    assert (code, out) == (1, "") and "2 of 3 questions failed" in err
    answers = [json.loads(line) for line in (tmp_path / "a").read_text(encoding="utf-8").splitlines()]
    assert "answer" in answers[0] and "the server answered 400: This model's maximum" in answers[1]["error"]
    assert "answer of another form" in answers[2]["error"]


@pytest.mark.parametrize(
    ("arguments", "message", "code"),
    [
        ((), "give a question or --file", 2),
        ((" ",), "the question is empty", 2),
        (("问", "--max-tokens", 0), "must be positive", 2),
        (("问", "--server", "localhost:8000"), "starts with http://", 2),
        (("问", "--timeout", "nan"), "must be positive", 2),
        (("问", "--min-similarity", "2"), "min_similarity is 2.0", 2),
        (("\udcff",), "a question is no valid text", 2),
        *(
            (("问", "--server", address), "a server's address starts with http:// or https:// and names a host", 2)
            for address in (
                "http://[",
                "http://",
                "http://:80",
                "http://h:99999",
                "http://h:0",
                "http://h:x",
                "http://例子",
                "http://a b",
                "http://h?key=1",
                "http://h#x",
                f"http://{'a' * 70}.b",
                "http://[::1",
                "file:///etc/passwd",
            )
        ),
        (("问", "--server", "http://127.0.0.1:9"), "there is no server at http://127.0.0.1:9", 1),
        (("--file", "none.txt"), "none.txt cannot be read", 2),
        (("问", "--routes", "nowhere"), "no whole route table in nowhere", 2),
        (("问", "--encoder", "./nowhere"), "could not be loaded", 2),
    ],
)
def test_wrong_use_of_the_client(call, arguments, message, code):
    found, out, err = call(*arguments)
    assert found == code and message in err and "Traceback" not in err and out == ""


@pytest.mark.parametrize(
    "address",
    [
        "http://user:hunter2@127.0.0.1:9",
        "http://user:hunter2@127.0.0.1:9/v1",
        "https://hunter2@127.0.0.1:9",
        "http://user:hunter2@[",
        "http://user:hunter2@:80",
        "http://user:hun@hunter2@h:x",
        "http://user:hunter2/x@h",
        "http://user:hunter2#x@h",
        "ftp://user:hunter2@h",
        "user:hunter2@h:8000",
    ],
)
def test_a_password_in_an_address_is_in_no_message(call, exported, address, caplog):
    code, out, err = call("问", "--server", address)
    assert code == 2 and err.startswith("client: ") and err.count("\n") == 1
    assert "hunter2" not in out + err + caplog.text
    if address.startswith("http://user:hunter2@127"):
        assert "holds a name or password. Give the key by --api-key." in err
        done = client(exported, "问", "--server", address)
        assert done.returncode == 2 and "hunter2" not in done.stdout + done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("key", ["hunter2\nX-Other: 1", "hunter2\r", "hunter2é", "hunter2\x00"])
def test_a_key_that_no_header_can_hold_is_in_no_message(call, key):
    code, out, err = call("问", "--api-key", key)
    assert code == 2 and "the key holds line ends" in err and "hunter2" not in out + err


def test_a_key_goes_to_the_named_server_only(call):
    """A server that sends its clients elsewhere is an error; nobody else sees the key."""

    class Elsewhere(Handler):
        def do_GET(self):  # noqa: N802
            self.server.requests.append(dict(self.headers))
            self.send_response(302)
            self.send_header("Location", self.server.target + "/v1/models")
            self.end_headers()

    with serving() as other, serving(handler=Elsewhere) as server:
        server.target = other.address
        other.RequestHandlerClass = Elsewhere
        code, _, err = call(TEXTS[0], "--server", server.address, "--api-key", "hunter2")
    assert code == 1 and "the server answered 302" in err and "hunter2" not in err
    assert server.requests[0]["Authorization"] == "Bearer hunter2" and not other.requests


@pytest.mark.parametrize("text", ["[" * 200_000, '{"data": ' + "9" * 5000 + "}", "[1]", '{"data": [1]}', "\xff"])
def test_what_is_no_server_of_that_kind_is_one_message(call, text):
    class Odd(Handler):
        def do_GET(self):  # noqa: N802
            self.reply(200, text.encode("latin-1"))

    with serving(handler=Odd) as server:
        code, out, err = call(TEXTS[0], "--server", server.address)
    assert code == 1 and "is no OpenAI-compatible server" in err and out == "" and err.count("\n") == 1


def test_a_reply_without_end_is_one_message(call, monkeypatch):
    monkeypatch.setattr(vllm_client, "MOST", 50)
    with serving() as server:
        code, _, err = call(TEXTS[0], "--server", server.address)
    assert code == 1 and "the reply has more than 50 bytes" in err


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="only Linux has a device that is always full")
def test_a_full_disk_is_one_message(exported, tmp_path):
    (tmp_path / "q.txt").write_text("\n".join(TEXTS), encoding="utf-8")
    with serving() as server:
        told = ("--server", server.address, "--file", tmp_path / "q.txt", "--output", "/dev/full")
        done = client(exported, *told)
    assert done.returncode == 2 and done.stderr.startswith("client: /dev/full cannot be written")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{broken", "q.jsonl:2"),
        ('{"question": 3}', "q.jsonl:2"),
        ('{"input": "x"}', "q.jsonl:2"),
        ('{"question": " "}', "empty question"),
        ('{"messages": ' + "[" * 100_000, "q.jsonl:2 is no question"),
    ],
)
def test_bad_files_of_questions(call, tmp_path, line, message):
    (tmp_path / "q.jsonl").write_text(f"好\n{line}\n", encoding="utf-8")
    code, out, err = call("--file", tmp_path / "q.jsonl")
    assert code == 2 and message in err and out == ""
    (tmp_path / "q.jsonl").write_text("\n \n", encoding="utf-8")
    code, _, err = call("--file", tmp_path / "q.jsonl")
    assert code == 2 and "holds no question" in err


def test_what_a_server_can_do_wrong(call, exported):
    with serving(models=["base", "expert-0"]) as server:
        code, _, err = call(TEXTS[1], "--server", server.address)
        assert code == 1 and "the server has no model expert-1. Start it with serve.sh" in err
        with pytest.raises(ClientError, match=r"answered 404: The model `expert-1` does not exist"):
            vllm_client.Server(server.address).ask("expert-1", "好", 4)
        for question, message in (("停", "the engine is dead"), ("断", "the connection ended")):
            with pytest.raises(ClientError, match=message):
                list(vllm_client.Server(server.address).stream("expert-0", question, 4))
    with serving(key="secret") as server:
        code, _, err = call(TEXTS[1], "--server", server.address)
        assert code == 1 and "answered 401: Unauthorized. Give the server's key" in err


def test_a_foreign_encoder_is_noticed(call, tmp_path):
    load_encoder("fit", texts=["另一个语料库", "完全不同的文本", *TEXTS], dim=8, vocab_size=300).save(
        str(tmp_path / "e")
    )
    with serving() as server:
        code, _, err = call(TEXTS[0], "--server", server.address, "--encoder", tmp_path / "e")
    assert code == 2 and "is not the encoder that the centroids were made with" in err
