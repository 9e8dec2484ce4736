"""The interfaces that let parts be swapped.

Legend: B batch, C channel, X Y Z voxels (left-right, posterior-anterior, inferior-superior: RAS+), T points of the sigma grid.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

from torch import Tensor

from volgen.core.given import NOTHING, Examples, Given


@runtime_checkable
class Denoiser(Protocol):
    """A noisy volume and its noise level in, the expected clean volume out.

    ``y = x0 + sigma * z`` with z standard normal; the ideal denoiser returns E[x0 | y, given]. Images are in the model range [-1, 1].
    """

    def __call__(self, y_BCXYZ: Tensor, sigma_B: Tensor, given: Given = NOTHING) -> Tensor:
        """Returns x0_BCXYZ, of the shape of ``y_BCXYZ``.

        Args:
            y_BCXYZ: noisy volumes.
            sigma_B: their noise levels, positive.
            given: what is known beside them.
        """
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
        """Returns the sample at ``step.sigma_next`` and what the next step wants to remember (``None`` at the start).

        ``denoise`` is asked about ``step.sigma`` only, so that a step needs one expert. What is remembered is None or a tuple of tensors
        like ``x_BCXYZ`` and numbers, of the same form after every step but the last. A solver that looks at both ends of a step
        (Heun's) may return a prediction and correct it at the beginning of the next one.
        """
        ...


class Scan(Protocol):
    """A volume of the training data, of which only parts may be read.

    Attributes:
        shape: voxels along R, A, S.
    """

    @property
    def shape(self) -> Shape3:
        """Voxels along R, A, S."""
        ...

    def whole(self) -> Tensor:
        """All voxels, float32 [X, Y, Z] in [-1, 1]."""
        ...

    def slices(self, axis: int, start: int, stop: int) -> Tensor:
        """Slices ``start`` ... ``stop - 1`` along an axis, the others whole; float32 in [-1, 1]."""
        ...

    def coarse(self, edge: int) -> Tensor:
        """Means of cubes of ``edge ** 3`` voxels, float32 [X / edge, Y / edge, Z / edge] in [-1, 1]."""
        ...


class Cut(Protocol):
    """What of a scan one training example is."""

    def __call__(self, scan: Scan, seed: int, *key: int | str) -> Examples:
        """One clean piece and what is known beside it (B = 1), a function of the scan, the seed and the key."""
        ...


Shape3 = tuple[int, int, int]
Axis = Literal["R", "A", "S"]
"""An axis of a RAS+ volume; slices across R are sagittal, across A coronal, across S axial."""
AXES: tuple[Axis, Axis, Axis] = ("R", "A", "S")
"""Names of the array axes of a RAS+ volume."""
SubjectIds = Sequence[str]
