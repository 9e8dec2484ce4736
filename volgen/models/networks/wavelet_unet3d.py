"""A U-Net on orthonormal Haar coefficients: 256^3 x 1 becomes 128^3 x 8 without loss, and the cost falls with it.

Working on wavelet coefficients follows WDM (Friedrich et al. 2024) and Wavelet Diffusion Models (Phung et al. 2023).
"""

from __future__ import annotations

from typing import ClassVar, Literal

from torch import Tensor, nn

from volgen.core.protocols import Shape3
from volgen.models.haar import analyse, synthesise
from volgen.models.networks._place import PlaceConfig, Places
from volgen.models.networks._residual_unet import ResidualUNet, ResidualUNetConfig, beside
from volgen.models.place import PLACES


class Config(ResidualUNetConfig):
    """Residual U-Net with normalisation and noise-dependent scale and shift (FiLM) in every block."""

    kind: Literal["wavelet_unet3d"] = "wavelet_unet3d"
    patients_apart: ClassVar[bool] = True
    place: PlaceConfig | None = None
    """Features of places that it learns, in place of channels with coordinates among its inputs; needs a view that says where voxels
    are. None: coordinates, where a view has them, are inputs like others."""

    @property
    def local(self) -> bool:
        """Whether what it makes of a voxel depends on a neighbourhood of it alone: convolutions are all that it has over space."""
        return self.norm == "pixel"

    @property
    def placed(self) -> bool:
        """Whether it has to be told where voxels are."""
        return self.place is not None

    @property
    def strides(self) -> Shape3:
        """A Haar level and a coarser resolution each halve the edges."""
        edge = int(2 ** (self.haar_levels + len(self.channels) - 1))
        return edge, edge, edge

    @property
    def multiples(self) -> Shape3:
        """Edges must divide by 2 for every Haar level; odd edges further down are padded."""
        edge = int(2**self.haar_levels)
        return edge, edge, edge

    def build(self, inputs: int, checkpointing: bool = False, outputs: int = 1) -> nn.Module:
        """The network with ``inputs`` input channels and ``outputs`` output channels."""
        return _WaveletUNet(self, inputs, checkpointing, outputs)


class _WaveletUNet(ResidualUNet):
    def __init__(self, config: Config, inputs: int, checkpointing: bool, outputs: int) -> None:
        bands = 8**config.haar_levels
        super().__init__(3, bands * (inputs - PLACES * config.placed), bands * outputs, config, checkpointing)
        self.haar_levels = config.haar_levels
        self.embed_place = Places(config.channels[0], config.place, 2**config.haar_levels) if config.place else None

    def forward(self, x_BCXYZ: Tensor, noise_B: Tensor, told_BE: Tensor | None = None, kept_BK: Tensor | None = None) -> Tensor:
        """[B, inputs, X, Y, Z], log(sigma) / 4 [B] and an embedding of what is told -> [B, outputs, X, Y, Z]."""
        h, first = x_BCXYZ, None
        if self.embed_place is not None:
            h, first = x_BCXYZ[:, :-PLACES], self.embed_place(x_BCXYZ[:, -PLACES:])
        for _ in range(self.haar_levels):
            h = analyse(h)
        h = super().forward(h, beside(self.embed_noise(noise_B), told_BE), first, kept_BK)
        for _ in range(self.haar_levels):
            h = synthesise(h)
        return h
