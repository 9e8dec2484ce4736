"""The sampling loop. A solver knows one step; everything about order, seeds and memory is here."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from volgen.core.errors import UserError
from volgen.core.given import NOTHING, Given
from volgen.core.protocols import Denoiser, Sampler, Shape3, Step
from volgen.core.rng import normal
from volgen.core.run_files import METRICS


class Noise(Protocol):
    """Draws noise."""

    def __call__(self, shape: Shape3, seed: int, *key: int | str) -> Tensor:
        """Standard normal numbers [1, X, Y, Z], a function of seed and key alone."""
        ...


def white(shape: Shape3, seed: int, *key: int | str) -> Tensor:
    """Independent numbers."""
    return normal((1, *shape), seed, *key)


@dataclass(frozen=True)
class State:
    """A volume on its way down, in host memory.

    Attributes:
        x_BCXYZ: what the solver has made of it, B = C = 1.
        memory: what the solver remembers (tensors, numbers, None, tuples of them).
    """

    x_BCXYZ: Tensor
    memory: Any = None


@dataclass(frozen=True)
class Descent:
    """How one volume comes down from the highest noise level to none: all that decides it, and nothing else.

    Volume i is a function of the denoiser, the settings, ``seed`` and i, bit for bit: it starts from the noise ``noise(shape, seed,
    "start", i)``, its fresh noise in step n is ``noise(shape, seed, "step", n, i)``, and it goes through the network alone, because
    convolutions and matrix products round differently in another batch. Whoever takes the steps, in whatever order among other
    volumes, gets the same volume.

    Attributes:
        denoise: a denoiser, such as an expert bank.
        sampler: the solver.
        grid: noise levels, strictly descending and positive; a last step to 0 is added.
        seed: seed of all noise.
        shape: voxels along X, Y, Z.
        device: where the denoiser computes.
        start: makes a sample of the noisiest marginal from standard normal noise [B, C, X, Y, Z] and ``grid[0]``.
        noise: draws standard normal noise of a key.
    """

    denoise: Denoiser
    sampler: Sampler
    grid: Sequence[float]
    seed: int
    shape: Shape3
    device: torch.device
    start: Callable[[Tensor, float], Tensor] = lambda noise, sigma: noise * sigma
    noise: Noise = white

    def __post_init__(self) -> None:
        assert all(high > low for high, low in itertools.pairwise([*self.grid, 0.0])), "the grid must be descending and positive"

    def begin(self, index: int) -> State:
        """Volume ``index`` before its first step."""
        drawn = self.noise(self.shape, self.seed, "start", index)[None]
        return State(self.start(drawn.to(self.device), self.grid[0]).to("cpu"))

    def advance(self, state: State, number: int, index: int, given: Given = NOTHING) -> State:
        """Volume ``index`` after step ``number`` (from 0).

        Raises:
            UserError: the step gave values that are not finite.
        """
        sigma, sigma_next = self.grid[number], [*self.grid, 0.0][number + 1]
        step = Step(sigma, sigma_next, lambda: self.noise(self.shape, self.seed, "step", number, index)[None].to(self.device))
        denoise = _told(self.denoise, given.to(self.device))
        with torch.no_grad():
            x, memory = self.sampler.step(denoise, state.x_BCXYZ.to(self.device), step, _moved(state.memory, self.device))
            if not torch.isfinite(x).all():
                raise UserError(
                    f"step {number + 1} of {len(self.grid)} (sigma {sigma:.4g})", "the volume has values that are not finite", "numbers",
                    f"the expert that owns this noise level has diverged: look at its losses in {METRICS} and train it again",
                )  # fmt: skip
            return State(x.to("cpu"), _moved(memory, torch.device("cpu")))


def sample(
    denoise: Denoiser,
    sampler: Sampler,
    grid: Sequence[float],
    *,
    seed: int,
    indices: Sequence[int],
    shape: Shape3,
    device: torch.device | str = "cpu",
    start: Callable[[Tensor, float], Tensor] = lambda noise, sigma: noise * sigma,
    noise: Noise = white,
    given: Sequence[Given] = (),
    done: Callable[[int, str], None] = lambda count, note: None,
) -> list[Tensor]:
    """Draws one volume, or one piece of a volume, per index: each is what :class:`Descent` says, whatever the others are.

    The order is expert-major: all volumes pass through one step before the next begins, so that a bank of T experts loads each of
    them once. Between steps the volumes wait in host memory: 4 bytes per voxel, and as much again for a solver that remembers.

    Args:
        denoise: see :class:`Descent`, as for all that is not named here.
        sampler: see there.
        grid: see there.
        seed: see there.
        indices: which volumes, each at most once.
        shape: see there.
        device: see there.
        start: see there.
        noise: see there.
        given: what is known beside the volume of each index (B = 1 each); nothing if empty.
        done: is told how many more steps of volumes are done, with a word on where the loop is.

    Returns:
        x0_CXYZ (C = 1, float32, on the CPU, nominally in [-1, 1] but not clamped), in the order of ``indices``.

    Raises:
        UserError: a step gave values that are not finite.
    """
    assert len(set(indices)) == len(indices), "an index may be drawn once"
    descent = Descent(denoise, sampler, grid, seed, shape, torch.device(device), start, noise)
    states = [descent.begin(index) for index in indices]
    for number, sigma in enumerate(grid):
        for place, index in enumerate(indices):
            states[place] = descent.advance(states[place], number, index, given[place] if given else NOTHING)
            done(1, f"sigma {sigma:.3g}")
    return [state.x_BCXYZ[0] for state in states]


def evaluations(sampler: Sampler, grid: Sequence[float]) -> list[int]:
    """How often a solver asks the denoiser in each step, found out with a volume of one voxel."""
    asked = [0] * len(grid)
    number = 0

    def count(y_BCXYZ: Tensor, sigma_B: Tensor, given: Given = NOTHING) -> Tensor:
        asked[number] += 1
        return torch.zeros_like(y_BCXYZ)

    descent = Descent(count, sampler, grid, 0, (1, 1, 1), torch.device("cpu"))
    state = descent.begin(0)
    for number in range(len(grid)):
        state = descent.advance(state, number, 0)
    return asked


def _told(denoise: Denoiser, known: Given) -> Denoiser:
    """A denoiser that is told what a solver, which sees the volume alone, does not know."""
    if known is NOTHING:
        return denoise
    return lambda y_BCXYZ, sigma_B, given=known: denoise(y_BCXYZ, sigma_B, given)


def _moved(memory: Any, device: torch.device) -> Any:
    """What a solver remembers (tensors, numbers, None, tuples of them) on another device."""
    if isinstance(memory, tuple):
        return tuple(_moved(item, device) for item in memory)
    return memory.to(device) if isinstance(memory, Tensor) else memory
