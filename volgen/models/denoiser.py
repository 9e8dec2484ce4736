"""A network and a preconditioner make a :class:`~volgen.core.protocols.Denoiser`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import ClassVar, Protocol, Self

import torch
from torch import Tensor

from volgen.core.given import NOTHING, Given, Known
from volgen.core.protocols import Covariance, FlowMap, Shape3

Network = Callable[..., Tensor]
"""``network(input_BCXYZ, noise_B) -> output_BCXYZ``: any callable, so a bare module and a DeepSpeed engine fit alike.

A network that was built with conditions (:class:`volgen.models.condition.Conditioned`) takes named numbers as a third argument."""


UNKNOWN: Mapping[str, Known] = MappingProxyType({})
"""Nothing is known of a cohort's people."""


class Surrounding(Protocol):
    """What surrounds the network when it denoises."""

    def denoise(self, network: Network, y_BCXYZ: Tensor, sigma_B: Tensor) -> Tensor:
        """Clean volume x0_BCXYZ expected given ``y_BCXYZ`` at ``sigma_B``."""
        ...

    def expected(self, y_BCXYZ: Tensor, sigma_B: Tensor) -> Tensor:
        """Clean volume expected where there is no network to ask: :meth:`denoise` with an output of zero."""
        ...

    @property
    def flow_map(self) -> FlowMap | None:
        """The probability flow of what :meth:`expected` expects, in closed form; None if there is none."""
        ...


class Pieces(Protocol):
    """A preconditioner of pieces of volumes: each voxel is denoised alike, whatever piece it is seen in."""

    @property
    def multiple(self) -> int:
        """Pieces begin and end at multiples of it."""
        ...

    def at(self, places_BCXYZ: Tensor) -> Surrounding:
        """What surrounds the network for pieces whose voxels have these coordinates, [B, 3, X, Y, Z] (:mod:`volgen.models.place`)."""
        ...

    def weight(self, sigma_B: Tensor) -> Tensor:
        """Loss weight [B], the same for all pieces, so that the mean loss of pieces is that of volumes."""
        ...


class Preconditioner(Protocol):
    """What surrounds the network: scaling, skip path and loss weight. Runs in fp32 whatever the network runs in."""

    def denoise(self, network: Network, y_BCXYZ: Tensor, sigma_B: Tensor) -> Tensor:
        """Clean volume x0_BCXYZ expected given ``y_BCXYZ`` at ``sigma_B``."""
        ...

    def weight(self, sigma_B: Tensor) -> Tensor:
        """Loss weight [B], so that an untrained network has a loss near 1 at every noise level."""
        ...

    def expected(self, y_BCXYZ: Tensor, sigma_B: Tensor) -> Tensor:
        """Clean volume expected where there is no network to ask: :meth:`denoise` with an output of zero."""
        ...

    def coarse(self, level: int) -> Self:
        """The same for means over cubes of 2^level voxels, which are asked about at their own noise level; itself for level 0.

        Args:
            level: at most :attr:`PreconditionerConfig.coarsest`.
        """
        ...

    def pieces(self) -> Pieces:
        """The same for pieces of volumes."""
        ...

    def prior(self, noise_BCXYZ: Tensor, sigma: float) -> Tensor:
        """What sampling begins with: standard normal noise -> a sample of what data look like under noise of ``sigma``."""
        ...

    def noised(self, noise_BCXYZ: Tensor, sigma: float) -> Tensor:
        """Standard normal noise -> volumes under noise of ``sigma``, if they are such as are expected without a network; at any sigma.

        One noise gives one path of the probability flow of these volumes: m + (covariance + s^2)^(1/2) z.
        """
        ...

    @property
    def covariance(self) -> Covariance | None:
        """How volumes spread around :meth:`expected`, if they are such as are expected without a network; None if there are no such."""
        ...

    @property
    def flow_map(self) -> FlowMap | None:
        """The probability flow of volumes that are such as :meth:`expected` expects, in closed form; None if there are no such.

        One noise gives one path, as in :meth:`noised`.
        """
        ...

    def told(self, given: Given) -> Preconditioner:
        """The same of volumes of which something is true, row by row; itself where it knows of nothing that is told.

        Args:
            given: what is told of each volume of a batch.
        """
        ...

    def carried(self, x_BCXYZ: Tensor, sigma: float, to: Preconditioner) -> Tensor:
        """Noisy volumes as they are under another preconditioner, from the same standard normal noise (:meth:`noised`).

        They are what they were, bit for bit, if neither of the two is told anything.

        Args:
            x_BCXYZ: volumes under noise.
            sigma: its level.
            to: the other one.
        """
        ...

    def held_out(self, volumes: Sequence[int]) -> Preconditioner:
        """What a batch of training volumes is denoised with: fitted as if each of them were somebody new.

        Args:
            volumes: for each element of the batch, its number in the pass that :meth:`PreconditionerConfig.fit` made.
        """
        ...

    def state(self, *, training: bool = False) -> dict[str, Tensor]:
        """Tensors that restore this object, for ``preconditioner.safetensors`` (empty if it has none).

        Args:
            training: also what :meth:`held_out` needs. It can give away single people (the mean without one beside the mean of all), so
                it must not stay in a finished run.
        """
        ...

    def compact(self) -> dict[str, Tensor]:
        """Tensors that restore nearly this object and take few bytes, for a model that is handed on; those of :meth:`state` at most."""
        ...

    def to(self, device: torch.device) -> Self:
        """Moves its tensors."""
        ...


class PreconditionerConfig(Protocol):
    """What every file in ``volgen/models/preconditioners`` offers as ``Config``."""

    kind: str
    fitted: ClassVar[bool]
    """Whether its state is a function of people: it then has to come from a public cohort where people are protected."""

    @property
    def told(self) -> bool:
        """Whether it is fitted to what conditions say of people, too."""
        ...

    @property
    def inputs(self) -> int:
        """Input channels that the network sees (a volume has 1)."""
        ...

    @property
    def multiple(self) -> int:
        """Each edge of a volume must be a multiple of this."""
        ...

    @property
    def anywhere(self) -> bool:
        """Whether it can denoise any piece of a volume, wherever that comes from."""
        ...

    @property
    def coarsest(self) -> int:
        """Highest level of an expert (:mod:`volgen.models.model`): that it leaves finer bands to what is expected without a network."""
        ...

    def fit(
        self, volumes: Callable[[], Iterable[Tensor]], people: Sequence[str], seed: int, finest: Sequence[int] = (),
        told: Mapping[str, Known] = UNKNOWN,
    ) -> Preconditioner:  # fmt: skip
        """Fits to training volumes.

        Args:
            volumes: starts one pass over float32 tensors [X, Y, Z] in [-1, 1].
            people: who each volume of a pass is of.
            seed: seed of anything random in the fit.
            finest: finest level that each volume of a pass shows, at most :attr:`coarsest`; 0 for all if empty.
            told: what conditions say of each volume of a pass, by name.
        """
        ...

    def blank(self, shape: Shape3, volumes: int) -> Preconditioner:
        """Zeros of the sizes that a fit to ``volumes`` volumes would have, for planning: on fake tensors it takes no memory."""
        ...

    def fit_bytes(self, shape: Shape3, volumes: int | None = None) -> int:
        """Host memory that :meth:`fit` takes at most, to some number of volumes or (None) to any."""
        ...

    def restore(self, state: Mapping[str, Tensor]) -> Preconditioner:
        """Inverse of :meth:`Preconditioner.state`."""
        ...


class NetworkConfig(Protocol):
    """What every file in ``volgen/models/networks`` offers as ``Config``."""

    kind: str
    patients_apart: ClassVar[bool]
    """Whether it was tested that the examples of a batch never meet in it, so that each has a gradient of its own."""

    @property
    def multiples(self) -> Shape3:
        """Edges of a volume along X, Y, Z must be multiples of these."""
        ...

    @property
    def strides(self) -> Shape3:
        """A piece that begins at multiples of these is treated as it is in the volume, far enough from its other borders."""
        ...

    @property
    def local(self) -> bool:
        """Whether what it makes of a voxel depends on a neighbourhood of it alone (:mod:`volgen.models.reach` says which)."""
        ...

    @property
    def placed(self) -> bool:
        """Whether its last inputs have to be coordinates (:mod:`volgen.models.place`)."""
        ...

    def build(self, inputs: int, checkpointing: bool = False, outputs: int = 1) -> torch.nn.Module:
        """The module: ``forward(input_BCXYZ with C = inputs, noise_B) -> output_BCXYZ with C = outputs``, those of a state."""
        ...


def knowing(network: Network, given: Given) -> Network:
    """A network that knows what is given beside what it is asked about; itself where nothing is."""
    if given.channels is None and not given.values:
        return network

    def asked(inputs_BCXYZ: Tensor, noise_B: Tensor) -> Tensor:
        seen = inputs_BCXYZ if given.channels is None else torch.cat([inputs_BCXYZ, given.channels], dim=1)
        return network(seen, noise_B, given.values) if given.values else network(seen, noise_B)

    return asked


class PreconditionedDenoiser:
    """A :class:`~volgen.core.protocols.Denoiser` from its two halves."""

    def __init__(self, network: Network, preconditioner: Preconditioner) -> None:
        self.network = network
        self.preconditioner = preconditioner

    def __call__(self, y_BCXYZ: Tensor, sigma_B: Tensor, given: Given = NOTHING) -> Tensor:
        """Returns x0_BCXYZ. What is given goes to the network as it is, channels behind its other inputs, and to the preconditioner."""
        return self.preconditioner.told(given).denoise(knowing(self.network, given), y_BCXYZ, sigma_B)

    def weight(self, sigma_B: Tensor) -> Tensor:
        """The preconditioner's loss weight [B], the same whatever is told."""
        return self.preconditioner.weight(sigma_B)
