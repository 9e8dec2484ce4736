"""Which processes are on one machine, with real namespaces where the system lets a test make them."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from volgen.parallel import machine

WHO = [sys.executable, "-c", "from volgen.parallel import machine; print(machine.identity())"]


def identity(*unshare: str, host: str = "") -> str:
    """What a process says that was started with some namespaces of its own."""
    words = ["unshare", "--user", "--map-root-user", *unshare] if unshare else []
    if words and (shutil.which("unshare") is None or subprocess.run([*words, "true"], capture_output=True, check=False).returncode):
        pytest.skip("this system does not let the test make namespaces")
    named = ["sh", "-c", f'hostname {host} && exec "$@"', "sh"] if host else []
    return subprocess.run([*words, *named, *WHO], capture_output=True, text=True, check=True).stdout.strip()


def test_processes_of_one_machine_agree() -> None:
    assert identity() == machine.identity()


@pytest.mark.skipif(not machine.BOOT.exists(), reason="no /proc: host names are all there is")
def test_a_machine_with_two_names_is_one() -> None:
    assert identity("--uts", host="other-name") == machine.identity()


@pytest.mark.skipif(not machine.BOOT.exists(), reason="no /proc: host names are all there is")
def test_two_containers_with_one_name_are_two() -> None:
    assert identity("--pid", "--fork", "--mount-proc") != machine.identity()


def test_without_proc_the_host_name_is_all_there_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(machine, "BOOT", tmp_path / "absent")
    assert machine.identity() == socket.gethostname()


def test_a_process_is_found_by_number_and_beginning() -> None:
    found = machine.process(os.getpid(), machine.began())
    assert found is not None and found.pid == os.getpid()
    assert machine.process(os.getpid(), machine.began() - 60) is None
    ended = subprocess.Popen(["true"])
    ended.wait()
    assert machine.process(ended.pid, machine.began()) is None
