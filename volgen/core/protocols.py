"""The interfaces that let parts be swapped.

Legend: B batch, C channel, X Y Z voxels (left-right, posterior-anterior, inferior-superior: RAS+), T points of the sigma grid.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from torch import Tensor


@runtime_checkable
class Denoiser(Protocol):
    """A noisy volume and its noise level in, the expected clean volume out.

    ``y = x0 + sigma * z`` with z standard normal; the ideal denoiser returns E[x0 | y]. Values are in the model range [-1, 1].
    """

    def __call__(self, y_BCXYZ: Tensor, sigma_B: Tensor) -> Tensor:
        """Returns x0_BCXYZ, shaped like ``y_BCXYZ``; ``sigma_B`` is positive."""
        ...


class NoiseSchedule(Protocol):
    """Where on the sigma axis sampling takes place."""

    def grid(self, steps: int | None = None) -> list[float]:
        """Sampling points, descending, all positive; ``steps`` chooses that many of the schedule's own points, ends kept."""
        ...


@dataclass(frozen=True)
class Step:
    """One step of a sampler, from ``sigma`` down to ``sigma_next``.

    Attributes:
        sigma: noise level of the incoming sample.
        sigma_next: noise level to reach, 0 for the last step.
        noise: makes fresh standard normal noise shaped like the sample; a fixed function of seed, sample and step.
    """

    sigma: float
    sigma_next: float
    noise: Callable[[], Tensor]


class Sampler(Protocol):
    """A solver. The driver owns the loop; a solver knows one step.

    Attributes:
        order: global order of convergence of the mean trajectory, measured by a test.
        stochastic: whether ``step.noise`` is used.
    """

    order: int
    stochastic: bool

    def step(self, denoise: Denoiser, x_BCXYZ: Tensor, step: Step, memory: Any) -> tuple[Tensor, Any]:
        """Returns the sample at ``step.sigma_next`` and what the next step wants to remember (``None`` at the start)."""
        ...


Shape3 = tuple[int, int, int]
SubjectIds = Sequence[str]
