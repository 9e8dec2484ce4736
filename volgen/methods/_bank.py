"""What methods share whose networks each own a span of noise levels: networks, adapters, phases, and who is trained where."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from volgen.core.errors import UserError
from volgen.core.given import NOTHING, Examples, Given
from volgen.core.noise import choose
from volgen.core.protocols import Sampler, Weighted
from volgen.core.rng import seeded
from volgen.experts.plan import Phase, plan
from volgen.methods import Fitted, Sections
from volgen.methods._volumes import OfVolumes
from volgen.models.condition import conditioned, embedded, take_over
from volgen.models.denoiser import Network
from volgen.models.dropout import dropping, features_kept
from volgen.parallel.precision import InPrecision
from volgen.training.objective import Draws, Objective


@dataclass(frozen=True)
class Bank(OfVolumes):
    """The half of a :class:`~volgen.methods.Method` that does not depend on what networks learn.

    Attributes:
        recipe: its sections.
    """

    recipe: Sections

    @property
    def inputs(self) -> int:
        """Input channels of the network: the preconditioner's, and what is known beside a piece."""
        return self.recipe.model.inputs(self.recipe.preconditioner) + self.recipe.known

    def examples(self, count: int, make: Callable[..., Tensor] = torch.zeros) -> Examples:
        """Made-up pieces of volumes, with what is known beside them and what is told."""
        piece, known = self.example, self.recipe.known
        states = getattr(self.recipe.objective, "states", None)
        x_BCXYZ = make(count, states(self.recipe.model.level) if states else 1, *piece)
        channels = make(count, known, *piece) if known else None
        told = {condition.name: make(count, *condition.edges) for condition in embedded(self.recipe.conditions)}
        return Examples(x_BCXYZ, Given(channels, values=told) if known or told else NOTHING)

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
            take_over(network, weights)
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

    def settled(
        self, phase: Phase, state: Mapping[str, Tensor], volumes: Callable[[], Iterable[Tensor]], device: torch.device
    ) -> dict[str, Tensor] | None:
        """Nothing is fitted after training."""
        return None

    def released(self, phase: Phase) -> nn.Module:
        """The network of an expert without adapter."""
        return self._plain()

    def forward(self, network: nn.Module) -> Network:
        """The network under autocast, if it is trained in bf16."""
        return InPrecision(network, self.recipe.engine)

    def visits(self, grid: Sequence[float], steps: int | None, below: float = math.inf) -> list[float]:
        """Points of the grid, evenly by index, both ends kept.

        Raises:
            UserError: there are fewer.
        """
        points = [sigma for sigma in grid if sigma <= below]
        try:
            return choose(points, steps)
        except ValueError as error:
            if len(points) < 2 <= len(grid):
                raise UserError("--sketch-sigma", f"leaves {len(points)} of the run's noise levels", "more noise, or no --steps") from None
            expected = f"from 2 to {len(points)}: the experts were trained at these noise levels only"
            raise UserError("--steps", str(error), expected) from None

    def fits(self, sampler: Sampler, grid: Sequence[float], *, guided: bool = False, voxels: bool = False) -> None:
        """Denoisers go with any solver."""

    def trained_by(self, trainee: Trained) -> Objective:
        """The loss of the recipe's objective of what is trained."""
        objective = self.recipe.objective.build(trainee)
        features, chance = (getattr(self.recipe.network, key, 0) for key in ("features", "dropout"))
        return _Dropping(objective, features, chance) if chance else objective

    def _plain(self, checkpointing: bool = False) -> nn.Module:
        network = self.recipe.network.build(inputs=self.inputs, checkpointing=checkpointing)
        return conditioned(network, embedded(self.recipe.conditions), getattr(self.recipe.network, "embedding", 0))


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


class Trained:
    """A :class:`~volgen.training.objective.Trainee`: noise levels and denoiser are those of the level at which an expert works."""

    def __init__(self, recipe: Sections, phase: Phase, fitted: Fitted, sigma: Callable[[float], float] | None) -> None:
        self.recipe, self._phase, self._own = recipe, phase, sigma
        self.fitted = Fitted(fitted.preconditioner.coarse(recipe.model.level), fitted.numbers)

    @property
    def points(self) -> Sequence[float]:
        return [self.recipe.model.sigma(point) for point in self._phase.points]

    def sigma(self, quantile: float) -> float:
        full = self._own(quantile) if self._own else self._phase.sigma(quantile, self.recipe.experts.on_grid)
        return self.recipe.model.sigma(full)

    def denoiser(self, network: Network, ids: Sequence[str] = ()) -> Weighted:
        return self.recipe.model.of_examples(network, self.fitted.without(ids))
