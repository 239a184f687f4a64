"""Sweeps: combinations checked first, what is shared made once, failures told, a table and pictures at the end."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys

import pandas as pd
import pytest
from helpers.notebooks import write_notebook

import assl_kit.runner.sweep as sweep
from assl_kit.artifacts.parameters import resolve
from assl_kit.artifacts.steps import require
from assl_kit.artifacts.workspace import Workspace
from assl_kit.common.files import write_json
from assl_kit.errors import AsslError, DataError, ParameterError, WorkspaceError
from assl_kit.runner.sweep import Outcome, job_name, plan_sweep, read_grid, run_sweep, sweep_table
from assl_kit.runner.sweep_page import plot_sweep, write_sweep

GRID = """
parameters: {n_records: 200}
grid:
  n_clusters: [3, 4]
  late: [false, true]
from: 3
to: 3
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with one notebook that makes the clusters, and fails for one combination."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("assl_kit.runner.plan.notebooks_folder", lambda: tmp_path / "nb")
    write_notebook(
        tmp_path / "nb" / "03_space.ipynb",
        "from assl_kit.artifacts.steps import require\nfrom assl_kit.artifacts.workspace import Workspace",
        "ws = Workspace.open(workspace)\nparams = ws.parameters(profile, n_clusters=n_clusters)",
        'require(ws, "clusters", params, notebook="03")',
        "if late and n_clusters == 4:\n    raise ValueError('four and late')",
        parameters='profile = "tiny"\nworkspace = ""\nn_clusters = 6\nlate = False',
    )
    (tmp_path / "grid.yaml").write_text(GRID, encoding="utf-8")
    return tmp_path


def test_a_sweep_shares_tells_failures_draws_and_goes_on(here, assl):
    code, out, err = assl("sweep", "grid.yaml", "--jobs", 2, "--json")
    assert code == 1  # one job failed
    told = json.loads(out)
    assert [job["status"] for job in told["jobs"]] == ["done", "done", "done", "failed"]
    assert "four and late" in told["jobs"][3]["message"]
    assert "4/4" in err
    folder = here / "runs" / "grid"
    jobs = [folder / job["name"] for job in told["jobs"]]
    assert len({(job / "records.parquet").stat().st_ino for job in jobs}) == 1  # one file, linked
    assert len({(job / "clusters.parquet").stat().st_ino for job in jobs}) == 2
    entries = [Workspace.open(job).manifest()["artifacts"]["records.parquet"] for job in jobs]
    assert len({entry["sha256"] for entry in entries}) == 1
    made = sorted(path.parent.name for path in (folder / "shared").glob("*/entry.json"))
    assert len(made) == 5  # records, encoder, embeddings once, clusters twice
    page = (folder / "sweep.html").read_text(encoding="utf-8")
    assert "four and late" in page and "<script" not in page
    assert list(pd.read_csv(folder / "sweep.csv")["status"]) == ["done"] * 3 + ["failed"]
    # again, with nothing changed: only what failed is run
    copies = [job / "notebooks" / "03_space.ipynb" for job in jobs]
    before = [(copy.stat().st_mtime_ns, copy.read_bytes()) for copy in copies]
    code, out, _ = assl("sweep", "grid.yaml", "--jobs", 2)
    assert code == 1 and "Page: runs/grid/sweep.html" in out
    after = [(copy.stat().st_mtime_ns, copy.read_bytes()) for copy in copies]
    assert after[:3] == before[:3] and after[3][0] > before[3][0]


def test_a_damaged_shared_artifact_is_made_again(tmp_path, monkeypatch):
    monkeypatch.setenv("ASSL_SHARED", str(tmp_path / "store"))
    parameters = resolve("tiny", n_records=200)
    require(Workspace.open(tmp_path / "a"), "records", parameters)
    (kept,) = (tmp_path / "store").glob("*/records.parquet")
    inode = kept.stat().st_ino
    second = Workspace.open(tmp_path / "b")
    require(second, "records", parameters)
    assert second.path_of("records.parquet").stat().st_ino == inode
    kept.unlink()
    kept.write_bytes(b"broken")
    third = Workspace.open(tmp_path / "c")
    assert len(require(third, "records", parameters)) == 200
    assert third.path_of("records.parquet").stat().st_ino != inode
    require(Workspace.open(tmp_path / "d"), "records", parameters)  # the store is whole again
    assert (tmp_path / "d" / "records.parquet").stat().st_ino == third.path_of("records.parquet").stat().st_ino


def test_what_an_artifact_notes_is_shared_with_it(tmp_path, monkeypatch):
    monkeypatch.setenv("ASSL_SHARED", str(tmp_path / "store"))
    rows = [{"instruction": "判断情绪。", "input": f"第{i}条", "output": "中性"} for i in range(60)]
    lines = [json.dumps(row) for row in rows]
    (tmp_path / "mine.jsonl").write_text("\n".join([*lines, "{broken"]), encoding="utf-8")
    parameters = resolve("tiny", data=str(tmp_path / "mine.jsonl"), n_records=0, n_clusters=2, on_bad="skip")
    notes = []
    for name in "ab":
        ws = Workspace.open(tmp_path / name)
        require(ws, "records", parameters)
        notes.append(ws.manifest()["left_out"])
    assert notes[0] == notes[1] and notes[1]["count"] == 1 and "mine.jsonl:61" in notes[1]["first"][0]["place"]


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs the extra 'ray'")
def test_the_same_on_ray(here, monkeypatch):
    grid = {"parameters": {"n_records": 200}, "grid": {"n_clusters": [3, 4]}, "from": "03", "to": "03"}
    (here / "two.yaml").write_text(json.dumps(grid), encoding="utf-8")
    code = (  # in a process of its own, since a second cluster in one process takes the first one's names for its own
        "import sys; from pathlib import Path\n"
        "from assl_kit.app import cli; from assl_kit.common import cluster; from assl_kit.runner import plan\n"
        "plan.notebooks_folder = lambda: Path('nb').resolve()\n"
        "cluster.connect(num_cpus=2, object_store_memory=100_000_000)\n"
        "sys.exit(cli.main())"
    )
    command = [sys.executable, "-c", code, "sweep", "two.yaml", "--backend", "ray", "--json"]
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert [job["status"] for job in told["jobs"]] == ["done", "done"]
    folders = [here / "runs" / "two" / job["name"] for job in told["jobs"]]
    assert len({(folder / "embeddings.safetensors").stat().st_ino for folder in folders}) == 1
    assert [len(pd.read_parquet(f / "clusters.parquet")["cluster"].unique()) for f in folders] == [3, 4]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("grid: {seed: [0, 1]}\nprofil: tiny", "unknown parameter 'profil'"),
        ("profile: tiny", "grid: Field required"),
        ("grid: {}", "grid: Dictionary should have at least 1 item"),
        ("grid: {seed: 3}", "grid.seed: Input should be a valid list"),
        ("grid: {seed: [[1]]}", "grid.seed"),
        ("grid: {seed: []}", "'seed' has no values"),
        ("grid: {seed: [1, 1]}", "'seed' has a value twice"),
        ("grid: {seed: [1]}\nparameters: {seed: 2}", "'seed' is both fixed and varied"),
        ("grid: [", "not valid YAML"),
    ],
)
def test_a_wrong_grid_file_is_refused(tmp_path, text, message):
    (tmp_path / "g.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(ParameterError) as caught:
        read_grid(tmp_path / "g.yaml")
    assert message in str(caught.value) and "g.yaml" in str(caught.value)


@pytest.mark.parametrize(
    ("grid", "error", "message"),
    [
        (
            {"n_cluster": [3]},
            ParameterError,
            "unknown parameter 'n_cluster'. Did you mean .n_clusters.*job n_cluster-3",
        ),
        (
            {"n_clusters": [3, "four"]},
            ParameterError,
            "n_clusters must be a whole number, got 'four' .job n_clusters-four.",
        ),
        ({"n_clusters": [3, 190], "n_records": [200]}, DataError, "fewer than 190 clusters"),
        ({"seed": list(range(101)), "n_clusters": list(range(2, 102))}, ParameterError, "10100 combinations"),
    ],
)
def test_a_combination_that_cannot_run_ends_the_sweep_before_it_begins(here, grid, error, message):
    with pytest.raises(error, match=message):
        run_sweep(sweep.Grid(grid=grid, **{"from": "03", "to": "03"}), "x")
    assert not (here / "runs").exists()


def test_a_sweep_keeps_away_from_runs_and_data_is_read_once(here, monkeypatch):
    write_json(Workspace.open("runs/mine").path_of("manifest.json"), {"format": 1})
    grid = sweep.Grid(grid={"n_clusters": [3, 4]}, **{"from": "03", "to": "03"})
    with pytest.raises(WorkspaceError, match="ordinary run of this name"):
        run_sweep(grid, "mine")
    with pytest.raises(ParameterError, match="unknown backend 'dask'"):
        run_sweep(grid, "x", backend="dask")
    rows = [{"instruction": "判断情绪。", "input": f"第{i}条", "output": "中性"} for i in range(60)]
    (here / "mine.jsonl").write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    import assl_kit.runner.plan as plan

    loaded, load = [], plan.load_run_records
    monkeypatch.setattr(plan, "load_run_records", lambda *a, **k: loaded.append(a) or load(*a, **k))
    own = grid.model_copy(update={"parameters": {"data": "mine.jsonl"}})
    assert len(plan_sweep(own, "x")) == 2 and len(loaded) == 1
    many = {"data": "mine.jsonl", "n_clusters": 40, "n_select": 45}
    shares = sweep.Grid(parameters=many, grid={"test_share": [0.1, 0.5]}, **{"from": "03", "to": "03"})
    with pytest.raises(DataError, match="30 training records are fewer than 40 clusters.*job test_share-0.5"):
        plan_sweep(shares, "x")  # other splits of the same file are counted anew


def test_names_of_jobs_are_folders_and_differ():
    names = [job_name({"encoder": value, "seed": 1}) for value in ("a/b", "a b", "a?b", "x" * 200, "x" * 201)]
    assert len(set(names)) == 5
    assert all(name.replace("-", "").replace("_", "").isalnum() and len(name) <= 80 for name in names)


def test_the_results_of_a_job_are_those_of_its_artifacts(tmp_path):
    ws = Workspace.open(tmp_path / "job")
    assert sweep.job_results(ws) == {}
    ws.folder.mkdir()
    pd.DataFrame({"id": range(30)}).to_parquet(ws.path_of("pool.parquet"))
    pd.DataFrame({"id": range(12)}).to_parquet(ws.path_of("selection.parquet"))
    rows = [
        {"arm": arm, "task": task, "value": value, "low": value - 0.125, "high": value + 0.25}
        for arm, value in (("base", 0.25), ("routed", 0.5))
        for task in ("qa", "mean")
    ]
    regret = [{"task": "qa", "regret": 0.5}, {"task": "mean", "regret": 0.0625}]
    metrics = {"table": rows, "routing": {"accuracy": 0.75}, "clusters": {"nmi": 0.5}, "regret": regret}
    write_json(ws.path_of("metrics.json"), metrics)
    assert sweep.job_results(ws) == {
        "pool": 30, "distinct chosen": 12, "base": 0.25, "base low": 0.125, "base high": 0.5,
        "routed": 0.5, "routed low": 0.375, "routed high": 0.75,
        "routing accuracy": 0.75, "cluster NMI": 0.5, "mean regret": 0.0625,
    }  # fmt: skip


def test_the_table_and_the_pictures(tmp_path):
    outcomes = [
        Outcome(
            f"s{seed}-{name}",
            {"seed": seed, "encoder": name},
            "done",
            2.0,
            results={
                "routed": 0.5 + seed / 10,
                "routed low": 0.4,
                "routed high": 0.8,
                "base": 0.2,
                "base low": 0.1,
                "base high": 0.3,
                "cluster NMI": 0.7,
                "pool": 30,
            },
        )
        for seed in (0, 1)
        for name in ("fit", "其他")
    ]
    outcomes.append(Outcome("s2", {"seed": 2, "encoder": "fit"}, "failed", 1.0, "no <b>luck</b>"))
    table = sweep_table(outcomes)
    assert list(table.columns) == ["seed", "encoder", "routed", "base", "cluster NMI", "pool", "seconds", "status"]
    assert table["routed"].isna().tolist() == [False] * 4 + [True]
    ws = Workspace.open(tmp_path / "runs" / "s")
    page = write_sweep(ws, outcomes).read_text(encoding="utf-8")
    assert "no &lt;b&gt;luck" in page and page.count("data:image/png") == 2
    assert ws.has("plots/seed.png") and ws.has("plots/encoder.png")
    figure = plot_sweep(sweep_table(outcomes, intervals=True), "seed", ["seed", "encoder"])
    left = figure.axes[0]
    lines = {
        line.get_label(): line.get_xydata().tolist() for line in left.lines if not line.get_label().startswith("_")
    }
    assert lines["routed"] == [[0.0, 0.5], [1.0, 0.6]] and lines["base"] == [[0.0, 0.2], [1.0, 0.2]]
    assert plot_sweep(table[table["status"] == "failed"], "seed", ["seed", "encoder"]) is None


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
def test_a_worker_that_is_killed_fails_the_jobs_it_takes_along_and_finished_ones_are_kept(
    here, monkeypatch, capsys, assl
):
    finished = here / "runs" / "k" / "n_clusters-3" / "manifest.json"
    write_notebook(
        here / "nb" / "03_space.ipynb",
        f"import os, signal, time\nfrom pathlib import Path\n\nfinished = Path('{finished}')",
        "if n_clusters == 4:\n"
        "    while not finished.is_file() or 'done' not in finished.read_text():\n"
        "        time.sleep(0.1)\n"
        "    os.kill(os.getppid(), signal.SIGKILL)",
        parameters='profile = "tiny"\nworkspace = ""\nn_clusters = 6',
    )
    (here / "k.yaml").write_text("grid: {n_clusters: [3, 4]}\nfrom: 3\nto: 3", encoding="utf-8")
    code, out, error = assl("sweep", "k.yaml", "--jobs", "2", "--name", "k", "--json")
    assert code == 1 and "Traceback" not in error  # work had begun, so not 2
    told = json.loads(out)
    kept = json.loads((here / "runs" / "k" / "sweep.json").read_text(encoding="utf-8"))
    assert kept["jobs"] == told["jobs"] and [job["name"] for job in told["jobs"]] == ["n_clusters-3", "n_clusters-4"]
    lost = told["jobs"][1]
    assert lost["status"] == "failed" and lost["results"] == {}
    assert "a worker of the sweep failed: TerminatedWorkerError" in lost["message"]
    assert "memory may have run out" in lost["message"] and lost["message"] in error
    assert "a worker of the sweep failed" in (here / "runs" / "k" / "sweep.html").read_text(encoding="utf-8")
    assert json.loads(finished.read_text(encoding="utf-8"))["notebooks"]["03_space"]["status"] == "done"


def test_jobs_without_an_outcome_when_a_worker_dies_are_listed_as_failed():
    jobs = [sweep.Job(f"seed-{seed}", {"seed": seed}, None) for seed in range(3)]

    def broken():
        yield Outcome("seed-1", {"seed": 1}, "done", 2.0)
        raise AsslError("a worker of the sweep failed", hint="Run again.")

    found = {outcome.name: outcome for outcome in sweep._with_the_lost(broken(), jobs)}
    assert {name: outcome.status for name, outcome in found.items()} == {
        "seed-1": "done",
        "seed-0": "failed",
        "seed-2": "failed",
    }
    assert found["seed-2"].values == {"seed": 2}
    assert found["seed-2"].message == "a worker of the sweep failed. Run again."
