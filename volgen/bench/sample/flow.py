"""Volumes through rows of ranks, on this machine's processors: real processes, and the simulator that is asked about more of them."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import socket
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from volgen.core.protocols import Problem
from volgen.parallel import launch as launches
from volgen.parallel import pipeline
from volgen.parallel.flow import Flow
from volgen.runs.ranks import Volumes
from volgen.runs.trained import open_run
from volgen.sampling.descent import Descent, down
from volgen.sampling.packing import Packing
from volgen.training.protocols import NO_PULSE

SMALL = 16
PINGS = 10


@dataclass(frozen=True)
class Passage:
    """What some ranks did with some volumes.

    Attributes:
        seconds: from the first step to the last, experts being in memory.
        busy: seconds in which each rank did not wait for others.
        transfer: seconds for one volume half-way down from one rank to the next; 0 without rows.
        digests: SHA-256 of each volume, by index.
    """

    seconds: float
    busy: tuple[float, ...]
    transfer: float
    digests: dict[int, str]


def passage(run: Path, flow: Flow, volumes: int) -> Passage:
    """Starts the ranks of a flow as processes of one thread each, and lets volumes through."""
    context = multiprocessing.get_context("spawn")
    answers: Any = context.Queue()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    ranks = [context.Process(target=_rank, args=(run, flow, volumes, rank, port, answers)) for rank in range(flow.world_size)]
    for process in ranks:
        process.start()
    found = [answers.get() for _ in ranks]
    for process in ranks:
        process.join()
    digests = {index: digest for _, _, _, mine in found for index, digest in mine.items()}
    return Passage(max(one[0] for one in found), tuple(one[1] for one in found), max(one[2] for one in found), digests)


def _rank(directory: Path, flow: Flow, volumes: int, rank: int, port: int, answers: Any) -> None:
    torch.set_num_threads(1)
    alone = {"RANK": str(rank), "WORLD_SIZE": str(flow.world_size), "LOCAL_RANK": str(rank), "MASTER_ADDR": "127.0.0.1"}
    os.environ.update(alone, MASTER_PORT=str(port), CUDA_VISIBLE_DEVICES="")
    device = launches.take_part(launches.discover())
    mail = pipeline.Mail(NO_PULSE)
    run = open_run(directory)
    grid, sampler, preconditioner = run.ensemble.grid, run.recipe.sampler.build(), run.preconditioner(device)
    mine = [grid[step] for step in flow.steps(flow.place(rank)[1])]
    shape = (1, *run.geometry.grid)
    digests: dict[int, str] = {}
    busy = 0.0

    def keep(index: int, volume: Tensor) -> None:
        digests[index] = hashlib.sha256(volume.numpy().tobytes()).hexdigest()

    class Timed(Volumes):
        def advance(self, unit: int, state: Any, steps: range) -> Any:
            nonlocal busy
            begun = time.perf_counter()
            state = super().advance(unit, state, steps)
            busy += time.perf_counter() - begun
            return state

    with run.bank(preconditioner, device, mine, capacity=max(2, len(mine))) as bank:
        for sigma in mine:
            bank(torch.zeros(1, 1, *[SMALL] * 3, device=device), torch.tensor([sigma], device=device))
        descent = Descent(bank, sampler, down(grid), 0, shape, device, Problem(preconditioner.prior))
        work = Timed(descent, [[index] for index in range(volumes)], keep, lambda count, note: None)
        descent.advance(descent.begin(0), flow.steps(flow.place(rank)[1])[0], 0) if flow.place(rank)[1] == 0 else None
        transfer = _ping(mail, rank, Packing(sampler, shape).size) if flow.stages > 1 else 0.0
        mail.meet()
        begun = time.perf_counter()
        pipeline.run(flow, rank, volumes, work, mail, NO_PULSE)
        mail.meet()
        answers.put((time.perf_counter() - begun, busy, transfer, digests))


def _ping(mail: pipeline.Mail, rank: int, size: int) -> float:
    """Seconds for a message between ranks 0 and 1, there or back."""
    best = float("inf")
    for number in range(PINGS if rank < 2 else 0):
        packed = torch.zeros(size, dtype=torch.uint8)
        coming = mail.expect(1 - rank, number, size)
        begun = time.perf_counter()
        if rank == 0:
            going = mail.send(1, number, packed)
            mail.wait(coming)
        else:
            mail.wait(coming)
            going = mail.send(0, number, packed)
        mail.wait(going)
        best = min(best, (time.perf_counter() - begun) / 2)
    return best if rank == 0 else 0.0
