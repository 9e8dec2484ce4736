"""A 2D U-Net over all slices of a volume together, each seeing its noisy neighbours: "2.5D", and an ordinary volume denoiser.

All slices share one noise level and one step of the solver, so nothing drifts along the stack, and the network's cost and memory are
those of 2D convolutions.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from torch import nn

from volgen.core.protocols import Axis, Shape3
from volgen.models.networks._slices import SliceConfig, Slices


class Config(SliceConfig):
    """Residual 2D U-Net on Haar coefficients of slices; ``neighbours: 0`` makes independent slices, which do not form a volume."""

    kind: Literal["slice_unet2d"] = "slice_unet2d"
    patients_apart: ClassVar[bool] = True
    axis: Axis = "S"
    """Across which axis the slices lie: R sagittal, A coronal, S axial."""

    @property
    def multiples(self) -> Shape3:
        """The two edges of a slice must divide by 2 for every Haar level; there can be any number of slices."""
        return self.multiples_across((self.axis,))

    def build(self, inputs: int, checkpointing: bool = False, outputs: int = 1) -> nn.Module:
        """The network with ``inputs`` input channels and ``outputs`` output channels."""
        return Slices(self, self.axis, inputs, checkpointing, outputs)
