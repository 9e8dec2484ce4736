"""What methods share that work on voxels as they are: no network has to be trained before what is fitted is fitted."""

from __future__ import annotations

import torch

from volgen.core.protocols import Shape3
from volgen.experts.plan import Phase
from volgen.methods import Sections, Weights
from volgen.models.space import VOXELS, Domain


class OfVolumes:
    """The part of a :class:`~volgen.methods.Method` that says where its denoisers work."""

    recipe: Sections

    @property
    def grid(self) -> Shape3:
        """Voxels of a volume."""
        return self.recipe.data.grid

    @property
    def example(self) -> Shape3:
        """What goes through the network at once."""
        return self.recipe.piece

    @property
    def needs(self) -> tuple[str, ...]:
        """No network comes before the others."""
        return ()

    @property
    def every_step(self) -> bool:
        """Whether all steps have to be taken: a denoiser expects a clean volume at any noise level, so the last may be left out."""
        return False

    def space(self, weights: Weights | None, device: torch.device) -> Domain:
        """Volumes as they are."""
        return VOXELS

    def passes(self, phase: Phase, loss: float | None) -> None:
        """Nothing is asked of a network that others start from."""
