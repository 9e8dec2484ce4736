"""What is trained and what samples: a method glues network, preconditioner, adapter, assembly and objective together, and nobody else does.

A file of this folder is a kind of method (``recipe.method.kind``). Training, private training, validation, planning, audit, benchmarks and
sampling ask the method that a recipe builds (:meth:`volgen.recipe.Recipe.build`); so what is planned is what is trained.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor, nn

from volgen.core.given import Examples
from volgen.core.protocols import Denoiser, NoiseSchedule, Sampler, Shape3
from volgen.data.stream import StreamConfig
from volgen.experts.plan import ExpertsConfig, Phase
from volgen.models.adapter import AdapterConfig
from volgen.models.condition import ConditionConfig
from volgen.models.denoiser import Network, NetworkConfig, Preconditioner, PreconditionerConfig
from volgen.models.model import ExpertModel
from volgen.models.space import VOXELS, Domain
from volgen.parallel.engine import EngineConfig
from volgen.training.objective import Objective, ObjectiveConfig

Weights = Mapping[str, Mapping[str, Tensor]]
"""Released weights of networks, by the names of their phases."""


@dataclass(frozen=True)
class Fitted:
    """What was fitted to the cohort before denoisers are trained.

    Attributes:
        preconditioner: it.
        numbers: scans that it was fitted to, by id: the number of each in the pass of the fit. None if it was fitted to other people.
        space: where denoisers work, and it was fitted.
    """

    preconditioner: Preconditioner
    numbers: Mapping[str, int] = field(default_factory=dict)
    space: Domain = VOXELS

    def without(self, ids: Sequence[str]) -> Preconditioner:
        """The preconditioner as if each of these scans were somebody's who is new; for scans that it was fitted to, or for none of them."""
        return self.preconditioner.held_out([self.numbers[name] for name in ids]) if self.numbers and ids else self.preconditioner


class Sections(Protocol):
    """The sections of a recipe that a method is made of."""

    @property
    def seed(self) -> int:
        """Seed of every random number."""
        ...

    @property
    def data(self) -> StreamConfig:
        """Shape and batches."""
        ...

    @property
    def schedule(self) -> NoiseSchedule:
        """The noise levels of the run."""
        ...

    @property
    def network(self) -> NetworkConfig:
        """The network of an expert."""
        ...

    @property
    def model(self) -> ExpertModel:
        """That network, with the level and the view of an expert."""
        ...

    @property
    def preconditioner(self) -> PreconditionerConfig:
        """How its output becomes a clean volume."""
        ...

    @property
    def piece(self) -> Shape3:
        """Voxels that go through the network at once."""
        ...

    @property
    def known(self) -> int:
        """Channels of what is known beside them."""
        ...

    @property
    def conditions(self) -> Sequence[ConditionConfig]:
        """What the network is told of a scan."""
        ...

    @property
    def adapter(self) -> AdapterConfig:
        """Which weights are trained."""
        ...

    @property
    def objective(self) -> ObjectiveConfig:
        """What is minimised."""
        ...

    @property
    def experts(self) -> ExpertsConfig:
        """How many experts there are, and how they are trained."""
        ...

    @property
    def engine(self) -> EngineConfig:
        """Precision and recomputation."""
        ...


class Method(Protocol):
    """What every file of this folder builds."""

    def check(self) -> None:
        """Makes sure that the recipe can be had with this method.

        Raises:
            ValueError: it cannot.
        """
        ...

    @property
    def inputs(self) -> int:
        """Input channels of the network."""
        ...

    @property
    def grid(self) -> Shape3:
        """Voxels along X, Y, Z of what is denoised as a whole: of a volume, or of what is made of one.

        Raises:
            ValueError: nothing of the kind can be made of volumes of this size.
        """
        ...

    @property
    def example(self) -> Shape3:
        """Voxels along X, Y, Z of what of a scan a training example is."""
        ...

    @property
    def needs(self) -> tuple[str, ...]:
        """Names of the phases that come before everything else, because :meth:`space` is made of their networks."""
        ...

    def space(self, weights: Weights | None, device: torch.device) -> Domain:
        """Where denoisers work.

        Args:
            weights: released ones of the networks of :attr:`needs`; random ones if None, for planning.
            device: computes.

        Raises:
            ValueError: it cannot be made of these.
        """
        ...

    def passes(self, phase: Phase, loss: float | None) -> None:
        """Makes sure that a network of :attr:`needs` is good enough for the others to be trained.

        Args:
            phase: its.
            loss: its validation loss; None where nobody was looked at.

        Raises:
            UserError: it is not.
        """
        ...

    def examples(self, count: int, make: Callable[..., Tensor] = torch.zeros) -> Examples:
        """Made-up training examples of the sizes that real ones have; ``make`` makes a tensor of given edges."""
        ...

    def phases(self) -> list[Phase]:
        """Every network of the run, in an order in which one process can train them."""
        ...

    def network(self, phase: Phase, weights: Mapping[str, Tensor] | None = None) -> nn.Module:
        """The network of a phase as it is trained, on torch's current device.

        What is to be trained requires a gradient, and what is trained beside the weights of :meth:`released` is there. Random numbers are
        a function of the seed and the phase's name.

        Args:
            phase: which.
            weights: what it starts from, as released; random ones if None.

        Raises:
            UserError: the network has nothing that could be trained as is asked.
        """
        ...

    def release(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Weights of :meth:`released` from those of :meth:`network`."""
        ...

    def settled(
        self, phase: Phase, state: Mapping[str, Tensor], volumes: Callable[[], Iterable[Tensor]], device: torch.device
    ) -> dict[str, Tensor] | None:
        """Weights of :meth:`released` once training has ended, if there is something in them that is fitted to people then; None if not.

        Args:
            phase: which.
            state: weights of :meth:`released` that training has chosen.
            volumes: starts a pass over the training scans, float32 [X, Y, Z] in [-1, 1].
            device: computes.
        """
        ...

    def released(self, phase: Phase) -> nn.Module:
        """The network that the exported weights of a phase belong to, with weights from torch's global generator, on its current device."""
        ...

    def forward(self, network: nn.Module) -> Network:
        """A network as it computes without an engine, in the precision that it is trained in."""
        ...

    def objective(self, phase: Phase, fitted: Fitted, sigma: Callable[[float], float] | None = None) -> Objective:
        """What the training of a phase makes small; validation, planning, audits and benchmarks ask the same object.

        Args:
            phase: which.
            fitted: what was fitted, on the device that computes.
            sigma: quantile in [0, 1) -> noise level; that of the phase's training if None.
        """
        ...

    def denoiser(self, network: nn.Module, preconditioner: Preconditioner) -> Denoiser:
        """What trained weights make: the denoiser of a network of :meth:`released`, for the noise levels of its phase."""
        ...

    def corner(self, network: nn.Module, preconditioner: Preconditioner) -> Denoiser:
        """The same for samples that climb (:mod:`volgen.sampling.climb`): of corners of volumes, where the network sees no more of them."""
        ...

    def visits(self, grid: Sequence[float], steps: int | None, below: float = math.inf) -> list[float]:
        """The noise levels from which a descent of some steps takes them, descending; of as many as the method would choose if None.

        Args:
            grid: the run's, descending.
            steps: how many.
            below: the highest noise level at which it may begin.

        Raises:
            UserError: there is no such descent.
        """
        ...

    @property
    def every_step(self) -> bool:
        """Whether descents take all of their steps, also where voxels are asked for in which the last ones would not be seen."""
        ...

    def fits(self, sampler: Sampler, grid: Sequence[float], *, guided: bool = False, voxels: bool = False) -> None:
        """Refuses a descent that its denoisers were not made for.

        Args:
            sampler: what takes the steps.
            grid: the noise levels from which it takes them, descending.
            guided: whether a guidance asks the denoiser, and takes what it says for an expected volume.
            voxels: whether that volume has to be one of voxels, because a scan is compared with it.

        Raises:
            UserError: says which solver, or which noise levels, they were made for.
        """
        ...
