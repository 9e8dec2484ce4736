"""The sampling loop. A solver knows one step; everything about order, seeds and memory is here."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from volgen.core.errors import Diverged, UserError
from volgen.core.given import NOTHING, Given
from volgen.core.protocols import PRIOR, Denoiser, Guidance, Problem, Sampler, Shape4, Step
from volgen.core.rng import normal
from volgen.core.run_files import METRICS
from volgen.sampling.climb import FULL, Climb
from volgen.sampling.guidances.none import UNGUIDED

Path = Sequence[tuple[float, float]]
"""Noise levels from step to step: (from, to), each step beginning where the one before has ended."""


def down(grid: Sequence[float]) -> Path:
    """The steps from level to level of a descending grid, and a last one to 0."""
    return tuple(itertools.pairwise([*grid, 0.0]))


def up(grid: Sequence[float]) -> Path:
    """The steps from the lowest level of a descending grid to the highest: the inverse of a descent without its last step."""
    return tuple(itertools.pairwise(reversed(grid)))


class Noise(Protocol):
    """Draws the noise of a volume."""

    def __call__(self, shape: Shape4, seed: int, *key: int | str) -> Tensor:
        """Standard normal numbers [C, X, Y, Z], a function of seed and key alone."""
        ...


def white(shape: Shape4, seed: int, *key: int | str) -> Tensor:
    """Independent standard normal numbers."""
    return normal(shape, seed, *key)


@dataclass(frozen=True)
class State:
    """A volume on its way, in host memory.

    Attributes:
        x_BCXYZ: what the solver has made of it, B = 1.
        memory: what the solver remembers (tensors, numbers, None, tuples of them).
    """

    x_BCXYZ: Tensor
    memory: Any = None


@dataclass(frozen=True)
class Descent:
    """How one volume comes from one noise level to another: all that decides it, and nothing else.

    Volume i is a function of the denoiser, the settings, ``seed`` and i, bit for bit: it starts from the noise ``noise(shape, seed,
    "start", i)``, its fresh noise in step n is ``noise(shape, seed, "step", n, i)``, that of a guidance ``noise(shape, seed, "guide", n,
    i, k)``, that of bands that come after step n ``noise(shape, seed, "rise", n, i)``, and it goes through the network alone, because
    convolutions and matrix products round differently in another batch. Whoever takes the steps, in whatever order among other volumes,
    gets the same volume.

    Attributes:
        denoise: a denoiser, such as an expert bank; of corners, where the descent climbs.
        sampler: the solver.
        path: noise levels, down or up; :func:`down` makes the usual one.
        seed: seed of all noise.
        shape: channels and voxels of a state at full resolution, (C, X, Y, Z).
        device: where the denoiser computes.
        problem: where samples of the prior start, and what they have to agree with.
        noise: draws standard normal noise of a key.
        guidance: what a solver asks in place of the denoiser.
        climb: which corner of the volume is on its way in which step; all of it in all of them by default.

    Raises:
        UserError: sampler, path, guidance and problem do not fit each other.
    """

    denoise: Denoiser
    sampler: Sampler
    path: Path
    seed: int
    shape: Shape4
    device: torch.device
    problem: Problem = PRIOR
    noise: Noise = white
    guidance: Guidance = UNGUIDED
    climb: Climb = FULL

    def __post_init__(self) -> None:
        levels = [self.path[0][0], *(after for _, after in self.path)]
        assert list(self.path) == list(itertools.pairwise(levels)), "each step begins where the one before has ended"
        assert all(level > 0.0 for level in levels[:-1]) and levels[-1] >= 0.0, "only the last level may be 0"
        if self.sampler.stochastic and any(after > before for before, after in self.path):
            raise UserError("--sampler", "draws fresh noise, so it goes down only", "a solver of the ordinary differential equation")
        if self.guidance.renoises and not self.sampler.renoises:
            raise UserError(
                "--guidance", "draws volumes rather than expecting them", "a sampler that adds noise to what the denoiser returns"
            )
        self.guidance.check(self.problem)

    def begin(self, index: int, given: Given = NOTHING) -> State:
        """Volume ``index`` before its first step; ``given`` is what is known beside it (B = 1)."""

        def noises(k: int) -> Tensor:
            return self._noise(0, "start", index) if k == 0 else self._noise(0, "guide", "start", index, k)

        with torch.no_grad():
            return State(self.guidance.prior(self.problem.of(given), self.path[0][0], noises).to("cpu"))

    def advance(self, state: State, number: int, index: int, given: Given = NOTHING) -> State:
        """Volume ``index`` after step ``number`` (from 0); ``given`` is what is known beside it (B = 1).

        Raises:
            Diverged: the step gave values that are not finite.
        """
        step = Step(*self.path[number], lambda: self._noise(number, "step", number, index))

        def noises(k: int) -> Tensor:
            return self._noise(number, "guide", number, index, k)

        problem = self.problem if self.guidance is UNGUIDED else self.problem.of(given)
        denoise = _told(self.guidance.guide(self.denoise, problem, noises), given.to(self.device))
        solver = self.guidance.solver(self.sampler, problem, noises)
        with torch.set_grad_enabled(self.guidance.differentiates):
            x, memory = solver.step(denoise, state.x_BCXYZ.to(self.device), step, _moved(state.memory, self.device))
        if not torch.isfinite(x).all():
            raise Diverged(
                f"step {number + 1} of {len(self.path)} (sigma {step.sigma:.4g})", "the volume has values that are not finite", "numbers",
                f"the expert that owns this noise level has diverged: look at its losses in {METRICS} and train it again",
            )  # fmt: skip
        with torch.no_grad():
            x, memory = self.climb.rise(self.sampler, number, step, x, memory, lambda: self._noise(number + 1, "rise", number, index))
        return State(x.detach().to("cpu"), _moved(memory, torch.device("cpu")))

    def shape_before(self, number: int) -> Shape4:
        """Channels and voxels of a state before step ``number``, or after the last step."""
        channels, *edges = self.shape
        x, y, z = (edge >> self.climb.level(number) for edge in edges)
        return channels, x, y, z

    def _noise(self, number: int, *key: int | str) -> Tensor:
        """Noise of the shape of the state before a step."""
        return self.noise(self.shape_before(number), self.seed, *key)[None].to(self.device)


def sample(
    denoise: Denoiser,
    sampler: Sampler,
    path: Path,
    *,
    seed: int,
    indices: Sequence[int],
    shape: Shape4,
    device: torch.device | str = "cpu",
    problem: Problem = PRIOR,
    noise: Noise = white,
    guidance: Guidance = UNGUIDED,
    climb: Climb = FULL,
    begin: Sequence[Tensor] = (),
    given: Sequence[Given] = (),
    done: Callable[[int, str], None] = lambda count, note: None,
) -> list[Tensor]:
    """Draws one volume, or one piece of a volume, per index: each is what :class:`Descent` says, whatever the others are.

    The order is expert-major: all volumes pass through one step before the next begins, so that a bank of T experts loads each of
    them once. Between steps the volumes wait in host memory: 4 bytes per voxel, and as much again for a solver that remembers.

    Args:
        denoise: see :class:`Descent`, as for all that is not named here.
        sampler: see there.
        path: see there.
        seed: see there.
        indices: which volumes, each at most once.
        shape: see there.
        device: see there.
        problem: see there.
        noise: see there.
        guidance: see there.
        climb: see there.
        begin: samples [C, X, Y, Z] of the path's first level to go on with, one for each index; drawn if empty.
        given: what is known beside the volume of each index (B = 1 each); nothing if empty.
        done: called with the number of steps of volumes that were done since the last call, and a word on where the loop is.

    Returns:
        [C, X, Y, Z], float32, on the CPU (images nominally in [-1, 1], but not clamped), in the order of ``indices``.

    Raises:
        Diverged: a step gave values that are not finite.
    """
    assert len(set(indices)) == len(indices), "an index may be drawn once"
    descent = Descent(denoise, sampler, path, seed, shape, torch.device(device), problem, noise, guidance, climb)
    known = given or [NOTHING] * len(indices)
    states = [State(x_CXYZ[None]) for x_CXYZ in begin] or [descent.begin(*each) for each in zip(indices, known, strict=True)]
    for number, (sigma, _) in enumerate(path):
        for place, index in enumerate(indices):
            states[place] = descent.advance(states[place], number, index, known[place])
            done(1, f"sigma {sigma:.3g}")
    return [state.x_BCXYZ[0] for state in states]


def place_of_index(key: Sequence[int | str]) -> int:
    """Where in a key of the noise of a :class:`Descent` the index of the volume is: behind what it is for, and behind the step if any."""
    return 1 if key[0] == "start" else 2


def evaluations(sampler: Sampler, steps: int) -> list[int]:
    """How often a solver asks the denoiser in each of some steps."""
    first, later = sampler.evaluations
    return [first if number == 0 else later for number in range(steps)]


def _told(denoise: Denoiser, known: Given) -> Denoiser:
    """A denoiser that is told what a solver, which sees the volume alone, does not know."""
    if known is NOTHING:
        return denoise
    return lambda y_BCXYZ, sigma_B, given=known: denoise(y_BCXYZ, sigma_B, given)


def _moved(memory: Any, device: torch.device) -> Any:
    """What a solver remembers (tensors, numbers, None, tuples of them) on another device, without its graph."""
    if isinstance(memory, tuple):
        return tuple(_moved(item, device) for item in memory)
    return memory.detach().to(device) if isinstance(memory, Tensor) else memory
