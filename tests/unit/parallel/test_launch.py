from __future__ import annotations

import pytest

from volgen.core.errors import UserError
from volgen.parallel import launch
from volgen.parallel.launch import Launch, discover, first_node

TORCHRUN = {
    "RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "MASTER_ADDR": "node0", "MASTER_PORT": "1234", "TORCHELASTIC_RUN_ID": "none",
}  # fmt: skip
SLURM = {
    "SLURM_PROCID": "5", "SLURM_STEP_NUM_TASKS": "8", "SLURM_LOCALID": "1", "SLURM_STEP_NODELIST": "gpu[03-04,9]", "SLURM_JOB_ID": "77042",
}  # fmt: skip
MPI = {"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_LOCAL_RANK": "1", "OMPI_COMM_WORLD_LOCAL_SIZE": "2"}


@pytest.mark.parametrize(("environ", "expected"), [
    ({}, Launch()),
    (TORCHRUN, Launch(3, 4, 1, "torchrun", "node0", 1234)),
    ({**SLURM, **TORCHRUN}, Launch(3, 4, 1, "torchrun", "node0", 1234)),
    (SLURM, Launch(5, 8, 1, "srun", "gpu03", 29542)),
    ({**SLURM, "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "5"}, Launch(5, 8, 1, "srun", "10.0.0.1", 5)),
    ({"SLURM_PROCID": "0", "SLURM_NTASKS": "8", "SLURM_JOB_ID": "1"}, Launch()),
    (MPI, Launch(1, 2, 1, "mpirun", "localhost", 29500)),
], ids=["alone", "torchrun", "torchrun in slurm", "srun", "srun with address", "sbatch without srun", "mpirun"])  # fmt: skip
def test_ranks_are_found_however_they_were_started(environ: dict[str, str], expected: Launch) -> None:
    assert discover(environ) == expected


@pytest.mark.parametrize(("environ", "message"), [
    ({key: value for key, value in TORCHRUN.items() if key != "LOCAL_RANK"}, "LOCAL_RANK: is not set"),
    ({**TORCHRUN, "RANK": "four"}, "RANK: is 'four'"),
    ({**TORCHRUN, "RANK": "4"}, "is 4 of 4 processes"),
    ({**MPI, "OMPI_COMM_WORLD_LOCAL_SIZE": "1"}, "MASTER_ADDR: is not set"),
])  # fmt: skip
def test_contradictions_are_named(environ: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        discover(environ)


@pytest.mark.parametrize(("nodes", "first"), [
    ("node1", "node1"), ("a,b", "a"),
    ("node[03-05,9],other", "node03"), ("n[1,3]", "n1"), ("login,node[1-2]", "login"), ("r[1-2].lan", "r1.lan"),
])  # fmt: skip
def test_the_first_node_of_a_slurm_list(nodes: str, first: str) -> None:
    assert first_node(nodes) == first


def test_a_rank_takes_its_gpu_or_the_only_one_it_sees() -> None:
    assert [launch._gpu(rank, 4) for rank in range(4)] == [0, 1, 2, 3]
    assert [launch._gpu(rank, 1) for rank in range(4)] == [0, 0, 0, 0], "srun --gpus-per-task=1"
    with pytest.raises(UserError, match="local rank: 2 has no GPU: this node shows 2"):
        launch._gpu(2, 2)
