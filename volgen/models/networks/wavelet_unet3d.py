"""A U-Net on orthonormal Haar coefficients: 256^3 x 1 becomes 128^3 x 8 without loss, and the cost falls with it.

Working on wavelet coefficients follows WDM (Friedrich et al. 2024) and Wavelet Diffusion Models (Phung et al. 2023).
"""

from __future__ import annotations

from typing import ClassVar, Literal

from torch import Tensor, nn

from volgen.core.protocols import Shape3
from volgen.models.haar import analyse, synthesise
from volgen.models.networks._residual_unet import ResidualUNet, ResidualUNetConfig, beside


class Config(ResidualUNetConfig):
    """Residual U-Net with group normalisation and noise-dependent scale and shift (FiLM) in every block."""

    kind: Literal["wavelet_unet3d"] = "wavelet_unet3d"
    patients_apart: ClassVar[bool] = True

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
        super().__init__(3, bands * inputs, bands * outputs, config, checkpointing)
        self.haar_levels = config.haar_levels

    def forward(self, x_BCXYZ: Tensor, noise_B: Tensor, told_BE: Tensor | None = None) -> Tensor:
        """[B, inputs, X, Y, Z], log(sigma) / 4 [B] and an embedding of what is told -> [B, outputs, X, Y, Z]."""
        h = x_BCXYZ
        for _ in range(self.haar_levels):
            h = analyse(h)
        h = super().forward(h, beside(self.embed_noise(noise_B), told_BE))
        for _ in range(self.haar_levels):
            h = synthesise(h)
        return h
