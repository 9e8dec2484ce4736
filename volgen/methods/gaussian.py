"""The Gaussian that a preconditioner fits to the cohort, as a generator of its own: the baseline that a network has to beat.

One number is learnt for each expert, by the objective like any network: how much wider people spread than the fit says, t. The denoiser of
N(m, t^2 C) is that of N(m, C) at noise s / t; untrained, with t = 1, it is the fitted Gaussian.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from volgen.core.config import Config as BaseConfig
from volgen.core.given import NOTHING, Given
from volgen.core.protocols import Denoiser
from volgen.experts.plan import Phase
from volgen.methods import Fitted, Sections
from volgen.methods._bank import Bank, Trained
from volgen.models.denoiser import Network, Preconditioner
from volgen.training.objective import Objective


class Config(BaseConfig):
    """The fitted Gaussian without a network; ``network``, ``view`` and ``adapter`` are not asked."""

    kind: Literal["gaussian"] = "gaussian"
    patients_apart: ClassVar[bool] = False

    def build(self, recipe: Sections) -> FittedGaussian:
        """The method of a recipe."""
        return FittedGaussian(recipe)


class SpreadOfPeople(nn.Module):
    """How much wider people spread than the fit says: one number, 1 before it is trained."""

    def __init__(self) -> None:
        super().__init__()
        self.logarithm = nn.Parameter(torch.zeros(1))

    def forward(self, input_BCXYZ: Tensor, noise_B: Tensor) -> Tensor:
        """The number, for each example [B]."""
        return self.logarithm.exp().expand(len(noise_B))


@dataclass(frozen=True)
class SpreadDenoiser:
    """A :class:`~volgen.core.protocols.Weighted` denoiser: the Gaussian's, of people who spread wider.

    Attributes:
        network: gives the spread.
        preconditioner: has the Gaussian.
    """

    network: Network
    preconditioner: Preconditioner

    def __call__(self, y_BCXYZ: Tensor, sigma_B: Tensor, given: Given = NOTHING) -> Tensor:
        """Returns the expected volume x0_BCXYZ."""
        return self.preconditioner.told(given).expected(y_BCXYZ, sigma_B / self.network(y_BCXYZ, sigma_B).float())

    def weight(self, sigma_B: Tensor) -> Tensor:
        """The preconditioner's loss weight [B]."""
        return self.preconditioner.weight(sigma_B)


@dataclass(frozen=True)
class FittedGaussian(Bank):
    """The :class:`~volgen.methods.Method` of the fitted Gaussian."""

    def check(self) -> None:
        """Makes sure that something is fitted, and that nothing else is asked for.

        Raises:
            ValueError: nothing is, or something is.
        """
        recipe = self.recipe
        if not recipe.preconditioner.fitted:
            found = f"preconditioner.kind '{recipe.preconditioner.kind}' is fitted to nobody"
            raise ValueError(f"method.kind 'gaussian' is the Gaussian of a cohort, but {found}: use gaussian")
        if getattr(recipe.objective, "jumps", False):
            raise ValueError(f"objective.kind '{recipe.objective.kind}' trains networks that jump: use denoising")
        if recipe.known or recipe.model.level or recipe.piece != recipe.data.grid:
            raise ValueError("method.kind 'gaussian' is of whole volumes: no levels, pieces or places")
        if recipe.conditions and not recipe.preconditioner.told:
            raise ValueError("method.kind 'gaussian' has no network that could be told conditions: set preconditioner.told")
        if texts := [condition.name for condition in recipe.conditions if condition.classes is None]:
            raise ValueError(f"method.kind 'gaussian' has no network that could be told {texts[0]}: leave that condition out")
        if recipe.model.mirrored:
            raise ValueError("method.kind 'gaussian' asks no network from both sides: leave mirrored out, or set preconditioner.mirrored")

    @property
    def inputs(self) -> int:
        """Channels of the network: the noisy volume."""
        return 1

    def network(self, phase: Phase, weights: Mapping[str, Tensor] | None = None) -> nn.Module:
        """The number of an expert; 1, or as it is released."""
        spread = SpreadOfPeople()
        if weights is not None:
            spread.load_state_dict(weights)
        return spread

    def release(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The number as it is."""
        return dict(state)

    def released(self, phase: Phase) -> nn.Module:
        """The number of an expert."""
        return SpreadOfPeople()

    def objective(self, phase: Phase, fitted: Fitted, sigma: Callable[[float], float] | None = None) -> Objective:
        """The loss of the recipe's objective at the noise levels of a phase."""
        return self.recipe.objective.build(_SpreadTrainee(self.recipe, phase, fitted, sigma))

    def denoiser(self, network: nn.Module, preconditioner: Preconditioner) -> Denoiser:
        """The denoiser of the Gaussian with an expert's spread."""
        return SpreadDenoiser(self.forward(network), preconditioner)

    def corner(self, network: nn.Module, preconditioner: Preconditioner) -> Denoiser:
        """The same: there are no corners of whole volumes."""
        return self.denoiser(network, preconditioner)


class _SpreadTrainee(Trained):
    """The :class:`~volgen.training.objective.Trainee` of one expert's number."""

    def denoiser(self, network: Network, ids: Sequence[str] = ()) -> SpreadDenoiser:
        return SpreadDenoiser(network, self.fitted.without(ids))
