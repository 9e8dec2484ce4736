"""How a volume climbs: at high noise only its low-pass corner is on its way, and finer bands are drawn where they begin to show.

The corner of level l has what l orthonormal Haar levels leave of a volume: 8^l times fewer coefficients, 2^(1.5 l) times the means over
cubes of 2^l voxels. White noise of sigma in the volume is white noise of sigma in the corner, so steps and what solvers remember
are in the sigma of full resolution at every level. Where experts work in the corner and leave the finer bands to a Gaussian N(m, v), a
solver need not carry these bands: at any noise level they are N(m, v + s^2), and so they are drawn when the path comes to an expert that
looks at them (Jing et al. 2022, subspace diffusion, with what is known of the bands in place of zeros).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from volgen.core.given import NOTHING, Given
from volgen.core.protocols import Sampler, Step

Fresh = Callable[[], Tensor]
"""Makes standard normal noise [1, C, X, Y, Z], a fixed function of seed, sample and step."""


class Corners(Protocol):
    """What is known of the corners of volumes, without a network. Level 0 is the volume."""

    def noised(self, level: int, noise_BCXYZ: Tensor, sigma: float) -> Tensor:
        """Standard normal noise -> a sample of what corners of ``level`` look like under noise of ``sigma``.

        At other noise levels the same noise gives the other places of one path of the probability flow: m + (v + s^2)^(1/2) z.
        """
        ...

    def expected(self, level: int, c_BCXYZ: Tensor, sigma_B: Tensor) -> Tensor:
        """Clean corners expected, given noisy ones."""
        ...

    def joined(self, fine_BCXYZ: Tensor, corner_BCXYZ: Tensor) -> Tensor:
        """The finer bands of ``fine_BCXYZ``, and ``corner_BCXYZ`` in place of its own corner."""
        ...


class Climb(Protocol):
    """Which corner of a volume is on its way in which step, and how a larger one comes out of it."""

    def level(self, number: int) -> int:
        """Level of the state before step ``number``; of that after the last step it is 0."""
        ...

    def rise(self, sampler: Sampler, number: int, step: Step, x_BCXYZ: Tensor, memory: Any, noise: Fresh) -> tuple[Tensor, Any]:
        """The state after step ``number`` at the level of the next one.

        Args:
            sampler: the solver that took the step.
            number: that of the step.
            step: it.
            x_BCXYZ: the sample at its end.
            memory: what the solver remembers.
            noise: makes standard normal noise shaped like the state before the next step.

        Returns:
            Sample and memory.
        """
        ...


class _Full:
    """Whole volumes all the way."""

    def level(self, number: int) -> int:
        """Full resolution, in every step."""
        return 0

    def rise(self, sampler: Sampler, number: int, step: Step, x_BCXYZ: Tensor, memory: Any, noise: Fresh) -> tuple[Tensor, Any]:
        """There is nothing finer."""
        return x_BCXYZ, memory


FULL: Climb = _Full()
"""Whole volumes all the way."""


@dataclass(frozen=True)
class Climbing:
    """A descent that climbs, by the levels of those who own its steps. Its denoiser is asked about corners.

    Attributes:
        levels: level of each step, and 0 for the volume that comes out; none is higher than the one before.
        corners: what is known of corners without a network.
    """

    levels: Sequence[int]
    corners: Corners

    def __post_init__(self) -> None:
        assert never_rise(self.levels) and self.levels[-1] == 0, "a volume climbs to full resolution, and never goes back"

    def level(self, number: int) -> int:
        """That of the step's owner."""
        return self.levels[number]

    def rise(self, sampler: Sampler, number: int, step: Step, x_BCXYZ: Tensor, memory: Any, noise: Fresh) -> tuple[Tensor, Any]:
        """Finer bands drawn at the noise level that is reached, with what the solver would remember had it brought them there.

        The path on which the drawn bands lie is known: of the step before, the solver remembers of them what it remembers when it takes
        that step on this path. For ``dpmpp_2m`` that is what the Gaussian expected there, exactly; for ``heun`` the half of its trapezoid
        that begins there. So no step is taken at a lower order than others.
        """
        level = self.level(number + 1)
        if level == self.level(number):
            return x_BCXYZ, memory
        drawn = noise()
        risen = self.corners.joined(self.corners.noised(level, drawn, step.sigma_next), x_BCXYZ)
        if memory is None:
            return risen, None
        silent = Step(step.sigma, step.sigma_next, lambda: torch.zeros_like(drawn))
        _, bands = sampler.step(_Expecting(self.corners, level), self.corners.noised(level, drawn, step.sigma), silent, None)
        return risen, tuple(
            self.corners.joined(fine, coarse) if isinstance(coarse, Tensor) else coarse for fine, coarse in zip(bands, memory, strict=True)
        )


@dataclass(frozen=True)
class _Expecting:
    """A denoiser of corners without a network."""

    corners: Corners
    level: int

    def __call__(self, y_BCXYZ: Tensor, sigma_B: Tensor, given: Given = NOTHING) -> Tensor:
        return self.corners.expected(self.level, y_BCXYZ, sigma_B)


def climbs(levels: Sequence[int]) -> bool:
    """Whether volumes climb whose steps are at these levels: from experts of coarser levels to those of finer ones."""
    return never_rise(levels) and levels[0] > levels[-1]


def never_rise(levels: Sequence[int]) -> bool:
    """Whether no level is higher than the one before."""
    return all(after <= before for before, after in itertools.pairwise(levels))
