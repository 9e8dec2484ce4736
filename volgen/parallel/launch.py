"""Which rank this process is, however it was started: alone, torchrun, deepspeed, mpirun or srun.

No other module reads the variables of a launcher.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from volgen.core.errors import UserError
from volgen.parallel import rendezvous
from volgen.parallel.rendezvous import DEFAULT_PORT

if TYPE_CHECKING:
    import torch

ALONE = "one process"


@dataclass(frozen=True)
class Launch:
    """One process among those that train together.

    Attributes:
        rank: number of this process over all nodes; rank 0 writes files and talks to the user.
        world_size: number of processes over all nodes.
        local_rank: number of this process on its node, which chooses the GPU.
        how: name of what started it.
        address: host name or address of rank 0.
        port: TCP port on which rank 0 listens.
        host: name of this machine.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    how: str = ALONE
    address: str = "localhost"
    port: int = DEFAULT_PORT
    host: str = field(default_factory=socket.gethostname, compare=False)

    @property
    def chief(self) -> bool:
        """Whether this is rank 0."""
        return self.rank == 0

    def __str__(self) -> str:
        return self.how if self.world_size == 1 else f"{self.world_size} ranks by {self.how}, rank 0 at {self.address}:{self.port}"

    def describe(self) -> str:
        """Everything that was found, of this process."""
        return f"rank {self.rank} of {self.world_size} on {self.host}, local rank {self.local_rank}; {self}"


@dataclass(frozen=True)
class _Launcher:
    """The variables in which a launcher says who a process is."""

    how: str
    rank: str
    world_size: str
    local_rank: str


_TORCHRUN = _Launcher("torchrun", "RANK", "WORLD_SIZE", "LOCAL_RANK")
_DEEPSPEED = replace(_TORCHRUN, how="deepspeed")
_OTHER = replace(_TORCHRUN, how="a launcher that sets RANK")
_OPEN_MPI = _Launcher("mpirun", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK")
_SRUN = _Launcher("srun", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID")
_MPICH = _Launcher("mpiexec", "PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID")


def discover(environ: Mapping[str, str] = os.environ) -> Launch:
    """Reads the variables that launchers set.

    A launcher can run inside another: the innermost counts. So RANK (torchrun and deepspeed, which start on each node by srun or
    mpirun) wins over mpirun, and mpirun, which in a Slurm job starts its daemons by srun, over srun.

    Raises:
        UserError: a variable is missing or is not a number, or the numbers contradict each other.
    """
    launcher = _innermost(environ)
    if launcher is None:
        _check_alone(environ)
        return Launch()
    rank, world_size, local_rank = (
        _number(environ, name, launcher.how) for name in (launcher.rank, launcher.world_size, launcher.local_rank)
    )
    if not 0 <= rank < world_size:
        raise UserError(launcher.rank, f"is {rank} of {world_size} processes", f"a number from 0 to {world_size - 1}")
    if world_size == 1:
        return Launch(local_rank=local_rank)
    port = _number(environ, "MASTER_PORT", launcher.how) if "MASTER_PORT" in environ else rendezvous.port(environ)
    address = environ.get("MASTER_ADDR") or _address(environ, launcher, world_size)
    return Launch(rank, world_size, local_rank, launcher.how, address, port)


def take_part(launch: Launch, patience: float | None = None) -> torch.device:
    """Joins the process group (once per process) and returns the device of this rank.

    Without a GPU, DeepSpeed is told to use the CPU, and gloo carries the collectives. The group of a single process lives in
    memory: no port is opened.

    Args:
        launch: this process.
        patience: seconds that ranks wait for each other in one collective at most; by default torch's half hour.

    Raises:
        UserError: there are more processes than GPUs on this node, or nobody knows the host of rank 0; or ranks are missing.
    """
    import torch  # only here: who merely asks for a rank does not wait for it

    if torch.cuda.is_available():
        launch = replace(launch, local_rank=_gpu(launch, torch.cuda.device_count()))
    else:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    publish(launch)
    if launch.world_size > 1:
        rendezvous.check_resolves(launch.address, "MASTER_ADDR")
        os.environ.update(MASTER_ADDR=launch.address, MASTER_PORT=str(launch.port))
        if "GLOO_SOCKET_IFNAME" not in os.environ and (name := rendezvous.interface(launch.address)):
            os.environ["GLOO_SOCKET_IFNAME"] = name
    from volgen.parallel.engine import PATIENCE, join

    return join(launch, patience=patience or PATIENCE)


def publish(launch: Launch, environ: MutableMapping[str, str] = os.environ) -> None:
    """Sets RANK, WORLD_SIZE and LOCAL_RANK, by which the progress display and DeepSpeed know who they are."""
    environ.update(RANK=str(launch.rank), WORLD_SIZE=str(launch.world_size), LOCAL_RANK=str(launch.local_rank))


def _innermost(environ: Mapping[str, str]) -> _Launcher | None:
    if "RANK" in environ:
        return _TORCHRUN if "TORCHELASTIC_RUN_ID" in environ else _DEEPSPEED if "CROSS_RANK" in environ else _OTHER
    if _OPEN_MPI.rank in environ:
        return _OPEN_MPI
    # Not SLURM_NTASKS: salloc and sbatch set it in the plain shell too, where a process is alone.
    if _SRUN.rank in environ and environ.get(_SRUN.world_size, "1") != "1":
        return _SRUN
    # Not inside Slurm, whose srun sets some of these variables for a shell with a single task.
    if "SLURM_JOB_ID" not in environ and _MPICH.rank in environ:
        return _MPICH
    return None


def _check_alone(environ: Mapping[str, str]) -> None:
    """Processes that take themselves for single ones, though they were started together, would all write the same run."""
    if "SLURM_JOB_ID" not in environ and "PMIX_RANK" in environ:
        found = "is set, but not how many processes there are"
        raise UserError("PMIX_RANK", found, "the variables of Open MPI's mpirun (OMPI_COMM_WORLD_RANK)", "use mpirun, torchrun or srun")
    if environ.get("WORLD_SIZE", "1") != "1" and _SRUN.rank not in environ:
        found = f"is {environ['WORLD_SIZE']}, but RANK is not set"
        raise UserError("WORLD_SIZE", found, "both or none", "start all processes with one launcher: torchrun, deepspeed, srun or mpirun")


def _gpu(launch: Launch, visible: int) -> int:
    """The GPU of a rank. Slurm may show each task only its own (``--gpus-per-task=1``), which then is number 0 for all of them."""
    # torchrun and deepspeed show all of a node's to all of its ranks, unless a script in between says CUDA_VISIBLE_DEVICES=$LOCAL_RANK.
    mine = os.environ.get("CUDA_VISIBLE_DEVICES") == str(launch.local_rank)
    if visible == 1 and (launch.how not in (_TORCHRUN.how, _DEEPSPEED.how) or mine):
        return 0
    if launch.local_rank >= visible:
        raise UserError("local rank", f"{launch.local_rank} has no GPU: this node shows {visible}", "one process for each GPU")
    return launch.local_rank


def _number(environ: Mapping[str, str], name: str, how: str) -> int:
    text = environ.get(name)
    if text is None:
        raise UserError(name, f"is not set, though the other variables of {how} are", "a number", "start all processes with one launcher")
    try:
        return int(text)
    except ValueError:
        raise UserError(name, f"is '{text}'", "a number") from None


def _address(environ: Mapping[str, str], launcher: _Launcher, world_size: int) -> str:
    """The host of rank 0, where the launcher does not say it.

    SLURM_LAUNCH_NODE_IPADDR is no answer: it is where srun was typed, which may be a login node.
    """
    if launcher is _SRUN:
        if environ.get("SLURM_STEP_NUM_NODES") == "1":
            return "localhost"
        nodes = environ.get("SLURM_STEP_NODELIST") or environ.get("SLURM_JOB_NODELIST")
        if nodes:
            return rendezvous.first_node(nodes)
    if launcher is _OPEN_MPI:
        if environ.get("OMPI_COMM_WORLD_LOCAL_SIZE") == str(world_size):
            return "localhost"
        if "SLURM_JOB_NODELIST" in environ:  # mpirun fills the first node first
            return rendezvous.first_node(environ["SLURM_JOB_NODELIST"])
    raise UserError("MASTER_ADDR", "is not set", "the address of the node of rank 0", "export MASTER_ADDR and MASTER_PORT")
