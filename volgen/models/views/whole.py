"""All of the volume goes through the network at once: nothing to cut, nothing to put together."""

from __future__ import annotations

from typing import Literal

from volgen.core.config import Config as BaseConfig
from volgen.core.protocols import Cut, Denoiser, Shape3
from volgen.models.denoiser import Network, PreconditionedDenoiser, Preconditioner, PreconditionerConfig


class Config(BaseConfig):
    """A volume of the level goes through the network as a whole, in training and in sampling."""

    kind: Literal["whole"] = "whole"

    @property
    def known(self) -> int:
        """Nothing is known beside a whole volume."""
        return 0

    @property
    def anywhere(self) -> bool:
        """Whether any piece of a volume can be denoised: it can, a piece goes through the network like a volume."""
        return True

    def inputs(self, preconditioner: PreconditionerConfig) -> int:
        """What the preconditioner makes."""
        return preconditioner.inputs

    def piece(self, shape: Shape3) -> Shape3:
        """The volume's shape."""
        return shape

    def examples(self, shape: Shape3) -> int:
        """There is one whole."""
        return 1

    def cut(self, cut: Cut) -> Cut:
        """What the assembly makes, as it is."""
        return cut

    def within(self, preconditioner: Preconditioner) -> Preconditioner:
        """The preconditioner of whole volumes."""
        return preconditioner

    def denoiser(self, network: Network, preconditioner: Preconditioner) -> Denoiser:
        """The network behind its preconditioner."""
        return PreconditionedDenoiser(network, preconditioner)
