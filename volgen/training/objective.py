"""What a training minimises: one number for each example of a batch. A file of ``volgen/training/objectives`` is a kind of objective."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from torch import Tensor

from volgen.core.given import NOTHING, Examples, Given
from volgen.core.protocols import Weighted

Network = Callable[[Tensor, Tensor], Tensor]
"""``network(input_BCXYZ, noise_B) -> output_BCXYZ``: an engine that trains it, or a network as it computes without one."""


class Draws(Protocol):
    """Random numbers for the examples of a batch. Training, private training, validation, planning and audits each bring their own.

    Each number is a function of its example's place, of the step and of what it is for, never of the other examples.
    """

    @property
    def step(self) -> int:
        """Optimiser step that the batch belongs to, from 1; what is validated or audited belongs to the last one."""
        ...

    def quantiles(self, purpose: str = "sigma") -> list[float]:
        """A uniform number in [0, 1) for each example, spread evenly over the examples of a step and over steps."""
        ...

    def normal(self, shape: Sequence[int], purpose: str = "noise") -> Tensor:
        """Standard normal numbers of ``shape`` for each example: float32 ``[B, *shape]`` on the CPU."""
        ...


class Trainee(Protocol):
    """What a phase trains, as its objective sees it: made by a method (``volgen/methods``)."""

    @property
    def points(self) -> Sequence[float]:
        """Noise levels of the schedule that it owns, ascending."""
        ...

    def sigma(self, quantile: float) -> float:
        """The noise level at a quantile in [0, 1) of those that it is trained on."""
        ...

    def denoiser(self, network: Network, ids: Sequence[str] = ()) -> Weighted:
        """The denoiser that a network makes.

        Args:
            network: being trained, or to be judged.
            ids: scans that it will denoise; those of the training cohort are denoised as a new person's would be (cross-fitting).
        """
        ...


class Jumps(Protocol):
    """What goes from one noise level to another along the probability flow in one evaluation (:class:`volgen.models.jump.Jump`)."""

    def __call__(self, x_BCXYZ: Tensor, sigma_B: Tensor, to_B: Tensor, given: Given = NOTHING) -> Tensor:
        """The volumes at ``to_B``."""
        ...

    def missed(self, error_BCXYZ: Tensor, sigma_B: Tensor, to_B: Tensor, detail: float) -> Tensor:
        """Weighted mean squares [B] of errors at the ends of jumps; finest detail counts 1 + ``detail`` times."""
        ...


class Jumper(Trainee, Protocol):
    """What a phase trains where networks jump."""

    def end(self, sigma: float) -> float:
        """Where jumps from a noise level of the phase end: lower."""
        ...

    @property
    def level(self) -> int:
        """Level of voxels at which it works."""
        ...

    def seen(self, sigma: float) -> float:
        """The noise level that the phase sees where a volume at full resolution has ``sigma``."""
        ...

    def jump(self, network: Network, ids: Sequence[str] = ()) -> Jumps:
        """The jump that a network makes; arguments as of :meth:`denoiser`."""
        ...


class Objective(Protocol):
    """A loss of a batch, one number for each example."""

    def loss(self, network: Network, examples: Examples, draws: Draws, ids: Sequence[str] = ()) -> Tensor:
        """The loss [B] of each example: not averaged, so that a bad scan can be named and gradients can be clipped by patient.

        Args:
            network: being trained, or to be judged; asked as often as it takes.
            examples: clean volumes or pieces, with what is known beside them.
            draws: random numbers for them.
            ids: their scans; empty where nobody of the training cohort is among them.
        """
        ...


class ObjectiveConfig(Protocol):
    """What every file in ``volgen/training/objectives`` offers as ``Config``.

    It may also say, where that is not so of every objective: ``jumps``, whether it trains networks that jump, which are a :class:`Jumper`;
    ``teaches_itself``, whether its targets come from the network at neighbouring noise levels; ``patients_apart`` false, where nobody has
    tested gradients of single patients; and ``cut`` and ``states``, what of a scan an example is, and how many volumes that are at a
    level of voxels.
    """

    kind: str

    def build(self, trainee: Trainee) -> Objective:
        """The loss of one phase."""
        ...
