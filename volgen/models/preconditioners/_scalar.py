"""What scalar preconditioners share: D(y, s) = c_skip(s) y + c_out(s) F(c_in(s) y, c_noise(s)) (Karras et al. 2022, equation 7)."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor

from volgen.core.config import Config
from volgen.core.given import Given, Known
from volgen.core.limits import MAX_LEVELS
from volgen.core.noise import c_noise
from volgen.core.protocols import Covariance, FlowMap, Shape3
from volgen.models.denoiser import UNKNOWN, Network, Preconditioner


@dataclass(frozen=True)
class Coefficients:
    """The three scalings [B] at given noise levels."""

    skip: Tensor
    out: Tensor
    inp: Tensor


class ScalarConfig(Config):
    """Base of the preconditioners that are functions of sigma alone; they have nothing to fit."""

    fitted: ClassVar[bool] = False
    told: ClassVar[bool] = False

    @property
    def inputs(self) -> int:
        """Input channels of the network."""
        return 1

    @property
    def multiple(self) -> int:
        """Any edge will do."""
        return 1

    @property
    def anywhere(self) -> bool:
        """Whether any piece of a volume can be denoised: it can, all voxels are alike to it."""
        return True

    @property
    def deviation(self) -> float:
        """Standard deviation of the voxels N(0, d^2) whose exact denoiser the skip path is; 0 if it is that of none."""
        return 0.0

    @property
    def coarsest(self) -> int:
        """Any level, whatever the voxels, where the skip path is what a distribution of volumes makes one expect; else full resolution."""
        return MAX_LEVELS if self.deviation else 0

    @abstractmethod
    def coefficients(self, sigma_B: Tensor) -> Coefficients:
        """c_skip, c_out and c_in."""

    def fit(
        self, volumes: Callable[[], Iterable[Tensor]], people: Sequence[str], seed: int, finest: Sequence[int] = (),
        told: Mapping[str, Known] = UNKNOWN,
    ) -> Preconditioner:  # fmt: skip
        """Nothing depends on the data."""
        return ScalarPreconditioner(self)

    def blank(self, shape: Shape3, volumes: int) -> Preconditioner:
        """Nothing is stored."""
        return ScalarPreconditioner(self)

    def fit_bytes(self, shape: Shape3, volumes: int | None = None) -> int:
        """Nothing is read."""
        return 0

    def restore(self, state: Mapping[str, Tensor]) -> Preconditioner:
        """Nothing was stored."""
        return ScalarPreconditioner(self)


@dataclass(frozen=True)
class Independent:
    """A :class:`~volgen.core.protocols.Covariance` of independent voxels.

    Attributes:
        deviation: their standard deviation d; C is d^2 s^2 / (d^2 + s^2) times the identity.
    """

    deviation: float

    def times(self, x_BCXYZ: Tensor, sigma: float) -> Tensor:
        """Each voxel times its variance."""
        return x_BCXYZ * self._variance(sigma)

    def drawn(self, first_BCXYZ: Tensor, second_BCXYZ: Tensor, sigma: float) -> Tensor:
        """The first noise, scaled."""
        return first_BCXYZ * math.sqrt(self._variance(sigma))

    @property
    def directions(self) -> Tensor:
        """None is more than others."""
        return torch.empty(0, 1, 1, 1, 1)

    def strengths(self, sigma: float) -> tuple[Tensor, float]:
        """The variance of a voxel."""
        return torch.empty(0), self._variance(sigma)

    def _variance(self, sigma: float) -> float:
        return self.deviation**2 / (1.0 + (self.deviation / sigma) ** 2)


class ScalarPreconditioner:
    """A preconditioner whose skip path is a multiple of the input; it is that of any piece of a volume too."""

    multiple: ClassVar[int] = 1

    def __init__(self, config: ScalarConfig) -> None:
        self.config = config

    def denoise(self, network: Network, y_BCXYZ: Tensor, sigma_B: Tensor) -> Tensor:
        """c_skip y + c_out F(c_in y)."""
        c = self.config.coefficients(sigma_B)
        output = network(_over(c.inp) * y_BCXYZ, c_noise(sigma_B))
        return _over(c.skip) * y_BCXYZ + _over(c.out) * output.float()

    def expected(self, y_BCXYZ: Tensor, sigma_B: Tensor) -> Tensor:
        """The skip path alone, ``c_skip y``."""
        return _over(self.config.coefficients(sigma_B).skip) * y_BCXYZ

    def coarse(self, level: int) -> Self:
        """The same numbers: neighbouring voxels are so alike that their means have nearly the standard deviation of voxels."""
        return self

    def pieces(self) -> Self:
        """All voxels are alike to it."""
        return self

    def at(self, places_BCXYZ: Tensor) -> Self:
        """The same everywhere."""
        return self

    def weight(self, sigma_B: Tensor) -> Tensor:
        """1 / c_out^2: the network's own output has the same weight at every noise level."""
        return self.config.coefficients(sigma_B).out ** -2

    def prior(self, noise_BCXYZ: Tensor, sigma: float) -> Tensor:
        """Noise that drowns the data: sigma z."""
        return noise_BCXYZ * sigma

    def noised(self, noise_BCXYZ: Tensor, sigma: float) -> Tensor:
        """Independent voxels N(0, d^2 + s^2)."""
        return noise_BCXYZ * math.hypot(self.config.deviation, sigma)

    @property
    def covariance(self) -> Covariance | None:
        """That of independent voxels N(0, d^2), where the skip path is their denoiser."""
        return Independent(self.config.deviation) if self.config.deviation else None

    @property
    def flow_map(self) -> FlowMap | None:
        """That of independent voxels N(0, d^2): x sqrt((d^2 + s'^2) / (d^2 + s^2)); None where the skip path is no such denoiser."""
        return self._flowed if self.config.deviation else None

    def _flowed(self, x_BCXYZ: Tensor, sigma_B: Tensor, to_B: Tensor) -> Tensor:
        variance = self.config.deviation**2
        return x_BCXYZ * _over(((variance + to_B**2) / (variance + sigma_B**2)).sqrt())

    def told(self, given: Given) -> Preconditioner:
        """It knows of nothing."""
        return self

    def carried(self, x_BCXYZ: Tensor, sigma: float, to: Preconditioner) -> Tensor:
        """Volumes as they are."""
        return x_BCXYZ

    def held_out(self, volumes: Sequence[int]) -> Preconditioner:
        """Nothing was fitted, so nobody can be left out."""
        return self

    def state(self, *, training: bool = False) -> dict[str, Tensor]:
        """Nothing to store."""
        return {}

    def compact(self) -> dict[str, Tensor]:
        """Nothing to store."""
        return {}

    def to(self, device: torch.device) -> Self:
        """No tensors to move."""
        return self


def _over(value_B: Tensor) -> Tensor:
    return value_B[:, None, None, None, None]
