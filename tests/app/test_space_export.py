"""Export as a Gradio Space: the folder it makes, and its program, started as a Space starts it and asked over HTTP."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from contextlib import closing

import pytest
import yaml
from helpers import ROOT
from helpers.banks import TEXTS, make_bank
from helpers.models import make_test_base, save_test_encoder
from markupsafe import escape
from packaging.requirements import Requirement

from assl_kit.app.space.export import export_space, requirements
from assl_kit.errors import BankError, ParameterError
from assl_kit.experts.bank import ExpertBank
from assl_kit.experts.silversight import SilverSight
from assl_kit.version import __version__

gradio = pytest.importorskip("gradio", reason="needs gradio: pip install -e '.[app]'")
START = 120  #: seconds to wait for the page


@pytest.fixture(scope="module")
def bank(tmp_path_factory, base_folder):
    return make_bank(tmp_path_factory.mktemp("banks"), base_folder)


@pytest.fixture(scope="module")
def exported(tmp_path_factory, bank, base_folder):
    out = tmp_path_factory.mktemp("exports") / "space"
    return export_space(bank, out, base=str(base_folder), title="问专家 <1>")


def names_in(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_the_folder_holds_all_a_space_needs_and_nothing_else(exported, bank, base_folder):
    listed = ["bank/bank.json", *(f"bank/{name}" for name in bank.info["files"])]
    base = [f"base/{path.name}" for path in base_folder.iterdir()]
    assert names_in(exported) == sorted(["README.md", "app.py", "requirements.txt", "space.json", *listed, *base])
    assert all(
        (exported / "bank" / name).read_bytes() == (bank.path / name).read_bytes() for name in bank.info["files"]
    )
    head = yaml.safe_load((exported / "README.md").read_text(encoding="utf-8").split("---")[1])
    assert head["sdk"] == "gradio" and head["sdk_version"] == gradio.__version__ and head["title"] == "问专家 <1>"
    assert (exported / head["app_file"]).is_file()
    settings = json.loads((exported / "space.json").read_text(encoding="utf-8"))
    assert (settings["base"], settings["encoder"]) == (None, None)
    assert str(base_folder) not in "".join(
        (exported / name).read_text(encoding="utf-8")
        for name in ("README.md", "app.py", "requirements.txt", "space.json")
    )


def test_what_it_installs_is_this_package_with_what_the_page_imports(exported):
    index, line = (exported / "requirements.txt").read_text(encoding="utf-8").splitlines()
    wanted = Requirement(line)
    assert index.startswith("--extra-index-url https://") and str(wanted.specifier) == f"=={__version__}"
    assert wanted.name == "assl-kit" and wanted.extras == {"app", "train"}
    assert Requirement(requirements("1.0", "gemma3-270m").splitlines()[1]).extras == {"app", "train", "llm-offline"}
    assert Requirement(requirements("git+https://github.com/a/b", "tiny").splitlines()[1]).url


def free_port():
    with closing(socket.socket()) as place:
        place.bind(("127.0.0.1", 0))
        return place.getsockname()[1]


def reply(port, method, path, body=None):
    """Status and text; None while nobody listens."""
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
        try:  # a Space is asked by the name that its host gives it
            headers = {"Host": "owner-name.hf.space", "Content-Type": "application/json"}
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            return answer.status, answer.read().decode("utf-8")
        except ConnectionError:
            return None


def test_its_program_answers_as_the_bank_does(exported, bank, base_folder, tmp_path):
    """``python app.py`` with the variables of a Space, in a copy of the folder: another machine has no other files."""
    copy = shutil.copytree(exported, tmp_path / "home" / "app")
    port = free_port()
    environment = os.environ | {"GRADIO_SERVER_NAME": "127.0.0.1", "GRADIO_SERVER_PORT": str(port)}
    environment |= {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    with open(tmp_path / "log", "wb") as log:
        process = subprocess.Popen([sys.executable, "app.py"], cwd=copy, env=environment, stdout=log, stderr=log)
    try:
        end = time.monotonic() + START
        while (page := reply(port, "GET", "/config")) is None and time.monotonic() < end and process.poll() is None:
            time.sleep(0.2)
        assert page is not None, (tmp_path / "log").read_text(encoding="utf-8")
        config = json.loads(page[1])
        assert "问专家 &lt;1&gt;" in page[1] and not config.get("show_api")
        sent = {"data": [TEXTS[1]], "session_hash": "s", "fn_index": asked_by(config)}
        assert reply(port, "POST", "/gradio_api/queue/join", json.dumps(sent))[0] == 200
        _, events = reply(port, "GET", "/gradio_api/queue/data?session_hash=s")
    finally:
        process.kill()
        process.wait()
    lines = [json.loads(line.removeprefix("data:")) for line in events.splitlines() if line.startswith("data:")]
    (last,) = [line["output"]["data"] for line in lines if line["msg"] == "process_completed"]
    route, records, answer, _ = last
    (wanted,) = SilverSight.from_pretrained(bank.path, base=str(base_folder), device="cpu").generate([TEXTS[1]])
    assert wanted.expert == 1 and "expert-1</b> answers" in route and "keeps no training records" in records
    assert f'data-done="yes">{escape(wanted.text)}</div>' in answer and "expert-1" in answer


def asked_by(config):
    """The number of the function that fills the four panels; examples have the same one, by numbers of their own."""
    number, *_ = [part["id"] for part in config["dependencies"] if len(part["outputs"]) == 4]
    return number


def test_an_export_is_replaced_and_nothing_else_is(tmp_path, bank, base_folder):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "app.py").write_text("years of work", encoding="utf-8")
    with pytest.raises(ParameterError, match="something else"):
        export_space(bank, tmp_path / "mine", base=str(base_folder))
    with pytest.raises(ParameterError, match="inside its bank"):
        export_space(bank, bank.path / "out", base=str(base_folder))
    out = export_space(bank, tmp_path / "out", base=str(base_folder))
    (out / "old").write_text("x", encoding="utf-8")
    assert not (export_space(bank, out, base=str(base_folder)) / "old").exists()


def test_what_does_not_fit_is_refused_and_nothing_written(tmp_path, bank, base_folder):
    out = tmp_path / "out"
    with pytest.raises(BankError, match="another base model"):
        export_space(bank, out, base=str(make_test_base(tmp_path / "base", seed=1)))
    with pytest.raises(ParameterError, match="the base model 'small' cannot be found by its name"):
        export_space(bank, out)
    with pytest.raises(BankError, match="another encoder"):
        export_space(bank, out, base=str(base_folder), encoder=str(save_test_encoder(tmp_path / "encoder")))
    with pytest.raises(ParameterError, match="cannot have the base model 'x.gguf'|no GGUF|there is no"):
        export_space(bank, out, base="x.gguf")
    for changes, message in [
        ({"title": " "}, "a title is a line"),
        ({"title": "a\nb"}, "a title is a line"),
        ({"title": "a" * 61}, "a title is a line"),
        ({"package": "0.2; rm"}, "neither a version nor a git address"),
        ({"package": "http://a.b/c"}, "neither a version nor a git address"),
        ({"package": "git+https://a/b\n-r other"}, "neither a version nor a git address"),
    ]:
        with pytest.raises(ParameterError, match=message):
            export_space(bank, out, base=str(base_folder), **changes)
    assert not out.exists()


def test_a_base_of_the_hub_is_named_and_nothing_of_it_is_needed_here(tmp_path, base_folder):
    info = {"id": "some/base", "revision": None, "fingerprint": "f", "tokenizer": "t"}
    bank = make_bank(tmp_path, base_folder, base=info)
    out = export_space(bank, tmp_path / "out")
    assert json.loads((out / "space.json").read_text(encoding="utf-8"))["base"] == "some/base"
    assert not (out / "base").exists()
    with pytest.raises(BankError, match="another base model: some/base, not other/base"):
        export_space(bank, tmp_path / "out2", base="other/base")


def test_without_gradio_it_says_what_to_install(tmp_path, bank, base_folder, monkeypatch):
    monkeypatch.setattr("assl_kit.common.packages.is_installed", lambda package: package != "gradio")
    with pytest.raises(ParameterError, match=r"needs Gradio, which is not installed. .*assl-kit\[app\]"):
        export_space(bank, tmp_path / "out", base=str(base_folder))


def test_the_command_writes_the_folder_and_says_what_to_do(assl, bank, base_folder, tmp_path):
    code, out, err = assl("export", "space", bank.path, "made", "--base", base_folder, "--title", "Ours")
    assert code == 0 and "Traceback" not in err and "3 experts in made" in out and "hf upload OWNER/NAME made" in out
    assert len(ExpertBank.from_pretrained(tmp_path / "made" / "bank")) == 3
    code, _, err = assl("export", "space", bank.path, "made2", "--base", base_folder, "--package", "x y")
    assert code == 2 and err.count("\n") == 1 and not (tmp_path / "made2").exists()
