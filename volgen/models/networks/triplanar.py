"""2D networks on perpendicular planes, blended into one volume denoiser.

TPDM (Lee et al. 2023, "Improving 3D imaging with pre-trained perpendicular 2D diffusion models") multiplies the densities of two 2D models,
which in the score is a weighted sum. Here the planes are trained together, so their weights, one for each noise level, are learnt.

Legend: P planes.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, field_validator
from torch import Tensor, nn

from volgen.core.protocols import Axis, Shape3
from volgen.models.networks._residual_unet import FourierEmbedding, beside
from volgen.models.networks._slices import SliceConfig, Slices


class Config(SliceConfig):
    """A :class:`~volgen.models.networks.slice_unet2d` for each plane, and weights that depend on the noise level."""

    kind: Literal["triplanar"] = "triplanar"
    patients_apart: ClassVar[bool] = True
    planes: tuple[Axis, ...] = Field(default=("R", "A", "S"), min_length=2)
    """Across which axes the slices of each 2D network lie: two or three different ones."""

    @field_validator("planes")
    @classmethod
    def _different(cls, planes: tuple[Axis, ...]) -> tuple[Axis, ...]:
        if len(set(planes)) != len(planes):
            raise ValueError(f"{list(planes)} names a plane twice")
        return planes

    @property
    def multiples(self) -> Shape3:
        """Every edge of a slice, of any plane, must divide by 2 for every Haar level."""
        return self.multiples_across(self.planes)

    def build(self, inputs: int, checkpointing: bool = False, outputs: int = 1) -> nn.Module:
        """The network with ``inputs`` input channels and ``outputs`` output channels."""
        return _Planes(self, inputs, checkpointing, outputs)


class _Planes(nn.Module):
    """sum_p w_p(noise) F_p(x, noise), with w a softmax that starts as the mean."""

    def __init__(self, config: Config, inputs: int, checkpointing: bool, outputs: int) -> None:
        super().__init__()
        self.outputs = outputs
        self.planes = nn.ModuleList(Slices(config, axis, inputs, checkpointing, outputs) for axis in config.planes)
        width = config.embedding
        self.embed_noise = FourierEmbedding(width)
        self.embed_weights = nn.Linear(width, len(config.planes))
        nn.init.zeros_(self.embed_weights.weight)
        nn.init.zeros_(self.embed_weights.bias)

    def forward(self, x_BCXYZ: Tensor, noise_B: Tensor, told_BE: Tensor | None = None, kept_BK: Tensor | None = None) -> Tensor:
        """[B, inputs, X, Y, Z], log(sigma) / 4 [B] and an embedding of what is told -> [B, outputs, X, Y, Z]."""
        weights_BP = self.embed_weights(beside(self.embed_noise(noise_B), told_BE).to(x_BCXYZ.dtype)).softmax(dim=1)
        result = x_BCXYZ.new_zeros(len(x_BCXYZ), self.outputs, *x_BCXYZ.shape[2:])
        for number, plane in enumerate(self.planes):
            result = result + weights_BP[:, number, None, None, None, None] * plane(x_BCXYZ, noise_B, told_BE, kept_BK)
        return result
