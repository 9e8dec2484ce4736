"""What drawing one volume computes and holds: the real denoisers on fake tensors, at the levels at which they are asked."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from volgen.core.given import NOTHING, Given
from volgen.experts.plan import Phase
from volgen.parallel.memory import FP32
from volgen.parallel.memory_trace import Allocations, conv_workspace
from volgen.recipe import Recipe
from volgen.sampling.climb import climbs
from volgen.sampling.descent import evaluations


@dataclass(frozen=True)
class DrawnStep:
    """One step of a descent.

    Attributes:
        sigma: where it begins.
        level: that of what is on its way.
        flops: floating-point operations of all evaluations.
        operations: number of operations.
    """

    sigma: float
    level: int
    flops: int
    operations: int


@dataclass(frozen=True)
class Drawn:
    """A volume, step by step.

    Attributes:
        steps: highest noise first.
        peak: most bytes on a device: an expert that works and one that arrives, what was fitted, what an evaluation holds, the sample, and
            what the solver remembers.
    """

    steps: tuple[DrawnStep, ...]
    peak: int

    @property
    def flops(self) -> int:
        """Floating-point operations of the volume."""
        return sum(step.flops for step in self.steps)


@dataclass(frozen=True)
class _Asked:
    """One evaluation of a network."""

    flops: int
    operations: int
    peak: int
    weights: int


def follow(recipe: Recipe, people: int, gpu: bool, *, full: bool = False) -> Drawn:
    """Follows one volume through the noise levels that a usual descent visits, with the recipe's sampler.

    Args:
        recipe: the run.
        people: training volumes, which size what the preconditioner fits.
        gpu: whether a GPU computes; otherwise also what oneDNN's convolutions take.
        full: whether whole volumes are on their way, although they could climb (:mod:`volgen.sampling.climb`).
    """
    sampler, whole = recipe.sampler.build(), math.prod(recipe.grid)
    grid = recipe.build().visits(recipe.schedule.grid(), None)
    experts = [phase for phase in recipe.phases() if phase.index is not None]
    owners = [next(phase for phase in experts if sigma in phase.span) for sigma in grid]
    levels = [recipe.of(phase).level for phase in owners]
    climbing = not full and climbs(levels)
    asked = {phase.model: _asked(recipe.of(phase), phase, people, gpu, corner=climbing) for phase in owners}
    pieces = whole // math.prod(recipe.assembly.piece(recipe.grid))
    tensors = 1 + sum(kind is torch.Tensor for kind in sampler.remembers)
    steps, held = [], []
    for sigma, phase, level, count in zip(grid, owners, levels, evaluations(sampler, len(grid)), strict=True):
        one, on_its_way = asked[phase.model], level if climbing else 0
        steps.append(DrawnStep(sigma, on_its_way, pieces * count * one.flops, pieces * count * one.operations))
        held.append(one.peak + tensors * FP32 * whole // 8**on_its_way)
    end = _decoding(recipe, gpu)
    steps[-1] = replace(steps[-1], flops=steps[-1].flops + end.flops, operations=steps[-1].operations + end.operations)
    weights = [asked[phase.model].weights for phase in owners]
    loaded = max(map(sum, itertools.pairwise(weights)), default=weights[0])
    with FakeTensorMode():
        fitted = recipe.preconditioner.blank(recipe.grid, people).state()
    return Drawn(tuple(steps), sum(tensor.numel() * tensor.element_size() for tensor in fitted.values()) + loaded + max(*held, end.peak))


def _decoding(recipe: Recipe, gpu: bool) -> _Asked:
    """What is done with what a descent ends with, until it is a volume: nothing, where that is what it ends with."""
    with FakeTensorMode(), torch.no_grad():
        space, z = recipe.build().space(None, torch.device("cpu")), torch.zeros(1, 1, *recipe.grid)
        with Allocations(None if gpu else conv_workspace) as followed:
            space.decode(z)
        with FlopCounterMode(display=False) as counter:
            space.decode(z)
    return _Asked(int(counter.get_total_flops()), followed.operations, followed.peak, 0)


def _asked(recipe: Recipe, phase: Phase, people: int, gpu: bool, *, corner: bool) -> _Asked:
    """One evaluation of an expert of a recipe of one model."""
    method = recipe.build()
    shape = recipe.assembly.piece(recipe.grid)
    sigma = torch.ones(1)  # a real one: where a jump ends depends on it
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        network = method.released(phase)
        preconditioner = recipe.preconditioner.blank(recipe.grid, people)
        denoise = (method.corner if corner else method.denoiser)(network, preconditioner)
        y = torch.zeros(1, 1, *(recipe.model.shape(shape) if corner else shape))
        known = Given(torch.zeros(1, recipe.assembly.known, *shape)) if recipe.assembly.known else NOTHING
        with Allocations(None if gpu else conv_workspace) as followed:
            denoise(y, sigma, known)
        with FlopCounterMode(display=False) as counter:
            denoise(y, sigma, known)
        weights = sum(parameter.numel() * parameter.element_size() for parameter in network.parameters())
    return _Asked(int(counter.get_total_flops()), followed.operations, followed.peak, weights)
