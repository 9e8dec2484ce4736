from __future__ import annotations

import socket

import psutil
import pytest

from volgen.core.errors import UserError
from volgen.parallel import rendezvous


@pytest.mark.parametrize(("nodes", "first"), [
    ("node1", "node1"), ("a,b", "a"), ("node[03-05,9],other", "node03"), ("n[1,3]", "n1"), ("login,node[1-2]", "login"),
    ("r[1-2].lan", "r1.lan"), ("rack[1-2]n[4-7,9],x", "rack1n4"),
])  # fmt: skip
def test_the_first_node_of_a_slurm_list(nodes: str, first: str) -> None:
    assert rendezvous.first_node(nodes) == first


def test_jobs_that_may_share_a_machine_have_ports_of_their_own() -> None:
    slurm = [rendezvous.port({"SLURM_JOB_ID": str(job), "SLURM_STEP_ID": str(step)}) for job in range(900, 1500) for step in range(16)]
    assert len(set(slurm)) == len(slurm)
    assert all(20000 <= port < 30000 for port in slurm)
    assert rendezvous.port({"PMIX_NAMESPACE": "1"}) != rendezvous.port({"PMIX_NAMESPACE": "2"})
    assert rendezvous.port({}) == 29500
    batch = rendezvous.port({"SLURM_JOB_ID": "9", "SLURM_STEP_ID": "4294967291"})
    assert 20000 <= batch < 30000, "the step id of a batch script is huge"


def test_the_interface_is_the_one_that_leads_to_rank_0() -> None:
    for name, addresses in psutil.net_if_addrs().items():
        for entry in addresses:
            if entry.family == socket.AF_INET and not entry.address.startswith("127.") and psutil.net_if_stats()[name].isup:
                assert rendezvous.interface(entry.address) == name


def test_ranks_of_one_machine_need_no_interface() -> None:
    assert rendezvous.interface("localhost") is None
    assert rendezvous.interface("127.0.0.1") is None


def test_a_name_that_means_loopback_here_only_gives_the_default_route(monkeypatch: pytest.MonkeyPatch) -> None:
    sources = {"node0": "127.0.1.1", "192.0.2.1": "10.1.2.3"}
    monkeypatch.setattr(rendezvous, "_source", sources.__getitem__)
    entry = type("Entry", (), {"address": "10.1.2.3"})
    monkeypatch.setattr(psutil, "net_if_addrs", lambda: {"lo": [], "ib0": [entry]})
    assert rendezvous.interface("node0") == "ib0"


def test_a_host_that_nobody_knows_is_named() -> None:
    rendezvous.check_resolves("localhost", "MASTER_ADDR")
    rendezvous.check_resolves("10.0.0.1", "MASTER_ADDR")
    with pytest.raises(UserError, match=r"MASTER_ADDR: 'no-such-host\.invalid' is not known on"):
        rendezvous.check_resolves("no-such-host.invalid", "MASTER_ADDR")
