"""A U-Net on orthonormal Haar coefficients: 256^3 x 1 becomes 128^3 x 8 without loss, and the cost falls with it.

Working on wavelet coefficients follows WDM (Friedrich et al. 2024) and Wavelet Diffusion Models (Phung et al. 2023).
"""

from __future__ import annotations

import math
from typing import Literal, Self

import torch
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from volgen.core.config import Config as BaseConfig
from volgen.models.haar import analyse, low_pass, synthesise

FREQUENCIES = 16


class Config(BaseConfig):
    """Residual U-Net with group normalisation and noise-dependent scale and shift (FiLM) in every block."""

    kind: Literal["wavelet_unet3d"] = "wavelet_unet3d"
    haar_levels: PositiveInt = 1
    """Full Haar levels in front of the network: each divides the edges by 2 and multiplies the channels by 8."""
    channels: tuple[PositiveInt, ...] = (32, 64, 96)
    """Width of each resolution, finest first; each next one has half the edge."""
    residual_blocks: PositiveInt = 1
    """Residual blocks at each resolution, on the way down and again on the way up."""
    norm_groups: PositiveInt = Field(default=8)
    """Groups of the group normalisation; must divide every width."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if any(width % self.norm_groups for width in self.channels):
            raise ValueError(f"norm_groups {self.norm_groups} does not divide every width of {list(self.channels)}")
        return self

    @property
    def multiple(self) -> int:
        """Edges must divide by 2 for every Haar level; odd edges further down are padded."""
        return int(2**self.haar_levels)

    def build(self, inputs: int, checkpointing: bool = False) -> nn.Module:
        """The network with ``inputs`` input channels and one output channel."""
        return _WaveletUNet(self, inputs, checkpointing)


class _WaveletUNet(nn.Module):
    def __init__(self, config: Config, inputs: int, checkpointing: bool) -> None:
        super().__init__()
        self.haar_levels = config.haar_levels
        self.checkpointing = checkpointing
        bands, widths, groups = 8**config.haar_levels, config.channels, config.norm_groups
        embedding = 4 * widths[0]
        # Names with "embed" keep a matrix out of Muon: the layers at the borders of a network belong to AdamW.
        self.embed_noise = _NoiseEmbedding(embedding)
        self.embed_volume = _Conv(bands * inputs, widths[0])
        self.down, self.shrink, self.up = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        for level, width in enumerate(widths):
            if level:
                self.shrink.append(_Conv(widths[level - 1], width, stride=2))
            self.down.append(nn.ModuleList(_Block(width, width, embedding, groups) for _ in range(config.residual_blocks)))
        for level in reversed(range(len(widths))):
            below = widths[min(level + 1, len(widths) - 1)]
            width = widths[level]
            blocks = [_Block(below + width if index == 0 else width, width, embedding, groups) for index in range(config.residual_blocks)]
            self.up.append(nn.ModuleList(blocks))
        self.middle = _Block(widths[-1], widths[-1], embedding, groups)
        self.last_norm = nn.GroupNorm(groups, widths[0])
        # An untrained network returns 0, so that the denoiser starts as its skip path.
        self.unembed_volume = _Conv(widths[0], bands, zero=True)

    def forward(self, x_BCXYZ: Tensor, noise_B: Tensor) -> Tensor:
        """[B, inputs, X, Y, Z] and log(sigma) / 4 [B] -> [B, 1, X, Y, Z]."""
        h = x_BCXYZ
        for _ in range(self.haar_levels):
            h = analyse(h)
        embedding = self.embed_noise(noise_B).to(h.dtype)
        h = self.embed_volume(h)
        skips = []
        for level, blocks in enumerate(self.down):
            if level:
                h = self.shrink[level - 1](h)
            for block in blocks:  # type: ignore[attr-defined]
                h = self._run(block, h, embedding)
            skips.append(h)
        h = self._run(self.middle, h, embedding)
        for blocks in self.up:
            skip = skips.pop()
            if h.shape[2:] != skip.shape[2:]:
                h = functional.interpolate(h, scale_factor=2.0, mode="nearest")[low_pass(skip.shape[2:], 0)]
            h = torch.cat([h, skip], dim=1)
            for block in blocks:  # type: ignore[attr-defined]
                h = self._run(block, h, embedding)
        h = self.unembed_volume(functional.silu(self.last_norm(h)))
        for _ in range(self.haar_levels):
            h = synthesise(h)
        return h

    def _run(self, block: nn.Module, h: Tensor, embedding: Tensor) -> Tensor:
        if self.checkpointing and torch.is_grad_enabled():
            return checkpoint(block, h, embedding, use_reentrant=False)  # type: ignore[no-any-return]
        return block(h, embedding)  # type: ignore[no-any-return]


class _Conv(nn.Module):
    """A convolution with zero padding whose weight is a matrix [out, in * size^3]: what Muon, which orthogonalises updates, needs."""

    def __init__(self, inputs: int, outputs: int, size: int = 3, stride: int = 1, zero: bool = False) -> None:
        super().__init__()
        self.shape, self.stride = (outputs, inputs, size, size, size), stride
        bound = 0.0 if zero else 1.0 / math.sqrt(inputs * size**3)
        self.weight = nn.Parameter(torch.empty(outputs, inputs * size**3).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x_BCXYZ: Tensor) -> Tensor:
        return functional.conv3d(x_BCXYZ, self.weight.view(self.shape), self.bias, self.stride, self.shape[-1] // 2)


class _Block(nn.Module):
    """norm - SiLU - conv - norm - FiLM - SiLU - conv, with a residual path."""

    def __init__(self, inputs: int, outputs: int, embedding: int, groups: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(math.gcd(groups, inputs), inputs)
        self.conv1 = _Conv(inputs, outputs)
        self.film = nn.Linear(embedding, 2 * outputs)
        self.norm2 = nn.GroupNorm(groups, outputs)
        # Blocks start as their residual path; training is then faster from the first step.
        self.conv2 = _Conv(outputs, outputs, zero=True)
        self.skip = _Conv(inputs, outputs, size=1) if inputs != outputs else nn.Identity()

    def forward(self, x_BCXYZ: Tensor, embedding_BE: Tensor) -> Tensor:
        h = self.conv1(functional.silu(self.norm1(x_BCXYZ)))
        scale, shift = self.film(embedding_BE)[:, :, None, None, None].chunk(2, dim=1)
        h = self.conv2(functional.silu(self.norm2(h) * (1 + scale) + shift))
        return self.skip(x_BCXYZ) + h  # type: ignore[no-any-return]


class _NoiseEmbedding(nn.Module):
    """Fixed Fourier features of log(sigma) / 4 and a two-layer perceptron."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(2 * FREQUENCIES, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU())

    def forward(self, noise_B: Tensor) -> Tensor:
        # Periods from 4 (the whole axis of noise levels) down to 1/4.
        frequencies = 2 * math.pi * torch.logspace(-2, 2, FREQUENCIES, base=2.0, device=noise_B.device)
        angles = noise_B.float()[:, None] * frequencies
        return self.layers(torch.cat([angles.sin(), angles.cos()], dim=1))  # type: ignore[no-any-return]
