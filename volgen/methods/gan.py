"""A hierarchical generative adversarial network in the manner of HA-GAN (Sun et al. 2022): a baseline that draws in one step."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, Self

import torch
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor, nn

from volgen.core.config import Config as BaseConfig
from volgen.core.given import Examples
from volgen.core.limits import MAX_WIDTH
from volgen.experts.plan import Phase
from volgen.methods import Fitted, Sections
from volgen.methods._one_step import OneStepMethod
from volgen.models.adversaries import SEED, Adversaries, HierarchicalGenerator, energy_score
from volgen.models.denoiser import Network
from volgen.training.objective import Draws, Objective

GENERATOR = "generator."
"""Beginning of the names of the generator's weights while it has critics."""


class Config(BaseConfig):
    """A generator of whole volumes and two critics; ``network``, ``view`` and ``objective`` are not asked.

    Both learn at ``optimiser.learning_rate``, in one step of one optimiser. Validation is the energy score of volumes that were not trained
    on, so the best weights are those that draw as people are, and not those that fool a critic.
    """

    kind: Literal["gan"] = "gan"
    patients_apart: ClassVar[bool] = False
    latent: int = Field(default=256, ge=1, le=MAX_WIDTH)
    """Standard normal numbers that a volume is made of."""
    width: int = Field(default=32, ge=2, le=MAX_WIDTH)
    """Channels of the generator at a quarter of the edges; twice as many before, half as many at full resolution."""
    critic_width: int = Field(default=16, ge=1, le=MAX_WIDTH)
    """Channels of critics at their finest resolution."""
    norm_groups: PositiveInt = 8
    """Groups of the group normalisation; must divide half the width."""
    slab: int = Field(default=4, ge=1, le=64)
    """The critic of detail sees this part of a volume at a time, from left to right and from back to front all of it."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.width % 2 or (self.width // 2) % self.norm_groups:
            raise ValueError(f"norm_groups {self.norm_groups} does not divide half of width {self.width}")
        return self

    def build(self, recipe: Sections) -> Adversarial:
        """The method of a recipe."""
        return Adversarial(recipe, self)


@dataclass(frozen=True)
class Adversarial(OneStepMethod):
    """The :class:`~volgen.methods.Method` of a generator with critics.

    Attributes:
        config: sizes.
    """

    config: Config

    @property
    def multiple(self) -> int:
        """What edges have to be multiples of."""
        return SEED

    @property
    def numbers(self) -> int:
        """Numbers that a volume is made of."""
        return self.config.latent

    def make(self, *, training: bool) -> nn.Module:
        """The generator; with its critics if it is trained."""
        own = self.config
        generator = HierarchicalGenerator(self.shape, own.latent, own.width, own.norm_groups)
        return Adversaries(generator, own.critic_width, own.slab) if training else generator

    def start_from(self, network: nn.Module, weights: Mapping[str, Tensor]) -> None:
        """Critics begin at random."""
        assert isinstance(network, Adversaries)
        network.generator.load_state_dict(weights)

    def release(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The generator without its critics."""
        return {name.removeprefix(GENERATOR): tensor for name, tensor in state.items() if name.startswith(GENERATOR)}

    def objective(self, phase: Phase, fitted: Fitted, sigma: Callable[[float], float] | None = None) -> Objective:
        """The game; without gradients, the energy score."""
        return _Game(self.config.latent)


@dataclass(frozen=True)
class _Game:
    """An :class:`~volgen.training.objective.Objective`: what critics lose in training, and how far volumes are from people elsewhere."""

    latent: int

    def loss(self, network: Network, examples: Examples, draws: Draws, ids: Sequence[str] = ()) -> Tensor:
        x_BCXYZ = examples.x_BCXYZ
        none_B = x_BCXYZ.new_zeros(len(x_BCXYZ))

        def latent(purpose: str) -> Tensor:
            return draws.normal((1, self.latent, 1, 1), purpose).to(x_BCXYZ.device)

        if torch.is_grad_enabled():
            place_B = torch.tensor(draws.quantiles("slab"), device=x_BCXYZ.device)
            return network(latent("latent"), none_B, real=x_BCXYZ, place=place_B)
        return energy_score(x_BCXYZ, [network(latent(purpose), none_B) for purpose in ("latent", "another")])
