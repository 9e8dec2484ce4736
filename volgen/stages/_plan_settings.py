"""The ways in which a run could be launched on given machines, and what each would cost."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from volgen.experts.plan import Phase, blocker
from volgen.parallel.engine import EngineConfig
from volgen.parallel.memory import FP32, NetworkSize, network_bytes
from volgen.parallel.private_engine import Pass
from volgen.privacy.dp_sgd import Forecast
from volgen.recipe import Recipe
from volgen.stages._checkpoint_size import checkpoint_bytes
from volgen.stages._plan_memory import GIB, GPU_RESERVE, Memory, memory
from volgen.stages._plan_step import StepTrace, trace
from volgen.stages._private_pass import candidates, excluded, largest, need, peaks

HOST_BANDWIDTH = 12e9
"""Bytes per second between a GPU and its host: an assumption, for offloading."""
NOISE_SECONDS = 55e-9
"""Of a processor for one weight's noise in private training: measured on one machine (docs/privacy.md)."""
SECONDS_PER_HOUR = 3600.0
Stage = Literal[0, 1, 2, 3]
STAGES: tuple[Stage, ...] = (0, 1, 2, 3)


@dataclass(frozen=True)
class Cluster:
    """What the run would be launched on.

    Attributes:
        nodes: machines.
        gpus_per_node: ranks on each.
        gpu_memory: bytes for one rank.
        throughput: floating-point operations per second that one rank achieves.
        bandwidth: bytes per second that one rank sends.
        process: bytes of a process before training if ranks are CPU processes, None for GPUs.
    """

    nodes: int
    gpus_per_node: int
    gpu_memory: int
    throughput: float
    bandwidth: float
    process: int | None

    @property
    def ranks(self) -> int:
        """GPUs, or processes."""
        return self.nodes * self.gpus_per_node


@dataclass(frozen=True)
class Setting:
    """One way to launch the run, with its costs.

    Attributes:
        recipe: the run with this setting's engine and groups.
        memory: of one rank.
        fits: in the memory of a rank.
        flops: of one optimiser step of one rank.
        network_bytes: that one rank sends in an optimiser step.
        step_seconds: computing, then sending: nothing overlaps.
        expert_hours: of the longest expert at most; stopping may end an expert earlier.
        hours: of the whole run, at most.
        at_once: what goes through the network at once, in private training.
    """

    recipe: Recipe
    memory: Memory
    fits: bool
    flops: int
    network_bytes: int
    step_seconds: float
    expert_hours: float
    hours: float
    at_once: Pass | None = None

    @property
    def engine(self) -> EngineConfig:
        """Its DeepSpeed configuration."""
        return self.recipe.engine

    @property
    def order(self) -> tuple[bool, float, int, bool, int]:
        """Cheapest first: what fits, by hours; among equals with as little machinery as possible."""
        engine = self.engine
        offload = ("none", "optimiser", "optimiser_and_weights").index(engine.offload)
        return not self.fits, self.hours if self.fits else self.memory.total, offload, engine.activation_checkpointing, engine.zero_stage


@dataclass(frozen=True)
class Plan:
    """What ``volgen plan`` found.

    Attributes:
        cluster: the machines.
        settings: those looked at, cheapest first.
        disk: bytes by kind of file.
        assumptions: what nobody measured.
        reason: why nothing fits, empty if something does.
        parameters: of one network.
        forecast: what the ledger of a private run will say.
    """

    cluster: Cluster
    settings: tuple[Setting, ...]
    disk: dict[str, int]
    assumptions: tuple[str, ...]
    reason: str
    parameters: int = 0
    forecast: Forecast | None = None

    @property
    def chosen(self) -> Setting | None:
        """The cheapest setting that fits."""
        return None if self.reason else self.settings[0]


class Planner:
    """Costs of one recipe on one cluster; a step is traced once for each micro-batch and checkpointing choice."""

    def __init__(self, recipe: Recipe, cluster: Cluster, people: int) -> None:
        self._recipe, self._cluster, self._people = recipe, cluster, people
        self._traces: dict[tuple[int, bool], StepTrace] = {}
        self._peaks: dict[tuple[bool, Pass], int] = {}
        self._several = True

    @property
    def a_trace(self) -> StepTrace:
        """One of the traces; network and preconditioner are the same in all of them."""
        return next(iter(self._traces.values()))

    def settings(self, groups: int, accumulation: int) -> list[Setting]:
        """Every ZeRO stage with and without checkpointing; offloading where nothing fits without it, cheapest first."""
        found = [self._setting(stage, checkpointing, "none", groups, accumulation) for stage in STAGES for checkpointing in (False, True)]
        if self._cluster.process is None and not self._recipe.privacy.private and not any(setting.fits for setting in found):
            for stage, offload in ((1, "optimiser"), (2, "optimiser"), (3, "optimiser"), (3, "optimiser_and_weights")):
                found += [self._setting(stage, checkpointing, offload, groups, accumulation) for checkpointing in (False, True)]
        return sorted(found, key=lambda setting: setting.order)

    def _setting(self, stage: int, checkpointing: bool, offload: str, groups: int, accumulation: int) -> Setting:
        engine: dict[str, Any] = {
            **self._recipe.engine.model_dump(), "zero_stage": stage, "activation_checkpointing": checkpointing, "offload": offload,
            "accumulation": accumulation,
        }  # fmt: skip
        experts = self._recipe.experts.model_copy(update={"groups": groups})
        recipe = self._recipe.model_copy(update={"engine": EngineConfig.model_validate(engine), "experts": experts})
        ranks = self._cluster.ranks // groups
        micro_batch = 1 if recipe.privacy.private else recipe.data.batch_size // (ranks * accumulation)
        key = (micro_batch, checkpointing)
        if key not in self._traces:
            self._traces[key] = trace(recipe, micro_batch, self._people, gpu=self._cluster.process is None)
        traced = self._traces[key]
        at_once, volumes, engine_used = None, accumulation, recipe.engine
        if recipe.privacy.private:
            at_once, traced = self._private(recipe, traced, ranks)
            volumes = -(-recipe.data.batch_size // ranks) * recipe.privacy.views
            engine_used = recipe.engine.model_copy(update={"precision": "fp32"})
        used = memory(recipe, traced, ranks, self._people, self._cluster.process)
        sent = network_bytes(engine_used, traced.network, ranks)
        if at_once is not None and stage == 3:  # weights come together for every pass
            passes = volumes // recipe.privacy.views if at_once.whole else volumes
            sent += FP32 * traced.network.parameters * passes * (ranks - 1) // ranks
        flops = volumes * traced.flops
        moved = 0 if offload == "none" else 2 * FP32 * traced.network.parameters * (2 if offload == "optimiser_and_weights" else 1) / ranks
        step = flops / self._cluster.throughput + sent / self._cluster.bandwidth + moved / HOST_BANDWIDTH
        draws = recipe.stopping.validation_volumes * recipe.stopping.validation_draws
        if recipe.privacy.private:
            step += NOISE_SECONDS * traced.network.parameters / ranks
            draws = 0  # nobody is looked at
        validation = math.ceil(draws / ranks) * traced.forward_flops / self._cluster.throughput
        phases = recipe.trained()
        each = {}
        for phase in phases:
            rule = recipe.rule(phase)
            # What starts from trained weights is validated before its first step too.
            validations = math.ceil(rule.max_steps / rule.validate_every) + (phase.start is not None)
            each[phase.name] = (rule.max_steps * step + validations * validation) / SECONDS_PER_HOUR
        longest = max(each[phase.name] for phase in phases if phase.index is not None)
        fits = used.total <= self._cluster.gpu_memory
        return Setting(recipe, used, fits, flops, sent, step, longest, hours_of_run(phases, each, groups), at_once)

    def _private(self, recipe: Recipe, traced: StepTrace, ranks: int) -> tuple[Pass, StepTrace]:
        """What training will choose to send through the network at once, with its memory."""
        passes = candidates(recipe, ranks, several=self._several and not excluded(recipe))
        try:
            held = self._held(recipe, passes)
        except RuntimeError:  # Opacus finds a layer that does not see patients
            self._several, passes = False, candidates(recipe, ranks, several=False)
            held = self._held(recipe, passes)
        free = self._cluster.gpu_memory - (self._cluster.process or GPU_RESERVE)
        place = largest([need(recipe, traced.network, ranks, peak) for peak in held], free)
        apart = max(0, held[place] - FP32 * traced.network.parameters)
        return passes[place], replace(traced, peak=held[place], apart=apart, validation=0)

    def _held(self, recipe: Recipe, passes: Sequence[Pass]) -> list[int]:
        """Bytes of each pass, traced once for all ZeRO stages."""
        keys = [(recipe.engine.activation_checkpointing, each) for each in passes]
        new = [key for key in keys if key not in self._peaks]
        found = peaks(recipe, [each for _, each in new], gpu=self._cluster.process is None)
        self._peaks.update(zip(new, found, strict=True))
        return [self._peaks[key] for key in keys]


def shares(recipe: Recipe, ranks: int) -> Iterator[tuple[int, int]]:
    """(groups, accumulation) with which a batch can be shared evenly: as configured, then other groups, then more micro-batches."""
    wanted, batch = recipe.experts.groups, recipe.data.batch_size
    if recipe.privacy.private:  # no other groups or micro-batches are accepted
        if batch % ranks == 0:
            yield 1, 1
        return
    groups = [wanted, *(g for g in range(1, recipe.experts.at_a_time + 1) if g != wanted)]
    first, later = [], []
    for count in groups:
        if ranks % count == 0 and batch % (ranks // count) == 0:
            local = batch * count // ranks
            rest = [a for a in range(1, local + 1) if local % a == 0 and a != recipe.engine.accumulation]
            if local % recipe.engine.accumulation == 0:
                first.append((count, recipe.engine.accumulation))
            later += [(count, accumulation) for accumulation in rest if accumulation > recipe.engine.accumulation]
    yield from first
    yield from later


def disk_bytes(recipe: Recipe, size: NetworkSize, preconditioner: int) -> dict[str, int]:
    """Bytes of files that a run writes, at most: the shared network counts as one more expert."""
    weights = FP32 * size.parameters + size.buffers
    networks = recipe.experts.count + bool(recipe.experts.shared_steps)
    return {
        "weights (EMA) of all networks": networks * weights,
        "checkpoints": recipe.experts.groups * checkpoint_bytes(size),
        "preconditioner, while training": 2 * preconditioner,
    }


def hours_of_run(phases: Sequence[Phase], each: Mapping[str, float], groups: int) -> float:
    """When the last group is done, if each takes the next phase that can begin (what an expert starts from has to be finished).

    Args:
        phases: the plan.
        each: hours of each phase by name.
        groups: of ranks; the shared network is trained by all of them together.
    """
    now, finished = 0.0, set[str]()
    waiting, running = list(phases), list[tuple[float, str]]()
    while waiting or running:
        for phase in [phase for phase in waiting if blocker(phase, phases, finished) is None][: groups - len(running)]:
            waiting.remove(phase)
            heapq.heappush(running, (now + each[phase.name], phase.name))
        now, name = heapq.heappop(running)
        finished.add(name)
    return now


def gib(count: float) -> float:
    """Bytes in GiB."""
    return count / GIB
