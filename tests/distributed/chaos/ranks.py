"""Ranks of `volgen train` as forks of one process that has imported everything: a launch takes a second instead of ten.

The parent never makes a tensor or opens a store, so its children start as fresh as a process of their own.
"""

from __future__ import annotations

import ctypes
import importlib
import os
import signal
import socket
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from volgen.parallel import machine

CLONE_NEWUTS, CLONE_NEWNET = 0x04000000, 0x40000000


@dataclass(frozen=True)
class Node:
    """Where a rank lives: an empty namespace is this machine itself."""

    namespace: str = ""
    host: str = ""
    address: str = "127.0.0.1"


@dataclass
class Job:
    """The ranks of one launch.

    Attributes:
        config: path of the YAML.
        logs: folder for what each rank says.
        nodes: one for each rank.
    """

    config: Path
    logs: Path
    nodes: tuple[Node, ...] = (Node(), Node())
    processes: list[int] = field(default_factory=list)
    codes: dict[int, int] = field(default_factory=dict)

    def start(self) -> None:
        """Forks the ranks."""
        self.logs.mkdir(parents=True)
        port = str(_free_port())
        for rank, node in enumerate(self.nodes):
            sys.stdout.flush()
            number = os.fork()
            if number == 0:
                _become_rank(rank, len(self.nodes), node, self.nodes[0].address, port, self.config, self.logs / f"{rank}.log")
            self.processes.append(number)

    def running(self) -> list[int]:
        """Ranks that have not ended."""
        for rank, number in enumerate(self.processes):
            if rank not in self.codes:
                ended, status = os.waitpid(number, os.WNOHANG)
                if ended:
                    self.codes[rank] = os.waitstatus_to_exitcode(status)
        return [rank for rank in range(len(self.processes)) if rank not in self.codes]

    def send(self, rank: int, number: signal.Signals) -> None:
        """Sends a signal to a rank that has not ended."""
        if rank in self.running():
            os.kill(self.processes[rank], number)

    def wait(self, seconds: float, ranks: set[int] | None = None) -> bool:
        """Waits for some ranks (all by default); says whether they ended in time."""
        end = time.monotonic() + seconds
        wanted = set(range(len(self.processes))) if ranks is None else ranks
        while wanted & set(self.running()):
            if time.monotonic() > end:
                return False
            time.sleep(0.01)
        return True

    def kill(self) -> None:
        """Ends whatever is left."""
        for rank in self.running():
            os.kill(self.processes[rank], signal.SIGKILL)
        self.wait(10)

    def said(self) -> str:
        """Everything that the ranks have written."""
        return "".join(path.read_text(errors="replace") for path in sorted(self.logs.glob("*.log")))

    def errors(self) -> list[str]:
        """Messages for the user."""
        return [line for line in self.said().splitlines() if line.startswith("error: ")]


def warm() -> None:
    """Imports what a rank needs."""
    for name in ("torch.utils.tensorboard", "volgen.cli", "volgen.commands.train.train"):
        importlib.import_module(name)
    from volgen.parallel.engine import deepspeed

    deepspeed()


def _become_rank(rank: int, world: int, node: Node, master: str, port: str, config: Path, log: Path) -> None:
    try:
        os.setsid()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        if node.namespace:
            _enter(node)
            # The nodes share the process numbers of this machine, which real ones do not.
            machine.identity = lambda: node.host
        handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        os.environ.update(RANK=str(rank), WORLD_SIZE=str(world), LOCAL_RANK=str(rank), MASTER_ADDR=master, MASTER_PORT=port)
        sys.argv = ["volgen", "train", "--config", str(config)]
        from volgen.cli import run

        run()
    except SystemExit as leaving:
        os._exit(int(leaving.code or 0))
    finally:
        os._exit(99)


def _enter(node: Node) -> None:
    """Goes to the network of a node, and takes its host name."""
    libc = ctypes.CDLL(None, use_errno=True)
    with Path(f"/run/netns/{node.namespace}").open() as handle:
        if libc.setns(handle.fileno(), CLONE_NEWNET) or libc.unshare(CLONE_NEWUTS):
            raise OSError(ctypes.get_errno(), f"cannot enter {node.namespace}")
    socket.sethostname(node.host)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])
