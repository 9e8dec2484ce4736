"""Where the ranks of a run meet: the host of rank 0, a port on it, and the network interface that leads there."""

from __future__ import annotations

import ipaddress
import re
import socket
import zlib
from collections.abc import Mapping

import psutil

from volgen.core.errors import UserError

DEFAULT_PORT = 29500
FIRST_PORT, PORTS = 20000, 10000
"""Ports that are shared out among jobs: below those that Linux gives to outgoing connections (32768 and above)."""
STEPS = 16
"""Steps of one Slurm job that can run at once and have different ports."""


def port(environ: Mapping[str, str]) -> int:
    """A port that two jobs on one machine hardly share, and that all ranks of a job agree on without talking to each other.

    Returns:
        A number from the id of the Slurm job and step, or from mpirun's name for the job; 29500, DeepSpeed's own, without either.
    """
    if name := environ.get("PMIX_NAMESPACE", ""):  # mpirun's, also inside a Slurm job; srun sets it for each of its steps
        return FIRST_PORT + zlib.crc32(name.encode()) % PORTS
    job, step = environ.get("SLURM_JOB_ID", ""), environ.get("SLURM_STEP_ID", "")
    if job.isdigit():
        return FIRST_PORT + (int(job) * STEPS + (int(step) % STEPS if step.isdigit() else 0)) % PORTS
    return DEFAULT_PORT


def first_node(nodes: str) -> str:
    """First host of a Slurm node list, such as ``node[03-05,9],other`` -> ``node03`` and ``rack[1-2]n[4-7]`` -> ``rack1n4``."""
    first = re.match(r"(?:[^,\[]|\[[^\]]*\])*", nodes)
    assert first is not None, "the pattern matches anything"
    return re.sub(r"\[([^\],-]*)[^\]]*\]", r"\1", first[0])


def check_resolves(address: str, where: str) -> None:
    """Finds an address that no rank could connect to before the ranks wait half an hour for each other.

    Raises:
        UserError: it is neither an address nor a name that this machine knows.
    """
    try:
        socket.getaddrinfo(address, None)
    except OSError as error:
        do = "export MASTER_ADDR with an address that every node reaches"
        raise UserError(
            where, f"'{address}' is not known on {socket.gethostname()} ({error.strerror})", "a host name or an address", do
        ) from None


def interface(address: str) -> str | None:
    """The network interface through which this machine reaches rank 0; None if both are the same machine and nobody else takes part.

    Gloo by itself takes the interface that the machine's own name resolves to, which Debian puts on the loopback address 127.0.1.1.

    Args:
        address: host name or address of rank 0. If it is a name that means loopback here (rank 0's own, in Debian's /etc/hosts), other
            machines know it by another address, and the interface of the default route is returned.
    """
    source = _source(address)
    if source is not None and ipaddress.ip_address(source).is_loopback:
        if address == "localhost" or _is_loopback(address):
            return None
        source = _source("192.0.2.1")  # TEST-NET-1: nothing is sent, the system only looks up the route
    names = (name for name, listed in psutil.net_if_addrs().items() if any(entry.address.split("%")[0] == source for entry in listed))
    return next(names, None) if source else None


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


def _source(address: str) -> str | None:
    """This machine's own address on the way to another; None without a way."""
    try:
        for family, kind, protocol, _, target in socket.getaddrinfo(address, 1, type=socket.SOCK_DGRAM):
            with socket.socket(family, kind, protocol) as probe:
                probe.connect(target)
                return str(probe.getsockname()[0]).split("%")[0]
    except OSError:
        pass
    return None
