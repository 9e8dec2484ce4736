"""Denoisers that share the noise axis (Karras et al. 2022): a network for each span of it, made one denoiser by a preconditioner."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import nn

from volgen.core.config import Config as BaseConfig
from volgen.core.protocols import Denoiser
from volgen.experts.plan import Phase
from volgen.methods import Fitted, Sections
from volgen.methods._bank import Bank, Trained
from volgen.models.denoiser import Preconditioner
from volgen.training.objective import Objective


class Config(BaseConfig):
    """A bank of denoisers of volumes, or of pieces of volumes. The default."""

    kind: Literal["diffusion"] = "diffusion"
    patients_apart: ClassVar[bool] = True

    def build(self, recipe: Sections) -> Diffusion:
        """The method of a recipe."""
        return Diffusion(recipe)


@dataclass(frozen=True)
class Diffusion(Bank):
    """The :class:`~volgen.methods.Method` of diffusion models."""

    def check(self) -> None:
        """Makes sure that the objective trains denoisers.

        Raises:
            ValueError: it does not.
        """
        if getattr(self.recipe.objective, "jumps", False):
            found = f"objective.kind '{self.recipe.objective.kind}' trains networks that jump"
            raise ValueError(f"{found}, but method.kind 'diffusion' has denoisers: set method.kind jump")

    def objective(self, phase: Phase, fitted: Fitted, sigma: Callable[[float], float] | None = None) -> Objective:
        """The loss of the recipe's objective at the noise levels of a phase."""
        return self.trained_by(Trained(self.recipe, phase, fitted, sigma))

    def denoiser(self, network: nn.Module, preconditioner: Preconditioner) -> Denoiser:
        """The network inside the preconditioner, at the level and with the view of its experts."""
        return self.recipe.model.denoiser(self.forward(network), preconditioner)

    def corner(self, network: nn.Module, preconditioner: Preconditioner) -> Denoiser:
        """The network inside the preconditioner of its level's corners."""
        return self.recipe.model.corner(self.forward(network), preconditioner)
