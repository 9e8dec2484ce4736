"""What generators share that draw a volume in one step: as denoisers they are asked at the highest noise level alone."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from volgen.core.errors import UserError
from volgen.core.given import NOTHING, Examples, Given
from volgen.core.protocols import Denoiser, Sampler, Shape3
from volgen.core.rng import seeded
from volgen.experts.plan import Phase, plan
from volgen.methods import Fitted, Sections
from volgen.methods._volumes import OfVolumes
from volgen.models.denoiser import Network, Preconditioner
from volgen.parallel.precision import InPrecision
from volgen.training.objective import Objective


@dataclass(frozen=True)
class Generator:
    """A :class:`~volgen.core.protocols.Denoiser` that makes a volume of the noise in which there is none.

    Attributes:
        network: makes a volume of standard normal numbers.
    """

    network: Network

    def __call__(self, y_BCXYZ: Tensor, sigma_B: Tensor, given: Given = NOTHING) -> Tensor:
        """A volume for each noise."""
        return self.network(y_BCXYZ / sigma_B[:, None, None, None, None], sigma_B)


class OneStepConfig(Protocol):
    """What the configurations of these methods have in common."""

    @property
    def kind(self) -> str:
        """Name of the method."""
        ...


@dataclass(frozen=True)
class OneStepMethod(OfVolumes, ABC):
    """A :class:`~volgen.methods.Method` of one network, which is asked once for each volume.

    Attributes:
        recipe: its sections.
        config: its own.
    """

    recipe: Sections
    config: OneStepConfig

    @abstractmethod
    def make(self, *, training: bool) -> nn.Module:
        """The network, with what is trained beside it if it is trained.

        Its ``forward(normal_BCXYZ, noise_B)`` makes volumes of standard normal numbers, on voxels.
        """

    @abstractmethod
    def objective(self, phase: Phase, fitted: Fitted, sigma: Callable[[float], float] | None = None) -> Objective:
        """What the training makes small; without gradients, what it is judged by."""

    @property
    @abstractmethod
    def multiple(self) -> int:
        """Edges of a volume have to be multiples of this."""

    @property
    @abstractmethod
    def numbers(self) -> int:
        """Standard normal numbers that a volume is made of: at most as many as it has voxels, which is what a descent begins with."""

    def check(self) -> None:
        """Makes sure that a generator can be made that draws whole volumes in one step.

        Raises:
            ValueError: it cannot.
        """
        recipe, asks = self.recipe, f"method.kind '{self.config.kind}'"
        if recipe.preconditioner.fitted:
            raise ValueError(f"{asks} has no use for the fit of preconditioner.kind '{recipe.preconditioner.kind}': use edm")
        if recipe.experts.count > 1 or recipe.experts.shared_steps:
            raise ValueError(f"{asks} is one network: leave experts out")
        if recipe.conditions or recipe.known or recipe.model.level or recipe.piece != recipe.data.grid:
            raise ValueError(f"{asks} is of whole volumes and is told nothing: no conditions, levels, pieces or places")
        if recipe.model.mirrored:
            raise ValueError(f"{asks} makes volumes of noise, which has no mirror image that was seen in training: leave mirrored out")
        if any(size % self.multiple for size in self.shape):
            raise ValueError(f"{asks} halves edges, and volumes are {list(self.shape)}: use multiples of {self.multiple}")
        if self.numbers > (voxels := math.prod(self.shape)):
            raise ValueError(f"{asks} would draw {self.numbers} numbers for a volume of {voxels} voxels: make its latents smaller")

    @property
    def shape(self) -> Shape3:
        """Voxels of a volume."""
        return self.recipe.data.grid

    @property
    def inputs(self) -> int:
        """Channels of the network: noise."""
        return 1

    def examples(self, count: int, make: Callable[..., Tensor] = torch.zeros) -> Examples:
        """Made-up volumes of the run's shape."""
        return Examples(make(count, 1, *self.shape))

    def phases(self) -> list[Phase]:
        """The one network of the run."""
        return plan(self.recipe.experts, self.recipe.schedule.grid())

    def network(self, phase: Phase, weights: Mapping[str, Tensor] | None = None) -> nn.Module:
        """The network as it is trained."""
        with seeded(self.recipe.seed, "weights", phase.name):
            network = self.make(training=True)
        if weights is not None:
            self.start_from(network, weights)
        return network

    def start_from(self, network: nn.Module, weights: Mapping[str, Tensor]) -> None:
        """Gives what is trained released weights to begin with."""
        network.load_state_dict(weights)

    def release(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Weights as they are."""
        return dict(state)

    def settled(
        self, phase: Phase, state: Mapping[str, Tensor], volumes: Callable[[], Iterable[Tensor]], device: torch.device
    ) -> dict[str, Tensor] | None:
        """Nothing is fitted after training."""
        return None

    def released(self, phase: Phase) -> nn.Module:
        """What volumes are drawn with."""
        return self.make(training=False)

    def forward(self, network: nn.Module) -> Network:
        """The network under autocast, if it is trained in bf16."""
        return InPrecision(network, self.recipe.engine)

    def denoiser(self, network: nn.Module, preconditioner: Preconditioner) -> Denoiser:
        """The network, asked about noise alone."""
        return Generator(self.forward(network))

    def corner(self, network: nn.Module, preconditioner: Preconditioner) -> Denoiser:
        """The same: there are no corners of whole volumes."""
        return self.denoiser(network, preconditioner)

    def visits(self, grid: Sequence[float], steps: int | None, below: float = math.inf) -> list[float]:
        """The highest noise level.

        Raises:
            UserError: more steps are asked for, or a lower level.
        """
        if below < math.inf:
            raise UserError("--sketch-sigma", f"is {below:g}, but this run makes whole volumes of noise", "a run of denoisers")
        if steps not in (None, 1):
            raise UserError("--steps", f"is {steps}, but this run draws a volume in one step", "1, or nothing")
        return [max(grid)]

    def fits(self, sampler: Sampler, grid: Sequence[float], *, guided: bool = False, voxels: bool = False) -> None:
        """Makes sure that nothing else is asked of it than whole volumes.

        Raises:
            UserError: a guidance takes them for what is expected of a noisy volume.
        """
        if guided:
            raise UserError("--guidance", "needs a denoiser, but this run makes whole volumes of noise", "none, or a run of denoisers")
