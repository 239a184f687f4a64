"""Exports for SGLang, LoRAX and the semantic router: their files, what is sent, and what they route."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from http.client import HTTPConnection

import numpy as np
import pandas as pd
import pytest
import yaml
from helpers.banks import TEXTS, make_bank
from helpers.models import make_test_base
from test_vllm_export import Handler, client, serving

from assl_kit.app.exports.folder import write_folder
from assl_kit.app.exports.report import exported_choices, in_words, write_report
from assl_kit.app.exports.semantic_router import CATEGORIES, SEMANTIC_ROUTER, configuration, kmeans_model, selected
from assl_kit.app.exports.servers import LORAX, SGLANG, lorax_script, sglang_script
from assl_kit.app.served.client import body
from assl_kit.app.served.encoder_server import EncoderServer
from assl_kit.app.served.forms import FORMS
from assl_kit.app.served.routes import ClientError, Routes
from assl_kit.errors import ParameterError
from assl_kit.experts.router import CentroidRouter


@pytest.fixture(scope="module")
def base_folder(tmp_path_factory):
    return make_test_base(tmp_path_factory.mktemp("served") / "base")


@pytest.fixture(scope="module")
def bank(tmp_path_factory, base_folder):
    return make_bank(tmp_path_factory.mktemp("banks"), base_folder)


@pytest.fixture(scope="module")
def folders(tmp_path_factory, bank, base_folder):
    place = tmp_path_factory.mktemp("exports")
    servers = {"sglang": SGLANG, "lorax": LORAX, "semantic-router": SEMANTIC_ROUTER}
    return {name: write_folder(server, bank, place / name, base=str(base_folder)) for name, server in servers.items()}


def words(script: str) -> list[str]:
    return shlex.split(script.split("exec ")[1].replace("\\\n", " "))


# SGLang and LoRAX ----------------------------------------------------------------------------------------------------
def test_sglang_is_started_with_all_adapters_and_the_base_counted(folders, bank, base_folder):
    script = (folders["sglang"] / "serve.sh").read_text(encoding="utf-8")
    assert words(script) == [
        "python", "-m", "sglang.launch_server", "--model-path", str(base_folder), "--served-model-name", "base",
        "--sampling-defaults", "openai", "--enable-lora", "--max-lora-rank", "12", "--max-loras-per-batch", "4",
        "--lora-paths", "expert-0=adapters/expert-0", "expert-1=adapters/expert-1", "expert-2=adapters/expert-2", "$@",
    ]  # fmt: skip
    bank.base["id"], name = "s3:base", bank.base["id"]
    with pytest.raises(ParameterError, match="no base with a colon"):
        sglang_script(bank, "some/base", 8)
    bank.base["id"] = name
    assert "--revision" not in sglang_script(bank, "some/base", 8)


def test_lorax_finds_the_adapters_where_the_container_mounts_them(folders, bank, base_folder):
    script = (folders["lorax"] / "serve.sh").read_text(encoding="utf-8")
    assert words(script) == [
        "docker", "run", "--rm", "--gpus", "all", "--shm-size", "1g", "-p", "8080:80", "-v", "$PWD:/data", "-v",
        f"{base_folder}:/base:ro", "ghcr.io/predibase/lorax:main", "--model-id", "/base", "--adapter-source", "local",
        "$@",
    ]  # fmt: skip
    assert "--model-id /data/base" in lorax_script(bank, "./base", 8)
    assert "-v " + shlex.quote("/my models/b") + ":/base:ro" in lorax_script(bank, "/my models/b", 8)
    assert "--model-id some/base" in lorax_script(bank, "some/base", 8)
    table = json.loads((folders["lorax"] / "routes.json").read_text(encoding="utf-8"))
    asked_as = table["server"]["models"]
    assert asked_as == {"base": ""} | {f"expert-{k}": f"/data/adapters/expert-{k}" for k in range(3)}
    for path in list(asked_as.values())[:3]:
        assert (folders["lorax"] / path.removeprefix("/data/") / "adapter_model.safetensors").is_file()


def test_each_server_is_asked_in_its_own_form(folders):
    """What goes over the wire, from the script alone."""

    class Lorax(Handler):
        def do_GET(self):  # noqa: N802
            assert self.path == "/info"
            self.reply(200, {"model_id": "/base", "version": "0"})

    sglang = [*(f"base:expert-{k}" for k in range(3)), "base"]
    with serving(models=sglang) as server:
        server.RequestHandlerClass = type("Listing", (Handler,), {"do_GET": lambda self: self.reply(
            200, {"data": [{"id": name} for name in ("base", "expert-0", "expert-1", "expert-2")]})})  # fmt: skip
        done = client(folders["sglang"], TEXTS[1], "--server", server.address)
    assert (done.returncode, done.stderr) == (0, "") and "(expert-1, similarity 1.000)" in done.stdout
    assert server.requests[0]["model"] == "base:expert-1" and server.requests[0]["max_completion_tokens"] == 64
    with serving(models=["/data/adapters/expert-1", ""], handler=Lorax) as server:
        done = client(folders["lorax"], TEXTS[1], "--server", server.address, "--stream")
        base = client(folders["lorax"], "zzzz qqqq", "--server", server.address)
    assert (done.returncode, base.returncode, done.stderr + base.stderr) == (0, 0, "")
    assert server.requests[0] == {
        "model": "/data/adapters/expert-1",
        "messages": [{"role": "user", "content": TEXTS[1]}],
        "temperature": 0,
        "max_tokens": 64,
        "adapter_source": "local",
        "stream": True,
    }
    assert server.requests[1]["model"] == "" and "(base, similarity 0.000)" in base.stdout


def test_what_is_no_lorax_is_noticed(folders):
    with serving(handler=type("Odd", (Handler,), {"do_GET": lambda self: self.reply(200, {"data": []})})) as server:
        done = client(folders["lorax"], TEXTS[0], "--server", server.address)
    assert done.returncode == 1 and "is no OpenAI-compatible server" in done.stderr and not server.requests


def test_only_servers_that_know_them_are_sent_template_arguments():
    for kind, form in FORMS.items():
        sent = body("m", "q", 8, thinking=False, form=form)
        assert ("chat_template_kwargs" in sent) == (kind != "lorax") and sent[form.limit] == 8


def test_an_export_for_an_unknown_server_is_no_route_table(folders, tmp_path):
    table = json.loads((folders["sglang"] / "routes.json").read_text(encoding="utf-8"))
    for server in ({"kind": "other"}, {"kind": ["vllm"]}, {"kind": "vllm", "models": {"base": 3}}, ["vllm"]):
        path = folders["sglang"].parent / f"odd-{tmp_path.name}"
        path.mkdir(exist_ok=True)
        (path / "routes.json").write_text(json.dumps(table | {"server": server}), encoding="utf-8")
        (path / "router.safetensors").write_bytes((folders["sglang"] / "router.safetensors").read_bytes())
        with pytest.raises(ClientError, match="no whole route table"):
            Routes(path)


# the semantic router -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("floor", [-1.0, 0.001, 0.12, 0.5])
def test_the_kmeans_selector_chooses_what_the_router_chooses(floor):
    """At any length of the question, with any of the selector's domains, and down to the base alone."""
    rng = np.random.default_rng(0)
    centroids, rows = rng.normal(size=(5, 8)), rng.normal(size=(400, 8))
    router = CentroidRouter(centroids, min_similarity=floor)
    known = rng.uniform(size=400)
    experts = router.route(rows, known=known).experts
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True) * known[:, None]
    model = kmeans_model(router.centroids_, [f"e{k}" for k in range(5)], floor)
    chosen = selected(model, unit)
    assert chosen == ["base" if k < 0 else f"e{k}" for k in experts]
    assert ("base" in chosen) == (floor > 0)
    domain = np.zeros((400, CATEGORIES))
    domain[np.arange(400), rng.integers(CATEGORIES, size=400)] = 1
    features = np.hstack([unit, domain])
    distances = np.linalg.norm(features[:, None] - np.array(model["centroids"])[None], axis=2)
    assert [model["cluster_models"][k] for k in distances.argmin(axis=1)] == chosen


def test_the_model_file_and_the_configuration_fit_each_other(folders, bank):
    folder = folders["semantic-router"]
    model = json.loads((folder / "kmeans_model.json").read_text(encoding="utf-8"))
    config = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    assert config == configuration(bank, 4)
    references = config["routing"]["decisions"][0]["modelRefs"]
    names = [reference.get("lora_name", reference["model"]) for reference in references]
    assert names == model["cluster_models"] == model["model_names"] == ["expert-0", "expert-1", "expert-2", "base"]
    (card,) = config["routing"]["modelCards"]
    assert [adapter["name"] for adapter in card["loras"]] == names[:-1]
    dim = config["global"]["router"]["model_selection"]["ml"]["embedding_dim"]
    assert {len(row) for row in model["centroids"]} == {dim + CATEGORIES} == {model["feature_dim"]}
    assert model["num_clusters"] == len(model["centroids"]) == 4 and model["trained"]
    (provider,) = config["providers"]["models"]
    assert provider["provider_model_id"] == "base" and "--served-model-name base" in (folder / "serve.sh").read_text(
        encoding="utf-8"
    )


@pytest.fixture(scope="module")
def encoder_server(folders):
    server = EncoderServer(Routes(folders["semantic-router"]), ("127.0.0.1", 0))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


def post(server, content, path="/v1/embeddings"):
    data = content if isinstance(content, bytes) else json.dumps(content).encode()
    request = urllib.request.Request(f"http://127.0.0.1:{server.server_port}{path}", data=data)
    try:
        with urllib.request.urlopen(request, timeout=20) as reply:
            return reply.status, json.load(reply)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def test_vectors_over_http_lead_to_the_expert(encoder_server, folders):
    """In the form that the router sends and reads: model, input, dimensions; index and embedding."""
    texts = [*TEXTS, "zzzz qqqq", "？！"]
    status, reply = post(encoder_server, {"model": "encoder", "input": texts, "dimensions": 8})
    assert status == 200 and [datum["index"] for datum in reply["data"]] == list(range(5))
    rows = np.array([datum["embedding"] for datum in reply["data"]], dtype=np.float32)
    model = json.loads((folders["semantic-router"] / "kmeans_model.json").read_text(encoding="utf-8"))
    assert selected(model, rows) == ["expert-0", "expert-1", "expert-2", "base", "base"]
    status, single = post(encoder_server, {"model": "encoder", "input": texts[1]}, "/v1/embeddings/")
    assert status == 200 and np.allclose(single["data"][0]["embedding"], rows[1], atol=1e-6)


@pytest.mark.parametrize(
    ("content", "status", "message"),
    [
        (b"{", 400, ""),
        (b"[" * 200_000, 400, "nested too deeply"),
        ({"input": []}, 400, "a text or a list of texts"),
        ({"input": [1]}, 400, "a text or a list of texts"),
        ([], 400, "a text or a list of texts"),
        ({"input": ["x"] * 257}, 400, "more than 256"),
        ({"input": "x", "dimensions": 3}, 400, "dimensions must be 8"),
        ({"input": "x", "encoding_format": "base64"}, 400, "must be float"),
        (b'{"input": "\\ud800"}', 400, "half a character"),
    ],
)
def test_what_the_encoder_server_refuses(encoder_server, content, status, message):
    code, reply = post(encoder_server, content)
    assert code == status and message in reply["error"]["message"]
    assert post(encoder_server, {"input": "股价"})[0] == 200


def test_a_request_without_bounds_is_not_read(encoder_server):
    for length in ("99999999999", "-1", "x", None):
        connection = HTTPConnection("127.0.0.1", encoder_server.server_port, timeout=20)
        connection.putrequest("POST", "/v1/embeddings")
        if length:
            connection.putheader("Content-Length", length)
        connection.endheaders()
        assert connection.getresponse().status == 413
        connection.close()
    assert post(encoder_server, {}, "/elsewhere")[0] == 404


def test_the_encoder_script_stands_alone(folders):
    blocked = folders["sglang"].parent / "blocked"
    blocked.mkdir(exist_ok=True)
    (blocked / "assl_kit.py").write_text("raise ImportError('it stands alone')", encoding="utf-8")
    script = folders["semantic-router"] / "encoder_server.py"
    process = subprocess.Popen(
        [sys.executable, str(script), "--port", "0"],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(blocked)},
    )
    try:
        address = process.stdout.readline().strip()
        assert address.endswith("/v1/embeddings")
        with urllib.request.urlopen(address.replace("/v1/embeddings", "/health"), timeout=20) as reply:
            assert reply.status == 200
    finally:
        process.terminate()
        process.wait(20)
    done = subprocess.run([sys.executable, str(script), "--port", "99999"], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "cannot listen" in done.stderr and "Traceback" not in done.stderr


# the report ----------------------------------------------------------------------------------------------------------
class Run:
    """As much of a workspace as a report reads."""

    def __init__(self, monkeypatch, **artifacts):
        from assl_kit.app.exports import report

        self.artifacts = artifacts
        monkeypatch.setattr(report, "read", lambda ws, name: ws.artifacts[name])

    def has(self, file):
        return file.partition(".")[0] in self.artifacts

    def current_parameters(self):
        from assl_kit.artifacts.parameters import resolve

        return resolve("tiny", regret_per_task=0)


def test_the_report_counts_what_the_files_route(folders, monkeypatch):
    """Of three test questions one is another task's: its expert is not its home. By hand, regret too."""
    rows = [("a", TEXTS[0], "train"), ("b", TEXTS[1], "train"), ("a", TEXTS[0], "test"), ("a", TEXTS[1], "test")]
    rows.append(("b", "zzzz qqqq", "test"))
    records = pd.DataFrame(
        [
            {"id": f"r{i}", "instruction": text, "input": "", "output": "积极", "task": task, "split": split}
            for i, (task, text, split) in enumerate(rows)
        ]
    )
    clusters = pd.DataFrame({"id": ["r0", "r1"], "cluster": [0, 1]})
    early = Run(monkeypatch, records=records, clusters=clusters)
    for name in ("sglang", "semantic-router"):
        report = write_report(early, folders[name])
        assert report["questions"] == 3 and report["home_accuracy"] == pytest.approx(1 / 3)
        assert report["by_task"] == {"a": 0.5, "b": 0.0} and report["base_alone"] == pytest.approx(1 / 3)
        assert report["regret"] is report["as_the_run"] is report["inputs_alone"] is None
        assert json.loads((folders[name] / "routing.json").read_text(encoding="utf-8")) == report
    answers = pd.DataFrame({"id": ["r2", "r3", "r4"], "expert": [0, 0, -1]})
    right = {"expert-0": "r2 r3 r4", "expert-1": "r4", "expert-2": "", "base": ""}
    cross = pd.DataFrame(
        [
            {"id": i, "arm": arm, "answer": "积极" if i in ids.split() else "消极"}
            for arm, ids in right.items()
            for i in ("r2", "r3", "r4")
        ]
    )
    late = Run(monkeypatch, records=records, clusters=clusters, answers=answers, cross=cross)
    monkeypatch.setattr("assl_kit.app.exports.report.sample_by_task", lambda test, n, seed: test.iloc[::-1])
    report = write_report(late, folders["sglang"])
    assert report["as_the_run"] == pytest.approx(2 / 3) and report["regret_questions"] == 3
    assert report["regret"] == pytest.approx((0.5 + 1) / 2)  # r3 went to expert-1, r4 to the base, both wrong
    assert "regret 0.750 on 3 of them" in in_words(report)


def test_a_conversation_goes_by_its_last_message_in_the_router(folders):
    talk = [{"role": "user", "content": TEXTS[0]}, {"role": "assistant", "content": "积极"}]
    talk.append({"role": "user", "content": TEXTS[2]})
    assert exported_choices(folders["semantic-router"], [talk, TEXTS[1]]) == [2, 1]
