"""A Slurm of its own: munged, slurmctld and slurmd of this machine, one node, in a folder that is removed. Needs root.

Sockets, ports and files are its own, so it disturbs no Slurm that the machine belongs to.
"""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from namespaces import free_port

PACKAGES = {"slurmctld": "slurmctld", "slurmd": "slurmd", "sbatch": "slurm-client", "munged": "munge"}
"""Programs that are needed, and the Debian package of each."""
NODE_CPUS = 2
# cred_expire: a requeued job may start again when the credential of its first start has expired; 120 s by default.
CONFIGURATION = """
ClusterName=volgen
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmctldPort={controller}
SlurmdPort={daemon}
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge.socket,ttl=60,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
JobRequeue=1
KillWait=60
MailProg=/bin/true
ReturnToService=2
SchedulerParameters=sched_interval=2,batch_sched_delay=0
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} State=UNKNOWN
PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP OverSubscribe=FORCE:4
"""


def unavailable() -> str:
    """Why this machine cannot have a Slurm of its own, empty if it can."""
    if os.geteuid() != 0:
        return "a Slurm of the test's own needs root"
    missing = [package for program, package in PACKAGES.items() if shutil.which(program) is None]
    return f"a Slurm of the test's own needs the packages {' '.join(missing)}" if missing else ""


class Slurm:
    """What :func:`slurm` gives out.

    Attributes:
        folder: configuration, state and logs.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._daemons: list[subprocess.Popen[bytes]] = []

    def create(self) -> None:
        """Starts the daemons and waits until the node is idle."""
        (self.folder / "state").mkdir()
        (self.folder / "spool").mkdir()
        key = self.folder / "munge.key"
        key.touch(mode=0o400)
        key.write_bytes(secrets.token_bytes(64))
        host = socket.gethostname().partition(".")[0]
        (self.folder / "slurm.conf").write_text(
            CONFIGURATION.format(folder=self.folder, host=host, controller=free_port(), daemon=free_port(), cpus=NODE_CPUS)
        )
        files = {name: f"{self.folder}/munge.{name}" for name in ("socket", "pid", "log", "seed")}
        self._start(
            "munged", "--foreground", "--force", f"--key-file={key}", f"--socket={files['socket']}", f"--pid-file={files['pid']}",
            f"--log-file={files['log']}", f"--seed-file={files['seed']}",
        )  # fmt: skip
        self._until(lambda: (self.folder / "munge.socket").exists(), "munged")
        self._start("slurmctld", "-D", "-i")
        self._start("slurmd", "-D")
        self._until(lambda: "idle" in self.run("sinfo", "--noheader", "-o", "%T", check=False), "slurmctld and slurmd")

    def destroy(self) -> None:
        """Ends jobs and daemons."""
        self.run("scancel", "--full", "--signal=KILL", "--user=root", check=False)
        self.run("scancel", "--user=root", check=False)
        end = time.monotonic() + 10
        while self.run("squeue", "--noheader", check=False).strip() and time.monotonic() < end:
            time.sleep(0.2)
        for daemon in reversed(self._daemons):
            daemon.terminate()
        for daemon in reversed(self._daemons):
            try:
                daemon.wait(10)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()

    def environment(self) -> dict[str, str]:
        """This process's environment, with this Slurm's configuration and without variables of another launcher."""
        launchers = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT", "PYTEST_CURRENT_TEST")
        kept = {name: value for name, value in os.environ.items() if name not in launchers and not name.startswith(("SLURM_", "SBATCH_"))}
        return {**kept, "SLURM_CONF": str(self.folder / "slurm.conf")}

    def run(self, *command: str, check: bool = True, **options: Any) -> str:
        """What one of Slurm's commands prints."""
        environment = {**self.environment(), **options.pop("env", {})}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60, **options)
        if check and done.returncode:
            raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}: {done.stderr}")
        return done.stdout

    def submit(self, words: Sequence[str], **options: Any) -> str:
        """Submits a job and returns its number."""
        return self.run("sbatch", "--parsable", *words, **options).strip()

    def state(self, job: str) -> dict[str, str]:
        """``scontrol show job`` of one job, or of one task of an array."""
        words = self.run("scontrol", "--oneliner", "show", "job", job).split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def wait(self, job: str, seconds: float) -> dict[str, str]:
        """Waits for a job's end and returns its state."""
        end = time.monotonic() + seconds
        while (state := self.state(job))["JobState"] in ("PENDING", "RUNNING", "COMPLETING", "CONFIGURING", "REQUEUED"):
            if time.monotonic() > end:
                raise TimeoutError(f"job {job} has not ended in {seconds} s: {state}")
            time.sleep(0.3)
        return state

    def _start(self, program: str, *words: str) -> None:
        with (self.folder / f"{program}.out").open("wb") as log:
            command = [shutil.which(program) or program, *words]
            self._daemons.append(subprocess.Popen(command, env=self.environment(), stdout=log, stderr=log, start_new_session=True))

    def _until(self, ready: Any, what: str) -> None:
        end = time.monotonic() + 30
        while not ready():
            if time.monotonic() > end:
                logs = "".join(f"{path.name}:\n{path.read_text()}\n" for path in self.folder.glob("*.log"))
                raise TimeoutError(f"{what} did not start:\n{logs}")
            time.sleep(0.1)


@contextmanager
def slurm() -> Iterator[Slurm]:
    """A Slurm for the length of a block."""
    # Not pytest's folders: the path of a socket is limited to 107 characters.
    with tempfile.TemporaryDirectory(prefix="volgen-slurm-") as folder:
        cluster = Slurm(Path(folder))
        try:
            cluster.create()
            yield cluster
        finally:
            cluster.destroy()
