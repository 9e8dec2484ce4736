"""The ways in which a run could be launched on given machines, and what each would cost."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from volgen.commands.plan.memory import GIB, GPU_RESERVE, Memory, memory
from volgen.experts.plan import Phase, blocker
from volgen.parallel.engine import EngineConfig
from volgen.parallel.memory import FP32, NetworkSize, network_bytes
from volgen.parallel.private_engine import Pass
from volgen.planning.checkpoints import checkpoint_bytes
from volgen.planning.drawing import Drawn, follow
from volgen.planning.patients import excluded, largest, need, peaks
from volgen.planning.step import StepTrace, kind, networks, trace
from volgen.privacy.plan import Forecast
from volgen.recipe import Recipe

HOST_BANDWIDTH = 12e9
"""Bytes per second between a GPU and its host: an assumption, for offloading."""
OPERATION_SECONDS = 10e-6
"""Seconds of a processor to start one operation on its device: an assumption. Steps of small networks take that long on any device."""
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
class NetworkCost:
    """What training one kind of network takes.

    Attributes:
        phase: one of that kind.
        flops: operations of one optimiser step of one rank.
        step_seconds: time of one optimiser step.
        memory: bytes on one rank at the worst moment.
    """

    phase: Phase
    flops: int
    step_seconds: float
    memory: int


@dataclass(frozen=True)
class Setting:
    """One way to launch the run, with its costs.

    Attributes:
        recipe: the run with this setting's engine and groups.
        memory: bytes on one rank; where experts are of several models, of the one that needs most.
        fits: whether that is in the memory of a rank.
        flops: operations of one optimiser step of one rank; as all on steps, of the model whose step takes longest.
        network_bytes: that one rank sends in an optimiser step.
        step_seconds: computing (or starting all operations, if that takes longer), then sending: nothing overlaps.
        expert_hours: hours of the longest expert at most; stopping may end an expert earlier.
        hours: hours of the whole run at most.
        at_once: what goes through the network at once, in private training.
        networks: the same of each kind of network.
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
    networks: tuple[NetworkCost, ...] = ()

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
class Sampling:
    """What drawing one volume takes on one rank, with the run's sampler at all noise levels.

    Attributes:
        usual: a volume as ``volgen sample`` draws it.
        usual_seconds: computing, of that.
        full: with whole volumes on their way at all noise levels.
        full_seconds: time of that.
    """

    usual: Drawn
    usual_seconds: float
    full: Drawn
    full_seconds: float


@dataclass(frozen=True)
class Plan:
    """What ``volgen plan`` found.

    Attributes:
        cluster: the machines.
        settings: those looked at, cheapest first.
        disk: bytes by kind of file.
        assumptions: what nobody measured.
        reason: why nothing fits, empty if something does.
        networks: sizes of an expert's network of each model, then of each network that owns no noise level; empty if nothing was traced.
        forecast: what the ledger of a private run will say.
        sampling: what drawing a volume takes; None if nothing was traced.
    """

    cluster: Cluster
    settings: tuple[Setting, ...]
    disk: dict[str, int]
    assumptions: tuple[str, ...]
    reason: str
    networks: tuple[NetworkSize, ...] = ()
    forecast: Forecast | None = None
    sampling: Sampling | None = None

    @property
    def chosen(self) -> Setting | None:
        """The cheapest setting that fits."""
        return None if self.reason else self.settings[0]


@dataclass(frozen=True)
class _Work:
    """What one rank does in an optimiser step.

    Attributes:
        flops: operations in all passes.
        passes: forward and backward.
        sent: bytes.
    """

    flops: int
    passes: int
    sent: int


@dataclass(frozen=True)
class _Load:
    """What one model takes in a setting.

    Attributes:
        recipe: the model's recipe, with the setting's engine and groups.
        traced: one micro-batch.
        work: what one rank does.
        at_once: see :class:`Setting`.
    """

    recipe: Recipe
    traced: StepTrace
    work: _Work
    at_once: Pass | None


class Planner:
    """Costs of one recipe on one cluster; a step of each model is traced once for each micro-batch and checkpointing choice."""

    def __init__(self, recipe: Recipe, cluster: Cluster, people: int) -> None:
        self._recipe, self._cluster, self._people = recipe, cluster, people
        self._networks = networks(recipe)
        self._traces: dict[tuple[int, int, bool], StepTrace] = {}
        self._peaks: dict[tuple[int, bool, Pass], int] = {}
        self._alone: set[int] = set()

    @property
    def traces(self) -> list[StepTrace]:
        """One trace of each kind of network; network and preconditioner are the same in all of one kind."""
        return [next(traced for (of, _, _), traced in self._traces.items() if of == kind) for kind in range(len(self._networks))]

    def sampling(self) -> Sampling:
        """What drawing a volume takes."""
        usual = follow(self._recipe, self._people, self._cluster.process is None)
        climbs = any(step.level for step in usual.steps)
        full = follow(self._recipe, self._people, self._cluster.process is None, full=True) if climbs else usual
        seconds = (sum(self._computing(step.flops, step.operations) for step in each.steps) for each in (usual, full))
        return Sampling(usual, next(seconds), full, next(seconds))

    def settings(self, groups: int, accumulation: int) -> list[Setting]:
        """Every ZeRO stage with and without checkpointing; offloading where nothing fits without it, cheapest first."""
        found = [self._setting(stage, checkpointing, "none", groups, accumulation) for stage in STAGES for checkpointing in (False, True)]
        if self._cluster.process is None and not any(setting.fits for setting in found):
            for stage, offload in ((1, "optimiser"), (2, "optimiser"), (3, "optimiser"), (3, "optimiser_and_weights")):
                if _accepted(self._recipe, offload=offload):
                    found += [self._setting(stage, checkpointing, offload, groups, accumulation) for checkpointing in (False, True)]
        return sorted(found, key=lambda setting: setting.order)

    def _setting(self, stage: int, checkpointing: bool, offload: str, groups: int, accumulation: int) -> Setting:
        engine: dict[str, Any] = {
            **self._recipe.engine.model_dump(), "zero_stage": stage, "activation_checkpointing": checkpointing, "offload": offload,
            "accumulation": accumulation,
        }  # fmt: skip
        experts = self._recipe.experts.model_copy(update={"groups": groups})
        recipe = self._recipe.model_copy(update={"engine": type(self._recipe.engine).model_validate(engine), "experts": experts})
        return self._costs(recipe, [self._load(number, phase, recipe.of(phase)) for number, phase in enumerate(self._networks)])

    def _load(self, number: int, phase: Phase, recipe: Recipe) -> _Load:
        ranks, engine = self._cluster.ranks // recipe.experts.groups, recipe.engine
        micro_batch = recipe.privacy.micro_batch(recipe.data.batch_size // (ranks * engine.accumulation))
        key = (number, micro_batch, engine.activation_checkpointing)
        if key not in self._traces:
            self._traces[key] = trace(recipe, micro_batch, self._people, self._cluster.process is None, phase)
        traced = self._traces[key]
        share = -(-recipe.data.batch_size // ranks)
        if not recipe.privacy.passes(share, several=False):
            sent = network_bytes(engine, traced.network, ranks)
            return _Load(recipe, traced, _Work(engine.accumulation * traced.flops, engine.accumulation, sent), None)
        at_once, traced = self._by_patient(number, recipe, traced, ranks, share)
        views = share * recipe.privacy.views
        passes = -(-views // (at_once.patients * (recipe.privacy.views if at_once.all_views else 1)))
        sent = network_bytes(recipe.privacy.reduced(engine), traced.network, ranks)
        if engine.zero_stage == 3:  # weights come together for every pass
            sent += FP32 * (traced.network.parameters + traced.network.frozen) * passes * (ranks - 1) // ranks
        return _Load(recipe, traced, _Work(views * traced.flops, passes, sent), at_once)

    def _costs(self, recipe: Recipe, loads: Sequence[_Load]) -> Setting:
        groups, all_ranks = recipe.experts.groups, self._cluster.ranks
        ranks = all_ranks // groups
        held = [memory(load.recipe, load.traced, ranks, self._people, self._cluster.process) for load in loads]
        used = max(held, key=lambda each: each.total)
        together = groups > 1 and recipe.shared_by_all(all_ranks)
        phases, each = recipe.trained(), dict[str, float]()
        for phase in phases:
            load = loads[kind(recipe, phase)]
            if phase.index is None and together:
                sent = network_bytes(recipe.engine, load.traced.network, all_ranks)
                shared = _Work(load.work.flops // groups, load.work.passes, sent)
                each[phase.name] = self._hours(load.recipe, load.traced, phase, shared, all_ranks)
            else:
                each[phase.name] = self._hours(load.recipe, load.traced, phase, load.work, ranks)
        longest = max(each[phase.name] for phase in phases if phase.index is not None)
        seconds = [self._step(load.recipe, load.traced, load.work, ranks) for load in loads]
        step = max(seconds)
        slowest = loads[seconds.index(step)]
        hours = hours_of_run(phases, each, groups, together=together)
        fits, work = used.total <= self._cluster.gpu_memory, slowest.work
        costs = tuple(
            NetworkCost(phase, load.work.flops, spent, of.total)
            for phase, load, spent, of in zip(self._networks, loads, seconds, held, strict=True)
        )
        return Setting(recipe, used, fits, work.flops, work.sent, step, longest, hours, slowest.at_once, costs)

    def _hours(self, recipe: Recipe, traced: StepTrace, phase: Phase, work: _Work, ranks: int) -> float:
        """Hours of one network of the plan at most."""
        rule = recipe.rule(phase)
        draws = recipe.stopping.validation_volumes * recipe.stopping.validation_draws if recipe.privacy.validates else 0
        # What starts from trained weights is validated before its first step too.
        validations = math.ceil(rule.max_steps / rule.validate_every) + recipe.warm(phase)
        validation = math.ceil(draws / ranks) * self._computing(traced.forward_flops, traced.forward_operations)
        return (rule.max_steps * self._step(recipe, traced, work, ranks) + validations * validation) / SECONDS_PER_HOUR

    def _step(self, recipe: Recipe, traced: StepTrace, work: _Work, ranks: int) -> float:
        """Seconds of an optimiser step."""
        size, offload = traced.network, recipe.engine.offload
        moved = 0 if offload == "none" else 2 * size.parameters + 2 * (size.parameters + size.frozen) * (offload == "optimiser_and_weights")
        longer: float = recipe.privacy.step_seconds(size.parameters) / ranks
        computing = self._computing(work.flops, work.passes * traced.operations)
        return computing + work.sent / self._cluster.bandwidth + FP32 * moved / ranks / HOST_BANDWIDTH + longer

    def _computing(self, flops: int, operations: int) -> float:
        """Seconds: a small network's operations take longer to start than to compute."""
        return max(flops / self._cluster.throughput, operations * OPERATION_SECONDS)

    def _by_patient(self, model: int, recipe: Recipe, traced: StepTrace, ranks: int, share: int) -> tuple[Pass, StepTrace]:
        """What training will choose to send through the network at once, with its memory."""
        passes = recipe.privacy.passes(share, several=model not in self._alone and not excluded(recipe))
        try:
            held = self._held(model, recipe, passes)
        except RuntimeError:  # Opacus finds a layer that does not see patients
            self._alone.add(model)
            passes = recipe.privacy.passes(share, several=False)
            held = self._held(model, recipe, passes)
        free = self._cluster.gpu_memory - (self._cluster.process or GPU_RESERVE)
        place = largest([need(recipe, traced.network, ranks, peak, gpu=self._cluster.process is None) for peak in held], free)
        apart = max(0, held[place] - FP32 * traced.network.parameters)
        return passes[place], replace(traced, peak=held[place], apart=apart, validation=0)

    def _held(self, model: int, recipe: Recipe, passes: Sequence[Pass]) -> list[int]:
        """Bytes of each pass, traced once for all ZeRO stages."""
        keys = [(model, recipe.engine.activation_checkpointing, each) for each in passes]
        new = [key for key in keys if key not in self._peaks]
        found = peaks(recipe, [each for _, _, each in new], gpu=self._cluster.process is None)
        self._peaks.update(zip(new, found, strict=True))
        return [self._peaks[key] for key in keys]


def _accepted(recipe: Recipe, *, groups: int | None = None, **engine: Any) -> bool:
    """Whether a run with other groups, or another engine, would not be refused for its privacy."""
    experts = recipe.experts if groups is None else recipe.experts.model_copy(update={"groups": groups})
    other = recipe.model_copy(update={"experts": experts, "engine": recipe.engine.model_copy(update=engine)})
    return next(recipe.privacy.refusals(other), None) is None


def shares(recipe: Recipe, ranks: int) -> Iterator[tuple[int, int]]:
    """(groups, accumulation) with which a batch can be shared evenly: as configured, then other groups, then more micro-batches."""
    wanted, batches = recipe.experts.groups, [variant.data.batch_size for variant in recipe.variants]
    groups = [wanted, *(g for g in range(1, recipe.experts.at_a_time + 1) if g != wanted and _accepted(recipe, groups=g))]
    first, later = [], []
    for count in groups:
        if ranks % count == 0 and all(batch % (ranks // count) == 0 for batch in batches):
            local = math.gcd(*(batch * count // ranks for batch in batches))
            rest = [a for a in range(1, local + 1) if local % a == 0 and a != recipe.engine.accumulation]
            if local % recipe.engine.accumulation == 0:
                first.append((count, recipe.engine.accumulation))
            larger = [accumulation for accumulation in rest if accumulation > recipe.engine.accumulation]
            later += [(count, accumulation) for accumulation in larger if _accepted(recipe, accumulation=accumulation)]
    yield from first
    yield from later


def disk_bytes(recipe: Recipe, sizes: Sequence[NetworkSize], preconditioner: int) -> dict[str, int]:
    """Bytes of files that a run writes, at most; ``sizes`` are those of its kinds of networks."""
    each = [sizes[kind(recipe, phase)] for phase in recipe.phases()]
    return {
        "weights (EMA) of all networks": sum(FP32 * size.released + size.buffers for size in each),
        "checkpoints": recipe.experts.groups * max(checkpoint_bytes(size) for size in sizes),
        "preconditioner, while training": 2 * preconditioner,
    }


def hours_of_run(phases: Sequence[Phase], each: Mapping[str, float], groups: int, *, together: bool = False) -> float:
    """When the last group is done, if each takes the next phase that can begin (what an expert starts from has to be finished).

    Args:
        phases: the plan.
        each: hours of each phase by name.
        groups: groups of ranks.
        together: whether all groups train shared networks together, one after another, before they train anything else.
    """
    before = [phase for phase in phases if together and phase.index is None]
    now, finished = float(sum(each[phase.name] for phase in before)), {phase.name for phase in before}
    waiting, running = [phase for phase in phases if phase not in before], list[tuple[float, str]]()
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
