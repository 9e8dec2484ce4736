"""One scan, noised so that its own release is private (local differential privacy), whatever is done with it afterwards."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from volgen.privacy.gaussian import best_guess, epsilon_of, mu_of
from volgen.privacy.secret import Secret

LARGEST_EPSILON, LARGEST_DELTA = 10.0, 1e-3
"""Beyond these a budget is vacuous: at epsilon 10, who held even odds may be 99.995 % sure afterwards; at delta 1e-3, one scan in a
thousand may be given away whole."""
SAFE = 1.0 - 1e-9
"""Rounding must not carry a scan over the border of the ball."""


@dataclass(frozen=True)
class Clip:
    """The set that every scan is brought into before noise is added: [-1, 1]^d, and a ball in it if there is a radius.

    Attributes:
        centre_XYZ: public volume in [-1, 1], float64; the centre of the ball.
        radius: radius of the ball in the Euclidean norm over voxels, positive; None for no ball.
    """

    centre_XYZ: Tensor
    radius: float | None = None

    @property
    def dimension(self) -> int:
        """The number of voxels d."""
        return self.centre_XYZ.numel()

    @property
    def sensitivity(self) -> float:
        """Largest distance of two clipped scans: 2 sqrt(d), or the ball's diameter if that is less."""
        whole = 2.0 * math.sqrt(self.dimension)
        return whole if self.radius is None else min(whole, 2.0 * self.radius)

    def __call__(self, x_XYZ: Tensor) -> Tensor:
        """The nearest point of [-1, 1]^d, drawn towards the centre into the ball; float64. What is not finite becomes the centre's."""
        x = x_XYZ.double().clamp(-1.0, 1.0)
        x = torch.where(x.isfinite(), x, self.centre_XYZ)
        if self.radius is None:
            return x
        away = x - self.centre_XYZ
        return self.centre_XYZ + away * min(1.0, self.radius * SAFE / max(float(away.norm()), 1e-300))


@dataclass(frozen=True)
class ScanBudget:
    """What a release costs.

    Attributes:
        sensitivity: the clip's sensitivity.
        sigma: standard deviation of the noise in each voxel.
        delta: in (0, 1).
    """

    sensitivity: float
    sigma: float
    delta: float

    @property
    def mu(self) -> float:
        """Sensitivity in units of the noise: Gaussian differential privacy's mu."""
        return self.sensitivity / self.sigma

    @property
    def epsilon(self) -> float:
        """The least epsilon at ``delta``."""
        return epsilon_of(self.mu, self.delta)

    @property
    def vacuous(self) -> bool:
        """Whether the numbers promise nothing worth the name."""
        return self.epsilon > LARGEST_EPSILON or self.delta > LARGEST_DELTA

    @property
    def meaning(self) -> str:
        """One sentence for people."""
        told = f"two scans at the far ends of what was allowed can be told apart from this release {best_guess(self.mu):.2%} of the time"
        if self.vacuous:
            return f"VACUOUS: epsilon {self.epsilon:.4g} at delta {self.delta:.2g} protects nobody; {told}."
        return f"Whatever an observer knows beforehand, no odds about the scan change by more than e^{self.epsilon:.3g}; {told}."


def needed_sigma(epsilon: float, delta: float, sensitivity: float) -> float:
    """The least noise that makes a release (epsilon, delta)-private.

    Raises:
        ValueError: a number is out of its range.
    """
    return sensitivity / mu_of(epsilon, delta)


def release(clip: Clip, x_XYZ: Tensor, sigma: float, secret: Secret) -> Tensor:
    """The private version of a scan: clip(x) + sigma z, float64; z from a secret that is used once."""
    return clip(x_XYZ) + sigma * secret.normal(tuple(x_XYZ.shape), "local")


def replaced(epsilon: float, delta: float) -> tuple[float, float]:
    """What an (epsilon, delta) promise about taking part or not is worth against the exchange of one person for any other.

    That is two steps, out and in: twice epsilon, and delta (1 + e^epsilon) (group privacy). Only so can it be put together with a
    release of :func:`release`, whose neighbours are any two scans.
    """
    return 2.0 * epsilon, delta * (1.0 + math.exp(min(epsilon, 700.0)))


def certificate(clip: Clip, centre: str, budget: ScanBudget, asked: tuple[float, float], denoiser: dict[str, Any]) -> dict[str, Any]:
    """Content of ``certificate.json``.

    Args:
        clip: what the scan was brought into.
        centre: where the ball's centre comes from.
        budget: what the release costs.
        asked: (epsilon, delta) that were asked for.
        denoiser: whose run finished the volume, and what is assumed about its training.
    """
    return {
        "mechanism": "Gaussian (clip to a set, add normal noise in every voxel), calibrated exactly (Balle & Wang 2018)",
        "unit": "one release of one scan",
        "neighbouring": "any two scans (local differential privacy: the scan is replaced by any other)",
        "clip": {"range": [-1.0, 1.0], "radius": clip.radius, "centre": centre},
        "d": clip.dimension,
        "sensitivity": budget.sensitivity,
        "sigma": budget.sigma,
        "mu": budget.mu,
        "epsilon": budget.epsilon,
        "delta": budget.delta,
        "asked": {"epsilon": asked[0], "delta": asked[1]},
        "vacuous": budget.vacuous,
        "meaning": budget.meaning,
        "composition": "n independent releases of one person's scans together have mu * sqrt(n): count them",
        "denoiser": denoiser,
        "covers": "the voxels of the scan. Its affine, size, name and intensity units are not released: the file has the run's own",
        "not_covered": "that this person took part, and anything else that is published about them",
    }
