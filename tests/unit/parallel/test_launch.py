from __future__ import annotations

import pytest

from volgen.core.errors import UserError
from volgen.parallel import launch
from volgen.parallel.launch import Launch, discover

TORCHRUN = {
    "RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "MASTER_ADDR": "node0", "MASTER_PORT": "1234", "TORCHELASTIC_RUN_ID": "none",
}  # fmt: skip
DEEPSPEED = {
    "RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29500",
    "CROSS_RANK": "1", "CROSS_SIZE": "2", "LOCAL_SIZE": "1",
}  # fmt: skip
SALLOC = {"SLURM_JOB_ID": "77042", "SLURM_NTASKS": "8", "SLURM_JOB_NODELIST": "gpu[03-04,9]"}
SBATCH = {**SALLOC, "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0"}
SRUN = {
    **SALLOC, "SLURM_PROCID": "5", "SLURM_STEP_NUM_TASKS": "8", "SLURM_LOCALID": "1", "SLURM_STEP_NUM_NODES": "3", "SLURM_STEP_ID": "2",
    "SLURM_STEP_NODELIST": "gpu[03-04,9]", "SLURM_LAUNCH_NODE_IPADDR": "10.9.9.9", "PMI_RANK": "5", "PMI_SIZE": "8",
}  # fmt: skip
MPIRUN = {
    "OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_LOCAL_RANK": "1", "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
    "PMIX_RANK": "1", "PMIX_NAMESPACE": "1234",
}  # fmt: skip
MPI_PORT = 22659  # of the name "1234"
MPICH = {"PMI_RANK": "1", "PMI_SIZE": "2", "MPI_LOCALRANKID": "0", "MASTER_ADDR": "a", "MASTER_PORT": "1"}
ENVIRONMENTS: dict[str, tuple[dict[str, str], Launch]] = {
    "alone": ({}, Launch()),
    "torchrun": (TORCHRUN, Launch(3, 4, 1, "torchrun", "node0", 1234)),
    "torchrun with one rank": ({**TORCHRUN, "RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}, Launch()),
    "deepspeed": (DEEPSPEED, Launch(1, 2, 0, "deepspeed", "10.0.0.1", 29500)),
    "RANK by hand": (
        {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "a"}, Launch(0, 2, 0, "a launcher that sets RANK", "a", 29500),
    ),
    "srun": (SRUN, Launch(5, 8, 1, "srun", "gpu03", 22674)),
    "srun on one node": ({**SRUN, "SLURM_STEP_NUM_NODES": "1"}, Launch(5, 8, 1, "srun", "localhost", 22674)),
    "srun with address": ({**SRUN, "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "5"}, Launch(5, 8, 1, "srun", "10.0.0.1", 5)),
    "srun with one task": ({**SRUN, "SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1", "PMI_SIZE": "1"}, Launch()),
    "srun after export WORLD_SIZE": ({**SRUN, "WORLD_SIZE": "8"}, Launch(5, 8, 1, "srun", "gpu03", 22674)),
    "mpirun": (MPIRUN, Launch(1, 2, 1, "mpirun", "localhost", MPI_PORT)),
    "mpirun on two nodes": (
        {**MPIRUN, "OMPI_COMM_WORLD_LOCAL_SIZE": "1", "MASTER_ADDR": "n1"}, Launch(1, 2, 1, "mpirun", "n1", MPI_PORT),
    ),
    "mpiexec of MPICH": (MPICH, Launch(1, 2, 0, "mpiexec", "a", 1)),
    "a shell of salloc": (SALLOC, Launch()),
    "a script of sbatch, without srun": (SBATCH, Launch()),
    "a shell of srun --pty": ({**SBATCH, "SLURM_STEP_NUM_TASKS": "1", "PMIX_RANK": "0", "PMI_RANK": "0", "PMI_SIZE": "1"}, Launch()),
    "torchrun in sbatch": ({**SBATCH, **TORCHRUN}, Launch(3, 4, 1, "torchrun", "node0", 1234)),
    "torchrun by srun": ({**SRUN, **TORCHRUN}, Launch(3, 4, 1, "torchrun", "node0", 1234)),
    "torchrun by mpirun": ({**MPIRUN, **TORCHRUN}, Launch(3, 4, 1, "torchrun", "node0", 1234)),
    "deepspeed by mpirun": ({**MPIRUN, **DEEPSPEED}, Launch(1, 2, 0, "deepspeed", "10.0.0.1", 29500)),
    "mpirun in Slurm, which starts it by srun": (
        {**SRUN, **MPIRUN, "OMPI_COMM_WORLD_LOCAL_SIZE": "1"}, Launch(1, 2, 1, "mpirun", "gpu03", MPI_PORT),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_ranks_are_found_however_they_were_started(name: str) -> None:
    environ, expected = ENVIRONMENTS[name]
    assert discover(environ) == expected


@pytest.mark.parametrize(("environ", "message"), [
    ({key: value for key, value in TORCHRUN.items() if key != "LOCAL_RANK"}, "LOCAL_RANK: is not set"),
    ({**TORCHRUN, "RANK": "four"}, "RANK: is 'four'"),
    ({**TORCHRUN, "RANK": "4"}, "is 4 of 4 processes"),
    ({**TORCHRUN, "MASTER_PORT": "http"}, "MASTER_PORT: is 'http'"),
    ({**SRUN, "SLURM_STEP_NUM_TASKS": "8(x2)"}, r"SLURM_STEP_NUM_TASKS: is '8\(x2\)'"),
    ({**MPIRUN, "OMPI_COMM_WORLD_LOCAL_SIZE": "1"}, "MASTER_ADDR: is not set"),
    ({"PMIX_RANK": "1", "PMIX_NAMESPACE": "prterun-1"}, "PMIX_RANK: is set, but not how many"),
    ({"WORLD_SIZE": "2"}, "WORLD_SIZE: is 2, but RANK is not set"),
])  # fmt: skip
def test_contradictions_are_named(environ: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        discover(environ)


def test_what_was_found_is_said_in_one_line() -> None:
    found = Launch(5, 8, 1, "srun", "gpu03", 22674, host="gpu04").describe()
    assert found == "rank 5 of 8 on gpu04, local rank 1; 8 ranks by srun, rank 0 at gpu03:22674"
    assert str(discover({})) == "one process"


def test_a_rank_takes_its_gpu_or_the_only_one_it_sees(monkeypatch: pytest.MonkeyPatch) -> None:
    def gpu(rank: int, visible: int, how: str = "srun") -> int:
        return launch._gpu(Launch(rank, 4, rank, how), visible)

    assert [gpu(rank, 4) for rank in range(4)] == [0, 1, 2, 3]
    assert [gpu(rank, 1) for rank in range(4)] == [0, 0, 0, 0], "srun --gpus-per-task=1"
    with pytest.raises(UserError, match="local rank: 2 has no GPU: this node shows 2"):
        gpu(2, 2)
    for how in ("torchrun", "deepspeed"):  # they show every rank all GPUs of the node, so these two would share one
        assert gpu(0, 1, how) == 0
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        for inherited in (None, "0", "0,1"):  # deepspeed sets it for all ranks alike
            if inherited is not None:
                monkeypatch.setenv("CUDA_VISIBLE_DEVICES", inherited)
            with pytest.raises(UserError, match="local rank: 1 has no GPU: this node shows 1"):
                gpu(1, 1, how)
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")  # a wrapper gives each rank its own
        assert gpu(1, 1, how) == 0
