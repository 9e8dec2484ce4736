"""The 3D U-Net of MONAI (``DiffusionModelUNet``): the field's common baseline, at full resolution."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Annotated, ClassVar, Literal, Self

import numpy as np
import torch
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from volgen.core.config import Config as BaseConfig
from volgen.core.limits import MAX_BLOCKS, MAX_LEVELS, MAX_WIDTH
from volgen.core.noise import sigma_of_alpha_bar
from volgen.core.protocols import Shape3
from volgen.models.convolution import wrong_in_bf16

Width = Annotated[int, Field(ge=1, le=MAX_WIDTH)]
EMBEDDING_SCALE = 100.0
"""MONAI's sinusoidal embedding expects timesteps of order 0 ... 1000; log(sigma) / 4 is of order -1 ... 1."""
STEPS = 1000
"""Timesteps of DDPM, and of MONAI's scheduler."""


class Config(BaseConfig):
    """Ho et al. 2020's U-Net in three dimensions, with optional self-attention."""

    kind: Literal["unet3d"] = "unet3d"
    patients_apart: ClassVar[bool] = True
    of_monai: ClassVar[bool] = True
    """Whether it is a network of MONAI, whose weights it takes over as they are."""
    channels: tuple[Width, ...] = Field(default=(32, 64, 64), min_length=1, max_length=MAX_LEVELS)
    """Width of each resolution, finest first; each is halved once more than the one before."""
    attention: tuple[bool, ...] = (False, False, False)
    """Self-attention at each resolution; quadratic in voxels, so only for coarse ones."""
    residual_blocks: int = Field(default=1, ge=1, le=MAX_BLOCKS)
    """Residual blocks at each resolution."""
    head_channels: PositiveInt = 32
    """Channels of an attention head; must divide every width with attention, and the last width, whose middle block always has it."""
    norm_groups: PositiveInt = 16
    """Groups of the group normalisation; must divide every width."""
    timesteps: Literal["log_sigma", "linear_beta", "scaled_linear_beta"] = "log_sigma"
    """What it is told of a noise level: its logarithm; or the timestep, from 0 to 999, at which DDPM with MONAI's schedule of this name has
    it, for weights that were trained so (``start.kind: monai``), behind ``preconditioner.kind: epsilon``."""
    beta_start: float = Field(default=1e-4, gt=0.0, le=0.02)
    """First beta of that schedule."""
    beta_end: float = Field(default=0.02, gt=0.0, le=0.04)
    """Last beta of that schedule."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if len(self.attention) != len(self.channels):
            raise ValueError(f"attention has {len(self.attention)} entries for {len(self.channels)} resolutions")
        if any(width % self.norm_groups for width in self.channels):
            raise ValueError(f"norm_groups {self.norm_groups} does not divide every width of {list(self.channels)}")
        # MONAI's middle block, at the coarsest resolution, always has attention.
        attended = [width for width, attention in zip(self.channels, (*self.attention[:-1], True), strict=True) if attention]
        if any(width % self.head_channels for width in attended):
            raise ValueError(
                f"head_channels {self.head_channels} does not divide every width with attention, {attended} (the last always has)"
            )
        return self

    @property
    def local(self) -> bool:
        """Whether what it makes of a voxel depends on a neighbourhood of it alone: not, groups are normalised over volumes."""
        return False

    @property
    def placed(self) -> bool:
        """Whether it has to be told where voxels are: it need not."""
        return False

    @property
    def strides(self) -> Shape3:
        """What edges are multiples of."""
        return self.multiples

    @property
    def multiples(self) -> Shape3:
        """Each edge must halve at every resolution but the first."""
        edge = int(2 ** (len(self.channels) - 1))
        return edge, edge, edge

    def build(self, inputs: int, checkpointing: bool = False, outputs: int = 1) -> nn.Module:
        """The network with ``inputs`` input channels and ``outputs`` output channels."""
        return _UNet(self, inputs, checkpointing, outputs)

    def told(self, noise_B: Tensor) -> Tensor:
        """log(sigma) / 4 [B] -> what MONAI's embedding takes for a timestep [B]; a fraction of one between two timesteps."""
        if self.timesteps == "log_sigma":
            return noise_B * EMBEDDING_SCALE
        levels_T = torch.tensor(_levels(self.timesteps, self.beta_start, self.beta_end), device=noise_B.device)
        wanted_B = (4.0 * noise_B.float()).clamp(levels_T[0], levels_T[-1])
        above_B = torch.searchsorted(levels_T, wanted_B).clamp(1, len(levels_T) - 1)
        low_B, high_B = levels_T[above_B - 1], levels_T[above_B]
        return above_B - 1 + (wanted_B - low_B) / (high_B - low_B)


class _UNet(nn.Module):
    def __init__(self, config: Config, inputs: int, checkpointing: bool, outputs: int) -> None:
        super().__init__()
        # Imported here: it takes seconds, and every command reads this file's Config.
        from monai.networks.nets import DiffusionModelUNet

        self.checkpointing, self.levels, self._told = checkpointing, len(config.channels), config.told
        self.net = DiffusionModelUNet(
            spatial_dims=3, in_channels=inputs, out_channels=outputs, num_res_blocks=config.residual_blocks, channels=config.channels,
            attention_levels=config.attention, norm_num_groups=config.norm_groups, num_head_channels=config.head_channels,
        )  # fmt: skip

    def forward(self, x_BCXYZ: Tensor, noise_B: Tensor) -> Tensor:
        """[B, inputs, X, Y, Z] and log(sigma) / 4 [B] -> [B, outputs, X, Y, Z]."""
        timesteps = self._told(noise_B)
        wrong = any(wrong_in_bf16(x_BCXYZ, [edge >> level for edge in x_BCXYZ.shape[2:]]) for level in range(self.levels))
        if wrong and all(parameter.dtype == torch.float32 for parameter in self.net.parameters()):  # bf16 weights are not trained
            with torch.autocast("cpu", enabled=False):
                return self._run(x_BCXYZ.float(), timesteps.float())
        return self._run(x_BCXYZ, timesteps)

    def _run(self, x_BCXYZ: Tensor, timesteps_B: Tensor) -> Tensor:
        if self.checkpointing and torch.is_grad_enabled():
            return checkpoint(self.net, x_BCXYZ, timesteps_B, use_reentrant=False)  # type: ignore[no-any-return]
        return self.net(x_BCXYZ, timesteps_B)  # type: ignore[no-any-return]


@lru_cache(maxsize=8)
def _levels(schedule: str, beta_start: float, beta_end: float) -> list[float]:
    """log(sigma) of each timestep of one of MONAI's schedules."""
    root = 2.0 if schedule == "scaled_linear_beta" else 1.0
    betas = np.linspace(beta_start ** (1 / root), beta_end ** (1 / root), STEPS) ** root
    return [math.log(sigma_of_alpha_bar(math.exp(value))) for value in np.cumsum(np.log1p(-betas))]
