"""The command line: one clear message and a non-zero exit for everything that is wrong, before any long work."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys

import pytest
from helpers.notebooks import write_notebook

import assl_kit.runner.run as runner
from assl_kit import __version__

GOOD = {"instruction": "判断情绪。", "input": "股价上涨", "output": "积极"}


@pytest.fixture
def assl(assl, one_notebook):
    """The command, where the chain has one notebook."""
    return assl


def lines(*records) -> str:
    return "\n".join(record if isinstance(record, str) else json.dumps(record) for record in records)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (lines(GOOD, "{broken"), "mine.jsonl:2"),
        (lines(GOOD, {"instruction": "x", "input": ""}), "'output' is missing"),
        (lines(GOOD, {**GOOD, "output": 3}), "'output' must be text"),
        (lines(GOOD, {**GOOD, "instruction": " ", "input": ""}), "'instruction' is empty"),
        (lines(GOOD, "[1]"), "a record must be an object"),
        ("", "the corpus is empty"),
        (lines(*[{**GOOD, "input": str(i)} for i in range(5)]), "fewer than 6 clusters"),
    ],
)
def test_bad_data_is_refused_before_anything_runs(assl, tmp_path, monkeypatch, text, message):
    monkeypatch.setattr(runner, "execute", lambda *_: pytest.fail("a notebook was run"))
    (tmp_path / "mine.jsonl").write_text(text, encoding="utf-8")
    code, out, err = assl("run", "--profile", "tiny", "--data", "mine.jsonl")
    assert code == 2 and message in err and out == ""
    assert err.startswith("assl: ") and err.count("\n") == 1
    assert not (tmp_path / "runs").exists()


def test_a_damaged_gzip_file_is_refused(assl, tmp_path):
    (tmp_path / "mine.jsonl.gz").write_bytes(gzip.compress(lines(GOOD).encode())[:-9])
    code, _, err = assl("run", "--data", "mine.jsonl.gz")
    assert code == 2 and "gzip" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("run", "--profile", "tinny"), "unknown profile 'tinny'. Did you mean 'tiny'?"),
        (("run", "-p", "n_cluster", 4), "unknown parameter 'n_cluster'. Did you mean 'n_clusters'?"),
        (("run", "-p", "n_select", "abc"), "n_select must be a whole number, got 'abc'"),
        (("run", "-p", "flattening", 2), "flattening must be at most 1, got 2"),
        (("run", "-f", "set.yaml"), "n_select must be a whole number, got 'abc'"),
        (("run", "-f", "none.yaml"), "the parameter file cannot be read"),
        (("run", "--name", "../up"), "'../up' is no name for a run"),
        (("run", "--from", "07"), "there is no notebook 07 (nb). There are 00."),
        (("run", "--to", "60", "--dry-run"), "there is no notebook 60 (nb). There are 00."),
        (("run", "--data", "none.jsonl"), "none.jsonl"),
        (("run", "-p", "base_model", "./none"), "there is no base model folder"),
        (("status", "nothing"), "there is no run 'nothing'"),
        (("report", "nothing"), "there is no run 'nothing'"),
        (("route", "问题", "--run", "nothing"), "there is no run 'nothing'"),
        (("ask", " "), "the question is empty"),
        (("export", "vllm", "nothing", "out"), "there is no run 'nothing'"),
        (("export", "vllm", "nothing"), "Missing argument 'OUT'"),
        (("export", "onnx"), "No such command"),
        (("run", "--profil", "tiny"), "No such option"),
        (("run", "-p", "seed"), "requires 2 arguments"),
        (("rum",), "No such command"),
    ],
)
def test_wrong_use_is_one_message_and_exit_code_2(assl, tmp_path, monkeypatch, arguments, message):
    monkeypatch.setattr(runner, "execute", lambda *_: pytest.fail("a notebook was run"))
    (tmp_path / "set.yaml").write_text("n_select: abc\n", encoding="utf-8")
    code, _, err = assl(*arguments)
    assert code == 2 and message in err and "Traceback" not in err
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("command", [("run",), ("sweep", "seeds.yaml")])
def test_a_dry_run_checks_the_backend_and_the_option_overrides_the_environment(assl, tmp_path, monkeypatch, command):
    (tmp_path / "seeds.yaml").write_text("grid: {seed: [0, 1]}", encoding="utf-8")
    monkeypatch.setenv("ASSL_BACKEND", "dask")
    code, _, err = assl(*command, "--dry-run")
    assert code == 2 and "unknown backend 'dask' (ASSL_BACKEND). Use 'local' or 'ray'." in err
    code, out, err = assl(*command, "--dry-run", "--backend", "local")
    assert (code, err) == (0, "") and out
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    code, _, err = assl(*command, "--dry-run", "--backend", "ray")
    assert code == 2 and "the backend 'ray' needs Ray, which is not installed" in err
    assert not (tmp_path / "runs").exists()


def test_a_report_that_cannot_be_written_after_a_run_is_exit_code_1(assl, tmp_path):
    write_notebook(
        tmp_path / "nb" / "00_only.ipynb",
        "from assl_kit.artifacts.workspace import Workspace",
        "from assl_kit.common.files import write_json\n"
        "table = [{'arm': [1], 'task': [2], 'value': 3}]\n"
        "write_json(Workspace.open(workspace).path_of('metrics.json'), {'table': table})",
        parameters='profile = "tiny"\nworkspace = ""',
    )
    code, out, err = assl("run", "--name", "odd")
    assert code == 1 and "00_only" in out and "the report cannot be made" in err
    assert assl("report", "odd")[0] == 2


def test_a_run_prints_its_lines_and_writes_its_report(assl, tmp_path):
    table = [
        {"arm": a, "task": t, "metric": "accuracy", "n": 9, "value": 0.5} for a in ("base", "routed") for t in "xy"
    ]
    write_notebook(
        tmp_path / "nb" / "00_only.ipynb",
        "from assl_kit.artifacts.workspace import Workspace",
        "from assl_kit.common.files import write_json\n"
        f"write_json(Workspace.open(workspace).path_of('metrics.json'), {{'table': {table}}})",
        "print(shown)",
        parameters='profile = "tiny"\nworkspace = ""\nshown = 1',
    )
    (tmp_path / "set.yaml").write_text("shown: 2\nseed: 5\n", encoding="utf-8")
    code, out, err = assl("run", "-f", "set.yaml", "-p", "shown", 7, "--name", "mine")
    assert (code, err) == (0, "")
    assert "00_only" in out and "routed" in out and "0.500" in out
    assert out.splitlines()[-1] == "Report: runs/mine/report.html"
    assert (tmp_path / "runs" / "mine" / "report.html").is_file()
    manifest = json.loads((tmp_path / "runs" / "mine" / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["parameters"]["seed"] == 5
    assert "00_only: shown" in (tmp_path / "runs" / "mine" / "report.html").read_text(encoding="utf-8")
    code, out, _ = assl("status", "mine")
    assert code == 0 and "00_only" in out and "done" in out
    code, out, _ = assl("report", "runs/mine")
    assert code == 0 and "routed" in out
    for command in (
        ("route", "问题", "--run", "mine"),
        ("ask", "问题", "--run", "mine"),
        ("export", "vllm", "mine", "o"),
    ):
        code, _, err = assl(*command)
        assert code == 2 and "no experts yet" in err


def test_programs_read_json(assl, tmp_path):
    write_notebook(tmp_path / "nb" / "00_only.ipynb", "print(shown)", parameters='profile = "tiny"\nshown = 1')
    code, out, err = assl("run", "-p", "shown", 7, "--dry-run", "--json")
    plan = json.loads(out)
    assert (code, err) == (0, "") and not (tmp_path / "runs").exists()
    assert plan["changed"] == {"shown": 7} and plan["notebooks"] == [{"notebook": "00_only", "plan": "run"}]
    assert all(artifact["state"] == "missing" for artifact in plan["artifacts"])
    code, out, err = assl("run", "-p", "shown", 7, "--json")
    assert json.loads(out) == {"run": "runs/tiny", "results": None, "report": str(tmp_path / "runs/tiny/report.html")}
    assert code == 0 and "00_only" in err and "done" in err
    assert "At most 7 test questions a task" in assl("run", "-p", "n_test", 7, "--dry-run")[1]
    code, out, _ = assl("run", "-p", "shown", 7, "--dry-run")
    assert "cached" in out and "Nothing is run" in out
    assert "run" in assl("run", "-p", "shown", 8, "--dry-run")[1]
    assert "cached" not in assl("run", "-p", "shown", 7, "--dry-run", "--force")[1]
    state = json.loads(assl("status", "tiny", "--json")[1])
    assert state["state"] == "done" and state["notebooks"][0]["status"] == "done" and state["artifacts"] == []
    assert json.loads(assl("status", "--json")[1]) == [{"run": "tiny", "state": "done"}]
    assert json.loads(assl("report", "tiny", "--json")[1])["run"] == "runs/tiny"
    assert json.loads(assl("compare", "tiny", "runs/tiny", "--json")[1]) == {"A": "tiny", "B": "runs/tiny"}


def test_own_parameters_of_a_notebook_are_checked_and_text_stays_text(assl, tmp_path):
    declared = 'profile = "tiny"\nquestion = "?"\nn_draws = 5'
    write_notebook(tmp_path / "nb" / "00_only.ipynb", "print(question)", parameters=declared)
    code, out, _ = assl("run", "-p", "question", "2024", "-p", "n_draws", 1, "--dry-run", "--json")
    assert code == 0 and json.loads(out)["changed"] == {"question": "2024", "n_draws": 1}
    code, _, err = assl("run", "-p", "n_draws", 0)
    assert code == 2 and "n_draws must be a whole number of at least 1, not 0" in err
    code, _, err = assl("run", "-p", "n_draws", "many")
    assert code == 2 and "n_draws must be a whole number, got 'many'" in err
    assert not (tmp_path / "runs").exists()


def test_status_tells_a_running_run_from_one_that_broke_off(assl, tmp_path):
    from assl_kit.artifacts.workspace import Workspace
    from assl_kit.runner.resume import run_lock

    ws = Workspace.open(tmp_path / "runs" / "mine")
    ws.update_manifest("notebooks", {"00_only": {"status": "running"}})
    with run_lock(ws):
        assert "runs/mine: running" in assl("status", "mine")[1]
    code, out, _ = assl("status", "mine")
    assert code == 0 and out.startswith("runs/mine: broken off") and "broken off" in out.splitlines()[-2]
    ws.update_manifest("notebooks", {"00_only": {"status": "failed", "message": "ValueError: no luck"}})
    assert "ValueError: no luck" in assl("status", "mine")[1]
    assert "failed" in assl("status")[1]


def test_a_damaged_run_is_listed_and_breaks_nothing_else(assl, tmp_path):
    from assl_kit.artifacts.workspace import Workspace

    Workspace.open(tmp_path / "runs" / "whole").update_manifest("notebooks", {"00_only": {"status": "done"}})
    broken = tmp_path / "runs" / "broken" / "manifest.json"
    broken.parent.mkdir()
    for text, message in [
        ("{", "the manifest is not valid JSON (runs/broken/manifest.json). Put back a copy of it, or delete it"),
        ('{"format": 1, "notebooks": []}', "'notebooks' of the manifest is not a mapping (runs/broken/manifest.json)."),
    ]:
        broken.write_text(text, encoding="utf-8")
        damaged, whole = json.loads(assl("status", "--json")[1])
        assert damaged["run"] == "broken" and damaged["state"] == "damaged" and damaged["message"].startswith(message)
        assert whole == {"run": "whole", "state": "done"}
        code, out, _ = assl("status")
        assert code == 0 and f"damaged: {message}" in out
        code, _, err = assl("status", "wole")
        assert code == 2 and "there is no run 'wole'. Did you mean 'whole'?" in err
        code, _, err = assl("status", "broken")
        assert code == 2 and message in err and "run again" in err


@pytest.mark.parametrize("mark", ["sweep.json", "shared/entry.json"])
def test_jobs_of_a_sweep_are_listed_and_found(assl, tmp_path, mark):
    from assl_kit.artifacts.workspace import Workspace

    for job in ("seed-0", "seed-1"):
        ws = Workspace.open(tmp_path / "runs" / "seeds" / job)
        ws.update_manifest("notebooks", {"00_only": {"status": "done"}})
    path = tmp_path / "runs" / "seeds" / mark
    path.parent.mkdir(exist_ok=True)
    path.write_text("{}", encoding="utf-8")
    found = json.loads(assl("status", "--json")[1])
    assert found == [{"run": f"seeds/seed-{seed}", "state": "done"} for seed in (0, 1)]
    code, out, _ = assl("status", "seeds/seed-1")
    assert code == 0 and "00_only" in out and "done" in out
    assert "Did you mean 'seeds/seed-1'" in assl("status", "seeds/sed-1")[2]
    code, _, err = assl("status", "seeds")
    assert code == 2 and "'seeds' is a sweep, not a run. Its jobs are seeds/seed-0, seeds/seed-1." in err


def test_two_runs_are_compared(assl, tmp_path):
    from assl_kit.artifacts.parameters import resolve
    from assl_kit.artifacts.workspace import Workspace

    for name, seed in (("a", 0), ("b", 1)):
        Workspace.open(tmp_path / "runs" / name).remember("tiny", resolve("tiny", seed=seed))
    code, out, _ = assl("compare", "a", "b")
    assert code == 0 and out.startswith("A is a, B is b") and "seed" in out
    assert assl("compare", "a", "c")[0] == 2


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_shell_completes(assl, shell):
    code, out, _ = assl("completion", shell)
    assert code == 0 and "_ASSL_COMPLETE" in out
    assert assl("completion", "tcsh")[0] == 2


def test_help_names_the_exit_codes(assl):
    out = " ".join(assl("--help")[1].split())
    assert "0 all went well; 1 a notebook or a job failed" in out
    for command in (
        "run",
        "sweep",
        "status",
        "report",
        "compare",
        "referee",
        "route",
        "ask",
        "chat",
        "export",
        "completion",
    ):
        assert command in out


def test_a_failed_notebook_is_exit_code_1(assl, tmp_path):
    write_notebook(tmp_path / "nb" / "00_only.ipynb", "raise ValueError('no luck')")
    code, out, err = assl("run")
    assert code == 1 and "failed" in out
    assert "ValueError: no luck" in err and "Traceback" not in err


def test_the_installed_command(tmp_path):
    def command(*arguments):
        return subprocess.run(
            [sys.executable, "-m", "assl_kit.app.cli", *arguments],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            check=False,
        )

    assert command("--version").stdout.strip() == __version__
    refused = command("run", "--profile", "tinny")
    assert refused.returncode == 2 and refused.stdout == ""
    assert refused.stderr.startswith("assl: unknown profile 'tinny'. Did you mean 'tiny'?")


def test_ask_writes_the_answer_as_it_comes_and_tells_who_answered(assl, tmp_path, monkeypatch):
    from types import SimpleNamespace

    import assl_kit.artifacts.build_experts as build
    from assl_kit.experts.router import CentroidRouter

    router = CentroidRouter([[1, 0], [0, 1]], min_similarity=0.25)
    told = []
    silversight = SimpleNamespace(
        route=lambda questions: router.route([[0.72, 0.7]], known=[float("hello" not in questions[0])]),
        stream=lambda text, **options: told.append(options) or iter(["积", "极"]),
        router=router,
    )
    lengths = {"max_length": 90, "max_new_tokens": 5}
    run = SimpleNamespace(current_parameters=lambda: SimpleNamespace(lengths=lengths))
    monkeypatch.setattr("assl_kit.app.ask.open_run", lambda name: run)
    monkeypatch.setattr("assl_kit.app.ask.experts_folder", lambda ws: tmp_path)
    monkeypatch.setattr(build, "open_silversight", lambda ws, parameters: silversight)
    code, out, _ = assl("ask", "情绪如何？", "--run", "mine")
    assert code == 0 and out.splitlines()[0] == "积极" and out.splitlines()[1].startswith("(expert-0, similarity")
    code, out, _ = assl("ask", "情绪如何？", "--run", "mine", "--top-k", 2)
    assert code == 0 and "(expert-0 × 0.55 + expert-1 × 0.45, similarity" in out
    assert told == [{"top_k": 1} | lengths, {"top_k": 2} | lengths]
    code, _, err = assl("ask", "情绪如何？", "--run", "mine", "--top-k", 3)
    assert code == 2 and "top_k must be a whole number from 1 to 2" in err
    code, out, _ = assl("ask", "hello", "--run", "mine")
    line = "(the base answered, since nothing similar was learnt: below 0.250, similarity 0.000, margin 0.000)"
    assert code == 0 and out.splitlines()[1] == line


def test_a_bank_is_exported_from_its_folder(assl, tmp_path, monkeypatch):
    import assl_kit.app.exports.folder
    import assl_kit.experts.bank

    (tmp_path / "bank").mkdir()
    (tmp_path / "bank" / "bank.json").write_text("{}", encoding="utf-8")
    monkeypatch.setattr(assl_kit.experts.bank.ExpertBank, "from_pretrained", lambda source: ["one", "two"])
    told = []

    def write(server, bank, out, **options):
        told.append((server.name, options))
        return tmp_path / out

    monkeypatch.setattr(assl_kit.app.exports.folder, "write_folder", write)
    for kind, name in (("vllm", "vLLM"), ("sglang", "SGLang"), ("lorax", "LoRAX"), ("semantic-router",) * 2):
        code, out, _ = assl("export", kind, "bank", "served", "--base", "some/base")
        assert code == 0 and out.splitlines()[0] == "2 experts in served" and "served/serve.sh" in out
        assert ("client.py" in out) == (kind != "semantic-router") == ("config.yaml" not in out)
        assert told.pop() == (name, {"base": "some/base", "encoder": None})


def test_help_loads_nothing_heavy():
    """People wait for it; so the number of modules is bounded, not a time that depends on the machine."""
    script = (
        "import sys\nsys.argv = ['assl', '--help']\n"
        "from assl_kit.app.cli import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code, end.code\n"
        "heavy = 'torch transformers sentence_transformers sklearn scipy pandas numpy pyarrow numba joblib'.split()\n"
        "print('heavy:', [name for name in heavy if name in sys.modules], file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "Usage: assl" in done.stdout and done.stderr.strip() == "heavy: []"
