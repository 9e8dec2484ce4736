"""``volgen plan``: memory, disk, network and time of a run on given machines, and the cheapest setting that fits, before a launch."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch

from volgen.commands.plan import files, text
from volgen.commands.plan.measure import measure
from volgen.commands.plan.memory import GIB
from volgen.commands.plan.process import process_bytes
from volgen.commands.plan.settings import OPERATION_SECONDS, Cluster, Plan, Planner, Setting, disk_bytes, shares
from volgen.core.errors import UserError
from volgen.core.progress import say
from volgen.data.store import Store
from volgen.planning.step import trace
from volgen.recipe import Recipe

ASSUMED_TFLOPS = {"bf16": 60.0, "fp32": 10.0}
"""Throughput of one GPU of the A100 class on 3D convolutions, achieved rather than peak. Not measured: an assumption."""
ASSUMED_CPU_TFLOPS = 0.05
ASSUMED_BANDWIDTH = {True: 10.0, False: 100.0}
"""GB/s of one rank over several nodes, and inside one. Assumptions."""
ASSUMED_PEOPLE = 1000
LARGEST = 1e12
Device = Literal["gpu", "cpu"]


def plan(
    recipe: Recipe, config: Path, overrides: Sequence[tuple[str, str]], *, nodes: int, gpus_per_node: int, gpu_memory: float,
    out: Path | None = None, calibrate: bool = False, throughput: float | None = None, bandwidth: float | None = None,
    device: Device = "gpu", people: int | None = None,
) -> Plan:  # fmt: skip
    """Plans a run and prints the plan.

    Args:
        recipe: the run.
        config: its file, for the launch line.
        overrides: dotted, for the launch line.
        nodes: machines.
        gpus_per_node: GPUs (or processes) on each.
        gpu_memory: GiB of one of them.
        out: folder for ``plan.json``, the DeepSpeed configuration and the launch line.
        calibrate: measure the throughput here, with some real steps.
        throughput: TFLOP/s that one GPU achieves.
        bandwidth: GB/s that one GPU sends.
        device: what ranks compute on; on a CPU ``gpu_memory`` is the memory of one process.
        people: training volumes, in private training one of each patient; from the store if it exists.

    Raises:
        UserError: a number is not positive, throughput is both given and to be measured, or the store has another shape than the recipe.
    """
    numbers = {"--nodes": nodes, "--gpus-per-node": gpus_per_node, "--gpu-memory": gpu_memory, "--throughput": throughput}
    for option, value in {**numbers, "--bandwidth": bandwidth, "--people": people}.items():
        if value is not None and not 0 < value <= LARGEST:
            raise UserError(option, f"is {value}", f"a positive number up to {LARGEST:g}")
    if calibrate and throughput is not None:
        raise UserError("--throughput", "is given, and --measure would measure it", "one of them")
    with ExitStack() as held:  # before the work, not after it
        folder = None if out is None else held.enter_context(files.claimed(out, recipe, config))
        found = _plan(recipe, nodes, gpus_per_node, gpu_memory, calibrate, throughput, bandwidth, device, people)
        print(text.text(recipe, found))
        if folder is not None:
            files.write(folder, found, recipe, config, overrides)
    return found


def _plan(
    recipe: Recipe, nodes: int, gpus_per_node: int, gpu_memory: float, calibrate: bool, throughput: float | None, bandwidth: float | None,
    device: Device, people: int | None,
) -> Plan:  # fmt: skip
    assumptions: list[str] = []
    volumes, patients = _people(recipe, people, assumptions)
    ranks = nodes * gpus_per_node
    process = process_bytes(recipe) if device == "cpu" else None
    if calibrate:
        throughput = _calibrated(recipe, ranks, volumes)
    if throughput is None:
        throughput = ASSUMED_CPU_TFLOPS if device == "cpu" else ASSUMED_TFLOPS[recipe.engine.precision]
        assumptions.append(f"throughput: {throughput:g} TFLOP/s achieved by each {device.upper()} (give --throughput, or --measure)")
    if bandwidth is None:
        bandwidth = ASSUMED_BANDWIDTH[nodes > 1]
        if ranks > 1:
            assumptions.append(f"bandwidth: {bandwidth:g} GB/s sent by each rank, not overlapped with computing (give --bandwidth)")
    if device == "gpu":
        assumptions.append("1.5 GiB for CUDA, NCCL and cuDNN on each GPU, and 5 % lost to fragmentation")
    assumptions += recipe.privacy.assumptions()
    if recipe.privacy.strangers:
        assumptions += recipe.start.assumptions()
    cluster = Cluster(nodes, gpus_per_node, int(gpu_memory * GIB), throughput * 1e12, bandwidth * 1e9, process)
    assumptions.append(f"time: at least {OPERATION_SECONDS * 1e6:g} us for each operation of a network, however small")
    found = _search(recipe, cluster, volumes, assumptions)
    return replace(found, forecast=recipe.privacy.forecast(recipe, patients))


def _search(recipe: Recipe, cluster: Cluster, people: int, assumptions: Sequence[str]) -> Plan:
    """Settings as configured; those with other groups or more micro-batches only if that fits nowhere."""
    planner = Planner(recipe, cluster, people)
    best: list[Setting] = []
    for groups, accumulation in shares(recipe, cluster.ranks):
        settings = planner.settings(groups, accumulation)
        if not best or settings[0].order < best[0].order:
            best = settings
        if best[0].fits:
            break
    if not best:
        most = recipe.experts.at_a_time
        batches = " and ".join(dict.fromkeys(str(variant.data.batch_size) for variant in recipe.variants))
        shared = f"data.batch_size {batches} cannot be shared evenly by {cluster.ranks} ranks in at most {most} group(s)"
        reason = f"{shared} that train side by side. Raise experts.chains and experts.groups, change the batch, or use other machines"
        return Plan(cluster, (), {}, tuple(assumptions), reason)
    need = best[0].memory
    traces = planner.traces
    needed = f"the smallest setting needs {need.total / GIB:.1f} GiB on each rank ({need.moment})"
    reason = "" if best[0].fits else f"{needed}, and there are {cluster.gpu_memory / GIB:.1f} GiB"
    networks = tuple(traced.network for traced in traces)
    disk = disk_bytes(best[0].recipe, networks, max(traced.preconditioner for traced in traces))
    return Plan(cluster, tuple(best), disk, tuple(assumptions), reason, networks, sampling=planner.sampling())


def _people(recipe: Recipe, people: int | None, assumptions: list[str]) -> tuple[int, int]:
    """Training volumes, and of how many patients they are: as given, or those of the store, if it is there and of the recipe's shape."""
    path, remote = Path(recipe.data.store), "://" in recipe.data.store
    if path.exists() or (remote and people is None):
        store = Store.open(recipe.data.store)
        recipe.data.check_shapes(store, store.records)
        if people is None:
            records = recipe.data.records(store, "train")
            return len(records), len({record.patient for record in records})
    if people is not None:
        return people, people
    assumptions.append(f"people: {ASSUMED_PEOPLE} training volumes, because there is no {path.name} here (give --people)")
    return ASSUMED_PEOPLE, ASSUMED_PEOPLE


def _calibrated(recipe: Recipe, ranks: int, people: int) -> float:
    """TFLOP/s of this machine in the configured step; of the experts of the lowest noise, if they are of several models."""
    first, recipe = next(shares(recipe, ranks), None), recipe.variants[0]
    micro_batch = 1 if first is None else recipe.privacy.micro_batch(recipe.data.batch_size * first[0] // (ranks * first[1]))
    gpu = torch.cuda.is_available()
    traced = trace(recipe, micro_batch, people, gpu=gpu)
    memory = torch.cuda.get_device_properties(0).total_memory if gpu else os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if traced.peak > memory:
        found = f"a step of {micro_batch} volumes takes {traced.peak / GIB:.0f} GiB, this machine has {memory / GIB:.0f}"
        raise UserError("--measure", found, do="measure on a larger machine, or give --throughput")
    measured = measure(recipe, micro_batch, people)
    achieved = recipe.engine.accumulation * traced.flops / measured.step
    say(f"Steps of {micro_batch} volumes took {measured.step:.3g} s each on this {measured.device}: {achieved / 1e12:.3g} TFLOP/s.")
    return achieved / 1e12
