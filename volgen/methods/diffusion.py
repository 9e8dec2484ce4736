"""Denoisers that share the noise axis (Karras et al. 2022): a network for each span of it, made one denoiser by a preconditioner."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from volgen.core.config import Config as BaseConfig
from volgen.core.errors import UserError
from volgen.core.given import NOTHING, Examples, Given
from volgen.core.protocols import Denoiser, Weighted
from volgen.core.rng import seeded
from volgen.experts.plan import Phase, plan
from volgen.methods import Fitted, Sections
from volgen.models.condition import conditioned
from volgen.models.denoiser import Network, Preconditioner
from volgen.models.dropout import dropping, features_kept
from volgen.parallel.precision import InPrecision
from volgen.training.objective import Draws, Objective


class Config(BaseConfig):
    """A bank of denoisers of volumes, or of pieces of volumes. The default."""

    kind: Literal["diffusion"] = "diffusion"

    def build(self, recipe: Sections) -> Diffusion:
        """The method of a recipe."""
        return Diffusion(recipe)


@dataclass(frozen=True)
class Diffusion:
    """The :class:`~volgen.methods.Method` of diffusion models.

    Attributes:
        recipe: its sections.
    """

    recipe: Sections

    @property
    def inputs(self) -> int:
        """Input channels of the network: the preconditioner's, and what is known beside a piece."""
        return self.recipe.model.inputs(self.recipe.preconditioner) + self.recipe.known

    def examples(self, count: int, make: Callable[..., Tensor] = torch.zeros) -> Examples:
        """Made-up pieces of volumes, with what is known beside them."""
        piece, known = self.recipe.piece, self.recipe.known
        return Examples(make(count, 1, *piece), Given(make(count, known, *piece)) if known else NOTHING)

    def phases(self) -> list[Phase]:
        """The shared network, if there is one, and every expert."""
        return plan(self.recipe.experts, self.recipe.schedule.grid())

    def network(self, phase: Phase, weights: Mapping[str, Tensor] | None = None) -> nn.Module:
        """The network of an expert with the adapter attached.

        Raises:
            UserError: the network has nothing that the adapter could train.
        """
        recipe = self.recipe
        with seeded(recipe.seed, "weights", phase.name):
            network = self._plain(recipe.engine.activation_checkpointing)
        if weights is not None:
            network.load_state_dict(weights)
        with seeded(recipe.seed, "adapter", phase.name):
            try:
                recipe.adapter.attach(network)
            except ValueError as error:
                found = f"{error} that adapter.kind '{recipe.adapter.kind}' could train"
                raise UserError("network", found, "another adapter.kind", "use all or lora") from None
        return network

    def release(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The adapter's changes become part of the weights."""
        return self.recipe.adapter.merge(state)

    def released(self, phase: Phase) -> nn.Module:
        """The network of an expert without adapter."""
        return self._plain()

    def forward(self, network: nn.Module) -> Network:
        """The network under autocast, if it is trained in bf16."""
        return InPrecision(network, self.recipe.engine)

    def objective(self, phase: Phase, fitted: Fitted, sigma: Callable[[float], float] | None = None) -> Objective:
        """The loss of the recipe's objective at the noise levels of a phase."""
        objective = self.recipe.objective.build(_Trainee(self.recipe, phase, fitted, sigma))
        features, chance = (getattr(self.recipe.network, key, 0) for key in ("features", "dropout"))
        return _Dropping(objective, features, chance) if chance else objective

    def denoiser(self, network: nn.Module, preconditioner: Preconditioner) -> Denoiser:
        """The network inside the preconditioner, at the level and with the view of its experts."""
        return self.recipe.model.denoiser(self.forward(network), preconditioner)

    def corner(self, network: nn.Module, preconditioner: Preconditioner) -> Denoiser:
        """The network inside the preconditioner of its level's corners."""
        return self.recipe.model.corner(self.forward(network), preconditioner)

    def _plain(self, checkpointing: bool = False) -> nn.Module:
        network = self.recipe.network.build(inputs=self.inputs, checkpointing=checkpointing)
        return conditioned(network, self.recipe.conditions, getattr(self.recipe.network, "embedding", 0))


@dataclass(frozen=True)
class _Dropping:
    """An :class:`~volgen.training.objective.Objective` of a network that leaves out features in training.

    Attributes:
        objective: the loss of one that does not.
        features: how many there are.
        chance: that one is left out.
    """

    objective: Objective
    features: int
    chance: float

    def loss(self, network: Network, examples: Examples, draws: Draws, ids: Sequence[str] = ()) -> Tensor:
        """The loss [B]; which features are kept follows from an example's own draws."""
        kept_BK = features_kept(draws.normal((self.features,), "dropout"), self.chance)
        return self.objective.loss(dropping(network, kept_BK), examples, draws, ids)


class _Trainee:
    """A :class:`~volgen.training.objective.Trainee`: noise levels and denoiser are those of the level at which an expert works."""

    def __init__(self, recipe: Sections, phase: Phase, fitted: Fitted, sigma: Callable[[float], float] | None) -> None:
        self._recipe, self._phase, self._own = recipe, phase, sigma
        self._fitted = Fitted(fitted.preconditioner.coarse(recipe.model.level), fitted.numbers)

    @property
    def points(self) -> Sequence[float]:
        return [self._recipe.model.sigma(point) for point in self._phase.points]

    def sigma(self, quantile: float) -> float:
        full = self._own(quantile) if self._own else self._phase.sigma(quantile, self._recipe.experts.on_grid)
        return self._recipe.model.sigma(full)

    def denoiser(self, network: Network, ids: Sequence[str] = ()) -> Weighted:
        return self._recipe.model.of_examples(network, self._fitted.without(ids))
