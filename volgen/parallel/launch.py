"""Which rank this process is, however it was started: alone, torchrun, deepspeed, srun or mpirun."""

from __future__ import annotations

import os
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass, replace

import torch

from volgen.core.errors import UserError

DEFAULT_PORT = 29500


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
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    how: str = "one process"
    address: str = "localhost"
    port: int = DEFAULT_PORT

    @property
    def chief(self) -> bool:
        """Whether this is rank 0."""
        return self.rank == 0

    def __str__(self) -> str:
        return self.how if self.world_size == 1 else f"{self.world_size} ranks by {self.how}, rank 0 at {self.address}:{self.port}"


def discover(environ: Mapping[str, str] = os.environ) -> Launch:
    """Reads the variables that launchers set.

    ``RANK`` and ``WORLD_SIZE`` (torchrun, deepspeed) win over Slurm's and Open MPI's own, because they are the most specific. A
    Slurm allocation without ``srun`` is one process: ``salloc`` and ``sbatch`` set ``SLURM_NTASKS`` in the plain shell too,
    so only ``SLURM_STEP_NUM_TASKS`` counts.

    Raises:
        UserError: a variable is missing or is not a number, or the numbers contradict each other.
    """
    if "RANK" in environ or "WORLD_SIZE" in environ:
        how = "torchrun" if "TORCHELASTIC_RUN_ID" in environ else "a launcher that sets RANK (deepspeed)"
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
    elif "SLURM_PROCID" in environ and int(environ.get("SLURM_STEP_NUM_TASKS", "1")) > 1:
        how, names = "srun", ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID")
    elif "OMPI_COMM_WORLD_RANK" in environ:
        how, names = "mpirun", ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK")
    else:
        return Launch()
    rank, world_size, local_rank = (_number(environ, name, how) for name in names)
    if not 0 <= rank < world_size:
        raise UserError(names[0], f"is {rank} of {world_size} processes", f"a number from 0 to {world_size - 1}")
    port = _number(environ, "MASTER_PORT", how) if "MASTER_PORT" in environ else _port(environ)
    address = environ.get("MASTER_ADDR") or _address(environ, how, world_size)
    return Launch(rank, world_size, local_rank, how if world_size > 1 else "one process", address, port)


def start(launch: Launch) -> torch.device:
    """Joins the process group (once per process) and returns the device of this rank.

    Without a GPU, DeepSpeed is told to use the CPU, and gloo carries the collectives. The group of a single process lives in
    memory: no port is opened.

    Raises:
        UserError: there are more processes than GPUs on this node.
    """
    if torch.cuda.is_available():
        launch = replace(launch, local_rank=_gpu(launch.local_rank, torch.cuda.device_count()))
    else:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    publish(launch)
    if launch.world_size > 1:
        os.environ.update(MASTER_ADDR=launch.address, MASTER_PORT=str(launch.port))
    from volgen.parallel.engine import join

    return join(launch)


def publish(launch: Launch, environ: MutableMapping[str, str] = os.environ) -> None:
    """Sets RANK, WORLD_SIZE and LOCAL_RANK, by which the progress display and DeepSpeed know who they are."""
    environ.update(RANK=str(launch.rank), WORLD_SIZE=str(launch.world_size), LOCAL_RANK=str(launch.local_rank))


def _gpu(local_rank: int, visible: int) -> int:
    """The GPU of a rank. Slurm may show each task only its own (``--gpus-per-task=1``), which then is number 0 for all of them."""
    if visible == 1:
        return 0
    if local_rank >= visible:
        raise UserError("local rank", f"{local_rank} has no GPU: this node shows {visible}", "one process for each GPU")
    return local_rank


def _number(environ: Mapping[str, str], name: str, how: str) -> int:
    text = environ.get(name)
    if text is None:
        raise UserError(name, f"is not set, though the other variables of {how} are", "a number", "start all processes with one launcher")
    try:
        return int(text)
    except ValueError:
        raise UserError(name, f"is '{text}'", "a number") from None


def _port(environ: Mapping[str, str]) -> int:
    """A port that two Slurm jobs on one node do not share."""
    job = environ.get("SLURM_JOB_ID", "")
    return DEFAULT_PORT + int(job) % 1000 if job.isdigit() else DEFAULT_PORT


def _address(environ: Mapping[str, str], how: str, world_size: int) -> str:
    nodes = environ.get("SLURM_STEP_NODELIST") or environ.get("SLURM_JOB_NODELIST")
    if how == "srun" and nodes:
        return first_node(nodes)
    local = environ.get("OMPI_COMM_WORLD_LOCAL_SIZE")
    if world_size == 1 or (how == "mpirun" and local == str(world_size)):
        return "localhost"
    raise UserError("MASTER_ADDR", "is not set", "the address of the node of rank 0", "export MASTER_ADDR and MASTER_PORT")


def first_node(nodes: str) -> str:
    """First host of a Slurm node list, such as ``node[03-05,9],other`` -> ``node03``."""
    head, bracket, tail = nodes.partition("[")
    if not bracket or "," in head:
        return head.split(",")[0]
    numbers, _, after = tail.partition("]")
    return head + numbers.split(",")[0].split("-")[0] + after.split(",")[0]
