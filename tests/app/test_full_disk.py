"""A disk that fills at any moment, and folders that cannot be written: one message, and nothing half-written stays."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from contextlib import contextmanager

import numpy as np
import pytest
from helpers.banks import write_adapter
from helpers.models import make_test_encoder
from helpers.notebooks import run_here, write_notebook

from assl_kit.app.exports.folder import write_folder
from assl_kit.app.exports.servers import VLLM
from assl_kit.artifacts.parameters import resolve
from assl_kit.artifacts.workspace import Workspace
from assl_kit.common.files import atomic_path, sha256_file, temporary_owner
from assl_kit.errors import refusal
from assl_kit.experts.bank import ExpertBank, Provenance
from assl_kit.runner.resume import run_lock
from assl_kit.space.encoder import encoder_fingerprint

CALLS = ("replace", "fsync")


class Disk:
    """Lets one call of the system fail from its n-th time on."""

    def __init__(self, monkeypatch, call, number=errno.ENOSPC):
        self.left, self.failed, self.real, self.call = 10**9, 0, getattr(os, call), call

        def refused(*arguments, **options):
            self.left -= 1
            if self.left >= 0:
                return self.real(*arguments, **options)
            self.failed += 1
            raise OSError(number, os.strerror(number), *(str(argument) for argument in arguments[:1]))

        monkeypatch.setattr(os, call, refused)

    @contextmanager
    def full_after(self, calls):
        self.left, self.failed = calls, 0
        try:
            yield
        finally:
            self.left = 10**9


@pytest.fixture(params=CALLS)
def disk(monkeypatch, request):
    return Disk(monkeypatch, request.param)


def leftovers(folder):
    return [path for path in folder.rglob("*") if temporary_owner(path.name) is not None]


def every_moment(disk, attempt, most=60):
    """Let the disk be full after 0, 1, 2, … calls, until all goes well; how often it did not."""
    for calls in range(most):
        with disk.full_after(calls):
            attempt(calls)
        if not disk.failed:
            return calls
    raise AssertionError("it never goes well")


@pytest.fixture
def bank(tmp_path):
    encoder = make_test_encoder()
    about = {"id": "fit", "fingerprint": encoder_fingerprint(encoder), "dim": 4}
    origin = Provenance({"id": "some/base", "revision": "1", "fingerprint": "b" * 64}, about, encoder_model=encoder)
    adapters = [write_adapter(tmp_path / "made" / str(k), k) for k in range(2)]

    def make(min_similarity=0.0):
        changed = Provenance(origin.base, about, encoder_model=encoder, min_similarity=min_similarity)
        return ExpertBank.create(tmp_path / "bank", adapters, np.eye(4)[:2], changed)

    make()
    return make


# at every moment -----------------------------------------------------------------------------------------------------
def test_a_bank_is_whole_or_the_old_one(bank, disk, tmp_path):
    before = sha256_file(tmp_path / "bank")

    def attempt(calls):
        try:
            bank(0.5)
        except OSError as error:
            assert disk.failed and error.errno == errno.ENOSPC
            for folder in leftovers(tmp_path):  # moved out of the way before the disk was full, and kept there
                assert disk.call == "replace" and calls == 1 and not (tmp_path / "bank").exists()
                (folder / ".replaced").rename(tmp_path / "bank")
                shutil.rmtree(folder)
            assert sha256_file(tmp_path / "bank") == before

    assert every_moment(disk, attempt) >= 2
    assert ExpertBank.from_pretrained(tmp_path / "bank").min_similarity == 0.5 and not leftovers(tmp_path)


def test_a_folder_that_cannot_be_replaced_is_put_back(tmp_path, monkeypatch):
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "a").write_text("old", encoding="utf-8")
    real, calls = os.replace, []

    def replace(source, target):
        calls.append(target)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, "full")
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(OSError, match="full"), atomic_path(tmp_path / "made") as temporary:
        temporary.mkdir()
    assert (tmp_path / "made" / "a").read_text(encoding="utf-8") == "old" and not leftovers(tmp_path)


def test_an_export_is_whole_or_the_old_one(bank, disk, tmp_path):
    opened, out = bank(), tmp_path / "out"

    def attempt(calls):
        try:
            write_folder(VLLM, opened, out)
        except OSError as error:
            assert disk.failed and error.errno == errno.ENOSPC and not out.exists() and not leftovers(tmp_path)

    assert every_moment(disk, attempt) >= 1
    assert json.loads((out / "routes.json").read_text(encoding="utf-8"))["experts"]


@pytest.fixture
def here(assl, monkeypatch, tmp_path):
    """The command, where the chain has one notebook, which is executed without a kernel and writes an artifact."""
    cell = (
        'from assl_kit.artifacts.workspace import Workspace\nws = Workspace.open()\nwith ws.writing("a.json") as t:\n'
    )
    cell += '    t.write_text("[1]", encoding="utf-8")\nws.commit("a.json", key="1")'
    monkeypatch.setattr("assl_kit.runner.plan.notebooks_folder", lambda: tmp_path / "nb")
    write_notebook(tmp_path / "nb" / "00_only.ipynb", cell)
    run_here(monkeypatch)

    @contextmanager
    def in_this_process(*_):
        yield lambda function, work: (function(*item) for item in work), 1

    monkeypatch.setattr("assl_kit.runner.sweep._workers", in_this_process)
    return assl


def is_one_message(result, codes=(3,)):
    code, _, err = result
    lines = [line for line in err.splitlines() if line]
    assert code in codes and len(lines) == 1 and lines[0].startswith("assl: "), (code, err)
    assert "No space left on device" in err


def test_a_run_at_every_moment(here, disk, tmp_path):
    def attempt(calls):
        name = f"x{calls}"
        result = here("run", "--name", name)
        if disk.failed:
            is_one_message(result, codes=(1, 3))
            assert result[0] == 3 or "report" in result[2] or "00_only" in result[2]
            assert not leftovers(tmp_path)
        else:
            assert result[0] == 0

    assert every_moment(disk, attempt) >= 5
    code, out, _ = here("status", "--json")
    assert code == 0 and {row["state"] for row in json.loads(out)} <= {"new", "failed", "broken off", "done"}


def test_a_report_at_every_moment(here, disk, tmp_path):
    assert here("run", "--name", "x")[0] == 0
    before = (tmp_path / "runs" / "x" / "report.html").read_bytes()

    def attempt(calls):
        result = here("report", "x")
        if disk.failed:
            is_one_message(result)
            assert (tmp_path / "runs" / "x" / "report.html").read_bytes() == before and not leftovers(tmp_path)

    assert every_moment(disk, attempt) >= 1


def test_a_sweep_at_every_moment(here, disk, tmp_path):
    (tmp_path / "g.yaml").write_text("grid: {seed: [0, 1]}", encoding="utf-8")

    def attempt(calls):
        result = here("sweep", "g.yaml", "--name", f"s{calls}")
        if disk.failed:
            code, out, err = result
            assert "Traceback" not in err and not leftovers(tmp_path)
            assert code == 3 or (code == 1 and "No space left" in out)  # a job failed, and the table says why
            assert code == 1 or err.count("\n") == 1

    assert every_moment(disk, attempt) >= 10


def test_a_training_by_several_processes_is_refused_in_one_message(here, disk, tmp_path, monkeypatch, capsys):
    from assl_kit.app import train_bank

    assert here("run", "--name", "x")[0] == 0
    monkeypatch.setattr(train_bank, "is_current", lambda *_: True)
    monkeypatch.setattr(train_bank, "require", lambda ws, *_: ws.update_manifest("training", {}))
    monkeypatch.setattr(sys, "argv", ["train_bank", "x"])
    with disk.full_after(0), pytest.raises(SystemExit) as caught:
        train_bank.main()
    is_one_message((caught.value.code, *capsys.readouterr()))


# real disks ----------------------------------------------------------------------------------------------------------
@pytest.fixture
def small_disk(tmp_path):
    """A file system of 3 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = shutil.which("mount")
    command = [mount or "mount", "-t", "tmpfs", "-o", "size=3m", "none", str(place)]
    if sys.platform != "linux" or mount is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def fill(place):
    with open(place / "filler", "wb", buffering=0) as file:
        try:
            while file.write(bytes(1 << 12)):
                pass
        except OSError as error:
            assert error.errno == errno.ENOSPC


def test_a_full_disk(here, bank, small_disk, tmp_path, monkeypatch):
    opened = bank()
    monkeypatch.setenv("ASSL_RUNS", str(small_disk / "runs"))
    assert here("run", "--name", "x")[0] == 0
    (tmp_path / "g.yaml").write_text("grid: {seed: [0, 1]}", encoding="utf-8")
    fill(small_disk)
    before = sha256_file(small_disk)
    for command in (
        ("run", "--name", "x", "--force"), ("run", "--dry-run"), ("report", "x"), ("sweep", "g.yaml"),
        ("export", "vllm", tmp_path / "bank", small_disk / "out"),
    ):  # fmt: skip
        is_one_message(here(*command))
        assert sha256_file(small_disk) == before, command
    for command in (("status",), ("status", "x"), ("compare", "x", "x"), ("report", "x", "--no-write")):
        assert here(*command)[0] == 0
    with pytest.raises(Exception) as caught:  # safetensors and tokenizers have kinds of their own
        opened.save_pretrained(small_disk / "bank")
    assert refusal(caught.value).errno == errno.ENOSPC and sha256_file(small_disk) == before


def test_libraries_that_tell_of_a_full_disk_in_their_own_words(small_disk):
    import torch
    from safetensors.numpy import save_file

    from assl_kit.model.identity import TINY_BASE

    fill(small_disk)
    tokenizers = pytest.importorskip("tokenizers")
    tokenizer = tokenizers.Tokenizer.from_file(str(TINY_BASE / "tokenizer.json"))
    for write in (
        lambda: save_file({"a": np.zeros(1 << 16)}, small_disk / "a.safetensors"),
        lambda: tokenizer.save(str(small_disk / "t.json")),
        lambda: torch.save(torch.zeros(1 << 16), small_disk / "a.pt"),
        lambda: np.save(small_disk / "a.npy", np.zeros(1 << 16)),
    ):
        with pytest.raises(Exception) as caught:
            write()
        assert refusal(caught.value) is not None, caught.value


# a look --------------------------------------------------------------------------------------------------------------
class Watch:
    """Refuses whatever would change a folder, and keeps it. An audit hook cannot be taken away, but it can sleep."""

    def __init__(self):
        self.folder, self.changes = None, []
        sys.addaudithook(self.see)

    def see(self, event, arguments):
        if self.folder is None:
            return
        changes = event in ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.utime")
        if event == "open":
            _, mode, flags = arguments
            changes = bool((flags or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)) or any(
                c in (mode or "") for c in "wax+"
            )
        if changes and str(self.folder) in " ".join(map(str, arguments)):
            self.changes.append((event, arguments))
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(arguments[0]))


WATCH = Watch()


def test_looks_work_where_nothing_can_be_written(here, tmp_path):
    for name in "ab":
        assert here("run", "--name", name)[0] == 0
    with run_lock(Workspace.open(tmp_path / "runs" / "a")):
        pass
    folder = tmp_path / "runs"
    before = {path: path.stat().st_mtime_ns for path in [folder, *folder.rglob("*")]}
    WATCH.folder, WATCH.changes = folder, []
    try:
        for command in (
            ("status",), ("status", "--json"), ("status", "a"), ("compare", "a", "b"), ("compare", "a", "b", "--json"),
            ("report", "a", "--no-write"), ("report", "a", "--no-write", "--json"),
        ):  # fmt: skip
            code, out, err = here(*command)
            assert (code, err) == (0, "") and not WATCH.changes, command
            assert "report.html" not in out
        code, _, err = here("report", "a")
        assert code == 3 and "Read-only" in err and WATCH.changes  # the watch sees what writes
    finally:
        WATCH.folder = None
    assert {path: path.stat().st_mtime_ns for path in [folder, *folder.rglob("*")]} == before


# memory, nesting -----------------------------------------------------------------------------------------------------
DEEP = "[" * 100_000
LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{this}: &{this} [{', '.join(['*' + last] * 9)}]\n" for last, this in zip("abcdefghij", "bcdefghijk", strict=True)
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (DEEP, "nested too deeply"), ("{a: " * 50_000, "nested too deeply"), ("- " * 100_000, "nested too deeply"),
        ("n_select: 2024-13-45", "a value cannot be read"), (f"n_select: {'9' * 5000}", "a value cannot be read"),
        (f"n_select: {DEEP[:40]}{']' * 40}", "must be a whole number"), (LAUGHS + "n_select: *k", "unknown parameters"),
        (LAUGHS.replace("a: &a", "n_select: &a", 1), "unknown parameters"),
    ],
    ids=["list", "mapping", "items", "date", "digits", "some", "laughs", "laughs in a value"],
)  # fmt: skip
def test_a_parameter_file_that_is_deep_is_one_message(here, tmp_path, text, message):
    (tmp_path / "p.yaml").write_text(text, encoding="utf-8")
    for command in (("run", "-f", "p.yaml", "--dry-run"), ("sweep", "p.yaml", "--dry-run")):
        code, _, err = here(*command)
        assert code == 2 and err.count("\n") == 1 and len(err) < 2000, err[:500]
    assert message in here("run", "-f", "p.yaml")[2] and not (tmp_path / "runs").exists()


@pytest.mark.parametrize("name", ["n_select", "eps", "score", "min_similarity", "dry"])
def test_a_value_that_is_deep_is_one_short_message(here, tmp_path, name):
    for text in (DEEP, "9" * 5000, "[" * 400 + "]" * 400):
        code, _, err = here("run", "-p", name, text, "--dry-run")
        assert code == 2 and err.count("\n") == 1 and len(err) < 1000, err[:500]
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (MemoryError("Unable to allocate 4.00 TiB"), 3, "the memory does not suffice: Unable to allocate 4.00 TiB"),
        (RecursionError("maximum recursion depth exceeded"), 2, "nested too deeply"),
        (RuntimeError("a fault of a library"), None, None),
    ],
)
def test_no_memory_and_no_stack_are_one_message(here, monkeypatch, error, code, message):
    def fails(*_, **__):
        raise error

    monkeypatch.setattr("assl_kit.runner.plan.make_plan", fails)
    if code is None:
        with pytest.raises(RuntimeError):
            here("run")
        return
    result = here("run")
    assert result[0] == code and result[2].count("\n") == 1 and message in result[2]


# names ---------------------------------------------------------------------------------------------------------------
def test_a_name_too_long_for_the_disk_is_refused_before(here, tmp_path):
    for name in ("长" * 100, "长" * 67, "x" * 101):
        for command in (("run", "--name", name), ("run", "--name", name, "--dry-run")):
            code, _, err = here(*command)
            assert code == 2 and err.count("\n") == 1 and "200 bytes" in err and not (tmp_path / "runs").exists()
    assert here("run", "--name", "长" * 66)[0] == 0


def test_a_disk_of_short_names_refuses_before(here, tmp_path, monkeypatch):
    """As of encrypted home folders, which take 143 bytes."""
    real = os.stat

    def stat(path, *arguments, **options):
        if isinstance(path, str | os.PathLike) and any(len(os.fsencode(part)) > 143 for part in str(path).split("/")):
            raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG), str(path))
        return real(path, *arguments, **options)

    monkeypatch.setattr(os, "stat", stat)
    (tmp_path / "g.yaml").write_text(f"grid: {{data: [{'长' * 50}, embedded]}}", encoding="utf-8")
    for command in (("run", "--name", "长" * 60), ("run", "--name", "长" * 60, "--dry-run")):
        code, _, err = here(*command)
        assert code == 3 and err.count("\n") == 1 and "File name too long" in err
    assert here("run", "--name", "长" * 40, "--dry-run")[0] == 0


def test_a_run_of_its_own_is_not_touched_by_what_fails(tmp_path):
    ws = Workspace.open(tmp_path)
    ws.remember("tiny", resolve("tiny"))
    before = sha256_file(tmp_path)
    with pytest.raises(OSError), ws.writing("a.json") as temporary:
        temporary.write_text("half", encoding="utf-8")
        raise OSError(errno.ENOSPC, "full")
    assert sha256_file(tmp_path) == before
