"""A variational autoencoder (Kingma and Welling 2014) with an ex-post Gaussian (Ghosh et al. 2020): a baseline that draws in one step."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from pydantic import Field, PositiveFloat
from torch import Tensor

from volgen.core.given import Examples
from volgen.core.limits import MAX_RANK
from volgen.core.rng import normal
from volgen.experts.plan import Phase
from volgen.methods import Fitted, Sections
from volgen.methods._one_step import OneStepMethod
from volgen.models.autoencoder import Autoencoder, CodecConfig
from volgen.models.denoiser import Network
from volgen.training.objective import Draws, Objective


class Config(CodecConfig):
    """MONAI's autoencoder, and a Gaussian fitted to what it encodes; ``network``, ``view`` and ``objective`` are not asked."""

    kind: Literal["vae"] = "vae"
    patients_apart: ClassVar[bool] = False
    divergence: PositiveFloat = 1e-3
    """Weight of the Kullback-Leibler divergence, in nats for each voxel, beside the mean absolute error."""
    rank: int = Field(default=24, ge=1, le=MAX_RANK)
    """Components of the Gaussian of latents."""
    latents: int = Field(default=256, ge=4, le=65536)
    """Training scans that the Gaussian is fitted to, at most."""

    def build(self, recipe: Sections) -> VariationalAutoencoder:
        """The method of a recipe."""
        return VariationalAutoencoder(recipe, self)


@dataclass(frozen=True)
class VariationalAutoencoder(OneStepMethod):
    """The :class:`~volgen.methods.Method` of a variational autoencoder.

    Attributes:
        config: sizes.
    """

    config: Config

    @property
    def multiple(self) -> int:
        """What edges have to be multiples of."""
        return int(2**self.config.halvings)

    @property
    def numbers(self) -> int:
        """Those of a latent, and one for each component of the Gaussian."""
        return math.prod(self.config.latent(self.shape)) + self.config.rank

    def make(self, *, training: bool) -> Autoencoder:
        """Encoder, decoder and Gaussian."""
        return Autoencoder(self.config, self.shape, self.config.rank, training and self.recipe.engine.activation_checkpointing)

    def settled(
        self, phase: Phase, state: Mapping[str, Tensor], volumes: Callable[[], Iterable[Tensor]], device: torch.device
    ) -> dict[str, Tensor]:
        """Weights with the Gaussian of the latents of training people; one sample of the posterior of each."""
        network = self.make(training=False)
        network.load_state_dict(state)
        network.to(device).eval()
        found = []
        with torch.no_grad():
            for number, volume_XYZ in enumerate(volumes()):
                if number == self.config.latents:
                    break
                posterior = normal((1, *network.latent), self.recipe.seed, "latent", phase.name, number)
                found.append(network.encode(volume_XYZ[None, None].to(device), posterior.to(device)).cpu())
        network.cpu().fit(torch.cat(found) if found else torch.empty(0, 0))
        return dict(network.state_dict())

    def objective(self, phase: Phase, fitted: Fitted, sigma: Callable[[float], float] | None = None) -> Objective:
        """What an encoding loses, and what it costs; validation is the same of people who were not trained on."""
        return _Encoding(self.config.latent(self.shape), self.config.divergence)


@dataclass(frozen=True)
class _Encoding:
    """An :class:`~volgen.training.objective.Objective`: the negative evidence bound with a Laplace likelihood."""

    latent: Sequence[int]
    divergence: float

    def loss(self, network: Network, examples: Examples, draws: Draws, ids: Sequence[str] = ()) -> Tensor:
        x_BCXYZ = examples.x_BCXYZ
        posterior = draws.normal(self.latent, "posterior").to(x_BCXYZ.device)
        terms_B2 = network(x_BCXYZ, x_BCXYZ.new_zeros(len(x_BCXYZ)), posterior=posterior)
        return terms_B2[:, 0] + self.divergence * terms_B2[:, 1]
