"""Experts that jump along the probability flow: students of few steps (Wang et al. 2024), and consistency models (Song et al. 2023)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import accumulate
from typing import ClassVar, Literal

import torch
from torch import nn

from volgen.core.config import Config as BaseConfig
from volgen.core.errors import UserError
from volgen.core.protocols import Denoiser, Sampler
from volgen.core.span import owner
from volgen.experts.plan import Phase
from volgen.methods import Fitted, Sections
from volgen.methods._bank import Bank, Trained
from volgen.models.denoiser import Network, Preconditioner
from volgen.models.haar import corner_scale
from volgen.models.jump import Jump, Jumping, ends
from volgen.models.model import sigma_of_means
from volgen.training.objective import Objective


class Config(BaseConfig):
    """Each expert takes volumes of its noise levels along the probability flow in one evaluation (:mod:`volgen.models.jump`)."""

    kind: Literal["jump"] = "jump"
    patients_apart: ClassVar[bool] = True
    to: Literal["next", "clean"] = "next"
    """Where jumps end: at the highest noise level of the expert below (at 0 for the lowest), so that a descent has one step for each
    expert and repeats its teacher's volumes (sampler ``euler``); or all at 0, as in consistency models, whose descents add noise
    again between steps (sampler ``renoise``) and may have any number of them."""

    def build(self, recipe: Sections) -> Jumpers:
        """The method of a recipe."""
        return Jumpers(recipe, self.to)


@dataclass(frozen=True)
class Jumpers(Bank):
    """The :class:`~volgen.methods.Method` of experts that jump.

    Attributes:
        to: where jumps end.
    """

    to: Literal["next", "clean"] = "next"

    def check(self) -> None:
        """Makes sure that there is something to jump along, and an objective that trains jumps.

        Raises:
            ValueError: there is not, or these parts of a recipe are not supported together yet.
        """
        recipe, asks = self.recipe, "method.kind 'jump'"
        if not getattr(recipe.objective, "jumps", False):
            found = f"objective.kind '{recipe.objective.kind}' trains denoisers"
            raise ValueError(f"{asks} has networks that jump, but {found}: set objective.kind consistency, or distilled")
        whole = recipe.model.piece(recipe.data.grid, recipe.preconditioner)
        if recipe.piece != whole:
            found = f"{list(recipe.piece)} voxels are denoised by themselves, not as part of {list(whole)}"
            raise ValueError(f"{asks} is of whole volumes so far, but {found}: use assembly.kind whole")
        with torch.device("meta"):
            flow = recipe.preconditioner.blank(recipe.data.grid, 2 * recipe.data.batch_size + 1).flow_map
        if flow is None:
            found = f"preconditioner.kind '{recipe.preconditioner.kind}' is the denoiser of no distribution of volumes"
            raise ValueError(f"{asks} needs a probability flow to jump along, but {found}: use gaussian, edm or v")
        if self.to == "clean" and recipe.experts.count > 1 and getattr(recipe.objective, "teaches_itself", False):
            found = f"objective.kind '{recipe.objective.kind}' compares a network with itself, and experts.count is {recipe.experts.count}"
            raise ValueError(f"method.to is clean: {found}, so that nobody knows what an expert's lowest level leads to: set it to 1")

    def end(self, sigma: float) -> float:
        """Where a jump from a noise level ends."""
        if self.to == "clean":
            return 0.0
        spans, tops = [phase.span for phase in self._experts], self._tops
        index = owner(spans, min(sigma, tops[-1]))
        return tops[index - 1] if index else 0.0

    def end_seen(self, sigma: float) -> float:
        """The same in the noise levels that an expert of a coarser level sees."""
        level = self.recipe.model.level
        return sigma_of_means(self.end(sigma * corner_scale(level)), level)

    def objective(self, phase: Phase, fitted: Fitted, sigma: Callable[[float], float] | None = None) -> Objective:
        """The loss of the recipe's objective at the noise levels of a phase."""
        return self.trained_by(_Jumper(self, phase, fitted, sigma))

    def denoiser(self, network: nn.Module, preconditioner: Preconditioner) -> Denoiser:
        """What makes straight steps jumps, at the noise levels from which the network jumps."""
        return self.recipe.model.denoiser(self.forward(network), self._jumping(preconditioner))

    def corner(self, network: nn.Module, preconditioner: Preconditioner) -> Denoiser:
        """The same of the corners that experts of a coarser level see, without the finer bands, which go with the Gaussian."""
        return self.recipe.model.corner(self.forward(network), self._jumping(preconditioner))

    def _jumping(self, preconditioner: Preconditioner) -> Preconditioner:
        return Jumping(preconditioner, ends(self.end))  # type: ignore[return-value]  # all that a denoiser is made with

    @property
    def every_step(self) -> bool:
        """Whether all jumps have to be taken: one that leads to the next noise level expects no clean volume."""
        return self.to == "next"

    def visits(self, grid: Sequence[float], steps: int | None, below: float = math.inf) -> list[float]:
        """The highest noise level of each expert; where jumps end at 0, those of as many equal parts of the grid, or of what is below.

        Raises:
            UserError: there are fewer.
        """
        points = sorted(grid)
        tops = [points[owned - 1] for owned in accumulate(len(phase.points) for phase in self._experts)]
        points, tops = ([sigma for sigma in each if sigma <= below] for each in (points, tops))
        count = len(tops)
        if not points or (self.to == "next" and not tops):
            expected = f"at least {min(self._tops if self.to == 'next' else grid):.4g}, where its last jump begins"
            raise UserError("--sketch-sigma", f"{below:g}", expected)
        if self.to == "next" and steps not in (None, count):
            found = f"{steps}, but the experts of this run jump from one to the next in {count} steps"
            raise UserError("--steps", found, f"{count}, or nothing", "a student of another number of steps is made by volgen distil")
        if steps is not None and not 1 <= steps <= len(points):
            raise UserError("--steps", f"{steps} steps cannot be chosen from a grid of {len(points)} points", f"from 1 to {len(points)}")
        if steps is None or self.to == "next":
            began = [] if self.to == "next" or points[-1] in tops else [points[-1]]
            return [*began, *tops[::-1]]
        return [points[round((number + 1) * len(points) / steps) - 1] for number in reversed(range(steps))]

    def fits(self, sampler: Sampler, grid: Sequence[float], *, guided: bool = False, voxels: bool = False) -> None:
        """Refuses solvers that would take what a jump returns for something else.

        Raises:
            UserError: this is one, or noise levels are left out.
        """
        if self.to == "next" and guided:
            found = "takes what the denoiser says for an expected volume, but the experts of this run jump to the next noise level"
            raise UserError("--guidance", found, "none, or the run that this student was made from")
        if self.to == "next" and not sampler.straight:
            raise UserError("--sampler", "takes no straight steps, but the experts of this run jump to the next", "--sampler euler")
        if self.to == "clean" and not sampler.renoises and len(grid) > 1:
            expected = "renoise, or a single step"
            raise UserError("--sampler", "goes on from an expected volume, but the experts of this run jump to a clean one", expected)
        own = self._tops[::-1][-len(grid) :]
        if self.to == "next" and not (
            len(own) == len(grid) and all(math.isclose(a, b, rel_tol=1e-4) for a, b in zip(own, grid, strict=True))
        ):
            raise UserError("--steps", f"leave {len(grid)} noise levels", f"{self.recipe.experts.count}, one for each expert")

    @cached_property
    def _experts(self) -> list[Phase]:
        """Phases of the experts, lowest noise first."""
        return sorted((phase for phase in self.phases() if phase.index is not None), key=lambda phase: phase.span.low)

    @cached_property
    def _tops(self) -> list[float]:
        return [phase.points[-1] for phase in self._experts]


class _Jumper(Trained):
    """A :class:`~volgen.training.objective.Jumper` of this method: what training asks of a network that jumps."""

    def __init__(self, method: Jumpers, phase: Phase, fitted: Fitted, sigma: Callable[[float], float] | None) -> None:
        super().__init__(method.recipe, phase, fitted, sigma)
        self._method = method

    def end(self, sigma: float) -> float:
        return self._method.end_seen(sigma)

    @property
    def level(self) -> int:
        return self.recipe.model.level

    def seen(self, sigma: float) -> float:
        return self.recipe.model.sigma(sigma)

    def jump(self, network: Network, ids: Sequence[str] = ()) -> Jump:
        return Jump(partial(self.recipe.model.of_examples, network), self.fitted.without(ids))
