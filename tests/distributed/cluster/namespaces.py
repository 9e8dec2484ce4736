"""Two nodes on one machine: a network namespace with an address, a host name and an sshd for each, joined by a bridge.

Everything has names and addresses of its own, so that several such clusters can exist at once; the bridge is in a third namespace,
so nothing shows in the machine's own network. The nodes share the file system and the process numbers of the machine, so for the watch
of volgen they are one machine with two names. Needs root.

    with two_nodes(folder) as nodes:
        process = nodes.start(0, ["bash", "launch/hostfile.sh", str(nodes.hostfile(slots=1)), ...])
        nodes.cut(1)
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PACKAGES = {"ip": "iproute2", "sshd": "openssh-server", "ssh": "openssh-client", "pdsh": "pdsh"}
"""Programs that are needed, and the Debian package of each."""
SSHD = """
Port 22
HostKey {folder}/key
AuthorizedKeysFile {folder}/key.pub
PidFile none
StrictModes no
UsePAM no
UseDNS no
PermitRootLogin yes
PasswordAuthentication no
MaxStartups 100
"""
SSH = """
IdentityFile {folder}/key
IdentitiesOnly yes
BatchMode yes
ConnectTimeout 5
StrictHostKeyChecking no
UserKnownHostsFile /dev/null
LogLevel ERROR
"""


def unavailable() -> str:
    """Why this machine cannot have two nodes, empty if it can."""
    if os.geteuid() != 0:
        return "two nodes on one machine need root (network namespaces)"
    missing = [package for program, package in PACKAGES.items() if shutil.which(program) is None]
    if missing:
        return f"two nodes on one machine need the packages {' '.join(missing)}"
    name = f"vg{secrets.token_hex(3)}"
    tried = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True, check=False)
    if tried.returncode:
        return f"this machine makes no network namespace: {tried.stderr.strip()}"
    _ip("netns", "del", name)
    return ""


@dataclass(frozen=True)
class Node:
    """One of the two.

    Attributes:
        host: what ``hostname`` prints on it. Like on many real machines, it does not resolve to the address.
        address: IPv4 address, which the other node reaches.
        namespace: name of its network namespace.
        port: its end of the cable on the bridge.
    """

    host: str
    address: str
    namespace: str
    port: str


class TwoNodes:
    """What :func:`two_nodes` gives out.

    Attributes:
        folder: keys, configuration and hostfiles.
        nodes: the two.
    """

    def __init__(self, folder: Path) -> None:
        token = secrets.token_hex(3)
        # Other clusters on this machine have other addresses: DeepSpeed kills the ranks of a job by its list of addresses.
        network = f"10.{64 + secrets.randbelow(128)}.{secrets.randbelow(256)}"
        self.folder = folder
        self.nodes = tuple(Node(f"{token}-n{i}", f"{network}.{i + 1}", f"vg{token}n{i}", f"port{i}") for i in range(2))
        self._bridge = f"vg{token}sw"
        self._sshd: list[subprocess.Popen[bytes]] = []

    def create(self) -> None:
        """Makes the namespaces and starts an sshd in each."""
        _ip("netns", "add", self._bridge)
        _ip("-n", self._bridge, "link", "add", "bridge", "type", "bridge")
        _ip("-n", self._bridge, "link", "set", "bridge", "up")
        for node in self.nodes:
            _ip("netns", "add", node.namespace)
            _ip("-n", self._bridge, "link", "add", node.port, "type", "veth", "peer", "name", "eth0", "netns", node.namespace)
            _ip("-n", self._bridge, "link", "set", node.port, "master", "bridge", "up")
            _ip("-n", node.namespace, "link", "set", "lo", "up")
            _ip("-n", node.namespace, "addr", "add", f"{node.address}/24", "dev", "eth0")
            _ip("-n", node.namespace, "link", "set", "eth0", "up")
        self._keys()
        for node in self.nodes:
            command = [shutil.which("sshd") or "sshd", "-D", "-e", "-f", str(self.folder / "sshd_config")]
            with (self.folder / f"sshd-{node.host}.log").open("wb") as log:
                self._sshd.append(subprocess.Popen(self._inside(node, command), stdout=log, stderr=log, start_new_session=True))
        self._wait()

    def destroy(self) -> None:
        """Ends every process on the nodes and removes the namespaces."""
        for node in self.nodes:
            for number in self.processes(node):
                with suppress(ProcessLookupError):
                    os.kill(number, signal.SIGKILL)
        for process in self._sshd:
            process.kill()
            process.wait()
        for namespace in (*(node.namespace for node in self.nodes), self._bridge):
            subprocess.run(["ip", "netns", "del", namespace], capture_output=True, check=False)

    def processes(self, node: Node) -> list[int]:
        """Numbers of the processes whose network is the node's."""
        listed = subprocess.run(["ip", "netns", "pids", node.namespace], capture_output=True, text=True, check=False)
        return [int(word) for word in listed.stdout.split()]

    def environment(self) -> dict[str, str]:
        """This process's environment, with an ``ssh`` that knows the nodes' keys and without variables of a launcher."""
        launchers = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT", "PYTEST_CURRENT_TEST")
        kept = {name: value for name, value in os.environ.items() if name not in launchers}
        return {**kept, "PATH": f"{self.folder}:{kept['PATH']}"}

    def start(self, node: int, command: Sequence[str], **options: Any) -> subprocess.Popen[str]:
        """Starts a command on a node, as its user would in a shell there; ``options`` are those of ``subprocess.Popen``."""
        environment = {**self.environment(), **options.pop("env", {})}
        return subprocess.Popen(self._inside(self.nodes[node], command), env=environment, text=True, start_new_session=True, **options)

    def hostfile(self, slots: int) -> Path:
        """A hostfile of both nodes with that many ranks on each."""
        path = self.folder / f"hostfile-{slots}"
        path.write_text("".join(f"{node.address} slots={slots}\n" for node in self.nodes))
        return path

    def cut(self, node: int) -> None:
        """Pulls a node's cable: packets are lost, nobody is told."""
        _ip("-n", self._bridge, "link", "set", self.nodes[node].port, "down")

    def heal(self, node: int) -> None:
        """Plugs the cable in again."""
        _ip("-n", self._bridge, "link", "set", self.nodes[node].port, "up")

    def _inside(self, node: Node, command: Sequence[str]) -> list[str]:
        named = f'hostname {node.host} && exec "$@"'
        return ["ip", "netns", "exec", node.namespace, "unshare", "--uts", "sh", "-c", named, "sh", *command]

    def _keys(self) -> None:
        Path("/run/sshd").mkdir(exist_ok=True)  # sshd insists on it
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.folder / "key")], check=True)
        (self.folder / "sshd_config").write_text(SSHD.format(folder=self.folder))
        (self.folder / "ssh_config").write_text(SSH.format(folder=self.folder))
        wrapper = self.folder / "ssh"
        wrapper.write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} -F {self.folder}/ssh_config "$@"\n')
        wrapper.chmod(0o755)

    def _wait(self) -> None:
        """Until each node answers from the other."""
        end = time.monotonic() + 20
        for here, there in ((0, 1), (1, 0)):
            while self.start(here, ["ssh", self.nodes[there].address, "true"], stderr=subprocess.DEVNULL).wait():
                if time.monotonic() > end:
                    logs = "".join(path.read_text() for path in self.folder.glob("sshd-*.log"))
                    raise TimeoutError(f"no sshd answers in the namespaces:\n{logs}")
                time.sleep(0.1)


@contextmanager
def two_nodes(folder: Path) -> Iterator[TwoNodes]:
    """Two nodes for the length of a block; ``folder`` is an empty one for their files."""
    nodes = TwoNodes(folder)
    try:
        nodes.create()
        yield nodes
    finally:
        nodes.destroy()


def free_port() -> int:
    """A TCP port of this machine that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return int(probe.getsockname()[1])


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)
