"""Experts from disk beside experts in memory: time, processor time, and memory of the process."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from volgen.commands.bench.result import Row, row
from volgen.core.protocols import Problem
from volgen.experts.bank import ExpertBank
from volgen.runs.trained import TrainedRun, open_run
from volgen.sampling import descent

WAYS = ("in memory", "from disk, files in the page cache", "from disk, page cache dropped")
SMALL = 16
CPU = torch.device("cpu")


def times(run: TrainedRun, volumes: int, repeats: int, device: torch.device) -> list[Row]:
    """Seconds for some volumes through all experts, in the three ways by turns; the best of the repeats counts."""
    wall: dict[str, list[float]] = {way: [] for way in WAYS}
    work: dict[str, list[float]] = {way: [] for way in WAYS}
    for _ in range(repeats):
        for way in WAYS:
            with _bank(run, device, capacity=len(run.ensemble.experts) if way == WAYS[0] else 2) as bank:
                if way == WAYS[0]:
                    for sigma in run.ensemble.grid:  # a small volume loads them as a large one does
                        bank(torch.zeros(1, 1, *[SMALL] * 3, device=device), torch.tensor([sigma], device=device))
                elif way == WAYS[2]:
                    drop([run.directory / expert.weights for expert in run.ensemble.experts])
                begun, worked = time.perf_counter(), time.process_time()
                draw(run, bank, range(volumes), device)
                wall[way].append(time.perf_counter() - begun)
                work[way].append(time.process_time() - worked)
    reference: list[Row] = []
    rows = []
    for way in WAYS:
        found = [Row(f"{way}: time", min(wall[way]), "s"), Row(f"{way}: processor time", min(work[way]), "s")]
        reference = reference or found
        rows += [row(one.name, one.value, one.unit, other) for one, other in zip(found, reference, strict=True)]
    return rows


def draw(run: TrainedRun, bank: ExpertBank, indices: Sequence[int], device: torch.device) -> list[torch.Tensor]:
    """Samples at all noise levels of a run."""
    shape, problem = (1, *run.geometry.grid), Problem(run.preconditioner(device).prior)
    solver = run.recipe.sampler.build()
    return descent.sample(
        bank, solver, descent.down(run.ensemble.grid), seed=0, indices=indices, shape=shape, device=device, problem=problem
    )


def peak(run: Path, capacity: int) -> tuple[int, int]:
    """Most bytes that a fresh process has while it samples one volume: of its own, and with what it has mapped of files."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_peak, (run, capacity))


def drop(paths: Sequence[Path]) -> None:
    """Asks the system to forget files that it has read; what is still written is written first."""
    if not hasattr(os, "posix_fadvise"):
        return
    for path in paths:
        with path.open("rb") as stream:
            os.fsync(stream.fileno())
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _bank(run: TrainedRun, device: torch.device, capacity: int) -> ExpertBank:
    return run.bank(run.preconditioner(device), device, run.ensemble.grid, capacity)


def _peak(directory: Path, capacity: int) -> tuple[int, int]:
    run = open_run(directory)
    with _bank(run, CPU, 1) as bank:  # what a first evaluation brings into memory for good is not the experts'
        draw(run, bank, [0], CPU)
    del bank
    before, most, over = _memory(), (0, 0), threading.Event()

    def watch() -> None:
        nonlocal most
        while not over.wait(0.002):
            own, mapped = _memory()
            most = max(most[0], own - before[0]), max(most[1], own + mapped - sum(before))

    watcher = threading.Thread(target=watch)
    watcher.start()
    with _bank(run, CPU, capacity) as bank:
        draw(run, bank, [0], CPU)
    over.set()
    watcher.join()
    return most


def _memory() -> tuple[int, int]:
    """Bytes of this process: its own, and of files that are mapped."""
    found = {}
    for line in Path("/proc/self/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name in ("RssAnon", "RssFile"):
            found[name] = int(value.split()[0]) * 1024
    return found["RssAnon"], found["RssFile"]
