"""The speed guard: a kernel that became slower beside its peer is found, a slower machine is not."""

from __future__ import annotations

import copy
import json

import pytest

from benchmarks.kernels import guard
from benchmarks.machine import RESULTS


@pytest.fixture(scope="module")
def stored():
    return json.loads((RESULTS / "kernels.json").read_text(encoding="utf-8"))


def changed(stored, factor, **which):
    content = copy.deepcopy(stored)
    for record in content["records"]:
        if all(record[name] == value for name, value in which.items()):
            record["seconds_all"] = [seconds * factor for seconds in record["seconds_all"]]
    return content


def test_the_stored_run_passes_and_measures_every_pair(stored):
    lines, wrong = guard.slower(stored, stored)
    assert not wrong and len(lines) == sum(map(len, guard.PEERS.values()))


def test_a_machine_that_is_five_times_slower_passes(stored):
    assert guard.slower(changed(stored, 5.0), stored)[1] == []


@pytest.mark.parametrize("kernel", guard.PEERS)
def test_a_kernel_that_is_three_times_slower_than_its_peer_is_found(stored, kernel, tmp_path, capsys):
    content = changed(stored, 3.0, kernel=kernel, system="assl-kit")
    wrong = guard.slower(content, stored)[1]
    assert len(wrong) == len(guard.PEERS[kernel]) and all(line.startswith(f"{kernel} beside") for line in wrong)
    (tmp_path / "kernels.json").write_text(json.dumps(content), encoding="utf-8")
    assert guard.main(str(tmp_path / "kernels.json")) == 1 and "more than 2 times" in capsys.readouterr().out


def test_one_slow_round_of_three_is_no_regression(stored):
    content = copy.deepcopy(stored)
    for record in content["records"]:
        if record["system"] == "assl-kit" and len(record["seconds_all"]) > 1:
            record["seconds_all"][0] = 50 * max(record["seconds_all"])
    assert guard.slower(content, stored)[1] == []


def test_what_was_not_measured_does_not_pass(stored):
    content = copy.deepcopy(stored)
    content["records"] = [record for record in content["records"] if record["kernel"] != "mmr"]
    assert guard.slower(content, stored)[1] == ["mmr beside matrix-vector product a pick: not measured"]


def test_the_peers_are_systems_of_the_benchmark():
    from benchmarks.kernels.systems import SYSTEMS

    known = {(system.kernel, system.name): system for system in SYSTEMS}
    peers = [known[kernel, peer] for kernel, names in guard.PEERS.items() for peer in names]
    assert all(peer.package is None for peer in peers) and all((kernel, "assl-kit") in known for kernel in guard.PEERS)
