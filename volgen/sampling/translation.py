"""Translation of a volume from one condition to another: up the noise axis as what it is, down as what it could be.

The probability flow dx / d sigma = (x - D(x, sigma)) / sigma is an ordinary differential equation, so it can be followed from a volume to
its noise under one denoiser, and from there to a volume under another (Song et al. 2021, appendix D; Su et al. 2023, dual diffusion
implicit bridges). What both denoisers agree on comes back as it was; what they differ in is what changes. For classes N(mu_c, L) the volume
moves by mu_1 - mu_0, but for a share of sqrt(L / (L + sigma^2)) of that, sigma being the highest noise level; what is known of classes
without a network moves there (:func:`crossed`).

The flow begins and ends at the lowest level of the grid, which a scan is taken to be at: the step from there to 0 would denoise the scan.
A solver that corrects its last prediction at its next step, asking twice in that (Heun's), gets one more step, of no length.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from volgen.core.given import NOTHING, Given
from volgen.core.protocols import Denoiser, Sampler
from volgen.sampling import descent
from volgen.sampling.descent import Path


class Carrier(Protocol):
    """What is known of noisy volumes without a network."""

    def carried(self, x_BCXYZ: Tensor, sigma: float, to: Any) -> Tensor:
        """The volumes as they are under ``to``, from the same noise."""
        ...


def crossed(x_CXYZ: Tensor, sigma: float, one: Carrier, other: Carrier, strength: float = 1.0) -> Tensor:
    """A volume at the highest noise level, on its way from one class to another: x + strength (x' - x), x' being x as it is carried there.

    Where nothing is known of classes it stays what it is, bit for bit. For Gaussian classes that are known it is what the flow up from
    ``sigma`` and down to it again would make of it, so that nothing of the way is lost, however high ``sigma`` is.

    Args:
        x_CXYZ: the volume.
        sigma: its noise level.
        one: what is known of the class it comes from.
        other: what is known of the class it goes to.
        strength: 0 for the first, 1 for the second.
    """
    carried_CXYZ = one.carried(x_CXYZ[None], sigma, other)[0]
    return carried_CXYZ if strength == 1.0 else x_CXYZ + strength * (carried_CXYZ - x_CXYZ)


def upwards(grid: Sequence[float]) -> Path:
    """The path upwards, from the lowest level of a descending grid to the highest."""
    return descent.up(grid)


def downwards(grid: Sequence[float]) -> Path:
    """The path downwards, from the highest level of a descending grid to the lowest, without the step to 0."""
    return tuple(itertools.pairwise(grid))


@dataclass(frozen=True)
class Told:
    """A denoiser that is always told the same.

    Attributes:
        denoise: a denoiser.
        told: what it is told (B = 1), on the device that computes.
    """

    denoise: Denoiser
    told: Given

    def __call__(self, y_BCXYZ: Tensor, sigma_B: Tensor, given: Given = NOTHING) -> Tensor:
        """What it expects of volumes of which this is true."""
        return self.denoise(y_BCXYZ, sigma_B, given | self.told)


@dataclass(frozen=True)
class Between:
    """A denoiser on the way from one to another, and beyond: D_0 + strength (D_1 - D_0).

    Attributes:
        one: D_0.
        other: D_1.
        strength: 0 for the first, 1 for the second, which are then asked alone.
    """

    one: Denoiser
    other: Denoiser
    strength: float

    def __call__(self, y_BCXYZ: Tensor, sigma_B: Tensor, given: Given = NOTHING) -> Tensor:
        """What it expects."""
        if self.strength == 1.0:
            return self.other(y_BCXYZ, sigma_B, given)
        x0_BCXYZ = self.one(y_BCXYZ, sigma_B, given)
        return x0_BCXYZ if self.strength == 0.0 else x0_BCXYZ.lerp(self.other(y_BCXYZ, sigma_B, given), self.strength)


@dataclass(frozen=True)
class Bridge:
    """How volumes are followed along the noise axis.

    Attributes:
        sampler: a solver of the ordinary differential equation.
        grid: noise levels, descending.
        device: where the denoisers compute.
        done: called after steps, with their number and a word on where the flow is.
    """

    sampler: Sampler
    grid: Sequence[float]
    device: torch.device
    done: Callable[[int, str], None] = lambda count, note: None

    @property
    def steps(self) -> int:
        """Steps of one way."""
        return len(self.grid) - 1 + self._corrects

    @property
    def _corrects(self) -> bool:
        """Whether the solver corrects each step at the beginning of the next."""
        return self.sampler.evaluations[1] > 1

    def up(self, denoise: Denoiser, x_CXYZ: Tensor) -> Tensor:
        """The noise [C, X, Y, Z], at the highest level, that a volume comes from."""
        return self._follow(denoise, x_CXYZ, upwards(self.grid))

    def down(self, denoise: Denoiser, x_CXYZ: Tensor) -> Tensor:
        """The volume [C, X, Y, Z] that comes from noise at the highest level."""
        return self._follow(denoise, x_CXYZ, downwards(self.grid))

    def _follow(self, denoise: Denoiser, x_CXYZ: Tensor, path: Path) -> Tensor:
        if self._corrects:
            path = (*path, (path[-1][1], path[-1][1]))
        channels, x, y, z = x_CXYZ.shape
        (found,) = descent.sample(
            denoise, self.sampler, path, seed=0, indices=[0], shape=(channels, x, y, z), device=self.device, begin=[x_CXYZ], done=self.done
        )
        return found
