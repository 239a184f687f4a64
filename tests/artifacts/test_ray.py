"""Ray as the engine: what comes out is what one machine gives, and what goes wrong is told at once."""

from __future__ import annotations

import os
import shutil
import time

import numpy as np
import pandas as pd
import pytest
from helpers.models import make_test_base
from safetensors.numpy import save_file
from sklearn.base import clone

from assl_kit.artifacts.build_experts import WORK
from assl_kit.artifacts.parameters import resolve
from assl_kit.artifacts.ray_stages import RayRedistributor, embed_side_by_side, train_side_by_side
from assl_kit.artifacts.steps import read, require
from assl_kit.artifacts.workspace import Workspace
from assl_kit.common.cluster import (
    BACKEND,
    backend,
    check_room,
    cluster,
    connect,
    device_for,
    explained,
    opened,
    run_tasks,
    share,
)
from assl_kit.data import records as corpus
from assl_kit.data.parquet import block_starts
from assl_kit.data.synthetic import make_corpus
from assl_kit.errors import AsslError, DataError, ParameterError
from assl_kit.selection.redistribute import Redistributor
from assl_kit.space.clusters import SemanticKMeans
from assl_kit.space.embeddings import embed_block, mapped_rows, read_embeddings, write_embeddings
from assl_kit.space.encoder import load_encoder

pytestmark = pytest.mark.long

SMALL = {"n_records": 360, "encoder_dim": 16, "min_samples": 4, "test_share": 0.2, "n_clusters": 3, "select_share": 0.2}
FEW = {"epochs": 1, "warmup_records": 0, "score": "column:given", "max_length": 128}


@pytest.fixture(scope="module")
def ray():
    """Two workers on this machine; an address from outside must not lead the tests to another cluster."""
    pytest.importorskip("ray", reason="needs the extra ray")
    address = os.environ.pop("RAY_ADDRESS", None)
    ray = connect(num_cpus=2, object_store_memory=200 * 2**20)
    yield ray
    ray.shutdown()
    if address is not None:
        os.environ["RAY_ADDRESS"] = address


@pytest.fixture
def on_ray(ray, monkeypatch):
    monkeypatch.setenv(BACKEND, "ray")
    return ray


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    """A run up to its experts, on one machine, of records in several blocks."""
    folder = tmp_path_factory.mktemp("local")
    base = make_test_base(folder / "base")
    data = folder / "data.jsonl"
    records = make_corpus(SMALL["n_records"], seed=0, test_share=0.2)
    records["given"] = np.linspace(0, 1, len(records))
    records.to_json(data, orient="records", lines=True, force_ascii=False)
    parameters = resolve("tiny", **(SMALL | FEW), data=str(data), base_model=str(base))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(corpus, "BLOCK", 100)
        ws = Workspace.open(folder / "ws")
        require(ws, "experts", parameters)
    return ws, parameters


def started_from(local, folder, *names):
    """A workspace that has got only these artifacts of the local run."""
    ws = Workspace.open(folder)
    shutil.copytree(local[0].folder, ws.folder)
    artifacts = ws.manifest()["artifacts"]
    ws._save(ws.manifest() | {"artifacts": {name: artifacts[name] for name in names}})
    for name in set(artifacts) - set(names):
        path = ws.path_of(name)
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    return ws


# the same results ----------------------------------------------------------------------------------------------------
@pytest.mark.slow
def test_a_run_on_ray_gives_the_same_files_and_keys(on_ray, local, tmp_path):
    before, parameters = local
    assert len(block_starts(before.path_of("records.parquet"))) == 5  # four blocks
    ws = started_from(local, tmp_path / "ws", "records.parquet", "encoder", "scores.parquet")
    require(ws, "experts", parameters)
    old, new = before.manifest()["artifacts"], ws.manifest()["artifacts"]
    assert set(old) == set(new)
    for name, entry in old.items():
        assert (new[name]["sha256"], new[name]["key"]) == (entry["sha256"], entry["key"]), name
    assert not ws.path_of(WORK).exists()
    assert not list(ws.folder.glob(".rows*"))


def blobs(n=600, d=12):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n, d)).astype(np.float32) + 2 * np.eye(d, dtype=np.float32)[rng.integers(0, 4, n)]
    return X / np.linalg.norm(X, axis=1, keepdims=True)


def test_the_two_stages_do_not_depend_on_the_engine_the_place_of_the_rows_or_the_cpus(ray, tmp_path):
    X = blobs()
    clusters = SemanticKMeans(4).fit_predict(X)
    ids = np.array([f"r{i:03d}" for i in np.random.default_rng(1).permutation(len(X))], dtype=object)
    scores = np.random.default_rng(2).random(len(X))
    np.save(tmp_path / "X.npy", X)
    mapped = np.load(tmp_path / "X.npy", mmap_mode="r")
    centroids = SemanticKMeans(4).fit(X).cluster_centers_
    cut, drop = {"min_samples": 4, "cell_rows": 80}, {"min_samples": 4, "noise": "drop"}
    for settings, given in (({"min_samples": 4}, {}), (cut, {}), (drop, {"centroids": centroids})):
        plain = Redistributor(**settings).fit_select(X, clusters, 90, scores=scores, ids=ids, **given)
        for rows, n_jobs in ((X, None), (mapped, 2)):
            found = RayRedistributor(**settings, n_jobs=n_jobs).fit_select(
                rows, clusters, 90, scores=scores, ids=ids, **given
            )
            pd.testing.assert_frame_equal(found.pool, plain.pool, check_exact=True)
            pd.testing.assert_frame_equal(found.table, plain.table, check_exact=True)
    assert clone(RayRedistributor(min_samples=4)).min_samples == 4


def test_workers_read_a_mapped_file_and_no_copy_of_it(ray, tmp_path):
    X = blobs()
    np.save(tmp_path / "X.npy", X)
    mapped = np.asarray(np.load(tmp_path / "X.npy", mmap_mode="r"))[100:]
    shared = share(mapped)
    assert shared["file"] == str(tmp_path / "X.npy")
    assert shared["shape"] == (500, 12)
    assert np.array_equal(opened(shared), X[100:])
    assert not opened(shared).flags.writeable
    assert isinstance(share(X), ray.ObjectRef)
    (tmp_path / "X.npy").unlink()
    with pytest.raises(AsslError, match="does not see the run's folder"):
        opened(shared)


# what goes wrong -----------------------------------------------------------------------------------------------------
def test_a_failing_cluster_is_named_and_stops_the_others(ray, tmp_path):
    def sleep(seconds, file):
        for _ in range(10 * seconds):
            time.sleep(0.1)
        open(file, "wb").close()

    def fail():
        raise DataError("a row is zero", where="row 3", hint="Remove it.")

    slow, bad = ray.remote(sleep), ray.remote(fail)
    tasks = {"cluster 0": lambda: slow.remote(600, str(tmp_path / "done")), "cluster 1": lambda: bad.remote()}
    with pytest.raises(DataError, match=r"^cluster 1 failed: a row is zero \(row 3\)\. Remove it\.$"):
        run_tasks("stage", tasks)
    assert not (tmp_path / "done").exists()
    assert run_tasks("stage", {"again": lambda: ray.remote(lambda: 5).remote()}) == [5]  # the worker is free again


def test_tasks_that_have_ended_are_not_cancelled(ray, monkeypatch):
    def divide(seconds):
        time.sleep(seconds)
        return 1 / 0

    cancelled = []
    monkeypatch.setattr(ray, "cancel", lambda ref, **options: cancelled.append(ref))
    task = ray.remote(divide)
    with pytest.raises(AsslError, match="^cluster . failed: ZeroDivisionError"):
        run_tasks("stage", {"cluster 0": lambda: task.remote(0.1), "cluster 1": lambda: task.remote(0.15)})
    assert not cancelled  # Ray would end this process


def test_a_failing_cluster_of_a_stage_is_named(ray):
    X = np.vstack([np.eye(4, dtype=np.float32), -np.eye(4, dtype=np.float32)])  # the second cluster's rows cancel out
    clusters = np.array([0, 0, 0, 1, 0, 0, 0, 1])
    X[4:7] = X[:3]
    pool = Redistributor(min_samples=2).pool(X, clusters, 4)
    with pytest.raises(DataError, match="cluster 1 failed: the mean of 2 rows has no direction"):
        RayRedistributor(min_samples=2).select(X, clusters, pool, 4)


def test_an_error_that_is_not_ours_is_told_in_one_sentence(ray):
    def divide():
        return 1 / 0

    with pytest.raises(AsslError, match=r"^cluster 7 failed: ZeroDivisionError: division by zero\. What has been"):
        run_tasks("stage", {"cluster 7": lambda: ray.remote(divide).remote()})


def test_a_failing_expert_is_named_and_finished_ones_are_kept(on_ray, local, tmp_path):
    ws = started_from(local, tmp_path / "ws", *(set(local[0].manifest()["artifacts"]) - {"experts"}))
    work = ws.path_of(WORK)
    work.mkdir()
    (work / "expert-2.partial").write_text("in the way")  # the third starts when one of the first two has ended
    with pytest.raises(AsslError, match="^expert 2 failed: "):
        require(ws, "experts", local[1])
    finished = {path: path.stat().st_mtime_ns for path in work.glob("expert-?/adapter_model.safetensors")}
    assert finished
    (work / "expert-2.partial").unlink()
    jobs = []

    def noting(given, **options):
        jobs.append({path: path.stat().st_mtime_ns for path in finished})
        results = train_side_by_side(given, **options)
        jobs.append({path: path.stat().st_mtime_ns for path in finished})
        return results

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("assl_kit.artifacts.ray_stages.train_side_by_side", noting)
        require(ws, "experts", local[1])
    assert jobs == [finished, finished]
    made = ws.manifest()["artifacts"]["experts"]["sha256"]
    assert made == local[0].manifest()["artifacts"]["experts"]["sha256"]


def test_an_error_of_which_ray_data_keeps_the_text_alone_is_told():
    class UserCodeException(Exception):
        pass

    told = UserCodeException(
        "UDF failed to process a data block.\n\nTraceback (most recent call last):\n  ...\n"
        "assl_kit.errors.DataError: the embedding of the text '' is zero (record 'r7'). Remove it.\n"
    )
    assert str(explained(told, "embedding")) == (
        "embedding failed: the embedding of the text '' is zero (record 'r7'). Remove it"
    )


def test_a_text_that_cannot_be_embedded_is_named(local, tmp_path):
    records = read(local[0], "records").head(150)
    records.loc[120, ["instruction", "input"]] = " "
    records.to_parquet(tmp_path / "r.parquet", index=False, row_group_size=100)
    encoder = load_encoder(str(local[0].path_of("encoder")))
    places, ids, rows = embed_block(encoder, tmp_path / "r.parquet", 0)
    assert (places.tolist(), ids) == (list(range(100)), records["id"][:100].tolist())
    assert np.array_equal(rows, read(local[0], "embeddings")["embeddings"][:100])
    with pytest.raises(DataError, match=f"is zero .record '{records['id'][120]}'"):
        embed_block(encoder, tmp_path / "r.parquet", 1)


def test_work_without_room_is_refused_before_it_starts(ray, local, tmp_path):
    if ray.cluster_resources().get("GPU"):
        pytest.skip("this machine has a GPU")
    with pytest.raises(ParameterError, match="embedding asks for 1 GPU, but no machine of the Ray cluster has one"):
        next(embed_side_by_side(local[0].path_of("records.parquet"), "some/encoder", device="cuda"))
    with pytest.raises(ParameterError, match="training asks for 1 GPU"):
        train_side_by_side({"expert 0": {}}, "tiny", device="cuda")
    with pytest.raises(ParameterError, match="A-DBSCAN asks for 1 GPU"):
        RayRedistributor(device="cuda").pool(blobs(), np.zeros(600, int), 60)
    with pytest.raises(ParameterError, match="A-DBSCAN asks for 3 CPUs"):
        RayRedistributor(n_jobs=3).pool(blobs(), np.zeros(600, int), 60)
    assert device_for("auto", "training") == ("auto", 0)
    check_room("training", cpus=2)


def test_the_backend_is_local_or_ray_and_ray_must_be_there(monkeypatch):
    monkeypatch.delenv(BACKEND, raising=False)
    assert backend() == "local"
    monkeypatch.setenv(BACKEND, "")
    assert backend() == "local"
    monkeypatch.setenv(BACKEND, "dask")
    with pytest.raises(ParameterError, match=r"unknown backend 'dask' \(ASSL_BACKEND\)\. Use 'local' or 'ray'\."):
        backend()
    monkeypatch.setenv(BACKEND, "ray")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ParameterError, match=r'not installed\. Install it: pip install "assl-kit\[ray\]"'):
        backend()


def test_a_run_refuses_an_unknown_backend(tmp_path, monkeypatch):
    monkeypatch.setenv(BACKEND, "spark")
    with pytest.raises(ParameterError, match="unknown backend 'spark'"):
        require(Workspace.open(tmp_path), "embeddings", resolve("tiny", **SMALL))


def test_a_cluster_that_cannot_be_reached_is_named(monkeypatch):
    ray = pytest.importorskip("ray", reason="needs the extra ray")

    def refuse(**_):
        raise ConnectionError("Could not find any running Ray instance.")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", refuse)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    with pytest.raises(
        AsslError, match=r"cannot be reached: Could not .* \(10\.0\.0\.1:6379\)\. Start it with 'ray start"
    ):
        connect()
    monkeypatch.delenv("RAY_ADDRESS")
    with pytest.raises(AsslError, match="no local Ray cluster could be started"):
        connect()


def test_a_block_tells_its_address_to_the_processes_started_in_it(on_ray):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(on_ray, "shutdown", lambda: None)  # the other tests need it
        with cluster():
            assert os.environ["RAY_ADDRESS"] == on_ray.get_runtime_context().gcs_address
    assert "RAY_ADDRESS" not in os.environ


# the file of embeddings ----------------------------------------------------------------------------------------------
def test_blocks_in_any_order_make_the_file_that_safetensors_writes(tmp_path):
    X, ids = blobs(50), [f"标{i}" for i in range(50)]
    order = np.random.default_rng(0).permutation(50)
    blocks = [(part, [ids[i] for i in part], X[part]) for part in np.split(order, [7, 30])]
    write_embeddings(tmp_path / "a", ids, blocks)
    save_file({"embeddings": X, "ids": np.frombuffer("\n".join(ids).encode(), np.uint8)}, tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    found = read_embeddings(tmp_path / "a")
    assert found["ids"] == ids
    assert np.array_equal(found["embeddings"], X)
    assert not found["embeddings"].flags.writeable
    assert isinstance(found["embeddings"].base, np.memmap)


def test_rows_of_other_records_and_missing_rows_are_refused(tmp_path):
    X, ids = blobs(3), ["a", "b", "c"]
    with pytest.raises(DataError, match=r"a row of the record 'c' came for 'b' \(row 1\)"):
        write_embeddings(tmp_path / "e", ids, [(np.arange(3), ["a", "c", "b"], X)])
    with pytest.raises(DataError, match=r"1 of 3 records have no embedding \(id 'c'\)"):
        write_embeddings(tmp_path / "e", ids, [(np.arange(2), ["a", "b"], X[:2])])


def test_mapped_rows_are_a_view_or_a_file_for_a_while(tmp_path):
    np.save(tmp_path / "X.npy", blobs())
    X = np.load(tmp_path / "X.npy", mmap_mode="r")
    before = sorted(tmp_path.iterdir())
    with mapped_rows(X, np.arange(5, 50), tmp_path) as rows:
        assert np.shares_memory(rows, X)
        assert sorted(tmp_path.iterdir()) == before
    with mapped_rows(X, np.array([9, 3, 4]), tmp_path) as rows:
        assert np.array_equal(rows, X[[9, 3, 4]])
        assert len(list(tmp_path.iterdir())) == len(before) + 1
    assert sorted(tmp_path.iterdir()) == before
