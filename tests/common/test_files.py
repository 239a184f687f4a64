"""errors.py, files.py, device.py and environment.py."""

from __future__ import annotations

import os
import pickle

import pytest

from assl_kit.common.device import pick_device
from assl_kit.common.files import (
    atomic_path,
    check_writable,
    read_json,
    sha256_file,
    sha256_of,
    temporary_owner,
    write_json,
)
from assl_kit.errors import AsslError, BankError, DataError, ParameterError, WorkspaceError
from assl_kit.teaching.environment import check_environment


@pytest.mark.parametrize("kind", [DataError, ParameterError, BankError, WorkspaceError])
def test_an_error_says_what_where_and_what_to_do(kind):
    error = kind("the row is zero", where="row 3", hint="Drop it.")
    assert str(error) == "the row is zero (row 3). Drop it."
    assert isinstance(error, AsslError)
    again = pickle.loads(pickle.dumps(error))  # joblib workers send errors this way
    assert type(again) is kind and str(again) == str(error)


def test_data_and_parameter_errors_are_value_errors():
    assert issubclass(DataError, ValueError) and issubclass(ParameterError, ValueError)


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path):
    target = tmp_path / "a.json"
    write_json(target, {"n": 1})
    with pytest.raises(RuntimeError), atomic_path(target) as temporary:
        temporary.write_text("half", encoding="utf-8")
        raise RuntimeError
    assert read_json(target) == {"n": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_a_folder_is_replaced_whole(tmp_path):
    target = tmp_path / "bank"
    for names in (["a", "b"], ["c"]):
        with atomic_path(target) as temporary:
            temporary.mkdir()
            for name in names:
                (temporary / name).write_text(name, encoding="utf-8")
        assert sorted(p.name for p in target.iterdir()) == names
    assert [p.name for p in tmp_path.iterdir()] == ["bank"]


def test_sha256_depends_on_names_and_content(tmp_path):
    for folder, name, text in (("x", "a", "1"), ("y", "b", "1"), ("z", "a", "2"), ("w", "a", "1")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / name).write_text(text, encoding="utf-8")
    hashes = [sha256_file(tmp_path / folder) for folder in "xyzw"]
    assert len(set(hashes)) == 3 and hashes[0] == hashes[3]
    assert sha256_of([1, 2]) != sha256_of([2, 1])


def test_pick_device():
    assert pick_device("cpu").device == "cpu"
    with pytest.raises(ParameterError, match="unknown device"):
        pick_device("tpu")


def test_environment_is_complete():
    table = check_environment(("notebooks", "train", "dev"))
    assert (table["status"] == "OK").all(), table[table["status"] != "OK"]
    assert {"python", "torch", "trl", "papermill", "nbval"} <= set(table["package"])


def test_a_trial_file_of_a_killed_process_is_known_as_such(tmp_path, monkeypatch):
    """A run removes what killed processes left behind; the file that tries a folder belongs to it."""
    owners = []

    def fsync(handle):
        owners.extend(temporary_owner(path.name) for path in tmp_path.iterdir())

    monkeypatch.setattr(os, "fsync", fsync)
    check_writable(tmp_path / "runs" / "x")
    assert owners == [os.getpid()] and not list(tmp_path.iterdir())


def test_all_is_on_the_disk_before_it_takes_its_place(tmp_path, monkeypatch):
    done, fsync, move = [], os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda handle: (done.append("on disk"), fsync(handle))[1])
    monkeypatch.setattr(os, "replace", lambda a, b: (done.append("in place"), move(a, b))[1])
    write_json(tmp_path / "a.json", 1)
    assert done == ["on disk", "in place"]
    with atomic_path(tmp_path / "bank") as temporary:
        (temporary / "expert-0").mkdir(parents=True)
        (temporary / "bank.json").write_text("{}", encoding="utf-8")
        (temporary / "expert-0" / "adapter.json").write_text("{}", encoding="utf-8")
    assert done[2:] == ["on disk", "on disk", "in place"]
